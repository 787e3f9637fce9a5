//! Splitting and merging shards, even while they are being written to.
//!
//! A split cuts the index's places at a slot (splitting the one segment that straddles it), moves the places behind the
//! cut into contents of their own, and publishes the new topology, all under the shard's lock: a fraction of a
//! millisecond, whatever the number of keys, as places are moved and nothing is rehashed. Commands that were routed by
//! the old topology find that the contents do not match it, and route again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

use dormouse_storage::log::Lsn;
use dormouse_storage::shown::{ALL_INDEXES, INDEXES};
use dormouse_types::segment::SLOTS;

use crate::database::{Counts, Database};
use crate::error::{Error, Result};
use crate::keyspace::Fault;
use crate::keyspace::index::slot_start;
use crate::shard::{Shard, ShardGate, ShardView};
use crate::topology::{Topology, hold};

impl Database {
    /// Splits the shard that has `slot` so that a shard begins there. Returns false if one begins there already.
    ///
    /// # Errors
    /// When the slot does not exist, or a place that straddles the cut cannot be loaded.
    pub async fn split(self: &Arc<Self>, slot: u16) -> Result<bool> {
        if slot >= SLOTS {
            return Err(Error::text("ERR slot is out of range (0-16383)"));
        }
        let _transition = self.transition.lock().await;
        loop {
            let Some(topology) = self.topology() else { return Ok(false) };
            let at = topology.of_slot(slot);
            if topology.firsts[at] == slot {
                return Ok(false);
            }
            let straddling = {
                let held = hold(vec![Arc::clone(&topology.shards[at])]).await;
                let Some(shard) = held.first() else { continue };
                let mut contents = shard.contents();
                if contents.cut(slot) {
                    let right = contents.split_off(slot);
                    let mut next = Topology::clone(&topology);
                    next.firsts.insert(at + 1, slot);
                    next.shards.insert(at + 1, Shard::gate_beside(&shard.gate().guarded, right));
                    self.publish(Some(next));
                    self.counters.splits.fetch_add(1, Ordering::Relaxed);
                    return Ok(true);
                }
                let prefix = slot_start(slot);
                let stored = |select: &u8| {
                    contents.index(*select).is_some_and(|index| {
                        let place = index.place(prefix);
                        place.stored().is_some() && place.range.start != prefix
                    })
                };
                (0..ALL_INDEXES as u8).find(stored).map(|select| Fault { select, prefix })
            };
            if let Some(fault) = straddling {
                self.load(fault).await?;
            }
        }
    }

    /// Merges the shard that begins at `slot` into the one before it. Returns false if none begins there, or it is the
    /// first.
    ///
    /// # Errors
    /// None so far; a result for the sake of its callers.
    pub async fn merge(self: &Arc<Self>, slot: u16) -> Result<bool> {
        let _transition = self.transition.lock().await;
        let Some(topology) = self.topology() else { return Ok(false) };
        let at = topology.of_slot(slot);
        if at == 0 || topology.firsts[at] != slot {
            return Ok(false);
        }
        let gates = vec![Arc::clone(&topology.shards[at - 1]), Arc::clone(&topology.shards[at])];
        let held = hold(gates).await;
        let [left, right] = &held[..] else { return Ok(false) };
        let Some(moved) = self.retire(std::slice::from_ref(right)).pop() else { return Ok(false) };
        left.contents().append(moved);
        left.gate().guarded.append(&right.gate().guarded);
        let mut next = Topology::clone(&topology);
        next.firsts.remove(at);
        next.shards.remove(at);
        self.publish(Some(next));
        self.counters.merges.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    /// The shards, as far as they can be seen without waiting for their locks; empty while the database sleeps. `take`:
    /// the load counters start again from zero.
    pub fn shards(&self, take: bool) -> Vec<ShardView> {
        let Some(topology) = self.topology() else { return Vec::new() };
        let view = |(at, gate): (usize, &ShardGate)| {
            Shard::ask(gate);
            let end_slot = topology.firsts.get(at + 1).copied().unwrap_or(SLOTS);
            ShardView { first_slot: topology.firsts[at], end_slot, ..gate.guarded.view(take) }
        };
        topology.shards.iter().enumerate().map(view).collect()
    }

    /// The number of places, as it was when the shards were last looked at.
    pub fn places_seen(&self) -> usize {
        self.topology_guard().iter().flat_map(|topology| &topology.shards).map(|gate| gate.guarded.places_seen()).sum()
    }

    /// Keys, and keys with an expiry, of each logical index, as the holders of the locks have left them. Never wakes
    /// the database.
    pub fn counts(&self) -> Counts {
        loop {
            let Some(topology) = self.topology() else { return self.stored_counts() };
            let load = |count: &AtomicUsize| count.load(Ordering::Relaxed) as u64;
            let counts = self.shared.counts.each_ref().map(|(keys, expiring)| (load(keys), load(expiring)));
            // A shard that was retired meanwhile shows nothing.
            if self.topology().is_some_and(|now| Arc::ptr_eq(&now, &topology)) {
                return counts;
            }
        }
    }

    /// The end in the log that must be durable before counts are reported that were read earlier.
    pub fn told_until(&self) -> Lsn {
        if !self.shared.journal.is_strict() {
            return 0;
        }
        fence(Ordering::Acquire);
        self.shared.told.load(Ordering::Acquire)
    }

    /// The milliseconds that keys with an expiry have left on average, by logical index; 0 if none is in memory. Some
    /// keys of each shard stand for all, as [`Self::shards`] last saw them.
    pub fn milliseconds_left(&self, now_ms: u64) -> [u64; INDEXES] {
        let mut sums = [(0u128, 0u128); INDEXES];
        for gate in self.topology().iter().flat_map(|topology| &topology.shards) {
            for ((sum, weight), expiries) in sums.iter_mut().zip(gate.guarded.expiries()) {
                let left = u128::from(expiries.at_ms.saturating_sub(now_ms));
                *sum += left * u128::from(expiries.keys);
                *weight += u128::from(expiries.keys);
            }
        }
        sums.map(|(sum, weight)| sum.checked_div(weight).unwrap_or(0) as u64)
    }
}
