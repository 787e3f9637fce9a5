//! The log as a whole: its files, frames and ends.

use std::sync::Arc;

use dormouse_storage::log::Log;
use dormouse_storage::log::recovery::{ReadLog, Recovered, collect};
use dormouse_storage::log::sink::{FOLDER, name};
use dormouse_storage::store::{Store, StoreError};

use super::Problem;

/// A frame that is being written while it is read may look damaged; real damage looks the same on every attempt.
const ATTEMPTS: usize = 4;

/// The state of the log as the check found it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckedLog {
    /// Processes that have written a log.
    pub logs: usize,
    pub files: usize,
    pub frames: usize,
    pub bytes: u64,
    pub databases: usize,
    /// Ends that a crash tore, or that are being written: they hold nothing that was acknowledged.
    pub torn: Vec<String>,
    pub problems: Vec<Problem>,
}

/// Reads the log, and returns its entries of all databases as far as it can be read.
pub(super) fn check_log(store: &Arc<Store>) -> (CheckedLog, Recovered) {
    let mut before: Option<Vec<Problem>> = None;
    for _ in 0..ATTEMPTS {
        let (found, recovered) = look(Log::read(store));
        if found.problems.is_empty() || before.as_ref() == Some(&found.problems) {
            return (found, recovered);
        }
        before = Some(found.problems);
    }
    look(Log::read(store))
}

fn look(read: Result<Vec<ReadLog>, StoreError>) -> (CheckedLog, Recovered) {
    let logs = match read {
        Ok(logs) => logs,
        Err(error) => {
            let problem = Problem {
                object: FOLDER.to_owned(),
                what: error.to_string(),
                affected: "whatever was written since each database's newest manifest; no server starts".to_owned(),
                remedy: REMEDY.to_owned(),
            };
            return (CheckedLog { problems: vec![problem], ..CheckedLog::default() }, Recovered::default());
        }
    };
    let mut found = CheckedLog { logs: logs.len(), ..CheckedLog::default() };
    for log in &logs {
        found.files += log.files.len();
        found.frames += log.frames;
        found.bytes += log.bytes;
        found.torn.extend(log.torn.clone());
        found.problems.extend(log.doubts.iter().map(|doubt| Problem {
            object: FOLDER.to_owned(),
            what: doubt.clone(),
            affected: "perhaps acknowledged writes; no database is refused for it".to_owned(),
            remedy: "restore the file from a copy of the store with the server stopped, if there is one; else compare the \
                     data with their source. The next start goes on with what can be read"
                .to_owned(),
        }));
        let mut names: Vec<&str> = log.databases.keys().map(|identity| &*identity.name).collect();
        names.sort_unstable();
        for damage in &log.damages {
            found.problems.push(Problem {
                object: name(damage.writer, damage.number),
                what: damage.problem.clone(),
                affected: format!(
                    "what was written since the newest manifests; this log has writes of {}, and perhaps of others in \
                     what cannot be read. Those databases are refused",
                    if names.is_empty() { "no database that could be read".to_owned() } else { names.join(", ") }
                ),
                remedy: REMEDY.to_owned(),
            });
        }
    }
    let recovered = collect(logs);
    found.databases = recovered.identities().len();
    (found, recovered)
}

const REMEDY: &str = "salvage the databases that matter (--salvage), which keeps what can be read of the log; then move \
                      the damaged file away with the server stopped, which loses what it held";
