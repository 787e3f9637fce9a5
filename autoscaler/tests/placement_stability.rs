//! Whatever happens to a fleet, plans keep the invariants (which [`Fleet`] checks at each step), and under a constant
//! load the moves end.

mod fleet;

use dormouse_autoscaler::{
    FleetObservation, NodeId, NodeReport, PartId, PartReport, PlacementPolicy, Placer, UnplacedReason, ZoneId,
};
use proptest::prelude::*;

use fleet::Fleet;

fn policy() -> PlacementPolicy {
    PlacementPolicy {
        window_ms: 30_000,
        stay_ms: 120_000,
        move_ms_max: 40_000,
        moves_per_minute_max: 20,
        node_moves_per_minute_max: 6,
        reassignments_per_minute_max: 30,
        ..PlacementPolicy::default()
    }
}

#[derive(Clone, Debug)]
enum Event {
    Join { node: u32, zone: u16, memory_mib: u64, processors: u8 },
    Die(u32),
    Drain(u32, bool),
    Load { database: u64, parts: u16, memory_mib: u64, busy_percent: u32 },
    Sleep(u64),
    Remove { database: u64, number: u16 },
    MovesFail(bool),
    MoveSeconds(u64),
    Pass(u8),
}

const NODES: u32 = 9;
const DATABASES: u64 = 30;

fn event() -> impl Strategy<Value = Event> {
    let node = 0..NODES;
    let join = (node.clone(), 0u16..3, 500u64..4_000, 0u8..9)
        .prop_map(|(node, zone, memory_mib, processors)| Event::Join { node, zone, memory_mib, processors });
    let parts = prop_oneof![4 => Just(1u16), 1 => 2u16..7];
    let load = (0..DATABASES, parts, 0u64..900, 0u32..200).prop_map(|(database, parts, memory_mib, busy_percent)| {
        Event::Load { database, parts, memory_mib, busy_percent }
    });
    prop_oneof![
        4 => join,
        1 => node.clone().prop_map(Event::Die),
        1 => (node, any::<bool>()).prop_map(|(node, draining)| Event::Drain(node, draining)),
        12 => load,
        3 => (0..DATABASES).prop_map(Event::Sleep),
        1 => (0..DATABASES, 0u16..7).prop_map(|(database, number)| Event::Remove { database, number }),
        1 => any::<bool>().prop_map(Event::MovesFail),
        1 => (0u64..39).prop_map(Event::MoveSeconds),
        8 => (1u8..20).prop_map(Event::Pass),
    ]
}

