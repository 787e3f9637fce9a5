//! Seals: the last object of a log whose writer another process has taken over from. Nothing can be added after one.

use crate::store::{GUARD_WRITER, Store, StoreError};

/// The folder of the logs in a store.
pub const FOLDER: &str = "log";

/// The contents of a seal. No other object of a log is as short.
pub const SEAL: &[u8] = b"DMSEAL\n\n";

/// The folder of a writer's log.
pub fn folder(writer: u64) -> String {
    format!("{FOLDER}/{writer:016x}")
}

/// The writers that have a log, or the seal of one.
///
/// # Errors
/// When the store refuses.
pub async fn writers(store: &Store) -> Result<Vec<u64>, StoreError> {
    let folders = store.list_folders(FOLDER).await?;
    let whole = folders.iter().filter(|name| name.len() == 16);
    let writers = whole.filter_map(|name| u64::from_str_radix(name, 16).ok());
    Ok(writers.filter(|writer| *writer != GUARD_WRITER).collect())
}

/// Whether the log of a writer has more than a seal.
///
/// # Errors
/// When the store refuses.
pub async fn has_files(store: &Store, writer: u64) -> Result<bool, StoreError> {
    let left = store.list(&folder(writer)).await?;
    Ok(left.iter().any(|object| object.bytes != SEAL.len() as u64))
}

/// Deletes the seal of a log of which nothing else is left; false if there is more.
///
/// # Errors
/// When the store refuses.
pub async fn delete_seal(store: &Store, writer: u64) -> Result<bool, StoreError> {
    let left = store.list(&folder(writer)).await?;
    if left.iter().any(|object| object.bytes != SEAL.len() as u64) {
        return Ok(false);
    }
    for object in &left {
        store.delete(&object.name).await?;
    }
    Ok(true)
}
