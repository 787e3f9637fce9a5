//! The loss window that a database declares for itself: in force from the answer on, even after a restart.
//!
//! 1. *Claim*: the newest manifest is one of this process, so no other process's window can replace the declared one.
//! 2. A stricter window is told to the journal, so later writes keep it; *secured*: earlier writes that were not logged
//!    go into a checkpoint, and answered ones are durable; and *remembered*: the manifest says it, in a copy of the one
//!    before. When anything fails, the window before is in force again.
//! 3. A laxer one is remembered first, and the journal told after. If that fails nothing has changed.
//!
//! If the store does not answer, its manifest may say the new window all the same. So after a failure the next
//! checkpoint commits one that does not, even if nothing else was written.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_storage::log::Window;
use dormouse_storage::manifest::Manifest;

use crate::database::{Database, store_error};
use crate::error::{Error, Result};

/// The key of the window in a manifest's settings.
const LOSS_WINDOW: &str = "loss-window";

impl Database {
    /// The window that was declared for this database rather than for the node.
    pub fn own_window(&self) -> Option<Window> {
        *self.own_window.lock()
    }

    /// Declares a window. One declaration waits for another.
    ///
    /// # Errors
    /// When the store or the log refuses: the window before is in force.
    pub async fn declare_window(self: &Arc<Self>, window: Window) -> Result<()> {
        let database = Arc::clone(self);
        // Runs to its end, even if the client disconnects.
        let done = self.engine.background.spawn(async move {
            let _turn = database.declaring.lock().await;
            database.claim().await?;
            let journal = &database.shared.journal;
            let before = journal.window();
            if window.is_laxer_than(before) {
                database.remember_window(window).await?;
                journal.declare(window);
                return Ok(());
            }
            journal.declare(window);
            let kept = match database.secure().await {
                Ok(()) => database.remember_window(window).await,
                refused => refused,
            };
            if kept.is_err() {
                journal.declare(before);
            }
            kept
        });
        done.await.map_err(|error| Error::Store(format!("database {}: {error}", self.name())))?
    }

    /// Takes the window over from a manifest that another process has committed.
    pub(crate) fn adopt_window(&self, manifest: &Manifest) {
        // A window that only a later version knows counts as the strictest one that this version has.
        let window = manifest.settings.get(LOSS_WINDOW).map(|text| text.parse().unwrap_or(Window::Zero));
        *self.own_window.lock() = window;
        if let Some(window) = window {
            self.shared.journal.declare(window);
        }
    }

    /// Makes sure that the newest manifest is one of this process.
    pub(crate) async fn claim(&self) -> Result<()> {
        let _transition = self.transition.lock().await;
        self.check_open()?;
        self.check_owner().await?;
        self.owned_manifest().await.map(drop)
    }

    /// Makes sure that everything written until now keeps the window that the journal was told of.
    ///
    /// # Errors
    /// When the store or the log refuses.
    pub async fn secure(self: &Arc<Self>) -> Result<()> {
        // A wake or a checkpoint under way may have begun before the window was declared.
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

    async fn remember_window(self: &Arc<Self>, window: Window) -> Result<()> {
        let _transition = self.transition.lock().await;
        let before = self.own_window.lock().replace(window);
        let done = self.write_settings().await;
        if done.is_err() {
            *self.own_window.lock() = before;
        }
        self.stop_if_overtaken().await;
        done
    }

    /// Commits a manifest with the settings as they are to be kept, if they have changed. Called under `transition`.
    pub(crate) async fn write_settings(self: &Arc<Self>) -> Result<()> {
        self.check_open()?;
        let before = self.newest_manifest().await?;
        let mut manifest = self.manifest_after(before.as_deref());
        let is_known = before.is_some_and(|before| before.settings == manifest.settings);
        if is_known && !self.is_window_unsure.load(Ordering::SeqCst) {
            return Ok(());
        }
        if let Some(topology) = self.topology() {
            // A place's knowledge of a page leads to the previous manifest, which is deleted after the next commits.
            self.read_pages(&topology).await?;
        }
        self.is_window_unsure.store(true, Ordering::SeqCst);
        self.commit(&mut manifest).await.map_err(|error| self.note_refused(error))?;
        self.is_window_unsure.store(false, Ordering::SeqCst);
        let manifest = Arc::new(Arc::new(manifest).into());
        self.note_manifest(&manifest);
        *self.manifest.lock() = self.is_awake().then_some(manifest);
        Ok(())
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
        self.keep_functions(&mut manifest);
        manifest
    }
}
