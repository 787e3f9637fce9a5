//! Sets.

use dormouse_types::Set;

use super::{super::CodecError, Limits, Object, Reader, kind};
use crate::codec::reader::{ByteSink, write_rdb_length};
use crate::codec::string::{read_string, write_item, write_plain_string};

type Result<T> = std::result::Result<T, CodecError>;

/// An intset, a listpack, or `count, member ...`
pub(super) fn encode(set: &Set, out: &mut impl ByteSink) -> u8 {
    if let Some(integers) = set.integers() {
        write_rdb_length(out, (integers.header().len() + integers.numbers().len()) as u64);
        out.extend_from_slice(&integers.header());
        out.extend_from_slice(integers.numbers());
        return kind::SET_INTSET;
    }
    if let Some(listpack) = set.packed() {
        write_plain_string(out, listpack.bytes());
        return kind::SET_LISTPACK;
    }
    write_rdb_length(out, set.len() as u64);
    set.iter().for_each(|member| write_item(out, member));
    kind::SET
}

pub(super) fn decode_intset(reader: &mut Reader<'_>, limits: &Limits) -> Result<Object> {
    let set = read_string(reader)?.with_bytes(|intset| Set::from_intset(intset, limits))?;
    Ok(Object::Set(set))
}

pub(super) fn decode_listpack(reader: &mut Reader<'_>, limits: &Limits) -> Result<Object> {
    let set = read_string(reader)?.with_bytes(|listpack| Set::from_listpack(listpack, limits))?;
    Ok(Object::Set(set))
}

pub(super) fn decode_plain(reader: &mut Reader<'_>, limits: &Limits) -> Result<Object> {
    let members = reader.rdb_count(1)?;
    let mut set = Set::with_capacity(members, limits);
    for _ in 0..members {
        if !read_string(reader)?.with_bytes(|member| set.add(member, limits)) {
            return Err(CodecError::Malformed("set member twice"));
        }
    }
    Ok(Object::Set(set))
}
