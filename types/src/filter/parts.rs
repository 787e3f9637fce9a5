//! The bytes of a filter: a part for each link or layer. All parts, one after the other, are what `BF.SCANDUMP` hands out.

use std::fmt;

use super::blocks::{BLOCK, Blocks};
use super::capture::Capture;
use crate::heap;

/// Why a chunk cannot be put over a filter's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadChunk {
    /// The filter has no such byte.
    Beyond,
    /// It goes on behind the end of its part.
    TooLong,
}

/// The parts of a filter.
#[derive(Default)]
pub struct Parts {
    parts: Vec<Blocks>,
    /// How many bytes each part has once it is loaded.
    lens: Vec<usize>,
    /// The sums of all parts.
    len: usize,
    heap_bytes: usize,
    pub(super) capture: Option<Box<Capture>>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.each().map(|(_, runs)| runs.collect::<Vec<_>>().concat())).finish()
    }
}

impl Clone for Parts {
    /// Without the capture, which is of the original.
    fn clone(&self) -> Self {
        let mut parts = Parts { parts: self.parts.clone(), lens: self.lens.clone(), ..Parts::default() };
        parts.recount();
        parts
    }
}

impl Parts {
    /// Parts of these lengths, without any bytes yet.
    pub(super) fn to_load(lens: impl Iterator<Item = usize>) -> Self {
        let lens: Vec<usize> = lens.collect();
        let mut parts = Parts { parts: lens.iter().map(|_| Blocks::default()).collect(), lens, ..Parts::default() };
        parts.recount();
        parts
    }

    /// Takes the next bytes. Returns how many were too many.
    pub fn load(&mut self, mut bytes: &[u8]) -> usize {
        for (part, len) in self.parts.iter_mut().zip(&self.lens) {
            part.load(*len, &mut bytes);
        }
        self.recount();
        bytes.len()
    }

    /// Whether all bytes have come.
    pub fn is_loaded(&self) -> bool {
        self.parts.iter().zip(&self.lens).all(|(part, len)| part.len() == *len)
    }

    /// Makes all bytes that have not come zeros.
    pub fn fill(&mut self) {
        for (part, len) in self.parts.iter_mut().zip(&self.lens) {
            if part.len() < *len {
                *part = Blocks::zeroed(*len);
            }
        }
        self.recount();
    }

    pub(super) fn push(&mut self, part: Blocks) {
        self.lens.push(part.len());
        self.len += part.len();
        self.heap_bytes += part.heap_bytes();
        self.parts.push(part);
    }

    /// Drops the last part, which holds nothing but zeros.
    pub(super) fn pop(&mut self) {
        self.lens.pop();
        if let Some(part) = self.parts.pop() {
            self.len -= part.len();
            self.heap_bytes -= part.heap_bytes();
        }
    }

    /// The bytes of all parts together, as soon as they are loaded.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bytes each part has once it is loaded.
    pub fn lens(&self) -> &[usize] {
        &self.lens
    }

    pub fn count(&self) -> usize {
        self.parts.len()
    }

