//! Strings: bytes, or the decimal digits of an integer.

mod conditional;
mod counter;
mod options;

use dormouse_protocol::{Reply, Request};
use dormouse_types::pace;
use dormouse_types::record::{Origin, size_class};
use smallvec::SmallVec;

use self::conditional::{Comparison, asks_for_digest};
use self::options::{CountedPairs, GetexOptions, GetexTtl, SetOptions, When, moment};
use crate::commands::args::{Pairs, Rest, Word, canonical_integer};
use crate::commands::cost::BYTES_PER_ELEMENT;
use crate::commands::long_double::LongDouble;
use crate::commands::moment::TimeUnit;
use crate::commands::{Access, Category, Command, Family, Flags, KeySpec, Run, at_least, exactly, lcs, run};
use crate::error::{Error, Result};
use crate::keyspace::changes::KeyEvent;
use crate::keyspace::{Change, Expiry, Keyspace, Text};

/// Redis's `proto-max-bulk-len`.
pub(super) const LENGTH_MAX: usize = 512 << 20;

const READ: Flags = Flags::READ;
const READ_FAST: Flags = Flags::READ.union(Flags::FAST);
const WRITE: Flags = Flags::WRITE.union(Flags::DENY_OOM);
const WRITE_FAST: Flags = WRITE.union(Flags::FAST);
const TIMED: Flags = WRITE.union(Flags::BY_KEY_TO_REPLICAS);
const REMOVE_FAST: Flags = Flags::WRITE.union(Flags::FAST);

const READS: Access = Access::RO.union(Access::ACCESS);
const REPLACES: Access = Access::OW.union(Access::UPDATE);
const CREATES: Access = Access::OW.union(Access::INSERT);
const CHANGES: Access = Access::RW.union(Access::ACCESS).union(Access::UPDATE);

const KEY_READ: &[KeySpec] = &[KeySpec::one(1, READS)];
const KEY_ASKED: &[KeySpec] = &[KeySpec::one(1, Access::RO)];
const KEY_REPLACED: &[KeySpec] = &[KeySpec::one(1, REPLACES)];
const KEY_CREATED: &[KeySpec] = &[KeySpec::one(1, CREATES)];
const KEY_CHANGED: &[KeySpec] = &[KeySpec::one(1, CHANGES)];
const KEY_OVERWRITTEN: &[KeySpec] = &[KeySpec::one(1, Access::RW.union(Access::UPDATE))];
const KEY_APPENDED: &[KeySpec] = &[KeySpec::one(1, Access::RW.union(Access::INSERT))];
const KEY_TAKEN: &[KeySpec] = &[KeySpec::one(1, Access::RW.union(Access::ACCESS).union(Access::DELETE))];
const KEY_DELETED_IF: &[KeySpec] = &[KeySpec::one(1, Access::RW.union(Access::DELETE).union(Access::VARIABLE_FLAGS))];
const KEY_REMOVED: &[KeySpec] = &[KeySpec::one(1, Access::RM.union(Access::DELETE))];
const KEY_SET: &[KeySpec] =
    &[KeySpec::one(1, CHANGES.union(Access::VARIABLE_FLAGS)).notes("RW and ACCESS due to the optional `GET` argument")];
const KEY_GETEX: &[KeySpec] = &[KeySpec::one(1, CHANGES).notes("RW and UPDATE because it changes the TTL")];
const KEYS_READ: &[KeySpec] = &[KeySpec::rest(1, READS)];
const KEYS_REPLACED: &[KeySpec] = &[KeySpec::pairs(1, REPLACES)];
const KEYS_COUNTED: &[KeySpec] = &[KeySpec::counted_pairs(1, REPLACES)];
const KEYS_CREATED: &[KeySpec] = &[KeySpec::pairs(1, CREATES)];
const TWO_KEYS_READ: &[KeySpec] = &[KeySpec::range(1, 1, READS)];

