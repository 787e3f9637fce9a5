//! The output of `/metrics`, in Prometheus' text format.
//!
//! Names that begin with `redis_` are those of the Redis exporter, so that its dashboards work unchanged: they cover
//! the whole node since it started. Names that begin with `dormouse_` are the product's own. They have one series for
//! each database, and their counters continue after a restart. The number of databases with series of their own is limited:
//! see [`labels`].
//!
//! On each scrape the [`Collector`] requests a [`ServerSnapshot`] and formats it. No other state is kept here.

mod labels;
mod timings;

use std::collections::{BTreeMap, HashMap};

use dormouse_shard::health::ConditionKind;
use dormouse_storage::durations::DurationCounts;
use parking_lot::Mutex;
use prometheus::Registry;
use prometheus::core::Desc;
use prometheus::proto::{
    Counter, Gauge, Histogram as PrometheusHistogram, LabelPair, Metric, MetricFamily, MetricType,
};

use crate::audit::AuditSnapshot;
use crate::forwarded::ForwardedSnapshot;
use crate::metering::{CommandTotals, Departed, Histogram, Meter, Totals};
use crate::pusher::PushSnapshot;

use self::labels::{Labelled, Labels};

/// The version of Redis whose behavior clients and libraries see.
pub const REDIS_VERSION: &str = "7.2.4";

/// The server at one moment.
#[derive(Clone, Debug, Default)]
pub struct ServerSnapshot {
    pub run_id: String,
    pub tcp_port: u16,
    pub max_memory_policy: String,
    pub started_unix_seconds: u64,
    pub uptime_seconds: u64,
    pub workers: u64,
    pub connected_clients: u64,
    pub blocked_clients: u64,
    pub max_clients: u64,
    pub connections_received: u64,
    pub connections_rejected: u64,
    /// Wrong tokens and passwords, for databases and for the operator's paths.
    pub wrong_secrets: u64,
    /// Redis's word for the mode of the server.
    pub redis_mode: &'static str,
    pub connected_replicas: u64,
    pub pubsub_channels: u64,
    pub pubsub_patterns: u64,
    /// Memory that the process uses, and its limit (0: none).
    pub process_memory_bytes: u64,
    pub process_memory_max_bytes: u64,
    /// Resident memory of the process.
    pub memory_resident_bytes: u64,
    /// Most data in memory since the start.
    pub memory_used_peak_bytes: u64,
    pub cpu_user_seconds: f64,
    pub cpu_system_seconds: f64,
    pub slowlog_entries: u64,
    /// Time for which the oldest write that is not durable has waited.
    pub log_lag_ms: u64,
    /// Bytes of logged effects, and bytes written for them.
    pub log_effect_bytes: u64,
    pub log_bytes: u64,
    pub log_flushes: u64,
    pub log_files: u64,
    /// Databases and tokens that the directory knows.
    pub databases_known: u64,
    pub tokens_known: u64,
    /// Whether the log cannot be written.
    pub log_failing: bool,
    pub tls: Option<TlsSnapshot>,
    pub audit: Option<AuditSnapshot>,
    pub usage_push: Option<PushSnapshot>,
    /// Clients and bytes that are forwarded to other nodes, in a fleet.
    pub forwarded: Option<ForwardedSnapshot>,
    pub fleet: Option<FleetSnapshot>,
    /// Conditions of the node now, and problems met since it started, by kind.
    pub conditions: [u64; ConditionKind::ALL.len()],
    pub problems: [u64; ConditionKind::ALL.len()],
    /// The command table's names, by index.
    pub commands: Vec<&'static str>,
    /// Durations of wakes, checkpoints, and flushes of the log, if there is one.
    pub wakes: DurationCounts,
    pub checkpoints: DurationCounts,
    pub flushes: Option<DurationCounts>,
    /// The statistics and the durations of commands, of databases that have left memory.
    pub departed: Departed,
    pub databases: Vec<DatabaseSnapshot>,
}

/// TLS at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct TlsSnapshot {
    /// Completed handshakes, those that failed, and those under way.
    pub handshakes: u64,
    pub handshakes_failed: u64,
    pub handshakes_pending: u64,
    /// Durations of completed ones.
    pub handshake_times: DurationCounts,
    pub certificate_expires_s: u64,
    /// Whether changed files could not be used.
    pub is_stale: bool,
}

/// A node of a fleet at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct FleetSnapshot {
    pub members: u64,
    /// Time that is left of its lease.
    pub lease_left_ms: u64,
    /// Dead nodes that it has adopted, and databases that it has given to others.
    pub adoptions: u64,
    pub moves: u64,
    pub is_draining: bool,
}

