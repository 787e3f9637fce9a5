//! All databases of the node.
//!
//! A store without a directory is small: all of its databases are opened at the start, and stay in memory. Where there is
//! a directory (see [`crate::directory`]), a database is opened when somebody uses it, and leaves memory some time after
//! it has fallen asleep ([`super::opening`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use arc_swap::ArcSwap;
use dormouse_shard::database::{Database, Engine};
use dormouse_shard::declared::TRIGGERS;
use dormouse_shard::error::{Error, Result};
use dormouse_storage::directory::{DatabaseRecord, DirectoryWriters};
use dormouse_storage::manifest::{self, Lineage};
use dormouse_storage::store::StoreError;
use futures::StreamExt;
use futures::future::join_all;
use futures::stream;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Mutex as AsyncMutex, Semaphore};

use super::Tenant;
use super::elsewhere::Whereabouts;
use super::name_turns::NameTurns;
use super::reservations::{Changing, Reservations};
use super::shared_rate::SharedRates;
use crate::acl::catalogue::Catalogue;
use crate::clock::rfc3339;
use crate::config::Settings;
use crate::directory::{ChangeRefusal, DatabaseDirectory};
use crate::ledger::UsageLedger;
use crate::metering::{CountedCommands, Departed};
use crate::options::{DEFAULT_DATABASE, Tokens, branch_name, check_full_name, owner_and_branch};
use crate::spending::SpendingBook;
use crate::triggers::TriggerHost;

/// Most databases that are opened at the same time.
const OPENED_TOGETHER: usize = 32;
/// Most databases that are brought into the store at the same time after a start.
const RECOVERED_TOGETHER: usize = 4;

/// Most databases that are opened at once for logins with passwords.
const TRIED_TOGETHER: usize = 8;

/// Databases in memory, by name.
pub(super) type Open = BTreeMap<Box<str>, Arc<Tenant>>;

/// All databases of the node: `default`, those that tokens name, those of the directory, and all others in the store.
///
/// The owner of a name is fixed before anything can be made under it: a name with a dot belongs to the database in
/// front of the dot, a name without one to the token that names it, or to the node. The server makes only branches with
/// a dot.
///
/// Invariants:
///
/// - Databases are made and deleted in the store first, then in the directory, then in the map; meanwhile their names are
///   in `changing`. So the map names nothing that the store does not have, except for databases that were never written.
/// - A deleted database that can be brought back is in the directory, and perhaps in `hidden`, but not in the map.
/// - A database is in memory once: it is put into the map under its turn in `turns`, and taken out only while nobody
///   else holds it.
pub struct Tenants {
    pub(super) open: RwLock<Open>,
    /// Deleted databases that are still in memory, and can be brought back ([`super::deleting`]).
    pub(super) hidden: RwLock<Open>,
    /// The database that the map has under this name.
    pub(super) default: ArcSwap<Tenant>,
    pub(super) tokens: Tokens,
    pub directory: Arc<DatabaseDirectory>,
    pub ledger: Arc<UsageLedger>,
    /// The spending of owners with limits.
    pub spending: SpendingBook,
    /// Most branches of one database.
    pub branches_max: AtomicUsize,
    /// The time for which a deleted database can be brought back, milliseconds.
    pub deleted_grace_ms: AtomicU64,
    /// Names of databases that are being made or deleted.
    changing: Reservations,
    /// Held while databases in memory get the operator's settings: the last ones stay.
    pub(super) giving: AsyncMutex<()>,
    /// The rates of requests, of all owners.
    pub(super) rates: SharedRates,
    /// Whose turn it is to make, open or release the database of a name.
    pub(super) turns: NameTurns,
    /// Statistics of those that have left memory. Its lock is taken before that of `open`.
    departed: Mutex<Departed>,
    /// Databases in memory that are no branches.
    owners: AtomicUsize,
    pub(super) opener: Opener,
    /// Whether every database of the store is in the directory or in the map.
    is_complete: AtomicBool,
    /// In a fleet: knows which databases are served here.
    pub(super) whereabouts: OnceLock<Arc<dyn Whereabouts>>,
    /// Places for opening databases whose users have to be looked at.
    pub(super) tried: Semaphore,
    /// About the longest time lately that this took, in microseconds.
    pub(super) look_us: AtomicU64,
}

/// What opens a database.
pub(super) struct Opener {
    pub engine: Engine,
    pub command_line: Settings,
    pub counted: &'static CountedCommands,
    pub catalogue: &'static Catalogue,
    pub seed: fn() -> u64,
    pub ledger: Arc<UsageLedger>,
}

