//! `COMMANDLOG`: the last commands of one database that took long, and those with large requests and replies.
//!
//! `SLOWLOG` is the first of these three logs. Each keeps as many entries as its setting says, but no more than
//! [`LOG_BYTES_MAX`]. Secrets are left out of an entry when it is made.

use std::collections::VecDeque;

use dormouse_protocol::Request;
use parking_lot::Mutex;

use crate::clients::Client;
use crate::config;
use crate::log_rules::{LogKind, LogRule};

/// Number of arguments kept of each command, and bytes of each, as in Redis.
const ARGUMENTS_KEPT: usize = 32;
const BYTES_KEPT: usize = 128;
/// Most bytes of the entries of one log. The oldest go first.
const LOG_BYTES_MAX: usize = 4 << 20;

/// Text that replaces a secret.
const REDACTED: &[u8] = b"(redacted)";

/// The words of a request as others may see them: without secrets, even if the request was refused.
pub fn shown(request: Request<'_>) -> impl Iterator<Item = &[u8]> {
    (0..request.len()).map(move |at| if is_secret(request, at) { REDACTED } else { request.arg(at) })
}

/// Whether the word at `at` may be a secret: a word that Redis and Valkey redact, or one in the place of a secret in a
/// well-formed request.
fn is_secret(request: Request<'_>, at: usize) -> bool {
    let is = |at: usize, word: &str| request.arg(at).eq_ignore_ascii_case(word.as_bytes());
    let after = |from: usize, word: &str, count: usize| (at.saturating_sub(count).max(from)..at).any(|at| is(at, word));
    match at {
        0 => false,
        _ if is(0, "AUTH") => true,
        _ if is(0, "HELLO") => after(1, "AUTH", 2),
        _ if is(0, "MIGRATE") => after(1, "AUTH", 1) || after(1, "AUTH2", 2),
        1 => false,
        _ if is(0, "ACL") => ["SETUSER", "GETUSER", "DELUSER", "RESTTOKEN"].iter().any(|word| is(1, word)),
        _ if is(0, "CONFIG") && is(1, "SET") => at > 2 && names_secret(request.arg(at - 1)),
        _ => false,
    }
}

/// Whether a parameter of `CONFIG SET` holds a secret, on any server.
fn names_secret(parameter: &[u8]) -> bool {
    let parameter = parameter.to_ascii_lowercase();
    let parts = ["pass", "auth", "user", "token", "secret"];
    let known = [
        "requirepass",
        "masterauth",
        "masteruser",
        "primaryauth",
        "primaryuser",
        "tls-key-file-pass",
        "tls-client-key-file-pass",
    ];
    (known.iter().any(|name| name.as_bytes() == parameter) || !config::is_known(&parameter))
        && parts.iter().any(|part| memchr::memmem::find(&parameter, part.as_bytes()).is_some())
}

/// A command in a log.
#[derive(Debug, Clone)]
pub struct LoggedCommand {
    pub id: u64,
    pub at_seconds: u64,
    /// Microseconds or bytes.
    pub value: u64,
    pub arguments: Vec<Vec<u8>>,
    pub peer: String,
    pub name: Vec<u8>,
}

impl LoggedCommand {
    fn bytes(&self) -> usize {
        let arguments: usize = self.arguments.iter().map(|argument| argument.len() + size_of::<Vec<u8>>()).sum();
        size_of::<Self>() + arguments + self.peer.len() + self.name.len()
    }
}

/// The logs of a database.
#[derive(Debug, Default)]
pub struct CommandLogs([CommandLog; 3]);

impl CommandLogs {
    pub fn of(&self, kind: LogKind) -> &CommandLog {
        &self.0[kind as usize]
    }

    /// The log of slow commands.
    pub fn slow(&self) -> &CommandLog {
        self.of(LogKind::Slow)
    }
}

/// One log.
#[derive(Debug, Default)]
pub struct CommandLog {
    entries: Mutex<Entries>,
}

/// The newest first.
#[derive(Debug, Default)]
struct Entries {
    last_id: u64,
    bytes: usize,
    kept: VecDeque<LoggedCommand>,
}

impl CommandLog {
    /// Logs `request` with its `value` if the rule says so.
    pub fn note(&self, client: &Client, request: Request<'_>, value: u64, now_ms: u64, rule: LogRule) {
        if value < rule.lowest() || rule.lowest() == u64::MAX {
            return;
        }
        let shorten = |argument: &[u8]| match argument.len().checked_sub(BYTES_KEPT) {
            Some(more) if more > 0 => {
                let mut short = argument[..BYTES_KEPT].to_vec();
                short.extend_from_slice(format!("... ({more} more bytes)").as_bytes());
                short
            }
            _ => argument.to_vec(),
        };
        let mut arguments: Vec<Vec<u8>> = shown(request).take(ARGUMENTS_KEPT).map(shorten).collect();
        if request.len() > ARGUMENTS_KEPT {
            let more = request.len() - ARGUMENTS_KEPT + 1;
            arguments[ARGUMENTS_KEPT - 1] = format!("... ({more} more arguments)").into_bytes();
        }
        let (peer, name) = (client.peer().to_string(), client.told.lock().name.to_vec());
        let entry = LoggedCommand { id: 0, at_seconds: now_ms / 1000, value, arguments, peer, name };
        self.entries.lock().add(entry, rule.entries_max);
    }