pub(crate) const FAMILY: Family<Run> = Family {
    group: "string",
    category: Category::STRING,
    commands: &[
        Command::new("GET", exactly(2), KEY_READ, READ_FAST, run!(get)).doc(
            "1.0.0",
            "O(1)",
            "Returns the string value of a key.",
        ),
        Command::new("SET", at_least(3), KEY_SET, TIMED.union(Flags::REPLACES), run!(set)).event(KeyEvent::string("set")).cost(set_cost)
            .doc(
                "1.0.0",
                "O(1)",
                "Sets the string value of a key, ignoring its type. The key is created if it doesn't exist.",
            )
            .access(set_access),
        Command::new("SETNX", exactly(3), KEY_CREATED, WRITE_FAST, run!(setnx)).event(KeyEvent::string("set")).doc(
            "1.0.0",
            "O(1)",
            "Set the string value of a key only when the key doesn't exist.",
        ),
        Command::new("SETEX", exactly(4), KEY_REPLACED, TIMED, run!(setex)).event(KeyEvent::string("set")).doc(
            "2.0.0",
            "O(1)",
            "Sets the string value and expiration time of a key. Creates the key if it doesn't exist.",
        ),
        Command::new("PSETEX", exactly(4), KEY_REPLACED, TIMED, run!(psetex)).event(KeyEvent::string("set")).doc(
            "2.6.0",
            "O(1)",
            "Sets both string value and expiration time in milliseconds of a key. The key is created if it doesn't exist.",
        ),
        Command::new("GETSET", exactly(3), KEY_CHANGED, WRITE_FAST.union(Flags::REPLACES), run!(getset)).event(KeyEvent::string("set")).cost(told).doc(
            "1.0.0",
            "O(1)",
            "Returns the previous string value of a key after setting it to a new value.",
        ),
        Command::new("GETDEL", exactly(2), KEY_TAKEN, REMOVE_FAST, run!(getdel)).cost(told).doc(
            "6.2.0",
            "O(1)",
            "Returns the string value of a key after deleting the key.",
        ),
        Command::new("DIGEST", exactly(2), KEY_READ, READ_FAST, run!(conditional::digest)).cost(told).doc(
            "8.4.0",
            "O(N) where N is the length of the string value.",
            "Returns the XXH3 digest of a string value, for IFDEQ and IFDNE to compare with.",
        ),
        Command::new("DELEX", at_least(2), KEY_DELETED_IF, REMOVE_FAST.union(Flags::BY_KEY), run!(conditional::delex))
            .cost(conditional::delex_cost)
            .doc(
                "8.4.0",
                "O(1) for IFEQ and IFNE, O(N) for IFDEQ and IFDNE where N is the length of the string value.",
                "Deletes a key; or a string only if its value or digest is, or is not, a given one.",
            )
            .access(delex_access),
        Command::new("DELIFEQ", exactly(3), KEY_REMOVED, REMOVE_FAST.union(Flags::BY_KEY), run!(conditional::delifeq)).doc(
            "9.0.0",
            "O(1)",
            "Deletes a string only if its value is this one.",
        ),
        Command::new("GETEX", at_least(2), KEY_GETEX, REMOVE_FAST.union(Flags::BY_KEY_TO_REPLICAS), run!(getex)).event(KeyEvent::EXPIRE).cost(told).doc(
            "6.2.0",
            "O(1)",
            "Returns the string value of a key after setting its expiration time.",
        ),
        Command::new("INCR", exactly(2), KEY_CHANGED, WRITE_FAST, run!(incr)).event(KeyEvent::string("incrby")).doc(
            "1.0.0",
            "O(1)",
            "Increments the integer value of a key by one. Uses 0 as initial value if the key doesn't exist.",
        ),
        Command::new("DECR", exactly(2), KEY_CHANGED, WRITE_FAST, run!(decr)).event(KeyEvent::string("incrby")).doc(
            "1.0.0",
            "O(1)",
            "Decrements the integer value of a key by one. Uses 0 as initial value if the key doesn't exist.",
        ),
        Command::new("INCRBY", exactly(3), KEY_CHANGED, WRITE_FAST, run!(incrby)).event(KeyEvent::string("incrby")).doc(
            "1.0.0",
            "O(1)",
            "Increments the integer value of a key by a number. Uses 0 as initial value if the key doesn't exist.",
        ),
        Command::new("DECRBY", exactly(3), KEY_CHANGED, WRITE_FAST, run!(decrby)).event(KeyEvent::string("incrby")).doc(
            "1.0.0",
            "O(1)",
            "Decrements a number from the integer value of a key. Uses 0 as initial value if the key doesn't exist.",
        ),
        Command::new("INCRBYFLOAT", exactly(3), KEY_CHANGED, WRITE_FAST.union(Flags::BY_KEY_TO_REPLICAS), run!(incrbyfloat)).event(KeyEvent::string("incrbyfloat")).doc(
            "2.6.0",
            "O(1)",
            "Increment the floating point value of a key by a number. Uses 0 as initial value if the key doesn't exist.",
        ),
        Command::new("INCREX", at_least(2), KEY_CHANGED, WRITE_FAST.union(Flags::BY_KEY_TO_REPLICAS), run!(counter::increx)).event(KeyEvent::string("incrby")).doc(
            "8.8.0",
            "O(1)",
            "Increments the number of a key within bounds and sets its expiration time. Uses 0 as initial value if the key \
             doesn't exist.",
        ),
        Command::new("APPEND", exactly(3), KEY_APPENDED, WRITE_FAST, run!(append)).event(KeyEvent::string("append")).cost(append_cost).needs(append_need).doc(
            "2.0.0",
            "O(1), amortized over the appends to a value, whose room grows by a quarter when it is full.",
            "Appends a string to the value of a key. Creates the key if it doesn't exist.",
        ),
        Command::new("STRLEN", exactly(2), KEY_ASKED, READ_FAST, run!(strlen)).doc(
            "2.2.0",
            "O(1)",
            "Returns the length of a string value.",
        ),
        Command::new("SETRANGE", exactly(4), KEY_OVERWRITTEN, WRITE, run!(setrange)).event(KeyEvent::string("setrange")).cost(setrange_cost).grows(setrange_growth).needs(setrange_need).doc(
            "2.2.0",
            "O(M) where M is the length of the value argument, and O(N) where the string must become N bytes long.",
            "Overwrites a part of a string value with another by an offset. Creates the key if it doesn't exist.",
        ),
        Command::new("GETRANGE", exactly(4), KEY_READ, READ, run!(getrange)).doc(
            "2.4.0",
            "O(N) where N is the length of the returned string.",
            "Returns a substring of the string stored at a key.",
        ),
        Command::new("SUBSTR", exactly(4), KEY_READ, READ, run!(getrange)).doc(
            "1.0.0",
            "O(N) where N is the length of the returned string.",
            "Returns a substring from a string value.",
        ),
        Command::new("MGET", at_least(2), KEYS_READ, READ_FAST, run!(mget))
            .doc(
                "1.0.0",
                "O(N) where N is the number of keys to retrieve.",
                "Atomically returns the string values of one or more keys.",
            )
            .tips(&["request_policy:multi_shard"]),
        Command::new("MSET", at_least(3), KEYS_REPLACED, WRITE.union(Flags::BY_KEY), run!(mset)).event(KeyEvent::string("set"))
            .doc(
                "1.0.1",
                "O(N) where N is the number of keys to set.",
                "Atomically creates or modifies the string values of one or more keys.",
            )
            .tips(&["request_policy:multi_shard", "response_policy:all_succeeded"]),
        Command::new("MSETNX", at_least(3), KEYS_CREATED, WRITE.union(Flags::BY_KEY), run!(msetnx)).event(KeyEvent::string("set")).doc(
            "1.0.1",
            "O(N) where N is the number of keys to set.",
            "Atomically modifies the string values of one or more keys only when all keys don't exist.",
        ),
        Command::new("MSETEX", at_least(4), KEYS_COUNTED, WRITE.union(Flags::BY_KEY).union(Flags::MOVABLE_KEYS), run!(msetex)).event(KeyEvent::string("set"))
            .doc(
                "8.4.0",
                "O(N) where N is the number of keys to set.",
                "Atomically sets the string values and the expiration time of one or more keys, if all of them exist or none \
                 does.",
            )
            .tips(&["request_policy:multi_shard", "response_policy:all_succeeded"]),
        Command::new("LCS", at_least(3), TWO_KEYS_READ, READ, run!(lcs::lcs))
            .doc(
                "7.0.0",
                "O(N*M) where N and M are the lengths of s1 and s2, respectively",
                "Finds the longest common substring.",
            )
            .cost(lcs::cost),
    ],
};

