//! Commands over HTTP: the REST dialect of Upstash.
//!
//! A connection is served by hyper as a task of a worker, so a request runs where those of RESP run:
//!
//! 1. The thread of the HTTP port accepts a connection and reads its first request. If that is not for itself, as
//!    `/healthz` is, it hands the socket over with the bytes that it has read: see [`crate::http`].
//! 2. Credentials lead to a database and a user as with `AUTH` ([`identity`]). A connection keeps the session of its last
//!    request, so a client that stays is identified by one comparison.
//! 3. The commands of a request are written as RESP ([`json`], [`route`]) and run as those of any other client, by
//!    [`crate::dispatch`]. So permissions, limits, meters, monitors and turns are the same. A request with a key is written
//!    with `ONCE` ([`idempotency`]).
//! 4. Their replies are turned into JSON straight from the reply buffer, piece by piece ([`answer`]). A short answer is
//!    sent whole. A long one is sent while the rest of it is made: see [`body`].
//!
//! Invariants: the requests of a session run one after the other. With HTTP/2, requests that run at the same time have
//! sessions of their own, so a slow database holds up no other.

mod answer;
mod body;
mod client;
mod events;
mod exchange;
mod forward;
mod idempotency;
mod identity;
mod input;
mod json;
mod origin;
mod passed;
mod refusal;
mod respond;
mod route;
mod wire;

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tracing::Instrument;

use crate::clients::{Client, Refusal};
use crate::connection::{self, Presence};
use crate::node::Node;
use crate::peer::Peer;
use crate::sockets::{Accepted, ClientSocket, Entrant};
use crate::traces;
use crate::worker::Worker;

use self::body::HttpBody;
use self::client::HttpClient;
use self::wire::{Wire, WireMeter};

pub use self::refusal::raw as unwelcome;
pub use self::route::is_of_operator;

/// The first bytes of a connection that speaks HTTP/2.
pub const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// Time for the head of a request, and for which an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);
/// The longest head of a request, with the address: values may be part of it.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Memory of a connection beside its session: hyper's state, and buffers for a usual request.
const CONNECTION_BYTES: usize = 12 << 10;
/// The same for a connection of HTTP/2, with its window.
const HTTP2_CONNECTION_BYTES: usize = 128 << 10;
/// Bytes of bodies that a client may send ahead over HTTP/2.
const HTTP2_WINDOW_BYTES: u32 = 64 << 10;
/// Requests of one connection of HTTP/2 that run at the same time.
const STREAMS_MAX: u32 = 64;
/// Bytes of an answer that wait to be sent over HTTP/2.
const HTTP2_SENT_BYTES_MAX: usize = 64 << 10;
/// Interval at which the clients of a connection of HTTP/2 are checked.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A connection whose first request is for a database.
pub struct HandedOver {
    pub socket: Accepted,
    pub peer: Peer,
    /// What was read from it.
    pub received: Bytes,
    /// Serves the paths of the operator.
    pub router: Router,
}

/// A connection that is being served.
struct Connection {
    node: Arc<Node>,
    worker: Rc<Worker>,
    peer: Peer,
    socket: Rc<RefCell<ClientSocket>>,
    meter: Rc<WireMeter>,
    router: Router,
    is_http2: bool,
    /// Clients without a request.
    idle: RefCell<Vec<HttpClient>>,
    /// All clients.
    clients: RefCell<Vec<std::sync::Weak<Client>>>,
    /// Number of requests that run commands now.
    running: Cell<usize>,
}

impl Connection {
    /// Returns a client for a request.
    ///
    /// # Errors
    /// When the node takes no more clients.
    async fn client(self: &Rc<Self>) -> Result<HttpClient, Refusal> {
        loop {
            let Some(client) = self.idle.borrow_mut().pop() else { break };
            if !client.session.client.is_killed() {
                return Ok(client);
            }
        }
        let (client, is_admitted) =
            connection::admit(&Entrant::New(self.peer.clone()), &self.node, &self.worker).await?;
        connection::note_certificate(&self.socket.borrow(), &client, &self.node);
        self.enlist(&client);
        Ok(HttpClient::new(self, client, is_admitted))
    }

    fn enlist(&self, client: &Arc<Client>) {
        let mut clients = self.clients.borrow_mut();
        clients.retain(|client| client.strong_count() > 0);
        clients.push(Arc::downgrade(client));
    }

    /// Whether a client of the connection was told to end.
    fn is_killed(&self) -> bool {
        let clients = self.clients.borrow();
        clients.iter().any(|client| client.upgrade().is_some_and(|client| client.is_killed()))
    }

