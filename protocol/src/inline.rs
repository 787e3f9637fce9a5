//! Inline requests: a line of words, as a user types into `telnet`.
//!
//! Words are separated by blanks. A word may be quoted, wholly or from some byte on: in double quotes, `\n`, `\r`,
//! `\t`, `\b`, `\a` and `\x41` have their meaning in C and `\` makes any other byte literal; in single quotes, only
//! `\'` is special. A closing quote ends the word, and a blank or the line's end must follow it.

use crate::error::ProtocolError;
use crate::request::Span;

/// Splits a line (without its end) into its words, without quotes.
///
/// # Errors
/// When a quote is not closed, or a word continues right after one.
pub fn split_words(line: &[u8]) -> Result<Vec<Vec<u8>>, ProtocolError> {
    let (mut spans, mut unquoted) = (Vec::new(), Vec::new());
    split(line, &mut spans, &mut unquoted)?;
    let words = if unquoted.is_empty() { line } else { &unquoted };
    Ok(spans.iter().map(|span| words[span.offset as usize..][..span.len as usize].to_vec()).collect())
}

/// Splits a line (without its end) into words. Without any quote, the spans refer to the line and `unquoted` stays
/// empty; otherwise they refer to `unquoted`, which then holds the bytes of all words.
pub(crate) fn split(line: &[u8], spans: &mut Vec<Span>, unquoted: &mut Vec<u8>) -> Result<(), ProtocolError> {
    if memchr::memchr2(b'"', b'\'', line).is_none() {
        split_plain(line, spans);
        return Ok(());
    }
    let mut rest = line;
    loop {
        rest = trim_start(rest);
        if rest.is_empty() {
            break;
        }
        let start = unquoted.len();
        rest = unquote_word(rest, unquoted)?;
        spans.push(Span { offset: start as u32, len: (unquoted.len() - start) as u32 });
    }
    Ok(())
}

fn split_plain(line: &[u8], spans: &mut Vec<Span>) {
    let mut rest = line;
    loop {
        rest = trim_start(rest);
        let len = rest.iter().position(|&byte| ends_word(byte)).unwrap_or(rest.len());
        if len == 0 {
            break;
        }
        spans.push(Span { offset: (line.len() - rest.len()) as u32, len: len as u32 });
        rest = &rest[len..];
    }
}

/// Appends the first word of `text` to `word`; returns the rest of `text`.
fn unquote_word<'a>(mut text: &'a [u8], word: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        match text {
            [b'"', rest @ ..] => return unquote_double(rest, word),
            [b'\'', rest @ ..] => return unquote_single(rest, word),
            &[byte, ref rest @ ..] if !ends_word(byte) => {
                word.push(byte);
                text = rest;
            }
            _ => return Ok(text),
        }
    }
}

fn unquote_double<'a>(mut text: &'a [u8], word: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        let (byte, rest) = match *text {
            [b'"', ref rest @ ..] => return after_quote(rest),
            [b'\\', b'x', high, low, ref rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                (hex_digit(high) << 4 | hex_digit(low), rest)
            }
            [b'\\', escaped, ref rest @ ..] => (unescape(escaped), rest),
            [byte, ref rest @ ..] => (byte, rest),
            [] => return Err(ProtocolError::UnbalancedQuotes),
        };
        word.push(byte);
        text = rest;
    }
}

fn unquote_single<'a>(mut text: &'a [u8], word: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        let (byte, rest) = match *text {
            [b'\'', ref rest @ ..] => return after_quote(rest),
            [b'\\', b'\'', ref rest @ ..] => (b'\'', rest),
            [byte, ref rest @ ..] => (byte, rest),
            [] => return Err(ProtocolError::UnbalancedQuotes),
        };
        word.push(byte);
        text = rest;
    }
}

fn after_quote(rest: &[u8]) -> Result<&[u8], ProtocolError> {
    match rest.first() {
        Some(&byte) if !is_blank(byte) => Err(ProtocolError::UnbalancedQuotes),
        _ => Ok(rest),
    }
}

fn unescape(escaped: u8) -> u8 {
    match escaped {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        plain => plain,
    }
}

fn hex_digit(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0',
        _ => (byte | 0x20) - b'a' + 10,
    }
}

fn trim_start(text: &[u8]) -> &[u8] {
    &text[text.iter().position(|&byte| !is_blank(byte)).unwrap_or(text.len())..]
}

/// C's `isspace`.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// A smaller set than the blanks before a word: vertical tab and form feed do not end one, as in Redis.
fn ends_word(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[u8]) -> Result<Vec<Vec<u8>>, ProtocolError> {
        let (mut spans, mut unquoted) = (Vec::new(), Vec::new());
        split(line, &mut spans, &mut unquoted)?;
        let bytes = if unquoted.is_empty() { line } else { &unquoted };
        Ok(spans.iter().map(|span| bytes[span.offset as usize..][..span.len as usize].to_vec()).collect())
    }

    #[test]
    fn words_and_quotes() {
        for (line, expected) in [
            (&b"PING"[..], &[&b"PING"[..]][..]),
            (b"", &[]),
            (b" \t ", &[]),
            (b"  SET\tk  v ", &[b"SET", b"k", b"v"]),
            (b"\x0b\x0cGET k\x0bv", &[b"GET", b"k\x0bv"]),
            (br#"SET k "a b""#, &[b"SET", b"k", b"a b"]),
            (br#""\x41\x6a\x4A""#, &[b"AjJ"]),
            (br#""\xZZ\x4""#, &[b"xZZx4"]),
            (br#""\n\r\t\b\a\\\"\q""#, &[b"\n\r\t\x08\x07\\\"q"]),
            (br#"'a\'b\n"'"#, &[br#"a'b\n""#]),
            (br#""""#, &[b""]),
            (br#"'' """#, &[b"", b""]),
            (br#"ab"c d" e"#, &[b"abc d", b"e"]),
            (b"\"a\"\x0bb", &[b"a", b"b"]),
            (br"a\nb", &[br"a\nb"]),
            (b"\"\xff\x00\"", &[b"\xff\x00"]),
        ] {
            assert_eq!(words(line).expect("balanced"), expected, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn unbalanced_quotes() {
        for line in [
            &br#"SET k "v"#[..],
            b"SET k 'v",
            br#""a"b"#,
            br#"'a'b"#,
            br#"'a'"b""#,
            b"\"",
            b"'",
            br#""a\"#,
            br#""a\""#,
            br"'a\'",
        ] {
            assert_eq!(words(line), Err(ProtocolError::UnbalancedQuotes), "{}", line.escape_ascii());
        }
    }
}
