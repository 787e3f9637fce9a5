//! All records of a database in the store, without waking it.
//!
//! 1. The newest manifest lists the segments, page after page, and the log has all later writes.
//! 2. Place after place: the body is read (neighbours together) and decoded, the effects that it has not seen are
//!    replayed onto it, and its records are shown to the visitor. No more than that is ever in memory, beside the log. A
//!    [`Visitor`] may ask for large values piece by piece: then they are not put together.
//!
//! The store may be written to meanwhile. The objects that the manifest names stay until the second manifest after it
//! is committed; then a read reports a missing object.

use std::sync::Arc;

use bytes::Bytes;
use dormouse_storage::codec::segment::InPieces;
use dormouse_storage::codec::value::pieces::Outline;
use dormouse_storage::functions;
use dormouse_storage::loading::{Loaded, Opened, READ_TOGETHER};
use dormouse_storage::log::format::Identity;
use dormouse_storage::log::recovery::Recovered;
use dormouse_storage::log::tail::LogTail;
use dormouse_storage::manifest::{self, Manifest, PagedManifest, SegmentInfo};
use dormouse_storage::replay::{Effects, Replay, Stored};
use dormouse_storage::shown::{Ids, NO_KEYSPACE, STAGED};
use dormouse_storage::store::Store;
use dormouse_types::Limits;
use dormouse_types::entry::Entry;
use dormouse_types::record::Record;
use dormouse_types::segment::{Placement, Range53, SLOTS, Segment};

use crate::database::store_error;
use crate::error::{Error, Result};
use crate::keyspace::Shared;
use crate::keyspace::place::Place;
use crate::places::{places, places_of_page, stored};
use crate::replay::replayed;

/// The description of a segment's records that a visitor gets before it sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentCounts {
    pub keys: u64,
    pub expiring: u64,
}

/// A database at its newest manifest, and the log's effects beyond it.
pub struct Snapshot<'a> {
    store: &'a Store,
    manifest: Arc<PagedManifest>,
    ids: Ids,
    replay: Arc<Replay>,
    shared: Shared,
}

/// A reader of all records.
pub trait Visitor {
    /// # Errors
    /// An error ends the visit.
    fn record(&mut self, record: &Record) -> Result<()>;

    /// Whether it takes a value in pieces rather than as a record.
    fn takes_pieces_of(&self, outline: Outline) -> bool;

    /// Begins a record whose value comes in pieces.
    ///
    /// # Errors
    /// An error ends the visit.
    fn begin(&mut self, record: &InPieces) -> Result<()>;

    /// The next piece of the record that has begun.
    ///
    /// # Errors
    /// An error ends the visit.
    fn piece(&mut self, piece: &[u8]) -> Result<()>;
}

/// A visitor of whole records.
struct Whole<'v>(&'v mut (dyn FnMut(&Record) -> Result<()> + Send));

impl Visitor for Whole<'_> {
    fn record(&mut self, record: &Record) -> Result<()> {
        (self.0)(record)
    }

    fn takes_pieces_of(&self, _: Outline) -> bool {
        false
    }

    fn begin(&mut self, _: &InPieces) -> Result<()> {
        Ok(())
    }

    fn piece(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

/// A visitor that counts records, the large ones without putting them together.
#[derive(Default)]
struct Counting(CountedSegment);

impl Visitor for Counting {
    fn record(&mut self, record: &Record) -> Result<()> {
        self.0.records += 1;
        self.0.expiring += u32::from(record.expiry().is_some());
        self.0.heap_bytes += record.heap_bytes() as u64;
        Ok(())
    }

    fn takes_pieces_of(&self, _: Outline) -> bool {
        true
    }

    fn begin(&mut self, record: &InPieces) -> Result<()> {
        self.0.records += 1;
        self.0.expiring += u32::from(record.expiry.is_some());
        Ok(())
    }

    fn piece(&mut self, piece: &[u8]) -> Result<()> {
        self.0.heap_bytes += piece.len() as u64;
        Ok(())
    }
}

/// What a segment has when its effects are replayed onto it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CountedSegment {
    pub records: u32,
    pub expiring: u32,
    /// About how much memory the records take.
    pub heap_bytes: u64,
}

/// A part of a database that cannot be read.
#[derive(Debug)]
pub struct Unreadable {
    pub error: Error,
    /// The subject of the page, if the part is a page of the manifest.
    pub page: Option<UnreadablePage>,
}

impl From<Error> for Unreadable {
    fn from(error: Error) -> Self {
        Self { error, page: None }
    }
}

/// The segments that a page of the manifest describes.
#[derive(Debug, Clone, Copy)]
pub struct UnreadablePage {
    /// The logical index that shows them.
    pub index: usize,
    pub keyspace: u32,
    pub range: Range53,
    pub counts: SegmentCounts,
}

/// A place that is in the store.
struct Wanted {
    range: Range53,
    stored: Arc<Stored>,
}

