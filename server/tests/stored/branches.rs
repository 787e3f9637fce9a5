//! Branches: databases that share chunks, read and written, put to sleep and woken, deleted, and reopened after a
//! crash.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dormouse_protocol::{OwnedRequest, Version};
use dormouse_shard::commands::{self, Context};
use dormouse_shard::database::{Database, Engine};
use dormouse_shard::execution::{self, Plan, PlannedCommand, Turn};
use dormouse_shard::lane::Lane;
use dormouse_storage::manifest;
use dormouse_storage::store::{FaultyStore, Store};
use tokio::runtime::Runtime;

/// The held clock.
const NOW_MS: u64 = 1_700_000_000_000;

struct Bench {
    runtime: Runtime,
    store: Arc<Store>,
    faults: Arc<FaultyStore>,
    lanes: [Lane; 3],
    writers: AtomicU64,
}

impl Bench {
    fn new() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
        let faults = FaultyStore::new(Arc::new(object_store::memory::InMemory::new()));
        let store = Arc::new(Store::over(faults.clone(), "memory://"));
        let lane = |name: &'static str| Lane::new(name, 1, 0).expect("threads");
        Self { runtime, store, faults, lanes: ["lane", "loader", "patient"].map(lane), writers: AtomicU64::new(1) }
    }

    /// Another process.
    fn process(&self) -> Engine {
        let [lane, loader, patient] = self.lanes.clone();
        Engine {
            store: Arc::clone(&self.store),
            lane,
            loader,
            patient,
            background: self.runtime.handle().clone(),
            clock: || NOW_MS,
            writer: self.writers.fetch_add(1, Ordering::SeqCst),
            log: None,
            recovered: Arc::default(),
            give_back: || {},
            health: Arc::default(),
            claims: None,
        }
    }

    fn open(&self, engine: &Engine, name: &str) -> Arc<Database> {
        self.runtime.block_on(Database::open(name, 42, engine.clone()))
    }

    fn run(&self, database: &Arc<Database>, line: &str) -> String {
        self.runtime.block_on(run(database, &line.split(' ').collect::<Vec<_>>()))
    }

    fn branch(&self, source: &Arc<Database>, name: &str) -> Arc<Database> {
        self.runtime.block_on(source.branch(name, None)).expect("a branch");
        self.open(&source.engine, name)
    }

    fn checkpoint(&self, database: &Arc<Database>) {
        self.runtime.block_on(database.checkpoint()).expect("a checkpoint");
    }

    fn sleep(&self, database: &Arc<Database>) {
        self.runtime.block_on(database.sleep()).expect("a sleep");
    }

    fn delete(&self, database: &Arc<Database>) {
        self.runtime.block_on(database.delete()).expect("a deletion");
    }

    fn fill(&self, database: &Arc<Database>, keys: u64, value: &str) {
        for key in 0..keys {
            self.run(database, &format!("SET key:{key} {value}"));
        }
    }

    fn objects(&self, folder: &str) -> Vec<String> {
        let listed = self.runtime.block_on(self.store.list(folder)).expect("a listing");
        listed.into_iter().map(|object| object.name).collect()
    }

    /// Checks that every object that one of the last two manifests of any database names exists.
    fn check_store(&self) {
        let objects: BTreeSet<String> = self.objects("db").into_iter().collect();
        self.runtime.block_on(async {
            for database in manifest::databases(&self.store).await.expect("names") {
                for (number, kept) in manifest::history(&self.store, &database).await.expect("manifests").iter().take(2)
                {
                    for name in kept.as_ref().expect("a manifest").known.objects() {
                        assert!(objects.contains(name), "{name} is gone, which manifest {number} of {database} names");
                    }
                }
            }
        });
    }
}

