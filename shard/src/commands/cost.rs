//! What rows say of the cost of their requests: about how many elements will be looked at. See [`super::row::Cost`].

use dormouse_protocol::Request;

use crate::commands::args::{Args, Rest, canonical_integer};
use crate::commands::elements::ScanOptions;
use crate::keyspace::Keyspace;

/// All elements of the first key.
pub fn whole(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    sum(db, request.iter().skip(1).take(1))
}

/// As many elements of the first key as the second argument says; repeated ones, if it is negative.
pub fn counted(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    match request.get(2).map(canonical_integer) {
        None => 1,
        Some(None) => 0,
        Some(Some(count)) if count < 0 => usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX),
        // Where many of the elements are chosen, all of them go by.
        Some(Some(count)) => whole(db, request).min(usize::try_from(count).unwrap_or(0).saturating_mul(3)),
    }
}

/// A scan of the first key: its `COUNT`, as far as there are elements, and what its pattern costs over their bytes.
pub fn scanned(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    let Some(key) = request.get(1) else { return 0 };
    let Ok(options) = Args::new(request, 3).take::<Rest<'_>>().and_then(ScanOptions::read) else { return 0 };
    let elements = whole(db, request);
    let count = elements.min(options.count);
    count.saturating_add(options.cost(db.collection_bytes(key) / elements.max(1) * count))
}

/// All elements of all keys: a union, a difference.
pub fn sum<'k>(db: &Keyspace<'_>, keys: impl Iterator<Item = &'k [u8]>) -> usize {
    keys.map(|key| db.cardinality(key)).sum()
}

/// The smallest of the keys, as often as there are keys: an intersection.
pub fn smallest<'k>(db: &Keyspace<'_>, keys: impl Iterator<Item = &'k [u8]>) -> usize {
    let (count, least) =
        keys.fold((0usize, usize::MAX), |(count, least), key| (count + 1, least.min(db.cardinality(key))));
    count.saturating_mul(least)
}

/// What a copied element takes beside its bytes, in whatever form.
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
