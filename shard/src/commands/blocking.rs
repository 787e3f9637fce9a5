//! The common part of blocking commands: their timeouts, and their last step when they have found nothing.

use dormouse_protocol::Reply;

use super::args::{Args, Argument, Rest, integer};
use super::long_double::LongDouble;
use crate::error::{Error, Result};
use crate::keyspace::{Keyspace, Wait};

const NEGATIVE: Error = Error::text("ERR timeout is negative");
const OUT_OF_RANGE: Error = Error::text("ERR timeout is out of range");

/// How long a command waits: seconds, with a fraction; 0: for ever.
#[derive(Debug, Clone, Copy)]
pub struct Timeout {
    ms: i64,
}

impl Timeout {
    /// Reads seconds, for a command that looks at its other arguments first.
    pub fn seconds(word: &[u8]) -> Result<Self> {
        let ms = LongDouble::parse(word);
        let ms = ms.ok_or(Error::text("ERR timeout is not a float or out of range"))?.thousandfold();
        if ms < 0 {
            return Err(NEGATIVE);
        }
        i64::try_from(ms).map(|ms| Self { ms }).map_err(|_| OUT_OF_RANGE)
    }

    /// Reads whole milliseconds, as after `BLOCK`.
    pub fn milliseconds(word: &[u8]) -> Result<Self> {
        let ms = integer(word).map_err(|_| Error::text("ERR timeout is not an integer or out of range"))?;
        if ms < 0 { Err(NEGATIVE) } else { Ok(Self { ms }) }
    }

    /// The milliseconds from `now_ms` on; `None`: for ever.
    ///
    /// # Errors
    /// When the moment at which it ends is out of range.
    pub fn after(self, now_ms: u64) -> Result<Option<u64>> {
        let ms = self.ms.cast_unsigned();
        let end = now_ms.checked_add(ms).filter(|end| *end <= i64::MAX.cast_unsigned());
        end.map(|_| (ms > 0).then_some(ms)).ok_or(OUT_OF_RANGE)
    }
}

impl<'a> Argument<'a> for Timeout {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        Self::seconds(args.bytes()?)
    }
}

/// `key [key ...] timeout`
#[derive(Debug, Clone, Copy)]
pub struct KeysAndTimeout<'a> {
    pub keys: Rest<'a>,
    pub timeout: Timeout,
}

impl<'a> Argument<'a> for KeysAndTimeout<'a> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let keys = args.split_to(args.len().saturating_sub(1))?;
        Ok(Self { keys, timeout: args.take()? })
    }
}

/// The last step of a command that has found nothing: it waits, or replies with `nothing` if its caller does not wait.
pub fn wait_or(db: &mut Keyspace<'_>, reply: &mut Reply, wait: Wait, nothing: fn(&mut Reply)) -> Result<()> {
    if db.may_wait() {
        db.wait(wait);
    } else {
        nothing(reply);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
