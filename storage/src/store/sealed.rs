//! Reading and writing the objects of a store that may be encrypted.

use std::ops::Range;
use std::path::Path as FolderPath;
use std::sync::Arc;
use std::{fs, io};

use bytes::Bytes;
use futures::executor::block_on;
use object_store::PutPayload;

use super::encryption::{
    Cover, EXTRA_BYTES, FRAME_BYTES, KEYS, Keyring, MasterKey, ROOTS, SEALED_BYTES, StoredRoot, frames_of, key_number,
    lost_root, newest_root, plain_bytes,
};
use super::{Store, StoreError, encryption, parse, read_within, too_short};

/// How often the root key is looked for while the master key is being changed.
const LOOKS_MAX: usize = 8;

impl Store {
    /// Encrypts a store that is not, or unlocks one that is. For stores that are not opened by their URL.
    ///
    /// # Errors
    /// When the master key is not the store's, or the store refuses.
    pub async fn encrypted(self, master: &MasterKey) -> Result<Store, StoreError> {
        let root = self.root().await?;
        let keyring = match Keyring::unlock(root.as_ref(), Some(master))? {
            Some(keyring) => keyring,
            None => Keyring::begin(&self, master).await?,
        };
        Ok(Store { keyring: Some(Arc::new(keyring)), ..self })
    }

