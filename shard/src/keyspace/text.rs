//! The contents of a record: its kind, and the bytes of a string.

use dormouse_types::record::{Record, Value};
use dormouse_types::{Kind, ObjectRef};

use crate::error::{Error, Result};

/// A string's bytes as they are stored.
#[derive(Debug, Clone, Copy)]
pub enum Text<'a> {
    Int(i64),
    Raw(&'a [u8]),
}

impl Text<'_> {
    pub fn len(&self) -> usize {
        match self {
            Self::Int(n) => itoa::Buffer::new().format(*n).len(),
            Self::Raw(bytes) => bytes.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads the bytes; those of an integer are made only for this call.
    pub fn with_bytes<R>(&self, read: impl FnOnce(&[u8]) -> R) -> R {
        match self {
            Self::Int(n) => read(itoa::Buffer::new().format(*n).as_bytes()),
            Self::Raw(bytes) => read(bytes),
        }
    }

    pub fn to_vec(&self) -> Vec<u8> {
        self.with_bytes(<[u8]>::to_vec)
    }
}

pub fn kind_of(record: &Record) -> Kind {
    match record.value() {
        Value::Int(_) | Value::Raw(_) => Kind::String,
        Value::Object(object) => object.kind(),
    }
}

pub(super) fn text_of(record: &Record) -> Result<Text<'_>> {
    match record.value() {
        Value::Int(n) => Ok(Text::Int(n)),
        Value::Raw(bytes) => Ok(Text::Raw(bytes)),
        Value::Object(ObjectRef::Text(bytes)) => Ok(Text::Raw(bytes)),
        Value::Object(_) => Err(Error::WrongType),
    }
}
