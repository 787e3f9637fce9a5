//! Waiting: how a command says that it waits for a key, and how the keyspace notices that such a key has changed.
//!
//! 1. A blocking command that finds nothing calls [`Keyspace::wait`], if [`Keyspace::may_wait`] says that its caller can
//!    wait. Otherwise it replies at once, as in a transaction.
//! 2. The executor registers the client as a waiter, and the keys in [`Interest`].
//! 3. Every later change of such a key notes it as [ready](Keyspace::take_ready). After the command that has made the change,
//!    the executor runs the commands of the key's waiters again, under the same locks. Such a command sees only the
//!    [ready key](Keyspace::looks_at), since the shards of its other keys may not be held.
//!
//! Invariant: a key with waiters is counted in [`Interest`] from before its waiter's locks are released until the
//! waiter is gone, so no change of it passes unnoticed.

use std::hash::{BuildHasher, Hash, RandomState};
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use dormouse_protocol::OwnedRequest;
use dormouse_types::ObjectRef;
use dormouse_types::record::Value;
use parking_lot::Mutex;

use super::Keyspace;
use crate::error::{Error, Result};

/// The kind of value that a waiter waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Offer {
    List,
    SortedSet,
    /// Entries of a stream.
    Stream,
    /// Entries for a consumer group. Its waiters are also told when the stream or the group is gone.
    Group,
}

/// A command's wish to wait.
#[derive(Debug)]
pub struct Wait {
    pub wanted: Offer,
    /// For how long, in milliseconds; `None`: until it is served.
    pub timeout_ms: Option<u64>,
    /// It waits for its first key only, and moves what it finds there to its other key.
    pub moves: bool,
    /// The request to run instead when a key is ready: `XREAD` has replaced `$` by the id at which it began to wait.
    pub again: Option<OwnedRequest>,
    /// Unix milliseconds at which it has to look again even if nothing changes: a pending entry may be claimed then.
    pub look_at_ms: Option<u64>,
}

impl Wait {
    pub fn new(wanted: Offer, timeout_ms: Option<u64>) -> Self {
        Self { wanted, timeout_ms, moves: false, again: None, look_at_ms: None }
    }
}

/// Whether a command may wait, and which keys it looks at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Asked {
    /// It must reply now.
    #[default]
    Now,
    /// The same, by a script.
    ByScript,
    /// It may wait if it finds nothing.
    MayWait,
    /// It has waited, and runs again with all of its keys.
    Again,
    /// It has waited, and runs again with the key that is ready.
    Ready(Box<[u8]>),
}

/// A key that a waiter may find ready. Only waiters with higher numbers than `after` are looked at: the others have
/// been.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyKey {
    pub select: u8,
    pub key: Box<[u8]>,
    pub after: u64,
}

/// Counters of [`Interest`]. Keys that share one are looked up in vain now and then.
const COUNTERS: usize = 1024;

/// The keys that clients of a database wait for, as counts by hash: a change of any other key costs a load or two, and
/// touches no lock.
#[derive(Debug)]
pub struct Interest {
    waited: AtomicU32,
    counters: Box<[AtomicU32]>,
    hasher: RandomState,
    /// Keys that have changed without a command, by expiry or eviction, and whole indexes.
    stirred: Mutex<Stirred>,
    is_stirred: AtomicBool,
}

/// Keys and indexes whose waiters must look again.
#[derive(Debug, Default)]
pub struct Stirred {
    pub keys: Vec<(u8, Box<[u8]>)>,
    /// A bit for each logical index.
    pub indexes: u32,
}

impl Default for Interest {
    fn default() -> Self {
        Self {
            waited: AtomicU32::new(0),
            counters: (0..COUNTERS).map(|_| AtomicU32::new(0)).collect(),
            hasher: RandomState::new(),
            stirred: Mutex::default(),
            is_stirred: AtomicBool::new(false),
        }
    }
}

impl Interest {
    fn counter(&self, select: u8, key: &[u8]) -> &AtomicU32 {
        let mut hasher = self.hasher.build_hasher();
        (select, key).hash(&mut hasher);
        &self.counters[std::hash::Hasher::finish(&hasher) as usize % COUNTERS]
    }

    pub fn add(&self, select: u8, key: &[u8]) {
        self.counter(select, key).fetch_add(1, Ordering::SeqCst);
        self.waited.fetch_add(1, Ordering::SeqCst);
    }

