//! Parameters that tune Redis's internals without an effect visible to clients: how often it looks for expired keys,
//! how it compresses lists, whether it frees memory in another thread. Dormouse does not use them. It accepts them
//! within Redis's ranges, keeps them for their database and shows them again, so that tools and test suites that set
//! them keep working.
//!
//! A parameter that promises something is not among them.

use std::collections::BTreeMap;

use dormouse_storage::log::Window;

use super::{Parameter, Settings, memory, number};

/// Values that were set, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints(BTreeMap<&'static str, String>);

impl Hints {
    fn get(&self, name: &str, default: &str) -> String {
        self.0.get(name).map_or(default, String::as_str).to_string()
    }
}

/// A row for `yes` or `no`.
macro_rules! switch {
    ($name:literal, $default:literal) => {
        Parameter::database(
            $name,
            |settings| settings.database.hints.get($name, $default),
            |settings, text| {
                let value = ["yes", "no"].into_iter().find(|word| word.eq_ignore_ascii_case(text));
                let value = value.ok_or("argument must be 'yes' or 'no'")?;
                settings.database.hints.0.insert($name, value.to_string());
                Ok(())
            },
        )
    };
}

/// A row for a number within a range.
macro_rules! count {
    ($name:literal, $default:literal, $range:expr) => {
        Parameter::database(
            $name,
            |settings| settings.database.hints.get($name, $default),
            |settings, text| {
                let value: i64 = number(text, $range)?;
                settings.database.hints.0.insert($name, value.to_string());
                Ok(())
            },
        )
    };
}

/// A row for a number of bytes.
macro_rules! bytes {
    ($name:literal, $default:literal) => {
        Parameter::database(
            $name,
            |settings| settings.database.hints.get($name, $default),
            |settings, text| {
                let value = memory(text)?;
                settings.database.hints.0.insert($name, value.to_string());
                Ok(())
            },
        )
    };
}

/// A row for one of some words, of which the first is the default.
macro_rules! word {
    ($name:literal, $words:expr) => {
        Parameter::database(
            $name,
            |settings| settings.database.hints.get($name, $words[0]),
            |settings, text| {
                let value = $words.into_iter().find(|word| word.eq_ignore_ascii_case(text));
                let words = || format!("argument(s) must be one of the following: {}", $words.join(", "));
                settings.database.hints.0.insert($name, value.ok_or_else(words)?.to_string());
                Ok(())
            },
        )
    };
}

/// The name of the parameter, which is also one of a command.
const SAVE: &str = "save";

/// Nothing charges a tenant for them.
const SAVE_POINTS_MAX: usize = 64;

/// The moments of Redis's snapshots: pairs of seconds and changes. While a database writes a log, it keeps more than any
/// snapshot would. Without one, its checkpoints have an interval of their own.
fn save_points(settings: &mut Settings, text: &str) -> Result<(), String> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let is_pair = |pair: &[&str]| {
        matches!(pair, [seconds, changes]
            if number::<i64>(seconds, 1..=i64::MAX).is_ok() && number::<i64>(changes, 0..=i64::from(i32::MAX)).is_ok())
    };
    if words.len() > 2 * SAVE_POINTS_MAX || !words.chunks(2).all(is_pair) {
        return Err("Invalid save parameters".to_string());
    }
    if !words.is_empty() && settings.database.loss_window == Window::None {
        return Err("argument must be '' without a loss window: see checkpoint-every and loss-window".to_string());
    }
    settings.database.hints.0.insert(SAVE, words.join(" "));
    Ok(())
}

fn shown_save_points(settings: &Settings) -> String {
    match settings.database.loss_window {
        Window::None => String::new(),
        _ => settings.database.hints.get(SAVE, ""),
    }
}

const ANY: std::ops::RangeInclusive<i64> = 0..=i32::MAX as i64;
const POSITIVE: std::ops::RangeInclusive<i64> = 1..=i32::MAX as i64;

