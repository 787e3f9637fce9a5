//! The data behind the metrics, gathered for each request.

use std::sync::atomic::Ordering;

use dormouse_shard::health::{Condition, ConditionKind, Health};
use dormouse_shard::keyspace::INDEXES;
use dormouse_shard::timings::TIMINGS;

use crate::commands::TABLE;
use crate::databases::Tenant;
use crate::fleet::Fleet;
use crate::metrics::{DatabaseSnapshot, FleetSnapshot, LogicalSnapshot, ServerSnapshot, TlsSnapshot};
use crate::node::Node;
use crate::tls::Tls;
use crate::{clients, health, keeper, process};

pub fn of_node(node: &Node) -> ServerSnapshot {
    let now_ms = (node.engine.clock)();
    let (cpu_user_seconds, cpu_system_seconds) = process::cpu_seconds();
    let log = node.engine.log.as_ref();
    let (tenants, departed) = node.tenants.all_and_departed();
    ServerSnapshot {
        run_id: node.run_id.clone(),
        tcp_port: node.facts.port,
        max_memory_policy: node.tenants.default().settings().max_memory_policy.name().to_string(),
        started_unix_seconds: node.started_ms / 1000,
        uptime_seconds: node.started.elapsed().as_secs(),
        workers: node.facts.workers as u64,
        connected_clients: node.clients.count() as u64,
        blocked_clients: clients::blocked(&node.clients.list()) as u64,
        max_clients: node.max_clients() as u64,
        connections_received: node.clients.accepted.load(Ordering::Relaxed),
        connections_rejected: node.clients.rejected.load(Ordering::Relaxed),
        wrong_secrets: node.guesses.count.load(Ordering::Relaxed),
        redis_mode: node.facts.cluster.mode_name(),
        connected_replicas: node.tenants.all().map(|tenant| tenant.replication.view().replicas.len() as u64).sum(),
        pubsub_channels: node.tenants.all().map(|tenant| tenant.pubsub.channel_count(false) as u64).sum(),
        pubsub_patterns: node.tenants.all().map(|tenant| tenant.pubsub.patterns() as u64).sum(),
        process_memory_bytes: node.memory_used.load(Ordering::Relaxed),
        process_memory_max_bytes: node.facts.max_memory_total,
        memory_resident_bytes: process::resident_bytes(),
        memory_used_peak_bytes: memory_peak(node),
        cpu_user_seconds,
        cpu_system_seconds,
        slowlog_entries: node.tenants.all().map(|tenant| tenant.logs.slow().len() as u64).sum(),
        log_lag_ms: log.map_or(0, |log| log.lag_ms_now()),
        log_effect_bytes: log.map_or(0, |log| log.end()),
        log_bytes: log.map_or(0, |log| log.counters.bytes.load(Ordering::Relaxed)),
        log_flushes: log.map_or(0, |log| log.counters.flushes.load(Ordering::Relaxed)),
        databases_known: node.tenants.directory.known().count() as u64,
        tokens_known: node.tenants.directory.known().tokens() as u64,
        log_files: log.map_or(0, |log| log.files() as u64),
        tls: node.tls.as_deref().map(of_tls),
        audit: node.audit.snapshot(),
        fleet: node.fleet.get().map(|fleet| of_fleet(fleet)),
        usage_push: node.usage_pusher.get().map(|pusher| pusher.snapshot()),
        forwarded: node.directions.get().map(|_| node.forwarded.snapshot()),
        log_failing: log.is_some_and(|log| log.problem().is_some()),
        conditions: kinds(&health::of_node(node)),
        problems: problems(&node.engine.health),
        commands: TABLE.entries().iter().map(|entry| &*entry.name).collect(),
        databases: tenants.iter().map(|tenant| of_tenant(node, tenant, now_ms)).collect(),
        departed,
        wakes: TIMINGS.wakes.read(),
        checkpoints: TIMINGS.checkpoints.read(),
        flushes: log.map(|log| log.counters.flush_times.read()),
    }
}

