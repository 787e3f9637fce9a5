//! Fields of hashes that expire: set, read and removed by name.
//!
//! The syntax is Redis 8's, which takes the options and `FIELDS` in any order. All but `HSETEX` look at the key before
//! they read their options, so they parse those themselves. [`fields`](crate::keyspace::fields) says what becomes of
//! fields that have expired.

use dormouse_protocol::Reply;
use dormouse_types::{Hash, Live, SetExpiry};
use smallvec::{SmallVec, smallvec};

use crate::commands::args::{Args, Rest, integer};
use crate::commands::elements::write_item;
use crate::commands::moment::TimeUnit;
use crate::commands::{Access, Category, Command, Family, Flags, KeySpec, Run, at_least, run};
use crate::error::{Error, Result, repeated};
use crate::keyspace::changes::KeyEvent;
use crate::keyspace::{Change, Keyspace};

const READ: Flags = Flags::READ.union(Flags::FAST);
const WRITE: Flags = Flags::WRITE.union(Flags::FAST);
/// By key: the recorded effect is the moment, or the fields' deletion, in whatever form it was given.
const EXPIRE: Flags = WRITE.union(Flags::BY_KEY);
const SET: Flags = EXPIRE.union(Flags::DENY_OOM);

const KEY_READ: &[KeySpec] = &[KeySpec::one(1, Access::RO.union(Access::ACCESS))];
const KEY_UPDATED: &[KeySpec] = &[KeySpec::one(1, Access::RW.union(Access::UPDATE))];
const KEY_USED: &[KeySpec] = &[KeySpec::one(1, Access::RW.union(Access::ACCESS).union(Access::UPDATE))
    .notes("RW and UPDATE because it changes the TTL")];
const KEY_TAKEN_FROM: &[KeySpec] = &[KeySpec::one(1, Access::RW.union(Access::ACCESS).union(Access::DELETE))];

const EACH: &str = "O(N) where N is the number of specified fields.";

/// No expiry that a client gives is later: 46 bits of milliseconds, as in Redis.
const MOMENT_MAX: i64 = (1 << 46) - 1;

pub(crate) const FAMILY: Family<Run> =
    Family {
        group: "hash",
        category: Category::HASH,
        commands: &[
            Command::new("HEXPIRE", at_least(6), KEY_UPDATED, EXPIRE, run!(hexpire)).event(KeyEvent::HEXPIRE).doc(
                "7.4.0",
                EACH,
                "Sets expiry time on hash fields.",
            ),
            Command::new("HPEXPIRE", at_least(6), KEY_UPDATED, EXPIRE, run!(hpexpire)).event(KeyEvent::HEXPIRE).doc(
                "7.4.0",
                EACH,
                "Sets expiry time on hash fields, in milliseconds.",
            ),
            Command::new("HEXPIREAT", at_least(6), KEY_UPDATED, EXPIRE, run!(hexpireat)).event(KeyEvent::HEXPIRE).doc(
                "7.4.0",
                EACH,
                "Sets expiry time on hash fields, as a Unix timestamp.",
            ),
            Command::new("HPEXPIREAT", at_least(6), KEY_UPDATED, EXPIRE, run!(hpexpireat))
                .event(KeyEvent::HEXPIRE)
                .doc("7.4.0", EACH, "Sets expiry time on hash fields, as a Unix timestamp in milliseconds."),
            Command::new("HPERSIST", at_least(5), KEY_UPDATED, WRITE.union(Flags::BY_KEY_TO_REPLICAS), run!(hpersist))
                .event(KeyEvent::HPERSIST)
                .doc("7.4.0", EACH, "Removes the expiry time of hash fields."),
            Command::new("HTTL", at_least(5), KEY_READ, READ, run!(httl))
                .doc("7.4.0", EACH, "Returns the remaining time to live of hash fields, in seconds.")
                .tips(&["nondeterministic_output"]),
            Command::new("HPTTL", at_least(5), KEY_READ, READ, run!(hpttl))
                .doc("7.4.0", EACH, "Returns the remaining time to live of hash fields, in milliseconds.")
                .tips(&["nondeterministic_output"]),
            Command::new("HEXPIRETIME", at_least(5), KEY_READ, READ, run!(hexpiretime)).doc(
                "7.4.0",
                EACH,
                "Returns the expiry time of hash fields, as a Unix timestamp.",
            ),
            Command::new("HPEXPIRETIME", at_least(5), KEY_READ, READ, run!(hpexpiretime)).doc(
                "7.4.0",
                EACH,
                "Returns the expiry time of hash fields, as a Unix timestamp in milliseconds.",
            ),
            Command::new("HGETEX", at_least(5), KEY_USED, EXPIRE, run!(hgetex)).event(KeyEvent::HEXPIRE).doc(
                "8.0.0",
                EACH,
                "Returns the values of hash fields, and sets or removes their expiry time.",
            ),
            Command::new("HSETEX", at_least(6), KEY_UPDATED, SET, run!(hsetex)).event(KeyEvent::HSET).doc(
                "8.0.0",
                "O(N) where N is the number of fields being set.",
                "Sets the values of hash fields, and their expiry time.",
            ),
            Command::new("HGETDEL", at_least(5), KEY_TAKEN_FROM, WRITE.union(Flags::BY_KEY_TO_REPLICAS), run!(hgetdel))
                .event(KeyEvent::HDEL)
                .doc(
                    "8.0.0",
                    EACH,
                    "Returns the values of hash fields and deletes them. Deletes the hash if no fields remain.",
                ),
        ],
    };

