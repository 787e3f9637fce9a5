//! How long things of one kind took, as a distribution that any thread adds to and reads: for metrics.
//!
//! A step ends at a power of two of microseconds, from 64 us to 67 s. The last holds all that took longer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Number of steps, with the last one.
const STEPS: usize = 22;
/// The end of the first step, in microseconds.
const FIRST_US: u64 = 64;

/// A distribution of durations.
#[derive(Debug)]
pub struct Durations {
    steps: [AtomicU64; STEPS],
    sum_us: AtomicU64,
}

impl Default for Durations {
    fn default() -> Self {
        Self::new()
    }
}

impl Durations {
    pub const fn new() -> Self {
        Self { steps: [const { AtomicU64::new(0) }; STEPS], sum_us: AtomicU64::new(0) }
    }

    pub fn add(&self, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.steps[step_of(took_us)].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(took_us, Ordering::Relaxed);
    }

    pub fn read(&self) -> DurationCounts {
        let counts = std::array::from_fn(|step| self.steps[step].load(Ordering::Relaxed));
        DurationCounts { counts, sum_us: self.sum_us.load(Ordering::Relaxed) }
    }
}

/// A distribution at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DurationCounts {
    counts: [u64; STEPS],
    pub sum_us: u64,
}

impl DurationCounts {
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The ends of all steps but the last, in microseconds, each with the number of durations up to it.
    pub fn steps(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut sum = 0;
        self.counts[..STEPS - 1].iter().enumerate().map(move |(step, count)| {
            sum += count;
            (FIRST_US << step, sum)
        })
    }
}

fn step_of(took_us: u64) -> usize {
    let beyond = took_us.max(1).div_ceil(FIRST_US).next_power_of_two().trailing_zeros() as usize;
    beyond.min(STEPS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_step_that_ends_at_or_after_it() {
        for (took_us, step) in
            [(0, 0), (64, 0), (65, 1), (128, 1), (129, 2), (1024, 4), (67_108_864, 20), (67_108_865, 21), (1 << 60, 21)]
        {
            assert_eq!(step_of(took_us), step, "{took_us} us");
        }
    }

    #[test]
    fn steps_are_cumulative_and_the_sum_is_exact() {
        let durations = Durations::new();
        for took_us in [10, 64, 100, 70_000_000] {
            durations.add(Duration::from_micros(took_us));
        }
        let counts = durations.read();
        let steps: Vec<(u64, u64)> = counts.steps().collect();
        assert_eq!((counts.count(), counts.sum_us, steps.len()), (4, 70_000_174, STEPS - 1));
        assert_eq!((steps[0], steps[1], steps[20]), ((64, 2), (128, 3), (67_108_864, 3)));
    }
}