/// `GET key`
fn get(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    write_text(reply, db.string(key)?);
    Ok(())
}

/// `SET key value [NX | XX | IFEQ value | IFNE value | IFDEQ digest | IFDNE digest] [GET]
/// [EX seconds | PX milliseconds | EXAT unix-time | PXAT unix-time-ms | KEEPTTL]`
fn set(db: &mut Keyspace<'_>, reply: &mut Reply, (key, value, options): (&[u8], &[u8], SetOptions<'_>)) -> Result<()> {
    let expiry = options.ttl.expiry(db.now(), "set")?;
    if options.get {
        write_text(reply, db.string(key)?);
    }
    let wanted = match options.when {
        None => true,
        Some(When::Exists(exists)) => db.contains(key) == exists,
        Some(When::Compares(comparison, word)) => {
            db.reads_to_change();
            match db.string(key)? {
                Some(text) => comparison.holds(text, word)?,
                None => comparison.holds_for_missing(),
            }
        }
    };
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

/// `SETNX key value`
fn setnx(db: &mut Keyspace<'_>, reply: &mut Reply, (key, value): (&[u8], &[u8])) -> Result<()> {
    let wanted = !db.contains(key);
    if wanted {
        db.set_string(key, value, Expiry::None);
    }
    reply.integer(i64::from(wanted));
    Ok(())
}

/// `SETEX key seconds value`
fn setex(db: &mut Keyspace<'_>, reply: &mut Reply, (key, seconds, value): (&[u8], &[u8], &[u8])) -> Result<()> {
    let at = moment(TimeUnit::Seconds, seconds, db.now(), "setex")?;
    db.set_string(key, value, Expiry::At(at));
    reply.ok();
    Ok(())
}

/// `PSETEX key milliseconds value`
fn psetex(db: &mut Keyspace<'_>, reply: &mut Reply, (key, ms, value): (&[u8], &[u8], &[u8])) -> Result<()> {
    let at = moment(TimeUnit::Milliseconds, ms, db.now(), "psetex")?;
    db.set_string(key, value, Expiry::At(at));
    reply.ok();
    Ok(())
}

/// The whole string: the reply of a write cannot be moved to another thread afterwards.
fn told(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    db.string_length(request.arg(1)) / BYTES_PER_ELEMENT
}

/// `GET` tells the old value, and a comparison tells something of it.
fn set_access(request: Request<'_>) -> Access {
    let mut access = Access::OW.union(Access::UPDATE);
    for word in request.iter().skip(3) {
        if word.eq_ignore_ascii_case(b"GET") {
            return CHANGES;
        }
        if Comparison::named(Word::new(word).as_bytes()).is_some() {
            access = Access::RW.union(Access::UPDATE);
        }
    }
    access
}

/// Without a condition, nothing depends on the value.
fn delex_access(request: Request<'_>) -> Access {
    let compares = request.iter().skip(2).any(|word| Comparison::named(Word::new(word).as_bytes()).is_some());
    let access = if compares { Access::RW } else { Access::RM };
    access.union(Access::DELETE)
}

fn set_cost(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let mut options = request.iter().skip(3);
    let reads_all = options.any(|word| word.eq_ignore_ascii_case(b"GET") || asks_for_digest(word));
    if reads_all { told(db, request) } else { 0 }
}

/// `GETSET key value`
fn getset(db: &mut Keyspace<'_>, reply: &mut Reply, (key, value): (&[u8], &[u8])) -> Result<()> {
    write_text(reply, db.string(key)?);
    db.set_string(key, value, Expiry::None);
    Ok(())
}

/// `GETDEL key`
fn getdel(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    write_text(reply, db.string(key)?);
    db.delete(key);
    Ok(())
}

/// `GETEX key [EX seconds | PX milliseconds | EXAT unix-time | PXAT unix-time-ms | PERSIST]`
fn getex(db: &mut Keyspace<'_>, reply: &mut Reply, (key, GetexOptions(ttl)): (&[u8], GetexOptions<'_>)) -> Result<()> {
    let now = db.now();
    let Some(text) = db.string(key)? else {
        reply.null();
        return Ok(());
    };
    write_text(reply, Some(text));
    match ttl {
        GetexTtl::Unsaid => {}
        GetexTtl::Persist => {
            db.call_changes(KeyEvent::generic("persist"));
            db.set_expiry(key, None);
        }
        GetexTtl::At(unit, number) => {
            let at = moment(unit, number, now, "getex")?;
            if db.has_passed(at) {
                db.delete(key);
            } else {
                db.set_expiry(key, Some(at));
            }
        }
    }
    Ok(())
}

