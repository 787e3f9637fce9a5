//! The target of backups: its runs, its points, its objects.
//!
//! One run works at a time, without a lock: a run that begins *ends* the runs before it. It creates the object that each of
//! them would have to create for its point. From then on the points are those that it lists, until it makes its own.
//!
//! A run that was ended may not know it yet, and delete objects that the later run finds. So a run that deletes asks before
//! each request whether it was ended, and a run that copies looks for all objects of its point before it makes it. What
//! neither finds out is a single request to delete that takes longer than the whole later run.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use super::format::{self, BackupPoint, Saved, SavedData, SavedDatabase, SavedObject};
use crate::codec::checksum;
use crate::manifest::{Manifest, escaped};
use crate::store::{Store, StoreError};

const RUNS: &str = "backup/run";
const POINTS: &str = "backup/point";
const DATA: &str = "backup/data";
const IMAGES: &str = "backup/image";
/// Names of both kinds of objects have that of their database here.
const DATABASE_AT: usize = 3;

/// Objects that are deleted at once, in one request if the store allows it.
const DELETED_TOGETHER: usize = 1000;

/// A run, which may make a point or delete some.
#[derive(Debug)]
pub struct BackupRun {
    pub(super) store: Arc<Store>,
    pub(super) number: u64,
}

impl BackupRun {
    /// Begins a run, and ends those before it.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when another run begins at the same moment, or when the store refuses.
    pub async fn begin(store: &Arc<Store>) -> Result<Self, StoreError> {
        let runs = numbers(store, RUNS).await?;
        let ended = numbers(store, POINTS).await?;
        let number = runs.last().max(ended.last()).map_or(1, |last| last + 1);
        store.put_new(&name(RUNS, number), "").await?;
        for &run in runs.difference(&ended) {
            match store.put_new(&name(POINTS, run), format::abandoned(run)).await {
                // It has made its point meanwhile.
                Ok(()) | Err(StoreError::Exists { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let old: Vec<String> = runs.iter().map(|run| name(RUNS, *run)).collect();
        store.delete_many(&old).await?;
        Ok(Self { store: Arc::clone(store), number })
    }

    /// The number of the point that it makes.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Makes its point.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when a later run has ended this one. [`StoreError::Missing`] when an object or a key is not there:
    /// an earlier run that deletes was still at work.
    pub(super) async fn commit(&self, point: &BackupPoint) -> Result<(), StoreError> {
        let (data, images) = (list_data(&self.store).await?, list_images(&self.store).await?);
        for (_, saved) in point.data() {
            let (name, bytes) = (&saved.image.name, saved.image.bytes);
            if images.get(name) != Some(&bytes) {
                return Err(StoreError::Missing { name: name.clone() });
            }
            if let Some(missing) = saved.objects.iter().find(|object| data.get(&object.name) != Some(&object.bytes)) {
                return Err(StoreError::Missing { name: data_name(&missing.name) });
            }
        }
        self.store.check_keys().await?;
        self.store.put_new(&name(POINTS, self.number), point.encode()).await
    }

    /// # Errors
    /// [`StoreError::Exists`] when a later run has ended this one.
    async fn check_goes_on(&self) -> Result<(), StoreError> {
        let name = name(POINTS, self.number);
        match self.store.get(&name).await {
            Ok(_) => Err(StoreError::Exists { name }),
            Err(StoreError::Missing { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes an image of a database.
    pub(super) async fn put_image(&self, image: &Manifest) -> Result<SavedObject, StoreError> {
        let name = format!("{}/{}", name(IMAGES, self.number), escaped(&image.database));
        let bytes = image.encode();
        let saved = SavedObject { name, bytes: bytes.len() as u64, crc: checksum(&bytes) };
        put(&self.store, &saved.name, bytes.into()).await?;
        Ok(saved)
    }
}

fn name(folder: &str, number: u64) -> String {
    format!("{folder}/{number:012}")
}

async fn numbers(store: &Store, folder: &str) -> Result<BTreeSet<u64>, StoreError> {
    let listed = store.list(folder).await?;
    let digits = listed.iter().filter_map(|object| object.name.strip_prefix(folder)?.strip_prefix('/'));
    Ok(digits.filter(|digits| digits.len() == 12).filter_map(|digits| digits.parse().ok()).collect())
}

/// The name in the target of an object of the source.
pub fn data_name(source: &str) -> String {
    format!("{DATA}/{source}")
}

/// The sizes of all copied objects, by their names in the source.
pub(super) async fn list_data(store: &Store) -> Result<HashMap<String, u64>, StoreError> {
    let listed = store.list(DATA).await?.into_iter();
    Ok(listed.filter_map(|object| Some((object.name.strip_prefix(DATA)?.get(1..)?.to_owned(), object.bytes))).collect())
}

/// The sizes of all images, by their names.
pub(super) async fn list_images(store: &Store) -> Result<HashMap<String, u64>, StoreError> {
    Ok(store.list(IMAGES).await?.into_iter().map(|object| (object.name, object.bytes)).collect())
}

/// Creates an object whose contents are known. An object that a run before has left is replaced unless it is the same.
pub(super) async fn put(store: &Store, name: &str, bytes: Bytes) -> Result<(), StoreError> {
    match store.put_new(name, bytes.clone()).await {
        Err(StoreError::Exists { .. }) => {}
        outcome => return outcome,
    }
    match store.get(name).await {
        Ok(found) if found == bytes => return Ok(()),
        // A run that was overtaken may have encrypted it with a key that is gone.
        Ok(_) | Err(StoreError::Missing { .. } | StoreError::Corrupt { .. }) => {}
        Err(error) => return Err(error),
    }
    store.delete(name).await?;
    store.put_new(name, bytes).await
}

/// Every point, from the oldest to the newest, with its number.
///
/// # Errors
/// When the store cannot be asked.
pub async fn points(store: &Store) -> Result<Vec<(u64, Result<BackupPoint, StoreError>)>, StoreError> {
    let mut found = Vec::new();
    for number in numbers(store, POINTS).await? {
        let object = name(POINTS, number);
        let bytes = match store.get(&object).await {
            Ok(bytes) => bytes,
            // Deleted since it was listed.
            Err(StoreError::Missing { .. }) => continue,
            Err(error) => return Err(error),
        };
        match format::decode(&bytes, number) {
            Ok(None) => {}
            Ok(Some(point)) => found.push((number, Ok(point))),
            Err(error) => found.push((number, Err(StoreError::corrupt(&object, error)))),
        }
    }
    Ok(found)
}

/// Deleted points and objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    pub points: usize,
    pub objects: usize,
    pub bytes: u64,
}

/// Deletes the points from before `before_ms` (unix milliseconds), then every object that no point needs. The newest point
/// stays, and of each database that has been left out since, the newest point with its data. After a crash the next call
/// goes on.
///
/// # Errors
/// When a point cannot be read, as the objects that it needs are unknown; or when the store refuses. [`StoreError::Exists`]
/// when a later run has ended this one.
pub async fn prune(run: &BackupRun, before_ms: u64) -> Result<Pruned, StoreError> {
    let store = &run.store;
    let mut pruned = Pruned::default();
    let mut kept = Vec::new();
    for (_, point) in points(store).await? {
        kept.push(point?);
    }
    let spared = spared(&kept);
    let is_old = |point: &BackupPoint| point.time_ms < before_ms && !spared.contains(&point.number);
    for point in kept.extract_if(.., |point| is_old(point)) {
        run.check_goes_on().await?;
        store.delete(&name(POINTS, point.number)).await?;
        pruned.points += 1;
    }
    let mut needed = HashSet::new();
    for (_, data) in kept.iter().flat_map(BackupPoint::data) {
        needed.insert(data.image.name.clone());
        needed.extend(data.objects.iter().map(|object| data_name(&object.name)));
    }
    let mut doomed = Vec::new();
    for folder in [DATA, IMAGES] {
        for object in store.list(folder).await?.into_iter().filter(|object| !needed.contains(&object.name)) {
            pruned.bytes += object.bytes;
            doomed.push(object.name);
        }
    }
    for some in doomed.chunks(DELETED_TOGETHER) {
        run.check_goes_on().await?;
        store.delete_many(some).await?;
    }
    pruned.objects = doomed.len();
    let kept: HashSet<&str> = needed.iter().filter_map(|name| name.split('/').nth(DATABASE_AT)).collect();
    for database in store.encrypted_databases().await? {
        if !kept.contains(database.as_str()) {
            run.check_goes_on().await?;
            store.delete_keys(&format!("db/{database}")).await?;
        }
    }
    Ok(pruned)
}

/// The points that stay however old they are. `points`: all, from the oldest to the newest.
fn spared(points: &[BackupPoint]) -> BTreeSet<u64> {
    let mut spared: BTreeSet<u64> = points.last().map(|newest| newest.number).into_iter().collect();
    let mut seen = HashSet::new();
    let mut left_out = HashSet::new();
    for point in points.iter().rev() {
        for SavedDatabase { name, contents, .. } in &point.databases {
            let is_newest = seen.insert(name.as_str());
            match contents {
                Saved::LeftOut(_) if is_newest => _ = left_out.insert(name.as_str()),
                Saved::LeftOut(_) => {}
                Saved::Data(_) | Saved::Nothing => {
                    if left_out.remove(name.as_str()) {
                        spared.insert(point.number);
                    }
                }
            }
        }
    }
    spared
}

/// Reads a copied object, and checks it.
///
/// # Errors
/// When it is missing or damaged.
pub async fn read_data(store: &Store, object: &SavedObject) -> Result<Bytes, StoreError> {
    read(store, &data_name(&object.name), object).await
}

/// Reads an image, and checks it.
///
/// # Errors
/// When it is missing or damaged.
pub async fn read_image(store: &Store, data: &SavedData) -> Result<Manifest, StoreError> {
    let bytes = read(store, &data.image.name, &data.image).await?;
    Manifest::decode(&bytes).map_err(|error| StoreError::corrupt(&data.image.name, error))
}

async fn read(store: &Store, name: &str, object: &SavedObject) -> Result<Bytes, StoreError> {
    let bytes = store.get(name).await?;
    if bytes.len() as u64 != object.bytes {
        let problem = format!("{} bytes long, but it was written with {}", bytes.len(), object.bytes);
        return Err(StoreError::corrupt(name, problem));
    }
    match checksum(&bytes) == object.crc {
        true => Ok(bytes),
        false => Err(StoreError::corrupt(name, "its checksum is not the one that it was written with")),
    }
}
