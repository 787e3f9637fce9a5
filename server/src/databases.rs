//! The databases of a node, and the tokens that lead to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use dormouse_shard::commands::Flags;
use dormouse_shard::database::{Database, Engine};
use dormouse_shard::error::{Error, Result};
use dormouse_shard::keyspace::{Eviction, Limits, Settings as EngineSettings};
use dormouse_shard::manifest;
use parking_lot::Mutex;

use crate::config::DatabaseSettings;
use crate::errors::Errors;
use crate::keeper::Saving;
use crate::metering::{DatabaseMeters, Totals};
use crate::options::{
    DEFAULT_DATABASE, EvictionPolicy, Token, check_database_name, database_of, inherits, named_database,
};
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
    /// Checkpoints and sleeps that the keeper begins.
    pub saving: Mutex<Saving>,
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
            saving: Mutex::default(),
            loads: Mutex::default(),
            writes_saved,
        };
        tenant.configure(settings.clone());
        match tenant.database.own_window() {
            Some(own) if own != settings.loss_window => {
                tracing::info!(database = name, loss_window = %own, "the database has a loss window of its own");
            }
            Some(_) => {}
            None => tenant.database.shared.journal.declare(settings.loss_window),
        }
        Arc::new(tenant)
    }

    pub fn name(&self) -> &str {
        self.database.name()
    }

    pub fn is_branch(&self) -> bool {
        self.database.lineage().source().is_some()
    }

    /// Whether it is a branch of the database `name`, or a branch of such a one.
    pub fn descends_from(&self, name: &str) -> bool {
        self.database.lineage().ancestors.iter().any(|ancestor| ancestor == name)
    }

    /// As they were configured. The loss window is the journal's: see [`Self::settings_now`].
    pub fn settings(&self) -> Arc<DatabaseSettings> {
        self.settings.load_full()
    }

    /// The same with the loss window that is in force.
    pub fn settings_now(&self) -> DatabaseSettings {
        let loss_window = self.database.shared.journal.window();
        DatabaseSettings { loss_window, ..(*self.settings()).clone() }
    }

    /// Takes over changed settings, for the engine too; but for the loss window, which [`Database::declare_window`] changes.
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

/// All databases of the node: `default`, those that tokens name, and branches, which come and go.
///
/// Invariant: what is made or deleted is so in the store first, and in the map after; meanwhile its name is in `changing`. So
/// the map names nothing that the store does not have, but for databases that nobody has written yet.
pub struct Tenants {
    /// Replaced whole: looked at by those who log in and by the keeper, changed seldom.
    by_name: ArcSwap<BTreeMap<Box<str>, Arc<Tenant>>>,
    default: Arc<Tenant>,
    tokens: Vec<Token>,
    /// The names of databases that are being made or deleted.
    changing: Mutex<BTreeSet<String>>,
}

