//! Options from the command line, the environment and a file.
//!
//! Every option of `serve` can be given in three places. The first that has it wins:
//!
//! 1. the command line: `--sleep-after 5m`;
//! 2. the environment ([`environment`]): `DORMOUSE_SLEEP_AFTER=5m`; several values are separated by spaces;
//! 3. the file that `--config` names, in TOML: `sleep-after = "5m"`; several values are an array;
//! 4. else its default.
//!
//! Places 2 and 3 are not read option by option. They replace the defaults of the parser ([`with_defaults`]), so that
//! an option that is declared once, in [`Options`], works everywhere.

mod cluster;
mod debugging;
pub(crate) mod environment;
mod fleet;
mod history;
mod limits;
mod name;
mod reshaping;
mod tls;
mod token;
mod usage;
mod values;

use std::ffi::OsString;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::ArgAction;
use clap::error::ErrorKind;
use dormouse_autoscaler::Policy;
use dormouse_storage::log::Window;

pub use self::cluster::ClusterMode;
use self::cluster::ClusterOptions;
pub use self::debugging::DebugCommand;
use self::fleet::FleetOptions;
pub use self::fleet::NodeName;
pub use self::history::{HistorySpan, PastMoment};
use self::limits::LimitOptions;
pub use self::limits::RequestLimitSettings;
pub use self::name::{
    DATABASE_NAME_LEN_MAX, DEFAULT_DATABASE, branch_name, check_database_name, check_full_name, owner_and_branch,
};
use self::reshaping::Reshaping;
use self::tls::TlsOptions;
pub use self::token::{MetricsAccess, Tokens, named_database, named_secret};
use self::token::{OperatorSecret, Token};
pub use self::usage::PushTarget;
use self::usage::UsagePushOptions;
pub use self::values::{Bind, EvictionPolicy, FileMode, Interval, Money, OutputBufferLimit, OutputBufferLimits, Size};
use crate::audit::AuditTarget;
use crate::logging::{self, LogFormat};
use crate::outbound::Reach;
use crate::process;

fn parse_reach(text: &str) -> Result<Reach, String> {
    match text {
        "public" => Ok(Reach::Public),
        "private" => Ok(Reach::Private),
        _ => Err("expected public or private".to_owned()),
    }
}

/// Longest slow log that can be requested.
pub const SLOWLOG_LEN_MAX: u32 = 10_000;

