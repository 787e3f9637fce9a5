//! The records in memory: all that is there of a database that sleeps.
//!
//! Databases that are deleted and can still be brought back have a record too. Only what asks for them finds it, except that
//! their tokens are counted: a server does not open its doors because its last database with tokens was deleted.
//!
//! A record stays in its encoded form. The set is in the order of names, so that the branches of a database, whose names
//! begin with its own, are neighbours.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use dormouse_storage::directory::record::name_in;
use dormouse_storage::directory::{DatabaseRecord, Deletion, DirectoryChange};

#[derive(Debug, Default)]
pub struct KnownDatabases {
    records: BTreeSet<Packed>,
    /// Those of them that are deleted, and may be brought back.
    deleted: BTreeMap<Box<str>, Deletion>,
    /// Those that will be deleted: when, and their names.
    expiring: BTreeSet<(u64, Box<str>)>,
    /// Branches of version 0.1.0, whose names do not tell their owners.
    flat: BTreeSet<Box<str>>,
    /// Databases that have triggers.
    triggered: BTreeSet<Box<str>>,
    /// Databases that strangers have made and no operator has claimed.
    unclaimed: usize,
    tokens: usize,
    /// Tokens that expire.
    timed_tokens: usize,
}

/// An encoded record, ordered by its name.
#[derive(Debug)]
struct Packed(Box<[u8]>);

impl Packed {
    fn name(&self) -> &str {
        name_in(&self.0)
    }

    fn record(&self) -> Option<DatabaseRecord> {
        // It was decoded before it came here.
        DatabaseRecord::decode(&self.0).ok()
    }
}

impl Borrow<str> for Packed {
    fn borrow(&self) -> &str {
        self.name()
    }
}

impl PartialEq for Packed {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Packed {}

impl PartialOrd for Packed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Packed {
    fn cmp(&self, other: &Self) -> Ordering {
        self.name().cmp(other.name())
    }
}

impl KnownDatabases {
    pub fn apply(&mut self, change: DirectoryChange) {
        let before = self.records.take(change.name());
        if let Some(before) = before.and_then(|before| before.record()) {
            self.tally(&before, false);
        }
        if let DirectoryChange::Put(record) = change {
            let record = Packed(record);
            if let Some(record) = record.record() {
                self.tally(&record, true);
            }
            self.records.insert(record);
        }
    }

    /// Replaces all records by those that the changes lead to. Returns the names that differ.
    pub fn replace(&mut self, changes: Vec<DirectoryChange>) -> BTreeSet<Box<str>> {
        let mut next: BTreeMap<Box<str>, DirectoryChange> =
            self.records.iter().map(|record| record.name().into()).map(removal).collect();
        next.extend(changes.into_iter().map(|change| (change.name().into(), change)));
        let mut names = BTreeSet::new();
        for (name, change) in next {
            let present = self.records.get(&*name).map(|record| &record.0);
            let is_same = match &change {
                DirectoryChange::Put(record) => present == Some(record),
                DirectoryChange::Remove(_) => present.is_none(),
            };
            if !is_same {
                self.apply(change);
                names.insert(name);
            }
        }
        names
    }

    fn tally(&mut self, record: &DatabaseRecord, comes: bool) {
        let timed = record.tokens.iter().filter(|token| token.expires_ms.is_some()).count();
        let add = |sum: &mut usize, more: usize| {
            *sum = if comes { *sum + more } else { sum.saturating_sub(more) };
        };
        add(&mut self.tokens, record.tokens.len());
        add(&mut self.timed_tokens, timed);
        if let Some(deletion) = record.deleted {
            match comes {
                true => self.deleted.insert(record.name.clone(), deletion),
                false => self.deleted.remove(&record.name),
            };
            return;
        }
        add(&mut self.unclaimed, usize::from(record.is_unclaimed));
        if record.owner.is_some() {
            match comes {
                true => self.flat.insert(record.name.clone()),
                false => self.flat.remove(&record.name),
            };
        }
        if record.has_triggers {
            match comes {
                true => self.triggered.insert(record.name.clone()),
                false => self.triggered.remove(&record.name),
            };
        }
        if let Some(expires_ms) = record.expires_ms {
            let at = (expires_ms, record.name.clone());
            if comes {
                self.expiring.insert(at);
            } else {
                self.expiring.remove(&at);
            }
        }
    }

