use std::collections::BTreeSet;
use std::sync::Arc;

use dormouse_types::record::Record;
use dormouse_types::segment::{Placement, Range53, SlotPlacement, prefix53};
use futures::executor::block_on;

use super::*;
use crate::chunk::{ChunkWriter, SegmentLocation};
use crate::codec::segment::encode_segment;
use crate::manifest::{self, ChunkInfo, Manifest, Names, SegmentInfo, Stretch, Timeline};
use crate::store::{FaultyStore, MasterKey, Store, StoreError, StoreRequest};

const SEED: u64 = 42;
/// As powers of two: the chunks of a database, one for each segment.
const HALVINGS: u32 = 3;

/// Replaces the contents of a database by these keys, and deletes what it needs no more.
fn write(store: &Store, database: &str, keys: std::ops::Range<u64>) {
    let names = Names::new(database).unwrap();
    let before = block_on(manifest::latest(store, database)).unwrap();
    let mut manifest = before.unwrap_or_else(|| Manifest::new(database, SEED, 9, 5));
    (manifest.chunks, manifest.segments) = (Vec::new(), Vec::new());
    let records: Vec<Record> = keys.map(|at| Record::new_raw(format!("key {at}").as_bytes(), b"value", None)).collect();
    let placement = SlotPlacement { seed: SEED };
    let sequence = manifest.sequence + 1;
    let halves = |ranges: Vec<Range53>, _| ranges.iter().flat_map(|range| <[_; 2]>::from(range.halves())).collect();
    let ranges: Vec<Range53> = (0..HALVINGS).fold(vec![Range53::WHOLE], halves);
    for range in ranges {
        let inside = |record: &&Record| range.contains(prefix53(placement.position(record.key())));
        let body = encode_segment(records.iter().filter(inside));
        let mut writer = ChunkWriter::new();
        let entry = writer.push(0, range, sequence, &body);
        let chunk = manifest.chunks.len() as u32;
        manifest.segments.push(SegmentInfo {
            keyspace: 0,
            range,
            location: SegmentLocation { chunk, offset: entry.offset, len: entry.len },
            records: entry.records,
            expiring: 0,
            heap_bytes: 1,
            sequence,
            seen: sequence,
            crc: entry.crc,
        });
        let bytes = writer.finish(&manifest.origin());
        let name = names.chunk(1, 9, manifest.next_object);
        manifest.next_object += 1;
        manifest.chunks.push(ChunkInfo { name: name.clone(), bytes: bytes.len() as u64 });
        block_on(store.put_new(&name, bytes)).unwrap();
    }
    (manifest.sequence, manifest.cut) = (sequence, sequence);
    let name = format!("{}/history/1", names.folder());
    let stretches = vec![Stretch { name, bytes: 9, from_ms: 3, dropped: Vec::new() }];
    manifest.timeline = Timeline { stretches, until_ms: 5 };
    block_on(manifest::commit(store, &mut manifest)).unwrap();
    block_on(manifest::collect_garbage(store, &manifest)).unwrap();
}

