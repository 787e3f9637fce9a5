//! Changes in the ledger's folder, for a reader that wants each object once.
//!
//! A look at the folder happens while nothing is written or merged: of a merged hour it sees either the many objects, or the
//! one together with their names.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use dormouse_storage::ledger::{self, MergedHour};
use dormouse_storage::store::StoreError;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::UsageLedger;

/// The changes since the last look.
#[derive(Default)]
pub(super) struct Changes {
    /// `None`: there is no reader.
    since: Mutex<Option<Since>>,
    /// Of a write.
    written: Notify,
    /// The first hour that the reader needs.
    needed_from: AtomicU64,
}

#[derive(Default)]
struct Since {
    hours: BTreeSet<u64>,
    merged: Vec<MergedHour>,
}

/// The outcome of a look.
#[derive(Debug, Default)]
pub struct LedgerLook {
    /// The objects of the hours in which something has changed, or of all.
    pub names: Vec<String>,
    /// The hours that were merged since the last look.
    pub merged: Vec<MergedHour>,
}

impl Changes {
    /// Notes hours before something is written to them: a write that fails may have written.
    pub(super) fn will_write(&self, hours: impl Iterator<Item = u64>) {
        if let Some(since) = &mut *self.since.lock() {
            since.hours.extend(hours);
        }
    }

    pub(super) fn wrote(&self) {
        self.written.notify_one();
    }

    pub(super) fn has_merged(&self, merged: MergedHour) {
        if let Some(since) = &mut *self.since.lock() {
            since.hours.extend(ledger::hour_of_object(&merged.merged));
            since.merged.push(merged);
        }
    }

    /// Whether something was written to an hour since the reader's last look.
    pub(super) fn is_unread(&self, hour: u64) -> bool {
        self.since.lock().as_ref().is_some_and(|since| since.hours.contains(&hour))
    }

    /// The last hour, up to `hour`, before which nothing is needed any more.
    pub(super) fn forgettable(&self, hour: u64) -> u64 {
        let since = self.since.lock();
        let Some(since) = &*since else { return hour };
        // Windows that came late into an old hour have yet to be read.
        let changed = since.hours.first().copied().unwrap_or(u64::MAX);
        hour.min(changed).min(self.needed_from.load(Ordering::Relaxed))
    }
}

impl UsageLedger {
    /// Begins to note changes. No hour is deleted until the reader [needs](Self::need_from) it no more.
    pub fn follow(&self) {
        self.changes.since.lock().get_or_insert_default();
    }

    /// Waits for the next write since the last wait.
    pub async fn written(&self) {
        self.changes.written.notified().await;
    }

    /// Ends the reader's present wait, or its next.
    pub fn wake_reader(&self) {
        self.changes.wrote();
    }

    /// Sets the first hour that the reader needs.
    pub fn need_from(&self, hour: u64) {
        self.changes.needed_from.store(hour, Ordering::Relaxed);
    }

    /// Looks at the hours that have changed since the last look, or at the `whole` ledger. The reader then says what it
    /// [needs](Self::need_from).
    ///
    /// # Errors
    /// When the store cannot be asked. The next look has what this one missed.
    pub async fn look(&self, whole: bool) -> Result<LedgerLook, StoreError> {
        let _unchanged = self.writer.lock().await;
        let Since { hours, merged } = self.changes.since.lock().as_mut().map(std::mem::take).unwrap_or_default();
        // Until the reader says what it needs.
        self.changes.needed_from.fetch_min(hours.first().copied().unwrap_or(u64::MAX), Ordering::Relaxed);
        match ledger::names(&self.store, (!whole).then_some(&hours)).await {
            Ok(names) => Ok(LedgerLook { names, merged }),
            Err(error) => {
                if let Some(since) = &mut *self.changes.since.lock() {
                    since.hours.extend(hours);
                    since.merged.extend(merged);
                }
                Err(error)
            }
        }
    }
}
