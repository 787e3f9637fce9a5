//! Hashes.

use dormouse_types::{Hash, Item};

use super::{super::CodecError, Limits, Object, Reader, kind};
use crate::codec::reader::{ByteSink, write_rdb_length};
use crate::codec::string::{read_string, write_item, write_plain_string};
use crate::codec::ziplist::{read_ziplist, read_zipmap};

type Result<T> = std::result::Result<T, CodecError>;

const TWICE: CodecError = CodecError::Malformed("hash field twice");

/// A listpack, or `count, (field, value) ...`
pub(super) fn encode(hash: &Hash, out: &mut impl ByteSink) -> u8 {
    if let Some(listpack) = hash.packed() {
        write_plain_string(out, listpack.bytes());
        return kind::HASH_LISTPACK;
    }
    write_rdb_length(out, hash.len() as u64);
    for (field, value) in hash.iter() {
        write_item(out, field);
        write_item(out, value);
    }
    kind::HASH
}

pub(super) fn decode_listpack(reader: &mut Reader<'_>, limits: &Limits) -> Result<Object> {
    let hash = read_string(reader)?.with_bytes(|listpack| Hash::from_listpack(listpack, limits))?;
    Ok(Object::Hash(hash))
}

pub(super) fn decode_plain(reader: &mut Reader<'_>, limits: &Limits) -> Result<Object> {
    let fields = reader.rdb_count(2)?;
    let mut hash = Hash::with_capacity(fields, limits);
    for _ in 0..fields {
        let field = read_string(reader)?;
        let value = read_string(reader)?;
        if !field.with_bytes(|field| value.with_bytes(|value| hash.set(field, value, limits))) {
            return Err(TWICE);
        }
    }
    Ok(Object::Hash(hash))
}

pub(super) fn decode_ziplist(reader: &mut Reader<'_>, limits: &Limits) -> Result<Object> {
    read_string(reader)?.with_bytes(|bytes| from_items(&read_ziplist(bytes)?, limits))
}

pub(super) fn decode_zipmap(reader: &mut Reader<'_>, limits: &Limits) -> Result<Object> {
    read_string(reader)?.with_bytes(|bytes| from_items(&read_zipmap(bytes)?, limits))
}

fn from_items(items: &[Item<'_>], limits: &Limits) -> Result<Object> {
    let (pairs, []) = items.as_chunks::<2>() else { return Err(CodecError::Malformed("hash field without a value")) };
    let mut hash = Hash::with_capacity(pairs.len(), limits);
    for [field, value] in pairs {
        if !field.with_text(|field| value.with_text(|value| hash.set(field, value, limits))) {
            return Err(TWICE);
        }
    }
    Ok(Object::Hash(hash))
}
