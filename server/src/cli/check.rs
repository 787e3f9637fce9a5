//! `dormouse check`: checks that all data of a store can be read, and salvages the readable part.
//!
//! It reads and changes nothing, so it may run beside a server.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use dormouse_importer::output::{counted, print_line};
use dormouse_importer::progress::Progress;
use dormouse_shard::check::salvage::salvage;
use dormouse_shard::check::{CheckReport, Checked, CheckedLog, Problem, Spare, check};
use dormouse_shard::export::ExportStep;
use dormouse_storage::codec::value::RdbReaders;
use dormouse_storage::store::Store;
use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::export::{LeftOutKeys, about, parse_target};
use super::master_key::MasterKeyArgument;
use super::{Failure, open_to_read, parse_database, store_url};

/// The exit codes, for `--help`.
const CODES: &str = "Exit codes:
  0  no problem was found; with --salvage: everything was written
  1  a problem was found, or writes may be missing; with --salvage: something was left out, or nothing could be written
  2  the URL holds no store";

#[derive(clap::Args, Debug)]
#[command(after_help = CODES)]
pub struct Check {
    /// Where the data is stored, as for `serve` [default: DORMOUSE_STORE, or file://./dormouse-data]
    #[arg(long, value_name = "URL")]
    store: Option<String>,

    #[command(flatten)]
    master_key: MasterKeyArgument,

    /// Only this database, and the log
    #[arg(long, value_name = "NAME", value_parser = parse_database)]
    database: Option<String>,

    /// Write everything that can be read of the database into an RDB file, which `dormouse import` and Redis load
    #[arg(long, value_name = "FILE", requires = "database")]
    salvage: Option<PathBuf>,

    /// The version of that file, as for `dormouse export`
    #[arg(long, value_name = "VERSION", requires = "salvage", default_value = "11", value_parser = parse_target)]
    rdb_version: RdbReaders,

    /// Write documents of JSON into that file as strings, as for `dormouse export`
    #[arg(long, requires = "salvage")]
    json_as_string: bool,

    /// Print JSON
    #[arg(long, conflicts_with = "salvage")]
    json: bool,
}

