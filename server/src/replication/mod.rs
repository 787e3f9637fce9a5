//! Replication: a database as the source of replicas, so that everything in it can leave.
//!
//! A replica of Redis or Valkey, `redis-cli --rdb` or a migration tool connects with a token of the database and asks for
//! all of it (`SYNC`, `PSYNC ? -1`) or for what follows an offset (`PSYNC replid offset`).
//!
//! 1. *Everything* ([`full`]): the database is pinned in the store as it is at one moment. At that moment, under all of
//!    its locks, its journal is tapped and the replica's beginning is queued. So what the replica gets first, an RDB of
//!    the pinned moment, and what it gets then, the stream, join without a gap and without an overlap.
//! 2. *The stream*: workers queue the entries of the log as they are ([`Tap`]). One task of the database, the pump, turns
//!    them into commands ([`ReplicaStream`]) and tells them to the replicas. Between `PING`s nothing else is in it.
//! 3. *The end of the stream* is kept ([`backlog`]): a replica that comes back soon goes on where it was.
//!
//! Invariants:
//! - The stream is one history, named by `id`, in which each byte has an offset. It ends with the process, when a reader
//!   cannot follow, and when no replica has been connected for a minute. The next one has another id, so a replica that
//!   has seen writes which a crash then lost gets everything again. Therefore the stream does not wait for the disk.
//! - A worker never waits for a replica. What is queued, kept and sent is charged to the database's clients; what does
//!   not fit ends the replica, or the stream.
//! - A replica is no use of the database, which sleeps beside it and is not woken for it: `PING`s keep the link.
//!
//! Alternatives: the log's files cannot be read instead, as they hold what only this server runs alike, and go when a
//! checkpoint has them. To wait until an entry is durable would keep replicas behind by the loss window, and a full copy
//! after a crash is needed anyway, as the backlog is gone.

mod backlog;
pub mod full;
mod pump;
mod replica;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use dormouse_shard::database::Database;
use dormouse_shard::memory::MEMORY;
use dormouse_storage::log::Tap;
use dormouse_storage::shown::Ids;
use futures::channel::oneshot;
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, Notify};

pub use self::backlog::BACKLOG_BYTES_MAX;
use self::backlog::Backlog;
use self::pump::Pump;
pub use self::replica::{Announced, RdbPart, Replica, ReplicaState, Surroundings};
use crate::account::Account;
use crate::process::random_seed;

/// Time without a word after which a replica is gone: Redis's `repl-timeout`.
pub const SILENCE: Duration = Duration::from_secs(60);
/// Full copies that are made at the same time, each of another database.
pub const COPIES_MAX: usize = 16;
/// Bytes beside the items of a queued entry.
const ENTRY_BYTES: usize = 64;

/// A database's replicas, and what they are told.
#[derive(Debug)]
pub struct Replication {
    queue: Mutex<Queue>,
    history: Mutex<History>,
    /// Wakes the pump.
    wake: Notify,
    /// Notified when a replica has acknowledged more.
    acknowledged: Notify,
    /// Full copies are made one after the other.
    copying: AsyncMutex<()>,
    account: Arc<Account>,
    /// Seconds between two `PING`s in the stream.
    ping_every: AtomicU32,
    /// A copy has come upon a hash whose fields expire, which the oldest RDB cannot hold.
    fields_expire: AtomicBool,
}

/// The copy of the stream that a replica acknowledges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaCopy {
    Received,
    /// In its append-only file.
    Durable,
}

/// The queue of the pump.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// Bytes that may wait.
    limit: usize,
    /// Entries are taken.
    is_open: bool,
    /// Some did not fit: the stream has ended.
    has_overflown: bool,
}

#[derive(Debug)]
enum Waiting {
    Entry(Box<[u8]>),
    /// A command that stands in no entry.
    Command(Box<[u8]>),
    /// The moment at which a replica begins, the keyspaces shown then, and who wants to know the offset.
    Begin(Arc<Replica>, Box<Ids>, oneshot::Sender<Start>),
    /// Somebody wants to know the offset after the entries before this.
    Ask(oneshot::Sender<u64>),
}

