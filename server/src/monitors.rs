//! `MONITOR`: clients that see the commands of one database as they run.
//!
//! Without a monitor, a batch reads one flag, which a [count by prefix](crate::prefixes) sets too. A line is made once and added to
//! the outbox of each monitor, which is bounded as that of a subscriber: a monitor that reads too slowly is closed, and holds up no
//! other client.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dormouse_protocol::Request;
use dormouse_shard::commands::{Flags, Row};
use dormouse_shard::execution::budget::BYTES_PER_ELEMENT;
use parking_lot::{Mutex, RwLock};

use crate::clients::{Client, OutputLimit};
use crate::command_log;
use crate::peer::Peer;
use crate::prefixes::PrefixCounts;

/// Bytes of a line, beyond which words are shortened.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Cost of a line for one monitor, in elements, beside its bytes.
const COST_OF_RECEIVER: usize = 4;

#[derive(Debug, Default)]
pub struct Monitors {
    is_watched: AtomicBool,
    all: RwLock<BTreeMap<u64, Monitor>>,
    counts: Mutex<Option<PrefixCounts>>,
}

#[derive(Debug)]
struct Monitor {
    client: Arc<Client>,
    /// The output buffer limit when it began.
    limit: OutputLimit,
}

/// The origin of a command.
#[derive(Debug, Clone, Copy)]
pub enum CommandOrigin<'a> {
    Client(&'a Peer),
    Script,
}

impl Monitors {
    pub fn add(&self, client: &Arc<Client>, limit: OutputLimit) {
        self.all.write().insert(client.id, Monitor { client: Arc::clone(client), limit });
        self.is_watched.store(true, Ordering::Relaxed);
    }

    pub fn remove(&self, client: &Client) {
        self.all.write().remove(&client.id);
        // The next command finds out whether anything is left to watch for.
    }

    /// Whether a command has to be shown or counted.
    #[inline]
    pub fn is_watched(&self) -> bool {
        self.is_watched.load(Ordering::Relaxed)
    }

    /// Begins to count the requests by prefix. The results of an earlier count are dropped.
    pub fn begin_count(&self, counts: PrefixCounts) {
        *self.counts.lock() = Some(counts);
        self.is_watched.store(true, Ordering::Relaxed);
    }

    /// The last count, or what it has so far.
    pub fn counts(&self) -> Option<PrefixCounts> {
        self.counts.lock().clone()
    }

    /// Counts a request by its prefix, if that is asked for.
    pub fn count(&self, row: &Row, request: Request<'_>, client: &Client, now_ms: u64) {
        let mut counts = self.counts.lock();
        match &mut *counts {
            Some(counts) if counts.is_on(now_ms) => counts.count(row, request, (client.id, &client.peer())),
            // Under both locks, so that neither a count nor a monitor begins meanwhile.
            _ => {
                let all = self.all.read();
                if all.is_empty() {
                    self.is_watched.store(false, Ordering::Relaxed);
                }
            }
        }
    }

