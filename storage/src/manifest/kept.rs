//! The databases of a store, the manifests that are kept of each, and the deletion of other objects.

use super::{
    Names,
    names::{ROOT, manifest_number, unescape},
};
use crate::store::{ObjectInfo, Store, StoreError};

/// How many manifests are kept, the newest included.
pub(super) const KEPT: usize = 2;

/// Deleted objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Garbage {
    pub objects: u64,
    pub bytes: u64,
}

impl Garbage {
    pub(super) fn add(&mut self, more: Garbage) {
        self.objects += more.objects;
        self.bytes += more.bytes;
    }
}

pub(super) async fn delete_object(store: &Store, object: &ObjectInfo, garbage: &mut Garbage) -> Result<(), StoreError> {
    store.delete(&object.name).await?;
    garbage.objects += 1;
    garbage.bytes += object.bytes;
    Ok(())
}

/// Puts a copy of a database's first manifest as manifest 0, so that two are kept from the first commit on, in case one
/// is damaged. After the second commit it is deleted as any older manifest is. The database is whole without it, so a
/// store that refuses it is no error.
pub(super) async fn copy_first(store: &Store, names: &Names, as_manifest_0: Vec<u8>) {
    match store.put_new(&names.manifest(0), as_manifest_0).await {
        Ok(()) | Err(StoreError::Exists { .. }) => {}
        Err(error) => tracing::warn!(%error, "the first manifest has no copy"),
    }
}

/// The numbers of the manifests in the store, in order.
pub(super) async fn numbers(store: &Store, names: &Names) -> Result<Vec<u64>, StoreError> {
    let listed = store.list(&names.manifests()).await?;
    // The names have leading zeros, so the order of names is that of numbers.
    Ok(listed.iter().filter_map(|object| manifest_number(&object.name)).collect())
}

/// The names of all databases that have objects in the store, ordered.
pub async fn databases(store: &Store) -> Result<Vec<String>, StoreError> {
    let mut found: Vec<String> = store.list_folders(ROOT).await?.iter().filter_map(|folder| unescape(folder)).collect();
    found.sort_unstable();
    Ok(found)
}
