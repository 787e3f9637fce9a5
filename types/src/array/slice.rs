//! Slices: 4,096 neighbouring elements in one of two forms.
//!
//! Few elements are a [run](super::run), more of them are [dense](super::dense). A slice becomes dense when its run is full,
//! and a run again when it has shrunk to a quarter of that.

use super::dense::Dense;
use super::element::{NONE, Packing};
use super::run::{self, ELEMENTS_MAX, RunRef};
use crate::entry::{Buffer, Form, FormMut, FormRef, packed};

/// The elements of a slice.
pub const SLICE: u64 = 4096;

/// A dense slice becomes a run again when it has so few elements, and these take no more bytes.
const RUN_AGAIN: usize = ELEMENTS_MAX / 4;
const RUN_AGAIN_BYTES: usize = 1024;

packed! {
    /// The elements of a slice that has few.
    struct Run
}

#[derive(Default)]
pub(super) struct Slice(Form<Run, Dense>);

impl Slice {
    /// The slice of a run that is packed alone.
    pub fn of_run(storage: Buffer) -> Self {
        Slice(Form::packed(Run { storage }))
    }

    pub fn len(&self) -> usize {
        match self.0.view() {
            FormRef::Packed(run) => RunRef::new(&run.storage, 0).len(),
            FormRef::Large(dense) => dense.len(),
        }
    }

    pub fn is_dense(&self) -> bool {
        matches!(self.0.view(), FormRef::Large(_))
    }

    /// How many elements it has room for without another allocation of its table: all of them in a run.
    pub fn reach(&self) -> usize {
        match self.0.view() {
            FormRef::Packed(_) => self.len(),
            FormRef::Large(dense) => dense.reach(),
        }
    }

    /// The bytes that it owns, counted.
    pub fn heap_bytes(&self) -> usize {
        match self.0.view() {
            FormRef::Packed(run) => run.storage.heap_bytes(),
            FormRef::Large(dense) => dense.heap_bytes(),
        }
    }

    /// The bytes that so many elements in these [blocks](Self::block_bit) add at most, besides their payloads.
    pub fn growth(&self, count: usize, blocks: u64) -> usize {
        match self.0.view() {
            FormRef::Packed(run) => growth_of_run(RunRef::new(&run.storage, 0), count, blocks),
            FormRef::Large(dense) => dense.growth(blocks),
        }
    }

    /// The block of an offset in a dense slice, as a bit.
    pub fn block_bit(offset: u16) -> u64 {
        Dense::block_bit(offset)
    }

    #[inline]
    pub fn get(&self, offset: u16) -> Option<(u8, &[u8])> {
        match self.0.view() {
            FormRef::Packed(run) => RunRef::new(&run.storage, 0).get(offset),
            FormRef::Large(dense) => dense.get(offset),
        }
    }

    /// Sets the element at an offset; returns the code of the element before, [`NONE`] if there was none, and by how many
    /// bytes the slice has grown.
    #[inline]
    pub fn put(&mut self, offset: u16, packing: &Packing<'_>) -> (u8, isize) {
        match self.0.view_mut() {
            FormMut::Large(dense) => dense.put(offset, packing),
            FormMut::Packed(run) => {
                let before = run.storage.heap_bytes();
                let view = RunRef::new(&run.storage, 0);
                if view.len() == ELEMENTS_MAX && view.get(offset).is_none() {
                    let mut dense = Dense::of(view);
                    dense.put(offset, packing);
                    let grown = dense.heap_bytes() as isize - before as isize;
                    self.0 = Form::large(Box::new(dense));
                    return (NONE, grown);
                }
                let old = run::put(&mut run.storage, 0, offset, packing);
                (old.unwrap_or(NONE), run.storage.heap_bytes() as isize - before as isize)
            }
        }
    }

    /// Removes the elements from offset `low` to `high`; returns how many there were, and by how many bytes the slice has
    /// shrunk.
    pub fn remove(&mut self, low: u16, high: u16) -> (usize, usize) {
        match self.0.view_mut() {
            FormMut::Packed(run) => {
                let before = run.storage.heap_bytes();
                let removed = run::remove(&mut run.storage, 0, low, high);
                (removed, before - run.storage.heap_bytes())
            }
            FormMut::Large(dense) => {
                let (removed, bytes) = dense.remove(low, high);
                let more = if removed > 0 && dense.len() <= RUN_AGAIN { self.make_run() } else { 0 };
                (removed, bytes + more)
            }
        }
    }

    /// Makes a run of few elements; returns by how many bytes the slice has shrunk.
    fn make_run(&mut self) -> usize {
        let before = self.heap_bytes();
        let mut storage = Buffer::default();
        let is_long = self.visit(0, u16::MAX, false, |offset, code, payload| {
            run::put_packed(&mut storage, 0, offset, code, payload);
            storage.len() > RUN_AGAIN_BYTES
        });
        if is_long || storage.heap_bytes() > before {
            return 0;
        }
        *self = Slice::of_run(storage);
        before - self.heap_bytes()
    }

    pub fn last_offset(&self) -> Option<u16> {
        match self.0.view() {
            FormRef::Packed(run) => RunRef::new(&run.storage, 0).last_offset(),
            FormRef::Large(dense) => dense.last_offset(),
        }
    }

    /// Shows the elements from offset `low` to `high`, in order or in reverse, until `visit` says that it has enough.
    /// Returns whether it does.
    #[inline]
    pub fn visit<'a>(
        &'a self,
        low: u16,
        high: u16,
        reverse: bool,
        visit: impl FnMut(u16, u8, &'a [u8]) -> bool,
    ) -> bool {
        match self.0.view() {
            FormRef::Packed(run) => RunRef::new(&run.storage, 0).visit(low, high, reverse, visit),
            FormRef::Large(dense) => dense.visit(low, high, reverse, visit),
        }
    }
}

impl Clone for Slice {
    fn clone(&self) -> Self {
        match self.0.view() {
            FormRef::Packed(run) => Slice(Form::packed(run.clone())),
            FormRef::Large(dense) => Slice(Form::large(Box::new(dense.clone()))),
        }
    }
}

impl std::fmt::Debug for Slice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a slice of {} elements", self.len())
    }
}

/// The bytes that so many elements in these blocks add to a run, besides their payloads: it becomes dense if it has no room for
/// them.
pub(super) fn growth_of_run(run: RunRef<'_>, count: usize, mut blocks: u64) -> usize {
    if run.len() + count <= ELEMENTS_MAX {
        return 0;
    }
    run.visit(0, u16::MAX, false, |offset, _, _| {
        blocks |= Dense::block_bit(offset);
        false
    });
    Dense::bytes_for(blocks)
}
