//! Brief wakes: a look that is no use of the database loads what it needs, and leaves the store as it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::bench::{Bench, NOW_MS};
use dormouse_protocol::{OwnedRequest, Version};
use dormouse_shard::checkpoint::SleepOutcome;
use dormouse_shard::commands::{Context, find};
use dormouse_shard::database::Database;
use dormouse_shard::execution::{self, Plan, PlannedCommand, Turn};

const KEYS: u64 = 6_000;

/// Runs a command as a poll.
fn poll(bench: &Bench, line: &str) -> String {
    let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    let request = OwnedRequest::from_args(&args);
    let (row, run) = find(request.as_request()).expect("a command");
    let context = Context { select: 0, version: Version::Resp2, no_touch: false, tracker: Default::default() };
    let mut plan = Plan::one(PlannedCommand { row, run, request, context }, NOW_MS, 1);
    plan.is_poll = true;
    let (plan, turn) = (Arc::new(plan), Arc::new(Turn::endless(None)));
    let outcome = bench.runtime.block_on(execution::run(&bench.database, &plan, &turn)).expect("the store is well");
    String::from_utf8_lossy(&outcome.replies.buffer).into_owned()
}

fn sleep(bench: &Bench) -> u64 {
    let slept = bench.runtime.block_on(bench.database.sleep());
    assert_eq!(slept, Ok(SleepOutcome::FellAsleep));
    assert!(!bench.database.is_brief());
    bench.database.counters.checkpoints.load(Ordering::SeqCst)
}

fn filled() -> Bench {
    let bench = Bench::new();
    (0..KEYS).for_each(|number| assert_eq!(bench.line(&format!("SET key:{number} {number}")), "+OK\r\n"));
    bench
}

#[test]
fn a_poll_loads_what_it_needs_and_a_use_the_rest() {
    let bench = filled();
    let written = sleep(&bench);
    let counters = &bench.database.counters;
    for round in 1..=3 {
        assert_eq!(poll(&bench, "GET key:77"), "$2\r\n77\r\n");
        assert!(bench.database.is_brief());
        assert_eq!(counters.loads.load(Ordering::SeqCst), round, "one segment each time");
        assert_eq!(sleep(&bench), written, "there is nothing to write");
    }
    // A poll that changes something is written.
    poll(&bench, "SET key:77 changed");
    assert!(bench.database.is_brief());
    assert!(sleep(&bench) > written);
    assert_eq!(poll(&bench, "GET key:77"), "$7\r\nchanged\r\n");
    // Somebody uses it: the rest comes into memory.
    let loaded = counters.loaded_keys.load(Ordering::SeqCst);
    assert_eq!(bench.line("GET key:78"), "$2\r\n78\r\n");
    assert!(!bench.database.is_brief());
    let is_resident = || bench.database.shards(false).iter().all(|shard| shard.stored == 0);
    while !is_resident() {
        bench.runtime.block_on(tokio::task::yield_now());
    }
    assert!(counters.loaded_keys.load(Ordering::SeqCst) > loaded);
    assert_eq!(poll(&bench, "GET key:77"), "$7\r\nchanged\r\n");
    assert!(!bench.database.is_brief(), "a poll does not end the use");
}

#[test]
fn the_meters_of_polls_are_written_before_the_process_ends() {
    static METER: AtomicU8 = AtomicU8::new(1);
    let bench = filled();
    bench.database.keep_meters(Box::new(|| vec![METER.load(Ordering::SeqCst)]));
    sleep(&bench);
    METER.store(2, Ordering::SeqCst);
    poll(&bench, "GET key:77");
    sleep(&bench);
    let saved = || {
        let again = Database::open("test", 7, bench.database.engine.clone());
        bench.runtime.block_on(again).saved_meters()
    };
    assert_eq!(saved(), [1], "they wait for a minute to pass");
    bench.runtime.block_on(bench.database.close()).expect("the store is well");
    assert_eq!(saved(), [2]);
}
