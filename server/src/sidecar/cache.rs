//! The near cache: replies to reads, kept while the upstream server tells of changes of their keys.
//!
//! Invariant: a copy is of a moment after the last known change of its key. A read and a change may cross on their way, so a
//! read that is under way is a [`Fetch`]: its reply is kept only if its key has not changed since it was sent.

use std::collections::HashMap;

use bytes::Bytes;
use dormouse_protocol::Version;
use lru::LruCache;
use smallvec::SmallVec;

/// The largest reply that is kept.
const REPLY_BYTES_MAX: usize = 64 << 10;
/// The most different reads of one key that are kept.
const REPLIES_MAX: usize = 16;
/// Overhead of a key and of a reply, about, in bytes.
const KEY_OVERHEAD: usize = 160;
const REPLY_OVERHEAD: usize = 64;

/// A read under way.
#[derive(Debug)]
pub struct Fetch {
    key: Box<[u8]>,
    version: Version,
    request: Bytes,
    since: u64,
}

/// Replies by key and request, the least recently used of which are dropped.
#[derive(Debug)]
pub struct Cache {
    keys: LruCache<Box<[u8]>, Copies>,
    bytes: usize,
    bytes_max: usize,
    /// The keys of the reads that are under way.
    fetches: HashMap<Box<[u8]>, Underway>,
    /// Counts changes.
    changes: u64,
    /// The change at which everything changed.
    cleared_at: u64,
    hits: u64,
}

#[derive(Debug, Default)]
struct Copies(SmallVec<[Copy; 1]>);

/// A reply, which is another one in the other version of the protocol.
#[derive(Debug)]
struct Copy {
    version: Version,
    request: Bytes,
    reply: Bytes,
}

impl Copy {
    fn is_of(&self, version: Version, request: &[u8]) -> bool {
        self.version == version && self.request == request
    }
}

#[derive(Debug, Default)]
struct Underway {
    reads: usize,
    changed_at: u64,
}

impl Copies {
    fn bytes(&self, key: &[u8]) -> usize {
        let replies = self.0.iter().map(|copy| copy.request.len() + copy.reply.len() + REPLY_OVERHEAD);
        key.len() + KEY_OVERHEAD + replies.sum::<usize>()
    }
}

