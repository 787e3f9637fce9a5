//! `dormouse export`: a database as an RDB file.
//!
//! It reads the store and the log and locks nothing, so it may run beside a server. The file holds the database as of
//! the last flush of the log. It appears under its name once it is complete and on disk.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dormouse_importer::output::{counted, print_error};
use dormouse_importer::progress::Progress;
use dormouse_shard::export::{About, ExportError, ExportStep, Exported, export};
use dormouse_shard::snapshot::Snapshot;
use dormouse_storage::codec::value::{RdbReaders, kind, type_name};
use dormouse_storage::log::Log;
use dormouse_storage::manifest;
use dormouse_storage::store::Store;
use futures::executor::block_on;

use super::{Failure, ServedAt, open_to_read};
use crate::clock::now_ms;
use crate::metrics::REDIS_VERSION;

/// A server that runs beside us may delete objects that we are about to read. Then the export starts over.
const ATTEMPTS: usize = 3;

#[derive(clap::Args, Debug)]
pub struct Export {
    /// The file to write, or `-` for standard output. It holds what is durable: the last checkpoint, and what the log has since
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// The version of the file: 11 for Redis 7.2 and all later servers, 80 for Valkey 9, 15 for Redis 8.10, 10 for
    /// Redis 7.0, 9 for Redis 5 and 6. Keys of types that the version does not have are left out and named
    #[arg(long, value_name = "VERSION", default_value = "11", value_parser = parse_target)]
    rdb_version: RdbReaders,

    /// Write documents of JSON as strings: their text. Without this option they are left out and named
    #[arg(long)]
    json_as_string: bool,

    #[command(flatten)]
    place: ServedAt,
}

impl Export {
    pub(super) fn run(self) -> Result<(), Failure> {
        let store = open_to_read(&self.place.store_url(), self.place.master_key.read()?.as_ref())?;
        let progress = Progress::new("exporting", None);
        let exported = if self.file == Path::new("-") {
            let out = BufWriter::new(io::stdout());
            self.attempt(&store, out, &progress).map(|(_, written)| written)
        } else {
            self.to_file(&store, &progress)
        }?;
        let (exported, left_out) = exported;
        left_out.lines(self.target()).iter().for_each(|line| print_error(line));
        print_error(&format!("exported {}", progress.summary(exported.keys, exported.bytes)));
        Ok(())
    }

    fn to_file(&self, store: &Arc<Store>, progress: &Progress) -> Result<(Exported, LeftOutKeys), String> {
        let mut name = self.file.clone().into_os_string();
        name.push(".tmp");
        let unfinished = PathBuf::from(name);
        let failed = |error: io::Error| format!("cannot write {}: {error}", self.file.display());
        let mut attempts = 0;
        let written = loop {
            attempts += 1;
            let before = self.newest(store)?;
            let out = File::create(&unfinished).map_err(failed)?;
            match self.attempt(store, out, progress) {
                Ok(written) => break Ok(written),
                Err(_) if attempts < ATTEMPTS && self.newest(store)? != before => {}
                Err(error) => break Err(error),
            }
        };
        let placed = written.and_then(|(file, exported)| {
            file.sync_all().and_then(|()| fs::rename(&unfinished, &self.file)).map_err(failed)?;
            let folder = self.file.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all()).map_err(failed)?;
            Ok(exported)
        });
        if placed.is_err() {
            // The first error has been reported already.
            let _ = fs::remove_file(&unfinished);
        }
        placed
    }

    /// Returns the newest manifest, or `None` if only the log has the database.
    fn newest(&self, store: &Arc<Store>) -> Result<Option<u64>, String> {
        let newest = block_on(manifest::latest(store, &self.place.database)).map_err(|error| error.to_string())?;
        Ok(newest.map(|manifest| manifest.number))
    }

    fn attempt<W: Write + Send>(
        &self,
        store: &Arc<Store>,
        out: W,
        progress: &Progress,
    ) -> Result<(W, (Exported, LeftOutKeys)), String> {
        // `Log::look` blocks by itself, so it cannot run inside `block_on`.
        let recovered = Log::look(store).map_err(|error| error.to_string())?;
        block_on(async {
            let database = &self.place.database;
            let snapshot = Snapshot::open(store, database, recovered).await.map_err(|error| error.to_string())?;
            let snapshot = snapshot.ok_or_else(|| self.unknown(store))?;
            let mut left_out = LeftOutKeys::default();
            let watch = &mut |step: ExportStep<'_>| left_out.watch(step, progress);
            let done = export(&snapshot, out, about(self.target()), watch).await;
            done.map(|(out, exported)| (out, (exported, left_out))).map_err(|error| match error {
                ExportError::Output(error) => format!("cannot write {}: {error}", self.file.display()),
                ExportError::Database(_) => error.to_string(),
            })
        })
    }

    fn target(&self) -> RdbReaders {
        RdbReaders { json_as_string: self.json_as_string, ..self.rdb_version }
    }

    fn unknown(&self, store: &Arc<Store>) -> String {
        format!("database `{}` does not exist in {}", self.place.database, store.url())
    }
}

