//! The bytes of a manifest.
//!
//! ```text
//! +----------------+ 0
//! | "DMMANIF\n"    | 8 bytes
//! | format version | u32 LE, 2; 3 during an import; 4 with pieces; 5 with more than 32 segments; 6 with history
//! +----------------+ 12
//! | fields         | a sealed block
//! +----------------+
//!
//! fields, numbers as varints, texts with a length before them:
//!   number | epoch | writer u64 LE | database | seed u64 LE | created ms
//!   16 keyspaces | next keyspace | sequence | next object
//!   count, shard cuts as differences
//!   count, chunks:   bytes shared with the name before | rest of the name | bytes
//!   count, segments: keyspace, as a difference | bits u8 | gap
//!                    chunk, as a signed difference | offset, as a signed difference to the end before | length
//!                    records | expiring | heap bytes | sequence, as a signed difference | crc u64 LE
//!                    since version 2: seen, as the difference to the sequence
//!   tails: count, each name | bytes | effects | from sequence; at most 1 in version 1
//!   meters:          length | bytes
//!   since version 2: cut, as the difference to the sequence | source, empty: none | expires ms, 0: never
//!                    count, settings: name | value
//!   since version 3: 16 staged keyspaces | followed indexes, a bit each
//!   since version 6: uncounted, 0: none | end of the history, unix ms
//!                    count, stretches: name, as those of chunks | bytes | begin, unix ms, as a signed difference
//!                                      count, dropped objects: name, as those of chunks | bytes
//!   since version 4: count, pieces: keyspace, as a difference | start of the segment | number
//!                    chunk, as a signed difference | offset, as a signed difference to the end before
//!                    length | crc u64 LE
//! ```
//!
//! A manifest with many segments is in two levels, so that a wake need not read all of them:
//!
//! ```text
//! +----------------+ 12
//! | page           | a sealed block: segments, then pieces, each with their count, as above
//! | ...            |
//! +----------------+ root
//! | root           | a sealed block: all fields as above but segments and pieces, then
//! |                |   count, pages: keyspace, as a difference | bits u8 | gap
//! |                |                 segments | records | expiring | 1 if tails hold more, else 0
//! |                |                 length | crc u64 LE
//! +----------------+ trailer
//! | root length    | u64 LE
//! | "DMMANIE\n"    | 8 bytes; in version 6 "DMMANI6\n"
//! +----------------+
//! ```
//!
//! A segment's gap is the number of prefixes between the end of the one before (in the same keyspace, else 0) and its
//! start: 0 as long as segments follow each other. The same goes for offsets in a chunk. Such a segment takes about 24
//! bytes.

use std::collections::BTreeMap;
use std::ops::Range;

use super::names::{read_name, write_name};
use super::page::{self, Page, PageInfo};
use super::timeline::Timeline;
use super::{ChunkInfo, Manifest, PieceInfo, SELECT_INDEXES, SegmentInfo, TailInfo};
use crate::chunk::SegmentLocation;
use crate::codec::block::{open, seal_into, stored_checksum};
use crate::codec::reader::{write_bytes, write_varint, write_zigzag};
use crate::codec::{
    CodecError, HEADER_BYTES, Reader, checked_range, read_header, read_trailer, write_header, write_trailer,
};
use crate::shown::{NO_KEYSPACE, STAGED, no_ids};

const MAGIC: &[u8; 8] = b"DMMANIF\n";
/// The last bytes of an object in two levels. The root is read without the header, so they stand for the version too: a
/// later one has others.
const END_MAGIC: &[u8; 8] = b"DMMANIE\n";
const END_MAGIC_6: &[u8; 8] = b"DMMANI6\n";
/// The version of a manifest in two levels without history.
const PAGED: u32 = 5;
/// The version of a manifest with history, in one level or two.
const VERSION: u32 = 6;

/// A manifest with more segments is in two levels.
pub(super) const WHOLE_SEGMENTS_MAX: usize = 32;

const CHUNK_BYTES_MIN: usize = 3;
const SEGMENT_BYTES_MIN: usize = 18;
const PIECE_BYTES_MIN: usize = 14;
const PAGE_BYTES_MIN: usize = 16;
const SETTING_BYTES_MIN: usize = 2;
const TAIL_BYTES_MIN: usize = 4;

