//! Processes that want the same store: several at once on one disk of objects, started and killed at any moment.
//!
//! 1. Each process has a thread, and waits with each request to the store until the schedule answers it. The schedule
//!    chooses only when all of them wait: so one thread runs at a time, and the same seed gives the same run.
//! 2. A step of the schedule answers one request of one process (done, or done with the answer lost), starts another
//!    process, or kills one, whose request is then carried out or not.
//! 3. A process takes the store, opens the database and then counts: a batch increments a counter and sets a key of its
//!    own, with loss window 0. In between it makes checkpoints, puts the database to sleep, wakes it for a read.
//! 4. The checks: no two acknowledgements, of any processes, have the same count. A read that woke the database knows
//!    every count that was acknowledged before it. At the end a last process finds every acknowledged key.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::{fmt, io};

use async_trait::async_trait;
use bytes::Bytes;
use dormouse_shard::database::Database;
use dormouse_shard::execution::{self, Ended, Plan, Step, Turn};
use dormouse_storage::log::sink::Objects;
use dormouse_storage::log::{Log, Window};
use dormouse_storage::store::{MasterKey, Store, StoreError};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use tokio::runtime::Builder;

use crate::chance::Chance;
use crate::client;
use crate::clock;
use crate::node::engine;
use crate::run::Outcome;
use crate::script::Asked;
use crate::trace::Trace;

const DATABASE: &str = "a";
/// Limit of processes that live at once.
const LIVING_MAX: usize = 3;
/// Steps of a run: the minimum, and the limit of a random addition. A process that asks for more would never end.
const STEPS: (u64, u64) = (100, 900);
/// Limit of attempts at a flush.
const FLUSHES: usize = 4;

/// A process's message to the schedule.
enum Event {
    /// The process waits for an answer.
    Asks(String),
    Ended(String),
}

/// An event with its process.
type Told = (u64, Event);

/// The schedule's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grant {
    Done,
    /// The request is done, yet an error is reported.
    Unanswered,
    /// The process dies before the request is done, or after.
    Killed {
        done: bool,
    },
}

/// The acknowledgements of all processes.
#[derive(Default)]
struct Book {
    /// Each count, with the process that acknowledged it.
    counts: BTreeMap<i64, u64>,
    keys: Vec<String>,
    failure: Option<String>,
}

/// A process's access to the store.
struct Desk {
    process: u64,
    objects: Arc<InMemory>,
    events: Sender<Told>,
    grants: Mutex<Receiver<(Grant, u64)>>,
    dead: OnceLock<()>,
    is_encrypted: bool,
}

impl Desk {
    /// Waits for the schedule, and carries out the request if told so.
    fn ask<T>(&self, what: &str, name: &str, request: impl FnOnce() -> Result<T>) -> Result<T> {
        let gone = || Err(failure(io::ErrorKind::BrokenPipe));
        if self.dead.get().is_some() || self.events.send((self.process, Event::Asks(format!("{what} {name}")))).is_err()
        {
            return gone();
        }
        let Ok((grant, now_ms)) = self.grants.lock().recv() else { return gone() };
        clock::set(now_ms);
        match grant {
            Grant::Done => request(),
            Grant::Unanswered => {
                drop(request()?);
                Err(failure(io::ErrorKind::TimedOut))
            }
            Grant::Killed { done } => {
                let _ = self.dead.set(());
                if done {
                    drop(request());
                }
                gone()
            }
        }
    }

    fn is_dead(&self) -> bool {
        self.dead.get().is_some()
    }
}

fn failure(kind: io::ErrorKind) -> Error {
    Error::Generic { store: "simulation", source: Box::new(io::Error::from(kind)) }
}

/// Returns the outcome of a future over memory, which never waits.
fn now<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    future.now_or_never().unwrap_or_else(|| Err(failure(io::ErrorKind::WouldBlock)))
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("process", &self.process).finish_non_exhaustive()
    }
}

impl fmt::Display for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulation")
    }
}

/// A shared desk, since `ObjectStore` needs an owned value.
#[derive(Debug, Clone)]
struct SharedDesk(Arc<Desk>);

