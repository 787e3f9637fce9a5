//! Memory for small blocks: size classes eight bytes apart, slabs of one class, and a cache for each thread.
//!
//! The global allocator's classes are 16 to 128 bytes apart, and its own memory for them is slow to return. Records, entries
//! and packed collections are small and many, so they get an allocator of their own:
//!
//! 1. A **slab** is [`SLAB_BYTES`] of the global allocator, aligned to their size, so the slab of a block follows from the
//!    block's address. It begins with a header and a bitmap of its free blocks, and has blocks of one class.
//! 2. A **pool** for each class, under a lock, links the slabs that have a free block. Blocks come from the first slab
//!    of the list, the lowest address first. A slab without free blocks leaves the list; its next free block brings it
//!    back at the end, so slabs that are nearly empty get time to become empty.
//! 3. A slab that is empty goes back to the global allocator at once, which keeps it for a while before the system gets
//!    it. No lock is held meanwhile, nor while a slab is allocated: the global allocator may have work of its own to do,
//!    and a worker must not wait until a thread of lower priority has done it.
//! 4. A **cache** for each thread has a few free blocks of each class, at most [`CACHED_BYTES`] or [`CACHED_MIN`] blocks. It
//!    takes blocks from the pool, and gives them back, half of that at a time. So most calls take no lock, and a block
//!    may be freed by another thread than the one that allocated it.
//! 5. A cached block keeps its slab. So a thread that ends, or has no work left, gives all of its cache back
//!    ([`flush`]).
//!
//! Neither bitmap nor cache touches the memory of a free block: freeing a block and taking it again costs no cache miss.
//!
//! ```text
//! 0        64                                                      65536
//! | header | bitmap of free blocks | pad to 64 | block | block | ... |
//! ```
//!
//! Invariants, kept under the lock of the slab's class: a bit is set exactly if its block is free and in no cache; `taken`
//! is the number of blocks whose bits are not set; a slab is in its pool's list exactly if a bit is set; no slab in the list
//! has `taken` 0.

