//! Databases under load while they are checkpointed, split, merged, put to sleep and woken; stores that fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::bench::*;
use dormouse::account::Account;
use dormouse::clients::{Clients, Places};
use dormouse::peer::Peer;
use dormouse_protocol::{Reply, Request as Words};
use dormouse_shard::checkpoint::SleepOutcome;
use dormouse_shard::database::Database;
use dormouse_shard::error::Error;
use dormouse_shard::execution::{self, Turn};
use dormouse_shard::keyspace::{Expiry, Keyspace};
use dormouse_shard::topology::hold;
use dormouse_storage::log::Window;
use dormouse_storage::manifest;
use dormouse_storage::shown::INDEXES;
use dormouse_storage::store::{StoreFault, StoreRequest};
use dormouse_types::segment::{Placement, SlotPlacement, prefix53};
use fastrand::Rng;

fn first_object(bench: &Bench, folder: &str) -> String {
    let objects = bench.runtime.block_on(bench.store.list(&format!("db/test/{folder}"))).expect("a listing");
    objects.last().expect("an object").name.clone()
}

#[test]
fn everything_survives_sleep_and_another_process() {
    let bench = Bench::new();
    let database = bench.open();
    let long = "x".repeat(100_000);
    let table: &[(&[&str], &[&str], &str)] = &[
        (&["SET", "int", "12345"], &["GET", "int"], "$5\r\n12345\r\n"),
        (&["SET", "raw", "hello"], &["GET", "raw"], "$5\r\nhello\r\n"),
        (&["SET", "big", &long], &["STRLEN", "big"], ":100000\r\n"),
        (&["RPUSH", "list", "a", "b", "1"], &["LRANGE", "list", "0", "-1"], "*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\n1\r\n"),
        (&["HSET", "hash", "f", "v"], &["HGETALL", "hash"], "*2\r\n$1\r\nf\r\n$1\r\nv\r\n"),
        (&["SADD", "ints", "3", "1", "2"], &["SMEMBERS", "ints"], "*3\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n3\r\n"),
        (
            &["ZADD", "zset", "1.5", "a", "-1", "b"],
            &["ZRANGE", "zset", "0", "-1", "WITHSCORES"],
            "*4\r\n$1\r\nb\r\n$2\r\n-1\r\n$1\r\na\r\n$3\r\n1.5\r\n",
        ),
    ];
    for (write, ..) in table {
        assert!(!bench.run(&database, write).starts_with('-'), "{write:?}");
    }
    for n in 0..2000 {
        bench.run(&database, &["ZADD", "manyz", &n.to_string(), &format!("member-{n}")]);
        bench.run(&database, &["SADD", "manys", &format!("member-{n}")]);
        bench.run(&database, &["HSET", "manyh", &format!("field-{n}"), &format!("value-{n}")]);
        bench.run(&database, &["RPUSH", "manyl", &format!("element-{n}")]);
    }
    let check = |database: &Arc<Database>| {
        for (_, read, expected) in table {
            assert_eq!(&bench.run(database, read), expected, "{read:?}");
        }
        for (read, expected) in [
            (&["ZCARD", "manyz"][..], ":2000\r\n"),
            (&["ZRANK", "manyz", "member-1999"], ":1999\r\n"),
            (&["SCARD", "manys"], ":2000\r\n"),
            (&["HGET", "manyh", "field-77"], "$8\r\nvalue-77\r\n"),
            (&["LINDEX", "manyl", "-1"], "$12\r\nelement-1999\r\n"),
            (&["DBSIZE"], ":11\r\n"),
        ] {
            assert_eq!(bench.run(database, read), expected, "{read:?}");
        }
    };
    check(&database);
    assert_eq!(bench.runtime.block_on(database.sleep()), Ok(SleepOutcome::FellAsleep));
    assert!(!database.is_awake());
    assert!(database.used_bytes() < 4096, "{} bytes are still held", database.used_bytes());
    check(&database);
    assert!(database.is_awake());
    assert_eq!(bench.runtime.block_on(database.sleep()), Ok(SleepOutcome::FellAsleep));
    drop(database);
    check(&bench.open());
}

