//! Keys of any type: existence, names, copies, iteration, and the encoding of a value.

use dormouse_protocol::glob::Glob;
use dormouse_protocol::{Reply, Request};
use dormouse_storage::shown::INDEXES;
use dormouse_types::record::{Origin, Record, Value};

use crate::commands::args::{Args, Argument, Rest, integer};
use crate::commands::elements::{Bare, Cursor, write_page};
use crate::commands::{
    Access, Category, Command, Family, Flags, KeySpec, Run, at_least, cost, exactly, run, write_help,
};
use crate::error::{Error, Result};
use crate::keyspace::access::Uses;
use crate::keyspace::changes::KeyEvent;
use crate::keyspace::strings::EMBSTR_MAX;
use crate::keyspace::{Keyspace, kind_of};

const READ: Flags = Flags::READ;
const READ_FAST: Flags = Flags::READ.union(Flags::FAST);
/// All that write here touch several keys, or a key of another index.
const WRITE: Flags = Flags::WRITE.union(Flags::BY_KEY);
const WRITE_FAST: Flags = WRITE.union(Flags::FAST);
const HELP: Flags = Flags::LOADING.union(Flags::STALE);

const TAKES: Access = Access::RW.union(Access::ACCESS).union(Access::DELETE);

const KEYS_DELETED: &[KeySpec] = &[KeySpec::rest(1, Access::RM.union(Access::DELETE))];
const KEYS_ASKED: &[KeySpec] = &[KeySpec::rest(1, Access::RO)];
const KEY_ASKED: &[KeySpec] = &[KeySpec::one(1, Access::RO)];
const KEY_EXAMINED: &[KeySpec] = &[KeySpec::one(2, Access::RO)];
const KEY_MOVED: &[KeySpec] = &[KeySpec::one(1, Access::RW.union(Access::ACCESS).union(Access::UPDATE))];
const RENAMED: &[KeySpec] = &[KeySpec::one(1, TAKES), KeySpec::one(2, Access::OW.union(Access::UPDATE))];
const RENAMED_TO_NEW: &[KeySpec] = &[KeySpec::one(1, TAKES), KeySpec::one(2, Access::OW.union(Access::INSERT))];
const COPIED: &[KeySpec] =
    &[KeySpec::one(1, Access::RO.union(Access::ACCESS)), KeySpec::one(2, Access::OW.union(Access::UPDATE))];

