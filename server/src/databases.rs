//! The databases of a node, and the tokens that lead to them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use dormouse_shard::commands::Flags;
use dormouse_shard::database::{Database, Engine};
use dormouse_shard::keyspace::{Eviction, Limits, Settings as EngineSettings};

use parking_lot::Mutex;

use crate::config::DatabaseSettings;
use crate::errors::Errors;
use crate::metering::{DatabaseMeters, Totals};
use crate::options::{DEFAULT_DATABASE, EvictionPolicy, Token, database_of};
use crate::pubsub::PubSub;
use crate::slowlog::Slowlog;
use crate::table::TABLE;

/// One database as the server sees it: the engine's, and all that is counted, published and logged for it.
pub struct Tenant {
    pub database: Arc<Database>,
    pub meters: Arc<DatabaseMeters>,
    pub pubsub: PubSub,
    pub slowlog: Slowlog,
    settings: ArcSwap<DatabaseSettings>,
    /// Unix milliseconds of the last command over the keyspace, as far as closed connections and jobs know.
    pub worked_ms: AtomicU64,
    /// The error replies that its clients got.
    pub errors: Errors,
    /// Connections that chose it, since the start or the last reset of statistics.
    pub connections: AtomicU64,
    /// Most bytes of its data in memory, since the start.
    pub memory_peak: AtomicU64,
    /// Lately, a second.
    pub rates: Mutex<Rates>,
    /// What each shard did in the last second, by its id.
    loads: Mutex<BTreeMap<u64, Lately>>,
    /// Write commands that had succeeded when the last checkpoint began.
    writes_saved: Arc<AtomicU64>,
}

/// Commands, bytes in and bytes out a second.
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
    /// Opens a database of the store, or a new one. One whose manifest cannot be read is there too: it answers with the
    /// error.
    pub async fn open(name: &str, engine: &Engine, settings: &DatabaseSettings, seed: u64) -> Arc<Self> {
        let now_ms = (engine.clock)();
        let database = Database::open(name, seed, engine.clone()).await;
        let names: Vec<&str> = TABLE.entries().iter().map(|entry| &*entry.name).collect();
        let saved = database.saved_meters();
        let meters = if saved.is_empty() {
            DatabaseMeters::new(name, names.len(), now_ms)
        } else {
            DatabaseMeters::restore(name, &saved, &names, now_ms).unwrap_or_else(|error| {
                tracing::error!(database = name, %error, "the meters in the manifest cannot be read; they start from zero");
                DatabaseMeters::new(name, names.len(), now_ms)
            })
        };
        let (kept, clock) = (Arc::clone(&meters), engine.clock);
        let writes_saved = Arc::new(AtomicU64::new(writes(&meters.totals(now_ms))));
        let saved = Arc::clone(&writes_saved);
        // Asked for at the beginning of each checkpoint.
        database.keep_meters(Box::new(move || {
            saved.store(writes(&kept.totals(clock())), Ordering::Relaxed);
            let names: Vec<&str> = TABLE.entries().iter().map(|entry| &*entry.name).collect();
            kept.save(&names, clock())
        }));
        let tenant = Self {
            database,
            meters,
            pubsub: PubSub::default(),
            slowlog: Slowlog::default(),
            settings: ArcSwap::from_pointee(settings.clone()),
            worked_ms: AtomicU64::new(now_ms),
            errors: Errors::default(),
            connections: AtomicU64::new(0),
            memory_peak: AtomicU64::new(0),
            rates: Mutex::default(),
            loads: Mutex::default(),
            writes_saved,
        };
        tenant.configure(settings.clone());
        Arc::new(tenant)
    }

    pub fn name(&self) -> &str {
        self.database.name()
    }

    pub fn settings(&self) -> Arc<DatabaseSettings> {
        self.settings.load_full()
    }

    /// Takes over changed settings, for the engine too.
    pub fn configure(&self, settings: DatabaseSettings) {
        let seed = self.database.shared.placement.seed;
        self.database.shared.settings.store(Arc::new(EngineSettings {
            limits: Limits {
                hash_max_listpack_entries: settings.hash_max_listpack_entries,
                hash_max_listpack_value: settings.hash_max_listpack_value,
                list_max_listpack_size: settings.list_max_listpack_size,
                set_max_intset_entries: settings.set_max_intset_entries,
                set_max_listpack_entries: settings.set_max_listpack_entries,
                set_max_listpack_value: settings.set_max_listpack_value,
                zset_max_listpack_entries: settings.zset_max_listpack_entries,
                zset_max_listpack_value: settings.zset_max_listpack_value,
                seed,
            },
            memory_max: usize::try_from(settings.max_memory).unwrap_or(usize::MAX),
            eviction: match settings.max_memory_policy {
                EvictionPolicy::Noeviction => Eviction::NoEviction,
                EvictionPolicy::AllkeysLru => Eviction::AllKeysLru,
            },
            eviction_samples: settings.max_memory_samples as usize,
        }));
        self.database.shared.journal.declare(settings.loss_window);
        self.settings.store(Arc::new(settings));
    }

    /// Write commands that have succeeded since the last checkpoint.
    pub fn writes_unsaved(&self, totals: &Totals) -> u64 {
        writes(totals).saturating_sub(self.writes_saved.load(Ordering::Relaxed))
    }

    /// Says what the shards did in the last second.
    pub fn keep_loads(&self, loads: impl Iterator<Item = (u64, Lately)>) {
        *self.loads.lock() = loads.collect();
    }

    pub fn load_of(&self, shard: u64) -> Lately {
        self.loads.lock().get(&shard).copied().unwrap_or_default()
    }

    /// Notes that a command over the keyspace was run.
    pub fn worked(&self, now_ms: u64) {
        self.worked_ms.fetch_max(now_ms, Ordering::Relaxed);
    }
}

