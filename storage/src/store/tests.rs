use std::fs;

use futures::executor::block_on;
use object_store::memory::InMemory;

use super::*;

/// Quick to lose, so that tests of failures are quick too.
const PATIENCE: Patience = Patience { attempts: 4, pause_ms: 1, answer_ms: 60_000, answer_ms_per_mib: 0 };

fn network(patience: Patience) -> (Arc<FaultyStore>, Store) {
    let faulty = FaultyStore::new(Arc::new(InMemory::new()));
    let store = Store::over_network(faulty.clone(), "memory://", patience).unwrap();
    (faulty, store)
}

fn folder() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().join("data").display());
    (folder, url)
}

fn stores() -> Vec<(Option<tempfile::TempDir>, Store)> {
    let (folder, url) = folder();
    vec![(Some(folder), Store::open(&url).unwrap()), (None, Store::memory()), (None, network(PATIENCE).1)]
}

#[test]
fn objects_are_created_once_and_read_back() {
    for (_folder, store) in stores() {
        block_on(async {
            store.put_new("db/a/chunk/1", "hello").await.unwrap();
            let again = store.put_new("db/a/chunk/1", "other").await.unwrap_err();
            assert_eq!(again.to_string(), "db/a/chunk/1: exists already");
            assert_eq!(store.get("db/a/chunk/1").await.unwrap(), "hello");
            assert_eq!(store.get_range("db/a/chunk/1", 1..3).await.unwrap(), "el");
            assert_eq!(store.get_range("db/a/chunk/1", 2..2).await.unwrap(), "");
            assert_eq!(store.get_suffix("db/a/chunk/1", 2).await.unwrap(), ("lo".into(), 5));
            assert_eq!(store.get_suffix("db/a/chunk/1", 20).await.unwrap(), ("hello".into(), 5));
            assert_eq!(store.size("db/a/chunk/1").await.unwrap(), 5);
        });
    }
}

#[test]
fn errors_name_the_object() {
    for (_folder, store) in stores() {
        block_on(async {
            store.put_new("db/a/chunk/1", "hello").await.unwrap();
            let text = |result: Result<Bytes, StoreError>| result.unwrap_err().to_string();
            assert_eq!(text(store.get("db/a/none").await), "db/a/none: missing from the store");
            assert_eq!(text(store.get_range("db/a/none", 0..4).await), "db/a/none: missing from the store");
            for range in [3..9, 5..9, 7..9] {
                let (start, end) = (range.start, range.end);
                let short = format!("db/a/chunk/1: 5 bytes long, but bytes {start} to {end} were wanted");
                assert_eq!(text(store.get_range("db/a/chunk/1", range).await), short);
            }
            for name in ["db/../../etc/passwd", "db/./a", "db//a", "a\nb"] {
                let error = store.put_new(name, "x").await.unwrap_err();
                assert!(matches!(error, StoreError::Name(_)), "{name}: {error}");
                assert!(store.get(name).await.is_err(), "{name}");
            }
        });
    }
}

#[test]
fn listing_is_ordered_and_deleting_is_idempotent() {
    for (_folder, store) in stores() {
        block_on(async {
            assert_eq!(store.list("db").await.unwrap(), vec![]);
            assert_eq!(store.list_folders("db").await.unwrap(), Vec::<String>::new());
            for name in ["db/b/chunk/2", "db/b%2f/chunk/1", "db/a/manifest/1", "db/b/chunk/10"] {
                store.put_new(name, "x").await.unwrap();
            }
            let names =
                async |prefix| store.list(prefix).await.unwrap().into_iter().map(|o| o.name).collect::<Vec<_>>();
            assert_eq!(names("db/b/chunk").await, ["db/b/chunk/10", "db/b/chunk/2"]);
            assert_eq!(names("db/b").await, ["db/b/chunk/10", "db/b/chunk/2"]);
            assert_eq!(names("db/b%2f").await, ["db/b%2f/chunk/1"]);
            assert_eq!(store.list_folders("db").await.unwrap(), ["a", "b", "b%2f"]);
            for _ in 0..2 {
                store.delete("db/a/manifest/1").await.unwrap();
            }
            assert_eq!(names("db/a").await, [""; 0]);
            let doomed: Vec<String> = (0..2500).map(|n| format!("db/c/chunk/{n}")).collect();
            for name in doomed.iter().step_by(50) {
                store.put_new(name, "x").await.unwrap();
            }
            store.delete_many(&doomed).await.unwrap();
            assert_eq!(names("db/c").await, [""; 0]);
            assert_eq!(store.list_folders("db").await.unwrap(), ["b", "b%2f"]);
        });
    }
}

