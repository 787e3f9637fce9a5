use std::collections::BTreeMap;

use futures::executor::block_on;
use object_store::memory::InMemory;

use super::*;
use crate::store::{FaultyStore, StoreFault, StoreRequest};

/// A directory over a store whose requests can fail, and its records.
struct Node {
    faults: Arc<FaultyStore>,
    store: Arc<Store>,
    log: DirectoryLog,
    known: BTreeMap<String, Box<[u8]>>,
}

fn apply(known: &mut BTreeMap<String, Box<[u8]>>, change: DirectoryChange) {
    let name = change.name().to_owned();
    match change {
        DirectoryChange::Put(record) => drop(known.insert(name, record)),
        DirectoryChange::Remove(_) => drop(known.remove(&name)),
    }
}

/// The changes of a commit, with those before it.
fn made(commit: DirectoryCommit) -> Vec<DirectoryChange> {
    match commit {
        DirectoryCommit::Made { news, changes } => news.changes.into_iter().chain(changes).collect(),
        DirectoryCommit::Overtaken(news) => panic!("overtaken by {news:?}"),
    }
}

impl Node {
    fn start(faults: Arc<FaultyStore>) -> Result<Self, StoreError> {
        let store = Arc::new(Store::over(Arc::clone(&faults) as _, "memory://"));
        let mut known = BTreeMap::new();
        let log = block_on(DirectoryLog::read(&store, DirectoryWriters::Sole, None, 7, &mut |change| {
            apply(&mut known, change)
        }))?;
        Ok(Self { faults, store, log, known })
    }

    fn new() -> Self {
        Self::start(FaultyStore::new(Arc::new(InMemory::new()))).unwrap()
    }

    fn commit(&mut self, changes: &[DirectoryChange]) -> Result<(), StoreError> {
        for change in made(block_on(self.log.commit(changes.to_vec()))?) {
            apply(&mut self.known, change);
        }
        if self.log.needs_snapshot() {
            let mut encoder = self.log.snapshot_encoder(self.known.len());
            self.known.values().for_each(|record| encoder.put(record));
            block_on(self.log.keep_snapshot(encoder))?;
        }
        Ok(())
    }

    fn restarted(&self) -> Result<Self, StoreError> {
        Self::start(Arc::clone(&self.faults))
    }

    fn names(&self) -> Vec<&str> {
        self.known.keys().map(String::as_str).collect()
    }
}

fn put(name: &str) -> DirectoryChange {
    DirectoryChange::put(&DatabaseRecord::new(name, 1))
}

fn remove(name: &str) -> DirectoryChange {
    DirectoryChange::Remove(name.into())
}

#[test]
fn changes_are_there_after_a_restart() {
    let mut node = Node::new();
    assert_eq!(node.log.number(), 0);
    node.commit(&[put("a"), put("b")]).unwrap();
    node.commit(&[remove("a"), put("c")]).unwrap();
    let again = node.restarted().unwrap();
    assert_eq!((again.names(), again.log.number()), (vec!["b", "c"], 2));
    assert_eq!(again.known, node.known);
}

#[test]
fn snapshots_replace_steps() {
    let mut node = Node::new();
    for number in 0..2000 {
        node.commit(&[put(&format!("d{number}")), remove(&format!("d{}", number / 2))]).unwrap();
    }
    let again = node.restarted().unwrap();
    assert_eq!(again.known, node.known);
    let objects = block_on(DirectoryObjects::list(&node.store)).unwrap();
    assert_eq!(objects.snapshots.len(), 2);
    assert!(objects.steps.len() <= 2 * STEPS_MAX as usize, "{}", objects.steps.len());
    assert_eq!(objects.steps.first().copied(), objects.snapshots.first().map(|kept| kept + 1));
    // Without the newest snapshot the same is read from the one before.
    let newest = *objects.snapshots.last().unwrap();
    node.faults.flip(&snapshot_name(newest), 40);
    assert_eq!(node.restarted().unwrap().known, node.known);
    // Without both, nothing is guessed.
    node.faults.flip(&snapshot_name(*objects.snapshots.first().unwrap()), 40);
    let error = node.restarted().map(drop).unwrap_err();
    assert!(error.to_string().contains("directory/snapshot-"), "{error}");
}

