//! Tasks that wait until the log is durable up to some point.
//!
//! Invariant: each task is registered once, however often it is polled, and is forgotten when it gives up.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use super::{Log, Lsn};
use crate::store::StoreError;

#[derive(Debug, Default)]
pub(super) struct Waiters {
    waiting: Vec<Waiting>,
    /// The number of the next one.
    next: u64,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    lsn: Lsn,
    waker: Waker,
}

impl Waiters {
    /// Registers a task. Returns its number; `number`: the one that it has already.
    fn register(&mut self, number: Option<u64>, lsn: Lsn, waker: &Waker) -> u64 {
        if let Some(known) = self.waiting.iter_mut().find(|known| Some(known.number) == number) {
            known.waker.clone_from(waker);
            return known.number;
        }
        let number = number.unwrap_or(self.next);
        self.next = self.next.max(number + 1);
        self.waiting.push(Waiting { number, lsn, waker: waker.clone() });
        number
    }

    fn forget(&mut self, number: u64) {
        self.waiting.retain(|waiting| waiting.number != number);
    }

    /// Takes the tasks that wait for nothing beyond `lsn`. The caller wakes them without the lock.
    pub fn reached(&mut self, lsn: Lsn) -> Vec<Waker> {
        self.waiting.extract_if(.., |waiting| waiting.lsn <= lsn).map(|waiting| waiting.waker).collect()
    }

    /// Takes all tasks, so that each sees for itself.
    pub fn all(&mut self) -> Vec<Waker> {
        self.reached(Lsn::MAX)
    }
}

/// See [`Log::durable`].
pub(super) struct Wait<'a> {
    log: &'a Log,
    lsn: Lsn,
    /// The failures before; none: they do not matter.
    failures: Option<u64>,
    number: Option<u64>,
}

impl<'a> Wait<'a> {
    pub fn new(log: &'a Log, lsn: Lsn, failures: Option<u64>) -> Self {
        Self { log, lsn, failures, number: None }
    }
}

impl Future for Wait<'_> {
    type Output = Result<(), StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let (log, lsn) = (self.log, self.lsn);
        let reached = if self.failures.is_some() { &log.written } else { &log.flushed };
        if reached.load(Ordering::Acquire) >= lsn {
            return Poll::Ready(Ok(()));
        }
        // Register first, look after: otherwise a flush in between would wake no one.
        self.number = Some(log.waiters.lock().register(self.number, lsn, context.waker()));
        if reached.load(Ordering::Acquire) >= lsn {
            return Poll::Ready(Ok(()));
        }
        if log.is_sealed() {
            return Poll::Ready(Err(StoreError::LogSealed));
        }
        if self.failures.is_some_and(|failures| failures != log.failures.load(Ordering::SeqCst)) {
            let problem = log.problem().unwrap_or_else(|| "the log could not be written".into());
            return Poll::Ready(Err(StoreError::LogFailed(problem.to_string())));
        }
        log.hurry();
        Poll::Pending
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.log.waiters.lock().forget(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::task::noop_waker;

    use super::*;
    use crate::log::testing::{MemorySink, Writer, open};

    #[test]
    fn a_task_is_registered_once_and_forgotten_when_it_gives_up() {
        let log = open(&MemorySink::default());
        let lsn = Writer::new(&log, "a").write();
        let waker = noop_waker();
        let mut context = Context::from_waker(&waker);
        let registered = || log.waiters.lock().waiting.len();
        let (mut first, mut second) = (log.durable(lsn), log.durable_or_failed(lsn));
        for _ in 0..3 {
            assert!(Pin::new(&mut first).poll(&mut context).is_pending());
            assert!(Pin::new(&mut second).poll(&mut context).is_pending());
            assert_eq!(registered(), 2);
        }
        drop(second);
        assert_eq!(registered(), 1);
        log.flush().unwrap();
        assert_eq!(registered(), 0, "it was woken");
        assert!(Pin::new(&mut first).poll(&mut context).is_ready());
    }
}
