//! A shard: a contiguous run of slots behind one lock with a mailbox; the unit of locking, splitting and merging.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::gate::{Gate, Guarded, Held};
use crate::keyspace::{Contents, Shared};
use crate::lane::Queue;

/// What a gate of the engine guards. `contents` is locked only by who holds the gate, so never contended.
pub struct Shard {
    /// Tells shards of this process apart; the left half of a split keeps it.
    pub id: u64,
    contents: Mutex<Contents>,
    shared: Arc<Shared>,
    lane: Queue,
    /// Bytes as last added to the database's sum.
    published: AtomicUsize,
    /// Batches that found the lock taken, since the autoscaler last looked.
    pub contended: AtomicU64,
}

pub type ShardGate = Arc<Gate<Shard>>;
pub type HeldShard = Held<Shard>;

impl Shard {
    pub fn gate(contents: Contents, shared: &Arc<Shared>, lane: &Queue) -> ShardGate {
        let published = contents.bytes();
        shared.used.fetch_add(published, Ordering::Relaxed);
        static LAST_ID: AtomicU64 = AtomicU64::new(0);
        Gate::new(Self {
            id: LAST_ID.fetch_add(1, Ordering::Relaxed) + 1,
            contents: Mutex::new(contents),
            shared: Arc::clone(shared),
            lane: lane.clone(),
            published: AtomicUsize::new(published),
            contended: AtomicU64::new(0),
        })
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
        let bytes = self.contents.lock().bytes();
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
