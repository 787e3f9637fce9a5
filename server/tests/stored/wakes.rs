//! The requests to the store that a wake makes.

use dormouse_shard::checkpoint::SleepOutcome;
use dormouse_storage::store::{StoreFault, StoreRequest};

use crate::bench::{Bench, bulk};

#[test]
fn a_database_that_has_slept_is_found_without_a_list() {
    let bench = Bench::new();
    let database = bench.open();
    for round in 1..=3 {
        assert_eq!(bench.run(&database, &["INCR", "counter"]), format!(":{round}\r\n"));
        assert_eq!(bench.runtime.block_on(database.sleep()), Ok(SleepOutcome::FellAsleep));
        let lists = bench.faults.asked(StoreRequest::List);
        assert_eq!(bench.run(&database, &["GET", "counter"]), bulk(&round.to_string()));
        assert_eq!(bench.faults.asked(StoreRequest::List), lists, "round {round}");
    }
}

/// A manifest may be there although its commit has failed: then the newest is looked for.
#[test]
fn after_a_commit_without_an_answer_the_newest_is_looked_for() {
    for fault in [StoreFault::Lost, StoreFault::Unanswered, StoreFault::Repeated] {
        for good in 0..3 {
            let bench = Bench::new();
            let database = bench.open();
            for text in ["first", "second"] {
                bench.run(&database, &["SET", "key", text]);
                bench.runtime.block_on(database.sleep()).expect("the store is well");
                assert_eq!(bench.run(&database, &["GET", "key"]), bulk(text));
            }
            bench.run(&database, &["SET", "key", "third"]);
            bench.faults.fail(StoreRequest::Put, good, 1, fault);
            // Whether it fails depends on which put was asked for.
            let _ = bench.runtime.block_on(database.sleep());
            bench.runtime.block_on(database.sleep()).expect("the store is well again");
            assert_eq!(bench.run(&database, &["GET", "key"]), bulk("third"), "{fault:?} after {good}");
        }
    }
}
