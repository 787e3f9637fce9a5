//! Records in the order of their keys: a deque of blocks.
//!
//! A block is a sorted vector of up to [`BLOCK_MAX`] records. A record is found by its block's first key and then inside the
//! block. Records that come in order fill one block after the other; one that comes in between cuts a full block in two.
//! Blocks that have become small are joined with a neighbour.
//!
//! Invariants: no block is empty; `len` is the number of all records; `bytes` that of the blocks' allocations, without what
//! the records themselves point to.

use std::collections::VecDeque;

use super::StreamId;
use crate::heap;

const BLOCK_MAX: usize = 128;
const BLOCK_SMALL: usize = BLOCK_MAX / 4;

pub(super) trait Keyed {
    type Key: Ord + Copy;

    fn key(&self) -> Self::Key;
}

impl Keyed for StreamId {
    type Key = StreamId;

    fn key(&self) -> StreamId {
        *self
    }
}

#[derive(Debug)]
pub(super) struct Blocks<R> {
    blocks: VecDeque<Vec<R>>,
    len: usize,
    bytes: usize,
}

impl<R> Default for Blocks<R> {
    fn default() -> Self {
        Blocks { blocks: VecDeque::new(), len: 0, bytes: 0 }
    }
}

impl<R: Clone> Clone for Blocks<R> {
    fn clone(&self) -> Self {
        let blocks = self.blocks.clone();
        let bytes = blocks.iter().map(block_bytes).sum();
        Blocks { blocks, len: self.len, bytes }
    }
}

impl<R: Keyed> Blocks<R> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn heap_bytes(&self) -> usize {
        self.bytes + heap::allocation(self.blocks.capacity() * size_of::<Vec<R>>())
    }

    pub fn get(&self, key: R::Key) -> Option<&R> {
        let block = &self.blocks[self.block_of(key)?];
        block.binary_search_by_key(&key, Keyed::key).ok().map(|at| &block[at])
    }

    pub fn get_mut(&mut self, key: R::Key) -> Option<&mut R> {
        let at = self.block_of(key)?;
        let block = &mut self.blocks[at];
        block.binary_search_by_key(&key, Keyed::key).ok().map(|at| &mut block[at])
    }

    /// Inserts a record; returns the one that it replaces.
    pub fn insert(&mut self, record: R) -> Option<R> {
        let key = record.key();
        let at = self.block_of(key).unwrap_or(0);
        let Some(block) = self.blocks.get_mut(at) else {
            self.add(0, vec![record]);
            return None;
        };
        match block.binary_search_by_key(&key, Keyed::key) {
            Ok(found) => Some(std::mem::replace(&mut block[found], record)),
            Err(place) if block.len() < BLOCK_MAX => {
                self.edit(at, |block| block.insert(place, record));
                None
            }
            Err(BLOCK_MAX) => {
                self.add(at + 1, vec![record]);
                None
            }
            Err(_) => {
                let second = self.edit(at, |block| block.split_off(BLOCK_MAX / 2));
                self.add(at + 1, second);
                self.insert(record)
            }
        }
    }

    pub fn remove(&mut self, key: R::Key) -> Option<R> {
        let at = self.block_of(key)?;
        let place = self.blocks[at].binary_search_by_key(&key, Keyed::key).ok()?;
        let record = self.edit(at, |block| block.remove(place));
        if self.blocks[at].is_empty() {
            self.take(at);
        } else if self.blocks[at].len() == BLOCK_SMALL {
            for first in [at, at.wrapping_sub(1)] {
                let (Some(a), Some(b)) = (self.blocks.get(first), self.blocks.get(first.wrapping_add(1))) else {
                    continue;
                };
                if a.len() + b.len() <= BLOCK_MAX / 2 {
                    let mut second = self.take(first + 1);
                    self.edit(first, |block| {
                        block.append(&mut second);
                        block.shrink_to_fit();
                    });
                }
            }
        }
        Some(record)
    }

    /// The records from a key on.
    pub fn from(&self, key: R::Key) -> impl Iterator<Item = &R> {
        let at = self.block_of(key).unwrap_or(0);
        let place = self.blocks.get(at).map_or(0, |block| block.partition_point(|record| record.key() < key));
        let first = self.blocks.get(at).map(|block| block[place..].iter());
        first.into_iter().flatten().chain(self.blocks.iter().skip(at + 1).flatten())
    }

    pub fn first(&self) -> Option<&R> {
        self.blocks.front()?.first()
    }

    pub fn last(&self) -> Option<&R> {
        self.blocks.back()?.last()
    }

    /// Frees blocks from the end until `budget` records are gone; returns how many were freed.
    pub fn dismantle(&mut self, budget: usize) -> usize {
        let mut freed = 0;
        while freed < budget
            && let Some(block) = self.take_last()
        {
            freed += block.len();
        }
        freed
    }

    /// Removes the last block, with its records.
    fn take_last(&mut self) -> Option<Vec<R>> {
        let last = self.blocks.len().checked_sub(1)?;
        Some(self.take(last))
    }

    /// The block that holds a key if any does: the last that does not begin after it.
    fn block_of(&self, key: R::Key) -> Option<usize> {
        let begins = |block: &Vec<R>| block.first().is_some_and(|record| record.key() <= key);
        if self.blocks.back().is_some_and(begins) {
            return Some(self.blocks.len() - 1);
        }
        self.blocks.partition_point(begins).checked_sub(1)
    }

    fn add(&mut self, at: usize, block: Vec<R>) {
        self.len += block.len();
        self.bytes += block_bytes(&block);
        self.blocks.insert(at, block);
    }

    fn take(&mut self, at: usize) -> Vec<R> {
        let block = self.blocks.remove(at).unwrap_or_default();
        self.len -= block.len();
        self.bytes -= block_bytes(&block);
        block
    }

    fn edit<T>(&mut self, at: usize, change: impl FnOnce(&mut Vec<R>) -> T) -> T {
        let block = &mut self.blocks[at];
        let (bytes, len) = (block_bytes(block), block.len());
        let answer = change(block);
        self.bytes = self.bytes - bytes + block_bytes(block);
        self.len = self.len - len + block.len();
        answer
    }
}

fn block_bytes<R>(block: &Vec<R>) -> usize {
    heap::allocation(block.capacity() * size_of::<R>())
}

#[cfg(test)]
impl<R: Keyed> Blocks<R> {
    pub fn counted_bytes(&self) -> usize {
        assert!(self.blocks.iter().all(|block| !block.is_empty() && block.len() <= BLOCK_MAX));
        assert_eq!(self.len, self.blocks.iter().map(Vec::len).sum::<usize>());
        assert!(self.blocks.iter().flatten().zip(self.blocks.iter().flatten().skip(1)).all(|(a, b)| a.key() < b.key()));
        heap::allocation(self.blocks.capacity() * size_of::<Vec<R>>())
            + self.blocks.iter().map(block_bytes).sum::<usize>()
    }
}
