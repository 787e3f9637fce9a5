//! Eviction: room for a write in a database at its `maxmemory`.
//!
//! 1. The memory that counts is the exact memory of all shards of the database (held ones as they are now, the others
//!    as last published), plus the bytes that the command is about to add: a big value is counted before it is stored.
//! 2. While that is over the limit, a *look* makes room: it sees some records of a random place, neighbours in its
//!    table and so as good as any others, and drops the few among them that the policy likes least, until enough is
//!    free. Keys of an index that follows a source are left alone.
//! 3. A command makes a few looks itself, under its locks. If that is not enough, or its shard has nothing to drop, it
//!    waits: [`Database::make_room`](crate::database::Database::make_room) goes on, slice by slice and over all shards.
//! 4. Values that a checkpoint of one moment still writes are left alone, as dropping them frees nothing before it ends.
//!    If nothing else is left, the command waits for the checkpoint.
//! 5. If nothing is left to drop, or the policy is `noeviction`, or the command adds more than the limit allows, it is
//!    refused. So is one that fills a staged index: data that an import will replace stays as it is until then, or for
//!    good if the import fails.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_protocol::Request;
use dormouse_storage::log::Lsn;
use dormouse_storage::shown::INDEXES;
use dormouse_storage::{effect, log};
use dormouse_types::record::{Entry, Record, size_class};
use dormouse_types::segment::{Placement, SlotPlacement};
use fastrand::Rng;

use super::access::Uses;
use super::changes::KeyEvent;
use super::graveyard::{Dead, Parked, takes_long_to_free};
use super::index::{Index, place_at};
use super::notices::Noted;
use super::outbox::Outbox;
use super::place::Place;
use super::{Contents, EngineSettings, Eviction, Keyspace, Shared};
use crate::error::Error;
use crate::memory::COUNTED_BYTES;

/// Records that a look sees for each of `maxmemory-samples`.
const SEEN_EACH: usize = 12;
/// At most one in this many of the records that a look has seen is dropped: those idle longest are then about as old as
/// those that an exact order would drop.
const DROPPED_ONE_IN: usize = 16;
/// Looks of one command under its locks: some tens of microseconds.
const LOOKS_INLINE: usize = 8;
/// Looks of one slice without a command: a fraction of a millisecond.
const LOOKS_SLICE: usize = 128;
/// Approximate overhead of a key or an element beyond its own bytes.
const OVERHEAD_EACH: usize = 16;

/// The reason why a command has no room now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoRoom {
    /// It will have none: [`Error::OutOfMemory`], or [`Error::OutOfTotal`] if the whole process has none left.
    Refused(Error),
    /// More can be dropped than the command may drop itself: it must wait for so many bytes.
    Wait(usize),
    /// The log must be written up to here before it takes the command's effects.
    Log(Lsn),
}

/// The bytes that a command needs, at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// For good.
    pub adds: usize,
    /// Until it has run, including the bytes that it adds: the copies that it makes on the way, and its effects.
    pub while_it_runs: usize,
    /// In the log.
    pub logged: usize,
}

impl Needs {
    /// Those of a receipt of `bytes`, which is written once into the entry and copied from there into the log.
    pub fn of_receipt(bytes: usize) -> Self {
        let adds = size_class(bytes) + OVERHEAD_EACH;
        Self { adds, while_it_runs: adds + 2 * bytes, logged: bytes }
    }

    pub fn add(&mut self, more: Self) {
        self.adds = self.adds.saturating_add(more.adds);
        self.while_it_runs = self.while_it_runs.saturating_add(more.while_it_runs);
        self.logged = self.logged.saturating_add(more.logged);
    }
}

/// A record that was dropped: its logical index, its position, and itself.
type Dropped = (u8, u64, Record);

/// Approximate bytes that a request adds, at most, if it stores its arguments.
pub fn added_bytes(request: Request<'_>) -> usize {
    request.iter().skip(1).map(|argument| size_class(argument.len()) + OVERHEAD_EACH).sum()
}

