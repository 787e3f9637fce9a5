//! Large values of every type pass a reader in pieces: they are exported, or left out, and counted.

use std::sync::Arc;

use crate::bench::{Bench, NOW_MS};
use dormouse_shard::export::{About, export};
use dormouse_shard::snapshot::Snapshot;
use dormouse_storage::codec::value::RdbReaders;
use dormouse_storage::log::recovery::Recovered;
use dormouse_storage::manifest;
use dormouse_storage::store::Store;

/// Enough elements for more than 64 KiB in each value.
const ELEMENTS: usize = 800;

/// Commands that make a large value of each type.
const COMMANDS: &[&str] = &[
    "APPEND text #",
    "RPUSH list #",
    "SADD set #",
    "HSET hash # v",
    "HSETEX expiring EX 100 FIELDS 1 # v",
    "ZADD sorted 1 #",
    "XADD stream * f #",
    "XADD named IDMP producer # * f #",
    "ARSET array # #",
    "VADD vectors VALUES 4 1 2 3 # #",
];

#[test]
fn large_values_of_every_type_are_passed_on() {
    let store = Arc::new(Store::memory());
    let bench = Bench::over(Arc::clone(&store), None);
    let padding = "0".repeat(100);
    for at in 1..=ELEMENTS {
        for command in COMMANDS {
            // Of these the first word is a number, and only the last one is padded.
            let line = if command.contains("VALUES") || command.starts_with("ARSET") {
                command.replacen('#', &at.to_string(), 1).replace('#', &format!("{padding}{at}"))
            } else {
                command.replace('#', &format!("{padding}{at}"))
            };
            let said = bench.line(&line);
            assert!(!said.starts_with('-') && !said.contains("ERR"), "{line}: {said}");
        }
    }
    let document = format!("[{}0]", "1234567,".repeat(20_000));
    for line in [format!("JSON.SET document $ {document}"), "BF.RESERVE bloom 0.001 100000".to_owned()] {
        assert_eq!(bench.line(&line), "+OK\r\n");
    }
    assert_eq!(bench.line("CF.RESERVE cuckoo 100000"), "+OK\r\n");
    bench.runtime.block_on(bench.database.sleep()).expect("the store takes all");

    let keys = COMMANDS.len() as u64 + 3;
    let snapshot = || Snapshot::open(&store, "test", Recovered::default());
    bench.runtime.block_on(async {
        let stored = manifest::latest(&store, "test").await.expect("readable").expect("a manifest");
        let snapshot = snapshot().await.expect("readable").expect("a database");
        assert!(stored.pieces.len() as u64 >= keys, "{} pieces", stored.pieces.len());
        let mut records = 0;
        for segment in &stored.segments {
            records += u64::from(snapshot.count(segment).await.expect("a count").records);
        }
        assert_eq!(records, keys);
    });
    for (target, left_out) in [(RdbReaders::REDIS_7_2, 5), (RdbReaders::REDIS_8, 3), (RdbReaders::VALKEY_9, 5)] {
        for json_as_string in [false, true] {
            let target = RdbReaders { json_as_string, ..target };
            let about = About { target, server: "7.2.0", now_ms: NOW_MS, keeps_expired: false };
            let exported = bench.runtime.block_on(async {
                let snapshot = snapshot().await.expect("readable").expect("a database");
                export(&snapshot, Vec::new(), about, &mut |_| {}).await
            });
            let (rdb, exported) = exported.unwrap_or_else(|error| panic!("{target:?}: {error}"));
            let left_out = left_out - u64::from(json_as_string);
            assert_eq!((exported.left_out, exported.keys), (left_out, keys - left_out), "{target:?}");
            assert_eq!(rdb.windows(document.len()).any(|bytes| bytes == document.as_bytes()), json_as_string);
        }
    }
}
