//! Settings that a database declares for itself: its users, and a library of functions.
//!
//! Each change has a version of its own. Once it is answered, it is in force, whatever happens. One that failed is not in
//! force, but the store may have it all the same, so that it may be after a crash.

use std::sync::Arc;

use dormouse_scripting::Library;
use dormouse_shard::commands::scripting::are_plain;
use dormouse_shard::database::Database;
use dormouse_shard::error::{Error, Result};
use dormouse_shard::keyspace::functions::LoadedLibrary;

use crate::scripted;

/// Name of the only library.
const LIBRARY: &str = "library";

/// A kind of declared setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    Users,
    Library,
}

pub const SETTINGS: [Setting; 2] = [Setting::Users, Setting::Library];

/// The versions of one setting of one database. Version 0: none.
#[derive(Debug, Clone, Default)]
pub struct Versions {
    answered: u64,
    /// The change that is under way.
    running: Option<u64>,
    failed: Vec<u64>,
}

impl Versions {
    pub fn begin(&mut self, version: u64) {
        self.running = Some(version);
    }

    pub fn end(&mut self, version: u64, is_done: bool) {
        self.running = None;
        match is_done {
            true => *self = Self { answered: version, ..Self::default() },
            false => self.failed.push(version),
        }
    }

    /// Whether a process may serve a version.
    pub fn may_serve(&self, version: u64) -> bool {
        version == self.answered || self.running == Some(version)
    }

    /// Takes the version that a crash has left.
    ///
    /// # Errors
    /// When it cannot have been left.
    pub fn survive(&mut self, version: u64) -> std::result::Result<(), String> {
        if !self.may_serve(version) && !self.failed.contains(&version) {
            return Err(format!("version {version} is in force, and {self:?} was declared"));
        }
        *self = Self { answered: version, ..Self::default() };
        Ok(())
    }
}

/// Returns the version of a setting that a database has.
pub fn version(database: &Database, setting: Setting) -> u64 {
    match setting {
        Setting::Users => database.users().and_then(|text| text.strip_prefix("user v")?.parse().ok()).unwrap_or(0),
        Setting::Library => {
            let libraries = database.shared.functions.get();
            let text = libraries.by_name.get(LIBRARY).map(|loaded| String::from_utf8_lossy(&loaded.library.text));
            text.and_then(|text| scripted::version(&text)).unwrap_or(0)
        }
    }
}

/// Declares a version of a setting.
///
/// # Errors
/// When the store refuses.
pub async fn declare(database: &Arc<Database>, setting: Setting, version: u64) -> Result<()> {
    match setting {
        Setting::Users => {
            let text: Option<Arc<str>> = (version > 0).then(|| format!("user v{version}").into());
            database.declare_users(move || Ok((text, ())), |()| ()).await
        }
        Setting::Library if version == 0 => {
            let change = |libraries: &mut dormouse_shard::keyspace::functions::Libraries| {
                libraries.by_name.remove(LIBRARY);
                Ok(())
            };
            database.change_functions(change).await
        }
        Setting::Library => {
            let text = scripted::library(version);
            let library = Library::new(text.as_bytes()).map_err(|problem| Error::Text(problem.into()))?;
            let library = Arc::new(LoadedLibrary::new(library, are_plain));
            database.change_functions(move |libraries| libraries.add(library, true, false)).await
        }
    }
}
