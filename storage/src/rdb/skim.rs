//! Finding the end of a value.
//!
//! RDB does not give a value's length, so a reader of a stream goes through its structure: lengths, and strings, which
//! it skips. The contents of strings are checked when the value is decoded.
//!
//! | type | structure |
//! | --- | --- |
//! | 0, 9-13, 16, 17, 20 | string |
//! | 1, 2, 14 | n, n strings |
//! | 3 | n, n of (string, score as text) |
//! | 4 | n, 2n strings |
//! | 5 | n, n of (string, f64) |
//! | 18 | n, n of (length, string) |
//! | 15, 19, 21, 26, 27 | stream, see [`stream`] |
//! | 7 | module id, then numbered fields up to a zero, see [`module_fields`] |
//! | 22, Valkey | n, n of (string, string, i64) |
//! | 22, 24, Redis | (24: i64), n, n of (length, string, string) |
//! | 23, 25, Redis | (25: i64), string |
//! | 28 | n, 0 or 1 and a length, n of (length, element), see [`array`] |
//! | 30 | string |
//! | 32 | number of a template, as many strings as that has fields |

use std::io::Read;

use super::error::RdbError;
use super::input::Input;
use crate::codec::CodecError;
use crate::codec::reader::RdbLength;
use crate::codec::value::newer::{Dialect, TEMPLATES_TOO_LARGE, Templates, is_newer_hash, unsupported};
use crate::codec::value::{kind, module};

type Result<T, E = RdbError> = std::result::Result<T, E>;

/// The module of Redis that implements vector sets.
const VECTOR_SETS: &str = "vectorset";

