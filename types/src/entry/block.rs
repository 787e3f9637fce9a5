//! Blocks: the memory of records, entries and packed collections, and lengths inside them.
//!
//! Small blocks come from [`slab`], larger ones from the global allocator. Fuzzers and Miri get every block from the
//! global allocator, to find out about accesses beside a block or after its end.

use std::{
    alloc::{Layout, alloc, dealloc, handle_alloc_error, realloc},
    ptr::NonNull,
    slice,
};

use super::{size_class, slab};

/// A length of 0..=254 takes one byte, any other this byte and four more.
const LONG: u8 = u8::MAX;

const IS_FROM_SLAB: bool = !cfg!(any(fuzzing, miri));

/// The bytes that a block for `bytes` takes: the next multiple of 8 up to [`slab::BLOCK_MAX`], beyond it the global
/// allocator's [`size_class`]. Every byte count that is accounted is rounded by one of the two.
#[inline(always)]
pub const fn block_size(bytes: usize) -> usize {
    if bytes <= slab::BLOCK_MAX { bytes.next_multiple_of(8) } else { size_class(bytes) }
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(block_size(bytes), 8).expect("a record is smaller than the address space")
}

/// A block for this many bytes (at least one), aligned to 8.
#[inline]
pub fn allocate(bytes: usize) -> NonNull<u8> {
    debug_assert!(bytes > 0);
    if IS_FROM_SLAB && bytes <= slab::BLOCK_MAX { slab::take(slab::class_of(bytes)) } else { allocate_large(bytes) }
}

#[inline(never)]
fn allocate_large(bytes: usize) -> NonNull<u8> {
    let layout = layout(bytes);
    // SAFETY: the layout is not empty, because `bytes` is not 0.
    let block = unsafe { alloc(layout) };
    NonNull::new(block).unwrap_or_else(|| handle_alloc_error(layout))
}

/// # Safety
/// `block` comes from `allocate` with a number of bytes of the same block size, and is not used again.
#[inline]
pub unsafe fn free(block: NonNull<u8>, bytes: usize) {
    // SAFETY: class and layout depend on the block size only.
    unsafe {
        if IS_FROM_SLAB && bytes <= slab::BLOCK_MAX {
            slab::give(block, slab::class_of(bytes));
        } else {
            free_large(block, bytes);
        }
    }
}

/// # Safety
/// As [`free`], for a block of `allocate_large`.
#[inline(never)]
unsafe fn free_large(block: NonNull<u8>, bytes: usize) {
    // SAFETY: the layout depends on the block size only.
    unsafe { dealloc(block.as_ptr(), layout(bytes)) };
}

/// A block for `bytes` in place of another one, whose first `kept` bytes survive. `before` has its number of bytes.
///
/// # Safety
/// The block before comes from here, with a number of bytes of the same block size, and is not used again; `kept` is at
/// most either number of bytes.
pub unsafe fn resize(before: Option<(NonNull<u8>, usize)>, kept: usize, bytes: usize) -> NonNull<u8> {
    let Some((block, bytes_before)) = before else { return allocate(bytes) };
    // SAFETY: the caller's promise.
    unsafe {
        if bytes.min(bytes_before) > slab::BLOCK_MAX || !IS_FROM_SLAB {
            // The global allocator moves pages, or grows what is at its end.
            let resized = realloc(block.as_ptr(), layout(bytes_before), block_size(bytes));
            return NonNull::new(resized).unwrap_or_else(|| handle_alloc_error(layout(bytes)));
        }
        let resized = allocate(bytes);
        resized.as_ptr().copy_from_nonoverlapping(block.as_ptr(), kept);
        free(block, bytes_before);
        resized
    }
}

/// The bytes that a length takes.
pub fn length_bytes(len: usize) -> usize {
    if len < usize::from(LONG) { 1 } else { 5 }
}

/// Writes a length; returns its end.
///
/// # Safety
/// `length_bytes(len)` bytes at `at` are writable.
pub unsafe fn write_length(at: *mut u8, len: usize) -> *mut u8 {
    // SAFETY: the caller's promise covers each byte written.
    unsafe {
        if len < usize::from(LONG) {
            at.write(len as u8);
            at.add(1)
        } else {
            let len = u32::try_from(len).expect("no element is longer than 512 MiB");
            at.write(LONG);
            at.add(1).cast::<u32>().write_unaligned(len);
            at.add(5)
        }
    }
}

/// Reads a length; returns it and its end.
///
/// # Safety
/// `write_length` wrote it at `at`.
#[inline(always)]
pub unsafe fn read_length(at: *const u8) -> (usize, *const u8) {
    // SAFETY: what was written is readable.
    unsafe {
        let len = at.read();
        if len < LONG {
            (usize::from(len), at.add(1))
        } else {
            (at.add(1).cast::<u32>().read_unaligned() as usize, at.add(5))
        }
    }
}

/// Writes bytes; returns their end.
///
/// # Safety
/// As many bytes at `at` are writable, and they do not overlap `bytes`.
pub unsafe fn write_bytes(at: *mut u8, bytes: &[u8]) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe {
        at.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        at.add(bytes.len())
    }
}

/// # Safety
/// The `len` bytes at `at` are initialised, and stay unchanged for 'a.
#[inline(always)]
pub unsafe fn read_bytes<'a>(at: *const u8, len: usize) -> &'a [u8] {
    // SAFETY: the caller's promise.
    unsafe { slice::from_raw_parts(at, len) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_at_most_as_large_as_the_global_allocators() {
        assert_eq!([0, 1, 8, 9, 87, 1024].map(block_size), [0, 8, 8, 16, 88, 1024]);
        for bytes in 0..5000 {
            assert!((bytes..=size_class(bytes)).contains(&block_size(bytes)), "{bytes} bytes");
        }
        assert_eq!(block_size(1025), 1280);
    }
}
