//! A limit on requests: so many a second, and a few more at once.

use parking_lot::Mutex;

/// Lets `per_second` requests a second through, and up to `burst` at once.
#[derive(Debug)]
pub struct RequestRate {
    per_second: u64,
    burst: u64,
    /// Thousandths of a request that may come now, and the moment of that, on a clock that is never set.
    room: Mutex<(u64, u64)>,
}

impl RequestRate {
    pub fn new(per_second: u64, burst: u64) -> Self {
        Self { per_second, burst, room: Mutex::new((burst * 1000, 0)) }
    }

    /// Whether a request may come at `now_ms`.
    pub fn admits(&self, now_ms: u64) -> bool {
        let mut room = self.room.lock();
        let (left, at_ms) = *room;
        let more = now_ms.saturating_sub(at_ms).saturating_mul(self.per_second);
        let left = left.saturating_add(more).min(self.burst * 1000);
        let admits = left >= 1000;
        *room = (if admits { left - 1000 } else { left }, now_ms.max(at_ms));
        admits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_a_rate() {
        let rate = RequestRate::new(10, 5);
        let admitted = |from_ms: u64, to_ms: u64| (from_ms..to_ms).filter(|now_ms| rate.admits(*now_ms)).count();
        assert_eq!((0..100).filter(|_| rate.admits(0)).count(), 5);
        assert_eq!(admitted(0, 1000), 9);
        assert_eq!(admitted(1000, 11_000), 100);
        // A long pause saves up a burst, no more; an earlier time changes nothing.
        assert_eq!((0..100).filter(|_| rate.admits(1_000_000)).count(), 5);
        assert!(!rate.admits(5));
    }
}
