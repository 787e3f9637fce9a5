//! Pinned moments: a database as it was at one moment, kept in the store for a reader that takes its time.
//!
//! 1. The database is brought up to date in the store, as for a branch: the last part is encoded under all of its locks.
//!    At that moment, under the locks, the caller's function runs, so that it can take note of everything that follows.
//!    A database that sleeps is in the store already, and is not woken.
//! 2. The newest manifest is pinned: later collections keep the objects that it names.
//! 3. Dropping the pin lets the next collection delete them.
//!
//! Invariant: pins are added under `transition`, as collections run, so an object of a pinned manifest is never deleted.
//! The exception are objects of another database, which a branch names: their owner does not know of the pin. A reader
//! finds them missing then, and fails.
//!
//! A branch in the store would do without pins, but it would be listed, counted and billed, and outlive a crash.

use std::sync::Arc;

use dormouse_storage::manifest::Manifest;
use dormouse_storage::replay::Replay;
use dormouse_storage::shown::Ids;

use crate::database::{Database, store_error};
use crate::error::{Error, Result};
use crate::snapshot::Snapshot;

/// A function that runs at the moment, under all locks. It gets the keyspaces that the logical indexes show.
pub type AtMoment = Box<dyn FnOnce(&Ids) + Send>;

/// A database as it was at one moment. Its objects stay in the store until this is dropped.
pub struct PinnedMoment {
    database: Arc<Database>,
    manifest: Arc<Manifest>,
}

impl PinnedMoment {
    /// Opens it for reading.
    ///
    /// # Errors
    /// When a tail cannot be read.
    pub async fn snapshot(&self) -> Result<Snapshot<'_>> {
        let store = &self.database.engine.store;
        let replay = Replay::read(store, &self.manifest, None).await.map_err(store_error)?;
        Ok(Snapshot::of(store, Arc::clone(&self.manifest).into(), replay))
    }
}

impl Drop for PinnedMoment {
    fn drop(&mut self) {
        let mut pinned = self.database.pinned.lock();
        if let Some(at) = pinned.iter().position(|manifest| Arc::ptr_eq(manifest, &self.manifest)) {
            pinned.swap_remove(at);
        }
    }
}

impl Database {
    /// Pins the database as it is at one moment, at which `at` runs.
    ///
    /// # Errors
    /// When the database cannot be written or read. `at` may have run all the same.
    pub async fn pin(self: &Arc<Self>, at: AtMoment) -> Result<PinnedMoment> {
        if self.has_recovered() {
            // The store does not have it all: places with effects only in the log are loaded, and written below.
            self.awake().await?;
        }
        let database = Arc::clone(self);
        let pinned = self.drive_patiently(async move {
            let _transition = database.transition.lock().await;
            let pinned = database.make_pin(at).await;
            database.stop_if_overtaken().await;
            if pinned.is_ok() {
                database.collect_superseded().await;
            }
            pinned
        });
        let failed = || Error::Store(format!("a copy of database {} failed", self.name()));
        pinned.await.unwrap_or_else(|undone| Err(undone.error(failed)))
    }

    async fn make_pin(self: &Arc<Self>, at: AtMoment) -> Result<PinnedMoment> {
        self.check_open()?;
        self.check_owner().await?;
        let mut at = Some(at);
        self.write_everything(&mut at).await?;
        let manifest = self.newest_manifest().await?.unwrap_or_else(|| Arc::new(self.first_manifest()));
        // It sleeps: nothing changes it until the lock is released.
        if let Some(at) = at.take() {
            at(&manifest.keyspaces);
        }
        self.pinned.lock().push(Arc::clone(&manifest));
        Ok(PinnedMoment { database: Arc::clone(self), manifest })
    }

    /// The manifests whose objects are kept.
    pub(crate) fn pinned(&self) -> Vec<Arc<Manifest>> {
        self.pinned.lock().clone()
    }
}
