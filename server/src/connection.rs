//! A connection: bytes in, batches, bytes out.
//!
//! 1. Wait until the socket can be read, or somebody has told the client something (a message, a kill).
//! 2. Read into the worker's buffer. What an unfinished request left over from before lies in `rest`, and is put in front.
//! 3. Run the batch: every whole request, in order, replies into the worker's reply buffer.
//! 4. Write the replies at once. While they are not all written nothing more is read, so that a slow reader is held back
//!    by TCP and costs the server one batch of replies at most.
//!
//! Invariant: the worker's buffers are never held over an await. What must outlive one is copied to the connection first.

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use dormouse_protocol::{Limits, Parser, Reply};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::clients::{Client, Peer};
use crate::held::Sealed;
use crate::node::Node;
use crate::session::{Next, Session};
use crate::strangers;
use crate::worker::Worker;

#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Tcp(stream) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
        }
    }
}

impl Stream {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }
}

/// Why a connection is over.
enum End {
    Closed,
    Failed,
}

/// Serves a connection to its end.
pub async fn serve(stream: Stream, peer: Peer, worker: Rc<Worker>, node: Arc<Node>) {
    let (_, now_ms) = worker.now();
    let tenant = Arc::clone(node.tenants.default());
    let max = node.max_clients();
    let added = if node.tenants.needs_token() {
        Some(node.clients.add_stranger(peer, now_ms, strangers::places(max)))
    } else {
        node.clients.add(peer, tenant.name().into(), now_ms, max)
    };
    let Some(client) = added else {
        let mut stream = stream;
        let refusal = b"-ERR max number of clients reached\r\n";
        // The client is gone or it reads this; nobody cares which.
        let _ = poll_fn(|cx| stream.poll_write(cx, refusal)).await;
        return;
    };
    client.fd.store(stream.as_raw_fd(), Ordering::Relaxed);
    let session = Session::new(&node, &worker, &client, tenant);
    let limits = if session.authenticated { Limits::default() } else { Limits::unauthenticated() };
    let mut connection = Connection { stream, client, session, parser: Parser::new(limits), rest: Vec::new() };
    let _ = connection.run().await;
}

/// Also where a command has panicked: nobody may count, watch or listen for ever on behalf of a client that is gone.
impl Drop for Connection {
    fn drop(&mut self) {
        self.session.end();
        self.session.node.clients.remove(self.client.id);
    }
}

struct Connection {
    stream: Stream,
    client: Arc<Client>,
    session: Session,
    parser: Parser,
    /// Bytes that were read and not yet consumed.
    rest: Vec<u8>,
}

impl Connection {
    async fn run(&mut self) -> Result<(), End> {
        loop {
            let read = self.read().await?;
            let worker = Rc::clone(&self.session.worker);
            let mut reply = Reply::new(self.session.version);
            reply.buffer = worker.take_reply();
            if self.client.has_messages() {
                self.client.take_messages(&mut reply.buffer);
            }
            if read > 0 {
                let next = {
                    let scratch = worker.scratch.borrow();
                    if self.rest.is_empty() {
                        let (used, next) = self.session.batch(&mut self.parser, &scratch[..read], &mut reply);
                        if used < read {
                            self.rest.extend_from_slice(&scratch[used..read]);
                        }
                        next
                    } else {
                        self.rest.extend_from_slice(&scratch[..read]);
                        let (used, next) = self.session.batch(&mut self.parser, &self.rest, &mut reply);
                        self.consume(used);
                        next
                    }
                };
                self.finish(next, &mut reply).await?;
            }
            self.send(&mut reply.buffer).await?;
            worker.give_reply(reply.buffer);
            if self.rest.is_empty() {
                self.rest = Vec::new();
                self.parser.rest();
            }
            self.client.input_bytes.store(self.rest.len(), Ordering::Relaxed);
            if self.session.closing {
                return Err(End::Closed);
            }
        }
    }

