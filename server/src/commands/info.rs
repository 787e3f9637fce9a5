//! `INFO`: Redis's sections with Redis's field names, and one section of our own. The numbers are those of the
//! session's database, or those of the process if only it has them (CPU time, resident memory).
//!
//! INFO leaves the database as it is: a sleeping one stays asleep, and nothing is loaded. It looks at every place and every client
//! of the database, so where these are many it runs on the slow lane.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_protocol::{Reply, Request};
use dormouse_shard::commands::{Category, Command, Family, Flags, at_least};
use dormouse_shard::database::Counts;
use dormouse_shard::error::{Error, Result};
use dormouse_shard::execution::Waits;
use dormouse_shard::execution::budget::TURN;
use dormouse_shard::keyspace::staging::{STAGED_MASK, VISIBLE_MASK};
use dormouse_shard::keyspace::{INDEXES, Left};
use dormouse_shard::shard::ShardView;
use dormouse_storage::log::Window;
use dormouse_storage::shown::{RECEIPTS, STAGED};
use tokio::sync::oneshot;

use crate::acl::security_log::DenialReason;
use crate::clients::{Client, blocked};
use crate::commands::TABLE;
use crate::commands::memory::MemoryUse;
use crate::config::PERCENTILES;
use crate::databases::Tenant;
use crate::metering::{Meter, Totals};
use crate::metrics::REDIS_VERSION;
use crate::node::Node;
use crate::replication::BACKLOG_BYTES_MAX;
use crate::session::Session;
use crate::table::SessionRun;
use crate::{health, keeper, memory, process};

pub const FAMILY: Family<SessionRun> = Family {
    group: "server",
    category: Category::empty(),
    commands: &[Command::new("INFO", at_least(1), &[], Flags::LOADING.union(Flags::STALE), SessionRun::Info)
        .doc("1.0.0", "O(1)", "Returns information and statistics about the server.")
        .tips(&["nondeterministic_output", "request_policy:all_shards", "response_policy:special"])
        .also(Category::DANGEROUS)],
};

/// The cost of the sections, beside what grows.
const COST_OF_SECTIONS: usize = 500;
/// The cost of a client, which several sections look at.
const COST_OF_CLIENT: usize = 10;
/// Places that cost as much as one element: each is visited several times, but they are next to each other.
const PLACES_PER_ELEMENT: usize = 2;

/// Returns the cost of `INFO`.
pub fn cost(session: &Session) -> usize {
    let clients = session.node.clients.count_of(session.tenant.name());
    let places = session.tenant.database.places_seen();
    COST_OF_SECTIONS + clients * COST_OF_CLIENT + session.node.clients.count() / 2 + places / PLACES_PER_ELEMENT
}

/// `INFO [section [section ...]]`. `counts`: the key counts to report instead of the current ones.
///
/// # Errors
/// When it has to wait for a thread of the slow lane for too long.
pub async fn info(
    session: &mut Session,
    reply: &mut Reply,
    request: Request<'_>,
    counts: Option<&Counts>,
) -> Result<()> {
    let (node, tenant) = (Arc::clone(&session.node), Arc::clone(&session.tenant));
    let (wanted, counts) = (wanted(request), counts.copied());
    let report = move || {
        let mut state = State::gather(node, tenant);
        if let Some(counts) = counts {
            state.counts = counts;
        }
        text(&state, &wanted)
    };
    let text = match cost(session) {
        ..=TURN => report(),
        _ => {
            let (sender, receiver) = oneshot::channel();
            // The client may be gone.
            let queued = session.tenant.database.lane.run(move || drop(sender.send(report())));
            let undone = || Error::text("ERR the report failed");
            queued.map_err(|not_run| not_run.error(undone))?;
            session.turn().wait(Waits::Lane, receiver).await?.map_err(|_| undone())?
        }
    };
    session.note(Left { awaited: session.tenant.database.told_until(), written: 0 });
    reply.verbatim("txt", text.as_bytes());
    Ok(())
}

