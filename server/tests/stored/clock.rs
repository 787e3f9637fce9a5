//! A system clock that is set while a database is in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dormouse_protocol::{OwnedRequest, Version};
use dormouse_shard::commands::{self, Context};
use dormouse_shard::database::{Database, Engine};
use dormouse_shard::execution::{self, Plan, PlannedCommand, Turn};
use dormouse_shard::lane::Lane;
use dormouse_storage::log::flusher::Flusher;
use dormouse_storage::log::sink::Objects;
use dormouse_storage::log::{Log, Window};
use dormouse_storage::store::Store;
use tokio::runtime::Runtime;

/// The system's clock, Unix milliseconds.
static NOW_MS: AtomicU64 = AtomicU64::new(1_700_000_000_000);
/// The clock that is never set. No time passes here.
const MONOTONIC_MS: u64 = 5_000;

fn now_ms() -> u64 {
    NOW_MS.load(Ordering::SeqCst)
}

fn set_clock(by_ms: i64) {
    NOW_MS.store(now_ms().saturating_add_signed(by_ms), Ordering::SeqCst);
}

/// Opens the database in a process that writes as `writer`.
fn open(runtime: &Runtime, store: &Arc<Store>, writer: u64) -> (Arc<Database>, Flusher) {
    let sink = Box::new(Objects::new(Arc::clone(store)));
    let (log, recovered) = Log::over(sink, writer, || MONOTONIC_MS).expect("memory can be read");
    let flusher = Flusher::start(&log).expect("threads");
    let engine = Engine {
        store: Arc::clone(store),
        lane: Lane::new("lane", 1, 0).expect("threads"),
        loader: Lane::new("loader", 1, 0).expect("threads"),
        patient: Lane::patient("patient", 1, 0).expect("threads"),
        background: runtime.handle().clone(),
        clock: now_ms,
        writer,
        log: Some(log),
        recovered: Arc::new(parking_lot::Mutex::new(recovered)),
        give_back: || {},
        health: Arc::default(),
        claims: None,
    };
    let database = runtime.block_on(Database::open("test", writer, engine));
    database.shared.journal.declare(Window::Ms(1_000));
    (database, flusher)
}

fn run(runtime: &Runtime, database: &Arc<Database>, line: &str) -> String {
    let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    let request = OwnedRequest::from_args(&args);
    let (row, run) = commands::find(request.as_request()).expect("a command");
    let context = Context { select: 0, version: Version::Resp2, no_touch: false, tracker: Default::default() };
    let plan = Arc::new(Plan::one(PlannedCommand { row, run, request, context }, now_ms(), 7));
    match runtime.block_on(execution::run(database, &plan, &Arc::new(Turn::endless(None)))) {
        Ok(outcome) => String::from_utf8_lossy(&outcome.replies.buffer).trim_end().to_owned(),
        Err(error) => format!("-{error}"),
    }
}

#[test]
fn the_systems_clock_may_be_set_back_and_forward() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    let store = Arc::new(Store::memory());
    let (database, flusher) = open(&runtime, &store, 1);
    let log = Arc::clone(database.engine.log.as_ref().expect("a log"));
    let check = |line: &str, expected: &str| assert_eq!(run(&runtime, &database, line), expected, "{line}");
    check("SET before 1 PX 100000", "+OK");
    let hour_ms = 3_600_000;
    for (round, by_ms) in [-60_000, 60_000, -hour_ms, 2 * hour_ms, -hour_ms].into_iter().enumerate() {
        set_clock(by_ms);
        // No write has waited for the log, whatever the clock says.
        for _ in 0..3 {
            check(&format!("SET key:{round} {by_ms}"), "+OK");
            assert_eq!(log.lag_ms_now(), 0);
            database.shared.journal.admit().expect("writes are accepted");
        }
        match round {
            0 => check("PTTL before", ":160000"),
            3 => check("GET before", "$-1"),
            _ => {}
        }
        runtime.block_on(database.checkpoint()).expect("the store is well");
        check(&format!("SET later:{round} {by_ms}"), "+OK");
    }
    drop(flusher);
    let (again, _flusher) = open(&runtime, &store, 2);
    let all: Vec<String> = (0..5).map(|round| format!("key:{round} later:{round}")).collect();
    assert_eq!(run(&runtime, &again, &format!("EXISTS {}", all.join(" "))), ":10");
    assert_eq!(run(&runtime, &again, "GET later:4"), format!("$8\r\n{}", -hour_ms));
}