/// `INCR key`
fn incr(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    add(db, reply, key, 1)
}

/// `DECR key`
fn decr(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    add(db, reply, key, -1)
}

/// `INCRBY key increment`
fn incrby(db: &mut Keyspace<'_>, reply: &mut Reply, (key, by): (&[u8], i64)) -> Result<()> {
    add(db, reply, key, by)
}

/// `DECRBY key decrement`
fn decrby(db: &mut Keyspace<'_>, reply: &mut Reply, (key, by): (&[u8], i64)) -> Result<()> {
    add(db, reply, key, by.checked_neg().ok_or(Error::DecrementOverflow)?)
}

fn add(db: &mut Keyspace<'_>, reply: &mut Reply, key: &[u8], by: i64) -> Result<()> {
    let sum = db.rewrite_string(key, Origin::Given, |text| {
        let before = match text {
            None => 0,
            Some(Text::Int(n)) => n,
            Some(Text::Raw(bytes)) => canonical_integer(bytes).ok_or(Error::NotAnInteger)?,
        };
        let sum = before.checked_add(by).ok_or(Error::Overflow)?;
        Ok((SmallVec::<[u8; 24]>::from_slice(itoa::Buffer::new().format(sum).as_bytes()), sum))
    })?;
    reply.integer(sum);
    Ok(())
}

