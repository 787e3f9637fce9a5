//! Commands that change values of any type.

use std::collections::HashMap;

use dormouse_protocol::{Reply, Request, Version};
use dormouse_types::Json;
use dormouse_types::json::{self, Edit, JsonNode, JsonValue};

use super::path::Path;
use super::steps::PathStep;
use super::{
    Ignored, LatePath, MSET, NO_KEY, NOT_UTF_8, OptionalLatePath, Utf8, change, edit, no_path_or, not_a, ordered,
    outermost, parse, parse_operand, select, wrong_arity,
};
use crate::commands::args::{Args, Argument, Rest};
use crate::commands::{Access, work};
use crate::error::{Error, Result};
use crate::keyspace::{Change, Keyspace};

const NEW_AT_ROOT: Error = Error::text("ERR new objects must be created at the root");

/// `JSON.SET key path value [NX | XX] [FORMAT STRING | JSON]`
pub fn set(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, path, Utf8(text), SetOptions(condition)): (&[u8], LatePath<'_>, Utf8<'_>, SetOptions),
) -> Result<()> {
    let path = match path.read {
        Ok(path) => path,
        Err(problem) => {
            let needs_path = db.read_to_change::<Json>(key)?.is_some() || condition == Condition::Exists;
            parse(text)?;
            return Err(if needs_path { problem } else { NEW_AT_ROOT });
        }
    };
    let is_set = if path.is_root() {
        put(db, key, text, condition)?
    } else {
        let value = value_of(db, key, text)?;
        ask_for_copies(db, reply, key, &path, value.len())?;
        match set_in(db, key, &path, &value, condition)? {
            None if condition != Condition::Exists => return Err(NEW_AT_ROOT),
            is_set => is_set.unwrap_or(false),
        }
    };
    if is_set {
        reply.ok()
    } else {
        reply.null()
    }
    Ok(())
}

/// A document as a whole is replaced.
pub fn set_access(request: Request<'_>) -> Access {
    match request.get(2) {
        Some(b"$" | b".") => Access::OW.union(Access::UPDATE),
        _ => Access::RW.union(Access::UPDATE),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Always,
    Missing,
    Exists,
}

/// `[NX | XX] [FORMAT STRING | JSON]`
pub struct SetOptions(Condition);

impl<'a> Argument<'a> for SetOptions {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let mut condition = Condition::Always;
        while !args.is_empty() {
            if condition == Condition::Always && args.word("NX") {
                condition = Condition::Missing;
            } else if condition == Condition::Always && args.word("XX") {
                condition = Condition::Exists;
            } else {
                take_format(args)?;
            }
        }
        Ok(Self(condition))
    }
}

/// Takes the format of a value, which has one that is known.
fn take_format(args: &mut Args<'_>) -> Result<()> {
    if !args.word("FORMAT") {
        return Err(Error::Syntax);
    }
    match args.bytes().map_err(|_| wrong_arity(args))? {
        b"STRING" | b"JSON" => Ok(()),
        _ => Err(Error::text("ERR wrong format")),
    }
}

/// Reads a value. That its key is of another type is the first error.
fn value_of(db: &mut Keyspace<'_>, key: &[u8], text: &[u8]) -> Result<Vec<u8>> {
    parse(text).or_else(|problem| {
        db.read_to_change::<Json>(key)?;
        Err(problem)
    })
}

/// Sets a whole document; its expiry stays.
fn put(db: &mut Keyspace<'_>, key: &[u8], text: &[u8], condition: Condition) -> Result<bool> {
    let most = db.settings().records.value_bytes_max;
    put_with(db, key, |was_there| {
        let is_due = match condition {
            Condition::Always => true,
            Condition::Missing => !was_there,
            Condition::Exists => was_there,
        };
        let new = whole(&parse(text)?, most)?;
        Ok(is_due.then_some(new))
    })
}

/// Sets a whole document to what `make` makes of whether there is one; `None` leaves it as it is.
fn put_with(db: &mut Keyspace<'_>, key: &[u8], make: impl FnOnce(bool) -> Result<Option<Json>>) -> Result<bool> {
    let mut was_there = false;
    let is_set = db.update(key, |json: &mut Json, _| {
        was_there = !json.is_empty();
        match make(was_there) {
            Ok(Some(new)) => {
                *json = new;
                Change::Yes(Ok(true))
            }
            other => Change::No(other.map(|_| false)),
        }
    })??;
    if is_set && was_there {
        db.effect_value(key);
    }
    Ok(is_set)
}

