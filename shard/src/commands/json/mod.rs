//! Documents of JSON, as RedisJSON has them.
//!
//! A command names values of a document by a [path](path). The reply to a JSONPath is an array with an entry for each
//! value; an old path names one value, and its reply is the entry itself. A change is made to all values that a path names,
//! or, after an error, to none.

mod arrays;
mod functions;
mod operand;
mod path;
#[cfg(test)]
mod path_tests;
mod reader;
mod reading;
mod select;
mod steps;
#[cfg(test)]
mod tests;
mod text;
mod writing;

use dormouse_protocol::{Reply, Request};
use dormouse_types::Json;
use dormouse_types::json::{self, Edit, EditError, JsonNode};

use self::path::{Extent, Path, Patterns, extent, patterns, repeats};
use crate::commands::args::{Args, Argument, canonical_integer};
use crate::commands::{
    Access, Category, Command, Family, Find, Flags, KeySpec, Run, at_least, exactly, run, write_help,
};
use crate::error::{Error, Result};
use crate::keyspace::changes::{EventClass, KeyEvent};
use crate::keyspace::{Change, Keyspace};

const READ: Flags = Flags::READ;
const HELP: Flags = Flags::LOADING.union(Flags::STALE);
/// Replicas of Redis 7.0 have no documents: they get the value, which becomes a deletion.
const WRITE: Flags = Flags::WRITE.union(Flags::BY_KEY_TO_REPLICAS);
const GROW: Flags = WRITE.union(Flags::DENY_OOM);

const KEY_READ: &[KeySpec] = &[KeySpec::one(1, Access::RO.union(Access::ACCESS))];
const KEYS_READ: &[KeySpec] = &[KeySpec {
    access: Access::RO.union(Access::ACCESS),
    find: Find::Range { first: 1, last: -2, step: 1 },
    notes: "",
}];
const KEY_CHANGE: &[KeySpec] = &[KeySpec::one(1, Access::RW.union(Access::UPDATE))];
const KEY_SET: &[KeySpec] = &[KeySpec::one(1, Access::RW.union(Access::UPDATE).union(Access::VARIABLE_FLAGS))];
const KEYS_SET: &[KeySpec] = &[KeySpec {
    access: Access::RW.union(Access::UPDATE),
    find: Find::Range { first: 1, last: -1, step: 3 },
    notes: "",
}];
const KEY_DELETE: &[KeySpec] = &[KeySpec::one(1, Access::RW.union(Access::DELETE))];
const KEY_DEBUG: &[KeySpec] = &[KeySpec::one(2, Access::RO)];

const fn event(name: &'static str) -> KeyEvent {
    KeyEvent::new(EventClass::Module, name)
}

const MSET: KeyEvent = event("json.mset");
const ARRPOP: KeyEvent = event("json.arrpop");
const ARRTRIM: KeyEvent = event("json.arrtrim");

