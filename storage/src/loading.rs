//! A place as the store has it, put together in steps.
//!
//! 1. The body is read and checked. It has all records but those whose values are in pieces.
//! 2. The pieces are read one after the other, neighbours together, and added to their values.
//! 3. The effects that the body and its pieces have not seen are replayed onto the segment.
//!
//! None of this needs a lock, and between the steps other tasks have their turn. What is in memory beside the values
//! themselves is one run of pieces.

use bytes::Bytes;
use dormouse_types::Limits;
use dormouse_types::record::Record;
use dormouse_types::segment::{Placement, Range53, Segment, SlotPlacement};

use crate::chunk::segment_error;
use crate::codec::CodecError;
use crate::codec::block::{open, stored_checksum};
use crate::codec::segment::{Decoded, InPieces, decode_body};
use crate::codec::value::pieces::Assembly;
use crate::replay::{Body, Stored};
use crate::store::{Store, StoreError};

/// Neighbouring blocks are read together up to this many bytes.
pub const READ_TOGETHER: u64 = 1 << 20;

/// A segment without the effects that it has not seen.
pub struct Loaded {
    pub segment: Segment<Record>,
    /// Positions of keys that have seen more than the body, and up to which effect.
    pub later: Vec<(u64, u64)>,
}

/// Reads a place as `stored` describes it. `read`: its body, if that was read already.
///
/// # Errors
/// When the body or a piece cannot be read, or is damaged; the error names the object.
pub async fn load(
    store: &Store,
    stored: &Stored,
    range: Range53,
    placement: &SlotPlacement,
    limits: &Limits,
    read: Option<Bytes>,
) -> Result<Loaded, StoreError> {
    let Some(body) = &stored.body else { return Ok(Loaded { segment: Segment::new(range), later: Vec::new() }) };
    let bytes = match read {
        Some(bytes) if stored_checksum(&bytes) == body.checksum => bytes,
        _ => read_block(store, body, range).await?,
    };
    let failed = |error: CodecError| segment_error(&body.chunk, range, &error);
    let Decoded { mut segment, in_pieces, later } = decode_body(&bytes, placement, limits, range).map_err(failed)?;
    drop(bytes);
    let later = later.into_iter().map(|(position, by)| (position, stored.sequence.saturating_add(by))).collect();
    let mut pieces = Pieces::new(store, range, &stored.pieces);
    for record in in_pieces {
        let InPieces { key, expiry, access, outline, pieces: count, .. } = record;
        let mut assembly = Assembly::new(outline, limits).map_err(failed)?;
        for _ in 0..count {
            let (block, bytes) = pieces.next().await?.ok_or_else(|| failed(MISSING))?;
            let failed = |error: CodecError| segment_error(&block.chunk, range, &error);
            open(&bytes).and_then(|piece| assembly.push(&piece, limits)).map_err(failed)?;
            tokio::task::yield_now().await;
        }
        let object = assembly.finish(limits).map_err(failed)?;
        let mut record = Record::new_object(&key, object, expiry);
        record.set_access(access);
        segment.insert(placement.position(&key), record, placement);
    }
    if !pieces.blocks.is_empty() {
        return Err(failed(CodecError::Malformed("pieces that belong to no value")));
    }
    Ok(Loaded { segment, later })
}

const MISSING: CodecError = CodecError::Malformed("a value lacks a piece");

async fn read_block(store: &Store, block: &Body, range: Range53) -> Result<Bytes, StoreError> {
    let location = block.offset..block.offset + block.len;
    crate::chunk::read_segment(store, &block.chunk, location, range, block.checksum).await
}

/// Blocks that are read one after the other, neighbours together.
pub struct Pieces<'a> {
    store: &'a Store,
    range: Range53,
    /// The blocks that have not been handed out.
    blocks: &'a [Body],
    /// The bytes read for the first `ready` of them, from byte `start` of their chunk on.
    read: Bytes,
    start: u64,
    ready: usize,
}

impl<'a> Pieces<'a> {
    pub fn new(store: &'a Store, range: Range53, blocks: &'a [Body]) -> Self {
        Pieces { store, range, blocks, read: Bytes::new(), start: 0, ready: 0 }
    }

    /// The next sealed block, with the checksum that it must have.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn next(&mut self) -> Result<Option<(&'a Body, Bytes)>, StoreError> {
        let Some((block, rest)) = self.blocks.split_first() else { return Ok(None) };
        if self.ready == 0 {
            let group = &self.blocks[..together(self.blocks)];
            let last = group.last().unwrap_or(block);
            self.read = self.store.get_range(&block.chunk, block.offset..last.offset + last.len).await?;
            (self.start, self.ready) = (block.offset, group.len());
        }
        let at = (block.offset - self.start) as usize;
        let bytes = self.read.slice(at..at + block.len as usize);
        (self.blocks, self.ready) = (rest, self.ready - 1);
        let stored = stored_checksum(&bytes);
        if stored != block.checksum {
            let error = CodecError::Checksum { stored, computed: block.checksum };
            return Err(segment_error(&block.chunk, self.range, &error));
        }
        Ok(Some((block, bytes)))
    }
}

/// How many of the first blocks follow each other in one chunk.
pub fn together(blocks: &[Body]) -> usize {
    let Some(first) = blocks.first() else { return 0 };
    let mut end = first.offset;
    let follows = |block: &&Body| {
        let fits = block.chunk == first.chunk
            && block.offset == end
            && (block.offset + block.len).saturating_sub(first.offset) <= READ_TOGETHER;
        end = block.offset + block.len;
        fits
    };
    blocks.iter().take_while(follows).count().max(1)
}
