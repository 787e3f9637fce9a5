//! A node with one worker in this process, and connections to it by sockets without a name.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dormouse::audit::AuditLog;
use dormouse::cli::Invocation;
use dormouse::commands::{COUNTED, SUBJECTS, TABLE};
use dormouse::config::Settings;
use dormouse::databases::{Tenant, Tenants};
use dormouse::event_loop::{self, Handle};
use dormouse::metering::{Meter, Totals};
use dormouse::node::Node;
use dormouse::peer::Peer;
use dormouse::rest::HandedOver;
use dormouse::sockets::{Accepted, Entrant};
use dormouse_shard::database::Engine;
use dormouse_shard::lane::Lane;
use dormouse_storage::directory::DirectoryWriters;
use dormouse_storage::log::sink::Objects;
use dormouse_storage::log::{Log, Window};
use dormouse_storage::store::{FaultyStore, Store};
use tokio::runtime::Runtime;

/// The held clock of the engine; workers have their own.
pub static CLOCK_MS: AtomicU64 = AtomicU64::new(1_700_000_000_000);

pub struct Bench {
    pub node: Arc<Node>,
    pub runtime: Runtime,
    pub worker: Handle,
    pub faults: Arc<FaultyStore>,
}

impl Bench {
    pub fn new(tokens: &[&str]) -> Self {
        Self::with(tokens, None)
    }

    /// Creates a bench with a log that is flushed when the test says so.
    pub fn logged() -> (Self, Arc<Log>) {
        let sink = Box::new(Objects::new(Arc::new(Store::memory())));
        let (log, _) = Log::over(sink, 1, || CLOCK_MS.load(Ordering::SeqCst)).expect("an empty store");
        let bench = Self::with(&[], Some(Arc::clone(&log)));
        bench.tenant("default").database.shared.journal.declare(Window::Zero);
        (bench, log)
    }

    pub fn with(tokens: &[&str], log: Option<Arc<Log>>) -> Self {
        Self::at(tokens, log, || CLOCK_MS.load(Ordering::SeqCst))
    }

    pub fn at(tokens: &[&str], log: Option<Arc<Log>>, clock: fn() -> u64) -> Self {
        let options: Vec<&str> = tokens.iter().flat_map(|token| ["--token", token]).collect();
        Self::of(&options, log, clock)
    }

