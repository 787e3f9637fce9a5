//! The contents of one shard: the logical indexes of a contiguous run of slots.

use dormouse_storage::log::Lsn;
use dormouse_storage::shown::{ALL_INDEXES, Ids};
use dormouse_types::segment::SlotPlacement;
use rapidhash::RapidHashMap;

use crate::keyspace::Shared;
use crate::keyspace::graveyard::{Dead, Graveyard};
use crate::keyspace::index::{Index, slot_start};
use crate::memory::Reservation;

/// The state behind a shard's lock.
///
/// Invariant: all shards of a database agree on `ids`; they change only under all of its locks.
pub struct Contents {
    pub first_slot: u16,
    /// One past the last: 16384 at most.
    pub end_slot: u16,
    pub placement: SlotPlacement,
    /// The keyspace that each logical index shows. A flush gives it a new one, so records of the old one die.
    pub ids: Ids,
    indexes: [Option<Box<Index>>; ALL_INDEXES],
    /// A bit for each of them that exists: a batch looks at all, and most databases have one.
    present: u64,
    /// Writes that replies must wait for, where the loss window is zero.
    pub unflushed: Unflushed,
    /// It was put to sleep, or merged away: a holder must route again.
    pub retired: bool,
    pub load: Load,
    /// Bytes of values that were dropped since the last unlock and wait to be freed.
    pub buried_bytes: usize,
    /// Memory reserved for data that the holder of the lock adds.
    pub reserved: Option<Reservation>,
    /// The position at which active expiry goes on: which of the indexes that it sweeps, and prefix53.
    pub(super) expiring_from: (u8, u64),
}

/// Counters for the autoscaler; read and reset when it looks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Load {
    pub operations: u64,
    /// Times that the lock was taken for them.
    pub batches: u64,
    pub busy_ns: u64,
    /// Sampled operations by sixteenth of the slot range.
    pub heat: [u32; 16],
}

impl Load {
    pub fn add(&mut self, more: &Self) {
        self.operations += more.operations;
        self.batches += more.batches;
        self.busy_ns += more.busy_ns;
        self.heat.iter_mut().zip(more.heat).for_each(|(heat, more)| *heat = heat.saturating_add(more));
    }
}

/// Positions of keys whose last write may not be durable yet.
///
/// In two generations: writes go into the new one. When all of the old one is durable it is forgotten, and the new one
/// becomes the old. So the size is bounded by the writes during two flushes.
#[derive(Debug, Clone, Default)]
pub struct Unflushed {
    old: Generation,
    new: Generation,
    /// A write that concerns every key.
    whole: Lsn,
}

#[derive(Debug, Clone, Default)]
struct Generation {
    positions: RapidHashMap<u64, Lsn>,
    last: Lsn,
}

/// Positions that a generation keeps for the next one, at most.
const POSITIONS_KEPT: usize = 1024;

impl Generation {
    fn clear(&mut self) {
        if self.positions.capacity() > POSITIONS_KEPT {
            self.positions = RapidHashMap::default();
        }
        self.positions.clear();
        self.last = 0;
    }
}

impl Unflushed {
    /// Forgets durable writes.
    pub fn settle(&mut self, flushed: Lsn) {
        if self.old.last <= flushed && self.new.last != 0 {
            std::mem::swap(&mut self.old, &mut self.new);
            self.new.clear();
        }
        if self.old.last <= flushed && self.old.last != 0 {
            self.old.clear();
        }
        if self.whole <= flushed {
            self.whole = 0;
        }
    }

    pub fn note(&mut self, position: u64, lsn: Lsn) {
        self.new.positions.insert(position, lsn);
        self.new.last = self.new.last.max(lsn);
    }

    pub fn note_all(&mut self, lsn: Lsn) {
        self.whole = self.whole.max(lsn);
    }

    pub fn is_empty(&self) -> bool {
        self.last() == 0
    }

