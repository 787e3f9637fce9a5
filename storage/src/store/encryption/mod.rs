//! Encryption at rest.
//!
//! ```text
//! master key            the operator's: a file, a variable, a command. Never in the store
//!   root key            encryption/<number>                  one for the store, wrapped by the master key
//!     data key          key/db/<database>/<number>           wrapped by the root key
//!                       key/log/<writer>/<number>
//!                       key/node/<number>
//!       object key      derived from the data key and the object's name; seals its frames (AES-256-GCM, see `frames.rs`)
//!       frame key       derived from the data key and a salt; seals one frame of a log (see `log.rs`)
//! ```
//!
//! | objects | key |
//! | --- | --- |
//! | `db/<database>/...` (the *scope* of the key), and what a backup has of it | that of the database |
//! | `log/<writer>/...` | that of the writer; the frames are sealed, their heads are not |
//! | `directory/...`, `ledger/...`, `backup/point/...` | that of the node |
//! | `format/...`, `owner/...`, `encryption/...`, `key/...`, empty objects | none: they hold nothing of a tenant |
//!
//! The names, sizes and times of objects show, and with them the names of databases.
//!
//! # Which objects are encrypted
//!
//! Encryption begins when a store is opened for writing with a master key, and never ends. In a store that was empty then,
//! everything above is encrypted, and an object that is not is refused: so no one can plant one. In another store the
//! databases that existed then are listed beside the root key and stay as they are, whatever is written to them; all others are
//! encrypted. Of the directory, the ledger and the logs, which know no databases, new objects are encrypted and older ones read.
//! So it is always known by an object's name whether it is encrypted, and a range is read by one request.
//!
//! # Keys of databases
//!
//! 1. A database gets its first key with the first object in its folder. A branch is a database with a folder and a key of its
//!    own; the objects that it shares are in their owner's folder, under the owner's key.
//! 2. When a database is deleted, a new key is made first ([`Keyring::retire`]): the one that sealed its data is *retired*.
//!    Objects that branches need stay readable with it. A new database of that name uses the new key.
//! 3. Retired keys are deleted when the last object that was left is deleted, and all keys when nothing is in the folder any more.
//!    From then on no copy of the deleted objects can be read, wherever it may be: in a backup of the disk, or in older versions
//!    of a bucket's objects. A process that starts deletes the keys of databases that one before it did not come to.
//!
//! A deletion may end after step 2, and the database be as it was. So keys are never deleted by their age alone: see
//! `Lists::delete_unneeded` in the manifests.
//!
//! The entries of a deleted database in the log go with the log's file, which stays until the other databases that it mentions
//! have a checkpoint beyond it. The key of a log goes with its last file; if the process ends in between, the key stays: another one
//! may read that log at this moment, so nothing tells that it is not needed.
//!
//! # Changing the master key
//!
//! [`rotate`] wraps the same root key by another master key, so nothing else is written. The object with the highest number
//! counts; those before it are deleted, at the latest when the store is next opened for writing. Copies of the old wrapped root key that
//! the store's own history may have can still be opened with the old master key.

mod frames;
mod keys;
mod log;
mod master;
mod root;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;

use bytes::Bytes;
use futures::executor::block_on;
use object_store::PutPayload;
use parking_lot::Mutex;

pub(super) use self::frames::{EXTRA_BYTES, FRAME_BYTES, SEALED_BYTES, frames_of, key_number, plain_bytes};
use self::keys::{CryptoFailure, DataKey, KEY_BYTES, KeyBytes, new_key, unwrap, wrap};
pub use self::log::{LogCipher, SEALED_FRAME_BYTES};
pub use self::master::MasterKey;
use self::root::Unencrypted;
use super::{Store, StoreError};

/// The folder of the root key.
pub(super) const ROOTS: &str = "encryption";
/// The folder of the data keys.
pub(super) const KEYS: &str = "key";
/// That of the databases' keys.
pub(super) const DATABASE_KEYS: &str = "key/db";
const DIGITS: usize = 6;

const KEY_MAGIC: &[u8; 8] = b"DMKEY\n\n\n";
const KEY_VERSION: u32 = 1;

/// Keys that are kept in memory, some 200 bytes each; the others are read again.
const KEPT_MAX: usize = 1 << 16;

/// Whether an object is encrypted, and by the keys of which scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cover {
    Plain,
    Sealed(String),
    /// New objects are; older ones may not be.
    SealedIfNew(String),
}

