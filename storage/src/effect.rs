//! Effects: what a write came down to, one key at a time.
//!
//! Invariant: an effect touches exactly one key and needs nothing but that key's present value and its own time, so the
//! effects of one segment can be replayed without any other segment. Those of one batch or transaction are one entry of the
//! log, over all shards.
//!
//! A body is one byte of kind and what follows it:
//!
//! ```text
//! 0 | key                                            the key is gone
//! 1 | expiry u64 LE, 0: none | type u8 | key | value  the value it has now, as the codec writes it
//! 2 | expiry u64 LE, 0: none | key                    its expiry
//! 3 | argc varint | (length varint, bytes)*           a command, run at `now_ms`
//! 4 | the same                                        a command that replicas cannot have
//! 5 | the same                                        a command that only replicas get, in place of that
//! 6 | key                                             a producer of a stream has sent a message again
//! ```
//!
//! where `key` is a length varint and its bytes.

use dormouse_protocol::{OwnedRequest, Request};
use dormouse_types::record::{Record, Value};
use dormouse_types::{pace, parse_i64};

use crate::codec;

/// A body, read.
#[derive(Debug)]
pub enum EffectBody {
    Delete {
        key: Box<[u8]>,
    },
    Value {
        key: Box<[u8]>,
        expiry: Option<u64>,
        kind: u8,
        value: Box<[u8]>,
    },
    Expiry {
        key: Box<[u8]>,
        expiry: Option<u64>,
    },
    Command(OwnedRequest),
    /// Replicas are not told.
    Kept(OwnedRequest),
    /// Replicas are told, and nothing is replayed.
    Told(OwnedRequest),
    /// One more of those that a stream counts. Replicas are not told.
    Repeated {
        key: Box<[u8]>,
    },
}

const DELETE: u8 = 0;
const VALUE: u8 = 1;
const EXPIRY: u8 = 2;
const COMMAND: u8 = 3;
const KEPT: u8 = 4;
const TOLD: u8 = 5;
const REPEATED: u8 = 6;

pub fn delete(body: &mut Vec<u8>, key: &[u8]) {
    body.push(DELETE);
    put(body, key);
}

pub fn value(body: &mut Vec<u8>, record: &Record) {
    value_of(body, record.key(), record.expiry(), &record.value());
}

/// As [`value`] of a record with this string.
pub fn text(body: &mut Vec<u8>, key: &[u8], expiry: Option<u64>, text: &[u8]) {
    let value = parse_i64(text).map_or(Value::Raw(text), Value::Int);
    value_of(body, key, expiry, &value);
}

fn value_of(body: &mut Vec<u8>, key: &[u8], expiry: Option<u64>, value: &Value<'_>) {
    body.push(VALUE);
    body.extend_from_slice(&expiry.unwrap_or(0).to_le_bytes());
    let kind = body.len();
    body.push(0);
    put(body, key);
    body[kind] = codec::value::encode_value(value, body);
}

pub fn expiry(body: &mut Vec<u8>, key: &[u8], expiry: Option<u64>) {
    body.push(EXPIRY);
    body.extend_from_slice(&expiry.unwrap_or(0).to_le_bytes());
    put(body, key);
}

pub fn command<'a>(body: &mut Vec<u8>, args: impl ExactSizeIterator<Item = &'a [u8]>) {
    command_of(COMMAND, body, args);
}

/// A command that replicas cannot have: see [`EffectBody::Kept`].
pub fn kept<'a>(body: &mut Vec<u8>, args: impl ExactSizeIterator<Item = &'a [u8]>) {
    command_of(KEPT, body, args);
}

/// A command that only replicas get: see [`EffectBody::Told`].
pub fn told<'a>(body: &mut Vec<u8>, args: impl ExactSizeIterator<Item = &'a [u8]>) {
    command_of(TOLD, body, args);
}

pub fn repeated(body: &mut Vec<u8>, key: &[u8]) {
    body.push(REPEATED);
    put(body, key);
}

fn command_of<'a>(kind: u8, body: &mut Vec<u8>, args: impl ExactSizeIterator<Item = &'a [u8]>) {
    body.push(kind);
    put_varint(body, args.len() as u64);
    args.for_each(|arg| put(body, arg));
}

pub fn verbatim(body: &mut Vec<u8>, request: Request<'_>) {
    command(body, request.iter());
}

/// The key of a body that replaces the key's earlier effects: a deletion, or a value.
pub fn absolute_key(body: &[u8]) -> Option<&[u8]> {
    let (kind, mut rest) = body.split_first()?;
    match *kind {
        DELETE => take(&mut rest),
        VALUE => take(&mut rest.get(9..)?),
        _ => None,
    }
}

