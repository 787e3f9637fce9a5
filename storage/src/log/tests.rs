use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll, Wake};

use super::testing::{MemorySink, NOW_MS, Writer, identity, numbers, open};
use super::*;

/// Counts how often it was woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn sink(file_bytes: u64) -> MemorySink {
    let sink = MemorySink::default();
    sink.0.lock().file_bytes = file_bytes;
    sink
}

#[test]
fn who_waits_is_woken_by_the_flush_that_reaches_it() {
    let sink = sink(1 << 20);
    let log = open(&sink);
    let writer = Writer::new(&log, "a");
    let first = writer.write();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    let mut wait = Box::pin(log.durable(first));
    assert!(wait.as_mut().poll(&mut context).is_pending());
    assert!(!writer.journal.is_durable(first));
    assert!(log.active.lock().urgent, "the flusher is told that somebody waits");
    log.flush().unwrap();
    assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    assert!(matches!(wait.as_mut().poll(&mut context), Poll::Ready(Ok(()))));
    assert!(writer.journal.is_durable(first));
    // A durable entry is not waited for.
    assert!(matches!(Box::pin(log.durable(first)).as_mut().poll(&mut context), Poll::Ready(Ok(()))));
}

#[test]
fn a_flush_that_fails_loses_nothing_and_heals() {
    let sink = sink(1 << 20);
    let log = open(&sink);
    let (a, b) = (Writer::new(&log, "a"), Writer::new(&log, "b"));
    a.write();
    log.flush().unwrap();
    sink.0.lock().fails = true;
    let lsn = a.write();
    b.write();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    let (mut patient, mut impatient) = (Box::pin(log.durable(lsn)), Box::pin(log.durable_or_failed(lsn)));
    assert!(patient.as_mut().poll(&mut context).is_pending());
    assert!(impatient.as_mut().poll(&mut context).is_pending());
    assert!(log.flush().is_err());
    assert!(log.problem().is_some_and(|problem| problem.contains("no space left")));
    assert!(woken.0.load(Ordering::SeqCst) >= 2);
    assert!(patient.as_mut().poll(&mut context).is_pending());
    let failed = impatient.as_mut().poll(&mut context);
    assert!(matches!(failed, Poll::Ready(Err(StoreError::LogFailed(_)))), "{failed:?}");
    a.write();
    assert!(log.flush().is_err());
    sink.0.lock().fails = false;
    log.flush().unwrap();
    assert_eq!(log.problem(), None);
    assert_eq!(log.flushed(), log.end());
    assert!(matches!(patient.as_mut().poll(&mut context), Poll::Ready(Ok(()))));
    let mut recovered = recovery::take_over(&mut sink.clone()).unwrap().0;
    for (name, wanted) in [("a", &[1, 2, 3][..]), ("b", &[1])] {
        let entries = recovered.take(&identity(name));
        assert_eq!((numbers(&entries), entries.damage), (wanted.to_vec(), None));
    }
}

#[test]
fn writes_are_refused_when_the_log_falls_behind() {
    let sink = sink(1 << 20);
    let log = open(&sink);
    let writer = Writer::new(&log, "a");
    writer.journal.declare(Window::Ms(100));
    assert!(writer.journal.admit_at(NOW_MS + 1_000_000).is_ok(), "nothing waits");
    sink.0.lock().fails = true;
    writer.write();
    assert_eq!(log.lag_ms(NOW_MS + 70), 70);
    assert!(writer.journal.admit_at(NOW_MS + 100).is_ok());
    log.flush().unwrap_err();
    let refused = writer.journal.admit_at(NOW_MS + 101).unwrap_err().to_string();
    assert!(refused.starts_with("MISCONF the log is 101 ms behind"), "{refused}");
    assert!(refused.contains("100ms") && refused.contains("no space left"), "{refused}");
    // Later writes do not make waiting ones younger.
    writer.write();
    log.flush().unwrap_err();
    assert_eq!(log.lag_ms(NOW_MS + 101), 101);
    for (window, is_admitted) in [(Window::None, true), (Window::Zero, true), (Window::Ms(50), false)] {
        writer.journal.declare(window);
        assert_eq!(writer.journal.admit_at(NOW_MS + 500).is_ok(), is_admitted, "{window}");
    }
    writer.journal.declare(Window::Zero);
    assert!(writer.journal.admit_at(NOW_MS + 1_001).is_err(), "who waits for its reply is not held forever");
    sink.0.lock().fails = false;
    log.flush().unwrap();
    assert!(writer.journal.admit_at(NOW_MS + 1_000_000).is_ok());
    assert_eq!(log.lag_ms(NOW_MS + 1_000_000), 0);
}

