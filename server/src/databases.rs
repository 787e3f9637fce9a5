//! The databases of a node, and what leads to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use dormouse_shard::database::{Database, Engine};
use dormouse_shard::error::{Error, Result};
use dormouse_shard::keyspace::{EngineSettings, Eviction, LfuSettings, Limits};
use dormouse_storage::manifest;
use futures::StreamExt;
use futures::future::join_all;
use futures::stream;
use parking_lot::Mutex;

use crate::account::{self, Account};
use crate::acl::Acl;
use crate::acl::catalogue::Catalogue;
use crate::clock;
use crate::config::{DatabaseSettings, Settings, kept};
use crate::errors::Errors;
use crate::latency::Events;
use crate::metering::{CountedCommands, DatabaseMeters};
use crate::monitors::Monitors;
use crate::notifications::Notifier;
use crate::options::{DEFAULT_DATABASE, EvictionPolicy, Tokens, branch_name, check_full_name, owner_and_branch};
use crate::pause::Pause;
use crate::pubsub::PubSub;
use crate::replication::Replication;
use crate::saving::Saving;
use crate::slowlog::Slowlog;
use crate::surroundings::OfDatabase;
use crate::tracking_clients::TrackingClients;

pub mod login;

/// The user name of a connection with the admin token.
pub const ADMIN: &str = "admin";

/// Most databases that are opened at the same time.
const OPENED_TOGETHER: usize = 32;
/// Most databases that are brought into the store at the same time after a start.
const RECOVERED_TOGETHER: usize = 4;