/// The options of `dormouse serve`. Their names are spelled here and nowhere else.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Address to listen on; may be repeated
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", help_heading = "Listening")]
    pub bind: Vec<Bind>,

    /// Port of the Redis protocol (0: no TCP)
    #[arg(long, value_name = "PORT", default_value_t = 6379, help_heading = "Listening")]
    pub port: u16,

    /// Port of commands over HTTP, /metrics, /healthz and /readyz (0: off)
    #[arg(long, value_name = "PORT", default_value_t = 8379, help_heading = "Listening")]
    pub http_port: u16,

    /// Also listen on a Unix socket
    #[arg(long, value_name = "PATH", help_heading = "Listening")]
    pub unix_socket: Option<PathBuf>,

    /// Permissions of the Unix socket, in octal
    #[arg(long, value_name = "MODE", default_value = "700", help_heading = "Listening")]
    pub unix_socket_mode: FileMode,

    /// Most clients at once; more are refused
    #[arg(long, value_name = "CLIENTS", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..),
          help_heading = "Listening")]
    pub max_clients: u32,

    /// Disconnect clients that are idle for this many seconds (0: never)
    #[arg(long, value_name = "SECONDS", default_value_t = 0,
          value_parser = clap::value_parser!(u32).range(..=i64::from(i32::MAX)), help_heading = "Listening")]
    pub timeout: u32,

    /// Disconnect a client that has shown no token after this time, where tokens are asked for (or `never`)
    #[arg(long, value_name = "DURATION", default_value = "10s", help_heading = "Listening")]
    pub auth_timeout: Interval,

    /// Unsent output that costs a client its connection, as `CLASS HARD SOFT SECONDS` for normal, replica and pubsub
    #[arg(long, value_name = "LIMITS", default_value_t, help_heading = "Listening")]
    pub client_output_buffer_limit: OutputBufferLimits,

    /// A secret that clients present with AUTH; may be repeated. `dm_<database>_<secret>` opens that database and its
    /// branches, any other opens `default`. Best given as DORMOUSE_TOKEN: other users can see the command line
    #[arg(long = "token", value_name = "TOKEN", hide_default_value = true, help_heading = "Listening")]
    token_texts: Vec<String>,

    /// The secret behind `AUTH admin`, which gives rights to the whole server. Best given as DORMOUSE_ADMIN_TOKEN
    #[arg(long = "admin-token", value_name = "TOKEN", hide_default_value = true, help_heading = "Listening")]
    admin_token_text: Option<String>,

    /// The secret that /metrics asks for beside the admin token, or `none` to show it to everyone, as a server without
    /// tokens does. Best given as DORMOUSE_METRICS_TOKEN
    #[arg(long = "metrics-token", value_name = "TOKEN", hide_default_value = true, help_heading = "Listening")]
    metrics_token_text: Option<String>,

    /// Let anyone who reaches the HTTP port make a database that lives 72 hours at most, up to this many at a time
    /// [default without a number: 1000]
    #[arg(long, value_name = "DATABASES", num_args = 0..=1, require_equals = true, default_value_t = 0,
          default_missing_value = "1000", hide_default_value = true, help_heading = "Listening")]
    pub open: u32,

    /// Most memory for the data of each of these databases
    #[arg(long, value_name = "SIZE", default_value = "16mb", help_heading = "Listening")]
    pub open_max_memory: Size,

    /// The parsed tokens.
    #[arg(skip)]
    pub tokens: Tokens,

    #[arg(skip)]
    pub metrics_access: MetricsAccess,

    /// Most databases that have series of their own on /metrics
    #[arg(long, value_name = "DATABASES", default_value_t = 500, help_heading = "Listening")]
    pub metrics_databases: u32,

    /// Where the data is stored: file://PATH; s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or az://CONTAINER/FOLDER, with
    /// credentials from the environment (AWS_..., GOOGLE_..., AZURE_...); or memory:// to keep nothing
    #[arg(long, value_name = "URL", default_value = "file://./dormouse-data", help_heading = "Databases")]
    pub store: String,

    /// The key that encrypts the store: file:PATH or env:NAME with 64 hexadecimal digits, or command:COMMAND, which is run with
    /// `wrap` or `unwrap`. A store that was opened with one needs it from then on
    #[arg(long = "master-key", value_name = "KEY", help_heading = "Databases")]
    pub master_key: Option<String>,

    /// Put a database to sleep after it has been idle for this time (or `never`)
    #[arg(long, value_name = "DURATION", default_value = "5m", help_heading = "Databases")]
    pub sleep_after: Interval,

    /// Write changes to the store at this interval while a database is awake (or `never`)
    #[arg(long, value_name = "DURATION", default_value = "60s", help_heading = "Databases")]
    pub checkpoint_every: Interval,

    /// The most recent writes that a crash may lose: 0, a duration such as 100ms, or `none` for all since the last checkpoint
    #[arg(long, value_name = "WINDOW", default_value = "1s", help_heading = "Databases")]
    pub loss_window: Window,

    /// Keep the history of each database for this time, such as 24h, so that a branch of any moment in it can be made (or
    /// `off`)
    #[arg(long, value_name = "DURATION", default_value = "off", help_heading = "Databases")]
    pub history: HistorySpan,

    /// Answer with an error when a reply has waited for this time: for its write to be durable, for its database to wake, for
    /// its turn (or `never`)
    #[arg(long, value_name = "DURATION", default_value = "2s", help_heading = "Databases")]
    pub reply_timeout: Interval,

    /// Most memory for the data of one database, such as 100mb (0: no limit)
    #[arg(long, value_name = "SIZE", default_value = "0", help_heading = "Databases")]
    pub max_memory: Size,

    /// What to do when a write would exceed it
    #[arg(long, value_name = "POLICY", default_value_t, value_enum, help_heading = "Databases")]
    pub max_memory_policy: EvictionPolicy,

    /// Most memory for what the clients of one database make the server keep: requests, replies, queues, names
    /// [default: an eighth of --max-memory-total]
    #[arg(long, value_name = "SIZE", help_heading = "Databases")]
    pub max_memory_clients: Option<Size>,

    #[command(flatten)]
    pub limits: LimitOptions,

    /// Most branches of one database, branches of branches included
    #[arg(long, value_name = "BRANCHES", default_value_t = 64, help_heading = "Databases")]
    pub max_branches: u32,

    /// Most triggers of one database (0: none has any)
    #[arg(long, value_name = "TRIGGERS", default_value_t = 16, help_heading = "Databases")]
    pub max_triggers: u32,

    /// How far triggers may send: to `public` addresses, or also to `private` networks and this machine, which anyone who may add
    /// a trigger can then reach
    #[arg(long, value_name = "REACH", value_parser = parse_reach, default_value = "public", help_heading = "Databases")]
    pub trigger_reach: Reach,

    /// Keep the usage of each minute for this time (or `never` delete it)
    #[arg(long, value_name = "DURATION", default_value = "62d", help_heading = "Databases")]
    pub ledger_keep: Interval,

    /// Most request units that one database may use in a calendar month
    #[arg(
        long,
        value_name = "UNITS",
        value_parser = clap::value_parser!(u64).range(1..),
        help_heading = "Databases"
    )]
    pub spending_limit_units: Option<u64>,

    /// Most money that the usage of one database and its branches may cost in a calendar month, by the prices in --prices
    #[arg(long, value_name = "MONEY", help_heading = "Databases")]
    pub spending_limit_money: Option<Money>,

    /// A file with prices, as in examples/prices
    #[arg(long, value_name = "FILE", help_heading = "Databases")]
    pub prices: Option<PathBuf>,

    #[command(flatten)]
    pub usage_push: UsagePushOptions,

    /// Time for which a deleted database can be brought back with `dormouse db undelete`, such as 24h (or `never`: a deletion is
    /// for good). Until then its data stay in the store, and count
    #[arg(long, value_name = "DURATION", default_value = "never", help_heading = "Databases")]
    pub deleted_grace: Interval,

    /// Most memory for the whole process: above nine tenths of it idle databases are put to sleep, above all of it writes,
    /// loads and new clients are refused (0: no limit) [default: three quarters of what the machine or the container has]
    #[arg(long, value_name = "SIZE", help_heading = "Running")]
    pub max_memory_total: Option<Size>,

    #[command(flatten)]
    pub tls: TlsOptions,

    #[command(flatten)]
    pub cluster: ClusterOptions,

    #[command(flatten)]
    pub fleet: FleetOptions,

    #[command(flatten)]
    reshaping: Reshaping,

    /// When shards split and merge and databases are checkpointed, as all of the options together say.
    #[arg(skip)]
    pub policy: Policy,

    /// Worker threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = parse_workers, help_heading = "Running")]
    pub workers: Option<NonZeroUsize>,

    /// Log commands that take at least so many microseconds in SLOWLOG (-1: none, 0: all)
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 10_000, allow_negative_numbers = true,
          value_parser = clap::value_parser!(i64).range(-1..), help_heading = "Running")]
    pub slowlog_log_slower_than: i64,

    /// Most entries that SLOWLOG keeps
    #[arg(long, value_name = "ENTRIES", default_value_t = 128,
          value_parser = clap::value_parser!(u32).range(..=i64::from(SLOWLOG_LEN_MAX)), help_heading = "Running")]
    pub slowlog_max_len: u32,

    /// Clients that may send DEBUG
    #[arg(long, value_name = "CLIENTS", default_value_t, value_enum, help_heading = "Running")]
    pub enable_debug_command: DebugCommand,

    /// How log lines look
    #[arg(long, value_name = "FORMAT", default_value = "text", value_enum, help_heading = "Running")]
    pub log_format: LogFormat,

    /// What is logged: error, warn, info, debug, trace or off; also by module, as in `info,dormouse=debug`
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = logging::parse_level,
          help_heading = "Running")]
    pub log_level: logging::Level,

    /// Log who has administered the server or shown a token, as one JSON object a line: to a file, `stderr`, or `-` for
    /// standard output
    #[arg(long, value_name = "FILE", help_heading = "Running")]
    pub audit_log: Option<AuditTarget>,

    /// Read options from this TOML file
    #[arg(long, value_name = "FILE", help_heading = "Running")]
    pub config: Option<PathBuf>,
}

