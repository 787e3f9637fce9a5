//! Logs: to standard error, as text or as one JSON object a line.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Which messages are logged, by module.
pub type Level = Targets;

/// Reads `info`, or `warn,dormouse=debug`: a level for everything, and levels by module.
pub fn parse_level(text: &str) -> Result<Level, String> {
    for directive in text.split(',') {
        // `Targets` would take a misspelled level for a module name, and log everything of that module.
        let level = directive.rsplit('=').next().unwrap_or_default();
        if level.parse::<LevelFilter>().is_err() || level.trim().is_empty() {
            return Err("expected error, warn, info, debug, trace or off, also by module: info,dormouse=debug".into());
        }
    }
    text.parse::<Targets>().map_err(|error| error.to_string())
}

/// Starts logging for the whole process. Fails if it was started before.
pub fn start(format: LogFormat, level: &Level) -> Result<(), TryInitError> {
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(level.clone())).try_init()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels() {
        for text in ["info", "off", "TRACE", "warn,dormouse=debug", "dormouse=debug,dormouse::session=trace"] {
            assert!(parse_level(text).is_ok(), "{text}");
        }
        for text in ["", "loud", "dormouse", "info,", "dormouse=", "dormouse=loud", "7"] {
            assert!(parse_level(text).unwrap_err().contains("expected error, warn"), "{text}");
        }
    }
}
