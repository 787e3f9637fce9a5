//! Active expiry: keys that have expired and that no command asks for are removed.
//!
//! A key is removed when a command looks for it, and otherwise here. Each place knows without a look at any record when
//! its first key expires at the earliest (`soonest`, as do each index and each shard), so where nothing is stale
//! nothing is done. The rest adapts:
//!
//! 1. A *slice* goes round the places of a shard from where the last one stopped. It passes by each place whose first
//!    expiry lies ahead.
//! 2. Of any other it looks at [`PROBE`] records first. If [one in eight](WORTH_PLACE) of them is stale, the place is
//!    swept: all stale records in it go, and its `soonest` becomes exact. A place that is small, or whose first expiry
//!    was [a second](OVERDUE_MS) ago, is swept without a probe, so that a single key does not stay for long either.
//! 3. A slice ends when its steps are used up: one for each record looked at, some more for each removed. The shard's
//!    lock is held for one slice only.
//! 4. The keeper asks for another slice of the same shard at once while [one in sixteen](WORTH_MORE) of the records
//!    that the last one looked at was stale; else it comes back at its next tick. So the work grows with the number of
//!    stale keys and ends with it.
//!
//! A sweep costs about as much for each record that stays as for the cache line that it is read from, and the probe
//! keeps those few for each one that goes. No key carries anything for it, and a write does nothing for it but to
//! compare two numbers.

use std::sync::atomic::Ordering;

use dormouse_storage::effect;
use dormouse_storage::log;
use dormouse_storage::shown::INDEXES;
use dormouse_types::record::Record;
use dormouse_types::segment::{Placement, SlotPlacement};

use super::changes::KeyEvent;
use super::index::{Index, place_at, place_mut, slot_start};
use super::{Contents, Shared};

/// Records looked at before a place is swept: two buckets or so.
const PROBE: usize = 28;
/// A place is swept if one in this many records of a probe is stale.
const WORTH_PLACE: usize = 8;
/// Another slice follows at once if one in this many records that were looked at was stale.
const WORTH_MORE: usize = 16;
/// How long ago the first expiry of a place may be before it is swept for that one.
const OVERDUE_MS: u64 = 1_000;
/// The cost of removing a record beyond looking at it, in steps.
const REMOVAL_STEPS: usize = 4;

/// The work of one slice of active expiry.
#[derive(Debug, Default)]
pub struct Slice {
    /// Records looked at.
    pub looked: usize,
    /// Removed records, to be freed without the lock.
    pub removed: Vec<Record>,
}

impl Slice {
    /// Whether so many records were stale that it is worth going on at once.
    pub fn is_worth_more(&self) -> bool {
        !self.removed.is_empty() && self.removed.len() * WORTH_MORE >= self.looked
    }

    /// Steps that the slice took.
    fn steps(&self) -> usize {
        self.looked + self.removed.len() * REMOVAL_STEPS
    }
}

impl Contents {
    /// Removes keys that have expired, in about `steps` steps but at least from one place, going round the indexes.
    pub fn expire(&mut self, shared: &Shared, now_ms: u64, steps: usize) -> Slice {
        let mut slice = Slice::default();
        let records = shared.journal.is_recording();
        // A log that is behind gets no more entries: stale keys stay meanwhile, as nothing is added either.
        if records && shared.admit().is_err() {
            return slice;
        }
        let placement = self.placement;
        let (first, prefix) = self.expiring_from;
        // The place where the last slice stopped may belong to another shard by now.
        let slots = slot_start(self.first_slot)..slot_start(self.end_slot);
        for turn in 0..INDEXES as u8 {
            let select = (first + turn) % INDEXES as u8;
            let from = if turn == 0 && slots.contains(&prefix) { prefix } else { slots.start };
            if shared.is_followed(select) {
                continue;
            }
            let Some(index) = self.index_mut(select).filter(|index| index.soonest() <= now_ms) else { continue };
            let (keyspace, before) = (index.id, slice.removed.len());
            let next = index.sweep(from, now_ms, records, &placement, steps, &mut slice);
            let removed = &slice.removed[before..];
            removed.iter().for_each(|record| shared.dropped(KeyEvent::EXPIRED, select, record.key()));
            if records && !removed.is_empty() {
                self.log_removed(shared, now_ms, keyspace, removed);
            }
            match next {
                Some(next) => {
                    self.expiring_from = (select, next);
                    break;
                }
                None => self.expiring_from = ((select + 1) % INDEXES as u8, 0),
            }
        }
        shared.expired.fetch_add(slice.removed.len() as u64, Ordering::Relaxed);
        slice
    }

