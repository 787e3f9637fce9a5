//! Replies as a client reads them, in RESP2 and RESP3.
//!
//! A reply is read once, from its first byte to its last, and uses memory only for bytes that have arrived: an
//! announced length is believed only as its bytes come. The depth of nesting, the length of a line and the length of a
//! string are bounded.

use std::fmt;
use std::io::{self, BufRead, Read as _};

/// The longest first line of a reply.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// The longest string.
const BULK_BYTES_MAX: u64 = 512 << 20;
const DEPTH_MAX: usize = 16;

/// A reply with its numbers as they were spelled: two are equal if their bytes are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Response {
    /// `+ - : , # (` and the text up to the line's end.
    Line(char, String),
    /// `$ = !`, or a null one (`$-1`).
    Bulk(char, Option<Vec<u8>>),
    /// `* ~ % >`, a map's keys and values in turn, or a null one (`*-1`).
    Many(char, Option<Vec<Response>>),
    /// RESP3's `_`.
    Null,
}

impl Response {
    /// Reads one reply. Attributes before it are skipped.
    ///
    /// # Errors
    /// Those of `input`, [`io::ErrorKind::UnexpectedEof`] if it ends too early, and [`io::ErrorKind::InvalidData`] if
    /// the bytes are not a reply or exceed a limit.
    pub fn read(input: &mut impl BufRead) -> io::Result<Self> {
        read(input, 0)
    }

    /// Reads the beginning of a reply.
    ///
    /// Of an array, that is the number of its elements, which the caller then reads one by one, so a large array is
    /// never in memory whole; any other reply is read to its end.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_array(input: &mut impl BufRead) -> io::Result<Result<u64, Self>> {
        let line = read_line(input)?;
        match ReplyHead::of(&line) {
            Some(ReplyHead::Many(b'*', Some(count))) => Ok(Ok(count)),
            head => read_rest(input, &line, head, 0).map(Err),
        }
    }

    /// The length of the first reply in `bytes`; `None` if it is incomplete.
    pub fn length(bytes: &[u8]) -> Option<usize> {
        let mut at = 0_usize;
        // Replies still to be read: nested replies need no recursion.
        let mut open: u64 = 1;
        while open > 0 {
            let (head, _, used) = ReplyHead::first(bytes.get(at..)?)?;
            at += used;
            open -= 1;
            match head {
                ReplyHead::Line | ReplyHead::Null | ReplyHead::Bulk(_, None) | ReplyHead::Many(_, None) => {}
                ReplyHead::Bulk(_, Some(length)) => {
                    at = at.checked_add(usize::try_from(length).ok()?)?.checked_add(2)?
                }
                ReplyHead::Many(_, Some(count)) => open = open.checked_add(count)?,
                ReplyHead::Attribute(count) => open = open.checked_add(count)?.checked_add(1)?,
            }
        }
        (at <= bytes.len()).then_some(at)
    }

    pub fn error(text: &str) -> Self {
        Self::Line('-', text.into())
    }

    pub fn is_error(&self) -> bool {
        matches!(self, Self::Line('-', _) | Self::Bulk('!', _))
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null | Self::Bulk(_, None) | Self::Many(_, None))
    }

    /// Turns an error reply into `Err`, for a caller that treats any other reply as success.
    ///
    /// # Errors
    /// The error's text.
    pub fn checked(self) -> Result<Self, String> {
        match self {
            Self::Line('-', text) => Err(text),
            Self::Bulk('!', Some(text)) => Err(String::from_utf8_lossy(&text).into_owned()),
            reply => Ok(reply),
        }
    }

    /// The elements of an array, set, map or push.
    pub fn items(&self) -> Option<&[Response]> {
        if let Self::Many(_, Some(items)) = self { Some(items) } else { None }
    }

    /// The content of a line or a string.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Line(_, line) => Some(line.as_bytes()),
            Self::Bulk(_, Some(bytes)) => Some(bytes),
            _ => None,
        }
    }

    /// The content of a status or a string, if it is UTF-8.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Line('+', line) => Some(line),
            Self::Bulk(_, Some(bytes)) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The value of `name` in a map, or in RESP2's list of alternating names and values.
    pub fn at(&self, name: &str) -> Option<&Response> {
        let mut pairs = self.items()?.chunks_exact(2);
        pairs.find(|pair| pair[0].text() == Some(name)).map(|pair| &pair[1])
    }

    /// The value of a number, or of a text that spells one.
    pub fn number(&self) -> Option<f64> {
        std::str::from_utf8(self.bytes()?).ok()?.parse().ok()
    }

    /// An integer (`:`).
    pub fn integer(&self) -> Option<i64> {
        if let Self::Line(':', digits) = self { digits.parse().ok() } else { None }
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(kind, line) => write!(f, "{kind}{line}"),
            Self::Bulk(kind, None) => write!(f, "{kind}-1"),
            Self::Bulk(kind, Some(bytes)) if bytes.len() > 200 => {
                write!(f, "{kind}\"{}...\" ({} bytes)", bytes[..100].escape_ascii(), bytes.len())
            }
            Self::Bulk('$', Some(bytes)) => write!(f, "\"{}\"", bytes.escape_ascii()),
            Self::Bulk(kind, Some(bytes)) => write!(f, "{kind}\"{}\"", bytes.escape_ascii()),
            Self::Many(kind, None) => write!(f, "{kind}-1"),
            Self::Many(kind, Some(items)) => {
                write!(f, "{kind}")?;
                f.debug_list().entries(items.iter().take(60)).finish()?;
                if items.len() > 60 { write!(f, " ({} items)", items.len()) } else { Ok(()) }
            }
            Self::Null => write!(f, "_"),
        }
    }
}

