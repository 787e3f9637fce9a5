//! Bytes in blocks: many of them are allocated, copied and freed in steps, and none of them ever move.

use crate::heap;
use crate::pace;

/// Bytes of a block, but for the last one, which has only those that are left.
pub(super) const BLOCK: usize = 64 << 10;

const SHIFT: u32 = BLOCK.ilog2();

/// A fixed number of bytes. While they are loaded, those that have come.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    blocks: Vec<Box<[u8]>>,
    len: usize,
}

impl Blocks {
    /// So many zeros.
    pub fn zeroed(len: usize) -> Self {
        let mut blocks = Blocks { blocks: Vec::with_capacity(len.div_ceil(BLOCK)), len };
        let mut left = len;
        while left > 0 {
            let bytes = left.min(BLOCK);
            pace::step(bytes / pace::BYTES_PER_ELEMENT);
            blocks.blocks.push(vec![0; bytes].into_boxed_slice());
            left -= bytes;
        }
        blocks
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Takes bytes from the front of `bytes` until there are `total`. Memory is taken for what has come, not for what is
    /// announced.
    pub fn load(&mut self, total: usize, bytes: &mut &[u8]) {
        while self.len < total && !bytes.is_empty() {
            let within = self.len % BLOCK;
            if within == 0 {
                let bytes = (total - self.len).min(BLOCK);
                self.blocks.push(vec![0; bytes].into_boxed_slice());
            }
            let Some(block) = self.blocks.last_mut() else { return };
            let room = &mut block[within..];
            let (taken, rest) = bytes.split_at(room.len().min(bytes.len()));
            room[..taken.len()].copy_from_slice(taken);
            self.len += taken.len();
            *bytes = rest;
        }
    }

    #[inline]
    pub fn get(&self, at: usize) -> u8 {
        self.blocks[at >> SHIFT][at % BLOCK]
    }

    #[inline]
    pub fn set(&mut self, at: usize, byte: u8) {
        self.blocks[at >> SHIFT][at % BLOCK] = byte;
    }

    /// The bytes of a range, in runs.
    pub fn runs(&self, start: usize, end: usize) -> impl Iterator<Item = &[u8]> {
        let mut at = start;
        std::iter::from_fn(move || {
            let within = at % BLOCK;
            let run = (BLOCK - within).min(end.saturating_sub(at));
            (run > 0).then(|| {
                let bytes = &self.blocks[at >> SHIFT][within..within + run];
                at += run;
                bytes
            })
        })
    }

    /// Puts `bytes` over those from `start` on.
    pub fn write(&mut self, start: usize, bytes: &[u8]) {
        let mut at = start;
        let mut rest = bytes;
        while !rest.is_empty() {
            let within = at % BLOCK;
            let (now, later) = rest.split_at((BLOCK - within).min(rest.len()));
            pace::step(now.len() / pace::BYTES_PER_ELEMENT);
            self.blocks[at >> SHIFT][within..within + now.len()].copy_from_slice(now);
            at += now.len();
            rest = later;
        }
    }

    /// The bytes that so many zeros take.
    pub fn heap_bytes_for(len: usize) -> usize {
        let (whole, last) = (len / BLOCK, len % BLOCK);
        let table = heap::allocation(len.div_ceil(BLOCK).saturating_mul(size_of::<Box<[u8]>>()));
        (whole * heap::allocation(BLOCK)).saturating_add(table + heap::allocation(last))
    }

    pub fn heap_bytes(&self) -> usize {
        let last = self.blocks.last().map_or(0, |block| block.len());
        let whole = self.blocks.len().saturating_sub(1) * heap::allocation(BLOCK);
        heap::allocation(self.blocks.capacity() * size_of::<Box<[u8]>>()) + whole + heap::allocation(last)
    }

    /// Frees the last block; returns whether there was one.
    pub fn free_one(&mut self) -> bool {
        let freed = self.blocks.pop();
        self.len -= freed.as_ref().map_or(0, |block| block.len().min(self.len));
        freed.is_some()
    }
}

impl Clone for Blocks {
    fn clone(&self) -> Self {
        let copied = self.blocks.iter().map(|block| pace::copied(block).into_boxed_slice());
        let mut blocks = Vec::with_capacity(self.blocks.len());
        for block in copied {
            pace::step(block.len() / pace::BYTES_PER_ELEMENT);
            blocks.push(block);
        }
        Blocks { blocks, len: self.len }
    }
}
