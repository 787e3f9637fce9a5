//! Active expiry: keys that have expired and that no command asks for are removed, and so are fields of hashes (see
//! [`fields`](super::fields)).
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
//!    Hashes with stale fields are looked for on the same terms, but without a probe.
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
use dormouse_storage::log::{self, Lsn};
use dormouse_storage::shown::{INDEXES, RECEIPTS};
use dormouse_types::Item;
use dormouse_types::record::Record;
use dormouse_types::segment::{Placement, SlotPlacement};

use super::changes::KeyEvent;
use super::fields::{Lapsed, hash_mut};
use super::index::{Index, place_at, place_mut, slot_start};
use super::notices::Noted;
use super::outbox::{CapturedEvents, Outbox};
use super::place::field_expiry;
use super::{Contents, Shared};

/// Records looked at before a place is swept: two buckets or so.
const PROBE: usize = 28;
/// A place is swept if one in this many records of a probe is stale.
const WORTH_PLACE: usize = 8;
/// Another slice follows at once if one in this many records that were looked at was stale.
const WORTH_MORE: usize = 16;
/// How long ago the first expiry of a place may be before it is swept for that one.
const OVERDUE_MS: u64 = 1_000;
/// The indexes that are swept: those that clients see, and behind them that of receipts.
const SWEPT: u8 = INDEXES as u8 + 1;
/// The cost of removing a record beyond looking at it, in steps.
const REMOVAL_STEPS: usize = 4;

/// The work of one slice of active expiry.
#[derive(Debug, Default)]
pub struct Slice {
    /// Records looked at.
    pub looked: usize,
    /// Removed records, to be freed without the lock.
    pub removed: Vec<Record>,
    /// Hashes that have lost fields.
    pub lapsed: Vec<Lapsed>,
    /// Records of those that have lost all; [`Self::removed`] gets them at the end.
    pub(super) emptied: Vec<Record>,
}

impl Slice {
    /// Whether so many records were stale that it is worth going on at once.
    pub fn is_worth_more(&self) -> bool {
        self.stale() > 0 && self.stale() * WORTH_MORE >= self.looked
    }

    /// Steps that the slice took.
    pub(super) fn steps(&self) -> usize {
        self.looked + self.stale() * REMOVAL_STEPS
    }

    /// Removed keys and fields.
    fn stale(&self) -> usize {
        self.removed.len() + self.lapsed.iter().map(|lapsed| lapsed.fields.len()).sum::<usize>()
    }
}

impl Contents {
    /// Removes keys and fields that have expired, in about `steps` steps but at least from one place, going round the
    /// indexes.
    pub fn expire(&mut self, shared: &Shared, now_ms: u64, steps: usize) -> Slice {
        let (mut slice, mut noted) = (Slice::default(), Noted::default());
        let records = shared.journal.is_recording();
        // A log that is behind gets no more entries: stale keys stay meanwhile, as nothing is added either.
        if records && shared.admit().is_err() {
            return slice;
        }
        let placement = self.placement;
        let (first, prefix) = self.expiring_from;
        let mut receipts = 0;
        // The place where the last slice stopped may belong to another shard by now.
        let slots = slot_start(self.first_slot)..slot_start(self.end_slot);
        for turn in 0..SWEPT {
            let at = (first + turn) % SWEPT;
            let is_receipts = usize::from(at) == INDEXES;
            let select = if is_receipts { RECEIPTS as u8 } else { at };
            let from = if turn == 0 && slots.contains(&prefix) { prefix } else { slots.start };
            if shared.is_followed(select) {
                continue;
            }
            let is_due = |index: &&mut Index| index.soonest().min(index.soonest_field()) <= now_ms;
            let Some(index) = self.index_mut(select).filter(is_due) else { continue };
            let (keyspace, before, first) = (index.id, slice.removed.len(), slice.lapsed.len());
            let next = index.sweep(from, now_ms, records, &placement, steps, &mut slice);
            let (removed, lapsed) = (&slice.removed[before..], &slice.lapsed[first..]);
            lapsed.iter().for_each(|lapsed| lapsed.tell(shared, &mut noted, select));
            match is_receipts {
                // No client knows of them.
                true => receipts += removed.len(),
                false => {
                    removed
                        .iter()
                        .for_each(|record| shared.dropped(&mut noted, KeyEvent::EXPIRED, select, record.key()));
                }
            }
            let captured = noted.take_captured();
            let lsn = match records && !(removed.is_empty() && lapsed.is_empty()) {
                true => self.log_removed(shared, now_ms, keyspace, (removed, lapsed), captured),
                false => {
                    Outbox::queue(self.keep_captured(shared, now_ms, captured, None), 0);
                    0
                }
            };
            shared.notices.hand_over(&mut noted, lsn);
            match next {
                Some(next) => {
                    self.expiring_from = (at, next);
                    break;
                }
                None => self.expiring_from = ((at + 1) % SWEPT, 0),
            }
        }
        shared.expired.fetch_add((slice.removed.len() - receipts) as u64, Ordering::Relaxed);
        shared.expired_fields.fetch_add((slice.stale() - slice.removed.len()) as u64, Ordering::Relaxed);
        slice.removed.append(&mut slice.emptied);
        slice
    }

