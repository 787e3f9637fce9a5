//! `dormouse import`: reads an RDB file, or the data of a running server, into a database. [`dormouse_importer`] does
//! it.

use std::path::PathBuf;

use dormouse_importer::offline::Destination;
use dormouse_importer::target::ServerUrl;
use dormouse_importer::{FileImport, follow, offline, online};

use super::tls::TlsArguments;
use super::{Failure, ServedAt, check_is_store_or_empty};
use crate::options::Interval;
use crate::process::random_seed;

#[derive(clap::Args, Debug)]
pub struct ImportArguments {
    /// The RDB file, `-` for standard input, or a running Redis or Valkey, redis://[user:password@]host[:port], or
    /// rediss:// with TLS, whose password can stand in DORMOUSE_SOURCE_PASSWORD instead
    #[arg(value_name = "SOURCE")]
    file: PathBuf,

    /// Send the keys to a running server, redis://[:TOKEN@]host:port[/index] or rediss://, rather than writing the store. The password
    /// can stand in DORMOUSE_TARGET_PASSWORD instead
    #[arg(long, value_name = "URL", conflicts_with_all = ["database", "store"],
          value_parser = super::unrepeated::Unrepeated::<ServerUrl>::new())]
    to: Option<ServerUrl>,

    /// Replace existing data: all of the database; with --to, the keys that the file holds too; from a running server,
    /// all data of the target when the copy is complete
    #[arg(long)]
    replace: bool,

    /// Leave out what cannot be taken, such as values of modules, rather than giving up
    #[arg(long)]
    skip_unsupported: bool,

    /// Where to keep what does not fit into the memory [default: the store's folder]
    #[arg(long, value_name = "FOLDER")]
    temporary: Option<PathBuf>,

    #[command(flatten)]
    live: Live,

    #[command(flatten)]
    tls: TlsArguments,

    #[command(flatten)]
    place: ServedAt,
}

/// The options that only an import from a running server has.
#[derive(clap::Args, Clone, Debug)]
struct Live {
    /// After the copy, follow the writes of the source until Ctrl-C cuts over
    #[arg(long, help_heading = "From a running server")]
    follow: bool,

    /// Cut over by itself as soon as the target has everything
    #[arg(long, requires = "follow", help_heading = "From a running server")]
    stop_when_caught_up: bool,

    /// When cutting over, make the source hold back writes for this time (CLIENT PAUSE), so that none is lost between
    /// the last one that is copied and the moment when clients go to the target
    #[arg(long, value_name = "DURATION", requires = "follow", help_heading = "From a running server")]
    pause_source: Option<Interval>,
}

impl ImportArguments {
    pub(super) fn run(self) -> Result<(), Failure> {
        let is_target_tls = self.to.as_ref().is_some_and(|url| url.is_tls);
        if let Some(source) = self.file.to_str().filter(|text| text.contains("://")) {
            let tls = self.tls.choices(is_target_tls || source.starts_with("rediss://"))?;
            let options = follow::LiveOptions {
                replaces: self.replace,
                skips: self.skip_unsupported,
                follows: self.live.follow,
                stops_when_caught_up: self.live.stop_when_caught_up,
                pause: self.live.pause_source.and_then(Interval::duration),
            };
            return Ok(follow::run(source, self.to.as_ref(), &tls, options)?);
        }
        if self.live.follow {
            return Err("--follow needs a running server to import from: redis://host:port".to_owned().into());
        }
        let tls = self.tls.choices(is_target_tls)?;
        let import = FileImport { file: self.file, replace: self.replace, skip_unsupported: self.skip_unsupported };
        match &self.to {
            Some(target) => Ok(online::run(&import, target, &tls)?),
            None => {
                let url = self.place.store_url();
                let master_key = self.place.master_key.read()?;
                check_is_store_or_empty(&url, master_key.as_ref())?;
                let destination = Destination {
                    store: &url,
                    master_key: master_key.as_ref(),
                    database: &self.place.database,
                    temporary: self.temporary,
                    seed: random_seed(),
                    writer: random_seed(),
                };
                Ok(offline::run(&import, destination)?)
            }
        }
    }
}
