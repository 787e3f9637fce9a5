//! A run: processes one after the other, each living until the schedule ends it.

use std::sync::Arc;

use dormouse_shard::keyspace::Eviction;
use dormouse_shard::upkeep::Chore;
use dormouse_storage::manifest;
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::task::{JoinHandle, yield_now};

use crate::backups::Backups;
use crate::book::{Book, Served};
use crate::chance::Chance;
use crate::clock;
use crate::damage::Damage;
use crate::disk::{Disk, Rates};
use crate::features::{Extras, Features};
use crate::model::Model;
use crate::node::{self, Node};
use crate::plan::{Action, Plan};
use crate::state;
use crate::verdict::{compare, reap};

/// Bytes by which a database may exceed its limit for a while: its tables grow in steps, and loading does not ask for
/// room, not even for the table of one more index. When eviction has done all it can, nothing may exceed the limit.
const SLACK_BYTES: usize = 8_000;
/// Limit of the tables of one more shard, in bytes. No command has asked for this room. A merge keeps them.
const SHARD_BYTES: usize = 8_000;
/// A sweep may leave keys that have expired so recently, in milliseconds.
const STALE_MS: u64 = 1_000;
/// Turns after which unfinished tasks are taken to be stuck.
const TURNS_MAX: usize = 20_000;
/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// Hash over every step.
    pub hash: u64,
    pub steps: u64,
    /// Processes that lived.
    pub processes: u64,
    pub failure: Option<String>,
    /// The last steps.
    pub trace: String,
}

/// The end of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Crash,
    /// The process was told to end. The value says whether all went well.
    Closed(bool),
    /// The run is over.
    Over,
}

/// The decisions of a run so far, and what they follow from.
pub struct Schedule {
    pub chance: Chance,
    pub plan: Plan,
    pub extras: Extras,
    pub disk: Arc<Disk>,
    pub book: Arc<Mutex<Book>>,
    /// The most shards that each database has had. Its places stay apart when shards merge.
    shards_max: Vec<usize>,
    steps_left: u64,
    processes: u64,
    backups: Backups,
}

/// Runs the schedule of a seed with some features. `loud`: every step goes to standard error.
pub fn run(seed: u64, features: Features, loud: bool) -> Outcome {
    clock::set(clock::START_MS);
    let mut chance = Chance::new(seed);
    let mut plan = Plan::new(&mut chance);
    // The values of these features are large enough already.
    plan.is_in_pieces &= !features.large_values && !features.pages;
    let mut extras = Extras::new(seed, features);
    extras.prepare(&mut plan);
    let disk = Disk::new(Chance::new(chance.draw()), Rates::default(), plan.is_folder, plan.is_encrypted);
    disk.with(|state| state.trace.loud = loud);
    disk.note(format!("{plan:?}, {features:?}"));
    let book = Arc::new(Mutex::new(Book::new(&disk, plan.seeds.len())));
    let steps_left = plan.steps;
    let shards_max = vec![0; plan.seeds.len()];
    let backups = Backups::new(Chance::new(seed.rotate_left(52)));
    let mut schedule = Schedule { chance, plan, extras, disk, book, shards_max, steps_left, processes: 0, backups };
    if let Err(problem) = schedule.run() {
        schedule.book.lock().fail(problem);
    }
    let failure = schedule.book.lock().failure.take();
    schedule.disk.with(|state| Outcome {
        hash: state.trace.hash(),
        steps: state.trace.steps(),
        processes: schedule.processes,
        failure,
        trace: state.trace.last(),
    })
}

/// Returns a runtime of one thread. A task's turn ends at each point where it could wait, and the schedule goes on
/// after each.
fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.event_interval(1).build().expect("a runtime without drivers needs nothing")
}

impl Schedule {
    fn run(&mut self) -> Result<(), String> {
        let mut before = None;
        loop {
            let (mut runtime, mut node) = self.begin(before)?;
            if let Some(seed) = self.extras.damages() {
                // The process above has only looked at what is left.
                drop((node, runtime));
                self.disk.crash();
                (runtime, node) = self.begin_damaged(seed)?;
            }
            let end = runtime.block_on(self.live(&node))?;
            if let Some(failure) = self.book.lock().failure.take() {
                return Err(failure);
            }
            let flushed = node.flushed();
            before = Some(flushed);
            {
                let mut book = self.book.lock();
                book.is_open = false;
                self.disk.note(format!("{end:?}: {flushed} bytes of the log are durable"));
            }
            drop((node, runtime));
            self.disk.crash();
            if let Some(damage) = self.book.lock().damage.take() {
                damage.heal(&self.disk);
            }
            // After an orderly close, a power cut has nothing left to take.
            if self.chance.permille(600) {
                self.disk.note("power cut".into());
                self.disk.cut_power();
            }
            if end == End::Over {
                break;
            }
        }
        let (runtime, node) = self.begin(before)?;
        runtime.block_on(self.compare(&node))
    }