/// Encodes the manifest as the one with this number.
pub(super) fn encode(manifest: &Manifest, number: u64) -> Vec<u8> {
    if manifest.segments.len() > WHOLE_SEGMENTS_MAX {
        return encode_paged(manifest, number);
    }
    // The oldest version that can say it.
    let version = match (manifest.pieces.is_empty(), has_import(manifest)) {
        _ if has_history(manifest) => VERSION,
        (false, _) => 4,
        (true, true) => 3,
        (true, false) => 2,
    };
    let mut fields = Vec::with_capacity(256 + manifest.segments.len() * 32);
    write_beginning(&mut fields, manifest, number);
    write_segments(&mut fields, &manifest.segments);
    write_end(&mut fields, manifest, version);
    if version >= 4 {
        write_pieces(&mut fields, &manifest.pieces);
    }
    let mut object = Vec::with_capacity(fields.len() + 32);
    write_header(&mut object, MAGIC, version);
    seal_into(&fields, &mut object);
    object
}

/// The same in two levels.
fn encode_paged(manifest: &Manifest, number: u64) -> Vec<u8> {
    let mut object = Vec::with_capacity(1024 + manifest.segments.len() * 32);
    write_header(&mut object, MAGIC, paged_version(manifest));
    let mut pages = Vec::new();
    let mut raw = Vec::new();
    for (range, segments) in page::cut(&manifest.segments, &manifest.shard_cuts) {
        raw.clear();
        write_segments(&mut raw, segments);
        write_pieces(&mut raw, page::pieces_of(&manifest.pieces, segments));
        let offset = object.len();
        seal_into(&raw, &mut object);
        let bytes = offset as u64..object.len() as u64;
        pages.push(PageInfo::of(segments, range, bytes, stored_checksum(&object)));
    }
    write_root(&mut object, manifest, number, &pages);
    object
}

/// The same with the pages of the object `before`, as they are.
pub(super) fn encode_with_pages(manifest: &Manifest, number: u64, pages: &[PageInfo], before: &[u8]) -> Vec<u8> {
    let end = pages.last().map_or(HEADER_BYTES, |page| page.bytes.end as usize);
    let mut object = Vec::with_capacity(before.len() + 32);
    write_header(&mut object, MAGIC, paged_version(manifest));
    object.extend_from_slice(&before[HEADER_BYTES..end]);
    write_root(&mut object, manifest, number, pages);
    object
}

fn write_root(object: &mut Vec<u8>, manifest: &Manifest, number: u64, pages: &[PageInfo]) {
    let mut fields = Vec::with_capacity(1024 + pages.len() * 32);
    let version = paged_version(manifest);
    write_beginning(&mut fields, manifest, number);
    write_end(&mut fields, manifest, version);
    write_pages(&mut fields, pages);
    write_trailer(object, &fields, end_magic(version));
}

/// The version of a manifest in two levels.
fn paged_version(manifest: &Manifest) -> u32 {
    if has_history(manifest) { VERSION } else { PAGED }
}

fn end_magic(version: u32) -> &'static [u8; 8] {
    if version == VERSION { END_MAGIC_6 } else { END_MAGIC }
}

/// Writes the fields with which all versions begin.
fn write_beginning(out: &mut Vec<u8>, manifest: &Manifest, number: u64) {
    write_varint(out, number);
    write_varint(out, manifest.epoch);
    out.extend_from_slice(&manifest.writer.to_le_bytes());
    write_bytes(out, manifest.database.as_bytes());
    out.extend_from_slice(&manifest.seed.to_le_bytes());
    write_varint(out, manifest.created_ms);
    for &keyspace in &manifest.keyspaces[..SELECT_INDEXES] {
        write_varint(out, u64::from(keyspace));
    }
    write_varint(out, u64::from(manifest.next_keyspace));
    write_varint(out, manifest.sequence);
    write_varint(out, manifest.next_object);

    write_varint(out, manifest.shard_cuts.len() as u64);
    let mut before = 0;
    for cut in &manifest.shard_cuts {
        write_varint(out, u64::from(cut.wrapping_sub(before)));
        before = *cut;
    }

    write_varint(out, manifest.chunks.len() as u64);
    let mut before = "";
    for chunk in &manifest.chunks {
        before = write_name(out, before, &chunk.name);
        write_varint(out, chunk.bytes);
    }
}

