//! Import through a running server: RESTORE after RESTORE, without waiting for each answer.
//!
//! 1. A file is first read to its end, so damage and unsupported data are found before anything is sent. Standard input
//!    cannot be read twice: when an error is found, the server already holds the preceding data.
//! 2. This thread reads the RDB and writes requests. Each request goes into a queue of bounded length.
//! 3. Another thread reads one reply for each entry of the queue. At the first error it shuts the connection, which
//!    ends the writer too. Only what an older server does not know may be left out instead, and is counted.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use dormouse_protocol::Response;
use dormouse_storage::codec::value::kind;
use dormouse_storage::rdb::error::shown;
use dormouse_storage::rdb::{RdbEntry, RdbReader, RdbRecord};

use crate::link::Link;
use crate::output::print_error;
use crate::progress::Progress;
use crate::target::ServerUrl;
use crate::tls::{TlsChoices, TlsClient};
use crate::{FileImport, note_unsupported, now_ms};

/// Limit of requests without a reply.
const PENDING_MAX: usize = 4096;

/// Values that the server does not know and that are named.
const NAMED_MAX: usize = 100;

const BUFFER_BYTES: usize = 256 << 10;

/// Number of keys between two progress updates.
const STEP: u64 = 256;

/// A request that waits for its reply.
enum Pending {
    Select(u64),
    Restore(Box<[u8]>),
    /// The first line of a library of functions, and whether it may replace one.
    Function(Box<[u8]>, bool),
}

/// Imports a file through a running server.
///
/// # Errors
/// The reason that not everything was imported.
pub fn run(import: &FileImport, target: &ServerUrl, tls: &TlsChoices) -> Result<(), String> {
    let mut skipped = 0;
    if !import.is_stream() {
        let progress = Progress::new("checking", import.open()?.1);
        skipped = check(import, target, &progress)?;
        if skipped > 0 && !import.skip_unsupported {
            return Err(import.advice(skipped));
        }
    }
    let (input, bytes) = import.open()?;
    let progress = Progress::new("importing", bytes);
    let stream = connect(target, tls)?;
    let replies = stream.clone();
    let (sender, receiver) = sync_channel(PENDING_MAX);
    let skips = import.skip_unsupported;
    let listener = thread::spawn(move || listen(replies, receiver, skips));
    let mut writer = Writer {
        out: BufWriter::with_capacity(BUFFER_BYTES, stream),
        pending: sender,
        replace: import.replace,
        payload: Vec::new(),
    };
    let sent = send(import, target, input, &mut writer, &progress);
    if sent.is_err() {
        // The listener must not wait for replies to requests that were never sent whole.
        writer.out.get_ref().shutdown();
    }
    drop(writer);
    let answered = listener.join().map_err(|_| "the thread that reads replies failed".to_owned())?;
    match (sent, answered) {
        // The server's refusal is the reason that the connection was shut.
        (_, Err(Refusal::Reply(complaint))) => Err(complaint),
        (Err(complaint), _) | (_, Err(Refusal::Connection(complaint))) => Err(complaint),
        (Ok(sent), Ok(unknown)) => {
            for (key, text) in &unknown.named {
                note_unsupported(&progress, key, text);
            }
            let keys = sent.keys - unknown.keys;
            let mut line = format!("imported {} into {target:?}", progress.summary(keys, sent.bytes));
            if sent.expired > 0 {
                line += &format!("; {} had expired", sent.expired);
            }
            let left_out = skipped.max(sent.skipped) + unknown.keys + unknown.libraries;
            if left_out > 0 {
                line += &format!("; {left_out} left out");
            }
            print_error(&line);
            Ok(())
        }
    }
}

