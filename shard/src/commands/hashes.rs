//! Hashes: fields and their values. [`hash_fields`](super::hash_fields) has the commands for fields that expire.

use std::collections::HashSet;
use std::iter;

use dormouse_protocol::{Reply, Request, Version};
use dormouse_types::{Hash, Item, Live, SetExpiry};

use crate::commands::args::{Args, Argument, Pairs, Rest, integer};
use crate::commands::elements::{
    Bare, Cursor, Negatable, ScanOptions, Selection, write_item, write_page, write_repeatedly,
};
use crate::commands::long_double::LongDouble;
use crate::commands::{Access, Category, Command, Family, Flags, KeySpec, Run, at_least, cost, exactly, run, work};
use crate::error::{Error, Result};
use crate::keyspace::changes::KeyEvent;
use crate::keyspace::{Change, Keyspace};

const READ: Flags = Flags::READ;
const READ_FAST: Flags = READ.union(Flags::FAST);
const WRITE_FAST: Flags = Flags::WRITE.union(Flags::FAST);
const GROW_FAST: Flags = WRITE_FAST.union(Flags::DENY_OOM);

const HINCRBY: KeyEvent = KeyEvent::hash("hincrby");
const HINCRBYFLOAT: KeyEvent = KeyEvent::hash("hincrbyfloat");

const KEY_LOOK: &[KeySpec] = &[KeySpec::one(1, Access::RO)];
const KEY_READ: &[KeySpec] = &[KeySpec::one(1, Access::RO.union(Access::ACCESS))];
const KEY_INSERT: &[KeySpec] = &[KeySpec::one(1, Access::RW.union(Access::INSERT))];
const KEY_UPDATE: &[KeySpec] = &[KeySpec::one(1, Access::RW.union(Access::UPDATE))];
const KEY_ADD_TO: &[KeySpec] = &[KeySpec::one(1, Access::RW.union(Access::ACCESS).union(Access::UPDATE))];
const KEY_DELETE: &[KeySpec] = &[KeySpec::one(1, Access::RW.union(Access::DELETE))];

const ANY_ORDER: &[&str] = &["nondeterministic_output_order"];
const ANY_OUTPUT: &[&str] = &["nondeterministic_output"];

