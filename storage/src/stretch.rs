//! Stretches: what a database's history keeps of the time between two checkpoints.
//!
//! 1. A stretch has a *base*, the manifest at which it begins, and all entries of the log from there on to the next
//!    checkpoint that kept the history ([`crate::manifest::Timeline`]).
//! 2. The database at a moment is the base with the entries up to that moment. They are dealt out to the segments as after
//!    a crash ([`LogTail`]): each gets those that it has not seen, as a tail. So a branch of a moment is made without
//!    reading any data, and its places are replayed when they are loaded.
//! 3. The counts of these segments are known only then: [`Manifest::uncounted`]. Until then they have the number of keys
//!    that the base had, or where the base had none, of those that changed.
//!
//! The entries up to a moment go on to the first one that is younger: one behind it that is older was made by a command
//! that had waited, or after the clock was set back. They go at least up to the base's cut, as the base shows no earlier
//! moment.
//!
//! ```text
//! +----------------+ 0
//! | "DMHIST\n\n"   | 8 bytes
//! | format version | u32 LE, 1
//! +----------------+ 12
//! | base           | a sealed block: a manifest as an object
//! +----------------+
//! | block          | a sealed block of entries:
//! | ...            |   kind u8, as in the log | sequence varint | now ms varint, both as signed differences to the entry
//! |                |   before in the block | items length varint | items, as in the log
//! +----------------+ index offset
//! | index          | a sealed block: length of the base varint, its checksum u64 LE, count varint, then for each block
//! |                |   length varint | entries varint | checksum u64 LE
//! +----------------+ trailer
//! | index length   | u64 LE
//! | "DMHEND\n\n"   | 8 bytes
//! +----------------+
//! ```

use bytes::Bytes;
use dormouse_types::segment::Range53;

use crate::chunk::SegmentLocation;
use crate::codec::block::{open, seal_into, stored_checksum};
use crate::codec::reader::{write_bytes, write_varint, write_zigzag};
use crate::codec::{CodecError, HEADER_BYTES, Reader, read_header, read_trailer, write_header, write_trailer};
use crate::log::format::EntryKind;
use crate::log::recovery::{Entries, LogEntry};
use crate::log::tail::LogTail;
use crate::manifest::{Manifest, SegmentInfo};
use crate::store::{Store, StoreError};
use crate::tail::TailRecord;

const MAGIC: &[u8; 8] = b"DMHIST\n\n";
const END_MAGIC: &[u8; 8] = b"DMHEND\n\n";
const VERSION: u32 = 1;

/// Raw bytes after which a block ends.
const BLOCK_BYTES: usize = 256 << 10;

const ENTRY_BYTES_MIN: usize = 4;
const INDEX_ENTRY_BYTES_MIN: usize = 10;

/// A range that no stored segment covers is halved until it has no more effects than this: they are replayed together.
const GAP_EFFECTS_MAX: usize = 2048;

/// The contents of a stretch.
#[derive(Debug, Clone)]
pub struct StretchContents {
    pub base: Manifest,
    /// In the order of their sequence numbers, all of them beyond the base's.
    pub entries: Vec<LogEntry>,
}

/// A database at a moment of a stretch.
#[derive(Debug)]
pub struct MomentContents {
    /// Its manifest, but for the tail that has `changes`.
    pub manifest: Manifest,
    pub changes: Vec<TailRecord>,
}

impl StretchContents {
    /// Reads a stretch from the store.
    ///
    /// # Errors
    /// When it is missing or damaged; the text names the object.
    pub async fn read(store: &Store, name: &str) -> Result<Self, StoreError> {
        let object = store.get(name).await?;
        Self::decode(&object).map_err(|error| StoreError::corrupt(name, error))
    }

    /// The object.
    pub fn encode(&self) -> Bytes {
        let mut object = Vec::new();
        write_header(&mut object, MAGIC, VERSION);
        let mut index = Vec::new();
        let (len, crc) = seal_block(&self.base.encode(), &mut object);
        write_varint(&mut index, len);
        index.extend_from_slice(&crc.to_le_bytes());
        let mut blocks: Vec<(u64, u64, u64)> = Vec::new();
        let mut raw = Vec::new();
        let mut rest = &self.entries[..];
        while !rest.is_empty() {
            raw.clear();
            let (mut count, mut before) = (0, (0, 0));
            while let Some(entry) = rest.get(count).filter(|_| raw.len() < BLOCK_BYTES) {
                write_entry(&mut raw, entry, before);
                before = (entry.sequence, entry.now_ms);
                count += 1;
            }
            let (len, crc) = seal_block(&raw, &mut object);
            blocks.push((len, count as u64, crc));
            rest = &rest[count..];
        }
        write_varint(&mut index, blocks.len() as u64);
        for (len, count, crc) in blocks {
            write_varint(&mut index, len);
            write_varint(&mut index, count);
            index.extend_from_slice(&crc.to_le_bytes());
        }
        write_trailer(&mut object, &index, END_MAGIC);
        object.into()
    }

