//! The settings behind `CONFIG GET` and `CONFIG SET`: one row for each parameter, with Redis's name, its getter and, if
//! it can be changed, its setter.
//!
//! A setting belongs to the whole node or to one database. Both are plain values: their holder publishes a changed copy
//! as a whole, so a `CONFIG SET` of several parameters takes effect at once or not at all.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use dormouse_protocol::RequestLimits;
use dormouse_protocol::glob::Glob;
use dormouse_shard::keyspace::notices::Classes;
use dormouse_shard::keyspace::{Idempotency, LfuSettings, Limits, tracking};
use dormouse_storage::log::Window;
use thiserror::Error;

use self::absent::ABSENT;
use self::hints::{HINTS, Hints};
use crate::log_rules::{LogKind, LogRule};
use crate::metering::prices::Prices;
use crate::options::{
    ClusterMode, DebugCommand, EvictionPolicy, HistorySpan, Interval, Options, OutputBufferLimits,
    RequestLimitSettings, SLOWLOG_LEN_MAX, Size,
};
use crate::outbound::Reach;
use crate::spending::SpendingLimits;
use crate::tls::{ClientCertificates, TlsFiles};
use crate::{process, strangers};

mod absent;
pub mod events;
mod hints;
pub mod kept;
pub mod quota;

/// Connections that the system keeps until they are accepted.
pub const LISTEN_BACKLOG: i32 = 4096;

/// Number of logical databases that `SELECT` reaches.
pub const LOGICAL_DATABASES: usize = 16;

/// The loss window that `appendfsync everysec` means, in milliseconds.
const EVERY_SECOND_MS: u64 = 1000;

/// Most keys that one eviction compares, under the lock of a shard.
const SAMPLES_MAX: usize = 64;

/// Most entries of a collection that each command reads from the beginning, and most bytes of one entry.
const LISTPACK_ENTRIES_MAX: usize = 4096;
const LISTPACK_VALUE_MAX: usize = 4096;

/// Most entries of the security log of a database.
const ACL_LOG_LEN_MAX: i64 = 1024;

/// Most entries of a set of integers, all of which an insertion may move.
const INTSET_ENTRIES_MAX: usize = 65_536;

/// The size of a request or a reply from which a command is logged, and how many such commands are kept, as in Valkey.
const LARGE_BYTES: i64 = 1 << 20;
const LARGE_LEN_MAX: u32 = 128;

/// Facts that are fixed when the server starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub bind: String,
    pub port: u16,
    pub http_port: u16,
    pub tls: TlsFacts,
    pub unix_socket: String,
    pub unix_socket_mode: u32,
    pub store: String,
    pub workers: usize,
    /// Bytes; 0: no limit.
    pub max_memory_total: u64,
    pub max_branches: usize,
    /// Most triggers of one database.
    pub max_triggers: usize,
    /// The addresses that triggers may send to.
    pub trigger_reach: Reach,
    /// How long the usage ledger is kept.
    pub ledger_keep: Interval,
    /// For spending limits.
    pub prices: Option<Arc<Prices>>,
    pub deleted_grace_ms: u64,
    /// The clients that may send `DEBUG`.
    pub debug_command: DebugCommand,
    pub cluster: ClusterFacts,
}

/// TLS as the command line asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    pub port: u16,
    pub https_port: u16,
    /// `None`: no port needs them.
    pub files: Option<TlsFiles>,
}

impl TlsFacts {
    fn path(&self, of: fn(&TlsFiles) -> Option<&PathBuf>) -> String {
        self.files.as_ref().and_then(of).map(|path| path.display().to_string()).unwrap_or_default()
    }

    fn client_certificates(&self) -> ClientCertificates {
        self.files.as_ref().map_or(ClientCertificates::No, |files| files.client_certificates)
    }
}

/// The mode in which clients of Redis Cluster are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterFacts {
    pub mode: ClusterMode,
    /// Where they find the cluster; `None`: where each has connected to.
    pub host: Option<String>,
    pub port: Option<u16>,
    /// The same for clients over TLS.
    pub tls_port: Option<u16>,
}

impl ClusterFacts {
    pub fn is_shown(&self) -> bool {
        self.mode == ClusterMode::Emulated
    }

    /// Redis's word for the mode of a server.
    pub fn mode_name(&self) -> &'static str {
        if self.is_shown() { "cluster" } else { "standalone" }
    }
}

/// Settings for every connection of the node, whatever its database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSettings {
    pub max_clients: u32,
    /// Seconds after which an idle client is disconnected; 0: never.
    pub timeout_seconds: u32,
    /// Time in which a client has to show a token.
    pub auth_timeout: Interval,
    /// Microseconds; -1 logs nothing.
    pub slowlog_slower_than: i64,
    pub slowlog_len_max: u32,
    /// Bytes of requests and replies from which a command is logged; -1 logs none.
    pub log_requests_from: i64,
    pub log_requests_len_max: u32,
    pub log_replies_from: i64,
    pub log_replies_len_max: u32,
    /// Duration in milliseconds from which a command is an event of `LATENCY`; 0: never.
    pub latency_monitor_ms: u64,
    pub output_buffer_limits: OutputBufferLimits,
    pub checkpoint_every: Interval,
    /// A reply that waits longer becomes an error.
    pub reply_timeout: Interval,
}

