//! The flusher: the thread that makes the log durable.
//!
//! It flushes at once when somebody waits or much has gathered, else within a quarter of the shortest window of those who
//! wrote, so that a slow disk has the rest of it. After a flush it naps for as long, so that the first entry of the next
//! frame need not wake it; it sleeps when a whole nap has brought nothing. After an error it tries again, less and less
//! often.

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
        let nap = Duration::from_millis(active.nap_ms.min(SEAL_EVERY_MS));
        if !log.work.wait_for(&mut active, nap).timed_out() {
            continue;
        }
        if !active.entries.is_empty() {
            return true;
        }
        if active.nap_ms == u64::MAX {
            drop(active);
            log.look_for_seal();
            active = log.active.lock();
        } else {
            active.nap_ms = u64::MAX;
        }
    }
}
