//! Branches: a database that begins as another one is now, without copying anything.
//!
//! 1. *Write*: the source is brought up to date in the store, as before a sleep; the last and smallest part is encoded
//!    under all of its locks, and written without them. So the branch is one moment of the source, and everything that
//!    was acknowledged before is in it. A source that sleeps is in the store already.
//! 2. *Make*: the first manifest of the branch names the chunks and the tail that the source's newest manifest names.
//!    [`dormouse_storage::manifest`] says who may delete them from then on.
//! 3. The source goes on. From here on each of the two writes its own.
//!
//! A branch *of a moment* that has passed begins as the source was then, if the source keeps its history. Step 1 is left
//! out, unless the history does not reach that far yet. The branch's first manifest is then the base of the moment's
//! stretch with a tail of its own ([`dormouse_storage::stretch`]). Users and settings are those that the source has now,
//! so a password that was revoked since opens nothing; libraries of functions are those of the base. No
//! branch has triggers: what the source's have to deliver is delivered once.
//!
//! Invariant: all of it happens under the source's `transition`, so this process commits no manifest of the source, and
//! deletes nothing that its newest one names, before the branch's first manifest exists.

use std::collections::BTreeMap;
use std::sync::Arc;

use dormouse_storage::functions;
use dormouse_storage::manifest::{self, ANCESTORS, Lineage, Manifest, Moment, Names, TailInfo};
use dormouse_storage::shown::{NO_KEYSPACE, OUTBOX_KEYSPACE, STAGED};
use dormouse_storage::store::StoreError;
use dormouse_storage::stretch::{MomentContents, StretchContents};
use dormouse_storage::tail::{TailRecord, encode_tail};
use tracing::{Instrument, Span};

use crate::database::{Database, store_error};
use crate::declared::TRIGGERS;
use crate::error::{Error, Result};
use crate::timings::SPANS;

