//! The memory of the whole process, as far as the engine has to know it.
//!
//! The server measures what the process uses a few times a second and says so here. In between, large changes of the data are
//! counted, so that a burst of large values is noticed before the next measurement. While memory is full, commands that may
//! grow it are refused, and nothing is loaded from the store. A database that uses little is not refused for what others use:
//! there is a small reserve for those.

use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering};

use crate::error::{Error, Result};

/// That of this process: it has one allocator, however many nodes a test may start in it.
pub static MEMORY: Memory = Memory {
    is_limited: AtomicBool::new(false),
    left: AtomicIsize::new(0),
    share: AtomicUsize::new(0),
    reserve: AtomicIsize::new(0),
};

/// Smaller changes are left to the next measurement.
const COUNTED_BYTES: isize = 64 << 10;

/// What is left of the memory that the process may use. Without a measurement there is no limit.
#[derive(Debug, Default)]
pub struct Memory {
    is_limited: AtomicBool,
    left: AtomicIsize,
    /// A database that uses no more is served from the reserve.
    share: AtomicUsize,
    reserve: AtomicIsize,
}

/// The reserve is this part of all memory, and what a database may use to be served from it this part of an even share.
const RESERVE_PART: usize = 20;
const SHARE_PART: usize = 2;

impl Memory {
    /// Says how many bytes of `total` are left, negative where too many are used already, and how many databases there are in
    /// memory.
    pub fn measured(&self, left: isize, total: usize, databases: usize) {
        self.left.store(left, Ordering::Relaxed);
        self.share.store(total / databases.max(1) / SHARE_PART, Ordering::Relaxed);
        self.reserve.store(isize::try_from(total / RESERVE_PART).unwrap_or(isize::MAX), Ordering::Relaxed);
        self.is_limited.store(true, Ordering::Relaxed);
    }

    /// Counts a change of the data.
    pub fn changed(&self, bytes: isize) {
        if bytes.abs() >= COUNTED_BYTES {
            self.left.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    pub fn is_full(&self) -> bool {
        self.is_limited.load(Ordering::Relaxed) && self.left.load(Ordering::Relaxed) <= 0
    }

    /// Whether `bytes` that are not counted yet are more than what is left.
    pub fn is_exceeded_by(&self, bytes: usize) -> bool {
        let bytes = isize::try_from(bytes).unwrap_or(isize::MAX);
        self.is_limited.load(Ordering::Relaxed) && self.left.load(Ordering::Relaxed) < bytes
    }

    /// Whether a database that has `used` bytes in memory may have more.
    ///
    /// # Errors
    /// [`Error::OutOfTotal`] while memory is full.
    pub fn check(&self, used: usize) -> Result<()> {
        let is_served = !self.is_full()
            || used <= self.share.load(Ordering::Relaxed)
                && self.left.load(Ordering::Relaxed) > -self.reserve.load(Ordering::Relaxed);
        if is_served { Ok(()) } else { Err(Error::OutOfTotal) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_changes_count_until_the_next_measurement() {
        let memory = Memory::default();
        memory.changed(isize::MAX);
        assert_eq!(memory.check(usize::MAX), Ok(()), "nobody has set a limit");
        memory.measured(1 << 20, 20 << 20, 4);
        memory.changed(1000);
        memory.changed(1 << 20);
        assert_eq!(memory.check(5 << 20), Err(Error::OutOfTotal));
        memory.changed(-(1 << 20));
        assert_eq!(memory.check(5 << 20), Ok(()));
        assert!(memory.is_exceeded_by(2 << 20) && !memory.is_exceeded_by(1000));
    }

    #[test]
    fn who_uses_little_is_served_from_a_reserve() {
        let memory = Memory::default();
        memory.measured(0, 100 << 20, 10);
        assert!(memory.is_full());
        assert_eq!((memory.check(5 << 20), memory.check((5 << 20) + 1)), (Ok(()), Err(Error::OutOfTotal)));
        memory.measured(-(5 << 20), 100 << 20, 10);
        assert_eq!(memory.check(0), Err(Error::OutOfTotal), "the reserve is used up");
    }
}