/// Replies for one field.
const MISSING: i64 = -2;
const NEVER: i64 = -1;
const UNMET: i64 = 0;
const DONE: i64 = 1;
const DELETED: i64 = 2;

/// Key, number, options.
type Asked<'a> = (&'a [u8], &'a [u8], Args<'a>);

/// `HEXPIRE key seconds [NX | XX | GT | LT] FIELDS numfields field [field ...]`
fn hexpire(db: &mut Keyspace<'_>, reply: &mut Reply, asked: Asked<'_>) -> Result<()> {
    expire(db, reply, asked, TimeUnit::Seconds, "hexpire")
}

/// `HPEXPIRE key milliseconds [NX | XX | GT | LT] FIELDS numfields field [field ...]`
fn hpexpire(db: &mut Keyspace<'_>, reply: &mut Reply, asked: Asked<'_>) -> Result<()> {
    expire(db, reply, asked, TimeUnit::Milliseconds, "hpexpire")
}

/// `HEXPIREAT key unix-time-seconds [NX | XX | GT | LT] FIELDS numfields field [field ...]`
fn hexpireat(db: &mut Keyspace<'_>, reply: &mut Reply, asked: Asked<'_>) -> Result<()> {
    expire(db, reply, asked, TimeUnit::UnixSeconds, "hexpireat")
}

/// `HPEXPIREAT key unix-time-milliseconds [NX | XX | GT | LT] FIELDS numfields field [field ...]`
fn hpexpireat(db: &mut Keyspace<'_>, reply: &mut Reply, asked: Asked<'_>) -> Result<()> {
    expire(db, reply, asked, TimeUnit::UnixMilliseconds, "hpexpireat")
}

/// `HPERSIST key FIELDS numfields field [field ...]`
fn hpersist(db: &mut Keyspace<'_>, reply: &mut Reply, (key, words): (&[u8], Args<'_>)) -> Result<()> {
    let fields = read_for(db, key, listed(words))?;
    let now = db.horizon();
    let mut changed = Words::new();
    reply.array(fields.len());
    let found = db.update_existing(key, |hash: &mut Hash, _| {
        for field in fields.iter() {
            reply.integer(match hash.live(now).entry(field) {
                None => MISSING,
                Some((_, None)) => NEVER,
                Some((_, Some(_))) => {
                    hash.set_expiry(field, None);
                    changed.push(field);
                    DONE
                }
            });
        }
        Change::when(!changed.is_empty(), ())
    })?;
    if found.is_none() {
        fields.iter().for_each(|_| reply.integer(MISSING));
    }
    tell_changed(db, key, SetExpiry::Drop, false, &changed);
    Ok(())
}

