//! A blocking connection that speaks RESP2 as a client does.
//!
//! Written by hand rather than over `redis-protocol`: that one reads a reply again from its first byte whenever a piece of
//! it arrives, and has no limit of depth. Here a reply is read once, from a buffered socket, and costs no memory that did
//! not arrive.
//!
//! A read or write that makes no progress for the connection's patience ends in an error, so nothing waits forever.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use super::address::Address;

const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
const KEEPALIVE: Duration = Duration::from_secs(15);
const LINE_BYTES_MAX: u64 = 64 << 10;
const BULK_BYTES_MAX: u64 = 512 << 20;
const DEPTH_MAX: usize = 16;
const BUFFER_BYTES: usize = 64 << 10;

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Simple(String),
    Error(String),
    Number(i64),
    Bulk(Vec<u8>),
    Array(Vec<Reply>),
    Null,
}

impl Reply {
    /// The text of an error, for who takes any other reply for success.
    pub fn checked(self) -> Result<Self, String> {
        match self {
            Self::Error(text) => Err(text),
            reply => Ok(reply),
        }
    }
}

pub struct Connection {
    reader: BufReader<TcpStream>,
}

impl Connection {
    /// Connects without saying who we are. Each read and write may take as long as `patience`.
    pub fn open(address: &Address, patience: Duration) -> io::Result<Self> {
        let stream = connect(address, patience)?;
        Ok(Connection { reader: BufReader::with_capacity(BUFFER_BYTES, stream) })
    }

    /// A second handle to the same socket.
    pub fn stream(&self) -> io::Result<TcpStream> {
        self.reader.get_ref().try_clone()
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    pub fn call(&mut self, words: &[&[u8]]) -> io::Result<Reply> {
        let mut bytes = Vec::new();
        request(&mut bytes, words);
        self.write(&bytes)?;
        self.reply()
    }

    pub fn reply(&mut self) -> io::Result<Reply> {
        read_reply(&mut self.reader, 0)
    }

    /// How many elements the next reply has, where it is an array; else that reply. The elements are read by
    /// [`Self::reply`], so that a large array is never in memory whole.
    pub fn array(&mut self) -> io::Result<Result<u64, Reply>> {
        let line = read_line(&mut self.reader)?;
        match line.strip_prefix('*') {
            Some("-1") => Ok(Err(Reply::Null)),
            Some(count) => Ok(Ok(count.parse().map_err(|_| unexpected(&line))?)),
            None => read_rest(&mut self.reader, &line, 0).map(Err),
        }
    }

    pub fn close(&self) {
        // It may be closed already.
        let _ = self.reader.get_ref().shutdown(Shutdown::Both);
    }
}

/// A connected socket, with keepalive, without Nagle's delay.
pub fn connect(address: &Address, patience: Duration) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for place in (address.host.as_str(), address.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&place, CONNECT_PATIENCE) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(patience))?;
                stream.set_write_timeout(Some(patience))?;
                SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
                return Ok(stream);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Appends a command.
pub fn request(bytes: &mut Vec<u8>, words: &[&[u8]]) {
    bytes.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
}

/// A line without its end. Lines of a source may end in a bare newline.
pub fn read_line(input: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    match line.strip_suffix(b"\n") {
        Some(line) => Ok(String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned()),
        None if line.len() as u64 == LINE_BYTES_MAX => Err(io::Error::other("a line without an end")),
        None => Err(closed()),
    }
}

/// Appends `count` bytes, which take memory only as they arrive.
pub fn read_bytes(input: &mut impl Read, count: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    let read = input.by_ref().take(count).read_to_end(bytes)?;
    if (read as u64) < count { Err(closed()) } else { Ok(()) }
}

pub fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed")
}

fn unexpected(line: &str) -> io::Error {
    let start: String = line.chars().take(80).collect();
    io::Error::new(io::ErrorKind::InvalidData, format!("a reply that starts with {start:?}"))
}

fn read_reply(input: &mut impl BufRead, depth: usize) -> io::Result<Reply> {
    let line = read_line(input)?;
    read_rest(input, &line, depth)
}

fn read_rest(input: &mut impl BufRead, line: &str, depth: usize) -> io::Result<Reply> {
    let mut chars = line.chars();
    let kind = chars.next();
    let text = chars.as_str();
    let number = || text.parse::<i64>().map_err(|_| unexpected(line));
    Ok(match kind {
        Some('+') => Reply::Simple(text.to_string()),
        Some('-') => Reply::Error(text.to_string()),
        Some(':') => Reply::Number(number()?),
        Some('$') => match u64::try_from(number()?) {
            Ok(length) if length <= BULK_BYTES_MAX => {
                let mut bytes = Vec::new();
                read_bytes(input, length + 2, &mut bytes)?;
                bytes.truncate(length as usize);
                Reply::Bulk(bytes)
            }
            Ok(_) => return Err(unexpected(line)),
            Err(_) => Reply::Null,
        },
        Some('*') if depth < DEPTH_MAX => match u64::try_from(number()?) {
            Ok(count) => {
                let mut items = Vec::new();
                for _ in 0..count {
                    items.push(read_reply(input, depth + 1)?);
                }
                Reply::Array(items)
            }
            Err(_) => Reply::Null,
        },
        _ => return Err(unexpected(line)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> io::Result<Reply> {
        read_reply(&mut &*bytes, 0)
    }

    #[test]
    fn replies_are_read() {
        let expected = Reply::Array(vec![
            Reply::Simple("OK".into()),
            Reply::Error("ERR no".into()),
            Reply::Number(-7),
            Reply::Bulk(b"a\r\nb".to_vec()),
            Reply::Null,
            Reply::Null,
        ]);
        assert_eq!(read(b"*6\r\n+OK\r\n-ERR no\r\n:-7\r\n$4\r\na\r\nb\r\n$-1\r\n*-1\r\n").unwrap(), expected);
    }

    #[test]
    fn what_is_no_reply_ends_in_an_error() {
        for bytes in
            [&b""[..], b"+OK", b"?\r\n", b"$5\r\nab\r\n", b"$99999999999\r\n", b":x\r\n", b"*2\r\n:1\r\n", b"\r\n"]
        {
            assert!(read(bytes).is_err(), "{}", bytes.escape_ascii());
        }
        // Nothing is allocated for what only a number announces.
        assert!(read(b"$536870912\r\nab").is_err());
        assert!(read(b"*9000000000000000000\r\n:1\r\n").is_err());
        assert!(read(&b"*1\r\n".repeat(100_000)).is_err());
        assert!(read(&vec![b'+'; 1 << 20]).is_err());
    }
}
