//! The output of `/metrics`, in Prometheus' text format.
//!
//! Names that begin with `redis_` are those of the Redis exporter, so that its dashboards work unchanged: they cover
//! the whole node since it started. Names that begin with `dormouse_` are the product's own. They have one series for
//! each database, and their counters continue after a restart.
//!
//! No state is kept here. On each scrape the [`Collector`] requests a [`ServerSnapshot`] and formats it.

use std::collections::HashMap;

use dormouse_shard::health::ConditionKind;
use prometheus::Registry;
use prometheus::core::Desc;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use crate::metering::{CommandTotals, Meter, Totals};

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
    /// Whether the log cannot be written.
    pub log_failing: bool,
    /// Conditions of the node now, and problems met since it started, by kind.
    pub conditions: [u64; ConditionKind::ALL.len()],
    pub problems: [u64; ConditionKind::ALL.len()],
    /// The command table's names, by index.
    pub commands: Vec<&'static str>,
    pub databases: Vec<DatabaseSnapshot>,
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
    /// Since the server started, or `CONFIG RESETSTAT`.
    pub statistics: Totals,
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
        let mut sum = Totals::default();
        self.databases.iter().for_each(|database| sum.add(&database.statistics));
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

/// Creates a registry whose scrapes show the output of `snapshot`. Other metrics may be registered beside it.
pub fn registry(snapshot: impl Fn() -> ServerSnapshot + Send + Sync + 'static) -> prometheus::Result<Registry> {
    let registry = Registry::new();
    registry.register(Box::new(Collector::new(snapshot)?))?;
    Ok(registry)
}

/// Formats snapshots. It lists its metrics by formatting an example, so no list of names can go stale.
pub struct Collector {
    snapshot: Box<dyn Fn() -> ServerSnapshot + Send + Sync>,
    descriptions: Vec<Desc>,
}

impl Collector {
    pub fn new(snapshot: impl Fn() -> ServerSnapshot + Send + Sync + 'static) -> prometheus::Result<Collector> {
        let describe = |family: MetricFamily| {
            let labels = family.get_metric().iter().flat_map(|metric| metric.get_label());
            let mut labels: Vec<String> = labels.map(|label| label.name().to_string()).collect();
            labels.sort_unstable();
            labels.dedup();
            Desc::new(family.name().to_string(), family.help().to_string(), labels, HashMap::new())
        };
        let descriptions = families(&example()).into_iter().map(describe).collect::<Result<_, _>>()?;
        Ok(Collector { snapshot: Box::new(snapshot), descriptions })
    }
}

impl prometheus::core::Collector for Collector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        families(&(self.snapshot)())
    }
}

/// A snapshot in which every metric has a value.
fn example() -> ServerSnapshot {
    let mut totals = Totals::default();
    totals.add_command(0, CommandTotals { calls: 1, nanoseconds: 1, rejected: 1, failed: 1 });
    let database = DatabaseSnapshot {
        last_checkpoint_unix_ms: Some(0),
        logical: vec![LogicalSnapshot::default()],
        totals: totals.clone(),
        statistics: totals,
        ..DatabaseSnapshot::default()
    };
    ServerSnapshot { commands: vec!["get"], databases: vec![database], ..ServerSnapshot::default() }
}

/// A metric of the whole server without labels.
type ServerRow = (MetricType, &'static str, &'static str, fn(&ServerSnapshot) -> f64);

/// A metric with one series for each database.
type DatabaseRow = (MetricType, &'static str, &'static str, fn(&DatabaseSnapshot) -> f64);

use MetricType::{COUNTER, GAUGE};

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
    (GAUGE, "dormouse_log_files", "Files of the log that are still needed", |s| s.log_files as f64),
    (GAUGE, "dormouse_write_amplification", "Bytes written to log and store for each byte of effects", |s| {
        s.write_amplification()
    }),
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
    }
}

/// Formats the whole snapshot. Metrics without a series are left out.
fn families(snapshot: &ServerSnapshot) -> Vec<MetricFamily> {
    let statistics = snapshot.statistics();
    let databases = &snapshot.databases;
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
        let all = databases.iter().flat_map(|database| database.logical.iter().map(move |logical| (database, logical)));
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
    for (kind, name, help, value) in DATABASE {
        let each = databases.iter().map(|d| series(*kind, &[("database", &d.name)], value(d)));
        add(*kind, name, help, each.collect());
    }
    type Counts = fn(&DatabaseSnapshot) -> &[u64; ConditionKind::ALL.len()];
    let rows: [(_, _, _, Counts); 2] = [
        (GAUGE, "dormouse_database_conditions", "What is wrong with it now, by kind", |d| &d.conditions),
        (COUNTER, "dormouse_database_problems_total", "Problems met since the start, by kind", |d| &d.problems),
    ];
    for (metric, name, help, counts) in rows {
        let each = databases.iter().flat_map(|database| {
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
    let checkpoints = databases.iter().filter_map(|database| {
        let seconds = database.last_checkpoint_unix_ms? as f64 / 1e3;
        Some(series(GAUGE, &[("database", &database.name)], seconds))
    });
    let name = "dormouse_database_last_checkpoint_timestamp_seconds";
    add(GAUGE, name, "Unix time of its last checkpoint", checkpoints.collect());
    for meter in Meter::ALL {
        let (name, help, divisor) = meter_row(meter);
        let each = databases
            .iter()
            .map(|database| series(COUNTER, &[("database", &database.name)], database.totals[meter] as f64 / divisor));
        add(COUNTER, name, help, each.collect());
    }
    let calls = databases.iter().flat_map(|database| {
        database.totals.commands().filter_map(|(index, command)| {
            let labels = [("database", database.name.as_str()), ("command", snapshot.commands.get(index)?)];
            Some(series(COUNTER, &labels, command.calls as f64))
        })
    });
    add(COUNTER, "dormouse_command_calls_total", "Runs of each command, by database", calls.collect());
    families
}

fn by_kind(counts: &[u64; ConditionKind::ALL.len()]) -> impl Iterator<Item = (&'static str, u64)> {
    ConditionKind::ALL.into_iter().zip(counts).map(|(kind, count)| (kind.name(), *count))
}

fn series(kind: MetricType, labels: &[(&str, &str)], value: f64) -> Metric {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_string());
        pair.set_value(value.to_string());
        pair
    };
    let mut metric = Metric::from_label(labels.iter().map(pair).collect());
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
        let registry = registry(move || snapshot.clone()).unwrap();
        TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
    }

    fn database(name: &str, awake: bool, requests: u128) -> DatabaseSnapshot {
        let mut totals = Totals::default();
        totals[Meter::Requests] = requests;
        totals[Meter::CpuMicroseconds] = 2_500_000;
        totals[Meter::MemoryByteMilliseconds] = 5000;
        totals.add_command(1, CommandTotals { calls: 7, nanoseconds: 500_000_000, rejected: 1, failed: 2 });
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
    fn a_server_without_databases_can_be_scraped() {
        let text = scrape(ServerSnapshot::default());
        assert!(text.contains("dormouse_databases{state=\"awake\"} 0"), "{text}");
        assert!(!text.contains("dormouse_requests_total"));
    }
}
