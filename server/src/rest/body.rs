//! The bodies of responses, and the way of an answer into one.
//!
//! An exchange is one future that reads a request, runs it and makes the answer. If it ends at once, its answer is sent
//! whole. If it leaves a piece in its outlet and goes on, the response begins, and the exchange continues whenever the
//! connection can take another piece: a client that does not read makes no more of the answer.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::Response;
use hyper::body::{Frame, SizeHint};

use super::passed::PassedBack;

/// The body of a response.
pub enum HttpBody {
    Whole(Bytes),
    /// An answer that is made while it is sent.
    Stream(LongAnswer),
    /// An answer of another node.
    Passed(Box<PassedBack>),
    /// Of the paths of the operator.
    Router(axum::body::Body),
}

impl hyper::body::Body for HttpBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Stream(stream) => stream.poll_next(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece)))),
            Self::Passed(body) => Pin::new(&mut **body).poll_frame(cx),
            Self::Router(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Stream(stream) => stream.is_over(),
            Self::Passed(body) => body.is_end_stream(),
            Self::Router(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(_) => SizeHint::default(),
            Self::Passed(body) => body.size_hint(),
            Self::Router(body) => body.size_hint(),
        }
    }
}

/// Where an exchange leaves the beginning of a long answer.
#[derive(Default)]
pub struct Outlet {
    /// Whether a web page has asked.
    pub is_for_page: Cell<bool>,
    head: Cell<Option<Response<()>>>,
    piece: RefCell<Option<Bytes>>,
}

impl Outlet {
    /// Begins a long answer. The pieces follow.
    pub fn begin(&self, head: Response<()>) {
        self.head.set(Some(head));
    }

    pub fn take_head(&self) -> Option<Response<()>> {
        self.head.take()
    }

    pub fn has_piece(&self) -> bool {
        self.piece.borrow().is_some()
    }

    /// Sends a piece, once those before it have been taken.
    pub async fn send(&self, piece: Vec<u8>) {
        *self.piece.borrow_mut() = Some(piece.into());
        // Whoever takes it polls the exchange again.
        poll_fn(|_| if self.piece.borrow().is_none() { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

/// How an exchange ended.
pub enum ExchangeEnd {
    /// With a whole answer.
    Answered(Response<HttpBody>),
    /// With the last piece of a long answer.
    Sent(Vec<u8>),
    /// The client is gone or was closed, and gets no answer.
    Gone,
}

/// A long answer.
pub struct LongAnswer {
    exchange: Pin<Box<dyn Future<Output = ExchangeEnd>>>,
    outlet: Rc<Outlet>,
    is_over: bool,
}

impl LongAnswer {
    pub fn new(exchange: Pin<Box<dyn Future<Output = ExchangeEnd>>>, outlet: Rc<Outlet>) -> Self {
        Self { exchange, outlet, is_over: false }
    }

    pub fn is_over(&self) -> bool {
        self.is_over
    }

    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if let Some(piece) = self.outlet.piece.take() {
            return Poll::Ready(Some(piece));
        }
        match self.exchange.as_mut().poll(cx) {
            Poll::Ready(ExchangeEnd::Sent(piece)) => {
                self.is_over = true;
                Poll::Ready((!piece.is_empty()).then(|| piece.into()))
            }
            Poll::Ready(_) => {
                self.is_over = true;
                Poll::Ready(None)
            }
            Poll::Pending => match self.outlet.piece.take() {
                Some(piece) => Poll::Ready(Some(piece)),
                None => Poll::Pending,
            },
        }
    }
}
