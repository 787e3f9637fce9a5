//! A database: one tenant's Redis, asleep or awake.
//!
//! Asleep it is a name, its settings and its meters; everything else is in the store. Awake it is a [`Topology`] of
//! shards. Invariants:
//!
//! 1. Transitions (wake, sleep, checkpoint, split, merge) exclude each other: they take `transition`. Commands never
//!    do.
//! 2. Contents that were put to sleep or merged away are marked retired under their lock before another topology (or
//!    none) is published, so that no command can change data that will never be written.
//! 3. The manifest that it was loaded from, or last committed, is `manifest`; it alone describes the stored data.
//! 4. A database whose manifest cannot be read, or whose epoch was overtaken, answers every command with an error that
//!    names the object; nothing is overwritten.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use dormouse_storage::log::format::Identity;
use dormouse_storage::log::recovery::Recovered;
use dormouse_storage::log::tail::LogTail;
use dormouse_storage::log::{Journal, Log, Window};
use dormouse_storage::manifest::Lineage;
use dormouse_storage::manifest::{self, Manifest, PagedManifest};
use dormouse_storage::replay::Replay;
use dormouse_storage::shown::{ALL_INDEXES, OUTBOX, Shown};
use dormouse_storage::stopwatch::Stopwatch;
use dormouse_storage::store::{Store, StoreError};
use dormouse_types::segment::Range53;
use dormouse_types::segment::SLOTS;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Mutex as AsyncMutex, Semaphore};
use tracing::Instrument;

use crate::claims::Claims;
use crate::error::{Error, Result};
use crate::health::{ConditionKind, Health};
use crate::history::HistoryState;
use crate::keyspace::index::Index;
use crate::keyspace::{Contents, Graveyard, Shared};
use crate::lane::{self, Lane, NotRun, QUEUE_MAX, Queue};
use crate::places::places;
use crate::shard::{HeldShard, Shard, ShardGate};
use crate::timings::{SPANS, TIMINGS};
use crate::topology::{Topology, hold};
use crate::waiters::Waiters;

/// Attempts to take over from a process that is committing a manifest.
const TAKE_OVER_ATTEMPTS: usize = 5;

/// Most databases of a process that wake at the same time. Others wait for their turn, in the order in which they came, so
/// that a storm of wakes leaves the store and the processors to the databases that are awake.
const WAKES_TOGETHER: usize = 32;

static WAKES: Semaphore = Semaphore::const_new(WAKES_TOGETHER);

/// State shared by all databases of a node.
#[derive(Debug, Clone)]
pub struct Engine {
    pub store: Arc<Store>,
    pub lane: Lane,
    /// Loads that a client waits for.
    pub loader: Lane,
    /// Loads that no client waits for, and checkpoints.
    pub patient: Lane,
    /// Where wakes and sleeps run: never on a worker.
    pub background: Handle,
    /// Unix milliseconds; a clock that a test can hold.
    pub clock: fn() -> u64,
    /// Tells this process from others that write the same store.
    pub writer: u64,
    /// The node's log; `None` where the store ends with the process.
    pub log: Option<Arc<Log>>,
    /// Entries that earlier processes left in it.
    pub recovered: Arc<Mutex<Recovered>>,
    /// Returns freed memory to the system.
    pub give_back: fn(),
    /// Problems of the node rather than of one database.
    pub health: Arc<Health>,
    /// In a fleet: decides which databases this process may write.
    pub claims: Option<Arc<dyn Claims>>,
}

/// Returns the counters that a manifest keeps for its database.
pub type Meters = Box<dyn Fn() -> Vec<u8> + Send>;

/// The declarations of a database; `None`: what holds for the node, or for a new database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Declared {
    pub window: Option<Window>,
    /// A text that only the server reads.
    pub users: Option<Arc<str>>,
    /// The other settings, in another such text.
    pub config: Option<Arc<str>>,
    /// And the triggers in a third.
    pub triggers: Option<Arc<str>>,
}

/// Called with a text that a manifest of another process has.
pub type Adopted = Box<dyn Fn(Option<&str>) + Send + Sync>;