pub(crate) const FAMILY: Family<Run> = Family {
    group: "module",
    category: Category::JSON,
    commands: &[
        Command::new("JSON.SET", at_least(4), KEY_SET, GROW, run!(writing::set))
            .event(event("json.set"))
            .access(writing::set_access)
            .cost(cost_of_change)
            .grows(growth_of_values)
            .needs(needs_of_change)
            .doc(
                "1.0.0",
                "O(M+N) where M is the size of the document, if it exists, and N the size of the new value.",
                "Sets the values that a path names in a document of JSON, or a whole document.",
            ),
        Command::new("JSON.GET", at_least(2), KEY_READ, READ, run!(reading::get)).cost(cost_of_get).doc(
            "1.0.0",
            "O(N) where N is the size of the document.",
            "Returns the values that paths name in a document of JSON.",
        ),
        Command::new("JSON.MGET", at_least(3), KEYS_READ, READ, run!(reading::mget)).cost(cost_of_mget).doc(
            "1.0.0",
            "O(N) where N is the sum of the sizes of the documents.",
            "Returns the values that a path names in several documents of JSON.",
        ),
        Command::new("JSON.MSET", at_least(4), KEYS_SET, GROW.union(Flags::BY_KEY), run!(writing::mset))
            .event(MSET)
            .cost(cost_of_mset)
            .grows(growth_of_mset)
            .needs(needs_of_mset)
            .doc(
                "2.6.0",
                "O(K*(M+N)) where K is the number of keys, M the size of a document and N that of a new value.",
                "Sets values in one or more documents of JSON.",
            ),
        Command::new("JSON.MERGE", at_least(4), KEY_CHANGE, GROW, run!(writing::merge))
            .event(event("json.merge"))
            .cost(cost_of_merge)
            .grows(growth_of_values)
            .needs(needs_of_change)
            .doc(
                "2.6.0",
                "O(M+N) where M is the size of the document and N that of the merged value.",
                "Merges a value into the values that a path names in a document of JSON.",
            ),
        Command::new("JSON.DEL", at_least(2), KEY_DELETE, WRITE, run!(writing::del))
            .event(event("json.del"))
            .cost(cost_of_change)
            .needs(needs_of_change)
            .doc(
                "1.0.0",
                "O(N) where N is the size of the document.",
                "Deletes the values that a path names in a document of JSON.",
            ),
        Command::new("JSON.FORGET", at_least(2), KEY_DELETE, WRITE, run!(writing::del))
            .event(event("json.del"))
            .cost(cost_of_change)
            .needs(needs_of_change)
            .doc(
                "1.0.0",
                "O(N) where N is the size of the document.",
                "Deletes the values that a path names in a document of JSON.",
            ),
        Command::new("JSON.TYPE", at_least(2), KEY_READ, READ, run!(reading::kind)).cost(cost_of_read).doc(
            "1.0.0",
            "O(N) where N is the size of the document.",
            "Returns the types of the values that a path names in a document of JSON.",
        ),
        Command::new("JSON.NUMINCRBY", exactly(4), KEY_CHANGE, WRITE, run!(writing::numincrby))
            .event(event("json.numincrby"))
            .cost(cost_of_change)
            .needs(needs_of_change)
            .doc(
                "1.0.0",
                "O(N) where N is the size of the document.",
                "Adds a number to the numbers that a path names in a document of JSON.",
            ),
        Command::new("JSON.NUMMULTBY", exactly(4), KEY_CHANGE, WRITE, run!(writing::nummultby))
            .event(event("json.nummultby"))
            .cost(cost_of_change)
            .needs(needs_of_change)
            .doc(
                "1.0.0",
                "O(N) where N is the size of the document.",
                "Multiplies the numbers that a path names in a document of JSON by a number.",
            ),
        Command::new("JSON.NUMPOWBY", exactly(4), KEY_CHANGE, WRITE, run!(writing::numpowby))
            .event(event("json.numpowby"))
            .cost(cost_of_change)
            .needs(needs_of_change)
            .doc(
                "1.0.0",
                "O(N) where N is the size of the document.",
                "Raises the numbers that a path names in a document of JSON to the power of a number.",
            ),
        Command::new("JSON.TOGGLE", exactly(3), KEY_CHANGE, WRITE, run!(writing::toggle))
            .event(event("json.toggle"))
            .cost(cost_of_change)
            .needs(needs_of_change)
            .doc(
                "2.0.0",
                "O(N) where N is the size of the document.",
                "Negates the booleans that a path names in a document of JSON.",
            ),
        Command::new("JSON.STRAPPEND", at_least(3), KEY_CHANGE, GROW, run!(writing::strappend))
            .event(event("json.strappend"))
            .cost(cost_of_strappend)
            .grows(growth_of_values)
            .needs(needs_of_change)
            .doc(
                "1.0.0",
                "O(N) where N is the size of the document.",
                "Appends a string to the strings that a path names in a document of JSON.",
            ),
        Command::new("JSON.STRLEN", at_least(2), KEY_READ, READ, run!(reading::strlen)).cost(cost_of_read).doc(
            "1.0.0",
            "O(N) where N is the size of the document.",
            "Returns the lengths of the strings that a path names in a document of JSON.",
        ),
        Command::new("JSON.ARRAPPEND", at_least(3), KEY_CHANGE, GROW, run!(arrays::append))
            .event(event("json.arrappend"))
            .cost(cost_of_change)
            .grows(growth_of_values)
            .needs(needs_of_change)
            .doc(
                "1.0.0",
                "O(N) where N is the size of the document.",
                "Appends values to the arrays that a path names in a document of JSON.",
            ),
        Command::new("JSON.ARRINDEX", at_least(4), KEY_READ, READ, run!(reading::arrindex)).cost(cost_of_read).doc(
            "1.0.0",
            "O(N) where N is the size of the document.",
            "Returns the first position of a value in the arrays that a path names in a document of JSON.",
        ),
        Command::new("JSON.ARRINSERT", at_least(5), KEY_CHANGE, GROW, run!(arrays::insert))
            .event(event("json.arrinsert"))
            .cost(cost_of_change)
            .grows(growth_of_values)
            .needs(needs_of_change)
            .doc(
                "1.0.0",
                "O(N) where N is the size of the document.",
                "Inserts values into the arrays that a path names in a document of JSON, before an index.",
            ),
        Command::new("JSON.ARRLEN", at_least(2), KEY_READ, READ, run!(reading::arrlen)).cost(cost_of_read).doc(
            "1.0.0",
            "O(N) where N is the size of the document.",
            "Returns the lengths of the arrays that a path names in a document of JSON.",
        ),
        Command::new("JSON.ARRPOP", at_least(2), KEY_CHANGE, WRITE, run!(arrays::pop))
            .event(ARRPOP)
            .cost(cost_of_change)
            .needs(needs_of_change)
            .doc(
                "1.0.0",
                "O(N) where N is the size of the document.",
                "Removes and returns an element of the arrays that a path names in a document of JSON.",
            ),
        Command::new("JSON.ARRTRIM", exactly(5), KEY_CHANGE, WRITE, run!(arrays::trim))
            .event(ARRTRIM)
            .cost(cost_of_change)
            .needs(needs_of_change)
            .doc(
                "1.0.0",
                "O(N) where N is the size of the document.",
                "Trims the arrays that a path names in a document of JSON to a range of elements.",
            ),
        Command::new("JSON.OBJKEYS", at_least(2), KEY_READ, READ, run!(reading::objkeys)).cost(cost_of_read).doc(
            "1.0.0",
            "O(N) where N is the size of the document.",
            "Returns the names of the members of the objects that a path names in a document of JSON.",
        ),
        Command::new("JSON.OBJLEN", at_least(2), KEY_READ, READ, run!(reading::objlen)).cost(cost_of_read).doc(
            "1.0.0",
            "O(N) where N is the size of the document.",
            "Returns the numbers of members of the objects that a path names in a document of JSON.",
        ),
        Command::new("JSON.CLEAR", at_least(2), KEY_CHANGE, WRITE, run!(writing::clear))
            .event(event("json.clear"))
            .cost(cost_of_clear)
            .needs(needs_of_change)
            .doc(
                "2.0.0",
                "O(N) where N is the size of the document.",
                "Empties the arrays and objects, and zeroes the numbers, that a path names in a document of JSON.",
            ),
        Command::new("JSON.RESP", at_least(2), KEY_READ, READ, run!(reading::resp)).cost(cost_of_read).doc(
            "1.0.0",
            "O(N) where N is the size of the document.",
            "Returns the values that a path names in a document of JSON as arrays and strings of the protocol.",
        ),
        Command::container(
            "JSON.DEBUG",
            &[
                Command::new("MEMORY", at_least(3), KEY_DEBUG, READ, run!(reading::memory, 2)).cost(cost_of_debug).doc(
                    "1.0.0",
                    "O(N) where N is the size of the document.",
                    "Returns the bytes of memory that the values take which a path names in a document of JSON.",
                ),
                Command::new("HELP", exactly(2), &[], HELP, run!(help, 2)).doc(
                    "1.0.0",
                    "O(1)",
                    "Returns helpful text about the different subcommands.",
                ),
            ],
        )
        .doc("1.0.0", "Depends on subcommand.", "A container for debugging commands of JSON."),
    ],
};

