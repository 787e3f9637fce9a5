//! Values as text in a reply, and as values of the protocol.

use std::cell::RefCell;

use dormouse_protocol::Reply;
use dormouse_types::json::{JsonNode, JsonValue, Style, TextSink, begin_line, write, write_inside, write_string};

use super::ENCODED_PER_BYTE;
use super::select::Selected;

/// A text that can be written twice: to be measured, and into the reply.
pub trait ReplyText {
    fn put(&self, out: &mut impl TextSink);
}

/// One value.
pub struct One<'a>(pub JsonNode<'a>, pub Style<'a>);

/// Values as an array.
pub struct Many<'a>(pub &'a Selected<'a>, pub Style<'a>);

/// The values of several paths as an object, each an array or one value.
pub struct Named<'a> {
    pub paths: &'a [(&'a [u8], Selected<'a>)],
    pub are_arrays: bool,
    pub style: Style<'a>,
}

impl ReplyText for One<'_> {
    fn put(&self, out: &mut impl TextSink) {
        write(self.0, self.1, out);
    }
}

impl ReplyText for Many<'_> {
    fn put(&self, out: &mut impl TextSink) {
        put_array(self.0, self.1, 0, out);
    }
}

impl ReplyText for Named<'_> {
    fn put(&self, out: &mut impl TextSink) {
        out.put(b"{");
        for (number, (name, values)) in self.paths.iter().enumerate() {
            if number > 0 {
                out.put(b",");
            }
            begin_line(self.style, 1, out);
            write_string(name, out);
            out.put(b":");
            out.put(self.style.space);
            match (self.are_arrays || values.are_computed, values.iter().next()) {
                (false, Some(value)) => write_inside(value, self.style, 1, out),
                _ => put_array(values, self.style, 1, out),
            }
        }
        if !self.paths.is_empty() {
            begin_line(self.style, 0, out);
        }
        out.put(b"}");
    }
}

fn put_array(values: &Selected<'_>, style: Style<'_>, level: usize, out: &mut impl TextSink) {
    out.put(b"[");
    for (number, value) in values.iter().enumerate() {
        if number > 0 {
            out.put(b",");
        }
        begin_line(style, level + 1, out);
        write_inside(value, style, level + 1, out);
    }
    if !values.is_empty() {
        begin_line(style, level, out);
    }
    out.put(b"]");
}

/// Encoded values of up to so many bytes are written once, and copied; longer ones are measured first.
const SHORT_BYTES: usize = 16 << 10;

/// Counts the bytes of a text.
struct Measure(usize);

impl TextSink for Measure {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

/// Writes a text as a string of the protocol. `encoded`: the bytes of the values, encoded.
pub fn reply_text(reply: &mut Reply, text: &impl ReplyText, style: Style<'_>, encoded: usize) {
    thread_local! {
        static WRITTEN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    // With white space between its parts a text may be of any length.
    let is_plain = style.indent.is_empty() && style.newline.is_empty() && style.space.is_empty();
    if is_plain && encoded <= SHORT_BYTES {
        // A text has six times the bytes of its value at most.
        WRITTEN.with_borrow_mut(|written| {
            written.clear();
            text.put(written);
            reply.bulk(written);
        });
        return;
    }
    // A text that is known to be too long is not measured.
    if !reply.has_room(encoded / (1 + ENCODED_PER_BYTE)) {
        return;
    }
    let mut measure = Measure(0);
    text.put(&mut measure);
    reply.bulk_with(measure.0, |out| text.put(out));
}

/// Forms of the values in a reply of RESP3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyForm {
    /// A text of all values.
    Text,
    /// Numbers and booleans are those of the protocol; everything else is a text.
    Shallow,
    /// Everything is a value of the protocol.
    Deep,
}

/// Writes a value in one of the forms of RESP3.
pub fn reply_value(reply: &mut Reply, node: JsonNode<'_>, form: ReplyForm, style: Style<'_>) {
    if reply.is_over() {
        return;
    }
    match (node.value(), form) {
        (JsonValue::Null, _) => reply.null(),
        (JsonValue::Bool(value), _) => reply.boolean(value),
        (JsonValue::Integer(number), _) => reply.integer(number),
        (JsonValue::Unsigned(number), _) => reply.double(number as f64),
        (JsonValue::Float(number), _) => reply.double(number),
        (JsonValue::String(bytes), ReplyForm::Deep) => reply.bulk(bytes),
        (JsonValue::Array(elements), ReplyForm::Deep) => {
            reply.array(elements.len());
            elements.for_each(|(_, element)| reply_value(reply, element, form, style));
        }
        (JsonValue::Object(members), ReplyForm::Deep) => {
            reply.map(members.len());
            for (name, value) in members {
                reply.bulk(name.unwrap_or_default());
                reply_value(reply, value, form, style);
            }
        }
        _ => reply_text(reply, &One(node, style), style, node.bytes().len()),
    }
}

/// Writes a value as `JSON.RESP` does: containers are arrays that begin with their bracket.
pub fn reply_resp(reply: &mut Reply, node: JsonNode<'_>) {
    if reply.is_over() {
        return;
    }
    match node.value() {
        JsonValue::Null => reply.null(),
        JsonValue::Bool(value) => reply.simple(if value { "true" } else { "false" }),
        JsonValue::Integer(number) => reply.integer(number),
        JsonValue::Unsigned(number) => reply.double(number as f64),
        JsonValue::Float(number) => reply.double(number),
        JsonValue::String(bytes) => reply.bulk(bytes),
        JsonValue::Array(elements) => {
            reply.array(1 + elements.len());
            reply.simple("[");
            elements.for_each(|(_, element)| reply_resp(reply, element));
        }
        JsonValue::Object(members) => {
            reply.array(1 + 2 * members.len());
            reply.simple("{");
            for (name, value) in members {
                reply.bulk(name.unwrap_or_default());
                reply_resp(reply, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Counts how often it is written.
    #[derive(Default)]
    struct Counted(Cell<usize>);

    impl ReplyText for Counted {
        fn put(&self, out: &mut impl TextSink) {
            self.0.set(self.0.get() + 1);
            out.put(b"text");
        }
    }

    #[test]
    fn a_text_that_is_too_long_is_not_measured() {
        let text = Counted::default();
        let mut reply = Reply::default();
        reply.set_inline_max(Some(100_000));
        reply.defer(true);
        reply_text(&mut reply, &text, Style::default(), 1 << 20);
        assert_eq!((text.0.get(), reply.is_deferred()), (0, true));
        let mut reply = Reply::default();
        reply_text(&mut reply, &text, Style::default(), 1 << 20);
        assert_eq!((text.0.get(), &reply.buffer[..]), (2, &b"$4\r\ntext\r\n"[..]));
    }
}
