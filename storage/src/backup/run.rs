//! A backup, from its beginning to its point.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::executor::block_on;
use futures::future::join_all;

use super::format::{BackupPoint, Saved, SavedData, SavedDatabase, SavedObject};
use super::image::{DatabaseImage, Newest, Unreadable, read_manifest};
use super::target::{BackupRun, data_name, list_data, list_images, points, put};
use crate::chunk::SegmentLocation;
use crate::codec::block::verify;
use crate::codec::checksum;
use crate::directory::{DatabaseRecord, DirectoryLog};
use crate::log::Log;
use crate::log::recovery::Recovered;
use crate::manifest::{self, Manifest, PagedManifest};
use crate::store::{Store, StoreError};
use crate::tail::Tail;

/// Objects that are copied at once; each is in memory as a whole.
const COPIED_TOGETHER: usize = 4;

/// Databases whose manifests are read before the log is read once for all of them.
const READ_TOGETHER: usize = 64;

/// Attempts to copy one database while a server deletes what its newest manifest does not need.
const ATTEMPTS: u64 = 16;

/// What is to be copied, and to where.
#[derive(Debug)]
pub struct BackupOrder<'a> {
    pub source: &'a Arc<Store>,
    pub target: &'a Arc<Store>,
    /// All databases of the source if there are none.
    pub databases: &'a [String],
    /// Unix milliseconds.
    pub now_ms: u64,
    /// A random number that no other process has.
    pub writer: u64,
}

/// How far a backup is.
#[derive(Debug)]
pub enum BackupStep<'a> {
    /// An object was copied.
    Copied { bytes: u64 },
    /// A database is complete, or was left out.
    Done(&'a SavedDatabase),
    /// A point of an earlier backup cannot be read.
    Unreadable(&'a StoreError),
}

/// The outcome of a backup.
#[derive(Debug)]
pub struct BackupReport {
    pub point: BackupPoint,
    /// Objects that were copied, and their bytes; the others were there.
    pub copied: u64,
    pub copied_bytes: u64,
}

/// Why there is no point.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("database `{0}` does not exist in the store")]
    Unknown(String),
    #[error("the source cannot be read: {0}")]
    Source(StoreError),
    #[error("the target: {0}")]
    Target(StoreError),
    #[error("another backup of this target has begun meanwhile: only one runs at a time")]
    Overtaken,
}

impl BackupError {
    fn of_run(error: StoreError) -> Self {
        match error {
            StoreError::Exists { .. } => Self::Overtaken,
            error => Self::Target(error),
        }
    }
}

impl BackupOrder<'_> {
    /// Makes a point. It blocks, so it must not be called from async code.
    ///
    /// # Errors
    /// When the directory or the log cannot be read, or the target refuses. A database that cannot be read is left out of the
    /// point, which says so.
    pub fn run(&self, watch: &mut dyn FnMut(BackupStep<'_>)) -> Result<BackupReport, BackupError> {
        let run = block_on(BackupRun::begin(self.target)).map_err(BackupError::of_run)?;
        let known = block_on(Known::read(self.target, watch)).map_err(BackupError::Target)?;
        let stored = block_on(manifest::databases(self.source)).map_err(BackupError::Source)?;
        // The log is read by threads of its own, so not inside `block_on`.
        let recovered = Log::look(self.source).map_err(BackupError::Source)?;
        // Read last: a database that was made meanwhile has its tokens.
        let (_, records) =
            block_on(DirectoryLog::read_records(self.source, None, self.writer)).map_err(BackupError::Source)?;
        let names = self.names(stored, &records, &recovered)?;
        let mut copying = Copying { source: self.source, target: self.target, run, recovered, known, watch };
        let mut databases = Vec::with_capacity(names.len());
        for group in names.chunks(READ_TOGETHER) {
            let read = block_on(join_all(group.iter().map(|name| read_manifest(self.source, name))));
            copying.recovered = Log::look(self.source).map_err(BackupError::Source)?;
            for (name, manifest) in group.iter().zip(read) {
                let record = records.get(name.as_str()).cloned();
                let contents = match copying.save(name, manifest, self.writer)? {
                    // It was deleted since its name was listed.
                    Saved::Nothing if record.is_none() => continue,
                    contents => contents,
                };
                let saved = SavedDatabase { name: name.clone(), record, contents };
                (copying.watch)(BackupStep::Done(&saved));
                databases.push(saved);
            }
        }
        let Copying { run, known, .. } = copying;
        let source = self.source.url().to_owned();
        let point = BackupPoint { number: run.number, time_ms: self.now_ms, source, databases };
        block_on(run.commit(&point)).map_err(BackupError::of_run)?;
        Ok(BackupReport { point, copied: known.copied, copied_bytes: known.copied_bytes })
    }

    /// The names of the databases to copy, in order. Those that were deleted and can still be brought back are not among them.
    fn names(
        &self,
        stored: Vec<String>,
        records: &BTreeMap<Box<str>, DatabaseRecord>,
        recovered: &Recovered,
    ) -> Result<Vec<String>, BackupError> {
        let mut all: BTreeSet<String> = stored.into_iter().collect();
        all.extend(recovered.identities().into_iter().map(|identity| identity.name.to_string()));
        all.extend(records.keys().map(ToString::to_string));
        all.retain(|name| records.get(name.as_str()).is_none_or(|record| record.deleted.is_none()));
        if self.databases.is_empty() {
            return Ok(all.into_iter().collect());
        }
        let wanted: BTreeSet<&String> = self.databases.iter().collect();
        match wanted.iter().find(|name| !all.contains(**name)) {
            Some(unknown) => Err(BackupError::Unknown(unknown.to_string())),
            None => Ok(wanted.into_iter().cloned().collect()),
        }
    }
}

