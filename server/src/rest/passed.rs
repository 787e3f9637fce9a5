//! Answers of other nodes on their way to clients.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::CONTENT_TYPE;
use tokio::time::Interval;

use super::{Connection, LOOK_EVERY};
use crate::connection::Presence;
use crate::forwarding::http::PassedAnswer;

/// The type of a body of events.
const EVENTS: &[u8] = b"text/event-stream";

/// An answer of another node on its way to the client. It ends early if the client is gone.
pub struct PassedBack {
    answer: PassedAnswer,
    connection: Rc<Connection>,
    /// Whether it has no end of its own.
    is_stream: bool,
    look: Option<Box<Interval>>,
}

impl PassedBack {
    /// `headers`: of the answer.
    pub fn new(answer: PassedAnswer, headers: &HeaderMap, connection: &Rc<Connection>) -> Self {
        let is_stream = headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(EVENTS));
        Self { answer, connection: Rc::clone(connection), is_stream, look: None }
    }

    /// Whether the client waits for the rest in vain. If not, the task is woken when that may have changed.
    fn is_in_vain(&mut self, cx: &mut Context<'_>) -> bool {
        let connection = &self.connection;
        if self.is_stream && connection.node.clients.is_draining() {
            return true;
        }
        // With HTTP/2 the connection tells.
        if connection.is_http2 || !connection.socket.borrow().has_bytes(cx) {
            return false;
        }
        let look = self.look.get_or_insert_with(|| Box::new(tokio::time::interval(LOOK_EVERY)));
        while look.poll_tick(cx).is_ready() {
            match connection.presence() {
                Presence::Gone => return true,
                // It may have closed its side behind an ordinary request.
                Presence::Listening if self.is_stream => return true,
                Presence::Listening | Presence::Open => {}
            }
        }
        false
    }
}

impl Body for PassedBack {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match Pin::new(&mut self.answer).poll_frame(cx) {
            Poll::Pending if self.is_in_vain(cx) => Poll::Ready(Some(Err("the client is gone".into()))),
            polled => polled.map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.answer.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.answer.size_hint()
    }
}
