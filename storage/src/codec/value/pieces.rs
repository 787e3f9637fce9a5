//! Large values in pieces: each is written and read in steps that take a bounded time.
//!
//! A value is *large* when it takes more than 64 KiB of memory (see [`Sizes`]) and is a table, a list of several
//! listpacks or a text. A piece holds some of its elements, one after the other without a count:
//!
//! | type | element |
//! | --- | --- |
//! | 0, 201 | a byte of the text, of the document |
//! | 2 | member |
//! | 4 | field, value |
//! | 5 | member, score f64 LE |
//! | 18 | node of a quicklist: 1, string or 2, listpack |
//! | 21, 27 | part of a stream, see [`super::stream`] |
//! | 202, 203 | a byte of the filter, its head first |
//! | 24 | expiry (a length: Unix milliseconds and 1 more, 0: none), field, value |
//! | 28 | head, then index, tag, value, see [`super::array`] |
//! | 200 | head or node of a vector set, see [`super::vector_set`] |
//!
//! So the number of all elements, followed by all pieces of a value, is the value as RDB has it, except of a stream and a vector
//! set. Of a hash whose fields expire, RDB has an earliest expiry before the number, which is 0 here. The head of an array is none of
//! the elements that RDB counts.
//!
//! Writing: [`begin`] takes an [`Outline`] at one moment and makes the value remember it, [`take`] writes the elements of
//! that moment some at a time, while the value goes on changing. A text and a document of
//! JSON remember nothing: they are copied at once, and cut.
//! Reading: an [`Assembly`] takes one piece after the other.

use dormouse_types::entry::{Entry, Field, Member, Scored};
use dormouse_types::list::ChunkRef;
use dormouse_types::segment::{Captured, WriteEntry};
use dormouse_types::sorted_set::{SortedSet, Unordered};
use dormouse_types::{Array, Hash, Item, Limits, List, Object, ObjectMut, ObjectRef, Set};

use super::filter::{self, PartialFilter};
use super::stream::{self, PartialStream};
use super::vector_set::{self, PartialVectorSet};
use super::{RdbReaders, array, hash, json, kind, list};
use crate::codec::reader::{ByteSink, write_rdb_length};
use crate::codec::string::{read_string, skip_string, write_item, write_plain_string};
use crate::codec::{CodecError, Reader};

/// The size from which a value is large, and the sizes of pieces and steps. Tests make them small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Values that take more memory than this are stored in pieces.
    pub large_bytes: usize,
    /// A piece ends when it has this many bytes, before compression.
    pub piece_bytes: usize,
    /// Bytes written in one go under a lock.
    pub step_bytes: usize,
}

impl Sizes {
    pub const DEFAULT: Sizes = Sizes { large_bytes: 64 << 10, piece_bytes: 256 << 10, step_bytes: 64 << 10 };

    /// A change first writes at most this fraction of a step of the old value: one part in `CELLS_IN_STEP`.
    const CELLS_IN_STEP: usize = 16;
}

impl Default for Sizes {
    fn default() -> Self {
        Sizes::DEFAULT
    }
}

/// The earliest expiry of a hash in pieces.
const EARLIEST: u64 = 0;

/// Room is made ahead for no more elements than this, whatever a stored value claims to have.
const ROOM_MAX: u64 = 1 << 20;

/// A value in pieces, without its elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outline {
    /// The number of the encoding.
    pub kind: u8,
    /// How many elements all pieces hold together.
    pub elements: u64,
}

/// Whether a value is stored in pieces.
pub fn is_large(object: ObjectRef<'_>, sizes: &Sizes) -> bool {
    let in_parts = match object {
        ObjectRef::Text(_) => true,
        ObjectRef::List(list) => list.chunks().len() > 1,
        ObjectRef::Hash(hash) => !hash.is_packed(),
        ObjectRef::Set(set) => set.integers().is_none() && set.packed().is_none(),
        ObjectRef::SortedSet(set) => set.packed().is_none(),
        ObjectRef::Stream(_) | ObjectRef::Filter(_) | ObjectRef::Json(_) | ObjectRef::VectorSet(_) => true,
        ObjectRef::Array(array) => !array.is_packed(),
    };
    in_parts && object.heap_bytes() > sizes.large_bytes
}

