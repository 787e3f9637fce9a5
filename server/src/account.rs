//! Memory that clients make the server keep beside the data.
//!
//! Every byte of it is charged to the database that the client speaks to: the connection itself, incomplete requests,
//! arguments of commands that wait, commands queued by MULTI, watched keys, subscriptions, names, and unsent replies
//! and messages.
//!
//! 1. Each database has an [`Account`], whose limit is `maxmemory-clients`. The process has one for all clients, whose
//!    limit is what `--max-memory-total` leaves beside everything else: see [`crate::memory`]. A charge goes to both.
//! 2. A charge that does not fit is refused where it is requested: a reply becomes an error, a subscription or a queued
//!    command is refused, a connection whose request does not fit is closed after an error, and a subscriber with too
//!    many unsent messages is closed.
//! 3. If an account refuses something to one client because of what others hold, the largest of its clients are closed,
//!    as in Redis ([`Account::is_crowded`]).
//!
//! Invariant: a client's charges move with it to another database, and end with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use dormouse_shard::error::Error;

/// The error for a command that would make the server keep more than `limit` allows.
pub fn refusal(limit: &str) -> Error {
    Error::Text(format!("OOM command not allowed when used memory > '{limit}'.").into())
}

/// The name that errors use for the limit of the process.
pub const TOTAL: &str = "max-memory-total";
/// The name for the limit of one database's clients.
pub const OF_DATABASE: &str = "maxmemory-clients";

/// The name for the limit of all connections without a token.
pub const OF_STRANGERS: &str = "the memory of unauthenticated clients";

/// Overhead of a connection that has sent nothing, in bytes: its session, its task, its entry in the list of clients.
pub const CONNECTION_BYTES: usize = 4096;
/// Further overhead of a connection over TLS, in bytes: its keys, and what rustls keeps.
pub const TLS_BYTES: usize = 8 << 10;
/// Overhead of a subscription or a watched key beside its name, in bytes: its entries in two maps.
pub const ENTRY_BYTES: usize = 192;

/// After a refusal, an account closes clients until at most this part of its limit is used.
const CROWDED: (usize, usize) = (3, 4);

/// Bytes kept on behalf of clients, and the limit on them.
#[derive(Debug)]
pub struct Account {
    /// The name that errors use for its limit.
    name: &'static str,
    /// The limit in bytes; [`usize::MAX`]: none.
    limit: AtomicUsize,
    /// Bytes that each client may have, whatever the others hold.
    each_min: usize,
    used: AtomicUsize,
    peak: AtomicUsize,
    /// Charges that did not fit.
    refusals: AtomicUsize,
    is_contended: AtomicBool,
}

impl Account {
    pub fn new(name: &'static str, limit: usize) -> Arc<Self> {
        Self::with_each_min(name, limit, 0)
    }

    /// Creates an account with room for `each_min` bytes of each client, even when it is full.
    pub fn with_each_min(name: &'static str, limit: usize, each_min: usize) -> Arc<Self> {
        let account = Self {
            name,
            limit: AtomicUsize::new(limit),
            each_min,
            used: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            refusals: AtomicUsize::new(0),
            is_contended: AtomicBool::new(false),
        };
        Arc::new(account)
    }

    pub fn each_min(&self) -> usize {
        self.each_min
    }

    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    pub fn refusals(&self) -> usize {
        self.refusals.load(Ordering::Relaxed)
    }

    /// Changes the limit. Existing charges stay, even if they exceed it.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Charges `bytes`, all or nothing.
    ///
    /// # Errors
    /// The name of the limit that the charge would exceed.
    pub fn take(&self, bytes: usize) -> Result<(), &'static str> {
        self.try_take(bytes).inspect_err(|_| _ = self.refusals.fetch_add(1, Ordering::Relaxed))
    }

    /// Like [`Self::take`], for callers that can do with less: a failure does not count as a refusal.
    pub fn try_take(&self, bytes: usize) -> Result<(), &'static str> {
        let limit = self.limit();
        // A charge that does not fit is not added even for a moment: other clients would be refused meanwhile.
        let add = |used: usize| used.checked_add(bytes).filter(|used| *used <= limit);
        let before = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).map_err(|_| self.name)?;
        self.peak.fetch_max(before + bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Charges `bytes` that are already kept.
    pub fn take_anyway(&self, bytes: usize) {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        self.peak.fetch_max(used, Ordering::Relaxed);
        if used > self.limit() {
            self.is_contended.store(true, Ordering::Relaxed);
        }
    }

    /// Notes that a charge was refused to a client that holds `own` bytes. The others are to blame if they hold more
    /// than half of the limit.
    pub fn refused(&self, own: usize) {
        if self.used().saturating_sub(own) > self.limit() / 2 {
            self.is_contended.store(true, Ordering::Relaxed);
        }
    }

    pub fn give(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Returns the bytes to free by closing clients, if some clients took from others since the last call and the
    /// account is nearly full.
    pub fn is_crowded(&self) -> Option<usize> {
        if !self.is_contended.swap(false, Ordering::Relaxed) {
            return None;
        }
        let (part, whole) = CROWDED;
        let (used, allowed) = (self.used(), self.limit() / whole * part);
        (used > allowed).then(|| used - allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_is_taken_whole_or_not_at_all() {
        let account = Account::new(OF_DATABASE, 80);
        assert_eq!(account.take(81), Err(OF_DATABASE));
        assert_eq!(account.take(80), Ok(()));
        assert_eq!(account.take(1), Err(OF_DATABASE));
        account.give(80);
        assert_eq!(account.take(usize::MAX), Err(OF_DATABASE));
        assert_eq!((account.used(), account.peak(), account.refusals()), (0, 80, 3));
    }

    #[test]
    fn a_full_account_that_refuses_is_crowded() {
        let account = Account::new(OF_DATABASE, 100);
        account.take(90).unwrap();
        assert_eq!(account.is_crowded(), None, "nothing was refused");
        account.refused(80);
        assert_eq!(account.is_crowded(), None, "nearly all of it is the client's own");
        account.refused(10);
        assert_eq!(account.is_crowded(), Some(15));
        assert_eq!(account.is_crowded(), None);
        account.give(30);
        account.refused(0);
        assert_eq!(account.is_crowded(), None, "the charge was too large by itself");
        account.take_anyway(100);
        assert_eq!(account.is_crowded(), Some(85));
    }
}
