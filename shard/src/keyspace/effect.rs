//! Effects: what a write came down to, one key at a time.
//!
//! Invariant: an effect touches exactly one key and needs nothing but that key's present value and its own `now_ms`, so
//! the effects of one segment can be replayed without any other segment. Effects of one command or one transaction carry
//! the same sequence number, over all shards.
//!
//! A body is one byte of kind and what follows it:
//!
//! ```text
//! 0 | key                                            the key is gone
//! 1 | expiry u64 LE, 0: none | type u8 | key | value  the value it has now, as the codec writes it
//! 2 | expiry u64 LE, 0: none | key                    its expiry
//! 3 | argc varint | (length varint, bytes)*           a command, run at `now_ms`
//! ```
//!
//! where `key` is a length varint and its bytes.

use dormouse_protocol::{OwnedRequest, Request};

use crate::codec;
use crate::record::Record;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    pub sequence: u64,
    pub now_ms: u64,
    /// The keyspace id, not the logical index: a flush or SWAPDB in between does not confuse it.
    pub keyspace: u32,
    pub position: u64,
    pub body: Box<[u8]>,
}

/// A body, read.
#[derive(Debug)]
pub enum Body {
    Delete { key: Box<[u8]> },
    Value { key: Box<[u8]>, expiry: Option<u64>, kind: u8, value: Box<[u8]> },
    Expiry { key: Box<[u8]>, expiry: Option<u64> },
    Command(OwnedRequest),
}

const DELETE: u8 = 0;
const VALUE: u8 = 1;
const EXPIRY: u8 = 2;
const COMMAND: u8 = 3;

pub fn delete(key: &[u8]) -> Box<[u8]> {
    let mut body = vec![DELETE];
    put(&mut body, key);
    body.into()
}

pub fn value(record: &Record) -> Box<[u8]> {
    let mut body = vec![VALUE];
    body.extend(record.expiry().unwrap_or(0).to_le_bytes());
    let kind = body.len();
    body.push(0);
    put(&mut body, record.key());
    body[kind] = codec::value::encode_value(&record.value(), &mut body);
    body.into()
}

pub fn expiry(key: &[u8], expiry: Option<u64>) -> Box<[u8]> {
    let mut body = vec![EXPIRY];
    body.extend(expiry.unwrap_or(0).to_le_bytes());
    put(&mut body, key);
    body.into()
}

pub fn command<'a>(args: impl ExactSizeIterator<Item = &'a [u8]>) -> Box<[u8]> {
    let mut body = vec![COMMAND];
    put_varint(&mut body, args.len() as u64);
    args.for_each(|arg| put(&mut body, arg));
    body.into()
}

pub fn verbatim(request: Request<'_>) -> Box<[u8]> {
    command(request.iter())
}

/// Reads a body; `None` where it is malformed.
pub fn read(body: &[u8]) -> Option<Body> {
    let (kind, mut rest) = body.split_first()?;
    let rest = &mut rest;
    let body = match *kind {
        DELETE => Body::Delete { key: take(rest)?.into() },
        VALUE => {
            let expiry = take_expiry(rest)?;
            let (kind, after) = rest.split_first()?;
            *rest = after;
            let key = take(rest)?.into();
            Body::Value { key, expiry, kind: *kind, value: std::mem::take(rest).into() }
        }
        EXPIRY => {
            let expiry = take_expiry(rest)?;
            Body::Expiry { key: take(rest)?.into(), expiry }
        }
        COMMAND => {
            let count = take_varint(rest)?;
            // Each argument takes a byte at least.
            if count == 0 || count > rest.len() as u64 {
                return None;
            }
            let args: Vec<&[u8]> = (0..count).map(|_| take(rest)).collect::<Option<_>>()?;
            Body::Command(OwnedRequest::from_args(&args))
        }
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

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
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
    fn a_command_comes_back() {
        let body = command([&b"SET"[..], b"key", b""].into_iter());
        let Some(Body::Command(request)) = read(&body) else { panic!("{body:?}") };
        assert_eq!(request.as_request().iter().collect::<Vec<_>>(), [&b"SET"[..], b"key", b""]);
    }

    #[test]
    fn whatever_is_cut_off_is_refused() {
        for body in [delete(b"key"), expiry(b"key", Some(7)), command([&b"DEL"[..], b"k"].into_iter())] {
            assert!(read(&body).is_some());
            for len in 0..body.len() {
                assert!(read(&body[..len]).is_none(), "{body:?} cut to {len}");
            }
        }
    }
}