/// A replica that begins, the bytes that may be queued for it, and who wants to know where it begins.
struct Beginning {
    replica: Arc<Replica>,
    limit: usize,
    told: oneshot::Sender<Start>,
}

/// The beginning of a replica in the stream.
#[derive(Debug)]
struct Start {
    id: String,
    offset: u64,
}

/// The stream so far.
#[derive(Debug)]
struct History {
    id: String,
    backlog: Backlog,
    replicas: Vec<Arc<Replica>>,
    is_pumped: bool,
}

/// The state of a database's stream, for `INFO` and `ROLE`.
#[derive(Debug)]
pub struct ReplicationView {
    pub id: String,
    pub offset: u64,
    pub is_active: bool,
    pub backlog_first: u64,
    pub backlog_bytes: usize,
    pub replicas: Vec<Arc<Replica>>,
}

impl Tap for Replication {
    fn entry(&self, _now_ms: u64, items: &[u8]) {
        self.queue(Waiting::Entry, items);
    }

    fn command(&self, command: &[u8]) {
        self.queue(Waiting::Command, command);
    }
}

impl Replication {
    /// Queues something for the stream.
    fn queue(&self, waiting: fn(Box<[u8]>) -> Waiting, content: &[u8]) {
        let mut queue = self.queue.lock();
        if !queue.is_open {
            return;
        }
        let bytes = content.len() + ENTRY_BYTES;
        if queue.bytes + bytes > queue.limit || self.charge(bytes).is_err() {
            // The pump ends the stream. Until then nothing more is kept.
            queue.is_open = false;
            queue.has_overflown = true;
            queue.waiting.retain(|waiting| waiting.bytes() == 0);
            self.discharge(std::mem::take(&mut queue.bytes));
        } else {
            queue.bytes += bytes;
            queue.waiting.push_back(waiting(content.into()));
        }
        drop(queue);
        self.wake.notify_one();
    }

