use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};

use futures::executor::block_on;

use super::*;
use crate::directory::record::DatabaseRecord;
use crate::store::{FaultyStore, StoreFault, StoreRequest};

type Known = BTreeMap<String, Box<[u8]>>;

/// One node of a fleet, and the records that it knows.
struct Node {
    store: Arc<Store>,
    writer: u64,
    log: DirectoryLog,
    known: Known,
}

fn apply(known: &mut Known, news: DirectoryNews) {
    if news.is_whole {
        known.clear();
    }
    for change in news.changes {
        let name = change.name().to_owned();
        match change {
            DirectoryChange::Put(record) => drop(known.insert(name, record)),
            DirectoryChange::Remove(_) => drop(known.remove(&name)),
        }
    }
}

fn store_over(faults: &Arc<FaultyStore>) -> Arc<Store> {
    Arc::new(Store::over(Arc::clone(faults) as _, "memory://"))
}

/// A change of one record, decided with the present one.
type Decide<'a> = &'a dyn Fn(Option<&[u8]>) -> DirectoryChange;

impl Node {
    async fn start(store: &Arc<Store>, writer: u64) -> Result<Self, StoreError> {
        let mut known = Known::new();
        let mut put = |change: DirectoryChange| apply(&mut known, vec![change].into());
        let log = DirectoryLog::read(store, DirectoryWriters::Shared, None, writer, &mut put).await?;
        Ok(Self { store: Arc::clone(store), writer, log, known })
    }

    /// Changes a record. Returns the record with which the change that was made was decided.
    async fn change(&mut self, name: &str, decide: Decide<'_>) -> Result<Option<Box<[u8]>>, StoreError> {
        let settled = self.log.settle().await?;
        apply(&mut self.known, settled);
        loop {
            let before = self.known.get(name).cloned();
            match self.log.commit(vec![decide(before.as_deref())]).await? {
                DirectoryCommit::Made { news, changes } => {
                    assert!(news.is_empty());
                    apply(&mut self.known, changes.into());
                    return Ok(before);
                }
                DirectoryCommit::Overtaken(news) => apply(&mut self.known, news),
            }
        }
    }

    async fn follow(&mut self, heard: u64) -> Result<(), StoreError> {
        let news = self.log.follow(heard).await?;
        apply(&mut self.known, news);
        Ok(())
    }

    async fn keep_snapshot(&mut self) -> Result<(), StoreError> {
        let mut encoder = self.log.snapshot_encoder(self.known.len());
        self.known.values().for_each(|record| encoder.put(record));
        self.log.keep_snapshot(encoder).await
    }

    async fn restart(&mut self) -> Result<(), StoreError> {
        *self = Self::start(&self.store, self.writer + 100).await?;
        Ok(())
    }
}

/// The record of `name` with a count.
fn counted(name: &str, count: u64) -> DirectoryChange {
    DirectoryChange::put(&DatabaseRecord::new(name, count))
}

fn count_of(record: Option<&[u8]>) -> u64 {
    record.map_or(0, |record| DatabaseRecord::decode(record).unwrap().created_ms)
}

fn put(node: &mut Node, name: &str) {
    block_on(node.change(name, &|before| counted(name, count_of(before) + 1))).unwrap();
}

fn fleet(count: u64) -> (Arc<FaultyStore>, Vec<Node>) {
    let faults = FaultyStore::memory();
    let store = store_over(&faults);
    let nodes = (0..count).map(|number| block_on(Node::start(&store, number + 1)).unwrap()).collect();
    (faults, nodes)
}

#[test]
fn steps_of_other_nodes_come_first() {
    let (_, mut nodes) = fleet(2);
    let [a, b] = &mut nodes[..] else { unreachable!() };
    put(a, "x");
    put(a, "y");
    // It has not heard of them, and decides with both all the same.
    put(b, "x");
    assert_eq!((count_of(b.known.get("x").map(|of| &**of)), b.log.number()), (2, 3));
    block_on(a.follow(3)).unwrap();
    assert_eq!((&a.known, a.log.number()), (&b.known, 3));
}

#[test]
fn a_quiet_look_is_two_small_reads() {
    let (faults, mut nodes) = fleet(2);
    put(&mut nodes[0], "x");
    block_on(nodes[0].keep_snapshot()).unwrap();
    // The first look finds the step, the second one the snapshot.
    block_on(nodes[1].follow(0)).unwrap();
    block_on(nodes[1].follow(0)).unwrap();
    let asked = |kind| faults.asked(kind);
    let before = (asked(StoreRequest::Get), asked(StoreRequest::List));
    block_on(nodes[1].follow(0)).unwrap();
    assert_eq!((asked(StoreRequest::Get) - before.0, asked(StoreRequest::List) - before.1), (2, 0));
    // A step: the object, and a look at the anchor.
    let (gets, puts) = (asked(StoreRequest::Get), faults.puts());
    put(&mut nodes[1], "x");
    assert_eq!((asked(StoreRequest::Get) - gets, faults.puts() - puts), (1, 1));
}

