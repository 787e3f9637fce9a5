//! Objects that several databases name: branches, and what may be deleted beside them.
//!
//! A branch begins as a copy of its source's manifest: it names the source's chunks and tail where they are, by their
//! full names, and so takes no time and no room, whatever the size. From then on each of the two writes its own. The
//! database whose folder holds an object is its **owner**; only the owner's collection deletes it.
//!
//! ```text
//! db/<owner>/branch/<branch>/<source>/<number>   a marker: <branch>, made from manifest <number> of <source>, may need
//!                                                objects of <owner>; a branch of a branch has a marker at each owner
//! db/<owner>/left/<number>                       a list: the objects that there were when <owner> was deleted
//! ```
//!
//! Invariants, for the **kept** (the last two) manifests of every database, at every moment, so after a crash too:
//!
//! 1. An object that a kept manifest names exists. Its root names them all (see [`super::paged`]): what is needed is
//!    known without the pages, so a damaged page makes nothing garbage.
//! 2. Where a kept manifest names an object of another owner, that owner has a marker of its database.
//! 3. A database comes to name other owners' objects with its first manifest only; later ones name fewer of them. The
//!    source's newest manifest, which stays the newest until the branch is made, names everything that the first one
//!    names: of a branch of a moment that has passed, among what it keeps for its history ([`super::timeline`]).
//!
//! Making a branch ([`create_branch`]), while no manifest of the source is committed:
//!
//! 1. Put a marker at every owner whose objects the source's newest manifest names.
//! 2. Create manifest number 1 of the branch. From here on the branch exists; before, the markers alone mean nothing.
//!
//! Finding what branches need of an owner ([`needed_by_branches`]):
//!
//! 1. List the owner's markers.
//! 2. For each: if the source's newest manifest is still the one in the marker, the branch may be about to be made, and
//!    the marker stays. The branch will name objects that its source names, which are needed by (3) anyhow.
//! 3. Only now read the kept manifests of each branch: the owner's objects that they name are needed. A marker of a
//!    branch that names nothing is not needed any more, unless (2) keeps it. This order matters: a branch that is made
//!    in between is seen by its manifest.
//! 4. List the markers again. If there are more, a branch was made in between from a database that was read later, and
//!    may by then have given up objects of its branch: begin again.
//! 5. Delete the markers that are not needed.
//!
//! Deleting a database ([`delete_database`]): list its objects, put the list, delete its manifests from the oldest to
//! the newest, and collect. Objects that branches still need stay, and the list with them. A database without manifests
//! has no collection of its own: its branches collect it, with each of their collections ([`collect_left`]), until
//! nothing is left. Only objects on the list are deleted: a new database of that name may be about to commit its first
//! manifest.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;

use futures::future::join_all;

use super::{
    Manifest, Names, PagedManifest, format,
    kept::{Garbage, KEPT, copy_first, databases, delete_object, numbers},
    names::{ROOT, manifest_number, marker_parts, object_origin, owner},
};
use crate::{
    codec::block,
    owner::Ownership,
    store::{ObjectInfo, Store, StoreError},
};

/// How often what branches need is looked for again, when branches are made meanwhile, before it is left for later.
const LOOK_ATTEMPTS: usize = 4;

/// No process takes this long from the first object of a new database to its first manifest.
const FIRST_COMMIT_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// The number of databases that are looked at together at a start: each costs a round trip.
const SWEPT_TOGETHER: usize = 32;

