//! The part of this node in the work of its fleet: whether it gives its databases away, and counts of work done.

use std::sync::atomic::AtomicU64;

use tokio::sync::{Mutex, watch};

#[derive(Debug)]
pub struct FleetDuty {
    draining: watch::Sender<bool>,
    /// Held by the one that moves all databases away.
    pub turn: Mutex<()>,
    /// Dead nodes that this process has adopted.
    pub adoptions: AtomicU64,
    /// Databases and branches that it has handed over.
    pub moves: AtomicU64,
}

impl Default for FleetDuty {
    fn default() -> Self {
        Self {
            draining: watch::Sender::new(false),
            turn: Mutex::default(),
            adoptions: AtomicU64::new(0),
            moves: AtomicU64::new(0),
        }
    }
}

impl FleetDuty {
    /// Whether this node gives its databases away. Unlike the list of members, this is never old.
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    pub(super) fn set_draining(&self, is_draining: bool) {
        self.draining.send_replace(is_draining);
    }

    /// Waits until this node gives its databases away.
    pub async fn until_draining(&self) {
        // The sender lives as long as `self`.
        let _ = self.draining.subscribe().wait_for(|is_draining| *is_draining).await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_drain_begins_and_ends() {
        let duty = FleetDuty::default();
        assert!(!duty.is_draining() && duty.until_draining().now_or_never().is_none());
        duty.set_draining(true);
        duty.set_draining(true);
        assert!(duty.is_draining() && duty.until_draining().now_or_never().is_some());
        duty.set_draining(false);
        assert!(!duty.is_draining() && duty.until_draining().now_or_never().is_none());
    }
}
