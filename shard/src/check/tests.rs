use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use dormouse_storage::chunk::{ChunkIndex, ChunkOrigin, ChunkWriter, SegmentLocation};
use dormouse_storage::codec::segment::encode_segment;
use dormouse_storage::codec::value::RdbReaders;
use dormouse_storage::effect;
use dormouse_storage::log::Journal;
use dormouse_storage::log::format::{Identity, write_effect};
use dormouse_storage::log::sink::Objects;
use dormouse_storage::manifest::{ChunkInfo, Manifest, Names, SegmentInfo, TailInfo};
use dormouse_storage::rdb::error::ImportError;
use dormouse_storage::rdb::import::Import;
use dormouse_storage::tail::{TailRecord, encode_tail};
use dormouse_types::record::Record;
use dormouse_types::segment::{Placement, Range53, SlotPlacement, prefix53};

use super::salvage::salvage;
use super::*;
use crate::export::About;

const SEED: u64 = 42;
pub(crate) const KEYS: u64 = 100;

fn placement() -> SlotPlacement {
    SlotPlacement { seed: SEED }
}

fn record(at: u64) -> Record {
    Record::new_raw(format!("key {at}").as_bytes(), b"value", None)
}

/// A store with one database: two manifests over a chunk of two segments; the newer one has a tail with a key of its own,
/// and the log has one more.
fn store() -> Arc<Store> {
    store_of(1)
}

/// The same with the keys in two to the power of `halvings` segments.
pub(crate) fn store_of(halvings: u32) -> Arc<Store> {
    let store = Arc::new(Store::memory());
    let names = Names::new("a").unwrap();
    let mut manifest = Manifest::new("a", SEED, 9, 5);
    let halves = |ranges: Vec<Range53>, _| ranges.iter().flat_map(|range| <[_; 2]>::from(range.halves())).collect();
    let ranges: Vec<Range53> = (0..halvings).fold(vec![Range53::WHOLE], halves);
    let mut writer = ChunkWriter::new();
    let all: Vec<Record> = (0..KEYS).map(record).collect();
    for range in ranges {
        let inside = |record: &&Record| range.contains(prefix53(placement().position(record.key())));
        let body = encode_segment(all.iter().filter(inside));
        let entry = writer.push(0, range, KEYS, &body);
        manifest.segments.push(SegmentInfo {
            keyspace: 0,
            range,
            location: SegmentLocation { chunk: 0, offset: entry.offset, len: entry.len },
            records: entry.records,
            expiring: 0,
            heap_bytes: 1,
            sequence: KEYS,
            seen: KEYS,
            crc: entry.crc,
        });
    }
    let chunk = writer.finish(&manifest.origin());
    manifest.chunks = vec![ChunkInfo { name: names.chunk(1, 9, 0), bytes: chunk.len() as u64 }];
    (manifest.sequence, manifest.cut, manifest.next_object) = (KEYS, KEYS, 1);
    block_on(store.put_new(&manifest.chunks[0].name, chunk)).unwrap();
    block_on(manifest::commit(&store, &mut manifest)).unwrap();

    let (position, body) = write_of(KEYS);
    let sequence = KEYS + 1;
    let tail = encode_tail(vec![TailRecord { sequence, now_ms: 5, keyspace: 0, position, body: body.into() }]);
    let info = TailInfo { name: names.tail(1, 9, 1), bytes: tail.len() as u64, effects: 1, from_sequence: KEYS };
    block_on(store.put_new(&info.name, tail)).unwrap();
    manifest.tails.push(info);
    (manifest.sequence, manifest.cut, manifest.next_object) = (KEYS + 1, KEYS + 2, 2);
    let segment = manifest.segments.iter_mut().find(|segment| segment.range.contains(prefix53(position))).unwrap();
    (segment.seen, segment.records) = (KEYS + 1, segment.records + 1);
    block_on(manifest::commit(&store, &mut manifest)).unwrap();

    let (log, _) = Log::over(Box::new(Objects::new(Arc::clone(&store))), 9, || 5).unwrap();
    let journal = Journal::of(&log, &Identity { name: "a".into(), seed: SEED, created_ms: 5 });
    let (position, body) = write_of(KEYS + 1);
    let mut items = Vec::new();
    write_effect(&mut items, 0, position, |out| out.extend_from_slice(&body));
    journal.record(true);
    journal.append(&AtomicU64::new(KEYS + 1), 5, &items);
    log.flush().unwrap();
    store
}

fn write_of(at: u64) -> (u64, Vec<u8>) {
    let record = record(at);
    let mut body = Vec::new();
    effect::value(&mut body, &record);
    (placement().position(record.key()), body)
}