fn whole(encoded: &[u8], most: usize) -> Result<Json> {
    let new = Json::of(encoded).ok_or(Error::StringTooLong)?;
    if new.heap_bytes() > most { Err(Error::ValueTooLarge) } else { Ok(new) }
}

/// Asks for the memory of the copies of a value that a path may need.
fn ask_for_copies(db: &mut Keyspace<'_>, reply: &mut Reply, key: &[u8], path: &Path<'_>, bytes: usize) -> Result<()> {
    if path.is_static() {
        return Ok(());
    }
    let Some(document) = db.read_to_change::<Json>(key)? else { return Ok(()) };
    let places = select::places(document, path)?.len();
    work(reply, places.saturating_mul(bytes))
}

/// Sets the values that a path names. Returns whether it did, `None` where there is no document.
fn set_in(
    db: &mut Keyspace<'_>,
    key: &[u8],
    path: &Path<'_>,
    value: &[u8],
    condition: Condition,
) -> Result<Option<bool>> {
    change(db, key, |json, most| {
        let is_set = set_values(json, most, (path, value), condition)?;
        Ok(Change::when(is_set, is_set))
    })
}

/// The same in a document that may take `most` bytes.
fn set_values(json: &mut Json, most: usize, (path, value): (&Path<'_>, &[u8]), condition: Condition) -> Result<bool> {
    if condition != Condition::Missing {
        let places = outermost(json, &select::places(json, path)?);
        if !places.is_empty() {
            edit(json, (&places, value.len(), most), |_, _| Ok(Edit::Replace(value.to_vec())))?;
            return Ok(true);
        }
    }
    if condition == Condition::Exists { Ok(false) } else { add(json, path, value, most) }
}

/// Adds the member that a path names and that does not exist. Returns whether it did.
fn add(json: &mut Json, path: &Path<'_>, value: &[u8], most: usize) -> Result<bool> {
    if path.is_static() && select::first(json, path)?.is_some() {
        return Ok(false);
    }
    let (outer, name) = added_name(path)?;
    let Some(object) = select::follow(json, outer)? else { return Ok(false) };
    if !object.is_object() {
        return Ok(false);
    }
    if json.bytes().len() + name.len() + value.len() > most {
        return Err(Error::ValueTooLarge);
    }
    let at = object.at();
    json.add_member(at, name, value)?;
    Ok(true)
}

/// The steps to an object, and the name of the member that is added to it, of a path that names no value.
fn added_name<'p>(path: &'p Path<'_>) -> Result<(&'p [PathStep], &'p [u8])> {
    if !path.is_static() {
        return Err(Error::text("Err wrong static path"));
    }
    match path.steps.split_last() {
        Some((PathStep::Name(name), outer)) => Ok((outer, name)),
        Some((PathStep::Names(names), outer)) => Ok((outer, &names[0])),
        Some(_) => Err(Error::text("ERR array index out of range")),
        None => Err(Error::text("Err path must end with object key to set")),
    }
}

/// `JSON.MSET key path value [key path value ...]`
///
/// All documents are changed aside before the first of them is put in its place: an error changes none.
pub fn mset(db: &mut Keyspace<'_>, reply: &mut Reply, args: Triplets<'_>) -> Result<()> {
    let Triplets { triplets, name } = args;
    let mut read = Vec::with_capacity(triplets.len() / 3);
    for at in (0..triplets.len()).step_by(3) {
        let key = triplets.at(at);
        let document = db.read_to_change::<Json>(key)?;
        if triplets.len() - at < 3 {
            return Err(Error::WrongArity(name));
        }
        let path = match (Path::read(triplets.at(at + 1)), document) {
            (Err(problem), None) if problem != NOT_UTF_8 => return Err(NEW_AT_ROOT),
            (Ok(path), None) if !path.is_root() => return Err(NEW_AT_ROOT),
            (Ok(path), Some(document)) if !path.is_root() && select::first(document, &path)?.is_none() => {
                added_name(&path)?;
                path
            }
            (path, _) => path?,
        };
        let value = parse(triplets.at(at + 2))?;
        if !path.is_root() {
            ask_for_copies(db, reply, key, &path, value.len())?;
        }
        read.push((key, path, value));
    }
    let most = db.settings().records.value_bytes_max;
    let mut staged: Vec<(&[u8], Option<Json>)> = Vec::new();
    let mut places: HashMap<&[u8], usize> = HashMap::new();
    // The documents that the triplets have set, in their order.
    let mut set = Vec::with_capacity(read.len());
    for (key, path, value) in &read {
        let at = *places.entry(key).or_insert(staged.len());
        if at == staged.len() {
            staged.push((key, None));
        }
        let document = &mut staged[at].1;
        let is_set = if path.is_root() {
            *document = Some(whole(value, most)?);
            true
        } else {
            if document.is_none() {
                *document = db.read_to_change::<Json>(key)?.cloned();
            }
            let document = document.as_mut().ok_or(NEW_AT_ROOT)?;
            set_values(document, most, (path, value), Condition::Always)?
        };
        if is_set {
            set.push(at);
        }
    }
    let are_all_set = set.len() == read.len();
    for at in set {
        let (key, document) = &mut staged[at];
        match document.take() {
            Some(document) => _ = put_with(db, key, |_| Ok(Some(document)))?,
            // It has its last value already.
            None => db.tell(MSET, key),
        }
    }
    if are_all_set {
        reply.ok()
    } else {
        reply.null()
    }
    Ok(())
}

