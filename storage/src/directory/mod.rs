//! The directory: the databases and tokens that a node has been told of while it ran.
//!
//! It is a run of numbered objects that are created only if absent, like manifests.
//!
//! 1. Each step holds the changes of some databases' records. Changes that are asked for at the same time share a step.
//! 2. A change is acknowledged after its step exists, and after a look at the owner of the store: an earlier process that
//!    goes on writing finds the number of its next step taken, or finds itself overtaken before it acknowledges anything
//!    that the later process has not read.
//! 3. A step whose write failed may exist all the same. So nothing else is written under its number, and its own changes
//!    are tried again before any other ([`DirectoryLog::settle`]).
//! 4. Now and then a snapshot of all records is written. Two snapshots are kept, and the steps after the older one, in
//!    case the newer one is damaged. Everything before is deleted, snapshots first.
//! 5. The nodes of a fleet write steps to the same run ([`shared`]).
//!
//! A store without these objects is one in which no database was made at run time: its databases are those of its folders.

pub mod format;
pub mod news;
pub mod record;
pub mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

pub use self::format::{DirectoryChange, DirectoryEncoder, DirectoryKind};
pub use self::news::{DirectoryCommit, DirectoryNews};
pub use self::record::{DatabaseRecord, Deletion, TokenRecord, TokenScope};
use crate::owner::Ownership;
use crate::store::{Store, StoreError};

/// The folder of the objects.
pub const FOLDER: &str = "directory";
const SNAPSHOT: &str = "snapshot-";

/// Steps that are read at once.
const READS_TOGETHER: usize = 64;
/// A snapshot is written after so many steps if their bytes are a sixteenth of the last one, and after so many at the
/// latest.
const STEPS_MIN: u64 = 256;
const STEPS_MAX: u64 = 1024;
const SNAPSHOT_SHARE: u64 = 16;
/// Attempts to read the directory while another process deletes what it does not need any more.
const READ_ATTEMPTS: usize = 3;

/// The name of a step's object.
pub fn step_name(number: u64) -> String {
    format!("{FOLDER}/{number:012}")
}

/// The name of the snapshot after a step.
pub fn snapshot_name(number: u64) -> String {
    format!("{FOLDER}/{SNAPSHOT}{number:012}")
}

/// The processes that write steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectoryWriters {
    /// One at a time, which owns the store. A step of another one is a late one, or damage.
    Sole,
    /// Several at the same time, the nodes of a fleet ([`shared`]).
    Shared,
}

/// The objects of a store's directory, by number.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct DirectoryObjects {
    pub steps: BTreeSet<u64>,
    pub snapshots: BTreeSet<u64>,
}

impl DirectoryObjects {
    /// # Errors
    /// When the store cannot be asked.
    pub async fn list(store: &Store) -> Result<Self, StoreError> {
        let mut found = Self::default();
        for object in store.list(FOLDER).await? {
            let Some(name) = object.name.strip_prefix(FOLDER).and_then(|name| name.strip_prefix('/')) else { continue };
            let (numbers, digits) = match name.strip_prefix(SNAPSHOT) {
                Some(digits) => (&mut found.snapshots, digits),
                None => (&mut found.steps, name),
            };
            numbers.extend(digits.parse::<u64>().ok().filter(|_| digits.len() == 12));
        }
        Ok(found)
    }

    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.snapshots.is_empty()
    }

    /// The last step, or the one that the newest snapshot follows.
    pub fn last(&self) -> u64 {
        self.steps.last().max(self.snapshots.last()).copied().unwrap_or(0)
    }

    /// The older one of the two snapshots that are kept. No step before it is needed, and any of them may be deleted.
    fn kept(&self) -> Option<u64> {
        self.snapshots.iter().nth_back(1).copied()
    }

    /// The steps after `from`.
    ///
    /// # Errors
    /// When one is missing.
    fn after(&self, from: u64) -> Result<Vec<u64>, StoreError> {
        let last = self.last();
        match (from + 1..=last).find(|number| !self.steps.contains(number)) {
            Some(number) => Err(StoreError::Missing { name: step_name(number) }),
            None => Ok((from + 1..=last).collect()),
        }
    }
}

