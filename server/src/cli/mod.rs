//! The subcommands that are tools: they run to an end, beside a server or without one.

mod check;
mod client;
mod db;
mod export;
mod follow;
mod import;
mod progress;

use std::process::ExitCode;

/// A subcommand that does something and ends.
#[derive(clap::Subcommand, Debug)]
pub enum Tool {
    /// Check that all data in a store can be read, or write what can be read of a database into an RDB file
    Check(check::Check),
    /// List, branch, delete, show, put to sleep and wake the databases of a running server
    Db(db::Db),
    /// Write a database into an RDB file, which Redis and Valkey load
    Export(export::Export),
    /// Read an RDB file into a database, or move in from a running Redis or Valkey
    Import(Box<import::Import>),
}

impl Tool {
    pub fn run(self) -> ExitCode {
        let done = match self {
            Tool::Db(db) => db.run().map(|()| ExitCode::SUCCESS),
            Tool::Check(check) => check.run(),
            Tool::Export(export) => export.run().map(|()| ExitCode::SUCCESS),
            Tool::Import(import) => import.run().map(|()| ExitCode::SUCCESS),
        };
        match done {
            Ok(code) => code,
            Err(complaint) => {
                eprintln!("dormouse: {complaint}");
                ExitCode::FAILURE
            }
        }
    }
}

/// Where data lie and in which database, for tools that work on the store.
#[derive(clap::Args, Clone, Debug)]
struct Place {
    /// The database
    #[arg(long, value_name = "NAME", default_value = crate::options::DEFAULT_DATABASE,
          value_parser = parse_database)]
    database: String,

    /// Where data lie, as for `serve` [default: DORMOUSE_STORE, or file://./dormouse-data]
    #[arg(long, value_name = "URL")]
    store: Option<String>,
}

impl Place {
    fn store_url(&self) -> String {
        store_url(self.store.as_deref())
    }
}

fn store_url(given: Option<&str>) -> String {
    let by_environment = || std::env::var("DORMOUSE_STORE").ok().filter(|url| !url.is_empty());
    given.map(str::to_owned).or_else(by_environment).unwrap_or_else(|| "file://./dormouse-data".to_owned())
}

fn parse_database(name: &str) -> Result<String, String> {
    crate::options::check_full_name(name).map(|()| name.to_owned())
}
