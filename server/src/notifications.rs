//! Keyspace notifications: subscribers are told of changes of keys.
//!
//! The keyspace queues the events that somebody may listen to, with what must be durable before they are told (see
//! [`notices`](dormouse_shard::keyspace::notices)). One task for each database that has such events publishes them in
//! their order and without a lock of the engine. Replies wait for it ([`Notifier::tell_before`]): whoever has the reply to
//! a write can rely on it that subscribers were told. So a client that writes much waits for its own events, and the queue
//! stays short.
//!
//! Events that do not fit into the memory of the database are lost. Then those who listen to events are disconnected, as
//! subscribers are who read too slowly: they must learn that they have missed something.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use dormouse_shard::database::Database;
use dormouse_shard::execution::budget::TURN;
use dormouse_shard::keyspace::notices::{Charge, Classes, PendingBatch, PendingMessage};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::account::Account;
use crate::clients::OutputLimit;
use crate::pubsub::{PubSub, may_hear_events};

/// The present limit on the output of a subscriber; `None` when the node ends.
pub type LimitNow = Box<dyn Fn() -> Option<OutputLimit> + Send + Sync>;

/// Sends the keyspace events of one database to its subscribers.
pub struct Notifier {
    database: Arc<Database>,
    pubsub: Arc<PubSub>,
    background: Handle,
    /// The limit on the output of subscribers, known since the first subscription.
    limit: OnceLock<LimitNow>,
    /// Whether a task tells events.
    is_telling: AtomicBool,
    /// Number of the last batch that was told.
    told: AtomicU64,
    progress: Notify,
}

impl Notifier {
    pub fn new(
        database: &Arc<Database>,
        pubsub: &Arc<PubSub>,
        account: &Arc<Account>,
        background: &Handle,
    ) -> Arc<Self> {
        let notifier = Arc::new(Self {
            database: Arc::clone(database),
            pubsub: Arc::clone(pubsub),
            background: background.clone(),
            limit: OnceLock::new(),
            is_telling: AtomicBool::new(false),
            told: AtomicU64::new(0),
            progress: Notify::new(),
        });
        let charge = Charged { account: Arc::clone(account), notifier: Arc::downgrade(&notifier) };
        database.shared.notices.charge_to(Box::new(charge));
        notifier
    }

    /// Limits the output of subscribers from now on. The first call counts.
    pub fn limit_by(&self, limit: impl FnOnce() -> LimitNow) {
        self.limit.get_or_init(limit);
    }

    /// Waits until the events before this moment that may be told are told.
    pub async fn tell_before(&self) {
        let notices = &self.database.shared.notices;
        if !notices.is_waiting() {
            return;
        }
        let durable = self.database.shared.journal.log().map_or(u64::MAX, |log| log.flushed());
        let number = notices.last_until(durable);
        loop {
            let mut progress = std::pin::pin!(self.progress.notified());
            progress.as_mut().enable();
            if self.told.load(Ordering::Acquire) >= number {
                return;
            }
            progress.await;
        }
    }

    /// Tells what waits, until nothing does.
    async fn work(self: Arc<Self>) {
        let notices = &self.database.shared.notices;
        loop {
            while let Some(awaited) = notices.first() {
                let is_durable = match self.database.shared.journal.log() {
                    Some(log) if log.flushed() < awaited => log.durable(awaited).await.is_ok(),
                    _ => true,
                };
                let Some(batch) = notices.take() else { continue };
                // Otherwise the writes did not happen.
                if is_durable {
                    self.tell(&batch).await;
                }
                notices.told(&batch);
                self.told.store(batch.number, Ordering::Release);
                self.progress.notify_waiters();
            }
            self.is_telling.store(false, Ordering::SeqCst);
            if notices.first().is_none() || self.is_telling.swap(true, Ordering::SeqCst) {
                return;
            }
        }
    }

    async fn tell(&self, batch: &PendingBatch) {
        let Some(limit) = self.limit.get().and_then(|limit| limit()) else { return };
        let now_ms = (self.database.engine.clock)();
        let mut spent = 0;
        let mut channel = Vec::new();
        for notice in &batch.notices {
            match notice {
                PendingMessage::Event { event, select, key, fields } => {
                    if batch.classes.has(Classes::KEYSPACE) {
                        name(&mut channel, "__keyspace@", *select, &[key]);
                        spent += self.publish(&channel, event.name.as_bytes(), limit, now_ms);
                    }
                    if batch.classes.has(Classes::KEYEVENT) {
                        name(&mut channel, "__keyevent@", *select, &[event.name.as_bytes()]);
                        spent += self.publish(&channel, key, limit, now_ms);
                    }
                    if !fields.is_empty() {
                        let about = FieldEvent { name: event.name.as_bytes(), select: *select, key, fields };
                        spent += self.tell_fields(&about, batch.classes, limit, now_ms).await;
                    }
                }
                PendingMessage::Message { channel, message, is_sharded: false } => {
                    spent += self.publish(channel, message, limit, now_ms);
                }
                PendingMessage::Message { channel, message, is_sharded: true } => {
                    spent += 1 + self.pubsub.cost(channel, message, true);
                    self.pubsub.publish_sharded(channel, message, limit, now_ms);
                }
            }
            if spent > TURN {
                tokio::task::yield_now().await;
                spent = 0;
            }
        }
        if batch.is_cut {
            let listeners = self.pubsub.listeners(|_| true, |name, kind| may_hear_events(kind, name));
            tracing::warn!(
                database = self.database.name(),
                clients = listeners.len(),
                "closed: they listen to keyspace events, and some were lost for want of memory"
            );
            listeners.iter().for_each(|client| client.kill());
        }
    }

