//! Segments: small tables in position order, and the directory that finds them.
//!
//! A [`Segment`] holds the entries of one range of positions in up to 112 [buckets](bucket). The home of an entry is the
//! bucket at the same fraction of the buckets as its prefix is of the range, so **bucket order is position order**: a
//! scan's cursor is a position, and means the same whatever has been resized, split or merged since.
//!
//! 1. An entry is in its home bucket, or in the next one, or, where those two are full, in the segment's stash.
//! 2. A bucket's own entries fill it from slot 0 up, those from the bucket before it from slot 13 down. So, knowing how
//!    many the bucket before has sent on (`in_next`), a bucket's own entries are known without computing any position.
//! 3. When home and next are full, the next bucket sends one of its own on, and so on, at most [`HOPS`] times. This touches
//!    no entry, and lets a segment fill to nine tenths before the stash is needed.
//! 4. A bucket that has sent entries on is full: when it gets a free slot, one comes back, and so on down the line.
//! 5. A segment that is full moves to the next larger [number of buckets](steps), which computes every position again
//!    from the keys; a segment that is full at the largest wants to be split into its halves. One whose stash is long
//!    though it has room, because its entries crowd at few positions, wants to be split too: that divides the crowd.
//!    Neither touches more than one segment's entries.
//!
//! A [`Directory`] finds the segment of a position; a [`Table`] is a directory of segments that splits and merges them by
//! itself, and counts its bytes.

mod bucket;
mod capture;
mod directory;
mod placement;
mod range;
mod stash;
mod steps;
mod table;
#[cfg(test)]
mod tests;

use std::{mem, ops::Range};

use fastrand::Rng;

use crate::entry::{Entry, prefetch, size_class};

use self::{
    bucket::{Bucket, WIDTH, fingerprint},
    stash::Stash,
};

pub use self::{
    capture::{Captured, WriteEntry},
    directory::Directory,
    placement::{HashPlacement, Placement, SLOT_BITS, SLOTS, SlotPlacement, slot_of},
    range::{PREFIX_BITS, PREFIX_END, Range53, Ranged, prefix53},
    table::Table,
};

/// How far room is looked for beyond the next bucket.
const HOPS: usize = 6;

/// A stash longer than this means that a split would help.
const STASH_MAX: usize = 2 * WIDTH;

/// The entries of one range of positions.
pub struct Segment<E> {
    buckets: Box<[Bucket<E>]>,
    stash: Option<Box<Stash<E>>>,
    start: u64,
    len: u32,
    bits: u8,
}

/// The location of an entry.
enum Place {
    Home { bucket: usize, slot: usize },
    Next { home: usize, slot: usize },
    Stash { home: usize, index: usize },
}

impl<E> Ranged for Segment<E> {
    #[inline]
    fn range(&self) -> Range53 {
        Range53 { start: self.start, bits: self.bits }
    }
}

impl<E: Entry> Segment<E> {
    /// An empty segment allocates nothing.
    pub fn new(range: Range53) -> Self {
        Self::with_buckets(range, 0)
    }

    /// Room for about `entries`, so that filling it does not move them.
    pub fn with_capacity(range: Range53, entries: usize) -> Self {
        Self::with_buckets(range, steps::buckets_for(entries))
    }

    fn with_buckets(range: Range53, buckets: usize) -> Self {
        let buckets = (0..buckets).map(|_| Bucket::new()).collect();
        Self { buckets, stash: None, start: range.start, len: 0, bits: range.bits }
    }