/// Reads a version of RDB.
pub(super) fn parse_target(text: &str) -> Result<RdbReaders, String> {
    let target = text.parse().ok().and_then(RdbReaders::of_version);
    target.ok_or_else(|| {
        let known: Vec<String> = RdbReaders::ALL.iter().map(|target| target.version.to_string()).collect();
        format!("expected one of {}", known.join(", "))
    })
}

/// The fields in which an export for `target` describes itself.
pub(super) fn about(target: RdbReaders) -> About<'static> {
    let server = target.server_version().unwrap_or(REDIS_VERSION);
    About { target, server, now_ms: now_ms(), keeps_expired: false }
}

/// How many keys of a type are named.
const NAMED: usize = 3;

/// The keys that an export leaves out, by the name of their type: how many, and the first of them.
#[derive(Debug, Default)]
pub(super) struct LeftOutKeys(BTreeMap<&'static str, (u64, Vec<String>)>);

impl LeftOutKeys {
    pub(super) fn watch(&mut self, step: ExportStep<'_>, progress: &Progress) {
        match step {
            ExportStep::Written(exported) => progress.at(exported.bytes, exported.keys),
            ExportStep::LeftOut { index, key, what } => {
                let (count, named) = self.0.entry(what).or_default();
                *count += 1;
                if named.len() < NAMED {
                    let of = if index == 0 { String::new() } else { format!(" of index {index}") };
                    named.push(format!("`{}`{of}", key.escape_ascii()));
                }
            }
        }
    }

    /// A line for each type.
    pub(super) fn lines(&self, target: RdbReaders) -> Vec<String> {
        let line = |(what, (count, named)): (&&str, &(u64, Vec<String>))| {
            let more = count - named.len() as u64;
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            let remedy = match *what == type_name(kind::JSON) {
                true => " (--json-as-string writes them as strings)",
                false => "",
            };
            format!(
                "left out: {} of type {what}, which RDB version {} does not have: {}{more}{remedy}",
                counted(*count, "key"),
                target.version,
                named.join(", "),
            )
        };
        self.0.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn left_out_keys_are_counted_and_the_first_are_named() {
        let (mut left_out, progress) = (LeftOutKeys::default(), Progress::new("exporting", None));
        for at in 0..5 {
            let key = format!("key {at}");
            left_out.watch(ExportStep::LeftOut { index: at, key: key.as_bytes(), what: "array" }, &progress);
        }
        left_out.watch(ExportStep::LeftOut { index: 0, key: b"one\n", what: "vectorset" }, &progress);
        left_out.watch(ExportStep::LeftOut { index: 0, key: b"doc", what: "ReJSON-RL" }, &progress);
        assert_eq!(
            left_out.lines(RdbReaders::REDIS_7_2),
            [
                "left out: 1 key of type ReJSON-RL, which RDB version 11 does not have: `doc` (--json-as-string writes \
                 them as strings)",
                "left out: 5 keys of type array, which RDB version 11 does not have: `key 0`, `key 1` of index 1, \
                 `key 2` of index 2 and 2 more",
                "left out: 1 key of type vectorset, which RDB version 11 does not have: `one\\n`",
            ]
        );
    }

    #[test]
    fn versions_are_those_of_servers() {
        assert_eq!(parse_target("80").map(|target| target.version), Ok(80));
        for wrong in ["", "8", "12", "x", "-1", "70000"] {
            assert_eq!(parse_target(wrong), Err("expected one of 9, 10, 11, 15, 80".to_owned()), "{wrong}");
        }
    }
}
