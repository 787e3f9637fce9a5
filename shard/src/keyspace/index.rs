//! One logical index (what `SELECT` chooses) of one shard: its places in position order, with exact sums.
//!
//! Invariants: the places cover the shard's slots without a gap or an overlap; `records`, `expiring` and `bytes` are the
//! sums over the places; `stored` counts the places that are not resident; no key of a resident place expires before
//! `soonest`, and no field of a hash before `soonest_field`. Every change of a record passes through a method of this module, which keeps the sums.

use std::sync::Arc;

use dormouse_storage::replay::Stored;
use dormouse_types::pace;
use dormouse_types::record::{Entry, Record};
use dormouse_types::segment::{Directory, Range53, Ranged, Segment, SlotPlacement};

use crate::keyspace::place::{Dirty, Holding, Place, field_expiry};

/// Two neighbours are merged if they have at most this many records together, a fraction of what one segment holds.
const MERGE_BELOW: usize = 400;

/// A place that takes more memory than this is split, like one that has too many keys: it is loaded, and its small
/// values are written, as a whole.
const PLACE_BYTES_MAX: usize = 2 << 20;

pub struct Index {
    /// Names this keyspace for ever: a flush gives the logical index a new one.
    pub id: u32,
    pub(super) places: Directory<Place>,
    records: usize,
    expiring: usize,
    bytes: usize,
    stored: usize,
    soonest: u64,
    /// Resident hashes whose fields expire.
    expiring_hashes: usize,
    soonest_field: u64,
    /// Prefix53 of the place where eviction has last found a record that may go, where few may.
    pub(super) evicted_from: u64,
}

/// The first prefix53 of `slot`.
pub const fn slot_start(slot: u16) -> u64 {
    (slot as u64) << 39
}

pub const fn prefix(position: u64) -> u64 {
    position >> 11
}

/// Aligned ranges that together cover `first_slot..end_slot`.
pub fn aligned(first_slot: u16, end_slot: u16) -> Vec<Range53> {
    let mut ranges = Vec::new();
    let (mut at, end) = (u64::from(first_slot), u64::from(end_slot));
    while at < end {
        let align = if at == 0 { 14 } else { at.trailing_zeros().min(14) };
        let fits = (end - at).ilog2();
        let slots = align.min(fits);
        ranges.push(Range53 { start: at << 39, bits: 39 + slots as u8 });
        at += 1 << slots;
    }
    ranges
}

impl Index {
    /// Nothing in `first_slot..end_slot`.
    pub fn empty(id: u32, first_slot: u16, end_slot: u16) -> Self {
        Self::new(id, aligned(first_slot, end_slot).into_iter().map(Place::empty).collect())
    }

    /// `places` in order, without a gap.
    pub fn new(id: u32, places: Vec<Place>) -> Self {
        let mut index = Self {
            id,
            places: Directory::new(places),
            records: 0,
            expiring: 0,
            bytes: 0,
            stored: 0,
            soonest: u64::MAX,
            expiring_hashes: 0,
            soonest_field: u64::MAX,
            evicted_from: 0,
        };
        index.recount();
        index
    }

    fn recount(&mut self) {
        self.records = self.places.iter().map(Place::records).sum();
        self.expiring = self.places.iter().map(|place| place.expiring as usize).sum();
        self.bytes = self.places.iter().map(Place::resident_bytes).sum();
        self.stored = self.places.iter().filter(|place| place.stored().is_some()).count();
        self.expiring_hashes = self.places.iter().map(|place| place.expiring_hashes as usize).sum();
        self.recount_soonest();
    }

    pub(super) fn recount_soonest(&mut self) {
        let resident = self.places.iter().filter(|place| place.segment().is_some());
        let both = resident.map(|place| (place.soonest, place.soonest_field));
        (self.soonest, self.soonest_field) =
            both.fold((u64::MAX, u64::MAX), |(key, field), of| (key.min(of.0), field.min(of.1)));
    }

    pub fn len(&self) -> usize {
        self.records
    }

    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Records that are in memory.
    pub fn resident_records(&self) -> usize {
        self.places.iter().filter_map(Place::segment).map(Segment::len).sum()
    }

