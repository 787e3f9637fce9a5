//! The payload of `DUMP` and `RESTORE`: a value that carries its own version and checksum.
//!
//! ```text
//! +------+-------+--------------------+------------------------------+
//! | type | value | RDB version u16 LE | CRC-64 of all before, u64 LE |
//! +------+-------+--------------------+------------------------------+
//! ```
//!
//! A checksum of zero means no checksum: Redis 8.10 sends such payloads to its replicas.

use dormouse_types::record::{Value, size_class};
use dormouse_types::{Limits, ObjectRef};

use super::{
    CodecError, Reader, checksum,
    reader::{ByteCount, ByteSink},
    string::skip_string,
    value::{
        LoadedValue, RDB_VERSION_OF_ARRAYS, RdbReaders, array, decode_value, encode_filter_of_module, encode_value,
        is_document, is_known_module, kind, module,
        newer::{Dialect, Templates, flatten, is_newer_hash, unsupported},
        vector_set::{self, is_of_vector_sets},
    },
};

/// Redis 7.2's, which is what we write.
pub const RDB_VERSION: u16 = 11;
/// Redis 7.4's, in payloads of hashes whose fields expire: earlier servers refuse them.
const RDB_VERSION_OF_EXPIRIES: u16 = 12;
/// The same in those of streams that remember their producers' messages or have released entries.
const RDB_VERSION_OF_MESSAGES: u16 = RDB_VERSION_MAX;
/// Redis 8.10's.
const RDB_VERSION_MAX: u16 = 15;
/// Valkey 9.0's and 9.1's.
const VALKEY_VERSION: u16 = 80;

/// Why a payload was not restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Redis answers `DUMP payload version or checksum are wrong`.
    #[error("payload version or checksum are wrong")]
    Envelope,
    /// Redis answers `Bad data format`.
    #[error(transparent)]
    Value(#[from] CodecError),
    /// A value of a type that is not supported.
    #[error("{0} cannot be restored")]
    Unsupported(&'static str),
}

/// Bytes around a value: type, version and checksum.
const ENVELOPE_BYTES: u64 = 1 + 2 + 8;

pub fn dump(value: &Value<'_>) -> Vec<u8> {
    let mut payload = Vec::new();
    dump_into(value, &mut payload);
    payload
}

/// How long the payload will be: the first pass over a large value, which keeps nothing.
pub fn dump_bytes(value: &Value<'_>) -> u64 {
    let mut counted = ByteCount::default();
    encode(value, &mut counted);
    counted.0 + ENVELOPE_BYTES
}

/// Appends the payload: the second pass.
pub fn dump_into(value: &Value<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    out.push(0);
    let kind = encode(value, out);
    out[start] = kind;
    let version = match kind {
        kind::HASH_TTL | kind::HASH_TTL_LISTPACK => RDB_VERSION_OF_EXPIRIES,
        kind::ARRAY => RDB_VERSION_OF_ARRAYS,
        kind::STREAM_5 => RDB_VERSION_OF_MESSAGES,
        _ => RDB_VERSION,
    };
    out.extend_from_slice(&version.to_le_bytes());
    let sum = checksum(&out[start..]);
    out.extend_from_slice(&sum.to_le_bytes());
}

/// Appends a value as servers know it that have its type, as their own or by a module. Returns the number of the encoding.
fn encode(value: &Value<'_>, out: &mut impl ByteSink) -> u8 {
    match value {
        Value::Object(ObjectRef::Filter(filter)) => encode_filter_of_module(filter, out),
        _ => match RdbReaders::REDIS_8.encoding_of(value) {
            Some(encoding) => {
                RdbReaders::REDIS_8.encode(value, out);
                encoding
            }
            // A document.
            None => encode_value(value, out),
        },
    }
}

/// Appends the payload of a value that is encoded already, for the readers that `target` names. Returns whether they have
/// such a type; else nothing is appended.
///
/// # Errors
/// When it has to be encoded again and cannot be read.
pub fn dump_encoded_for(
    target: RdbReaders,
    encoding: u8,
    value: &[u8],
    limits: &Limits,
    out: &mut Vec<u8>,
) -> Result<bool, CodecError> {
    let start = out.len();
    if target.lacks(encoding) {
        return Ok(false);
    }
    if target.knows(encoding) && encoding != kind::STREAM_3 {
        out.push(encoding);
        out.extend_from_slice(value);
    } else {
        let mut reader = Reader::new(value);
        let LoadedValue::Object(object) = decode_value(encoding, &mut reader, limits)? else {
            return Err(CodecError::Type(encoding));
        };
        reader.finish()?;
        let value = Value::Object(object.as_ref());
        let Some(encoding) = target.encoding_of(&value) else { return Ok(false) };
        out.push(encoding);
        target.encode(&value, out);
    }
    out.extend_from_slice(&target.version.to_le_bytes());
    let sum = checksum(&out[start..]);
    out.extend_from_slice(&sum.to_le_bytes());
    Ok(true)
}

pub fn restore<'a>(payload: &'a [u8], limits: &Limits) -> Result<LoadedValue<'a>, RestoreError> {
    let (body, origin) = open(payload).ok_or(RestoreError::Envelope)?;
    let mut reader = Reader::new(body);
    let kind = reader.u8()?;
    let mut ahead = reader;
    let is_known = kind == kind::MODULE_2 && ahead.rdb_plain_length().is_ok_and(is_known_module);
    if let Some(what) = unsupported(kind).filter(|_| !is_known) {
        return Err(RestoreError::Unsupported(what));
    }
    let is_own = origin == Dialect::Redis && matches!(kind, kind::HASH_TTL | kind::HASH_TTL_LISTPACK);
    if is_newer_hash(kind, origin) && !is_own {
        return restore_hash(kind, origin, &mut reader, limits);
    }
    if origin == Dialect::Valkey && matches!(kind, kind::HASH_TTL | kind::HASH_TTL_LISTPACK | kind::ARRAY) {
        return Err(CodecError::Type(kind).into());
    }
    let value = decode_value(kind, &mut reader, limits)?;
    reader.finish()?;
    Ok(value)
}