/// `HTTL key FIELDS numfields field [field ...]`
fn httl(db: &mut Keyspace<'_>, reply: &mut Reply, asked: (&[u8], Args<'_>)) -> Result<()> {
    let now = db.now();
    write_expiries(db, reply, asked, |at| seconds(at.saturating_sub(now)))
}

/// `HPTTL key FIELDS numfields field [field ...]`
fn hpttl(db: &mut Keyspace<'_>, reply: &mut Reply, asked: (&[u8], Args<'_>)) -> Result<()> {
    let now = db.now();
    write_expiries(db, reply, asked, |at| at.saturating_sub(now))
}

/// `HEXPIRETIME key FIELDS numfields field [field ...]`
fn hexpiretime(db: &mut Keyspace<'_>, reply: &mut Reply, asked: (&[u8], Args<'_>)) -> Result<()> {
    write_expiries(db, reply, asked, seconds)
}

/// `HPEXPIRETIME key FIELDS numfields field [field ...]`
fn hpexpiretime(db: &mut Keyspace<'_>, reply: &mut Reply, asked: (&[u8], Args<'_>)) -> Result<()> {
    write_expiries(db, reply, asked, |at| at)
}

/// `HGETEX key [EX seconds | PX milliseconds | EXAT time | PXAT time-ms | PERSIST] FIELDS numfields field [field ...]`
fn hgetex(db: &mut Keyspace<'_>, reply: &mut Reply, (key, mut words): (&[u8], Args<'_>)) -> Result<()> {
    let options = GetOptions::read(&mut words, db.now());
    let GetOptions { rule, fields } = read_for(db, key, options)?;
    db.reclaim(key, fields.iter());
    let (now, passed) = (db.horizon(), matches!(rule, SetExpiry::At(at) if db.has_passed(at)));
    db.call_changes(match rule {
        SetExpiry::At(_) if passed => KeyEvent::HDEL,
        SetExpiry::At(_) | SetExpiry::Keep => KeyEvent::HEXPIRE,
        SetExpiry::Drop => KeyEvent::HPERSIST,
    });
    let mut changed = Words::new();
    reply.array(fields.len());
    let found = db.update_existing(key, |hash: &mut Hash, _| {
        let kept = if passed { SetExpiry::Keep } else { rule };
        for field in fields.iter() {
            let Some(before) = hash.touch(field, now, kept, |value| write_item(reply, value)) else {
                reply.null();
                continue;
            };
            let is_changed = match rule {
                SetExpiry::At(_) if passed => hash.remove(field),
                SetExpiry::At(_) => true,
                SetExpiry::Drop => before.is_some(),
                SetExpiry::Keep => false,
            };
            if is_changed {
                changed.push(field);
            }
        }
        Change::when(!changed.is_empty(), ())
    })?;
    if found.is_none() {
        fields.iter().for_each(|_| reply.null());
    }
    tell_changed(db, key, rule, passed, &changed);
    record(db, key, rule, passed, &changed);
    Ok(())
}

