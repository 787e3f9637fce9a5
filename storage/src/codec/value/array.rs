//! Arrays, as Redis 8.10 has them.
//!
//! ```text
//! n, head, n x (index, tag, value)
//! head: 0, or 1 and the index that was last inserted at
//! tag 0: string, of 8 bytes or more | 1: i64 LE | 2: f64 LE | 3: string, of up to 7 bytes
//! ```
//!
//! The tag follows from the text. An integer has 62 bits; a double's lowest two bits are 0, and its text is the shortest
//! that reads back as it. So `0.5` is a double, and `0.1`, which needs these bits, is a string.
//!
//! Pieces hold the head before the first element. The head counts as an element there.

use dormouse_types::array::{Array, ArrayPart, Element, ElementText, INDEX_MAX, double_of, text_of_double};
use dormouse_types::{Digits, Object};

use super::kind;
use crate::codec::reader::{ByteSink, write_rdb_length};
use crate::codec::string::{read_string, skip_string, write_plain_string};
use crate::codec::{CodecError, Reader};

type Result<T> = std::result::Result<T, CodecError>;

const STRING: u64 = 0;
const INTEGER: u64 = 1;
const DOUBLE: u64 = 2;
const SHORT_STRING: u64 = 3;

const SHORT_MAX: usize = 7;
/// Integers from its negative to below it are written as such.
const INTEGER_END: i64 = 1 << 61;

/// An element's bytes: index, tag, and an empty string.
pub(crate) const ELEMENT_BYTES_MIN: usize = 3;

const HEAD: CodecError = CodecError::Malformed("head of an array");
const INDEX: CodecError = CodecError::Malformed("index of an array");
const TAG: CodecError = CodecError::Malformed("tag of an array's element");

pub(super) fn encode(array: &Array, out: &mut impl ByteSink) -> u8 {
    write_rdb_length(out, array.len() as u64);
    write_head(array.last_insert(), out);
    array.visit(0, INDEX_MAX, false, |index, element| {
        write_element(index, element, out);
        false
    });
    kind::ARRAY
}

pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Object> {
    let mut array = Array::new();
    let count = reader.rdb_plain_length()?;
    let count = reader.check_count(count, ELEMENT_BYTES_MIN)?;
    read_head(reader, &mut array)?;
    for _ in 0..count {
        read_element(reader, &mut array)?;
    }
    Ok(Object::Array(array))
}

/// Writes a part of a captured array.
pub(super) fn write_part(part: ArrayPart<'_>, out: &mut impl ByteSink) {
    match part {
        ArrayPart::Head { last_insert } => write_head(last_insert, out),
        ArrayPart::Element { index, element } => write_element(index, element, out),
    }
}

fn write_head(last_insert: Option<u64>, out: &mut impl ByteSink) {
    write_rdb_length(out, u64::from(last_insert.is_some()));
    if let Some(index) = last_insert {
        write_rdb_length(out, index);
    }
}

fn write_element(index: u64, element: Element<'_>, out: &mut impl ByteSink) {
    write_rdb_length(out, index);
    if let Element::Int(number @ ..INTEGER_END) = element
        && number >= -INTEGER_END
    {
        write_rdb_length(out, INTEGER);
        out.extend_from_slice(&number.to_le_bytes());
        return;
    }
    let mut room = ElementText::new();
    let text = element.text(&mut room);
    if let Some(double) = double_of(text) {
        write_rdb_length(out, DOUBLE);
        out.extend_from_slice(&double.to_le_bytes());
    } else {
        write_rdb_length(out, if text.len() <= SHORT_MAX { SHORT_STRING } else { STRING });
        write_plain_string(out, text);
    }
}

pub(super) fn read_head(reader: &mut Reader<'_>, array: &mut Array) -> Result<()> {
    match reader.rdb_plain_length()? {
        0 => {}
        1 => match reader.rdb_plain_length()? {
            index @ ..=INDEX_MAX => array.set_last_insert(Some(index)),
            _ => return Err(HEAD),
        },
        _ => return Err(HEAD),
    }
    Ok(())
}

/// Reads an element; returns whether the array had none at its index.
pub(super) fn read_element(reader: &mut Reader<'_>, array: &mut Array) -> Result<bool> {
    let index = reader.rdb_plain_length()?;
    if index > INDEX_MAX {
        return Err(INDEX);
    }
    Ok(match reader.rdb_plain_length()? {
        INTEGER => {
            let number = reader.array().map(i64::from_le_bytes)?;
            array.set(index, Digits::new().format(number).as_bytes())
        }
        DOUBLE => {
            let value = reader.array().map(f64::from_le_bytes)?;
            array.set(index, &text_of_double(value))
        }
        tag @ (STRING | SHORT_STRING) => read_string(reader)?.with_bytes(|text| match tag {
            SHORT_STRING if text.len() > SHORT_MAX => Err(TAG),
            _ => Ok(array.set(index, text)),
        })?,
        _ => return Err(TAG),
    })
}

/// Passes over a head.
pub(crate) fn skip_head(reader: &mut Reader<'_>) -> Result<()> {
    if reader.rdb_plain_length()? == 1 {
        reader.rdb_plain_length()?;
    }
    Ok(())
}

/// Passes over an element; returns the bytes of its text, at most.
pub(crate) fn skip_element(reader: &mut Reader<'_>) -> Result<usize> {
    reader.rdb_plain_length()?;
    match reader.rdb_plain_length()? {
        INTEGER | DOUBLE => reader.take(8).map(<[u8]>::len),
        STRING | SHORT_STRING => skip_string(reader),
        _ => Err(TAG),
    }
}