/// The keys of an encrypted store.
pub(super) struct Keyring {
    root_bytes: KeyBytes,
    root: DataKey,
    unencrypted: Unencrypted,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    keys: HashMap<(String, u32), DataKey>,
    /// The number of the key that seals what is written now.
    current: HashMap<String, u32>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyring")
    }
}

impl Keyring {
    fn new(root_bytes: KeyBytes, unencrypted: Unencrypted) -> Self {
        Self { root: DataKey::of(&root_bytes), root_bytes, unencrypted, known: Mutex::default() }
    }

    /// Opens the root key. `None`: the store is not encrypted.
    ///
    /// # Errors
    /// When it is encrypted and the master key is missing or wrong.
    pub fn unlock(root: Option<&StoredRoot>, master: Option<&MasterKey>) -> Result<Option<Self>, StoreError> {
        let Some(StoredRoot { object, .. }) = root else { return Ok(None) };
        let failed = |problem: String| StoreError::Encrypted { problem };
        let Some(master) = master else {
            return Err(failed("it needs its master key: give --master-key or DORMOUSE_MASTER_KEY".to_owned()));
        };
        let (root, unencrypted) = root::decode(object, master).map_err(failed)?;
        Ok(Some(Self::new(root, unencrypted)))
    }

    /// Begins the encryption of a store that has none. `store`: without its keys.
    ///
    /// # Errors
    /// When the store refuses, has keys without a root key, or the master key cannot wrap.
    pub async fn begin(store: &Store, master: &MasterKey) -> Result<Self, StoreError> {
        if store.has_keys().await? {
            // Another process may have begun just now.
            return Self::unlock(store.root().await?.as_ref(), Some(master))?.ok_or_else(lost_root);
        }
        let mut unencrypted = Unencrypted::default();
        for database in store.list_folders("db").await? {
            unencrypted.databases.insert(database);
        }
        unencrypted.databases.extend(store.list_folders("backup/data/db").await?);
        unencrypted.is_mixed = !unencrypted.databases.is_empty();
        for folder in ["directory", "ledger", "backup"] {
            unencrypted.is_mixed |= !store.list(folder).await?.is_empty();
        }
        // The guard of the format is no log.
        unencrypted.is_mixed |=
            store.list_folders("log").await?.iter().any(|writer| writer.bytes().any(|digit| digit != b'0'));
        let root = new_key().map_err(|CryptoFailure| no_randomness())?;
        let object = root::encode(&root, master, &unencrypted).map_err(|problem| StoreError::Encrypted { problem })?;
        let name = numbered(ROOTS, 1);
        let is_ours = match store.put_plain(&name, object).await {
            Ok(()) => true,
            Err(StoreError::Exists { .. }) => false,
            Err(error) => return Err(error),
        };
        // Another process may have begun at the same moment, and changed the master key since.
        match store.root().await? {
            Some(newest) if is_ours && newest.name == name => Ok(Self::new(root, unencrypted)),
            newest => Self::unlock(newest.as_ref(), Some(master))?.ok_or(StoreError::Missing { name }),
        }
    }

    /// Whether the store has objects that are older than its encryption.
    pub fn is_mixed(&self) -> bool {
        self.unencrypted.is_mixed
    }

    pub fn cover(&self, name: &str) -> Cover {
        let mut parts = name.split('/');
        let first = parts.next().unwrap_or_default();
        let second = parts.next();
        let database = match (first, second) {
            ("db", database) => database,
            ("backup", Some("data")) if parts.next() == Some("db") => parts.next(),
            ("backup", Some("image")) => parts.nth(1),
            ("directory" | "ledger", _) | ("backup", Some("point")) => {
                return match self.unencrypted.is_mixed {
                    true => Cover::SealedIfNew("node".to_owned()),
                    false => Cover::Sealed("node".to_owned()),
                };
            }
            _ => return Cover::Plain,
        };
        match database {
            Some(database) if !self.unencrypted.databases.contains(database) => Cover::Sealed(format!("db/{database}")),
            _ => Cover::Plain,
        }
    }

    /// Encrypts an object.
    ///
    /// # Errors
    /// When the store refuses its key.
    pub async fn seal(&self, store: &Store, scope: &str, name: &str, object: PutPayload) -> Result<Bytes, StoreError> {
        let (number, key) = self.current(store, scope).await?;
        frames::seal(&key, number, name, &object).map_err(|problem| StoreError::corrupt(name, problem))
    }

