//! Imports: an RDB file into a database, or the data of a running Redis or Valkey into a running Dormouse.
//!
//! | module | holds |
//! | --- | --- |
//! | [`offline`] | a file into the store itself, which no server may have open |
//! | [`online`] | a file through a running server, as its client |
//! | [`follow`] | a running source into a running target, until clients are cut over |
//!
//! The crate knows no options and no server: its caller reads the command line. Messages go to standard error.
#![forbid(unsafe_code)]

pub mod follow;
pub mod link;
pub mod offline;
pub mod online;
pub mod output;
pub mod progress;
pub mod target;
pub mod tls;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use self::progress::Progress;

/// An RDB file, and how to import it.
#[derive(Debug)]
pub struct FileImport {
    /// The path; `-` is standard input.
    pub file: PathBuf,
    /// Replaces existing data, rather than refusing.
    pub replace: bool,
    /// Leaves out what the target cannot take, rather than giving up.
    pub skip_unsupported: bool,
}

impl FileImport {
    fn is_stream(&self) -> bool {
        self.file == Path::new("-")
    }

    /// Opens the file. Returns its length too, if known.
    fn open(&self) -> Result<(Box<dyn Read>, Option<u64>), String> {
        if self.is_stream() {
            return Ok((Box::new(io::stdin()), None));
        }
        let failed = |error: io::Error| format!("cannot read {}: {error}", self.file.display());
        let file = File::open(&self.file).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(format!("{} is a folder", self.file.display()));
        }
        Ok((Box::new(file), metadata.is_file().then_some(metadata.len())))
    }

    fn name(&self) -> String {
        if self.is_stream() { "standard input".to_owned() } else { self.file.display().to_string() }
    }

    /// Returns advice about data that the target cannot take.
    fn advice(&self, unsupported: u64) -> String {
        format!(
            "nothing was imported: {unsupported} of what {} holds cannot be taken (see above). --skip-unsupported leaves \
             it out",
            self.name()
        )
    }
}

/// Notes a value that is left out.
fn note_unsupported(progress: &Progress, name: &[u8], what: &str) {
    progress.note(&format!("cannot take `{}`: {what}", dormouse_storage::rdb::error::shown(name)));
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
