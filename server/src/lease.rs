//! The lease of a node of a fleet: until when it may answer.
//!
//! Other nodes take over the databases of one whose lease has ended. What it acknowledges then is safe all the same: its log is
//! sealed before anything of it is read. But its reads could be older than what the other node says. So each batch compares
//! the clock with the end of the lease, even in a process or a machine that was stopped and goes on. A batch that comes too late waits for
//! a while, since the coordinator may only be slow, and is then refused.
//!
//! A process that has lost its lease gets another one. It answers again only after it has asked the store whether it still owns its
//! run: it may have been adopted in between.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dormouse_coordination::Standing;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::clock::boot_ms;

/// The error for requests without a lease.
pub const LEASELESS: &str =
    "CLUSTERDOWN this node of the fleet has not heard from the coordinator for longer than its lease; connect again";

/// Longest wait of a request for the lease to be renewed.
const RENEWED_WITHIN: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
pub struct ServingLease {
    /// Unset: it has none, and needs none.
    terms: OnceLock<Terms>,
}

#[derive(Debug)]
struct Terms {
    /// When it ends, by [`boot_ms`].
    end_ms: Arc<AtomicU64>,
    standing: watch::Receiver<Standing>,
    /// How many losses of a lease were followed by a look whether another node has adopted this one.
    confirmed: AtomicU64,
}

impl ServingLease {
    pub fn begin(&self, end_ms: Arc<AtomicU64>, standing: watch::Receiver<Standing>) {
        // A process joins one fleet.
        let _ = self.terms.set(Terms { end_ms, standing, confirmed: AtomicU64::new(0) });
    }

    #[inline]
    pub fn is_over(&self) -> bool {
        self.terms.get().is_some_and(Terms::are_over)
    }

    /// Notes that this process still owned its run after so many losses.
    pub fn confirm(&self, losses: u64) {
        if let Some(terms) = self.terms.get() {
            terms.confirmed.store(losses, Ordering::Release);
        }
    }

    /// Waits until it is renewed. Returns whether it was.
    pub async fn renewed(&self) -> bool {
        let until = Instant::now() + RENEWED_WITHIN;
        while self.is_over() {
            if Instant::now() >= until {
                return false;
            }
            sleep(LOOK_EVERY).await;
        }
        true
    }
}

impl Terms {
    fn are_over(&self) -> bool {
        // In this order: a loss is counted before another lease begins.
        let end_ms = self.end_ms.load(Ordering::Acquire);
        boot_ms() >= end_ms || self.standing.borrow().leases_lost != self.confirmed.load(Ordering::Acquire)
    }
}