/// Writes the fields after the segments, without the pieces.
fn write_end(out: &mut Vec<u8>, manifest: &Manifest, version: u32) {
    write_varint(out, manifest.tails.len() as u64);
    for tail in &manifest.tails {
        write_bytes(out, tail.name.as_bytes());
        write_varint(out, tail.bytes);
        write_varint(out, tail.effects);
        write_varint(out, tail.from_sequence);
    }

    write_bytes(out, &manifest.meters);
    write_varint(out, manifest.cut.wrapping_sub(manifest.sequence));
    write_bytes(out, manifest.source.as_deref().unwrap_or_default().as_bytes());
    write_varint(out, manifest.expires_ms.unwrap_or(0));
    write_varint(out, manifest.settings.len() as u64);
    for (name, value) in &manifest.settings {
        write_bytes(out, name.as_bytes());
        write_bytes(out, value.as_bytes());
    }
    if version >= 3 {
        manifest.keyspaces[STAGED].iter().for_each(|keyspace| write_varint(out, u64::from(*keyspace)));
        write_varint(out, u64::from(manifest.followed));
    }
    if version >= 6 {
        write_varint(out, manifest.uncounted);
        manifest.timeline.write(out);
    }
}

fn has_history(manifest: &Manifest) -> bool {
    manifest.uncounted != 0 || manifest.timeline != Timeline::default()
}

fn has_import(manifest: &Manifest) -> bool {
    manifest.followed != 0 || manifest.keyspaces[STAGED].iter().any(|keyspace| *keyspace != NO_KEYSPACE)
}

pub(super) fn decode(bytes: &[u8]) -> Result<Manifest, CodecError> {
    let mut reader = Reader::new(bytes);
    let version = read_header(&mut reader, MAGIC, "manifest", VERSION)?;
    if version == PAGED || version == VERSION && bytes.ends_with(END_MAGIC_6) {
        return decode_paged(bytes);
    }
    let fields = open(reader.rest())?;
    let mut reader = Reader::new(&fields);
    let mut manifest = read_beginning(&mut reader)?;
    manifest.segments = read_segments(&mut reader, version)?;
    read_end(&mut reader, version, &mut manifest)?;
    if version >= 4 {
        manifest.pieces = read_pieces(&mut reader)?;
    }
    reader.finish()?;
    manifest.check().map_err(CodecError::Malformed)?;
    Ok(manifest)
}

fn decode_paged(object: &[u8]) -> Result<Manifest, CodecError> {
    let root = root_place(object, object.len() as u64)?.ok_or(CodecError::Magic("complete manifest"))?;
    // The whole object is here, so the root is inside it.
    let bytes = &object[root.bytes.start as usize..root.bytes.end as usize];
    let (mut manifest, pages) = decode_root(bytes, &root)?;
    for page in &pages {
        let mut read = decode_page(&object[page.bytes.start as usize..page.bytes.end as usize], page, &manifest)?;
        manifest.segments.append(&mut read.segments);
        manifest.pieces.append(&mut read.pieces);
    }
    manifest.check().map_err(CodecError::Malformed)?;
    Ok(manifest)
}

/// The location of a root in its object, and the version that says how to read it.
pub(super) struct RootPlace {
    pub bytes: Range<u64>,
    version: u32,
}

/// The root of an object of `size` bytes that ends with `end`; none in an object of one level.
pub(super) fn root_place(end: &[u8], size: u64) -> Result<Option<RootPlace>, CodecError> {
    let Some(version) = [PAGED, VERSION].into_iter().find(|version| end.ends_with(end_magic(*version))) else {
        return Ok(None);
    };
    let bytes = read_trailer(end, size, end_magic(version), "complete manifest")?;
    Ok(Some(RootPlace { bytes, version }))
}

/// Reads a root: the manifest without segments, and the pages that hold these.
pub(super) fn decode_root(root: &[u8], place: &RootPlace) -> Result<(Manifest, Vec<PageInfo>), CodecError> {
    let fields = open(root)?;
    let mut reader = Reader::new(&fields);
    let mut manifest = read_beginning(&mut reader)?;
    read_end(&mut reader, place.version, &mut manifest)?;
    let pages = read_pages(&mut reader, place.bytes.start)?;
    reader.finish()?;
    manifest.check().map_err(CodecError::Malformed)?;
    Ok((manifest, pages))
}

