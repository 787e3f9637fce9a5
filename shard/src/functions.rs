//! Keeping the libraries of functions: they are settings of the database in its manifest.
//!
//! A change is *claimed*, *remembered* and *published*, in this order, like a [declared window](crate::window): the client
//! has its answer when a manifest says it. So functions survive a crash, fall asleep with their database, and go with its
//! branches.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_scripting::Library;
use dormouse_storage::codec::functions::dump_functions;
use dormouse_storage::functions;
use dormouse_storage::manifest::Manifest;

use crate::commands::scripting::are_plain;
use crate::database::Database;
use crate::error::{Error, Result};
use crate::keyspace::functions::{Libraries, LoadedLibrary};
use crate::replication::{READERS, command};

impl Database {
    /// Changes the libraries. One change waits for another.
    ///
    /// # Errors
    /// That of `change`, or when the store refuses: nothing has changed then.
    pub async fn change_functions(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Libraries) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let database = Arc::clone(self);
        // Runs to its end, even if the client disconnects.
        let done = self.engine.background.spawn(async move {
            let _turn = database.declaring.lock().await;
            let mut libraries = (*database.shared.functions.get()).clone();
            change(&mut libraries)?;
            database.claim().await?;
            let _transition = database.transition.lock().await;
            let before = std::mem::replace(&mut *database.kept_functions.lock(), kept(&libraries));
            let done = database.write_settings().await;
            match done {
                Ok(()) => {
                    database.shared.journal.tell_tap(|| restored(&libraries));
                    database.publish_functions(libraries);
                }
                Err(_) => *database.kept_functions.lock() = before,
            }
            database.stop_if_overtaken().await;
            done
        });
        done.await.map_err(|error| Error::Store(format!("database {}: {error}", self.name())))?
    }

    /// Takes the libraries over from a manifest.
    pub(crate) fn adopt_functions(&self, manifest: &Manifest) {
        let mut libraries = Libraries::default();
        for (name, text) in functions::texts(&manifest.settings) {
            let library = text.and_then(|text| Library::new(&text).ok());
            match library {
                Some(library) => {
                    let library = Arc::new(LoadedLibrary::new(library, are_plain));
                    libraries.by_name.insert(library.library.name.clone(), library);
                }
                None => tracing::error!(database = self.name(), library = name, "a library of functions is malformed"),
            }
        }
        *self.kept_functions.lock() = kept(&libraries);
        self.publish_functions(libraries);
    }

    fn publish_functions(&self, libraries: Libraries) {
        let shared = &self.shared;
        shared.used.fetch_add(libraries.bytes(), Ordering::Relaxed);
        shared.used.fetch_sub(shared.functions.get().bytes(), Ordering::Relaxed);
        shared.functions.set(libraries);
    }

    /// Writes the libraries into the settings of the next manifest.
    pub(crate) fn keep_functions(&self, manifest: &mut Manifest) {
        manifest.settings.retain(|key, _| !functions::is_library(key));
        manifest.settings.extend(self.kept_functions.lock().iter().cloned());
    }
}

/// The command that gives a replica all libraries. One whose full copy already has them may run it again.
fn restored(libraries: &Libraries) -> Vec<u8> {
    let texts = libraries.by_name.values().map(|library| &*library.library.text);
    let mut restore = Vec::new();
    command(&mut restore, &[b"FUNCTION", b"RESTORE", &dump_functions(READERS.version, texts), b"FLUSH"]);
    restore
}

/// The settings that keep the libraries.
fn kept(libraries: &Libraries) -> Vec<(String, String)> {
    let setting = |library: &Arc<LoadedLibrary>| functions::setting(&library.library.name, &library.library.text);
    libraries.by_name.values().map(setting).collect()
}