impl NodeSettings {
    /// The rule of one of the logs of `COMMANDLOG`.
    pub fn log_rule(&self, kind: LogKind) -> LogRule {
        let (from, entries_max) = match kind {
            LogKind::Slow => (self.slowlog_slower_than, self.slowlog_len_max),
            LogKind::LargeRequest => (self.log_requests_from, self.log_requests_len_max),
            LogKind::LargeReply => (self.log_replies_from, self.log_replies_len_max),
        };
        LogRule { from, entries_max: entries_max as usize }
    }
}

/// The operator's limits for each database. A tenant chooses within them; a connection with rights to the node may
/// exceed them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatabaseLimits {
    /// Bytes; 0: no limit.
    pub max_memory: u64,
    /// Bytes that its clients may make the server keep; 0: no limit.
    pub max_memory_clients: u64,
    /// The longest time for which an idle database may stay awake.
    pub sleep_after: Interval,
    /// A tenant has no choice within these.
    pub requests: RequestLimitSettings,
    pub spending: SpendingLimits,
    /// For how long its history is kept: nothing that a tenant chooses.
    pub history: HistorySpan,
}

impl DatabaseLimits {
    fn check_max_memory(&self, max_memory: u64) -> Result<(), String> {
        Self::check_bytes(self.max_memory, max_memory)
    }

    fn check_max_memory_clients(&self, max_memory: u64) -> Result<(), String> {
        Self::check_bytes(self.max_memory_clients, max_memory)
    }

    fn check_bytes(limit: u64, bytes: u64) -> Result<(), String> {
        if limit == 0 || (1..=limit).contains(&bytes) {
            return Ok(());
        }
        Err(format!("argument must be between 1 and {limit} inclusive, the limit of the server"))
    }

    fn check_sleep_after(&self, sleep_after: Interval) -> Result<(), String> {
        if sleep_after.milliseconds() <= self.sleep_after.milliseconds() {
            return Ok(());
        }
        Err(format!("argument must be at most {}, the limit of the server", self.sleep_after))
    }
}

/// Settings of one database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseSettings {
    /// Bytes; 0: no limit.
    pub max_memory: u64,
    /// Bytes that its clients may make the server keep; 0: no limit.
    pub max_memory_clients: u64,
    pub max_memory_policy: EvictionPolicy,
    /// Number of keys that eviction chooses among.
    pub max_memory_samples: u32,
    pub lfu_log_factor: u32,
    /// Minutes.
    pub lfu_decay_time: u32,
    pub sleep_after: Interval,
    /// The writes that a crash may lose.
    pub loss_window: Window,
    pub hash_max_listpack_entries: usize,
    pub hash_max_listpack_value: usize,
    pub list_max_listpack_size: i32,
    pub set_max_intset_entries: usize,
    pub set_max_listpack_entries: usize,
    pub set_max_listpack_value: usize,
    pub zset_max_listpack_entries: usize,
    pub zset_max_listpack_value: usize,
    /// Milliseconds after which other clients are told that a script runs; 0: never.
    pub busy_reply_threshold_ms: u64,
    pub hll_sparse_max_bytes: usize,
    pub stream_node_max_bytes: usize,
    pub stream_node_max_entries: usize,
    /// For new streams: seconds for which messages of producers are remembered, and how many of each.
    pub stream_idmp_duration_s: u32,
    pub stream_idmp_maxsize: u32,
    /// Most keys that are tracked for clients in the default mode; 0: as many as memory allows.
    pub tracking_table_max_keys: usize,
    /// Entries of `ACL LOG`.
    pub acl_log_len_max: usize,
    /// Writes are refused unless so many replicas have been heard of lately; 0: never.
    pub min_replicas_to_write: u32,
    /// Seconds since a replica's last acknowledgement within which it counts; 0: it always counts.
    pub min_replicas_max_lag_seconds: u32,
    /// Interval of `PING`s in the stream to replicas.
    pub replica_ping_seconds: u32,
    /// The keyspace events that subscribers are told of.
    pub notify_keyspace_events: Classes,
    pub hints: Hints,
}