    /// Adds the keys of each sixteenth of `first..end` to `sizes`. Those of a place that reaches over several are shared
    /// among them: its positions are spread evenly.
    pub fn add_sizes(&self, first: u16, end: u16, sizes: &mut [u32; 16]) {
        let part_of = |slot: u16| usize::from(slot - first) * sizes.len() / usize::from(end - first);
        let mut parts = *sizes;
        for place in self.places.iter() {
            let slot = |prefix: u64| ((prefix >> 39) as u16).clamp(first, end - 1);
            let covered = part_of(slot(place.range.start))..part_of(slot(place.range.end() - 1)) + 1;
            let mut left = place.records() as u32;
            for part in covered.clone() {
                let share = left / (covered.end - part) as u32;
                parts[part] += share;
                left -= share;
            }
        }
        *sizes = parts;
    }

    pub fn expiring(&self) -> usize {
        self.expiring
    }

    /// Unix milliseconds; no later than the first moment at which a key in memory expires.
    pub fn soonest(&self) -> u64 {
        self.soonest
    }

    /// Hashes in memory whose fields expire.
    pub fn expiring_hashes(&self) -> usize {
        self.expiring_hashes
    }

    /// Unix milliseconds; no later than the first moment at which a field of a hash in memory expires.
    pub fn soonest_field(&self) -> u64 {
        self.soonest_field
    }

    /// False: no field of a key that shares a place with `position` has expired at `now`.
    pub fn may_have_stale_field(&self, position: u64, now_ms: u64) -> bool {
        self.expiring_hashes > 0 && self.place(prefix(position)).soonest_field <= now_ms
    }

    /// The expiries of some keys, spread over the places that are in memory: a sample of up to a few hundred.
    pub fn some_expiries(&self) -> impl Iterator<Item = u64> {
        const PLACES: usize = 16;
        const EACH: usize = 32;
        let segments = self.places.iter().filter(|place| place.expiring > 0).filter_map(Place::segment);
        let step = segments.clone().count().div_ceil(PLACES).max(1);
        segments.step_by(step).flat_map(|segment| segment.iter().filter_map(|record| record.expiry()).take(EACH))
    }

    /// Exact bytes of memory: records, tables, directory.
    pub fn bytes(&self) -> usize {
        self.bytes + self.places.heap_bytes()
    }

    /// Places that are not in memory.
    pub fn stored(&self) -> usize {
        self.stored
    }

    pub fn places(&self) -> &Directory<Place> {
        &self.places
    }

    pub fn place(&self, prefix: u64) -> &Place {
        place_at(&self.places, self.places.find(prefix))
    }

    /// Whether a prefix53 belongs to these places.
    pub fn covers(&self, prefix: u64) -> bool {
        (self.places.start()..self.places.end()).contains(&prefix)
    }

    pub fn into_places(self) -> Vec<Place> {
        self.places.into_segments()
    }

    pub fn is_dirty(&self) -> bool {
        self.places.iter().any(|place| !place.dirty.is_clean())
    }

    /// Marks the resident places that share positions with `range`. Only these are looked at.
    pub fn mark_dirty(&mut self, range: Range53) {
        let (start, end) = (range.start.max(self.places.start()), range.end().min(self.places.end()));
        if start >= end {
            return;
        }
        let first = self.places.find(start);
        for at in first..self.places.len() {
            let place = place_mut(&mut self.places, at);
            if place.range.start >= end {
                return;
            }
            if place.stored().is_none() {
                place.dirty = Dirty::Whole;
            }
        }
    }

    pub fn is_resident(&self, position: u64) -> bool {
        self.stored == 0 || self.place(prefix(position)).stored().is_none()
    }

    /// Whether all places are in memory and no key expires.
    #[inline]
    pub fn is_resident_for_ever(&self) -> bool {
        self.stored == 0 && self.expiring == 0
    }

    /// False: no key that shares a place with `position` has expired at `now`.
    pub fn may_have_expired(&self, position: u64, now_ms: u64) -> bool {
        self.expiring > 0 && self.place(prefix(position)).soonest <= now_ms
    }

    /// Asks for the bucket that a look-up will read. Returns the number of its place.
    #[inline]
    pub fn prefetch(&self, position: u64) -> usize {
        let at = self.places.find(prefix(position));
        if let Some(segment) = place_at(&self.places, at).segment() {
            segment.prefetch(position);
        }
        at
    }

