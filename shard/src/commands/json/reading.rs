//! Commands that read documents.

use std::collections::HashSet;

use dormouse_protocol::{Reply, Version};
use dormouse_types::Json;
use dormouse_types::json::{JsonNode, Numbers, Style, equal};
use dormouse_types::pace;

use super::operand::TOO_MUCH;
use super::path::{PATTERNS_MAX, Query, TOO_MANY_PATTERNS, patterns};
use super::select::{SELECTIONS_BYTES_MAX, Selected};
use super::text::{Many, Named, One, ReplyForm, reply_resp, reply_text, reply_value};
use super::{
    Ignored, Index, LatePath, NO_KEY, NO_PATH, NOT_UTF_8, OptionalPath, no_path_or, not_a, parse_operand, select,
    wrong_arity,
};
use crate::commands::args::{Args, Argument, Rest};
use crate::error::{Error, Result};
use crate::keyspace::Keyspace;

/// Bytes of arrays that `JSON.ARRINDEX` searches: so many times the document, or this many if it is small.
const SEARCHED_TIMES: usize = 4;
const SEARCHED_BYTES: usize = 64 << 20;

/// `JSON.GET key [INDENT indent] [NEWLINE newline] [SPACE space] [FORMAT STRING | EXPAND1 | EXPAND] [path ...]`
pub fn get(db: &mut Keyspace<'_>, reply: &mut Reply, (key, options): (&[u8], GetOptions<'_>)) -> Result<()> {
    let GetOptions { mut paths, style, format, is_format_behind_path, problem } = options;
    // RESP2 has text alone, and ignores a format behind a path.
    let form = match reply.version() {
        Version::Resp2 if is_format_behind_path => {
            form_of(format, Version::Resp3, "STRING")?;
            ReplyForm::Text
        }
        version => form_of(format, version, "STRING")?,
    };
    let document = db.read::<Json>(key)?;
    if paths.is_empty() {
        paths.push(Query::root());
    }
    if let Some(problem) = problem {
        return Err(problem);
    }
    let Some(document) = document else {
        reply.null();
        return Ok(());
    };
    if form != ReplyForm::Text {
        reply.array(paths.len());
        for path in &paths {
            let values = select::queried(document, path, false)?;
            reply.array(values.len());
            values.iter().for_each(|value| reply_value(reply, value, form, style));
        }
        return Ok(());
    }
    match &paths[..] {
        [path] => reply_path(reply, document, path, style),
        _ => {
            let are_arrays = paths.iter().any(|path| !path.is_old());
            let mut named: Vec<(&[u8], Selected<'_>)> = Vec::with_capacity(paths.len());
            let (mut names, mut bytes) = (HashSet::with_capacity(paths.len()), 0);
            for path in &paths {
                // The same path twice is one member.
                if !names.insert(path.original()) {
                    continue;
                }
                if bytes > SELECTIONS_BYTES_MAX {
                    return Err(TOO_MUCH);
                }
                let values = select::queried(document, path, !are_arrays)?;
                if !are_arrays && !values.are_computed && values.is_empty() {
                    return Err(NO_PATH);
                }
                bytes += values.own_bytes();
                named.push((path.original(), values));
            }
            let bytes = named.iter().map(|(name, values)| name.len() + bytes_of(values)).sum();
            reply_text(reply, &Named { paths: &named, are_arrays, style }, style, bytes);
            Ok(())
        }
    }
}

/// Writes the text of the values of one path.
fn reply_path(reply: &mut Reply, document: &Json, path: &Query<'_>, style: Style<'_>) -> Result<()> {
    let values = select::queried(document, path, path.is_old())?;
    if path.is_old() && !values.are_computed {
        let value = values.iter().next().ok_or(NO_PATH)?;
        reply_text(reply, &One(value, style), style, value.bytes().len());
    } else {
        reply_text(reply, &Many(&values, style), style, bytes_of(&values));
    }
    Ok(())
}

fn bytes_of(values: &Selected<'_>) -> usize {
    values.iter().map(|value| value.bytes().len() + 1).sum()
}

/// The form that `FORMAT` asks for; `text` is the one of text. Only RESP3 has others.
pub(super) fn form_of(format: Option<&[u8]>, version: Version, text: &str) -> Result<ReplyForm> {
    match format {
        None => Ok(ReplyForm::Text),
        Some(_) if version == Version::Resp2 => Err(Error::text("ERR FORMAT argument is not supported on RESP2")),
        Some(b"EXPAND1") => Ok(ReplyForm::Shallow),
        Some(b"EXPAND") => Ok(ReplyForm::Deep),
        Some(word) if word == text.as_bytes() => Ok(ReplyForm::Text),
        Some(_) => Err(Error::text("ERR wrong reply format")),
    }
}

/// Options and paths of `JSON.GET`, in any order.
#[derive(Default)]
pub struct GetOptions<'a> {
    paths: Vec<Query<'a>>,
    style: Style<'a>,
    format: Option<&'a [u8]>,
    is_format_behind_path: bool,
    /// Of the first path that cannot be read. It comes after the errors of other words and of the key.
    problem: Option<Error>,
}