pub(crate) const FAMILY: Family<Run> = Family {
    group: "generic",
    category: Category::KEYSPACE,
    commands: &[
        Command::new("DEL", at_least(2), KEYS_DELETED, WRITE, run!(del))
            .doc("1.0.0", "O(N) where N is the number of keys that will be removed.", "Deletes one or more keys.")
            .tips(&["request_policy:multi_shard", "response_policy:agg_sum"]),
        Command::new("UNLINK", at_least(2), KEYS_DELETED, WRITE_FAST, run!(del))
            .doc(
                "4.0.0",
                "O(1) for each key removed regardless of its size. What is large is freed by another thread.",
                "Asynchronously deletes one or more keys.",
            )
            .tips(&["request_policy:multi_shard", "response_policy:agg_sum"]),
        Command::new("EXISTS", at_least(2), KEYS_ASKED, READ_FAST, run!(exists))
            .doc(
                "1.0.0",
                "O(N) where N is the number of keys to check.",
                "Determines whether one or more keys exist.",
            )
            .tips(&["request_policy:multi_shard", "response_policy:agg_sum"]),
        Command::new("TYPE", exactly(2), KEY_ASKED, READ_FAST, run!(kind)).doc(
            "1.0.0",
            "O(1)",
            "Determines the type of value stored at a key.",
        ),
        Command::new("RENAME", exactly(3), RENAMED, WRITE, run!(rename)).event(KeyEvent::generic("rename_from")).needs(recorded).doc(
            "1.0.0",
            "O(1)",
            "Renames a key and overwrites the destination.",
        ).cost(cost::copied),
        Command::new("RENAMENX", exactly(3), RENAMED_TO_NEW, WRITE_FAST, run!(renamenx)).event(KeyEvent::generic("rename_from")).needs(recorded).doc(
            "1.0.0",
            "O(1)",
            "Renames a key only when the target key name doesn't exist.",
        ).cost(cost::copied),
        Command::new("COPY", at_least(3), COPIED, WRITE.union(Flags::DENY_OOM), run!(copy)).event(KeyEvent::generic("copy_to"))
            .doc(
                "6.2.0",
                "O(N) worst case for collections, where N is the number of nested items. O(1) for string values.",
                "Copies the value of a key to a new key.",
            )
            .cost(cost::copied)
            .grows(|db, request| db.value_bytes(request.arg(1)))
            .elsewhere(|request| Some((CopyOptions::take(&mut Args::new(request, 3)).ok()?.select?, 2))),
        Command::new("MOVE", exactly(3), KEY_MOVED, WRITE_FAST, run!(move_key)).event(KeyEvent::generic("move_from"))
            .doc("1.0.0", "O(1)", "Moves a key to another database.")
            .needs(recorded)
            .cost(cost::copied)
            .elsewhere(|request| Some((Select::take(&mut Args::new(request, 2)).ok()?.0, 1))),
        Command::new("TOUCH", at_least(2), KEYS_ASKED, READ_FAST, run!(touch))
            .doc(
                "3.2.1",
                "O(N) where N is the number of keys that will be touched.",
                "Returns the number of existing keys out of those specified after updating the time they were last accessed.",
            )
            .tips(&["request_policy:multi_shard", "response_policy:agg_sum"]),
        Command::new("RANDOMKEY", exactly(1), &[], READ.union(Flags::WHOLE), run!(randomkey))
            .doc("1.0.0", "O(1)", "Returns a random key name from the database.")
            .tips(&["request_policy:all_shards", "response_policy:special", "nondeterministic_output"]),
        Command::new("KEYS", exactly(2), &[], ALL_KEYS, run!(keys))
            .doc(
                "1.0.0",
                "O(N) with N being the number of keys in the database, under the assumption that the key names in the \
                 database and the given pattern have limited length.",
                "Returns all key names that match a pattern.",
            )
            .tips(&["request_policy:all_shards", "nondeterministic_output_order"])
            .also(Category::DANGEROUS),
        Command::new("SCAN", at_least(2), &[], READ.union(Flags::BY_CURSOR), run!(scan))
            .doc(
                "2.8.0",
                "O(1) for every call. O(N) for a complete iteration, including enough command calls for the cursor to \
                 return back to 0. N is the number of elements inside the collection.",
                "Iterates over the key names in the database.",
            )
            .tips(&["nondeterministic_output", "request_policy:special", "response_policy:special"])
            .cost(scan_cost),
        Command::container("OBJECT", OBJECT).doc(
            "2.2.3",
            "Depends on subcommand.",
            "A container for object introspection commands.",
        ),
    ],
};

const ALL_KEYS: Flags = READ.union(Flags::WHOLE).union(Flags::SLOW_LANE).union(Flags::ALL_RESIDENT);

const OBJECT: &[Command<Run>] = &[
    Command::new("ENCODING", exactly(3), KEY_EXAMINED, READ, run!(encoding, 2))
        .doc("2.2.3", "O(1)", "Returns the internal encoding of a Redis object.")
        .tips(&["nondeterministic_output"]),
    Command::new("REFCOUNT", exactly(3), KEY_EXAMINED, READ, run!(refcount, 2))
        .doc("2.2.3", "O(1)", "Returns the reference count of a value of a key.")
        .tips(&["nondeterministic_output"]),
    Command::new("IDLETIME", exactly(3), KEY_EXAMINED, READ, run!(idletime, 2))
        .doc("2.2.3", "O(1)", "Returns the time since the last access to a Redis object.")
        .tips(&["nondeterministic_output"]),
    Command::new("FREQ", exactly(3), KEY_EXAMINED, READ, run!(freq, 2))
        .doc("4.0.0", "O(1)", "Returns the logarithmic access frequency counter of a Redis object.")
        .tips(&["nondeterministic_output"]),
    Command::new("HELP", exactly(2), &[], HELP, run!(object_help, 2)).doc(
        "6.2.0",
        "O(1)",
        "Returns helpful text about the different subcommands.",
    ),
];