/// One database at one moment.
#[derive(Clone, Debug, Default)]
pub struct DatabaseSnapshot {
    pub name: String,
    pub awake: bool,
    pub connected_clients: u64,
    pub blocked_clients: u64,
    pub shards: u64,
    pub memory_bytes: u64,
    /// 0: no limit.
    pub memory_max_bytes: u64,
    /// Memory that its clients make the server keep.
    pub client_memory_bytes: u64,
    /// Number of refusals of such memory, and of clients closed because of it.
    pub client_memory_refusals: u64,
    pub evicted_clients: u64,
    /// Requests refused because of the operator's limits on them.
    pub refused_requests: u64,
    pub store_bytes: u64,
    /// Whether it was made out of another database.
    pub is_branch: bool,
    /// Bytes in the store that belong to other databases.
    pub shared_bytes: u64,
    /// Bytes changed since the last checkpoint.
    pub dirty_bytes: u64,
    pub last_checkpoint_unix_ms: Option<u64>,
    /// Bytes that checkpoints have written since the server started.
    pub checkpoint_bytes: u64,
    /// Whether it has no serious condition.
    pub is_healthy: bool,
    /// Its conditions now, and problems met since the server started, by kind.
    pub conditions: [u64; ConditionKind::ALL.len()],
    pub problems: [u64; ConditionKind::ALL.len()],
    pub load_errors: u64,
    pub slow_commands_waiting: u64,
    /// Those of the 16 logical databases that hold keys.
    pub logical: Vec<LogicalSnapshot>,
    /// Since the database was created.
    pub totals: Totals,
    /// Since the server started, or `CONFIG RESETSTAT`, with the durations of commands by their index.
    pub statistics: Totals,
    pub durations: BTreeMap<usize, Histogram>,
}

/// Contents of one `SELECT` index of a database.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogicalSnapshot {
    pub index: u8,
    pub keys: u64,
    pub keys_expiring: u64,
    pub ttl_ms_average: u64,
}

impl ServerSnapshot {
    /// Memory of all databases' data.
    pub fn memory_used_bytes(&self) -> u64 {
        self.databases.iter().map(|database| database.memory_bytes).sum()
    }

    /// Sums of the statistics of all databases.
    pub fn statistics(&self) -> Totals {
        let mut sum = self.departed.statistics.clone();
        self.databases.iter().for_each(|database| sum.add(&database.statistics));
        sum
    }

    /// Durations of each command's calls, of all databases.
    fn durations(&self) -> BTreeMap<usize, Histogram> {
        let mut sum = self.departed.durations.clone();
        for (command, more) in self.databases.iter().flat_map(|database| &database.durations) {
            sum.entry(*command).or_default().add(more);
        }
        sum
    }

    /// Bytes written to the log and the store for each byte of effects; 0 if nothing was logged.
    fn write_amplification(&self) -> f64 {
        let written = self.log_bytes + self.databases.iter().map(|database| database.checkpoint_bytes).sum::<u64>();
        if self.log_effect_bytes == 0 { 0.0 } else { written as f64 / self.log_effect_bytes as f64 }
    }

    fn memory_max_bytes(&self) -> u64 {
        self.databases.iter().map(|database| database.memory_max_bytes).sum()
    }
}

impl DatabaseSnapshot {
    pub fn keys(&self) -> u64 {
        self.logical.iter().map(|logical| logical.keys).sum()
    }
}

/// Creates a registry whose scrapes show the output of `snapshot`, with series of their own for up to `databases_max`
/// databases. Other metrics may be registered beside it.
pub fn registry(
    snapshot: impl Fn() -> ServerSnapshot + Send + Sync + 'static,
    databases_max: usize,
) -> prometheus::Result<Registry> {
    let registry = Registry::new();
    registry.register(Box::new(Collector::new(snapshot, databases_max)?))?;
    Ok(registry)
}

/// Formats snapshots. It lists its metrics by formatting an example, so no list of names can go stale.
pub struct Collector {
    snapshot: Box<dyn Fn() -> ServerSnapshot + Send + Sync>,
    labels: Mutex<Labels>,
    descriptions: Vec<Desc>,
}

impl Collector {
    pub fn new(
        snapshot: impl Fn() -> ServerSnapshot + Send + Sync + 'static,
        databases_max: usize,
    ) -> prometheus::Result<Collector> {
        let describe = |family: MetricFamily| {
            let labels = family.get_metric().iter().flat_map(|metric| metric.get_label());
            let mut labels: Vec<String> = labels.map(|label| label.name().to_string()).collect();
            labels.sort_unstable();
            labels.dedup();
            Desc::new(family.name().to_string(), family.help().to_string(), labels, HashMap::new())
        };
        let example = example();
        let all = Labels::new(usize::MAX).divide(&example.databases);
        let descriptions = families(&example, &all).into_iter().map(describe).collect::<Result<_, _>>()?;
        Ok(Collector { snapshot: Box::new(snapshot), labels: Mutex::new(Labels::new(databases_max)), descriptions })
    }
}

impl prometheus::core::Collector for Collector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let snapshot = (self.snapshot)();
        let labelled = self.labels.lock().divide(&snapshot.databases);
        families(&snapshot, &labelled)
    }
}

/// A snapshot in which every metric has a value.
fn example() -> ServerSnapshot {
    let mut totals = Totals::default();
    totals.add_command(0, CommandTotals { calls: 1, nanoseconds: 1, rejected: 1, failed: 1, unbilled: 0 });
    let database = DatabaseSnapshot {
        last_checkpoint_unix_ms: Some(0),
        logical: vec![LogicalSnapshot::default()],
        totals: totals.clone(),
        statistics: totals,
        durations: BTreeMap::from([(0, Histogram::default())]),
        ..DatabaseSnapshot::default()
    };
    ServerSnapshot {
        commands: vec!["get"],
        databases: vec![database],
        tls: Some(TlsSnapshot::default()),
        audit: Some(AuditSnapshot::default()),
        usage_push: Some(PushSnapshot::default()),
        forwarded: Some(ForwardedSnapshot::default()),
        fleet: Some(FleetSnapshot::default()),
        flushes: Some(DurationCounts::default()),
        ..ServerSnapshot::default()
    }
}

