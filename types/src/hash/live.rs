//! A hash as readers see it: fields that have expired are hidden, though they may still be there.

use super::{Hash, heap};
use crate::item::Item;

/// Draws before a field is found by its rank.
const TRIES: usize = 16;

/// A hash at one moment. Nothing is looked at twice unless a field may have expired.
#[derive(Clone, Copy, Debug)]
pub struct Live<'a> {
    hash: &'a Hash,
    /// Fields whose expiry is not after this moment are hidden; 0 if there are none.
    moment_ms: u64,
}

impl Hash {
    /// The hash without the fields that have expired at `now_ms`.
    pub fn live(&self, now_ms: u64) -> Live<'_> {
        Live { hash: self, moment_ms: if self.soonest() <= now_ms { now_ms } else { 0 } }
    }
}

impl<'a> Live<'a> {
    /// Whether a field may have expired.
    pub fn may_hide(self) -> bool {
        self.moment_ms > 0
    }

    pub fn is_packed(self) -> bool {
        self.hash.is_packed()
    }

    fn shows(self, expiry: Option<u64>) -> bool {
        expiry.is_none_or(|expiry| expiry > self.moment_ms)
    }

    pub fn get(self, field: &[u8]) -> Option<Item<'a>> {
        if !self.may_hide() {
            return self.hash.get(field);
        }
        self.entry(field).map(|(value, _)| value)
    }

    /// The value and the expiry of a field.
    pub fn entry(self, field: &[u8]) -> Option<(Item<'a>, Option<u64>)> {
        self.hash.entry(field).filter(|(_, expiry)| self.shows(*expiry))
    }

    pub fn contains(self, field: &[u8]) -> bool {
        self.get(field).is_some()
    }

    /// The number of fields. They are counted if some may have expired.
    pub fn len(self) -> usize {
        if !self.may_hide() {
            return self.hash.len();
        }
        let mut len = 0;
        self.for_each(|_, _| len += 1);
        len
    }

    pub fn is_empty(self) -> bool {
        if self.may_hide() { self.iter().next().is_none() } else { self.hash.is_empty() }
    }

    /// Fields and values, in no particular order.
    pub fn iter(self) -> impl Iterator<Item = (Item<'a>, Item<'a>)> {
        let (all, some) = match self.may_hide() {
            false => (Some(self.hash.iter()), None),
            true => (None, Some(self.hash.entries())),
        };
        let shown = some.into_iter().flatten().filter(move |(_, _, expiry)| self.shows(*expiry));
        all.into_iter().flatten().chain(shown.map(|(field, value, _)| (field, value)))
    }

    /// Visits all fields and values.
    pub fn for_each(self, mut visit: impl FnMut(Item<'_>, Item<'_>)) {
        self.hash.for_each(|field, value, expiry| {
            if self.shows(expiry) {
                visit(field, value);
            }
        });
    }

    /// As [`Hash::scan`].
    pub fn scan(self, cursor: u64, count: usize, mut visit: impl FnMut(Item<'_>, Item<'_>)) -> u64 {
        self.hash.scan(cursor, count, |field, value, expiry| {
            if self.shows(expiry) {
                visit(field, value);
            }
        })
    }

    /// A field at random, each as likely as any other.
    pub fn random(self, random: &mut impl FnMut() -> u64) -> Option<(Item<'a>, Item<'a>)> {
        if !self.may_hide() {
            return self.hash.random(random).map(|(field, value, _)| (field, value));
        }
        for _ in 0..TRIES {
            let (field, value, expiry) = self.hash.random(random)?;
            if self.shows(expiry) {
                return Some((field, value));
            }
        }
        self.iter().nth(heap::below(random(), self.len()))
    }
}
