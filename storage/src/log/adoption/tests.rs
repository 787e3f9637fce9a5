use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use object_store::memory::InMemory;

use super::*;
use crate::log::Journal;
use crate::log::format::write_effect;
use crate::log::recovery::Entries;
use crate::log::tail::LogTail;
use crate::log::testing::{NOW_MS, identity};
use crate::owner::{Heir, heir_of};
use crate::seal;
use crate::store::{FaultyStore, StoreFault};

fn now_ms() -> u64 {
    NOW_MS
}

/// A process. Its store fails by itself.
struct Process {
    /// None of a lone one.
    node: Option<&'static str>,
    writer: u64,
    faulty: Arc<FaultyStore>,
    /// Some requests fail in this step.
    faults: bool,
    log: Arc<Log>,
    recovered: Recovered,
    open: BTreeMap<&'static str, (Journal, AtomicU64)>,
    /// Writes that are not durable yet: database, sequence number and contents.
    pending: Vec<(&'static str, u64, u64)>,
}

/// A database as its users know it.
#[derive(Default)]
struct Known {
    /// Of its newest manifest.
    writer: Option<u64>,
    floor: u64,
    /// Writes beyond the manifest that must not be lost: sequence number and contents.
    kept: Vec<(u64, u64)>,
    /// All that was ever tried.
    tried: BTreeSet<(u64, u64)>,
}

/// A bucket, and what must be in it.
struct World {
    bucket: Arc<InMemory>,
    writers: u64,
    contents: u64,
    databases: BTreeMap<&'static str, Known>,
}

impl World {
    fn new() -> Self {
        Self { bucket: Arc::default(), writers: 0, contents: 0, databases: BTreeMap::new() }
    }

    fn store(&self) -> (Arc<FaultyStore>, Arc<Store>) {
        let faulty = FaultyStore::new(Arc::clone(&self.bucket) as _);
        let store = Arc::new(Store::over(Arc::clone(&faulty) as _, "a://"));
        (faulty, store)
    }

    fn start(&mut self, node: &'static str) -> Process {
        self.try_start(node, None).unwrap()
    }

    /// The process dies after so many changes of the store.
    fn try_start(&mut self, node: &'static str, crash_after: Option<usize>) -> Result<Process, StoreError> {
        self.writers += 1;
        let (writer, (faulty, store)) = (self.writers, self.store());
        crash_after.into_iter().for_each(|changes| faulty.crash_after(changes));
        let (log, recovered) = Log::open_node(&store, node, writer, now_ms, now_ms)?;
        faulty.revive();
        let (open, pending) = (BTreeMap::new(), Vec::new());
        Ok(Process { node: Some(node), writer, faulty, faults: false, log, recovered, open, pending })
    }

    fn start_lone(&mut self) -> Result<Process, StoreError> {
        self.writers += 1;
        let (writer, (faulty, store)) = (self.writers, self.store());
        let sink = Objects::take(store, writer, now_ms)?;
        let (log, recovered) = Log::over(Box::new(sink), writer, now_ms)?;
        let (open, pending) = (BTreeMap::new(), Vec::new());
        Ok(Process { node: None, writer, faulty, faults: false, log, recovered, open, pending })
    }

    fn heir_of(&self, writer: u64) -> Result<Heir, StoreError> {
        block_on(heir_of(&self.store().1, writer))
    }

    fn database(&mut self, name: &'static str) -> &mut Known {
        self.databases.entry(name).or_default()
    }

