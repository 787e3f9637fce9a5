//! Bitmaps: strings as arrays of bits. Bit 0 is the highest of the first byte; all bits beyond the end are 0.

mod fields;
mod ranges;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use dormouse_protocol::{Reply, Request};
use dormouse_types::record::{Origin, RAW_MAX, Record, Value};
use dormouse_types::{Object, ObjectRef};

use crate::commands::args::{Args, Argument, Rest, Word, canonical_integer};
use crate::commands::cost::BYTES_PER_ELEMENT;
use crate::commands::strings::{LENGTH_MAX, lengthen, moved_bytes};
use crate::commands::{Access, Category, Command, Family, Flags, KeySpec, Run, at_least, exactly, run};
use crate::error::{Error, Result};
use crate::keyspace::changes::KeyEvent;
use crate::keyspace::{Change, Keyspace};
use crate::memory::COUNTED_BYTES;

const READ: Flags = Flags::READ;
const READ_FAST: Flags = Flags::READ.union(Flags::FAST);
const WRITE: Flags = Flags::WRITE.union(Flags::DENY_OOM);

/// A string of so many bytes may be moved as a whole without an estimate of time and memory.
const MODEST_BYTES: usize = COUNTED_BYTES / 4;

const READS: Access = Access::RO.union(Access::ACCESS);
const CHANGES: Access = Access::RW.union(Access::ACCESS).union(Access::UPDATE);

const KEY_READ: &[KeySpec] = &[KeySpec::one(1, READS)];
const KEY_CHANGED: &[KeySpec] = &[KeySpec::one(1, CHANGES)];
const KEY_OF_FIELDS: &[KeySpec] = &[KeySpec::one(1, CHANGES.union(Access::VARIABLE_FLAGS))
    .notes("This command allows both access and modification of the key")];
const DESTINATION_AND_SOURCES: &[KeySpec] =
    &[KeySpec::one(2, Access::OW.union(Access::UPDATE)), KeySpec::rest(3, READS)];

pub(crate) const FAMILY: Family<Run> = Family {
    group: "bitmap",
    category: Category::BITMAP,
    commands: &[
        Command::new("SETBIT", exactly(4), KEY_CHANGED, WRITE, run!(setbit))
            .event(KeyEvent::string("setbit"))
            .doc(
                "2.2.0",
                "O(1), and O(N) where the string must become N bytes long",
                "Sets or clears the bit at offset of the string value. Creates the key if it doesn't exist.",
            )
            .cost(setbit_cost)
            .grows(setbit_growth)
            .needs(|db, request| last_byte(request).map_or(0, |last| moved_bytes(db, request.arg(1), last + 1)))
            // It grows to so many bytes at most, and needs the old ones and the new.
            .modest(|request| last_byte(request).is_none_or(|last| last < MODEST_BYTES)),
        Command::new("GETBIT", exactly(3), KEY_READ, READ_FAST, run!(getbit)).doc(
            "2.2.0",
            "O(1)",
            "Returns a bit value by offset.",
        ),
        Command::new("BITCOUNT", at_least(2), KEY_READ, READ, run!(ranges::bitcount))
            .doc("2.6.0", "O(N)", "Counts the number of set bits (population counting) in a string.")
            .cost(cost_of_bytes),
        Command::new("BITPOS", at_least(3), KEY_READ, READ, run!(ranges::bitpos))
            .doc("2.8.7", "O(N)", "Finds the first set (1) or clear (0) bit in a string.")
            .cost(cost_of_bytes),
        Command::new("BITOP", at_least(4), DESTINATION_AND_SOURCES, WRITE.union(Flags::BY_KEY), run!(bitop))
            .event(KeyEvent::string("set"))
            .doc("2.6.0", "O(N)", "Performs bitwise operations on multiple strings, and stores the result.")
            .cost(bitop_cost)
            .grows(bitop_growth)
            .needs(bitop_growth),
        Command::new("BITFIELD", at_least(2), KEY_OF_FIELDS, WRITE, run!(fields::bitfield))
            .event(KeyEvent::string("setbit"))
            .doc(
                "3.2.0",
                "O(1) for each subcommand specified, and O(N) where the string must become N bytes long",
                "Performs arbitrary bitfield integer operations on strings.",
            )
            .cost(fields::cost)
            .grows(fields::growth)
            .needs(fields::need)
            .access(fields::access),
        Command::new("BITFIELD_RO", at_least(2), KEY_READ, READ_FAST, run!(fields::bitfield_ro)).doc(
            "6.0.0",
            "O(1) for each subcommand specified",
            "Performs arbitrary read-only bitfield integer operations on strings.",
        ),
    ],
};

