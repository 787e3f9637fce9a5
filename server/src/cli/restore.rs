//! `dormouse restore`: databases from a backup. [`dormouse_shard::restore`] brings them back.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use dormouse_importer::output::{counted, print_error, print_line};
use dormouse_importer::progress::Progress;
use dormouse_shard::restore::{ChosenDatabase, Restore, RestoreReport};
use dormouse_storage::backup::BackupPoint;
use dormouse_storage::log::Log;
use dormouse_storage::store::{Store, StoreError};
use futures::executor::block_on;
use serde_json::{Value, json};

use super::backup::{find_point, name_of, open_backups};
use super::master_key::{MasterKeyArgument, access};
use super::table::size;
use super::{Failure, check_is_store_or_empty, parse_database, store_url};
use crate::clock::now_ms;
use crate::options::check_database_name;
use crate::process::random_seed;

/// The exit codes, for `--help`.
const CODES: &str =
    "A restored database has the data, users, settings and tokens that it had. A database that exists keeps its \
tokens and settings of the operator, and its meters.

Exit codes:
  0  all databases were restored
  1  nothing was restored, or some databases could not be
  2  the URL holds no backup";

#[derive(clap::Args, Debug)]
#[command(after_help = CODES)]
pub struct RestoreArguments {
    /// Where the backups are
    #[arg(long, value_name = "URL")]
    from: String,

    /// Where to restore to: a store that no server has open, empty or with other databases [default: DORMOUSE_STORE, or
    /// file://./dormouse-data]
    #[arg(long, value_name = "URL")]
    store: Option<String>,

    #[command(flatten)]
    master_key: MasterKeyArgument,

    /// The backup, by its time or the beginning of it, such as 2026-11-29: see `dormouse backup list` [default: the newest]
    #[arg(long, value_name = "BACKUP")]
    at: Option<String>,

    /// Only this database; may be repeated [default: all of the backup]
    #[arg(long = "database", value_name = "NAME", value_parser = parse_database)]
    databases: Vec<String>,

    /// Restore the one database under this name, without tokens
    #[arg(long = "as", value_name = "NAME", requires = "databases", value_parser = parse_new_name)]
    new_name: Option<String>,

    /// Replace the data of databases that exist
    #[arg(long)]
    replace: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn parse_new_name(name: &str) -> Result<String, String> {
    check_database_name(name).map(|()| name.to_owned())
}

impl RestoreArguments {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let master_key = self.master_key.read()?;
        let (backup, points) = open_backups(&self.from, master_key.as_ref())?;
        let point = find_point(&points, self.at.as_deref())?;
        let databases = self.chosen(point)?;
        let url = store_url(self.store.as_deref());
        check_is_store_or_empty(&url, master_key.as_ref())?;
        let made = url.strip_prefix("file://").map(Path::new).filter(|folder| !folder.exists());
        let store = Arc::new(Store::open_with(&url, access(master_key.as_ref())).map_err(|error| match error {
            StoreError::Locked { .. } => format!("{error}: stop the server first"),
            error => error.to_string(),
        })?);
        let restored = self.restore(&backup, point, &store, &databases);
        if let (Err(_), Some(folder)) = (&restored, made) {
            // The folder was empty before and the store is still locked, so it holds only what was begun here.
            _ = std::fs::remove_dir_all(folder);
        }
        let report = restored.map_err(|text| format!("nothing was restored: {text}"))?;
        match self.json {
            true => print_line(&json_of(point, &report).to_string())?,
            false => print_line(&summary(point, &report))?,
        }
        for (name, problem) in &report.failed {
            print_error(&format!("dormouse: database `{name}` was not restored: {problem}"));
        }
        Ok(if report.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// The databases to restore, in the order of names.
    fn chosen(&self, point: &BackupPoint) -> Result<Vec<ChosenDatabase>, String> {
        let mut names = self.databases.clone();
        if names.is_empty() {
            names = point.databases.iter().map(|database| database.name.clone()).collect();
        }
        names.sort_unstable();
        names.dedup();
        match &self.new_name {
            Some(_) if names.len() > 1 => Err("--as needs one --database".to_owned()),
            Some(new) => Ok(names.into_iter().map(|from| ChosenDatabase { from, to: new.clone() }).collect()),
            None => Ok(names.into_iter().map(|name| ChosenDatabase { from: name.clone(), to: name }).collect()),
        }
    }

    fn restore(
        &self,
        backup: &Store,
        point: &BackupPoint,
        store: &Arc<Store>,
        databases: &[ChosenDatabase],
    ) -> Result<RestoreReport, String> {
        let writer = random_seed();
        let (owner, recovered) = Log::take(store, writer, now_ms).map_err(|error| error.to_string())?;
        let restore = Restore {
            backup,
            point,
            store,
            owner: owner.clone(),
            recovered: &recovered,
            databases,
            replace: self.replace,
            now_ms: now_ms(),
            writer,
        };
        let progress = Progress::new("copying", None);
        let mut bytes = 0;
        let restored = block_on(restore.run(&mut |more| {
            bytes += more;
            progress.at_bytes(bytes);
        }));
        if let Some(owner) = &owner
            && let Err(error) = block_on(owner.release())
        {
            // The next process must take the store over from one that may be alive, which costs a request or two.
            progress.note(&format!("the store could not be released: {error}"));
        }
        restored.map_err(|error| error.to_string())
    }
}

fn summary(point: &BackupPoint, report: &RestoreReport) -> String {
    let mut lines: Vec<String> = report
        .restored
        .iter()
        .map(|restored| {
            let ended = if restored.had_ended { "; its time to live had ended, and it has none now" } else { "" };
            format!("{}: {}, {}{ended}", restored.name, counted(restored.keys, "key"), size(restored.bytes))
        })
        .collect();
    let databases = counted(report.restored.len() as u64, "database");
    lines.push(format!("restored {databases} from the backup {}", name_of(point)));
    lines.join("\n")
}

/// The report as JSON. Field names do not change; new fields may be added.
fn json_of(point: &BackupPoint, report: &RestoreReport) -> Value {
    let restored = report.restored.iter().map(|restored| {
        json!({
            "name": restored.name, "keys": restored.keys, "bytes": restored.bytes, "had_ended": restored.had_ended,
        })
    });
    let failed = report.failed.iter().map(|(name, problem)| json!({ "name": name, "problem": problem }));
    json!({
        "backup": name_of(point),
        "restored": restored.collect::<Value>(),
        "failed": failed.collect::<Value>(),
    })
}