    /// Decrypts frames that follow each other, the first of which is number `first` of an object of `total` bytes.
    ///
    /// # Errors
    /// When they are not what was written, or the key cannot be read.
    pub async fn open(
        &self,
        store: &Store,
        scope: &str,
        name: &str,
        (first, total): (u64, u64),
        frames: &[u8],
    ) -> Result<Bytes, StoreError> {
        let Some(number) = key_number(frames) else {
            return Err(StoreError::corrupt(name, "it is not encrypted, as it should be in this store"));
        };
        let key = self.key(store, scope, number).await?;
        match frames::open(&key, name, first, total, frames) {
            Ok(object) => Ok(object),
            Err(problem) => {
                // Another process may have deleted the database, and made one of its name.
                self.known.lock().keys.remove(&(scope.to_owned(), number));
                let key = self.key(store, scope, number).await?;
                frames::open(&key, name, first, total, frames).map_err(|_| StoreError::corrupt(name, problem))
            }
        }
    }

    /// The key that seals what is written now. Makes one where there is none.
    async fn current(&self, store: &Store, scope: &str) -> Result<(u32, DataKey), StoreError> {
        let number = self.known.lock().current.get(scope).copied();
        if let Some(number) = number {
            return Ok((number, self.key(store, scope, number).await?));
        }
        match numbers(store, scope).await?.last() {
            Some(number) => {
                let key = self.key(store, scope, *number).await?;
                self.known.lock().current.insert(scope.to_owned(), *number);
                Ok((*number, key))
            }
            None => self.make(store, scope, 1).await,
        }
    }

    /// Makes a key, from this number on, and uses it from now on.
    async fn make(&self, store: &Store, scope: &str, mut number: u32) -> Result<(u32, DataKey), StoreError> {
        loop {
            let secret = new_key().map_err(|CryptoFailure| no_randomness())?;
            let name = key_name(scope, number);
            let wrapped = self.wrapping(&name).and_then(|key| wrap(&key, &name, &secret[..]));
            let wrapped = wrapped.map_err(|CryptoFailure| no_randomness())?;
            let object = [&KEY_MAGIC[..], &KEY_VERSION.to_le_bytes(), &wrapped].concat();
            match store.put_plain(&name, object).await {
                Ok(()) => {}
                // Made at the same moment, by another thread or process.
                Err(StoreError::Exists { .. }) => {
                    if let Some(newest) = numbers(store, scope).await?.last().filter(|newest| **newest >= number) {
                        number = *newest;
                        let key = self.key(store, scope, number).await?;
                        self.known.lock().current.insert(scope.to_owned(), number);
                        return Ok((number, key));
                    }
                    continue;
                }
                Err(error) => return Err(error),
            }
            let key = DataKey::of(&secret);
            let mut known = self.known.lock();
            known.keep((scope.to_owned(), number), key.clone());
            known.current.insert(scope.to_owned(), number);
            return Ok((number, key));
        }
    }

    fn known(&self, scope: &str, number: u32) -> Option<DataKey> {
        self.known.lock().keys.get(&(scope.to_owned(), number)).cloned()
    }

    async fn key(&self, store: &Store, scope: &str, number: u32) -> Result<DataKey, StoreError> {
        if let Some(key) = self.known(scope, number) {
            return Ok(key);
        }
        let name = key_name(scope, number);
        let object = match store.get_plain(&name).await {
            Ok(object) => object,
            // Not missing: what it has encrypted is there.
            Err(error) if error.is_missing() => {
                return Err(StoreError::corrupt(&name, "the key is missing, so what it has encrypted cannot be read"));
            }
            Err(error) => return Err(error),
        };
        let wrapped = object.strip_prefix(KEY_MAGIC).and_then(|rest| rest.strip_prefix(&KEY_VERSION.to_le_bytes()));
        let secret = wrapped.and_then(|wrapped| unwrap(&self.wrapping(&name).ok()?, &name, wrapped));
        let secret: Option<&[u8; KEY_BYTES]> = secret.as_ref().and_then(|secret| secret[..].try_into().ok());
        let secret = secret.ok_or_else(|| StoreError::corrupt(&name, "the key is not what was written there"))?;
        let key = DataKey::of(secret);
        self.known.lock().keep((scope.to_owned(), number), key.clone());
        Ok(key)
    }

