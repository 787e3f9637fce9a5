//! `dormouse backup`: copies of databases in another bucket. [`dormouse_storage::backup`] makes them.
//!
//! It reads the store and locks nothing, so it may run beside a server. The target is another store's place, with a folder or
//! a bucket of its own.

use std::collections::HashMap;
use std::fmt::Write;
use std::process::ExitCode;
use std::sync::Arc;

use dormouse_importer::output::{counted, print, print_error, print_line};
use dormouse_importer::progress::Progress;
use dormouse_storage::backup::{
    BackupOrder, BackupPoint, BackupReport, BackupRun, BackupStep, Pruned, Saved, SavedDatabase, points, prune,
};
use dormouse_storage::manifest;
use dormouse_storage::store::{MasterKey, Store, StoreAccess, StoreError};
use futures::executor::block_on;
use serde_json::{Value, json};

use super::client::Address;
use super::master_key::MasterKeyArgument;
use super::table::size;
use super::tls::TlsArguments;
use super::unrepeated::Unrepeated;
use super::{
    Failure, NO_STORE, check_is_store_or_empty, db, open_to_read, open_to_read_with, parse_database, store_url,
};
use crate::clock::{now_ms, rfc3339};
use crate::options::Interval;
use crate::process::random_seed;

/// Variables of the place of backups begin with this, if it has its own: `BACKUP_AWS_ACCESS_KEY_ID`.
const VARIABLES: &str = "BACKUP_";

/// The exit codes and what a backup has, for `--help`.
const NOTES: &str = "A backup has what is durable in the store: the last checkpoint of each database and what the log has since. \
What a loss window allows a crash to lose may be missing, which for a database with loss window `none` is everything since its \
last checkpoint: name the running server with --url, and the databases are checkpointed first.

Credentials and endpoints of both places come from the same variables (AWS_..., GOOGLE_..., AZURE_...), unless there are variables \
that begin with BACKUP_, such as BACKUP_AWS_ACCESS_KEY_ID: then the place of the backups has those alone.

Exit codes:
  0  everything was done
  1  nothing was done; or databases that cannot be read were left out of the backup, which says so
  2  the URL holds no store, or no backup";

#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, after_help = NOTES)]
pub struct Backup {
    #[command(subcommand)]
    action: Option<Action>,

    /// Where the data is stored, as for `serve`; a server may be running [default: DORMOUSE_STORE, or file://./dormouse-data]
    #[arg(long, value_name = "URL")]
    store: Option<String>,

    #[command(flatten)]
    master_key: MasterKeyArgument,

    /// Where the backups are: a bucket or folder of their own, as file://PATH, s3://BUCKET/FOLDER, gs:// or az://
    #[arg(long, value_name = "URL", required = true)]
    to: Option<String>,

    /// Only this database; may be repeated [default: all]
    #[arg(long = "database", value_name = "NAME", value_parser = parse_database)]
    databases: Vec<String>,

    /// Afterwards delete the backups that are older than this, such as 30d, and what only they need
    #[arg(long, value_name = "DURATION")]
    keep: Option<Interval>,

    /// The running server, whose databases are checkpointed first: redis://[:TOKEN@]HOST:PORT, with the admin token in
    /// DORMOUSE_ADMIN_TOKEN for all databases
    #[arg(long, value_name = "URL", value_parser = Unrepeated::<Address>::new())]
    url: Option<Address>,

    #[command(flatten)]
    tls: TlsArguments,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// List the backups, from the oldest to the newest
    List {
        /// Where the backups are
        #[arg(long, value_name = "URL")]
        from: String,
        #[command(flatten)]
        master_key: MasterKeyArgument,
        /// Print JSON, with the databases of each backup
        #[arg(long)]
        json: bool,
    },
    /// Delete old backups, and what only they need. The newest one stays
    Prune {
        /// Where the backups are
        #[arg(long, value_name = "URL")]
        to: String,
        #[command(flatten)]
        master_key: MasterKeyArgument,
        /// Keep the backups that are younger than this, such as 30d
        #[arg(long, value_name = "DURATION")]
        keep: Interval,
    },
}

