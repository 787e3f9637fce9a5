//! Active expiry of a database: slices under the locks of its shards, as many as there is something stale.
//!
//! What a slice does is the keyspace's, in [`expiry`](crate::keyspace::expiry).

use std::sync::Arc;

use futures::channel::oneshot;

use crate::database::Database;
use crate::gate::Job;
use crate::keyspace::expiry::Slice;
use crate::keyspace::graveyard::takes_long_to_free;
use crate::keyspace::{Dead, Graveyard};
use crate::shard::{HeldShard, ShardGate};

/// Steps of one slice: at most about a quarter of a millisecond under the lock.
const SLICE_STEPS: usize = 8_192;

impl Database {
    /// The shards in which a key may have expired. No lock is taken for it.
    pub fn shards_to_sweep(&self) -> Vec<ShardGate> {
        let now_ms = (self.engine.clock)();
        let topology = self.topology_guard();
        let shards = topology.iter().flat_map(|topology| &topology.shards);
        shards.filter(|gate| gate.guarded.may_have_expired(now_ms)).cloned().collect()
    }

    /// Removes keys of a shard that have expired, by one slice, and answers whether another one is worth it now. If its lock
    /// is taken, the holder does it.
    pub async fn sweep(self: &Arc<Self>, gate: &ShardGate) -> bool {
        let slice = match gate.try_hold() {
            Some(held) => self.sweep_held(&held, SLICE_STEPS),
            None => {
                let (sender, receiver) = oneshot::channel();
                let database = Arc::clone(self);
                gate.leave(Job::Run(Box::new(move |held| {
                    // Who asked has gone with the process, if at all.
                    let _ = sender.send(database.sweep_held(held, SLICE_STEPS));
                })));
                receiver.await.unwrap_or_default()
            }
        };
        let more = slice.is_worth_more();
        self.free_slice(slice);
        more
    }

    /// Removes keys that have expired, about `steps` steps in each shard whose lock is free.
    pub fn expire_slice(&self, steps: usize) {
        for gate in self.shards_to_sweep() {
            if let Some(held) = gate.try_hold() {
                let slice = self.sweep_held(&held, steps);
                drop(held);
                self.free_slice(slice);
            }
        }
    }

    fn sweep_held(&self, held: &HeldShard, steps: usize) -> Slice {
        held.contents().expire(&self.shared, (self.engine.clock)(), steps)
    }

    fn free_slice(&self, slice: Slice) {
        let mut graveyard = Graveyard::default();
        for record in slice.removed {
            if takes_long_to_free(&record) {
                graveyard.bury(Dead::Record(record));
            }
        }
        self.free(graveyard);
    }
}
