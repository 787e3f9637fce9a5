//! The image of a database: its newest manifest with what the log has beyond it, so that no log is needed to read it.
//!
//! The log's effects become one more tail. A segment that has some of them has *seen* them from then on; where there is no
//! segment, one without a body is added. Keys are not counted: of a segment with new effects, the image has the numbers of
//! keys that the manifest had, or of a new one the number of keys that changed. So whoever restores an image counts again
//! ([`DatabaseImage::is_counted`]).

use std::sync::Arc;

use bytes::Bytes;
use dormouse_types::segment::{PREFIX_BITS, Range53, SLOT_BITS};

use crate::chunk::SegmentLocation;
use crate::log::format::Identity;
use crate::log::recovery::Recovered;
use crate::log::tail::LogTail;
use crate::manifest::{self, Manifest, Names, PagedManifest, SegmentInfo, TailInfo};
use crate::shown::NO_KEYSPACE;
use crate::store::{Store, StoreError};
use crate::tail::{TailRecord, encode_tail};

use super::format::ImageOrigin;

/// A range without segments is divided until each part has no more effects than this, as each is loaded as a whole.
const EFFECTS_MAX: usize = 1000;

/// Attempts to read a manifest while newer ones are committed.
const READ_ATTEMPTS: usize = 8;

/// A database at one moment.
#[derive(Debug)]
pub struct DatabaseImage {
    pub manifest: Manifest,
    /// The tail that it has beside those of the store, by its name in the manifest.
    pub tail: Option<(String, Bytes)>,
    pub origin: ImageOrigin,
}

/// The newest manifest of a database, and the effects beyond it.
#[derive(Debug)]
pub(super) struct Newest {
    paged: PagedManifest,
    log: LogTail,
}

/// Why a database cannot be read now.
#[derive(Debug)]
pub(super) enum Unreadable {
    Store(StoreError),
    /// The log and the manifest do not fit together; perhaps because one was read before the other.
    Log(String),
}

impl From<StoreError> for Unreadable {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The newest manifest of a database as it is now, whatever its server deletes from now on. `None`: it has none.
pub(super) async fn read_manifest(store: &Store, database: &str) -> Result<Option<PagedManifest>, StoreError> {
    let mut attempts = 0;
    loop {
        let Some(paged) = manifest::latest_root(store, database).await? else { return Ok(None) };
        attempts += 1;
        match paged.held(store).await {
            // It was deleted before its pages were read: there is a newer one.
            Err(error) if error.is_missing() && attempts < READ_ATTEMPTS => {}
            held => return held.map(Some),
        }
    }
}

impl Newest {
    /// `recovered`: the log, read after the manifest. `None`: neither the store nor the log has data of the database.
    pub(super) fn of(
        manifest: Option<PagedManifest>,
        database: &str,
        recovered: &Recovered,
    ) -> Result<Option<Newest>, Unreadable> {
        let paged = match manifest {
            Some(paged) => paged,
            None => match recovered.identity_of(database) {
                Some(of) => Arc::new(Manifest::new(database, of.seed, 0, of.created_ms)).into(),
                // Its first writes may be what cannot be read of the log.
                None => return recovered.damage().map_or(Ok(None), |damage| Err(Unreadable::Log(damage.to_owned()))),
            },
        };
        let Manifest { seed, created_ms, sequence, cut, .. } = *paged.known;
        let identity = Identity { name: database.into(), seed, created_ms };
        let log = LogTail::new(recovered.entries_of(&identity), sequence, cut).map_err(Unreadable::Log)?;
        Ok(Some(Newest { paged, log }))
    }

    pub(super) fn origin(&self) -> ImageOrigin {
        let Manifest { created_ms, number, epoch, writer, sequence, .. } = *self.paged.known;
        ImageOrigin { created_ms, number, epoch, writer, sequence }
    }

    /// The number of its last effect.
    pub(super) fn sequence(&self) -> u64 {
        self.log.sequence
    }

