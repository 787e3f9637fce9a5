//! Processes of a fleet that share one store, each with a log of its own, and no fleet around them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dormouse_protocol::{OwnedRequest, Version};
use dormouse_storage::log::flusher::Flusher;
use dormouse_storage::log::sink::Objects;
use dormouse_storage::log::{Log, Window};
use dormouse_storage::manifest;
use dormouse_storage::store::Store;
use fastrand::Rng;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::claims::Claims;
use crate::commands::{self, Context};
use crate::database::Engine;
use crate::execution::{self, Plan, PlannedCommand, Turn};
use crate::lane::Lane;

const NOW_MS: u64 = 1_700_000_000_000;

/// Allows what it lists.
#[derive(Debug, Default)]
struct Allowed {
    writers: Mutex<BTreeSet<Option<u64>>>,
    asked: AtomicU64,
}

impl Claims for Allowed {
    fn may_take<'a>(&'a self, database: &'a str, writer: Option<u64>) -> BoxFuture<'a, Result<()>> {
        async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            match self.writers.lock().contains(&writer) {
                true => Ok(()),
                false => Err(Error::Elsewhere(database.to_owned())),
            }
        }
        .boxed()
    }
}

struct Shared {
    runtime: Runtime,
    store: Arc<Store>,
}

struct Process {
    engine: Engine,
    logs: Arc<Store>,
    allowed: Arc<Allowed>,
    _flusher: Flusher,
}

impl Shared {
    fn new() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
        Self { runtime, store: Arc::new(Store::memory()) }
    }

    /// A process that may take new databases.
    fn process(&self, writer: u64) -> Process {
        let logs = Arc::new(Store::memory());
        let sink = Box::new(Objects::new(Arc::clone(&logs)));
        let (log, recovered) = Log::over(sink, writer, || NOW_MS).expect("an empty log");
        let flusher = Flusher::start(&log).expect("a thread");
        let lane = |name: &'static str| Lane::new(name, 1, 0).expect("threads");
        let allowed = Arc::new(Allowed::default());
        allowed.writers.lock().insert(None);
        let engine = Engine {
            store: Arc::clone(&self.store),
            lane: lane("lane"),
            loader: lane("loader"),
            patient: Lane::patient("patient", 1, 0).expect("threads"),
            background: self.runtime.handle().clone(),
            clock: || NOW_MS,
            writer,
            log: Some(log),
            recovered: Arc::new(Mutex::new(recovered)),
            give_back: || {},
            health: Arc::default(),
            claims: Some(Arc::clone(&allowed) as Arc<dyn Claims>),
        };
        Process { engine, logs, allowed, _flusher: flusher }
    }

    fn open(&self, process: &Process) -> Arc<Database> {
        // As in a fleet, each process would place a new database by a seed of its own.
        let database = self.runtime.block_on(Database::open("shop", process.engine.writer, process.engine.clone()));
        database.shared.journal.declare(Window::Ms(60_000));
        database
    }

    fn run(&self, database: &Arc<Database>, line: &str) -> Result<String> {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let request = OwnedRequest::from_args(&args);
        let (row, run) = commands::find(request.as_request()).expect("a command");
        let context = Context { select: 0, version: Version::Resp2, no_touch: false, tracker: Default::default() };
        let plan = Arc::new(Plan::one(PlannedCommand { row, run, request, context }, NOW_MS, 7));
        let done = self.runtime.block_on(execution::run(database, &plan, &Arc::new(Turn::endless(None))));
        done.map(|outcome| String::from_utf8_lossy(&outcome.replies.buffer).into_owned())
    }

    fn hand_over(&self, database: &Arc<Database>, to: &Process) -> Result<()> {
        self.runtime.block_on(database.hand_over(to.engine.writer))
    }

    fn newest_writer(&self) -> Option<u64> {
        let newest = self.runtime.block_on(manifest::latest(&self.store, "shop")).expect("a manifest");
        newest.map(|manifest| manifest.writer)
    }
}

fn elsewhere() -> Result<String> {
    Err(Error::Elsewhere("shop".to_owned()))
}