pub(crate) const FAMILY: Family<Run> = Family {
    group: "hash",
    category: Category::HASH,
    commands: &[
        Command::new("HSET", at_least(4), KEY_UPDATE, GROW_FAST, run!(hset)).event(KeyEvent::HSET).doc(
            "2.0.0",
            "O(1) for each field/value pair added, so O(N) to add N field/value pairs when the command is called with \
             multiple field/value pairs.",
            "Creates or modifies the value of a field in a hash.",
        ),
        Command::new("HMSET", at_least(4), KEY_UPDATE, GROW_FAST, run!(hmset)).event(KeyEvent::HSET).doc(
            "2.0.0",
            "O(N) where N is the number of fields being set.",
            "Sets the values of multiple fields.",
        ),
        Command::new("HSETNX", exactly(4), KEY_INSERT, GROW_FAST, run!(hsetnx)).event(KeyEvent::HSET).doc(
            "2.0.0",
            "O(1)",
            "Sets the value of a field in a hash only when the field doesn't exist.",
        ),
        Command::new("HGET", exactly(3), KEY_READ, READ_FAST, run!(hget)).doc(
            "2.0.0",
            "O(1)",
            "Returns the value of a field in a hash.",
        ),
        Command::new("HMGET", at_least(3), KEY_READ, READ_FAST, run!(hmget)).doc(
            "2.0.0",
            "O(N) where N is the number of fields being requested.",
            "Returns the values of all fields in a hash.",
        ),
        Command::new("HGETALL", exactly(2), KEY_READ, READ, run!(hgetall))
            .doc("2.0.0", "O(N) where N is the size of the hash.", "Returns all fields and values in a hash.")
            .tips(ANY_ORDER)
            .cost(cost_of_all),
        Command::new("HDEL", at_least(3), KEY_DELETE, WRITE_FAST, run!(hdel)).event(KeyEvent::HDEL).doc(
            "2.0.0",
            "O(N) where N is the number of fields to be removed.",
            "Deletes one or more fields and their values from a hash. Deletes the hash if no fields remain.",
        ),
        Command::new("HEXISTS", exactly(3), KEY_LOOK, READ_FAST, run!(hexists)).doc(
            "2.0.0",
            "O(1)",
            "Determines whether a field exists in a hash.",
        ),
        Command::new("HLEN", exactly(2), KEY_LOOK, READ_FAST, run!(hlen)).doc(
            "2.0.0",
            "O(1)",
            "Returns the number of fields in a hash.",
        ),
        Command::new("HSTRLEN", exactly(3), KEY_LOOK, READ_FAST, run!(hstrlen)).doc(
            "3.2.0",
            "O(1)",
            "Returns the length of the value of a field.",
        ),
        Command::new("HKEYS", exactly(2), KEY_READ, READ, run!(hkeys))
            .doc("2.0.0", "O(N) where N is the size of the hash.", "Returns all fields in a hash.")
            .tips(ANY_ORDER)
            .cost(cost_of_all),
        Command::new("HVALS", exactly(2), KEY_READ, READ, run!(hvals))
            .doc("2.0.0", "O(N) where N is the size of the hash.", "Returns all values in a hash.")
            .tips(ANY_ORDER)
            .cost(cost_of_all),
        Command::new("HINCRBY", exactly(4), KEY_ADD_TO, GROW_FAST, run!(hincrby)).event(HINCRBY).doc(
            "2.0.0",
            "O(1)",
            "Increments the integer value of a field in a hash by a number. Uses 0 as initial value if the field \
             doesn't exist.",
        ),
        Command::new(
            "HINCRBYFLOAT",
            exactly(4),
            KEY_ADD_TO,
            GROW_FAST.union(Flags::NAMED_TO_REPLICAS),
            run!(hincrbyfloat),
        )
        .event(HINCRBYFLOAT)
        .doc(
            "2.6.0",
            "O(1)",
            "Increments the floating point value of a field by a number. Uses 0 as initial value if the field doesn't \
             exist.",
        ),
        Command::new("HRANDFIELD", at_least(2), KEY_READ, READ, run!(hrandfield))
            .doc(
                "6.2.0",
                "O(N) where N is the number of fields returned",
                "Returns one or more random fields from a hash.",
            )
            .tips(ANY_OUTPUT)
            .cost(cost_of_draw),
        Command::new("HSCAN", at_least(3), KEY_READ, READ, run!(hscan))
            .doc(
                "2.8.0",
                "O(1) for every call. O(N) for a complete iteration, including enough command calls for the cursor to \
                 return back to 0. N is the number of elements inside the collection.",
                "Iterates over fields and values of a hash.",
            )
            .cost(cost::scanned)
            .tips(ANY_OUTPUT),
    ],
};

/// `HSET key field value [field value ...]`
fn hset(db: &mut Keyspace<'_>, reply: &mut Reply, (key, fields): (&[u8], Fields<'_>)) -> Result<()> {
    let added = set(db, key, fields)?;
    reply.integer(added as i64);
    Ok(())
}

/// `HMSET key field value [field value ...]`
fn hmset(db: &mut Keyspace<'_>, reply: &mut Reply, (key, fields): (&[u8], Fields<'_>)) -> Result<()> {
    set(db, key, fields)?;
    reply.ok();
    Ok(())
}

/// Sets fields and writes the number of new ones.
fn set(db: &mut Keyspace<'_>, key: &[u8], Fields(fields): Fields<'_>) -> Result<usize> {
    let added = db.update(key, |hash: &mut Hash, limits| {
        hash.expect(fields.len(), limits);
        let added = fields.iter().filter(|(field, value)| hash.set(field, value, limits)).count();
        Change::Yes(added)
    })?;
    db.tell_fields(KeyEvent::HSET, key, fields.iter().map(|(field, _)| field));
    Ok(added)
}

/// The hash under `key` as readers see it.
fn read<'a>(db: &'a mut Keyspace<'_>, key: &[u8]) -> Result<Option<Live<'a>>> {
    let now = db.horizon();
    Ok(db.read::<Hash>(key)?.map(|hash| hash.live(now)))
}

