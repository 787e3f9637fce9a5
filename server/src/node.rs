//! A node: one process with its workers, databases and clients.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arc_swap::ArcSwap;
use dormouse_autoscaler::Policy;
use dormouse_shard::commands::{Flags, Row};
use dormouse_shard::database::Engine;
use dormouse_shard::error::Error;
use dormouse_shard::memory::MEMORY;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use crate::activity::Activity;
use crate::audit::AuditLog;
use crate::clients::{Client, Clients, OutputLimit, Places, Refusal};
use crate::clock::Alarm;
use crate::config::{DatabaseLimits, Facts, NodeSettings, Settings};
use crate::databases::{Tenant, Tenants};
use crate::fleet::{Directions, Fleet};
use crate::forwarded::Forwarded;
use crate::lease::ServingLease;
use crate::log_rules::LogKind;
use crate::newcomers::Newcomers;
use crate::options::OutputBufferLimit;
use crate::peer::Peer;
use crate::process::random_seed;
use crate::pusher::UsagePusher;
use crate::replication::{COPIES_MAX, Surroundings};
use crate::strangers::{self, Guesses};
use crate::tls::Tls;

pub struct Node {
    pub tenants: Tenants,
    pub clients: Clients,
    pub guesses: Guesses,
    pub newcomers: Newcomers,
    pub activity: Activity,
    /// Turns of full copies for replicas.
    pub copies: Arc<Semaphore>,
    pub engine: Engine,
    pub facts: Facts,
    pub limits: DatabaseLimits,
    pub policy: Policy,
    settings: ArcSwap<NodeSettings>,
    /// Held while settings are read, changed and published.
    pub changing: Mutex<()>,
    /// Copies of settings that the request path reads.
    latency_ms: AtomicU64,
    /// The lowest duration that is noted anywhere, in nanoseconds; `u64::MAX` if none is.
    noted_from_ns: AtomicU64,
    /// The lowest size of a request or a reply that is noted anywhere; `u64::MAX` if none is.
    noted_from_bytes: AtomicU64,
    /// The fleet that it is a node of.
    pub fleet: OnceLock<Arc<Fleet>>,
    pub lease: ServingLease,
    /// Its certificate, if it serves TLS.
    pub tls: Option<Arc<Tls>>,
    pub audit: AuditLog,
    /// Differs from process to process.
    pub seed: u64,
    pub run_id: String,
    pub started: Instant,
    pub started_ms: u64,
    pub memory_peak: AtomicU64,
    /// Memory that the process used at the last look: see [`crate::memory`].
    pub memory_used: AtomicU64,
    draining: watch::Sender<bool>,
    /// Requests the end of the process, for `SHUTDOWN`, and whether to save.
    pub shutdown: tokio::sync::mpsc::UnboundedSender<Shutdown>,
    /// If usage is pushed anywhere.
    pub usage_pusher: OnceLock<Arc<UsagePusher>>,
    /// In a fleet: tells where databases are served.
    pub directions: OnceLock<Arc<dyn Directions>>,
    /// The clients and bytes that it forwards to other nodes.
    pub forwarded: Arc<Forwarded>,
    /// The monotonic clock, unless a test has set another before the first client waited.
    pub alarm: OnceLock<Alarm>,
}

/// The way in which a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Every database is put to sleep first.
    Save,
    /// Data that is in no checkpoint is lost, as requested.
    NoSave,
    /// Another process has taken the store over: nothing can be written any more.
    Taken,
}

/// The text for clients and probes after another process has taken the store over.
pub const OVERTAKEN: &str = "the store was taken over by another process: this one serves no database any more";

impl Node {
    /// The clock that ends the waits of clients.
    pub fn alarm(&self) -> &Alarm {
        self.alarm.get_or_init(Alarm::default)
    }

