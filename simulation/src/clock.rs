//! The held clock: it moves when the schedule says so. Each run has a thread to itself.

use std::cell::Cell;

/// Where each run begins, unix milliseconds.
pub const START_MS: u64 = 1_700_000_000_000;

thread_local! {
    static NOW_MS: Cell<u64> = const { Cell::new(START_MS) };
}

pub fn now_ms() -> u64 {
    NOW_MS.get()
}

pub fn set(now_ms: u64) {
    NOW_MS.set(now_ms);
}

pub fn advance(ms: u64) {
    NOW_MS.set(NOW_MS.get() + ms);
}
