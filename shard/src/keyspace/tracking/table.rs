//! The keys that clients have read and may keep, with the clients of each.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use fastrand::Rng;
use smallvec::SmallVec;

/// The clients that have read a key. Those that have left are among them until they would need room.
pub type Readers = SmallVec<[u64; 2]>;

/// Bytes of a key's entry beside its name and readers that need room of their own.
const ENTRY_BYTES: usize = 160;

#[derive(Debug)]
struct Entry {
    key: Arc<[u8]>,
    readers: Readers,
    /// Whether the key, or a field of it, will expire.
    expires: bool,
}

impl Entry {
    fn bytes(&self) -> usize {
        let spilled = if self.readers.spilled() { self.readers.capacity() * size_of::<u64>() } else { 0 };
        ENTRY_BYTES + self.key.len() + spilled
    }
}

/// A part of the table. Growing one moves so few entries that no turn becomes long by it.
#[derive(Debug, Default)]
struct Part {
    /// In no order, so that a random one can be dropped.
    entries: Vec<Entry>,
    places: HashMap<Arc<[u8]>, usize>,
    /// Number of readers of all keys.
    items: usize,
    bytes: usize,
}

const PARTS: usize = 64;

#[derive(Debug)]
pub struct ReaderTable {
    parts: Vec<Part>,
    hasher: RandomState,
    rng: Rng,
    len: usize,
    items: usize,
    bytes: usize,
}

impl Default for ReaderTable {
    fn default() -> Self {
        let (parts, hasher) = (Vec::new(), RandomState::new());
        Self { parts, hasher, rng: Rng::with_seed(1), len: 0, items: 0, bytes: 0 }
    }
}

impl ReaderTable {
    pub fn len(&self) -> usize {
        self.len
    }

    /// Number of readers of all keys.
    pub fn items(&self) -> usize {
        self.items
    }

    /// Bytes that it takes, nearly.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a reader of `key`. `is_here` tells whether another reader still is.
    pub fn add(&mut self, key: &[u8], client: u64, expires: bool, is_here: impl Fn(u64) -> bool) {
        if self.parts.is_empty() {
            self.parts.resize_with(PARTS, Part::default);
        }
        let at = self.part_of(key);
        self.change(at, |part| part.add(key, client, expires, is_here));
    }

    /// Removes a key, and returns its readers.
    pub fn take(&mut self, key: &[u8]) -> Option<(Arc<[u8]>, Readers)> {
        if self.len == 0 {
            return None;
        }
        let at = self.part_of(key);
        let place = *self.parts[at].places.get(key)?;
        Some(self.change(at, |part| part.take_at(place)))
    }

    /// Removes a random key.
    pub fn take_any(&mut self) -> Option<(Arc<[u8]>, Readers)> {
        if self.len == 0 {
            return None;
        }
        let first = self.rng.usize(..PARTS);
        let at = (0..PARTS).map(|turn| (first + turn) % PARTS).find(|at| !self.parts[*at].entries.is_empty())?;
        let place = self.rng.usize(..self.parts[at].entries.len());
        Some(self.change(at, |part| part.take_at(place)))
    }

    /// Removes the keys that will expire.
    pub fn take_expiring(&mut self) -> Vec<(Arc<[u8]>, Readers)> {
        (0..self.parts.len()).flat_map(|at| self.change(at, Part::take_expiring)).collect()
    }

    fn part_of(&self, key: &[u8]) -> usize {
        self.hasher.hash_one(key) as usize % PARTS
    }

    fn change<R>(&mut self, at: usize, change: impl FnOnce(&mut Part) -> R) -> R {
        let part = &mut self.parts[at];
        (self.len, self.items, self.bytes) =
            (self.len - part.entries.len(), self.items - part.items, self.bytes - part.bytes);
        let done = change(part);
        (self.len, self.items, self.bytes) =
            (self.len + part.entries.len(), self.items + part.items, self.bytes + part.bytes);
        done
    }
}

