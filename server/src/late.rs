//! Replies that waited too long for the log, or in vain.
//!
//! The writes that they report are done in memory and cannot be undone. But a client must receive a reply before it
//! gives up and repeats its write. So each reply that still waits becomes an error that says that the outcome is
//! unknown. Each error stands in its command's place, so later replies are not mixed up. Errors and messages stay as
//! they are. A read of the same locked batch as a late write becomes an error too.

use dormouse_protocol::Response;
use dormouse_storage::log::Lsn;

/// Replies that may not leave before the log is durable up to `lsn`: bytes of the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Awaiting {
    pub from: usize,
    pub to: usize,
    pub lsn: Lsn,
}

/// The error for a reply that can never be sent, as the log was sealed.
pub const TAKEN_OVER: &str = "UNCERTAIN the store was taken over by another process before the log was durable. A write was \
                              done once and is not undone; whether the other process has it is unknown";

/// The error for a reply that waited for `limit_ms` in vain.
pub fn text(limit_ms: u128, problem: Option<&str>) -> String {
    let why = problem.map(|problem| format!(" ({problem})")).unwrap_or_default();
    format!(
        "UNCERTAIN no reply within {limit_ms} ms: the log is not durable yet{why}. A write was done once and is not \
         undone; whether a crash would keep it is unknown"
    )
}

/// Replaces replies that are not durable at `flushed` by an error with this text. Returns the number of replaced
/// replies; `None` if the buffer holds anything but replies.
pub fn replace(buffer: &mut Vec<u8>, awaiting: &[Awaiting], flushed: Lsn, text: &str) -> Option<usize> {
    let mut replaced = 0;
    let mut out = Vec::with_capacity(buffer.len());
    let mut at = 0;
    for part in awaiting.iter().filter(|part| part.lsn > flushed) {
        let end = part.to.min(buffer.len());
        let from = part.from.clamp(at, end.max(at));
        out.extend_from_slice(&buffer[at..from]);
        at = from;
        while at < end {
            let length = Response::length(&buffer[at..])?;
            if matches!(buffer[at], b'-' | b'!' | b'>') {
                out.extend_from_slice(&buffer[at..at + length]);
            } else {
                out.extend_from_slice(format!("-{text}\r\n").as_bytes());
                replaced += 1;
            }
            at += length;
        }
    }
    out.extend_from_slice(&buffer[at..]);
    *buffer = out;
    Some(replaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reply_that_waits_becomes_one_error() {
        let parts = [
            "+OK\r\n",
            ":1\r\n",
            "$5\r\n-a\r\nb\r\n",
            "*2\r\n*1\r\n$-1\r\n%1\r\n+k\r\n_\r\n",
            "-ERR no\r\n",
            ">2\r\n+m\r\n+n\r\n",
            "+last\r\n",
        ];
        let whole = parts.concat();
        let start = |part: usize| parts[..part].concat().len();
        let mut buffer = whole.clone().into_bytes();
        let awaiting =
            [Awaiting { from: start(1), to: start(2), lsn: 5 }, Awaiting { from: start(2), to: start(6), lsn: 9 }];
        assert_eq!(replace(&mut buffer, &awaiting, 9, "late"), Some(0));
        assert_eq!(buffer, whole.as_bytes());
        assert_eq!(replace(&mut buffer, &awaiting, 5, "late"), Some(2));
        let expected = "+OK\r\n:1\r\n-late\r\n-late\r\n-ERR no\r\n>2\r\n+m\r\n+n\r\n+last\r\n";
        assert_eq!(String::from_utf8(buffer).unwrap(), expected);
        let mut torn = b"$5\r\nab".to_vec();
        assert_eq!(replace(&mut torn, &[Awaiting { from: 0, to: 6, lsn: 1 }], 0, "late"), None);
    }
}
