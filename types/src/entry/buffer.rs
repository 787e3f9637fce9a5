//! Bytes of packed collections: a buffer behind a thin pointer.

use std::{fmt, ptr::NonNull, slice};

use super::block::{self, block_size};
use crate::pace;

/// The bytes that the total takes.
pub const TOTAL_BYTES: usize = 4;

/// Nothing, or a block that begins with the number of its bytes:
///
/// ```text
/// | total u32 LE: bytes in use, with these four | bytes | free |
/// | 0 (1 bit) | mark (1 bit) | total (30 bits)    | bytes | free |
/// | 1 (1 bit) | tag (15 bits) | total (16 bits)   | bytes | free |       tagged
/// ```
///
/// A listpack begins like this too, so it is the buffer that keeps its length, and it takes no space for one of its own.
/// The mark is its owner's, and stays while the buffer is not empty.
/// The block is as large as the [block size](block_size) of the total, so most changes happen in place.
///
/// Invariant: all bytes of the block are initialised, those that are free too.
#[repr(transparent)]
#[derive(Default)]
pub struct Buffer(Option<NonNull<u8>>);

// SAFETY: a buffer owns its block alone.
unsafe impl Send for Buffer {}
// SAFETY: as above; nothing is changed through a shared reference.
unsafe impl Sync for Buffer {}

const TAGGED: u32 = 1 << 31;
const MARKED: u32 = 1 << 30;

fn tagged_word(total: usize, tag: u16) -> u32 {
    TAGGED | u32::from(tag) << 16 | total as u32
}

impl Buffer {
    pub const TAG_MAX: u16 = 0x7FFF;

    /// A copy of bytes that need no total of their own.
    pub fn of(bytes: &[u8]) -> Self {
        let mut buffer = Self::default();
        buffer.resize(0, TOTAL_BYTES + bytes.len());
        pace::copy(buffer.body_mut(), bytes);
        buffer
    }

    /// These bytes one after the other, tagged.
    ///
    /// # Panics
    /// If the total needs more than 16 bits, or the tag more than 15.
    #[inline]
    pub fn tagged<const N: usize>(parts: [&[u8]; N], tag: u16) -> Self {
        let mut total = TOTAL_BYTES;
        for part in parts {
            total += part.len();
        }
        assert!(total <= 0xFFFF && tag <= Self::TAG_MAX, "a tag leaves 16 bits for the total");
        let block = block::allocate(total);
        let mut end = TOTAL_BYTES;
        for part in parts {
            // Many are empty, and a copy is a call.
            if part.is_empty() {
                continue;
            }
            // SAFETY: the block has room for the sum of the parts, and is new, so it overlaps none of them.
            unsafe { block.as_ptr().add(end).copy_from_nonoverlapping(part.as_ptr(), part.len()) };
            end += part.len();
        }
        // SAFETY: the block is as large as its block size; `end` is the total.
        unsafe { block.as_ptr().add(end).write_bytes(0, block_size(total) - end) };
        let mut buffer = Self(Some(block));
        buffer.set_word(tagged_word(total, tag));
        buffer
    }

    /// The address of its block: only ever prefetched.
    #[inline]
    pub fn address(&self) -> *const u8 {
        self.0.map_or(std::ptr::null(), |block| block.as_ptr())
    }

    /// The bytes in use, with the total; 0 of nothing.
    #[inline]
    pub fn len(&self) -> usize {
        let word = self.word();
        (if word & TAGGED == 0 { word & !MARKED } else { word & 0xFFFF }) as usize
    }

    /// Whether [`Self::mark`] was called since the buffer was empty.
    #[inline]
    pub fn is_marked(&self) -> bool {
        self.word() & (TAGGED | MARKED) == MARKED
    }

    /// Marks a buffer that is neither empty nor tagged; any other stays as it is.
    pub fn mark(&mut self) {
        let word = self.word();
        if word & TAGGED == 0 {
            self.set_word(word | MARKED);
        }
    }

    /// The number that the buffer was tagged with.
    #[inline]
    pub fn tag(&self) -> Option<u16> {
        let word = self.word();
        (word & TAGGED != 0).then_some((word >> 16) as u16 & Self::TAG_MAX)
    }

    #[inline(always)]
    fn word(&self) -> u32 {
        // SAFETY: every block begins with its total, and is aligned to 8.
        self.0.map_or(0, |block| unsafe { u32::from_le(block.cast::<u32>().read()) })
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The bytes in use, with the total.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match self.0 {
            // SAFETY: the total says how many bytes are in use, and all of them are initialised.
            Some(block) => unsafe { slice::from_raw_parts(block.as_ptr(), self.len()) },
            None => &[],
        }
    }

    /// The bytes in use after the total.
    #[inline]
    pub fn body(&self) -> &[u8] {
        self.bytes().get(TOTAL_BYTES..).unwrap_or_default()
    }

    /// The bytes in use after the total.
    #[inline]
    pub fn body_mut(&mut self) -> &mut [u8] {
        match self.0 {
            // SAFETY: as in `bytes`; the buffer is borrowed mutably, and the total is left out. It is at least its own length.
            Some(block) => unsafe {
                slice::from_raw_parts_mut(block.as_ptr().add(TOTAL_BYTES), self.len() - TOTAL_BYTES)
            },
            None => &mut [],
        }
    }