fn wanted(request: Request<'_>) -> Vec<String> {
    request.iter().skip(1).map(|name| String::from_utf8_lossy(name).to_lowercase()).collect()
}

/// Snapshot that the sections are written from.
pub struct State {
    node: Arc<Node>,
    tenant: Arc<Tenant>,
    now_ms: u64,
    /// Keys, and keys with an expiry, by logical index.
    counts: Counts,
    /// Average remaining time to live of keys with an expiry, in milliseconds.
    milliseconds_left: [u64; INDEXES],
    shards: Vec<ShardView>,
    clients: Vec<Arc<Client>>,
    /// Totals since the database was created, and since statistics were last reset.
    totals: Totals,
    statistics: Totals,
}

impl State {
    fn gather(node: Arc<Node>, tenant: Arc<Tenant>) -> Self {
        let now_ms = (node.engine.clock)();
        let shards = tenant.database.shards(false);
        let counts = tenant.database.counts();
        let milliseconds_left = tenant.database.milliseconds_left(now_ms);
        keeper::settle(&tenant, now_ms);
        let clients = node.clients.of_database(tenant.name());
        let (totals, statistics) = (tenant.meters.totals(now_ms), tenant.meters.statistics(now_ms));
        Self { node, tenant, now_ms, counts, milliseconds_left, shards, clients, totals, statistics }
    }

    /// Bytes that a checkpoint would have to write.
    fn dirty_bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.dirty_bytes).sum()
    }
}

/// When a section is shown without being named.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    Always,
    /// Shown with `all` and `everything` only.
    OnDemand,
    /// Shown like the others, but only by a node of a fleet.
    InFleet,
}

type Write = fn(&State, &mut Section<'_>);

const SECTIONS: &[(&str, Shown, Write)] = &[
    ("Server", Shown::Always, server),
    ("Clients", Shown::Always, clients),
    ("Memory", Shown::Always, memory_section),
    ("Persistence", Shown::Always, persistence),
    ("Stats", Shown::Always, stats),
    ("Replication", Shown::Always, replication),
    ("CPU", Shown::Always, cpu),
    ("TLS", Shown::OnDemand, tls),
    ("Hotkeys", Shown::OnDemand, hotkeys),
    ("Modules", Shown::Always, |_, _| {}),
    ("Commandstats", Shown::OnDemand, commandstats),
    ("Errorstats", Shown::Always, errorstats),
    ("Latencystats", Shown::OnDemand, latencystats),
    ("Cluster", Shown::Always, cluster),
    ("Fleet", Shown::InFleet, fleet),
    ("Keyspace", Shown::Always, keyspace),
    ("Dormouse", Shown::Always, dormouse),
];

fn text(state: &State, wanted: &[String]) -> String {
    let named = |word: &str| wanted.iter().any(|wanted| wanted == word);
    let every = named("all") || named("everything");
    let default = wanted.is_empty() || named("default");
    let mut text = String::new();
    for (name, shown, write) in SECTIONS {
        if *shown == Shown::InFleet && state.node.fleet.get().is_none() {
            continue;
        }
        if every || default && *shown != Shown::OnDemand || named(&name.to_lowercase()) {
            if !text.is_empty() {
                text += "\r\n";
            }
            text += &format!("# {name}\r\n");
            write(state, &mut Section(&mut text));
        }
    }
    text
}

struct Section<'a>(&'a mut String);

impl Section<'_> {
    fn field(&mut self, name: impl Display, value: impl Display) {
        *self.0 += &format!("{name}:{value}\r\n");
    }

    /// Writes bytes, both exact and human-readable.
    fn bytes(&mut self, name: &str, bytes: u64) {
        self.field(name, bytes);
        self.field(format_args!("{name}_human"), human(bytes));
    }
}

/// Formats bytes as Redis does: `1.50M`.
fn human(bytes: u64) -> String {
    const UNITS: &[(u32, &str)] = &[(50, "P"), (40, "T"), (30, "G"), (20, "M"), (10, "K")];
    match UNITS.iter().find(|(bits, _)| bytes >> bits > 0) {
        Some((bits, unit)) => format!("{:.2}{unit}", bytes as f64 / (1u64 << bits) as f64),
        None => format!("{bytes}B"),
    }
}

