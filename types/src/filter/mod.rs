//! Filters: sets that take a few bits for each item, and are now and then wrong about an item that was not added.
//!
//! [`Bloom`] and [`Cuckoo`] keep their bytes in [`Parts`], which are blocks: a filter of gigabytes is made, stored and freed
//! in steps. A [`Filter`] is either of them, in the space of a pointer.

mod blocks;
mod bloom;
mod capture;
mod cuckoo;
mod parts;
#[cfg(test)]
mod tests;

pub use bloom::{
    Bloom, BloomAdded, BloomLink, CAPACITY as BLOOM_CAPACITY, ERROR_RATE as BLOOM_ERROR_RATE, EXACT_SIZE, FIXED,
    GROWTH as BLOOM_GROWTH, HASHES_OF_64_BITS,
};
pub use cuckoo::{
    BUCKET_SIZE as CUCKOO_BUCKET_SIZE, CAPACITY as CUCKOO_CAPACITY, Cuckoo, CuckooInserted, GROWTH as CUCKOO_GROWTH,
    HEAD as CUCKOO_HEAD, LAYERS_MAX, MOVES as CUCKOO_MOVES,
};
pub use parts::{BadChunk, Parts};

use crate::heap;

/// The most bytes of one link or layer: what 32 bits count.
pub const PART_BYTES_MAX: usize = u32::MAX as usize;

/// How many elements stand for a block where the work of freeing is bounded.
const ELEMENTS_OF_BLOCK: usize = 1 << 10;

/// Why there is no such filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadFilter {
    /// Its description is not that of a filter.
    Invalid,
    /// It would have more bytes than [`PART_BYTES_MAX`].
    TooLarge,
}

/// A filter of either kind.
#[derive(Debug, Clone)]
pub struct Filter(Box<Form>);

/// The allocation of a filter itself.
const SHELL_BYTES: usize = heap::allocation(size_of::<Form>());

/// The kinds of filters.
#[derive(Debug, Clone)]
enum Form {
    Bloom(Bloom),
    Cuckoo(Cuckoo),
}

impl From<Bloom> for Filter {
    fn from(bloom: Bloom) -> Self {
        Filter(Box::new(Form::Bloom(bloom)))
    }
}

impl From<Cuckoo> for Filter {
    fn from(cuckoo: Cuckoo) -> Self {
        Filter(Box::new(Form::Cuckoo(cuckoo)))
    }
}

impl Filter {
    pub fn bloom(&self) -> Option<&Bloom> {
        match &*self.0 {
            Form::Bloom(bloom) => Some(bloom),
            Form::Cuckoo(_) => None,
        }
    }

    pub fn bloom_mut(&mut self) -> Option<&mut Bloom> {
        match &mut *self.0 {
            Form::Bloom(bloom) => Some(bloom),
            Form::Cuckoo(_) => None,
        }
    }

    pub fn into_bloom(self) -> Option<Bloom> {
        match *self.0 {
            Form::Bloom(bloom) => Some(bloom),
            Form::Cuckoo(_) => None,
        }
    }

    pub fn cuckoo(&self) -> Option<&Cuckoo> {
        match &*self.0 {
            Form::Cuckoo(cuckoo) => Some(cuckoo),
            Form::Bloom(_) => None,
        }
    }

    pub fn cuckoo_mut(&mut self) -> Option<&mut Cuckoo> {
        match &mut *self.0 {
            Form::Cuckoo(cuckoo) => Some(cuckoo),
            Form::Bloom(_) => None,
        }
    }

    pub fn into_cuckoo(self) -> Option<Cuckoo> {
        match *self.0 {
            Form::Cuckoo(cuckoo) => Some(cuckoo),
            Form::Bloom(_) => None,
        }
    }

    pub fn parts(&self) -> &Parts {
        match &*self.0 {
            Form::Bloom(bloom) => bloom.parts(),
            Form::Cuckoo(cuckoo) => cuckoo.parts(),
        }
    }

    pub fn parts_mut(&mut self) -> &mut Parts {
        match &mut *self.0 {
            Form::Bloom(bloom) => bloom.parts_mut(),
            Form::Cuckoo(cuckoo) => cuckoo.parts_mut(),
        }
    }

    /// Appends everything but the bytes of its parts.
    pub fn write_head(&self, out: &mut Vec<u8>) {
        match &*self.0 {
            Form::Bloom(bloom) => bloom.write_head(out),
            Form::Cuckoo(cuckoo) => cuckoo.write_head(out),
        }
    }

    /// The blocks that its bytes are in, and never 0.
    pub fn len(&self) -> usize {
        self.parts().blocks() + 1
    }

    /// A filter without items is a value.
    pub fn is_empty(&self) -> bool {
        false
    }

    pub fn heap_bytes(&self) -> usize {
        let inner = match &*self.0 {
            Form::Bloom(bloom) => bloom.heap_bytes(),
            Form::Cuckoo(cuckoo) => cuckoo.heap_bytes(),
        };
        SHELL_BYTES + inner
    }

    pub fn address(&self) -> *const u8 {
        std::ptr::from_ref::<Form>(&self.0).cast()
    }

    /// The name that Redis has for values of modules.
    pub fn encoding(&self) -> &'static str {
        "raw"
    }

    /// Frees about `budget` elements; returns whether nothing is left.
    pub fn dismantle(&mut self, budget: usize) -> bool {
        self.parts_mut().free_some((budget / ELEMENTS_OF_BLOCK).max(1))
    }

    /// Begins a capture, in place of any other: it hands out the head and the bytes as they are now. `id` tells it from
    /// others; `cell_bytes`: about how much a change puts aside. Returns how many bytes it will hand out.
    pub fn begin_capture(&mut self, id: u64, cell_bytes: usize) -> usize {
        match &mut *self.0 {
            Form::Bloom(bloom) => bloom.begin_capture(id, cell_bytes),
            Form::Cuckoo(cuckoo) => cuckoo.begin_capture(id, cell_bytes),
        }
    }

    /// Hands out the next bytes of capture `id`, until `visit` says that it has enough. `None`: it does not exist. Returns
    /// whether nothing is left.
    pub fn capture_some(&mut self, id: u64, visit: impl FnMut(&[u8]) -> bool) -> Option<bool> {
        self.parts_mut().capture_some(id, visit)
    }

    pub fn captured_id(&self) -> Option<u64> {
        self.parts().capture.as_ref().map(|capture| capture.id())
    }

    /// Bytes that the capture under way has put aside.
    pub fn aside_bytes(&self) -> usize {
        self.parts().capture.as_ref().map_or(0, |capture| capture.aside_bytes())
    }

    pub fn end_capture(&mut self) {
        self.parts_mut().capture = None;
    }
}
