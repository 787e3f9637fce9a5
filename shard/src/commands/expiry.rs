//! When keys expire.

use dormouse_protocol::Reply;

use crate::commands::args::{Args, Argument, integer};
use crate::commands::{Access, Category, Command, Family, Flags, KeySpec, Run, at_least, exactly, run};
use crate::error::{Error, Result, repeated};
use crate::keyspace::Keyspace;
use crate::keyspace::changes::KeyEvent;

const READ: Flags = Flags::READ.union(Flags::FAST);
/// By key: the recorded effect is the moment, or the key's deletion, in whatever form it was given.
const WRITE: Flags = Flags::WRITE.union(Flags::FAST).union(Flags::BY_KEY);

const KEY_READ: &[KeySpec] = &[KeySpec::one(1, Access::RO.union(Access::ACCESS))];
const KEY_UPDATED: &[KeySpec] = &[KeySpec::one(1, Access::RW.union(Access::UPDATE))];

pub(crate) const FAMILY: Family<Run> =
    Family {
        group: "generic",
        category: Category::KEYSPACE,
        commands: &[
            Command::new("EXPIRE", at_least(3), KEY_UPDATED, WRITE, run!(expire)).event(KeyEvent::EXPIRE).doc(
                "1.0.0",
                "O(1)",
                "Sets the expiration time of a key in seconds.",
            ),
            Command::new("PEXPIRE", at_least(3), KEY_UPDATED, WRITE, run!(pexpire)).event(KeyEvent::EXPIRE).doc(
                "2.6.0",
                "O(1)",
                "Sets the expiration time of a key in milliseconds.",
            ),
            Command::new("EXPIREAT", at_least(3), KEY_UPDATED, WRITE, run!(expireat)).event(KeyEvent::EXPIRE).doc(
                "1.2.0",
                "O(1)",
                "Sets the expiration time of a key to a Unix timestamp.",
            ),
            Command::new("PEXPIREAT", at_least(3), KEY_UPDATED, WRITE, run!(pexpireat)).event(KeyEvent::EXPIRE).doc(
                "2.6.0",
                "O(1)",
                "Sets the expiration time of a key to a Unix milliseconds timestamp.",
            ),
            Command::new("TTL", exactly(2), KEY_READ, READ, run!(ttl))
                .doc("1.0.0", "O(1)", "Returns the expiration time in seconds of a key.")
                .tips(&["nondeterministic_output"]),
            Command::new("PTTL", exactly(2), KEY_READ, READ, run!(pttl))
                .doc("2.6.0", "O(1)", "Returns the expiration time in milliseconds of a key.")
                .tips(&["nondeterministic_output"]),
            Command::new("EXPIRETIME", exactly(2), KEY_READ, READ, run!(expiretime)).doc(
                "7.0.0",
                "O(1)",
                "Returns the expiration time of a key as a Unix timestamp.",
            ),
            Command::new("PEXPIRETIME", exactly(2), KEY_READ, READ, run!(pexpiretime)).doc(
                "7.0.0",
                "O(1)",
                "Returns the expiration time of a key as a Unix milliseconds timestamp.",
            ),
            Command::new("PERSIST", exactly(2), KEY_UPDATED, WRITE, run!(persist))
                .event(KeyEvent::generic("persist"))
                .doc("2.2.0", "O(1)", "Removes the expiration time of a key."),
        ],
    };

/// Key, number, condition.
type Asked<'a> = (&'a [u8], &'a [u8], Condition);

/// `EXPIRE key seconds [NX | XX | GT | LT]`
fn expire(db: &mut Keyspace<'_>, reply: &mut Reply, asked: Asked<'_>) -> Result<()> {
    let base = db.now() as i64;
    expire_at(db, reply, asked, 1000, base, "expire")
}

/// `PEXPIRE key milliseconds [NX | XX | GT | LT]`
fn pexpire(db: &mut Keyspace<'_>, reply: &mut Reply, asked: Asked<'_>) -> Result<()> {
    let base = db.now() as i64;
    expire_at(db, reply, asked, 1, base, "pexpire")
}

