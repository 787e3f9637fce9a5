//! Hashes.

use dormouse_types::listpack::Listpack;
use dormouse_types::{Hash, Item, SetExpiry};

use super::{super::CodecError, Limits, Object, Reader, kind};
use crate::codec::reader::{ByteSink, write_rdb_length};
use crate::codec::string::{read_string, write_item, write_plain_string};
use crate::codec::ziplist::{read_ziplist, read_zipmap};

type Result<T> = std::result::Result<T, CodecError>;

const TWICE: CodecError = CodecError::Malformed("hash field twice");

/// A listpack, or `count, (field, value) ...`; if fields expire, see [`super::newer`].
pub(super) fn encode(hash: &Hash, out: &mut impl ByteSink) -> u8 {
    if let Some(listpack) = hash.packed() {
        write_plain_string(out, listpack.bytes());
        return kind::HASH_LISTPACK;
    }
    let earliest = || hash.entries().filter_map(|(_, _, expiry)| expiry).min().unwrap_or(0);
    if let Some(listpack) = hash.packed_with_expiries() {
        if !hash.expires() {
            // None does any more: a form that every server reads.
            let items: Vec<Item<'_>> = hash.iter().flat_map(|(field, value)| [field, value]).collect();
            let mut pairs = Listpack::new();
            pairs.push_all(items.into_iter());
            write_plain_string(out, pairs.view().bytes());
            return kind::HASH_LISTPACK;
        }
        out.extend_from_slice(&earliest().to_le_bytes());
        write_plain_string(out, &listpack.to_bytes());
        return kind::HASH_TTL_LISTPACK;
    }
    if hash.expires() {
        let earliest = earliest();
        out.extend_from_slice(&earliest.to_le_bytes());
        write_rdb_length(out, hash.len() as u64);
        for (field, value, expiry) in hash.entries() {
            write_expiry(out, expiry, earliest);
            write_item(out, field);
            write_item(out, value);
        }
        return kind::HASH_TTL;
    }
    write_rdb_length(out, hash.len() as u64);
    for (field, value) in hash.iter() {
        write_item(out, field);
        write_item(out, value);
    }
    kind::HASH
}

/// The form of Valkey 9, for a hash whose fields expire.
pub(super) fn encode_for_valkey(hash: &Hash, out: &mut impl ByteSink) -> u8 {
    const NONE: i64 = -1;
    write_rdb_length(out, hash.len() as u64);
    for (field, value, expiry) in hash.entries() {
        write_item(out, field);
        write_item(out, value);
        let expiry = expiry.map_or(NONE, |at| i64::try_from(at).unwrap_or(i64::MAX));
        out.extend_from_slice(&expiry.to_le_bytes());
    }
    kind::HASH_TTL_EARLY
}

pub(super) fn decode_listpack(reader: &mut Reader<'_>, limits: &Limits) -> Result<Object> {
    let hash = read_string(reader)?.with_bytes(|listpack| Hash::from_listpack(listpack, limits))?;
    Ok(Object::Hash(hash))
}

/// The expiry of a field relative to one that is not later.
pub(super) fn write_expiry(out: &mut impl ByteSink, expiry: Option<u64>, earliest: u64) {
    write_rdb_length(out, expiry.map_or(0, |expiry| expiry.saturating_sub(earliest).saturating_add(1)));
}

/// Reads what [`write_expiry`] wrote.
pub(super) fn read_expiry(reader: &mut Reader<'_>, earliest: u64) -> Result<SetExpiry> {
    match reader.rdb_plain_length()? {
        0 => Ok(SetExpiry::Drop),
        after => Ok(SetExpiry::At(earliest.saturating_add(after - 1))),
    }
}

pub(super) fn decode_with_expiries(reader: &mut Reader<'_>, limits: &Limits) -> Result<Object> {
    let earliest = reader.u64_le()?;
    let fields = reader.rdb_count(3)?;
    let mut hash = Hash::with_capacity(fields, limits);
    for _ in 0..fields {
        let expiry = read_expiry(reader, earliest)?;
        let field = read_string(reader)?;
        let value = read_string(reader)?;
        if !field.with_bytes(|field| value.with_bytes(|value| hash.set_with(field, value, expiry, limits))) {
            return Err(TWICE);
        }
    }
    Ok(Object::Hash(hash))
}

pub(super) fn decode_listpack_with_expiries(reader: &mut Reader<'_>, limits: &Limits) -> Result<Object> {
    // The earliest expiry is in the listpack too.
    reader.take(8)?;
    let hash = read_string(reader)?.with_bytes(|listpack| Hash::from_listpack_with_expiries(listpack, limits))?;
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