/// Pairs of keys in different shards are always written together. With any number of writers, a restored checkpoint has
/// both or none of each pair's writes, and everything that was acknowledged before it began.
#[test]
fn a_checkpoint_restores_to_one_moment() {
    let bench = Bench::new();
    let database = bench.open();
    for n in 0..3000 {
        bench.run(&database, &["SET", &format!("filler:{n}"), "some value to make segments real"]);
    }
    for slot in [4000, 8192, 12000] {
        assert_eq!(bench.runtime.block_on(database.split(slot)), Ok(true));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged: Arc<Vec<AtomicU64>> = Arc::new((0..8).map(|_| AtomicU64::new(0)).collect());
    let writers: Vec<_> = (0..8)
        .map(|pair| {
            let (database, stop, acknowledged) = (Arc::clone(&database), Arc::clone(&stop), Arc::clone(&acknowledged));
            bench.runtime.spawn(async move {
                let mut n = 0_u64;
                while !stop.load(Ordering::SeqCst) {
                    n += 1;
                    let (value, noise) = (n.to_string(), format!("noise:{pair}:{n}"));
                    let (left, right) = (format!("left:{pair}"), format!("right:{pair}"));
                    let words = ["MSET", &left, &value, &right, &value, &noise, &value];
                    assert_eq!(run(&database, &words).await, "+OK\r\n");
                    acknowledged[pair].store(n, Ordering::SeqCst);
                    if n.is_multiple_of(16) {
                        tokio::task::yield_now().await;
                    }
                }
            })
        })
        .collect();
    for round in 0..25 {
        let before: Vec<u64> = acknowledged.iter().map(|n| n.load(Ordering::SeqCst)).collect();
        bench.runtime.block_on(database.checkpoint()).expect("the store is well");
        let restored = bench.peek();
        for (pair, before) in before.iter().enumerate() {
            let left = bench.run(&restored, &["GET", &format!("left:{pair}")]);
            let right = bench.run(&restored, &["GET", &format!("right:{pair}")]);
            assert_eq!(left, right, "round {round}, pair {pair}");
            let value: u64 = left.lines().nth(1).map_or(0, |digits| digits.parse().expect("a number"));
            assert!(value >= *before, "round {round}, pair {pair}: {value} is restored, {before} was acknowledged");
            // The noise of that same write is present, and none of a later one.
            let noise = |n: u64| bench.run(&restored, &["EXISTS", &format!("noise:{pair}:{n}")]);
            assert_eq!(noise(value), format!(":{}\r\n", u8::from(value > 0)), "round {round}, pair {pair}");
            assert_eq!(noise(value + 1), ":0\r\n", "round {round}, pair {pair}");
        }
        assert_eq!(bench.run(&restored, &["EXISTS", "filler:0", "filler:2999"]), ":2\r\n");
    }
    stop.store(true, Ordering::SeqCst);
    writers.into_iter().for_each(|writer| bench.runtime.block_on(writer).expect("it does not panic"));
}

/// Writers keep their own books while the database is split, merged, checkpointed and put to sleep.
#[test]
fn nothing_is_lost_however_the_shards_move() {
    let bench = Bench::new();
    let database = bench.open();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (1..=4)
        .map(|writer| {
            let (database, stop) = (Arc::clone(&database), Arc::clone(&stop));
            bench.runtime.spawn(keep_books(database, stop, writer))
        })
        .collect();
    let mut chance = Rng::with_seed(1);
    for _ in 0..150 {
        let slot = chance.u64(..16384) as u16;
        match chance.u64(..8) {
            0..=2 => drop(bench.runtime.block_on(database.split(slot)).expect("it can be split")),
            3 | 4 => {
                let firsts = database.topology().map(|topology| topology.firsts.clone()).unwrap_or_default();
                if let Some(&first) = firsts.get(usize::from(slot) % firsts.len().max(1)) {
                    bench.runtime.block_on(database.merge(first)).expect("it can be merged");
                }
            }
            5 | 6 => drop(bench.runtime.block_on(database.checkpoint()).expect("the store is well")),
            _ => drop(bench.runtime.block_on(database.sleep()).expect("the store is well")),
        }
    }
    stop.store(true, Ordering::SeqCst);
    let books: Vec<_> =
        writers.into_iter().map(|writer| bench.runtime.block_on(writer).expect("it does not panic")).collect();
    let verify = |database: &Arc<Database>| {
        let mut keys = 0;
        for (key, value) in books.iter().flatten() {
            keys += usize::from(value.is_some());
            let expected = value.as_ref().map_or("$-1\r\n".to_string(), |value| bulk(value));
            assert_eq!(bench.run(database, &["GET", key]), expected, "{key}");
        }
        assert_eq!(bench.run(database, &["DBSIZE"]), format!(":{keys}\r\n"));
        assert_eq!(scanned(&bench, database).len(), keys);
    };
    verify(&database);
    bench.runtime.block_on(database.sleep()).expect("the store is well");
    verify(&database);
    verify(&bench.peek());
}

/// Writes and reads keys that only this writer uses. Returns the expected value of each.
async fn keep_books(database: Arc<Database>, stop: Arc<AtomicBool>, writer: u64) -> BTreeMap<String, Option<String>> {
    let mut book: BTreeMap<String, Option<String>> = BTreeMap::new();
    let mut chance = Rng::with_seed(writer);
    let mut n = 0_u64;
    while !stop.load(Ordering::SeqCst) {
        n += 1;
        let key = format!("w{writer}:{}", chance.u64(..2000));
        match chance.u64(..10) {
            0 | 1 => {
                let had = book.insert(key.clone(), None).flatten().is_some();
                assert_eq!(run(&database, &["DEL", &key]).await, format!(":{}\r\n", u8::from(had)), "{key}");
            }
            2 => {
                let expected = book.get(&key).cloned().flatten();
                let reply = run(&database, &["GET", &key]).await;
                assert_eq!(reply, expected.map_or("$-1\r\n".to_string(), |value| bulk(&value)), "{key}");
            }
            3 => {
                let value = book.get(&key).cloned().flatten().unwrap_or_default() + "+";
                assert_eq!(run(&database, &["APPEND", &key, "+"]).await, format!(":{}\r\n", value.len()), "{key}");
                book.insert(key, Some(value));
            }
            _ => {
                let value = format!("{n}-{}", "v".repeat(chance.u64(..100) as usize));
                assert_eq!(run(&database, &["SET", &key, &value]).await, "+OK\r\n");
                book.insert(key, Some(value));
            }
        }
        if n.is_multiple_of(8) {
            tokio::task::yield_now().await;
        }
    }
    book
}

/// Returns all keys by SCAN, from the first cursor to the last.
fn scanned(bench: &Bench, database: &Arc<Database>) -> BTreeSet<String> {
    let (mut keys, mut cursor) = (BTreeSet::new(), "0".to_string());
    loop {
        let reply = bench.run(database, &["SCAN", &cursor, "COUNT", "100"]);
        let mut lines = reply.split("\r\n").filter(|line| !line.starts_with(['*', '$']) && !line.is_empty());
        cursor = lines.next().expect("a cursor").to_string();
        keys.extend(lines.map(str::to_string));
        if cursor == "0" {
            return keys;
        }
    }
}

/// A few changed keys of a large place go into the tail. Logged or not, they must be told from the keys in the place's
/// body.
#[test]
fn sparse_changes_survive_in_every_window() {
    for window in [Window::None, Window::Ms(1000), Window::Zero] {
        let bench = Bench::new();
        let database = bench.open();
        database.shared.journal.declare(window);
        for n in 0..3000 {
            bench.run(&database, &["SET", &format!("key:{n}"), "old"]);
        }
        let mut expected = "old".to_string();
        for round in 0..30 {
            assert_eq!(bench.run(&database, &["GET", "key:7"]), bulk(&expected), "{window}, round {round}");
            assert_eq!(bench.run(&database, &["EXISTS", "gone"]), ":0\r\n", "{window}, round {round}");
            expected = format!("new:{round}");
            bench.run(&database, &["SET", "key:7", &expected]);
            bench.run(&database, &["SET", "gone", "v"]);
            if round % 3 == 0 {
                bench.runtime.block_on(database.checkpoint()).expect("the store is well");
            }
            bench.run(&database, &["DEL", "gone"]);
            if round % 3 != 1 {
                bench.runtime.block_on(database.sleep()).expect("the store is well");
                assert_eq!(database.stored_counts()[0].0, 3000, "{window}, round {round}");
            }
        }
        let chunks = bench.runtime.block_on(bench.store.list("db/test/chunk")).expect("a listing");
        assert_eq!(chunks.len(), 1, "{window}: nothing was rewritten");
    }
}

/// Entries that a process logged for a checkpoint that it never committed are not taken by the next process. Its own
/// entries must not be mistaken for them, nor they for its own.
#[test]
fn what_was_logged_for_a_checkpoint_that_failed_is_left_out_for_ever() {
    for windows in [[Window::None; 3], [Window::None, Window::Ms(1000), Window::Ms(1000)]] {
        let bench = Bench::new();
        let first = bench.open();
        bench.run(&first, &["SET", "a", "first"]);
        bench.runtime.block_on(first.checkpoint()).expect("the store is well");
        for (round, window) in windows.into_iter().enumerate() {
            let database = bench.open();
            database.shared.journal.declare(window);
            assert_eq!(bench.run(&database, &["GET", "a"]), bulk("first"), "{window}, round {round}");
            assert_eq!(bench.run(&database, &["EXISTS", "b"]), ":0\r\n", "{window}, round {round}");
            if window != Window::None {
                break;
            }
            bench.run(&database, &["SET", "a", "lost"]);
            bench.faults.hold_puts();
            let before = bench.faults.puts();
            let checkpoint = {
                let database = Arc::clone(&database);
                bench.runtime.spawn(async move { database.checkpoint().await })
            };
            while bench.faults.puts() == before {
                std::thread::yield_now();
            }
            bench.run(&database, &["SET", "b", "logged"]);
            bench.run(&database, &["FLUSHALL"]);
            database.engine.log.as_ref().expect("a log").flush().expect("the log is well");
            bench.faults.fail(StoreRequest::Put, 0, 1, StoreFault::Lost);
            bench.faults.release_puts();
            bench.runtime.block_on(checkpoint).expect("it does not panic").expect_err("the put was lost");
            bench.faults.revive();
        }
        let database = bench.open();
        database.shared.journal.declare(windows[2]);
        bench.run(&database, &["SET", "b", "kept"]);
        match windows[2] {
            Window::None => drop(bench.runtime.block_on(database.checkpoint()).expect("the store is well")),
            _ => database.engine.log.as_ref().expect("a log").flush().expect("the log is well"),
        }
        for _ in 0..2 {
            let database = bench.open();
            database.shared.journal.declare(windows[2]);
            assert_eq!(bench.run(&database, &["MGET", "a", "b"]), "*2\r\n$5\r\nfirst\r\n$4\r\nkept\r\n", "{windows:?}");
        }
    }
}

/// A process that cannot read the manifest does not know whose the log's entries are, so it must not remove any.
#[test]
fn a_manifest_that_cannot_be_read_costs_nothing_of_the_log() {
    let bench = Bench::new();
    let first = bench.open();
    first.shared.journal.declare(Window::Zero);
    bench.run(&first, &["SET", "a", "1"]);
    bench.runtime.block_on(first.checkpoint()).expect("the store is well");
    bench.run(&first, &["SET", "a", "2"]);
    first.engine.log.as_ref().expect("a log").flush().expect("the log is well");
    bench.faults.fail(StoreRequest::Get, 0, 1, StoreFault::Lost);
    let second = bench.open();
    second.engine.log.as_ref().expect("a log").remove_settled().expect("the log is well");
    assert_eq!(bench.run(&bench.open(), &["GET", "a"]), bulk("2"));
}

/// A window that is declared later holds from its reply on, even if the first attempt failed.
#[test]
fn a_window_is_kept_from_when_it_was_answered() {
    let bench = Bench::new();
    let database = bench.open();
    bench.run(&database, &["SET", "a", "before"]);
    database.shared.journal.declare(Window::Zero);
    bench.faults.fail(StoreRequest::Put, 0, 1, StoreFault::Full);
    bench.runtime.block_on(database.secure()).expect_err("the checkpoint fails");
    bench.runtime.block_on(database.secure()).expect("the store is well");
    bench.run(&database, &["SET", "b", "after"]);
    database.engine.log.as_ref().expect("a log").flush().expect("the log is well");
    assert_eq!(bench.run(&bench.open(), &["MGET", "a", "b"]), "*2\r\n$6\r\nbefore\r\n$5\r\nafter\r\n");
}

/// The window is in the store once it was acknowledged, whatever the database has been doing, and not if it was
/// refused.
#[test]
fn a_declared_window_is_found_by_whoever_comes_next() {
    let keep =
        |bench: &Bench, database: &Arc<Database>, window| bench.runtime.block_on(database.declare_window(window));
    for written in [false, true] {
        for asleep in [false, true] {
            for checkpoints in [0, 2] {
                let bench = Bench::new();
                let first = bench.open();
                assert_eq!(first.own_window(), None);
                if written {
                    first.shared.journal.declare(Window::Zero);
                    bench.run(&first, &["SET", "a", "1"]);
                }
                for _ in 0..checkpoints {
                    bench.runtime.block_on(first.checkpoint()).expect("the store is well");
                }
                if asleep {
                    bench.runtime.block_on(first.sleep()).expect("the store is well");
                }
                let log = first.engine.log.as_ref().expect("a log");
                log.flush().expect("the log is well");
                for window in [Window::Zero, Window::None, Window::Zero] {
                    keep(&bench, &first, window).expect("the store is well");
                    assert_eq!(first.own_window(), Some(window));
                    assert_eq!(bench.peek().own_window(), Some(window));
                }
                for (refused, fault) in [(Window::Ms(500), StoreFault::Full), (Window::None, StoreFault::Unanswered)] {
                    bench.faults.fail(StoreRequest::Put, 0, 1, fault);
                    keep(&bench, &first, refused).expect_err("the put fails");
                    assert_eq!(first.own_window(), Some(Window::Zero));
                    assert_eq!(first.shared.journal.window(), Window::Zero);
                }
                assert_eq!(bench.peek().own_window(), Some(Window::None), "nobody could tell");
                if !written {
                    keep(&bench, &first, Window::Zero).expect("the store is well");
                    assert_eq!(bench.peek().own_window(), Some(Window::Zero));
                } else if !asleep {
                    bench.runtime.block_on(first.checkpoint()).expect("the store is well");
                    assert_eq!(bench.peek().own_window(), Some(Window::Zero));
                }
                bench.run(&first, &["SET", "b", "2"]);
                bench.runtime.block_on(first.checkpoint()).expect("the store is well");
                bench.run(&first, &["SET", "c", "3"]);
                log.flush().expect("the log is well");
                let second = bench.open();
                assert_eq!(second.own_window(), Some(Window::Zero));
                assert_eq!(second.shared.journal.window(), Window::Zero);
                let a = if written { "$1\r\n1" } else { "$-1" };
                assert_eq!(
                    bench.run(&second, &["MGET", "a", "b", "c"]),
                    format!("*3\r\n{a}\r\n$1\r\n2\r\n$1\r\n3\r\n")
                );
            }
        }
    }
}

/// Only a process that may write the database may declare a window for it.
#[test]
fn a_window_cannot_be_declared_for_what_another_process_writes() {
    let bench = Bench::new();
    let first = bench.open();
    bench.run(&first, &["SET", "a", "1"]);
    bench.runtime.block_on(first.checkpoint()).expect("the store is well");
    let second = bench.open();
    bench.run(&second, &["SET", "a", "2"]);
    bench.runtime.block_on(second.checkpoint()).expect("the store is well");
    let refused = bench.runtime.block_on(first.declare_window(Window::None)).expect_err("it is overtaken").to_string();
    assert!(refused.contains("taken over"), "{refused}");
    assert_eq!(bench.peek().own_window(), None);
    assert_eq!(bench.run(&second, &["GET", "a"]), bulk("2"));
}

/// A process that takes a database over takes its window over, even one that was declared after this process had
/// looked.
#[test]
fn a_window_is_taken_over_with_the_database() {
    let bench = Bench::new();
    let before = bench.open();
    bench.run(&before, &["SET", "a", "1"]);
    bench.runtime.block_on(before.checkpoint()).expect("the store is well");
    let first = bench.open();
    let second = bench.open();
    bench.runtime.block_on(second.declare_window(Window::Zero)).expect("the store is well");
    assert_eq!(first.own_window(), None);
    let third = bench.open();
    let fourth = bench.open();
    bench.runtime.block_on(second.declare_window(Window::Ms(10))).expect("nobody has taken it over yet");
    assert_eq!(third.own_window(), Some(Window::Zero));
    bench.run(&third, &["GET", "a"]);
    assert_eq!(third.own_window(), Some(Window::Ms(10)));
    // Its view of the store is outdated, but its declaration still counts.
    bench.runtime.block_on(fourth.declare_window(Window::None)).expect("it takes the database over");
    assert_eq!(bench.peek().own_window(), Some(Window::None));
}

#[test]
fn a_damaged_chunk_is_named_and_kept() {
    let bench = Bench::new();
    let database = bench.open();
    let names: Vec<String> = (0..5000).map(|n| format!("key:{n}")).collect();
    for name in &names {
        bench.run(&database, &["SET", name, "value"]);
    }
    bench.runtime.block_on(database.sleep()).expect("the store is well");
    drop(database);
    let chunk = first_object(&bench, "chunk");
    // In the middle of the first body.
    bench.faults.flip(&chunk, 200);
    let database = bench.open();
    let replies: BTreeMap<&String, String> =
        names.iter().map(|name| (name, bench.run(&database, &["GET", name]))).collect();
    let failed: Vec<_> = replies.values().filter(|reply| reply.starts_with("-STORE")).collect();
    assert!(!failed.is_empty() && failed.len() < replies.len(), "{} of {} failed", failed.len(), replies.len());
    assert!(failed.iter().all(|reply| reply.contains(&chunk)), "{}", failed[0]);
    // Readable data stays readable, and nothing is overwritten.
    let (alive, _) = replies.iter().find(|(_, reply)| **reply == bulk("value")).expect("most are alive");
    assert_eq!(bench.run(&database, &["SET", alive, "new"]), "+OK\r\n");
    bench.runtime.block_on(database.sleep()).expect("what is well is written");
    let after = bench.runtime.block_on(bench.store.list("db/test/chunk")).expect("a listing");
    assert!(after.iter().any(|object| object.name == chunk));
    assert_eq!(bench.run(&bench.peek(), &["GET", alive]), bulk("new"));
}

#[test]
fn a_missing_chunk_and_a_damaged_manifest_are_named() {
    let bench = Bench::new();
    let database = bench.open();
    bench.run(&database, &["SET", "a", "1"]);
    bench.runtime.block_on(database.sleep()).expect("the store is well");
    let chunk = first_object(&bench, "chunk");
    bench.faults.hide(&chunk);
    let reply = bench.run(&bench.peek(), &["GET", "a"]);
    assert!(reply.starts_with("-STORE") && reply.contains(&chunk), "{reply}");
    let manifest = first_object(&bench, "manifest");
    bench.faults.flip(&manifest, 60);
    let damaged = bench.open();
    for words in [&["GET", "a"][..], &["SET", "a", "2"]] {
        let reply = bench.run(&damaged, words);
        assert!(reply.starts_with("-STORE") && reply.contains(&manifest), "{reply}");
    }
}

#[test]
fn a_sleep_keeps_the_meters_of_a_database_that_was_only_read() {
    let bench = Bench::new();
    let database = bench.open();
    let metered = Arc::new(AtomicU64::new(1));
    let of = Arc::clone(&metered);
    database.keep_meters(Box::new(move || of.load(Ordering::SeqCst).to_le_bytes().to_vec()));
    bench.run(&database, &["SET", "a", "1"]);
    bench.runtime.block_on(database.sleep()).expect("the store is well");
    metered.store(2, Ordering::SeqCst);
    assert_eq!(bench.run(&database, &["GET", "a"]), bulk("1"));
    bench.runtime.block_on(database.sleep()).expect("the store is well");
    assert_eq!(bench.open().saved_meters(), 2_u64.to_le_bytes());
}

#[test]
fn the_one_who_was_overtaken_stops_writing() {
    let bench = Bench::new();
    let (first, second) = (bench.open(), bench.open());
    bench.run(&first, &["SET", "a", "first"]);
    bench.run(&second, &["SET", "a", "second"]);
    bench.runtime.block_on(second.sleep()).expect("the first to commit");
    let error = bench.runtime.block_on(first.sleep()).expect_err("overtaken").to_string();
    assert!(error.contains("taken over"), "{error}");
    for words in [&["GET", "a"][..], &["SET", "a", "again"]] {
        let reply = bench.run(&first, words);
        assert!(reply.starts_with("-STORE") && reply.contains("taken over by another"), "{reply}");
    }
    assert_eq!(bench.run(&bench.peek(), &["GET", "a"]), bulk("second"));
}

#[test]
fn expired_keys_do_not_come_back() {
    let bench = Bench::new();
    let database = bench.open();
    bench.run(&database, &["SET", "gone", "v", "PXAT", &(NOW_MS + 5).to_string()]);
    bench.run(&database, &["SET", "stays", "v", "PXAT", &(NOW_MS + 1_000_000).to_string()]);
    bench.runtime.block_on(database.sleep()).expect("the store is well");
    let at = |words: &'static [&'static str]| bench.runtime.block_on(run_at(&database, words, NOW_MS + 10));
    assert_eq!(at(&["GET", "gone"]), "$-1\r\n");
    assert_eq!(at(&["GET", "stays"]), bulk("v"));
    assert_eq!(at(&["PTTL", "stays"]), ":999990\r\n");
}

