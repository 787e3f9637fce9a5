//! Read-only checks of a store: everything that a database needs is checked, byte for byte.
//!
//! 1. The log is read once, all of it ([`log`]), and the directory ([`directory`]).
//! 2. Of each database the kept manifests are read, then every chunk and tail that they name ([`objects`]): that it is
//!    there, is as long as the manifest says, and decodes with every key where it belongs.
//! 3. The log's entries beyond the newest manifest must follow it without a gap and reach its cut.
//! 4. Objects of the database that no manifest in the store names are counted: they are garbage, or about to be named.
//!
//! A server may be writing the store meanwhile. It deletes only what its newest manifest does not need, and the log is
//! at least as new as a manifest that was read before it. So where something seems wrong the database is checked again,
//! from its manifests on, with a log that is read after them. Only a problem that remains under the same newest
//! manifest counts.
//!
//! [`salvage`] recovers the readable part of a damaged database.

mod database;
mod directory;
mod fragments;
mod log;
mod objects;
pub mod salvage;

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use dormouse_storage::log::Log;
use dormouse_storage::log::recovery::{Recovered, collect};
use dormouse_storage::manifest;
use dormouse_storage::store::{Store, StoreError};
use futures::executor::block_on;

use self::database::{check_database, check_history};
pub use self::directory::CheckedDirectory;
use self::directory::check_directory;
pub use self::log::CheckedLog;
use crate::export::ExportError;

/// Checks of one database at most, until its newest manifest holds still.
const ATTEMPTS: usize = 4;

/// A problem that the check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The object, by its name in the store.
    pub object: String,
    pub what: String,
    /// The keys that are lost by it, or their number.
    pub affected: String,
    /// The steps that repair it.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.object, self.what)?;
        writeln!(f, "    affected: {}", self.affected)?;
        write!(f, "    remedy:   {}", self.remedy)
    }
}

/// The reason why nothing was recovered.
#[derive(Debug, thiserror::Error)]
pub enum SalvageError {
    #[error("no data of database `{0}` can be read")]
    Nothing(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Export(#[from] ExportError),
}

/// Objects that exist and are not needed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spare {
    pub objects: u64,
    pub bytes: u64,
}

impl Spare {
    fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }
}

/// The state of one database as the check found it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    pub name: String,
    /// The newest manifest; `None`: only the log has the database, or it was deleted meanwhile.
    pub manifest: Option<u64>,
    pub manifests: usize,
    /// As the newest manifest counts them, without the keys that the log adds or removes.
    pub keys: u64,
    pub bytes: u64,
    pub chunks: usize,
    pub tails: usize,
    /// Entries in the log beyond the newest manifest.
    pub logged: usize,
    /// Objects that no manifest names.
    pub garbage: Spare,
    /// Objects that no readable manifest names, where an unreadable one may name them.
    pub unknown: Spare,
    /// The newest manifest cannot be read.
    pub is_unreadable: bool,
    /// Markers of branches that may need objects of this database.
    pub markers: u64,
    pub problems: Vec<Problem>,
}

/// The state of a store as the check found it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    pub databases: Vec<Checked>,
    pub log: CheckedLog,
    pub directory: CheckedDirectory,
    /// Files that unfinished writes left in a folder; a running server may still be writing them.
    pub unfinished: Spare,
}

impl CheckReport {
    pub fn problems(&self) -> usize {
        let of_node = self.log.problems.len() + self.directory.problems.len();
        of_node + self.databases.iter().map(|database| database.problems.len()).sum::<usize>()
    }
}

/// Checks the log and all databases, or `only` one. `watch` is shown each database after its check. It blocks, so it
/// must not be called from async code.
///
/// # Errors
/// When the store cannot be asked.
pub fn check(
    store: &Arc<Store>,
    only: Option<&str>,
    watch: &mut dyn FnMut(&Checked),
) -> Result<CheckReport, StoreError> {
    let (log, recovered) = log::check_log(store);
    let directory = check_directory(store)?;
    let mut report = CheckReport { log, directory, ..CheckReport::default() };
    let mut all = block_on(manifest::databases(store))?;
    all.extend(recovered.identities().into_iter().map(|identity| identity.name.to_string()));
    all.sort_unstable();
    all.dedup();
    let needed = block_on(needed(store, &all))?;
    for name in all.iter().filter(|name| only.is_none_or(|only| only == *name)) {
        let checked = settled(store, name, &recovered, &needed)?;
        // A folder without manifests is left by a deleted database, or belongs to one that is about to be created.
        if let Some(checked) = checked {
            watch(&checked);
            report.databases.push(checked);
        }
    }
    if let Some(folder) = store.folder() {
        count_unfinished(&folder, 0, &mut report.unfinished);
    }
    Ok(report)
}

/// Checks a database; if anything seems wrong, until its newest manifest is the same before and after.
fn settled(
    store: &Arc<Store>,
    name: &str,
    recovered: &Recovered,
    needed: &Needed,
) -> Result<Option<Checked>, StoreError> {
    let mut checked = block_on(check_database(store, name, needed, recovered))?;
    for _ in 1..ATTEMPTS {
        if checked.as_ref().is_none_or(|checked| checked.problems.is_empty()) {
            break;
        }
        let before = checked.and_then(|checked| checked.manifest);
        let again = check_again(store, name, needed)?;
        let same = again.as_ref().and_then(|checked| checked.manifest) == before;
        checked = again;
        if same {
            break;
        }
    }
    Ok(checked)
}

/// The manifests first, the log after them.
fn check_again(store: &Arc<Store>, name: &str, needed: &Needed) -> Result<Option<Checked>, StoreError> {
    let history = block_on(manifest::history(store, name))?;
    let fresh = Log::read(store).map(collect).unwrap_or_default();
    block_on(check_history(store, name, history, needed, &fresh))
}

/// The objects that the manifests of all databases need.
#[derive(Debug, Default)]
struct Needed {
    objects: HashSet<String>,
    /// Some manifest cannot be read. The objects that it names, of whatever database, are missing here.
    is_partial: bool,
}

async fn needed(store: &Store, all: &[String]) -> Result<Needed, StoreError> {
    let mut needed = Needed::default();
    for name in all {
        for (_, manifest) in manifest::history(store, name).await? {
            match manifest {
                Ok(manifest) => needed.objects.extend(manifest.known.objects().map(str::to_owned)),
                // One that was deleted meanwhile needs nothing. One that cannot be read is reported where its database
                // is checked.
                Err(error) => needed.is_partial |= !error.is_missing(),
            }
        }
    }
    Ok(needed)
}

/// Databases are two folders below the store's, and their objects at most four below that.
const DEPTH_MAX: usize = 8;

fn count_unfinished(folder: &Path, depth: usize, found: &mut Spare) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() && depth < DEPTH_MAX {
            count_unfinished(&entry.path(), depth + 1, found);
        }
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.rsplit_once('#'));
        if metadata.is_file() && number.is_some_and(|(_, digits)| digits.bytes().all(|byte| byte.is_ascii_digit())) {
            found.add(metadata.len());
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
