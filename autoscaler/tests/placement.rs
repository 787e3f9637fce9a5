//! The scenarios under `placement/`: fleets over time as data, with the expected result of each phase.

mod fleet;

use std::collections::BTreeMap;
use std::path::Path;

use dormouse_autoscaler::{MoveReason, NodeId, NodeReport, PartId, PartReport, PlacementPolicy, ZoneId};
use serde::Deserialize;

use fleet::Fleet;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenario {
    about: String,
    #[serde(default)]
    policy: PlacementPolicy,
    phase: Vec<Phase>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Phase {
    seconds: u64,
    #[serde(default)]
    join: Vec<Join>,
    #[serde(default)]
    die: Vec<u32>,
    #[serde(default)]
    drain: Vec<u32>,
    /// Nodes that should not be emptied after all.
    #[serde(default)]
    keep: Vec<u32>,
    #[serde(default)]
    load: Vec<Load>,
    /// Databases that are deleted, the first and the last.
    remove: Option<[u64; 2]>,
    /// Awake parts have twice their load for this long, then their load, and so on.
    flap_seconds: Option<u64>,
    /// Nodes are drained as plans recommend, and stopped once they are empty, or kept if plans want more nodes again.
    #[serde(default)]
    shrinks: bool,
    #[serde(default)]
    moves_fail: bool,
    #[serde(default)]
    move_seconds: u64,
    #[serde(default)]
    expect: Expect,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Join {
    /// The first and the last.
    nodes: [u32; 2],
    zone: u16,
    memory_mib: u64,
    processors: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Load {
    /// The first and the last.
    databases: [u64; 2],
    #[serde(default = "one")]
    parts: u16,
    #[serde(default)]
    memory_mib: u64,
    #[serde(default)]
    busy: f64,
    #[serde(default)]
    asleep: bool,
    /// The owner of parts that are new.
    on: Option<u32>,
}

fn one() -> u16 {
    1
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    orphans: Option<Count>,
    drains: Option<Count>,
    spreads: Option<Count>,
    overloads: Option<Count>,
    balances: Option<Count>,
    reassigns: Option<Count>,
    /// The first move comes no sooner than this many seconds after the phase's start, the last within this many.
    first_move_after: Option<u64>,
    last_move_within: Option<u64>,
    /// At the end of the phase: the reasons why parts are unplaced, and how many are for each.
    unplaced: Option<BTreeMap<String, usize>>,
    /// The nodes that parts are stuck on.
    stuck: Option<Vec<u32>>,
    /// The recommended number of nodes.
    nodes: Option<Count>,
    /// The number of nodes that are alive.
    alive: Option<usize>,
    fullness_max: Option<f64>,
    /// The numbers of parts that a node owns, awake and asleep ones.
    #[serde(default)]
    owned: BTreeMap<String, [Count; 2]>,
    /// The most parts of one database in one zone, and on one node.
    together_max: Option<[usize; 2]>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Count {
    Exactly(usize),
    Between([usize; 2]),
}

impl Count {
    fn check(&self, found: usize, what: &str) {
        match *self {
            Count::Exactly(count) => assert_eq!(found, count, "{what}"),
            Count::Between([least, most]) => {
                assert!((least..=most).contains(&found), "{what}: {found} not in {least}..={most}")
            }
        }
    }
}

#[test]
fn every_scenario_goes_as_expected() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/placement");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 12, "scenarios are missing: {paths:?}");
    let mut failures = Vec::new();
    for path in paths {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let scenario: Scenario =
            toml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!scenario.about.is_empty());
        let run = || {
            let mut fleet = Fleet::new(scenario.policy);
            for (number, phase) in scenario.phase.into_iter().enumerate() {
                run_phase(&mut fleet, &format!("{name}, phase {}", number + 1), phase);
            }
        };
        // A failure does not hide those of other scenarios.
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err() {
            failures.push(name);
        }
    }
    assert_eq!(failures, [""; 0], "scenarios failed");
}

fn run_phase(fleet: &mut Fleet, place: &str, phase: Phase) {
    for join in &phase.join {
        for node in (join.nodes[0]..=join.nodes[1]).map(NodeId) {
            let (memory_bytes_max, processors) = (join.memory_mib << 20, join.processors);
            let zone = ZoneId(join.zone);
            fleet.join(NodeReport { node, zone, memory_bytes_max, processors, draining: false });
        }
    }
    phase.die.iter().for_each(|node| fleet.die(NodeId(*node)));
    for (nodes, draining) in [(&phase.drain, true), (&phase.keep, false)] {
        for node in nodes {
            fleet.nodes.get_mut(&NodeId(*node)).expect("a node that is alive").draining = draining;
        }
    }
    phase.load.iter().for_each(|load| set_load(fleet, load));
    if let Some([first, last]) = phase.remove {
        let databases = first..=last;
        let ids: Vec<PartId> = fleet.parts.keys().copied().filter(|part| databases.contains(&part.database)).collect();
        ids.into_iter().for_each(|part| fleet.remove(part));
    }
    fleet.moves_fail = phase.moves_fail;
    fleet.move_ms = phase.move_seconds * 1_000;

    let calm: Vec<PartReport> = fleet.parts.values().map(|part| part.report).collect();
    let mut moves: Vec<(u64, MoveReason)> = Vec::new();
    let mut plan = Default::default();
    let seconds = fleet.step_ms / 1_000;
    for second in (seconds..=phase.seconds).step_by(seconds as usize) {
        if let Some(flap) = phase.flap_seconds {
            let factor = if (second / flap) % 2 == 1 { 2.0 } else { 1.0 };
            for part in &calm {
                fleet.set(PartReport { busy: part.busy * factor, ..*part });
            }
        }
        plan = fleet.step();
        moves.extend(plan.moves.iter().map(|planned| (second, planned.reason)));
        if phase.shrinks {
            fleet.resize(&plan);
        }
    }

    let expect = phase.expect;
    let count = |reason: MoveReason| moves.iter().filter(|(_, of)| *of == reason).count();
    for (expected, reason) in [
        (&expect.orphans, MoveReason::Orphan),
        (&expect.drains, MoveReason::Drain),
        (&expect.spreads, MoveReason::Spread),
        (&expect.overloads, MoveReason::Overload),
        (&expect.balances, MoveReason::Balance),
        (&expect.reassigns, MoveReason::Reassign),
    ] {
        if let Some(expected) = expected {
            expected.check(count(reason), &format!("{reason:?} in {place}"));
        }
    }
    if let Some(after) = expect.first_move_after {
        let first = moves.first().map_or(u64::MAX, |(second, _)| *second);
        assert!(first >= after, "first move at {first} s in {place}");
    }
    if let Some(within) = expect.last_move_within {
        let last = moves.last().map_or(0, |(second, _)| *second);
        assert!(last <= within, "last move at {last} s in {place}");
    }
    if let Some(expected) = expect.unplaced {
        let mut found: BTreeMap<String, usize> = BTreeMap::new();
        plan.unplaced.iter().for_each(|part| *found.entry(format!("{:?}", part.reason)).or_default() += 1);
        assert_eq!(found, expected, "unplaced after {place}");
    }
    if let Some(expected) = expect.stuck {
        let found: Vec<u32> = plan.stuck.iter().map(|(node, _)| node.0).collect();
        assert_eq!(found, expected, "stuck after {place}");
    }
    if let Some(expected) = expect.nodes {
        expected.check(plan.nodes, &format!("recommended nodes after {place}"));
    }
    if let Some(expected) = expect.alive {
        assert_eq!(fleet.nodes.len(), expected, "nodes after {place}");
    }
    if let Some(most) = expect.fullness_max {
        assert!(plan.fullness_max <= most, "a fullness of {} after {place}", plan.fullness_max);
    }
    for (node, [awake, asleep]) in expect.owned {
        let owned = fleet.owned(NodeId(node.parse().expect("the number of a node")));
        awake.check(owned.0, &format!("awake parts of node {node} after {place}"));
        asleep.check(owned.1, &format!("asleep parts of node {node} after {place}"));
    }
    if let Some(most) = expect.together_max {
        let found = together(fleet);
        assert!(found[0] <= most[0] && found[1] <= most[1], "{found:?} parts together after {place}");
    }
}

fn set_load(fleet: &mut Fleet, load: &Load) {
    for database in load.databases[0]..=load.databases[1] {
        for number in 0..load.parts {
            let part = PartId { database, first_slot: number * (16_384 / load.parts) };
            let (memory_bytes, asleep) = (load.memory_mib << 20, load.asleep);
            fleet.set(PartReport { part, node: load.on.map(NodeId), asleep, memory_bytes, busy: load.busy });
        }
    }
}

/// The most parts of one database in one zone, and on one node.
fn together(fleet: &Fleet) -> [usize; 2] {
    let (mut zones, mut nodes) = (BTreeMap::new(), BTreeMap::new());
    for part in fleet.parts.values().map(|part| part.report) {
        let Some(node) = part.node else { continue };
        *zones.entry((part.part.database, fleet.nodes[&node].zone)).or_insert(0) += 1;
        *nodes.entry((part.part.database, node)).or_insert(0) += 1;
    }
    [zones.into_values().max().unwrap_or(0), nodes.into_values().max().unwrap_or(0)]
}