impl Options {
    /// The number of worker threads: as requested, or one for each core.
    pub fn worker_count(&self) -> NonZeroUsize {
        self.workers.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
    }

    /// The options that name a port, and the ports, without those that are off.
    fn ports(&self) -> Vec<(&'static str, u16)> {
        let mut ports = vec![
            ("--port", self.port),
            ("--http-port", self.http_port),
            ("--tls-port", self.tls.tls_port),
            ("--https-port", self.tls.https_port),
        ];
        ports.retain(|(_, port)| *port != 0);
        ports
    }

    /// Most bytes for the whole process; 0: no limit.
    pub fn memory_total(&self) -> u64 {
        self.max_memory_total.map_or_else(process::memory_by_default, |size| size.0)
    }

    /// Most bytes that the clients of one database may make the server keep; 0: no limit.
    pub fn memory_clients(&self) -> u64 {
        self.max_memory_clients.map_or_else(|| self.memory_total() / 8, |size| size.0)
    }

    /// Milliseconds for which a deleted database can be brought back.
    pub fn deleted_grace_ms(&self) -> u64 {
        self.deleted_grace.duration().map_or(0, |grace| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX))
    }

    /// Checks the rules between options, which no single value can break.
    pub(crate) fn checked(mut self: Box<Self>) -> Result<Box<Self>, clap::Error> {
        // The texts are taken out of the options, so that printing the options never prints a secret.
        let wrong = |option: &'static str, variable: &'static str| {
            move |error| invalid(format!("invalid value for '{option}' or {variable}: {error}"))
        };
        let tokens = std::mem::take(&mut self.token_texts);
        let tokens: Result<Vec<Token>, _> =
            tokens.iter().map(|text| text.parse().map_err(wrong("--token", "DORMOUSE_TOKEN"))).collect();
        let admin: Option<Result<OperatorSecret, _>> = self.admin_token_text.take().map(|text| text.parse());
        let admin = admin.transpose().map_err(wrong("--admin-token", "DORMOUSE_ADMIN_TOKEN"))?;
        self.tokens = Tokens::new(tokens?, admin).map_err(invalid)?;
        let metrics = MetricsAccess::new(self.metrics_token_text.take().as_deref(), &self.tokens);
        self.metrics_access = metrics.map_err(wrong("--metrics-token", "DORMOUSE_METRICS_TOKEN"))?;
        if self.open > 0 && !self.tokens.has_admin() {
            let text = "--open needs an admin token: only its holder can claim or delete the databases that others make; set \
                        DORMOUSE_ADMIN_TOKEN";
            return Err(invalid(text.to_string()));
        }
        let ports = self.ports();
        if self.port == 0 && self.tls.tls_port == 0 && self.unix_socket.is_none() {
            return Err(invalid("nowhere to listen: --port 0 needs a --tls-port or a --unix-socket".to_string()));
        }
        for (at, (option, port)) in ports.iter().enumerate() {
            if let Some((before, _)) = ports[..at].iter().find(|(_, before)| before == port) {
                return Err(invalid(format!("{before} and {option} are both {port}: they need a port each")));
            }
        }
        self.tls.files().map_err(invalid)?;
        self.usage_push.check().map_err(invalid)?;
        self.limits.settings().check().map_err(invalid)?;
        self.policy = self.reshaping.policy(self.checkpoint_every).map_err(invalid)?;
        let exposed = self.bind.iter().find(|bind| !bind.is_loopback());
        if let Some(bind) = exposed
            && self.tokens.is_empty()
            && !ports.is_empty()
        {
            return Err(invalid(format!(
                "refusing to listen on {bind} without a token: every client that reaches it could read and change everything.\n\
                 Set one with DORMOUSE_TOKEN or --token (`openssl rand -hex 24` makes a good one), or listen only on \
                 this machine with --bind 127.0.0.1"
            )));
        }
        Ok(self)
    }
}