impl fmt::Display for SharedDesk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for SharedDesk {
    async fn put_opts(&self, location: &Path, payload: PutPayload, _: PutOptions) -> Result<PutResult> {
        let bytes = Bytes::from(payload);
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let desk = &self.0;
        desk.ask("put", location.as_ref(), || now(desk.objects.put_opts(location, bytes.into(), options)))
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(failure(io::ErrorKind::Unsupported))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.ask("get", location.as_ref(), || now(self.0.objects.get_opts(location, options)))
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let desk = Arc::clone(&self.0);
        let delete = move |location: Result<Path>| {
            let desk = Arc::clone(&desk);
            async move {
                let location = location?;
                desk.ask("delete", location.as_ref(), || now(desk.objects.delete(&location)))?;
                Ok(location)
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let name = prefix.map(ToString::to_string).unwrap_or_default();
        let list = || now(self.0.objects.list(prefix).collect::<Vec<_>>().map(Ok));
        let found = self.0.ask("list", &name, list).unwrap_or_else(|error| vec![Err(error)]);
        futures::stream::iter(found).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let name = prefix.map(ToString::to_string).unwrap_or_default();
        self.0.ask("list folders of", &name, || now(self.0.objects.list_with_delimiter(prefix)))
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(failure(io::ErrorKind::Unsupported))
    }
}

/// A process that has the store.
struct Process {
    desk: Arc<Desk>,
    log: Arc<Log>,
    database: Arc<Database>,
}

/// The reason that a process could not start.
enum Refused {
    /// Another process has the store, or the store gave no answer.
    Excused(String),
    Fault(String),
}

impl Process {
    async fn start(desk: &Arc<Desk>, writer: u64) -> std::result::Result<Self, Refused> {
        let store = Store::over(Arc::new(SharedDesk(Arc::clone(desk))), "simulation://");
        let excused = |error: StoreError| Refused::Excused(error.to_string());
        let store = match desk.is_encrypted {
            true => store.encrypted(&MasterKey::of_bytes([7; 32])).await.map_err(excused)?,
            false => store,
        };
        let store = Arc::new(store);
        let objects = Objects::take(Arc::clone(&store), writer, clock::now_ms).map_err(excused)?;
        let (log, recovered) = Log::over(Box::new(objects), writer, clock::now_ms).map_err(|error| {
            let is_passing = error.is_taken() || matches!(error, StoreError::Unavailable { .. });
            if is_passing { excused(error) } else { Refused::Fault(format!("the log cannot be opened: {error}")) }
        })?;
        let database = Database::open(DATABASE, 7, engine(store, writer, &log, recovered)).await;
        database.shared.journal.declare(Window::Zero);
        Ok(Self { desk: Arc::clone(desk), log, database })
    }

    /// Runs a batch. Returns its replies, and the end of its entry in the log. None: the database cannot be used.
    async fn run(&self, batch: &[&[&str]]) -> std::result::Result<(Vec<String>, u64), String> {
        let asked =
            batch.iter().map(|words| Asked { select: 0, words: words.iter().map(|&word| word.into()).collect() });
        let mut plan = Plan::new(clock::now_ms(), 1);
        plan.steps.extend(asked.map(|asked| Step::Command(client::prepare(&asked))));
        let outcome = execution::run(&self.database, &Arc::new(plan), &Arc::new(Turn::endless(None))).await;
        let outcome = outcome.map_err(|error| error.to_string())?;
        match outcome.ended {
            Ended::Refused(error) => Err(error.to_string()),
            Ended::Done | Ended::Changed | Ended::Repeated => Ok((client::replies(&outcome), outcome.left.written)),
        }
    }

    async fn count(&self, at: u64, book: &Mutex<Book>) -> std::result::Result<(), String> {
        let key = format!("p{}:{at}", self.desk.process);
        let (replies, end) = self.run(&[&["INCR", "counter"], &["SET", &key, "1"]]).await?;
        for _ in 0..FLUSHES {
            // The durable position reveals an error.
            let _ = self.log.flush();
            if self.log.flushed() >= end || self.log.is_sealed() || self.desk.is_dead() {
                break;
            }
        }
        if self.log.flushed() < end {
            return Err("it could not be made durable".into());
        }
        let count = number(&replies[0]).ok_or("the counter holds no number")?;
        let mut book = book.lock();
        if let Some(other) = book.counts.insert(count, self.desk.process) {
            let process = self.desk.process;
            book.failure.get_or_insert(format!("count {count} was acknowledged by process {other} and by {process}"));
        }
        book.keys.push(key);
        Ok(())
    }

    /// Reads the counter of a sleeping database.
    async fn read_awaking(&self, book: &Mutex<Book>) -> std::result::Result<(), String> {
        self.database.sleep().await.map_err(|error| error.to_string())?;
        // Other processes may count while the database sleeps.
        let store = &self.database.engine.store;
        store
            .size("nothing")
            .await
            .map(drop)
            .or_else(|error| if error.is_missing() { Ok(()) } else { Err(error.to_string()) })?;
        let known = book.lock().counts.keys().next_back().copied().unwrap_or(0);
        let (replies, _) = self.run(&[&["GET", "counter"]]).await?;
        let found = number(replies[0].split_once("\r\n").map_or("", |(_, rest)| rest)).unwrap_or(0);
        if found < known {
            let process = self.desk.process;
            let text = format!("process {process} woke the database and read {found}; {known} was acknowledged before");
            book.lock().failure.get_or_insert(text);
        }
        Ok(())
    }

    async fn live(&self, chance: &mut Chance, book: &Mutex<Book>) -> std::result::Result<(), String> {
        let steps = 3 + chance.below(60);
        for at in 0..steps {
            if self.desk.is_dead() {
                return Err("killed".into());
            }
            match chance.below(12) {
                0 => drop(self.database.checkpoint().await.map_err(|error| error.to_string())?),
                1 => self.read_awaking(book).await?,
                2 => drop(self.log.remove_settled()),
                _ => self.count(at, book).await?,
            }
        }
        self.database.close().await.map_err(|error| error.to_string())?;
        self.log.finish().map_err(|error| error.to_string())
    }
}

/// Returns a number in a reply, with or without its colon.
fn number(reply: &str) -> Option<i64> {
    reply.trim_start_matches(':').trim_end().parse().ok()
}

/// Runs the life of one process, on its thread.
fn life(desk: &Arc<Desk>, seed: u64, now_ms: u64, book: &Mutex<Book>) -> String {
    clock::set(now_ms);
    let mut chance = Chance::new(seed);
    let runtime = Builder::new_current_thread().build().expect("a runtime without drivers needs nothing");
    runtime.block_on(async {
        match Process::start(desk, chance.draw().max(1)).await {
            Ok(process) => match process.live(&mut chance, book).await {
                Ok(()) => "ended in order".into(),
                Err(problem) => format!("ended: {problem}"),
            },
            Err(Refused::Excused(problem)) => format!("did not start: {problem}"),
            Err(Refused::Fault(problem)) => {
                if !desk.is_dead() {
                    book.lock().failure.get_or_insert(problem.clone());
                }
                problem
            }
        }
    })
}

struct Living {
    process: u64,
    grants: Sender<(Grant, u64)>,
    /// The request that it waits for.
    asks: Option<String>,
    thread: JoinHandle<()>,
}

struct Schedule {
    chance: Chance,
    is_encrypted: bool,
    objects: Arc<InMemory>,
    book: Arc<Mutex<Book>>,
    /// The events of all processes.
    events: (Sender<Told>, Receiver<Told>),
    living: Vec<Living>,
    processes: u64,
    trace: Trace,
}

impl Schedule {
    fn start(&mut self) {
        self.processes += 1;
        let (process, seed, now_ms) = (self.processes, self.chance.draw(), clock::now_ms());
        self.trace.note(format!("process {process} begins"));
        let (grants, granted) = channel();
        let desk = Arc::new(Desk {
            process,
            objects: Arc::clone(&self.objects),
            events: self.events.0.clone(),
            grants: Mutex::new(granted),
            dead: OnceLock::new(),
            is_encrypted: self.is_encrypted,
        });
        let book = Arc::clone(&self.book);
        let thread = std::thread::spawn(move || {
            let lived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| life(&desk, seed, now_ms, &book)));
            let ended = lived.unwrap_or_else(|_| {
                book.lock().failure.get_or_insert(format!("process {process} panicked"));
                "panicked".into()
            });
            // The schedule waits for this event.
            let _ = desk.events.send((process, Event::Ended(ended)));
        });
        self.living.push(Living { process, grants, asks: None, thread });
        self.settle();
    }