#[test]
fn active_expiry_reaches_the_end_and_begins_again() {
    static CLOCK_MS: AtomicU64 = AtomicU64::new(0);
    let bench = Bench::at(|| CLOCK_MS.load(Ordering::SeqCst));
    let database = bench.open();
    for round in 0..2 {
        CLOCK_MS.store(NOW_MS - 10, Ordering::SeqCst);
        for n in 0..20_000 {
            let (key, at) = (format!("key:{n}"), (NOW_MS - 1).to_string());
            bench.runtime.block_on(run_at(&database, &["SET", &key, "v", "PXAT", &at], NOW_MS - 10));
        }
        if round == 1 {
            // The position where expiry continues is in another shard now.
            bench.runtime.block_on(database.split(100)).expect("it can be split");
        }
        CLOCK_MS.store(NOW_MS, Ordering::SeqCst);
        for _ in 0..200 {
            database.expire_slice(500);
        }
        assert_eq!(bench.run(&database, &["DBSIZE"]), ":0\r\n");
    }
}

#[test]
fn a_count_does_not_wait_and_counts_both_halves_of_a_split() {
    let bench = Bench::new();
    let database = bench.open();
    for n in 0..1000 {
        bench.run(&database, &["SET", &format!("key:{n}"), "v"]);
    }
    let gates = database.topology().expect("it is awake").shards.clone();
    let held = bench.runtime.block_on(hold(gates));
    assert_eq!(database.counts()[0].0, 1000);
    drop(held);
    for (split, key) in [(true, 1001), (false, 1002)] {
        let done = async { if split { database.split(8192).await } else { database.merge(8192).await } };
        assert_eq!(bench.runtime.block_on(done), Ok(true));
        let used = database.used_bytes();
        bench.run(&database, &["SET", &format!("key:{key}"), "v"]);
        assert_eq!(database.counts()[0].0, key);
        let shards = database.shards(false);
        assert_eq!(shards.iter().map(|shard| shard.keys as u64).sum::<u64>(), database.counts()[0].0);
        assert_eq!(shards.iter().map(|shard| shard.bytes).sum::<usize>(), database.used_bytes());
        assert!(database.used_bytes() > used);
    }
}

