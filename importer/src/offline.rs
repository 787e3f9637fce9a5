//! Import into the store itself.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dormouse_storage::log::Log;
use dormouse_storage::rdb::error::ImportError;
use dormouse_storage::rdb::import::{Import as Order, ImportStep};
use dormouse_storage::store::{MasterKey, Store, StoreAccess, StoreError};
use futures::executor::block_on;

use crate::output::print_error;
use crate::progress::Progress;
use crate::{FileImport, note_unsupported, now_ms};

/// Limit of records held in memory, in bytes. More go to a temporary file.
const MEMORY_BYTES: usize = 512 << 20;

/// The database that receives a file.
#[derive(Debug)]
pub struct Destination<'a> {
    /// The store's URL.
    pub store: &'a str,
    /// Of an encrypted store.
    pub master_key: Option<&'a MasterKey>,
    pub database: &'a str,
    /// The folder for data that exceeds the memory; `None`: beside the store.
    pub temporary: Option<PathBuf>,
    /// Random numbers: the seed of a new database, and the writer's number in the names of objects.
    pub seed: u64,
    pub writer: u64,
}

/// Imports a file into a store that no server has open. A bucket has no lock: the import takes the store over, as a
/// starting server does, and a server that still runs ends.
///
/// # Errors
/// The reason that nothing was imported.
pub fn run(import: &FileImport, destination: Destination<'_>) -> Result<(), String> {
    let (input, bytes) = import.open()?;
    let url = destination.store;
    let made = url.strip_prefix("file://").map(Path::new).filter(|folder| !folder.exists());
    let access = StoreAccess { master_key: destination.master_key, ..StoreAccess::default() };
    let store = Arc::new(Store::open_with(url, access).map_err(|error| match error {
        StoreError::Locked { .. } => {
            format!("{error}. Import through the running server with --to redis://HOST:PORT, or stop the server first")
        }
        _ => error.to_string(),
    })?);
    let outcome = import_into(&store, import, destination, input, bytes);
    if let (Err(_), Some(folder)) = (&outcome, made) {
        // The folder was empty before and the store is still locked, so it holds only what this import began.
        _ = std::fs::remove_dir_all(folder);
    }
    outcome
}

fn import_into(
    store: &Arc<Store>,
    import: &FileImport,
    destination: Destination<'_>,
    input: impl Read,
    bytes: Option<u64>,
) -> Result<(), String> {
    let Destination { store: url, database, temporary, seed, writer, .. } = destination;
    let (owner, recovered) = Log::take(store, writer, now_ms).map_err(|error| error.to_string())?;
    // The disk that is to hold the data has room for the files. The system's temporary folder may be in memory.
    let beside = || url.strip_prefix("file://").map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = temporary.unwrap_or_else(beside);
    let order = Order {
        store,
        recovered: &recovered,
        database,
        owner: owner.as_deref(),
        replace: import.replace,
        skip_unsupported: import.skip_unsupported,
        now_ms: now_ms(),
        seed,
        writer,
        folder: &folder,
        memory_bytes: MEMORY_BYTES,
    };
    let progress = Progress::new("reading", bytes);
    let mut read = 0;
    let done = block_on(order.run(input, &mut |step| match step {
        ImportStep::Read { bytes, keys } => {
            read = bytes;
            progress.at(bytes, keys);
        }
        ImportStep::Unsupported { name, what } => note_unsupported(&progress, name, what),
        ImportStep::Written { keys } => progress.writing(keys),
    }));
    if let Some(owner) = &owner
        && let Err(error) = block_on(owner.release())
    {
        // The next process must take the store over from one that may be alive, which costs a request or two.
        progress.note(&format!("the store could not be released: {error}"));
    }
    let imported = done.map_err(|error| match error {
        ImportError::Unsupported(count) => import.advice(count),
        ImportError::HoldsData(_) => format!("{error}; --replace replaces it"),
        ImportError::Store(StoreError::Corrupt { .. }) if !import.replace => {
            format!("nothing was imported: {error}; --replace replaces the damaged database")
        }
        ImportError::Rdb(_) | ImportError::Trailing => format!("nothing was imported: {}: {error}", import.name()),
        ImportError::Spill(_) => format!("nothing was imported: {error} in {}", folder.display()),
        _ => format!("nothing was imported: {error}"),
    })?;
    let mut line = format!("imported {} into database `{database}`", progress.summary(imported.keys, read));
    if imported.expired > 0 {
        line += &format!("; {} had expired", imported.expired);
    }
    if imported.unsupported > 0 {
        line += &format!("; {} left out", imported.unsupported);
    }
    print_error(&line);
    Ok(())
}