/// The meaning of a reply's first line, for readers that need no tree of the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyHead {
    /// The line is the whole reply.
    Line,
    Null,
    /// This many bytes and a line end follow.
    Bulk(u8, Option<u64>),
    /// This many replies follow.
    Many(u8, Option<u64>),
    /// This many replies follow, and then the one that they describe.
    Attribute(u64),
}

impl ReplyHead {
    /// The first head in `bytes`, its line, and the length of the line with its end; `None` if it is incomplete.
    pub fn first(bytes: &[u8]) -> Option<(Self, &[u8], usize)> {
        let end = memchr::memchr(b'\r', bytes)?;
        // Only a text can have a CR in its line.
        let end = match bytes.get(end + 1)? {
            b'\n' => end,
            _ => memchr::memmem::find(bytes, b"\r\n")?,
        };
        let line = &bytes[..end];
        Some((Self::of(line)?, line, end + 2))
    }

    /// Decodes a first line; `None` if no reply begins with it.
    fn of(line: &[u8]) -> Option<ReplyHead> {
        let (&kind, rest) = line.split_first()?;
        let number = || std::str::from_utf8(rest).ok()?.parse::<i64>().ok();
        let length = || match number()? {
            -1 => Some(None),
            length => Some(Some(u64::try_from(length).ok()?)),
        };
        let pairs = || length()?.and_then(|pairs| pairs.checked_mul(2));
        match kind {
            b'+' | b'-' | b',' | b'#' | b'(' => Some(ReplyHead::Line),
            b':' => number().map(|_| ReplyHead::Line),
            b'_' => rest.is_empty().then_some(ReplyHead::Null),
            b'$' | b'=' | b'!' => Some(ReplyHead::Bulk(kind, length()?)),
            b'*' | b'~' | b'>' => Some(ReplyHead::Many(kind, length()?)),
            b'%' => Some(ReplyHead::Many(kind, Some(pairs()?))),
            b'|' => Some(ReplyHead::Attribute(pairs()?)),
            _ => None,
        }
    }
}

fn read(input: &mut impl BufRead, depth: usize) -> io::Result<Response> {
    let line = read_line(input)?;
    read_rest(input, &line, ReplyHead::of(&line), depth)
}

fn read_rest(input: &mut impl BufRead, line: &[u8], head: Option<ReplyHead>, depth: usize) -> io::Result<Response> {
    Ok(match head {
        Some(ReplyHead::Line) => Response::Line(char::from(line[0]), String::from_utf8_lossy(&line[1..]).into_owned()),
        Some(ReplyHead::Null) => Response::Null,
        Some(ReplyHead::Bulk(kind, None)) => Response::Bulk(char::from(kind), None),
        Some(ReplyHead::Bulk(kind, Some(length))) if length <= BULK_BYTES_MAX => {
            let mut bytes = Vec::new();
            let read = input.by_ref().take(length + 2).read_to_end(&mut bytes)?;
            if (read as u64) < length + 2 {
                return Err(ended());
            }
            if !bytes.ends_with(b"\r\n") {
                return Err(no_reply(line));
            }
            bytes.truncate(length as usize);
            Response::Bulk(char::from(kind), Some(bytes))
        }
        Some(ReplyHead::Many(kind, None)) => Response::Many(char::from(kind), None),
        Some(ReplyHead::Many(kind, Some(count))) if depth < DEPTH_MAX => {
            let mut items = Vec::new();
            for _ in 0..count {
                items.push(read(input, depth + 1)?);
            }
            Response::Many(char::from(kind), Some(items))
        }
        Some(ReplyHead::Attribute(count)) if depth < DEPTH_MAX => {
            for _ in 0..count {
                read(input, depth + 1)?;
            }
            // One level deeper, so a server cannot send attributes forever.
            read(input, depth + 1)?
        }
        _ => return Err(no_reply(line)),
    })
}