    /// Makes the database one of this process, as an engine does before it serves anything. False: it is another node's.
    fn claim(&mut self, process: &mut Process, name: &'static str) -> Result<bool, StoreError> {
        let known = self.database(name);
        if known.writer == Some(process.writer) && process.open.contains_key(name) {
            return Ok(true);
        }
        let owner = Arc::clone(process.log.owner().unwrap());
        if let (Some(writer), Some(_)) = (known.writer, process.node) {
            match block_on(owner.heirs().heir_of(writer))? {
                Heir::Free => assert_eq!(known.kept, [], "{name} of {writer} is free"),
                Heir::Writer { writer: heir, .. } if heir != process.writer => return Ok(false),
                Heir::Writer { .. } if process.log.has_read_log_of(writer) => {}
                Heir::Writer { .. } => {
                    process.inherit()?;
                    assert!(process.log.has_read_log_of(writer));
                }
            }
        }
        block_on(owner.look())?;
        let found = beyond(&process.recovered.take(&identity(name)), known.floor, name);
        assert!(found.starts_with(&known.kept), "{name} has {found:?}, not {:?}", known.kept);
        let more = &found[known.kept.len()..];
        assert!(more.iter().all(|write| known.tried.contains(write)), "{name} has {more:?}");
        let last = found.last().map_or(known.floor, |(sequence, _)| *sequence);
        (known.kept, known.writer) = (found, Some(process.writer));
        let journal = Journal::of(&process.log, &identity(name));
        journal.record(true);
        process.open.insert(name, (journal, AtomicU64::new(last)));
        Ok(true)
    }

    /// Writes to a database of this process. False: it is another node's.
    fn write(&mut self, process: &mut Process, name: &'static str) -> Result<bool, StoreError> {
        if !self.claim(process, name)? {
            return Ok(false);
        }
        self.contents += 1;
        let contents = self.contents;
        self.append(process, name, contents);
        self.flush(process).map(|()| true)
    }

    fn append(&mut self, process: &mut Process, name: &'static str, contents: u64) {
        let (journal, sequence) = &process.open[name];
        let next = sequence.load(Ordering::SeqCst) + 1;
        let mut items = Vec::new();
        write_effect(&mut items, 0, next << 11, |body| body.extend_from_slice(&contents.to_le_bytes()));
        journal.append(sequence, NOW_MS, &items);
        self.database(name).tried.insert((next, contents));
        process.pending.push((name, next, contents));
    }

    fn flush(&mut self, process: &mut Process) -> Result<(), StoreError> {
        process.log.flush()?;
        for (name, sequence, contents) in process.pending.drain(..) {
            self.databases.get_mut(name).unwrap().kept.push((sequence, contents));
        }
        Ok(())
    }

    /// Commits manifests of all databases of this process.
    fn checkpoint(&mut self, process: &mut Process) -> Result<(), StoreError> {
        self.flush(process)?;
        let owner = Arc::clone(process.log.owner().unwrap());
        for (name, (_, sequence)) in &process.open {
            block_on(owner.look())?;
            let known = self.databases.get_mut(name).unwrap();
            if known.writer == Some(process.writer) {
                known.floor = sequence.load(Ordering::SeqCst);
                known.kept.clear();
            }
        }
        Ok(())
    }

    /// Deletes files that no manifest needs.
    fn tidy(&self, process: &Process) -> Result<(), StoreError> {
        self.settle(process);
        process.log.remove_settled().map(drop)
    }

    fn settle(&self, process: &Process) {
        self.databases.iter().for_each(|(name, known)| process.log.settled(&identity(name), known.floor));
    }

    /// Moves a database to another node, asleep.
    fn hand_over(&mut self, from: &mut Process, to: &Process, name: &'static str) -> Result<(), StoreError> {
        if self.claim(from, name)? {
            self.checkpoint(from)?;
            from.open.remove(name);
            self.database(name).writer = Some(to.writer);
        }
        Ok(())
    }

    fn finish(&mut self, process: &mut Process) -> Result<(), StoreError> {
        self.flush(process)?;
        self.settle(process);
        process.log.finish()
    }

    /// No process that has not been overtaken is kept from writing.
    fn check_living<'p>(&self, all: impl IntoIterator<Item = &'p Process>) {
        let store = self.store().1;
        for process in all {
            let run = process.node.map_or(OwnerRun::Lone, |node| OwnerRun::node(node).unwrap());
            let number = process.log.owner().unwrap().number();
            if block_on(store.size(&run.record(number + 1))).is_ok() {
                continue;
            }
            let objects = block_on(store.list(&seal::folder(process.writer))).unwrap();
            let sealed = objects.iter().any(|object| object.bytes == seal::SEAL.len() as u64);
            assert!(!sealed, "the log of {:?} is sealed, and it is alive", process.node);
        }
    }