    /// # Errors
    /// When the bytes are not what [`Self::encode`] makes.
    pub fn decode(object: &Bytes) -> Result<Self, CodecError> {
        read_header(&mut Reader::new(object), MAGIC, "stretch of history", VERSION)?;
        let range = read_trailer(object, object.len() as u64, END_MAGIC, "complete stretch of history")?;
        // The whole object is here, so the index is inside it.
        let raw = open(&object[range.start as usize..range.end as usize])?;
        let mut index = Reader::new(&raw);
        let mut offset = HEADER_BYTES as u64;
        let mut block = |len: u64, crc: u64| {
            let end = offset.checked_add(len).filter(|end| *end <= range.start);
            let end = end.ok_or(CodecError::Malformed("block beyond the end"))?;
            let bytes = object.slice(offset as usize..end as usize);
            let stored = stored_checksum(&bytes);
            offset = end;
            if stored == crc { Ok(bytes) } else { Err(CodecError::Checksum { stored, computed: crc }) }
        };
        let base = block(index.varint()?, index.u64_le()?)?;
        let base = Manifest::decode(&open(&base)?)?;
        let mut entries: Vec<LogEntry> = Vec::new();
        let mut last = base.sequence;
        for _ in 0..index.count(INDEX_ENTRY_BYTES_MIN)? {
            let (len, count, crc) = (index.varint()?, index.varint()?, index.u64_le()?);
            let raw = Bytes::from(open(&block(len, crc)?)?.into_owned());
            let mut reader = Reader::new(&raw);
            let count = reader.check_count(count, ENTRY_BYTES_MIN)?;
            entries.reserve(count);
            let mut before = (0, 0);
            for _ in 0..count {
                let entry = read_entry(&mut reader, &raw, before)?;
                if entry.sequence <= last {
                    return Err(CodecError::Malformed("entries out of order"));
                }
                before = (entry.sequence, entry.now_ms);
                last = entry.sequence;
                entries.push(entry);
            }
            reader.finish()?;
        }
        index.finish()?;
        if offset != range.start {
            return Err(CodecError::Malformed("gap between blocks and index"));
        }
        Ok(Self { base, entries })
    }

    /// Adds the entries of a later checkpoint. Those that are here already are left out.
    pub fn extend(&mut self, later: Vec<LogEntry>) {
        let last = self.entries.last().map_or(self.base.sequence, |entry| entry.sequence);
        self.entries.extend(later.into_iter().filter(|entry| entry.sequence > last));
    }

    /// The number of entries up to a moment, unix milliseconds.
    fn until(&self, at_ms: u64) -> usize {
        let shown = self.entries.partition_point(|entry| entry.sequence <= self.base.cut);
        shown + self.entries[shown..].iter().take_while(|entry| entry.now_ms <= at_ms).count()
    }

    /// The database at a moment, unix milliseconds. Segments that no logical index showed then are left out.
    ///
    /// # Errors
    /// A text that says what is missing or malformed.
    pub fn at(self, at_ms: u64) -> Result<MomentContents, String> {
        let count = self.until(at_ms);
        let Self { base: mut manifest, mut entries } = self;
        entries.truncate(count);
        let floor = manifest.sequence;
        let log = LogTail::new(Entries { entries, damage: None }, floor, manifest.cut)?;
        if let Some(shown) = log.shown {
            (manifest.keyspaces, manifest.followed, manifest.next_keyspace) = (shown.ids, shown.followed, shown.next);
        }
        let shown = manifest.keyspaces;
        manifest.segments.retain(|segment| shown.contains(&segment.keyspace));
        manifest.pieces.retain(|piece| shown.contains(&piece.keyspace));
        let uncounted = manifest.uncounted;
        // No segment has seen this number before, and the database goes on beyond it: so the segments whose counts are
        // unknown can be told from all others.
        let mark = log.sequence.saturating_add(1);
        let (mut changes, mut added) = (Vec::new(), Vec::new());
        for keyspace in shown {
            cover_gaps(Range53::WHOLE, keyspace, manifest.segments_of(keyspace), &log, &mut added);
        }
        manifest.segments.append(&mut added);
        manifest.segments.sort_by_key(|segment| (segment.keyspace, segment.range.start));
        for segment in &mut manifest.segments {
            // A segment without a later stamp has seen everything up to the manifest's number.
            let effects = log.effects(segment.keyspace, segment.range, segment.seen.max(floor));
            if !effects.is_empty() || uncounted != 0 && segment.seen == uncounted {
                segment.seen = mark;
                changes.extend(effects);
            }
        }
        manifest.uncounted = if changes.is_empty() && uncounted == 0 { 0 } else { mark };
        manifest.sequence = mark.saturating_add(1);
        manifest.cut = manifest.sequence;
        Ok(MomentContents { manifest, changes })
    }
}