    pub fn new(
        tenants: Tenants,
        engine: Engine,
        settings: Settings,
        policy: Policy,
        (tls, audit): (Option<Arc<Tls>>, AuditLog),
        seed: u64,
        shutdown: tokio::sync::mpsc::UnboundedSender<Shutdown>,
    ) -> Arc<Self> {
        let started_ms = (engine.clock)();
        tenants.branches_max.store(settings.facts.max_branches, Ordering::Relaxed);
        tenants.deleted_grace_ms.store(settings.facts.deleted_grace_ms, Ordering::Relaxed);
        let clients = Clients::default();
        clients.limit_written(Self::written_max(&settings.node));
        let node = Self {
            tenants,
            clients,
            guesses: Guesses::default(),
            newcomers: Newcomers::default(),
            activity: Activity::default(),
            copies: Arc::new(Semaphore::new(COPIES_MAX)),
            engine,
            facts: settings.facts,
            limits: settings.limits,
            policy,
            latency_ms: AtomicU64::new(settings.node.latency_monitor_ms),
            noted_from_ns: AtomicU64::new(noted_from_ns(&settings.node)),
            noted_from_bytes: AtomicU64::new(noted_from_bytes(&settings.node)),
            settings: ArcSwap::from_pointee(settings.node),
            changing: Mutex::default(),
            fleet: OnceLock::new(),
            lease: ServingLease::default(),
            tls,
            audit,
            seed,
            run_id: run_id(),
            started: Instant::now(),
            started_ms,
            memory_peak: AtomicU64::new(0),
            memory_used: AtomicU64::new(0),
            draining: watch::channel(false).0,
            shutdown,
            usage_pusher: OnceLock::new(),
            directions: OnceLock::new(),
            forwarded: Arc::default(),
            alarm: OnceLock::new(),
        };
        Arc::new(node)
    }

    pub fn settings(&self) -> Arc<NodeSettings> {
        self.settings.load_full()
    }

    pub fn configure(&self, settings: NodeSettings) {
        self.latency_ms.store(settings.latency_monitor_ms, Ordering::Relaxed);
        self.noted_from_ns.store(noted_from_ns(&settings), Ordering::Relaxed);
        self.noted_from_bytes.store(noted_from_bytes(&settings), Ordering::Relaxed);
        self.clients.limit_written(Self::written_max(&settings));
        self.settings.store(Arc::new(settings));
    }

    /// Most bytes of replies that one client may have.
    fn written_max(settings: &NodeSettings) -> usize {
        match output_limit(settings.output_buffer_limits.normal).hard_bytes {
            0 => usize::MAX,
            bytes => bytes,
        }
    }

    /// The settings that a connection to `tenant` sees.
    pub fn settings_for(&self, tenant: &Tenant) -> Settings {
        Settings {
            facts: self.facts.clone(),
            node: (*self.settings()).clone(),
            limits: tenant.limits(),
            database: tenant.settings_now(),
        }
    }

    /// Whether another process is known to have taken the store over.
    pub fn is_overtaken(&self) -> bool {
        self.engine.log.as_ref().is_some_and(|log| log.is_sealed())
    }

    /// Refuses promises that only the owner of the store can make.
    ///
    /// # Errors
    /// When another process is known to have taken the store over.
    pub fn check_owner(&self) -> Result<(), Error> {
        if self.is_overtaken() { Err(Error::Store(OVERTAKEN.to_owned())) } else { Ok(()) }
    }

    /// Adds a connection that has yet to show a token.
    ///
    /// # Errors
    /// When the process has no memory for more than a few: one of these may have the admin token.
    pub fn add_stranger(&self, peer: Peer, now_ms: u64) -> Result<Arc<Client>, Refusal> {
        let places = self.places(None);
        if places.is_out_of_memory && self.clients.strangers() >= strangers::PLACES_MIN {
            return Err(Refusal::OutOfMemory);
        }
        Ok(self.clients.add_stranger(peer, now_ms, strangers::places(places.max)))
    }

    /// The number of clients that it takes, for one that enters a database.
    pub fn places(&self, entered: Option<&Tenant>) -> Places {
        let of_database = entered.map_or(0, |tenant| tenant.limits().requests.connections);
        Places {
            max: self.max_clients(),
            of_database: if of_database == 0 { usize::MAX } else { of_database as usize },
            databases: self.tenants.owners(),
            is_out_of_memory: MEMORY.is_full(),
        }
    }

    pub fn max_clients(&self) -> usize {
        self.settings.load().max_clients as usize
    }

    pub fn output_limit_normal(&self) -> OutputLimit {
        output_limit(self.settings.load().output_buffer_limits.normal)
    }

    pub fn output_limit_pubsub(&self) -> OutputLimit {
        output_limit(self.settings.load().output_buffer_limits.pubsub)
    }

    pub fn output_limit_replica(&self) -> OutputLimit {
        output_limit(self.settings.load().output_buffer_limits.replica)
    }

