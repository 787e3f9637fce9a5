//! The one writer of the directory.

use std::collections::BTreeMap;
use std::sync::Weak;
use std::sync::atomic::Ordering;

use dormouse_storage::directory::{DatabaseRecord, DirectoryChange, DirectoryLog};
use dormouse_storage::store::StoreError;
use tokio::sync::mpsc;

use super::{ChangeRefusal, DatabaseDirectory};

/// Most changes that share a step.
const TOGETHER_MAX: usize = 256;

/// A change that waits.
pub(super) struct Asked {
    pub name: Box<str>,
    /// The databases to begin the directory with.
    pub founding: Vec<DatabaseRecord>,
    /// `None`: it was refused, and the caller has been told.
    pub decide: Box<dyn FnOnce(Option<DatabaseRecord>) -> Option<Decided> + Send>,
}

/// The next record of a name, if there is one, and the caller who waits for it.
pub(super) struct Decided {
    pub record: Option<DatabaseRecord>,
    pub tell: Box<dyn FnOnce(Result<(), ChangeRefusal>) + Send>,
}

/// Makes the changes that are asked for, until the directory is dropped.
pub(super) async fn write(mut log: DirectoryLog, mut asked: mpsc::Receiver<Asked>, of: Weak<DatabaseDirectory>) {
    let mut waiting = Vec::with_capacity(TOGETHER_MAX);
    while asked.recv_many(&mut waiting, TOGETHER_MAX).await > 0 {
        let Some(directory) = of.upgrade() else { return };
        if log.is_unsure() {
            match log.settle().await {
                Ok(changes) => publish(&directory, changes),
                Err(error) => {
                    let refusal = refusal(&error);
                    for asked in waiting.drain(..) {
                        let present = directory.held(&asked.name);
                        (asked.decide)(present).into_iter().for_each(|decided| (decided.tell)(Err(refusal.clone())));
                    }
                    continue;
                }
            }
        }
        step(&directory, &mut log, waiting.drain(..)).await;
        if log.needs_snapshot() {
            keep_snapshot(&directory, &mut log).await;
        }
    }
}

/// Decides changes one after the other, and makes them durable together.
async fn step(directory: &DatabaseDirectory, log: &mut DirectoryLog, asked: impl Iterator<Item = Asked>) {
    let mut next: BTreeMap<Box<str>, Option<DatabaseRecord>> = BTreeMap::new();
    let (mut decided, mut unchanged) = (Vec::new(), Vec::new());
    for Asked { name, founding, decide } in asked {
        if log.number() == 0 {
            for record in founding {
                next.entry(record.name.clone()).or_insert(Some(record));
            }
        }
        let before = next.get(&name).cloned().unwrap_or_else(|| directory.held(&name));
        let Some(Decided { record, tell }) = decide(before.clone()) else { continue };
        if record == before && !next.contains_key(&name) {
            unchanged.push(tell);
        } else if let Some(fault) = record.as_ref().and_then(|record| record.check().err()) {
            tell(Err(ChangeRefusal::Invalid(format!("the database would have too much in its record: {fault}"))));
        } else {
            next.insert(name, record);
            decided.push(tell);
        }
    }
    unchanged.into_iter().for_each(|tell| tell(Ok(())));
    if decided.is_empty() {
        return;
    }
    let changes = next.into_iter().map(|(name, record)| match record {
        Some(record) => DirectoryChange::put(&record),
        None => DirectoryChange::Remove(name),
    });
    let outcome = match log.commit(changes.collect()).await {
        Ok(changes) => {
            publish(directory, changes);
            Ok(())
        }
        Err(error) => {
            tracing::error!(%error, "failed to change the directory of databases");
            Err(refusal(&error))
        }
    };
    decided.into_iter().for_each(|tell| tell(outcome.clone()));
}

fn publish(directory: &DatabaseDirectory, changes: Vec<DirectoryChange>) {
    let mut known = directory.known.write();
    changes.into_iter().for_each(|change| known.apply(change));
    directory.tokens.store(known.tokens(), Ordering::Release);
    drop(known);
    directory.has_begun.store(true, Ordering::Release);
}

async fn keep_snapshot(directory: &DatabaseDirectory, log: &mut DirectoryLog) {
    let encoder = {
        let known = directory.known.read();
        let records = known.encoded();
        let mut encoder = log.snapshot_encoder(records.len());
        records.for_each(|record| encoder.put(record));
        encoder
    };
    if let Err(error) = log.keep_snapshot(encoder).await {
        tracing::warn!(%error, "failed to write a snapshot of the directory of databases");
    }
}

fn refusal(error: &StoreError) -> ChangeRefusal {
    ChangeRefusal::Store(format!("the store refuses: {error}; the change may be made later all the same"))
}
