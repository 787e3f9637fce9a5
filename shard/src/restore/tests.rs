use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dormouse_storage::backup::{BackupOrder, SavedObject, data_name};
use dormouse_storage::directory::{TokenRecord, TokenScope};
use dormouse_storage::log::Log;
use dormouse_storage::manifest::{Stretch, Timeline};
use dormouse_storage::store::{FaultyStore, StoreFault, StoreRequest};
use dormouse_types::record::Record;
use futures::executor::block_on;

use super::*;
use crate::check::check;
use crate::check::tests::{KEYS, store_of};
use crate::error::Result;

const NOW_MS: u64 = 1000;

fn back_up(source: &Arc<Store>) -> (Arc<Store>, BackupPoint) {
    let target = Arc::new(Store::memory());
    let order = BackupOrder { source, target: &target, databases: &[], now_ms: NOW_MS, writer: 77 };
    let point = order.run(&mut |_| {}).unwrap().point;
    (target, point)
}

fn restore_as(
    (backup, point): &(Arc<Store>, BackupPoint),
    store: &Arc<Store>,
    names: &[(&str, &str)],
    replace: bool,
) -> std::result::Result<RestoreReport, NotRestored> {
    let databases: Vec<ChosenDatabase> =
        names.iter().map(|(from, to)| ChosenDatabase { from: (*from).to_owned(), to: (*to).to_owned() }).collect();
    let recovered = Log::look(store).unwrap();
    let (owner, databases, recovered) = (None, &databases[..], &recovered);
    // Each process has its own.
    static WRITER: AtomicU64 = AtomicU64::new(88);
    let (now_ms, writer) = (NOW_MS + 1, WRITER.fetch_add(1, Ordering::Relaxed));
    let restore = Restore { backup, point, store, owner, recovered, databases, replace, now_ms, writer };
    block_on(restore.run(&mut |_| {}))
}

fn restored_names(report: &RestoreReport) -> Vec<&str> {
    report.restored.iter().map(|restored| restored.name.as_str()).collect()
}

/// The keys of a database, read from the store and the log.
fn keys(store: &Arc<Store>, database: &str) -> BTreeSet<Vec<u8>> {
    let recovered = Log::look(store).unwrap();
    let mut keys = BTreeSet::new();
    block_on(async {
        let snapshot = Snapshot::open(store, database, recovered).await.unwrap().unwrap();
        let mut note = |record: &Record| -> Result<()> {
            keys.insert(record.key().to_vec());
            Ok(())
        };
        snapshot.visit(0, &mut note).await.unwrap();
    });
    keys
}

fn problems(store: &Arc<Store>) -> Vec<String> {
    let report = check(store, None, &mut |_| {}).unwrap();
    report.databases.iter().flat_map(|database| &database.problems).map(ToString::to_string).collect()
}

fn manifest_of(store: &Store, database: &str) -> Manifest {
    block_on(manifest::latest(store, database)).unwrap().unwrap()
}

fn with_token(name: &str) -> DatabaseRecord {
    let token = TokenRecord {
        id: 1,
        hash: [7; 32],
        created_ms: 1,
        expires_ms: None,
        scope: TokenScope::ReadWrite,
        prefix: Box::default(),
    };
    DatabaseRecord { next_token: 2, tokens: vec![token], ..DatabaseRecord::new(name, 5) }
}

fn enter(store: &Arc<Store>, records: &[&DatabaseRecord]) {
    let (mut log, _) = block_on(DirectoryLog::read_records(store, None, 3)).unwrap();
    let changes = records.iter().map(|record| DirectoryChange::put(record)).collect();
    block_on(log.commit(changes)).unwrap();
}

fn records(store: &Arc<Store>) -> BTreeMap<Box<str>, DatabaseRecord> {
    block_on(DirectoryLog::read_records(store, None, 3)).unwrap().1
}

fn branch(store: &Store, source: &str, name: &str) {
    let source = manifest_of(store, source);
    let mut branch = source.clone();
    name.clone_into(&mut branch.database);
    (branch.source, branch.created_ms) = (Some(source.database.clone()), 6);
    // What only the log has is not in it.
    (branch.sequence, branch.cut) = (branch.sequence.max(KEYS + 1), branch.sequence.max(KEYS + 1));
    block_on(manifest::create_branch(store, &source, &mut branch)).unwrap();
}

