use super::super::testing::{Writer, identity, numbers};
use super::super::{Log, recovery};
use super::*;

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
    files.cut(1, 1, whole.len() as u64).unwrap();
    files.cut(1, 1, whole.len() as u64 + 5).unwrap();
    assert_eq!(files.read(1, 1).unwrap(), whole);
    files.begin(1, 2, b"").unwrap();
    files.begin(0xfeed, 7, b"").unwrap();
    fs::write(folder.path().join("log/notes.txt"), b"").unwrap_or_default();
    fs::write(folder.path().join("log/000000000000feed/7"), b"").unwrap();
    let (one, other) = (Found { writer: 1, numbers: vec![1, 2] }, Found { writer: 0xfeed, numbers: vec![7] });
    fs::remove_file(folder.path().join("log/notes.txt")).unwrap();
    assert_eq!(files.found().unwrap(), [one, other]);
    for number in [1, 1, 2] {
        files.remover()(1, number).unwrap();
    }
    assert!(!folder.path().join("log/0000000000000001").exists());
    assert!(files.read(1, 1).unwrap_err().is_missing());
}

/// Whoever deletes the last file of a folder meanwhile does not take the new one with it.
#[test]
fn files_come_while_others_go() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = Files::new(folder.path());
    for number in 1..100 {
        files.begin(1, number, b"head").unwrap();
        let remove = files.remover();
        let remover = std::thread::spawn(move || remove(1, number));
        files.begin(1, number + 1000, b"head").unwrap();
        files.append(&[FRAME]).unwrap();
        remover.join().unwrap().unwrap();
        assert!(!files.read(1, number + 1000).unwrap().is_empty());
        files.remover()(1, number + 1000).unwrap();
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
    assert_eq!(new.seal(1, 2).unwrap(), [3]);
    assert!(old.is_sealed(1, 3).unwrap());
    old.begin(1, 4, b"head").unwrap();
    assert!(matches!(old.append(&[FRAME]), Err(StoreError::LogSealed)));
    assert_eq!(new.found().unwrap(), [Found { writer: 1, numbers: vec![1, 2, 3, 4] }]);
    assert!(new.read(1, 4).unwrap().is_empty());
    assert_eq!(new.seal(1, 4).unwrap(), Vec::<u64>::new(), "it is sealed once");
    assert_eq!(new.read(1, 3).unwrap(), [&b"head"[..], FRAME].concat());
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
