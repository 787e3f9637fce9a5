//! Eviction: room for a write in a database at its `maxmemory`.
//!
//! 1. What counts is the exact memory of all shards of the database: those that are held, as they are now, the others as
//!    they last published it.
//! 2. While that is over the limit: sample a few keys of the held shards, drop the one that was idle longest. Keys of an
//!    index that follows a source are left alone.
//! 3. Where nothing is left to drop, or the policy is `noeviction`, the command is refused. So is one that fills a staged
//!    index: what an import will replace stays as it is until then, or for good if the import fails.

use std::sync::atomic::Ordering;

use dormouse_storage::effect;
use dormouse_storage::shown::INDEXES;
use dormouse_types::record::access_clock;

use super::{Eviction, Keyspace};
use crate::error::{Error, Result};
use crate::memory::MEMORY;

/// Evictions before one command at most: the pause stays bounded, and the next command goes on.
const EVICTIONS_MAX: usize = 64;

impl Keyspace<'_> {
    /// Makes room before a command that may grow memory. `published`: what the held shards last published.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], or [`Error::OutOfTotal`] where the whole process has no memory left.
    pub fn make_room(&mut self, published: usize) -> Result<()> {
        MEMORY.check()?;
        let Some(limit) = self.shared.memory_max(&self.settings) else { return Ok(()) };
        let elsewhere = self.shared.used.load(Ordering::Relaxed).saturating_sub(published);
        for _ in 0..EVICTIONS_MAX {
            let held: usize = self.shards.iter().map(|shard| shard.bytes()).sum();
            if held + elsewhere <= limit {
                return Ok(());
            }
            let stages = usize::from(self.select) >= INDEXES;
            if self.settings.eviction == Eviction::NoEviction || stages || !self.evict_one() {
                return Err(Error::OutOfMemory);
            }
        }
        Ok(())
    }

    /// Drops the key that was idle longest among a few; false where there is none.
    fn evict_one(&mut self) -> bool {
        let now = access_clock(self.now_ms);
        let selected = self.select;
        let mut worst: Option<(u32, u8, Box<[u8]>)> = None;
        // What is followed or staged goes when its source says so.
        for select in (0..INDEXES as u8).filter(|select| !self.shared.is_followed(*select)) {
            for shard in 0..self.shards.len() {
                for _ in 0..self.settings.eviction_samples {
                    let seeds = [self.random(), self.random(), self.random()];
                    let Some(index) = self.shards[shard].index(select).filter(|index| !index.is_empty()) else { break };
                    let mut state = seeds[0];
                    let draw = || {
                        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(seeds[1] | 1);
                        (state ^ (state >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 3
                    };
                    let Ok(Some(record)) = index.random(draw) else { continue };
                    let idle = now.wrapping_sub(record.access()) & 0xff_ffff;
                    if worst.as_ref().is_none_or(|(most, ..)| idle > *most) {
                        worst = Some((idle, select, record.key().into()));
                    }
                }
            }
        }
        let Some((_, select, key)) = worst else { return false };
        self.select = select;
        let (position, placement) = (self.position(&key), self.shared.placement);
        let record =
            self.shard(position).index_mut(select).and_then(|index| index.remove(position, &key, true, &placement));
        let evicted = record.is_some();
        self.bury(record);
        self.shared.watches.touch(select, &key);
        self.shared.evicted.fetch_add(1, Ordering::Relaxed);
        if self.shared.journal.is_recording() {
            self.record(&key, |body| effect::delete(body, &key));
        }
        self.select = selected;
        evicted
    }
}
