//! Declarations of a database for itself, which override those of the node: its loss window, its users, its other settings,
//! and its triggers.
//!
//! The newest manifest holds it, among its settings. A change is *remembered* by committing a copy of the manifest
//! before with it, whether the database sleeps or not. So it is in force after a crash, and a branch begins with a copy.
//!
//! If the store does not answer, its manifest may hold the change all the same. So after a failure the next checkpoint
//! commits one that does not, even if nothing else was written.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_storage::log::Window;
use dormouse_storage::manifest::Manifest;

use crate::database::{Adopted, Database, Declared};
use crate::error::{Error, Result};

/// The keys in a manifest's settings.
const LOSS_WINDOW: &str = "loss-window";
const USERS: &str = "users";
const CONFIG: &str = "config";
/// Left out of branches and of restored databases.
pub const TRIGGERS: &str = "triggers";

impl Database {
    /// The users that the database has declared, as the server has written them.
    pub fn users(&self) -> Option<Arc<str>> {
        self.declared.lock().users.clone()
    }

    /// Sets a function that learns of users which this process finds in a later manifest of another one.
    pub fn on_users_adopted(&self, adopted: Adopted) {
        *self.users_adopted.lock() = Some(adopted);
    }

    /// The settings that the database has declared besides its window, as the server has written them.
    pub fn config(&self) -> Option<Arc<str>> {
        self.declared.lock().config.clone()
    }

    /// The same as [`Self::on_users_adopted`] for the settings.
    pub fn on_config_adopted(&self, adopted: Adopted) {
        *self.config_adopted.lock() = Some(adopted);
    }

    /// Declares the users that `change` returns. It is called once no other process can declare any, and `publish` once
    /// they are in the manifest. One declaration waits for another.
    ///
    /// # Errors
    /// Those of `change`, or when the store refuses: the users before are in force.
    pub async fn declare_users<S: Send + 'static, T: Send + 'static>(
        self: &Arc<Self>,
        change: impl FnOnce() -> Result<(Option<Arc<str>>, S)> + Send + 'static,
        publish: impl FnOnce(S) -> T + Send + 'static,
    ) -> Result<T> {
        let change = move || {
            let (users, staged) = change()?;
            Ok((move |own: &mut Declared| own.users = users, staged))
        };
        self.declare(change, publish).await
    }

    /// Declares the settings that `text` returns. It is called once no other process can declare any.
    ///
    /// # Errors
    /// When the store refuses: the settings before are kept.
    pub async fn declare_config(
        self: &Arc<Self>,
        text: impl FnOnce() -> Option<Arc<str>> + Send + 'static,
    ) -> Result<()> {
        let change = move || {
            let config = text();
            Ok((move |own: &mut Declared| own.config = config, ()))
        };
        self.declare(change, |()| ()).await
    }

    /// The triggers that the database has declared, as the server has written them.
    pub fn triggers(&self) -> Option<Arc<str>> {
        self.declared.lock().triggers.clone()
    }

    /// The same as [`Self::on_users_adopted`] for the triggers.
    pub fn on_triggers_adopted(&self, adopted: Adopted) {
        *self.triggers_adopted.lock() = Some(adopted);
    }

    /// Declares the triggers that `change` returns, as [`Self::declare_users`] does with users.
    ///
    /// # Errors
    /// Those of `change`, or when the store refuses: the triggers before are in force.
    pub async fn declare_triggers<S: Send + 'static, T: Send + 'static>(
        self: &Arc<Self>,
        change: impl FnOnce() -> Result<(Option<Arc<str>>, S)> + Send + 'static,
        publish: impl FnOnce(S) -> T + Send + 'static,
    ) -> Result<T> {
        let change = move || {
            let (triggers, staged) = change()?;
            Ok((move |own: &mut Declared| own.triggers = triggers, staged))
        };
        self.declare(change, publish).await
    }

