//! Upkeep of a database: active expiry and eviction without a command, slice by slice under the locks of its shards.
//!
//! The keyspace defines the work of a slice: [`expiry`](crate::keyspace::expiry),
//! [`eviction`](crate::keyspace::eviction). Between two slices the lock is free, and other work of the thread gets its
//! turn.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_storage::log::Lsn;
use dormouse_types::record::Record;
use fastrand::Rng;
use futures::channel::oneshot;

use crate::database::Database;
use crate::error::{Error, Result};
use crate::gate::Job;
use crate::keyspace::eviction::weighted;
use crate::keyspace::expiry::Slice;
use crate::keyspace::graveyard::takes_long_to_free;
use crate::keyspace::{Dead, Eviction, Graveyard};
use crate::shard::{HeldShard, ShardGate};

/// Steps of a slice of expiry: at most about a quarter of a millisecond under the lock.
const SLICE_STEPS: usize = 8_192;

/// A command that waits for room gets this part of the limit on top, at most so many bytes, so that the next few need
/// not wait.
const SPARE_ONE_IN: usize = 256;
const SPARE_BYTES_MAX: usize = 1 << 20;

/// Work that is to be done in slices.
pub enum Chore {
    /// Keys may have expired in this shard.
    Sweep(ShardGate),
    /// The database is over its limit, though no command asks for more.
    Evict,
}

impl Database {
    /// The work that is due. No lock is taken to find out.
    pub fn chores(&self) -> Vec<Chore> {
        let (mut chores, now_ms) = (Vec::new(), (self.engine.clock)());
        if self.shared.is_still(now_ms) {
            return chores;
        }
        if self.excess(0) > 0 {
            chores.push(Chore::Evict);
        }
        let topology = self.topology_guard();
        let shards = topology.iter().flat_map(|topology| &topology.shards);
        let stale = shards.filter(|gate| gate.guarded.may_have_expired(now_ms));
        chores.extend(stale.map(|gate| Chore::Sweep(Arc::clone(gate))));
        chores
    }

    /// Unix milliseconds before which no work is due, if no command runs until then.
    pub fn chores_from_ms(&self) -> u64 {
        if self.excess(0) > 0 {
            return 0;
        }
        let topology = self.topology_guard();
        let shards = topology.iter().flat_map(|topology| &topology.shards);
        shards.map(|gate| gate.guarded.soonest_expiry_ms()).min().unwrap_or(u64::MAX)
    }

    /// Does one slice of a chore, and answers whether another one is worth it now.
    pub async fn work_at(self: &Arc<Self>, chore: &Chore) -> bool {
        match chore {
            _ if self.shared.is_still((self.engine.clock)()) => false,
            Chore::Sweep(gate) => self.sweep(gate).await,
            Chore::Evict => {
                let excess = self.excess(0);
                excess > 0 && self.evict_slice(excess).await && self.excess(0) > 0
            }
        }
    }

    /// Removes keys that have expired, about `steps` steps in each shard whose lock is free.
    pub fn expire_slice(&self, steps: usize) {
        for chore in self.chores() {
            if let Chore::Sweep(gate) = chore
                && let Some(held) = gate.try_hold()
            {
                let slice = self.sweep_held(&held, steps);
                drop(held);
                self.free_records(slice.removed);
            }
        }
    }

    /// Waits until there is room for a command that adds about `adds` bytes: drops keys of all shards, each in
    /// proportion to its memory.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if nothing is left to drop; the log's refusal if it does not take the deletions.
    pub async fn make_room(self: &Arc<Self>, adds: usize) -> Result<()> {
        loop {
            let excess = self.excess(adds);
            if excess == 0 {
                return Ok(());
            }
            let limit = self.shared.memory_max(&self.shared.settings.load()).unwrap_or(usize::MAX);
            let spare = (limit / SPARE_ONE_IN).min(SPARE_BYTES_MAX);
            let is_kept = self.shared.parked.is_open();
            if adds > limit || !self.evict_slice(excess + spare).await {
                if adds <= limit && is_kept {
                    // The checkpoint that keeps the values holds this until it has ended.
                    drop(self.transition.lock().await);
                    continue;
                }
                // If the log takes nothing, nothing may be dropped: that is the reason, and not that nothing is left.
                self.shared.admit()?;
                return Err(Error::OutOfMemory);
            }
            tokio::task::yield_now().await;
        }
    }

