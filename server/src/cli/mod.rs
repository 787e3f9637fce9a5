//! The subcommands that are tools: they run to an end, beside a server or without one.

mod client;
mod db;

use std::process::ExitCode;

/// A subcommand that does something and ends.
#[derive(clap::Subcommand, Debug)]
pub enum Tool {
    /// List, branch, delete, show, put to sleep and wake the databases of a running server
    Db(db::Db),
}

impl Tool {
    pub fn run(self) -> ExitCode {
        let done = match self {
            Tool::Db(db) => db.run(),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(complaint) => {
                eprintln!("dormouse: {complaint}");
                ExitCode::FAILURE
            }
        }
    }
}