impl DatabaseSettings {
    /// The sizes up to which collections stay packed. Redis has no bound for most of them. Here a command must not take
    /// long because of another database's, so the engine uses at most what is good for all.
    pub fn limits(&self, seed: u64) -> Limits {
        let entries = |set: usize| set.min(LISTPACK_ENTRIES_MAX);
        let value = |set: usize| set.min(LISTPACK_VALUE_MAX);
        // Redis takes 0 for no limit.
        let node = |set: usize, most: usize| if set == 0 { most } else { set.min(most) };
        Limits {
            hash_max_listpack_entries: entries(self.hash_max_listpack_entries),
            hash_max_listpack_value: value(self.hash_max_listpack_value),
            list_max_listpack_size: self.list_max_listpack_size.max(-5),
            set_max_intset_entries: self.set_max_intset_entries.min(INTSET_ENTRIES_MAX),
            set_max_listpack_entries: entries(self.set_max_listpack_entries),
            set_max_listpack_value: value(self.set_max_listpack_value),
            zset_max_listpack_entries: entries(self.zset_max_listpack_entries),
            zset_max_listpack_value: value(self.zset_max_listpack_value),
            hll_sparse_max_bytes: self.hll_sparse_max_bytes.min(Limits::REDIS.hll_sparse_max_bytes),
            stream_node_max_bytes: node(self.stream_node_max_bytes, Limits::REDIS.stream_node_max_bytes),
            stream_node_max_entries: node(self.stream_node_max_entries, Limits::REDIS.stream_node_max_entries),
            stream_idmp_duration_s: self.stream_idmp_duration_s,
            stream_idmp_maxsize: self.stream_idmp_maxsize,
            seed,
        }
    }

    /// Number of keys that an eviction compares.
    pub fn eviction_samples(&self) -> usize {
        (self.max_memory_samples as usize).min(SAMPLES_MAX)
    }
}

/// Settings as one connection sees them: the node's and those of its database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub facts: Facts,
    pub node: NodeSettings,
    pub limits: DatabaseLimits,
    pub database: DatabaseSettings,
}

impl Settings {
    /// Returns the settings that the command line requests. Those of the database apply to new databases.
    pub fn new(options: &Options) -> Settings {
        let bind: Vec<String> = options.bind.iter().map(ToString::to_string).collect();
        Settings {
            facts: Facts {
                bind: bind.join(" "),
                port: options.port,
                http_port: options.http_port,
                tls: TlsFacts {
                    port: options.tls.tls_port,
                    https_port: options.tls.https_port,
                    // The options have been checked.
                    files: options.tls.files().ok().flatten(),
                },
                unix_socket: options.unix_socket.as_deref().map(|path| path.display().to_string()).unwrap_or_default(),
                unix_socket_mode: options.unix_socket_mode.0,
                store: options.store.clone(),
                workers: options.worker_count().get(),
                max_memory_total: options.memory_total(),
                max_branches: options.max_branches as usize,
                max_triggers: options.max_triggers as usize,
                trigger_reach: options.trigger_reach,
                ledger_keep: options.ledger_keep,
                // The server reads the file.
                prices: None,
                deleted_grace_ms: options.deleted_grace_ms(),
                debug_command: options.enable_debug_command,
                cluster: ClusterFacts {
                    mode: options.cluster.cluster_mode,
                    host: options.cluster.cluster_announce_host.clone(),
                    port: options.cluster.cluster_announce_port,
                    tls_port: options.cluster.cluster_announce_tls_port,
                },
            },
            node: NodeSettings {
                max_clients: options.max_clients,
                timeout_seconds: options.timeout,
                auth_timeout: options.auth_timeout,
                slowlog_slower_than: options.slowlog_log_slower_than,
                slowlog_len_max: options.slowlog_max_len,
                log_requests_from: LARGE_BYTES,
                log_requests_len_max: LARGE_LEN_MAX,
                log_replies_from: LARGE_BYTES,
                log_replies_len_max: LARGE_LEN_MAX,
                latency_monitor_ms: 0,
                output_buffer_limits: options.client_output_buffer_limit,
                checkpoint_every: options.checkpoint_every,
                reply_timeout: options.reply_timeout,
            },
            limits: DatabaseLimits {
                max_memory: options.max_memory.0,
                max_memory_clients: options.memory_clients(),
                sleep_after: options.sleep_after,
                requests: options.limits.settings(),
                spending: SpendingLimits {
                    request_units: options.spending_limit_units.unwrap_or(0),
                    money_nano: options.spending_limit_money.map_or(0, |money| money.0),
                },
                history: options.history,
            },
            database: DatabaseSettings {
                max_memory: options.max_memory.0,
                max_memory_clients: options.memory_clients(),
                max_memory_policy: options.max_memory_policy,
                max_memory_samples: 5,
                lfu_log_factor: LfuSettings::REDIS.log_factor,
                lfu_decay_time: LfuSettings::REDIS.decay_minutes,
                sleep_after: options.sleep_after,
                loss_window: options.loss_window,
                hash_max_listpack_entries: Limits::REDIS.hash_max_listpack_entries,
                hash_max_listpack_value: Limits::REDIS.hash_max_listpack_value,
                list_max_listpack_size: Limits::REDIS.list_max_listpack_size,
                set_max_intset_entries: Limits::REDIS.set_max_intset_entries,
                set_max_listpack_entries: Limits::REDIS.set_max_listpack_entries,
                set_max_listpack_value: Limits::REDIS.set_max_listpack_value,
                zset_max_listpack_entries: Limits::REDIS.zset_max_listpack_entries,
                zset_max_listpack_value: Limits::REDIS.zset_max_listpack_value,
                busy_reply_threshold_ms: 5000,
                hll_sparse_max_bytes: Limits::REDIS.hll_sparse_max_bytes,
                stream_node_max_bytes: Limits::REDIS.stream_node_max_bytes,
                stream_node_max_entries: Limits::REDIS.stream_node_max_entries,
                stream_idmp_duration_s: Limits::REDIS.stream_idmp_duration_s,
                stream_idmp_maxsize: Limits::REDIS.stream_idmp_maxsize,
                tracking_table_max_keys: tracking::KEYS_MAX,
                acl_log_len_max: 128,
                min_replicas_to_write: 0,
                min_replicas_max_lag_seconds: 10,
                replica_ping_seconds: 10,
                notify_keyspace_events: Classes::NONE,
                hints: Hints::default(),
            },
        }
    }
}

