//! Databases as their manifests see them: made, changed, branched, deleted, with a crash after any change of the store.

use std::{
    sync::Arc,
    task::{Context, Waker},
};

use dormouse_types::segment::Range53;
use fastrand::Rng;
use futures::{executor::block_on, lock::Mutex};
use object_store::memory::InMemory;
use proptest::prelude::*;

use super::*;
use crate::{
    chunk::SegmentLocation,
    manifest::{ChunkInfo, SegmentInfo, TailInfo, collect_garbage, commit, latest},
    store::{FaultyStore, MasterKey},
};

/// A store, and a process that may die.
struct World {
    inner: Arc<InMemory>,
    faults: Arc<FaultyStore>,
    store: Store,
    is_encrypted: bool,
    /// The process's knowledge of the databases; forgotten when it dies.
    known: BTreeMap<String, Manifest>,
    writer: u64,
    crashes: usize,
}

#[derive(Debug, Clone)]
enum Step {
    /// Drops the chunks whose bit is set, puts one chunk, and a tail where asked for.
    Checkpoint {
        database: usize,
        dropped: u8,
        tail: bool,
    },
    Branch {
        source: usize,
        branch: usize,
    },
    Delete {
        database: usize,
    },
    Crash {
        after: usize,
    },
}

const NAMES: [&str; 5] = ["a", "B/x", "c", "d", "e"];

impl World {
    fn new() -> World {
        let inner = Arc::new(InMemory::new());
        let faults = FaultyStore::new(inner.clone());
        let store = Store::over(faults.clone(), "memory://");
        World { inner, faults, store, is_encrypted: false, known: BTreeMap::new(), writer: 1, crashes: 0 }
    }

    async fn encrypted() -> World {
        let mut world = World { is_encrypted: true, ..World::new() };
        world.store = world.opened(world.store.clone()).await;
        world
    }

    /// The store as another process would open it, with no key in memory.
    async fn opened(&self, store: Store) -> Store {
        match self.is_encrypted {
            true => store.encrypted(&MasterKey::of_bytes([1; 32])).await.unwrap(),
            false => store,
        }
    }

    async fn step(&mut self, step: &Step) {
        let outcome = match *step {
            Step::Checkpoint { database, dropped, tail } => self.checkpoint(NAMES[database], dropped, tail).await,
            Step::Branch { source, branch } => self.branch(NAMES[source], NAMES[branch]).await,
            Step::Delete { database } => self.delete(NAMES[database]).await,
            Step::Crash { after } => {
                self.faults.crash_after(after);
                Ok(())
            }
        };
        match outcome {
            Ok(()) => {}
            Err(error) => assert!(self.faults.is_dead(), "{step:?}: {error}"),
        }
        if self.faults.is_dead() {
            self.restart().await;
        }
        self.check().await;
    }

    /// Another process begins where the one before died.
    async fn restart(&mut self) {
        self.faults.revive();
        self.check().await;
        self.known.clear();
        self.writer += 1;
        self.crashes += 1;
        self.store = self.opened(Store::over(self.faults.clone(), "memory://")).await;
        sweep_keys(&self.store, None).await.unwrap();
        sweep(&self.store, u64::MAX).await.unwrap();
    }

    async fn manifest(&mut self, database: &str) -> Result<Option<Manifest>, StoreError> {
        match self.known.get(database) {
            Some(manifest) => Ok(Some(manifest.clone())),
            None => latest(&self.store, database).await,
        }
    }

    async fn checkpoint(&mut self, database: &str, dropped: u8, tail: bool) -> Result<(), StoreError> {
        let known = self.manifest(database).await?;
        if known.is_none() {
            // A process makes a database without looking for one of that name that was deleted, once at most.
            self.writer += 1;
        }
        let mut manifest = known.unwrap_or_else(|| Manifest::new(database, 1, self.writer, 0));
        if manifest.writer != self.writer {
            manifest.writer = self.writer;
            manifest.epoch += 1;
        }
        let names = Names::new(database)?;
        let mut at = 0;
        manifest.chunks.retain(|_| {
            at += 1;
            dropped >> (at - 1) & 1 == 0
        });
        let mut counter = || {
            manifest.next_object += 1;
            manifest.next_object - 1
        };
        let (chunk, of_tail) = (counter(), counter());
        let name = names.chunk(manifest.epoch, manifest.writer, chunk);
        self.store.put_new(&name, "chunk").await?;
        manifest.chunks.push(ChunkInfo { name, bytes: 5 });
        // Every other database has a manifest in two levels.
        manifest.segments = (0..if database.len() > 1 || database == "d" { 100 } else { 0 }).map(segment).collect();
        manifest.tails.clear();
        if tail {
            let name = names.tail(manifest.epoch, manifest.writer, of_tail);
            self.store.put_new(&name, "tail").await?;
            manifest.tails.push(TailInfo { name, bytes: 4, effects: 1, from_sequence: 0 });
        }
        commit(&self.store, &mut manifest).await?;
        self.known.insert(database.to_owned(), manifest.clone());
        collect_garbage(&self.store, &manifest).await.map(drop)
    }

