//! Copies bytes between a client and the node that serves its database, unread.
//!
//! 1. Bytes are read into the worker's buffer and written to the other side at once.
//! 2. What the other side does not take is kept, and the client is charged for it. Until it is sent nothing more is read in
//!    that direction: a slow reader holds back the writer, as over one connection.
//! 3. When a side has closed its direction and all of that was sent, so is the other side's. When the node has closed, the
//!    client's connection ends; when the client has closed, the node still answers what it has read.
//! 4. A node that drains does the same as if its clients had closed theirs.
//!
//! Invariants: at most one read of each direction is kept, and an idle connection keeps nothing.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;

use super::link::NodeLink;
use crate::clients::Client;
use crate::forwarded::ForwardedPlace;
use crate::node::Node;
use crate::sockets::ClientSocket;
use crate::turns::Share;
use crate::worker::Worker;

/// Bytes that are copied in one direction before the other has its turn.
const COPIED_AT_ONCE: usize = 256 << 10;
/// Work of the system for a read and a write, in nanoseconds, and the bytes that it copies in one.
const TRIP_NS: u64 = 5_000;
const BYTES_PER_NS: u64 = 2;
/// Memory of a link beside its buffers: the socket's entry in the event loop, and the state of this module.
pub const LINK_BYTES: usize = 1024;

/// Copies until the node has closed its side and the client has got all of it, or either side fails, or the client is killed.
///
/// # Errors
/// When a side fails, or the client is killed.
pub async fn copy(
    socket: &mut ClientSocket,
    link: NodeLink,
    client: &Client,
    (node, worker, share): (&Node, &Worker, &Rc<Share>),
    counted: ForwardedPlace,
) -> io::Result<()> {
    let NodeLink { stream, received, unsent, node: to } = link;
    tracing::debug!(client = client.id, peer = %client.peer(), node = to.name, "forwarded");
    client.hold_anyway(LINK_BYTES);
    let mut other = ClientSocket::Tcp(stream);
    let (mut up, mut down) = (Direction::new(unsent, client), Direction::new(received, client));
    loop {
        let step = poll_fn(|cx| -> Poll<io::Result<(usize, usize)>> {
            // Registered first: otherwise a kill in between would wake no task.
            client.waker.register(cx.waker());
            if client.is_killed() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            up.has_ended |= node.clients.is_draining();
            let mut scratch = worker.scratch.borrow_mut();
            let sent = up.poll_copy((&mut *socket, &mut other), &mut scratch, client, cx)?;
            let got = down.poll_copy((&mut other, &mut *socket), &mut scratch, client, cx)?;
            match sent + got {
                _ if down.is_over() => Poll::Ready(Ok((sent, got))),
                0 => Poll::Pending,
                _ => Poll::Ready(Ok((sent, got))),
            }
        });
        let (sent, got) = step.await?;
        let (_, now_ms) = worker.now();
        worker.turns.tick(now_ms);
        worker.turns.charge(share, TRIP_NS + (sent + got) as u64 / BYTES_PER_NS);
        counted.note_bytes(sent + got);
        client.note_traffic(sent, got, 0);
        if sent > 0 {
            client.active_ms.store(now_ms, Ordering::Relaxed);
        }
        if down.is_over() {
            return Ok(());
        }
        match sent.max(got) >= COPIED_AT_ONCE {
            true => worker.turns.pass(share).await,
            false => worker.turns.wait(share).await,
        }
    }
}

/// One direction of a connection.
struct Direction {
    /// Bytes that were read and not taken yet, from `at` on.
    kept: Vec<u8>,
    at: usize,
    /// Bytes charged for them.
    held: usize,
    /// Whether nothing more is read, and whether the other side was told.
    has_ended: bool,
    is_shut: bool,
}

impl Direction {
    fn new(first: Vec<u8>, client: &Client) -> Self {
        let held = first.capacity();
        client.hold_anyway(held);
        Self { kept: first, at: 0, held, has_ended: false, is_shut: false }
    }

    /// Whether all of it was sent.
    fn is_over(&self) -> bool {
        self.has_ended && self.kept.is_empty()
    }

    /// Copies what there is. Returns the number of bytes; 0: the task is woken when there is more to do.
    fn poll_copy(
        &mut self,
        (from, to): (&mut ClientSocket, &mut ClientSocket),
        scratch: &mut [u8],
        client: &Client,
        cx: &mut Context<'_>,
    ) -> io::Result<usize> {
        let mut copied = 0;
        while let Poll::Ready(done) = self.poll_step((&mut *from, &mut *to), scratch, client, cx) {
            let read = done?;
            copied += read;
            if read == 0 || copied >= COPIED_AT_ONCE {
                break;
            }
        }
        Ok(copied)
    }

    /// Sends what is kept, then reads once and sends that. Returns the number of bytes that were read; 0: there are no more.
    fn poll_step(
        &mut self,
        (from, to): (&mut ClientSocket, &mut ClientSocket),
        scratch: &mut [u8],
        client: &Client,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_send_kept(to, client, cx))?;
        if !self.has_ended {
            let mut buffer = ReadBuf::new(scratch);
            ready!(from.poll_read(cx, &mut buffer))?;
            let bytes = buffer.filled();
            if !bytes.is_empty() {
                let mut sent = 0;
                while sent < bytes.len() || !to.is_flushed() {
                    match to.poll_send(cx, &bytes[sent..]) {
                        Poll::Ready(Ok(0)) if sent < bytes.len() => {
                            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                        }
                        Poll::Ready(done) => sent += done?,
                        Poll::Pending => {
                            self.keep(&bytes[sent..], client);
                            break;
                        }
                    }
                }
                return Poll::Ready(Ok(bytes.len()));
            }
            self.has_ended = true;
        }
        if !self.is_shut {
            ready!(to.poll_shutdown(cx))?;
            self.is_shut = true;
        }
        Poll::Ready(Ok(0))
    }

    fn poll_send_kept(&mut self, to: &mut ClientSocket, client: &Client, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.at < self.kept.len() || !to.is_flushed() {
            match ready!(to.poll_send(cx, &self.kept[self.at..]))? {
                0 if self.at < self.kept.len() => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.at += sent,
            }
        }
        if self.held > 0 {
            (self.kept, self.at) = (Vec::new(), 0);
            client.let_go(std::mem::take(&mut self.held));
        }
        Poll::Ready(Ok(()))
    }

    /// Keeps bytes that the other side does not take now.
    fn keep(&mut self, bytes: &[u8], client: &Client) {
        self.kept = bytes.to_vec();
        self.at = 0;
        self.held = bytes.len();
        client.hold_anyway(self.held);
    }
}