#[test]
fn who_writes_waits_before_writes_are_refused() {
    let log = open(&sink(1 << 20));
    let writer = Writer::new(&log, "a");
    writer.journal.declare(Window::Ms(1000));
    let lsn = writer.write();
    assert!(!writer.journal.is_behind_at(NOW_MS + 750, lsn));
    assert!(writer.journal.is_behind_at(NOW_MS + 751, lsn), "most of the window is used up");
    log.flush().unwrap();
    assert!(!writer.journal.is_behind_at(NOW_MS + 751, lsn));
    let large = vec![0; 1 << 20];
    writer.write();
    let end = writer.journal.append(&writer.sequence, NOW_MS, &large);
    assert!(!writer.journal.is_behind_at(NOW_MS + 500, end));
    assert!(writer.journal.is_behind_at(NOW_MS + 501, end), "one that writes much waits after half of the window");
    log.flush().unwrap();
    let mut ahead = 0;
    while !writer.journal.is_behind_at(NOW_MS, log.end()) {
        writer.journal.append(&writer.sequence, NOW_MS, &large);
        ahead += 1;
    }
    assert_eq!(ahead, 8, "a disk that has become slow would need long for more");
    for (window, is_behind) in
        [(Window::None, false), (Window::Zero, false), (Window::Ms(2000), false), (Window::Ms(10), true)]
    {
        writer.journal.declare(window);
        assert_eq!(writer.journal.is_behind_at(NOW_MS, log.end()), is_behind, "{window}");
    }
}

#[test]
fn large_entries_do_not_gather_behind_each_other() {
    let log = open(&sink(1 << 20));
    let writers: Vec<Writer> = (0..64).map(|n| Writer::new(&log, &format!("big{n}"))).collect();
    let large = vec![0; 6 << 20];
    let mut appended = 0;
    for writer in &writers {
        writer.journal.declare(Window::Ms(1000));
        if writer.journal.crowded_before(large.len()).is_none() {
            writer.journal.append(&writer.sequence, NOW_MS, &large);
            appended += 1;
        }
    }
    assert_eq!(appended, 2, "the others wait for the disk");
    assert_eq!(writers[2].journal.crowded_before(1000), None, "a small entry waits for nothing");
    let lsn = writers[2].journal.crowded_before(large.len()).expect("it is crowded");
    log.flush().unwrap();
    assert!(log.written() >= lsn);
    assert_eq!(writers[2].journal.crowded_before(64 << 20), None, "a huge entry gets its turn");
}

#[test]
fn who_writes_little_is_not_refused_for_the_lag_of_others() {
    let sink = sink(1 << 20);
    let log = open(&sink);
    let (big, small) = (Writer::new(&log, "big"), Writer::new(&log, "small"));
    for writer in [&big, &small] {
        writer.journal.declare(Window::Ms(1000));
    }
    let admitted = |writer: &Writer, lag_ms| writer.journal.admit_at(NOW_MS + lag_ms).is_ok();
    let lsn = small.write();
    assert!(admitted(&small, 1_000) && !admitted(&small, 1_001), "a disk that does nothing delays it");
    big.journal.append(&big.sequence, NOW_MS, &vec![0; 9 << 20]);
    assert!(admitted(&small, 1_001) && admitted(&small, 10_000) && !admitted(&small, 10_001));
    assert!(small.journal.is_behind_at(NOW_MS + 1_001, lsn), "its replies wait until its writes are durable");
    assert!(!admitted(&big, 1_001));
    small.journal.append(&small.sequence, NOW_MS, &vec![0; 2 << 20]);
    assert!(!admitted(&small, 1_001), "it has written much itself");
    sink.0.lock().fails = true;
    log.flush().unwrap_err();
    let third = Writer::new(&log, "third");
    third.journal.declare(Window::Ms(1000));
    assert!(!admitted(&third, 1_001), "the disk fails");
    sink.0.lock().fails = false;
    log.flush().unwrap();
    assert!([&big, &small, &third].iter().all(|writer| admitted(writer, 1_000_000)));
}

