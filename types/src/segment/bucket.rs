//! A bucket: two cache lines that hold up to fourteen entries.
//!
//! ```text
//!  0              14        15         16                                    128
//!  | fingerprints | in_next | in_stash | entry 0 | entry 1 | ... | entry 13 |
//! ```
//!
//! A fingerprint is eight bits of the position that do not place it, never 0; 0 marks a free slot. All of them are compared
//! at once, so that a key is compared only with an entry that is probably it.

use std::{array, mem::MaybeUninit};

use crate::entry::{CACHE_LINE, Entry, prefetch};

/// Entries in a bucket.
pub const WIDTH: usize = 14;

/// Lines of a small collection that are asked for; the processor sees by itself that more are read.
const OWNED_LINES: usize = 3;

const IN_NEXT: usize = 14;
const IN_STASH: usize = 15;
const FULL: u32 = (1 << WIDTH) - 1;

/// Invariant: `entries[slot]` is initialised exactly if `header[slot]` is not 0, for slots below `WIDTH`.
#[repr(C, align(64))]
pub struct Bucket<E> {
    header: [u8; 16],
    entries: [MaybeUninit<E>; WIDTH],
}

/// A fingerprint from the eleven bits of the position that do not place it: 1..=255.
#[inline]
pub fn fingerprint(position: u64) -> u8 {
    let spare = position & 0x7ff;
    ((spare * 255) >> 11) as u8 + 1
}

impl<E> Bucket<E> {
    const FITS: () = assert!(size_of::<E>() == 8 && size_of::<Self>() == 128, "an entry must be a thin pointer");

    pub fn new() -> Self {
        let () = Self::FITS;
        Self { header: [0; 16], entries: array::from_fn(|_| MaybeUninit::uninit()) }
    }

    /// The number of entries whose home is this bucket and that are in the next one.
    #[inline]
    pub fn in_next(&self) -> usize {
        usize::from(self.header[IN_NEXT])
    }

    pub fn add_in_next(&mut self) {
        self.header[IN_NEXT] += 1;
    }

    pub fn sub_in_next(&mut self) {
        self.header[IN_NEXT] -= 1;
    }

    /// Whether any entry whose home is this bucket may be in the stash.
    #[inline]
    pub fn may_be_stashed(&self) -> bool {
        self.header[IN_STASH] > 0
    }

    /// A count that has reached its maximum is no longer exact, so it stays there.
    pub fn add_in_stash(&mut self) {
        self.header[IN_STASH] = self.header[IN_STASH].saturating_add(1);
    }

    pub fn sub_in_stash(&mut self) {
        if self.header[IN_STASH] < u8::MAX {
            self.header[IN_STASH] -= 1;
        }
    }

    /// The slots whose fingerprint is this one, a bit each.
    #[inline(always)]
    fn matches(&self, fingerprint: u8) -> u32 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: SSE2 is part of x86_64, and the header is 16 readable bytes.
        unsafe {
            use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8};
            let header = _mm_loadu_si128(self.header.as_ptr().cast());
            _mm_movemask_epi8(_mm_cmpeq_epi8(header, _mm_set1_epi8(fingerprint as i8))) as u32 & FULL
        }
        #[cfg(not(target_arch = "x86_64"))]
        self.header[..WIDTH].iter().enumerate().fold(0, |mask, (slot, &it)| mask | u32::from(it == fingerprint) << slot)
    }

    /// The occupied slots, a bit each.
    #[inline]
    pub fn occupied(&self) -> u32 {
        !self.matches(0) & FULL
    }

    #[inline]
    pub fn is_full(&self) -> bool {
        self.occupied() == FULL
    }

    pub fn len(&self) -> usize {
        self.occupied().count_ones() as usize
    }

    /// The lowest free slot of a bucket that is not full.
    #[inline]
    pub fn first_free(&self) -> usize {
        self.occupied().trailing_ones() as usize
    }

    /// # Panics
    /// If the slot is free.
    #[inline]
    pub fn entry(&self, slot: usize) -> &E {
        assert!(slot < WIDTH && self.header[slot] != 0, "a free slot holds no entry");
        // SAFETY: an occupied slot is initialised.
        unsafe { self.entries[slot].assume_init_ref() }
    }

    /// # Panics
    /// If the slot is free.
    #[inline]
    pub fn entry_mut(&mut self, slot: usize) -> &mut E {
        assert!(slot < WIDTH && self.header[slot] != 0, "a free slot holds no entry");
        // SAFETY: an occupied slot is initialised.
        unsafe { self.entries[slot].assume_init_mut() }
    }

    /// # Panics
    /// If the slot is occupied.
    #[inline]
    pub fn put(&mut self, slot: usize, fingerprint: u8, entry: E) {
        assert!(slot < WIDTH && self.header[slot] == 0 && fingerprint != 0, "an entry needs a free slot");
        self.entries[slot].write(entry);
        self.header[slot] = fingerprint;
    }

    /// # Panics
    /// If the slot is free.
    #[inline]
    pub fn take(&mut self, slot: usize) -> (u8, E) {
        assert!(slot < WIDTH && self.header[slot] != 0, "a free slot holds no entry");
        let fingerprint = std::mem::take(&mut self.header[slot]);
        // SAFETY: the slot was occupied, so it is initialised, and it is free now, so it is not read again.
        (fingerprint, unsafe { self.entries[slot].assume_init_read() })
    }

    /// Moves all entries out.
    pub fn drain_into(&mut self, entries: &mut Vec<E>) {
        entries.extend(ones(self.occupied()).map(|slot| self.take(slot).1));
        self.header = [0; 16];
    }

    pub fn iter(&self) -> impl Iterator<Item = &E> {
        ones(self.occupied()).map(|slot| self.entry(slot))
    }
}

