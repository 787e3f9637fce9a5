//! The loss window that a database declares for itself: in force from the answer on, even after a restart.
//!
//! 1. *Claim*: the newest manifest is one of this process, so no other process's window can replace the declared one.
//! 2. A stricter window is told to the journal, so later writes keep it; *secured*: earlier writes that were not logged
//!    go into a checkpoint, and answered ones are durable; and *remembered* ([`crate::declared`]). When anything fails,
//!    the window before is in force again.
//! 3. A laxer one is remembered first, and the journal told after. If that fails nothing has changed.

use std::sync::Arc;

use dormouse_storage::log::Window;

use crate::database::{Database, store_error};
use crate::error::{Error, Result};

impl Database {
    /// The window that was declared for this database rather than for the node.
    pub fn own_window(&self) -> Option<Window> {
        self.declared.lock().window
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
                database.remember(|own| own.window = Some(window)).await?;
                journal.declare(window);
                return Ok(());
            }
            journal.declare(window);
            let kept = match database.secure().await {
                Ok(()) => database.remember(|own| own.window = Some(window)).await,
                refused => refused,
            };
            if kept.is_err() {
                journal.declare(before);
            }
            kept
        });
        done.await.map_err(|error| Error::Store(format!("database {}: {error}", self.name())))?
    }

    /// Makes sure that the newest manifest is one of this process.
    ///
    /// # Errors
    /// When it may not be, or the store refuses.
    pub async fn claim(&self) -> Result<()> {
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
}
