//! The memory of a moment: a filter's head and bytes as they were, while bits go on changing.
//!
//! The bytes of each part of a filter are divided into cells. Cells are handed out in order; a change first puts aside the
//! one cell that it concerns, unless that was handed out already.

use std::collections::BTreeMap;

use super::blocks::{BLOCK, Blocks};
use crate::heap;

/// A cell: the number of its part, and its own within that.
type Cell = (usize, usize);

/// Invariant: a cell from `next` on was at the moment what `aside` has of it, or else what it is now; zeros, if its part is
/// gone, since a part goes when it holds nothing any more.
#[derive(Debug)]
pub(super) struct Capture {
    id: u64,
    /// Until it is handed out.
    head: Option<Vec<u8>>,
    /// The lengths of the parts at the moment.
    lens: Vec<usize>,
    next: Cell,
    cell_bytes: usize,
    aside: BTreeMap<Cell, Box<[u8]>>,
}

impl Capture {
    /// `cell_bytes`: about how large a cell is.
    pub fn new(id: u64, cell_bytes: usize, head: Vec<u8>, lens: Vec<usize>) -> Self {
        let cell_bytes = 1 << cell_bytes.clamp(1, BLOCK).ilog2();
        Capture { id, head: Some(head), lens, next: (0, 0), cell_bytes, aside: BTreeMap::new() }
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    /// To be called before bytes of a part change.
    #[inline]
    pub fn note(&mut self, part: usize, start: usize, end: usize, data: &Blocks) {
        let Some(len) = self.lens.get(part).copied() else { return };
        for cell in start / self.cell_bytes..end.min(len).div_ceil(self.cell_bytes) {
            if (part, cell) >= self.next {
                let bytes = || {
                    let from = cell * self.cell_bytes;
                    data.runs(from, (from + self.cell_bytes).min(len)).collect::<Vec<_>>().concat().into_boxed_slice()
                };
                self.aside.entry((part, cell)).or_insert_with(bytes);
            }
        }
    }

    /// Hands the next bytes to `visit` until that says it has enough. Returns whether nothing is left.
    pub fn step<'d>(
        &mut self,
        data: impl Fn(usize) -> Option<&'d Blocks>,
        mut visit: impl FnMut(&[u8]) -> bool,
    ) -> bool {
        if let Some(head) = self.head.take()
            && visit(&head)
        {
            return self.is_done();
        }
        while let Some(len) = self.lens.get(self.next.0).copied() {
            let (part, cell) = self.next;
            let from = cell * self.cell_bytes;
            if from >= len {
                self.next = (part + 1, 0);
                continue;
            }
            let end = (from + self.cell_bytes).min(len);
            let has_enough = match (self.aside.remove(&self.next), data(part)) {
                (Some(bytes), _) => visit(&bytes),
                // A cell is within one block.
                (None, Some(data)) => data.runs(from, end).fold(false, |_, run| visit(run)),
                (None, None) => visit(&vec![0; end - from]),
            };
            self.next = (part, cell + 1);
            if has_enough {
                break;
            }
        }
        self.is_done()
    }

    fn is_done(&self) -> bool {
        let left = self.lens.iter().enumerate().skip(self.next.0);
        left.map(
            |(part, len)| if part == self.next.0 { len.saturating_sub(self.next.1 * self.cell_bytes) } else { *len },
        )
        .all(|left| left == 0)
    }

    /// The bytes that it keeps.
    pub fn aside_bytes(&self) -> usize {
        const NODE: usize = size_of::<(Cell, Box<[u8]>)>();
        let head = self.head.as_ref().map_or(0, |head| heap::allocation(head.capacity()));
        let cells: usize = self.aside.values().map(|cell| heap::allocation(cell.len()) + NODE).sum();
        heap::allocation(size_of::<Self>()) + heap::allocation(self.lens.capacity() * size_of::<usize>()) + head + cells
    }
}