impl<'a> Snapshot<'a> {
    /// Opens a database at its newest manifest. `recovered`: the log's entries of all databases. `None`: neither the
    /// log nor the store knows this one.
    ///
    /// # Errors
    /// When its newest manifest or a tail cannot be read, or the log is damaged or incomplete.
    pub async fn open(store: &'a Store, database: &str, mut recovered: Recovered) -> Result<Option<Self>> {
        let (manifest, identity) = match manifest::latest_root(store, database).await.map_err(store_error)? {
            Some(manifest) => {
                // A running server deletes it after two more checkpoints.
                let manifest = manifest.held(store).await.map_err(store_error)?;
                let (seed, created_ms) = (manifest.known.seed, manifest.known.created_ms);
                (manifest, Identity { name: database.into(), seed, created_ms })
            }
            None => match recovered.identity_of(database) {
                Some(identity) => {
                    let manifest = Manifest::new(database, identity.seed, 0, identity.created_ms);
                    (Arc::new(manifest).into(), identity)
                }
                // The unreadable part of the log may hold this database's first writes.
                None => match recovered.damage() {
                    Some(problem) => return Err(Error::Store(format!("database {database}: {problem}"))),
                    None => return Ok(None),
                },
            },
        };
        let known = &manifest.known;
        let log = LogTail::new(recovered.take(&identity), known.sequence, known.cut)
            .map_err(|problem| Error::Store(format!("database {database}: {problem}")))?;
        let log = Some(Arc::new(log)).filter(|log| !log.is_empty());
        let replay = Replay::read(store, known, log).await.map_err(store_error)?;
        Ok(Some(Self::of(store, manifest, replay)))
    }

    /// The texts of its libraries of functions.
    pub fn functions(&self) -> Vec<Vec<u8>> {
        functions::texts(&self.manifest.known.settings).filter_map(|(_, text)| text).collect()
    }

    /// A database as described by a manifest and the effects that are replayed onto it, whether or not that is all of
    /// it.
    pub fn of(store: &'a Store, manifest: PagedManifest, replay: Replay) -> Self {
        let known = &manifest.known;
        let ids = replay.log.as_ref().and_then(|log| log.shown).map_or(known.keyspaces, |shown| shown.ids);
        let shared = Shared::new(&known.database, known.seed);
        Self { store, ids, replay: Arc::new(replay), shared, manifest: Arc::new(manifest) }
    }

