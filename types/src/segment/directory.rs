//! The directory: which segment a position belongs to.
//!
//! The segments are in a vector in the order of their ranges, without gaps. To find one, the whole span is cut into
//! equal **cells**, at least two to a segment: a cell gives the segment that holds its first prefix, and whether that
//! one holds the whole cell, as is so for nearly all cells when keys are spread evenly. The others (crowds at few
//! positions have many segments in one cell) are searched by halving.

use std::{mem, ops::Range};

use crate::entry::size_class;

use super::range::Ranged;

/// Below this many segments a search is as fast as the cells.
const SEARCHED_MAX: usize = 4;

/// Segments, or their stand-ins, that cover a span of positions in order and without gaps.
pub struct Directory<S> {
    segments: Vec<S>,
    /// `index << 1 | whole`.
    cells: Vec<u32>,
    /// The first prefix of all.
    start: u64,
    /// The prefixes of a cell are 2^shift.
    shift: u32,
}

impl<S: Ranged> Directory<S> {
    /// # Panics
    /// If the segments are none, not in order or have gaps.
    pub fn new(segments: Vec<S>) -> Self {
        assert!(!segments.is_empty(), "a directory covers something");
        assert_contiguous(&segments);
        let mut directory = Self { start: segments[0].range().start, segments, cells: Vec::new(), shift: 0 };
        directory.build_cells();
        directory
    }

    pub fn len(&self) -> usize {
        self.segments.len()
    }

    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// The first prefix covered.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The first prefix after the covered span.
    pub fn end(&self) -> u64 {
        self.segments.last().map_or(self.start, |last| last.range().end())
    }

    /// The index of the segment that covers this prefix, which must be covered.
    #[inline]
    pub fn find(&self, prefix: u64) -> usize {
        debug_assert!((self.start..self.end()).contains(&prefix));
        if self.cells.is_empty() {
            return self.search(prefix, 0, self.segments.len());
        }
        let cell = ((prefix - self.start) >> self.shift) as usize;
        let (index, is_whole) = unpack(self.cells[cell]);
        if is_whole { index } else { self.search_cell(prefix, cell, index) }
    }

    #[cold]
    fn search_cell(&self, prefix: u64, cell: usize, first: usize) -> usize {
        let end = self.cells.get(cell + 1).map_or(self.segments.len(), |&next| unpack(next).0 + 1);
        self.search(prefix, first, end)
    }

    /// The last segment in `first..end` that starts at the prefix or before it.
    fn search(&self, prefix: u64, first: usize, end: usize) -> usize {
        first + self.segments[first..end].partition_point(|segment| segment.range().start <= prefix) - 1
    }

    #[inline]
    pub fn get(&self, index: usize) -> Option<&S> {
        self.segments.get(index)
    }

    #[inline]
    pub fn get_mut(&mut self, index: usize) -> Option<&mut S> {
        self.segments.get_mut(index)
    }