#[test]
fn the_first_step_is_of_one_node() {
    let (_, mut nodes) = fleet(3);
    let founding = |node: &Node| vec![counted("default", node.writer)];
    let mut founders = 0;
    for node in &mut nodes {
        match block_on(node.log.commit(founding(node))).unwrap() {
            DirectoryCommit::Made { changes, .. } => {
                founders += 1;
                apply(&mut node.known, changes.into());
            }
            DirectoryCommit::Overtaken(news) => apply(&mut node.known, news),
        }
    }
    assert_eq!(founders, 1);
    assert!(nodes.iter().all(|node| node.known == nodes[0].known && node.log.number() == 1));
}

/// The steps that a node does not know have been replaced by snapshots.
fn left_behind() -> (Arc<FaultyStore>, Vec<Node>) {
    let (faults, mut nodes) = fleet(2);
    let [a, b] = &mut nodes[..] else { unreachable!() };
    put(a, "old");
    put(a, "x");
    block_on(b.follow(0)).unwrap();
    let remove: Decide<'_> = &|_| DirectoryChange::Remove("old".into());
    block_on(a.change("old", remove)).unwrap();
    for _ in 0..3 {
        put(a, "x");
        block_on(a.keep_snapshot()).unwrap();
    }
    let objects = block_on(DirectoryObjects::list(&a.store)).unwrap();
    assert_eq!((objects.kept(), objects.steps.first()), (Some(5), Some(&6)));
    (faults, nodes)
}

#[test]
fn a_node_that_was_away_reads_everything_again() {
    for heard in [0, 6, u64::MAX] {
        let (_, mut nodes) = left_behind();
        block_on(nodes[1].follow(heard)).unwrap();
        assert_eq!((&nodes[1].known, nodes[1].log.number()), (&nodes[0].known, 6), "{heard}");
    }
}

#[test]
fn a_step_under_a_number_that_was_deleted_is_not_acknowledged() {
    let (_, mut nodes) = left_behind();
    let error = block_on(nodes[1].log.commit(vec![counted("lost", 1)])).unwrap_err();
    assert!(error.is_missing(), "{error}");
    let made = block_on(nodes[1].log.commit(vec![counted("lost", 1)])).unwrap();
    assert!(matches!(made, DirectoryCommit::Overtaken(DirectoryNews { is_whole: true, .. })), "{made:?}");
    let DirectoryCommit::Overtaken(news) = made else { unreachable!() };
    apply(&mut nodes[1].known, news);
    put(&mut nodes[1], "x");
    assert_eq!(count_of(nodes[1].known.get("x").map(|of| &**of)), 5);
    block_on(nodes[0].follow(0)).unwrap();
    assert_eq!(nodes[0].known, nodes[1].known);
}

#[test]
fn a_snapshot_that_comes_too_late_is_no_anchor() {
    let (faults, mut nodes) = left_behind();
    // It was stopped before it wrote that.
    block_on(nodes[1].keep_snapshot()).unwrap();
    block_on(nodes[1].change("x", &|before| counted("x", count_of(before) + 1))).unwrap_err();
    put(&mut nodes[1], "x");
    assert_eq!(count_of(nodes[1].known.get("x").map(|of| &**of)), 5);
    // Neither is one that has not been deleted yet.
    let (_, mut nodes) = left_behind();
    let store = store_over(&faults);
    let late = nodes[1].log.snapshot_encoder(0).finish();
    block_on(store.put_new(&snapshot_name(2), late)).unwrap();
    block_on(nodes[1].change("x", &|before| counted("x", count_of(before) + 1))).unwrap_err();
    put(&mut nodes[1], "x");
    block_on(nodes[0].follow(0)).unwrap();
    assert_eq!(nodes[0].known, nodes[1].known);
}

#[test]
fn an_unsure_step_is_found_out_about() {
    let faulted = [StoreFault::Lost, StoreFault::Unanswered];
    for (fault, other_first) in faulted.into_iter().flat_map(|fault| [(fault, false), (fault, true)]) {
        let (faults, mut nodes) = fleet(2);
        let [a, b] = &mut nodes[..] else { unreachable!() };
        put(a, "x");
        block_on(b.follow(0)).unwrap();
        faults.fail(StoreRequest::Put, 0, 1, fault);
        block_on(a.change("mine", &|_| counted("mine", 1))).unwrap_err();
        assert!(a.log.is_unsure());
        if other_first {
            put(b, "other");
        }
        // Written again, or dropped because the number is taken.
        let is_there = !(fault == StoreFault::Lost && other_first);
        if fault == StoreFault::Lost && other_first {
            block_on(a.follow(0)).unwrap();
        } else {
            let news = block_on(a.log.settle()).unwrap();
            apply(&mut a.known, news);
        }
        assert!(!a.log.is_unsure());
        assert_eq!(a.known.contains_key("mine"), is_there, "{fault:?}");
        block_on(a.follow(0)).unwrap();
        block_on(b.follow(0)).unwrap();
        assert_eq!(a.known, b.known, "{fault:?}");
    }
}