    pub fn len(&self) -> usize {
        self.all.read().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sends lines to all monitors. Returns the cost, in the unit of [`dormouse_shard::execution::budget`].
    pub fn show(&self, lines: &[u8], now_ms: u64) -> usize {
        if lines.is_empty() {
            return 0;
        }
        let all = self.all.read();
        all.values().for_each(|monitor| monitor.client.tell(lines, monitor.limit, now_ms));
        // The lines were written once, and copied for each monitor.
        let bytes = lines.len() / BYTES_PER_ELEMENT;
        4 * bytes + all.len() * (COST_OF_RECEIVER + bytes)
    }
}

/// Whether monitors see a command. As in Redis, those that administer the server are not shown.
pub fn is_shown(row: &Row) -> bool {
    !row.flags.contains(Flags::ADMIN)
}

/// Appends the line of a request that has run at `now_us`, in Unix microseconds, with the index `select`.
pub fn append_line(lines: &mut Vec<u8>, now_us: u64, select: u8, origin: CommandOrigin<'_>, request: Request<'_>) {
    let start = lines.len();
    let (seconds, microseconds) = (now_us / 1_000_000, now_us % 1_000_000);
    let written = match origin {
        CommandOrigin::Script => write!(lines, "+{seconds}.{microseconds:06} [{select} lua]"),
        CommandOrigin::Client(Peer::Unix(path)) => write!(lines, "+{seconds}.{microseconds:06} [{select} unix:{path}]"),
        CommandOrigin::Client(peer) => write!(lines, "+{seconds}.{microseconds:06} [{select} {peer}]"),
    };
    written.expect("memory takes everything");
    for word in command_log::shown(request) {
        lines.extend_from_slice(b" \"");
        // An escaped byte takes four.
        let room = (LINE_BYTES_MAX + start).saturating_sub(lines.len()) / 4;
        let shown = if word.len() > room { &word[..room] } else { word };
        shown.iter().for_each(|byte| append_escaped(lines, *byte));
        if word.len() > room {
            write!(lines, "... ({} more bytes)", word.len() - room).expect("memory takes everything");
        }
        lines.push(b'"');
        if lines.len() - start >= LINE_BYTES_MAX {
            lines.extend_from_slice(b" \"...\"");
            break;
        }
    }
    lines.extend_from_slice(b"\r\n");
}

fn append_escaped(line: &mut Vec<u8>, byte: u8) {
    let letter = match byte {
        b'\\' | b'"' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x07 => b'a',
        0x08 => b'b',
        b' '..=b'~' => return line.push(byte),
        _ => {
            let digit = |half: u8| b"0123456789abcdef"[usize::from(half)];
            line.extend_from_slice(&[b'\\', b'x', digit(byte >> 4), digit(byte & 15)]);
            return;
        }
    };
    line.extend_from_slice(&[b'\\', letter]);
}

#[cfg(test)]
mod tests {
    use dormouse_protocol::OwnedRequest;

    use super::*;

    fn line(words: &[&[u8]], origin: CommandOrigin<'_>) -> String {
        let mut lines = Vec::new();
        append_line(&mut lines, 1_700_000_000_000_123, 3, origin, OwnedRequest::from_args(words).as_request());
        String::from_utf8(lines).unwrap()
    }

    #[test]
    fn bytes_are_escaped_as_in_redis() {
        let value = b"a\"b\\c\n\r\t\x07\x08\x00\x01\x7f\xff\xc3\xa4 e";
        let expected = "+1700000000.000123 [3 lua] \"SET\" \"k\" \
                        \"a\\\"b\\\\c\\n\\r\\t\\a\\b\\x00\\x01\\x7f\\xff\\xc3\\xa4 e\"\r\n";
        assert_eq!(line(&[b"SET", b"k", value], CommandOrigin::Script), expected);
    }

    #[test]
    fn the_origin_is_an_address() {
        let peer =
            Peer::Tcp { remote: "127.0.0.1:5".parse().unwrap(), local: "127.0.0.1:6".parse().unwrap(), is_tls: false };
        assert_eq!(line(&[b"PING"], CommandOrigin::Client(&peer)), "+1700000000.000123 [3 127.0.0.1:5] \"PING\"\r\n");
        let peer = Peer::Unix("/run/d.sock".into());
        assert_eq!(
            line(&[b"PING"], CommandOrigin::Client(&peer)),
            "+1700000000.000123 [3 unix:/run/d.sock] \"PING\"\r\n"
        );
    }

    #[test]
    fn a_line_is_bounded() {
        let large = vec![0; 2 * LINE_BYTES_MAX];
        let shown = line(&[b"SET", b"k", &large, &large, b"x"], CommandOrigin::Script);
        assert!(shown.len() < LINE_BYTES_MAX + 200, "{}", shown.len());
        assert!(shown.ends_with("more bytes)\" \"...\"\r\n"), "{}", &shown[shown.len() - 100..]);
        let words = vec![&b"some word"[..]; 1 << 18];
        assert!(line(&words, CommandOrigin::Script).len() < LINE_BYTES_MAX + 200);
    }
}