    /// Whether what is written from now on is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.keyring.is_some()
    }

    /// Whether everything in it that belongs to a database is encrypted.
    pub fn is_encrypted_whole(&self) -> bool {
        self.keyring.as_ref().is_some_and(|keyring| !keyring.is_mixed())
    }

    /// A store that was just opened for writing, with its keys, which a master key brings if it has none.
    pub(super) fn unlocked(
        self,
        root: Option<&StoredRoot>,
        found: Option<Keyring>,
        master: Option<&MasterKey>,
    ) -> Result<Store, StoreError> {
        let keyring = match (found, master) {
            (None, Some(master)) => Some(block_on(Keyring::begin(&self, master))?),
            (found, _) => found,
        };
        for older in root.iter().flat_map(|root| &root.older) {
            if let Err(error) = block_on(self.delete(older)) {
                tracing::warn!(%error, "failed to delete the root key of the master key before");
            }
        }
        Ok(Store { keyring: keyring.map(Arc::new), ..self })
    }

    /// The root key of a store behind a network, and the keys that it opens; `None` if it is not encrypted.
    pub(super) fn read_keyring(
        &self,
        master: Option<&MasterKey>,
    ) -> Result<(Option<StoredRoot>, Option<Keyring>), StoreError> {
        let mut root = block_on(self.root())?;
        if root.is_none() && master.is_some() && block_on(self.has_keys())? {
            // Another process may have begun to encrypt it just now.
            root = Some(block_on(self.root())?.ok_or_else(lost_root)?);
        }
        let keyring = Keyring::unlock(root.as_ref(), master)?;
        Ok((root, keyring))
    }

    /// The newest root key; `None` if the store is not encrypted.
    pub(super) async fn root(&self) -> Result<Option<StoredRoot>, StoreError> {
        for _ in 0..LOOKS_MAX {
            let listed = self.list(ROOTS).await?;
            let Some((name, older)) = newest_root(listed.into_iter().map(|object| object.name)) else {
                return Ok(None);
            };
            match self.get_plain(&name).await {
                Ok(object) => return Ok(Some(StoredRoot { name, object, older })),
                // The master key was changed since the list: there is a newer one.
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(error),
            }
        }
        Err(changes())
    }

    /// Whether there is a key of any kind, which a root key opens.
    pub(super) async fn has_keys(&self) -> Result<bool, StoreError> {
        Ok(!self.list(KEYS).await?.is_empty())
    }

    /// Creates `name` durably, or fails with [`StoreError::Exists`] and changes nothing.
    pub async fn put_new(&self, name: &str, bytes: impl Into<PutPayload>) -> Result<(), StoreError> {
        let bytes: PutPayload = bytes.into();
        let Some((keyring, Cover::Sealed(scope) | Cover::SealedIfNew(scope))) = self.cover(name) else {
            return self.put_plain(name, bytes).await;
        };
        if bytes.content_length() == 0 {
            return self.put_plain(name, bytes).await;
        }
        // Before a key is made for it.
        self.path_to_change(name)?;
        let sealed = keyring.seal(self, &scope, name, bytes).await?;
        self.put_plain(name, sealed).await
    }

    /// The whole object.
    pub async fn get(&self, name: &str) -> Result<Bytes, StoreError> {
        let bytes = self.get_plain(name).await?;
        let (keyring, scope) = match self.cover(name) {
            Some((keyring, Cover::Sealed(scope))) => (keyring, scope),
            Some((keyring, Cover::SealedIfNew(scope))) if key_number(&bytes).is_some() => (keyring, scope),
            _ => return Ok(bytes),
        };
        if bytes.is_empty() {
            return Ok(bytes);
        }
        let total = size_of(name, bytes.len() as u64)?;
        keyring.open(self, &scope, name, (0, total), &bytes).await
    }

    /// Exactly the bytes of `range`; an object that is too short for it is corrupt. One request.
    pub async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let (keyring, scope) = match self.cover(name) {
            Some((keyring, Cover::Sealed(scope))) => (keyring, scope),
            Some((_, Cover::SealedIfNew(_))) => {
                // Read whole anyway.
                let bytes = self.get(name).await?;
                return slice(&bytes, &range).ok_or_else(|| too_short(name, bytes.len() as u64, &range));
            }
            _ => return self.get_range_plain(name, range).await,
        };
        let frames = frames_of(&range);
        let read = async {
            let (path, frames) = (parse(name)?, frames.clone());
            self.repeat(name, move |objects, limits| {
                let (path, frames) = (path.clone(), frames.clone());
                async move { read_within(&objects, &path, frames, limits, |_| true).await }
            })
            .await
        };
        let (bytes, size) = match read.await {
            Ok(Ok((bytes, size))) => (bytes, size),
            Ok(Err(size)) => return Err(too_short(name, plain_bytes(size).unwrap_or(size), &range)),
            Err(source) => return Err(StoreError::of("read", name, source)),
        };
        let total = size_of(name, size)?;
        if total < range.end {
            return Err(too_short(name, total, &range));
        }
        let first = range.start / FRAME_BYTES;
        let opened = keyring.open(self, &scope, name, (first, total), &bytes).await?;
        let start = first * FRAME_BYTES;
        slice(&opened, &(range.start - start..range.end - start)).ok_or_else(|| too_short(name, total, &range))
    }

    /// The last `bytes` bytes of the object, or all of a shorter one; with the object's whole size. One request, where the
    /// store knows how to be asked for that.
    pub async fn get_suffix(&self, name: &str, bytes: u64) -> Result<(Bytes, u64), StoreError> {
        let (keyring, scope) = match self.cover(name) {
            Some((keyring, Cover::Sealed(scope))) => (keyring, scope),
            Some((_, Cover::SealedIfNew(_))) => {
                let all = self.get(name).await?;
                let total = all.len() as u64;
                return Ok((all.slice(total.saturating_sub(bytes) as usize..), total));
            }
            _ => return self.get_suffix_plain(name, bytes).await,
        };
        // The last frame may hold little, so these hold one more.
        let wanted = (bytes.div_ceil(FRAME_BYTES) + 1).saturating_mul(SEALED_BYTES);
        let (read, size) = self.get_suffix_plain(name, wanted).await?;
        let total = size_of(name, size)?;
        let wanted_from = total.saturating_sub(bytes);
        if total == 0 || bytes == 0 {
            return Ok((Bytes::new(), total));
        }
        let first = wanted_from / FRAME_BYTES;
        let frames = (first * SEALED_BYTES).checked_sub(size.saturating_sub(read.len() as u64));
        let frames = frames.and_then(|skipped| slice(&read, &(skipped..read.len() as u64)));
        let frames = frames.ok_or_else(|| StoreError::corrupt(name, "its end was not read"))?;
        let opened = keyring.open(self, &scope, name, (first, total), &frames).await?;
        let start = first * FRAME_BYTES;
        let end = slice(&opened, &(wanted_from - start..total - start));
        end.map(|end| (end, total)).ok_or_else(|| StoreError::corrupt(name, "its end is missing"))
    }

    /// The object's size in bytes.
    pub async fn size(&self, name: &str) -> Result<u64, StoreError> {
        match self.cover(name) {
            None | Some((_, Cover::Plain)) => self.size_plain(name).await,
            Some((_, Cover::Sealed(_))) => size_of(name, self.size_plain(name).await?),
            Some((_, Cover::SealedIfNew(_))) => Ok(self.get(name).await?.len() as u64),
        }
    }

    /// The folders of databases that have keys, by the last part of their names.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub(crate) async fn encrypted_databases(&self) -> Result<Vec<String>, StoreError> {
        match &self.keyring {
            Some(_) => self.list_folders(encryption::DATABASE_KEYS).await,
            None => Ok(Vec::new()),
        }
    }

    /// To be called before the database in a folder is deleted: its keys until now are deleted with the last of its objects.
    ///
    /// # Errors
    /// When the store refuses a new key.
    pub(crate) async fn retire_keys(&self, folder: &str) -> Result<(), StoreError> {
        match &self.keyring {
            Some(keyring) => keyring.retire(self, folder).await,
            None => Ok(()),
        }
    }

    /// The number of the key that has encrypted an object; `None` if it is not there, or not encrypted.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub(crate) async fn key_of(&self, name: &str) -> Result<Option<u32>, StoreError> {
        let Some((_, Cover::Sealed(_))) = self.cover(name) else { return Ok(None) };
        match self.get_range_plain(name, 0..EXTRA_BYTES).await {
            Ok(bytes) => Ok(key_number(&bytes)),
            Err(StoreError::Missing { .. } | StoreError::Corrupt { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes the keys of a database's folder before number `before`. Nothing may be left that they have encrypted.
    ///
    /// # Errors
    /// When the store refuses.
    pub(crate) async fn delete_retired_keys(&self, folder: &str, before: u32) -> Result<(), StoreError> {
        let Some(keyring) = &self.keyring else { return Ok(()) };
        self.settle_deletes(folder)?;
        keyring.delete_retired(self, folder, before).await
    }

    /// Looks for the keys of databases that this process has used.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when another process has deleted one, so that what it has encrypted cannot be read again.
    pub(crate) async fn check_keys(&self) -> Result<(), StoreError> {
        match &self.keyring {
            Some(keyring) => keyring.check_used(self).await,
            None => Ok(()),
        }
    }

    /// Deletes all keys of a database's folder in which nothing is left. The database must not be made meanwhile.
    ///
    /// # Errors
    /// When the store refuses.
    pub(crate) async fn delete_keys(&self, folder: &str) -> Result<(), StoreError> {
        let Some(keyring) = &self.keyring else { return Ok(()) };
        self.settle_deletes(folder)?;
        keyring.delete_all(self, folder).await
    }

    /// Makes the deletes in a folder durable: no object must come back without its key.
    fn settle_deletes(&self, folder: &str) -> Result<(), StoreError> {
        let Some(lock) = &self.lock else { return Ok(()) };
        let path = lock.folder().join(folder);
        let above = path.parent().unwrap_or(&path);
        let synced = sync_tree(&path).and_then(|()| sync_folder(above));
        synced.map_err(|source| StoreError::Folder { path: path.clone(), source })
    }

    fn cover(&self, name: &str) -> Option<(&Keyring, Cover)> {
        self.keyring.as_ref().map(|keyring| (&**keyring, keyring.cover(name)))
    }
}

/// The newest root key of the store in a folder, which need not exist; `None` if it is not encrypted.
///
/// # Errors
/// When it cannot be read, or there are keys without it.
pub(super) fn root_of_folder(folder: &FolderPath) -> Result<Option<StoredRoot>, StoreError> {
    let failed = |source| StoreError::Folder { path: folder.to_owned(), source };
    for _ in 0..LOOKS_MAX {
        let names = names_in(&folder.join(ROOTS)).map_err(failed)?;
        let Some((name, older)) = newest_root(names.into_iter().map(|name| format!("{ROOTS}/{name}"))) else {
            return match has_file(&folder.join(KEYS)).map_err(failed)? {
                true => Err(lost_root()),
                false => Ok(None),
            };
        };
        match fs::read(folder.join(&name)) {
            Ok(object) => return Ok(Some(StoredRoot { name, object: object.into(), older })),
            // The master key was changed since the list: there is a newer one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Err(changes())
}

fn changes() -> StoreError {
    StoreError::Encrypted { problem: "the master key is being changed over and over".to_owned() }
}

/// The names in a folder, of which a missing one has none.
fn names_in(folder: &FolderPath) -> io::Result<Vec<String>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Whether there is a file anywhere in a folder, which need not exist.
fn has_file(folder: &FolderPath) -> io::Result<bool> {
    for name in names_in(folder)? {
        let path = folder.join(name);
        if !path.is_dir() || has_file(&path)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn sync_tree(folder: &FolderPath) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        }
    }
    sync_folder(folder)
}

/// A missing one has nothing to be synced.
fn sync_folder(folder: &FolderPath) -> io::Result<()> {
    match fs::File::open(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        folder => folder?.sync_all(),
    }
}

/// The size of an object whose frames have `size` bytes.
fn size_of(name: &str, size: u64) -> Result<u64, StoreError> {
    plain_bytes(size).ok_or_else(|| {
        let problem =
            format!("{size} bytes long, which no encrypted object is: {EXTRA_BYTES} of each frame are not its own");
        StoreError::corrupt(name, problem)
    })
}

fn slice(bytes: &Bytes, range: &Range<u64>) -> Option<Bytes> {
    let (start, end) = (usize::try_from(range.start).ok()?, usize::try_from(range.end).ok()?);
    (start <= end && end <= bytes.len()).then(|| bytes.slice(start..end))
}
