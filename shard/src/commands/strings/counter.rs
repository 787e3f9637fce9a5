//! `INCREX`: a counter with bounds and a time to live.
//!
//! Out of its bounds nothing is written, and that is no error; `SATURATE` goes as far as the bound. Integers have 64 bits.
//! Numbers with a fraction are those of [`LongDouble`].

use dormouse_protocol::Reply;
use dormouse_types::record::Origin;
use smallvec::SmallVec;

use super::options::moment;
use crate::commands::args::{Args, Argument, canonical_integer};
use crate::commands::long_double::LongDouble;
use crate::commands::moment::TimeUnit;
use crate::error::{Error, Result};
use crate::keyspace::changes::KeyEvent;
use crate::keyspace::{Expiry, Keyspace, Rewrite, Text};

/// The digits of a new value. Those of an integer fit.
type Digits = SmallVec<[u8; 24]>;

/// `INCREX key [BYINT increment | BYFLOAT increment] [LBOUND bound] [UBOUND bound] [SATURATE]
/// [EX seconds | PX milliseconds | EXAT unix-time | PXAT unix-time-ms | PERSIST] [ENX]`
pub(super) fn increx(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, options): (&[u8], CounterOptions<'_>),
) -> Result<()> {
    let at = match options.ttl {
        CounterTtl::Keep | CounterTtl::Persist => None,
        CounterTtl::At(unit, number) => Some(moment(unit, number, db.now(), "increx")?),
    };
    let lapse = Lapse {
        at,
        has_passed: at.is_some_and(|at| db.has_passed(at)),
        only_new: options.only_new,
        persists: matches!(options.ttl, CounterTtl::Persist),
    };
    let written = match options.step {
        Step::Integer { by, low, high } => {
            let (written, sum, applied) = db.rewrite_string_and_expiry(key, Origin::Given, |text, expiry| {
                let before = match text {
                    None => 0,
                    Some(Text::Int(n)) => n,
                    Some(Text::Raw(bytes)) => canonical_integer(bytes).ok_or(Error::NotAnInteger)?,
                };
                let Some((sum, applied)) = add_integer(before, by, (low, high), options.saturates)? else {
                    return Ok((Rewrite::Nothing, (Written::NOTHING, before, 0)));
                };
                let digits = || Digits::from_slice(itoa::Buffer::new().format(sum).as_bytes());
                let (rewrite, written) = lapse.rewrite(digits, expiry);
                Ok((rewrite, (written, sum, applied)))
            })?;
            reply.array(2);
            reply.integer(sum);
            reply.integer(applied);
            written
        }
        Step::Float { by, low, high } => {
            db.call_changes(KeyEvent::string("incrbyfloat"));
            let (written, sum, applied) = db.rewrite_string_and_expiry(key, Origin::Computed, |text, expiry| {
                let before = match text {
                    None => LongDouble::from_integer(0),
                    Some(Text::Int(n)) => LongDouble::from_integer(n),
                    Some(Text::Raw(bytes)) => LongDouble::parse(bytes).ok_or(Error::NotAFloat)?,
                };
                let Some((sum, applied)) = add_float(before, by, (low, high), options.saturates)? else {
                    return Ok((Rewrite::Nothing, (Written::NOTHING, before.format(), LongDouble::from_integer(0))));
                };
                let sum = sum.format();
                let (rewrite, written) = lapse.rewrite(|| Digits::from_slice(sum.as_bytes()), expiry);
                Ok((rewrite, (written, sum, applied)))
            })?;
            reply.array(2);
            reply.double_text(&sum);
            reply.double_text(&applied.format());
            written
        }
    };
    if written.persisted {
        db.tell(KeyEvent::generic("persist"), key);
    }
    if written.expires {
        db.tell(KeyEvent::EXPIRE, key);
    }
    Ok(())
}

/// The sum and what was added for it. `None`: out of bounds.
fn add_integer(before: i64, by: i64, (low, high): (i64, i64), saturates: bool) -> Result<Option<(i64, i64)>> {
    let sum = match before.checked_add(by) {
        Some(sum) if (low..=high).contains(&sum) => sum,
        _ if !saturates => return Ok(None),
        Some(sum) => sum.clamp(low, high),
        None if by >= 0 => high,
        None => low,
    };
    let applied = sum.checked_sub(before).ok_or(Error::text("ERR applied increment would overflow"))?;
    Ok(Some((sum, applied)))
}

/// The same of numbers with a fraction.
fn add_float(
    before: LongDouble,
    by: LongDouble,
    (low, high): (LongDouble, LongDouble),
    saturates: bool,
) -> Result<Option<(LongDouble, LongDouble)>> {
    if !before.is_finite() {
        return Err(Error::text("ERR value cannot be Infinity"));
    }
    let sum = match before.plus(by) {
        Some(sum) if low <= sum && sum <= high => sum,
        _ if !saturates => return Ok(None),
        Some(sum) if sum > high => high,
        Some(_) => low,
        None if by >= LongDouble::from_integer(0) => high,
        None => low,
    };
    let applied = sum.minus(before).ok_or(Error::text("ERR applied increment would be Infinity"))?;
    Ok(Some((sum, applied)))
}

