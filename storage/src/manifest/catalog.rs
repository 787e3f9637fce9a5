//! Manifests in the store: finding the newest, committing the next, deleting unneeded objects.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;

use super::{
    Manifest, Names, PagedManifest, Timeline, format,
    kept::{Garbage, KEPT, copy_first, delete_object, numbers},
    names::object_origin,
    sharing::{Folder, collect_left, needed_by_branches, owners},
};
use crate::store::{Store, StoreError};

/// A listed manifest may be deleted before it is read, if a newer one was committed in between.
const READ_ATTEMPTS: usize = 3;

/// Numbers and manifests.
pub type History = Vec<(u64, Result<PagedManifest, StoreError>)>;

/// The newest manifest of a database; none if the database does not exist. A damaged one is an error: the one before it
/// (see [`history`]) misses acknowledged writes, so using that is the operator's decision.
pub async fn latest(store: &Store, database: &str) -> Result<Option<Manifest>, StoreError> {
    let mut attempt = 0;
    loop {
        let Some(paged) = latest_root(store, database).await? else { return Ok(None) };
        attempt += 1;
        match paged.read_all(store).await {
            Err(error) if error.is_missing() && attempt < READ_ATTEMPTS => {}
            Err(error) => return Err(error),
            Ok(manifest) => {
                drop(paged);
                return Ok(Some(Arc::unwrap_or_clone(manifest)));
            }
        }
    }
}

/// The same as far as its root. Pages are read when they are needed, and only then is it known whether they are damaged.
pub async fn latest_root(store: &Store, database: &str) -> Result<Option<PagedManifest>, StoreError> {
    let names = Names::new(database)?;
    let mut attempt = 0;
    loop {
        let Some(number) = numbers(store, &names).await?.pop() else { return Ok(None) };
        attempt += 1;
        match PagedManifest::read(store, database, &names, number).await {
            Err(error) if error.is_missing() && attempt < READ_ATTEMPTS => {}
            result => return result.map(Some),
        }
    }
}

/// The same with the number of the newest manifest, which a listing would find.
///
/// # Errors
/// When it cannot be read.
pub async fn root_numbered(store: &Store, database: &str, number: u64) -> Result<Option<PagedManifest>, StoreError> {
    match PagedManifest::read(store, database, &Names::new(database)?, number).await {
        Err(error) if error.is_missing() => latest_root(store, database).await,
        result => result.map(Some),
    }
}

/// The manifest that the data of another database replace: the newest, even if it is damaged. What a damaged one said is
/// then taken from the newest readable one, or is as in a new database; its number and epoch are higher than any in use.
/// Pages are not read, as nothing of them stays; nor does the history of the data before.
pub async fn replaced(store: &Store, database: &str) -> Result<Option<Manifest>, StoreError> {
    let unshared = |manifest: PagedManifest| {
        let manifest = Arc::unwrap_or_clone(manifest.known);
        Manifest { uncounted: 0, timeline: Timeline::default(), ..manifest }
    };
    match latest_root(store, database).await {
        Err(StoreError::Corrupt { .. }) => {}
        result => return result.map(|manifest| manifest.map(unshared)),
    }
    let manifests = history(store, database).await?;
    let number = manifests.first().map_or(0, |(number, _)| *number);
    let readable = manifests.into_iter().find_map(|(_, manifest)| manifest.ok());
    let mut manifest = readable.map_or_else(|| Manifest::new(database, 0, 0, 0), unshared);
    let folder = Folder::list(store, &Names::new(database)?).await?;
    let origins = folder.objects.iter().filter_map(|object| object_origin(&object.name));
    let epoch = origins.map(|(epoch, ..)| epoch).max().unwrap_or(0);
    (manifest.number, manifest.epoch) = (number, manifest.epoch.max(epoch).saturating_add(1));
    Ok(Some(manifest))
}

/// Whether the database exists.
pub async fn exists(store: &Store, database: &str) -> Result<bool, StoreError> {
    Ok(!numbers(store, &Names::new(database)?).await?.is_empty())
}

/// Every kept manifest, the newest first, each as readable as its root is.
pub async fn history(store: &Store, database: &str) -> Result<History, StoreError> {
    let names = Names::new(database)?;
    let mut found = Vec::new();
    for number in numbers(store, &names).await?.into_iter().rev() {
        found.push((number, PagedManifest::read(store, database, &names, number).await));
    }
    Ok(found)
}

/// Creates the manifest after `manifest.number`, and on success counts `manifest.number` up to it. All chunks that it
/// names must have been put. [`StoreError::Fenced`] means that another writer was first; after any other error the
/// commit may be tried again, also with a newer manifest.
pub async fn commit(store: &Store, manifest: &mut Manifest) -> Result<(), StoreError> {
    commit_encoded(store, manifest, format::encode).await.map(drop)
}

/// Creates the manifest after `before` as that of another writer, which may write from then on. The contents are the
/// same. Pages are copied as they are, so one that is damaged is no obstacle.
///
/// # Errors
/// As [`commit`].
pub async fn take_over(store: &Store, before: &PagedManifest, writer: u64) -> Result<PagedManifest, StoreError> {
    let held = before.clone().held(store).await?;
    let mut manifest = Manifest::clone(&held.known);
    (manifest.writer, manifest.epoch) = (writer, manifest.epoch.saturating_add(1));
    let object = commit_encoded(store, &mut manifest, |manifest, number| held.encode(manifest, number)).await?;
    let name = Names::new(&manifest.database)?.manifest(manifest.number);
    Ok(held.replaced_by(manifest, name, object))
}

