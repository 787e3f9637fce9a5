//! RDB's encodings of values, used in chunks, `DUMP` payloads and RDB files.
//!
//! | type | value | written | read |
//! | --- | --- | --- | --- |
//! | 0 | string | yes | yes |
//! | 1 / 10 / 14 / 18 | list: plain / ziplist / quicklist of ziplists / quicklist of listpacks | 18 | all |
//! | 2 / 11 / 20 | set: plain / intset / listpack | all | all |
//! | 4 / 9 / 13 / 16 | hash: plain / zipmap / ziplist / listpack | 4, 16 | all |
//! | 24 / 25 | hash whose fields expire: plain / listpack, see [`newer`] | yes | yes |
//! | 22 | the same of Valkey, see [`newer`] | for Valkey | by [`newer`] |
//! | 3 / 5 / 12 / 17 | sorted set: decimal scores / binary scores / ziplist / listpack | 5, 17 | all |
//! | 15 / 19 / 21 / 26 / 27 | stream, see [`stream`] | 15, 19, 21, 27 | all |
//! | 28 | array, see [`array`] | yes | yes |
//! | 7 | a module's value, see [`module`] | filters and vector sets, for others | filters, documents, vector sets |
//! | 200 | vector set, see [`vector_set`] | yes | yes |
//! | 202 / 203 | filter: Bloom / Cuckoo, see [`filter`] | yes | yes |
//! | 201 | document of JSON, see [`json`] | yes | yes |
//!
//! [`newer`] converts the other hash encodings of newer servers to types 4 and 24. For other servers a value has the form
//! that [`RdbReaders`] chooses.
//!
//! Packed collections are Redis's own bytes in memory too, so they are copied both ways; on the way in they are checked
//! first. Which form a collection has after loading is decided by [`Limits`], not by how it was written.

pub(super) mod array;
mod filter;
mod hash;
pub mod json;
mod list;
pub mod module;
pub mod newer;
pub mod pieces;
mod readers;
mod redis_json;
mod set;
mod sorted_set;
mod stream;
pub mod vector_set;

pub use filter::encode_module as encode_filter_of_module;
pub use readers::RdbReaders;

use dormouse_types::record::Value;
/// For importers, which see messages without a name.
pub use dormouse_types::stream::name_of_message;
use dormouse_types::{Kind, Limits, Malformed, Object, ObjectRef};

use super::{
    CodecError, Reader,
    reader::{ByteSink, write_rdb_length},
    string::{RdbString, read_string, write_integer, write_item, write_plain_string},
};

/// The numbers of the encodings.
pub mod kind {
    pub const STRING: u8 = 0;
    pub const LIST: u8 = 1;
    pub const SET: u8 = 2;
    pub const SORTED_SET_TEXT: u8 = 3;
    pub const HASH: u8 = 4;
    pub const SORTED_SET: u8 = 5;
    pub const HASH_ZIPMAP: u8 = 9;
    pub const LIST_ZIPLIST: u8 = 10;
    pub const SET_INTSET: u8 = 11;
    pub const SORTED_SET_ZIPLIST: u8 = 12;
    pub const HASH_ZIPLIST: u8 = 13;
    pub const LIST_QUICKLIST: u8 = 14;
    pub const HASH_LISTPACK: u8 = 16;
    pub const SORTED_SET_LISTPACK: u8 = 17;
    pub const LIST_QUICKLIST_2: u8 = 18;
    pub const SET_LISTPACK: u8 = 20;
    pub const STREAM: u8 = 15;
    pub const STREAM_2: u8 = 19;
    pub const STREAM_3: u8 = 21;
    /// Redis 8's.
    pub const STREAM_4: u8 = 26;
    pub const STREAM_5: u8 = 27;

    /// Values of modules.
    pub const MODULE_2: u8 = 7;

    // Types that are not supported.
    pub const MODULE: u8 = 6;

    /// Redis 8.10's.
    pub const ARRAY: u8 = 28;

    /// Redis 7.4's, of hashes whose fields expire.
    pub const HASH_TTL: u8 = 24;
    pub const HASH_TTL_LISTPACK: u8 = 25;

    // Other hash encodings of newer servers, see [`super::newer`]. Only release candidates wrote those that are called
    // early; Valkey uses the first number for an encoding of its own.
    pub const HASH_TTL_EARLY: u8 = 22;
    pub const HASH_TTL_LISTPACK_EARLY: u8 = 23;
    pub const HASH_TEMPLATE_LISTPACK: u8 = 29;
    pub const HASH_TEMPLATE_LISTPACK_REFERRED: u8 = 30;
    pub const HASH_TEMPLATE_VALUES: u8 = 31;
    pub const HASH_TEMPLATE_VALUES_REFERRED: u8 = 32;

    /// The numbers from here on are of our own: no other server knows them.
    pub const OWN: u8 = 200;
    /// Vector sets, see [`super::vector_set`].
    pub const VECTOR_SET: u8 = 200;
    /// Documents of JSON, see [`super::json`].
    pub const JSON: u8 = 201;
    /// Filters, see [`super::filter`].
    pub const BLOOM: u8 = 202;
    pub const CUCKOO: u8 = 203;
}