async fn run(database: &Arc<Database>, words: &[&str]) -> String {
    let args: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let request = OwnedRequest::from_args(&args);
    let (row, run) = commands::find(request.as_request()).expect("a command");
    let context = Context { select: 0, version: Version::Resp2, no_touch: false, tracker: Default::default() };
    let plan = Arc::new(Plan::one(PlannedCommand { row, run, request, context }, NOW_MS, 7));
    match execution::run(database, &plan, &Arc::new(Turn::endless(None))).await {
        Ok(outcome) => String::from_utf8_lossy(&outcome.replies.buffer).into_owned(),
        Err(error) => format!("-{error}\r\n"),
    }
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

#[test]
fn a_branch_and_its_source_go_their_own_ways() {
    let bench = Bench::new();
    let source = bench.open(&bench.process(), "shop");
    bench.fill(&source, 3000, "before");
    bench.run(&source, "RPUSH list a b c");
    bench.checkpoint(&source);
    // Not checkpointed yet, but in the branch nevertheless.
    bench.run(&source, "RPUSH list d");
    let branch = bench.branch(&source, "pr-1");
    assert!(source.is_awake());
    assert_eq!(branch.lineage().ancestors, ["shop"]);
    assert_eq!(branch.lineage().shared_bytes, branch.counters.stored_bytes.load(Ordering::Relaxed));
    assert_eq!(source.lineage().shared_bytes, 0);
    assert_eq!(bench.run(&branch, "DBSIZE"), ":3001\r\n");
    assert_eq!(bench.run(&branch, "LLEN list"), ":4\r\n");

    bench.run(&source, "SET key:7 source");
    bench.run(&branch, "SET key:7 branch");
    bench.run(&branch, "DEL key:8 list");
    for round in 0..3 {
        assert_eq!(bench.run(&source, "GET key:7"), bulk("source"));
        assert_eq!(bench.run(&branch, "GET key:7"), bulk("branch"));
        assert_eq!(bench.run(&source, "EXISTS key:8 list"), ":2\r\n");
        assert_eq!(bench.run(&branch, "EXISTS key:8 list"), ":0\r\n");
        assert_eq!(bench.run(&branch, "GET key:9"), bulk("before"));
        // Both asleep, then woken by reading.
        if round < 2 {
            bench.sleep(&source);
            bench.sleep(&branch);
        }
        bench.check_store();
    }
    let nothing = bench.run(&bench.branch(&bench.open(&bench.process(), "empty"), "pr-2"), "DBSIZE");
    assert_eq!(nothing, ":0\r\n");
}

#[test]
fn a_branch_of_a_sleeping_database_wakes_nothing_and_of_a_branch_shares_all() {
    let bench = Bench::new();
    let source = bench.open(&bench.process(), "a");
    bench.fill(&source, 1000, "v");
    bench.sleep(&source);
    let before = bench.objects("db/a/chunk");
    let first = bench.branch(&source, "b");
    assert!(!source.is_awake());
    let second = bench.branch(&first, "c");
    assert_eq!(second.lineage().ancestors, ["b", "a"]);
    let third = bench.branch(&second, "d");
    assert_eq!(third.lineage().ancestors, ["c", "b", "a"]);
    assert_eq!(bench.objects("db/a/chunk"), before);
    assert!(bench.objects("db/b/chunk").is_empty() && bench.objects("db/c/chunk").is_empty());
    // A branch in between is deleted, and its name reused.
    bench.delete(&first);
    assert_eq!(bench.run(&third, "DBSIZE"), ":1000\r\n");
    bench.run(&third, "SET new 1");
    let first = bench.branch(&third, "b");
    assert_eq!(bench.run(&first, "DBSIZE"), ":1001\r\n");
    assert_eq!(first.lineage().ancestors, ["d", "c", "b", "a"]);
    bench.check_store();
}

#[test]
fn old_chunks_live_as_long_as_a_branch_needs_them() {
    let bench = Bench::new();
    let source = bench.open(&bench.process(), "a");
    bench.fill(&source, 2000, "old");
    bench.sleep(&source);
    let old = bench.objects("db/a/chunk");
    let branch = bench.branch(&source, "b");
    for round in 0..4 {
        bench.fill(&source, 2000, &format!("round-{round}"));
        bench.checkpoint(&source);
        bench.check_store();
    }
    // The branch reads objects that the source gave up long ago.
    assert!(old.iter().all(|name| bench.objects("db/a/chunk").contains(name)));
    assert_eq!(bench.run(&branch, "GET key:77"), bulk("old"));
    bench.sleep(&branch);
    // After its source is deleted, only the branch keeps the objects alive.
    bench.delete(&source);
    assert_eq!(bench.run(&source, "GET key:77"), "-ERR the database 'a' was deleted\r\n");
    assert_eq!(bench.objects("db/a/chunk"), old);
    assert_eq!(bench.run(&branch, "GET key:1999"), bulk("old"));
    for value in ["new", "newer", "newest"] {
        bench.fill(&branch, 2000, value);
        bench.checkpoint(&branch);
        bench.check_store();
    }
    assert!(bench.objects("db/a").is_empty(), "{:?}", bench.objects("db/a"));
    assert_eq!(bench.run(&branch, "GET key:1999"), bulk("newest"));
    bench.delete(&branch);
    assert!(bench.objects("db").is_empty(), "{:?}", bench.objects("db"));
}

#[test]
fn what_only_a_branch_needed_goes_with_it() {
    let bench = Bench::new();
    let source = bench.open(&bench.process(), "a");
    bench.fill(&source, 500, "old");
    let branch = bench.branch(&source, "b");
    for value in ["new", "newer"] {
        bench.fill(&source, 500, value);
        bench.checkpoint(&source);
    }
    bench.sleep(&source);
    let needed_by_both = bench.objects("db/a/chunk").len();
    bench.delete(&branch);
    bench.runtime.block_on(source.collect_garbage()).expect("a collection");
    assert!(bench.objects("db/a/chunk").len() < needed_by_both);
    assert!(bench.objects("db/a/branch").is_empty());
    assert!(!source.is_awake());
    assert_eq!(bench.run(&source, "GET key:7"), bulk("newer"));
}

#[test]
fn a_taken_name_makes_no_branch() {
    let bench = Bench::new();
    let engine = bench.process();
    let source = bench.open(&engine, "a");
    bench.run(&source, "SET k v");
    bench.branch(&source, "b");
    let again = bench.runtime.block_on(source.branch("b", None)).map_err(|error| error.to_string());
    assert_eq!(again, Err("ERR a database of that name exists".to_string()));
    let itself = bench.runtime.block_on(source.branch("a", None));
    assert!(itself.is_err());
}

#[test]
fn a_branch_is_one_moment_of_a_source_that_is_written_to() {
    let bench = Bench::new();
    let source = bench.open(&bench.process(), "a");
    bench.fill(&source, 2000, "v");
    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(AtomicU64::new(0));
    // Every transaction writes both of two distant keys.
    let writer = {
        let (source, stop, acknowledged) = (Arc::clone(&source), Arc::clone(&stop), Arc::clone(&acknowledged));
        bench.runtime.spawn(async move {
            let mut turn = 0;
            while !stop.load(Ordering::SeqCst) {
                turn += 1;
                let turn = turn.to_string();
                let reply = run(&source, &["MSET", "left", &turn, "right", &turn]).await;
                assert_eq!(reply, "+OK\r\n");
                acknowledged.fetch_add(1, Ordering::SeqCst);
                // Nothing here waits, so woken tasks would otherwise never get a turn.
                tokio::task::yield_now().await;
            }
        })
    };
    for round in 0..5 {
        let before = acknowledged.load(Ordering::SeqCst);
        let branch = bench.branch(&source, &format!("b{round}"));
        let pair = bench.run(&branch, "MGET left right");
        let values: Vec<&str> = pair.lines().filter(|line| !line.starts_with(['*', '$'])).collect();
        if before > 0 {
            assert_eq!(values[0], values[1], "{pair}");
            assert!(values[0].parse::<u64>().expect("a number") >= before, "{pair} after {before}");
        }
        while acknowledged.load(Ordering::SeqCst) == before {
            assert!(!writer.is_finished());
            std::thread::yield_now();
        }
    }
    stop.store(true, Ordering::SeqCst);
    bench.runtime.block_on(writer).expect("the writer goes on through all of it");
    bench.check_store();
}

/// Expected contents of a database after a crash.
#[derive(Default)]
struct Held {
    is_there: bool,
    /// The value of the last checkpoint, and of one that may have been the last.
    values: BTreeSet<String>,
}

/// Runs a database and its branches in a process that may die on the way.
fn live(bench: &Bench, held: &mut BTreeMap<&'static str, Held>) {
    let engine = bench.process();
    let mut write = |database: &Arc<Database>, name: &'static str, value: &str| {
        bench.fill(database, 40, value);
        let held = held.entry(name).or_default();
        held.values.insert(value.to_string());
        let written = bench.runtime.block_on(database.checkpoint()).is_ok();
        if written && !bench.faults.is_dead() {
            *held = Held { is_there: true, values: BTreeSet::from([value.to_string()]) };
        }
    };
    let mut all = vec![bench.open(&engine, "a")];
    write(&all[0], "a", "one");
    for (source, name, value) in [(0, "b", "two"), (1, "c", "three"), (0, "d", "four")] {
        if bench.runtime.block_on(all[source].branch(name, None)).is_err() {
            return;
        }
        let branch = bench.open(&engine, name);
        write(&branch, name, value);
        all.push(branch);
        write(&all[0], "a", &format!("after-{name}"));
    }
    // Failures from here on happen because the process is dead.
    for database in &all[1..] {
        let _ = bench.runtime.block_on(database.sleep());
    }
    let _ = bench.runtime.block_on(all[1].delete());
    write(&all[2], "c", "five");
    write(&all[0], "a", "six");
    if let Some(deleted) = held.get_mut("b") {
        deleted.is_there = false;
    }
}