    /// Waits until every process waits.
    fn settle(&mut self) {
        while self.living.iter().any(|living| living.asks.is_none()) {
            let Ok((process, event)) = self.events.1.recv() else { return };
            let Some(at) = self.living.iter().position(|living| living.process == process) else { continue };
            match event {
                Event::Asks(what) => self.living[at].asks = Some(what),
                Event::Ended(how) => {
                    self.trace.note(format!("process {process} {how}"));
                    // The process has sent its last event.
                    let _ = self.living.remove(at).thread.join();
                }
            }
        }
    }

    fn answer(&mut self, at: usize, grant: Grant) {
        let Some(asked) = self.living[at].asks.take() else { return };
        self.trace.note(format!("{}: {asked}: {grant:?}", self.living[at].process));
        // A process that has ended has said so.
        let _ = self.living[at].grants.send((grant, clock::now_ms()));
        self.settle();
    }

    fn run(&mut self) {
        let steps = STEPS.0 + self.chance.below(STEPS.1);
        // Times in a thousand steps that a process starts, is killed, gets no answer.
        let (starts, kills) = (self.chance.pick(&[5, 20, 60]), self.chance.pick(&[2, 10, 30]));
        let lost = self.chance.pick(&[0, 0, 10]);
        self.start();
        if self.chance.permille(500) {
            self.start();
        }
        for _ in 0..steps {
            if self.book.lock().failure.is_some() {
                break;
            }
            clock::advance(self.chance.below(20));
            if self.living.is_empty() || self.living.len() < LIVING_MAX && self.chance.permille(starts) {
                self.start();
                continue;
            }
            let at = self.chance.below(self.living.len() as u64) as usize;
            let grant = match self.chance.below(1000) {
                draw if draw < kills => Grant::Killed { done: self.chance.permille(500) },
                draw if draw < kills + lost => Grant::Unanswered,
                _ => Grant::Done,
            };
            self.answer(at, grant);
        }
        while !self.living.is_empty() {
            let done = self.chance.permille(500);
            self.answer(0, Grant::Killed { done });
        }
    }