/// Redis 8.10's.
pub const RDB_VERSION_OF_ARRAYS: u16 = 15;

/// A value that has been read.
#[derive(Debug)]
pub enum LoadedValue<'a> {
    Text(RdbString<'a>),
    Object(Object),
}

/// Appends the value of a record and returns the number of its encoding.
#[inline]
pub fn encode_value(value: &Value<'_>, out: &mut impl ByteSink) -> u8 {
    match value {
        Value::Int(number) => write_integer(out, *number),
        Value::Raw(bytes) => write_plain_string(out, bytes),
        Value::Object(object) => return encode_object(*object, out),
    }
    kind::STRING
}

/// Appends the value of an object and returns the number of its encoding.
pub fn encode_object(object: ObjectRef<'_>, out: &mut impl ByteSink) -> u8 {
    match object {
        ObjectRef::Text(text) => {
            write_plain_string(out, text);
            kind::STRING
        }
        ObjectRef::List(list) => list::encode(list, out),
        ObjectRef::Hash(hash) => hash::encode(hash, out),
        ObjectRef::Set(set) => set::encode(set, out),
        ObjectRef::SortedSet(set) => sorted_set::encode(set, out),
        ObjectRef::Stream(stream) => stream::encode(stream, out),
        ObjectRef::Array(array) => array::encode(array, out),
        ObjectRef::Filter(filter) => filter::encode(filter, out),
        ObjectRef::Json(json) => json::encode(json, out),
        ObjectRef::VectorSet(set) => {
            vector_set::encode(set, out);
            kind::VECTOR_SET
        }
    }
}

/// The number of the encoding that a value is written in.
pub fn encoding_of(value: &Value<'_>) -> u8 {
    match value {
        Value::Int(_) | Value::Raw(_) | Value::Object(ObjectRef::Text(_)) => kind::STRING,
        Value::Object(ObjectRef::List(_)) => kind::LIST_QUICKLIST_2,
        Value::Object(ObjectRef::Hash(hash)) => match (hash.is_packed(), hash.expires()) {
            (true, false) => kind::HASH_LISTPACK,
            (true, true) => kind::HASH_TTL_LISTPACK,
            (false, true) => kind::HASH_TTL,
            (false, false) => kind::HASH,
        },
        Value::Object(ObjectRef::Set(set)) if set.integers().is_some() => kind::SET_INTSET,
        Value::Object(ObjectRef::Set(set)) if set.packed().is_some() => kind::SET_LISTPACK,
        Value::Object(ObjectRef::Set(_)) => kind::SET,
        Value::Object(ObjectRef::SortedSet(set)) if set.packed().is_some() => kind::SORTED_SET_LISTPACK,
        Value::Object(ObjectRef::SortedSet(_)) => kind::SORTED_SET,
        Value::Object(ObjectRef::Stream(stream)) => stream::form_of(stream),
        Value::Object(ObjectRef::Array(_)) => kind::ARRAY,
        Value::Object(ObjectRef::Filter(filter)) => filter::encoding_of(filter),
        Value::Object(ObjectRef::Json(_)) => kind::JSON,
        Value::Object(ObjectRef::VectorSet(_)) => kind::VECTOR_SET,
    }
}

/// As [`encode_object`], element by element where it would be packed: the forms that every version of Redis reads. The
/// expiries of a hash's fields are left out, as those versions know none. They have no arrays either, see
/// [`RdbReaders::lacks`].
pub fn encode_unpacked(object: ObjectRef<'_>, out: &mut impl ByteSink) -> u8 {
    match object {
        ObjectRef::List(list) => {
            write_rdb_length(out, list.len() as u64);
            list.iter().for_each(|element| write_item(out, element));
            kind::LIST
        }
        ObjectRef::Hash(hash) => {
            write_rdb_length(out, hash.len() as u64);
            for (field, value) in hash.iter() {
                write_item(out, field);
                write_item(out, value);
            }
            kind::HASH
        }
        ObjectRef::Set(set) => {
            write_rdb_length(out, set.len() as u64);
            set.iter().for_each(|member| write_item(out, member));
            kind::SET
        }
        ObjectRef::SortedSet(set) => {
            write_rdb_length(out, set.len() as u64);
            for (member, score) in set.iter().rev() {
                write_item(out, member);
                out.extend_from_slice(&score.to_le_bytes());
            }
            kind::SORTED_SET
        }
        ObjectRef::Stream(stream) => stream::encode_for_others(kind::STREAM, stream, out),
        ObjectRef::VectorSet(set) => {
            vector_set::encode_module(set, out);
            kind::MODULE_2
        }
        ObjectRef::Text(_) | ObjectRef::Array(_) | ObjectRef::Filter(_) => encode_object(object, out),
        // Other servers have no such type.
        ObjectRef::Json(json) => json::encode_text(json, out),
    }
}

