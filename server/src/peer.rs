//! The address of a connection.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::account::{CONNECTION_BYTES, TLS_BYTES};

/// The origin of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    Tcp { remote: SocketAddr, local: SocketAddr, is_tls: bool },
    Unix(Arc<str>),
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { remote, .. } => write!(f, "{remote}"),
            Self::Unix(path) => write!(f, "{path}:0"),
        }
    }
}

impl Peer {
    /// Whether the client is on this machine.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp { remote, .. } => remote.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// Whether the connection is over TLS.
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tcp { is_tls: true, .. })
    }

    /// Overhead of the connection in memory.
    pub fn connection_bytes(&self) -> usize {
        if self.is_tls() { CONNECTION_BYTES + TLS_BYTES } else { CONNECTION_BYTES }
    }

    /// The address without its port; the path of a socket.
    pub fn ip(&self) -> String {
        match self {
            Self::Tcp { remote, .. } => remote.ip().to_string(),
            Self::Unix(path) => path.to_string(),
        }
    }

    /// The server's address that the client connected to.
    pub fn local(&self) -> String {
        match self {
            Self::Tcp { local, .. } => local.to_string(),
            Self::Unix(path) => format!("{path}:0"),
        }
    }
}
