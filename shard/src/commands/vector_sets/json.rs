//! Fields of attributes: the values of the members of a JSON object, as filters see them.
//!
//! Attributes are not checked when they are set, and Redis reads only as much of them as it needs. So what is malformed
//! behind a field does not matter, and what is not understood is no value. Strings have the escapes of quotes, backslashes,
//! `n`, `r` and `t`; another one is the character behind the backslash. Objects are no values.

use std::borrow::Cow;

use super::value::{NUMBER_BYTES_MAX, Value, number};

/// Arrays in arrays, at most: their elements equal nothing that a filter can name.
const DEPTH_MAX: usize = 64;

/// The value of an object's member.
pub(super) fn field<'a>(json: &'a [u8], name: &[u8]) -> Option<Value<'a>> {
    let mut scan = Scan(json);
    scan.skip_spaces();
    scan.take(b'{')?;
    loop {
        scan.skip_spaces();
        let key = scan.raw_string()?;
        scan.skip_spaces();
        scan.take(b':')?;
        scan.skip_spaces();
        if key == name {
            return scan.value(DEPTH_MAX);
        }
        scan.skip_value()?;
        scan.skip_spaces();
        scan.take(b',')?;
    }
}

/// The elements of an array, which is one that [`field`] has returned.
pub(super) fn elements(array: &[u8]) -> impl Iterator<Item = Value<'_>> {
    let mut scan = Scan(array.get(1..).unwrap_or_default());
    std::iter::from_fn(move || {
        scan.skip_spaces();
        if scan.0.first() == Some(&b']') {
            return None;
        }
        let value = scan.value(DEPTH_MAX)?;
        scan.skip_spaces();
        _ = scan.take(b',');
        Some(value)
    })
}

/// The rest of a text.
struct Scan<'a>(&'a [u8]);

impl<'a> Scan<'a> {
    fn skip_spaces(&mut self) {
        while let [first, rest @ ..] = self.0
            && is_space(*first)
        {
            self.0 = rest;
        }
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        self.0 = self.0.strip_prefix(&[byte])?;
        Some(())
    }

    fn run(&mut self, is_in: impl Fn(&u8) -> bool) -> &'a [u8] {
        let len = self.0.iter().take_while(|byte| is_in(byte)).count();
        let (run, rest) = self.0.split_at(len);
        self.0 = rest;
        run
    }

    /// A string between quotes, with its escapes as they are.
    fn raw_string(&mut self) -> Option<&'a [u8]> {
        self.take(b'"')?;
        let mut at = 0;
        loop {
            match self.0.get(at)? {
                b'\\' => at += 2,
                b'"' => break,
                _ => at += 1,
            }
        }
        let (string, rest) = self.0.split_at(at);
        self.0 = &rest[1..];
        Some(string)
    }

    fn skip_value(&mut self) -> Option<()> {
        match self.0.first()? {
            b'"' => self.raw_string().map(drop),
            b'{' => self.skip_nested(b'{', b'}'),
            b'[' => self.skip_nested(b'[', b']'),
            b't' => self.skip_word(b"true"),
            b'f' => self.skip_word(b"false"),
            b'n' => self.skip_word(b"null"),
            _ if self.run(is_of_number).is_empty() => None,
            _ => Some(()),
        }
    }

    fn skip_word(&mut self, word: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(word)?;
        Some(())
    }

    /// Skips to where as many brackets of one kind are closed as were opened.
    fn skip_nested(&mut self, open: u8, close: u8) -> Option<()> {
        let mut depth = 0usize;
        loop {
            match *self.0.first()? {
                b'"' => {
                    self.raw_string()?;
                    continue;
                }
                byte if byte == open => depth += 1,
                byte if byte == close => depth -= 1,
                _ => {}
            }
            self.0 = &self.0[1..];
            if depth == 0 {
                return Some(());
            }
        }
    }

    fn value(&mut self, depth: usize) -> Option<Value<'a>> {
        self.skip_spaces();
        match self.0.first()? {
            b'"' => self.raw_string().map(|raw| Value::Text(unescaped(raw))),
            b'[' => self.array(depth.checked_sub(1)?),
            b't' => self.word(b"true", Value::Number(1.0)),
            b'f' => self.word(b"false", Value::Number(0.0)),
            b'n' => self.word(b"null", Value::Null),
            b'0'..=b'9' | b'-' | b'+' => {
                let text = self.run(is_of_number);
                (text.len() <= NUMBER_BYTES_MAX).then(|| number(text).map(Value::Number))?
            }
            _ => None,
        }
    }

    /// A word that does not go on.
    fn word(&mut self, word: &[u8], value: Value<'a>) -> Option<Value<'a>> {
        self.skip_word(word)?;
        let ends = self.0.first().is_none_or(|next| is_space(*next) || matches!(next, b',' | b']' | b'}'));
        ends.then_some(value)
    }

    /// An array, which stays a text: its elements might take many times its memory.
    fn array(&mut self, depth: usize) -> Option<Value<'a>> {
        let text = self.0;
        self.take(b'[')?;
        self.skip_spaces();
        if self.take(b']').is_none() {
            loop {
                self.value(depth)?;
                self.skip_spaces();
                if self.take(b']').is_some() {
                    break;
                }
                self.take(b',')?;
            }
        }
        Some(Value::Array(&text[..text.len() - self.0.len()]))
    }
}

/// A space in the terms of C.
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

fn is_of_number(byte: &u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')
}

fn unescaped(raw: &[u8]) -> Cow<'_, [u8]> {
    if !raw.contains(&b'\\') {
        return Cow::Borrowed(raw);
    }
    let mut text = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter();
    while let Some(byte) = bytes.next() {
        text.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(other) => *other,
                None => break,
            },
            byte => *byte,
        });
    }
    Cow::Owned(text)
}