/// The part of a payload before its version, if that is known and the checksum is right.
pub(super) fn body_of(payload: &[u8]) -> Option<&[u8]> {
    open(payload).map(|(body, _)| body)
}

fn open(payload: &[u8]) -> Option<(&[u8], Dialect)> {
    let (rest, sum) = payload.split_last_chunk::<8>()?;
    let (body, version) = rest.split_last_chunk::<2>()?;
    let origin = match u16::from_le_bytes(*version) {
        VALKEY_VERSION => Dialect::Valkey,
        ..=RDB_VERSION_MAX => Dialect::Redis,
        _ => return None,
    };
    let sum = u64::from_le_bytes(*sum);
    (sum == 0 || checksum(rest) == sum).then_some((body, origin))
}

/// A packed collection that exceeds the limits becomes a table; an element takes at most this many times its bytes
/// there.
const UNPACKED: usize = 24;
/// The same of a stream's producers.
const PRODUCER_UNPACKED: usize = 72;
/// Overhead per element, in bytes.
const ELEMENT_BYTES: usize = 64;
/// The bytes that an array takes beside its elements.
const ARRAY_BYTES: usize = 512;
/// The largest compression ratio: three bytes stand for 264.
const INFLATED: usize = 88;

/// The bytes of memory that a payload may take when it is restored, at most, by the lengths that it gives. Nothing of it is
/// inflated to find out. 0 where it is malformed.
pub fn restored_bytes_max(payload: &[u8]) -> usize {
    let Some((&kind, value)) = payload.split_first() else { return 0 };
    let value = &value[..value.len().saturating_sub(10)];
    let mut reader = Reader::new(value);
    match kind {
        kind::STRING => size_class(skip_string(&mut reader).unwrap_or(0)),
        kind::JSON => reader.remaining(),
        kind::LIST | kind::SET => elements_bytes(&mut reader, 1, 0),
        kind::HASH => elements_bytes(&mut reader, 2, 0),
        kind::SORTED_SET => elements_bytes(&mut reader, 1, 8),
        kind::LIST_QUICKLIST => elements_bytes(&mut reader, 1, 0).saturating_mul(2),
        kind::LIST_QUICKLIST_2 => nodes_bytes(&mut reader),
        kind::LIST_ZIPLIST
        | kind::SET_INTSET
        | kind::SORTED_SET_ZIPLIST
        | kind::HASH_ZIPLIST
        | kind::HASH_ZIPMAP
        | kind::HASH_LISTPACK
        | kind::SORTED_SET_LISTPACK
        | kind::SET_LISTPACK => skip_string(&mut reader).unwrap_or(0).saturating_mul(UNPACKED),
        kind::HASH_TTL_LISTPACK if reader.take(8).is_ok() => {
            skip_string(&mut reader).unwrap_or(0).saturating_mul(UNPACKED)
        }
        kind::HASH_TTL => fields_bytes(&mut reader),
        kind::STREAM | kind::STREAM_2 | kind::STREAM_3 | kind::STREAM_4 | kind::STREAM_5 => {
            // Beside its nodes it has consumers, the shortest of which takes ten bytes and a hundred here.
            let nodes = elements_bytes(&mut reader, 2, 0).saturating_mul(2);
            // A producer with one message takes six bytes, and nearly four hundred here.
            let unpacked = if matches!(kind, kind::STREAM_4 | kind::STREAM_5) { PRODUCER_UNPACKED } else { UNPACKED };
            nodes.saturating_add(reader.remaining().saturating_mul(unpacked)).saturating_add(ELEMENT_BYTES * 8)
        }
        kind::ARRAY => array_bytes(&mut reader),
        kind::VECTOR_SET => vector_set::bytes_max(&mut reader),
        // A part of a filter has whole blocks while it is read.
        kind::BLOOM | kind::CUCKOO => reader.remaining().saturating_mul(2),
        kind::MODULE_2 => module_bytes(&mut reader),
        _ => payload.len().saturating_mul(INFLATED),
    }
}

