//! JSON documents, encoded in one block of bytes.
//!
//! A value is a tag and what follows it. Numbers are little endian.
//!
//! ```text
//! 0x00          null
//! 0x01 / 0x02   false / true
//! 0x03 .. 0x06  an integer of 1, 2, 4, 8 bytes, signed
//! 0x07          an integer above i64::MAX, u64
//! 0x08          a float, f64, finite
//! 0x09          a string: length u32, bytes
//! 0x0a          an array: bytes of the elements u32, their number u32, elements
//! 0x0b          an object: bytes of the members u32, their number u32, members: a string and a value each
//! 0x40 .. 0x7f  an integer of 0 to 63
//! 0x80 .. 0xff  a string of 0 to 127 bytes, which follow
//! ```
//!
//! Integers and strings take the shortest form. Strings are UTF-8. The members of an object have different names and stay in
//! the order in which they came. Values are nested at most [`DEPTH_MAX`] deep.
//!
//! So a document is read from its text in one pass and without an allocation for each value, takes less memory than its text
//! as a rule, and is copied, stored and freed like a string. A container is passed over by its length, so a path costs a
//! look at the siblings that come before each of its steps. A change moves what comes behind it and adds to the lengths
//! of the containers around it; many changes at once are one pass over the document. The alternative, a tree of values, finds
//! a member of a large object sooner, but takes several times the memory, and each copy, load and drop of a document goes
//! through all of its nodes.

mod check;
mod compare;
mod edit;
mod merge;
mod node;
mod parse;
#[cfg(test)]
mod tests;
mod write;

use std::fmt;

use crate::entry::{Buffer, TOTAL_BYTES};
use crate::{Malformed, pace};

pub use self::compare::{Numbers, equal};
pub use self::edit::{Edit, EditError};
pub use self::merge::merge;
pub use self::node::{Children, JsonNode, JsonValue};
pub use self::parse::{ParseError, parse};
pub use self::write::{Style, TextSink, begin_line, text_bytes, write, write_inside, write_string};

/// Containers in containers: as many as RedisJSON reads.
pub const DEPTH_MAX: usize = 127;

/// The largest document, encoded. Its text may be shorter or longer.
pub const BYTES_MAX: usize = 512 << 20;

mod tag {
    pub const NULL: u8 = 0x00;
    pub const FALSE: u8 = 0x01;
    pub const TRUE: u8 = 0x02;
    pub const INT_8: u8 = 0x03;
    pub const INT_16: u8 = 0x04;
    pub const INT_32: u8 = 0x05;
    pub const INT_64: u8 = 0x06;
    pub const UNSIGNED: u8 = 0x07;
    pub const FLOAT: u8 = 0x08;
    pub const STRING: u8 = 0x09;
    pub const ARRAY: u8 = 0x0a;
    pub const OBJECT: u8 = 0x0b;
    /// From here on, the integer is the tag without this.
    pub const SMALL: u8 = 0x40;
    /// From here on, the length of a string is the tag without this.
    pub const SHORT: u8 = 0x80;

    /// The largest integer in a tag.
    pub const SMALL_MAX: i64 = 63;
    /// The longest string whose length is in its tag.
    pub const SHORT_MAX: usize = 127;
}

/// The tag of a container, the bytes of its content and their number.
const HEAD_BYTES: usize = 9;

/// A document. One without a value exists only on its way into the keyspace or out of it.
#[derive(Clone, Default)]
pub struct Json(Buffer);

impl Json {
    pub fn new() -> Self {
        Self::default()
    }

    /// A document of an encoded value, as [`parse`] returns it. `None`: it is too large.
    pub fn of(encoded: &[u8]) -> Option<Self> {
        (encoded.len() <= BYTES_MAX).then(|| Self(Buffer::of(encoded)))
    }

