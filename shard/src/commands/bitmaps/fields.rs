//! `BITFIELD`: integers of any width at any bit of a string.

use dormouse_protocol::{Reply, Request};
use dormouse_types::record::Origin;
use smallvec::SmallVec;

use super::{Offset, cost_of_growth, growth_to};
use crate::commands::Access;
use crate::commands::args::{Args, Argument, Word, canonical_integer};
use crate::commands::strings::{LENGTH_MAX, lengthen, moved_bytes};
use crate::error::{Error, Result};
use crate::keyspace::{Change, Keyspace};

const INVALID_TYPE: Error =
    Error::text("ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.");

/// `BITFIELD key [GET type offset | [OVERFLOW WRAP | SAT | FAIL] (SET type offset value | INCRBY type offset increment) ...]`
pub(super) fn bitfield(db: &mut Keyspace<'_>, reply: &mut Reply, (key, Steps(steps)): (&[u8], Steps)) -> Result<()> {
    let Some(last) = steps.iter().filter(|step| step.is_write()).map(|step| step.field.last_byte()).max() else {
        return read(db, reply, key, &steps);
    };
    let change = |bytes: &mut [u8], grows: bool| {
        let mut changes = 0;
        let outcomes = steps.iter().map(|step| step.run(bytes, grows, &mut changes)).collect::<SmallVec<[_; 4]>>();
        Ok(Change::when(grows || changes > 0, (outcomes, changes)))
    };
    let (outcomes, changes) = match db.edit_string(key, last + 1, |bytes| change(bytes, false)) {
        Some(outcomes) => outcomes?,
        None => db.update_string(key, Origin::Edited, |bytes| {
            let grows = lengthen(bytes, last + 1);
            change(bytes, grows)
        })?,
    };
    db.count_further(changes.saturating_sub(1));
    reply.array(outcomes.len());
    for outcome in outcomes {
        match outcome {
            Some(number) => reply.integer(number),
            None => reply.null(),
        }
    }
    Ok(())
}

/// `BITFIELD_RO key [GET type offset ...]`
pub(super) fn bitfield_ro(db: &mut Keyspace<'_>, reply: &mut Reply, (key, Steps(steps)): (&[u8], Steps)) -> Result<()> {
    if steps.iter().any(Step::is_write) {
        return Err(Error::text("ERR BITFIELD_RO only supports the GET subcommand"));
    }
    read(db, reply, key, &steps)
}

fn read(db: &mut Keyspace<'_>, reply: &mut Reply, key: &[u8], steps: &[Step]) -> Result<()> {
    let text = db.string(key)?;
    reply.array(steps.len());
    let mut read = |bytes: &[u8]| steps.iter().for_each(|step| reply.integer(step.field.get(bytes) as i64));
    match text {
        Some(text) => text.with_bytes(read),
        None => read(&[]),
    }
    Ok(())
}

/// The cost of the string's growth; each step is short.
pub(super) fn cost(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let Ok(steps) = Steps::take(&mut Args::new(request, 2)) else { return 0 };
    steps.0.len() + steps.last_byte().map_or(0, |last| cost_of_growth(db, request.arg(1), last))
}

pub(super) fn growth(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let last = Steps::take(&mut Args::new(request, 2)).ok().and_then(|steps| steps.last_byte());
    last.map_or(0, |last| growth_to(db, request.arg(1), last))
}

pub(super) fn need(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let last = Steps::take(&mut Args::new(request, 2)).ok().and_then(|steps| steps.last_byte());
    last.map_or(0, |last| moved_bytes(db, request.arg(1), last + 1))
}

/// A request that only reads says so; one that is malformed may be anything.
pub(super) fn access(request: Request<'_>) -> Access {
    let (reads, changes) = (Access::RO.union(Access::ACCESS), Access::RW.union(Access::ACCESS).union(Access::UPDATE));
    let mut at = 2;
    while at < request.len() {
        let behind = request.len() - at - 1;
        at += match request.arg(at).to_ascii_lowercase().as_slice() {
            b"get" if behind >= 2 => 3,
            b"overflow" if behind >= 1 => 2,
            _ => return changes,
        };
    }
    reads
}

/// All subcommands of a request, up to its end.
pub(super) struct Steps(SmallVec<[Step; 4]>);

impl Steps {
    /// The last byte that one of them writes.
    fn last_byte(&self) -> Option<usize> {
        self.0.iter().filter(|step| step.is_write()).map(|step| step.field.last_byte()).max()
    }
}

impl<'a> Argument<'a> for Steps {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let mut steps = SmallVec::new();
        let mut overflow = Overflow::Wrap;
        while !args.is_empty() {
            let word = Word::new(args.bytes()?);
            let needed = match word.as_bytes() {
                b"GET" => 2,
                b"SET" | b"INCRBY" => 3,
                b"OVERFLOW" => 1,
                _ => return Err(Error::Syntax),
            };
            if args.len() < needed {
                return Err(Error::Syntax);
            }
            if word.as_bytes() == b"OVERFLOW" {
                overflow = args.take()?;
                continue;
            }
            let field: Field = args.take()?;
            let action = match word.as_bytes() {
                b"GET" => Action::Get,
                b"SET" => Action::Set(args.take()?),
                _ => Action::Add(args.take()?),
            };
            steps.push(Step { field, action, overflow });
        }
        Ok(Self(steps))
    }
}