/// `key path value [key path value ...]`. That the last one lacks a part is found out behind those before it.
pub struct Triplets<'a> {
    triplets: Rest<'a>,
    /// Of the command.
    name: String,
}

impl<'a> Argument<'a> for Triplets<'a> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let name = args.name();
        Ok(Self { triplets: args.take()?, name })
    }
}

/// `JSON.MERGE key path value [FORMAT STRING | JSON]`
pub fn merge(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, path, Utf8(text), _): (&[u8], LatePath<'_>, Utf8<'_>, Formats),
) -> Result<()> {
    let patch = value_of(db, key, text)?;
    let path = match path.read {
        Ok(path) => path,
        Err(problem) if db.read_to_change::<Json>(key)?.is_some() => return Err(problem),
        Err(_) => return Err(NEW_AT_ROOT),
    };
    ask_for_copies(db, reply, key, &path, patch.len())?;
    let is_merged = change(db, key, |json, most| {
        let (mut places, _) = ordered(select::places(json, &path)?.into_iter());
        places.dedup();
        if places.is_empty() {
            let is_added = add(json, &path, &patch, most)?;
            return Ok(Change::when(is_added, is_added));
        }
        edit(json, (&places, patch.len(), most), |_, node| {
            let mut merged = Vec::with_capacity(node.bytes().len() + patch.len());
            json::merge(Some(node), JsonNode::of(&patch), &mut merged);
            Ok(Edit::Replace(merged))
        })?;
        Ok(Change::Yes(true))
    })?;
    let is_merged = match is_merged {
        None if path.is_root() => put(db, key, text, Condition::Always)?,
        None => return Err(NEW_AT_ROOT),
        Some(is_merged) => is_merged,
    };
    if is_merged {
        reply.ok()
    } else {
        reply.null()
    }
    Ok(())
}

/// `[FORMAT STRING | JSON]`
pub struct Formats;

impl<'a> Argument<'a> for Formats {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        while !args.is_empty() {
            take_format(args)?;
        }
        Ok(Self)
    }
}

/// `JSON.DEL key [path]`, `JSON.FORGET key [path]`
pub fn del(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, path, _): (&[u8], OptionalLatePath<'_>, Ignored),
) -> Result<()> {
    let path = path.0.after_type(db, key)?;
    let deleted = change(db, key, |json, most| {
        if path.is_root() {
            *json = Json::new();
            return Ok(Change::Yes(1));
        }
        let places = outermost(json, &select::places(json, &path)?);
        edit(json, (&places, 0, most), |_, _| Ok(Edit::Remove))?;
        // An empty container is no document any more.
        if !places.is_empty() && (json.is_empty() || json.root().is_container() && json.root().is_empty()) {
            *json = Json::new();
        }
        Ok(Change::when(!places.is_empty(), places.len() as i64))
    })?;
    reply.integer(deleted.unwrap_or(0));
    Ok(())
}

/// A change of a number.
#[derive(Clone, Copy)]
struct Operation {
    /// `None` if it overflows.
    integers: fn(i128, i128) -> Option<i128>,
    floats: fn(f64, f64) -> f64,
}

/// `JSON.NUMINCRBY key path number`
pub fn numincrby(db: &mut Keyspace<'_>, reply: &mut Reply, arguments: (&[u8], LatePath<'_>, Utf8<'_>)) -> Result<()> {
    calculate(db, reply, arguments, Operation { integers: i128::checked_add, floats: |one, other| one + other })
}

