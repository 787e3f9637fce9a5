//! The subcommands that are tools: they run to an end, beside a server or without one.

mod follow;
mod import;

use std::process::ExitCode;

/// A subcommand that does something and ends.
#[derive(clap::Subcommand, Debug)]
pub enum Tool {
    /// Import the data of a Redis or Valkey
    Import(import::Import),
}

impl Tool {
    pub fn run(self) -> ExitCode {
        match self {
            Tool::Import(import) => import.run(),
        }
    }
}