fn server(state: &State, section: &mut Section<'_>) {
    let node = &state.node;
    let uptime = node.started.elapsed().as_secs();
    section.field("redis_version", REDIS_VERSION);
    section.field("redis_git_sha1", "00000000");
    section.field("redis_git_dirty", 0);
    section.field("redis_build_id", concat!("dormouse-", env!("CARGO_PKG_VERSION")));
    section.field("redis_mode", node.facts.cluster.mode_name());
    section.field("server_name", "dormouse");
    section.field("dormouse_version", env!("CARGO_PKG_VERSION"));
    section.field("os", process::system());
    section.field("arch_bits", usize::BITS);
    section.field("monotonic_clock", "POSIX clock_gettime");
    section.field("multiplexing_api", "epoll");
    section.field("process_id", std::process::id());
    section.field("process_supervised", "no");
    section.field("run_id", &node.run_id);
    section.field("tcp_port", node.facts.port);
    section.field("server_time_usec", state.now_ms * 1000);
    section.field("uptime_in_seconds", uptime);
    section.field("uptime_in_days", uptime / 86_400);
    section.field("hz", 10);
    section.field("configured_hz", 10);
    section.field("lru_clock", (state.now_ms / 1000) & 0xff_ffff);
    section.field("io_threads_active", 0);
}

/// Of the whole node, like the processor's time.
fn tls(state: &State, section: &mut Section<'_>) {
    let facts = &state.node.facts.tls;
    section.field("tls_port", facts.port);
    section.field("https_port", facts.https_port);
    let Some(tls) = &state.node.tls else { return };
    section.field("tls_handshakes", tls.handshakes.load(Ordering::Relaxed));
    section.field("tls_handshakes_failed", tls.handshakes_failed.load(Ordering::Relaxed));
    section.field("tls_handshakes_pending", tls.handshakes_pending.load(Ordering::Relaxed));
    section.field("tls_certificate_expires_s", tls.expires_s());
    section.field("tls_reloads", tls.reloads());
    section.field("tls_files_in_use", u8::from(!tls.is_stale()));
}

fn clients(state: &State, section: &mut Section<'_>) {
    let largest = |bytes: fn(&Client) -> usize| state.clients.iter().map(|client| bytes(client)).max().unwrap_or(0);
    section.field("connected_clients", state.clients.len());
    section.field("cluster_connections", 0);
    section.field("maxclients", state.node.max_clients());
    let input = largest(|client| client.input_bytes.load(Ordering::Relaxed));
    section.field("client_recent_max_input_buffer", input);
    let output = largest(|client| client.output_bytes.load(Ordering::Relaxed) + client.outbox_bytes());
    section.field("client_recent_max_output_buffer", output);
    section.field("blocked_clients", blocked(&state.clients));
    section.field("tracking_clients", state.tenant.database.shared.tracking.counts().clients);
    let with = |has: fn(&Client) -> bool| state.clients.iter().filter(|client| has(client)).count();
    section.field(
        "pubsub_clients",
        with(|client| {
            [&client.channels, &client.patterns, &client.sharded].iter().any(|count| count.load(Ordering::Relaxed) > 0)
        }),
    );
    section.field("watching_clients", with(|client| client.watching.load(Ordering::Relaxed) > 0));
    let watched: u64 = state.clients.iter().map(|client| u64::from(client.watching.load(Ordering::Relaxed))).sum();
    section.field("total_watched_keys", watched);
    let timed = state.clients.iter().filter(|client| client.has_timeout()).count();
    section.field("clients_in_timeout_table", timed);
    let waited = state.tenant.database.waiters.keys();
    section.field("total_blocking_keys", waited.all);
    section.field("total_blocking_keys_on_nokey", waited.and_their_end);
    let (reason, actions, left_ms) = match state.tenant.pause.left(state.now_ms) {
        Some((true, left_ms)) => ("client_pause", "all", left_ms),
        Some((false, left_ms)) => ("client_pause", "write", left_ms),
        None => ("none", "none", 0),
    };
    section.field("paused_reason", reason);
    section.field("paused_actions", actions);
    section.field("paused_timeout_milliseconds", left_ms);
}

