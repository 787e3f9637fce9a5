//! The operator's settings of databases: from their records in the directory to those that are in memory.
//!
//! A caller that has changed a record, or has opened a database, passes on what the record says by then, and callers take turns.
//! So the last change is the one that stays, in whatever order they come.

use std::collections::BTreeMap;

use dormouse_shard::error::Result;
use dormouse_storage::directory::DatabaseRecord;

use super::{Tenant, Tenants};
use crate::config::quota;
use crate::options::owner_and_branch;

impl Tenants {
    /// # Errors
    /// The operator's setting that makes no sense, and why.
    pub fn check_settings(&self, settings: &BTreeMap<Box<str>, Box<str>>) -> std::result::Result<(), String> {
        quota::applied(settings, &self.opener.command_line).map(drop)
    }

    /// The record by which a database is opened: a branch has the settings of its owner, except for those of its own.
    pub(super) fn record_to_open(&self, name: &str) -> Option<DatabaseRecord> {
        let mut record = self.directory.find(name)?;
        let owner = owner_and_branch(name).map(|(owner, _)| owner).or(record.owner.as_deref());
        if let Some(owner) = owner.and_then(|owner| self.directory.find(owner)) {
            quota::inherit(&mut record.settings, owner.settings);
        }
        Some(record)
    }

    /// Lets a database use the rate of its owner, or its own if it is a branch for which the operator has set one.
    pub(super) fn share_rate(&self, tenant: &Tenant) {
        let is_own = tenant.is_branch()
            && self.directory.find(tenant.name()).is_some_and(|record| quota::has_rate(&record.settings));
        tenant.traffic.share(self.rates.of(if is_own { tenant.name() } else { tenant.owner() }));
    }

    /// Gives a database in memory, and the branches of one that is no branch, the operator's settings as their records have
    /// them now.
    ///
    /// # Errors
    /// When the store refuses to keep a loss window.
    pub async fn give_settings(&self, name: &str) -> Result<()> {
        let _held = self.giving.lock().await;
        for tenant in self.all().filter(|tenant| tenant.name() == name || tenant.owner() == name) {
            self.give(&tenant).await?;
        }
        Ok(())
    }

    /// The same for a database that was opened with `record`, which may have changed since.
    pub(super) async fn follow_settings(&self, tenant: &Tenant, record: Option<&DatabaseRecord>) {
        let settings =
            |record: Option<&DatabaseRecord>| record.map(|record| record.settings.clone()).unwrap_or_default();
        if settings(self.record_to_open(tenant.name()).as_ref()) == settings(record) {
            return;
        }
        let _held = self.giving.lock().await;
        if let Err(error) = self.give(tenant).await {
            tracing::warn!(database = tenant.name(), %error, "failed to give a database its settings");
        }
    }

    /// Called under `giving`.
    async fn give(&self, tenant: &Tenant) -> Result<()> {
        let record = self.record_to_open(tenant.name()).or_else(|| self.directory.find(tenant.owner()));
        self.share_rate(tenant);
        tenant.give(Tenant::settings_within(record.as_ref(), &self.opener.command_line)).await
    }
}
