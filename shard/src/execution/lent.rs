//! Time that a thread lends to commands of other clients: a holder of a lock runs the jobs that were queued for it.
//!
//! The time is billed to the clients that asked. So a thread that measures its own work takes off what it has lent.

use std::cell::Cell;
use std::time::Duration;

thread_local! {
    static LENT: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

pub(super) fn add(took: Duration) {
    LENT.set(LENT.get() + took);
}

/// The time that this thread has lent since it was last asked.
pub fn take() -> Duration {
    LENT.replace(Duration::ZERO)
}
