//! The flusher: the thread that makes the log durable.
//!
//! It sleeps while there is nothing to do. It flushes at once when somebody waits or much has gathered, else a quarter of
//! the shortest window of those who wrote after the first entry, so that a slow disk has the rest of it. After an error it
//! tries again, less and less often.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{FLUSH_BYTES, Log, SEAL_EVERY_MS};

const RETRY_MS: (u64, u64) = (20, 1_000);

/// Ends the flusher when it is dropped, after everything is durable.
#[derive(Debug)]
pub struct Flusher {
    log: Arc<Log>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(log: &Arc<Log>) -> std::io::Result<Self> {
        let of = Arc::clone(log);
        let thread = thread::Builder::new().name("log".into()).spawn(move || run(&of))?;
        Ok(Self { log: Arc::clone(log), thread: Some(thread) })
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.log.active.lock().closing = true;
        self.log.work.notify_one();
        if let Some(thread) = self.thread.take() {
            // A flusher that panicked has said so on standard error.
            let _ = thread.join();
        }
    }
}

fn run(log: &Log) {
    let mut retry_ms = RETRY_MS.0;
    while wait(log) {
        match log.flush() {
            Ok(()) => {
                if retry_ms > RETRY_MS.0 {
                    tracing::info!("the log is durable again");
                }
                retry_ms = RETRY_MS.0;
            }
            Err(error) => {
                tracing::error!(%error, "the log cannot be written; it is tried again");
                let mut active = log.active.lock();
                if active.closing || log.is_sealed() {
                    return;
                }
                log.work.wait_for(&mut active, Duration::from_millis(retry_ms));
                active.urgent = true;
                retry_ms = (retry_ms * 2).min(RETRY_MS.1);
            }
        }
        if let Err(error) = log.remove_settled() {
            tracing::warn!(%error, "a log file that nobody needs could not be deleted");
        }
    }
    if let Err(error) = log.finish() {
        tracing::error!(%error, "the end of the log could not be written");
    }
}

/// Until there is something to do. False: it is over.
fn wait(log: &Log) -> bool {
    let mut active = log.active.lock();
    loop {
        if active.closing {
            return false;
        }
        if active.urgent || active.entries.len() >= FLUSH_BYTES || log.ledger.lock().is_untidy() {
            return true;
        }
        if active.entries.is_empty() {
            if log.work.wait_for(&mut active, Duration::from_millis(SEAL_EVERY_MS)).timed_out() {
                drop(active);
                log.look_for_seal();
                active = log.active.lock();
            }
            continue;
        }
        let within = active.within_ms;
        if within == 0 || log.work.wait_for(&mut active, Duration::from_millis(within)).timed_out() {
            return true;
        }
    }
}