/// `JSON.DEBUG HELP`
fn help(_: &mut Keyspace<'_>, reply: &mut Reply, (): ()) -> Result<()> {
    write_help(reply, "JSON.DEBUG", &["MEMORY <key> [path]", "    Reports the memory that values take."]);
    Ok(())
}

impl<'a> Argument<'a> for Path<'a> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        Path::read(args.bytes()?)
    }
}

/// A path with the error of reading it. As in RedisJSON, that comes after the errors of the key.
struct LatePath<'a> {
    read: Result<Path<'a>>,
    is_old: bool,
}

impl<'a> LatePath<'a> {
    /// The path of a command that names none.
    fn root() -> Self {
        Self { read: Ok(Path::root()), is_old: true }
    }

    /// The path, for a command that needs the document under `key`.
    fn in_document(self, db: &mut Keyspace<'_>, key: &[u8]) -> Result<Path<'a>> {
        self.read.or_else(|problem| db.read_to_change::<Json>(key)?.ok_or(NO_KEY).and(Err(problem)))
    }

    /// The path, for a command that does without a document. Its error is one even then.
    fn after_type(self, db: &mut Keyspace<'_>, key: &[u8]) -> Result<Path<'a>> {
        self.read.or_else(|problem| db.read_to_change::<Json>(key).and(Err(problem)))
    }
}

impl<'a> Argument<'a> for LatePath<'a> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let Utf8(text) = args.take()?;
        Ok(Self { read: Path::read(text), is_old: path::is_old(text) })
    }
}