#[test]
fn urls_say_what_is_wrong() {
    let text = |url| Store::open(url).unwrap_err().to_string();
    let supported = "this build supports file://, s3://, gs://, az://, memory://";
    assert_eq!(text("ftp://key:secret@b"), format!("unknown store scheme ftp://; {supported}"));
    assert_eq!(text("s3://k:secret@b"), "an s3:// URL holds no credentials: they are read from the environment");
    assert!(text("./data").starts_with("a store is named by a URL"), "{}", text("./data"));
    assert!(text("file://").contains("needs a folder"));
}

#[test]
fn a_second_opener_learns_who_holds_the_folder() {
    let (_folder, url) = folder();
    let store = Store::open(&url).unwrap();
    let clone = store.clone();
    drop(store);
    let path = url.strip_prefix("file://").unwrap();
    let error = Store::open(&url).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }));
    let expected = format!("the store folder {path} is in use by this process (pid {})", std::process::id());
    assert_eq!(error.to_string(), expected);

    let reader = Store::open_read_only(&url).unwrap();
    block_on(async {
        clone.put_new("db/a/1", "x").await.unwrap();
        assert_eq!(reader.get("db/a/1").await.unwrap(), "x");
        assert!(matches!(reader.put_new("db/a/2", "x").await, Err(StoreError::ReadOnly { .. })));
        assert!(matches!(reader.delete("db/a/1").await, Err(StoreError::ReadOnly { .. })));
    });
    drop(clone);
    Store::open(&url).unwrap();
}

#[test]
fn an_unusable_folder_is_named_with_the_reason() {
    let (folder, _) = folder();
    fs::write(folder.path().join("file"), "").unwrap();
    let path = folder.path().join("file/below");
    let error = Store::open(&format!("file://{}", path.display())).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot use the store folder {}: Not a directory", path.display())), "{error}");
    let path = folder.path().join("file");
    let error = Store::open(&format!("file://{}", path.display())).unwrap_err().to_string();
    assert_eq!(error, format!("cannot use the store folder {}: it is a file, not a folder", path.display()));
    let absent = folder.path().join("absent");
    assert!(Store::open_read_only(&format!("file://{}", absent.display())).is_err());
    assert!(!absent.exists());
}

#[test]
fn temporary_files_of_a_crash_are_removed_at_the_next_start() {
    let (_folder, url) = folder();
    let path = std::path::PathBuf::from(url.strip_prefix("file://").unwrap());
    drop(Store::open(&url).unwrap());
    assert_eq!(fs::read(path.join("lock")).unwrap(), b"", "a clean close empties the lock file");
    fs::create_dir_all(path.join("db/a/chunk")).unwrap();
    fs::write(path.join("db/a/chunk/1#1"), "half").unwrap();
    fs::write(path.join("db/a/chunk/1"), "whole").unwrap();
    fs::write(path.join("lock"), "4242\n").unwrap();

    let store = Store::open(&url).unwrap();
    assert!(!path.join("db/a/chunk/1#1").exists());
    assert_eq!(block_on(store.get("db/a/chunk/1")).unwrap(), "whole");
    assert_eq!(fs::read_to_string(path.join("lock")).unwrap(), format!("{}\n", std::process::id()));
}

#[test]
fn a_write_that_was_dropped_halfway_leaves_the_mark_of_a_crash() {
    let (_folder, url) = folder();
    let path = std::path::PathBuf::from(url.strip_prefix("file://").unwrap());
    let store = Store::open(&url).unwrap();
    store.lock.as_ref().unwrap().begin_write();
    drop(store);
    assert_ne!(fs::read(path.join("lock")).unwrap(), b"");
}