/// A metric of the whole server without labels.
type ServerRow = (MetricType, &'static str, &'static str, fn(&ServerSnapshot) -> f64);

/// A metric with one series for each database.
type DatabaseRow = (MetricType, &'static str, &'static str, fn(&DatabaseSnapshot) -> f64);

use MetricType::{COUNTER, GAUGE, HISTOGRAM};

const SERVER: &[ServerRow] = &[
    (GAUGE, "redis_up", "Whether the server answers", |_| 1.0),
    (GAUGE, "redis_uptime_in_seconds", "Seconds since the start", |s| s.uptime_seconds as f64),
    (GAUGE, "redis_start_time_seconds", "Unix time of the start", |s| s.started_unix_seconds as f64),
    (GAUGE, "redis_connected_clients", "Clients connected now", |s| s.connected_clients as f64),
    (GAUGE, "redis_blocked_clients", "Clients that wait in a blocking command", |s| s.blocked_clients as f64),
    (GAUGE, "redis_config_maxclients", "Most clients at once", |s| s.max_clients as f64),
    (COUNTER, "redis_connections_received_total", "Connections accepted", |s| s.connections_received as f64),
    (COUNTER, "redis_rejected_connections_total", "Connections refused at the limit of clients", |s| {
        s.connections_rejected as f64
    }),
    (COUNTER, "dormouse_wrong_secrets_total", "Wrong tokens and passwords that clients have shown", |s| {
        s.wrong_secrets as f64
    }),
    (GAUGE, "redis_pubsub_channels", "Channels with at least one subscriber", |s| s.pubsub_channels as f64),
    (GAUGE, "redis_pubsub_patterns", "Patterns with at least one subscriber", |s| s.pubsub_patterns as f64),
    (GAUGE, "redis_memory_used_bytes", "Bytes of data in memory", |s| s.memory_used_bytes() as f64),
    (GAUGE, "redis_memory_used_peak_bytes", "Most bytes of data in memory since the start", |s| {
        s.memory_used_peak_bytes as f64
    }),
    (GAUGE, "redis_memory_used_rss_bytes", "Memory that the process holds", |s| s.memory_resident_bytes as f64),
    (GAUGE, "dormouse_process_memory_bytes", "Memory that the process uses", |s| s.process_memory_bytes as f64),
    (GAUGE, "dormouse_process_memory_max_bytes", "Limit of that: max-memory-total (0: none)", |s| {
        s.process_memory_max_bytes as f64
    }),
    (GAUGE, "redis_memory_max_bytes", "Limit of the data in memory (0: none)", |s| s.memory_max_bytes() as f64),
    (COUNTER, "redis_cpu_user_seconds_total", "CPU time in user mode", |s| s.cpu_user_seconds),
    (COUNTER, "redis_cpu_sys_seconds_total", "CPU time in the kernel", |s| s.cpu_system_seconds),
    (GAUGE, "redis_slowlog_length", "Entries in the slow log", |s| s.slowlog_entries as f64),
    (GAUGE, "redis_connected_slaves", "Replicas connected now", |s| s.connected_replicas as f64),
    (GAUGE, "dormouse_workers", "Threads that serve connections", |s| s.workers as f64),
    (GAUGE, "dormouse_log_lag_seconds", "How long the oldest write that is not durable has waited", |s| {
        s.log_lag_ms as f64 / 1e3
    }),
    (GAUGE, "dormouse_log_failing", "1 while the log cannot be written", |s| f64::from(u8::from(s.log_failing))),
    (COUNTER, "dormouse_log_effect_bytes_total", "Bytes of effects logged", |s| s.log_effect_bytes as f64),
    (COUNTER, "dormouse_log_bytes_total", "Bytes written to the log", |s| s.log_bytes as f64),
    (COUNTER, "dormouse_log_flushes_total", "Times that the log was made durable", |s| s.log_flushes as f64),
    (GAUGE, "dormouse_databases_known", "Databases in the directory, most of which may not be in memory", |s| {
        s.databases_known as f64
    }),
    (GAUGE, "dormouse_tokens_known", "Tokens in the directory", |s| s.tokens_known as f64),
    (GAUGE, "dormouse_log_files", "Files of the log that are still needed", |s| s.log_files as f64),
    (GAUGE, "dormouse_write_amplification", "Bytes written to log and store for each byte of effects", |s| {
        s.write_amplification()
    }),
];

/// A metric of TLS, if the server has a certificate.
type TlsRow = (MetricType, &'static str, &'static str, fn(&TlsSnapshot) -> f64);

const TLS: &[TlsRow] = &[
    (COUNTER, "dormouse_tls_handshakes_total", "Handshakes completed", |t| t.handshakes as f64),
    (COUNTER, "dormouse_tls_handshakes_failed_total", "Handshakes that failed", |t| t.handshakes_failed as f64),
    (GAUGE, "dormouse_tls_handshakes_pending", "Handshakes under way", |t| t.handshakes_pending as f64),
    (GAUGE, "dormouse_tls_certificate_expiry_seconds", "Unix time at which the certificate expires", |t| {
        t.certificate_expires_s as f64
    }),
    (GAUGE, "dormouse_tls_files_stale", "1 while changed certificate files cannot be used", |t| {
        f64::from(u8::from(t.is_stale))
    }),
];

/// A metric of the audit log, if there is one.
type AuditRow = (MetricType, &'static str, &'static str, fn(&AuditSnapshot) -> f64);