/// `DEL key [key ...]`, and `UNLINK`: large values are always freed elsewhere.
fn del(db: &mut Keyspace<'_>, reply: &mut Reply, (keys,): (Rest<'_>,)) -> Result<()> {
    let deleted = keys.iter().filter(|key| db.delete(key)).count();
    reply.integer(deleted as i64);
    Ok(())
}

/// `EXISTS key [key ...]`
fn exists(db: &mut Keyspace<'_>, reply: &mut Reply, (keys,): (Rest<'_>,)) -> Result<()> {
    db.without_access(true);
    reply.integer(keys.iter().filter(|key| db.exists(key)).count() as i64);
    Ok(())
}

/// `TYPE key`
fn kind(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    db.without_access(true);
    reply.simple(db.kind(key).map_or("none", |kind| kind.name()));
    Ok(())
}

/// `RENAME key newkey`
fn rename(db: &mut Keyspace<'_>, reply: &mut Reply, (from, to): (&[u8], &[u8])) -> Result<()> {
    if !db.contains(from) {
        return Err(Error::NoSuchKey);
    }
    if from != to {
        move_to(db, from, to);
    }
    reply.ok();
    Ok(())
}

/// A value that moves to another key is recorded whole, and written at once for a checkpoint of one moment.
fn recorded(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let shared = db.shared();
    if shared.journal.is_recording() || shared.parked.is_open() { db.value_bytes(request.arg(1)) } else { 0 }
}

/// `RENAMENX key newkey`
fn renamenx(db: &mut Keyspace<'_>, reply: &mut Reply, (from, to): (&[u8], &[u8])) -> Result<()> {
    if !db.contains(from) {
        return Err(Error::NoSuchKey);
    }
    let wanted = !db.contains(to);
    if wanted {
        move_to(db, from, to);
    }
    reply.integer(i64::from(wanted));
    Ok(())
}

fn move_to(db: &mut Keyspace<'_>, from: &[u8], to: &[u8]) {
    // An expired key goes before anything else happens.
    db.contains(to);
    db.tell_new(to);
    if let Some(taken) = db.take(from) {
        db.call_changes(KeyEvent::generic("rename_to"));
        db.put_taken(to, taken);
    }
}

/// `COPY source destination [DB destination-db] [REPLACE]`
fn copy(db: &mut Keyspace<'_>, reply: &mut Reply, (from, to, options): (&[u8], &[u8], CopyOptions)) -> Result<()> {
    let here = db.selected();
    let there = options.select.unwrap_or(here);
    if here == there && from == to {
        return Err(Error::SameObject);
    }
    let is_free = !elsewhere(db, there, |db| db.contains(to));
    if db.has_fault() {
        return Ok(());
    }
    let copied = match is_free || options.replace {
        true => db.copy_of(from),
        false => {
            // The source is read all the same.
            db.exists(from);
            None
        }
    };
    reply.integer(i64::from(copied.is_some()));
    if let Some(copied) = copied {
        elsewhere(db, there, |db| {
            db.tell_new(to);
            db.put_taken(to, copied);
        });
    }
    Ok(())
}

