//! Ids of entries as clients write them, and as replies have them.

use dormouse_protocol::Reply;
use dormouse_types::StreamId;
use dormouse_types::stream::StreamEntry;
use smallvec::SmallVec;

use crate::commands::elements::write_item;
use crate::error::{Error, Result};

const INVALID: Error = Error::text("ERR Invalid stream ID specified as stream command argument");

/// Redis copies an id to a buffer of this size.
const TEXT_MAX: usize = 127;

/// An id whose sequence number may be left to the stream: `ms-*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartialId {
    pub id: StreamId,
    pub has_seq: bool,
}

/// `ms-seq`, or `ms` with `missing` as its sequence number.
pub fn strict_id(text: &[u8], missing: u64) -> Result<StreamId> {
    match c_string(text)? {
        b"-" | b"+" => Err(INVALID),
        text => parse(text, missing),
    }
}

/// The same, or `-` and `+` for the first and the last id.
pub fn id_or_end(text: &[u8], missing: u64) -> Result<StreamId> {
    match c_string(text)? {
        b"-" => Ok(StreamId::MIN),
        b"+" => Ok(StreamId::MAX),
        text => parse(text, missing),
    }
}

/// An id for a new entry: `ms-seq`, `ms`, or `ms-*`.
pub fn partial_id(text: &[u8]) -> Result<PartialId> {
    let text = c_string(text)?;
    match text.strip_suffix(b"-*") {
        Some(ms) if !ms.contains(&b'-') => {
            let ms = number(ms).ok_or(INVALID)?;
            Ok(PartialId { id: StreamId::new(ms, 0), has_seq: false })
        }
        _ => Ok(PartialId { id: strict_id(text, 0)?, has_seq: true }),
    }
}

/// The start of a range, which a parenthesis excludes.
pub fn range_start(text: &[u8]) -> Result<StreamId> {
    match text {
        [b'(', rest @ ..] if !rest.is_empty() => {
            strict_id(rest, 0)?.next().ok_or(Error::text("ERR invalid start ID for the interval"))
        }
        text => id_or_end(text, 0),
    }
}

/// The end of a range.
pub fn range_end(text: &[u8]) -> Result<StreamId> {
    match text {
        [b'(', rest @ ..] if !rest.is_empty() => {
            strict_id(rest, u64::MAX)?.previous().ok_or(Error::text("ERR invalid end ID for the interval"))
        }
        text => id_or_end(text, u64::MAX),
    }
}

/// All of them are read before anything is changed.
pub fn ids<'a>(words: impl Iterator<Item = &'a [u8]>) -> Result<SmallVec<[StreamId; 8]>> {
    words.map(|word| strict_id(word, 0)).collect()
}

fn c_string(text: &[u8]) -> Result<&[u8]> {
    if text.len() > TEXT_MAX {
        return Err(INVALID);
    }
    Ok(text.split(|byte| *byte == 0).next().unwrap_or_default())
}

fn parse(text: &[u8], missing: u64) -> Result<StreamId> {
    let mut parts = text.splitn(2, |byte| *byte == b'-');
    let ms = parts.next().and_then(number).ok_or(INVALID)?;
    let seq = parts.next().map_or(Some(missing), number).ok_or(INVALID)?;
    Ok(StreamId::new(ms, seq))
}

/// A number as C's `strtoull` reads it, spaces and a sign in front, but no plain negative number.
fn number(text: &[u8]) -> Option<u64> {
    let text = text.trim_ascii_start();
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || negative && digits[0] != b'0' {
        return None;
    }
    let value = digits.iter().try_fold(0u64, |value, byte| {
        let digit = char::from(*byte).to_digit(10)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })?;
    Some(if negative { value.wrapping_neg() } else { value })
}

pub fn write_id(reply: &mut Reply, id: StreamId) {
    let (mut ms, mut seq) = (itoa::Buffer::new(), itoa::Buffer::new());
    let (ms, seq) = (ms.format(id.ms).as_bytes(), seq.format(id.seq).as_bytes());
    reply.bulk_with(ms.len() + 1 + seq.len(), |text| {
        text.extend_from_slice(ms);
        text.push(b'-');
        text.extend_from_slice(seq);
    });
}

/// An entry as `[id, [field, value, ...]]`.
pub fn write_entry(reply: &mut Reply, entry: &StreamEntry<'_>) {
    reply.array(2);
    write_id(reply, entry.id);
    write_fields(reply, entry);
}

/// The fields and values of an entry as `[field, value, ...]`.
pub fn write_fields(reply: &mut Reply, entry: &StreamEntry<'_>) {
    let fields = entry.fields();
    reply.array(2 * fields.len());
    for (field, value) in fields {
        write_item(reply, field);
        write_item(reply, value);
    }
}

/// Writes up to `count` entries as an array; 0: all of them. Returns how many.
pub fn write_entries<'s>(reply: &mut Reply, entries: impl Iterator<Item = StreamEntry<'s>>, count: usize) -> usize {
    let (start, mut len) = (reply.len(), 0);
    for entry in entries.take(unlimited(count)) {
        write_entry(reply, &entry);
        len += 1;
    }
    reply.array_since(start, len);
    len
}

/// A count of which 0 means no limit.
pub fn unlimited(count: usize) -> usize {
    if count == 0 { usize::MAX } else { count }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_redis_reads_them() {
        for (text, id) in [
            ("5", Some((5, 7))),
            ("5-3", Some((5, 3))),
            ("+5- 03", Some((5, 3))),
            ("18446744073709551615-18446744073709551615", Some((u64::MAX, u64::MAX))),
            ("18446744073709551616", None),
            ("5-", None),
            ("-5", None),
            ("5--3", None),
            ("5-3-1", None),
            ("", None),
            ("x", None),
            ("-", None),
            ("5-*", None),
        ] {
            let expected = id.map(|(ms, seq)| StreamId::new(ms, seq));
            assert_eq!(strict_id(text.as_bytes(), 7).ok(), expected, "{text}");
        }
        assert_eq!(id_or_end(b"+", 0).unwrap(), StreamId::MAX);
        assert_eq!(range_start(b"(1-1").unwrap(), StreamId::new(1, 2));
        assert_eq!(range_end(b"(1").unwrap(), StreamId::new(1, u64::MAX - 1));
        assert!(range_end(b"(0-0").is_err() && range_start(b"(-").is_err() && range_start(b"(").is_err());
        let partial = partial_id(b"5-*").unwrap();
        assert!(partial.id == StreamId::new(5, 0) && !partial.has_seq);
        assert!(partial_id(b"*").is_err() && partial_id(b"-*").is_err());
    }
}