#[test]
fn a_damaged_or_missing_step_is_an_error() {
    let mut node = Node::new();
    for name in ["a", "b", "c"] {
        node.commit(&[put(name)]).unwrap();
    }
    node.faults.flip(&step_name(2), 40);
    let error = node.restarted().map(drop).unwrap_err();
    assert!(error.to_string().starts_with("directory/000000000002: "), "{error}");
    node.faults.mend(&step_name(2));
    node.faults.hide(&step_name(2));
    let error = node.restarted().map(drop).unwrap_err();
    assert!(error.to_string().contains("directory/000000000002: missing"), "{error}");
}

/// Whatever the fault, a change that was acknowledged is there after a restart, and one that was refused is there or not,
/// the same in memory as in the store.
#[test]
fn an_unsure_step_is_settled_before_the_next() {
    for fault in [StoreFault::Lost, StoreFault::Unanswered, StoreFault::Full] {
        let mut node = Node::new();
        node.commit(&[put("a")]).unwrap();
        node.faults.fail(StoreRequest::Put, 0, 2, fault);
        node.commit(&[put("b")]).unwrap_err();
        assert_eq!(node.names(), ["a"], "{fault:?}");
        let second = node.commit(&[put("c")]);
        assert_eq!(node.names().contains(&"c"), second.is_ok(), "{fault:?}");
        node.commit(&[put("d")]).unwrap();
        assert_eq!(node.names().contains(&"c"), second.is_ok(), "{fault:?}");
        let again = node.restarted().unwrap();
        assert_eq!(again.known, node.known, "{fault:?}");
        assert!(node.names().contains(&"d"));
        assert_eq!(node.names().contains(&"b"), fault != StoreFault::Full, "{fault:?}: {:?}", node.names());
        assert!(!node.log.is_unsure());
    }
}

#[test]
fn a_failed_read_back_loses_nothing() {
    let mut node = Node::new();
    node.faults.fail(StoreRequest::Put, 0, 1, StoreFault::Unanswered);
    node.commit(&[put("a")]).unwrap_err();
    node.faults.fail(StoreRequest::Get, 0, 1, StoreFault::Lost);
    node.commit(&[put("b")]).unwrap_err();
    assert!(node.log.is_unsure());
    node.commit(&[put("b")]).unwrap();
    assert_eq!(node.names(), ["a", "b"]);
    assert_eq!(node.restarted().unwrap().known, node.known);
}

#[test]
fn without_an_owner_a_taken_number_is_an_error() {
    let mut node = Node::new();
    let mut other = node.restarted().unwrap();
    other.commit(&[put("other")]).unwrap();
    let error = node.commit(&[put("mine")]).unwrap_err();
    assert!(error.to_string().contains("another program"), "{error}");
    assert_eq!(node.restarted().unwrap().names(), ["other"]);
}

#[test]
fn a_late_step_of_an_earlier_process_is_taken_in() {
    let faults = FaultyStore::new(Arc::new(InMemory::new()));
    let store = Arc::new(Store::over(Arc::clone(&faults) as _, "memory://"));
    let read = |owner, writer| {
        block_on(DirectoryLog::read(&store, DirectoryWriters::Sole, Some(owner), writer, &mut |_| {})).unwrap()
    };
    let (first, _) = block_on(Ownership::take(&store, 1, || 0)).unwrap();
    let mut earlier = read(first, 1);
    let (second, _) = block_on(Ownership::take(&store, 2, || 0)).unwrap();
    let mut later = read(second, 2);
    // It finds out before it acknowledges.
    assert!(block_on(earlier.commit(vec![put("late")])).unwrap_err().is_taken());
    let done = made(block_on(later.commit(vec![put("new")])).unwrap());
    let names: Vec<&str> = done.iter().map(DirectoryChange::name).collect();
    assert_eq!((names, later.number()), (vec!["late", "new"], 2));
}
