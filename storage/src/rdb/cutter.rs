//! Ordered records, cut into runs that become segments.
//!
//! A segment's range is aligned, so ranges come of halving: a range with too many records is halved, one with few enough
//! becomes a segment, an empty one nothing. Read from left to right that needs no more than a window of the records ahead:
//!
//! 1. Fill the window until it holds more than one segment may.
//! 2. Begin with the largest aligned range at the present position; halve it as long as it contains the whole window
//!    and more may follow.
//! 3. Take the records in it, go on after it.
//!
//! A place is `index (4 bits) ‖ the position's first 60 bits`.

use std::ops::Range;

use dormouse_types::segment::{PREFIX_BITS, PREFIX_END, Range53};

use super::error::ImportError;
use super::sorter::Sorted;
use crate::codec::segment::EncodedRecord;

/// Segments split when they hold some 1,400 keys.
const KEYS_MAX: usize = 1200;

/// A segment is read, and held encoded, whole.
const BYTES_MAX: usize = 4 << 20;

const INDEX_SHIFT: u32 = 60;

pub(super) fn place(index: u64, position: u64) -> u64 {
    index << INDEX_SHIFT | position >> 4
}

fn index_of(place: u64) -> u64 {
    place >> INDEX_SHIFT
}

fn prefix_of(place: u64) -> u64 {
    (place & ((1 << INDEX_SHIFT) - 1)) >> (INDEX_SHIFT - PREFIX_BITS)
}

/// ```text
/// expiry u64 LE, 0: none | access u32 LE | kind u8 | heap bytes u64 LE | key length u32 LE | key | value
/// ```
const HEAD_BYTES: usize = 25;

/// Appends a record as the content of a row. `heap_bytes`: memory that the value will take.
pub(super) fn write_record(out: &mut Vec<u8>, record: &EncodedRecord<'_>, heap_bytes: u64) {
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(&record.expiry.unwrap_or(0).to_le_bytes());
    head[8..12].copy_from_slice(&record.access.to_le_bytes());
    head[12] = record.kind;
    head[13..21].copy_from_slice(&heap_bytes.to_le_bytes());
    head[21..].copy_from_slice(&(record.key.len() as u32).to_le_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(record.key);
    out.extend_from_slice(record.value);
}

/// A row of our own making, so it is whole.
fn read_record(row: &[u8]) -> (EncodedRecord<'_>, u64) {
    let (head, rest) = row.split_at(HEAD_BYTES);
    let number =
        |range: Range<usize>| head[range].iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    let (key, value) = rest.split_at(number(21..25) as usize);
    let expiry = Some(number(0..8)).filter(|expiry| *expiry != 0);
    (EncodedRecord { key, expiry, access: number(8..12) as u32, kind: head[12], value }, number(13..21))
}

/// One segment's records.
pub(super) struct Cut<'a> {
    pub(super) index: u64,
    pub(super) range: Range53,
    bytes: &'a [u8],
    rows: &'a [(u64, Range<usize>)],
}

impl Cut<'_> {
    pub(super) fn records(&self) -> impl Iterator<Item = (EncodedRecord<'_>, u64)> {
        self.rows.iter().map(|(_, row)| read_record(&self.bytes[row.clone()]))
    }

    pub(super) fn bytes(&self) -> usize {
        self.rows.last().map_or(0, |(_, row)| row.end) - self.rows.first().map_or(0, |(_, row)| row.start)
    }
}

pub(super) struct Cutter {
    sorted: Sorted,
    ended: bool,
    index: u64,
    /// The prefix that the next range begins with.
    from: u64,
    bytes: Vec<u8>,
    rows: Vec<(u64, Range<usize>)>,
    /// How many rows of the window have been handed out.
    taken: usize,
}

impl Cutter {
    pub(super) fn new(sorted: Sorted) -> Self {
        Cutter { sorted, ended: false, index: 0, from: 0, bytes: Vec::new(), rows: Vec::new(), taken: 0 }
    }

    /// The next segment; `None` after the last.
    pub(super) fn next(&mut self) -> Result<Option<Cut<'_>>, ImportError> {
        self.rows.drain(..self.taken);
        self.taken = 0;
        let start = self.rows.first().map_or(self.bytes.len(), |(_, row)| row.start);
        if start >= self.bytes.len() / 2 {
            self.bytes.drain(..start);
            self.rows.iter_mut().for_each(|(_, row)| *row = row.start - start..row.end - start);
        }
        while !self.is_full() && self.fill_one()? {}
        let Some(&(first, _)) = self.rows.first() else { return Ok(None) };
        if index_of(first) != self.index {
            (self.index, self.from) = (index_of(first), 0);
        }
        let mut range = self.widest();
        loop {
            let inside =
                |(place, _): &(u64, Range<usize>)| index_of(*place) == self.index && range.contains(prefix_of(*place));
            let count = self.rows.partition_point(inside);
            if count == 0 {
                self.from = range.end();
                range = self.widest();
            } else if count < self.rows.len() || !self.is_full() {
                self.from = range.end();
                self.taken = count;
                let rows = &self.rows[..count];
                return Ok(Some(Cut { index: self.index, range, bytes: &self.bytes, rows }));
            } else if range.bits > 0 {
                range = range.halves().0;
            } else {
                // Of billions of keys hardly two begin with the same 53 bits: what has the place of the last is all read.
                if !self.fill_one()? {
                    self.taken = count;
                    self.from = range.end();
                    return Ok(Some(Cut { index: self.index, range, bytes: &self.bytes, rows: &self.rows[..count] }));
                }
            }
        }
    }

    /// The largest aligned range that begins at `from`.
    fn widest(&self) -> Range53 {
        debug_assert!(self.from < PREFIX_END, "there are no places behind the last prefix");
        let bits = if self.from == 0 { PREFIX_BITS } else { self.from.trailing_zeros() };
        Range53 { start: self.from, bits: bits as u8 }
    }

    /// Whether the window holds more than one segment should.
    fn is_full(&self) -> bool {
        let start = self.rows.first().map_or(0, |(_, row)| row.start);
        self.rows.len() > KEYS_MAX || self.rows.len() > 1 && self.bytes.len() - start > BYTES_MAX
    }

    /// Reads a row into the window; false after the last.
    fn fill_one(&mut self) -> Result<bool, ImportError> {
        let start = self.bytes.len();
        let next =
            if self.ended { None } else { self.sorted.next_into(&mut self.bytes).map_err(ImportError::Spill)? };
        let Some(place) = next else {
            self.ended = true;
            return Ok(false);
        };
        let row = start..self.bytes.len();
        let key = |row: &Range<usize>| read_record(&self.bytes[row.clone()]).0.key;
        let same = self.rows.iter().rev().take_while(|(other, _)| *other == place);
        if same.into_iter().any(|(_, other)| key(other) == key(&row)) {
            return Err(ImportError::Twice { index: index_of(place), key: key(&row).to_vec() });
        }
        self.rows.push((place, row));
        Ok(true)
    }
}