    /// Starts a process on a runtime of its own.
    fn begin(&mut self, before: Option<u64>) -> Result<(Runtime, Node), String> {
        let runtime = runtime();
        let node = runtime.block_on(self.start(before))?;
        Ok((runtime, node))
    }

    /// Damages the disk and starts a process on it.
    fn begin_damaged(&mut self, seed: u64) -> Result<(Runtime, Node), String> {
        self.book.lock().is_open = false;
        let damage = Damage::new(&self.disk, &mut Chance::new(seed), self.plan.seeds.len());
        let runtime = runtime();
        let node = runtime.block_on(async {
            for at in 0..self.plan.seeds.len() {
                match node::look(&self.disk, node::name(at)).await {
                    Ok(found) => {
                        compare(&self.book.lock(), at, &found).map_err(|problem| format!("read: {problem}"))?
                    }
                    Err(_) if damage.as_ref().is_some_and(|damage| damage.concerns(at)) => {}
                    Err(error) => {
                        return Err(format!("database {at} suffers from damage that is not its own: {error}"));
                    }
                }
            }
            self.open().await
        })?;
        let mut book = self.book.lock();
        (book.damage, book.is_open) = (damage, true);
        drop(book);
        Ok((runtime, node))
    }

    /// Starts a process. `before`: the durable position of the previous one's log, whose remains are checked.
    async fn start(&mut self, before: Option<u64>) -> Result<Node, String> {
        let mut found = Vec::new();
        for at in 0..self.plan.seeds.len() {
            let looked = node::look(&self.disk, node::name(at)).await;
            found.push(looked.map_err(|problem| format!("what is left: {problem}"))?);
        }
        let branches = self.look_at_branches().await?;
        // The log of a folder has a twin here, which only a process finds.
        if self.extras.features.backups && !self.plan.is_folder {
            let named = found.iter().enumerate().map(|(at, found)| (node::name(at).to_owned(), found.clone()));
            let all: Vec<_> = named.chain(branches).collect();
            self.backups.check(&node::store(&self.disk).await?, &all).await?;
        }
        if self.extras.features.deletions {
            let store = node::store(&self.disk).await?;
            let keys = manifest::sweep_keys(&store, None).await;
            keys.map_err(|error| format!("keys of deleted branches: {error}"))?;
            let swept = manifest::sweep(&store, clock::now_ms()).await;
            swept.map_err(|error| format!("leftovers of deleted branches: {error}"))?;
        }
        let node = self.open().await?;
        if let Some(flushed) = before {
            let found = found.into_iter().zip(node.sequences()).collect();
            self.book.lock().check(found, flushed)?;
        }
        for (at, database) in node.databases.iter().enumerate() {
            self.book.lock().check_settings(at, database)?;
        }
        if self.chance.permille(300) {
            self.compare(&node).await?;
        }
        self.book.lock().is_open = true;
        Ok(node)
    }

    /// Opens everything as a new process.
    async fn open(&mut self) -> Result<Node, String> {
        self.processes += 1;
        self.book.lock().served = Served::default();
        let writer = self.chance.draw();
        self.disk.note(format!("process {} begins, writer {writer:016x}", self.processes));
        let node = Node::start(&self.disk, &self.plan, writer).await?;
        self.listen(&node);
        Ok(node)
    }

    /// Checks that each branch is as it was made. Returns them.
    async fn look_at_branches(&self) -> Result<Vec<(String, Model)>, String> {
        let mut all = Vec::new();
        let names: Vec<String> = self.book.lock().branches.names().collect();
        for name in names {
            let found = node::look(&self.disk, &name).await.map_err(|problem| format!("branch {name}: {problem}"))?;
            self.book.lock().branches.check(&name, &found)?;
            all.push((name, found));
        }
        Ok(all)
    }