/// `MOVE key db`
fn move_key(db: &mut Keyspace<'_>, reply: &mut Reply, (key, Select(there)): (&[u8], Select)) -> Result<()> {
    if there == db.selected() {
        return Err(Error::SameObject);
    }
    let is_free = !elsewhere(db, there, |db| db.contains(key));
    if db.has_fault() {
        return Ok(());
    }
    let moves = is_free && db.contains(key);
    if moves {
        elsewhere(db, there, |db| db.tell_new(key));
    }
    let taken = if moves { db.take(key) } else { None };
    reply.integer(i64::from(taken.is_some()));
    if let Some(taken) = taken {
        db.call_changes(KeyEvent::generic("move_to"));
        elsewhere(db, there, |db| db.put_taken(key, taken));
    }
    Ok(())
}

/// `TOUCH key [key ...]`
fn touch(db: &mut Keyspace<'_>, reply: &mut Reply, (keys,): (Rest<'_>,)) -> Result<()> {
    db.without_access(false);
    let found = keys.iter().filter(|key| db.exists(key)).count();
    reply.integer(found as i64);
    Ok(())
}

/// `RANDOMKEY`
fn randomkey(db: &mut Keyspace<'_>, reply: &mut Reply, (): ()) -> Result<()> {
    match db.random_key() {
        Some(key) => reply.bulk(&key),
        None => reply.null(),
    }
    Ok(())
}

/// `KEYS pattern`
fn keys(db: &mut Keyspace<'_>, reply: &mut Reply, (pattern,): (&[u8],)) -> Result<()> {
    let glob = Glob::new(pattern)?;
    let (start, mut count) = (reply.len(), 0);
    db.for_each(|record| {
        if pattern == b"*" || glob.matches(record.key()) {
            reply.bulk(record.key());
            count += 1;
        }
    });
    reply.array_since(start, count);
    Ok(())
}

/// `SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]`
fn scan(db: &mut Keyspace<'_>, reply: &mut Reply, (cursor, options): (Cursor, ScanOptions<'_>)) -> Result<()> {
    let (start, mut found) = (reply.len(), 0);
    let next = db.scan(cursor.0, options.count, |record| {
        if options.wants(record) {
            reply.bulk(record.key());
            found += 1;
        }
    });
    write_page(reply, start, next, found);
    Ok(())
}

fn scan_cost(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let reading = cost::patterns(request);
    if reading > cost::READING_MAX {
        return usize::MAX;
    }
    let Ok(options) = ScanOptions::take(&mut Args::new(request, 2)) else { return 0 };
    let (keys, count) = (db.len(), options.count.min(db.len()));
    let bytes = db.resident_bytes() / keys.max(1) * count;
    reading.saturating_add(count).saturating_add(options.pattern.map_or(0, |glob| glob.cost(count, bytes)))
}

/// `OBJECT ENCODING key`
fn encoding(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    examine(db, reply, key, |reply, record| {
        reply.bulk(encoding_of(record).as_bytes());
        Ok(())
    })
}

/// Redis's name for the encoding of a value.
pub(super) fn encoding_of(record: &Record) -> &'static str {
    match record.value() {
        Value::Int(_) => "int",
        Value::Raw(bytes) if bytes.len() <= EMBSTR_MAX && record.origin() != Origin::Edited => "embstr",
        Value::Raw(_) => "raw",
        Value::Object(object) => object.encoding(),
    }
}

/// `OBJECT REFCOUNT key`: no value is shared.
fn refcount(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    examine(db, reply, key, |reply, _| {
        reply.integer(1);
        Ok(())
    })
}

/// `OBJECT IDLETIME key`
fn idletime(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    let uses = db.uses();
    examine(db, reply, key, |reply, record| match uses.idle_seconds(record.access()) {
        Some(seconds) => {
            reply.integer(i64::from(seconds));
            Ok(())
        }
        None => Err(Error::text(
            "ERR An LFU maxmemory policy is selected, idle time not tracked. Please note that when switching between \
             policies at runtime LRU and LFU data will take some time to adjust.",
        )),
    })
}

