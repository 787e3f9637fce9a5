//! A client over HTTP: a session, and what is kept between its requests.

use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use dormouse_protocol::{Budget, Parser, Reply, RequestLimits};
use dormouse_shard::execution::budget::REPLY_INLINE_MAX;
use dormouse_shard::execution::inline::REPLY_HIGH_WATER;

use super::Connection;
use super::input::RespText;
use crate::clients::Client;
use crate::connection::{HASTE, beside_client};
use crate::delivery;
use crate::dispatch::Next;
use crate::session::{FrontEnd, Session};

/// The name that `CLIENT LIST` shows for the library of these clients.
const LIBRARY: &str = "http";

/// The client is gone or was closed.
#[derive(Debug)]
pub struct Gone;

pub struct HttpClient {
    pub session: Session,
    parser: Parser,
    /// Lacks its buffer between requests.
    pub reply: Reply,
    /// The credentials that have opened the session, as they were presented; `None` if it needed none.
    pub key: Option<Box<[u8]>>,
    /// Credentials that another node has taken.
    pub key_elsewhere: Option<Box<[u8]>>,
    /// Whether the present request has waited for earlier guesses from its address.
    pub has_waited: bool,
}

impl HttpClient {
    pub fn new(connection: &Connection, client: Arc<Client>, is_admitted: bool) -> Self {
        let Connection { node, worker, .. } = connection;
        client.fd.store(connection.socket.borrow().as_raw_fd(), Ordering::Relaxed);
        client.told.lock().library = LIBRARY.into();
        let mut session = Session::new(node, worker, &client, node.tenants.default(), is_admitted);
        session.front = FrontEnd::Http;
        let budget: Arc<dyn Budget> = client;
        let mut reply = Reply::within(session.version, Some(budget));
        reply.set_inline_max(Some(REPLY_HIGH_WATER + REPLY_INLINE_MAX));
        Self {
            session,
            parser: Parser::new(RequestLimits::default()),
            reply,
            key: None,
            key_elsewhere: None,
            has_waited: false,
        }
    }

    /// Takes the worker's buffer for the replies of a request.
    pub fn begin(&mut self) {
        self.reply.set_version(self.session.version);
        self.reply.buffer = self.session.worker.take_reply();
        self.parser.restart();
    }

    /// Gives it back.
    pub fn finish(&mut self) {
        self.parser.rest();
        let buffer = self.reply.take_buffer();
        self.session.worker.give_reply(buffer);
    }

    /// Runs requests until all are answered, or until there are many replies to be sent first. Returns whether all are
    /// answered.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn run(&mut self, input: &mut RespText, connection: &Connection) -> Result<bool, Gone> {
        let _running = Running::begin(connection);
        loop {
            // With HTTP/2 the connection may learn of it later.
            if self.session.client.is_killed() {
                return Err(Gone);
            }
            let (used, next) = self.session.batch(&mut self.parser, input.rest(), &mut self.reply);
            input.consume(used);
            let (request, bytes) = match next {
                Next::Read => return Ok(true),
                Next::Flush => return Ok(false),
                Next::Close => return Err(Gone),
                Next::Leaseless => match self.session.node.lease.renewed().await {
                    true => continue,
                    false => return Err(Gone),
                },
                Next::Yield => {
                    self.session.pass_turn().await;
                    continue;
                }
                Next::Slow { request, bytes } => (request, bytes),
                Next::Large { bytes, spans } => (input.take(bytes, spans), bytes),
            };
            let client = Arc::clone(&self.session.client);
            let presence = || connection.presence();
            if self.session.is_held_back(request.as_request()) {
                let resumed = Box::pin(self.session.wait_for_pause(request.as_request()));
                beside_client(presence, &client, resumed).await;
                if client.is_killed() || self.session.node.clients.is_draining() {
                    return Err(Gone);
                }
            }
            let began = Instant::now();
            let execution = Box::pin(self.session.execute(request, bytes, &mut self.reply));
            beside_client(presence, &client, execution).await;
            if self.session.transaction.is_none() {
                self.session.pass_turn().await;
            }
            if client.is_killed() || self.session.closing {
                return Err(Gone);
            }
            // The next command may wait equally long. In a pipeline each has its own bound.
            if began.elapsed() > HASTE && !input.is_empty() {
                return Ok(false);
            }
        }
    }

    /// Waits until the replies may leave, and publishes what waited for them.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn settle(&mut self) -> Result<(), Gone> {
        if self.reply.is_empty() {
            self.session.publish_when_durable();
            return Ok(());
        }
        if self.session.awaited > 0 && !delivery::hold_back(&mut self.session, &mut self.reply.buffer).await {
            return Err(Gone);
        }
        self.session.publish_unpublished().await;
        Ok(())
    }

    /// Bytes of the reply buffer that nobody is charged for.
    pub fn uncharged(&self) -> usize {
        self.reply.buffer.capacity().saturating_sub(self.reply.granted())
    }
}

/// Runs after a panic of a command too: nothing may count or listen forever on behalf of a client that is gone.
impl Drop for HttpClient {
    fn drop(&mut self) {
        self.session.end();
        self.session.node.clients.remove(self.session.client.id);
    }
}

/// Counts a request that runs commands, until it is dropped.
struct Running<'c>(&'c Connection);

impl<'c> Running<'c> {
    fn begin(connection: &'c Connection) -> Self {
        connection.running.set(connection.running.get() + 1);
        Self(connection)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
    }
}

/// A client that belongs to a request. When the request has ended in order, it goes back to its connection.
pub struct Lease {
    pub connection: Rc<Connection>,
    client: Option<HttpClient>,
}

impl Lease {
    pub fn new(connection: &Rc<Connection>, client: HttpClient) -> Self {
        Self { connection: Rc::clone(connection), client: Some(client) }
    }

    pub fn client(&mut self) -> &mut HttpClient {
        self.client.as_mut().expect("the client is there until the lease ends")
    }

    pub fn end(mut self) {
        if let Some(client) = self.client.take().filter(|client| !client.session.client.is_killed()) {
            self.connection.idle.borrow_mut().push(client);
        }
    }
}
