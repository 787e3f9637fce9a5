//! Assembly of a manifest from the places that a checkpoint saw.

use std::collections::BTreeMap;

use dormouse_storage::chunk::SegmentLocation;
use dormouse_storage::effect;
use dormouse_storage::manifest::{ChunkInfo, Manifest, PieceInfo, SegmentInfo, TailInfo};
use dormouse_storage::tail::TailRecord;
use dormouse_types::segment::{Range53, prefix53};

use super::seen::{Visited, Written};

/// A tail is merged with the next older one unless that is larger by more than this factor. So the number of times that
/// a record is rewritten is logarithmic in the amount of data.
const TAIL_GROWTH: u64 = 3;

/// Tails may hold this fraction of all stored data, or this many bytes, before the places that they cover are written
/// whole.
const TAILED_FRACTION: u64 = 8;
const TAILED_BYTES_MIN: u64 = 1 << 20;

/// Chunks of which less than this part (in percent) is used are copied together, when that gains at least so much.
const CHUNK_USED_MIN: u64 = 60;
const CHUNK_GAIN_MIN: u64 = 4 << 20;

/// Visited places by keyspace and the prefix53 that they begin with; none overlaps another.
pub(super) type Seen<'a> = BTreeMap<(u32, u64), &'a Visited>;

/// Of a place that was visited twice, because it merged in between, the last visit counts.
pub(super) fn last_seen(visited: &[Visited]) -> Seen<'_> {
    let mut seen = Seen::new();
    for visited in visited {
        while let Some(key) = overlapping(&seen, visited.keyspace, visited.range) {
            seen.remove(&key);
        }
        seen.insert((visited.keyspace, visited.range.start), visited);
    }
    seen
}

/// The key of some visited place that shares positions with `range`.
fn overlapping(seen: &Seen<'_>, keyspace: u32, range: Range53) -> Option<(u32, u64)> {
    let before = seen.range(..(keyspace, range.end())).next_back()?;
    (before.0.0 == keyspace && before.1.range.end() > range.start).then_some(*before.0)
}

/// Replaces the stored segments that the visited places overlap by those places, and drops keyspaces that are gone.
pub(super) fn replace_segments(manifest: &mut Manifest, seen: &Seen<'_>, chunks: Vec<ChunkInfo>) {
    let first_added = manifest.chunks.len();
    manifest.chunks.extend(chunks);
    let alive = manifest.keyspaces;
    let mut kept = Vec::with_capacity(manifest.segments.len());
    for mut old in std::mem::take(&mut manifest.segments) {
        if !alive.contains(&old.keyspace) {
            continue;
        }
        match overlapping(seen, old.keyspace, old.range).and_then(|key| seen.get(&key)) {
            None => kept.push(old),
            // The body stays; the changes are in the tail.
            Some(visited) if matches!(visited.written, Written::Keys) => {
                old.seen = visited.sequence;
                old.records = visited.records;
                old.expiring = visited.expiring;
                old.heap_bytes = visited.heap_bytes;
                kept.push(old);
            }
            Some(_) => {}
        }
    }
    let is_kept = |visited: &Visited| {
        kept.binary_search_by_key(&(visited.keyspace, visited.range.start), |old: &SegmentInfo| {
            (old.keyspace, old.range.start)
        })
        .is_ok()
    };
    // Pieces of bodies that stay.
    manifest.pieces.retain(|piece| {
        let owner = kept.binary_search_by_key(&piece.owner(), |old: &SegmentInfo| (old.keyspace, old.range.start));
        owner.is_ok()
    });
    let mut added = Vec::new();
    for visited in seen.values().filter(|visited| alive.contains(&visited.keyspace)) {
        let mut segment = SegmentInfo {
            keyspace: visited.keyspace,
            range: visited.range,
            location: SegmentLocation { chunk: 0, offset: 0, len: 0 },
            records: visited.records,
            expiring: visited.expiring,
            heap_bytes: visited.heap_bytes,
            sequence: visited.sequence,
            seen: visited.sequence,
            crc: 0,
        };
        match &visited.written {
            Written::Body { body, pieces } => {
                segment.location = body.location(first_added);
                segment.crc = body.entry.crc;
                manifest.pieces.extend(pieces.iter().map(|piece| PieceInfo {
                    keyspace: visited.keyspace,
                    start: visited.range.start,
                    number: piece.entry.piece,
                    location: piece.location(first_added),
                    crc: piece.entry.crc,
                }));
            }
            Written::Keys if is_kept(visited) => continue,
            Written::Keys => segment.sequence = 0,
            Written::Empty => {}
        }
        added.push(segment);
    }
    kept.append(&mut added);
    manifest.segments = kept;
    manifest.segments.sort_by_key(|segment| (segment.keyspace, segment.range.start));
    manifest.pieces.sort_by_key(|piece| (piece.owner(), piece.number));
}