fn look(store: &Arc<Store>) -> CheckReport {
    check(store, None, &mut |_| {}).unwrap()
}

/// The objects and texts of all problems.
fn problems(store: &Arc<Store>) -> Vec<String> {
    let report = look(store);
    let all = report.databases.iter().flat_map(|database| &database.problems).chain(&report.log.problems);
    all.map(ToString::to_string).collect()
}

/// How many keys can be recovered, and which parts cannot.
fn salvaged(store: &Arc<Store>) -> (u64, Vec<String>) {
    let about = About { target: RdbReaders::REDIS_7_2, server: "7.2.0", now_ms: 5, keeps_expired: false };
    let salvaged = salvage(store, "a", Vec::new(), about, &mut |_| {}).unwrap();
    (salvaged.exported.keys, salvaged.left_out)
}

fn names(store: &Arc<Store>, folder: &str) -> Vec<String> {
    block_on(store.list(folder)).unwrap().into_iter().map(|object| object.name).collect()
}

fn replace(store: &Arc<Store>, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = block_on(store.get(name)).unwrap().to_vec();
    change(&mut bytes);
    block_on(store.delete(name)).unwrap();
    block_on(store.put_new(name, Bytes::from(bytes))).unwrap();
}

#[test]
fn a_good_store_has_no_problem() {
    let store = store();
    let report = look(&store);
    assert_eq!(report.problems(), 0, "{report:?}");
    let [checked] = &report.databases[..] else { panic!("{report:?}") };
    assert_eq!((&*checked.name, checked.manifest, checked.manifests), ("a", Some(2), 3));
    assert_eq!((checked.keys, checked.chunks, checked.tails, checked.logged), (KEYS + 1, 1, 1, 1));
    assert_eq!((checked.garbage, report.log.databases), (Spare::default(), 1));
    assert_eq!(salvaged(&store), (KEYS + 2, vec![]));
    assert_eq!(look(&Arc::new(Store::memory())), CheckReport::default());
}

#[test]
fn garbage_is_counted_and_no_problem() {
    let store = store();
    block_on(store.put_new("db/a/chunk/0000000001-0000000000000009-0000000007", Bytes::from_static(b"1234"))).unwrap();
    block_on(store.put_new("db/b/chunk/0000000001-0000000000000009-0000000007", Bytes::from_static(b"1234"))).unwrap();
    let report = look(&store);
    assert_eq!(report.problems(), 0);
    assert_eq!(report.databases.len(), 1);
    assert_eq!(report.databases[0].garbage, Spare { objects: 1, bytes: 4 });
}

#[test]
fn every_flipped_byte_of_a_chunk_is_found() {
    let name = names(&store(), "db/a/chunk")[0].clone();
    let length = block_on(store().get(&name)).unwrap().len();
    for at in (0..length).step_by(7).chain([length - 1]) {
        let store = store();
        replace(&store, &name, |bytes| bytes[at] ^= 0x10);
        let problems = problems(&store);
        assert!(!problems.is_empty() && problems.iter().all(|text| text.starts_with(&name)), "{at}: {problems:?}");
        let (keys, left_out) = salvaged(&store);
        assert!(keys == KEYS + 2 || keys > 10 && left_out.len() == 1, "{at}: {keys} {left_out:?}");
    }
}

#[test]
fn what_is_missing_or_short_is_found() {
    for folder in ["db/a/chunk", "db/a/tail"] {
        let store = store();
        let name = names(&store, folder)[0].clone();
        block_on(store.delete(&name)).unwrap();
        let found = problems(&store);
        assert!(found.len() == 1 && found[0].contains("missing from the store"), "{found:?}");
        let (keys, left_out) = salvaged(&store);
        // Without the tail, later effects of the log are not taken either. Without the chunk, tail and log are all that
        // is left.
        let wanted = if folder.ends_with("tail") { KEYS } else { 0 };
        assert!((wanted..=wanted + 1).contains(&keys) && !left_out.is_empty(), "{keys} {left_out:?}");
        let store = self::store();
        replace(&store, &name, |bytes| bytes.truncate(bytes.len() - 1));
        assert!(!problems(&store).is_empty());
    }
}

#[test]
fn a_damaged_manifest_is_found_and_the_one_before_salvaged() {
    let store = store();
    replace(&store, "db/a/manifest/00000000000000000002", |bytes| bytes[20] ^= 1);
    let found = problems(&store);
    assert!(found.len() == 1 && found[0].starts_with("db/a/manifest/00000000000000000002: "), "{found:?}");
    let (keys, left_out) = salvaged(&store);
    assert_eq!(keys, KEYS);
    assert!(left_out[0].contains("manifest 2"), "{left_out:?}");
    let store = self::store();
    replace(&store, "db/a/manifest/00000000000000000001", |bytes| bytes[20] ^= 1);
    let found = problems(&store);
    assert!(found.len() == 1 && found[0].contains("no key"), "{found:?}");
    assert_eq!(salvaged(&store), (KEYS + 2, vec![]));
}