const AUDIT: &[AuditRow] = &[
    (COUNTER, "dormouse_audit_lines_total", "Lines of the audit log that were written", |a| a.lines as f64),
    (COUNTER, "dormouse_audit_dropped_total", "Events that the audit log has lost", |a| a.dropped as f64),
    (GAUGE, "dormouse_audit_failing", "1 while the audit log cannot be written", |a| f64::from(u8::from(a.is_failing))),
];

/// A metric of the push of usage, if there is one.
type PushRow = (MetricType, &'static str, &'static str, fn(&PushSnapshot) -> f64);

const USAGE_PUSH: &[PushRow] = &[
    (COUNTER, "dormouse_usage_pushed_events_total", "Events of usage that the receiver has taken", |p| p.events as f64),
    (COUNTER, "dormouse_usage_push_failures_total", "Attempts to push usage that failed", |p| p.failures as f64),
    (GAUGE, "dormouse_usage_push_waiting", "Objects of the usage ledger that wait for the receiver", |p| {
        p.objects_waiting as f64
    }),
    (GAUGE, "dormouse_usage_push_behind_seconds", "Time for which the first of them has waited", |p| {
        p.seconds_behind as f64
    }),
];

/// A metric of what is forwarded to other nodes, in a fleet.
type ForwardedRow = (MetricType, &'static str, &'static str, fn(&ForwardedSnapshot) -> f64);

const FORWARDED: &[ForwardedRow] = &[
    (GAUGE, "dormouse_forwarded_connections", "Connections and HTTP requests that another node serves now", |f| {
        f.connections as f64
    }),
    (COUNTER, "dormouse_forwarded_bytes_total", "Bytes that went through to other nodes and back", |f| f.bytes as f64),
];

/// A metric of a node of a fleet.
type FleetRow = (MetricType, &'static str, &'static str, fn(&FleetSnapshot) -> f64);

const FLEET: &[FleetRow] = &[
    (GAUGE, "dormouse_fleet_members", "Nodes of the fleet that are alive, as this node sees it", |f| f.members as f64),
    (GAUGE, "dormouse_fleet_lease_seconds", "Time that is left of the lease of this node", |f| {
        f.lease_left_ms as f64 / 1e3
    }),
    (GAUGE, "dormouse_fleet_draining", "1 while this node gives its databases away", |f| {
        f64::from(u8::from(f.is_draining))
    }),
    (COUNTER, "dormouse_fleet_adoptions_total", "Dead nodes that this node has adopted", |f| f.adoptions as f64),
    (COUNTER, "dormouse_fleet_moves_total", "Databases that this node has given to other nodes", |f| f.moves as f64),
];

/// Sums over all databases, under the names of the exporter.
const STATISTICS: &[(Meter, &str, &str)] = &[
    (Meter::Requests, "redis_commands_processed_total", "Commands run"),
    (Meter::KeyspaceHits, "redis_keyspace_hits_total", "Reads that found their key"),
    (Meter::KeyspaceMisses, "redis_keyspace_misses_total", "Reads that found no key"),
    (Meter::ExpiredKeys, "redis_expired_keys_total", "Keys removed when their time was over"),
    (Meter::EvictedKeys, "redis_evicted_keys_total", "Keys removed to free memory"),
    (Meter::BytesIn, "redis_net_input_bytes_total", "Bytes received"),
    (Meter::BytesOut, "redis_net_output_bytes_total", "Bytes sent in replies and messages"),
];

const DATABASE: &[DatabaseRow] = &[
    (GAUGE, "dormouse_database_awake", "1 when awake, 0 when asleep", |d| f64::from(u8::from(d.awake))),
    (GAUGE, "dormouse_database_clients", "Clients connected to the database", |d| d.connected_clients as f64),
    (GAUGE, "dormouse_database_blocked_clients", "Its clients that wait in a blocking command", |d| {
        d.blocked_clients as f64
    }),
    (GAUGE, "dormouse_database_keys", "Keys in all of its logical databases", |d| d.keys() as f64),
    (GAUGE, "dormouse_database_shards", "Shards that it is split into", |d| d.shards as f64),
    (GAUGE, "dormouse_database_memory_bytes", "Bytes of its data in memory", |d| d.memory_bytes as f64),
    (GAUGE, "dormouse_database_memory_max_bytes", "Limit of its data in memory (0: none)", |d| {
        d.memory_max_bytes as f64
    }),
    (GAUGE, "dormouse_database_client_memory_bytes", "Bytes that its clients make the server keep", |d| {
        d.client_memory_bytes as f64
    }),
    (
        COUNTER,
        "dormouse_client_memory_refusals_total",
        "Requests refused for maxmemory-clients or max-memory-total",
        |d| d.client_memory_refusals as f64,
    ),
    (COUNTER, "dormouse_evicted_clients_total", "Clients closed to free memory", |d| d.evicted_clients as f64),
    (COUNTER, "dormouse_refused_requests_total", "Requests over a limit on them", |d| d.refused_requests as f64),
    (GAUGE, "dormouse_database_store_bytes", "Bytes that it takes in the store", |d| d.store_bytes as f64),
    (COUNTER, "dormouse_checkpoint_bytes_total", "Bytes that its checkpoints have written", |d| {
        d.checkpoint_bytes as f64
    }),
    (
        GAUGE,
        "dormouse_database_shared_bytes",
        "Of these, bytes that belong to databases that it was branched from",
        |d| d.shared_bytes as f64,
    ),
    (GAUGE, "dormouse_database_healthy", "1 unless data is damaged or missing, or the database refused", |d| {
        f64::from(u8::from(d.is_healthy))
    }),
    (COUNTER, "dormouse_database_load_errors_total", "Times that something of it could not be read", |d| {
        d.load_errors as f64
    }),
    (GAUGE, "dormouse_database_slow_commands_waiting", "Its commands that wait for the slow lane", |d| {
        d.slow_commands_waiting as f64
    }),
    (GAUGE, "dormouse_database_dirty_bytes", "Bytes changed since its last checkpoint", |d| d.dirty_bytes as f64),
];