/// Drops entries that only say that a range is empty, where no reader needs them any more; and all tails, where every
/// place has been written since.
pub(super) fn prune(manifest: &mut Manifest) {
    if !manifest.segments.iter().any(|segment| manifest.is_uncounted(segment)) {
        manifest.uncounted = 0;
    }
    if manifest.segments.iter().all(|segment| segment.seen == segment.sequence) {
        manifest.tails.clear();
        let floor = manifest.sequence;
        manifest.segments.retain(|segment| segment.has_body() || segment.records > 0 || segment.seen > floor);
    }
}

/// Drops all tails if nothing depends on them: each segment of `before` that needed them was written whole since, or
/// its keyspace is gone. New changes are in the tail that comes next.
pub(super) fn drop_superseded_tails(manifest: &mut Manifest, before: &[SegmentInfo]) {
    let is_needed = |old: &SegmentInfo| {
        let segments = manifest.segments_of(old.keyspace);
        let from = segments.partition_point(|segment| segment.range.end() <= old.range.start);
        let now = segments[from..].iter().take_while(|segment| segment.range.start < old.range.end());
        old.seen > old.sequence && now.into_iter().any(|segment| segment.sequence < old.seen)
    };
    if !before.iter().any(is_needed) {
        manifest.tails.clear();
    }
}

/// Whether the tails have outgrown their part of the stored data.
pub(super) fn is_outgrown(manifest: &Manifest) -> bool {
    let tails: u64 = manifest.tails.iter().map(|tail| tail.bytes).sum();
    tails > TAILED_BYTES_MIN.max(manifest.stored_bytes() / TAILED_FRACTION)
}

/// Takes the newest tails out of the manifest, for merging with a new one of about `bytes`.
pub(super) fn tails_to_merge(manifest: &mut Manifest, mut bytes: u64) -> Vec<TailInfo> {
    let mut merged = Vec::new();
    while let Some(last) = manifest.tails.last()
        && last.bytes <= bytes * TAIL_GROWTH
    {
        bytes += last.bytes;
        merged.extend(manifest.tails.pop());
    }
    merged
}

/// Leaves out records that some segment's body has already, that belong to no keyspace any more, or that a newer record
/// of the same key makes superfluous.
pub(super) fn needed_only(manifest: &Manifest, records: &mut Vec<TailRecord>) {
    records.retain(|record| {
        let segment = manifest.segment(record.keyspace, prefix53(record.position));
        manifest.keyspaces.contains(&record.keyspace)
            && segment.is_some_and(|segment| segment.sequence < record.sequence)
    });
    records.sort_by_key(|record| (record.keyspace, record.position, record.sequence));
    let superseded = |record: &TailRecord, next: &TailRecord| {
        let key = effect::absolute_key(&next.body);
        (record.keyspace, record.position) == (next.keyspace, next.position)
            && key.is_some()
            && effect::absolute_key(&record.body) == key
    };
    let keep: Vec<bool> =
        (0..records.len()).map(|at| !records.get(at + 1).is_some_and(|next| superseded(&records[at], next))).collect();
    let mut keep = keep.into_iter();
    records.retain(|_| keep.next().unwrap_or(true));
}

/// The chunks, by their place in the manifest, whose segments are to be copied into new ones because too little of them
/// is used.
pub(super) fn sparse_chunks(manifest: &Manifest) -> Vec<u32> {
    let mut used = vec![0u64; manifest.chunks.len()];
    for location in manifest.locations() {
        used[location.chunk as usize] += location.len;
    }
    let is_sparse = |at: &usize| used[*at] * 100 < manifest.chunks[*at].bytes * CHUNK_USED_MIN;
    let sparse: Vec<usize> = (0..used.len()).filter(|at| used[*at] > 0).filter(is_sparse).collect();
    let gain: u64 = sparse.iter().map(|&at| manifest.chunks[at].bytes - used[at]).sum();
    if gain < CHUNK_GAIN_MIN { Vec::new() } else { sparse.into_iter().map(|at| at as u32).collect() }
}

#[cfg(test)]
mod tests;
