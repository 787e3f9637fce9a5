//! A command's wait for its turn, on the slow way: for its database to wake, a part to be loaded, a lock, a thread.
//!
//! - The wait is bounded (`--reply-timeout`). A client that gets no reply gives up and sends the command again on another
//!   connection, so a command that has not begun by then is never run, and the reply says so.
//! - A command is not run either if its client has closed its connection meanwhile: the connection looks for that while it
//!   waits, and kills the client. It does so only after a while: a client may well close its side at once and still read
//!   the replies.
//! - A command that has begun runs to its end, and its reply is waited for, however long it takes.
//!
//! A command may begin on another thread, so beginning and giving up exclude each other by one atomic state.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use dormouse_shard::error::Error;

use crate::clients::Client;

const WAITING: u8 = 0;
const RUNNING: u8 = 1;
/// It will not be run.
const GIVEN_UP: u8 = 2;

#[derive(Debug)]
pub struct Turn {
    since: Instant,
    limit: Option<Duration>,
    client: Option<Arc<Client>>,
    state: AtomicU8,
}

/// What a command waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    Wake,
    Load,
    Room,
    Lock,
    Lane,
    Answer,
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wake => "its database to wake",
            Self::Load => "a part of its database to be loaded",
            Self::Room => "memory to become free",
            Self::Lock => "the lock of a shard",
            Self::Lane => "its turn on the slow lane",
            Self::Answer => "what it asks for",
        })
    }
}

impl Turn {
    /// Waits as long as it takes.
    pub fn endless() -> Self {
        Self { since: Instant::now(), limit: None, client: None, state: AtomicU8::new(WAITING) }
    }

    pub fn new(since: Instant, limit: Option<Duration>, client: &Arc<Client>) -> Self {
        Self { since, limit, client: Some(Arc::clone(client)), state: AtomicU8::new(WAITING) }
    }

    /// Waits for something, as long as the command may.
    ///
    /// # Errors
    /// When time is up, or the client is gone.
    pub async fn wait<T>(&self, what: Waits, future: impl Future<Output = T>) -> Result<T, Error> {
        let mut future = pin!(future);
        // Most are ready at once and need no timer.
        let first = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
        if let Poll::Ready(done) = first {
            return Ok(done);
        }
        let deadline = self.limit.map(|limit| tokio::time::Instant::from_std(self.since + limit));
        let mut timer = pin!(async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        });
        let mut is_late = false;
        poll_fn(|cx| {
            if let Poll::Ready(done) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            if let Some(client) = &self.client {
                client.waker.register(cx.waker());
            }
            is_late = is_late || timer.as_mut().poll(cx).is_ready();
            // What runs already is waited for, unless its client is gone.
            let is_over = (is_late && self.give_up()) || self.has_lost_client();
            if is_over { Poll::Ready(Err(self.late(what))) } else { Poll::Pending }
        })
        .await
    }

    /// Whether the command may run now. From then on it is not given up.
    pub fn begin(&self) -> bool {
        let next = if self.has_lost_client() { GIVEN_UP } else { RUNNING };
        match self.state.compare_exchange(WAITING, next, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => next == RUNNING,
            Err(state) => state == RUNNING,
        }
    }

    /// Whether it is still to be run.
    pub fn is_wanted(&self) -> bool {
        self.state.load(Ordering::SeqCst) != GIVEN_UP && !self.has_lost_client()
    }

    /// It could not go on and waits again.
    pub fn wait_again(&self) {
        let _ = self.state.compare_exchange(RUNNING, WAITING, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// As [`Self::begin`].
    ///
    /// # Errors
    /// When it may not.
    pub fn enter(&self) -> Result<(), Error> {
        if self.begin() { Ok(()) } else { Err(self.late(Waits::Lock)) }
    }

    /// Why a command was not run whose job has vanished.
    pub fn vanished(&self, what: Waits) -> Error {
        match self.state.load(Ordering::SeqCst) {
            GIVEN_UP => self.late(what),
            _ => Error::text("ERR the command failed; the server's log says how"),
        }
    }

    /// Whether its client is gone.
    pub fn has_lost_client(&self) -> bool {
        self.client.as_ref().is_some_and(|client| client.is_killed())
    }

    /// False: it has begun.
    fn give_up(&self) -> bool {
        match self.state.compare_exchange(WAITING, GIVEN_UP, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => true,
            Err(state) => state != RUNNING,
        }
    }

    fn late(&self, what: Waits) -> Error {
        let limit_ms = self.limit.map_or(0, |limit| limit.as_millis());
        Error::Text(
            format!("TIMEOUT no reply within {limit_ms} ms: the command waited for {what} and was not run").into(),
        )
    }
}