impl<'a> Argument<'a> for GetOptions<'a> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let (mut options, mut compiled) = (Self::default(), 0);
        while let Some(word) = args.upper() {
            let value = match word.as_bytes() {
                b"INDENT" => &mut options.style.indent,
                b"NEWLINE" => &mut options.style.newline,
                b"SPACE" => &mut options.style.space,
                b"FORMAT" => {
                    options.is_format_behind_path = (!options.paths.is_empty() || options.problem.is_some())
                        && (options.format.is_none() || options.is_format_behind_path);
                    options.format.insert(&[])
                }
                // An option of RedisJSON 1.
                b"NOESCAPE" => {
                    args.skip();
                    continue;
                }
                _ => {
                    let path = args.bytes()?;
                    compiled += patterns(path).all();
                    if compiled > PATTERNS_MAX {
                        return Err(TOO_MANY_PATTERNS);
                    }
                    match Query::read(path) {
                        Err(problem) if problem != NOT_UTF_8 => _ = options.problem.get_or_insert(problem),
                        path => options.paths.push(path?),
                    }
                    continue;
                }
            };
            args.skip();
            *value = args.bytes().map_err(|_| wrong_arity(args))?;
        }
        Ok(options)
    }
}

/// `JSON.MGET key [key ...] path`
pub fn mget(db: &mut Keyspace<'_>, reply: &mut Reply, (words,): (Rest<'_>,)) -> Result<()> {
    let count = words.len() - 1;
    let path = Query::read(words.at(count))?;
    reply.array(count);
    for key in words.iter().take(count) {
        // As in `MGET`, a value of another type is none.
        match db.read::<Json>(key) {
            Ok(Some(document)) => match reply_path(reply, document, &path, Style::default()) {
                Err(error) if error == NO_PATH => reply.null(),
                other => other?,
            },
            Ok(None) | Err(Error::WrongType) => reply.null(),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// `JSON.TYPE key [path]`
pub fn kind(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, path, _): (&[u8], OptionalPath<'_>, Ignored),
) -> Result<()> {
    let OptionalPath(path) = path;
    let document = db.read::<Json>(key)?;
    if reply.version() == Version::Resp3 {
        reply.array(1);
    }
    let Some(document) = document else {
        reply.null();
        return Ok(());
    };
    if path.is_old {
        match select::first(document, &path)? {
            Some(value) => reply.bulk(value.type_name().as_bytes()),
            None => reply.null(),
        }
    } else {
        let values = select::all(document, &path)?;
        reply.array(values.len());
        values.iter().for_each(|value| reply.bulk(value.type_name().as_bytes()));
    }
    Ok(())
}

/// `JSON.STRLEN key [path]`
pub fn strlen(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, path, _): (&[u8], OptionalPath<'_>, Ignored),
) -> Result<()> {
    let OptionalPath(path) = path;
    let length = |value: JsonNode<'_>| value.string().map(<[u8]>::len);
    match db.read::<Json>(key)? {
        None if path.is_old => reply.null(),
        None => return Err(NO_KEY),
        Some(document) if path.is_old => {
            let value = select::first(document, &path)?.ok_or(NO_PATH)?;
            reply.integer(length(value).ok_or_else(|| not_a("string"))? as i64);
        }
        Some(document) => reply_lengths(reply, &select::all(document, &path)?, length),
    }
    Ok(())
}

/// Writes a number for each value, or null.
fn reply_lengths(reply: &mut Reply, values: &Selected<'_>, length: impl Fn(JsonNode<'_>) -> Option<usize>) {
    reply.array(values.len());
    for value in values.iter() {
        match length(value) {
            Some(length) => reply.integer(length as i64),
            None => reply.null(),
        }
    }
}

/// `JSON.ARRINDEX key path value [start [stop]]`
pub fn arrindex(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, path, value, range): (&[u8], LatePath<'_>, &[u8], SearchRange),
) -> Result<()> {
    let SearchRange { start, stop } = range;
    let wanted = parse_operand(value)?;
    let document = db.read::<Json>(key)?.ok_or(NO_PATH)?;
    let path = path.read?;
    let find = |array: JsonNode<'_>| {
        let (from, to) = searched(start, stop, array.len());
        let mut range = array.children().enumerate().take(to).skip(from);
        let found = range.find(|(_, (_, value))| {
            // The first one, whatever it is, where the search is to end.
            !pace::goes_on(1) || equal(*value, JsonNode::of(&wanted), Numbers::OfOneType)
        });
        found.map(|(index, _)| index)
    };
    let answer = |array: JsonNode<'_>| find(array).map_or(-1, |index| index as i64);
    if path.is_old {
        let array = select::first(document, &path)?.ok_or(NO_PATH)?;
        if !array.is_array() {
            return Err(not_a("array"));
        }
        reply.integer(answer(array));
    } else {
        let values = select::all(document, &path)?;
        // A path may name one array many times.
        let mut left = document.bytes().len().saturating_mul(SEARCHED_TIMES).max(SEARCHED_BYTES);
        reply.array(values.len());
        for value in values.iter() {
            if !value.is_array() {
                reply.null();
                continue;
            }
            left = left.checked_sub(value.bytes().len()).ok_or(TOO_MUCH)?;
            reply.integer(answer(value));
        }
    }
    Ok(())
}

/// The elements that are searched: from one to before another. A stop of 0 is the end.
fn searched(start: i64, stop: i64, len: usize) -> (usize, usize) {
    let from_end = |index: i64| len.saturating_sub(usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX));
    let from = usize::try_from(start).map_or_else(|_| from_end(start), |start| start.min(len.saturating_sub(1)));
    let to = match usize::try_from(stop) {
        Ok(0) => len,
        Ok(stop) => stop.min(len),
        Err(_) => from_end(stop),
    };
    (from, to)
}