/// Reads a body; `None` if it is malformed.
pub fn read(body: &[u8]) -> Option<EffectBody> {
    let (kind, mut rest) = body.split_first()?;
    let rest = &mut rest;
    let body = match *kind {
        DELETE => EffectBody::Delete { key: take(rest)?.into() },
        VALUE => {
            let expiry = take_expiry(rest)?;
            let (kind, after) = rest.split_first()?;
            *rest = after;
            let key = take(rest)?.into();
            EffectBody::Value { key, expiry, kind: *kind, value: std::mem::take(rest).into() }
        }
        EXPIRY => {
            let expiry = take_expiry(rest)?;
            EffectBody::Expiry { key: take(rest)?.into(), expiry }
        }
        COMMAND | KEPT | TOLD => {
            let count = take_varint(rest)?;
            // Each argument takes a byte at least.
            if count == 0 || count > rest.len() as u64 {
                return None;
            }
            let args: Vec<&[u8]> = (0..count).map(|_| take(rest)).collect::<Option<_>>()?;
            let request = OwnedRequest::from_args(&args);
            match *kind {
                COMMAND => EffectBody::Command(request),
                KEPT => EffectBody::Kept(request),
                _ => EffectBody::Told(request),
            }
        }
        REPEATED => EffectBody::Repeated { key: take(rest)?.into() },
        _ => return None,
    };
    rest.is_empty().then_some(body)
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[inline]
fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.len() < 0x80 {
        out.reserve(1 + bytes.len());
        out.push(bytes.len() as u8);
    } else {
        put_varint(out, bytes.len() as u64);
    }
    pace::extend(out, bytes);
}

fn take_varint(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(take_varint(from)?).ok()?;
    let (bytes, rest) = from.split_at_checked(len)?;
    *from = rest;
    Some(bytes)
}

fn take_expiry(from: &mut &[u8]) -> Option<Option<u64>> {
    let (bytes, rest) = from.split_first_chunk::<8>()?;
    *from = rest;
    let at = u64::from_le_bytes(*bytes);
    Some((at != 0).then_some(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_written_as_the_record_with_it() {
        for given in ["", "a", "12", "-7", "007", &"x".repeat(200), &"y".repeat(20_000)] {
            for expiry in [None, Some(77)] {
                let (mut of_text, mut of_record) = (Vec::new(), Vec::new());
                text(&mut of_text, b"key", expiry, given.as_bytes());
                value(&mut of_record, &Record::new_raw(b"key", given.as_bytes(), expiry));
                assert_eq!(of_text, of_record, "{given}");
            }
        }
    }

    fn made(make: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut body = Vec::new();
        make(&mut body);
        body
    }

    #[test]
    fn a_command_comes_back() {
        let body = made(|body| command(body, [&b"SET"[..], b"key", b""].into_iter()));
        let Some(EffectBody::Command(request)) = read(&body) else { panic!("{body:?}") };
        assert_eq!(request.as_request().iter().collect::<Vec<_>>(), [&b"SET"[..], b"key", b""]);
        let body = made(|body| kept(body, [&b"XCFGSET"[..], b"key"].into_iter()));
        assert!(matches!(read(&body), Some(EffectBody::Kept(request)) if request.as_request().len() == 2));
        let body = made(|body| told(body, [&b"XDEL"[..], b"key", b"1-1"].into_iter()));
        assert!(matches!(read(&body), Some(EffectBody::Told(request)) if request.as_request().len() == 3));
    }

    #[test]
    fn whatever_is_cut_off_is_refused() {
        let bodies = [
            made(|body| delete(body, b"key")),
            made(|body| expiry(body, b"key", Some(7))),
            made(|body| command(body, [&b"DEL"[..], b"k"].into_iter())),
            made(|body| kept(body, [&b"DEL"[..], b"k"].into_iter())),
            made(|body| told(body, [&b"DEL"[..], b"k"].into_iter())),
            made(|body| repeated(body, b"key")),
        ];
        for body in bodies {
            assert!(read(&body).is_some());
            for len in 0..body.len() {
                assert!(read(&body[..len]).is_none(), "{body:?} cut to {len}");
            }
        }
    }

    #[test]
    fn absolute_bodies_name_their_key() {
        let record = Record::new_raw(b"key", b"value", Some(7));
        assert_eq!(absolute_key(&made(|body| delete(body, b"key"))), Some(&b"key"[..]));
        assert_eq!(absolute_key(&made(|body| value(body, &record))), Some(&b"key"[..]));
        assert_eq!(absolute_key(&made(|body| expiry(body, b"key", None))), None);
        assert_eq!(absolute_key(&[VALUE, 1]), None);
    }
}