/// Text that is UTF-8.
struct Utf8<'a>(&'a [u8]);

impl<'a> Argument<'a> for Utf8<'a> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let text = args.bytes()?;
        if std::str::from_utf8(text).is_err() { Err(NOT_UTF_8) } else { Ok(Self(text)) }
    }
}

/// A path that may be left out: it is the old one of the whole document then.
struct OptionalPath<'a>(Path<'a>);

impl<'a> Argument<'a> for OptionalPath<'a> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        if args.is_empty() { Ok(Self(Path::root())) } else { args.take().map(Self) }
    }
}

/// The same with the error of reading it.
struct OptionalLatePath<'a>(LatePath<'a>);

impl<'a> Argument<'a> for OptionalLatePath<'a> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        if args.is_empty() { Ok(Self(LatePath::root())) } else { args.take().map(Self) }
    }
}

/// The rest of the arguments of a command that looks at the first ones only.
struct Ignored;

impl<'a> Argument<'a> for Ignored {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        while !args.is_empty() {
            args.skip();
        }
        Ok(Self)
    }
}

/// A whole number, in RedisJSON's words if it is none.
struct Index(i64);

impl<'a> Argument<'a> for Index {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let number = canonical_integer(args.bytes()?);
        number.map(Self).ok_or(Error::text("Couldn't parse as integer"))
    }
}

const NO_KEY: Error = Error::text("ERR could not perform this operation on a key that doesn't exist");
const NO_PATH: Error = Error::text("ERR Path does not exist");

/// The error where a path names no value of a type.
fn no_path_or(what: &str) -> Error {
    Error::Text(format!("ERR Path does not exist or {what}").into())
}

/// The error where a value is of another type.
fn not_a(what: &str) -> Error {
    Error::Text(format!("WRONGTYPE wrong type of path value - expected {what}").into())
}

const NOT_UTF_8: Error = Error::text("Couldn't parse as UTF-8 string");

/// Encodes a text that becomes a part of a document.
fn parse(text: &[u8]) -> Result<Vec<u8>> {
    // As RedisJSON answers, without a code.
    json::parse(text).map_err(|problem| refused(text, problem.to_string()))
}

/// Encodes a text that a command works with, but does not store.
fn parse_operand(text: &[u8]) -> Result<Vec<u8>> {
    json::parse(text).map_err(|problem| refused(text, format!("ERR {problem}")))
}

/// The error for a text that is no JSON.
fn refused(text: &[u8], problem: String) -> Error {
    if std::str::from_utf8(text).is_err() { NOT_UTF_8 } else { Error::Text(problem.into()) }
}

impl From<EditError> for Error {
    fn from(problem: EditError) -> Self {
        match problem {
            EditError::TooDeep => Self::text("ERR recursion limit exceeded"),
            EditError::TooLarge => Self::StringTooLong,
        }
    }
}

/// The wrong number of arguments, found out by a command that takes several forms.
fn wrong_arity(args: &Args<'_>) -> Error {
    Error::WrongArity(args.name())
}

/// Changes the document under `key`, if there is one. `None`: there is none. A document that has lost its outermost value is
/// deleted.
fn change<R>(
    db: &mut Keyspace<'_>,
    key: &[u8],
    change: impl FnOnce(&mut Json, usize) -> Result<Change<R>>,
) -> Result<Option<R>> {
    let most = db.settings().records.value_bytes_max;
    let changed = db.update_existing(key, |json: &mut Json, _| match change(json, most) {
        Ok(change) => {
            let is_changed = !matches!(change, Change::No(_));
            change.map(|result| Ok((is_changed, result)))
        }
        Err(error) => Change::No(Err(error)),
    })?;
    let Some((is_changed, result)) = changed.transpose()? else { return Ok(None) };
    if is_changed {
        db.effect_value(key);
    }
    Ok(Some(result))
}

