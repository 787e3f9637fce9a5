//! Manifests in two levels: a *root* that says everything about a database but its segments, and *pages* of segments that
//! are read when something of them is needed.
//!
//! A page has the segments of one aligned range of positions of one keyspace, up to [`super::page::PAGE_SEGMENTS`] of them. The root
//! gives each page's range, its number of keys and its location in the object. So a wake reads the root, whose size is
//! that of the list of chunks, and the first reply one page, however many segments there are.
//!
//! Invariants:
//!
//! 1. Root and pages are one object. It is created and deleted as a whole, and no other manifest refers into it. So what
//!    [`super::sharing`] says of manifests holds for pages without another word.
//! 2. The root names every chunk and tail. What a manifest needs is known without its pages, even if one is damaged.
//! 3. Every byte of the object is covered by a checksum, or compared with the one value that it may have: pages follow
//!    each other without a gap, from the header to the root. Only a reader of the whole object looks at the header.
//! 4. No page reaches over a cut between shards, unless a single segment does.

use std::sync::Arc;

use bytes::Bytes;
use dormouse_types::segment::Range53;

use super::page::is_inside;
use super::{Manifest, Names, Page, PageInfo, format};
use crate::codec::{CodecError, block::verify};
use crate::store::{Store, StoreError};

/// The first read of a manifest: the root of most, and all of those that have one level.
const READ_BYTES: u64 = 64 << 10;

/// A manifest of which some pages may not have been read.
#[derive(Debug, Clone)]
pub struct PagedManifest {
    /// The part that has been read. It has the segments that are in none of `pages`.
    pub known: Arc<Manifest>,
    /// In the order of keyspaces and ranges.
    pub pages: Vec<PageInfo>,
    object: Object,
}

/// The object that holds the pages.
#[derive(Debug, Clone, Default)]
struct Object {
    name: String,
    /// The end of the object, which was read with the root, from byte `from` on.
    read: Bytes,
    from: u64,
}

impl From<Arc<Manifest>> for PagedManifest {
    fn from(known: Arc<Manifest>) -> Self {
        Self { known, pages: Vec::new(), object: Object::default() }
    }
}

impl PagedManifest {
    /// The manifest, if all of it has been read.
    pub fn whole(&self) -> Option<&Arc<Manifest>> {
        Some(&self.known).filter(|_| self.pages.is_empty())
    }

