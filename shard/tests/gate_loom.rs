//! Every interleaving of the gate's lock and mailbox, as far as loom's bound on preemptions goes.

#[path = "../src/gate.rs"]
mod gate;

/// Loom's types in place of the real ones. The mailbox is a queue under a lock: what the gate relies on is that it is a
/// queue, not how it is built.
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

/// Counts what was done under the gate. Its own lock is only ever tried: two holders at once would find it taken.
struct Counter {
    done: Mutex<usize>,
    handed_over: AtomicUsize,
}

impl Guarded for Counter {
    fn hand_over(held: Held<Self>) {
        held.gate().guarded.handed_over.fetch_add(1, SeqCst);
        drop(held);
    }
}

fn counter() -> sync::Arc<Gate<Counter>> {
    Gate::new(Counter { done: Mutex::new(0), handed_over: AtomicUsize::new(0) })
}

fn work(held: &Held<Counter>) {
    *held.gate().guarded.done.try_lock().expect("only one holds the gate") += 1;
}

fn done(gate: &sync::Arc<Gate<Counter>>) -> usize {
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
fn a_holder_drains_a_bounded_number_and_hands_over() {
    loom::model(|| {
        let gate = counter();
        let held = gate.try_hold().expect("nobody else is there yet");
        let jobs = gate::DRAIN_MAX + 5;
        for _ in 0..jobs {
            gate.leave(Job::Run(Box::new(work)));
        }
        drop(held);
        assert_eq!(gate.guarded.handed_over.load(SeqCst), 1);
        assert_eq!(done(&gate), jobs);
    });
}