/// Origin of a change, which limits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// May also change the settings of the node, which other databases share.
    Node,
    /// May only change the settings of its own database.
    Database,
}

/// Parts of the settings that were set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub node: bool,
    pub database: bool,
}

/// The reason why nothing was set. The text is Redis's, to be sent after `ERR `.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error("Unknown option or number of arguments for CONFIG SET - '{0}'")]
    Unknown(String),
    #[error("CONFIG SET failed (possibly related to argument '{name}') - {reason}")]
    Failed { name: String, reason: String },
}

/// Whether there is a parameter of this name.
pub fn is_known(name: &[u8]) -> bool {
    names().any(|(known, _)| known.as_bytes().eq_ignore_ascii_case(name))
}

/// Returns the parameters that match any of the names or glob patterns, each once, with their values. The location of
/// the data and the listeners are shown only with rights to the node.
pub fn get(settings: &Settings, patterns: &[&[u8]], access: Access) -> Vec<(String, String)> {
    let mut shown = ShownParameters::default();
    patterns.iter().for_each(|pattern| shown.add(settings, pattern, access));
    shown.found
}

/// Collects the same, pattern by pattern.
#[derive(Debug, Default)]
pub struct ShownParameters {
    taken: BTreeSet<usize>,
    pub found: Vec<(String, String)>,
}

impl ShownParameters {
    pub fn add(&mut self, settings: &Settings, pattern: &[u8], access: Access) {
        // An overly complex pattern matches no parameter, as their names are short.
        let glob = Glob::nocase(pattern).ok().filter(|_| pattern.iter().any(|byte| b"*?[".contains(byte)));
        for (index, (name, parameter)) in names().enumerate() {
            if self.taken.contains(&index) || parameter.scope == Scope::Place && access == Access::Database {
                continue;
            }
            let shown = match &glob {
                Some(glob) if glob.matches(name.as_bytes()) && !parameter.is_hidden => name.to_string(),
                // Redis repeats a plain name as the client spelled it.
                None if name.as_bytes().eq_ignore_ascii_case(pattern) => String::from_utf8_lossy(pattern).into_owned(),
                _ => continue,
            };
            self.taken.insert(index);
            self.found.push((shown, (parameter.get)(settings)));
        }
    }
}

/// Sets all of the parameters, or none and returns the reason.
pub fn set(settings: &mut Settings, pairs: &[(&[u8], &[u8])], access: Access) -> Result<Changes, ConfigError> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let failed = |name: &[u8], reason: &str| ConfigError::Failed { name: text(name), reason: reason.to_string() };
    let mut steps: Vec<Step> = Vec::new();
    for (name, value) in pairs {
        let found = names().find(|(known, _)| known.as_bytes().eq_ignore_ascii_case(name));
        let (known, parameter) = found.ok_or_else(|| ConfigError::Unknown(text(name)))?;
        let Some(setter) = parameter.set else {
            // Tools set what they have read before. A tenant does not learn of a place by trying.
            let is_shown = parameter.scope == Scope::Fact || access == Access::Node;
            if is_shown && (parameter.get)(settings).as_bytes() == *value {
                continue;
            }
            return Err(failed(name, "can't set immutable config"));
        };
        if parameter.scope == Scope::Node && access == Access::Database {
            return Err(failed(name, "can't set protected config"));
        }
        if steps.iter().any(|step| step.known == known) {
            return Err(failed(name, "duplicate parameter"));
        }
        steps.push(Step { name, known, parameter, setter, value });
    }
    let mut changed = settings.clone();
    let mut changes = Changes::default();
    for step in steps {
        (step.setter)(&mut changed, &text(step.value)).map_err(|reason| failed(step.name, &reason))?;
        if let Some(check) = step.parameter.limit.filter(|_| access == Access::Database) {
            check(&changed).map_err(|reason| failed(step.name, &reason))?;
        }
        changes.node |= step.parameter.scope == Scope::Node;
        changes.database |= step.parameter.scope == Scope::Database;
    }
    *settings = changed;
    Ok(changes)
}