impl Tenants {
    /// Opens `default`, every database that a token names, and every branch that the store has.
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
        // A process that died while it deleted something has left it.
        if let Err(error) = manifest::sweep(&engine.store, (engine.clock)()).await {
            tracing::warn!(%error, "what deleted databases have left could not be looked for");
        }
        let stored = manifest::databases(&engine.store).await.unwrap_or_else(|error| {
            tracing::error!(%error, "the store cannot be asked for its branches");
            Vec::new()
        });
        for name in stored.iter().filter(|name| check_database_name(name).is_ok()) {
            if !by_name.contains_key(name.as_str()) {
                let tenant = Tenant::open(name, engine, settings, seed()).await;
                // Without tokens whoever is on this machine may enter each by name.
                if tenant.is_branch() || tokens.is_empty() {
                    by_name.insert(name.as_str().into(), tenant);
                }
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
        Self { by_name: ArcSwap::from_pointee(by_name), default, tokens, changing: Mutex::default() }
    }

    pub fn default(&self) -> &Arc<Tenant> {
        &self.default
    }

    /// Whether a client must say who it is.
    pub fn needs_token(&self) -> bool {
        !self.tokens.is_empty()
    }

    /// The database that a token leads to: its own, or, where it names a branch, that branch, if the secret is one of a
    /// database that the branch descends from. Compares all tokens, whatever is presented.
    pub fn of_token(&self, presented: &[u8]) -> Option<Arc<Tenant>> {
        let by_name = self.by_name.load();
        let branch = named_database(presented).and_then(|name| by_name.get(name));
        let ancestors = branch.map(|tenant| tenant.database.lineage().ancestors).unwrap_or_default();
        let inherited = inherits(&self.tokens, presented, &ancestors);
        match database_of(&self.tokens, presented) {
            Some(name) => by_name.get(name).cloned(),
            None => branch.filter(|_| inherited).cloned(),
        }
    }

    pub fn of_name(&self, name: &str) -> Option<Arc<Tenant>> {
        self.by_name.load().get(name).cloned()
    }

    /// In the order of their names, as they are now.
    pub fn all(&self) -> impl Iterator<Item = Arc<Tenant>> + use<> {
        self.by_name.load().values().cloned().collect::<Vec<_>>().into_iter()
    }

    /// The branches of a database, and their branches.
    pub fn branches_of(&self, name: &str) -> impl Iterator<Item = Arc<Tenant>> + use<> {
        let name = name.to_string();
        self.all().filter(move |tenant| tenant.descends_from(&name))
    }

    /// Makes the database `name` out of `source` as it is now. Who is connected to a database of that name that nobody
    /// has ever written to is answered with an error from then on.
    ///
    /// # Errors
    /// Where there is a database of that name, and where the store refuses.
    pub async fn branch(&self, source: &Arc<Tenant>, name: &str, expires_ms: Option<u64>) -> Result<()> {
        let _changing = Changing::begin(self, name)?;
        let engine = &source.database.engine;
        let unused = self.of_name(name);
        if let Some(unused) = &unused
            && !unused.database.give_up_name().await?
        {
            return Err(Error::text("ERR a database of that name exists"));
        }
        let made = source.database.branch(name, expires_ms).await;
        let perhaps = matches!(made, Err(Error::Store(_)));
        if made.is_ok() || unused.is_some() || perhaps {
            let seed = source.database.shared.placement.seed ^ (engine.clock)();
            let tenant = Tenant::open(name, engine, &source.settings_now(), seed).await;
            // A store that did not answer may have made it all the same.
            if made.is_ok() || unused.is_some() || tenant.is_branch() {
                self.change(|by_name| drop(by_name.insert(name.into(), Arc::clone(&tenant))));
            }
        }
        made
    }

    /// Deletes a database for good. Its clients are to be told by the caller.
    ///
    /// # Errors
    /// Where the store refuses: the database answers with an error, and deleting may be tried again.
    pub async fn delete(&self, tenant: &Arc<Tenant>) -> Result<()> {
        let changing = Changing::begin(self, tenant.name())?;
        let is_here = self.of_name(tenant.name()).is_some_and(|here| Arc::ptr_eq(&here, tenant));
        if !is_here {
            return Ok(());
        }
        let ancestors = tenant.database.lineage().ancestors;
        tenant.database.delete().await?;
        self.change(|by_name| drop(by_name.remove(tenant.name())));
        drop(changing);
        for ancestor in ancestors.iter().filter_map(|name| self.of_name(name)) {
            // What only the branch needed. The next checkpoint of the ancestor would find it too.
            if let Err(error) = ancestor.database.collect_garbage().await {
                tracing::warn!(database = ancestor.name(), %error, "what a deleted branch needed is still there");
            }
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

/// A name that only its holder changes.
struct Changing<'a> {
    tenants: &'a Tenants,
    name: String,
}

impl<'a> Changing<'a> {
    fn begin(tenants: &'a Tenants, name: &str) -> Result<Self> {
        if !tenants.changing.lock().insert(name.to_string()) {
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
