//! The replies in a stream of bytes, found without reading any byte twice.

use std::io;

use dormouse_protocol::ReplyHead;

/// The longest first line of a reply.
const LINE_BYTES_MAX: usize = 64 << 10;
/// The longest reply.
const REPLY_BYTES_MAX: usize = 1 << 30;

/// Finds the end of the reply at the start of a buffer that grows.
#[derive(Debug)]
pub struct ReplyScanner {
    /// The start of the first line that has not been read.
    at: usize,
    /// Replies still to come within this one, which is one itself.
    open: u64,
}

impl Default for ReplyScanner {
    fn default() -> Self {
        Self { at: 0, open: 1 }
    }
}

impl ReplyScanner {
    /// The length of the first reply in `bytes`, or `None` if it is incomplete. Until then `bytes` may only grow.
    ///
    /// # Errors
    /// When the bytes are no reply, or one above the limits.
    pub fn scan(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        while self.open > 0 {
            let rest = bytes.get(self.at..).unwrap_or_default();
            let Some((head, _, used)) = ReplyHead::first(rest) else {
                let line = &rest[..rest.len().min(LINE_BYTES_MAX)];
                let is_whole = memchr::memmem::find(line, b"\r\n").is_some();
                return if is_whole || line.len() == LINE_BYTES_MAX { Err(no_reply()) } else { Ok(None) };
            };
            let (more, follow) = match head {
                ReplyHead::Line | ReplyHead::Null | ReplyHead::Bulk(_, None) | ReplyHead::Many(_, None) => (0, 0),
                ReplyHead::Bulk(_, Some(length)) => (0, length.saturating_add(2)),
                ReplyHead::Many(_, Some(count)) => (count, 0),
                ReplyHead::Attribute(count) => (count.saturating_add(1), 0),
            };
            let end = u64::try_from(self.at + used).unwrap_or(u64::MAX).saturating_add(follow);
            self.at = usize::try_from(end).ok().filter(|end| *end <= REPLY_BYTES_MAX).ok_or_else(no_reply)?;
            self.open = (self.open - 1).saturating_add(more);
        }
        if self.at > bytes.len() {
            return Ok(None);
        }
        Ok(Some(std::mem::take(self).at))
    }
}

fn no_reply() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it does not answer as a Redis server does")
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLIES: &[&str] = &[
        "+OK\r\n",
        ":-7\r\n",
        "$3\r\na\r\n\r\n",
        "$-1\r\n",
        "*-1\r\n",
        "*0\r\n",
        "*2\r\n*1\r\n:1\r\n$2\r\nab\r\n",
        "%1\r\n+k\r\n~2\r\n:1\r\n:2\r\n",
        ">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n",
        "|1\r\n+ttl\r\n:5\r\n_\r\n",
        "#t\r\n",
        "-ERR no\r\n",
    ];

    #[test]
    fn replies_are_found_in_pieces_of_every_size() {
        let all = REPLIES.concat();
        for size in 1..20 {
            let (mut scanner, mut buffer, mut found) = (ReplyScanner::default(), Vec::new(), Vec::new());
            for piece in all.as_bytes().chunks(size) {
                buffer.extend_from_slice(piece);
                while let Some(length) = scanner.scan(&buffer).unwrap() {
                    found.push(String::from_utf8(buffer.drain(..length).collect()).unwrap());
                }
            }
            assert_eq!(found, REPLIES, "{size}");
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for bytes in ["HTTP/1.1 400 Bad Request\r\n", "$x\r\n", "*-2\r\n", "$99999999999\r\n", "\r\n"] {
            assert!(ReplyScanner::default().scan(bytes.as_bytes()).is_err(), "{bytes}");
        }
        assert!(ReplyScanner::default().scan(&[b'+'; LINE_BYTES_MAX]).is_err());
        assert!(matches!(ReplyScanner::default().scan(b"+O"), Ok(None)));
    }
}