/// The key's expiry after the command.
#[derive(Debug, Clone, Copy)]
struct Lapse {
    at: Option<u64>,
    has_passed: bool,
    /// Only where the key has no expiry.
    only_new: bool,
    persists: bool,
}

impl Lapse {
    /// The change of a key that expires at `expiry`, with a new value.
    fn rewrite(self, digits: impl FnOnce() -> Digits, expiry: Option<u64>) -> (Rewrite<Digits>, Written) {
        let at = self.at.filter(|_| !(self.only_new && expiry.is_some()));
        if at.is_some() && self.has_passed {
            return (Rewrite::Delete, Written::NOTHING);
        }
        let new = match at {
            Some(at) => Expiry::At(at),
            None if self.persists => Expiry::None,
            None => Expiry::Keep,
        };
        let written = Written { persisted: self.persists && expiry.is_some(), expires: at.is_some() };
        (Rewrite::To(digits(), new), written)
    }
}

/// The change of the key's expiry.
#[derive(Debug, Clone, Copy)]
struct Written {
    persisted: bool,
    expires: bool,
}

impl Written {
    const NOTHING: Self = Self { persisted: false, expires: false };
}

/// The options of `INCREX` in any order, each at most once.
#[derive(Debug, Clone, Copy)]
pub(super) struct CounterOptions<'a> {
    step: Step,
    saturates: bool,
    ttl: CounterTtl<'a>,
    only_new: bool,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Integer { by: i64, low: i64, high: i64 },
    Float { by: LongDouble, low: LongDouble, high: LongDouble },
}

#[derive(Debug, Clone, Copy)]
enum CounterTtl<'a> {
    Keep,
    Persist,
    At(TimeUnit, &'a [u8]),
}

/// The increment, before the bounds are read: their kind of number is its kind, and it may come behind them.
enum By {
    Integer(i64),
    Float(LongDouble),
}

impl<'a> Argument<'a> for CounterOptions<'a> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let (mut by, mut low, mut high) = (None, None, None);
        let (mut saturates, mut only_new, mut ttl) = (false, false, CounterTtl::Keep);
        while let Some(word) = args.upper() {
            args.skip();
            let has_ttl = !matches!(ttl, CounterTtl::Keep);
            match word.as_bytes() {
                b"BYINT" if by.is_none() => {
                    let number = canonical_integer(args.bytes()?);
                    by = Some(By::Integer(
                        number.ok_or(Error::text("ERR Increment is not an integer or out of range"))?,
                    ));
                }
                b"BYFLOAT" if by.is_none() => {
                    let number = LongDouble::parse(args.bytes()?);
                    let number = number.ok_or(Error::text("ERR Increment is not a valid float"))?;
                    if !number.is_finite() {
                        return Err(Error::text("ERR BYFLOAT increment cannot be Infinity"));
                    }
                    by = Some(By::Float(number));
                }
                b"LBOUND" if low.is_none() => low = Some(args.bytes()?),
                b"UBOUND" if high.is_none() => high = Some(args.bytes()?),
                b"SATURATE" if !saturates => saturates = true,
                b"ENX" if !only_new && !matches!(ttl, CounterTtl::Persist) => only_new = true,
                b"PERSIST" if !has_ttl && !only_new => ttl = CounterTtl::Persist,
                word => {
                    let unit = TimeUnit::named(word).filter(|_| !has_ttl).ok_or(Error::Syntax)?;
                    ttl = CounterTtl::At(unit, args.bytes()?);
                }
            }
        }
        let step = Step::new(by.unwrap_or(By::Integer(1)), low, high)?;
        if only_new && matches!(ttl, CounterTtl::Keep) {
            return Err(Error::text("ERR ENX flag requires an expiration"));
        }
        Ok(Self { step, saturates, ttl, only_new })
    }
}

impl Step {
    fn new(by: By, low: Option<&[u8]>, high: Option<&[u8]>) -> Result<Self> {
        const LOW_INTEGER: Error = Error::text("ERR LBOUND is not an integer or out of range");
        const HIGH_INTEGER: Error = Error::text("ERR UBOUND is not an integer or out of range");
        const LOW_FLOAT: Error = Error::text("ERR LBOUND is not a valid float");
        const HIGH_FLOAT: Error = Error::text("ERR UBOUND is not a valid float");
        const CROSSED: Error = Error::text("ERR LBOUND can't be greater than UBOUND");
        match by {
            By::Integer(by) => {
                let low = low.map_or(Some(i64::MIN), canonical_integer).ok_or(LOW_INTEGER)?;
                let high = high.map_or(Some(i64::MAX), canonical_integer).ok_or(HIGH_INTEGER)?;
                if low > high { Err(CROSSED) } else { Ok(Self::Integer { by, low, high }) }
            }
            By::Float(by) => {
                let low = low.map_or(Some(LongDouble::highest().negated()), LongDouble::parse).ok_or(LOW_FLOAT)?;
                let high = high.map_or(Some(LongDouble::highest()), LongDouble::parse).ok_or(HIGH_FLOAT)?;
                if low > high { Err(CROSSED) } else { Ok(Self::Float { by, low, high }) }
            }
        }
    }
}
