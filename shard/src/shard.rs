//! A shard: a contiguous run of slots behind one lock with a mailbox; the unit of locking, splitting and merging.
//!
//! Reports on a shard never wait for its lock. Each holder publishes how much is in it when it unlocks; the rest, which
//! takes a look at every place, is looked at by a reader that finds the lock free, else by the holder.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::gate::{Gate, Guarded, Held, Job};
use crate::keyspace::{ALL_INDEXES, Contents, INDEXES, Index, Load, Shared};
use crate::lane::Queue;
use crate::scaling::ShardView;

/// What a gate of the engine guards. `contents` is locked only by who holds the gate, so never contended.
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
    /// A bit for each of those that is not zero.
    counted: AtomicU32,
    seen: Mutex<Seen>,
    /// The holder has been asked to look.
    is_asked: AtomicBool,
    /// Batches that found the lock taken, since the autoscaler last looked.
    pub contended: AtomicU64,
}

/// What was seen at the last look.
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
        static LAST_ID: AtomicU64 = AtomicU64::new(0);
        let shard = Self {
            id: LAST_ID.fetch_add(1, Ordering::Relaxed) + 1,
            contents: Mutex::new(contents),
            shared: Arc::clone(shared),
            lane: lane.clone(),
            published: AtomicUsize::new(0),
            counts: std::array::from_fn(|_| Default::default()),
            counted: AtomicU32::new(0),
            seen: Mutex::default(),
            is_asked: AtomicBool::new(false),
            contended: AtomicU64::new(0),
        };
        shard.publish();
        shard.look(&mut shard.contents.lock());
        Gate::new(shard)
    }

    /// Sees to it that the view is brought up to date: now if the lock is free, else before it is let go.
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

    /// What it is like. `take`: the load counters start again from zero.
    pub(crate) fn view(&self, take: bool) -> ShardView {
        let contended = if take { self.contended.swap(0, Ordering::Relaxed) } else { self.contended.load(Ordering::Relaxed) };
        let mut seen = self.seen.lock();
        let mut view = ShardView { id: self.id, contended, bytes: self.published(), ..seen.view.clone() };
        if take {
            seen.view.load = Load::default();
        }
        drop(seen);
        (view.keys, view.expiring) =
            self.counts().fold((0, 0), |(keys, expiring), count| (keys + count.0, expiring + count.1));
        view
    }

    /// Keys, and keys with an expiry, of each logical index.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (usize, usize)> {
        self.counts.iter().map(|(keys, expiring)| (keys.load(Ordering::Relaxed), expiring.load(Ordering::Relaxed)))
    }

    pub(crate) fn expiries(&self) -> [Expiries; INDEXES] {
        self.seen.lock().expiries
    }

    /// Brings the view up to date, under the lock.
    fn look(&self, contents: &mut Contents) {
        let mut view = ShardView { first_slot: contents.first_slot, end_slot: contents.end_slot, ..ShardView::default() };
        let mut expiries = [Expiries::default(); INDEXES];
        for (select, index) in contents.indexes() {
            view.dirty_bytes += index.dirty_bytes();
            view.stored += index.stored();
            view.resident += index.places().len() - index.stored();
            view.resident_keys += index.resident_records();
            index.add_sizes(view.first_slot, view.end_slot, &mut view.sizes);
            // What is staged is shown in none.
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

    pub fn published(&self) -> usize {
        self.published.load(Ordering::Relaxed)
    }
}

impl Guarded for Shard {
    fn relieve(gate: &ShardGate) {
        let relieved = Arc::clone(gate);
        gate.guarded.lane.relieve(move || relieved.serve());
    }

    fn publish(&self) {
        let (mut bytes, mut present) = (0, 0u32);
        for (select, index) in self.contents.lock().indexes() {
            bytes += index.bytes() + size_of::<Index>();
            let (keys, expiring) = &self.counts[usize::from(select)];
            keys.store(index.len(), Ordering::Relaxed);
            expiring.store(index.expiring(), Ordering::Relaxed);
            present |= 1 << select;
        }
        let gone = self.counted.load(Ordering::Relaxed) & !present;
        self.counted.store(present, Ordering::Relaxed);
        for (_, (keys, expiring)) in self.counts.iter().enumerate().filter(|(select, _)| gone >> select & 1 != 0) {
            keys.store(0, Ordering::Relaxed);
            expiring.store(0, Ordering::Relaxed);
        }
        let before = self.published.swap(bytes, Ordering::Relaxed);
        if bytes != before {
            self.shared.used.fetch_add(bytes.wrapping_sub(before), Ordering::Relaxed);
        }
    }
}

impl Held<Shard> {
    pub fn contents(&self) -> MutexGuard<'_, Contents> {
        self.gate().guarded.contents.lock()
    }
}