    fn presence(&self) -> Presence {
        Presence::of(&self.socket.borrow())
    }
}

/// Serves a connection to its end.
pub async fn serve(handed: HandedOver, worker: Rc<Worker>, node: Arc<Node>) {
    let HandedOver { socket, peer, received, router } = handed;
    let mut socket = match ClientSocket::adopt(socket) {
        Ok(socket) => socket,
        Err(error) => return tracing::warn!(%error, "failed to serve a connection"),
    };
    let is_http2 = received.starts_with(HTTP2_PREFACE);
    let (client, is_admitted) = match connection::admit(&Entrant::New(peer.clone()), &node, &worker).await {
        Ok(admitted) => admitted,
        Err(refusal) => {
            let answer = refusal::raw(StatusCode::TOO_MANY_REQUESTS, &refusal.to_string());
            // The client may be gone.
            let _ = poll_fn(|cx| socket.poll_write(cx, answer.as_bytes())).await;
            socket.close();
            return;
        }
    };
    socket.charge_to(&client);
    connection::note_certificate(&socket, &client, &node);
    let bytes = if is_http2 { HTTP2_CONNECTION_BYTES } else { CONNECTION_BYTES };
    client.hold_anyway(bytes);
    let socket = Rc::new(RefCell::new(socket));
    let meter = Rc::new(WireMeter::new(&worker, &client));
    let connection = Rc::new(Connection {
        node: Arc::clone(&node),
        worker,
        peer,
        socket: Rc::clone(&socket),
        meter: Rc::clone(&meter),
        router,
        is_http2,
        idle: RefCell::default(),
        clients: RefCell::default(),
        running: Cell::new(0),
    });
    connection.enlist(&client);
    let first = HttpClient::new(&connection, Arc::clone(&client), is_admitted);
    connection.idle.borrow_mut().push(first);
    let io = TokioIo::new(Wire::new(socket, meter, received));
    let its = Rc::downgrade(&connection);
    let service = service_fn(move |request| respond(its.clone(), request));
    if is_http2 {
        let mut builder = http2::Builder::new(LocalExecutor);
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEAD_BYTES_MAX as u32)
            .max_send_buf_size(HTTP2_SENT_BYTES_MAX)
            .initial_stream_window_size(HTTP2_WINDOW_BYTES)
            .initial_connection_window_size(HTTP2_WINDOW_BYTES)
            .keep_alive_interval(HEAD_TIMEOUT / 2);
        drive(builder.serve_connection(io, service), http2::Connection::graceful_shutdown, &connection, &client).await;
    } else {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_BYTES_MAX)
            // A client that is gone is noticed as with RESP.
            .half_close(true);
        drive(builder.serve_connection(io, service), http1::Connection::graceful_shutdown, &connection, &client).await;
    }
    connection.socket.borrow_mut().close();
}

/// Runs `served` until it ends, a client of it is killed, or the node drains.
async fn drive<S: Future>(
    served: S,
    shut_down: impl Fn(Pin<&mut S>),
    connection: &Rc<Connection>,
    first: &Arc<Client>,
) {
    let mut served = pin!(served);
    let mut is_ending = false;
    let mut look = connection.is_http2.then(|| tokio::time::interval(LOOK_EVERY));
    poll_fn(|cx| {
        first.waker.register(cx.waker());
        if connection.node.clients.is_draining() && !std::mem::replace(&mut is_ending, true) {
            shut_down(served.as_mut());
        }
        // Errors come from clients that went away or sent nonsense, and were told so.
        if served.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if let Some(look) = &mut look {
            while look.poll_tick(cx).is_ready() {}
        }
        // A command of it ends by itself.
        if connection.is_killed() && connection.running.get() == 0 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Answers one request.
async fn respond(connection: Weak<Connection>, request: Request<Incoming>) -> Result<Response<HttpBody>, Infallible> {
    Ok(match connection.upgrade() {
        Some(connection) => {
            let (parts, body) = request.into_parts();
            let span = traces::of_request(parts.method.as_str(), route::form(&parts), &parts.headers);
            let request = Request::from_parts(parts, body);
            let response = respond::respond(connection, request).instrument(span.clone()).await;
            traces::note_status(&span, &response);
            response
        }
        None => refusal::draining(),
    })
}

/// Runs the tasks of hyper on the worker that serves their connection.
#[derive(Clone)]
struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(async move { drop(task.await) });
    }
}