/// `[start [stop]]`
pub struct SearchRange {
    start: i64,
    stop: i64,
}

impl<'a> Argument<'a> for SearchRange {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let (start, stop): (Option<Index>, Option<Index>) = (args.take()?, args.take()?);
        if !args.is_empty() {
            return Err(wrong_arity(args));
        }
        Ok(Self { start: start.map_or(0, |start| start.0), stop: stop.map_or(0, |stop| stop.0) })
    }
}

/// `JSON.ARRLEN key [path]`
pub fn arrlen(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, path, _): (&[u8], OptionalPath<'_>, Ignored),
) -> Result<()> {
    let OptionalPath(path) = path;
    let length = |value: JsonNode<'_>| value.is_array().then(|| value.len());
    match db.read::<Json>(key)? {
        None if path.is_old => reply.null(),
        None => return Err(NO_KEY),
        Some(document) if path.is_old => {
            let value = select::first(document, &path)?.ok_or(NO_PATH)?;
            reply.integer(length(value).ok_or_else(|| no_path_or("not an array"))? as i64);
        }
        Some(document) => reply_lengths(reply, &select::all(document, &path)?, length),
    }
    Ok(())
}

/// `JSON.OBJKEYS key [path]`
pub fn objkeys(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, path, _): (&[u8], OptionalPath<'_>, Ignored),
) -> Result<()> {
    let OptionalPath(path) = path;
    fn reply_names(reply: &mut Reply, object: JsonNode<'_>) {
        if reply.is_over() {
            return;
        }
        reply.array(object.len());
        object.children().for_each(|(name, _)| reply.bulk(name.unwrap_or_default()));
    }
    match db.read::<Json>(key)? {
        None if path.is_old => reply.null(),
        None => return Err(NO_KEY),
        Some(document) if path.is_old => match select::first(document, &path)? {
            None => reply.null(),
            Some(value) if value.is_object() => reply_names(reply, value),
            Some(_) => return Err(no_path_or("not an object")),
        },
        Some(document) => {
            let values = select::all(document, &path)?;
            reply.array(values.len());
            for value in values.iter() {
                if value.is_object() { reply_names(reply, value) } else { reply.null() }
            }
        }
    }
    Ok(())
}

