//! The server: builds everything in order, runs until it is told to end, and puts the databases to sleep in order.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dormouse_autoscaler::Autoscaler;
use dormouse_protocol::pace;
use dormouse_shard::claims::Claims;
use dormouse_shard::database::{Database, Engine};
use dormouse_shard::health::{ConditionKind, Health};
use dormouse_shard::lane::Lane;
use dormouse_shard::topology::hold;
use dormouse_storage::directory::DirectoryWriters;
use dormouse_storage::log::Log;
use dormouse_storage::log::flusher::Flusher;
use dormouse_storage::manifest;
use dormouse_storage::store::{MasterKey, Store, StoreAccess, StoreError};
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{timeout, timeout_at};

use crate::admin::gate::MetricsGate;
use crate::admin::open::OpenDoor;
use crate::audit::AuditLog;
use crate::clock::{monotonic_ms, now_ms};
use crate::commands::{COUNTED, SUBJECTS};
use crate::config::{Settings, directory};
use crate::databases::{Tenant, Tenants, Whereabouts};
use crate::fleet::{self, Directions, Fleet, JoinFailure};
use crate::http::{Http, HttpListeners, Readiness};
use crate::listener::Listeners;
use crate::metering::prices::Prices;
use crate::node::{Node, OVERTAKEN, Shutdown};
use crate::options::{Options, PushTarget};
use crate::pusher::UsagePusher;
use crate::tls::Tls;
use crate::{admin, event_loop, failover, health, keeper, memory, metrics, moving, process, snapshot, strangers};

/// Threads for wakes, sleeps and other work that must not block a worker.
const BACKGROUND_THREADS: usize = 2;
const LANE_THREADS: usize = 2;
/// Threads for work that no client waits for: checkpoints, and loads in the background.
const PATIENT_THREADS: usize = 2;
/// Niceness of that work: how much it yields to clients on a busy core.
const NICER: i32 = 15;
/// Niceness of long commands: how much they yield to short ones. They also yield every so often, and newer kernels
/// charge a thread for that as if it had used its time, so they are less nice than other patient work.
const LANE_NICER: i32 = 10;

/// The reason why a server does not serve, or did not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Another process owns the store; a supervisor may start this one again.
    Taken(String),
    /// An option has a wrong value, which is found only when it is used.
    Option(String),
    /// Anything else, and what to do about it.
    Other(String),
}

impl Failure {
    /// Exit code when another process owns the store. Other failures have 1, wrong options 2.
    const TAKEN_CODE: u8 = 3;

    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Taken(_) => Self::TAKEN_CODE,
            Self::Option(_) => 2,
            Self::Other(_) => 1,
        }
    }
}

impl From<String> for Failure {
    fn from(problem: String) -> Self {
        Self::Other(problem)
    }
}

impl From<JoinFailure> for Failure {
    fn from(failure: JoinFailure) -> Self {
        match failure {
            JoinFailure::Option(problem) => Self::Option(problem),
            JoinFailure::Coordinator(problem) => Self::Other(problem),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Taken(problem) | Self::Option(problem) | Self::Other(problem)) = self;
        f.write_str(problem)
    }
}

/// A server that listens.
pub struct Server {
    node: Arc<Node>,
    background: Runtime,
    /// Ends after the databases.
    flusher: Option<Flusher>,
    workers: Vec<std::thread::JoinHandle<()>>,
    http: Option<Http>,
    ends: mpsc::UnboundedReceiver<Shutdown>,
}

