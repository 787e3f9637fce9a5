//! The store as its users see it, encrypted.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::executor::block_on;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};

use super::*;
use crate::store::{FaultyStore, StoreAccess, StoreFault, StoreRequest};

fn master(byte: u8) -> MasterKey {
    MasterKey::of_bytes([byte; 32])
}

fn encrypted(objects: &Arc<InMemory>) -> Store {
    let store = Store::over(Arc::clone(objects) as Arc<dyn ObjectStore>, "memory://");
    block_on(store.encrypted(&master(1))).unwrap()
}

fn stored(objects: &InMemory, name: &str) -> Bytes {
    block_on(async { objects.get(&name.into()).await.unwrap().bytes().await.unwrap() })
}

fn replace(objects: &InMemory, name: &str, bytes: impl Into<PutPayload>) {
    block_on(objects.put(&name.into(), bytes.into())).unwrap();
}

fn keys(store: &Store) -> Vec<String> {
    block_on(store.list(KEYS)).unwrap().into_iter().map(|object| object.name).collect()
}

fn object(bytes: usize) -> Bytes {
    (0..bytes).map(|at| (at % 251) as u8).collect::<Vec<_>>().into()
}

#[test]
fn objects_are_read_as_they_were_written() {
    let objects = Arc::new(InMemory::new());
    let store = encrypted(&objects);
    let frame = FRAME_BYTES as usize;
    for (at, bytes) in [0, 1, 100, frame - 1, frame, frame + 1, 5 * frame + 3].into_iter().enumerate() {
        let (name, object, total) = (format!("db/a/chunk/{at}"), object(bytes), bytes as u64);
        block_on(store.put_new(&name, object.clone())).unwrap();
        assert!(matches!(block_on(store.put_new(&name, object.clone())), Err(StoreError::Exists { .. })));
        // A second process has its keys from the store.
        for store in [&store, &encrypted(&objects)] {
            assert_eq!(block_on(store.get(&name)).unwrap(), object);
            assert_eq!(block_on(store.size(&name)).unwrap(), total);
            let listed = block_on(store.list("db/a")).unwrap();
            assert!(listed.iter().any(|listed| listed.name == name && listed.bytes == total));
            let edges = [0, 1, 50, frame - 1, frame, frame + 1, 2 * frame, bytes.saturating_sub(1), bytes];
            for start in edges.into_iter().filter(|start| *start <= bytes) {
                for end in edges.into_iter().filter(|end| start <= *end && *end <= bytes) {
                    let read = block_on(store.get_range(&name, start as u64..end as u64)).unwrap();
                    assert_eq!(read, object[start..end], "{start}..{end} of {bytes}");
                }
                let (end, size) = block_on(store.get_suffix(&name, start as u64)).unwrap();
                assert_eq!((&end[..], size), (&object[bytes - start..], total), "the last {start} of {bytes}");
            }
            let (all, _) = block_on(store.get_suffix(&name, total + 1_000_000)).unwrap();
            assert_eq!(all, object);
            for range in [total..total + 1, 0..total + 1, total + 100_000..total + 100_001] {
                let error = block_on(store.get_range(&name, range)).unwrap_err().to_string();
                assert!(error.contains(&format!("{bytes} bytes long")), "{error}");
            }
        }
        assert!(bytes < 50 || !stored(&objects, &name).windows(20).any(|part| part == &object[..20]));
    }
    assert!(block_on(store.get("db/a/chunk/x")).unwrap_err().is_missing());
    assert!(block_on(store.get_range("db/a/chunk/x", 0..1)).unwrap_err().is_missing());
}