/// `JSON.OBJLEN key [path]`
pub fn objlen(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, path, _): (&[u8], OptionalPath<'_>, Ignored),
) -> Result<()> {
    let OptionalPath(path) = path;
    let length = |value: JsonNode<'_>| value.is_object().then(|| value.len());
    match db.read::<Json>(key)? {
        None if path.is_old => reply.null(),
        None => return Err(no_path_or("not an object")),
        Some(document) if path.is_old => match select::first(document, &path)? {
            None => reply.null(),
            Some(value) => reply.integer(length(value).ok_or_else(|| not_a("object"))? as i64),
        },
        Some(document) => reply_lengths(reply, &select::all(document, &path)?, length),
    }
    Ok(())
}

/// `JSON.RESP key [path]`
pub fn resp(db: &mut Keyspace<'_>, reply: &mut Reply, (key, path, _): (&[u8], Option<&[u8]>, Ignored)) -> Result<()> {
    let path = path.map_or_else(|| Ok(Query::root()), Query::read)?;
    let Some(document) = db.read::<Json>(key)? else {
        reply.null();
        return Ok(());
    };
    let values = select::queried(document, &path, path.is_old())?;
    if path.is_old() && !values.are_computed {
        reply_resp(reply, values.iter().next().ok_or(NO_PATH)?);
    } else {
        reply.array(values.len());
        values.iter().for_each(|value| reply_resp(reply, value));
    }
    Ok(())
}

/// `JSON.DEBUG MEMORY key [path]`
pub fn memory(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, path, _): (&[u8], OptionalPath<'_>, Ignored),
) -> Result<()> {
    let OptionalPath(path) = path;
    let document = db.read::<Json>(key)?;
    // The outermost value has the block that they are all in.
    let bytes = |document: &Json, value: JsonNode<'_>| match value.at() {
        0 => document.heap_bytes(),
        _ => value.bytes().len(),
    };
    match document {
        None if path.is_old => reply.integer(0),
        None => reply.array(0),
        Some(document) if path.is_old => {
            let value = select::first(document, &path)?.ok_or(NO_PATH)?;
            reply.integer(bytes(document, value) as i64);
        }
        Some(document) => reply_lengths(reply, &select::all(document, &path)?, |value| Some(bytes(document, value))),
    }
    Ok(())
}
