//! Moving in: an RDB file into a database, or the data of a running Redis or Valkey into a running Dormouse.
//!
//! | module | holds |
//! | --- | --- |
//! | [`offline`] | a file into the store itself, which no server may have open |
//! | [`online`] | a file through a running server, as its client |
//! | [`follow`] | a running source into a running target, until clients are cut over |
//!
//! It knows no options and no server: its caller reads the command line. What it has to say goes to standard error.
#![forbid(unsafe_code)]

pub mod follow;
pub mod offline;
pub mod online;
pub mod output;
pub mod progress;
pub mod target;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use self::progress::Progress;

/// An RDB file, and what to do with what it holds.
#[derive(Debug)]
pub struct FileImport {
    /// `-` is standard input.
    pub file: PathBuf,
    /// Replaces existing data, rather than refusing.
    pub replace: bool,
    /// Leave out what cannot be taken, rather than giving up.
    pub skip_unsupported: bool,
}

impl FileImport {
    fn is_stream(&self) -> bool {
        self.file == Path::new("-")
    }

    /// The file, and how long it is where that is known.
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

    /// What to do about what cannot be taken.
    fn advice(&self, unsupported: u64) -> String {
        format!(
            "nothing was imported: {unsupported} of what {} holds cannot be taken (see above). --skip-unsupported leaves \
             it out",
            self.name()
        )
    }
}

/// Says what is left out.
fn note_unsupported(progress: &Progress, name: &[u8], what: &str) {
    progress.note(&format!("cannot take `{}`: {what}", dormouse_storage::rdb::import::shown(name)));
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