#[test]
fn objects_that_were_exchanged_or_planted_are_refused() {
    let objects = Arc::new(InMemory::new());
    let store = encrypted(&objects);
    let names = ["db/a/chunk/1", "db/a/chunk/2", "db/b/chunk/1", "directory/1", "ledger/1"];
    for name in names {
        block_on(store.put_new(name, object(40_000))).unwrap();
    }
    let refused = |name: &str, why: &str| {
        let error = block_on(store.get(name)).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }) && error.to_string().contains(why), "{error}");
        assert!(matches!(block_on(store.get_range(name, 20_000..30_000)), Err(StoreError::Corrupt { .. })));
        assert!(matches!(block_on(store.get_suffix(name, 10)), Err(StoreError::Corrupt { .. })));
    };
    for name in names {
        let sound = stored(&objects, name);
        for other in names.iter().filter(|other| **other != name) {
            replace(&objects, name, stored(&objects, other));
            refused(name, "does not fit");
        }
        replace(&objects, name, object(40_000));
        refused(name, "");
        replace(&objects, name, sound.slice(..SEALED_BYTES as usize * 2));
        refused(name, "does not fit");
        replace(&objects, name, sound);
        assert_eq!(block_on(store.get(name)).unwrap(), object(40_000));
    }
    // A key of another database in the place of this one's.
    let (own, other) = (key_name("db/a", 1), key_name("db/b", 1));
    replace(&objects, &own, stored(&objects, &other));
    let late = encrypted(&objects);
    let error = block_on(late.get("db/a/chunk/1")).unwrap_err().to_string();
    assert!(error.contains("key/db/a/000001"), "{error}");
    block_on(store.delete(&own)).unwrap();
    let error = block_on(late.get("db/a/chunk/1")).unwrap_err();
    assert!(!error.is_missing() && error.to_string().contains("the key is missing"), "{error}");
    assert_eq!(block_on(late.get("db/b/chunk/1")).unwrap(), object(40_000), "others are not concerned");
}

#[test]
fn a_database_that_is_deleted_takes_its_keys_along() {
    let objects = Arc::new(InMemory::new());
    let store = encrypted(&objects);
    block_on(store.put_new("db/a/chunk/1", object(100))).unwrap();
    block_on(store.put_new("db/a.b/chunk/1", object(100))).unwrap();
    assert_eq!(keys(&store), ["key/db/a.b/000001", "key/db/a/000001"]);
    let copy = stored(&objects, "db/a/chunk/1");
    block_on(store.retire_keys("db/a")).unwrap();
    // Objects that branches need are left, and a new database of the name has another key.
    block_on(store.put_new("db/a/chunk/2", object(100))).unwrap();
    assert_eq!(block_on(store.get("db/a/chunk/1")).unwrap(), object(100));
    assert_eq!(key_number(&stored(&objects, "db/a/chunk/2")), Some(2));
    block_on(store.delete("db/a/chunk/1")).unwrap();
    block_on(store.delete_retired_keys("db/a", 2)).unwrap();
    assert_eq!(keys(&store), ["key/db/a.b/000001", "key/db/a/000002"]);
    replace(&objects, "db/a/chunk/1", copy.clone());
    block_on(store.get("db/a/chunk/1")).unwrap_err();
    assert_eq!(block_on(store.get("db/a/chunk/2")).unwrap(), object(100));
    block_on(store.delete("db/a/chunk/2")).unwrap();
    block_on(store.delete_keys("db/a")).unwrap();
    assert_eq!(keys(&store), ["key/db/a.b/000001"]);
    // Keys of the same number are others.
    block_on(store.put_new("db/a/chunk/3", object(100))).unwrap();
    assert_eq!(keys(&store), ["key/db/a.b/000001", "key/db/a/000001"]);
    block_on(store.get("db/a/chunk/1")).unwrap_err();
    // Another process has the key of before in memory.
    let reader = encrypted(&objects);
    assert_eq!(block_on(reader.get("db/a/chunk/3")).unwrap(), object(100));
    block_on(store.delete("db/a/chunk/3")).unwrap();
    block_on(store.delete_keys("db/a")).unwrap();
    block_on(store.put_new("db/a/chunk/4", object(100))).unwrap();
    assert_eq!(block_on(reader.get("db/a/chunk/4")).unwrap(), object(100));
}