pub(super) const HINTS: &[Parameter] = &[
    bytes!("active-defrag-ignore-bytes", "104857600"),
    count!("active-defrag-cycle-us", "500", 0..=100_000),
    count!("active-defrag-cycle-max", "25", 1..=99),
    count!("active-defrag-cycle-min", "1", 1..=99),
    count!("active-defrag-max-scan-fields", "1000", 1..=i64::MAX),
    count!("active-defrag-threshold-lower", "10", 0..=1000),
    count!("active-defrag-threshold-upper", "100", 0..=1000),
    count!("active-expire-effort", "1", 1..=10),
    switch!("activedefrag", "no"),
    switch!("activerehashing", "yes"),
    switch!("aof-disable-auto-gc", "no"),
    bytes!("aof-load-corrupt-tail-max-size", "0"),
    switch!("aof-load-truncated", "yes"),
    switch!("aof-rewrite-incremental-fsync", "yes"),
    switch!("aof-timestamp-enabled", "no"),
    switch!("aof-use-rdb-preamble", "yes"),
    bytes!("auto-aof-rewrite-min-size", "67108864"),
    count!("auto-aof-rewrite-percentage", "100", ANY),
    switch!("dynamic-hz", "yes"),
    count!("hz", "10", ANY),
    switch!("jemalloc-bg-thread", "yes"),
    // For tests of Redis itself.
    count!("key-load-delay", "0", i64::MIN..=i64::MAX).hidden(),
    count!("loading-process-events-interval-bytes", "2097152", 1024..=i32::MAX as i64).hidden(),
    count!("rdb-key-save-delay", "0", i64::MIN..=i64::MAX).hidden(),
    switch!("lazyfree-lazy-eviction", "no"),
    switch!("lazyfree-lazy-expire", "no"),
    switch!("lazyfree-lazy-server-del", "no"),
    switch!("lazyfree-lazy-user-del", "no"),
    switch!("lazyfree-lazy-user-flush", "no"),
    count!("list-compress-depth", "0", ANY),
    word!("loglevel", ["notice", "debug", "verbose", "warning", "nothing"]),
    count!("lookahead", "16", 1..=i32::MAX as i64),
    count!("max-new-connections-per-cycle", "10", 1..=1000),
    count!("max-new-tls-connections-per-cycle", "1", 1..=1000),
    count!("maxmemory-eviction-tenacity", "10", 0..=100),
    switch!("no-appendfsync-on-rewrite", "no"),
    count!("prefetch-batch-max-size", "16", 0..=128),
    switch!("rdb-save-incremental-fsync", "yes"),
    switch!("rdbcompression", "yes"),
    Parameter::database(SAVE, shown_save_points, save_points),
    count!("shutdown-timeout", "10", ANY),
    count!("tcp-keepalive", "300", ANY),
    // Between nodes of a cluster, of which this one has none but itself.
    switch!("cluster-allow-pubsubshard-when-down", "yes"),
    switch!("cluster-allow-reads-when-down", "no"),
    switch!("cluster-allow-replica-migration", "yes"),
    count!("cluster-blacklist-ttl", "60", ANY),
    count!("cluster-compatibility-sample-ratio", "0", 0..=100),
    count!("cluster-manual-failover-timeout", "5000", POSITIVE),
    count!("cluster-migration-barrier", "1", ANY),
    count!("cluster-node-timeout", "15000", 0..=i64::MAX),
    switch!("cluster-replica-no-failover", "no").alias("cluster-slave-no-failover"),
    count!("cluster-replica-validity-factor", "10", ANY).alias("cluster-slave-validity-factor"),
    switch!("cluster-require-full-coverage", "yes"),
    // Settings of a replica, which this server never is.
    word!("propagation-error-behavior", ["ignore", "panic", "panic-on-replicas"]),
    switch!("rdb-del-sync-files", "no"),
    word!("repl-diskless-load", ["disabled", "on-empty-db", "swapdb"]),
    count!("replica-announce-port", "0", 0..=65535).alias("slave-announce-port"),
    switch!("replica-announced", "yes"),
    switch!("replica-ignore-disk-write-errors", "no"),
    switch!("replica-ignore-maxmemory", "yes").alias("slave-ignore-maxmemory"),
    switch!("replica-lazy-flush", "no").alias("slave-lazy-flush"),
    count!("replica-priority", "100", ANY).alias("slave-priority"),
    switch!("replica-read-only", "yes").alias("slave-read-only"),
    switch!("replica-serve-stale-data", "yes").alias("slave-serve-stale-data"),
    // How a source and its replicas pass the time. The end of the stream is kept as long as the process lives.
    count!("repl-backlog-ttl", "3600", ANY),
    switch!("repl-disable-tcp-nodelay", "no"),
    switch!("repl-diskless-sync", "yes"),
    count!("repl-diskless-sync-delay", "5", ANY),
    count!("repl-diskless-sync-max-replicas", "0", ANY),
    count!("repl-timeout", "60", POSITIVE),
    bytes!("replica-full-sync-buffer-limit", "0"),
];