    /// Whatever has happened, no write is lost once dead nodes start again.
    fn check_all(&mut self, mut running: Vec<Process>) -> Vec<Process> {
        let names: Vec<&'static str> = self.databases.keys().copied().collect();
        let mut before = usize::MAX;
        // A node that starts overtakes its earlier process.
        while before != running.len() {
            before = running.len();
            names.iter().for_each(|name| self.check(&mut running, name));
        }
        running.retain(is_alive);
        running
    }

    fn check(&mut self, running: &mut Vec<Process>, name: &'static str) {
        while let Some(writer) = self.database(name).writer {
            let node = match self.heir_of(writer) {
                Ok(Heir::Free) => "t".to_owned(),
                Ok(Heir::Writer { node, .. }) => node,
                Err(StoreError::NoHeir { why, .. }) if why.contains("start again") || why.contains("--cluster") => {
                    NODES.into_iter().for_each(|node| running.push(self.start(node)));
                    continue;
                }
                Err(error) => panic!("{name} of {writer}: {error}"),
            };
            let node = NODES.into_iter().find(|known| *known == node).unwrap();
            match running.iter_mut().find(|process| process.node == Some(node) && is_alive(process)) {
                Some(process) => {
                    assert!(self.write(process, name).unwrap(), "{name} belongs to {node}");
                    return;
                }
                None => running.push(self.start(node)),
            }
        }
    }

    /// All nodes end in order, and leave a store that a lone process may take.
    fn check_end(&mut self, mut running: Vec<Process>) {
        for node in NODES {
            if running.iter().all(|process| process.node != Some(node)) {
                running.push(self.start(node));
            }
        }
        for process in &mut running {
            // Logs that no database has asked for.
            process.inherit().unwrap();
            self.checkpoint(process).unwrap();
        }
        for process in &mut running {
            self.finish(process).unwrap();
        }
        let store = self.store().1;
        let left: Vec<_> = block_on(store.list("log")).unwrap();
        assert!(left.iter().all(|object| object.bytes == seal::SEAL.len() as u64), "{left:?}");
        let names: Vec<&'static str> = self.databases.keys().copied().collect();
        let mut lone = self.start_lone().unwrap();
        names.into_iter().for_each(|name| assert!(self.write(&mut lone, name).unwrap()));
    }
}

const NODES: [&str; 3] = ["d", "s", "t"];

/// Whether it has not been overtaken.
fn is_alive(process: &Process) -> bool {
    block_on(process.log.owner().unwrap().look()).is_ok()
}

impl Process {
    fn adopt(&mut self, node: &str) -> Result<bool, StoreError> {
        let recovered = &mut self.recovered;
        self.log.adopt(node, None, &mut |found| recovered.merge(found))
    }

    fn inherit(&mut self) -> Result<(), StoreError> {
        let recovered = &mut self.recovered;
        self.log.inherit(&mut |found| recovered.merge(found))
    }
}

/// The writes of a database beyond its manifest: they follow each other without a gap.
fn beyond(entries: &Entries, floor: u64, name: &str) -> Vec<(u64, u64)> {
    if let Err(problem) = LogTail::new(entries.clone(), floor, floor) {
        panic!("{name}: {problem}");
    }
    let wanted = entries.entries.iter().filter(|entry| entry.sequence > floor);
    wanted.map(|entry| (entry.sequence, u64::from_le_bytes(entry.items[16..].try_into().unwrap()))).collect()
}

