//! The lock and mailbox of a shard.
//!
//! A lock that nobody ever waits for: who finds it taken leaves a job in the mailbox and goes on; who holds it runs the
//! jobs before letting go. The algorithm:
//!
//! 1. *Acquire*: set `locked` from false to true. Jobs that are queued go first (no barging): the new holder drains
//!    them before its own work.
//! 2. *Leave a job*: push it, then try to acquire. If that succeeds, the job is run here and now (draining); if it fails,
//!    the holder will see the job, for it looks after it has unlocked.
//! 3. *Release*: drain at most [`DRAIN_MAX`] jobs; set `locked` to false; then look at the mailbox once more. If there is
//!    a job and the lock can be taken again, go on with it: without this look, a job pushed between the last drain and
//!    the unlock would lie there until somebody comes by (the lost wake-up).
//! 4. A holder that has drained its bound hands the lock itself, still locked, to the slow lane, so that one worker is
//!    not kept from its own connections by everybody else's jobs.
//! 5. *Grant*: a job may ask for the lock itself rather than to be run under it. Then the drain stops and the lock moves
//!    to the asker, without ever being free. That is how a command over several shards collects its locks in shard order
//!    without blocking a thread.
//!
//! Push-then-acquire on one side and unlock-then-look on the other is Dekker's pattern: both sides need sequentially
//! consistent order, which the fences give. `tests/gate_loom.rs` checks it over all interleavings.

use crate::sync::{Arc, AtomicBool, Mailbox, Ordering, fence};

/// Jobs that one release runs at most before it hands over.
pub const DRAIN_MAX: usize = 64;

type Work<T> = Box<dyn FnOnce(&Held<T>) + Send>;
type Wish<T> = Box<dyn FnOnce(Held<T>) -> Option<Held<T>> + Send>;

/// A job that runs under the lock, or that takes it.
pub enum Job<T: Guarded> {
    Run(Work<T>),
    /// Hands it back when nobody wants it any more.
    Grant(Wish<T>),
}

/// What a gate guards.
pub trait Guarded: Send + Sync + Sized + 'static {
    /// Takes over the lock of a holder that has drained its bound: somewhere else, soon, `held` is to be dropped.
    fn hand_over(held: Held<Self>);
    /// Called by each holder just before it unlocks.
    fn publish(&self) {}
}

pub struct Gate<T: Guarded> {
    locked: AtomicBool,
    mailbox: Mailbox<Job<T>>,
    pub guarded: T,
}

/// The lock of a gate: it may move between threads, and letting it go drains the mailbox.
pub struct Held<T: Guarded> {
    gate: Option<Arc<Gate<T>>>,
}

impl<T: Guarded> Gate<T> {
    pub fn new(guarded: T) -> Arc<Self> {
        Arc::new(Self { locked: AtomicBool::new(false), mailbox: Mailbox::new(), guarded })
    }

    /// The lock, if it is free and nobody is queued for it.
    pub fn try_hold(self: &Arc<Self>) -> Option<Held<T>> {
        if !self.mailbox.is_empty() {
            // Whoever pushed is served first; by its own attempt or by the holder.
            return None;
        }
        self.acquire()
    }

    fn acquire(self: &Arc<Self>) -> Option<Held<T>> {
        let taken = self.locked.compare_exchange(false, true, Ordering::SeqCst, Ordering::Relaxed);
        taken.is_ok().then(|| Held { gate: Some(Arc::clone(self)) })
    }

    /// Leaves a job; it is run or granted by the holder, or here if there is none.
    pub fn leave(self: &Arc<Self>, job: Job<T>) {
        self.mailbox.push(job);
        fence(Ordering::SeqCst);
        // Dropping what was acquired drains the mailbox.
        drop(self.acquire());
    }
}

impl<T: Guarded> Held<T> {
    pub fn gate(&self) -> &Arc<Gate<T>> {
        self.gate.as_ref().expect("a held lock has its gate until it is dropped")
    }

    /// Runs up to `limit` jobs. `None`: a grant has taken the lock along.
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
            let Some((drained, empty)) = held.drain(DRAIN_MAX) else { return };
            if !empty {
                T::hand_over(drained);
                return;
            }
            // Unlock by hand: this holder must not drain again in its own drop.
            let mut drained = drained;
            let Some(gate) = drained.gate.take() else { return };
            gate.guarded.publish();
            gate.locked.store(false, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            if gate.mailbox.is_empty() {
                return;
            }
            match gate.acquire() {
                Some(again) => held = again,
                // Somebody else holds it now, and looks after its own unlock.
                None => return,
            }
        }
    }
}