    /// The end in the log that a reply about the key there has to wait for.
    pub fn of(&self, position: u64) -> Lsn {
        let of = |generation: &Generation| generation.positions.get(&position).copied().unwrap_or(0);
        of(&self.old).max(of(&self.new)).max(self.whole)
    }

    pub fn last(&self) -> Lsn {
        self.old.last.max(self.new.last).max(self.whole)
    }

    fn append(&mut self, other: Self) {
        for generation in [other.old, other.new] {
            for (position, lsn) in generation.positions {
                // The half that was split off knows older writes of the other half's keys too.
                let known = self.new.positions.entry(position).or_default();
                *known = lsn.max(*known);
                self.new.last = self.new.last.max(lsn);
            }
        }
        self.whole = self.whole.max(other.whole);
    }
}

impl Contents {
    pub fn empty(first_slot: u16, end_slot: u16, placement: SlotPlacement, ids: Ids) -> Self {
        let indexes = [const { None }; ALL_INDEXES];
        Self {
            first_slot,
            end_slot,
            placement,
            ids,
            indexes,
            present: 0,
            unflushed: Unflushed::default(),
            retired: false,
            load: Load::default(),
            buried_bytes: 0,
            reserved: None,
            expiring_from: (0, 0),
        }
    }

    /// Notes writes without a command, which end at `lsn` in the log, for the replies that will reveal them. Returns what
    /// must be durable before clients may know of them.
    pub(super) fn note_unflushed(&mut self, shared: &Shared, positions: impl Iterator<Item = u64>, lsn: Lsn) -> Lsn {
        if !shared.journal.is_strict() {
            return 0;
        }
        self.unflushed.settle(shared.journal.log().map_or(0, |log| log.flushed()));
        positions.for_each(|position| self.unflushed.note(position, lsn));
        shared.tell(lsn);
        lsn
    }

    pub fn covers(&self, slot: u16) -> bool {
        (self.first_slot..self.end_slot).contains(&slot)
    }

    #[inline]
    pub fn index(&self, select: u8) -> Option<&Index> {
        self.indexes[usize::from(select)].as_deref()
    }

    #[inline]
    pub fn index_mut(&mut self, select: u8) -> Option<&mut Index> {
        self.indexes[usize::from(select)].as_deref_mut()
    }

    /// Returns the index, created if it does not exist yet.
    pub fn index_or_new(&mut self, select: u8) -> &mut Index {
        let (id, first, end) = (self.ids[usize::from(select)], self.first_slot, self.end_slot);
        self.present |= 1 << select;
        self.indexes[usize::from(select)].get_or_insert_with(|| Box::new(Index::empty(id, first, end)))
    }

    pub fn put_index(&mut self, select: u8, index: Option<Box<Index>>) -> Option<Box<Index>> {
        self.present = self.present & !(1 << select) | u64::from(index.is_some()) << select;
        std::mem::replace(&mut self.indexes[usize::from(select)], index)
    }

    pub fn swap(&mut self, a: u8, b: u8) {
        self.indexes.swap(usize::from(a), usize::from(b));
        let is_present = |select: u8| self.present >> select & 1;
        let (with_a, with_b) = (is_present(a), is_present(b));
        self.present = self.present & !(1 << a | 1 << b) | with_b << a | with_a << b;
        self.ids.swap(usize::from(a), usize::from(b));
    }

    pub fn indexes(&self) -> impl Iterator<Item = (u8, &Index)> {
        let mut left = self.present;
        std::iter::from_fn(move || {
            let select = left.trailing_zeros() as u8;
            left &= left.checked_sub(1)?;
            Some((select, self.index(select).expect("its bit says that it exists")))
        })
    }

    pub fn indexes_mut(&mut self) -> impl Iterator<Item = (u8, &mut Index)> {
        (0..).zip(&mut self.indexes).filter_map(|(select, index)| Some((select, index.as_deref_mut()?)))
    }

