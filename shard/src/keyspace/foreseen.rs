//! Keys that are known before their commands run, so that memory can fetch their data meanwhile.
//!
//! A look-up in a large table misses the cache twice: for its bucket, then for its record. So the caller that parses a
//! window of requests passes all of their keys here first:
//!
//! 1. [`Keyspace::foresee`] computes the position of each key, once.
//! 2. Before a command runs, [`Keyspace::reach`] asks for the buckets of the next keys, for the records of those whose
//!    buckets have been asked for a while ago, and, if the last command has read a collection or a long string, for
//!    what these records own. So many are under way at any time, and no more than the near cache holds, however many keys the window has.
//! 3. The command finds the positions again by the addresses of its keys.

use std::ops::Range;

use dormouse_storage::shown::RECEIPTS;
use dormouse_types::segment::Placement;
use smallvec::SmallVec;

use super::{Index, Keyspace};

/// Keys whose records are on their way: about as many cache misses as a core has under way at once.
const AHEAD: usize = 16;
/// The same of keys whose records have come.
const AHEAD_OWNED: usize = 8;
/// Keys of a command within another that are foreseen.
const CALL_KEYS_MAX: usize = 32;
/// Below this many keys, prefetching gains nothing.
const PREFETCHED_MIN: usize = 3;

/// The keys of a window of requests, in order. Kept by the caller for its allocation.
#[derive(Debug, Default)]
pub struct Foreseen {
    keys: Vec<Known>,
    /// Those of the command that runs.
    current: Range<usize>,
    /// The one that it asks for next, most likely.
    next: usize,
    /// Their buckets have been prefetched, and their records.
    buckets: usize,
    records: usize,
    owned: usize,
    /// Whether the last command has read a collection or a long string, which are outside their records. The next ones, even
    /// of another batch, probably do so too.
    pub(super) reads_objects: bool,
}

/// The state of a command while another runs within it.
#[derive(Debug)]
pub(crate) struct Outer {
    keys: usize,
    current: Range<usize>,
    next: usize,
}

/// A key, recognised by its address, and its position.
#[derive(Debug, Clone, Copy)]
struct Known {
    address: usize,
    len: u32,
    /// It is the key of a receipt.
    is_receipt: bool,
    position: u64,
    /// The number of its place when its bucket was asked for.
    place: usize,
}

impl Known {
    /// The index that it is looked up in, where commands see `selected`.
    #[inline]
    fn index(&self, selected: u8) -> u8 {
        if self.is_receipt { RECEIPTS as u8 } else { selected }
    }

    #[inline]
    fn is(&self, key: &[u8]) -> bool {
        self.address == key.as_ptr().addr() && self.len as usize == key.len()
    }
}

impl Foreseen {
    fn clear(&mut self) {
        self.keys.clear();
        (self.current, self.next, self.buckets, self.records, self.owned) = (0..0, 0, 0, 0, 0);
    }

    /// The position of `key`, if it is one of the command that runs.
    #[inline]
    pub(super) fn position(&self, key: &[u8]) -> Option<u64> {
        let next = self.keys.get(self.next).filter(|known| known.is(key));
        let known = if next.is_none() && self.current.len() > 1 { self.search(key) } else { next };
        known.map(|known| known.position)
    }

    fn search(&self, key: &[u8]) -> Option<&Known> {
        self.keys[self.current.clone()].iter().find(|known| known.is(key))
    }
}