fn explode(_: &mut Keyspace<'_>, _: &mut Reply, _: Words<'_>) -> Result<(), Error> {
    panic!("a command that goes wrong");
}

/// A command that panics costs its client an error, and other clients nothing.
#[test]
fn a_panic_wedges_nothing() {
    let bench = Bench::new();
    let database = bench.open();
    bench.run(&database, &["SET", "a", "1"]);
    let broken = |name: &str| plan(&[name, "a"], Some(explode), NOW_MS);
    let turn = || Arc::new(Turn::endless(None));
    // On the slow lane, more often than it has threads.
    for _ in 0..5 {
        assert!(bench.runtime.block_on(execution::run(&database, &broken("KEYS"), &turn())).is_err());
    }
    assert_eq!(bench.run(&database, &["KEYS", "*"]), "*1\r\n$1\r\na\r\n");
    // Left as a job, and run by another caller that releases the lock.
    let gates = database.topology().expect("it is awake").shards.clone();
    let outcome = bench.runtime.block_on(async {
        let held = hold(gates).await;
        let (plan, turn) = (broken("GET"), turn());
        tokio::join!(execution::run(&database, &plan, &turn), async { drop(held) }).0
    });
    assert!(outcome.is_err());
    assert_eq!(bench.run(&database, &["GET", "a"]), bulk("1"));
}

