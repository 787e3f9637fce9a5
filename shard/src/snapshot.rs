//! All records of a database as it lies in the store, without waking it.
//!
//! 1. The newest manifest says which segments there are. Whatever lies between them is empty but for effects.
//! 2. Range after range: the body is read (neighbours together) and decoded, the effects after its stamp are replayed onto
//!    it, and its records are shown to the visitor. No more than that is ever in memory.
//!
//! Where effects come from is the caller's business: see [`Effects`]. The store may be written to meanwhile. What the
//! manifest names stays until the second manifest after it is committed; then a read says that an object is missing.

use bytes::Bytes;

use crate::chunk::segment_error;
use crate::codec::block::stored_checksum;
use crate::codec::segment::decode_segment;
use crate::database::store_error;
use crate::error::Result;
use crate::keyspace::Shared;
use crate::manifest::{self, Manifest, SegmentInfo};
use crate::record::Record;
use crate::residency::replayed;
use crate::segment::{PREFIX_END, Range53, Ranged, Segment};
use crate::store::{Store, StoreError};
use crate::tail::{Tail, TailRecord};
use crate::types::Limits;

/// Neighbouring bodies are read together up to so many bytes.
const READ_TOGETHER: u64 = 1 << 20;

/// An empty range is asked for its effects in parts of at most this size: a 256th of all positions.
const GAP_BITS: u8 = 45;

/// Where the effects are that the segments do not have yet.
pub trait Effects {
    /// The effects on the keys of a range of a keyspace with numbers after `sequence`, in their order.
    ///
    /// # Errors
    /// When they cannot be read.
    fn after(&self, keyspace: u32, range: Range53, sequence: u64) -> Result<Vec<TailRecord>>;
}

/// The tail that the manifest names.
impl Effects for Tail {
    fn after(&self, keyspace: u32, range: Range53, sequence: u64) -> Result<Vec<TailRecord>> {
        self.effects(keyspace, range, sequence).map_err(store_error)
    }
}

/// No effects but those that the segments have.
#[derive(Debug, Clone, Copy)]
pub struct NoEffects;

impl Effects for NoEffects {
    fn after(&self, _: u32, _: Range53, _: u64) -> Result<Vec<TailRecord>> {
        Ok(Vec::new())
    }
}

/// What a visitor is told of a segment's records before it sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub keys: u64,
    pub expiring: u64,
}

/// A database at its newest manifest.
pub struct Snapshot<'a> {
    store: &'a Store,
    manifest: Manifest,
    shared: Shared,
}