/// `JSON.NUMMULTBY key path number`
pub fn nummultby(db: &mut Keyspace<'_>, reply: &mut Reply, arguments: (&[u8], LatePath<'_>, Utf8<'_>)) -> Result<()> {
    calculate(db, reply, arguments, Operation { integers: i128::checked_mul, floats: |one, other| one * other })
}

/// `JSON.NUMPOWBY key path number`
pub fn numpowby(db: &mut Keyspace<'_>, reply: &mut Reply, arguments: (&[u8], LatePath<'_>, Utf8<'_>)) -> Result<()> {
    let integers = |base: i128, exponent: i128| base.checked_pow(u32::try_from(exponent).ok()?);
    calculate(db, reply, arguments, Operation { integers, floats: f64::powf })
}

fn calculate(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, path, Utf8(text)): (&[u8], LatePath<'_>, Utf8<'_>),
    operation: Operation,
) -> Result<()> {
    let path = path.in_document(db, key)?;
    let results = change(db, key, |json, most| {
        let found = select::places(json, &path)?;
        let mut results: Vec<Option<Vec<u8>>> = vec![None; found.len()];
        let (places, numbers) = ordered(found.into_iter());
        // The number is looked at where it is needed.
        let mut operand = None;
        let changed = edit(json, (&places, 9, most), |at, node| {
            if node.value().as_float().is_none() {
                return Ok(Edit::Keep);
            }
            if operand.is_none() {
                operand = Some(number(text)?);
            }
            let result = calculated(node, JsonNode::of(operand.as_deref().unwrap_or_default()), operation)?;
            results[numbers[at]] = Some(result.clone());
            Ok(Edit::Replace(result))
        })?;
        Ok(Change::when(changed, results))
    })?;
    let results = results.ok_or(NO_KEY)?;
    if reply.version() == Version::Resp3 {
        reply.array(results.len());
        for result in &results {
            match result.as_ref().map(|result| JsonNode::of(result).value()) {
                Some(JsonValue::Integer(number)) => reply.integer(number),
                Some(value) => reply.double(value.as_float().unwrap_or_default()),
                None => reply.null(),
            }
        }
    } else if path.is_old {
        let last = results.iter().rev().flatten().next();
        let last = last.ok_or_else(|| no_path_or("does not contains a number"))?;
        reply.bulk(&text_of(last));
    } else {
        let texts = results.iter().map(|result| result.as_deref().map_or_else(|| b"null".to_vec(), text_of));
        let joined = texts.collect::<Vec<_>>().join(&b","[..]);
        reply.bulk(&[b"[", &joined[..], b"]"].concat());
    }
    Ok(())
}

fn text_of(encoded: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    json::write(JsonNode::of(encoded), json::Style::default(), &mut text);
    text
}

fn number(text: &[u8]) -> Result<Vec<u8>> {
    let encoded = parse_operand(text)?;
    match JsonNode::of(&encoded).value().as_float() {
        Some(_) => Ok(encoded),
        None => Err(Error::text("bad input number")),
    }
}

/// Integers stay integers.
fn calculated(one: JsonNode<'_>, other: JsonNode<'_>, operation: Operation) -> Result<Vec<u8>> {
    let mut result = Vec::new();
    match (one.value(), other.value()) {
        (JsonValue::Integer(one), JsonValue::Integer(other)) => {
            let number = (operation.integers)(one.into(), other.into());
            let number = number.and_then(|number| i64::try_from(number).ok());
            json::put_integer(&mut result, number.ok_or(Error::text("ERR numeric overflow"))?);
        }
        (one, other) => {
            let (one, other) = (one.as_float().unwrap_or_default(), other.as_float().unwrap_or_default());
            let number = (operation.floats)(one, other);
            if !number.is_finite() {
                return Err(Error::text("ERR result is not a number"));
            }
            json::put_float(&mut result, number);
        }
    }
    Ok(result)
}

/// `JSON.TOGGLE key path`
pub fn toggle(db: &mut Keyspace<'_>, reply: &mut Reply, (key, path): (&[u8], LatePath<'_>)) -> Result<()> {
    let path = path.in_document(db, key)?;
    let results = change(db, key, |json, most| {
        let found = select::places(json, &path)?;
        let mut results: Vec<Option<bool>> = vec![None; found.len()];
        let (places, numbers) = ordered(found.into_iter());
        let changed = edit(json, (&places, 0, most), |at, node| {
            let JsonValue::Bool(value) = node.value() else { return Ok(Edit::Keep) };
            results[numbers[at]] = Some(!value);
            let mut encoded = Vec::new();
            json::put_bool(&mut encoded, !value);
            Ok(Edit::Replace(encoded))
        })?;
        Ok(Change::when(changed, results))
    })?;
    let results = results.ok_or(NO_KEY)?;
    if path.is_old {
        let last = results.iter().rev().flatten().next().ok_or_else(|| no_path_or("not a bool"))?;
        reply.bulk(if *last { b"true" } else { b"false" });
    } else {
        reply_integers(reply, &results.iter().map(|result| result.map(i64::from)).collect::<Vec<_>>());
    }
    Ok(())
}