fn apply(fleet: &mut Fleet, event: &Event) {
    let id = |database: u64, number: u16| PartId { database, first_slot: number * 2_000 };
    match *event {
        Event::Join { node, zone, memory_mib, processors } => {
            let (node, processors) = (NodeId(node), f64::from(processors));
            let (zone, memory_bytes_max) = (ZoneId(zone), memory_mib << 20);
            fleet.join(NodeReport { node, zone, memory_bytes_max, processors, draining: false });
        }
        Event::Die(node) => fleet.die(NodeId(node)),
        Event::Drain(node, draining) => {
            if let Some(node) = fleet.nodes.get_mut(&NodeId(node)) {
                node.draining = draining;
            }
        }
        Event::Load { database, parts, memory_mib, busy_percent } => {
            for number in 0..parts {
                let (part, memory_bytes) = (id(database, number), memory_mib << 20);
                let busy = f64::from(busy_percent) / 100.0;
                fleet.set(PartReport { part, node: None, asleep: false, memory_bytes, busy });
            }
        }
        Event::Sleep(database) => {
            for number in 0..7 {
                if let Some(part) = fleet.parts.get(&id(database, number)).map(|part| part.report) {
                    fleet.set(PartReport { asleep: true, ..part });
                }
            }
        }
        Event::Remove { database, number } => fleet.remove(id(database, number)),
        Event::MovesFail(fail) => fleet.moves_fail = fail,
        Event::MoveSeconds(seconds) => fleet.move_ms = seconds * 1_000,
        Event::Pass(steps) => (0..steps).for_each(|_| drop(fleet.step())),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_invariants_hold_and_a_constant_load_comes_to_rest(
        events in proptest::collection::vec(event(), 1..120),
    ) {
        let mut fleet = Fleet::new(policy());
        for event in &events {
            apply(&mut fleet, event);
        }
        (fleet.moves_fail, fleet.move_ms) = (false, 0);
        (0..500).for_each(|_| drop(fleet.step()));
        for _ in 0..100 {
            let plan = fleet.step();
            prop_assert!(plan.moves.is_empty(), "still moving: {:?}", plan.moves);
        }
        let plan = fleet.step();
        let is_open = fleet.nodes.values().any(|node| !node.draining);
        prop_assert!(plan.unplaced.iter().all(|part| is_open != (part.reason == UnplacedReason::NoNode)));
        // Asleep parts need no room, so none is without an owner or on a node that should be empty.
        for part in fleet.parts.values().map(|part| part.report).filter(|part| part.asleep && is_open) {
            let owner = part.node.and_then(|node| fleet.nodes.get(&node));
            prop_assert!(owner.is_some_and(|node| !node.draining), "{:?}", part);
        }
    }

    #[test]
    fn a_node_that_comes_and_goes_leaves_the_fleet_balanced(
        nodes in 2u32..7,
        loads in proptest::collection::vec((10u64..60, 1u32..8), 60..120),
    ) {
        let mut fleet = Fleet::new(policy());
        let node = |node: u32| NodeReport {
            node: NodeId(node), zone: ZoneId((node % 3) as u16), memory_bytes_max: 8 << 30, processors: 8.0, draining: false,
        };
        (0..nodes).for_each(|number| fleet.join(node(number)));
        for (database, (memory_mib, busy_percent)) in loads.iter().enumerate() {
            let part = PartId { database: database as u64, first_slot: 0 };
            let busy = f64::from(*busy_percent) / 100.0 * f64::from(nodes);
            fleet.set(PartReport { part, node: None, asleep: false, memory_bytes: memory_mib << 20, busy });
        }
        for change in ["none", "join", "drain", "leave"] {
            match change {
                "join" => fleet.join(node(nodes)),
                "drain" => fleet.nodes.get_mut(&NodeId(nodes)).expect("it has joined").draining = true,
                "leave" => fleet.die(NodeId(nodes)),
                _ => {}
            }
            (0..300).for_each(|_| drop(fleet.step()));
            let plan = fleet.step();
            prop_assert!(plan.moves.is_empty(), "after {}: {:?}", change, plan.moves);
            let start = policy().imbalance_start;
            prop_assert!(plan.fullness_max <= plan.fullness_mean + start, "after {}: {:?}", change, plan);
            if change == "join" {
                let most = fleet.owned(NodeId(nodes)).0 as f64;
                prop_assert!(most >= 0.3 * loads.len() as f64 / f64::from(nodes + 1), "{} parts on the new node", most);
            }
            if change == "drain" {
                prop_assert_eq!(fleet.owned(NodeId(nodes)), (0, 0));
            }
        }
    }

    /// A fleet that gets the nodes that its plans want, and drains those that they name, neither grows nor shrinks nor moves
    /// anything in the end; and where parts are small and nodes alike, it has no more of them than it needs.
    #[test]
    fn a_fleet_that_follows_its_plans_comes_to_rest(
        nodes in 1u32..12,
        largest in 1u8..4,
        small in proptest::collection::vec((0u64..600, 0u32..60), 0..40),
        (large, divided) in prop_oneof![
            Just((Vec::new(), Vec::new())),
            (
                proptest::collection::vec((0u64..9_400, 0u32..900), 0..12),
                proptest::collection::vec((2u16..5, 0u64..3_000, 0u32..300), 0..3),
            ),
        ],
    ) {
        let policy = PlacementPolicy { grow_window_ms: 30_000, shrink_window_ms: 100_000, nodes_max: 60, ..policy() };
        let mut fleet = Fleet::new(policy);
        // Some of the first nodes are larger than those that join.
        let node = |number: u32| {
            let size = if number < nodes && number.is_multiple_of(4) { largest } else { 1 };
            let (memory_bytes_max, processors) = ((10_000 << 20) * u64::from(size), 8.0 * f64::from(size));
            let (node, zone) = (NodeId(number), ZoneId((number % 3) as u16));
            NodeReport { node, zone, memory_bytes_max, processors, draining: false }
        };
        (0..nodes).for_each(|number| fleet.join(node(number)));
        let is_fine = large.is_empty() && divided.is_empty() && largest == 1;
        let all = small.iter().chain(&large).map(|(memory_mib, busy)| (1, *memory_mib, *busy)).chain(divided);
        for (database, (parts, memory_mib, busy_percent)) in all.enumerate() {
            apply(&mut fleet, &Event::Load { database: database as u64, parts, memory_mib, busy_percent });
        }
        let mut next = nodes;
        let mut follow = |fleet: &mut Fleet| {
            let plan = fleet.step();
            let missing = fleet.resize(&plan) as u32;
            (next..next + missing).for_each(|number| fleet.join(node(number)));
            next += missing;
            plan
        };
        (0..600).for_each(|_| drop(follow(&mut fleet)));
        let before = fleet.nodes.clone();
        for _ in 0..200 {
            let plan = follow(&mut fleet);
            prop_assert!(plan.moves.is_empty() && plan.drain.is_empty() && fleet.nodes == before, "no rest: {:?}", plan);
            prop_assert!(plan.unplaced.is_empty(), "{:?}", plan.unplaced);
        }
        let parts = fleet.parts.values().map(|part| part.report);
        let (memory, busy) = parts.fold((0.0, 0.0), |sum, part| (sum.0 + part.memory_bytes as f64, sum.1 + part.busy));
        let needed = f64::max(memory / (8_000.0 * f64::from(1 << 20)), busy / 6.4) / 0.7;
        if is_fine {
            prop_assert!(fleet.nodes.len() as f64 <= 1.06 * needed + 1.0, "{} nodes for {}", fleet.nodes.len(), needed);
        }
    }

    /// With room everywhere, the parts of each database are as far apart as the zones and nodes allow, whatever
    /// happened to nodes before.
    #[test]
    fn parts_of_a_database_are_in_different_zones(
        zones in 1u16..5,
        nodes in 1u32..4,
        databases in proptest::collection::vec(1u16..9, 1..20),
        dead in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
        asleep in any::<bool>(),
    ) {
        let mut fleet = Fleet::new(policy());
        let all: Vec<NodeReport> = (0..u32::from(zones) * nodes)
            .map(|number| NodeReport {
                node: NodeId(number), zone: ZoneId((number / nodes) as u16), memory_bytes_max: 0, processors: 1e3, draining: false,
            })
            .collect();
        all.iter().for_each(|node| fleet.join(*node));
        for (database, parts) in databases.iter().enumerate() {
            for number in 0..*parts {
                let part = PartId { database: database as u64, first_slot: number * 2_000 };
                fleet.set(PartReport { part, node: None, asleep, memory_bytes: 1 << 20, busy: 0.1 });
            }
        }
        (0..3).for_each(|_| drop(fleet.step()));
        dead.iter().for_each(|index| fleet.die(index.get(&all).node));
        (0..3).for_each(|_| drop(fleet.step()));
        all.iter().for_each(|node| fleet.join(*node));
        (0..500).for_each(|_| drop(fleet.step()));
        for (database, parts) in databases.iter().enumerate() {
            let of_database = || fleet.parts.values().map(|part| part.report).filter(|part| part.part.database == database as u64);
            let most = |group: &dyn Fn(NodeId) -> u32| {
                let mut counts = std::collections::BTreeMap::new();
                of_database().for_each(|part| *counts.entry(group(part.node.expect("an owner"))).or_insert(0) += 1);
                counts.into_values().max().unwrap_or(0)
            };
            prop_assert_eq!(most(&|node| node.0 / nodes), parts.div_ceil(zones));
            // The nodes of a zone share its parts evenly.
            prop_assert_eq!(most(&|node| node.0), u32::from(parts.div_ceil(zones)).div_ceil(nodes) as u16);
        }
    }

    /// No observation makes it panic, not even NaN, nodes that are reported twice or a clock that runs backwards; and
    /// a copy goes on as the original does.
    #[test]
    fn nonsense_is_harmless(
        observations in proptest::collection::vec(
            (
                proptest::collection::vec((0u32..6, any::<u16>(), any::<u64>(), any::<f64>(), any::<bool>()), 0..8),
                proptest::collection::vec((0u64..6, any::<u16>(), 0u32..9, any::<bool>(), any::<u64>(), any::<f64>()), 0..9),
                proptest::collection::vec((0u64..6, any::<u16>()), 0..3),
                any::<u64>(),
            ),
            1..20,
        ),
    ) {
        let mut placer = Placer::new(policy()).expect("a valid policy");
        for (nodes, parts, removed, now) in observations {
            let nodes = nodes.into_iter().map(|(node, zone, memory_bytes_max, processors, draining)| NodeReport {
                node: NodeId(node), zone: ZoneId(zone), memory_bytes_max, processors, draining,
            });
            let parts = parts.into_iter().map(|(database, first_slot, node, asleep, memory_bytes, busy)| PartReport {
                part: PartId { database, first_slot }, node: Some(NodeId(node)), asleep, memory_bytes, busy,
            });
            let removed = removed.into_iter().map(|(database, first_slot)| PartId { database, first_slot });
            let observation = FleetObservation { nodes: nodes.collect(), parts: parts.collect(), removed: removed.collect() };
            let mut copy = placer.clone();
            prop_assert_eq!(copy.step(&observation, now), placer.step(&observation, now));
            prop_assert_eq!(&copy, &placer);
        }
    }
}

#[test]
fn a_clock_that_runs_backwards_lifts_no_bound() {
    let mut placer = Placer::new(policy()).expect("a valid policy");
    let node =
        |number, draining| NodeReport { node: NodeId(number), processors: 8.0, draining, ..NodeReport::default() };
    let part = |database| PartReport {
        part: PartId { database, first_slot: 0 },
        node: Some(NodeId(1)),
        busy: 0.01,
        ..PartReport::default()
    };
    let nodes = vec![node(1, true), node(2, false)];
    let mut observation = FleetObservation { nodes, parts: (0..30).map(part).collect(), removed: Vec::new() };
    let mut moves = 0;
    for now in [3_000, 2_000, 1_000] {
        moves += placer.step(&observation, now).moves.len();
        observation.parts.clear();
    }
    assert_eq!(moves, policy().node_moves_per_minute_max);
}