/// `INCRBYFLOAT key increment`
fn incrbyfloat(db: &mut Keyspace<'_>, reply: &mut Reply, (key, by): (&[u8], &[u8])) -> Result<()> {
    let sum = db.rewrite_string(key, Origin::Computed, |text| {
        let before = match text {
            None => LongDouble::from_integer(0),
            Some(Text::Int(n)) => LongDouble::from_integer(n),
            Some(Text::Raw(bytes)) => LongDouble::parse(bytes).ok_or(Error::NotAFloat)?,
        };
        let by = LongDouble::parse(by).ok_or(Error::NotAFloat)?;
        let sum = before.plus(by).ok_or(Error::NotFinite)?.format();
        Ok((sum.clone(), sum))
    })?;
    reply.bulk(sum.as_bytes());
    Ok(())
}

/// `APPEND key value`
fn append(db: &mut Keyspace<'_>, reply: &mut Reply, (key, value): (&[u8], &[u8])) -> Result<()> {
    let len = db.update_string(key, Origin::Given, |bytes| {
        check_length(bytes.len(), value.len())?;
        make_room(bytes, bytes.len() + value.len());
        bytes.extend_from_slice(value);
        Ok(Change::Yes(bytes.len()))
    })?;
    reply.integer(len as i64);
    Ok(())
}