/// Nodes in random turns, some of them far behind, with failures of the store, restarts, snapshots and deletions.
#[test]
fn random_turns() {
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (faults, mut nodes) = fleet(2 + seed % 2);
        // What a process without faults would read.
        let witness = Arc::new(Store::over(Arc::clone(faults.inner()), "memory://"));
        let truth = || block_on(Node::start(&witness, 99)).unwrap().known;
        for turn in 0..120 {
            let count = nodes.len();
            let node = &mut nodes[if random.bool() { 0 } else { random.usize(..count) }];
            if random.u8(..4) == 0 {
                let request = [StoreRequest::Put, StoreRequest::Get, StoreRequest::List, StoreRequest::Delete];
                let fault = [StoreFault::Lost, StoreFault::Unanswered, StoreFault::Full, StoreFault::Repeated];
                let fault = fault[random.usize(..4)];
                faults.fail(request[random.usize(..4)], random.usize(..3), 1, fault);
            }
            let name = ["a", "b", "c"][random.usize(..3)];
            match random.u8(..10) {
                0 => drop(block_on(node.follow(random.u64(..200)))),
                1 | 2 => drop(block_on(node.keep_snapshot())),
                3 => drop(block_on(node.restart())),
                kind => {
                    let settled = block_on(node.log.settle());
                    let Ok(settled) = settled else { continue };
                    apply(&mut node.known, settled);
                    let before = truth().get(name).cloned();
                    let next = |before: Option<&[u8]>| match kind {
                        4 => DirectoryChange::Remove(name.into()),
                        _ => counted(name, count_of(before) + 1),
                    };
                    let Ok(decided_with) = block_on(node.change(name, &next)) else { continue };
                    let after = truth();
                    assert_eq!(decided_with, before, "seed {seed}, turn {turn}");
                    assert_eq!(node.known, after, "seed {seed}, turn {turn}");
                    let made = after.get(name).map(|of| &**of);
                    assert_eq!(count_of(made), if kind == 4 { 0 } else { count_of(before.as_deref()) + 1 });
                }
            }
        }
        faults.revive();
        for node in &mut nodes {
            let news = block_on(node.log.settle()).unwrap();
            apply(&mut node.known, news);
        }
        for node in &mut nodes {
            block_on(node.follow(0)).unwrap();
            assert_eq!(node.known, truth(), "seed {seed}");
        }
    }
}

/// Three nodes at the same time, whose requests come in random order: no count is lost.
#[test]
fn random_order_of_requests() {
    const EACH: u64 = 25;
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (faults, nodes) = fleet(3);
        faults.interleave();
        let unknown = Arc::new(AtomicU64::new(0));
        let task = |mut node: Node, mut random: fastrand::Rng, unknown: Arc<AtomicU64>| async move {
            for _ in 0..EACH {
                let name = ["a", "b"][random.usize(..2)];
                let count = |before: Option<&[u8]>| counted(name, count_of(before) + 1);
                while let Err(error) = node.change(name, &count).await {
                    // It was away for so long that it cannot be told whether it was made.
                    assert!(error.is_missing(), "{error}");
                    unknown.fetch_add(1, Ordering::Relaxed);
                }
                if random.u8(..4) == 0 {
                    node.keep_snapshot().await.unwrap();
                }
            }
        };
        let tasks = nodes.into_iter().map(|node| Box::pin(task(node, random.fork(), Arc::clone(&unknown))));
        let mut tasks: Vec<Pin<Box<dyn Future<Output = ()>>>> = tasks.map(|task| task as _).collect();
        let count = tasks.len() as u64;
        while !tasks.is_empty() {
            // One of them is away for a while, now and then.
            let at = random.usize(..tasks.len());
            for _ in 0..random.u8(1..30) {
                if tasks[at].as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                    drop(tasks.remove(at));
                    break;
                }
            }
        }
        let witness = Arc::new(Store::over(Arc::clone(faults.inner()), "memory://"));
        let known = block_on(Node::start(&witness, 99)).unwrap().known;
        let sum: u64 = known.values().map(|record| count_of(Some(record))).sum();
        let unknown = unknown.load(Ordering::Relaxed);
        assert!((EACH * count..=EACH * count + unknown).contains(&sum), "seed {seed}: {sum}, {unknown} unknown");
    }
}
