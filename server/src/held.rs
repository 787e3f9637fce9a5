//! Replies that are held back until what they tell of is durable: those of one worker.
//!
//! One task of the worker waits for the log on behalf of all its connections, so that a flush wakes a worker once, and not
//! each of its connections. Before it asks for a flush it lets everybody have a turn who has something to say: one frame
//! then takes what all of them have written. A flush costs as much as ten commands, so waiting pays for everybody.
//!
//! Invariant: while somebody waits, the task either gathers or waits for the log.

use std::cell::RefCell;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use dormouse_shard::log::{Log, Lsn};

/// For longer than this nobody is let in before those who wait.
const GATHER_MAX: Duration = Duration::from_millis(1);

#[derive(Debug, Default)]
pub struct Held(RefCell<Inner>);

#[derive(Debug, Default)]
struct Inner {
    waiting: Vec<(Lsn, Waker)>,
    /// Behind everything that somebody waits for.
    last: Lsn,
    /// Of the task, while nobody waits.
    task: Option<Waker>,
}

/// The log was sealed: what is not durable never will be.
#[derive(Debug)]
pub struct Sealed;

impl Held {
    /// Ready when everything before `lsn` is durable.
    pub fn poll(&self, log: &Log, lsn: Lsn, cx: &Context<'_>) -> Poll<Result<(), Sealed>> {
        if log.flushed() >= lsn {
            return Poll::Ready(Ok(()));
        }
        if log.is_sealed() {
            return Poll::Ready(Err(Sealed));
        }
        let mut inner = self.0.borrow_mut();
        inner.last = inner.last.max(lsn);
        inner.waiting.push((lsn, cx.waker().clone()));
        if let Some(task) = inner.task.take() {
            task.wake();
        }
        Poll::Pending
    }

    /// The task. It ends with its worker.
    pub async fn follow(&self, log: Arc<Log>) {
        loop {
            let last = self.gathered().await;
            // Where the log was sealed, each of them is to see for itself.
            let flushed = log.durable(last).await.map_or(Lsn::MAX, |()| log.flushed());
            let mut inner = self.0.borrow_mut();
            inner.waiting.extract_if(.., |(lsn, _)| *lsn <= flushed).for_each(|(_, waker)| waker.wake());
        }
    }

    /// Until somebody waits, and then for as long as more of them come. Answers what has to be durable.
    async fn gathered(&self) -> Lsn {
        let mut known = poll_fn(|cx| {
            let mut inner = self.0.borrow_mut();
            inner.task = inner.waiting.is_empty().then(|| cx.waker().clone());
            if inner.task.is_some() { Poll::Pending } else { Poll::Ready(inner.waiting.len()) }
        })
        .await;
        let began = Instant::now();
        loop {
            // The sockets are looked at in between.
            tokio::task::yield_now().await;
            let inner = self.0.borrow();
            if inner.waiting.len() == known || began.elapsed() > GATHER_MAX {
                return inner.last;
            }
            known = inner.waiting.len();
        }
    }
}
