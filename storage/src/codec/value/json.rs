//! Documents of JSON: their bytes, see [`dormouse_types::json`], after their number.

use dormouse_types::json::{Json, Style, TextSink, text_bytes, write};
use dormouse_types::{Object, pace};

use crate::codec::reader::{ByteSink, write_rdb_length};
use crate::codec::{CodecError, Reader};

pub(super) fn encode(json: &Json, out: &mut impl ByteSink) -> u8 {
    write_rdb_length(out, json.bytes().len() as u64);
    out.extend_from_slice(json.bytes());
    super::kind::JSON
}

pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Object, CodecError> {
    let len = reader.rdb_plain_length()?;
    of_bytes(reader.take_u64(len)?)
}

/// A document of its bytes, which are checked.
pub(super) fn of_bytes(bytes: &[u8]) -> Result<Object, CodecError> {
    pace::step(bytes.len() / pace::BYTES_PER_ELEMENT);
    Ok(Object::Json(Json::from_bytes(bytes)?))
}

/// A document of its text, as other servers store it.
///
/// # Errors
/// When it is no JSON.
pub fn of_text(text: &[u8]) -> Result<Object, CodecError> {
    let encoded = dormouse_types::json::parse(text).map_err(|_| CodecError::Malformed("text of a JSON document"))?;
    Json::of(&encoded).map(Object::Json).ok_or(CodecError::Malformed("JSON document over 512 MiB"))
}

/// Appends the text of a document as a string, for servers that have no such type. Returns the number of the encoding.
pub fn encode_text(json: &Json, out: &mut impl ByteSink) -> u8 {
    let style = Style::default();
    write_rdb_length(out, text_bytes(json.root(), style) as u64);
    write(json.root(), style, &mut Text(out));
    super::kind::STRING
}

struct Text<'o, S>(&'o mut S);

impl<S: ByteSink> TextSink for Text<'_, S> {
    fn put(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}