impl Keyspace<'_> {
    /// Makes room before a command. `published`: the memory that the held shards last published.
    ///
    /// # Errors
    /// When it has no room, with the remedy.
    pub fn make_room(&mut self, published: isize, needs: Needs) -> Result<(), NoRoom> {
        self.shared.memory.check(self.shared.used.load(Ordering::Relaxed)).map_err(NoRoom::Refused)?;
        self.reserve(needs.while_it_runs)?;
        let adds = needs.adds;
        let Some(limit) = self.shared.memory_max(&self.settings) else { return Ok(()) };
        let used = self.shared.used.load(Ordering::Relaxed);
        let elsewhere = used.cast_signed().saturating_sub(published).max(0).cast_unsigned();
        for looks in 0.. {
            let held: usize = self.shards.iter().map(|shard| shard.bytes()).sum();
            let excess = (held + elsewhere).saturating_add(adds).saturating_sub(limit);
            if excess == 0 {
                break;
            }
            let stages = usize::from(self.select) >= INDEXES;
            if stages || adds > limit || self.settings.eviction == Eviction::NoEviction {
                return Err(NoRoom::Refused(Error::OutOfMemory));
            }
            if looks == LOOKS_INLINE {
                return Err(NoRoom::Wait(adds));
            }
            if !self.evict_some(excess) {
                // Another shard may have something to drop, or a checkpoint may keep what this one has.
                let may_come = elsewhere > 0 || self.shared.parked.is_open();
                return Err(if may_come { NoRoom::Wait(adds) } else { NoRoom::Refused(Error::OutOfMemory) });
            }
        }
        Ok(())
    }

    /// Reserves memory of the process until the locks are released. Small amounts need no reservation.
    ///
    /// # Errors
    /// When less than that is left.
    pub fn reserve(&mut self, bytes: usize) -> Result<(), NoRoom> {
        if bytes < COUNTED_BYTES {
            return Ok(());
        }
        // Growth under these locks is published only when they are released, but it is reserved.
        let used = self.shared.used.load(Ordering::Relaxed) + self.reserved_bytes();
        let more = self.shared.memory.reserve(bytes, used).map_err(NoRoom::Refused)?;
        if let Some(shard) = self.shards.first_mut() {
            match &mut shard.reserved {
                Some(reserved) => reserved.append(more),
                None => shard.reserved = Some(more),
            }
        }
        Ok(())
    }

    /// The bytes of the process that are reserved until the locks are released.
    fn reserved_bytes(&self) -> usize {
        self.shards.first().and_then(|shard| shard.reserved.as_ref()).map_or(0, |reserved| reserved.bytes())
    }

    /// Reserves memory for a result of `bytes` that a command is about to store, and for its effect.
    ///
    /// # Errors
    /// [`Error::OutOfTotal`] when less than that is left.
    pub fn reserve_result(&mut self, bytes: usize) -> crate::error::Result<()> {
        let effects = if self.shared.journal.is_recording() { 2 } else { 0 };
        match self.reserve(bytes.saturating_mul(1 + effects)) {
            Err(NoRoom::Refused(error)) => Err(error),
            Err(NoRoom::Wait(_) | NoRoom::Log(_)) | Ok(()) => Ok(()),
        }
    }

    /// Refuses a command of a transaction that needs more than was known when the transaction began, when `before`
    /// bytes were held. A transaction makes room once, and its earlier commands may have enlarged a value that this one
    /// copies.
    ///
    /// # Errors
    /// As [`Self::make_room`].
    pub fn check_growth(&mut self, before: usize, needs: Needs) -> crate::error::Result<()> {
        let held = self.resident_bytes();
        // The effects of all of it wait in memory for the log.
        let kept = held.saturating_sub(before).saturating_add(self.items.len());
        let wanted = kept.saturating_add(needs.while_it_runs);
        match self.reserve(wanted.saturating_sub(self.reserved_bytes())) {
            Err(NoRoom::Refused(error)) => return Err(error),
            Err(NoRoom::Wait(_) | NoRoom::Log(_)) | Ok(()) => {}
        }
        let after = held.saturating_add(needs.adds);
        match self.shared.memory_max(&self.settings) {
            Some(limit) if after > limit && after.saturating_sub(before) >= COUNTED_BYTES => Err(Error::OutOfMemory),
            _ => Ok(()),
        }
    }

    /// One look at one of the held shards, all bytes being equally likely; false if it had nothing to drop.
    fn evict_some(&mut self, wanted: usize) -> bool {
        let (shared, settings) = (self.shared, Arc::clone(&self.settings));
        let chance = self.random();
        let first = weighted(self.shards.iter().map(|shard| shard.bytes()), chance);
        for turn in 0..self.shards.len() {
            let at = (first + turn) % self.shards.len();
            let (now_ms, mut random) = (self.now_ms, self.randoms());
            let mut noted = std::mem::take(&mut self.noted);
            let dropped = self.shards[at].look((shared, &mut noted), &settings, now_ms, &mut random, wanted);
            self.noted = noted;
            if dropped.is_empty() {
                continue;
            }
            for (select, position, record) in dropped {
                if shared.journal.is_recording() {
                    let keyspace = self.shards[at].ids[usize::from(select)];
                    self.take_items();
                    log::format::write_effect(&mut self.items, keyspace, position, |body| {
                        effect::delete(body, record.key())
                    });
                }
                if takes_long_to_free(&record) {
                    self.lay_down(at, Dead::Record(record));
                }
            }
            return true;
        }
        false
    }
}

