//! Every interleaving of the gate's lock and mailbox, up to loom's bound on preemptions.

#[path = "../src/gate.rs"]
mod gate;

/// Loom's types in place of the real ones. The mailbox is a queue under a lock: the gate relies on its being a queue,
/// not on its implementation.
mod sync {
    pub use std::sync::Arc;

    pub use loom::sync::atomic::{AtomicBool, Ordering, fence};

    pub struct Mailbox<J>(loom::sync::Mutex<std::collections::VecDeque<J>>);

    impl<J> Mailbox<J> {
        pub fn new() -> Self {
            Self(loom::sync::Mutex::new(std::collections::VecDeque::new()))
        }
        pub fn push(&self, job: J) {
            self.0.lock().expect("no test panics under it").push_back(job);
        }
        pub fn pop(&self) -> Option<J> {
            self.0.lock().expect("no test panics under it").pop_front()
        }
        pub fn is_empty(&self) -> bool {
            self.0.lock().expect("no test panics under it").is_empty()
        }
    }
}

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

use gate::{Gate, Guarded, Held, Job};
use loom::sync::Mutex;

/// Counts the work done under the gate. Its own lock is only ever tried: a second holder would find it taken.
struct Counter {
    done: Mutex<usize>,
    /// Number of requests for relief, and of reliefs.
    asked: AtomicUsize,
    came: AtomicUsize,
}

impl Guarded for Counter {
    /// A limit so low that two threads reach it.
    const JOBS_MAX: usize = 1;

    fn relieve(gate: &sync::Arc<Gate<Self>>) {
        gate.guarded.asked.fetch_add(1, SeqCst);
    }
}

fn counter() -> sync::Arc<Gate<Counter>> {
    Gate::new(Counter { done: Mutex::new(0), asked: AtomicUsize::new(0), came: AtomicUsize::new(0) })
}

/// Acts as a lane: runs once per request for relief, and still has to take the lock.
fn relief(gate: &sync::Arc<Gate<Counter>>) {
    while gate.guarded.came.load(SeqCst) < gate.guarded.asked.load(SeqCst) {
        gate.guarded.came.fetch_add(1, SeqCst);
        gate.serve();
    }
}

fn work(held: &Held<Counter>) {
    *held.gate().guarded.done.try_lock().expect("only one holds the gate") += 1;
}

fn done(gate: &sync::Arc<Gate<Counter>>) -> usize {
    relief(gate);
    let held = gate.try_hold().expect("everybody has let go, and no job is left");
    *held.gate().guarded.done.try_lock().expect("only one holds the gate")
}

fn model(preemptions: usize, test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(test);
}

#[test]
fn a_job_left_while_the_holder_lets_go_is_not_lost() {
    model(3, || {
        let gate = counter();
        let other = gate.clone();
        let held = gate.try_hold().expect("nobody else is there yet");
        let thread = loom::thread::spawn(move || other.leave(Job::Run(Box::new(work))));
        work(&held);
        drop(held);
        thread.join().expect("it does not panic");
        assert_eq!(done(&gate), 2);
    });
}

#[test]
fn two_who_leave_jobs_run_both() {
    model(3, || {
        let gate = counter();
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let gate = gate.clone();
                loom::thread::spawn(move || gate.leave(Job::Run(Box::new(work))))
            })
            .collect();
        for thread in threads {
            thread.join().expect("it does not panic");
        }
        assert_eq!(done(&gate), 2);
    });
}

#[test]
fn a_granted_lock_moves_to_the_asker() {
    model(2, || {
        let gate = counter();
        let other = gate.clone();
        let thread = loom::thread::spawn(move || {
            other.leave(Job::Grant(Box::new(|held| {
                work(&held);
                Some(held)
            })));
        });
        match gate.try_hold() {
            Some(held) => work(&held),
            None => gate.leave(Job::Run(Box::new(work))),
        }
        thread.join().expect("it does not panic");
        assert_eq!(done(&gate), 2);
    });
}

#[test]
fn a_holder_runs_a_bounded_number_and_lets_go() {
    loom::model(|| {
        let gate = counter();
        let held = gate.try_hold().expect("nobody else is there yet");
        for _ in 0..5 {
            gate.leave(Job::Run(Box::new(work)));
        }
        drop(held);
        assert_eq!(gate.guarded.asked.load(SeqCst), 1);
        assert_eq!(*gate.guarded.done.try_lock().expect("nobody holds the gate"), 1);
        // The lock is free: the lane takes it, runs a job, and asks for no second relief.
        gate.leave(Job::Run(Box::new(work)));
        assert_eq!(*gate.guarded.done.try_lock().expect("nobody holds the gate"), 2);
        assert_eq!(gate.guarded.asked.load(SeqCst), 1);
        assert_eq!(done(&gate), 6);
    });
}

#[test]
fn jobs_that_a_holder_has_left_are_run_by_its_relief() {
    model(3, || {
        let gate = counter();
        let held = gate.try_hold().expect("nobody else is there yet");
        for _ in 0..2 {
            gate.leave(Job::Run(Box::new(work)));
        }
        let threads = [
            loom::thread::spawn({
                let gate = gate.clone();
                // The lane runs while other threads leave jobs and let go.
                move || relief(&gate)
            }),
            loom::thread::spawn({
                let gate = gate.clone();
                move || gate.leave(Job::Run(Box::new(work)))
            }),
        ];
        drop(held);
        for thread in threads {
            thread.join().expect("it does not panic");
        }
        assert_eq!(done(&gate), 3);
    });
}

#[test]
fn relief_meets_a_grant() {
    model(2, || {
        let gate = counter();
        let held = gate.try_hold().expect("nobody else is there yet");
        gate.leave(Job::Run(Box::new(work)));
        let thread = loom::thread::spawn({
            let gate = gate.clone();
            move || {
                gate.leave(Job::Grant(Box::new(|held| {
                    work(&held);
                    // The holder keeps the lock for a while and lets go by itself.
                    drop(held);
                    None
                })));
                relief(&gate);
            }
        });
        drop(held);
        thread.join().expect("it does not panic");
        assert_eq!(done(&gate), 2);
    });
}
