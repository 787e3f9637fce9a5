//! A server with its HTTP port in this process, and clients of both ports.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dormouse::cli::Invocation;
use dormouse::server::{Failure, Server};
use dormouse_client_tests::ports::free_port;
use dormouse_protocol::Response;
use serde_json::Value;

pub const ADMIN_TOKEN: &str = "the-admin-token";
/// Longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Running {
    pub port: u16,
    pub http_port: u16,
    thread: Option<JoinHandle<Result<(), Failure>>>,
}

impl Running {
    /// Starts a server with the admin token and these additional options.
    pub fn start(store: &str, more: &[&str]) -> Self {
        let (port, http_port) = (free_port(), free_port());
        let ports = [port.to_string(), http_port.to_string()];
        let words = ["dormouse", "--port", &ports[0], "--http-port", &ports[1], "--store", store, "--workers", "2"];
        let words = words.iter().chain(&["--admin-token", ADMIN_TOKEN]).chain(more).map(OsString::from);
        let Invocation::Serve(options) = Invocation::parse(words, []).unwrap() else { unreachable!() };
        let server = Server::start(*options).unwrap();
        Self { port, http_port, thread: Some(std::thread::spawn(move || server.run())) }
    }

    /// Sends a request of the API, and returns the status and the body of the answer.
    pub fn call(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        self.call_with(method, path, &format!("authorization: Bearer {ADMIN_TOKEN}\r\n"), body.as_bytes())
    }

    pub fn call_with(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> (u16, Value) {
        let (head, body) = self.raw(method, path, headers, body);
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{method} {path}: no JSON: {body}"));
        (status, value)
    }

    /// The head and the body of an answer.
    pub fn raw(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> (String, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http_port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: db.example:{}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n",
            self.http_port
        );
        // The server may refuse before it has read all.
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {method} {path}"));
        (head.to_owned(), body.to_owned())
    }

    /// The body of a request that succeeds.
    #[track_caller]
    pub fn done(&self, method: &str, path: &str, body: &str) -> Value {
        let (status, value) = self.call(method, path, body);
        assert!((200..300).contains(&status), "{method} {path} {body}: {status} {value}");
        value
    }

    /// Makes a database, and returns its token.
    #[track_caller]
    pub fn create(&self, body: &str) -> String {
        self.done("POST", "/v1/databases", body)["token"].as_str().unwrap().to_owned()
    }

    pub fn connect(&self) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream: BufReader::new(stream) }
    }

    /// A connection that has shown a token.
    #[track_caller]
    pub fn enter(&self, token: &str) -> Client {
        let mut client = self.connect();
        client.check(&format!("AUTH {token}"), "+OK");
        client
    }

    /// Ends the server as a signal would.
    pub fn stop(mut self) {
        self.end("SHUTDOWN");
    }

    fn end(&mut self, how: &str) {
        let Some(thread) = self.thread.take() else { return };
        let mut admin = self.connect();
        let _ = admin.try_say(&format!("AUTH admin {ADMIN_TOKEN}"));
        let _ = admin.try_say(how);
        let ended = thread.join();
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end("SHUTDOWN NOSAVE");
    }
}

pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Sends a line of words and returns the reply; `None` if the connection is closed.
    pub fn try_say(&mut self, line: &str) -> Option<Response> {
        let words: Vec<&str> = line.split(' ').collect();
        let mut request = format!("*{}\r\n", words.len());
        words.iter().for_each(|word| request += &format!("${}\r\n{word}\r\n", word.len()));
        self.stream.get_mut().write_all(request.as_bytes()).ok()?;
        Response::read(&mut self.stream).ok()
    }

    /// The reply as one line: `+OK`, `-ERR ...`, `:1`, `$text`, `nil`.
    #[track_caller]
    pub fn say(&mut self, line: &str) -> String {
        match self.try_say(line) {
            Some(Response::Line(kind, text)) => format!("{kind}{text}"),
            Some(Response::Bulk(_, Some(text))) => format!("${}", String::from_utf8_lossy(&text)),
            Some(reply) if reply.is_null() => "nil".to_owned(),
            Some(reply) => format!("{} elements", reply.items().unwrap().len()),
            None => "closed".to_owned(),
        }
    }

    #[track_caller]
    pub fn check(&mut self, line: &str, expected: &str) {
        let reply = self.say(line);
        assert!(reply.starts_with(expected), "{line}: {reply}, not {expected}");
    }

    /// Waits until the server closes the connection.
    pub fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        loop {
            match self.stream.fill_buf() {
                Ok([]) => return true,
                Ok(bytes) => {
                    let count = bytes.len();
                    rest.extend_from_slice(bytes);
                    self.stream.consume(count);
                }
                Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    }
}

/// Waits until something holds.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "still not: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