/// One database as the server sees it: the engine's database with its counters, messages and logs.
pub struct Tenant {
    pub database: Arc<Database>,
    /// The root database of a branch, through all branches in between; its own name if it is no branch.
    owner: Box<str>,
    pub meters: Arc<DatabaseMeters>,
    /// The account of its clients.
    pub account: Arc<Account>,
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
    pub slowlog: Slowlog,
    pub events: Events,
    settings: ArcSwap<DatabaseSettings>,
    /// The settings of a new database.
    command_line: Settings,
    /// Unix milliseconds of the last command over the keyspace by closed connections and jobs.
    pub worked_ms: AtomicU64,
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
    /// error.
    pub async fn open(
        name: &str,
        engine: &Engine,
        command_line: &Settings,
        counted: &'static CountedCommands,
        catalogue: &'static Catalogue,
        seed: u64,
    ) -> Arc<Self> {
        let now_ms = (engine.clock)();
        let database = Database::open(name, seed, engine.clone()).await;
        let names = &counted.names;
        let saved = database.saved_meters();
        let meters = if saved.is_empty() {
            DatabaseMeters::new(name, names.len(), now_ms)
        } else {
            DatabaseMeters::restore(name, &saved, names, now_ms).unwrap_or_else(|error| {
                tracing::error!(database = name, %error, "failed to read the meters in the manifest; they start from zero");
                DatabaseMeters::new(name, names.len(), now_ms)
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
        let tenant = Self {
            acl,
            owner: owner_of(name, &database.lineage().ancestors).into(),
            database,
            meters,
            replication: Replication::new(&account),
            account,
            evicted_clients: AtomicU64::new(0),
            pubsub,
            notifier,
            monitors: Arc::default(),
            tracking_clients: TrackingClients::default(),
            pause: Pause::default(),
            slowlog: Slowlog::default(),
            events: Events::default(),
            settings: ArcSwap::from_pointee(command_line.database.clone()),
            command_line: command_line.clone(),
            worked_ms: AtomicU64::new(now_ms),
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
        let surroundings = OfDatabase {
            name: name.into(),
            pubsub: Arc::clone(&tenant.pubsub),
            replication: Arc::clone(&tenant.replication),
            monitors: Arc::clone(&tenant.monitors),
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

    /// Takes the settings that a manifest keeps, and those of the command line for all others.
    fn adopt_config(&self, text: Option<&str>) {
        let loss_window = self.database.shared.journal.window();
        let (settings, problems) = kept::decode(text.unwrap_or_default(), &self.command_line, loss_window);
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
            let text = kept::encode(&tenant.settings_now(), &tenant.command_line);
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
        self.database.shared.settings.store(Arc::new(EngineSettings {
            limits: Limits {
                hash_max_listpack_entries: settings.hash_max_listpack_entries,
                hash_max_listpack_value: settings.hash_max_listpack_value,
                list_max_listpack_size: settings.list_max_listpack_size.max(-5),
                set_max_intset_entries: settings.set_max_intset_entries,
                set_max_listpack_entries: settings.set_max_listpack_entries,
                set_max_listpack_value: settings.set_max_listpack_value,
                zset_max_listpack_entries: settings.zset_max_listpack_entries,
                zset_max_listpack_value: settings.zset_max_listpack_value,
                hll_sparse_max_bytes: settings.hll_sparse_max_bytes,
                stream_node_max_bytes: settings.stream_node_max_bytes,
                stream_node_max_entries: settings.stream_node_max_entries,
                seed,
            },
            memory_max: usize::try_from(settings.max_memory).unwrap_or(usize::MAX),
            eviction: match settings.max_memory_policy {
                EvictionPolicy::Noeviction => Eviction::NoEviction,
                EvictionPolicy::AllkeysLfu => Eviction::AllKeysLfu,
                EvictionPolicy::AllkeysLru => Eviction::AllKeysLru,
                EvictionPolicy::AllkeysRandom => Eviction::AllKeysRandom,
                EvictionPolicy::VolatileLfu => Eviction::VolatileLfu,
                EvictionPolicy::VolatileLru => Eviction::VolatileLru,
                EvictionPolicy::VolatileRandom => Eviction::VolatileRandom,
                EvictionPolicy::VolatileTtl => Eviction::VolatileTtl,
            },
            eviction_samples: settings.max_memory_samples as usize,
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

    /// Notes the time of a command over the keyspace.
    pub fn worked(&self, now_ms: u64) {
        self.worked_ms.fetch_max(now_ms, Ordering::Relaxed);
    }
}

/// Returns the owner of a database: the name in front of a branch's, or the root of its lineage for a branch of version
/// 0.1.0, which had no owner in its name.
fn owner_of<'a>(name: &'a str, ancestors: &'a [String]) -> &'a str {
    match owner_and_branch(name) {
        Some((owner, _)) => owner,
        None => ancestors.last().map_or(name, String::as_str),
    }
}

/// All databases of the node: `default`, those that tokens name, and all others in the store. Branches come and go.
///
/// The owner of a name is fixed before anything can be made under it: a name with a dot belongs to the database in
/// front of the dot, a name without one to the token that names it, or to the node. The server makes only branches with
/// a dot.
///
/// Invariant: databases are made and deleted in the store first, then in the map; meanwhile their names are in
/// `changing`. So the map names nothing that the store does not have, except for databases that were never written.
pub struct Tenants {
    /// Replaced as a whole: read at logins and by the keeper, changed rarely.
    by_name: ArcSwap<BTreeMap<Box<str>, Arc<Tenant>>>,
    /// The database that the map has under this name.
    default: ArcSwap<Tenant>,
    tokens: Tokens,
    /// Most branches of one database.
    pub branches_max: AtomicUsize,
    /// Names of databases that are being made or deleted.
    changing: Mutex<BTreeSet<String>>,
    counted: &'static CountedCommands,
    catalogue: &'static Catalogue,
}

impl Tenants {
    /// Opens `default`, every database that a token names, and every database and branch that the store has.
    ///
    /// # Errors
    /// A text that says what to do, if a token names a database that is a branch of another one.
    pub async fn open(
        tokens: Tokens,
        engine: &Engine,
        command_line: &Settings,
        counted: &'static CountedCommands,
        catalogue: &'static Catalogue,
        mut seed: impl FnMut() -> u64,
    ) -> std::result::Result<Self, String> {
        let (default, swept, stored) = futures::join!(
            Tenant::open(DEFAULT_DATABASE, engine, command_line, counted, catalogue, seed()),
            manifest::sweep(&engine.store, (engine.clock)()),
            manifest::databases(&engine.store),
        );
        // The process may have died while it deleted a database.
        if let Err(error) = swept {
            tracing::warn!(%error, "failed to look for leftovers of deleted databases");
        }
        let mut by_name = BTreeMap::from([(DEFAULT_DATABASE.into(), Arc::clone(&default))]);
        // Logged entries that a crash left are brought into the store, even for databases that no token names any more.
        let logged: Vec<Box<str>> =
            engine.recovered.lock().identities().iter().map(|identity| identity.name.clone()).collect();
        let named = tokens.iter().filter(|token| !token.is_of_branch()).map(|token| token.name());
        let named = named.chain(logged.iter().map(|name| &**name));
        let named: BTreeSet<&str> = named.filter(|name| !by_name.contains_key(*name)).collect();
        for tenant in open_all(named, engine, command_line, (counted, catalogue), &mut seed).await {
            by_name.insert(tenant.name().into(), tenant);
        }
        let stored = stored.unwrap_or_else(|error| {
            tracing::error!(%error, "failed to list the branches in the store");
            Vec::new()
        });
        let stored = stored.iter().map(String::as_str).filter(|name| check_full_name(name).is_ok());
        let others: BTreeSet<&str> = stored.filter(|name| !by_name.contains_key(*name)).collect();
        for tenant in
            open_all(existing(others, engine).await, engine, command_line, (counted, catalogue), &mut seed).await
        {
            by_name.insert(tenant.name().into(), tenant);
        }
        if !tokens.is_empty() {
            let named = tokens.iter().map(|token| token.name()).chain([DEFAULT_DATABASE]);
            let foreign = named.filter_map(|name| by_name.get(name)).find(|tenant| {
                // A token that names a branch in full states its owner.
                tenant.is_branch() && owner_and_branch(tenant.name()).is_none()
            });
            if let Some(foreign) = foreign {
                return Err(token_names_branch(foreign.name(), foreign.owner()));
            }
        }
        let recovered = by_name.values().filter(|tenant| tenant.database.has_recovered());
        let recovered: Vec<_> = recovered.map(|tenant| Arc::clone(&tenant.database)).collect();
        // Behind a network, the next start would read the same objects again, and those that this process adds.
        let is_costly = engine.log.as_ref().is_some_and(|log| log.is_shared());
        let bring_into_store = move |database: Arc<Database>| async move {
            match database.awake().await {
                // A failed checkpoint is reported, and repeated when its time comes.
                Ok(_) if is_costly => drop(database.checkpoint().await),
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(database = database.name(), %error, "failed to bring entries of the log into the store");
                }
            }
        };
        engine.background.spawn(stream::iter(recovered).for_each_concurrent(RECOVERED_TOGETHER, bring_into_store));
        let (by_name, default) = (ArcSwap::from_pointee(by_name), ArcSwap::from(default));
        Ok(Self {
            by_name,
            default,
            tokens,
            branches_max: AtomicUsize::new(usize::MAX),
            changing: Mutex::default(),
            counted,
            catalogue,
        })
    }

    pub fn default(&self) -> Arc<Tenant> {
        self.default.load_full()
    }

    /// Whether a client must authenticate.
    pub fn needs_token(&self) -> bool {
        !self.tokens.is_empty()
    }

    /// Whether clients can still enter `tenant`: it has not been deleted.
    pub fn has(&self, tenant: &Arc<Tenant>) -> bool {
        self.by_name.load().get(tenant.name()).is_some_and(|here| Arc::ptr_eq(here, tenant))
    }

    pub fn of_name(&self, name: &str) -> Option<Arc<Tenant>> {
        self.by_name.load().get(name).cloned()
    }

    /// Returns the database or branch with a full name; also a branch of version 0.1.0 with its owner in front.
    pub fn find(&self, name: &str) -> Option<Arc<Tenant>> {
        find(&self.by_name.load(), name).cloned()
    }

    /// Returns the database that `name` means to a client of `owner`: its own branch of that name if it has one.
    pub fn find_for(&self, owner: &str, name: &str) -> Option<Arc<Tenant>> {
        branch_name(owner, name).ok().and_then(|full| self.find(&full)).or_else(|| self.find(name))
    }

    /// Current databases in the order of their names.
    pub fn all(&self) -> impl Iterator<Item = Arc<Tenant>> + use<> {
        self.by_name.load().values().cloned().collect::<Vec<_>>().into_iter()
    }

    /// Number of an owner's branches, including those that are being made.
    fn branch_count(&self, owner: &str) -> usize {
        let by_name = self.by_name.load();
        let made = by_name.values().filter(|tenant| tenant.is_branch() && tenant.owner() == owner).count();
        let begins = format!("{owner}.");
        let changing = self.changing.lock();
        made + changing.iter().filter(|name| name.starts_with(&begins) && !by_name.contains_key(name.as_str())).count()
    }

    /// Number of databases that are no branches.
    pub fn owners(&self) -> usize {
        self.by_name.load().values().filter(|tenant| !tenant.is_branch()).count()
    }

    /// Branches of a database, including branches of branches.
    pub fn branches_of(&self, tenant: &Tenant) -> impl Iterator<Item = Arc<Tenant>> + use<> {
        let mut branches: Vec<_> = self.all().collect();
        branches.retain(|other| other.descends_from(tenant));
        branches.into_iter()
    }

    /// Makes the branch `name` (short, or with its owner in front) out of `source` as it is now, among the branches of
    /// the source's owner. Returns its full name.
    ///
    /// # Errors
    /// When the name is malformed, the owner has a branch of that name, or the store refuses.
    pub async fn branch(&self, source: &Arc<Tenant>, name: &str, expires_ms: Option<u64>) -> Result<()> {
        let owner = source.owner();
        let name = branch_name(owner, name).map_err(|problem| Error::Text(format!("ERR {problem}").into()))?;
        let _changing = Changing::begin(self, &name, Some(owner))?;
        let engine = &source.database.engine;
        let branches_max = self.branches_max.load(Ordering::Relaxed);
        if self.branch_count(owner) > branches_max {
            let text =
                format!("ERR a database may have at most {branches_max} branches (max-branches): delete one first");
            return Err(Error::Text(text.into()));
        }
        let is_taken = {
            let by_name = self.by_name.load();
            owner_and_branch(&name).is_some_and(|(owner, branch)| find_branch(&by_name, owner, branch).is_some())
        };
        if is_taken {
            return Err(Error::text("ERR a database of that name exists"));
        }
        let made = source.database.branch(&name, expires_ms).await;
        if made.is_ok() || matches!(made, Err(Error::Store(_) | Error::Damaged(_))) {
            let seed = source.database.shared.placement.seed ^ (engine.clock)();
            let tenant = Tenant::open(&name, engine, &source.command_line, self.counted, self.catalogue, seed).await;
            // Those too that the source has not kept.
            tenant.configure(source.settings_now());
            // A store that did not answer may have made it nevertheless.
            if made.is_ok() || tenant.database.lineage().source().is_some() {
                self.change(|by_name| drop(by_name.insert(name.as_str().into(), Arc::clone(&tenant))));
            }
        }
        made
    }

    /// Deletes a database for good. `gone` runs once no client can enter it any more, before its name is free.
    ///
    /// # Errors
    /// When it must stay, or the store refuses: then the database replies with an error, and the deletion may be
    /// retried.
    pub async fn delete(&self, tenant: &Arc<Tenant>, gone: impl FnOnce()) -> Result<()> {
        let changing = Changing::begin(self, tenant.name(), None)?;
        if !self.has(tenant) {
            return Ok(());
        }
        self.check_deletable(tenant)?;
        let ancestors = tenant.database.lineage().ancestors;
        let deleted = tenant.database.delete().await;
        if deleted.is_ok() && tenant.name() == DEFAULT_DATABASE {
            // There always is one: an empty database replaces the branch that had its name.
            let engine = &tenant.database.engine;
            let seed = tenant.database.shared.placement.seed ^ (engine.clock)();
            let fresh =
                Tenant::open(DEFAULT_DATABASE, engine, &tenant.command_line, self.counted, self.catalogue, seed).await;
            self.default.store(Arc::clone(&fresh));
            self.change(|by_name| drop(by_name.insert(DEFAULT_DATABASE.into(), Arc::clone(&fresh))));
        } else if deleted.is_ok() {
            self.change(|by_name| drop(by_name.remove(tenant.name())));
        }
        gone();
        deleted?;
        drop(changing);
        for ancestor in ancestors.iter().filter_map(|name| self.of_name(name)) {
            // Objects that only the branch needed. The ancestor's next checkpoint would also find them.
            if let Err(error) = ancestor.database.collect_garbage().await {
                tracing::warn!(database = ancestor.name(), %error, "failed to delete objects that only a deleted branch needed");
            }
        }
        Ok(())
    }

    /// Checks that a database can be deleted. A branch can always be deleted, even one that version 0.1.0 named
    /// `default`. A database stays while a token opens it, and while it has branches: the next owner of its name would
    /// get them too.
    fn check_deletable(&self, tenant: &Arc<Tenant>) -> Result<()> {
        if tenant.is_branch() {
            return Ok(());
        }
        if tenant.name() == DEFAULT_DATABASE {
            return Err(Error::text("ERR the database `default` cannot be deleted"));
        }
        if self.tokens.iter().any(|token| token.name() == tenant.name()) {
            let text =
                "ERR a token opens this database: restart the server without that token, then delete the database";
            return Err(Error::text(text));
        }
        // The caller has reserved the database's name, so no new branch of it can begin. A branch that began before is
        // among the reserved names or in the map.
        let begins = format!("{}.", tenant.name());
        let being_made = self.changing.lock().iter().any(|name| name.starts_with(&begins));
        if being_made || self.branches_of(tenant).next().is_some() {
            return Err(Error::text("ERR the database has branches: delete those first"));
        }
        Ok(())
    }

    fn change(&self, change: impl Fn(&mut BTreeMap<Box<str>, Arc<Tenant>>)) {
        self.by_name.rcu(|by_name| {
            let mut by_name = (**by_name).clone();
            change(&mut by_name);
            by_name
        });
    }
}

/// Returns the database or branch with a full name.
fn find<'a>(by_name: &'a BTreeMap<Box<str>, Arc<Tenant>>, name: &str) -> Option<&'a Arc<Tenant>> {
    match owner_and_branch(name) {
        Some((owner, branch)) => find_branch(by_name, owner, branch),
        None => by_name.get(name),
    }
}

/// Returns the branch of `owner` with a short name; also one of version 0.1.0, which has no owner in its name.
fn find_branch<'a>(by_name: &'a BTreeMap<Box<str>, Arc<Tenant>>, owner: &str, branch: &str) -> Option<&'a Arc<Tenant>> {
    let flat = || by_name.get(branch).filter(|tenant| tenant.is_branch() && tenant.owner() == owner);
    by_name.get(format!("{owner}.{branch}").as_str()).or_else(flat)
}

fn token_names_branch(name: &str, owner: &str) -> String {
    // A client without a token begins in `default`, and no database can be deleted from within.
    let from =
        if name == DEFAULT_DATABASE { format!(" --url redis://{owner}:x@127.0.0.1:6379") } else { String::new() };
    format!(
        "a token opens the database `{name}`, but in the store `{name}` is a branch of `{owner}`, made by version 0.1.0: \
         the clients of `{owner}` can read and change it.\n\
         Give clients of that branch the token dm_{owner}.{name}_SECRET instead, or delete the branch (start the server \
         without a token on 127.0.0.1, then `dormouse db delete {name}{from}`), or use another name in the token"
    )
}

/// Returns those names that have a manifest, or may have one because the store did not answer.
async fn existing<'a>(names: BTreeSet<&'a str>, engine: &Engine) -> BTreeSet<&'a str> {
    let names: Vec<&str> = names.into_iter().collect();
    let mut found = BTreeSet::new();
    for some in names.chunks(OPENED_TOGETHER) {
        let exist = join_all(some.iter().map(|name| manifest::exists(&engine.store, name))).await;
        found.extend(
            some.iter().zip(exist).filter(|(_, exists)| *exists.as_ref().unwrap_or(&true)).map(|(name, _)| *name),
        );
    }
    found
}

/// Opens databases, several at a time: each costs two round trips to a store behind a network.
async fn open_all(
    names: BTreeSet<&str>,
    engine: &Engine,
    command_line: &Settings,
    (counted, catalogue): (&'static CountedCommands, &'static Catalogue),
    seed: &mut impl FnMut() -> u64,
) -> Vec<Arc<Tenant>> {
    let names: Vec<(&str, u64)> = names.into_iter().map(|name| (name, seed())).collect();
    let mut opened = Vec::with_capacity(names.len());
    for some in names.chunks(OPENED_TOGETHER) {
        opened.extend(
            join_all(
                some.iter().map(|(name, seed)| Tenant::open(name, engine, command_line, counted, catalogue, *seed)),
            )
            .await,
        );
    }
    opened
}

/// A reserved name, which only the holder of the reservation changes.
struct Changing<'a> {
    tenants: &'a Tenants,
    name: String,
}

impl<'a> Changing<'a> {
    /// Reserves `name`, unless it or `owner` is reserved.
    fn begin(tenants: &'a Tenants, name: &str, owner: Option<&str>) -> Result<Self> {
        let mut changing = tenants.changing.lock();
        if owner.is_some_and(|owner| changing.contains(owner)) || !changing.insert(name.to_string()) {
            return Err(Error::text("ERR a database of that name is just being made or deleted"));
        }
        Ok(Self { tenants, name: name.to_string() })
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.tenants.changing.lock().remove(&self.name);
    }
}