impl Server {
    /// # Errors
    /// The problem, and what to do about it.
    pub fn start(options: Options) -> Result<Self, Failure> {
        // A connection over TLS is a stranger until its handshake is made.
        let has_strangers = !options.tokens.is_empty() || options.tls.tls_port != 0;
        let strangers = if has_strangers { strangers::places(options.max_clients as usize) as u64 } else { 0 };
        let has_http = options.http_port != 0 || options.tls.https_port != 0;
        let http = if has_http { crate::http::CONNECTIONS_MAX as u64 } else { 0 };
        let clients = u64::from(options.max_clients) + strangers + http;
        let possible = process::allow_clients(clients);
        if possible < clients {
            tracing::warn!(
                "the limit of open files allows {possible} clients, not {clients}: raise it (ulimit -n) or lower --max-clients"
            );
        }
        let background = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(BACKGROUND_THREADS)
            .thread_name("background")
            .on_thread_start(|| pace::give_way(std::thread::yield_now))
            .on_thread_park(dormouse_shard::memory::flush_cache)
            .enable_all()
            .build()
            .map_err(failed("the background threads"))?;
        let (shutdown, ends) = mpsc::unbounded_channel();
        let signals = Signals::heed(&background, shutdown.clone()).map_err(failed("the watch for signals"))?;
        let master_key = options.master_key.as_deref().map(MasterKey::parse).transpose().map_err(|problem| {
            Failure::Option(format!("invalid value for --master-key or DORMOUSE_MASTER_KEY: {problem}"))
        })?;
        let access = StoreAccess { master_key: master_key.as_ref(), ..StoreAccess::default() };
        let store = Arc::new(Store::open_with(&options.store, access).map_err(|error| match &error {
            StoreError::Url(problem) => {
                Failure::Option(format!("invalid value for --store or DORMOUSE_STORE: {problem}"))
            }
            _ => Failure::Other(explain(&error)),
        })?);
        let addresses: Vec<_> = options.bind.iter().map(|bind| bind.0).collect();
        let unix = options.unix_socket.as_deref().map(|path| (path, options.unix_socket_mode.0));
        let tls = options.tls.files()?.map(Tls::open).transpose().map_err(Failure::Option)?;
        let (tls, tls_watch) = tls.unzip();
        let audit = options.audit_log.clone().map(AuditLog::start).transpose();
        let audit = audit.map_err(|error| Failure::Option(format!("invalid value for --audit-log: {error}")))?;
        let audit = audit.unwrap_or_default();
        let listeners = Listeners::bind(&addresses, options.port, options.tls.tls_port, unix)?;
        let http_listeners = HttpListeners {
            plain: Listeners::http(&addresses, options.http_port)?,
            tls: Listeners::https(&addresses, options.tls.https_port)?,
        };
        let seed = process::random_seed();
        // A process is a member before it takes its run: others could take one that they do not know for dead.
        let places = (&listeners.addresses()[..], http_listeners.address());
        let membership = background.block_on(fleet::join(&options, &store, seed, places))?;
        let logs = match &membership {
            Some((_, name)) => Log::open_node(&store, name, seed, monotonic_ms, now_ms).map(Some),
            None => Log::open(&store, seed, monotonic_ms, now_ms),
        };
        let logs = logs.map_err(|error| match error.is_taken() {
            true => Failure::Taken(format!("{error}; this process ends")),
            false => Failure::Other(explain(&error)),
        })?;
        let (log, recovered) = logs.unzip();
        let health = Arc::new(Health::default());
        for doubt in recovered.iter().flat_map(|recovered| &recovered.doubts) {
            health.report(ConditionKind::MayBeMissing, doubt.as_str());
        }
        let flusher = log.as_ref().map(Flusher::start).transpose().map_err(failed("the log"))?;
        let lane = Lane::new("slow-lane", LANE_THREADS, LANE_NICER).map_err(failed("the slow lane"))?;
        let loader = Lane::new("loader", LANE_THREADS, 0).map_err(failed("the loader"))?;
        let patient = Lane::patient("patient", PATIENT_THREADS, NICER).map_err(failed("the patient lane"))?;
        let fleet = membership.zip(log.clone());
        let fleet = fleet.map(|(membership, log)| Fleet::new(Arc::clone(&store), log, membership, seed));
        let engine = Engine {
            store,
            lane,
            loader,
            patient,
            background: background.handle().clone(),
            clock: now_ms,
            writer: seed,
            log,
            recovered: Arc::new(Mutex::new(recovered.unwrap_or_default())),
            give_back: memory::give_back,
            health,
            claims: fleet.clone().map(|fleet| fleet as Arc<dyn Claims>),
        };
        let mut settings = Settings::new(&options);
        let prices = options.prices.as_deref().map(Prices::read).transpose().map_err(Failure::Option)?;
        if prices.is_none() && options.spending_limit_money.is_some() {
            return Err(Failure::Option("--spending-limit-money needs the prices in --prices".to_owned()));
        }
        settings.facts.prices = prices.map(Arc::new);
        let (addresses, tls_addresses) = (listeners.addresses(), listeners.tls_addresses());
        settings.facts.port = addresses.first().map_or(0, |address| address.port());
        let workers = options.worker_count().get();
        settings.facts.workers = workers;
        let tenants = background.block_on(Tenants::open(
            options.tokens.clone(),
            &engine,
            // A node of a fleet passes `Shared`.
            if fleet.is_some() { DirectoryWriters::Shared } else { DirectoryWriters::Sole },
            &settings,
            &COUNTED,
            &SUBJECTS,
            process::random_seed,
        ))?;
        if let Some(fleet) = &fleet {
            tenants.join(Arc::clone(fleet) as Arc<dyn Whereabouts>);
        }
        let autoscaler = Autoscaler::new(options.policy.clone()).map_err(|error| error.to_string())?;
        let node = Node::new(tenants, engine, settings, options.policy.clone(), (tls, audit), seed, shutdown);
        if let Some(fleet) = &fleet {
            node.lease.begin(fleet.membership().lease_end_ms(), fleet.membership().standing());
            let _ = node.directions.set(Arc::clone(fleet) as Arc<dyn Directions>);
            let _ = node.fleet.set(Arc::clone(fleet));
        }
        let started: Result<Vec<_>, _> =
            (0..workers).map(|number| event_loop::start(number, Arc::clone(&node))).collect();
        let (handles, workers): (Vec<_>, Vec<_>) = started.map_err(failed("a worker"))?.into_iter().unzip();
        let pusher = options.usage_push.target().map(|target| Self::pusher(&node, target)).transpose()?;
        signals.end_orderly();
        let entered = background.enter();
        let unix_path = listeners.unix_path().map(|path| path.display().to_string());
        listeners.accept(&node, &handles).map_err(failed("listening"))?;
        keeper::start(&node, autoscaler);
        tls_watch.map(|watch| tokio::spawn(watch.follow()));
        if let Some(pusher) = pusher {
            let of = Arc::clone(&node);
            tokio::spawn(async move {
                tokio::select! {
                    () = pusher.run() => {}
                    () = of.until_drained() => {}
                }
            });
        }
        if node.audit.is_file() {
            let hangups = signal(SignalKind::hangup()).map_err(failed("the watch for signals"))?;
            tokio::spawn(reopen_at(hangups, node.audit.clone()));
        }
        if let Some(fleet) = fleet {
            tokio::spawn(moving::watch(Arc::clone(&node), Arc::clone(&fleet)));
            tokio::spawn(failover::watch(Arc::clone(&node), Arc::clone(&fleet)));
            tokio::spawn(failover::confirm_lease(Arc::clone(&node), fleet.membership().standing()));
            tokio::spawn(fleet::tell_of_steps(Arc::clone(&node.tenants.directory), fleet));
        }
        memory::watch(&node).map_err(failed("the watch over memory"))?;
        tokio::spawn(look_for_lost_branches(Arc::clone(&node)));
        let adopting = Arc::clone(&node);
        tokio::spawn(async move { adopting.tenants.adopt_strays().await });
        if node.tenants.directory.is_shared() {
            let following = Arc::clone(&node);
            tokio::spawn(async move { following.tenants.follow_foreign(&following.clients).await });
        }
        drop(entered);
        let door = (options.open > 0).then(|| OpenDoor::new(options.open as usize, options.open_max_memory.0));
        let gate = MetricsGate::new(&node, options.metrics_access);
        let labels = options.metrics_databases as usize;
        let http = Self::start_http(&node, http_listeners, (gate, labels), door, handles)?;
        announce(&node, &addresses, &tls_addresses, unix_path.as_deref(), http.as_ref());
        Ok(Self { node, background, flusher, workers, http, ends })
    }

