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
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use dormouse_storage::log::{Log, Lsn};

/// For longer than this nobody is let in before those who wait.
const GATHER_MAX: Duration = Duration::from_millis(1);

#[derive(Debug, Default)]
pub struct HeldReplies(RefCell<Inner>);

#[derive(Debug, Default)]
struct Inner {
    waiting: Vec<(Lsn, u64, Waker)>,
    /// Numbers those who wait, so that one who gives up can be told from the others.
    next: u64,
    /// Of the task, while nobody waits.
    task: Option<Waker>,
}

/// The log was sealed: what is not durable never will be.
#[derive(Debug)]
pub struct Sealed;

impl HeldReplies {
    /// Waits until everything before `lsn` is durable.
    ///
    /// # Errors
    /// When it never will be.
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

    /// The task. It ends with its worker.
    pub async fn follow(&self, log: Arc<Log>) {
        loop {
            // A flush takes all that there is, so one that was asked for while we gathered may have the first of them only.
            let first = self.gathered().await;
            // Where the log was sealed, each of them is to see for itself.
            let flushed = log.durable(first).await.map_or(Lsn::MAX, |()| log.flushed());
            let mut inner = self.0.borrow_mut();
            inner.waiting.extract_if(.., |(lsn, ..)| *lsn <= flushed).for_each(|(.., waker)| waker.wake());
        }
    }

    /// Until somebody waits, and then for as long as more of them come. Answers the first thing that has to be durable.
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
                return inner.waiting.iter().map(|(lsn, ..)| *lsn).min().unwrap_or(0);
            }
            known = inner.waiting.len();
        }
    }
}

/// One who waits, until it is dropped: who gives up leaves nothing behind.
struct Registered<'a> {
    held: &'a HeldReplies,
    number: Option<u64>,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let mut inner = self.held.0.borrow_mut();
        // Numbers ascend; one whose turn has come is not there any more.
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
            Self { journal, sequence: AtomicU64::new(0) }
        }

        fn write(&self) -> Lsn {
            self.journal.append(&self.sequence, 1, b"items")
        }
    }

    /// Lets everything that can go on do so.
    async fn settle() {
        for _ in 0..100 {
            yield_now().await;
        }
    }

    /// Runs `test` beside the task; it is handed somebody who waits for a byte of the log.
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
            // One that came after the flush does not keep the others.
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