    /// Asks for the records that a look-up will compare with, once their bucket has come. `at`: the number of the place
    /// when its bucket was asked for; where it is another one by now, nothing is asked for.
    #[inline]
    pub fn prefetch_record(&self, at: usize, position: u64) {
        if let Some(segment) = self.places.get(at).and_then(Place::segment)
            && segment.range().contains(prefix(position))
        {
            segment.prefetch_entry(position);
        }
    }

    /// Asks for the data that these records own, once they have come.
    #[inline]
    pub fn prefetch_owned(&self, at: usize, position: u64) {
        if let Some(segment) = self.places.get(at).and_then(Place::segment)
            && segment.range().contains(prefix(position))
        {
            segment.prefetch_owned(position);
        }
    }

    pub fn get(&self, position: u64, key: &[u8]) -> Option<&Record> {
        self.place(prefix(position)).segment()?.get(position, key)
    }

    /// For a change that keeps the record's bytes and expiry: its access clock.
    pub fn get_mut(&mut self, position: u64, key: &[u8]) -> Option<&mut Record> {
        let at = self.places.find(prefix(position));
        place_mut(&mut self.places, at).segment_mut()?.get_mut(position, key)
    }

    /// Changes the record of `key` in place, and marks its place dirty if `change` says that it did.
    pub fn update<R>(
        &mut self,
        position: u64,
        key: &[u8],
        placement: &SlotPlacement,
        change: impl FnOnce(&mut Record) -> (bool, R),
    ) -> Option<R> {
        let at = self.places.find(prefix(position));
        let place = place_mut(&mut self.places, at);
        let Holding::Resident(segment) = &mut place.holding else { return None };
        let record = segment.get_mut(position, key)?;
        let (bytes, expiry, field) = (record.heap_bytes(), record.expiry(), field_expiry(record));
        let (changed, result) = change(record);
        let (bytes_now, expiry_now, field_now) = (record.heap_bytes(), record.expiry(), field_expiry(record));
        if changed {
            place.dirty.note(position, key);
        }
        place.bytes = place.bytes - bytes + bytes_now;
        self.bytes = self.bytes - bytes + bytes_now;
        let is_heavy = bytes_now > bytes && place.is_heavy();
        if expiry != expiry_now {
            place.expiring = place.expiring - u32::from(expiry.is_some()) + u32::from(expiry_now.is_some());
            self.expiring = self.expiring - usize::from(expiry.is_some()) + usize::from(expiry_now.is_some());
            place.soonest = place.soonest.min(expiry_now.unwrap_or(u64::MAX));
            self.soonest = self.soonest.min(place.soonest);
        }
        if field != field_now {
            let (before, now) = (field.is_some(), field_now.is_some());
            place.expiring_hashes = place.expiring_hashes - u32::from(before) + u32::from(now);
            self.expiring_hashes = self.expiring_hashes - usize::from(before) + usize::from(now);
            place.soonest_field = place.soonest_field.min(field_now.unwrap_or(u64::MAX));
            self.soonest_field = self.soonest_field.min(place.soonest_field);
        }
        if is_heavy {
            self.split(at, placement);
        }
        Some(result)
    }

    /// As [`Self::update`], for a change that keeps the record's bytes, expiry and fields.
    #[inline]
    pub fn edit<R>(&mut self, position: u64, key: &[u8], change: impl FnOnce(&mut Record) -> (bool, R)) -> Option<R> {
        let at = self.places.find(prefix(position));
        let place = place_mut(&mut self.places, at);
        let Holding::Resident(segment) = &mut place.holding else { return None };
        let record = segment.get_mut(position, key)?;
        let bytes = if cfg!(debug_assertions) { record.heap_bytes() } else { 0 };
        let (changed, result) = change(record);
        debug_assert_eq!(bytes, record.heap_bytes(), "an edit keeps the bytes of the record");
        if changed {
            place.dirty.note(position, key);
        }
        Some(result)
    }

