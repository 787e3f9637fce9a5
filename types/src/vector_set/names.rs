//! The names of a set's nodes in their order: blocks of ids, found by comparing the names that the ids stand for.

use crate::heap;

/// Ids in a block, at most.
const BLOCK_MAX: usize = 256;
/// A block that was made by loading has room for some more.
const BLOCK_LOADED: usize = 192;

/// Ids in the order of their names. Blocks are not empty.
#[derive(Debug, Default)]
pub(super) struct Names {
    blocks: Vec<Vec<u32>>,
    /// The allocations of the blocks.
    bytes: usize,
}

/// The position of an id, or the one where it belongs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    block: usize,
    at: usize,
}

impl Names {
    /// Ids that are in the order of their names already.
    pub fn from_sorted(ids: &[u32]) -> Self {
        let blocks: Vec<Vec<u32>> = ids.chunks(BLOCK_LOADED).map(<[u32]>::to_vec).collect();
        let bytes = blocks.iter().map(block_bytes).sum();
        Self { blocks, bytes }
    }

    pub fn heap_bytes(&self) -> usize {
        heap::allocation(self.blocks.capacity() * size_of::<Vec<u32>>()) + self.bytes
    }

    /// The bytes that one more id adds to the allocations.
    pub fn growth(&self, spot: Spot) -> usize {
        let growth = |ids: usize, capacity: usize| match ids == capacity {
            true => allocation_of(ids + more(ids)) - allocation_of(capacity),
            false => 0,
        };
        match self.blocks.get(spot.block) {
            None => heap::growth(&self.blocks, 1) + growth(0, 0),
            // Of a block that is cut in two, one half is made, and one of them has no room for the id.
            Some(ids) if ids.len() >= BLOCK_MAX => {
                let half = BLOCK_MAX / 2;
                heap::growth(&self.blocks, 1) + allocation_of(half) + growth(half, half)
            }
            Some(ids) => growth(ids.len(), ids.capacity()),
        }
    }

    /// Finds a name: its spot, or as an error the one where it belongs.
    pub fn search<'n>(&self, name: &[u8], name_of: impl Fn(u32) -> &'n [u8]) -> Result<Spot, Spot> {
        let after = self.blocks.partition_point(|block| block.first().is_some_and(|id| name_of(*id) <= name));
        let block = after.saturating_sub(1);
        let Some(ids) = self.blocks.get(block) else { return Err(Spot { block: 0, at: 0 }) };
        match ids.binary_search_by(|id| name_of(*id).cmp(name)) {
            Ok(at) => Ok(Spot { block, at }),
            Err(at) => Err(Spot { block, at }),
        }
    }

    pub fn id(&self, spot: Spot) -> u32 {
        self.blocks[spot.block][spot.at]
    }

    pub fn set(&mut self, spot: Spot, id: u32) {
        self.blocks[spot.block][spot.at] = id;
    }

    pub fn insert(&mut self, Spot { mut block, mut at }: Spot, id: u32) {
        if self.blocks.is_empty() {
            self.blocks.push(Vec::new());
        }
        if self.blocks[block].len() >= BLOCK_MAX {
            let upper = self.edit(block, |ids| {
                let upper = ids.split_off(BLOCK_MAX / 2);
                ids.shrink_to_fit();
                upper
            });
            self.bytes += block_bytes(&upper);
            self.blocks.insert(block + 1, upper);
            if at > BLOCK_MAX / 2 {
                (block, at) = (block + 1, at - BLOCK_MAX / 2);
            }
        }
        self.edit(block, |ids| {
            if ids.len() == ids.capacity() {
                ids.reserve_exact(more(ids.len()));
            }
            ids.insert(at, id);
        });
    }

    pub fn remove(&mut self, Spot { block, at }: Spot) {
        self.edit(block, |ids| {
            ids.remove(at);
            if ids.capacity() > 2 * ids.len() + 8 {
                ids.shrink_to(ids.len() + ids.len() / 4);
            }
        });
        let left = self.blocks[block].len();
        if left == 0 {
            self.take(block);
        } else if left < BLOCK_MAX / 4
            && self.blocks.get(block + 1).is_some_and(|next| left + next.len() <= BLOCK_MAX / 2)
        {
            let next = self.take(block + 1);
            self.edit(block, |ids| ids.extend(next));
        }
    }

    /// The ids from a spot on.
    pub fn iter_from(&self, Spot { block, at }: Spot) -> impl Iterator<Item = u32> + '_ {
        let first = self.blocks.get(block).map_or(&[][..], |ids| &ids[at.min(ids.len())..]);
        first.iter().chain(self.blocks.iter().skip(block + 1).flatten()).copied()
    }

    /// Frees the last block; returns how many ids it had.
    pub fn drop_block(&mut self) -> usize {
        match self.blocks.len() {
            0 => 0,
            blocks => self.take(blocks - 1).len(),
        }
    }

    fn take(&mut self, block: usize) -> Vec<u32> {
        let ids = self.blocks.remove(block);
        self.bytes -= block_bytes(&ids);
        ids
    }

    fn edit<R>(&mut self, block: usize, change: impl FnOnce(&mut Vec<u32>) -> R) -> R {
        let ids = &mut self.blocks[block];
        self.bytes -= block_bytes(ids);
        let answer = change(ids);
        self.bytes += block_bytes(ids);
        answer
    }
}

impl Clone for Names {
    /// A clone has no room ahead.
    fn clone(&self) -> Self {
        let blocks = self.blocks.clone();
        let bytes = blocks.iter().map(block_bytes).sum();
        Self { blocks, bytes }
    }
}

fn block_bytes(block: &Vec<u32>) -> usize {
    allocation_of(block.capacity())
}

fn allocation_of(ids: usize) -> usize {
    heap::allocation(ids * size_of::<u32>())
}

/// How many ids a full block of so many gets room for.
fn more(ids: usize) -> usize {
    (ids / 4).max(2)
}

#[cfg(test)]
impl Names {
    pub fn counted_bytes(&self) -> usize {
        assert!(self.blocks.iter().all(|block| !block.is_empty() && block.len() <= BLOCK_MAX));
        heap::allocation(self.blocks.capacity() * size_of::<Vec<u32>>())
            + self.blocks.iter().map(block_bytes).sum::<usize>()
    }
}