/// `SETBIT key offset value`
fn setbit(db: &mut Keyspace<'_>, reply: &mut Reply, (key, offset, value): (&[u8], Offset, &[u8])) -> Result<()> {
    let set = match canonical_integer(value) {
        Some(0) => false,
        Some(1) => true,
        _ => return Err(Error::text("ERR bit is not an integer or out of range")),
    };
    let (byte, mask) = (offset.byte(), offset.mask());
    let change = |bytes: &mut [u8], grows: bool| {
        let before = bytes[byte] & mask != 0;
        if set {
            bytes[byte] |= mask;
        } else {
            bytes[byte] &= !mask;
        }
        Ok(Change::when(grows || before != set, before))
    };
    let before = match db.edit_string(key, byte + 1, |bytes| change(bytes, false)) {
        Some(before) => before?,
        None => db.update_string(key, Origin::Edited, |bytes| {
            let grows = lengthen(bytes, byte + 1);
            change(bytes, grows)
        })?,
    };
    reply.integer(i64::from(before));
    Ok(())
}

/// `GETBIT key offset`
fn getbit(db: &mut Keyspace<'_>, reply: &mut Reply, (key, offset): (&[u8], Offset)) -> Result<()> {
    let bit = db.string(key)?.is_some_and(|text| {
        text.with_bytes(|bytes| bytes.get(offset.byte()).is_some_and(|byte| byte & offset.mask() != 0))
    });
    reply.integer(i64::from(bit));
    Ok(())
}

/// `BITOP (AND | OR | XOR | NOT | DIFF | DIFF1 | ANDOR | ONE) destkey key [key ...]`
fn bitop(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (operation, destination, sources): (Operation, &[u8], Rest<'_>),
) -> Result<()> {
    operation.check(sources.len())?;
    let result = {
        let mut bytes = Vec::with_capacity(sources.len());
        for value in db.values(sources.iter()) {
            bytes.push(bytes_of(value)?);
        }
        operation.apply(&bytes)
    };
    reply.integer(result.len() as i64);
    if result.is_empty() {
        db.delete(destination);
    } else {
        let record = match result.len() > RAW_MAX {
            true => Record::new_object(destination, Object::Text(result), None),
            false => Record::new_string(destination, &result, Origin::Edited, None),
        };
        db.replace(destination, record);
    }
    Ok(())
}

/// A bit's number, from `0` to the last of the longest string.
#[derive(Debug, Clone, Copy)]
struct Offset(usize);

impl Offset {
    const INVALID: Error = Error::text("ERR bit offset is not an integer or out of range");

    fn new(offset: i64) -> Result<Self> {
        let offset = usize::try_from(offset).map_err(|_| Self::INVALID)?;
        if offset / 8 < LENGTH_MAX { Ok(Self(offset)) } else { Err(Self::INVALID) }
    }

    fn byte(self) -> usize {
        self.0 / 8
    }

    fn mask(self) -> u8 {
        0x80 >> (self.0 % 8)
    }
}

impl<'a> Argument<'a> for Offset {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        Self::new(canonical_integer(args.bytes()?).ok_or(Self::INVALID)?)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    And,
    Or,
    Xor,
    Not,
    /// The bits of the first source that are in none of the others.
    Diff,
    /// The bits of the others that are not in the first.
    Diff1,
    /// The bits of the first that are in one of the others.
    AndOr,
    /// The bits that are in exactly one source.
    One,
}

impl<'a> Argument<'a> for Operation {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        Ok(match Word::new(args.bytes()?).as_bytes() {
            b"AND" => Self::And,
            b"OR" => Self::Or,
            b"XOR" => Self::Xor,
            b"NOT" => Self::Not,
            b"DIFF" => Self::Diff,
            b"DIFF1" => Self::Diff1,
            b"ANDOR" => Self::AndOr,
            b"ONE" => Self::One,
            _ => return Err(Error::Syntax),
        })
    }
}

impl Operation {
    /// Refuses a number of sources that the operation is not made for.
    fn check(self, sources: usize) -> Result<()> {
        match self {
            Self::Not if sources != 1 => Err(Error::text("ERR BITOP NOT must be called with a single source key.")),
            Self::Diff if sources < 2 => {
                Err(Error::text("ERR BITOP DIFF must be called with at least two source keys."))
            }
            Self::Diff1 if sources < 2 => {
                Err(Error::text("ERR BITOP DIFF1 must be called with at least two source keys."))
            }
            Self::AndOr if sources < 2 => {
                Err(Error::text("ERR BITOP ANDOR must be called with at least two source keys."))
            }
            _ => Ok(()),
        }
    }

