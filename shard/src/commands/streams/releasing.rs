//! `XNACK`: pending entries that their consumer gives back.
//!
//! A released entry is pending without an owner, before all others: the next consumer that claims gets it, however short the time
//! is for which it has been pending. Replicas of Redis 7.0 have no such entries. They get them as those of a consumer without a
//! name, delivered in 1970.

use dormouse_protocol::{Reply, Request};
use dormouse_types::Stream;
use dormouse_types::StreamId;
use dormouse_types::stream::Deliveries;
use smallvec::SmallVec;

use super::ids::ids;
use super::pending::{group_of, no_group};
use super::{PENDING_BYTES, look};
use crate::commands::args::{Rest, integer};
use crate::error::{Error, Result, repeated};
use crate::keyspace::{Change, Keyspace};

/// The words after the group.
struct Release<'a> {
    mode: &'a [u8],
    deliveries: Deliveries,
    ids: Rest<'a>,
    is_forced: bool,
}

fn options<'a>(mode: &'a [u8], words: Rest<'a>) -> Result<Release<'a>> {
    let mut deliveries = match &mode.to_ascii_uppercase()[..] {
        b"SILENT" => Deliveries::Undone,
        b"FAIL" => Deliveries::Kept,
        b"FATAL" => Deliveries::Most,
        _ => return Err(Error::text("ERR mode must be SILENT, FAIL, or FATAL")),
    };
    let (mut found, mut is_forced, mut at) = (None, false, 0);
    while at < words.len() {
        let has_more = at + 1 < words.len();
        match &words.at(at).to_ascii_uppercase()[..] {
            b"IDS" if has_more => {
                let count = integer(words.at(at + 1)).ok().and_then(|count| i32::try_from(count).ok());
                let count = count.filter(|count| *count > 0);
                let count = count.ok_or(Error::text("ERR numids must be a positive integer"))? as usize;
                let (_, rest) = words.split_at(at + 2).ok_or(Error::Syntax)?;
                let ids = rest.split_at(count).ok_or(Error::text("ERR number of IDs doesn't match numids"))?;
                found = Some(ids.0);
                at += 2 + count;
            }
            b"FORCE" => (is_forced, at) = (true, at + 1),
            b"RETRYCOUNT" if has_more => {
                let count = u64::try_from(integer(words.at(at + 1))?);
                let count = count.map_err(|_| Error::text("ERR Invalid RETRYCOUNT value, must be >= 0"))?;
                (deliveries, at) = (Deliveries::Exactly(count), at + 2);
            }
            _ => {
                let text = format!("ERR Unrecognized XNACK option '{}'", repeated(words.at(at)));
                return Err(Error::Text(text.into()));
            }
        }
    }
    let ids = found.ok_or(Error::text("ERR syntax error, expected IDS keyword"))?;
    Ok(Release { mode, deliveries, ids, is_forced })
}

/// `XNACK key group SILENT | FAIL | FATAL IDS number id [id ...] [RETRYCOUNT count] [FORCE]`
///
/// Everything is read when the group has been found, as in Redis.
pub fn xnack(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, name, mode, words): (&[u8], &[u8], &[u8], Rest<'_>),
) -> Result<()> {
    if db.read_to_change::<Stream>(key)?.is_none_or(|stream| stream.group(name).is_none()) {
        return Err(no_group(key, name));
    }
    let options = options(mode, words)?;
    let ids = ids(options.ids.iter())?;
    let released = db.update_existing(key, |stream: &mut Stream, _| {
        let released = stream.change_group(name, |entries, group| {
            let release = |id: &&StreamId| group.release(entries, **id, options.deliveries, options.is_forced);
            ids.iter().filter(release).copied().collect::<SmallVec<[StreamId; 8]>>()
        });
        let released = released.unwrap_or_default();
        Change::beside_when(!released.is_empty(), released)
    })?;
    let released = released.unwrap_or_default();
    reply.integer(released.len() as i64);
    if !released.is_empty() {
        record(db, key, name, &options, &released);
    }
    Ok(())
}

/// Records what was released where the command is not its own effect.
fn record(db: &mut Keyspace<'_>, key: &[u8], name: &[u8], options: &Release<'_>, released: &[StreamId]) {
    if !db.records_by_key() {
        return;
    }
    let (count, texts) = (released.len().to_string(), released.iter().map(StreamId::to_string).collect::<Vec<_>>());
    let deliveries = match options.deliveries {
        Deliveries::Exactly(count) => Some(count.to_string()),
        _ => None,
    };
    let mut words = vec![&b"XNACK"[..], key, name, options.mode, b"IDS", count.as_bytes()];
    words.extend(texts.iter().map(String::as_bytes));
    words.extend(deliveries.iter().flat_map(|count| [&b"RETRYCOUNT"[..], count.as_bytes()]));
    words.extend(options.is_forced.then_some(&b"FORCE"[..]));
    db.effect_kept(key, words.into_iter());
    for (id, text) in released.iter().zip(&texts) {
        let group = db.peek_collection::<Stream>(key).and_then(|stream| stream.group(name));
        let Some(pending) = group.and_then(|group| group.pending(*id)).copied() else { continue };
        let count = pending.deliveries.min(Deliveries::MOST).to_string();
        let head = [&b"XCLAIM"[..], key, name, b"", b"0", text.as_bytes()];
        let words = head.into_iter().chain([&b"TIME"[..], b"0", b"RETRYCOUNT", count.as_bytes(), b"FORCE", b"JUSTID"]);
        let words: SmallVec<[&[u8]; 12]> = words.collect();
        db.effect_told(key, words.into_iter());
    }
}

pub fn cost_of_xnack(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    db.peek_collection::<Stream>(request.arg(1)).map_or(0, |stream| request.len().saturating_mul(look(stream)))
}

/// Memory for the entries that become pending.
pub fn growth_of_xnack(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let is_forced = request.iter().skip(4).any(|word| word.eq_ignore_ascii_case(b"FORCE"));
    if is_forced && group_of(db, request).is_some() { request.len() * PENDING_BYTES } else { 0 }
}