fn memory_section(state: &State, section: &mut Section<'_>) {
    let settings = state.tenant.settings();
    let used = MemoryUse::of(&state.node, &state.tenant);
    let (resident, allocator) = (process::resident_bytes(), memory::allocator());
    let allocated = allocator.allocated;
    let percent = |part: u64, whole: u64| format!("{:.2}%", part as f64 * 100.0 / whole.max(1) as f64);
    let ratio = |part: u64, whole: u64| format!("{:.2}", part as f64 / whole.max(1) as f64);
    let (node, account) = (&state.node, &state.tenant.account);
    // Exact size of this database's data with its scripts and functions. What its clients hold is counted apart, below.
    section.bytes("used_memory", used.data);
    section.bytes("used_memory_rss", resident);
    section.bytes("used_memory_peak", used.data_peak);
    section.field("used_memory_peak_perc", percent(used.data, used.data_peak));
    section.field("used_memory_overhead", used.scripts + used.functions);
    section.field("used_memory_startup", 0);
    section.field("used_memory_dataset", used.dataset());
    section.field("used_memory_dataset_perc", percent(used.dataset(), used.data));
    section.field("allocator_allocated", allocated);
    section.field("allocator_active", allocator.active);
    section.field("allocator_resident", allocator.resident);
    section.bytes("total_system_memory", process::system_memory_bytes());
    // The interpreters belong to the process: nothing of them is part of a database's memory.
    section.bytes("used_memory_lua", 0);
    section.field("used_memory_vm_eval", 0);
    section.field("used_memory_scripts_eval", used.scripts);
    let shared = &state.tenant.database.shared;
    section.field("number_of_cached_scripts", shared.scripts.size().0);
    let libraries = shared.functions.get();
    let functions = libraries.by_name.values().map(|library| library.functions().map_or(0, <[_]>::len));
    section.field("number_of_functions", functions.sum::<usize>());
    section.field("number_of_libraries", libraries.by_name.len());
    section.field("used_memory_vm_functions", 0);
    section.bytes("used_memory_vm_total", 0);
    section.field("used_memory_functions", used.functions);
    section.bytes("used_memory_scripts", used.scripts + used.functions);
    section.field("allocator_frag_ratio", ratio(allocator.active, allocated));
    section.field("allocator_frag_bytes", allocator.active.saturating_sub(allocated));
    section.field("allocator_rss_ratio", ratio(allocator.resident, allocator.active));
    section.field("allocator_rss_bytes", allocator.resident.saturating_sub(allocator.active));
    section.field("rss_overhead_ratio", ratio(resident, allocator.resident));
    section.field("rss_overhead_bytes", resident.saturating_sub(allocator.resident));
    section.bytes("maxmemory", settings.max_memory);
    section.field("maxmemory_policy", settings.max_memory_policy.name());
    section.field("mem_fragmentation_ratio", ratio(resident, allocated));
    section.field("mem_fragmentation_bytes", resident.saturating_sub(allocated));
    section.field("mem_not_counted_for_evict", 0);
    section.field("mem_replication_backlog", used.backlog);
    section.field("mem_total_replication_buffers", used.backlog + used.replicas);
    section.field("mem_clients_slaves", used.replicas);
    section.field("mem_clients_normal", used.clients.saturating_sub(used.backlog + used.replicas));
    section.field("mem_cluster_links", 0);
    // Memory that this database's clients make the server keep, then that of all clients.
    section.field("mem_clients_peak", account.peak());
    section.field("mem_clients_refused", account.refusals());
    section.bytes("maxmemory_clients", settings.max_memory_clients);
    section.field("mem_clients_total", node.clients.memory.used());
    // Memory that the process uses, and its limit.
    section.bytes("process_memory", node.memory_used.load(Ordering::Relaxed));
    section.bytes("maxmemory_total", node.facts.max_memory_total);
    section.field("mem_aof_buffer", 0);
    section.field("mem_allocator", "jemalloc");
    section.field("active_defrag_running", 0);
    section.field("lazyfree_pending_objects", 0);
    section.field("lazyfreed_objects", 0);
}