/// Reads one page of `manifest`.
pub(super) fn decode_page(bytes: &[u8], info: &PageInfo, manifest: &Manifest) -> Result<Page, CodecError> {
    let stored = stored_checksum(bytes);
    if stored != info.crc {
        return Err(CodecError::Checksum { stored, computed: info.crc });
    }
    let raw = open(bytes)?;
    let mut reader = Reader::new(&raw);
    let page = Page { segments: read_segments(&mut reader, VERSION)?, pieces: read_pieces(&mut reader)? };
    reader.finish()?;
    page.check(info, &manifest.chunks).map_err(CodecError::Malformed)?;
    Ok(page)
}

fn read_beginning(reader: &mut Reader<'_>) -> Result<Manifest, CodecError> {
    let number = reader.varint()?;
    let epoch = reader.varint()?;
    let writer = reader.u64_le()?;
    let database = reader.text()?.to_owned();
    let seed = reader.u64_le()?;
    let created_ms = reader.varint()?;
    let mut keyspaces = no_ids();
    for keyspace in &mut keyspaces[..SELECT_INDEXES] {
        *keyspace = reader.varint_u32()?;
    }
    let next_keyspace = reader.varint_u32()?;
    let sequence = reader.varint()?;
    let next_object = reader.varint()?;
    Ok(Manifest {
        number,
        epoch,
        writer,
        database,
        seed,
        created_ms,
        keyspaces,
        followed: 0,
        next_keyspace,
        sequence,
        cut: sequence,
        next_object,
        shard_cuts: read_cuts(reader)?,
        chunks: read_chunks(reader)?,
        segments: Vec::new(),
        pieces: Vec::new(),
        tails: Vec::new(),
        meters: Vec::new(),
        source: None,
        expires_ms: None,
        settings: BTreeMap::new(),
        uncounted: 0,
        timeline: Timeline::default(),
    })
}

fn read_end(reader: &mut Reader<'_>, version: u32, manifest: &mut Manifest) -> Result<(), CodecError> {
    manifest.tails = read_tails(reader)?;
    manifest.meters = reader.bytes()?.to_vec();
    if version >= 2 {
        read_since_2(reader, manifest)?;
    }
    if version >= 3 {
        for keyspace in &mut manifest.keyspaces[STAGED] {
            *keyspace = reader.varint_u32()?;
        }
        manifest.followed = reader.varint_u32()?;
    }
    if version >= 6 {
        manifest.uncounted = reader.varint()?;
        manifest.timeline = Timeline::read(reader)?;
    }
    Ok(())
}

fn read_since_2(reader: &mut Reader<'_>, manifest: &mut Manifest) -> Result<(), CodecError> {
    let cut = manifest.sequence.checked_add(reader.varint()?);
    manifest.cut = cut.ok_or(CodecError::Malformed("cut"))?;
    manifest.source = Some(reader.text()?.to_owned()).filter(|source| !source.is_empty());
    manifest.expires_ms = Some(reader.varint()?).filter(|at| *at != 0);
    for _ in 0..reader.count(SETTING_BYTES_MIN)? {
        let (name, value) = (reader.text()?.to_owned(), reader.text()?.to_owned());
        if manifest.settings.insert(name, value).is_some() {
            return Err(CodecError::Malformed("a setting twice"));
        }
    }
    Ok(())
}

fn read_cuts(reader: &mut Reader<'_>) -> Result<Vec<u16>, CodecError> {
    let count = reader.count(1)?;
    let mut cuts = Vec::with_capacity(count);
    let mut cut = 0u64;
    for _ in 0..count {
        cut = cut.saturating_add(reader.varint()?);
        cuts.push(u16::try_from(cut).map_err(|_| CodecError::Malformed("shard cut"))?);
    }
    Ok(cuts)
}

fn read_chunks(reader: &mut Reader<'_>) -> Result<Vec<ChunkInfo>, CodecError> {
    let count = reader.count(CHUNK_BYTES_MIN)?;
    let mut chunks: Vec<ChunkInfo> = Vec::with_capacity(count);
    for _ in 0..count {
        let name = read_name(reader, chunks.last().map_or("", |chunk| chunk.name.as_str()))?;
        chunks.push(ChunkInfo { name, bytes: reader.varint()? });
    }
    Ok(chunks)
}

fn write_segments(out: &mut Vec<u8>, segments: &[SegmentInfo]) {
    write_varint(out, segments.len() as u64);
    let mut before = Before::default();
    for segment in segments {
        before.write(out, segment);
    }
}