    /// Notes the duration of a command: in the slow log if it was slow, and as an event of `LATENCY`.
    pub fn note_time(
        &self,
        tenant: &Tenant,
        client: &Client,
        row: &Row,
        request: dormouse_protocol::Request<'_>,
        took: std::time::Duration,
        now_ms: u64,
    ) {
        if took.as_nanos() as u64 >= self.noted_from_ns() {
            self.note_slow(tenant, client, row, request, took, now_ms);
        }
    }

    /// Nanoseconds from which a command is noted anywhere.
    pub fn noted_from_ns(&self) -> u64 {
        self.noted_from_ns.load(Ordering::Relaxed)
    }

    #[cold]
    fn note_slow(
        &self,
        tenant: &Tenant,
        client: &Client,
        row: &Row,
        request: dormouse_protocol::Request<'_>,
        took: std::time::Duration,
        now_ms: u64,
    ) {
        if !row.flags.contains(Flags::SKIP_SLOWLOG) {
            let rule = self.settings.load().log_rule(LogKind::Slow);
            tenant.logs.slow().note(client, request, took.as_micros() as u64, now_ms, rule);
        }
        let (took_ms, event_ms) = (took.as_millis() as u64, self.latency_ms.load(Ordering::Relaxed));
        if event_ms > 0 && took_ms >= event_ms {
            tenant.events.note(row.flags.contains(Flags::FAST), now_ms / 1000, took_ms);
        }
    }

    /// Whether a command with a request and a reply of these sizes is noted.
    #[inline]
    pub fn notes_size(&self, bytes_in: usize, bytes_out: usize) -> bool {
        bytes_in.max(bytes_out) as u64 >= self.noted_from_bytes.load(Ordering::Relaxed)
    }

    /// Notes a large request or reply of a command that has run. `bytes_in`: 0 for a command of a transaction, as its
    /// request came earlier.
    #[cold]
    pub fn note_size(
        &self,
        tenant: &Tenant,
        client: &Client,
        row: &Row,
        request: dormouse_protocol::Request<'_>,
        (bytes_in, bytes_out): (usize, usize),
        now_ms: u64,
    ) {
        if row.flags.contains(Flags::SKIP_SLOWLOG) {
            return;
        }
        let settings = self.settings.load();
        for (kind, bytes) in [(LogKind::LargeRequest, bytes_in), (LogKind::LargeReply, bytes_out)] {
            if bytes > 0 {
                tenant.logs.of(kind).note(client, request, bytes as u64, now_ms, settings.log_rule(kind));
            }
        }
    }

    /// Waits until the node stops serving.
    pub async fn until_drained(&self) {
        // The sender lives as long as the node.
        let _ = self.draining.subscribe().wait_for(|draining| *draining).await;
    }

    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Accepts no more connections, and closes each as soon as it has answered what it has read.
    pub fn drain(&self) {
        self.draining.send_replace(true);
        self.clients.drain();
    }
}

impl Surroundings for Node {
    fn output_limit(&self) -> OutputLimit {
        self.output_limit_replica()
    }

    fn now_ms(&self) -> u64 {
        (self.engine.clock)()
    }

    fn is_ending(&self) -> bool {
        self.is_draining()
    }
}

fn noted_from_ns(settings: &NodeSettings) -> u64 {
    let slowlog_us = settings.log_rule(LogKind::Slow).lowest();
    let events_us = match settings.latency_monitor_ms {
        0 => u64::MAX,
        ms => ms.saturating_mul(1000),
    };
    slowlog_us.min(events_us).saturating_mul(1000)
}

fn noted_from_bytes(settings: &NodeSettings) -> u64 {
    let lowest = |kind| settings.log_rule(kind).lowest();
    lowest(LogKind::LargeRequest).min(lowest(LogKind::LargeReply))
}

fn output_limit(limit: OutputBufferLimit) -> OutputLimit {
    OutputLimit {
        hard_bytes: usize::try_from(limit.hard_bytes).unwrap_or(usize::MAX),
        soft_bytes: usize::try_from(limit.soft_bytes).unwrap_or(usize::MAX),
        soft_seconds: limit.soft_seconds,
    }
}

/// 40 hexadecimal digits. All clients see them, so nothing else is drawn from the same source.
fn run_id() -> String {
    let digits: String = std::iter::repeat_with(|| format!("{:016x}", random_seed())).take(3).collect();
    digits[..40].into()
}
