//! The places that a checkpoint has seen, and where it has written them.

use dormouse_storage::chunk::{ChunkEntry, SegmentLocation};
use dormouse_types::segment::Range53;

/// A place that was seen by a checkpoint.
#[derive(Debug)]
pub(super) struct Visited {
    pub keyspace: u32,
    pub range: Range53,
    /// The last entry of the log that it had seen.
    pub sequence: u64,
    pub records: u32,
    pub expiring: u32,
    pub heap_bytes: u64,
    pub written: Written,
}

/// The form in which a checkpoint wrote a place.
#[derive(Debug)]
pub(super) enum Written {
    /// All of it.
    Body { body: InChunk, pieces: Vec<InChunk> },
    /// The changes, into the tail.
    Keys,
    /// Nothing, as the place is empty.
    Empty,
}

/// The location of a written body or piece: which of this checkpoint's chunks, and which entry of that.
#[derive(Debug, Clone, Copy)]
pub(super) struct InChunk {
    pub chunk: usize,
    pub entry: ChunkEntry,
}

impl InChunk {
    /// `first`: where this checkpoint's chunks begin in the manifest.
    pub fn location(&self, first: usize) -> SegmentLocation {
        SegmentLocation { chunk: (first + self.chunk) as u32, offset: self.entry.offset, len: self.entry.len }
    }
}