/// This build's support for a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Support {
    /// The codec decodes it.
    Whole,
    /// A hash that [`newer`](crate::codec::value::newer) converts to one that the codec decodes.
    Hash,
    /// It can be passed over. What it is, for messages.
    Skipped(&'static str),
    /// Not even its end can be found.
    Endless(&'static str),
    Unknown,
}

pub(super) fn support(kind: u8, origin: Dialect) -> Support {
    match kind {
        kind::STRING..=kind::SORTED_SET
        | kind::HASH_ZIPMAP..=kind::LIST_QUICKLIST
        | kind::HASH_LISTPACK..=kind::LIST_QUICKLIST_2
        | kind::SET_LISTPACK
        | kind::STREAM
        | kind::STREAM_2
        | kind::STREAM_3 => Support::Whole,
        kind::STREAM_4 | kind::STREAM_5 | kind::ARRAY if origin == Dialect::Redis => Support::Whole,
        kind::MODULE => Support::Endless("a module's value in the form of Redis 4"),
        // Only payloads have hashes with a template of their own.
        kind::HASH_TEMPLATE_LISTPACK | kind::HASH_TEMPLATE_VALUES => Support::Unknown,
        _ if is_newer_hash(kind, origin) => Support::Hash,
        _ => unsupported(kind).map_or(Support::Unknown, Support::Skipped),
    }
}

/// Reads past a value.
pub(super) fn value<R: Read>(input: &mut Input<R>, kind: u8, origin: Dialect, templates: &Templates) -> Result<()> {
    match kind {
        kind::STRING
        | kind::HASH_ZIPMAP..=kind::HASH_ZIPLIST
        | kind::HASH_LISTPACK
        | kind::SORTED_SET_LISTPACK
        | kind::SET_LISTPACK => string(input),
        kind::LIST | kind::SET | kind::LIST_QUICKLIST => times(input, string),
        kind::HASH => times(input, pair),
        kind::SORTED_SET_TEXT => times(input, |input| {
            string(input)?;
            match input.u8()? {
                253..=255 => Ok(()),
                length => input.advance(u64::from(length)),
            }
        }),
        kind::SORTED_SET => times(input, |input| {
            string(input)?;
            input.advance(8)
        }),
        kind::LIST_QUICKLIST_2 => times(input, |input| {
            length(input)?;
            string(input)
        }),
        kind::STREAM | kind::STREAM_2 | kind::STREAM_3 | kind::STREAM_4 | kind::STREAM_5 => stream(input, kind),
        kind::ARRAY => array(input),
        kind::MODULE_2 => {
            length(input)?;
            module_fields(input)
        }
        kind::HASH_TTL_EARLY if origin == Dialect::Valkey => times(input, |input| {
            pair(input)?;
            input.advance(8)
        }),
        kind::HASH_TTL_EARLY => times(input, field_with_ttl),
        kind::HASH_TTL_LISTPACK_EARLY | kind::HASH_TEMPLATE_LISTPACK_REFERRED => string(input),
        kind::HASH_TTL => {
            input.advance(8)?;
            times(input, field_with_ttl)
        }
        kind::HASH_TTL_LISTPACK => {
            input.advance(8)?;
            string(input)
        }
        kind::HASH_TEMPLATE_VALUES_REFERRED => {
            let number = length(input)?;
            let count = templates.count(number).map_err(|problem| input.error(problem))?;
            (0..count).try_for_each(|_| string(input))
        }
        other => Err(input.error(CodecError::Type(other))),
    }
}

#[inline]
pub(super) fn string<R: Read>(input: &mut Input<R>) -> Result<()> {
    let bytes = string_bytes(input)?;
    input.advance(bytes)
}

/// Reads the head of a string; returns how many bytes follow it.
#[inline]
fn string_bytes<R: Read>(input: &mut Input<R>) -> Result<u64> {
    Ok(match length_or_encoding(input)? {
        RdbLength::Length(length) => length,
        RdbLength::Encoding(0) => 1,
        RdbLength::Encoding(1) => 2,
        RdbLength::Encoding(2) => 4,
        RdbLength::Encoding(3) => {
            let compressed = length(input)?;
            length(input)?;
            compressed
        }
        RdbLength::Encoding(_) => return Err(input.error(CodecError::Malformed("unknown string encoding"))),
    })
}

/// A length where no string is allowed.
pub(super) fn length<R: Read>(input: &mut Input<R>) -> Result<u64> {
    match length_or_encoding(input)? {
        RdbLength::Length(length) => Ok(length),
        RdbLength::Encoding(_) => Err(input.error(CodecError::Malformed("string encoding in place of a length"))),
    }
}

#[inline]
fn length_or_encoding<R: Read>(input: &mut Input<R>) -> Result<RdbLength> {
    let first = input.u8()?;
    Ok(RdbLength::Length(match (first >> 6, first & 0x3f) {
        (0, low) => u64::from(low),
        (1, low) => u64::from(low) << 8 | u64::from(input.u8()?),
        (2, 0) => u64::from(u32::from_be_bytes(input.array()?)),
        (2, 1) => u64::from_be_bytes(input.array()?),
        (2, _) => return Err(input.error(CodecError::Malformed("unknown kind of length"))),
        (_, encoding) => return Ok(RdbLength::Encoding(encoding)),
    }))
}

/// A count, then that many items. Each takes a byte at least, so a false count ends where the stream does.
fn times<R: Read>(input: &mut Input<R>, mut one: impl FnMut(&mut Input<R>) -> Result<()>) -> Result<()> {
    let count = length(input)?;
    (0..count).try_for_each(|_| one(input))
}

fn pair<R: Read>(input: &mut Input<R>) -> Result<()> {
    string(input)?;
    string(input)
}

fn field_with_ttl<R: Read>(input: &mut Input<R>) -> Result<()> {
    length(input)?;
    pair(input)
}

/// Skips the fields of a module's value, each with the number of its kind, and the zero after them.
pub(super) fn module_fields<R: Read>(input: &mut Input<R>) -> Result<()> {
    const END: u64 = 0;
    const SIGNED: u64 = 1;
    const UNSIGNED: u64 = 2;
    const F32: u64 = 3;
    const F64: u64 = 4;
    const STRING: u64 = 5;
    loop {
        match length(input)? {
            END => return Ok(()),
            SIGNED | UNSIGNED => drop(length(input)?),
            F32 => input.advance(4)?,
            F64 => input.advance(8)?,
            STRING => string(input)?,
            _ => return Err(input.error(CodecError::Malformed("field of a module's value"))),
        }
    }
}

/// Names a module's value for messages.
pub(super) fn module_value(id: u64) -> String {
    match module::name(id) {
        name if name == VECTOR_SETS => "a vector set".to_owned(),
        name => format!("a module's value ({name})"),
    }
}

/// Reads past metadata of modules: n, n of (class u32, fields).
pub(super) fn key_metadata<R: Read>(input: &mut Input<R>) -> Result<()> {
    times(input, |input| {
        input.advance(4)?;
        module_fields(input)
    })
}

/// Reads past a template: number; n, n strings. Returns the number and the mark where the strings begin. The strings
/// are kept, so a template larger than `bytes_max` is refused before it is read.
pub(super) fn template<R: Read>(input: &mut Input<R>, bytes_max: usize) -> Result<(u64, usize)> {
    let number = length(input)?;
    let fields = input.mark();
    times(input, |input| {
        let bytes = string_bytes(input)?;
        let read = (input.mark() - fields) as u64;
        if read.saturating_add(bytes) > bytes_max as u64 {
            return Err(input.error(TEMPLATES_TOO_LARGE));
        }
        input.advance(bytes)
    })?;
    Ok((number, fields))
}

/// Reads past an unfinished import of slots: name; n, n of (first, last). Returns the mark where the name ends.
pub(super) fn slot_import<R: Read>(input: &mut Input<R>) -> Result<usize> {
    string(input)?;
    let end = input.mark();
    times(input, |input| lengths(input, 2))?;
    Ok(end)
}

/// ```text
/// nodes x (id 16 bytes as a string, listpack as a string)
/// length, last id (2 lengths)
/// since the second form: first id (2), greatest deleted id (2), entries added
/// groups x (name, last id (2), since the second form: entries read,
///   pending x (id 16 bytes, i64, deliveries)
///   consumers x (name, i64 seen, since the third form: i64 active, pending x id 16 bytes),
///   since the fifth form: released x id 16 bytes)
/// since the fourth form: duration, size,
///   producers x (name, messages x (name, id (2))), messages added, repeats
/// ```
fn stream<R: Read>(input: &mut Input<R>, kind: u8) -> Result<()> {
    const ID_BYTES: u64 = 16;
    times(input, pair)?;
    lengths(input, if kind == kind::STREAM { 3 } else { 8 })?;
    times(input, |input| {
        string(input)?;
        lengths(input, if kind == kind::STREAM { 2 } else { 3 })?;
        times(input, |input| {
            input.advance(ID_BYTES + 8)?;
            length(input).map(drop)
        })?;
        times(input, |input| {
            string(input)?;
            input.advance(if kind >= kind::STREAM_3 { 16 } else { 8 })?;
            times(input, |input| input.advance(ID_BYTES))
        })?;
        if kind >= kind::STREAM_5 { times(input, |input| input.advance(ID_BYTES)) } else { Ok(()) }
    })?;
    if kind < kind::STREAM_4 {
        return Ok(());
    }
    lengths(input, 2)?;
    times(input, |input| {
        string(input)?;
        times(input, |input| {
            string(input)?;
            lengths(input, 2)
        })
    })?;
    lengths(input, 2)
}

/// ```text
/// n, 0 or (1, where the next element goes)
/// n x (index, 0 | 3: string, 1: i64, 2: f64)
/// ```
fn array<R: Read>(input: &mut Input<R>) -> Result<()> {
    const BAD: CodecError = CodecError::Malformed("array");
    let count = length(input)?;
    match length(input)? {
        0 => {}
        1 => drop(length(input)?),
        _ => return Err(input.error(BAD)),
    }
    (0..count).try_for_each(|_| {
        length(input)?;
        match length(input)? {
            0 | 3 => string(input),
            1 | 2 => input.advance(8),
            _ => Err(input.error(BAD)),
        }
    })
}

fn lengths<R: Read>(input: &mut Input<R>, count: usize) -> Result<()> {
    (0..count).try_for_each(|_| length(input).map(drop))
}
