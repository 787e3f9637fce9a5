//! Events survive whatever becomes of their database, until they are delivered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dormouse_protocol::{OwnedRequest, Version};
use dormouse_storage::log::flusher::Flusher;
use dormouse_storage::log::sink::Objects;
use dormouse_storage::log::{Log, Window};
use dormouse_storage::manifest;
use dormouse_storage::shown::OUTBOX_KEYSPACE;
use dormouse_storage::store::Store;
use fastrand::Rng;
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};

use crate::commands::{self, Context};
use crate::database::{Database, Engine};
use crate::execution::{self, Plan, PlannedCommand, Turn};
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
}

impl Setup {
    fn new() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
        let (store, logs) = (Arc::new(Store::memory()), Arc::new(Store::memory()));
        Self { runtime, store, logs, writers: 0, flushers: Vec::new(), log: None }
    }

    /// Opens a database in another process, on everything that the one before has made durable.
    fn open(&mut self, name: &str, trigger: u64) -> (Arc<Database>, Arc<TriggerQueue>) {
        if let Some(log) = self.log.take() {
            log.flush().expect("memory does not fail");
        }
        self.writers += 1;
        let sink = Box::new(Objects::new(Arc::clone(&self.logs)));
        let (log, recovered) = Log::over(sink, self.writers, || NOW_MS).expect("a log that can be read");
        self.flushers.push(Flusher::start(&log).expect("a thread"));
        self.log = Some(Arc::clone(&log));
        let lane = |name: &'static str| Lane::new(name, 1, 0).expect("threads");
        let engine = Engine {
            store: Arc::clone(&self.store),
            lane: lane("lane"),
            loader: lane("loader"),
            patient: Lane::patient("patient", 1, 0).expect("threads"),
            background: self.runtime.handle().clone(),
            clock: || NOW_MS,
            writer: self.writers,
            log: Some(log),
            recovered: Arc::new(Mutex::new(recovered)),
            give_back: || {},
            health: Arc::default(),
        };
        let database = self.runtime.block_on(Database::open(name, 42, engine));
        database.shared.journal.declare(Window::Ms(60_000));
        let filter = TriggerFilter::new(["set", "append", "del"], ["key:*"], b"").expect("a filter");
        let queue = TriggerQueue::new(trigger, filter, || ());
        database.shared.set_triggers(vec![Arc::clone(&queue)]);
        (database, queue)
    }

    fn run(&self, database: &Arc<Database>, lines: &[&str]) {
        let mut plan = Plan::new(NOW_MS, 7);
        for line in lines {
            let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            let request = OwnedRequest::from_args(&args);
            let (row, run) = commands::find(request.as_request()).expect("a command");
            let context = Context { select: 0, version: Version::Resp2, no_touch: false, tracker: Default::default() };
            plan.steps.push(execution::Step::Command(PlannedCommand { row, run, request, context }));
        }
        let ran = self.runtime.block_on(execution::run(database, &Arc::new(plan), &Arc::new(Turn::endless(None))));
        let reply = String::from_utf8_lossy(&ran.expect("it runs").replies.buffer).into_owned();
        assert!(!reply.starts_with('-'), "{lines:?}: {reply}");
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
