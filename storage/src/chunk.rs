//! Chunks: immutable objects that hold the bodies of many segments.
//!
//! ```text
//! +--------------------+ 0
//! | "DMCHUNK\n"        | 8 bytes
//! | format version     | u32 LE, 2; 3 with pieces
//! +--------------------+ 12
//! | segment body       | a sealed block, see codec::segment; or a piece of a value, see codec::value::pieces
//! | segment body       |
//! | ...                |
//! +--------------------+ index offset
//! | index              | a sealed block: count varint, then for each body
//! |                    |   keyspace varint | range start varint | range bits u8 | length varint
//! |                    |   raw length varint | records varint | checksum u64 LE
//! |                    |   since version 2: sequence varint
//! |                    |   since version 3: number varint, 0 for a body, else that of the piece
//! |                    | since version 2, of the database: seed u64 LE | created ms varint | 16 keyspaces varint
//! +--------------------+ trailer
//! | index length       | u64 LE
//! | "DMCHEN2\n"        | 8 bytes; "DMCHEND\n" in version 1, "DMCHEN3\n" in version 3
//! +--------------------+
//! ```
//!
//! The bodies follow each other without gaps in the index's order, so the index needs no offsets and every byte of the
//! object is covered by some checksum or compared with the one value it may have.
//!
//! The manifest repeats the location and the checksum of each segment, so a wake reads a segment with one range request
//! and never the index. The index allows checking a chunk and finding its contents without any manifest: whose they
//! are, which effects they hold, and which keyspace each `SELECT` index showed when the chunk was written.

use std::{mem, ops::Range};

use bytes::Bytes;
use dormouse_types::segment::Range53;

use crate::codec::block::{open, stored_checksum, verify};
use crate::codec::reader::write_varint;
use crate::codec::segment::SegmentBody;
use crate::codec::{
    CodecError, HEADER_BYTES, Reader, read_header, read_range, read_trailer, write_header, write_trailer,
};
use crate::shown::INDEXES;
use crate::store::{Store, StoreError};

const MAGIC: &[u8; 8] = b"DMCHUNK\n";
/// The last bytes of a chunk, by its version.
const END_MAGIC: [&[u8; 8]; 3] = [b"DMCHEND\n", b"DMCHEN2\n", b"DMCHEN3\n"];
const VERSION: u32 = 3;
/// The version of a chunk without pieces.
const VERSION_WITHOUT_PIECES: u32 = 2;
const ENTRY_BYTES_MIN: usize = 14;

/// A chunk is put when it has this many bytes.
pub const CHUNK_BYTES: usize = 4 << 20;
/// A body is not added to a chunk that would exceed this, unless it is the chunk's first.
pub const CHUNK_BYTES_MAX: usize = 16 << 20;

/// The first read of a chunk's end; an index is rarely longer.
const INDEX_READ_BYTES: u64 = 64 << 10;

/// The location of a segment's body; `chunk` is an index into the manifest's list of chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentLocation {
    pub chunk: u32,
    pub offset: u64,
    pub len: u64,
}

/// One segment in a chunk's index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkEntry {
    pub keyspace: u32,
    pub range: Range53,
    pub offset: u64,
    pub len: u64,
    pub raw_len: u64,
    pub records: u32,
    pub crc: u64,
    /// Effects up to this one are in the body; 0 in version 1, which does not say.
    pub sequence: u64,
    /// 0 for a body, else the number of a piece of the body with the same keyspace, range and sequence.
    pub piece: u32,
}

impl ChunkEntry {
    /// The location in its chunk, which is number 0 here.
    pub fn location(&self) -> SegmentLocation {
        SegmentLocation { chunk: 0, offset: self.offset, len: self.len }
    }
}

/// The database that a chunk was written for, as it was then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChunkOrigin {
    pub seed: u64,
    pub created_ms: u64,
    /// Which keyspace each `SELECT` index showed.
    pub keyspaces: [u32; INDEXES],
}

/// Collects segment bodies into one chunk.
#[derive(Debug)]
pub struct ChunkWriter {
    bytes: Vec<u8>,
    entries: Vec<ChunkEntry>,
    /// The length of the chunk before: the next one is about as long, and does not grow step by step.
    before: usize,
}

