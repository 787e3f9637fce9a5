//! The object store, which holds everything durable.
//!
//! A store is named by a URL. Objects are immutable: they are created once, read whole or by range, listed by
//! prefix and deleted, and never changed. All that Dormouse needs of a store is therefore *create if absent*, which
//! S3, GCS, Azure and a local file system all offer, and which is also how a writer is fenced (see [`crate::manifest`]).
//!
//! | URL | store |
//! | --- | --- |
//! | `file://PATH` | a folder: `file:///var/lib/dormouse` is absolute, `file://./dormouse-data` relative to the process |
//! | `s3://BUCKET/PREFIX`, `gs://...`, `az://CONTAINER/PREFIX` | credentials come from the environment |
//! | `memory://` | this process's memory; gone with it |
//!
//! # What is guaranteed
//!
//! When [`Store::put_new`] returns, the object is whole, under its name, and survives a power cut:
//!
//! 1. In a folder it is written to `<name>#<number>`, synced, linked to its name (which fails where the name is taken), and
//!    the folder is synced. Folders that had to be made for it are synced with their parents before. So a manifest that is
//!    committed after its chunks never names a chunk that is missing or short.
//! 2. A store behind a network makes it durable before it answers. A request whose answer is late or lost is repeated,
//!    and an object that it had created before is recognised (see `requests.rs`).
//!
//! When it fails with [`StoreError::Unavailable`], the object may exist or not, or appear later: callers never use the
//! name again for something else. Deletes are not synced: a deleted object may be back after a power cut, and is
//! garbage.
//!
//! One process at a time has a folder open. A store behind a network has no such lock: there, [`crate::owner`] decides which
//! process owns it.
//!
//! # Encryption
//!
//! A store that was opened for writing with a [`MasterKey`] once is encrypted from then on, see [`encryption`]. Objects are
//! encrypted when they are put and decrypted when they are read, whole or in part; sizes are those before. So the formats of
//! objects know nothing of it, except for that of the log, which is not written through the store in a folder.

pub mod encryption;
mod error;
mod faulty;
mod folder;
mod marker;
mod probe;
mod remote;
mod requests;
mod sealed;

use std::{io, ops::Range, path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::{
    Error, GetOptions, GetRange, ListResult, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload,
    local::LocalFileSystem, memory::InMemory, path::Path,
};

pub use self::encryption::MasterKey;
use self::encryption::{Keyring, listed_bytes};
use self::error::is_transport;
use self::folder::FolderLock;
pub(crate) use self::marker::GUARD_WRITER;
pub(crate) use self::probe::collect as collect_probes;
use self::remote::{Place, Service};
use self::requests::{Limits, Requests, is_nothing};
pub use self::{
    error::{FULL, StoreError},
    faulty::{FaultyStore, StoreFault, StoreRequest},
    requests::Patience,
};

/// The version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The format of stores that this build writes, and the highest that it reads.
pub const FORMAT: u32 = 5;

/// The schemes that this build can open, for messages and `--help`.
pub const SCHEMES: &[&str] = &["file://", "s3://", "gs://", "az://", "memory://"];

/// More deletes than this are not under way at once.
const DELETES_TOGETHER: usize = 1000;

/// A request that covers many objects may take as long as reading this many bytes.
const MANY: u64 = 32 << 20;

/// One listed object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    pub name: String,
    pub bytes: u64,
    /// When it was written, unix milliseconds by the store's clock.
    pub modified_ms: i64,
}

/// How a store is opened.
#[derive(Debug, Clone, Copy, Default)]
pub struct StoreAccess<'a> {
    /// Of a store behind a network: its variables are those whose names begin with this, without it. If there are none, those
    /// of every store.
    pub variables: &'a str,
    /// Opens an encrypted store, and encrypts one that is opened for writing.
    pub master_key: Option<&'a MasterKey>,
}

/// A cheap handle; clones share the store, and its folder lock lives as long as the last of them.
#[derive(Debug, Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    url: Arc<str>,
    lock: Option<Arc<FolderLock>>,
    /// Set for a store behind a network.
    requests: Option<Arc<Requests>>,
    writable: bool,
    /// Set for an encrypted store.
    keyring: Option<Arc<Keyring>>,
}

