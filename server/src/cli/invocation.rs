//! The command line: `serve`, the tools, `version`.

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use super::Tool;
use crate::options::{Options, environment, file_defaults, with_defaults};

/// The action that the command line requests.
#[derive(Debug)]
pub enum Invocation {
    Serve(Box<Options>),
    Tool(Box<Tool>),
    Version,
}

impl Invocation {
    /// Reads the process's arguments, its environment and the configuration file. If there is nothing to run, prints
    /// help or the error and ends the process.
    pub fn from_process() -> Invocation {
        match Invocation::parse(std::env::args_os(), std::env::vars_os()) {
            Ok(invocation) => invocation,
            Err(error) => error.exit(),
        }
    }

    /// Reads the same from explicit inputs; the first argument is the program's name.
    pub fn parse(
        arguments: impl IntoIterator<Item = OsString>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Invocation, clap::Error> {
        let arguments: Vec<OsString> = arguments.into_iter().collect();
        // Help, `version` and mistakes in the arguments come first, whatever the environment and the file hold.
        let alone = CommandLine::read(CommandLine::command(), &arguments)?;
        match alone.subcommand {
            Some(Command::Version) => return Ok(Invocation::Version),
            Some(Command::Tool(tool)) => return Ok(Invocation::Tool(Box::new(tool))),
            Some(Command::Serve(_)) | None => {}
        }
        let environment = environment::defaults(environment.into_iter())?;
        let mut command = with_defaults(CommandLine::command(), &environment);
        if let Some(path) = CommandLine::read(command.clone(), &arguments)?.options().config {
            let file = file_defaults(&path)?;
            command = with_defaults(with_defaults(CommandLine::command(), &file), &environment);
        }
        let options = CommandLine::read(command, &arguments)?.options();
        options.checked().map(Invocation::Serve)
    }
}

/// The line that `dormouse version` prints.
pub fn version() -> String {
    format!("dormouse {}", env!("CARGO_PKG_VERSION"))
}

#[derive(Parser)]
#[command(
    name = "dormouse",
    version,
    about = "A serverless Redis: databases that fall asleep when they are not used",
    args_conflicts_with_subcommands = true,
    after_help = "Every option also reads DORMOUSE_<OPTION> from the environment (DORMOUSE_SLEEP_AFTER=10m), and \
                  stands under its own name in the file of --config (sleep-after = \"10m\").\n\n\
                  The server ends with 0 after it has saved every database, with 1 after a failure, with 2 when an \
                  option is wrong, and with 3 when another process has taken the store over."
)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    subcommand: Option<Command>,
    #[command(flatten)]
    options: Box<Options>,
}

#[derive(Subcommand)]
enum Command {
    /// Start the server (also what happens without a command)
    Serve(Box<Options>),
    #[command(flatten)]
    Tool(Tool),
    /// Print the version
    Version,
}

impl CommandLine {
    fn read(command: clap::Command, arguments: &[OsString]) -> Result<CommandLine, clap::Error> {
        command.try_get_matches_from(arguments).and_then(|matches| CommandLine::from_arg_matches(&matches))
    }

    fn options(self) -> Box<Options> {
        match self.subcommand {
            Some(Command::Serve(options)) => options,
            Some(Command::Version | Command::Tool(_)) | None => self.options,
        }
    }
}