fn persistence(state: &State, section: &mut Section<'_>) {
    let counters = &state.tenant.database.counters;
    let saved_ms = counters.saved_ms.load(Ordering::Relaxed);
    let checkpoints = state.statistics[Meter::Checkpoints];
    let seconds_last = match checkpoints {
        0 => -1,
        _ => (counters.checkpoint_us_last.load(Ordering::Relaxed) / 1_000_000) as i64,
    };
    let unsaved = if state.dirty_bytes() == 0 { 0 } else { state.tenant.changes_unsaved() };
    let failed = counters.checkpoint_failed.load(Ordering::Relaxed);
    // Data is loaded while commands are served, so commands are never refused during loading.
    section.field("loading", 0);
    section.field("async_loading", 0);
    // Nothing is copied to save: there is no other process.
    section.field("current_cow_peak", 0);
    section.field("current_cow_size", 0);
    section.field("current_cow_size_age", 0);
    section.field("current_fork_perc", "0.00");
    section.field("current_save_keys_processed", 0);
    section.field("current_save_keys_total", 0);
    section.field("rdb_changes_since_last_save", unsaved);
    let running = counters.checkpoint_running.load(Ordering::Relaxed) > 0;
    section.field("rdb_bgsave_in_progress", u8::from(running));
    section.field("rdb_last_save_time", if saved_ms > 0 { saved_ms } else { state.node.started_ms } / 1000);
    section.field("rdb_last_bgsave_status", if failed { "err" } else { "ok" });
    section.field("rdb_last_bgsave_time_sec", seconds_last);
    section.field("rdb_current_bgsave_time_sec", -1);
    section.field("rdb_saves", checkpoints);
    section.field("rdb_last_cow_size", 0);
    section.field("rdb_last_load_keys_expired", 0);
    section.field("rdb_last_load_keys_loaded", counters.loaded_keys.load(Ordering::Relaxed));
    let journal = &state.tenant.database.shared.journal;
    let log = journal.log();
    let problem = log.and_then(|log| log.problem());
    section.field("aof_enabled", u8::from(journal.window() != Window::None && log.is_some()));
    section.field("aof_rewrite_in_progress", 0);
    section.field("aof_rewrite_scheduled", 0);
    section.field("aof_last_rewrite_time_sec", -1);
    section.field("aof_current_rewrite_time_sec", -1);
    section.field("aof_last_bgrewrite_status", "ok");
    section.field("aof_rewrites", 0);
    section.field("aof_rewrites_consecutive_failures", 0);
    section.field("aof_last_write_status", if problem.is_some() { "err" } else { "ok" });
    section.field("aof_last_cow_size", 0);
    section.field("loss_window", journal.window());
    if let Some(log) = log {
        section.field("log_lag_ms", log.lag_ms_now());
        section.field("log_entries", log.counters.entries.load(Ordering::Relaxed));
        section.field("log_bytes", log.counters.bytes.load(Ordering::Relaxed));
        section.field("log_flushes", log.counters.flushes.load(Ordering::Relaxed));
        section.field("log_files", log.files());
        section.field("log_problem", problem.as_deref().unwrap_or_default());
    }
    section.field("checkpoint_bytes", counters.checkpoint_bytes.load(Ordering::Relaxed));
    let is_well = state.node.engine.health.is_well() && state.tenant.database.health.is_well();
    section.field("data_status", if is_well { "ok" } else { "err" });
    section.field("module_fork_in_progress", 0);
    section.field("module_fork_last_cow_size", 0);
}

