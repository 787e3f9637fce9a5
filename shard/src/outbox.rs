//! Reading and deleting what triggers have to deliver. [`crate::keyspace::outbox`] says how it gets there.

use std::sync::Arc;

use dormouse_storage::shown::OUTBOX;
use dormouse_types::record::Record;
use dormouse_types::segment::slot_of;

use crate::database::Database;
use crate::error::{Error, Result};
use crate::keyspace::outbox::{OutboxEntry, OutboxRecord, TriggerQueue, key_of_entry};
use crate::keyspace::{Contents, Keyspace};
use crate::shard::HeldShard;
use crate::topology::hold;

/// Records that are deleted under one hold of the locks.
const DELETED_TOGETHER: usize = 512;

impl Database {
    /// Whether earlier processes may have left events in a database that has not been awake yet: its queues are empty until
    /// then.
    pub fn may_have_unlisted_events(&self) -> bool {
        !self.shared.outbox.is_listed() && (self.stored_counts()[OUTBOX].0 > 0 || self.has_recovered())
    }

    /// Keeps a database that woke briefly from falling asleep at once.
    #[must_use]
    pub fn keep_running(self: &Arc<Self>) -> impl Send + Sync + use<> {
        self.begin_run()
    }

    /// The records of some entries, once their events are durable. Wakes the database, briefly if it sleeps.
    ///
    /// # Errors
    /// When it cannot be woken, or the log cannot be written.
    pub async fn undelivered(
        self: &Arc<Self>,
        queue: &Arc<TriggerQueue>,
        entries: &[OutboxEntry],
    ) -> Result<Vec<OutboxRecord>> {
        let awaited = entries.iter().map(|entry| entry.awaited).max().unwrap_or(0);
        if let Some(log) = self.shared.journal.log()
            && log.flushed() < awaited
        {
            log.durable(awaited).await.map_err(|error| Error::Store(error.to_string()))?;
        }
        let (of, entries) = (Arc::clone(queue), entries.to_vec());
        let keys: Vec<_> = entries.iter().map(|entry| key_of_entry(of.id, entry)).collect();
        self.with_outbox(&keys, move |db| db.outbox_records(&of, &entries)).await
    }

    /// Deletes the records of entries that were delivered.
    ///
    /// # Errors
    /// When the database cannot be woken, or its log takes nothing: then they are still there.
    pub async fn delivered(self: &Arc<Self>, queue: &TriggerQueue, entries: &[OutboxEntry]) -> Result<()> {
        let keys: Vec<_> = entries.iter().map(|entry| key_of_entry(queue.id, entry)).collect();
        self.delete_records(&keys).await?;
        queue.forget(entries);
        Ok(())
    }

    /// Drops what waits for a trigger that is gone: it must not be among those of the database any more.
    ///
    /// # Errors
    /// When the database cannot be woken, or its log takes nothing: then the next process drops it.
    pub async fn drop_undelivered(self: &Arc<Self>, queue: &TriggerQueue) -> Result<()> {
        if self.may_have_unlisted_events() {
            // The wake drops it.
            self.awake_briefly().await?;
        }
        // A batch that has captured an event for it keeps its locks until the event is queued.
        drop(self.hold_all().await);
        let keys: Vec<_> = queue.close().iter().map(|entry| key_of_entry(queue.id, entry)).collect();
        self.delete_records(&keys).await
    }

    async fn delete_records(self: &Arc<Self>, keys: &[impl AsRef<[u8]>]) -> Result<()> {
        for some in keys.chunks(DELETED_TOGETHER) {
            let own: Vec<Box<[u8]>> = some.iter().map(|key| key.as_ref().into()).collect();
            let admitted = self.with_outbox(some, move |db| {
                db.shared().admit()?;
                db.delete_outbox_records(own.iter().map(|key| &**key));
                Ok::<(), Error>(())
            });
            admitted.await??;
        }
        Ok(())
    }

    /// Runs `work` under the locks of the shards of some records.
    async fn with_outbox<T: Send + 'static>(
        self: &Arc<Self>,
        keys: &[impl AsRef<[u8]>],
        work: impl FnOnce(&mut Keyspace<'_>) -> T + Send + 'static,
    ) -> Result<T> {
        loop {
            let topology = self.awake_briefly().await?;
            let mut shards: Vec<usize> = keys.iter().map(|key| topology.of_slot(slot_of(key.as_ref()))).collect();
            shards.sort_unstable();
            shards.dedup();
            if shards.is_empty() {
                shards.push(0);
            }
            let held = hold(shards.iter().map(|shard| Arc::clone(&topology.shards[*shard])).collect()).await;
            let mut contents: Vec<_> = held.iter().map(HeldShard::contents).collect();
            let is_current = |(contents, shard): (&parking_lot::MutexGuard<'_, Contents>, &usize)| {
                !contents.retired && topology.matches(*shard, contents)
            };
            if contents.len() != shards.len() || !contents.iter().zip(&shards).all(is_current) {
                continue;
            }
            let now_ms = (self.engine.clock)();
            let mut db = Keyspace::new(contents.iter_mut().map(|contents| &mut **contents), &self.shared, 0, now_ms, 0);
            let done = work(&mut db);
            db.finish();
            return Ok(done);
        }
    }

    /// Queues what earlier processes have left, when the database wakes for the first time, and drops what no trigger wants
    /// any more.
    pub(crate) fn list_outbox<'a>(self: &Arc<Self>, records: impl Iterator<Item = &'a Record>) {
        let gone = self.shared.outbox.list(records);
        if gone.is_empty() {
            return;
        }
        let database = Arc::clone(self);
        self.engine.background.spawn(async move {
            if let Err(error) = database.delete_records(&gone).await {
                tracing::warn!(database = database.name(), %error, "failed to drop events of triggers that are gone");
            }
        });
    }
}

#[cfg(test)]
mod tests;