#[test]
fn a_new_database_belongs_to_the_first_that_uses_it() {
    let shared = Shared::new();
    let (first, second) = (shared.process(1), shared.process(2));
    // Both have found that there is none.
    let (here, there) = (shared.open(&first), shared.open(&second));
    assert_eq!(shared.run(&here, "SET k v"), Ok("+OK\r\n".to_owned()));
    assert_eq!(shared.newest_writer(), Some(1), "before anything else was written");
    assert_eq!(shared.run(&there, "GET k"), elsewhere());
    assert_eq!(shared.run(&shared.open(&second), "SET k w"), elsewhere());
    assert!(here.is_claimed() && !there.is_claimed());
    assert_eq!(shared.newest_writer(), Some(1));
}

#[test]
fn of_several_that_take_a_free_database_one_gets_it() {
    for _ in 0..20 {
        let shared = Shared::new();
        let processes: Vec<Process> = (1..=4).map(|writer| shared.process(writer)).collect();
        let opened: Vec<_> = processes.iter().map(|process| shared.open(process)).collect();
        let claims = opened.iter().map(|database| {
            let database = Arc::clone(database);
            shared.runtime.spawn(async move { database.claim().await })
        });
        let claims = shared.runtime.block_on(futures::future::join_all(claims));
        let won = claims.into_iter().filter(|claim| matches!(claim, Ok(Ok(())))).count();
        assert_eq!(won, 1);
        let owner = opened.iter().find(|database| database.is_claimed()).expect("an owner");
        assert_eq!(Some(owner.engine.writer), shared.newest_writer());
    }
}

#[test]
fn the_settings_of_a_foreign_database_cannot_be_changed() {
    let shared = Shared::new();
    let (first, second) = (shared.process(1), shared.process(2));
    let here = shared.open(&first);
    shared.run(&here, "SET k v").expect("a write");
    let there = shared.open(&second);
    let declared = shared.runtime.block_on(there.declare_window(Window::Zero));
    assert!(declared.is_err());
    assert_eq!(shared.newest_writer(), Some(1));
}

#[test]
fn a_database_that_was_handed_over_is_whole_there_and_refused_here() {
    let shared = Shared::new();
    let (first, second) = (shared.process(1), shared.process(2));
    let here = shared.open(&first);
    for key in 0..300 {
        shared.run(&here, &format!("SET key:{key} {key}")).expect("a write");
    }
    shared.hand_over(&here, &second).expect("a move");
    assert_eq!(shared.newest_writer(), Some(2), "it is the other one's before that has done anything");
    assert_eq!(shared.run(&here, "GET key:1"), elsewhere());
    assert!(here.is_leaving() && !here.is_claimed());
    let there = shared.open(&second);
    assert_eq!(shared.run(&there, "DBSIZE"), Ok(":300\r\n".to_owned()));
    assert_eq!(shared.run(&there, "GET key:299"), Ok("$3\r\n299\r\n".to_owned()));
    assert_eq!(second.allowed.asked.load(Ordering::SeqCst), 0, "nothing had to be taken");
    assert_eq!(shared.run(&there, "SET key:1 there"), Ok("+OK\r\n".to_owned()));
    // It may come back, as another one.
    shared.hand_over(&there, &first).expect("a move back");
    assert_eq!(shared.run(&here, "GET key:1"), elsewhere(), "what was known here is old");
    assert_eq!(shared.run(&shared.open(&first), "GET key:1"), Ok("$5\r\nthere\r\n".to_owned()));
}

#[test]
fn a_dead_writer_is_succeeded_only_if_that_is_allowed() {
    let shared = Shared::new();
    let (first, second) = (shared.process(1), shared.process(2));
    let here = shared.open(&first);
    shared.run(&here, "SET k v").expect("a write");
    shared.runtime.block_on(here.checkpoint()).expect("a checkpoint");
    drop(here);
    assert_eq!(shared.run(&shared.open(&second), "GET k"), elsewhere());
    second.allowed.writers.lock().insert(Some(1));
    assert_eq!(shared.run(&shared.open(&second), "GET k"), Ok("$1\r\nv\r\n".to_owned()));
    assert_eq!(shared.newest_writer(), Some(2));
}

