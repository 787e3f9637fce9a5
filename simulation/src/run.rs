//! A run: processes one after the other, each living until the schedule ends it.

use std::sync::Arc;

use dormouse_shard::error::Error;
use dormouse_shard::keyspace::Eviction;
use dormouse_types::segment::SLOTS;
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::task::{JoinHandle, yield_now};

use crate::book::Book;
use crate::chance::Chance;
use crate::client;
use crate::clock;
use crate::disk::{Disk, Rates};
use crate::features::{Extras, Features};
use crate::node::{self, Node};
use crate::plan::{Action, Limit, Plan};
use crate::state;

/// Limit of batches under way at once.
const CLIENTS_MAX: usize = 8;
/// Bytes by which a database may exceed its limit: its tables grow in steps, and loading does not ask for room.
const SLACK_BYTES: usize = 4_000;
/// Limit of the tables of one more shard, in bytes. No command has asked for this room.
const SHARD_BYTES: usize = 7_000;
/// Parts that a database is cut into so that its manifests have pages.
const PARTS: u16 = 48;
/// Turns after which unfinished tasks are taken to be stuck.
const TURNS_MAX: usize = 20_000;
/// Limit of keys that could still be dropped when a command is refused for want of memory: the command may itself be
/// too large for the rest.
const DROPPABLE_MAX: usize = 20;
/// Expired keys removed at a time.
const EXPIRE_KEYS: usize = 20;

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

