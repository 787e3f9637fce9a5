//! The stash of a segment: the entries that find no room in their home bucket and the next.

use crate::entry::{Entry, size_class};

use super::bucket::{Bucket, WIDTH};

/// Buckets filled one after the other. All but the last are full, and the last is filled from slot 0 up.
pub struct Stash<E> {
    buckets: Vec<Bucket<E>>,
    len: usize,
}

impl<E> Default for Stash<E> {
    fn default() -> Self {
        Self { buckets: Vec::new(), len: 0 }
    }
}

impl<E> Stash<E> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn heap_bytes(&self) -> usize {
        size_class(size_of::<Self>()) + size_class(self.buckets.capacity() * size_of::<Bucket<E>>())
    }

    pub fn entry(&self, index: usize) -> &E {
        self.buckets[index / WIDTH].entry(index % WIDTH)
    }

    pub fn entry_mut(&mut self, index: usize) -> &mut E {
        self.buckets[index / WIDTH].entry_mut(index % WIDTH)
    }

    pub fn push(&mut self, fingerprint: u8, entry: E) {
        if self.len == self.buckets.len() * WIDTH {
            if self.buckets.len() == self.buckets.capacity() {
                // A stash is rarely longer than a bucket or two; only a flood of equal positions makes it grow on.
                self.buckets.reserve_exact(1 + self.buckets.len() / 4);
            }
            self.buckets.push(Bucket::new());
        }
        self.buckets[self.len / WIDTH].put(self.len % WIDTH, fingerprint, entry);
        self.len += 1;
    }

    /// Removes an entry; the last takes its place.
    pub fn remove(&mut self, index: usize) -> (u8, E) {
        let removed = self.buckets[index / WIDTH].take(index % WIDTH);
        self.len -= 1;
        if index != self.len {
            let (fingerprint, entry) = self.buckets[self.len / WIDTH].take(self.len % WIDTH);
            self.buckets[index / WIDTH].put(index % WIDTH, fingerprint, entry);
        }
        if self.len.is_multiple_of(WIDTH) {
            self.buckets.pop();
        }
        removed
    }

    pub fn iter(&self) -> impl Iterator<Item = &E> {
        self.buckets.iter().flat_map(Bucket::iter)
    }

    pub fn drain_into(mut self, entries: &mut Vec<E>) {
        self.buckets.iter_mut().for_each(|bucket| bucket.drain_into(entries));
    }
}

impl<E: Entry> Stash<E> {
    pub fn find(&self, fingerprint: u8, key: &[u8]) -> Option<usize> {
        self.buckets.iter().enumerate().find_map(|(index, bucket)| Some(index * WIDTH + bucket.find(fingerprint, key)?))
    }
}