/// Begins a capture of a large value: it remembers its present state until [`take`] has written all of it. `id` tells
/// this moment from others. `None`: the value cannot be captured.
pub fn begin(object: ObjectMut<'_>, id: u64, sizes: &Sizes) -> Option<Outline> {
    let cell = sizes.step_bytes / Sizes::CELLS_IN_STEP;
    let (kind, elements) = match object {
        ObjectMut::Text(_) | ObjectMut::Json(_) => return None,
        ObjectMut::List(list) => (kind::LIST_QUICKLIST_2, list.begin_capture(id)?),
        ObjectMut::Hash(hash) => {
            // A field that comes to expire later does so in a cell that is put aside before.
            let (kind, write): (u8, WriteEntry<Field>) = match hash.expires() {
                true => (kind::HASH_TTL, write_field_with_expiry),
                false => (kind::HASH, write_field),
            };
            hash.table_mut()?.begin_capture(id, cell, write);
            (kind, hash.len())
        }
        ObjectMut::Set(set) => {
            set.table_mut()?.begin_capture(id, cell, write_member);
            (kind::SET, set.len())
        }
        ObjectMut::SortedSet(set) => {
            set.table_mut()?.begin_capture(id, cell, write_scored);
            (kind::SORTED_SET, set.len())
        }
        ObjectMut::Stream(stream) => (stream::form_of(stream), stream.begin_capture(id)),
        ObjectMut::Array(array) => (kind::ARRAY, array.begin_capture(id)?),
        ObjectMut::Filter(filter) => (filter::encoding_of(filter), filter.begin_capture(id, cell)),
        ObjectMut::VectorSet(set) => {
            let mut head = Vec::new();
            vector_set::write_head(&set.head(), &mut head);
            (kind::VECTOR_SET, set.begin_capture(id, head, vector_set::write_node))
        }
    };
    Some(Outline { kind, elements: elements as u64 })
}

/// The whole of a value that remembers nothing, which is one run of bytes: the number of its encoding, and the bytes.
pub fn run_of(object: ObjectRef<'_>) -> Option<(u8, &[u8])> {
    match object {
        ObjectRef::Text(text) => Some((kind::STRING, text)),
        ObjectRef::Json(json) => Some((kind::JSON, json.bytes())),
        _ => None,
    }
}

/// Whether a value with this number is one run of bytes, which can be cut anywhere.
pub fn is_run(kind: u8) -> bool {
    matches!(kind, kind::STRING | kind::JSON)
}

/// Appends the next elements of the moment `id`, until `out` holds about `bytes_max` bytes. `None`: the value remembers no
/// such moment.
pub fn take(object: ObjectMut<'_>, id: u64, bytes_max: usize, out: &mut Vec<u8>) -> Option<Captured> {
    match object {
        ObjectMut::Text(_) | ObjectMut::Json(_) => None,
        ObjectMut::List(list) => {
            let mut entries = 0;
            let is_done = list.capture_some(id, |chunk| {
                write_node(chunk, out);
                entries += 1;
                out.len() >= bytes_max
            })?;
            Some(Captured { entries, is_done })
        }
        ObjectMut::Hash(hash) => hash.table_mut()?.capture_some(id, bytes_max, out),
        ObjectMut::Set(set) => set.table_mut()?.capture_some(id, bytes_max, out),
        ObjectMut::SortedSet(set) => set.table_mut()?.capture_some(id, bytes_max, out),
        ObjectMut::Stream(stream) => {
            let mut entries = 0;
            let is_done = stream.capture_some(id, |part| {
                stream::write_part(part, out);
                entries += 1;
                out.len() >= bytes_max
            })?;
            Some(Captured { entries, is_done })
        }
        ObjectMut::Array(array) => {
            let mut entries = 0;
            let is_done = array.capture_some(id, |part| {
                array::write_part(part, out);
                entries += 1;
                out.len() >= bytes_max
            })?;
            Some(Captured { entries, is_done })
        }
        ObjectMut::Filter(filter) => {
            let mut entries = 0;
            let is_done = filter.capture_some(id, |bytes| {
                out.extend_from_slice(bytes);
                entries += bytes.len();
                out.len() >= bytes_max
            })?;
            Some(Captured { entries, is_done })
        }
        ObjectMut::VectorSet(set) => set.capture_some(id, bytes_max, out),
    }
}

