//! Work that gives way to clients keeps nothing from them: neither a lock nor the transition that a wake waits for.
//!
//! Whoever locks a shard on a thread of the patient lane panics in these tests, which the jobs report as failures.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

use dormouse_protocol::{OwnedRequest, Version};
use dormouse_shard::checkpoint::SleepOutcome;
use dormouse_shard::commands::{Context, find};
use dormouse_shard::database::{Database, Engine};
use dormouse_shard::execution::{self, Plan, PlannedCommand, Turn};
use dormouse_shard::lane::{Lane, Queue};
use dormouse_storage::store::Store;
use tokio::runtime::{Builder, Runtime};

const NOW_MS: u64 = 1_700_000_000_000;

/// A database with the threads of a server.
struct Threads {
    runtime: Runtime,
    engine: Engine,
    database: Arc<Database>,
}

impl Threads {
    fn new() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("background").build().expect("threads");
        let engine = Engine {
            store: Arc::new(Store::memory()),
            lane: Lane::new("lane", 1, 0).expect("threads"),
            loader: Lane::new("loader", 1, 0).expect("threads"),
            patient: Lane::patient("patient", 1, 0).expect("threads"),
            background: runtime.handle().clone(),
            clock: || NOW_MS,
            writer: 1,
            log: None,
            recovered: Arc::default(),
            give_back: || {},
            health: Arc::default(),
            claims: None,
        };
        let database = runtime.block_on(Database::open("test", 7, engine.clone()));
        Self { runtime, engine, database }
    }

    fn line(&self, line: &str) -> String {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let request = OwnedRequest::from_args(&args);
        let (row, run) = find(request.as_request()).expect("a command");
        let context = Context { select: 0, version: Version::Resp2, no_touch: false, tracker: Default::default() };
        let plan = Arc::new(Plan::one(PlannedCommand { row, run, request, context }, NOW_MS, 1));
        let turn = Arc::new(Turn::endless(None));
        let ran = execution::run(&self.database, &plan, &turn);
        let outcome = self.runtime.block_on(ran).expect("the store is well");
        String::from_utf8_lossy(&outcome.replies.buffer).trim_end().to_owned()
    }

    fn fill(&self) {
        for number in 0..5_000 {
            self.line(&format!("SET key:{number} {number}"));
        }
        // Values in pieces, each of several steps.
        let long = "x".repeat(300_000);
        self.line(&format!("SET text {long}"));
        for number in 0..200 {
            self.line(&format!("HSET hash {number} {}", &long[..2_000]));
        }
    }

    fn sleep(&self) -> SleepOutcome {
        self.runtime.block_on(self.database.sleep()).expect("the store is well")
    }

    /// Occupies the only thread of the patient lane until the sender is dropped.
    fn occupied(&self) -> (Queue, mpsc::Sender<()>) {
        let (free, freed) = mpsc::channel::<()>();
        let (began, begun) = mpsc::channel();
        let queue = self.engine.patient.queue();
        let occupy = move || {
            began.send(()).expect("the test waits");
            // It ends with an error when the sender is gone.
            let _ = freed.recv();
        };
        queue.run(occupy).expect("an empty queue");
        begun.recv().expect("a thread");
        (queue, free)
    }
}

#[test]
fn checkpoints_sleeps_and_loads_hold_no_lock_on_a_patient_thread() {
    let threads = Threads::new();
    threads.fill();
    let report = threads.runtime.block_on(threads.database.checkpoint()).expect("no thread has panicked");
    assert!(report.segments > 1 && report.keys == 5_002, "{report:?}");
    threads.line("SET key:1 changed");
    let (tell, told) = mpsc::channel();
    let at = Box::new(move |_: &_| tell.send(thread::current().name().map(str::to_owned)).expect("the test waits"));
    drop(threads.runtime.block_on(threads.database.pin(at)).expect("no thread has panicked"));
    assert_eq!(told.recv().expect("the moment").as_deref(), Some("background"));
    threads.line("SET key:2 changed");
    assert_eq!(threads.sleep(), SleepOutcome::FellAsleep);
    assert_eq!(threads.line("GET key:2"), "$7\r\nchanged");
    // Everything else is loaded on the patient lane.
    let loaded_keys = || threads.database.counters.loaded_keys.load(std::sync::atomic::Ordering::SeqCst);
    while loaded_keys() < 5_002 {
        thread::yield_now();
    }
    assert_eq!(threads.sleep(), SleepOutcome::FellAsleep);
}

#[test]
fn what_clients_of_a_sleeping_database_wait_for_does_not_wait_for_a_patient_thread() {
    let threads = Threads::new();
    threads.fill();
    assert_eq!(threads.sleep(), SleepOutcome::FellAsleep);
    let (_queue, free) = threads.occupied();
    threads.runtime.block_on(threads.database.branch("test.b", None)).expect("a branch");
    drop(threads.runtime.block_on(threads.database.pin(Box::new(|_| {}))).expect("a moment"));
    assert_eq!(threads.line("GET key:7"), "$1\r\n7");
    drop(free);
}