impl<'a> Snapshot<'a> {
    /// `None`: the store knows no such database.
    ///
    /// # Errors
    /// When its newest manifest cannot be read.
    pub async fn open(store: &'a Store, database: &str) -> Result<Option<Self>, StoreError> {
        let manifest = manifest::latest(store, database).await?;
        Ok(manifest.map(|manifest| Snapshot { store, shared: Shared::new(database, manifest.seed), manifest }))
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The tail that the manifest names.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn tail(&self) -> Result<Option<Tail>, StoreError> {
        match &self.manifest.tail {
            Some(tail) => Tail::read(self.store, &tail.name).await.map(Some),
            None => Ok(None),
        }
    }

    /// How many keys the segments of a logical index hold: those that effects add or take away are not counted.
    pub fn counts(&self, index: usize) -> Counts {
        let segments = self.manifest.segments_of(self.manifest.keyspaces[index]);
        segments.iter().fold(Counts { keys: 0, expiring: 0 }, |counts, segment| Counts {
            keys: counts.keys + u64::from(segment.records),
            expiring: counts.expiring + u64::from(segment.expiring),
        })
    }

    /// Shows every record of a logical index to `visit`, in the order of segments. What has expired is shown too.
    ///
    /// # Errors
    /// What `visit` answers, or the first thing that cannot be read; the text names the object.
    pub async fn visit(
        &self,
        index: usize,
        effects: &dyn Effects,
        visit: &mut (dyn FnMut(&Record) -> Result<()> + Send),
    ) -> Result<()> {
        let keyspace = self.manifest.keyspaces[index];
        let segments = self.manifest.segments_of(keyspace);
        let mut from = 0;
        let mut rest = segments;
        while let [first, ..] = rest {
            let (group, after) = rest.split_at(together(rest));
            rest = after;
            let start = first.location.offset;
            let bytes = self.read(group).await?;
            for segment in group {
                self.visit_gap(keyspace, from, segment.range.start, effects, visit)?;
                from = segment.range.end();
                let at = (segment.location.offset - start) as usize;
                let body = bytes.slice(at..at + segment.location.len as usize);
                let decoded = self.decode(segment, &body).map_err(store_error)?;
                self.visit_segment(keyspace, decoded, segment.sequence, effects, visit)?;
            }
        }
        self.visit_gap(keyspace, from, PREFIX_END, effects, visit)
    }

    /// Bodies that follow each other in one chunk.
    async fn read(&self, group: &[SegmentInfo]) -> Result<Bytes> {
        let [first, .., last] = group else { return self.read_one(group).await };
        let range = first.location.offset..last.location.offset + last.location.len;
        self.store.get_range(self.chunk(first), range).await.map_err(store_error)
    }

    async fn read_one(&self, group: &[SegmentInfo]) -> Result<Bytes> {
        let Some(segment) = group.first().filter(|segment| !segment.is_empty()) else { return Ok(Bytes::new()) };
        let range = segment.location.offset..segment.location.offset + segment.location.len;
        self.store.get_range(self.chunk(segment), range).await.map_err(store_error)
    }

    /// The name of the chunk that a segment with a body lies in; the manifest was checked when it was read.
    fn chunk(&self, segment: &SegmentInfo) -> &str {
        &self.manifest.chunks[segment.location.chunk as usize].name
    }

    fn decode(&self, segment: &SegmentInfo, body: &[u8]) -> Result<Segment<Record>, StoreError> {
        if segment.is_empty() {
            return Ok(Segment::new(segment.range));
        }
        let error = |problem| segment_error(self.chunk(segment), segment.range, &problem);
        match stored_checksum(body) {
            stored if stored == segment.crc => {
                decode_segment(body, &self.shared.placement, &Limits::default(), segment.range).map_err(error)
            }
            stored => Err(error(crate::codec::CodecError::Checksum { stored, computed: segment.crc })),
        }
    }

    fn visit_segment(
        &self,
        keyspace: u32,
        segment: Segment<Record>,
        sequence: u64,
        effects: &dyn Effects,
        visit: &mut (dyn FnMut(&Record) -> Result<()> + Send),
    ) -> Result<()> {
        let effects = effects.after(keyspace, segment.range(), sequence)?;
        let places = replayed(&self.shared, keyspace, segment, effects)?;
        places.iter().filter_map(|place| place.segment()).flat_map(Segment::iter).try_for_each(visit)
    }

    /// What only effects say of the positions from `from` to `end`.
    fn visit_gap(
        &self,
        keyspace: u32,
        mut from: u64,
        end: u64,
        effects: &dyn Effects,
        visit: &mut (dyn FnMut(&Record) -> Result<()> + Send),
    ) -> Result<()> {
        while from < end {
            // The largest aligned range that begins here and does not reach too far.
            let fits = (end - from).ilog2() as u8;
            let bits = (from.trailing_zeros() as u8).min(fits).min(GAP_BITS);
            let range = Range53 { start: from, bits };
            from = range.end();
            self.visit_segment(keyspace, Segment::new(range), 0, effects, visit)?;
        }
        Ok(())
    }
}

/// How many of the first segments have bodies that follow each other in one chunk.
fn together(segments: &[SegmentInfo]) -> usize {
    let first = &segments[0].location;
    let mut end = first.offset;
    let follows = |segment: &&SegmentInfo| {
        let location = segment.location;
        let next = !segment.is_empty() && location.chunk == first.chunk && location.offset == end;
        end = location.offset + location.len;
        next && end - first.offset <= READ_TOGETHER
    };
    segments.iter().take_while(follows).count().max(1)
}