#[test]
fn a_full_disk_is_told_apart_and_writes_nothing() {
    let faulty = FaultyStore::new(Arc::new(InMemory::new()));
    let store = Store::over(faulty.clone(), "memory://");
    block_on(async {
        faulty.fail_put_after(1, StoreFault::Full);
        store.put_new("a/1", "x").await.unwrap();
        assert_eq!(store.put_new("a/2", "x").await.unwrap_err().to_string(), "a/2: no space left in the store");
        assert!(store.get("a/2").await.unwrap_err().is_missing());
        store.put_new("a/2", "x").await.unwrap();

        faulty.fail_put_after(0, StoreFault::Unanswered);
        assert!(matches!(store.put_new("a/3", "x").await, Err(StoreError::Unavailable { .. })));
        assert_eq!(store.get("a/3").await.unwrap(), "x");

        faulty.flip("a/3", 0);
        assert_eq!(store.get("a/3").await.unwrap(), "y");
        faulty.hide("a/3");
        assert!(store.get("a/3").await.unwrap_err().is_missing());

        faulty.fail_put_after(0, StoreFault::Crash);
        assert!(store.put_new("a/4", "x").await.is_err());
        assert!(store.get("a/1").await.is_err());
        faulty.revive();
        assert_eq!(store.get("a/1").await.unwrap(), "x");
    });
}

#[test]
fn a_held_store_answers_when_released() {
    let faulty = FaultyStore::new(Arc::new(InMemory::new()));
    let store = Store::over(faulty.clone(), "memory://");
    faulty.hold_puts();
    block_on(async {
        let mut put = Box::pin(store.put_new("a/1", "x"));
        assert!(futures::poll!(&mut put).is_pending());
        faulty.release_puts();
        put.await.unwrap();
    });
}

#[test]
fn a_put_whose_answer_was_lost_is_recognised() {
    let (faulty, store) = network(PATIENCE);
    block_on(async {
        faulty.fail(StoreRequest::Put, 0, 1, StoreFault::Unanswered);
        store.put_new("a/1", "mine").await.unwrap();
        assert_eq!(store.get("a/1").await.unwrap(), "mine");
        assert_eq!(faulty.puts(), 2, "created, and found");

        // An object that a first attempt finds is not ours, whatever it holds.
        assert!(matches!(store.put_new("a/1", "mine").await, Err(StoreError::Exists { .. })));
    });
}

#[test]
fn a_refusal_is_not_forgotten_when_the_next_question_fails() {
    let (faulty, store) = network(PATIENCE);
    block_on(async {
        store.put_new("a/1", "mine").await.unwrap();
        faulty.fail(StoreRequest::Get, 0, 3, StoreFault::Lost);
        let error = store.put_new("a/1", "mine").await.unwrap_err();
        assert!(matches!(error, StoreError::Exists { .. }), "{error}");
    });
}

#[test]
fn a_store_that_creates_only_what_is_new_is_known_by_any_refusal() {
    for (fault, failures, asked) in [
        (StoreFault::Lost, 1, 3),
        (StoreFault::Lost, 3, 5),
        (StoreFault::Unanswered, 1, 2),
        (StoreFault::Unanswered, 3, 2),
    ] {
        let (faulty, store) = network(PATIENCE);
        block_on(async {
            faulty.fail(StoreRequest::Put, 0, failures, fault);
            assert!(store.creates_only_what_is_new("probe", "x").await.unwrap());
            assert_eq!(faulty.puts(), asked, "{fault:?}, {failures} times");
            // Nothing else is needed to know it.
            faulty.fail(StoreRequest::Get, 0, 100, StoreFault::Lost);
            assert!(store.creates_only_what_is_new("probe", "x").await.unwrap());
        });
    }
    let (faulty, store) = network(PATIENCE);
    block_on(async {
        faulty.fail(StoreRequest::Put, 0, 4, StoreFault::Ignored);
        assert!(!store.creates_only_what_is_new("probe", "x").await.unwrap());
        faulty.fail(StoreRequest::Put, 0, 4, StoreFault::Lost);
        assert!(matches!(store.creates_only_what_is_new("probe", "x").await, Err(StoreError::Unavailable { .. })));
    });
}

#[test]
fn what_another_put_meanwhile_is_not_taken_for_ours() {
    for other in ["them", "other", ""] {
        let (faulty, store) = network(PATIENCE);
        block_on(async {
            faulty.fail(StoreRequest::Put, 0, 1, StoreFault::Lost);
            faulty.hold(StoreRequest::Put);
            let mut put = Box::pin(store.put_new("a/1", "mine"));
            assert!(futures::poll!(&mut put).is_pending());
            while faulty.puts() == 0 {
                std::thread::yield_now();
            }
            let inner = faulty.inner();
            inner.put(&Path::from("a/1"), other.into()).await.unwrap();
            faulty.release(StoreRequest::Put);
            assert!(matches!(put.await, Err(StoreError::Exists { .. })), "{other}");
            assert_eq!(store.get("a/1").await.unwrap(), other);
        });
    }
}