/// Makes a branch: `branch` is its first manifest, not yet committed, and names objects that `source`, the newest
/// manifest of its source, names too, for the data or the history; and perhaps objects of its own. The caller ensures that no manifest of the source is committed meanwhile. Sets
/// the branch's number, and its epoch, so that it takes no name of an object that an earlier database of its name has
/// left.
///
/// # Errors
/// [`StoreError::Exists`] if a database of that name exists. [`StoreError::Fenced`] if another process has written the
/// source. After any error the branch does not exist, or, if the store did not answer, it may exist as a whole.
pub async fn create_branch(store: &Store, source: &Manifest, branch: &mut Manifest) -> Result<(), StoreError> {
    let names = Names::new(&branch.database)?;
    let first = names.manifest(1);
    let folder = Folder::list(store, &names).await?;
    if !folder.manifests.is_empty() {
        return Err(StoreError::Exists { name: first });
    }
    let epochs = folder.objects.iter().filter_map(|object| object_origin(&object.name)).map(|(epoch, ..)| epoch);
    branch.epoch = epochs.max().unwrap_or(0).saturating_add(1);
    branch.number = 1;
    branch.check().map_err(|problem| StoreError::corrupt(&first, format!("refusing to write: {problem}")))?;
    for owner in owners(branch).iter().filter(|owner| **owner != branch.database) {
        let marker = Names::new(owner)?.branch(&branch.database, &source.database, source.number);
        match store.put_new(&marker, "").await {
            Ok(()) | Err(StoreError::Exists { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let bytes = branch.encode();
    if let Err(error) = store.put_new(&first, bytes.clone()).await {
        // It may have been written with its answer lost.
        let is_ours = store.get(&first).await.is_ok_and(|found| found == bytes);
        if !is_ours {
            return Err(error);
        }
    }
    // Another process may have made a database of that name and be past its first manifest.
    if numbers(store, &names).await? != [1] {
        store.delete(&first).await?;
        return Err(StoreError::Exists { name: first });
    }
    let newest = newest(store, &source.database).await?;
    if source.number > 0 && newest != Some(source.number) {
        store.delete(&first).await?;
        return Err(StoreError::Fenced { database: source.database.clone(), number: newest.unwrap_or(0) });
    }
    copy_first(store, &names, format::encode(branch, 0)).await;
    Ok(())
}

/// Puts a marker at each other owner of objects that `manifest` names. To be called before it is committed, if it was not
/// made by [`create_branch`], and while no process writes these databases.
///
/// # Errors
/// When the store refuses.
pub async fn mark_shared(store: &Store, manifest: &Manifest) -> Result<(), StoreError> {
    let source = manifest.source.as_deref().unwrap_or(&manifest.database);
    for owner in owners(manifest).iter().filter(|owner| **owner != manifest.database) {
        // Manifest 0 is never the newest, so the marker stays no longer than the objects are named.
        match store.put_new(&Names::new(owner)?.branch(&manifest.database, source, 0), "").await {
            Ok(()) | Err(StoreError::Exists { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Deletes a database except for objects that its branches need; these are deleted when the last branch goes or needs
/// them no more. The database is whole until the last of its manifests is gone. It must not be written meanwhile.
pub async fn delete_database(store: &Store, database: &str) -> Result<(), StoreError> {
    let names = Names::new(database)?;
    let folder = Folder::list(store, &names).await?;
    let mut shared = BTreeSet::new();
    for &number in &folder.manifests {
        match PagedManifest::read(store, database, &names, number).await {
            Ok(manifest) => shared.extend(owners(&manifest.known)),
            Err(StoreError::Corrupt { .. } | StoreError::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    store.retire_keys(names.folder()).await?;
    // Even if nothing is left: a list tells that missing manifests are no loss ([`lost_branches`]).
    put_left_list(store, &names, &folder).await?;
    for &number in &folder.manifests {
        store.delete(&names.manifest(number)).await?;
    }
    // It needs nothing any more. A marker that stayed would tell of a branch that has lost its manifests.
    for owner in shared.iter().filter(|owner| *owner != database) {
        delete_markers(store, owner, &BTreeSet::from([database])).await?;
    }
    shared.insert(database.to_owned());
    for owner in shared {
        collect_left(store, &owner).await?;
    }
    if store.is_encrypted() && store.list(names.folder()).await?.is_empty() {
        store.delete_keys(names.folder()).await?;
    }
    Ok(())
}

/// Deletes the markers that `owner` has of branches that were deleted.
async fn delete_markers(store: &Store, owner: &str, branches: &BTreeSet<&str>) -> Result<(), StoreError> {
    for marker in Folder::list_markers(store, &Names::new(owner)?).await? {
        if branches.contains(&*marker.branch) {
            store.delete(&marker.name).await?;
        }
    }
    Ok(())
}

/// Deletes unneeded objects of deleted databases, and objects put for databases that never came to be: for the start of
/// a process, as the one before may have died in between. `now_ms`: unix milliseconds.
pub async fn sweep(store: &Store, now_ms: u64) -> Result<Garbage, StoreError> {
    let all = databases(store).await?;
    let mut left = Vec::new();
    for some in all.chunks(SWEPT_TOGETHER) {
        for found in join_all(some.iter().map(|database| left_by(store, database))).await {
            left.extend(found?);
        }
    }
    // A process that deleted one of them may have ended before it came to the markers. They are listed once for all.
    let deleted: BTreeSet<&str> =
        left.iter().filter(|left| !left.lists.0.is_empty()).map(|left| left.database).collect();
    if !deleted.is_empty() {
        for some in all.chunks(SWEPT_TOGETHER) {
            for done in join_all(some.iter().map(|owner| delete_markers(store, owner, &deleted))).await {
                done?;
            }
        }
    }
    let mut garbage = Garbage::default();
    let mut left = left.into_iter().peekable();
    while left.peek().is_some() {
        let some = left.by_ref().take(SWEPT_TOGETHER).map(|left| sweep_one(store, left, now_ms));
        for swept in join_all(some).await {
            garbage.add(swept?);
        }
    }
    Ok(garbage)
}

/// Deletes the keys of databases of which nothing is left, for the start of a process, before it uses a database: the one
/// before may have died in between. `owner`: the proof that this process owns a store without a lock.
///
/// # Errors
/// When the store refuses, or another process has taken it over.
pub async fn sweep_keys(store: &Store, owner: Option<&Ownership>) -> Result<(), StoreError> {
    let keyed = store.encrypted_databases().await?;
    if keyed.is_empty() {
        return Ok(());
    }
    let there: HashSet<String> = store.list_folders(ROOT).await?.into_iter().collect();
    for folder in keyed.iter().filter(|folder| !there.contains(*folder)) {
        // A process that takes the store over may give them to a new database.
        if let Some(owner) = owner {
            owner.look().await?;
        }
        store.delete_keys(&format!("{ROOT}/{folder}")).await?;
    }
    Ok(())
}

/// The objects of a database without manifests.
struct Left<'a> {
    database: &'a str,
    folder: Folder,
    lists: Lists,
}

/// None for a database that has a manifest.
async fn left_by<'a>(store: &Store, database: &'a str) -> Result<Option<Left<'a>>, StoreError> {
    let names = Names::new(database)?;
    if !numbers(store, &names).await?.is_empty() {
        return Ok(None);
    }
    let folder = Folder::list(store, &names).await?;
    let lists = folder.lists(store).await?;
    Ok(Some(Left { database, folder, lists }))
}

async fn sweep_one(store: &Store, left: Left<'_>, now_ms: u64) -> Result<Garbage, StoreError> {
    let Left { database, mut folder, lists } = left;
    let is_old = |object: &ObjectInfo| {
        let written_ms = u64::try_from(object.modified_ms).unwrap_or(0);
        now_ms.saturating_sub(written_ms) > FIRST_COMMIT_MS_MAX
    };
    folder.objects.retain(|object| is_old(object) && !lists.contains(&object.name));
    if !folder.objects.is_empty() {
        put_left_list(store, &Names::new(database)?, &folder).await?;
    }
    collect_left(store, database).await
}

/// A branch that has a marker but no manifest, and was not deleted: the manifests are lost, or a crash has cut the making of
/// the branch short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostBranch {
    pub name: String,
    pub source: String,
    pub marker: String,
}

impl fmt::Display for LostBranch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LostBranch { name, source, .. } = self;
        write!(
            f,
            "branch `{name}` of database `{source}` has no manifest: all of it may be missing, unless a crash cut its making \
             short"
        )
    }
}

/// The branches of `database` that may be lost. Its markers are looked at before the branches' manifests, so one that is
/// being made may be among them.
///
/// # Errors
/// When the store cannot be asked.
pub async fn lost_branches(store: &Store, database: &str) -> Result<Vec<LostBranch>, StoreError> {
    let mut lost: Vec<LostBranch> = Vec::new();
    for Marker { name: marker, branch, source, .. } in Folder::list_markers(store, &Names::new(database)?).await? {
        let names = Names::new(&branch)?;
        let is_known = lost.iter().any(|known| known.name == branch);
        if !is_known && numbers(store, &names).await?.is_empty() && store.list(&names.left()).await?.is_empty() {
            lost.push(LostBranch { name: branch, source, marker });
        }
    }
    Ok(lost)
}

/// The owners of all objects that a manifest names.
pub(super) fn owners(manifest: &Manifest) -> BTreeSet<String> {
    manifest.objects().filter_map(owner).collect()
}

/// Deletes the unneeded objects of a deleted database. Does nothing for one that exists.
pub(super) async fn collect_left(store: &Store, database: &str) -> Result<Garbage, StoreError> {
    let names = Names::new(database)?;
    let mut garbage = Garbage::default();
    if !numbers(store, &names).await?.is_empty() {
        return Ok(garbage);
    }
    let folder = Folder::list(store, &names).await?;
    let lists = folder.lists(store).await?;
    let Some(needed) = needed_by_branches(store, database, &names, &folder.markers).await? else { return Ok(garbage) };
    // A branch may by now have taken the name, and with it the objects that were left. If it is made later, it comes
    // from a database that was just seen to need the same objects.
    if !numbers(store, &names).await?.is_empty() {
        return Ok(garbage);
    }
    for object in folder.objects.iter().filter(|object| lists.contains(&object.name) && !needed.contains(&object.name))
    {
        delete_object(store, object, &mut garbage).await?;
    }
    lists.delete_unneeded((store, &names), &folder, &needed, &mut garbage).await?;
    Ok(garbage)
}

/// The objects of `owner` that other databases' kept manifests name. None when that cannot be told: then nothing of the
/// owner may be deleted now.
pub(super) async fn needed_by_branches(
    store: &Store,
    owner: &str,
    names: &Names,
    markers: &[Marker],
) -> Result<Option<HashSet<String>>, StoreError> {
    let mut markers = markers.to_vec();
    for _ in 0..LOOK_ATTEMPTS {
        if markers.is_empty() {
            return Ok(Some(HashSet::new()));
        }
        let mut newest_of = BTreeMap::new();
        for Marker { source, .. } in &markers {
            if !newest_of.contains_key(source) {
                newest_of.insert(source.clone(), newest(store, source).await?);
            }
        }
        let mut needed_of: BTreeMap<&str, HashSet<String>> = BTreeMap::new();
        for Marker { branch, .. } in &markers {
            if !needed_of.contains_key(branch.as_str()) {
                let Some(named) = named_by(store, branch, owner).await? else { return Ok(None) };
                needed_of.insert(branch, named);
            }
        }
        let again = Folder::list_markers(store, names).await?;
        let seen: HashSet<&str> = markers.iter().map(|marker| marker.name.as_str()).collect();
        if again.iter().any(|marker| !seen.contains(marker.name.as_str())) {
            markers = again;
            continue;
        }
        for marker in &markers {
            let about_to_be_made = newest_of[&marker.source] == Some(marker.number);
            if !about_to_be_made && needed_of[marker.branch.as_str()].is_empty() {
                store.delete(&marker.name).await?;
            }
        }
        return Ok(Some(needed_of.into_values().flatten().collect()));
    }
    Ok(None)
}

/// The objects of `owner` that the kept manifests of `database` name. None if one of them is damaged, as the objects
/// that it names are unknown.
async fn named_by(store: &Store, database: &str, owner: &str) -> Result<Option<HashSet<String>>, StoreError> {
    let names = Names::new(database)?;
    let folder = format!("{}/", Names::new(owner)?.folder());
    'newer: loop {
        let numbers = numbers(store, &names).await?;
        let mut named = HashSet::new();
        for &number in numbers.iter().rev().take(KEPT) {
            match PagedManifest::read(store, database, &names, number).await {
                Ok(manifest) => {
                    named.extend(manifest.known.objects().filter(|name| name.starts_with(&folder)).map(str::to_owned));
                }
                // A newer one was committed in between, and this one deleted.
                Err(StoreError::Missing { .. }) if self::numbers(store, &names).await? != numbers => continue 'newer,
                Err(error @ (StoreError::Corrupt { .. } | StoreError::Missing { .. })) => {
                    tracing::warn!(owner, %error, "nothing of the database is deleted while a branch cannot be read");
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        return Ok(Some(named));
    }
}

async fn newest(store: &Store, database: &str) -> Result<Option<u64>, StoreError> {
    Ok(numbers(store, &Names::new(database)?).await?.pop())
}

/// Puts the list of the objects of a database that is about to be deleted.
pub(super) async fn put_left_list(store: &Store, names: &Names, folder: &Folder) -> Result<(), StoreError> {
    let text = folder.objects.iter().map(|object| object.name.as_str()).collect::<Vec<_>>().join("\n");
    let bytes = block::seal(text.as_bytes());
    let mut number = folder.left.iter().filter_map(|name| manifest_number(name)).max().map_or(1, |last| last + 1);
    loop {
        match store.put_new(&names.left_list(number), bytes.clone()).await {
            Err(StoreError::Exists { .. }) => number += 1,
            outcome => return outcome,
        }
    }
}

fn decode_list(name: &str, bytes: &[u8]) -> Result<HashSet<String>, StoreError> {
    let text = block::open(bytes).map_err(|error| StoreError::corrupt(name, error))?;
    let text = std::str::from_utf8(&text).map_err(|error| StoreError::corrupt(name, error))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// The contents of a database's folder.
pub(super) struct Folder {
    /// Ascending.
    pub manifests: Vec<u64>,
    pub markers: Vec<Marker>,
    /// The names of lists.
    pub left: Vec<String>,
    /// Chunks, tails, and unknown objects.
    pub objects: Vec<ObjectInfo>,
}

#[derive(Debug, Clone)]
pub(super) struct Marker {
    name: String,
    branch: String,
    source: String,
    number: u64,
}

impl Folder {
    pub(super) async fn list(store: &Store, names: &Names) -> Result<Folder, StoreError> {
        let mut folder = Folder { manifests: Vec::new(), markers: Vec::new(), left: Vec::new(), objects: Vec::new() };
        let (manifests, left) = (format!("{}/", names.manifests()), format!("{}/", names.left()));
        for object in store.list(names.folder()).await? {
            if let Some(marker) = Marker::parse(&object.name) {
                folder.markers.push(marker);
            } else if object.name.starts_with(&manifests) {
                folder.manifests.extend(manifest_number(&object.name));
            } else if object.name.starts_with(&left) {
                folder.left.push(object.name);
            } else {
                folder.objects.push(object);
            }
        }
        Ok(folder)
    }

    pub(super) async fn lists(&self, store: &Store) -> Result<Lists, StoreError> {
        let mut lists = Lists(Vec::new());
        for name in &self.left {
            match store.get(name).await {
                Ok(bytes) => lists.0.push((name.clone(), decode_list(name, &bytes)?)),
                // Another process has deleted it.
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(lists)
    }

    async fn list_markers(store: &Store, names: &Names) -> Result<Vec<Marker>, StoreError> {
        Ok(store.list(&names.branches()).await?.iter().filter_map(|object| Marker::parse(&object.name)).collect())
    }
}

/// The objects left by deleted databases, by the name of their list.
pub(super) struct Lists(Vec<(String, HashSet<String>)>);

impl Lists {
    pub(super) fn contains(&self, object: &str) -> bool {
        self.0.iter().any(|(_, objects)| objects.contains(object))
    }

    /// Deletes the lists of which nothing is needed, once the unneeded objects are deleted, and with the last of them the
    /// keys of these objects.
    pub(super) async fn delete_unneeded(
        &self,
        (store, names): (&Store, &Names),
        folder: &Folder,
        needed: &HashSet<String>,
        garbage: &mut Garbage,
    ) -> Result<(), StoreError> {
        let is_unneeded = |objects: &HashSet<String>| {
            !folder.objects.iter().any(|object| objects.contains(&object.name) && needed.contains(&object.name))
        };
        let mut unneeded: Vec<&str> =
            self.0.iter().filter(|(_, objects)| is_unneeded(objects)).map(|(list, _)| list.as_str()).collect();
        garbage.objects += unneeded.len() as u64;
        // The newest list stays until the keys are gone, so that a crash in between forgets nothing.
        let newest = if unneeded.len() == self.0.len() { unneeded.pop() } else { None };
        for list in unneeded {
            store.delete(list).await?;
        }
        if let Some(newest) = newest {
            delete_keys_before(newest, (store, names), folder).await?;
            store.delete(newest).await?;
        }
        Ok(())
    }
}

/// Deletes the keys of what earlier databases of this name have left, of which nothing is needed. `list`: the newest one,
/// encrypted with the first key after theirs.
///
/// A database whose deletion was cut short may go on with the objects and manifests that it had. Its objects are needed and
/// on the newest list. Its manifests are on none, so their keys are looked for.
async fn delete_keys_before(list: &str, (store, names): (&Store, &Names), folder: &Folder) -> Result<(), StoreError> {
    let Some(mut before) = store.key_of(list).await? else { return Ok(()) };
    for &number in &folder.manifests {
        before = store.key_of(&names.manifest(number)).await?.map_or(before, |key| before.min(key));
    }
    store.delete_retired_keys(names.folder(), before).await
}

impl Marker {
    fn parse(name: &str) -> Option<Marker> {
        let (branch, source, number) = marker_parts(name)?;
        Some(Marker { name: name.to_owned(), branch, source, number })
    }
}

#[cfg(test)]
mod tests;