impl Opener {
    /// `record`: as the directory knows it, if it does.
    pub async fn open(&self, name: &str, record: Option<&DatabaseRecord>) -> Arc<Tenant> {
        let settings = Tenant::settings_within(record, &self.command_line);
        // Each has its own seed: no tenant may infer another's from what it sees of its own.
        let recorded = self.ledger.recorded(name);
        Tenant::open(name, &self.engine, &settings, self.counted, self.catalogue, (self.seed)(), recorded).await
    }
}

impl Tenants {
    /// Opens `default` and every database that a token names or that a crash has left in the log. Without a directory,
    /// also every database and branch that the store has. `writers`: whether other nodes write to the directory, too; then it
    /// begins now.
    ///
    /// # Errors
    /// A text that says what to do, if a token names a database that is a branch of another one, or the directory cannot
    /// be read.
    pub async fn open(
        tokens: Tokens,
        engine: &Engine,
        writers: DirectoryWriters,
        command_line: &Settings,
        counted: &'static CountedCommands,
        catalogue: &'static Catalogue,
        seed: fn() -> u64,
    ) -> std::result::Result<Self, String> {
        let (ledger, directory) = futures::join!(
            UsageLedger::open(&engine.store, engine.writer, engine.clock),
            DatabaseDirectory::open(engine, writers),
        );
        let opener = Opener {
            engine: engine.clone(),
            command_line: command_line.clone(),
            counted,
            catalogue,
            seed,
            ledger: Arc::clone(&ledger),
        };
        let directory = directory.map_err(|error| {
            format!("the directory of databases cannot be read: {error}; `dormouse check` says what to do")
        })?;
        let owner = engine.log.as_ref().and_then(|log| log.owner());
        if engine.claims.is_none()
            && let Err(error) = manifest::sweep_keys(&engine.store, owner.map(|owner| &**owner)).await
        {
            tracing::warn!(%error, "failed to look for keys of deleted databases");
        }
        let record = directory.find(DEFAULT_DATABASE);
        let (default, swept) = futures::join!(opener.open(DEFAULT_DATABASE, record.as_ref()), async {
            // Other nodes may be about to commit what looks like a leftover.
            match engine.claims {
                Some(_) => Ok(Default::default()),
                None => manifest::sweep(&engine.store, (engine.clock)()).await,
            }
        },);
        // The process may have died while it deleted a database.
        if let Err(error) = swept {
            tracing::warn!(%error, "failed to look for leftovers of deleted databases");
        }
        let tenants = Self {
            open: RwLock::default(),
            hidden: RwLock::default(),
            default: ArcSwap::from(Arc::clone(&default)),
            tokens,
            directory,
            ledger,
            spending: SpendingBook::new(command_line.facts.prices.clone()),
            branches_max: AtomicUsize::new(usize::MAX),
            deleted_grace_ms: AtomicU64::new(0),
            changing: Reservations::default(),
            giving: AsyncMutex::default(),
            rates: SharedRates::default(),
            turns: NameTurns::default(),
            departed: Mutex::default(),
            owners: AtomicUsize::new(0),
            opener,
            is_complete: AtomicBool::new(false),
            whereabouts: OnceLock::new(),
            tried: Semaphore::new(TRIED_TOGETHER),
            look_us: AtomicU64::new(0),
        };
        tenants.put(default);
        tenants.open_at_start().await;
        if tenants.directory.is_shared() && !tenants.directory.has_begun() {
            let founding =
                tenants.founding_of_store().await.map_err(|error| format!("the store cannot be listed: {error}"))?;
            let begun = tenants.directory.begin(founding).await;
            begun.map_err(|refusal| format!("the directory of databases cannot begin: {refusal}"))?;
        }
        tenants.check_tokens()?;
        tenants.bring_into_store();
        Ok(tenants)
    }