/// The most names that are tried for the tail of a branch.
const TAIL_NAMES_MAX: u64 = 16;

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
        self.branch_of(name, expires_ms, None).instrument(self.branch_span()).await
    }

    /// Creates the database `name` from this one as it was at a moment, unix milliseconds.
    ///
    /// # Errors
    /// If the moment is in the future or not in the history, if a database of that name exists, or the store refuses.
    pub async fn branch_at(self: &Arc<Self>, name: &str, expires_ms: Option<u64>, at_ms: u64) -> Result<()> {
        self.branch_of(name, expires_ms, Some(at_ms)).instrument(self.branch_span()).await
    }

    fn branch_span(&self) -> Span {
        tracing::info_span!(target: SPANS, "branch", dormouse.database = self.name())
    }

    async fn branch_of(self: &Arc<Self>, name: &str, expires_ms: Option<u64>, at_ms: Option<u64>) -> Result<()> {
        let is_kept = |at_ms: u64| at_ms < self.history().until_ms;
        if self.has_recovered() && !at_ms.is_some_and(is_kept) {
            // The store does not have it all: places with effects only in the log are loaded, and written below.
            self.awake().await?;
        }
        let (database, name) = (Arc::clone(self), name.to_owned());
        let made = self.drive_patiently(async move {
            let _transition = database.transition.lock().await;
            let made = database.make_branch(&name, expires_ms, at_ms).await;
            database.stop_if_overtaken().await;
            if made.is_ok() {
                database.collect_superseded().await;
            }
            made
        });
        let failed = || Error::Store(format!("a branch of database {} failed", self.name()));
        made.await.unwrap_or_else(|undone| Err(undone.error(failed)))
    }

    async fn make_branch(self: &Arc<Self>, name: &str, expires_ms: Option<u64>, at_ms: Option<u64>) -> Result<()> {
        self.check_open()?;
        self.check_owner().await?;
        let store = &self.engine.store;
        // Checked first, so that nothing is written for a branch that cannot be made.
        if manifest::exists(store, name).await.map_err(store_error)? {
            return Err(taken());
        }
        let now_ms = (self.engine.clock)();
        let (source, mut branch, changes) = match at_ms {
            None => {
                self.write_everything(&mut None).await?;
                let source = self.present(now_ms).await?;
                (source.clone(), source, Vec::new())
            }
            Some(at_ms) if at_ms > now_ms => return Err(Error::MomentInFuture),
            Some(at_ms) => self.as_of(at_ms).await?,
        };
        name.clone_into(&mut branch.database);
        branch.writer = self.engine.writer;
        branch.created_ms = now_ms;
        branch.expires_ms = expires_ms;
        branch.meters = Vec::new();
        branch.timeline = Default::default();
        // A name that an earlier database of this name has used is never reused, even if its deletion is still pending.
        branch.next_object = now_ms;
        leave_import(&mut branch);
        leave_triggers(&mut branch);
        branch.source = Some(self.name().to_owned());
        let further = Lineage::of(&source).ancestors;
        branch.settings.remove(ANCESTORS);
        if !further.is_empty() {
            branch.settings.insert(ANCESTORS.to_owned(), further.join("\n"));
        }
        self.put_branch_tail(&mut branch, changes).await?;
        self.check_owner().await?;
        let made = match manifest::create_branch(store, &source, &mut branch).await {
            Ok(()) => return Ok(()),
            Err(StoreError::Exists { .. }) => Err(taken()),
            Err(error) => Err(self.note_refused(error)),
        };
        // Without an answer the branch may exist all the same, and need its tail.
        if made == Err(taken()) {
            self.drop_branch_tail(&branch).await;
        }
        made
    }

    /// The newest manifest, or the one that the first checkpoint would write.
    async fn present(&self, now_ms: u64) -> Result<Manifest> {
        let new = || Manifest::new(self.name(), self.shared.placement.seed, self.engine.writer, now_ms);
        Ok(self.newest_manifest().await?.map_or_else(new, |manifest| (*manifest).clone()))
    }

    /// The newest manifest, and the one of a moment that has passed, but for a tail with these changes.
    async fn as_of(self: &Arc<Self>, at_ms: u64) -> Result<(Manifest, Manifest, Vec<TailRecord>)> {
        let mut source = self.newest_manifest().await?;
        if source.as_ref().is_none_or(|manifest| at_ms >= manifest.timeline.until_ms) {
            if self.history_ms() == 0 {
                return Err(Error::NoHistory);
            }
            self.write_everything(&mut None).await?;
            source = self.newest_manifest().await?;
        }
        let source = source.filter(|manifest| manifest.timeline.from_ms().is_some()).ok_or(Error::NoHistory)?;
        let source = Arc::unwrap_or_clone(source);
        let (manifest, changes) = match source.timeline.find(at_ms) {
            Moment::Lost => {
                return Err(Error::MomentLost(source.timeline.from_ms().unwrap_or(source.timeline.until_ms)));
            }
            Moment::Newest => (source.clone(), Vec::new()),
            Moment::Within(stretch) => {
                let contents = StretchContents::read(&self.engine.store, &stretch.name).await.map_err(store_error)?;
                let at = contents.at(at_ms);
                let MomentContents { manifest, changes } =
                    at.map_err(|problem| Error::Store(format!("{}: {problem}", stretch.name)))?;
                (Manifest { settings: settings_of_moment(&source, &manifest), ..manifest }, changes)
            }
        };
        Ok((source, manifest, changes))
    }

    /// Puts a tail of a branch that is about to be made, in the branch's own folder.
    async fn put_branch_tail(&self, branch: &mut Manifest, changes: Vec<TailRecord>) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let names = Names::new(&branch.database).map_err(store_error)?;
        let effects = changes.len() as u64;
        let first = changes.iter().map(|change| change.sequence).min().unwrap_or(1);
        let object = encode_tail(changes);
        for _ in 0..TAIL_NAMES_MAX {
            let name = names.tail(branch.epoch, branch.writer, branch.next_object);
            branch.next_object += 1;
            match self.engine.store.put_new(&name, object.clone()).await {
                // An earlier database of this name has left it.
                Err(StoreError::Exists { .. }) => {}
                Err(error) => return Err(self.note_refused(error)),
                Ok(()) => {
                    let bytes = object.len() as u64;
                    branch.tails.push(TailInfo { name, bytes, effects, from_sequence: first.saturating_sub(1) });
                    return Ok(());
                }
            }
        }
        Err(taken())
    }

    async fn drop_branch_tail(&self, branch: &Manifest) {
        let Ok(names) = Names::new(&branch.database) else { return };
        let own = names.tails() + "/";
        for tail in branch.tails.iter().filter(|tail| tail.name.starts_with(&own)) {
            if let Err(error) = self.engine.store.delete(&tail.name).await {
                // The next start finds it.
                tracing::debug!(database = self.name(), %error, "failed to delete the tail of a branch");
            }
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
            if database.engine.claims.is_some() {
                // Another node may have it by now.
                database.owned_manifest().await?;
            }
            database.stop_for_good().await?;
            manifest::delete_database(&database.engine.store, database.name()).await.map_err(store_error)?;
            if let Some(log) = database.shared.journal.log() {
                log.forget(&database.identity, (database.engine.clock)());
            }
            Ok(())
        });
        done.await.map_err(|error| Error::Store(format!("database {} was not deleted: {error}", self.name())))?
    }

    async fn stop_for_good(self: &Arc<Self>) -> Result<()> {
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

/// The settings of a branch of a moment: those of the source now, and the libraries of functions of the moment's base.
fn settings_of_moment(source: &Manifest, base: &Manifest) -> BTreeMap<String, String> {
    let is_library = |of: &Manifest, is: bool| {
        let settings = of.settings.clone().into_iter();
        settings.filter(move |(name, _)| functions::is_library(name) == is).collect::<Vec<_>>()
    };
    is_library(source, false).into_iter().chain(is_library(base, true)).collect()
}

/// Makes a copy forget an import: that goes on in the database in which it began. Objects that only the import has used are
/// not kept.
pub(crate) fn leave_import(copy: &mut Manifest) {
    copy.followed = 0;
    copy.keyspaces[STAGED].fill(NO_KEYSPACE);
    let shown = copy.keyspaces;
    copy.segments.retain(|segment| shown.contains(&segment.keyspace));
    copy.pieces.retain(|piece| shown.contains(&piece.keyspace));
    copy.drop_unused_chunks();
}

/// Makes a copy forget triggers, and what they have to deliver: the original does that.
pub(crate) fn leave_triggers(copy: &mut Manifest) {
    copy.settings.remove(TRIGGERS);
    copy.segments.retain(|segment| segment.keyspace != OUTBOX_KEYSPACE);
    copy.pieces.retain(|piece| piece.keyspace != OUTBOX_KEYSPACE);
    copy.drop_unused_chunks();
}

fn taken() -> Error {
    Error::text("ERR a database of that name exists")
}

#[cfg(test)]
mod tests;