/// One parameter of a `CONFIG SET` whose names are all valid; its value has yet to be read.
struct Step<'a> {
    /// As the client spelled it.
    name: &'a [u8],
    known: &'static str,
    parameter: &'static Parameter,
    setter: Setter,
    value: &'a [u8],
}

/// The owner of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Node,
    Database,
    /// No owner: it reports a fact.
    Fact,
    /// No owner: it reports a fact about the server's location on its machine.
    Place,
}

type Setter = fn(&mut Settings, &str) -> Result<(), String>;

/// Checks changed settings. The error is the reason.
type Check = fn(&Settings) -> Result<(), String>;

struct Parameter {
    name: &'static str,
    /// Its name in older versions of Redis.
    alias: Option<&'static str>,
    scope: Scope,
    get: fn(&Settings) -> String,
    /// `None` if it cannot be changed while the server runs.
    set: Option<Setter>,
    /// Checks a tenant's choice against the operator's limits.
    limit: Option<Check>,
    /// No pattern finds it, only its name.
    is_hidden: bool,
}

impl Parameter {
    const fn fact(name: &'static str, get: fn(&Settings) -> String) -> Parameter {
        Parameter { name, alias: None, scope: Scope::Fact, get, set: None, limit: None, is_hidden: false }
    }

    const fn place(name: &'static str, get: fn(&Settings) -> String) -> Parameter {
        Parameter { name, alias: None, scope: Scope::Place, get, set: None, limit: None, is_hidden: false }
    }

    const fn node(name: &'static str, get: fn(&Settings) -> String, set: Setter) -> Parameter {
        Parameter { name, alias: None, scope: Scope::Node, get, set: Some(set), limit: None, is_hidden: false }
    }

    const fn database(name: &'static str, get: fn(&Settings) -> String, set: Setter) -> Parameter {
        Parameter { name, alias: None, scope: Scope::Database, get, set: Some(set), limit: None, is_hidden: false }
    }

    const fn hidden(mut self) -> Parameter {
        self.is_hidden = true;
        self
    }

    const fn alias(mut self, alias: &'static str) -> Parameter {
        self.alias = Some(alias);
        self
    }

    const fn within(mut self, limit: Check) -> Parameter {
        self.limit = Some(limit);
        self
    }

    const fn settable(mut self, set: Setter) -> Parameter {
        self.set = Some(set);
        self
    }
}

/// Defines a row for a number within a range, for a setting of a database.
macro_rules! database_number {
    ($name:literal, $field:ident, $range:expr) => {
        Parameter::database(
            $name,
            |settings| settings.database.$field.to_string(),
            |settings, text| assign(&mut settings.database.$field, number(text, $range)),
        )
    };
}

/// Defines the same for a number of bytes, which may have a unit.
macro_rules! database_bytes {
    ($name:literal, $field:ident) => {
        Parameter::database(
            $name,
            |settings| settings.database.$field.to_string(),
            |settings, text| {
                let bytes = memory(text).map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
                assign(&mut settings.database.$field, bytes)
            },
        )
    };
}

/// Defines the same for a setting of the node.
macro_rules! node_number {
    ($name:literal, $field:ident, $range:expr) => {
        Parameter::node(
            $name,
            |settings| settings.node.$field.to_string(),
            |settings, text| assign(&mut settings.node.$field, number(text, $range)),
        )
    };
}

/// Where Redis has no bound on a size, none is refused: [`DatabaseSettings::limits`] uses at most what this server bounds.
const ANY: RangeInclusive<i64> = 0..=i64::MAX;
/// Redis takes what is below -5 for -5.
const LIST_NODE: RangeInclusive<i64> = i32::MIN as i64..=0x7fff;