/// `HSETEX key [FNX | FXX] [EX seconds | PX milliseconds | EXAT time | PXAT time-ms | KEEPTTL]
/// FIELDS numfields field value [field value ...]`
fn hsetex(db: &mut Keyspace<'_>, reply: &mut Reply, (key, mut words): (&[u8], Args<'_>)) -> Result<()> {
    let SetOptions { when, rule, pairs } = SetOptions::read(&mut words, db.now())?;
    let fields = || (0..pairs.len() / 2).map(move |at| pairs.at(2 * at));
    if let Some(exist) = when {
        db.reclaim(key, fields());
        let now = db.horizon();
        let holds = |hash: Live<'_>| fields().all(|field| hash.contains(field) == exist);
        let found = db.update_existing(key, |hash: &mut Hash, _| Change::No(holds(hash.live(now))))?;
        if !found.unwrap_or(!exist) {
            reply.integer(0);
            return Ok(());
        }
    }
    reply.integer(1);
    if let SetExpiry::At(at) = rule
        && db.has_passed(at)
    {
        return set_passed(db, key, fields().collect());
    }
    let mut is_new = false;
    db.update(key, |hash: &mut Hash, limits| {
        is_new = hash.is_empty();
        hash.expect(pairs.len() / 2, limits);
        for (at, field) in fields().enumerate() {
            hash.set_with(field, pairs.at(2 * at + 1), rule, limits);
        }
        Change::Yes(())
    })?;
    db.tell_fields(KeyEvent::HSET, key, fields());
    if let SetExpiry::At(_) = rule {
        db.tell(KeyEvent::HEXPIRE, key);
        db.tell_fields(KeyEvent::HEXPIRE, key, fields());
    }
    // Of a new key the value is recorded.
    if !is_new && db.records_by_key() {
        let (mut moment, mut count) = (itoa::Buffer::new(), itoa::Buffer::new());
        let mut words: EffectWords<'_> = smallvec![&b"HSETEX"[..], key];
        match rule {
            SetExpiry::Drop => {}
            SetExpiry::Keep => words.push(b"KEEPTTL"),
            SetExpiry::At(at) => words.extend([&b"PXAT"[..], moment.format(at).as_bytes()]),
        }
        words.extend([&b"FIELDS"[..], count.format(pairs.len() / 2).as_bytes()]);
        words.extend(pairs.iter());
        db.effect(key, &words);
    }
    Ok(())
}

/// Sets fields that have expired by now: those that exist are deleted. As in Redis, the events are those of all fields,
/// set and deleted.
fn set_passed(db: &mut Keyspace<'_>, key: &[u8], fields: Words<'_>) -> Result<()> {
    check_type(db, key)?;
    if !db.contains(key) {
        db.tell_new(key);
    }
    db.tell(KeyEvent::HSET, key);
    db.tell_fields(KeyEvent::HSET, key, fields.iter().copied());
    db.call_changes(KeyEvent::HDEL);
    let mut removed = Words::new();
    let found = db.update_existing(key, |hash: &mut Hash, _| {
        removed.extend(fields.iter().copied().filter(|field| hash.remove(field)));
        Change::when(!removed.is_empty(), ())
    })?;
    if removed.is_empty() {
        db.tell(KeyEvent::HDEL, key);
    }
    db.tell_fields(KeyEvent::HDEL, key, fields.iter().copied());
    if found.is_none() {
        db.tell(KeyEvent::DEL, key);
    }
    record(db, key, SetExpiry::At(0), true, &removed);
    Ok(())
}

/// `HGETDEL key FIELDS numfields field [field ...]`
fn hgetdel(db: &mut Keyspace<'_>, reply: &mut Reply, (key, words): (&[u8], Args<'_>)) -> Result<()> {
    let fields = read_for(db, key, listed(words))?;
    db.reclaim(key, fields.iter());
    let now = db.horizon();
    let mut changed = Words::new();
    reply.array(fields.len());
    let found = db.update_existing(key, |hash: &mut Hash, _| {
        for field in fields.iter() {
            match hash.live(now).get(field) {
                Some(value) => {
                    write_item(reply, value);
                    hash.remove(field);
                    changed.push(field);
                }
                None => reply.null(),
            }
        }
        Change::when(!changed.is_empty(), ())
    })?;
    if found.is_none() {
        fields.iter().for_each(|_| reply.null());
    }
    tell_changed(db, key, SetExpiry::Keep, true, &changed);
    Ok(())
}

/// Fields of a request.
type Words<'a> = SmallVec<[&'a [u8]; 8]>;

/// The words of an effect.
type EffectWords<'a> = SmallVec<[&'a [u8]; 16]>;

