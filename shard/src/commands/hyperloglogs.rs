//! HyperLogLogs: strings of a form of their own, which [`dormouse_types::hyperloglog`] describes.
//!
//! `PFCOUNT` uses the count that is cached in a value, and caches none itself: a read changes nothing.

#[cfg(test)]
mod tests;

use dormouse_protocol::{Reply, Request};
use dormouse_types::ObjectRef;
use dormouse_types::hyperloglog::{self, Corrupted, REGISTERS, Registers};
use dormouse_types::record::{Origin, Value};

use crate::commands::args::{Rest, Word};
use crate::commands::{Access, Category, Command, Family, Flags, KeySpec, Run, at_least, exactly, run};
use crate::error::{Error, Result, repeated};
use crate::keyspace::changes::KeyEvent;
use crate::keyspace::{Change, Keyspace};

const NOT_ONE: Error = Error::text("WRONGTYPE Key is not a valid HyperLogLog string value.");
const CORRUPTED: Error = Error::text("INVALIDOBJ Corrupted HLL object detected");

/// All registers of one take about as long as looking at so many elements of a collection.
const REGISTERS_COST: usize = 300;

/// Cost of looking for an entry of a sparse value, per byte of it.
const SPARSE_COST: usize = 4;

/// Bytes before the registers.
const HEAD_BYTES: usize = 16;

const WRITE: Flags = Flags::WRITE.union(Flags::DENY_OOM);

const KEY_ADDED: &[KeySpec] = &[KeySpec::one(1, Access::RW.union(Access::INSERT))];
const KEYS_COUNTED: &[KeySpec] = &[KeySpec::rest(1, Access::RW.union(Access::ACCESS))
    .notes("RW because it may change the internal representation of the key, and propagate to replicas")];
const KEYS_MERGED: &[KeySpec] = &[
    KeySpec::one(1, Access::RW.union(Access::ACCESS).union(Access::INSERT)),
    KeySpec::rest(2, Access::RO.union(Access::ACCESS)),
];
const KEY_DEBUGGED: &[KeySpec] = &[KeySpec::one(2, Access::RW.union(Access::ACCESS))];

pub(crate) const FAMILY: Family<Run> = Family {
    group: "hyperloglog",
    category: Category::HYPERLOGLOG,
    commands: &[
        Command::new("PFADD", at_least(2), KEY_ADDED, WRITE.union(Flags::FAST), run!(pfadd))
            .event(KeyEvent::string("pfadd"))
            .doc(
                "2.8.9",
                "O(1) to add every element.",
                "Adds elements to a HyperLogLog key. Creates the key if it doesn't exist.",
            )
            .cost(|_, request| 8 * request.len()),
        Command::new("PFCOUNT", at_least(2), KEYS_COUNTED, Flags::READ.union(Flags::MAY_REPLICATE), run!(pfcount))
            .doc(
                "2.8.9",
                "O(1) with a cached count, else O(N) with N being the number of keys, and large constant times.",
                "Returns the approximated cardinality of the set(s) observed by the HyperLogLog key(s).",
            )
            .cost(cost_of_keys),
        Command::new("PFMERGE", at_least(2), KEYS_MERGED, WRITE.union(Flags::BY_KEY), run!(pfmerge))
            .event(KeyEvent::string("pfadd"))
            .doc(
                "2.8.9",
                "O(N) to merge N HyperLogLogs, but with high constant times.",
                "Merges one or more HyperLogLog values into a single key.",
            )
            .cost(cost_of_merge),
        Command::new("PFDEBUG", exactly(3), KEY_DEBUGGED, WRITE.union(Flags::ADMIN), run!(pfdebug))
            .doc(
                "2.8.9",
                "O(N) with N being the number of registers.",
                "Internal commands for debugging HyperLogLog values.",
            )
            .cost(|_, _| 2 * REGISTERS_COST),
        Command::new("PFSELFTEST", exactly(1), &[], Flags::ADMIN.union(Flags::SLOW_LANE), run!(pfselftest)).doc(
            "2.8.9",
            "O(1), some milliseconds.",
            "An internal command for testing HyperLogLog values.",
        ),
    ],
};

