//! Databases on a store that fails on demand, with a separate log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dormouse_protocol::{OwnedRequest, Version};
use dormouse_shard::commands::{self, Context, Run};
use dormouse_shard::database::{Database, Engine};
use dormouse_shard::execution::{self, Plan, PlannedCommand, Turn};
use dormouse_shard::lane::Lane;
use dormouse_storage::log::Log;
use dormouse_storage::log::flusher::Flusher;
use dormouse_storage::log::recovery::{self, Recovered};
use dormouse_storage::log::sink::Objects;
use dormouse_storage::store::{FaultyStore, Store};
use parking_lot::Mutex;
use tokio::runtime::Runtime;

/// The held clock.
pub const NOW_MS: u64 = 1_700_000_000_000;

pub struct Bench {
    pub runtime: Runtime,
    pub store: Arc<Store>,
    pub faults: Arc<FaultyStore>,
    /// The store of the log: its puts are not among those that are made to fail.
    pub logs: Arc<Store>,
    pub flushers: Mutex<Vec<Flusher>>,
    pub writers: AtomicU64,
    pub clock: fn() -> u64,
}

impl Bench {
    pub fn new() -> Self {
        Self::at(|| NOW_MS)
    }

    /// Creates a bench with another clock.
    pub fn at(clock: fn() -> u64) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().expect("threads");
        let faults = FaultyStore::new(Arc::new(object_store::memory::InMemory::new()));
        let store = Arc::new(Store::over(faults.clone(), "memory://"));
        let (logs, flushers) = (Arc::new(Store::memory()), Mutex::default());
        Self { runtime, store, faults, logs, flushers, writers: AtomicU64::new(1), clock }
    }

    /// Opens a database as another process would.
    pub fn open(&self) -> Arc<Database> {
        let writer = self.writers.fetch_add(1, Ordering::SeqCst);
        let sink = Box::new(Objects::new(Arc::clone(&self.logs)));
        let (log, recovered) = Log::over(sink, writer, || NOW_MS).expect("a log that can be read");
        self.flushers.lock().push(Flusher::start(&log).expect("a thread"));
        self.open_with(writer, Some(log), recovered)
    }

    /// Opens the store and the log read-only, without disturbing the process that writes.
    pub fn peek(&self) -> Arc<Database> {
        let logs = recovery::look(&mut Objects::new(Arc::clone(&self.logs))).expect("a log that can be read");
        self.open_with(self.writers.fetch_add(1, Ordering::SeqCst), None, recovery::collect(logs))
    }

    pub fn open_with(&self, writer: u64, log: Option<Arc<Log>>, recovered: Recovered) -> Arc<Database> {
        let engine = Engine {
            store: Arc::clone(&self.store),
            lane: Lane::new("lane", 2, 0).expect("threads"),
            loader: Lane::new("loader", 2, 0).expect("threads"),
            patient: Lane::patient("patient", 1, 0).expect("threads"),
            background: self.runtime.handle().clone(),
            clock: self.clock,
            writer,
            log,
            recovered: Arc::new(Mutex::new(recovered)),
            give_back: || {},
            health: Arc::default(),
            claims: None,
        };
        self.runtime.block_on(Database::open("test", 42 + writer, engine))
    }

    pub fn run(&self, database: &Arc<Database>, words: &[&str]) -> String {
        self.runtime.block_on(run(database, words))
    }
}

pub async fn run(database: &Arc<Database>, words: &[&str]) -> String {
    run_at(database, words, NOW_MS).await
}

pub async fn run_at(database: &Arc<Database>, words: &[&str], now_ms: u64) -> String {
    match execution::run(database, &plan(words, None, now_ms), &Arc::new(Turn::endless(None))).await {
        Ok(outcome) => String::from_utf8_lossy(&outcome.replies.buffer).into_owned(),
        Err(error) => format!("-{error}\r\n"),
    }
}

/// Makes a plan of one command, which `run` runs instead of its own function.
pub fn plan(words: &[&str], run: Option<Run>, now_ms: u64) -> Arc<Plan> {
    plan_in(0, words, run, now_ms)
}

pub fn plan_in(select: u8, words: &[&str], run: Option<Run>, now_ms: u64) -> Arc<Plan> {
    let args: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let request = OwnedRequest::from_args(&args);
    let (row, own) = commands::find(request.as_request()).expect("a command");
    let context = Context { select, version: Version::Resp2, no_touch: false, tracker: Default::default() };
    Arc::new(Plan::one(PlannedCommand { row, run: run.unwrap_or(own), request, context }, now_ms, 7))
}

pub fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}