impl<E: Entry> Bucket<E> {
    /// The slot of the entry with this key.
    #[inline(always)]
    pub fn find(&self, fingerprint: u8, key: &[u8]) -> Option<usize> {
        debug_assert_ne!(fingerprint, 0);
        let mut candidates = self.matches(fingerprint);
        while candidates != 0 {
            let slot = candidates.trailing_zeros() as usize;
            // SAFETY: `slot` is below WIDTH and its fingerprint is not 0, so it is initialised.
            let entry = unsafe { self.entries.get_unchecked(slot).assume_init_ref() };
            if are_equal(entry.key(), key) {
                return Some(slot);
            }
            candidates &= candidates - 1;
        }
        None
    }

    /// Asks for the entries that `find` would compare with.
    #[inline]
    pub fn prefetch_candidates(&self, fingerprint: u8) {
        self.prefetch_slots(self.matches(fingerprint));
    }

    /// Asks for all entries.
    #[inline]
    pub fn prefetch_entries(&self) {
        self.prefetch_slots(self.occupied());
    }

    #[inline]
    fn prefetch_slots(&self, slots: u32) {
        for slot in ones(slots) {
            // Key and value of a small record are often on two lines.
            let address = self.entry(slot).address();
            prefetch(address);
            prefetch(address.wrapping_add(64));
        }
    }

    /// Asks for the beginning of what these entries own, once they have come.
    #[inline]
    pub fn prefetch_owned(&self, fingerprint: u8) {
        for slot in ones(self.matches(fingerprint)) {
            if let Some(address) = self.entry(slot).owned_address() {
                (0..OWNED_LINES).for_each(|line| prefetch(address.wrapping_add(line * CACHE_LINE)));
            }
        }
    }

    /// Asks for the bucket itself.
    #[inline]
    pub fn prefetch(bucket: *const Self) {
        prefetch(bucket.cast());
        prefetch(bucket.cast::<u8>().wrapping_add(64));
    }
}

impl<E> Drop for Bucket<E> {
    fn drop(&mut self) {
        for slot in ones(self.occupied()) {
            drop(self.take(slot));
        }
    }
}

/// Whether two keys are equal. Most keys are short, and a call of `memcmp` takes longer than to compare their ends.
#[inline(always)]
fn are_equal(one: &[u8], other: &[u8]) -> bool {
    if let (8..=16, Some(first), Some(last)) = (one.len(), one.first_chunk::<8>(), one.last_chunk::<8>()) {
        return one.len() == other.len() && other.starts_with(first) && other.ends_with(last);
    }
    one == other
}

/// The numbers of the bits that are set.
#[inline]
fn ones(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let slot = mask.trailing_zeros() as usize;
        let any = mask != 0;
        mask &= mask.wrapping_sub(1);
        any.then_some(slot)
    })
}
