//! A shard: a contiguous run of slots behind one lock with a mailbox; the unit of locking, splitting and merging.
//!
//! Reports on a shard never wait for its lock. Each holder publishes its counts when it unlocks. The rest, which takes
//! a look at every place, is gathered by a reader that finds the lock free, else by the holder.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use dormouse_storage::shown::RECEIPTS;
use parking_lot::{Mutex, MutexGuard};

use crate::gate::{Gate, Guarded, Held, Job};
use crate::keyspace::{ALL_INDEXES, Contents, INDEXES, Load, Shared};
use crate::lane::{self, Queue};

/// The state that a gate of the engine guards. Only the holder of the gate locks `contents`, so it is never contended.
pub struct Shard {
    /// Tells shards of this process apart; the left half of a split keeps it.
    pub id: u64,
    contents: Mutex<Contents>,
    shared: Arc<Shared>,
    lane: Queue,
    /// Bytes as last added to the database's sum.
    published: AtomicUsize,
    /// Keys and keys with an expiry of each logical index, as at the last unlock.
    counts: [(AtomicUsize, AtomicUsize); ALL_INDEXES],
    /// A bit for each of those that are not zero.
    counted: AtomicU64,
    seen: Mutex<Seen>,
    /// The holder has been asked to look.
    is_asked: AtomicBool,
    /// Unix milliseconds: the earliest expiry of a key, as at the last unlock.
    soonest: AtomicU64,
    /// Batches that found the lock taken, since the autoscaler last looked.
    pub contended: AtomicU64,
}

/// A view of one shard, for the autoscaler and `DORMOUSE SHARDS`.
#[derive(Debug, Clone, Default)]
pub struct ShardView {
    pub id: u64,
    pub first_slot: u16,
    /// One past the last.
    pub end_slot: u16,
    pub keys: usize,
    pub expiring: usize,
    pub bytes: usize,
    pub dirty_bytes: usize,
    /// Bytes of receipts, which are no keys.
    pub receipt_bytes: usize,
    /// Bytes of events that triggers have yet to deliver.
    pub outbox_bytes: usize,
    /// Places in memory, and in the store only.
    pub resident: usize,
    pub stored: usize,
    /// Keys that are in memory.
    pub resident_keys: usize,
    /// Keys by sixteenth of the slot range.
    pub sizes: [u32; 16],
    /// Since the counters were last taken.
    pub load: Load,
    pub contended: u64,
}

/// The result of the last look.
#[derive(Default)]
struct Seen {
    view: ShardView,
    expiries: [Expiries; INDEXES],
}

/// When keys of a logical index expire on average, by a sample.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Expiries {
    /// Unix milliseconds.
    pub at_ms: u64,
    /// How many keys the sample stands for.
    pub keys: u64,
}

pub type ShardGate = Arc<Gate<Shard>>;
pub type HeldShard = Held<Shard>;

impl Shard {
    pub fn gate(contents: Contents, shared: &Arc<Shared>, lane: &Queue) -> ShardGate {
        let shard = Self::new(contents, shared, lane);
        shard.publish();
        shard.look(&mut shard.contents.lock());
        Gate::new(shard)
    }

    /// The gate of contents that were split off from `left`, whose lock is held. The database's counts stay as they
    /// are.
    pub fn gate_beside(left: &Self, contents: Contents) -> ShardGate {
        let shard = Self::new(contents, &left.shared, &left.lane);
        for (select, index) in shard.contents.lock().indexes() {
            let select = usize::from(select);
            for (of_right, of_left, now) in [
                (&shard.counts[select].0, &left.counts[select].0, index.len()),
                (&shard.counts[select].1, &left.counts[select].1, index.expiring()),
            ] {
                of_right.store(now, Ordering::Relaxed);
                // The remaining counts are determined at the next unlock.
                of_left.store(of_left.load(Ordering::Relaxed).wrapping_sub(now), Ordering::Relaxed);
            }
            shard.counted.fetch_or(1 << select, Ordering::Relaxed);
            left.counted.fetch_or(1 << select, Ordering::Relaxed);
        }
        let bytes = shard.contents.lock().bytes();
        shard.published.store(bytes, Ordering::Relaxed);
        left.published.store(left.published.load(Ordering::Relaxed).wrapping_sub(bytes), Ordering::Relaxed);
        shard.soonest.store(left.soonest.load(Ordering::Relaxed), Ordering::Relaxed);
        shard.look(&mut shard.contents.lock());
        Gate::new(shard)
    }