    /// Changes the bytes in use to `total`, which is at least [`TOTAL_BYTES`]. The first `kept` survive, the others have any
    /// values.
    ///
    /// # Panics
    /// If the total needs more than 30 bits.
    pub fn resize(&mut self, kept: usize, total: usize) {
        let word = u32::try_from(total).ok().filter(|word| word & (TAGGED | MARKED) == 0);
        let mark = if self.is_marked() { MARKED } else { 0 };
        self.resize_to(kept, total, word.expect("what is packed is shorter than 1 GiB") | mark);
    }

    /// As [`Self::resize`], and tags the buffer.
    ///
    /// # Panics
    /// If the total needs more than 16 bits, or the tag more than 15.
    pub fn resize_tagged(&mut self, kept: usize, total: usize, tag: u16) {
        assert!(total <= 0xFFFF && tag <= Self::TAG_MAX, "a tag leaves 16 bits for the total");
        self.resize_to(kept, total, tagged_word(total, tag));
    }

    fn resize_to(&mut self, kept: usize, total: usize, word: u32) {
        assert!(total >= TOTAL_BYTES, "a buffer has room for its total");
        let size = block_size(total);
        match self.0 {
            Some(_) if block_size(self.len()) == size => {}
            before => {
                let before = before.map(|block| (block, self.len()));
                let kept = kept.min(total).min(self.len());
                // SAFETY: the block before is of the size of its total, and is not used again.
                let block = unsafe { block::resize(before, kept, total) };
                // SAFETY: the block has so many bytes.
                unsafe { block.as_ptr().add(kept).write_bytes(0, size - kept) };
                self.0 = Some(block);
            }
        }
        self.set_word(word);
    }

    fn set_word(&mut self, word: u32) {
        if let Some(block) = self.0 {
            // SAFETY: every block has room for its total, and is aligned to 8.
            unsafe { block.cast::<u32>().write(word.to_le()) };
        }
    }

    /// The bytes of the block.
    pub fn heap_bytes(&self) -> usize {
        block_size(self.len())
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        let mut copy = Self::default();
        if !self.is_empty() {
            copy.resize_to(0, self.len(), self.word());
            pace::copy(copy.body_mut(), self.body());
        }
        copy
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(block) = self.0 {
            // SAFETY: the block is of the size of its total, and the buffer goes.
            unsafe { block::free(block, self.len()) };
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.body().escape_ascii())
    }
}

const _: () = assert!(size_of::<Buffer>() == 8);

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    #[test]
    fn a_buffer_keeps_what_it_should() {
        let mut rng = Rng::with_seed(1);
        let (mut buffer, mut model) = (Buffer::default(), Vec::new());
        assert!(buffer.is_empty() && buffer.bytes().is_empty() && buffer.body_mut().is_empty());
        for _ in 0..5000 {
            let most = [40, 1100, 5000][rng.usize(..3)];
            let (total, kept) = (rng.usize(TOTAL_BYTES..most), rng.usize(..most));
            buffer.resize(kept, total);
            assert_eq!((buffer.len(), buffer.bytes().len()), (total, total));
            assert_eq!(buffer.bytes()[..TOTAL_BYTES], (total as u32).to_le_bytes());
            let kept = kept.clamp(TOTAL_BYTES, total.min(model.len() + TOTAL_BYTES)) - TOTAL_BYTES;
            assert_eq!(buffer.body()[..kept], model[..kept]);
            rng.fill(buffer.body_mut());
            model = buffer.body().to_vec();
            assert_eq!(buffer.heap_bytes(), block_size(total));
            assert_eq!(buffer.clone().body(), model);
        }
        buffer.resize_tagged(10, 60_000, 7);
        assert_eq!((buffer.len(), buffer.tag(), buffer.clone().tag()), (60_000, Some(7), Some(7)));
        assert_eq!(buffer.body()[..6], model[..6]);
        buffer.resize(10, 20);
        assert_eq!((buffer.len(), buffer.tag()), (20, None));
        buffer.mark();
        for total in [2000, 12, 100_000, 20] {
            buffer.resize(10, total);
            assert_eq!((buffer.len(), buffer.tag(), buffer.is_marked()), (total, None, true));
            assert_eq!((buffer.body()[..6] == model[..6], buffer.clone().is_marked()), (true, true));
        }
        buffer.resize_tagged(10, 20, 0x7FFF);
        buffer.mark();
        assert_eq!((buffer.len(), buffer.tag(), buffer.is_marked()), (20, Some(0x7FFF), false));
        let mut nothing = Buffer::default();
        nothing.mark();
        assert!(!nothing.is_marked() && nothing.is_empty());
        assert_eq!(Buffer::of(b"").len(), TOTAL_BYTES);
        assert_eq!(Buffer::of(b"abc").body(), b"abc");
        for len in [0, 1, 4, 1100] {
            let parts = [&b"abc"[..], b"", &vec![b'x'; len]];
            let buffer = Buffer::tagged(parts, 9);
            assert_eq!((buffer.body(), buffer.tag()), (&parts.concat()[..], Some(9)));
            assert_eq!((buffer.len(), buffer.heap_bytes()), (TOTAL_BYTES + 3 + len, block_size(TOTAL_BYTES + 3 + len)));
        }
    }
}