struct Schedule {
    chance: Chance,
    plan: Plan,
    extras: Extras,
    disk: Arc<Disk>,
    book: Arc<Mutex<Book>>,
    steps_left: u64,
    processes: u64,
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
    let disk = Disk::new(Chance::new(chance.draw()), Rates::default(), plan.is_folder);
    disk.with(|state| state.trace.loud = loud);
    disk.note(format!("{plan:?}, {features:?}"));
    let book = Arc::new(Mutex::new(Book::new(&disk, plan.seeds.len())));
    let steps_left = plan.steps;
    let mut schedule = Schedule { chance, plan, extras, disk, book, steps_left, processes: 0 };
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
            let runtime = runtime();
            let node = runtime.block_on(self.start(before))?;
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
            drop(node);
            drop(runtime);
            self.disk.crash();
            // After an orderly close, a power cut has nothing left to take.
            if self.chance.permille(600) {
                self.disk.note("power cut".into());
                self.disk.cut_power();
            }
            if end == End::Over {
                break;
            }
        }
        let runtime = runtime();
        let node = runtime.block_on(self.start(before))?;
        runtime.block_on(self.compare(&node))
    }

    /// Starts a process. `before`: the durable position of the previous one's log, whose remains are checked.
    async fn start(&mut self, before: Option<u64>) -> Result<Node, String> {
        let found = node::look(&self.disk, &self.plan).await.map_err(|problem| format!("what is left: {problem}"))?;
        self.processes += 1;
        let writer = self.chance.draw();
        self.disk.note(format!("process {} begins, writer {writer:016x}", self.processes));
        let node = Node::start(&self.disk, &self.plan, writer).await?;
        self.listen(&node);
        if let Some(flushed) = before {
            let found = found.into_iter().zip(node.sequences()).collect();
            self.book.lock().check(found, flushed)?;
        }
        if self.chance.permille(300) {
            self.compare(&node).await?;
        }
        self.book.lock().is_open = true;
        Ok(node)
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

    /// A client that watches keys, thinks for a while, and then runs a transaction or discards it.
    fn transact(&mut self, node: &Node, at: usize, seed: u64) -> JoinHandle<()> {
        let (keys, asked, turns) = self.extras.transaction(&self.plan.scripts[at]);
        let (database, book, disk) = (Arc::clone(&node.databases[at]), Arc::clone(&self.book), Arc::clone(&self.disk));
        let limit = self.plan.limits[at];
        tokio::spawn(async move {
            let watched = match client::watch(&database, at, keys, seed, &book).await {
                Ok(watched) => watched,
                Err(error) => return excuse(&disk, &book, "a watch", &error),
            };
            for _ in 0..turns {
                yield_now().await;
            }
            let Some(asked) = asked else { return disk.note(format!("{seed:016x} discards")) };
            match client::run(&database, at, &asked, seed, &book, Some(&watched)).await {
                Ok(Ok(replies)) => disk.note(format!("{seed:016x} was answered: {} replies", replies.len())),
                Ok(Err(error)) | Err(error @ Error::OutOfMemory) if error == Error::OutOfMemory => {
                    refuse(&disk, &book, at, limit);
                }
                Ok(Err(error)) => disk.note(format!("{seed:016x} was refused: {error}")),
                Err(error) => excuse(&disk, &book, "a transaction", &error),
            }
        })
    }

    /// Compares the memory with the models.
    async fn compare(&self, node: &Node) -> Result<(), String> {
        for (at, database) in node.databases.iter().enumerate() {
            let found = state::awake(database).await.map_err(|error| format!("database {at}: {error}"))?;
            compare(&self.book.lock(), at, &found)?;
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
        self.settle(node, tasks).await?;
        Ok(if self.disk.with(|state| state.dead) { End::Crash } else { End::Over })
    }

    /// Checks that no database exceeds its limit of memory by more than its slack.
    fn weigh(&self, node: &Node) -> Result<(), String> {
        for (at, database) in node.databases.iter().enumerate() {
            let used = database.used_bytes();
            let shards = database.topology_guard().as_ref().map_or(0, |topology| topology.shards.len());
            let slack = SLACK_BYTES + shards.saturating_sub(1) * SHARD_BYTES;
            if let Some(limit) = self.plan.limits[at].filter(|limit| used > limit.bytes + slack) {
                return Err(format!("database {at} takes {used} bytes under {limit:?}"));
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

    /// Cuts a database so often that its manifests have pages.
    fn cut(&self, node: &Node, at: usize) -> JoinHandle<()> {
        let (database, book, disk) = (Arc::clone(&node.databases[at]), Arc::clone(&self.book), Arc::clone(&self.disk));
        tokio::spawn(async move {
            if let Err(error) = database.awake().await {
                return excuse(&disk, &book, "a wake", &error);
            }
            for part in 1..PARTS {
                if let Err(error) = database.split(part * (SLOTS / PARTS)).await {
                    return excuse(&disk, &book, "a cut", &error);
                }
            }
            disk.note(format!("database {at} is cut into {PARTS} parts"));
        })
    }

    fn ask(&self, node: &Node, at: usize, asked: Vec<crate::script::Asked>, seed: u64) -> JoinHandle<()> {
        let (database, book, disk) = (Arc::clone(&node.databases[at]), Arc::clone(&self.book), Arc::clone(&self.disk));
        let limit = self.plan.limits[at];
        tokio::spawn(async move {
            match client::run(&database, at, &asked, seed, &book, None).await {
                Ok(Ok(replies)) => {
                    disk.note(format!("answered: {} replies of database {at}", replies.len()));
                    let halfway = replies.iter().find(|reply| reply.contains("was not in memory"));
                    halfway.into_iter().for_each(|reply| book.lock().fail(reply.clone()));
                }
                Ok(Err(error)) | Err(error @ Error::OutOfMemory) if error == Error::OutOfMemory => {
                    refuse(&disk, &book, at, limit);
                }
                Ok(Err(error)) => disk.note(format!("refused: {error}")),
                Err(error) => excuse(&disk, &book, "a command", &error),
            }
        })
    }

    async fn act(&mut self, action: Action, node: &Node, tasks: &mut Vec<(Action, JoinHandle<()>)>) {
        let at = self.chance.below(node.databases.len() as u64) as usize;
        let database = Arc::clone(&node.databases[at]);
        let (book, disk) = (Arc::clone(&self.book), Arc::clone(&self.disk));
        let draw = self.chance.draw();
        let running = |which: Action| tasks.iter().filter(|(action, _)| *action == which).count();
        match action {
            Action::Ask => {
                if running(Action::Ask) < CLIENTS_MAX {
                    let mut asked = self.plan.scripts[at].batch(&mut self.chance);
                    self.extras.add_to(&mut asked, &self.plan.scripts[at]);
                    tasks.push((action, self.ask(node, at, asked, draw)));
                }
            }
            Action::Transact => {
                if running(Action::Transact) < CLIENTS_MAX {
                    tasks.push((action, self.transact(node, at, draw)));
                }
            }
            Action::Evict => {
                if running(action) > 0 {
                    return;
                }
                tasks.push((
                    action,
                    tokio::spawn(async move {
                        for chore in database.chores() {
                            while database.work_at(&chore).await {
                                yield_now().await;
                            }
                        }
                    }),
                ));
            }
            Action::Go => {
                for _ in 0..1 + draw % 12 {
                    yield_now().await;
                }
            }
            Action::Flush => {
                let outcome = node.log.flush();
                let end = node.flushed();
                let failed = outcome.err().map(|error| format!(", {error}")).unwrap_or_default();
                disk.note(format!("flush: durable up to {end}{failed}"));
                if draw.is_multiple_of(3)
                    && let Ok(removed @ 1..) = node.log.remove_settled()
                {
                    disk.note(format!("{removed} log files removed"));
                }
            }
            Action::Answer => {
                disk.answer_one();
            }
            Action::Checkpoint | Action::Sleep => {
                if running(action) > 1 {
                    return;
                }
                disk.note(format!("{action:?} of database {at}"));
                tasks.push((
                    action,
                    tokio::spawn(async move {
                        let begun = book.lock().batches();
                        let done = match action {
                            Action::Sleep => database.sleep().await.map(|slept| format!("{slept:?}")),
                            _ => database.checkpoint().await.map(|report| format!("{report:?}")),
                        };
                        match done {
                            Ok(report) => {
                                book.lock().cover(at, begun);
                                disk.note(format!("{action:?} of database {at} after batch {begun}: {report}"));
                            }
                            Err(error) => excuse(&disk, &book, "a checkpoint", &error),
                        }
                    }),
                ));
            }
            Action::Split | Action::Merge | Action::LoadAll => {
                if running(action) > 1 {
                    return;
                }
                disk.note(format!("{action:?} of database {at}"));
                // If a database is cut at few slots, cut places are merged again.
                let chosen = (draw % 16384) as u16;
                let slot = chosen & if self.extras.features.full_disk { !0xfff } else { !0 };
                tasks.push((
                    action,
                    tokio::spawn(async move {
                        let done = match action {
                            Action::Split => database.split(slot).await.map(drop),
                            Action::Merge => {
                                let firsts = database.topology().map(|topology| topology.firsts.clone());
                                let firsts = firsts.unwrap_or_else(|| vec![0]);
                                database.merge(firsts[usize::from(chosen) % firsts.len()]).await.map(drop)
                            }
                            _ => database.load_all().await,
                        };
                        match done {
                            Ok(()) => disk.note(format!("{action:?} of database {at} done")),
                            Err(error) => excuse(&disk, &book, "a change of shards", &error),
                        }
                    }),
                ));
            }
            Action::Expire => database.expire_slice(EXPIRE_KEYS),
            Action::Wait => clock::advance(1 + draw % [10, 200, 1500][(draw >> 32) as usize % 3]),
            Action::Declare => {
                let window = self.plan.choices[draw as usize % self.plan.choices.len()];
                disk.note(format!("loss window {window} for database {at}"));
                self.plan.windows[at] = window;
                database.shared.journal.declare(window);
                book.lock().declare(at, node.log.end());
                let journal = &database.shared.journal;
                if database.is_awake() && window != dormouse_storage::log::Window::None && !journal.is_covered() {
                    tasks.push((
                        action,
                        tokio::spawn(async move {
                            let begun = book.lock().batches();
                            match database.checkpoint().await {
                                Ok(_) => book.lock().cover(at, begun),
                                Err(error) => excuse(&disk, &book, "a checkpoint", &error),
                            }
                        }),
                    ));
                }
            }
            Action::Compare => {
                if running(action) > 0 {
                    return;
                }
                tasks.push((
                    action,
                    tokio::spawn(async move {
                        match state::awake(&database).await {
                            Ok(found) => {
                                let mut book = book.lock();
                                if book.is_open
                                    && let Err(problem) = compare(&book, at, &found)
                                {
                                    book.fail(problem);
                                }
                            }
                            Err(error) => excuse(&disk, &book, "a load", &error),
                        }
                    }),
                ));
            }
            Action::Fill => {
                let is_full = disk.with(|state| {
                    state.is_full = !state.is_full;
                    state.is_full
                });
                disk.note(format!("the disk is {}", if is_full { "full" } else { "not full any more" }));
            }
            Action::Crash | Action::Restart => {}
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

fn compare(book: &Book, at: usize, found: &crate::model::Model) -> Result<(), String> {
    let expected = book.live(at).alive(clock::now_ms());
    if *found == expected {
        return Ok(());
    }
    let all = expected.keys.keys().chain(found.keys.keys());
    let key = all.into_iter().find(|key| expected.keys.get(*key) != found.keys.get(*key));
    let pair = key.map(|key| (key, expected.keys.get(key), found.keys.get(key)));
    Err(format!("database {at} in memory is not as the model: key, model, memory: {pair:?}"))
}

/// Checks a command's refusal for want of memory: the database must have a limit, and nothing that may be dropped.
fn refuse(disk: &Disk, book: &Mutex<Book>, at: usize, limit: Option<Limit>) {
    disk.note(format!("refused for want of memory by database {at}"));
    let mut book = book.lock();
    let droppable = match limit.map(|limit| limit.policy) {
        None => usize::MAX,
        Some(Eviction::NoEviction) => 0,
        Some(Eviction::AllKeysLru | Eviction::AllKeysRandom) => book.live(at).keys.len(),
        Some(_) => book.live(at).keys.values().filter(|entry| entry.expiry.is_some()).count(),
    };
    if book.is_open && droppable > DROPPABLE_MAX {
        book.fail(format!("a command was refused at {limit:?}, though {droppable} keys could be dropped"));
    }
}

/// Checks an error: it must be due to a fault of the disk.
fn excuse(disk: &Disk, book: &Mutex<Book>, what: &str, error: &Error) {
    disk.note(format!("{what} failed: {error}"));
    // While the log is behind, nothing may be dropped for room.
    if error.to_string().starts_with("MISCONF the log is") {
        return;
    }
    let is_excused = disk.with(|state| state.faults > 0 || state.dead);
    let mut book = book.lock();
    if book.is_open && (!is_excused || error.to_string().contains("panicked")) {
        let is_closed = error.to_string().contains("shutting down");
        if !is_closed {
            book.fail(format!("{what} failed without a cause: {error}"));
        }
    }
}

/// Removes the finished tasks.
async fn reap(tasks: &mut Vec<(Action, JoinHandle<()>)>) -> Result<(), String> {
    let mut at = 0;
    while at < tasks.len() {
        if tasks[at].1.is_finished() {
            let (action, task) = tasks.remove(at);
            task.await.map_err(|error| format!("{action:?}: {error}"))?;
        } else {
            at += 1;
        }
    }
    Ok(())
}