    pub fn by_id(&mut self, id: u32) -> Option<&mut Index> {
        self.indexes.iter_mut().flatten().map(|index| &mut **index).find(|index| index.id == id)
    }

    /// Whether everything is in memory.
    pub fn is_resident(&self) -> bool {
        self.indexes().all(|(_, index)| index.stored() == 0)
    }

    pub fn records(&self) -> usize {
        self.indexes().map(|(_, index)| index.len()).sum()
    }

    /// Lays all of its indexes into a graveyard.
    pub fn bury_in(mut self, graveyard: &mut Graveyard) {
        let indexes = (0..ALL_INDEXES as u8).filter_map(|select| self.put_index(select, None));
        indexes.for_each(|index| graveyard.bury(Dead::Index(index)));
    }

    pub fn bytes(&self) -> usize {
        self.indexes().map(|(_, index)| index.bytes() + size_of::<Index>()).sum()
    }

    /// Unix milliseconds; no later than the first moment at which a key in memory, or a field of a hash, expires by this
    /// server's clock.
    pub fn soonest(&self, shared: &Shared) -> u64 {
        let own = self.indexes().filter(|(select, _)| !shared.is_followed(*select));
        own.map(|(_, index)| index.soonest().min(index.soonest_field())).min().unwrap_or(u64::MAX)
    }

    /// Prepares a split: every index gets a boundary at `slot`. Returns false if a place that is not resident straddles
    /// it.
    pub fn cut(&mut self, slot: u16) -> bool {
        let placement = self.placement;
        self.indexes_mut().all(|(_, index)| index.cut(slot_start(slot), &placement))
    }

    /// Moves the slots from `slot` on into contents of their own. [`Self::cut`] must have succeeded.
    pub fn split_off(&mut self, slot: u16) -> Self {
        let mut right = Self::empty(slot, self.end_slot, self.placement, self.ids);
        for (index, other) in self.indexes.iter_mut().zip(&mut right.indexes) {
            *other = index.as_mut().map(|index| Box::new(index.split_off(slot_start(slot))));
        }
        right.present = self.present;
        right.unflushed = self.unflushed.clone();
        self.end_slot = slot;
        right
    }

    /// Takes over the contents of `right`; its slots follow these.
    pub fn append(&mut self, mut right: Self) {
        for select in 0..ALL_INDEXES as u8 {
            if right.index(select).is_none() && self.index(select).is_none() {
                continue;
            }
            right.index_or_new(select);
            if let Some(index) = right.put_index(select, None) {
                self.index_or_new(select).append(*index);
            }
        }
        self.unflushed.append(right.unflushed);
        self.end_slot = right.end_slot;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_durable_is_known_and_what_is_forgotten() {
        let mut unflushed = Unflushed::default();
        for lsn in 1..1000 {
            unflushed.settle(u64::saturating_sub(lsn, 3));
            unflushed.note(lsn, lsn);
            unflushed.note(7777, lsn);
            for position in (1..lsn).filter(|position| *position > lsn.saturating_sub(3)) {
                assert_eq!(unflushed.of(position), position, "it is perhaps not durable at {lsn}");
            }
            assert_eq!((unflushed.of(7777), unflushed.last()), (lsn, lsn));
            assert!(unflushed.old.positions.len() + unflushed.new.positions.len() < 20);
        }
        unflushed.note_all(1000);
        assert_eq!(unflushed.of(5), 1000);
        unflushed.settle(1000);
        unflushed.settle(1000);
        assert!(unflushed.is_empty());
    }

    #[test]
    fn a_merge_keeps_the_latest_write_of_a_key() {
        let mut left = Unflushed::default();
        left.note(1, 10);
        let mut right = left.clone();
        left.note(1, 20);
        right.note(2, 30);
        left.append(right);
        assert_eq!((left.of(1), left.of(2), left.last()), (20, 30, 30));
    }
}
