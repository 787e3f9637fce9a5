//! Rows that come in any order, put into the order of their places, in bounded memory.
//!
//! 1. Rows gather in a buffer, and beside it their places and offsets.
//! 2. A full buffer becomes a *run*: its rows in order, in a temporary file that has no name.
//! 3. At the end the buffer is sorted in memory; if runs exist it becomes the last of them, and they are merged, each
//!    read through a small buffer of its own.
//!
//! ```text
//! row:  bytes behind this field u64 LE | place u64 LE | content
//! ```

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use dormouse_types::record::{CACHE_LINE, prefetch};

const HEAD_BYTES: usize = 16;

/// The buffer through which each run is read and written.
const RUN_BUFFER_BYTES: usize = 256 << 10;

/// Rows in order are scattered over the buffer: each is asked for when this many others are still to be read before it.
const ROWS_AHEAD: usize = 12;

/// The part of a row that is prefetched. Most rows are not longer.
const LINES_AHEAD: usize = 3;

pub(super) struct Sorter {
    folder: PathBuf,
    bytes_max: usize,
    rows: Vec<u8>,
    /// The place and the offset of each row.
    order: Vec<(u64, u32)>,
    runs: Vec<File>,
}

impl Sorter {
    /// `folder`: holds the runs. `bytes_max`: the most bytes held in memory, at most 2 GiB; a single larger row is held
    /// too.
    pub(super) fn new(folder: &Path, bytes_max: usize) -> Self {
        let bytes_max = bytes_max.min(2 << 30);
        // Room for all of it at once: memory that is never written to costs nothing, growing costs a copy each time.
        let rows = Vec::with_capacity(bytes_max);
        Sorter { folder: folder.to_owned(), bytes_max, rows, order: Vec::new(), runs: Vec::new() }
    }

    /// Adds a row whose content `write` appends.
    pub(super) fn push(&mut self, place: u64, write: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let start = self.rows.len();
        self.rows.extend_from_slice(&[0; 8]);
        self.rows.extend_from_slice(&place.to_le_bytes());
        write(&mut self.rows);
        let bytes = (self.rows.len() - start - 8) as u64;
        self.rows[start..start + 8].copy_from_slice(&bytes.to_le_bytes());
        // A full buffer was emptied, so a row begins within 2 GiB.
        self.order.push((place, start as u32));
        if self.rows.len() + size_of_val(&self.order[..]) >= self.bytes_max {
            self.spill()?;
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<Sorted> {
        if self.runs.is_empty() {
            self.order.sort_unstable();
            return Ok(Sorted::Held { rows: self.rows, order: self.order, next: 0 });
        }
        self.spill()?;
        let (mut runs, mut heads) = (Vec::new(), BinaryHeap::new());
        for mut run in std::mem::take(&mut self.runs) {
            run.rewind()?;
            let mut run = Run(BufReader::with_capacity(RUN_BUFFER_BYTES, run));
            if let Some((place, bytes)) = run.head()? {
                heads.push(Reverse((place, runs.len(), bytes)));
                runs.push(run);
            }
        }
        Ok(Sorted::Spilled { runs, heads })
    }

    fn spill(&mut self) -> io::Result<()> {
        self.order.sort_unstable();
        let mut run = BufWriter::with_capacity(RUN_BUFFER_BYTES, tempfile::tempfile_in(&self.folder)?);
        for (next, (_, start)) in self.order.iter().enumerate() {
            ask_ahead(&self.rows, &self.order, next);
            run.write_all(row(&self.rows, *start))?;
        }
        self.runs.push(run.into_inner().map_err(io::IntoInnerError::into_error)?);
        self.order.clear();
        self.rows.clear();
        Ok(())
    }
}

/// Asks for the memory of a row that will be read soon after the one at `next`.
#[inline]
fn ask_ahead(rows: &[u8], order: &[(u64, u32)], next: usize) {
    if let Some((_, start)) = order.get(next + ROWS_AHEAD) {
        let row = rows.as_ptr().wrapping_add(*start as usize);
        (0..LINES_AHEAD).for_each(|line| prefetch(row.wrapping_add(line * CACHE_LINE)));
    }
}

/// The row that begins at `start`, head and content.
fn row(rows: &[u8], start: u32) -> &[u8] {
    let rest = &rows[start as usize..];
    let bytes = rest.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    &rest[..8 + bytes as usize]
}

/// Rows in the order of their places.
pub(super) enum Sorted {
    Held { rows: Vec<u8>, order: Vec<(u64, u32)>, next: usize },
    Spilled { runs: Vec<Run>, heads: BinaryHeap<Reverse<(u64, usize, u64)>> },
}

impl Sorted {
    /// Appends the content of the next row and returns its place; `None` after the last.
    pub(super) fn next_into(&mut self, out: &mut Vec<u8>) -> io::Result<Option<u64>> {
        match self {
            Sorted::Held { rows, order, next } => {
                let Some((place, start)) = order.get(*next) else { return Ok(None) };
                ask_ahead(rows, order, *next);
                *next += 1;
                out.extend_from_slice(&row(rows, *start)[HEAD_BYTES..]);
                Ok(Some(*place))
            }
            Sorted::Spilled { runs, heads } => {
                let Some(Reverse((place, at, bytes))) = heads.pop() else { return Ok(None) };
                let run = &mut runs[at];
                if (&mut run.0).take(bytes).read_to_end(out)? as u64 != bytes {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                if let Some((place, bytes)) = run.head()? {
                    heads.push(Reverse((place, at, bytes)));
                }
                Ok(Some(place))
            }
        }
    }
}

pub(super) struct Run(BufReader<File>);

impl Run {
    /// The place of the next row, and the bytes of its content.
    fn head(&mut self) -> io::Result<Option<(u64, u64)>> {
        let mut head = [0; HEAD_BYTES];
        match self.0.read(&mut head[..1])? {
            0 => return Ok(None),
            _ => self.0.read_exact(&mut head[1..])?,
        }
        let [bytes, place] = [0, 8].map(|at| head[at..].first_chunk().map_or(0, |field| u64::from_le_bytes(*field)));
        Ok(Some((place, bytes.saturating_sub(8))))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_come_in_order(
            rows in proptest::collection::vec((0u64..500, proptest::collection::vec(any::<u8>(), 0..40)), 0..300),
            bytes_max in 1usize..9000,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let mut sorter = Sorter::new(folder.path(), bytes_max);
            for (place, content) in &rows {
                sorter.push(*place, |out| out.extend_from_slice(content)).unwrap();
            }
            let mut sorted = sorter.finish().unwrap();
            let mut found = Vec::new();
            let mut content = Vec::new();
            while let Some(place) = sorted.next_into(&mut content).unwrap() {
                found.push((place, std::mem::take(&mut content)));
            }
            prop_assert!(found.is_sorted_by_key(|(place, _)| *place));
            let mut expected = rows;
            expected.sort();
            found.sort();
            prop_assert_eq!(found, expected);
            prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }
}