/// `EXPIREAT key unix-time-seconds [NX | XX | GT | LT]`
fn expireat(db: &mut Keyspace<'_>, reply: &mut Reply, asked: Asked<'_>) -> Result<()> {
    expire_at(db, reply, asked, 1000, 0, "expireat")
}

/// `PEXPIREAT key unix-time-milliseconds [NX | XX | GT | LT]`
fn pexpireat(db: &mut Keyspace<'_>, reply: &mut Reply, asked: Asked<'_>) -> Result<()> {
    expire_at(db, reply, asked, 1, 0, "pexpireat")
}

/// `TTL key`
fn ttl(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    let now = db.now();
    write_expiry(db, reply, key, |at| seconds(at.saturating_sub(now)))
}

/// `PTTL key`
fn pttl(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    let now = db.now();
    write_expiry(db, reply, key, |at| at.saturating_sub(now))
}

/// `EXPIRETIME key`
fn expiretime(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    write_expiry(db, reply, key, seconds)
}

/// `PEXPIRETIME key`
fn pexpiretime(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    write_expiry(db, reply, key, |at| at)
}

/// `PERSIST key`
fn persist(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    reply.integer(i64::from(db.set_expiry(key, None)));
    Ok(())
}

/// Lets the key expire at `number * scale + base`, or deletes it if that has passed.
fn expire_at(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, number, condition): Asked<'_>,
    scale: i64,
    base: i64,
    command: &'static str,
) -> Result<()> {
    let moment = integer(number)?.checked_mul(scale).and_then(|ms| ms.checked_add(base));
    let moment = moment.ok_or(Error::InvalidExpire(command))?;
    let wanted = match db.expiry_unread(key) {
        None => false,
        Some(present) => condition.allows(present.map(|at| at as i64), moment),
    };
    if wanted {
        match u64::try_from(moment) {
            Ok(at) if !db.has_passed(at) => db.set_expiry(key, Some(at)),
            _ => db.delete(key),
        };
    }
    reply.integer(i64::from(wanted));
    Ok(())
}

fn write_expiry(db: &mut Keyspace<'_>, reply: &mut Reply, key: &[u8], show: impl FnOnce(u64) -> u64) -> Result<()> {
    db.without_access(true);
    reply.integer(match db.expiry(key) {
        None => -2,
        Some(None) => -1,
        Some(Some(at)) => show(at) as i64,
    });
    Ok(())
}

fn seconds(ms: u64) -> u64 {
    (ms + 500) / 1000
}

/// When an expiry is to be set, given the present one. None counts as later than any.
#[derive(Default)]
struct Condition {
    if_none: bool,
    if_some: bool,
    if_later: bool,
    if_sooner: bool,
}

impl Condition {
    fn allows(&self, present: Option<i64>, moment: i64) -> bool {
        (!self.if_none || present.is_none())
            && (!self.if_some || present.is_some())
            && (!self.if_later || present.is_some_and(|at| moment > at))
            && (!self.if_sooner || present.is_none_or(|at| moment < at))
    }
}

impl<'a> Argument<'a> for Condition {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let mut condition = Self::default();
        while let Some(word) = args.peek() {
            let flag = match args.upper().as_ref().map(|word| word.as_bytes()) {
                Some(b"NX") => &mut condition.if_none,
                Some(b"XX") => &mut condition.if_some,
                Some(b"GT") => &mut condition.if_later,
                Some(b"LT") => &mut condition.if_sooner,
                _ => {
                    let text = format!("ERR Unsupported option {}", repeated(word));
                    return Err(Error::Text(text.into()));
                }
            };
            *flag = true;
            args.skip();
        }
        if condition.if_none && (condition.if_some || condition.if_later || condition.if_sooner) {
            return Err(Error::text("ERR NX and XX, GT or LT options at the same time are not compatible"));
        }
        if condition.if_later && condition.if_sooner {
            return Err(Error::text("ERR GT and LT options at the same time are not compatible"));
        }
        Ok(condition)
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::testing::{Bench, check};