    /// The newest `count` entries.
    pub fn newest(&self, count: usize) -> Vec<LoggedCommand> {
        self.entries.lock().kept.iter().take(count).cloned().collect()
    }

    /// The newest `count` entries of those before an id.
    pub fn newest_before(&self, id: Option<u64>, count: usize) -> Vec<LoggedCommand> {
        let entries = self.entries.lock();
        let later = id.map_or(0, |id| entries.kept.partition_point(|entry| entry.id >= id));
        entries.kept.range(later..).take(count).cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.entries.lock().kept.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn reset(&self) {
        let mut entries = self.entries.lock();
        entries.kept = VecDeque::new();
        entries.bytes = 0;
    }
}

impl Entries {
    fn add(&mut self, mut entry: LoggedCommand, entries_max: usize) {
        entry.id = self.last_id;
        self.last_id += 1;
        self.bytes += entry.bytes();
        self.kept.push_front(entry);
        while self.kept.len() > entries_max || self.bytes > LOG_BYTES_MAX {
            let Some(oldest) = self.kept.pop_back() else { return };
            self.bytes -= oldest.bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use dormouse_protocol::OwnedRequest;

    use super::*;

    #[test]
    fn a_log_is_bounded_by_its_entries_and_its_bytes() {
        let entry = |bytes: usize| LoggedCommand {
            id: 0,
            at_seconds: 1,
            value: 2,
            arguments: vec![vec![b'x'; bytes]],
            peer: "127.0.0.1:1".into(),
            name: Vec::new(),
        };
        let log = CommandLog::default();
        let ids = || log.newest(usize::MAX).iter().map(|entry| entry.id).collect::<Vec<_>>();
        for _ in 0..5 {
            log.entries.lock().add(entry(10), 3);
        }
        assert_eq!(ids(), [4, 3, 2]);
        assert_eq!(log.newest_before(Some(4), 1)[0].id, 3);
        // Three of these do not fit.
        for _ in 0..3 {
            log.entries.lock().add(entry(LOG_BYTES_MAX / 3), 100);
        }
        assert_eq!(ids(), [7, 6]);
        log.reset();
        assert!(log.is_empty() && log.entries.lock().bytes == 0);
        log.entries.lock().add(entry(10), 100);
        assert_eq!(ids(), [8], "numbers are never used again");
    }

    #[test]
    fn a_rule_without_entries_logs_nothing() {
        let lowest = |from, entries_max| LogRule { from, entries_max }.lowest();
        assert_eq!([lowest(5, 1), lowest(0, 1), lowest(-1, 1), lowest(5, 0)], [5, 0, u64::MAX, u64::MAX]);
    }

    #[test]
    fn secrets_are_redacted() {
        for (line, expected) in [
            ("AUTH s", "AUTH -"),
            ("auth user s", "auth - -"),
            ("AUTH a b s", "AUTH - - -"),
            ("HELLO 3 AUTH user s SETNAME x", "HELLO 3 AUTH - - SETNAME x"),
            ("HELLO 3 SETNAME x AUTH user s", "HELLO 3 SETNAME x AUTH - -"),
            ("hello 9 auth user s", "hello 9 auth - -"),
            ("HELLO 3 SETNAME AUTH AUTH user s", "HELLO 3 SETNAME AUTH - - -"),
            ("HELLO 3 AUTH s", "HELLO 3 AUTH -"),
            ("HELLO AUTH user s", "HELLO AUTH - -"),
            ("CONFIG SET requirepass s", "CONFIG SET requirepass -"),
            ("config set maxmemory 1 MasterAuth s timeout 5", "config set maxmemory 1 MasterAuth - timeout 5"),
            ("CONFIG SET tls-key-file-pass s primaryuser s", "CONFIG SET tls-key-file-pass - primaryuser -"),
            (
                "CONFIG SET primaryauth s tls-auth-clients-user off",
                "CONFIG SET primaryauth - tls-auth-clients-user off",
            ),
            ("CONFIG SET auth-timeout 5s", "CONFIG SET auth-timeout 5s"),
            ("CONFIG GET requirepass", "CONFIG GET requirepass"),
            ("ACL SETUSER bob on >s", "ACL SETUSER - - -"),
            ("ACL RESTTOKEN bob s", "ACL RESTTOKEN - -"),
            ("ACL WHOAMI", "ACL WHOAMI"),
            ("MIGRATE h 1 k 0 10 AUTH s", "MIGRATE h 1 k 0 10 AUTH -"),
            ("MIGRATE h 1 k 0 10 AUTH2 user s", "MIGRATE h 1 k 0 10 AUTH2 - -"),
            ("SET AUTH x", "SET AUTH x"),
            ("GET k", "GET k"),
        ] {
            let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            let request = OwnedRequest::from_args(&words);
            let shown: Vec<_> = shown(request.as_request()).map(String::from_utf8_lossy).collect();
            assert_eq!(shown.join(" ").replace("(redacted)", "-"), expected, "{line}");
        }
    }
}