/// The manifest does not count the keys of the tail.
#[test]
fn keys_of_the_tail_are_counted_at_once() {
    let bench = Bench::new();
    let database = bench.open();
    let mut tails = 0;
    for round in 0..200 {
        let checkpoint = {
            let database = Arc::clone(&database);
            bench.runtime.spawn(async move { database.checkpoint().await })
        };
        for n in 0..50 {
            bench.run(&database, &["SET", &format!("key:{round}:{n}"), "v"]);
        }
        let report = bench.runtime.block_on(checkpoint).expect("it does not panic").expect("the store is well");
        if report.effects > 0 {
            tails += 1;
            let restored = bench.peek();
            let size = bench.run(&restored, &["DBSIZE"]);
            let random = bench.run(&bench.peek(), &["RANDOMKEY"]);
            assert_ne!(random, "$-1\r\n");
            bench.runtime.block_on(restored.load_all()).expect("the store is well");
            assert_eq!(size, bench.run(&restored, &["DBSIZE"]), "round {round}");
        }
    }
    assert!(tails > 0, "no checkpoint had a tail");
}

/// Its effects stay in the tail, and the rest can still be written.
#[test]
fn a_place_that_cannot_be_loaded_keeps_its_effects() {
    let bench = Bench::new();
    let database = bench.open();
    for n in 0..5000 {
        bench.run(&database, &["SET", &format!("key:{n}"), "v"]);
    }
    bench.runtime.block_on(database.checkpoint()).expect("the store is well");
    let mut n = 0_u64;
    loop {
        let checkpoint = {
            let database = Arc::clone(&database);
            bench.runtime.spawn(async move { database.checkpoint().await })
        };
        for _ in 0..50 {
            n += 1;
            bench.run(&database, &["INCR", "hot"]);
        }
        if bench.runtime.block_on(checkpoint).expect("it does not panic").expect("the store is well").effects > 0 {
            break;
        }
    }
    drop(database);
    let expected = bench.run(&bench.peek(), &["GET", "hot"]);
    let manifest =
        bench.runtime.block_on(manifest::latest(&bench.store, "test")).expect("readable").expect("a manifest");
    let hot = SlotPlacement { seed: manifest.seed }.position(b"hot");
    let segment = manifest.segment(0, prefix53(hot)).expect("it was written");
    let chunk = manifest.chunks[segment.location.chunk as usize].name.clone();
    bench.faults.flip(&chunk, segment.location.offset as usize + 20);
    let database = bench.open();
    assert!(bench.run(&database, &["GET", "hot"]).starts_with("-STORE"), "after {n}");
    let alive =
        (0..5000).map(|n| format!("key:{n}")).find(|key| bench.run(&database, &["SET", key, "new"]) == "+OK\r\n");
    let alive = alive.expect("most can be loaded");
    for _ in 0..2 {
        bench.runtime.block_on(database.checkpoint()).expect("the rest is written");
    }
    assert_eq!(bench.run(&bench.peek(), &["GET", &alive]), bulk("new"));
    assert_eq!(bench.runtime.block_on(database.sleep()), Ok(SleepOutcome::FellAsleep));
    bench.faults.mend(&chunk);
    assert_eq!(bench.run(&database, &["GET", "hot"]), expected);
    assert_eq!(bench.run(&bench.peek(), &["GET", "hot"]), expected);
}