#[test]
fn databases_that_are_older_than_the_encryption_stay_as_they_are() {
    let objects = Arc::new(InMemory::new());
    let plain = Store::over(Arc::clone(&objects) as Arc<dyn ObjectStore>, "memory://");
    block_on(plain.put_new("db/old/chunk/1", object(40_000))).unwrap();
    block_on(plain.put_new("directory/1", object(100))).unwrap();
    let store = encrypted(&objects);
    assert!(store.is_encrypted() && !store.is_encrypted_whole());
    let again = encrypted(&objects);
    for store in [&store, &again] {
        assert_eq!(
            block_on(store.get_range("db/old/chunk/1", 20_000..20_005)).unwrap(),
            object(40_000)[20_000..20_005]
        );
        assert_eq!(block_on(store.get_suffix("db/old/chunk/1", 7)).unwrap().1, 40_000);
        assert_eq!(block_on(store.get("directory/1")).unwrap(), object(100));
        assert_eq!(block_on(store.get_range("directory/1", 5..9)).unwrap(), object(100)[5..9]);
    }
    block_on(store.put_new("db/old/chunk/2", object(100))).unwrap();
    block_on(store.put_new("db/new/chunk/1", object(100))).unwrap();
    block_on(store.put_new("directory/2", object(100))).unwrap();
    assert_eq!(stored(&objects, "db/old/chunk/2"), object(100));
    for name in ["db/new/chunk/1", "directory/2"] {
        assert_ne!(stored(&objects, name), object(100));
        assert_eq!(block_on(again.get(name)).unwrap(), object(100));
    }
    // A new store takes no object that is not encrypted.
    replace(&objects, "db/new/chunk/1", object(100));
    block_on(again.get("db/new/chunk/1")).unwrap_err();
}

fn access(master_key: Option<&MasterKey>) -> StoreAccess<'_> {
    StoreAccess { master_key, ..StoreAccess::default() }
}

fn files(folder: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, found),
            false => drop(found.insert(path.display().to_string(), std::fs::read(&path).unwrap())),
        }
    }
}

fn all(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    files(folder, &mut found);
    found
}

#[test]
fn a_wrong_or_missing_master_key_opens_nothing_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().display());
    let (first, second) = (master(1), master(2));
    let store = Store::open_with(&url, access(Some(&first))).unwrap();
    assert!(store.is_encrypted_whole());
    block_on(store.put_new("db/a/chunk/1", object(100))).unwrap();
    drop(store);
    let refused = |wrong: Option<&MasterKey>, why: &str| {
        // As a crash has left it.
        std::fs::write(folder.path().join("db/a/chunk/2#1"), "unfinished").unwrap();
        let before = all(folder.path());
        for opened in [Store::open_with(&url, access(wrong)), Store::open_read_only_with(&url, access(wrong))] {
            let error = opened.unwrap_err();
            assert!(matches!(&error, StoreError::Encrypted { problem } if problem.contains(why)), "{error}");
        }
        assert_eq!(all(folder.path()), before);
    };
    refused(None, "--master-key");
    refused(Some(&second), "not the one");
    let store = Store::open_with(&url, access(Some(&first))).unwrap();
    let before = all(folder.path());
    block_on(rotate(&store, &second)).unwrap();
    drop(store);
    let is_root = |name: &String| name.contains("/encryption/");
    let after = all(folder.path());
    let same = |files: &BTreeMap<String, Vec<u8>>| {
        let others = files.iter().filter(|(name, _)| !is_root(name) && !name.ends_with("/lock"));
        others.map(|(name, bytes)| (name.clone(), bytes.clone())).collect::<Vec<_>>()
    };
    assert_eq!(same(&before), same(&after), "data is not written again");
    assert_eq!(after.keys().filter(|name| is_root(name)).count(), 1);
    refused(Some(&first), "not the one");
    let store = Store::open_read_only_with(&url, access(Some(&second))).unwrap();
    assert_eq!(block_on(store.get("db/a/chunk/1")).unwrap(), object(100));
    // A crash between the new root key and the deletion of the old one.
    let old = before.iter().find(|(name, _)| is_root(name)).unwrap();
    std::fs::write(old.0, old.1).unwrap();
    refused(Some(&first), "not the one");
    Store::open_with(&url, access(Some(&second))).unwrap();
    let plain = tempfile::tempdir().unwrap();
    let store = Store::open(&format!("file://{}", plain.path().display())).unwrap();
    let error = block_on(rotate(&store, &second)).unwrap_err().to_string();
    assert!(error.contains("is not encrypted"), "{error}");
}

fn names(objects: &Arc<InMemory>, folder: &str) -> Vec<String> {
    let store = Store::over(Arc::clone(objects) as Arc<dyn ObjectStore>, "memory://");
    block_on(store.list(folder)).unwrap().into_iter().map(|object| object.name).collect()
}