    /// Adds a record whose key does not exist. Ignored if the place is not resident (the caller checks first).
    pub fn insert(&mut self, position: u64, record: Record, placement: &SlotPlacement) {
        let at = self.places.find(prefix(position));
        let place = place_mut(&mut self.places, at);
        let Holding::Resident(segment) = &mut place.holding else { return };
        let (bytes, expiry, field) = (record.heap_bytes(), record.expiry(), field_expiry(&record));
        let table = segment.heap_bytes();
        place.dirty.note(position, record.key());
        segment.insert(position, record, placement);
        let table_now = segment.heap_bytes();
        let full = segment.wants_split();
        place.bytes += bytes;
        let full = full || place.is_heavy();
        self.bytes = self.bytes + bytes - table + table_now;
        self.records += 1;
        if let Some(expiry) = expiry {
            place.expiring += 1;
            place.soonest = place.soonest.min(expiry);
            self.soonest = self.soonest.min(expiry);
            self.expiring += 1;
        }
        if let Some(expiry) = field {
            place.expiring_hashes += 1;
            place.soonest_field = place.soonest_field.min(expiry);
            self.soonest_field = self.soonest_field.min(expiry);
            self.expiring_hashes += 1;
        }
        if full {
            self.split(at, placement);
        }
    }

    /// Takes the record of `key` out. `dirty`: whether the stored copy of the place is outdated by it (not so when the
    /// record has expired, which the stored copy will find by itself).
    pub fn remove(&mut self, position: u64, key: &[u8], dirty: bool, placement: &SlotPlacement) -> Option<Record> {
        let at = self.places.find(prefix(position));
        let place = place_mut(&mut self.places, at);
        let Holding::Resident(segment) = &mut place.holding else { return None };
        let table = segment.heap_bytes();
        let record = segment.remove(position, key, placement)?;
        let table_now = segment.heap_bytes();
        let (few, bytes) = (segment.len() < MERGE_BELOW / 4, record.heap_bytes());
        if dirty {
            place.dirty.note(position, key);
        }
        place.bytes -= bytes;
        self.bytes = self.bytes - bytes - table + table_now;
        self.records -= 1;
        if record.expiry().is_some() {
            place.expiring -= 1;
            self.expiring -= 1;
        }
        if field_expiry(&record).is_some() {
            place.expiring_hashes -= 1;
            self.expiring_hashes -= 1;
        }
        if few {
            self.merge(at, placement);
        }
        Some(record)
    }

    /// Takes the records that `chosen` chooses out of resident place `at`. `dirty`: as for [`Self::remove`]. Small
    /// neighbours are left apart: see [`Self::tidy`].
    pub(super) fn extract(
        &mut self,
        at: usize,
        dirty: bool,
        placement: &SlotPlacement,
        chosen: impl FnMut(&Record) -> bool,
        taken: &mut Vec<Record>,
    ) {
        let place = place_mut(&mut self.places, at);
        let Holding::Resident(segment) = &mut place.holding else { return };
        let (table, first) = (segment.heap_bytes(), taken.len());
        segment.extract(placement, chosen, |record| taken.push(record));
        let table_now = segment.heap_bytes();
        let taken = &taken[first..];
        let bytes: usize = taken.iter().map(Entry::heap_bytes).sum();
        let expiring = taken.iter().filter(|record| record.expiry().is_some()).count();
        let hashes = taken.iter().filter(|record| field_expiry(record).is_some()).count();
        if dirty {
            place.dirty.note_many(taken, placement);
        }
        place.bytes -= bytes;
        place.expiring -= expiring as u32;
        place.expiring_hashes -= hashes as u32;
        self.bytes = self.bytes - bytes - table + table_now;
        self.records -= taken.len();
        self.expiring -= expiring;
        self.expiring_hashes -= hashes;
    }

    /// Merges place `at` with its neighbour where both have become small.
    pub(super) fn tidy(&mut self, at: usize, placement: &SlotPlacement) {
        if place_at(&self.places, at).records() < MERGE_BELOW / 4 {
            self.merge(at, placement);
        }
    }