/// `PFADD key [element [element ...]]`
fn pfadd(db: &mut Keyspace<'_>, reply: &mut Reply, (key, elements): (&[u8], Rest<'_>)) -> Result<()> {
    let sparse_max = db.limits().hll_sparse_max_bytes;
    // A dense one keeps its length, so it is not copied.
    let dense = db.edit_string(key, hyperloglog::DENSE_BYTES, |bytes| {
        if !hyperloglog::is_one(bytes) {
            return Err(NOT_ONE);
        }
        let is_dense = hyperloglog::is_dense(bytes);
        let add = |bytes: &mut [u8]| {
            let mut changed = false;
            elements.iter().for_each(|element| changed |= hyperloglog::add_dense(bytes, element));
            changed
        };
        let changed = is_dense && add(bytes);
        Ok(Change::when(changed, is_dense.then_some(changed)))
    });
    if let Some(Some(changed)) = dense.transpose()? {
        reply.integer(i64::from(changed));
        return Ok(());
    }
    let changed = change(db, key, |bytes, is_new| {
        elements.iter().fold(is_new, |changed, element| hyperloglog::add(bytes, element, sparse_max) || changed)
    })?;
    reply.integer(i64::from(changed));
    Ok(())
}

/// `PFCOUNT key [key ...]`
fn pfcount(db: &mut Keyspace<'_>, reply: &mut Reply, (keys,): (Rest<'_>,)) -> Result<()> {
    let mut registers = Registers::default();
    let mut found = 0;
    let mut cached = None;
    for value in db.values(keys.iter()) {
        let Some(bytes) = bytes_of(value)? else { continue };
        found += 1;
        if keys.len() == 1 {
            cached = hyperloglog::cached(bytes);
        }
        if cached.is_none() {
            registers.merge(bytes)?;
        }
    }
    let count = cached.unwrap_or_else(|| if found == 0 { 0 } else { registers.count() });
    reply.integer(count as i64);
    Ok(())
}

/// `PFMERGE destkey [sourcekey [sourcekey ...]]`
///
/// The destination is one of the sources. It becomes dense as soon as one of them is.
fn pfmerge(db: &mut Keyspace<'_>, reply: &mut Reply, (destination, sources): (&[u8], Rest<'_>)) -> Result<()> {
    let mut registers = Registers::default();
    let mut is_dense = false;
    for value in db.values(std::iter::once(destination).chain(sources.iter())) {
        if let Some(bytes) = bytes_of(value)? {
            registers.merge(bytes)?;
            is_dense |= hyperloglog::is_dense(bytes);
        }
    }
    let sparse_max = db.limits().hll_sparse_max_bytes;
    change(db, destination, |bytes, _| {
        if is_dense {
            hyperloglog::make_dense(bytes);
        }
        for (index, rank) in registers.iter() {
            hyperloglog::raise(bytes, index, rank, sparse_max);
        }
        hyperloglog::mark_stale(bytes);
        true
    })?;
    reply.ok();
    Ok(())
}

/// `PFDEBUG (GETREG | DECODE | ENCODING | TODENSE) key`
fn pfdebug(db: &mut Keyspace<'_>, reply: &mut Reply, (subcommand, key): (&[u8], &[u8])) -> Result<()> {
    db.reads_to_change();
    let value = db.values(std::iter::once(key)).next().flatten();
    let bytes = bytes_of(value)?.ok_or(Error::text("ERR The specified key does not exist"))?.to_vec();
    match Word::new(subcommand).as_bytes() {
        b"GETREG" => {
            let registers = Registers::of(&bytes)?;
            change(db, key, |bytes, _| hyperloglog::make_dense(bytes))?;
            reply.array(REGISTERS);
            registers.as_slice().iter().for_each(|rank| reply.integer(i64::from(*rank)));
        }
        b"DECODE" if hyperloglog::is_dense(&bytes) => return Err(Error::text("ERR HLL encoding is not sparse")),
        b"DECODE" => reply.bulk(hyperloglog::describe_sparse(&bytes)?.as_bytes()),
        b"ENCODING" => reply.simple(if hyperloglog::is_dense(&bytes) { "dense" } else { "sparse" }),
        b"TODENSE" => {
            let changed = change(db, key, |bytes, _| hyperloglog::make_dense(bytes))?;
            reply.integer(i64::from(changed));
        }
        _ => {
            let text = format!("ERR Unknown PFDEBUG subcommand '{}'", repeated(subcommand));
            return Err(Error::Text(text.into()));
        }
    }
    Ok(())
}