    async fn open_at_start(&self) {
        // A node of a fleet opens what it has claimed.
        if self.opener.engine.claims.is_some() {
            return;
        }
        // Logged entries that a crash left are brought into the store, even for databases that no token names any more.
        let logged: Vec<Box<str>> = {
            let recovered = self.opener.engine.recovered.lock();
            recovered.identities().iter().map(|identity| identity.name.clone()).collect()
        };
        let named = self.tokens.iter().filter(|token| !token.is_of_branch()).map(|token| token.name());
        // Branches of version 0.1.0 belong to an owner that their names do not tell.
        let flat: Vec<Box<str>> = self.directory.known().flat_branches().collect();
        // Events that triggers still had to deliver when the process before this one ended are delivered now.
        let triggered: Vec<Box<str>> = self.directory.known().triggered().collect();
        let named = named.chain([&logged, &flat, &triggered].into_iter().flatten().map(|name| &**name));
        self.open_all(named.collect()).await;
        if !self.directory.has_begun() {
            self.is_complete.store(self.open_stored().await, Ordering::Release);
        }
    }

    /// Opens every database that the store has. Returns whether the store could be asked.
    async fn open_stored(&self) -> bool {
        let stored = match manifest::databases(&self.opener.engine.store).await {
            Ok(stored) => stored,
            Err(error) => {
                tracing::error!(%error, "failed to list the branches in the store");
                return false;
            }
        };
        let others = stored.iter().map(String::as_str).filter(|name| check_full_name(name).is_ok());
        let others: BTreeSet<&str> = others.filter(|name| !self.is_taken(name)).collect();
        self.open_all(existing(others, &self.opener.engine).await).await;
        true
    }

    /// Opens databases, several at a time: each costs two round trips to a store behind a network.
    async fn open_all(&self, names: BTreeSet<&str>) {
        let names: Vec<&str> = names.into_iter().filter(|name| self.of_name(name).is_none()).collect();
        let open = async |name: &str| {
            let turn = self.turns.of(name);
            let _held = turn.come().await;
            // What the log has of a deleted database is brought into the store all the same.
            if self.directory.deleted(name).is_some() {
                self.hidden_in_memory(name).await;
            } else if self.of_name(name).is_none() {
                // It may be a branch that was made meanwhile.
                self.put(self.opener.open(name, self.record_to_open(name).as_ref()).await);
            }
        };
        for some in names.chunks(OPENED_TOGETHER) {
            join_all(some.iter().map(|name| open(name))).await;
        }
    }

    /// The records to begin the directory of a fleet with: those of all databases that the store or its log has.
    async fn founding_of_store(&self) -> std::result::Result<Vec<DatabaseRecord>, StoreError> {
        let engine = &self.opener.engine;
        let mut records = BTreeMap::new();
        for identity in engine.recovered.lock().identities() {
            let record = DatabaseRecord::new(&identity.name, identity.created_ms);
            records.insert(record.name.clone(), record);
        }
        // Not opened: a database takes its entries of the log when it is.
        let stored = manifest::databases(&engine.store).await?;
        let stored: Vec<&str> =
            stored.iter().map(String::as_str).filter(|name| check_full_name(name).is_ok()).collect();
        for some in stored.chunks(OPENED_TOGETHER) {
            let newest = join_all(some.iter().map(|name| manifest::latest_root(&engine.store, name))).await;
            for newest in newest {
                let Some(newest) = newest? else { continue };
                let (manifest, lineage) = (&newest.known, Lineage::of(&newest.known));
                let record = DatabaseRecord {
                    expires_ms: lineage.expires_ms,
                    has_triggers: manifest.settings.contains_key(TRIGGERS),
                    ..DatabaseRecord::new(&manifest.database, manifest.created_ms)
                };
                records.insert(record.name.clone(), record);
            }
        }
        Ok(records.into_values().collect())
    }

    fn check_tokens(&self) -> std::result::Result<(), String> {
        if !self.tokens.is_empty() {
            let named = self.tokens.iter().map(|token| token.name()).chain([DEFAULT_DATABASE]);
            let foreign = named.filter_map(|name| self.of_name(name)).find(|tenant| {
                // A token that names a branch in full states its owner.
                tenant.is_branch() && owner_and_branch(tenant.name()).is_none()
            });
            if let Some(foreign) = foreign {
                return Err(token_names_branch(foreign.name(), foreign.owner()));
            }
        }
        Ok(())
    }

    fn bring_into_store(&self) {
        let engine = &self.opener.engine;
        let recovered = self.all_with_hidden().filter(|tenant| tenant.database.has_recovered());
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
    }