/// Write commands that have succeeded.
fn writes(totals: &Totals) -> u64 {
    let writes = totals.commands().filter(|(id, _)| TABLE.get(*id).row.flags.contains(Flags::WRITE));
    writes.map(|(_, command)| command.calls.saturating_sub(command.failed)).sum()
}

/// All databases of the node. Which there are is settled when it starts.
pub struct Tenants {
    by_name: BTreeMap<Box<str>, Arc<Tenant>>,
    default: Arc<Tenant>,
    tokens: Vec<Token>,
}

impl Tenants {
    /// Opens `default` and every database that a token names.
    pub async fn open(
        tokens: Vec<Token>,
        engine: &Engine,
        settings: &DatabaseSettings,
        mut seed: impl FnMut() -> u64,
    ) -> Self {
        let default = Tenant::open(DEFAULT_DATABASE, engine, settings, seed()).await;
        let mut by_name = BTreeMap::from([(DEFAULT_DATABASE.into(), Arc::clone(&default))]);
        // What a crash left in the log is brought into the store, also of databases that no token names any more.
        let logged: Vec<Box<str>> =
            engine.recovered.lock().identities().iter().map(|identity| identity.name.clone()).collect();
        for name in tokens.iter().map(Token::database).chain(logged.iter().map(|name| &**name)) {
            if !by_name.contains_key(name) {
                by_name.insert(name.into(), Tenant::open(name, engine, settings, seed()).await);
            }
        }
        for tenant in by_name.values().filter(|tenant| tenant.database.has_recovered()) {
            let database = Arc::clone(&tenant.database);
            engine.background.spawn(async move {
                if let Err(error) = database.awake().await {
                    tracing::error!(database = database.name(), %error, "what the log has cannot be brought into the store");
                }
            });
        }
        Self { by_name, default, tokens }
    }

    pub fn default(&self) -> &Arc<Tenant> {
        &self.default
    }

    /// Whether a client must say who it is.
    pub fn needs_token(&self) -> bool {
        !self.tokens.is_empty()
    }

    /// The database that a token leads to. Takes the same time whatever is presented.
    pub fn of_token(&self, presented: &[u8]) -> Option<&Arc<Tenant>> {
        self.by_name.get(database_of(&self.tokens, presented)?)
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<Tenant>> {
        self.by_name.values()
    }
}
