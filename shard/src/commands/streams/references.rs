//! Deletions that mind the references of groups to an entry: `XDELEX` and `XACKDEL`.

use std::iter::once;

use dormouse_protocol::{Reply, Request};
use dormouse_types::stream::References;
use dormouse_types::{Stream, StreamId};
use smallvec::SmallVec;

use super::ids::ids;
use super::trimming::references;
use super::{event, look};
use crate::commands::args::{Rest, integer};
use crate::error::{Error, Result};
use crate::keyspace::{Change, Keyspace};

/// The outcomes for an entry, as replies have them.
const UNKNOWN: i64 = -1;
const DELETED: i64 = 1;
const REFERRED_TO: i64 = 2;

/// The word for references that do not just stay.
pub fn word(references: References) -> Option<&'static [u8]> {
    match references {
        References::Keep => None,
        References::Delete => Some(b"DELREF"),
        References::Respect => Some(b"ACKED"),
    }
}

/// `[KEEPREF | DELREF | ACKED] IDS number id [id ...]`, in any order. The ids are read later.
fn options(words: Rest<'_>) -> Result<(References, Rest<'_>)> {
    let (mut kind, mut found, mut at) = (None, None, 0);
    while at < words.len() {
        let upper = words.at(at).to_ascii_uppercase();
        if kind.is_none()
            && let Some(references) = references(&upper)
        {
            (kind, at) = (Some(references), at + 1);
        } else if upper == b"IDS" && at + 1 < words.len() {
            let count = integer(words.at(at + 1)).ok().and_then(|count| usize::try_from(count).ok());
            let count = count.filter(|count| *count > 0);
            let count = count.ok_or(Error::text("ERR Number of IDs must be a positive integer"))?;
            let (_, rest) = words.split_at(at + 2).ok_or(Error::Syntax)?;
            let ids = rest.split_at(count);
            let text = "ERR The `numids` parameter must match the number of arguments";
            found = Some(ids.ok_or(Error::text(text))?.0);
            at += 2 + count;
        } else {
            return Err(Error::Syntax);
        }
    }
    let ids = found.ok_or(Error::text("ERR IDS option is required"))?;
    Ok((kind.unwrap_or_default(), ids))
}

/// The outcome of a deletion.
#[derive(Debug, Default)]
struct Outcome {
    /// For each id.
    codes: SmallVec<[i64; 8]>,
    deleted: SmallVec<[StreamId; 8]>,
    acknowledged: SmallVec<[StreamId; 8]>,
    /// Whether any entry was pending in other groups, and is not any more.
    released: bool,
}

impl Outcome {
    /// Deletes an entry unless its references forbid that. Returns whether they do.
    fn delete(&mut self, stream: &mut Stream, id: StreamId, references: References) -> bool {
        match references {
            References::Keep => {}
            References::Delete => self.released |= stream.delete_references(&[id]),
            References::Respect if stream.is_referred_to(id) => return true,
            References::Respect => {}
        }
        if stream.delete(once(id)) > 0 {
            self.deleted.push(id);
        }
        false
    }

    fn has_changed(&self) -> bool {
        self.released || !(self.deleted.is_empty() && self.acknowledged.is_empty())
    }

    fn write(&self, reply: &mut Reply) {
        reply.array(self.codes.len());
        self.codes.iter().for_each(|code| reply.integer(*code));
    }
}

/// `XDELEX key [KEEPREF | DELREF | ACKED] IDS number id [id ...]`
pub fn xdelex(db: &mut Keyspace<'_>, reply: &mut Reply, (key, words): (&[u8], Rest<'_>)) -> Result<()> {
    let exists = db.read_to_change::<Stream>(key)?.is_some();
    let (references, words) = options(words)?;
    if !exists {
        return unknown(reply, words.len());
    }
    let ids = ids(words.iter())?;
    let outcome = db.update_existing(key, |stream: &mut Stream, _| {
        let mut outcome = Outcome::default();
        for id in &ids {
            let before = outcome.deleted.len();
            let code = match outcome.delete(stream, *id, references) {
                true => REFERRED_TO,
                false if outcome.deleted.len() > before => DELETED,
                false => UNKNOWN,
            };
            outcome.codes.push(code);
        }
        match outcome.deleted.is_empty() {
            true => Change::beside_when(outcome.has_changed(), outcome),
            false => Change::Yes(outcome),
        }
    })?;
    let outcome = outcome.unwrap_or_default();
    outcome.write(reply);
    record(db, key, &[b"XDELEX", key], (references, &ids), &outcome);
    Ok(())
}

