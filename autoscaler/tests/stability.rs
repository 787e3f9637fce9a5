//! Under any constant load the autoscaler comes to rest; and it is a function of its observations.

mod simulation;

use dormouse_autoscaler::{Autoscaler, DatabaseLoad, NodeLoad, Observation, Part, Policy, ShardLoad};
use proptest::prelude::*;

use simulation::{Database, Load, Simulation};

fn policy() -> Policy {
    Policy {
        keys_max: 10_000,
        bytes_max: 1_000_000,
        split_cool_down_ms: 5_000,
        merge_cool_down_ms: 20_000,
        load_window_ms: 3_000,
        size_window_ms: 2_000,
        merge_window_ms: 10_000,
        reshapes_max: 4,
        ..Policy::default()
    }
}

fn loads() -> impl Strategy<Value = Vec<Load>> {
    let width = prop_oneof![Just(1u16), Just(2), Just(16), Just(700), Just(16_384)];
    let load = (0u16..16_384, width, 0.0..60_000.0f64, 0.0..10.0f64, 0.0..400_000.0f64).prop_map(
        |(first, width, keys, size, operations_per_second)| Load {
            slots: [first, first.saturating_add(width).min(16_384)],
            keys,
            bytes: keys * size * 20.0,
            operations_per_second,
            cost_us: 1.0,
        },
    );
    proptest::collection::vec(load, 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn a_constant_load_comes_to_rest(loads in loads(), workers in 1usize..17, parts in 1u16..40, later in loads()) {
        let mut simulation = Simulation::new(policy(), workers);
        simulation.parts = parts;
        simulation.databases.insert("d".to_owned(), Database::new(simulation.now));
        for loads in [loads, later] {
            simulation.databases.get_mut("d").expect("the database").loads = loads;
            for _ in 0..800 {
                simulation.step();
            }
            for _ in 0..200 {
                let plan = simulation.step();
                prop_assert!(plan.actions.is_empty(), "still acting: {:?}", plan);
            }
        }
    }

    /// No observation makes it panic, not even NaN or shards that do not fit together; and stored state goes on as the
    /// original does.
    #[test]
    fn nonsense_is_harmless(
        shards in proptest::collection::vec((any::<u16>(), any::<u16>(), any::<u64>(), any::<f64>(), any::<f64>()), 0..5),
        parts in proptest::collection::vec((any::<u16>(), any::<f64>()), 0..5),
        moments in proptest::collection::vec(any::<u64>(), 1..20),
    ) {
        let parts: Vec<Part> = parts.into_iter().map(|(first_slot, weight)| Part { first_slot, weight }).collect();
        let shards = shards.into_iter().map(|(first_slot, end_slot, keys, load, contention)| ShardLoad {
            id: keys,
            first_slot,
            end_slot,
            keys,
            bytes: keys,
            operations_per_second: load,
            contended_share: contention,
            waits_per_second: load,
            busy_share: load,
            load_histogram: parts.clone(),
            size_histogram: parts.clone(),
        });
        let database = DatabaseLoad { id: "d".to_owned(), shards: shards.collect(), sleep_after_ms: Some(0), dirty_bytes: 1, ..Default::default() };
        let node = NodeLoad { workers: 4, cpu_busy: 0.5, memory_bytes: 2, memory_bytes_max: 1 };
        let observation = Observation { node, databases: vec![database.clone(), database] };
        let mut autoscaler = Autoscaler::new(policy()).expect("a valid policy");
        for now in moments {
            let text = toml::to_string(&autoscaler).expect("state can be written");
            let mut restored: Autoscaler = toml::from_str(&text).expect("state can be read back");
            prop_assert_eq!(restored.step(&observation, now >> 8), autoscaler.step(&observation, now >> 8));
        }
    }
}
