//! An encrypted store stays readable, as `golden.rs` says of the formats. Its bytes are random, so they were written once by
//! [`write_the_store`] and cannot be made again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use dormouse_storage::log::format::{EntryKind, Identity, write_effect};
use dormouse_storage::log::{Journal, Log};
use dormouse_storage::store::{MasterKey, Store, StoreAccess};
use futures::executor::block_on;

const CHUNK: &str = "db/default/chunk/1";
const WRITER: u64 = 0x00ff_1234_5678_9abc;
const NOW_MS: u64 = 1_700_000_000_000;

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/golden/encrypted-v1"].iter().collect()
}

fn master_key() -> MasterKey {
    MasterKey::of_bytes(std::array::from_fn(|at| at as u8))
}

fn object() -> Bytes {
    (0..40_000u32).map(|at| (at % 251) as u8).collect::<Vec<_>>().into()
}

fn identity() -> Identity {
    Identity { name: "default".into(), seed: 7, created_ms: NOW_MS }
}

fn items() -> Vec<u8> {
    let mut items = Vec::new();
    write_effect(&mut items, 0, 1 << 11, |body| body.extend_from_slice(b"an effect"));
    items
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("the store") {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).expect("an entry");
        match path.is_dir() {
            true => copy(&path, &to.join(name)),
            false => drop(fs::copy(&path, to.join(name)).expect("a file")),
        }
    }
}

#[test]
fn the_store_is_readable() {
    let copied = tempfile::tempdir().expect("a folder");
    copy(&folder(), copied.path());
    let url = format!("file://{}", copied.path().display());
    assert!(Store::open_read_only(&url).is_err());
    let key = master_key();
    let access = StoreAccess { master_key: Some(&key), ..StoreAccess::default() };
    let store = Arc::new(Store::open_read_only_with(&url, access).expect("the key is the store's"));
    assert_eq!(block_on(store.get(CHUNK)).expect("readable"), object());
    assert_eq!(block_on(store.get_range(CHUNK, 30_000..30_100)).expect("readable"), object()[30_000..30_100]);
    assert_eq!(block_on(store.get("directory/1")).expect("readable"), "of the node");
    let recovered = Log::look(&store).expect("readable");
    let entries = &recovered.entries_of(&identity()).entries;
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].sequence, entries[0].kind, &entries[0].items[..]), (1, EntryKind::Effects, &items()[..]));
}

#[test]
#[ignore = "writes the golden store, once"]
fn write_the_store() {
    if folder().exists() {
        return;
    }
    let key = master_key();
    let access = StoreAccess { master_key: Some(&key), ..StoreAccess::default() };
    let made = tempfile::tempdir().expect("a folder");
    let store = Arc::new(Store::open_with(&format!("file://{}", made.path().display()), access).expect("a new store"));
    block_on(store.put_new(CHUNK, object())).expect("writable");
    block_on(store.put_new("directory/1", "of the node")).expect("writable");
    let (log, _) = Log::open(&store, WRITER, || NOW_MS, || NOW_MS).expect("a log").expect("a folder has one");
    let journal = Journal::of(&log, &identity());
    journal.record(true);
    journal.append(&Default::default(), NOW_MS, &items());
    log.flush().expect("writable");
    for part in ["encryption", "key", "db", "directory", "log"] {
        copy(&made.path().join(part), &folder().join(part));
    }
    // The file has zeros ahead of its end.
    let file = folder().join(format!("log/{WRITER:016x}/000000000001"));
    let bytes = fs::read(&file).expect("the log");
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    fs::write(&file, &bytes[..(end + 16).min(bytes.len())]).expect("writable");
    let _ = fs::remove_dir_all(folder().join("log/0000000000000000"));
}
