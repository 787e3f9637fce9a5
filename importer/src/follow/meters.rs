//! Counters of an import, for its display and its decisions.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Counters of one import, over all of its sessions.
#[derive(Debug, Default)]
pub struct ImportMeters {
    /// Whether the full sync is over.
    pub following: AtomicBool,
    pub snapshot_bytes: AtomicU64,
    /// Zero if the source does not know the total either.
    pub snapshot_total: AtomicU64,
    /// Keys of the copy, and commands of the stream behind it, that the target has applied.
    pub keys: AtomicU64,
    pub commands: AtomicU64,
    /// The offset up to which the target has everything.
    pub applied: AtomicU64,
    /// The source wants an acknowledgement as soon as this offset is applied. Zero: it wants none.
    pub acknowledge_from: AtomicU64,
    lag: Mutex<Lag>,
}

/// The source's offset at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The time of the question. The answer is at least as new.
    pub asked: Instant,
    pub offset: u64,
}

/// Samples, oldest first. All but perhaps the last are not applied yet.
#[derive(Debug, Default)]
struct Lag {
    samples: VecDeque<Sample>,
    newest: Option<Sample>,
}

const SAMPLES_MAX: usize = 100_000;

impl ImportMeters {
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Relaxed)
    }

    pub fn sample(&self, sample: Sample) {
        let mut lag = lock(&self.lag);
        lag.newest = Some(sample);
        if lag.samples.len() < SAMPLES_MAX && lag.samples.back().is_none_or(|last| last.offset != sample.offset) {
            lag.samples.push_back(sample);
        }
    }

    /// Returns the last sample.
    pub fn newest(&self) -> Option<Sample> {
        lock(&self.lag).newest
    }

    /// Drops all samples, since they may belong to another history.
    pub fn forget_samples(&self) {
        *lock(&self.lag) = Lag::default();
    }

    /// How many bytes the target is behind, and for how long the oldest of them has been missing.
    pub fn lag(&self, now: Instant) -> Option<(u64, Duration)> {
        let applied = self.applied();
        let mut lag = lock(&self.lag);
        while lag.samples.front().is_some_and(|sample| sample.offset <= applied) {
            lag.samples.pop_front();
        }
        let newest = lag.newest?;
        let oldest = lag.samples.front().map_or(Duration::ZERO, |sample| now.saturating_duration_since(sample.asked));
        Some((newest.offset.saturating_sub(applied), oldest))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lag_is_as_old_as_the_oldest_byte_that_is_missing() {
        let meters = ImportMeters::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(meters.lag(at(0)), None);
        for (seconds, offset) in [(0, 100), (1, 100), (2, 150), (3, 200), (4, 200)] {
            meters.sample(Sample { asked: at(seconds), offset });
        }
        for (applied, bytes, seconds) in
            [(0, 200, 5), (99, 101, 5), (100, 100, 3), (150, 50, 2), (200, 0, 0), (300, 0, 0)]
        {
            meters.applied.store(applied, Ordering::Relaxed);
            assert_eq!(meters.lag(at(5)), Some((bytes, Duration::from_secs(seconds))), "{applied}");
        }
    }
}
