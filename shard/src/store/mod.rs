//! The object store: where everything durable lies.
//!
//! A store is named by a URL. Objects are immutable: they are created once, read whole or by range, listed by
//! prefix and deleted, and never changed. All that Dormouse needs of a store is therefore *create if absent*, which
//! S3, GCS, Azure and a local file system all offer, and which is also how a writer is fenced (see [`crate::manifest`]).
//!
//! | URL | store |
//! | --- | --- |
//! | `file://PATH` | a folder: `file:///var/lib/dormouse` is absolute, `file://./dormouse-data` relative to the process |
//! | `memory://` | this process's memory; gone with it |
//!
//! When [`Store::put_new`] returns, the object survives a power cut: on a file system the object is written beside its
//! name, synced, linked to its name, and the folders are synced too. So a manifest that is committed after its chunks
//! never names a chunk that is missing or short.

mod faulty;
mod folder;

use std::{error::Error as _, io, ops::Range, path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{
    GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutPayload, local::LocalFileSystem, memory::InMemory,
    path::Path,
};

pub use self::faulty::{Fault, FaultyStore};
use self::folder::FolderLock;

/// The schemes that this build can open, for messages and `--help`.
pub const SCHEMES: &[&str] = &["file://", "memory://"];

/// What can go wrong with the store, by who must act.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operator gave a URL that means nothing here.
    #[error("{0}")]
    Url(String),
    /// The store's folder cannot be used.
    #[error("cannot use the store folder {}: {source}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    /// Another process has the folder open.
    #[error("the store folder {} is in use by {}", path.display(), holder(*pid))]
    Locked { path: PathBuf, pid: Option<u32> },
    /// A name that no object can have.
    #[error("`{0}` cannot be the name of an object or database")]
    Name(String),
    /// The object is not there.
    #[error("{name}: missing from the store")]
    Missing { name: String },
    /// Create-only put of something that exists.
    #[error("{name}: exists already")]
    Exists { name: String },
    /// The disk (or quota) is full; nothing was written.
    #[error("{name}: no space left in the store")]
    Full { name: String },
    /// The store was opened for reading only.
    #[error("{name}: the store is open for reading only")]
    ReadOnly { name: String },
    /// The store could not do it; trying again may help.
    #[error("cannot {action} {name}: {source}")]
    Unavailable { action: &'static str, name: String, source: object_store::Error },
    /// An object holds something else than was written.
    #[error("{name}: {problem}")]
    Corrupt { name: String, problem: String },
    /// A file of the log could not be worked with.
    #[error("cannot {action} {name}: {source}")]
    Log { action: &'static str, name: String, source: io::Error },
    /// The log failed; the text says why.
    #[error("{0}")]
    LogFailed(String),
    /// Another process has taken over the store, and this one's log is closed.
    #[error("the store was taken over by another process: nothing can be written here any more")]
    LogSealed,
    /// A newer writer owns the database; this one must stop.
    #[error("database `{database}` was taken over by another writer: manifest {number} exists already")]
    Fenced { database: String, number: u64 },
}

impl StoreError {
    pub(crate) fn corrupt(name: &str, problem: impl ToString) -> Self {
        StoreError::Corrupt { name: name.to_owned(), problem: problem.to_string() }
    }

    pub fn is_missing(&self) -> bool {
        matches!(self, StoreError::Missing { .. })
    }
}

fn holder(pid: Option<u32>) -> String {
    match pid {
        Some(pid) if pid == std::process::id() => format!("this process (pid {pid})"),
        Some(pid) => format!("another process (pid {pid})"),
        None => "another process".to_owned(),
    }
}

/// One listed object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    pub name: String,
    pub bytes: u64,
    /// When it was written, unix milliseconds by the store's clock.
    pub modified_ms: i64,
}

/// A cheap handle; clones share the store, and its folder lock lives as long as the last of them.
#[derive(Debug, Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    url: Arc<str>,
    lock: Option<Arc<FolderLock>>,
    writable: bool,
}

impl Store {
    /// Opens the store for writing. A folder is created when it is not there, checked, and locked against a second
    /// process until the last clone is dropped.
    pub fn open(url: &str) -> Result<Store, StoreError> {
        match scheme(url)? {
            Scheme::Memory => Ok(Store::over(Arc::new(InMemory::new()), url)),
            Scheme::File(path) => {
                let lock = FolderLock::acquire(&path)?;
                let objects = local(&path)?;
                Ok(Store { objects, url: url.into(), lock: Some(Arc::new(lock)), writable: true })
            }
        }
    }

    /// Opens the store for looking only, beside a process that writes it: nothing is locked, created or cleaned, and
    /// puts and deletes are refused.
    pub fn open_read_only(url: &str) -> Result<Store, StoreError> {
        match scheme(url)? {
            Scheme::Memory => Ok(Store { writable: false, ..Store::over(Arc::new(InMemory::new()), url) }),
            Scheme::File(path) => Ok(Store { objects: local(&path)?, url: url.into(), lock: None, writable: false }),
        }
    }

    /// A store in this process's memory.
    pub fn memory() -> Store {
        Store::over(Arc::new(InMemory::new()), "memory://")
    }

