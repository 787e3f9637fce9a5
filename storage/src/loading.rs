//! A place as the store has it, put together in steps.
//!
//! 1. The body is read and checked. It has all records but those whose values are in pieces.
//! 2. The pieces are read one after the other, neighbours together, and added to their values. A reader that passes a
//!    value on does not need all of it at once: it is shown the pieces themselves.
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
use crate::codec::value::pieces::{Assembly, count_elements};
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
    let mut place = Opened::read(store, stored, range, placement, limits, read).await?;
    while let Some(value) = place.next_in_pieces() {
        place.load(value, placement, limits).await?;
    }
    place.finish()
}

/// A place whose body was read, and whose values in pieces are loaded or passed on one after the other.
pub struct Opened<'a> {
    segment: Segment<Record>,
    /// Positions of keys that have seen more than the body, and up to which effect.
    pub later: Vec<(u64, u64)>,
    chunk: &'a str,
    in_pieces: std::vec::IntoIter<InPieces>,
    pieces: Pieces<'a>,
}

impl<'a> Opened<'a> {
    /// Reads and checks the body. `read`: its bytes, if they were read already.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged; the error names the object.
    pub async fn read(
        store: &'a Store,
        stored: &'a Stored,
        range: Range53,
        placement: &SlotPlacement,
        limits: &Limits,
        read: Option<Bytes>,
    ) -> Result<Self, StoreError> {
        let Some(body) = &stored.body else {
            let (later, in_pieces) = (Vec::new(), Vec::new().into_iter());
            let pieces = Pieces::new(store, range, &[]);
            return Ok(Self { segment: Segment::new(range), later, chunk: "", in_pieces, pieces });
        };
        let bytes = match read {
            Some(bytes) if stored_checksum(&bytes) == body.checksum => bytes,
            _ => read_block(store, body, range).await?,
        };
        let failed = |error: CodecError| segment_error(&body.chunk, range, &error);
        let Decoded { segment, in_pieces, later } = decode_body(&bytes, placement, limits, range).map_err(failed)?;
        let later = later.into_iter().map(|(position, by)| (position, stored.sequence.saturating_add(by))).collect();
        let pieces = Pieces::new(store, range, &stored.pieces);
        Ok(Self { segment, later, chunk: &body.chunk, in_pieces: in_pieces.into_iter(), pieces })
    }

    /// The next record whose value is in pieces. It must be loaded or passed on before the next one.
    pub fn next_in_pieces(&mut self) -> Option<InPieces> {
        self.in_pieces.next()
    }

    /// Reads the pieces of a value and adds its record to the others.
    ///
    /// # Errors
    /// When one of them cannot be read, or is damaged.
    pub async fn load(
        &mut self,
        record: InPieces,
        placement: &SlotPlacement,
        limits: &Limits,
    ) -> Result<(), StoreError> {
        let InPieces { key, expiry, access, outline, pieces: count, .. } = record;
        let mut assembly = Assembly::new(outline, limits).map_err(|error| self.error(&error))?;
        for _ in 0..count {
            let piece = self.piece().await?;
            assembly.push(&piece, limits).map_err(|error| self.error(&error))?;
            tokio::task::yield_now().await;
        }
        let object = assembly.finish(limits).map_err(|error| self.error(&error))?;
        let mut record = Record::new_object(&key, object, expiry);
        record.set_access(access);
        self.segment.insert(placement.position(&key), record, placement);
        Ok(())
    }

    /// Shows the pieces of a value to `visit`, one at a time, until it returns an error. Nothing stays of them.
    ///
    /// # Errors
    /// When a piece cannot be read, or is damaged.
    pub async fn pass_on<E>(
        &mut self,
        record: &InPieces,
        visit: &mut (dyn FnMut(&[u8]) -> Result<(), E> + Send),
    ) -> Result<Result<(), E>, StoreError> {
        let InPieces { outline, pieces, .. } = *record;
        let mut elements = Some(0);
        for at in 0..pieces {
            let piece = self.piece().await?;
            let more = count_elements(outline.kind, &piece, at == 0).map_err(|error| self.error(&error))?;
            elements = elements.zip(more).map(|(before, more)| before + more);
            if let Err(error) = visit(&piece) {
                return Ok(Err(error));
            }
            tokio::task::yield_now().await;
        }
        let wrong = CodecError::Malformed("number of elements of a value in pieces");
        if elements.is_none_or(|elements| elements == outline.elements) { Ok(Ok(())) } else { Err(self.error(&wrong)) }
    }

    /// The next piece, as it was before it was compressed.
    async fn piece(&mut self) -> Result<Vec<u8>, StoreError> {
        let (block, bytes) = self.pieces.next().await?.ok_or_else(|| self.error(&MISSING))?;
        let opened = open(&bytes).map_err(|error| segment_error(&block.chunk, self.pieces.range, &error))?;
        Ok(opened.into())
    }

    /// The place, when all of its values have been read.
    ///
    /// # Errors
    /// When pieces are left over.
    pub fn finish(self) -> Result<Loaded, StoreError> {
        if !self.pieces.blocks.is_empty() {
            return Err(self.error(&CodecError::Malformed("pieces that belong to no value")));
        }
        Ok(Loaded { segment: self.segment, later: self.later })
    }

    fn error(&self, error: &CodecError) -> StoreError {
        segment_error(self.chunk, self.pieces.range, error)
    }
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