#[test]
fn a_survivor_takes_over_what_a_dead_node_has_acknowledged() {
    let mut world = World::new();
    let (mut d, mut s) = (world.start("d"), world.start("s"));
    for _ in 0..3 {
        assert!(world.write(&mut d, "a").unwrap() && world.write(&mut s, "b").unwrap());
    }
    assert!(!world.write(&mut s, "a").unwrap(), "it belongs to a living node");
    assert!(s.adopt("d").unwrap());
    assert!(s.log.has_read_log_of(d.writer));
    // The dead one was alive.
    assert!(matches!(world.write(&mut d, "a"), Err(StoreError::LogSealed)));
    assert!(matches!(d.adopt("s"), Err(StoreError::LogSealed)));
    assert_eq!(s.log.read_back(&identity("a"), 0).unwrap().entries.len(), 3, "its files are in the ledger");
    assert!(world.write(&mut s, "a").unwrap());
    world.check_living([&s]);
    // It starts again, with nothing.
    let mut again = world.start("d");
    assert!(again.recovered.is_empty());
    assert!(!world.write(&mut again, "a").unwrap());
    assert!(world.write(&mut again, "c").unwrap());
    world.check_living([&s, &again]);
    world.checkpoint(&mut s).unwrap();
    world.tidy(&s).unwrap();
    let store = world.store().1;
    assert!(!block_on(seal::has_files(&store, d.writer)).unwrap(), "no manifest needs them");
    let running = world.check_all(vec![s, again]);
    world.check_end(running);
}

#[test]
fn of_several_survivors_one_adopts() {
    let mut world = World::new();
    let (mut d, mut s, mut t) = (world.start("d"), world.start("s"), world.start("t"));
    world.write(&mut d, "a").unwrap();
    assert!(s.adopt("d").unwrap());
    assert!(!t.adopt("d").unwrap() && s.adopt("d").unwrap(), "the answer does not change");
    assert!(!t.log.has_read_log_of(d.writer) && t.recovered.is_empty());
    // The adopter dies too: its heir has both logs.
    assert!(t.adopt("s").unwrap());
    assert!(t.adopt("d").unwrap() && t.log.has_read_log_of(d.writer));
    assert!(world.write(&mut t, "a").unwrap());
    world.check_living([&t]);
    // There is nothing to adopt.
    assert!(t.adopt("t").unwrap() && !t.adopt("unknown").unwrap());
    assert!(matches!(t.adopt("../owner"), Err(StoreError::NodeName(_))));
    let running = world.check_all(vec![t]);
    world.check_end(running);
}

/// A coordinator tells of a death when the node is back already.
#[test]
fn a_node_that_has_started_again_is_left_alone() {
    let mut world = World::new();
    let (mut d, s) = (world.start("d"), world.start("s"));
    world.write(&mut d, "a").unwrap();
    let mut again = world.start("d");
    let adopt = |dead| s.log.adopt("d", Some(dead), &mut drop).unwrap();
    assert!(!adopt(d.writer));
    assert!(world.write(&mut again, "a").unwrap());
    assert!(adopt(again.writer));
    assert!(matches!(world.write(&mut again, "a"), Err(StoreError::LogSealed)));
}

/// Each of two survivors decides before either has created the record.
#[test]
fn a_race_for_a_dead_node_has_one_winner() {
    for threads in 0..20 {
        let mut world = World::new();
        let mut d = world.start("d");
        world.write(&mut d, "a").unwrap();
        let (s, t) = (world.start("s"), world.start("t"));
        s.faulty.interleave();
        let mut both = [s, t];
        let won: Vec<bool> = std::thread::scope(|scope| {
            let adopting: Vec<_> = both.iter_mut().map(|process| scope.spawn(|| process.adopt("d").unwrap())).collect();
            adopting.into_iter().map(|adopting| adopting.join().unwrap()).collect()
        });
        assert_eq!(won.iter().filter(|won| **won).count(), 1, "round {threads}");
        let running = world.check_all(both.into_iter().collect());
        world.check_end(running);
    }
}

/// All that a survivor does with the logs of a dead node that had adopted another one.
fn adopt_and_settle(world: &mut World, s: &mut Process) -> Result<(), StoreError> {
    s.adopt("d")?;
    for name in ["a", "b", "c"] {
        world.write(s, name)?;
    }
    world.checkpoint(s)?;
    world.write(s, "b")?;
    world.tidy(s)?;
    world.write(s, "a")?;
    Ok(())
}

