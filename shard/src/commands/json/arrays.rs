//! Commands that change arrays.

use dormouse_protocol::{Reply, Version};
use dormouse_types::Json;
use dormouse_types::json::{self, Edit, JsonNode, Style};

use super::path::Path;
use super::reading::form_of;
use super::text::{ReplyForm, reply_value};
use super::writing::reply_changed;
use super::{ARRPOP, ARRTRIM, Index, LatePath, NO_KEY, change, edit, no_path_or, ordered, parse, select, wrong_arity};
use crate::commands::args::{Args, Argument, Rest};
use crate::commands::work;
use crate::error::{Error, Result};
use crate::keyspace::changes::KeyEvent;
use crate::keyspace::{Change, Keyspace};

/// Values of a request, encoded one after the other.
struct Values {
    bytes: Vec<u8>,
    count: usize,
}

impl Values {
    fn read(words: Rest<'_>) -> Result<Self> {
        let mut bytes = Vec::new();
        for word in words.iter() {
            bytes.extend_from_slice(&parse(word)?);
        }
        Ok(Self { bytes, count: words.len() })
    }
}

/// One value or more.
pub struct SomeValues<'a>(Rest<'a>);

impl<'a> Argument<'a> for SomeValues<'a> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        if args.is_empty() { Err(wrong_arity(args)) } else { args.take().map(Self) }
    }
}

/// `JSON.ARRAPPEND key path value [value ...]`
pub fn append(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, path, values): (&[u8], LatePath<'_>, SomeValues<'_>),
) -> Result<()> {
    let values = Values::read(values.0)?;
    let path = path.in_document(db, key)?;
    let results = change_arrays(db, reply, (key, &path, values.bytes.len()), |array| {
        let edit = Edit::Insert { at: array.bytes().len(), bytes: values.bytes.clone(), count: values.count };
        Ok((edit, Some((array.len() + values.count) as i64)))
    })?;
    reply_changed(reply, &path, &results, "not an array")
}

/// `JSON.ARRINSERT key path index value [value ...]`
pub fn insert(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, path, index, values): (&[u8], LatePath<'_>, Index, SomeValues<'_>),
) -> Result<()> {
    let values = Values::read(values.0)?;
    let path = path.in_document(db, key)?;
    let Index(index) = index;
    let results = change_arrays(db, reply, (key, &path, values.bytes.len()), |array| {
        let len = array.len();
        let at = if index < 0 { index.checked_add(len as i64) } else { Some(index) };
        let at = at.and_then(|at| usize::try_from(at).ok()).filter(|at| *at <= len);
        let at = at.ok_or(Error::text("ERR index out of bounds"))?;
        let edit = Edit::Insert { at: offset(array, at), bytes: values.bytes.clone(), count: values.count };
        Ok((edit, Some((len + values.count) as i64)))
    })?;
    reply_changed(reply, &path, &results, "not an array")
}

/// The offset of an element from the beginning of its array; that of the end for one too many.
fn offset(array: JsonNode<'_>, index: usize) -> usize {
    array.element(index).map_or(array.bytes().len(), |element| element.at() - array.at())
}