    /// Tells the book about every key that a database removes by itself.
    fn listen(&self, node: &Node) {
        for (at, database) in node.databases.iter().enumerate() {
            let (book, limit) = (Arc::clone(&self.book), self.plan.limits[at]);
            let listen = move |event, select, key: &[u8]| {
                book.lock().removed(at, event, (select, String::from_utf8_lossy(key).into_owned()), limit);
            };
            // The cell is empty: this is the first listener.
            let _ = database.shared.listener.set(Box::new(listen));
        }
    }

    /// Compares the memory with the models.
    async fn compare(&self, node: &Node) -> Result<(), String> {
        for (at, database) in node.databases.iter().enumerate() {
            let found = state::awake(database).await.map_err(|error| format!("database {at}: {error}"))?;
            compare(&self.book.lock(), at, &found)?;
        }
        Ok(())
    }

    /// Removes expired keys, and compares the numbers of keys with the models.
    async fn count(&self, node: &Node) -> Result<(), String> {
        for (at, database) in node.databases.iter().enumerate() {
            let counted = |error| format!("database {at}: {error}");
            let now_ms = clock::now_ms();
            let since = now_ms - STALE_MS;
            state::counts(database, since).await.map_err(counted)?;
            // The first slice begins where the last one stopped, and ends at the end.
            (0..2).for_each(|_| database.expire_slice(usize::MAX));
            let counts = state::counts(database, since).await.map_err(counted)?;
            let live = self.book.lock().live(at).alive(now_ms);
            for (select, counts) in counts.into_iter().enumerate() {
                let alive = live.keys.keys().filter(|key| usize::from(key.0) == select).count();
                if counts.counted != counts.held || counts.held != alive + counts.stale {
                    return Err(format!("index {select} of database {at}: {alive} keys are alive, and {counts:?}"));
                }
            }
        }
        Ok(())
    }

    async fn live(&mut self, node: &Node) -> Result<End, String> {
        let rates = self.plan.rates;
        self.disk.with(|state| {
            state.rates = rates;
            state.at_once = false;
        });
        let mut tasks: Vec<(Action, JoinHandle<()>)> = Vec::new();
        if self.processes == 1 {
            self.fill(node, &mut tasks);
        }
        if self.extras.features.pages {
            (0..node.databases.len()).for_each(|at| tasks.push((Action::Split, self.cut(node, at))));
        }
        while self.steps_left > 0 {
            self.steps_left -= 1;
            if self.disk.with(|state| state.dead) {
                return Ok(End::Crash);
            }
            if self.book.lock().failure.is_some() {
                return Ok(End::Over);
            }
            reap(&mut tasks).await?;
            self.weigh(node)?;
            if let Some(action) = self.extras.action() {
                self.act(action, node, &mut tasks).await;
            }
            let action = self.plan.next(&mut self.chance);
            match action {
                Action::Crash => return Ok(End::Crash),
                Action::Restart => {
                    let begun = self.book.lock().batches();
                    self.disk.note("close".into());
                    let closed = self.finish(node, node.close(), &mut tasks).await?;
                    let Some(closed) = closed.filter(|_| !self.disk.with(|state| state.dead)) else {
                        return Ok(End::Crash);
                    };
                    if closed.is_ok() {
                        let mut book = self.book.lock();
                        let batches = book.batches();
                        // A database that already slept refuses the clients that came while another fell asleep.
                        (0..node.databases.len()).for_each(|at| book.cover(at, batches.max(begun)));
                    }
                    return Ok(End::Closed(closed.is_ok()));
                }
                action => self.act(action, node, &mut tasks).await,
            }
        }
        if self.book.lock().damage.is_some() {
            return Ok(End::Over);
        }
        self.settle(node, tasks).await?;
        Ok(if self.disk.with(|state| state.dead) { End::Crash } else { End::Over })
    }

    /// Checks that no database exceeds its limit of memory by more than its slack.
    fn weigh(&mut self, node: &Node) -> Result<(), String> {
        for (at, database) in node.databases.iter().enumerate() {
            let used = database.used_bytes();
            let shards = database.topology_guard().as_ref().map_or(0, |topology| topology.shards.len());
            self.shards_max[at] = self.shards_max[at].max(shards);
            let slack = SLACK_BYTES + self.shards_max[at].saturating_sub(1) * SHARD_BYTES;
            if let Some(limit) = self.plan.limits[at].filter(|limit| used > limit.bytes + slack) {
                return Err(format!("database {at} takes {used} bytes under {limit:?}"));
            }
        }
        Ok(())
    }