fn stats(state: &State, section: &mut Section<'_>) {
    let (statistics, tenant) = (&state.statistics, &state.tenant);
    let rates = *tenant.rates.lock();
    section.field("total_connections_received", tenant.connections.load(Ordering::Relaxed));
    section.field("total_commands_processed", statistics[Meter::Requests]);
    section.field("instantaneous_ops_per_sec", rates.operations.round());
    section.field("total_net_input_bytes", statistics[Meter::BytesIn]);
    section.field("total_net_output_bytes", statistics[Meter::BytesOut]);
    section.field("total_net_repl_input_bytes", 0);
    section.field("total_net_repl_output_bytes", 0);
    section.field("instantaneous_input_kbps", format_args!("{:.2}", rates.bytes_in / 1024.0));
    section.field("instantaneous_output_kbps", format_args!("{:.2}", rates.bytes_out / 1024.0));
    section.field("instantaneous_input_repl_kbps", "0.00");
    section.field("instantaneous_output_repl_kbps", "0.00");
    section.field("rejected_connections", state.node.clients.rejected.load(Ordering::Relaxed));
    section.field("sync_full", 0);
    section.field("sync_partial_ok", 0);
    section.field("sync_partial_err", 0);
    section.field("expired_keys", statistics[Meter::ExpiredKeys]);
    section.field("expired_stale_perc", "0.00");
    section.field("expired_time_cap_reached_count", 0);
    let expired_fields = state.tenant.database.shared.expired_fields.load(Ordering::Relaxed);
    // Redis's and Valkey's name for it.
    section.field("expired_subkeys", expired_fields);
    section.field("expired_fields", expired_fields);
    section.field("evicted_keys", statistics[Meter::EvictedKeys]);
    section.field("evicted_clients", state.tenant.evicted_clients.load(Ordering::Relaxed));
    section.field("keyspace_hits", statistics[Meter::KeyspaceHits]);
    section.field("keyspace_misses", statistics[Meter::KeyspaceMisses]);
    section.field("pubsub_channels", tenant.pubsub.channel_count(false));
    section.field("pubsub_patterns", tenant.pubsub.patterns());
    section.field("pubsubshard_channels", tenant.pubsub.channel_count(true));
    section.field("latest_fork_usec", 0);
    section.field("total_forks", 0);
    section.field("migrate_cached_sockets", 0);
    section.field("slave_expires_tracked_keys", 0);
    section.field("active_defrag_hits", 0);
    section.field("active_defrag_misses", 0);
    section.field("active_defrag_key_hits", 0);
    section.field("active_defrag_key_misses", 0);
    section.field("total_active_defrag_time", 0);
    section.field("current_active_defrag_time", 0);
    let tracking = tenant.database.shared.tracking.counts();
    section.field("tracking_total_keys", tracking.keys);
    section.field("tracking_total_items", tracking.items);
    section.field("tracking_total_prefixes", tracking.prefixes);
    section.field("unexpected_error_replies", 0);
    section.field("total_error_replies", tenant.errors.total());
    // Every worker reads and writes for its own clients.
    section.field("io_threaded_reads_processed", 0);
    section.field("io_threaded_writes_processed", 0);
    for reason in DenialReason::ALL {
        section.field(reason.info_name(), tenant.acl.log.count(reason));
    }
}

fn replication(state: &State, section: &mut Section<'_>) {
    section.field("role", "master");
    let view = state.tenant.replication.view();
    section.field("connected_slaves", view.replicas.len());
    let settings = state.tenant.settings();
    if settings.min_replicas_to_write > 0 && settings.min_replicas_max_lag_seconds > 0 {
        let good = state.tenant.replication.good(settings.min_replicas_max_lag_seconds, state.now_ms);
        section.field("min_slaves_good_slaves", good);
    }
    for (at, replica) in view.replicas.iter().enumerate() {
        let (address, port) = (replica.address(), replica.announced.port);
        let (phase, offset, lag) = (replica.state().name(), replica.offset(), replica.lag_seconds(state.now_ms));
        section.field(
            format!("slave{at}"),
            format_args!("ip={address},port={port},state={phase},offset={offset},lag={lag}"),
        );
    }
    section.field("master_failover_state", "no-failover");
    section.field("master_replid", &view.id);
    section.field("master_replid2", "0".repeat(40));
    section.field("master_repl_offset", view.offset);
    section.field("second_repl_offset", -1);
    section.field("repl_backlog_active", u8::from(view.is_active));
    section.field("repl_backlog_size", BACKLOG_BYTES_MAX);
    section.field("repl_backlog_first_byte_offset", if view.is_active { view.backlog_first } else { 0 });
    section.field("repl_backlog_histlen", view.backlog_bytes);
}