    /// Splits place `at` into halves, again where skew leaves one of them full or heavy.
    fn split(&mut self, at: usize, placement: &SlotPlacement) {
        let range = place_at(&self.places, at).range;
        let place = std::mem::replace(place_mut(&mut self.places, at), Place::empty(range));
        let Holding::Resident(segment) = place.holding else {
            *place_mut(&mut self.places, at) = place;
            return;
        };
        self.bytes -= segment.heap_bytes();
        let mut pieces = Vec::new();
        let mut todo = vec![segment];
        while let Some(segment) = todo.pop() {
            if segment.wants_split() || is_heavy(&segment) {
                let (left, right) = segment.split(placement);
                todo.push(right);
                todo.push(left);
            } else {
                self.bytes += segment.heap_bytes();
                // Both halves are dirty: the chunk holds them as one.
                pieces.push(Place::resident(segment, Dirty::Whole));
            }
        }
        self.places.replace(at, pieces);
    }

    /// Merges place `at` with its sibling where both are small.
    fn merge(&mut self, at: usize, placement: &SlotPlacement) {
        let range = place_at(&self.places, at).range;
        if range.bits >= 53 {
            return;
        }
        let sibling = range.start ^ (1 << range.bits);
        let other = if sibling < range.start { at.checked_sub(1) } else { Some(at + 1) };
        let Some(other) = other.filter(|&other| other < self.places.len()) else { return };
        let pair = [at, other].map(|at| place_at(&self.places, at));
        let together: usize = pair.iter().map(|place| place.records()).sum();
        let bytes: usize = pair.iter().map(|place| place.bytes).sum();
        let same = place_at(&self.places, other).range == Range53 { start: sibling, bits: range.bits };
        if !same
            || together > MERGE_BELOW
            || bytes > PLACE_BYTES_MAX / 2
            || place_at(&self.places, at).segment().is_none()
            || place_at(&self.places, other).segment().is_none()
        {
            return;
        }
        let first = at.min(other);
        let take = |place: &mut Place| {
            let range = place.range;
            std::mem::replace(place, Place::empty(range))
        };
        let left = take(place_mut(&mut self.places, first));
        let right = take(place_mut(&mut self.places, first + 1));
        let (Holding::Resident(left), Holding::Resident(right)) = (left.holding, right.holding) else { return };
        self.bytes -= left.heap_bytes() + right.heap_bytes();
        let merged = left.merge(right, placement);
        self.bytes += merged.heap_bytes();
        self.places.splice(first..first + 2, [Place::resident(merged, Dirty::Whole)]);
    }

    /// Makes `at` (a prefix53) a boundary between two places, splitting segments as it must. Returns false if a place
    /// that is not resident straddles it.
    pub fn cut(&mut self, at: u64, placement: &SlotPlacement) -> bool {
        loop {
            let place = self.places.find(at);
            let range = place_at(&self.places, place).range;
            if range.start == at {
                return true;
            }
            let empty = Place::empty(range);
            let whole = std::mem::replace(place_mut(&mut self.places, place), empty);
            match whole.holding {
                Holding::Resident(segment) => {
                    self.bytes -= segment.heap_bytes();
                    let (left, right) = segment.split(placement);
                    self.bytes += left.heap_bytes() + right.heap_bytes();
                    self.places
                        .replace(place, [Place::resident(left, Dirty::Whole), Place::resident(right, Dirty::Whole)]);
                }
                Holding::Stored(_) => {
                    *place_mut(&mut self.places, place) = whole;
                    return false;
                }
            }
        }
    }

    /// Moves the places from prefix53 `at` on, which must be a boundary, into an index of their own. No key is rehashed.
    pub fn split_off(&mut self, at: u64) -> Self {
        let right = Self::new(self.id, self.places.split_off(at).into_segments());
        self.recount();
        right
    }

    /// Takes over the places of `right`, which begin where these end.
    pub fn append(&mut self, right: Self) {
        self.places.append(right.places);
        self.recount();
    }

