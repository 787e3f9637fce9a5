//! Counts of what this node forwards, and the account of the clients that it forwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::account::Account;

/// The name that errors use for the account.
const OF_FORWARDED: &str = "the memory of forwarded clients";

/// The clients and bytes that a node forwards to others of the fleet.
#[derive(Debug)]
pub struct Forwarded {
    /// The memory of forwarded clients: their databases have no accounts here. Each keeps little, and that of all clients
    /// together is limited, so this account has no limit of its own.
    pub account: Arc<Account>,
    connections: AtomicU64,
    bytes: AtomicU64,
}

/// The same at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct ForwardedSnapshot {
    /// Connections and requests over HTTP that are being forwarded.
    pub connections: u64,
    /// Bytes that were forwarded either way.
    pub bytes: u64,
}

impl Default for Forwarded {
    fn default() -> Self {
        let account = Account::new(OF_FORWARDED, usize::MAX);
        Self { account, connections: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }
}

impl Forwarded {
    /// Counts a connection until the result is dropped.
    pub fn begin(self: &Arc<Self>) -> ForwardedPlace {
        self.connections.fetch_add(1, Ordering::Relaxed);
        ForwardedPlace(Arc::clone(self))
    }

    pub fn note_bytes(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn snapshot(&self) -> ForwardedSnapshot {
        ForwardedSnapshot {
            connections: self.connections.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}

/// A forwarded connection among those of its node.
#[derive(Debug)]
pub struct ForwardedPlace(Arc<Forwarded>);

impl ForwardedPlace {
    /// Counts bytes that went through it.
    pub fn note_bytes(&self, bytes: usize) {
        self.0.note_bytes(bytes);
    }
}

impl Drop for ForwardedPlace {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
