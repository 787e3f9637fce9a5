use std::cell::RefCell;
use std::os::unix::fs::MetadataExt;

use object_store::memory::InMemory;

use super::super::testing::{Writer, identity, numbers};
use super::super::{Log, recovery};
use super::*;
use crate::store::{FaultyStore, StoreFault, StoreRequest};

const FRAME: &[u8] = b"a frame";

#[test]
fn files_end_with_zeros_and_are_cut() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = Files::new(folder.path());
    assert_eq!(files.found().unwrap(), []);
    files.begin(1, 1, b"head").unwrap();
    files.append(&[FRAME]).unwrap();
    files.append(&[FRAME]).unwrap();
    let whole = [b"head", FRAME, FRAME].concat();
    let found = files.read(1, 1).unwrap();
    assert_eq!(found[..whole.len()], whole);
    assert!(found.len() > whole.len() && found[whole.len()..].iter().all(|byte| *byte == 0));
    files.cut(1, 1, 0, whole.len() as u64).unwrap();
    files.cut(1, 1, 3, whole.len() as u64 + 5).unwrap();
    files.cut(1, 1, whole.len() as u64, whole.len() as u64).unwrap();
    assert_eq!(files.read(1, 1).unwrap(), whole);
    let in_turn: Vec<_> = files.read_in_turn(1, &[1, 2]).map(|(number, file)| (number, file.ok())).collect();
    assert_eq!(in_turn, [(1, Some(whole.into())), (2, None)]);
    files.begin(1, 2, b"").unwrap();
    files.begin(0xfeed, 7, b"").unwrap();
    fs::write(folder.path().join("log/notes.txt"), b"").unwrap_or_default();
    fs::write(folder.path().join("log/000000000000feed/7"), b"").unwrap();
    let (one, other) = (Found { writer: 1, numbers: vec![1, 2] }, Found { writer: 0xfeed, numbers: vec![7] });
    fs::remove_file(folder.path().join("log/notes.txt")).unwrap();
    assert_eq!(files.found().unwrap(), [one, other]);
    files.remover()(&[(1, 1), (1, 1), (1, 2)]).unwrap();
    assert!(!folder.path().join("log/0000000000000001").exists());
    assert!(files.read(1, 1).unwrap_err().is_missing());
}

/// Deleting the last file of a folder meanwhile does not take the new one with it.
#[test]
fn files_come_while_others_go() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = Files::new(folder.path());
    for number in 1..100 {
        files.begin(1, number, b"head").unwrap();
        let remove = files.remover();
        let remover = std::thread::spawn(move || remove(&[(1, number)]));
        files.begin(1, number + 1000, b"head").unwrap();
        files.append(&[FRAME]).unwrap();
        remover.join().unwrap().unwrap();
        assert!(!files.read(1, number + 1000).unwrap().is_empty());
        files.remover()(&[(1, number + 1000)]).unwrap();
    }
}

#[test]
fn a_file_is_begun_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = Files::new(folder.path());
    assert!(files.append(&[FRAME]).is_err());
    files.begin(1, 1, b"head").unwrap();
    assert!(files.begin(1, 1, b"other").is_err());
    assert!(files.append(&[FRAME]).is_err(), "nothing goes into a file that is not ours");
    assert_eq!(files.read(1, 1).unwrap(), &b""[..]);
}

thread_local! {
    /// The folders synced since the test began, each with the number of the file `1` in it.
    static SYNCED: RefCell<Vec<(PathBuf, Option<u64>)>> = const { RefCell::new(Vec::new()) };
    /// A folder that cannot be synced.
    static REFUSED: RefCell<Option<PathBuf>> = const { RefCell::new(None) };
}

fn sync_or_refuse(folder: &Path) -> io::Result<()> {
    if REFUSED.with_borrow(|refused| refused.as_deref() == Some(folder)) {
        return Err(io::Error::other("refused"));
    }
    let file = fs::metadata(folder.join("000000000001")).ok().map(|found| found.ino());
    SYNCED.with_borrow_mut(|synced| synced.push((folder.to_owned(), file)));
    sync_folder(folder)
}