    /// Takes over the counts of `right`, whose contents it has taken over. Both locks are held.
    pub fn append(&self, right: &Self) {
        let take = |from: &AtomicUsize, to: &AtomicUsize| {
            to.store(to.load(Ordering::Relaxed).wrapping_add(from.swap(0, Ordering::Relaxed)), Ordering::Relaxed);
        };
        for ((right, expiring_right), (left, expiring_left)) in right.counts.iter().zip(&self.counts) {
            take(right, left);
            take(expiring_right, expiring_left);
        }
        take(&right.published, &self.published);
        self.counted.fetch_or(right.counted.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }

    fn new(contents: Contents, shared: &Arc<Shared>, lane: &Queue) -> Self {
        static LAST_ID: AtomicU64 = AtomicU64::new(0);
        Self {
            id: LAST_ID.fetch_add(1, Ordering::Relaxed) + 1,
            contents: Mutex::new(contents),
            shared: Arc::clone(shared),
            lane: lane.clone(),
            published: AtomicUsize::new(0),
            soonest: AtomicU64::new(u64::MAX),
            counts: std::array::from_fn(|_| Default::default()),
            counted: AtomicU64::new(0),
            seen: Mutex::default(),
            is_asked: AtomicBool::new(false),
            contended: AtomicU64::new(0),
        }
    }

    /// Brings the view up to date: now if the lock is free, else before it is released.
    pub(crate) fn ask(gate: &ShardGate) {
        if let Some(held) = gate.try_hold() {
            gate.guarded.look(&mut held.contents());
        } else if !gate.guarded.is_asked.swap(true, Ordering::SeqCst) {
            gate.leave(Job::Run(Box::new(|held| {
                let shard = &held.gate().guarded;
                shard.is_asked.store(false, Ordering::SeqCst);
                shard.look(&mut held.contents());
            })));
        }
    }

    /// The view of this shard. `take`: the load counters start again from zero.
    pub(crate) fn view(&self, take: bool) -> ShardView {
        let contended =
            if take { self.contended.swap(0, Ordering::Relaxed) } else { self.contended.load(Ordering::Relaxed) };
        let mut seen = self.seen.lock();
        let mut view =
            ShardView { id: self.id, contended, bytes: self.published().max(0).cast_unsigned(), ..seen.view.clone() };
        if take {
            seen.view.load = Load::default();
        }
        drop(seen);
        for (keys, expiring) in &self.counts[..RECEIPTS] {
            view.keys = view.keys.wrapping_add(keys.load(Ordering::Relaxed));
            view.expiring = view.expiring.wrapping_add(expiring.load(Ordering::Relaxed));
        }
        view
    }

    /// The number of places at the last look.
    pub(crate) fn places_seen(&self) -> usize {
        let seen = self.seen.lock();
        seen.view.resident + seen.view.stored
    }

    pub(crate) fn expiries(&self) -> [Expiries; INDEXES] {
        self.seen.lock().expiries
    }

    /// Brings the view up to date, under the lock.
    fn look(&self, contents: &mut Contents) {
        let mut view =
            ShardView { first_slot: contents.first_slot, end_slot: contents.end_slot, ..ShardView::default() };
        let mut expiries = [Expiries::default(); INDEXES];
        for (select, index) in contents.indexes() {
            view.dirty_bytes += index.dirty_bytes();
            view.stored += index.stored();
            view.resident += index.places().len() - index.stored();
            if usize::from(select) >= RECEIPTS {
                let bytes =
                    if usize::from(select) == RECEIPTS { &mut view.receipt_bytes } else { &mut view.outbox_bytes };
                *bytes = index.bytes();
                continue;
            }
            view.resident_keys += index.resident_records();
            index.add_sizes(view.first_slot, view.end_slot, &mut view.sizes);
            // Staged keys are shown in no index.
            let Some(of) = expiries.get_mut(usize::from(select)) else { continue };
            let (sum, sampled) = index.some_expiries().fold((0u128, 0), |(sum, n), at| (sum + u128::from(at), n + 1));
            if let Some(at_ms) = sum.checked_div(sampled) {
                *of = Expiries { at_ms: at_ms as u64, keys: index.expiring() as u64 };
            }
        }
        let load = std::mem::take(&mut contents.load);
        let mut seen = self.seen.lock();
        view.load = seen.view.load;
        view.load.add(&load);
        *seen = Seen { view, expiries };
    }

    /// The bytes counted at its last unlock. Negative from a split until the next unlock, if more has been split off
    /// than was counted.
    pub fn published(&self) -> isize {
        self.published.load(Ordering::Relaxed).cast_signed()
    }

    /// Whether a key may have expired, as far as can be known without the lock.
    pub fn may_have_expired(&self, now_ms: u64) -> bool {
        self.soonest_expiry_ms() <= now_ms
    }

    /// Unix milliseconds before which no key expires, as at the last unlock.
    pub fn soonest_expiry_ms(&self) -> u64 {
        self.soonest.load(Ordering::Relaxed)
    }
}

impl Guarded for Shard {
    fn relieve(gate: &ShardGate) {
        let relieved = Arc::clone(gate);
        gate.guarded.lane.relieve(move || relieved.serve());
    }