#[test]
fn the_keys_of_a_damaged_page_are_salvaged_from_chunks_tails_and_log() {
    let name = "db/a/manifest/00000000000000000002";
    let len = block_on(store_of(6).get(name)).unwrap().len();
    let mut pages = 0;
    // The pages come before the root.
    for at in (12..len / 2).step_by(100) {
        let store = store_of(6);
        replace(&store, name, |bytes| bytes[at] ^= 1);
        let (keys, left_out) = salvaged(&store);
        assert_eq!(keys, KEYS + 2, "byte {at} of {len}: {left_out:?}");
        pages += usize::from(left_out[0].contains(": page ") && left_out[1].contains("deleted shortly before"));
    }
    assert!(pages > 3, "{pages}");
}

/// A store in which no manifest can be read.
fn without_manifests() -> Arc<Store> {
    let store = store();
    for name in names(&store, "db/a/manifest") {
        replace(&store, &name, |bytes| bytes[20] ^= 1);
    }
    store
}

#[test]
fn without_any_manifest_all_that_is_there_is_salvaged() {
    let store = without_manifests();
    let report = look(&store);
    let checked = &report.databases[0];
    assert_eq!((checked.garbage, checked.unknown.objects), (Spare::default(), 2));
    let newest = checked.problems.iter().find(|problem| problem.affected.contains("refused")).unwrap();
    assert!(newest.remedy.contains("--salvage") && !newest.remedy.contains("goes back"), "{newest}");
    let (keys, left_out) = salvaged(&store);
    assert_eq!(keys, KEYS + 2, "chunk, tail and log: {left_out:?}");
    assert!(left_out.last().unwrap().contains("what only a manifest knows"), "{left_out:?}");
    // The manifests are missing altogether, and the log has been deleted behind the first of them.
    for name in names(&store, "db/a/manifest") {
        block_on(store.delete(&name)).unwrap();
    }
    assert_eq!(salvaged(&store).0, KEYS + 2);
}

#[test]
fn what_was_salvaged_replaces_a_database_without_readable_manifests() {
    let about = About { target: RdbReaders::REDIS_7_2, server: "7.2.0", now_ms: 5, keeps_expired: false };
    for damaged in [1, 2] {
        let store = store();
        for name in names(&store, "db/a/manifest").into_iter().rev().take(damaged) {
            replace(&store, &name, |bytes| bytes[20] ^= 1);
        }
        let mut rdb = Vec::new();
        let expected = salvage(&store, "a", &mut rdb, about, &mut |_| {}).unwrap().exported.keys;
        let recovered = Log::look(&store).unwrap();
        let folder = std::env::temp_dir();
        let import = |replace| {
            let order = Import {
                store: &store,
                recovered: &recovered,
                database: "a",
                owner: None,
                replace,
                skip_unsupported: false,
                now_ms: 6,
                seed: SEED + 1,
                writer: 11,
                folder: &folder,
                memory_bytes: 1 << 20,
            };
            block_on(order.run(&rdb[..], &mut |_| {}))
        };
        assert!(matches!(import(false), Err(ImportError::Store(StoreError::Corrupt { .. }))));
        assert_eq!(import(true).unwrap().keys, expected);
        let newest = block_on(manifest::latest(&store, "a")).unwrap().unwrap();
        assert_eq!((newest.number, newest.seed), (3, SEED + 1));
        let report = look(&store);
        let refused = report.databases[0].problems.iter().find(|problem| problem.affected.contains("refused"));
        assert!(refused.is_none(), "{refused:?}");
        assert_eq!(salvaged(&store).0, expected);
    }
}

