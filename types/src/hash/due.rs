//! When the fields of a large hash expire: lower bounds, without a word for any field.
//!
//! The positions of the fields are divided into equal **cells** of a few hundred fields each. Each cell has a moment
//! before which none of its fields expires. So a hash without a stale field costs one comparison, and a sweep looks at
//! the cells whose moment has come, and at no other.
//!
//! A field that stops expiring, or that expires later than before, leaves its cell's moment too early. The next sweep
//! of the cell makes it exact.
//!
//! Rejected: an order of all fields by their expiry, as other servers have it, takes 8 to 24 bytes a field and two more
//! writes for each new expiry.

use std::ops::Range;

use crate::entry::size_class;
use crate::segment::PREFIX_BITS;

/// A cell has about this many fields to half and twice as many.
const FIELDS_EACH: usize = 512;
/// The largest number of cells, as a power of two.
const CELL_BITS_MAX: u32 = 20;

/// Invariant: `soonest` is the least of `cells`, whose number is a power of two, and no field expires before the moment of
/// its cell; `expiring` fields have an expiry.
#[derive(Debug)]
pub struct Due {
    cells: Vec<u64>,
    soonest: u64,
    expiring: usize,
    /// The cell where the next sweep begins.
    next: usize,
}

impl Due {
    /// For a hash of `fields` fields, none of which expires yet.
    pub fn new(fields: usize) -> Self {
        let cells = vec![u64::MAX; 1 << Self::bits_for(fields)];
        Due { cells, soonest: u64::MAX, expiring: 0, next: 0 }
    }

    fn bits_for(fields: usize) -> u32 {
        (fields / FIELDS_EACH).max(1).ilog2().min(CELL_BITS_MAX)
    }

    fn bits(&self) -> u32 {
        self.cells.len().ilog2()
    }

    /// How many fields expire.
    pub fn expiring(&self) -> usize {
        self.expiring
    }

    /// Unix milliseconds: no field expires before.
    pub fn soonest(&self) -> u64 {
        self.soonest
    }

    pub fn heap_bytes(&self) -> usize {
        size_class(size_of::<Self>()) + size_class(self.cells.capacity() * size_of::<u64>())
    }

    /// The expiry of the field at `position` changes. The hash has `fields` fields.
    pub fn change(&mut self, position: u64, before: Option<u64>, after: Option<u64>, fields: usize) {
        self.expiring = self.expiring + usize::from(after.is_some()) - usize::from(before.is_some());
        if let Some(expiry) = after {
            if fields > 2 * FIELDS_EACH * self.cells.len() {
                self.fit(fields);
            }
            let cell = self.cell(position);
            self.cells[cell] = self.cells[cell].min(expiry);
            self.soonest = self.soonest.min(expiry);
        }
    }

    fn cell(&self, position: u64) -> usize {
        // Shifting by all 64 bits is left out for a single cell.
        (position >> 1 >> (63 - self.bits())) as usize
    }

    /// The next cell from the last sweep's end on whose moment was `patience_ms` ago, and its prefixes. A single cell is
    /// not waited for.
    pub fn next_due(&mut self, now_ms: u64, patience_ms: u64) -> Option<(usize, Range<u64>)> {
        let patience_ms = if self.cells.len() > 1 { patience_ms } else { 0 };
        let is_due = |moment: u64| moment.saturating_add(patience_ms) <= now_ms;
        if !is_due(self.soonest) {
            return None;
        }
        let mut turns = (self.next..self.cells.len()).chain(0..self.next);
        let cell = turns.find(|&cell| is_due(self.cells[cell]))?;
        self.next = (cell + 1) % self.cells.len();
        let shift = PREFIX_BITS - self.bits();
        Some((cell, (cell as u64) << shift..(cell as u64 + 1) << shift))
    }

    /// A sweep has looked at all fields of a cell: `removed` were removed, and none of the others expires before
    /// `soonest`.
    pub fn swept(&mut self, cell: usize, removed: usize, soonest: u64) {
        self.cells[cell] = soonest;
        self.expiring -= removed;
    }

    /// A sweep has ended, and left `fields` fields.
    pub fn end_sweep(&mut self, fields: usize) {
        if fields * 4 < FIELDS_EACH * self.cells.len() {
            self.fit(fields);
        }
        self.soonest = self.cells.iter().copied().min().unwrap_or(u64::MAX);
    }

    /// Divides or joins cells: so many that each has about [`FIELDS_EACH`] fields.
    fn fit(&mut self, fields: usize) {
        let (before, bits) = (self.bits(), Self::bits_for(fields));
        if bits > before {
            let parts = 1 << (bits - before);
            self.cells = self.cells.iter().flat_map(|&cell| std::iter::repeat_n(cell, parts)).collect();
        } else if bits < before {
            let joined = self.cells.chunks(1 << (before - bits));
            self.cells = joined.map(|cells| cells.iter().copied().min().unwrap_or(u64::MAX)).collect();
        }
        self.next = 0;
    }
}

impl Clone for Due {
    fn clone(&self) -> Self {
        Due { cells: self.cells.clone(), ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_follow_the_size_and_keep_their_moments() {
        let mut due = Due::new(10);
        assert_eq!((due.cells.len(), due.soonest(), due.next_due(u64::MAX - 1, 0)), (1, u64::MAX, None));
        due.change(0, None, Some(50), 10);
        due.change(u64::MAX, None, Some(70), 100_000);
        assert_eq!((due.cells.len(), due.expiring(), due.soonest()), (128, 2, 50));
        // What was one cell may have had the field in any part of it.
        assert_eq!(due.cells.iter().filter(|cell| **cell == 50).count(), 128);
        assert_eq!(due.next_due(60, 11), None);
        let mut swept = 0;
        while let Some((cell, prefixes)) = due.next_due(60, 0) {
            assert_eq!(prefixes.end - prefixes.start, 1 << (PREFIX_BITS - 7));
            let (removed, soonest) = match cell {
                0 => (1, u64::MAX),
                127 => (0, 70),
                _ => (0, u64::MAX),
            };
            due.swept(cell, removed, soonest);
            swept += 1;
        }
        due.end_sweep(99_999);
        assert_eq!((swept, due.expiring(), due.soonest()), (128, 1, 70));
        due.end_sweep(3);
        assert_eq!((due.cells.len(), due.soonest()), (1, 70));
        due.change(5, Some(70), None, 3);
        assert_eq!((due.expiring(), due.soonest()), (0, 70));
    }
}
