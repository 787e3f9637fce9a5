//! Replies as JSON.
//!
//! JSON is written straight from the bytes of the replies, head by head, and in pieces: a large reply is never in memory
//! twice. What JSON or the clients lack becomes simpler, as in RESP2: maps and sets are flat arrays, doubles and large
//! numbers are strings, booleans 0 or 1.
//!
//! Strings need not be UTF-8. A client that wants to have all bytes asks for base64: every string of a result is then
//! encoded, but for one that is exactly `OK`. Errors never are.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dormouse_protocol::ReplyHead;

use super::refusal::in_dialect;

/// Bytes of a string that are written at once: a multiple of three, which base64 takes whole.
const STRING_PIECE: usize = 48 << 10;

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerForm {
    /// `{"result": 1}`
    One,
    /// `[{"result": 1}, {"error": "ERR"}]`: one for each reply.
    Each,
    /// The same, one for each element of a single array.
    Elements,
}

/// Writes replies in one of these forms.
#[derive(Debug)]
pub struct JsonAnswer {
    form: AnswerForm,
    is_base64: bool,
    /// Replies that have been written.
    count: usize,
    /// How many elements each open array lacks.
    open: Vec<u64>,
    /// The string that is being written.
    string: Option<Text>,
}

/// The rest of a string.
#[derive(Debug, Clone, Copy)]
struct Text {
    left: usize,
    is_begun: bool,
    is_base64: bool,
}

impl JsonAnswer {
    pub fn new(form: AnswerForm, is_base64: bool) -> Self {
        Self { form, is_base64, count: 0, open: Vec::new(), string: None }
    }

    /// Writes whole replies from `at` on, until `to` has `bytes`. Returns where it has stopped.
    pub fn write(&mut self, replies: &[u8], mut at: usize, to: &mut Vec<u8>, bytes: usize) -> usize {
        while at < replies.len() && to.len() < bytes {
            if let Some(text) = self.string {
                at += self.continue_string(text, &replies[at..], to);
                continue;
            }
            let Some((head, line, used)) = ReplyHead::first(&replies[at..]) else { return replies.len() };
            at += used;
            self.begin_value(head, line, to);
        }
        at
    }

    /// Ends the answer.
    pub fn end(&self, to: &mut Vec<u8>) {
        if self.form == AnswerForm::Each {
            to.extend_from_slice(if self.count == 0 { b"[]" } else { b"]" });
        }
    }

    /// The depth of the replies that have a result or an error of their own.
    fn depth(&self) -> usize {
        usize::from(self.form == AnswerForm::Elements)
    }

    fn begin_value(&mut self, head: ReplyHead, line: &[u8], to: &mut Vec<u8>) {
        let is_own = self.open.len() == self.depth();
        let is_error = matches!(head, ReplyHead::Line if line[0] == b'-') || matches!(head, ReplyHead::Bulk(b'!', _));
        if is_own {
            if self.form == AnswerForm::Each {
                to.push(if self.count == 0 { b'[' } else { b',' });
            }
            to.extend_from_slice(if is_error { b"{\"error\":" } else { b"{\"result\":" });
        }
        let is_base64 = self.is_base64 && !(is_own && is_error);
        match head {
            ReplyHead::Line => match line[0] {
                b':' => to.extend_from_slice(&line[1..]),
                b'#' => to.push(if line[1..] == *b"t" { b'1' } else { b'0' }),
                b'-' if is_own => write_whole(in_dialect(&line[1..]), is_base64, to),
                _ => write_whole(&line[1..], is_base64, to),
            },
            ReplyHead::Null | ReplyHead::Bulk(_, None) | ReplyHead::Many(_, None) => to.extend_from_slice(b"null"),
            ReplyHead::Bulk(_, Some(length)) => {
                let left = usize::try_from(length).unwrap_or(usize::MAX);
                self.string = Some(Text { left, is_begun: false, is_base64 });
                return;
            }
            ReplyHead::Many(_, Some(0)) => to.extend_from_slice(b"[]"),
            ReplyHead::Many(_, Some(count)) => {
                to.push(b'[');
                self.open.push(count);
                return;
            }
            // Nobody writes attributes.
            ReplyHead::Attribute(_) => to.extend_from_slice(b"null"),
        }
        self.end_value(to);
    }