    /// Lets eviction do all it can, and checks that no database exceeds its limit then while it holds keys that may go.
    async fn make_room(&self, node: &Node) -> Result<(), String> {
        for (at, database) in node.databases.iter().enumerate() {
            let Some(limit) = self.plan.limits[at].filter(|limit| limit.policy != Eviction::NoEviction) else {
                continue;
            };
            for _ in 0..TURNS_MAX {
                let chores = database.chores();
                let Some(chore) = chores.iter().find(|chore| matches!(chore, Chore::Evict)) else { break };
                if !database.work_at(chore).await {
                    break;
                }
                node.log.flush().map_err(|error| format!("the log cannot be flushed: {error}"))?;
            }
            let used = database.used_bytes();
            let live = self.book.lock().live(at).alive(clock::now_ms());
            let is_left = live.keys.values().any(|entry| !limit.policy.is_volatile() || entry.expiry.is_some());
            if used > limit.bytes && is_left {
                return Err(format!("database {at} takes {used} bytes under {limit:?} when eviction has ended"));
            }
        }
        Ok(())
    }

    /// Waits for `future` while the store answers and the log is flushed, and eager clients continue. None: the process
    /// has died.
    async fn finish<T>(
        &mut self,
        node: &Node,
        future: impl Future<Output = T>,
        tasks: &mut Vec<(Action, JoinHandle<()>)>,
    ) -> Result<Option<T>, String> {
        let mut future = Box::pin(future);
        // Each of many places takes its turns, again and again if clients continue to write.
        let turns = if self.extras.features.pages { 10 * TURNS_MAX } else { TURNS_MAX };
        for _ in 0..turns {
            if let std::task::Poll::Ready(done) = futures::poll!(&mut future) {
                return Ok(Some(done));
            }
            if self.disk.with(|state| state.dead) {
                return Ok(None);
            }
            if self.extras.asks_to_the_end() {
                reap(tasks).await?;
                self.act(Action::Ask, node, tasks).await;
            }
            self.disk.answer_one();
            // The waiting tasks see the error.
            let _ = node.log.flush();
            yield_now().await;
        }
        Err("what should have ended did not".into())
    }

    fn fill(&mut self, node: &Node, tasks: &mut Vec<(Action, JoinHandle<()>)>) {
        for (at, script) in self.plan.scripts.iter().enumerate() {
            if self.chance.permille(700) {
                tasks.push((Action::Ask, self.ask(node, at, script.fill(), 1)));
            }
        }
    }

    /// Lets everything end on a disk without faults, and checks the state.
    async fn settle(&mut self, node: &Node, mut tasks: Vec<(Action, JoinHandle<()>)>) -> Result<(), String> {
        if self.disk.with(|state| state.dead) || self.book.lock().failure.is_some() {
            return Ok(());
        }
        self.disk.note("settle".into());
        self.disk.calm();
        for _ in 0..TURNS_MAX {
            if tasks.is_empty() {
                break;
            }
            node.log.flush().map_err(|error| format!("the log cannot be flushed: {error}"))?;
            yield_now().await;
            reap(&mut tasks).await?;
        }
        if let Some((action, _)) = tasks.first() {
            return Err(format!("{} tasks never end, {action:?} among them", tasks.len()));
        }
        if self.book.lock().failure.is_some() {
            return Ok(());
        }
        self.compare(node).await?;
        self.count(node).await?;
        self.make_room(node).await?;
        for (at, database) in node.databases.iter().enumerate() {
            if self.chance.permille(500) {
                let begun = self.book.lock().batches();
                let log = Arc::clone(&node.log);
                let sleep = tokio::spawn({
                    let database = Arc::clone(database);
                    async move { database.sleep().await }
                });
                for _ in 0..TURNS_MAX {
                    if sleep.is_finished() {
                        break;
                    }
                    log.flush().map_err(|error| format!("the log cannot be flushed: {error}"))?;
                    yield_now().await;
                }
                if !sleep.is_finished() {
                    return Err(format!("database {at} never falls asleep"));
                }
                sleep.await.map_err(|error| error.to_string())?.map_err(|error| format!("the last sleep: {error}"))?;
                self.book.lock().cover(at, begun);
                self.disk.note(format!("database {at} sleeps"));
            }
        }
        self.compare(node).await
    }
}