    #[test]
    fn setting_and_reading() {
        check(&[
            ("TTL k", "-2"),
            ("EXPIRETIME k", "-2"),
            ("EXPIRE k 10", "0"),
            ("PERSIST k", "0"),
            ("SET k v", "OK"),
            ("TTL k", "-1"),
            ("PTTL k", "-1"),
            ("PEXPIRETIME k", "-1"),
            ("PERSIST k", "0"),
            ("EXPIRE k 10", "1"),
            ("TTL k", "10"),
            ("PTTL k", "10000"),
            ("EXPIRETIME k", "1700000010"),
            ("PEXPIRETIME k", "1700000010000"),
            ("PEXPIRE k 1499", "1"),
            ("TTL k", "1"),
            ("PEXPIRE k 1500", "1"),
            ("TTL k", "2"),
            ("EXPIREAT k 1700000100", "1"),
            ("PTTL k", "100000"),
            ("PEXPIREAT k 1700000000777", "1"),
            ("PTTL k", "777"),
            ("EXPIRETIME k", "1700000001"),
            ("PERSIST k", "1"),
            ("TTL k", "-1"),
            ("EXPIRE k 0", "1"),
            ("EXISTS k", "0"),
            ("RPUSH l a", "1"),
            ("EXPIREAT l -5", "1"),
            ("EXISTS l", "0"),
        ]);
    }

    #[test]
    fn conditions() {
        const WITH_NX: &str = "(error) ERR NX and XX, GT or LT options at the same time are not compatible";
        check(&[
            ("SET k v", "OK"),
            ("EXPIRE k 10 XX", "0"),
            ("EXPIRE k 10 GT", "0"),
            ("EXPIRE k 10 nx", "1"),
            ("EXPIRE k 20 NX", "0"),
            ("EXPIRE k 10 GT", "0"),
            ("EXPIRE k 11 GT XX", "1"),
            ("EXPIRE k 12 LT", "0"),
            ("EXPIRE k 9 LT LT", "1"),
            ("EXPIRE k 20 XX", "1"),
            ("TTL k", "20"),
            ("PERSIST k", "1"),
            ("EXPIRE k 5 LT", "1"),
            ("EXPIRE k -1 GT", "0"),
            ("EXPIRE k -1 LT", "1"),
            ("EXISTS k", "0"),
            ("EXPIRE k 1 NX XX", WITH_NX),
            ("EXPIRE k 1 GT NX", WITH_NX),
            ("EXPIRE k 1 LT NX", WITH_NX),
            ("EXPIRE k 1 GT LT", "(error) ERR GT and LT options at the same time are not compatible"),
            ("EXPIRE k 1 nope", "(error) ERR Unsupported option nope"),
            ("EXPIRE k x nope", "(error) ERR Unsupported option nope"),
            ("EXPIRE k x", "(error) ERR value is not an integer or out of range"),
            ("EXPIRE k 9223372036854775807", "(error) ERR invalid expire time in 'expire' command"),
            ("EXPIRE k 9223372036854775", "(error) ERR invalid expire time in 'expire' command"),
            ("EXPIRE k -9223372036854776", "(error) ERR invalid expire time in 'expire' command"),
            ("PEXPIRE k 9223372036854775807", "(error) ERR invalid expire time in 'pexpire' command"),
            ("EXPIREAT k 9223372036854776", "(error) ERR invalid expire time in 'expireat' command"),
            ("PEXPIREAT k 9223372036854775808", "(error) ERR value is not an integer or out of range"),
            ("EXPIRE k", "(error) ERR wrong number of arguments for 'expire' command"),
        ]);
    }

    #[test]
    fn what_has_expired_is_gone() {
        let mut bench = Bench::new();
        bench.run("SET k v PX 10");
        bench.run("HSET h f v");
        bench.run("PEXPIRE h 11");
        bench.now_ms += 9;
        assert_eq!(bench.run("PTTL k"), "1");
        bench.now_ms += 1;
        assert_eq!(bench.run("EXISTS k h"), "1");
        assert_eq!(bench.run("SETNX k w"), "1");
        assert_eq!(bench.run("PTTL k"), "-1");
        bench.now_ms += 1;
        assert_eq!(bench.run("DBSIZE"), "2");
        assert_eq!(bench.run("TYPE h"), "none");
        assert_eq!(bench.run("DBSIZE"), "1");
    }
}
