//! A blocking connection that speaks RESP2 as a client does.
//!
//! A read or write that makes no progress for the connection's patience ends in an error, so nothing waits forever.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use dormouse_protocol::Response;
use socket2::{SockRef, TcpKeepalive};

use super::address::ServerAddress;
use crate::link::Link;

const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
const KEEPALIVE: Duration = Duration::from_secs(15);
const LINE_BYTES_MAX: u64 = 64 << 10;
const BUFFER_BYTES: usize = 64 << 10;

pub struct Connection {
    reader: BufReader<Link>,
}

impl Connection {
    /// Connects without logging in. Each read and write may take as long as `patience`.
    pub fn open(address: &ServerAddress, patience: Duration) -> io::Result<Self> {
        let stream = connect(address, patience)?;
        Ok(Connection { reader: BufReader::with_capacity(BUFFER_BYTES, stream) })
    }

    /// Returns a second handle to the same connection.
    pub fn stream(&self) -> Link {
        self.reader.get_ref().clone()
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    pub fn call(&mut self, words: &[&[u8]]) -> io::Result<Response> {
        let mut bytes = Vec::new();
        request(&mut bytes, words);
        self.write(&bytes)?;
        self.reply()
    }

    pub fn reply(&mut self) -> io::Result<Response> {
        Response::read(&mut self.reader)
    }

    /// Reads the start of an array and returns its number of elements, or reads any other reply whole. [`Self::reply`]
    /// reads the elements, so a large array is never in memory whole.
    pub fn array(&mut self) -> io::Result<Result<u64, Response>> {
        Response::read_array(&mut self.reader)
    }

    pub fn close(&self) {
        self.reader.get_ref().shutdown();
    }
}

/// Returns a connection, with keepalive, without Nagle's delay.
pub fn connect(address: &ServerAddress, patience: Duration) -> io::Result<Link> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for place in (address.host.as_str(), address.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&place, CONNECT_PATIENCE) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(patience))?;
                stream.set_write_timeout(Some(patience))?;
                SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
                return Link::new(stream, address.tls.as_ref(), &address.host);
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

/// Reads a line and strips its end. Lines of a source may end in a bare newline.
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