/// Returns the name, the help, and the factor from the meter's unit to the metric's.
fn meter_row(meter: Meter) -> (&'static str, &'static str, f64) {
    match meter {
        Meter::Requests => ("dormouse_requests_total", "Commands run", 1.0),
        Meter::RequestUnits => ("dormouse_request_units_total", "KiB moved, at least one a request", 1.0),
        Meter::BytesIn => ("dormouse_input_bytes_total", "Bytes received", 1.0),
        Meter::BytesOut => ("dormouse_output_bytes_total", "Bytes sent in replies and messages", 1.0),
        Meter::CpuMicroseconds => ("dormouse_cpu_seconds_total", "CPU time that commands took", 1e6),
        Meter::MemoryByteMilliseconds => ("dormouse_memory_byte_seconds_total", "Memory integrated over time", 1e3),
        Meter::StoreByteMilliseconds => ("dormouse_store_byte_seconds_total", "Storage integrated over time", 1e3),
        Meter::KeyspaceHits => ("dormouse_keyspace_hits_total", "Reads that found their key", 1.0),
        Meter::KeyspaceMisses => ("dormouse_keyspace_misses_total", "Reads that found no key", 1.0),
        Meter::ExpiredKeys => ("dormouse_expired_keys_total", "Keys removed when their time was over", 1.0),
        Meter::EvictedKeys => ("dormouse_evicted_keys_total", "Keys removed to free memory", 1.0),
        Meter::Sleeps => ("dormouse_sleeps_total", "Times that the database fell asleep", 1.0),
        Meter::Wakes => ("dormouse_wakes_total", "Times that the database woke up", 1.0),
        Meter::Checkpoints => ("dormouse_checkpoints_total", "Checkpoints committed", 1.0),
        Meter::CheckpointErrors => ("dormouse_checkpoint_errors_total", "Checkpoints that failed", 1.0),
        Meter::Splits => ("dormouse_splits_total", "Shards split", 1.0),
        Meter::Merges => ("dormouse_merges_total", "Shards merged", 1.0),
        Meter::UnbilledRequests => ("dormouse_unbilled_requests_total", "Commands run that are not billed", 1.0),
        Meter::UnbilledRequestUnits => {
            ("dormouse_unbilled_request_units_total", "KiB moved that are not billed, at least one a request", 1.0)
        }
        Meter::UnbilledBytesIn => ("dormouse_unbilled_input_bytes_total", "Bytes received that are not billed", 1.0),
        Meter::UnbilledBytesOut => ("dormouse_unbilled_output_bytes_total", "Bytes sent that are not billed", 1.0),
        Meter::TriggerEvents => ("dormouse_trigger_events_total", "Events that triggers have delivered", 1.0),
    }
}