    /// As far as it was read.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest.known
    }

    /// Whether an import fills the staged indexes.
    pub fn is_staging(&self) -> bool {
        self.ids[STAGED].iter().any(|id| *id != NO_KEYSPACE)
    }

    /// Counts the records of one segment of the manifest, which has been read as a whole.
    ///
    /// # Errors
    /// When the segment cannot be read; the text names the object.
    pub async fn count(&self, segment: &SegmentInfo) -> Result<CountedSegment> {
        let stored = Arc::new(stored(self.manifest(), segment, &self.replay));
        let wanted = Wanted { range: segment.range, stored };
        let body = self.read(std::slice::from_ref(&wanted)).await?;
        let mut counting = Counting::default();
        let places = self.places_of(segment.keyspace, &wanted, body, &mut counting).await?;
        let mut records = places.iter().filter_map(Place::segment).flat_map(Segment::iter);
        records.try_for_each(|record| counting.record(record))?;
        Ok(counting.0)
    }

    /// How many keys the segments of a logical index hold, without the keys that the log adds or removes.
    pub fn counts(&self, index: usize) -> SegmentCounts {
        let (keys, expiring) = self.manifest.counts_of(self.ids[index]);
        SegmentCounts { keys, expiring }
    }

    /// Shows every record of a logical index to `visit`, in the order of segments. Expired records are shown too.
    ///
    /// # Errors
    /// The error of `visit`, or the first read error; the text names the object.
    pub async fn visit(&self, index: usize, visit: &mut (dyn FnMut(&Record) -> Result<()> + Send)) -> Result<()> {
        self.visit_readable(index, &mut Whole(visit), &mut |unreadable| Err(unreadable.error)).await
    }

    /// The same, but for each part that cannot be read, asks `damaged` whether to go on without it.
    ///
    /// # Errors
    /// The error of `visit` or `damaged`.
    pub async fn visit_readable(
        &self,
        index: usize,
        visitor: &mut (dyn Visitor + Send),
        damaged: &mut (dyn FnMut(Unreadable) -> Result<()> + Send),
    ) -> Result<()> {
        let keyspace = self.ids[index];
        let all = wanted(&places((&self.manifest).into(), &self.replay, keyspace, 0, SLOTS));
        let is_page = |wanted: &Wanted| wanted.stored.page.is_some();
        for run in all.chunk_by(|one, next| !is_page(one) && !is_page(next)) {
            let Some(unread) = run[0].stored.page.as_ref() else {
                self.visit_places(keyspace, run, visitor, damaged).await?;
                continue;
            };
            match self.manifest.read_page(self.store, unread.info()).await {
                Ok(page) => {
                    let of_page = wanted(&places_of_page(unread, &page, &self.replay));
                    self.visit_places(keyspace, &of_page, visitor, damaged).await?;
                }
                Err(error) => {
                    let info = unread.info();
                    let counts = SegmentCounts { keys: info.records.into(), expiring: info.expiring.into() };
                    let page = UnreadablePage { index, keyspace, range: info.range, counts };
                    damaged(Unreadable { error: store_error(error), page: Some(page) })?;
                }
            }
        }
        Ok(())
    }

    async fn visit_places(
        &self,
        keyspace: u32,
        all: &[Wanted],
        visitor: &mut (dyn Visitor + Send),
        damaged: &mut (dyn FnMut(Unreadable) -> Result<()> + Send),
    ) -> Result<()> {
        let mut rest = all;
        while !rest.is_empty() {
            let (group, after) = rest.split_at(together(rest));
            rest = after;
            let read = self.read(group).await;
            for wanted in group {
                let body = match &read {
                    Ok(bytes) => Ok(slice(bytes, group, wanted)),
                    // Read together they failed together; most may be readable alone.
                    Err(_) if group.len() > 1 => self.read(std::slice::from_ref(wanted)).await,
                    Err(error) => Err(error.clone()),
                };
                let places = match body {
                    Ok(body) => self.places_of(keyspace, wanted, body, visitor).await,
                    Err(error) => Err(error),
                };
                match places {
                    Ok(places) => {
                        let segments = places.iter().filter_map(Place::segment);
                        segments.flat_map(Segment::iter).try_for_each(|record| visitor.record(record))?;
                    }
                    Err(error) => damaged(error.into())?,
                }
            }
        }
        Ok(())
    }

    /// Bodies that follow each other in one chunk.
    async fn read(&self, group: &[Wanted]) -> Result<Bytes> {
        let bodies = || group.iter().filter_map(|wanted| wanted.stored.body.as_ref());
        let (Some(first), Some(last)) = (bodies().next(), bodies().next_back()) else { return Ok(Bytes::new()) };
        self.store.get_range(&first.chunk, first.offset..last.offset + last.len).await.map_err(store_error)
    }

    /// The places that a stored one becomes, without the values that the visitor has taken in pieces. A value with effects
    /// that its pieces lack is put together.
    async fn places_of(
        &self,
        keyspace: u32,
        wanted: &Wanted,
        bytes: Bytes,
        visitor: &mut (dyn Visitor + Send),
    ) -> Result<Vec<Place>> {
        let Wanted { range, stored } = wanted;
        let read = Some(bytes).filter(|_| stored.body.is_some());
        let limits = Limits::default();
        let placement = &self.shared.placement;
        let opened = Opened::read(self.store, stored, *range, placement, &limits, read).await;
        let mut place = opened.map_err(store_error)?;
        let mut effects = match &stored.replay {
            Some(replay) => replay.effects(keyspace, *range, stored).map_err(store_error)?,
            None => Effects::default(),
        };
        effects.retain_unseen(&place.later);
        while let Some(value) = place.next_in_pieces() {
            let position = placement.position(&value.key);
            let mut all = effects.tailed.iter().chain(&effects.logged);
            if all.any(|effect| effect.position == position) || !visitor.takes_pieces_of(value.outline) {
                place.load(value, placement, &limits).await.map_err(store_error)?;
                continue;
            }
            visitor.begin(&value)?;
            place.pass_on(&value, &mut |piece| visitor.piece(piece)).await.map_err(store_error)??;
        }
        let Loaded { segment, .. } = place.finish().map_err(store_error)?;
        replayed(&self.shared, keyspace, segment, &effects)
    }
}

/// The stored ones among some places.
fn wanted(places: &[Place]) -> Vec<Wanted> {
    let stored = places.iter().filter_map(|place| Some((place.range, place.stored()?)));
    stored.map(|(range, stored)| Wanted { range, stored: Arc::clone(stored) }).collect()
}

/// The body of one of several that were read together.
fn slice(bytes: &Bytes, group: &[Wanted], wanted: &Wanted) -> Bytes {
    let start = group.first().and_then(|first| first.stored.body.as_ref()).map_or(0, |body| body.offset);
    match &wanted.stored.body {
        Some(body) => bytes.slice((body.offset - start) as usize..(body.offset - start + body.len) as usize),
        None => Bytes::new(),
    }
}

/// How many of the first places have bodies that follow each other in one chunk.
fn together(wanted: &[Wanted]) -> usize {
    let Some(first) = &wanted[0].stored.body else { return 1 };
    let mut end = first.offset;
    let follows = |wanted: &&Wanted| {
        let Some(body) = &wanted.stored.body else { return false };
        let next = body.chunk == first.chunk && body.offset == end;
        end = body.offset + body.len;
        next && end - first.offset <= READ_TOGETHER
    };
    wanted.iter().take_while(follows).count().max(1)
}