    /// Starts one more process, which must find the acknowledged writes.
    fn check(&self) -> std::result::Result<(), String> {
        let (events, _kept) = channel();
        let (grants, granted) = channel();
        let desk = Arc::new(Desk {
            process: 0,
            objects: Arc::clone(&self.objects),
            events,
            grants: Mutex::new(granted),
            dead: OnceLock::new(),
            is_encrypted: self.is_encrypted,
        });
        // More requests than a process may need.
        for _ in 0..200_000 {
            // The process cannot have ended yet.
            let _ = grants.send((Grant::Done, clock::now_ms()));
        }
        let runtime = Builder::new_current_thread().build().expect("a runtime without drivers needs nothing");
        let keys = self.book.lock().keys.clone();
        let most = self.book.lock().counts.keys().next_back().copied().unwrap_or(0);
        runtime.block_on(async {
            let process = match Process::start(&desk, u64::MAX).await {
                Ok(process) => process,
                Err(Refused::Excused(problem) | Refused::Fault(problem)) => {
                    return Err(format!("the last process cannot start: {problem}"));
                }
            };
            let refused = |problem| format!("the last process cannot use the database: {problem}");
            let (replies, _) = process.run(&[&["GET", "counter"]]).await.map_err(refused)?;
            let found = number(replies[0].split_once("\r\n").map_or("", |(_, rest)| rest)).unwrap_or(0);
            if found < most {
                return Err(format!("the counter is {found}; {most} was acknowledged"));
            }
            for key in keys {
                let (replies, _) = process.run(&[&["EXISTS", &key]]).await.map_err(refused)?;
                if replies[0] != ":1\r\n" {
                    return Err(format!("`{key}` was acknowledged and is lost"));
                }
            }
            Ok(())
        })
    }
}

/// Runs the schedule of a seed. `loud`: every step goes to standard error.
pub fn run(seed: u64, loud: bool) -> Outcome {
    clock::set(clock::START_MS);
    let mut schedule = Schedule {
        chance: Chance::new(seed ^ 0x5eed_0000_0000_0000),
        is_encrypted: seed.is_multiple_of(3),
        objects: Arc::new(InMemory::new()),
        book: Arc::default(),
        events: channel(),
        living: Vec::new(),
        processes: 0,
        trace: Trace::default(),
    };
    schedule.trace.loud = loud;
    schedule.run();
    let failure = schedule.book.lock().failure.take();
    let failure = failure.or_else(|| schedule.check().err());
    let acknowledged = schedule.book.lock().keys.len();
    schedule.trace.note(format!("{acknowledged} counts were acknowledged"));
    Outcome {
        hash: schedule.trace.hash(),
        steps: schedule.trace.steps(),
        processes: schedule.processes,
        failure,
        trace: schedule.trace.last(),
    }
}