use std::{
    alloc::{Layout, alloc, dealloc, handle_alloc_error},
    cell::UnsafeCell,
    ptr::{self, NonNull},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Larger blocks come from the global allocator.
pub(crate) const BLOCK_MAX: usize = 1024;

const STEP: usize = 8;
/// One for each multiple of [`STEP`]; the first is not used.
const CLASSES: usize = BLOCK_MAX / STEP + 1;
const SLAB_BYTES: usize = 64 << 10;
const HEADER_BYTES: usize = 64;
/// Most bytes of one class in the cache of a thread.
const CACHED_BYTES: usize = 4 << 10;
/// Blocks of one class that a cache may have whatever their size.
const CACHED_MIN: usize = 4;
/// Most blocks of one class in the cache of a thread: a row of the cache fills four lines.
const CACHED_MAX: usize = 31;

/// The class of a block for this many bytes.
#[inline(always)]
pub(crate) const fn class_of(bytes: usize) -> usize {
    bytes.div_ceil(STEP)
}

/// A block of a class (1 to [`BLOCK_MAX`] / 8), aligned to 8. Its bytes are not initialised.
#[inline]
pub(crate) fn take(class: usize) -> NonNull<u8> {
    match with_cache(|cache| cache.rows[class].pop()) {
        Some(block) => block,
        None => take_from_pool(class),
    }
}

/// Frees a block.
///
/// # Safety
/// `block` comes from [`take`] with this class, and is not used again.
#[inline]
pub(crate) unsafe fn give(block: NonNull<u8>, class: usize) {
    #[cfg(debug_assertions)]
    // SAFETY: nobody uses the block any more. A use after this one finds bytes that make no sense.
    unsafe {
        ptr::write_bytes(block.as_ptr(), 0xDF, class * STEP);
    }
    if !with_cache(|cache| cache.rows[class].push(block)) {
        // SAFETY: the caller's promise.
        unsafe { give_to_pool(block, class) };
    }
}

/// Gives back all blocks that this thread's cache has, so that it keeps no slab.
pub fn flush() {
    with_cache(|cache| {
        for (word, classes) in cache.opened.iter_mut().enumerate() {
            while *classes != 0 {
                let class = word * 64 + classes.trailing_zeros() as usize;
                *classes &= *classes - 1;
                let row = &mut cache.rows[class];
                // SAFETY: the cache had these blocks, so they are free and of this class, and it forgets them.
                unsafe { POOLS.give(class, row.blocks()) };
                (row.len, row.most) = (0, 0);
            }
        }
    });
}

/// The bytes of all slabs.
pub fn slab_bytes() -> usize {
    POOLS.slabs.load(Ordering::Relaxed) * SLAB_BYTES
}

/// Gives access to the cache of this thread. `access` must not call this function.
#[inline(always)]
fn with_cache<R>(access: impl FnOnce(&mut Cache) -> R) -> R {
    // SAFETY: the cache is this thread's alone. No `access` of this module calls anything that takes or gives a block, since
    // the pools use only the global allocator, so there is no other reference.
    CACHE.with(|cache| access(unsafe { &mut *cache.get() }))
}

#[cold]
#[inline(never)]
fn take_from_pool(class: usize) -> NonNull<u8> {
    let count = (open(class) / 2).max(1);
    with_cache(|cache| {
        let row = &mut cache.rows[class];
        POOLS.take(class, count, row);
        row.pop().expect("a pool gives at least one block")
    })
}

/// # Safety
/// As [`give`].
#[cold]
#[inline(never)]
unsafe fn give_to_pool(block: NonNull<u8>, class: usize) {
    let most = open(class);
    with_cache(|cache| {
        let row = &mut cache.rows[class];
        // SAFETY: the cache had these blocks, so they are free and of this class; so is `block` by the caller's promise.
        unsafe {
            if row.len == row.most {
                row.give_some(class, most / 2);
            }
            if !row.push(block) {
                POOLS.give(class, &[block.as_ptr()]);
            }
        }
    });
}

/// Lets this thread's cache keep blocks of the class, unless the thread is ending. Returns how many it keeps.
///
/// The first time it arranges that the cache is flushed when the thread ends. Until then, and after that, all rows are
/// closed, so that every call comes here.
fn open(class: usize) -> usize {
    if LEAVING.try_with(|_| ()).is_err() {
        return 0;
    }
    let most = cached_max(class);
    with_cache(|cache| {
        cache.opened[class / 64] |= 1 << (class % 64);
        cache.rows[class].most = most as u32;
    });
    most
}

const fn cached_max(class: usize) -> usize {
    let most = CACHED_BYTES / (class * STEP);
    match most {
        ..CACHED_MIN => CACHED_MIN,
        CACHED_MIN..CACHED_MAX => most,
        _ => CACHED_MAX,
    }
}

thread_local! {
    static CACHE: UnsafeCell<Cache> = const { UnsafeCell::new(Cache::NEW) };
    /// Dropped when the thread ends. The cache has no destructor of its own, which every access would have to look after.
    static LEAVING: Leaving = const { Leaving };
}

struct Leaving;

impl Drop for Leaving {
    fn drop(&mut self) {
        flush();
    }
}

/// Free blocks that only one thread knows.
struct Cache {
    rows: [Row; CLASSES],
    /// The classes whose rows are open, a bit each.
    opened: [u64; CLASSES.div_ceil(64)],
}

impl Cache {
    const NEW: Self = Self { rows: [Row::EMPTY; CLASSES], opened: [0; CLASSES.div_ceil(64)] };
}

/// Free blocks of one class in the cache of a thread.
///
/// Invariant: the first `len` are free blocks of the row's class that only this row knows; `len <= CACHED_MAX` and
/// `most <= CACHED_MAX`.
#[repr(C, align(64))]
struct Row {
    len: u32,
    /// The blocks that it keeps; 0 while it is closed.
    most: u32,
    blocks: [*mut u8; CACHED_MAX],
}

impl Row {
    const EMPTY: Self = Self { len: 0, most: 0, blocks: [ptr::null_mut(); CACHED_MAX] };

    #[inline(always)]
    fn pop(&mut self) -> Option<NonNull<u8>> {
        let at = self.len.checked_sub(1)?;
        self.len = at;
        // SAFETY: `len` is at most the number of blocks.
        NonNull::new(unsafe { *self.blocks.get_unchecked(at as usize) })
    }

    #[inline(always)]
    fn push(&mut self, block: NonNull<u8>) -> bool {
        if self.len >= self.most {
            return false;
        }
        // SAFETY: `len` is below `most`, which is at most the number of blocks.
        unsafe { *self.blocks.get_unchecked_mut(self.len as usize) = block.as_ptr() };
        self.len += 1;
        true
    }

    /// Gives some blocks to the pool: those that were freed first, which are the least likely to be in the processor's
    /// cache.
    ///
    /// # Safety
    /// The row is one of the cache, for this class.
    unsafe fn give_some(&mut self, class: usize, count: usize) {
        let len = self.len as usize;
        // SAFETY: the blocks are free and of this class, and the row forgets them.
        unsafe { POOLS.give(class, &self.blocks[..count.min(len)]) };
        self.blocks.copy_within(count.min(len)..len, 0);
        self.len = (len - count.min(len)) as u32;
    }

    fn blocks(&self) -> &[*mut u8] {
        &self.blocks[..self.len as usize]
    }
}

static POOLS: Pools = Pools::new();

struct Pools {
    pools: [Pool; CLASSES],
    slabs: AtomicUsize,
}

/// The slabs of one class that have a free block, in a circle of links; null if none has.
#[repr(align(64))]
struct Pool(Mutex<First>);

struct First(*mut Slab);

// SAFETY: slabs belong to no thread; all access to their headers is under the lock.
unsafe impl Send for First {}

/// The header of a slab.
#[repr(C)]
struct Slab {
    next: *mut Slab,
    previous: *mut Slab,
    taken: u32,
    /// No word of the bitmap before this one has a bit set.
    first_word: u32,
}

const _: () = assert!(size_of::<Slab>() <= HEADER_BYTES);

/// The geometry of the slabs of a class.
#[derive(Clone, Copy)]
struct Geometry {
    size: u32,
    blocks: u32,
    /// The offset of the first block.
    first: u32,
    /// 2^32 / size, rounded up.
    reciprocal: u32,
}

const GEOMETRY: [Geometry; CLASSES] = {
    let mut all = [Geometry { size: 0, blocks: 0, first: 0, reciprocal: 0 }; CLASSES];
    let mut class = 1;
    while class < CLASSES {
        let size = class * STEP;
        let mut blocks = (SLAB_BYTES - HEADER_BYTES) / size;
        let mut first;
        loop {
            first = (HEADER_BYTES + blocks.div_ceil(64) * 8).next_multiple_of(64);
            if first + blocks * size <= SLAB_BYTES {
                break;
            }
            blocks -= 1;
        }
        let reciprocal = (1u64 << 32).div_ceil(size as u64) as u32;
        all[class] = Geometry { size: size as u32, blocks: blocks as u32, first: first as u32, reciprocal };
        class += 1;
    }
    all
};

impl Geometry {
    fn words(self) -> usize {
        (self.blocks as usize).div_ceil(64)
    }

    /// The number of the block at this offset of a slab.
    fn number(self, offset: usize) -> usize {
        // Exact, because an offset is below 2^16 and a size below 2^16: the error is less than 1 / size.
        (((offset as u64 - u64::from(self.first)) * u64::from(self.reciprocal)) >> 32) as usize
    }
}

impl Pools {
    const fn new() -> Self {
        Self { pools: [const { Pool(Mutex::new(First(ptr::null_mut()))) }; CLASSES], slabs: AtomicUsize::new(0) }
    }

    fn lock(&self, class: usize) -> MutexGuard<'_, First> {
        // A panic under the lock is impossible but for a bug in this module.
        self.pools[class].0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts up to `count` blocks into an empty row, at least one, so that those of low addresses are popped first.
    fn take(&self, class: usize, count: usize, row: &mut Row) {
        debug_assert_eq!(row.len, 0);
        let geometry = GEOMETRY[class];
        let mut first = self.lock(class);
        while (row.len as usize) < count {
            let mut slab = first.0;
            if slab.is_null() {
                if row.len > 0 {
                    break;
                }
                drop(first);
                slab = new_slab(geometry);
                self.slabs.fetch_add(1, Ordering::Relaxed);
                first = self.lock(class);
                // SAFETY: the slab is new, and the lock is held.
                unsafe { first.link(slab) };
            }
            // SAFETY: the slab is in the list, so it exists and has a free block; the lock is held.
            unsafe {
                let wanted = count - row.len as usize;
                if take_some(slab, geometry, wanted, row) {
                    first.unlink(slab);
                }
            }
        }
        drop(first);
        row.blocks[..row.len as usize].reverse();
    }

    /// # Safety
    /// The blocks are of this class, from these pools, and not used again.
    unsafe fn give(&self, class: usize, blocks: &[*mut u8]) {
        if blocks.is_empty() {
            return;
        }
        let geometry = GEOMETRY[class];
        let mut empty: *mut Slab = ptr::null_mut();
        let mut first = self.lock(class);
        for &block in blocks {
            let slab = block.map_addr(|address| address & !(SLAB_BYTES - 1)).cast::<Slab>();
            let number = geometry.number(block.addr() - slab.addr());
            // SAFETY: the block is inside its slab, which is aligned to its size and has existed at least since the block was
            // taken; its header is accessed under the lock of its class.
            unsafe {
                let word = bitmap(slab).add(number / 64);
                debug_assert_eq!(*word & 1 << (number % 64), 0, "a block is freed once");
                *word |= 1 << (number % 64);
                (*slab).first_word = (*slab).first_word.min((number / 64) as u32);
                (*slab).taken -= 1;
                let is_first = (*slab).taken + 1 == geometry.blocks;
                match ((*slab).taken, is_first) {
                    (0, _) => {
                        if !is_first {
                            first.unlink(slab);
                        }
                        (*slab).next = empty;
                        empty = slab;
                    }
                    (_, true) => first.link(slab),
                    _ => {}
                }
            }
        }
        drop(first);
        while !empty.is_null() {
            // SAFETY: the slab exists, but in no list any more, and all of its blocks were free, so no thread knows it.
            unsafe {
                let slab = empty;
                empty = (*slab).next;
                dealloc(slab.cast(), SLAB);
            }
            self.slabs.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

const SLAB: Layout = match Layout::from_size_align(SLAB_BYTES, SLAB_BYTES) {
    Ok(layout) => layout,
    Err(_) => unreachable!(),
};

/// A slab whose blocks are all free, in no list.
fn new_slab(geometry: Geometry) -> *mut Slab {
    // SAFETY: the layout is not empty.
    let slab = unsafe { alloc(SLAB) }.cast::<Slab>();
    if slab.is_null() {
        handle_alloc_error(SLAB);
    }
    // SAFETY: the slab is this function's alone, and has room for the header and the bitmap.
    unsafe {
        slab.write(Slab { next: ptr::null_mut(), previous: ptr::null_mut(), taken: 0, first_word: 0 });
        let words = geometry.words();
        for word in 0..words {
            let bits = geometry.blocks as usize - word * 64;
            bitmap(slab).add(word).write(if bits < 64 { (1 << bits) - 1 } else { u64::MAX });
        }
    }
    slab
}

/// # Safety
/// The slab exists.
unsafe fn bitmap(slab: *mut Slab) -> *mut u64 {
    // SAFETY: the bitmap follows the header.
    unsafe { slab.cast::<u8>().add(HEADER_BYTES).cast() }
}

/// Puts up to `wanted` of the slab's free blocks into `row`. Returns whether none is left.
///
/// # Safety
/// The slab exists, has this geometry and a free block, and its class is locked.
unsafe fn take_some(slab: *mut Slab, geometry: Geometry, wanted: usize, row: &mut Row) -> bool {
    let mut left = wanted;
    // SAFETY: words are those of the bitmap, and blocks are inside the slab.
    unsafe {
        let mut at = (*slab).first_word as usize;
        while left > 0 && at < geometry.words() {
            let word = bitmap(slab).add(at);
            while *word != 0 && left > 0 {
                let number = at * 64 + (*word).trailing_zeros() as usize;
                *word &= *word - 1;
                let offset = geometry.first as usize + number * geometry.size as usize;
                row.blocks[row.len as usize] = slab.cast::<u8>().add(offset);
                row.len += 1;
                left -= 1;
            }
            at += usize::from(*word == 0);
        }
        (*slab).first_word = at as u32;
        (*slab).taken += (wanted - left) as u32;
        (*slab).taken == geometry.blocks
    }
}

impl First {
    /// Puts a slab at the end of the list.
    ///
    /// # Safety
    /// The slab exists and is in no list, and the lock is held.
    unsafe fn link(&mut self, slab: *mut Slab) {
        // SAFETY: slabs in the list exist, and their links form a circle.
        unsafe {
            if self.0.is_null() {
                ((*slab).next, (*slab).previous) = (slab, slab);
                self.0 = slab;
            } else {
                let last = (*self.0).previous;
                ((*slab).next, (*slab).previous) = (self.0, last);
                ((*last).next, (*self.0).previous) = (slab, slab);
            }
        }
    }

    /// # Safety
    /// The slab is in the list, and the lock is held.
    unsafe fn unlink(&mut self, slab: *mut Slab) {
        // SAFETY: slabs in the list exist, and their links form a circle.
        unsafe {
            let (next, previous) = ((*slab).next, (*slab).previous);
            if next == slab {
                self.0 = ptr::null_mut();
                return;
            }
            ((*previous).next, (*next).previous) = (next, previous);
            if self.0 == slab {
                self.0 = next;
            }
        }
    }
}

#[cfg(test)]
mod tests;
