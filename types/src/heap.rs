//! Helpers of the collections: the bytes that an allocation takes, and the freeing of tables in pieces.

use crate::entry::{Entry, size_class};
use crate::segment::{Placement, Table};

/// The bytes that an allocation of `bytes` takes from the global allocator: its size class, nothing for nothing.
pub(super) const fn allocation(bytes: usize) -> usize {
    size_class(bytes)
}

/// The bytes that a vector takes more when so many items are pushed: one that is full doubles.
pub(super) fn growth<T>(items: &Vec<T>, pushed: usize) -> usize {
    let (needed, capacity) = (items.len().saturating_add(pushed), items.capacity());
    if needed <= capacity {
        return 0;
    }
    let doubled = needed.max(capacity.saturating_mul(2)).max(ITEMS_MIN);
    allocation(doubled.saturating_mul(size_of::<T>())) - allocation(capacity * size_of::<T>())
}

/// A vector of items of a few bytes has room for so many with the first.
const ITEMS_MIN: usize = 4;

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
