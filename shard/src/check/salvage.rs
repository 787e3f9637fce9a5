//! Recovery of the readable part of a damaged database.
//!
//! 1. The newest readable manifest lists the data.
//! 2. Its tails are taken up to the first that cannot be read. Everything after that, the log included, is left out: it
//!    says how unknown values changed.
//! 3. The log is taken as far as it follows without a gap.
//! 4. Each place whose body cannot be read is left out. The places of a page of the manifest that cannot be read are
//!    taken from chunks, tails and log, as in 5.
//! 5. Where no manifest can be read, chunks, tails and log are taken for what they say themselves:
//!    [`super::fragments`].
//!
//! Everything that is left out is reported.

use std::io::Write;
use std::sync::Arc;

use dormouse_storage::log::Log;
use dormouse_storage::log::format::Identity;
use dormouse_storage::log::recovery::{Recovered, collect};
use dormouse_storage::log::tail::LogTail;
use dormouse_storage::manifest::{self, History, Manifest, PagedManifest};
use dormouse_storage::replay::Replay;
use dormouse_storage::store::Store;
use dormouse_storage::tail::Tail;
use futures::executor::block_on;

use super::SalvageError;
use super::fragments::Fragments;
use crate::export::{About, Export, ExportError, ExportStep, Exported, export_readable};
use crate::snapshot::{Snapshot, Unreadable};

/// The outcome of a salvage.
#[derive(Debug)]
pub struct Salvaged<W> {
    pub out: W,
    pub exported: Exported,
    /// The parts that were left out, in plain words.
    pub left_out: Vec<String>,
}

/// Writes everything readable of a database. It blocks, so it must not be called from async code.
///
/// # Errors
/// When there is nothing, the store cannot be asked, or `out` refuses to take more.
pub fn salvage<W: Write + Send>(
    store: &Arc<Store>,
    database: &str,
    out: W,
    about: About<'_>,
    watch: &mut (dyn FnMut(ExportStep<'_>) + Send),
) -> Result<Salvaged<W>, SalvageError> {
    let mut left_out = Vec::new();
    let history = block_on(manifest::history(store, database))?;
    let recovered = Log::read(store).map(collect).unwrap_or_else(|error| {
        left_out.push(format!("the log: {error}"));
        Recovered::default()
    });
    let Some(manifest) = choose(database, history, &recovered, &mut left_out) else {
        let found = block_on(Fragments::find(store, database, &recovered, &mut left_out))?;
        let fragments = found.ok_or_else(|| SalvageError::Nothing(database.to_owned()))?;
        left_out.push(
            "what only a manifest knows: keys that were deleted shortly before may be back, and a branch lacks what it \
             shares with its source"
                .to_owned(),
        );
        let (out, exported) = block_on(fragments.export(store, out, about, watch, &mut left_out))?;
        return Ok(Salvaged { out, exported, left_out });
    };
    let (tails, is_whole) = block_on(readable_tails(store, &manifest.known, &mut left_out));
    let log = match is_whole {
        true => readable_log(&manifest.known, &recovered, &mut left_out),
        false => LogTail::default(),
    };
    let log = Some(Arc::new(log)).filter(|log| !log.is_empty());
    let snapshot = Snapshot::of(store, manifest, Replay { tails, log });
    let mut pages = Vec::new();
    let mut damaged = |unreadable: Unreadable| {
        left_out.push(unreadable.error.to_string());
        pages.extend(unreadable.page);
        Ok(())
    };
    let mut export = Export::begin(out, about).map_err(ExportError::from)?;
    block_on(export_readable(&snapshot, &mut export, watch, &mut damaged))?;
    if !pages.is_empty() {
        left_out.push(
            "what only a page of the manifest knows: of its keys, those that were deleted shortly before may be back, and a \
             branch lacks what it shares with its source"
                .to_owned(),
        );
        let found = block_on(Fragments::find(store, database, &recovered, &mut left_out))?;
        match found.filter(|found| found.is_of(snapshot.manifest())) {
            Some(fragments) => {
                for page in &pages {
                    block_on(fragments.export_page(store, page, &mut export, watch, &mut left_out))?;
                }
            }
            None => {
                left_out.push("the keys of unreadable pages of the manifest: no chunk says whose they are".to_owned())
            }
        }
    }
    let (out, exported) = export.finish(watch).map_err(ExportError::from)?;
    Ok(Salvaged { out, exported, left_out })
}

/// The newest readable manifest, or an empty one if the store has none and the log knows the database; else `None`.
fn choose(
    database: &str,
    history: History,
    recovered: &Recovered,
    left_out: &mut Vec<String>,
) -> Option<PagedManifest> {
    let has_manifests = !history.is_empty();
    for (number, read) in history {
        match read {
            Ok(manifest) => return Some(manifest),
            Err(error) => left_out.push(format!("data that only manifest {number} described: {error}")),
        }
    }
    let identity = recovered.identity_of(database).filter(|_| !has_manifests)?;
    Some(Arc::new(Manifest::new(database, identity.seed, 0, identity.created_ms)).into())
}

/// The tails before the first unreadable one, and whether that is all of them.
async fn readable_tails(store: &Store, manifest: &Manifest, left_out: &mut Vec<String>) -> (Vec<Arc<Tail>>, bool) {
    let mut tails = Vec::with_capacity(manifest.tails.len());
    for info in &manifest.tails {
        let read = Tail::read(store, &info.name).await;
        match read.and_then(|tail| tail.verify().and_then(|()| tail.all()).map(|_| tail)) {
            Ok(tail) => tails.push(Arc::new(tail)),
            Err(error) => {
                left_out.push(format!("the writes after {}, and the log: {error}", info.from_sequence));
                return (tails, false);
            }
        }
    }
    (tails, true)
}

fn readable_log(manifest: &Manifest, recovered: &Recovered, left_out: &mut Vec<String>) -> LogTail {
    let Manifest { seed, created_ms, sequence, cut, .. } = *manifest;
    let identity = Identity { name: manifest.database.as_str().into(), seed, created_ms };
    let entries = recovered.entries_of(&identity);
    let damage = entries.damage;
    let (log, problem) = LogTail::prefix(entries.entries, sequence);
    let short = (log.sequence < cut).then(|| format!("it ends before write {cut}, so keys are not all of one moment"));
    if let Some(problem) = problem.or(damage).or(short) {
        left_out.push(format!("the writes after {} in the log: {problem}", log.sequence));
    }
    log
}
