//! Settings per database that commands read.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use dormouse_storage::codec::value::pieces::Sizes;
use dormouse_storage::log::{Journal, Lsn};
use dormouse_storage::replay::Stored;
use dormouse_storage::shown::ALL_INDEXES;
use dormouse_types::Limits;
use dormouse_types::record::Record;
use dormouse_types::segment::{Range53, SlotPlacement};

use super::changes::{KeyEvent, Listener, Watches};
use super::damage::CheckpointDamage;
use super::functions::Functions;
use super::graveyard::{Dead, Graveyard, Parked};
use super::notices::{Noted, Notices};
use super::outbox::{Outbox, TriggerQueue};
use super::place::Place;
use super::scripts::Scripts;
use super::tracking::Tracking;
use super::waiting::Interest;
use crate::error::{Error, Result};
use crate::memory::{MEMORY, Memory};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    NoEviction,
    AllKeysLfu,
    AllKeysLrm,
    AllKeysLru,
    AllKeysRandom,
    VolatileLfu,
    VolatileLrm,
    VolatileLru,
    VolatileRandom,
    VolatileTtl,
}

/// How the counters of policies by frequency move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LfuSettings {
    /// The higher, the more uses raise a counter by one.
    pub log_factor: u32,
    /// Minutes without a use after which a counter falls by one; 0: it never falls.
    pub decay_minutes: u32,
}

impl LfuSettings {
    /// Redis's defaults.
    pub const REDIS: Self = Self { log_factor: 10, decay_minutes: 1 };
}

/// The operator's limits on single records, for commands that may add to them. [`usize::MAX`]: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordLimits {
    pub key_bytes_max: usize,
    /// A string, or a whole collection.
    pub value_bytes_max: usize,
}

impl RecordLimits {
    pub const NONE: Self = Self { key_bytes_max: usize::MAX, value_bytes_max: usize::MAX };
}

#[derive(Debug, Clone, Copy)]
pub struct EngineSettings {
    pub limits: Limits,
    /// Bytes; 0: no limit.
    pub memory_max: usize,
    pub records: RecordLimits,
    pub eviction: Eviction,
    pub eviction_samples: usize,
    pub lfu: LfuSettings,
    /// How checkpoints write large values.
    pub sizes: Sizes,
}

impl EngineSettings {
    pub fn new(seed: u64) -> Self {
        Self {
            limits: Limits { seed, ..Limits::default() },
            memory_max: 0,
            records: RecordLimits::NONE,
            eviction: Eviction::NoEviction,
            eviction_samples: 5,
            lfu: LfuSettings::REDIS,
            sizes: Sizes::DEFAULT,
        }
    }
}

/// Reads the places that replace a stored one of a keyspace, while the caller waits.
pub struct Loader(Box<ReadPlaces>);

type ReadPlaces = dyn Fn(u32, Range53, &Arc<Stored>) -> Result<Vec<Place>> + Send + Sync;

impl Loader {
    pub fn new(read: impl Fn(u32, Range53, &Arc<Stored>) -> Result<Vec<Place>> + Send + Sync + 'static) -> Self {
        Self(Box::new(read))
    }

    /// # Errors
    /// When the place cannot be read.
    pub fn read(&self, keyspace: u32, range: Range53, stored: &Arc<Stored>) -> Result<Vec<Place>> {
        self.0(keyspace, range, stored)
    }
}

impl fmt::Debug for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Loader")
    }
}

