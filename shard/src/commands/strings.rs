//! Strings: bytes, or the decimal digits of an integer.

use dormouse_protocol::Reply;

use crate::commands::args::{Args, Argument};
use crate::commands::{Access, Category, Command, Family, Flags, KeySpec, Run, at_least, exactly, run};
use crate::error::{Error, Result};
use crate::keyspace::{Expiry, Keyspace, Text};

const READ: Flags = Flags::READ;
const WRITE: Flags = Flags::WRITE;
const FAST: Flags = Flags::FAST;
const DENY_OOM: Flags = Flags::DENY_OOM;

const KEY_READ: &[KeySpec] = &[KeySpec::one(1, Access::RO.union(Access::ACCESS))];
const KEY_SET: &[KeySpec] =
    &[KeySpec::one(1, Access::RW.union(Access::ACCESS).union(Access::UPDATE).union(Access::VARIABLE_FLAGS))
        .notes("RW and ACCESS due to the optional `GET` argument")];

pub(crate) const FAMILY: Family<Run> = Family {
    group: "string",
    category: Category::STRING,
    commands: &[
        Command::new("GET", exactly(2), KEY_READ, READ.union(FAST), run!(get)).doc(
            "1.0.0",
            "O(1)",
            "Returns the string value of a key.",
        ),
        Command::new("SET", at_least(3), KEY_SET, WRITE.union(DENY_OOM), run!(set)).doc(
            "1.0.0",
            "O(1)",
            "Sets the string value of a key, ignoring its type. The key is created if it doesn't exist.",
        ),
    ],
};

/// `GET key`
fn get(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    write_text(reply, db.string(key)?);
    Ok(())
}

/// `SET key value [NX | XX] [GET] [EX seconds | PX milliseconds | EXAT unix-time | PXAT unix-time-ms | KEEPTTL]`
fn set(db: &mut Keyspace<'_>, reply: &mut Reply, (key, value, options): (&[u8], &[u8], SetOptions)) -> Result<()> {
    let expiry = options.expiry(db.now())?;
    if options.get {
        write_text(reply, db.string(key)?);
    }
    let wanted = options.when.is_none_or(|exists| db.exists(key) == exists);
    if wanted {
        db.set_string(key, value, expiry);
    }
    match (options.get, wanted) {
        (true, _) => {}
        (false, true) => reply.ok(),
        (false, false) => reply.null(),
    }
    Ok(())
}

fn write_text(reply: &mut Reply, text: Option<Text<'_>>) {
    match text {
        Some(Text::Raw(bytes)) => reply.bulk(bytes),
        Some(Text::Int(n)) => reply.bulk_integer(n),
        None => reply.null(),
    }
}

/// The options of `SET`, in any order.
#[derive(Debug, Default)]
struct SetOptions {
    /// Only if the key exists (XX), or only if it does not (NX).
    when: Option<bool>,
    get: bool,
    keep: bool,
    /// Number, whether it is in seconds, whether it counts from now.
    at: Option<(i64, bool, bool)>,
}

impl SetOptions {
    fn expiry(&self, now_ms: u64) -> Result<Expiry> {
        let invalid = Error::InvalidExpire("set");
        let Some((number, seconds, relative)) = self.at else {
            return Ok(if self.keep { Expiry::Keep } else { Expiry::None });
        };
        let ms = if seconds { number.checked_mul(1000) } else { Some(number) }
            .filter(|ms| *ms > 0)
            .ok_or(invalid.clone())?;
        let base = if relative { now_ms as i64 } else { 0 };
        base.checked_add(ms).map(|at| Expiry::At(at as u64)).ok_or(invalid)
    }
}

impl<'a> Argument<'a> for SetOptions {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let mut options = Self::default();
        while let Some(word) = args.upper() {
            args.skip();
            let at = |seconds, relative| (seconds, relative);
            let (seconds, relative) = match word.as_bytes() {
                b"NX" if options.when.is_none() => {
                    options.when = Some(false);
                    continue;
                }
                b"XX" if options.when.is_none() => {
                    options.when = Some(true);
                    continue;
                }
                b"GET" => {
                    options.get = true;
                    continue;
                }
                b"KEEPTTL" if options.at.is_none() => {
                    options.keep = true;
                    continue;
                }
                b"EX" => at(true, true),
                b"PX" => at(false, true),
                b"EXAT" => at(true, false),
                b"PXAT" => at(false, false),
                _ => return Err(Error::Syntax),
            };
            if options.at.is_some() || options.keep {
                return Err(Error::Syntax);
            }
            options.at = Some((args.take()?, seconds, relative));
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::testing::check;

    #[test]
    fn set_and_get() {
        check(&[
            ("GET k", "nil"),
            ("SET k v", "OK"),
            ("GET k", "v"),
            ("SET k 12", "OK"),
            ("GET k", "12"),
            ("SET k x NX", "nil"),
            ("SET n x XX", "nil"),
            ("SET k y XX GET", "12"),
            ("GET k", "y"),
            ("SET k v EX 0", "(error) ERR invalid expire time in 'set' command"),
            ("SET k v NX XX", "(error) ERR syntax error"),
            ("SET k v EX", "(error) ERR syntax error"),
            ("SET k v EX x", "(error) ERR value is not an integer or out of range"),
        ]);
    }
}
