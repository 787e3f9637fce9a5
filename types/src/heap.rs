//! Helpers of the collections: the bytes that an allocation takes, storage that follows the allocator's size classes,
//! and the freeing of tables in pieces.

use crate::entry::{Entry, size_class};
use crate::segment::{Placement, Table};

/// The bytes that an allocation of `bytes` takes: the allocator's size class, nothing for nothing.
pub(super) const fn allocation(bytes: usize) -> usize {
    size_class(bytes)
}

/// A byte buffer that is grown and shrunk from one size class to the next, so that small changes happen in place.
/// New bytes are zero. `used` is how many of the present bytes must survive.
pub(super) fn resize(storage: &mut Box<[u8]>, used: usize, wanted: usize) {
    let capacity = allocation(wanted);
    if capacity == storage.len() {
        return;
    }
    let mut bytes = std::mem::take(storage).into_vec();
    bytes.truncate(used);
    if capacity > bytes.capacity() {
        bytes.reserve_exact(capacity - bytes.len());
    }
    bytes.resize(capacity, 0);
    *storage = bytes.into_boxed_slice();
}

/// A number below `limit` (0 if that is 0) from a random one.
pub(super) fn below(random: u64, limit: usize) -> usize {
    ((u128::from(random) * limit as u128) >> 64) as usize
}

/// Frees at least `budget` entries, a segment at a time; returns whether none is left.
pub(super) fn dismantle_table<E: Entry, P: Placement>(table: &mut Table<E, P>, budget: usize) -> bool {
    let mut freed = 0;
    while freed < budget && !table.is_empty() {
        freed += table.take_some().len();
    }
    table.is_empty()
}
