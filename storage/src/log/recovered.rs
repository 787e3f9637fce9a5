//! The log as it was read: each earlier process's log, and the entries of each database.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;

use super::format::{EntryKind, Identity};
use super::ledger::Mentions;
use crate::store::encryption::LogCipher;

/// The effects of one batch or transaction on a database.
#[derive(Debug, Clone)]
pub struct LogEntry {
    pub sequence: u64,
    pub now_ms: u64,
    pub kind: EntryKind,
    pub items: Bytes,
}

/// The entries of one database.
#[derive(Debug, Clone, Default)]
pub struct Entries {
    /// In the order of their sequence numbers.
    pub entries: Vec<LogEntry>,
    /// The damage of a log that mentions it.
    pub damage: Option<String>,
}

/// The entries of all databases, except deleted ones.
#[derive(Debug, Default)]
pub struct Recovered {
    databases: HashMap<Identity, Entries>,
    /// The first damage of all. What could not be read may have been of any database, so it counts for each.
    damage: Option<String>,
    /// Databases that a log records as deleted.
    gone: HashSet<Identity>,
    /// Entries that may be missing, see [`super::doubt`].
    pub doubts: Vec<String>,
}

impl Recovered {
    /// Adds the entries of other logs.
    pub fn merge(&mut self, other: Self) {
        self.damage = self.damage.take().or(other.damage);
        self.doubts.extend(other.doubts);
        self.gone.extend(other.gone);
        for (identity, mut found) in other.databases {
            let all = self.databases.entry(identity).or_default();
            all.entries.append(&mut found.entries);
            all.entries.sort_by_key(|entry| entry.sequence);
            all.damage = all.damage.take().or(found.damage);
        }
        self.databases.retain(|identity, _| !self.gone.contains(identity));
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.databases.is_empty() && self.damage.is_none() && self.doubts.is_empty()
    }

    /// Takes out the entries of one database.
    pub fn take(&mut self, identity: &Identity) -> Entries {
        let entries = self.databases.remove(identity).unwrap_or_default();
        self.with_damage(entries)
    }

    /// The same without taking them.
    pub fn entries_of(&self, identity: &Identity) -> Entries {
        self.with_damage(self.databases.get(identity).cloned().unwrap_or_default())
    }

    fn with_damage(&self, mut entries: Entries) -> Entries {
        if entries.damage.is_none() {
            entries.damage.clone_from(&self.damage);
        }
        entries
    }

    /// The newest database of this name in the log, for a name without a manifest.
    pub fn identity_of(&self, name: &str) -> Option<Identity> {
        // Where a log is damaged, its first write may be among what could not be read.
        let is_new = |entries: &Entries| self.damage.is_some() || entries.is_new();
        let same = self.databases.iter().filter(|(identity, entries)| &*identity.name == name && is_new(entries));
        same.map(|(identity, _)| identity).max_by_key(|identity| identity.created_ms).cloned()
    }

    /// The first damage of all logs.
    pub fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }

    /// Databases that have had the name of this one before.
    pub fn others_of(&self, identity: &Identity) -> Vec<Identity> {
        let others = self.databases.keys().filter(|other| other.name == identity.name && *other != identity);
        others.cloned().collect()
    }

    /// Whether the log has anything of a database called `name` beyond its manifest's entry `cut`.
    pub fn goes_beyond(&self, name: &str, cut: u64) -> bool {
        let same = self.databases.iter().filter(|(identity, _)| &*identity.name == name);
        same.flat_map(|(_, entries)| &entries.entries).any(|entry| entry.sequence > cut)
    }

    /// All databases, ordered.
    pub fn identities(&self) -> Vec<&Identity> {
        let mut all: Vec<_> = self.databases.keys().collect();
        all.sort();
        all
    }

    pub fn get(&self, identity: &Identity) -> Option<&Entries> {
        self.databases.get(identity)
    }
}

impl Entries {
    /// Whether they begin with the database's first write: else what remains is of one that was deleted.
    fn is_new(&self) -> bool {
        self.damage.is_some() || self.entries.first().is_some_and(|entry| entry.sequence == 1)
    }
}

/// Damage of a log's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    pub writer: u64,
    pub number: u64,
    pub problem: String,
}

/// One log, read.
#[derive(Debug, Default)]
pub struct ReadLog {
    /// Set for an encrypted log.
    pub(super) cipher: Option<LogCipher>,
    /// No log of the store can be one that is not encrypted.
    pub(super) refuses_plain: bool,
    pub writer: u64,
    /// The existing files, with the databases that they mention.
    pub files: BTreeMap<u64, Mentions>,
    pub databases: HashMap<Identity, Vec<LogEntry>>,
    pub gone: HashSet<Identity>,
    pub damages: Vec<Damage>,
    /// The end of the last file for a reader.
    pub end: Option<(u64, u64)>,
    /// The last file with a frame, and where that ends.
    pub last_frame: Option<(u64, u64)>,
    /// The lsn and the offset of each frame of that file.
    pub(super) frames_of_last: Vec<(u64, u64)>,
    /// The lsn up to which everything was durable, as the frames tell.
    pub(super) synced: u64,
    pub frames: usize,
    /// Bytes of all files.
    pub bytes: u64,
    /// The frame that a crash tore, or that is being written at this moment: it was never durable.
    pub torn: Option<String>,
    /// Whether a file was deleted after the log was listed.
    pub vanished: bool,
    /// Entries that may be missing, see [`super::doubt`].
    pub doubts: Vec<String>,
    /// The last file, where it does not end as one that was being written.
    pub cut_short: Option<u64>,
    /// Only the entries of this database are wanted.
    pub(super) only: Option<Identity>,
    /// How many entries each database had when a file that mentions it had been read.
    pub(super) counted: HashMap<Identity, usize>,
}

impl ReadLog {
    /// How many bytes of the last file with a frame are known to be durable.
    pub(super) fn durable_of_last(&self) -> u64 {
        let first = self.frames_of_last.iter().position(|(lsn, _)| *lsn >= self.synced);
        // The head of the file is durable with its first frame.
        first.filter(|first| *first > 0).map_or(0, |first| self.frames_of_last[first].1)
    }
}

/// The entries of all logs by database.
pub fn collect(logs: Vec<ReadLog>) -> Recovered {
    let mut recovered = Recovered::default();
    for log in logs {
        let damage = log.damages.first().map(|damage| damage.problem.clone());
        if recovered.damage.is_none() {
            recovered.damage.clone_from(&damage);
        }
        for (identity, mut entries) in log.databases {
            let all = recovered.databases.entry(identity).or_default();
            match all.entries.is_empty() {
                true => all.entries = entries,
                false => all.entries.append(&mut entries),
            }
            if all.damage.is_none() {
                all.damage.clone_from(&damage);
            }
        }
        recovered.gone.extend(log.gone);
        recovered.doubts.extend(log.doubts);
    }
    let Recovered { databases, gone, .. } = &mut recovered;
    databases.retain(|identity, _| !gone.contains(identity));
    for entries in recovered.databases.values_mut() {
        entries.entries.sort_by_key(|entry| entry.sequence);
    }
    recovered
}
