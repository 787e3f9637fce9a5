//! Publish and subscribe, within one database.
//!
//! Subscriptions belong to the database, not to a shard and not to a worker: they outlive its sleep, and publishing does
//! not wake it. A message is encoded once for each protocol version among its receivers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_protocol::{Reply, Version, glob};
use parking_lot::RwLock;

use crate::clients::{Client, OutputLimit};

type Subscribers = BTreeMap<u64, Arc<Client>>;

#[derive(Debug, Default)]
pub struct PubSub {
    channels: RwLock<HashMap<Box<[u8]>, Subscribers>>,
    patterns: RwLock<HashMap<Box<[u8]>, Subscribers>>,
}

/// What is subscribed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Channel,
    Pattern,
}

impl PubSub {
    fn of(&self, kind: Kind) -> &RwLock<HashMap<Box<[u8]>, Subscribers>> {
        match kind {
            Kind::Channel => &self.channels,
            Kind::Pattern => &self.patterns,
        }
    }

    pub fn subscribe(&self, kind: Kind, name: &[u8], client: &Arc<Client>) {
        self.of(kind).write().entry(name.into()).or_default().insert(client.id, Arc::clone(client));
    }

    pub fn unsubscribe(&self, kind: Kind, name: &[u8], client: u64) {
        let mut all = self.of(kind).write();
        if let Some(subscribers) = all.get_mut(name) {
            subscribers.remove(&client);
            if subscribers.is_empty() {
                all.remove(name);
            }
        }
    }

    /// Sends `message` to everybody who listens; returns how many did.
    pub fn publish(&self, channel: &[u8], message: &[u8], limit: OutputLimit, now_ms: u64) -> usize {
        let mut receivers = 0;
        let mut send = |subscribers: &Subscribers, pattern: Option<&[u8]>| {
            let mut encoded: [Option<Vec<u8>>; 2] = [None, None];
            for client in subscribers.values() {
                let resp3 = client.resp.load(Ordering::Relaxed) == 3;
                let bytes = encoded[usize::from(resp3)].get_or_insert_with(|| encode(channel, message, pattern, resp3));
                client.tell(bytes, limit, now_ms);
                receivers += 1;
            }
        };
        if let Some(subscribers) = self.channels.read().get(channel) {
            send(subscribers, None);
        }
        for (pattern, subscribers) in self.patterns.read().iter() {
            if glob::matches(pattern, channel) {
                send(subscribers, Some(pattern));
            }
        }
        receivers
    }

    /// Channels with subscribers that match `pattern`.
    pub fn channels(&self, pattern: Option<&[u8]>) -> Vec<Box<[u8]>> {
        let channels = self.channels.read();
        channels.keys().filter(|name| pattern.is_none_or(|pattern| glob::matches(pattern, name))).cloned().collect()
    }

    pub fn subscribers(&self, channel: &[u8]) -> usize {
        self.channels.read().get(channel).map_or(0, BTreeMap::len)
    }

    pub fn patterns(&self) -> usize {
        self.patterns.read().len()
    }
}

fn encode(channel: &[u8], message: &[u8], pattern: Option<&[u8]>, resp3: bool) -> Vec<u8> {
    let mut reply = Reply::new(if resp3 { Version::Resp3 } else { Version::Resp2 });
    reply.push(3 + usize::from(pattern.is_some()));
    match pattern {
        Some(pattern) => {
            reply.bulk(b"pmessage");
            reply.bulk(pattern);
        }
        None => reply.bulk(b"message"),
    }
    reply.bulk(channel);
    reply.bulk(message);
    std::mem::take(&mut reply.buffer)
}
