//! A connection to the node that serves a client's database, up to the point from which it is the client's.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::fleet::Peering;

/// Time to connect: nodes are near each other.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for the other node to take the connection.
const TAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// Time for it to answer a login, which may have to bring the database into memory.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest line that is read.
const LINE_MAX: usize = 4 << 10;
/// Bytes that are read at once.
const READ_AT_ONCE: usize = 512;
/// After this time of silence a node is asked whether it still has the connection, then as often, for so many times.
const PROBE_AFTER: Duration = Duration::from_secs(15);
const PROBES: u32 = 3;

/// A connection to another node that belongs to a client.
#[derive(Debug)]
pub struct NodeLink {
    pub stream: TcpStream,
    pub node: Arc<Peering>,
    /// The beginning of the answer to the client's login.
    pub received: Vec<u8>,
    /// A request of the client that has yet to be sent.
    pub unsent: Vec<u8>,
}

/// The request of a client that leads to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstRequest<'a> {
    /// A login, which is sent together with the introduction.
    Login {
        request: &'a [u8],
        /// Whether the client wants a reply.
        is_answered: bool,
    },
    /// Any other request: it is sent when the other node has taken the connection.
    Other(&'a [u8]),
}

/// The outcome of an attempt.
#[derive(Debug)]
pub enum Dialled {
    Open(NodeLink),
    /// The other node has refused the login with this error, without `-` and the end of the line.
    Refused(Vec<u8>),
}

/// Why a node did not take a connection.
#[derive(Debug, thiserror::Error)]
pub enum LinkProblem {
    #[error("cannot be reached ({0})")]
    Unreachable(io::Error),
    #[error("does not take the connection ({0})")]
    Declined(String),
}

impl From<io::Error> for LinkProblem {
    fn from(error: io::Error) -> Self {
        Self::Unreachable(error)
    }
}

/// Opens a connection for a client.
///
/// # Errors
/// When the node cannot be reached, or does not take the connection. Nothing of the client but its login was sent then.
pub async fn dial(node: &Arc<Peering>, introduction: &[u8], first: FirstRequest<'_>) -> Result<Dialled, LinkProblem> {
    let mut stream = within(CONNECT_TIMEOUT, TcpStream::connect(&node.address)).await?;
    set_options(&stream);
    let mut read = Vec::new();
    let taken = async {
        match first {
            FirstRequest::Login { request, .. } => stream.write_all(&[introduction, request].concat()).await?,
            FirstRequest::Other(_) => stream.write_all(introduction).await?,
        }
        read_line(&mut stream, &mut read).await
    };
    let line = within(TAKE_TIMEOUT, taken).await?;
    if let Some(error) = line.strip_prefix(b"-") {
        return Err(LinkProblem::Declined(String::from_utf8_lossy(error).into_owned()));
    }
    if line != b"+OK" {
        return Err(LinkProblem::Declined("it does not speak for this fleet".to_owned()));
    }
    let mut unsent = Vec::new();
    match first {
        FirstRequest::Other(request) => unsent.extend_from_slice(request),
        FirstRequest::Login { is_answered: false, .. } => {}
        FirstRequest::Login { is_answered: true, .. } => {
            let error = within(LOGIN_TIMEOUT, read_error(&mut stream, &mut read)).await?;
            if let Some(error) = error {
                return Ok(Dialled::Refused(error));
            }
        }
    }
    Ok(Dialled::Open(NodeLink { stream, node: Arc::clone(node), received: read, unsent }))
}

async fn within<T>(time: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(time, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Sets the options of a connection between nodes. Without these it still works.
pub fn set_options(stream: &TcpStream) {
    let options = socket2::SockRef::from(stream);
    let _ = options.set_tcp_nodelay(true);
    let probes = socket2::TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_AFTER).with_retries(PROBES);
    let _ = options.set_tcp_keepalive(&probes);
}

/// Reads the error that a reply is. `None`: it is none, and its beginning is in `read`.
async fn read_error(stream: &mut TcpStream, read: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    while read.is_empty() {
        read_more(stream, read).await?;
    }
    if read[0] != b'-' {
        return Ok(None);
    }
    let line = read_line(stream, read).await?;
    Ok(Some(line[1..].to_vec()))
}

/// Takes a line out of what was read, without its end.
async fn read_line(stream: &mut TcpStream, read: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    loop {
        if let Some(end) = memchr::memmem::find(read, b"\r\n") {
            let mut line: Vec<u8> = read.drain(..end + 2).collect();
            line.truncate(end);
            return Ok(line);
        }
        if read.len() > LINE_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        read_more(stream, read).await?;
    }
}

async fn read_more(stream: &mut TcpStream, read: &mut Vec<u8>) -> io::Result<()> {
    let mut some = [0; READ_AT_ONCE];
    match stream.read(&mut some).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        n => {
            read.extend_from_slice(&some[..n]);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Dials a node that answers with `replies` and keeps the connection until it is told to end.
    async fn dialled(replies: &'static str, is_login: bool) -> Result<Dialled, LinkProblem> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let node = Arc::new(Peering { name: "b".into(), address, http: None });
        let serve = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(replies.as_bytes()).await.unwrap();
            let mut got = vec![0; 5];
            stream.read_exact(&mut got).await.unwrap();
            got
        });
        let first = match is_login {
            true => FirstRequest::Login { request: b"LOGIN", is_answered: true },
            false => FirstRequest::Other(b"OTHER"),
        };
        let outcome = dial(&node, b"INTRO", first).await;
        assert_eq!(serve.await.unwrap(), b"INTRO");
        outcome
    }

    #[tokio::test]
    async fn a_login_is_taken_or_refused() {
        let Ok(Dialled::Open(link)) = dialled("+OK\r\n%7\r\n+pa", true).await else { panic!("not taken") };
        assert_eq!((&*link.received, &*link.unsent), (&b"%7\r\n+pa"[..], &b""[..]));
        let Ok(Dialled::Refused(error)) = dialled("+OK\r\n-WRONGPASS no\r\n", true).await else { panic!("taken") };
        assert_eq!(error, b"WRONGPASS no");
        let Ok(Dialled::Open(link)) = dialled("+OK\r\n", false).await else { panic!("not taken") };
        assert_eq!((&*link.received, &*link.unsent), (&b""[..], &b"OTHER"[..]));
    }

    #[tokio::test]
    async fn a_node_that_does_not_take_it_is_named_with_its_reason() {
        for (replies, part) in [
            ("-NOPERM no\r\n", "does not take the connection (NOPERM no)"),
            ("HTTP/1.1 400 Bad\r\n", "does not speak for this fleet"),
            ("+OK", "cannot be reached"),
            ("", "cannot be reached"),
        ] {
            let problem = dialled(replies, true).await.unwrap_err().to_string();
            assert!(problem.contains(part), "{replies}: {problem}");
        }
        let long: &'static str = Box::leak("x".repeat(3 * LINE_MAX).into_boxed_str());
        assert!(dialled(long, true).await.is_err(), "a line without an end is not kept");
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        let node = Arc::new(Peering { name: "b".into(), address: closed, http: None });
        assert!(matches!(dial(&node, b"", FirstRequest::Other(b"")).await, Err(LinkProblem::Unreachable(_))));
    }
}