fn read_segments(reader: &mut Reader<'_>, version: u32) -> Result<Vec<SegmentInfo>, CodecError> {
    let count = reader.count(SEGMENT_BYTES_MIN)?;
    let mut segments = Vec::with_capacity(count);
    let mut before = Before::default();
    for _ in 0..count {
        segments.push(before.read(reader, version)?);
    }
    Ok(segments)
}

/// The values of the segment before, from which fields are stored as differences.
#[derive(Default)]
struct Before {
    keyspace: u32,
    end: u64,
    chunk: u32,
    offset: u64,
    sequence: u64,
}

impl Before {
    fn write(&mut self, out: &mut Vec<u8>, segment: &SegmentInfo) {
        let SegmentInfo { keyspace, range, location, records, expiring, heap_bytes, sequence, seen, crc } = *segment;
        // Values that `Manifest::check` would refuse wrap here, and are refused when they are read.
        write_varint(out, u64::from(keyspace.wrapping_sub(self.keyspace)));
        out.push(range.bits);
        let end = if keyspace == self.keyspace { self.end } else { 0 };
        write_varint(out, range.start.wrapping_sub(end));
        write_zigzag(out, i64::from(location.chunk) - i64::from(self.chunk));
        let offset_before = if location.chunk == self.chunk { self.offset } else { 0 };
        write_zigzag(out, location.offset.wrapping_sub(offset_before) as i64);
        write_varint(out, location.len);
        write_varint(out, u64::from(records));
        write_varint(out, u64::from(expiring));
        write_varint(out, heap_bytes);
        write_zigzag(out, sequence.wrapping_sub(self.sequence) as i64);
        out.extend_from_slice(&crc.to_le_bytes());
        write_varint(out, seen.wrapping_sub(sequence));
        *self = Before::after(segment);
    }

    fn read(&mut self, reader: &mut Reader<'_>, version: u32) -> Result<SegmentInfo, CodecError> {
        let broken = CodecError::Malformed("segment");
        let difference = reader.varint_u32()?;
        let keyspace = self.keyspace.checked_add(difference).ok_or(broken.clone())?;
        let bits = reader.u8()?;
        let end = if difference == 0 { self.end } else { 0 };
        let range = checked_range(end.checked_add(reader.varint()?).ok_or(broken.clone())?, bits)?;
        let chunk = i64::from(self.chunk).checked_add(reader.zigzag()?).and_then(|chunk| u32::try_from(chunk).ok());
        let chunk = chunk.ok_or(broken)?;
        let offset_before = if chunk == self.chunk { self.offset } else { 0 };
        let offset = offset_before.wrapping_add(reader.zigzag()? as u64);
        let location = SegmentLocation { chunk, offset, len: reader.varint()? };
        let mut segment = SegmentInfo {
            keyspace,
            range,
            location,
            records: reader.varint_u32()?,
            expiring: reader.varint_u32()?,
            heap_bytes: reader.varint()?,
            sequence: self.sequence.wrapping_add(reader.zigzag()? as u64),
            seen: 0,
            crc: reader.u64_le()?,
        };
        segment.seen = match version {
            1 => segment.sequence,
            _ => segment.sequence.checked_add(reader.varint()?).ok_or(CodecError::Malformed("segment"))?,
        };
        *self = Before::after(&segment);
        Ok(segment)
    }

    fn after(segment: &SegmentInfo) -> Before {
        Before {
            keyspace: segment.keyspace,
            end: segment.range.end(),
            chunk: segment.location.chunk,
            offset: segment.location.offset.wrapping_add(segment.location.len),
            sequence: segment.sequence,
        }
    }
}

fn write_pieces(out: &mut Vec<u8>, pieces: &[PieceInfo]) {
    write_varint(out, pieces.len() as u64);
    let mut before = PieceBefore::default();
    for piece in pieces {
        let PieceInfo { keyspace, start, number, location, crc } = *piece;
        write_varint(out, u64::from(keyspace.wrapping_sub(before.keyspace)));
        write_varint(out, start);
        write_varint(out, u64::from(number));
        write_zigzag(out, i64::from(location.chunk) - i64::from(before.chunk));
        write_zigzag(out, location.offset.wrapping_sub(before.end) as i64);
        write_varint(out, location.len);
        out.extend_from_slice(&crc.to_le_bytes());
        before = PieceBefore::after(piece);
    }
}