/// Reads an object and decodes it.
///
/// # Errors
/// When it cannot be read.
pub async fn read_object(store: &Store, kind: DirectoryKind, number: u64) -> Result<Vec<DirectoryChange>, StoreError> {
    let name = match kind {
        DirectoryKind::Changes => step_name(number),
        DirectoryKind::Snapshot => snapshot_name(number),
    };
    let bytes = store.get(&name).await?;
    format::decode(&bytes, kind, number).map_err(|error| StoreError::corrupt(&name, error))
}

/// The directory as a process has read it, and its right to write the next step.
#[derive(Debug)]
pub struct DirectoryLog {
    store: Arc<Store>,
    writers: DirectoryWriters,
    owner: Option<Arc<Ownership>>,
    writer: u64,
    /// The last step, which is in memory.
    number: u64,
    /// Steps, and their bytes, since the last snapshot.
    steps: u64,
    bytes: u64,
    snapshot_bytes: u64,
    snapshots: BTreeSet<u64>,
    /// The step after the last one, if its write has failed: it may exist.
    unsure: Option<(Bytes, Vec<DirectoryChange>)>,
    /// Durable changes that are not returned yet.
    late: Vec<DirectoryChange>,
    /// An earlier snapshot, and its first bytes: as long as it is there, no later step has been deleted.
    anchor: Option<(u64, Bytes)>,
}

/// The directory as the store has it.
struct Contents {
    objects: DirectoryObjects,
    /// The records of a snapshot, and the steps after it.
    base: Vec<DirectoryChange>,
    steps: Vec<Vec<DirectoryChange>>,
}

impl DirectoryLog {
    /// Reads the directory. `apply` is shown the changes that lead to it, in order. `owner`: what decides who owns the
    /// store, if no lock does; of a node in a fleet, who owns its own run.
    ///
    /// # Errors
    /// When an object of it cannot be read: what it says about tokens may have been revoked since, so nothing older may
    /// replace it.
    pub async fn read(
        store: &Arc<Store>,
        writers: DirectoryWriters,
        owner: Option<Arc<Ownership>>,
        writer: u64,
        apply: &mut (dyn FnMut(DirectoryChange) + Send),
    ) -> Result<Self, StoreError> {
        let mut log = Self {
            store: Arc::clone(store),
            writers,
            owner,
            writer,
            number: 0,
            steps: 0,
            bytes: 0,
            snapshot_bytes: 0,
            snapshots: BTreeSet::new(),
            unsure: None,
            late: Vec::new(),
            anchor: None,
        };
        let contents = read_contents(store).await?;
        log.adopt(contents).into_iter().for_each(apply);
        Ok(log)
    }

    /// Goes on from the directory as it was read. Returns the changes that lead to it.
    fn adopt(&mut self, contents: Contents) -> Vec<DirectoryChange> {
        let Contents { objects, base, steps } = contents;
        let bytes_of = |change: &DirectoryChange| match change {
            DirectoryChange::Put(record) => record.len() as u64,
            DirectoryChange::Remove(name) => name.len() as u64,
        };
        self.number = objects.last();
        self.steps = steps.len() as u64;
        self.snapshot_bytes = base.iter().map(bytes_of).sum();
        self.bytes = steps.iter().flatten().map(bytes_of).sum();
        self.snapshots = objects.snapshots;
        base.into_iter().chain(steps.into_iter().flatten()).collect()
    }

