//! Publish and subscribe, within one database.
//!
//! Subscriptions belong to the database, not to a shard or a worker: they outlive its sleep, and publishing does not
//! wake it. A message is encoded once for each protocol version among its receivers.
//!
//! The cost of publishing a message is known without a look at each pattern ([`PubSub::cost`]). A message that takes
//! more than a turn is published on another thread, which holds no lock while it matches or sends.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dormouse_protocol::glob::{ELEMENTS_MAX, Glob, STARS_MAX, TooComplex};
use dormouse_protocol::{Reply, Version};
use dormouse_shard::execution::budget::BYTES_PER_ELEMENT;
use parking_lot::RwLock;

use crate::account::ENTRY_BYTES;
use crate::clients::{Client, OutputLimit};

/// Bytes of the searcher for one part of a pattern between two stars.
const SEARCHER_BYTES: usize = 512;

type Subscribers = BTreeMap<u64, Arc<Client>>;

#[derive(Debug, Default)]
pub struct PubSub {
    channels: RwLock<Names<Subscribers>>,
    sharded: RwLock<Names<Subscribers>>,
    patterns: RwLock<Names<(Arc<Glob<'static>>, Subscribers)>>,
    /// Cost of matching a channel of [`WEIGHED_BYTES`] with all patterns.
    matching: AtomicUsize,
    /// Number of channels and patterns that keyspace events may go to.
    hearing: Arc<AtomicUsize>,
}

/// Length of a channel's name at which patterns are weighed.
const WEIGHED_BYTES: usize = 64 << 10;
/// Cost of sending a message to one client, in elements.
const COST_OF_RECEIVER: usize = 4;

fn weight(glob: &Glob<'_>) -> usize {
    glob.cost(1, WEIGHED_BYTES)
}

/// The name of a channel, or a pattern. All holders share its bytes.
pub type ChannelName = Arc<[u8]>;

/// The kind of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscriptionKind {
    Channel,
    /// A sharded channel. It has nothing to do with an ordinary one of the same name, nor with patterns.
    Sharded,
    Pattern,
}

/// A message that is not published yet.
#[derive(Debug)]
pub struct Message {
    pub channel: Box<[u8]>,
    pub message: Box<[u8]>,
    pub is_sharded: bool,
}

impl PubSub {
    /// `hearing`: where the channels and patterns that keyspace events may go to are counted.
    pub fn new(hearing: &Arc<AtomicUsize>) -> Self {
        Self { hearing: Arc::clone(hearing), ..Self::default() }
    }

    /// Adds a subscription. Returns the name as stored.
    ///
    /// # Errors
    /// When a pattern is too complex.
    pub fn subscribe(
        &self,
        kind: SubscriptionKind,
        name: &[u8],
        client: &Arc<Client>,
    ) -> Result<ChannelName, TooComplex> {
        match kind {
            SubscriptionKind::Channel => {
                let make = || {
                    self.count_hearing(kind, name);
                    Ok(Subscribers::new())
                };
                Ok(add(&mut self.channels.write(), name, client, make, |all| all)?)
            }
            SubscriptionKind::Sharded => {
                Ok(add(&mut self.sharded.write(), name, client, || Ok(Subscribers::new()), |all| all)?)
            }
            SubscriptionKind::Pattern => {
                let read = || {
                    let glob = Glob::new(name)?.into_owned();
                    self.matching.fetch_add(weight(&glob), Ordering::Relaxed);
                    self.count_hearing(kind, name);
                    Ok((Arc::new(glob), Subscribers::new()))
                };
                add(&mut self.patterns.write(), name, client, read, |(_, all)| all)
            }
        }
    }

    pub fn unsubscribe(&self, kind: SubscriptionKind, name: &[u8], client: u64) {
        match kind {
            SubscriptionKind::Channel => {
                if remove(&mut self.channels.write(), name, client, |all| all).is_some() {
                    self.uncount_hearing(kind, name);
                }
            }
            SubscriptionKind::Sharded => drop(remove(&mut self.sharded.write(), name, client, |all| all)),
            SubscriptionKind::Pattern => {
                if let Some((glob, _)) = remove(&mut self.patterns.write(), name, client, |(_, all)| all) {
                    self.matching.fetch_sub(weight(&glob), Ordering::Relaxed);
                    self.uncount_hearing(kind, name);
                }
            }
        }
    }

