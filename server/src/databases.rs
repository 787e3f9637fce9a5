//! The databases of a node, and what leads to them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use dormouse_shard::database::{Database, Engine};
use dormouse_shard::error::Result;
use dormouse_shard::keyspace::{EngineSettings, Eviction, LfuSettings, RecordLimits};
use dormouse_storage::directory::DatabaseRecord;
use parking_lot::Mutex;

use crate::account::{self, Account};
use crate::acl::Acl;
use crate::acl::catalogue::Catalogue;
use crate::clock;
use crate::command_log::CommandLogs;
use crate::config::{DatabaseLimits, DatabaseSettings, Settings, kept, quota};
use crate::errors::Errors;
use crate::habits::Habits;
use crate::hotkeys::HotKeys;
use crate::latency::Events;
use crate::metering::{CountedCommands, DatabaseMeters, Meter, Recorded};
use crate::monitors::Monitors;
use crate::notifications::Notifier;
use crate::options::{EvictionPolicy, owner_and_branch};
use crate::pause::Pause;
use crate::pubsub::PubSub;
use crate::replication::Replication;
use crate::saving::Saving;
use crate::spending::{Spender, Spending};
use crate::surroundings::OfDatabase;
use crate::tracking_clients::TrackingClients;
use crate::triggers::{TriggerHost, TriggerLimits, Triggers};

pub mod aim;
mod deleting;
mod elsewhere;
mod following;
mod given;
pub mod grant;
pub mod login;
mod name_turns;
mod opening;
mod reservations;
mod shared_rate;
mod tenants;
pub mod traffic;
mod triggering;

pub use self::deleting::Removal;
pub use self::elsewhere::Whereabouts;
pub use self::opening::RELEASE_AFTER_MS;
pub use self::reservations::{Changing, Reservations};
pub use self::tenants::{Tenants, still_deleted};
use self::traffic::Traffic;

/// The user name of a connection with the admin token.
pub const ADMIN: &str = "admin";

/// One database as the server sees it: the engine's database with its counters, messages and logs.
pub struct Tenant {
    pub database: Arc<Database>,
    /// The root database of a branch, through all branches in between; its own name if it is no branch.
    owner: Box<str>,
    pub meters: Arc<DatabaseMeters>,
    pub spending: Spending,
    /// The account of its clients.
    pub account: Arc<Account>,
    /// The operator's limits on its requests.
    pub traffic: Traffic,
    /// Number of clients closed because of it.
    pub evicted_clients: AtomicU64,
    pub acl: Arc<Acl>,
    pub pubsub: Arc<PubSub>,
    pub notifier: Arc<Notifier>,
    pub monitors: Arc<Monitors>,
    pub tracking_clients: TrackingClients,
    /// `CLIENT PAUSE`.
    pub pause: Pause,
    pub replication: Arc<Replication>,
    pub triggers: Arc<Triggers>,
    pub logs: CommandLogs,
    pub hotkeys: HotKeys,
    pub events: Events,
    settings: ArcSwap<DatabaseSettings>,
    /// The settings of a new database, and the operator's limits, as the command line and the directory say.
    given: ArcSwap<Settings>,
    /// Requests when the meters were last kept in the store.
    pub(crate) requests_kept: AtomicU64,
    /// Unix milliseconds of the last command over the keyspace: what keeps it awake.
    worked_ms: AtomicU64,
    /// Unix milliseconds of the moment at which it was opened, or its last client left.
    pub used_ms: AtomicU64,
    pub habits: Habits,
    /// Error replies that its clients got.
    pub errors: Errors,
    /// Number of connections to it since the start or the last reset of statistics.
    pub connections: AtomicU64,
    /// Most bytes of its data in memory, since the start.
    pub memory_peak: AtomicU64,
    /// Recent rates, per second.
    pub rates: Mutex<Rates>,
    /// Whether the keeper waits for locks of the database, to end an abandoned import.
    pub is_settling: AtomicBool,
    /// Whether `DEBUG` keeps the keeper from removing keys of it.
    pub is_left_alone: AtomicBool,
    /// Whether the keeper is removing keys of it.
    pub is_kept_up: AtomicBool,
    /// Checkpoints and sleeps that the keeper starts.
    pub saving: Mutex<Saving>,
    /// Whether a save that a client asked for has not begun yet.
    pub is_save_waiting: AtomicBool,
    /// Held by the one that runs.
    pub background_save: tokio::sync::Mutex<()>,
    /// Load of each shard in the last second, by its id.
    loads: Mutex<BTreeMap<u64, Lately>>,
    /// Number of changes when the last checkpoint began.
    changes_saved: Arc<AtomicU64>,
}

/// Commands, bytes in and bytes out per second.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rates {
    pub operations: f64,
    pub bytes_in: f64,
    pub bytes_out: f64,
}