#[test]
fn comparing_survives_failures_too() {
    let (faulty, store) = network(PATIENCE);
    block_on(async {
        faulty.fail(StoreRequest::Put, 0, 1, StoreFault::Unanswered);
        // The size, then the contents.
        faulty.fail(StoreRequest::Get, 1, 1, StoreFault::Torn);
        store.put_new("a/1", "mine").await.unwrap();
        assert_eq!((faulty.puts(), faulty.asked(StoreRequest::Get)), (3, 4));
    });
}

#[test]
fn a_torn_object_of_ours_is_not_taken_for_whole() {
    let (faulty, store) = network(PATIENCE);
    block_on(async {
        faulty.fail(StoreRequest::Put, 0, 1, StoreFault::Torn);
        assert!(matches!(store.put_new("a/1", "mine").await, Err(StoreError::Exists { .. })));
    });
}

#[test]
fn failures_that_pass_are_not_noticed() {
    for fault in [StoreFault::Lost, StoreFault::Unanswered, StoreFault::Torn] {
        let (faulty, store) = network(PATIENCE);
        block_on(async {
            for n in 0..10 {
                store.put_new(&format!("a/b/{n}"), format!("hello {n}")).await.unwrap();
            }
            faulty.fail(StoreRequest::Get, 0, 3, fault);
            assert_eq!(store.get("a/b/1").await.unwrap(), "hello 1");
            faulty.fail(StoreRequest::Get, 0, 3, fault);
            assert_eq!(store.get_range("a/b/1", 1..3).await.unwrap(), "el");
            faulty.fail(StoreRequest::Get, 0, 3, fault);
            assert_eq!(store.get_suffix("a/b/1", 3).await.unwrap(), ("o 1".into(), 7));
            faulty.fail(StoreRequest::List, 0, 3, fault);
            let names: Vec<String> = store.list("a").await.unwrap().into_iter().map(|object| object.name).collect();
            assert_eq!(names, (0..10).map(|n| format!("a/b/{n}")).collect::<Vec<_>>(), "none lost, none twice");
            faulty.fail(StoreRequest::List, 0, 3, fault);
            assert_eq!(store.list_folders("a").await.unwrap(), ["b"]);
            faulty.fail(StoreRequest::Delete, 0, 3, fault);
            store.delete("a/b/1").await.unwrap();
            faulty.fail(StoreRequest::Delete, 1, 2, fault);
            store.delete_many(&["a/b/2".to_owned(), "a/b/3".to_owned(), "a/b/4".to_owned()]).await.unwrap();
            assert_eq!(store.list("a").await.unwrap().len(), 6);
        });
    }
}

#[test]
fn patience_ends() {
    let (faulty, store) = network(PATIENCE);
    block_on(async {
        faulty.fail(StoreRequest::Put, 0, 4, StoreFault::Lost);
        let error = store.put_new("a/1", "x").await.unwrap_err();
        assert_eq!(error.to_string(), "cannot write a/1: Generic FaultyStore error: broken pipe");
        assert_eq!(faulty.puts(), 4);
        store.put_new("a/1", "x").await.unwrap();
        faulty.fail(StoreRequest::Get, 0, 4, StoreFault::Torn);
        assert!(matches!(store.get("a/1").await, Err(StoreError::Unavailable { .. })));
        assert_eq!(faulty.asked(StoreRequest::Get), 4);
        // A lasting failure is not retried.
        assert!(store.get("a/2").await.unwrap_err().is_missing());
        assert_eq!(faulty.asked(StoreRequest::Get), 5);
        faulty.fail(StoreRequest::Put, 0, 4, StoreFault::Full);
        assert!(matches!(store.put_new("a/2", "x").await, Err(StoreError::Full { .. })));
        assert_eq!(faulty.puts(), 6);
    });
}