    pub fn iter(&self) -> std::slice::Iter<'_, S> {
        self.segments.iter()
    }

    /// Ranges must be left as they are.
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, S> {
        self.segments.iter_mut()
    }

    /// Replaces one segment by pieces, which must cover its range.
    pub fn replace(&mut self, index: usize, pieces: impl IntoIterator<Item = S>) -> S {
        self.splice(index..index + 1, pieces).pop().expect("a segment was replaced")
    }

    /// Puts pieces in the place of neighbouring segments, which are answered. They must cover what those covered.
    ///
    /// # Panics
    /// If they do not.
    pub fn splice(&mut self, replaced: Range<usize>, pieces: impl IntoIterator<Item = S>) -> Vec<S> {
        let span = self.segments[replaced.start].range().start..self.segments[replaced.end - 1].range().end();
        let len_before = self.segments.len();
        let before: Vec<S> = self.segments.splice(replaced.clone(), pieces).collect();
        let added = self.segments.len() + replaced.len() - len_before;
        let pieces = &self.segments[replaced.start..replaced.start + added];
        assert_contiguous(pieces);
        assert!(
            pieces.first().is_some_and(|first| first.range().start == span.start)
                && pieces.last().is_some_and(|last| last.range().end() == span.end),
            "the pieces cover what they replace"
        );
        let cells = self.cells.len();
        let len = self.segments.len();
        if len > SEARCHED_MAX && len * 3 > cells * 2 || len * 16 <= cells {
            self.build_cells();
        } else if cells > 0 {
            self.update_cells(span, replaced, added);
        }
        before
    }

    /// Splits off everything from `prefix` on.
    ///
    /// # Panics
    /// If no segment starts there, or the first one does.
    pub fn split_off(&mut self, prefix: u64) -> Directory<S> {
        let index = self.segments.partition_point(|segment| segment.range().start < prefix);
        assert!(index > 0, "something is left");
        let rest = Self::new(self.segments.split_off(index));
        assert_eq!(rest.start, prefix, "a directory is split between segments");
        self.build_cells();
        rest
    }

    /// Adds what follows.
    ///
    /// # Panics
    /// If `next` does not start where this ends.
    pub fn append(&mut self, mut next: Directory<S>) {
        assert_eq!(self.end(), next.start, "directories without a gap");
        self.segments.append(&mut next.segments);
        self.build_cells();
    }

    /// Returns the segments, in order.
    pub fn into_segments(self) -> Vec<S> {
        self.segments
    }

    /// The bytes of the directory itself, not those that the segments own.
    pub fn heap_bytes(&self) -> usize {
        size_class(self.segments.capacity() * size_of::<S>()) + size_class(self.cells.capacity() * size_of::<u32>())
    }

    fn build_cells(&mut self) {
        self.cells = Vec::new();
        if self.segments.capacity() > self.segments.len() * 3 {
            self.segments.shrink_to(self.segments.len() * 3 / 2);
        }
        if self.segments.len() <= SEARCHED_MAX {
            return;
        }
        let cells = (self.segments.len() * 2).next_power_of_two() as u64;
        let span = self.end() - self.start;
        self.shift = (span / cells).max(1).ilog2();
        self.cells = vec![0; span.div_ceil(1 << self.shift) as usize];
        self.update_cells(self.start..self.end(), 0..0, 0);
    }

    /// Brings the cells up to date after `added` segments have taken the place of `replaced`, which covered `span`.
    fn update_cells(&mut self, span: Range<u64>, replaced: Range<usize>, added: usize) {
        let (start, shift) = (self.start, self.shift);
        let first = ((span.start - start) >> shift) as usize;
        let last = ((span.end - 1 - start) >> shift) as usize;
        let mut index = replaced.start;
        for cell in first..=last {
            let (cell_start, cell_end) = (start + ((cell as u64) << shift), start + ((cell as u64 + 1) << shift));
            if cell_start < span.start {
                // It begins in an earlier segment, which is where it was, and ends in another, as before.
                continue;
            }
            while self.segments[index].range().end() <= cell_start {
                index += 1;
            }
            self.cells[cell] = (index as u32) << 1 | u32::from(self.segments[index].range().end() >= cell_end);
        }
        let moved = (added.wrapping_sub(replaced.len()) as u32) << 1;
        if moved != 0 {
            self.cells[last + 1..].iter_mut().for_each(|cell| *cell = cell.wrapping_add(moved));
        }
    }
}

impl<S> IntoIterator for Directory<S> {
    type Item = S;
    type IntoIter = std::vec::IntoIter<S>;

    fn into_iter(mut self) -> Self::IntoIter {
        mem::take(&mut self.segments).into_iter()
    }
}

#[inline]
fn unpack(cell: u32) -> (usize, bool) {
    ((cell >> 1) as usize, cell & 1 == 1)
}

fn assert_contiguous<S: Ranged>(segments: &[S]) {
    let gapless = segments.windows(2).all(|pair| pair[0].range().end() == pair[1].range().start);
    assert!(gapless, "segments follow each other without a gap");
}
