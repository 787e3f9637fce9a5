//! Damage that keeps a database from being stored: its own writes are refused before they can do harm.
//!
//! A checkpoint that needs a damaged or missing object fails until the object is restored or the data is replaced. Until then
//! the log is kept for the database, and files of the log are shared with all others. So
//!
//! 1. where writes are not logged (loss window `none`), they are refused from the first such failure on;
//! 2. else they are refused when the log that is kept for the database exceeds [`KEPT_BYTES_MAX`].
//!
//! Reads go on, and so do the commands that replace all data ([`Flags::FREES_ALL`](crate::commands::Flags::FREES_ALL)), after
//! which nothing needs the object any more. The next checkpoint that succeeds ends the refusal.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dormouse_storage::log::format::Identity;
use dormouse_storage::log::{Journal, Window};
use parking_lot::Mutex;

use crate::error::{Error, Result};

/// Bytes of log that are kept for a database which cannot be stored. One file more may be kept, as files are counted
/// whole.
const KEPT_BYTES_MAX: u64 = 64 << 20;

/// Bytes that the log grows by between two checks of its kept size.
const LOOK_EVERY_BYTES: u64 = 1 << 20;

/// The damage that keeps a database from being stored.
#[derive(Debug, Default)]
pub struct CheckpointDamage {
    is_known: AtomicBool,
    /// The bound was reached.
    is_over: AtomicBool,
    /// The end of the log when its kept size was last checked.
    looked_at: AtomicU64,
    found: Mutex<Option<Found>>,
}

#[derive(Debug)]
struct Found {
    /// The object and its defect.
    what: String,
    /// The owner of the log.
    identity: Identity,
}

impl CheckpointDamage {
    /// Called after a checkpoint has failed because of damage.
    pub fn note(&self, what: String, identity: &Identity) {
        *self.found.lock() = Some(Found { what, identity: identity.clone() });
        self.looked_at.store(0, Ordering::Relaxed);
        self.is_known.store(true, Ordering::SeqCst);
    }

    /// Called after a checkpoint has succeeded. Returns whether damage was known before.
    pub fn forget(&self) -> bool {
        if !self.is_known() {
            return false;
        }
        self.is_known.store(false, Ordering::SeqCst);
        self.is_over.store(false, Ordering::SeqCst);
        self.found.lock().take().is_some()
    }

    pub fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Relaxed)
    }

    /// Whether a write may be accepted.
    ///
    /// # Errors
    /// The refusal: it names the object and says what to do.
    #[inline]
    pub fn admit(&self, journal: &Journal) -> Result<()> {
        if self.is_known() { self.admit_by(journal, KEPT_BYTES_MAX) } else { Ok(()) }
    }

    #[cold]
    fn admit_by(&self, journal: &Journal, kept_bytes_max: u64) -> Result<()> {
        let log = journal.log().filter(|_| journal.window() != Window::None);
        if let Some(log) = log
            && !self.is_over.load(Ordering::Relaxed)
        {
            let (end, looked_at) = (log.end(), self.looked_at.load(Ordering::Relaxed));
            if looked_at > 0 && end.saturating_sub(looked_at) < LOOK_EVERY_BYTES.min(kept_bytes_max) {
                return Ok(());
            }
            self.looked_at.store(end.max(1), Ordering::Relaxed);
            let kept = self.found.lock().as_ref().map_or(0, |found| log.kept_bytes_for(&found.identity));
            if kept <= kept_bytes_max {
                return Ok(());
            }
            self.is_over.store(true, Ordering::Relaxed);
        }
        let Some(what) = self.found.lock().as_ref().map(|found| found.what.clone()) else { return Ok(()) };
        let text = format!(
            "MISCONF this database cannot be stored: {what}: writes are refused until the object is restored, or FLUSHALL \
             has dropped all data, and a checkpoint has succeeded (see `dormouse check`)"
        );
        Err(Error::Text(text.into()))
    }
}
