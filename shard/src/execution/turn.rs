//! A plan's wait for its turn: for its database to wake, a part to be loaded, a lock, a thread.
//!
//! - The wait is bounded. A client that gets no reply gives up and sends the command again on another connection, so a
//!   command that has not begun by then is never run, and the reply says so.
//! - A command is not run either if its caller has gone meanwhile.
//! - A command that has begun runs to its end, and its reply is waited for, however long it takes. If its caller goes, it
//!   is told to [end](dormouse_types::pace), which those do that have changed nothing. It is waited for a little then, since its
//!   outcome says what it has cost.
//!
//! A command may begin on another thread, so beginning and giving up exclude each other by one atomic state.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use crate::error::Error;

/// Time for a running command to end after its caller has gone.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

const WAITING: u8 = 0;
const RUNNING: u8 = 1;
/// The command will not be run.
const GIVEN_UP: u8 = 2;

/// The client that waits for a command.
pub trait Caller: fmt::Debug + Send + Sync {
    /// Whether it has gone: nothing that has not begun is run for it.
    fn is_gone(&self) -> bool;

    /// Whether what runs for it is to end, if that has changed nothing.
    fn ends(&self) -> bool {
        self.is_gone()
    }

    /// Says whom to wake when it goes.
    fn register(&self, waker: &Waker);
}

#[derive(Debug)]
pub struct Turn {
    /// Since when it waits, and for how long it may.
    limit: Option<(Instant, Duration)>,
    caller: Option<Arc<dyn Caller>>,
    state: AtomicU8,
    /// It has the thread that it waited for, and waits for a lock there.
    has_thread: AtomicBool,
}

/// The resources that a command waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    Wake,
    Load,
    Room,
    Log,
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
            Self::Log => "large writes before it to reach the disk",
            Self::Lock => "the lock of a shard",
            Self::Lane => "its turn on the slow lane",
            Self::Answer => "what it asks for",
        })
    }
}

impl Turn {
    /// Waits as long as it takes.
    pub fn endless(caller: Option<Arc<dyn Caller>>) -> Self {
        Self { limit: None, caller, state: AtomicU8::new(WAITING), has_thread: AtomicBool::new(false) }
    }

    /// Waits for at most `limit` from `since` on.
    pub fn new(since: Instant, limit: Option<Duration>, caller: Arc<dyn Caller>) -> Self {
        Self { limit: limit.map(|limit| (since, limit)), ..Self::endless(Some(caller)) }
    }

    /// Waits for something, as long as the command may.
    ///
    /// # Errors
    /// When time is up, or the caller is gone.
    pub async fn wait<T>(&self, what: Waits, future: impl Future<Output = T>) -> Result<T, Error> {
        let mut future = pin!(future);
        // Most are ready at once and need no timer.
        let first = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
        if let Poll::Ready(done) = first {
            return Ok(done);
        }
        let deadline = self.limit.map(|(since, limit)| tokio::time::Instant::from_std(since + limit));
        let mut timer = pin!(async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        });
        let mut is_late = false;
        let mut grace = None;
        poll_fn(|cx| {
            if let Poll::Ready(done) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            if let Some(caller) = &self.caller {
                caller.register(cx.waker());
            }
            is_late = is_late || timer.as_mut().poll(cx).is_ready();
            let is_over = if self.has_lost_caller() {
                self.give_up() || {
                    let grace = grace.get_or_insert_with(|| Box::pin(tokio::time::sleep(ENDS_WITHIN)));
                    grace.as_mut().poll(cx).is_ready()
                }
            } else {
                is_late && self.give_up()
            };
            if is_over { Poll::Ready(Err(self.late(what))) } else { Poll::Pending }
        })
        .await
    }

    /// Whether the command may run now. From then on it is not given up.
    pub(super) fn begin(&self) -> bool {
        let next = if self.has_lost_caller() { GIVEN_UP } else { RUNNING };
        match self.state.compare_exchange(WAITING, next, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => next == RUNNING,
            Err(state) => state == RUNNING,
        }
    }

    /// It has a thread of the lane. Returns whether it is still to be run.
    pub(super) fn take_thread(&self) -> bool {
        self.has_thread.store(true, Ordering::SeqCst);
        self.state.load(Ordering::SeqCst) != GIVEN_UP && !self.has_lost_caller()
    }

    /// The command could not go on and waits again.
    pub(super) fn wait_again(&self) {
        self.has_thread.store(false, Ordering::SeqCst);
        let _ = self.state.compare_exchange(RUNNING, WAITING, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// As [`Self::begin`].
    ///
    /// # Errors
    /// When it may not.
    pub(super) fn enter(&self) -> Result<(), Error> {
        if self.begin() { Ok(()) } else { Err(self.late(Waits::Lock)) }
    }

    /// The error for a command that was not run because its job has vanished.
    pub(super) fn vanished(&self, what: Waits) -> Error {
        match self.state.load(Ordering::SeqCst) {
            GIVEN_UP => self.late(what),
            _ => Error::text("ERR the command failed; the server's log says how"),
        }
    }

    /// Whether its caller is gone.
    pub fn has_lost_caller(&self) -> bool {
        self.caller.as_ref().is_some_and(|caller| caller.is_gone())
    }

    /// Whether its caller asks for its end.
    pub(super) fn is_to_end(&self) -> bool {
        self.caller.as_ref().is_some_and(|caller| caller.ends())
    }

    /// False: it has begun.
    fn give_up(&self) -> bool {
        match self.state.compare_exchange(WAITING, GIVEN_UP, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => true,
            Err(state) => state != RUNNING,
        }
    }

    fn late(&self, what: Waits) -> Error {
        let what = if what == Waits::Lane && self.has_thread.load(Ordering::SeqCst) { Waits::Lock } else { what };
        let limit_ms = self.limit.map_or(0, |(_, limit)| limit.as_millis());
        Error::Text(
            format!("TIMEOUT no reply within {limit_ms} ms: the command waited for {what} and was not run").into(),
        )
    }
}
