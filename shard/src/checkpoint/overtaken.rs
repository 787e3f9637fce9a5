//! The end of a database in this process: another process has taken its store over.
//!
//! Invariant: data in memory can then no longer be written, so from the moment that this is known every command is
//! answered with the error.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_storage::store::StoreError;

use crate::database::{Database, store_error};
use crate::error::{Error, Result};
use crate::health::ConditionKind;
use crate::keyspace::Graveyard;

impl Database {
    /// Stops serving: every later command is answered with `error`. For a database whose store another process has
    /// taken over.
    pub async fn stop(self: &Arc<Self>, error: Error) {
        let _transition = self.transition.lock().await;
        self.refuse(&error);
        self.stop_if_overtaken().await;
    }

    /// Stops serving if another process writes the database. Data in memory can then no longer be written, so every
    /// command is answered with the error and nothing more is acknowledged.
    pub(crate) async fn stop_if_overtaken(self: &Arc<Self>) {
        if self.refused.get().is_none() {
            return;
        }
        self.waiters.nudge_all();
        let database = Arc::clone(self);
        let retired = self.promptly(async move {
            let (_, held) = database.hold_all().await?;
            let contents = database.retire(&held);
            database.publish(None);
            Some(contents)
        });
        let Ok(Some(contents)) = retired.await else { return };
        *self.manifest.lock() = None;
        *self.recovered.lock() = None;
        let mut graveyard = Graveyard::default();
        contents.into_iter().for_each(|contents| contents.bury_in(&mut graveyard));
        self.free(graveyard);
    }

    /// Checks that this process may still promise that data is in the store, even if it has nothing to write.
    pub(super) async fn check_promise(&self) -> Result<()> {
        match self.refused.get().filter(|_| self.is_overtaken.load(Ordering::SeqCst)) {
            Some(error) => Err(error.clone()),
            None => self.check_owner().await,
        }
    }

    pub(crate) fn note_refused(&self, error: StoreError) -> Error {
        let is_fenced = matches!(error, StoreError::Fenced { .. } | StoreError::LogSealed);
        let error = store_error(error);
        if is_fenced {
            self.refuse(&error);
        }
        error
    }

    /// Every command is answered with `error` from here on.
    fn refuse(&self, error: &Error) {
        // The first one says it.
        if self.refused.set(error.clone()).is_ok() {
            self.health.report(ConditionKind::TakenOver, error.detail());
        }
        self.is_overtaken.store(true, Ordering::SeqCst);
        self.is_claimed.store(false, Ordering::SeqCst);
    }
}
