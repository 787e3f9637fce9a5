//! Which files of the log are still needed.
//!
//! A file mentions databases, each up to some sequence number. A database needs it until its newest manifest holds
//! everything up to that number. Files of earlier processes are in the ledger too.

use std::collections::{BTreeMap, HashMap};

use super::format::Identity;

/// What one file mentions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mentions {
    /// Each database with its last sequence number.
    pub last: HashMap<Identity, u64>,
    /// Databases that it says are gone. While another file mentions one, this must be known.
    pub gone: Vec<Identity>,
}

/// All files, by writer and number.
pub type Files = BTreeMap<(u64, u64), Mentions>;

#[derive(Debug, Default)]
pub struct Ledger {
    /// By writer and number.
    files: Files,
    /// What the manifest of each database holds.
    floors: HashMap<Identity, u64>,
    untidy: bool,
}

impl Ledger {
    pub fn new(files: Files) -> Self {
        let untidy = files.values().any(|mentions| mentions.last.is_empty());
        Self { files, floors: HashMap::new(), untidy }
    }

    /// A file is there that mentions nobody yet.
    pub fn begun(&mut self, writer: u64, number: u64) {
        self.files.entry((writer, number)).or_default();
    }

    pub fn mention(&mut self, writer: u64, number: u64, database: &Identity, sequence: u64) {
        let last = &mut self.files.entry((writer, number)).or_default().last;
        match last.get_mut(database) {
            Some(last) => *last = sequence.max(*last),
            None => drop(last.insert(database.clone(), sequence)),
        }
    }

    /// A file says that a database is gone.
    pub fn gone(&mut self, writer: u64, number: u64, database: &Identity) {
        self.files.entry((writer, number)).or_default().gone.push(database.clone());
    }

    /// Says what a manifest holds; true where a file may have become unneeded by that. `u64::MAX`: all, as the database
    /// is gone.
    pub fn settled(&mut self, database: &Identity, sequence: u64) -> bool {
        if self.floors.get(database).is_none_or(|floor| *floor < sequence) {
            self.floors.insert(database.clone(), sequence);
            self.untidy |= self.files.values().any(|mentions| mentions.last.contains_key(database));
        }
        self.untidy
    }

    /// Another file is written from now on, or one could not be deleted.
    pub fn look_again(&mut self) {
        self.untidy = true;
    }

    /// Whether somebody is to look for unneeded files.
    pub fn is_untidy(&self) -> bool {
        self.untidy
    }

    /// The files that no database needs, but for `current`, in the order in which they may be deleted: what tells that a
    /// database is gone after what mentions it.
    pub fn unneeded(&mut self, current: Option<(u64, u64)>) -> Vec<(u64, u64)> {
        self.untidy = false;
        let unsettled = |mentions: &Mentions| {
            mentions.last.iter().any(|(database, last)| self.floors.get(database).is_none_or(|floor| floor < last))
        };
        let kept: Vec<_> = self.files.iter().filter(|(_, mentions)| unsettled(mentions)).collect();
        let needed = |file: &(u64, u64), mentions: &Mentions| {
            let tells = |other: &Mentions| mentions.gone.iter().any(|gone| other.last.contains_key(gone));
            unsettled(mentions) || kept.iter().any(|(other, others)| *other != file && tells(others))
        };
        let unneeded = self.files.iter().filter(|(file, mentions)| Some(**file) != current && !needed(file, mentions));
        let (silent, mut telling): (Vec<_>, Vec<_>) = unneeded.partition(|(_, mentions)| mentions.gone.is_empty());
        let mut ordered: Vec<_> = silent.into_iter().map(|(file, _)| *file).collect();
        while !telling.is_empty() {
            let is_last = |mentions: &Mentions| {
                let mentioned = |gone| telling.iter().any(|(_, other)| other.last.contains_key(gone));
                !mentions.gone.iter().any(mentioned)
            };
            let next = telling.iter().position(|(_, mentions)| is_last(mentions)).unwrap_or(0);
            ordered.push(*telling.remove(next).0);
        }
        ordered
    }

    pub fn removed(&mut self, writer: u64, number: u64) {
        self.files.remove(&(writer, number));
    }

    pub fn len(&self) -> usize {
        self.files.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(name: &str) -> Identity {
        Identity { name: name.into(), seed: 1, created_ms: 2 }
    }

    #[test]
    fn a_file_is_needed_until_every_database_in_it_has_settled() {
        let (a, b) = (identity("a"), identity("b"));
        let mut ledger = Ledger::new(BTreeMap::from([((1, 1), Mentions::default())]));
        ledger.mention(2, 1, &a, 5);
        ledger.mention(2, 1, &b, 9);
        ledger.mention(2, 1, &a, 7);
        ledger.mention(2, 2, &a, 8);
        assert!(ledger.is_untidy());
        assert_eq!(ledger.unneeded(None), [(1, 1)]);
        ledger.removed(1, 1);
        assert!(!ledger.is_untidy());
        ledger.settled(&a, 7);
        assert_eq!(ledger.unneeded(None), []);
        ledger.settled(&b, 9);
        assert_eq!(ledger.unneeded(Some((2, 1))), []);
        ledger.settled(&a, 6);
        assert_eq!(ledger.unneeded(Some((2, 2))), [(2, 1)]);
        ledger.settled(&a, u64::MAX);
        assert_eq!(ledger.unneeded(None), [(2, 1), (2, 2)]);
        assert_eq!(ledger.len(), 2);
    }

    #[test]
    fn that_a_database_is_gone_is_known_as_long_as_others_remember_it() {
        let (a, b) = (identity("a"), identity("b"));
        let mut ledger = Ledger::default();
        ledger.mention(1, 1, &a, 5);
        ledger.mention(1, 1, &b, 5);
        ledger.gone(1, 2, &a);
        ledger.settled(&a, u64::MAX);
        assert_eq!(ledger.unneeded(None), []);
        ledger.settled(&b, 5);
        assert_eq!(ledger.unneeded(None), [(1, 1), (1, 2)]);
        ledger.mention(2, 1, &a, 5);
        assert_eq!(ledger.unneeded(None), [(1, 1), (2, 1), (1, 2)], "a crash may come after each");
        ledger.gone(2, 1, &b);
        assert_eq!(ledger.unneeded(None), [(1, 1), (2, 1), (1, 2)]);
    }
}