/// Returns the object's bytes.
async fn commit_encoded(
    store: &Store,
    manifest: &mut Manifest,
    encode: impl Fn(&Manifest, u64) -> Vec<u8>,
) -> Result<Bytes, StoreError> {
    let database = manifest.database.clone();
    let names = Names::new(&database)?;
    let mut number = manifest.number;
    let object = loop {
        number += 1;
        let name = names.manifest(number);
        manifest.check().map_err(|problem| StoreError::corrupt(&name, format!("refusing to write: {problem}")))?;
        let bytes = Bytes::from(encode(manifest, number));
        match store.put_new(&name, bytes.clone()).await {
            Ok(()) => break bytes,
            Err(StoreError::Exists { .. }) => {}
            Err(error) => return Err(error),
        }
        // An earlier attempt of ours may have succeeded with its answer lost. If it was this very manifest, it is
        // committed; if it was an older one of ours, we may take the next number.
        let existing = match PagedManifest::read(store, &database, &names, number).await {
            Ok(existing) => existing.known,
            Err(StoreError::Missing { .. } | StoreError::Corrupt { .. }) => {
                return Err(StoreError::Fenced { database, number });
            }
            Err(error) => return Err(error),
        };
        if (existing.epoch, existing.writer) != (manifest.epoch, manifest.writer) {
            return Err(StoreError::Fenced { database, number });
        }
        if store.get(&name).await? == bytes {
            break bytes;
        }
    };
    if number == 1 {
        copy_first(store, &names, encode(manifest, 0)).await;
    }
    manifest.number = number;
    Ok(object)
}

/// Deletes manifests before the last two, then the chunks and tails that neither of these names, nor one of the last
/// two of any branch (see [`super::sharing`]). `manifest` is the one committed last by the caller; if a newer one
/// exists the caller is fenced and nothing is deleted. Objects that the caller, or a newer writer, may be about to
/// commit are left alone, so this may run beside a checkpoint.
///
/// A branch also looks after the deleted databases whose objects it names, or has named until now.
pub async fn collect_garbage(store: &Store, manifest: &Manifest) -> Result<Garbage, StoreError> {
    collect_garbage_beside(store, manifest, &[]).await
}

/// The same, but keeps the objects that `pinned` manifests of the database name too.
///
/// # Errors
/// As [`collect_garbage`].
pub async fn collect_garbage_beside(
    store: &Store,
    manifest: &Manifest,
    pinned: &[Arc<Manifest>],
) -> Result<Garbage, StoreError> {
    let database = &manifest.database;
    let names = Names::new(database)?;
    let folder = Folder::list(store, &names).await?;
    match folder.manifests.last() {
        Some(newest) if *newest == manifest.number => {}
        Some(newest) => return Err(StoreError::Fenced { database: database.clone(), number: *newest }),
        None => return Err(StoreError::Missing { name: names.manifest(manifest.number) }),
    }
    let mut garbage = Garbage::default();
    let mut needed: HashSet<String> = manifest.objects().map(str::to_owned).collect();
    needed.extend(pinned.iter().flat_map(|pinned| pinned.objects()).map(str::to_owned));
    let (old, kept) = folder.manifests.split_at(folder.manifests.len().saturating_sub(KEPT));
    let mut shared = owners(manifest);
    for &number in folder.manifests.iter().filter(|number| **number != manifest.number) {
        let is_kept = kept.contains(&number);
        // Only a branch names objects of others.
        if !is_kept && manifest.source.is_none() {
            continue;
        }
        match PagedManifest::read(store, database, &names, number).await {
            Ok(before) => {
                shared.extend(owners(&before.known));
                if is_kept {
                    needed.extend(before.known.objects().map(str::to_owned));
                }
            }
            // An unreadable manifest keeps nothing alive.
            Err(StoreError::Corrupt { .. } | StoreError::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    // Before the old manifests go, which say where to look: so that a crash in between forgets nothing.
    for owner in shared.iter().filter(|owner| *owner != database) {
        garbage.add(collect_left(store, owner).await?);
    }
    for &number in old {
        store.delete(&names.manifest(number)).await?;
        garbage.objects += 1;
    }
    let Some(of_branches) = needed_by_branches(store, database, &names, &folder.markers).await? else {
        return Ok(garbage);
    };
    needed.extend(of_branches);
    // Objects that an earlier database of this name has left, whatever its epoch was.
    let lists = folder.lists(store).await?;
    let folders = [names.chunks() + "/", names.tails() + "/", names.history() + "/"];
    for object in &folder.objects {
        let name = &object.name;
        let is_known = folders.iter().any(|folder| name.starts_with(folder));
        let is_old = is_known && is_settled(name, manifest) || lists.contains(name);
        if is_old && !needed.contains(name) {
            delete_object(store, object, &mut garbage).await?;
        }
    }
    lists.delete_unneeded((store, &names), &folder, &needed, &mut garbage).await?;
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
