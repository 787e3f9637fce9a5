//! From an encoded value to text.
//!
//! Numbers and escapes are those of RedisJSON: the shortest digits that give the float back, with a point or an exponent;
//! control characters as `\u001f` where they have no short escape; everything else as it is.

use super::node::{JsonNode, JsonValue};
use crate::pace;

/// The white space between the parts of a text: none as a rule.
#[derive(Debug, Clone, Copy, Default)]
pub struct Style<'a> {
    /// Before each value, as often as there are containers around it.
    pub indent: &'a [u8],
    /// Before each value in a container, and before the end of a container that is not empty.
    pub newline: &'a [u8],
    /// Between the colon and the value of a member.
    pub space: &'a [u8],
}

/// A receiver of text.
pub trait TextSink {
    fn put(&mut self, bytes: &[u8]);
}

impl TextSink for Vec<u8> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Counts the bytes of a text.
struct Count(usize);

impl TextSink for Count {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

/// The length of the text of a value.
pub fn text_bytes(node: JsonNode<'_>, style: Style<'_>) -> usize {
    let mut count = Count(0);
    write(node, style, &mut count);
    count.0
}

/// Writes the text of a value.
pub fn write(node: JsonNode<'_>, style: Style<'_>, out: &mut impl TextSink) {
    write_inside(node, style, 0, out);
}

/// The same inside of `level` containers.
pub fn write_inside(node: JsonNode<'_>, style: Style<'_>, level: usize, out: &mut impl TextSink) {
    if pace::is_ended() {
        return;
    }
    match node.value() {
        JsonValue::Null => out.put(b"null"),
        JsonValue::Bool(true) => out.put(b"true"),
        JsonValue::Bool(false) => out.put(b"false"),
        JsonValue::Integer(number) => out.put(itoa::Buffer::new().format(number).as_bytes()),
        JsonValue::Unsigned(number) => out.put(itoa::Buffer::new().format(number).as_bytes()),
        JsonValue::Float(number) => out.put(ryu::Buffer::new().format_finite(number).as_bytes()),
        JsonValue::String(bytes) => write_string(bytes, out),
        JsonValue::Array(elements) => {
            pace::step(elements.len());
            write_all(elements, b"[]", style, level, out);
        }
        JsonValue::Object(members) => {
            pace::step(members.len());
            write_all(members, b"{}", style, level, out);
        }
    }
}

fn write_all<'a>(
    children: impl Iterator<Item = (Option<&'a [u8]>, JsonNode<'a>)>,
    brackets: &[u8; 2],
    style: Style<'_>,
    level: usize,
    out: &mut impl TextSink,
) {
    out.put(&brackets[..1]);
    let mut is_empty = true;
    for (name, value) in children {
        if !is_empty {
            out.put(b",");
        }
        is_empty = false;
        begin_line(style, level + 1, out);
        if let Some(name) = name {
            write_string(name, out);
            out.put(b":");
            out.put(style.space);
        }
        write_inside(value, style, level + 1, out);
    }
    if !is_empty {
        begin_line(style, level, out);
    }
    out.put(&brackets[1..]);
}

/// Writes what comes before a value in a container, or before the end of one.
#[inline]
pub fn begin_line(style: Style<'_>, level: usize, out: &mut impl TextSink) {
    if !style.newline.is_empty() {
        out.put(style.newline);
    }
    if !style.indent.is_empty() {
        (0..level).for_each(|_| out.put(style.indent));
    }
}

/// Bytes that are looked at together for one that needs an escape.
const TOGETHER: usize = 32;

/// Writes a string with its quotes.
pub fn write_string(bytes: &[u8], out: &mut impl TextSink) {
    out.put(b"\"");
    let needs_escape = |byte: u8| byte < 0x20 || byte == b'"' || byte == b'\\';
    for chunk in bytes.chunks(TOGETHER) {
        // Without an early end the compiler looks at all of them at once.
        if !chunk.iter().fold(false, |found, byte| found | needs_escape(*byte)) {
            out.put(chunk);
            continue;
        }
        for byte in chunk {
            match byte {
                b'"' => out.put(b"\\\""),
                b'\\' => out.put(b"\\\\"),
                b'\n' => out.put(b"\\n"),
                b'\r' => out.put(b"\\r"),
                b'\t' => out.put(b"\\t"),
                0x08 => out.put(b"\\b"),
                0x0c => out.put(b"\\f"),
                control if *control < 0x20 => {
                    const HEX: &[u8; 16] = b"0123456789abcdef";
                    let digits = [HEX[usize::from(control >> 4)], HEX[usize::from(control & 15)]];
                    out.put(b"\\u00");
                    out.put(&digits);
                }
                plain => out.put(std::slice::from_ref(plain)),
            }
        }
    }
    out.put(b"\"");
}
