//! A connection: bytes in, batches, bytes out.
//!
//! 1. Wait until the socket can be read, or another connection has told the client something (a message, a kill).
//! 2. Read into the worker's buffer. The rest of an unfinished request is kept in `rest`, and is put in front.
//! 3. Run the batch: every whole request, in order, replies into the worker's reply buffer.
//! 4. Write the replies at once. Until all are written nothing more is read, so that TCP holds back a slow reader, and
//!    it costs the server at most one batch of replies.
//!
//! Invariant: the worker's buffers are never held over an await. Data that must outlive one is copied to the connection
//! first.

use std::future::{Future, poll_fn};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use dormouse_protocol::{Budget, OwnedRequest, Parser, Reply, Span, pace};
use dormouse_shard::execution::budget::REPLY_INLINE_MAX;
use dormouse_shard::execution::inline::REPLY_HIGH_WATER;
use futures::channel::oneshot;
use parking_lot::Mutex;
use tokio::io::ReadBuf;

use crate::account;
use crate::blocked::BlockedEvent;
use crate::clients::{Client, Refusal};
use crate::delivery;
use crate::dispatch::Next;
use crate::forwarding::copying;
use crate::forwarding::link::NodeLink;
use crate::lease::LEASELESS;
use crate::node::Node;
use crate::session::Session;
use crate::sockets::{ClientSocket, Entrant};
use crate::turns::{QueuePlace, after_ready_tasks};
use crate::worker::{READ_BYTES, Worker};

/// A client that closes its connection within this time still gets its commands run: it may have closed only its side,
/// as `nc -N` does behind a pipeline. The hastiest client libraries give up after 250 ms.
pub const HASTE: Duration = Duration::from_millis(100);
/// Bytes of requests that are read before other connections of the worker get a turn.
const READ_AT_ONCE: usize = 256 << 10;
/// Bytes of replies that are written before other connections of the worker get a turn.
const SENT_AT_ONCE: usize = 256 << 10;
/// Most blocked clients whose replies leave before the one of the client that has served them.
const SERVED_FIRST_MAX: usize = 8;
/// Work of the system for a read and a write, in nanoseconds, beside the bytes.
pub const TRIP_NS: u64 = 5_000;
/// Bytes that are read or written in a nanosecond.
pub const BYTES_PER_NS: u64 = 2;
/// The cost of TLS for a read and a write, in nanoseconds, and the bytes that it seals or opens in one.
const TLS_TRIP_NS: u64 = 3_000;
const TLS_BYTES_PER_NS: u64 = 1;
/// A request buffer of this size or more grows on the slow lane: to copy it would keep other connections waiting.
const MOVED_BYTES: usize = 1 << 20;

/// Bytes of further requests that are read while a client is blocked, to notice its end.
const READ_AHEAD: usize = 16 << 10;
/// Interval at which the connection of a blocked client is checked that has sent more than that.
const LOOK_AT_BLOCKED_EVERY: Duration = Duration::from_secs(1);
/// Interval at which the connection of a waiting client is checked.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The reason for the end of a connection.
enum End {
    Closed,
    Failed,
}

/// Waits until the turn of `place` comes, if there is one, and gives it up then. The task is woken too if the client is
/// killed.
fn poll_turn(client: &Client, place: &mut Option<Rc<QueuePlace>>, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
    if place.as_ref().is_some_and(|place| !place.is_called(cx.waker())) {
        client.waker.register(cx.waker());
        return if client.is_killed() { Poll::Ready(Err(End::Closed)) } else { Poll::Pending };
    }
    *place = None;
    Poll::Ready(Ok(()))
}