    /// The same for the sole writer, with all records by name.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn read_records(
        store: &Arc<Store>,
        owner: Option<Arc<Ownership>>,
        writer: u64,
    ) -> Result<(Self, BTreeMap<Box<str>, DatabaseRecord>), StoreError> {
        let mut records = BTreeMap::new();
        let mut apply = |change: DirectoryChange| {
            let name: Box<str> = change.name().into();
            match change {
                // It was decoded when it was read.
                DirectoryChange::Put(record) => {
                    drop(DatabaseRecord::decode(&record).map(|of| records.insert(name, of)))
                }
                DirectoryChange::Remove(_) => drop(records.remove(&name)),
            }
        };
        let log = Self::read(store, DirectoryWriters::Sole, owner, writer, &mut apply).await?;
        Ok((log, records))
    }

    /// The last step; 0: the store has none.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether a step that failed may exist. It must be settled before the next one.
    pub fn is_unsure(&self) -> bool {
        self.unsure.is_some()
    }

    /// Writes again what may or may not have been written. Returns changes that are durable from now on.
    ///
    /// # Errors
    /// When the store refuses again: nothing has changed.
    pub async fn settle(&mut self) -> Result<DirectoryNews, StoreError> {
        match self.writers {
            DirectoryWriters::Sole => Ok(self.settle_sole().await?.into()),
            DirectoryWriters::Shared => self.settle_shared().await,
        }
    }

    /// Makes changes durable, if they were decided with the directory as it is: a sole writer knows it.
    ///
    /// # Errors
    /// [`StoreError::LogSealed`] when another process has taken the store over. Else when the store refuses: the changes
    /// may be durable or not, until [`Self::settle`] has succeeded.
    pub async fn commit(&mut self, changes: Vec<DirectoryChange>) -> Result<DirectoryCommit, StoreError> {
        if self.writers == DirectoryWriters::Shared {
            return self.commit_shared(changes).await;
        }
        let mut news = self.settle_sole().await?;
        let count = changes.len();
        match self.write(self.encode(&changes), changes).await {
            Ok(written) => news.extend(written),
            Err(error) => {
                // A full store has written nothing.
                self.unsure.take_if(|_| matches!(error, StoreError::Full { .. }));
                self.late.splice(..0, news);
                return Err(error);
            }
        }
        let changes = news.split_off(news.len().saturating_sub(count));
        Ok(DirectoryCommit::Made { news: news.into(), changes })
    }

    async fn settle_sole(&mut self) -> Result<Vec<DirectoryChange>, StoreError> {
        let Some((bytes, changes)) = self.unsure.take() else { return Ok(Vec::new()) };
        self.write(bytes, changes).await
    }

    fn encode(&self, changes: &[DirectoryChange]) -> Bytes {
        let mut encoder = DirectoryEncoder::new(DirectoryKind::Changes, self.number + 1, self.writer, changes.len());
        changes.iter().for_each(|change| encoder.change(change));
        encoder.finish().into()
    }

    /// Writes the next step. If it fails, the step is unsure.
    async fn write(&mut self, bytes: Bytes, changes: Vec<DirectoryChange>) -> Result<Vec<DirectoryChange>, StoreError> {
        let mut bytes = bytes;
        loop {
            match self.put(&bytes).await {
                Ok(None) => break,
                Ok(Some(found)) => {
                    self.note(bytes.len());
                    self.late.extend(found);
                    bytes = self.encode(&changes);
                }
                Err(error) => {
                    self.unsure = Some((bytes, changes));
                    return Err(error);
                }
            }
        }
        self.note(bytes.len());
        let mut done = std::mem::take(&mut self.late);
        done.extend(changes);
        Ok(done)
    }

    /// Creates the object of the next step. Returns the changes of another one that has its number.
    async fn put(&self, bytes: &Bytes) -> Result<Option<Vec<DirectoryChange>>, StoreError> {
        let name = step_name(self.number + 1);
        let found = match self.store.put_new(&name, bytes.clone()).await {
            Ok(()) => None,
            Err(StoreError::Exists { .. }) => Some(self.store.get(&name).await?),
            Err(error) => return Err(error),
        };
        self.look().await?;
        // If it is the same, an earlier attempt has succeeded.
        let Some(found) = found.filter(|found| found != bytes) else { return Ok(None) };
        if self.owner.is_none() {
            return Err(StoreError::corrupt(&name, "another program has written it"));
        }
        // This process is still the owner, so an earlier one has written it late, and has not acknowledged it.
        let changes = format::decode(&found, DirectoryKind::Changes, self.number + 1);
        changes.map(Some).map_err(|error| StoreError::corrupt(&name, error))
    }

    /// Fails when another process has taken the store over.
    async fn look(&self) -> Result<(), StoreError> {
        match &self.owner {
            Some(owner) => owner.look().await,
            None => Ok(()),
        }
    }

    fn note(&mut self, bytes: usize) {
        self.number += 1;
        self.steps += 1;
        self.bytes += bytes as u64;
    }

    /// Whether reading the steps since the last snapshot would take long enough for a snapshot to be worth its bytes. Of
    /// several nodes, the one that has written the last step looks after it: see [`Self::snapshot_is_due`].
    pub fn needs_snapshot(&self) -> bool {
        let is_worth_it = self.bytes.saturating_mul(SNAPSHOT_SHARE) >= self.snapshot_bytes;
        !self.is_unsure() && (self.steps >= STEPS_MAX || self.steps >= STEPS_MIN && is_worth_it)
    }

    /// An encoder for a snapshot of the directory as it is now, with so many records.
    pub fn snapshot_encoder(&self, count: usize) -> DirectoryEncoder {
        DirectoryEncoder::new(DirectoryKind::Snapshot, self.number, self.writer, count)
    }

    /// Writes a snapshot of the directory as it is now, and deletes what is not needed any more.
    ///
    /// # Errors
    /// When the store refuses. The directory is as readable as before.
    pub async fn keep_snapshot(&mut self, encoder: DirectoryEncoder) -> Result<(), StoreError> {
        let bytes = Bytes::from(encoder.finish());
        // If it fails, the next attempt comes after as many further steps.
        (self.steps, self.bytes) = (0, 0);
        self.snapshot_bytes = bytes.len() as u64;
        match self.store.put_new(&snapshot_name(self.number), bytes).await {
            Ok(()) | Err(StoreError::Exists { .. }) => {}
            Err(error) => return Err(error),
        }
        self.look().await?;
        self.snapshots.insert(self.number);
        if self.writers == DirectoryWriters::Shared {
            // Other nodes write snapshots, too.
            self.snapshots = DirectoryObjects::list(&self.store).await?.snapshots;
        }
        let Some(&kept) = self.snapshots.iter().nth_back(1) else { return Ok(()) };
        let objects = DirectoryObjects::list(&self.store).await?;
        // A node that finds a snapshot knows that no step after it was deleted.
        let snapshots: Vec<String> = objects.snapshots.range(..kept).map(|number| snapshot_name(*number)).collect();
        self.store.delete_many(&snapshots).await?;
        let steps: Vec<String> = objects.steps.range(..=kept).map(|number| step_name(*number)).collect();
        self.store.delete_many(&steps).await?;
        self.snapshots.retain(|number| *number >= kept);
        Ok(())
    }
}

