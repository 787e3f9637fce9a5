//! Sorted sets.

use dormouse_types::{Inserted, Item, SortedSet};

use super::{super::CodecError, Limits, Object, Reader, kind};
use crate::codec::reader::{ByteSink, write_rdb_length};
use crate::codec::string::{read_string, write_item, write_plain_string};
use crate::codec::ziplist::read_ziplist;

type Result<T> = std::result::Result<T, CodecError>;

const SCORE: CodecError = CodecError::Malformed("score");

/// A listpack, or `count, (member, score f64 LE) ...` from the highest to the lowest, as Redis has it.
pub(super) fn encode(set: &SortedSet, out: &mut impl ByteSink) -> u8 {
    if let Some(listpack) = set.packed() {
        write_plain_string(out, listpack.bytes());
        return kind::SORTED_SET_LISTPACK;
    }
    write_rdb_length(out, set.len() as u64);
    for (member, score) in set.iter().rev() {
        write_item(out, member);
        out.extend_from_slice(&score.to_le_bytes());
    }
    kind::SORTED_SET
}

pub(super) fn decode_listpack(reader: &mut Reader<'_>, limits: &Limits) -> Result<Object> {
    let set = read_string(reader)?.with_bytes(|listpack| SortedSet::from_listpack(listpack, limits))?;
    Ok(Object::SortedSet(set))
}

pub(super) fn decode_binary(reader: &mut Reader<'_>, limits: &Limits) -> Result<Object> {
    decode_plain(reader, limits, 9, |reader| reader.array().map(f64::from_le_bytes))
}

/// Scores as text of up to 252 bytes after its length in one byte, of which 253 to 255 say NaN, +inf and -inf.
pub(super) fn decode_text(reader: &mut Reader<'_>, limits: &Limits) -> Result<Object> {
    decode_plain(reader, limits, 2, |reader| match reader.u8()? {
        253 => Err(SCORE),
        254 => Ok(f64::INFINITY),
        255 => Ok(f64::NEG_INFINITY),
        length => parse_score(reader.take(usize::from(length))?),
    })
}

fn decode_plain<'a>(
    reader: &mut Reader<'a>,
    limits: &Limits,
    bytes_each: usize,
    read_score: impl Fn(&mut Reader<'a>) -> Result<f64>,
) -> Result<Object> {
    let members = reader.rdb_count(bytes_each)?;
    let mut set = SortedSet::with_capacity(members, limits);
    for _ in 0..members {
        let member = read_string(reader)?;
        let score = read_score(reader)?;
        member.with_bytes(|member| insert(&mut set, score, member, limits))?;
    }
    Ok(Object::SortedSet(set))
}

pub(super) fn decode_ziplist(reader: &mut Reader<'_>, limits: &Limits) -> Result<Object> {
    read_string(reader)?.with_bytes(|bytes| {
        let items = read_ziplist(bytes)?;
        let (pairs, []) = items.as_chunks::<2>() else { return Err(CodecError::Malformed("member without a score")) };
        let mut set = SortedSet::with_capacity(pairs.len(), limits);
        for [member, score] in pairs {
            let score = match score {
                Item::Int(score) => *score as f64,
                Item::Bytes(text) => parse_score(text)?,
            };
            member.with_text(|member| insert(&mut set, score, member, limits))?;
        }
        Ok(Object::SortedSet(set))
    })
}

fn parse_score(text: &[u8]) -> Result<f64> {
    fast_float2::parse(text).map_err(|_| SCORE)
}

fn insert(set: &mut SortedSet, score: f64, member: &[u8], limits: &Limits) -> Result<()> {
    if score.is_nan() {
        return Err(SCORE);
    }
    match set.insert(score, member, limits) {
        Inserted::Added => Ok(()),
        Inserted::Updated(_) | Inserted::Same => Err(CodecError::Malformed("sorted set member twice")),
    }
}