/// Writes a number for each value that was changed, and null for the others.
pub(super) fn reply_integers(reply: &mut Reply, results: &[Option<i64>]) {
    reply.array(results.len());
    for result in results {
        match result {
            Some(number) => reply.integer(*number),
            None => reply.null(),
        }
    }
}

/// Writes the number of the last value that an old path names, or those of all values.
pub(super) fn reply_changed(reply: &mut Reply, path: &Path<'_>, results: &[Option<i64>], what: &str) -> Result<()> {
    if path.is_old {
        let last = results.iter().rev().flatten().next().ok_or_else(|| no_path_or(what))?;
        reply.integer(*last);
    } else {
        reply_integers(reply, results);
    }
    Ok(())
}

/// `JSON.STRAPPEND key [path] string`
pub fn strappend(db: &mut Keyspace<'_>, reply: &mut Reply, (key, args): (&[u8], Args<'_>)) -> Result<()> {
    let mut args = args;
    let path = if args.len() > 1 { args.take()? } else { LatePath::root() };
    let Utf8(text) = args.take()?;
    let path = path.in_document(db, key)?;
    ask_for_copies(db, reply, key, &path, text.len())?;
    let results = change(db, key, |json, most| {
        let found = select::places(json, &path)?;
        let mut results: Vec<Option<i64>> = vec![None; found.len()];
        let (places, numbers) = ordered(found.into_iter());
        // It is read once, and only where there is a string.
        let mut operand: Option<Vec<u8>> = None;
        let changed = edit(json, (&places, text.len(), most), |at, node| {
            let Some(before) = node.string() else { return Ok(Edit::Keep) };
            let appended = match &mut operand {
                Some(appended) => appended,
                none => {
                    let value = parse_operand(text)?;
                    none.insert(JsonNode::of(&value).string().ok_or_else(|| not_a("string"))?.to_vec())
                }
            };
            let after = [before, appended].concat();
            results[numbers[at]] = Some(after.len() as i64);
            let mut encoded = Vec::with_capacity(after.len() + 5);
            json::put_string(&mut encoded, &after);
            Ok(Edit::Replace(encoded))
        })?;
        Ok(Change::when(changed, results))
    })?;
    reply_changed(reply, &path, &results.ok_or(NO_KEY)?, "not a string")
}

/// A path that may be left out, with nothing behind it.
pub struct LastPath<'a>(LatePath<'a>);

impl<'a> Argument<'a> for LastPath<'a> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        if args.len() > 1 {
            return Err(wrong_arity(args));
        }
        args.take().map(|OptionalLatePath(path)| Self(path))
    }
}

/// `JSON.CLEAR key [path]`
pub fn clear(db: &mut Keyspace<'_>, reply: &mut Reply, (key, path): (&[u8], LastPath<'_>)) -> Result<()> {
    let path = path.0.in_document(db, key)?;
    let cleared = change(db, key, |json, most| {
        // The values in a container go with it when it is cleared.
        let mut found = select::places(json, &path)?;
        let bytes = json.bytes();
        found.retain(|at| match JsonNode::at_offset(bytes, *at as usize).value() {
            JsonValue::Array(children) | JsonValue::Object(children) => !children.is_empty(),
            JsonValue::Integer(number) => number != 0,
            JsonValue::Unsigned(_) => true,
            JsonValue::Float(number) => number != 0.0,
            _ => false,
        });
        let places = outermost(json, &found);
        edit(json, (&places, 0, most), |_, node| {
            let mut encoded = Vec::new();
            match node.value() {
                JsonValue::Array(_) => json::put_empty_array(&mut encoded),
                JsonValue::Object(_) => json::put_empty_object(&mut encoded),
                _ => json::put_integer(&mut encoded, 0),
            }
            Ok(Edit::Replace(encoded))
        })?;
        Ok(Change::when(!places.is_empty(), places.len() as i64))
    })?;
    reply.integer(cleared.ok_or(NO_KEY)?);
    Ok(())
}