fn cluster(state: &State, section: &mut Section<'_>) {
    section.field("cluster_enabled", u8::from(state.node.facts.cluster.is_shown()));
}

fn fleet(state: &State, section: &mut Section<'_>) {
    let Some(fleet) = state.node.fleet.get() else { return };
    section.field("fleet_node", fleet.name());
    section.field("fleet_members", fleet.members().len());
    section.field("fleet_draining", u8::from(fleet.duty.is_draining()));
    section.field("fleet_lease_left_ms", fleet.lease_left_ms());
}

fn cpu(_: &State, section: &mut Section<'_>) {
    let (user, system) = process::cpu_seconds();
    section.field("used_cpu_sys", format_args!("{system:.6}"));
    section.field("used_cpu_user", format_args!("{user:.6}"));
    section.field("used_cpu_sys_children", "0.000000");
    section.field("used_cpu_user_children", "0.000000");
}

fn hotkeys(state: &State, section: &mut Section<'_>) {
    let measurement = state.tenant.hotkeys.at(state.now_ms);
    let is_running = measurement.as_ref().is_some_and(|running| running.ended_ms.is_none());
    section.field("hotkeys-tracking-active", u8::from(is_running));
}

fn commandstats(state: &State, section: &mut Section<'_>) {
    for (id, command) in state.statistics.commands() {
        let name = &TABLE.get(id).name;
        let microseconds = command.microseconds();
        let each = if command.calls == 0 { 0.0 } else { microseconds as f64 / command.calls as f64 };
        section.field(
            format_args!("cmdstat_{name}"),
            format_args!(
                "calls={},usec={microseconds},usec_per_call={each:.2},rejected_calls={},failed_calls={}",
                command.calls, command.rejected, command.failed
            ),
        );
    }
}

/// [`Histogram`](crate::metering::Histogram) documents how these times are measured.
fn latencystats(state: &State, section: &mut Section<'_>) {
    for (id, histogram) in state.tenant.meters.histograms().iter().filter(|(_, histogram)| histogram.calls() > 0) {
        let percentile = |percent: &f64| format!("p{percent}={:.3}", histogram.percentile(*percent));
        let percentiles: Vec<String> = PERCENTILES.iter().map(percentile).collect();
        section.field(format_args!("latency_percentiles_usec_{}", TABLE.get(*id).name), percentiles.join(","));
    }
}

fn errorstats(state: &State, section: &mut Section<'_>) {
    for (word, count) in state.tenant.errors.by_word() {
        section.field(format_args!("errorstat_{word}"), format_args!("count={count}"));
    }
}

fn keyspace(state: &State, section: &mut Section<'_>) {
    for (index, (keys, expiring)) in state.counts[..INDEXES].iter().enumerate().filter(|(_, (keys, _))| *keys > 0) {
        let left_ms = state.milliseconds_left[index];
        section.field(format_args!("db{index}"), format_args!("keys={keys},expires={expiring},avg_ttl={left_ms}"));
    }
}

