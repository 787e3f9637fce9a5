//! Databases with so many segments that their manifests have two levels: woken by the root, page after page, written to
//! before all pages are read, and with a damaged page.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_protocol::{OwnedRequest, Version};
use dormouse_shard::check::check;
use dormouse_shard::check::salvage::salvage;
use dormouse_shard::commands::{self, Context};
use dormouse_shard::database::{Database, Engine};
use dormouse_shard::execution::{self, Ended, Outcome, Plan, PlannedCommand, Turn};
use dormouse_shard::export::About;
use dormouse_shard::keyspace::EngineSettings;
use dormouse_shard::lane::Lane;
use dormouse_storage::codec::value::RdbReaders;
use dormouse_storage::log::sink::Objects;
use dormouse_storage::log::{Log, Window};
use dormouse_storage::manifest::{self, PagedManifest};
use dormouse_storage::store::{FaultyStore, Store};
use tokio::runtime::Runtime;

/// The held clock.
const NOW_MS: u64 = 1_700_000_000_000;
const NAME: &str = "shop";
const KEYS: usize = 100_000;

type Model = BTreeMap<String, String>;

struct Bench {
    runtime: Runtime,
    store: Arc<Store>,
    faults: Arc<FaultyStore>,
    engine: Engine,
}

impl Bench {
    fn new() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
        let faults = FaultyStore::new(Arc::new(object_store::memory::InMemory::new()));
        let store = Arc::new(Store::over(faults.clone(), "memory://"));
        let lane = |name: &'static str| Lane::new(name, 1, 0).expect("threads");
        let engine = Engine {
            store: Arc::clone(&store),
            lane: lane("lane"),
            loader: lane("loader"),
            patient: lane("patient"),
            background: runtime.handle().clone(),
            clock: || NOW_MS,
            writer: 1,
            log: None,
            recovered: Arc::default(),
            give_back: || {},
            health: Arc::default(),
            claims: None,
        };
        Self { runtime, store, faults, engine }
    }

    fn open(&self) -> Arc<Database> {
        self.runtime.block_on(Database::open(NAME, 42, self.engine.clone()))
    }

    fn run(&self, database: &Arc<Database>, words: &[&str]) -> String {
        let args: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let request = OwnedRequest::from_args(&args);
        let (row, run) = commands::find(request.as_request()).expect("a command");
        let context = Context { select: 0, version: Version::Resp2, no_touch: false, tracker: Default::default() };
        let plan = Arc::new(Plan::one(PlannedCommand { row, run, request, context }, NOW_MS, 7));
        match self.runtime.block_on(execution::run(database, &plan, &Arc::new(Turn::endless(None)))) {
            Ok(Outcome { ended: Ended::Refused(error), .. }) => format!("-{error}\r\n"),
            Ok(outcome) => String::from_utf8_lossy(&outcome.replies.buffer).into_owned(),
            Err(error) => format!("-{error}\r\n"),
        }
    }

    fn set(&self, database: &Arc<Database>, model: &mut Model, keys: impl Iterator<Item = usize>, value: &str) {
        let pairs: Vec<String> = keys.flat_map(|at| [format!("key:{at}"), format!("{value}:{at}")]).collect();
        for some in pairs.chunks(400) {
            let words: Vec<&str> = std::iter::once("MSET").chain(some.iter().map(String::as_str)).collect();
            assert_eq!(self.run(database, &words), "+OK\r\n");
        }
        model.extend(pairs.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())));
    }

    fn expect(&self, database: &Arc<Database>, model: &Model, keys: impl Iterator<Item = usize>) {
        for key in keys.map(|at| format!("key:{at}")) {
            let expected = model.get(&key).map_or_else(|| "$-1\r\n".to_owned(), |value| bulk(value));
            assert_eq!(self.run(database, &["GET", &key]), expected, "{key}");
        }
        assert_eq!(self.run(database, &["DBSIZE"]), format!(":{}\r\n", model.len()));
    }

    fn root(&self) -> PagedManifest {
        self.runtime.block_on(manifest::latest_root(&self.store, NAME)).expect("readable").expect("a manifest")
    }

    fn sleep(&self, database: &Arc<Database>) {
        self.runtime.block_on(database.sleep()).expect("a sleep");
        assert!(!database.is_awake());
    }
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