/// Serves a connection to its end.
pub async fn serve(mut stream: ClientSocket, entrant: Entrant, worker: Rc<Worker>, node: Arc<Node>) {
    let (client, is_admitted) = match admit(&entrant, &node, &worker).await {
        Ok(admitted) => admitted,
        Err(refusal) => {
            let refusal = format!("-{refusal}\r\n");
            // The client may be gone.
            let _ = poll_fn(|cx| stream.poll_write(cx, refusal.as_bytes())).await;
            stream.close();
            return;
        }
    };
    note_certificate(&stream, &client, &node);
    let tenant = node.tenants.default();
    client.fd.store(stream.as_raw_fd(), Ordering::Relaxed);
    let session = Session::new(&node, &worker, &client, tenant, is_admitted);
    let limits = *session.limits();
    let budget: Arc<dyn Budget> = Arc::clone(&client) as _;
    let mut reply = Reply::within(session.version, Some(budget));
    reply.set_inline_max(Some(REPLY_HIGH_WATER + REPLY_INLINE_MAX));
    let parser = Parser::new(limits);
    let mut connection = Connection { stream, client, session, parser, rest: Vec::new(), rest_held: 0, reply };
    let _ = connection.run().await;
}

/// Notes whose certificate a client has shown, for the audit log.
pub fn note_certificate(socket: &ClientSocket, client: &Client, node: &Node) {
    if node.audit.is_on() && client.peer().is_tls() {
        client.told.lock().certificate = socket.client_subject().map(Into::into);
    }
}

/// Gives a new connection its place among the clients, once there is memory for it: a client's, if it needs no token.
/// Returns whether that is so.
///
/// # Errors
/// When the node takes no more clients.
pub async fn admit(entrant: &Entrant, node: &Node, worker: &Worker) -> Result<(Arc<Client>, bool), Refusal> {
    let (_, now_ms) = worker.now();
    node.newcomers.wait().await;
    let is_admitted = node.tenants.admits_newcomers();
    let tenant = node.tenants.default();
    let places = node.places(Some(&tenant));
    let name: Arc<str> = tenant.name().into();
    let client = match entrant {
        Entrant::Listed(listed) if is_admitted => {
            node.clients.welcome(&listed.client, &name, places)?;
            listed.client.charge_to(&tenant.account);
            listed.client.told.lock().database = name;
            Arc::clone(&listed.client)
        }
        Entrant::Listed(listed) => Arc::clone(&listed.client),
        Entrant::New(peer) if is_admitted => node.clients.add(peer.clone(), &name, &tenant.account, now_ms, places)?,
        Entrant::New(peer) => node.add_stranger(peer.clone(), now_ms)?,
    };
    Ok((client, is_admitted))
}

/// Runs after a panic of a command too: nothing may count, watch or listen forever on behalf of a client that is gone.
impl Drop for Connection {
    fn drop(&mut self) {
        self.stream.close();
        self.session.count_unfinished(self.rest.len());
        self.session.end();
        self.session.node.clients.remove(self.client.id);
    }
}