/// Work that has not begun when its time is up, or when its client disconnects, never begins, whatever it waits for.
#[test]
fn a_command_whose_turn_does_not_come_is_not_run() {
    let bench = Bench::new();
    let database = bench.open();
    bench.run(&database, &["SET", "n", "0"]);
    bench.runtime.block_on(database.split(8192)).expect("it can be split");
    let (places, account) = (
        Places { max: 1, of_database: usize::MAX, databases: 1, is_out_of_memory: false },
        Account::new("limit", usize::MAX),
    );
    let client = Clients::default()
        .add(Peer::Unix("test".into()), &"test".into(), &account, NOW_MS, places)
        .expect("there is room");
    let gates = || database.topology().expect("it is awake").shards.clone();
    for words in
        [&["INCR", "n"][..], &["MSET", "n", "5", "other", "5", "more", "5"], &["SORT", "n", "BY", "n*", "STORE", "n"]]
    {
        let turn = Arc::new(Turn::new(Instant::now(), Some(Duration::from_millis(20)), client.clone()));
        let late = bench.runtime.block_on(async {
            let held = hold(gates()).await;
            let late = execution::run(&database, &plan(words, None, NOW_MS), &turn).await;
            drop(held);
            late
        });
        let text = late.expect_err("it was not its turn").to_string();
        let late = |waits| format!("TIMEOUT no reply within 20 ms: the command waited for {waits} and was not run");
        // A slow command waits first for a thread, and there for the lock.
        let is_slow = words[0] == "SORT" && text == late("its turn on the slow lane");
        assert!(is_slow || text == late("the lock of a shard"), "{text}");
        assert_eq!(bench.run(&database, &["GET", "n"]), bulk("0"), "{words:?}");
    }
    // A client that disconnects while it waits without a limit.
    let turn = Arc::new(Turn::new(Instant::now(), None, client.clone()));
    bench.runtime.block_on(async {
        let held = hold(gates()).await;
        let going = async {
            client.kill();
            drop(held);
        };
        let plan = plan(&["INCR", "n"], None, NOW_MS);
        let (gone, ()) = tokio::join!(execution::run(&database, &plan, &turn), going);
        assert!(gone.is_err());
    });
    assert_eq!(bench.run(&database, &["GET", "n"]), bulk("0"));
}