    /// Any object store, for example a [`FaultyStore`].
    pub fn over(objects: Arc<dyn ObjectStore>, url: &str) -> Store {
        Store { objects, url: url.into(), lock: None, writable: true }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// The folder that it is, where it is one.
    pub fn folder(&self) -> Option<PathBuf> {
        match scheme(&self.url) {
            Ok(Scheme::File(path)) => Some(path),
            _ => None,
        }
    }

    /// Whether it is gone with this process.
    pub fn is_volatile(&self) -> bool {
        matches!(scheme(&self.url), Ok(Scheme::Memory))
    }

    /// Creates `name` durably, or fails with [`StoreError::Exists`] and changes nothing.
    pub async fn put_new(&self, name: &str, bytes: impl Into<PutPayload>) -> Result<(), StoreError> {
        let path = self.path_to_change(name)?;
        let _unfinished = self.lock.as_ref().map(|lock| lock.begin_write());
        let result = self.objects.put_opts(&path, bytes.into(), PutMode::Create.into()).await;
        if let Some(lock) = &self.lock {
            lock.end_write();
        }
        result.map(drop).map_err(|source| translate("write", name, source))
    }

    /// The whole object.
    pub async fn get(&self, name: &str) -> Result<Bytes, StoreError> {
        let read = async { self.objects.get(&parse(name)?).await?.bytes().await };
        read.await.map_err(|source| translate("read", name, source))
    }

    /// Exactly the bytes of `range`; an object that is too short for it is corrupt.
    pub async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let options = GetOptions::default().with_range(Some(GetRange::Bounded(range.clone())));
        let read = async {
            let found = self.objects.get_opts(&parse(name)?, options).await?;
            let size = found.meta.size;
            if size < range.end {
                return Ok(Err(size));
            }
            Ok(Ok(found.bytes().await?))
        };
        let short = |size| {
            let problem = format!("{size} bytes long, but bytes {} to {} were wanted", range.start, range.end);
            StoreError::corrupt(name, problem)
        };
        match read.await {
            Ok(Ok(bytes)) if bytes.len() as u64 == range.end - range.start => Ok(bytes),
            Ok(Ok(bytes)) => Err(short(range.start + bytes.len() as u64)),
            Ok(Err(size)) => Err(short(size)),
            // A range that begins past the end is an error of the store itself; tell it apart by the object's size.
            Err(source) => match self.size(name).await {
                Ok(size) if size < range.end => Err(short(size)),
                _ => Err(translate("read", name, source)),
            },
        }
    }

    /// The last `bytes` bytes of the object, or all of a shorter one; with the object's whole size.
    pub async fn get_suffix(&self, name: &str, bytes: u64) -> Result<(Bytes, u64), StoreError> {
        let size = self.size(name).await?;
        let bytes = self.get_range(name, size.saturating_sub(bytes)..size).await?;
        Ok((bytes, size))
    }

    /// The object's size in bytes.
    pub async fn size(&self, name: &str) -> Result<u64, StoreError> {
        let read = async { Ok(self.objects.head(&parse(name)?).await?.size) };
        read.await.map_err(|source| translate("read", name, source))
    }

    /// Every object below the folder `prefix`, ordered by name.
    pub async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let read = async { self.objects.list(Some(&parse(prefix)?)).try_collect::<Vec<_>>().await };
        let mut found: Vec<_> = read
            .await
            .map_err(|source| translate("list", prefix, source))?
            .into_iter()
            .map(|object| ObjectInfo {
                name: object.location.into(),
                bytes: object.size,
                modified_ms: object.last_modified.timestamp_millis(),
            })
            .collect();
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// The names of the folders directly in the folder `prefix`, ordered.
    pub async fn list_folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let read = async { self.objects.list_with_delimiter(Some(&parse(prefix)?)).await };
        let found = read.await.map_err(|source| translate("list", prefix, source))?;
        let mut names: Vec<String> =
            found.common_prefixes.iter().filter_map(|folder| folder.filename().map(str::to_owned)).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Deletes an object; one that is not there is no error.
    pub async fn delete(&self, name: &str) -> Result<(), StoreError> {
        let path = self.path_to_change(name)?;
        match self.objects.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(translate("delete", name, source)),
        }
    }

    fn path_to_change(&self, name: &str) -> Result<Path, StoreError> {
        if !self.writable {
            return Err(StoreError::ReadOnly { name: name.to_owned() });
        }
        parse(name).map_err(|_| StoreError::Name(name.to_owned()))
    }
}

enum Scheme {
    File(PathBuf),
    Memory,
}

fn scheme(url: &str) -> Result<Scheme, StoreError> {
    let supported = SCHEMES.join(", ");
    // The rest of a URL may hold credentials, so messages never repeat it.
    match url.split_once("://") {
        Some(("file", "")) => Err(StoreError::Url("file:// needs a folder, as in file://./dormouse-data".to_owned())),
        Some(("file", path)) => Ok(Scheme::File(PathBuf::from(path))),
        Some(("memory", _)) => Ok(Scheme::Memory),
        Some((scheme, _)) => {
            Err(StoreError::Url(format!("unknown store scheme {scheme}://; this build supports {supported}")))
        }
        None => Err(StoreError::Url(format!(
            "a store is named by a URL, such as file://./dormouse-data; this build supports {supported}"
        ))),
    }
}

fn local(path: &std::path::Path) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let objects = std::fs::metadata(path)
        .and_then(|_| LocalFileSystem::new_with_prefix(path).map_err(io::Error::from))
        .map_err(|source| StoreError::Folder { path: path.to_owned(), source })?;
    Ok(Arc::new(objects.with_fsync(true).with_automatic_cleanup(true)))
}

fn parse(name: &str) -> Result<Path, object_store::Error> {
    Ok(Path::parse(name)?)
}

fn translate(action: &'static str, name: &str, source: object_store::Error) -> StoreError {
    let name = name.to_owned();
    match source {
        object_store::Error::NotFound { .. } => StoreError::Missing { name },
        object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => {
            StoreError::Exists { name }
        }
        object_store::Error::InvalidPath { .. } => StoreError::Name(name),
        source if is_full(&source) => StoreError::Full { name },
        source => StoreError::Unavailable { action, name, source },
    }
}

/// Whether an I/O error somewhere below says that the disk or the quota is full.
fn is_full(error: &object_store::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests;
