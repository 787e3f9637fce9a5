//! Options of commands over strings: when a value is set, and its time to live.

use super::conditional::Comparison;
use crate::commands::args::{Args, Argument, Pairs, integer};
use crate::commands::moment::TimeUnit;
use crate::error::{Error, Result};
use crate::keyspace::Expiry;

/// The moment in Unix milliseconds that `number` means now, for `command`'s error.
pub(super) fn moment(unit: TimeUnit, number: &[u8], now_ms: u64, command: &'static str) -> Result<u64> {
    let number = Some(integer(number)?).filter(|number| *number > 0);
    let moment = number.and_then(|number| unit.moment(number, now_ms));
    moment.map(|ms| ms as u64).ok_or(Error::InvalidExpire(command))
}

/// The options of `SET`, in any order.
pub(super) struct SetOptions<'a> {
    pub when: Option<When<'a>>,
    pub get: bool,
    pub ttl: Ttl<'a>,
}

/// The condition of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When<'a> {
    /// The key exists (XX), or it does not (NX).
    Exists(bool),
    /// The value compares so with the word.
    Compares(Comparison, &'a [u8]),
}

#[derive(Clone, Copy)]
pub(super) enum Ttl<'a> {
    Unsaid,
    Keep,
    At(TimeUnit, &'a [u8]),
}

impl Ttl<'_> {
    /// The fate of the key's expiry, if `command` runs now.
    pub fn expiry(self, now_ms: u64, command: &'static str) -> Result<Expiry> {
        match self {
            Self::Unsaid => Ok(Expiry::None),
            Self::Keep => Ok(Expiry::Keep),
            Self::At(unit, number) => moment(unit, number, now_ms, command).map(Expiry::At),
        }
    }
}

impl<'a> Argument<'a> for SetOptions<'a> {
    #[inline]
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let options = Self { when: None, get: false, ttl: Ttl::Unsaid };
        if args.is_empty() { Ok(options) } else { options.read(args) }
    }
}

impl<'a> SetOptions<'a> {
    fn read(self, args: &mut Args<'a>) -> Result<Self> {
        let mut options = self;
        while let Some(word) = args.upper() {
            args.skip();
            // Said twice, an option counts once; of two times in one unit, or two values to compare with, the last.
            match (word.as_bytes(), options.ttl) {
                (b"NX", _) => options.add(When::Exists(false))?,
                (b"XX", _) => options.add(When::Exists(true))?,
                (b"GET", _) => options.get = true,
                (b"KEEPTTL", Ttl::Unsaid | Ttl::Keep) => options.ttl = Ttl::Keep,
                (word, before) => {
                    if let Some(comparison) = Comparison::named(word) {
                        options.add(When::Compares(comparison, args.bytes()?))?;
                        continue;
                    }
                    let unit = TimeUnit::named(word).ok_or(Error::Syntax)?;
                    match before {
                        Ttl::Unsaid => {}
                        Ttl::At(said, _) if said == unit => {}
                        _ => return Err(Error::Syntax),
                    }
                    options.ttl = Ttl::At(unit, args.bytes()?);
                }
            }
        }
        Ok(options)
    }

    /// Adds a condition. Two different ones exclude each other.
    fn add(&mut self, when: When<'a>) -> Result<()> {
        let is_same = match (self.when, when) {
            (None, _) => true,
            (Some(When::Exists(said)), When::Exists(exists)) => said == exists,
            (Some(When::Compares(said, _)), When::Compares(comparison, _)) => said == comparison,
            _ => false,
        };
        self.when = Some(when);
        is_same.then_some(()).ok_or(Error::Syntax)
    }
}

/// `numkeys key value [key value ...]`
pub(super) struct CountedPairs<'a>(pub Pairs<'a>);

impl<'a> Argument<'a> for CountedPairs<'a> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        const INVALID: Error = Error::text("ERR invalid numkeys value");
        const TOO_FEW: Error = Error::text("ERR wrong number of key-value pairs");
        let count = integer(args.bytes()?).ok().filter(|count| (1..=i64::from(i32::MAX)).contains(count));
        let words = usize::try_from(count.ok_or(INVALID)?).map_err(|_| INVALID)?.saturating_mul(2);
        if words > args.len() {
            return Err(TOO_FEW);
        }
        Pairs::new(args.split_to(words)?).map(Self).ok_or(TOO_FEW)
    }
}

pub(super) struct GetexOptions<'a>(pub GetexTtl<'a>);

#[derive(Clone, Copy)]
pub(super) enum GetexTtl<'a> {
    Unsaid,
    Persist,
    At(TimeUnit, &'a [u8]),
}

impl<'a> Argument<'a> for GetexOptions<'a> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let mut ttl = GetexTtl::Unsaid;
        while let Some(word) = args.upper() {
            args.skip();
            ttl = match (word.as_bytes(), ttl) {
                (b"PERSIST", GetexTtl::Unsaid | GetexTtl::Persist) => GetexTtl::Persist,
                (word, before) => {
                    let unit = TimeUnit::named(word).ok_or(Error::Syntax)?;
                    match before {
                        GetexTtl::Unsaid => {}
                        GetexTtl::At(said, _) if said == unit => {}
                        _ => return Err(Error::Syntax),
                    }
                    GetexTtl::At(unit, args.bytes()?)
                }
            };
        }
        Ok(Self(ttl))
    }
}