/// Reads the whole file, names and counts unsupported items.
fn check(import: &FileImport, target: &ServerUrl, progress: &Progress) -> Result<u64, String> {
    let failed = |error: &dyn std::fmt::Display| format!("nothing was imported: {}: {error}", import.name());
    let mut reader = RdbReader::new(import.open()?.0).map_err(|error| failed(&error))?;
    let (mut unsupported, mut keys) = (0, 0);
    let mut indexes = Indexes::new(target);
    loop {
        match reader.next().map_err(|error| failed(&error))? {
            RdbEntry::Key(_) => {
                indexes.use_one().map_err(|error| failed(&error))?;
                keys += 1;
                if keys % STEP == 0 {
                    progress.at(reader.offset(), keys);
                }
            }
            RdbEntry::Select(index) => indexes.select(index),
            RdbEntry::End => return Ok(unsupported),
            entry => unsupported += u64::from(is_unsupported(&entry, progress)),
        }
    }
}

/// Whether an item is unsupported. If so, names it.
fn is_unsupported(entry: &RdbEntry<'_>, progress: &Progress) -> bool {
    match entry {
        RdbEntry::Unsupported { key, what } => note_unsupported(progress, key, what),
        RdbEntry::ModuleAux { module } => {
            note_unsupported(progress, module.as_bytes(), "what a module keeps beside keys");
        }
        _ => return false,
    }
    true
}

/// The index of the target for the keys of each index of the RDB.
struct Indexes {
    fixed: Option<u64>,
    now: u64,
    used: Option<u64>,
}

impl Indexes {
    fn new(target: &ServerUrl) -> Self {
        Indexes { fixed: target.index, now: 0, used: None }
    }

    fn select(&mut self, index: u64) {
        self.now = index;
    }

    /// Returns the index for the next key.
    fn use_one(&mut self) -> Result<u64, String> {
        let Some(fixed) = self.fixed else { return Ok(self.now) };
        match self.used.replace(self.now) {
            Some(before) if before != self.now => Err(format!(
                "it has keys of the indexes {before} and {}, which cannot all go into index {fixed}: leave it off the URL",
                self.now
            )),
            _ => Ok(fixed),
        }
    }
}

fn connect(target: &ServerUrl, tls: &TlsChoices) -> Result<Link, String> {
    let failed = |error: io::Error| format!("cannot reach {target:?}: {error}");
    let tls = target.is_tls.then(|| TlsClient::new(tls)).transpose()?;
    let socket = TcpStream::connect((target.host.as_str(), target.port)).map_err(failed)?;
    socket.set_nodelay(true).map_err(failed)?;
    let mut stream = Link::new(socket, tls.as_ref(), &target.host).map_err(failed)?;
    let by_environment = || std::env::var("DORMOUSE_TARGET_PASSWORD").ok().filter(|password| !password.is_empty());
    let Some(password) = target.password.clone().or_else(by_environment) else { return Ok(stream) };
    let mut words: Vec<&[u8]> = vec![b"AUTH"];
    words.extend(target.user.as_ref().map(|user| user.as_bytes()));
    words.push(password.as_bytes());
    let mut request = Vec::new();
    write_request(&mut request, &words).and_then(|()| stream.write_all(&request)).map_err(failed)?;
    let reply = Response::read(&mut BufReader::new(&stream)).map_err(failed)?;
    reply.checked().map_err(|refusal| format!("{target:?} refuses: {refusal}"))?;
    Ok(stream)
}

/// Counters of sent data.
#[derive(Default)]
struct Sent {
    keys: u64,
    bytes: u64,
    expired: u64,
    skipped: u64,
}