/// Staged data is dropped only if no client is filling it when the locks are held, not when they are requested.
#[test]
fn an_import_that_begins_meanwhile_is_not_dropped() {
    let bench = Bench::new();
    let database = bench.open();
    bench.run(&database, &["SET", "n", "0"]);
    let filling = AtomicBool::new(false);
    let staging = |begins: bool| {
        let (_, held) = bench.runtime.block_on(database.hold_all()).expect("it is awake");
        let mut contents: Vec<_> = held.iter().map(|held| held.contents()).collect();
        let parts = contents.iter_mut().map(|contents| &mut **contents);
        let mut db = Keyspace::new(parts, &database.shared, 0, NOW_MS, 1);
        if begins {
            db.begin_staging();
        }
        db.is_staging()
    };
    assert!(staging(true));
    bench.runtime.block_on(async {
        let held = hold(database.topology().expect("it is awake").shards.clone()).await;
        let mut settling = std::pin::pin!(database.settle_import(|| filling.load(Ordering::SeqCst)));
        assert!(futures::poll!(settling.as_mut()).is_pending());
        filling.store(true, Ordering::SeqCst);
        drop(held);
        settling.await;
    });
    assert!(staging(false), "a client fills it");
    filling.store(false, Ordering::SeqCst);
    bench.runtime.block_on(database.settle_import(|| filling.load(Ordering::SeqCst)));
    assert!(!staging(false));
}

