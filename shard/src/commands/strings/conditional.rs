//! Strings that are compared with a word, or by their digest: `SET ... IFEQ`, `DIGEST`, `DELEX`, `DELIFEQ`.
//!
//! A digest is XXH3 of 64 bits, as 16 hexadecimal digits. A client that has read a large value sends these instead of it.

use std::hash::Hasher;

use dormouse_protocol::{Reply, Request};
use dormouse_types::pace;
use twox_hash::XxHash3_64;

use super::told;
use crate::commands::args::{Rest, Word};
use crate::error::{Error, Result};
use crate::keyspace::{Keyspace, Text};

/// Bytes that are hashed at once.
const HASHED_AT_ONCE: usize = 256 << 10;

/// `IFEQ`, `IFNE`, `IFDEQ` or `IFDNE`: how a string must compare with a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Comparison {
    by_digest: bool,
    equal: bool,
}

impl Comparison {
    /// `word` is in upper case.
    pub fn named(word: &[u8]) -> Option<Self> {
        let (by_digest, equal) = match word {
            b"IFEQ" => (false, true),
            b"IFNE" => (false, false),
            b"IFDEQ" => (true, true),
            b"IFDNE" => (true, false),
            _ => return None,
        };
        Some(Self { by_digest, equal })
    }

    /// Whether a missing key meets it: nothing equals it, and everything differs from it.
    pub fn holds_for_missing(self) -> bool {
        !self.equal
    }

    /// Whether a string compares so with `word`. A digest may have any 16 characters. Those that are no digits match none.
    pub fn holds(self, text: Text<'_>, word: &[u8]) -> Result<bool> {
        let same = if !self.by_digest {
            text.with_bytes(|bytes| bytes == word)
        } else if word.len() == DIGITS {
            word.eq_ignore_ascii_case(&digest_of(text))
        } else {
            return Err(Error::text("ERR must be exactly 16 hexadecimal characters"));
        };
        Ok(same == self.equal)
    }
}

/// `DIGEST key`
pub(super) fn digest(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    match db.string(key)? {
        Some(text) => reply.bulk(&digest_of(text)),
        None => reply.null(),
    }
    Ok(())
}

/// `DELEX key [<IFEQ | IFNE> value | <IFDEQ | IFDNE> digest]`
///
/// Without a condition it deletes a value of any type. A condition is read when the string has been found, as in Redis.
pub(super) fn delex(db: &mut Keyspace<'_>, reply: &mut Reply, (key, condition): (&[u8], Rest<'_>)) -> Result<()> {
    const NO_STRING: Error = Error::text("ERR Key should be of string type if conditions are specified");
    const INVALID: Error = Error::text("ERR Invalid condition. Use IFEQ, IFNE, IFDEQ, or IFDNE");
    let wanted = match condition.len() {
        0 => true,
        2 => match db.string(key).map_err(|_| NO_STRING)? {
            None => false,
            Some(text) => {
                let comparison = Comparison::named(Word::new(condition.at(0)).as_bytes()).ok_or(INVALID)?;
                comparison.holds(text, condition.at(1))?
            }
        },
        _ => return Err(Error::WrongArity("delex".into())),
    };
    let deleted = wanted && db.delete(key);
    reply.integer(i64::from(deleted));
    Ok(())
}

/// `DELIFEQ key value`
pub(super) fn delifeq(db: &mut Keyspace<'_>, reply: &mut Reply, (key, value): (&[u8], &[u8])) -> Result<()> {
    db.reads_to_change();
    let wanted = db.string(key)?.is_some_and(|text| text.with_bytes(|bytes| bytes == value));
    let deleted = wanted && db.delete(key);
    reply.integer(i64::from(deleted));
    Ok(())
}

/// Whether a word makes a command look at all of a string, which a value to compare with does not: it is as long itself.
pub(super) fn asks_for_digest(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"IFDEQ") || word.eq_ignore_ascii_case(b"IFDNE")
}

pub(super) fn delex_cost(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    if request.get(2).is_some_and(asks_for_digest) { told(db, request) } else { 0 }
}

const DIGITS: usize = 16;

fn digest_of(text: Text<'_>) -> [u8; DIGITS] {
    let digest = text.with_bytes(|bytes| {
        if bytes.len() <= HASHED_AT_ONCE {
            return XxHash3_64::oneshot(bytes);
        }
        let mut hasher = XxHash3_64::new();
        for part in bytes.chunks(HASHED_AT_ONCE) {
            pace::step(part.len() / pace::BYTES_PER_ELEMENT);
            hasher.write(part);
        }
        hasher.finish()
    });
    std::array::from_fn(|at| b"0123456789abcdef"[(digest >> (60 - 4 * at) & 15) as usize])
}