fn send(
    import: &FileImport,
    target: &ServerUrl,
    input: Box<dyn Read>,
    writer: &mut Writer,
    progress: &Progress,
) -> Result<Sent, String> {
    let broken = |error: &dyn std::fmt::Display| format!("{}: {error}", import.name());
    let lost = |error: io::Error| format!("the connection to {target:?} is lost: {error}");
    let mut reader = RdbReader::new(input).map_err(|error| broken(&error))?;
    let mut sent = Sent::default();
    let mut indexes = Indexes::new(target);
    let mut selected = 0;
    loop {
        match reader.next().map_err(|error| broken(&error))? {
            RdbEntry::Key(record) => {
                let index = indexes.use_one().map_err(|error| broken(&error))?;
                if index != selected {
                    selected = index;
                    writer.select(index).map_err(lost)?;
                }
                if record.expiry_ms.is_some_and(|at| at <= now_ms()) {
                    sent.expired += 1;
                } else {
                    writer.restore(&record).map_err(lost)?;
                    sent.keys += 1;
                }
                if sent.keys % STEP == 0 {
                    progress.at(reader.offset(), sent.keys);
                }
            }
            RdbEntry::Select(index) => indexes.select(index),
            RdbEntry::Function(text) => writer.load(&text).map_err(lost)?,
            RdbEntry::End => break,
            entry if is_unsupported(&entry, progress) => {
                sent.skipped += 1;
                if !import.skip_unsupported {
                    return Err("stopped there; --skip-unsupported leaves it out".to_owned());
                }
            }
            _ => {}
        }
    }
    sent.bytes = reader.offset();
    writer.out.flush().map_err(lost)?;
    Ok(sent)
}

struct Writer {
    out: BufWriter<Link>,
    pending: std::sync::mpsc::SyncSender<Pending>,
    replace: bool,
    payload: Vec<u8>,
}

impl Writer {
    fn select(&mut self, index: u64) -> io::Result<()> {
        write_request(&mut self.out, &[b"SELECT", index.to_string().as_bytes()])?;
        self.expect(Pending::Select(index))
    }

    fn restore(&mut self, record: &RdbRecord<'_>) -> io::Result<()> {
        self.payload.clear();
        self.payload.push(record.kind);
        self.payload.extend_from_slice(record.value);
        self.payload.extend_from_slice(&payload_version(record.kind).to_le_bytes());
        let checksum = dormouse_storage::codec::checksum(&self.payload);
        self.payload.extend_from_slice(&checksum.to_le_bytes());
        let (out, payload, replace) = (&mut self.out, &self.payload, self.replace);
        let key: Box<[u8]> = record.key.with_bytes(|key| key.into());
        let ttl = record.expiry_ms.unwrap_or(0).to_string();
        let idle = record.idle_s.map(|idle| idle.to_string());
        let frequency = record.frequency.map(|frequency| frequency.to_string());
        let mut words: Vec<&[u8]> = vec![b"RESTORE", &key, ttl.as_bytes(), payload, b"ABSTTL"];
        if replace {
            words.push(b"REPLACE");
        }
        match (&idle, &frequency) {
            (Some(idle), _) => words.extend([&b"IDLETIME"[..], idle.as_bytes()]),
            (None, Some(frequency)) => words.extend([&b"FREQ"[..], frequency.as_bytes()]),
            (None, None) => {}
        }
        write_request(out, &words)?;
        self.expect(Pending::Restore(key))
    }

    fn load(&mut self, library: &[u8]) -> io::Result<()> {
        let words: [&[u8]; 4] = [b"FUNCTION", b"LOAD", b"REPLACE", library];
        let kept = if self.replace { &words[..] } else { &[words[0], words[1], words[3]] };
        write_request(&mut self.out, kept)?;
        let first = library.split(|byte| *byte == b'\n').next().unwrap_or_default();
        self.expect(Pending::Function(first.into(), self.replace))
    }

