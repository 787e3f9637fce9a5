//! Checks of chunks and tails against the manifest.

use bytes::Bytes;
use dormouse_storage::chunk::{ChunkEntry, ChunkIndex, SegmentLocation};
use dormouse_storage::codec::block::{stored_checksum, verify};
use dormouse_storage::codec::segment::decode_body;
use dormouse_storage::effect::{self, EffectBody};
use dormouse_storage::manifest::{PieceInfo, SegmentInfo, TailInfo};
use dormouse_storage::store::{Store, StoreError};
use dormouse_storage::tail::Tail;
use dormouse_types::Limits;
use dormouse_types::segment::{PREFIX_BITS, Placement, Range53, SLOT_BITS, SlotPlacement};

/// A defect in a part of an object.
pub(super) struct Fault {
    pub what: String,
    /// The place that the keys belong to.
    pub place: Option<String>,
    /// Keys or effects of the newest manifest that cannot be read because of it.
    pub keys: u64,
}

/// A body that some manifest names, or a piece of a value that belongs to it.
pub(super) struct Wanted {
    pub segment: SegmentInfo,
    pub piece: Option<PieceInfo>,
    /// The newest manifest shows it.
    pub is_current: bool,
}

impl Wanted {
    /// The segment's location.
    pub fn location(&self) -> SegmentLocation {
        self.piece.map_or(self.segment.location, |piece| piece.location)
    }

    fn fault(&self, what: String) -> Fault {
        let SegmentInfo { keyspace, range, records, .. } = self.segment;
        let place = Some(format!("keyspace {keyspace}, {}", slots(range)));
        Fault { what, place, keys: if self.is_current { u64::from(records) } else { 0 } }
    }
}

/// The slots that a range belongs to.
fn slots(range: Range53) -> String {
    let slot = |prefix: u64| prefix >> (PREFIX_BITS - SLOT_BITS);
    match (slot(range.start), slot(range.end() - 1)) {
        (first, last) if first == last => format!("in slot {first}"),
        (first, last) => format!("slots {first} to {last}"),
    }
}

/// An object, or the reason why none of it can be read.
///
/// # Errors
/// When the store cannot be asked.
async fn read(store: &Store, name: &str) -> Result<Result<Bytes, String>, StoreError> {
    match store.get(name).await {
        Ok(bytes) => Ok(Ok(bytes)),
        Err(StoreError::Missing { .. }) => Ok(Err("missing from the store".to_owned())),
        Err(error) => Err(error),
    }
}

/// Checks a chunk and every body in it, also those that no manifest names any more.
pub(super) async fn check_chunk(
    store: &Store,
    name: &str,
    length: u64,
    wanted: &[Wanted],
    placement: &SlotPlacement,
) -> Result<Vec<Fault>, StoreError> {
    let keys = wanted.iter().filter(|wanted| wanted.is_current).map(|wanted| u64::from(wanted.segment.records)).sum();
    let chunk = match read(store, name).await? {
        Ok(chunk) => chunk,
        Err(what) => return Ok(vec![Fault { what, place: Some(format!("{} segments", wanted.len())), keys }]),
    };
    let mut faults = Vec::new();
    if chunk.len() as u64 != length {
        let what = format!("it is {} bytes long, and was written with {length}", chunk.len());
        faults.push(Fault { what, place: None, keys: 0 });
    }
    let entries = match ChunkIndex::of_chunk(&chunk) {
        Ok(index) => Some(index.entries),
        Err(error) => {
            faults.push(Fault { what: format!("its index cannot be read: {error}"), place: None, keys: 0 });
            None
        }
    };
    for wanted in wanted {
        let offset = wanted.location().offset;
        let entry = entries.as_ref().map(|entries| entries.iter().find(|entry| entry.offset == offset));
        let fault = match &wanted.piece {
            None => body_fault(&chunk, &wanted.segment, entry, placement),
            Some(piece) => piece_fault(&chunk, &wanted.segment, piece, entry),
        };
        faults.extend(fault.map(|what| wanted.fault(what)));
    }
    let is_unneeded = |entry: &&ChunkEntry| !wanted.iter().any(|wanted| wanted.location().offset == entry.offset);
    for entry in entries.iter().flatten().filter(is_unneeded) {
        let body = &chunk[entry.offset as usize..(entry.offset + entry.len) as usize];
        if let Err(error) = verify(body) {
            let what = format!("the body at byte {}, which nobody needs: {error}", entry.offset);
            faults.push(Fault { what, place: None, keys: 0 });
        }
    }
    Ok(faults)
}