impl Default for ChunkWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl ChunkWriter {
    pub fn new() -> Self {
        ChunkWriter { bytes: Vec::new(), entries: Vec::new(), before: 0 }
    }

    /// Adds a segment that holds the effects up to `sequence`. Returns its location in the chunk.
    pub fn push(&mut self, keyspace: u32, range: Range53, sequence: u64, body: &SegmentBody) -> ChunkEntry {
        self.push_piece(keyspace, range, sequence, 0, body)
    }

    /// The same for the piece of this number, which belongs to such a segment.
    pub fn push_piece(
        &mut self,
        keyspace: u32,
        range: Range53,
        sequence: u64,
        piece: u32,
        body: &SegmentBody,
    ) -> ChunkEntry {
        if self.bytes.is_empty() {
            self.bytes.reserve(self.before);
            write_header(&mut self.bytes, MAGIC, VERSION_WITHOUT_PIECES);
        }
        let entry = ChunkEntry {
            keyspace,
            range,
            offset: self.bytes.len() as u64,
            len: body.bytes.len() as u64,
            raw_len: body.raw_len,
            records: body.records,
            crc: body.crc,
            sequence,
            piece,
        };
        self.bytes.extend_from_slice(&body.bytes);
        self.entries.push(entry);
        entry
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether it is large enough to be put.
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= CHUNK_BYTES
    }

    /// Whether the body still belongs into this chunk rather than into the next one.
    pub fn has_room_for(&self, body: &SegmentBody) -> bool {
        self.is_empty() || self.bytes.len() + body.bytes.len() <= CHUNK_BYTES_MAX
    }

    /// The finished object of the database that `origin` tells; the writer is empty again, for the next chunk.
    pub fn finish(&mut self, origin: &ChunkOrigin) -> Bytes {
        let mut bytes = mem::take(&mut self.bytes);
        let entries = mem::take(&mut self.entries);
        let version = match entries.iter().any(|entry| entry.piece != 0) {
            true => VERSION,
            false => VERSION_WITHOUT_PIECES,
        };
        match bytes.get_mut(MAGIC.len()..HEADER_BYTES) {
            Some(written) => written.copy_from_slice(&version.to_le_bytes()),
            None => write_header(&mut bytes, MAGIC, version),
        }
        let mut index = Vec::with_capacity(10 + entries.len() * 32);
        write_varint(&mut index, entries.len() as u64);
        for entry in &entries {
            write_varint(&mut index, u64::from(entry.keyspace));
            write_varint(&mut index, entry.range.start);
            index.push(entry.range.bits);
            write_varint(&mut index, entry.len);
            write_varint(&mut index, entry.raw_len);
            write_varint(&mut index, u64::from(entry.records));
            index.extend_from_slice(&entry.crc.to_le_bytes());
            write_varint(&mut index, entry.sequence);
            if version >= 3 {
                write_varint(&mut index, u64::from(entry.piece));
            }
        }
        index.extend_from_slice(&origin.seed.to_le_bytes());
        write_varint(&mut index, origin.created_ms);
        origin.keyspaces.iter().for_each(|keyspace| write_varint(&mut index, u64::from(*keyspace)));
        write_trailer(&mut bytes, &index, END_MAGIC[version as usize - 1]);
        self.before = bytes.len();
        bytes.into()
    }
}

/// The contents of a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkIndex {
    pub entries: Vec<ChunkEntry>,
    /// None in version 1.
    pub origin: Option<ChunkOrigin>,
}

impl ChunkIndex {
    /// Reads the index of a whole chunk and none of its segments.
    pub fn of_chunk(chunk: &[u8]) -> Result<ChunkIndex, CodecError> {
        let version = read_header(&mut Reader::new(chunk), MAGIC, "chunk", VERSION)?;
        let (by_end, index) = trailer(chunk, chunk.len() as u64)?;
        if version != by_end {
            return Err(CodecError::Malformed("a chunk of two versions"));
        }
        // The whole chunk is here, so its index range is inside it.
        Self::parse_index(&chunk[index.start as usize..index.end as usize], index.start, version)
    }

    /// Reads the index of a whole chunk and checks all of its segments' checksums.
    pub fn parse(chunk: &[u8]) -> Result<ChunkIndex, CodecError> {
        let index = Self::of_chunk(chunk)?;
        for entry in &index.entries {
            let body = &chunk[entry.offset as usize..(entry.offset + entry.len) as usize];
            let computed = verify(body)?;
            if computed != entry.crc {
                return Err(CodecError::Checksum { stored: entry.crc, computed });
            }
        }
        Ok(index)
    }