    fn pusher(node: &Arc<Node>, target: PushTarget) -> Result<Arc<UsagePusher>, Failure> {
        // A file that cannot be used now would only be noticed later.
        target.headers.read().map_err(|problem| Failure::Option(format!("invalid --usage-header-file: {problem}")))?;
        let (store, ledger) = (Arc::clone(&node.engine.store), Arc::clone(&node.tenants.ledger));
        let pusher = UsagePusher::new(target, store, ledger, node.engine.clock);
        Ok(Arc::clone(node.usage_pusher.get_or_init(|| pusher)))
    }

    fn start_http(
        node: &Arc<Node>,
        listeners: HttpListeners,
        (gate, labels): (MetricsGate, usize),
        door: Option<OpenDoor>,
        workers: Vec<event_loop::Handle>,
    ) -> Result<Option<Http>, String> {
        if listeners.is_empty() {
            return Ok(None);
        }
        let of = Arc::clone(node);
        let registry = metrics::registry(move || snapshot::of_node(&of), labels).map_err(|error| error.to_string())?;
        let of = Arc::clone(node);
        let ready = move || Readiness { starting: false, draining: of.is_draining(), problems: health::reasons(&of) };
        let more = admin::router(node, door);
        Http::start(listeners, node.tls.clone(), registry, ready, Some(gate), more, workers)
            .map(Some)
            .map_err(|error| format!("cannot start the HTTP port: {error}"))
    }

