//! Logs: to standard error, as text or as one JSON object a line. What a line is about is in its fields: `database`, the
//! connection (`client`) and its address (`peer`).
//!
//! Spans are no part of lines: they go to a collector of traces, see [`crate::traces`].
//!
//! No line holds a secret. The server's own do not show requests; libraries may show all that they read and write below
//! `info`, so they are asked to only if a level names them.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterExt, LevelFilter, Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::traces::export::Exporter;

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

/// Whether a module may log at this level: libraries below `info` only if they are `named`.
fn may_log(named: &[String], module: &str, level: tracing::Level) -> bool {
    level <= tracing::Level::INFO
        || module.starts_with("dormouse")
        || named.iter().any(|name| module.starts_with(name.as_str()))
}

/// Starts logging and the export of traces for the whole process.
///
/// # Errors
/// If it was started before, or traces are to be exported but cannot be.
pub fn start(format: LogFormat, level: &Level) -> Result<Exporter, String> {
    let exporter = Exporter::start()?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let named: Vec<String> = level.iter().map(|(module, _)| module.to_owned()).collect();
    let may_log = filter_fn(move |of| !of.is_span() && may_log(&named, of.target(), *of.level()));
    let level = level.clone().and(may_log.with_max_level_hint(LevelFilter::TRACE));
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(level)).with(exporter.layer());
    subscriber.try_init().map_err(|error| error.to_string())?;
    exporter.check();
    Ok(exporter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels() {
        for text in ["info", "off", "TRACE", "warn,dormouse=debug", "dormouse=debug,dormouse::session=trace"] {
            assert!(parse_level(text).is_ok(), "{text}");
        }
        for (level, module, expected) in [
            ("trace", "dormouse::session", true),
            ("trace", "h2::codec", false),
            ("info,h2=trace", "h2::codec", true),
            ("info,h2=trace", "hyper::proto", false),
        ] {
            let level = parse_level(level).unwrap();
            let named: Vec<String> = level.iter().map(|(module, _)| module.to_owned()).collect();
            assert_eq!(may_log(&named, module, tracing::Level::TRACE), expected, "{level} {module}");
            assert!(may_log(&named, module, tracing::Level::WARN));
        }
        for text in ["", "loud", "dormouse", "info,", "dormouse=", "dormouse=loud", "7"] {
            assert!(parse_level(text).unwrap_err().contains("expected error, warn"), "{text}");
        }
    }
}
