//! The policy for retries and for logging failures, shared by everything that writes to the store.
//!
//! 1. The first pause is short and each one is twice as long as the one before, up to a bound.
//! 2. One line is logged when something begins to fail, one after each [`REPEAT_MS`] while it still fails, and one when it
//!    works again. What happens in between is counted.
//!
//! No clock is needed: the time that has passed is the sum of the pauses.

use std::time::Duration;

/// The interval after which a lasting failure is logged again.
const REPEAT_MS: u64 = 5 * 60_000;

/// The line that a failure deserves in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// It has begun to fail.
    Began,
    /// It has failed so often in a row.
    Still(u64),
    /// It was logged a moment ago.
    Silent,
}

/// The failures in a row of one thing.
#[derive(Debug, Clone)]
pub struct Retry {
    pause_ms: (u64, u64),
    failures: u64,
    /// Pauses since it was last logged.
    unlogged_ms: u64,
}

impl Retry {
    /// `first_ms`: the first pause; `longest_ms`: the bound.
    pub const fn new(first_ms: u64, longest_ms: u64) -> Self {
        Self { pause_ms: (first_ms, longest_ms), failures: 0, unlogged_ms: 0 }
    }

    /// Notes a failure. Returns the pause before the next attempt, and what to log.
    pub fn failed(&mut self) -> (Duration, Notice) {
        let (first, longest) = self.pause_ms;
        let pause_ms = first.saturating_mul(1 << self.failures.min(32)).min(longest);
        self.failures += 1;
        let notice = if self.failures == 1 {
            Notice::Began
        } else if self.unlogged_ms >= REPEAT_MS {
            Notice::Still(self.failures)
        } else {
            Notice::Silent
        };
        if notice != Notice::Silent {
            self.unlogged_ms = 0;
        }
        self.unlogged_ms += pause_ms;
        (Duration::from_millis(pause_ms), notice)
    }

    /// Notes a success. Returns how many failures it ends, if any.
    pub fn succeeded(&mut self) -> Option<u64> {
        self.unlogged_ms = 0;
        Some(std::mem::take(&mut self.failures)).filter(|failures| *failures > 0)
    }

    pub fn is_failing(&self) -> bool {
        self.failures > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_minutes_of_failures_are_few_attempts_and_few_lines() {
        let mut retry = Retry::new(20, 1_000);
        assert_eq!(retry.succeeded(), None);
        let (mut passed, mut attempts, mut lines) = (Duration::ZERO, 0, Vec::new());
        while passed < Duration::from_secs(600) {
            let (pause, notice) = retry.failed();
            passed += pause;
            attempts += 1;
            if notice != Notice::Silent {
                lines.push(notice);
            }
        }
        assert!(attempts < 620, "{attempts}");
        assert!(matches!(lines[..], [Notice::Began, Notice::Still(_)]), "{lines:?}");
        assert_eq!(retry.succeeded(), Some(attempts));
        assert_eq!(retry.failed(), (Duration::from_millis(20), Notice::Began));
        assert_eq!(retry.failed(), (Duration::from_millis(40), Notice::Silent));
    }
}