    /// Serves until a signal or `SHUTDOWN`, then puts every database to sleep.
    ///
    /// # Errors
    /// When a database could not be saved, or another process has taken the store over.
    pub fn run(mut self) -> Result<(), Failure> {
        let how = self.background.block_on(self.ends.recv()).unwrap_or(Shutdown::Save);
        if let Some(fleet) = self.node.fleet.get().filter(|_| how == Shutdown::Save) {
            let drained = async { timeout(DRAINED_WITHIN, moving::drain(&self.node, fleet, Duration::ZERO)).await };
            if self.background.block_on(drained).is_err() {
                tracing::warn!("failed to move every database to another node in time; the others are put to sleep");
            }
        }
        self.node.drain();
        for worker in self.workers.drain(..) {
            // A worker that panicked has reported it on standard error.
            let _ = worker.join();
        }
        let mut failed = Vec::new();
        if how == Shutdown::Save {
            let now_ms = (self.node.engine.clock)();
            let recorded = async { timeout(LEDGER_TIMEOUT, self.node.tenants.record_all_usage(now_ms)).await };
            if !matches!(self.background.block_on(recorded), Ok(Ok(()))) {
                tracing::warn!("failed to write the usage ledger; the databases keep what it lacks");
            }
            let until = Instant::now() + COMMANDS_END_WITHIN;
            let at_rest = |tenant: &Arc<Tenant>, until: Instant| {
                self.background.block_on(async { timeout_at(until.into(), at_rest(&tenant.database)).await }).is_ok()
            };
            // One whose command goes on keeps no other from its sleep.
            let (idle, busy): (Vec<_>, Vec<_>) =
                self.node.tenants.all_with_hidden().partition(|tenant| at_rest(tenant, Instant::now() + BREATH));
            for tenant in idle.into_iter().chain(busy) {
                let closed = match at_rest(&tenant, until) {
                    true => self.background.block_on(tenant.database.close()).map_err(|error| error.to_string()),
                    false => Err("a command of it does not end. What its log lacks is lost".to_owned()),
                };
                if let Err(error) = closed {
                    failed.push(format!("database {} could not be saved: {error}", tenant.name()));
                }
            }
        }
        // The end of the log shows whether another process has taken the store over.
        drop(self.flusher.take());
        if let Some(fleet) = self.node.fleet.get() {
            // Only now has its run been released.
            let left = async { timeout(LEFT_WITHIN, fleet.membership().leave()).await };
            if !matches!(self.background.block_on(left), Ok(Ok(()))) {
                tracing::warn!("failed to tell the coordinator that this node has left; it finds out by the lease");
            }
        }
        drop(self.http.take());
        self.node.audit.finish();
        // Its threads may run such a command.
        self.background.shutdown_background();
        if self.node.is_overtaken() {
            Err(Failure::Taken(format!("{OVERTAKEN}; this process ends")))
        } else if failed.is_empty() {
            tracing::info!("every database sleeps; bye");
            Ok(())
        } else {
            Err(failed.join("; ").into())
        }
    }
}