/// `PFSELFTEST`
///
/// The two forms must agree with each other, and the count with the number of elements to within four standard errors.
fn pfselftest(_: &mut Keyspace<'_>, reply: &mut Reply, (): ()) -> Result<()> {
    const ELEMENTS: u64 = 50_000;
    const ERROR_MAX: f64 = 4.0 * 0.0081;
    let (mut sparse, mut dense) = (hyperloglog::empty(), hyperloglog::empty());
    hyperloglog::make_dense(&mut dense);
    for number in 1..=ELEMENTS {
        let element = number.to_le_bytes();
        let add = |bytes: &mut Vec<u8>| hyperloglog::add(bytes, &element, hyperloglog::SPARSE_BYTES_MAX);
        if add(&mut sparse) != add(&mut dense) {
            return Err(Error::text("TESTFAILED dense and sparse registers disagree"));
        }
        if number.is_power_of_two() || number == ELEMENTS {
            let registers = Registers::of(&sparse)?;
            let count = registers.count();
            if registers.as_slice() != Registers::of(&dense)?.as_slice()
                || count.abs_diff(number) as f64 > (number as f64 * ERROR_MAX).max(2.0)
            {
                let text = format!("TESTFAILED {number} elements were counted as {count}");
                return Err(Error::Text(text.into()));
            }
        }
    }
    reply.ok();
    Ok(())
}

/// Changes the HyperLogLog under `key`, created when absent. `change` is told whether it is new, and says whether it
/// changed anything. A value that is not a HyperLogLog is refused before.
fn change(db: &mut Keyspace<'_>, key: &[u8], change: impl FnOnce(&mut Vec<u8>, bool) -> bool) -> Result<bool> {
    // An empty string is not a HyperLogLog, a missing one becomes one.
    let is_new = !db.contains(key);
    db.update_string(key, Origin::Edited, |bytes| {
        if is_new {
            *bytes = hyperloglog::empty();
        } else if !hyperloglog::is_one(bytes) {
            return Err(NOT_ONE);
        }
        hyperloglog::check(bytes)?;
        let changed = change(bytes, is_new);
        Ok(Change::when(changed, changed))
    })
}

fn bytes_of(value: Option<Value<'_>>) -> Result<Option<&[u8]>> {
    let bytes = match value {
        None => return Ok(None),
        Some(Value::Int(_)) => return Err(NOT_ONE),
        Some(Value::Raw(bytes)) => bytes,
        Some(Value::Object(ObjectRef::Text(bytes))) => bytes,
        Some(Value::Object(_)) => return Err(Error::WrongType),
    };
    if hyperloglog::is_one(bytes) { Ok(Some(bytes)) } else { Err(NOT_ONE) }
}

impl From<Corrupted> for Error {
    fn from(_: Corrupted) -> Self {
        CORRUPTED
    }
}

fn cost_of_keys(_: &Keyspace<'_>, request: Request<'_>) -> usize {
    REGISTERS_COST * (request.len() - 1)
}

/// Each entry of a sparse source is looked for in a sparse destination.
fn cost_of_merge(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let lengths = request.iter().skip(1).map(|key| db.string_length(key));
    let sparse: usize = lengths.filter(|length| *length <= hyperloglog::SPARSE_BYTES_MAX + HEAD_BYTES).sum();
    cost_of_keys(db, request) + SPARSE_COST * sparse
}
