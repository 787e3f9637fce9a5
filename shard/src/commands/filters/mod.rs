//! Filters, with the commands, replies and errors of RedisBloom. Its filters publish no events but that a key is new.

mod bloom;
mod cuckoo;
#[cfg(test)]
mod tests;

pub(super) use bloom::FAMILY as BLOOM;
pub(super) use cuckoo::FAMILY as CUCKOO;

use dormouse_protocol::Reply;
use dormouse_types::Kind;
use dormouse_types::filter::Parts;

use crate::commands::args::Rest;
use crate::commands::cost::BYTES_PER_ELEMENT;
use crate::commands::{Access, Flags, KeySpec};
use crate::error::{Error, Result};
use crate::keyspace::Keyspace;

const READ: Flags = Flags::READ;
const READ_FAST: Flags = READ.union(Flags::FAST);
/// Replicas of Redis have no filters.
const WRITE: Flags = Flags::WRITE.union(Flags::NOT_TO_REPLICAS);
const GROW: Flags = WRITE.union(Flags::DENY_OOM);

const KEY_READ: &[KeySpec] = &[KeySpec::one(1, Access::RO.union(Access::ACCESS))];
const KEY_LOOK: &[KeySpec] = &[KeySpec::one(1, Access::RO)];
const KEY_ADD: &[KeySpec] = &[KeySpec::one(1, Access::RW.union(Access::INSERT))];
const KEY_DELETE: &[KeySpec] = &[KeySpec::one(1, Access::RW.union(Access::DELETE))];

const NOT_FOUND: Error = Error::text("ERR not found");
const EXISTS: Error = Error::text("ERR item exists");
const UNKNOWN_ARGUMENT: Error = Error::text("Unknown argument received");
const TOO_LARGE: Error = Error::text("ERR Insufficient memory to create filter");

/// The most bytes of a chunk of a dump.
const CHUNK_BYTES_MAX: usize = 16 << 20;

/// Bits or slots that are looked at in about the time of one element.
const PLACES_PER_ELEMENT: usize = 64;

/// The cost of looking at `places` bits or slots for each of so many items, and of making so many bytes.
fn cost_of(items: usize, places: usize, bytes: usize) -> usize {
    items.saturating_mul(1 + places / PLACES_PER_ELEMENT).saturating_add(bytes / BYTES_PER_ELEMENT)
}

/// An error unless the key does not exist.
fn check_is_free(db: &mut Keyspace<'_>, key: &[u8], kind: Kind) -> Result<()> {
    db.reads_to_change();
    match db.kind(key) {
        None => Ok(()),
        Some(found) if found == kind => Err(EXISTS),
        Some(_) => Err(Error::WrongType),
    }
}

/// The letter at `at` of an option's name, by which options are told apart.
fn letter(word: &[u8], at: usize) -> u8 {
    word.get(at).map_or(0, u8::to_ascii_lowercase)
}

/// The words behind `from`.
fn behind<'a>(words: &Rest<'a>, from: usize) -> Option<Rest<'a>> {
    words.split_at(from).map(|(_, behind)| behind).filter(|behind| !behind.is_empty())
}

/// Replies the chunk of a dump that begins at position `at`, which counts from 1, and the position behind it. Returns
/// whether there is one.
fn write_chunk(reply: &mut Reply, parts: &Parts, at: i64) -> bool {
    let start = usize::try_from(at).ok().and_then(|at| at.checked_sub(1));
    let Some((start, left)) = start.and_then(|start| Some((start, parts.left_in_part(start)?))) else { return false };
    let bytes = left.min(CHUNK_BYTES_MAX);
    reply.integer(at + bytes as i64);
    reply.bulk_with(bytes, |buffer| {
        for run in parts.runs(start, bytes) {
            dormouse_protocol::pace::extend(buffer, run);
        }
    });
    true
}
