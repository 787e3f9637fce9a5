//! Databases from a point of a backup, into a store that no server has open.
//!
//! 1. Everything that could be refused is looked at before anything is written.
//! 2. The objects of each database are copied, and checked on the way. They get new names: the first database that needs an
//!    object owns it, and the others name it there, as branches do. So what branches share is copied once.
//! 3. Keys are counted where an image does not say how many there are (see [`DatabaseImage`]).
//! 4. The directory gets the records, with tokens and settings. A crash from here on leaves an empty database at worst, and
//!    the next attempt fills it. The other way round, a server that starts in between would give the database a record
//!    without its tokens.
//! 5. The manifests are committed. A database has its data from its manifest on, as a whole; one that cannot be read from
//!    the backup gets none.
//!
//! A restored database has its own time of creation, so what the log may still have of an earlier one of its name is not
//! taken for its own.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use dormouse_storage::backup::{
    BackupPoint, DatabaseImage, Saved, SavedData, SavedDatabase, SavedObject, read_data, read_image,
};
use dormouse_storage::directory::{DatabaseRecord, DirectoryChange, DirectoryLog};
use dormouse_storage::log::recovery::Recovered;
use dormouse_storage::manifest::{self, ANCESTORS, Manifest, Names, SegmentInfo, Timeline};
use dormouse_storage::owner::Ownership;
use dormouse_storage::replay::Replay;
use dormouse_storage::shown::is_hidden;
use dormouse_storage::store::{Store, StoreError};
use futures::StreamExt;

use crate::branch::{leave_import, leave_triggers};
use crate::error::Error;
use crate::snapshot::Snapshot;

/// Objects that are copied at once; each is in memory as a whole.
const COPIED_TOGETHER: usize = 4;

/// A database of a point, and the name that it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChosenDatabase {
    pub from: String,
    pub to: String,
}

impl ChosenDatabase {
    fn is_renamed(&self) -> bool {
        self.from != self.to
    }
}

/// What is to be restored.
pub struct Restore<'a> {
    pub backup: &'a Store,
    pub point: &'a BackupPoint,
    pub store: &'a Arc<Store>,
    /// The proof that this process owns a store without a lock.
    pub owner: Option<Arc<Ownership>>,
    /// The log's entries of all databases.
    pub recovered: &'a Recovered,
    /// In the order of names.
    pub databases: &'a [ChosenDatabase],
    /// Whether the data of databases that exist are replaced.
    pub replace: bool,
    /// Unix milliseconds.
    pub now_ms: u64,
    /// A random number that no other process has.
    pub writer: u64,
}

/// The outcome of a restore.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RestoreReport {
    pub restored: Vec<RestoredDatabase>,
    /// Databases that could not be restored, and why.
    pub failed: Vec<(String, String)>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct RestoredDatabase {
    pub name: String,
    pub keys: u64,
    pub bytes: u64,
    /// Its time to live had ended: it has none now.
    pub had_ended: bool,
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum NotRestored {
    #[error("the backup has no database `{0}`")]
    Unknown(String),
    #[error("database `{0}` exists already: --replace replaces its data, and --as restores it under another name")]
    Exists(String),
    #[error(
        "database `{0}` was deleted a short time ago and can still be brought back: start the server, then `dormouse db \
         undelete {0}`, or delete it for good with `dormouse db delete {0} --now`"
    )]
    Deleted(String),
    #[error(
        "`{branch}` is a branch of `{owner}`, which does not exist: restore both, or restore it under a name without a dot"
    )]
    NoOwner { branch: String, owner: String },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Count(Error),
}

/// Why a database could not be restored.
enum Fault {
    /// The backup lacks something; other databases may be whole.
    Backup(StoreError),
    Other(NotRestored),
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Other(error.into())
    }
}

/// A database whose objects are in the store.
struct Brought {
    /// To be committed.
    manifest: Manifest,
    had_ended: bool,
}

/// Records of the directory by name, and its next step.
struct Directory {
    log: DirectoryLog,
    records: BTreeMap<Box<str>, DatabaseRecord>,
}

/// The copied objects: their names in the store by their names in the source.
type Copied = HashMap<String, String>;