/// Otherwise a power cut could take all that was acknowledged, as a file is in its folder only as long as that is in its own.
#[test]
fn a_folder_counts_as_new_until_its_name_is_durable() {
    let folder = tempfile::tempdir().unwrap();
    let (logs, log) = (folder.path().join("log"), folder.path().join("log/0000000000000001"));
    for (refused, removes) in [(&logs, false), (&logs, true), (&log, false), (&folder.path().to_owned(), false)] {
        let _ = fs::remove_dir_all(&logs);
        let mut files = Files::new(folder.path());
        files.sync_folder = sync_or_refuse;
        REFUSED.set(Some(refused.clone()));
        files.begin(1, 1, b"head").unwrap_err();
        if removes {
            files.remover()(&[(1, 1)]).unwrap();
        }
        REFUSED.set(None);
        SYNCED.take();
        files.begin(1, 2, b"head").unwrap();
        let synced: Vec<_> = SYNCED.take().into_iter().map(|(folder, _)| folder).collect();
        assert_eq!(synced, [log.clone(), logs.clone(), folder.path().to_owned()], "{refused:?}, {removes}");
        files.begin(1, 3, b"head").unwrap();
        assert_eq!(SYNCED.take().len(), 1, "once is enough");
    }
}

/// Otherwise the deleted one could come back after a power cut, and what stood in the new one would be lost.
#[test]
fn a_new_file_takes_the_name_of_a_deleted_one_for_good_before_it_counts() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = Files::new(folder.path());
    files.sync_folder = sync_or_refuse;
    // So that the folder stays.
    files.begin(1, 2, b"head").unwrap();
    for _ in 0..3 {
        files.begin(1, 1, b"head").unwrap();
        let log = folder.path().join("log/0000000000000001");
        let begun = fs::metadata(log.join("000000000001")).unwrap().ino();
        assert_eq!(SYNCED.take().pop(), Some((log, Some(begun))));
        files.append(&[FRAME]).unwrap();
        files.remover()(&[(1, 1)]).unwrap();
    }
}

#[test]
fn a_seal_ends_a_log_of_objects() {
    let store = Arc::new(Store::memory());
    let (mut old, mut new) = (Objects::new(Arc::clone(&store)), Objects::new(store));
    for number in 1..=3 {
        old.begin(1, number, b"head").unwrap();
        old.append(&[FRAME]).unwrap();
    }
    assert!(!old.is_sealed(1, 3).unwrap());
    // The third was written after it had been looked for.
    assert_eq!(new.seal(&[(1, 2)]).unwrap(), [(1, 3)]);
    assert!(old.is_sealed(1, 3).unwrap());
    old.begin(1, 4, b"head").unwrap();
    assert!(matches!(old.append(&[FRAME]), Err(StoreError::LogSealed)));
    assert_eq!(new.found().unwrap(), [Found { writer: 1, numbers: vec![1, 2, 3] }]);
    assert!(new.read(1, 4).unwrap().is_empty());
    assert_eq!(new.seal(&[(1, 4)]).unwrap(), [], "it is sealed once");
    assert_eq!(new.read(1, 3).unwrap(), [&b"head"[..], FRAME].concat());
}

/// A process that writes all the while is not followed object by object.
#[test]
fn a_log_that_has_grown_is_sealed_at_its_end() {
    let faulty = FaultyStore::new(Arc::new(InMemory::new()));
    let store = Arc::new(Store::over(Arc::clone(&faulty) as _, "s3://test"));
    let (mut old, mut new) = (Objects::new(Arc::clone(&store)), Objects::new(store));
    for writer in [1, 2] {
        for number in 1..=40 {
            old.begin(writer, number, b"head").unwrap();
            old.append(&[FRAME]).unwrap();
        }
    }
    let before = faulty.puts();
    // The list was older.
    let added = new.seal(&[(1, 5), (2, 0)]).unwrap();
    let wanted = (6..=40).map(|number| (1, number)).chain((1..=40).map(|number| (2, number)));
    assert_eq!(added, wanted.collect::<Vec<_>>());
    assert_eq!(faulty.puts() - before, 4, "one that is refused and one that seals, for each");
    assert!(old.is_sealed(1, 40).unwrap() && old.is_sealed(2, 40).unwrap());
}