/// Runs what the client waits for. If the client gives up meanwhile, kills the client, so that work that has not begun by
/// then never does. The connection is checked whenever the work could continue, and a few times a second.
///
/// A client that has closed its sending side by the first look, after [`HASTE`], has not given up: it waits for the replies
/// to what it has sent.
pub async fn beside_client<T>(
    presence: impl Fn() -> Presence,
    client: &Client,
    mut work: Pin<Box<impl Future<Output = T>>>,
) -> T {
    // Most commands finish at once.
    if let Poll::Ready(done) = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await {
        return done;
    }
    let began = Instant::now();
    let mut look = tokio::time::interval_at((began + HASTE).into(), LOOK_EVERY);
    let mut is_only_listening = None;
    poll_fn(|cx| {
        let is_due = look.poll_tick(cx).is_ready();
        if is_due || began.elapsed() > HASTE {
            let now = presence();
            let listens = *is_only_listening.get_or_insert(now == Presence::Listening);
            if now == Presence::Gone || now == Presence::Listening && !listens {
                client.kill();
            }
        }
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(done);
        }
        // Polled until the interval has registered the waker.
        if is_due && look.poll_tick(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await
}

/// The client at the other end of a connection, as far as is known.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It may send more.
    Open,
    /// It has closed its sending side. Whether it still reads shows when something is sent.
    Listening,
    /// The connection is broken.
    Gone,
}

impl Presence {
    pub fn of(stream: &ClientSocket) -> Self {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        #[cfg(target_os = "linux")]
        let half = PollFlags::RDHUP;
        #[cfg(not(target_os = "linux"))]
        let half = PollFlags::empty();
        let mut fds = [PollFd::new(stream, half)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let events = match poll(&mut fds, Some(&now)) {
            Ok(1..) => fds[0].revents(),
            _ => PollFlags::empty(),
        };
        if events.intersects(PollFlags::HUP | PollFlags::ERR) {
            Self::Gone
        } else if events.intersects(half) {
            Self::Listening
        } else {
            Self::Open
        }
    }
}

/// Work of the system and of TLS for the bytes of a read or a write, in nanoseconds.
fn transfer_ns(stream: &ClientSocket, bytes: usize) -> u64 {
    let over_tls = if stream.is_tls() { bytes as u64 / TLS_BYTES_PER_NS } else { 0 };
    bytes as u64 / BYTES_PER_NS + over_tls
}

struct Connection {
    stream: ClientSocket,
    client: Arc<Client>,
    session: Session,
    parser: Parser,
    /// Bytes that were read and not yet consumed.
    rest: Vec<u8>,
    /// Bytes charged for them and for the parser's state.
    rest_held: usize,
    /// Lacks its buffer, which belongs to the worker.
    reply: Reply,
}

impl Connection {
    async fn run(&mut self) -> Result<(), End> {
        let mut taken = 0;
        loop {
            let read = self.read().await?;
            let worker = Rc::clone(&self.session.worker);
            let mut reply = std::mem::take(&mut self.reply);
            reply.set_version(self.session.version);
            reply.buffer = worker.take_reply();
            if self.client.has_messages() {
                if !self.session.renew() {
                    return Err(End::Closed);
                }
                self.client.take_messages(&mut reply.buffer, SENT_AT_ONCE);
                self.session.count_messages(reply.len());
            }
            if read > 0 {
                let served = self.session.tenant.database.waiters.served();
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
                if let Some(link) = self.session.link.take() {
                    // Boxed: only connections in a fleet need it.
                    return Box::pin(self.forward(link, reply)).await;
                }
                let served = self.session.tenant.database.waiters.served().wrapping_sub(served);
                if (1..=SERVED_FIRST_MAX).contains(&served) && worker.turns.has_one_owner() {
                    // They have waited longer than this client.
                    after_ready_tasks().await;
                }
            }
            if self.rest.is_empty() {
                self.rest = Vec::new();
                self.parser.rest();
            }
            self.charge_rest(&mut reply);
            self.send(&mut reply).await?;
            worker.give_reply(reply.take_buffer());
            self.reply = reply;
            if self.rest_capacity() > self.rest.capacity() && !self.session.closing {
                self.grow_rest().await;
            }
            self.client.input_bytes.store(self.rest.len(), Ordering::Relaxed);
            if self.session.closing {
                return Err(End::Closed);
            }
            let trip_ns = if self.stream.is_tls() { TRIP_NS + TLS_TRIP_NS } else { TRIP_NS };
            worker.turns.charge(&self.session.share, trip_ns + transfer_ns(&self.stream, read));
            taken += read;
            if taken >= READ_AT_ONCE || self.client.has_messages() {
                taken = 0;
                self.session.pass_turn().await;
            }
        }
    }

    /// Continues a batch that has to await something, until all of its complete requests are answered.
    async fn finish(&mut self, mut next: Next, reply: &mut Reply) -> Result<(), End> {
        let mut waited = false;
        loop {
            let slow = match next {
                Next::Read => return Ok(()),
                Next::Close => {
                    self.session.closing = true;
                    return Ok(());
                }
                Next::Leaseless => {
                    self.send(reply).await?;
                    if !self.session.node.lease.renewed().await {
                        reply.error(LEASELESS);
                        self.session.closing = true;
                        return Ok(());
                    }
                    None
                }
                Next::Flush => {
                    self.send(reply).await?;
                    None
                }
                Next::Yield => {
                    self.session.pass_turn().await;
                    None
                }
                Next::Slow { request, bytes } => Some((request, bytes)),
                Next::Large { bytes, spans } => Some((self.take_request(bytes, spans), bytes)),
            };
            if let Some((request, bytes)) = slow {
                if self.session.is_held_back(request.as_request()) {
                    self.send(reply).await?;
                    Box::pin(self.until_resumed(&request)).await?;
                }
                // Boxed: a rare and large future must not make every idle connection large.
                let began = Instant::now();
                let execution = Box::pin(self.session.execute(request, bytes, reply));
                beside_client(|| Presence::of(&self.stream), &self.client, execution).await;
                if self.session.link.is_some() {
                    return Ok(());
                }
                if self.session.blocked.is_some() {
                    Box::pin(self.until_unblocked(reply)).await?;
                    // It has waited long enough: the reply leaves before others have a turn.
                    self.send(reply).await?;
                }
                waited = began.elapsed() > HASTE;
                // Queueing commands costs little; anything else that runs here may have been long.
                if self.session.transaction.is_none() {
                    self.session.pass_turn().await;
                }
                if self.parser.limits() != self.session.limits() {
                    self.parser.set_limits(*self.session.limits());
                }
                if self.session.closing {
                    return Ok(());
                }
            }
            if self.client.is_killed() {
                return Err(End::Closed);
            }
            if waited {
                // The next command may wait equally long. In a pipeline each has its own bound.
                self.send(reply).await?;
                waited = false;
            }
            let (used, after) = self.session.batch(&mut self.parser, &self.rest, reply);
            self.consume(used);
            next = after;
        }
    }

    /// Sends the replies so far, and leaves the connection to another node until it ends.
    async fn forward(&mut self, mut link: Box<NodeLink>, mut reply: Reply) -> Result<(), End> {
        self.send(&mut reply).await?;
        self.session.worker.give_reply(reply.take_buffer());
        link.unsent.append(&mut self.rest);
        self.rest = Vec::new();
        self.parser.rest();
        self.charge_rest(&mut reply);
        self.client.input_bytes.store(0, Ordering::Relaxed);
        let Session { node, worker, share, .. } = &self.session;
        let counted = node.forwarded.begin();
        let copied = copying::copy(&mut self.stream, *link, &self.client, (node, worker, share), counted);
        copied.await.map_err(|_| End::Failed)
    }

    /// Waits while `CLIENT PAUSE` holds back a request.
    async fn until_resumed(&mut self, request: &OwnedRequest) -> Result<(), End> {
        let waiting = Box::pin(self.session.wait_for_pause(request.as_request()));
        beside_client(|| Presence::of(&self.stream), &self.client, waiting).await;
        let is_over = self.client.is_killed() || self.session.node.clients.is_draining();
        if is_over { Err(End::Closed) } else { Ok(()) }
    }

    /// Waits until the client is not blocked any more. The replies to earlier requests are sent first, and the buffer goes
    /// back to the worker meanwhile.
    async fn until_unblocked(&mut self, reply: &mut Reply) -> Result<(), End> {
        let worker = Rc::clone(&self.session.worker);
        while self.session.blocked.is_some() {
            // In a box, like whatever else does not last as long as the wait: ten thousand clients may wait.
            match reply.is_empty() {
                true => self.session.publish_when_durable(),
                false => Box::pin(self.send(reply)).await?,
            }
            worker.give_reply(reply.take_buffer());
            let event = self.blocked_event().await?;
            reply.buffer = worker.take_reply();
            self.charge_rest(reply);
            match event {
                Some(BlockedEvent::Over(how)) => self.session.unblock(how, reply),
                Some(BlockedEvent::Nudged) => {
                    let execution = Box::pin(self.session.run_again(reply));
                    Box::pin(beside_client(|| Presence::of(&self.stream), &self.client, execution)).await;
                }
                None => {
                    let before = reply.len();
                    self.client.take_messages(&mut reply.buffer, SENT_AT_ONCE);
                    self.session.count_messages(reply.len() - before);
                }
            }
            if self.session.closing {
                return Ok(());
            }
            if self.client.is_killed() {
                return Err(End::Closed);
            }
        }
        Ok(())
    }

    /// The next event of a blocked client; `None`: it has messages.
    async fn blocked_event(&mut self) -> Result<Option<BlockedEvent>, End> {
        let Self { stream, client, session, rest, .. } = self;
        let (worker, node) = (Rc::clone(&session.worker), Arc::clone(&session.node));
        let Some(blocked) = &mut session.blocked else { return Ok(None) };
        let mut look = None;
        poll_fn(|cx| {
            client.waker.register(cx.waker());
            if client.is_killed() || node.clients.is_draining() {
                return Poll::Ready(Err(End::Closed));
            }
            // Messages that came before the event leave before it.
            if client.has_messages() {
                return Poll::Ready(Ok(None));
            }
            if let Poll::Ready(event) = blocked.poll(cx) {
                return Poll::Ready(Ok(Some(event)));
            }
            while rest.len() < READ_AHEAD {
                let mut scratch = worker.scratch.borrow_mut();
                let mut buffer = ReadBuf::new(&mut scratch[..READ_AHEAD]);
                match stream.poll_read(cx, &mut buffer) {
                    Poll::Ready(Ok(())) if buffer.filled().is_empty() => return Poll::Ready(Err(End::Closed)),
                    Poll::Ready(Ok(())) => rest.extend_from_slice(buffer.filled()),
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(End::Failed)),
                    Poll::Pending => return Poll::Pending,
                }
            }
            // Its end can be seen behind the bytes that are not read.
            let look = look.get_or_insert_with(|| Box::pin(tokio::time::interval(LOOK_AT_BLOCKED_EVERY)));
            while look.poll_tick(cx).is_ready() {
                if Presence::of(stream) != Presence::Open {
                    return Poll::Ready(Err(End::Closed));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Charges the client for an incomplete request. If it does not fit, the connection ends, as the end of the request
    /// is unknown.
    fn charge_rest(&mut self, reply: &mut Reply) {
        let bytes = if self.rest.is_empty() { 0 } else { self.rest_capacity() + self.parser.heap_bytes() };
        if bytes <= self.rest_held {
            if bytes == 0 && self.rest_held > 0 {
                self.client.let_go(std::mem::take(&mut self.rest_held));
            }
            return;
        }
        match self.client.hold(bytes - self.rest_held) {
            Ok(()) => self.rest_held = bytes,
            Err(limit) => {
                let database = self.client.database();
                tracing::warn!(
                    database = &*database,
                    client = self.client.id,
                    bytes,
                    limit,
                    "closed: its request does not fit"
                );
                reply.error(&account::refusal(limit).to_string());
                self.session.closing = true;
            }
        }
    }

    /// The capacity that the request buffer should have before the next read: twice as much as has arrived, or what an
    /// incomplete argument announces if that is less, and room for one read.
    fn rest_capacity(&self) -> usize {
        let (len, capacity) = (self.rest.len(), self.rest.capacity());
        if len < READ_BYTES || capacity - len >= READ_BYTES {
            return capacity;
        }
        let missing = match self.parser.missing_bytes(len) {
            0 => len,
            missing => missing.min(len),
        };
        len + missing + READ_BYTES
    }

    /// Makes the request buffer larger. It has been charged for.
    async fn grow_rest(&mut self) {
        let more = self.rest_capacity() - self.rest.len();
        if self.rest.len() < MOVED_BYTES {
            self.rest.reserve_exact(more);
            return;
        }
        let rest = Arc::new(Mutex::new(std::mem::take(&mut self.rest)));
        let (sender, receiver) = oneshot::channel();
        let grown = Arc::clone(&rest);
        let grow = move |_| {
            pace::make_room_exact(&mut grown.lock(), more);
            // The connection may have ended.
            let _ = sender.send(());
        };
        if self.session.tenant.database.on_lane(Vec::new(), || true, grow).is_ok() {
            let _ = receiver.await;
        }
        self.rest = std::mem::take(&mut rest.lock());
        // The lane may be full.
        self.rest.reserve_exact(more);
    }

    /// Takes a large request out of the read bytes, with their buffer: a copy would keep the other connections of the
    /// worker waiting.
    fn take_request(&mut self, bytes: usize, spans: Box<[Span]>) -> OwnedRequest {
        let following = self.rest.split_off(bytes);
        OwnedRequest::within(std::mem::replace(&mut self.rest, following), spans)
    }

    fn consume(&mut self, used: usize) {
        if used == self.rest.len() {
            self.rest.clear();
        } else {
            self.rest.drain(..used);
        }
    }

    /// Waits for bytes. Returns 0 if there are none but the client was told something.
    async fn read(&mut self) -> Result<usize, End> {
        let (worker, share) = (&self.session.worker, &self.session.share);
        let mut place = None;
        poll_fn(|cx| {
            if self.client.is_killed() {
                return Poll::Ready(Err(End::Closed));
            }
            if place.is_none() && !worker.turns.is_free(share) && self.stream.has_bytes(cx) {
                place = Some(worker.turns.queue(share));
            }
            ready!(poll_turn(&self.client, &mut place, cx))?;
            let mut scratch = worker.scratch.borrow_mut();
            let mut buffer = ReadBuf::new(&mut scratch);
            match self.stream.poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => Poll::Ready(Err(End::Closed)),
                Poll::Ready(Ok(())) => Poll::Ready(Ok(buffer.filled().len())),
                Poll::Ready(Err(_)) => Poll::Ready(Err(End::Failed)),
                Poll::Pending => {
                    // Register first, then check: otherwise a message in between would wake no task.
                    self.client.waker.register(cx.waker());
                    if self.client.is_killed() || self.session.node.clients.is_draining() {
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

    /// Writes all replies and leaves their buffer empty. A long one is written in pieces, with turns for others in
    /// between.
    async fn send(&mut self, reply: &mut Reply) -> Result<(), End> {
        if reply.is_empty() {
            self.session.publish_when_durable();
            return Ok(());
        }
        if self.session.awaited > 0 {
            let held_back = Box::pin(delivery::hold_back(&mut self.session, &mut reply.buffer));
            if !beside_client(|| Presence::of(&self.stream), &self.client, held_back).await {
                return Err(End::Closed);
            }
        }
        self.session.publish_unpublished().await;
        let uncharged = reply.buffer.capacity().saturating_sub(reply.granted());
        let (mut sent, mut held) = (0, false);
        loop {
            let (before, end) = (sent, reply.len().min(sent + SENT_AT_ONCE));
            self.send_part(&reply.buffer, &mut sent, end, uncharged, &mut held).await?;
            self.session.worker.turns.charge(&self.session.share, transfer_ns(&self.stream, sent - before));
            if sent == reply.len() {
                break;
            }
            self.session.pass_turn().await;
        }
        if held {
            self.client.let_go(uncharged);
        }
        reply.truncate(0);
        self.client.output_bytes.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Writes `buffer` from `sent` to `end`. A client that does not read is charged for the whole buffer.
    async fn send_part(
        &mut self,
        buffer: &[u8],
        sent: &mut usize,
        end: usize,
        uncharged: usize,
        held: &mut bool,
    ) -> Result<(), End> {
        let limit = self.session.node.output_limit_normal();
        let (worker, share) = (&self.session.worker, &self.session.share);
        let (mut is_first, mut place) = (true, None);
        poll_fn(|cx| {
            // It had to wait for the client: others had their turns meanwhile.
            if !std::mem::replace(&mut is_first, false) && place.is_none() && !worker.turns.is_free(share) {
                place = Some(worker.turns.queue(share));
            }
            ready!(poll_turn(&self.client, &mut place, cx))?;
            while *sent < end || !self.stream.is_flushed() {
                match self.stream.poll_send(cx, &buffer[*sent..end]) {
                    Poll::Ready(Ok(0)) if *sent < end => return Poll::Ready(Err(End::Closed)),
                    Poll::Ready(Ok(n)) => *sent += n,
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(End::Failed)),
                    Poll::Pending => {
                        let unsent = buffer.len() - *sent;
                        if !std::mem::replace(held, true) {
                            self.client.hold_anyway(uncharged);
                        }
                        self.client.wait_to_send(unsent);
                        self.client.waker.register(cx.waker());
                        if self.client.is_killed() {
                            return Poll::Ready(Err(End::Closed));
                        }
                        if limit.hard_bytes > 0 && unsent > limit.hard_bytes {
                            tracing::warn!(
                                database = &*self.client.database(),
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
        .await
    }
}