#[test]
fn a_crash_at_any_moment_leaves_every_database_whole() {
    let mut after = 0;
    loop {
        let bench = Bench::new();
        bench.faults.crash_after(after);
        let mut held = BTreeMap::new();
        live(&bench, &mut held);
        let died = bench.faults.is_dead();
        bench.faults.revive();
        bench.check_store();
        let engine = bench.process();
        bench.runtime.block_on(manifest::sweep(&bench.store, u64::MAX)).expect("a sweep");
        bench.check_store();
        for (name, Held { is_there, values }) in &held {
            let exists = bench.runtime.block_on(manifest::exists(&bench.store, name)).expect("an answer");
            assert!(exists || !is_there, "{name} is gone after {after} changes");
            if !exists {
                continue;
            }
            let database = bench.open(&engine, name);
            let value = bench.run(&database, "GET key:39");
            // A new branch that was not written yet holds its source's data.
            let inherited = ["one", "after-b", "after-c", "two"].map(bulk);
            let is_right = values.iter().any(|held| bulk(held) == value) || !is_there && inherited.contains(&value);
            assert!(is_right, "{name} holds {value} after {after} changes, not {values:?}");
            bench.run(&database, "SET key:1 again");
            bench.checkpoint(&database);
            bench.check_store();
        }
        if !died {
            break;
        }
        after += 1;
    }
    assert!(after > 30, "{after} changes only");
}
