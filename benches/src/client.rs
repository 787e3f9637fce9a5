//! A blocking connection for control, for single timed commands, and for filling a server.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::types::OwnedFrame;

use crate::Result;

/// Longer than any reply takes here: a server that hangs becomes an error instead of a hanging bench.
const REPLY_TIMEOUT: Duration = Duration::from_secs(180);

pub(crate) struct Client {
    stream: TcpStream,
    /// Bytes received and not yet read as a reply.
    input: Vec<u8>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
        stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
        Ok(Self { stream, input: Vec::new() })
    }

    /// Sends one command; returns its reply as text (nil as the empty one). An error reply is an error.
    pub fn call(&mut self, arguments: &[&str]) -> Result<String> {
        let mut request = Vec::new();
        command(&mut request, &arguments.iter().map(|argument| argument.as_bytes()).collect::<Vec<_>>());
        self.stream.write_all(&request)?;
        text(self.frame()?).map_err(|error| format!("{}: {error}", arguments.join(" ")).into())
    }

    /// Sends one command, whose reply comes later.
    pub fn send(&mut self, arguments: &[&str]) -> Result<()> {
        let mut request = Vec::new();
        command(&mut request, &arguments.iter().map(|argument| argument.as_bytes()).collect::<Vec<_>>());
        Ok(self.stream.write_all(&request)?)
    }

    /// Reads the reply of a sent command, of any kind. An error reply is an error.
    pub fn reply(&mut self) -> Result<()> {
        match self.frame()? {
            OwnedFrame::Error(error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// A number among the fields of an INFO section; `None` if the server has no such field.
    pub fn info(&mut self, section: &str, field: &str) -> Result<Option<u64>> {
        Ok(info_field(&self.call(&["INFO", section])?, field))
    }

    /// Checks `done` every millisecond until it holds.
    pub fn wait_until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + REPLY_TIMEOUT;
        while !done(self)? {
            if Instant::now() > deadline {
                return Err(format!("gave up waiting until {what}").into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Sends `count` commands, built by `write`, in pipelines of which the next is always under way.
    ///
    /// Fails if a reply is an error. Each reply must be a status, an integer, or a string of one line.
    pub fn fill(&mut self, count: u64, mut write: impl FnMut(u64, &mut Vec<u8>)) -> Result<()> {
        const PIPELINE: u64 = 500;
        let mut request = Vec::new();
        let mut unanswered = 0;
        let mut next = 0;
        while next < count {
            let end = count.min(next + PIPELINE);
            request.clear();
            (next..end).for_each(|index| write(index, &mut request));
            self.stream.write_all(&request)?;
            self.lines(unanswered)?;
            (unanswered, next) = (end - next, end);
        }
        self.lines(unanswered)?;
        if self.input.is_empty() { Ok(()) } else { Err("more replies than commands".into()) }
    }

    /// Sends `count` commands, built by `write`, a few at a time. Returns their replies as text.
    ///
    /// # Errors
    /// When a reply is an error.
    pub fn texts(&mut self, count: usize, write: impl Fn(usize, &mut Vec<u8>)) -> Result<Vec<String>> {
        const PIPELINE: usize = 16;
        let mut texts = Vec::with_capacity(count);
        while texts.len() < count {
            let (from, to) = (texts.len(), count.min(texts.len() + PIPELINE));
            let mut request = Vec::new();
            (from..to).for_each(|at| write(at, &mut request));
            self.stream.write_all(&request)?;
            for _ in from..to {
                texts.push(text(self.frame()?)?);
            }
        }
        Ok(texts)
    }

    /// Reads this many replies of one line each, with a line of its length before a string.
    fn lines(&mut self, mut count: u64) -> Result<()> {
        let mut consumed = 0;
        let mut is_string = false;
        while count > 0 {
            let Some(length) = self.input[consumed..].iter().position(|byte| *byte == b'\n') else {
                self.input.drain(..std::mem::take(&mut consumed));
                self.receive()?;
                continue;
            };
            let line = &self.input[consumed..consumed + length];
            match line.first() {
                Some(_) if is_string => (count, is_string) = (count - 1, false),
                Some(b'$') if line != b"$-1\r" => is_string = true,
                Some(b'+' | b':') => count -= 1,
                _ => return Err(format!("unexpected reply: {}", String::from_utf8_lossy(line).trim_end()).into()),
            }
            consumed += length + 1;
        }
        self.input.drain(..consumed);
        Ok(())
    }

    fn frame(&mut self) -> Result<OwnedFrame> {
        loop {
            if let Some((frame, consumed)) = decode(&self.input)? {
                self.input.drain(..consumed);
                return Ok(frame);
            }
            self.receive()?;
        }
    }

    fn receive(&mut self) -> Result<()> {
        let mut buffer = [0; 16 * 1024];
        let length = self.stream.read(&mut buffer)?;
        if length == 0 {
            return Err("the server closed the connection".into());
        }
        self.input.extend_from_slice(&buffer[..length]);
        Ok(())
    }
}

/// Appends a command in the form that clients send: an array of bulk strings.
pub(crate) fn command(request: &mut Vec<u8>, arguments: &[&[u8]]) {
    request.extend_from_slice(format!("*{}\r\n", arguments.len()).as_bytes());
    for argument in arguments {
        request.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        request.extend_from_slice(argument);
        request.extend_from_slice(b"\r\n");
    }
}

fn text(frame: OwnedFrame) -> Result<String> {
    match frame {
        OwnedFrame::SimpleString(bytes) | OwnedFrame::BulkString(bytes) => Ok(String::from_utf8(bytes)?),
        OwnedFrame::Integer(number) => Ok(number.to_string()),
        OwnedFrame::Null => Ok(String::new()),
        OwnedFrame::Error(error) => Err(error.into()),
        OwnedFrame::Array(frames) => {
            let texts: Result<Vec<String>> = frames.into_iter().map(text).collect();
            Ok(texts?.join("\n"))
        }
    }
}

/// The number of a `field:number` line.
pub(crate) fn info_field(info: &str, field: &str) -> Option<u64> {
    let value = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn writes_commands() {
        let mut request = Vec::new();
        command(&mut request, &[b"SET", b"k", b""]);
        assert_eq!(request, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n");
    }

    #[test]
    fn reads_info() {
        let info = "# Memory\r\nused_memory:1024\r\nused_memory_peak:2048\r\nmaxmemory_policy:noeviction\r\n";
        assert_eq!(info_field(info, "used_memory"), Some(1024));
        assert_eq!(info_field(info, "used_memory_peak"), Some(2048));
        assert_eq!(info_field(info, "used"), None);
        assert_eq!(info_field(info, "maxmemory_policy"), None);
    }

    /// A client of a server that has already sent `replies`.
    fn client_of(replies: &[u8]) -> (Client, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = Client::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(replies).unwrap();
        (client, server)
    }

    #[test]
    fn counts_one_line_replies() {
        let write = |_: u64, request: &mut Vec<u8>| command(request, &[b"PING"]);
        for (replies, expected) in [
            (&b"+OK\r\n:1\r\n+OK\r\n"[..], None),
            (b"$3\r\n:-0\r\n+OK\r\n$2\r\n$1\r\n", None),
            (b"+OK\r\n$-1\r\n+OK\r\n", Some("unexpected reply: $-1")),
            (b"+OK\r\n-OOM no\r\n+OK\r\n", Some("unexpected reply: -OOM no")),
            (b"+OK\r\n+OK\r\n+OK\r\n+OK\r\n", Some("more replies than commands")),
        ] {
            let (mut client, _server) = client_of(replies);
            let error = client.fill(3, write).err().map(|error| error.to_string());
            assert_eq!(error.as_deref(), expected);
        }
        let (mut client, server) = client_of(b"+OK\r\n");
        drop(server);
        assert!(client.fill(3, write).is_err());
    }

    #[test]
    fn reads_replies_as_text() {
        let (mut client, _server) = client_of(b"+OK\r\n:7\r\n$2\r\nhi\r\n$-1\r\n*2\r\n:1\r\n:2\r\n-ERR no\r\n");
        for expected in ["OK", "7", "hi", "", "1\n2"] {
            assert_eq!(client.call(&["X"]).unwrap(), expected);
        }
        assert_eq!(client.call(&["X", "y"]).unwrap_err().to_string(), "X y: ERR no");
    }
}