impl Backup {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        match &self.action {
            Some(Action::List { from, master_key, json }) => list(from, master_key, *json),
            Some(Action::Prune { to, master_key, keep }) => {
                let master_key = master_key.read()?;
                open_backups(to, master_key.as_ref())?;
                let target = open_target(to, master_key.as_ref(), false)?;
                Ok(print_line(&pruned(&delete_old(&target, *keep)?)).map(|()| ExitCode::SUCCESS)?)
            }
            None => self.make(),
        }
    }

    fn make(&self) -> Result<ExitCode, Failure> {
        let master_key = self.master_key.read()?;
        let source = open_to_read(&store_url(self.store.as_deref()), master_key.as_ref())?;
        let to = self.to.as_deref().unwrap_or_default();
        check_is_store_or_empty(to, master_key.as_ref())?;
        let target = open_target(to, master_key.as_ref(), source.is_encrypted())?;
        if let Some(url) = &self.url {
            db::checkpoint(url.clone(), &self.tls, &self.databases)?;
        }
        let now_ms = now_ms();
        let order =
            BackupOrder { source: &source, target: &target, databases: &self.databases, now_ms, writer: random_seed() };
        let progress = Progress::new("copying", None);
        let mut bytes = 0;
        let report = order.run(&mut |step| match step {
            BackupStep::Copied { bytes: more } => {
                bytes += more;
                progress.at_bytes(bytes);
            }
            BackupStep::Done(SavedDatabase { name, contents, .. }) => {
                if let Saved::LeftOut(reason) = contents {
                    progress.note(&format!("dormouse: left out: database `{name}`: {reason}"));
                }
            }
            BackupStep::Unreadable(error) => progress.note(&format!("dormouse: an earlier backup is damaged: {error}")),
        });
        drop(progress);
        let report = report.map_err(|error| format!("no backup was made: {error}"))?;
        let removed = match self.keep {
            Some(keep) => Some(delete_old(&target, keep)?),
            None => None,
        };
        let mut shown = described(&report.point);
        shown["copied_objects"] = json!(report.copied);
        shown["copied_bytes"] = json!(report.copied_bytes);
        if let Some(Pruned { points, objects, bytes }) = removed {
            shown["pruned"] = json!({ "points": points, "objects": objects, "bytes": bytes });
        }
        match self.json {
            true => print_line(&shown.to_string())?,
            false => print_line(&summary(&report))?,
        }
        if let Some(removed) = removed.filter(|_| !self.json) {
            print_line(&pruned(&removed))?;
        }
        Ok(if left_out(&report.point) == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Opens the place of backups for writing. A new one is encrypted if there is a master key, and one that is not stays so.
/// `encrypted`: it must be.
fn open_target(url: &str, master_key: Option<&MasterKey>, encrypted: bool) -> Result<Arc<Store>, Failure> {
    let access = |master_key| StoreAccess { variables: VARIABLES, master_key };
    let there = match open_to_read_with(url, access(master_key)) {
        Ok(there) => Some(there),
        Err(failure) if failure.code == NO_STORE => None,
        Err(failure) => return Err(failure),
    };
    if encrypted && there.as_ref().is_some_and(|there| !there.is_encrypted_whole()) {
        let text =
            format!("the store is encrypted, and {url} has backups that are not: name a new place for its backups");
        return Err(text.into());
    }
    let master_key = master_key.filter(|_| there.is_none_or(|there| there.is_encrypted()));
    let target = Arc::new(Store::open_with(url, access(master_key)).map_err(|error| match error {
        StoreError::Locked { .. } => {
            format!("{error}: another backup, or a server; backups need a folder of their own")
        }
        error => error.to_string(),
    })?);
    let databases = block_on(manifest::databases(&target)).map_err(|error| error.to_string())?;
    match databases.is_empty() {
        true => Ok(target),
        false => Err(format!("{url} is a store with databases: backups need a bucket or folder of their own").into()),
    }
}

/// Opens the place of backups for reading, and reads the points. Those that are damaged are named on standard error.
pub(super) fn open_backups(
    url: &str,
    master_key: Option<&MasterKey>,
) -> Result<(Arc<Store>, Vec<BackupPoint>), Failure> {
    let none = || Failure { text: format!("no backup here: {url}"), code: NO_STORE };
    let access = StoreAccess { variables: VARIABLES, master_key };
    let target =
        open_to_read_with(url, access).map_err(|failure| if failure.code == NO_STORE { none() } else { failure })?;
    let read = block_on(points(&target)).map_err(|error| error.to_string())?;
    let is_none = read.is_empty();
    let sound: Vec<BackupPoint> = read
        .into_iter()
        .filter_map(|(_, point)| {
            point.inspect_err(|error| print_error(&format!("dormouse: a backup is damaged: {error}"))).ok()
        })
        .collect();
    match is_none {
        true => Err(none()),
        false => Ok((target, sound)),
    }
}

fn delete_old(target: &Arc<Store>, keep: Interval) -> Result<Pruned, String> {
    let Some(keep) = keep.duration() else { return Ok(Pruned::default()) };
    let before_ms = now_ms().saturating_sub(u64::try_from(keep.as_millis()).unwrap_or(u64::MAX));
    let done = block_on(async { prune(&BackupRun::begin(target).await?, before_ms).await });
    done.map_err(|error| match error {
        StoreError::Exists { .. } => "old backups were not all deleted: another backup has begun meanwhile".to_owned(),
        error => format!("old backups were not all deleted: {error}"),
    })
}

/// The name of a point: its time.
pub(super) fn name_of(point: &BackupPoint) -> String {
    rfc3339(point.time_ms).unwrap_or_default()
}

/// The point that `text` names: the newest one whose name begins with it. `None`: the newest one.
pub(super) fn find_point<'a>(points: &'a [BackupPoint], text: Option<&str>) -> Result<&'a BackupPoint, String> {
    let wanted = text.unwrap_or_default();
    let found = points.iter().rev().find(|point| name_of(point).starts_with(wanted));
    found.ok_or_else(|| match text {
        Some(text) => format!("no backup `{text}`: `dormouse backup list` shows those that there are"),
        None => "no backup can be read".to_owned(),
    })
}