impl Store {
    /// Opens the store for writing. A folder is created if it is missing, checked, and locked against a second process
    /// until the last clone is dropped. A store behind a network is checked for the needed abilities, which takes a
    /// request or two and up to a minute if it does not answer.
    pub fn open(url: &str) -> Result<Store, StoreError> {
        Self::open_with(url, StoreAccess::default())
    }

    /// The same with variables and a master key.
    pub fn open_with(url: &str, access: StoreAccess<'_>) -> Result<Store, StoreError> {
        match scheme(url)? {
            Scheme::Memory => Ok(Store::over(Arc::new(InMemory::new()), url)),
            Scheme::File(path) => {
                // Before the lock, whose taking cleans up after a crash.
                marker::check_folder(&path)?;
                let root = sealed::root_of_folder(&path)?;
                let keyring = Keyring::unlock(root.as_ref(), access.master_key)?;
                let lock = FolderLock::acquire(&path)?;
                match marker::claim_folder(&path, marker::check_folder(&path)?) {
                    Ok(()) => {}
                    Err(error @ StoreError::Full { .. }) => {
                        tracing::warn!(%error, "failed to mark the store with its format yet");
                        lock.set_marked(false);
                    }
                    Err(error) => return Err(error),
                }
                let store = Store { lock: Some(Arc::new(lock)), ..Store::over(local(&path)?, url) };
                let newest = sealed::root_of_folder(&path)?;
                let keyring = match newest == root {
                    true => keyring,
                    false => Keyring::unlock(newest.as_ref(), access.master_key)?,
                };
                store.unlocked(newest.as_ref(), keyring, access.master_key)
            }
            Scheme::Remote(service, place) => {
                let store = remote::open(service, url, place, true, access.variables)?;
                let (root, keyring) = store.read_keyring(access.master_key)?;
                store.unlocked(root.as_ref(), keyring, access.master_key)
            }
        }
    }

    /// Opens the store for looking only, beside a process that writes it: nothing is locked, created or cleaned, and
    /// puts and deletes are refused.
    pub fn open_read_only(url: &str) -> Result<Store, StoreError> {
        Self::open_read_only_with(url, StoreAccess::default())
    }

    /// The same with variables and a master key.
    pub fn open_read_only_with(url: &str, access: StoreAccess<'_>) -> Result<Store, StoreError> {
        match scheme(url)? {
            Scheme::Memory => Ok(Store { writable: false, ..Store::over(Arc::new(InMemory::new()), url) }),
            Scheme::File(path) => {
                marker::check_folder(&path)?;
                let keyring = Keyring::unlock(sealed::root_of_folder(&path)?.as_ref(), access.master_key)?;
                Ok(Store { writable: false, keyring: keyring.map(Arc::new), ..Store::over(local(&path)?, url) })
            }
            Scheme::Remote(service, place) => {
                let store = remote::open(service, url, place, false, access.variables)?;
                let (_, keyring) = store.read_keyring(access.master_key)?;
                Ok(Store { keyring: keyring.map(Arc::new), ..store })
            }
        }
    }

    /// A store in this process's memory.
    pub fn memory() -> Store {
        Store::over(Arc::new(InMemory::new()), "memory://")
    }

    /// Any object store, for example a [`FaultyStore`]. Each request is made once and waited for without limit.
    pub fn over(objects: Arc<dyn ObjectStore>, url: &str) -> Store {
        Store { objects, url: url.into(), lock: None, requests: None, writable: true, keyring: None }
    }

