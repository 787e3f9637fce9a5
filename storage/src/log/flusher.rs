//! The flusher: the thread that makes the log durable.
//!
//! It flushes at once when a caller waits or much has gathered, else within a quarter of the shortest window of the
//! databases that wrote, so that a slow disk has the rest of the window. After a flush it naps for as long, so that the
//! first entry of the next frame need not wake it; when a whole nap has brought nothing it sleeps until it is woken,
//! and only checks now and then whether the log was sealed. After an error it tries again, less and less often.
//!
//! A second thread deletes the files that no database needs any more: a gigabyte of them may take seconds, and no write
//! must wait for that.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{FLUSH_BYTES, Log, SEAL_EVERY_MS};
use crate::retry::{Notice, Retry};
use crate::stopwatch::Stopwatch;

const RETRY_MS: (u64, u64) = (20, 1_000);
const TIDY_RETRY_MS: (u64, u64) = (1_000, 60_000);
/// How often a log in trouble looks whether it is over.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Ends both threads when it is dropped, after everything is durable.
#[derive(Debug)]
pub struct Flusher {
    log: Arc<Log>,
    threads: Vec<JoinHandle<()>>,
}

impl Flusher {
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(log: &Arc<Log>) -> std::io::Result<Self> {
        let mut flusher = Self { log: Arc::clone(log), threads: Vec::new() };
        for (name, run) in [("log-tidy", tidy as fn(&Log)), ("log", run)] {
            let of = Arc::clone(log);
            flusher.threads.push(thread::Builder::new().name(name.into()).spawn(move || run(&of))?);
        }
        Ok(flusher)
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.log.closing.store(true, Ordering::SeqCst);
        // A thread that has just looked holds the lock until it waits.
        drop(self.log.ledger.lock());
        self.log.untidy.notify_one();
        drop(self.log.active.lock());
        self.log.work.notify_one();
        for thread in self.threads.drain(..) {
            // One that panicked has said so on standard error.
            let _ = thread.join();
        }
    }
}

fn run(log: &Log) {
    let mut retry = Retry::new(RETRY_MS.0, RETRY_MS.1);
    while wait(log) {
        match log.flush() {
            Ok(()) => {
                if let Some(failures) = retry.succeeded() {
                    tracing::info!(failures, "the log is durable again");
                }
            }
            Err(error) => {
                let (pause, notice) = retry.failed();
                match notice {
                    Notice::Began => tracing::error!(%error, "failed to write the log; retrying"),
                    Notice::Still(failures) => tracing::error!(%error, failures, "the log still fails to be written"),
                    Notice::Silent => {}
                }
                if !rest(log, pause) || log.is_sealed() {
                    return;
                }
                log.active.lock().urgent = true;
            }
        }
    }
    if let Err(error) = log.finish() {
        tracing::error!(%error, "failed to write the end of the log");
    }
}

/// Waits for `pause`, even if a flush is requested meanwhile. False: the log is closing.
fn rest(log: &Log, pause: Duration) -> bool {
    let began = Stopwatch::start();
    let mut active = log.active.lock();
    loop {
        let left = pause.saturating_sub(Duration::from_micros(began.us()));
        if log.is_closing() || left.is_zero() {
            return !log.is_closing();
        }
        log.work.wait_for(&mut active, left);
    }
}

fn tidy(log: &Log) {
    if let Err(error) = log.collect_owners() {
        tracing::warn!(%error, "failed to delete records of earlier owners of the store");
    }
    let mut retry = Retry::new(TIDY_RETRY_MS.0, TIDY_RETRY_MS.1);
    loop {
        {
            let mut ledger = log.ledger.lock();
            while !ledger.is_untidy() && !log.needs_checkpoints() && !log.is_closing() {
                log.untidy.wait(&mut ledger);
            }
        }
        // The remaining files are deleted at the end, or by the next process.
        if log.is_closing() {
            return;
        }
        let pause = match log.remove_settled() {
            Ok(_) => {
                retry.succeeded();
                log.keep_room();
                // While it is in trouble it is looked at again and again.
                log.needs_checkpoints().then_some(LOOK_AGAIN)
            }
            Err(error) => {
                let (pause, notice) = retry.failed();
                if notice != Notice::Silent {
                    tracing::warn!(%error, "failed to delete an unneeded log file");
                }
                log.ledger.lock().look_again();
                Some(pause)
            }
        };
        if let Some(pause) = pause {
            let mut ledger = log.ledger.lock();
            if !log.is_closing() {
                log.untidy.wait_for(&mut ledger, pause);
            }
        }
    }
}

