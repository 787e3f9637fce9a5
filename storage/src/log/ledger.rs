//! Which files of the log are still needed.
//!
//! A file mentions databases, each up to some sequence number. A database needs it until its newest manifest holds
//! everything up to that number. Files of earlier processes are in the ledger too. A file that another one restates is
//! needed no more, whatever it mentions; the other one mentions all of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::format::Identity;
use super::sink::Restated;

/// The databases that one file mentions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mentions {
    /// Each database with its last sequence number.
    pub last: HashMap<Identity, u64>,
    /// Databases that it records as deleted. While another file mentions one, this must be known.
    pub gone: Vec<Identity>,
}

/// All files, by writer and number.
pub type LogFiles = BTreeMap<(u64, u64), Mentions>;

#[derive(Debug, Default)]
pub struct Ledger {
    /// By writer and number.
    files: LogFiles,
    /// The sequence number that the manifest of each database reaches; of a deleted one, as long as a file mentions it.
    floors: HashMap<Identity, u64>,
    /// Files whose contents another one has.
    restated: BTreeSet<(u64, u64)>,
    /// The mentions of deleted files that may still be restated: their frames are in memory.
    deleted: LogFiles,
    /// The writer that restates its files, from this number on.
    restatable: Option<(u64, u64)>,
    untidy: bool,
}

/// The files that no database needs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unneeded {
    /// Files that record no deletion of a database. They may be deleted in any order.
    silent: Vec<(u64, u64)>,
    /// These are deleted afterwards, one after the other: what tells that a database is gone after what mentions it.
    telling: Vec<(u64, u64)>,
}

impl Unneeded {
    /// The files that may be deleted together, in the order of the steps.
    pub fn steps(&self) -> impl Iterator<Item = &[(u64, u64)]> {
        let silent = Some(&self.silent[..]).filter(|silent| !silent.is_empty());
        silent.into_iter().chain(self.telling.chunks(1))
    }

    pub fn len(&self) -> usize {
        self.silent.len() + self.telling.len()
    }

    pub fn has(&self, file: (u64, u64)) -> bool {
        self.silent.contains(&file) || self.telling.contains(&file)
    }
}

impl Ledger {
    pub fn new(files: LogFiles) -> Self {
        let untidy = files.values().any(|mentions| mentions.last.is_empty());
        Self { files, untidy, ..Self::default() }
    }

    /// Adds files of earlier logs.
    pub fn add(&mut self, files: LogFiles) {
        self.untidy |= !files.is_empty();
        self.files.extend(files);
    }

    /// Adds a file that mentions no database yet.
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

    /// Notes that a file records the deletion of a database.
    pub fn gone(&mut self, writer: u64, number: u64, database: &Identity) {
        self.files.entry((writer, number)).or_default().gone.push(database.clone());
    }

    /// Notes that the file `by` of a writer has the contents of some earlier ones. It mentions all of their databases,
    /// even those of deleted files: it holds their frames again.
    pub fn restated(&mut self, writer: u64, restated: Restated, by: u64) {
        for number in restated.numbers {
            let file = (writer, number);
            let Some(mentions) = self.files.get(&file).or_else(|| self.deleted.get(&file)).cloned() else { continue };
            mentions.last.iter().for_each(|(database, last)| self.mention(writer, by, database, *last));
            mentions.gone.iter().for_each(|database| self.gone(writer, by, database));
            if self.files.contains_key(&file) {
                self.restated.insert(file);
                self.untidy = true;
            }
        }
        let (kept, unrestatable): (LogFiles, LogFiles) =
            std::mem::take(&mut self.deleted).into_iter().partition(|((_, number), _)| *number >= restated.from);
        self.deleted = kept;
        unrestatable.values().for_each(|mentions| self.forget_gone(mentions));
        self.restatable = Some((writer, restated.from));
    }

    /// Notes up to which sequence number a manifest holds everything; true if a file may have become unneeded.
    /// `u64::MAX`: all, as the database is deleted.
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