    /// Any object store as one behind a network: with time limits and retries.
    ///
    /// # Errors
    /// When the system refuses threads.
    pub fn over_network(objects: Arc<dyn ObjectStore>, url: &str, patience: Patience) -> Result<Store, StoreError> {
        let requests = Requests::start(patience).map_err(|error| StoreError::Unusable {
            url: url.to_owned(),
            problem: format!("its threads cannot be started: {error}"),
        })?;
        Ok(Store { requests: Some(Arc::new(requests)), ..Store::over(objects, url) })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// The store's folder, if it is one.
    pub fn folder(&self) -> Option<PathBuf> {
        match scheme(&self.url) {
            Ok(Scheme::File(path)) => Some(path),
            _ => None,
        }
    }

    /// Whether this is a store of Dormouse, of any version: an empty folder is none, nor is a folder of other files.
    pub async fn is_dormouse(&self) -> Result<bool, StoreError> {
        marker::is_store(self).await
    }

    /// Whether it ends with this process.
    pub fn is_volatile(&self) -> bool {
        matches!(scheme(&self.url), Ok(Scheme::Memory))
    }

    /// Creates an object that is not encrypted.
    async fn put_plain(&self, name: &str, bytes: impl Into<PutPayload>) -> Result<(), StoreError> {
        let path = self.path_to_change(name)?;
        self.mark()?;
        let created = match &self.requests {
            Some(requests) => requests.create(&self.objects, &path, bytes.into()).await,
            None => self.create_local(&path, bytes.into()).await,
        };
        created.map_err(|source| StoreError::of("write", name, source))
    }

    /// Marks the store with its format if the disk was too full for that when it was opened. To be called before
    /// anything is written to it, so that a build which would misread it is kept away.
    ///
    /// # Errors
    /// When it is still too full.
    pub(crate) fn mark(&self) -> Result<(), StoreError> {
        let Some(lock) = self.lock.as_ref().filter(|lock| !lock.is_marked()) else { return Ok(()) };
        marker::claim_folder(lock.folder(), marker::check_folder(lock.folder())?)?;
        lock.set_marked(true);
        Ok(())
    }

    /// Whether `put_new` can be relied on. Creates `name` if it is missing.
    async fn creates_only_what_is_new(&self, name: &str, bytes: impl Into<PutPayload>) -> Result<bool, StoreError> {
        let path = self.path_to_change(name)?;
        // The file system's own promise.
        let Some(requests) = &self.requests else { return Ok(true) };
        let answer = requests.create_is_exclusive(&self.objects, &path, bytes.into()).await;
        answer.map_err(|source| StoreError::of("write", name, source))
    }

    async fn create_local(&self, path: &Path, bytes: PutPayload) -> Result<(), Error> {
        if let Some(lock) = &self.lock {
            lock.begin_write();
        }
        let result = self.objects.put_opts(path, bytes, PutMode::Create.into()).await;
        let Some(lock) = &self.lock else { return result.map(drop) };
        lock.end_write();
        result?;
        // Once in the life of a folder, so the few syncs may as well happen on this thread.
        lock.sync_way_to(path).map_err(|error| Error::Generic { store: "folder", source: Box::new(error) })
    }

    /// The whole object, as it is stored.
    async fn get_plain(&self, name: &str) -> Result<Bytes, StoreError> {
        let read = async {
            let path = parse(name)?;
            self.repeat(name, move |objects, limits| {
                let path = path.clone();
                async move {
                    let found = limits.answer(0, objects.get(&path)).await?;
                    limits.answer(found.meta.size, found.bytes()).await
                }
            })
            .await
        };
        read.await.map_err(|source| StoreError::of("read", name, source))
    }

    /// The same as they are stored.
    async fn get_range_plain(&self, name: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let (start, end) = (range.start, range.end);
        let read = async {
            let path = parse(name)?;
            self.repeat(name, move |objects, limits| {
                let path = path.clone();
                async move { read_range(&objects, &path, start..end, limits).await }
            })
            .await
        };
        match read.await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(size)) => Err(too_short(name, size, &(start..end))),
            Err(source) => Err(StoreError::of("read", name, source)),
        }
    }

    /// The same as they are stored.
    async fn get_suffix_plain(&self, name: &str, bytes: u64) -> Result<(Bytes, u64), StoreError> {
        let read = async {
            let path = parse(name)?;
            self.repeat(name, move |objects, limits| {
                let path = path.clone();
                async move { read_suffix(&objects, &path, bytes, limits).await }
            })
            .await
        };
        match read.await {
            Ok((bytes, size)) => Ok((bytes, size)),
            Err(source) => Err(StoreError::of("read", name, source)),
        }
    }

    /// The size with which it is stored.
    async fn size_plain(&self, name: &str) -> Result<u64, StoreError> {
        let read = async {
            let path = parse(name)?;
            self.repeat(name, move |objects, limits| {
                let path = path.clone();
                async move { Ok(limits.answer(0, objects.head(&path)).await?.size) }
            })
            .await
        };
        read.await.map_err(|source| StoreError::of("read", name, source))
    }

    /// Every object below the folder `prefix`, ordered by name.
    pub async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let read = async {
            let path = parse(prefix)?;
            match &self.requests {
                Some(requests) => requests.list(&self.objects, path).await,
                None => self.objects.list(Some(&path)).try_collect().await,
            }
        };
        let found: Vec<ObjectMeta> = read.await.map_err(|source| StoreError::of("list", prefix, source))?;
        let mut found: Vec<_> = found
            .into_iter()
            .map(|object| {
                let name = String::from(object.location);
                let bytes = self.keyring.as_ref().map_or(object.size, |ring| listed_bytes(ring, &name, object.size));
                ObjectInfo { name, bytes, modified_ms: object.last_modified.timestamp_millis() }
            })
            .collect();
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// The objects that are in no folder.
    async fn list_top(&self) -> Result<Vec<ObjectMeta>, StoreError> {
        let list = async |objects: Arc<dyn ObjectStore>, limits: Limits| {
            limits.answer(MANY, objects.list_with_delimiter(None)).await
        };
        let found = self.repeat("", list).await.map_err(|source| StoreError::of("list", "", source))?;
        Ok(found.objects)
    }

    /// The names of the folders directly in the folder `prefix`, ordered.
    pub async fn list_folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let read = async {
            let path = parse(prefix)?;
            self.repeat(prefix, move |objects, limits| {
                let path = path.clone();
                async move {
                    match limits.answer(MANY, objects.list_with_delimiter(Some(&path))).await {
                        Err(error) if is_nothing(&error, &objects, limits).await => Ok(ListResult {
                            common_prefixes: Vec::new(),
                            objects: Vec::new(),
                            extensions: Default::default(),
                        }),
                        listed => listed,
                    }
                }
            })
            .await
        };
        let found = read.await.map_err(|source| StoreError::of("list", prefix, source))?;
        let mut names: Vec<String> =
            found.common_prefixes.iter().filter_map(|folder| folder.filename().map(str::to_owned)).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Deletes an object; a missing one is no error.
    pub async fn delete(&self, name: &str) -> Result<(), StoreError> {
        let path = self.path_to_change(name)?;
        let doomed = path.clone();
        let deleted = self.repeat(name, move |objects, limits| {
            let path = doomed.clone();
            async move { limits.answer(0, objects.delete(&path)).await }
        });
        let deleted = deleted.await;
        self.forget_ways([&path]);
        match deleted {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(StoreError::of("delete", name, source)),
        }
    }

    /// Deletes objects, many with one request if the store can do that. Missing ones are no error; after an error some
    /// are deleted and some are not.
    pub async fn delete_many(&self, names: &[String]) -> Result<(), StoreError> {
        let paths = names.iter().map(|name| self.path_to_change(name)).collect::<Result<Vec<_>, _>>()?;
        for some in paths.chunks(DELETES_TOGETHER) {
            let name = some.first().map(ToString::to_string).unwrap_or_default();
            let doomed = some.to_vec();
            let deleted = self.repeat(&name, move |objects, limits| {
                let doomed = doomed.clone();
                async move { limits.answer(MANY, delete_all(&objects, doomed)).await }
            });
            let deleted = deleted.await;
            self.forget_ways(some);
            deleted.map_err(|source| StoreError::of("delete", &name, source))?;
        }
        Ok(())
    }

    fn forget_ways<'a>(&self, deleted: impl IntoIterator<Item = &'a Path>) {
        if let Some(lock) = &self.lock {
            deleted.into_iter().for_each(|path| lock.forget_way_to(path));
        }
    }

    /// Makes one attempt if the store is local, and retries with its patience if it is behind a network.
    async fn repeat<T, F>(
        &self,
        name: &str,
        ask: impl Fn(Arc<dyn ObjectStore>, Limits) -> F + Send + 'static,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let objects = Arc::clone(&self.objects);
        let Some(requests) = &self.requests else { return ask(objects, Limits(None)).await };
        let (patience, name) = (requests.patience, name.to_owned());
        let request =
            async move { patience.repeat(&name, move || ask(Arc::clone(&objects), Limits(Some(patience)))).await };
        requests.run(request).await
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
    Remote(Service, Place),
}

