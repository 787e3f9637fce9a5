//! One visit: the changes in one place, encoded under its shard's lock.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_storage::codec::segment::RawSegment;
use dormouse_storage::codec::value::pieces::{Sizes, is_large};
use dormouse_storage::effect;
use dormouse_storage::manifest::Manifest;
use dormouse_storage::tail::TailRecord;
use dormouse_types::record::{Record, Value};
use dormouse_types::segment::{Placement, Range53, Segment, SlotPlacement};

use super::large::Large;
use super::seen::{Visited, Written};
use crate::database::Database;
use crate::error::Result;
use crate::keyspace::place::{Dirty, Place};
use crate::shard::{HeldShard, ShardGate};

/// A place with fewer records for each changed key is written whole.
const RECORDS_PER_KEY_MIN: usize = 8;
/// Changed keys with more than one part in so many of a place's bytes are not written apart from the rest.
const BYTES_FRACTION: usize = 4;
/// Room that is made ahead for the records of a place. Large values do not take any of it.
const ROOM_MAX: usize = 4 << 20;

/// The contents found in a place.
pub(super) enum Contents {
    /// All records but those with large values, which remember this moment.
    Body(RawSegment, Vec<Large>),
    Keys(Vec<TailRecord>),
    Empty,
}

/// Large values that a visit takes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AtOnce {
    Nothing,
    /// Texts and documents of JSON, which remember nothing.
    Runs,
    Everything,
}

/// The way in which a checkpoint looks at places.
#[derive(Clone)]
pub(super) struct Look {
    /// What the store has.
    pub before: Option<Arc<Manifest>>,
    /// The tail has grown enough.
    pub whole: bool,
    /// Values that are taken at once rather than in steps.
    pub at_once: AtOnce,
}

impl Look {
    /// Whether the changes in a place may go into the tail: the store has exactly this range, or nothing of it.
    fn in_tail(&self, keyspace: u32, range: Range53) -> bool {
        self.before.as_ref().is_none_or(|manifest| fits_stored(manifest, keyspace, range))
    }
}

impl Database {
    /// Visits the next dirty place of one keyspace in one shard, from prefix53 `from` on: it is clean from here on.
    /// Returns the visit, the contents to write, and where to go on.
    ///
    /// # Errors
    /// When the process ends.
    pub(super) async fn visit(
        self: &Arc<Self>,
        gate: &ShardGate,
        keyspace: u32,
        from: u64,
        look: Look,
    ) -> Result<Option<(Visited, Contents, u64)>> {
        let database = Arc::clone(self);
        self.under(vec![Arc::clone(gate)], move |held| database.see(held.first()?, keyspace, from, &look)).await
    }

    /// The same under the lock.
    pub(super) fn see(
        &self,
        held: &HeldShard,
        keyspace: u32,
        from: u64,
        look: &Look,
    ) -> Option<(Visited, Contents, u64)> {
        let mut contents = held.contents();
        let from = from.max(u64::from(contents.first_slot) << 39);
        if from >= u64::from(contents.end_slot) << 39 {
            return None;
        }
        let placement = contents.placement;
        let place = contents.by_id(keyspace)?.next_dirty(from)?;
        let sequence = self.shared.sequence.load(Ordering::SeqCst);
        let dirty = std::mem::take(&mut place.dirty);
        let sizes = self.shared.settings.load().sizes;
        let found = match dirty {
            Dirty::Keys(keys) if !look.whole && look.in_tail(keyspace, place.range) => {
                changed(place, place.segment()?, keyspace, sequence, &keys, &sizes)
            }
            _ => None,
        };
        let room = place.resident_bytes();
        let found = match (found, place.segment_mut()?) {
            (Some(found), _) => found,
            (None, segment) if segment.is_empty() => Contents::Empty,
            (None, segment) => whole(segment, room, &placement, &sizes, look.at_once),
        };
        let place: &Place = place;
        let segment = place.segment()?;
        let visited = Visited {
            keyspace,
            range: place.range,
            sequence,
            records: segment.len() as u32,
            expiring: place.expiring,
            heap_bytes: place.resident_bytes() as u64,
            written: if matches!(found, Contents::Keys(_)) { Written::Keys } else { Written::Empty },
        };
        Some((visited, found, place.range.end()))
    }
}

/// All records of a place.
fn whole(
    segment: &mut Segment<Record>,
    room: usize,
    placement: &SlotPlacement,
    sizes: &Sizes,
    at_once: AtOnce,
) -> Contents {
    let mut raw = RawSegment::new(room.min(ROOM_MAX));
    let mut keys: Vec<Box<[u8]>> = Vec::new();
    for record in segment.iter() {
        match record.value() {
            Value::Object(object) if is_large(object, sizes) => keys.push(record.key().into()),
            _ => raw.push(record),
        }
    }
    let mut large = Vec::with_capacity(keys.len());
    for key in keys {
        let position = placement.position(&key);
        let Some(record) = segment.get_mut(position, &key) else { continue };
        match Large::begin(record, position, sizes) {
            Some(mut begun) => {
                if at_once == AtOnce::Everything || at_once == AtOnce::Runs && begun.is_run() {
                    begun.take_at_once(record, sizes);
                }
                large.push(begun);
            }
            None => raw.push(record),
        }
    }
    Contents::Body(raw, large)
}

/// The present values of the changed keys, if those are few and small.
fn changed(
    place: &Place,
    segment: &Segment<Record>,
    keyspace: u32,
    sequence: u64,
    keys: &[(u64, Box<[u8]>)],
    sizes: &Sizes,
) -> Option<Contents> {
    if keys.len() * RECORDS_PER_KEY_MIN > segment.len() {
        return None;
    }
    let mut left = place.bytes / BYTES_FRACTION;
    let mut records = Vec::with_capacity(keys.len());
    for (position, key) in keys {
        let record = segment.get(*position, key);
        if record.is_some_and(|record| matches!(record.value(), Value::Object(object) if is_large(object, sizes))) {
            return None;
        }
        left = left.checked_sub(record.map_or(0, dormouse_types::record::Entry::heap_bytes))?;
        let mut body = Vec::new();
        match record {
            Some(record) => effect::value(&mut body, record),
            None => effect::delete(&mut body, key),
        }
        records.push(TailRecord { sequence, now_ms: 0, keyspace, position: *position, body: body.into() });
    }
    Some(Contents::Keys(records))
}

/// Whether the store has exactly this range as a segment, or nothing of it: then its changes can go into the tail.
fn fits_stored(manifest: &Manifest, keyspace: u32, range: Range53) -> bool {
    let segments = manifest.segments_of(keyspace);
    let from = segments.partition_point(|segment| segment.range.end() <= range.start);
    match segments.get(from) {
        Some(segment) if segment.range.start < range.end() => segment.range == range,
        _ => true,
    }
}