    fn publish(&self) {
        let mut contents = self.contents.lock();
        self.soonest.store(contents.soonest(&self.shared), Ordering::Relaxed);
        let mut present = 0u64;
        for (select, index) in contents.indexes() {
            self.count(usize::from(select), index.len(), index.expiring());
            present |= 1 << select;
        }
        let gone = self.counted.load(Ordering::Relaxed) & !present;
        if gone != 0 {
            (0..ALL_INDEXES).filter(|select| gone >> select & 1 != 0).for_each(|select| self.count(select, 0, 0));
        }
        self.counted.store(present, Ordering::Relaxed);
        let bytes = contents.bytes();
        let before = self.published.swap(bytes, Ordering::Relaxed);
        let buried = std::mem::take(&mut contents.buried_bytes);
        if bytes != before || buried > 0 {
            let change = bytes.wrapping_sub(before);
            self.shared.used.fetch_add(change, Ordering::Relaxed);
            // Dropped values that wait to be freed still take memory.
            self.shared.memory.changed(change.wrapping_add(buried).cast_signed());
        }
        // Only now, as the reservation covered the bytes that have been counted here.
        contents.reserved = None;
    }
}

impl Shard {
    /// Counts the keys of a logical index as they are now, under the lock.
    fn count(&self, select: usize, keys: usize, expiring: usize) {
        let ((own, own_expiring), (all, all_expiring)) = (&self.counts[select], &self.shared.counts[select]);
        for (own, all, now) in [(own, all, keys), (own_expiring, all_expiring, expiring)] {
            let before = own.load(Ordering::Relaxed);
            if now != before {
                own.store(now, Ordering::Relaxed);
                all.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
            }
        }
    }
}

impl Held<Shard> {
    pub fn contents(&self) -> MutexGuard<'_, Contents> {
        debug_assert!(!lane::is_patient(), "a thread that clients should not wait for holds the lock of a shard");
        self.gate().guarded.contents.lock()
    }
}