/// A branch is made of visible data: it keeps no object alive that only an import has filled.
#[test]
fn a_branch_names_no_chunk_of_what_is_staged() {
    let bench = Bench::new();
    let database = bench.open();
    bench.run(&database, &["SET", "n", "0"]);
    bench.runtime.block_on(database.checkpoint()).expect("the store is well");
    {
        let (_, held) = bench.runtime.block_on(database.hold_all()).expect("it is awake");
        let mut contents: Vec<_> = held.iter().map(|held| held.contents()).collect();
        let parts = contents.iter_mut().map(|contents| &mut **contents);
        let mut db = Keyspace::new(parts, &database.shared, 0, NOW_MS, 1);
        db.begin_staging();
        db.select(INDEXES as u8);
        for key in 0..1000 {
            db.set_string(format!("staged:{key}").as_bytes(), &[b'x'; 100], Expiry::None);
        }
        db.finish();
    }
    bench.runtime.block_on(database.branch("branch", None)).expect("the store is well");
    let latest =
        |name| bench.runtime.block_on(manifest::latest(&bench.store, name)).expect("readable").expect("a manifest");
    let (source, branch) = (latest("test"), latest("branch"));
    let used: BTreeSet<u32> = branch.locations().map(|location| location.chunk).collect();
    assert!(source.chunks.len() > used.len(), "what is staged is in a chunk of its own");
    assert_eq!(branch.chunks.len(), used.len());
}