    /// Whether to look for unneeded files.
    pub fn is_untidy(&self) -> bool {
        self.untidy
    }

    /// The files that no database needs, but for `current`.
    pub fn unneeded(&mut self, current: Option<(u64, u64)>) -> Unneeded {
        self.untidy = false;
        let unsettled = |file: &(u64, u64), mentions: &Mentions| {
            let is_open = |(database, last)| self.floors.get(database).is_none_or(|floor| floor < last);
            !self.restated.contains(file) && mentions.last.iter().any(is_open)
        };
        let kept: Vec<_> = self.files.iter().filter(|(file, mentions)| unsettled(file, mentions)).collect();
        let needed = |file: &(u64, u64), mentions: &Mentions| {
            let tells = |other: &Mentions| mentions.gone.iter().any(|gone| other.last.contains_key(gone));
            unsettled(file, mentions)
                || (!self.restated.contains(file) && kept.iter().any(|(other, others)| *other != file && tells(others)))
        };
        let unneeded = self.files.iter().filter(|(file, mentions)| Some(**file) != current && !needed(file, mentions));
        let (silent, mut telling): (Vec<_>, Vec<_>) = unneeded.partition(|(_, mentions)| mentions.gone.is_empty());
        let mut unneeded =
            Unneeded { silent: silent.into_iter().map(|(file, _)| *file).collect(), telling: Vec::new() };
        while !telling.is_empty() {
            let is_last = |mentions: &Mentions| {
                let mentioned = |gone| telling.iter().any(|(_, other)| other.last.contains_key(gone));
                !mentions.gone.iter().any(mentioned)
            };
            let next = telling.iter().position(|(_, mentions)| is_last(mentions)).unwrap_or(0);
            unneeded.telling.push(*telling.remove(next).0);
        }
        unneeded
    }

    pub fn removed(&mut self, writer: u64, number: u64) {
        self.restated.remove(&(writer, number));
        let mentions = self.files.remove(&(writer, number));
        let is_restatable = self.restatable.is_some_and(|(of, from)| of == writer && number >= from);
        match mentions {
            Some(mentions) if is_restatable => drop(self.deleted.insert((writer, number), mentions)),
            Some(mentions) => self.forget_gone(&mentions),
            None => {}
        }
    }

    /// Forgets databases of which the file has said that they are gone, and that no other file mentions. Nothing is
    /// written of them after that was said.
    fn forget_gone(&mut self, removed: &Mentions) {
        for database in &removed.gone {
            let is_mentioned =
                |mentions: &Mentions| mentions.last.contains_key(database) || mentions.gone.contains(database);
            let is_gone = self.floors.get(database) == Some(&u64::MAX);
            if is_gone && !self.files.values().chain(self.deleted.values()).any(is_mentioned) {
                self.floors.remove(database);
            }
        }
    }

    /// The files that mention writes of a database beyond `floor`, in the order of their numbers. What a file restates is left out.
    pub fn mentioning(&self, database: &Identity, floor: u64) -> Vec<(u64, u64)> {
        let mentions = |mentions: &Mentions| mentions.last.get(database).is_some_and(|last| *last > floor);
        let files = self.files.iter().filter(|(file, of)| !self.restated.contains(file) && mentions(of));
        files.map(|(file, _)| *file).collect()
    }

    /// The files that are kept for this database.
    pub fn kept_for(&self, database: &Identity) -> Vec<(u64, u64)> {
        self.mentioning(database, self.floors.get(database).copied().unwrap_or(0))
    }

    /// Whether a file is kept for this database.
    pub fn is_kept_for(&self, database: &Identity) -> bool {
        let floor = self.floors.get(database).copied().unwrap_or(0);
        self.files.values().any(|mentions| mentions.last.get(database).is_some_and(|last| *last > floor))
    }

    #[cfg(test)]
    pub fn floors(&self) -> usize {
        self.floors.len()
    }

    /// Whether a file exists, as far as is known.
    pub fn has(&self, writer: u64, number: u64) -> bool {
        self.files.contains_key(&(writer, number))
    }

