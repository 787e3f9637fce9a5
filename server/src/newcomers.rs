//! New clients while memory is full: they wait for a moment, since databases are then being put to sleep, and are refused
//! only if that does not help. Few wait at a time, so that they need no memory to speak of.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dormouse_shard::memory::MEMORY;

const WAITING_MAX: usize = 64;
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// One second: several databases can be put to sleep in this time.
const LOOKS: usize = 50;

#[derive(Debug, Default)]
pub struct Newcomers {
    waiting: AtomicUsize,
}

/// One that waits. Dropping it ends the wait, whatever the reason.
struct Waiting<'n>(&'n Newcomers);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Newcomers {
    /// How many wait now.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits while memory is full, unless many wait already.
    pub async fn wait(&self) {
        if !MEMORY.is_full() {
            return;
        }
        let waiting = Waiting(self);
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            return;
        }
        for _ in 0..LOOKS {
            tokio::time::sleep(LOOK_EVERY).await;
            if !MEMORY.is_full() {
                break;
            }
        }
        drop(waiting);
    }
}