    fn wrapping(&self, name: &str) -> Result<aws_lc_rs::aead::LessSafeKey, CryptoFailure> {
        self.root.derive(&[b"dormouse key\0", name.as_bytes()])
    }

    /// Makes a new key for a scope whose objects until now are about to be deleted, so that its keys until now can be.
    pub async fn retire(&self, store: &Store, scope: &str) -> Result<(), StoreError> {
        match numbers(store, scope).await?.last() {
            Some(number) => self.make(store, scope, number + 1).await.map(drop),
            None => Ok(()),
        }
    }

    /// Deletes the keys of a scope before this number. The newest one stays.
    pub async fn delete_retired(&self, store: &Store, scope: &str, before: u32) -> Result<(), StoreError> {
        let mut numbers = numbers(store, scope).await?;
        numbers.pop_last();
        numbers.retain(|number| *number < before);
        self.delete(store, scope, numbers).await
    }

    /// Deletes all keys of a scope of which nothing is left.
    pub async fn delete_all(&self, store: &Store, scope: &str) -> Result<(), StoreError> {
        let numbers = numbers(store, scope).await?;
        self.delete(store, scope, numbers).await
    }

    async fn delete(&self, store: &Store, scope: &str, numbers: BTreeSet<u32>) -> Result<(), StoreError> {
        for number in numbers {
            let deleted = store.delete(&key_name(scope, number)).await;
            // Afterwards, so that no read in between keeps it in memory; and after an error too, as it may be gone.
            let mut known = self.known.lock();
            known.keys.remove(&(scope.to_owned(), number));
            if known.current.get(scope) == Some(&number) {
                known.current.remove(scope);
            }
            drop(known);
            deleted?;
        }
        Ok(())
    }

    /// Looks for the keys of databases that this process has used.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when another process has deleted one; then it is not used again.
    pub async fn check_used(&self, store: &Store) -> Result<(), StoreError> {
        let listed = store.list(DATABASE_KEYS).await?;
        let listed: HashSet<&str> = listed.iter().map(|object| object.name.as_str()).collect();
        let mut known = self.known.lock();
        let used = known.keys.keys().map(|(scope, number)| (scope.clone(), *number));
        let used = used.chain(known.current.iter().map(|(scope, number)| (scope.clone(), *number)));
        let gone = |(scope, number): &(String, u32)| {
            scope.starts_with("db/") && !listed.contains(key_name(scope, *number).as_str())
        };
        let Some((scope, number)) = used.into_iter().find(gone) else { return Ok(()) };
        known.current.remove(&scope);
        known.keys.remove(&(scope.clone(), number));
        Err(StoreError::Missing { name: key_name(&scope, number) })
    }
}

/// The newest root key in a store, as the master key has wrapped it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StoredRoot {
    pub name: String,
    pub object: Bytes,
    /// Those before it, which a change of the master key has not come to delete.
    pub older: Vec<String>,
}

/// The newest of the objects in the folder of the root keys, and the others.
pub(super) fn newest_root(names: impl Iterator<Item = String>) -> Option<(String, Vec<String>)> {
    let mut roots: Vec<(u32, String)> = names.filter_map(|name| Some((number(&name)?, name))).collect();
    roots.sort_unstable();
    let (_, newest) = roots.pop()?;
    Some((newest, roots.into_iter().map(|(_, name)| name).collect()))
}

/// Beginning once more would write data of the same databases unencrypted.
pub(super) fn lost_root() -> StoreError {
    let problem = format!(
        "the store has keys under {KEYS}/, and the root key that opens them, an object under {ROOTS}/, is missing: put it \
         back from a copy of the store"
    );
    StoreError::Encrypted { problem }
}

impl Known {
    fn keep(&mut self, place: (String, u32), key: DataKey) {
        if self.keys.len() >= KEPT_MAX {
            self.keys.clear();
            self.current.clear();
        }
        self.keys.insert(place, key);
    }
}

