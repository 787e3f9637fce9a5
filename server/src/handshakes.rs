//! Handshakes of TLS, on threads of their own.
//!
//! A handshake costs as much as a hundred commands, and clients choose when to make one: a thousand functions may start
//! at once. So no worker makes any.
//!
//! 1. A new connection is a stranger at once, before any thread takes it ([`crate::strangers`]). So there are bounds on the
//!    number of handshakes under way, on their time (`--auth-timeout`) and on their memory. If all places are taken, an older
//!    connection of the most crowded address is closed.
//! 2. It goes to a thread with an event loop, or is closed if very many wait for that already. There the addresses of clients take turns like the owners of databases do
//!    on a worker ([`crate::turns`]): an address that opens many connections does not delay those of others.
//! 3. The threads have a lower priority than the workers, and offer their processor after each step, so clients that are
//!    connected come first.
//! 4. When the handshake is made, the connection moves to a worker.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Instant;

use rustls::Error;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::audit::{Actor, AuditEvent, AuditLog, AuditResult};
use crate::event_loop::Handle;
use crate::node::Node;
use crate::peer::Peer;
use crate::sockets::{Accepted, Entrant, ListedClient};
use crate::strangers::Neighbourhood;
use crate::tls::{Tls, TlsSocket};
use crate::turns::{self, Turns};

/// Workers for each thread of handshakes.
const WORKERS_PER_THREAD: usize = 4;
/// Connections that wait for a thread. Most of them are closed by then: strangers have fewer places.
const WAITING_MAX: usize = 2048;
/// Niceness of the threads.
const NICER: i32 = 5;

/// Hands connections to the threads, in turn.
#[derive(Clone)]
pub struct Handshakes {
    node: Arc<Node>,
    tls: Arc<Tls>,
    threads: Arc<[mpsc::Sender<Waiting>]>,
    turn: Arc<AtomicUsize>,
}

/// A connection that waits for a thread.
type Waiting = (std::net::TcpStream, ListedClient);

impl Handshakes {
    /// Starts the threads. They end when the node drains.
    ///
    /// # Errors
    /// When the system refuses a thread or an event loop.
    pub fn start(node: &Arc<Node>, tls: &Arc<Tls>, workers: &[Handle]) -> io::Result<Self> {
        let threads = workers.len().div_ceil(WORKERS_PER_THREAD);
        let workers: Arc<[Handle]> = workers.into();
        let start = |number| start(number, Arc::clone(tls), Arc::clone(&workers));
        let threads: io::Result<Vec<_>> = (0..threads).map(start).collect();
        Ok(Self { node: Arc::clone(node), tls: Arc::clone(tls), threads: threads?.into(), turn: Arc::default() })
    }

