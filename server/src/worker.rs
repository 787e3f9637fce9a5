//! A worker: state that the connections of one event loop share. A connection stays on one worker for its whole life.
//!
//! Resources that a connection needs only while it is being served belong to the worker: the buffer that sockets are
//! read into, and the one that replies are written to. An idle connection holds neither.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::clock::both_clocks;
use crate::databases::Tenant;
use crate::held::HeldReplies;
use crate::metering::{Batch, Writer};
use crate::turns::Turns;

/// Most bytes of one read.
pub const READ_BYTES: usize = 64 << 10;
/// A reply buffer larger than this is not kept.
const REPLY_KEPT_BYTES: usize = 256 << 10;
/// From this number on, writers that no connection uses are dropped.
const WRITERS_KEPT: usize = 256;

pub struct Worker {
    pub scratch: RefCell<Box<[u8]>>,
    reply: RefCell<Vec<u8>>,
    writers: RefCell<HashMap<Arc<str>, Rc<Writer>>>,
    /// Kept for its allocation.
    batch: Cell<Batch>,
    pub held: HeldReplies,
    pub turns: Turns,
    random: RefCell<Rng>,
    /// A reading of the monotonic clock, and the system's clock at that moment, in Unix nanoseconds.
    clock: Cell<(Instant, u64)>,
}

impl Worker {
    pub fn new(seed: u64) -> Self {
        Self {
            scratch: RefCell::new(vec![0; READ_BYTES].into()),
            reply: RefCell::default(),
            writers: RefCell::default(),
            batch: Cell::default(),
            held: HeldReplies::default(),
            turns: Turns::default(),
            random: RefCell::new(Rng::with_seed(seed)),
            clock: Cell::new(both_clocks()),
        }
    }

    /// The time of one batch: reads the monotonic clock once, and derives Unix milliseconds from it.
    pub fn now(&self) -> (Instant, u64) {
        let (now, now_us) = self.now_us();
        (now, now_us / 1000)
    }

    /// The same in Unix microseconds. The two clocks are synchronized every second, as the system's clock may be set.
    /// The result is never behind the system's clock, including its fraction of a millisecond: otherwise a key would
    /// expire before `TIME` plus its time to live, and workers would disagree by up to a millisecond.
    pub fn now_us(&self) -> (Instant, u64) {
        let now = Instant::now();
        let (base, base_ns) = self.clock.get();
        let elapsed = now.duration_since(base);
        if elapsed.as_secs() >= 1 {
            let (now, now_ns) = both_clocks();
            self.clock.set((now, now_ns));
            return (now, now_ns / 1000);
        }
        (now, (base_ns + u64::from(elapsed.subsec_nanos())) / 1000)
    }

    pub fn random(&self) -> u64 {
        self.random.borrow_mut().u64(..)
    }

    /// The worker's reply buffer, empty.
    pub fn take_reply(&self) -> Vec<u8> {
        std::mem::take(&mut self.reply.borrow_mut())
    }

    pub fn give_reply(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() <= REPLY_KEPT_BYTES {
            buffer.clear();
            *self.reply.borrow_mut() = buffer;
        }
    }

    /// Returns an empty batch to count in; [`Self::commit`] takes it back.
    pub fn take_batch(&self) -> Batch {
        self.batch.take()
    }

    /// Adds a batch to the counts of `writer`.
    pub fn commit(&self, writer: &Writer, mut batch: Batch, took: Duration) {
        writer.commit(&mut batch, took.as_nanos() as u64);
        self.batch.set(batch);
    }

    /// The same for a batch that had a processor for `cpu` of the time that it took.
    pub fn commit_billed(&self, writer: &Writer, mut batch: Batch, took: Duration, cpu: Duration) {
        writer.commit_billed(&mut batch, took.as_nanos() as u64, cpu.as_nanos() as u64);
        self.batch.set(batch);
    }

    /// Returns this worker's writer for the meters of `tenant`.
    pub fn writer(&self, tenant: &Tenant) -> Rc<Writer> {
        let mut writers = self.writers.borrow_mut();
        let name: Arc<str> = tenant.database.name().into();
        if writers.len() >= WRITERS_KEPT {
            // Branches come and go; a writer's counts are kept when it is dropped.
            writers.retain(|_, writer| Rc::strong_count(writer) > 1);
        }
        let new = || Rc::new(tenant.meters.writer());
        let writer = writers.entry(name).or_insert_with(new);
        // A database that was deleted and made again has other meters.
        if !writer.counts_for(&tenant.meters) {
            *writer = new();
        }
        Rc::clone(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::unix_ns;

    #[test]
    fn no_worker_is_behind_the_systems_clock() {
        let workers: Vec<Worker> = (0..4).map(Worker::new).collect();
        for round in 0..20_000 {
            let worker = &workers[round % workers.len()];
            let before_ns = unix_ns();
            let (_, now_us) = worker.now_us();
            assert!(now_us >= before_ns / 1000, "{now_us} us, and the system's clock said {before_ns} ns before");
            assert!(worker.now().1 >= before_ns / 1_000_000);
        }
    }
}
