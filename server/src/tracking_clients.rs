//! The connections that track keys, and what they are sent.
//!
//! Invalidations go to the client itself, or to the one that it has named (`REDIRECT`): as pushes with RESP3, as messages in
//! the channel `__redis__:invalidate` with RESP2.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_protocol::{Reply, Version};
use parking_lot::RwLock;

use crate::clients::{Client, OutputLimit};

/// The bits of [`Client::tracking`].
pub const TRACKS: u8 = 1;
pub const TRACKS_PREFIXES: u8 = 1 << 1;
/// The client that it has named is gone.
pub const IS_BROKEN: u8 = 1 << 2;

/// A tracking connection.
#[derive(Debug)]
pub struct TrackingClient {
    pub client: Arc<Client>,
    /// The client that is told in its place.
    pub redirect: Option<Arc<Client>>,
    /// It is not told of its own changes.
    pub no_loop: bool,
    pub is_broadcast: bool,
    /// The database of both.
    pub database: Box<str>,
}

/// The tracking connections of a database, by the ids of their clients.
#[derive(Debug, Default)]
pub struct TrackingClients(RwLock<HashMap<u64, Arc<TrackingClient>>>);

impl TrackingClients {
    pub fn insert(&self, tracking: TrackingClient) {
        self.0.write().insert(tracking.client.id, Arc::new(tracking));
    }

    pub fn remove(&self, client: u64) {
        self.0.write().remove(&client);
    }

    pub fn get(&self, client: u64) -> Option<Arc<TrackingClient>> {
        self.0.read().get(&client).cloned()
    }

    pub fn all(&self) -> Vec<Arc<TrackingClient>> {
        self.0.read().values().cloned().collect()
    }
}

/// How much a client may leave unread.
#[derive(Debug, Clone, Copy)]
pub struct TellLimits {
    pub normal: OutputLimit,
    pub subscriber: OutputLimit,
    pub now_ms: u64,
}

/// Encodes keys as an array.
pub fn encode<'k>(keys: impl ExactSizeIterator<Item = &'k [u8]>) -> Vec<u8> {
    let mut reply = Reply::new(Version::Resp3);
    reply.array(keys.len());
    keys.for_each(|key| reply.bulk(key));
    std::mem::take(&mut reply.buffer)
}

impl TrackingClient {
    /// Tells the client, or the one that it has named, what to forget: keys as an [encoded](encode) array; `None`: all.
    pub fn tell(&self, keys: Option<&[u8]>, limits: TellLimits) {
        let target = match &self.redirect {
            Some(target) if target.is_gone() || *target.told.lock().database != *self.database => {
                self.report_broken(target.id, limits);
                return;
            }
            Some(target) => target,
            None => &self.client,
        };
        let is_resp3 = target.resp.load(Ordering::Relaxed) == 3;
        let mut reply = Reply::new(if is_resp3 { Version::Resp3 } else { Version::Resp2 });
        if is_resp3 {
            reply.push(2);
            reply.bulk(b"invalidate");
        } else if self.redirect.is_some() && target.is_subscriber() {
            reply.push(3);
            reply.bulk(b"message");
            reply.bulk(b"__redis__:invalidate");
        } else {
            // RESP2 has no pushes.
            return;
        }
        match keys {
            Some(keys) => reply.raw(keys),
            None => reply.null(),
        }
        limits.send(target, &reply.buffer);
    }

    fn report_broken(&self, target: u64, limits: TellLimits) {
        self.client.tracking.fetch_or(IS_BROKEN, Ordering::Relaxed);
        if self.client.resp.load(Ordering::Relaxed) == 3 {
            let mut reply = Reply::new(Version::Resp3);
            reply.push(2);
            reply.bulk(b"tracking-redir-broken");
            reply.integer(target as i64);
            limits.send(&self.client, &reply.buffer);
        }
    }
}

impl TellLimits {
    fn send(&self, client: &Client, message: &[u8]) {
        let limit = if client.is_subscriber() { self.subscriber } else { self.normal };
        client.tell(message, limit, self.now_ms);
    }
}
