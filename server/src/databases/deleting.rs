//! Deletion: for good, or so that a database can be brought back for some time (`--deleted-grace`).
//!
//! A deleted database that can be brought back is *hidden*: the directory has its record with the [`Deletion`], and nothing
//! else finds it by name. Its data, settings and tokens are as they were.
//!
//! 1. *Hide*: the record is changed first, so a crash leaves the database hidden or as it was. Then it leaves the map, and its
//!    clients are disconnected.
//! 2. It is put to sleep, and leaves memory ([`Tenants::settle_hidden`]). Until then it is among the hidden ones in memory.
//! 3. *Bring back*: the record loses its deletion. Or *purge*, when its time is over or a user asks for it: the data are
//!    deleted, then the record.
//!
//! Invariant: a hidden database is in memory once, in `hidden` and not in the map. What changes that holds its name in
//! `changing`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dormouse_shard::error::{Error, Result};
use dormouse_storage::directory::{DatabaseRecord, Deletion};

use super::{Changing, Tenant, Tenants};
use crate::directory::ChangeRefusal;
use crate::options::{DEFAULT_DATABASE, owner_and_branch};

/// How long a change of a hidden database waits for another one.
const TURN_ATTEMPTS: usize = 200;
const TURN_EVERY: Duration = Duration::from_millis(10);

/// Treatment of the data by a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// They stay for the time that the server declares, if it does.
    Recoverable,
    ForGood,
}

impl Tenants {
    /// Deletes a database whose name is reserved. `gone` runs once no client can enter it any more, before its name is free.
    /// Returns until when it can be brought back, in unix milliseconds.
    ///
    /// # Errors
    /// When it must stay, or the store refuses: then the database replies with an error, and the deletion may be
    /// retried.
    pub async fn delete(
        &self,
        reserved: Changing,
        tenant: &Arc<Tenant>,
        removal: Removal,
        gone: impl FnOnce(),
    ) -> Result<Option<u64>> {
        if !self.has(tenant) {
            return Ok(None);
        }
        self.check_deletable(tenant)?;
        let grace_ms = self.deleted_grace_ms.load(Ordering::Relaxed);
        // A branch of version 0.1.0 may have the name `default`, which is never free.
        if removal == Removal::Recoverable && grace_ms > 0 && tenant.name() != DEFAULT_DATABASE {
            return self.hide(tenant, grace_ms, gone).await.map(Some);
        }
        self.purge_branches(tenant.name()).await?;
        let ancestors = tenant.database.lineage().ancestors;
        let deleted = self.erase(tenant).await;
        if deleted.is_ok() && tenant.name() == DEFAULT_DATABASE {
            // There always is one: an empty database replaces the branch that had its name.
            self.renew_default().await;
        } else if deleted.is_ok() {
            self.take(tenant.name(), |_| true);
        }
        gone();
        deleted?;
        drop(reserved);
        self.collect_for(&ancestors).await;
        Ok(None)
    }

    /// Deletes the data of a database, then its record.
    async fn erase(&self, tenant: &Tenant) -> Result<()> {
        tenant.database.delete().await?;
        if self.directory.known().holds(tenant.name()) {
            let forgotten = self.directory.change(tenant.name(), Vec::new(), |_| Ok((None, ()))).await;
            forgotten.map_err(|refusal| Error::Store(refusal.to_string()))?;
        }
        self.ledger.take_leave(&tenant.meters);
        Ok(())
    }

    /// Deletes objects that only a deleted branch needed. The next checkpoint of an ancestor would also find them.
    async fn collect_for(&self, ancestors: &[String]) {
        for ancestor in ancestors.iter().filter_map(|name| self.of_name(name)) {
            if let Err(error) = ancestor.database.collect_garbage().await {
                tracing::warn!(database = ancestor.name(), %error, "failed to delete objects that only a deleted branch needed");
            }
        }
    }

    /// Step 1. Returns the end of its time.
    async fn hide(&self, tenant: &Arc<Tenant>, grace_ms: u64, gone: impl FnOnce()) -> Result<u64> {
        let at_ms = (tenant.database.engine.clock)();
        let present = self.record_of(tenant);
        let of_lineage = present.expires_ms;
        let hide = move |before: Option<DatabaseRecord>| {
            let mut record = before.unwrap_or_else(|| present.clone());
            // A time to live ends as it would have.
            let ends = [record.expires_ms, of_lineage].into_iter().flatten();
            let until_ms = ends.fold(at_ms.saturating_add(grace_ms), u64::min);
            record.deleted = Some(Deletion { at_ms, until_ms });
            Ok((Some(record), until_ms))
        };
        let hidden = self.directory.change(tenant.name(), self.founding(), hide).await;
        let until_ms = hidden.map_err(|refusal| Error::Store(refusal.to_string()))?;
        self.hidden.write().insert(tenant.name().into(), Arc::clone(tenant));
        self.take(tenant.name(), |_| true);
        gone();
        Ok(until_ms)
    }