/// `OBJECT FREQ key`
fn freq(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    let uses = db.uses();
    examine(db, reply, key, |reply, record| match uses {
        Uses::Frequency(now) => {
            reply.integer(i64::from(now.counter(record.access())));
            Ok(())
        }
        Uses::Clock(_) | Uses::Changes(_) => Err(Error::text(
            "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching \
             between policies at runtime LRU and LFU data will take some time to adjust.",
        )),
    })
}

/// `OBJECT HELP`
fn object_help(_: &mut Keyspace<'_>, reply: &mut Reply, (): ()) -> Result<()> {
    write_help(
        reply,
        "OBJECT",
        &[
            "ENCODING <key>",
            "    Return the kind of internal representation used in order to store the value",
            "    associated with a <key>.",
            "FREQ <key>",
            "    Return the access frequency index of the <key>. The returned integer is",
            "    proportional to the logarithm of the recent access frequency of the key.",
            "IDLETIME <key>",
            "    Return the idle time of the <key>, that is the approximated number of",
            "    seconds elapsed since the last access to the key.",
            "REFCOUNT <key>",
            "    Return the number of references of the value associated with the specified",
            "    <key>.",
        ],
    );
    Ok(())
}

/// Writes about the record of `key` without touching it; null if it does not exist.
pub(super) fn examine(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    key: &[u8],
    write: impl FnOnce(&mut Reply, &Record) -> Result<()>,
) -> Result<()> {
    db.without_access(true);
    match db.record_in_silence(key) {
        Some(record) => write(reply, record),
        None => {
            reply.null();
            Ok(())
        }
    }
}

/// Runs `act` in another logical index, and comes back.
fn elsewhere<'a, R>(db: &mut Keyspace<'a>, select: u8, act: impl FnOnce(&mut Keyspace<'a>) -> R) -> R {
    let here = db.selected();
    db.select(select);
    let result = act(db);
    db.select(here);
    result
}

/// The number of a logical index.
struct Select(u8);

impl<'a> Argument<'a> for Select {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let number = i32::try_from(integer(args.bytes()?)?)
            .map_err(|_| Error::text("ERR value is out of range, value must between -2147483648 and 2147483647"))?;
        let index = u8::try_from(number).ok().filter(|index| usize::from(*index) < INDEXES);
        index.map(Self).ok_or(Error::DbIndexOutOfRange)
    }
}

#[derive(Default)]
struct CopyOptions {
    select: Option<u8>,
    replace: bool,
}

impl<'a> Argument<'a> for CopyOptions {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let mut options = Self::default();
        while !args.is_empty() {
            if args.word("REPLACE") {
                options.replace = true;
            } else if args.word("DB") {
                options.select = Some(args.take::<Select>()?.0);
            } else {
                return Err(Error::Syntax);
            }
        }
        Ok(options)
    }
}

struct ScanOptions<'a> {
    pattern: Option<Glob<'a>>,
    count: usize,
    /// The name of a type, or of none: then no key matches.
    kind: Option<&'a [u8]>,
}

impl ScanOptions<'_> {
    fn wants(&self, record: &Record) -> bool {
        self.kind.is_none_or(|name| kind_of(record).name().as_bytes().eq_ignore_ascii_case(name))
            && self.pattern.as_ref().is_none_or(|glob| glob.matches(record.key()))
    }
}

impl<'a> Argument<'a> for ScanOptions<'a> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let mut options = Self { pattern: None, count: 10, kind: None };
        while !args.is_empty() {
            if args.word("MATCH") {
                let pattern = args.bytes()?;
                options.pattern = if pattern == b"*" { None } else { Some(Glob::new(pattern)?) };
            } else if args.word("COUNT") {
                let count: i64 = args.take()?;
                options.count = usize::try_from(count).ok().filter(|count| *count > 0).ok_or(Error::Syntax)?;
            } else if args.word("TYPE") {
                options.kind = Some(args.bytes()?);
            } else {
                return Err(Bare::of(args.bytes()?).map_or(Error::Syntax, Bare::is_misplaced));
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests;