    async fn branch(&mut self, source: &str, branch: &str) -> Result<(), StoreError> {
        let Some(manifest) = self.manifest(source).await? else { return Ok(()) };
        let mut made = Manifest { database: branch.to_owned(), source: Some(source.to_owned()), ..manifest.clone() };
        (made.writer, made.next_object) = (self.writer, 0);
        match create_branch(&self.store, &manifest, &mut made).await {
            Ok(()) => {
                assert_eq!(latest(&self.store, branch).await?.as_ref(), Some(&made));
                self.known.insert(branch.to_owned(), made);
                Ok(())
            }
            Err(StoreError::Exists { .. }) => {
                assert!(self.manifest(branch).await?.is_some(), "{branch} is not there");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn delete(&mut self, database: &str) -> Result<(), StoreError> {
        delete_database(&self.store, database).await?;
        self.known.remove(database);
        assert_eq!(latest(&self.store, database).await?, None);
        Ok(())
    }

    /// All objects that kept manifests name.
    async fn named(&self) -> BTreeSet<String> {
        let mut named = BTreeSet::new();
        for database in databases(&self.store).await.unwrap() {
            for (_, manifest) in crate::manifest::history(&self.store, &database).await.unwrap().into_iter().take(KEPT)
            {
                named.extend(manifest.unwrap().known.objects().map(str::to_owned));
            }
        }
        named
    }

    async fn objects(&self) -> BTreeSet<String> {
        self.store.list("db").await.unwrap().into_iter().map(|object| object.name).collect()
    }

    /// The invariants.
    async fn check(&self) {
        let objects = self.objects().await;
        let store = self.opened(Store::over(self.inner.clone(), "memory://")).await;
        for name in self.named().await {
            assert!(objects.contains(&name), "{name} is gone");
            if self.is_encrypted {
                store.get(&name).await.unwrap();
            }
        }
        for database in databases(&store).await.unwrap() {
            for (_, manifest) in crate::manifest::history(&store, &database).await.unwrap().into_iter().take(KEPT) {
                manifest.unwrap();
            }
        }
        for database in databases(&self.store).await.unwrap() {
            for (_, manifest) in crate::manifest::history(&self.store, &database).await.unwrap().into_iter().take(KEPT)
            {
                for owner in owners(&manifest.unwrap().known).iter().filter(|owner| **owner != database) {
                    let folder = Folder::list(&self.store, &Names::new(owner).unwrap()).await.unwrap();
                    let marked = folder.markers.iter().any(|marker| marker.branch == database);
                    assert!(marked, "{owner} has no marker of {database}");
                }
            }
        }
    }

    /// After every database has written two more manifests, and its garbage was collected once more, every object left
    /// is named.
    async fn settle(&mut self) {
        self.faults.revive();
        self.restart().await;
        let mut there = Vec::new();
        for name in NAMES {
            if self.manifest(name).await.unwrap().is_some() {
                there.push(name);
            }
        }
        for _ in 0..2 {
            for name in &there {
                self.checkpoint(name, 0, false).await.unwrap();
            }
        }
        for manifest in self.known.clone().values() {
            collect_garbage(&self.store, manifest).await.unwrap();
        }
        sweep(&self.store, u64::MAX).await.unwrap();
        self.check().await;
        let named = self.named().await;
        for name in self.objects().await {
            let is_unneeded = match marker_parts(&name) {
                // A marker stays as long as its branch needs the owner, and may stay where it was just made.
                Some((branch, source, number)) => {
                    let Some(owner) = owner(&name) else { panic!("{name} is nobody's") };
                    let needs = named_by(&self.store, &branch, &owner).await.unwrap().unwrap();
                    needs.is_empty() && newest(&self.store, &source).await.unwrap() != Some(number)
                }
                // A list stays as long as a database needs something of it.
                None if name.contains("/left/") => {
                    let listed = decode_list(&name, &self.store.get(&name).await.unwrap()).unwrap();
                    !listed.iter().any(|name| named.contains(name))
                }
                None => !name.contains("/manifest/") && !named.contains(&name),
            };
            assert!(!is_unneeded, "{name} is left");
        }
    }
}

/// A segment without a body.
fn segment(at: u64) -> SegmentInfo {
    SegmentInfo {
        keyspace: 0,
        range: Range53 { start: at << 46, bits: 46 },
        location: SegmentLocation { chunk: 0, offset: 0, len: 0 },
        records: 0,
        expiring: 0,
        heap_bytes: 0,
        sequence: 0,
        seen: 0,
        crc: 0,
    }
}

fn checkpoint(database: usize, dropped: u8) -> Step {
    Step::Checkpoint { database, dropped, tail: false }
}

/// A branch of a branch, a source that goes on and forgets, deleted databases whose objects are needed, a name used again.
fn story() -> Vec<Step> {
    vec![
        Step::Checkpoint { database: 0, dropped: 0, tail: true },
        checkpoint(0, 0),
        Step::Branch { source: 0, branch: 1 },
        checkpoint(0, 0xff),
        checkpoint(0, 0),
        Step::Checkpoint { database: 1, dropped: 0, tail: true },
        Step::Branch { source: 1, branch: 2 },
        checkpoint(1, 0xff),
        Step::Delete { database: 0 },
        checkpoint(1, 0),
        Step::Branch { source: 2, branch: 0 },
        Step::Delete { database: 1 },
        checkpoint(2, 1),
        checkpoint(0, 0xff),
        Step::Branch { source: 2, branch: 1 },
        Step::Delete { database: 2 },
        checkpoint(0, 0),
        checkpoint(1, 0xff),
        checkpoint(1, 0),
    ]
}

#[test]
fn a_crash_after_any_change_loses_nothing_and_leaks_nothing() {
    let mut after = 0;
    loop {
        let crashed = block_on(async {
            let mut world = World::new();
            world.faults.crash_after(after);
            for step in story() {
                world.step(&step).await;
            }
            let crashed = world.crashes > 0;
            world.settle().await;
            crashed
        });
        if !crashed {
            break;
        }
        after += 1;
    }
    assert!(after > 60, "the story has {after} changes only");
}

#[test]
fn a_story_without_a_crash_leaves_what_is_named() {
    block_on(async {
        let mut world = World::new();
        for step in story() {
            world.step(&step).await;
        }
        // Both read chunks of databases that are gone.
        let owners_of = |name: &str| owners(&world.known[name]);
        assert_eq!(owners_of("a"), BTreeSet::from(["a".to_owned()]));
        world.settle().await;
    });
}

#[test]
fn a_name_that_is_taken_and_a_source_that_somebody_else_writes_make_no_branch() {
    block_on(async {
        let mut world = World::new();
        world.checkpoint("a", 0, false).await.unwrap();
        world.checkpoint("c", 0, false).await.unwrap();
        let source = world.known["a"].clone();
        let branch = |name: &str| Manifest { database: name.to_owned(), ..source.clone() };
        let taken = create_branch(&world.store, &source, &mut branch("c")).await;
        assert!(matches!(taken, Err(StoreError::Exists { .. })), "{taken:?}");
        commit(&world.store, &mut source.clone()).await.unwrap();
        let overtaken = create_branch(&world.store, &source, &mut branch("d")).await;
        assert!(matches!(overtaken, Err(StoreError::Fenced { number: 2, .. })), "{overtaken:?}");
        assert_eq!(latest(&world.store, "d").await.unwrap(), None);
        world.known.remove("a");
        world.settle().await;
    });
}

#[test]
fn a_branch_whose_answer_was_lost_is_there() {
    block_on(async {
        let mut world = World::new();
        world.checkpoint("a", 0, false).await.unwrap();
        for lost in [0, 1] {
            world.faults.fail_put_after(lost, crate::store::StoreFault::Unanswered);
            let made = world.branch("a", NAMES[1 + lost]).await;
            // A marker without an answer is an error; the manifest is looked for.
            assert_eq!(made.is_ok(), lost == 1, "{made:?}");
        }
        world.branch("a", NAMES[1]).await.unwrap();
        world.check().await;
    });
}

#[test]
fn a_branch_that_cannot_be_read_keeps_everything() {
    block_on(async {
        let mut world = World::new();
        world.checkpoint("a", 0, false).await.unwrap();
        world.branch("a", "c").await.unwrap();
        let first = world.known["a"].chunks[0].name.clone();
        world.faults.flip("db/c/manifest/00000000000000000001", 40);
        for _ in 0..3 {
            world.checkpoint("a", 0xff, false).await.unwrap();
        }
        assert!(world.objects().await.contains(&first));
        delete_database(&world.store, "a").await.unwrap();
        assert!(world.objects().await.contains(&first));
        delete_database(&world.store, "c").await.unwrap();
        sweep(&world.store, u64::MAX).await.unwrap();
        assert_eq!(world.objects().await, BTreeSet::new());
    });
}

fn step() -> impl Strategy<Value = Step> {
    let names = 0..NAMES.len();
    prop_oneof![
        6 => (names.clone(), any::<u8>(), any::<bool>())
            .prop_map(|(database, dropped, tail)| Step::Checkpoint { database, dropped, tail }),
        4 => (names.clone(), names.clone()).prop_map(|(source, branch)| Step::Branch { source, branch }),
        2 => names.prop_map(|database| Step::Delete { database }),
        2 => (0usize..12).prop_map(|after| Step::Crash { after }),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_nothing_in_use_is_deleted_and_nothing_is_left(steps in prop::collection::vec(step(), 1..40)) {
        block_on(async {
            let mut world = World::new();
            for step in &steps {
                world.step(step).await;
            }
            world.settle().await;
        });
    }

    #[test]
    fn whatever_happens_everything_in_use_has_its_key(steps in prop::collection::vec(step(), 1..40)) {
        block_on(async {
            let mut world = World::encrypted().await;
            for step in &steps {
                world.step(step).await;
            }
            world.settle().await;
            for name in NAMES {
                world.delete(name).await.unwrap();
            }
            world.restart().await;
            world.restart().await;
            assert_eq!(world.objects().await, BTreeSet::new());
            assert_eq!(world.store.encrypted_databases().await.unwrap(), [""; 0], "keys are left");
        });
    }
}

/// A deletion that ended before it had changed anything but the keys.
#[test]
fn a_database_that_was_about_to_be_deleted_keeps_its_keys() {
    block_on(async {
        let mut world = World::encrypted().await;
        world.checkpoint("a", 0, false).await.unwrap();
        world.branch("a", "c").await.unwrap();
        world.delete("a").await.unwrap();
        world.checkpoint("a", 0, false).await.unwrap();
        world.checkpoint("a", 0, false).await.unwrap();
        world.faults.crash_after(1);
        world.delete("a").await.unwrap_err();
        world.restart().await;
        // What is left of the first one goes with its branch, or with the next garbage.
        world.delete("c").await.unwrap();
        world.check().await;
        world.checkpoint("a", 0, false).await.unwrap();
        world.check().await;
        world.restart().await;
        world.checkpoint("a", 0, false).await.unwrap();
    });
}

/// The databases of one process, each under the lock that its changes take.
struct Process {
    store: Store,
    known: BTreeMap<&'static str, Mutex<Option<Manifest>>>,
}

impl Process {
    async fn checkpoint(&self, database: &str, dropped: u64) -> Result<(), StoreError> {
        let mut known = self.known[database].lock().await;
        let Some(mut manifest) = known.clone() else { return Ok(()) };
        let mut at = 0;
        manifest.chunks.retain(|_| {
            at += 1;
            dropped >> (at - 1) & 1 == 0
        });
        manifest.next_object += 1;
        let name = Names::new(database)?.chunk(manifest.epoch, manifest.writer, manifest.next_object - 1);
        self.store.put_new(&name, "chunk").await?;
        manifest.chunks.push(ChunkInfo { name, bytes: 5 });
        commit(&self.store, &mut manifest).await?;
        *known = Some(manifest.clone());
        collect_garbage(&self.store, &manifest).await.map(drop)
    }

    async fn branch(&self, source: &str, branch: &str, counter: u64) -> Result<(), StoreError> {
        let known = self.known[source].lock().await;
        let Some(manifest) = known.as_ref() else { return Ok(()) };
        let mut made = Manifest { database: branch.to_owned(), source: Some(source.to_owned()), ..manifest.clone() };
        made.next_object = counter;
        match create_branch(&self.store, manifest, &mut made).await {
            // No other task holds its lock for long: it is not known yet.
            Ok(()) => *self.known[branch].lock().await = Some(made),
            Err(StoreError::Exists { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn delete(&self, database: &str) -> Result<(), StoreError> {
        let mut known = self.known[database].lock().await;
        if known.is_some() {
            delete_database(&self.store, database).await?;
            *known = None;
        }
        Ok(())
    }

    /// Some changes of one database, or of branches made from it, by chance.
    async fn live(&self, name: &'static str, mut chance: Rng) {
        for turn in 0..14 {
            let other = NAMES[chance.u64(..NAMES.len() as u64) as usize];
            match chance.u64(..8) {
                0..=3 => self.checkpoint(name, chance.u64(..256)).await.unwrap(),
                // Names of objects that were deleted are not used again: as with a clock that goes on.
                4..=6 => self.branch(name, other, 1000 * (turn + 1) + chance.u64(..1000)).await.unwrap(),
                _ if name != NAMES[0] => self.delete(name).await.unwrap(),
                _ => {}
            }
        }
    }
}

/// `c` is a branch of `a`. While `a` is collected, stopped after any of its steps, `d` is made from `c`, and `c` gives up
/// what `d` has of `a`.
#[test]
fn a_branch_that_is_made_while_its_owner_is_collected_keeps_what_it_needs() {
    let mut steps = 0;
    loop {
        let mut world = World::new();
        block_on(async {
            world.checkpoint("a", 0, false).await.unwrap();
            world.branch("a", "c").await.unwrap();
            for _ in 0..2 {
                world.checkpoint("a", 0xff, false).await.unwrap();
            }
        });
        let faults = FaultyStore::new(Arc::clone(&world.inner) as Arc<dyn object_store::ObjectStore>);
        faults.interleave();
        let (store, newest) = (Store::over(faults, "memory://"), world.known["a"].clone());
        let mut collection = Box::pin(collect_garbage(&store, &newest));
        let mut context = Context::from_waker(Waker::noop());
        let is_over = (0..steps).any(|_| collection.as_mut().poll(&mut context).is_ready());
        if is_over {
            break;
        }
        block_on(async {
            world.branch("c", "d").await.unwrap();
            for _ in 0..2 {
                world.checkpoint("c", 0xff, false).await.unwrap();
            }
            collection.await.unwrap();
            world.check().await;
        });
        steps += 1;
    }
    assert!(steps > 5, "the collection has {steps} steps only");
}

#[test]
fn collections_and_branches_in_any_order_of_their_steps_delete_nothing_in_use() {
    let (mut branches, mut deleted) = (0, 0);
    for seed in 1..=60u64 {
        let mut world = World::new();
        block_on(async {
            world.checkpoint(NAMES[0], 0, false).await.unwrap();
            world.checkpoint(NAMES[0], 0, false).await.unwrap();
        });
        let known = NAMES.map(|name| (name, Mutex::new(world.known.get(name).cloned())));
        // The invariants are checked beside it, at once.
        let inner = Arc::clone(&world.inner);
        let faults = FaultyStore::new(inner);
        faults.interleave();
        let process = Process { store: Store::over(faults, "memory://"), known: BTreeMap::from(known) };
        let mut chance = Rng::with_seed(seed);
        let mut tasks: Vec<_> = NAMES
            .iter()
            .flat_map(|name| [name, name])
            .map(|name| Box::pin(process.live(name, chance.fork())))
            .collect();
        let mut context = Context::from_waker(Waker::noop());
        let mut polls = 0;
        while !tasks.is_empty() {
            let task = chance.u64(..tasks.len() as u64) as usize;
            // A few steps of one in a row, or of all in turn.
            for _ in 0..=chance.u64(..6) {
                if tasks[task].as_mut().poll(&mut context).is_ready() {
                    drop(tasks.swap_remove(task));
                    break;
                }
            }
            polls += 1;
            if polls % 7 == 0 {
                block_on(world.check());
            }
            assert!(polls < 1_000_000, "they wait for each other");
        }
        drop(tasks);
        let there = process.known.into_values().filter_map(|known| known.into_inner()).count();
        branches += there - 1;
        deleted += NAMES.len() - there;
        block_on(world.settle());
    }
    assert!(branches > 60 && deleted > 20, "{branches} branches, {deleted} names that are free");
}