fn back_up_watched(
    source: &Arc<Store>,
    target: &Arc<Store>,
    now_ms: u64,
    watch: &mut dyn FnMut(BackupStep<'_>),
) -> Result<BackupReport, BackupError> {
    BackupOrder { source, target, databases: &[], now_ms, writer: 1000 * now_ms + 1 }.run(watch)
}

fn back_up(source: &Arc<Store>, target: &Arc<Store>, now_ms: u64) -> Result<BackupReport, BackupError> {
    back_up_watched(source, target, now_ms, &mut |_| {})
}

/// Checks that everything can be read that the points need. Returns the numbers of the points.
fn check(target: &Store) -> Vec<u64> {
    let mut numbers = Vec::new();
    for (number, point) in block_on(points(target)).unwrap() {
        let point = point.unwrap();
        for (database, data) in point.data() {
            let image = block_on(read_image(target, data)).unwrap();
            assert_eq!(image.database, database.name);
            assert_eq!(image.timeline, Timeline::default(), "a copy has no history");
            let listed: BTreeSet<&str> = data.objects.iter().map(|object| object.name.as_str()).collect();
            assert_eq!(image.objects().collect::<BTreeSet<_>>(), listed);
            data.objects.iter().for_each(|object| drop(block_on(read_data(target, object)).unwrap()));
        }
        numbers.push(number);
    }
    numbers
}

fn names(store: &Store, folder: &str) -> Vec<String> {
    block_on(store.list(folder)).unwrap().into_iter().map(|object| object.name).collect()
}

fn replace(store: &Store, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = block_on(store.get(name)).unwrap().to_vec();
    change(&mut bytes);
    block_on(store.delete(name)).unwrap();
    block_on(store.put_new(name, bytes)).unwrap();
}

#[test]
fn the_next_backup_copies_what_has_changed() {
    let (source, target) = (Arc::new(Store::memory()), Arc::new(Store::memory()));
    write(&source, "a", 0..50);
    write(&source, "b", 0..50);
    let first = back_up(&source, &target, 10).unwrap();
    assert_eq!((first.copied, first.point.databases.len()), (16, 2));
    let second = back_up(&source, &target, 20).unwrap();
    assert_eq!((second.copied, second.copied_bytes), (0, 0));
    assert_eq!(second.point.databases, first.point.databases, "not even an image is written again");
    write(&source, "b", 0..60);
    let third = back_up(&source, &target, 30).unwrap();
    assert_eq!(third.copied, 8);
    assert_eq!(third.point.find("a"), first.point.find("a"));
    assert_ne!(third.point.find("b"), first.point.find("b"));
    assert_eq!(check(&target), [1, 2, 3]);
    // One of them alone.
    let only = ["b".to_owned()];
    let order = BackupOrder { source: &source, target: &target, databases: &only, now_ms: 40, writer: 7 };
    assert_eq!(order.run(&mut |_| {}).unwrap().point.databases.len(), 1);
    let unknown = ["c".to_owned()];
    let error = BackupOrder { databases: &unknown, ..order }.run(&mut |_| {}).unwrap_err();
    assert_eq!(error.to_string(), "database `c` does not exist in the store");
    assert_eq!(check(&target), [1, 2, 3, 4]);
}

#[test]
fn a_run_that_another_has_ended_makes_no_point() {
    let target = Arc::new(Store::memory());
    let empty = |number| BackupPoint { number, time_ms: 5, source: String::new(), databases: Vec::new() };
    let first = block_on(BackupRun::begin(&target)).unwrap();
    let second = block_on(BackupRun::begin(&target)).unwrap();
    assert_eq!((first.number(), second.number()), (1, 2));
    let refused = block_on(first.commit(&empty(1))).unwrap_err();
    assert!(matches!(refused, StoreError::Exists { .. }), "{refused}");
    block_on(second.commit(&empty(2))).unwrap();
    // It ended by itself, and stays.
    assert_eq!(block_on(BackupRun::begin(&target)).unwrap().number(), 3);
    assert_eq!(check(&target), [2]);
}

#[test]
fn a_crash_at_any_moment_leaves_whole_points() {
    for changes in 0.. {
        let faults = FaultyStore::memory();
        let (source, target) =
            (Arc::new(Store::memory()), Arc::new(Store::over(Arc::clone(&faults) as _, "memory://")));
        write(&source, "a", 0..50);
        back_up(&source, &target, 10).unwrap();
        write(&source, "a", 10..60);
        write(&source, "b", 0..10);
        faults.crash_after(changes);
        let done = back_up(&source, &target, 20).is_ok();
        faults.revive();
        // A point is made by the last change.
        assert_eq!(check(&target).len(), if done { 2 } else { 1 }, "{changes}");
        let again = back_up(&source, &target, 30).unwrap();
        assert_eq!(again.point.databases.len(), 2);
        check(&target);
        if done {
            assert!(changes > 20, "it has many changes");
            return;
        }
    }
}

#[test]
fn pruning_deletes_what_no_point_needs_whenever_it_is_cut_short() {
    for changes in 0.. {
        let faults = FaultyStore::memory();
        let (source, target) =
            (Arc::new(Store::memory()), Arc::new(Store::over(Arc::clone(&faults) as _, "memory://")));
        write(&source, "a", 0..50);
        write(&source, "b", 0..50);
        back_up(&source, &target, 10).unwrap();
        write(&source, "a", 10..60);
        back_up(&source, &target, 20).unwrap();
        let newest = back_up(&source, &target, 30).unwrap().point;
        faults.crash_after(changes);
        let prune = |before_ms| block_on(async { prune(&BackupRun::begin(&target).await?, before_ms).await });
        let done = prune(20).is_ok();
        faults.revive();
        check(&target);
        prune(20).unwrap();
        assert_eq!(check(&target), [2, 3], "{changes}");
        // However old it is, the newest one stays.
        prune(u64::MAX).unwrap();
        assert_eq!(check(&target), [3]);
        let needed: BTreeSet<String> = newest
            .data()
            .flat_map(|(_, data)| {
                data.objects.iter().map(|object| data_name(&object.name)).chain([data.image.name.clone()])
            })
            .collect();
        let left: BTreeSet<String> =
            names(&target, "backup/data").into_iter().chain(names(&target, "backup/image")).collect();
        assert_eq!(left, needed, "{changes}");
        if done {
            assert!(changes > 5, "it has several changes");
            return;
        }
    }
}

#[test]
fn a_damaged_point_stops_pruning() {
    let (source, target) = (Arc::new(Store::memory()), Arc::new(Store::memory()));
    write(&source, "a", 0..50);
    back_up(&source, &target, 10).unwrap();
    back_up(&source, &target, 20).unwrap();
    replace(&target, "backup/point/000000000001", |bytes| bytes[20] ^= 1);
    let run = block_on(BackupRun::begin(&target)).unwrap();
    let error = block_on(prune(&run, u64::MAX)).unwrap_err().to_string();
    assert!(error.starts_with("backup/point/000000000001: "), "{error}");
    let mut told = Vec::new();
    let mut watch = |step: BackupStep<'_>| {
        if let BackupStep::Unreadable(error) = step {
            told.push(error.to_string());
        }
    };
    back_up_watched(&source, &target, 30, &mut watch).unwrap();
    assert_eq!(told, [error]);
}

