//! Attempts of the keeper at work that may fail: repeated after growing pauses, and never two at a time.

use std::time::Instant;

use dormouse_storage::retry::{Notice, Retry};

/// Shortest and longest pause before a retry.
const RETRY_MS: (u64, u64) = (1_000, 60_000);

/// A task that is retried, less and less often, until it succeeds.
#[derive(Debug)]
pub struct Attempts {
    retry: Retry,
    due: Option<Instant>,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { retry: Retry::new(RETRY_MS.0, RETRY_MS.1), due: None }
    }
}

impl Attempts {
    pub fn is_due(&self) -> bool {
        self.due.is_none_or(|due| due <= Instant::now())
    }

    /// Notes the outcome of an attempt. Returns what to log.
    pub fn note(&mut self, succeeded: bool) -> Notice {
        if succeeded {
            self.retry.succeeded();
            self.due = None;
            return Notice::Silent;
        }
        let (pause, notice) = self.retry.failed();
        self.due = Some(Instant::now() + pause);
        notice
    }
}

/// The checkpoints and sleeps of one database that the keeper starts by itself.
#[derive(Debug, Default)]
pub struct Saving {
    attempts: Attempts,
    is_running: bool,
}

impl Saving {
    /// Whether another one should begin now.
    pub fn begin(&mut self) -> bool {
        let begins = !self.is_running && self.attempts.is_due();
        self.is_running |= begins;
        begins
    }

    /// Whether one is under way.
    pub fn is_running(&self) -> bool {
        self.is_running
    }

    /// Whether the last one failed.
    pub fn is_failing(&self) -> bool {
        self.attempts.retry.is_failing()
    }

    pub fn end(&mut self, succeeded: bool) -> Notice {
        self.is_running = false;
        self.attempts.note(succeeded)
    }
}