fn some(step: usize) -> impl Iterator<Item = usize> {
    (0..KEYS).step_by(step)
}

#[test]
fn a_database_of_many_pages_comes_back_as_it_was() {
    let bench = Bench::new();
    let mut model = Model::new();
    let mut database = bench.open();
    bench.set(&database, &mut model, 0..KEYS, "first");
    assert!(bench.runtime.block_on(database.split(8192)).expect("a split"));
    bench.sleep(&database);
    assert!(bench.root().pages.len() > 2, "{} pages", bench.root().pages.len());
    assert_eq!(bench.root().shard_cuts(), [8192]);
    for round in 0..6 {
        if round % 2 == 1 {
            database = bench.open();
            assert_eq!(database.stored_counts()[0].0, model.len() as u64);
        }
        // Pages are read by a read, a write or a checkpoint, whichever comes first.
        match round {
            0 | 1 => bench.expect(&database, &model, some(997)),
            2 => bench.set(&database, &mut model, some(7919), "second"),
            3 => assert_eq!(bench.run(&database, &["DBSIZE"]), format!(":{}\r\n", model.len())),
            4 => {
                bench.runtime.block_on(database.awake()).expect("awake");
                assert!(bench.runtime.block_on(database.split(3000)).expect("a split"));
            }
            _ => {
                bench.run(&database, &["DEL", "key:5", "key:50000"]);
                model.remove("key:5");
                model.remove("key:50000");
            }
        }
        bench.runtime.block_on(database.checkpoint()).expect("a checkpoint");
        bench.set(&database, &mut model, some(4001), &format!("round {round}"));
        bench.expect(&database, &model, some(331));
        bench.sleep(&database);
    }
    bench.expect(&bench.open(), &model, some(13));
}

#[test]
fn a_damaged_page_refuses_its_own_keys_and_checkpoints() {
    let bench = Bench::new();
    let mut model = Model::new();
    let database = bench.open();
    bench.set(&database, &mut model, 0..KEYS, "value");
    bench.sleep(&database);
    let root = bench.root();
    let name = manifest::Names::new(NAME).expect("a good name").manifest(root.known.number);
    bench.faults.flip(&name, 40);
    let lost = u64::from(root.pages[0].records);

    let database = bench.open();
    assert_eq!(bench.run(&database, &["DBSIZE"]), format!(":{KEYS}\r\n"));
    let (mut good, mut bad) = (0, 0);
    for at in some(101) {
        let reply = bench.run(&database, &["GET", &format!("key:{at}")]);
        if reply.starts_with('-') {
            assert!(reply.contains(&name) && reply.contains("page 0x0/"), "{reply}");
            bad += 1;
        } else {
            assert_eq!(reply, bulk(&format!("value:{at}")));
            good += 1;
        }
    }
    assert!(bad > 0 && good > bad, "{good} {bad}");
    // Succeeds if the key's page can be read.
    bench.run(&database, &["SET", "new", "value"]);
    assert!(bench.runtime.block_on(database.checkpoint()).is_err());
    // A write that is not logged would be lost with the process.
    let refused = bench.run(&database, &["SET", "new", "other"]);
    assert!(refused.starts_with("-MISCONF") && refused.contains(&name), "{refused}");
    assert!(bench.runtime.block_on(database.sleep()).is_err() && database.is_awake());
    assert_eq!(bench.root().known.number, root.known.number, "nothing is overwritten");

    let report = check(&bench.store, None, &mut |_| {}).expect("an answer");
    let problems: Vec<String> = report.databases[0].problems.iter().map(ToString::to_string).collect();
    assert!(problems.len() == 1 && problems[0].contains(&format!("{lost} keys")), "{problems:?}");
    let about = About { target: RdbReaders::REDIS_7_2, server: "7.2.0", now_ms: NOW_MS, keeps_expired: false };
    let salvaged = salvage(&bench.store, NAME, Vec::new(), about, &mut |_| {}).expect("something");
    assert_eq!(salvaged.exported.keys, KEYS as u64, "the chunks have what the page listed");
    assert!(salvaged.left_out[0].contains("page 0x0/"), "{:?}", salvaged.left_out);

    bench.faults.mend(&name);
    bench.runtime.block_on(database.checkpoint()).expect("the page can be read");
    assert!(!bench.run(&database, &["DEL", "new"]).starts_with('-'));
    bench.expect(&database, &model, some(997));
    bench.sleep(&database);
}