/// State shared by all shards of a database.
#[derive(Debug)]
pub struct Shared {
    pub name: Box<str>,
    pub placement: SlotPlacement,
    pub settings: ArcSwap<EngineSettings>,
    /// The number of the last entry in the log.
    pub sequence: AtomicU64,
    /// Changes that commands have made, since the start.
    pub changes: AtomicU64,
    /// The journal for the effects of batches.
    pub journal: Journal,
    /// The next keyspace id that a flush takes.
    pub next_id: AtomicU32,
    /// Bytes of memory over all shards, as each last published.
    pub used: AtomicUsize,
    /// Keys, and keys with an expiry, of each logical index over all shards, as each last published.
    pub counts: [(AtomicUsize, AtomicUsize); ALL_INDEXES],
    /// Most bytes that the databases of its family (a database and its branches) leave to it; [`usize::MAX`]: as many
    /// as its settings say.
    pub family_left: AtomicUsize,
    /// The memory of the process.
    pub memory: &'static Memory,
    /// The source of chance for eviction without a command.
    pub chance: AtomicU64,
    /// The end in the log of the last write that replies wait for.
    pub told: AtomicU64,
    pub watches: Arc<Watches>,
    pub interest: Interest,
    pub listener: Listener,
    pub notices: Notices,
    pub outbox: Outbox,
    pub tracking: Tracking,
    pub parked: Parked,
    /// The damage that keeps it from being stored.
    pub damage: CheckpointDamage,
    /// Fewer replicas than the settings ask for have been heard of lately, so clients may not write.
    pub lacks_replicas: AtomicBool,
    pub scripts: Scripts,
    pub functions: Functions,
    /// Reads a place for a caller that holds its shard's lock. `None`: the database has no store.
    pub loader: OnceLock<Loader>,
    pub expired: AtomicU64,
    /// Fields of hashes that have expired, since the start.
    pub expired_fields: AtomicU64,
    pub evicted: AtomicU64,
    /// Requests that were answered from a receipt, since the start.
    pub repeated: AtomicU64,
    /// A bit for each logical index, the staged ones included, whose keys do not expire by this server's clock. It changes
    /// only under all locks of the database.
    pub followed: AtomicU32,
    /// Unix milliseconds until which no key or field is removed because it has expired, and none is evicted, unless a
    /// write meets it: the database's clients are paused, and expect that nothing changes.
    pub still_until_ms: AtomicU64,
}

impl Shared {
    pub fn new(name: &str, seed: u64) -> Self {
        Self {
            name: name.into(),
            placement: SlotPlacement { seed },
            settings: ArcSwap::from_pointee(EngineSettings::new(seed)),
            sequence: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            journal: Journal::none(),
            next_id: AtomicU32::new(super::INDEXES as u32),
            used: AtomicUsize::new(0),
            counts: std::array::from_fn(|_| Default::default()),
            family_left: AtomicUsize::new(usize::MAX),
            memory: &MEMORY,
            chance: AtomicU64::new(seed),
            told: AtomicU64::new(0),
            watches: Arc::default(),
            interest: Interest::default(),
            listener: Listener::default(),
            notices: Notices::default(),
            outbox: Outbox::default(),
            tracking: Tracking::new(),
            parked: Parked::default(),
            damage: CheckpointDamage::default(),
            lacks_replicas: AtomicBool::new(false),
            scripts: Scripts::new(),
            functions: Functions::default(),
            loader: OnceLock::new(),
            expired: AtomicU64::new(0),
            expired_fields: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            followed: AtomicU32::new(0),
            still_until_ms: AtomicU64::new(0),
        }
    }

    /// Whether a write may be accepted.
    ///
    /// # Errors
    /// The refusal of the log, or of a database that cannot be stored.
    #[inline]
    pub fn admit(&self) -> Result<()> {
        self.journal.admit().map_err(Error::from)?;
        self.damage.admit(&self.journal)
    }

    /// Whether a client may write.
    ///
    /// # Errors
    /// Those of [`Self::admit`], or that there are too few replicas.
    pub fn admit_client(&self) -> Result<()> {
        self.admit()?;
        if self.lacks_replicas.load(Ordering::Relaxed) { Err(Error::NoReplicas) } else { Ok(()) }
    }

    /// Whether the keys of a logical index expire when their source says so, and not before.
    pub fn is_followed(&self, select: u8) -> bool {
        u64::from(self.followed.load(Ordering::Relaxed)) >> select & 1 != 0
    }