#[test]
fn whoever_takes_a_store_over_has_all_that_was_acknowledged() {
    let store = Arc::new(Store::memory());
    let clock = || 5;
    let (old, _) = Log::over(Box::new(Objects::new(Arc::clone(&store))), 1, clock).unwrap();
    let writer = Writer::new(&old, "a");
    for _ in 0..3 {
        writer.write();
        old.flush().unwrap();
    }
    let (_new, mut recovered) = Log::over(Box::new(Objects::new(Arc::clone(&store))), 2, clock).unwrap();
    let acknowledged = old.flushed();
    writer.write();
    assert!(matches!(old.flush(), Err(StoreError::LogSealed)));
    assert!(old.is_sealed());
    assert_eq!(old.flushed(), acknowledged);
    assert_eq!(numbers_of(&recovered.take(&identity("a"))), [1, 2, 3]);
    // A third one finds the same.
    let again = recovery::collect(recovery::look(&mut Objects::new(store)).unwrap());
    assert_eq!(numbers_of(&again.entries_of(&identity("a"))), [1, 2, 3]);
}

fn numbers_of(entries: &recovery::Entries) -> Vec<u64> {
    numbers(entries)
}

#[test]
fn a_writer_of_whom_nothing_is_left_is_fenced_too() {
    for settles in [false, true] {
        let store = Arc::new(Store::memory());
        let clock = || 5;
        let (old, _) = Log::over(Box::new(Objects::new(Arc::clone(&store))), 1, clock).unwrap();
        let writer = Writer::new(&old, "a");
        if settles {
            writer.write();
            old.flush().unwrap();
            old.settled(&identity("a"), 1);
            old.remove_settled().unwrap();
        }
        let _new = Log::over(Box::new(Objects::new(Arc::clone(&store))), 2, clock).unwrap();
        writer.write();
        assert!(old.flush().is_err(), "nobody will read it (settles: {settles})");
    }
}

#[test]
fn what_an_object_log_wrote_without_an_answer_is_not_written_twice() {
    let store = Arc::new(Store::memory());
    let mut objects = Objects::new(Arc::clone(&store));
    objects.begin(1, 1, b"head").unwrap();
    objects.append(&[FRAME]).unwrap();
    objects.begin(1, 1, b"head").unwrap();
    objects.append(&[FRAME]).unwrap();
    objects.begin(1, 1, b"head").unwrap();
    assert!(matches!(objects.append(&[b"another"]), Err(StoreError::Exists { .. })));
}

const FEW: Restating = Restating { objects: 4, bytes: 2_000 };

/// A log in `store` that restates often, and the logs that it has found there.
fn open(store: &Arc<Store>, writer: u64) -> (Arc<Log>, recovery::Recovered) {
    let sink = Objects::restating(Arc::clone(store), FEW);
    Log::over(Box::new(sink), writer, || 5).expect("memory can be read")
}

fn objects(store: &Arc<Store>) -> usize {
    block_on(store.list(FOLDER)).unwrap().len()
}

#[test]
fn small_objects_are_restated_and_deleted() {
    let store = Arc::new(Store::memory());
    let (log, _) = open(&store, 1);
    let writers = [Writer::new(&log, "a"), Writer::new(&log, "b")];
    let mut most = 0;
    for round in 1..=100 {
        writers[round % 2].write();
        log.flush().unwrap();
        // Each moment is one at which the process may die, before and after it deletes what it has restated.
        for deleted in [false, true] {
            if deleted {
                log.remove_settled().unwrap();
            }
            let looked = recovery::collect(recovery::look(&mut Objects::new(Arc::clone(&store))).unwrap());
            for (at, name) in ["a", "b"].into_iter().enumerate() {
                let entries = looked.entries_of(&identity(name));
                let written = (round + at) as u64 / 2;
                assert_eq!(entries.damage, None);
                assert_eq!(numbers(&entries), (1..=written).collect::<Vec<_>>(), "{name} in round {round}, {deleted}");
            }
        }
        most = most.max(objects(&store));
    }
    // Ten of the full size, and the newest.
    assert!(most <= 16, "{most} objects");
    let names = block_on(store.list(FOLDER)).unwrap();
    let largest = names.iter().map(|object| object.bytes).max().unwrap();
    assert!(largest < 2 * FEW.bytes as u64, "{largest} bytes");
    for (name, last) in [("a", 50), ("b", 50)] {
        log.settled(&identity(name), last);
    }
    log.finish().unwrap();
    assert_eq!(objects(&store), 0);
}

