//! Handshakes of the HTTP port over TLS. They are made by the thread that answers probes, so they take turns.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::HEAD_TIMEOUT;
use crate::audit::{AuditEvent, AuditLog};
use crate::peer::Peer;
use crate::tls::{Tls, TlsSocket};
use crate::{clock, handshakes};

/// Whose step of a handshake is next. A step takes a millisecond or so, and the thread answers requests between two of them.
pub(super) type HandshakeTurn = tokio::sync::Mutex<()>;

/// Makes a connection one over TLS, unless the client takes too long or gets it wrong.
pub(super) async fn handshake(
    stream: TcpStream,
    tls: &Tls,
    turn: &HandshakeTurn,
    (peer, audit): (&Peer, &AuditLog),
) -> Option<TlsSocket> {
    let began = tls.begin_handshake();
    let made = timeout(HEAD_TIMEOUT, made(stream, tls.for_http(), turn)).await;
    let made = made.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    tls.end_handshake(began, made.is_ok());
    if let Err(error) = &made {
        let event = || AuditEvent { is_http: true, ..handshakes::refusal(clock::now_ms(), peer.clone()) };
        handshakes::note_failure(audit, error, event);
        tracing::debug!(%peer, "closed: no handshake of HTTPS: {}", handshakes::explain(error));
    }
    made.ok()
}

async fn made(stream: TcpStream, config: Arc<ServerConfig>, turn: &HandshakeTurn) -> io::Result<TlsSocket> {
    let mut socket = TlsSocket::new(stream, config, None)?;
    loop {
        let step = {
            let _held = turn.lock().await;
            tokio::task::yield_now().await;
            poll_fn(|cx| Poll::Ready(socket.poll_handshake(cx))).await
        };
        if let Poll::Ready(made) = step {
            return made.map(|()| socket);
        }
        // The step has registered the task for what it waits for.
        let mut is_woken = false;
        poll_fn(|_| if std::mem::replace(&mut is_woken, true) { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}