    /// Brings databases into the directory that the store has beside it: another version has made them, or a crash came
    /// between. To be called once, when the start is over.
    pub async fn adopt_strays(&self) {
        if !self.directory.has_begun() || self.opener.engine.claims.is_some() {
            return;
        }
        let is_complete = self.open_stored().await;
        for tenant in self.all() {
            let is_stray = !self.directory.known().holds(tenant.name()) && tenant.database.lineage().created_ms > 0;
            if is_stray && let Err(error) = self.enter_record(&tenant).await {
                tracing::warn!(database = tenant.name(), %error, "failed to bring a database into the directory");
            }
        }
        self.is_complete.store(is_complete, Ordering::Release);
    }

    /// Brings a database into the directory, if that has begun.
    async fn enter_record(&self, tenant: &Tenant) -> std::result::Result<(), ChangeRefusal> {
        if !self.directory.has_begun() {
            return Ok(());
        }
        let record = record_of(tenant);
        let name = record.name.clone();
        let enter = move |before: Option<DatabaseRecord>| Ok((before.or_else(|| Some(record.clone())), ()));
        self.directory.change(&name, Vec::new(), enter).await
    }

    /// The records to begin a directory with; none if it has begun.
    pub fn founding(&self) -> Vec<DatabaseRecord> {
        if self.directory.has_begun() {
            return Vec::new();
        }
        self.all().map(|tenant| record_of(&tenant)).collect()
    }

    pub fn default(&self) -> Arc<Tenant> {
        self.default.load_full()
    }

    /// Whether a client must authenticate.
    pub fn needs_token(&self) -> bool {
        !self.tokens.is_empty() || self.directory.has_tokens()
    }

    /// Whether clients can still enter `tenant`: it has not been deleted.
    pub fn has(&self, tenant: &Arc<Tenant>) -> bool {
        self.open.read().get(tenant.name()).is_some_and(|here| Arc::ptr_eq(here, tenant))
    }

    /// Whether there is a database of this name, in memory or not.
    pub fn has_name(&self, name: &str) -> bool {
        self.open.read().contains_key(name) || self.directory.known().has(name)
    }

    /// Whether a name is not free: a database has it, or a deleted one that can be brought back.
    fn is_taken(&self, name: &str) -> bool {
        self.open.read().contains_key(name) || self.directory.known().holds(name)
    }

    /// Returns a database that is in memory.
    pub fn of_name(&self, name: &str) -> Option<Arc<Tenant>> {
        self.open.read().get(name).cloned()
    }

    /// Returns the database or branch with a full name that is in memory; also a branch of version 0.1.0 with its owner in
    /// front.
    pub fn find(&self, name: &str) -> Option<Arc<Tenant>> {
        find(&self.open.read(), name).cloned()
    }

    /// Databases in memory in the order of their names.
    pub fn all(&self) -> impl Iterator<Item = Arc<Tenant>> + use<> {
        self.open.read().values().cloned().collect::<Vec<_>>().into_iter()
    }

    /// All databases in memory, and the statistics of those that were. None is missing, and none counts twice.
    pub fn all_and_departed(&self) -> (Vec<Arc<Tenant>>, Departed) {
        let departed = self.departed.lock();
        (self.all().collect(), departed.clone())
    }

    /// Names of an owner's branches, including those that are being made.
    fn branch_names(&self, owner: &str) -> BTreeSet<Box<str>> {
        let begins = format!("{owner}.");
        let mut names: BTreeSet<Box<str>> =
            self.directory.known().after("", &begins).map(|record| record.name).collect();
        let open = self.open.read();
        let own = open.values().filter(|tenant| tenant.is_branch() && tenant.owner() == owner);
        names.extend(own.map(|tenant| tenant.name().into()));
        names.extend(self.changing.beginning_with(&begins));
        names
    }

    /// Number of an owner's deleted branches that can be brought back. They take room in the store.
    fn deleted_branches(&self, owner: &str) -> usize {
        let begins = format!("{owner}.");
        self.directory.known().all_deleted().filter(|record| record.name.starts_with(&begins)).count()
    }

    /// Number of databases in memory that are no branches.
    pub fn owners(&self) -> usize {
        self.owners.load(Ordering::Relaxed)
    }

    /// Branches of a database in memory, including branches of branches.
    pub fn branches_of(&self, tenant: &Tenant) -> impl Iterator<Item = Arc<Tenant>> + use<> {
        let mut branches: Vec<_> = self.all().collect();
        branches.retain(|other| other.descends_from(tenant));
        branches.into_iter()
    }

