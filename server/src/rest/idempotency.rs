//! `Idempotency-Key`: requests that are run once, however often they are sent.
//!
//! The header has the key of a request, and `Idempotency-TTL` the seconds for which a repetition is recognized. The request is
//! written with `ONCE`, so receipts, what they survive, and their errors are those of [`once`]:
//!
//! - A command becomes `ONCE key ttl command`.
//! - The n-th command of a pipeline gets the key `key/n`. A pipeline that was cut short and is sent again runs the rest.
//! - The commands of a transaction stay as they are, and its `EXEC` gets the key.
//!
//! Commands that only read, and those that are not over keys, run each time. With a receipt, each read would be a write to the
//! log, a read-only token could not repeat anything, and a repetition would get no reply of more than 1 MiB.

use std::borrow::Cow;

use dormouse_protocol::Request;
use dormouse_shard::commands::Flags;
use dormouse_shard::execution::once;
use hyper::header::HeaderMap;

use crate::commands::TABLE;
use crate::table::Handler;

const KEY: &str = "idempotency-key";
const TTL: &str = "idempotency-ttl";

/// The longest key of a request: that of a command is this and its number.
const KEY_BYTES_MAX: usize = 256;
const TTL_SECONDS_DEFAULT: u64 = 24 * 60 * 60;
const TTL_SECONDS_MAX: u64 = once::TTL_MS_MAX / 1000;

/// Most commands of a pipeline with a key, whose words take more memory than those of the client.
pub const COMMANDS_MAX: usize = 10_000;

/// Most bytes of the words in front of a command beside the key: `ONCE`, the number and the time, with RESP's lengths.
const WORDS_BYTES: usize = 64;

/// The key of a request, and the time for which it is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    key: Box<[u8]>,
    /// Milliseconds, as `ONCE` takes them.
    ttl_ms: Box<str>,
}

impl IdempotencyKey {
    /// The key in the headers of a request, if they have one.
    ///
    /// # Errors
    /// The text of a refusal, when the key or the time is malformed.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, String> {
        let only = |name: &'static str| {
            let mut values = headers.get_all(name).iter();
            let first = values.next();
            if values.next().is_some() {
                return Err(format!("ERR more than one {name} header"));
            }
            Ok(first)
        };
        let (key, ttl) = (only(KEY)?, only(TTL)?);
        let Some(key) = key else {
            return match ttl {
                Some(_) => Err("ERR Idempotency-TTL needs an Idempotency-Key".to_owned()),
                None => Ok(None),
            };
        };
        let key = key.as_bytes();
        if !(1..=KEY_BYTES_MAX).contains(&key.len()) || !key.iter().all(u8::is_ascii_graphic) {
            return Err(format!("ERR invalid Idempotency-Key: expected 1 to {KEY_BYTES_MAX} visible ASCII characters"));
        }
        let seconds = match ttl {
            Some(ttl) => ttl.to_str().ok().and_then(|text| text.parse::<u64>().ok()),
            None => Some(TTL_SECONDS_DEFAULT),
        };
        let Some(seconds) = seconds.filter(|seconds| (1..=TTL_SECONDS_MAX).contains(seconds)) else {
            return Err(format!(
                "ERR invalid Idempotency-TTL: expected a number of seconds from 1 to {TTL_SECONDS_MAX}"
            ));
        };
        Ok(Some(Self { key: key.into(), ttl_ms: (seconds * 1000).to_string().into() }))
    }

    /// The words in front of a command; `number`: its place in a pipeline, from 1 on.
    pub fn words(&self, number: Option<usize>) -> [Cow<'_, [u8]>; once::WORDS] {
        let key = match number {
            Some(number) => [&*self.key, b"/", number.to_string().as_bytes()].concat().into(),
            None => Cow::from(&*self.key),
        };
        [Cow::from(&b"ONCE"[..]), key, self.ttl_ms.as_bytes().into()]
    }

    /// Most bytes that these words take.
    pub fn words_bytes(&self) -> usize {
        self.key.len() + WORDS_BYTES
    }
}