    /// A command may still come whose time is before this one's: replay must not find these keys again.
    fn log_removed(&mut self, shared: &Shared, now_ms: u64, keyspace: u32, removed: &[Record]) {
        let mut items = Vec::new();
        let positions: Vec<u64> = removed.iter().map(|record| shared.placement.position(record.key())).collect();
        for (record, position) in removed.iter().zip(&positions) {
            log::format::write_effect(&mut items, keyspace, *position, |body| effect::delete(body, record.key()));
        }
        let lsn = shared.journal.append(&shared.sequence, now_ms, &items);
        self.note_unflushed(shared, positions.into_iter(), lsn);
    }
}

impl Index {
    /// Sweeps the places from prefix53 `from` on until `slice` has taken `steps`. Returns where to go on; `None` at the
    /// end.
    fn sweep(
        &mut self,
        from: u64,
        now_ms: u64,
        dirty: bool,
        placement: &SlotPlacement,
        steps: usize,
        slice: &mut Slice,
    ) -> Option<u64> {
        let mut at = self.places.find(from);
        let mut passed = 0;
        while at < self.places.len() {
            let end = place_at(&self.places, at).range.end();
            if self.is_worth_sweeping(at, now_ms, slice) {
                self.sweep_place(at, now_ms, dirty, placement, slice);
                if end >= self.places.end() {
                    break;
                }
                // It may have been merged with its neighbour.
                at = self.places.find(end);
            } else {
                at += 1;
                passed += 1;
            }
            if slice.steps() + passed >= steps && end < self.places.end() {
                return Some(end);
            }
        }
        self.recount_soonest();
        None
    }

    /// Whether enough of place `at` is stale, by a sample of it.
    fn is_worth_sweeping(&self, at: usize, now_ms: u64, slice: &mut Slice) -> bool {
        let place = place_at(&self.places, at);
        let Some(segment) = place.segment().filter(|_| place.expiring > 0 && place.soonest <= now_ms) else {
            return false;
        };
        if segment.len() <= 2 * PROBE || place.soonest + OVERDUE_MS <= now_ms {
            return true;
        }
        // Other records each time.
        let probe = segment.from_random(now_ms ^ place.range.start).take(PROBE);
        let stale = probe.filter(|record| is_stale(record, now_ms)).count();
        slice.looked += PROBE;
        stale * WORTH_PLACE >= PROBE
    }

    fn sweep_place(&mut self, at: usize, now_ms: u64, dirty: bool, placement: &SlotPlacement, slice: &mut Slice) {
        let mut soonest = u64::MAX;
        slice.looked += place_at(&self.places, at).records();
        let chosen = |record: &Record| match record.expiry() {
            Some(expiry) if expiry <= now_ms => true,
            Some(expiry) => {
                soonest = soonest.min(expiry);
                false
            }
            None => false,
        };
        self.extract(at, dirty, placement, chosen, &mut slice.removed);
        place_mut(&mut self.places, at).soonest = soonest;
        self.tidy(at, placement);
    }
}

fn is_stale(record: &Record, now_ms: u64) -> bool {
    record.expiry().is_some_and(|expiry| expiry <= now_ms)
}

#[cfg(test)]
mod tests;
