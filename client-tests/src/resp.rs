//! A bare connection: requests as bytes, replies as trees that keep every spelling.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

pub use dormouse_protocol::Response as Reply;

/// One command: its words.
pub type Words = Vec<Vec<u8>>;

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

    /// Sets the time after which reads and writes give up.
    pub fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.stream.get_ref().set_read_timeout(Some(patience))?;
        self.stream.get_ref().set_write_timeout(Some(patience))
    }

    /// Sends bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Returns another handle to write with while the replies are read.
    pub fn writer(&self) -> TcpStream {
        self.stream.get_ref().try_clone().expect("a handle to a socket")
    }

    pub fn call<W: AsRef<[u8]>>(&mut self, words: &[W]) -> Reply {
        self.write(&request(words)).expect("the server reads");
        self.read().expect("the server replies")
    }

    /// Acts like `call`, for a server that may be gone.
    pub fn try_call<W: AsRef<[u8]>>(&mut self, words: &[W]) -> io::Result<Reply> {
        self.write(&request(words))?;
        self.read()
    }

    /// Calls words without spaces: `connection.run("SET k v")`.
    pub fn run(&mut self, line: &str) -> Reply {
        self.call(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// Waits until a reply begins. It allocates nothing.
    pub fn await_reply(&mut self) -> io::Result<()> {
        self.stream.fill_buf().map(drop)
    }

    /// Whether a reply has begun to arrive.
    pub fn has_reply(&self) -> bool {
        let socket = self.stream.get_ref();
        socket.set_nonblocking(true).expect("a socket can be asked without waiting");
        let arrived = !self.stream.buffer().is_empty() || matches!(socket.peek(&mut [0]), Ok(1));
        socket.set_nonblocking(false).expect("a socket can wait");
        arrived
    }

    pub fn read(&mut self) -> io::Result<Reply> {
        Reply::read(&mut self.stream)
    }

    /// Reads until the server closes the connection.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Ok(_) => {}
            // The server closed while unread bytes were on their way.
            Err(problem) if problem.kind() == io::ErrorKind::ConnectionReset => {}
            Err(problem) => {
                panic!("the server does not close the connection: {problem}; it said {}", bytes.escape_ascii())
            }
        }
        bytes
    }
}

/// Returns the words as a RESP array of bulk strings.
pub fn request<W: AsRef<[u8]>>(words: &[W]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words.iter().map(AsRef::as_ref) {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}
