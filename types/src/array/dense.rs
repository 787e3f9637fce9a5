//! Dense slices: blocks of 64 neighbouring elements, each in a buffer.
//!
//! ```text
//! | codes u8, one for each of 64 offsets, 0: no element | payloads |
//! ```
//!
//! An element is found by its code, and its payload behind those of the elements before it in the block. So a change moves
//! the payloads of one block at most.

use super::element::{self, NONE, Packing};
use super::run::{self, RunRef};
use crate::entry::{Buffer, TOTAL_BYTES, prefetch_to_write, size_class};
use crate::heap;

/// The elements of a block.
const BLOCK: usize = element::TOGETHER_MAX;

/// Invariants: the last block is not empty; `count` is the number of elements.
#[derive(Clone, Debug, Default)]
pub(super) struct Dense {
    blocks: Vec<Buffer>,
    count: usize,
}

impl Dense {
    pub fn len(&self) -> usize {
        self.count
    }

    /// The bytes of all allocations, as they are. A change says by how much it changes them.
    pub fn heap_bytes(&self) -> usize {
        let blocks: usize = self.blocks.iter().map(Buffer::heap_bytes).sum();
        heap::allocation(size_of::<Dense>()) + self.table_bytes() + blocks
    }

    fn table_bytes(&self) -> usize {
        heap::allocation(self.blocks.capacity() * size_of::<Buffer>())
    }

    /// The block of an offset, as a bit.
    pub fn block_bit(offset: u16) -> u64 {
        1 << place(offset).0
    }

    /// The bytes that elements in these blocks add, besides their payloads.
    pub fn growth(&self, wanted: u64) -> usize {
        let here = self.blocks.iter().zip(0..).filter(|(buffer, _)| !buffer.is_empty());
        let here = here.fold(0, |bits, (_, block)| bits | 1 << block);
        let reach = u64::BITS as usize - wanted.leading_zeros() as usize;
        blocks_bytes(wanted & !here) + heap::growth(&self.blocks, reach.saturating_sub(self.blocks.len()))
    }

    /// The bytes of a slice with elements in these blocks, besides their payloads.
    pub fn bytes_for(blocks: u64) -> usize {
        let reach = u64::BITS as usize - blocks.leading_zeros() as usize;
        // Its table doubles when it grows.
        let table = heap::allocation(2 * reach * size_of::<Buffer>());
        heap::allocation(size_of::<Dense>()) + table + blocks_bytes(blocks)
    }

    /// The slice of a run's elements.
    pub fn of(run: RunRef<'_>) -> Self {
        let mut dense = Dense::default();
        run.visit(0, u16::MAX, false, |offset, code, payload| {
            dense.put_packed(offset, code, payload);
            false
        });
        dense
    }

    #[inline]
    pub fn get(&self, offset: u16) -> Option<(u8, &[u8])> {
        let (block, at) = place(offset);
        let body = self.blocks.get(block)?.body();
        let (codes, payloads) = body.split_at_checked(BLOCK)?;
        let code = codes[at];
        if code == NONE {
            return None;
        }
        let start = element::lengths(&codes[..at]);
        Some((code, &payloads[start..start + element::length(code)]))
    }

    /// Sets the element at an offset; returns the code of the element before, [`NONE`] if there was none, and by how many
    /// bytes the allocations have grown.
    pub fn put(&mut self, offset: u16, packing: &Packing<'_>) -> (u8, isize) {
        self.put_packed(offset, packing.code, packing.payload())
    }

    fn put_packed(&mut self, offset: u16, code: u8, payload: &[u8]) -> (u8, isize) {
        let (block, at) = place(offset);
        let mut table = 0;
        if block >= self.blocks.len() {
            let before = self.table_bytes();
            self.blocks.resize_with(block + 1, Buffer::default);
            table = self.table_bytes() - before;
        }
        let buffer = &mut self.blocks[block];
        // Neighbours are mostly as long as each other, so the payload comes while the codes are added up.
        prefetch_to_write(buffer.address().wrapping_add(TOTAL_BYTES + BLOCK + at * payload.len()));
        if buffer.is_empty() {
            buffer.resize(0, TOTAL_BYTES + BLOCK + payload.len());
            buffer.body_mut().fill(NONE);
            buffer.body_mut()[at] = code;
            buffer.body_mut()[BLOCK..].copy_from_slice(payload);
            self.count += 1;
            return (NONE, (table + buffer.heap_bytes()) as isize);
        }
        let body = buffer.body_mut();
        let old = body[at];
        let start = BLOCK + element::lengths(&body[..at]);
        if old != NONE && element::length(old) == payload.len() {
            body[start..start + payload.len()].copy_from_slice(payload);
            body[at] = code;
            return (old, 0);
        }
        let before = buffer.heap_bytes();
        run::replace(buffer, start, element::length(old), payload);
        buffer.body_mut()[at] = code;
        self.count += usize::from(old == NONE);
        (old, (table + buffer.heap_bytes()) as isize - before as isize)
    }