#[test]
fn what_was_opened_without_a_claim_is_given_up() {
    let shared = Shared::new();
    let first = shared.process(1);
    let unclaimed = shared.open(&first);
    assert!(shared.runtime.block_on(unclaimed.abandon()));
    assert_eq!(shared.run(&unclaimed, "SET k v"), elsewhere());
    let claimed = shared.open(&first);
    shared.run(&claimed, "SET k v").expect("a write");
    assert!(!shared.runtime.block_on(claimed.abandon()));
    assert_eq!(shared.run(&claimed, "GET k"), Ok("$1\r\nv\r\n".to_owned()));
}

#[test]
fn a_manifest_that_was_read_long_ago_leads_to_no_claim() {
    let shared = Shared::new();
    let (first, second) = (shared.process(1), shared.process(2));
    let here = shared.open(&first);
    let checkpoint = |value: u32| {
        shared.run(&here, &format!("SET k {value}")).expect("a write");
        shared.runtime.block_on(here.checkpoint()).expect("a checkpoint");
    };
    checkpoint(0);
    let there = shared.open(&second);
    // The manifest after the one that was read is deleted meanwhile, so its number is free.
    (1..10).for_each(checkpoint);
    shared.runtime.block_on(here.collect_garbage()).expect("a collection");
    second.allowed.writers.lock().insert(Some(1));
    assert_eq!(shared.run(&there, "GET k"), Ok("$1\r\n9\r\n".to_owned()));
    assert_eq!(shared.newest_writer(), Some(2));
}

#[test]
fn a_claim_that_fails_leaves_the_entries_of_the_log() {
    let shared = Shared::new();
    let (first, second) = (shared.process(1), shared.process(2));
    let here = shared.open(&first);
    shared.run(&here, "SET k stored").expect("a write");
    shared.runtime.block_on(here.checkpoint()).expect("a checkpoint");
    shared.run(&here, "SET k logged").expect("a write");
    first.engine.log.as_ref().expect("a log").flush().expect("a flush");
    drop(here);
    let before = shared.open(&second);
    second.engine.recovered.lock().merge(Log::look(&first.logs).expect("a log that can be read"));
    let refused = shared.open(&second);
    assert_eq!(shared.run(&refused, "GET k"), elsewhere());
    drop(refused);
    second.allowed.writers.lock().insert(Some(1));
    assert_eq!(shared.run(&before, "GET k"), elsewhere(), "it was opened without the entries");
    assert_eq!(shared.run(&shared.open(&second), "GET k"), Ok("$6\r\nlogged\r\n".to_owned()));
}

/// Random writes to the present owner, and random moves. Every write that was acknowledged is there at the end.
#[test]
fn random_moves_lose_nothing() {
    let mut random = Rng::with_seed(7);
    let shared = Shared::new();
    let processes: Vec<Process> = (1..=3).map(|writer| shared.process(writer)).collect();
    let mut owner = 0;
    let mut database = shared.open(&processes[0]);
    let mut model: BTreeMap<usize, u32> = BTreeMap::new();
    for _ in 0..400 {
        match random.u32(..20) {
            0..15 => {
                let (key, value) = (random.usize(..50), random.u32(..));
                shared.run(&database, &format!("SET key:{key} {value}")).expect("a write");
                model.insert(key, value);
            }
            15..17 => drop(shared.runtime.block_on(database.sleep()).expect("a sleep")),
            17 => drop(shared.runtime.block_on(database.checkpoint()).expect("a checkpoint")),
            _ => {
                let to = (owner + 1 + random.usize(..2)) % 3;
                shared.hand_over(&database, &processes[to]).expect("a move");
                assert_eq!(shared.run(&database, "DBSIZE"), elsewhere());
                (owner, database) = (to, shared.open(&processes[to]));
            }
        }
        if random.u8(..8) == 0 {
            let key = random.usize(..50);
            let expected = match model.get(&key) {
                Some(value) => format!("${}\r\n{value}\r\n", value.to_string().len()),
                None => "$-1\r\n".to_owned(),
            };
            assert_eq!(shared.run(&database, &format!("GET key:{key}")), Ok(expected));
        }
    }
    assert_eq!(shared.run(&database, "DBSIZE"), Ok(format!(":{}\r\n", model.len())));
}
