//! What is set per database and read on the path of commands.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use dormouse_storage::codec::value::pieces::Sizes;
use dormouse_storage::log::Journal;
use dormouse_storage::shown::ALL_INDEXES;
use dormouse_types::Limits;
use dormouse_types::segment::SlotPlacement;
use parking_lot::Mutex;

use super::graveyard::Parked;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    NoEviction,
    AllKeysLru,
    AllKeysRandom,
    VolatileLru,
    VolatileRandom,
    VolatileTtl,
}

#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub limits: Limits,
    /// Bytes; 0: no limit.
    pub memory_max: usize,
    pub eviction: Eviction,
    pub eviction_samples: usize,
    /// How checkpoints write large values.
    pub sizes: Sizes,
}

impl Settings {
    pub fn new(seed: u64) -> Self {
        Self {
            limits: Limits { seed, ..Limits::default() },
            memory_max: 0,
            eviction: Eviction::NoEviction,
            eviction_samples: 5,
            sizes: Sizes::DEFAULT,
        }
    }
}

/// What all shards of a database share.
#[derive(Debug)]
pub struct Shared {
    pub name: Box<str>,
    pub placement: SlotPlacement,
    pub settings: ArcSwap<Settings>,
    /// The number of the last entry in the log.
    pub sequence: AtomicU64,
    /// Where batches leave their effects.
    pub journal: Journal,
    /// The next keyspace id that a flush takes.
    pub next_id: AtomicU32,
    /// Bytes of memory over all shards, as each last published.
    pub used: AtomicUsize,
    /// Keys, and keys with an expiry, of each logical index over all shards, as each last published.
    pub counts: [(AtomicUsize, AtomicUsize); ALL_INDEXES],
    /// Most bytes that the databases of its family (a database and its branches) leave to it; [`usize::MAX`]: as many as its
    /// settings say.
    pub family_left: AtomicUsize,
    /// What eviction without a command draws its chances from.
    pub chance: AtomicU64,
    pub watches: Watches,
    pub parked: Parked,
    pub expired: AtomicU64,
    pub evicted: AtomicU64,
    /// A bit for each logical index, the staged ones included, whose keys do not expire by this server's clock. It changes
    /// only under all locks of the database.
    pub followed: AtomicU32,
}

impl Shared {
    pub fn new(name: &str, seed: u64) -> Self {
        Self {
            name: name.into(),
            placement: SlotPlacement { seed },
            settings: ArcSwap::from_pointee(Settings::new(seed)),
            sequence: AtomicU64::new(0),
            journal: Journal::none(),
            next_id: AtomicU32::new(super::INDEXES as u32),
            used: AtomicUsize::new(0),
            counts: std::array::from_fn(|_| Default::default()),
            family_left: AtomicUsize::new(usize::MAX),
            chance: AtomicU64::new(seed),
            watches: Watches::default(),
            parked: Parked::default(),
            expired: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            followed: AtomicU32::new(0),
        }
    }

    /// Whether the keys of a logical index expire when their source says so, and not before.
    pub fn is_followed(&self, select: u8) -> bool {
        self.followed.load(Ordering::Relaxed) >> select & 1 != 0
    }

    /// Most bytes of data that it may have now; `None`: no limit.
    pub fn memory_max(&self, settings: &Settings) -> Option<usize> {
        let own = Some(settings.memory_max).filter(|max| *max > 0)?;
        Some(own.min(self.family_left.load(Ordering::Relaxed)))
    }

    /// Whether memory is over its limit, and nothing may be evicted.
    pub fn is_full(&self) -> bool {
        let settings = self.settings.load();
        settings.eviction == Eviction::NoEviction
            && self.memory_max(&settings).is_some_and(|max| self.used.load(Ordering::Relaxed) > max)
    }
}

type Watched = HashMap<(u8, Box<[u8]>), Vec<Arc<AtomicBool>>>;

/// Who watches which key. It belongs to the database, not to a shard, so that a watch survives split, sleep and wake.
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

    /// `key` was changed: whoever watches it fails at EXEC. Costs one load where nobody watches anything.
    pub fn touch(&self, select: u8, key: &[u8]) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        if let Some(flags) = self.map.lock().get(&(select, Box::from(key))) {
            flags.iter().for_each(|flag| flag.store(true, Ordering::SeqCst));
        }
    }

    /// What `look` finds at some watched key.
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

    /// Every key of the logical indexes that `which` chooses was changed, if `exists` says it was there.
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
