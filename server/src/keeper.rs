//! The keeper: what has to be done from time to time, away from the workers.
//!
//! Ten times a second it removes keys that have expired. Once a second it looks at every database, asks the autoscaler
//! what to do, and does it: split, merge, checkpoint, sleep. Deciding is the autoscaler's, doing is here. It also deletes
//! branches whose time is over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dormouse_autoscaler::{Action, Autoscaler, DatabaseLoad, NodeLoad, Observation, Part, ShardLoad};
use dormouse_shard::error::Error;
use dormouse_shard::scaling::ShardView;
use tokio::sync::Mutex;

use crate::databases::{Lately, Rates, Tenant};
use crate::metering::Meter;
use crate::node::{Node, OVERTAKEN, Shutdown};

const EXPIRE_EVERY: Duration = Duration::from_millis(100);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// For so long a process that was overtaken tells clients and probes why, before it ends.
const REFUSE_FOR: Duration = Duration::from_secs(2);
/// Expired keys removed from a shard at a time: a fraction of a millisecond.
const EXPIRE_KEYS: usize = 500;

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
        node.tenants.all().for_each(|tenant| tenant.database.expire_slice(EXPIRE_KEYS));
    }
}

async fn look(node: Arc<Node>, mut autoscaler: Autoscaler) {
    let mut every = tokio::time::interval(LOOK_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut before = Before::default();
    let mut uses = LastUses::default();
    let deleting = Arc::default();
    while !node.is_draining() {
        every.tick().await;
        if node.is_overtaken() {
            return;
        }
        let now_ms = (node.engine.clock)();
        uses.look(now_ms, monotonic_ms(&node));
        uses.moments.retain(|name, _| node.tenants.of_name(name).is_some());
        before.rates(&node, now_ms);
        close_idle_clients(&node, now_ms);
        delete_expired(&node, now_ms, &deleting);
        let mut databases = Vec::new();
        let mut used = 0;
        for tenant in node.tenants.all() {
            let bytes = tenant.database.used_bytes() as u64;
            used += bytes;
            tenant.memory_peak.fetch_max(bytes, Ordering::Relaxed);
            tenant.meters.observe_memory(now_ms, bytes);
            tenant.meters.observe_store(now_ms, own_bytes(&tenant));
            // Nobody takes the windows yet; an open one is shown by DORMOUSE USAGE.
            drop(tenant.meters.close_window(now_ms));
            count(&tenant);
            if tenant.database.is_awake() {
                databases.push(observe(&node, &tenant, now_ms, &mut uses).await);
            }
        }
        node.memory_peak.fetch_max(used, Ordering::Relaxed);
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
        for action in plan.actions {
            tracing::info!("{action}");
            // Each in its own task: a long checkpoint of one database does not hold up another's.
            tokio::spawn(apply(Arc::clone(&node), action, observation.clone()));
        }
    }
}

/// When another process takes the store over, nothing here can be written any more, and what is read may be outdated: every
/// database stops, and a moment later the process ends, for a supervisor to start it again.
async fn stop_when_overtaken(node: Arc<Node>) {
    let Some(owner) = node.engine.log.as_ref().and_then(|log| log.owner().cloned()) else { return };
    owner.until_lost().await;
    tracing::error!("{OVERTAKEN}");
    *node.store_error.lock() = Some(OVERTAKEN.to_owned());
    for tenant in node.tenants.all() {
        // A checkpoint may be waiting for the store; the others need not wait for that.
        tokio::spawn(async move { tenant.database.stop(Error::Store(OVERTAKEN.to_owned())).await });
    }
    tokio::time::sleep(REFUSE_FOR).await;
    // Nobody receives when the server is ending already.
    let _ = node.shutdown.send(Shutdown::Taken);
}

fn monotonic_ms(node: &Node) -> u64 {
    node.started.elapsed().as_millis() as u64
}

/// Brings what the engine counts into the meters.
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

/// Brings the meters of `tenant` up to date before somebody reads them.
pub fn settle(tenant: &Tenant, now_ms: u64) {
    count(tenant);
    tenant.meters.observe_memory(now_ms, tenant.database.used_bytes() as u64);
    tenant.meters.observe_store(now_ms, own_bytes(tenant));
}

/// Bytes in the store that are metered: what a branch shares is the database's that has written it.
fn own_bytes(tenant: &Tenant) -> u64 {
    let stored = tenant.database.counters.stored_bytes.load(Ordering::Relaxed);
    stored.saturating_sub(tenant.database.lineage().shared_bytes)
}

async fn observe(node: &Node, tenant: &Tenant, now_ms: u64, uses: &mut LastUses) -> DatabaseLoad {
    let clients = node.clients.of_database(tenant.name());
    let worked = clients.iter().map(|client| client.worked_ms.load(Ordering::Relaxed)).max().unwrap_or(0);
    let worked = worked.max(tenant.worked_ms.load(Ordering::Relaxed));
    let views = tenant.database.shards(true).await;
    let lately = |view: &ShardView| Lately { operations: view.load.operations, contended: view.contended };
    tenant.keep_loads(views.iter().map(|view| (view.id, lately(view))));
    let saved = tenant.database.counters.saved_ms.load(Ordering::Relaxed);
    DatabaseLoad {
        id: tenant.name().to_string(),
        dirty_bytes: views.iter().map(|view| view.dirty_bytes as u64).sum(),
        shards: views.iter().map(shard_load).collect(),
        last_command_ms: uses.moment(tenant.name(), worked),
        sleep_after_ms: tenant.settings().sleep_after.duration().map(|after| after.as_millis() as u64),
        connected_clients: clients.len(),
        parked_clients: 0,
        checkpoint_age_ms: now_ms.saturating_sub(saved.max(node.started_ms)),
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
                // A shard of few slots has fewer parts than sixteen.
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
        Action::Checkpoint { database } => match tenant_of(database) {
            Some(tenant) => remember(&node, tenant.database.checkpoint().await.map(drop)),
            None => return,
        },
        Action::Sleep { database } => match tenant_of(database) {
            Some(tenant) => remember(&node, tenant.database.sleep().await.map(drop)),
            None => return,
        },
    };
    if let Err(error) = outcome {
        tracing::error!(%error, "could not: {action}");
    }
}

/// Keeps what the store answered for the readiness probe.
pub fn remember(node: &Node, outcome: dormouse_shard::error::Result<()>) -> dormouse_shard::error::Result<()> {
    if !node.is_overtaken() {
        *node.store_error.lock() = outcome.as_ref().err().map(ToString::to_string);
    }
    outcome
}

/// Deletes branches whose time is over, one at a time, and away from the look at all databases.
fn delete_expired(node: &Arc<Node>, now_ms: u64, deleting: &Arc<Mutex<()>>) {
    let is_over = |tenant: &Arc<Tenant>| tenant.database.lineage().expires_ms.is_some_and(|end| end <= now_ms);
    let expired: Vec<_> = node.tenants.all().filter(is_over).collect();
    if expired.is_empty() {
        return;
    }
    let (node, deleting) = (Arc::clone(node), Arc::clone(deleting));
    tokio::spawn(async move {
        let Ok(_alone) = deleting.try_lock() else { return };
        for tenant in expired {
            tracing::info!(database = tenant.name(), "deleted: the time of the branch is over");
            if let Err(error) = delete(&node, &tenant).await {
                // It is tried again at the next look.
                tracing::error!(database = tenant.name(), %error, "a branch whose time is over could not be deleted");
            }
        }
    });
}

/// Deletes a database and disconnects its clients.
pub async fn delete(node: &Node, tenant: &Arc<Tenant>) -> dormouse_shard::error::Result<()> {
    let deleted = node.tenants.delete(tenant).await;
    // Whatever came of it, from now on they would be answered with errors only.
    node.clients.of_database(tenant.name()).iter().for_each(|client| client.kill());
    match deleted {
        Ok(()) | Err(Error::Store(_)) => remember(node, deleted),
        Err(_) => deleted,
    }
}

fn close_idle_clients(node: &Node, now_ms: u64) {
    let seconds = u64::from(node.settings().timeout_seconds);
    if seconds == 0 {
        return;
    }
    for client in node.clients.list() {
        let listens = client.channels.load(Ordering::Relaxed) + client.patterns.load(Ordering::Relaxed) > 0;
        let idle_ms = now_ms.saturating_sub(client.active_ms.load(Ordering::Relaxed));
        if !listens && idle_ms > seconds * 1000 {
            client.kill();
        }
    }
}

/// When each database was last used, on the monotonic clock.
///
/// Clients note it on the system's clock. Two clocks do not tick together, so that the same use, converted at every look,
/// would shiver by a millisecond: to the autoscaler that is a database in use. So each use is converted once.
#[derive(Debug, Default)]
struct LastUses {
    now_ms: u64,
    monotonic_ms: u64,
    /// By database: the use on the system's clock, and on the monotonic one.
    moments: BTreeMap<String, (u64, u64)>,
}

impl LastUses {
    fn look(&mut self, now_ms: u64, monotonic_ms: u64) {
        self.now_ms = now_ms;
        self.monotonic_ms = monotonic_ms;
    }

    fn moment(&mut self, database: &str, worked_ms: u64) -> u64 {
        if let Some(&(known, moment)) = self.moments.get(database)
            && known == worked_ms
        {
            return moment;
        }
        let moment = self.monotonic_ms.saturating_sub(self.now_ms.saturating_sub(worked_ms));
        self.moments.insert(database.to_string(), (worked_ms, moment));
        moment
    }
}

/// Totals as they were at the last look.
#[derive(Debug, Default)]
struct Before {
    at_ms: u64,
    /// Requests, bytes in, bytes out, by database.
    totals: BTreeMap<String, [u128; 3]>,
    cpu_seconds: f64,
    cpu_busy: f64,
}

impl Before {
    fn rates(&mut self, node: &Node, now_ms: u64) {
        let (user, system) = crate::process::cpu_seconds();
        let seconds = now_ms.saturating_sub(self.at_ms) as f64 / 1000.0;
        let known = self.at_ms > 0 && seconds > 0.0;
        // Of a database that was deleted nothing is kept.
        self.totals.retain(|name, _| node.tenants.of_name(name).is_some());
        for tenant in node.tenants.all() {
            let totals = tenant.meters.totals(now_ms);
            let now = [totals[Meter::Requests], totals[Meter::BytesIn], totals[Meter::BytesOut]];
            let before = self.totals.insert(tenant.name().to_string(), now);
            if let Some(before) = before.filter(|_| known) {
                let per_second = |at: usize| now[at].saturating_sub(before[at]) as f64 / seconds;
                *tenant.rates.lock() =
                    Rates { operations: per_second(0), bytes_in: per_second(1), bytes_out: per_second(2) };
            }
        }
        if known {
            self.cpu_busy = ((user + system - self.cpu_seconds) / seconds / node.facts.workers as f64).clamp(0.0, 1.0);
        }
        self.at_ms = now_ms;
        self.cpu_seconds = user + system;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_has_one_moment_however_the_clocks_tick() {
        let mut uses = LastUses::default();
        uses.look(10_000, 500);
        assert_eq!(uses.moment("a", 9_900), 400);
        assert_eq!(uses.moment("b", 9_990), 490);
        // The system's clock ticked between the two readings, and then was set forward by an hour.
        for (now_ms, monotonic_ms) in [(11_001, 1_500), (3_612_000, 2_500)] {
            uses.look(now_ms, monotonic_ms);
            assert_eq!(uses.moment("a", 9_900), 400);
        }
        assert_eq!(uses.moment("b", 3_611_999), 2_499);
        // A use before the process began, and one from a clock that was set back since.
        assert_eq!(uses.moment("c", 0), 0);
        assert_eq!(uses.moment("d", 9_000_000), 2_500);
    }
}
