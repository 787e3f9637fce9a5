//! A worker: an OS thread with its own event loop. A connection lives on one worker from its first byte to its last.
//!
//! What a connection needs only while it is being served belongs to the worker: the buffer that sockets are read into,
//! and the one that replies are written to. An idle connection holds neither.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::clients::Peer;
use crate::connection::{self, Stream};
use crate::databases::Tenant;
use crate::held::HeldReplies;
use crate::metering::{Batch, Writer};
use crate::node::Node;

/// Bytes that one read takes at most.
pub const READ_BYTES: usize = 64 << 10;
/// A reply buffer that grew larger than this is not kept.
const REPLY_KEPT_BYTES: usize = 256 << 10;
/// When the node drains, connections have so long to answer what they have read.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// With so many, those that no connection uses are dropped.
const WRITERS_KEPT: usize = 256;

pub struct Worker {
    pub scratch: RefCell<Box<[u8]>>,
    reply: RefCell<Vec<u8>>,
    writers: RefCell<HashMap<Arc<str>, Rc<Writer>>>,
    /// Kept for its allocation.
    batch: Cell<Batch>,
    pub held: HeldReplies,
    random: Cell<u64>,
    /// The monotonic clock, and what the system's clock said at that moment, in unix nanoseconds.
    clock: Cell<(Instant, u64)>,
}

impl Worker {
    fn new(seed: u64) -> Self {
        Self {
            scratch: RefCell::new(vec![0; READ_BYTES].into()),
            reply: RefCell::default(),
            writers: RefCell::default(),
            batch: Cell::default(),
            held: HeldReplies::default(),
            random: Cell::new(seed | 1),
            clock: Cell::new(both_clocks()),
        }
    }

    /// The time of one batch: the monotonic clock is read once, unix milliseconds follow from it.
    pub fn now(&self) -> (Instant, u64) {
        let (now, now_us) = self.now_us();
        (now, now_us / 1000)
    }

    /// The same in unix microseconds. The two clocks are brought together again every second, as the system's clock may be
    /// set. The result is never behind the system's clock, whose fraction of a millisecond counts too: else a key would
    /// expire before `TIME` plus its time to live, and the workers would disagree by up to a millisecond.
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
        // xorshift64*
        let mut x = self.random.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
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

    /// An empty batch to count in; [`Self::commit`] takes it back.
    pub fn take_batch(&self) -> Batch {
        self.batch.take()
    }

    /// Adds a batch to what `writer` counts.
    pub fn commit(&self, writer: &Writer, mut batch: Batch, took: std::time::Duration) {
        writer.commit(&mut batch, took.as_nanos() as u64);
        self.batch.set(batch);
    }

    /// Where this worker counts what `tenant` uses.
    pub fn writer(&self, tenant: &Tenant) -> Rc<Writer> {
        let mut writers = self.writers.borrow_mut();
        let name: Arc<str> = tenant.database.name().into();
        if writers.len() >= WRITERS_KEPT {
            // Branches come and go; what a writer has counted is kept when it is dropped.
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

pub fn now_ms() -> u64 {
    unix_ns() / 1_000_000
}

/// The system's clock.
pub fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// Both clocks as close to one moment as they can be read. The monotonic one is read first, so that what is computed from
/// them is ahead of the system's clock by the time between the two, and never behind it.
fn both_clocks() -> (Instant, u64) {
    const APART_MAX: Duration = Duration::from_micros(5);
    let mut closest = (Duration::MAX, Instant::now(), 0);
    // This thread may be interrupted between the two, but hardly each time.
    for _ in 0..8 {
        let (before, system_ns) = (Instant::now(), unix_ns());
        let apart = before.elapsed();
        if apart < closest.0 {
            closest = (apart, before, system_ns);
        }
        if apart <= APART_MAX {
            break;
        }
    }
    (closest.1, closest.2)
}

/// Milliseconds of a clock that is never set. For how long something takes; it begins anywhere.
pub fn monotonic_ms() -> u64 {
    // A few milliseconds coarse and four times as fast: each batch of writes reads it.
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::MonotonicCoarse;
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    let now = rustix::time::clock_gettime(clock);
    (now.tv_sec.unsigned_abs() * 1000).saturating_add(now.tv_nsec.unsigned_abs() / 1_000_000)
}

/// A socket that no event loop has yet.
#[derive(Debug)]
pub enum Accepted {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// Gives a worker connections to serve.
#[derive(Debug, Clone)]
pub struct Handle(mpsc::UnboundedSender<(Accepted, Peer)>);

impl Handle {
    pub fn serve(&self, stream: Accepted, peer: Peer) {
        // A worker ends only with the process.
        let _ = self.0.send((stream, peer));
    }
}

/// Starts a worker thread. It ends when the node drains and its last connection is closed.
///
/// # Errors
/// When the system refuses a thread or an event loop.
pub fn start(number: usize, node: Arc<Node>) -> std::io::Result<(Handle, std::thread::JoinHandle<()>)> {
    let (sender, mut incoming) = mpsc::unbounded_channel();
    let (started, outcome) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        // An event loop whose tasks need not be `Send` cannot leave the thread that it is made on.
        let made = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        let runtime = match made {
            Ok(runtime) => runtime,
            Err(error) => return drop(started.send(Err(error))),
        };
        // Whoever starts a worker waits for this answer.
        let _ = started.send(Ok(()));
        let worker =
            Rc::new(Worker::new(node.seed.wrapping_add((number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))));
        runtime.block_on(async move {
            if let Some(log) = node.engine.log.clone() {
                let worker = Rc::clone(&worker);
                tokio::task::spawn_local(async move { worker.held.follow(log).await });
            }
            let mut served = JoinSet::new();
            while let Some((accepted, peer)) = incoming.recv().await {
                match Stream::adopt(accepted) {
                    Ok(stream) => {
                        let (worker, node) = (Rc::clone(&worker), Arc::clone(&node));
                        served.spawn_local(connection::serve(stream, peer, worker, node));
                    }
                    Err(error) => tracing::warn!(%error, "failed to serve a connection"),
                }
                // What has ended is forgotten.
                while served.try_join_next().is_some() {}
            }
            // No connection is accepted any more: the node drains. Those that are served end by themselves.
            let ended = async { while served.join_next().await.is_some() {} };
            if tokio::time::timeout(DRAIN_MAX, ended).await.is_err() {
                tracing::warn!("closed: connections that did not end within {} s", DRAIN_MAX.as_secs());
            }
        });
    })?;
    outcome.recv().map_err(std::io::Error::other)??;
    Ok((Handle(sender), thread))
}

#[cfg(test)]
mod tests {
    use super::*;

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