/// Of a store with 100 keys in segments, one in a tail, and one in the log only.
#[test]
fn a_database_comes_back_with_what_the_log_had() {
    for halvings in [0, 2, 6] {
        let source = store_of(halvings);
        let backup = back_up(&source);
        let store = Arc::new(Store::memory());
        let report = restore_as(&backup, &store, &[("a", "a")], false).unwrap();
        assert_eq!((report.restored[0].keys, report.failed.len()), (KEYS + 2, 0), "{halvings}");
        assert_eq!(keys(&store, "a"), keys(&source, "a"), "{halvings}");
        assert_eq!(problems(&store), [""; 0]);
        let (before, after) = (manifest_of(&source, "a"), manifest_of(&store, "a"));
        assert_eq!((after.seed, after.sequence, after.cut), (before.seed, KEYS + 2, KEYS + 2));
        assert_ne!(after.created_ms, before.created_ms);
        let records: u32 = after.segments.iter().map(|segment| segment.records).sum();
        assert_eq!(u64::from(records), KEYS + 2);
    }
}

#[test]
fn a_database_that_exists_is_replaced_only_if_asked() {
    let source = store_of(1);
    let backup = back_up(&source);
    let store = store_of(1);
    let before = manifest_of(&store, "a");
    let error = restore_as(&backup, &store, &[("a", "a")], false).unwrap_err();
    assert!(matches!(&error, NotRestored::Exists(name) if name == "a"), "{error}");
    assert_eq!(manifest_of(&store, "a"), before);
    // Beside it, under another name.
    let report = restore_as(&backup, &store, &[("a", "copy")], false).unwrap();
    assert_eq!(restored_names(&report), ["copy"]);
    assert_eq!((keys(&store, "copy"), manifest_of(&store, "a")), (keys(&source, "a"), before.clone()));
    assert_eq!(manifest_of(&store, "copy").source, None);
    let report = restore_as(&backup, &store, &[("a", "a")], true).unwrap();
    assert_eq!((restored_names(&report), keys(&store, "a")), (vec!["a"], keys(&source, "a")));
    let after = manifest_of(&store, "a");
    assert_eq!((after.number, after.epoch), (before.number + 1, before.epoch + 1));
    assert_eq!(problems(&store), [""; 0]);
    let unknown = restore_as(&backup, &store, &[("b", "b")], false).unwrap_err();
    assert_eq!(unknown.to_string(), "the backup has no database `b`");
    let branch = restore_as(&backup, &store, &[("a", "b.c")], false).unwrap_err();
    assert!(branch.to_string().starts_with("`b.c` is a branch of `b`"), "{branch}");
}

#[test]
fn what_branches_share_is_copied_once_and_stays_as_long_as_one_needs_it() {
    let source = store_of(2);
    branch(&source, "a", "a.pr-1");
    let backup = back_up(&source);
    let mut objects: Vec<&SavedObject> = backup.1.data().flat_map(|(_, data)| &data.objects).collect();
    objects.sort_by(|one, other| one.name.cmp(&other.name));
    let all = objects.len();
    objects.dedup();
    assert!(objects.len() < all, "they share something");
    let copied = block_on(backup.0.list("backup/data")).unwrap();
    assert_eq!(copied.len(), objects.len());
    let store = Arc::new(Store::memory());
    restore_as(&backup, &store, &[("a", "a"), ("a.pr-1", "a.pr-1")], false).unwrap();
    for name in ["a", "a.pr-1"] {
        assert_eq!(keys(&store, name), keys(&source, name), "{name}");
    }
    assert_eq!(problems(&store), [""; 0]);
    let branch_of = manifest_of(&store, "a.pr-1");
    assert_eq!(branch_of.source.as_deref(), Some("a"));
    assert!(branch_of.shared_bytes() > 0);
    let chunks = |name: &str| block_on(store.list(&format!("db/{name}/chunk"))).unwrap().len();
    assert_eq!((chunks("a"), chunks("a.pr-1")), (1, 0));
    // The branch needs it still.
    let before = keys(&store, "a.pr-1");
    block_on(manifest::delete_database(&store, "a")).unwrap();
    assert_eq!(keys(&store, "a.pr-1"), before);
    block_on(manifest::delete_database(&store, "a.pr-1")).unwrap();
    assert!(block_on(store.list("db")).unwrap().is_empty());
}

#[test]
fn a_damaged_copy_is_named_and_nothing_half_is_restored() {
    let source = store_of(1);
    branch(&source, "a", "z");
    let backup = back_up(&source);
    // The last write of `a`, which `z` does not have.
    let of = |name: &str| -> Vec<String> {
        let (_, data) = backup.1.data().find(|(database, _)| database.name == name).unwrap();
        data.objects.iter().map(|object| object.name.clone()).collect()
    };
    let own = of("a").into_iter().find(|name| !of("z").contains(name)).unwrap();
    for cut in [false, true] {
        let name = data_name(&own);
        let mut bytes = block_on(backup.0.get(&name)).unwrap().to_vec();
        if cut {
            bytes.truncate(20)
        } else {
            bytes[20] ^= 1
        }
        block_on(backup.0.delete(&name)).unwrap();
        block_on(backup.0.put_new(&name, bytes)).unwrap();
        let store = Arc::new(Store::memory());
        let report = restore_as(&backup, &store, &[("a", "a"), ("z", "z")], false).unwrap();
        assert_eq!(restored_names(&report), ["z"]);
        assert!(report.failed[0].0 == "a" && report.failed[0].1.starts_with(&name), "{:?}", report.failed);
        assert!(block_on(manifest::latest(&store, "a")).unwrap().is_none());
        assert_eq!(keys(&store, "z"), keys(&source, "z"));
        assert_eq!(problems(&store), [""; 0]);
    }
}