fn of_fleet(fleet: &Fleet) -> FleetSnapshot {
    FleetSnapshot {
        members: fleet.members().len() as u64,
        lease_left_ms: fleet.lease_left_ms(),
        adoptions: fleet.duty.adoptions.load(Ordering::Relaxed),
        moves: fleet.duty.moves.load(Ordering::Relaxed),
        is_draining: fleet.duty.is_draining(),
    }
}

fn of_tls(tls: &Tls) -> TlsSnapshot {
    TlsSnapshot {
        handshakes: tls.handshakes.load(Ordering::Relaxed),
        handshakes_failed: tls.handshakes_failed.load(Ordering::Relaxed),
        handshakes_pending: tls.handshakes_pending.load(Ordering::Relaxed),
        handshake_times: tls.handshake_times.read(),
        certificate_expires_s: tls.expires_s(),
        is_stale: tls.is_stale(),
    }
}

/// The current use may be a peak that the keeper has yet to see.
fn memory_peak(node: &Node) -> u64 {
    let used = node.tenants.all().map(|tenant| tenant.database.used_bytes() as u64).sum();
    node.memory_peak.fetch_max(used, Ordering::Relaxed).max(used)
}

fn of_tenant(node: &Node, tenant: &Tenant, now_ms: u64) -> DatabaseSnapshot {
    keeper::settle(tenant, now_ms);
    let database = &tenant.database;
    let views = database.shards(false);
    let connected = node.clients.of_database(tenant.name());
    let saved = database.counters.saved_ms.load(Ordering::Relaxed);
    DatabaseSnapshot {
        name: tenant.name().to_string(),
        awake: database.is_awake(),
        connected_clients: connected.len() as u64,
        blocked_clients: clients::blocked(&connected) as u64,
        shards: views.len() as u64,
        memory_bytes: database.used_bytes() as u64,
        memory_max_bytes: tenant.settings().max_memory,
        client_memory_bytes: tenant.account.used() as u64,
        client_memory_refusals: tenant.account.refusals() as u64,
        evicted_clients: tenant.evicted_clients.load(Ordering::Relaxed),
        refused_requests: tenant.traffic.refused(),
        store_bytes: database.counters.stored_bytes.load(Ordering::Relaxed),
        is_branch: tenant.is_branch(),
        shared_bytes: database.lineage().shared_bytes,
        dirty_bytes: views.iter().map(|view| view.dirty_bytes as u64).sum(),
        last_checkpoint_unix_ms: (saved > 0).then_some(saved),
        checkpoint_bytes: database.counters.checkpoint_bytes.load(Ordering::Relaxed),
        logical: logical(tenant),
        is_healthy: database.health.is_well(),
        conditions: kinds(&database.health.conditions()),
        problems: problems(&database.health),
        slow_commands_waiting: database.lane.waiting() as u64,
        load_errors: database.counters.load_errors.load(Ordering::Relaxed),
        totals: tenant.meters.totals(now_ms),
        statistics: tenant.meters.statistics(now_ms),
        durations: tenant.meters.histograms(),
    }
}

/// Number of conditions of each kind.
fn kinds(conditions: &[Condition]) -> [u64; ConditionKind::ALL.len()] {
    ConditionKind::ALL.map(|kind| conditions.iter().filter(|condition| condition.kind == kind).count() as u64)
}

/// Number of problems met of each kind.
fn problems(health: &Health) -> [u64; ConditionKind::ALL.len()] {
    ConditionKind::ALL.map(|kind| health.reported(kind))
}

/// Keys of each logical index that has any; those in the manifest if the database is asleep.
pub fn logical(tenant: &Tenant) -> Vec<LogicalSnapshot> {
    let counts = tenant.database.counts();
    (0..INDEXES as u8)
        .zip(counts)
        .filter(|(_, (keys, _))| *keys > 0)
        .map(|(index, (keys, keys_expiring))| LogicalSnapshot { index, keys, keys_expiring, ttl_ms_average: 0 })
        .collect()
}
