//! The loss window that a database declares for itself: in force from when that is answered, also after a restart.
//!
//! 1. The journal is told of it ([`crate::log::Journal::declare`]), so what is written from then on keeps it.
//! 2. *Secure*: what was not logged until then goes into a checkpoint, and what was answered before is durable.
//! 3. *Remember*: the newest manifest says it, in a copy of the one before if need be. Whoever opens the database finds it there.
//!
//! When the store does not answer, the manifest may say it all the same. So after an error in steps 2 and 3 the caller tells the
//! journal of the window before, and the next manifest says that one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::database::{Database, store_error};
use crate::error::{Error, Result};
use crate::log::Window;
use crate::manifest::{self, Manifest};

/// Where a manifest's settings have it.
const LOSS_WINDOW: &str = "loss-window";

/// The window that the manifest was told of.
pub(crate) fn declared(manifest: &Manifest) -> Option<Window> {
    // What a later version may have written here is kept by the strictest that this one has.
    manifest.settings.get(LOSS_WINDOW).map(|text| text.parse().unwrap_or(Window::Zero))
}

impl Database {
    /// The window that was declared for this database rather than for the node.
    pub fn own_window(&self) -> Option<Window> {
        self.has_own_window.load(Ordering::SeqCst).then(|| self.shared.journal.window())
    }

    /// Sees to it that the window which the journal has been told of is kept from now on: secures and remembers it.
    ///
    /// # Errors
    /// When the store or the log refuses: the promise is not in force.
    pub async fn keep_window(self: &Arc<Self>) -> Result<()> {
        let before = self.has_own_window.swap(true, Ordering::SeqCst);
        let kept = match self.secure().await {
            Ok(()) => self.remember_window().await,
            refused => refused,
        };
        if kept.is_err() {
            self.has_own_window.store(before, Ordering::SeqCst);
        }
        kept
    }

    /// What was written until now keeps the window too.
    ///
    /// # Errors
    /// As [`Self::keep_window`].
    pub async fn secure(self: &Arc<Self>) -> Result<()> {
        // Whoever wakes it or makes a checkpoint now may have begun before the window was declared.
        drop(self.transition.lock().await);
        let journal = &self.shared.journal;
        let Some(log) = journal.log() else { return Ok(()) };
        if self.is_awake() && journal.window() != Window::None && !journal.is_covered() {
            self.checkpoint().await?;
            if self.is_awake() && !journal.is_covered() {
                return Err(Error::text("ERR the loss window could not be secured; try again"));
            }
        }
        match journal.window() {
            Window::Zero => log.durable_or_failed(log.end()).await.map_err(store_error),
            Window::Ms(_) | Window::None => Ok(()),
        }
    }

    async fn remember_window(self: &Arc<Self>) -> Result<()> {
        let database = Arc::clone(self);
        // To its end, even if the client goes away.
        let done = self.engine.background.spawn(async move {
            let _transition = database.transition.lock().await;
            let done = database.write_window().await;
            database.stop_if_overtaken().await;
            done
        });
        done.await.map_err(|error| Error::Store(format!("database {}: {error}", self.name())))?
    }

    async fn write_window(&self) -> Result<()> {
        self.check_open()?;
        let before = self.newest_manifest().await?;
        let mut manifest = self.manifest_after(before.as_deref());
        if before.is_some_and(|before| before.settings == manifest.settings) {
            return Ok(());
        }
        manifest::commit(&self.engine.store, &mut manifest).await.map_err(|error| self.note_refused(error))?;
        self.note_manifest(&manifest);
        *self.manifest.lock() = self.is_awake().then(|| Arc::new(manifest));
        Ok(())
    }

    /// Takes the window over from `manifest`, which another process has committed.
    pub(crate) fn adopt_window(&self, manifest: &Manifest) {
        let window = declared(manifest);
        self.has_own_window.store(window.is_some(), Ordering::SeqCst);
        if let Some(window) = window {
            self.shared.journal.declare(window);
        }
    }

    /// The manifest that would be committed next if nothing had been written.
    pub(crate) fn manifest_after(&self, before: Option<&Manifest>) -> Manifest {
        let mut manifest = match before {
            Some(manifest) => manifest.clone(),
            None => self.first_manifest(),
        };
        if manifest.writer != self.engine.writer {
            manifest.writer = self.engine.writer;
            manifest.epoch += 1;
        }
        match self.own_window() {
            Some(window) => manifest.settings.insert(LOSS_WINDOW.to_owned(), window.to_string()),
            None => manifest.settings.remove(LOSS_WINDOW),
        };
        manifest
    }
}