/// A node `d` that has adopted `t`, and a node `s`, each with a database. `d` is dead.
fn before_adoption(world: &mut World) -> (Process, Process) {
    let mut t = world.start("t");
    let mut d = world.start("d");
    for name in ["b", "b", "b"] {
        world.write(&mut t, name).unwrap();
    }
    d.adopt("t").unwrap();
    let mut s = world.start("s");
    for _ in 0..3 {
        world.write(&mut d, "a").unwrap();
        world.write(&mut s, "c").unwrap();
    }
    (d, s)
}

/// The process ends after each of its changes. Then the others do all that they can do, in any order.
#[test]
fn a_crash_of_the_survivor_loses_nothing() {
    let continuations: [&[&str]; 7] =
        [&["s"], &["d", "s"], &["t", "d", "s"], &["t>s"], &["t>s", "t>d"], &["d", "t>s", "d>t"], &["t>d", "t>s", "s"]];
    for continuation in continuations {
        let mut changes = 0;
        loop {
            let mut world = World::new();
            let (mut d, mut s) = before_adoption(&mut world);
            s.faulty.crash_after(changes);
            let ended = adopt_and_settle(&mut world, &mut s);
            let has_crashed = s.faulty.is_dead();
            assert_eq!(ended.is_err(), has_crashed, "{ended:?}");
            // The dead node was alive: it is fenced, or what it says is kept.
            let _ = world.write(&mut d, "a");
            let mut running: Vec<Process> = Vec::new();
            for step in continuation {
                match step.split_once('>') {
                    None => {
                        let node = NODES.into_iter().find(|node| node == step).unwrap();
                        running.push(world.start(node));
                    }
                    Some((by, of)) => {
                        let at = running.iter().position(|process| process.node == Some(by));
                        let by = at.unwrap_or_else(|| {
                            let node = NODES.into_iter().find(|node| *node == by).unwrap();
                            running.push(world.start(node));
                            running.len() - 1
                        });
                        // It may be overtaken by now.
                        let _ = running[by].adopt(of);
                    }
                }
                world.check_living(&running);
            }
            let running = world.check_all(running);
            world.check_living(&running);
            world.check_end(running);
            if !has_crashed {
                assert!(changes > 5, "{changes}");
                break;
            }
            changes += 1;
        }
    }
}

/// An error is no end: the survivor tries again.
#[test]
fn an_error_during_an_adoption_is_repeated() {
    for fault in [StoreFault::Lost, StoreFault::Unanswered, StoreFault::Repeated] {
        for good in 0..8 {
            let mut world = World::new();
            let (_, mut s) = before_adoption(&mut world);
            s.faulty.fail_put_after(good, fault);
            let mut attempts = 0;
            while !matches!(s.adopt("d"), Ok(true)) {
                attempts += 1;
                assert!(attempts < 5, "{fault:?} after {good}");
            }
            s.faulty.revive();
            assert!(["a", "b", "c"].into_iter().all(|name| world.write(&mut s, name).unwrap()));
            world.check_living([&s]);
            let running = world.check_all(vec![s]);
            world.check_end(running);
        }
    }
}