/// `HSETNX key field value`
fn hsetnx(db: &mut Keyspace<'_>, reply: &mut Reply, (key, field, value): (&[u8], &[u8], &[u8])) -> Result<()> {
    db.reclaim(key, iter::once(field));
    let is_new = db.update(key, |hash: &mut Hash, limits| {
        let is_new = !hash.contains(field);
        if is_new {
            hash.set(field, value, limits);
        }
        Change::when(is_new, is_new)
    })?;
    if is_new {
        db.tell_fields(KeyEvent::HSET, key, iter::once(field));
    }
    reply.integer(i64::from(is_new));
    Ok(())
}

/// `HGET key field`
fn hget(db: &mut Keyspace<'_>, reply: &mut Reply, (key, field): (&[u8], &[u8])) -> Result<()> {
    db.reclaim(key, iter::once(field));
    write_value(reply, read(db, key)?, field);
    Ok(())
}

/// `HMGET key field [field ...]`
fn hmget(db: &mut Keyspace<'_>, reply: &mut Reply, (key, fields): (&[u8], Rest<'_>)) -> Result<()> {
    db.reclaim(key, fields.iter());
    let hash = read(db, key)?;
    reply.array(fields.len());
    fields.iter().for_each(|field| write_value(reply, hash, field));
    Ok(())
}

fn write_value(reply: &mut Reply, hash: Option<Live<'_>>, field: &[u8]) {
    match hash.and_then(|hash| hash.get(field)) {
        Some(value) => write_item(reply, value),
        None => reply.null(),
    }
}

/// `HGETALL key`
fn hgetall(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    let hash = read(db, key)?;
    reply.map(hash.map_or(0, Live::len));
    if let Some(hash) = hash {
        hash.for_each(|field, value| {
            write_item(reply, field);
            write_item(reply, value);
        });
    }
    Ok(())
}

/// `HDEL key field [field ...]`
fn hdel(db: &mut Keyspace<'_>, reply: &mut Reply, (key, fields): (&[u8], Rest<'_>)) -> Result<()> {
    let (names, mut gone) = (db.wants_fields(), Vec::new());
    let removed = db.update_existing(key, |hash: &mut Hash, _| {
        let mut removed = 0;
        for field in fields.iter().filter(|field| hash.remove(field)) {
            removed += 1;
            if names {
                gone.push(field);
            }
        }
        Change::when(removed > 0, removed)
    })?;
    if removed > Some(0) {
        db.tell_fields(KeyEvent::HDEL, key, gone.into_iter());
    }
    reply.integer(removed.unwrap_or(0));
    Ok(())
}

/// `HEXISTS key field`
fn hexists(db: &mut Keyspace<'_>, reply: &mut Reply, (key, field): (&[u8], &[u8])) -> Result<()> {
    db.reclaim(key, iter::once(field));
    let exists = read(db, key)?.is_some_and(|hash| hash.contains(field));
    reply.integer(i64::from(exists));
    Ok(())
}

/// `HLEN key`; as in Redis, fields that have expired count until they are reclaimed.
fn hlen(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    let len = db.read::<Hash>(key)?.map_or(0, Hash::len);
    reply.integer(len as i64);
    Ok(())
}

/// `HSTRLEN key field`
fn hstrlen(db: &mut Keyspace<'_>, reply: &mut Reply, (key, field): (&[u8], &[u8])) -> Result<()> {
    db.reclaim(key, iter::once(field));
    let len = read(db, key)?.and_then(|hash| hash.get(field)).map_or(0, Item::len);
    reply.integer(len as i64);
    Ok(())
}

/// `HKEYS key`
fn hkeys(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    let hash = read(db, key)?;
    reply.array(hash.map_or(0, Live::len));
    if let Some(hash) = hash {
        hash.for_each(|field, _| write_item(reply, field));
    }
    Ok(())
}

/// `HVALS key`
fn hvals(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    let hash = read(db, key)?;
    reply.array(hash.map_or(0, Live::len));
    if let Some(hash) = hash {
        hash.for_each(|_, value| write_item(reply, value));
    }
    Ok(())
}