/// Waits until no command holds a shard of a database.
async fn at_rest(database: &Database) {
    if let Some(topology) = database.topology() {
        drop(hold(topology.shards.to_vec()).await);
    }
}

/// Time for commands that run when the server ends: for all of them, and for those of one database before the next has its turn.
const COMMANDS_END_WITHIN: Duration = Duration::from_secs(10);
const BREATH: Duration = Duration::from_millis(100);

/// Time for a node of a fleet to give its databases to other nodes when it ends, and to tell the coordinator.
const DRAINED_WITHIN: Duration = Duration::from_secs(30);
const LEFT_WITHIN: Duration = Duration::from_secs(2);

/// Time for the usage ledger when the server ends.
const LEDGER_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time between the marker of a new branch and its manifest.
const BRANCH_MADE_WITHIN: Duration = Duration::from_secs(2);

/// Reports branches that have lost their manifests. It reads every database's markers, so the start does not wait for
/// it.
async fn look_for_lost_branches(node: Arc<Node>) {
    let look = async |name: &str| match manifest::lost_branches(&node.engine.store, name).await {
        Ok(lost) => lost,
        Err(error) => {
            tracing::warn!(database = name, %error, "failed to look for its branches");
            Vec::new()
        }
    };
    for tenant in node.tenants.all() {
        let first = look(tenant.name()).await;
        if first.is_empty() {
            continue;
        }
        tokio::time::sleep(BRANCH_MADE_WITHIN).await;
        for lost in look(tenant.name()).await.iter().filter(|lost| first.contains(lost)) {
            tracing::warn!("{lost}");
            node.engine.health.report(ConditionKind::MayBeMissing, lost.to_string());
        }
    }
}

/// The signals that end the server: an interrupt (Ctrl-C) and a termination.
///
/// They are heeded before anything is opened, so none is lost between the first reply and [`Server::run`]. While the
/// server starts, it has written nothing for a client, and may wait for a slow store: then a signal ends the process at
/// once.
struct Signals {
    /// Held while the process ends at once.
    is_starting: Arc<Mutex<bool>>,
}

impl Signals {
    fn heed(background: &Runtime, shutdown: mpsc::UnboundedSender<Shutdown>) -> std::io::Result<Self> {
        let _entered = background.enter();
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let is_starting = Arc::new(Mutex::new(true));
        let of_watch = Arc::clone(&is_starting);
        background.spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                Self::end_if_starting(&of_watch.lock());
                // The server may have ended by itself.
                let _ = shutdown.send(Shutdown::Save);
            }
        });
        Ok(Self { is_starting })
    }

    /// Called under the lock, so that no client is served meanwhile.
    fn end_if_starting(is_starting: &bool) {
        if *is_starting {
            tracing::info!("ended by a signal before it served; bye");
            std::process::exit(0);
        }
    }

    /// From now on clients are served, and a signal ends the server in order.
    fn end_orderly(self) {
        *self.is_starting.lock() = false;
    }
}

/// Opens the audit log again at each hangup: a tool has renamed its file.
async fn reopen_at(mut hangups: Signal, audit: AuditLog) {
    while hangups.recv().await.is_some() {
        audit.reopen();
    }
}

fn failed(what: &'static str) -> impl Fn(std::io::Error) -> String {
    move |error| format!("cannot start {what}: {error}")
}