fn dormouse(state: &State, section: &mut Section<'_>) {
    let (database, totals) = (&state.tenant.database, &state.totals);
    let counter = |cell: &std::sync::atomic::AtomicU64| cell.load(Ordering::Relaxed);
    let sum = |of: fn(&ShardView) -> usize| state.shards.iter().map(of).sum::<usize>();
    let counters = &database.counters;
    section.field("database", state.tenant.name());
    section.field("awake", u8::from(database.is_awake()));
    section.field("workers", state.node.facts.workers);
    section.field("shards", state.shards.len());
    let keys = |counts: &[(u64, u64)]| counts.iter().map(|(keys, _)| keys).sum::<u64>();
    section.field("keys", keys(&state.counts[..INDEXES]));
    let followed = database.shared.followed.load(Ordering::Relaxed);
    // While the database follows a source, nothing expires by this server's clock.
    section.field("import_following", u8::from(followed & VISIBLE_MASK != 0));
    section.field("import_staging", u8::from(followed & STAGED_MASK != 0));
    section.field("import_staged_keys", keys(&state.counts[STAGED]));
    // Receipts of requests with ONCE, and requests that were answered from one since the start.
    section.field("once_receipts", state.counts[RECEIPTS].0);
    section.field("once_receipt_bytes", sum(|shard| shard.receipt_bytes));
    section.field("once_repeated", counter(&database.shared.repeated));
    // Triggers, and of their events those that wait and those that were lost since the start.
    let (waiting, lost) = state.tenant.triggers.waiting_and_lost();
    section.field("triggers", state.tenant.triggers.len());
    section.field("trigger_events_waiting", waiting);
    section.field("trigger_events_lost", lost);
    section.field("trigger_bytes", sum(|shard| shard.outbox_bytes));
    // The operator's limits, 0 for none, and the requests that those on requests have refused since the start.
    let limits = state.tenant.limits().requests;
    section.field("max_requests_per_second", limits.per_second);
    section.field("max_requests_burst", limits.burst);
    section.field("max_connections", limits.connections);
    section.field("max_request_size", limits.request_bytes);
    section.field("max_key_size", limits.key_bytes);
    section.field("max_value_size", limits.value_bytes);
    section.field("refused_requests", state.tenant.traffic.refused());
    section.field("resident_keys", sum(|shard| shard.resident_keys));
    section.field("resident_segments", sum(|shard| shard.resident));
    // Places that are only in the store.
    section.field("loading_segments", sum(|shard| shard.stored));
    section.field("loading_in_background", counter(&counters.loading));
    section.field("memory_bytes", database.used_bytes());
    section.field("dirty_bytes", state.dirty_bytes());
    section.field("store_bytes", counter(&counters.stored_bytes));
    let lineage = database.lineage();
    section.field("shared_bytes", lineage.shared_bytes);
    section.field("source", lineage.source().unwrap_or_default());
    section.field("expires_ms", lineage.expires_ms.unwrap_or_default());
    section.field("branches", state.node.tenants.branches_of(&state.tenant).count());
    let problems = health::told_to(&state.node, &state.tenant);
    let is_serious = problems.iter().any(|(kind, _)| kind.is_serious());
    section.field("state", health::state(&state.tenant));
    section.field("store_status", if is_serious { "err" } else { "ok" });
    section.field("problems", problems.len());
    for (at, (kind, text)) in problems.iter().enumerate() {
        section
            .field(format_args!("problem_{at}"), format_args!("{}: {}", kind.name(), text.replace(['\r', '\n'], " ")));
    }
    section.field("last_checkpoint_ms", counter(&counters.saved_ms));
    section.field("last_checkpoint_us", counter(&counters.checkpoint_us_last));
    section.field("last_checkpoint_keys", counter(&counters.checkpoint_keys_last));
    section.field("last_wake_us", counter(&counters.wake_us_last));
    section.field("last_sleep_ms", counter(&counters.sleep_us_last) / 1000);
    section.field("last_load_us", counter(&counters.load_us_last));
    section.field("load_errors", counter(&counters.load_errors));
    section.field("last_command_ms", state.tenant.worked_ms());
    for (meter, total) in totals.meters() {
        section.field(meter.name(), total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shortened_as_redis_does() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.00K"),
            (1_572_864, "1.50M"),
            (25_276_502_016, "23.54G"),
            (u64::MAX, "16384.00P"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }
}
