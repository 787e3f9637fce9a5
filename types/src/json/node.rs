//! Looking at an encoded value.

use super::{HEAD_BYTES, tag};

/// A value inside an encoded document.
#[derive(Clone, Copy)]
pub struct JsonNode<'a> {
    all: &'a [u8],
    at: usize,
}

/// A value by its type.
#[derive(Clone, Copy)]
pub enum JsonValue<'a> {
    Null,
    Bool(bool),
    Integer(i64),
    /// Above `i64::MAX`.
    Unsigned(u64),
    Float(f64),
    /// UTF-8.
    String(&'a [u8]),
    Array(Children<'a>),
    Object(Children<'a>),
}

impl<'a> JsonNode<'a> {
    /// The value at the beginning of `encoded`.
    pub fn of(encoded: &'a [u8]) -> Self {
        Self { all: encoded, at: 0 }
    }

    /// The value at an offset that [`Self::at`] has returned.
    pub fn at_offset(encoded: &'a [u8], at: usize) -> Self {
        Self { all: encoded, at }
    }

    /// The value at an offset in the same document.
    pub fn at_same(self, at: usize) -> Self {
        Self { all: self.all, at }
    }

    /// The offset of the value in the document.
    pub fn at(self) -> usize {
        self.at
    }

    /// The offset behind it.
    #[inline]
    pub fn end(self) -> usize {
        end(self.all, self.at)
    }

    /// The value, encoded.
    pub fn bytes(self) -> &'a [u8] {
        &self.all[self.at..self.end()]
    }

    #[inline]
    pub(super) fn tag(self) -> u8 {
        self.all[self.at]
    }

    #[inline]
    pub fn is_array(self) -> bool {
        self.tag() == tag::ARRAY
    }

    #[inline]
    pub fn is_object(self) -> bool {
        self.tag() == tag::OBJECT
    }

    #[inline]
    pub fn is_container(self) -> bool {
        self.is_array() || self.is_object()
    }

    pub fn value(self) -> JsonValue<'a> {
        let rest = &self.all[self.at + 1..];
        match self.tag() {
            tag::FALSE => JsonValue::Bool(false),
            tag::TRUE => JsonValue::Bool(true),
            tag::INT_8 => JsonValue::Integer(i64::from(rest[0] as i8)),
            tag::INT_16 => JsonValue::Integer(i64::from(i16::from_le_bytes(array(rest)))),
            tag::INT_32 => JsonValue::Integer(i64::from(i32::from_le_bytes(array(rest)))),
            tag::INT_64 => JsonValue::Integer(i64::from_le_bytes(array(rest))),
            tag::UNSIGNED => JsonValue::Unsigned(u64::from_le_bytes(array(rest))),
            tag::FLOAT => JsonValue::Float(f64::from_le_bytes(array(rest))),
            tag::STRING => {
                let len = length(rest);
                JsonValue::String(&rest[4..4 + len])
            }
            tag::ARRAY => JsonValue::Array(self.children()),
            tag::OBJECT => JsonValue::Object(self.children()),
            short @ tag::SHORT.. => JsonValue::String(&rest[..usize::from(short & !tag::SHORT)]),
            small @ tag::SMALL.. => JsonValue::Integer(i64::from(small & !tag::SMALL)),
            _ => JsonValue::Null,
        }
    }

    /// The string; `None` if it is of another type.
    #[inline]
    pub fn string(self) -> Option<&'a [u8]> {
        match self.tag() {
            tag::STRING | tag::SHORT.. => match self.value() {
                JsonValue::String(bytes) => Some(bytes),
                _ => None,
            },
            _ => None,
        }
    }

    /// The elements of an array, or the members of an object; nothing of another value.
    #[inline]
    pub fn children(self) -> Children<'a> {
        let is_object = self.is_object();
        if !self.is_container() {
            return Children { all: self.all, next: self.at, end: self.at, count: 0, is_object };
        }
        let head = &self.all[self.at + 1..];
        let (bytes, count) = (length(head), length(&head[4..]));
        let next = self.at + HEAD_BYTES;
        Children { all: self.all, next, end: next + bytes, count, is_object }
    }

    /// The number of elements or members.
    #[inline]
    pub fn len(self) -> usize {
        self.children().count
    }

    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The member of an object with this name.
    #[inline]
    pub fn get(self, name: &[u8]) -> Option<JsonNode<'a>> {
        self.is_object().then(|| self.children())?.find(|(key, _)| *key == Some(name)).map(|(_, value)| value)
    }

    /// The element of an array with this number.
    pub fn element(self, index: usize) -> Option<JsonNode<'a>> {
        self.is_array().then(|| self.children())?.nth(index).map(|(_, value)| value)
    }

    /// RedisJSON's name of the type.
    pub fn type_name(self) -> &'static str {
        match self.value() {
            JsonValue::Null => "null",
            JsonValue::Bool(_) => "boolean",
            JsonValue::Integer(_) | JsonValue::Unsigned(_) => "integer",
            JsonValue::Float(_) => "number",
            JsonValue::String(_) => "string",
            JsonValue::Array(_) => "array",
            JsonValue::Object(_) => "object",
        }
    }

    /// How many containers are in each other: 0 of a value that is none.
    pub fn depth(self) -> usize {
        if !self.is_container() {
            return 0;
        }
        1 + self.children().map(|(_, child)| child.depth()).max().unwrap_or(0)
    }

    /// Whether the value behind `at` is this one or inside it.
    pub fn encloses(self, at: usize) -> bool {
        (self.at..self.end()).contains(&at)
    }
}

/// The values in a container, each with its name if it is a member.
#[derive(Clone, Copy)]
pub struct Children<'a> {
    all: &'a [u8],
    next: usize,
    end: usize,
    count: usize,
    is_object: bool,
}

impl Children<'_> {
    /// How many are left.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The offset of the next one, of its name if it is a member.
    pub fn offset(&self) -> usize {
        self.next
    }
}

impl<'a> Iterator for Children<'a> {
    type Item = (Option<&'a [u8]>, JsonNode<'a>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.end {
            return None;
        }
        self.count = self.count.saturating_sub(1);
        let mut name = None;
        if self.is_object {
            let key = JsonNode { all: self.all, at: self.next };
            name = key.string();
            self.next = key.end();
        }
        let value = JsonNode { all: self.all, at: self.next };
        self.next = value.end();
        Some((name, value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count, Some(self.count))
    }
}

/// The offset behind the value at `at`.
#[inline]
fn end(all: &[u8], at: usize) -> usize {
    match all[at] {
        short @ tag::SHORT.. => at + 1 + usize::from(short & !tag::SHORT),
        tag::SMALL.. => at + 1,
        tag::INT_8 => at + 2,
        tag::INT_16 => at + 3,
        tag::INT_32 => at + 5,
        tag::INT_64 | tag::UNSIGNED | tag::FLOAT => at + 9,
        tag::STRING => at + 5 + length(&all[at + 1..]),
        tag::ARRAY | tag::OBJECT => at + HEAD_BYTES + length(&all[at + 1..]),
        _ => at + 1,
    }
}

#[inline]
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[..N]);
    array
}

#[inline]
pub(super) fn length(bytes: &[u8]) -> usize {
    u32::from_le_bytes(array(bytes)) as usize
}