fn scheme(url: &str) -> Result<Scheme, StoreError> {
    let supported = SCHEMES.join(", ");
    // The rest of a URL may hold credentials, so messages never repeat it.
    match url.split_once("://") {
        Some(("file", "")) => Err(StoreError::Url("file:// needs a folder, as in file://./dormouse-data".to_owned())),
        Some(("file", path)) => Ok(Scheme::File(PathBuf::from(path))),
        Some(("memory", _)) => Ok(Scheme::Memory),
        Some(("s3", place)) => Ok(Scheme::Remote(Service::S3, Place::parse(Service::S3, place)?)),
        Some(("gs", place)) => Ok(Scheme::Remote(Service::Google, Place::parse(Service::Google, place)?)),
        Some(("az", place)) => Ok(Scheme::Remote(Service::Azure, Place::parse(Service::Azure, place)?)),
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

fn too_short(name: &str, size: u64, range: &Range<u64>) -> StoreError {
    StoreError::corrupt(name, format!("{size} bytes long, but bytes {} to {} were wanted", range.start, range.end))
}

/// The bytes, or the size of an object that is too short for them.
async fn read_range(
    objects: &Arc<dyn ObjectStore>,
    path: &Path,
    range: Range<u64>,
    limits: Limits,
) -> Result<Result<Bytes, u64>, Error> {
    let end = range.end;
    let read = read_within(objects, path, range, limits, |size| size >= end).await?;
    Ok(read.map(|(bytes, _)| bytes))
}

/// The bytes of the range that the object has, and its size; or the size alone, of one that ends before the range or has not
/// `enough` bytes.
async fn read_within(
    objects: &Arc<dyn ObjectStore>,
    path: &Path,
    range: Range<u64>,
    limits: Limits,
    enough: impl Fn(u64) -> bool,
) -> Result<Result<(Bytes, u64), u64>, Error> {
    let options = GetOptions::default().with_range(Some(GetRange::Bounded(range.clone())));
    match limits.answer(0, objects.get_opts(path, options)).await {
        Ok(found) if !enough(found.meta.size) => Ok(Err(found.meta.size)),
        Ok(found) => {
            let size = found.meta.size;
            let wanted = range.end.min(size).saturating_sub(range.start);
            let bytes = limits.answer(wanted, found.bytes()).await?;
            let read = bytes.len() as u64;
            Ok(if read == wanted { Ok((bytes, size)) } else { Err(range.start + read) })
        }
        // A range that begins past the end is an error of the store itself; tell it apart by the object's size.
        Err(error) if !is_transport(&error) => match limits.answer(0, objects.head(path)).await {
            Ok(meta) if meta.size < range.end => Ok(Err(meta.size)),
            _ => Err(error),
        },
        Err(error) => Err(error),
    }
}

async fn read_suffix(
    objects: &Arc<dyn ObjectStore>,
    path: &Path,
    bytes: u64,
    limits: Limits,
) -> Result<(Bytes, u64), Error> {
    let options = GetOptions::default().with_range(Some(GetRange::Suffix(bytes)));
    let by_size = match limits.answer(0, objects.get_opts(path, options)).await {
        Ok(found) => {
            let size = found.meta.size;
            let bytes = limits.answer(bytes.min(size), found.bytes()).await?;
            return Ok((bytes, size));
        }
        Err(error @ Error::NotFound { .. }) => return Err(error),
        Err(error) if is_transport(&error) => return Err(error),
        // Azure has no such ranges, and S3 refuses them for an empty object.
        Err(_) => limits.answer(0, objects.head(path)).await?.size,
    };
    if by_size == 0 || bytes == 0 {
        return Ok((Bytes::new(), by_size));
    }
    match read_range(objects, path, by_size.saturating_sub(bytes)..by_size, limits).await? {
        Ok(bytes) => Ok((bytes, by_size)),
        Err(size) => Err(Error::Generic { store: "store", source: format!("{size} bytes, not {by_size}").into() }),
    }
}

/// The first error of all the deletes, when each has been tried.
async fn delete_all(objects: &Arc<dyn ObjectStore>, paths: Vec<Path>) -> Result<(), Error> {
    let mut results = objects.delete_stream(futures::stream::iter(paths.into_iter().map(Ok)).boxed());
    let mut failed = Ok(());
    while let Some(result) = results.next().await {
        match result {
            Ok(_) | Err(Error::NotFound { .. }) => {}
            Err(error) => failed = failed.and(Err(error)),
        }
    }
    failed
}

fn parse(name: &str) -> Result<Path, Error> {
    Ok(Path::parse(name)?)
}

#[cfg(test)]
mod tests;
