//! The map from slots to shards, and the way in which a command gets its locks.
//!
//! Invariant: the shards of a topology cover all 16384 slots in order. A topology never changes; a split or a merge
//! publishes a new one while it holds the locks of the shards concerned, so a holder of a lock may go on if the
//! contents are not retired and cover the slot.

use std::sync::Arc;

use dormouse_types::segment::slot_of;
use futures::channel::oneshot;

use crate::gate::Job;
use crate::keyspace::Contents;
use crate::shard::{HeldShard, ShardGate};

pub use dormouse_types::segment::SLOTS;

#[derive(Clone)]
pub struct Topology {
    /// First slots, ascending; the first is 0.
    pub firsts: Vec<u16>,
    pub shards: Vec<ShardGate>,
}

impl Topology {
    pub fn new(shards: Vec<(u16, ShardGate)>) -> Self {
        let (firsts, shards) = shards.into_iter().unzip();
        Self { firsts, shards }
    }

    /// The index of the shard that has `slot`.
    pub fn of_slot(&self, slot: u16) -> usize {
        self.firsts.partition_point(|&first| first <= slot) - 1
    }

    /// Whether `contents` are still those of shard `at` when this topology was published.
    pub fn matches(&self, at: usize, contents: &Contents) -> bool {
        let end = self.firsts.get(at + 1).copied().unwrap_or(SLOTS);
        contents.first_slot == self.firsts[at] && contents.end_slot == end
    }

    pub fn of_key(&self, key: &[u8]) -> usize {
        if self.shards.len() == 1 { 0 } else { self.of_slot(slot_of(key)) }
    }
}

/// Takes the locks of `gates`, which must be in slot order, one after the other; no thread waits. Each lock asks for
/// the next one where it is granted.
pub async fn hold(gates: Vec<ShardGate>) -> Vec<HeldShard> {
    let (sender, receiver) = oneshot::channel();
    collect(gates, Vec::new(), sender);
    // The sender is dropped only if the locks were released because the receiver is gone.
    receiver.await.unwrap_or_default()
}

/// The same from a thread that may wait.
pub fn hold_blocking(gates: Vec<ShardGate>) -> Vec<HeldShard> {
    futures::executor::block_on(hold(gates))
}

fn collect(mut gates: Vec<ShardGate>, mut held: Vec<HeldShard>, sender: oneshot::Sender<Vec<HeldShard>>) {
    loop {
        if held.len() == gates.len() {
            // The receiver is gone: the locks are released.
            let _ = sender.send(held);
            return;
        }
        let gate = Arc::clone(&gates[held.len()]);
        let Some(got) = gate.try_hold() else {
            gates.shrink_to_fit();
            gate.leave(Job::Grant(Box::new(move |got| {
                if sender.is_canceled() {
                    return Some(got);
                }
                held.push(got);
                collect(gates, held, sender);
                None
            })));
            return;
        };
        held.push(got);
    }
}
