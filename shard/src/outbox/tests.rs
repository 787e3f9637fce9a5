//! Events survive whatever becomes of their database, until they are delivered.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;

use dormouse_protocol::{OwnedRequest, Version};
use dormouse_storage::log::flusher::Flusher;
use dormouse_storage::log::sink::Objects;
use dormouse_storage::log::{Log, Window};
use dormouse_storage::manifest;
use dormouse_storage::shown::OUTBOX_KEYSPACE;
use dormouse_storage::store::{FaultyStore, Store, StoreFault, StoreRequest};
use fastrand::Rng;
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};

use crate::commands::{self, Context};
use crate::database::{Database, Engine};
use crate::execution::{self, Plan, PlannedCommand, Turn};
use crate::keyspace::changes::{EventClass, KeyEvent};
use crate::keyspace::outbox::filter::TriggerFilter;
use crate::keyspace::outbox::{OutboxEvent, OutboxRecord, TriggerQueue};
use crate::lane::Lane;

const NOW_MS: u64 = 1_700_000_000_000;
const KEYS: usize = 40;

struct Setup {
    runtime: Runtime,
    store: Arc<Store>,
    logs: Arc<Store>,
    writers: u64,
    flushers: Vec<Flusher>,
    log: Option<Arc<Log>>,
    clock: fn() -> u64,
    /// The events that triggers want, of any key.
    events: &'static [&'static str],
    keys: &'static [&'static str],
}

impl Setup {
    fn new() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
        let (store, logs) = (Arc::new(Store::memory()), Arc::new(Store::memory()));
        Self {
            runtime,
            store,
            logs,
            writers: 0,
            flushers: Vec::new(),
            log: None,
            clock: || NOW_MS,
            events: &["set", "append", "del"],
            keys: &["key:*"],
        }
    }

    /// Brings everything that was written so far into the log.
    fn flush(&self) {
        self.log.iter().for_each(|log| log.flush().expect("memory does not fail"));
    }

    /// A crash that loses what is not durable.
    fn crash(&mut self) {
        self.log = None;
    }

    /// Opens a database in another process, on everything that the one before has made durable.
    fn open(&mut self, name: &str, trigger: u64) -> (Arc<Database>, Arc<TriggerQueue>) {
        self.flush();
        self.writers += 1;
        let sink = Box::new(Objects::new(Arc::clone(&self.logs)));
        let (log, recovered) = Log::over(sink, self.writers, self.clock).expect("a log that can be read");
        self.flushers.push(Flusher::start(&log).expect("a thread"));
        self.log = Some(Arc::clone(&log));
        let lane = |name: &'static str| Lane::new(name, 1, 0).expect("threads");
        let engine = Engine {
            store: Arc::clone(&self.store),
            lane: lane("lane"),
            loader: lane("loader"),
            patient: Lane::patient("patient", 1, 0).expect("threads"),
            background: self.runtime.handle().clone(),
            clock: self.clock,
            writer: self.writers,
            log: Some(log),
            recovered: Arc::new(Mutex::new(recovered)),
            give_back: || {},
            health: Arc::default(),
            claims: None,
        };
        let database = self.runtime.block_on(Database::open(name, 42, engine));
        database.shared.journal.declare(Window::Ms(60_000));
        let (events, keys) = (self.events.iter().copied(), self.keys.iter().copied());
        let filter = TriggerFilter::new(events, keys, b"letters").expect("a filter");
        let queue = TriggerQueue::new(trigger, filter, || ());
        database.shared.set_triggers(vec![Arc::clone(&queue)]);
        (database, queue)
    }

    fn run(&self, database: &Arc<Database>, lines: &[&str]) {
        let reply = self.reply(database, 0, lines);
        assert!(!reply.starts_with('-'), "{lines:?}: {reply}");
    }

    /// Runs commands in a logical index. Returns their replies.
    fn reply(&self, database: &Arc<Database>, select: u8, lines: &[&str]) -> String {
        let mut plan = Plan::new((self.clock)(), 7);
        for line in lines {
            let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            let request = OwnedRequest::from_args(&args);
            let (row, run) = commands::find(request.as_request()).expect("a command");
            let context = Context { select, version: Version::Resp2, no_touch: false, tracker: Default::default() };
            plan.steps.push(execution::Step::Command(PlannedCommand { row, run, request, context }));
        }
        let ran = self.runtime.block_on(execution::run(database, &Arc::new(plan), &Arc::new(Turn::endless(None))));
        String::from_utf8_lossy(&ran.expect("it runs").replies.buffer).into_owned()
    }

    /// Reads the first events that wait, and deletes their records if they are `delivered`.
    fn receive(&self, database: &Arc<Database>, queue: &Arc<TriggerQueue>, max: u64, delivered: bool) -> Vec<Received> {
        let entries = queue.first(max, usize::MAX);
        if entries.is_empty() {
            return Vec::new();
        }
        let records = self.runtime.block_on(database.undelivered(queue, &entries)).expect("they can be read");
        if delivered {
            self.runtime.block_on(database.delivered(queue, &entries)).expect("they can be deleted");
        }
        let mut received = Vec::new();
        for record in records {
            let OutboxRecord::Events { number, salt, events, .. } = record else { panic!("{record:?}") };
            received.extend((0..).zip(events).map(|(at, event)| ((number, salt, at), event)));
        }
        received
    }
}