    fn count_hearing(&self, kind: SubscriptionKind, name: &[u8]) {
        self.hearing.fetch_add(usize::from(may_hear_events(kind, name)), Ordering::Relaxed);
    }

    fn uncount_hearing(&self, kind: SubscriptionKind, name: &[u8]) {
        self.hearing.fetch_sub(usize::from(may_hear_events(kind, name)), Ordering::Relaxed);
    }

    /// The channels of this kind.
    fn named(&self, is_sharded: bool) -> &RwLock<Names<Subscribers>> {
        if is_sharded { &self.sharded } else { &self.channels }
    }

    /// Approximate cost of publishing a message to `channel`, without the receivers that listen by patterns.
    pub fn cost(&self, channel: &[u8], message: &[u8], is_sharded: bool) -> usize {
        let each = COST_OF_RECEIVER + message.len() / BYTES_PER_ELEMENT;
        let receivers = each.saturating_mul(self.subscribers(channel, is_sharded));
        if is_sharded {
            return receivers;
        }
        let matching = self.matching.load(Ordering::Relaxed).saturating_mul(channel.len()) / WEIGHED_BYTES;
        matching.saturating_add(self.patterns()).saturating_add(receivers)
    }

    /// Sends `message` to all subscribers. Returns their number.
    pub fn publish(&self, channel: &[u8], message: &[u8], limit: OutputLimit, now_ms: u64) -> usize {
        let sending = Sending { channel, message, is_sharded: false, limit, now_ms };
        let mut receivers = self.channels.read().get(channel).map_or(0, |all| sending.to(all, None));
        for (pattern, (glob, subscribers)) in self.patterns.read().iter() {
            if glob.matches(channel) {
                receivers += sending.to(subscribers, Some(pattern));
            }
        }
        receivers
    }

    /// The same for a sharded channel, whose subscribers are all there are.
    pub fn publish_sharded(&self, channel: &[u8], message: &[u8], limit: OutputLimit, now_ms: u64) -> usize {
        let sending = Sending { channel, message, is_sharded: true, limit, now_ms };
        self.sharded.read().get(channel).map_or(0, |all| sending.to(all, None))
    }

    /// Sends a message to all subscribers, however long that takes. Returns their number.
    pub fn send_unlocked(&self, sent: &Message, limit: OutputLimit, now_ms: u64) -> usize {
        let Message { channel, message, is_sharded } = sent;
        if !is_sharded {
            return self.publish_unlocked(channel, message, limit, now_ms);
        }
        let sending = Sending { channel, message, is_sharded: true, limit, now_ms };
        let subscribers = self.sharded.read().get(&**channel).cloned();
        subscribers.map_or(0, |all| sending.to(&all, None))
    }