#[test]
fn what_one_database_writes_is_charged_to_it_alone() {
    let sink = sink(1 << 20);
    let mut log = open(&sink);
    Arc::get_mut(&mut log).expect("nobody else has it yet").limits = Limits::of(8 << 20);
    let (big, small, unlogged) = (Writer::new(&log, "big"), Writer::new(&log, "small"), Writer::new(&log, "unlogged"));
    for (writer, window) in [(&big, Window::Ms(1000)), (&small, Window::Ms(1000)), (&unlogged, Window::None)] {
        writer.journal.declare(window);
    }
    sink.0.lock().fails = true;
    let large = vec![0; 2 << 20];
    let write = |writer: &Writer| {
        let mut written = 0;
        while writer.journal.admit_at(NOW_MS).is_ok() {
            writer.journal.append(&writer.sequence, NOW_MS, &large);
            written += 1;
        }
        log.flush().unwrap_err();
        written
    };
    assert!(!big.journal.is_over_share());
    assert_eq!(write(&big), 2);
    assert!(big.journal.is_over_share() && !small.journal.is_over_share());
    let refused = big.journal.admit_at(NOW_MS).unwrap_err().to_string();
    assert!(refused.starts_with("MISCONF 4 MiB of this database wait for the log"), "{refused}");
    let lsn = small.write();
    assert!(small.journal.admit_at(NOW_MS).is_ok() && !small.journal.is_behind_at(NOW_MS + 750, lsn));
    // A checkpoint that has it logged does not let it write without a bound.
    assert_eq!(write(&unlogged), 2);
    let lsn = small.write();
    assert!(log.is_refusing(super::FULL));
    assert!(small.journal.admit_at(NOW_MS).is_ok() && !small.journal.is_behind_at(NOW_MS + 750, lsn));
    // All of it together has a bound too.
    let others: Vec<Writer> = (0..5).map(|n| Writer::new(&log, &format!("other{n}"))).collect();
    for other in &others {
        other.journal.declare(Window::Ms(1000));
        if other.journal.admit_at(NOW_MS).is_ok() {
            other.journal.append(&other.sequence, NOW_MS, &large);
        }
    }
    assert!(log.end() <= 20 << 20, "{}", log.end());
    assert!(small.journal.admit_at(NOW_MS).is_err());
    sink.0.lock().fails = false;
    log.flush().unwrap();
    for writer in others.iter().chain([&big, &small, &unlogged]) {
        assert!(writer.journal.admit_at(NOW_MS).is_ok() && !writer.journal.is_over_share());
    }
}

#[test]
fn nothing_is_kept_of_databases_that_are_gone() {
    let sink = sink(1);
    let log = open(&sink);
    let stays = Writer::new(&log, "stays");
    let rounds = 100;
    for round in 0..rounds {
        let gone = identity(&format!("gone{round}"));
        let writer = Writer::new(&log, &gone.name);
        writer.write();
        stays.write();
        if round % 2 == 0 {
            log.flush().unwrap();
        }
        log.forget(&gone, NOW_MS);
        drop(writer);
        log.settled(&identity("stays"), round + 1);
        log.flush().unwrap();
        log.remove_settled().unwrap();
    }
    log.remove_settled().unwrap();
    assert_eq!(log.active.lock().registry.len(), 1);
    let ledger = log.ledger.lock();
    assert!(ledger.floors() <= 3 && ledger.len() <= 2, "{ledger:?}");
}

#[test]
fn files_that_nobody_needs_are_deleted() {
    let sink = sink(1);
    let log = open(&sink);
    let (a, b) = (Writer::new(&log, "a"), Writer::new(&log, "b"));
    for writer in [&a, &b, &a] {
        writer.write();
        log.flush().unwrap();
    }
    let files = || sink.0.lock().files.keys().map(|(_, number)| *number).collect::<Vec<_>>();
    assert_eq!(files(), [1, 2, 3]);
    assert_eq!(log.remove_settled().unwrap(), 0);
    log.settled(&identity("a"), 2);
    assert_eq!(log.remove_settled().unwrap(), 1);
    assert_eq!(files(), [2, 3], "the last is being written");
    log.settled(&identity("b"), 1);
    log.remove_settled().unwrap();
    assert_eq!(files(), [3]);
    log.finish().unwrap();
    assert_eq!((files().len(), log.files()), (0, 0));
}