/// The number of the encoding that [`encode_unpacked`] writes.
pub fn unpacked_encoding_of(object: ObjectRef<'_>) -> u8 {
    match object {
        ObjectRef::List(_) => kind::LIST,
        ObjectRef::Hash(_) => kind::HASH,
        ObjectRef::Set(_) => kind::SET,
        ObjectRef::SortedSet(_) => kind::SORTED_SET,
        ObjectRef::Stream(_) => kind::STREAM,
        ObjectRef::Filter(filter) => filter::encoding_of(filter),
        ObjectRef::VectorSet(_) => kind::MODULE_2,
        ObjectRef::Text(_) => kind::STRING,
        ObjectRef::Array(_) => kind::ARRAY,
        ObjectRef::Json(_) => kind::STRING,
    }
}

/// Reads a value whose encoding has the number `kind`; the reader is after it then.
pub fn decode_value<'a>(kind: u8, reader: &mut Reader<'a>, limits: &Limits) -> Result<LoadedValue<'a>, CodecError> {
    let object = match kind {
        kind::STRING => return read_string(reader).map(LoadedValue::Text),
        kind::LIST => list::decode_plain(reader, limits)?,
        kind::LIST_ZIPLIST => list::decode_ziplist(reader, limits)?,
        kind::LIST_QUICKLIST => list::decode_quicklist(reader, limits)?,
        kind::LIST_QUICKLIST_2 => list::decode_quicklist_2(reader, limits)?,
        kind::HASH => hash::decode_plain(reader, limits)?,
        kind::HASH_ZIPMAP => hash::decode_zipmap(reader, limits)?,
        kind::HASH_ZIPLIST => hash::decode_ziplist(reader, limits)?,
        kind::HASH_LISTPACK => hash::decode_listpack(reader, limits)?,
        kind::HASH_TTL => hash::decode_with_expiries(reader, limits)?,
        kind::HASH_TTL_LISTPACK => hash::decode_listpack_with_expiries(reader, limits)?,
        kind::SET => set::decode_plain(reader, limits)?,
        kind::SET_INTSET => set::decode_intset(reader, limits)?,
        kind::SET_LISTPACK => set::decode_listpack(reader, limits)?,
        kind::SORTED_SET_TEXT => sorted_set::decode_text(reader, limits)?,
        kind::SORTED_SET => sorted_set::decode_binary(reader, limits)?,
        kind::SORTED_SET_ZIPLIST => sorted_set::decode_ziplist(reader, limits)?,
        kind::SORTED_SET_LISTPACK => sorted_set::decode_listpack(reader, limits)?,
        kind::STREAM | kind::STREAM_2 | kind::STREAM_3 | kind::STREAM_4 | kind::STREAM_5 => {
            stream::decode(kind, reader)?
        }
        kind::ARRAY => array::decode(reader)?,
        kind::MODULE_2 => decode_module(reader, limits)?,
        kind::BLOOM | kind::CUCKOO => filter::decode(kind, reader)?,
        kind::JSON => json::decode(reader)?,
        kind::VECTOR_SET => vector_set::decode(reader, limits)?,
        other => return Err(CodecError::Type(other)),
    };
    if object.as_ref().is_empty() && object.as_ref().kind() != Kind::Stream {
        return Err(CodecError::Malformed("empty collection"));
    }
    Ok(LoadedValue::Object(object))
}

/// The name, as `TYPE` replies it, of the type of a value that some readers [lack](RdbReaders::lacks), by its encoding.
pub fn type_name(encoding: u8) -> &'static str {
    match encoding {
        kind::ARRAY => Kind::Array,
        kind::BLOOM => Kind::Bloom,
        kind::CUCKOO => Kind::Cuckoo,
        kind::JSON => Kind::Json,
        kind::VECTOR_SET => Kind::VectorSet,
        _ => Kind::String,
    }
    .name()
}

/// Whether [`decode_value`] reads values of the module's type with this id.
pub fn is_known_module(id: u64) -> bool {
    let (name, version) = module::without_version(id);
    vector_set::is_of_vector_sets(id) || filter::is_module(name) || redis_json::is_module(name, version)
}

/// Whether a module's value is a document.
pub(super) fn is_document(module_id: u64) -> bool {
    let (name, version) = module::without_version(module_id);
    redis_json::is_module(name, version)
}

/// Reads a value of a module, from its id on.
fn decode_module(reader: &mut Reader<'_>, limits: &Limits) -> Result<Object, CodecError> {
    let id = reader.rdb_plain_length()?;
    if vector_set::is_of_vector_sets(id) {
        return vector_set::decode_module(reader, limits);
    }
    let (id, version) = module::without_version(id);
    let mut fields = module::Fields(reader);
    let object = match id {
        id if filter::is_module(id) => filter::decode_module(id, version, &mut fields)?,
        id if redis_json::is_module(id, version) => redis_json::decode_module(version, &mut fields)?,
        _ => return Err(CodecError::Type(kind::MODULE_2)),
    };
    fields.end()?;
    Ok(object)
}

impl From<Malformed> for CodecError {
    fn from(Malformed(what): Malformed) -> Self {
        CodecError::Malformed(what)
    }
}

#[cfg(test)]
mod tests;