    pub fn make(&self, stream: std::net::TcpStream, peer: Peer) {
        let Ok(client) = self.node.add_stranger(peer, (self.node.engine.clock)()) else { return };
        let listed = ListedClient { client, node: Arc::clone(&self.node) };
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        if self.threads[turn % self.threads.len()].try_send((stream, listed)).is_err() {
            self.tls.handshakes_failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What the handshakes of a thread share.
struct Thread {
    tls: Arc<Tls>,
    turns: Turns,
    workers: Arc<[Handle]>,
    next_worker: AtomicUsize,
}

fn start(number: usize, tls: Arc<Tls>, workers: Arc<[Handle]>) -> io::Result<mpsc::Sender<Waiting>> {
    let (sender, mut incoming) = mpsc::channel(WAITING_MAX);
    let (started, outcome) = std::sync::mpsc::sync_channel(1);
    std::thread::Builder::new().name(format!("handshakes-{number}")).spawn(move || {
        // Refused: then it has the same priority as the workers.
        let _ = rustix::process::nice(NICER);
        let mut builder = Builder::new_current_thread();
        builder.enable_all().on_thread_unpark(turns::begin_round);
        let runtime = match builder.build_local(LocalOptions::default()) {
            Ok(runtime) => runtime,
            Err(error) => return drop(started.send(Err(error))),
        };
        // The thread that starts this one waits for the answer.
        let _ = started.send(Ok(()));
        let thread = Rc::new(Thread { tls, turns: Turns::default(), workers, next_worker: AtomicUsize::new(number) });
        runtime.block_on(async move {
            let giver = Rc::clone(&thread);
            tokio::task::spawn_local(async move { giver.turns.serve().await });
            let mut under_way = JoinSet::new();
            while let Some((stream, listed)) = incoming.recv().await {
                under_way.spawn_local(make(stream, listed, Rc::clone(&thread)));
                // Forget those that have ended.
                while under_way.try_join_next().is_some() {}
            }
            // The node drains: each notices.
            while under_way.join_next().await.is_some() {}
        });
    })?;
    outcome.recv().map_err(io::Error::other)??;
    Ok(sender)
}

/// Makes a handshake, and hands the connection to a worker.
async fn make(stream: std::net::TcpStream, listed: ListedClient, thread: Rc<Thread>) {
    let (tls, client) = (&thread.tls, &listed.client);
    let began = tls.begin_handshake();
    let made = match client.is_killed() {
        true => Err(closed()),
        false => handshake(stream, &listed, Neighbourhood::of(&client.peer()), &thread).await,
    };
    let made = made.and_then(TlsSocket::leave);
    tls.end_handshake(began, made.is_ok());
    match made {
        Ok(moved) => {
            let turn = thread.next_worker.fetch_add(1, Ordering::Relaxed);
            let worker = &thread.workers[turn % thread.workers.len()];
            worker.serve(Accepted::Tls(Box::new(moved)), Entrant::Listed(listed));
        }
        Err(error) => {
            let event = |now_ms| AuditEvent { client: Some(client.id), ..refusal(now_ms, client.peer()) };
            note_failure(&listed.node.audit, &error, || event((listed.node.engine.clock)()));
            tracing::debug!(client = client.id, peer = %client.peer(), "closed: no handshake of TLS: {}", explain(&error));
        }
    }
}

/// The event of a client whose certificate was missing or wrong.
pub fn refusal(now_ms: u64, peer: Peer) -> AuditEvent {
    AuditEvent::new(now_ms, "handshake", AuditResult::Refused("wrong-certificate"), Actor::Unknown, peer)
}

/// Tells the audit log of a handshake that has failed, if it failed because of the client's certificate.
pub fn note_failure(audit: &AuditLog, error: &io::Error, event: impl FnOnce() -> AuditEvent) {
    if audit.is_on() && is_of_certificate(error) {
        audit.note_use(&event());
    }
}

fn closed() -> io::Error {
    io::Error::other("the server has closed it")
}

async fn handshake(
    stream: std::net::TcpStream,
    listed: &ListedClient,
    origin: Neighbourhood,
    thread: &Thread,
) -> io::Result<TlsSocket> {
    let (client, turns) = (&listed.client, &thread.turns);
    let mut socket = TlsSocket::new(TcpStream::from_std(stream)?, thread.tls.for_redis(), Some(Arc::clone(client)))?;
    let share = turns.share(&format!("{origin:?}"));
    loop {
        turns.tick((listed.node.engine.clock)());
        turns.pass(&share).await;
        let began = Instant::now();
        let step = poll_fn(|cx| Poll::Ready(socket.poll_handshake(cx))).await;
        turns.charge(&share, began.elapsed().as_nanos() as u64);
        // A worker may wait for the processor.
        std::thread::yield_now();
        if let Poll::Ready(made) = step {
            return made.map(|()| socket);
        }
        // The step has registered the task for what it waits for.
        let mut is_woken = false;
        poll_fn(|cx| {
            client.waker.register(cx.waker());
            if client.is_killed() || listed.node.is_draining() {
                return Poll::Ready(Err(closed()));
            }
            if std::mem::replace(&mut is_woken, true) { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await?;
    }
}

/// Whether the client's certificate was missing or wrong.
fn is_of_certificate(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(inner, Some(Error::NoCertificatesPresented | Error::InvalidCertificate(_)))
}

/// Says what is wrong with a handshake.
pub fn explain(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(Error::InvalidMessage(_)) => "the client does not speak TLS, or garbles it".to_owned(),
        _ if error.kind() == io::ErrorKind::UnexpectedEof => "the client has gone".to_owned(),
        _ => error.to_string(),
    }
}