#[test]
fn a_run_is_released_only_when_no_log_is_needed() {
    // The answer to the adoption was lost, or it has failed later; or all is well, and the entries have no manifest.
    for (fault, good) in
        [(Some(StoreFault::Unanswered), 0), (Some(StoreFault::Lost), 0), (Some(StoreFault::Lost), 1), (None, 0)]
    {
        let mut world = World::new();
        let (d, mut s) = before_adoption(&mut world);
        world.checkpoint(&mut s).unwrap();
        if let Some(fault) = fault {
            s.faulty.fail_put_after(good, fault);
            s.adopt("d").unwrap_err();
        } else {
            assert!(s.adopt("d").unwrap());
        }
        s.faulty.revive();
        world.finish(&mut s).unwrap();
        assert!(matches!(s.adopt("d"), Err(StoreError::LogSealed)), "it has ended");
        let is_adopted = fault != Some(StoreFault::Lost) || good > 0;
        let heir = match is_adopted {
            true => Heir::Writer { node: "s".into(), writer: s.writer },
            false => Heir::Writer { node: "d".into(), writer: d.writer },
        };
        assert_eq!(world.heir_of(d.writer).unwrap(), heir);
        assert!(matches!(world.start_lone(), Err(StoreError::OfFleet { .. })));
        let running = world.check_all(Vec::new());
        world.check_end(running);
    }
}

#[test]
fn a_node_that_ends_in_order_frees_its_databases() {
    let mut world = World::new();
    let (mut d, mut s) = (world.start("d"), world.start("s"));
    world.write(&mut d, "a").unwrap();
    world.checkpoint(&mut d).unwrap();
    world.finish(&mut d).unwrap();
    assert_eq!(world.heir_of(d.writer).unwrap(), Heir::Free);
    assert!(!s.adopt("d").unwrap(), "there is nothing to adopt");
    assert!(world.write(&mut s, "a").unwrap());
    let running = world.check_all(vec![s]);
    world.check_end(running);
}

/// The adopter was stopped before it created the record, and has been adopted itself since.
#[test]
fn a_late_adoption_is_found_by_the_heir() {
    let mut world = World::new();
    let (mut d, s, mut t) = (world.start("d"), world.start("s"), world.start("t"));
    world.write(&mut d, "a").unwrap();
    assert!(t.adopt("s").unwrap());
    let late = s.log.owner().unwrap();
    assert!(block_on(late.adopt(&OwnerRun::node("d").unwrap(), 2)).unwrap());
    assert!(!t.log.has_read_log_of(d.writer));
    // Also where the dead node starts again meanwhile.
    let mut again = world.start("d");
    assert!(again.recovered.is_empty() && !world.write(&mut again, "a").unwrap());
    assert!(world.write(&mut t, "a").unwrap() && t.log.has_read_log_of(d.writer));
    let running = world.check_all(vec![t, again]);
    world.check_end(running);
}

/// Each of two nodes takes the other one for dead.
#[test]
fn two_nodes_that_adopt_each_other_have_an_heir() {
    for heir in NODES {
        let mut world = World::new();
        let (mut d, mut s) = (world.start("d"), world.start("s"));
        world.write(&mut d, "a").unwrap();
        world.write(&mut s, "b").unwrap();
        for (process, of) in [(&d, "s"), (&s, "d")] {
            let owner = process.log.owner().unwrap();
            assert!(block_on(owner.adopt(&OwnerRun::node(of).unwrap(), 2)).unwrap());
        }
        let mut process = world.start(heir);
        if heir == "t" {
            process.adopt("d").unwrap();
            process.adopt("s").unwrap();
        }
        world.check_living([&process]);
        let running = world.check_all(vec![process]);
        world.check_end(running);
    }
}

#[test]
fn a_store_moves_from_a_lone_process_into_a_fleet_and_back() {
    for has_ended in [false, true] {
        let mut world = World::new();
        let mut lone = world.start_lone().unwrap();
        world.write(&mut lone, "a").unwrap();
        if has_ended {
            // A lone process releases the store even if its log is needed.
            world.finish(&mut lone).unwrap();
        }
        let mut s = world.start("s");
        let mut t = world.start("t");
        assert!(!has_ended || !world.write(&mut t, "a").unwrap());
        assert!(world.write(&mut s, "a").unwrap());
        assert!(has_ended || matches!(world.write(&mut lone, "b"), Err(StoreError::LogSealed)));
        world.check_living([&s, &t]);
        let refused = world.start_lone().err().map(|error| error.to_string()).unwrap();
        assert!(refused.contains("belongs to a fleet") && refused.contains("--cluster"), "{refused}");
        assert_eq!(world.heir_of(lone.writer).unwrap(), Heir::Writer { node: "s".into(), writer: s.writer });
        let running = world.check_all(vec![s, t]);
        world.check_end(running);
    }
}