/// An event with what identifies it.
type Received = ((u64, u64, usize), OutboxEvent);

#[test]
fn events_wait_through_crashes_sleeps_splits_and_merges_in_the_order_of_each_key() {
    for seed in 0..4 {
        let (mut setup, mut random) = (Setup::new(), Rng::with_seed(seed));
        let (mut database, mut queue) = setup.open("shop", 7);
        let mut expected: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        let mut received: Vec<Received> = Vec::new();
        for _ in 0..400 {
            match random.u32(..100) {
                0..60 => {
                    let keys: Vec<String> =
                        (0..random.usize(1..6)).map(|_| format!("key:{}", random.usize(..KEYS))).collect();
                    let mut lines = Vec::new();
                    for key in &keys {
                        for (word, rest) in [("set", " v"), ("append", " w"), ("del", "")] {
                            lines.push(format!("{} {key}{rest}", word.to_uppercase()));
                            expected.entry(key.clone()).or_default().push(word);
                        }
                    }
                    lines.push(format!("SET other:{} v", random.u32(..)));
                    setup.run(&database, &lines.iter().map(String::as_str).collect::<Vec<_>>());
                }
                60..80 => {
                    let (max, delivered) = (random.u64(1..30), random.bool());
                    received.extend(setup.receive(&database, &queue, max, delivered));
                }
                80..85 => {
                    setup.runtime.block_on(database.checkpoint()).expect("a checkpoint");
                }
                85..89 => {
                    setup.runtime.block_on(database.awake()).expect("it wakes");
                    setup.runtime.block_on(database.split(random.u16(1..16384))).expect("a split");
                }
                89..92 => {
                    let shards = setup.runtime.block_on(database.awake()).expect("it wakes");
                    if let Some(first) = shards.firsts.get(1) {
                        setup.runtime.block_on(database.merge(*first)).expect("a merge");
                    }
                }
                92..96 => {
                    setup.runtime.block_on(database.sleep()).expect("it sleeps");
                }
                _ => {
                    drop(database);
                    (database, queue) = setup.open("shop", 7);
                }
            }
        }
        // The wake queues events that an earlier process has left.
        setup.runtime.block_on(database.awake()).expect("it wakes");
        while !queue.is_empty() {
            received.extend(setup.receive(&database, &queue, 50, true));
        }
        assert!(!database.may_have_unlisted_events());
        let mut seen = BTreeSet::new();
        let mut by_key: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (id, event) in received {
            if seen.insert(id) {
                let key = String::from_utf8(event.key.into_vec()).expect("a text");
                by_key.entry(key).or_default().push(event.name.into());
            }
        }
        let total: usize = expected.values().map(Vec::len).sum();
        assert_eq!(seen.len(), total, "seed {seed}");
        for (key, words) in expected {
            assert_eq!(by_key[&key], words, "seed {seed}: {key}");
        }
        let counts = setup.runtime.block_on(async {
            let (_, held) = database.hold_all().await.expect("it is awake");
            held.iter()
                .map(|held| held.contents().index(super::OUTBOX as u8).map_or(0, |index| index.len()))
                .sum::<usize>()
        });
        assert_eq!(counts, 0, "seed {seed}: every record is deleted");
    }
}

