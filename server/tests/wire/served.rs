//! A real server in this process, and connections that speak RESP to it.

use std::ffi::OsString;
use std::fmt;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dormouse::cli::Invocation;
use dormouse::server::Server;
use dormouse_client_tests::ports::free_port;
use dormouse_protocol::Response;

pub const ADMIN_TOKEN: &str = "the-admin-token";

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Served {
    port: u16,
    /// 0: it serves no HTTP.
    pub http_port: u16,
    token: Option<String>,
    thread: Option<JoinHandle<Result<(), dormouse::server::Failure>>>,
}

impl Served {
    /// Starts a server over a store in memory, with these additional options. If they name tokens, it also has an admin
    /// token.
    pub fn start(more: &[&str]) -> Self {
        Self::launch(more, false)
    }

    /// The same with an HTTP port.
    pub fn start_http(more: &[&str]) -> Self {
        Self::launch(more, true)
    }

    fn launch(more: &[&str], has_http: bool) -> Self {
        let token = more.iter().position(|word| *word == "--token").map(|at| more[at + 1].to_string());
        let admin: &[&str] = if token.is_some() { &["--admin-token", ADMIN_TOKEN] } else { &[] };
        let (port, http_port) = (free_port(), if has_http { free_port() } else { 0 });
        let ports = [port.to_string(), http_port.to_string()];
        let words =
            ["dormouse", "--port", &ports[0], "--http-port", &ports[1], "--store", "memory://", "--workers", "2"];
        let words = words.iter().chain(more).chain(admin).map(OsString::from);
        let Invocation::Serve(options) = Invocation::parse(words, []).unwrap() else { unreachable!() };
        let server = Server::start(*options).unwrap();
        let thread = std::thread::spawn(move || server.run());
        Self { port, http_port, token, thread: Some(thread) }
    }

    /// Opens a connection that has presented the first token, if there are any.
    pub fn connect(&self) -> Connection {
        match &self.token {
            Some(token) => self.connect_with(token),
            None => self.connect_without(),
        }
    }

    pub fn connect_with(&self, token: &str) -> Connection {
        let mut connection = self.connect_without();
        assert_eq!(connection.run(&["AUTH", token]).to_string(), "+OK");
        connection
    }

    /// Opens a connection with rights to the whole server.
    pub fn connect_as_admin(&self) -> Connection {
        let mut connection = self.connect_without();
        if self.token.is_some() {
            assert_eq!(connection.run(&["AUTH", "admin", ADMIN_TOKEN]).to_string(), "+OK");
        }
        connection
    }

    pub fn connect_without(&self) -> Connection {
        Connection::open(self.port)
    }

    #[allow(dead_code, reason = "others connect by `connect`")]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Waits for the end of the server. Returns its result.
    pub fn ended(mut self) -> Result<(), dormouse::server::Failure> {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.connect_as_admin().send(&["SHUTDOWN", "NOSAVE"]);
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap().unwrap();
            }
        }
    }
}

pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects to a port on this machine.
    pub fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    /// Sends a command and reads its reply.
    pub fn run(&mut self, words: &[&str]) -> Value {
        self.send(words);
        self.read().unwrap_or_else(|| panic!("the server closed the connection at {words:?}"))
    }

    /// The same; spaces separate the words.
    pub fn say(&mut self, line: &str) -> Value {
        self.run(&line.split(' ').collect::<Vec<_>>())
    }

    /// Repeats a command until its reply satisfies `wanted`.
    pub fn say_until(&mut self, line: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let reply = self.say(line);
            if wanted(&reply) {
                return reply;
            }
            assert!(start.elapsed() < PATIENCE, "{line} goes on answering {reply}");
        }
    }

    pub fn send(&mut self, words: &[&str]) {
        let mut request = format!("*{}\r\n", words.len());
        words.iter().for_each(|word| request += &format!("${}\r\n{word}\r\n", word.len()));
        self.write(request.as_bytes());
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.try_write(bytes).unwrap();
    }

    /// The same, but the server may have closed the connection.
    pub fn try_write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// The next line that is not empty.
    #[allow(dead_code, reason = "only replicas read lines")]
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        while line.trim().is_empty() {
            line.clear();
            assert!(self.stream.read_line(&mut line).unwrap() > 0, "the server closed the connection");
        }
        line.trim().to_owned()
    }

    #[allow(dead_code, reason = "only replicas read an RDB")]
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// The bytes before `mark`; `None` if the server has closed the connection.
    #[allow(dead_code, reason = "only replicas read an RDB")]
    pub fn bytes_until(&mut self, mark: &[u8]) -> Option<Vec<u8>> {
        let (mut bytes, mut one) = (Vec::new(), [0]);
        while !bytes.ends_with(mark) {
            match self.stream.read(&mut one) {
                Ok(1) => bytes.push(one[0]),
                _ => return None,
            }
        }
        bytes.truncate(bytes.len() - mark.len());
        Some(bytes)
    }

    /// The next reply or message; `None` if the server has closed the connection.
    pub fn read(&mut self) -> Option<Value> {
        match Response::read(&mut self.stream) {
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof) => None,
            read => Some(Value::of(read.unwrap())),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(String),
    Null,
    Array(Vec<Value>),
    Set(Vec<Value>),
    Push(Vec<Value>),
    /// Alternating keys and values.
    Map(Vec<Value>),
}

