//! The lock and mailbox of a shard.
//!
//! No thread ever waits for this lock: a caller that finds it held leaves a job in the mailbox and goes on, and the
//! holder runs the jobs before it unlocks. The algorithm:
//!
//! 1. *Acquire*: set `locked` from false to true. Jobs that are queued go first (no barging): the new holder drains
//!    them before its own work.
//! 2. *Leave a job*: push it, then try to acquire. If that succeeds, the job is run here and now (draining); if it
//!    fails, the holder will see the job, for it looks after it has unlocked.
//! 3. *Release*: drain at most [`Guarded::JOBS_MAX`] jobs; set `locked` to false; then look at the mailbox once more.
//!    If it has a job and the lock can be taken again, go on with it: without this look, a job pushed between the last
//!    drain and the unlock would stay there until the next caller (the lost wake-up).
//! 4. *Relief*: a holder that has run its bound unlocks all the same, so that one worker is not kept from its own
//!    connections by other clients' jobs, and asks for relief: a thread of the slow lane takes the lock when it has
//!    begun, and runs the next jobs. The lock is free meanwhile, and the next caller that leaves a job serves the
//!    mailbox too. One relief is on its way at a time; it is no longer on its way from just before it tries the lock,
//!    so a later wish for it is not lost.
//! 5. *Grant*: a job may ask for the lock itself rather than to be run under it. Then the drain stops and the lock
//!    moves to the asker, without ever being free. That is how a command over several shards collects its locks in
//!    shard order without blocking a thread.
//!
//! Push-then-acquire on one side and unlock-then-look on the other is Dekker's pattern: both sides need sequentially
//! consistent order, which the fences give. `tests/gate_loom.rs` checks it over all interleavings.

use crate::sync::{Arc, AtomicBool, Mailbox, Ordering, fence};

type Work<T> = Box<dyn FnOnce(&Held<T>) + Send>;
type Wish<T> = Box<dyn FnOnce(Held<T>) -> Option<Held<T>> + Send>;

/// A job that runs under the lock, or that takes it.
pub enum Job<T: Guarded> {
    Run(Work<T>),
    /// Returns the lock when the asker does not want it any more.
    Grant(Wish<T>),
}

/// The state that a gate guards.
pub trait Guarded: Send + Sync + Sized + 'static {
    /// Jobs that one holder runs at most before it unlocks.
    const JOBS_MAX: usize = 64;

    /// A holder has run its bound and unlocked: arranges for a prompt call of [`Gate::serve`] on another thread.
    fn relieve(gate: &Arc<Gate<Self>>);
    /// Called by each holder just before it unlocks. A holder calls it as well before it tells another thread what it has done.
    fn publish(&self) {}
}

pub struct Gate<T: Guarded> {
    locked: AtomicBool,
    mailbox: Mailbox<Job<T>>,
    /// Relief is on its way.
    awaits_relief: AtomicBool,
    pub guarded: T,
}

/// The lock of a gate: it may move between threads, and dropping it drains the mailbox.
pub struct Held<T: Guarded> {
    gate: Option<Arc<Gate<T>>>,
}

impl<T: Guarded> Gate<T> {
    pub fn new(guarded: T) -> Arc<Self> {
        let (locked, awaits_relief) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { locked, mailbox: Mailbox::new(), awaits_relief, guarded })
    }

    /// Returns the lock, if it is free and no job is queued.
    pub fn try_hold(self: &Arc<Self>) -> Option<Held<T>> {
        if !self.mailbox.is_empty() {
            // The queued job goes first: its own attempt or the holder runs it.
            return None;
        }
        self.acquire()
    }

    /// Runs jobs that a holder has left. If the lock is held, its holder runs them, and asks for relief again if it
    /// must.
    pub fn serve(self: &Arc<Self>) {
        // Read and written at once: jobs pushed before the last wish are seen below.
        self.awaits_relief.swap(false, Ordering::SeqCst);
        drop(self.acquire());
    }

    fn acquire(self: &Arc<Self>) -> Option<Held<T>> {
        let taken = self.locked.compare_exchange(false, true, Ordering::SeqCst, Ordering::Relaxed);
        taken.is_ok().then(|| Held { gate: Some(Arc::clone(self)) })
    }

    /// Leaves a job; the holder runs or grants it, or this thread if the lock is free.
    pub fn leave(self: &Arc<Self>, job: Job<T>) {
        self.mailbox.push(job);
        fence(Ordering::SeqCst);
        // Dropping the acquired lock drains the mailbox.
        drop(self.acquire());
    }
}

impl<T: Guarded> Held<T> {
    pub fn gate(&self) -> &Arc<Gate<T>> {
        self.gate.as_ref().expect("a held lock has its gate until it is dropped")
    }

    /// Runs up to `limit` jobs. `None`: a grant has taken the lock.
    fn drain(mut self, limit: usize) -> Option<(Self, bool)> {
        for _ in 0..limit {
            match self.gate().mailbox.pop() {
                Some(Job::Run(job)) => job(&self),
                Some(Job::Grant(granted)) => self = granted(self)?,
                None => return Some((self, true)),
            }
        }
        let empty = self.gate().mailbox.is_empty();
        Some((self, empty))
    }
}

impl<T: Guarded> Drop for Held<T> {
    fn drop(&mut self) {
        let Some(gate) = self.gate.take() else { return };
        let mut held = Self { gate: Some(gate) };
        loop {
            let Some((mut drained, empty)) = held.drain(T::JOBS_MAX) else { return };
            // Unlock by hand: this holder must not drain again in its own drop.
            let Some(gate) = drained.gate.take() else { return };
            gate.guarded.publish();
            gate.locked.store(false, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            if gate.mailbox.is_empty() {
                return;
            }
            if !empty {
                if !gate.awaits_relief.swap(true, Ordering::SeqCst) {
                    T::relieve(&gate);
                }
                return;
            }
            match gate.acquire() {
                Some(again) => held = again,
                // Another holder looks after its own unlock.
                None => return,
            }
        }
    }
}
