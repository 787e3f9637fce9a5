//! Seeds: the same seed gives the same run, and no seed gives a run that breaks a promise.

use std::sync::atomic::{AtomicU64, Ordering};

use dormouse_simulation::{Features, Outcome, rivals};

/// Seeds whose plain schedule has found something.
const FOUND: &[(u64, &str)] = &[
    (17, "a first frame that a power cut tore was taken for damage"),
    (209, "numbers of void entries were given again"),
    (382, "a frame on both sides of a deleted file was read twice"),
    (1063, "what a failed sync had left out was built upon"),
    (1227, "what was not logged was dropped by the last checkpoint before a sleep"),
    (1252, "a gap between files was forgotten at one that could not be read"),
    (3413, "a load failed that somebody else had made unneeded"),
    (61797, "an effect that a tail had carried was replayed onto a value that held it"),
    (110_251, "a log file that a process had deleted came back when the next one had gone on without it"),
];
/// Seeds that have found something with some features.
const FOUND_WITH_FEATURES: &[(u64, Features, &str)] = &[
    (
        111,
        Features { watches: true, eviction: true, ..Features::NONE },
        "a transaction ran though its own room was made by dropping a key that it watched",
    ),
    (
        88,
        Features { full_disk: true, watches: true, eviction: true, damage: true, ..Features::NONE },
        "a database whose first writes were damaged in the log was taken for one that does not exist",
    ),
    (
        988,
        Features { damage: true, ..Features::NONE },
        "a database whose first writes were damaged in the log lost the later ones, as those of a deleted database",
    ),
];
/// About a minute of processor time; `cargo xtask simulate` runs any number.
const SEEDS: u64 = 130;
const RIVAL_SEEDS: u64 = 30;
const HISTORY_SEEDS: u64 = 40;

fn run(seed: u64) -> Outcome {
    dormouse_simulation::run(seed, Features::of(seed), false)
}

#[test]
fn a_seed_tells_all() {
    for seed in [1, 35, 659, 1227, 5621] {
        let (first, second) = (run(seed), run(seed));
        assert_eq!((first.hash, first.steps), (second.hash, second.steps), "seed {seed}");
        // Run on a thread of its own too.
        let third = std::thread::spawn(move || run(seed)).join().expect("it does not panic");
        assert_eq!(first.hash, third.hash, "seed {seed}");
    }
    assert_ne!(run(1).hash, run(2).hash);
}

/// Most seeds have no history.
#[test]
fn a_branch_of_a_moment_shows_that_moment() {
    for seed in 1..=HISTORY_SEEDS {
        let features = Features {
            history: true,
            full_disk: seed.is_multiple_of(4),
            pages: seed.is_multiple_of(5),
            branches: seed.is_multiple_of(3),
            imports: seed.is_multiple_of(7),
            large_values: seed.is_multiple_of(6),
            backups: seed.is_multiple_of(2),
            deletions: seed.is_multiple_of(3),
            ..Features::NONE
        };
        let outcome = dormouse_simulation::run(seed, features, false);
        if let Some(failure) = outcome.failure {
            panic!("{}seed {seed} with {features:?} failed: {failure}", outcome.trace);
        }
    }
}

#[test]
fn promises_are_kept() {
    let plain = FOUND.iter().map(|(seed, _)| (*seed, Features::default()));
    let featured = FOUND_WITH_FEATURES.iter().map(|(seed, features, _)| (*seed, *features));
    let seeds: Vec<_> = (1..=SEEDS).map(|seed| (seed, Features::of(seed))).chain(plain).chain(featured).collect();
    let next = AtomicU64::new(0);
    let crashes = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(&(seed, features)) = seeds.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    let outcome = dormouse_simulation::run(seed, features, false);
                    crashes.fetch_add(outcome.processes - 1, Ordering::Relaxed);
                    if let Some(failure) = outcome.failure {
                        panic!("{}seed {seed} with {features:?} failed: {failure}", outcome.trace);
                    }
                }
            });
        }
    });
    assert!(crashes.into_inner() > SEEDS, "hardly a process ended");
}

#[test]
fn one_process_at_a_time_has_a_store() {
    let (first, second) = (rivals::run(7, false), rivals::run(7, false));
    assert_eq!((first.hash, first.steps), (second.hash, second.steps));
    let mut processes = 0;
    for seed in 1..=RIVAL_SEEDS {
        let outcome = rivals::run(seed, false);
        processes += outcome.processes;
        if let Some(failure) = outcome.failure {
            panic!("{}seed {seed} of rivals failed: {failure}", outcome.trace);
        }
    }
    assert!(processes > 3 * RIVAL_SEEDS, "hardly a process met another");
}