/// The load of one shard in the last second.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lately {
    pub operations: u64,
    pub contended: u64,
}

impl Tenant {
    /// Opens an existing or new database. A database with an unreadable manifest is opened too: it replies with the
    /// error. `recorded`: what the usage ledger has of it.
    pub async fn open(
        name: &str,
        engine: &Engine,
        command_line: &Settings,
        counted: &'static CountedCommands,
        catalogue: &'static Catalogue,
        seed: u64,
        recorded: Recorded,
    ) -> Arc<Self> {
        let now_ms = (engine.clock)();
        let database = Database::open(name, seed, engine.clone()).await;
        let names = &counted.names;
        let saved = database.saved_meters();
        let meters = if saved.is_empty() {
            DatabaseMeters::new(name, names.len(), now_ms, &recorded)
        } else {
            DatabaseMeters::restore(name, &saved, names, now_ms, &recorded).unwrap_or_else(|error| {
                tracing::error!(database = name, %error, "failed to read the meters in the manifest; they start from zero");
                DatabaseMeters::new(name, names.len(), now_ms, &recorded)
            })
        };
        let meters = DatabaseMeters::measured_by(meters, clock::monotonic_ms);
        let (kept, clock) = (Arc::clone(&meters), engine.clock);
        let changes_saved = Arc::<AtomicU64>::default();
        let (shared, saved) = (Arc::clone(&database.shared), Arc::clone(&changes_saved));
        // Called at the beginning of each checkpoint.
        database.keep_meters(Box::new(move || {
            saved.store(shared.changes.load(Ordering::Relaxed), Ordering::Relaxed);
            kept.save(&counted.names, clock())
        }));
        let account = Account::new(account::OF_DATABASE, usize::MAX);
        let acl = Arc::new(Acl::new(name, catalogue, database.users().as_deref(), &account));
        let (adopting, of) = (Arc::clone(&acl), name.to_string());
        database.on_users_adopted(Box::new(move |users| adopting.adopt(&of, users)));
        let pubsub = Arc::new(PubSub::new(&database.shared.notices.listeners));
        let notifier = Notifier::new(&database, &pubsub, &account, &engine.background);
        let limits =
            TriggerLimits { triggers_max: command_line.facts.max_triggers, reach: command_line.facts.trigger_reach };
        let triggers = Triggers::new(&database, limits, &engine.background);
        let tenant = Self {
            acl,
            owner: owner_of(name, &database.lineage().ancestors).into(),
            database,
            meters,
            spending: Spending::default(),
            replication: Replication::new(&account),
            triggers,
            account,
            traffic: Traffic::default(),
            evicted_clients: AtomicU64::new(0),
            pubsub,
            notifier,
            monitors: Arc::default(),
            tracking_clients: TrackingClients::default(),
            pause: Pause::default(),
            logs: CommandLogs::default(),
            hotkeys: HotKeys::default(),
            events: Events::default(),
            settings: ArcSwap::from_pointee(command_line.database.clone()),
            given: ArcSwap::from_pointee(command_line.clone()),
            requests_kept: AtomicU64::new(0),
            worked_ms: AtomicU64::new(now_ms),
            used_ms: AtomicU64::new(now_ms),
            habits: Habits::default(),
            errors: Errors::default(),
            connections: AtomicU64::new(0),
            memory_peak: AtomicU64::new(0),
            rates: Mutex::default(),
            is_settling: AtomicBool::new(false),
            is_left_alone: AtomicBool::new(false),
            is_kept_up: AtomicBool::new(false),
            saving: Mutex::default(),
            is_save_waiting: AtomicBool::new(false),
            background_save: tokio::sync::Mutex::default(),
            loads: Mutex::default(),
            changes_saved,
        };
        let loss_window = command_line.database.loss_window;
        match tenant.database.own_window() {
            Some(own) if own != loss_window => {
                tracing::info!(database = name, loss_window = %own, "the database has its own loss window");
            }
            Some(_) => {}
            None => tenant.database.shared.journal.declare(loss_window),
        }
        tenant.adopt_config(tenant.database.config().as_deref());
        tenant.database.keep_history(command_line.limits.history.milliseconds());
        let surroundings = OfDatabase {
            name: name.into(),
            pubsub: Arc::clone(&tenant.pubsub),
            replication: Arc::clone(&tenant.replication),
            monitors: Arc::clone(&tenant.monitors),
            shows_cluster: command_line.facts.cluster.is_shown(),
            catalogue,
        };
        tenant.database.shared.scripts.surround(Arc::new(surroundings));
        let tenant = Arc::new(tenant);
        let adopting = Arc::downgrade(&tenant);
        tenant.database.on_config_adopted(Box::new(move |text| {
            if let Some(tenant) = adopting.upgrade() {
                tenant.adopt_config(text);
            }
        }));
        tenant
    }