    async fn declare<S: Send + 'static, T: Send + 'static, C: FnOnce(&mut Declared) + Send + 'static>(
        self: &Arc<Self>,
        change: impl FnOnce() -> Result<(C, S)> + Send + 'static,
        publish: impl FnOnce(S) -> T + Send + 'static,
    ) -> Result<T> {
        let database = Arc::clone(self);
        // Runs to its end, even if the client disconnects.
        let done = self.engine.background.spawn(async move {
            let _turn = database.declaring.lock().await;
            database.claim().await?;
            let (change, staged) = change()?;
            database.remember(change).await?;
            Ok(publish(staged))
        });
        done.await.map_err(|error| Error::Store(format!("database {}: {error}", self.name())))?
    }

    /// Takes over what a manifest declares that another process has committed.
    pub(crate) fn adopt_declared(&self, manifest: &Manifest) {
        // A window that only a later version knows counts as the strictest one that this version has.
        let window = manifest.settings.get(LOSS_WINDOW).map(|text| text.parse().unwrap_or(Window::Zero));
        let text = |name| manifest.settings.get(name).map(|text| Arc::from(text.as_str()));
        let (users, config): (Option<Arc<str>>, Option<Arc<str>>) = (text(USERS), text(CONFIG));
        let triggers = text(TRIGGERS);
        let declared = Declared { window, users: users.clone(), config: config.clone(), triggers: triggers.clone() };
        let before = std::mem::replace(&mut *self.declared.lock(), declared);
        if let Some(window) = window {
            self.shared.journal.declare(window);
        }
        if let Some(adopted) = &*self.users_adopted.lock()
            && before.users != users
        {
            adopted(users.as_deref());
        }
        if let Some(adopted) = &*self.config_adopted.lock()
            && before.config != config
        {
            adopted(config.as_deref());
        }
        if let Some(adopted) = &*self.triggers_adopted.lock()
            && before.triggers != triggers
        {
            adopted(triggers.as_deref());
        }
    }

    /// Changes the declarations, and commits a manifest with the change.
    pub(crate) async fn remember(self: &Arc<Self>, change: impl FnOnce(&mut Declared)) -> Result<()> {
        let _transition = self.transition.lock().await;
        let before = self.declared.lock().clone();
        change(&mut self.declared.lock());
        let done = self.write_settings().await;
        if done.is_err() {
            *self.declared.lock() = before;
        }
        self.stop_if_overtaken().await;
        done
    }

    /// Commits a manifest with the settings as they are to be kept, if they have changed. Called under `transition`.
    pub(crate) async fn write_settings(self: &Arc<Self>) -> Result<()> {
        self.check_open()?;
        if self.engine.claims.is_some() {
            self.owned_manifest().await?;
        }
        let before = self.newest_manifest().await?;
        let mut manifest = self.manifest_after(before.as_deref());
        let is_known = before.is_some_and(|before| before.settings == manifest.settings);
        if is_known && !self.is_declared_unsure.load(Ordering::SeqCst) {
            return Ok(());
        }
        if let Some(topology) = self.topology() {
            // A place's knowledge of a page leads to the previous manifest, which is deleted after the next commits.
            self.read_pages(&topology).await?;
        }
        self.is_declared_unsure.store(true, Ordering::SeqCst);
        self.commit(&mut manifest).await.map_err(|error| self.note_refused(error))?;
        self.is_declared_unsure.store(false, Ordering::SeqCst);
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
        let Declared { window, users, config, triggers } = self.declared.lock().clone();
        let values = [
            (LOSS_WINDOW, window.map(|window| window.to_string())),
            (USERS, users.map(|users| users.to_string())),
            (CONFIG, config.map(|config| config.to_string())),
            (TRIGGERS, triggers.map(|triggers| triggers.to_string())),
        ];
        for (name, value) in values {
            match value {
                Some(value) => manifest.settings.insert(name.to_owned(), value),
                None => manifest.settings.remove(name),
            };
        }
        self.keep_functions(&mut manifest);
        manifest
    }
}
