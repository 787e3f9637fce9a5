//! The memory of the whole process, as far as the engine has to know it.
//!
//! 1. The server measures the memory of the process a few times a second and reports it here ([`Memory::measured`]).
//! 2. In between, large changes of the data are counted as they are published, and memory that the server keeps for
//!    clients is counted as it is charged, so that a burst is noticed before the next measurement.
//! 3. A command that may add much, or needs much memory while it runs, takes a [`Reservation`] before it runs. It is
//!    given back when the command's additions are published. So many such commands at once, on whatever databases,
//!    cannot take more together than is left. So does a place that is loaded, for the memory that it took when it was
//!    stored.
//!
//! While memory is full, commands that may grow it are refused, and nothing is loaded from the store. A small reserve
//! serves databases that use less than others, and each has a *floor*: one that uses no more is never refused because
//! others use much. All floors together are as large as the reserve, so that bounds what they take even when the
//! reserve is used up.

use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering};

/// The allocator of small values: gives back what the calling thread keeps of it, and says how much it has in all.
pub use dormouse_types::entry::slab::{flush as flush_cache, slab_bytes};

use crate::error::{Error, Result};
use crate::lane::RUNNING_MAX;

/// The memory of this process: it has one allocator, however many nodes a test may start in it.
pub static MEMORY: Memory = Memory::new();

/// Smaller changes are left to the next measurement, and smaller growth is not reserved.
pub const COUNTED_BYTES: usize = 64 << 10;

/// The remainder of the memory that the process may use. Without a measurement there is no limit.
#[derive(Debug, Default)]
pub struct Memory {
    is_limited: AtomicBool,
    /// All that the process may use.
    total: AtomicUsize,
    /// Without the memory that is kept for clients.
    left: AtomicIsize,
    /// Memory that the server keeps for clients.
    held: AtomicUsize,
    reserved: AtomicUsize,
    /// A database that uses no more is served from the reserve.
    share: AtomicUsize,
    reserve: AtomicIsize,
    /// A database that uses no more is served however much others use.
    floor: AtomicUsize,
}

/// Memory of a piece of work on the slow lane that is counted afterwards, however little the process has.
const UNCOUNTED_BYTES_MIN: usize = 1 << 20;

/// The reserve is this part of all memory. A database is served from it up to this part of an even share.
pub const RESERVE_PART: usize = 20;
const SHARE_PART: usize = 2;

impl Memory {
    pub const fn new() -> Self {
        Self {
            is_limited: AtomicBool::new(false),
            total: AtomicUsize::new(0),
            left: AtomicIsize::new(0),
            held: AtomicUsize::new(0),
            reserved: AtomicUsize::new(0),
            share: AtomicUsize::new(0),
            reserve: AtomicIsize::new(0),
            floor: AtomicUsize::new(0),
        }
    }

