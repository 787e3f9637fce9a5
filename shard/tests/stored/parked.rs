//! Large values that change while a checkpoint of one moment writes them: it writes them as they were, whatever becomes
//! of them, and keeps nothing else for it.

use std::sync::Arc;

use crate::bench::Bench;
use dormouse_shard::keyspace::{EngineSettings, Eviction};
use dormouse_storage::codec::value::pieces::Sizes;

const FIELDS: usize = 2000;

/// Returns the names of all elements that a value was made of.
fn names(from: usize) -> String {
    (from..FIELDS).map(|n| format!("element-{n}")).collect::<Vec<_>>().join(" ")
}

fn pairs() -> String {
    (0..FIELDS).map(|n| format!("{n} element-{n}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn what_is_emptied_shrunk_or_replaced_meanwhile_is_written_as_it_was() {
    let bench = Bench::new();
    let shared = &bench.database.shared;
    let sizes = Sizes { large_bytes: 4096, piece_bytes: 2048, step_bytes: 512 };
    let settings = EngineSettings { sizes, ..**shared.settings.load() };
    shared.settings.store(Arc::new(settings));
    let fields: Vec<String> = (0..FIELDS).map(|n| format!("element-{n} v")).collect();
    let kinds = [
        ("hash", "HSET", fields.join(" ")),
        ("set", "SADD", names(0)),
        ("sorted", "ZADD", pairs()),
        ("list", "RPUSH", names(0)),
    ];
    let ways = ["emptied", "deleted", "set", "renamed", "copied", "expired"];
    for (kind, command, elements) in &kinds {
        for way in ways {
            bench.line(&format!("{command} {kind}:{way} {elements}"));
        }
    }
    bench.line("SET small v");
    let shrink = |kind: &str, key: &str, to: usize| match kind {
        "hash" => format!("HDEL {key} {}", names(to)),
        "set" => format!("SREM {key} {}", names(to)),
        "sorted" => format!("ZREM {key} {}", names(to)),
        _ if to == 0 => format!("LTRIM {key} 1 0"),
        _ => format!("LTRIM {key} 0 {}", to - 1),
    };
    let touch = |kind: &str, key: &str, turn: usize| match kind {
        "hash" => format!("HSET {key} again {turn}"),
        "set" => format!("SADD {key} again:{turn}"),
        "sorted" => format!("ZADD {key} {turn} again"),
        _ => format!("RPUSH {key} again"),
    };
    bench.runtime.block_on(async {
        let database = Arc::clone(&bench.database);
        let sleep = tokio::spawn(async move { database.sleep().await });
        // The checkpoint of one moment has to write the data that is newer than the previous checkpoints.
        let mut turns = 0;
        while !shared.parked.is_open() {
            for (kind, ..) in &kinds {
                for way in ways {
                    bench.line_beside(&touch(kind, &format!("{kind}:{way}"), turns)).await;
                }
            }
            tokio::task::yield_now().await;
            turns += 1;
            assert!(turns < 100_000 && !sleep.is_finished(), "no moment came");
        }
        let before = bench.database.used_bytes();
        for (kind, ..) in &kinds {
            for way in ways {
                let key = format!("{kind}:{way}");
                bench.line_beside(&shrink(kind, &key, 2)).await;
                let last = match way {
                    "emptied" => format!("DEL {key} none"),
                    "deleted" => format!("UNLINK {key}"),
                    "set" => format!("SET {key} v"),
                    "renamed" => format!("RENAME {key} {key}:new"),
                    "copied" => format!("COPY small {key} REPLACE"),
                    _ => format!("PEXPIREAT {key} 1"),
                };
                if way == "emptied" {
                    bench.line_beside(&shrink(kind, &key, 0)).await;
                }
                bench.line_beside(&last).await;
            }
        }
        assert!(shared.parked.is_open(), "it was over before anything had changed");
        let parked = bench.database.used_bytes();
        assert!(parked > before / 4, "what is parked counts: {parked} bytes of {before}");
        // Values that are made and dropped now do not belong to that moment.
        for _ in 0..50 {
            bench.line_beside(&format!("SADD later {}", names(0))).await;
            bench.line_beside("DEL later").await;
        }
        assert!(bench.database.used_bytes() <= parked + 4096, "what came later is not parked");
        let slept = sleep.await.expect("it does not panic");
        assert!(slept.is_ok(), "{slept:?}");
    });
    assert!(!shared.parked.is_open());
    assert_eq!(bench.line("GET set:set"), "$1\r\nv\r\n");
    assert_eq!(bench.line("EXISTS set:renamed:new set:copied hash:emptied list:expired"), ":2\r\n");
    let used = bench.database.used_bytes();
    assert!(used < 1 << 20, "what was parked does not count any more: {used}");
}

/// Values that the checkpoint writes cannot be dropped meanwhile. A write that needs their room waits for its end.
#[test]
fn a_write_waits_for_the_room_of_what_is_written() {
    const SETS: usize = 12;
    let bench = Bench::new();
    let shared = &bench.database.shared;
    let sizes = Sizes { large_bytes: 4096, piece_bytes: 2048, step_bytes: 512 };
    shared.settings.store(Arc::new(EngineSettings { sizes, ..**shared.settings.load() }));
    for n in 0..SETS {
        bench.line(&format!("SADD set:{n} {}", names(0)));
    }
    bench.runtime.block_on(async {
        let database = Arc::clone(&bench.database);
        let sleep = tokio::spawn(async move { database.sleep().await });
        let mut turn = 0;
        while !shared.parked.is_open() {
            turn += 1;
            for n in 0..SETS {
                bench.line_beside(&format!("SADD set:{n} again:{turn}")).await;
            }
            tokio::task::yield_now().await;
            assert!(!sleep.is_finished(), "no moment came");
        }
        let memory_max = bench.database.used_bytes() + 8192;
        let eviction = Eviction::AllKeysRandom;
        shared.settings.store(Arc::new(EngineSettings { memory_max, eviction, ..**shared.settings.load() }));
        let text = "x".repeat(30_000);
        for n in 0..4 {
            assert_eq!(bench.line_beside(&format!("SET text:{n} {text}")).await, "+OK\r\n");
        }
        assert!(bench.database.used_bytes() <= memory_max + 4096);
        let slept = sleep.await.expect("it does not panic");
        assert!(slept.is_ok(), "{slept:?}");
    });
}

#[test]
fn what_is_flushed_meanwhile_is_written_as_it_was_and_counts() {
    let bench = Bench::new();
    let shared = &bench.database.shared;
    let sizes = Sizes { large_bytes: 4096, piece_bytes: 2048, step_bytes: 512 };
    shared.settings.store(Arc::new(EngineSettings { sizes, ..**shared.settings.load() }));
    bench.line(&format!("SADD set {}", names(0)));
    bench.runtime.block_on(async {
        let database = Arc::clone(&bench.database);
        let sleep = tokio::spawn(async move { database.sleep().await });
        let mut turn = 0;
        while !shared.parked.is_open() {
            turn += 1;
            bench.line_beside(&format!("SADD set again:{turn}")).await;
            tokio::task::yield_now().await;
            assert!(!sleep.is_finished(), "no moment came");
        }
        let before = bench.database.used_bytes();
        for _ in 0..20 {
            bench.line_beside("FLUSHALL").await;
            bench.line_beside(&format!("SADD later {}", names(0))).await;
        }
        assert!(shared.parked.is_open(), "it was over before anything had changed");
        let used = bench.database.used_bytes();
        assert!(used > before + before / 2 && used < before * 3, "{before}, then {used} bytes");
        let slept = sleep.await.expect("it does not panic");
        assert!(slept.is_ok(), "{slept:?}");
    });
    assert_eq!(bench.line("EXISTS set later"), ":1\r\n");
}
