//! A client of one database, which looks for a node that serves it.

use std::sync::Arc;
use std::time::Duration;

use dormouse_client_tests::resp::{Connection, Reply};

use super::eventually;

/// Longest wait for a login; then another node is tried. A node that is stopped still accepts connections.
const LOGIN_WITHIN: Duration = Duration::from_secs(3);
/// Longest wait for a reply. The server gives up before.
const REPLY_WITHIN: Duration = Duration::from_secs(4);

/// The outcome of a command.
#[derive(Debug)]
pub enum Outcome {
    Answered(Reply),
    /// It was not carried out, and never will be.
    Refused(String),
    /// It may have been carried out, or may yet be.
    Unknown(String),
}

pub struct Client {
    ports: Arc<[u16]>,
    token: String,
    /// The position of the node that was tried last.
    at: usize,
    connection: Option<Connection>,
}

impl Client {
    pub fn new(ports: Arc<[u16]>, token: &str) -> Self {
        Self { ports, token: token.to_owned(), at: 0, connection: None }
    }

    /// A client that asks this node first.
    pub fn beginning_at(ports: Arc<[u16]>, token: &str, at: usize) -> Self {
        Self { at, ..Self::new(ports, token) }
    }

    /// Runs a command once. A failure makes the next one look for a node.
    pub fn run<W: AsRef<[u8]>>(&mut self, words: &[W]) -> Outcome {
        let connection = match self.connection.take() {
            Some(connection) => Ok(connection),
            None => self.connect(),
        };
        let mut connection = match connection {
            Ok(connection) => connection,
            Err(problem) => return Outcome::Refused(problem),
        };
        match connection.try_call(words) {
            Err(problem) => {
                self.at += 1;
                Outcome::Unknown(problem.to_string())
            }
            Ok(reply) if reply.is_error() => {
                self.at += 1;
                let text = format!("{reply:?}");
                if text.contains("UNCERTAIN") { Outcome::Unknown(text) } else { Outcome::Refused(text) }
            }
            Ok(reply) => {
                self.connection = Some(connection);
                Outcome::Answered(reply)
            }
        }
    }

    /// The port that is asked next.
    pub fn port(&self) -> u16 {
        self.ports[self.at % self.ports.len()]
    }

    /// Gives a node up that does not answer others.
    pub fn leave(&mut self, port: u16) {
        if self.port() == port {
            self.connection = None;
            self.at += 1;
        }
    }

    /// Logs in at the next node.
    fn connect(&mut self) -> Result<Connection, String> {
        let connected = log_in(self.port(), &self.token);
        if connected.is_err() {
            self.at += 1;
        }
        connected
    }

    /// Runs a command, which may be carried out several times, until it is answered.
    pub fn insist(&mut self, line: &str) -> Reply {
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut last = None;
        let answered = dormouse_client_tests::wait_for(super::LIMIT, || match self.run(&words) {
            Outcome::Answered(reply) => Some(reply),
            other => {
                last = Some(other);
                None
            }
        });
        answered.unwrap_or_else(|| panic!("no answer to {line}: {last:?}"))
    }

    /// The port of the node that serves the database, even if another one passes the commands on.
    pub fn serving_port(&mut self) -> u16 {
        eventually("a node serves", || {
            let info = self.insist("INFO server");
            let text = String::from_utf8_lossy(info.bytes().unwrap_or_default()).into_owned();
            text.lines().find_map(|line| line.strip_prefix("tcp_port:")?.trim().parse().ok())
        })
    }
}

/// Connects to this node.
///
/// # Errors
/// When it cannot be reached or refuses the token, perhaps since another node serves the database.
pub fn log_in(port: u16, token: &str) -> Result<Connection, String> {
    let connect = || {
        let mut connection = Connection::try_open(port)?;
        connection.set_patience(LOGIN_WITHIN)?;
        let reply = connection.try_call(&["AUTH", token])?;
        connection.set_patience(REPLY_WITHIN)?;
        Ok::<_, std::io::Error>((connection, reply))
    };
    match connect() {
        Ok((connection, reply)) if !reply.is_error() => Ok(connection),
        Ok((_, reply)) => Err(format!("{reply:?}")),
        Err(problem) => Err(problem.to_string()),
    }
}