/// Changes the values at `places` of a document that may take `most` bytes. Each gets about `more` bytes.
fn edit(
    json: &mut Json,
    (places, more, most): (&[usize], usize, usize),
    change: impl FnMut(usize, JsonNode<'_>) -> Result<Edit>,
) -> Result<bool> {
    // An upper bound, before anything is copied.
    if places.len().saturating_mul(more).saturating_add(json.bytes().len()) > most.min(dormouse_types::json::BYTES_MAX)
    {
        return Err(Error::ValueTooLarge);
    }
    json.edit(places, change)
}

/// The places of values in the order in which [`Json::edit`] wants them, each with its number in `found`.
fn ordered(found: impl Iterator<Item = u32>) -> (Vec<usize>, Vec<usize>) {
    let mut numbered: Vec<(usize, usize)> = found.enumerate().map(|(number, at)| (at as usize, number)).collect();
    numbered.sort_unstable();
    numbered.into_iter().unzip()
}

/// The same without values that are inside of others, or there twice.
fn outermost(json: &Json, found: &[u32]) -> Vec<usize> {
    let mut places: Vec<usize> = found.iter().map(|at| *at as usize).collect();
    places.sort_unstable();
    let mut end = 0;
    places.retain(|at| {
        let is_outside = *at >= end;
        if is_outside {
            end = JsonNode::at_offset(json.bytes(), *at).end();
        }
        is_outside
    });
    places
}

/// Bytes of a document, or of text, that are looked at in about the time of one element.
const BYTES_PER_UNIT: usize = 64;

/// Bytes of a path that are read in about the time of one element.
const PATH_BYTES_PER_UNIT: usize = 8;

/// The cost of compiling a pattern of a filter.
const PATTERN_COST: usize = 500;

/// States of a pattern that are followed in about the time of a look at a text.
const STATES_PER_LOOK: usize = 16;

/// The states of a pattern with counted repetitions, in such looks.
const REPETITION_COST: usize = 500;

/// The cost of a path in the document under `key`.
fn cost_of_path(db: &Keyspace<'_>, key: &[u8], path: &[u8]) -> usize {
    let bytes = db.collection_bytes(key);
    let units = bytes / BYTES_PER_UNIT;
    let looks = match extent(path) {
        Extent::Once => 2 * units,
        // A value that is tested may have one byte.
        Extent::Scans(outer, inner) => {
            (1 + units).saturating_pow(outer).saturating_mul((1 + bytes).saturating_pow(inner))
        }
    };
    let repeats = repeats(path);
    let looks = if repeats > 1 { looks.saturating_add(1).saturating_mul(repeats) } else { looks };
    let Patterns { written, computed } = patterns(path);
    // A text may be gone through with all states of a pattern, of which repetitions make many.
    let length = 1 + path.len() / STATES_PER_LOOK;
    let states = match (written + computed, path.contains(&b'{')) {
        (0, _) => 1,
        (_, false) => length,
        (_, true) => length.max(REPETITION_COST),
    };
    let looks = looks.saturating_mul(states);
    // One that is a value itself may be compiled for each value that is tested.
    let compiled = if computed > 0 { looks.saturating_mul(BYTES_PER_UNIT / 2).saturating_add(1) } else { 0 };
    looks
        .saturating_add(path.len() / PATH_BYTES_PER_UNIT)
        .saturating_add(compiled.saturating_add(written).saturating_mul(PATTERN_COST.max(PATTERN_COST / 4 * length)))
}

/// One path, which is argument 2 or left out.
fn cost_of_read(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    cost_of_path(db, request.arg(1), request.get(2).unwrap_or_default())
}

/// The same for a container's subcommand.
fn cost_of_debug(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    cost_of_path(db, request.arg(2), request.get(3).unwrap_or_default())
}

/// Any argument of `JSON.GET` may be a path.
fn cost_of_get(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let paths = request.iter().skip(2).map(|path| cost_of_path(db, request.arg(1), path));
    paths.fold(cost_of_path(db, request.arg(1), b""), usize::saturating_add)
}

fn cost_of_mget(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let Some(path) = request.iter().next_back() else { return 0 };
    let keys = request.iter().skip(1).take(request.len().saturating_sub(2));
    keys.map(|key| cost_of_path(db, key, path)).fold(0, usize::saturating_add)
}

/// The document is looked at and copied, and the values in the request are read.
fn cost_of_change(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    // Several values are looked for twice, the first time to know how much memory they need.
    let times = if names_several(request.get(2).unwrap_or_default()) { 2 } else { 1 };
    cost_of_read(db, request).saturating_mul(times).saturating_add(request.extent() / (BYTES_PER_UNIT / 2))
}

/// Each string is copied twice: with what is appended, and encoded.
fn cost_of_strappend(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    cost_of_change(db, request).saturating_mul(2)
}

/// A value that is merged moves all that is behind it, so several cost the square.
fn cost_of_merge(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let once = cost_of_change(db, request);
    let path = request.get(2).unwrap_or_default();
    if names_several(path) { once.saturating_mul(once) } else { once }
}

/// Values of all sizes are cleared, of which the places are noted.
fn cost_of_clear(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    cost_of_change(db, request).saturating_mul(4)
}

fn cost_of_mset(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let triplets = (1..request.len().saturating_sub(1)).step_by(3);
    let paths = triplets.map(|at| cost_of_path(db, request.arg(at), request.arg(at + 1)).saturating_mul(2));
    paths.fold(request.extent() / (BYTES_PER_UNIT / 4), usize::saturating_add)
}

/// Bytes of an encoded value for each byte of its text, at most: that of `[]` with a comma.
const ENCODED_PER_BYTE: usize = 3;

/// Bytes that a container may take for a value, beside the value itself.
const CONTAINER_BYTES: usize = 40;

/// An encoded value has about as many bytes as its text. Few have more, up to three times as many, which the needs of the
/// command cover while it runs.
///
/// A path may lead to several values, each of which grows.
fn growth_of_values(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let others = places_of_change(db, request).saturating_sub(1);
    let values: usize = request.iter().skip(3).map(<[u8]>::len).sum();
    request.extent().saturating_add(others.saturating_mul(values + CONTAINER_BYTES))
}

/// The same of several documents, each with a path and a value.
fn growth_of_mset(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let triplets = (1..request.len().saturating_sub(2)).step_by(3);
    let of_others = |at: usize| {
        let others = places(db, request.arg(at), request.arg(at + 1)).saturating_sub(1);
        others.saturating_mul(request.arg(at + 2).len() + CONTAINER_BYTES)
    };
    triplets.map(of_others).fold(request.extent(), usize::saturating_add)
}

fn places_of_change(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    places(db, request.arg(1), request.get(2).unwrap_or_default())
}

/// How many values a path leads to. They are counted only where it may name several.
fn places(db: &Keyspace<'_>, key: &[u8], path: &[u8]) -> usize {
    if !names_several(path) {
        return 1;
    }
    let Some(document) = db.peek_collection::<Json>(key) else { return 1 };
    let found = Path::read(path).and_then(|path| select::places(document, &path));
    // What cannot be read changes nothing.
    found.map_or(1, |found| found.len())
}

/// Whether a path may lead to more than one value, as far as its text says.
fn names_several(path: &[u8]) -> bool {
    path.iter().any(|byte| b"*,:?".contains(byte)) || path.windows(2).any(|pair| pair == b"..")
}

/// Values are encoded before they are put into the document, which is copied if several of its values change.
fn needs_of_change(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let encoded = request.extent().saturating_mul(ENCODED_PER_BYTE);
    // And the places of values, four bytes each twice.
    db.collection_bytes(request.arg(1)).saturating_mul(3).saturating_add(encoded)
}

/// Documents of which a part is set are copied, and all copies are there at once.
fn needs_of_mset(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let triplets = (1..request.len()).step_by(3);
    let is_whole = |at: &usize| matches!(request.arg(at + 1), b"$" | b".");
    let mut copied: Vec<&[u8]> = triplets.filter(|at| !is_whole(at)).map(|at| request.arg(at)).collect();
    copied.sort_unstable();
    copied.dedup();
    let (mut most, mut sum) = (0, 0usize);
    for key in copied {
        let bytes = db.collection_bytes(key);
        most = most.max(bytes);
        sum = sum.saturating_add(bytes);
    }
    let encoded = request.extent().saturating_mul(ENCODED_PER_BYTE);
    most.saturating_mul(2).saturating_add(sum).saturating_add(encoded)
}