    /// The same as [`Self::publish`] for a message that takes long: no other call waits for the locks meanwhile.
    pub fn publish_unlocked(&self, channel: &[u8], message: &[u8], limit: OutputLimit, now_ms: u64) -> usize {
        let sending = Sending { channel, message, is_sharded: false, limit, now_ms };
        let subscribers = self.channels.read().get(channel).cloned();
        let mut receivers = subscribers.map_or(0, |all| sending.to(&all, None));
        let patterns: Vec<(ChannelName, Arc<Glob<'static>>)> =
            self.patterns.read().iter().map(|(name, (glob, _))| (Arc::clone(name), Arc::clone(glob))).collect();
        for (pattern, glob) in patterns {
            if glob.matches(channel) {
                let subscribers = self.patterns.read().get(&pattern).map(|(_, all)| all.clone());
                receivers += subscribers.map_or(0, |all| sending.to(&all, Some(&pattern)));
            }
        }
        receivers
    }

    /// Publishes messages in their order.
    pub fn publish_all(&self, messages: &[Message], limit: OutputLimit, now_ms: u64) {
        for Message { channel, message, is_sharded } in messages {
            match is_sharded {
                true => self.publish_sharded(channel, message, limit, now_ms),
                false => self.publish(channel, message, limit, now_ms),
            };
        }
    }

    /// Number of clients that a message to `channel` is for.
    pub fn receivers(&self, channel: &[u8], is_sharded: bool) -> usize {
        if is_sharded {
            return self.subscribers(channel, true);
        }
        let patterns = self.patterns.read();
        let matching = patterns.values().filter(|(glob, _)| glob.matches(channel));
        self.subscribers(channel, false) + matching.map(|(_, subscribers)| subscribers.len()).sum::<usize>()
    }

    /// The same, but no other call waits for the lock while it matches.
    pub fn receivers_unlocked(&self, channel: &[u8]) -> usize {
        let patterns: Vec<(Arc<Glob<'static>>, usize)> =
            self.patterns.read().values().map(|(glob, subscribers)| (Arc::clone(glob), subscribers.len())).collect();
        let matching = patterns.iter().filter(|(glob, _)| glob.matches(channel));
        self.subscribers(channel, false) + matching.map(|(_, subscribers)| subscribers).sum::<usize>()
    }

    /// Clients among those that `is_concerned` names that listen to a channel, or by a pattern, which `is_forbidden`
    /// says is not for them. No other call waits for a lock while it is decided.
    pub fn listeners(
        &self,
        is_concerned: impl Fn(&Client) -> bool,
        is_forbidden: impl Fn(&[u8], SubscriptionKind) -> bool,
    ) -> Vec<Arc<Client>> {
        let mut found = Vec::new();
        let mut add = |subscribers: &Subscribers| {
            found.extend(subscribers.values().filter(|client| is_concerned(client)).cloned());
        };
        for kind in [SubscriptionKind::Channel, SubscriptionKind::Sharded] {
            let all = self.named(kind == SubscriptionKind::Sharded);
            let names: Vec<ChannelName> = all.read().keys().cloned().collect();
            for name in names.iter().filter(|name| is_forbidden(name, kind)) {
                all.read().get(name).into_iter().for_each(&mut add);
            }
        }
        let patterns: Vec<ChannelName> = self.patterns.read().keys().cloned().collect();
        for name in patterns.iter().filter(|name| is_forbidden(name, SubscriptionKind::Pattern)) {
            self.patterns.read().get(name).into_iter().for_each(|(_, subscribers)| add(subscribers));
        }
        found
    }

    /// Channels with subscribers that match `pattern`.
    pub fn channels(&self, pattern: Option<&Glob<'_>>, is_sharded: bool) -> Vec<ChannelName> {
        let channels = self.named(is_sharded).read();
        channels.keys().filter(|name| pattern.is_none_or(|glob| glob.matches(name))).cloned().collect()
    }

    /// The same, but no other call waits for the lock while it matches.
    pub fn channels_unlocked(&self, pattern: Option<&Glob<'_>>, is_sharded: bool) -> Vec<ChannelName> {
        let mut channels: Vec<ChannelName> = self.named(is_sharded).read().keys().cloned().collect();
        channels.retain(|name| pattern.is_none_or(|glob| glob.matches(name)));
        channels
    }

    pub fn channel_count(&self, is_sharded: bool) -> usize {
        self.named(is_sharded).read().len()
    }

    pub fn subscribers(&self, channel: &[u8], is_sharded: bool) -> usize {
        self.named(is_sharded).read().get(channel).map_or(0, BTreeMap::len)
    }

    pub fn patterns(&self) -> usize {
        self.patterns.read().len()
    }
}

/// How the names of all channels for keyspace events begin.
const EVENTS: [&[u8]; 2] = [b"__key", b"__subkey"];

/// Whether keyspace events may go to a channel of this name, or by this pattern.
pub fn may_hear_events(kind: SubscriptionKind, name: &[u8]) -> bool {
    match kind {
        SubscriptionKind::Channel => EVENTS.iter().any(|events| name.starts_with(events)),
        SubscriptionKind::Sharded => false,
        SubscriptionKind::Pattern => EVENTS.iter().any(|events| {
            let plain = name.iter().take_while(|byte| !b"*?[\\".contains(byte)).count().min(events.len());
            // A pattern without more plain bytes may still mean any name that begins like this.
            events.starts_with(&name[..plain]) && (plain == events.len() || plain < name.len())
        }),
    }
}

/// Bytes that a subscription keeps: its name, which all holders share, and the parts of a pattern. Computed as if no
/// other client had subscribed to it.
pub fn bytes_of(kind: SubscriptionKind, name: &[u8]) -> usize {
    if kind != SubscriptionKind::Pattern {
        return name.len() + 2 * ENTRY_BYTES;
    }
    // A pattern's own copy and its parts: each has a searcher, or a table of at most 32 bytes for each of its elements.
    let is_mixed = name.iter().any(|byte| b"?[".contains(byte));
    let tables = if is_mixed { 32 * name.len().min(ELEMENTS_MAX) } else { 0 };
    let stars = name.iter().filter(|byte| **byte == b'*').take(STARS_MAX).count();
    3 * name.len() + tables + stars * SEARCHER_BYTES + 2 * ENTRY_BYTES
}

/// A message being sent.
struct Sending<'m> {
    channel: &'m [u8],
    message: &'m [u8],
    is_sharded: bool,
    limit: OutputLimit,
    now_ms: u64,
}

impl Sending<'_> {
    /// Sends it to all of `subscribers`, who listen to the channel or to `pattern`. Returns their number.
    fn to(&self, subscribers: &Subscribers, pattern: Option<&[u8]>) -> usize {
        let mut encoded: [Option<Vec<u8>>; 2] = [None, None];
        for client in subscribers.values() {
            let resp3 = client.resp.load(Ordering::Relaxed) == 3;
            let bytes = encoded[usize::from(resp3)].get_or_insert_with(|| self.encoded(pattern, resp3));
            client.tell(bytes, self.limit, self.now_ms);
        }
        subscribers.len()
    }