    /// Sets how many bytes of `total` are left, negative if too many are used already, and how many databases are in
    /// memory.
    pub fn measured(&self, left: isize, total: usize, databases: usize) {
        self.left.store(left.saturating_add(signed(self.held.load(Ordering::Relaxed))), Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
        self.share.store(total / databases.max(1) / SHARE_PART, Ordering::Relaxed);
        self.reserve.store(signed(total / RESERVE_PART), Ordering::Relaxed);
        self.floor.store(total / RESERVE_PART / databases.max(1), Ordering::Relaxed);
        self.is_limited.store(true, Ordering::Relaxed);
    }

    /// Counts a change of the data.
    pub fn changed(&self, bytes: isize) {
        if bytes.unsigned_abs() >= COUNTED_BYTES {
            self.left.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Counts memory that the server keeps for a client.
    pub fn hold(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn let_go(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The memory that a database's clients, or its data, may use however much others use.
    pub fn floor(&self) -> usize {
        self.floor.load(Ordering::Relaxed)
    }

    /// The memory of one of several pieces of work that take theirs before it can be counted: `most` bytes, or less so that
    /// all of them together, one on each thread of the slow lane, take a quarter of the process's memory. Each may take
    /// a mebibyte, however little that is.
    pub fn of_uncounted_work(&self, most: usize) -> usize {
        if !self.is_limited.load(Ordering::Relaxed) {
            return most;
        }
        most.min((self.total.load(Ordering::Relaxed) / 4 / RUNNING_MAX).max(UNCOUNTED_BYTES_MIN))
    }

    pub fn is_full(&self) -> bool {
        self.is_limited.load(Ordering::Relaxed) && self.left() <= 0
    }

    /// Whether `bytes` that are not counted yet exceed the memory that is left.
    pub fn is_exceeded_by(&self, bytes: usize) -> bool {
        self.is_limited.load(Ordering::Relaxed) && self.left() < signed(bytes)
    }

    /// Whether a database that has `used` bytes in memory may have more.
    ///
    /// # Errors
    /// [`Error::OutOfTotal`] while memory is full.
    pub fn check(&self, used: usize) -> Result<()> {
        if !self.is_full() || self.is_served(used, self.left()) { Ok(()) } else { Err(Error::OutOfTotal) }
    }

    /// Reserves `bytes` for a database that has `used` bytes in memory.
    ///
    /// # Errors
    /// [`Error::OutOfTotal`] if fewer are left.
    pub fn reserve(&'static self, bytes: usize, used: usize) -> Result<Reservation> {
        let is_limited = self.is_limited.load(Ordering::Relaxed);
        // A reservation that does not fit is not added even for a moment: others would be refused meanwhile.
        let reserve = |reserved: usize| {
            let left = self.left_beside(reserved).saturating_sub(signed(bytes));
            let fits = !is_limited || left >= 0 || self.is_served(used.saturating_add(bytes), left);
            fits.then(|| reserved.wrapping_add(bytes))
        };
        match self.reserved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, reserve) {
            Ok(_) => Ok(Reservation { memory: self, bytes }),
            Err(_) => Err(Error::OutOfTotal),
        }
    }

    /// Reserves `bytes` even if fewer are left, for work that cannot be refused any more.
    pub fn claim(&'static self, bytes: usize) -> Reservation {
        self.reserved.fetch_add(bytes, Ordering::Relaxed);
        Reservation { memory: self, bytes }
    }

    /// Whether a database that uses so little is served when no more than this is left.
    fn is_served(&self, used: usize, left: isize) -> bool {
        let has_reserve = left > -self.reserve.load(Ordering::Relaxed);
        used <= self.floor.load(Ordering::Relaxed) || has_reserve && used <= self.share.load(Ordering::Relaxed)
    }

    fn left(&self) -> isize {
        self.left_beside(self.reserved.load(Ordering::Relaxed))
    }

    fn left_beside(&self, reserved: usize) -> isize {
        let held = signed(self.held.load(Ordering::Relaxed));
        self.left.load(Ordering::Relaxed).saturating_sub(held).saturating_sub(signed(reserved))
    }
}

fn signed(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}

/// Bytes that count as used until this is dropped.
#[derive(Debug)]
pub struct Reservation {
    memory: &'static Memory,
    bytes: usize,
}

impl Reservation {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes over the reservation of `other`, of the same memory.
    pub fn append(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.memory.reserved.fetch_sub(self.bytes, Ordering::Relaxed);
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
    fn work_that_is_counted_afterwards_has_a_small_part_of_all_memory() {
        let memory = Memory::default();
        assert_eq!(memory.of_uncounted_work(64 << 20), 64 << 20, "there is no limit");
        for (total, expected) in [(16 << 30, 64 << 20), (1 << 30, 16 << 20), (16 << 20, 1 << 20)] {
            memory.measured(0, total, 1);
            assert_eq!(memory.of_uncounted_work(64 << 20), expected);
        }
    }

    #[test]
    fn who_uses_little_is_served_from_a_reserve() {
        let memory = Memory::default();
        memory.measured(0, 100 << 20, 10);
        assert!(memory.is_full());
        assert_eq!((memory.check(5 << 20), memory.check((5 << 20) + 1)), (Ok(()), Err(Error::OutOfTotal)));
        memory.measured(-(5 << 20), 100 << 20, 10);
        assert_eq!(memory.check(5 << 20), Err(Error::OutOfTotal), "the reserve is used up");
    }

    #[test]
    fn a_database_below_its_floor_is_served_whatever_others_use() {
        let memory: &'static Memory = Box::leak(Box::default());
        memory.measured(-(1 << 30), 100 << 20, 10);
        let floor = 512 << 10;
        assert_eq!((memory.check(floor), memory.check(floor + 1)), (Ok(()), Err(Error::OutOfTotal)));
        drop(memory.reserve(floor / 2, floor / 2).expect("it stays below its floor"));
        assert_eq!(memory.reserve(floor / 2 + 1, floor / 2).unwrap_err(), Error::OutOfTotal);
    }

    #[test]
    fn reservations_together_take_no_more_than_is_left() {
        let memory: &'static Memory = Box::leak(Box::default());
        drop(memory.reserve(usize::MAX >> 1, 0).expect("nobody has set a limit"));
        memory.measured(100, 1 << 20, 1);
        let first = memory.reserve(60, 1 << 20).unwrap();
        assert_eq!(memory.reserve(60, 1 << 20).unwrap_err(), Error::OutOfTotal);
        let mut second = memory.reserve(40, 1 << 20).unwrap();
        assert!(memory.is_full());
        second.append(first);
        assert_eq!(second.bytes(), 100);
        drop(second);
        assert!(!memory.is_full() && !memory.is_exceeded_by(100));
    }

    /// A client that asks for far too much again and again harms only itself.
    #[test]
    fn what_is_refused_takes_nothing_even_for_a_moment() {
        let memory: &'static Memory = Box::leak(Box::default());
        memory.measured(1 << 20, 1 << 40, 1 << 40);
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (0..20_000).for_each(|_| drop(memory.reserve(1 << 30, 1 << 30).expect_err("it is too much")));
                is_done.store(true, Ordering::Relaxed);
            });
            while !is_done.load(Ordering::Relaxed) {
                assert!(memory.check(1 << 30).is_ok() && memory.reserve(1000, 1 << 30).is_ok());
            }
        });
    }

    #[test]
    fn what_clients_hold_counts_at_once_and_is_measured_once() {
        let memory: &'static Memory = Box::leak(Box::default());
        memory.hold(30);
        memory.measured(100, 1 << 20, 1);
        assert!(memory.is_exceeded_by(101) && !memory.is_exceeded_by(100), "what is measured has it");
        memory.hold(50);
        assert!(memory.is_exceeded_by(51) && !memory.is_exceeded_by(50));
        memory.let_go(80);
        assert!(memory.is_exceeded_by(131) && !memory.is_exceeded_by(130));
    }
}
