//! The replies of one worker that are held back until the writes that they report are durable.
//!
//! One task of the worker waits for the log on behalf of all its connections, so that a flush wakes a worker once, and
//! not each of its connections. Before it requests a flush, it gives every connection with pending work a turn: one
//! frame then contains the writes of all. A flush costs as much as ten commands, so waiting pays off.
//!
//! Invariant: while a connection waits, the task either gathers or waits for the log.

use std::cell::RefCell;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use dormouse_storage::log::{Log, Lsn};

/// Longest time for which other connections get turns before the waiting ones.
const GATHER_MAX: Duration = Duration::from_millis(1);

#[derive(Debug, Default)]
pub struct HeldReplies(RefCell<Inner>);

#[derive(Debug, Default)]
struct Inner {
    waiting: Vec<(Lsn, u64, Waker)>,
    /// Number of the next waiter, to tell waiters apart when one gives up.
    next: u64,
    /// Waker of the task, while it has no waiters.
    task: Option<Waker>,
}

/// The log was sealed: writes that are not durable never will be.
#[derive(Debug)]
pub struct Sealed;

impl HeldReplies {
    /// Waits until everything before `lsn` is durable.
    ///
    /// # Errors
    /// When that will never be the case.
    pub async fn until_durable(&self, log: &Log, lsn: Lsn) -> Result<(), Sealed> {
        let mut registered = Registered { held: self, number: None };
        poll_fn(|cx| {
            if log.flushed() >= lsn {
                return Poll::Ready(Ok(()));
            }
            if log.is_sealed() {
                return Poll::Ready(Err(Sealed));
            }
            if registered.number.is_none() {
                let mut inner = self.0.borrow_mut();
                registered.number = Some(inner.next);
                let number = inner.next;
                inner.next += 1;
                inner.waiting.push((lsn, number, cx.waker().clone()));
                if let Some(task) = inner.task.take() {
                    task.wake();
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Runs the task. It ends with its worker.
    pub async fn follow(&self, log: Arc<Log>) {
        loop {
            // A flush takes all logged writes, so one requested during gathering may cover only the first waiter's.
            let first = self.gathered().await;
            // If the log was sealed, each waiter checks for itself.
            let flushed = log.durable(first).await.map_or(Lsn::MAX, |()| log.flushed());
            let mut inner = self.0.borrow_mut();
            inner.waiting.extract_if(.., |(lsn, ..)| *lsn <= flushed).for_each(|(.., waker)| waker.wake());
        }
    }

    /// Waits for the first waiter, then for as long as more arrive. Returns the first position that has to be durable.
    async fn gathered(&self) -> Lsn {
        let mut known = poll_fn(|cx| {
            let mut inner = self.0.borrow_mut();
            inner.task = inner.waiting.is_empty().then(|| cx.waker().clone());
            if inner.task.is_some() { Poll::Pending } else { Poll::Ready(inner.waiting.len()) }
        })
        .await;
        let began = Instant::now();
        loop {
            // Gives the sockets a turn.
            tokio::task::yield_now().await;
            let inner = self.0.borrow();
            if inner.waiting.len() == known || began.elapsed() > GATHER_MAX {
                return inner.waiting.iter().map(|(lsn, ..)| *lsn).min().unwrap_or(0);
            }
            known = inner.waiting.len();
        }
    }
}

/// Registration of a waiter. Dropping it removes the waiter.
struct Registered<'a> {
    held: &'a HeldReplies,
    number: Option<u64>,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let mut inner = self.held.0.borrow_mut();
        // Numbers ascend. A waiter that was woken is no longer in the list.
        if let Ok(at) = inner.waiting.binary_search_by_key(&number, |(_, number, _)| *number) {
            inner.waiting.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::sync::atomic::AtomicU64;

    use dormouse_storage::log::format::Identity;
    use dormouse_storage::log::sink::Objects;
    use dormouse_storage::log::{Journal, Window};
    use dormouse_storage::store::Store;
    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::*;

    fn open(store: &Arc<Store>, writer: u64) -> Arc<Log> {
        let sink = Box::new(Objects::new(Arc::clone(store)));
        Log::over(sink, writer, || 1).expect("memory can be read").0
    }

    struct Writer {
        journal: Journal,
        sequence: AtomicU64,
    }

    impl Writer {
        fn new(log: &Arc<Log>) -> Self {
            let journal = Journal::of(log, &Identity { name: "a".into(), seed: 1, created_ms: 1 });
            journal.declare(Window::Zero);
            journal.record(true);
            Self { journal, sequence: AtomicU64::new(0) }
        }

        fn write(&self) -> Lsn {
            self.journal.append(&self.sequence, 1, b"items")
        }
    }

    /// Lets every task that can continue do so.
    async fn settle() {
        for _ in 0..100 {
            yield_now().await;
        }
    }

    /// Runs `test` beside the task, with a function that waits for a byte of the log.
    async fn beside<F: Future<Output = ()>>(test: impl FnOnce(Arc<Log>, Arc<Store>, Rc<HeldReplies>) -> F) {
        let store = Arc::new(Store::memory());
        let log = open(&store, 1);
        let held = Rc::new(HeldReplies::default());
        let (of, task) = (Arc::clone(&log), Rc::clone(&held));
        LocalSet::new()
            .run_until(async move {
                spawn_local(async move { task.follow(of).await });
                test(log, store, held).await;
            })
            .await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_flush_frees_whom_it_reaches() {
        beside(|log, _, held| async move {
            let writer = Writer::new(&log);
            let wait = |lsn| {
                let (log, held) = (Arc::clone(&log), Rc::clone(&held));
                spawn_local(async move { held.until_durable(&log, lsn).await.is_ok() })
            };
            let first = [wait(writer.write()), wait(writer.write())];
            settle().await;
            assert!(first.iter().all(|waiting| !waiting.is_finished()));
            log.flush().unwrap();
            // A waiter that came after the flush does not delay the others.
            let second = wait(writer.write());
            settle().await;
            assert!(first.iter().all(|waiting| waiting.is_finished()));
            assert!(!second.is_finished());
            log.flush().unwrap();
            assert!(second.await.unwrap());
            assert!(wait(log.flushed()).await.unwrap(), "who comes late does not wait");
            assert!(held.0.borrow().waiting.is_empty());
        })
        .await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_gives_up_leaves_nothing_behind() {
        beside(|log, _, held| async move {
            let writer = Writer::new(&log);
            let lsns = [writer.write(), writer.write(), writer.write()];
            let wait = |lsn| {
                let (log, held) = (Arc::clone(&log), Rc::clone(&held));
                spawn_local(async move { held.until_durable(&log, lsn).await.is_ok() })
            };
            let [first, second, third] = lsns.map(wait);
            settle().await;
            second.abort();
            settle().await;
            assert_eq!(held.0.borrow().waiting.len(), 2);
            log.flush().unwrap();
            assert!(first.await.unwrap() && third.await.unwrap());
            assert!(held.0.borrow().waiting.is_empty());
        })
        .await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_seal_frees_everybody() {
        beside(|log, store, held| async move {
            let lsn = Writer::new(&log).write();
            let waiting = spawn_local({
                let (log, held) = (Arc::clone(&log), Rc::clone(&held));
                async move { held.until_durable(&log, lsn).await.is_err() }
            });
            settle().await;
            let _next = open(&store, 2);
            log.flush().unwrap_err();
            assert!(waiting.await.unwrap());
            assert!(held.until_durable(&log, lsn).await.is_err());
        })
        .await;
    }
}
