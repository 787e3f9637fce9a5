//! The directory: its newest snapshot, the one before, and the steps after that.

use std::collections::BTreeMap;

use dormouse_storage::directory::{DirectoryChange, DirectoryKind, DirectoryObjects, read_object, step_name};
use dormouse_storage::store::{Store, StoreError};
use futures::executor::block_on;

use super::Problem;

/// A server may delete what it does not need any more while it is read.
const ATTEMPTS: usize = 4;

const AFFECTED: &str = "the databases and tokens that were made, changed or revoked with it; no server starts";
const REMEDY: &str = "restore it from a backup; or delete it and all objects of `directory/` with higher numbers, which brings \
                      back the databases and tokens of that moment, revoked ones too";

/// The state of the directory as the check found it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckedDirectory {
    pub steps: usize,
    pub snapshots: usize,
    /// Databases that it knows, and their tokens.
    pub databases: usize,
    pub tokens: usize,
    pub problems: Vec<Problem>,
}

/// Reads the directory, until two attempts find the same.
pub(super) fn check_directory(store: &Store) -> Result<CheckedDirectory, StoreError> {
    let mut found = block_on(look(store))?;
    for _ in 1..ATTEMPTS {
        if found.problems.is_empty() {
            break;
        }
        let again = block_on(look(store))?;
        let is_same = again == found;
        found = again;
        if is_same {
            break;
        }
    }
    Ok(found)
}

async fn look(store: &Store) -> Result<CheckedDirectory, StoreError> {
    let objects = DirectoryObjects::list(store).await?;
    let mut found = CheckedDirectory {
        steps: objects.steps.len(),
        snapshots: objects.snapshots.len(),
        ..CheckedDirectory::default()
    };
    let mut known = BTreeMap::new();
    let mut base = None;
    for &number in objects.snapshots.iter().rev() {
        match read_object(store, DirectoryKind::Snapshot, number).await {
            Ok(records) if base.is_none() => base = Some((number, records)),
            Ok(_) => {}
            Err(error) => found.problems.push(problem(&error)?),
        }
    }
    // The steps that only the older snapshot needs are read too.
    let first = objects.snapshots.first().copied().unwrap_or(0);
    let (newest, records) = base.unwrap_or((first, Vec::new()));
    records.into_iter().for_each(|change| apply(&mut known, change));
    for number in first + 1..=objects.last() {
        let read = match objects.steps.contains(&number) {
            true => read_object(store, DirectoryKind::Changes, number).await,
            false => Err(StoreError::Missing { name: step_name(number) }),
        };
        match read {
            Ok(changes) if number > newest => changes.into_iter().for_each(|change| apply(&mut known, change)),
            Ok(_) => {}
            Err(error) => found.problems.push(problem(&error)?),
        }
    }
    found.databases = known.len();
    found.tokens = known.values().sum();
    Ok(found)
}

/// Keeps the number of tokens of each database.
fn apply(known: &mut BTreeMap<Box<str>, usize>, change: DirectoryChange) {
    match change {
        DirectoryChange::Put(record) => {
            if let Ok(record) = dormouse_storage::directory::DatabaseRecord::decode(&record) {
                known.insert(record.name, record.tokens.len());
            }
        }
        DirectoryChange::Remove(name) => drop(known.remove(&name)),
    }
}

/// # Errors
/// When the store could not be asked.
fn problem(error: &StoreError) -> Result<Problem, StoreError> {
    let (object, what) = match error {
        StoreError::Missing { name } => (name.clone(), "missing from the store".to_owned()),
        StoreError::Corrupt { name, problem } => (name.clone(), problem.clone()),
        other => return Err(StoreError::LogFailed(other.to_string())),
    };
    Ok(Problem { object, what, affected: AFFECTED.to_owned(), remedy: REMEDY.to_owned() })
}