#[test]
fn a_command_that_does_not_give_back_what_it_wraps_encrypts_nothing() {
    let objects = Arc::new(InMemory::new());
    let plain = Store::over(Arc::clone(&objects) as Arc<dyn ObjectStore>, "memory://");
    let rows = [
        ("f() { echo nonsense; }; f", "no 64 hexadecimal digits"),
        ("f() { case $1 in wrap) cat;; unwrap) exit 5;; esac; }; f", "exit status: 5"),
        ("f() { case $1 in wrap) echo x;; unwrap) printf 0a%.0s $(seq 32);; esac; }; f", "another key"),
    ];
    for (command, why) in rows {
        let key = MasterKey::parse(&format!("command:{command}")).unwrap();
        let error = block_on(plain.clone().encrypted(&key)).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains("nothing was changed"), "{error}");
        assert_eq!(names(&objects, ROOTS), [""; 0]);
    }
    let store = encrypted(&objects);
    block_on(store.put_new("db/a/chunk/1", object(100))).unwrap();
    for (command, why) in rows {
        let key = MasterKey::parse(&format!("command:{command}")).unwrap();
        let error = block_on(rotate(&store, &key)).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert_eq!(block_on(encrypted(&objects).get("db/a/chunk/1")).unwrap(), object(100));
    }
}

/// Encryption must not begin once more: what is there could not be read, and new data of the same databases would be plain.
#[test]
fn a_store_that_has_lost_its_root_key_is_not_opened() {
    let objects = Arc::new(InMemory::new());
    let store = encrypted(&objects);
    block_on(store.put_new("db/a/chunk/1", object(100))).unwrap();
    let root = stored(&objects, "encryption/000001");
    block_on(store.delete("encryption/000001")).unwrap();
    let again = || {
        let store = Store::over(Arc::clone(&objects) as Arc<dyn ObjectStore>, "memory://");
        block_on(store.encrypted(&master(1)))
    };
    let error = again().unwrap_err();
    assert!(error.to_string().contains("encryption/"), "{error}");
    assert_eq!(names(&objects, ROOTS), [""; 0]);
    replace(&objects, "encryption/000001", root);
    assert_eq!(block_on(again().unwrap().get("db/a/chunk/1")).unwrap(), object(100));

    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().display());
    let key = master(1);
    let store = Store::open_with(&url, access(Some(&key))).unwrap();
    block_on(store.put_new("db/a/chunk/1", object(100))).unwrap();
    drop(store);
    std::fs::remove_file(folder.path().join("encryption/000001")).unwrap();
    let before = all(folder.path());
    for access in [access(None), access(Some(&key))] {
        for opened in [Store::open_with(&url, access), Store::open_read_only_with(&url, access)] {
            let error = opened.unwrap_err();
            assert!(matches!(&error, StoreError::Encrypted { problem } if problem.contains("encryption/")), "{error}");
        }
    }
    assert_eq!(all(folder.path()), before);
}

/// The master key is changed between the list of the root keys and the look at one.
#[test]
fn a_store_is_opened_while_its_master_key_is_changed() {
    for round in 0..200 {
        let objects = Arc::new(InMemory::new());
        let store = encrypted(&objects);
        block_on(store.put_new("db/a/chunk/1", object(100))).unwrap();
        let faults = FaultyStore::new(Arc::clone(&objects) as Arc<dyn ObjectStore>);
        faults.interleave();
        let slow = Store::over(faults, "memory://");
        let key = master(1);
        let mut opening = Box::pin(slow.encrypted(&key));
        let mut context = Context::from_waker(Waker::noop());
        let opened = (0..round).find_map(|_| match opening.as_mut().poll(&mut context) {
            Poll::Ready(opened) => Some(opened),
            Poll::Pending => None,
        });
        let is_over = opened.is_some();
        block_on(rotate(&store, &master(1))).unwrap();
        let opened = match opened {
            Some(opened) => opened.unwrap(),
            None => block_on(opening).unwrap(),
        };
        let unslowed = Store::over(Arc::clone(&objects) as Arc<dyn ObjectStore>, "memory://");
        block_on(opened.put_new("db/b/chunk/1", object(100))).unwrap();
        assert_eq!(block_on(opened.get("db/a/chunk/1")).unwrap(), object(100), "after {round} steps");
        let later = block_on(unslowed.encrypted(&key)).unwrap();
        assert_eq!(block_on(later.get("db/b/chunk/1")).unwrap(), object(100), "after {round} steps");
        assert_eq!(names(&objects, ROOTS), ["encryption/000002"]);
        if is_over {
            assert!(round > 2, "it takes {round} steps only");
            return;
        }
    }
    panic!("it does not end");
}