/// The moment that a value remembers.
pub fn remembered(object: ObjectRef<'_>) -> Option<u64> {
    match object {
        ObjectRef::Text(_) | ObjectRef::Json(_) => None,
        ObjectRef::List(list) => list.captured_id(),
        ObjectRef::Hash(hash) => hash.captured_id(),
        ObjectRef::Set(set) => set.captured_id(),
        ObjectRef::SortedSet(set) => set.captured_id(),
        ObjectRef::Stream(stream) => stream.captured_id(),
        ObjectRef::Array(array) => array.captured_id(),
        ObjectRef::Filter(filter) => filter.captured_id(),
        ObjectRef::VectorSet(set) => set.captured_id(),
    }
}

/// Bytes that a value keeps of its captured state, beside its present one.
pub fn aside_bytes(object: ObjectRef<'_>) -> usize {
    match object {
        ObjectRef::Text(_) | ObjectRef::Json(_) => 0,
        ObjectRef::List(list) => list.aside_bytes(),
        ObjectRef::Hash(hash) => hash.aside_bytes(),
        ObjectRef::Set(set) => set.aside_bytes(),
        ObjectRef::SortedSet(set) => set.aside_bytes(),
        ObjectRef::Stream(stream) => stream.aside_bytes(),
        ObjectRef::Array(array) => array.aside_bytes(),
        ObjectRef::Filter(filter) => filter.aside_bytes(),
        ObjectRef::VectorSet(set) => set.aside_bytes(),
    }
}

/// Ends a value's capture.
pub fn end(object: ObjectMut<'_>) {
    match object {
        ObjectMut::Text(_) | ObjectMut::Json(_) => {}
        ObjectMut::List(list) => list.end_capture(),
        ObjectMut::Hash(hash) => hash.table_mut().into_iter().for_each(|table| table.end_capture()),
        ObjectMut::Set(set) => set.table_mut().into_iter().for_each(|table| table.end_capture()),
        ObjectMut::SortedSet(set) => set.table_mut().into_iter().for_each(|table| table.end_capture()),
        ObjectMut::Stream(stream) => stream.end_capture(),
        ObjectMut::Array(array) => array.end_capture(),
        ObjectMut::Filter(filter) => filter.end_capture(),
        ObjectMut::VectorSet(set) => set.end_capture(),
    }
}

fn write_field(field: &Field, out: &mut Vec<u8>) {
    write_item(out, Item::Bytes(field.key()));
    write_item(out, Item::Bytes(field.value()));
}

/// Expiries count from 1970: those of the moment are not known together.
fn write_field_with_expiry(field: &Field, out: &mut Vec<u8>) {
    hash::write_expiry(out, field.expiry(), EARLIEST);
    write_field(field, out);
}

fn write_member(member: &Member, out: &mut Vec<u8>) {
    write_item(out, Item::Bytes(member.key()));
}

fn write_scored(scored: &Scored, out: &mut Vec<u8>) {
    write_item(out, Item::Bytes(scored.member()));
    out.extend_from_slice(&scored.score().to_le_bytes());
}

fn write_node(chunk: ChunkRef<'_>, out: &mut Vec<u8>) {
    match chunk {
        ChunkRef::Plain(value) => {
            write_rdb_length(out, list::PLAIN);
            write_plain_string(out, value);
        }
        ChunkRef::Packed(listpack) => {
            write_rdb_length(out, list::PACKED);
            write_plain_string(out, listpack.bytes());
        }
        ChunkRef::Short(short) => {
            write_rdb_length(out, list::PACKED);
            write_plain_string(out, &short.to_listpack_bytes());
        }
    }
}

/// A value that is read piece by piece.
pub struct Assembly {
    outline: Outline,
    left: u64,
    value: Partial,
}

