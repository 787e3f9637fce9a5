//! The sockets of clients: TCP, Unix, TLS.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::clients::Client;
use crate::node::Node;
use crate::peer::Peer;
use crate::tls::{MovedTlsSocket, TlsSocket};

/// A socket without an event loop.
#[derive(Debug)]
pub enum Accepted {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
    Tls(Box<MovedTlsSocket>),
}

/// A connection's place among the clients before it is served.
pub enum Entrant {
    /// It has none.
    New(Peer),
    /// It is among the strangers.
    Listed(ListedClient),
}

/// A client in the list of the node. It is removed when this is dropped.
pub struct ListedClient {
    pub client: Arc<Client>,
    pub node: Arc<Node>,
}

impl Drop for ListedClient {
    fn drop(&mut self) {
        self.node.clients.remove(self.client.id);
    }
}

#[derive(Debug)]
pub enum ClientSocket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsSocket>),
}

impl AsFd for ClientSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
            Self::Tls(stream) => stream.as_fd(),
        }
    }
}

impl AsRawFd for ClientSocket {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Tcp(stream) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
            Self::Tls(stream) => stream.as_raw_fd(),
        }
    }
}

impl ClientSocket {
    /// Takes an accepted socket into the event loop of the calling thread.
    ///
    /// # Errors
    /// When the event loop refuses.
    pub fn adopt(accepted: Accepted) -> io::Result<Self> {
        Ok(match accepted {
            Accepted::Tcp(stream) => Self::Tcp(TcpStream::from_std(stream)?),
            Accepted::Unix(stream) => Self::Unix(UnixStream::from_std(stream)?),
            Accepted::Tls(moved) => Self::Tls(Box::new(TlsSocket::enter(*moved)?)),
        })
    }

    /// Whose certificate the client has shown, if it has.
    pub fn client_subject(&self) -> Option<String> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => None,
            Self::Tls(socket) => socket.client_subject(),
        }
    }

    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => stream.poll_read(cx, buffer),
        }
    }

    /// Whether there is something to read. If not, the task is woken when there is.
    pub fn has_bytes(&self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx).is_ready(),
            Self::Unix(stream) => stream.poll_read_ready(cx).is_ready(),
            Self::Tls(stream) => stream.has_bytes(cx),
        }
    }

    /// Accepts bytes to send: see [`Self::is_flushed`].
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => stream.poll_write(cx, bytes),
        }
    }

    /// Whether all bytes that it has accepted are sent: TLS keeps some that are sealed.
    pub fn is_flushed(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) => true,
            Self::Tls(stream) => stream.is_flushed(),
        }
    }

    /// Accepts bytes to send, or without any sends those that it has accepted.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tls(stream) if bytes.is_empty() => stream.poll_flush(cx).map_ok(|()| 0),
            _ => self.poll_write(cx, bytes),
        }
    }

    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Sends what it has accepted.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => stream.poll_flush(cx),
        }
    }

    /// Ends its sending side.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => {
                stream.close();
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Takes it out of its event loop.
    ///
    /// # Errors
    /// When the event loop refuses.
    pub fn leave(self) -> io::Result<Accepted> {
        Ok(match self {
            Self::Tcp(stream) => Accepted::Tcp(stream.into_std()?),
            Self::Unix(stream) => Accepted::Unix(stream.into_std()?),
            Self::Tls(stream) => Accepted::Tls(Box::new(stream.leave()?)),
        })
    }

    /// Charges what it keeps to a client from now on.
    pub fn charge_to(&mut self, client: &Arc<Client>) {
        if let Self::Tls(stream) = self {
            stream.charge_to(client);
        }
    }

    /// Tells the client that nothing follows, where closing the connection is not enough.
    pub fn close(&mut self) {
        if let Self::Tls(stream) = self {
            stream.close();
        }
    }
}