/// Reads the directory while other processes may change it.
async fn read_contents(store: &Store) -> Result<Contents, StoreError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let objects = DirectoryObjects::list(store).await?;
        match read_all(store, &objects).await {
            Err(error) if error.is_missing() && attempt < READ_ATTEMPTS => {}
            Err(error) => return Err(error),
            Ok((base, steps)) => return Ok(Contents { objects, base, steps }),
        }
    }
}

/// Reads the newest readable snapshot and the steps after it.
async fn read_all(
    store: &Store,
    objects: &DirectoryObjects,
) -> Result<(Vec<DirectoryChange>, Vec<Vec<DirectoryChange>>), StoreError> {
    let (mut base, mut from, mut failed) = (Vec::new(), 0, None);
    for &number in objects.snapshots.iter().rev() {
        match read_object(store, DirectoryKind::Snapshot, number).await {
            Ok(records) => {
                (base, from) = (records, number);
                break;
            }
            Err(error @ StoreError::Corrupt { .. }) => {
                tracing::error!(%error, "a snapshot of the directory cannot be read; the one before is used");
                failed.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    let numbers = match (objects.after(from), failed) {
        (Ok(numbers), _) => numbers,
        // Without the damaged snapshot, steps are missing.
        (Err(_), Some(failed)) => return Err(failed),
        (Err(error), None) => return Err(error),
    };
    let read = futures::stream::iter(numbers).map(|number| read_object(store, DirectoryKind::Changes, number));
    Ok((base, read.buffered(READS_TOGETHER).try_collect().await?))
}

#[cfg(test)]
mod tests;