#[test]
fn without_manifests_the_latest_body_of_a_place_counts() {
    let store = without_manifests();
    let names = Names::new("a").unwrap();
    // A later checkpoint has rewritten the lower half, with one key and another's value.
    let low = Range53::WHOLE.halves().0;
    let inside = |at: &u64| low.contains(prefix53(placement().position(record(*at).key())));
    let kept = (0..KEYS).find(inside).unwrap();
    let lower = (0..KEYS).filter(inside).count() as u64;
    let mut writer = ChunkWriter::new();
    writer.push(0, low, KEYS + 50, &encode_segment([&record(kept)]));
    let origin = ChunkOrigin { seed: SEED, created_ms: 5, keyspaces: std::array::from_fn(|index| index as u32) };
    block_on(store.put_new(&names.chunk(1, 9, 7), writer.finish(&origin))).unwrap();
    // One of an earlier database of the name.
    let mut writer = ChunkWriter::new();
    writer.push(0, Range53::WHOLE, 999, &encode_segment([&Record::new_raw(b"stranger", b"", None)]));
    block_on(store.put_new(&names.chunk(1, 8, 0), writer.finish(&ChunkOrigin { created_ms: 4, ..origin }))).unwrap();
    let (keys, left_out) = salvaged(&store);
    let later = [KEYS, KEYS + 1].iter().filter(|at| !inside(at)).count() as u64;
    assert_eq!(keys, 1 + KEYS - lower + later, "{left_out:?}");
    assert!(left_out.iter().any(|text| text.contains("an earlier database")), "{left_out:?}");
}

#[test]
fn chunks_of_the_first_version_are_salvaged_key_by_key() {
    let store = Arc::new(Store::memory());
    let chunk: &[u8] = include_bytes!("../../../storage/tests/golden/chunk-v1.bin");
    block_on(store.put_new(&Names::new("a").unwrap().chunk(1, 9, 0), Bytes::from_static(chunk))).unwrap();
    let wanted: u64 = ChunkIndex::parse(chunk).unwrap().entries.iter().map(|entry| u64::from(entry.records)).sum();
    let (keys, left_out) = salvaged(&store);
    assert_eq!(keys, wanted, "{left_out:?}");
    assert!(left_out.iter().any(|text| text.contains("tails and log")), "{left_out:?}");
}

#[test]
fn a_log_that_does_not_reach_the_cut_is_found() {
    let store = store();
    for name in names(&store, "log") {
        block_on(store.delete(&name)).unwrap();
    }
    let found = problems(&store);
    assert!(found.len() == 1 && found[0].contains("the log ends at write 101"), "{found:?}");
    let (keys, left_out) = salvaged(&store);
    assert_eq!((keys, left_out.len()), (KEYS + 1, 1));
}

#[test]
fn wrong_counts_and_places_are_found() {
    type Change = fn(&mut Manifest);
    let changes: [(&str, Change); 4] = [
        ("records", |manifest| manifest.segments.iter_mut().for_each(|segment| segment.records += 1)),
        ("checksum", |manifest| manifest.segments[0].crc ^= 1),
        ("another key's place", |manifest| manifest.seed ^= 1),
        ("ends beyond", |manifest| {
            manifest.chunks[0].bytes += 1000;
            manifest.segments[1].location.len += 1000;
        }),
    ];
    for (wanted, change) in changes {
        let store = store();
        let mut manifest = block_on(manifest::latest(&store, "a")).unwrap().unwrap();
        change(&mut manifest);
        block_on(manifest::commit(&store, &mut manifest)).unwrap();
        let found = problems(&store);
        assert!(found.iter().any(|text| text.contains(wanted)), "{wanted}: {found:?}");
    }
}

#[test]
fn the_usage_ledger_is_no_problem() {
    use dormouse_storage::ledger::{LedgerWindow, LedgerWriter};

    let store = store();
    let window = LedgerWindow { database: "shop".into(), era: 0, start_s: 0, end_s: 60, quantities: vec![(0, 1)] };
    block_on(LedgerWriter::new(&store, 1).write(&[window], 60)).unwrap();
    assert_eq!(look(&store).problems(), 0);
}

#[test]
fn the_directory_is_checked() {
    use dormouse_storage::directory::{DatabaseRecord, DirectoryChange, DirectoryLog, DirectoryWriters, step_name};

    let store = store();
    assert_eq!(look(&store).directory, CheckedDirectory::default());
    let mut log = block_on(DirectoryLog::read(&store, DirectoryWriters::Sole, None, 9, &mut |_| {})).unwrap();
    for name in ["a", "b", "c"] {
        block_on(log.commit(vec![DirectoryChange::put(&DatabaseRecord::new(name, 1))])).unwrap();
    }
    let directory = look(&store).directory;
    assert_eq!((directory.databases, directory.steps, directory.problems.len()), (3, 3, 0));
    replace(&store, &step_name(2), |bytes| bytes[30] ^= 1);
    let report = look(&store);
    assert_eq!((report.problems(), report.directory.databases), (1, 2));
    let problem = report.directory.problems[0].to_string();
    assert!(problem.starts_with("directory/000000000002: checksum mismatch"), "{problem}");
    block_on(store.delete(&step_name(2))).unwrap();
    let problem = look(&store).directory.problems[0].to_string();
    assert!(problem.starts_with("directory/000000000002: missing from the store"), "{problem}");
}
