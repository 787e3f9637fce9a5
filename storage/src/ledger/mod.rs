//! The ledger: the durable record of closed usage windows.
//!
//! It is a folder for each hour of Unix time, with objects that each hold windows of many databases.
//!
//! ```text
//! ledger/00499021/                                  the windows that ended in this hour
//! ledger/00499021/1796475661-00000000000000aa-0003  written at this second, by this process, as its third of them
//! ```
//!
//! Everything rests on one invariant: **a window is known by its database, era and start ([`LedgerWindow::key`]), and never
//! changes once it was written.** So a window may be in the ledger more than once, and readers keep one of each:
//!
//! 1. A write whose answer was lost is repeated under another name.
//! 2. The objects of an hour that is over are merged: a new object gets the windows of all, and then the others are deleted.
//!    A crash in between leaves both.
//! 3. A process that was overtaken may still write the windows that it has counted. No other process has them.
//!
//! Hours that are older than the operator wants to keep are deleted.
//!
//! The objects that were sent on to a receiver are in the [record of that](pushed).

pub mod format;
pub mod pushed;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

pub use self::format::LedgerWindow;
pub use self::pushed::PushRecord;
use crate::store::{Store, StoreError};

/// The folder of the hours.
pub const FOLDER: &str = "ledger";
/// Seconds of an hour.
const HOUR: u64 = 3600;
/// Objects that are read at once.
const READS_TOGETHER: usize = 64;
/// Attempts to read an hour while its objects are merged.
const READ_ATTEMPTS: usize = 3;
/// Objects of an hour with more bytes than this in all are not merged, so that merging needs a bounded memory.
const MERGED_BYTES_MAX: u64 = 32 << 20;
/// Names that are tried for one object.
const NAMES_TRIED: usize = 100;

/// The hour in which a window belongs that ends at this second.
pub fn hour_of(end_s: u64) -> u64 {
    end_s.saturating_sub(1) / HOUR
}

fn folder_of(hour: u64) -> String {
    format!("{FOLDER}/{hour:08}")
}

/// The hours that have objects, in order.
///
/// # Errors
/// When the store cannot be asked.
pub async fn hours(store: &Store) -> Result<Vec<u64>, StoreError> {
    let folders = store.list_folders(FOLDER).await?;
    Ok(folders.iter().filter_map(|name| name.parse().ok()).collect())
}

/// The windows of an hour whose database is wanted, one of each, in the order of database, era and start.
///
/// # Errors
/// When an object cannot be read.
pub async fn read_hour(
    store: &Store,
    hour: u64,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<LedgerWindow>, StoreError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let names = store.list(&folder_of(hour)).await?.into_iter().map(|object| object.name);
        match read_objects(store, names, &wanted).await {
            Err(error) if error.is_missing() && attempt < READ_ATTEMPTS => {}
            read => return read,
        }
    }
}

/// The names of the objects of some hours, or of all, in order.
///
/// # Errors
/// When the store cannot be asked.
pub async fn names(store: &Store, hours: Option<&BTreeSet<u64>>) -> Result<Vec<String>, StoreError> {
    let Some(hours) = hours else {
        let objects = store.list(FOLDER).await?.into_iter().map(|object| object.name);
        return Ok(objects.filter(|name| hour_of_object(name).is_some()).collect());
    };
    let mut names = Vec::new();
    for hour in hours {
        names.extend(store.list(&folder_of(*hour)).await?.into_iter().map(|object| object.name));
    }
    Ok(names)
}

/// The hour to which an object belongs.
pub fn hour_of_object(name: &str) -> Option<u64> {
    name.strip_prefix(FOLDER)?.strip_prefix('/')?.split_once('/')?.0.parse().ok()
}

/// The Unix second at which an object was written.
pub fn written_s(name: &str) -> Option<u64> {
    name.rsplit('/').next()?.split('-').next()?.parse().ok()
}

/// The windows of one object.
///
/// # Errors
/// When it cannot be read. It may have been merged.
pub async fn read_windows(store: &Store, name: &str) -> Result<Vec<LedgerWindow>, StoreError> {
    read_object(store, name.to_owned(), &|_: &str| true).await
}

