//! The work of each second, however busy the other threads are: acknowledge to the source, ask how far it is, and
//! update the display.
//!
//! The question needs a connection of its own, since a replica's link carries only the stream. Without such a
//! connection, the import goes on without knowing its lag.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dormouse_protocol::Response;

use super::address::ServerAddress;
use super::meters::{ImportMeters, Sample};
use super::progress::LiveProgress;
use super::source::{acknowledge, breathe};
use super::wire::Connection;
use crate::link::Link;

const TICK: Duration = Duration::from_millis(250);
const ACKNOWLEDGE: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Pulse<'a> {
    pub source: &'a ServerAddress,
    /// The replica's link.
    pub link: &'a Link,
    pub meters: &'a ImportMeters,
    pub progress: &'a LiveProgress,
    pub over: &'a AtomicBool,
    /// Whether the import goes on behind the copy.
    pub follows: bool,
    /// Whether to introduce the source to the user. It is tried once in a session.
    pub speaks: bool,
}

impl Pulse<'_> {
    /// Runs until the session is over. The thread that ends the session should unpark this one.
    pub fn run(mut self) {
        let mut connection: Option<Connection> = None;
        let mut acknowledged: Option<Instant> = None;
        let mut tried: Option<Instant> = None;
        while !self.over.load(Ordering::Acquire) {
            if acknowledged.is_none_or(|at| at.elapsed() >= ACKNOWLEDGE) {
                acknowledged = Some(Instant::now());
                // The thread that reads from a link notices when it breaks.
                let _ = match self.meters.following.load(Ordering::Acquire) {
                    true => acknowledge(self.link, self.meters.applied()),
                    false => breathe(self.link),
                };
            }
            if connection.is_none() && tried.is_none_or(|at| at.elapsed() >= RETRY) {
                tried = Some(Instant::now());
                connection = ask(self.source).ok();
            }
            if let Some(open) = &mut connection {
                let asked = Instant::now();
                match information(open, "replication") {
                    Some(text) => {
                        if let Some(offset) = field(&text, "master_repl_offset").and_then(|text| text.parse().ok()) {
                            self.meters.sample(Sample { asked, offset });
                        }
                        self.introduce(open, &text);
                    }
                    None => connection = None,
                }
            }
            if self.follows || !self.meters.following.load(Ordering::Relaxed) {
                self.progress.show(self.meters);
            }
            std::thread::park_timeout(TICK);
        }
    }

    /// Notes facts about the source that the user may not know.
    fn introduce(&mut self, connection: &mut Connection, replication: &str) {
        if !std::mem::take(&mut self.speaks) {
            return;
        }
        if field(replication, "role") == Some("slave") {
            let master = (field(replication, "master_host"), field(replication, "master_port"));
            if let (Some(host), Some(port)) = master {
                self.progress.note(&format!(
                    "note: the source is itself a replica, of {host}:{port}; cutting over means stopping writes there"
                ));
            }
        }
        let cluster = information(connection, "cluster");
        if cluster.as_deref().and_then(|text| field(text, "cluster_enabled")) == Some("1") {
            self.progress.note(
                "note: the source is a node of a Redis Cluster; this imports its slots only: import every master, each \
                 into a target of its own",
            );
        }
    }
}

/// Opens a connection for questions.
pub fn ask(source: &ServerAddress) -> Result<Connection, String> {
    let mut connection = Connection::open(source, PATIENCE).map_err(|error| error.to_string())?;
    if let Some(words) = source.auth() {
        connection.call(&words).map_err(|error| error.to_string())?.checked()?;
    }
    Ok(connection)
}

pub fn information(connection: &mut Connection, section: &str) -> Option<String> {
    match connection.call(&[b"INFO", section.as_bytes()]) {
        Ok(Response::Bulk(_, Some(text))) => Some(String::from_utf8_lossy(&text).into_owned()),
        _ => None,
    }
}

/// Returns the value of a line `name:value`.
pub fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "# Replication\r\nmaster_repl_offset_x:1\r\nrole:master\r\nmaster_repl_offset:42\r\n";
        assert_eq!(field(text, "master_repl_offset"), Some("42"));
        assert_eq!(field(text, "role"), Some("master"));
        assert_eq!(field(text, "offset"), None);
    }
}