impl Check {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let store = open_to_read(&store_url(self.store.as_deref()), self.master_key.read()?.as_ref())?;
        Ok(match (&self.salvage, &self.database) {
            (Some(file), Some(database)) => {
                save(&store, database, file, RdbReaders { json_as_string: self.json_as_string, ..self.rdb_version })
            }
            _ => self.look(&store),
        }?)
    }

    fn look(&self, store: &Arc<Store>) -> Result<ExitCode, String> {
        let mut printed = Ok(());
        let mut told = |checked: &Checked| {
            if !self.json && printed.is_ok() {
                printed = print_line(&lines_of(checked));
            }
        };
        let report = check(store, self.database.as_deref(), &mut told).map_err(|error| error.to_string())?;
        printed?;
        if report.databases.is_empty() && self.database.is_some() {
            let name = self.database.as_deref().unwrap_or_default();
            return Err(format!("database `{name}` does not exist in {}", store.url()));
        }
        print_line(&if self.json { json_of(&report).to_string() } else { summary(&report) })?;
        Ok(if report.problems() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Returns one line if all is well, and one more for each problem.
fn lines_of(checked: &Checked) -> String {
    let Checked { name, manifest, keys, bytes, chunks, tails, logged, garbage, unknown, markers, problems, .. } =
        checked;
    let state = if problems.is_empty() { "fine" } else { "DAMAGED" };
    let manifest = manifest.map_or_else(|| "no manifest yet".to_owned(), |number| format!("manifest {number}"));
    let mut line = format!(
        "{name}: {state}: {}, {}, {}, {}, {} in the log, {manifest}",
        counted(*keys, "key"),
        HumanBytes(*bytes),
        counted(*chunks as u64, "chunk"),
        counted(*tails as u64, "tail"),
        counted(*logged as u64, "write"),
    );
    if garbage.objects > 0 {
        line += &format!(", {} of garbage in {}", HumanBytes(garbage.bytes), counted(garbage.objects, "object"));
    }
    if unknown.objects > 0 {
        let objects = counted(unknown.objects, "object");
        line += &format!(", {} in {objects} that an unreadable manifest may name", HumanBytes(unknown.bytes));
    }
    if *markers > 0 {
        line += &format!(", {}", counted(*markers, "branch marker"));
    }
    problems.iter().for_each(|problem| line += &format!("\n  {problem}"));
    line
}

fn summary(report: &CheckReport) -> String {
    let CheckedLog { logs, files, frames, bytes, torn, problems, .. } = &report.log;
    let state = if problems.is_empty() { "fine" } else { "DAMAGED" };
    let mut lines = vec![format!(
        "log: {state}: {} of {}, {}, {}",
        counted(*files as u64, "file"),
        counted(*logs as u64, "process"),
        counted(*frames as u64, "frame"),
        HumanBytes(*bytes)
    )];
    lines.extend(
        torn.iter().map(|torn| {
            format!("  {torn} (a crash tore it, or it is being written; acknowledged writes come before it)")
        }),
    );
    lines.extend(problems.iter().map(|problem| format!("  {problem}")));
    let directory = &report.directory;
    if directory.steps + directory.snapshots > 0 {
        lines.push(format!(
            "directory: {}: {}, {}, {}, {}",
            if directory.problems.is_empty() { "fine" } else { "DAMAGED" },
            counted(directory.databases as u64, "database"),
            counted(directory.tokens as u64, "token"),
            counted(directory.snapshots as u64, "snapshot"),
            counted(directory.steps as u64, "step"),
        ));
        lines.extend(directory.problems.iter().map(|problem| format!("  {problem}")));
    }
    if report.unfinished.objects > 0 {
        let unfinished = report.unfinished;
        lines.push(format!(
            "unfinished writes: {} in {}, which the next server removes",
            HumanBytes(unfinished.bytes),
            counted(unfinished.objects, "file")
        ));
    }
    let databases = counted(report.databases.len() as u64, "database");
    lines.push(match report.problems() as u64 {
        0 => format!("{databases}: no problem was found"),
        1 => format!("{databases}: 1 problem was found"),
        problems => format!("{databases}: {} were found", counted(problems, "problem")),
    });
    lines.join("\n")
}

/// The report as JSON, for programs. Field names do not change; new fields may be added.
fn json_of(report: &CheckReport) -> Value {
    let problems = |problems: &[Problem]| -> Value {
        let fields = |problem: &Problem| {
            let Problem { object, what, affected, remedy } = problem;
            json!({ "object": object, "what": what, "affected": affected, "remedy": remedy })
        };
        problems.iter().map(fields).collect()
    };
    let spare = |spare: &Spare| json!({ "objects": spare.objects, "bytes": spare.bytes });
    let database = |checked: &Checked| {
        json!({
            "name": checked.name,
            "damaged": !checked.problems.is_empty(),
            "manifest": checked.manifest,
            "keys": checked.keys,
            "bytes": checked.bytes,
            "chunks": checked.chunks,
            "tails": checked.tails,
            "logged_writes": checked.logged,
            "branch_markers": checked.markers,
            "garbage": spare(&checked.garbage),
            "unknown": spare(&checked.unknown),
            "problems": problems(&checked.problems),
        })
    };
    let log = &report.log;
    json!({
        "databases": report.databases.iter().map(database).collect::<Value>(),
        "log": {
            "damaged": !log.problems.is_empty(),
            "processes": log.logs,
            "files": log.files,
            "frames": log.frames,
            "bytes": log.bytes,
            "torn": log.torn,
            "problems": problems(&log.problems),
        },
        "directory": {
            "damaged": !report.directory.problems.is_empty(),
            "databases": report.directory.databases,
            "tokens": report.directory.tokens,
            "snapshots": report.directory.snapshots,
            "steps": report.directory.steps,
            "problems": problems(&report.directory.problems),
        },
        "unfinished": spare(&report.unfinished),
        "problems": report.problems(),
    })
}

/// Saves the database. The file appears under its name once it is complete and on disk.
fn save(store: &Arc<Store>, database: &str, file: &Path, target: RdbReaders) -> Result<ExitCode, String> {
    let failed = |error: io::Error| format!("cannot write {}: {error}", file.display());
    let mut name = file.to_owned().into_os_string();
    name.push(".tmp");
    let unfinished = PathBuf::from(name);
    let progress = Progress::new("salvaging", None);
    let out = BufWriter::new(File::create(&unfinished).map_err(failed)?);
    let mut lacking = LeftOutKeys::default();
    let watch = &mut |step: ExportStep<'_>| lacking.watch(step, &progress);
    let saved =
        salvage(store, database, out, about(target), watch).map_err(|error| error.to_string()).and_then(|saved| {
            let mut out = saved.out;
            let synced = out.flush().and_then(|()| out.get_ref().sync_all());
            synced.and_then(|()| fs::rename(&unfinished, file)).map_err(failed)?;
            let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all()).map_err(failed)?;
            Ok((saved.exported, saved.left_out))
        });
    let (exported, left_out) = saved.inspect_err(|_| {
        // The first error has been reported already.
        let _ = fs::remove_file(&unfinished);
    })?;
    let mut lines = vec![format!("salvaged {}", progress.summary(exported.keys, exported.bytes))];
    lines.extend(left_out.iter().map(|what| format!("left out: {what}")));
    lines.extend(lacking.lines(target));
    let is_whole = lines.len() == 1;
    if is_whole {
        lines.push("nothing was left out".to_owned());
    }
    print_line(&lines.join("\n"))?;
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