/// `STRLEN key`
fn strlen(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    reply.integer(db.string(key)?.map_or(0, |text| text.len()) as i64);
    Ok(())
}

/// `SETRANGE key offset value`
fn setrange(db: &mut Keyspace<'_>, reply: &mut Reply, (key, offset, value): (&[u8], i64, &[u8])) -> Result<()> {
    let offset = usize::try_from(offset).map_err(|_| Error::OffsetOutOfRange)?;
    if let Some(end) = offset.checked_add(value.len()).filter(|_| !value.is_empty()) {
        let edited = db.edit_string(key, end, |bytes| {
            bytes[offset..end].copy_from_slice(value);
            Ok(Change::Yes(bytes.len()))
        });
        if let Some(len) = edited {
            reply.integer(len? as i64);
            return Ok(());
        }
    }
    let len = db.update_string(key, Origin::Edited, |bytes| {
        if value.is_empty() {
            return Ok(Change::No(bytes.len()));
        }
        check_length(offset, value.len())?;
        let end = offset + value.len();
        lengthen(bytes, end);
        bytes[offset..end].copy_from_slice(value);
        Ok(Change::Yes(bytes.len()))
    })?;
    reply.integer(len as i64);
    Ok(())
}

/// How long the string must be for a `SETRANGE`; 0 where that is refused.
fn setrange_end(request: Request<'_>) -> usize {
    let offset = canonical_integer(request.arg(2)).and_then(|offset| usize::try_from(offset).ok());
    let end = offset.map_or(0, |offset| offset.saturating_add(request.arg(3).len()));
    if end > LENGTH_MAX { 0 } else { end }
}

/// How many bytes the string gains.
fn setrange_growth(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    setrange_end(request).saturating_sub(db.string_length(request.arg(1)))
}

fn setrange_need(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    moved_bytes(db, request.arg(1), setrange_end(request))
}

fn append_need(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let key = request.arg(1);
    moved_bytes(db, key, db.string_length(key) + request.arg(2).len())
}

fn append_cost(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    append_need(db, request) / BYTES_PER_ELEMENT
}

/// Temporary memory for a string that has to be moved because it grows to `len` bytes: both copies exist for a while.
pub(super) fn moved_bytes(db: &Keyspace<'_>, key: &[u8], len: usize) -> usize {
    let room = db.value_bytes(key);
    if room == 0 || len <= room { 0 } else { size_class(len) }
}

/// Lengthens a string with zeros to at least `len` bytes. Returns whether it was shorter.
pub(super) fn lengthen(bytes: &mut Vec<u8>, len: usize) -> bool {
    let is_shorter = bytes.len() < len;
    if is_shorter {
        make_room(bytes, len);
        pace::lengthen(bytes, len);
    }
    is_shorter
}

/// Makes room for `len` bytes, and for no more than the allocator hands out for so many: doubling half a gigabyte would
/// waste half a gigabyte.
fn make_room(bytes: &mut Vec<u8>, len: usize) {
    if len > bytes.capacity() {
        bytes.reserve_exact(size_class(len) - bytes.len());
    }
}

/// A string that grows is moved as a whole, and its gap is filled with zeros.
fn setrange_cost(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let growth = setrange_growth(db, request);
    if growth == 0 { 0 } else { (db.string_length(request.arg(1)) + growth) / BYTES_PER_ELEMENT }
}

/// `GETRANGE key start end`, and `SUBSTR`, its old name.
fn getrange(db: &mut Keyspace<'_>, reply: &mut Reply, (key, start, end): (&[u8], i64, i64)) -> Result<()> {
    match db.string(key)? {
        Some(text) => text.with_bytes(|bytes| reply.bulk(part(bytes, start, end))),
        None => reply.bulk(b""),
    }
    Ok(())
}