    /// The result, as long as the longest source.
    fn apply(self, sources: &[Cow<'_, [u8]>]) -> Vec<u8> {
        let length = sources.iter().map(|source| source.len()).max().unwrap_or(0);
        let Some((first, others)) = sources.split_first() else { return Vec::new() };
        let mut result = Vec::with_capacity(length);
        result.extend_from_slice(first);
        result.resize(length, 0);
        match self {
            Self::Not => result.iter_mut().for_each(|byte| *byte = !*byte),
            Self::And => {
                for other in others {
                    combine(&mut result, other, |a, b| a & b);
                    result[other.len()..].fill(0);
                }
            }
            Self::Or => others.iter().for_each(|other| combine(&mut result, other, |a, b| a | b)),
            Self::Xor => others.iter().for_each(|other| combine(&mut result, other, |a, b| a ^ b)),
            Self::Diff => others.iter().for_each(|other| combine(&mut result, other, |a, b| a & !b)),
            Self::Diff1 | Self::AndOr => {
                let mut any = vec![0; length];
                others.iter().for_each(|other| combine(&mut any, other, |a, b| a | b));
                match self {
                    Self::Diff1 => combine(&mut result, &any, |first, any| any & !first),
                    _ => combine(&mut result, &any, |first, any| any & first),
                }
            }
            Self::One => {
                // Bits that were seen twice. `result` has those that were seen at all.
                let mut twice = vec![0; length];
                for other in others {
                    for ((seen, twice), byte) in result.iter_mut().zip(&mut twice).zip(other.iter()) {
                        *twice |= *seen & byte;
                        *seen |= byte;
                    }
                }
                combine(&mut result, &twice, |a, b| a & !b);
            }
        }
        result
    }
}

/// Changes each byte of `result` that `other` has a byte for.
fn combine(result: &mut [u8], other: &[u8], operation: impl Fn(u8, u8) -> u8) {
    for (byte, other) in result.iter_mut().zip(other) {
        *byte = operation(*byte, *other);
    }
}

fn bytes_of(value: Option<Value<'_>>) -> Result<Cow<'_, [u8]>> {
    match value {
        None => Ok(Cow::Borrowed(&[])),
        Some(Value::Int(number)) => Ok(Cow::Owned(itoa::Buffer::new().format(number).as_bytes().to_vec())),
        Some(Value::Raw(bytes)) => Ok(Cow::Borrowed(bytes)),
        Some(Value::Object(ObjectRef::Text(bytes))) => Ok(Cow::Borrowed(bytes)),
        Some(Value::Object(_)) => Err(Error::WrongType),
    }
}

fn cost_of_bytes(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    db.string_length(request.arg(1)) / BYTES_PER_ELEMENT
}

/// How many bytes a string gains that must hold byte `last`.
pub(super) fn growth_to(db: &Keyspace<'_>, key: &[u8], last: usize) -> usize {
    (last + 1).saturating_sub(db.string_length(key))
}

/// A string that grows is moved as a whole.
fn cost_of_growth(db: &Keyspace<'_>, key: &[u8], last: usize) -> usize {
    if growth_to(db, key, last) == 0 { 0 } else { last / BYTES_PER_ELEMENT }
}

/// The byte that a `SETBIT` needs.
fn last_byte(request: Request<'_>) -> Option<usize> {
    let offset = canonical_integer(request.arg(2))?;
    Offset::new(offset).ok().map(Offset::byte)
}

/// Up to so many bytes it takes no longer than a command does, and looking the string up first would take a part of that.
fn setbit_cost(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let last = last_byte(request).filter(|last| *last >= MODEST_BYTES);
    last.map_or(0, |last| cost_of_growth(db, request.arg(1), last))
}

fn setbit_growth(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    last_byte(request).map_or(0, |last| growth_to(db, request.arg(1), last))
}

/// The result is as long as the longest source, and so is the further memory of some operations.
fn bitop_growth(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    request.iter().skip(3).map(|key| db.string_length(key)).max().unwrap_or(0)
}

/// All bytes of all sources.
fn bitop_cost(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    request.iter().skip(3).map(|key| db.string_length(key)).sum::<usize>() / BYTES_PER_ELEMENT
}
