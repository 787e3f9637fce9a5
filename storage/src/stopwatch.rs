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

/// How long this thread has had a processor, for bills: what it waited for others is not its work.
#[derive(Debug, Clone, Copy)]
pub struct CpuStopwatch(Duration);

impl CpuStopwatch {
    pub fn start() -> Self {
        Self(thread_time())
    }

    pub fn elapsed(self) -> Duration {
        thread_time().saturating_sub(self.0)
    }

    /// The same since the last lap, if there was one.
    pub fn lap(&mut self) -> Duration {
        let now = thread_time();
        now.saturating_sub(std::mem::replace(&mut self.0, now))
    }
}

fn thread_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_sleeps_has_no_processor() {
        let (wall, cpu) = (Stopwatch::start(), CpuStopwatch::start());
        while wall.elapsed() < Duration::from_millis(50) {
            std::thread::park_timeout(Duration::from_millis(50));
        }
        assert!(cpu.elapsed() < wall.elapsed() / 2);
        let (mut sum, mut laps, mut lap) = (0u64, Duration::ZERO, cpu);
        while cpu.elapsed() < Duration::from_millis(1) {
            sum = std::hint::black_box(sum.wrapping_add(1));
            laps += lap.lap();
        }
        assert!(laps + lap.lap() >= Duration::from_millis(1) && laps <= cpu.elapsed());
    }
}