    pub fn find(&self, name: &str) -> Option<DatabaseRecord> {
        self.held(name).filter(|record| record.deleted.is_none())
    }

    pub fn has(&self, name: &str) -> bool {
        self.holds(name) && !self.deleted.contains_key(name)
    }

    /// The record of a database, deleted or not.
    pub fn held(&self, name: &str) -> Option<DatabaseRecord> {
        self.records.get(name).and_then(Packed::record)
    }

    /// Whether a database has this name, deleted or not.
    pub fn holds(&self, name: &str) -> bool {
        self.records.contains(name)
    }

    /// The record of a deleted database.
    pub fn deleted(&self, name: &str) -> Option<DatabaseRecord> {
        self.held(name).filter(|record| record.deleted.is_some())
    }

    /// The records of all deleted databases, in the order of names.
    pub fn all_deleted(&self) -> impl Iterator<Item = DatabaseRecord> {
        self.deleted.keys().filter_map(move |name| self.held(name))
    }

    /// The names of some deleted databases that can be brought back no more.
    pub fn ended(&self, now_ms: u64, count: usize) -> Vec<Box<str>> {
        let over = self.deleted.iter().filter(|(_, deletion)| deletion.until_ms <= now_ms);
        over.take(count).map(|(name, _)| name.clone()).collect()
    }

    /// Number of databases that are not deleted.
    pub fn count(&self) -> usize {
        self.records.len() - self.deleted.len()
    }

    pub fn tokens(&self) -> usize {
        self.tokens
    }

    pub fn timed_tokens(&self) -> usize {
        self.timed_tokens
    }

    pub fn unclaimed(&self) -> usize {
        self.unclaimed
    }

    pub fn flat_branches(&self) -> impl Iterator<Item = Box<str>> {
        self.flat.iter().cloned()
    }

    pub fn triggered(&self) -> impl Iterator<Item = Box<str>> {
        self.triggered.iter().cloned()
    }

    /// All encoded records, in the order of names.
    pub fn encoded(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.records.iter().map(|record| &*record.0)
    }

    /// The records after the name `after` whose names begin with `prefix`, in order.
    pub fn after(&self, after: &str, prefix: &str) -> impl Iterator<Item = DatabaseRecord> {
        let from = if after < prefix { Bound::Included(prefix) } else { Bound::Excluded(after) };
        let found = self.records.range::<str, _>((from, Bound::Unbounded));
        let prefix = prefix.to_owned();
        let found = found.take_while(move |record| record.name().starts_with(&prefix));
        found.filter(move |record| !self.deleted.contains_key(record.name())).filter_map(Packed::record)
    }

    /// The names of some databases whose time is over, the first that ended first.
    pub fn expired(&self, now_ms: u64, count: usize) -> Vec<Box<str>> {
        let over = self.expiring.iter().take_while(|(expires_ms, _)| *expires_ms <= now_ms);
        over.take(count).map(|(_, name)| name.clone()).collect()
    }
}

fn removal(name: Box<str>) -> (Box<str>, DirectoryChange) {
    (name.clone(), DirectoryChange::Remove(name))
}

#[cfg(test)]
mod tests {
    use dormouse_storage::directory::{TokenRecord, TokenScope};

    use super::*;

    fn record(name: &str, expires_ms: Option<u64>, tokens: u32) -> DatabaseRecord {
        let token = |id| TokenRecord {
            id,
            hash: [0; 32],
            created_ms: 0,
            expires_ms: (id % 2 == 0).then_some(5),
            scope: TokenScope::ReadWrite,
            prefix: Box::default(),
        };
        let tokens: Vec<TokenRecord> = (1..=tokens).map(token).collect();
        DatabaseRecord { expires_ms, next_token: 100, tokens, ..DatabaseRecord::new(name, 1) }
    }