/// Prints the one line on standard output, with a command to try.
fn announce(node: &Node, addresses: &[SocketAddr], tls: &[SocketAddr], unix: Option<&str>, http: Option<&Http>) {
    let http = http.map(Http::urls).unwrap_or_default();
    let text = announcement(&node.facts.store, (addresses, tls), unix, &http, node.tenants.needs_token());
    // A closed standard output is no reason not to serve.
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn announcement(
    store: &str,
    (addresses, tls): (&[SocketAddr], &[SocketAddr]),
    unix: Option<&str>,
    http: &[String],
    needs_token: bool,
) -> String {
    let mut places: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    places.extend(tls.iter().map(|address| format!("{address} (TLS)")));
    places.extend(unix.map(ToString::to_string));
    let mut text = format!("Dormouse {} listens on {}", env!("CARGO_PKG_VERSION"), places.join(", "));
    for url in http {
        text += &format!(" and {url}");
    }
    text += &match directory(store) {
        folder if folder.is_empty() => format!("; data in {store}"),
        folder => format!("; data in {folder}"),
    };
    if store.starts_with("memory://") {
        text += ", gone when it ends";
    }
    let token = if needs_token { "-a TOKEN " } else { "" };
    let way = if addresses.is_empty() && !tls.is_empty() { "--tls " } else { "" };
    let place = match (addresses.first().or(tls.first()), unix) {
        (Some(address), _) if address.ip().is_unspecified() || address.ip() == Ipv4Addr::LOCALHOST => {
            format!("{way}-p {}", address.port())
        }
        (Some(address), _) => format!("{way}-h {} -p {}", address.ip(), address.port()),
        (None, Some(path)) => format!("-s {path}"),
        (None, None) => return text,
    };
    text + &format!("; try: redis-cli {place} {token}SET hello world")
}

/// Describes a failure of the store, and says what to do if its cause is outside the store.
fn explain(error: &StoreError) -> String {
    match error {
        StoreError::Locked { .. } => {
            format!("{error}; end that one, or choose another folder with --store file://PATH")
        }
        StoreError::Folder { .. } => format!("{error}; choose another with --store file://PATH"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_announcement_says_where_and_how() {
        let address = |text: &str| vec![text.parse::<SocketAddr>().unwrap()];
        let rows = [
            (
                ("file:///var/d", address("127.0.0.1:6379"), None, false),
                "; data in /var/d; try: redis-cli -p 6379 SET ",
            ),
            (
                ("memory://", address("127.0.0.1:1"), None, true),
                "; data in memory://, gone when it ends; try: redis-cli -p 1 -a TOKEN SET ",
            ),
            (("file:///d", address("0.0.0.0:1"), None, true), "redis-cli -p 1 -a TOKEN SET "),
            (
                ("file:///d", address("[::1]:1"), Some("/run/d"), false),
                "listens on [::1]:1, /run/d; data in /d; try: redis-cli -h ::1 -p 1 SET ",
            ),
            (
                ("file:///d", Vec::new(), Some("/run/d"), false),
                "listens on /run/d; data in /d; try: redis-cli -s /run/d SET ",
            ),
        ];
        for ((store, addresses, unix, needs_token), expected) in rows {
            let text = announcement(store, (&addresses, &[]), unix, &[], needs_token);
            assert!(text.contains(expected), "{text}");
        }
        let tls = address("127.0.0.1:2");
        let text = announcement("file:///d", (&address("[::1]:1"), &tls), None, &[], false);
        assert!(text.contains("listens on [::1]:1, 127.0.0.1:2 (TLS);") && text.contains("redis-cli -h ::1"), "{text}");
        let text = announcement("file:///d", (&[], &tls), None, &[], false);
        assert!(text.contains("redis-cli --tls -p 2 SET "), "{text}");
        let here = std::env::current_dir().unwrap();
        let text = announcement(
            "file://./data",
            (&[], &[]),
            None,
            &["http://127.0.0.1:2".to_owned(), "https://127.0.0.1:3".to_owned()],
            false,
        );
        let folder = here.join("data");
        assert!(
            text.ends_with(&format!("and http://127.0.0.1:2 and https://127.0.0.1:3; data in {}", folder.display())),
            "{text}"
        );
    }

    #[test]
    fn a_store_that_cannot_be_had_names_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let open = |path: &std::path::Path| Store::open(&format!("file://{}", path.display()));
        let held = open(folder.path()).unwrap();
        for path in [folder.path(), &file] {
            let error = explain(&open(path).unwrap_err());
            assert!(error.contains("--store file://"), "{error}");
        }
        drop(held);
        assert!(!explain(&Store::open("ftp://bucket").unwrap_err()).contains("--store"));
    }
}
