//! A capture: the entries of a table as they were at one moment, taken in steps while the table changes.
//!
//! 1. It begins by cutting the positions into equal **cells** of a few kilobytes each. That copies nothing.
//! 2. [`Capture::take_some`] writes the entries of the next cells, and counts them as taken.
//! 3. Before an entry is added, changed or removed, its cell is written aside, unless it was taken or written already.
//!    So a change costs one cell at most, and each cell is written once, by the change or by the capture.
//!
//! Cells are ranges of positions, so segments may split and merge in between. A clone of a table has no capture.
//!
//! Invariant: the entries taken, those written aside and those that the table holds in the other cells are together the
//! entries of the moment at which the capture began.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{prefix53, range::PREFIX_BITS};

/// The largest number of cells, as a power of two.
const CELL_BITS_MAX: u32 = 24;

/// Appends the stored form of an entry.
pub type WriteEntry<E> = fn(&E, &mut Vec<u8>);

/// The outcome of one step of a capture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Captured {
    pub entries: usize,
    /// Nothing is left: the capture has ended.
    pub is_done: bool,
}

/// A capture in progress. The table shows it its entries.
pub(super) struct Capture<E> {
    id: u64,
    /// A cell is a run of 2^shift prefixes, whose entries take about this many bytes.
    shift: u32,
    cell_bytes: usize,
    /// Cells before this one are taken.
    next: u64,
    /// Cells from `next` on that were written before they changed: how many entries, and these.
    aside: BTreeMap<u64, (usize, Vec<u8>)>,
    write: WriteEntry<E>,
}

impl<E> Capture<E> {
    /// Begins a capture of a table of `heap_bytes`. `id` tells it from others. `cell_bytes`: about what is written before
    /// a change.
    pub fn new(id: u64, heap_bytes: usize, cell_bytes: usize, write: WriteEntry<E>) -> Self {
        let cells = (heap_bytes / cell_bytes.max(1)).max(1).next_power_of_two();
        let bits = cells.trailing_zeros().min(CELL_BITS_MAX);
        let shift = PREFIX_BITS - bits;
        Self { id, shift, cell_bytes: cell_bytes.max(1), next: 0, aside: BTreeMap::new(), write }
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    fn cells(&self) -> u64 {
        1 << (PREFIX_BITS - self.shift)
    }

    /// Appends the next entries, until `out` holds about `bytes_max` bytes. `visit` shows the table's entries in a range
    /// of prefixes.
    pub fn take_some(
        &mut self,
        bytes_max: usize,
        out: &mut Vec<u8>,
        visit: impl Fn(Range<u64>, &mut dyn FnMut(&E)),
    ) -> Captured {
        let mut entries = 0;
        while self.next < self.cells() {
            if let Some((count, bytes)) = self.aside.remove(&self.next) {
                entries += count;
                out.extend_from_slice(&bytes);
                self.next += 1;
            } else {
                let room = bytes_max.saturating_sub(out.len()) / self.cell_bytes;
                let aside = self.aside.first_key_value().map_or(self.cells(), |(cell, _)| *cell);
                let end = self.next.saturating_add(room.max(1) as u64).min(aside);
                entries += self.write_cells(self.next..end, out, &visit);
                self.next = end;
            }
            if out.len() >= bytes_max {
                break;
            }
        }
        Captured { entries, is_done: self.next == self.cells() }
    }

    /// Writes the cell of a position aside, unless it was taken or written already.
    pub fn put_aside(&mut self, position: u64, visit: impl Fn(Range<u64>, &mut dyn FnMut(&E))) {
        let cell = prefix53(position) >> self.shift;
        if cell >= self.next && !self.aside.contains_key(&cell) {
            let mut bytes = Vec::new();
            let count = self.write_cells(cell..cell + 1, &mut bytes, visit);
            bytes.shrink_to_fit();
            self.aside.insert(cell, (count, bytes));
        }
    }

    /// Bytes that were written aside.
    pub fn aside_bytes(&self) -> usize {
        self.aside.values().map(|(_, bytes)| bytes.capacity()).sum()
    }

    fn write_cells(
        &self,
        cells: Range<u64>,
        out: &mut Vec<u8>,
        visit: impl Fn(Range<u64>, &mut dyn FnMut(&E)),
    ) -> usize {
        let mut entries = 0;
        visit(cells.start << self.shift..cells.end << self.shift, &mut |entry| {
            entries += 1;
            (self.write)(entry, out);
        });
        entries
    }
}
