//! Backups: what a crash has left of a store without a lock is copied into one place, again and again. Each copy is restored
//! into an empty store, and must show what a reader of the disk finds.

use std::sync::Arc;

use dormouse_shard::check::check;
use dormouse_shard::restore::{ChosenDatabase, Restore};
use dormouse_storage::backup::{BackupOrder, BackupRun, Saved, prune};
use dormouse_storage::log::recovery::Recovered;
use dormouse_storage::store::Store;

use crate::chance::Chance;
use crate::clock;
use crate::model::Model;
use crate::state;

/// Backups in a thousand after which old ones are deleted.
const PRUNINGS: u64 = 300;

/// The place of backups.
#[derive(Debug)]
pub struct Backups {
    target: Arc<Store>,
    chance: Chance,
}

impl Backups {
    pub fn new(chance: Chance) -> Self {
        Self { target: Arc::new(Store::memory()), chance }
    }

    /// Makes a backup and restores it. `expected`: all databases of the store.
    ///
    /// # Errors
    /// The database that is not as it was.
    pub async fn check(&mut self, source: &Arc<Store>, expected: &[(String, Model)]) -> Result<(), String> {
        let now_ms = clock::now_ms();
        let (target, writer) = (&self.target, self.chance.draw());
        let order = BackupOrder { source, target, databases: &[], now_ms, writer };
        let point = order.run(&mut |_| {}).map_err(|error| format!("no backup: {error}"))?.point;
        if self.chance.permille(PRUNINGS) {
            let pruned = async { prune(&BackupRun::begin(target).await?, now_ms).await };
            pruned.await.map_err(|error| format!("old backups were not deleted: {error}"))?;
        }
        for saved in &point.databases {
            if let Saved::LeftOut(reason) = &saved.contents {
                return Err(format!("the backup lacks {}: {reason}", saved.name));
            }
        }
        let names = point.databases.iter().map(|saved| saved.name.clone());
        let databases: Vec<ChosenDatabase> =
            names.map(|name| ChosenDatabase { from: name.clone(), to: name }).collect();
        let store = Arc::new(Store::memory());
        let restore = Restore {
            backup: target,
            point: &point,
            store: &store,
            owner: None,
            recovered: &Recovered::default(),
            databases: &databases,
            replace: false,
            now_ms,
            writer: self.chance.draw(),
        };
        let report = restore.run(&mut |_| {}).await.map_err(|error| format!("the backup was not restored: {error}"))?;
        if let Some((name, problem)) = report.failed.first() {
            return Err(format!("{name} was not restored: {problem}"));
        }
        for (name, expected) in expected {
            let restored = state::stored(&store, name, Recovered::default()).await;
            let restored = restored.map_err(|error| format!("{name} as restored: {error}"))?.alive(now_ms);
            let expected = expected.shown().alive(now_ms);
            let all = expected.keys.keys().chain(restored.keys.keys());
            let wrong: Vec<_> = all.filter(|key| expected.keys.get(*key) != restored.keys.get(*key)).take(5).collect();
            if !wrong.is_empty() {
                return Err(format!("{name} as restored differs in {wrong:?}"));
            }
        }
        let found = check(&store, None, &mut |_| {}).map_err(|error| error.to_string())?;
        match found.databases.iter().flat_map(|database| &database.problems).next() {
            Some(problem) => Err(format!("a restored store is damaged: {problem}")),
            None => Ok(()),
        }
    }
}