    /// Step 2, for all databases that are hidden and in memory. To be called now and then.
    pub async fn settle_hidden(&self) {
        let hidden: Vec<Arc<Tenant>> = self.hidden.read().values().cloned().collect();
        for tenant in hidden {
            let settled = match self.settle(&tenant).await {
                Ok(true) => self.let_go(&tenant).await,
                Ok(false) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = settled {
                tracing::warn!(database = tenant.name(), %error, "failed to bring a deleted database into the store; it stays in memory");
            }
        }
    }

    /// Lets a hidden database leave memory, unless it was brought back or used meanwhile.
    async fn let_go(&self, tenant: &Arc<Tenant>) -> Result<()> {
        let Ok(_reserved) = self.reserve(tenant.name()) else { return Ok(()) };
        let now_ms = (tenant.database.engine.clock)();
        let is_hidden = || self.hidden.read().get(tenant.name()).is_some_and(|here| Arc::ptr_eq(here, tenant));
        self.record_usage(tenant, now_ms).await?;
        // A window that is open would be taken for one that the ledger has, once the database has been away for long.
        if is_hidden() && tenant.meters.is_settled(now_ms) && tenant.database.ready_to_drop(false).await? {
            self.hidden.write().remove(tenant.name());
        }
        Ok(())
    }

    /// Whether the store has all of it, with its meters.
    async fn settle(&self, tenant: &Tenant) -> Result<bool> {
        let database = &tenant.database;
        if database.has_recovered() {
            database.awake().await?;
        }
        if database.is_awake() {
            database.sleep().await?;
        }
        database.ready_to_drop(true).await
    }

    /// Brings a deleted database back as it was.
    ///
    /// # Errors
    /// When there is no such deleted database, its owner is deleted too, or the store refuses.
    pub async fn undelete(&self, name: &str) -> std::result::Result<(), ChangeRefusal> {
        let busy = |error: Error| ChangeRefusal::Conflict(error.detail().trim_start_matches("ERR ").to_owned());
        let _reserved = self.reserve_soon(name).await.map_err(busy)?;
        // Nobody opens it before it is in the map.
        let turn = self.turns.of(name);
        let _held = turn.come().await;
        let unknown = || ChangeRefusal::Unknown(format!("there is no deleted database `{}`", name.escape_default()));
        if self.directory.deleted(name).is_none() {
            return Err(unknown());
        }
        if let Some((owner, _)) = owner_and_branch(name).filter(|(owner, _)| !self.has_name(owner)) {
            return Err(ChangeRefusal::Conflict(format!("`{name}` is a branch of `{owner}`: bring that back first")));
        }
        let bring_back = |before: Option<DatabaseRecord>| {
            let record = before.map(|record| DatabaseRecord { deleted: None, ..record });
            Ok((record, ()))
        };
        self.directory.change(name, Vec::new(), bring_back).await?;
        if let Some(tenant) = self.hidden.write().remove(name) {
            // They are among those of the departed already.
            tenant.meters.reset_statistics((tenant.database.engine.clock)());
            self.put(tenant);
        }
        Ok(())
    }

    /// Deletes a deleted database for good. Does nothing if it was brought back.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn purge(&self, name: &str) -> Result<()> {
        let _reserved = self.reserve_soon(name).await?;
        if self.directory.deleted(name).is_none() {
            return Ok(());
        }
        self.purge_branches(name).await?;
        self.purge_held(name).await
    }

    /// Deletes the deleted branches of a database for good, before it goes itself.
    async fn purge_branches(&self, owner: &str) -> Result<()> {
        let prefix = format!("{owner}.");
        let branches: Vec<Box<str>> = {
            let known = self.directory.known();
            known.all_deleted().map(|record| record.name).filter(|name| name.starts_with(&prefix)).collect()
        };
        for branch in branches {
            let _reserved = self.reserve_soon(&branch).await?;
            self.purge_held(&branch).await?;
        }
        Ok(())
    }

    /// Deletes one whose name the caller holds.
    async fn purge_held(&self, name: &str) -> Result<()> {
        let Some(tenant) = self.hidden_in_memory(name).await else { return Ok(()) };
        let ancestors = tenant.database.lineage().ancestors;
        self.erase(&tenant).await?;
        self.hidden.write().remove(name);
        self.collect_for(&ancestors).await;
        Ok(())
    }

    /// Reserves the name of a hidden database, which may be leaving memory just now.
    async fn reserve_soon(&self, name: &str) -> Result<Changing> {
        for _ in 0..TURN_ATTEMPTS {
            if let Ok(reserved) = self.reserve(name) {
                return Ok(reserved);
            }
            tokio::time::sleep(TURN_EVERY).await;
        }
        self.reserve(name)
    }

    /// A hidden database, which is opened if it is not in memory. The caller holds its name.
    pub(super) async fn hidden_in_memory(&self, name: &str) -> Option<Arc<Tenant>> {
        if let Some(tenant) = self.hidden.read().get(name) {
            return Some(Arc::clone(tenant));
        }
        let record = self.directory.deleted(name)?;
        let tenant = self.opener.open(name, Some(&record)).await;
        self.hidden.write().insert(name.into(), Arc::clone(&tenant));
        Some(tenant)
    }

    /// A hidden database for a report on it; it leaves memory again by itself.
    ///
    /// # Errors
    /// When there is none.
    pub async fn deleted(&self, name: &str) -> Option<Arc<Tenant>> {
        let _reserved = self.reserve_soon(name).await.ok()?;
        self.hidden_in_memory(name).await
    }

    /// The databases in memory with the hidden ones: those that a process which ends has to save.
    pub fn all_with_hidden(&self) -> impl Iterator<Item = Arc<Tenant>> + use<> {
        self.all().chain(self.hidden.read().values().cloned().collect::<Vec<_>>())
    }
}