impl Contents {
    /// Drops records until `wanted` bytes are free, as far as one slice may go, as an entry of its own in the log.
    /// Returns the dropped records, to be freed without the lock.
    pub fn evict(&mut self, shared: &Shared, now_ms: u64, seed: u64, wanted: usize) -> Vec<Record> {
        let (settings, mut random) = (shared.settings.load_full(), Rng::with_seed(seed));
        let mut random = move || random.u64(..);
        let (mut dropped, mut items, mut freed) = (Vec::new(), Vec::new(), 0);
        let records = shared.journal.is_recording();
        if records && shared.admit().is_err() {
            return dropped;
        }
        let (mut positions, mut noted) = (Vec::new(), Noted::default());
        for _ in 0..LOOKS_SLICE {
            let found = self.look((shared, &mut noted), &settings, now_ms, &mut random, wanted - freed);
            if found.is_empty() {
                break;
            }
            for (select, position, record) in found {
                freed += record.heap_bytes();
                if records {
                    let keyspace = self.ids[usize::from(select)];
                    log::format::write_effect(&mut items, keyspace, position, |body| {
                        effect::delete(body, record.key())
                    });
                    positions.push(position);
                }
                dropped.push(record);
            }
            if freed >= wanted {
                break;
            }
        }
        let kept = self.keep_captured(shared, now_ms, noted.take_captured(), records.then_some(&mut items));
        let (mut awaited, mut lsn) = (0, 0);
        if !items.is_empty() {
            lsn = shared.journal.append(&shared.sequence, now_ms, &items);
            awaited = self.note_unflushed(shared, positions.into_iter(), lsn);
        }
        Outbox::queue(kept, lsn);
        shared.notices.hand_over(&mut noted, awaited);
        dropped
    }

    /// Looks at some records of one place and drops the few that the policy likes least, until `wanted` bytes are free.
    /// Drops nothing if no record may go.
    fn look(
        &mut self,
        (shared, noted): (&Shared, &mut Noted),
        settings: &EngineSettings,
        now_ms: u64,
        random: &mut impl FnMut() -> u64,
        wanted: usize,
    ) -> Vec<Dropped> {
        let policy = settings.eviction;
        let weight = |index: &Index| if policy.is_volatile() { index.expiring() } else { index.len() };
        // Followed or staged keys go when their source says so.
        let weights: [usize; INDEXES] = std::array::from_fn(|select| {
            let own = self.index(select as u8).filter(|_| !shared.is_followed(select as u8));
            own.map_or(0, weight)
        });
        let first = weighted(weights.iter().copied(), random());
        let placement = self.placement;
        for turn in 0..INDEXES {
            let select = (first + turn) % INDEXES;
            let Some(index) = self.index_mut(select as u8).filter(|_| weights[select] > 0) else { continue };
            let least_liked = index.least_liked((settings, &shared.parked), now_ms, random, wanted, &placement);
            if least_liked.is_empty() {
                continue;
            }
            let mut dropped = Vec::with_capacity(least_liked.len());
            for (position, key) in least_liked {
                if let Some(record) = index.remove(position, &key, true, &placement) {
                    shared.dropped(noted, KeyEvent::EVICTED, select as u8, &key);
                    dropped.push((select as u8, position, record));
                }
            }
            shared.evicted.fetch_add(dropped.len() as u64, Ordering::Relaxed);
            return dropped;
        }
        Vec::new()
    }
}

