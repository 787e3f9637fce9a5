//! `dormouse export`: a database as an RDB file.
//!
//! It reads the store and the log and locks nothing, so it may run beside a server. The file holds the database as of
//! the last flush of the log. It appears under its name once it is complete and on disk.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dormouse_importer::output::print_error;
use dormouse_importer::progress::Progress;
use dormouse_shard::export::{About, ExportError, Exported, export};
use dormouse_shard::snapshot::Snapshot;
use dormouse_storage::log::Log;
use dormouse_storage::manifest;
use dormouse_storage::rdb::writer::{VERSION_MAX, VERSION_MIN};
use dormouse_storage::store::Store;
use futures::executor::block_on;

use super::{Failure, Place, open_to_read};
use crate::clock::now_ms;
use crate::metrics::REDIS_VERSION;

/// A server that runs beside us may delete objects that we are about to read. Then the export starts over.
const ATTEMPTS: usize = 3;

#[derive(clap::Args, Debug)]
pub struct Export {
    /// The file to write, or `-` for standard output. It holds what is durable: the last checkpoint, and what the log has since
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// The version of the file: 11 for Redis 7.2 and later, 10 for Redis 7.0, 9 for Redis 5 and 6
    #[arg(long, value_name = "VERSION", default_value_t = VERSION_MAX,
          value_parser = clap::value_parser!(u16).range(i64::from(VERSION_MIN)..=i64::from(VERSION_MAX)))]
    rdb_version: u16,

    #[command(flatten)]
    place: Place,
}

impl Export {
    pub(super) fn run(self) -> Result<(), Failure> {
        let store = open_to_read(&self.place.store_url(), self.place.master_key.read()?.as_ref())?;
        let progress = Progress::new("exporting", None);
        let exported = if self.file == Path::new("-") {
            let out = BufWriter::new(io::stdout());
            self.attempt(&store, out, &progress).map(|(_, exported)| exported)
        } else {
            self.to_file(&store, &progress)
        }?;
        print_error(&format!("exported {}", progress.summary(exported.keys, exported.bytes)));
        if exported.left_out > 0 {
            let (count, version) = (exported.left_out, self.rdb_version);
            print_error(&format!("left out {count} keys of types that version {version} of RDB does not have"));
        }
        Ok(())
    }

    fn to_file(&self, store: &Arc<Store>, progress: &Progress) -> Result<Exported, String> {
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
    ) -> Result<(W, Exported), String> {
        // `Log::look` blocks by itself, so it cannot run inside `block_on`.
        let recovered = Log::look(store).map_err(|error| error.to_string())?;
        block_on(async {
            let database = &self.place.database;
            let snapshot = Snapshot::open(store, database, recovered).await.map_err(|error| error.to_string())?;
            let snapshot = snapshot.ok_or_else(|| self.unknown(store))?;
            let watch = &mut |exported: Exported| progress.at(exported.bytes, exported.keys);
            let about =
                About { version: self.rdb_version, server: REDIS_VERSION, now_ms: now_ms(), keeps_expired: false };
            let done = export(&snapshot, out, about, watch).await;
            done.map_err(|error| match error {
                ExportError::Output(error) => format!("cannot write {}: {error}", self.file.display()),
                ExportError::Database(_) => error.to_string(),
            })
        })
    }

    fn unknown(&self, store: &Arc<Store>) -> String {
        format!("database `{}` does not exist in {}", self.place.database, store.url())
    }
}
