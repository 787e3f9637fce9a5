//! The first request on a connection between nodes: for whom it is.
//!
//! ```text
//! DORMOUSE FORWARDED secret address hops notes
//! ```
//!
//! - `secret`: that of the fleet.
//! - `address`: the client's, `192.0.2.7:51000` or `unix:/run/dormouse.sock`.
//! - `hops`: the number of nodes that have passed the client on, from 1.
//! - `notes`: an object of JSON. A node ignores members that it does not know, so a newer one may send more.
//!
//! The reply is `+OK`, or an error, after which the connection is closed.

use std::net::SocketAddr;

use dormouse_shard::replication::command;
use serde::{Deserialize, Serialize};

use super::HOPS_MAX;
use crate::peer::Peer;

const UNIX: &str = "unix:";

/// The introduction of a client that a node passes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    pub peer: ShownPeer,
    /// Nodes that have passed it on, with this one.
    pub hops: u8,
    pub notes: ClientNotes,
}

/// The address of a client, without that of the server that it connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShownPeer {
    Tcp(SocketAddr),
    Unix(String),
}

/// The settings that a client made before it was passed on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientNotes {
    #[serde(skip_serializing_if = "is_false")]
    pub resp3: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub library: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub library_version: String,
    #[serde(skip_serializing_if = "is_false")]
    pub no_evict: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub no_touch: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub can_redirect: bool,
    pub replies: WantedReplies,
    /// Whether it came over TLS, and whose certificate it has shown.
    #[serde(skip_serializing_if = "is_false")]
    pub is_tls: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

/// Which replies a client wants from the request behind the introduction on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WantedReplies {
    #[default]
    All,
    /// All but the first.
    SkipFirst,
    None,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl ShownPeer {
    pub fn of(peer: &Peer) -> Self {
        match peer {
            Peer::Tcp { remote, .. } => Self::Tcp(*remote),
            Peer::Unix(path) => Self::Unix(path.to_string()),
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix(UNIX) {
            Some(path) => Some(Self::Unix(path.to_owned())),
            None => text.parse().ok().map(Self::Tcp),
        }
    }

    /// The address of a client whose bytes arrive by `connection`.
    pub fn by(self, connection: &Peer, is_tls: bool) -> Peer {
        match (self, connection) {
            (Self::Tcp(remote), Peer::Tcp { local, .. }) => Peer::Tcp { remote, local: *local, is_tls },
            (Self::Tcp(remote), Peer::Unix(_)) => Peer::Tcp { remote, local: remote, is_tls },
            (Self::Unix(path), _) => Peer::Unix(path.into()),
        }
    }
}

impl std::fmt::Display for ShownPeer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{path}"),
        }
    }
}

impl Introduction {
    /// Appends the request.
    pub fn write(&self, secret: &str, out: &mut Vec<u8>) {
        let notes = serde_json::to_vec(&self.notes).unwrap_or_else(|_| b"{}".to_vec());
        let (address, hops) = (self.peer.to_string(), self.hops.to_string());
        command(
            out,
            &[b"DORMOUSE", b"FORWARDED", secret.as_bytes(), address.as_bytes(), hops.as_bytes(), notes.as_slice()],
        );
    }

    /// Reads the words behind the secret.
    ///
    /// # Errors
    /// A text without its code, when they are malformed or the client was passed on too often.
    pub fn parse(address: &[u8], hops: &[u8], notes: &[u8]) -> Result<Self, &'static str> {
        let text = |bytes| std::str::from_utf8(bytes).ok();
        let peer = text(address).and_then(ShownPeer::parse).ok_or("invalid address of a forwarded client")?;
        let hops = text(hops).and_then(|hops| hops.parse::<u8>().ok()).ok_or("invalid number of hops")?;
        let notes = serde_json::from_slice(notes).map_err(|_| "invalid notes on a forwarded client")?;
        match hops {
            1..=HOPS_MAX => Ok(Self { peer, hops, notes }),
            _ => Err("the nodes of the fleet do not agree which of them serves the database"),
        }
    }
}

#[cfg(test)]
mod tests {
    use dormouse_protocol::{Parsed, Parser, RequestLimits};

    use super::*;

    fn introduction(address: &str, hops: u8, notes: ClientNotes) -> Introduction {
        Introduction { peer: ShownPeer::parse(address).unwrap(), hops, notes }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let long = ClientNotes {
            resp3: true,
            name: "n".repeat(1024),
            library: "jedis(\"x\")".into(),
            library_version: "5".into(),
            no_evict: true,
            no_touch: true,
            can_redirect: true,
            replies: WantedReplies::SkipFirst,
            is_tls: true,
            certificate: Some("CN=ann".into()),
        };
        for (address, hops, notes) in [
            ("192.0.2.7:51000", 1, ClientNotes::default()),
            ("[2001:db8::1]:6", 3, long),
            ("unix:/run/a b.sock", 2, ClientNotes { replies: WantedReplies::None, ..ClientNotes::default() }),
        ] {
            let written = introduction(address, hops, notes);
            let mut out = Vec::new();
            written.write("s3cret", &mut out);
            // A stranger may send no more than this.
            let mut parser = Parser::new(RequestLimits::unauthenticated());
            let Ok(Parsed::Complete { request, consumed }) = parser.parse(&out) else { panic!("{out:?}") };
            assert_eq!((consumed, request.len(), request.arg(2)), (out.len(), 6, &b"s3cret"[..]));
            assert_eq!(Introduction::parse(request.arg(3), request.arg(4), request.arg(5)), Ok(written));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for (address, hops, notes, part) in [
            ("192.0.2.7", "1", "{}", "address"),
            ("", "1", "{}", "address"),
            ("192.0.2.7:1", "0", "{}", "do not agree"),
            ("192.0.2.7:1", "4", "{}", "do not agree"),
            ("192.0.2.7:1", "-1", "{}", "hops"),
            ("192.0.2.7:1", "256", "{}", "hops"),
            ("192.0.2.7:1", "1", "", "notes"),
            ("192.0.2.7:1", "1", "{\"name\":7}", "notes"),
        ] {
            let problem = Introduction::parse(address.as_bytes(), hops.as_bytes(), notes.as_bytes()).unwrap_err();
            assert!(problem.contains(part), "{problem}");
        }
        let newer = Introduction::parse(b"192.0.2.7:1", b"1", b"{\"unheard_of\":[1]}").unwrap();
        assert_eq!(newer, introduction("192.0.2.7:1", 1, ClientNotes::default()));
    }
}
