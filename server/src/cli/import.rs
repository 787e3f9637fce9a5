//! `dormouse import`: an RDB file into a database, or the data of a running server ([`follow`]).
//!
//! Without `--to` it works on the store itself, which no server may have open: [`offline`]. With `--to` it is a client of a
//! running server: [`online`].

mod offline;
mod online;
pub(super) mod target;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use self::target::Target;
use super::progress::Progress;
use super::{Failure, Place, check_is_store_or_empty, follow};

#[derive(clap::Args, Debug)]
pub struct Import {
    /// The RDB file, `-` for standard input, or a running Redis or Valkey, redis://[user:password@]host[:port], whose
    /// password can stand in DORMOUSE_SOURCE_PASSWORD instead
    #[arg(value_name = "SOURCE")]
    file: PathBuf,

    /// Send the keys to a running server, redis://[:TOKEN@]host:port[/index], rather than writing the store. The password
    /// can stand in DORMOUSE_TARGET_PASSWORD instead
    #[arg(long, value_name = "URL", conflicts_with_all = ["database", "store"],
          value_parser = super::unrepeated::Unrepeated::<Target>::new())]
    to: Option<Target>,

    /// Replace what is there: all data of the database, or with --to the keys that the file has too; when moving in from
    /// a running server all data of the target
    #[arg(long)]
    replace: bool,

    /// Leave out what cannot be taken, such as streams and values of modules, rather than giving up
    #[arg(long)]
    skip_unsupported: bool,

    /// Where to keep what does not fit into the memory [default: the store's folder]
    #[arg(long, value_name = "FOLDER")]
    temporary: Option<PathBuf>,

    #[command(flatten)]
    live: follow::Options,

    #[command(flatten)]
    place: Place,
}

impl Import {
    pub(super) fn run(self) -> Result<(), Failure> {
        if let Some(source) = self.file.to_str().filter(|text| text.contains("://")) {
            return Ok(follow::run(source, self.to.as_ref(), self.replace, self.skip_unsupported, &self.live)?);
        }
        self.live.check_file()?;
        match &self.to {
            Some(target) => Ok(online::run(&self, target)?),
            None => {
                check_is_store_or_empty(&self.place.store_url())?;
                Ok(offline::run(&self)?)
            }
        }
    }

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
