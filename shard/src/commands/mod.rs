//! The command table: a row and a function for each command over the keyspace, one file a family.
//!
//! A family's file opens with its rows; the functions follow in the rows' order. A function takes the keyspace, the reply
//! to write to, and its arguments as a tuple of types that parse themselves. It never sees a socket, a tenant or the
//! clock. [`call`] is the one wrapper around all of them: the error reply, the effect, the fault.

pub mod args;
pub(crate) mod cost;
pub(crate) mod elements;
pub(crate) mod growth;
pub mod reach;
pub mod row;

mod arrays;
mod bitmaps;
pub mod blocking;
pub mod cluster_scan;
pub mod debugging;
mod dump;
#[cfg(test)]
mod events_tests;
mod expiry;
mod filters;
mod geo;
mod hash_fields;
pub mod hash_import;
mod hashes;
mod hyperloglogs;
mod indexes;
mod json;
mod keys;
mod lcs;
mod lists;
mod long_double;
mod memory;
mod moment;
#[cfg(test)]
mod replica_tests;
pub mod scripting;
mod sets;
pub mod slots;
mod sort;
mod sorted_sets;
pub mod staging;
mod streams;
mod strings;
#[cfg(test)]
mod table_tests;
#[cfg(test)]
pub(crate) mod testing;
pub mod tracked;
mod vector_sets;
#[cfg(test)]
mod work_tests;

use std::any::Any;

use dormouse_protocol::{Reply, Request};
use dormouse_storage::codec;
use dormouse_storage::effect::{self, EffectBody};
use dormouse_types::pace;
use dormouse_types::record::Record;

pub use reach::{Channels, Databases};
pub use row::{
    Access, Arity, Category, Command, Context, Cost, Family, Find, Flags, KeySpec, Row, Straying, at_least, exactly,
};

use crate::error::Error;
use crate::error::Result;
use crate::keyspace::{Fault, Keyspace};

/// The function that runs a command over the keyspace.
pub type Run = fn(&mut Keyspace<'_>, &mut Reply, Request<'_>) -> Result<()>;

/// Every family over the keyspace.
pub const FAMILIES: &[Family<Run>] = &[
    strings::FAMILY,
    bitmaps::FAMILY,
    hyperloglogs::FAMILY,
    keys::FAMILY,
    dump::FAMILY,
    dump::ASKING,
    expiry::FAMILY,
    indexes::FAMILY,
    memory::FAMILY,
    sort::FAMILY,
    hashes::FAMILY,
    hash_fields::FAMILY,
    lists::FAMILY,
    sets::FAMILY,
    sorted_sets::FAMILY,
    geo::FAMILY,
    streams::FAMILY,
    arrays::FAMILY,
    filters::BLOOM,
    filters::CUCKOO,
    json::FAMILY,
    vector_sets::FAMILY,
    scripting::FAMILY,
];

/// `run!(get)` wraps `fn get(db, reply, arguments)` so that its argument tuple is parsed from the request; for a
/// subcommand `run!(encoding, 2)` skips both words of its name.
macro_rules! run {
    ($function:path) => {
        $crate::commands::run!($function, 1)
    };
    ($function:path, $skip:expr) => {{
        fn run(
            db: &mut $crate::keyspace::Keyspace<'_>,
            reply: &mut ::dormouse_protocol::Reply,
            request: ::dormouse_protocol::Request<'_>,
        ) -> $crate::error::Result<()> {
            $function(db, reply, $crate::commands::args::parse(request, $skip)?)
        }
        run as $crate::commands::Run
    }};
}
pub(crate) use run;

/// Runs one command whose arity has been checked, and writes exactly one reply, or none if it needs a place loaded first
/// or [waits](Keyspace::take_wait).
///
/// # Errors
/// The place that must be loaded before the command is run again. Nothing was changed.
pub fn call(row: &Row, run: Run, db: &mut Keyspace<'_>, reply: &mut Reply, request: Request<'_>) -> Result<(), Fault> {
    let (of_row, to_replicas) = (row.flags, Flags::BY_KEY_TO_REPLICAS | Flags::NAMED_TO_REPLICAS);
    let is_told = of_row.intersects(to_replicas) && db.shared().journal.is_tapped();
    db.begin(of_row.contains(Flags::BY_KEY) || is_told, of_row.contains(Flags::WRITE));
    if is_told && of_row.contains(Flags::NAMED_TO_REPLICAS) {
        db.name_effects();
    }
    db.call_changes(row.event);
    if !db.is_selectable() {
        reply.error(&Error::NothingStaged.to_string());
        return Ok(());
    }
    if db.is_attentive() {
        return tracked::attend(row, run, db, reply, request);
    }
    run_and_record(row, run, db, reply, request)
}

/// Runs one command that has [begun](Keyspace::begin), and records its effect.
#[inline]
fn run_and_record(
    row: &Row,
    run: Run,
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    request: Request<'_>,
) -> Result<(), Fault> {
    let start = reply.len();
    reply.defer(!row.flags.contains(Flags::WRITE));
    let outcome = match row.flags.contains(Flags::READ) && pace::listens() {
        true => endable(|| run(db, reply, request)),
        false => run(db, reply, request),
    };
    if db.is_suspended() {
        return Ok(());
    }
    conclude(row, db, reply, request, (start, outcome))
}