/// `HINCRBY key field increment`
fn hincrby(db: &mut Keyspace<'_>, reply: &mut Reply, (key, field, increment): (&[u8], &[u8], i64)) -> Result<()> {
    db.reclaim(key, iter::once(field));
    let sum = db.update(key, |hash: &mut Hash, limits| {
        let old = match hash.get(field) {
            None => Ok(0),
            Some(Item::Int(number)) => Ok(number),
            Some(Item::Bytes(text)) => integer(text).map_err(|_| Error::HashValueNotAnInteger),
        };
        let sum = old.and_then(|old| old.checked_add(increment).ok_or(Error::Overflow));
        if let Ok(sum) = sum {
            hash.set_with(field, itoa::Buffer::new().format(sum).as_bytes(), SetExpiry::Keep, limits);
        }
        Change::when(sum.is_ok(), sum)
    })??;
    db.tell_fields(HINCRBY, key, iter::once(field));
    reply.integer(sum);
    Ok(())
}

/// `HINCRBYFLOAT key field increment`
fn hincrbyfloat(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, field, increment): (&[u8], &[u8], &[u8]),
) -> Result<()> {
    let increment = LongDouble::parse(increment).ok_or(Error::NotAFloat)?;
    if !increment.is_finite() {
        return Err(Error::text("ERR value is NaN or Infinity"));
    }
    db.reclaim(key, iter::once(field));
    let sum = db.update(key, |hash: &mut Hash, limits| {
        let old = match hash.get(field) {
            None => Ok(LongDouble::from_integer(0)),
            Some(Item::Int(number)) => Ok(LongDouble::from_integer(number)),
            Some(Item::Bytes(text)) => LongDouble::parse(text).ok_or(Error::HashValueNotAFloat),
        };
        let sum = old.and_then(|old| old.plus(increment).ok_or(Error::NotFinite)).map(LongDouble::format);
        if let Ok(sum) = &sum {
            hash.set_with(field, sum.as_bytes(), SetExpiry::Keep, limits);
        }
        Change::when(sum.is_ok(), sum)
    })??;
    db.tell_fields(HINCRBYFLOAT, key, iter::once(field));
    db.effect(key, &[b"HSET", key, field, sum.as_bytes()]);
    reply.bulk(sum.as_bytes());
    Ok(())
}

/// `HRANDFIELD key [count [WITHVALUES]]`
fn hrandfield(db: &mut Keyspace<'_>, reply: &mut Reply, (key, draw): (&[u8], Option<Draw>)) -> Result<()> {
    // With values, the reply of RESP2 has twice as many elements.
    if draw.is_some_and(|draw| draw.with_values && draw.count.unsigned_abs() > i64::MAX as u64 / 2) {
        return Err(Error::OutOfRange);
    }
    let mut random = db.randoms();
    let hash = read(db, key)?;
    match (hash, draw) {
        (None, None) => reply.null(),
        (None, Some(_)) => reply.array(0),
        (Some(hash), None) => match hash.random(&mut random) {
            Some((field, _)) => write_item(reply, field),
            None => reply.null(),
        },
        (Some(hash), Some(_)) if hash.is_empty() => reply.array(0),
        (Some(hash), Some(draw)) if draw.count < 0 => {
            let count = draw.count.unsigned_abs();
            draw.write_header(reply, count as usize);
            if hash.may_hide() {
                // So that no draw looks for a field that has not expired among many that have.
                work(reply, hash.len().saturating_mul(size_of::<(Item<'_>, Item<'_>)>()))?;
                let shown: Vec<_> = hash.iter().collect();
                return write_repeatedly(reply, count, |reply| {
                    let at = (u128::from(random()) * shown.len() as u128) >> 64;
                    shown.get(at as usize).into_iter().for_each(|pair| draw.write(reply, *pair));
                });
            }
            write_repeatedly(reply, count, |reply| {
                hash.random(&mut random).into_iter().for_each(|pair| draw.write(reply, pair));
            })?;
        }
        (Some(hash), Some(draw)) => write_distinct(reply, hash, draw, random),
    }
    Ok(())
}