async fn read_objects(
    store: &Store,
    names: impl Iterator<Item = String>,
    wanted: &impl Fn(&str) -> bool,
) -> Result<Vec<LedgerWindow>, StoreError> {
    let mut windows = Vec::new();
    let read = futures::stream::iter(names).map(|name| read_object(store, name, wanted));
    let mut found = read.buffered(READS_TOGETHER);
    while let Some(more) = found.try_next().await? {
        windows.extend(more);
    }
    windows.sort_by(|a, b| a.key().cmp(&b.key()));
    windows.dedup_by(|a, b| a.key() == b.key());
    Ok(windows)
}

async fn read_object(
    store: &Store,
    name: String,
    wanted: &impl Fn(&str) -> bool,
) -> Result<Vec<LedgerWindow>, StoreError> {
    let bytes = store.get(&name).await?;
    format::decode(&bytes, wanted).map_err(|error| StoreError::corrupt(&name, error))
}

/// An hour whose objects became one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergedHour {
    /// The objects that are gone.
    pub names: Vec<String>,
    /// The one that has their windows.
    pub merged: String,
}

/// Writes windows, and tidies hours that are over.
#[derive(Debug)]
pub struct LedgerWriter {
    store: Arc<Store>,
    writer: u64,
    number: u32,
}

impl LedgerWriter {
    /// `writer`: the number of this process.
    pub fn new(store: &Arc<Store>, writer: u64) -> Self {
        Self { store: Arc::clone(store), writer, number: 0 }
    }

    /// Makes windows durable. They may be written again after an error.
    ///
    /// # Errors
    /// When the store refuses. Some of the windows may be durable.
    pub async fn write(&mut self, windows: &[LedgerWindow], now_s: u64) -> Result<(), StoreError> {
        let mut hours: BTreeMap<u64, Vec<&LedgerWindow>> = BTreeMap::new();
        for window in windows {
            hours.entry(hour_of(window.end_s)).or_default().push(window);
        }
        for (hour, windows) in hours {
            self.put(hour, &windows, now_s).await?;
        }
        Ok(())
    }

    async fn put(&mut self, hour: u64, windows: &[&LedgerWindow], now_s: u64) -> Result<String, StoreError> {
        let bytes = Bytes::from(format::encode(windows));
        let mut tried = 0;
        loop {
            self.number = self.number.wrapping_add(1) % 10_000;
            let name = format!("{}/{now_s:010}-{:016x}-{:04}", folder_of(hour), self.writer, self.number);
            tried += 1;
            match self.store.put_new(&name, bytes.clone()).await {
                Err(StoreError::Exists { .. }) if tried < NAMES_TRIED => {}
                done => return done.map(|()| name),
            }
        }
    }

    /// Merges the objects of an hour into one, if they are many and not too large.
    ///
    /// # Errors
    /// When the store refuses, or an object cannot be read. The hour is as readable as before.
    pub async fn merge(&mut self, hour: u64, now_s: u64) -> Result<Option<MergedHour>, StoreError> {
        let objects = self.store.list(&folder_of(hour)).await?;
        let bytes: u64 = objects.iter().map(|object| object.bytes).sum();
        if objects.len() < 2 || bytes > MERGED_BYTES_MAX {
            return Ok(None);
        }
        let mut names: Vec<String> = objects.into_iter().map(|object| object.name).collect();
        let windows = read_objects(&self.store, names.iter().cloned(), &|_: &str| true).await?;
        let merged = self.put(hour, &windows.iter().collect::<Vec<_>>(), now_s).await?;
        // A name cannot be taken twice, but a clock can be set.
        names.retain(|name| *name != merged);
        self.store.delete_many(&names).await?;
        Ok(Some(MergedHour { names, merged }))
    }

    /// Deletes the hours before one. Returns how many there were.
    ///
    /// # Errors
    /// When the store refuses. Some of them may be deleted.
    pub async fn forget_before(&self, hour: u64) -> Result<usize, StoreError> {
        let mut forgotten = 0;
        for old in hours(&self.store).await?.into_iter().filter(|old| *old < hour) {
            let names: Vec<String> =
                self.store.list(&folder_of(old)).await?.into_iter().map(|object| object.name).collect();
            if !names.is_empty() {
                self.store.delete_many(&names).await?;
                forgotten += 1;
            }
        }
        Ok(forgotten)
    }
}

#[cfg(test)]
mod tests;
