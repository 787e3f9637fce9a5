//! Tells tracking clients what they have to forget.
//!
//! The engine knows who has read what ([`dormouse_shard::keyspace::tracking`]) and hands over what clients are to be told.
//! A little of it is told at once. What is more than that, and what is not durable yet, waits in the queue of its database
//! for a task, so no turn becomes longer by the number of clients that track a key. If the queue becomes too long, clients
//! are told to forget everything instead.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use dormouse_shard::keyspace::tracking::{Messenger, Untold};
use dormouse_shard::memory::MEMORY;
use dormouse_storage::log::Lsn;
use parking_lot::Mutex;

use crate::account::Account;
use crate::databases::Tenant;
use crate::node::Node;
use crate::tracking_clients::{TellLimits, encode};

/// Messages that are told at once, under the locks of a command.
const TOLD_AT_ONCE: usize = 16;
/// Most bytes of what waits to be told.
const WAITING_BYTES_MAX: usize = 16 << 20;
/// The part of the memory of a database's clients that its table may take.
const PART_OF_ACCOUNT: usize = 4;

/// Tells the clients of a database what to forget.
pub struct Teller {
    node: Weak<Node>,
    tenant: Weak<Tenant>,
    account: Arc<Account>,
    /// The account of all clients.
    of_all: Arc<Account>,
    /// Bytes that are charged for the table.
    charged: AtomicUsize,
    queue: Arc<Mutex<Queue>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(Untold, Lsn, usize)>,
    /// Bytes of what waits.
    bytes: usize,
    /// Whether a task empties it.
    is_served: bool,
}

impl Teller {
    pub fn new(node: &Arc<Node>, tenant: &Arc<Tenant>) -> Self {
        Self {
            node: Arc::downgrade(node),
            tenant: Arc::downgrade(tenant),
            account: Arc::clone(&tenant.account),
            of_all: Arc::clone(&node.clients.memory),
            charged: AtomicUsize::new(0),
            queue: Arc::default(),
        }
    }
}

/// Number of messages that it takes, at least, and its bytes.
fn size(untold: &Untold) -> (usize, usize) {
    let readers: usize = untold.keys.iter().map(|(_, readers)| readers.len()).sum();
    let is_long = untold.all.is_some() || !untold.broadcast.is_empty() || !untold.dead.is_empty();
    let keys = untold.keys.iter().map(|(key, readers)| key.len() + 8 * readers.len() + 64);
    let bytes = keys.sum::<usize>() + untold.broadcast.iter().map(|(key, _)| key.len() + 32).sum::<usize>();
    (if is_long { usize::MAX } else { readers }, bytes)
}

impl Messenger for Teller {
    fn tell(&self, mut untold: Untold, awaited: Lsn) {
        let (Some(node), Some(tenant)) = (self.node.upgrade(), self.tenant.upgrade()) else { return };
        let log = tenant.database.shared.journal.log();
        let is_durable = log.is_none_or(|log| log.flushed() >= awaited);
        let (messages, mut bytes) = size(&untold);
        if messages <= TOLD_AT_ONCE && is_durable {
            deliver(&node, &tenant, &untold);
            return;
        }
        let mut queue = self.queue.lock();
        if queue.bytes + bytes > WAITING_BYTES_MAX {
            // One invalidation of everything replaces the queue. It is sent when the latest of those changes is durable, so a
            // client that reads again sees the new values.
            for (waiting, _, _) in queue.waiting.drain(..) {
                untold.dead.extend(waiting.dead);
            }
            (untold.keys, untold.broadcast, untold.all) = (Vec::new(), Vec::new(), Some(0));
            (queue.bytes, bytes) = (0, 0);
        }
        queue.bytes += bytes;
        queue.waiting.push_back((untold, awaited, bytes));
        if !std::mem::replace(&mut queue.is_served, true) {
            node.engine.background.spawn(serve(Arc::clone(&self.queue), Arc::clone(&node), tenant));
        }
    }

    fn take(&self, bytes: usize) -> bool {
        let charged = self.charged.load(Ordering::Relaxed) + bytes;
        if charged > self.account.limit() / PART_OF_ACCOUNT || MEMORY.is_exceeded_by(bytes) {
            return false;
        }
        if self.account.try_take(bytes).is_err() {
            return false;
        }
        if self.of_all.try_take(bytes).is_err() {
            self.account.give(bytes);
            return false;
        }
        MEMORY.hold(bytes);
        self.charged.store(charged, Ordering::Relaxed);
        true
    }

    fn give(&self, bytes: usize) {
        self.charged.fetch_sub(bytes, Ordering::Relaxed);
        self.account.give(bytes);
        self.of_all.give(bytes);
        MEMORY.let_go(bytes);
    }
}

/// Tells everything that waits, and ends.
async fn serve(queue: Arc<Mutex<Queue>>, node: Arc<Node>, tenant: Arc<Tenant>) {
    loop {
        let (untold, awaited, bytes) = {
            let mut queue = queue.lock();
            let Some(next) = queue.waiting.pop_front() else {
                queue.is_served = false;
                return;
            };
            next
        };
        if let Some(log) = tenant.database.shared.journal.log()
            && log.flushed() < awaited
            && log.durable(awaited).await.is_err()
        {
            // The process serves nothing any more.
            tracing::debug!(database = tenant.name(), "the log is sealed: changes are not told");
        }
        deliver(&node, &tenant, &untold);
        let mut queue = queue.lock();
        queue.bytes = queue.bytes.saturating_sub(bytes);
    }
}

/// TellLimits of the clients of a node.
pub fn limits(node: &Node) -> TellLimits {
    TellLimits {
        normal: node.output_limit_normal(),
        subscriber: node.output_limit_pubsub(),
        now_ms: (node.engine.clock)(),
    }
}

fn deliver(node: &Node, tenant: &Tenant, untold: &Untold) {
    let limits = limits(node);
    let clients = &tenant.tracking_clients;
    if let Some(knows) = untold.all {
        clients.all().iter().filter(|one| one.client.id != knows).for_each(|one| one.tell(None, limits));
    }
    for (key, readers) in &untold.keys {
        let mut encoded = None;
        for one in readers.iter().filter_map(|reader| clients.get(*reader)).filter(|one| !one.is_broadcast) {
            let keys = encoded.get_or_insert_with(|| encode(std::iter::once(&**key)));
            one.tell(Some(keys), limits);
        }
    }
    for (told, keys) in tenant.database.shared.tracking.broadcast(&untold.broadcast) {
        let all = encode(keys.keys().copied());
        for one in told.iter().filter_map(|id| clients.get(*id)) {
            let own = |writers: &BTreeSet<u64>| writers.iter().eq([&one.client.id]);
            if !one.no_loop || !keys.values().any(own) {
                one.tell(Some(&all), limits);
                continue;
            }
            let others: Vec<&[u8]> = keys.iter().filter(|(_, writers)| !own(writers)).map(|(key, _)| *key).collect();
            if !others.is_empty() {
                one.tell(Some(&encode(others.into_iter())), limits);
            }
        }
    }
}