/// The data of the page is gone, so the next manifest does not need it.
#[test]
fn a_flush_heals_a_database_with_a_damaged_page() {
    let bench = Bench::new();
    let mut model = Model::new();
    let database = bench.open();
    bench.set(&database, &mut model, 0..KEYS, "value");
    bench.sleep(&database);
    let root = bench.root();
    let name = manifest::Names::new(NAME).expect("a good name").manifest(root.known.number);
    bench.faults.flip(&name, 40);

    let database = bench.open();
    bench.run(&database, &["SET", "new", "value"]);
    assert!(bench.runtime.block_on(database.checkpoint()).is_err());
    assert!(bench.run(&database, &["SET", "new", "value"]).starts_with("-MISCONF"));
    assert_eq!(bench.run(&database, &["FLUSHALL"]), "+OK\r\n");
    bench.runtime.block_on(database.checkpoint()).expect("no damaged page is needed");
    model.clear();
    bench.set(&database, &mut model, 0..100, "later");
    bench.sleep(&database);
    let database = bench.open();
    bench.expect(&database, &model, 0..200);
    assert!(check(&bench.store, None, &mut |_| {}).expect("an answer").databases[0].problems.is_empty());
}

/// Flushing another logical index does not repair it, and drops nothing else.
#[test]
fn a_damaged_page_of_another_index_is_still_needed() {
    let bench = Bench::new();
    let mut model = Model::new();
    let database = bench.open();
    bench.set(&database, &mut model, 0..KEYS, "value");
    bench.sleep(&database);
    let root = bench.root();
    let name = manifest::Names::new(NAME).expect("a good name").manifest(root.known.number);
    bench.faults.flip(&name, 40);
    let database = bench.open();
    bench.run(&database, &["SWAPDB", "0", "1"]);
    bench.run(&database, &["FLUSHDB"]);
    assert!(bench.runtime.block_on(database.checkpoint()).is_err());
    bench.faults.mend(&name);
    bench.runtime.block_on(database.checkpoint()).expect("the page can be read");
    bench.run(&database, &["SWAPDB", "0", "1"]);
    bench.expect(&database, &model, some(997));
}

/// The data that a tail holds is in memory, so it is written whole instead.
#[test]
fn a_damaged_tail_is_replaced_from_memory() {
    let bench = Bench::new();
    let mut model = Model::new();
    let database = bench.open();
    bench.set(&database, &mut model, 0..KEYS, "value");
    bench.runtime.block_on(database.checkpoint()).expect("the store is well");
    bench.set(&database, &mut model, some(9_973), "second");
    bench.runtime.block_on(database.checkpoint()).expect("the store is well");
    let tail = bench.root().known.tails[0].name.clone();
    bench.faults.flip(&tail, 20);
    bench.set(&database, &mut model, some(9_941), "third");
    let failed = bench.runtime.block_on(database.checkpoint()).expect_err("the tail is merged").to_string();
    assert!(failed.contains(&tail), "{failed}");
    assert!(bench.run(&database, &["SET", "key:1", "x"]).starts_with("-MISCONF"));
    bench.expect(&database, &model, some(997));
    bench.runtime.block_on(database.checkpoint()).expect("the tail is not needed");
    bench.set(&database, &mut model, some(9_929), "fourth");
    bench.sleep(&database);
    bench.expect(&bench.open(), &model, some(31));
}