    /// A document of bytes that have been somewhere else.
    ///
    /// # Errors
    /// When they are no encoded value.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        check::check(bytes)?;
        Self::of(bytes).ok_or(Malformed("JSON document over 512 MiB"))
    }

    /// The encoded value.
    pub fn bytes(&self) -> &[u8] {
        self.0.body()
    }

    /// The outermost value.
    ///
    /// # Panics
    /// If there is none.
    pub fn root(&self) -> JsonNode<'_> {
        JsonNode::of(self.bytes())
    }

    /// The number of values, counting the outermost only: how many there are inside is not known without looking.
    pub fn len(&self) -> usize {
        usize::from(!self.is_empty())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The allocated bytes.
    pub fn heap_bytes(&self) -> usize {
        self.0.heap_bytes()
    }

    /// The address of the bytes: only ever prefetched.
    pub fn address(&self) -> *const u8 {
        self.0.bytes().as_ptr()
    }

    /// Redis's name of the encoding: that of every module's values.
    pub fn encoding(&self) -> &'static str {
        "raw"
    }

    /// Frees everything, which is one allocation.
    pub fn dismantle(&mut self, _: usize) -> bool {
        self.0 = Buffer::default();
        true
    }

    /// Replaces `removed` bytes at `at`.
    fn splice(&mut self, at: usize, removed: usize, inserted: &[u8]) {
        let before = self.bytes().len();
        let after = before - removed + inserted.len();
        if after > before {
            self.0.resize(TOTAL_BYTES + before, TOTAL_BYTES + after);
        }
        let body = self.0.body_mut();
        body.copy_within(at + removed..before, at + inserted.len());
        body[at..at + inserted.len()].copy_from_slice(inserted);
        if after < before {
            self.0.resize(TOTAL_BYTES + after, TOTAL_BYTES + after);
        }
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("no document");
        }
        let mut text = Vec::new();
        write(self.root(), Style::default(), &mut text);
        f.write_str(&String::from_utf8_lossy(&text))
    }
}

/// Appends an integer in its shortest form.
pub fn put_integer(out: &mut Vec<u8>, number: i64) {
    if (0..=tag::SMALL_MAX).contains(&number) {
        out.push(tag::SMALL | number as u8);
    } else if let Ok(number) = i8::try_from(number) {
        out.extend_from_slice(&[tag::INT_8, number as u8]);
    } else if let Ok(number) = i16::try_from(number) {
        out.push(tag::INT_16);
        out.extend_from_slice(&number.to_le_bytes());
    } else if let Ok(number) = i32::try_from(number) {
        out.push(tag::INT_32);
        out.extend_from_slice(&number.to_le_bytes());
    } else {
        out.push(tag::INT_64);
        out.extend_from_slice(&number.to_le_bytes());
    }
}

/// Appends an integer without a sign.
pub fn put_unsigned(out: &mut Vec<u8>, number: u64) {
    match i64::try_from(number) {
        Ok(number) => put_integer(out, number),
        Err(_) => {
            out.push(tag::UNSIGNED);
            out.extend_from_slice(&number.to_le_bytes());
        }
    }
}

/// Appends a finite float.
pub fn put_float(out: &mut Vec<u8>, number: f64) {
    debug_assert!(number.is_finite(), "JSON has finite numbers only");
    out.push(tag::FLOAT);
    out.extend_from_slice(&number.to_le_bytes());
}

pub fn put_null(out: &mut Vec<u8>) {
    out.push(tag::NULL);
}

pub fn put_bool(out: &mut Vec<u8>, value: bool) {
    out.push(if value { tag::TRUE } else { tag::FALSE });
}

/// Appends a string, which is UTF-8.
pub fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.len() <= tag::SHORT_MAX {
        out.push(tag::SHORT | bytes.len() as u8);
    } else {
        out.push(tag::STRING);
        out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    }
    out.extend_from_slice(bytes);
}

/// Appends an array of so many elements, encoded one after the other.
pub fn put_array(out: &mut Vec<u8>, elements: &[u8], count: usize) {
    let start = begin_container(out, tag::ARRAY);
    pace::extend(out, elements);
    end_container(out, start, count);
}

/// Appends an object of so many members, each a string and a value, encoded one after the other.
pub fn put_object(out: &mut Vec<u8>, members: &[u8], count: usize) {
    let start = begin_container(out, tag::OBJECT);
    pace::extend(out, members);
    end_container(out, start, count);
}

/// Appends an empty array.
pub fn put_empty_array(out: &mut Vec<u8>) {
    out.extend_from_slice(&[tag::ARRAY, 0, 0, 0, 0, 0, 0, 0, 0]);
}

/// Appends an empty object.
pub fn put_empty_object(out: &mut Vec<u8>) {
    out.extend_from_slice(&[tag::OBJECT, 0, 0, 0, 0, 0, 0, 0, 0]);
}

/// Begins a container; [`end_container`] writes its lengths.
fn begin_container(out: &mut Vec<u8>, tag: u8) -> usize {
    let start = out.len();
    out.extend_from_slice(&[tag, 0, 0, 0, 0, 0, 0, 0, 0]);
    start
}

fn end_container(out: &mut [u8], start: usize, count: usize) {
    let bytes = out.len() - start - HEAD_BYTES;
    set_head(&mut out[start..], bytes, count);
}

/// Writes the lengths into the head of a container.
fn set_head(container: &mut [u8], bytes: usize, count: usize) {
    container[1..5].copy_from_slice(&(bytes as u32).to_le_bytes());
    container[5..HEAD_BYTES].copy_from_slice(&(count as u32).to_le_bytes());
}
