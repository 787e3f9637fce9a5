//! Watched keys: the book's knowledge of them, and when a transaction that watches them must be refused.
//!
//! A watch is noted under the locks of its keys. Whether a command that has left a key unchanged counts as a change
//! depends on the command, and is not modelled: if the key was only *named*, the transaction may run or not. If it has
//! *changed* or expired, the transaction must not run. If no write has named it, the transaction must run.

use crate::model::{Entry, Key, Model, Touched};

/// The keys that one client watches.
#[derive(Debug)]
pub struct Watch {
    pub database: usize,
    /// The entry of each key when the watch began.
    pub keys: Vec<(Key, Option<Entry>)>,
    is_named: bool,
    has_changed: bool,
}

impl Watch {
    pub fn new(database: usize, keys: &[Key], live: &Model, now_ms: u64) -> Self {
        let keys = keys.iter().map(|key| (key.clone(), live.alive_entry(key, now_ms))).collect();
        Self { database, keys, is_named: false, has_changed: false }
    }

    /// Notes that a command has run, and left the database as `live`.
    pub fn see(&mut self, touched: &Touched, writes: bool, live: &Model, now_ms: u64) {
        self.is_named |= writes
            && match touched {
                Touched::All => true,
                Touched::Keys(keys) => self.keys.iter().any(|(key, _)| keys.contains(key)),
            };
        self.has_changed |= self.differs(live, now_ms);
    }

    /// Whether the transaction must not run now.
    pub fn must_refuse(&self, live: &Model, now_ms: u64) -> bool {
        self.has_changed || self.differs(live, now_ms)
    }

    /// Whether the transaction may have been refused at `now_ms` or before.
    pub fn may_refuse(&self, now_ms: u64) -> bool {
        let has_expired = |entry: &Entry| entry.expiry.is_some_and(|at| at <= now_ms);
        self.is_named || self.has_changed || self.keys.iter().any(|(_, entry)| entry.as_ref().is_some_and(has_expired))
    }

    fn differs(&self, live: &Model, now_ms: u64) -> bool {
        self.keys.iter().any(|(key, entry)| live.alive_entry(key, now_ms) != *entry)
    }
}