/// Else the last copy of a damaged database would go with its time.
#[test]
fn the_last_copy_of_a_database_that_is_left_out_since_stays() {
    let (source, target) = (Arc::new(Store::memory()), Arc::new(Store::memory()));
    write(&source, "a", 0..50);
    write(&source, "b", 0..50);
    let prune = || block_on(async { prune(&BackupRun::begin(&target).await?, u64::MAX).await }).unwrap();
    back_up(&source, &target, 10).unwrap();
    back_up(&source, &target, 20).unwrap();
    // One that no backup has.
    write(&source, "a", 0..60);
    replace(&source, &names(&source, "db/a/chunk").pop().unwrap(), |bytes| bytes[30] ^= 1);
    for now_ms in [30, 40] {
        let point = back_up(&source, &target, now_ms).unwrap().point;
        assert!(matches!(point.find("a").unwrap().contents, Saved::LeftOut(_)));
    }
    let only = ["b".to_owned()];
    BackupOrder { source: &source, target: &target, databases: &only, now_ms: 50, writer: 7 }.run(&mut |_| {}).unwrap();
    prune();
    assert_eq!(check(&target), [2, 5]);
    // It can be read again, or is gone.
    write(&source, "a", 0..60);
    back_up(&source, &target, 60).unwrap();
    prune();
    assert_eq!(check(&target).len(), 1);
}

#[test]
fn what_cannot_be_read_is_left_out_and_named() {
    for cut in [false, true] {
        let (source, target) = (Arc::new(Store::memory()), Arc::new(Store::memory()));
        write(&source, "a", 0..50);
        write(&source, "b", 0..50);
        let chunk = names(&source, "db/a/chunk").swap_remove(3);
        replace(&source, &chunk, |bytes| if cut { bytes.truncate(30) } else { bytes[30] ^= 1 });
        let point = back_up(&source, &target, 10).unwrap().point;
        let Saved::LeftOut(reason) = &point.find("a").unwrap().contents else { panic!("it was copied") };
        assert!(reason.starts_with(&chunk), "{reason}");
        assert!(matches!(point.find("b").unwrap().contents, Saved::Data(_)));
        assert_eq!(check(&target), [1]);
    }
}

#[test]
fn a_truncated_copy_is_copied_again() {
    let (source, target) = (Arc::new(Store::memory()), Arc::new(Store::memory()));
    write(&source, "a", 0..50);
    back_up(&source, &target, 10).unwrap();
    let copy = names(&target, "backup/data").swap_remove(3);
    replace(&target, &copy, |bytes| bytes.truncate(30));
    assert_eq!(back_up(&source, &target, 20).unwrap().copied, 1);
    assert_eq!(check(&target), [1, 2]);
}