#[test]
fn a_crash_at_any_moment_restores_whole_databases_or_none() {
    let source = store_of(1);
    branch(&source, "a", "a.b");
    enter(&source, &[&with_token("a"), &DatabaseRecord::new("a.b", 5)]);
    let backup = back_up(&source);
    let all = [("a", "a"), ("a.b", "a.b")];
    for changes in 0.. {
        let faults = FaultyStore::memory();
        let store = Arc::new(Store::over(Arc::clone(&faults) as _, "memory://"));
        faults.crash_after(changes);
        let done = restore_as(&backup, &store, &all, false).is_ok_and(|report| report.failed.is_empty());
        faults.revive();
        for (name, _) in all {
            if block_on(manifest::exists(&store, name)).unwrap() {
                assert_eq!(keys(&store, name), keys(&source, name), "{changes}");
                // A server would give a database without a record one without its tokens.
                assert_eq!(records(&store).get(name), records(&source).get(name), "{changes}");
            }
        }
        let report = restore_as(&backup, &store, &all, true).unwrap();
        assert_eq!(restored_names(&report), ["a", "a.b"]);
        for (name, _) in all {
            assert_eq!(keys(&store, name), keys(&source, name), "{changes}");
        }
        assert_eq!((records(&store), problems(&store)), (records(&source), Vec::new()));
        if done {
            assert!(changes > 5, "it has several changes");
            return;
        }
    }
}

#[test]
fn tokens_come_back_unless_the_database_has_another_name() {
    let source = store_of(1);
    let mut record = with_token("a");
    record.expires_ms = Some(NOW_MS);
    let new = DatabaseRecord::new("new", 5);
    enter(&source, &[&record, &new]);
    let backup = back_up(&source);
    let store = Arc::new(Store::memory());
    let report = restore_as(&backup, &store, &[("a", "a"), ("new", "new")], false).unwrap();
    assert_eq!(restored_names(&report), ["a", "new"]);
    assert!(report.restored[0].had_ended && !report.restored[1].had_ended);
    // It would be deleted at once.
    record.expires_ms = None;
    assert_eq!((&records(&store)["a"], &records(&store)["new"]), (&record, &new));
    restore_as(&backup, &store, &[("a", "copy")], false).unwrap();
    let after = records(&store);
    assert!(after["copy"].tokens.is_empty() && after["copy"].next_token == 2);
    // A token that was revoked since stays revoked.
    let revoked = DatabaseRecord { tokens: Vec::new(), ..record.clone() };
    enter(&store, &[&revoked]);
    restore_as(&backup, &store, &[("a", "a")], true).unwrap();
    assert_eq!(records(&store)["a"], revoked);
    // One that was deleted and can be brought back is not overwritten.
    let deleted = Some(dormouse_storage::directory::Deletion { at_ms: 1, until_ms: u64::MAX });
    enter(&store, &[&DatabaseRecord { deleted, ..revoked }]);
    for to in ["a", "a.b"] {
        let error = restore_as(&backup, &store, &[("a", to)], true).unwrap_err();
        assert!(matches!(&error, NotRestored::Deleted(name) if name == "a"), "{error}");
    }
}

/// Marks what a tail holds of a database as uncounted, as in a branch of a moment, and leaves it out of the counts.
fn uncount(store: &Store, database: &str, has_body: bool) {
    let mut manifest = manifest_of(store, database);
    manifest.sequence += 2;
    manifest.cut = manifest.sequence;
    manifest.uncounted = manifest.sequence - 1;
    let uncounted = manifest.uncounted;
    manifest.segments.retain(|segment| has_body || segment.seen > segment.sequence);
    for segment in manifest.segments.iter_mut().filter(|segment| segment.seen > segment.sequence) {
        (segment.seen, segment.records) = (uncounted, 0);
        if !has_body {
            segment.sequence = 0;
            segment.location.len = 0;
        }
    }
    manifest.drop_unused_chunks();
    block_on(manifest::commit(store, &mut manifest)).unwrap();
}