fn read_pieces(reader: &mut Reader<'_>) -> Result<Vec<PieceInfo>, CodecError> {
    const BROKEN: CodecError = CodecError::Malformed("piece");
    let count = reader.count(PIECE_BYTES_MIN)?;
    let mut pieces = Vec::with_capacity(count);
    let mut before = PieceBefore::default();
    for _ in 0..count {
        let keyspace = before.keyspace.checked_add(reader.varint_u32()?).ok_or(BROKEN)?;
        let (start, number) = (reader.varint()?, reader.varint_u32()?);
        let chunk = i64::from(before.chunk).checked_add(reader.zigzag()?).and_then(|chunk| u32::try_from(chunk).ok());
        let offset = before.end.wrapping_add(reader.zigzag()? as u64);
        let location = SegmentLocation { chunk: chunk.ok_or(BROKEN)?, offset, len: reader.varint()? };
        let piece = PieceInfo { keyspace, start, number, location, crc: reader.u64_le()? };
        before = PieceBefore::after(&piece);
        pieces.push(piece);
    }
    Ok(pieces)
}

fn write_pages(out: &mut Vec<u8>, pages: &[PageInfo]) {
    write_varint(out, pages.len() as u64);
    let (mut keyspace, mut end) = (0, 0);
    for page in pages {
        write_varint(out, u64::from(page.keyspace.wrapping_sub(keyspace)));
        out.push(page.range.bits);
        write_varint(out, page.range.start.wrapping_sub(if page.keyspace == keyspace { end } else { 0 }));
        write_varint(out, u64::from(page.segments));
        write_varint(out, u64::from(page.records));
        write_varint(out, u64::from(page.expiring));
        write_varint(out, u64::from(page.is_tailed));
        write_varint(out, page.bytes.end.saturating_sub(page.bytes.start));
        out.extend_from_slice(&page.crc.to_le_bytes());
        (keyspace, end) = (page.keyspace, page.range.end());
    }
}

/// Reads the list of the pages between the header and a root at byte `root`.
fn read_pages(reader: &mut Reader<'_>, root: u64) -> Result<Vec<PageInfo>, CodecError> {
    const BROKEN: CodecError = CodecError::Malformed("page");
    let count = reader.count(PAGE_BYTES_MIN)?;
    let mut pages: Vec<PageInfo> = Vec::with_capacity(count);
    let (mut keyspace, mut end, mut offset) = (0u32, 0u64, HEADER_BYTES as u64);
    for _ in 0..count {
        let difference = reader.varint_u32()?;
        keyspace = keyspace.checked_add(difference).ok_or(BROKEN)?;
        let bits = reader.u8()?;
        let from = if difference == 0 { end } else { 0 };
        let range = checked_range(from.checked_add(reader.varint()?).ok_or(BROKEN)?, bits)?;
        let (segments, records, expiring) = (reader.varint_u32()?, reader.varint_u32()?, reader.varint_u32()?);
        let is_tailed = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return Err(BROKEN),
        };
        let until = offset.checked_add(reader.varint()?).filter(|until| *until <= root).ok_or(BROKEN)?;
        let crc = reader.u64_le()?;
        pages.push(PageInfo { keyspace, range, segments, records, expiring, is_tailed, bytes: offset..until, crc });
        (end, offset) = (range.end(), until);
    }
    // Ranges follow each other, as each begins at the end of the one before or later.
    if offset != root { Err(CodecError::Malformed("gap between pages and root")) } else { Ok(pages) }
}

/// The values of the piece before, from which fields are stored as differences.
#[derive(Default)]
struct PieceBefore {
    keyspace: u32,
    chunk: u32,
    end: u64,
}

impl PieceBefore {
    fn after(piece: &PieceInfo) -> Self {
        let SegmentLocation { chunk, offset, len } = piece.location;
        PieceBefore { keyspace: piece.keyspace, chunk, end: offset.wrapping_add(len) }
    }
}

fn read_tails(reader: &mut Reader<'_>) -> Result<Vec<TailInfo>, CodecError> {
    let count = reader.count(TAIL_BYTES_MIN)?;
    let mut tails = Vec::with_capacity(count);
    for _ in 0..count {
        tails.push(TailInfo {
            name: reader.text()?.to_owned(),
            bytes: reader.varint()?,
            effects: reader.varint()?,
            from_sequence: reader.varint()?,
        });
    }
    Ok(tails)
}
