//! Clients that wait in a blocking command, beside everything else that happens.
//!
//! The book notes a command that was run for a waiter with the batch that has served it, so it checks that both survive
//! a crash or neither does, and that the waiter was due. A client that waits leaves after a while. Each is served once at
//! most, with the reply that the batch has given, and never after it has left: see [`Served`](crate::book::Served).

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use dormouse_shard::database::Database;
use dormouse_shard::error::Error;
use dormouse_shard::execution::{self, Blocking, Outcome, Plan, PlannedCommand, Turn, Witness};
use dormouse_shard::waiters::{WaitEvent, Waiter};
use parking_lot::Mutex;
use tokio::task::yield_now;

use crate::book::{Batch, Book};
use crate::client::{again, note_served, prepare, replies, served};
use crate::clock;
use crate::script::Asked;

fn witness(database: &Arc<Database>, at: usize, asked: Asked, book: &Arc<Mutex<Book>>) -> Witness {
    let (shared, told) = (Arc::clone(&database.shared), Arc::clone(book));
    Witness::new(move |outcome, now_ms| {
        let batch = Batch {
            database: at,
            commands: std::iter::once(asked.clone()).zip(replies(outcome)).chain(served(outcome)).collect(),
            now_ms,
            written: outcome.left.written,
            sequence: shared.sequence.load(Ordering::SeqCst),
            unlogged: !shared.journal.is_covered(),
            changed: false,
            is_eviction: false,
        };
        let flushed = shared.journal.log().map_or(0, |log| log.flushed());
        let mut book = told.lock();
        note_served(&mut book, at, outcome);
        book.note(batch, shared.journal.is_strict(), outcome.left.awaited, flushed);
    })
}

/// Runs a blocking command, and waits for `turns` turns at most. Returns whether it was served.
///
/// # Errors
/// When the database cannot be woken or a place cannot be loaded, or the log fails.
pub async fn block(
    database: &Arc<Database>,
    at: usize,
    asked: &Asked,
    seed: u64,
    book: &Arc<Mutex<Book>>,
    mut turns: u64,
) -> Result<bool, Error> {
    let mut plan = Plan::one(prepare(asked), clock::now_ms(), seed);
    plan.blocking = Blocking::First;
    plan.witness = Some(witness(database, at, asked.clone(), book));
    let outcome = run(database, plan).await?;
    let Some(waiter) = outcome.blocked else {
        return durable(database, outcome.left.awaited).await.map(|()| true);
    };
    let _registered = Registered { database, waiter: &waiter };
    loop {
        let event = loop {
            match poll_fn(|cx| Poll::Ready(waiter.poll(cx))).await {
                Poll::Ready(event) => break event,
                Poll::Pending if waiter.look_at_ms().is_some_and(|at_ms| at_ms <= clock::now_ms()) => waiter.nudge(),
                Poll::Pending if turns > 0 => turns -= 1,
                Poll::Pending => {
                    if database.waiters.time_out(&waiter, &prepare(asked).request) {
                        leave(book, at, &waiter);
                        return Ok(false);
                    }
                }
            }
            yield_now().await;
        };
        let left = match event {
            WaitEvent::Served(served) => {
                let reply = String::from_utf8_lossy(&served.reply.buffer).into_owned();
                let mut book = book.lock();
                if book.is_open
                    && let Err(problem) = book.served.answered(at, waiter.number(), &reply)
                {
                    book.fail(problem);
                }
                served.left
            }
            WaitEvent::Ended => {
                leave(book, at, &waiter);
                return Ok(false);
            }
            WaitEvent::Nudged => {
                let Waiter { row, run: function, request, context, .. } = &*waiter;
                let (run, request) = (*function, request.clone());
                let mut plan =
                    Plan::one(PlannedCommand { row, run, request, context: *context }, clock::now_ms(), seed);
                plan.blocking = Blocking::Again(Arc::clone(&waiter));
                plan.witness = Some(witness(database, at, again(asked.select, asked.words.clone()), book));
                let outcome = self::run(database, plan).await?;
                if outcome.blocked.is_some() {
                    continue;
                }
                // It has served itself.
                leave(book, at, &waiter);
                outcome.left
            }
        };
        return durable(database, left.awaited).await.map(|()| true);
    }
}

async fn run(database: &Arc<Database>, plan: Plan) -> Result<Outcome, Error> {
    execution::run(database, &Arc::new(plan), &Arc::new(Turn::endless(None))).await
}

async fn durable(database: &Database, awaited: u64) -> Result<(), Error> {
    match database.shared.journal.log().filter(|_| awaited > 0) {
        Some(log) => log.durable(awaited).await.map_err(|error| Error::Store(error.to_string())),
        None => Ok(()),
    }
}

/// A client waits no more, without a reply of another's batch.
fn leave(book: &Mutex<Book>, at: usize, waiter: &Waiter) {
    let mut book = book.lock();
    if book.is_open
        && let Err(problem) = book.served.leave(at, waiter.number())
    {
        book.fail(problem);
    }
}

/// A waiter whose client may end at any moment.
struct Registered<'a> {
    database: &'a Database,
    waiter: &'a Waiter,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.waiter.end();
        self.database.waiters.remove(self.waiter);
    }
}