impl Keyspace<'_> {
    /// Takes over the allocation of an earlier window.
    pub fn set_foreseen(&mut self, mut foreseen: Foreseen) {
        foreseen.clear();
        self.foreseen = foreseen;
    }

    pub fn take_foreseen(&mut self) -> Foreseen {
        std::mem::take(&mut self.foreseen)
    }

    /// Forgets the last window.
    #[inline]
    pub fn begin_window(&mut self) {
        self.foreseen.clear();
    }

    /// Says that a command runs within the one whose turn it is, and foresees its keys. Returns what that one had.
    pub(crate) fn enter_call(&mut self, each_key: impl FnOnce(&mut dyn FnMut(&[u8]))) -> Outer {
        let Foreseen { keys, current, next, .. } = &self.foreseen;
        let outer = Outer { keys: keys.len(), current: current.clone(), next: *next };
        each_key(&mut |key| {
            if self.foreseen.keys.len() < outer.keys + CALL_KEYS_MAX {
                self.foresee(key);
            }
        });
        self.foreseen.current = outer.keys..self.foreseen.keys.len();
        self.foreseen.next = outer.keys;
        outer
    }

    /// The command within has run.
    pub(crate) fn leave_call(&mut self, outer: Outer) {
        self.foreseen.keys.truncate(outer.keys);
        (self.foreseen.current, self.foreseen.next) = (outer.current, outer.next);
    }

    /// Adds a key of the window, which must stay where it is until the window ends: it is recognised by its address.
    /// Returns the number of keys so far.
    #[inline]
    pub fn foresee(&mut self, key: &[u8]) -> usize {
        self.foresee_in(key, false)
    }

    /// The same of the key of a receipt.
    pub fn foresee_receipt(&mut self, key: &[u8]) -> usize {
        self.foresee_in(key, true)
    }

    #[inline]
    fn foresee_in(&mut self, key: &[u8], is_receipt: bool) -> usize {
        let position = self.shared.placement.position(key);
        // A request has less than 4 GiB.
        let (address, len) = (key.as_ptr().addr(), key.len() as u32);
        self.foreseen.keys.push(Known { address, len, is_receipt, position, place: 0 });
        self.foreseen.keys.len()
    }

    /// Says that the next command has the keys numbered `current`, and asks for the data of the keys behind them.
    #[inline]
    pub fn reach(&mut self, current: Range<usize>) {
        let (len, end) = (self.foreseen.keys.len(), current.end);
        self.foreseen.next = current.start;
        self.foreseen.current = current;
        if len < PREFETCHED_MIN {
            return;
        }
        if self.foreseen.records < len {
            self.prefetch_up_to(len.min(end + 2 * AHEAD), len.min(end + AHEAD));
        }
        if self.foreseen.reads_objects && self.foreseen.owned < len {
            let (from, up_to) = (self.foreseen.owned.max(end.saturating_sub(1)), len.min(end + AHEAD_OWNED));
            self.each_foreseen(from..up_to, |index, known| index.prefetch_owned(known.place, known.position));
            self.foreseen.owned = up_to.max(from);
        }
    }

    /// Notes whether the command that runs reads a collection or a long string.
    #[inline]
    pub(super) fn reads_objects(&mut self, it_does: bool) {
        self.foreseen.reads_objects = it_does;
    }

    fn prefetch_up_to(&mut self, buckets: usize, records: usize) {
        let Foreseen { buckets: from_bucket, records: from_record, .. } = self.foreseen;
        self.prefetch(from_bucket..buckets);
        self.prefetch_records(from_record..records);
        self.foreseen.buckets = from_bucket.max(buckets);
        self.foreseen.records = from_record.max(records);
    }

    /// Asks for the buckets that look-ups of these keys will read.
    fn prefetch(&mut self, keys: Range<usize>) {
        let mut foreseen = std::mem::take(&mut self.foreseen.keys);
        for known in foreseen.get_mut(keys).unwrap_or_default() {
            if let Some(index) = self.shards[self.shard_at(known.position)].index(known.index(self.select)) {
                known.place = index.prefetch(known.position);
            }
        }
        self.foreseen.keys = foreseen;
    }

    /// Asks for the records that look-ups of these keys will compare with, once their buckets have come.
    fn prefetch_records(&self, keys: Range<usize>) {
        self.each_foreseen(keys, |index, known| index.prefetch_record(known.place, known.position));
    }

    #[inline]
    fn each_foreseen(&self, keys: Range<usize>, each: impl Fn(&Index, &Known)) {
        for known in self.foreseen.keys.get(keys).unwrap_or_default() {
            if let Some(index) = self.shards[self.shard_at(known.position)].index(known.index(self.select)) {
                each(index, known);
            }
        }
    }

    /// Calls `each` with every key and its companion, in order: first those that were foreseen, the others in windows
    /// of their own.
    pub fn for_each_key<'k, T>(
        &mut self,
        mut keys: impl Iterator<Item = (&'k [u8], T)>,
        mut each: impl FnMut(&mut Self, &'k [u8], T),
    ) {
        let outer = self.foreseen.current.clone();
        for at in outer.clone() {
            let Some((key, more)) = keys.next() else { break };
            self.foreseen.next = at;
            each(self, key, more);
        }
        let first = self.foreseen.keys.len();
        loop {
            let window: SmallVec<[(&[u8], T); AHEAD]> = keys.by_ref().take(AHEAD).collect();
            if window.is_empty() {
                break;
            }
            for (key, _) in &window {
                self.foresee(key);
            }
            let window_keys = first..self.foreseen.keys.len();
            self.prefetch(window_keys.clone());
            self.prefetch_records(window_keys);
            for (at, (key, more)) in window.into_iter().enumerate() {
                self.foreseen.next = first + at;
                each(self, key, more);
            }
            self.foreseen.keys.truncate(first);
        }
        self.foreseen.next = outer.start;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::Bench;
    use crate::keyspace::Expiry;

    /// Places split while keys are foreseen, and a command has more keys than are foreseen.
    #[test]
    fn a_key_has_its_position_whether_it_was_foreseen_or_not() {
        let mut bench = Bench::new();
        let mut db = Keyspace::new([&mut bench.contents], &bench.shared, 0, 1, 1);
        let keys: Vec<String> = (0..20_000).map(|n| format!("key:{n}")).collect();
        let placement = bench.shared.placement;
        for window in keys.chunks(100) {
            db.begin_window();
            window[..60].iter().for_each(|key| _ = db.foresee(key.as_bytes()));
            db.reach(0..0);
            db.reach(0..1);
            assert_eq!(db.position(window[0].as_bytes()), placement.position(window[0].as_bytes()));
            db.reach(1..40);
            let mut seen = 0;
            db.for_each_key(window[1..].iter().map(|key| (key.as_bytes(), ())), |db, key, ()| {
                assert_eq!(key, window[1 + seen].as_bytes());
                assert_eq!(db.position(key), placement.position(key));
                db.set_string(key, b"value", Expiry::None);
                seen += 1;
            });
            assert_eq!(seen, 99);
            db.reach(40..60);
            for key in window {
                assert_eq!(db.position(key.as_bytes()), placement.position(key.as_bytes()), "{key}");
            }
        }
        let found = keys.iter().filter(|key| db.contains(key.as_bytes())).count();
        assert_eq!(found, keys.len() / 100 * 99);
    }
}