struct Step {
    field: Field,
    action: Action,
    overflow: Overflow,
}

enum Action {
    Get,
    Set(i64),
    Add(i64),
}

/// The treatment of a number that does not fit its field.
#[derive(Clone, Copy)]
enum Overflow {
    /// Its low bits.
    Wrap,
    /// The nearest number that fits.
    Saturate,
    /// Nothing: the field stays as it is.
    Fail,
}

impl<'a> Argument<'a> for Overflow {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        match Word::new(args.bytes()?).as_bytes() {
            b"WRAP" => Ok(Self::Wrap),
            b"SAT" => Ok(Self::Saturate),
            b"FAIL" => Ok(Self::Fail),
            _ => Err(Error::text("ERR Invalid OVERFLOW type specified")),
        }
    }
}

impl Step {
    fn is_write(&self) -> bool {
        !matches!(self.action, Action::Get)
    }

    /// The reply; `None` where an overflow made it fail. `bytes` must reach the field if this is a write. As in Redis,
    /// any number that is written to a string that `grows` is a change.
    fn run(&self, bytes: &mut [u8], grows: bool, changes: &mut u64) -> Option<i64> {
        let before = self.field.get(bytes);
        // A value to set is one to add to nothing. An unsigned field takes its bits, so a negative one is a huge number.
        let sum = match self.action {
            Action::Get => return Some(before as i64),
            Action::Set(value) if self.field.signed => i128::from(value),
            Action::Set(value) => i128::from(value as u64),
            Action::Add(by) => before + i128::from(by),
        };
        let (least, most) = self.field.limits();
        let after = match self.overflow {
            _ if (least..=most).contains(&sum) => sum,
            Overflow::Wrap => self.field.wrapped(sum as u64),
            Overflow::Saturate => sum.clamp(least, most),
            Overflow::Fail => return None,
        };
        self.field.set(bytes, after as u64);
        *changes += u64::from(grows || after != before);
        Some(if matches!(self.action, Action::Set(_)) { before } else { after } as i64)
    }
}

/// `i1` to `i64`, `u1` to `u63`, at a bit; `#2` is the third place for a number of its width.
struct Field {
    signed: bool,
    bits: u32,
    offset: usize,
}

impl<'a> Argument<'a> for Field {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let (signed, digits) = match args.bytes()? {
            [b'i', digits @ ..] => (true, digits),
            [b'u', digits @ ..] => (false, digits),
            _ => return Err(INVALID_TYPE),
        };
        let bits = canonical_integer(digits).filter(|bits| (1..=if signed { 64 } else { 63 }).contains(bits));
        let bits = bits.ok_or(INVALID_TYPE)?;
        let (unit, digits) = match args.bytes()? {
            [b'#', digits @ ..] => (bits, digits),
            digits => (1, digits),
        };
        let offset = canonical_integer(digits).and_then(|number| number.checked_mul(unit)).ok_or(Offset::INVALID)?;
        let Offset(offset) = Offset::new(offset)?;
        let field = Self { signed, bits: bits as u32, offset };
        if field.last_byte() < LENGTH_MAX { Ok(field) } else { Err(Offset::INVALID) }
    }
}

impl Field {
    fn last_byte(&self) -> usize {
        (self.offset + self.bits as usize - 1) / 8
    }

    fn limits(&self) -> (i128, i128) {
        if self.signed { (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1) } else { (0, (1 << self.bits) - 1) }
    }

    fn mask(&self) -> u64 {
        u64::MAX >> (64 - self.bits)
    }

    /// The value of the low bits of `number` in this field.
    fn wrapped(&self, number: u64) -> i128 {
        let number = number & self.mask();
        let is_negative = self.signed && number >> (self.bits - 1) == 1;
        if is_negative { i128::from((number | !self.mask()) as i64) } else { i128::from(number) }
    }

    /// A field of 64 bits spans up to nine bytes.
    fn window(&self, bytes: &[u8]) -> ([u8; 16], usize) {
        let mut window = [0; 16];
        let inside = bytes.get(self.offset / 8..).unwrap_or_default();
        let len = inside.len().min(9);
        window[..len].copy_from_slice(&inside[..len]);
        (window, len)
    }

    fn shift(&self) -> u32 {
        128 - (self.offset % 8) as u32 - self.bits
    }

    fn get(&self, bytes: &[u8]) -> i128 {
        let (window, _) = self.window(bytes);
        self.wrapped((u128::from_be_bytes(window) >> self.shift()) as u64)
    }

    fn set(&self, bytes: &mut [u8], number: u64) {
        let (window, len) = self.window(bytes);
        let kept = u128::from_be_bytes(window) & !(u128::from(self.mask()) << self.shift());
        let window = (kept | u128::from(number & self.mask()) << self.shift()).to_be_bytes();
        let start = self.offset / 8;
        bytes[start..start + len].copy_from_slice(&window[..len]);
    }
}
