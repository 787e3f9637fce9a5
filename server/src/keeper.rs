//! The keeper: periodic work, away from the workers.
//!
//! Ten times a second it removes expired keys, and puts databases to sleep that were woken for a brief look; it rests while no
//! client sends commands and nothing of this is due. Once a second it looks at every database, asks the autoscaler for actions,
//! and runs them: split, merge, checkpoint, sleep. The autoscaler decides; the keeper acts. It also deletes databases whose time
//! to live has ended, and for good those that were deleted and can be brought back no more, closes connections whose token has expired, and lets databases that sleep leave memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dormouse_autoscaler::{Action, Autoscaler, DatabaseLoad, NodeLoad, Observation, Part, ShardLoad};
use dormouse_shard::error::Error;
use dormouse_shard::health::ConditionKind;
use dormouse_shard::keyspace::INDEXES;
use dormouse_shard::shard::ShardView;
use dormouse_storage::retry::Notice;
use tokio::sync::Mutex;

use crate::clients::{Client, OutputLimit};
use crate::databases::{Changing, Lately, Rates, Removal, Tenant, Tenants};
use crate::health;
use crate::metering::Meter;
use crate::node::{Node, OVERTAKEN, Shutdown};
use crate::saving::Attempts;
use crate::spending::SpendingEvent;

const EXPIRE_EVERY: Duration = Duration::from_millis(100);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The longest rest: what no command has caused is late by this time at most.
const REST_MAX: Duration = Duration::from_secs(1);
/// Most databases whose time has ended that one look deletes.
const DELETED_AT_ONCE: usize = 256;
/// Looks between two searches for databases that can leave memory.
const LOOKS_PER_RELEASE: u64 = 5;
/// Time after its last poll in which a database that woke for polls only stays awake.
const BRIEF_MS: u64 = 200;
/// Time for which an overtaken process tells clients and probes the reason, before it ends.
const REFUSE_FOR: Duration = Duration::from_secs(2);

/// Starts the keeper's tasks in the current runtime. They end when the node drains.
pub fn start(node: &Arc<Node>, autoscaler: Autoscaler) {
    tokio::spawn(expire(Arc::clone(node)));
    tokio::spawn(stop_when_overtaken(Arc::clone(node)));
    tokio::spawn(look(Arc::clone(node), autoscaler));
}

