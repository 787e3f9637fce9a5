//! The response to a request: see [`super::body`].

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use hyper::body::Incoming;
use hyper::{Request, Response};

use super::body::{ExchangeEnd, HttpBody, LongAnswer, Outlet};
use super::{Connection, exchange, origin, refusal};

/// Answers a request.
pub async fn respond(connection: Rc<Connection>, request: Request<Incoming>) -> Response<HttpBody> {
    let outlet = Rc::new(Outlet::default());
    let mut exchange: Pin<Box<dyn Future<Output = ExchangeEnd>>> =
        Box::pin(exchange::run(connection, request, Rc::clone(&outlet)));
    let ended = poll_fn(|cx| match exchange.as_mut().poll(cx) {
        Poll::Ready(ended) => Poll::Ready(Some(ended)),
        Poll::Pending if outlet.has_piece() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await;
    let is_for_page = outlet.is_for_page.get();
    let mut response = match (ended, outlet.take_head()) {
        (Some(ExchangeEnd::Answered(response)), _) => response,
        (None, Some(head)) => head.map(|()| HttpBody::Stream(LongAnswer::new(exchange, outlet))),
        // A short answer that was begun as a long one.
        (Some(ExchangeEnd::Sent(last)), Some(head)) => head.map(|()| HttpBody::Whole(last.into())),
        _ => refusal::gone(),
    };
    if is_for_page {
        origin::let_read(response.headers_mut());
    }
    response
}
