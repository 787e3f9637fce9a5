//! Costs of requests, as rows declare them: about how many elements will be looked at. See [`super::row::Cost`].

use dormouse_protocol::Request;
use dormouse_protocol::glob::reading_cost;
pub use dormouse_protocol::pace::BYTES_PER_ELEMENT;

use crate::commands::args::{Args, Rest, canonical_integer};
use crate::commands::elements::ScanOptions;
use crate::keyspace::Keyspace;

/// The cost that one turn may have.
pub const TURN: usize = 5_000;

/// Largest cost of reading patterns for a request whose further cost is estimated.
pub const READING_MAX: usize = 1000;

/// Bytes of an element that are part of looking at it.
const SHORT_BYTES: usize = 128;

/// The cost of the request itself, whatever the command: each of its words is looked at, each of its bytes copied.
#[inline]
pub fn of_request(request: Request<'_>) -> usize {
    request.len() + request.extent() / BYTES_PER_ELEMENT
}

/// All elements of the first key.
pub fn whole(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    db.cardinality(request.arg(1))
}

/// As many elements of the first key as the second argument says; repeated ones, if it is negative.
pub fn counted(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    match request.get(2).map(canonical_integer) {
        None => some(db, request.arg(1), 1),
        Some(None) => 0,
        Some(Some(count)) if count < 0 => repeated(db, request, count.unsigned_abs()),
        Some(Some(count)) => {
            let (count, all) = (usize::try_from(count).unwrap_or(0), whole(db, request));
            // If many of the elements are chosen, all of them are visited.
            some(db, request.arg(1), count.min(all)).max(all.min(count.saturating_mul(3)))
        }
    }
}

/// An element of the first key, and its bytes, repeated `count` times: with repeats, the bytes of a reply may be many
/// times those of the key.
pub fn repeated(db: &Keyspace<'_>, request: Request<'_>, count: u64) -> usize {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    some(db, request.arg(1), count)
}

/// So many elements of `key`, each with the bytes that an element has on average, where those are many.
pub fn some(db: &Keyspace<'_>, key: &[u8], count: usize) -> usize {
    let bytes = average_bytes(db, key).saturating_sub(SHORT_BYTES);
    count.saturating_add(bytes.saturating_mul(count) / BYTES_PER_ELEMENT)
}

fn average_bytes(db: &Keyspace<'_>, key: &[u8]) -> usize {
    db.collection_bytes(key) / db.cardinality(key).max(1)
}

/// A scan of the first key: its `COUNT`, up to the number of elements, and the cost of its pattern over their bytes.
pub fn scanned(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let Some(key) = request.get(1) else { return 0 };
    let reading = patterns(request);
    if reading > READING_MAX {
        return usize::MAX;
    }
    let Ok(options) = Args::new(request, 3).take::<Rest<'_>>().and_then(ScanOptions::read_any) else { return 0 };
    let elements = whole(db, request);
    let count = elements.min(options.count);
    let bytes = average_bytes(db, key) * count;
    reading.saturating_add(count).saturating_add(options.cost(count, bytes))
}

/// The whole value of the first key, which is copied: into another key, the log, or a reply.
pub fn copied(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    weight(db, request.arg(1))
}

/// As many elements as the last argument says, of the longest of the keys whose number is argument `at`: `ZMPOP`.
pub fn popped(db: &Keyspace<'_>, request: Request<'_>, at: usize) -> usize {
    let count = request.iter().next_back().and_then(canonical_integer).unwrap_or(1);
    let most = counted_keys(request, at).map(|key| db.cardinality(key)).max().unwrap_or(0);
    most.min(usize::try_from(count).unwrap_or(0))
}

/// The cost of reading the patterns of a scan, once here and once when it runs.
pub fn patterns(request: Request<'_>) -> usize {
    request.iter().skip(2).map(|word| 2 * reading_cost(word)).sum()
}

/// All elements of all keys: a union, a difference.
pub fn sum<'k>(db: &Keyspace<'_>, keys: impl Iterator<Item = &'k [u8]>) -> usize {
    keys.map(|key| weight(db, key)).fold(0, usize::saturating_add)
}

/// Each element of a key, with its bytes where they are many.
fn weight(db: &Keyspace<'_>, key: &[u8]) -> usize {
    some(db, key, db.cardinality(key)) + db.string_length(key) / BYTES_PER_ELEMENT
}

/// The smallest of the keys, as often as there are keys: an intersection.
pub fn smallest<'k>(db: &Keyspace<'_>, keys: impl Iterator<Item = &'k [u8]>) -> usize {
    let (count, least) = keys.fold((0usize, usize::MAX), |(count, least), key| (count + 1, least.min(weight(db, key))));
    count.saturating_mul(least)
}

/// Overhead of a copied element beside its bytes, in whatever form.
const ELEMENT_BYTES: usize = 64;

/// The bytes that a copy of the collection under `key` takes at most, in whatever form.
pub fn copied_bytes(db: &Keyspace<'_>, key: &[u8]) -> usize {
    db.collection_bytes(key).saturating_add(db.cardinality(key).saturating_mul(ELEMENT_BYTES))
}

/// The keys that follow argument `at`, which is their number.
pub fn counted_keys<'k>(request: Request<'k>, at: usize) -> impl Iterator<Item = &'k [u8]> {
    let count = request.get(at).and_then(canonical_integer).and_then(|count| usize::try_from(count).ok());
    request.iter().skip(at + 1).take(count.unwrap_or(0))
}
