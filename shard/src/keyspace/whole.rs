//! Logical indexes as wholes: size, iteration over keys, emptying and swapping.

use std::sync::atomic::Ordering;

use dormouse_storage::shown::ALL_INDEXES;
use dormouse_types::pace;
use dormouse_types::record::Record;

use super::index::{self, Index};
use super::{Fault, Keyspace};

/// Draws before [`Keyspace::random_key`] takes the first key that it finds.
const RANDOM_ATTEMPTS: usize = 200;

impl Keyspace<'_> {
    /// Bytes of the held shards in memory, of all indexes.
    pub fn resident_bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.bytes()).sum()
    }

    /// Keys in the selected index, including expired ones that were not removed yet.
    pub fn len(&self) -> usize {
        self.shards.iter().filter_map(|shard| shard.index(self.select)).map(Index::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same number once it is certain: a place with effects that its counts leave out must be loaded to be counted.
    pub fn count(&mut self) -> usize {
        let uncounted = |index: &Index| {
            let stored = || index.places().iter().filter_map(|place| Some((place, place.stored()?)));
            if index.stored() > 0 {
                stored().find(|(_, stored)| stored.is_uncounted()).map(|(place, _)| place.range.start)
            } else {
                None
            }
        };
        let select = self.select;
        if let Some(prefix) = self.shards.iter().filter_map(|shard| shard.index(select)).find_map(uncounted) {
            self.fault = Some(Fault { select, prefix });
        }
        self.len()
    }

    /// Visits the records (expired ones left out) from `cursor` on, at least `count` of them if the index has as many,
    /// and returns the next cursor; 0 when the end was reached. A cursor is a prefix53, so it means the same for ever.
    pub fn scan(&mut self, cursor: u64, count: usize, mut visit: impl FnMut(&Record)) -> u64 {
        let (now, select, placement) = (self.horizon(), self.select, self.shared.placement);
        let mut at = cursor;
        let mut seen = 0;
        // A bucket may be empty: bound the buckets as Redis does.
        let mut buckets = count.saturating_mul(10).max(10);
        while at < 1 << 53 {
            let shard = &self.shards[self.shard_at(at << 11)];
            let end = index::slot_start(shard.end_slot);
            if at >= end || at < index::slot_start(shard.first_slot) {
                // Another shard has the rest: the client comes back for it.
                return at;
            }
            let Some(index) = shard.index(select) else {
                at = end;
                continue;
            };
            let scanned = index.scan(at, &placement, |record| {
                if record.expiry().is_none_or(|expiry| expiry > now) {
                    seen += 1;
                    visit(record);
                }
            });
            match scanned {
                Ok(next) => at = next,
                Err(prefix) => {
                    if seen == 0 {
                        self.fault = Some(Fault { select, prefix });
                    }
                    return prefix;
                }
            }
            buckets -= 1;
            if seen >= count || buckets == 0 || !pace::goes_on(1) {
                break;
            }
        }
        if at >= 1 << 53 { 0 } else { at }
    }

    /// Visits every record of the selected index that has not expired. All must be resident.
    pub fn for_each(&mut self, mut visit: impl FnMut(&Record)) {
        let (now, select) = (self.horizon(), self.select);
        let mut fault = None;
        for index in self.shards.iter().filter_map(|shard| shard.index(select)) {
            if index.stored() > 0 {
                fault = index.places().iter().find(|place| place.stored().is_some()).map(|place| place.range.start);
                break;
            }
            index.iter().filter(|record| record.expiry().is_none_or(|at| at > now)).for_each(&mut visit);
        }
        if let Some(prefix) = fault {
            self.fault = Some(Fault { select, prefix });
        }
    }

    /// A random key that has not expired. Expired keys met on the way are removed.
    pub fn random_key(&mut self) -> Option<Box<[u8]>> {
        for attempt in 1..=RANDOM_ATTEMPTS {
            let total = self.count();
            if total == 0 || self.has_fault() {
                return None;
            }
            let mut target = (self.random() % total as u64) as usize;
            let mut randoms = self.randoms();
            let (now, select) = (self.horizon(), self.select);
            let shards = self.shards.iter().filter_map(|shard| shard.index(select));
            let index = shards.into_iter().find(|index| match target.checked_sub(index.len()) {
                Some(rest) => {
                    target = rest;
                    false
                }
                None => true,
            })?;
            let found = index.random(&mut randoms);
            let (key, expired): (Box<[u8]>, bool) = match found {
                Ok(record) => {
                    let record = record?;
                    (record.key().into(), record.expiry().is_some_and(|at| at <= now))
                }
                Err(prefix) => {
                    self.fault = Some(Fault { select, prefix });
                    return None;
                }
            };
            // In a followed index expired keys stay, so the search ends with one of them, as in a replica of Redis.
            if !expired || attempt == RANDOM_ATTEMPTS && self.is_followed() {
                return Some(key);
            }
            self.expire(&key);
        }
        // Nearly all keys have expired and wait for their removal: any live one will do.
        let alive = |record: &&Record| record.expiry().is_none_or(|at| at > self.horizon());
        let indexes = self.shards.iter().filter_map(|shard| shard.index(self.select));
        indexes.flat_map(Index::iter).find(alive).map(|record| record.key().into())
    }

    /// Empties logical index `select`; its keyspace gets a new id, so that neither chunks nor effects of the old one
    /// count. Every shard must be held. The old data goes to the graveyard.
    pub fn flush(&mut self, select: u8) {
        let id = self.shared.next_id.fetch_add(1, Ordering::SeqCst);
        let shared = self.shared;
        shared.watches.touch_all(|of| of == select, |_, key| self.may_hold(select, key));
        shared.interest.stir_indexes(1 << select);
        self.untrack_all();
        for at in 0..self.shards.len() {
            let shard = &mut self.shards[at];
            shard.ids[usize::from(select)] = id;
            if let Some(index) = shard.put_index(select, None) {
                self.lay_down_index(at, index);
            }
        }
        self.count_change();
        self.record_ids();
    }

    /// A place that may hold a watched key and that is not in memory: only its contents show whether a flush or a swap
    /// changes the key.
    pub fn watched_missing(&self) -> Option<Fault> {
        let shared = self.shared;
        shared.watches.find(|_, key| {
            let position = self.position(key);
            (0..ALL_INDEXES as u8).find_map(|select| self.missing_in(select, position))
        })
    }

    /// Notes the same as this command's fault. Returns whether there is one.
    pub fn needs_watched(&mut self) -> bool {
        self.fault = self.watched_missing();
        self.fault.is_some()
    }

    /// Whether `key` is in an index, expired or not. A place that is not in memory, as after a sleep, may hold any key.
    pub(super) fn may_hold(&self, select: u8, key: &[u8]) -> bool {
        let position = self.position(key);
        let index = self.shards[self.shard_at(position)].index(select);
        index.is_some_and(|index| !index.is_resident(position) || index.get(position, key).is_some())
    }

    /// Exchanges two logical indexes. Every shard must be held.
    pub fn swap(&mut self, a: u8, b: u8) {
        self.expire_watched(a, b);
        self.expire_watched(b, a);
        let changed = |_: u8, key: &[u8]| self.may_hold(a, key) || self.may_hold(b, key);
        self.shared.watches.touch_all(|of| of == a || of == b, changed);
        self.shared.interest.stir_indexes(1 << a | 1 << b);
        self.untrack_all();
        self.shards.iter_mut().for_each(|shard| shard.swap(a, b));
        self.swap_followed(a, b);
        self.count_change();
        self.record_ids();
    }

    /// Removes expired keys from index `from` whose names are watched in index `into`. For their watchers such a key
    /// does not exist when the index comes to be shown there, and its later removal is no change. Expired keys in
    /// `into` itself stay for [`Self::may_hold`]: WATCH removes keys that have expired before it, so such a key existed
    /// at WATCH and is gone.
    fn expire_watched(&mut self, from: u8, into: u8) {
        let select = std::mem::replace(&mut self.select, from);
        for key in self.shared.watches.keys(into) {
            self.expire(&key);
        }
        self.select = select;
    }

    /// Keys, keys with an expiry, by logical index; for `INFO keyspace`.
    pub fn counts(&self, select: u8) -> (usize, usize) {
        let indexes = self.shards.iter().filter_map(|shard| shard.index(select));
        indexes.fold((0, 0), |(keys, expiring), index| (keys + index.len(), expiring + index.expiring()))
    }
}