fn parse_workers(text: &str) -> Result<NonZeroUsize, String> {
    match text.parse::<NonZeroUsize>() {
        Ok(workers) if workers.get() <= 1024 => Ok(workers),
        _ => Err("expected a number from 1 to 1024".to_string()),
    }
}

fn invalid(message: String) -> clap::Error {
    clap::Error::raw(ErrorKind::ValueValidation, message + "\n")
}

/// An option's name, and its values.
pub(crate) type Defaults = Vec<(String, Vec<OsString>)>;

/// Replaces the defaults of the named options in `command`, at its top and in `serve`. The values have been checked.
pub(crate) fn with_defaults(command: clap::Command, defaults: &Defaults) -> clap::Command {
    let replace = |mut command: clap::Command| {
        for (name, values) in defaults {
            let id = command.get_arguments().find(|option| option.get_long() == Some(name)).map(|o| o.get_id().clone());
            if let Some(id) = id {
                command = command.mut_arg(id, |option| option.default_values(values.clone()));
            }
        }
        command
    };
    replace(command).mut_subcommand("serve", replace)
}

fn options_command() -> clap::Command {
    <Options as clap::Args>::augment_args(clap::Command::new("dormouse"))
}

pub(crate) fn file_defaults(path: &Path) -> Result<Defaults, clap::Error> {
    let place = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| {
        let advice = if error.kind() == io::ErrorKind::NotFound { " (named by --config)" } else { "" };
        invalid(format!("cannot read {place}{advice}: {error}"))
    })?;
    // The error's own text repeats the line, which may hold a token.
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        invalid(format!("in {place}, line {}: {}", before.matches('\n').count() + 1, error.message()))
    })?;
    let command = options_command();
    let mut defaults = Defaults::new();
    for (name, value) in table {
        let option = command
            .get_arguments()
            .find(|option| option.get_long() == Some(name.as_str()) && name != "config")
            .ok_or_else(|| invalid(format!("in {place}: unknown option `{name}` (see `dormouse --help`)")))?;
        if let toml::Value::Integer(_) | toml::Value::Float(_) = value
            && option.get_value_parser().type_id() == std::any::TypeId::of::<Interval>()
        {
            return Err(invalid(format!(
                "in {place}: `{name} = {value}` has no unit: write `{name} = \"{value}s\"` for seconds"
            )));
        }
        let values = match value {
            toml::Value::Array(values) if takes_several(option) => values.into_iter().map(scalar).collect(),
            value => scalar(value).map(|text| vec![text]),
        };
        let values = values.ok_or_else(|| invalid(format!("in {place}: `{name}` has a value of the wrong type")))?;
        defaults.push((name, checked_values(option, values, &place)?));
    }
    Ok(defaults)
}

fn scalar(value: toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        _ => None,
    }
}

fn takes_several(option: &clap::Arg) -> bool {
    matches!(option.get_action(), ArgAction::Append)
}

/// Checks the values with the option's own parser. The error also names the place of the value.
fn checked_values(option: &clap::Arg, values: Vec<String>, place: &str) -> Result<Vec<OsString>, clap::Error> {
    let name = option.get_long().unwrap_or_default();
    let written = values.iter().map(|value| format!("--{name}={value}"));
    clap::Command::new("dormouse")
        .no_binary_name(true)
        .disable_help_flag(true)
        .arg(option.clone())
        .try_get_matches_from(written)
        .map_err(|error| {
            let complaint = error.to_string();
            let complaint = complaint.strip_prefix("error: ").unwrap_or(&complaint);
            invalid(format!("in {place}: {}", complaint.split("\n\nFor more").next().unwrap_or_default()))
        })?;
    Ok(values.into_iter().map(OsString::from).collect())
}

#[cfg(test)]
mod tests;