    #[test]
    fn names_are_in_order_and_branches_are_neighbours() {
        let mut known = KnownDatabases::default();
        for name in ["shop.b", "shop", "shop-2", "a", "shop.a", "zoo"] {
            known.apply(DirectoryChange::put(&record(name, None, 1)));
        }
        let names = |after: &str, prefix: &str| -> Vec<String> {
            known.after(after, prefix).map(|record| record.name.into()).collect()
        };
        assert_eq!(names("", ""), ["a", "shop", "shop-2", "shop.a", "shop.b", "zoo"]);
        assert_eq!(names("shop", ""), ["shop-2", "shop.a", "shop.b", "zoo"]);
        assert_eq!(names("", "shop."), ["shop.a", "shop.b"]);
        assert_eq!(names("shop.a", "shop."), ["shop.b"]);
        assert_eq!(names("zoo", ""), [""; 0]);
        assert!(known.has("shop.a") && !known.has("shop.") && known.find("sho").is_none());
    }

    #[test]
    fn a_deleted_database_is_found_only_as_such() {
        let mut known = KnownDatabases::default();
        let deleted = Some(Deletion { at_ms: 10, until_ms: 20 });
        let gone = DatabaseRecord { deleted, is_unclaimed: true, ..record("shop", Some(50), 2) };
        known.apply(DirectoryChange::put(&record("shop", Some(50), 2)));
        known.apply(DirectoryChange::put(&record("shop.a", None, 0)));
        known.apply(DirectoryChange::put(&gone));
        assert!(known.find("shop").is_none() && !known.has("shop") && known.holds("shop"));
        assert_eq!(known.after("", "").map(|record| record.name).collect::<Vec<_>>(), ["shop.a".into()]);
        assert_eq!((known.count(), known.encoded().len(), known.tokens(), known.unclaimed()), (1, 2, 2, 0));
        assert!(known.expired(99, 9).is_empty());
        assert_eq!((known.deleted("shop"), known.deleted("shop.a")), (Some(gone), None));
        assert_eq!((known.ended(19, 9), known.ended(20, 9)), (vec![], vec!["shop".into()]));
        known.apply(DirectoryChange::put(&record("shop", Some(50), 2)));
        assert!(known.has("shop") && known.ended(99, 9).is_empty() && known.all_deleted().next().is_none());
        assert_eq!((known.count(), known.tokens(), known.expired(99, 9)), (2, 2, vec!["shop".into()]));
    }

    #[test]
    fn counts_follow_changes() {
        let mut known = KnownDatabases::default();
        known.apply(DirectoryChange::put(&record("a", Some(50), 3)));
        known.apply(DirectoryChange::put(&record("b", Some(40), 2)));
        assert_eq!((known.count(), known.tokens(), known.timed_tokens()), (2, 5, 2));
        assert_eq!(known.expired(45, 9), ["b".into()]);
        assert_eq!(known.expired(50, 9), ["b".into(), "a".into()]);
        assert_eq!(known.expired(50, 1), ["b".into()]);
        known.apply(DirectoryChange::put(&record("b", None, 1)));
        assert_eq!((known.tokens(), known.timed_tokens(), known.expired(99, 9)), (4, 1, vec!["a".into()]));
        known.apply(DirectoryChange::Remove("a".into()));
        known.apply(DirectoryChange::Remove("unknown".into()));
        assert_eq!((known.count(), known.tokens(), known.timed_tokens()), (1, 1, 0));
        assert!(known.expired(99, 9).is_empty());
    }

    #[test]
    fn a_replacement_tells_what_differs() {
        let mut known = KnownDatabases::default();
        for name in ["a", "b", "c"] {
            known.apply(DirectoryChange::put(&record(name, None, 1)));
        }
        let put = |name, tokens| DirectoryChange::put(&record(name, None, tokens));
        let changes = vec![put("a", 1), put("b", 3), put("d", 1), put("e", 1), DirectoryChange::Remove("e".into())];
        let differ: Vec<Box<str>> = known.replace(changes).into_iter().collect();
        assert_eq!(differ, ["b".into(), "c".into(), "d".into()]);
        assert_eq!((known.count(), known.tokens(), known.has("c")), (3, 5, false));
    }
}
