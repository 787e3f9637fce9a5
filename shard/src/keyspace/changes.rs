//! Who is told of a change: the clients that watch keys.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

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
