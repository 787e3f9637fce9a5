//! The memory of the whole process, as far as the engine has to know it.
//!
//! The server measures what the process uses a few times a second and says so here. In between, large changes of the data are
//! counted, so that a burst of large values is noticed before the next measurement. While memory is full, commands that may
//! grow it are refused, and nothing is loaded from the store.

use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};

use crate::error::{Error, Result};

/// That of this process: it has one allocator, however many nodes a test may start in it.
pub static MEMORY: Memory = Memory { is_limited: AtomicBool::new(false), left: AtomicIsize::new(0) };

/// Smaller changes are left to the next measurement.
const COUNTED_BYTES: isize = 64 << 10;

/// What is left of the memory that the process may use. Without a measurement there is no limit.
#[derive(Debug, Default)]
pub struct Memory {
    is_limited: AtomicBool,
    left: AtomicIsize,
}

impl Memory {
    /// Says how many bytes are left; negative where too many are used already.
    pub fn measured(&self, left: isize) {
        self.left.store(left, Ordering::Relaxed);
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

    /// # Errors
    /// [`Error::OutOfTotal`] while memory is full.
    pub fn check(&self) -> Result<()> {
        if self.is_full() { Err(Error::OutOfTotal) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_changes_count_until_the_next_measurement() {
        let memory = Memory::default();
        memory.changed(isize::MAX);
        assert_eq!(memory.check(), Ok(()), "nobody has set a limit");
        memory.measured(1 << 20);
        memory.changed(1000);
        memory.changed(1 << 20);
        assert_eq!(memory.check(), Err(Error::OutOfTotal));
        memory.changed(-(1 << 20));
        assert_eq!(memory.check(), Ok(()));
        memory.measured(0);
        assert!(memory.is_full());
    }
}