pub struct Database {
    pub shared: Arc<Shared>,
    /// Clients whose blocking commands have found nothing.
    pub waiters: Waiters,
    pub engine: Engine,
    /// Its queues on the lanes of the engine.
    pub lane: Queue,
    pub(crate) loader: Queue,
    pub(crate) patient: Queue,
    topology: ArcSwapOption<Topology>,
    pub(crate) transition: AsyncMutex<()>,
    /// The store's manifest, as far as it was read; `None` if it was never read. Replaced only under `transition`.
    pub(crate) manifest: Mutex<Option<Arc<PagedManifest>>>,
    /// The newest manifest could not be read when it was opened.
    was_unreadable: bool,
    /// Distinguishes it from others that have had its name.
    pub(crate) identity: Identity,
    /// Effects that a crash left in the log only, until a manifest holds them.
    pub(crate) recovered: Mutex<Option<Arc<LogTail>>>,
    /// The entry of the log that it goes on from, if later entries exist; until a manifest is beyond them.
    pub(crate) goes_on_after: Mutex<Option<u64>>,
    /// Places that could not be told their present location in the store.
    pub(crate) unmoved: Mutex<Vec<(u32, Range53)>>,
    /// Declarations of this database, which override those of the node, as the next manifest will have them.
    pub(crate) declared: Mutex<Declared>,
    /// The store may have a manifest that says otherwise.
    pub(crate) is_declared_unsure: AtomicBool,
    pub(crate) users_adopted: Mutex<Option<Adopted>>,
    pub(crate) config_adopted: Mutex<Option<Adopted>>,
    pub(crate) triggers_adopted: Mutex<Option<Adopted>>,
    /// The libraries of functions, as the next manifest says them.
    pub(crate) kept_functions: Mutex<Vec<(String, String)>>,
    pub(crate) declaring: AsyncMutex<()>,
    /// It sleeps for good: the process ends.
    closed: AtomicBool,
    /// In a fleet: the newest manifest is of this process, see [`crate::claiming`].
    pub(crate) is_claimed: AtomicBool,
    /// In a fleet: the number of entries of the log that it was opened with.
    pub(crate) inherited: usize,
    /// A manifest that gives it to another process may be carried out yet: the next one must be committed before it is served.
    pub(crate) is_given_unsure: AtomicBool,
    /// It has been given to another process, or is about to be.
    pub(crate) is_leaving: AtomicBool,
    /// Nobody has used it since it woke.
    is_brief: AtomicBool,
    /// Plans that run, or wait for something.
    running: AtomicUsize,
    /// The newest manifest has not the last meters.
    pub(crate) lacks_meters: AtomicBool,
    /// The error that answers every command, set when another process has committed instead of this one, or when the
    /// log has lost acknowledged entries.
    pub(crate) refused: OnceLock<Error>,
    /// Another process has taken it over: unwritten data of this one is lost.
    pub(crate) is_overtaken: AtomicBool,
    /// The next number for the name of a chunk or a tail, as far as this process knows. Used under `transition`.
    pub(crate) next_object: AtomicU64,
    pub(crate) meters: Mutex<Meters>,
    /// For how long it keeps its history; 0: not at all.
    pub(crate) history_ms: AtomicU64,
    /// The history in the newest manifest.
    pub(crate) history: Mutex<HistoryState>,
    /// Manifests whose objects are kept for readers: see [`crate::pinned`].
    pub(crate) pinned: Mutex<Vec<Arc<Manifest>>>,
    /// Keys, and keys with an expiry, of each logical index in the newest manifest.
    stored_counts: Mutex<Counts>,
    /// Whether the newest manifest has segments whose counts leave out effects.
    has_uncounted: AtomicBool,
    /// The number of the last entry of the log that the newest manifest covers.
    pub(crate) stored_sequence: AtomicU64,
    /// The number of the newest manifest, 0 if it has to be looked for. As long as this process owns the store, no other
    /// commits one.
    pub(crate) newest_number: AtomicU64,
    pub(crate) lineage: Mutex<Lineage>,
    /// Loads of the same place wait for each other.
    pub(crate) turns: [AsyncMutex<()>; 64],
    /// Its present problems.
    pub health: Health,
    pub counters: Counters,
}