enum Partial {
    Text(Vec<u8>),
    Json(Vec<u8>),
    List(List),
    Hash(Hash),
    HashWithExpiries(Hash),
    Set(Set),
    SortedSet(Unordered),
    Stream(PartialStream),
    /// An array, after its head.
    Array(Option<Array>),
    Filter(PartialFilter),
    VectorSet(PartialVectorSet),
}

impl Assembly {
    /// # Errors
    /// When a value of that kind cannot be in pieces.
    pub fn new(outline: Outline, limits: &Limits) -> Result<Self, CodecError> {
        let room = outline.elements.min(ROOM_MAX) as usize;
        let value = match outline.kind {
            kind::STRING => Partial::Text(Vec::with_capacity(room)),
            kind::JSON => Partial::Json(Vec::with_capacity(room)),
            kind::LIST_QUICKLIST_2 => Partial::List(List::new()),
            kind::HASH => Partial::Hash(Hash::with_capacity(room, limits)),
            kind::HASH_TTL => Partial::HashWithExpiries(Hash::with_capacity(room, limits)),
            kind::SET => Partial::Set(Set::with_capacity(room, limits)),
            kind::SORTED_SET => Partial::SortedSet(SortedSet::unordered(room, limits)),
            kind::STREAM_3 | kind::STREAM_5 => Partial::Stream(PartialStream::default()),
            kind::ARRAY => Partial::Array(None),
            kind::BLOOM | kind::CUCKOO => Partial::Filter(PartialFilter::new(outline.kind)),
            kind::VECTOR_SET => Partial::VectorSet(PartialVectorSet::default()),
            other => return Err(CodecError::Type(other)),
        };
        Ok(Assembly { outline, left: outline.elements, value })
    }

    /// Adds the elements of a piece.
    ///
    /// # Errors
    /// When they are malformed, too many, or repeated.
    pub fn push(&mut self, piece: &[u8], limits: &Limits) -> Result<(), CodecError> {
        const TWICE: CodecError = CodecError::Malformed("element twice in a value in pieces");
        let mut reader = Reader::new(piece);
        if let Partial::Text(bytes) | Partial::Json(bytes) = &mut self.value {
            self.left = self.left.checked_sub(piece.len() as u64).ok_or(TOO_MANY)?;
            bytes.extend_from_slice(piece);
            return Ok(());
        }
        if let Partial::Filter(filter) = &mut self.value {
            self.left = self.left.checked_sub(piece.len() as u64).ok_or(TOO_MANY)?;
            return filter.push(piece);
        }
        while !reader.is_empty() {
            self.left = self.left.checked_sub(1).ok_or(TOO_MANY)?;
            let is_new = match &mut self.value {
                Partial::Text(_) | Partial::Filter(_) | Partial::Json(_) => true,
                Partial::List(list) => {
                    list::read_node(&mut reader, list)?;
                    true
                }
                Partial::Hash(hash) => {
                    let (field, value) = (read_string(&mut reader)?, read_string(&mut reader)?);
                    field.with_bytes(|field| value.with_bytes(|value| hash.set(field, value, limits)))
                }
                Partial::HashWithExpiries(hash) => {
                    let expiry = hash::read_expiry(&mut reader, EARLIEST)?;
                    let (field, value) = (read_string(&mut reader)?, read_string(&mut reader)?);
                    field.with_bytes(|field| value.with_bytes(|value| hash.set_with(field, value, expiry, limits)))
                }
                Partial::Set(set) => read_string(&mut reader)?.with_bytes(|member| set.add(member, limits)),
                Partial::SortedSet(set) => {
                    let member = read_string(&mut reader)?;
                    let score = reader.array().map(f64::from_le_bytes)?;
                    if score.is_nan() {
                        return Err(CodecError::Malformed("score"));
                    }
                    member.with_bytes(|member| set.add(score, member, limits))
                }
                Partial::Stream(stream) => stream.read_part(&mut reader)?,
                Partial::Array(Some(array)) => array::read_element(&mut reader, array)?,
                Partial::Array(before) => {
                    array::read_head(&mut reader, before.insert(Array::new()))?;
                    true
                }
                Partial::VectorSet(set) => {
                    set.read_part(&mut reader, limits)?;
                    true
                }
            };
            if !is_new {
                return Err(TWICE);
            }
        }
        Ok(())
    }

