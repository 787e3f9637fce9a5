//! Manifests: the objects that make up a database, and the right to write it.
//!
//! A database's manifests are numbered. The newest says which chunks hold its segments and where, which tail holds what
//! was written after them, and up to which effect all of that reaches. An older one is never changed.
//!
//! 1. A writer reads the newest manifest ([`latest`]). To take the database over it commits a manifest with a higher epoch.
//! 2. It puts new chunks, then commits manifest n+1, by creating that object **if absent**. Of two writers that both
//!    started at n only one can succeed; the other is fenced ([`StoreError::Fenced`]) and must stop writing.
//!    The first manifest is put twice, as number 1 and then as number 0, so that there are two from the beginning.
//! 3. After a commit the last two manifests are kept: a reader may still use the one before. Chunks and tails that
//!    neither names are deleted ([`collect_garbage`]), unless a branch needs them ([`sharing`]).
//!
//! ```text
//! db/<database>/manifest/00000000000000000042
//! db/<database>/chunk/<epoch>-<writer>-<counter>
//! db/<database>/tail/<epoch>-<writer>-<counter>
//! db/<database>/history/<epoch>-<writer>-<counter>    stretches of a database that keeps its history, see [`timeline`]
//! ```
//!
//! Epoch, writer and counter make names that no two writers share, not even two that both believe to have taken over. A
//! writer takes its counters from [`Manifest::next_object`]; so objects that are newer than the manifest, and perhaps
//! about to be named by the next one, can be told from garbage.

mod catalog;
mod format;
mod kept;
mod lineage;
mod names;
mod page;
mod paged;
mod sharing;
mod timeline;

use std::collections::BTreeMap;

use dormouse_types::segment::{Range53, SLOTS};

pub(crate) use self::names::escape as escaped;
pub use self::{
    catalog::{
        History, collect_garbage, collect_garbage_beside, commit, exists, history, latest, latest_root, replaced,
        root_numbered, take_over,
    },
    kept::{Garbage, databases},
    lineage::{ANCESTORS, Lineage},
    names::{Names, object_origin as origin_of},
    page::{Page, PageInfo},
    paged::PagedManifest,
    sharing::{LostBranch, create_branch, delete_database, lost_branches, mark_shared, sweep, sweep_keys},
    timeline::{DroppedObject, Moment, Stretch, Timeline},
};
use crate::chunk::{ChunkOrigin, SegmentLocation};
use crate::shown::{Ids, NO_KEYSPACE, OUTBOX_KEYSPACE, RECEIPTS, RECEIPTS_KEYSPACE, first_ids};
use crate::store::StoreError;

/// The logical databases that `SELECT` chooses from.
pub const SELECT_INDEXES: usize = 16;

