//! Adding triggers, of which the directory knows too: it names the databases that are opened at the start for their sake.

use std::sync::Arc;

use dormouse_storage::directory::DatabaseRecord;
use serde_json::Value;

use super::{Tenant, Tenants};
use crate::directory::ChangeRefusal;
use crate::triggers::TriggerWish;

impl Tenants {
    /// Adds a trigger to a database. Returns it as JSON, with its secret.
    ///
    /// # Errors
    /// When it makes no sense, the database has too many or is unclaimed, or the store refuses.
    pub async fn add_trigger(&self, tenant: &Arc<Tenant>, wish: TriggerWish) -> Result<Value, ChangeRefusal> {
        let record = self.directory.find(tenant.name());
        if record.as_ref().is_some_and(|record| record.is_unclaimed) {
            let text = "this database has no triggers until the operator has claimed it";
            return Err(ChangeRefusal::Conflict(text.to_owned()));
        }
        let now_ms = (tenant.database.engine.clock)();
        tenant.triggers.check(&wish, now_ms)?;
        // Without a directory, and without a record in it, a database is opened at the start anyway. The directory is
        // changed first, so that no start misses a trigger.
        if record.is_some_and(|record| !record.has_triggers) {
            let note = |before: Option<DatabaseRecord>| {
                let record = before.map(|record| DatabaseRecord { has_triggers: true, ..record });
                Ok((record, ()))
            };
            self.directory.change(tenant.name(), Vec::new(), note).await?;
        }
        tenant.triggers.add(wish, now_ms).await
    }
}
