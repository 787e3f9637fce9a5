//! A bare connection: requests as bytes, replies as trees that keep every spelling.

use std::{
    fmt,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

/// One command: its words.
pub type Words = Vec<Vec<u8>>;

/// A reply, numbers as they were spelled: two replies are equal when their bytes are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reply {
    /// `+ - : , # (` and what follows until the line's end.
    Line(char, String),
    /// `$ =`, or a null one (`$-1`).
    Bulk(char, Option<Vec<u8>>),
    /// `* ~ % >`, a map's keys and values in turn, or a null one (`*-1`).
    Many(char, Option<Vec<Reply>>),
    /// RESP3's `_`.
    Null,
}

impl Reply {
    pub fn error(text: &str) -> Self {
        Self::Line('-', text.into())
    }

    pub fn items(&self) -> Option<&[Reply]> {
        if let Self::Many(_, Some(items)) = self { Some(items) } else { None }
    }

    pub fn is_error(&self) -> bool {
        matches!(self, Self::Line('-', _))
    }

    /// What a simple string, number or bulk says.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Line(_, line) => Some(line.as_bytes()),
            Self::Bulk(_, Some(bytes)) => Some(bytes),
            _ => None,
        }
    }

    pub fn number(&self) -> Option<f64> {
        std::str::from_utf8(self.bytes()?).ok()?.parse().ok()
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(kind, line) => write!(f, "{kind}{line}"),
            Self::Bulk(_, None) => write!(f, "$-1"),
            Self::Bulk(kind, Some(bytes)) if bytes.len() > 200 => {
                write!(f, "{kind}\"{}...\" ({} bytes)", bytes[..100].escape_ascii(), bytes.len())
            }
            Self::Bulk('$', Some(bytes)) => write!(f, "\"{}\"", bytes.escape_ascii()),
            Self::Bulk(kind, Some(bytes)) => write!(f, "{kind}\"{}\"", bytes.escape_ascii()),
            Self::Many(kind, None) => write!(f, "{kind}-1"),
            Self::Many(kind, Some(items)) => {
                write!(f, "{kind}")?;
                f.debug_list().entries(items.iter().take(60)).finish()?;
                if items.len() > 60 { write!(f, " ({} items)", items.len()) } else { Ok(()) }
            }
            Self::Null => write!(f, "_"),
        }
    }
}

pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub fn open(port: u16) -> Self {
        Self::try_open(port).expect("the server accepts connections")
    }

    pub fn try_open(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        // A server that does not answer fails the test instead of hanging it.
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.set_write_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Another handle to write with while the replies are read.
    pub fn writer(&self) -> TcpStream {
        self.stream.get_ref().try_clone().expect("a handle to a socket")
    }

    pub fn call<W: AsRef<[u8]>>(&mut self, words: &[W]) -> Reply {
        self.write(&request(words)).expect("the server reads");
        self.read().expect("the server replies")
    }

    /// `call` of a server that may be gone.
    pub fn try_call<W: AsRef<[u8]>>(&mut self, words: &[W]) -> io::Result<Reply> {
        self.write(&request(words))?;
        self.read()
    }

    /// `call` for words without spaces: `connection.run("SET k v")`.
    pub fn run(&mut self, line: &str) -> Reply {
        self.call(&line.split_whitespace().collect::<Vec<_>>())
    }

    pub fn read(&mut self) -> io::Result<Reply> {
        let line = self.line()?;
        let (kind, rest) = (line.chars().next().unwrap_or('\n'), line.get(1..).unwrap_or_default());
        let length = || rest.parse::<i64>().map_err(|_| io::Error::other(format!("a reply starts with `{line}`")));
        Ok(match kind {
            '+' | '-' | ':' | ',' | '#' | '(' => Reply::Line(kind, rest.into()),
            '_' => Reply::Null,
            '$' | '=' => match length()? {
                -1 => Reply::Bulk(kind, None),
                length => {
                    let mut bytes = vec![0; length as usize + 2];
                    self.stream.read_exact(&mut bytes)?;
                    bytes.truncate(length as usize);
                    Reply::Bulk(kind, Some(bytes))
                }
            },
            '*' | '~' | '%' | '>' => match length()? * if kind == '%' { 2 } else { 1 } {
                -1 => Reply::Many(kind, None),
                length => Reply::Many(kind, Some((0..length).map(|_| self.read()).collect::<io::Result<_>>()?)),
            },
            _ => return Err(io::Error::other(format!("a reply starts with `{line}`"))),
        })
    }

    /// Whatever comes until the server closes the connection.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Ok(_) => {}
            // The server closed while bytes that it never read were on their way.
            Err(problem) if problem.kind() == io::ErrorKind::ConnectionReset => {}
            Err(problem) => {
                panic!("the server does not close the connection: {problem}; it said {}", bytes.escape_ascii())
            }
        }
        bytes
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match line.strip_suffix(b"\r\n") {
            Some(line) => Ok(String::from_utf8_lossy(line).into_owned()),
            None => Err(io::Error::other(format!("a line without its end: {}", line.escape_ascii()))),
        }
    }
}

/// The words as a RESP array of bulk strings.
pub fn request<W: AsRef<[u8]>>(words: &[W]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words.iter().map(AsRef::as_ref) {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}