/// An error if the key holds something else than a hash.
fn check_type(db: &mut Keyspace<'_>, key: &[u8]) -> Result<()> {
    db.update_existing(key, |_: &mut Hash, _| Change::No(())).map(drop)
}

/// The options that were read for a hash. If they are wrong, and the key holds something else, that is the error.
fn read_for<T>(db: &mut Keyspace<'_>, key: &[u8], options: Result<T>) -> Result<T> {
    options.or_else(|error| check_type(db, key).and(Err(error)))
}

/// Lets fields expire, or deletes them if that moment has passed.
fn expire(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, number, mut words): Asked<'_>,
    unit: TimeUnit,
    command: &'static str,
) -> Result<()> {
    let options = moment(unit, number, db.now(), command)
        .and_then(|moment| ExpireOptions::read(&mut words).map(|options| (moment, options)));
    let (moment, ExpireOptions { condition, fields }) = read_for(db, key, options)?;
    let (now, passed) = (db.horizon(), db.has_passed(moment));
    if passed {
        db.call_changes(KeyEvent::HDEL);
    }
    let mut changed = Words::new();
    reply.array(fields.len());
    let found = db.update_existing(key, |hash: &mut Hash, _| {
        for field in fields.iter() {
            reply.integer(match hash.live(now).entry(field) {
                None => MISSING,
                Some((_, before)) if !condition.allows(before, moment) => UNMET,
                Some(_) => {
                    changed.push(field);
                    match passed {
                        true => _ = hash.remove(field),
                        false => _ = hash.set_expiry(field, Some(moment)),
                    }
                    if passed { DELETED } else { DONE }
                }
            });
        }
        Change::when(!changed.is_empty(), ())
    })?;
    if found.is_none() {
        fields.iter().for_each(|_| reply.integer(MISSING));
    }
    tell_changed(db, key, SetExpiry::At(moment), passed, &changed);
    record(db, key, SetExpiry::At(moment), passed, &changed);
    Ok(())
}

/// Names the fields that got a new expiry, or none, or were deleted because it has `passed`.
fn tell_changed(db: &mut Keyspace<'_>, key: &[u8], rule: SetExpiry, passed: bool, fields: &[&[u8]]) {
    if fields.is_empty() {
        return;
    }
    let event = match rule {
        _ if passed => KeyEvent::HDEL,
        SetExpiry::At(_) => KeyEvent::HEXPIRE,
        SetExpiry::Drop | SetExpiry::Keep => KeyEvent::HPERSIST,
    };
    db.tell_fields(event, key, fields.iter().copied());
}

/// Records that `fields` got a new expiry, or were deleted because it has `passed`.
fn record(db: &mut Keyspace<'_>, key: &[u8], rule: SetExpiry, passed: bool, fields: &[&[u8]]) {
    if fields.is_empty() || !db.records_by_key() {
        return;
    }
    let (mut moment, mut count) = (itoa::Buffer::new(), itoa::Buffer::new());
    let count = count.format(fields.len()).as_bytes();
    let mut words: EffectWords<'_> = match rule {
        _ if passed => smallvec![&b"HDEL"[..], key],
        SetExpiry::At(at) => smallvec![&b"HPEXPIREAT"[..], key, moment.format(at).as_bytes(), &b"FIELDS"[..], count],
        SetExpiry::Drop | SetExpiry::Keep => smallvec![&b"HPERSIST"[..], key, &b"FIELDS"[..], count],
    };
    words.extend_from_slice(fields);
    db.effect(key, &words);
}

fn write_expiries(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, words): (&[u8], Args<'_>),
    show: impl Fn(u64) -> u64,
) -> Result<()> {
    let now = db.horizon();
    let hash = db.read::<Hash>(key)?.map(|hash| hash.live(now));
    let fields = listed(words)?;
    reply.array(fields.len());
    for field in fields.iter() {
        reply.integer(match hash.and_then(|hash| hash.entry(field)) {
            None => MISSING,
            Some((_, None)) => NEVER,
            Some((_, Some(at))) => show(at) as i64,
        });
    }
    Ok(())
}