/// Writes `draw.count` different fields, or all if there are not as many.
fn write_distinct(reply: &mut Reply, hash: Live<'_>, draw: Draw, mut random: impl FnMut() -> u64) {
    let len = hash.len();
    let count = usize::try_from(draw.count).unwrap_or(0).min(len);
    draw.write_header(reply, count);
    // Few wanted: fields are rarely drawn twice. Many wanted: walking over all is better.
    if hash.is_packed() || hash.may_hide() || count > len / 3 {
        let mut selection = Selection::new(count, len);
        hash.iter().filter(|_| selection.takes(random())).for_each(|pair| draw.write(reply, pair));
        return;
    }
    let mut drawn = HashSet::with_capacity(count);
    while drawn.len() < count {
        let Some((field, value)) = hash.random(&mut random) else { return };
        if let Item::Bytes(name) = field
            && drawn.insert(name)
        {
            draw.write(reply, (field, value));
        }
    }
}

/// `HSCAN key cursor [MATCH pattern] [COUNT count] [NOVALUES]`
///
/// The cursor of a large hash is a place in its table, so it stays good whatever is added and removed.
fn hscan(db: &mut Keyspace<'_>, reply: &mut Reply, (key, cursor, options): (&[u8], Cursor, Rest<'_>)) -> Result<()> {
    let start = reply.len();
    let (mut next, mut written) = (0, 0);
    if let Some(hash) = read(db, key)? {
        let options = ScanOptions::read(options, Some(Bare::NoValues))?;
        next = hash.scan(cursor.0, options.count, |field, value| {
            if options.matches(field) {
                write_item(reply, field);
                written += 1;
                if !options.is_bare {
                    write_item(reply, value);
                    written += 1;
                }
            }
        });
    }
    write_page(reply, start, next, written);
    Ok(())
}

fn cost_of_all(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    db.cardinality(request.arg(1))
}

fn cost_of_draw(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let count = request.get(2).map_or(1, |count| integer(count).unwrap_or(0));
    let drawn = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
    let len = db.cardinality(request.arg(1));
    match count {
        _ if len == 0 => 0,
        ..0 if may_hide(db, request) => cost::repeated(db, request, count.unsigned_abs()).saturating_add(len),
        ..0 => cost::repeated(db, request, count.unsigned_abs()),
        // Then the whole hash is walked over.
        _ if drawn > len / 3 || may_hide(db, request) => len,
        _ => drawn,
    }
}

/// Whether fields may have expired, which makes a look at all of them necessary.
fn may_hide(db: &Keyspace<'_>, request: Request<'_>) -> bool {
    db.peek_collection::<Hash>(request.arg(1)).is_some_and(|hash| hash.live(db.horizon()).may_hide())
}

/// `field value [field value ...]`; one without the other is a wrong number of arguments.
#[derive(Debug, Clone, Copy)]
struct Fields<'a>(Pairs<'a>);

impl<'a> Argument<'a> for Fields<'a> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        Pairs::new(args.take()?).map(Self).ok_or_else(|| Error::WrongArity(args.name()))
    }
}

/// `count [WITHVALUES]` of `HRANDFIELD`; a negative count draws with repetition.
#[derive(Debug, Clone, Copy)]
struct Draw {
    count: i64,
    with_values: bool,
}

impl Draw {
    fn write_header(self, reply: &mut Reply, count: usize) {
        // RESP3 has an array for each pair.
        let flat = self.with_values && reply.version() == Version::Resp2;
        reply.array(if flat { 2 * count } else { count });
    }

    fn write(self, reply: &mut Reply, (field, value): (Item<'_>, Item<'_>)) {
        if !self.with_values {
            return write_item(reply, field);
        }
        if reply.version() == Version::Resp3 {
            reply.array(2);
        }
        write_item(reply, field);
        write_item(reply, value);
    }
}

impl<'a> Argument<'a> for Draw {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let Negatable(count) = args.take()?;
        let with_values = args.word("WITHVALUES");
        if !args.is_empty() {
            return Err(Error::Syntax);
        }
        Ok(Self { count, with_values })
    }
}

#[cfg(test)]
mod tests;