    /// Removes the elements from offset `low` to `high`; returns how many there were, and by how many bytes the allocations
    /// have shrunk.
    pub fn remove(&mut self, low: u16, high: u16) -> (usize, usize) {
        let (mut removed, mut bytes) = (0, 0);
        let (first, last) = (place(low).0, place(high).0);
        let end = self.blocks.len().min(last + 1);
        for (block, buffer) in self.blocks.iter_mut().enumerate().take(end).skip(first) {
            if buffer.is_empty() {
                continue;
            }
            let from = if block == first { place(low).1 } else { 0 };
            let to = if block == last { place(high).1 } else { BLOCK - 1 };
            let before = buffer.heap_bytes();
            let codes = &buffer.body()[..BLOCK];
            let here = codes[from..=to].iter().filter(|code| **code != NONE).count();
            if here == 0 {
                continue;
            }
            removed += here;
            let start = BLOCK + element::lengths(&codes[..from]);
            let len = element::lengths(&codes[from..=to]);
            let is_empty = codes[..from].iter().chain(&codes[to + 1..]).all(|code| *code == NONE);
            if is_empty {
                *buffer = Buffer::default();
            } else {
                run::replace(buffer, start, len, &[]);
                buffer.body_mut()[from..=to].fill(NONE);
            }
            bytes += before - buffer.heap_bytes();
        }
        self.count -= removed;
        while self.blocks.last().is_some_and(Buffer::is_empty) {
            self.blocks.pop();
        }
        if self.blocks.len() * 2 <= self.blocks.capacity() {
            let before = self.table_bytes();
            self.blocks.shrink_to_fit();
            bytes += before - self.table_bytes();
        }
        (removed, bytes)
    }

    pub fn last_offset(&self) -> Option<u16> {
        let codes = &self.blocks.last()?.body()[..BLOCK];
        let at = codes.iter().rposition(|code| *code != NONE)?;
        Some(((self.blocks.len() - 1) * BLOCK + at) as u16)
    }

    /// Shows the elements from offset `low` to `high`, in order or in reverse, until `visit` says that it has enough.
    /// Returns whether it does.
    pub fn visit<'a>(
        &'a self,
        low: u16,
        high: u16,
        reverse: bool,
        mut visit: impl FnMut(u16, u8, &'a [u8]) -> bool,
    ) -> bool {
        let (first, last) = (place(low).0, place(high).0);
        let end = self.blocks.len().min(last + 1);
        if first >= end {
            return false;
        }
        let mut one = |block: usize| {
            let Some((codes, payloads)) = self.blocks[block].body().split_at_checked(BLOCK) else { return false };
            let from = if block == first { place(low).1 } else { 0 };
            let to = if block == last { place(high).1 } else { BLOCK - 1 };
            let offset = |at: usize| (block * BLOCK + at) as u16;
            if reverse {
                let mut behind = element::lengths(&codes[..=to]);
                for at in (from..=to).rev() {
                    let start = behind - element::length(codes[at]);
                    if codes[at] != NONE && visit(offset(at), codes[at], &payloads[start..behind]) {
                        return true;
                    }
                    behind = start;
                }
            } else {
                let mut start = element::lengths(&codes[..from]);
                for (at, code) in codes.iter().enumerate().take(to + 1).skip(from) {
                    let behind = start + element::length(*code);
                    if *code != NONE && visit(offset(at), *code, &payloads[start..behind]) {
                        return true;
                    }
                    start = behind;
                }
            }
            false
        };
        if reverse { (first..end).rev().any(&mut one) } else { (first..end).any(&mut one) }
    }

    /// The blocks' offsets: how many elements the table of blocks reaches over.
    pub fn reach(&self) -> usize {
        self.blocks.len() * BLOCK
    }
}

/// The block of an offset, and its place there.
#[inline]
fn place(offset: u16) -> (usize, usize) {
    (usize::from(offset) / BLOCK, usize::from(offset) % BLOCK)
}

/// The bytes of these blocks without payloads.
fn blocks_bytes(blocks: u64) -> usize {
    blocks.count_ones() as usize * size_class(TOTAL_BYTES + BLOCK)
}
