//! The directory's format on disk stays readable, as `golden.rs` says of the others.

use std::collections::BTreeMap;
use std::{fs, path::PathBuf};

use dormouse_storage::directory::{
    DatabaseRecord, DirectoryChange, DirectoryEncoder, DirectoryKind, TokenRecord, TokenScope, format::decode,
};

const NOW_MS: u64 = 1_700_000_000_000;

fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/golden", name].iter().collect()
}

fn records() -> [DatabaseRecord; 3] {
    let token = |id: u32, scope: TokenScope, prefix: &[u8], expires_ms| TokenRecord {
        id,
        hash: std::array::from_fn(|at| at as u8 ^ id as u8),
        created_ms: NOW_MS,
        expires_ms,
        scope,
        prefix: prefix.into(),
    };
    let shop = DatabaseRecord {
        next_token: 12,
        tokens: vec![
            token(1, TokenScope::ReadWrite, b"", None),
            token(4, TokenScope::ReadOnly, b"public:", None),
            token(11, TokenScope::User("app".into()), b"\xff*", Some(NOW_MS + 60_000)),
        ],
        settings: BTreeMap::from([("max-memory".into(), "100mb".into()), ("sleep-after".into(), "1m".into())]),
        ..DatabaseRecord::new("shop", NOW_MS)
    };
    let old = DatabaseRecord { owner: Some("shop".into()), ..DatabaseRecord::new("pr-1", NOW_MS + 1) };
    let guest = DatabaseRecord {
        expires_ms: Some(NOW_MS + 72 * 3_600_000),
        is_unclaimed: true,
        ..DatabaseRecord::new("x.y", 300)
    };
    [old, shop, guest]
}

fn snapshot() -> Vec<u8> {
    let mut encoder = DirectoryEncoder::new(DirectoryKind::Snapshot, 41, 0x0123_4567_89ab_cdef, 3);
    records().iter().for_each(|record| encoder.put(&record.encode()));
    encoder.finish()
}

fn changes() -> Vec<DirectoryChange> {
    let [_, shop, guest] = records();
    vec![DirectoryChange::put(&shop), DirectoryChange::Remove("pr-1".into()), DirectoryChange::put(&guest)]
}

fn step() -> Vec<u8> {
    let changes = changes();
    let mut encoder = DirectoryEncoder::new(DirectoryKind::Changes, 42, 7, changes.len());
    changes.iter().for_each(|change| encoder.change(change));
    encoder.finish()
}

#[test]
fn directory_version_1() {
    let file = fs::read(path("directory-v1.bin")).expect("golden files are there");
    assert_eq!(decode(&file, DirectoryKind::Changes, 42), Ok(changes()));
    assert_eq!(step(), file, "what is written today is the same");
    let file = fs::read(path("directory-snapshot-v1.bin")).expect("golden files are there");
    let expected: Vec<DirectoryChange> = records().iter().map(DirectoryChange::put).collect();
    assert_eq!(decode(&file, DirectoryKind::Snapshot, 41), Ok(expected));
    assert_eq!(snapshot(), file, "what is written today is the same");
}

#[test]
#[ignore = "only for a new version"]
fn write_what_is_missing() {
    for (name, bytes) in [("directory-v1.bin", step()), ("directory-snapshot-v1.bin", snapshot())] {
        if !path(name).exists() {
            fs::write(path(name), bytes).expect("the folder can be written");
        }
    }
}