fn seconds(ms: u64) -> u64 {
    ms.div_ceil(1000)
}

/// The moment in Unix milliseconds that `number` means now, for `command`'s error.
fn moment(unit: TimeUnit, number: &[u8], now_ms: u64, command: &'static str) -> Result<u64> {
    let number = integer(number)?;
    if number < 0 {
        return Err(Error::text("ERR invalid expire time, must be >= 0"));
    }
    let moment = unit.moment(number, now_ms).filter(|ms| *ms <= MOMENT_MAX);
    moment.map(|ms| ms as u64).ok_or(Error::InvalidExpire(command))
}

/// When an expiry is to be set, given the present one. None counts as later than any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Always,
    IfNone,
    IfSome,
    IfLater,
    IfSooner,
}

impl Condition {
    fn named(word: &[u8]) -> Option<Self> {
        match word {
            b"NX" => Some(Self::IfNone),
            b"XX" => Some(Self::IfSome),
            b"GT" => Some(Self::IfLater),
            b"LT" => Some(Self::IfSooner),
            _ => None,
        }
    }

    fn allows(self, present: Option<u64>, moment: u64) -> bool {
        match self {
            Self::Always => true,
            Self::IfNone => present.is_none(),
            Self::IfSome => present.is_some(),
            Self::IfLater => present.is_some_and(|at| moment > at),
            Self::IfSooner => present.is_none_or(|at| moment < at),
        }
    }
}

/// `FIELDS numfields field [field ...]`, and nothing else.
fn listed(mut words: Args<'_>) -> Result<Rest<'_>> {
    if !words.word("FIELDS") {
        return Err(Error::text("ERR Mandatory argument FIELDS is missing or not at the right position"));
    }
    let count = integer(words.bytes()?).ok().filter(|count| *count > 0);
    let count = count.ok_or(Error::text("ERR Number of fields must be a positive integer"))?;
    if usize::try_from(count).ok() != Some(words.len()) {
        return Err(Error::text("ERR The `numfields` parameter must match the number of arguments"));
    }
    words.take()
}

/// The options of `HEXPIRE` and its kin, in any order.
#[derive(Debug, Clone, Copy)]
struct ExpireOptions<'a> {
    condition: Condition,
    fields: Rest<'a>,
}

impl<'a> ExpireOptions<'a> {
    fn read(words: &mut Args<'a>) -> Result<Self> {
        let (mut condition, mut is_single, mut fields) = (Condition::Always, true, None);
        while let Some(word) = words.upper() {
            if let Some(named) = Condition::named(word.as_bytes()) {
                is_single &= condition == Condition::Always || condition == named;
                condition = named;
                words.skip();
                continue;
            }
            if word.as_bytes() == b"FIELDS" && fields.is_none() && words.len() < 3 {
                return Err(Error::text("ERR FIELDS requires at least numfields and one field argument"));
            }
            read_fields(words, 1, &mut fields, "ERR Parameter `numFields` should be greater than 0")?;
        }
        let fields = needed(fields)?;
        match is_single {
            true => Ok(Self { condition, fields }),
            false => Err(Error::text("ERR Multiple condition flags specified")),
        }
    }
}

/// An option of `HGETEX` or `HSETEX` about the expiry.
struct ExpiryOption {
    rule: Option<SetExpiry>,
    /// The word beside the units, and its meaning.
    other: (&'static str, SetExpiry),
    /// The error for a second option.
    twice: &'static str,
    command: &'static str,
}

impl ExpiryOption {
    /// Takes the option if it comes next.
    fn read(&mut self, words: &mut Args<'_>, now_ms: u64) -> Result<bool> {
        // The word that comes last, and in every request.
        if words.peek().is_some_and(|word| word.eq_ignore_ascii_case(b"FIELDS")) {
            return Ok(false);
        }
        let Some(word) = words.upper() else { return Ok(false) };
        let unit = TimeUnit::named(word.as_bytes());
        if unit.is_none() && word.as_bytes() != self.other.0.as_bytes() {
            return Ok(false);
        }
        if self.rule.is_some() {
            return Err(Error::text(self.twice));
        }
        words.skip();
        self.rule = Some(match unit {
            None => self.other.1,
            Some(unit) => {
                let number = words.bytes().map_err(|_| Error::text("ERR missing expire time"))?;
                SetExpiry::At(moment(unit, number, now_ms, self.command)?)
            }
        });
        Ok(true)
    }
}

/// The options of `HGETEX`, in any order.
#[derive(Debug, Clone, Copy)]
struct GetOptions<'a> {
    rule: SetExpiry,
    fields: Rest<'a>,
}