/// See the module's documentation. [`Manifest::check`] says what holds for every manifest that is read or written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Of the newest committed manifest; 0 before the first.
    pub number: u64,
    /// Grows with every takeover.
    pub epoch: u64,
    /// Chosen at random by each process; tells writers of the same epoch apart.
    pub writer: u64,
    pub database: String,
    /// Places the keys; never changes.
    pub seed: u64,
    /// When the database was created, unix milliseconds.
    pub created_ms: u64,
    /// Which keyspace each `SELECT` index shows, and each hidden one. `FLUSHDB` shows a new one, `SWAPDB` swaps two.
    pub keyspaces: Ids,
    /// A bit for each index whose keys do not expire by this server's clock, see [`crate::shown`].
    pub followed: u32,
    /// The next keyspace that has never been used.
    pub next_keyspace: u32,
    /// Every effect up to this one is in the segments and the tails; a segment's own stamp may be later.
    pub sequence: u64,
    /// The log must hold the effects from [`Self::sequence`] up to this one: with fewer, the segments do not hold the
    /// state of one moment. The same as `sequence` if nothing was written during the checkpoint.
    pub cut: u64,
    /// The next counter for the name of a chunk or tail.
    pub next_object: u64,
    /// The first slots of all shards but the first, ascending.
    pub shard_cuts: Vec<u16>,
    pub chunks: Vec<ChunkInfo>,
    /// Ordered by keyspace and range, not overlapping. A range that is missing is empty.
    pub segments: Vec<SegmentInfo>,
    /// The locations of pieces of values: in the order of segments, and of the pieces' numbers.
    pub pieces: Vec<PieceInfo>,
    /// The effects written after some of the segments, from the oldest to the newest.
    pub tails: Vec<TailInfo>,
    /// Counters that belong to the database, as the server writes them.
    pub meters: Vec<u8>,
    /// The database that it was branched from.
    pub source: Option<String>,
    /// When to delete it, unix milliseconds.
    pub expires_ms: Option<u64>,
    /// Settings of this database that override the node's, by name: `loss-window`, `users`.
    pub settings: BTreeMap<String, String>,
    /// The counts of segments that have seen exactly this effect leave out their effects in the tails; 0: of none.
    pub uncounted: u64,
    pub timeline: Timeline,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkInfo {
    /// The object's name.
    pub name: String,
    pub bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    pub keyspace: u32,
    pub range: Range53,
    pub location: SegmentLocation,
    /// Including the effects in the tails, unless it is [`Manifest::uncounted`].
    pub records: u32,
    /// How many of the records have an expiry.
    pub expiring: u32,
    /// Memory that the segment took when it was written.
    pub heap_bytes: u64,
    /// Effects up to this one are in the body.
    pub sequence: u64,
    /// Effects up to this one are in the body and the tails; at least `sequence`.
    pub seen: u64,
    /// The checksum of the body on disk.
    pub crc: u64,
}

impl SegmentInfo {
    /// Without a body the tails hold everything, or the segment is empty, up to the effect that was seen.
    pub fn has_body(&self) -> bool {
        self.location.len > 0
    }
}

/// A piece of a value that belongs to the segment of this keyspace whose range starts there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PieceInfo {
    pub keyspace: u32,
    pub start: u64,
    /// Ascending for each segment, and not without gaps. Not 0.
    pub number: u32,
    pub location: SegmentLocation,
    pub crc: u64,
}

