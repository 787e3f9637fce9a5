//! A connection that remembers what it has read since it last wrote: the request that is not answered yet.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use crate::sockets::{Accepted, ClientSocket};

/// A head that is longer than this is read elsewhere. A read and as much again fit into the memory that a head has here.
const LONG_BYTES: usize = 4 << 10;

/// Shared by the connection and its service. No more is kept than a head may have: the body of a request that is handed
/// over is not read here.
#[derive(Clone)]
pub struct Recording(Arc<Mutex<Recorded>>, Arc<Notify>);

struct Recorded {
    /// `None`: it was taken.
    socket: Option<ClientSocket>,
    read: Vec<u8>,
    /// Whether the request is answered here: the rest of it need not be kept.
    is_forgotten: bool,
    /// Whether the socket may be handed over as it is: nothing was written yet, so all of the first request was recorded.
    may_leave: bool,
}

impl Recorded {
    fn is_long(&self) -> bool {
        self.may_leave && self.read.len() > LONG_BYTES
    }
}

impl Recording {
    /// `may_leave`: whether a first request with a long head is left to others.
    pub fn new(socket: ClientSocket, may_leave: bool) -> Self {
        let recorded = Recorded { socket: Some(socket), read: Vec::new(), is_forgotten: false, may_leave };
        Self(Arc::new(Mutex::new(recorded)), Arc::default())
    }

    /// Waits until more of the first request was read than a usual head has. Then nothing more of it is read here.
    pub async fn until_long(&self) {
        loop {
            self.1.notified().await;
            if self.0.lock().is_long() {
                return;
            }
        }
    }

    pub fn begins_with(&self, beginning: &[u8]) -> bool {
        self.0.lock().read.starts_with(beginning)
    }

    /// Keeps nothing of the request that is being read.
    pub fn forget(&self) {
        let mut recorded = self.0.lock();
        recorded.read = Vec::new();
        recorded.is_forgotten = true;
    }

    /// Takes the socket out of its event loop, with what was read of the request.
    pub fn take(&self) -> Option<(Accepted, Bytes)> {
        let mut recorded = self.0.lock();
        let socket = recorded.socket.take()?.leave().ok()?;
        Some((socket, std::mem::take(&mut recorded.read).into()))
    }

    /// Sends an answer that fits into the socket.
    pub async fn answer(&self, answer: &str) {
        // The client may be gone.
        let _ = poll_fn(|cx| self.with_socket(|socket, _| socket.poll_write(cx, answer.as_bytes()))).await;
    }

    fn with_socket<T>(
        &self,
        run: impl FnOnce(&mut ClientSocket, &mut Recorded) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let mut recorded = self.0.lock();
        match recorded.socket.take() {
            Some(mut socket) => {
                let done = run(&mut socket, &mut recorded);
                recorded.socket = Some(socket);
                done
            }
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl AsyncRead for Recording {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        self.with_socket(|socket, recorded| {
            if recorded.is_long() {
                self.1.notify_one();
                return Poll::Pending;
            }
            let polled = socket.poll_read(cx, buffer);
            if !recorded.is_forgotten {
                recorded.read.extend_from_slice(&buffer.filled()[before..]);
            }
            polled
        })
    }
}

impl AsyncWrite for Recording {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.with_socket(|socket, recorded| {
            recorded.read.clear();
            (recorded.is_forgotten, recorded.may_leave) = (false, false);
            socket.poll_write(cx, bytes)
        })
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with_socket(|socket, _| socket.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with_socket(|socket, recorded| match recorded.read.starts_with(crate::rest::HTTP2_PREFACE) {
            // It is handed over.
            true => Poll::Ready(Ok(())),
            false => socket.poll_shutdown(cx),
        })
    }
}