impl Value {
    fn of(reply: Response) -> Self {
        let several = |items: Vec<Response>| items.into_iter().map(Self::of).collect();
        match reply {
            Response::Line('+', text) => Self::Simple(text),
            Response::Line('-', text) => Self::Error(text),
            Response::Line(':', digits) => Self::Integer(digits.parse().unwrap()),
            Response::Bulk('=', Some(bytes)) => Self::Bulk(String::from_utf8(bytes).unwrap()[4..].into()),
            Response::Bulk('$', Some(bytes)) => Self::Bulk(String::from_utf8(bytes).unwrap()),
            Response::Many('*', Some(items)) => Self::Array(several(items)),
            Response::Many('~', Some(items)) => Self::Set(several(items)),
            Response::Many('>', Some(items)) => Self::Push(several(items)),
            Response::Many('%', Some(items)) => Self::Map(several(items)),
            reply if reply.is_null() => Self::Null,
            reply => panic!("no test expects {reply:?}"),
        }
    }

    pub fn text(&self) -> &str {
        match self {
            Self::Simple(text) | Self::Bulk(text) | Self::Error(text) => text,
            other => panic!("{other} is no text"),
        }
    }

    pub fn integer(&self) -> i64 {
        match self {
            Self::Integer(integer) => *integer,
            other => panic!("{other} is no integer"),
        }
    }

    pub fn items(&self) -> &[Value] {
        match self {
            Self::Array(items) | Self::Set(items) | Self::Push(items) | Self::Map(items) => items,
            other => panic!("{other} has no items"),
        }
    }

    /// The value of `name` in a map, or in an array of names and values.
    pub fn at(&self, name: &str) -> &Value {
        let mut pairs = self.items().chunks_exact(2);
        pairs.find(|pair| pair[0].text() == name).map(|pair| &pair[1]).unwrap_or_else(|| panic!("no {name} in {self}"))
    }

    /// The value of `name:value` among the lines of `INFO`.
    pub fn field(&self, name: &str) -> &str {
        let lines = self.text().lines();
        let mut values = lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        values.next().unwrap_or_else(|| panic!("no {name} in {self}"))
    }
}

/// Compact: `+OK`, `-ERR ...`, `:1`, `"text"`, `nil`, `[...]`, `{...}`, `(...)`, `>[...]`.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut several = |open: &str, items: &[Value], close: &str| {
            f.write_str(open)?;
            for (at, item) in items.iter().enumerate() {
                f.write_str(if at > 0 { " " } else { "" })?;
                item.fmt(f)?;
            }
            f.write_str(close)
        };
        match self {
            Self::Array(items) => several("[", items, "]"),
            Self::Set(items) => several("(", items, ")"),
            Self::Push(items) => several(">[", items, "]"),
            Self::Map(items) => several("{", items, "}"),
            Self::Simple(text) => write!(f, "+{text}"),
            Self::Error(text) => write!(f, "-{text}"),
            Self::Integer(integer) => write!(f, ":{integer}"),
            Self::Bulk(text) => write!(f, "{text:?}"),
            Self::Null => f.write_str("nil"),
        }
    }
}