#[test]
fn a_root_key_of_the_master_key_before_is_deleted_with_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().display());
    let (first, second) = (master(1), master(2));
    let store = Store::open_with(&url, access(Some(&first))).unwrap();
    block_on(store.put_new("db/a/chunk/1", object(100))).unwrap();
    let root = folder.path().join("encryption/000001");
    let old = std::fs::read(&root).unwrap();
    assert!(block_on(rotate(&store, &second)).unwrap().is_none());
    drop(store);
    // As after a crash between the two.
    std::fs::write(&root, old).unwrap();
    Store::open_read_only_with(&url, access(Some(&second))).unwrap();
    assert!(root.exists());
    let store = Store::open_with(&url, access(Some(&second))).unwrap();
    assert!(!root.exists());
    assert_eq!(block_on(store.get("db/a/chunk/1")).unwrap(), object(100));
}

#[test]
fn an_old_root_key_that_cannot_be_deleted_is_told() {
    let objects = Arc::new(InMemory::new());
    encrypted(&objects);
    let faults = FaultyStore::new(Arc::clone(&objects) as Arc<dyn ObjectStore>);
    let key = master(1);
    let store =
        block_on(Store::over(Arc::clone(&faults) as Arc<dyn ObjectStore>, "memory://").encrypted(&key)).unwrap();
    faults.fail(StoreRequest::Delete, 0, 1, StoreFault::Lost);
    assert!(block_on(rotate(&store, &master(2))).unwrap().is_some());
    let both = Store::over(objects as Arc<dyn ObjectStore>, "memory://");
    assert!(block_on(both.clone().encrypted(&key)).is_err());
    block_on(both.encrypted(&master(2))).unwrap();
}

#[test]
fn a_command_is_asked_once_to_open_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}/data", folder.path().display());
    let calls = folder.path().join("calls");
    let key = MasterKey::parse(&format!("command:f() {{ echo $1 >> {}; cat; }}; f", calls.display())).unwrap();
    let asked = || std::fs::read_to_string(&calls).unwrap();
    drop(Store::open_with(&url, access(Some(&key))).unwrap());
    assert_eq!(asked(), "wrap\nunwrap\n");
    drop(Store::open_with(&url, access(Some(&key))).unwrap());
    assert_eq!(asked(), "wrap\nunwrap\nunwrap\n");
}

#[test]
fn a_change_of_the_master_key_that_is_cut_short_leaves_one_that_opens_the_store() {
    for changes in 0.. {
        let objects = Arc::new(InMemory::new());
        block_on(encrypted(&objects).put_new("db/a/chunk/1", object(100))).unwrap();
        let faults = FaultyStore::new(Arc::clone(&objects) as Arc<dyn ObjectStore>);
        let store = Store::over(Arc::clone(&faults) as Arc<dyn ObjectStore>, "memory://");
        let store = block_on(store.encrypted(&master(1))).unwrap();
        faults.crash_after(changes);
        let outcome = block_on(rotate(&store, &master(2)));
        let opened = [1, 2].map(|key| {
            let store = Store::over(Arc::clone(&objects) as Arc<dyn ObjectStore>, "memory://");
            block_on(store.encrypted(&master(key)))
        });
        assert_eq!(
            opened.each_ref().map(Result::is_ok),
            [outcome.is_err(), outcome.is_ok()],
            "after {changes} changes"
        );
        for store in opened.into_iter().flatten() {
            assert_eq!(block_on(store.get("db/a/chunk/1")).unwrap(), object(100));
            // And it can be changed once more.
            assert!(block_on(rotate(&store, &master(3))).unwrap().is_none());
            assert_eq!(names(&objects, ROOTS).len(), 1);
        }
        if outcome.is_ok_and(|left| left.is_none()) {
            assert_eq!(changes, 2);
            return;
        }
    }
}