/// The defect of a segment's body. `entry`: the index's, where it could be read.
fn body_fault(
    chunk: &[u8],
    segment: &SegmentInfo,
    entry: Option<Option<&ChunkEntry>>,
    placement: &SlotPlacement,
) -> Option<String> {
    let (start, end) = (segment.location.offset, segment.location.offset.checked_add(segment.location.len)?);
    let at = format!("the body at byte {start}");
    let Some(body) = chunk.get(start as usize..end as usize) else {
        return Some(format!("{at} ends beyond the object's end"));
    };
    if stored_checksum(body) != segment.crc {
        return Some(format!("{at} has another checksum than the manifest says"));
    }
    let found = match decode_body(body, placement, &Limits::default(), segment.range) {
        Ok(found) => found,
        Err(error) => return Some(format!("{at}: {error}")),
    };
    let records = (found.segment.len() + found.in_pieces.len()) as u64;
    let is_whole = segment.seen == segment.sequence;
    if is_whole && records != u64::from(segment.records) {
        return Some(format!("{at} has {records} records, and the manifest says {}", segment.records));
    }
    match entry {
        None => None,
        Some(None) => Some(format!("{at} is not in the chunk's index")),
        Some(Some(entry)) => {
            let same = (entry.keyspace, entry.range, entry.len, entry.crc, entry.piece)
                == (segment.keyspace, segment.range, segment.location.len, segment.crc, 0);
            if !same {
                return Some(format!("{at} is another segment by the chunk's index than by the manifest"));
            }
            let counted = u64::from(entry.records) == records;
            (!counted).then(|| format!("{at} has {records} records, and the chunk's index says {}", entry.records))
        }
    }
}

/// The defect of a piece of a value.
fn piece_fault(
    chunk: &[u8],
    segment: &SegmentInfo,
    piece: &PieceInfo,
    entry: Option<Option<&ChunkEntry>>,
) -> Option<String> {
    let SegmentLocation { offset, len, .. } = piece.location;
    let at = format!("piece {} at byte {offset}", piece.number);
    let Some(bytes) = chunk.get(offset as usize..offset.checked_add(len)? as usize) else {
        return Some(format!("{at} ends beyond the object's end"));
    };
    if stored_checksum(bytes) != piece.crc {
        return Some(format!("{at} has another checksum than the manifest says"));
    }
    if let Err(error) = verify(bytes) {
        return Some(format!("{at}: {error}"));
    }
    match entry {
        None => None,
        Some(None) => Some(format!("{at} is not in the chunk's index")),
        Some(Some(entry)) => {
            let same = (entry.keyspace, entry.range, entry.len, entry.crc, entry.piece)
                == (segment.keyspace, segment.range, len, piece.crc, piece.number);
            (!same).then(|| format!("{at} is another one by the chunk's index than by the manifest"))
        }
    }
}

/// Checks a tail and every effect in it.
pub(super) async fn check_tail(
    store: &Store,
    info: &TailInfo,
    is_current: bool,
    placement: &SlotPlacement,
) -> Result<Vec<Fault>, StoreError> {
    let fault = |what: String, keys: u64| Fault { what, place: None, keys: if is_current { keys } else { 0 } };
    let object = match read(store, &info.name).await? {
        Ok(object) => object,
        Err(what) => return Ok(vec![fault(what, info.effects)]),
    };
    let length = object.len() as u64;
    let tail = match Tail::decode(&info.name, object) {
        Ok(tail) => tail,
        Err(error) => return Ok(vec![fault(error.to_string(), info.effects)]),
    };
    let mut faults = Vec::new();
    if length != info.bytes {
        faults.push(fault(format!("it is {length} bytes long, and was written with {}", info.bytes), 0));
    }
    if tail.len() != info.effects {
        faults.push(fault(format!("it has {} effects, and the manifest says {}", tail.len(), info.effects), 0));
    }
    match tail.verify().and_then(|()| tail.all()) {
        Err(StoreError::Corrupt { problem, .. }) => faults.push(fault(problem, info.effects)),
        Err(error) => faults.push(fault(error.to_string(), info.effects)),
        Ok(effects) => {
            let wrong = effects.iter().find_map(|effect| {
                Some((malformed_effect(effect.position, &effect.body, placement)?, effect.sequence))
            });
            if let Some((what, sequence)) = wrong {
                faults.push(fault(format!("write {sequence}: {what}"), 1));
            }
        }
    }
    Ok(faults)
}

/// The defect of an effect, if it has one.
pub(super) fn malformed_effect(position: u64, body: &[u8], placement: &SlotPlacement) -> Option<&'static str> {
    let key = match effect::read(body) {
        None => return Some("an effect that cannot be read"),
        Some(EffectBody::Command(_) | EffectBody::Kept(_) | EffectBody::Told(_)) => return None,
        Some(
            EffectBody::Delete { key }
            | EffectBody::Value { key, .. }
            | EffectBody::Expiry { key, .. }
            | EffectBody::Repeated { key },
        ) => key,
    };
    (placement.position(&key) != position).then_some("an effect at another key's place")
}