/// Formats the whole snapshot. Metrics without a series are left out.
fn families(snapshot: &ServerSnapshot, labelled: &Labelled<'_>) -> Vec<MetricFamily> {
    let statistics = snapshot.statistics();
    let databases = &snapshot.databases;
    // Those with counters, and those with gauges: see `labels`.
    let own = &labelled.own;
    let shown: Vec<&DatabaseSnapshot> = own.iter().copied().chain(&labelled.others).collect();
    let mut families = Vec::new();
    let mut add = |kind, name: &str, help: &str, series: Vec<Metric>| {
        if !series.is_empty() {
            let mut family = MetricFamily::default();
            family.set_name(name.to_string());
            family.set_help(help.to_string());
            family.set_field_type(kind);
            family.set_metric(series);
            families.push(family);
        }
    };
    let port = snapshot.tcp_port.to_string();
    let process = std::process::id().to_string();
    let instance = [
        ("role", "master"),
        ("redis_version", REDIS_VERSION),
        ("redis_mode", snapshot.redis_mode),
        ("dormouse_version", env!("CARGO_PKG_VERSION")),
        ("os", std::env::consts::OS),
        ("maxmemory_policy", &snapshot.max_memory_policy),
        ("tcp_port", &port),
        ("run_id", &snapshot.run_id),
        ("process_id", &process),
    ];
    add(GAUGE, "redis_instance_info", "What this server is", vec![series(GAUGE, &instance, 1.0)]);
    for (kind, name, help, value) in SERVER {
        add(*kind, name, help, vec![series(*kind, &[], value(snapshot))]);
    }
    for (kind, name, help, value) in TLS {
        add(*kind, name, help, snapshot.tls.iter().map(|tls| series(*kind, &[], value(tls))).collect());
    }
    for (kind, name, help, value) in AUDIT {
        add(*kind, name, help, snapshot.audit.iter().map(|audit| series(*kind, &[], value(audit))).collect());
    }
    for (kind, name, help, value) in USAGE_PUSH {
        add(*kind, name, help, snapshot.usage_push.iter().map(|push| series(*kind, &[], value(push))).collect());
    }
    for (kind, name, help, value) in FORWARDED {
        let series = snapshot.forwarded.iter().map(|forwarded| series(*kind, &[], value(forwarded)));
        add(*kind, name, help, series.collect());
    }
    for (kind, name, help, value) in FLEET {
        add(*kind, name, help, snapshot.fleet.iter().map(|fleet| series(*kind, &[], value(fleet))).collect());
    }
    for (meter, name, help) in STATISTICS {
        add(COUNTER, name, help, vec![series(COUNTER, &[], statistics[*meter] as f64)]);
    }
    type CommandValue = fn(&CommandTotals) -> f64;
    let command_rows: [(&str, &str, CommandValue); 4] = [
        ("redis_commands_total", "Runs of each command", |c| c.calls as f64),
        ("redis_commands_duration_seconds_total", "Time that each command took", |c| c.nanoseconds as f64 / 1e9),
        ("redis_commands_rejected_calls_total", "Calls refused before they ran", |c| c.rejected as f64),
        ("redis_commands_failed_calls_total", "Runs that answered an error", |c| c.failed as f64),
    ];
    for (name, help, value) in command_rows {
        let named = statistics.commands().filter_map(|(index, command)| Some((snapshot.commands.get(index)?, command)));
        add(
            COUNTER,
            name,
            help,
            named.map(|(cmd, command)| series(COUNTER, &[("cmd", cmd)], value(&command))).collect(),
        );
    }
    type LogicalValue = fn(&LogicalSnapshot) -> f64;
    let logical_rows: [(&str, &str, LogicalValue); 3] = [
        ("redis_db_keys", "Keys", |l| l.keys as f64),
        ("redis_db_keys_expiring", "Keys that expire", |l| l.keys_expiring as f64),
        ("redis_db_avg_ttl_seconds", "Average time to live", |l| l.ttl_ms_average as f64 / 1e3),
    ];
    for (name, help, value) in logical_rows {
        let all = shown.iter().flat_map(|database| database.logical.iter().map(move |logical| (database, logical)));
        let labelled = all.map(|(database, logical)| {
            let db = format!("db{}", logical.index);
            series(GAUGE, &[("database", &database.name), ("db", &db)], value(logical))
        });
        add(GAUGE, name, help, labelled.collect());
    }
    let awake = databases.iter().filter(|database| database.awake).count();
    let states = [("awake", awake), ("asleep", databases.len() - awake)];
    let states = states.map(|(state, count)| series(GAUGE, &[("state", state)], count as f64));
    add(GAUGE, "dormouse_databases", "Databases, by state", states.to_vec());
    let branches = databases.iter().filter(|database| database.is_branch).count();
    add(GAUGE, "dormouse_branches", "Databases that are branches", vec![series(GAUGE, &[], branches as f64)]);
    let omitted = vec![series(GAUGE, &[], labelled.others_count as f64)];
    add(GAUGE, "dormouse_metrics_databases_omitted", "Databases without series of their own", omitted);
    for (kind, name, help, value) in DATABASE {
        let of = if *kind == GAUGE { &shown } else { own };
        let each = of.iter().map(|d| series(*kind, &[("database", &d.name)], value(d)));
        add(*kind, name, help, each.collect());
    }
    type Counts = fn(&DatabaseSnapshot) -> &[u64; ConditionKind::ALL.len()];
    let rows: [(_, _, _, Counts); 2] = [
        (GAUGE, "dormouse_database_conditions", "What is wrong with it now, by kind", |d| &d.conditions),
        (COUNTER, "dormouse_database_problems_total", "Problems met since the start, by kind", |d| &d.problems),
    ];
    for (metric, name, help, counts) in rows {
        let of = if metric == GAUGE { &shown } else { own };
        let each = of.iter().flat_map(|database| {
            by_kind(counts(database))
                .map(|(kind, count)| series(metric, &[("database", &database.name), ("kind", kind)], count as f64))
        });
        add(metric, name, help, each.collect());
    }
    for (metric, name, help, counts) in [
        (GAUGE, "dormouse_conditions", "What is wrong with the node now, by kind", &snapshot.conditions),
        (COUNTER, "dormouse_problems_total", "Problems of the node met since the start, by kind", &snapshot.problems),
    ] {
        let each = by_kind(counts).map(|(kind, count)| series(metric, &[("kind", kind)], count as f64));
        add(metric, name, help, each.collect());
    }
    let checkpoints = shown.iter().filter_map(|database| {
        let seconds = database.last_checkpoint_unix_ms? as f64 / 1e3;
        Some(series(GAUGE, &[("database", &database.name)], seconds))
    });
    let name = "dormouse_database_last_checkpoint_timestamp_seconds";
    add(GAUGE, name, "Unix time of its last checkpoint", checkpoints.collect());
    for meter in Meter::ALL {
        let (name, help, divisor) = meter_row(meter);
        let each = own
            .iter()
            .map(|database| series(COUNTER, &[("database", &database.name)], database.totals[meter] as f64 / divisor));
        add(COUNTER, name, help, each.collect());
    }
    let calls = own.iter().flat_map(|database| {
        database.totals.commands().filter_map(|(index, command)| {
            let labels = [("database", database.name.as_str()), ("command", snapshot.commands.get(index)?)];
            Some(series(COUNTER, &labels, command.calls as f64))
        })
    });
    add(COUNTER, "dormouse_command_calls_total", "Runs of each command, by database", calls.collect());
    let by_command = snapshot.durations();
    let by_command = by_command.iter().filter_map(|(index, calls)| {
        let cmd = *snapshot.commands.get(*index)?;
        let nanoseconds = statistics.command(*index).nanoseconds;
        Some(distribution(&[("cmd", cmd)], timings::of_calls(calls, nanoseconds)))
    });
    add(HISTOGRAM, "dormouse_command_duration_seconds", "Time that each command took", by_command.collect());
    let by_database = own.iter().map(|database| {
        let mut calls = Histogram::default();
        database.durations.values().for_each(|more| calls.add(more));
        let nanoseconds = database.statistics.commands().map(|(_, command)| command.nanoseconds).sum();
        distribution(&[("database", &database.name)], timings::of_calls(&calls, nanoseconds))
    });
    let name = "dormouse_database_command_duration_seconds";
    add(HISTOGRAM, name, "Time that commands took, by database", by_database.collect());
    let handshakes = snapshot.tls.as_ref().map(|tls| &tls.handshake_times);
    for (name, help, durations) in [
        ("dormouse_wake_duration_seconds", "Time that databases took to wake", Some(&snapshot.wakes)),
        (
            "dormouse_checkpoint_duration_seconds",
            "Time that checkpoints took that had something to write",
            Some(&snapshot.checkpoints),
        ),
        ("dormouse_log_flush_duration_seconds", "Time that flushes of the log took", snapshot.flushes.as_ref()),
        ("dormouse_tls_handshake_duration_seconds", "Time that completed handshakes took", handshakes),
    ] {
        let series = durations.map(|durations| distribution(&[], timings::of_durations(durations)));
        add(HISTOGRAM, name, help, series.into_iter().collect());
    }
    families
}