    /// Waits until the log is written up to `lsn`, but at most until a write of it fails: then the caller's next
    /// attempt is refused, or waits again.
    pub async fn until_written(&self, lsn: Lsn) {
        if let Some(log) = self.shared.journal.log() {
            let _ = log.durable_or_failed(lsn).await;
        }
    }

    /// Bytes that must be dropped before `adds` more fit; 0 if nothing may be dropped.
    fn excess(&self, adds: usize) -> usize {
        let settings = self.shared.settings.load();
        match self.shared.memory_max(&settings) {
            Some(limit) if settings.eviction != Eviction::NoEviction => {
                self.used_bytes().saturating_add(adds).saturating_sub(limit)
            }
            _ => 0,
        }
    }

    /// One slice of eviction in one shard. False if no shard has anything to drop.
    async fn evict_slice(self: &Arc<Self>, wanted: usize) -> bool {
        let Some(topology) = self.topology() else { return false };
        let chance = Rng::with_seed(self.shared.chance.fetch_add(1, Ordering::Relaxed)).u64(..);
        let shards = &topology.shards;
        let first = weighted(shards.iter().map(|gate| gate.guarded.published().max(0).cast_unsigned()), chance);
        for turn in 0..shards.len() {
            let database = Arc::clone(self);
            let evict = move |held: &HeldShard| {
                let now_ms = (database.engine.clock)();
                let dropped = held.contents().evict(&database.shared, now_ms, chance, wanted);
                (!dropped.is_empty(), dropped)
            };
            let orphan = {
                let database = Arc::clone(self);
                move |(_, dropped)| database.free_records(dropped)
            };
            let gate = &shards[(first + turn) % shards.len()];
            let (is_done, dropped) = under(gate, evict, orphan).await.unwrap_or_default();
            if is_done {
                self.free_records(dropped);
                return true;
            }
        }
        false
    }

    async fn sweep(self: &Arc<Self>, gate: &ShardGate) -> bool {
        let (database, other) = (Arc::clone(self), Arc::clone(self));
        let sweep = move |held: &HeldShard| database.sweep_held(held, SLICE_STEPS);
        let orphan = move |slice: Slice| other.free_records(slice.removed);
        let slice = under(gate, sweep, orphan).await.unwrap_or_default();
        let more = slice.is_worth_more();
        self.free_records(slice.removed);
        more
    }

    fn sweep_held(&self, held: &HeldShard, steps: usize) -> Slice {
        let mut slice = held.contents().expire(&self.shared, (self.engine.clock)(), steps);
        self.shared.park_some(&mut slice.removed);
        slice
    }

    /// Frees removed records, large ones on the slow lane. Clients that wait for one of their keys look again.
    fn free_records(&self, records: Vec<Record>) {
        self.waiters.nudge_stirred();
        let mut graveyard = Graveyard::default();
        for record in records {
            if takes_long_to_free(&record) {
                graveyard.bury(Dead::Record(record));
            }
        }
        self.free(graveyard);
    }
}

/// Runs a short function under the lock of a shard. If the lock is held, its holder runs the function. `None`: it
/// panicked there. `orphan` takes the result if the caller no longer waits for it.
async fn under<R: Send + 'static>(
    gate: &ShardGate,
    run: impl FnOnce(&HeldShard) -> R + Send + 'static,
    orphan: impl FnOnce(R) + Send + 'static,
) -> Option<R> {
    if let Some(held) = gate.try_hold() {
        return Some(run(&held));
    }
    let (sender, receiver) = oneshot::channel();
    gate.leave(Job::Run(Box::new(move |held| {
        // The thread belongs to a client, which must not suffer from a panic.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            if let Err(unwanted) = sender.send(run(held)) {
                orphan(unwanted);
            }
        }));
    })));
    receiver.await.ok()
}