    /// Makes the branch `name` (short, or with its owner in front) out of `source` as it is now, or as it was at a moment
    /// (unix milliseconds), among the branches of the source's owner.
    ///
    /// # Errors
    /// When the name is malformed, the owner has a branch of that name, the source's history lacks the moment, or the store
    /// refuses.
    pub async fn branch(
        &self,
        source: &Arc<Tenant>,
        name: &str,
        expires_ms: Option<u64>,
        at_ms: Option<u64>,
    ) -> Result<()> {
        let owner = source.owner();
        let name = branch_name(owner, name).map_err(|problem| Error::Text(format!("ERR {problem}").into()))?;
        let _changing = self.changing.begin(&name, Some(owner))?;
        let branches_max = self.branches_max.load(Ordering::Relaxed);
        if self.branch_names(owner).len() + self.deleted_branches(owner) > branches_max {
            let text =
                format!("ERR a database may have at most {branches_max} branches (max-branches): delete one first");
            return Err(Error::Text(text.into()));
        }
        if self.directory.find(owner).is_some_and(|record| record.is_unclaimed) {
            return Err(Error::text("ERR this database has no branches until the operator has claimed it"));
        }
        let is_taken = owner_and_branch(&name)
            .is_some_and(|(owner, branch)| find_branch(&self.open.read(), owner, branch).is_some());
        if let Some(text) = self.directory.deleted(&name).map(|record| still_deleted(&record.name)) {
            return Err(Error::Text(format!("ERR {text}").into()));
        }
        if is_taken || self.directory.known().has(&name) {
            return Err(Error::text("ERR a database of that name exists"));
        }
        // A client that waits for the branch may enter as soon as it has a record.
        let turn = self.turns.of(&name);
        let _held = turn.come().await;
        let made = match at_ms {
            Some(at_ms) => source.database.branch_at(&name, expires_ms, at_ms).await,
            None => source.database.branch(&name, expires_ms).await,
        };
        let made = made.map_err(|error| match error {
            Error::MomentLost(from_ms) => {
                let text =
                    format!("ERR the history of {} begins at {}", source.name(), rfc3339(from_ms).unwrap_or_default());
                Error::Text(text.into())
            }
            error => error,
        });
        if made.is_ok() || matches!(made, Err(Error::Store(_) | Error::Damaged(_))) {
            // With the limits of its owner.
            let record = self.directory.find(owner);
            let tenant = self.opener.open(&name, record.as_ref()).await;
            // Those settings too that the source has not kept.
            tenant.configure(source.settings_now());
            // A store that did not answer may have made it nevertheless.
            if made.is_ok() || tenant.database.lineage().source().is_some() {
                self.enter_record(&tenant).await.map_err(|refusal| Error::Store(refusal.to_string()))?;
                self.put(Arc::clone(&tenant));
                self.follow_settings(&tenant, record.as_ref()).await;
            }
        }
        made
    }

    /// Reserves the name of a database whose time is over, to delete it. Its time cannot be prolonged from then on. `None`: the
    /// name is reserved already, or the database has more time.
    pub async fn reserve_ended(&self, name: &str, now_ms: u64) -> Option<Changing> {
        let reserved = self.changing.begin(name, None).ok()?;
        // In turn with the changes of its record: one of them may prolong its time.
        let confirm = move |record: Option<DatabaseRecord>| {
            let is_over = |record: &DatabaseRecord| record.expires_ms.is_some_and(|end| end <= now_ms);
            match record.as_ref().is_none_or(is_over) {
                true => Ok((record, ())),
                false => Err(ChangeRefusal::Conflict("the database has more time".to_owned())),
            }
        };
        self.directory.change(name, Vec::new(), confirm).await.ok().map(|()| reserved)
    }

    /// Opens an empty database `default` in place of the one that had the name.
    pub(super) async fn renew_default(&self) {
        let fresh = self.opener.open(DEFAULT_DATABASE, None).await;
        self.default.store(Arc::clone(&fresh));
        self.put(fresh);
    }

    /// Checks that a database can be deleted. A branch can always be deleted, even one that version 0.1.0 named
    /// `default`. A database stays while a token of the command line opens it, and while it has branches: the next owner
    /// of its name would get them too.
    pub(super) fn check_deletable(&self, tenant: &Arc<Tenant>) -> Result<()> {
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
        // among the names.
        if !self.branch_names(tenant.name()).is_empty() {
            return Err(Error::text("ERR the database has branches: delete those first"));
        }
        Ok(())
    }