fn by_kind(counts: &[u64; ConditionKind::ALL.len()]) -> impl Iterator<Item = (&'static str, u64)> {
    ConditionKind::ALL.into_iter().zip(counts).map(|(kind, count)| (kind.name(), *count))
}

fn labelled(labels: &[(&str, &str)]) -> Metric {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_string());
        pair.set_value(value.to_string());
        pair
    };
    Metric::from_label(labels.iter().map(pair).collect())
}

fn distribution(labels: &[(&str, &str)], histogram: PrometheusHistogram) -> Metric {
    let mut metric = labelled(labels);
    metric.set_histogram(histogram);
    metric
}

fn series(kind: MetricType, labels: &[(&str, &str)], value: f64) -> Metric {
    let mut metric = labelled(labels);
    if kind == MetricType::COUNTER {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    metric
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;

    use super::*;

    fn scrape(snapshot: ServerSnapshot) -> String {
        let registry = registry(move || snapshot.clone(), usize::MAX).unwrap();
        TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
    }

    fn database(name: &str, awake: bool, requests: u128) -> DatabaseSnapshot {
        let mut totals = Totals::default();
        totals[Meter::Requests] = requests;
        totals[Meter::CpuMicroseconds] = 2_500_000;
        totals[Meter::MemoryByteMilliseconds] = 5000;
        totals
            .add_command(1, CommandTotals { calls: 7, nanoseconds: 500_000_000, rejected: 1, failed: 2, unbilled: 0 });
        DatabaseSnapshot {
            name: name.to_string(),
            awake,
            memory_bytes: 100,
            memory_max_bytes: 1000,
            shards: 2,
            last_checkpoint_unix_ms: awake.then_some(1_700_000_000_500),
            logical: vec![LogicalSnapshot { index: 3, keys: 9, keys_expiring: 4, ttl_ms_average: 1500 }],
            statistics: totals.clone(),
            totals,
            ..DatabaseSnapshot::default()
        }
    }

    #[test]
    fn a_scrape_shows_the_node_and_each_database() {
        let text = scrape(ServerSnapshot {
            uptime_seconds: 42,
            connected_clients: 3,
            commands: vec!["get", "set"],
            databases: vec![database("default", true, 10), database("shop", false, 5)],
            ..ServerSnapshot::default()
        });
        for line in [
            "# TYPE redis_up gauge",
            "# TYPE redis_commands_total counter",
            "redis_up 1",
            "redis_uptime_in_seconds 42",
            "redis_connected_clients 3",
            "redis_memory_used_bytes 200",
            "redis_memory_max_bytes 2000",
            "redis_commands_processed_total 15",
            "redis_commands_total{cmd=\"set\"} 14",
            "redis_commands_duration_seconds_total{cmd=\"set\"} 1",
            "redis_commands_failed_calls_total{cmd=\"set\"} 4",
            "redis_db_keys{database=\"shop\",db=\"db3\"} 9",
            "redis_db_keys_expiring{database=\"default\",db=\"db3\"} 4",
            "redis_db_avg_ttl_seconds{database=\"default\",db=\"db3\"} 1.5",
            "dormouse_databases{state=\"asleep\"} 1",
            "dormouse_branches 0",
            "dormouse_database_shared_bytes{database=\"shop\"} 0",
            "dormouse_database_awake{database=\"default\"} 1",
            "dormouse_database_awake{database=\"shop\"} 0",
            "dormouse_database_keys{database=\"shop\"} 9",
            "dormouse_database_last_checkpoint_timestamp_seconds{database=\"default\"} 1700000000.5",
            "dormouse_requests_total{database=\"shop\"} 5",
            "dormouse_cpu_seconds_total{database=\"shop\"} 2.5",
            "dormouse_memory_byte_seconds_total{database=\"shop\"} 5",
            "dormouse_command_calls_total{database=\"shop\",command=\"set\"} 7",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        assert!(text.contains("redis_version=\"7.2.4\"") && text.contains("role=\"master\""));
        assert!(!text.contains("last_checkpoint_timestamp_seconds{database=\"shop\"}"));
    }

    #[test]
    fn names_that_dashboards_use() {
        let text = scrape(example());
        for name in [
            "up",
            "uptime_in_seconds",
            "connected_clients",
            "blocked_clients",
            "memory_used_bytes",
            "memory_max_bytes",
            "memory_used_rss_bytes",
            "commands_total",
            "commands_duration_seconds_total",
            "db_keys",
            "db_keys_expiring",
            "keyspace_hits_total",
            "keyspace_misses_total",
            "expired_keys_total",
            "evicted_keys_total",
            "net_input_bytes_total",
            "net_output_bytes_total",
        ] {
            assert!(text.contains(&format!("# TYPE redis_{name} ")), "redis_{name}");
        }
        for meter in Meter::ALL {
            assert!(text.contains(meter_row(meter).0), "{}", meter.name());
        }
    }

    #[test]
    fn the_dashboard_and_the_alerts_name_metrics_that_exist() {
        let text = scrape(example());
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let known: BTreeMap<&str, &str> = types.collect();
        for file in [
            include_str!("../../charts/dormouse/dashboards/dormouse.json"),
            include_str!("../../charts/dormouse/rules/dormouse.yaml"),
        ] {
            let words = file.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let names: Vec<&str> =
                words.filter(|word| word.starts_with("dormouse_") || word.starts_with("redis_")).collect();
            assert!(names.len() > 5);
            for name in names {
                let is_histogram = |name: &str| known.get(name) == Some(&"histogram");
                let is_bucket = name.strip_suffix("_bucket").is_some_and(is_histogram);
                assert!(is_bucket || known.contains_key(name) && !is_histogram(name), "there is no metric {name}");
            }
        }
    }

    #[test]
    fn units_and_kinds_are_in_the_names() {
        let text = scrape(example());
        for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').unwrap();
            assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
            assert!(kind != "histogram" || name.ends_with("_seconds"), "{name}");
        }
    }

    #[test]
    fn durations_are_cumulative() {
        let mut busy = database("shop", true, 10);
        let cells = Histogram::of_steps(&[(0, 3), (1, 2), (20, 1)]);
        busy.durations.insert(1, cells);
        let text = scrape(ServerSnapshot {
            commands: vec!["get", "set"],
            departed: Departed { durations: BTreeMap::from([(1, cells)]), ..Departed::default() },
            databases: vec![busy],
            ..ServerSnapshot::default()
        });
        for line in [
            "# TYPE dormouse_command_duration_seconds histogram",
            "dormouse_command_duration_seconds_bucket{cmd=\"set\",le=\"0.000001\"} 6",
            "dormouse_command_duration_seconds_bucket{cmd=\"set\",le=\"0.000004\"} 10",
            "dormouse_command_duration_seconds_bucket{cmd=\"set\",le=\"0.262144\"} 10",
            "dormouse_command_duration_seconds_bucket{cmd=\"set\",le=\"+Inf\"} 12",
            "dormouse_command_duration_seconds_sum{cmd=\"set\"} 0.5",
            "dormouse_command_duration_seconds_count{cmd=\"set\"} 12",
            "dormouse_database_command_duration_seconds_count{database=\"shop\"} 6",
            "dormouse_wake_duration_seconds_count 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn databases_beyond_the_limit_are_added_up() {
        let databases = ["a", "b", "c"].map(|name| database(name, false, u128::from(name == "b"))).to_vec();
        let snapshot = ServerSnapshot { databases, ..ServerSnapshot::default() };
        let registry = registry(move || snapshot.clone(), 1).unwrap();
        let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for line in [
            "dormouse_metrics_databases_omitted 2",
            "dormouse_database_memory_bytes{database=\"b\"} 100",
            "dormouse_database_memory_bytes{database=\"_other\"} 200",
            "redis_db_keys{database=\"_other\",db=\"db3\"} 18",
            "dormouse_requests_total{database=\"b\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        assert!(!text.contains("_total{database=\"_other\"") && !text.contains("\"a\""), "{text}");
    }

    #[test]
    fn a_node_of_a_fleet_shows_its_part() {
        let fleet = FleetSnapshot { members: 3, lease_left_ms: 1500, adoptions: 1, moves: 12, is_draining: true };
        let text = scrape(ServerSnapshot { fleet: Some(fleet), ..ServerSnapshot::default() });
        for line in [
            "dormouse_fleet_members 3",
            "dormouse_fleet_lease_seconds 1.5",
            "dormouse_fleet_draining 1",
            "dormouse_fleet_adoptions_total 1",
            "dormouse_fleet_moves_total 12",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        assert!(!scrape(ServerSnapshot::default()).contains("dormouse_fleet_"));
    }

    #[test]
    fn a_server_without_databases_can_be_scraped() {
        let text = scrape(ServerSnapshot::default());
        assert!(text.contains("dormouse_databases{state=\"awake\"} 0"), "{text}");
        assert!(!text.contains("dormouse_requests_total"));
    }
}