/// Waits for something to do. False: the log is closing.
fn wait(log: &Log) -> bool {
    let seal_every = Duration::from_millis(SEAL_EVERY_MS);
    let mut active = log.active.lock();
    let (mut asleep, mut nap_ms) = (Stopwatch::start(), active.nap_ms);
    loop {
        if log.is_closing() {
            return false;
        }
        if active.urgent || active.entries.len() >= FLUSH_BYTES {
            return true;
        }
        // A writer needs it sooner.
        if active.nap_ms != nap_ms {
            (asleep, nap_ms) = (Stopwatch::start(), active.nap_ms);
        }
        let left = Duration::from_millis(nap_ms).saturating_sub(Duration::from_micros(asleep.us()));
        if left.is_zero() {
            if !active.entries.is_empty() {
                return true;
            }
            active.nap_ms = u64::MAX;
        } else if log.work.wait_for(&mut active, left.min(seal_every)).timed_out() && left > seal_every {
            drop(active);
            log.look_for_seal();
            active = log.active.lock();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::testing::{MemorySink, Writer, identity, open};
    use crate::log::{Lsn, Window};

    fn flushed(log: &Log, lsn: Lsn) {
        while log.flushed() < lsn {
            thread::yield_now();
        }
    }

    #[test]
    fn it_comes_by_itself() {
        let log = open(&MemorySink::default());
        let flusher = Flusher::start(&log).unwrap();
        let writer = Writer::new(&log, "a");
        for window in [Window::Ms(40), Window::Zero, Window::Ms(10)] {
            writer.journal.declare(window);
            // It sleeps, it has just flushed, and it sleeps again.
            flushed(&log, writer.write());
            flushed(&log, writer.write());
            while log.active.lock().nap_ms != u64::MAX {
                thread::yield_now();
            }
        }
        let last = writer.write();
        drop(flusher);
        assert_eq!(log.flushed(), last, "what is left is flushed at the end");
    }

    #[test]
    fn nobody_waits_for_files_to_be_deleted() {
        let sink = MemorySink::default();
        sink.0.lock().file_bytes = 1;
        let log = open(&sink);
        let flusher = Flusher::start(&log).unwrap();
        let writer = Writer::new(&log, "a");
        writer.journal.declare(Window::Zero);
        flushed(&log, writer.write());
        flushed(&log, writer.write());
        let slow = Arc::clone(&sink.0.lock().slow_removes);
        let held = slow.lock();
        log.settled(&identity("a"), 1);
        flushed(&log, writer.write());
        flushed(&log, writer.write());
        let first = |sink: &MemorySink| sink.0.lock().files.contains_key(&(1, 1));
        assert!(first(&sink));
        drop(held);
        while first(&sink) {
            thread::yield_now();
        }
        log.settled(&identity("a"), 4);
        drop(flusher);
        assert!(sink.0.lock().files.is_empty());
    }

    #[test]
    fn a_shorter_window_is_not_slept_through() {
        let log = open(&MemorySink::default());
        let _flusher = Flusher::start(&log).unwrap();
        let (slow, fast) = (Writer::new(&log, "a"), Writer::new(&log, "b"));
        slow.journal.declare(Window::Ms(3_600_000));
        fast.journal.declare(Window::Ms(10));
        slow.write();
        assert_eq!(log.flushed(), 0);
        flushed(&log, fast.write());
    }
}
