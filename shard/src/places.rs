//! The places of a keyspace as a manifest describes them, all of them in the store.
//!
//! Where a page of the manifest has not been read, one place stands for all of its segments, until one of them is
//! needed: then it is replaced by theirs. A range without segments is a resident, empty place.

use std::sync::Arc;

use dormouse_storage::chunk::SegmentLocation;
use dormouse_storage::manifest::{Manifest, Page, PageInfo, PagedManifest, PieceInfo, SegmentInfo};
use dormouse_storage::replay::{Body, Replay, Stored, UnreadPage};
use dormouse_types::segment::Range53;

use crate::keyspace::index::aligned;
use crate::keyspace::place::{Holding, Place};

/// Segments and their pieces, as far as they have been read.
#[derive(Clone, Copy)]
pub(crate) struct Described<'m> {
    manifest: &'m Manifest,
    segments: &'m [SegmentInfo],
    pieces: &'m [PieceInfo],
    unread: Option<&'m Arc<PagedManifest>>,
}

impl<'m> From<&'m Manifest> for Described<'m> {
    fn from(manifest: &'m Manifest) -> Self {
        Described { manifest, segments: &manifest.segments, pieces: &manifest.pieces, unread: None }
    }
}

impl<'m> From<&'m Arc<PagedManifest>> for Described<'m> {
    fn from(manifest: &'m Arc<PagedManifest>) -> Self {
        Described { unread: Some(manifest), ..Described::from(&*manifest.known) }
    }
}

/// The places of keyspace `id` in the slots `first..end`.
pub(crate) fn places(described: Described<'_>, replay: &Arc<Replay>, id: u32, first: u16, end: u16) -> Vec<Place> {
    let mut filled = Filled { described, replay, id, chunk: None, places: Vec::new() };
    for range in aligned(first, end) {
        filled.cover(range);
    }
    filled.places
}

/// The places that replace the place of a page when the page is read.
pub(crate) fn places_of_page(unread: &UnreadPage, page: &Page, replay: &Arc<Replay>) -> Vec<Place> {
    let Page { segments, pieces } = page;
    let described = Described { manifest: &unread.manifest.known, segments, pieces, unread: None };
    let PageInfo { keyspace, range, .. } = *unread.info();
    let mut filled = Filled { described, replay, id: keyspace, chunk: None, places: Vec::new() };
    filled.cover(range);
    filled.places
}

/// The manifest's description of one segment.
pub(crate) fn stored(manifest: &Manifest, segment: &SegmentInfo, replay: &Arc<Replay>) -> Stored {
    let id = segment.keyspace;
    let described = Described::from(manifest);
    Filled { described, replay, id, chunk: None, places: Vec::new() }.stored(segment)
}

/// Places in order, from the first one on.
struct Filled<'m> {
    described: Described<'m>,
    replay: &'m Arc<Replay>,
    id: u32,
    /// The chunk that was named last: neighbours share it.
    chunk: Option<(u32, Arc<str>)>,
    places: Vec<Place>,
}

impl Filled<'_> {
    /// Fills `range` with the stored segments inside it, and the gaps between them with empty places.
    fn cover(&mut self, range: Range53) {
        let Described { segments, unread, .. } = self.described;
        let segments = inside(of(segments, self.id, |segment| segment.keyspace), range, |segment| segment.range);
        let pages = unread.map_or(&[][..], |manifest| manifest.pages_of(self.id));
        let pages = inside(pages, range, |page| page.range);
        match (segments, pages) {
            ([], []) if self.replay.is_logged(self.id, range) => {
                let stored = Stored {
                    page: None,
                    body: None,
                    pieces: Box::default(),
                    records: 0,
                    heap_bytes: 0,
                    sequence: 0,
                    seen: self.described.manifest.sequence,
                    tailed: false,
                    logged: true,
                    uncounted: false,
                    replay: Some(Arc::clone(self.replay)),
                };
                self.push(range, 0, stored);
            }
            ([], []) => self.places.push(Place::empty(range)),
            ([segment], []) if segment.range == range => {
                let stored = self.stored(segment);
                self.push(range, segment.expiring, stored);
            }
            ([], [page]) if page.range == range => {
                let (expiring, stored) = (page.expiring, self.unread(page));
                self.push(range, expiring, stored);
            }
            _ => {
                let (left, right) = range.halves();
                self.cover(left);
                self.cover(right);
            }
        }
    }

    fn push(&mut self, range: Range53, expiring: u32, stored: Stored) {
        let holding = Holding::Stored(Arc::new(stored));
        self.places.push(Place { holding, expiring, soonest: 0, ..Place::empty(range) });
    }

    fn unread(&self, page: &PageInfo) -> Stored {
        let page_of = |manifest: &Arc<PagedManifest>| {
            let start = (page.keyspace, page.range.start);
            let at = manifest.pages.partition_point(|other| (other.keyspace, other.range.start) < start);
            UnreadPage { manifest: Arc::clone(manifest), at }
        };
        Stored {
            page: self.described.unread.map(page_of),
            body: None,
            pieces: Box::default(),
            records: page.records,
            heap_bytes: 0,
            sequence: 0,
            seen: self.described.manifest.sequence,
            tailed: page.is_tailed,
            logged: self.replay.is_logged(page.keyspace, page.range),
            uncounted: page.is_tailed && self.described.manifest.uncounted != 0,
            replay: Some(Arc::clone(self.replay)),
        }
    }

    fn stored(&mut self, segment: &SegmentInfo) -> Stored {
        let body = segment.has_body().then(|| self.block(segment.location, segment.crc));
        let owner = (segment.keyspace, segment.range.start);
        let pieces = of(self.described.pieces, owner, PieceInfo::owner);
        let pieces = pieces.iter().map(|piece| self.block(piece.location, piece.crc)).collect();
        // A segment without a later stamp has seen everything up to the manifest's number.
        let seen = segment.seen.max(self.described.manifest.sequence);
        let tailed = segment.seen > segment.sequence;
        let logged = self.replay.is_logged(segment.keyspace, segment.range);
        Stored {
            page: None,
            body,
            pieces,
            records: segment.records,
            heap_bytes: segment.heap_bytes,
            sequence: segment.sequence,
            seen,
            tailed,
            logged,
            uncounted: self.described.manifest.is_uncounted(segment),
            replay: (tailed || logged).then(|| Arc::clone(self.replay)),
        }
    }

    fn block(&mut self, location: SegmentLocation, checksum: u64) -> Body {
        let chunk = match &self.chunk {
            Some((number, name)) if *number == location.chunk => Arc::clone(name),
            _ => {
                let name: Arc<str> = self.described.manifest.chunks[location.chunk as usize].name.as_str().into();
                self.chunk = Some((location.chunk, Arc::clone(&name)));
                name
            }
        };
        Body { chunk, offset: location.offset, len: location.len, checksum }
    }
}

/// The elements of `all`, ordered by a key, that have this one.
fn of<T, K: PartialOrd>(all: &[T], key: K, key_of: impl Fn(&T) -> K) -> &[T] {
    let start = all.partition_point(|one| key_of(one) < key);
    let len = all[start..].partition_point(|one| key_of(one) <= key);
    &all[start..start + len]
}

/// The elements of `all`, ordered by range, that are inside `range`.
fn inside<T>(all: &[T], range: Range53, range_of: impl Fn(&T) -> Range53) -> &[T] {
    let start = all.partition_point(|one| range_of(one).start < range.start);
    let len = all[start..].partition_point(|one| range_of(one).start < range.end());
    &all[start..start + len]
}
