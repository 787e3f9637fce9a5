//! The records of one segment, as a chunk stores them.
//!
//! A body is a sealed block (see [`super::block`]) of
//!
//! ```text
//! +-----------------+--------+--------+-----+-------+
//! | records, u32 LE | record | record | ... | later |
//! +-----------------+--------+--------+-----+-------+
//!
//! record:
//! +--------+----------------+--------------+------------+-----+-------+
//! | head   | access clock   | expiry       | key length | key | value |
//! | u8     | 3 bytes LE     | signed       | varint     |     | as in RDB
//! |        | unless the     | varint, only |            |     | (see value)
//! |        | same as before | with bit 5   |            |     |
//! +--------+----------------+--------------+------------+-----+-------+
//! head: bits 0-4  the number of the value's encoding; 31: it is a byte of its own, behind the key
//!       bit  5    there is an expiry: unix milliseconds, as the difference to the last expiry in the body
//!       bit  6    the access clock is that of the record before (at first 0)
//!       bit  7    the value is in pieces, which follow the body (see value::pieces). What stands here is
//!                 elements varint | number of the first piece varint | pieces varint
//! later: only where bit 31 of the count of records is set: count varint, (position u64 LE | difference varint) ...
//! ```
//!
//! A body holds the effects up to its sequence. Keys whose positions are listed under *later* were seen later than the others:
//! their effects up to that sequence and the difference are in the body too. A key that was gone by then has no record.
//!
//! Pieces are sealed blocks of their own, numbered from 1 for each body. Numbers in between may be left out: those of values
//! that were replaced while they were written.
//!
//! Records stand in the order of the segment, which is nearly that of their positions, so loading fills one bucket after
//! the other; values in pieces come last. Writing is two steps: [`RawSegment::push`] visits the records, under the shard's lock, and
//! [`RawSegment::seal`] compresses what it wrote, without it.

use dormouse_types::record::Record;
use dormouse_types::segment::{Placement, Range53, Ranged, Segment, prefix53};
use dormouse_types::{Digits, Limits};

use super::{
    CodecError, Reader,
    block::{open, seal, stored_checksum},
    reader::{write_bytes, write_varint, write_zigzag},
    string::STRING_BYTES_MAX,
    value::{LoadedValue, decode_value, encode_value, pieces::Outline},
};

const KIND: u8 = 0x1f;
/// In the place of the number of an encoding: that is larger, and follows the key.
const KIND_FOLLOWS: u8 = KIND;
const EXPIRES: u8 = 1 << 5;
const SAME_ACCESS: u8 = 1 << 6;
const IN_PIECES: u8 = 1 << 7;

/// In the count of records: some keys were seen later.
const HAS_LATER: u32 = 1 << 31;

const RECORD_BYTES_MIN: usize = 3;
const LATER_BYTES_MIN: usize = 9;

/// Segments split long before; a body that says otherwise would fill a table that is slow when it is too full.
const RECORDS_MAX: u32 = 1 << 16;

/// One encoded segment, ready for a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentBody {
    /// A sealed block.
    pub bytes: Vec<u8>,
    /// Bytes before compression.
    pub raw_len: u64,
    pub records: u32,
    /// How many of the records have an expiry.
    pub expiring: u32,
    /// The checksum that `bytes` ends with.
    pub crc: u64,
}

impl SegmentBody {
    /// A body that was sealed before, as a chunk stores it.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn of_sealed(bytes: &[u8]) -> Result<Self, CodecError> {
        let raw = open(bytes)?;
        let records = Reader::new(&raw).u32_le()? & !HAS_LATER;
        let (raw_len, crc) = (raw.len() as u64, stored_checksum(bytes));
        // How many expire is in the manifest only.
        Ok(Self { bytes: bytes.to_vec(), raw_len, records, expiring: 0, crc })
    }

    /// A piece of a value.
    pub fn of_piece(raw: &[u8]) -> Self {
        let bytes = seal(raw);
        let crc = stored_checksum(&bytes);
        Self { bytes, raw_len: raw.len() as u64, records: 0, expiring: 0, crc }
    }

    /// A piece that was sealed before.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn of_sealed_piece(bytes: &[u8]) -> Result<Self, CodecError> {
        let raw_len = open(bytes)?.len() as u64;
        Ok(Self { bytes: bytes.to_vec(), raw_len, records: 0, expiring: 0, crc: stored_checksum(bytes) })
    }
}