    /// Reads the rest of the manifest. `writer`: a random number for the name of the tail.
    pub(super) async fn image(self, store: &Store, writer: u64) -> Result<DatabaseImage, StoreError> {
        let origin = self.origin();
        let mut manifest = Arc::unwrap_or_clone(self.paged.read_all(store).await?);
        let records = bring_up_to(&mut manifest, &self.log);
        let tail = match records.len() as u64 {
            0 => None,
            effects => {
                let name = Names::new(&manifest.database)?.tail(manifest.epoch, writer, 0);
                let object = encode_tail(records);
                let bytes = object.len() as u64;
                manifest.tails.push(TailInfo { name: name.clone(), bytes, effects, from_sequence: origin.sequence });
                Some((name, object))
            }
        };
        manifest.drop_unused_chunks();
        manifest
            .check()
            .map_err(|problem| StoreError::corrupt(&manifest.database, format!("no image of it: {problem}")))?;
        Ok(DatabaseImage { manifest, tail, origin })
    }
}

impl DatabaseImage {
    /// Whether the keys of a segment of an image have been counted. `sequence`: that of the manifest it was made from.
    pub fn is_counted(segment: &SegmentInfo, sequence: u64) -> bool {
        segment.seen <= sequence
    }
}

/// Takes the effects of the log into a manifest. Returns the records of their tail.
fn bring_up_to(manifest: &mut Manifest, log: &LogTail) -> Vec<TailRecord> {
    // Its history is that of the database, not of a copy.
    manifest.timeline = Default::default();
    if let Some(shown) = log.shown {
        (manifest.keyspaces, manifest.followed) = (shown.ids, shown.followed);
        manifest.next_keyspace = manifest.next_keyspace.max(shown.next);
    }
    (manifest.sequence, manifest.cut) = (log.sequence, log.sequence);
    let shown = manifest.keyspaces;
    manifest.segments.retain(|segment| shown.contains(&segment.keyspace));
    manifest.pieces.retain(|piece| shown.contains(&piece.keyspace));
    if log.is_empty() {
        return Vec::new();
    }
    let mut records = Vec::new();
    for segment in &mut manifest.segments {
        let found = log.effects(segment.keyspace, segment.range, segment.seen);
        if !found.is_empty() {
            segment.seen = log.sequence;
            records.extend(found);
        }
    }
    let mut keyspaces: Vec<u32> = shown.into_iter().filter(|keyspace| *keyspace != NO_KEYSPACE).collect();
    keyspaces.sort_unstable();
    keyspaces.dedup();
    let mut gaps = Gaps { log, added: Vec::new(), records: &mut records };
    for keyspace in keyspaces {
        gaps.cover(keyspace, Range53::WHOLE, manifest.segments_of(keyspace));
    }
    let added = gaps.added;
    manifest.segments.extend(added);
    manifest.segments.sort_unstable_by_key(|segment| (segment.keyspace, segment.range.start));
    let cuts = std::mem::take(&mut manifest.shard_cuts);
    // A shard does not begin in the middle of a segment.
    let is_between = |cut: &u16| {
        let begins = u64::from(*cut) << (PREFIX_BITS - SLOT_BITS);
        !manifest.segments.iter().any(|segment| segment.range.start < begins && begins < segment.range.end())
    };
    manifest.shard_cuts = cuts.into_iter().filter(is_between).collect();
    records
}

/// The effects where there are no segments.
struct Gaps<'a> {
    log: &'a LogTail,
    added: Vec<SegmentInfo>,
    records: &'a mut Vec<TailRecord>,
}

impl Gaps<'_> {
    /// `segments`: those inside `range`, which is not inside one of them.
    fn cover(&mut self, keyspace: u32, range: Range53, segments: &[SegmentInfo]) {
        if segments.first().is_some_and(|segment| segment.range == range) || !self.log.touches(keyspace, range) {
            return;
        }
        if segments.is_empty() {
            let found = self.log.effects(keyspace, range, 0);
            if found.len() <= EFFECTS_MAX || range.bits == 0 {
                self.add(keyspace, range, found);
                return;
            }
        }
        let (low, high) = range.halves();
        let (before, after) = segments.split_at(segments.partition_point(|segment| segment.range.start < high.start));
        self.cover(keyspace, low, before);
        self.cover(keyspace, high, after);
    }

    fn add(&mut self, keyspace: u32, range: Range53, found: Vec<TailRecord>) {
        let mut positions: Vec<u64> = found.iter().map(|record| record.position).collect();
        positions.sort_unstable();
        positions.dedup();
        self.added.push(SegmentInfo {
            keyspace,
            range,
            location: SegmentLocation { chunk: 0, offset: 0, len: 0 },
            records: positions.len() as u32,
            expiring: 0,
            heap_bytes: 0,
            sequence: 0,
            seen: self.log.sequence,
            crc: 0,
        });
        self.records.extend(found);
    }
}
