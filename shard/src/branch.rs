//! Branches: a database that begins as another one is now, without copying anything.
//!
//! 1. *Write*: the source is brought up to date in the store, as before a sleep; the last and smallest part is encoded
//!    under all of its locks, and written without them. So the branch is one moment of the source, and everything that
//!    was acknowledged before is in it. A source that sleeps is in the store already.
//! 2. *Make*: the first manifest of the branch names the chunks and the tail that the source's newest manifest names.
//!    [`dormouse_storage::manifest`] says who may delete them from then on.
//! 3. The source goes on. From here on each of the two writes its own.
//!
//! Invariant: all of it happens under the source's `transition`, so this process commits no manifest of the source, and
//! deletes nothing that its newest one names, before the branch's first manifest exists.

use std::sync::Arc;

use dormouse_storage::manifest::{self, ANCESTORS, Lineage, Manifest};
use dormouse_storage::shown::{INDEXES, NO_KEYSPACE};
use dormouse_storage::store::StoreError;

use crate::checkpoint::drop_unused_chunks;
use crate::database::{Database, store_error};
use crate::error::{Error, Result};

impl Database {
    /// The database's origin, as the newest manifest says, without waking it.
    pub fn lineage(&self) -> Lineage {
        self.lineage.lock().clone()
    }

    /// Creates the database `name` from this one as it is now.
    ///
    /// # Errors
    /// If a database of that name exists, or the store refuses.
    pub async fn branch(self: &Arc<Self>, name: &str, expires_ms: Option<u64>) -> Result<()> {
        if self.has_recovered() {
            // The store does not have it all: places with effects only in the log are loaded, and written below.
            self.awake().await?;
        }
        let (database, name) = (Arc::clone(self), name.to_owned());
        // It gives way to clients: only the caller waits for it.
        let made = self.patient.drive(async move {
            let _transition = database.transition.lock().await;
            let made = database.make_branch(&name, expires_ms).await;
            database.stop_if_overtaken().await;
            if made.is_ok() {
                database.collect_superseded().await;
            }
            made
        });
        let failed = || Error::Store(format!("a branch of database {} failed", self.name()));
        made.await.unwrap_or_else(|undone| Err(undone.error(failed)))
    }

    async fn make_branch(self: &Arc<Self>, name: &str, expires_ms: Option<u64>) -> Result<()> {
        self.check_open()?;
        self.check_owner().await?;
        let store = &self.engine.store;
        // Checked first, so that nothing is written for a branch that cannot be made.
        if manifest::exists(store, name).await.map_err(store_error)? {
            return Err(taken());
        }
        self.write_everything(&mut None).await?;
        let now_ms = (self.engine.clock)();
        let new = || Manifest::new(self.name(), self.shared.placement.seed, self.engine.writer, now_ms);
        let source = self.newest_manifest().await?.map_or_else(new, |manifest| (*manifest).clone());
        let mut branch = source.clone();
        name.clone_into(&mut branch.database);
        branch.writer = self.engine.writer;
        branch.created_ms = now_ms;
        branch.expires_ms = expires_ms;
        branch.meters = Vec::new();
        // A name that an earlier database of this name has used is never reused, even if its deletion is still pending.
        branch.next_object = now_ms;
        // An import goes on in the database in which it began, not in the branch.
        branch.followed = 0;
        branch.keyspaces[INDEXES..].fill(NO_KEYSPACE);
        let shown = branch.keyspaces;
        branch.segments.retain(|segment| shown.contains(&segment.keyspace));
        branch.pieces.retain(|piece| shown.contains(&piece.keyspace));
        // It does not keep objects of its source that only an import has used.
        drop_unused_chunks(&mut branch);
        branch.source = Some(self.name().to_owned());
        let further = Lineage::of(&source).ancestors;
        branch.settings.remove(ANCESTORS);
        if !further.is_empty() {
            branch.settings.insert(ANCESTORS.to_owned(), further.join("\n"));
        }
        self.check_owner().await?;
        match manifest::create_branch(store, &source, &mut branch).await {
            Ok(()) => Ok(()),
            Err(StoreError::Exists { .. }) => Err(taken()),
            Err(error) => Err(self.note_refused(error)),
        }
    }

    /// Returns the newest manifest, without keeping it in memory for a database that sleeps.
    pub(crate) async fn newest_manifest(&self) -> Result<Option<Arc<Manifest>>> {
        self.read_manifest().await?;
        let manifest = self.whole_manifest().await;
        if !self.is_awake() {
            *self.manifest.lock() = None;
        }
        manifest
    }

    /// Deletes the database, awake or asleep: from now on every command is answered with an error. Objects that its
    /// branches need stay in the store. May be retried after an error.
    ///
    /// # Errors
    /// If the store refuses, or another process writes the database.
    pub async fn delete(self: &Arc<Self>) -> Result<()> {
        let database = Arc::clone(self);
        let done = self.engine.background.spawn(async move {
            let _transition = database.transition.lock().await;
            database.check_owner().await?;
            database.stop_for_good().await?;
            manifest::delete_database(&database.engine.store, database.name()).await.map_err(store_error)?;
            if let Some(log) = database.shared.journal.log() {
                log.forget(&database.identity, (database.engine.clock)());
            }
            Ok(())
        });
        done.await.map_err(|error| Error::Store(format!("database {} was not deleted: {error}", self.name())))?
    }

    async fn stop_for_good(&self) -> Result<()> {
        let gone = Error::Text(format!("ERR the database '{}' was deleted", self.name()).into());
        if let Some(error) = self.refused.get().filter(|error| **error != gone) {
            return Err(error.clone());
        }
        // The error is this very one, or none was set yet.
        let _ = self.refused.set(gone);
        self.stop_if_overtaken().await;
        Ok(())
    }

    /// Deletes objects that neither this database nor a branch of it needs any more, for instance because a branch is
    /// gone.
    ///
    /// # Errors
    /// If the store refuses.
    pub async fn collect_garbage(self: &Arc<Self>) -> Result<()> {
        let database = Arc::clone(self);
        let done = self.engine.background.spawn(async move {
            let _transition = database.transition.lock().await;
            database.check_open()?;
            database.check_owner().await?;
            let Some(manifest) = database.newest_manifest().await? else { return Ok(()) };
            let collected =
                manifest::collect_garbage_beside(&database.engine.store, &manifest, &database.pinned()).await;
            let outcome = collected.map(drop).map_err(|error| database.note_refused(error));
            database.stop_if_overtaken().await;
            outcome
        });
        done.await.map_err(|error| Error::Store(format!("database {} was not tidied: {error}", self.name())))?
    }

    /// Deletes objects that the last checkpoint has superseded. Called under `transition` and under no shard's lock, as
    /// it asks every branch which objects it needs.
    pub(crate) async fn collect_superseded(&self) {
        let Some(manifest) = self.manifest.lock().clone() else { return };
        match manifest::collect_garbage_beside(&self.engine.store, &manifest.known, &self.pinned()).await {
            Ok(_) => {}
            Err(error @ StoreError::Fenced { .. }) => {
                let error = self.note_refused(error);
                tracing::error!(database = self.name(), %error, "another process writes this database");
            }
            // It is found again by the next checkpoint.
            Err(error) => tracing::warn!(database = self.name(), %error, "failed to delete old objects"),
        }
    }
}

fn taken() -> Error {
    Error::text("ERR a database of that name exists")
}