#[test]
fn an_answer_that_does_not_come_is_asked_for_again() {
    let (faulty, store) = network(Patience { answer_ms: 100, ..PATIENCE });
    block_on(async {
        store.put_new("a/1", "x").await.unwrap();
        faulty.hold(StoreRequest::Get);
        let error = store.get("a/1").await.unwrap_err().to_string();
        assert_eq!(error, "cannot read a/1: Generic store error: no answer within 100 ms");
        assert_eq!(faulty.asked(StoreRequest::Get), 4);
    });
    let (faulty, store) = network(Patience { attempts: u32::MAX, answer_ms: 100, ..PATIENCE });
    block_on(async {
        faulty.hold(StoreRequest::Put);
        let mut put = Box::pin(store.put_new("a/1", "x"));
        assert!(futures::poll!(&mut put).is_pending());
        while faulty.puts() < 3 {
            std::thread::yield_now();
        }
        faulty.release(StoreRequest::Put);
        put.await.unwrap();
    });
}

#[test]
fn a_request_that_nobody_waits_for_ends() {
    let (faulty, store) = network(Patience { attempts: u32::MAX, answer_ms: 1, ..PATIENCE });
    faulty.hold(StoreRequest::Put);
    let mut put = Box::pin(store.put_new("a/1", "x"));
    block_on(async { assert!(futures::poll!(&mut put).is_pending()) });
    while faulty.puts() < 2 {
        std::thread::yield_now();
    }
    drop(put);
    let strong = || Arc::strong_count(&faulty);
    while strong() > 2 {
        std::thread::yield_now();
    }
    drop(store);
    assert_eq!(strong(), 1);
}

#[test]
fn faults_of_reading_and_deleting() {
    let faulty = FaultyStore::new(Arc::new(InMemory::new()));
    let store = Store::over(faulty.clone(), "memory://");
    block_on(async {
        store.put_new("a/1", "hello").await.unwrap();
        faulty.tear("a/1", 3);
        assert_eq!(store.get("a/1").await.unwrap(), "hel");
        assert_eq!(store.size("a/1").await.unwrap(), 3);
        assert_eq!(store.get_suffix("a/1", 2).await.unwrap(), ("el".into(), 3));
        for range in [2..5, 4..5] {
            assert!(matches!(store.get_range("a/1", range).await, Err(StoreError::Corrupt { .. })));
        }
        faulty.fail(StoreRequest::Delete, 0, 1, StoreFault::Ignored);
        store.delete("a/1").await.unwrap();
        assert_eq!(store.list("a").await.unwrap().len(), 1, "the delete was lost");
        faulty.fail(StoreRequest::Put, 0, 1, StoreFault::Torn);
        assert!(store.put_new("a/2", "hello").await.is_err());
        assert_eq!(store.get("a/2").await.unwrap(), "he");
        for request in [StoreRequest::Get, StoreRequest::List, StoreRequest::Delete] {
            faulty.fail(request, 1, 1, StoreFault::Crash);
            store.get("a/2").await.unwrap();
            assert_eq!(store.list("a").await.unwrap().len(), 2);
            store.delete("a/3").await.unwrap();
            let failed = match request {
                StoreRequest::Get => store.get("a/2").await.is_err(),
                StoreRequest::List => store.list("a").await.is_err(),
                _ => store.delete("a/2").await.is_err(),
            };
            assert!(failed && store.get("a/2").await.is_err() && store.put_new("a/4", "").await.is_err());
            faulty.revive();
            assert_eq!(store.get("a/2").await.unwrap(), "he");
        }
    });
}

#[test]
fn every_folder_on_the_way_is_synced_once() {
    let (_folder, url) = folder();
    let store = Store::open(&url).unwrap();
    let lock = store.lock.as_ref().unwrap();
    block_on(async {
        store.put_new("db/a/chunk/1", "x").await.unwrap();
        store.put_new("db/a/tail/1", "x").await.unwrap();
        assert_eq!(lock.ways(), 2);
        store.put_new("db/a/tail/2", "x").await.unwrap();
        store.delete("db/a/tail/2").await.unwrap();
        assert_eq!(lock.ways(), 2);
        store.delete("db/a/tail/1").await.unwrap();
        assert_eq!(lock.ways(), 0, "the folder is gone, and may come back");
        store.put_new("db/a/tail/1", "x").await.unwrap();
        assert_eq!(lock.ways(), 1);
    });
}