/// Whether a command is run once: `named` has its name, and its subcommand if it has one.
pub fn is_kept(named: Request<'_>) -> bool {
    TABLE
        .named(named)
        .is_some_and(|entry| matches!(entry.action, Handler::Keyspace(_)) && !entry.row.flags.contains(Flags::READ))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn read(headers: &[(&'static str, &str)]) -> Result<Option<Vec<String>>, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let text = |word: &Cow<'_, [u8]>| String::from_utf8(word.to_vec()).unwrap();
        let read = IdempotencyKey::of(&map)?;
        Ok(read.map(|key| key.words(Some(7)).iter().map(text).collect()))
    }

    #[test]
    fn headers_are_checked() {
        let long = "k".repeat(KEY_BYTES_MAX);
        assert_eq!(read(&[]), Ok(None));
        for (headers, key, ttl) in [
            (&[(KEY, "a")][..], "a", "86400000"),
            (&[(KEY, "\"quoted\""), (TTL, "1")], "\"quoted\"", "1000"),
            (&[(KEY, long.as_str()), (TTL, "604800")], long.as_str(), "604800000"),
        ] {
            let words = vec!["ONCE".to_owned(), format!("{key}/7"), ttl.to_owned()];
            assert_eq!(read(headers), Ok(Some(words)), "{headers:?}");
        }
        let longer = format!("{long}k");
        for (headers, part) in [
            (&[(KEY, "")][..], "invalid Idempotency-Key"),
            (&[(KEY, "a b")], "invalid Idempotency-Key"),
            (&[(KEY, "é")], "invalid Idempotency-Key"),
            (&[(KEY, longer.as_str())], "invalid Idempotency-Key"),
            (&[(KEY, "a"), (KEY, "a")], "more than one idempotency-key"),
            (&[(KEY, "a"), (TTL, "0")], "invalid Idempotency-TTL"),
            (&[(KEY, "a"), (TTL, "604801")], "invalid Idempotency-TTL"),
            (&[(KEY, "a"), (TTL, "1h")], "invalid Idempotency-TTL"),
            (&[(KEY, "a"), (TTL, "-1")], "invalid Idempotency-TTL"),
            (&[(KEY, "a"), (TTL, "1"), (TTL, "1")], "more than one idempotency-ttl"),
            (&[(TTL, "1")], "needs an Idempotency-Key"),
        ] {
            let problem = read(headers).unwrap_err();
            assert!(problem.contains(part), "{headers:?}: {problem}");
        }
    }

    #[test]
    fn the_words_of_a_key_have_a_bound() {
        for key in ["a".to_owned(), "k".repeat(KEY_BYTES_MAX)] {
            let mut headers = HeaderMap::new();
            headers.insert(KEY, key.parse().unwrap());
            headers.insert(TTL, TTL_SECONDS_MAX.into());
            let key = IdempotencyKey::of(&headers).unwrap().unwrap();
            let written =
                key.words(Some(COMMANDS_MAX)).iter().fold(0, |sum, word| sum + word.len() + b"$123\r\n\r\n".len());
            assert!(written <= key.words_bytes(), "{written}");
        }
    }

    #[test]
    fn commands_that_change_keys_are_kept() {
        for (words, expected) in [
            (&[&b"INCR"[..], b"n"][..], true),
            (&[b"set", b"k"], true),
            (&[b"XGROUP", b"create"], true),
            (&[b"EVALSHA", b"x"], true),
            (&[b"FCALL", b"x"], true),
            (&[b"FLUSHALL"], true),
            (&[b"GETEX", b"k"], true),
            (&[b"GET", b"k"], false),
            (&[b"EVAL_RO", b"x"], false),
            (&[b"XINFO", b"stream"], false),
            (&[b"XGROUP"], false),
            (&[b"XGROUP", b"nothing"], false),
            (&[b"PING"], false),
            (&[b"PUBLISH", b"c"], false),
            (&[b"ONCE", b"k"], false),
            (&[b"nothing", b"k"], false),
        ] {
            let owned = dormouse_protocol::OwnedRequest::from_args(words);
            assert_eq!(is_kept(owned.as_request()), expected, "{owned:?}");
        }
    }
}