    fn encoded(&self, pattern: Option<&[u8]>, resp3: bool) -> Vec<u8> {
        let mut reply = Reply::new(if resp3 { Version::Resp3 } else { Version::Resp2 });
        reply.push(3 + usize::from(pattern.is_some()));
        match pattern {
            Some(pattern) => {
                reply.bulk(b"pmessage");
                reply.bulk(pattern);
            }
            None => reply.bulk(if self.is_sharded { b"smessage" } else { b"message" }),
        }
        reply.bulk(self.channel);
        reply.bulk(self.message);
        std::mem::take(&mut reply.buffer)
    }
}

type Names<T> = HashMap<ChannelName, T>;

fn add<T>(
    names: &mut Names<T>,
    name: &[u8],
    client: &Arc<Client>,
    make: impl FnOnce() -> Result<T, TooComplex>,
    subscribers: fn(&mut T) -> &mut Subscribers,
) -> Result<ChannelName, TooComplex> {
    let known = names.get_key_value(name).map(|(name, _)| Arc::clone(name));
    let name = match known {
        Some(name) => name,
        None => {
            let name: ChannelName = name.into();
            names.insert(Arc::clone(&name), make()?);
            name
        }
    };
    if let Some(kept) = names.get_mut(&name) {
        subscribers(kept).insert(client.id, Arc::clone(client));
    }
    Ok(name)
}

/// Removes a subscriber. Returns the state of the name once no client listens to it any more.
fn remove<T>(names: &mut Names<T>, name: &[u8], client: u64, subscribers: fn(&mut T) -> &mut Subscribers) -> Option<T> {
    let left = subscribers(names.get_mut(name)?);
    left.remove(&client);
    if left.is_empty() { names.remove(name) } else { None }
}