/// Adds segments without a body for effects that no stored segment covers. `segments`: those of the keyspace that overlap
/// `range` or may do so.
fn cover_gaps(range: Range53, keyspace: u32, segments: &[SegmentInfo], log: &LogTail, added: &mut Vec<SegmentInfo>) {
    let from = segments.partition_point(|segment| segment.range.end() <= range.start);
    let len = segments[from..].partition_point(|segment| segment.range.start < range.end());
    let segments = &segments[from..from + len];
    if segments.first().is_some_and(|segment| segment.range.bits >= range.bits) || !log.touches(keyspace, range) {
        return;
    }
    if segments.is_empty() && (range.bits == 0 || log.count_of(keyspace, range) <= GAP_EFFECTS_MAX) {
        added.push(SegmentInfo {
            keyspace,
            range,
            location: SegmentLocation { chunk: 0, offset: 0, len: 0 },
            records: log.positions(keyspace, range) as u32,
            expiring: 0,
            heap_bytes: 0,
            sequence: 0,
            seen: 0,
            crc: 0,
        });
        return;
    }
    let (low, high) = range.halves();
    cover_gaps(low, keyspace, segments, log, added);
    cover_gaps(high, keyspace, segments, log, added);
}

/// Appends a sealed block; returns its length and checksum.
fn seal_block(raw: &[u8], object: &mut Vec<u8>) -> (u64, u64) {
    let start = object.len();
    seal_into(raw, object);
    ((object.len() - start) as u64, stored_checksum(object))
}

fn write_entry(out: &mut Vec<u8>, entry: &LogEntry, (sequence, now_ms): (u64, u64)) {
    out.push(match entry.kind {
        EntryKind::Effects => 0,
        EntryKind::Resume => 1,
        // No history goes on after it.
        EntryKind::Gone => 2,
        EntryKind::Continue => 3,
    });
    write_zigzag(out, entry.sequence.wrapping_sub(sequence) as i64);
    write_zigzag(out, entry.now_ms.wrapping_sub(now_ms) as i64);
    write_bytes(out, &entry.items);
}

