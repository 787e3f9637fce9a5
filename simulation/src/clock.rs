//! The held clock: only the schedule moves it. Each run has a thread to itself.

use std::cell::Cell;

/// The start of each run, in Unix milliseconds.
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