/// As one of a version that kept no records has left it.
#[test]
fn the_log_of_a_lone_process_without_a_record_is_adopted() {
    let mut world = World::new();
    let mut lone = world.start_lone().unwrap();
    world.write(&mut lone, "a").unwrap();
    let store = world.store().1;
    block_on(store.delete(&OwnerRun::Lone.record(1))).unwrap();
    assert!(matches!(world.heir_of(lone.writer), Err(StoreError::NoHeir { .. })));
    let mut s = world.start("s");
    assert_eq!(world.heir_of(lone.writer).unwrap(), Heir::Writer { node: "s".into(), writer: s.writer });
    assert!(world.write(&mut s, "a").unwrap());
    let t = world.start("t");
    assert!(t.recovered.is_empty());
    let running = world.check_all(vec![s, t]);
    world.check_end(running);
}

#[test]
fn a_fleet_needs_a_bucket() {
    let folder = tempfile::tempdir().unwrap();
    let in_folder = Store::open(&format!("file://{}", folder.path().display())).unwrap();
    for store in [in_folder, Store::memory()] {
        let refused = Log::open_node(&Arc::new(store), "a", 1, now_ms, now_ms);
        assert!(matches!(refused, Err(StoreError::NotShared)), "{refused:?}");
    }
    let store = World::new().store().1;
    for name in ["", ".", "..", "a/b", "A", "-a", "a_b", &"a".repeat(64)] {
        let refused = Log::open_node(&store, name, 1, now_ms, now_ms);
        assert!(matches!(refused, Err(StoreError::NodeName(_))), "{name}: {refused:?}");
    }
    Log::open_node(&store, &"a".repeat(63), 1, now_ms, now_ms).unwrap();
    let world = World::new();
    let lone = Log::over(Box::new(Objects::take(world.store().1, 1, now_ms).unwrap()), 1, now_ms).unwrap().0;
    assert!(matches!(lone.adopt("a", None, &mut drop), Err(StoreError::NotShared)));
}

/// Records go as soon as they may, while nothing else is under way.
#[test]
fn records_are_collected_when_no_heir_needs_them() {
    let mut world = World::new();
    let (mut d, mut s) = before_adoption(&mut world);
    s.adopt("d").unwrap();
    let names = |world: &World| -> Vec<String> {
        let store = world.store().1;
        block_on(store.list("nodes")).unwrap().into_iter().map(|object| object.name).collect()
    };
    let collect = |process: &Process| block_on(process.log.owner().unwrap().collect_fleet(0)).unwrap();
    let before = names(&world);
    let mut again = world.start("s");
    assert_eq!(collect(&again), 0, "the logs have files");
    assert_eq!(names(&world).len(), before.len() + 1);
    assert_eq!(world.heir_of(d.writer).unwrap(), Heir::Writer { node: "s".into(), writer: again.writer });
    for name in ["a", "b", "c"] {
        assert!(world.write(&mut again, name).unwrap());
    }
    world.checkpoint(&mut again).unwrap();
    world.tidy(&again).unwrap();
    while collect(&again) > 0 {}
    let left = ["nodes/d/000000000002", "nodes/s/000000000002", "nodes/t/000000000002"];
    assert_eq!(names(&world), left, "the last one of each run stays");
    for writer in [d.writer, s.writer] {
        assert_eq!(world.heir_of(writer).unwrap(), Heir::Free);
    }
    let seals = block_on(world.store().1.list("log")).unwrap();
    assert!(seals.iter().all(|object| object.name.starts_with(&seal::folder(again.writer))), "{seals:?}");
    let _ = world.write(&mut d, "a");
    let running = world.check_all(vec![again]);
    world.check_end(running);
}