/// Lets a command go on that was [suspended](Keyspace::suspend), to its end.
pub fn go_on(
    row: &Row,
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    request: Request<'_>,
    suspended: Box<dyn Any + Send>,
) {
    let start = reply.len();
    reply.defer(false);
    let outcome = scripting::go_on(db, reply, request, suspended);
    let done = conclude(row, db, reply, request, (start, outcome));
    debug_assert!(done.is_ok(), "a command that has changed something has loaded what it lacked");
}

/// Ends a command that has written its reply from `start` on, or has failed.
#[inline]
fn conclude(
    row: &Row,
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    request: Request<'_>,
    (start, outcome): (usize, Result<()>),
) -> Result<(), Fault> {
    reply.end_work();
    reply.defer(false);
    if let Some(fault) = db.take_fault() {
        debug_assert_eq!(db.changes(), 0, "{} faulted after it had changed something", row.name);
        reply.truncate(start);
        return Err(fault);
    }
    match outcome {
        Ok(()) => reply.settle(start),
        Err(error) => {
            reply.truncate(start);
            reply.error(&error.to_string());
        }
    }
    if db.is_to_record()
        && let Some(key) = row.first_key(request)
    {
        db.record_verbatim(request, key);
    }
    Ok(())
}

/// Runs what changes nothing, and so may be told to end: a command that reads, or the search for what another one stores.
///
/// # Errors
/// [`Error::Unfinished`] if it was; otherwise its own.
pub(crate) fn endable<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    pace::endable(work)?
}

/// Asks for memory that a command needs while it runs, before it takes it: see [`Reply::work`].
pub(crate) fn work(reply: &mut Reply, bytes: usize) -> Result<()> {
    reply.work(bytes).map_err(|limit| {
        Error::Text(format!("OOM the command needs too much memory while it runs: it would exceed '{limit}'").into())
    })
}

/// Notes the keys that a command's reply depends on.
fn depend(row: &Row, db: &mut Keyspace<'_>, request: Request<'_>) {
    let finds_keys = !row.has_keys() || row.keys.iter().any(|spec| spec.find == Find::Unknown);
    db.depend_on((!finds_keys).then(|| row.key_indexes(request).map(|key| request.arg(key))));
}

/// Replays the body of one effect onto the keyspace, whose `now` must be the effect's.
///
/// # Errors
/// If the body is malformed, or its command is unknown.
pub fn replay(db: &mut Keyspace<'_>, body: &[u8]) -> Result<()> {
    let malformed = || Error::Store("an effect record is malformed".into());
    match effect::read(body).ok_or_else(malformed)? {
        EffectBody::Delete { key } => {
            db.delete(&key);
        }
        EffectBody::Expiry { key, expiry } => {
            db.set_expiry(&key, expiry);
        }
        EffectBody::Value { key, expiry, kind, value } => {
            let limits = *db.limits();
            let mut reader = codec::Reader::new(&value);
            let loaded = codec::value::decode_value(kind, &mut reader, &limits).map_err(|_| malformed())?;
            reader.finish().map_err(|_| malformed())?;
            let record = match loaded {
                codec::value::LoadedValue::Text(text) => text.with_bytes(|bytes| Record::new_raw(&key, bytes, expiry)),
                codec::value::LoadedValue::Object(object) => Record::new_object(&key, object, expiry),
            };
            db.replace(&key, record);
        }
        EffectBody::Told(_) => {}
        EffectBody::Repeated { key } => streams::count_repeated(db, &key),
        EffectBody::Command(request) | EffectBody::Kept(request) => {
            let request = request.as_request();
            let (row, run) = find(request).ok_or_else(malformed)?;
            let mut reply = Reply::new(dormouse_protocol::Version::Resp2);
            // A place is resident when it is replayed, so there is no fault; no client gets the reply.
            let _ = call(row, run, db, &mut reply, request);
        }
    }
    Ok(())
}

/// Writes a container's `HELP`: a line on the command, the `lines` on its other subcommands, and on `HELP`.
pub fn write_help(reply: &mut Reply, name: &str, lines: &[&str]) {
    reply.array(lines.len() + 3);
    reply.simple(&format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    lines.iter().for_each(|line| reply.simple(line));
    reply.simple("HELP");
    reply.simple("    Prints this help.");
}

/// Reads a SCAN cursor, a prefix53, as C's `strtoul` does: with a sign, after which it wraps around; nothing is 0.
pub fn cursor_of(bytes: &[u8]) -> Option<u64> {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return text.is_empty().then_some(0);
    }
    let value = digits.iter().try_fold(0u64, |value, byte| {
        let digit = char::from(*byte).to_digit(10)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })?;
    Some(if negative { value.wrapping_neg() } else { value })
}

/// The row and function of a request's command. For the request path the server keeps a faster table.
pub fn find(request: Request<'_>) -> Option<(&'static Row, Run)> {
    let name = request.get(0)?;
    let same = |row: &Row, name: &[u8]| row.name.as_bytes().eq_ignore_ascii_case(name);
    let command = FAMILIES.iter().flat_map(|family| family.commands).find(|command| same(&command.row, name))?;
    let command = match request.get(1) {
        Some(sub) if !command.subcommands.is_empty() => {
            command.subcommands.iter().find(|command| same(&command.row, sub))?
        }
        _ => command,
    };
    command.row.arity.accepts(request.len()).then_some(())?;
    Some((&command.row, command.run?))
}