impl<'a> GetOptions<'a> {
    fn read(words: &mut Args<'a>, now_ms: u64) -> Result<Self> {
        let mut expiry = ExpiryOption {
            rule: None,
            other: ("PERSIST", SetExpiry::Drop),
            twice: "ERR Only one of EX, PX, EXAT, PXAT or PERSIST arguments can be specified",
            command: "hgetex",
        };
        let mut fields = None;
        while !words.is_empty() {
            if !expiry.read(words, now_ms)? {
                read_fields(words, 1, &mut fields, "ERR invalid number of fields")?;
            }
        }
        Ok(Self { rule: expiry.rule.unwrap_or(SetExpiry::Keep), fields: needed(fields)? })
    }
}

/// The options of `HSETEX`, in any order.
#[derive(Debug, Clone, Copy)]
struct SetOptions<'a> {
    /// Only if all fields exist (FXX), or only if none does (FNX).
    when: Option<bool>,
    rule: SetExpiry,
    pairs: Rest<'a>,
}

impl<'a> SetOptions<'a> {
    fn read(words: &mut Args<'a>, now_ms: u64) -> Result<Self> {
        let mut expiry = ExpiryOption {
            rule: None,
            other: ("KEEPTTL", SetExpiry::Keep),
            twice: "ERR Only one of EX, PX, EXAT, PXAT or KEEPTTL arguments can be specified",
            command: "hsetex",
        };
        let (mut when, mut pairs) = (None, None);
        while !words.is_empty() {
            let exist = words.word("FXX");
            if exist || words.word("FNX") {
                if when.replace(exist).is_some() {
                    return Err(Error::text("ERR Only one of FXX or FNX arguments can be specified"));
                }
            } else if !expiry.read(words, now_ms)? {
                read_fields(words, 2, &mut pairs, "ERR invalid number of fields")?;
            }
        }
        Ok(Self { when, rule: expiry.rule.unwrap_or(SetExpiry::Drop), pairs: needed(pairs)? })
    }
}

/// Takes `FIELDS numfields` and as many runs of `width` words. `count_wrong`: the error for a number that is none.
fn read_fields<'a>(
    words: &mut Args<'a>,
    width: usize,
    fields: &mut Option<Rest<'a>>,
    count_wrong: &'static str,
) -> Result<()> {
    if !words.word("FIELDS") {
        let word = repeated(words.bytes()?);
        return Err(Error::Text(format!("ERR unknown argument: {word}").into()));
    }
    if fields.is_some() {
        return Err(Error::text("ERR FIELDS keyword specified multiple times"));
    }
    let number = words.bytes().map_err(|_| Error::WrongArity(words.name()))?;
    let count = integer(number).ok().and_then(|count| u32::try_from(count).ok());
    let count = count.filter(|count| (1..=COUNT_MAX).contains(count)).ok_or(Error::text(count_wrong))?;
    let taken = (count as usize).saturating_mul(width);
    if taken > words.len() {
        return Err(Error::text("ERR wrong number of arguments"));
    }
    *fields = Some(words.split_to(taken)?);
    Ok(())
}

/// The largest number of fields that is read as one.
const COUNT_MAX: u32 = i32::MAX as u32;

fn needed(fields: Option<Rest<'_>>) -> Result<Rest<'_>> {
    fields.ok_or(Error::text("ERR missing FIELDS argument"))
}

#[cfg(test)]
mod tests;