    /// The value, after its last piece.
    ///
    /// # Errors
    /// When elements are missing.
    pub fn finish(self, limits: &Limits) -> Result<Object, CodecError> {
        if self.left != 0 || self.outline.elements == 0 {
            return Err(CodecError::Malformed("number of elements of a value in pieces"));
        }
        Ok(match self.value {
            Partial::Text(text) => Object::Text(text),
            Partial::Json(bytes) => json::of_bytes(&bytes)?,
            Partial::List(mut list) => {
                list.loaded(limits);
                Object::List(list)
            }
            Partial::Hash(hash) | Partial::HashWithExpiries(hash) => Object::Hash(hash),
            Partial::Set(set) => Object::Set(set),
            Partial::SortedSet(set) => Object::SortedSet(set.finish()),
            Partial::Stream(stream) => stream.finish()?,
            Partial::Array(array) => Object::Array(array.filter(|array| !array.is_empty()).ok_or(NO_ELEMENTS)?),
            Partial::Filter(filter) => filter.finish()?,
            Partial::VectorSet(set) => set.finish()?,
        })
    }
}

/// Appends what RDB has of a value before its pieces. All pieces after it are the value.
///
/// Those of a stream and of a vector set are others than in RDB, which [`is_passed_on`] says.
pub fn write_outline(outline: Outline, out: &mut impl ByteSink) {
    if outline.kind == kind::HASH_TTL {
        out.extend_from_slice(&EARLIEST.to_le_bytes());
    }
    let heads = u64::from(outline.kind == kind::ARRAY);
    write_rdb_length(out, outline.elements.saturating_sub(heads));
}

/// Whether the readers know a value as its outline and its pieces have it.
pub fn is_passed_on(outline: Outline, target: RdbReaders) -> bool {
    match outline.kind {
        kind::STREAM_3 | kind::STREAM_5 => false,
        // An older version is refused, which the whole value shows.
        kind::HASH_TTL => target.knows(kind::HASH_TTL) && target.version >= 11,
        encoding => target.knows(encoding),
    }
}

/// Counts the elements of a piece of a value that is passed on as it is. `is_first`: no piece comes before. `None`: a part of a
/// stream or of a vector set ends where those before it say, so only an [`Assembly`] counts them.
///
/// # Errors
/// When they are malformed.
pub fn count_elements(kind: u8, piece: &[u8], is_first: bool) -> Result<Option<u64>, CodecError> {
    let (mut reader, mut count) = (Reader::new(piece), 0);
    if kind == kind::ARRAY && is_first {
        array::skip_head(&mut reader)?;
        count += 1;
    }
    while !reader.is_empty() {
        match kind {
            kind::STRING | kind::BLOOM | kind::CUCKOO | kind::JSON => return Ok(Some(piece.len() as u64)),
            kind::STREAM_3 | kind::STREAM_5 | kind::VECTOR_SET => return Ok(None),
            kind::LIST_QUICKLIST_2 => {
                reader.rdb_plain_length()?;
                skip_string(&mut reader)?;
            }
            kind::HASH_TTL => {
                reader.rdb_plain_length()?;
                skip_string(&mut reader)?;
                skip_string(&mut reader)?;
            }
            kind::HASH => {
                skip_string(&mut reader)?;
                skip_string(&mut reader)?;
            }
            kind::SET => _ = skip_string(&mut reader)?,
            kind::ARRAY => _ = array::skip_element(&mut reader)?,
            kind::SORTED_SET => {
                skip_string(&mut reader)?;
                reader.take(size_of::<f64>())?;
            }
            other => return Err(CodecError::Type(other)),
        }
        count += 1;
    }
    Ok(Some(count))
}

const NO_ELEMENTS: CodecError = CodecError::Malformed("array without elements");
const TOO_MANY: CodecError = CodecError::Malformed("too many elements in a value in pieces");

#[cfg(test)]
mod tests;
