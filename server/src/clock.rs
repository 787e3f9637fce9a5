//! The clocks: the system's, which may be set, and the monotonic one, which may not.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Unix milliseconds by the system's clock.
pub fn now_ms() -> u64 {
    unix_ns() / 1_000_000
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