/// The bytes that a byte of a document's text or CBOR may become, while it is read and then copied: those of an empty list.
const DOCUMENT_UNPACKED: usize = 20;

/// The value of a module.
fn module_bytes(reader: &mut Reader<'_>) -> usize {
    let Ok(id) = reader.rdb_plain_length() else { return 0 };
    if is_of_vector_sets(id) {
        return vector_set::module_bytes_max(reader);
    }
    let strings = module::strings_bytes(reader);
    // The strings of a filter are inflated one by one, and copied.
    strings.saturating_mul(if is_document(id) { DOCUMENT_UNPACKED } else { 2 }).saturating_add(ELEMENT_BYTES * 8)
}

/// As many elements as a number says, each of some strings and some bytes.
fn elements_bytes(reader: &mut Reader<'_>, strings: usize, bytes: usize) -> usize {
    let count = reader.rdb_plain_length().unwrap_or(0);
    let mut sum = 0usize;
    for _ in 0..count {
        for _ in 0..strings {
            let Ok(length) = skip_string(reader) else { return sum };
            sum = sum.saturating_add(length).saturating_add(ELEMENT_BYTES);
        }
        if reader.take(bytes).is_err() {
            return sum;
        }
    }
    sum
}

/// As many fields as a number says, each with an expiry.
fn fields_bytes(reader: &mut Reader<'_>) -> usize {
    let count = reader.take(8).and_then(|_| reader.rdb_plain_length()).unwrap_or(0);
    let mut sum = 0usize;
    for _ in 0..count {
        let strings = reader.rdb_plain_length().and_then(|_| Ok((skip_string(reader)?, skip_string(reader)?)));
        let Ok((field, value)) = strings else { return sum };
        sum = sum.saturating_add(field).saturating_add(value).saturating_add(2 * ELEMENT_BYTES);
    }
    sum
}

/// The elements of an array, each of which may be in a slice of its own.
fn array_bytes(reader: &mut Reader<'_>) -> usize {
    let count = reader.rdb_plain_length().unwrap_or(0);
    let mut sum = ARRAY_BYTES;
    if array::skip_head(reader).is_err() {
        return sum;
    }
    for _ in 0..count {
        let Ok(length) = array::skip_element(reader) else { return sum };
        sum = sum.saturating_add(size_class(length)).saturating_add(2 * ELEMENT_BYTES);
    }
    sum
}

/// The nodes of a list of listpacks, which may be repacked.
fn nodes_bytes(reader: &mut Reader<'_>) -> usize {
    let count = reader.rdb_plain_length().unwrap_or(0);
    let mut sum = 0usize;
    for _ in 0..count {
        let (Ok(_), Ok(length)) = (reader.rdb_plain_length(), skip_string(reader)) else { return sum };
        sum = sum.saturating_add(length.saturating_mul(2)).saturating_add(ELEMENT_BYTES);
    }
    sum
}

fn restore_hash(
    kind: u8,
    origin: Dialect,
    reader: &mut Reader<'_>,
    limits: &Limits,
) -> Result<LoadedValue<'static>, RestoreError> {
    let mut flat = Vec::new();
    let flat_kind = flatten(kind, origin, &Templates::default(), reader, &mut flat)?;
    reader.finish()?;
    match decode_value(flat_kind, &mut Reader::new(&flat), limits)? {
        LoadedValue::Object(object) => Ok(LoadedValue::Object(object)),
        LoadedValue::Text(_) => Err(CodecError::Type(kind).into()),
    }
}
