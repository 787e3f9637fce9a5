//! The prefixes of keys that clients follow in broadcasting mode.
//!
//! A key is compared with all prefixes by one walk over its bytes: at each length that some prefix has, the hash of the
//! bytes so far leads to the prefix with these bytes. So the cost of a change grows with the length of its key, not with
//! the number of prefixes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The offset and the prime of FNV-1a. Equal hashes are told apart by the bytes.
const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

#[derive(Debug, Default)]
pub(super) struct Prefixes {
    by_hash: HashMap<u64, Vec<Prefix>>,
    /// Number of prefixes of each length.
    lengths: BTreeMap<usize, usize>,
}

#[derive(Debug)]
struct Prefix {
    bytes: Box<[u8]>,
    clients: BTreeSet<u64>,
}

fn hash(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}

impl Prefixes {
    pub fn len(&self) -> usize {
        self.lengths.values().sum()
    }

    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    pub fn add(&mut self, bytes: &[u8], client: u64) {
        let same = self.by_hash.entry(hash(OFFSET, bytes)).or_default();
        if let Some(prefix) = same.iter_mut().find(|prefix| *prefix.bytes == *bytes) {
            prefix.clients.insert(client);
            return;
        }
        same.push(Prefix { bytes: bytes.into(), clients: BTreeSet::from([client]) });
        *self.lengths.entry(bytes.len()).or_default() += 1;
    }

    pub fn remove(&mut self, bytes: &[u8], client: u64) {
        let hash = hash(OFFSET, bytes);
        let Some(same) = self.by_hash.get_mut(&hash) else { return };
        let Some(at) = same.iter().position(|prefix| *prefix.bytes == *bytes) else { return };
        same[at].clients.remove(&client);
        if !same[at].clients.is_empty() {
            return;
        }
        same.swap_remove(at);
        if same.is_empty() {
            self.by_hash.remove(&hash);
        }
        if let Some(count) = self.lengths.get_mut(&bytes.len()) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&bytes.len());
            }
        }
    }

    /// The prefixes of `key`, each with the clients that follow it, from the shortest on.
    pub fn of<'p>(&'p self, key: &'p [u8]) -> impl Iterator<Item = (&'p [u8], &'p BTreeSet<u64>)> {
        let (mut so_far, mut at) = (OFFSET, 0);
        self.lengths.range(..=key.len()).filter_map(move |(&length, _)| {
            so_far = hash(so_far, &key[at..length]);
            at = length;
            let same = self.by_hash.get(&so_far)?;
            let prefix = same.iter().find(|prefix| *prefix.bytes == key[..length])?;
            Some((&*prefix.bytes, &prefix.clients))
        })
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    #[test]
    fn a_key_meets_exactly_its_prefixes() {
        let mut rng = Rng::with_seed(7);
        let word = |rng: &mut Rng| -> Vec<u8> { (0..rng.usize(..6)).map(|_| b"ab"[rng.usize(..2)]).collect() };
        let (mut prefixes, mut model) = (Prefixes::default(), BTreeSet::new());
        for _ in 0..20_000 {
            let (bytes, client) = (word(&mut rng), rng.u64(..4));
            if rng.bool() {
                prefixes.add(&bytes, client);
                model.insert((bytes, client));
            } else {
                prefixes.remove(&bytes, client);
                model.remove(&(bytes, client));
            }
            let key = word(&mut rng);
            let met =
                prefixes.of(&key).flat_map(|(bytes, clients)| clients.iter().map(|client| (bytes.to_vec(), *client)));
            let expected = model.iter().filter(|(bytes, _)| key.starts_with(bytes)).cloned();
            assert_eq!(met.collect::<BTreeSet<_>>(), expected.collect::<BTreeSet<_>>());
            let distinct: BTreeSet<_> = model.iter().map(|(bytes, _)| bytes).collect();
            assert_eq!((prefixes.len(), prefixes.is_empty()), (distinct.len(), distinct.is_empty()));
        }
    }
}
