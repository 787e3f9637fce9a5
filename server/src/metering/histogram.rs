//! The distribution of one command's calls over time.
//!
//! A step is a power of two of microseconds. A call that was timed by itself is counted at its own time. The others of
//! a batch are counted at their average, because the clock is read once a batch. So no call is left out, and the sum is
//! exact, but a quick command that waited behind a slower one of its batch is reported as slower than it was.

use std::sync::atomic::{AtomicU64, Ordering};

/// Number of steps: up to 1 us, 2 us, 4 us and so on. The last holds all longer calls, half a second and more.
pub const STEPS: usize = 21;

/// Returns the step of a call that took `nanoseconds`.
#[inline]
pub fn step_of(nanoseconds: u64) -> usize {
    // Rounded up to microseconds, so that exactly 2 us are in the step of 2 us.
    let microseconds = nanoseconds.div_ceil(1000).max(1);
    ((microseconds - 1).checked_ilog2().map_or(0, |log| log as usize + 1)).min(STEPS - 1)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram([u64; STEPS]);

impl Histogram {
    /// A histogram with these numbers of calls in these steps.
    #[cfg(test)]
    pub fn of_steps(steps: &[(usize, u64)]) -> Self {
        let mut histogram = Self::default();
        steps.iter().for_each(|&(step, calls)| histogram.0[step] = calls);
        histogram
    }

    pub fn calls(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The upper ends of the steps that hold calls, in microseconds, each with the number of calls up to it.
    pub fn steps(&self) -> Vec<(u64, u64)> {
        let mut sum = 0;
        let mut steps = Vec::new();
        for (step, calls) in self.0.iter().enumerate().filter(|(_, calls)| **calls > 0) {
            sum += calls;
            steps.push((1 << step, sum));
        }
        steps
    }

    /// The ends of all steps but the last, which has none, in microseconds, each with the number of calls up to it.
    pub fn bounded_steps(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut sum = 0;
        self.0[..STEPS - 1].iter().enumerate().map(move |(step, calls)| {
            sum += calls;
            (1 << step, sum)
        })
    }

    /// The microseconds within which `percent` of the calls finished, assuming that calls are spread evenly within a
    /// step.
    pub fn percentile(&self, percent: f64) -> f64 {
        let wanted = self.calls() as f64 * percent / 100.0;
        let mut before = 0.0;
        for (step, &calls) in self.0.iter().enumerate().filter(|(_, calls)| **calls > 0) {
            if before + calls as f64 >= wanted {
                let (low, high) = (if step == 0 { 0.0 } else { (1u64 << (step - 1)) as f64 }, (1u64 << step) as f64);
                return low + (high - low) * ((wanted - before) / calls as f64).clamp(0.0, 1.0);
            }
            before += calls as f64;
        }
        0.0
    }

    pub fn add(&mut self, other: &Histogram) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, more)| *sum += more);
    }

    /// Returns the counts since `earlier`.
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        let mut difference = *self;
        difference.0.iter_mut().zip(earlier.0).for_each(|(sum, less)| *sum = sum.saturating_sub(less));
        difference
    }
}

/// A histogram that one thread writes and any thread may read.
#[derive(Debug, Default)]
pub(super) struct Cells([AtomicU64; STEPS]);

impl Cells {
    #[inline]
    pub fn count(&self, step: usize, calls: u64) {
        bump(&self.0[step], calls);
    }

    pub fn read(&self) -> Histogram {
        Histogram(std::array::from_fn(|step| self.0[step].load(Ordering::Relaxed)))
    }
}

/// Adds to a cell that only this thread writes, so no write can come between the load and the store.
#[inline]
pub(super) fn bump(cell: &AtomicU64, more: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_ends_at_a_power_of_two() {
        for (nanoseconds, step) in [
            (0, 0),
            (1, 0),
            (1000, 0),
            (1001, 1),
            (2000, 1),
            (2001, 2),
            (4000, 2),
            (4001, 3),
            (524_288_000, 19),
            (524_288_001, 20),
            (u64::MAX, 20),
        ] {
            assert_eq!(step_of(nanoseconds), step, "{nanoseconds} ns");
        }
    }

    #[test]
    fn percentiles_lie_within_their_steps() {
        let cells = Cells::default();
        assert_eq!(cells.read().percentile(50.0), 0.0);
        cells.count(0, 90);
        cells.count(3, 9);
        cells.count(10, 1);
        let histogram = cells.read();
        assert_eq!(histogram.steps(), [(1, 90), (8, 99), (1024, 100)]);
        assert_eq!(histogram.percentile(45.0), 0.5);
        assert_eq!(histogram.percentile(99.0), 8.0);
        assert!((512.0..=1024.0).contains(&histogram.percentile(99.9)));
        let mut twice = histogram;
        twice.add(&histogram);
        assert_eq!(twice.calls(), 200);
        assert_eq!(twice.since(&histogram), histogram);
    }
}
