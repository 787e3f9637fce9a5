//! Changes: the one function that every change of a key passes through, and its receivers.
//!
//! [`Shared::changed`] is called after each change of a key, by the keyspace's primitives and by nothing else, with a
//! [`KeyEvent`]: the name and the class that Redis gives it in keyspace notifications. A command's row names the event
//! of its changes; the keyspace itself names those of a deleted, expired or evicted key. A change notifies:
//!
//! 1. the transactions that watch the key ([`Watches`]),
//! 2. the [`Listener`] of the database, if it has one,
//! 3. the subscribers to such events, by way of [`notices`](super::notices).
//!
//! Invariant: the events of a command, and their order, are those of Redis. `tests/data/keyspace-events.txt` has them.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, MutexGuard};

/// The class of an event, which a client of keyspace notifications chooses by its letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventClass {
    Generic,
    String,
    List,
    Set,
    Hash,
    SortedSet,
    Stream,
    Expired,
    Evicted,
    /// A read has looked for a key in vain.
    KeyMiss,
    /// A key has come into being.
    New,
    /// Events of the types that other servers have in modules: documents of JSON.
    Module,
    Array,
    /// The whole value of a key was replaced.
    Overwritten,
    /// The same, by a value of another type.
    TypeChanged,
}

impl EventClass {
    /// The letter in `notify-keyspace-events`.
    pub const fn letter(self) -> char {
        match self {
            Self::Generic => 'g',
            Self::String => '$',
            Self::List => 'l',
            Self::Set => 's',
            Self::Hash => 'h',
            Self::SortedSet => 'z',
            Self::Stream => 't',
            Self::Expired => 'x',
            Self::Evicted => 'e',
            Self::KeyMiss => 'm',
            Self::New => 'n',
            Self::Module => 'd',
            Self::Array => 'a',
            Self::Overwritten => 'o',
            Self::TypeChanged => 'c',
        }
    }
}

/// A change of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyEvent {
    pub class: EventClass,
    /// Redis's name for it.
    pub name: &'static str,
}

impl KeyEvent {
    pub const DEL: Self = Self::new(EventClass::Generic, "del");
    pub const EXPIRE: Self = Self::new(EventClass::Generic, "expire");
    pub const EXPIRED: Self = Self::new(EventClass::Expired, "expired");
    pub const HDEL: Self = Self::hash("hdel");
    pub const HEXPIRE: Self = Self::hash("hexpire");
    pub const HEXPIRED: Self = Self::hash("hexpired");
    pub const HSET: Self = Self::hash("hset");
    pub const HPERSIST: Self = Self::hash("hpersist");
    pub const KEY_MISS: Self = Self::new(EventClass::KeyMiss, "keymiss");
    pub const NEW: Self = Self::new(EventClass::New, "new");
    pub const EVICTED: Self = Self::new(EventClass::Evicted, "evicted");
    pub const OVERWRITTEN: Self = Self::new(EventClass::Overwritten, "overwritten");
    pub const TYPE_CHANGED: Self = Self::new(EventClass::TypeChanged, "type_changed");

    pub const fn new(class: EventClass, name: &'static str) -> Self {
        Self { class, name }
    }

    pub const fn generic(name: &'static str) -> Self {
        Self::new(EventClass::Generic, name)
    }

    pub const fn string(name: &'static str) -> Self {
        Self::new(EventClass::String, name)
    }

    pub const fn list(name: &'static str) -> Self {
        Self::new(EventClass::List, name)
    }

    pub const fn set(name: &'static str) -> Self {
        Self::new(EventClass::Set, name)
    }

    pub const fn hash(name: &'static str) -> Self {
        Self::new(EventClass::Hash, name)
    }

    pub const fn stream(name: &'static str) -> Self {
        Self::new(EventClass::Stream, name)
    }

    pub const fn array(name: &'static str) -> Self {
        Self::new(EventClass::Array, name)
    }

    pub const fn sorted_set(name: &'static str) -> Self {
        Self::new(EventClass::SortedSet, name)
    }
}

/// A callback that receives every change of a key: the event, the logical index and the key. It is called under the
/// lock of the key's shard.
pub type Listen = Box<dyn Fn(KeyEvent, u8, &[u8]) + Send + Sync>;

/// The listener of a database.
#[derive(Default)]
pub struct Listener(OnceLock<Listen>);