const PARAMETERS: &[Parameter] = &[
    // Settings of each database.
    Parameter::database(
        "maxmemory",
        |settings| settings.database.max_memory.to_string(),
        |settings, text| assign(&mut settings.database.max_memory, memory(text)),
    )
    .within(|settings| settings.limits.check_max_memory(settings.database.max_memory)),
    Parameter::database(
        "maxmemory-clients",
        |settings| settings.database.max_memory_clients.to_string(),
        |settings, text| {
            let percent = text.strip_suffix('%').map(|percent| percent.parse::<u64>());
            let bytes = match percent {
                Some(Ok(101..)) => Err("percentage argument must be less or equal to 100".to_string()),
                _ => memory(text),
            };
            assign(&mut settings.database.max_memory_clients, bytes)
        },
    )
    .within(|settings| settings.limits.check_max_memory_clients(settings.database.max_memory_clients)),
    Parameter::database(
        "maxmemory-policy",
        |settings| settings.database.max_memory_policy.to_string(),
        |settings, text| assign(&mut settings.database.max_memory_policy, policy(text)),
    ),
    database_number!("maxmemory-samples", max_memory_samples, 1..=i32::MAX as i64),
    database_number!("lfu-log-factor", lfu_log_factor, 0..=i32::MAX as i64),
    database_number!("lfu-decay-time", lfu_decay_time, 0..=i32::MAX as i64),
    Parameter::database(
        "loss-window",
        |settings| settings.database.loss_window.to_string(),
        |settings, text| assign(&mut settings.database.loss_window, parsed(text)),
    ),
    // Redis's name for it.
    Parameter::database(
        "appendfsync",
        |settings| appendfsync(settings.database.loss_window).to_string(),
        |settings, text| {
            let window = window_of(settings.database.loss_window, text);
            assign(&mut settings.database.loss_window, window)
        },
    ),
    Parameter::database(
        "sleep-after",
        |settings| settings.database.sleep_after.to_string(),
        |settings, text| assign(&mut settings.database.sleep_after, parsed(text)),
    )
    .within(|settings| settings.limits.check_sleep_after(settings.database.sleep_after)),
    database_number!("hash-max-listpack-entries", hash_max_listpack_entries, ANY).alias("hash-max-ziplist-entries"),
    database_bytes!("hash-max-listpack-value", hash_max_listpack_value).alias("hash-max-ziplist-value"),
    database_number!("list-max-listpack-size", list_max_listpack_size, LIST_NODE).alias("list-max-ziplist-size"),
    database_number!("set-max-intset-entries", set_max_intset_entries, ANY),
    database_number!("set-max-listpack-entries", set_max_listpack_entries, ANY),
    database_bytes!("set-max-listpack-value", set_max_listpack_value),
    database_number!("zset-max-listpack-entries", zset_max_listpack_entries, ANY).alias("zset-max-ziplist-entries"),
    database_bytes!("zset-max-listpack-value", zset_max_listpack_value).alias("zset-max-ziplist-value"),
    database_number!("busy-reply-threshold", busy_reply_threshold_ms, 0..=i64::MAX).alias("lua-time-limit"),
    database_bytes!("hll-sparse-max-bytes", hll_sparse_max_bytes),
    database_bytes!("stream-node-max-bytes", stream_node_max_bytes),
    database_number!("stream-node-max-entries", stream_node_max_entries, ANY),
    database_number!("stream-idmp-duration", stream_idmp_duration_s, 1..=Idempotency::DURATION_MAX_S as i64),
    database_number!("stream-idmp-maxsize", stream_idmp_maxsize, 1..=Idempotency::SIZE_MAX as i64),
    database_number!("tracking-table-max-keys", tracking_table_max_keys, 0..=i64::MAX),
    database_number!("acllog-max-len", acl_log_len_max, 0..=ACL_LOG_LEN_MAX),
    Parameter::database(
        "notify-keyspace-events",
        |settings| events::text(settings.database.notify_keyspace_events),
        |settings, text| assign(&mut settings.database.notify_keyspace_events, events::read(text)),
    ),
    database_number!("min-replicas-to-write", min_replicas_to_write, 0..=i32::MAX as i64).alias("min-slaves-to-write"),
    database_number!("min-replicas-max-lag", min_replicas_max_lag_seconds, 0..=i32::MAX as i64)
        .alias("min-slaves-max-lag"),
    database_number!("repl-ping-replica-period", replica_ping_seconds, 1..=i32::MAX as i64)
        .alias("repl-ping-slave-period"),
    // Settings of the node.
    Parameter::node(
        "maxclients",
        |settings| settings.node.max_clients.to_string(),
        |settings, text| assign(&mut settings.node.max_clients, number(text, 1..=u32::MAX as i64).and_then(possible)),
    ),
    node_number!("timeout", timeout_seconds, 0..=i32::MAX as i64),
    Parameter::node(
        "auth-timeout",
        |settings| settings.node.auth_timeout.to_string(),
        |settings, text| assign(&mut settings.node.auth_timeout, parsed(text)),
    ),
    node_number!("slowlog-log-slower-than", slowlog_slower_than, -1..=i64::MAX)
        .alias("commandlog-execution-slower-than"),
    node_number!("latency-monitor-threshold", latency_monitor_ms, 0..=i64::MAX),
    node_number!("slowlog-max-len", slowlog_len_max, 0..=SLOWLOG_LEN_MAX as i64)
        .alias("commandlog-slow-execution-max-len"),
    node_number!("commandlog-request-larger-than", log_requests_from, -1..=i64::MAX),
    node_number!("commandlog-large-request-max-len", log_requests_len_max, 0..=SLOWLOG_LEN_MAX as i64),
    node_number!("commandlog-reply-larger-than", log_replies_from, -1..=i64::MAX),
    node_number!("commandlog-large-reply-max-len", log_replies_len_max, 0..=SLOWLOG_LEN_MAX as i64),
    Parameter::node(
        "client-output-buffer-limit",
        |settings| settings.node.output_buffer_limits.redis_text(),
        |settings, text| {
            let limits = settings.node.output_buffer_limits.with(text).map_err(str::to_string);
            assign(&mut settings.node.output_buffer_limits, limits)
        },
    ),
    Parameter::node(
        "checkpoint-every",
        |settings| settings.node.checkpoint_every.to_string(),
        |settings, text| assign(&mut settings.node.checkpoint_every, parsed(text)),
    ),
    Parameter::node(
        "reply-timeout",
        |settings| settings.node.reply_timeout.to_string(),
        |settings, text| assign(&mut settings.node.reply_timeout, parsed(text)),
    ),
    // Facts.
    Parameter::fact("acl-pubsub-default", |_| "resetchannels".to_string())
        .settable(|_, text| always("resetchannels", text)),
    Parameter::fact("aclfile", |_| String::new()),
    Parameter::fact("databases", |_| LOGICAL_DATABASES.to_string()),
    Parameter::fact("port", |settings| settings.facts.port.to_string()),
    Parameter::place("bind", |settings| settings.facts.bind.clone()),
    Parameter::fact("tls-port", |settings| settings.facts.tls.port.to_string()),
    Parameter::place("tls-cert-file", |settings| settings.facts.tls.path(|files| Some(&files.certificate))),
    Parameter::place("tls-key-file", |settings| settings.facts.tls.path(|files| Some(&files.key))),
    Parameter::place("tls-ca-cert-file", |settings| settings.facts.tls.path(|files| files.authorities.as_ref())),
    Parameter::fact("tls-auth-clients", |settings| settings.facts.tls.client_certificates().name().to_string()),
    Parameter::fact("https-port", |settings| settings.facts.tls.https_port.to_string()),
    Parameter::fact("http-port", |settings| settings.facts.http_port.to_string()),
    Parameter::place("unixsocket", |settings| settings.facts.unix_socket.clone()),
    Parameter::place("unixsocketperm", |settings| format!("{:o}", settings.facts.unix_socket_mode)),
    Parameter::fact("maxmemory-total", |settings| settings.facts.max_memory_total.to_string()),
    Parameter::fact("enable-debug-command", |settings| settings.facts.debug_command.to_string()),
    Parameter::fact("max-branches", |settings| settings.facts.max_branches.to_string()),
    Parameter::fact("max-triggers", |settings| settings.facts.max_triggers.to_string()),
    Parameter::fact("trigger-reach", |settings| match settings.facts.trigger_reach {
        Reach::Public => "public".to_owned(),
        Reach::Private => "private".to_owned(),
    }),
    Parameter::fact("ledger-keep", |settings| settings.facts.ledger_keep.to_string()),
    Parameter::fact("workers", |settings| settings.facts.workers.to_string()),
    Parameter::place("store", |settings| settings.facts.store.clone()),
    Parameter::place("dir", |settings| directory(&settings.facts.store)),
    Parameter::fact("cluster-enabled", |settings| yes_no(settings.facts.cluster.is_shown())),
    Parameter::fact("cluster-announce-ip", |settings| settings.facts.cluster.host.clone().unwrap_or_default()),
    Parameter::fact("cluster-announce-port", |settings| settings.facts.cluster.port.unwrap_or_default().to_string()),
    Parameter::fact("cluster-announce-tls-port", |settings| {
        settings.facts.cluster.tls_port.unwrap_or_default().to_string()
    }),
    Parameter::fact("daemonize", |_| "no".to_string()),
    // Every worker reads, runs and writes.
    Parameter::fact("io-threads", |settings| settings.facts.workers.to_string()),
    Parameter::fact("tcp-backlog", |_| LISTEN_BACKLOG.to_string()),
    Parameter::fact("replicaof", |_| String::new()).alias("slaveof"),
    Parameter::fact("requirepass", |_| String::new()).settable(|_, text| match text {
        "" => Ok(()),
        _ => Err("a password belongs to a user: ACL SETUSER default >password".to_string()),
    }),
    // The log and checkpoints replace these.
    Parameter::fact("appendonly", |settings| yes_no(settings.database.loss_window != Window::None)).settable(
        |settings, text| {
            switch(text).and_then(|()| only(&["no", &yes_no(settings.database.loss_window != Window::None)], text))
        },
    ),
    // Behavior that is always or never on in Dormouse. Redis's value for it may be set.
    Parameter::fact("proto-max-bulk-len", |_| bulk_bytes_max().to_string())
        .settable(|_, text| memory(text).and_then(|bytes| always(&bulk_bytes_max().to_string(), &bytes.to_string()))),
    Parameter::fact("latency-tracking", |_| "yes".to_string())
        .settable(|_, text| switch(text).and_then(|()| always("yes", text))),
    Parameter::fact("latency-tracking-info-percentiles", |_| PERCENTILES.map(|p| p.to_string()).join(" ")),
    Parameter::fact("stop-writes-on-bgsave-error", |_| "yes".to_string())
        .settable(|_, text| switch(text).and_then(|()| always("yes", text))),
];