/// Wraps the root key by another master key. `store` must be open for writing. Returns the error that has kept the root key
/// as the old master key has wrapped it from being deleted, if there was one: the next process that opens the store for
/// writing deletes it.
///
/// # Errors
/// When the store is not encrypted, or refuses: then the old master key still opens it. If the store did not answer, perhaps
/// the new one does instead.
pub async fn rotate(store: &Store, master: &MasterKey) -> Result<Option<StoreError>, StoreError> {
    let failed = |problem: String| StoreError::Encrypted { problem };
    let Some(keyring) = &store.keyring else {
        return Err(failed("the store is not encrypted".to_owned()));
    };
    let before = store.list(ROOTS).await?;
    let last = before.iter().filter_map(|object| number(&object.name)).max().unwrap_or(0);
    let object = root::encode(&keyring.root_bytes, master, &keyring.unencrypted).map_err(failed)?;
    store.put_plain(&numbered(ROOTS, last + 1), object).await?;
    for object in before {
        if let Err(error) = store.delete(&object.name).await {
            return Ok(Some(error));
        }
    }
    Ok(None)
}

/// The ciphers of the logs in an encrypted store.
#[derive(Debug, Clone)]
pub struct LogKeys {
    store: Store,
}

impl LogKeys {
    /// None for a store that is not encrypted.
    pub fn of(store: &Store) -> Option<Self> {
        store.keyring.is_some().then(|| Self { store: store.clone() })
    }

    /// The cipher of a log that is about to be begun. It blocks.
    ///
    /// # Errors
    /// When the store refuses its key.
    pub fn begin(&self, writer: u64) -> Result<Option<LogCipher>, StoreError> {
        let Some(keyring) = &self.store.keyring else { return Ok(None) };
        let (_, key) = block_on(keyring.current(&self.store, &log_scope(writer)))?;
        Ok(Some(LogCipher::new(key, writer)))
    }

    /// The cipher of an earlier log; `None` if it is not encrypted. It blocks, unless the key is known.
    ///
    /// # Errors
    /// When the key cannot be read.
    pub fn find(&self, writer: u64) -> Result<Option<LogCipher>, StoreError> {
        let Some(keyring) = &self.store.keyring else { return Ok(None) };
        let scope = log_scope(writer);
        if let Some(key) = keyring.known(&scope, 1) {
            return Ok(Some(LogCipher::new(key, writer)));
        }
        let number = || block_on(numbers(&self.store, &scope)).map(|mut numbers| numbers.pop_last());
        let Some(newest) = number()? else { return Ok(None) };
        match block_on(keyring.key(&self.store, &scope, newest)) {
            Ok(key) => Ok(Some(LogCipher::new(key, writer))),
            // A process that was overtaken has just deleted it with the last file of that log.
            Err(_) if number()?.is_none() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether logs that are not encrypted may be read.
    pub fn allows_plain(&self) -> bool {
        self.store.keyring.as_ref().is_none_or(|keyring| keyring.is_mixed())
    }

    /// Deletes the key of a log of which nothing is left. It blocks.
    ///
    /// # Errors
    /// When the store refuses.
    pub fn forget(&self, writer: u64) -> Result<(), StoreError> {
        let Some(keyring) = &self.store.keyring else { return Ok(()) };
        block_on(keyring.delete_all(&self.store, &log_scope(writer)))
    }
}

/// Bytes of an object that is listed with `bytes`.
pub(super) fn listed_bytes(keyring: &Keyring, name: &str, bytes: u64) -> u64 {
    match keyring.cover(name) {
        Cover::Plain => bytes,
        Cover::Sealed(_) | Cover::SealedIfNew(_) => plain_bytes(bytes).unwrap_or(bytes),
    }
}

fn log_scope(writer: u64) -> String {
    format!("log/{writer:016x}")
}

fn numbered(folder: &str, number: u32) -> String {
    format!("{folder}/{number:0DIGITS$}")
}

fn key_name(scope: &str, number: u32) -> String {
    numbered(&format!("{KEYS}/{scope}"), number)
}

fn number(name: &str) -> Option<u32> {
    name.rsplit('/').next().filter(|last| last.len() == DIGITS)?.parse().ok()
}

/// The numbers of the keys of a scope.
async fn numbers(store: &Store, scope: &str) -> Result<BTreeSet<u32>, StoreError> {
    let listed = store.list(&format!("{KEYS}/{scope}")).await?;
    Ok(listed.iter().filter_map(|object| number(&object.name)).collect())
}

fn no_randomness() -> StoreError {
    StoreError::Encrypted { problem: "the system has no randomness for a new key".to_owned() }
}

#[cfg(test)]
mod tests;