#[test]
fn any_of_the_restated_objects_may_be_left() {
    let store = Arc::new(Store::memory());
    let (log, _) = open(&store, 1);
    let writer = Writer::new(&log, "a");
    for _ in 0..4 {
        writer.write();
        log.flush().unwrap();
    }
    writer.write();
    let all = block_on(store.list(FOLDER)).unwrap();
    for left in 0..1 << all.len() {
        let copy = Arc::new(Store::memory());
        for (at, object) in all.iter().enumerate() {
            if left & 1 << at != 0 || at + 1 == all.len() {
                let bytes = block_on(store.get(&object.name)).unwrap();
                block_on(copy.put_new(&object.name, bytes)).unwrap();
            }
        }
        let logs = recovery::look(&mut Objects::new(copy)).unwrap();
        assert_eq!(logs[0].damages, [], "{left:b}");
        let recovered = recovery::collect(logs);
        assert_eq!(numbers(&recovered.entries_of(&identity("a"))), [1, 2, 3, 4], "{left:b}");
    }
}

#[test]
fn an_object_without_an_answer_is_tried_again_as_it_was() {
    for fault in [StoreFault::Lost, StoreFault::Unanswered] {
        let faulty = FaultyStore::new(Arc::new(InMemory::new()));
        let store = Arc::new(Store::over(Arc::clone(&faulty) as _, "s3://test"));
        let (log, _) = open(&store, 1);
        let writer = Writer::new(&log, "a");
        for _ in 0..3 {
            writer.write();
            log.flush().unwrap();
        }
        // The fifth object restates four; meanwhile these are needed no more.
        faulty.fail_put_after(0, fault);
        writer.write();
        log.flush().unwrap_err();
        log.settled(&identity("a"), 3);
        log.remove_settled().unwrap();
        log.flush().unwrap();
        writer.write();
        log.flush().unwrap();
        log.remove_settled().unwrap();
        let (_next, mut recovered) = open(&store, 2);
        let entries = recovered.take(&identity("a"));
        assert_eq!((numbers(&entries), entries.damage), (vec![1, 2, 3, 4, 5], None), "{fault:?}");
    }
}

#[test]
fn objects_are_read_many_at_a_time() {
    let faulty = FaultyStore::new(Arc::new(InMemory::new()));
    let store = Arc::new(Store::over(Arc::clone(&faulty) as _, "s3://test"));
    let mut objects = Objects::new(store);
    let last = 2 * READS_TOGETHER as u64;
    for number in 1..=last {
        objects.begin(1 + number % 2, number, &[]).unwrap();
        objects.append(&[&number.to_le_bytes()]).unwrap();
    }
    faulty.hold(StoreRequest::Get);
    let reader = std::thread::spawn(move || {
        let mut found = Vec::new();
        // Of two writers, which are read at the same time.
        let files: Vec<(u64, u64)> = (1..=last).map(|number| (1 + number % 2, number)).collect();
        let read = objects.read_each(&files, &mut |(_, number), file| {
            found.push((number, file?));
            Ok(())
        });
        read.map(|()| found)
    });
    while faulty.asked(StoreRequest::Get) < READS_TOGETHER {
        std::thread::yield_now();
    }
    assert_eq!(faulty.asked(StoreRequest::Get), READS_TOGETHER, "memory is bounded");
    faulty.release(StoreRequest::Get);
    let found = reader.join().unwrap().unwrap();
    assert_eq!(found.len() as u64, last);
    for ((number, file), wanted) in found.into_iter().zip(1_u64..) {
        assert_eq!((number, &file[..]), (wanted, &wanted.to_le_bytes()[..]));
    }
}