/// A plan that runs, or other work on a database that is not to fall asleep meanwhile.
pub(crate) struct Running(Arc<Database>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Keys, and keys with an expiry, of each logical index, the hidden ones included.
pub type Counts = [(u64, u64); ALL_INDEXES];

/// Counters of the database since the process started.
#[derive(Debug, Default)]
pub struct Counters {
    pub wakes: AtomicU64,
    pub sleeps: AtomicU64,
    pub splits: AtomicU64,
    pub merges: AtomicU64,
    pub checkpoints: AtomicU64,
    pub checkpoint_errors: AtomicU64,
    pub checkpoint_us_last: AtomicU64,
    pub checkpoint_keys_last: AtomicU64,
    /// Bytes that checkpoints have written: chunks, tails and manifests.
    pub checkpoint_bytes: AtomicU64,
    /// Checkpoints that run, or are about to.
    pub checkpoint_running: AtomicU64,
    /// Whether the last checkpoint failed.
    pub checkpoint_failed: AtomicBool,
    /// Unix milliseconds of the last committed manifest.
    pub saved_ms: AtomicU64,
    pub wake_us_last: AtomicU64,
    pub sleep_us_last: AtomicU64,
    pub loads: AtomicU64,
    pub loaded_keys: AtomicU64,
    pub loading: AtomicU64,
    pub load_us_last: AtomicU64,
    pub load_errors: AtomicU64,
    /// Bytes that the store holds for it, those of its history included.
    pub stored_bytes: AtomicU64,
}

impl Database {
    /// Returns a database that is asleep, whether or not the store knows it. `seed` places its keys if it is new. If
    /// the store's newest manifest cannot be read, every wake reports it.
    pub async fn open(name: &str, seed: u64, engine: Engine) -> Arc<Self> {
        let health = Health::default();
        let read = manifest::latest_root(&engine.store, name).await;
        let (manifest, is_readable) = match read {
            Ok(manifest) => (manifest.map(Arc::new), true),
            Err(error) => {
                tracing::error!(database = name, %error, "the database cannot be read");
                health.report(ConditionKind::Manifest, error.to_string());
                (None, false)
            }
        };
        let known = manifest.as_ref().map(|manifest| &manifest.known);
        let identity = match known {
            Some(manifest) => Identity { name: name.into(), seed: manifest.seed, created_ms: manifest.created_ms },
            None => {
                let logged = engine.recovered.lock().identity_of(name).filter(|_| is_readable);
                logged.unwrap_or_else(|| Identity { name: name.into(), seed, created_ms: (engine.clock)() })
            }
        };
        let mut shared = Shared::new(name, identity.seed);
        if let Some(log) = &engine.log {
            shared.journal = Journal::of(log, &identity);
        }
        let (floor, cut) = known.map_or((0, 0), |manifest| (manifest.sequence, manifest.cut));
        let refused = OnceLock::new();
        let entries = {
            let mut recovered = engine.recovered.lock();
            match engine.claims {
                // They stay there until the database is claimed: a claim may fail.
                Some(_) => recovered.entries_of(&identity),
                None => recovered.take(&identity),
            }
        };
        let inherited = entries.entries.len();
        let recovered = match is_readable {
            true => LogTail::new(entries, floor, cut).unwrap_or_else(|problem| {
                tracing::error!(database = name, problem, "the database is refused");
                let text = format!("database {name}: {problem}");
                health.report(ConditionKind::Log, text.clone());
                refused.get_or_init(|| Error::Store(text));
                LogTail::default()
            }),
            false => LogTail::default(),
        };
        // Sequence numbers are never reused, even if the entry that used one was discarded.
        shared.sequence = AtomicU64::new(recovered.highest.max(recovered.sequence).max(floor));
        let goes_on_after = Some(recovered.sequence).filter(|last| *last < recovered.highest);
        if let Some(log) = &engine.log
            && let Some(manifest) = known
        {
            log.settled(&identity, manifest.sequence);
        }
        // The database's identity is known only if the manifest could be read.
        if let Some(log) = engine.log.as_ref().filter(|_| is_readable) {
            // Others had this name; the log need not be kept for them.
            let others = engine.recovered.lock().others_of(&identity);
            others.iter().for_each(|other| log.settled(other, u64::MAX));
        }
        if let Some(manifest) = known {
            let followed = shown(manifest, Some(&recovered)).followed;
            shared.followed.store(followed, Ordering::Relaxed);
        }
        let shared = Arc::new(shared);
        // A branch has the name of its owner in front.
        let owner = name.split_once('.').map_or(name, |(owner, _)| owner);
        let database = Self {
            waiters: Waiters::new(&shared),
            shared,
            lane: engine.lane.queue_of(owner),
            loader: engine.loader.queue_of(owner),
            patient: engine.patient.queue_of(owner),
            engine,
            topology: ArcSwapOption::empty(),
            transition: AsyncMutex::new(()),
            manifest: Mutex::new(None),
            was_unreadable: !is_readable,
            identity,
            goes_on_after: Mutex::new(goes_on_after),
            unmoved: Mutex::default(),
            recovered: Mutex::new(Some(Arc::new(recovered)).filter(|recovered| !recovered.is_empty())),
            declared: Mutex::default(),
            is_declared_unsure: AtomicBool::new(false),
            users_adopted: Mutex::default(),
            config_adopted: Mutex::default(),
            triggers_adopted: Mutex::default(),
            kept_functions: Mutex::default(),
            declaring: AsyncMutex::new(()),
            closed: AtomicBool::new(false),
            is_claimed: AtomicBool::new(false),
            inherited,
            is_given_unsure: AtomicBool::new(false),
            is_leaving: AtomicBool::new(false),
            is_brief: AtomicBool::new(false),
            running: AtomicUsize::new(0),
            lacks_meters: AtomicBool::new(false),
            refused,
            is_overtaken: AtomicBool::new(false),
            next_object: AtomicU64::new(0),
            meters: Mutex::new(Box::new(Vec::new)),
            history_ms: AtomicU64::new(0),
            history: Mutex::default(),
            pinned: Mutex::default(),
            stored_counts: Mutex::new([(0, 0); ALL_INDEXES]),
            has_uncounted: AtomicBool::new(false),
            stored_sequence: AtomicU64::new(0),
            newest_number: AtomicU64::new(0),
            lineage: Mutex::default(),
            turns: std::array::from_fn(|_| AsyncMutex::new(())),
            health,
            counters: Counters::default(),
        };
        if let Some(manifest) = &manifest {
            database.counters.saved_ms.store(manifest.known.created_ms, Ordering::Relaxed);
            database.note_manifest(manifest);
            database.adopt_declared(&manifest.known);
            database.adopt_functions(&manifest.known);
        }
        *database.manifest.lock() = manifest;
        let database = Arc::new(database);
        database.offer_loads();
        database
    }

    /// Sets the meters that a manifest keeps beside the data; [`Self::saved_meters`] returns them.
    pub fn keep_meters(&self, meters: Meters) {
        *self.meters.lock() = meters;
    }

    /// The meters in the newest manifest; empty if it has none.
    pub fn saved_meters(&self) -> Vec<u8> {
        self.manifest.lock().as_ref().map(|manifest| manifest.known.meters.clone()).unwrap_or_default()
    }

    /// Keys of each logical index, as the newest manifest says, without waking.
    pub fn stored_counts(&self) -> Counts {
        *self.stored_counts.lock()
    }

    /// Notes the newest manifest's size, lineage and counts, for callers that ask without waking.
    pub(crate) fn note_manifest(&self, manifest: &PagedManifest) {
        let known = &manifest.known;
        let history = HistoryState::from(&known.timeline);
        self.counters.stored_bytes.store(known.stored_bytes().saturating_add(history.bytes), Ordering::Relaxed);
        *self.history.lock() = history;
        self.stored_sequence.store(known.cut.max(known.sequence), Ordering::SeqCst);
        *self.lineage.lock() = Lineage::of(known);
        *self.stored_counts.lock() = known.keyspaces.map(|id| manifest.counts_of(id));
        self.has_uncounted.store(known.uncounted != 0, Ordering::Relaxed);
    }

    /// Whether [`Self::counts`] may be a little off: a branch of a moment is counted when it is first used, and certain after
    /// its next checkpoint.
    pub fn has_estimated_counts(&self) -> bool {
        self.has_uncounted.load(Ordering::Relaxed)
    }

    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The shards, if it is awake.
    pub fn topology(&self) -> Option<Arc<Topology>> {
        self.topology.load_full()
    }

    /// The same without counting a reference, for one batch.
    pub fn topology_guard(&self) -> arc_swap::Guard<Option<Arc<Topology>>> {
        self.topology.load()
    }

    pub fn is_awake(&self) -> bool {
        self.topology.load().is_some()
    }

    pub(crate) fn publish(&self, topology: Option<Topology>) {
        self.topology.store(topology.map(Arc::new));
    }

    pub(crate) fn publish_again(&self, topology: &Arc<Topology>) {
        self.topology.store(Some(Arc::clone(topology)));
    }

    /// Whether it is to sleep for good.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Returns the shards, waking the database if it sleeps.
    ///
    /// # Errors
    /// When stored data cannot be read; the text names the object.
    pub async fn awake(self: &Arc<Self>) -> Result<Arc<Topology>> {
        self.awake_for(false).await
    }

    /// The same for a look that is no use of the database. If it sleeps, it wakes *briefly*: only what is needed is loaded, and
    /// it is to sleep again soon, unless somebody [uses](Self::begin_use) it.
    ///
    /// # Errors
    /// As [`Self::awake`].
    pub async fn awake_briefly(self: &Arc<Self>) -> Result<Arc<Topology>> {
        self.awake_for(true).await
    }

    pub(crate) async fn awake_for(self: &Arc<Self>, is_poll: bool) -> Result<Arc<Topology>> {
        if let Some(topology) = self.topology() {
            if !is_poll {
                self.begin_use();
            }
            return Ok(topology);
        }
        self.check_open()?;
        let database = Arc::clone(self);
        // Runs on the background threads, and to its end even if the client disconnects.
        let woken = self.engine.background.spawn(async move { database.wake(is_poll).await });
        woken.await.map_err(|error| Error::Store(format!("the wake of database {} failed: {error}", self.name())))?
    }

    /// Whether a checkpoint of this database would help to end trouble of the log, or its history needs one.
    pub fn needs_checkpoint(&self) -> bool {
        let log = self.engine.log.as_ref();
        log.is_some_and(|log| log.needs_checkpoints() && self.is_awake() && log.is_kept_for(&self.identity))
            || self.has_much_history()
    }

    /// Whether it may be woken.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(Error::text("ERR the server is shutting down"));
        }
        if self.is_leaving() {
            return Err(Error::Elsewhere(self.name().to_owned()));
        }
        self.refused.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Whether it woke for a look, and nobody has used it since.
    pub fn is_brief(&self) -> bool {
        self.is_brief.load(Ordering::Relaxed)
    }

    /// Whether a plan runs, or waits for something.
    pub fn is_running(&self) -> bool {
        self.running.load(Ordering::SeqCst) > 0
    }

    pub(crate) fn begin_run(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Ordering::SeqCst);
        Running(Arc::clone(self))
    }

    /// Somebody uses it: if it woke briefly, it stays awake, and the rest is loaded.
    pub fn begin_use(self: &Arc<Self>) {
        if self.is_brief() && self.is_brief.swap(false, Ordering::SeqCst) {
            self.load_in_background();
        }
    }

    pub(crate) fn note_asleep(&self) {
        self.is_brief.store(false, Ordering::SeqCst);
    }

    async fn wake(self: &Arc<Self>, is_poll: bool) -> Result<Arc<Topology>> {
        let span = tracing::info_span!(target: SPANS, "wake", dormouse.database = self.name());
        self.become_awake(is_poll).instrument(span).await
    }

    async fn become_awake(self: &Arc<Self>, is_poll: bool) -> Result<Arc<Topology>> {
        let _transition = self.transition.lock().await;
        if let Some(topology) = self.topology() {
            if !is_poll {
                self.begin_use();
            }
            return Ok(topology);
        }
        self.check_open()?;
        // Taken last: whoever waits for another transition of the database keeps no other from waking.
        let asked = Stopwatch::start();
        let _place = WAKES.acquire().await;
        let started = Stopwatch::start();
        // The store may belong to another process by now.
        let (looked, manifest) = futures::future::join(self.check_owner(), self.owned_manifest()).await;
        looked?;
        let manifest = match manifest.inspect_err(|error| self.note_unread(ConditionKind::Manifest, error))? {
            Some(manifest) => manifest,
            None => Arc::new(Arc::new(self.first_manifest()).into()),
        };
        self.health.resolve(ConditionKind::Manifest);
        let shards = self.shards_of(&manifest).await;
        let topology = Arc::new(shards.inspect_err(|error| self.note_unread(ConditionKind::Data, error))?);
        let journal = &self.shared.journal;
        // All writes were logged: it goes on from the manifest, or from the log's entries.
        let records = journal.log().is_some() && journal.window() != Window::None;
        if records && let Some(after) = self.goes_on_after.lock().take() {
            journal.continue_after(&self.shared.sequence, (self.engine.clock)(), after);
        }
        journal.record(records);
        journal.cover(records);
        self.waiters.woke();
        // What a crash has left in the log only is to get into the store.
        let is_brief = is_poll && self.recovered.lock().is_none();
        self.is_brief.store(is_brief, Ordering::SeqCst);
        self.topology.store(Some(Arc::clone(&topology)));
        self.counters.wakes.fetch_add(1, Ordering::Relaxed);
        self.counters.wake_us_last.store(started.us(), Ordering::Relaxed);
        TIMINGS.wakes.add(asked.elapsed());
        let holds_data = manifest.whole().is_none_or(|whole| !whole.segments.is_empty());
        if !is_brief && (holds_data || self.recovered.lock().is_some()) {
            self.load_in_background();
        }
        Ok(topology)
    }

    /// Fails when another process has taken the store over: then this one must not report any state any more.
    pub(crate) async fn check_owner(&self) -> Result<()> {
        self.look_at_owner().await.map_err(|error| self.note_refused(error))
    }

    pub(crate) async fn look_at_owner(&self) -> std::result::Result<(), StoreError> {
        match self.engine.log.as_ref().and_then(|log| log.owner()) {
            Some(owner) => owner.look().await,
            None => Ok(()),
        }
    }

    /// Commits a manifest, unless another process has taken the store over.
    pub(crate) async fn commit(&self, manifest: &mut Manifest) -> std::result::Result<(), StoreError> {
        self.look_at_owner().await?;
        self.check_claim()?;
        // A commit that is refused may have been carried out nevertheless.
        self.newest_number.store(0, Ordering::SeqCst);
        manifest::commit(&self.engine.store, manifest).await?;
        self.newest_number.store(manifest.number, Ordering::SeqCst);
        Ok(())
    }

    /// The newest manifest, as one of this process. Where others may still be writing (the store has no lock), it
    /// commits one of a higher epoch before it serves anything, so that earlier writers cannot commit any more.
    pub(crate) async fn owned_manifest(&self) -> Result<Option<Arc<PagedManifest>>> {
        for _ in 0..TAKE_OVER_ATTEMPTS {
            self.forget_foreign_manifest();
            let manifest = self.read_manifest().await?;
            if !self.claim_from(manifest.as_deref()).await? {
                *self.manifest.lock() = None;
                continue;
            }
            let Some(manifest) = manifest else { return Ok(None) };
            let shared = self.engine.log.as_ref().is_some_and(|log| log.is_shared());
            let is_own = manifest.known.writer == self.engine.writer && !self.is_given_unsure.load(Ordering::SeqCst);
            if is_own || !shared {
                return Ok(Some(manifest));
            }
            self.adopt_declared(&manifest.known);
            self.adopt_functions(&manifest.known);
            self.newest_number.store(0, Ordering::SeqCst);
            // Looks at the owner after reading the manifest: an earlier process finds that the later one has the store.
            let owned = match self.look_at_owner().await {
                Ok(()) => manifest::take_over(&self.engine.store, &manifest, self.engine.writer).await,
                Err(error) => Err(error),
            };
            *self.manifest.lock() = match owned {
                // The number may have been used and deleted since the manifest was read: then a newer one says whose it is.
                Ok(_) if self.engine.claims.is_some() => {
                    self.is_given_unsure.store(false, Ordering::SeqCst);
                    None
                }
                Ok(owned) => Some(Arc::new(owned)),
                // The earlier process was just about to commit; its log is sealed, so this cannot repeat for ever.
                Err(StoreError::Fenced { .. } | StoreError::Missing { .. }) => None,
                Err(error) if error.is_taken() => return Err(self.note_refused(error)),
                Err(error) => return Err(store_error(error)),
            };
        }
        Err(Error::Store(format!("database {}: another process goes on writing it", self.name())))
    }

    /// Whether a crash has left effects in the log that no manifest holds yet.
    pub fn has_recovered(&self) -> bool {
        self.recovered.lock().is_some()
    }

    /// The manifest of a database that has none yet.
    pub(crate) fn first_manifest(&self) -> Manifest {
        Manifest::new(self.name(), self.identity.seed, self.engine.writer, self.identity.created_ms)
    }

    /// The newest manifest, as far as it was read: at least its root.
    pub(crate) async fn read_manifest(&self) -> Result<Option<Arc<PagedManifest>>> {
        if let Some(manifest) = self.manifest.lock().clone() {
            return Ok(Some(manifest));
        }
        // Without a log no wake looks who owns the store.
        let number = self.engine.log.as_ref().map_or(0, |_| self.newest_number.load(Ordering::SeqCst));
        let manifest = match number {
            0 => manifest::latest_root(&self.engine.store, self.name()).await,
            number => manifest::root_numbered(&self.engine.store, self.name(), number).await,
        };
        let manifest = manifest.map_err(store_error)?.map(Arc::new);
        // Its effects in the log were not taken when it was opened, so it would be served without them.
        if self.was_unreadable
            || manifest.as_ref().is_some_and(|manifest| manifest.known.seed != self.shared.placement.seed)
        {
            if self.engine.claims.is_some() && !self.was_unreadable {
                // Another node has made a database of this name in the meantime.
                return Err(Error::Elsewhere(self.name().to_owned()));
            }
            let text = "the manifest has become readable since the server started; restart it to serve this database";
            return Err(Error::Store(format!("database {}: {text}", self.name())));
        }
        self.manifest.lock().clone_from(&manifest);
        Ok(manifest)
    }

    /// The whole stored manifest; `None` while nothing of it was read. Called under `transition`.
    ///
    /// # Errors
    /// When a page cannot be read.
    pub(crate) async fn whole_manifest(&self) -> Result<Option<Arc<Manifest>>> {
        self.read_whole_manifest().await.inspect_err(|error| self.note_unread(ConditionKind::Data, error))
    }

    /// The same; the caller notes the problem.
    pub(crate) async fn read_whole_manifest(&self) -> Result<Option<Arc<Manifest>>> {
        let Some(paged) = self.manifest.lock().clone() else { return Ok(None) };
        if let Some(whole) = paged.whole() {
            return Ok(Some(Arc::clone(whole)));
        }
        let whole = paged.read_all(&self.engine.store).await.map_err(read_error)?;
        *self.manifest.lock() = Some(Arc::new(Arc::clone(&whole).into()));
        Ok(Some(whole))
    }

    /// Shards whose places are all in the store, except those of the outbox.
    async fn shards_of(self: &Arc<Self>, manifest: &Arc<PagedManifest>) -> Result<Topology> {
        let log = self.recovered.lock().clone();
        let known = &manifest.known;
        let Shown { ids, followed, next } = shown(known, log.as_deref());
        self.shared.followed.store(followed, Ordering::Relaxed);
        let replay = Replay::read(&self.engine.store, known, log).await.map_err(store_error)?;
        let replay = Arc::new(replay);
        self.shared.sequence.fetch_max(known.cut, Ordering::SeqCst);
        self.shared.next_id.fetch_max(next, Ordering::SeqCst);
        let firsts: Vec<u16> = std::iter::once(0).chain(manifest.shard_cuts()).collect();
        let mut shards = Vec::new();
        for (at, &first) in firsts.iter().enumerate() {
            let end = firsts.get(at + 1).copied().unwrap_or(SLOTS);
            let mut contents = Contents::empty(first, end, self.shared.placement, ids);
            for select in 0..ALL_INDEXES as u8 {
                let id = ids[usize::from(select)];
                let places = places(manifest.into(), &replay, id, first, end);
                if places.iter().any(|place| place.stored().is_some()) {
                    let places = if usize::from(select) == OUTBOX { self.read_all(id, places).await? } else { places };
                    contents.put_index(select, Some(Box::new(Index::new(id, places))));
                }
            }
            shards.push((first, contents));
        }
        let outboxes = shards.iter().filter_map(|(_, contents)| contents.index(OUTBOX as u8));
        self.list_outbox(outboxes.flat_map(Index::iter));
        let gate = |(first, contents)| (first, Shard::gate(contents, &self.shared, &self.lane));
        Ok(Topology::new(shards.into_iter().map(gate).collect()))
    }

    /// Notes that an object which the store should have cannot be read. The note is dropped once it is read.
    pub(crate) fn note_unread(&self, kind: ConditionKind, error: &Error) {
        self.counters.load_errors.fetch_add(1, Ordering::Relaxed);
        if self.refused.get().is_none() && self.health.report(kind, error.detail()) {
            tracing::error!(database = self.name(), %error, "failed to read a part of the database");
        }
    }

    /// Puts the database to sleep for good. Every later command is refused, so that nothing is acknowledged that will
    /// never be written.
    ///
    /// # Errors
    /// When the checkpoint fails, or another process has taken the database over: unwritten data is lost with the
    /// process.
    pub async fn close(self: &Arc<Self>) -> Result<()> {
        self.closed.store(true, Ordering::SeqCst);
        self.sleep_promptly().await?;
        self.save_meters().await
    }

    /// Runs `work` under the locks of `gates`, at the priority of clients: the caller's thread may be one of low priority, which
    /// could lose its processor while clients wait for the locks, or even before it learns that it has got them. The locks
    /// are free again when this returns.
    ///
    /// # Errors
    /// When the process ends.
    pub(crate) async fn under<T: Send + 'static>(
        &self,
        gates: Vec<ShardGate>,
        work: impl FnOnce(&[HeldShard]) -> T + Send + 'static,
    ) -> Result<T> {
        let done = async move {
            let held = hold(gates).await;
            work(&held)
        };
        self.promptly(done).await
    }

    /// Drives a future at the priority of clients: here, unless this is a thread of the patient lane.
    ///
    /// # Errors
    /// When the process ends.
    pub(crate) async fn promptly<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        if !lane::is_patient() {
            return Ok(future.await);
        }
        match self.engine.background.spawn(future).await {
            Ok(done) => Ok(done),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                Err(_) => Err(Error::text("ERR the server is shutting down")),
            },
        }
    }

    /// Drives a transition that gives way to clients, as only its caller waits for it. If the database sleeps, it does not give
    /// way: a client that wakes the database waits for it too.
    pub(crate) async fn drive_patiently<T: Send + 'static>(
        &self,
        transition: impl Future<Output = T> + Send + 'static,
    ) -> std::result::Result<T, NotRun> {
        match self.is_awake() {
            true => self.patient.drive(transition).await,
            false => self.engine.background.spawn(transition).await.map_err(|_| NotRun::Panicked),
        }
    }

    /// Takes every lock of the database; `None` when it is asleep.
    pub async fn hold_all(&self) -> Option<(Arc<Topology>, Vec<HeldShard>)> {
        loop {
            let topology = self.topology()?;
            let held = hold(topology.shards.clone()).await;
            let same = |(at, held): (usize, &HeldShard)| {
                let contents = held.contents();
                !contents.retired && topology.matches(at, &contents)
            };
            if held.len() == topology.shards.len() && held.iter().enumerate().all(same) {
                return Some((topology, held));
            }
        }
    }

    /// Bytes of memory, as the shards last published them.
    pub fn used_bytes(&self) -> usize {
        self.shared.used.load(Ordering::Relaxed)
    }

    pub(crate) fn retire(&self, held: &[HeldShard]) -> Vec<Contents> {
        self.shared.tracking.forget_expiring();
        let mut retired = Vec::new();
        for shard in held {
            let mut contents = shard.contents();
            let (first, end, placement, ids) =
                (contents.first_slot, contents.end_slot, contents.placement, contents.ids);
            let mut gone = Contents::empty(first, end, placement, ids);
            gone.retired = true;
            retired.push(std::mem::replace(&mut *contents, gone));
        }
        retired
    }

    /// Runs `job` on the slow lane, under the locks of `gates`, which must be in slot order. The locks are requested
    /// when the job's turn has come, and only if `is_wanted` then.
    ///
    /// # Errors
    /// [`Error::Busy`].
    pub fn on_lane(
        &self,
        gates: Vec<ShardGate>,
        is_wanted: impl FnOnce() -> bool + Send + 'static,
        job: impl FnOnce(Vec<HeldShard>) + Send + 'static,
    ) -> Result<()> {
        let claims = gates.iter().map(|gate| gate.guarded.id).collect();
        let ready = async move {
            match is_wanted() {
                true => Some(hold(gates).await),
                false => None,
            }
        };
        self.lane.run_after(claims, ready, job).map_err(|_| Error::Busy(QUEUE_MAX))
    }

    /// Lets a suspended script go on that holds its locks.
    pub(crate) fn go_on(&self, script: impl FnOnce() + Send + 'static) {
        self.lane.go_on(script);
    }

    /// Frees values that a command has dropped, when no client's work waits.
    pub fn free(&self, dead: Graveyard) {
        if !dead.is_empty() {
            self.lane.free_in_steps(dead.bytes(), dead);
        }
    }

    pub fn gate(&self, contents: Contents) -> ShardGate {
        Shard::gate(contents, &self.shared, &self.lane)
    }
}

/// The keyspaces that a database shows: as the log says last, else as the manifest says.
fn shown(manifest: &Manifest, log: Option<&LogTail>) -> Shown {
    let stored = Shown { ids: manifest.keyspaces, followed: manifest.followed, next: manifest.next_keyspace };
    log.and_then(|log| log.shown).unwrap_or(stored)
}

/// The error for an object that a checkpoint needs and that could not be read.
pub(crate) fn read_error(error: StoreError) -> Error {
    match error {
        StoreError::Corrupt { .. } | StoreError::Missing { .. } => Error::Damaged(error.to_string()),
        error => store_error(error),
    }
}

pub(crate) fn store_error(error: impl std::fmt::Display) -> Error {
    Error::Store(error.to_string())
}