    /// A command may still come whose time is before this one's: replay must not find these keys and fields again.
    fn log_removed(
        &mut self,
        shared: &Shared,
        now_ms: u64,
        keyspace: u32,
        (removed, lapsed): (&[Record], &[Lapsed]),
        captured: CapturedEvents,
    ) -> Lsn {
        let mut items = Vec::new();
        let mut positions = Vec::with_capacity(removed.len() + lapsed.len());
        let mut write = |key: &[u8], write: &dyn Fn(&mut Vec<u8>)| {
            let position = shared.placement.position(key);
            positions.push(position);
            log::format::write_effect(&mut items, keyspace, position, write);
        };
        lapsed.iter().for_each(|lapsed| write(&lapsed.key, &|body| lapsed.write_effect(body)));
        removed.iter().for_each(|record| write(record.key(), &|body| effect::delete(body, record.key())));
        let kept = self.keep_captured(shared, now_ms, captured, Some(&mut items));
        let lsn = shared.journal.append(&shared.sequence, now_ms, &items);
        Outbox::queue(kept, lsn);
        self.note_unflushed(shared, positions.into_iter(), lsn)
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
            let has_stale_fields = self.has_stale_fields(at, now_ms);
            if has_stale_fields {
                at = self.sweep_fields(at, now_ms, dirty, placement, steps, slice);
            }
            let has_stale_keys = self.is_worth_sweeping(at, now_ms, slice);
            if has_stale_keys {
                self.sweep_place(at, now_ms, dirty, placement, slice);
            }
            if has_stale_fields || has_stale_keys {
                self.tidy(at, placement);
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

    /// Whether the fields of a hash in place `at` are stale, and have been for long enough where the place is large.
    fn has_stale_fields(&self, at: usize, now_ms: u64) -> bool {
        let place = place_at(&self.places, at);
        let patience_ms = if place.records() <= 2 * PROBE { 0 } else { OVERDUE_MS };
        place.segment().is_some()
            && place.expiring_hashes > 0
            && place.soonest_field.saturating_add(patience_ms) <= now_ms
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

    /// Removes stale fields of hashes in place `at` until `slice` has taken `steps`. Returns the number of the place, which
    /// may have been merged.
    fn sweep_fields(
        &mut self,
        at: usize,
        now_ms: u64,
        dirty: bool,
        placement: &SlotPlacement,
        steps: usize,
        slice: &mut Slice,
    ) -> usize {
        let place = place_at(&self.places, at);
        let start = place.range.start;
        slice.looked += place.records();
        let is_stale = |record: &&Record| field_expiry(record).is_some_and(|soonest| soonest <= now_ms);
        let records = place.segment().into_iter().flat_map(|segment| segment.iter());
        let stale: Vec<Box<[u8]>> = records.filter(is_stale).map(|record| record.key().into()).collect();
        for key in stale {
            self.sweep_hash(key, now_ms, dirty, placement, steps, slice);
            if slice.steps() >= steps {
                break;
            }
        }
        let at = self.places.find(start);
        let place = place_mut(&mut self.places, at);
        let expiries = place.segment().into_iter().flat_map(|segment| segment.iter()).filter_map(field_expiry);
        place.soonest_field = expiries.min().unwrap_or(u64::MAX);
        at
    }

    fn sweep_hash(
        &mut self,
        key: Box<[u8]>,
        now_ms: u64,
        dirty: bool,
        placement: &SlotPlacement,
        steps: usize,
        slice: &mut Slice,
    ) {
        let position = placement.position(&key);
        let budget = steps.saturating_sub(slice.steps());
        let mut fields: Vec<Box<[u8]>> = Vec::new();
        let swept = self.update(position, &key, placement, |record| {
            let Some(hash) = hash_mut(record) else { return (false, (0, false)) };
            let looked = hash.sweep(now_ms, OVERDUE_MS, budget, |field: Item<'_>| fields.push(field.to_vec().into()));
            (dirty && !fields.is_empty(), (looked, hash.is_empty()))
        });
        let Some((looked, is_gone)) = swept else { return };
        slice.looked += looked;
        if fields.is_empty() {
            return;
        }
        if is_gone {
            slice.emptied.extend(self.remove(position, &key, dirty, placement));
        }
        slice.lapsed.push(Lapsed { key, fields, is_gone });
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
    }
}

fn is_stale(record: &Record, now_ms: u64) -> bool {
    record.expiry().is_some_and(|expiry| expiry <= now_ms)
}

#[cfg(test)]
mod tests;
