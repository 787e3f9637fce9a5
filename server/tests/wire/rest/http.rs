//! Requests over a socket, and their answers.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

pub trait Socket: Read + Write {}
impl Socket for UnixStream {}
impl Socket for TcpStream {}

pub struct Http {
    stream: BufReader<Box<dyn Socket>>,
    /// Headers of every request.
    headers: String,
    /// Bytes that were read.
    taken: usize,
}

impl Http {
    pub fn over(socket: impl Socket + 'static) -> Self {
        Self { stream: BufReader::new(Box::new(socket)), headers: String::from("host: localhost\r\n"), taken: 0 }
    }

    pub fn at(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self::over(stream)
    }

    pub fn with(mut self, headers: &str) -> Self {
        headers.lines().for_each(|line| self.headers += &format!("{line}\r\n"));
        self
    }

    pub fn with_token(self, token: &str) -> Self {
        self.with(&format!("authorization: Bearer {token}"))
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    /// Sends `GET /path` or the like, with headers, and a body if there is one.
    pub fn send(&mut self, line: &str, headers: &str, body: &[u8]) {
        let request = self.request(line, headers, body);
        self.write(&request);
    }

    fn request(&self, line: &str, headers: &str, body: &[u8]) -> Vec<u8> {
        let mut head = format!("{line} HTTP/1.1\r\n{}", self.headers);
        headers.lines().for_each(|line| head += &format!("{line}\r\n"));
        if !body.is_empty() {
            head += &format!("content-length: {}\r\n", body.len());
        }
        [head.as_bytes(), b"\r\n", body].concat()
    }

    pub fn ask(&mut self, line: &str, headers: &str, body: &[u8]) -> Answer {
        self.send(line, headers, body);
        self.read(line.starts_with("HEAD"))
    }

    /// Sends a body to a path. Returns status and body of the answer.
    pub fn post(&mut self, path: &str, body: &str) -> String {
        self.ask(&format!("POST {path}"), "", body.as_bytes()).to_string()
    }

    pub fn get(&mut self, path: &str) -> String {
        self.ask(&format!("GET {path}"), "", b"").to_string()
    }

    /// Asks, and returns the bytes of the request and of the answer.
    pub fn exchange(&mut self, line: &str, body: &[u8]) -> (usize, usize) {
        let request = self.request(line, "", body);
        self.write(&request);
        self.taken = 0;
        self.read(false);
        (request.len(), self.taken)
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.taken += self.stream.read_line(&mut line).unwrap();
        line.trim_end_matches("\r\n").to_owned()
    }

    /// Reads the head of an answer.
    pub fn head(&mut self) -> Answer {
        let first = self.line();
        let status = first.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {first:?}")).parse().unwrap();
        let mut headers = Vec::new();
        loop {
            let line = self.line();
            let Some((name, value)) = line.split_once(": ") else { break };
            headers.push((name.to_owned(), value.to_owned()));
        }
        Answer { status, headers, body: Vec::new() }
    }

    pub fn read(&mut self, has_no_body: bool) -> Answer {
        let mut answer = self.head();
        if has_no_body || answer.status == 204 {
            return answer;
        }
        if let Some(length) = answer.header("content-length") {
            answer.body = vec![0; length.parse().unwrap()];
            self.stream.read_exact(&mut answer.body).unwrap();
            self.taken += answer.body.len();
        } else if answer.header("transfer-encoding") == Some("chunked") {
            while let Some(mut chunk) = self.chunk() {
                answer.body.append(&mut chunk);
            }
        }
        answer
    }

    /// Reads a chunk of a body; `None`: the last was read.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let length = self.line();
        let length = usize::from_str_radix(&length, 16).unwrap_or_else(|_| panic!("no chunk: {length:?}"));
        let mut chunk = vec![0; length];
        self.stream.read_exact(&mut chunk).unwrap();
        self.taken += length;
        assert_eq!(self.line(), "");
        (length > 0).then_some(chunk)
    }

    /// Reads a chunk; `None`: the stream has ended, in order or not.
    pub fn next_chunk(&mut self) -> Option<Vec<u8>> {
        let mut line = String::new();
        self.stream.read_line(&mut line).ok()?;
        let length = usize::from_str_radix(line.trim_end(), 16).ok().filter(|length| *length > 0)?;
        let mut chunk = vec![0; length + 2];
        self.stream.read_exact(&mut chunk).ok()?;
        chunk.truncate(length);
        Some(chunk)
    }

    /// Whether the server has closed the connection.
    pub fn is_closed(&mut self) -> bool {
        !matches!(self.stream.read(&mut [0]), Ok(1..))
    }
}

pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self}"))
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, String::from_utf8_lossy(&self.body))
    }
}
