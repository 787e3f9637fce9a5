//! A member of a set.

use std::{fmt, mem, ptr::NonNull};

use super::{
    Entry, block,
    block::{block_size, length_bytes, read_bytes, read_length, write_bytes, write_length},
};

/// Bytes with their length in one allocation:
///
/// ```text
/// | length (1 or 5) | bytes |
/// ```
pub struct Member(NonNull<u8>);

// SAFETY: a member owns its allocation alone and never changes.
unsafe impl Send for Member {}
// SAFETY: as above.
unsafe impl Sync for Member {}

impl Member {
    pub fn new(bytes: &[u8]) -> Self {
        let block = block::allocate(needed(bytes.len()));
        // SAFETY: the allocation has room for the length and the bytes.
        unsafe { write_bytes(write_length(block.as_ptr(), bytes.len()), bytes) };
        Self(block)
    }

    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        // SAFETY: `new` wrote a length and that many bytes.
        unsafe {
            let (len, bytes) = read_length(self.0.as_ptr());
            read_bytes(bytes, len)
        }
    }
}

fn needed(len: usize) -> usize {
    length_bytes(len) + len
}

impl Entry for Member {
    #[inline]
    fn key(&self) -> &[u8] {
        self.as_bytes()
    }

    fn heap_bytes(&self) -> usize {
        block_size(needed(self.as_bytes().len()))
    }

    fn address(&self) -> *const u8 {
        self.0.as_ptr()
    }
}

impl Clone for Member {
    fn clone(&self) -> Self {
        Self::new(self.as_bytes())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // SAFETY: `new` allocated for a member of this length.
        unsafe { block::free(self.0, needed(self.as_bytes().len())) };
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_bytes().escape_ascii())
    }
}

const _: () = assert!(mem::size_of::<Option<Member>>() == 8);