impl Index {
    /// The keys, with their positions, that a look at a place in memory would drop.
    fn least_liked(
        &mut self,
        (settings, parked): (&EngineSettings, &Parked),
        now_ms: u64,
        random: &mut impl FnMut() -> u64,
        wanted: usize,
        placement: &SlotPlacement,
    ) -> Vec<(u64, Box<[u8]>)> {
        let (policy, uses) = (settings.eviction, Uses::new(settings, now_ms));
        let Some(at) = self.place_to_look_at(policy, random) else { return Vec::new() };
        let Some(segment) = place_at(&self.places, at).segment() else { return Vec::new() };
        // A parked record frees no memory.
        let may_go =
            |record: &&Record| (!policy.is_volatile() || record.expiry().is_some()) && !parked.wants_record(record);
        let seen = segment.from_random(random()).filter(may_go).take(settings.eviction_samples * SEEN_EACH);
        let mut seen: Vec<(u64, &Record)> = seen.map(|record| (policy.dislike(record, uses), record)).collect();
        let most = seen.len().div_ceil(DROPPED_ONE_IN);
        if most < seen.len() {
            seen.select_nth_unstable_by_key(most, |(dislike, _)| Reverse(*dislike));
            seen.truncate(most);
        }
        seen.sort_unstable_by_key(|(dislike, _)| Reverse(*dislike));
        let mut freed = 0;
        let mut keys = Vec::with_capacity(most);
        for (_, record) in seen {
            if freed < wanted {
                freed += record.heap_bytes();
                keys.push((placement.position(record.key()), record.key().into()));
            }
        }
        keys
    }

    /// A place in memory with records to drop, all records being about equally likely unless few may go.
    fn place_to_look_at(&mut self, policy: Eviction, random: &mut impl FnMut() -> u64) -> Option<usize> {
        const TRIES: usize = 16;
        /// More than a segment holds.
        const MOST: u64 = 2048;
        let weight = |place: &Place| match place.segment() {
            None => 0,
            Some(_) if policy.is_volatile() => place.expiring as usize,
            Some(segment) => segment.len(),
        };
        for _ in 0..TRIES {
            let at = (random() % self.places.len() as u64) as usize;
            if random() % MOST < weight(place_at(&self.places, at)) as u64 {
                return Some(at);
            }
        }
        // Few places have any: take the next one that has, from where the last was found. So all of them are looked at
        // once in total, not once for each one found.
        let count = self.places.len();
        // Places have come and gone since, as a shard was split.
        let last = place_at(&self.places, count - 1).range.start;
        let first = self.places.find(self.evicted_from.clamp(place_at(&self.places, 0).range.start, last));
        let at = (0..count).map(|turn| (first + turn) % count).find(|at| weight(place_at(&self.places, *at)) > 0)?;
        self.evicted_from = place_at(&self.places, at).range.start;
        Some(at)
    }
}

impl Eviction {
    /// Whether only keys with an expiry are dropped.
    pub fn is_volatile(self) -> bool {
        matches!(
            self,
            Self::VolatileLfu | Self::VolatileLrm | Self::VolatileLru | Self::VolatileRandom | Self::VolatileTtl
        )
    }

    /// The policy's dislike of a record: the one with the most goes first.
    fn dislike(self, record: &Record, uses: Uses) -> u64 {
        match (self, uses) {
            (Self::NoEviction | Self::AllKeysRandom | Self::VolatileRandom, _) => 0,
            (Self::VolatileTtl, _) => u64::MAX - record.expiry().unwrap_or(u64::MAX),
            (_, Uses::Frequency(now)) => u64::from(u8::MAX - now.counter(record.access())),
            (_, uses) => u64::from(uses.idle_seconds(record.access()).unwrap_or(0)),
        }
    }
}

/// One of several, each as likely as its weight says; the first where all are 0.
pub fn weighted(weights: impl Iterator<Item = usize> + Clone, random: u64) -> usize {
    let total: usize = weights.clone().sum();
    let mut target = ((u128::from(random) * total as u128) >> 64) as usize;
    for (at, weight) in weights.enumerate() {
        match target.checked_sub(weight) {
            Some(rest) => target = rest,
            None => return at,
        }
    }
    0
}

#[cfg(test)]
mod tests;