/// The records of a segment as bytes, not compressed yet.
#[derive(Debug, Clone)]
pub struct RawSegment {
    raw: Vec<u8>,
    records: u32,
    expiring: u32,
    before: Before,
    later: Vec<(u64, u64)>,
}

impl RawSegment {
    /// `capacity`: a guess at the bytes that it will take.
    pub fn new(capacity: usize) -> RawSegment {
        let mut raw = Vec::with_capacity(capacity);
        raw.extend_from_slice(&[0; 4]);
        RawSegment { raw, records: 0, expiring: 0, before: Before::default(), later: Vec::new() }
    }

    /// Writes the records one after the other, each whole. `capacity` is a guess at their bytes.
    pub fn collect<'r>(records: impl IntoIterator<Item = &'r Record>, capacity: usize) -> RawSegment {
        let mut segment = Self::new(capacity);
        records.into_iter().for_each(|record| segment.push(record));
        segment
    }

    /// The same of records that were never in memory as such. `capacity` is a guess at the bytes that will take.
    pub fn collect_encoded<'r>(records: impl IntoIterator<Item = EncodedRecord<'r>>, capacity: usize) -> RawSegment {
        let mut segment = Self::new(capacity);
        for EncodedRecord { key, expiry, access, kind, value } in records {
            let head = segment.push_head(key, access, expiry);
            segment.put_kind(head, segment.raw.len(), kind);
            segment.raw.extend_from_slice(value);
        }
        segment
    }

    /// Adds a record with its value.
    #[inline]
    pub fn push(&mut self, record: &Record) {
        let head = self.push_head(record.key(), record.access(), record.expiry());
        let value = self.raw.len();
        let kind = encode_value(&record.value(), &mut self.raw);
        self.put_kind(head, value, kind);
    }

    /// Writes the number of a value's encoding into its head, or to `at`, where the value begins.
    #[inline]
    fn put_kind(&mut self, head: usize, at: usize, kind: u8) {
        if kind < KIND_FOLLOWS {
            self.raw[head] |= kind;
        } else {
            self.raw[head] |= KIND_FOLLOWS;
            self.raw.insert(at, kind);
        }
    }

    /// Adds a record whose value is in pieces.
    pub fn push_in_pieces(&mut self, record: &InPieces) {
        let InPieces { key, expiry, access, outline, first, pieces } = record;
        let head = self.push_head(key, *access, *expiry);
        self.raw[head] |= IN_PIECES;
        self.put_kind(head, self.raw.len(), outline.kind);
        write_varint(&mut self.raw, outline.elements);
        write_varint(&mut self.raw, u64::from(*first));
        write_varint(&mut self.raw, u64::from(*pieces));
    }

    /// Says that the key at `position` was seen `difference` later than the body's sequence says.
    pub fn push_later(&mut self, position: u64, difference: u64) {
        self.later.retain(|(other, _)| *other != position);
        self.later.push((position, difference));
    }

    #[inline]
    fn push_head(&mut self, key: &[u8], access: u32, expiry: Option<u64>) -> usize {
        self.records += 1;
        self.expiring += u32::from(expiry.is_some());
        self.before.write_head(&mut self.raw, key, access, expiry)
    }

    pub fn records(&self) -> u32 {
        self.records
    }

    pub fn expiring(&self) -> u32 {
        self.expiring
    }

    pub fn bytes(&self) -> usize {
        self.raw.len()
    }

    /// Compresses and checksums.
    pub fn seal(mut self) -> SegmentBody {
        let mut count = self.records;
        if !self.later.is_empty() {
            count |= HAS_LATER;
            write_varint(&mut self.raw, self.later.len() as u64);
            for (position, difference) in &self.later {
                self.raw.extend_from_slice(&position.to_le_bytes());
                write_varint(&mut self.raw, *difference);
            }
        }
        self.raw[..4].copy_from_slice(&count.to_le_bytes());
        let bytes = seal(&self.raw);
        let crc = stored_checksum(&bytes);
        let raw_len = self.raw.len() as u64;
        SegmentBody { bytes, raw_len, records: self.records, expiring: self.expiring, crc }
    }
}