/// The percentiles of `INFO latencystats`.
pub const PERCENTILES: [f64; 3] = [50.0, 99.0, 99.9];

/// Every name, including aliases, with its row.
fn names() -> impl Iterator<Item = (&'static str, &'static Parameter)> {
    PARAMETERS
        .iter()
        .chain(HINTS)
        .chain(ABSENT)
        .flat_map(|parameter| std::iter::once(parameter.name).chain(parameter.alias).map(move |name| (name, parameter)))
}

fn assign<T>(place: &mut T, value: Result<T, String>) -> Result<(), String> {
    *place = value?;
    Ok(())
}

fn number<T: TryFrom<i64>>(text: &str, range: RangeInclusive<i64>) -> Result<T, String> {
    let number = text.parse::<i64>().ok().filter(|number| number.to_string() == text);
    let number = number.ok_or("argument couldn't be parsed into an integer")?;
    range
        .contains(&number)
        .then_some(number)
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| format!("argument must be between {} and {} inclusive", range.start(), range.end()))
}

/// Accepts as many clients as the limit of open files allows, with the places for strangers.
fn possible(clients: u32) -> Result<u32, String> {
    let strangers = strangers::places(clients as usize) as u64;
    let possible = process::allow_clients(u64::from(clients) + strangers);
    if possible < u64::from(clients) + strangers {
        let possible = possible.saturating_sub(strangers);
        return Err(format!(
            "The operating system is not able to handle the specified number of clients, try with {possible}"
        ));
    }
    Ok(clients)
}