/// Logged writes are accepted until the log kept for them reaches its limit; those of other databases continue.
#[test]
fn a_damaged_page_bounds_the_log_that_is_kept() {
    let bench = Bench::new();
    let mut model = Model::new();
    let database = bench.open();
    bench.set(&database, &mut model, 0..KEYS, "value");
    bench.sleep(&database);
    let root = bench.root();
    let name = manifest::Names::new(NAME).expect("a good name").manifest(root.known.number);
    let sink = Box::new(Objects::new(Arc::clone(&bench.store)));
    let (log, _) = Log::over(sink, 1, || 0).expect("an empty log");
    let engine = Engine { log: Some(Arc::clone(&log)), ..bench.engine.clone() };
    bench.faults.flip(&name, 40);
    let open = |name| bench.runtime.block_on(Database::open(name, 42, engine.clone()));
    let (database, other) = (open(NAME), open("other"));
    for database in [&database, &other] {
        database.shared.journal.declare(Window::Ms(60_000));
    }
    let big = "x".repeat(1 << 20);
    // A key whose page can be read.
    let good =
        (0..KEYS).map(|at| format!("key:{at}")).find(|key| !bench.run(&database, &["GET", key]).starts_with('-'));
    let key = good.expect("one page is damaged, not all");
    let write = |database: &Arc<Database>| {
        let reply = bench.run(database, &["SET", &key, &big]);
        log.flush().expect("the store is well");
        reply
    };
    assert_eq!(write(&database), "+OK\r\n");
    assert!(bench.runtime.block_on(database.checkpoint()).is_err());
    let accepted = (0..200).take_while(|_| write(&database) == "+OK\r\n").count();
    assert!((60..70).contains(&accepted), "{accepted} MiB");
    let refused = write(&database);
    assert!(refused.starts_with("-MISCONF") && refused.contains(&name), "{refused}");
    assert_eq!(bench.run(&database, &["STRLEN", &key]), format!(":{}\r\n", big.len()));
    assert_eq!(write(&other), "+OK\r\n");
    bench.faults.mend(&name);
    bench.runtime.block_on(database.checkpoint()).expect("the page can be read");
    assert_eq!(write(&database), "+OK\r\n");
}

/// If the store has no lock, each process takes the database over before it serves it.
#[test]
fn a_damaged_page_refuses_its_own_keys_after_a_takeover_too() {
    let bench = Bench::new();
    let mut model = Model::new();
    let database = bench.open();
    bench.set(&database, &mut model, 0..KEYS, "value");
    bench.sleep(&database);
    let root = bench.root();
    let before = manifest::Names::new(NAME).expect("a good name").manifest(root.known.number);
    bench.faults.flip(&before, 40);
    let sink = Box::new(Objects::new(Arc::clone(&bench.store)));
    let (log, _) = Log::over(sink, 2, || 0).expect("an empty log");
    let engine = Engine { log: Some(log), writer: 2, ..bench.engine.clone() };
    let database = bench.runtime.block_on(Database::open(NAME, 42, engine));
    let replies: Vec<String> = some(101).map(|at| bench.run(&database, &["GET", &format!("key:{at}")])).collect();
    let refused = replies.iter().filter(|reply| reply.starts_with('-')).count();
    assert!(refused > 0 && refused < replies.len() / 2, "{}", replies[0]);
    let owned = bench.root();
    assert_eq!((owned.known.writer, owned.known.epoch), (2, root.known.epoch + 1));
    assert_eq!((owned.known.number, &owned.pages), (root.known.number + 1, &root.pages));
}

/// A window is declared in a separate manifest, and the manifest that pages are read from is deleted after two
/// declarations.
#[test]
fn no_page_is_left_unread_in_a_manifest_that_goes() {
    let bench = Bench::new();
    let mut model = Model::new();
    let database = bench.open();
    bench.set(&database, &mut model, 0..KEYS, "value");
    bench.sleep(&database);
    let database = bench.open();
    let settings = EngineSettings { memory_max: 1, ..**database.shared.settings.load() };
    database.shared.settings.store(Arc::new(settings));
    database.shared.used.fetch_add(2, Ordering::Relaxed);
    let stored = || database.shards(false).iter().map(|shard| shard.stored).sum::<usize>();
    bench.runtime.block_on(database.awake()).expect("awake");
    assert_eq!(stored(), bench.root().pages.len(), "nothing is loaded while memory is full");
    bench.runtime.block_on(database.declare_window(Window::Zero)).expect("the store is well");
    assert!(stored() > 32, "{} places", stored());
}
