//! The records of one segment, as they lie in a chunk.
//!
//! A body is a sealed block (see [`super::block`]) of
//!
//! ```text
//! +-----------------+--------+--------+-----+
//! | records, u32 LE | record | record | ... |
//! +-----------------+--------+--------+-----+
//!
//! record:
//! +--------+----------------+--------------+------------+-----+-------+
//! | head   | access clock   | expiry       | key length | key | value |
//! | u8     | 3 bytes LE     | signed       | varint     |     | as in RDB
//! |        | unless the     | varint, only |            |     | (see value)
//! |        | same as before | with bit 5   |            |     |
//! +--------+----------------+--------------+------------+-----+-------+
//! head: bits 0-4  the number of the value's encoding
//!       bit  5    there is an expiry: unix milliseconds, as the difference to the last expiry in the body
//!       bit  6    the access clock is that of the record before (at first 0)
//!       bit  7    zero
//! ```
//!
//! Records stand in the order of the segment, which is nearly that of their positions, so loading fills one bucket after
//! the other. Writing is two steps: [`RawSegment::collect`] visits the records, under the shard's lock, and
//! [`RawSegment::seal`] compresses what it wrote, without it.

use dormouse_types::record::Record;
use dormouse_types::segment::{Placement, Range53, Ranged, Segment, prefix53};
use dormouse_types::{Digits, Limits};

use super::{
    CodecError, Reader,
    block::{open, seal, stored_checksum},
    reader::{write_bytes, write_zigzag},
    string::STRING_BYTES_MAX,
    value::{Loaded, decode_value, encode_value},
};

const KIND: u8 = 0x1f;
const EXPIRES: u8 = 1 << 5;
const SAME_ACCESS: u8 = 1 << 6;
const UNUSED: u8 = 1 << 7;

const RECORD_BYTES_MIN: usize = 3;

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
    /// A body that was sealed before, as it lies in a chunk.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn of_sealed(bytes: &[u8]) -> Result<Self, CodecError> {
        let raw = open(bytes)?;
        let records = Reader::new(&raw).u32_le()?;
        let (raw_len, crc) = (raw.len() as u64, stored_checksum(bytes));
        // How many expire is in the manifest only.
        Ok(Self { bytes: bytes.to_vec(), raw_len, records, expiring: 0, crc })
    }
}

/// The records of a segment as bytes, not compressed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawSegment {
    raw: Vec<u8>,
    records: u32,
    expiring: u32,
}

impl RawSegment {
    /// Writes the records behind each other. `capacity` is a guess at the bytes that will take.
    pub fn collect<'r>(records: impl IntoIterator<Item = &'r Record>, capacity: usize) -> RawSegment {
        let mut raw = Vec::with_capacity(capacity);
        raw.extend_from_slice(&[0; 4]);
        let mut before = Before::default();
        let (mut count, mut expiring) = (0u32, 0u32);
        for record in records {
            count += 1;
            expiring += u32::from(before.write(&mut raw, record));
        }
        raw[..4].copy_from_slice(&count.to_le_bytes());
        RawSegment { raw, records: count, expiring }
    }

    /// The same of records that were never in memory as such. `capacity` is a guess at the bytes that will take.
    pub fn collect_encoded<'r>(records: impl IntoIterator<Item = EncodedRecord<'r>>, capacity: usize) -> RawSegment {
        let mut raw = Vec::with_capacity(capacity);
        raw.extend_from_slice(&[0; 4]);
        let mut before = Before::default();
        let (mut count, mut expiring) = (0u32, 0u32);
        for EncodedRecord { key, expiry, access, kind, value } in records {
            count += 1;
            expiring += u32::from(expiry.is_some());
            let head = before.write_head(&mut raw, key, access, expiry);
            raw[head] |= kind;
            raw.extend_from_slice(value);
        }
        raw[..4].copy_from_slice(&count.to_le_bytes());
        RawSegment { raw, records: count, expiring }
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
    pub fn seal(&self) -> SegmentBody {
        let bytes = seal(&self.raw);
        let crc = stored_checksum(&bytes);
        let raw_len = self.raw.len() as u64;
        SegmentBody { bytes, raw_len, records: self.records, expiring: self.expiring, crc }
    }
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

/// Reads a body into the segment of `range`. A key that is not in the range, or comes twice, is an error.
pub fn decode_segment<P: Placement>(
    bytes: &[u8],
    placement: &P,
    limits: &Limits,
    range: Range53,
) -> Result<Segment<Record>, CodecError> {
    let raw = open(bytes)?;
    let mut records = Records::new(&raw, limits)?;
    let mut segment = Segment::with_capacity(range, records.left as usize);
    while let Some(record) = records.next()? {
        let position = placement.position(record.key());
        if !segment.range().contains(prefix53(position)) {
            return Err(CodecError::Malformed("key outside the segment"));
        }
        if segment.get(position, record.key()).is_some() {
            return Err(CodecError::Malformed("key twice"));
        }
        segment.insert(position, record, placement);
    }
    Ok(segment)
}

/// Reads a body without a table, for checks and exports, and answers how many records there were.
pub fn visit_segment(bytes: &[u8], limits: &Limits, mut visit: impl FnMut(Record)) -> Result<u32, CodecError> {
    let raw = open(bytes)?;
    let mut records = Records::new(&raw, limits)?;
    let count = records.left;
    while let Some(record) = records.next()? {
        visit(record);
    }
    Ok(count)
}

/// What a record's fields are differences from.
#[derive(Default)]
struct Before {
    access: u32,
    expiry: u64,
}

impl Before {
    /// Appends a record; answers whether it expires.
    fn write(&mut self, out: &mut Vec<u8>, record: &Record) -> bool {
        let expiry = record.expiry();
        let head = self.write_head(out, record.key(), record.access(), expiry);
        out[head] |= encode_value(&record.value(), out);
        expiry.is_some()
    }

    /// Appends everything before the value; answers where the head is, which lacks the number of the value's encoding.
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
    digits: Digits,
}

impl<'a> Records<'a> {
    fn new(raw: &'a [u8], limits: &'a Limits) -> Result<Self, CodecError> {
        let mut reader = Reader::new(raw);
        let left = reader.u32_le()?;
        reader.check_count(u64::from(left), RECORD_BYTES_MIN)?;
        if left > RECORDS_MAX {
            return Err(CodecError::Malformed("too many records for a segment"));
        }
        Ok(Records { reader, limits, before: Before::default(), left, digits: Digits::new() })
    }

    fn next(&mut self) -> Result<Option<Record>, CodecError> {
        if self.left == 0 {
            return self.reader.finish().map(|()| None);
        }
        self.left -= 1;
        let head = self.reader.u8()?;
        if head & UNUSED != 0 {
            return Err(CodecError::Malformed("record"));
        }
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
        let mut record = match decode_value(head & KIND, &mut self.reader, self.limits)? {
            Loaded::Text(text) => Record::new_raw(key, text.bytes(&mut self.digits), expiry),
            Loaded::Object(object) => Record::new_object(key, object, expiry),
        };
        record.set_access(self.before.access);
        Ok(Some(record))
    }
}

#[cfg(test)]
mod tests;
