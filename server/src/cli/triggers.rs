//! `dormouse db trigger`: the triggers of a database, over its own protocol or over the admin API.

use std::fmt::Write;

use reqwest::Method;
use serde_json::{Value, json};

use super::usage::parse_name;
use crate::triggers::TriggerWish;

#[derive(clap::Subcommand, Clone, Debug)]
pub enum TriggerAction {
    /// Add a trigger: each event that matches is sent to a URL, at least once, in order for each key. Prints the secret that
    /// signs the requests
    Add(TriggerArguments),
    /// List the triggers of a database, and how their deliveries go
    List {
        #[arg(value_parser = parse_name)]
        database: String,
    },
    /// Show one trigger, and how its deliveries go
    Show(TriggerName),
    /// Remove a trigger, and drop what it has not delivered
    Remove(TriggerName),
    /// Keep events, but deliver none
    Pause(TriggerName),
    /// Deliver again
    Resume(TriggerName),
}

#[derive(clap::Args, Clone, Debug)]
pub struct TriggerName {
    #[arg(value_parser = parse_name)]
    database: String,
    /// The name of the trigger
    #[arg(value_parser = parse_name)]
    trigger: String,
}

#[derive(clap::Args, Clone, Debug)]
pub struct TriggerArguments {
    #[arg(value_parser = parse_name)]
    database: String,
    /// The name of the trigger
    #[arg(long, value_name = "NAME", value_parser = parse_name, default_value = "default")]
    name: String,
    /// The events, by their names in keyspace notifications (set, expired, ...) or classes (@string, @list, @set, @hash, @zset,
    /// @stream, @array, @module, @generic, @expired, @evicted, @all)
    #[arg(long, value_name = "EVENTS", value_delimiter = ',', required = true)]
    on: Vec<String>,
    /// Only keys that match this pattern; may be repeated [default: all keys]
    #[arg(long, value_name = "PATTERN")]
    keys: Vec<String>,
    /// The URL that gets the events, as CloudEvents in a POST request
    #[arg(long, value_name = "URL")]
    to: String,
    /// A header for each request, such as 'Authorization: Bearer TOKEN'; may be repeated
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// Most events in a second [default: no limit]
    #[arg(long, value_name = "EVENTS", default_value_t = 0, hide_default_value = true)]
    rate: u32,
    /// Most events in one request; with 1, a request has one event rather than a list [default: 100]
    #[arg(long, value_name = "EVENTS")]
    batch: Option<u32>,
    /// Attempts, after which events go to the dead letters [default: 20]
    #[arg(long, value_name = "ATTEMPTS")]
    attempts: Option<u32>,
    /// The delay before the second attempt; it doubles up to 15m [default: 1s]
    #[arg(long, value_name = "DURATION")]
    backoff: Option<String>,
    /// The key of the stream with events that could not be delivered [default: dead-letters:NAME]
    #[arg(long, value_name = "KEY")]
    dead_letters: Option<String>,
}

impl TriggerArguments {
    fn wish(&self) -> Value {
        let Self { name, on, keys, to, headers, rate, batch, attempts, backoff, dead_letters, .. } = self.clone();
        let wish = TriggerWish { name, to, on, keys, headers, rate, batch, attempts, backoff, dead_letters };
        json!(wish)
    }
}

impl TriggerAction {
    pub fn database(&self) -> &str {
        match self {
            Self::Add(arguments) => &arguments.database,
            Self::List { database } => database,
            Self::Show(of) | Self::Remove(of) | Self::Pause(of) | Self::Resume(of) => &of.database,
        }
    }

    /// The words of the command, after `DORMOUSE TRIGGER`.
    pub fn words(&self) -> Vec<String> {
        match self {
            Self::Add(arguments) => vec!["ADD".to_owned(), arguments.wish().to_string()],
            Self::List { .. } => vec!["LIST".to_owned()],
            Self::Show(of) => vec!["SHOW".to_owned(), of.trigger.clone()],
            Self::Remove(of) => vec!["REMOVE".to_owned(), of.trigger.clone()],
            Self::Pause(of) => vec!["PAUSE".to_owned(), of.trigger.clone()],
            Self::Resume(of) => vec!["RESUME".to_owned(), of.trigger.clone()],
        }
    }

    /// The method, path and body of the request over the API.
    pub fn request(&self) -> (Method, String, Option<Value>) {
        let all = format!("/v1/databases/{}/triggers", self.database());
        match self {
            Self::Add(arguments) => (Method::POST, all, Some(arguments.wish())),
            Self::List { .. } => (Method::GET, all, None),
            Self::Show(of) => (Method::GET, format!("{all}/{}", of.trigger), None),
            Self::Remove(of) => (Method::DELETE, format!("{all}/{}", of.trigger), None),
            Self::Pause(of) => (Method::POST, format!("{all}/{}/pause", of.trigger), Some(json!({}))),
            Self::Resume(of) => (Method::POST, format!("{all}/{}/resume", of.trigger), Some(json!({}))),
        }
    }

    /// The answer, for people.
    pub fn told(&self, answer: &Value) -> String {
        match self {
            Self::Add(arguments) => format!(
                "the trigger {} sends to {}\nits secret, which is not shown again: {}\n",
                text(&answer["name"]),
                arguments.to,
                text(&answer["secret"]),
            ),
            Self::List { .. } => table(answer["triggers"].as_array().map(Vec::as_slice).unwrap_or_default()),
            Self::Show(_) => listing(answer),
            Self::Remove(of) => format!("the trigger {} is removed\n", of.trigger),
            Self::Pause(of) => format!("the trigger {} is paused: events are kept\n", of.trigger),
            Self::Resume(of) => format!("the trigger {} delivers again\n", of.trigger),
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(all) if all.is_empty() => "-".to_owned(),
        Value::Array(all) => all.iter().map(text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

fn table(triggers: &[Value]) -> String {
    let head = ["NAME", "ON", "KEYS", "STATE", "DELIVERED", "WAITING", "LOST", "DEAD", "TO"].map(str::to_owned);
    let rows = triggers.iter().map(|trigger| {
        let how = &trigger["deliveries"];
        [
            &trigger["name"],
            &trigger["on"],
            &trigger["keys"],
            &how["state"],
            &how["delivered"],
            &how["waiting"],
            &how["lost"],
            &how["dead_lettered"],
            &trigger["to"],
        ]
        .map(text)
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    let widths: Vec<usize> = (0..9).map(|at| rows.iter().map(|row| row[at].len()).max().unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
    out
}

fn listing(trigger: &Value) -> String {
    let mut out = String::new();
    for (name, value) in trigger.as_object().into_iter().flatten() {
        match value {
            Value::Object(inner) => {
                inner.iter().for_each(|(name, value)| _ = writeln!(out, "{name}: {}", text(value)));
            }
            value => _ = writeln!(out, "{name}: {}", text(value)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triggers_are_shown_in_columns() {
        let trigger = json!({
            "name": "orders",
            "on": ["set", "expired"],
            "keys": [],
            "to": "https://example.com/hook",
            "deliveries": {
                "state": "idle", "delivered": 12, "waiting": 0, "lost": 0, "dead_lettered": 3, "problem": null,
            },
        });
        let expected = "\
NAME    ON           KEYS  STATE  DELIVERED  WAITING  LOST  DEAD  TO
orders  set,expired  -     idle   12         0        0     3     https://example.com/hook
";
        assert_eq!(table(std::slice::from_ref(&trigger)), expected);
        assert!(listing(&trigger).contains("name: orders\n") && listing(&trigger).contains("problem: -\n"));
    }
}
