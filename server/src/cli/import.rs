//! `dormouse import`: data from elsewhere.

use std::process::ExitCode;

use super::follow;

#[derive(clap::Args, Debug)]
pub struct Import {
    /// A running server: redis://[user:password@]host:port
    #[arg(value_name = "SOURCE")]
    source: follow::Link,

    #[command(flatten)]
    live: follow::Options,
}

impl Import {
    pub fn run(self) -> ExitCode {
        if !follow::Address::is_one(self.source.as_str()) {
            eprintln!("dormouse: the source is not a URL such as redis://127.0.0.1:6379");
            return ExitCode::FAILURE;
        }
        follow::run(self.source.as_str(), self.live)
    }
}
