//! Connections to the HTTP ports of other nodes.
//!
//! A connection that has had its answer is kept for the next request that a connection of the same worker passes on. A request
//! is sent once: if it may have reached the other node, it is not repeated.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::link::set_options;
use crate::forwarded::ForwardedPlace;

/// Time to connect: nodes are near each other.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections to one node that a worker keeps, and for how long. The other node would keep them for longer.
const KEPT_MAX: usize = 16;
const KEPT_FOR: Duration = Duration::from_secs(30);
/// Most bytes of an answer that are read ahead.
const READ_AHEAD: usize = 64 << 10;

thread_local! {
    /// Connections of this worker without a request, by address.
    static KEPT: RefCell<HashMap<Box<str>, Vec<KeptLink>>> = RefCell::default();
}

struct KeptLink {
    sender: SendRequest<PassedBody>,
    since: Instant,
}

/// A connection to the HTTP port of another node.
pub struct HttpLink {
    address: Box<str>,
    sender: SendRequest<PassedBody>,
    is_new: bool,
}

/// The body of a request that is passed on as it comes.
pub struct PassedBody {
    body: Incoming,
    /// Told of the bytes of each piece.
    taken: Box<dyn Fn(usize)>,
}

impl PassedBody {
    pub fn new(body: Incoming, taken: impl Fn(usize) + 'static) -> Self {
        Self { body, taken: Box::new(taken) }
    }
}

impl Body for PassedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            (self.taken)(frame.data_ref().map_or(0, Bytes::len));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Returns a connection to an address, `host:port`.
///
/// # Errors
/// When none can be made.
pub async fn connect(address: &str) -> io::Result<HttpLink> {
    match kept(address) {
        Some(sender) => Ok(HttpLink { address: address.into(), sender, is_new: false }),
        None => open(address).await,
    }
}

async fn open(address: &str) -> io::Result<HttpLink> {
    let connecting = timeout(CONNECT_TIMEOUT, TcpStream::connect(address));
    let stream = connecting.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    set_options(&stream);
    let mut builder = http1::Builder::new();
    builder.max_buf_size(READ_AHEAD);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // Errors are those of its requests. It ends when its sender is dropped.
    tokio::task::spawn_local(async move { drop(connection.await) });
    Ok(HttpLink { address: address.into(), sender, is_new: true })
}

fn kept(address: &str) -> Option<SendRequest<PassedBody>> {
    KEPT.with_borrow_mut(|kept| {
        kept.retain(|_, links| {
            links.retain(|link| !link.sender.is_closed() && link.since.elapsed() < KEPT_FOR);
            !links.is_empty()
        });
        let links = kept.get_mut(address)?;
        let at = links.iter().rposition(|link| link.sender.is_ready())?;
        Some(links.swap_remove(at).sender)
    })
}

impl HttpLink {
    /// Sends a request, and returns the head of the answer. If the connection was closed before the request was sent, another
    /// one is made.
    ///
    /// # Errors
    /// When the other node is gone. It may have run the request.
    pub async fn send(
        mut self,
        request: Request<PassedBody>,
        counted: ForwardedPlace,
    ) -> Result<Response<PassedAnswer>, String> {
        let sent = match self.sender.try_send_request(request).await {
            Ok(response) => Ok(response),
            Err(mut failed) => match failed.take_message().filter(|_| !self.is_new) {
                Some(request) => {
                    self = open(&self.address).await.map_err(|error| error.to_string())?;
                    self.sender.send_request(request).await
                }
                None => Err(failed.into_error()),
            },
        };
        let response = sent.map_err(|error| error.to_string())?;
        Ok(response.map(|body| PassedAnswer { body, link: Some(self), counted }))
    }

    /// Keeps it for another request.
    fn keep(self) {
        let Self { address, sender, .. } = self;
        KEPT.with_borrow_mut(|kept| {
            let links = kept.entry(address).or_default();
            if links.len() < KEPT_MAX && !sender.is_closed() {
                links.push(KeptLink { sender, since: Instant::now() });
            }
        });
    }
}

/// The body of an answer that is passed on as it comes.
pub struct PassedAnswer {
    body: Incoming,
    /// The connection, until the answer is complete.
    link: Option<HttpLink>,
    counted: ForwardedPlace,
}

impl Body for PassedAnswer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => self.counted.note_bytes(frame.data_ref().map_or(0, Bytes::len)),
            Some(Err(_)) => drop(self.link.take()),
            None => self.release(),
        }
        if self.body.is_end_stream() {
            self.release();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl PassedAnswer {
    fn release(&mut self) {
        if let Some(link) = self.link.take() {
            link.keep();
        }
    }
}

/// Without a body there is nothing that is read to its end.
impl Drop for PassedAnswer {
    fn drop(&mut self) {
        if self.body.is_end_stream() {
            self.release();
        }
    }
}
