//! Release: a database that sleeps leaves memory altogether. The store has all of it, and it is opened again when it is
//! used.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::database::Database;
use crate::error::{Error, Result};

impl Database {
    /// Readies a sleeping database to be dropped, if a database that is opened from the store would be the same.
    /// `keeps_meters`: whether a manifest must be committed for its meters. Returns whether it may be dropped, as long as
    /// nobody uses it in between.
    ///
    /// # Errors
    /// When the store refuses the manifest.
    pub async fn ready_to_drop(self: &Arc<Self>, keeps_meters: bool) -> Result<bool> {
        let database = Arc::clone(self);
        let done = self.engine.background.spawn(async move {
            let _turn = database.declaring.lock().await;
            let _transition = database.transition.lock().await;
            if !database.is_all_stored() {
                return Ok(false);
            }
            if keeps_meters {
                database.commit_meters().await?;
            }
            Ok(database.is_all_stored())
        });
        done.await.map_err(|error| Error::Store(format!("database {} was not released: {error}", self.name())))?
    }

    /// Whether the store knows all that is known here. Entries of the log without an effect have numbers too, which must
    /// not be used again.
    fn is_all_stored(&self) -> bool {
        self.check_open().is_ok() && self.has_nothing_unstored()
    }

    /// The same, whether or not it may be woken again.
    pub(crate) fn has_nothing_unstored(&self) -> bool {
        !self.is_awake()
            && self.health.is_well()
            && self.recovered.lock().is_none()
            && self.goes_on_after.lock().is_none()
            && self.unmoved.lock().is_empty()
            && self.pinned.lock().is_empty()
            && !self.is_declared_unsure.load(Ordering::SeqCst)
            && self.shared.sequence.load(Ordering::SeqCst) <= self.stored_sequence.load(Ordering::SeqCst)
    }

    /// Commits a manifest with the meters as they are. Called under `transition`.
    pub(crate) async fn commit_meters(self: &Arc<Self>) -> Result<()> {
        self.check_owner().await?;
        self.owned_manifest().await?;
        let before = self.newest_manifest().await?;
        let mut manifest = self.manifest_after(before.as_deref());
        manifest.meters = (self.meters.lock())();
        self.lacks_meters.store(false, Ordering::SeqCst);
        let done = self.commit(&mut manifest).await.map_err(|error| self.note_refused(error));
        self.stop_if_overtaken().await;
        done?;
        self.note_manifest(&Arc::new(manifest).into());
        *self.manifest.lock() = None;
        Ok(())
    }
}