    fn parse_index(index: &[u8], bodies_end: u64, version: u32) -> Result<ChunkIndex, CodecError> {
        let raw = open(index)?;
        let mut reader = Reader::new(&raw);
        let count = reader.count(ENTRY_BYTES_MIN)?;
        let mut entries = Vec::with_capacity(count);
        let mut offset = HEADER_BYTES as u64;
        for _ in 0..count {
            let keyspace = reader.varint_u32()?;
            let range = read_range(&mut reader)?;
            let len = reader.varint()?;
            let raw_len = reader.varint()?;
            let records = reader.varint_u32()?;
            let crc = reader.u64_le()?;
            let sequence = if version >= 2 { reader.varint()? } else { 0 };
            let piece = if version >= 3 { reader.varint_u32()? } else { 0 };
            entries.push(ChunkEntry { keyspace, range, offset, len, raw_len, records, crc, sequence, piece });
            offset = match offset.checked_add(len) {
                Some(end) if end <= bodies_end => end,
                _ => return Err(CodecError::Malformed("segment beyond the end of the chunk")),
            };
        }
        let origin = if version >= 2 { Some(read_origin(&mut reader)?) } else { None };
        reader.finish()?;
        if offset != bodies_end {
            return Err(CodecError::Malformed("gap between segments and index"));
        }
        Ok(ChunkIndex { entries, origin })
    }
}

/// The version that the end of a chunk of `size` bytes gives, and the location of the index.
fn trailer(end: &[u8], size: u64) -> Result<(u32, Range<u64>), CodecError> {
    let version = END_MAGIC.iter().rposition(|magic| end.ends_with(*magic)).unwrap_or(0);
    Ok((version as u32 + 1, read_trailer(end, size, END_MAGIC[version], "complete chunk")?))
}

fn read_origin(reader: &mut Reader<'_>) -> Result<ChunkOrigin, CodecError> {
    let (seed, created_ms) = (reader.u64_le()?, reader.varint()?);
    let mut keyspaces = [0; INDEXES];
    for keyspace in &mut keyspaces {
        *keyspace = reader.varint_u32()?;
    }
    Ok(ChunkOrigin { seed, created_ms, keyspaces })
}

/// Reads a chunk's index: one request for its end, and a second one only if the index is very long.
pub async fn read_index(store: &Store, name: &str) -> Result<ChunkIndex, StoreError> {
    let corrupt = |error: CodecError| StoreError::corrupt(name, format!("chunk index: {error}"));
    let (end, size) = store.get_suffix(name, INDEX_READ_BYTES).await?;
    let (version, range) = trailer(&end, size).map_err(corrupt)?;
    let read_from = size - end.len() as u64;
    let index = match range.start.checked_sub(read_from) {
        Some(start) => end.slice(start as usize..(range.end - read_from) as usize),
        None => store.get_range(name, range.clone()).await?,
    };
    ChunkIndex::parse_index(&index, range.start, version).map_err(corrupt)
}

/// Reads one segment's body, with one range request, and checks that it ends with the checksum `crc` that the manifest or
/// the chunk's index has for it. That the body itself fits its checksum is checked when it is decoded.
pub async fn read_segment(
    store: &Store,
    name: &str,
    location: Range<u64>,
    range: Range53,
    crc: u64,
) -> Result<Bytes, StoreError> {
    let body = store.get_range(name, location).await?;
    match stored_checksum(&body) {
        stored if stored == crc => Ok(body),
        stored => Err(segment_error(name, range, &CodecError::Checksum { stored, computed: crc })),
    }
}