/// A backup that runs.
struct Copying<'a> {
    source: &'a Arc<Store>,
    target: &'a Store,
    run: BackupRun,
    /// The source's log, read after the manifests that were read until then.
    recovered: Recovered,
    known: Known,
    watch: &'a mut dyn FnMut(BackupStep<'_>),
}

impl Copying<'_> {
    /// Copies one database. Where it cannot be read, its newest manifest and the log are read again, until two attempts find
    /// the same. `manifest`: as it was read before the log. `writer`: a random number.
    fn save(
        &mut self,
        name: &str,
        manifest: Result<Option<PagedManifest>, StoreError>,
        writer: u64,
    ) -> Result<Saved, BackupError> {
        let (mut manifest, mut before, mut attempts) = (manifest, None, 0);
        loop {
            attempts += 1;
            let number = manifest.as_ref().ok().and_then(Option::as_ref).map(|manifest| manifest.known.number);
            // A tail of another attempt has another name, as it has other effects.
            let reason = match block_on(self.attempt(name, manifest, writer.wrapping_add(attempts))) {
                Ok(saved) => return Ok(saved),
                Err(Trouble::Target(error)) => return Err(BackupError::Target(error)),
                Err(Trouble::Source(Unreadable::Log(problem))) => problem,
                Err(Trouble::Source(Unreadable::Store(
                    error @ (StoreError::Corrupt { .. } | StoreError::Missing { .. }),
                ))) => error.to_string(),
                Err(Trouble::Source(Unreadable::Store(error))) => return Err(BackupError::Source(error)),
            };
            let found = Some((number, reason.clone()));
            if found == before || attempts >= ATTEMPTS {
                return Ok(Saved::LeftOut(reason));
            }
            before = found;
            manifest = block_on(read_manifest(self.source, name));
            self.recovered = Log::look(self.source).map_err(BackupError::Source)?;
        }
    }

    async fn attempt(
        &mut self,
        name: &str,
        manifest: Result<Option<PagedManifest>, StoreError>,
        writer: u64,
    ) -> Result<Saved, Trouble> {
        let newest = Newest::of(manifest?, name, &self.recovered).map_err(Trouble::Source)?;
        let Some(newest) = newest else { return Ok(Saved::Nothing) };
        let (origin, sequence) = (newest.origin(), newest.sequence());
        // The same manifest and the same end of the log make the same image.
        if let Some(same) = self.known.unchanged(name, |data| data.origin == origin && data.sequence == sequence) {
            return Ok(Saved::Data(same));
        }
        let image = newest.image(self.source, writer).await?;
        let objects = self.copy(&image).await?;
        let image = self.run.put_image(&image.manifest).await.map_err(Trouble::Target)?;
        Ok(Saved::Data(SavedData { image, origin, sequence, objects }))
    }

    /// Copies the objects of an image that the target does not have.
    async fn copy(&mut self, image: &DatabaseImage) -> Result<Vec<SavedObject>, Trouble> {
        let mut checks = Checks::of(&image.manifest);
        let (mut objects, mut missing) = (Vec::new(), Vec::new());
        for (name, bytes) in sizes(&image.manifest) {
            match self.known.find(name, bytes) {
                Some(object) => objects.push(object),
                None => missing.push((name.to_owned(), bytes, checks.take(name))),
            }
        }
        let (source, target, own) = (self.source, self.target, image.tail.as_ref());
        let copies = futures::stream::iter(missing).map(|(name, bytes, check)| async move {
            let object = match own {
                Some((own, object)) if *own == name => object.clone(),
                _ => source.get(&name).await?,
            };
            check.verify(&name, &object, bytes)?;
            let saved = SavedObject { name, bytes, crc: checksum(&object) };
            put(target, &data_name(&saved.name), object).await.map_err(Trouble::Target)?;
            Ok::<_, Trouble>(saved)
        });
        let mut copies = copies.buffer_unordered(COPIED_TOGETHER);
        let mut failed = None;
        while let Some(copied) = copies.next().await {
            match copied {
                Ok(object) => {
                    (self.watch)(BackupStep::Copied { bytes: object.bytes });
                    self.known.add(&object);
                    objects.push(object);
                }
                // What is copied already need not be copied again.
                Err(error @ Trouble::Source(_)) => failed = failed.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        objects.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        failed.map_or(Ok(objects), Err)
    }
}

/// Why a database was not copied.
enum Trouble {
    Source(Unreadable),
    Target(StoreError),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Source(Unreadable::Store(error))
    }
}

