//! The keeper: periodic work, away from the workers.
//!
//! Ten times a second it removes expired keys. Once a second it looks at every database, asks the autoscaler for
//! actions, and runs them: split, merge, checkpoint, sleep. The autoscaler decides; the keeper acts. It also deletes
//! expired branches.

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

use crate::clients::{Client, blocked};
use crate::databases::{Lately, Rates, Tenant};
use crate::health;
use crate::metering::Meter;
use crate::node::{Node, OVERTAKEN, Shutdown};
use crate::saving::Attempts;

const EXPIRE_EVERY: Duration = Duration::from_millis(100);
const LOOK_EVERY: Duration = Duration::from_secs(1);
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
    }
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

async fn look(node: Arc<Node>, mut autoscaler: Autoscaler) {
    let mut every = tokio::time::interval(LOOK_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut before = Before::default();
    let (mut uses, mut saves) = (LastUses::<String>::default(), LastUses::<String>::default());
    let mut clients = LastUses::<u64>::default();
    let deleting: Arc<Mutex<Attempts>> = Arc::default();
    while !node.is_draining() {
        every.tick().await;
        if node.is_overtaken() {
            return;
        }
        let now_ms = (node.engine.clock)();
        uses.look(now_ms, monotonic_ms(&node));
        uses.moments.retain(|name, _| node.tenants.of_name(name).is_some());
        saves.look(now_ms, monotonic_ms(&node));
        saves.moments.retain(|name, _| node.tenants.of_name(name).is_some());
        before.rates(&node, now_ms);
        clients.look(now_ms, monotonic_ms(&node));
        close_idle_clients(&node, &mut clients);
        close_slow_readers(&node, now_ms);
        delete_expired(&node, now_ms, &deleting);
        let mut databases = Vec::new();
        let mut used = 0;
        for tenant in node.tenants.all() {
            let bytes = tenant.database.used_bytes() as u64;
            used += bytes;
            tenant.memory_peak.fetch_max(bytes, Ordering::Relaxed);
            tenant.meters.observe_memory(now_ms, bytes);
            tenant.meters.observe_store(now_ms, own_bytes(&tenant));
            // The window is kept until DORMOUSE USAGE FORGET confirms that it was taken.
            drop(tenant.meters.close_window(now_ms));
            count(&tenant);
            if tenant.database.is_awake() {
                settle_import(&node, &tenant);
                databases.push(observe(&node, &tenant, &mut uses, &mut saves));
            }
        }
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
        let plan = autoscaler.step(&observation, monotonic_ms(&node));
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
                Some(tenant) if tenant.saving.lock().is_failing() => tracing::debug!("{action}"),
                _ => tracing::info!("{action}"),
            }
            // Each has its own task: a long checkpoint of one database does not delay those of others.
            tokio::spawn(apply(Arc::clone(&node), action, observation.clone()));
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
    let clients = node.clients.of_database(tenant.name());
    let worked = clients.iter().map(|client| client.worked_ms.load(Ordering::Relaxed)).max().unwrap_or(0);
    let worked = worked.max(tenant.worked_ms.load(Ordering::Relaxed));
    let views = tenant.database.shards(true);
    let lately = |view: &ShardView| Lately { operations: view.load.operations, contended: view.contended };
    tenant.keep_loads(views.iter().map(|view| (view.id, lately(view))));
    let saved = tenant.database.counters.saved_ms.load(Ordering::Relaxed);
    DatabaseLoad {
        id: tenant.name().to_string(),
        dirty_bytes: views.iter().map(|view| view.dirty_bytes as u64).sum(),
        shards: views.iter().map(shard_load).collect(),
        last_command_ms: uses.moment(tenant.name().to_string(), worked),
        sleep_after_ms: tenant.settings().sleep_after.duration().map(|after| after.as_millis() as u64),
        connected_clients: clients.len(),
        parked_clients: blocked(&clients),
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
                    tracing::error!(%error, failures, "still failing: {action}");
                }
                // The engine has logged the first failure.
                return;
            }
            None => return,
        },
    };
    if let Err(error) = outcome {
        tracing::error!(%error, "failed to {action}");
    }
}

/// Keeps the store's answer to a request that concerns no single database, for reports on the node.
pub fn remember(node: &Node, outcome: dormouse_shard::error::Result<()>) -> dormouse_shard::error::Result<()> {
    health::remember(&node.engine.health, &outcome);
    outcome
}

/// Deletes expired branches, one at a time, apart from the look at all databases.
fn delete_expired(node: &Arc<Node>, now_ms: u64, deleting: &Arc<Mutex<Attempts>>) {
    let is_over = |tenant: &Arc<Tenant>| tenant.database.lineage().expires_ms.is_some_and(|end| end <= now_ms);
    let expired: Vec<_> = node.tenants.all().filter(is_over).collect();
    if expired.is_empty() {
        return;
    }
    let (node, deleting) = (Arc::clone(node), Arc::clone(deleting));
    tokio::spawn(async move {
        let Ok(mut attempts) = deleting.try_lock() else { return };
        if !attempts.is_due() {
            return;
        }
        for tenant in expired {
            match delete(&node, &tenant).await {
                Ok(()) => {
                    attempts.note(true);
                    tracing::info!(database = tenant.name(), "deleted: the time to live of the branch has ended");
                }
                Err(error) => {
                    if attempts.note(false) != Notice::Silent {
                        tracing::error!(database = tenant.name(), %error, "failed to delete a branch whose time to live has ended");
                    }
                }
            }
        }
    });
}

/// Deletes a database and disconnects its clients.
pub async fn delete(node: &Node, tenant: &Arc<Tenant>) -> dormouse_shard::error::Result<()> {
    // Whatever the outcome, its clients would get only errors from now on.
    let disconnect = || node.clients.of_database(tenant.name()).iter().for_each(|client| client.kill());
    let deleted = node.tenants.delete(tenant, disconnect).await;
    match deleted {
        Ok(()) | Err(Error::Store(_) | Error::Damaged(_)) => remember(node, deleted),
        Err(_) => deleted,
    }
}

fn close_slow_readers(node: &Node, now_ms: u64) {
    let (normal, pubsub, replica) =
        (node.output_limit_normal(), node.output_limit_pubsub(), node.output_limit_replica());
    for client in node.clients.list() {
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
        let listens = client.is_subscriber() || is(&client.is_replica) || is(&client.is_monitor);
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