    /// The settings that the command line gives to a database, with what its record in the directory says instead.
    fn settings_within(record: Option<&DatabaseRecord>, command_line: &Settings) -> Settings {
        let Some(record) = record.filter(|record| !record.settings.is_empty()) else { return command_line.clone() };
        let (settings, problems) = quota::applied_where_valid(&record.settings, command_line);
        for problem in problems {
            // They are checked before they are kept, so another version has written them, or the server has other options.
            tracing::error!(database = &*record.name, problem, "a setting in the directory is left out");
        }
        settings
    }

    /// The operator's limits for it.
    pub fn limits(&self) -> DatabaseLimits {
        self.given.load().limits
    }

    /// Its limits and meters, for the comparison of what was spent.
    pub fn spender(&self) -> Spender<'_> {
        let limits = self.limits().spending;
        Spender { owner: &self.owner, meters: &self.meters, spending: &self.spending, limits }
    }

    /// Replaces the operator's settings.
    ///
    /// # Errors
    /// When the store refuses to keep a loss window.
    pub async fn give(&self, settings: Settings) -> Result<()> {
        let before = self.given.swap(Arc::new(settings));
        let loss_window = self.given.load().database.loss_window;
        self.database.keep_history(self.limits().history.milliseconds());
        let has_other_window = before.database.loss_window != loss_window && self.database.own_window().is_none();
        if has_other_window {
            self.database.shared.journal.declare(loss_window);
        }
        // The limits hold even if the store refuses.
        self.adopt_config(self.database.config().as_deref());
        if has_other_window { self.database.secure().await } else { Ok(()) }
    }

    /// Takes the settings that a manifest keeps, and the given ones for all others.
    fn adopt_config(&self, text: Option<&str>) {
        let loss_window = self.database.shared.journal.window();
        let (settings, problems) = kept::decode(text.unwrap_or_default(), &self.given.load(), loss_window);
        for problem in problems {
            tracing::warn!(database = self.name(), problem, "a setting in the manifest is left out");
        }
        self.configure(settings);
    }

    /// Keeps the settings as they are, so that the database has them after a restart.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn keep_settings(self: &Arc<Self>) -> Result<()> {
        let tenant = Arc::clone(self);
        let text = move || {
            let text = kept::encode(&tenant.settings_now(), &tenant.given.load());
            Some(text).filter(|text| !text.is_empty()).map(Arc::from)
        };
        self.database.declare_config(text).await
    }

    pub fn name(&self) -> &str {
        self.database.name()
    }

    pub fn owner(&self) -> &str {
        &self.owner
    }

    pub fn is_branch(&self) -> bool {
        self.owner() != self.name()
    }

    /// Whether it is a direct or indirect branch of `other`. Ancestors are known by name only, and a name may have had
    /// another owner before, so the owner is compared first.
    pub fn descends_from(&self, other: &Tenant) -> bool {
        self.owner == other.owner
            && (self.is_branch() && !other.is_branch()
                || self.database.lineage().ancestors.iter().any(|ancestor| ancestor == other.name()))
    }

    /// Returns the settings as configured. The loss window in force is the journal's: see [`Self::settings_now`].
    pub fn settings(&self) -> Arc<DatabaseSettings> {
        self.settings.load_full()
    }

    /// Returns the settings with the loss window in force.
    pub fn settings_now(&self) -> DatabaseSettings {
        let loss_window = self.database.shared.journal.window();
        DatabaseSettings { loss_window, ..(*self.settings()).clone() }
    }

    /// Applies changed settings, in the engine too, except for the loss window, which [`Database::declare_window`]
    /// changes.
    pub fn configure(&self, settings: DatabaseSettings) {
        let busy_after_ms = Some(settings.busy_reply_threshold_ms).filter(|ms| *ms > 0);
        self.database.shared.scripts.set_busy_after_ms(busy_after_ms.unwrap_or(u64::MAX));
        self.database.shared.tracking.set_keys_max(settings.tracking_table_max_keys);
        self.replication.set_ping_every(settings.replica_ping_seconds);
        let seed = self.database.shared.placement.seed;
        let requests = self.limits().requests;
        self.traffic.limit(&requests);
        self.database.shared.settings.store(Arc::new(EngineSettings {
            limits: settings.limits(seed),
            memory_max: usize::try_from(settings.max_memory).unwrap_or(usize::MAX),
            records: RecordLimits {
                key_bytes_max: limit_of(requests.key_bytes),
                value_bytes_max: limit_of(requests.value_bytes),
            },
            eviction: match settings.max_memory_policy {
                EvictionPolicy::Noeviction => Eviction::NoEviction,
                EvictionPolicy::AllkeysLfu => Eviction::AllKeysLfu,
                EvictionPolicy::AllkeysLrm => Eviction::AllKeysLrm,
                EvictionPolicy::AllkeysLru => Eviction::AllKeysLru,
                EvictionPolicy::AllkeysRandom => Eviction::AllKeysRandom,
                EvictionPolicy::VolatileLfu => Eviction::VolatileLfu,
                EvictionPolicy::VolatileLrm => Eviction::VolatileLrm,
                EvictionPolicy::VolatileLru => Eviction::VolatileLru,
                EvictionPolicy::VolatileRandom => Eviction::VolatileRandom,
                EvictionPolicy::VolatileTtl => Eviction::VolatileTtl,
            },
            eviction_samples: settings.eviction_samples(),
            lfu: LfuSettings { log_factor: settings.lfu_log_factor, decay_minutes: settings.lfu_decay_time },
            sizes: Default::default(),
        }));
        let clients_max = usize::try_from(settings.max_memory_clients).ok().filter(|max| *max > 0);
        self.database.shared.notices.choose(settings.notify_keyspace_events);
        self.account.set_limit(clients_max.unwrap_or(usize::MAX));
        self.settings.store(Arc::new(settings));
        self.count_replicas();
    }

    /// Refuses writes from now on if there are fewer good replicas than the settings ask for, and accepts them otherwise.
    pub fn count_replicas(&self) {
        let (settings, now_ms) = (self.settings(), (self.database.engine.clock)());
        let lacks = settings.min_replicas_to_write > 0
            && self.replication.good(settings.min_replicas_max_lag_seconds, now_ms)
                < settings.min_replicas_to_write as usize;
        self.database.shared.lacks_replicas.store(lacks, Ordering::Relaxed);
    }

    /// Number of changes since the last checkpoint.
    pub fn changes_unsaved(&self) -> u64 {
        let changes = self.database.shared.changes.load(Ordering::Relaxed);
        changes.saturating_sub(self.changes_saved.load(Ordering::Relaxed))
    }

    /// Replaces the load of the shards in the last second.
    pub fn keep_loads(&self, loads: impl Iterator<Item = (u64, Lately)>) {
        *self.loads.lock() = loads.collect();
    }

    pub fn load_of(&self, shard: u64) -> Lately {
        self.loads.lock().get(&shard).copied().unwrap_or_default()
    }

    /// Holds back its clients' commands, all or those that may write. Until then no key expires either, so that a client
    /// that has paused the others finds nothing changed.
    pub fn pause(&self, now_ms: u64, until_ms: u64, is_all: bool) {
        self.pause.begin(now_ms, until_ms, is_all);
        self.database.shared.still_until_ms.fetch_max(until_ms, Ordering::SeqCst);
    }

    pub fn unpause(&self) {
        self.database.shared.still_until_ms.store(0, Ordering::SeqCst);
        self.pause.end();
    }

    /// Notes that a client has left.
    pub fn left(&self, now_ms: u64) {
        self.used_ms.fetch_max(now_ms, Ordering::Relaxed);
    }

    /// Notes the time of a command over the keyspace.
    #[inline]
    pub fn worked(&self, now_ms: u64) {
        // The workers share this: each writes once a millisecond at most.
        if self.worked_ms.load(Ordering::Relaxed) < now_ms {
            self.worked_ms.fetch_max(now_ms, Ordering::Relaxed);
        }
    }

    /// Unix milliseconds of the last command over the keyspace.
    pub fn worked_ms(&self) -> u64 {
        self.worked_ms.load(Ordering::Relaxed)
    }
}

impl TriggerHost for Tenant {
    fn database(&self) -> &Arc<Database> {
        &self.database
    }

    fn delivered(&self, events: u64) {
        self.meters.count(Meter::TriggerEvents, events);
        self.worked((self.database.engine.clock)());
    }

    fn take(&self, bytes: usize) -> bool {
        self.account.try_take(bytes).is_ok()
    }

    fn give(&self, bytes: usize) {
        self.account.give(bytes);
    }
}

/// A limit in bytes; `usize::MAX`: none.
fn limit_of(bytes: u64) -> usize {
    usize::try_from(bytes).ok().filter(|bytes| *bytes > 0).unwrap_or(usize::MAX)
}

/// Returns the owner of a database: the name in front of a branch's, or the root of its lineage for a branch of version
/// 0.1.0, which had no owner in its name.
fn owner_of<'a>(name: &'a str, ancestors: &'a [String]) -> &'a str {
    match owner_and_branch(name) {
        Some((owner, _)) => owner,
        None => ancestors.last().map_or(name, String::as_str),
    }
}