    /// Creates a bench with options of the command line.
    pub fn of(options: &[&str], log: Option<Arc<Log>>, clock: fn() -> u64) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
        let words = ["dormouse", "--store", "memory://"].into_iter().map(OsString::from);
        let options = options.iter().map(OsString::from);
        let Ok(Invocation::Serve(options)) = Invocation::parse(words.chain(options), []) else {
            panic!("the options are accepted");
        };
        let settings = Settings::new(&options);
        let faults = FaultyStore::new(Arc::new(object_store::memory::InMemory::new()));
        let engine = Engine {
            store: Arc::new(Store::over(faults.clone(), "memory://")),
            lane: Lane::new("lane", 2, 0).expect("threads"),
            loader: Lane::new("loader", 2, 0).expect("threads"),
            patient: Lane::patient("patient", 1, 0).expect("threads"),
            background: runtime.handle().clone(),
            clock,
            writer: 1,
            log,
            recovered: Arc::default(),
            give_back: || {},
            health: Arc::default(),
            claims: None,
        };
        let tenants = runtime
            .block_on(Tenants::open(
                options.tokens.clone(),
                &engine,
                DirectoryWriters::Sole,
                &settings,
                &COUNTED,
                &SUBJECTS,
                || 42,
            ))
            .expect("tokens that open databases");
        let (shutdown, _) = tokio::sync::mpsc::unbounded_channel();
        let node =
            Node::new(tenants, engine, settings, options.policy.clone(), (None, AuditLog::default()), 1, shutdown);
        let (worker, _) = event_loop::start(0, Arc::clone(&node)).expect("a thread");
        Self { node, runtime, worker, faults }
    }

    pub fn tenant(&self, name: &str) -> Arc<Tenant> {
        self.node.tenants.of_name(name).expect("a database of that name")
    }

    pub fn connect(&self) -> Connection {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        theirs.set_nonblocking(true).expect("a socket");
        ours.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket");
        self.worker.serve(Accepted::Unix(theirs), Entrant::New(Peer::Unix("test".into())));
        Connection { stream: ours }
    }

    /// A connection to the worker that speaks HTTP.
    pub fn connect_http(&self) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        theirs.set_nonblocking(true).expect("a socket");
        ours.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket");
        self.worker.serve_http(HandedOver {
            socket: Accepted::Unix(theirs),
            peer: Peer::Unix("test".into()),
            received: Default::default(),
            router: Default::default(),
        });
        ours
    }

    pub fn sleep(&self) {
        self.runtime.block_on(self.tenant("default").database.sleep()).expect("the store is well");
    }

    /// Puts `default` to sleep and wakes it with no data in memory: the background load finds nothing.
    pub fn unload(&self) {
        self.sleep();
        let database = Arc::clone(&self.tenant("default").database);
        self.runtime.block_on(async {
            let chunks = self.node.engine.store.list("db/default/chunk").await.expect("a listing");
            chunks.iter().for_each(|chunk| self.faults.hide(&chunk.name));
            let failed = database.counters.load_errors.load(Ordering::SeqCst);
            database.awake().await.expect("the manifest is there");
            while database.counters.load_errors.load(Ordering::SeqCst) == failed
                || database.counters.loading.load(Ordering::SeqCst) > 0
            {
                tokio::task::yield_now().await;
            }
            chunks.iter().for_each(|chunk| self.faults.show(&chunk.name));
        });
    }

    /// Returns the meters of a database after all replies are counted, which happens just after a reply is made.
    pub fn totals(&self, name: &str) -> Totals {
        self.tenant(name).meters.totals(CLOCK_MS.load(Ordering::SeqCst))
    }

    /// How often a database has woken up, whether the keeper has told the meters or not.
    pub fn wakes(&self, name: &str) -> u128 {
        dormouse::keeper::settle(&self.tenant(name), CLOCK_MS.load(Ordering::SeqCst));
        self.totals(name)[Meter::Wakes]
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.node.drain();
    }
}

pub struct Connection {
    pub stream: UnixStream,
}

impl Connection {
    /// Sends lines in one write, each a command of words.
    pub fn send(&mut self, lines: &[&str]) {
        self.write(&lines.iter().map(|line| format!("{line}\r\n")).collect::<String>());
    }

    pub fn write(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).expect("an open connection");
    }

    /// Reads exactly the expected bytes.
    #[track_caller]
    pub fn expect(&mut self, expected: &str) {
        let mut read = vec![0; expected.len()];
        let mut len = 0;
        while len < read.len() && expected.as_bytes().starts_with(&read[..len]) {
            len += match self.stream.read(&mut read[len..]) {
                Ok(0) | Err(_) => break,
                Ok(more) => more,
            };
        }
        assert_eq!(String::from_utf8_lossy(&read[..len]), expected);
    }

    /// Reads a line.
    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).expect("an open connection");
            line.push(byte[0]);
        }
        String::from_utf8_lossy(&line[..line.len() - 2]).into_owned()
    }

    /// Reads a string.
    pub fn bulk(&mut self) -> String {
        let length = self.line()[1..].parse::<usize>().expect("a length");
        let mut text = vec![0; length + 2];
        self.stream.read_exact(&mut text).expect("an open connection");
        String::from_utf8_lossy(&text[..length]).into_owned()
    }

    #[track_caller]
    pub fn check(&mut self, line: &str, expected: &str) {
        self.send(&[line]);
        self.expect(expected);
    }

    /// Whether no reply has arrived.
    pub fn is_silent(&mut self) -> bool {
        self.stream.set_nonblocking(true).expect("a socket");
        let read = self.stream.read(&mut [0]);
        self.stream.set_nonblocking(false).expect("a socket");
        read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }

    #[track_caller]
    pub fn expect_end(&mut self) {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).expect("an end");
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }
}

/// Returns how often a command has run.
pub fn calls(totals: &Totals, name: &str) -> u64 {
    totals.command(TABLE.by_name(name.as_bytes()).expect("a command").id).calls
}