    /// Writes a piece of a string whose rest begins `bytes`. Returns its length.
    fn continue_string(&mut self, text: Text, bytes: &[u8], to: &mut Vec<u8>) -> usize {
        let left = text.left.min(bytes.len());
        if left <= STRING_PIECE && !text.is_begun {
            write_whole(&bytes[..left], text.is_base64, to);
            self.string = None;
            self.end_value(to);
            return left + 2;
        }
        if !text.is_begun {
            to.push(b'"');
        }
        let length = match text.is_base64 {
            true => left.min(STRING_PIECE),
            false => whole_characters(&bytes[..left], STRING_PIECE),
        };
        match text.is_base64 {
            true => encode(&bytes[..length], to),
            false => escape(&bytes[..length], to),
        }
        if length < left {
            self.string = Some(Text { left: left - length, is_begun: true, ..text });
            return length;
        }
        to.push(b'"');
        self.string = None;
        self.end_value(to);
        length + 2
    }

    /// Ends a value, and the arrays of which it is the last element.
    fn end_value(&mut self, to: &mut Vec<u8>) {
        loop {
            if self.open.len() == self.depth() {
                to.push(b'}');
            }
            let Some(left) = self.open.last_mut() else { break };
            *left -= 1;
            if *left > 0 {
                to.push(b',');
                return;
            }
            to.push(b']');
            self.open.pop();
        }
        self.count += 1;
    }
}

fn write_whole(text: &[u8], is_base64: bool, to: &mut Vec<u8>) {
    to.push(b'"');
    match is_base64 && text != b"OK" {
        true => encode(text, to),
        false => escape(text, to),
    }
    to.push(b'"');
}

fn encode(bytes: &[u8], to: &mut Vec<u8>) {
    let start = to.len();
    to.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(bytes, &mut to[start..]).expect("there is room for four bytes for each three");
    to.truncate(start + written);
}