#[test]
fn that_a_database_is_gone_is_found() {
    let sink = sink(1);
    let log = open(&sink);
    let (a, b) = (Writer::new(&log, "a"), Writer::new(&log, "b"));
    a.write();
    b.write();
    log.flush().unwrap();
    log.forget(&identity("a"), NOW_MS);
    log.flush().unwrap();
    log.remove_settled().unwrap();
    let mut recovered = recovery::take_over(&mut sink.clone()).unwrap().0;
    assert!(recovered.take(&identity("a")).entries.is_empty());
    assert_eq!(numbers(&recovered.take(&identity("b"))), [1]);
}

#[test]
fn a_sealed_log_tells_who_waits() {
    let sink = sink(1 << 20);
    let log = open(&sink);
    let writer = Writer::new(&log, "a");
    let lsn = writer.write();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut wait = Box::pin(log.durable(lsn));
    assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    sink.0.lock().sealed = true;
    assert!(matches!(log.flush(), Err(StoreError::LogSealed)));
    assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    let ready = wait.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(matches!(ready, Poll::Ready(Err(StoreError::LogSealed))));
    // Not even where the store has room again.
    sink.0.lock().sealed = false;
    assert!(matches!(log.flush(), Err(StoreError::LogSealed)));
}

#[test]
fn frames_that_waited_for_the_disk_together_are_missed_one_by_one() {
    let sink = sink(1 << 20);
    let log = open(&sink);
    sink.0.lock().fails = true;
    for name in ["a", "b"] {
        Writer::new(&log, name).write();
        log.flush().unwrap_err();
    }
    sink.0.lock().fails = false;
    log.flush().unwrap();
    let last = sink.0.lock().files.last_key_value().map(|(_, file)| file.clone()).unwrap();
    let first = format::read_frame(&last, format::HEADER_BYTES).unwrap();
    for at in format::HEADER_BYTES..first.end {
        let mut flipped = last.clone();
        flipped[at] ^= 1;
        let mut recovered = super::testing::recover([(1, flipped)]);
        assert!(recovered.take(&identity("a")).damage.is_some(), "byte {at}");
    }
}

/// Only the files that mention the database beyond what it has are read, whatever another thread is flushing.
#[test]
fn what_a_database_needs_is_read_back_beside_a_flush() {
    for file_bytes in [0, 1, 300, 1 << 20] {
        let sink = sink(file_bytes);
        let log = open(&sink);
        let (a, b) = (Writer::new(&log, "a"), Writer::new(&log, "b"));
        for round in 0..12 {
            if round % 4 == 0 {
                a.write();
            }
            b.write();
            log.flush().unwrap();
        }
        // Half of a frame, as a flush leaves it that fails or has not ended yet.
        sink.0.lock().fails = true;
        a.write();
        log.flush().unwrap_err();
        sink.0.lock().read.clear();
        let flushing = log.output.lock();
        let found = log.read_back(&identity("a"), 1).unwrap();
        drop(flushing);
        let beyond: Vec<u64> = numbers(&found).into_iter().filter(|number| *number > 1).collect();
        assert_eq!((beyond, &found.damage), (vec![2, 3], &None), "files of {file_bytes} bytes");
        let read = sink.0.lock().read.clone();
        let mentioning = log.ledger.lock().mentioning(&identity("a"), 1);
        assert_eq!(read, mentioning);
        assert!(read.len() < sink.0.lock().files.len() || file_bytes == 1 << 20, "{read:?}");
        log.settled(&identity("a"), 3);
        assert_eq!(log.read_back(&identity("a"), 3).unwrap().entries.len(), 0);
    }
}

#[test]
fn damage_of_what_is_read_back_is_told() {
    let sink = sink(1 << 20);
    let log = open(&sink);
    let a = Writer::new(&log, "a");
    for _ in 0..3 {
        a.write();
        log.flush().unwrap();
    }
    sink.0.lock().files.get_mut(&(1, 1)).unwrap()[format::HEADER_BYTES + 60] ^= 1;
    let found = log.read_back(&identity("a"), 0).unwrap();
    assert!(found.damage.is_some(), "{:?}", numbers(&found));
}