#[test]
fn what_a_trigger_that_is_gone_has_left_is_dropped() {
    let mut setup = Setup::new();
    let (database, queue) = setup.open("shop", 7);
    for at in 0..100 {
        setup.run(&database, &[&format!("SET key:{at} v")]);
    }
    assert_eq!(queue.backlog().events, 100);
    drop((database, queue));
    // Another one, with the same name perhaps.
    let (database, queue) = setup.open("shop", 8);
    assert!(database.may_have_unlisted_events());
    setup.runtime.block_on(database.awake()).expect("it wakes");
    assert!(queue.is_empty());
    setup.run(&database, &["SET key:1 v"]);
    setup.runtime.block_on(database.drop_undelivered(&queue)).expect("they can be deleted");
    setup.run(&database, &["SET key:1 v"]);
    assert!(queue.is_empty(), "a trigger that was closed takes nothing in");
    setup.runtime.block_on(async {
        loop {
            let (_, held) = database.hold_all().await.expect("it is awake");
            let left: usize =
                held.iter().map(|held| held.contents().index(super::OUTBOX as u8).map_or(0, |index| index.len())).sum();
            if left == 0 {
                break;
            }
            drop(held);
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_branch_has_nothing_of_its_sources_outbox() {
    let mut setup = Setup::new();
    let (database, queue) = setup.open("shop", 7);
    for at in 0..100 {
        setup.run(&database, &[&format!("SET key:{at} v")]);
    }
    setup.runtime.block_on(database.checkpoint()).expect("a checkpoint");
    setup.run(&database, &["SET key:1 w"]);
    setup.runtime.block_on(database.branch("shop.b", None)).expect("a branch");
    let of = |name: &str| {
        let found = setup.runtime.block_on(manifest::latest(&setup.store, name)).expect("it can be read");
        found.expect("a manifest").segments.iter().filter(|segment| segment.keyspace == OUTBOX_KEYSPACE).count()
    };
    assert_eq!(of("shop.b"), 0);
    assert!(of("shop") > 0);
    assert_eq!(queue.backlog().events, 101);
}

/// An index, an event and its key.
type ToldEvent = (u8, &'static str, String);

/// Events as the keyspace of one process has told them, and how many of them the log has for sure.
#[derive(Default)]
struct Told {
    events: Arc<Mutex<Vec<ToldEvent>>>,
    durable: usize,
}

impl Told {
    fn of(database: &Database) -> Self {
        let told = Self::default();
        let events = Arc::clone(&told.events);
        let listen = move |event: KeyEvent, select: u8, key: &[u8]| {
            if !matches!(event.class, EventClass::KeyMiss | EventClass::New) {
                events.lock().push((select, event.name, String::from_utf8_lossy(key).into_owned()));
            }
        };
        assert!(database.shared.listener.set(Box::new(listen)).is_ok());
        told
    }

    /// The names of the events of each key, and how many of those are durable.
    fn by_key(&self) -> BTreeMap<(u8, String), (Vec<&'static str>, usize)> {
        let mut by_key: BTreeMap<_, (Vec<_>, usize)> = BTreeMap::new();
        for (at, (select, name, key)) in self.events.lock().iter().enumerate() {
            let (names, durable) = by_key.entry((*select, key.clone())).or_default();
            names.push(*name);
            *durable += usize::from(at < self.durable);
        }
        by_key
    }
}

/// A command of any family on one of a few keys.
fn any_command(random: &mut Rng) -> String {
    let at = random.u32(..6);
    let commands = [
        "SET s{} v",
        "SET s{} v PX 30",
        "APPEND s{} v",
        "SETRANGE s{} 2 w",
        "GETDEL s{}",
        "GETEX s{} PX 20",
        "MSET s{} a s0 b n1 1",
        "INCR n{}",
        "INCRBYFLOAT n{} 0.5",
        "PFADD p{} a b",
        "COPY s{} s1 REPLACE",
        "RENAME s{} s2",
        "RENAMENX l{} l0",
        "MOVE s{} 1",
        "DEL s{} l{} h{} z{}",
        "UNLINK x{} b{}",
        "PEXPIRE h{} 25",
        "PEXPIRE z{} 0",
        "PERSIST h{}",
        "LPUSH l{} a b c",
        "RPOP l{}",
        "LMOVE l{} l1 LEFT RIGHT",
        "LTRIM l{} 0 1",
        "LREM l{} 0 a",
        "SADD b{} 1 2 3",
        "SPOP b{}",
        "SMOVE b{} b1 2",
        "SUNIONSTORE b{} b0 b1",
        "HSET h{} a 1 b 2",
        "HINCRBY h{} a 1",
        "HDEL h{} a b",
        "ZADD z{} 1 a 2 b",
        "ZINCRBY z{} 1 a",
        "ZPOPMIN z{}",
        "ZREMRANGEBYSCORE z{} 0 1",
        "XADD x{} MAXLEN 3 * f v",
        "XGROUP CREATE x{} g 0 MKSTREAM",
        "XTRIM x{} MAXLEN 1",
        "SORT b{} STORE l3",
        "GET s{}",
        "HGETALL h{}",
        "EXISTS s{} h{} z{} n{}",
    ];
    commands[random.usize(..commands.len())].replace("{}", &at.to_string())
}

/// Random commands in two indexes, while time passes, the database splits, sleeps and crashes, and the receiver is slow. What
/// the keyspace has told is the model.
#[test]
fn every_change_is_delivered_in_the_order_of_its_key() {
    static CLOCK_MS: AtomicU64 = AtomicU64::new(NOW_MS);
    for seed in 0..6 {
        let (mut setup, mut random) = (Setup::new(), Rng::with_seed(seed));
        (setup.clock, setup.events, setup.keys) = (|| CLOCK_MS.load(Ordering::SeqCst), &["@all"], &[]);
        let (mut database, mut queue) = setup.open("shop", 7);
        let mut told = BTreeMap::from([(database.shared.outbox.salt(), Told::of(&database))]);
        let mut received: Vec<Received> = Vec::new();
        // Events that were received, and whose records are not deleted.
        let mut kept = BTreeSet::new();
        for _ in 0..600 {
            CLOCK_MS.fetch_add(random.u64(..10), Ordering::SeqCst);
            let present = told.get_mut(&database.shared.outbox.salt()).expect("of this process");
            match random.u32(..100) {
                0..70 => {
                    let lines: Vec<String> = (0..random.usize(1..5)).map(|_| any_command(&mut random)).collect();
                    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
                    setup.reply(&database, random.u8(..2), &lines);
                }
                70..72 => {
                    let line = ["FLUSHDB", "SWAPDB 0 1", "FLUSHALL"][random.usize(..3)];
                    setup.run(&database, &[line]);
                }
                72..84 => {
                    let (max, delivered) = (random.u64(1..30), random.bool());
                    let some = setup.receive(&database, &queue, max, delivered);
                    for (id, _) in &some {
                        if delivered {
                            kept.remove(id)
                        } else {
                            kept.insert(*id)
                        };
                    }
                    received.extend(some);
                }
                84..86 => {
                    setup.runtime.block_on(database.checkpoint()).expect("a checkpoint");
                }
                86..89 => {
                    setup.runtime.block_on(database.awake()).expect("it wakes");
                    setup.runtime.block_on(database.split(random.u16(1..16384))).expect("a split");
                }
                89..91 => {
                    let shards = setup.runtime.block_on(database.awake()).expect("it wakes");
                    if let Some(first) = shards.firsts.get(1) {
                        setup.runtime.block_on(database.merge(*first)).expect("a merge");
                    }
                }
                91..94 => {
                    setup.runtime.block_on(database.sleep()).expect("it sleeps");
                }
                94..97 => {
                    setup.flush();
                    present.durable = present.events.lock().len();
                }
                _ => {
                    if random.bool() {
                        setup.crash();
                    } else {
                        present.durable = present.events.lock().len();
                    }
                    drop(database);
                    (database, queue) = setup.open("shop", 7);
                    told.insert(database.shared.outbox.salt(), Told::of(&database));
                }
            }
        }
        let present = told.get_mut(&database.shared.outbox.salt()).expect("of this process");
        present.durable = present.events.lock().len();
        setup.runtime.block_on(database.awake()).expect("it wakes");
        while !queue.is_empty() {
            let some = setup.receive(&database, &queue, 50, true);
            some.iter().for_each(|(id, _)| _ = kept.remove(id));
            received.extend(some);
        }
        assert!(kept.is_empty(), "seed {seed}: a crash has undone what was delivered: {kept:?}");
        let mut seen = BTreeSet::new();
        let mut by_process: BTreeMap<u64, BTreeMap<(u8, String), Vec<String>>> = BTreeMap::new();
        for ((number, salt, at), event) in received {
            if seen.insert((number, salt, at)) {
                let key = String::from_utf8(event.key.into_vec()).expect("a text");
                let by_key = by_process.entry(salt).or_default();
                by_key.entry((event.select, key)).or_default().push(event.name.into());
            }
        }
        for (salt, told) in told {
            let (mut got, mut told) = (by_process.remove(&salt).unwrap_or_default(), told.by_key());
            for (key, (names, durable)) in &mut told {
                let got = got.remove(key).unwrap_or_default();
                assert!(
                    got.len() >= *durable,
                    "seed {seed}: {key:?} {names:?}, of which {durable} are durable: {got:?}"
                );
                assert_eq!(got, names[..got.len()], "seed {seed}: {key:?}");
            }
            assert!(got.is_empty(), "seed {seed}: {got:?} were not told");
        }
        assert!(by_process.is_empty());
        assert!(seen.len() > 500, "seed {seed}: only {} events", seen.len());
    }
}

#[test]
fn a_removed_trigger_waits_for_the_batches_that_have_events_for_it() {
    let mut setup = Setup::new();
    let (database, queue) = setup.open("shop", 7);
    setup.run(&database, &["SET other v"]);
    database.shared.set_triggers(Vec::new());
    setup.runtime.block_on(async {
        let held = database.hold_all().await.expect("it is awake");
        let mut dropped = pin!(database.drop_undelivered(&queue));
        let mut context = std::task::Context::from_waker(Waker::noop());
        assert!(dropped.as_mut().poll(&mut context).is_pending());
        drop(held);
        dropped.await.expect("nothing is to be deleted");
    });
}

#[test]
fn a_wake_that_cannot_read_the_outbox_is_tried_again() {
    for good in 0..12 {
        let mut setup = Setup::new();
        let faults = FaultyStore::memory();
        setup.store = Arc::new(Store::over(faults.clone(), "memory://"));
        let (database, _) = setup.open("shop", 7);
        for at in 0..100 {
            setup.run(&database, &[&format!("SET key:{at} v")]);
        }
        setup.runtime.block_on(database.sleep()).expect("it sleeps");
        drop(database);
        let (database, queue) = setup.open("shop", 7);
        faults.fail(StoreRequest::Get, good, 1, StoreFault::Lost);
        while setup.runtime.block_on(database.awake()).is_err() {}
        assert_eq!(queue.backlog().events, 100, "after {good} reads");
    }
}
