//! The scenarios under `scenarios/`: loads over time as data, with the expected result of each phase.

mod simulation;

use std::collections::BTreeMap;
use std::path::Path;

use dormouse_autoscaler::{Action, Note, Policy};
use serde::Deserialize;

use simulation::{Database, Load, STEP_MS, Shard, Simulation};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenario {
    about: String,
    workers: usize,
    #[serde(default = "sixteen")]
    parts: u16,
    #[serde(default)]
    policy: Policy,
    #[serde(default)]
    database: BTreeMap<String, Setup>,
    phase: Vec<Phase>,
}

fn sixteen() -> u16 {
    16
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Setup {
    sleep_after_ms: Option<u64>,
    /// Where the shards begin.
    #[serde(default)]
    boundaries: Vec<u16>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Phase {
    seconds: u64,
    /// New behaviour of databases; a database that is not named goes on as before.
    #[serde(default)]
    load: BTreeMap<String, Vec<Load>>,
    /// The loads run for this long, rest for this long, and repeat.
    flap_seconds: Option<u64>,
    /// One command at this interval, to all databases.
    command_every_seconds: Option<u64>,
    dirty_bytes_per_second: Option<u64>,
    /// The memory that the node has, and its limit.
    memory_bytes: Option<[u64; 2]>,
    #[serde(default)]
    plans_fail: bool,
    #[serde(default)]
    expect: BTreeMap<String, Expect>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    splits: Option<Count>,
    merges: Option<Count>,
    sleeps: Option<Count>,
    checkpoints: Option<Count>,
    notes: Option<Vec<String>>,
    /// At the end of the phase.
    shards: Option<Count>,
    asleep: Option<bool>,
    heaviest_share_max: Option<f64>,
    /// The first action comes within this many seconds of the phase's start, the last too.
    first_action_within: Option<u64>,
    last_action_within: Option<u64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Count {
    Exactly(usize),
    Between([usize; 2]),
}

impl Count {
    fn check(expected: &Option<Count>, found: usize, what: &str) {
        match *expected {
            None => {}
            Some(Count::Exactly(count)) => assert_eq!(found, count, "{what}"),
            Some(Count::Between([least, most])) => {
                assert!((least..=most).contains(&found), "{what}: {found} not in {least}..={most}")
            }
        }
    }
}

#[test]
fn every_scenario_goes_as_expected() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 8, "scenarios are missing: {paths:?}");
    for path in paths {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let scenario: Scenario =
            toml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!scenario.about.is_empty());
        run(&name, scenario);
    }
}

fn run(name: &str, scenario: Scenario) {
    let mut simulation = Simulation::new(scenario.policy, scenario.workers);
    simulation.parts = scenario.parts;
    for (id, setup) in scenario.database {
        let mut database = Database::new(simulation.now);
        database.sleep_after_ms = setup.sleep_after_ms;
        let starts: Vec<u16> = [0].into_iter().chain(setup.boundaries).collect();
        let ends = starts[1..].iter().copied().chain([16_384]);
        database.shards = starts
            .iter()
            .zip(ends)
            .map(|(&first_slot, end_slot)| Shard { id: 1_000_000 + u64::from(first_slot), first_slot, end_slot })
            .collect();
        simulation.databases.insert(id, database);
    }
    for (number, phase) in scenario.phase.into_iter().enumerate() {
        let place = format!("{name}, phase {}", number + 1);
        run_phase(&mut simulation, &place, phase);
    }
}

fn run_phase(simulation: &mut Simulation, place: &str, phase: Phase) {
    for (id, loads) in phase.load {
        simulation.databases.get_mut(&id).unwrap_or_else(|| panic!("{place}: no database {id}")).loads = loads;
    }
    if let Some([bytes, bytes_max]) = phase.memory_bytes {
        simulation.memory_bytes = bytes;
        simulation.memory_bytes_max = bytes_max;
    }
    simulation.plans_fail = phase.plans_fail;
    let rates: BTreeMap<String, Vec<f64>> = simulation
        .databases
        .iter()
        .map(|(id, database)| (id.clone(), database.loads.iter().map(|load| load.operations_per_second).collect()))
        .collect();
    let mut actions: Vec<(u64, Action)> = Vec::new();
    let mut notes: Vec<(String, &str)> = Vec::new();
    for second in 1..=phase.seconds * 1_000 / STEP_MS {
        for (id, database) in &mut simulation.databases {
            if let Some(bytes) = phase.dirty_bytes_per_second {
                database.dirty_bytes_per_second = bytes;
            }
            let rests = phase.flap_seconds.is_some_and(|flap| (second / flap) % 2 == 1);
            for (load, rate) in database.loads.iter_mut().zip(&rates[id]) {
                load.operations_per_second = if rests { 0.0 } else { *rate };
            }
            if phase.command_every_seconds.is_some_and(|every| second % every == 0) {
                database.touch(simulation.now + STEP_MS);
            }
        }
        let plan = simulation.step();
        actions.extend(plan.actions.into_iter().map(|action| (second, action)));
        notes.extend(plan.notes.into_iter().map(|note| match note {
            Note::OneSlot { database, .. } => (database, "OneSlot"),
            Note::HotSlot { database, .. } => (database, "HotSlot"),
        }));
    }
    for (id, expect) in phase.expect {
        let place = format!("{place}, database {id}: {actions:?}");
        let of_this: Vec<&(u64, Action)> = actions.iter().filter(|(_, action)| action.database() == id).collect();
        let count = |is: fn(&Action) -> bool| of_this.iter().filter(|(_, action)| is(action)).count();
        let database = &simulation.databases[&id];
        let whole = Shard { id: 0, first_slot: 0, end_slot: 16_384 };
        let splits = count(|action| matches!(action, Action::SplitShard { .. }));
        let merges = count(|action| matches!(action, Action::MergeShards { .. }));
        let sleeps = count(|action| matches!(action, Action::Sleep { .. }));
        let checkpoints = count(|action| matches!(action, Action::Checkpoint { .. }));
        Count::check(&expect.splits, splits, &format!("splits in {place}"));
        Count::check(&expect.merges, merges, &format!("merges in {place}"));
        Count::check(&expect.sleeps, sleeps, &format!("sleeps in {place}"));
        Count::check(&expect.checkpoints, checkpoints, &format!("checkpoints in {place}"));
        Count::check(&expect.shards, database.shards.len(), &format!("shards after {place}"));
        if let Some(expected) = expect.notes {
            let found: Vec<&str> = notes.iter().filter(|(of, _)| *of == id).map(|&(_, note)| note).collect();
            assert_eq!(found, expected, "notes in {place}");
        }
        if let Some(asleep) = expect.asleep {
            assert_eq!(database.asleep, asleep, "asleep after {place}");
        }
        if let Some(most) = expect.heaviest_share_max {
            let of =
                |shard: &Shard| database.sum([shard.first_slot, shard.end_slot], |load| load.operations_per_second);
            let found = database.shards.iter().map(of).fold(0.0, f64::max) / of(&whole);
            assert!(found <= most, "the heaviest shard has {found} of the load after {place}");
        }
        if let Some(within) = expect.first_action_within {
            let first = of_this.first().map(|(second, _)| *second);
            assert!(first.is_some_and(|second| second <= within), "first action at {first:?} s in {place}");
        }
        if let Some(within) = expect.last_action_within {
            let last = of_this.last().map_or(0, |(second, _)| *second);
            assert!(last <= within, "last action at {last} s in {place}");
        }
    }
}