/// `MGET key [key ...]`
fn mget(db: &mut Keyspace<'_>, reply: &mut Reply, (keys,): (Rest<'_>,)) -> Result<()> {
    reply.array(keys.len());
    // MGET treats a value that is not a string as missing.
    db.for_each_key(keys.iter().map(|key| (key, ())), |db, key, ()| write_text(reply, db.string(key).unwrap_or(None)));
    Ok(())
}

/// `MSET key value [key value ...]`
fn mset(db: &mut Keyspace<'_>, reply: &mut Reply, (pairs,): (Rest<'_>,)) -> Result<()> {
    let pairs = Pairs::new(pairs).ok_or_else(|| Error::WrongArity("mset".into()))?;
    db.for_each_key(pairs.iter(), |db, key, value| {
        pace::step(1 + value.len() / pace::BYTES_PER_ELEMENT);
        db.set_string(key, value, Expiry::None);
    });
    reply.ok();
    Ok(())
}

/// `MSETNX key value [key value ...]`
fn msetnx(db: &mut Keyspace<'_>, reply: &mut Reply, (pairs,): (Rest<'_>,)) -> Result<()> {
    let pairs = Pairs::new(pairs).ok_or_else(|| Error::WrongArity("msetnx".into()))?;
    let wanted = !pairs.iter().any(|(key, _)| db.contains(key));
    if wanted {
        db.for_each_key(pairs.iter(), |db, key, value| db.set_string(key, value, Expiry::None));
    }
    reply.integer(i64::from(wanted));
    Ok(())
}

/// `MSETEX numkeys key value [key value ...] [NX | XX]
/// [EX seconds | PX milliseconds | EXAT unix-time | PXAT unix-time-ms | KEEPTTL]`
fn msetex(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (CountedPairs(pairs), options): (CountedPairs<'_>, SetOptions<'_>),
) -> Result<()> {
    if options.get || matches!(options.when, Some(When::Compares(..))) {
        return Err(Error::Syntax);
    }
    let expiry = options.ttl.expiry(db.now(), "msetex")?;
    if let Some(When::Exists(exists)) = options.when
        && pairs.iter().any(|(key, _)| db.contains(key) != exists)
    {
        reply.integer(0);
        return Ok(());
    }
    // Redis tells the expiry of each key before its value.
    let expires = matches!(expiry, Expiry::At(_));
    if expires {
        db.call_changes(KeyEvent::EXPIRE);
    }
    db.for_each_key(pairs.iter(), |db, key, value| {
        pace::step(1 + value.len() / pace::BYTES_PER_ELEMENT);
        db.put_string(key, value, expiry);
        if expires {
            db.tell(KeyEvent::string("set"), key);
        }
    });
    reply.integer(1);
    Ok(())
}

fn write_text(reply: &mut Reply, text: Option<Text<'_>>) {
    match text {
        Some(Text::Raw(bytes)) => reply.bulk(bytes),
        Some(Text::Int(n)) => reply.bulk_integer(n),
        None => reply.null(),
    }
}

fn check_length(len: usize, more: usize) -> Result<()> {
    let total = len.checked_add(more).filter(|total| *total <= LENGTH_MAX);
    total.map(|_| ()).ok_or(Error::StringTooLong)
}

/// The bytes from `start` to `end`, both included; negative: from the end.
fn part(bytes: &[u8], start: i64, end: i64) -> &[u8] {
    if start < 0 && end < 0 && start > end {
        return b"";
    }
    let len = bytes.len() as i64;
    let from_front = |at: i64| if at < 0 { (len + at).max(0) } else { at };
    let (start, end) = (from_front(start), from_front(end).min(len - 1));
    if start > end { b"" } else { &bytes[start as usize..=end as usize] }
}

#[cfg(test)]
mod newer_tests;
#[cfg(test)]
mod tests;