    /// Whether keys that have expired stay at `now_ms`; see [`Self::still_until_ms`].
    pub fn is_still(&self, now_ms: u64) -> bool {
        now_ms < self.still_until_ms.load(Ordering::Relaxed)
    }

    /// Most bytes of data that it may have now; `None`: no limit.
    pub fn memory_max(&self, settings: &EngineSettings) -> Option<usize> {
        let own = Some(settings.memory_max).filter(|max| *max > 0)?;
        Some(own.min(self.family_left.load(Ordering::Relaxed)))
    }

    /// Reports a change of `key`. Without an event, only the transactions that watch it are told.
    #[inline]
    pub(super) fn changed(&self, noted: &mut Noted, event: Option<KeyEvent>, select: u8, key: &[u8]) {
        self.watches.touch(select, key);
        if let Some(event) = event {
            self.tell_event(noted, event, select, key);
        }
    }

    /// Reports an event that is no change.
    #[inline]
    pub(super) fn tell_event(&self, noted: &mut Noted, event: KeyEvent, select: u8, key: &[u8]) {
        self.listener.tell(event, select, key);
        if self.notices.is_followed(event.class) {
            self.note_event(noted, event, select, key);
        }
    }

    /// Notes an event for subscribers alone: it tells more of a change that another event has reported.
    pub(super) fn note_only(&self, noted: &mut Noted, event: KeyEvent, select: u8, key: &[u8]) {
        if self.notices.wants(event.class) {
            self.notices.note(noted, event, select, key);
        }
    }

    #[cold]
    fn note_event(&self, noted: &mut Noted, event: KeyEvent, select: u8, key: &[u8]) {
        if self.notices.wants(event.class) {
            self.notices.note(noted, event, select, key);
        }
        if self.notices.is_triggering(event.class) {
            self.outbox.capture(&mut noted.captured, event, select, key);
        }
    }

    /// Reports that `key` is gone without a command: it has expired or was evicted.
    pub(super) fn dropped(&self, noted: &mut Noted, event: KeyEvent, select: u8, key: &[u8]) {
        self.changed(noted, Some(event), select, key);
        self.tracking.dropped(key);
        self.interest.stir(select, key);
    }

    /// Replaces the triggers. One that stays is given as before.
    pub fn set_triggers(&self, triggers: Vec<Arc<TriggerQueue>>) {
        self.notices.choose_for_triggers(self.outbox.set(triggers));
    }

    /// Parks a dropped object, which counts in the memory of the database until the checkpoint has ended. Returns it if
    /// it need not be kept any more.
    pub fn park(&self, dead: Dead) -> Option<Dead> {
        self.parked.park(dead, &self.used)
    }

    /// Parks those of some dropped records that a checkpoint still writes. Called under the lock of their shard.
    pub fn park_some(&self, records: &mut Vec<Record>) {
        if self.parked.is_open() {
            let wanted: Vec<_> = records.extract_if(.., |record| self.parked.wants_record(record)).collect();
            for record in wanted {
                if let Some(Dead::Record(record)) = self.park(Dead::Record(record)) {
                    records.push(record);
                }
            }
        }
    }

    /// Called when the checkpoint of one moment has ended: returns the objects parked for it, to be freed.
    pub fn unpark(&self) -> Graveyard {
        let (graveyard, bytes) = self.parked.close();
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        graveyard
    }

    /// Notes a write that replies wait for, before any count shows it.
    pub(super) fn tell(&self, lsn: Lsn) {
        self.told.fetch_max(lsn, Ordering::AcqRel);
    }

    /// Whether memory is over its limit, and nothing may be evicted.
    pub fn is_full(&self) -> bool {
        let settings = self.settings.load();
        settings.eviction == Eviction::NoEviction
            && self.memory_max(&settings).is_some_and(|max| self.used.load(Ordering::Relaxed) > max)
    }
}
