//! Whether clients send commands: the keeper's frequent work rests while none do.
//!
//! A batch says that it runs. That is a look at one byte, unless nothing ran for a while.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// A batch has run since the last question.
const ACTIVE: u8 = 0;
/// None has.
const QUIET: u8 = 1;
/// None has, and someone rests until one does.
const RESTING: u8 = 2;

#[derive(Debug, Default)]
pub struct Activity {
    state: AtomicU8,
    resumed: Notify,
}

impl Activity {
    /// Says that a batch runs.
    #[inline]
    pub fn note(&self) {
        if self.state.load(Ordering::Relaxed) != ACTIVE {
            self.resume();
        }
    }

    #[cold]
    fn resume(&self) {
        if self.state.swap(ACTIVE, Ordering::AcqRel) == RESTING {
            self.resumed.notify_one();
        }
    }

    /// If no batch has run since the last call, waits until one does, for `time` at most. One caller at a time.
    pub async fn rest(&self, time: Duration) {
        let is_quiet = self.state.swap(QUIET, Ordering::AcqRel) != ACTIVE;
        let rests = || self.state.compare_exchange(QUIET, RESTING, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if is_quiet && !time.is_zero() && rests() {
            // Whichever comes first.
            let _ = tokio::time::timeout(time, self.resumed.notified()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::poll;

    use super::*;

    #[tokio::test]
    async fn a_rest_ends_with_the_next_batch() {
        let activity = Activity::default();
        let hour = Duration::from_secs(3600);
        // A batch may have run before.
        assert!(activity.rest(hour).now_or_never().is_some());
        assert!(activity.rest(Duration::ZERO).now_or_never().is_some());
        for _ in 0..3 {
            let mut rest = Box::pin(activity.rest(hour));
            assert!(poll!(&mut rest).is_pending());
            activity.note();
            activity.note();
            assert!(poll!(&mut rest).is_ready());
            assert!(activity.rest(hour).now_or_never().is_some(), "the batch was just now");
        }
        activity.rest(Duration::from_millis(1)).await;
    }
}