impl Listener {
    pub(super) fn tell(&self, event: KeyEvent, select: u8, key: &[u8]) {
        if let Some(listen) = self.0.get() {
            listen(event, select, key);
        }
    }

    /// Sends every change to `listen` from now on. A database has one listener, so a second one is handed back.
    ///
    /// # Errors
    /// When the database has a listener already.
    pub fn set(&self, listen: Listen) -> Result<(), Listen> {
        self.0.set(listen)
    }
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Listener")
    }
}

type Watched = HashMap<(u8, Box<[u8]>), Vec<Arc<AtomicBool>>>;

/// The watchers of each key. It belongs to the database, not to a shard, so that a watch survives split, sleep and
/// wake.
#[derive(Debug, Default)]
pub struct Watches {
    count: AtomicUsize,
    map: Mutex<Watched>,
}

impl Watches {
    pub fn add(&self, select: u8, key: &[u8], flag: &Arc<AtomicBool>) {
        let mut map = self.map.lock();
        map.entry((select, key.into())).or_default().push(Arc::clone(flag));
        self.count.store(map.len(), Ordering::SeqCst);
    }

    pub fn remove(&self, select: u8, key: &[u8], flag: &Arc<AtomicBool>) {
        let mut map = self.map.lock();
        let watched = (select, Box::from(key));
        if let Some(flags) = map.get_mut(&watched) {
            flags.retain(|other| !Arc::ptr_eq(other, flag));
            if flags.is_empty() {
                map.remove(&watched);
            }
        }
        self.count.store(map.len(), Ordering::SeqCst);
    }

    /// Fails the transactions that watch `key`. Costs one load if no key is watched.
    #[inline]
    pub(super) fn touch(&self, select: u8, key: &[u8]) {
        if self.count.load(Ordering::Relaxed) > 0 {
            self.fail(select, key);
        }
    }

    fn fail(&self, select: u8, key: &[u8]) {
        if let Some(flags) = self.map.lock().get(&(select, Box::from(key))) {
            flags.iter().for_each(|flag| flag.store(true, Ordering::SeqCst));
        }
    }

    /// The first result of `look` at a watched key.
    pub fn find<R>(&self, mut look: impl FnMut(u8, &[u8]) -> Option<R>) -> Option<R> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        self.map.lock().keys().find_map(|(select, key)| look(*select, key))
    }

    /// The watched keys of a logical index.
    pub fn keys(&self, of: u8) -> Vec<Box<[u8]>> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        self.map.lock().keys().filter(|(select, _)| *select == of).map(|(_, key)| key.clone()).collect()
    }

    /// Fails the watches of keys for which `changed` answers true, in the logical indexes that `which` chooses.
    pub fn touch_all(&self, which: impl Fn(u8) -> bool, mut changed: impl FnMut(u8, &[u8]) -> bool) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        for ((select, key), flags) in self.map.lock().iter() {
            if which(*select) && changed(*select, key) {
                flags.iter().for_each(|flag| flag.store(true, Ordering::SeqCst));
            }
        }
    }
}

/// The keys that a client watches for its next transaction. Dropping it ends the watches, on whichever thread the last
/// command that needs it has run.
#[derive(Debug)]
pub struct Watching {
    watches: Arc<Watches>,
    touched: Arc<AtomicBool>,
    keys: Mutex<WatchedKeys>,
}

/// Keys, each with its logical index.
pub type WatchedKeys = BTreeSet<(u8, Box<[u8]>)>;

impl Watching {
    pub fn new(watches: &Arc<Watches>) -> Arc<Self> {
        Arc::new(Self { watches: Arc::clone(watches), touched: Arc::default(), keys: Mutex::default() })
    }

    /// Watches `key` from now on. Its shard must be held.
    pub fn watch(&self, select: u8, key: &[u8]) {
        if self.keys.lock().insert((select, key.into())) {
            self.watches.add(select, key, &self.touched);
        }
    }

    /// Whether one of the keys has changed.
    pub fn is_touched(&self) -> bool {
        self.touched.load(Ordering::SeqCst)
    }

    pub fn keys(&self) -> MutexGuard<'_, WatchedKeys> {
        self.keys.lock()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let keys = std::mem::take(self.keys.get_mut());
        keys.iter().for_each(|(select, key)| self.watches.remove(*select, key, &self.touched));
    }
}
