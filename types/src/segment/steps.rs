//! The numbers of buckets that a segment may have, and when it changes from one to another.
//!
//! All but the smallest are within a quarter of the next, so that a segment is nine tenths full just before it grows and
//! three quarters just after; and each number of buckets fills one of the allocator's size classes. The largest is the
//! largest that jemalloc serves from a slab: beyond it, a block takes pages of its own.

use super::bucket::WIDTH;

const STEPS: [u8; 21] = [0, 1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96];

/// The largest number of buckets.
pub const MAX: usize = 112;

/// How many entries this many buckets should hold at most.
#[inline]
pub const fn room(buckets: usize) -> usize {
    match buckets {
        // A single bucket has no crowded neighbours.
        0 | 1 => buckets * WIDTH,
        _ => buckets * WIDTH * 230 / 256,
    }
}

/// The next larger number.
pub fn after(buckets: usize) -> Option<usize> {
    if buckets >= MAX { None } else { Some(at_least(buckets + 1)) }
}

/// The number of buckets for this many entries, with some room to grow.
pub fn buckets_for(entries: usize) -> usize {
    if entries <= WIDTH { usize::from(entries > 0) } else { at_least((entries * 8).div_ceil(WIDTH * 7)) }
}

/// The number to shrink to, if the entries have become few.
pub fn shrunk(buckets: usize, entries: usize) -> Option<usize> {
    if entries * 5 >= buckets * WIDTH * 2 {
        return None;
    }
    let smaller =
        if entries <= WIDTH / 2 { usize::from(entries > 0) } else { at_least((entries * 4).div_ceil(WIDTH * 3)) };
    (smaller < buckets).then_some(smaller)
}

fn at_least(buckets: usize) -> usize {
    STEPS.iter().map(|&step| usize::from(step)).find(|&step| step >= buckets).unwrap_or(MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::size_class;

    #[test]
    fn every_step_fills_a_size_class() {
        for buckets in STEPS.iter().map(|&step| usize::from(step)).chain([MAX]) {
            assert_eq!(size_class(buckets * 128), buckets * 128);
        }
    }

    #[test]
    fn steps_leave_room_and_do_not_swing() {
        let mut buckets = 0;
        while let Some(larger) = after(buckets) {
            assert!(room(larger) > room(buckets));
            assert_eq!(shrunk(larger, room(buckets).max(1)), None, "grown to {larger}");
            buckets = larger;
        }
        assert_eq!(buckets, MAX);
        for entries in 0..=room(MAX) {
            assert!(room(buckets_for(entries)) >= entries, "{entries} entries");
            if let Some(smaller) = shrunk(MAX, entries) {
                assert!(room(smaller) >= entries, "{entries} entries");
                assert_eq!(shrunk(smaller, entries), None, "{entries} entries");
            }
        }
    }
}