/// A record whose value is in pieces, without them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InPieces {
    pub key: Box<[u8]>,
    pub expiry: Option<u64>,
    pub access: u32,
    pub outline: Outline,
    /// The number of its first piece, and how many pieces it has.
    pub first: u32,
    pub pieces: u32,
}

/// A body that has been read, without the values in pieces.
pub struct Decoded {
    pub segment: Segment<Record>,
    /// In the order of their pieces.
    pub in_pieces: Vec<InPieces>,
    /// Positions of keys that were seen later, and by how much.
    pub later: Vec<(u64, u64)>,
}

/// A record whose value is encoded already.
#[derive(Debug, Clone, Copy)]
pub struct EncodedRecord<'a> {
    pub key: &'a [u8],
    pub expiry: Option<u64>,
    pub access: u32,
    /// The number of the value's encoding, which is one that [`encode_value`] writes.
    pub kind: u8,
    pub value: &'a [u8],
}

/// Both steps at once.
pub fn encode_segment<'r>(records: impl IntoIterator<Item = &'r Record>) -> SegmentBody {
    RawSegment::collect(records, 0).seal()
}

/// Reads a body into the segment of `range`. A key that is not in the range, or comes twice, is an error, and so is a value
/// in pieces.
pub fn decode_segment<P: Placement>(
    bytes: &[u8],
    placement: &P,
    limits: &Limits,
    range: Range53,
) -> Result<Segment<Record>, CodecError> {
    let decoded = decode_body(bytes, placement, limits, range)?;
    if decoded.in_pieces.is_empty() { Ok(decoded.segment) } else { Err(VALUE_IN_PIECES) }
}

/// Reads a body, of which some values may be in pieces.
pub fn decode_body<P: Placement>(
    bytes: &[u8],
    placement: &P,
    limits: &Limits,
    range: Range53,
) -> Result<Decoded, CodecError> {
    let raw = open(bytes)?;
    let mut records = Records::new(&raw, limits)?;
    let mut segment = Segment::with_capacity(range, records.left as usize);
    let mut in_pieces: Vec<InPieces> = Vec::new();
    while let Some(read) = records.next()? {
        let key = match &read {
            Read::Whole(record) => record.key(),
            Read::InPieces(record) => &record.key,
        };
        let position = placement.position(key);
        if !segment.range().contains(prefix53(position)) {
            return Err(CodecError::Malformed("key outside the segment"));
        }
        if segment.get(position, key).is_some() || in_pieces.iter().any(|other| *other.key == *key) {
            return Err(CodecError::Malformed("key twice"));
        }
        match read {
            Read::Whole(record) => segment.insert(position, record, placement),
            Read::InPieces(record) => in_pieces.push(record),
        }
    }
    Ok(Decoded { segment, in_pieces, later: records.later })
}

/// Reads a body without a table, for checks and exports, and returns the number of records. Values in pieces are an
/// error.
pub fn visit_segment(bytes: &[u8], limits: &Limits, mut visit: impl FnMut(Record)) -> Result<u32, CodecError> {
    let mut count = 0;
    let mut in_pieces = 0;
    visit_body(bytes, limits, |read| match read {
        Read::Whole(record) => {
            count += 1;
            visit(record);
        }
        Read::InPieces(_) => in_pieces += 1,
    })?;
    if in_pieces == 0 { Ok(count) } else { Err(VALUE_IN_PIECES) }
}

/// The same of a body with values in pieces; returns which keys were seen later, as [`Decoded`] does.
pub fn visit_body(bytes: &[u8], limits: &Limits, mut visit: impl FnMut(Read)) -> Result<Vec<(u64, u64)>, CodecError> {
    let raw = open(bytes)?;
    let mut records = Records::new(&raw, limits)?;
    while let Some(read) = records.next()? {
        visit(read);
    }
    Ok(records.later)
}

const VALUE_IN_PIECES: CodecError = CodecError::Malformed("a value in pieces, which are not at hand");

