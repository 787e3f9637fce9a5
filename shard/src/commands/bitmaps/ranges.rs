//! `BITCOUNT` and `BITPOS`: commands that look at a range of bits.

use std::ops::Range;

use dormouse_protocol::Reply;

use crate::commands::args::{Args, Argument, integer};
use crate::error::{Error, Result};
use crate::keyspace::Keyspace;

/// `BITCOUNT key [start end [BYTE | BIT]]`
pub(super) fn bitcount(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, bounds): (&[u8], Option<BothBounds>),
) -> Result<()> {
    let bounds = bounds.map(|BothBounds(bounds)| bounds);
    let count = match db.string(key)? {
        None => 0,
        Some(text) => text.with_bytes(|bytes| match bounds {
            None => ones(bytes),
            // An inverted range is empty before its ends are moved into the string.
            Some(Bounds { start, end: Some(end), .. }) if start < 0 && end < 0 && start > end => 0,
            Some(bounds) => count(bytes, bounds.within(bytes.len())),
        }),
    };
    reply.integer(count as i64);
    Ok(())
}

/// `BITPOS key bit [start [end [BYTE | BIT]]]`
///
/// A string without a given end continues with zeros for ever, unless the range is empty.
pub(super) fn bitpos(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, Wanted(wanted), bounds): (&[u8], Wanted, Option<Bounds>),
) -> Result<()> {
    let Some(text) = db.string(key)? else {
        reply.integer(if wanted { -1 } else { 0 });
        return Ok(());
    };
    let position = text.with_bytes(|bytes| {
        let range = bounds.map_or(0..bytes.len() * 8, |bounds| bounds.within(bytes.len()));
        let is_open = bounds.is_none_or(|bounds| bounds.end.is_none());
        let end = range.end;
        if range.is_empty() {
            return None;
        }
        find(bytes, wanted, range).or((!wanted && is_open).then_some(end))
    });
    reply.integer(position.map_or(-1, |position| position as i64));
    Ok(())
}

/// The bit that `BITPOS` looks for. It is checked before the arguments behind it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted(bool);

impl<'a> Argument<'a> for Wanted {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        match args.take::<i64>()? {
            0 => Ok(Self(false)),
            1 => Ok(Self(true)),
            _ => Err(Error::text("ERR The bit argument must be 1 or 0.")),
        }
    }
}

/// The ends of a range, both included; negative ones count from the string's end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    start: i64,
    end: Option<i64>,
    /// In bits, not bytes.
    bits: bool,
}

/// As `BITPOS` takes them: the unit is checked before the end.
impl<'a> Argument<'a> for Bounds {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        if args.len() > 3 {
            return Err(Error::Syntax);
        }
        let (start, is_whole) = (args.take()?, args.len() == 2);
        let end = if is_whole { Some(args.bytes()?) } else { None };
        let bits = if is_whole { unit(args)? } else { false };
        let end = match end {
            Some(end) => Some(integer(end)?),
            None => args.take()?,
        };
        Ok(Self { start, end, bits })
    }
}

/// `BIT` or `BYTE`: whether it is `BIT`.
fn unit(args: &mut Args<'_>) -> Result<bool> {
    if args.word("BIT") {
        Ok(true)
    } else if args.word("BYTE") {
        Ok(false)
    } else {
        Err(Error::Syntax)
    }
}

/// As `BITCOUNT` takes them: a start is not enough.
#[derive(Debug, Clone, Copy)]
pub(super) struct BothBounds(Bounds);

impl<'a> Argument<'a> for BothBounds {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        if !(2..=3).contains(&args.len()) {
            return Err(Error::Syntax);
        }
        let (start, end) = (args.take()?, Some(args.take()?));
        Ok(Self(Bounds { start, end, bits: !args.is_empty() && unit(args)? }))
    }
}

impl Bounds {
    /// The bits of a string of `length` bytes that it means.
    fn within(self, length: usize) -> Range<usize> {
        let total = if self.bits { length * 8 } else { length } as i64;
        let from_end = |at: i64| if at < 0 { at.saturating_add(total).max(0) } else { at };
        let start = from_end(self.start);
        let end = from_end(self.end.unwrap_or(total - 1)).min(total - 1);
        if start > end {
            return 0..0;
        }
        let unit = if self.bits { 1 } else { 8 };
        start as usize * unit..(end as usize + 1) * unit
    }
}

/// The set bits, counted with the widest instructions that the processor has.
fn ones(bytes: &[u8]) -> usize {
    simd_popcnt::popcnt(bytes) as usize
}

/// The set bits of a range that is within `bytes`.
fn count(bytes: &[u8], range: Range<usize>) -> usize {
    if range.is_empty() {
        return 0;
    }
    let (first, last) = (range.start / 8, (range.end - 1) / 8);
    let before = bytes[first] & !(0xff >> (range.start % 8));
    let after = bytes[last] & (0x7f >> ((range.end - 1) % 8));
    ones(&bytes[first..=last]) - before.count_ones() as usize - after.count_ones() as usize
}

/// The first bit of a range within `bytes` that is as `wanted`.
fn find(bytes: &[u8], wanted: bool, range: Range<usize>) -> Option<usize> {
    let flip = if wanted { 0 } else { 0xff };
    let (first, last) = (range.start / 8, (range.end - 1) / 8);
    // Bits before the range look as if they were not wanted.
    let head = (bytes[first] ^ flip) & (0xff >> (range.start % 8));
    let found = if head != 0 {
        first * 8 + head.leading_zeros() as usize
    } else {
        let rest = &bytes[first + 1..=last];
        let skip = if wanted { 0 } else { u64::MAX };
        let words = rest.chunks_exact(8).take_while(|word| word_of(word) == skip).count();
        let at = rest[words * 8..].iter().position(|byte| byte ^ flip != 0)? + words * 8;
        (first + 1 + at) * 8 + (rest[at] ^ flip).leading_zeros() as usize
    };
    (found < range.end).then_some(found)
}

fn word_of(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().expect("a chunk of eight bytes"))
}
