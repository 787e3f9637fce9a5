//! The trait of a segment's entries.

/// A thin owning pointer to one allocation that begins with (or near) its key.
///
/// A segment stores entries as they are, so they must have the size of a pointer; that is checked when a segment of them
/// is compiled.
pub trait Entry: Sized {
    /// The bytes by which the entry is found.
    fn key(&self) -> &[u8];

    /// The bytes that the entry owns, rounded to size classes, itself not counted.
    fn heap_bytes(&self) -> usize;

    /// The address of the allocation: only ever prefetched.
    fn address(&self) -> *const u8;

    /// The address of the data that the entry owns in another allocation, if it has some: only ever prefetched.
    fn owned_address(&self) -> Option<*const u8> {
        None
    }
}

/// Bytes of a cache line, on most machines.
pub const CACHE_LINE: usize = 64;

/// The same for a line that will be written.
#[inline(always)]
pub fn prefetch_to_write(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: as in `prefetch`; a processor without this instruction takes it for one that does nothing. The intrinsic
    // would prefetch the line for reading if the build does not guarantee the instruction.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, readonly, preserves_flags));
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: as in `prefetch`.
    unsafe {
        std::arch::asm!("prfm pstl1keep, [{}]", in(reg) address, options(nostack, readonly, preserves_flags));
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    let _ = address;
}

/// Prefetches the cache line at `address`. Any address will do, even one that is not mapped.
#[inline(always)]
pub fn prefetch(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch accesses no memory that the program could notice, and SSE is part of x86_64.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: a prefetch accesses no memory that the program could notice, and changes no register or flag.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, readonly, preserves_flags));
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    let _ = address;
}