    fn expect(&mut self, pending: Pending) -> io::Result<()> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        match self.pending.try_send(pending) {
            Ok(()) => Ok(()),
            Err(std::sync::mpsc::TrySendError::Disconnected(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(std::sync::mpsc::TrySendError::Full(pending)) => {
                // Send the request before the listener waits for its reply.
                self.out.flush()?;
                self.pending.send(pending).map_err(gone)
            }
        }
    }
}

/// Returns the oldest RDB version that has an encoding: a server refuses payloads of versions newer than its own.
fn payload_version(encoding: u8) -> u16 {
    match encoding {
        kind::HASH_TTL | kind::HASH_TTL_LISTPACK => 12,
        kind::SET_LISTPACK => 11,
        kind::HASH_LISTPACK | kind::SORTED_SET_LISTPACK | kind::LIST_QUICKLIST_2 => 10,
        _ => 9,
    }
}

fn write_request(out: &mut impl Write, words: &[&[u8]]) -> io::Result<()> {
    write!(out, "*{}\r\n", words.len())?;
    for word in words {
        write!(out, "${}\r\n", word.len())?;
        out.write_all(word)?;
        out.write_all(b"\r\n")?;
    }
    Ok(())
}

/// The reason that the listener stopped.
enum Refusal {
    Reply(String),
    Connection(String),
}

/// Records that the server did not know, and that were left out.
#[derive(Default)]
struct Unknown {
    keys: u64,
    libraries: u64,
    /// The first of them, with the server's errors.
    named: Vec<(Box<[u8]>, String)>,
}

impl Unknown {
    /// Takes what was refused because the server does not know it.
    fn take(&mut self, asked: &Pending, text: &str) -> bool {
        let name = match asked {
            Pending::Restore(key) if is_unknown_value(text) => {
                self.keys += 1;
                key
            }
            Pending::Function(first, _) if text.starts_with("ERR unknown command") => {
                self.libraries += 1;
                first
            }
            _ => return false,
        };
        if self.named.len() < NAMED_MAX {
            self.named.push((name.clone(), text.to_owned()));
        }
        true
    }
}

/// Whether a server refuses a payload because it is older than its type or its version.
fn is_unknown_value(text: &str) -> bool {
    ["ERR Bad data format", "ERR DUMP payload version or checksum are wrong"]
        .iter()
        .any(|known| text.starts_with(known))
}

fn listen(stream: Link, pending: Receiver<Pending>, skips: bool) -> Result<Unknown, Refusal> {
    let mut unknown = Unknown::default();
    let mut replies = BufReader::new(&stream);
    for asked in &pending {
        let reply = Response::read(&mut replies);
        let reply = reply.map_err(|error| Refusal::Connection(format!("the connection is lost: {error}")));
        let refused = match reply {
            Ok(reply) => {
                let Err(text) = reply.checked() else { continue };
                if skips && unknown.take(&asked, &text) {
                    continue;
                }
                Refusal::Reply(match asked {
                    Pending::Select(index) => format!("the server has no index {index}: {text}"),
                    Pending::Restore(key) if text.starts_with("BUSYKEY") => {
                        format!(
                            "key `{}` is there already; --replace replaces such keys. The import stopped in the middle",
                            shown(&key)
                        )
                    }
                    Pending::Restore(key) => {
                        let advice =
                            if is_unknown_value(&text) { "; --skip-unsupported leaves such keys out" } else { "" };
                        let key = shown(&key);
                        format!("the server refuses key `{key}`: {text}{advice}. The import stopped in the middle")
                    }
                    Pending::Function(first, replaces) => {
                        let first = shown(&first);
                        let is_there = text.contains("already exists") && !replaces;
                        let advice = if is_there { "; --replace replaces such libraries" } else { "" };
                        format!(
                            "the server refuses the library `{first}`: {text}{advice}. The import stopped in the middle"
                        )
                    }
                })
            }
            Err(lost) => lost,
        };
        stream.shutdown();
        return Err(refused);
    }
    Ok(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_server_does_not_know_is_left_out() {
        let mut unknown = Unknown::default();
        let restore = || Pending::Restore(Box::from(&b"k"[..]));
        let function = || Pending::Function(Box::from(&b"#!lua name=l"[..]), false);
        for (asked, text, taken) in [
            (restore(), "ERR Bad data format", true),
            (restore(), "ERR DUMP payload version or checksum are wrong", true),
            (restore(), "BUSYKEY Target key name already exists.", false),
            (restore(), "OOM command not allowed when used memory > 'maxmemory'.", false),
            (function(), "ERR unknown command 'FUNCTION', with args beginning with: 'LOAD' ", true),
            (function(), "ERR Library 'l' already exists", false),
            (Pending::Select(3), "ERR DB index is out of range", false),
        ] {
            assert_eq!(unknown.take(&asked, text), taken, "{text}");
        }
        assert_eq!((unknown.keys, unknown.libraries, unknown.named.len()), (2, 1, 3));
    }
}