    /// Puts a database into the map.
    pub(super) fn put(&self, tenant: Arc<Tenant>) {
        self.share_rate(&tenant);
        tenant.traffic.set_rate();
        self.spending.enter(tenant.spender(), (self.opener.engine.clock)());
        let host: Weak<dyn TriggerHost> = Arc::<Tenant>::downgrade(&tenant);
        tenant.triggers.start(host);
        let mut open = self.open.write();
        let adds = usize::from(!tenant.is_branch());
        if let Some(before) = open.insert(tenant.name().into(), tenant) {
            before.triggers.stop();
            self.owners.fetch_sub(usize::from(!before.is_branch()), Ordering::Relaxed);
        }
        self.owners.fetch_add(adds, Ordering::Relaxed);
    }

    /// Takes a database out of the map, if `may` says so while nobody can find it there.
    pub(super) fn take(&self, name: &str, may: impl FnOnce(&Arc<Tenant>) -> bool) -> bool {
        let mut departed = self.departed.lock();
        let mut open = self.open.write();
        if !open.get(name).is_some_and(may) {
            return false;
        }
        let taken = open.remove(name);
        drop(open);
        if let Some(tenant) = &taken {
            let now_ms = (self.opener.engine.clock)();
            departed.add(&tenant.meters, now_ms);
            self.spending.leave(tenant.spender(), now_ms);
            tenant.triggers.stop();
        }
        let owners = taken.as_ref().map_or(0, |tenant| usize::from(!tenant.is_branch()));
        self.owners.fetch_sub(owners, Ordering::Relaxed);
        true
    }

    /// Whether no database has this name, not even one that the directory does not know yet.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn is_free(&self, name: &str) -> Result<bool> {
        if self.is_taken(name) {
            return Ok(false);
        }
        // Until the strays are adopted, the store may have more.
        let engine = &self.opener.engine;
        let is_complete = self.is_complete.load(Ordering::Acquire);
        match is_complete {
            true => Ok(true),
            false => match manifest::exists(&engine.store, name).await {
                Ok(exists) => Ok(!exists),
                Err(error) => Err(Error::Store(error.to_string())),
            },
        }
    }

    pub fn is_admin(&self, presented: &[u8]) -> bool {
        self.tokens.is_admin(presented)
    }

    pub fn has_admin(&self) -> bool {
        self.tokens.has_admin()
    }

    /// The names that are reserved, for changes that are decided elsewhere.
    pub fn reserved(&self) -> Reservations {
        self.changing.clone()
    }

    /// The record of a database that the directory does not know yet.
    pub fn record_of(&self, tenant: &Tenant) -> DatabaseRecord {
        record_of(tenant)
    }

    /// Reserves the name of a database that is to be made.
    ///
    /// # Errors
    /// When it is being made or deleted.
    pub fn reserve(&self, name: &str) -> Result<Changing> {
        self.changing.begin(name, None)
    }
}

/// Why nothing can be made under the name of a deleted database.
pub fn still_deleted(name: &str) -> String {
    format!(
        "database `{name}` was deleted and can still be brought back: `dormouse db undelete {name}` does that, and \
         `dormouse db delete {name} --now` deletes it for good"
    )
}

/// The record of a database that the directory does not know yet.
fn record_of(tenant: &Tenant) -> DatabaseRecord {
    let lineage = tenant.database.lineage();
    let is_flat = tenant.is_branch() && owner_and_branch(tenant.name()).is_none();
    // It has no manifest before the first write.
    let created_ms = Some(lineage.created_ms).filter(|ms| *ms > 0).unwrap_or_else(tenant.database.engine.clock);
    DatabaseRecord {
        expires_ms: lineage.expires_ms,
        owner: is_flat.then(|| tenant.owner().into()),
        has_triggers: !tenant.triggers.is_empty(),
        ..DatabaseRecord::new(tenant.name(), created_ms)
    }
}

/// Returns the database or branch with a full name.
pub(super) fn find<'a>(open: &'a Open, name: &str) -> Option<&'a Arc<Tenant>> {
    match owner_and_branch(name) {
        Some((owner, branch)) => find_branch(open, owner, branch),
        None => open.get(name),
    }
}

/// Returns the branch of `owner` with a short name; also one of version 0.1.0, which has no owner in its name.
pub(super) fn find_branch<'a>(open: &'a Open, owner: &str, branch: &str) -> Option<&'a Arc<Tenant>> {
    let flat = || open.get(branch).filter(|tenant| tenant.is_branch() && tenant.owner() == owner);
    open.get(format!("{owner}.{branch}").as_str()).or_else(flat)
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
