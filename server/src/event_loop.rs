//! The event loop of a worker: an OS thread that serves the connections it is given.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::connection;
use crate::memory;
use crate::node::Node;
use crate::rest::{self, HandedOver};
use crate::sockets::{Accepted, ClientSocket, Entrant};
use crate::turns;
use crate::worker::Worker;

/// Time in which connections have to answer the requests that they have read, once the node drains.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// The part of it after which commands are told to end that run and have changed nothing.
const COMMANDS_RUN_MAX: Duration = Duration::from_secs(4);

/// A connection for a worker.
enum Incoming {
    Resp(Accepted, Entrant),
    Http(HandedOver),
}

/// Hands connections to a worker.
#[derive(Debug, Clone)]
pub struct Handle(mpsc::UnboundedSender<Incoming>);

impl Handle {
    pub fn serve(&self, stream: Accepted, entrant: Entrant) {
        // A worker ends only with the process.
        let _ = self.0.send(Incoming::Resp(stream, entrant));
    }

    pub fn serve_http(&self, connection: HandedOver) {
        let _ = self.0.send(Incoming::Http(connection));
    }
}

/// Starts a worker thread. It ends when the node drains and its last connection is closed.
///
/// # Errors
/// When the system refuses a thread or an event loop.
pub fn start(number: usize, node: Arc<Node>) -> std::io::Result<(Handle, std::thread::JoinHandle<()>)> {
    let (sender, mut incoming) = mpsc::unbounded_channel();
    let (started, outcome) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        memory::allocate_apart();
        // An event loop whose tasks need not be `Send` cannot leave the thread that makes it.
        let mut builder = Builder::new_current_thread();
        builder.enable_all().on_thread_unpark(turns::begin_round);
        let made = builder.build_local(LocalOptions::default());
        let runtime = match made {
            Ok(runtime) => runtime,
            Err(error) => return drop(started.send(Err(error))),
        };
        // The thread that starts a worker waits for this answer.
        let _ = started.send(Ok(()));
        let worker = Rc::new(Worker::new(node.seed.wrapping_add(number as u64 + 1)));
        runtime.block_on(async move {
            if let Some(log) = node.engine.log.clone() {
                let worker = Rc::clone(&worker);
                tokio::task::spawn_local(async move { worker.held.follow(log).await });
            }
            tokio::task::spawn_local(memory::flush_when_given_back());
            let giver = Rc::clone(&worker);
            tokio::task::spawn_local(async move { giver.turns.serve().await });
            let mut served = JoinSet::new();
            loop {
                let next = tokio::select! {
                    biased;
                    next = incoming.recv() => next,
                    () = node.until_drained() => None,
                };
                let (worker, node) = (Rc::clone(&worker), Arc::clone(&node));
                match next {
                    Some(Incoming::Resp(accepted, entrant)) => match ClientSocket::adopt(accepted) {
                        Ok(stream) => _ = served.spawn_local(connection::serve(stream, entrant, worker, node)),
                        Err(error) => tracing::warn!(%error, "failed to serve a connection"),
                    },
                    Some(Incoming::Http(handed)) => _ = served.spawn_local(rest::serve(handed, worker, node)),
                    None => break,
                }
                // Forget ended connections.
                while served.try_join_next().is_some() {}
            }
            // The node drains and accepts no more connections. The remaining ones end by themselves.
            let mut ended = pin!(async { while served.join_next().await.is_some() {} });
            if tokio::time::timeout(COMMANDS_RUN_MAX, &mut ended).await.is_ok() {
                return;
            }
            node.clients.end_commands();
            if tokio::time::timeout(DRAIN_MAX - COMMANDS_RUN_MAX, ended).await.is_err() {
                tracing::warn!("closed: connections that did not end within {} s", DRAIN_MAX.as_secs());
            }
        });
    })?;
    outcome.recv().map_err(std::io::Error::other)??;
    Ok((Handle(sender), thread))
}