    /// Goes on with a batch that needs something to be awaited, until all of its whole requests are answered.
    async fn finish(&mut self, mut next: Next, reply: &mut Reply) -> Result<(), End> {
        loop {
            match next {
                Next::Read => return Ok(()),
                Next::Close => {
                    self.session.closing = true;
                    return Ok(());
                }
                Next::Flush => self.send(&mut reply.buffer).await?,
                Next::Slow(request) => {
                    // Boxed: a rare and large future must not make every idle connection large.
                    Box::pin(self.session.execute(request, reply)).await;
                    if self.parser.limits() != self.session.limits() {
                        self.parser.set_limits(*self.session.limits());
                    }
                    if self.session.closing {
                        return Ok(());
                    }
                }
            }
            if self.client.is_killed() {
                return Err(End::Closed);
            }
            let (used, after) = self.session.batch(&mut self.parser, &self.rest, reply);
            self.consume(used);
            next = after;
        }
    }

    fn consume(&mut self, used: usize) {
        if used == self.rest.len() {
            self.rest.clear();
        } else {
            self.rest.drain(..used);
        }
    }

    /// Waits for bytes; 0 when there are none but the client was told something.
    async fn read(&mut self) -> Result<usize, End> {
        let worker = Rc::clone(&self.session.worker);
        poll_fn(|cx| {
            if self.client.is_killed() {
                return Poll::Ready(Err(End::Closed));
            }
            let mut scratch = worker.scratch.borrow_mut();
            let mut buffer = ReadBuf::new(&mut scratch);
            match self.stream.poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => Poll::Ready(Err(End::Closed)),
                Poll::Ready(Ok(())) => Poll::Ready(Ok(buffer.filled().len())),
                Poll::Ready(Err(_)) => Poll::Ready(Err(End::Failed)),
                Poll::Pending => {
                    // Registered first, looked at after: a message in between would otherwise wake nobody.
                    self.client.waker.register(cx.waker());
                    if self.client.is_killed() {
                        Poll::Ready(Err(End::Closed))
                    } else if self.client.has_messages() {
                        Poll::Ready(Ok(0))
                    } else {
                        Poll::Pending
                    }
                }
            }
        })
        .await
    }

    /// Holds the replies back until what they tell of is durable, where the loss window is zero.
    async fn until_durable(&mut self) -> Result<(), End> {
        let awaited = std::mem::take(&mut self.session.awaited);
        let database = Arc::clone(&self.session.tenant.database);
        let Some(log) = database.shared.journal.log().filter(|log| log.flushed() < awaited) else { return Ok(()) };
        let client = &self.client;
        let mut durable = pin!(self.session.worker.held.until_durable(log, awaited));
        poll_fn(|cx| {
            client.waker.register(cx.waker());
            if client.is_killed() {
                return Poll::Ready(Err(End::Closed));
            }
            // Nobody can know any more whether what the replies tell of will survive: they are not sent.
            durable.as_mut().poll(cx).map_err(|Sealed| End::Failed)
        })
        .await
    }

    /// Writes all of `buffer` and leaves it empty.
    async fn send(&mut self, buffer: &mut Vec<u8>) -> Result<(), End> {
        if buffer.is_empty() {
            return Ok(());
        }
        if self.session.awaited > 0 {
            self.until_durable().await?;
        }
        let limit = self.session.node.output_limit_normal();
        let mut sent = 0;
        let outcome = poll_fn(|cx| {
            while sent < buffer.len() {
                match self.stream.poll_write(cx, &buffer[sent..]) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(End::Closed)),
                    Poll::Ready(Ok(n)) => sent += n,
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(End::Failed)),
                    Poll::Pending => {
                        let unsent = buffer.len() - sent;
                        self.client.output_bytes.store(unsent, Ordering::Relaxed);
                        self.client.waker.register(cx.waker());
                        if self.client.is_killed() {
                            return Poll::Ready(Err(End::Closed));
                        }
                        if limit.hard_bytes > 0 && unsent > limit.hard_bytes {
                            tracing::warn!(
                                client = self.client.id,
                                bytes = unsent,
                                "closed: its replies are over client-output-buffer-limit normal"
                            );
                            return Poll::Ready(Err(End::Closed));
                        }
                        return Poll::Pending;
                    }
                }
            }
            Poll::Ready(Ok(()))
        })
        .await;
        buffer.clear();
        self.client.output_bytes.store(0, Ordering::Relaxed);
        outcome
    }
}