fn read_entry(reader: &mut Reader<'_>, raw: &Bytes, (sequence, now_ms): (u64, u64)) -> Result<LogEntry, CodecError> {
    let kind = match reader.u8()? {
        0 => EntryKind::Effects,
        1 => EntryKind::Resume,
        3 => EntryKind::Continue,
        _ => return Err(CodecError::Malformed("kind of entry")),
    };
    let sequence = sequence.wrapping_add(reader.zigzag()? as u64);
    let now_ms = now_ms.wrapping_add(reader.zigzag()? as u64);
    Ok(LogEntry { sequence, now_ms, kind, items: raw.slice_ref(reader.bytes()?) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::tests::for_each_damage;
    use crate::log::format::{write_effect, write_ids};
    use crate::shown::{Shown, first_ids};

    const SEED: u64 = 7;

    fn entry(sequence: u64, now_ms: u64, positions: &[u64]) -> LogEntry {
        let mut items = Vec::new();
        for position in positions {
            write_effect(&mut items, 0, *position, |body| body.extend_from_slice(&sequence.to_le_bytes()));
        }
        LogEntry { sequence, now_ms, kind: EntryKind::Effects, items: items.into() }
    }

    /// A base that has seen entry 10 in one half, and 12 in the other, of a checkpoint with the cut 12.
    fn base() -> Manifest {
        let mut base = Manifest::new("a", SEED, 1, 1000);
        (base.number, base.sequence, base.cut) = (4, 10, 12);
        base.tails.push(crate::manifest::TailInfo {
            name: "db/a/tail/1".into(),
            bytes: 9,
            effects: 1,
            from_sequence: 3,
        });
        let (low, high) = Range53::WHOLE.halves();
        for (range, seen) in [(low, 10), (high.halves().0, 12)] {
            let location = SegmentLocation { chunk: 0, offset: 0, len: 0 };
            let (keyspace, records, expiring, heap_bytes, sequence, crc) = (0, 5, 0, 0, 2, 0);
            base.segments.push(SegmentInfo {
                keyspace,
                range,
                location,
                records,
                expiring,
                heap_bytes,
                sequence,
                seen,
                crc,
            });
        }
        base
    }

    /// Entry 11 is on both halves, later ones on the low half, and 15 beyond all segments.
    fn contents() -> StretchContents {
        let (low, high, last) = (1 << 60, 9 << 60, 15 << 60);
        let entries = vec![
            entry(11, 5000, &[low, high]),
            entry(12, 5001, &[low]),
            entry(13, 5002, &[low]),
            entry(14, 5010, &[low]),
            entry(15, 5005, &[last]),
            entry(16, 6000, &[low, high]),
        ];
        StretchContents { base: base(), entries }
    }

    fn effects(at: &MomentContents) -> Vec<(u64, u64)> {
        at.changes.iter().map(|change| (change.sequence, change.position >> 60)).collect()
    }

    #[test]
    fn the_effects_up_to_a_moment_are_those_that_segments_have_not_seen() {
        for (at_ms, sequence, expected) in [
            // The base shows no earlier moment.
            (0, 12, &[(11, 1), (12, 1)][..]),
            (5001, 12, &[(11, 1), (12, 1)]),
            (5002, 13, &[(11, 1), (12, 1), (13, 1)]),
            // The 14th entry is younger, and the 15th came after it.
            (5005, 13, &[(11, 1), (12, 1), (13, 1)]),
            (5010, 15, &[(11, 1), (12, 1), (13, 1), (14, 1), (15, 15)]),
            (5999, 15, &[(11, 1), (12, 1), (13, 1), (14, 1), (15, 15)]),
            (u64::MAX, 16, &[(11, 1), (12, 1), (13, 1), (14, 1), (16, 1), (16, 9), (15, 15)]),
        ] {
            let at = contents().at(at_ms).unwrap();
            assert_eq!(effects(&at), expected, "at {at_ms}");
            assert_eq!((at.manifest.sequence, at.manifest.cut), (sequence + 2, sequence + 2));
            assert_eq!(at.manifest.uncounted, sequence + 1);
            at.manifest.check().unwrap();
            let uncounted = at.manifest.segments.iter().filter(|segment| at.manifest.is_uncounted(segment)).count();
            let touched: std::collections::BTreeSet<u64> = expected.iter().map(|(_, position)| *position).collect();
            assert_eq!(uncounted, touched.len(), "at {at_ms}");
        }
    }

    #[test]
    fn a_flush_is_part_of_the_moment_that_it_was_made_at() {
        let mut contents = contents();
        let mut ids = first_ids();
        ids[0] = 40;
        let mut items = Vec::new();
        write_ids(&mut items, &Shown { ids, followed: 0, next: 41 });
        contents.entries.push(LogEntry { sequence: 17, now_ms: 7000, kind: EntryKind::Effects, items: items.into() });
        assert_eq!(contents.clone().at(6999).unwrap().manifest.keyspaces, first_ids());
        let flushed = contents.at(7000).unwrap();
        assert_eq!((flushed.manifest.keyspaces, flushed.manifest.next_keyspace), (ids, 41));
        assert!(flushed.manifest.segments.is_empty() && flushed.changes.is_empty());
    }

    #[test]
    fn what_was_not_logged_ends_a_stretch() {
        let mut contents = contents();
        contents.entries.push(LogEntry { kind: EntryKind::Resume, ..entry(17, 7000, &[]) });
        contents.entries.push(entry(18, 7001, &[1 << 60]));
        assert_eq!(contents.clone().at(8000).unwrap().manifest.sequence, 18);
        contents.entries.remove(2);
        assert_eq!(contents.at(8000).unwrap_err(), "the log lacks writes 13 to 13");
    }

    #[test]
    fn many_effects_beside_all_segments_are_divided() {
        let mut contents = StretchContents { base: Manifest::new("a", SEED, 1, 1000), entries: Vec::new() };
        for sequence in 1..=10_000u64 {
            contents.entries.push(entry(sequence, sequence, &[sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15)]));
        }
        let at = contents.at(9000).unwrap();
        assert_eq!((at.changes.len(), at.manifest.segments.len()), (9000, 8));
        assert_eq!(at.manifest.segments.iter().map(|segment| segment.records).sum::<u32>(), 9000);
        at.manifest.check().unwrap();
    }

    #[test]
    fn a_stretch_survives_and_grows() {
        let mut stretch = contents();
        stretch.extend(vec![entry(16, 6000, &[]), entry(17, 6001, &[1])]);
        let read = StretchContents::decode(&stretch.encode()).unwrap();
        assert_eq!(read.base, stretch.base);
        let fields = |entry: &LogEntry| (entry.sequence, entry.now_ms, entry.kind, entry.items.clone());
        let all = |of: &StretchContents| of.entries.iter().map(fields).collect::<Vec<_>>();
        assert_eq!(all(&read), all(&stretch));
        assert_eq!(read.entries.last().unwrap().sequence, 17);
    }

    #[test]
    fn damage_is_an_error() {
        let object = contents().encode();
        for_each_damage(&object, |damaged| StretchContents::decode(&damaged.to_vec().into()).is_err());
    }
}