    pub fn len(&self) -> usize {
        self.len as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes of buckets and stash; not those of the entries.
    pub fn heap_bytes(&self) -> usize {
        size_class(size_of_val(&*self.buckets)) + self.stash.as_ref().map_or(0, |stash| stash.heap_bytes())
    }

    /// The entry of a key; `position` is the key's.
    #[inline]
    pub fn get(&self, position: u64, key: &[u8]) -> Option<&E> {
        let place = self.find(position, key)?;
        Some(self.entry(&place))
    }

    #[inline]
    pub fn get_mut(&mut self, position: u64, key: &[u8]) -> Option<&mut E> {
        Some(match self.find(position, key)? {
            Place::Home { bucket, slot } => self.buckets[bucket].entry_mut(slot),
            Place::Next { home, slot } => self.buckets[home + 1].entry_mut(slot),
            Place::Stash { index, .. } => self.stash.as_mut().expect("found in the stash").entry_mut(index),
        })
    }

    /// Adds an entry whose key must not exist yet; `position` is its key's.
    pub fn insert<P: Placement>(&mut self, position: u64, entry: E, placement: &P) {
        if self.len() >= steps::room(self.buckets.len())
            && let Some(larger) = steps::after(self.buckets.len())
        {
            self.resize(larger, placement);
        }
        let Err(mut entry) = self.place(position, entry) else { return };
        // No room is nearby. A larger segment makes some, unless the entries crowd at few positions.
        while self.stash_len() >= self.buckets.len() / 8 && self.len() * 2 >= self.buckets.len() * WIDTH {
            let Some(larger) = steps::after(self.buckets.len()) else { break };
            self.resize(larger, placement);
            match self.place(position, entry) {
                Ok(()) => return,
                Err(it) => entry = it,
            }
        }
        self.put_in_stash(position, entry);
    }

    pub fn remove<P: Placement>(&mut self, position: u64, key: &[u8], placement: &P) -> Option<E> {
        let entry = match self.find(position, key)? {
            Place::Home { bucket, slot } => self.take_at(bucket, slot).0,
            Place::Next { home, slot } => self.take_at(home + 1, slot).0,
            Place::Stash { home, index } => {
                let stash = self.stash.as_mut().expect("found in the stash");
                let (_, entry) = stash.remove(index);
                if stash.is_empty() {
                    self.stash = None;
                }
                self.buckets[home].sub_in_stash();
                self.len -= 1;
                entry
            }
        };
        if let Some(smaller) = steps::shrunk(self.buckets.len(), self.len()) {
            self.resize(smaller, placement);
        }
        Some(entry)
    }

    /// Takes out every entry that `chosen` chooses, in one pass: nothing is looked up, and no position is computed unless
    /// the segment shrinks. `chosen` may be asked about an entry more than once.
    pub fn extract<P: Placement>(
        &mut self,
        placement: &P,
        mut chosen: impl FnMut(&E) -> bool,
        mut take: impl FnMut(E),
    ) {
        for index in (0..self.stash_len()).rev() {
            let stash = self.stash.as_mut().expect("it has entries");
            if chosen(stash.entry(index)) {
                let (_, entry) = stash.remove(index);
                let home = self.home(prefix53(placement.position(entry.key())));
                self.buckets[home].sub_in_stash();
                self.len -= 1;
                take(entry);
            }
        }
        if self.stash.as_ref().is_some_and(|stash| stash.is_empty()) {
            self.stash = None;
        }
        for bucket in 0..self.buckets.len() {
            self.buckets.get(bucket + 1).inspect(|later| later.prefetch_entries());
            let mut slot = 0;
            while slot < WIDTH {
                if self.buckets[bucket].occupied() >> slot & 1 == 0 || !chosen(self.buckets[bucket].entry(slot)) {
                    slot += 1;
                    continue;
                }
                // The entry that takes its slot is looked at next.
                let (entry, next) = self.take_at(bucket, slot);
                slot = next;
                take(entry);
            }
        }
        if let Some(smaller) = steps::shrunk(self.buckets.len(), self.len()) {
            self.resize(smaller, placement);
        }
    }

    /// Takes the entry at an occupied slot out and closes the gap. Returns the first slot of the bucket that has
    /// another entry now, or the slot itself.
    fn take_at(&mut self, bucket: usize, slot: usize) -> (E, usize) {
        let own = self.own_len(bucket);
        let is_own = slot < own;
        let last = if is_own { own - 1 } else { WIDTH - self.buckets[bucket - 1].in_next() };
        let (_, entry) = self.buckets[bucket].take(slot);
        self.fill(bucket, slot, last);
        if !is_own {
            self.buckets[bucket - 1].sub_in_next();
        }
        self.pull_back(bucket);
        self.len -= 1;
        // One that comes back from the next bucket goes after the own ones, before those from the bucket before.
        (entry, slot.min(own))
    }

    /// Whether the segment should be replaced by its halves. It goes on working if it is not, but slower and slower.
    #[inline]
    pub fn wants_split(&self) -> bool {
        let is_full = self.len() >= steps::room(steps::MAX);
        (is_full || self.stash_len() > STASH_MAX) && self.bits > 0
    }

    /// The segments of the lower and the upper half of the range.
    pub fn split<P: Placement>(mut self, placement: &P) -> (Self, Self) {
        let (low, high) = self.range().halves();
        let (lower, upper): (Vec<_>, Vec<_>) =
            self.take_all(placement).into_iter().partition(|&(position, _)| prefix53(position) < high.start);
        (Self::filled(low, lower), Self::filled(high, upper))
    }

    /// Whether two neighbours should be one, by their lengths: they are few together, and not so uneven that a crowd of
    /// entries would be brought together that had to be divided.
    pub fn should_merge(&self, next: &Self) -> bool {
        let (few, many) = (self.len.min(next.len) as usize, self.len.max(next.len) as usize);
        let sum = few + many;
        self.range().joined(next.range()).is_some()
            && (sum <= 2 * WIDTH || sum <= steps::room(steps::MAX) * 2 / 5 && sum <= few * 4)
    }

    /// The segment of both ranges, which must be the halves of one.
    pub fn merge<P: Placement>(mut self, mut next: Self, placement: &P) -> Self {
        let range = self.range().joined(next.range()).expect("only the halves of a range are merged");
        let mut entries = self.take_all(placement);
        entries.append(&mut next.take_all(placement));
        Self::filled(range, entries)
    }

    /// Every entry once. Entries are all over the memory, so those of the next bucket are asked for ahead.
    pub fn iter(&self) -> impl Iterator<Item = &E> {
        let after = |bucket: usize| self.buckets.get(bucket + 1);
        let entries = self.buckets.iter().enumerate().flat_map(move |(index, bucket)| {
            after(index).inspect(|next| next.prefetch_entries());
            bucket.iter()
        });
        entries.chain(self.stash.iter().flat_map(|stash| stash.iter()))
    }

    /// Visits the entries from the prefix `from` on that share its home bucket. Returns the prefix to go on from: the
    /// first of the next bucket, or the end of the range.
    ///
    /// # Panics
    /// If `from` is outside the range.
    pub fn scan<P: Placement>(&self, from: u64, placement: &P, visit: impl FnMut(&E)) -> u64 {
        self.scan_within(from..u64::MAX, placement, visit)
    }

    /// The same of the prefixes from `within.start` on that are in `within`.
    fn scan_within<P: Placement>(&self, within: Range<u64>, placement: &P, mut visit: impl FnMut(&E)) -> u64 {
        let from = within.start;
        assert!(self.range().contains(from), "a scan starts inside the range");
        if self.is_empty() {
            return self.range().end();
        }
        let home = self.home(from);
        // A cursor inside the bucket comes from a time when the buckets were others: what is before it has been visited.
        let next = self.first_prefix(home + 1);
        let is_whole = from == self.first_prefix(home) && next <= within.end;
        let mut visit_from = |entry: &E| {
            if is_whole || within.contains(&prefix53(placement.position(entry.key()))) {
                visit(entry);
            }
        };
        let bucket = &self.buckets[home];
        (0..self.own_len(home)).for_each(|slot| visit_from(bucket.entry(slot)));
        for slot in WIDTH - bucket.in_next()..WIDTH {
            visit_from(self.buckets[home + 1].entry(slot));
        }
        if bucket.may_be_stashed()
            && let Some(stash) = &self.stash
        {
            stash
                .iter()
                .filter(|entry| self.home(prefix53(placement.position(entry.key()))) == home)
                .for_each(&mut visit_from);
        }
        next
    }

    /// The number of entries in a part of the range. Only the positions of entries whose home is at an end of it are computed.
    pub fn len_within<P: Placement>(&self, within: Range53, placement: &P) -> usize {
        let (mut from, end) = (within.start.max(self.start), within.end().min(self.range().end()));
        let mut len = 0;
        while from < end && !self.is_empty() {
            let home = self.home(from);
            let next = self.first_prefix(home + 1);
            let bucket = &self.buckets[home];
            if from == self.first_prefix(home) && next <= end && !bucket.may_be_stashed() {
                len += self.own_len(home) + bucket.in_next();
                from = next;
            } else {
                from = self.scan_within(from..end, placement, |_| len += 1);
            }
        }
        len
    }

    /// An entry at random, each as likely as any other, if each `seed` is.
    pub fn random(&self, seed: u64) -> Option<&E> {
        const TRIES: usize = 16;
        if self.is_empty() {
            return None;
        }
        let slots = self.buckets.len() * WIDTH + self.stash_len();
        let mut random = Rng::with_seed(seed);
        for _ in 0..TRIES {
            let pick = fraction(random.u64(..), slots);
            match self.buckets.get(pick / WIDTH) {
                Some(bucket) if bucket.occupied() >> (pick % WIDTH) & 1 == 1 => {
                    return Some(bucket.entry(pick % WIDTH));
                }
                Some(_) => {}
                None => return self.stash.as_ref().map(|stash| stash.entry(pick - self.buckets.len() * WIDTH)),
            }
        }
        self.nth(fraction(random.u64(..), self.len()))
    }

    /// Entries in the order of buckets from a random one on, each once. Their order has nothing to do with their age, so the
    /// first few are as good as any few.
    pub fn from_random(&self, random: u64) -> impl Iterator<Item = &E> {
        let first = fraction(scramble(random), self.buckets.len().max(1)).min(self.buckets.len());
        let (before, after) = self.buckets.split_at(first);
        after.iter().chain(before).flat_map(Bucket::iter).chain(self.stash.iter().flat_map(|stash| stash.iter()))
    }

    /// The entry of this rank in the order of `iter`.
    pub fn nth(&self, rank: usize) -> Option<&E> {
        let mut left = rank;
        for bucket in &self.buckets {
            let len = bucket.len();
            if left < len {
                return bucket.iter().nth(left);
            }
            left -= len;
        }
        self.stash.as_ref().and_then(|stash| stash.iter().nth(left))
    }

    /// Asks for the bucket that a `get` with this position will read first.
    #[inline]
    pub fn prefetch(&self, position: u64) {
        if !self.buckets.is_empty() {
            Bucket::prefetch(&raw const self.buckets[self.home(prefix53(position))]);
        }
    }

    /// Asks for the entries that a `get` with this position will compare with, once their bucket has come.
    #[inline]
    pub fn prefetch_entry(&self, position: u64) {
        if !self.buckets.is_empty() {
            let home = self.home(prefix53(position));
            let fingerprint = fingerprint(position);
            self.buckets[home].prefetch_candidates(fingerprint);
            if self.buckets[home].in_next() > 0 {
                self.buckets[home + 1].prefetch_candidates(fingerprint);
            }
        }
    }

    /// Asks for the data that these entries own, once they have come.
    #[inline]
    pub fn prefetch_owned(&self, position: u64) {
        if !self.buckets.is_empty() {
            let home = self.home(prefix53(position));
            let fingerprint = fingerprint(position);
            self.buckets[home].prefetch_owned(fingerprint);
            if self.buckets[home].in_next() > 0 {
                self.buckets[home + 1].prefetch_owned(fingerprint);
            }
        }
    }

    /// The home bucket of a prefix.
    #[inline(always)]
    fn home(&self, prefix: u64) -> usize {
        debug_assert!(self.range().contains(prefix));
        ((prefix.wrapping_sub(self.start)).wrapping_mul(self.buckets.len() as u64) >> self.bits) as usize
    }

    /// The first prefix whose home is this bucket or a later one.
    fn first_prefix(&self, bucket: usize) -> u64 {
        self.start + ((bucket as u64) << self.bits).div_ceil(self.buckets.len() as u64)
    }

    fn stash_len(&self) -> usize {
        self.stash.as_ref().map_or(0, |stash| stash.len())
    }

    /// How many of the entries in this bucket have it as their home: they fill its first slots.
    fn own_len(&self, bucket: usize) -> usize {
        let foreign = if bucket == 0 { 0 } else { self.buckets[bucket - 1].in_next() };
        self.buckets[bucket].len() - foreign
    }

    #[inline(always)]
    fn find(&self, position: u64, key: &[u8]) -> Option<Place> {
        let home = self.home(prefix53(position));
        let bucket = self.buckets.get(home)?;
        let fingerprint = fingerprint(position);
        if let Some(slot) = bucket.find(fingerprint, key) {
            return Some(Place::Home { bucket: home, slot });
        }
        if bucket.in_next() > 0
            && let Some(slot) = self.buckets[home + 1].find(fingerprint, key)
        {
            return Some(Place::Next { home, slot });
        }
        if bucket.may_be_stashed()
            && let Some(stash) = &self.stash
            && let Some(index) = stash.find(fingerprint, key)
        {
            return Some(Place::Stash { home, index });
        }
        None
    }

    #[inline(always)]
    fn entry(&self, place: &Place) -> &E {
        match *place {
            Place::Home { bucket, slot } => self.buckets[bucket].entry(slot),
            Place::Next { home, slot } => self.buckets[home + 1].entry(slot),
            Place::Stash { index, .. } => self.stash.as_ref().expect("found in the stash").entry(index),
        }
    }

    /// Puts an entry into its home or the next bucket, or gives it back.
    fn place(&mut self, position: u64, entry: E) -> Result<(), E> {
        if self.buckets.is_empty() {
            return Err(entry);
        }
        let home = self.home(prefix53(position));
        if self.buckets[home].is_full() {
            if !self.make_room(home) {
                return Err(entry);
            }
            let slot = WIDTH - 1 - self.buckets[home].in_next();
            self.buckets[home + 1].put(slot, fingerprint(position), entry);
            self.buckets[home].add_in_next();
        } else {
            let slot = self.buckets[home].first_free();
            self.buckets[home].put(slot, fingerprint(position), entry);
        }
        self.len += 1;
        Ok(())
    }

    /// Makes a free slot in the bucket after `home`, by having it, and those after it, send one of their own on.
    fn make_room(&mut self, home: usize) -> bool {
        let end = self.buckets.len().min(home + 2 + HOPS);
        let mut free = home + 1;
        loop {
            match self.buckets[..end].get(free) {
                None => return false,
                Some(bucket) if !bucket.is_full() => break,
                // Full of what others have sent on: it has none to send.
                Some(_) if self.buckets[free - 1].in_next() == WIDTH => return false,
                Some(_) => free += 1,
            }
        }
        for sender in (home + 1..free).rev() {
            let slot = self.own_len(sender) - 1;
            let (fingerprint, entry) = self.buckets[sender].take(slot);
            let slot = WIDTH - 1 - self.buckets[sender].in_next();
            self.buckets[sender + 1].put(slot, fingerprint, entry);
            self.buckets[sender].add_in_next();
        }
        true
    }

    /// Closes the gap at `slot` with the last entry of the same kind (own or foreign), which is at `last`.
    fn fill(&mut self, bucket: usize, slot: usize, last: usize) {
        if slot != last {
            let (fingerprint, entry) = self.buckets[bucket].take(last);
            self.buckets[bucket].put(slot, fingerprint, entry);
        }
    }

    /// A slot of this bucket has become free: gets one back from the next bucket, and so on.
    fn pull_back(&mut self, mut bucket: usize) {
        while self.buckets[bucket].in_next() > 0 {
            let last = WIDTH - self.buckets[bucket].in_next();
            let (fingerprint, entry) = self.buckets[bucket + 1].take(last);
            let slot = self.buckets[bucket].first_free();
            self.buckets[bucket].put(slot, fingerprint, entry);
            self.buckets[bucket].sub_in_next();
            bucket += 1;
        }
    }

    fn put_in_stash(&mut self, position: u64, entry: E) {
        let home = self.home(prefix53(position));
        self.stash.get_or_insert_with(Box::default).push(fingerprint(position), entry);
        self.buckets[home].add_in_stash();
        self.len += 1;
    }

    fn resize<P: Placement>(&mut self, buckets: usize, placement: &P) {
        let entries = self.take_all(placement);
        *self = Self::with_buckets(self.range(), buckets);
        self.extend(entries);
    }

    fn filled(range: Range53, entries: Vec<(u64, E)>) -> Self {
        let mut segment = Self::with_capacity(range, entries.len());
        segment.extend(entries);
        segment
    }

    fn extend(&mut self, entries: Vec<(u64, E)>) {
        for (position, entry) in entries {
            if let Err(entry) = self.place(position, entry) {
                self.put_in_stash(position, entry);
            }
        }
    }

    /// Takes all entries, with their positions. Their keys are all over the memory, so they are asked for ahead.
    fn take_all<P: Placement>(&mut self, placement: &P) -> Vec<(u64, E)> {
        const AHEAD: usize = 12;
        let entries = self.take_entries();
        for entry in entries.iter().take(AHEAD) {
            prefetch(entry.address());
        }
        let mut positions = Vec::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            if let Some(later) = entries.get(index + AHEAD) {
                prefetch(later.address());
            }
            positions.push(placement.position(entry.key()));
        }
        positions.into_iter().zip(entries).collect()
    }

    fn take_entries(&mut self) -> Vec<E> {
        let mut entries = Vec::with_capacity(self.len());
        for mut bucket in mem::take(&mut self.buckets) {
            bucket.drain_into(&mut entries);
        }
        if let Some(stash) = self.stash.take() {
            stash.drain_into(&mut entries);
        }
        self.len = 0;
        entries
    }
}

impl<E: Entry> IntoIterator for Segment<E> {
    type Item = E;
    type IntoIter = std::vec::IntoIter<E>;

    fn into_iter(mut self) -> Self::IntoIter {
        self.take_entries().into_iter()
    }
}

/// A number below `limit`, from the top bits of a random one.
#[inline]
fn fraction(random: u64, limit: usize) -> usize {
    ((u128::from(random) * limit as u128) >> 64) as usize
}

/// The finisher of splitmix64: every bit of the input changes half of the output's.
#[inline]
fn scramble(mut bits: u64) -> u64 {
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}
