//! How long something took: for counters and logs, never for what a command sees.

use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    #[allow(clippy::disallowed_methods, reason = "it measures, it does not decide: nothing replayed depends on it")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }

    pub fn us(self) -> u64 {
        self.0.elapsed().as_micros() as u64
    }
}