    /// How many blocks there are: about how many steps take a look at everything.
    pub fn blocks(&self) -> usize {
        self.len.div_ceil(BLOCK)
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Blocks> + ExactSizeIterator {
        self.parts.iter()
    }

    pub(super) fn part_len(&self, part: usize) -> usize {
        self.parts[part].len()
    }

    #[inline]
    pub(super) fn get(&self, part: usize, at: usize) -> u8 {
        self.parts[part].get(at)
    }

    #[inline]
    pub(super) fn set(&mut self, part: usize, at: usize, byte: u8) {
        let data = &mut self.parts[part];
        if let Some(capture) = &mut self.capture {
            capture.note(part, at, at + 1, data);
        }
        data.set(at, byte);
    }

    /// The part and the place in it of a byte of all.
    fn find(&self, mut at: usize) -> Option<(usize, usize)> {
        for (part, data) in self.parts.iter().enumerate() {
            if at < data.len() {
                return Some((part, at));
            }
            at -= data.len();
        }
        None
    }

    /// How many bytes follow the one at `at` in its part, itself included. `None`: there is no such byte.
    pub fn left_in_part(&self, at: usize) -> Option<usize> {
        let (part, within) = self.find(at)?;
        Some(self.parts[part].len() - within)
    }

    /// The bytes from `at` on, in runs, up to `bytes` of them and the end of their part.
    pub fn runs(&self, at: usize, bytes: usize) -> impl Iterator<Item = &[u8]> {
        let (data, from) = match self.find(at) {
            Some((part, within)) => (self.parts.get(part), within),
            None => (None, 0),
        };
        data.into_iter().flat_map(move |data| data.runs(from, from.saturating_add(bytes).min(data.len())))
    }

    /// All bytes, in runs.
    pub fn all(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().flat_map(|data| data.runs(0, data.len()))
    }

    /// The bytes of each part, in runs.
    pub fn each(&self) -> impl Iterator<Item = (usize, impl Iterator<Item = &[u8]>)> {
        self.parts.iter().map(|data| (data.len(), data.runs(0, data.len())))
    }

    /// Puts a chunk over the bytes from `at` on.
    ///
    /// # Errors
    /// When a part has not that many bytes.
    pub fn write(&mut self, at: usize, chunk: &[u8]) -> Result<(), BadChunk> {
        let (part, within) = self.find(at).ok_or(BadChunk::Beyond)?;
        let data = &mut self.parts[part];
        if chunk.len() > data.len() - within {
            return Err(BadChunk::TooLong);
        }
        if let Some(capture) = &mut self.capture {
            capture.note(part, within, within + chunk.len(), data);
        }
        data.write(within, chunk);
        Ok(())
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.lists_bytes() + self.heap_bytes
    }

    /// The bytes that the lists take more for so many parts more.
    pub(super) fn lists_growth(&self, parts: usize) -> usize {
        heap::growth(&self.parts, parts) + heap::growth(&self.lens, parts)
    }

    /// The bytes of the lists of parts.
    pub(super) fn lists_bytes(&self) -> usize {
        let lens = heap::allocation(self.lens.capacity() * size_of::<usize>());
        heap::allocation(self.parts.capacity() * size_of::<Blocks>()) + lens
    }

    /// Frees some bytes, `budget` blocks or all; returns whether none is left.
    pub(crate) fn free_some(&mut self, mut budget: usize) -> bool {
        self.capture = None;
        while let Some(part) = self.parts.last_mut() {
            if budget == 0 {
                break;
            }
            if part.free_one() {
                budget -= 1;
            } else {
                self.parts.pop();
            }
        }
        self.recount();
        self.parts.is_empty()
    }

    fn recount(&mut self) {
        self.lens.truncate(self.parts.len());
        self.len = self.parts.iter().map(Blocks::len).sum();
        self.heap_bytes = self.parts.iter().map(Blocks::heap_bytes).sum();
    }

    /// Begins a capture; returns how many bytes it will hand out.
    pub(super) fn begin_capture(&mut self, id: u64, cell_bytes: usize, head: Vec<u8>) -> usize {
        let bytes = head.len() + self.len;
        let lens = self.parts.iter().map(Blocks::len).collect();
        self.capture = Some(Box::new(Capture::new(id, cell_bytes, head, lens)));
        bytes
    }

    /// Hands out the next bytes of capture `id` until `visit` has enough. `None`: there is no such capture.
    pub(super) fn capture_some(&mut self, id: u64, visit: impl FnMut(&[u8]) -> bool) -> Option<bool> {
        let mut capture = self.capture.take_if(|capture| capture.id() == id)?;
        let is_done = capture.step(|part| self.parts.get(part), visit);
        if !is_done {
            self.capture = Some(capture);
        }
        Some(is_done)
    }
}