/// Nodes start, write, die, adopt each other whether they are dead or not, and end, with crashes in between.
#[test]
fn random_schedules_lose_nothing() {
    for seed in 0..SEEDS {
        let outcome = std::panic::catch_unwind(|| random_schedule(seed));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}

const SEEDS: u64 = 100;

/// Whether a step went well. An error says that the process is dead or overtaken, or which process is.
fn went_well<T>(process: &Process, step: Result<T, StoreError>) -> bool {
    match step {
        Ok(_) => true,
        Err(error) if error.is_taken() || process.faulty.is_dead() || process.faults => false,
        // Its heir has ended, and must start again.
        Err(StoreError::NoHeir { .. }) => false,
        Err(error) => panic!("{:?} {}: {error}", process.node, process.writer),
    }
}

fn random_schedule(seed: u64) {
    let mut chance = fastrand::Rng::with_seed(seed);
    let mut world = World::new();
    let mut running: Vec<Process> = Vec::new();
    let databases = ["a", "b", "c", "e"];
    if chance.bool() {
        let mut lone = world.start_lone().unwrap();
        (0..chance.usize(..5)).for_each(|_| drop(world.write(&mut lone, databases[chance.usize(..4)])));
        match chance.bool() {
            true => world.finish(&mut lone).unwrap(),
            false => running.push(lone),
        }
    }
    for _ in 0..60 {
        let name = databases[chance.usize(..databases.len())];
        let node = NODES[chance.usize(..NODES.len())];
        if running.is_empty() || chance.u8(..) < 25 {
            // One of the same node may be alive.
            let crash_after = chance.bool().then(|| chance.usize(..6));
            running.extend(world.try_start(node, crash_after));
            continue;
        }
        let at = chance.usize(..running.len());
        let mut process = running.swap_remove(at);
        match chance.u8(..) {
            0..30 => process.faulty.crash_after(chance.usize(..6)),
            30..60 => {
                let fault = if chance.bool() { StoreFault::Lost } else { StoreFault::Unanswered };
                process.faulty.fail_put_after(chance.usize(..4), fault);
                process.faults = true;
            }
            _ => {}
        }
        let owner = Arc::clone(process.log.owner().unwrap());
        let mut ends = false;
        match chance.usize(..13) {
            0..4 => {
                let step = world.write(&mut process, name);
                went_well(&process, step);
            }
            4 => {
                let step = world.checkpoint(&mut process);
                went_well(&process, step);
            }
            5 => {
                let step = world.tidy(&process);
                went_well(&process, step);
            }
            6..9 if process.node.is_some() => {
                let step = process.adopt(node);
                went_well(&process, step);
            }
            9 => {
                if let Some(to) = running.iter().find(|other| other.node == Some(node)) {
                    let step = world.hand_over(&mut process, to, name);
                    went_well(&process, step);
                }
            }
            10 => {
                if chance.bool() {
                    let step = world.checkpoint(&mut process);
                    went_well(&process, step);
                }
                let step = world.finish(&mut process);
                went_well(&process, step);
                ends = true;
            }
            11 if chance.bool() => ends = true,
            // No process has been stopped for a day.
            11 => {
                running.retain(is_alive);
                if process.node.is_some() && block_on(owner.look()).is_ok() {
                    let step = block_on(owner.collect_fleet(0));
                    went_well(&process, step);
                }
            }
            // It was stopped after its last look at its own run.
            12 if process.node.is_some() => {
                let run = OwnerRun::node(node).unwrap();
                if let Ok(Some(number)) = block_on(owner.adoptable(&run, None)) {
                    let _ = block_on(owner.adopt(&run, number));
                }
                ends = block_on(owner.look()).is_ok();
            }
            _ => {}
        }
        if !ends && !process.faulty.is_dead() {
            process.faulty.revive();
            process.faults = false;
            running.push(process);
        }
        if chance.u8(..) < 20 {
            running.extend(world.start_lone());
        }
        world.check_living(&running);
    }
    running.retain(|process| process.node.is_some());
    let running = world.check_all(running);
    world.check_living(&running);
    world.check_end(running);
}