impl Restore<'_> {
    /// Restores the databases. `watch` is told the bytes of each copied object.
    ///
    /// # Errors
    /// When it must not be, or the store refuses. A database is restored whole or not at all; where the store refuses one
    /// after others were restored, the report says so.
    pub async fn run(&self, watch: &mut dyn FnMut(u64)) -> Result<RestoreReport, NotRestored> {
        let (log, records) = DirectoryLog::read_records(self.store, self.owner.clone(), self.writer).await?;
        let mut directory = Directory { log, records };
        self.check(&directory).await?;
        let mut copied = Copied::new();
        let (mut report, mut ready) = (RestoreReport::default(), Vec::new());
        for chosen in self.databases {
            let data = match self.point.find(&chosen.from).map(|saved| &saved.contents) {
                Some(Saved::Data(data)) => data,
                Some(Saved::LeftOut(reason)) => {
                    let text = format!("the backup lacks it: {reason}");
                    report.failed.push((chosen.to.clone(), text));
                    continue;
                }
                Some(Saved::Nothing) | None => continue,
            };
            match self.bring(chosen, data, &mut copied, watch).await {
                Ok(brought) => ready.push(brought),
                Err(Fault::Backup(error)) => report.failed.push((chosen.to.clone(), error.to_string())),
                Err(Fault::Other(error)) => {
                    let names: Vec<String> = copied.into_values().collect();
                    // What stays is garbage: the error before it is the one to tell.
                    let _ = self.store.delete_many(&names).await;
                    return Err(error);
                }
            }
        }
        if let Some(owner) = &self.owner {
            owner.look().await?;
        }
        let unread: Vec<String> = report.failed.iter().map(|(name, _)| name.clone()).collect();
        let entered = self.enter(&mut directory, &mut report).await?;
        let mut refused = Vec::new();
        for Brought { mut manifest, had_ended } in ready {
            let name = manifest.database.clone();
            if let Err(error) = self.commit(&mut manifest).await {
                refused.push((name, error));
                continue;
            }
            let segments = manifest.segments.iter().filter(|segment| !is_hidden(segment.keyspace));
            let keys = segments.map(|segment| u64::from(segment.records)).sum();
            let had_ended = had_ended || self.record_had_ended(&name);
            report.restored.push(RestoredDatabase { name, keys, bytes: manifest.stored_bytes(), had_ended });
        }
        report.restored.sort_by(|a, b| a.name.cmp(&b.name));
        // With other errors the manifest may be there, or be about to.
        let without = refused.iter().filter(|(_, error)| matches!(error, StoreError::Full { .. }));
        let without: Vec<String> = without.map(|(name, _)| name.clone()).collect();
        let forgotten = entered.into_iter().filter(|name| without.contains(name));
        let forgotten = forgotten.map(|name| DirectoryChange::Remove(name.into())).collect::<Vec<_>>();
        if !forgotten.is_empty()
            && let Err(error) = directory.log.commit(forgotten).await
        {
            tracing::warn!(%error, "databases that were not restored stay in the directory, empty");
        }
        self.clean(unread.iter().chain(&without)).await?;
        if report.restored.is_empty() && !refused.is_empty() {
            return Err(refused.swap_remove(0).1.into());
        }
        report.failed.extend(refused.into_iter().map(|(name, error)| (name, error.to_string())));
        Ok(report)
    }

    /// Step 1.
    async fn check(&self, directory: &Directory) -> Result<(), NotRestored> {
        for ChosenDatabase { from, to } in self.databases {
            if self.point.find(from).is_none() {
                return Err(NotRestored::Unknown(from.clone()));
            }
            // Nor does a branch come back to an owner that is deleted.
            let names = [to.as_str(), to.split_once('.').map_or("", |(owner, _)| owner)];
            let mut records = names.iter().filter_map(|name| directory.records.get(*name));
            if let Some(deleted) = records.find(|record| record.deleted.is_some()) {
                return Err(NotRestored::Deleted(deleted.name.to_string()));
            }
            if !self.replace && self.holds_data(to).await? {
                return Err(NotRestored::Exists(to.clone()));
            }
            if let Some((owner, _)) = to.split_once('.') {
                let is_restored = self.databases.iter().any(|other| other.to == owner);
                let exists = is_restored
                    || directory.records.contains_key(owner)
                    || manifest::exists(self.store, owner).await?
                    || self.recovered.identity_of(owner).is_some();
                if !exists {
                    return Err(NotRestored::NoOwner { branch: to.clone(), owner: owner.to_owned() });
                }
            }
        }
        Ok(())
    }

    /// Whether there is a database of this name that has, or has had, a key.
    async fn holds_data(&self, name: &str) -> Result<bool, StoreError> {
        let Some(before) = manifest::latest_root(self.store, name).await? else {
            return Ok(self.recovered.goes_beyond(name, 0) && self.recovered.identity_of(name).is_some());
        };
        let known = &before.known;
        let has_data = !before.pages.is_empty() || known.holds_data();
        Ok(has_data || known.cut > known.sequence || self.recovered.goes_beyond(name, known.cut))
    }

    /// Steps 2 and 3.
    async fn bring(
        &self,
        chosen: &ChosenDatabase,
        data: &SavedData,
        copied: &mut Copied,
        watch: &mut dyn FnMut(u64),
    ) -> Result<Brought, Fault> {
        let image = read_image(self.backup, data).await.map_err(of_backup)?;
        let before = manifest::replaced(self.store, &chosen.to).await?;
        let had_ended = image.expires_ms.is_some_and(|ms| ms <= self.now_ms);
        let mut manifest = self.manifest(chosen, image, before);
        self.copy(&mut manifest, data, copied, watch).await?;
        self.count(&mut manifest, data.origin.sequence).await?;
        Ok(Brought { manifest, had_ended })
    }

    /// The image as a manifest of the store. The names of objects are still those of the source.
    fn manifest(&self, chosen: &ChosenDatabase, image: Manifest, before: Option<Manifest>) -> Manifest {
        let mut manifest = image;
        manifest.database.clone_from(&chosen.to);
        (manifest.number, manifest.epoch, manifest.next_object) = (0, 1, 0);
        (manifest.writer, manifest.created_ms) = (self.writer, self.now_ms);
        // A backup takes none.
        manifest.timeline = Timeline::default();
        manifest.expires_ms = manifest.expires_ms.filter(|ms| *ms > self.now_ms && !chosen.is_renamed());
        leave_import(&mut manifest);
        leave_triggers(&mut manifest);
        if chosen.is_renamed() {
            // A database of its own, which has used nothing yet.
            manifest.source = None;
            manifest.settings.remove(ANCESTORS);
            manifest.meters = Vec::new();
        }
        if let Some(before) = before {
            (manifest.number, manifest.epoch) = (before.number, before.epoch.saturating_add(1));
            (manifest.next_object, manifest.meters) = (before.next_object, before.meters);
        }
        manifest
    }

    /// Step 2: copies the objects that are not in the store yet, and names them as they are called there.
    async fn copy(
        &self,
        manifest: &mut Manifest,
        data: &SavedData,
        copied: &mut Copied,
        watch: &mut dyn FnMut(u64),
    ) -> Result<(), Fault> {
        let names = Names::new(&manifest.database)?;
        let saved: HashMap<&str, &SavedObject> =
            data.objects.iter().map(|object| (object.name.as_str(), object)).collect();
        let (epoch, writer) = (manifest.epoch, manifest.writer);
        let mut missing: Vec<(&SavedObject, String)> = Vec::new();
        let chunks = manifest.chunks.iter().map(|chunk| (chunk.name.as_str(), true));
        for (name, is_chunk) in chunks.chain(manifest.tails.iter().map(|tail| (tail.name.as_str(), false))) {
            if copied.contains_key(name) {
                continue;
            }
            let unlisted = || StoreError::corrupt(&data.image.name, format!("it needs {name}, which its point lacks"));
            let object = *saved.get(name).ok_or_else(|| Fault::Backup(unlisted()))?;
            let counter = manifest.next_object;
            manifest.next_object += 1;
            let new = if is_chunk { names.chunk(epoch, writer, counter) } else { names.tail(epoch, writer, counter) };
            missing.push((object, new));
        }
        let copies = futures::stream::iter(missing).map(|(object, new)| async move {
            let bytes = read_data(self.backup, object).await.map_err(of_backup)?;
            self.store.put_new(&new, bytes).await?;
            Ok::<_, Fault>((object, new))
        });
        let mut copies = copies.buffer_unordered(COPIED_TOGETHER);
        while let Some(done) = copies.next().await {
            let (object, new) = done?;
            watch(object.bytes);
            copied.insert(object.name.clone(), new);
        }
        let all = manifest.chunks.iter_mut().map(|chunk| &mut chunk.name);
        for name in all.chain(manifest.tails.iter_mut().map(|tail| &mut tail.name)) {
            if let Some(new) = copied.get(name.as_str()) {
                name.clone_from(new);
            }
        }
        Ok(())
    }

    /// Step 3. `sequence`: of the manifest that the image was made from.
    async fn count(&self, manifest: &mut Manifest, sequence: u64) -> Result<(), Fault> {
        let is_uncounted =
            |segment: &SegmentInfo| !DatabaseImage::is_counted(segment, sequence) || manifest.is_uncounted(segment);
        let all = manifest.segments.iter().enumerate().filter(|(_, segment)| is_uncounted(segment));
        let uncounted: Vec<usize> = all.map(|(at, _)| at).collect();
        manifest.uncounted = 0;
        if uncounted.is_empty() {
            return Ok(());
        }
        let replay = Replay::read(self.store, manifest, None).await?;
        let snapshot = Snapshot::of(self.store, Arc::new(manifest.clone()).into(), replay);
        for at in uncounted {
            let segment = &mut manifest.segments[at];
            let counted = snapshot.count(segment).await.map_err(|error| Fault::Other(NotRestored::Count(error)))?;
            (segment.records, segment.expiring) = (counted.records, counted.expiring);
            segment.heap_bytes = counted.heap_bytes;
        }
        Ok(())
    }

    /// Step 5.
    async fn commit(&self, manifest: &mut Manifest) -> Result<(), StoreError> {
        let replaces = manifest.number > 0;
        manifest::mark_shared(self.store, manifest).await?;
        manifest::commit(self.store, manifest).await?;
        // The server's next checkpoint would find the same.
        if replaces && let Err(error) = manifest::collect_garbage(self.store, manifest).await {
            tracing::warn!(database = &*manifest.database, %error, "failed to delete old objects");
        }
        Ok(())
    }

    /// Step 4. A record that the directory has stays: tokens that were revoked meanwhile do not come back. Returns the names
    /// of those that were entered and are to get data.
    async fn enter(&self, directory: &mut Directory, report: &mut RestoreReport) -> Result<Vec<String>, StoreError> {
        let failed: HashSet<&str> = report.failed.iter().map(|(name, _)| name.as_str()).collect();
        let (mut changes, mut entered) = (Vec::new(), Vec::new());
        for chosen in self.databases.iter().filter(|chosen| !failed.contains(chosen.to.as_str())) {
            let Some(SavedDatabase { record: Some(record), contents, .. }) = self.point.find(&chosen.from) else {
                continue;
            };
            let is_empty = *contents == Saved::Nothing;
            if is_empty {
                let (name, had_ended) = (chosen.to.clone(), self.record_had_ended(&chosen.to));
                report.restored.push(RestoredDatabase { name, keys: 0, bytes: 0, had_ended });
            }
            if directory.records.contains_key(chosen.to.as_str()) {
                continue;
            }
            let mut record = DatabaseRecord {
                name: chosen.to.as_str().into(),
                deleted: None,
                has_triggers: false,
                ..record.clone()
            };
            record.expires_ms = record.expires_ms.filter(|ms| *ms > self.now_ms && !chosen.is_renamed());
            if chosen.is_renamed() {
                record.owner = None;
                record.tokens.clear();
            }
            changes.push(DirectoryChange::put(&record));
            entered.extend((!is_empty).then(|| chosen.to.clone()));
        }
        if !changes.is_empty() {
            directory.log.commit(changes).await?;
        }
        Ok(entered)
    }

    /// Whether the time to live that the record of a restored database had is over.
    fn record_had_ended(&self, name: &str) -> bool {
        let from = self.databases.iter().find(|chosen| chosen.to == name).map(|chosen| chosen.from.as_str());
        let record = from.and_then(|from| self.point.find(from)).and_then(|saved| saved.record.as_ref());
        record.and_then(|record| record.expires_ms).is_some_and(|ms| ms <= self.now_ms)
    }

    /// Deletes what was copied for databases that could not be restored, except for what others need of it.
    async fn clean(&self, names: impl Iterator<Item = &String>) -> Result<(), StoreError> {
        for name in names {
            if !manifest::exists(self.store, name).await? {
                manifest::delete_database(self.store, name).await?;
            }
        }
        Ok(())
    }
}

/// A fault of the backup itself concerns one database; a store that does not answer concerns all.
fn of_backup(error: StoreError) -> Fault {
    match error {
        StoreError::Corrupt { .. } | StoreError::Missing { .. } => Fault::Backup(error),
        error => Fault::Other(error.into()),
    }
}

#[cfg(test)]
mod tests;