/// The values of the record before, from which fields are stored as differences.
#[derive(Debug, Clone, Default)]
struct Before {
    access: u32,
    expiry: u64,
}

impl Before {
    /// Appends everything before the value; returns the offset of the head, which lacks the number of the value's
    /// encoding.
    #[inline]
    fn write_head(&mut self, out: &mut Vec<u8>, key: &[u8], access: u32, expiry: Option<u64>) -> usize {
        let start = out.len();
        let mut head = 0;
        out.push(0);
        match access {
            access if access == self.access => head |= SAME_ACCESS,
            access => {
                out.extend_from_slice(&access.to_le_bytes()[..3]);
                self.access = access;
            }
        }
        if let Some(expiry) = expiry {
            head |= EXPIRES;
            write_zigzag(out, expiry.wrapping_sub(self.expiry) as i64);
            self.expiry = expiry;
        }
        write_bytes(out, key);
        out[start] = head;
        start
    }
}

/// Reads one record after the other.
struct Records<'a> {
    reader: Reader<'a>,
    limits: &'a Limits,
    before: Before,
    left: u32,
    /// The number that the next piece may have at least.
    next_piece: u32,
    has_later: bool,
    /// After the last record.
    later: Vec<(u64, u64)>,
    digits: Digits,
}

/// A record of a body.
pub enum Read {
    Whole(Record),
    InPieces(InPieces),
}

impl<'a> Records<'a> {
    fn new(raw: &'a [u8], limits: &'a Limits) -> Result<Self, CodecError> {
        let mut reader = Reader::new(raw);
        let count = reader.u32_le()?;
        let (left, has_later) = (count & !HAS_LATER, count & HAS_LATER != 0);
        reader.check_count(u64::from(left), RECORD_BYTES_MIN)?;
        if left > RECORDS_MAX {
            return Err(CodecError::Malformed("too many records for a segment"));
        }
        let (before, digits) = (Before::default(), Digits::new());
        Ok(Records { reader, limits, before, left, next_piece: 1, has_later, later: Vec::new(), digits })
    }

    fn next(&mut self) -> Result<Option<Read>, CodecError> {
        if self.left == 0 {
            if self.has_later {
                for _ in 0..self.reader.count(LATER_BYTES_MIN)? {
                    self.later.push((self.reader.u64_le()?, self.reader.varint()?));
                }
            }
            return self.reader.finish().map(|()| None);
        }
        self.left -= 1;
        let head = self.reader.u8()?;
        if head & SAME_ACCESS == 0 {
            let [low, middle, high] = self.reader.array()?;
            self.before.access = u32::from_le_bytes([low, middle, high, 0]);
        }
        let mut expiry = None;
        if head & EXPIRES != 0 {
            self.before.expiry = self.before.expiry.wrapping_add(self.reader.zigzag()? as u64);
            expiry = Some(self.before.expiry);
        }
        let key = self.reader.bytes()?;
        if key.len() as u64 > STRING_BYTES_MAX {
            return Err(CodecError::Malformed("key over 512 MiB"));
        }
        let kind = match head & KIND {
            KIND_FOLLOWS => match self.reader.u8()? {
                kind @ KIND_FOLLOWS.. => kind,
                _ => return Err(CodecError::Malformed("number of an encoding behind a key")),
            },
            kind => kind,
        };
        if head & IN_PIECES != 0 {
            let outline = Outline { kind, elements: self.reader.varint()? };
            let (first, pieces) = (self.reader.varint_u32()?, self.reader.varint_u32()?);
            let end = first.checked_add(pieces);
            self.next_piece =
                end.filter(|_| first >= self.next_piece && pieces > 0).ok_or(CodecError::Malformed("pieces"))?;
            let access = self.before.access;
            return Ok(Some(Read::InPieces(InPieces { key: key.into(), expiry, access, outline, first, pieces })));
        }
        let mut record = match decode_value(kind, &mut self.reader, self.limits)? {
            LoadedValue::Text(text) => Record::new_raw(key, text.bytes(&mut self.digits), expiry),
            LoadedValue::Object(object) => Record::new_object(key, object, expiry),
        };
        record.set_access(self.before.access);
        Ok(Some(Read::Whole(record)))
    }
}

#[cfg(test)]
mod tests;