fn left_out(point: &BackupPoint) -> usize {
    point.databases.iter().filter(|database| matches!(database.contents, Saved::LeftOut(_))).count()
}

/// The size of a point. What databases share counts once.
fn bytes_of(point: &BackupPoint) -> u64 {
    let objects = point.data().flat_map(|(_, data)| data.objects.iter().chain([&data.image]));
    let unique: HashMap<&str, u64> = objects.map(|object| (object.name.as_str(), object.bytes)).collect();
    unique.values().sum()
}

fn summary(report: &BackupReport) -> String {
    let BackupReport { point, copied, copied_bytes } = report;
    let databases = counted((point.databases.len() - left_out(point)) as u64, "database");
    let mut text = format!(
        "backup {}: {databases}, {}; copied {}, {}",
        name_of(point),
        size(bytes_of(point)),
        counted(*copied, "object"),
        size(*copied_bytes)
    );
    if left_out(point) > 0 {
        text += &format!("; left out {}", counted(left_out(point) as u64, "database"));
    }
    text
}

fn pruned(Pruned { points, objects, bytes }: &Pruned) -> String {
    format!(
        "deleted {}, {}, {}",
        counted(*points as u64, "old backup"),
        counted(*objects as u64, "object"),
        size(*bytes)
    )
}

fn list(from: &str, master_key: &MasterKeyArgument, is_json: bool) -> Result<ExitCode, Failure> {
    let (_, points) = open_backups(from, master_key.read()?.as_ref())?;
    if is_json {
        print_line(&points.iter().map(described).collect::<Value>().to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = format!("{:24}  {:>9}  {:>10}  LEFT OUT\n", "BACKUP", "DATABASES", "SIZE");
    for point in &points {
        let databases = point.databases.len() - left_out(point);
        // Writing to a string cannot fail.
        let _ =
            writeln!(out, "{:24}  {databases:>9}  {:>10}  {}", name_of(point), size(bytes_of(point)), left_out(point));
    }
    Ok(print(&out).map(|()| ExitCode::SUCCESS)?)
}

/// A point as JSON. Field names do not change; new fields may be added.
fn described(point: &BackupPoint) -> Value {
    let databases = point.databases.iter().map(|database| match &database.contents {
        Saved::Nothing => json!({ "name": database.name, "bytes": 0 }),
        Saved::Data(data) => json!({ "name": database.name, "bytes": data.bytes() }),
        Saved::LeftOut(reason) => json!({ "name": database.name, "left_out": reason }),
    });
    json!({
        "backup": name_of(point),
        "store": point.source,
        "bytes": bytes_of(point),
        "databases": databases.collect::<Value>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_named_by_its_time_or_the_beginning_of_it() {
        let point = |number, time_ms| BackupPoint { number, time_ms, source: String::new(), databases: Vec::new() };
        let day = 86_400_000;
        let points = [point(1, 20_000 * day), point(2, 20_000 * day + 5), point(4, 20_001 * day)];
        assert_eq!(name_of(&points[1]), "2024-10-04T00:00:00.005Z");
        let found = |text| find_point(&points, text).map(|point| point.number);
        assert_eq!(found(None), Ok(4));
        assert_eq!(found(Some("2024-10-04")), Ok(2));
        assert_eq!(found(Some("2024-10-04T00:00:00.000Z")), Ok(1));
        assert!(found(Some("2023")).unwrap_err().contains("no backup `2023`"));
    }
}