impl Part {
    fn add(&mut self, key: &[u8], client: u64, expires: bool, is_here: impl Fn(u64) -> bool) {
        let Some(&at) = self.places.get(key) else {
            let entry = Entry { key: key.into(), readers: Readers::from_slice(&[client]), expires };
            self.bytes += entry.bytes();
            self.items += 1;
            self.places.insert(Arc::clone(&entry.key), self.entries.len());
            self.entries.push(entry);
            return;
        };
        let entry = &mut self.entries[at];
        entry.expires |= expires;
        if entry.readers.contains(&client) {
            return;
        }
        self.bytes -= entry.bytes();
        self.items -= entry.readers.len();
        if entry.readers.len() == entry.readers.capacity() {
            // Room grows with the clients that are here, not with all that ever were.
            entry.readers.retain(|reader| is_here(*reader));
        }
        entry.readers.push(client);
        self.items += entry.readers.len();
        self.bytes += entry.bytes();
    }

    fn take_expiring(&mut self) -> Vec<(Arc<[u8]>, Readers)> {
        let mut taken = Vec::new();
        for at in (0..self.entries.len()).rev() {
            if self.entries[at].expires {
                taken.push(self.take_at(at));
            }
        }
        taken
    }

    fn take_at(&mut self, at: usize) -> (Arc<[u8]>, Readers) {
        let entry = self.entries.swap_remove(at);
        self.places.remove(&entry.key);
        if let Some(moved) = self.entries.get(at)
            && let Some(place) = self.places.get_mut(&moved.key)
        {
            *place = at;
        }
        self.bytes -= entry.bytes();
        self.items -= entry.readers.len();
        if self.entries.capacity() > 64 && self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(self.entries.capacity() / 2);
            self.places.shrink_to(self.entries.capacity() / 2);
        }
        (entry.key, entry.readers)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn it_knows_the_readers_of_each_key() {
        let mut rng = Rng::with_seed(3);
        let mut table = ReaderTable::default();
        let mut model: BTreeMap<Vec<u8>, (BTreeSet<u64>, bool)> = BTreeMap::new();
        for _ in 0..50_000 {
            let key = rng.u8(..40).to_string().into_bytes();
            match rng.u8(..20) {
                0..12 => {
                    let (client, expires) = (rng.u64(1..9), rng.u8(..4) == 0);
                    table.add(&key, client, expires, |_| true);
                    let entry = model.entry(key).or_default();
                    entry.0.insert(client);
                    entry.1 |= expires;
                }
                12..18 => {
                    let taken = table.take(&key).map(|(_, readers)| readers.into_iter().collect());
                    assert_eq!(taken, model.remove(&key).map(|(readers, _)| readers));
                }
                18 => {
                    let taken = table.take_any().map(|(key, readers)| (key.to_vec(), readers.into_iter().collect()));
                    assert_eq!(taken.is_none(), model.is_empty());
                    if let Some((key, readers)) = taken {
                        assert_eq!(model.remove(&key).map(|(readers, _)| readers), Some(readers));
                    }
                }
                _ if rng.u8(..8) == 0 => {
                    let taken: BTreeSet<_> = table.take_expiring().into_iter().map(|(key, _)| key.to_vec()).collect();
                    let expected: BTreeSet<_> =
                        model.iter().filter(|(_, (_, expires))| *expires).map(|(key, _)| key.clone()).collect();
                    assert_eq!(taken, expected);
                    model.retain(|_, (_, expires)| !*expires);
                }
                _ => {}
            }
            let items: usize = model.values().map(|(readers, _)| readers.len()).sum();
            assert_eq!((table.len(), table.items()), (model.len(), items));
        }
        while table.take_any().is_some() {}
        assert_eq!((table.bytes(), table.items()), (0, 0));
    }

    #[test]
    fn clients_that_have_left_take_no_room_for_long() {
        let mut table = ReaderTable::default();
        for client in 0..100_000 {
            table.add(b"k", client, false, |reader| reader + 10 > client);
        }
        assert!(table.items() < 32 && table.bytes() < 1000, "{} {}", table.items(), table.bytes());
    }
}