#[test]
fn an_object_that_goes_meanwhile_is_not_missed() {
    let (source, target) = (Arc::new(Store::memory()), Arc::new(Store::memory()));
    write(&source, "a", 0..50);
    let mut is_first = true;
    let mut watch = |step: BackupStep<'_>| {
        if matches!(step, BackupStep::Copied { .. }) && std::mem::take(&mut is_first) {
            // Two commits later nothing of the manifest that is being copied is left.
            let source = Arc::clone(&source);
            let written = std::thread::spawn(move || {
                write(&source, "a", 0..60);
                write(&source, "a", 0..70);
                write(&source, "a", 0..80);
            });
            written.join().unwrap();
        }
    };
    let point = back_up_watched(&source, &target, 10, &mut watch).unwrap().point;
    let Saved::Data(data) = &point.find("a").unwrap().contents else { panic!("it was left out") };
    let image = block_on(read_image(&target, data)).unwrap();
    assert_eq!(image.segments.iter().map(|segment| segment.records).sum::<u32>(), 80);
    assert_eq!(check(&target), [1]);
}

/// A slow run that prunes goes on while a later one reads the points, and makes its own.
#[test]
fn a_run_that_was_ended_deletes_nothing_any_more() {
    let faults = FaultyStore::memory();
    let slow = Arc::new(Store::over(Arc::clone(&faults) as _, "memory://"));
    let (source, target) = (Arc::new(Store::memory()), Arc::new(Store::over(Arc::clone(faults.inner()), "memory://")));
    write(&source, "a", 0..50);
    write(&source, "b", 0..50);
    back_up(&source, &target, 10).unwrap();
    let only = ["b".to_owned()];
    BackupOrder { source: &source, target: &target, databases: &only, now_ms: 20, writer: 7 }.run(&mut |_| {}).unwrap();
    let run = block_on(BackupRun::begin(&slow)).unwrap();
    faults.hold(StoreRequest::Delete);
    let before = faults.asked(StoreRequest::Delete);
    let pruning = std::thread::spawn(move || block_on(prune(&run, u64::MAX)));
    while faults.asked(StoreRequest::Delete) == before {
        std::thread::yield_now();
    }
    // Objects that it is about to delete with the first point are needed again.
    back_up(&source, &target, 30).unwrap();
    faults.release(StoreRequest::Delete);
    let error = pruning.join().unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Exists { .. }), "{error}");
    assert_eq!(check(&target), [2, 4]);
}

#[test]
fn a_point_without_one_of_its_objects_is_not_made() {
    let (source, target) = (Arc::new(Store::memory()), Arc::new(Store::memory()));
    write(&source, "a", 0..50);
    write(&source, "b", 0..50);
    for folder in ["backup/data", "backup/image"] {
        let mut watch = |step: BackupStep<'_>| {
            if let BackupStep::Done(SavedDatabase { name, .. }) = step
                && name == "b"
            {
                // The last one is of this run, if there are others.
                let target = Arc::clone(&target);
                let delete = move || block_on(target.delete(&names(&target, folder).pop().unwrap()));
                std::thread::spawn(delete).join().unwrap().unwrap();
            }
        };
        let error = back_up_watched(&source, &target, 10, &mut watch).unwrap_err();
        assert!(matches!(error, BackupError::Target(StoreError::Missing { .. })), "{error}");
        assert_eq!(check(&target), [0; 0]);
    }
    assert_eq!(back_up(&source, &target, 20).unwrap().point.databases.len(), 2);
    assert_eq!(check(&target).len(), 1);
}

/// A run that was overtaken may delete a key that the later one has found.
#[test]
fn a_point_without_one_of_its_keys_is_not_made() {
    let source = Arc::new(Store::memory());
    write(&source, "a", 0..50);
    write(&source, "b", 0..50);
    let objects = FaultyStore::memory();
    let target = || {
        let store = Store::over(Arc::clone(&objects) as Arc<dyn object_store::ObjectStore>, "memory://");
        Arc::new(block_on(store.encrypted(&MasterKey::of_bytes([1; 32]))).unwrap())
    };
    let this = target();
    let mut watch = |step: BackupStep<'_>| {
        if let BackupStep::Done(SavedDatabase { name, .. }) = step
            && name == "b"
        {
            let target = Arc::clone(&this);
            std::thread::spawn(move || block_on(target.delete("key/db/a/000001"))).join().unwrap().unwrap();
        }
    };
    let error = back_up_watched(&source, &this, 10, &mut watch).unwrap_err();
    assert!(matches!(error, BackupError::Target(StoreError::Missing { .. })), "{error}");
    assert_eq!(check(&target()), [0; 0]);
    // The next process copies again what cannot be read.
    back_up(&source, &target(), 20).unwrap();
    assert_eq!(check(&target()), [2]);
}