    /// Reads a manifest as far as its root.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub(super) async fn read(
        store: &Store,
        database: &str,
        names: &Names,
        number: u64,
    ) -> Result<PagedManifest, StoreError> {
        let name = names.manifest(number);
        let corrupt = |error: CodecError| StoreError::corrupt(&name, error);
        let (read, size) = store.get_suffix(&name, READ_BYTES).await?;
        let from = size - read.len() as u64;
        let Some(root) = format::root_place(&read, size).map_err(corrupt)? else {
            let bytes = if from == 0 { read } else { store.get(&name).await? };
            let known = Arc::new(Manifest::decode(&bytes).map_err(corrupt)?);
            known.check_name(database, &name, number)?;
            return Ok(known.into());
        };
        let bytes = match root.bytes.start.checked_sub(from) {
            Some(start) => read.slice(start as usize..(root.bytes.end - from) as usize),
            None => store.get_range(&name, root.bytes.clone()).await?,
        };
        let (known, pages) = format::decode_root(&bytes, &root).map_err(corrupt)?;
        known.check_name(database, &name, number)?;
        Ok(PagedManifest { known: Arc::new(known), pages, object: Object { name, read, from } })
    }

    /// Reads one page.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged. The text names the manifest.
    pub async fn read_page(&self, store: &Store, info: &PageInfo) -> Result<Page, StoreError> {
        let Object { name, read, from } = &self.object;
        if let Some(start) = info.bytes.start.checked_sub(*from)
            && let Ok(page) =
                format::decode_page(&read[start as usize..(info.bytes.end - from) as usize], info, &self.known)
        {
            return Ok(page);
        }
        // The bytes read with the root are damaged, but the object may have been mended since.
        let bytes = store.get_range(name, info.bytes.clone()).await?;
        let Range53 { start, bits } = info.range;
        format::decode_page(&bytes, info, &self.known)
            .map_err(|error| StoreError::corrupt(name, format!("page {start:#x}/{bits}: {error}")))
    }

    /// The same with the bytes of all pages in memory: the database's writer may delete the object from now on.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn held(mut self, store: &Store) -> Result<PagedManifest, StoreError> {
        let Object { name, read, from } = &mut self.object;
        if !self.pages.is_empty() && *from > 0 {
            // The bytes after these were read before.
            let before = store.get_range(name, 0..*from).await?;
            (*read, *from) = ([&before[..], &read[..]].concat().into(), 0);
        }
        let is_sound = |page: &PageInfo| {
            let bytes = &read[page.bytes.start as usize..page.bytes.end as usize];
            verify(bytes).is_ok_and(|checksum| checksum == page.crc)
        };
        if !self.pages.iter().all(is_sound) {
            // It may have been damaged on the way, or mended since.
            *read = store.get_range(name, 0..read.len() as u64).await?;
        }
        Ok(self)
    }

    /// The object of a manifest with the same segments. Pages must be [held](Self::held).
    pub(super) fn encode(&self, manifest: &Manifest, number: u64) -> Vec<u8> {
        match self.pages.is_empty() {
            true => format::encode(manifest, number),
            false => format::encode_with_pages(manifest, number, &self.pages, &self.object.read),
        }
    }

    /// The same pages in the object that [`Self::encode`] has made.
    pub(super) fn replaced_by(self, known: Manifest, name: String, read: Bytes) -> PagedManifest {
        PagedManifest { known: Arc::new(known), object: Object { name, read, from: 0 }, ..self }
    }

    /// All of the manifest: pages that were not read are read now. This does not need the header, which may be damaged.
    ///
    /// # Errors
    /// When some of it cannot be read. The text names the manifest.
    pub async fn read_all(&self, store: &Store) -> Result<Arc<Manifest>, StoreError> {
        if let Some(whole) = self.whole() {
            return Ok(Arc::clone(whole));
        }
        let (manifest, damaged) = self.clone().held(store).await?.read_readable(store).await?;
        if let Some((_, error)) = damaged.into_iter().next() {
            return Err(error);
        }
        manifest.check().map_err(|problem| StoreError::corrupt(&self.object.name, problem))?;
        Ok(Arc::new(manifest))
    }

    /// All of the manifest that can be read, and the faults of the other pages.
    ///
    /// # Errors
    /// When the object no longer exists, or the store does not answer.
    pub async fn read_readable(&self, store: &Store) -> Result<(Manifest, Vec<(PageInfo, StoreError)>), StoreError> {
        let mut manifest = Manifest::clone(&self.known);
        let mut damaged = Vec::new();
        for info in &self.pages {
            match self.read_page(store, info).await {
                Ok(mut page) => {
                    manifest.segments.append(&mut page.segments);
                    manifest.pieces.append(&mut page.pieces);
                }
                Err(error @ StoreError::Corrupt { .. }) => damaged.push((info.clone(), error)),
                Err(error) => return Err(error),
            }
        }
        Ok((manifest, damaged))
    }

    /// Keys of a keyspace, and how many of them have an expiry.
    pub fn counts_of(&self, keyspace: u32) -> (u64, u64) {
        let segments = self.known.segments_of(keyspace).iter().map(|segment| (segment.records, segment.expiring));
        let pages = self.pages.iter().filter(|page| page.keyspace == keyspace);
        segments
            .chain(pages.map(|page| (page.records, page.expiring)))
            .fold((0, 0), |(keys, all), (records, expiring)| (keys + u64::from(records), all + u64::from(expiring)))
    }

    /// The pages of one keyspace, in the order of their ranges.
    pub fn pages_of(&self, keyspace: u32) -> &[PageInfo] {
        let start = self.pages.partition_point(|page| page.keyspace < keyspace);
        let len = self.pages[start..].partition_point(|page| page.keyspace == keyspace);
        &self.pages[start..start + len]
    }

    /// The first slots of all shards but the first. A cut that goes through a page or a segment is left out, as the
    /// contents that it would divide have not been read.
    pub fn shard_cuts(&self) -> Vec<u16> {
        let mut cuts = self.known.shard_cuts.clone();
        cuts.retain(|cut| {
            !self.pages.iter().any(|page| is_inside(page.range, *cut))
                && !self.known.segments.iter().any(|segment| is_inside(segment.range, *cut))
        });
        cuts
    }
}
