//! The clocks: the system's, which may be set, and the monotonic one, which may not.

use std::pin::Pin;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

/// The clock that ends the waits of clients.
#[derive(Debug, Clone, Default)]
pub enum Alarm {
    #[default]
    Monotonic,
    /// Milliseconds of a clock that a test holds.
    Held(watch::Receiver<u64>),
}

/// It is over when its time has come.
pub type Ring = Pin<Box<dyn Future<Output = ()>>>;

impl Alarm {
    /// Returns what rings at a moment of the system's clock, or of the held one.
    pub fn at(&self, unix_ms: u64) -> Ring {
        let timeout = |now_ms: u64| Duration::from_millis(unix_ms.saturating_sub(now_ms));
        match self {
            // A little later, so that the moment has come for who reads the clock then.
            Self::Monotonic => self.after(Instant::now(), timeout(now_ms()) + Duration::from_millis(1)),
            Self::Held(now_ms) => {
                let timeout = timeout(*now_ms.borrow());
                self.after(Instant::now(), timeout)
            }
        }
    }

    /// Returns what rings `timeout` after `since`. A held clock has stood still since then.
    pub fn after(&self, since: Instant, timeout: Duration) -> Ring {
        match self {
            Self::Monotonic => Box::pin(tokio::time::sleep_until((since + timeout).into())),
            Self::Held(now_ms) => {
                let mut now_ms = now_ms.clone();
                let until_ms = *now_ms.borrow() + timeout.as_millis() as u64;
                Box::pin(async move {
                    // A clock that is gone never comes there.
                    if now_ms.wait_for(|now_ms| *now_ms >= until_ms).await.is_err() {
                        std::future::pending::<()>().await;
                    }
                })
            }
        }
    }
}

/// Unix milliseconds by the system's clock.
pub fn now_ms() -> u64 {
    unix_ns() / 1_000_000
}

/// A time in RFC 3339 format, in UTC; `None` if it is too large for that.
pub fn rfc3339(unix_ms: u64) -> Option<String> {
    let time = i64::try_from(unix_ms).ok().and_then(chrono::DateTime::from_timestamp_millis)?;
    Some(time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
}

/// Unix nanoseconds by the system's clock.
pub fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// Reads both clocks as close to one moment as possible. The monotonic one is read first, so times computed from the
/// pair may be ahead of the system's clock by the time between the two readings, but never behind it.
pub(crate) fn both_clocks() -> (Instant, u64) {
    const APART_MAX: Duration = Duration::from_micros(5);
    let mut closest = (Duration::MAX, Instant::now(), 0);
    // This thread may be interrupted between the two readings, but hardly each time.
    for _ in 0..8 {
        let (before, system_ns) = (Instant::now(), unix_ns());
        let apart = before.elapsed();
        if apart < closest.0 {
            closest = (apart, before, system_ns);
        }
        if apart <= APART_MAX {
            break;
        }
    }
    (closest.1, closest.2)
}

/// Milliseconds of a clock that is never set, and goes on while the machine is suspended. Its origin is arbitrary.
pub fn boot_ms() -> u64 {
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    let now = rustix::time::clock_gettime(clock);
    (now.tv_sec.unsigned_abs() * 1000).saturating_add(now.tv_nsec.unsigned_abs() / 1_000_000)
}

/// Milliseconds of a clock that is never set, for measuring durations. Its origin is arbitrary.
pub fn monotonic_ms() -> u64 {
    // A few milliseconds coarse, but four times as fast: each batch of writes reads it.
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::MonotonicCoarse;
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    let now = rustix::time::clock_gettime(clock);
    (now.tv_sec.unsigned_abs() * 1000).saturating_add(now.tv_nsec.unsigned_abs() / 1_000_000)
}
