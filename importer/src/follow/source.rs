//! The source: a Redis or Valkey that treats us as a replica.
//!
//! 1. `PING`, `AUTH`, `REPLCONF listening-port 0`, `REPLCONF capa eof capa psync2`, `REPLCONF version 9.1.2`.
//! 2. `PSYNC <replid> <offset of the next byte>`, or `PSYNC ? -1` if we have nothing.
//! 3. `+CONTINUE [new replid]`: the stream continues at that byte. `+FULLRESYNC replid offset`: empty lines while the
//!    source writes an RDB, then `$<bytes>` or `$EOF:<40 bytes that end it>`, the RDB, and the stream from `offset` on.
//! 4. From then on we owe an acknowledgement each second, or an empty line while we are still busy with the RDB.

use std::io::{self, BufRead, Read, Write};
use std::time::Duration;

use super::Interruption;
use super::address::ServerAddress;
use super::place::is_replid;
use super::wire::{closed, connect, read_line, request};
use crate::link::Link;

/// Limit of silence. By default, the source sends something every ten seconds, and every second while it waits for an
/// RDB.
const PATIENCE: Duration = Duration::from_secs(90);
const BUFFER_BYTES: usize = 128 << 10;
/// The Valkey version that we claim, since we can read its RDBs.
const VALKEY_VERSION: &str = "9.1.2";

/// The answer to PSYNC.
#[derive(Debug, PartialEq, Eq)]
pub enum SyncAnswer {
    /// An RDB comes, then the stream of this history from this offset on.
    Full { replid: String, offset: u64 },
    /// The stream continues, perhaps under a new name.
    Continue { replid: Option<String> },
}

/// The end of an RDB.
#[derive(Debug, PartialEq, Eq)]
pub enum Framing {
    Bytes(u64),
    Mark([u8; 40]),
}

/// Bytes of the source, in order. Some of them may be given back.
pub struct Feed {
    stream: Link,
    buffer: Vec<u8>,
    at: usize,
}

