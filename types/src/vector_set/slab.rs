//! Records of equal size under dense ids, in chunks.
//!
//! A chunk has a power of two of records and about 64 KiB, so that no growth copies more than that. The last chunk grows by a
//! quarter at a time, so a small set is small. Ids are dense: the last record takes the place of one that is removed.

use crate::heap;

/// About the size of a chunk.
const CHUNK_BYTES: usize = 64 << 10;
const CHUNK_RECORDS_MAX: usize = 1024;

#[derive(Debug)]
pub(super) struct Slab<T> {
    chunks: Vec<Vec<T>>,
    /// Items of a record.
    stride: usize,
    /// A chunk has 2^shift records.
    shift: u32,
    /// The allocations of the chunks.
    bytes: usize,
}

impl<T> Slab<T> {
    pub fn new(stride: usize) -> Self {
        let record_bytes = (stride * size_of::<T>()).max(1);
        let records = (CHUNK_BYTES / record_bytes).clamp(1, CHUNK_RECORDS_MAX);
        Self { chunks: Vec::new(), stride: stride.max(1), shift: records.ilog2(), bytes: 0 }
    }

    pub fn heap_bytes(&self) -> usize {
        heap::allocation(self.chunks.capacity() * size_of::<Vec<T>>()) + self.bytes
    }

    /// The bytes that one more record adds to the allocations.
    pub fn growth(&self) -> usize {
        let full = self.stride << self.shift;
        match self.chunks.last().filter(|chunk| chunk.len() < full) {
            None => heap::growth(&self.chunks, 1) + heap::allocation(self.stride * size_of::<T>()),
            Some(chunk) if chunk.len() < chunk.capacity() => 0,
            Some(chunk) => {
                let grown = chunk.len() + self.more(chunk) * self.stride;
                heap::allocation(grown * size_of::<T>()) - chunk_bytes(chunk)
            }
        }
    }

    /// How many records a full chunk gets room for: a quarter of those that it has.
    fn more(&self, chunk: &[T]) -> usize {
        let records = chunk.len() / self.stride;
        (records / 4).max(1).min((1 << self.shift) - records)
    }

    #[inline]
    fn place(&self, id: u32) -> (usize, usize) {
        let id = id as usize;
        (id >> self.shift, (id & ((1 << self.shift) - 1)) * self.stride)
    }

    #[inline]
    pub fn get(&self, id: u32) -> &[T] {
        let (chunk, at) = self.place(id);
        &self.chunks[chunk][at..at + self.stride]
    }

    #[inline]
    pub fn get_mut(&mut self, id: u32) -> &mut [T] {
        let (chunk, at) = self.place(id);
        &mut self.chunks[chunk][at..at + self.stride]
    }

    /// The address of a record: only ever prefetched.
    #[inline]
    pub fn address(&self, id: u32) -> *const u8 {
        let (chunk, at) = self.place(id);
        self.chunks[chunk].as_ptr().wrapping_add(at).cast()
    }

    /// Appends a record under the next id.
    pub fn push(&mut self, record: impl IntoIterator<Item = T>) {
        let full = self.stride << self.shift;
        if self.chunks.last().is_none_or(|chunk| chunk.len() >= full) {
            self.chunks.push(Vec::new());
        }
        let more = self.chunks.last().map_or(0, |chunk| self.more(chunk));
        let chunk = self.chunks.last_mut().expect("a chunk was just added if there was none with room");
        if chunk.len() == chunk.capacity() {
            self.bytes -= chunk_bytes(chunk);
            chunk.reserve_exact(more * self.stride);
            self.bytes += chunk_bytes(chunk);
        }
        let end = chunk.len() + self.stride;
        chunk.extend(record);
        debug_assert_eq!(chunk.len(), end);
    }

    /// Removes a record; the last one gets its id.
    pub fn swap_remove(&mut self, id: u32) {
        let Some(chunk) = self.chunks.last_mut() else { return };
        let start = chunk.len() - self.stride;
        let last: Vec<T> = chunk.drain(start..).collect();
        let last_id = (((self.chunks.len() - 1) << self.shift) + start / self.stride) as u32;
        if id != last_id {
            self.get_mut(id).iter_mut().zip(last).for_each(|(item, moved)| *item = moved);
        }
        self.trim();
    }

    /// Gives back the room of records that are gone: more than half of the last chunk.
    fn trim(&mut self) {
        let Some(chunk) = self.chunks.last_mut() else { return };
        self.bytes -= chunk_bytes(chunk);
        if chunk.is_empty() {
            self.chunks.pop();
            if self.chunks.capacity() > 2 * self.chunks.len() + 8 {
                self.chunks.shrink_to(self.chunks.len());
            }
            return;
        }
        let records = chunk.len() / self.stride;
        if chunk.capacity() > (2 * records + 2) * self.stride {
            chunk.shrink_to((records + records / 4 + 1) * self.stride);
        }
        self.bytes += chunk_bytes(chunk);
    }

    /// Frees the last chunk; returns how many records it had.
    pub fn drop_chunk(&mut self) -> usize {
        self.drop_chunk_with(|_| {})
    }

    /// The same, after a look at each item.
    pub fn drop_chunk_with(&mut self, look: impl FnMut(&T)) -> usize {
        let Some(chunk) = self.chunks.pop() else { return 0 };
        self.bytes -= chunk_bytes(&chunk);
        chunk.iter().for_each(look);
        chunk.len() / self.stride
    }
}

impl<T: Clone> Clone for Slab<T> {
    /// A clone has no room ahead.
    fn clone(&self) -> Self {
        let chunks = self.chunks.clone();
        let bytes = chunks.iter().map(chunk_bytes).sum();
        Self { chunks, bytes, ..*self }
    }
}

fn chunk_bytes<T>(chunk: &Vec<T>) -> usize {
    heap::allocation(chunk.capacity() * size_of::<T>())
}

#[cfg(test)]
impl<T> Slab<T> {
    pub fn counted_bytes(&self, len: usize) -> usize {
        assert_eq!(self.chunks.iter().map(|chunk| chunk.len() / self.stride).sum::<usize>(), len);
        heap::allocation(self.chunks.capacity() * size_of::<Vec<T>>())
            + self.chunks.iter().map(chunk_bytes).sum::<usize>()
    }
}
