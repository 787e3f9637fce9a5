//! Checkpoints of a database with a damaged object: they need no more of the store than the next manifest does.
//!
//! 1. A page of the manifest about keyspaces that are no longer shown need not be readable. Keyspace ids are never used
//!    again, so a keyspace that is not shown under the locks never will be. Such a manifest is not kept beyond its
//!    checkpoint: the store's one says that the keyspaces are shown until the next is committed.
//! 2. A tail need not be readable if every place that it covers was written whole since. After a failure the places
//!    that tails cover are written whole, as far as they are in memory.
//! 3. A needed object is never left out: the checkpoint fails, and writes are refused as [`CheckpointDamage`] says.
//!
//! [`CheckpointDamage`]: crate::keyspace::damage::CheckpointDamage

use std::sync::Arc;

use dormouse_storage::manifest::Manifest;
use dormouse_storage::shown::Ids;
use dormouse_storage::store::StoreError;

use crate::database::{Database, read_error};
use crate::error::{Error, Result};
use crate::health::ConditionKind;
use crate::topology::Topology;

impl Database {
    /// The whole manifest of the keyspaces that are shown, and of others as far as it can be read; `None` where the
    /// store has none yet. Called under `transition`.
    ///
    /// # Errors
    /// When a page that is needed cannot be read.
    pub(super) async fn manifest_before(self: &Arc<Self>, topology: &Topology) -> Result<Option<Arc<Manifest>>> {
        let before = match self.read_whole_manifest().await {
            Err(error @ Error::Damaged(_)) => match self.shown_ids(topology).await? {
                Some(ids) => self.manifest_of(&ids).await,
                None => Err(error),
            },
            read => read,
        };
        before.inspect_err(|error| self.note_unread(ConditionKind::Data, error))
    }

    /// Called after a checkpoint has succeeded: nothing that it needed is damaged.
    pub(super) fn forget_damage(self: &Arc<Self>) {
        if self.shared.damage.forget() && self.is_awake() {
            tracing::info!(database = self.name(), "the database can be stored again: writes are accepted");
            // Whether all of it can be read is known, and told, when it was.
            self.load_in_background();
        }
    }

    /// Called after a checkpoint has failed.
    pub(super) fn note_damage(&self, error: &Error) {
        if let Error::Damaged(what) = error {
            self.shared.damage.note(what.clone(), &self.identity);
        }
    }

    /// Ids of the shown keyspaces; `None` if the database has no shards.
    async fn shown_ids(&self, topology: &Topology) -> Result<Option<Ids>> {
        self.under(topology.shards.clone(), |held| held.first().map(|shard| shard.contents().ids)).await
    }

    /// The manifest without the pages of keyspaces other than `ids`.
    async fn manifest_of(&self, ids: &Ids) -> Result<Option<Arc<Manifest>>> {
        let Some(paged) = self.manifest.lock().clone() else { return Ok(None) };
        let mut manifest = Manifest::clone(&paged.known);
        for info in paged.pages.iter().filter(|page| ids.contains(&page.keyspace)) {
            let mut page = paged.read_page(&self.engine.store, info).await.map_err(read_error)?;
            manifest.segments.append(&mut page.segments);
            manifest.pieces.append(&mut page.pieces);
        }
        let sound = manifest.check();
        sound.map_err(|problem| read_error(StoreError::corrupt(self.name(), problem)))?;
        Ok(Some(Arc::new(manifest)))
    }
}