/// The names and sizes of the objects that a manifest needs.
fn sizes(manifest: &Manifest) -> impl Iterator<Item = (&str, u64)> {
    let chunks = manifest.chunks.iter().map(|chunk| (chunk.name.as_str(), chunk.bytes));
    chunks.chain(manifest.tails.iter().map(|tail| (tail.name.as_str(), tail.bytes)))
}

/// What is known to be in the target.
struct Known {
    /// Objects by their names in the source.
    objects: HashMap<String, (u64, u64)>,
    /// The newest that a point has of each database, if its image is there.
    databases: HashMap<String, SavedData>,
    copied: u64,
    copied_bytes: u64,
}

impl Known {
    async fn read(target: &Store, watch: &mut dyn FnMut(BackupStep<'_>)) -> Result<Self, StoreError> {
        let (listed, images) = (list_data(target).await?, list_images(target).await?);
        let mut known = Known { objects: HashMap::new(), databases: HashMap::new(), copied: 0, copied_bytes: 0 };
        for (_, point) in points(target).await? {
            let point = match point {
                Ok(point) => point,
                Err(error) => {
                    watch(BackupStep::Unreadable(&error));
                    continue;
                }
            };
            for (database, data) in point.data() {
                for SavedObject { name, bytes, crc } in &data.objects {
                    // Another program may have cut or deleted it.
                    if listed.get(name) == Some(bytes) {
                        known.objects.insert(name.clone(), (*bytes, *crc));
                    }
                }
                if images.get(&data.image.name) == Some(&data.image.bytes) {
                    known.databases.insert(database.name.clone(), data.clone());
                }
            }
        }
        Ok(known)
    }

    fn find(&self, name: &str, bytes: u64) -> Option<SavedObject> {
        let (size, crc) = *self.objects.get(name)?;
        (size == bytes).then(|| SavedObject { name: name.to_owned(), bytes, crc })
    }

    /// The newest copy of a database, if it is `the` one and complete.
    fn unchanged(&self, name: &str, the: impl Fn(&SavedData) -> bool) -> Option<SavedData> {
        let is_there = |object: &SavedObject| self.find(&object.name, object.bytes).is_some();
        self.databases.get(name).filter(|data| the(data) && data.objects.iter().all(is_there)).cloned()
    }

    fn add(&mut self, object: &SavedObject) {
        self.copied += 1;
        self.copied_bytes += object.bytes;
        self.objects.insert(object.name.clone(), (object.bytes, object.crc));
    }
}

/// What is checked of each object of a manifest before it is copied.
struct Checks {
    /// The bodies and pieces in each chunk, with their checksums.
    bodies: HashMap<String, Vec<(SegmentLocation, u64)>>,
}

/// What is checked of one object.
enum Check {
    Bodies(Vec<(SegmentLocation, u64)>),
    Tail,
}

impl Checks {
    fn of(manifest: &Manifest) -> Self {
        let mut by_chunk = vec![Vec::new(); manifest.chunks.len()];
        let bodies = manifest.segments.iter().filter(|segment| segment.has_body());
        let bodies = bodies.map(|segment| (segment.location, segment.crc));
        for (location, crc) in bodies.chain(manifest.pieces.iter().map(|piece| (piece.location, piece.crc))) {
            by_chunk[location.chunk as usize].push((location, crc));
        }
        Self { bodies: manifest.chunks.iter().map(|chunk| chunk.name.clone()).zip(by_chunk).collect() }
    }

    fn take(&mut self, name: &str) -> Check {
        self.bodies.remove(name).map_or(Check::Tail, Check::Bodies)
    }
}

impl Check {
    fn verify(&self, name: &str, object: &Bytes, bytes: u64) -> Result<(), StoreError> {
        if object.len() as u64 != bytes {
            let problem = format!("{} bytes long, but it was written with {bytes}", object.len());
            return Err(StoreError::corrupt(name, problem));
        }
        let bodies = match self {
            Check::Bodies(bodies) => bodies,
            Check::Tail => {
                return Tail::decode(name, object.clone()).map(drop).map_err(|error| StoreError::corrupt(name, error));
            }
        };
        for (SegmentLocation { offset, len, .. }, crc) in bodies {
            let body = object.get(*offset as usize..offset.saturating_add(*len) as usize).unwrap_or_default();
            let is_sound = verify(body).is_ok_and(|found| found == *crc);
            if !is_sound {
                return Err(StoreError::corrupt(name, format!("the body at byte {offset} is damaged")));
            }
        }
        Ok(())
    }
}
