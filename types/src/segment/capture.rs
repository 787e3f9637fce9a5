//! A capture: the entries of a table as they were at one moment, taken in steps while the table changes.
//!
//! 1. [`Table::begin_capture`] cuts the positions into equal **cells** of a few kilobytes each. It copies nothing.
//! 2. [`Table::capture_some`] writes the entries of the next cells, and counts them as taken.
//! 3. Before an entry is added, changed or removed, its cell is written aside, unless it was taken or written already.
//!    So a change costs one cell at most, and each cell is written once, by the change or by the capture.
//!
//! Cells are ranges of positions, so segments may split and merge in between. A clone of a table has no capture.
//!
//! Invariant: the entries taken, those written aside and those that the table holds in the other cells are together the
//! entries of the moment at which the capture began.

use std::collections::BTreeMap;

use crate::entry::Entry;

use super::{Placement, Table, prefix53, range::PREFIX_BITS};

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
    fn cells(&self) -> u64 {
        1 << (PREFIX_BITS - self.shift)
    }
}

impl<E: Entry, P: Placement> Table<E, P> {
    /// Begins a capture, in place of any other. `id` tells it from others. `cell_bytes`: about what is written before a change.
    pub fn begin_capture(&mut self, id: u64, cell_bytes: usize, write: WriteEntry<E>) {
        let cells = (self.heap_bytes() / cell_bytes.max(1)).max(1).next_power_of_two();
        let bits = cells.trailing_zeros().min(CELL_BITS_MAX);
        let shift = PREFIX_BITS - bits;
        let capture = Capture { id, shift, cell_bytes: cell_bytes.max(1), next: 0, aside: BTreeMap::new(), write };
        self.capture = Some(Box::new(capture));
    }

    /// Appends the next entries of capture `id`, until `out` holds about `bytes_max` bytes. `None`: the capture does
    /// not exist.
    pub fn capture_some(&mut self, id: u64, bytes_max: usize, out: &mut Vec<u8>) -> Option<Captured> {
        let mut capture = self.capture.take_if(|capture| capture.id == id)?;
        let mut entries = 0;
        while capture.next < capture.cells() {
            if let Some((count, bytes)) = capture.aside.remove(&capture.next) {
                entries += count;
                out.extend_from_slice(&bytes);
                capture.next += 1;
            } else {
                let room = bytes_max.saturating_sub(out.len()) / capture.cell_bytes;
                let aside = capture.aside.first_key_value().map_or(capture.cells(), |(cell, _)| *cell);
                let end = capture.next.saturating_add(room.max(1) as u64).min(aside);
                entries += self.write_cells(&capture, capture.next..end, out);
                capture.next = end;
            }
            if out.len() >= bytes_max {
                break;
            }
        }
        let is_done = capture.next == capture.cells();
        if !is_done {
            self.capture = Some(capture);
        }
        Some(Captured { entries, is_done })
    }

    /// The capture in progress.
    pub fn captured_id(&self) -> Option<u64> {
        self.capture.as_ref().map(|capture| capture.id)
    }

    /// Bytes that the capture under way has written aside.
    pub fn aside_bytes(&self) -> usize {
        let aside = self.capture.iter().flat_map(|capture| capture.aside.values());
        aside.map(|(_, bytes)| bytes.capacity()).sum()
    }

    pub fn is_captured(&self) -> bool {
        self.capture.is_some()
    }

    /// Ends whatever capture is under way.
    pub fn end_capture(&mut self) {
        self.capture = None;
    }

    /// To be called before the entry at `position` is changed by other means than the table's own.
    #[inline]
    pub fn before_change(&mut self, position: u64) {
        if self.capture.is_some() {
            self.put_aside(position);
        }
    }

    #[cold]
    fn put_aside(&mut self, position: u64) {
        let Some(mut capture) = self.capture.take() else { return };
        let cell = prefix53(position) >> capture.shift;
        if cell >= capture.next && !capture.aside.contains_key(&cell) {
            let mut bytes = Vec::new();
            let count = self.write_cells(&capture, cell..cell + 1, &mut bytes);
            bytes.shrink_to_fit();
            capture.aside.insert(cell, (count, bytes));
        }
        self.capture = Some(capture);
    }

    fn write_cells(&self, capture: &Capture<E>, cells: std::ops::Range<u64>, out: &mut Vec<u8>) -> usize {
        let mut entries = 0;
        self.visit_range(cells.start << capture.shift..cells.end << capture.shift, |entry| {
            entries += 1;
            (capture.write)(entry, out);
        });
        entries
    }
}