impl Cache {
    /// An empty cache that keeps about `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        let (keys, fetches) = (LruCache::unbounded(), HashMap::new());
        Self { keys, bytes: 0, bytes_max, fetches, changes: 0, cleared_at: 0, hits: 0 }
    }

    /// The reply to a request about `key`, if it is known.
    pub fn find(&mut self, key: &[u8], version: Version, request: &[u8]) -> Option<Bytes> {
        let copy = self.keys.get(key)?.0.iter().find(|copy| copy.is_of(version, request))?;
        self.hits += 1;
        Some(copy.reply.clone())
    }

    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn hits(&self) -> u64 {
        self.hits
    }

    /// Begins a read: `request` has been sent. It has to be ended.
    pub fn begin(&mut self, key: &[u8], version: Version, request: Bytes) -> Fetch {
        self.fetches.entry(key.into()).or_default().reads += 1;
        Fetch { key: key.into(), version, request, since: self.changes }
    }

    /// Ends a read, with its reply if it may be kept.
    pub fn end(&mut self, fetch: Fetch, reply: Option<&[u8]>) {
        let mut changed_at = self.cleared_at;
        if let Some(underway) = self.fetches.get_mut(&fetch.key) {
            underway.reads -= 1;
            changed_at = changed_at.max(underway.changed_at);
            if underway.reads == 0 {
                self.fetches.remove(&fetch.key);
            }
        }
        match reply {
            Some(reply) if changed_at <= fetch.since && reply.len() <= REPLY_BYTES_MAX => self.keep(fetch, reply),
            _ => {}
        }
    }

    /// Forgets a key: it changes now.
    pub fn changed(&mut self, key: &[u8]) {
        self.changes += 1;
        if let Some(underway) = self.fetches.get_mut(key) {
            underway.changed_at = self.changes;
        }
        if let Some((key, copies)) = self.keys.pop_entry(key) {
            self.bytes -= copies.bytes(&key);
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.changes += 1;
        self.cleared_at = self.changes;
        self.keys.clear();
        self.bytes = 0;
    }

    fn keep(&mut self, fetch: Fetch, reply: &[u8]) {
        let Fetch { key, version, request, .. } = fetch;
        // Both are parts of buffers that they were read into, which must not live as long.
        let copy = Copy { version, request: Bytes::copy_from_slice(&request), reply: Bytes::copy_from_slice(reply) };
        let mut copies = self.keys.pop(&key).unwrap_or_default();
        if !copies.0.is_empty() {
            self.bytes -= copies.bytes(&key);
        }
        copies.0.retain(|known| !known.is_of(version, &request));
        if copies.0.len() == REPLIES_MAX {
            copies.0.remove(0);
        }
        copies.0.push(copy);
        self.bytes += copies.bytes(&key);
        self.keys.put(key, copies);
        while self.bytes > self.bytes_max {
            let Some((key, copies)) = self.keys.pop_lru() else { break };
            self.bytes -= copies.bytes(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(key: &str) -> Bytes {
        Bytes::from(format!("GET {key}"))
    }

    fn filled(cache: &mut Cache, key: &str, reply: &str) {
        let fetch = cache.begin(key.as_bytes(), Version::Resp2, get(key));
        cache.end(fetch, Some(reply.as_bytes()));
    }

    fn found(cache: &mut Cache, key: &str) -> Option<String> {
        let reply = cache.find(key.as_bytes(), Version::Resp2, &get(key))?;
        Some(String::from_utf8_lossy(&reply).into_owned())
    }

    #[test]
    fn a_copy_lasts_until_its_key_changes() {
        let mut cache = Cache::new(1 << 20);
        filled(&mut cache, "a", "1");
        filled(&mut cache, "b", "2");
        assert_eq!(found(&mut cache, "a").as_deref(), Some("1"));
        assert_eq!(cache.find(b"a", Version::Resp2, b"STRLEN a"), None);
        assert_eq!(cache.find(b"a", Version::Resp3, &get("a")), None);
        cache.changed(b"a");
        assert_eq!((found(&mut cache, "a"), found(&mut cache, "b").as_deref()), (None, Some("2")));
        cache.clear();
        assert_eq!((found(&mut cache, "b"), cache.bytes(), cache.keys()), (None, 0, 0));
    }

    #[test]
    fn a_reply_that_a_change_has_overtaken_is_not_kept() {
        let mut cache = Cache::new(1 << 20);
        let (early, late) = (cache.begin(b"a", Version::Resp2, get("a")), cache.begin(b"a", Version::Resp2, get("a")));
        cache.changed(b"a");
        let after = cache.begin(b"a", Version::Resp2, get("a"));
        cache.end(early, Some(b"old"));
        cache.end(late, Some(b"old"));
        assert_eq!(found(&mut cache, "a"), None);
        cache.end(after, Some(b"new"));
        assert_eq!(found(&mut cache, "a").as_deref(), Some("new"));
        let fetch = cache.begin(b"b", Version::Resp2, get("b"));
        cache.clear();
        cache.end(fetch, Some(b"old"));
        assert_eq!((found(&mut cache, "b"), cache.fetches.len()), (None, 0));
        let refused = cache.begin(b"c", Version::Resp2, get("c"));
        cache.end(refused, None);
        assert_eq!(found(&mut cache, "c"), None);
    }

    #[test]
    fn the_least_recently_used_keys_make_room() {
        let mut cache = Cache::new(3 * (1 + KEY_OVERHEAD + 5 + 100 + REPLY_OVERHEAD));
        let reply = "x".repeat(100);
        for key in ["a", "b", "c"] {
            filled(&mut cache, key, &reply);
        }
        assert!(found(&mut cache, "a").is_some());
        filled(&mut cache, "d", &reply);
        let kept: Vec<bool> = ["a", "b", "c", "d"].map(|key| found(&mut cache, key).is_some()).into();
        assert_eq!(kept, [true, false, true, true]);
        filled(&mut cache, "e", &"x".repeat(REPLY_BYTES_MAX + 1));
        assert_eq!((found(&mut cache, "e"), cache.keys()), (None, 3));
    }

    /// Against a store that changes at random, whose news of changes come late but in order.
    #[test]
    fn a_copy_is_never_older_than_the_last_news() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut cache = Cache::new(4000);
        let keys = ["a", "b", "c", "d", "e"];
        let mut versions = [0_u64; 5];
        // What is on its way from the server: replies and news in one order, as over one connection.
        enum Message {
            Reply(Fetch, u64),
            Changed(usize),
        }
        let mut inbound = std::collections::VecDeque::new();
        let mut told = [0_u64; 5];
        for _ in 0..50_000 {
            let at = random.usize(..keys.len());
            match random.u8(..6) {
                0 => {
                    versions[at] += 1;
                    inbound.push_back((Message::Changed(at), versions[at]));
                }
                1 => {
                    let fetch = cache.begin(keys[at].as_bytes(), Version::Resp2, get(keys[at]));
                    inbound.push_back((Message::Reply(fetch, versions[at]), versions[at]));
                }
                2..=4 => match inbound.pop_front() {
                    Some((Message::Changed(at), version)) => {
                        cache.changed(keys[at].as_bytes());
                        told[at] = version;
                    }
                    Some((Message::Reply(fetch, version), _)) => {
                        cache.end(fetch, Some(version.to_string().as_bytes()));
                    }
                    None => {}
                },
                _ => {
                    if let Some(copy) = found(&mut cache, keys[at]) {
                        assert!(copy.parse::<u64>().unwrap() >= told[at]);
                    }
                }
            }
            assert!(cache.bytes() <= 4000);
        }
        assert!(cache.hits() > 100);
    }
}
