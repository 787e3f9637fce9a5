//! Manifests in the store: finding the newest, committing the next, deleting what nobody needs.

use std::collections::HashSet;

use super::{
    Manifest, Names, format,
    names::{ROOT, manifest_number, object_origin, unescape},
};
use crate::store::{Store, StoreError};

/// How many manifests are kept, the newest included.
const KEPT: u64 = 2;

/// A manifest that is listed may be deleted before it is read, when a newer one was committed in between.
const READ_ATTEMPTS: usize = 3;

/// What [`collect_garbage`] deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Garbage {
    pub objects: u64,
    pub bytes: u64,
}

/// The newest manifest of a database; none where there is no such database. A damaged one is an error: what lies before
/// it (see [`history`]) misses acknowledged writes, so using that is somebody's decision.
pub async fn latest(store: &Store, database: &str) -> Result<Option<Manifest>, StoreError> {
    let names = Names::new(database)?;
    let mut attempt = 0;
    loop {
        let Some(number) = numbers(store, &names).await?.pop() else { return Ok(None) };
        attempt += 1;
        match read(store, database, &names, number).await {
            Err(error) if error.is_missing() && attempt < READ_ATTEMPTS => {}
            result => return result.map(Some),
        }
    }
}

/// Every manifest that is kept, the newest first, each as readable as it is.
pub async fn history(store: &Store, database: &str) -> Result<Vec<(u64, Result<Manifest, StoreError>)>, StoreError> {
    let names = Names::new(database)?;
    let mut found = Vec::new();
    for number in numbers(store, &names).await?.into_iter().rev() {
        found.push((number, read(store, database, &names, number).await));
    }
    Ok(found)
}

/// Creates the manifest after `manifest.number`, and on success counts `manifest.number` up to it. All chunks that it
/// names must have been put. [`StoreError::Fenced`] means that another writer was first; after any other error the
/// commit may be tried again, also with a newer manifest.
pub async fn commit(store: &Store, manifest: &mut Manifest) -> Result<(), StoreError> {
    let database = manifest.database.clone();
    let names = Names::new(&database)?;
    let mut number = manifest.number;
    loop {
        number += 1;
        let name = names.manifest(number);
        manifest.check().map_err(|problem| StoreError::corrupt(&name, format!("refusing to write: {problem}")))?;
        let bytes = format::encode(manifest, number);
        match store.put_new(&name, bytes.clone()).await {
            Ok(()) => break,
            Err(StoreError::Exists { .. }) => {}
            Err(error) => return Err(error),
        }
        // An earlier attempt of ours may have succeeded with its answer lost. If it was this very manifest we are done; if
        // it was an older one of ours, the next number is ours to take.
        let existing = match read(store, &database, &names, number).await {
            Ok(existing) => existing,
            Err(StoreError::Missing { .. } | StoreError::Corrupt { .. }) => {
                return Err(StoreError::Fenced { database, number });
            }
            Err(error) => return Err(error),
        };
        if (existing.epoch, existing.writer) != (manifest.epoch, manifest.writer) {
            return Err(StoreError::Fenced { database, number });
        }
        if format::encode(&existing, number) == bytes {
            break;
        }
    }
    manifest.number = number;
    Ok(())
}

/// Deletes manifests before the last two, then the chunks and tails that neither of these names. `manifest` is the one
/// committed last by the caller; when there is a newer one the caller is fenced and nothing is deleted. Objects that the
/// caller, or a newer writer, may be about to commit are left alone, so this may run beside a checkpoint.
pub async fn collect_garbage(store: &Store, manifest: &Manifest) -> Result<Garbage, StoreError> {
    let database = &manifest.database;
    let names = Names::new(database)?;
    let numbers = numbers(store, &names).await?;
    match numbers.last() {
        Some(newest) if *newest == manifest.number => {}
        Some(newest) => return Err(StoreError::Fenced { database: database.clone(), number: *newest }),
        None => return Err(StoreError::Missing { name: names.manifest(manifest.number) }),
    }
    let mut garbage = Garbage::default();
    let mut needed: HashSet<String> = manifest.objects().map(str::to_owned).collect();
    for number in numbers {
        if number == manifest.number {
            continue;
        }
        if manifest.number - number < KEPT {
            match read(store, database, &names, number).await {
                Ok(kept) => needed.extend(kept.objects().map(str::to_owned)),
                // What cannot be read keeps nothing alive.
                Err(StoreError::Corrupt { .. } | StoreError::Missing { .. }) => {}
                Err(error) => return Err(error),
            }
        } else {
            store.delete(&names.manifest(number)).await?;
            garbage.objects += 1;
        }
    }
    for folder in [names.chunks(), names.tails()] {
        for object in store.list(&folder).await? {
            if !needed.contains(&object.name) && is_settled(&object.name, manifest) {
                store.delete(&object.name).await?;
                garbage.objects += 1;
                garbage.bytes += object.bytes;
            }
        }
    }
    Ok(garbage)
}

/// Whether an object is old enough that no manifest after this one can be the first to name it.
fn is_settled(name: &str, manifest: &Manifest) -> bool {
    match object_origin(name) {
        Some((epoch, _, _)) if epoch != manifest.epoch => epoch < manifest.epoch,
        Some((_, writer, counter)) => writer != manifest.writer || counter < manifest.next_object,
        None => false,
    }
}

/// The names of all databases that have objects in the store, ordered.
pub async fn databases(store: &Store) -> Result<Vec<String>, StoreError> {
    let mut found: Vec<String> = store.list_folders(ROOT).await?.iter().filter_map(|folder| unescape(folder)).collect();
    found.sort_unstable();
    Ok(found)
}

/// Deletes a database: its manifests from the oldest to the newest, so that until the last of them is gone it is whole, then
/// the rest.
pub async fn delete_database(store: &Store, database: &str) -> Result<(), StoreError> {
    let names = Names::new(database)?;
    for number in numbers(store, &names).await? {
        store.delete(&names.manifest(number)).await?;
    }
    for object in store.list(names.folder()).await? {
        store.delete(&object.name).await?;
    }
    Ok(())
}

async fn numbers(store: &Store, names: &Names) -> Result<Vec<u64>, StoreError> {
    let listed = store.list(&names.manifests()).await?;
    // The names have leading zeros, so the order of names is that of numbers.
    Ok(listed.iter().filter_map(|object| manifest_number(&object.name)).collect())
}

async fn read(store: &Store, database: &str, names: &Names, number: u64) -> Result<Manifest, StoreError> {
    let name = names.manifest(number);
    let manifest = Manifest::decode(&store.get(&name).await?).map_err(|error| StoreError::corrupt(&name, error))?;
    if manifest.number != number {
        return Err(StoreError::corrupt(&name, format!("holds manifest {}", manifest.number)));
    }
    if manifest.database != database {
        return Err(StoreError::corrupt(&name, format!("belongs to database `{}`", manifest.database)));
    }
    Ok(manifest)
}