/// Changes the arrays that a path names, each of which gets `more` bytes. Returns a result for each value that the path
/// names, in its order; that of no array is `None`.
fn change_arrays<R: Clone>(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, path, more): (&[u8], &Path<'_>, usize),
    mut of_array: impl FnMut(JsonNode<'_>) -> Result<(Edit, Option<R>)>,
) -> Result<Vec<Option<R>>> {
    if !path.is_static()
        && let Some(document) = db.read_to_change::<Json>(key)?
    {
        let places = select::places(document, path)?.len();
        work(reply, places.saturating_mul(more))?;
    }
    let results = change(db, key, |json, most| {
        let found = select::places(json, path)?;
        let mut results: Vec<Option<R>> = vec![None; found.len()];
        let (places, numbers) = ordered(found.into_iter());
        let changed = edit(json, (&places, more, most), |at, node| {
            if !node.is_array() {
                return Ok(Edit::Keep);
            }
            let (edit, result) = of_array(node)?;
            results[numbers[at]] = result;
            Ok(edit)
        })?;
        Ok(Change::when(changed, results))
    })?;
    results.ok_or(NO_KEY)
}

/// `JSON.ARRPOP key [FORMAT STRINGS | EXPAND1 | EXPAND] [path [index]]`
pub fn pop(db: &mut Keyspace<'_>, reply: &mut Reply, (key, options): (&[u8], PopOptions<'_>)) -> Result<()> {
    let PopOptions { format, path, index } = options;
    let form = popped_form(format, reply.version())?;
    if path.is_old && form != ReplyForm::Text {
        return Err(Error::text("Legacy paths are supported only with FORMAT STRINGS"));
    }
    let path = path.in_document(db, key)?;
    // The outer result says that there is an array, the inner one what was in it.
    let results = change_arrays(db, reply, (key, &path, 0), |array| {
        let Some(last) = array.len().checked_sub(1) else { return Ok((Edit::Keep, Some(None))) };
        let index = match usize::try_from(index) {
            Ok(index) => index.min(last),
            Err(_) => array.len().saturating_sub(usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX)),
        };
        let Some(element) = array.element(index) else { return Ok((Edit::Keep, Some(None))) };
        let popped = element.bytes().to_vec();
        let edit = Edit::Cut { at: element.at() - array.at(), bytes: popped.len(), count: 1 };
        Ok((edit, Some(Some(popped))))
    })?;
    if path.is_old {
        tell_unchanged(db, ARRPOP, key, &results);
    }
    let popped = |reply: &mut Reply, popped: Option<&Vec<u8>>| match (popped, form) {
        (None, _) => reply.null(),
        (Some(popped), ReplyForm::Text) => {
            let mut text = Vec::new();
            json::write(JsonNode::of(popped), Style::default(), &mut text);
            reply.bulk(&text);
        }
        (Some(popped), form) => reply_value(reply, JsonNode::of(popped), form, Style::default()),
    };
    if path.is_old {
        let last = results.iter().rev().flatten().next().ok_or_else(|| no_path_or("not an array"))?;
        popped(reply, last.as_ref());
    } else {
        reply.array(results.len());
        results.iter().for_each(|result| popped(reply, result.as_ref().and_then(Option::as_ref)));
    }
    Ok(())
}

/// The form of what is popped. A form that does not exist is the first error.
fn popped_form(format: Option<&[u8]>, version: Version) -> Result<ReplyForm> {
    form_of(format, Version::Resp3, "STRINGS")?;
    form_of(format, version, "STRINGS")
}

/// `[FORMAT STRINGS | EXPAND1 | EXPAND] [path [index]]`
pub struct PopOptions<'a> {
    format: Option<&'a [u8]>,
    path: LatePath<'a>,
    index: i64,
}

impl<'a> Argument<'a> for PopOptions<'a> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        // The word alone is a path.
        let format = if args.len() > 1 && args.word("FORMAT") { Some(args.bytes()?) } else { None };
        let mut options = Self { format, path: LatePath::root(), index: -1 };
        if !args.is_empty() {
            options.path = args.take()?;
        }
        if !args.is_empty() {
            options.index = args.take().map_or(-1, |Index(index)| index);
        }
        while !args.is_empty() {
            args.skip();
        }
        Ok(options)
    }
}

/// `JSON.ARRTRIM key path start stop`
pub fn trim(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, path, start, stop): (&[u8], LatePath<'_>, Index, Index),
) -> Result<()> {
    let path = path.in_document(db, key)?;
    let results = change_arrays(db, reply, (key, &path, 0), |array| {
        let (from, to) = kept(start.0, stop.0, array.len());
        if to - from == array.len() {
            return Ok((Edit::Keep, Some(array.len() as i64)));
        }
        let mut trimmed = Vec::new();
        json::put_array(&mut trimmed, &array.bytes()[offset(array, from)..offset(array, to)], to - from);
        Ok((Edit::Replace(trimmed), Some((to - from) as i64)))
    })?;
    tell_unchanged(db, ARRTRIM, key, &results);
    reply_changed(reply, &path, &results, "not an array")
}

/// Tells of arrays that a command has found and left as they were, as RedisJSON does. Nothing is recorded of them.
fn tell_unchanged<R>(db: &mut Keyspace<'_>, event: KeyEvent, key: &[u8], results: &[Option<R>]) {
    if db.changes() == 0 && results.iter().any(Option::is_some) {
        db.tell(event, key);
    }
}

/// The elements that a trim keeps: from one to before another.
fn kept(start: i64, stop: i64, len: usize) -> (usize, usize) {
    let from_end = |index: i64| len.saturating_sub(usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX));
    let from = usize::try_from(start).unwrap_or_else(|_| from_end(start));
    let last = usize::try_from(stop).map_or_else(|_| from_end(stop), |stop| stop.min(len.saturating_sub(1)));
    if len == 0 || from >= len || from > last { (0, 0) } else { (from, last + 1) }
}
