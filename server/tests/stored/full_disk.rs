//! Full disks: written data stays, and the log can be removed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::bench::{Bench, NOW_MS, bulk, plan_in};
use dormouse_shard::database::Database;
use dormouse_shard::execution::{self, Turn};
use dormouse_storage::log::Window;
use dormouse_storage::log::recovery::Recovered;
use dormouse_storage::manifest;
use dormouse_storage::store::StoreFault;
use fastrand::Rng;

#[test]
fn a_full_disk_loses_nothing() {
    let bench = Bench::new();
    let database = bench.open();
    bench.run(&database, &["SET", "a", "1"]);
    bench.runtime.block_on(database.checkpoint()).expect("the store is well");
    for good in 0..2 {
        let value = format!("2{good}");
        bench.run(&database, &["SET", "a", &value]);
        bench.run(&database, &["SET", "b", "3"]);
        bench.faults.fail_put_after(good, StoreFault::Full);
        let error = bench.runtime.block_on(database.sleep()).expect_err("no room").to_string();
        assert!(error.contains("db/test/"), "the error names the object: {error}");
        assert!(database.is_awake(), "it stays awake");
        assert_eq!(bench.run(&database, &["GET", "b"]), bulk("3"));
        let before = if good == 0 { "1" } else { "20" };
        assert_eq!(bench.run(&bench.peek(), &["GET", "a"]), bulk(before), "what the store had stays valid");
        bench.faults.revive();
        bench.runtime.block_on(database.sleep()).expect("there is room again");
        assert_eq!(bench.run(&bench.peek(), &["GET", "a"]), bulk(&value));
        assert_eq!(bench.run(&bench.peek(), &["GET", "b"]), bulk("3"));
    }
    assert_eq!(database.counters.checkpoint_errors.load(Ordering::SeqCst), 2);
}

/// A disk without room for whole places has room for a tail of the log's contents, so the log can be removed.
#[test]
fn a_checkpoint_on_a_full_disk_keeps_what_was_logged() {
    let bench = Bench::new();
    let database = bench.open();
    database.shared.journal.declare(Window::Zero);
    let key = |round: usize, at: usize| format!("key:{round}:{at}");
    let mut counter = 0;
    let mut write = |round: usize| {
        for at in 0..3000 {
            bench.run(&database, &["SET", &key(round, at), "x"]);
        }
        bench.run(&database, &["DEL", &key(round.saturating_sub(1), 7)]);
        counter += 1;
        assert_eq!(bench.run(&database, &["INCR", "counter"]), format!(":{counter}\r\n"));
        counter
    };
    write(0);
    bench.runtime.block_on(database.checkpoint()).expect("the store is well");
    let log = Arc::clone(database.engine.log.as_ref().expect("a log"));
    // Places have split since then, and most keys have changed, so each place would be written whole.
    for round in 1..4 {
        let count = write(round);
        bench.faults.fail_put_after(0, StoreFault::Full);
        bench.runtime.block_on(database.checkpoint()).expect("there is room for a tail");
        assert!(log.relies_on_tails());
        let keys = bench.run(&database, &["DBSIZE"]);
        let check = |other: &Arc<Database>| {
            assert_eq!(bench.run(other, &["DBSIZE"]), keys);
            assert_eq!(bench.run(other, &["GET", "counter"]), bulk(&count.to_string()));
            assert_eq!(bench.run(other, &["GET", &key(round - 1, 7)]), "$-1\r\n");
            assert_eq!(bench.run(other, &["GET", &key(round, 2999)]), bulk("x"));
        };
        // From the store alone: the log is no longer needed.
        check(&bench.open_with(1000 + round as u64, None, Recovered::default()));
        check(&bench.peek());
    }
    bench.run(&database, &["SET", "last", "1"]);
    bench.runtime.block_on(database.checkpoint()).expect("the store is well");
    assert!(!log.relies_on_tails());
    let newest = bench.runtime.block_on(manifest::latest(&bench.store, "test")).expect("readable").expect("one");
    assert!(newest.tails.is_empty(), "whole places have all of it");
    let keys = bench.run(&database, &["DBSIZE"]);
    assert_eq!(bench.run(&bench.open_with(2000, None, Recovered::default()), &["DBSIZE"]), keys);
}

/// Places that were merged or cut since they were stored, and indexes that show other keyspaces: the tail has all of
/// the log.
#[test]
fn a_full_disk_loses_nothing_of_places_that_were_merged_or_cut() {
    let mut kept = 0;
    for seed in 0..60 {
        let mut chance = Rng::with_seed(seed);
        let mut below = |limit: u64| chance.u64(..limit);
        let bench = Bench::new();
        let database = bench.open();
        database.shared.journal.declare(Window::Zero);
        let log = Arc::clone(database.engine.log.as_ref().expect("a log"));
        let show = |other: &Arc<Database>| -> Vec<String> {
            let shown = |select: u8| bench.runtime.block_on(shown(other, select));
            (0..2).map(shown).collect()
        };
        let cuts = [4096, 8192, 12_288];
        for step in 0..60 {
            let (key, value) = (format!("key:{}", below(12)), step.to_string());
            match below(24) {
                0..8 => drop(bench.run(&database, &["SET", &key, &value])),
                8..13 => drop(bench.run(&database, &["DEL", &key])),
                13 => drop(bench.run(&database, &["RENAME", &key, &format!("key:{}", below(12))])),
                14 => drop(bench.run(&database, &["MOVE", &key, "1"])),
                15 => drop(bench.run(&database, &["SWAPDB", "0", "1"])),
                16 if below(3) == 0 => drop(bench.run(&database, &["FLUSHDB"])),
                17..20 => {
                    bench.runtime.block_on(database.split(cuts[below(3) as usize])).expect("the store is well");
                }
                20 | 21 => {
                    bench.runtime.block_on(database.merge(cuts[below(3) as usize])).expect("the store is well");
                }
                22 => drop(bench.runtime.block_on(database.checkpoint()).expect("the store is well")),
                _ => {
                    bench.faults.fail_put_after(0, StoreFault::Full);
                    bench.runtime.block_on(database.checkpoint()).expect("there is room for a tail");
                    bench.faults.revive();
                    kept += u32::from(log.relies_on_tails());
                    log.rely_on_tails(false);
                    let held = show(&database);
                    let alone = bench.open_with(1000 + step, None, Recovered::default());
                    assert_eq!(show(&alone), held, "seed {seed}, step {step}: the log is needed no more");
                    let keys = |database: &Arc<Database>| bench.run(database, &["DBSIZE"]);
                    assert_eq!(keys(&alone), keys(&database), "seed {seed}, step {step}");
                }
            }
        }
        bench.runtime.block_on(database.sleep()).expect("the store is well");
        let held = show(&bench.open_with(2000, None, Recovered::default()));
        assert_eq!(show(&database), held, "seed {seed}");
    }
    assert!(kept > 60, "hardly a checkpoint found the disk full");
}

/// Returns all keys of an index with their values, in order.
async fn shown(database: &Arc<Database>, select: u8) -> String {
    let keys: Vec<String> = (0..12).map(|at| format!("key:{at}")).collect();
    let words: Vec<&str> = ["MGET"].into_iter().chain(keys.iter().map(String::as_str)).collect();
    let plan = plan_in(select, &words, None, NOW_MS);
    match execution::run(database, &plan, &Arc::new(Turn::endless(None))).await {
        Ok(outcome) => String::from_utf8_lossy(&outcome.replies.buffer).into_owned(),
        Err(error) => error.to_string(),
    }
}