fn memory(text: &str) -> Result<u64, String> {
    text.parse::<Size>().map(|size| size.0).map_err(|_| "argument must be a memory value".to_string())
}

fn policy(text: &str) -> Result<EvictionPolicy, String> {
    EvictionPolicy::ALL.into_iter().find(|policy| policy.name().eq_ignore_ascii_case(text)).ok_or_else(|| {
        let names = EvictionPolicy::ALL.map(EvictionPolicy::name).join(", ");
        format!("argument(s) must be one of the following: {names}")
    })
}

fn parsed<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn yes_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_string()
}

fn bulk_bytes_max() -> u32 {
    RequestLimits::default().bulk_bytes_max
}

/// Accepts values that change nothing: another parameter sets how much a crash may lose.
fn only(values: &[&str], text: &str) -> Result<(), String> {
    match values.iter().any(|value| text.eq_ignore_ascii_case(value)) {
        true => Ok(()),
        false => Err(format!("argument must be '{}': see checkpoint-every and loss-window", values[0])),
    }
}

/// Accepts `yes` and `no`.
fn switch(text: &str) -> Result<(), String> {
    let is_switch = ["yes", "no"].iter().any(|word| word.eq_ignore_ascii_case(text));
    is_switch.then_some(()).ok_or_else(|| "argument must be 'yes' or 'no'".to_string())
}

/// Accepts only the value that describes the actual behavior.
fn always(value: &str, text: &str) -> Result<(), String> {
    match text.eq_ignore_ascii_case(value) {
        true => Ok(()),
        false => Err(format!("argument must be '{value}': this server supports no other value")),
    }
}

/// Redis's name for a loss window.
fn appendfsync(window: Window) -> &'static str {
    match window {
        Window::None => "no",
        Window::Zero => "always",
        Window::Ms(_) => "everysec",
    }
}

/// The loss window that a value of `appendfsync` asks for.
fn window_of(now: Window, text: &str) -> Result<Window, String> {
    let value = ["always", "everysec", "no"].into_iter().find(|value| value.eq_ignore_ascii_case(text));
    let value = value.ok_or("argument(s) must be one of the following: everysec, always, no")?;
    match (value, now) {
        ("no", Window::None) | ("everysec", Window::Ms(_)) => Ok(now),
        (_, Window::None) => Err("argument must be 'no' without a log: see loss-window".to_string()),
        ("always", _) => Ok(Window::Zero),
        // Redis then leaves it to the system when it writes, which may be after half a minute.
        _ => Ok(Window::Ms(EVERY_SECOND_MS)),
    }
}

/// Returns the directory of a `file://` store; empty for other stores.
pub fn directory(store: &str) -> String {
    let Some(path) = store.strip_prefix("file://") else { return String::new() };
    std::path::absolute(Path::new(path)).map_or_else(|_| path.to_string(), |path| path.display().to_string())
}

#[cfg(test)]
mod tests;