impl PieceInfo {
    pub fn owner(&self) -> (u32, u64) {
        (self.keyspace, self.start)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailInfo {
    pub name: String,
    pub bytes: u64,
    pub effects: u64,
    /// Effects after this one are in it.
    pub from_sequence: u64,
}

impl Manifest {
    /// The manifest of a new database, before its first commit.
    pub fn new(database: &str, seed: u64, writer: u64, created_ms: u64) -> Manifest {
        Manifest {
            number: 0,
            epoch: 1,
            writer,
            database: database.to_owned(),
            seed,
            created_ms,
            keyspaces: first_ids(),
            followed: 0,
            next_keyspace: SELECT_INDEXES as u32,
            sequence: 0,
            cut: 0,
            next_object: 0,
            shard_cuts: Vec::new(),
            chunks: Vec::new(),
            segments: Vec::new(),
            pieces: Vec::new(),
            tails: Vec::new(),
            meters: Vec::new(),
            source: None,
            expires_ms: None,
            settings: BTreeMap::new(),
            uncounted: 0,
            timeline: Timeline::default(),
        }
    }

    /// The segments of one keyspace, ordered by range.
    pub fn segments_of(&self, keyspace: u32) -> &[SegmentInfo] {
        let start = self.segments.partition_point(|segment| segment.keyspace < keyspace);
        let len = self.segments[start..].partition_point(|segment| segment.keyspace == keyspace);
        &self.segments[start..start + len]
    }

    /// The segment of a keyspace that holds `prefix` (a prefix53).
    pub fn segment(&self, keyspace: u32, prefix: u64) -> Option<&SegmentInfo> {
        let after =
            self.segments.partition_point(|segment| (segment.keyspace, segment.range.start) <= (keyspace, prefix));
        let segment = self.segments[..after].last()?;
        (segment.keyspace == keyspace && segment.range.contains(prefix)).then_some(segment)
    }

    /// The pieces of a segment's values.
    pub fn pieces_of(&self, segment: &SegmentInfo) -> &[PieceInfo] {
        let owner = (segment.keyspace, segment.range.start);
        let start = self.pieces.partition_point(|piece| piece.owner() < owner);
        let len = self.pieces[start..].partition_point(|piece| piece.owner() == owner);
        &self.pieces[start..start + len]
    }

    /// The locations of all bodies and pieces.
    pub fn locations(&self) -> impl Iterator<Item = SegmentLocation> {
        locations(&self.segments, &self.pieces)
    }

    /// The same, to be changed.
    pub fn locations_mut(&mut self) -> impl Iterator<Item = &mut SegmentLocation> {
        let bodies = self.segments.iter_mut().filter(|segment| segment.has_body()).map(|segment| &mut segment.location);
        bodies.chain(self.pieces.iter_mut().map(|piece| &mut piece.location))
    }

    /// Drops the chunks from which nothing is needed.
    pub fn drop_unused_chunks(&mut self) {
        let mut used = vec![false; self.chunks.len()];
        for location in self.locations() {
            used[location.chunk as usize] = true;
        }
        let mut moved = Vec::with_capacity(used.len());
        let mut kept = 0;
        for &used in &used {
            moved.push(kept);
            kept += u32::from(used);
        }
        let mut keep = used.iter();
        self.chunks.retain(|_| keep.next().copied().unwrap_or(false));
        for location in self.locations_mut() {
            location.chunk = moved[location.chunk as usize];
        }
    }

    /// The names of all objects that the manifest needs.
    pub fn objects(&self) -> impl Iterator<Item = &str> {
        self.data().chain(self.timeline.objects()).map(|(name, _)| name)
    }

    /// The objects that hold the data as it is now, with their bytes.
    pub fn data(&self) -> impl Iterator<Item = (&str, u64)> {
        let chunks = self.chunks.iter().map(|chunk| (chunk.name.as_str(), chunk.bytes));
        chunks.chain(self.tails.iter().map(|tail| (tail.name.as_str(), tail.bytes)))
    }

    /// The bytes that the database takes in the store, its manifest and its history not counted.
    pub fn stored_bytes(&self) -> u64 {
        self.data().fold(0, |sum, (_, bytes)| sum.saturating_add(bytes))
    }

    /// Of these and of its history, the bytes that belong to other databases: those that this one was branched from.
    pub fn shared_bytes(&self) -> u64 {
        let Ok(names) = Names::new(&self.database) else { return 0 };
        let own = format!("{}/", names.folder());
        let all = self.data().chain(self.timeline.objects());
        all.filter(|(name, _)| !name.starts_with(&own)).fold(0, |sum, (_, bytes)| sum.saturating_add(bytes))
    }

    /// Whether the counts of a segment leave out effects in the tails.
    pub fn is_uncounted(&self, segment: &SegmentInfo) -> bool {
        self.uncounted != 0 && segment.seen == self.uncounted && segment.seen > segment.sequence
    }

    /// Whether it has data that must not be replaced unasked: keys, effects in tails that no count includes, or a history of
    /// keys that are gone.
    pub fn holds_data(&self) -> bool {
        let has_keys = |segment: &SegmentInfo| {
            let is_all_in_tails = !segment.has_body() && segment.seen > segment.sequence;
            segment.records > 0 || is_all_in_tails || self.is_uncounted(segment)
        };
        self.segments.iter().any(has_keys) || !self.timeline.is_empty()
    }

    /// The description of the database that its chunks carry.
    pub fn origin(&self) -> ChunkOrigin {
        let keyspaces = std::array::from_fn(|index| self.keyspaces[index]);
        ChunkOrigin { seed: self.seed, created_ms: self.created_ms, keyspaces }
    }

    /// The decoded form of an object that claims to be a manifest.
    pub fn decode(bytes: &[u8]) -> Result<Manifest, crate::codec::CodecError> {
        format::decode(bytes)
    }

    /// The object. It must hold what [`Manifest::check`] says, or it could not be read again.
    pub fn encode(&self) -> Vec<u8> {
        format::encode(self, self.number)
    }

    /// Returns the manifest's fault, if it has one.
    pub fn check(&self) -> Result<(), &'static str> {
        Names::new(&self.database).map_err(|_: StoreError| "database name")?;
        if !self.shard_cuts.is_sorted_by(|a, b| a < b)
            || self.shard_cuts.first() == Some(&0)
            || self.shard_cuts.last().is_some_and(|cut| *cut >= SLOTS)
        {
            return Err("shard cuts are not ascending slots");
        }
        let (shown, hidden) = self.keyspaces.split_at(RECEIPTS);
        if shown.iter().any(|keyspace| *keyspace >= self.next_keyspace && *keyspace != NO_KEYSPACE) {
            return Err("a SELECT index shows a keyspace that does not exist yet");
        }
        if hidden != [RECEIPTS_KEYSPACE, OUTBOX_KEYSPACE] {
            return Err("a hidden index shows another keyspace than its own");
        }
        if self.cut < self.sequence {
            return Err("the cut lies before what it must hold");
        }
        check_segments(&self.chunks, &self.segments, &self.pieces)
    }

    /// Whether it is the manifest that its name says.
    fn check_name(&self, database: &str, name: &str, number: u64) -> Result<(), StoreError> {
        if self.number != number {
            return Err(StoreError::corrupt(name, format!("holds manifest {}", self.number)));
        }
        if self.database != database {
            return Err(StoreError::corrupt(name, format!("belongs to database `{}`", self.database)));
        }
        Ok(())
    }
}

/// Returns the fault of segments and their pieces, if they have one.
fn check_segments(chunks: &[ChunkInfo], segments: &[SegmentInfo], pieces: &[PieceInfo]) -> Result<(), &'static str> {
    if !segments.is_sorted_by(follows) {
        return Err("segments overlap or are out of order");
    }
    for segment in segments {
        if segment.seen < segment.sequence {
            return Err("a segment's body has more than was seen of it");
        }
        if segment.expiring > segment.records {
            return Err("more expiries than records");
        }
    }
    if !pieces.is_sorted_by(|a, b| (a.owner(), a.number) < (b.owner(), b.number)) {
        return Err("pieces are out of order");
    }
    let mut owners = pieces.iter().map(PieceInfo::owner).collect::<Vec<_>>();
    owners.dedup();
    let is_owned = |owner: (u32, u64)| {
        let at = segments.binary_search_by_key(&owner, |segment| (segment.keyspace, segment.range.start));
        at.is_ok_and(|at| segments[at].has_body())
    };
    if !owners.into_iter().all(is_owned) {
        return Err("a piece of a segment that has no body");
    }
    for SegmentLocation { chunk, offset, len } in locations(segments, pieces) {
        let chunk_bytes = match chunks.get(chunk as usize) {
            Some(chunk) => chunk.bytes,
            None => return Err("segment in a chunk that is not listed"),
        };
        if offset.checked_add(len).is_none_or(|end| end > chunk_bytes) {
            return Err("segment beyond the end of its chunk");
        }
    }
    Ok(())
}

fn locations(segments: &[SegmentInfo], pieces: &[PieceInfo]) -> impl Iterator<Item = SegmentLocation> {
    let bodies = segments.iter().filter(|segment| segment.has_body()).map(|segment| segment.location);
    bodies.chain(pieces.iter().map(|piece| piece.location))
}

fn follows(a: &SegmentInfo, b: &SegmentInfo) -> bool {
    a.keyspace < b.keyspace || a.keyspace == b.keyspace && a.range.end() <= b.range.start
}

#[cfg(test)]
mod tests;
