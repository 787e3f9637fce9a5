//! A member of a sorted set, with its score.

use std::{
    fmt,
    ptr::NonNull,
    sync::atomic::{AtomicU8, AtomicU64, Ordering, fence},
};

use super::{
    Entry, block,
    block::{block_size, length_bytes, read_bytes, read_length, write_bytes, write_length},
};

/// A score and a member in one allocation, shared by the holders of clones: the table and the tree of one sorted set.
///
/// ```text
/// | score (8) | holders (1) | length (1 or 5) | bytes |
/// ```
///
/// The count is one byte, so an allocation has at most 255 holders. Score and count are atomics so that sharing is
/// sound wherever the holders go; they are not meant to go anywhere.
pub struct Scored(NonNull<u8>);

const HOLDERS: usize = 8;
const LENGTH: usize = 9;

// SAFETY: what is shared is either never changed or atomic.
unsafe impl Send for Scored {}
// SAFETY: as above.
unsafe impl Sync for Scored {}

impl Scored {
    pub fn new(score: f64, member: &[u8]) -> Self {
        let block = block::allocate(needed(member.len()));
        // SAFETY: the allocation has room for all, and is aligned to 8.
        unsafe {
            block.as_ptr().cast::<u64>().write(score.to_bits());
            block.as_ptr().add(HOLDERS).write(1);
            write_bytes(write_length(block.as_ptr().add(LENGTH), member.len()), member);
        }
        Self(block)
    }

    #[inline]
    pub fn score(&self) -> f64 {
        f64::from_bits(self.score_bits().load(Ordering::Relaxed))
    }

    /// Changes the score for all holders. An order by score must be taken care of before and after.
    pub fn set_score(&self, score: f64) {
        self.score_bits().store(score.to_bits(), Ordering::Relaxed);
    }

    #[inline]
    pub fn member(&self) -> &[u8] {
        // SAFETY: `new` wrote a length and that many bytes, which never change.
        unsafe {
            let (len, bytes) = read_length(self.0.as_ptr().add(LENGTH));
            read_bytes(bytes, len)
        }
    }

    fn score_bits(&self) -> &AtomicU64 {
        // SAFETY: the allocation begins with the score, is aligned to 8, and it is only accessed as an atomic.
        unsafe { AtomicU64::from_ptr(self.0.as_ptr().cast()) }
    }

    fn holders(&self) -> &AtomicU8 {
        // SAFETY: the count is only accessed as an atomic.
        unsafe { AtomicU8::from_ptr(self.0.as_ptr().add(HOLDERS)) }
    }
}

fn needed(len: usize) -> usize {
    LENGTH + length_bytes(len) + len
}

impl Clone for Scored {
    /// Another holder of the same.
    ///
    /// # Panics
    /// If it has 255 holders already.
    fn clone(&self) -> Self {
        let counted =
            self.holders().fetch_update(Ordering::Relaxed, Ordering::Relaxed, |holders| holders.checked_add(1));
        counted.expect("a member is held by a table and a tree");
        Self(self.0)
    }
}

impl Drop for Scored {
    fn drop(&mut self) {
        if self.holders().fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
            // SAFETY: this was the last holder, and `new` allocated for a member of this length.
            unsafe { block::free(self.0, needed(self.member().len())) };
        }
    }
}

impl Entry for Scored {
    #[inline]
    fn key(&self) -> &[u8] {
        self.member()
    }

    /// The same for each holder: to be counted once.
    fn heap_bytes(&self) -> usize {
        block_size(needed(self.member().len()))
    }

    fn address(&self) -> *const u8 {
        self.0.as_ptr()
    }
}

impl fmt::Debug for Scored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.member().escape_ascii(), self.score())
    }
}