    /// The numbers of a writer's files.
    pub fn of(&self, writer: u64) -> Vec<u64> {
        self.files.range((writer, 0)..=(writer, u64::MAX)).map(|((_, number), _)| *number).collect()
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

    fn unneeded(ledger: &mut Ledger, current: Option<(u64, u64)>) -> Vec<(u64, u64)> {
        ledger.unneeded(current).steps().flatten().copied().collect()
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
        assert_eq!(unneeded(&mut ledger, None), [(1, 1)]);
        ledger.removed(1, 1);
        assert!(!ledger.is_untidy());
        ledger.settled(&a, 7);
        assert_eq!(unneeded(&mut ledger, None), []);
        ledger.settled(&b, 9);
        assert_eq!(unneeded(&mut ledger, Some((2, 1))), []);
        ledger.settled(&a, 6);
        assert_eq!(unneeded(&mut ledger, Some((2, 2))), [(2, 1)]);
        ledger.settled(&a, u64::MAX);
        assert_eq!(unneeded(&mut ledger, None), [(2, 1), (2, 2)]);
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
        assert_eq!(unneeded(&mut ledger, None), []);
        ledger.settled(&b, 5);
        assert_eq!(unneeded(&mut ledger, None), [(1, 1), (1, 2)]);
        ledger.mention(2, 1, &a, 5);
        assert_eq!(unneeded(&mut ledger, None), [(1, 1), (2, 1), (1, 2)], "a crash may come after each");
        ledger.gone(2, 1, &b);
        assert_eq!(unneeded(&mut ledger, None), [(1, 1), (2, 1), (1, 2)]);
    }

    #[test]
    fn a_file_that_is_restated_is_needed_no_more() {
        let (a, b) = (identity("a"), identity("b"));
        let mut ledger = Ledger::default();
        ledger.mention(1, 1, &a, 5);
        ledger.gone(1, 2, &b);
        ledger.mention(1, 2, &a, 6);
        ledger.mention(1, 3, &b, 7);
        ledger.restated(1, Restated { numbers: vec![1, 2, 9], from: 4 }, 4);
        assert!(ledger.is_untidy());
        assert_eq!(unneeded(&mut ledger, Some((1, 4))), [(1, 1), (1, 2)]);
        for number in [1, 2] {
            ledger.removed(1, number);
        }
        // The entries that the last one restates keep it: a write of `a`, and the deletion of `b`.
        assert_eq!(unneeded(&mut ledger, None), []);
        ledger.settled(&a, 6);
        assert_eq!(unneeded(&mut ledger, None), []);
        ledger.settled(&b, u64::MAX);
        assert_eq!(unneeded(&mut ledger, None), [(1, 3), (1, 4)]);
    }

    #[test]
    fn a_restated_file_may_have_been_deleted() {
        let (a, b) = (identity("a"), identity("b"));
        let mut ledger = Ledger::default();
        ledger.restated(1, Restated { numbers: vec![], from: 1 }, 1);
        ledger.mention(1, 1, &a, 5);
        ledger.settled(&a, 5);
        ledger.mention(1, 2, &b, 1);
        assert_eq!(unneeded(&mut ledger, None), [(1, 1)]);
        ledger.removed(1, 1);
        ledger.restated(1, Restated { numbers: vec![1, 2], from: 3 }, 3);
        ledger.removed(1, 2);
        // The write of `a` is in the third file. If `a` is deleted, its deletion is kept as long as the file exists.
        ledger.settled(&a, u64::MAX);
        ledger.gone(1, 4, &a);
        assert_eq!(unneeded(&mut ledger, None), []);
        ledger.settled(&b, 1);
        assert_eq!(unneeded(&mut ledger, None), [(1, 3), (1, 4)]);
        ledger.removed(1, 3);
        ledger.restated(1, Restated { numbers: vec![], from: 5 }, 5);
        assert!(ledger.deleted.is_empty());
    }
}
