//! A reply in the other version of the protocol.
//!
//! A reply is a run of heads, each with its text if it has one. How deeply replies are nested does not matter: an aggregate
//! has as many replies in both versions, a map's keys and values in turn.

use crate::Version;

/// Returns a whole reply of the other version as one of version `to`; `None` if the bytes are no replies.
///
/// RESP2 has no types of its own for what RESP3 tells apart, so a double stays a string on the way to RESP3.
pub fn translate(reply: &[u8], to: Version) -> Option<Vec<u8>> {
    let mut translated = Vec::with_capacity(reply.len() + 16);
    let mut rest = reply;
    while !rest.is_empty() {
        let line = &rest[..memchr::memmem::find(rest, b"\r\n")?];
        rest = &rest[line.len() + 2..];
        let (kind, head) = line.split_first()?;
        let text = match kind {
            b'$' | b'=' | b'!' if head != b"-1" => {
                let length: usize = std::str::from_utf8(head).ok()?.parse().ok()?;
                let text = rest.get(..length)?;
                rest = rest.get(length..)?.strip_prefix(b"\r\n")?;
                Some(text)
            }
            _ => None,
        };
        match to {
            Version::Resp2 => write_resp2(&mut translated, *kind, head, text)?,
            Version::Resp3 => match (kind, head) {
                (b'$' | b'*', b"-1") => translated.extend_from_slice(b"_\r\n"),
                _ => write(&mut translated, *kind, head, text),
            },
        }
    }
    Some(translated)
}

fn write_resp2(out: &mut Vec<u8>, kind: u8, head: &[u8], text: Option<&[u8]>) -> Option<()> {
    match (kind, text) {
        (b'_', _) => write(out, b'$', b"-1", None),
        (b'#', _) => write(out, b':', if head == b"t" { b"1" } else { b"0" }, None),
        (b',' | b'(', _) => bulk(out, head),
        // A verbatim string begins with its format: `txt:`.
        (b'=', Some(text)) => bulk(out, text.get(4..)?),
        (b'!', Some(text)) => write(out, b'-', text, None),
        (b'%', _) => {
            let pairs: usize = std::str::from_utf8(head).ok()?.parse().ok()?;
            write(out, b'*', pairs.checked_mul(2)?.to_string().as_bytes(), None);
        }
        (b'~' | b'>', _) => write(out, b'*', head, None),
        (b'|', _) => return None,
        _ => write(out, kind, head, text),
    }
    Some(())
}

fn write(out: &mut Vec<u8>, kind: u8, head: &[u8], text: Option<&[u8]>) {
    out.push(kind);
    out.extend_from_slice(head);
    out.extend_from_slice(b"\r\n");
    if let Some(text) = text {
        out.extend_from_slice(text);
        out.extend_from_slice(b"\r\n");
    }
}

fn bulk(out: &mut Vec<u8>, text: &[u8]) {
    write(out, b'$', text.len().to_string().as_bytes(), Some(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_has_the_types_of_the_other_version() {
        for (resp3, resp2) in [
            ("+OK\r\n", "+OK\r\n"),
            ("-ERR no\r\n", "-ERR no\r\n"),
            (":-7\r\n", ":-7\r\n"),
            ("$4\r\na\r\nb\r\n", "$4\r\na\r\nb\r\n"),
            ("_\r\n", "$-1\r\n"),
            ("#t\r\n", ":1\r\n"),
            ("#f\r\n", ":0\r\n"),
            (",1.5e3\r\n", "$5\r\n1.5e3\r\n"),
            ("(12345678901234567890\r\n", "$20\r\n12345678901234567890\r\n"),
            ("=7\r\ntxt:abc\r\n", "$3\r\nabc\r\n"),
            ("!6\r\nERR no\r\n", "-ERR no\r\n"),
            ("*2\r\n%1\r\n+k\r\n_\r\n~1\r\n:1\r\n", "*2\r\n*2\r\n+k\r\n$-1\r\n*1\r\n:1\r\n"),
            ("*0\r\n+OK\r\n", "*0\r\n+OK\r\n"),
        ] {
            let translated = translate(resp3.as_bytes(), Version::Resp2).expect("a reply");
            assert_eq!(String::from_utf8_lossy(&translated), resp2);
        }
        for (resp2, resp3) in [("$-1\r\n", "_\r\n"), ("*-1\r\n", "_\r\n"), ("*1\r\n$1\r\n1\r\n", "*1\r\n$1\r\n1\r\n")] {
            let translated = translate(resp2.as_bytes(), Version::Resp3).expect("a reply");
            assert_eq!(String::from_utf8_lossy(&translated), resp3);
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for bytes in
            ["+OK", "\r\n", "$3\r\nab\r\n", "$x\r\n", "$99999999999999999999\r\n", "=2\r\nab\r\n", "%x\r\n", "|1\r\n"]
        {
            assert_eq!(translate(bytes.as_bytes(), Version::Resp2), None, "{bytes:?}");
        }
    }
}