impl Feed {
    /// Connects and asks for what comes behind `have`, a history and an offset in it.
    pub fn open(address: &ServerAddress, have: Option<(&str, u64)>) -> Result<(Self, SyncAnswer), Interruption> {
        let name = format!("the source {address}");
        let dropped = |error: io::Error| Interruption::dropped(&name, &error);
        let stream = connect(address, PATIENCE).map_err(dropped)?;
        let mut feed = Feed { stream, buffer: Vec::new(), at: 0 };
        // The source may refuse this before AUTH. The error of AUTH then explains it better.
        let _ = feed.ask(&[b"PING"]).map_err(dropped)?;
        if let Some(words) = address.auth() {
            feed.ask(&words).map_err(dropped)?.map_err(|text| refusal(&name, &text))?;
        }
        // No port: the importer does not listen, and Sentinel must not take it for a replica that it could promote.
        feed.ask(&[b"REPLCONF", b"listening-port", b"0"]).map_err(dropped)?.map_err(|text| refusal(&name, &text))?;
        feed.ask(&[b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"])
            .map_err(dropped)?
            .map_err(|text| refusal(&name, &text))?;
        // Valkey sends RDBs of its own format to replicas that know it. The older format cannot express everything.
        // Redis has no such option, and says so.
        let _ = feed.ask(&[b"REPLCONF", b"version", VALKEY_VERSION.as_bytes()]).map_err(dropped)?;
        let reply = match have {
            Some((replid, offset)) => {
                let next = (offset + 1).to_string();
                feed.ask(&[b"PSYNC", replid.as_bytes(), next.as_bytes()])
            }
            None => feed.ask(&[b"PSYNC", b"?", b"-1"]),
        };
        let reply = reply.map_err(dropped)?.map_err(|text| refusal(&name, &text))?;
        let answer = parse_answer(&reply).ok_or_else(|| {
            Interruption::Final(format!("{name} answers PSYNC with {reply:?}, which this version does not know"))
        })?;
        Ok((feed, answer))
    }

    /// Returns how the coming RDB will end. Waits until the source has it.
    pub fn framing(&mut self) -> io::Result<Result<Framing, String>> {
        let line = self.line()?;
        if let Some(mark) = line.strip_prefix("$EOF:") {
            return match <[u8; 40]>::try_from(mark.as_bytes()) {
                Ok(mark) => Ok(Ok(Framing::Mark(mark))),
                Err(_) => Ok(Err(line)),
            };
        }
        Ok(line.strip_prefix('$').and_then(|bytes| bytes.parse().ok()).map(Framing::Bytes).ok_or(line))
    }

    /// Puts bytes back in front of what comes next.
    pub fn unread(&mut self, mut bytes: Vec<u8>) {
        bytes.extend_from_slice(&self.buffer[self.at..]);
        (self.buffer, self.at) = (bytes, 0);
    }

    /// A second handle to the same connection.
    pub fn stream(&self) -> Link {
        self.stream.clone()
    }

    fn ask(&mut self, words: &[&[u8]]) -> io::Result<Result<String, String>> {
        let mut bytes = Vec::new();
        request(&mut bytes, words);
        self.stream.write_all(&bytes)?;
        let line = self.line()?;
        match line.strip_prefix('-') {
            Some(error) => Ok(Err(error.to_string())),
            None => Ok(Ok(line.strip_prefix('+').unwrap_or(&line).to_string())),
        }
    }

    /// Returns the next line that is not empty. Empty lines only say that the source is alive.
    fn line(&mut self) -> io::Result<String> {
        loop {
            let line = read_line(self)?;
            if !line.is_empty() {
                return Ok(line);
            }
        }
    }
}

impl BufRead for Feed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.buffer.len() {
            self.buffer.resize(BUFFER_BYTES, 0);
            self.at = 0;
            let read = loop {
                match self.stream.read(&mut self.buffer) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    read => break read,
                }
            };
            self.buffer.truncate(*read.as_ref().unwrap_or(&0));
            read?;
        }
        Ok(&self.buffer[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount;
    }
}

impl Read for Feed {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(bytes.len());
        bytes[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

/// Tells the source how far we are.
pub fn acknowledge(mut stream: &Link, offset: u64) -> io::Result<()> {
    let mut bytes = Vec::new();
    request(&mut bytes, &[b"REPLCONF", b"ACK", offset.to_string().as_bytes()]);
    stream.write_all(&bytes)
}

/// Tells the source that we are alive, without reporting an offset yet.
pub fn breathe(mut stream: &Link) -> io::Result<()> {
    stream.write_all(b"\n")
}

/// A command of the stream: its bytes as they came, and the position of each word in them.
#[derive(Debug, Default)]
pub struct SourceCommand {
    pub bytes: Vec<u8>,
    words: Vec<(usize, usize)>,
}

impl SourceCommand {
    /// Reads the next command in place of this one.
    pub fn read(&mut self, input: &mut impl BufRead) -> io::Result<()> {
        self.bytes.clear();
        if self.bytes.capacity() > KEPT_BYTES {
            self.bytes = Vec::new();
        }
        self.words.clear();
        let count = self.header(input, b'*')?;
        for _ in 0..count {
            let length = self.header(input, b'$')?;
            let from = self.bytes.len();
            if from as u64 + length > COMMAND_BYTES_MAX {
                return Err(garbled("a command of more than a gigabyte"));
            }
            super::wire::read_bytes(input, length + 2, &mut self.bytes)?;
            self.words.push((from, from + length as usize));
        }
        if count == 0 { Err(garbled("a command without words")) } else { Ok(()) }
    }

    pub fn words(&self) -> impl Iterator<Item = &[u8]> {
        self.words.iter().map(|&(from, to)| &self.bytes[from..to])
    }

    pub fn word(&self, at: usize) -> &[u8] {
        self.words.get(at).map_or(&[], |&(from, to)| &self.bytes[from..to])
    }

    /// Reads a line such as `*3` or `$11`.
    fn header(&mut self, input: &mut impl BufRead, kind: u8) -> io::Result<u64> {
        let from = self.bytes.len();
        input.by_ref().take(HEADER_BYTES_MAX).read_until(b'\n', &mut self.bytes)?;
        let line = &self.bytes[from..];
        if line.is_empty() {
            return Err(closed());
        }
        let Some(digits) = line.strip_suffix(b"\r\n") else {
            return Err(if line.len() as u64 == HEADER_BYTES_MAX {
                garbled("a line without an end")
            } else {
                closed()
            });
        };
        let digits = digits.strip_prefix(&[kind]).filter(|digits| digits.iter().all(u8::is_ascii_digit));
        let number = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        number.filter(|&number| number <= COMMAND_BYTES_MAX).ok_or_else(|| garbled("something that is no command"))
    }
}

/// Buffer bytes kept from one command to the next.
const KEPT_BYTES: usize = 1 << 20;
const HEADER_BYTES_MAX: u64 = 32;
pub const COMMAND_BYTES_MAX: u64 = 1 << 30;

fn garbled(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the stream holds {what}"))
}

fn parse_answer(reply: &str) -> Option<SyncAnswer> {
    let words: Vec<&str> = reply.split_ascii_whitespace().collect();
    match words[..] {
        ["FULLRESYNC", replid, offset] if is_replid(replid) => {
            Some(SyncAnswer::Full { replid: replid.to_string(), offset: offset.parse().ok()? })
        }
        ["CONTINUE"] => Some(SyncAnswer::Continue { replid: None }),
        ["CONTINUE", replid] if is_replid(replid) => Some(SyncAnswer::Continue { replid: Some(replid.to_string()) }),
        _ => None,
    }
}

fn refusal(name: &str, text: &str) -> Interruption {
    let kind = text.split(' ').next().unwrap_or_default();
    if ["LOADING", "NOMASTERLINK", "BUSY", "TRYAGAIN", "MASTERDOWN"].contains(&kind) {
        return Interruption::Dropped(format!("{name} answers: {text}"));
    }
    let advice = match kind {
        "NOAUTH" | "WRONGPASS" => "; give user and password in the URL: redis://user:password@host:port",
        "NOPERM" => "; the user needs the rights +psync +replconf +ping +info (and +client for --pause-source)",
        _ if text.contains("unknown command") => {
            "; it lets no replicas in, as many managed services do not: export an RDB file there, and import that"
        }
        _ => "",
    };
    Interruption::Final(format!("{name} answers: {text}{advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_to_psync_are_understood() {
        let replid = "8de1787ba490483314a4d30f1c628bc5025eb761";
        let full = SyncAnswer::Full { replid: replid.to_string(), offset: 2443808505 };
        assert_eq!(parse_answer(&format!("FULLRESYNC {replid} 2443808505")), Some(full));
        assert_eq!(parse_answer("CONTINUE"), Some(SyncAnswer::Continue { replid: None }));
        assert_eq!(
            parse_answer(&format!("CONTINUE {replid}")),
            Some(SyncAnswer::Continue { replid: Some(replid.to_string()) })
        );
        for reply in ["OK", "FULLRESYNC", "FULLRESYNC a -1", "FULLRESYNC a\u{7f} 1", "CONTINUE a b"] {
            assert_eq!(parse_answer(reply), None, "{reply}");
        }
    }

    #[test]
    fn commands_keep_their_bytes() {
        let mut stream =
            &b"*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n*1\r\n$4\r\nPING\r\n*3\r\n$3\r\nSET\r\n$0\r\n\r\n$4\r\na\r\nb\r\n"[..];
        let mut command = SourceCommand::default();
        command.read(&mut stream).unwrap();
        assert_eq!((command.word(0), command.word(1), command.word(2)), (&b"SELECT"[..], &b"3"[..], &b""[..]));
        assert_eq!(command.bytes, b"*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n");
        command.read(&mut stream).unwrap();
        assert_eq!(command.word(0), b"PING");
        command.read(&mut stream).unwrap();
        assert_eq!((command.word(1), command.word(2)), (&b""[..], &b"a\r\nb"[..]));
        assert_eq!(command.read(&mut stream).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_is_no_command_ends_in_an_error() {
        use io::ErrorKind::{InvalidData, UnexpectedEof};
        for (bytes, kind) in [
            (&b"*1\r\n$4\r\nPI"[..], UnexpectedEof),
            (b"*1\r\n$4", UnexpectedEof),
            (b"*0\r\n", InvalidData),
            (b"*-1\r\n", InvalidData),
            (b"PING\r\n", InvalidData),
            (b"*1\r\n:4\r\n", InvalidData),
            (b"*1\r\n$99999999999\r\n", InvalidData),
            (b"*99999999999999999999999999999999999999\r\n", InvalidData),
            // A mere announcement of a length allocates nothing.
            (b"*1000000000\r\n$1000000000\r\nx", UnexpectedEof),
        ] {
            let error = SourceCommand::default().read(&mut &*bytes).unwrap_err();
            assert_eq!(error.kind(), kind, "{}", bytes.escape_ascii());
        }
    }
}