async fn expire(node: Arc<Node>) {
    let mut every = tokio::time::interval(EXPIRE_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !node.is_draining() {
        every.tick().await;
        let_go(&node);
        for tenant in node.tenants.all() {
            tenant.count_replicas();
            // Its locks may be held for long; other databases must not wait for them.
            if !tenant.database.chores().is_empty()
                && !tenant.is_left_alone.load(Ordering::Relaxed)
                && let Some(turn) = Alone::begin(&tenant, |tenant| &tenant.is_kept_up)
            {
                tokio::spawn(keep_up(Arc::clone(&node), turn));
            }
        }
        node.activity.rest(rest_time(&node)).await;
    }
}

/// Puts databases to sleep that were woken for polls only, when no more of them have come for a moment.
pub fn let_go(node: &Arc<Node>) {
    let now_ms = (node.engine.clock)();
    for tenant in node.tenants.all() {
        let database = &tenant.database;
        let is_over = database.is_brief() && !database.is_running() && tenant.habits.is_quiet(now_ms, BRIEF_MS);
        if is_over && database.is_awake() && tenant.saving.lock().begin() {
            let action = Action::Sleep { database: tenant.name().to_string() };
            tracing::debug!(database = action.database(), "{action}");
            tokio::spawn(apply(Arc::clone(node), action, Observation::default()));
        }
    }
}

/// The time for which nothing is due if no client sends a command.
fn rest_time(node: &Node) -> Duration {
    let now_ms = (node.engine.clock)();
    let due_ms = |tenant: Arc<Tenant>| match tenant.settings().min_replicas_to_write {
        _ if tenant.database.is_brief() => 0,
        0 => tenant.database.chores_from_ms(),
        // Time may make a replica one that lags.
        _ => 0,
    };
    let soonest_ms = node.tenants.all().map(due_ms).min().unwrap_or(u64::MAX);
    Duration::from_millis(soonest_ms.saturating_sub(now_ms)).min(REST_MAX)
}

/// Removes expired or excess keys of one database, slice by slice, while that is worthwhile. All of its shards take
/// turns, so that none waits for the backlog of another.
async fn keep_up(node: Arc<Node>, turn: Alone) {
    let database = &turn.tenant.database;
    let mut left = database.chores();
    while !left.is_empty() && !node.is_draining() {
        for chore in std::mem::take(&mut left) {
            if database.work_at(&chore).await {
                left.push(chore);
            }
            // A command that arrived meanwhile goes first.
            tokio::task::yield_now().await;
        }
    }
}

/// Work of the keeper on one database that must not run twice at a time. Dropping it ends the work.
struct Alone {
    tenant: Arc<Tenant>,
    runs: fn(&Tenant) -> &AtomicBool,
}

impl Alone {
    fn begin(tenant: &Arc<Tenant>, runs: fn(&Tenant) -> &AtomicBool) -> Option<Self> {
        let begun = !runs(tenant).swap(true, Ordering::SeqCst);
        begun.then(|| Self { tenant: Arc::clone(tenant), runs })
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        (self.runs)(&self.tenant).store(false, Ordering::SeqCst);
    }
}

async fn look(node: Arc<Node>, autoscaler: Autoscaler) {
    let mut every = tokio::time::interval(LOOK_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut keeper = Keeper::new(autoscaler);
    while !node.is_draining() {
        every.tick().await;
        if node.is_overtaken() {
            return;
        }
        keeper.look(&node, monotonic_ms(&node));
    }
}

/// What the keeper knows from one look at all databases to the next.
pub struct Keeper {
    autoscaler: Autoscaler,
    before: Before,
    uses: LastUses<String>,
    saves: LastUses<String>,
    clients: LastUses<u64>,
    /// The limits that slow readers were last looked at with.
    output_limits: Option<[OutputLimit; 3]>,
    deleting: Arc<Mutex<Attempts>>,
    looks: u64,
    /// Held while databases leave memory.
    releasing: Arc<Mutex<()>>,
}

impl Keeper {
    pub fn new(autoscaler: Autoscaler) -> Self {
        let (uses, saves, clients) = (LastUses::default(), LastUses::default(), LastUses::default());
        let before = Before::default();
        let (deleting, releasing) = (Arc::default(), Arc::default());
        Self { autoscaler, before, uses, saves, clients, output_limits: None, deleting, looks: 0, releasing }
    }

    /// Looks at every database, and begins what is due, in the current runtime.
    pub fn look(&mut self, node: &Arc<Node>, monotonic_ms: u64) {
        let Self { autoscaler, before, uses, saves, clients, output_limits, deleting, looks, releasing } = self;
        let now_ms = (node.engine.clock)();
        uses.look(now_ms, monotonic_ms);
        uses.moments.retain(|name, _| node.tenants.of_name(name).is_some());
        saves.look(now_ms, monotonic_ms);
        saves.moments.retain(|name, _| node.tenants.of_name(name).is_some());
        before.rates(node, now_ms);
        clients.look(now_ms, monotonic_ms);
        close_idle_clients(node, clients);
        close_slow_readers(node, output_limits, now_ms);
        close_expired(node, now_ms);
        delete_expired(node, now_ms, deleting);
        *looks += 1;
        if looks.is_multiple_of(LOOKS_PER_RELEASE)
            && let Ok(turn) = Arc::clone(releasing).try_lock_owned()
        {
            let node = Arc::clone(node);
            tokio::spawn(async move {
                node.tenants.settle_hidden().await;
                node.tenants.release_unused(now_ms).await;
                drop(turn);
            });
        }
        let mut databases = Vec::new();
        let mut used = 0;
        for tenant in node.tenants.all() {
            let bytes = tenant.database.used_bytes() as u64;
            used += bytes;
            tenant.memory_peak.fetch_max(bytes, Ordering::Relaxed);
            tenant.meters.observe_memory(now_ms, bytes);
            tenant.meters.observe_store(now_ms, own_bytes(&tenant));
            count(&tenant);
            // It is kept until the ledger has it.
            drop(tenant.meters.close_window(now_ms));
            look_at_spending(node, &tenant, now_ms);
            if tenant.database.is_awake() {
                settle_import(node, &tenant);
                databases.push(observe(node, &tenant, uses, saves));
            }
        }
        record_usage(node);
        node.memory_peak.fetch_max(used, Ordering::Relaxed);
        if let Some(log) = &node.engine.log {
            log.expect_checkpoints(databases.iter().map(|database| database.dirty_bytes).sum(), used);
        }
        let observation = Observation {
            node: NodeLoad {
                workers: node.facts.workers,
                cpu_busy: before.cpu_busy,
                memory_bytes: used,
                memory_bytes_max: 0,
            },
            databases,
        };
        let every = node.settings().checkpoint_every.duration();
        autoscaler.checkpoint_every(every.map(|every| every.as_millis() as u64));
        let plan = autoscaler.step(&observation, monotonic_ms);
        plan.notes.iter().for_each(|note| tracing::warn!("{note}"));
        let urgent = node.tenants.all().filter(|tenant| tenant.database.needs_checkpoint());
        let urgent = urgent.map(|tenant| Action::Checkpoint { database: tenant.name().to_string() });
        let writes = |action: &Action| match action {
            Action::Checkpoint { database } | Action::Sleep { database } => node.tenants.of_name(database),
            _ => None,
        };
        for action in plan.actions.into_iter().chain(urgent) {
            let tenant = writes(&action);
            if tenant.as_ref().is_some_and(|tenant| !tenant.saving.lock().begin()) {
                continue;
            }
            match tenant {
                // The first attempt was logged.
                Some(tenant) if tenant.saving.lock().is_failing() => {
                    tracing::debug!(database = action.database(), "{action}");
                }
                _ => tracing::info!(database = action.database(), "{action}"),
            }
            // Each has its own task: a long checkpoint of one database does not delay those of others.
            tokio::spawn(apply(Arc::clone(node), action, observation.clone()));
        }
    }
}

/// Stops all databases when another process takes the store over: nothing can be written any more, and reads may be
/// outdated. A moment later the process ends, for a supervisor to restart it.
async fn stop_when_overtaken(node: Arc<Node>) {
    let Some(owner) = node.engine.log.as_ref().and_then(|log| log.owner().cloned()) else { return };
    owner.until_lost().await;
    tracing::error!("{OVERTAKEN}");
    node.engine.health.report(ConditionKind::TakenOver, OVERTAKEN);
    for tenant in node.tenants.all() {
        // A checkpoint may be waiting for the store; the others need not wait for that.
        tokio::spawn(async move { tenant.database.stop(Error::Store(OVERTAKEN.to_owned())).await });
    }
    tokio::time::sleep(REFUSE_FOR).await;
    // Sending fails if the server is already ending.
    let _ = node.shutdown.send(Shutdown::Taken);
}

/// Compares what a database has spent with its limits.
fn look_at_spending(node: &Arc<Node>, tenant: &Arc<Tenant>, now_ms: u64) {
    match node.tenants.spending.look(tenant.spender(), now_ms) {
        None => {}
        Some(SpendingEvent::Tell(notice)) => {
            tracing::warn!(database = tenant.name(), "{notice}");
            if let Some(pusher) = node.usage_pusher.get() {
                pusher.tell(&notice.id(tenant.owner()), notice.event(tenant.owner(), now_ms));
            }
        }
        Some(SpendingEvent::Read) => {
            let (node, owner) = (Arc::clone(node), Box::<str>::from(tenant.owner()));
            tokio::spawn(async move {
                let all: Vec<_> = node.tenants.all().filter(|tenant| tenant.owner() == &*owner).collect();
                let spenders: Vec<_> = all.iter().map(|tenant| tenant.spender()).collect();
                let Tenants { spending, ledger, .. } = &node.tenants;
                if let Err(error) = spending.read(ledger, &owner, &spenders, now_ms).await {
                    tracing::warn!(database = &*owner, %error, "failed to read what was spent in this month");
                }
            });
        }
    }
}

/// Begins to write the usage that is due.
fn record_usage(node: &Arc<Node>) {
    if let Some(turn) = node.tenants.ledger.turn(node.tenants.all().map(|tenant| Arc::clone(&tenant.meters))) {
        let node = Arc::clone(node);
        let keep_ms = node.facts.ledger_keep.duration().map(|keep| keep.as_millis() as u64);
        tokio::spawn(async move {
            let all: Vec<_> = node.tenants.all().map(|tenant| Arc::clone(&tenant.meters)).collect();
            node.tenants.ledger.take_turn(turn, &all, keep_ms).await;
        });
    }
}

fn monotonic_ms(node: &Node) -> u64 {
    node.started.elapsed().as_millis() as u64
}

/// Adds the engine's counts to the meters.
fn count(tenant: &Tenant) {
    let shared = &tenant.database.shared;
    for (counter, meter) in [(&shared.expired, Meter::ExpiredKeys), (&shared.evicted, Meter::EvictedKeys)] {
        let more = counter.swap(0, Ordering::Relaxed);
        if more > 0 {
            tenant.meters.count(meter, more);
        }
    }
    let counters = &tenant.database.counters;
    for (counter, meter) in [
        (&counters.sleeps, Meter::Sleeps),
        (&counters.wakes, Meter::Wakes),
        (&counters.checkpoints, Meter::Checkpoints),
        (&counters.checkpoint_errors, Meter::CheckpointErrors),
        (&counters.splits, Meter::Splits),
        (&counters.merges, Meter::Merges),
    ] {
        let more = counter.swap(0, Ordering::Relaxed);
        if more > 0 {
            tenant.meters.count(meter, more);
        }
    }
}

/// Brings the meters of `tenant` up to date before they are read.
pub fn settle(tenant: &Tenant, now_ms: u64) {
    count(tenant);
    tenant.meters.observe_memory(now_ms, tenant.database.used_bytes() as u64);
    tenant.meters.observe_store(now_ms, own_bytes(tenant));
}

/// Metered bytes in the store: shared bytes of a branch belong to the database that wrote them.
fn own_bytes(tenant: &Tenant) -> u64 {
    let stored = tenant.database.counters.stored_bytes.load(Ordering::Relaxed);
    stored.saturating_sub(tenant.database.lineage().shared_bytes)
}

/// Ends an abandoned import. That takes the shards' locks, so the keeper does not wait for it.
fn settle_import(node: &Arc<Node>, tenant: &Arc<Tenant>) {
    let is_followed = tenant.database.shared.followed.load(Ordering::Relaxed) != 0;
    if !is_followed {
        return;
    }
    let Some(turn) = Alone::begin(tenant, |tenant| &tenant.is_settling) else { return };
    let node = Arc::clone(node);
    tokio::spawn(async move {
        let tenant = &turn.tenant;
        let is_filling = |client: &Arc<Client>| usize::from(client.select.load(Ordering::Relaxed)) >= INDEXES;
        let is_filled = || node.clients.of_database(tenant.name()).iter().any(is_filling);
        tenant.database.settle_import(is_filled).await;
    });
}

fn observe(node: &Node, tenant: &Tenant, uses: &mut LastUses<String>, saves: &mut LastUses<String>) -> DatabaseLoad {
    let views = tenant.database.shards(true);
    let lately = |view: &ShardView| Lately { operations: view.load.operations, contended: view.contended };
    tenant.keep_loads(views.iter().map(|view| (view.id, lately(view))));
    let saved = tenant.database.counters.saved_ms.load(Ordering::Relaxed);
    DatabaseLoad {
        id: tenant.name().to_string(),
        dirty_bytes: views.iter().map(|view| view.dirty_bytes as u64).sum(),
        shards: views.iter().map(shard_load).collect(),
        last_command_ms: uses.moment(tenant.name().to_string(), tenant.worked_ms()),
        sleep_after_ms: tenant.settings().sleep_after.duration().map(|after| after.as_millis() as u64),
        // The node keeps its limit of memory by itself.
        connected_clients: 0,
        parked_clients: 0,
        checkpoint_age_ms: saves.age(tenant.name().to_string(), saved.max(node.started_ms)),
    }
}

fn shard_load(view: &ShardView) -> ShardLoad {
    let seconds = LOOK_EVERY.as_secs_f64();
    let operations = view.load.batches.max(1) as f64;
    let span = view.end_slot - view.first_slot;
    let parts = view.load.heat.len() as u16;
    let first_of = |part: u16| view.first_slot + (u32::from(span) * u32::from(part) / u32::from(parts)) as u16;
    let histogram = |weights: &[u32]| {
        let mut histogram: Vec<Part> = Vec::new();
        for (part, &weight) in (0..parts).zip(weights) {
            match histogram.last_mut() {
                // A shard of few slots has fewer than sixteen parts.
                Some(last) if last.first_slot == first_of(part) => last.weight += f64::from(weight),
                _ => histogram.push(Part { first_slot: first_of(part), weight: f64::from(weight) }),
            }
        }
        histogram
    };
    ShardLoad {
        id: view.id,
        first_slot: view.first_slot,
        end_slot: view.end_slot,
        keys: view.keys as u64,
        bytes: view.bytes as u64,
        operations_per_second: view.load.operations as f64 / seconds,
        contended_share: (view.contended as f64 / (operations + view.contended as f64)).min(1.0),
        waits_per_second: view.contended as f64 / seconds,
        busy_share: (view.load.busy_ns as f64 / 1e9 / seconds).min(1.0),
        load_histogram: histogram(&view.load.heat),
        size_histogram: histogram(&view.sizes),
    }
}

async fn apply(node: Arc<Node>, action: Action, seen: Observation) {
    let tenant_of = |name: &str| node.tenants.of_name(name);
    let outcome = match &action {
        Action::SplitShard { database, at_slot, .. } => match tenant_of(database) {
            Some(tenant) => tenant.database.split(*at_slot).await.map(drop),
            None => return,
        },
        Action::MergeShards { database, right, .. } => {
            let loads = seen.databases.iter().find(|load| load.id == *database);
            let shard = loads.and_then(|load| load.shards.iter().find(|shard| shard.id == *right));
            match tenant_of(database).zip(shard) {
                Some((tenant, shard)) => tenant.database.merge(shard.first_slot).await.map(drop),
                None => return,
            }
        }
        Action::Checkpoint { database } | Action::Sleep { database } => match tenant_of(database) {
            Some(tenant) => {
                let done = match &action {
                    Action::Sleep { .. } => tenant.database.sleep().await.map(drop),
                    _ => tenant.database.checkpoint().await.map(drop),
                };
                let notice = tenant.saving.lock().end(done.is_ok());
                if let (Notice::Still(failures), Err(error)) = (notice, &done) {
                    tracing::error!(database = action.database(), %error, failures, "still failing: {action}");
                }
                // The engine has logged the first failure.
                return;
            }
            None => return,
        },
    };
    if let Err(error) = outcome {
        tracing::error!(database = action.database(), %error, "failed to {action}");
    }
}

/// Keeps the store's answer to a request that concerns no single database, for reports on the node.
pub fn remember(node: &Node, outcome: dormouse_shard::error::Result<()>) -> dormouse_shard::error::Result<()> {
    health::remember(&node.engine.health, &outcome);
    outcome
}

/// Closes the connections whose token has expired.
fn close_expired(node: &Node, now_ms: u64) {
    if node.tenants.directory.known().timed_tokens() == 0 {
        return;
    }
    let is_over = |client: &Arc<Client>| {
        client.told.lock().token.as_ref().is_some_and(|token| token.expires_ms.is_some_and(|end| end <= now_ms))
    };
    node.clients.list().iter().filter(|client| is_over(client)).for_each(|client| client.kill());
}

/// Deletes expired databases, one at a time, apart from the look at all databases.
fn delete_expired(node: &Arc<Node>, now_ms: u64, deleting: &Arc<Mutex<Attempts>>) {
    let is_over = |tenant: &Arc<Tenant>| tenant.database.lineage().expires_ms.is_some_and(|end| end <= now_ms);
    let mut expired: BTreeSet<Box<str>> =
        node.tenants.all().filter(is_over).map(|tenant| tenant.name().into()).collect();
    let ended = {
        let known = node.tenants.directory.known();
        expired.extend(known.expired(now_ms, DELETED_AT_ONCE));
        known.ended(now_ms, DELETED_AT_ONCE)
    };
    if expired.is_empty() && ended.is_empty() {
        return;
    }
    let (node, deleting) = (Arc::clone(node), Arc::clone(deleting));
    tokio::spawn(async move {
        let Ok(mut attempts) = deleting.try_lock() else { return };
        if !attempts.is_due() {
            return;
        }
        for name in ended {
            if !node.tenants.is_here(&name).await {
                continue;
            }
            match node.tenants.purge(&name).await {
                Ok(()) => {
                    attempts.note(true);
                    tracing::info!(database = &*name, "deleted for good: the time to bring it back is over");
                }
                Err(error) => {
                    if attempts.note(false) != Notice::Silent {
                        tracing::error!(database = &*name, %error, "failed to delete a database for good");
                    }
                }
            }
        }
        for name in expired {
            let Some(tenant) = node.tenants.opened(&name).await else { continue };
            // Others may have been deleted before it, and it may have got more time meanwhile.
            let Some(reserved) = node.tenants.reserve_ended(&name, now_ms).await else { continue };
            // Its branches end with it.
            let branches: Vec<Box<str>> = {
                let known = node.tenants.directory.known();
                known.after("", &format!("{name}.")).map(|record| record.name).collect()
            };
            for branch in branches.iter().filter(|_| !tenant.is_branch()) {
                if let Some(branch) = node.tenants.opened(branch).await
                    && let Err(error) = delete(&node, &branch, Removal::ForGood).await
                {
                    tracing::debug!(database = branch.name(), %error, "failed to delete a branch of a database that ends");
                }
            }
            match delete_reserved(&node, reserved, &tenant, Removal::ForGood).await {
                Ok(_) => {
                    attempts.note(true);
                    tracing::info!(database = tenant.name(), "deleted: its time to live has ended");
                }
                Err(error) => {
                    if attempts.note(false) != Notice::Silent {
                        tracing::error!(database = tenant.name(), %error, "failed to delete a database whose time to live has ended");
                    }
                }
            }
        }
    });
}

/// Deletes a database and disconnects its clients. Returns until when it can be brought back, in unix milliseconds.
///
/// # Errors
/// When it must stay, or the store refuses.
pub async fn delete(node: &Node, tenant: &Arc<Tenant>, removal: Removal) -> dormouse_shard::error::Result<Option<u64>> {
    let reserved = node.tenants.reserve(tenant.name())?;
    delete_reserved(node, reserved, tenant, removal).await
}

async fn delete_reserved(
    node: &Node,
    reserved: Changing,
    tenant: &Arc<Tenant>,
    removal: Removal,
) -> dormouse_shard::error::Result<Option<u64>> {
    // Whatever the outcome, its clients would get only errors from now on.
    let disconnect = || node.clients.of_database(tenant.name()).iter().for_each(|client| client.kill());
    let deleted = node.tenants.delete(reserved, tenant, removal, disconnect).await;
    match &deleted {
        Ok(_) => remember(node, Ok(()))?,
        Err(error @ (Error::Store(_) | Error::Damaged(_))) => remember(node, Err(error.clone()))?,
        Err(_) => {}
    }
    deleted
}

/// Looks at the output of clients that lag; of all clients if the limits are not `known` yet, as after a change.
fn close_slow_readers(node: &Node, known: &mut Option<[OutputLimit; 3]>, now_ms: u64) {
    let limits = [node.output_limit_normal(), node.output_limit_pubsub(), node.output_limit_replica()];
    let mut clients = node.clients.lagging();
    if known.replace(limits) != Some(limits) {
        clients = node.clients.list();
    }
    let [normal, pubsub, replica] = limits;
    for client in clients {
        let limit = match client.is_replica.load(Ordering::Relaxed) {
            true => replica,
            false if client.is_subscriber() || client.is_monitor.load(Ordering::Relaxed) => pubsub,
            false => normal,
        };
        client.check_output(limit, now_ms);
    }
}

fn close_idle_clients(node: &Node, active: &mut LastUses<u64>) {
    let seconds = u64::from(node.settings().timeout_seconds);
    if seconds == 0 {
        active.moments.clear();
        return;
    }
    let clients = node.clients.list();
    let known: BTreeSet<u64> = clients.iter().map(|client| client.id).collect();
    active.moments.retain(|id, _| known.contains(id));
    for client in clients {
        let is = |role: &AtomicBool| role.load(Ordering::Relaxed);
        // The node that serves a forwarded client knows whether it is idle.
        let is_elsewhere = is(&client.is_forwarded_on);
        let listens = client.is_subscriber() || is(&client.is_replica) || is(&client.is_monitor) || is_elsewhere;
        let idle_ms = active.age(client.id, client.active_ms.load(Ordering::Relaxed));
        let waits = client.is_blocked.load(Ordering::Relaxed);
        if !listens && !waits && idle_ms > seconds * 1000 {
            client.kill();
        }
    }
}

/// The last use of each database or client, or the last save of each database, on the monotonic clock.
///
/// Uses are recorded on the system's clock. The two clocks do not tick together, so converting the same use at every
/// look would shift it by a millisecond, which the autoscaler would take for a new use. The system's clock may also be
/// set. So each use is converted once.
#[derive(Debug)]
struct LastUses<K> {
    now_ms: u64,
    monotonic_ms: u64,
    /// The use on the system's clock, and on the monotonic one.
    moments: BTreeMap<K, (u64, u64)>,
}

impl<K> Default for LastUses<K> {
    fn default() -> Self {
        Self { now_ms: 0, monotonic_ms: 0, moments: BTreeMap::new() }
    }
}

impl<K: Ord> LastUses<K> {
    fn look(&mut self, now_ms: u64, monotonic_ms: u64) {
        self.now_ms = now_ms;
        self.monotonic_ms = monotonic_ms;
    }

    fn moment(&mut self, of: K, used_ms: u64) -> u64 {
        if let Some(&(known, moment)) = self.moments.get(&of)
            && known == used_ms
        {
            return moment;
        }
        let moment = self.monotonic_ms.saturating_sub(self.now_ms.saturating_sub(used_ms));
        self.moments.insert(of, (used_ms, moment));
        moment
    }

    /// Milliseconds since the last use.
    fn age(&mut self, of: K, used_ms: u64) -> u64 {
        let now_ms = self.monotonic_ms;
        now_ms.saturating_sub(self.moment(of, used_ms))
    }
}

/// Totals as they were at the last look.
#[derive(Debug, Default)]
struct Before {
    at: Option<Instant>,
    /// Requests, bytes in, bytes out, by database.
    totals: BTreeMap<String, [u128; 3]>,
    cpu_seconds: f64,
    cpu_busy: f64,
}

impl Before {
    fn rates(&mut self, node: &Node, now_ms: u64) {
        let (user, system) = crate::process::cpu_seconds();
        let now = Instant::now();
        let seconds = self.at.map_or(0.0, |at| now.duration_since(at).as_secs_f64());
        let known = seconds > 0.0;
        // Totals of deleted databases are dropped.
        self.totals.retain(|name, _| node.tenants.of_name(name).is_some());
        for tenant in node.tenants.all() {
            let totals = tenant.meters.totals(now_ms);
            let sums = [totals[Meter::Requests], totals[Meter::BytesIn], totals[Meter::BytesOut]];
            let before = self.totals.insert(tenant.name().to_string(), sums);
            if let Some(before) = before.filter(|_| known) {
                let per_second = |at: usize| sums[at].saturating_sub(before[at]) as f64 / seconds;
                *tenant.rates.lock() =
                    Rates { operations: per_second(0), bytes_in: per_second(1), bytes_out: per_second(2) };
            }
        }
        if known {
            self.cpu_busy = ((user + system - self.cpu_seconds) / seconds / node.facts.workers as f64).clamp(0.0, 1.0);
        }
        self.at = Some(now);
        self.cpu_seconds = user + system;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_has_one_moment_however_the_clocks_tick() {
        let mut uses: LastUses<String> = LastUses::default();
        uses.look(10_000, 500);
        assert_eq!(uses.moment("a".into(), 9_900), 400);
        assert_eq!(uses.moment("b".into(), 9_990), 490);
        // The system's clock ticked between the two readings, and then was set forward by an hour.
        for (now_ms, monotonic_ms) in [(11_001, 1_500), (3_612_000, 2_500)] {
            uses.look(now_ms, monotonic_ms);
            assert_eq!(uses.moment("a".into(), 9_900), 400);
        }
        assert_eq!(uses.moment("b".into(), 3_611_999), 2_499);
        // A use before the process began, and one from a clock that was set back since.
        assert_eq!(uses.moment("c".into(), 0), 0);
        assert_eq!(uses.moment("d".into(), 9_000_000), 2_500);
    }
}
