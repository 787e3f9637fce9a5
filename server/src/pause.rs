//! `CLIENT PAUSE`: the commands of a database's clients wait for a while.
//!
//! A pause is that of one database. As in Redis, a longer or stricter pause is not ended by a shorter or milder one.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

#[derive(Debug, Default)]
pub struct Pause {
    /// Unix milliseconds; 0: there is none.
    until_ms: AtomicU64,
    /// Whether all commands wait, rather than those that may write.
    is_all: AtomicBool,
    changed: Notify,
}

impl Pause {
    pub fn begin(&self, now_ms: u64, until_ms: u64, is_all: bool) {
        let goes_on = self.is_on(now_ms);
        self.is_all.store(is_all || goes_on && self.is_all.load(Ordering::SeqCst), Ordering::SeqCst);
        self.until_ms.fetch_max(until_ms, Ordering::SeqCst);
    }

    pub fn end(&self) {
        self.until_ms.store(0, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    #[inline]
    pub fn is_on(&self, now_ms: u64) -> bool {
        now_ms < self.until_ms.load(Ordering::Relaxed)
    }

    /// Whether all commands wait, and for how many milliseconds, if there is a pause.
    pub fn left(&self, now_ms: u64) -> Option<(bool, u64)> {
        let left_ms = self.until_ms.load(Ordering::SeqCst).saturating_sub(now_ms);
        (left_ms > 0).then(|| (self.is_all.load(Ordering::SeqCst), left_ms))
    }

    /// Whether a command waits.
    pub fn holds(&self, now_ms: u64, may_write: bool) -> bool {
        self.is_on(now_ms) && (may_write || self.is_all.load(Ordering::SeqCst))
    }

    /// Waits until the pause may have ended or changed.
    pub async fn changed(&self, now_ms: u64) {
        let changed = self.changed.notified();
        let left = self.until_ms.load(Ordering::SeqCst).saturating_sub(now_ms);
        // It is looked at again when this has passed.
        let left = Duration::from_millis(left.min(60_000));
        let _ = tokio::time::timeout(left, changed).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stricter_or_longer_pause_stays() {
        let pause = Pause::default();
        assert!(!pause.holds(0, true));
        pause.begin(0, 100, false);
        assert!(pause.holds(99, true) && !pause.holds(99, false) && !pause.holds(100, true));
        pause.begin(50, 60, true);
        assert!(pause.holds(99, false), "it has become stricter and is not shorter");
        pause.begin(60, 200, false);
        assert!(pause.holds(199, false), "it is longer and not milder");
        pause.begin(300, 400, false);
        assert!(!pause.holds(350, false), "the old one had ended");
        pause.end();
        assert!(!pause.holds(350, true));
    }
}