/// A line without its end.
fn read_line(input: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    match line.strip_suffix(b"\r\n") {
        Some(text) => {
            line.truncate(text.len());
            Ok(line)
        }
        None if line.ends_with(b"\n") || line.len() as u64 == LINE_BYTES_MAX => Err(no_reply(&line)),
        None => Err(ended()),
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed")
}

fn no_reply(line: &[u8]) -> io::Error {
    let start = &line[..line.len().min(80)];
    io::Error::new(io::ErrorKind::InvalidData, format!("a reply that starts with \"{}\"", start.escape_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> io::Result<Response> {
        let mut rest = bytes;
        let read = Response::read(&mut rest)?;
        assert_eq!(Response::length(bytes), Some(bytes.len() - rest.len()), "{}", bytes.escape_ascii());
        Ok(read)
    }

    #[test]
    fn every_kind_is_read() {
        for (bytes, shown) in [
            ("+OK\r\n", "+OK"),
            ("-ERR no\r\n", "-ERR no"),
            (":-7\r\n", ":-7"),
            (",1.5e3\r\n", ",1.5e3"),
            ("#t\r\n", "#t"),
            ("(123456789012345678901234567890\r\n", "(123456789012345678901234567890"),
            ("_\r\n", "_"),
            ("$4\r\na\r\nb\r\n", "\"a\\r\\nb\""),
            ("$0\r\n\r\n", "\"\""),
            ("$-1\r\n", "$-1"),
            ("=7\r\ntxt:abc\r\n", "=\"txt:abc\""),
            ("!6\r\nERR no\r\n", "!\"ERR no\""),
            ("*-1\r\n", "*-1"),
            ("*2\r\n*1\r\n$-1\r\n%1\r\n+k\r\n_\r\n", "*[*[$-1], %[+k, _]]"),
            (">2\r\n+m\r\n~0\r\n", ">[+m, ~[]]"),
            ("|1\r\n+ttl\r\n:5\r\n*1\r\n+OK\r\n", "*[+OK]"),
        ] {
            assert_eq!(format!("{:?}", read(bytes.as_bytes()).unwrap()), shown, "{bytes:?}");
            let mut behind = &[bytes.as_bytes(), b"+next\r\n"].concat()[..];
            Response::read(&mut behind).unwrap();
            assert_eq!(behind, b"+next\r\n", "{bytes:?}");
            for end in 0..bytes.len() {
                let cut = &bytes.as_bytes()[..end];
                assert_eq!(read(cut).unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{}", cut.escape_ascii());
                assert_eq!(Response::length(cut), None, "{}", cut.escape_ascii());
            }
        }
    }

    #[test]
    fn what_is_no_reply_ends_in_an_error() {
        for bytes in [
            &b"?\r\n"[..],
            b"\r\n",
            b"+no carriage return\n",
            b":x\r\n",
            b"$99999999999\r\n",
            b"$-2\r\n",
            b"$2\r\nabcd",
            b"*x\r\n",
            b"%-1\r\n",
            b"HTTP/1.1 400\r\n",
            b"\xc3\xa9\r\n",
        ] {
            let error = Response::read(&mut &*bytes).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{}", bytes.escape_ascii());
        }
        // Nothing is allocated for an announced length alone, and the recursion is bounded.
        for bytes in [
            b"$536870912\r\nab".to_vec(),
            b"*9000000000000000000\r\n:1\r\n".to_vec(),
            b"%9223372036854775807\r\n:1\r\n".to_vec(),
            b"*1\r\n".repeat(100_000),
            b"|0\r\n".repeat(100_000),
            vec![b'+'; 1 << 20],
        ] {
            assert!(Response::read(&mut &bytes[..]).is_err());
            assert_eq!(Response::length(&bytes), None);
        }
    }

    #[test]
    fn arrays_are_read_in_pieces() {
        let mut bytes = &b"*2\r\n:1\r\n:2\r\n*-1\r\n-ERR no\r\n"[..];
        assert_eq!(Response::read_array(&mut bytes).unwrap(), Ok(2));
        assert_eq!(Response::read(&mut bytes).unwrap().integer(), Some(1));
        assert_eq!(Response::read(&mut bytes).unwrap().number(), Some(2.0));
        assert!(Response::read_array(&mut bytes).unwrap().is_err_and(|reply| reply.is_null()));
        let refusal = Response::read_array(&mut bytes).unwrap().unwrap_err();
        assert!(refusal.is_error());
        assert_eq!(refusal.checked(), Err("ERR no".to_owned()));
    }
}