    pub fn remove(&self, select: u8, key: &[u8]) {
        self.counter(select, key).fetch_sub(1, Ordering::SeqCst);
        self.waited.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether any key is waited for.
    #[inline]
    pub fn is_any(&self) -> bool {
        self.waited.load(Ordering::Relaxed) > 0
    }

    /// Whether this key may be waited for.
    fn has(&self, select: u8, key: &[u8]) -> bool {
        self.counter(select, key).load(Ordering::Relaxed) > 0
    }

    /// Notes a change that no command has made.
    pub(super) fn stir(&self, select: u8, key: &[u8]) {
        if self.is_any() && self.has(select, key) {
            self.stirred.lock().keys.push((select, key.into()));
            self.is_stirred.store(true, Ordering::SeqCst);
        }
    }

    /// Notes that logical indexes, a bit for each, show other keys than before.
    pub(super) fn stir_indexes(&self, indexes: u32) {
        if self.is_any() {
            self.stirred.lock().indexes |= indexes;
            self.is_stirred.store(true, Ordering::SeqCst);
        }
    }

    /// Takes the notes since the last call.
    #[inline]
    pub fn take_stirred(&self) -> Option<Stirred> {
        if !self.is_stirred.load(Ordering::Relaxed) {
            return None;
        }
        self.is_stirred.store(false, Ordering::SeqCst);
        Some(mem::take(&mut self.stirred.lock()))
    }
}

impl Keyspace<'_> {
    /// How the commands that follow were asked for. By default they must reply at once.
    pub fn ask(&mut self, asked: Asked) -> Asked {
        mem::replace(&mut self.asked, asked)
    }

    /// Whether a command that finds nothing may [wait](Self::wait).
    pub fn may_wait(&self) -> bool {
        !matches!(self.asked, Asked::Now | Asked::ByScript)
    }

    /// Whether a script has called the command.
    pub fn is_called_by_script(&self) -> bool {
        self.asked == Asked::ByScript
    }

    /// Whether the command has waited already.
    pub fn has_waited(&self) -> bool {
        matches!(self.asked, Asked::Again | Asked::Ready(_))
    }

    /// Whether the command looks at `key`: it may run for another key that is ready.
    pub fn looks_at(&self, key: &[u8]) -> bool {
        match &self.asked {
            Asked::Ready(ready) => **ready == *key,
            _ => true,
        }
    }

    /// The result of a look at a key, for a command that waits: to a waiter, a key of another type is like none.
    ///
    /// # Errors
    /// Those of `found`, if the command has not waited yet.
    pub fn found_waiting<T>(&self, found: Result<Option<T>>) -> Result<Option<T>> {
        match found {
            Err(Error::WrongType) if self.has_waited() => Ok(None),
            found => found,
        }
    }

    /// The command found nothing and waits: it writes no reply.
    pub fn wait(&mut self, wait: Wait) {
        debug_assert!(self.may_wait(), "a command waits whose caller does not");
        self.wait = Some(Box::new(wait));
    }

    /// The wish of the last command to wait.
    #[inline]
    pub fn take_wait(&mut self) -> Option<Box<Wait>> {
        self.wait.take()
    }

    #[inline]
    pub fn has_wait(&self) -> bool {
        self.wait.is_some()
    }

    /// Notes a change of `key` in the selected index.
    #[inline]
    pub(super) fn note_ready(&mut self, key: &[u8]) {
        if self.shared.interest.is_any() {
            self.note_waited(key);
        }
    }

    #[cold]
    fn note_waited(&mut self, key: &[u8]) {
        let select = self.select;
        let is_noted = self.ready.last().is_some_and(|last| last.select == select && *last.key == *key);
        if self.shared.interest.has(select, key) && !is_noted {
            self.ready.push(ReadyKey { select, key: key.into(), after: 0 });
        }
    }

    /// Whether keys have become ready.
    #[inline]
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The keys that have changed since the last call, in order, as far as they may be waited for.
    pub fn take_ready(&mut self) -> Vec<ReadyKey> {
        mem::take(&mut self.ready)
    }

    /// Notes a key for [`Self::take_ready`].
    pub fn add_ready(&mut self, ready: ReadyKey) {
        self.ready.push(ready);
    }

    /// Whether the shard of `key` is held.
    pub fn holds(&self, key: &[u8]) -> bool {
        let position = self.position(key);
        self.shards[self.shard_at(position)].covers((position >> 50) as u16)
    }

    /// The kind of value under `key` in a logical index that a waiter may want; no trace is left.
    pub fn offered_in(&mut self, select: u8, key: &[u8]) -> Option<Offer> {
        self.select = select;
        match self.peek(key)? {
            Value::Object(ObjectRef::List(_)) => Some(Offer::List),
            Value::Object(ObjectRef::SortedSet(_)) => Some(Offer::SortedSet),
            Value::Object(ObjectRef::Stream(_)) => Some(Offer::Stream),
            _ => None,
        }
    }
}