/// The error for a segment whose body could not be decoded: `chunk db/...: checksum mismatch in segment ...`.
pub fn segment_error(chunk: &str, range: Range53, error: &CodecError) -> StoreError {
    StoreError::corrupt(chunk, format!("segment {:#x}/{}: {error}", range.start, range.bits))
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;

    use super::*;
    use crate::codec::{block::seal, tests::for_each_damage};

    fn body(text: &str) -> SegmentBody {
        let bytes = seal(text.as_bytes());
        SegmentBody { crc: stored_checksum(&bytes), bytes, raw_len: text.len() as u64, records: 1, expiring: 0 }
    }

    const ORIGIN: ChunkOrigin = ChunkOrigin { seed: 0xfeed, created_ms: 1_700_000_000_000, keyspaces: [9; INDEXES] };

    fn sample() -> (Bytes, Vec<ChunkEntry>) {
        let (low, high) = Range53::WHOLE.halves();
        let mut writer = ChunkWriter::new();
        let entries = vec![
            writer.push(0, low, 7, &body("low")),
            writer.push(0, high, u64::MAX, &body("high")),
            writer.push(9, low, 0, &body("")),
            writer.push_piece(9, low, 0, 3, &SegmentBody { records: 0, ..body("piece") }),
        ];
        (writer.finish(&ORIGIN), entries)
    }

    #[test]
    fn segments_are_read_by_range() {
        let (bytes, entries) = sample();
        let index = ChunkIndex::parse(&bytes).unwrap();
        assert_eq!((&index.entries, index.origin), (&entries, Some(ORIGIN)));
        let store = Store::memory();
        block_on(async {
            store.put_new("db/a/chunk/1", bytes).await.unwrap();
            assert_eq!(read_index(&store, "db/a/chunk/1").await.unwrap().entries, entries);
            for (entry, text) in entries.iter().zip(["low", "high", "", "piece"]) {
                let location = entry.offset..entry.offset + entry.len;
                let body = read_segment(&store, "db/a/chunk/1", location, entry.range, entry.crc).await.unwrap();
                assert_eq!(open(&body).unwrap(), text.as_bytes());
            }
            let wrong =
                read_segment(&store, "db/a/chunk/1", 12..22, entries[1].range, 1).await.unwrap_err().to_string();
            assert!(wrong.starts_with("db/a/chunk/1: segment 0x10000000000000/52: checksum mismatch"), "{wrong}");
            let short = read_segment(&store, "db/a/chunk/1", 12..22_000, entries[1].range, 1).await.unwrap_err();
            assert!(short.to_string().contains("bytes long, but bytes 12 to 22000 were wanted"), "{short}");
        });
    }

    #[test]
    fn a_long_index_is_read_whole() {
        let mut writer = ChunkWriter::new();
        let body = body("x");
        for keyspace in 0..20_000 {
            writer.push(
                keyspace,
                Range53::WHOLE,
                1,
                &SegmentBody { raw_len: u64::from(keyspace) << 40, ..body.clone() },
            );
        }
        let bytes = writer.finish(&ORIGIN);
        let store = Store::memory();
        block_on(async {
            store.put_new("db/a/chunk/1", bytes.clone()).await.unwrap();
            let index = read_index(&store, "db/a/chunk/1").await.unwrap();
            assert_eq!(index, ChunkIndex::parse(&bytes).unwrap());
            assert_eq!(index.entries.len(), 20_000);
        });
    }

    #[test]
    fn every_damage_is_noticed() {
        let (bytes, _) = sample();
        for_each_damage(&bytes, |damaged| ChunkIndex::parse(damaged).is_err());
        assert!(ChunkIndex::parse(&ChunkWriter::new().finish(&ORIGIN)).unwrap().entries.is_empty());
    }

    #[test]
    fn a_chunk_without_pieces_is_one_that_older_versions_read() {
        let mut writer = ChunkWriter::new();
        writer.push(0, Range53::WHOLE, 7, &body("low"));
        assert_eq!(writer.finish(&ORIGIN)[8], 2);
        writer.push_piece(0, Range53::WHOLE, 7, 1, &body("low"));
        assert_eq!(writer.finish(&ORIGIN)[8], 3);
        assert_eq!(writer.finish(&ORIGIN)[8], 2);
    }

    #[test]
    fn chunks_fill_up() {
        let mut writer = ChunkWriter::default();
        let large = SegmentBody { bytes: vec![1; CHUNK_BYTES_MAX + 1], ..body("") };
        assert!(writer.is_empty() && writer.has_room_for(&large));
        writer.push(0, Range53::WHOLE, 0, &large);
        assert!(writer.is_full() && !writer.has_room_for(&body("")));
        writer.finish(&ORIGIN);
        assert!(writer.is_empty() && writer.has_room_for(&large));
    }
}
