//! Databases of a fleet: whether this process may write one, and how it gives one away.
//!
//! A database of a fleet belongs to the writer of its newest manifest. Invariants:
//!
//! - A process commits no manifest of a database before it has *claimed* it: its newest manifest is of this process, or
//!   [`Claims`](crate::claims::Claims) has allowed to take it from the writer of that manifest, and the next manifest is
//!   committed under this process's writer. Of several that try it at once, all but one find that number taken. A database
//!   without a manifest gets its first one so, before it accepts a write.
//! - A process gives a database away by committing the next manifest under the new owner's writer
//!   ([`Database::hand_over`]). It has written everything before, and writes nothing after. If that commit fails without an
//!   answer, the database may be the other one's already, or become so later. So another manifest of this process is committed
//!   before it is served here again.
//! - A number may have been used and deleted since a manifest was read, and be free again. So the newest manifest is read after a
//!   claim, and counts.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_storage::manifest::{self, PagedManifest};
use dormouse_storage::store::StoreError;

use crate::database::{Database, store_error};
use crate::error::{Error, Result};

/// Attempts to give a database away that clients keep waking.
const HAND_OVER_ATTEMPTS: usize = 4;

impl Database {
    /// Makes the database this process's own, unless it is already. Called under `transition`, with the newest manifest that
    /// was read. Returns whether that one can be used; otherwise it has to be read again.
    pub(crate) async fn claim_from(&self, newest: Option<&PagedManifest>) -> Result<bool> {
        let Some(claims) = &self.engine.claims else { return Ok(true) };
        if newest.is_some_and(|manifest| manifest.known.writer == self.engine.writer) {
            if self.is_given_unsure.load(Ordering::SeqCst) {
                return Ok(true);
            }
            self.note_claimed();
            return Ok(true);
        }
        self.is_claimed.store(false, Ordering::SeqCst);
        claims.may_take(self.name(), newest.map(|manifest| manifest.known.writer)).await?;
        if self.recovered_now() != self.inherited {
            // Entries were inherited after the database was opened, so it has to be opened again.
            return Err(Error::Elsewhere(self.name().to_owned()));
        }
        if newest.is_some() {
            return Ok(true);
        }
        self.look_at_owner().await.map_err(|error| self.note_refused(error))?;
        match manifest::commit(&self.engine.store, &mut self.first_manifest()).await {
            Ok(()) | Err(StoreError::Fenced { .. }) => Ok(false),
            Err(error) => Err(store_error(error)),
        }
    }

    /// Forgets a manifest of another process, which may have been followed by others since it was read.
    pub(crate) fn forget_foreign_manifest(&self) {
        let mut manifest = self.manifest.lock();
        let is_own = |manifest: &Arc<PagedManifest>| manifest.known.writer == self.engine.writer;
        if self.engine.claims.is_some() && !manifest.as_ref().is_some_and(is_own) {
            *manifest = None;
            self.newest_number.store(0, Ordering::SeqCst);
        }
    }

    /// The number of entries that the log of an earlier process has of it, and that no claim has taken.
    fn recovered_now(&self) -> usize {
        self.engine.recovered.lock().get(&self.identity).map_or(0, |entries| entries.entries.len())
    }

    /// Notes that the newest manifest is of this process: the entries of the log are this object's from now on.
    pub(crate) fn note_claimed(&self) {
        if !self.is_claimed.swap(true, Ordering::SeqCst) {
            drop(self.engine.recovered.lock().take(&self.identity));
        }
    }

    /// Fails if the database belongs to another process of the fleet, as far as is known.
    pub(crate) fn check_claim(&self) -> std::result::Result<(), StoreError> {
        match self.engine.claims.is_none() || self.is_claimed.load(Ordering::SeqCst) {
            true => Ok(()),
            false => Err(StoreError::Unclaimed { database: self.name().to_owned() }),
        }
    }

    /// Whether the newest manifest is of this process, as far as is known.
    pub fn is_claimed(&self) -> bool {
        self.is_claimed.load(Ordering::SeqCst)
    }

    /// Gives up a database that was opened without being claimed, so that it can be opened again. False: it has been claimed.
    pub async fn abandon(&self) -> bool {
        let _transition = self.transition.lock().await;
        let is_unclaimed = !self.is_claimed();
        if is_unclaimed {
            self.is_leaving.store(true, Ordering::SeqCst);
        }
        is_unclaimed
    }

    /// Whether clients are to be served elsewhere: the database has been given away, or is about to be.
    pub fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::SeqCst)
    }

    /// Gives the database to the process that writes as `writer`: puts it to sleep, and commits the next manifest under that
    /// writer. Meanwhile, and from then on, commands are refused with [`Error::Elsewhere`].
    ///
    /// # Errors
    /// When it cannot be put to sleep, or the store refuses: then it is served here as before, unless the other process owns it
    /// nevertheless.
    pub async fn hand_over(self: &Arc<Self>, writer: u64) -> Result<()> {
        // Most of what has to be written is written while clients are served.
        if self.is_awake() || self.has_recovered() {
            self.awake().await?;
            self.checkpoint().await?;
        }
        self.is_leaving.store(true, Ordering::SeqCst);
        let given = self.give(writer).await;
        if given.is_err() {
            self.is_leaving.store(false, Ordering::SeqCst);
            self.waiters.nudge_all();
        }
        given
    }

    async fn give(self: &Arc<Self>, writer: u64) -> Result<()> {
        for _ in 0..HAND_OVER_ATTEMPTS {
            self.sleep_promptly().await?;
            let _declaring = self.declaring.lock().await;
            let _transition = self.transition.lock().await;
            if !self.has_nothing_unstored() {
                continue;
            }
            self.check_owner().await?;
            let Some(before) = self.read_manifest().await? else { return Err(self.not_stored()) };
            if before.known.writer != self.engine.writer {
                return Err(Error::Elsewhere(self.name().to_owned()));
            }
            self.is_claimed.store(false, Ordering::SeqCst);
            self.newest_number.store(0, Ordering::SeqCst);
            let given = manifest::take_over(&self.engine.store, &before, writer).await;
            *self.manifest.lock() = None;
            self.is_given_unsure.store(given.is_err(), Ordering::SeqCst);
            return given.map(drop).map_err(|error| self.note_refused(error));
        }
        Err(self.not_stored())
    }

    fn not_stored(&self) -> Error {
        Error::Store(format!("database {} cannot be handed over: the store does not have all of it", self.name()))
    }
}

#[cfg(test)]
mod tests;
