//! `SLOWLOG`: the last commands of one database that took longer than a threshold.

use std::collections::VecDeque;
use std::time::Duration;

use dormouse_protocol::Request;
use parking_lot::Mutex;

use crate::clients::Client;
use crate::config;

/// Number of arguments kept of each command, and bytes of each, as in Redis.
const ARGUMENTS_KEPT: usize = 32;
const BYTES_KEPT: usize = 128;

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
    let known = ["requirepass", "masterauth", "masteruser", "tls-key-file-pass", "tls-client-key-file-pass"];
    (known.iter().any(|name| name.as_bytes() == parameter) || !config::is_known(&parameter))
        && parts.iter().any(|part| memchr::memmem::find(&parameter, part.as_bytes()).is_some())
}

#[derive(Debug, Clone)]
pub struct Slow {
    pub id: u64,
    pub at_seconds: u64,
    pub microseconds: u64,
    pub arguments: Vec<Vec<u8>>,
    pub peer: String,
    pub name: Vec<u8>,
}

#[derive(Debug, Default)]
pub struct Slowlog {
    entries: Mutex<(u64, VecDeque<Slow>)>,
}

impl Slowlog {
    /// Logs `request` if it took longer than `threshold_us` (negative: never), keeping `kept` entries.
    pub fn note(
        &self,
        client: &Client,
        request: Request<'_>,
        took: Duration,
        now_ms: u64,
        threshold_us: i64,
        kept: usize,
    ) {
        let microseconds = took.as_micros() as u64;
        if threshold_us < 0 || microseconds < threshold_us as u64 || kept == 0 {
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
        let (peer, name) = (client.peer.to_string(), client.told.lock().name.to_vec());
        let mut entries = self.entries.lock();
        let id = entries.0;
        entries.0 += 1;
        entries.1.push_front(Slow { id, at_seconds: now_ms / 1000, microseconds, arguments, peer, name });
        entries.1.truncate(kept);
    }

    /// The newest `count` entries.
    pub fn newest(&self, count: usize) -> Vec<Slow> {
        self.entries.lock().1.iter().take(count).cloned().collect()
    }

    /// The newest `count` entries of those before an id.
    pub fn newest_before(&self, id: Option<u64>, count: usize) -> Vec<Slow> {
        let entries = self.entries.lock();
        let later = id.map_or(0, |id| entries.1.partition_point(|entry| entry.id >= id));
        entries.1.range(later..).take(count).cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.entries.lock().1.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn reset(&self) {
        self.entries.lock().1.clear();
    }
}

#[cfg(test)]
mod tests {
    use dormouse_protocol::OwnedRequest;

    use super::*;

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