/// `XACKDEL key group [KEEPREF | DELREF | ACKED] IDS number id [id ...]`
pub fn xackdel(db: &mut Keyspace<'_>, reply: &mut Reply, (key, name, words): (&[u8], &[u8], Rest<'_>)) -> Result<()> {
    let exists = db.read::<Stream>(key)?.is_some_and(|stream| stream.group(name).is_some());
    let (references, words) = options(words)?;
    if !exists {
        return unknown(reply, words.len());
    }
    let ids = ids(words.iter())?;
    let outcome = db.update_existing(key, |stream: &mut Stream, _| {
        let mut outcome = Outcome::default();
        for id in &ids {
            if stream.change_group(name, |_, group| group.acknowledge(*id)) != Some(true) {
                outcome.codes.push(UNKNOWN);
                continue;
            }
            outcome.acknowledged.push(*id);
            // An entry that does not exist counts as deleted.
            let is_kept = outcome.delete(stream, *id, references);
            outcome.codes.push(if is_kept { REFERRED_TO } else { DELETED });
        }
        match outcome.deleted.is_empty() {
            true => Change::beside_when(outcome.has_changed(), outcome),
            false => Change::Yes(outcome),
        }
    })?;
    let outcome = outcome.unwrap_or_default();
    outcome.write(reply);
    if !outcome.acknowledged.is_empty() {
        tell_acknowledged_by(db, key, name, &outcome.acknowledged);
    }
    record(db, key, &[b"XACKDEL", key, name], (references, &ids), &outcome);
    Ok(())
}

fn unknown(reply: &mut Reply, count: usize) -> Result<()> {
    reply.array(count);
    (0..count).for_each(|_| reply.integer(UNKNOWN));
    Ok(())
}

/// Tells of a deletion, and records it where the command is not its own effect: as itself, and to replicas as what they know.
fn record(
    db: &mut Keyspace<'_>,
    key: &[u8],
    head: &[&[u8]],
    (references, ids): (References, &[StreamId]),
    outcome: &Outcome,
) {
    if outcome.has_changed() && db.records_by_key() {
        let (count, texts) = (ids.len().to_string(), texts_of(ids));
        let words = head.iter().copied().chain(word(references)).chain([&b"IDS"[..], count.as_bytes()]);
        let words: Vec<&[u8]> = words.chain(texts.iter().map(String::as_bytes)).collect();
        db.effect_kept(key, words.into_iter());
        if outcome.released {
            tell_acknowledged(db, key, ids);
        }
        if !outcome.deleted.is_empty() {
            tell_deleted(db, key, &outcome.deleted);
        }
    }
    if !outcome.deleted.is_empty() {
        db.tell(event("xdel"), key);
    }
}

fn texts_of(ids: &[StreamId]) -> Vec<String> {
    ids.iter().map(StreamId::to_string).collect()
}

/// Tells replicas that entries are pending in no group any more.
pub fn tell_acknowledged(db: &mut Keyspace<'_>, key: &[u8], ids: &[StreamId]) {
    let groups = db.peek_collection::<Stream>(key).into_iter().flat_map(Stream::groups);
    let names: Vec<Box<[u8]>> = groups.map(|group| group.name().into()).collect();
    names.iter().for_each(|name| tell_acknowledged_by(db, key, name, ids));
}

fn tell_acknowledged_by(db: &mut Keyspace<'_>, key: &[u8], group: &[u8], ids: &[StreamId]) {
    tell_ids(db, key, &[b"XACK", key, group], ids);
}

/// Tells replicas that entries were deleted.
pub fn tell_deleted(db: &mut Keyspace<'_>, key: &[u8], ids: &[StreamId]) {
    tell_ids(db, key, &[b"XDEL", key], ids);
}

fn tell_ids(db: &mut Keyspace<'_>, key: &[u8], head: &[&[u8]], ids: &[StreamId]) {
    if db.records_by_key() && db.shared().journal.is_tapped() {
        let texts = texts_of(ids);
        let words: Vec<&[u8]> = head.iter().copied().chain(texts.iter().map(String::as_bytes)).collect();
        db.effect_told(key, words.into_iter());
    }
}

/// Each entry is looked for, and where references count, in each group.
pub fn cost_of_deleting(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let Some(stream) = db.peek_collection::<Stream>(request.arg(1)) else { return 0 };
    request.len().saturating_mul(look(stream) + stream.groups().len())
}