    pub fn new(account: &Arc<Account>) -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::default(),
            history: Mutex::new(History {
                id: new_id(),
                backlog: Backlog::default(),
                replicas: Vec::new(),
                is_pumped: false,
            }),
            wake: Notify::new(),
            acknowledged: Notify::new(),
            copying: AsyncMutex::new(()),
            account: Arc::clone(account),
            ping_every: AtomicU32::new(10),
            fields_expire: AtomicBool::new(false),
        })
    }

    pub fn set_ping_every(&self, seconds: u32) {
        self.ping_every.store(seconds, Ordering::Relaxed);
    }

    /// Number of replicas that have the data and were heard of in the last seconds. 0 seconds: at any time.
    pub fn good(&self, seconds: u32, now_ms: u64) -> usize {
        let is_good = |replica: &&Arc<Replica>| {
            replica.state() == ReplicaState::Online
                && (seconds == 0 || replica.lag_seconds(now_ms) <= u64::from(seconds))
        };
        self.history.lock().replicas.iter().filter(is_good).count()
    }

    pub fn view(&self) -> ReplicationView {
        let history = self.history.lock();
        ReplicationView {
            id: history.id.clone(),
            offset: history.backlog.end(),
            is_active: history.is_pumped,
            backlog_first: history.backlog.first(),
            backlog_bytes: history.backlog.bytes(),
            replicas: history.replicas.clone(),
        }
    }

    /// Number of replicas that have acknowledged a copy of the stream up to `offset`.
    pub fn acknowledged(&self, offset: u64, copy: ReplicaCopy) -> usize {
        self.history.lock().replicas.iter().filter(|replica| replica.has_acknowledged(offset, copy)).count()
    }

    /// Waits until `wanted` replicas have acknowledged everything that was written until now: up to `offset`, which is
    /// known as soon as the stream has got there.
    pub async fn until_acknowledged(&self, wanted: usize, copy: ReplicaCopy, offset: &mut Option<u64>) {
        let (sender, receiver) = oneshot::channel();
        {
            let mut queue = self.queue.lock();
            match queue.is_open {
                true => queue.waiting.push_back(Waiting::Ask(sender)),
                false => drop(sender),
            }
        }
        self.wake.notify_one();
        // A replica of a later history has got everything.
        let end = *offset.insert(receiver.await.unwrap_or(0));
        loop {
            let mut notified = std::pin::pin!(self.acknowledged.notified());
            notified.as_mut().enable();
            if self.acknowledged(end, copy) >= wanted {
                return;
            }
            notified.await;
        }
    }

    /// Notes that a replica has the stream up to `offset`, and up to `durable` in its append-only file.
    pub fn acknowledge(&self, replica: &Replica, offset: u64, durable: Option<u64>, now_ms: u64) {
        replica.acknowledge(offset, durable, now_ms);
        self.acknowledged.notify_waiters();
    }

    /// Lets a replica go on after a break: it has the stream before `offset`. False: it needs everything.
    pub fn goes_on(&self, replica: &Arc<Replica>, id: &[u8], offset: u64) -> bool {
        let mut history = self.history.lock();
        if !history.is_pumped || history.id.as_bytes() != id {
            return false;
        }
        let Some(missed) = history.backlog.from(offset) else { return false };
        replica.go_on(&history.id, missed);
        history.replicas.push(Arc::clone(replica));
        true
    }

    /// Begins a replica at the present moment, at which no batch can run: it is told everything that follows. Taps the
    /// journal and starts the pump, unless that was done for another one.
    fn begin(self: &Arc<Self>, database: &Arc<Database>, beginning: Beginning, ids: &Ids) {
        let Beginning { replica, limit, told } = beginning;
        // Held until all of it is done: the end of the stream undoes all of it.
        let mut history = self.history.lock();
        database.shared.journal.tap(Some(Arc::clone(self) as _));
        let mut queue = self.queue.lock();
        if !queue.has_overflown {
            (queue.is_open, queue.limit) = (true, limit);
            queue.waiting.push_back(Waiting::Begin(replica, Box::new(*ids), told));
        }
        drop(queue);
        if !std::mem::replace(&mut history.is_pumped, true) {
            database.engine.background.spawn(Pump::new(self, database).run());
        }
        drop(history);
        self.wake.notify_one();
    }

    /// Removes a replica whose connection has ended.
    pub fn remove(&self, replica: &Arc<Replica>) {
        replica.end();
        self.history.lock().replicas.retain(|other| !Arc::ptr_eq(other, replica));
    }

    /// Charges memory to the database's clients.
    fn charge(&self, bytes: usize) -> Result<(), &'static str> {
        self.account.try_take(bytes)?;
        MEMORY.hold(bytes);
        Ok(())
    }

    fn discharge(&self, bytes: usize) {
        self.account.give(bytes);
        MEMORY.let_go(bytes);
    }

    /// Counts queued entries that were told.
    fn take_out(&self, bytes: usize) {
        let mut queue = self.queue.lock();
        // An overflow has discharged all of it.
        if !queue.has_overflown {
            queue.bytes -= bytes;
            self.discharge(bytes);
        }
    }

    /// Adds to the stream.
    fn tell(&self, bytes: &[u8]) {
        let mut history = self.history.lock();
        let before = history.backlog.bytes();
        history.backlog.push(bytes);
        let after = history.backlog.bytes();
        self.account.take_anyway(after);
        self.account.give(before);
        MEMORY.hold(after);
        MEMORY.let_go(before);
        history.replicas.iter().for_each(|replica| replica.tell(bytes));
    }

    /// Ends the stream: the next one is another history.
    fn end(&self, database: &Database) {
        let mut history = self.history.lock();
        // Not under the queue's lock: a worker takes that under the journal's.
        database.shared.journal.tap(None);
        history.id = new_id();
        self.discharge(std::mem::take(&mut history.backlog).bytes());
        history.replicas.drain(..).for_each(|replica| replica.kill());
        history.is_pumped = false;
        let mut queue = self.queue.lock();
        self.discharge(queue.bytes);
        *queue = Queue::default();
    }
}

impl Waiting {
    fn bytes(&self) -> usize {
        match self {
            Self::Entry(content) | Self::Command(content) => content.len() + ENTRY_BYTES,
            Self::Begin(..) | Self::Ask(_) => 0,
        }
    }
}

/// 40 hexadecimal digits that no other history has.
fn new_id() -> String {
    let digits: String = std::iter::repeat_with(|| format!("{:016x}", random_seed())).take(3).collect();
    digits[..40].into()
}