#[test]
fn data_that_is_not_counted_is_not_overwritten() {
    let source = store_of(1);
    let backup = back_up(&source);
    for has_tail in [true, false] {
        let store = Arc::new(Store::memory());
        restore_as(&backup, &store, &[("a", "a")], false).unwrap();
        if has_tail {
            uncount(&store, "a", false);
            assert_eq!(keys(&store, "a").len(), 2);
        } else {
            let mut flushed = manifest_of(&store, "a");
            (flushed.segments, flushed.tails) = (Vec::new(), Vec::new());
            let stretch = Stretch { name: "db/a/history/1".to_owned(), bytes: 1, from_ms: 1, dropped: Vec::new() };
            flushed.timeline = Timeline { stretches: vec![stretch], until_ms: 5 };
            flushed.drop_unused_chunks();
            block_on(manifest::commit(&store, &mut flushed)).unwrap();
        }
        let before = manifest_of(&store, "a");
        let refused = restore_as(&backup, &store, &[("a", "a")], false);
        assert!(matches!(refused, Err(NotRestored::Exists(_))), "{refused:?}");
        assert_eq!(manifest_of(&store, "a"), before);
    }
}

#[test]
fn keys_that_were_not_counted_are_counted() {
    let source = store_of(1);
    branch(&source, "a", "a.then");
    let expected = keys(&source, "a.then").len() as u64;
    uncount(&source, "a.then", true);
    let backup = back_up(&source);
    let store = Arc::new(Store::memory());
    let report = restore_as(&backup, &store, &[("a.then", "then")], false).unwrap();
    assert_eq!(report.restored[0].keys, expected);
    assert_eq!((keys(&store, "then").len() as u64, manifest_of(&store, "then").uncounted), (expected, 0));
    assert_eq!(problems(&store), [""; 0]);
}

/// An image is an object like any other: it may say anything.
#[test]
fn an_image_brings_no_history() {
    let source = store_of(1);
    let (target, mut point) = back_up(&source);
    let (_, data) = point.data().next().unwrap();
    let mut image = block_on(read_image(&target, data)).unwrap();
    let name = "db/victim/history/1".to_owned();
    image.timeline =
        Timeline { stretches: vec![Stretch { name, bytes: 1, from_ms: 1, dropped: Vec::new() }], until_ms: 5 };
    let bytes = image.encode();
    let saved = &mut point.databases[0];
    let Saved::Data(data) = &mut saved.contents else { panic!("it has data") };
    (data.image.bytes, data.image.crc) = (bytes.len() as u64, dormouse_storage::codec::checksum(&bytes));
    block_on(target.delete(&data.image.name)).unwrap();
    block_on(target.put_new(&data.image.name, bytes)).unwrap();
    let store = Arc::new(Store::memory());
    restore_as(&(target, point), &store, &[("a", "a")], false).unwrap();
    assert_eq!(manifest_of(&store, "a").timeline, Timeline::default());
}

/// The manifest of the second database does not fit.
#[test]
fn an_error_between_two_commits_is_told_of_the_database_that_lacks() {
    let source = store_of(1);
    branch(&source, "a", "z");
    enter(&source, &[&with_token("a"), &with_token("z")]);
    let backup = back_up(&source);
    for fault in [StoreFault::Full, StoreFault::Lost, StoreFault::Unanswered] {
        let faults = FaultyStore::memory();
        let store = Arc::new(Store::over(Arc::clone(&faults) as _, "memory://"));
        // Of a restore without faults, the puts up to the last manifest.
        let trial = FaultyStore::memory();
        let trial_store = Arc::new(Store::over(Arc::clone(&trial) as _, "memory://"));
        restore_as(&backup, &trial_store, &[("a", "a"), ("z", "z")], false).unwrap();
        let puts = trial.asked(StoreRequest::Put);
        // The last one is the copy of the manifest.
        faults.fail(StoreRequest::Put, puts - 2, 1, fault);
        let report = restore_as(&backup, &store, &[("a", "a"), ("z", "z")], false).unwrap();
        assert_eq!(restored_names(&report), ["a"], "{fault:?}");
        assert_eq!(report.failed[0].0, "z", "{fault:?}");
        assert_eq!(keys(&store, "a"), keys(&source, "a"), "{fault:?}");
        // Without an answer it may be there, and then it needs its tokens.
        let is_there = block_on(manifest::exists(&store, "z")).unwrap();
        let has_record = records(&store).contains_key("z");
        assert_eq!((is_there, has_record), (fault == StoreFault::Unanswered, fault != StoreFault::Full), "{fault:?}");
        if is_there {
            assert_eq!(keys(&store, "z"), keys(&source, "z"), "{fault:?}");
        }
        // The next attempt restores it.
        restore_as(&backup, &store, &[("z", "z")], is_there).unwrap();
        assert_eq!(keys(&store, "z"), keys(&source, "z"), "{fault:?}");
        assert_eq!((records(&store), problems(&store)), (records(&source), Vec::new()), "{fault:?}");
    }
}