    /// Replaces a stored place by its loaded places, or the place of a page by the places of that page. Returns false
    /// if the place is no longer `wanted`: another caller has loaded it.
    pub fn install(&mut self, wanted: &Arc<Stored>, range: Range53, loaded: Vec<Place>) -> bool {
        let at = self.places.find(range.start);
        let place = place_at(&self.places, at);
        if place.range != range || place.stored().is_none_or(|stored| !Arc::ptr_eq(stored, wanted)) {
            return false;
        }
        self.records -= place.records();
        self.expiring -= place.expiring as usize;
        self.stored -= 1;
        for piece in &loaded {
            self.records += piece.records();
            self.expiring += piece.expiring as usize;
            self.bytes += piece.resident_bytes();
            self.expiring_hashes += piece.expiring_hashes as usize;
            match piece.stored() {
                Some(_) => self.stored += 1,
                None => {
                    self.soonest = self.soonest.min(piece.soonest);
                    self.soonest_field = self.soonest_field.min(piece.soonest_field);
                }
            }
        }
        self.places.replace(at, loaded);
        true
    }

    /// Updates the location in the store of the place of `range`, if it is not in memory.
    pub fn relocate(&mut self, range: Range53, stored: Stored, expiring: u32) {
        let at = self.places.find(range.start);
        let place = place_mut(&mut self.places, at);
        if place.range == range
            && let Holding::Stored(before) = &mut place.holding
        {
            self.records = self.records - before.records as usize + stored.records as usize;
            *before = Arc::new(stored);
            self.expiring = self.expiring - place.expiring as usize + expiring as usize;
            place.expiring = expiring;
        }
    }

    /// Visits the records of the bucket that holds `from` (a prefix53), and says where the next bucket begins.
    /// `Err`: the place there is not resident.
    pub fn scan(&self, from: u64, placement: &SlotPlacement, visit: impl FnMut(&Record)) -> Result<u64, u64> {
        match &self.place(from).holding {
            Holding::Resident(segment) => Ok(segment.scan(from, placement, visit)),
            Holding::Stored(_) => Err(from),
        }
    }

    /// Every resident record, in the order of places.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.places
            .iter()
            .filter_map(Place::segment)
            .take_while(|segment| pace::goes_on(segment.len()))
            .flat_map(Segment::iter)
    }

    /// A random key, all equally likely; `Err(prefix53)`: its place is not resident.
    pub fn random(&self, mut random: impl FnMut() -> u64) -> Result<Option<&Record>, u64> {
        if self.records == 0 {
            return Ok(None);
        }
        // Rejection: a place at random, kept with probability records / most. Skew (many empty places) makes that slow,
        // so after a few tries a walk by weight decides.
        for _ in 0..64 {
            let place = place_at(&self.places, (random() % self.places.len() as u64) as usize);
            if (random() % 2048) < place.records() as u64 {
                return Self::random_in(place, random());
            }
        }
        let mut target = (random() % self.records as u64) as usize;
        for place in self.places.iter() {
            match target.checked_sub(place.records()) {
                Some(rest) => target = rest,
                None => return Self::random_in(place, random()),
            }
        }
        Ok(None)
    }

    fn random_in(place: &Place, random: u64) -> Result<Option<&Record>, u64> {
        match &place.holding {
            Holding::Resident(segment) => Ok(segment.random(random)),
            Holding::Stored(_) => Err(place.range.start),
        }
    }

    /// The next dirty resident place that reaches beyond prefix53 `from`.
    pub fn next_dirty(&mut self, from: u64) -> Option<&mut Place> {
        let first = self.places.find(from);
        let at = (first..self.places.len()).find(|&at| !place_at(&self.places, at).dirty.is_clean())?;
        Some(place_mut(&mut self.places, at))
    }

    pub fn dirty_bytes(&self) -> usize {
        self.places.iter().map(Place::dirty_bytes).sum()
    }
}

/// Whether halves would take less memory each. Splitting does not help with a single large value.
fn is_heavy(segment: &Segment<Record>) -> bool {
    segment.len() > 1
        && segment.range().bits > 0
        && segment.iter().map(Entry::heap_bytes).sum::<usize>() > PLACE_BYTES_MAX
}

impl Place {
    /// The same of a place, which knows its bytes.
    #[inline]
    fn is_heavy(&self) -> bool {
        self.bytes > PLACE_BYTES_MAX && self.range.bits > 0 && self.records() > 1
    }
}

pub(super) fn place_at(places: &Directory<Place>, at: usize) -> &Place {
    places.get(at).expect("the directory found it there")
}

pub(super) fn place_mut(places: &mut Directory<Place>, at: usize) -> &mut Place {
    places.get_mut(at).expect("the directory found it there")
}
