//! The databases that write to this process's log: their numbers, and what each has written that is not durable yet.
//!
//! A number stands for a database in the entries of a frame, whose head says what each number means. So it is reused
//! when nothing uses it any more and no entry in the gathering frame has it: a log of many short-lived branches keeps
//! nothing of those that are deleted.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::format::{Identity, NamedDatabase};

/// Bytes of one database that are not durable yet. Written under the log's lock, read without.
pub(super) type Outstanding = Arc<AtomicU64>;

/// A database that the frame has entries of.
pub(super) struct Touched {
    pub number: u32,
    /// Of its last entry.
    pub sequence: u64,
    pub bytes: u64,
    pub outstanding: Outstanding,
}

struct Slot {
    identity: Identity,
    users: usize,
    /// Its index among the databases of which the frame has entries.
    touched: Option<usize>,
    outstanding: Outstanding,
}

#[derive(Default)]
pub(super) struct Registry {
    slots: Vec<Option<Slot>>,
    numbers: HashMap<Identity, u32>,
    free: Vec<u32>,
    touched: Vec<Touched>,
}

impl Registry {
    /// The number of a database, for one more user.
    pub fn register(&mut self, identity: &Identity) -> (u32, Outstanding) {
        let number = self.numbers.get(identity).copied().unwrap_or_else(|| {
            let number = self.free.pop().unwrap_or(self.slots.len() as u32);
            let slot =
                Slot { identity: identity.clone(), users: 0, touched: None, outstanding: Outstanding::default() };
            match self.slots.get_mut(number as usize) {
                Some(free) => *free = Some(slot),
                None => self.slots.push(Some(slot)),
            }
            self.numbers.insert(identity.clone(), number);
            number
        });
        match self.slots.get_mut(number as usize) {
            Some(Some(slot)) => {
                slot.users += 1;
                (number, Arc::clone(&slot.outstanding))
            }
            // It was inserted just now.
            _ => (number, Outstanding::default()),
        }
    }

    /// One user less.
    pub fn release(&mut self, number: u32) {
        if let Some(Some(slot)) = self.slots.get_mut(number as usize) {
            slot.users -= 1;
        }
        self.free_unused(number);
    }

    /// Notes an entry of `bytes`.
    pub fn touch(&mut self, number: u32, sequence: u64, bytes: u64) {
        let Some(Some(slot)) = self.slots.get_mut(number as usize) else { return };
        let before = slot.outstanding.load(Ordering::Relaxed);
        slot.outstanding.store(before + bytes, Ordering::Relaxed);
        match slot.touched.and_then(|at| self.touched.get_mut(at)) {
            Some(touched) => {
                touched.sequence = sequence;
                touched.bytes += bytes;
            }
            None => {
                slot.touched = Some(self.touched.len());
                let outstanding = Arc::clone(&slot.outstanding);
                self.touched.push(Touched { number, sequence, bytes, outstanding });
            }
        }
    }

    /// Returns the databases touched since the last call, each with its name.
    pub fn take(&mut self) -> (Vec<Touched>, Vec<NamedDatabase>) {
        let touched = std::mem::take(&mut self.touched);
        let mut names = Vec::with_capacity(touched.len());
        for Touched { number, .. } in &touched {
            if let Some(Some(slot)) = self.slots.get_mut(*number as usize) {
                slot.touched = None;
                names.push(NamedDatabase { number: *number, identity: slot.identity.clone() });
            }
            self.free_unused(*number);
        }
        (touched, names)
    }

    /// Databases that are known.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    fn free_unused(&mut self, number: u32) {
        let Some(slot) = self.slots.get_mut(number as usize) else { return };
        if let Some(gone) = slot.take_if(|slot| slot.users == 0 && slot.touched.is_none()) {
            self.numbers.remove(&gone.identity);
            self.free.push(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::testing::identity;

    #[test]
    fn numbers_are_used_again_when_no_entry_has_them() {
        let mut registry = Registry::default();
        let (a, of_a) = registry.register(&identity("a"));
        assert_eq!(registry.register(&identity("a")).0, a);
        registry.touch(a, 1, 10);
        registry.touch(a, 2, 20);
        registry.release(a);
        registry.release(a);
        // The frame has entries of it.
        let (b, _) = registry.register(&identity("b"));
        assert_ne!(a, b);
        let (touched, names) = registry.take();
        assert_eq!((touched[0].number, touched[0].sequence, touched[0].bytes), (a, 2, 30));
        assert_eq!(names, [NamedDatabase { number: a, identity: identity("a") }]);
        assert_eq!((of_a.load(Ordering::Relaxed), registry.len()), (30, 1));
        let (c, of_c) = registry.register(&identity("c"));
        assert_eq!((c, of_c.load(Ordering::Relaxed)), (a, 0));
        for round in 0..1000 {
            let (number, _) = registry.register(&identity(&format!("{round}")));
            registry.touch(number, 1, 1);
            registry.release(number);
            registry.take();
        }
        assert_eq!((registry.len(), registry.slots.len()), (2, 3));
    }
}