/// Writes a text that may not be UTF-8 as a part of a JSON string.
fn escape(bytes: &[u8], to: &mut Vec<u8>) {
    for chunk in bytes.utf8_chunks() {
        escape_text(chunk.valid().as_bytes(), to);
        if !chunk.invalid().is_empty() {
            to.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

fn escape_text(text: &[u8], to: &mut Vec<u8>) {
    let mut from = 0;
    for (at, &byte) in text.iter().enumerate() {
        if byte >= b' ' && byte != b'"' && byte != b'\\' {
            continue;
        }
        to.extend_from_slice(&text[from..at]);
        from = at + 1;
        let digit = |half: u8| b"0123456789abcdef"[usize::from(half)];
        match byte {
            b'"' | b'\\' => to.extend_from_slice(&[b'\\', byte]),
            b'\n' => to.extend_from_slice(b"\\n"),
            b'\r' => to.extend_from_slice(b"\\r"),
            b'\t' => to.extend_from_slice(b"\\t"),
            _ => to.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]),
        }
    }
    to.extend_from_slice(&text[from..]);
}

/// The length of a beginning of `bytes` of at most `max` that ends with a character, if these are UTF-8.
fn whole_characters(bytes: &[u8], max: usize) -> usize {
    if bytes.len() <= max {
        return bytes.len();
    }
    let is_inside = |at: &usize| bytes[*at] & 0xc0 == 0x80;
    (max - 3..=max).rev().find(|at| !is_inside(at)).unwrap_or(max)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn written(form: AnswerForm, is_base64: bool, replies: &[u8], piece: usize) -> String {
        let mut answer = JsonAnswer::new(form, is_base64);
        let (mut whole, mut at) = (Vec::new(), 0);
        while at < replies.len() {
            let mut part = Vec::new();
            at = answer.write(replies, at, &mut part, piece);
            whole.append(&mut part);
        }
        answer.end(&mut whole);
        let text = String::from_utf8(whole).unwrap();
        assert!(serde_json::from_str::<Value>(&text).is_ok(), "{text}");
        text
    }

    #[track_caller]
    fn check(form: AnswerForm, is_base64: bool, replies: &str, expected: &str) {
        for piece in [1, 7, usize::MAX] {
            assert_eq!(written(form, is_base64, replies.as_bytes(), piece), expected);
        }
    }

    #[test]
    fn every_kind_of_reply() {
        for (reply, expected) in [
            ("+OK\r\n", r#"{"result":"OK"}"#),
            ("-ERR no \"x\"\r\n", r#"{"error":"ERR no \"x\""}"#),
            (":-7\r\n", r#"{"result":-7}"#),
            ("$3\r\na\tb\r\n", r#"{"result":"a\tb"}"#),
            ("$0\r\n\r\n", r#"{"result":""}"#),
            ("$-1\r\n", r#"{"result":null}"#),
            ("*-1\r\n", r#"{"result":null}"#),
            ("_\r\n", r#"{"result":null}"#),
            ("*0\r\n", r#"{"result":[]}"#),
            ("*3\r\n:1\r\n*2\r\n$1\r\na\r\n*0\r\n$-1\r\n", r#"{"result":[1,["a",[]],null]}"#),
            ("*1\r\n*1\r\n*1\r\n+x\r\n", r#"{"result":[[["x"]]]}"#),
            ("*2\r\n-ERR in\r\n:1\r\n", r#"{"result":["ERR in",1]}"#),
            ("%1\r\n+k\r\n,1.5\r\n", r#"{"result":["k","1.5"]}"#),
            ("~2\r\n#t\r\n#f\r\n", r#"{"result":[1,0]}"#),
            ("(12345678901234567890\r\n", r#"{"result":"12345678901234567890"}"#),
            ("!6\r\nERR no\r\n", r#"{"error":"ERR no"}"#),
        ] {
            check(AnswerForm::One, false, reply, expected);
            check(AnswerForm::Each, false, &reply.repeat(2), &format!("[{expected},{expected}]"));
            check(
                AnswerForm::Elements,
                false,
                &format!("*2\r\n{}", reply.repeat(2)),
                &format!("[{expected},{expected}]"),
            );
        }
        check(AnswerForm::Each, false, "", "[]");
        check(AnswerForm::Elements, false, "*0\r\n", "[]");
    }

    #[test]
    fn base64_of_strings_at_every_depth() {
        for (reply, expected) in [
            ("+OK\r\n", r#"{"result":"OK"}"#),
            ("$2\r\nOK\r\n", r#"{"result":"OK"}"#),
            ("+PONG\r\n", r#"{"result":"UE9ORw=="}"#),
            ("$3\r\nbar\r\n", r#"{"result":"YmFy"}"#),
            ("-ERR no\r\n", r#"{"error":"ERR no"}"#),
            ("*3\r\n$2\r\nok\r\n:1\r\n*2\r\n$2\r\nOK\r\n$0\r\n\r\n", r#"{"result":["b2s=",1,["OK",""]]}"#),
        ] {
            check(AnswerForm::One, true, reply, expected);
            check(AnswerForm::Each, true, reply, &format!("[{expected}]"));
        }
    }

    #[test]
    fn long_strings_are_written_in_pieces() {
        let text: String = "aé\u{1f600}\"\n".repeat(30_000);
        let reply = [format!("*2\r\n${}\r\n", text.len()).as_bytes(), text.as_bytes(), b"\r\n:1\r\n"].concat();
        let read = |json: &str| -> Value { serde_json::from_str::<Value>(json).unwrap()["result"].clone() };
        assert_eq!(read(&written(AnswerForm::One, false, &reply, 1 << 16)), serde_json::json!([text, 1]));
        let encoded = read(&written(AnswerForm::One, true, &reply, 1 << 16));
        assert_eq!(STANDARD.decode(encoded[0].as_str().unwrap()).unwrap(), text.as_bytes());
        let binary = vec![0x80; 200_000];
        let reply = [format!("${}\r\n", binary.len()).as_bytes(), &binary, b"\r\n"].concat();
        let lossy = read(&written(AnswerForm::One, false, &reply, 1 << 16));
        assert_eq!(lossy.as_str().unwrap(), String::from_utf8_lossy(&binary));
    }
}