    /// Tells which fields of a hash an event is about. Returns the cost since it gave way.
    async fn tell_fields(
        &self,
        &FieldEvent { name: event, select, key, fields }: &FieldEvent<'_>,
        classes: Classes,
        limit: OutputLimit,
        now_ms: u64,
    ) -> usize {
        let (mut channel, mut message, mut spent) = (Vec::new(), Vec::new(), 0);
        if classes.has(Classes::SUBKEYSPACE) {
            name(&mut channel, "__subkeyspace@", select, &[key]);
            message.extend_from_slice(event);
            message.push(b'|');
            append_fields(&mut message, fields);
            spent += self.publish(&channel, &message, limit, now_ms);
        }
        if classes.has(Classes::SUBKEYEVENT) {
            name(&mut channel, "__subkeyevent@", select, &[event]);
            message.clear();
            append_measured(&mut message, key);
            message.push(b'|');
            append_fields(&mut message, fields);
            spent += self.publish(&channel, &message, limit, now_ms);
        }
        // Otherwise a reader of the channel's name could not tell where the key ends.
        if classes.has(Classes::SUBKEYSPACE_ITEM) && !key.contains(&b'\n') {
            for field in fields {
                name(&mut channel, "__subkeyspaceitem@", select, &[key, b"\n", field]);
                spent += self.publish(&channel, event, limit, now_ms);
                if spent > TURN {
                    tokio::task::yield_now().await;
                    spent = 0;
                }
            }
        }
        if classes.has(Classes::SUBKEYSPACE_EVENT) {
            name(&mut channel, "__subkeyspaceevent@", select, &[event, b"|", key]);
            message.clear();
            append_fields(&mut message, fields);
            spent += self.publish(&channel, &message, limit, now_ms);
        }
        spent
    }

    /// Publishes one message. Returns its cost. This thread gives way while it matches, so it must not hold a lock.
    fn publish(&self, channel: &[u8], message: &[u8], limit: OutputLimit, now_ms: u64) -> usize {
        let cost = self.pubsub.cost(channel, message, false);
        self.pubsub.publish_unlocked(channel, message, limit, now_ms);
        1 + cost
    }
}

/// Writes the name of a channel for events.
fn name(channel: &mut Vec<u8>, kind: &str, select: u8, rest: &[&[u8]]) {
    channel.clear();
    channel.extend_from_slice(kind.as_bytes());
    channel.extend_from_slice(itoa::Buffer::new().format(select).as_bytes());
    channel.extend_from_slice(b"__:");
    rest.iter().for_each(|part| channel.extend_from_slice(part));
}

/// An event that is about fields of a hash.
struct FieldEvent<'a> {
    name: &'a [u8],
    select: u8,
    key: &'a [u8],
    fields: &'a [Box<[u8]>],
}

/// Appends names as Redis lists them: `1:a,3:bcd`.
fn append_fields(message: &mut Vec<u8>, fields: &[Box<[u8]>]) {
    for (at, field) in fields.iter().enumerate() {
        if at > 0 {
            message.push(b',');
        }
        append_measured(message, field);
    }
}

/// Appends a name behind its length.
fn append_measured(message: &mut Vec<u8>, name: &[u8]) {
    message.extend_from_slice(itoa::Buffer::new().format(name.len()).as_bytes());
    message.push(b':');
    message.extend_from_slice(name);
}

struct Charged {
    account: Arc<Account>,
    notifier: Weak<Notifier>,
}

impl Charge for Charged {
    fn take(&self, bytes: usize) -> bool {
        self.account.try_take(bytes).is_ok()
    }

    fn give(&self, bytes: usize) {
        self.account.give(bytes);
    }

    fn arrived(&self) {
        if let Some(notifier) = self.notifier.upgrade()
            && !notifier.is_telling.swap(true, Ordering::SeqCst)
        {
            notifier.background.clone().spawn(notifier.work());
        }
    }
}
