//! Lanes: threads for work that would keep a worker from its other connections.
//!
//! The slow lane runs long commands, the loader reads places that clients wait for from the store, and the patient
//! lane, at a lower priority, does work that no client waits for. Reads of a local store happen on the lane's thread
//! itself: each change of thread would wait for a busy core.
//!
//! A lane is shared by all databases, and each database has a [`Queue`] of its own on it:
//!
//! 1. *Queue.* A job waits in its database's queue and holds nothing meanwhile. A queue has a bound: a client's job
//!    that does not fit is refused ([`NotRun::Full`]).
//! 2. *Turn.* The queues are served in turn, one job at a time, those with the fewest running jobs first. So one
//!    database uses all threads only while no other database wants one.
//! 3. *Threads on demand.* A running job keeps its thread to its end. A database that has no running job therefore does not
//!    wait for the jobs of others: it gets a further thread, up to [`RUNNING_MAX`], and the system divides the
//!    processor. The databases of one owner, which are a database and its branches, have [`OWNER_RUNNING_MAX`] running jobs
//!    at most beyond the lane's own threads: else one tenant could take all of them for as long as it likes.
//! 4. *Locks after the turn.* A job that needs shards asks for their locks when its turn has come. While it waits for
//!    one it steps aside: its thread does not count, so another may be started in its place. Two jobs of one queue that
//!    need the same shard do not even begin together, so a job only ever waits for the short holds of workers. The
//!    second of them calls no thread: the thread of the first takes it when that one ends, with warm caches.
//! 5. *Relief.* The mailbox that a holder has left when it had run its bound of jobs ([`crate::gate`]) is a job of its
//!    own, with a turn like a queue's, and is never refused.
//! 6. *Waste.* Memory is freed when no client's job can begin. A database whose waste has grown beyond
//!    [`WASTE_BYTES_MAX`] gets turns for it like for its other jobs.
//! 7. *Writes.* A job that writes to the store while it goes on hands the write over ([`Queue::begin_write`]). That
//!    begins at once, at the lane's priority: a write copies megabytes, which clients should not wait for either. If
//!    there can be no further thread, the job does it itself.
//! 8. *Scripts that go on.* A script that was suspended on a worker holds the locks of its database already
//!    ([`Queue::go_on`]). So it begins at once too, and a thread is started for it if need be, beyond all bounds: a
//!    database has one of them at a time.
//!
//! A test that wants one order of events hands its own runtime to [`Lane::on`]: the same rules, with tasks in place of
//! threads.
//!
//! A thread of a lane may lose the processor at any moment, for long where its priority is low. So a worker that queues a
//! job waits neither for the lane's lock, which may be held: it leaves the job to the holder ([`Pool::send`]). Nor does
//! it create a thread, which waits for page faults of all others: the lane's starter does, and threads that have nothing
//! to do any more stay for a while ([`IDLE_FOR`]).
//!
//! Invariants: a job never waits for another job of its own queue, so a lane cannot lock itself up. It may wait for its
//! write, which waits for no job and for no bound. A job that was sent is taken in by whoever holds the lock, at the
//! latest when that thread has given it back. A thread of the patient lane holds no shard's lock, as clients would wait
//! for it: its jobs hand such work over ([`Database::under`](crate::database::Database)).

use std::cell::Cell;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Weak, mpsc};
use std::thread::{self, Thread};
use std::time::Duration;

use crossbeam::queue::SegQueue;
use dormouse_types::entry::slab;
use dormouse_types::pace;
use futures::FutureExt;
use futures::channel::oneshot;
use futures::executor::block_on;
use parking_lot::{Mutex, MutexGuard};
use tokio::runtime::Handle;

use crate::error::Error;

/// Jobs of clients that may wait in one queue.
pub const QUEUE_MAX: usize = 1024;
/// Jobs that may run at a time; beyond the lane's own threads each is of another database.
pub const RUNNING_MAX: usize = 16;
/// The same of one owner.
pub const OWNER_RUNNING_MAX: usize = 4;
/// Most threads of a lane, including those that wait for a lock.
const THREADS_MAX: usize = 64;
/// A database with more bytes than this to free gets turns for them.
pub const WASTE_BYTES_MAX: usize = 64 << 20;
/// Waiting jobs of one queue that are looked at for one that needs no shard of a job before it.
const LOOKED_AT_MAX: usize = 32;
/// A thread beyond the lane's own ends when it has had no job for this long.
const IDLE_FOR: Duration = Duration::from_secs(60);
/// A thread without a job keeps blocks of memory for the next one for this long.
const KEEPS_FOR: Duration = Duration::from_millis(5);
/// Threads of a lane where it runs on a test's runtime.
const TEST_THREADS: usize = 2;

thread_local! {
    /// Set for a thread of a patient lane.
    static IS_PATIENT: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is one of a patient lane, which may lose its processor for long.
pub(crate) fn is_patient() -> bool {
    IS_PATIENT.get()
}

type Call = Box<dyn FnOnce() + Send>;
type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The threads that all databases share. They end with the last handle and the last job.
#[derive(Clone)]
pub struct Lane {
    open: Arc<Open>,
}

/// One database's queue on a lane.
#[derive(Clone)]
pub struct Queue {
    lane: Lane,
    id: u64,
    /// Stands for the owner of its database.
    owner: u64,
    /// Bytes that wait to be freed.
    waste: Arc<AtomicUsize>,
    /// Jobs that wait for their turn.
    waiting: Arc<AtomicUsize>,
}

/// The reason why a job has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotRun {
    /// The database's queue is full.
    Full,
    Panicked,
}

impl NotRun {
    /// The reply to a client, where `panicked` names the work that failed if the job began.
    pub fn error(self, panicked: impl FnOnce() -> Error) -> Error {
        match self {
            Self::Full => Error::Busy(QUEUE_MAX),
            Self::Panicked => panicked(),
        }
    }
}

impl Lane {
    /// Starts threads called `name`, at a niceness of `nicer` (0-19) above the process's.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(name: &str, threads: usize, nicer: i32) -> std::io::Result<Self> {
        Self::of(Pool::new(name, nicer, None), threads)
    }

    /// The same for work that no client waits for. Its threads hold no shard's lock.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn patient(name: &str, threads: usize, nicer: i32) -> std::io::Result<Self> {
        Self::of(Pool { is_patient: true, ..Pool::new(name, nicer, None) }, threads)
    }

    fn of(pool: Pool, threads: usize) -> std::io::Result<Self> {
        let threads = threads.max(1);
        let name = &pool.name;
        let (give, take) = mpsc::channel::<Arc<Pool>>();
        let starter = thread::Builder::new().name(format!("{name}-start")).spawn(move || {
            if let Ok(pool) = take.recv() {
                pool.start_threads();
            }
        })?;
        let starter = Some(Bell::of(starter.thread().clone()));
        let pool = Arc::new(Pool { starter, width: threads, ..pool });
        for number in 0..threads {
            {
                let mut state = pool.lock();
                state.threads += 1;
                state.coming += 1;
            }
            pool.start_thread(number)?;
        }
        // It is waiting for this.
        drop(give.send(Arc::clone(&pool)));
        Ok(Self { open: Arc::new(Open(pool)) })
    }

    /// No threads: its jobs are tasks of `runtime`, two at a time like those of the server's lanes.
    pub fn on(runtime: &Handle) -> Self {
        Self { open: Arc::new(Open(Arc::new(Pool { width: TEST_THREADS, ..Pool::new("", 0, Some(runtime.clone())) }))) }
    }

    /// A queue for one more database, of an owner that has no other.
    pub fn queue(&self) -> Queue {
        let queue = self.queue_of("");
        Queue { owner: queue.id, ..queue }
    }

    /// A queue for one more database of an owner.
    pub fn queue_of(&self, owner: &str) -> Queue {
        static LAST_ID: AtomicU64 = AtomicU64::new(0);
        let id = LAST_ID.fetch_add(1, Ordering::Relaxed);
        let owner = rapidhash::v3::rapidhash_v3(owner.as_bytes());
        Queue { lane: self.clone(), id, owner, waste: Arc::default(), waiting: Arc::default() }
    }
}

impl Queue {
    /// Queues a client's job.
    ///
    /// # Errors
    /// [`NotRun::Full`].
    pub fn run(&self, job: impl FnOnce() + Send + 'static) -> Result<(), NotRun> {
        self.push(Job::new(Work::Call(Box::new(job))))
    }

    /// Queues a client's job that needs locks. When its turn has come it waits for `ready`, which returns them, and
    /// runs with them; `None`: the client does not want it any more. Until it ends, no job of this queue begins that
    /// claims one of the same numbers.
    ///
    /// # Errors
    /// [`NotRun::Full`].
    pub fn run_after<R: Send + 'static>(
        &self,
        claims: Box<[u64]>,
        ready: impl Future<Output = Option<R>> + Send + 'static,
        job: impl FnOnce(R) + Send + 'static,
    ) -> Result<(), NotRun> {
        let ready = async { ready.await.map(|with| Box::new(move || job(with)) as Call) };
        self.push(Job { claims, ..Job::new(Work::After(Box::pin(ready))) })
    }

    /// Runs a future to its end, even if its result is no longer wanted.
    ///
    /// # Errors
    /// [`NotRun`].
    pub async fn drive<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, NotRun> {
        let (sender, receiver) = oneshot::channel();
        let future = async move { drop(sender.send(future.await)) };
        self.push(Job::new(Work::Drive(Box::pin(future))))?;
        receiver.await.map_err(|_| NotRun::Panicked)
    }

    /// The same without a result, for the engine's own work: it is never refused.
    pub fn start(&self, future: impl Future<Output = ()> + Send + 'static) {
        let waits = Some(Waits::of(&self.waiting));
        self.send(Class::Jobs, Job { waits, ..Job::new(Work::Drive(Box::pin(future))) });
    }

    /// Begins a write that a job of this queue will wait for. If no thread is left for it, it is done here.
    pub async fn begin_write<T: Send + 'static>(
        &self,
        write: impl Future<Output = T> + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        let write = async move { drop(sender.send(write.await)) };
        self.send(Class::Writes, Job::new(Work::Drive(Box::pin(write))));
        let left = self.lane.open.0.lock().take_back((self.id, Class::Writes));
        if let Some(Job { work: Work::Drive(write), .. }) = left {
            write.await;
        }
        receiver
    }

    /// Lets a script go on that holds its locks already.
    pub fn go_on(&self, script: impl FnOnce() + Send + 'static) {
        self.send(Class::Scripts, Job::new(Work::Call(Box::new(script))));
    }

    /// Serves the mailbox of a gate, soon.
    pub fn relieve(&self, serve: impl FnOnce() + Send + 'static) {
        self.send(Class::Relief, Job::new(Work::Call(Box::new(serve))));
    }

    /// Frees about `bytes` of memory when no other job can begin.
    pub fn free(&self, bytes: usize, waste: impl Send + 'static) {
        self.waste.fetch_add(bytes, Ordering::Relaxed);
        let left = Arc::clone(&self.waste);
        let free = move || {
            // Also if a destructor panics.
            let _freed = Freed(left, bytes);
            drop(waste);
        };
        self.send(Class::Waste, Job { bytes, ..Job::new(Work::Call(Box::new(free))) });
    }

    /// The same for waste that is freed in steps: between two of them other jobs have their turns.
    pub fn free_in_steps(&self, bytes: usize, waste: impl Waste + 'static) {
        self.waste.fetch_add(bytes, Ordering::Relaxed);
        let freed = Freed(Arc::clone(&self.waste), bytes);
        let pool = Arc::downgrade(&self.lane.open.0);
        self.send(Class::Waste, step_of_waste(pool, self.id, Box::new(waste), freed));
    }

    /// Bytes that wait to be freed, or are being freed.
    pub fn waste_bytes(&self) -> usize {
        self.waste.load(Ordering::Relaxed)
    }

    /// Jobs that wait for their turn.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    fn push(&self, job: Job) -> Result<(), NotRun> {
        let waits = Waits::of(&self.waiting);
        if self.waiting() > QUEUE_MAX {
            return Err(NotRun::Full);
        }
        self.send(Class::Jobs, Job { waits: Some(waits), ..job });
        Ok(())
    }

    fn send(&self, class: Class, job: Job) {
        self.lane.open.0.send((self.id, class), Job { owner: self.owner, ..job });
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("name", &self.open.0.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("lane", &self.lane).field("id", &self.id).finish_non_exhaustive()
    }
}

/// Memory that is freed in steps.
pub trait Waste: Send {
    /// Frees some of it, in well under a millisecond if possible. Returns whether nothing is left.
    fn free_some(&mut self) -> bool;
}

/// The next step, which queues the one after it. The lane's threads may have ended meanwhile: then the rest goes at once.
fn step_of_waste(pool: Weak<Pool>, id: u64, mut waste: Box<dyn Waste>, freed: Freed) -> Job {
    let bytes = freed.1;
    let step = move || {
        if !waste.free_some()
            && let Some(lane) = pool.upgrade()
        {
            let next = step_of_waste(pool, id, waste, freed);
            lane.send((id, Class::Waste), next);
        }
    };
    Job { bytes, ..Job::new(Work::Call(Box::new(step))) }
}

struct Freed(Arc<AtomicUsize>, usize);

impl Drop for Freed {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// A job that counts as waiting.
struct Waits(Arc<AtomicUsize>);

impl Waits {
    fn of(waiting: &Arc<AtomicUsize>) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(waiting))
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The purpose of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Class {
    Jobs,
    Relief,
    Waste,
    Writes,
    Scripts,
}

/// One database's jobs of one class.
type LineId = (u64, Class);

enum Work {
    Call(Call),
    Drive(Pending<()>),
    After(Pending<Option<Call>>),
}

struct Job {
    /// Jobs of one line that claim the same number do not run together.
    claims: Box<[u64]>,
    work: Work,
    /// That of its queue.
    owner: u64,
    /// Bytes that the job frees.
    bytes: usize,
    /// Of a job in its database's queue, until it begins.
    waits: Option<Waits>,
}

impl Job {
    fn new(work: Work) -> Self {
        Self { claims: Box::default(), work, owner: 0, bytes: 0, waits: None }
    }
}

#[derive(Default)]
struct Line {
    jobs: VecDeque<Job>,
    owner: u64,
    running: usize,
    /// Numbers that its running jobs claim.
    claims: Vec<u64>,
    /// Bytes that its jobs will free.
    bytes: usize,
    /// It has its turn beside the lines of clients.
    is_pressing: bool,
}

impl Line {
    /// The first job that may begin: it shares no claim with one that runs or that came before it.
    fn next(&self) -> Option<usize> {
        if self.claims.is_empty() {
            return if self.jobs.is_empty() { None } else { Some(0) };
        }
        let mut claimed = self.claims.clone();
        for (at, job) in self.jobs.iter().take(LOOKED_AT_MAX).enumerate() {
            if !job.claims.iter().any(|claim| claimed.contains(claim)) {
                return Some(at);
            }
            claimed.extend_from_slice(&job.claims);
        }
        None
    }
}

/// Waiting and running jobs. A line is kept while it has jobs, waiting or running.
#[derive(Default)]
struct State {
    lines: HashMap<LineId, Line>,
    /// Running jobs of clients, by owner.
    owners: HashMap<u64, usize>,
    /// Lines with waiting jobs: the next one to have its turn first.
    ring: VecDeque<LineId>,
    /// Lines with waste that does not press.
    waste: VecDeque<LineId>,
    /// Lines with writes, and with scripts that go on.
    writes: VecDeque<LineId>,
    scripts: VecDeque<LineId>,
    /// Threads that run a job and do not wait for a lock.
    running: usize,
    /// Threads that free memory.
    freeing: usize,
    /// Threads, with those that are being started, and with those that the starter has not begun to start.
    threads: usize,
    unstarted: usize,
    /// Threads that wait for a call.
    idle: Vec<Arc<Bell>>,
    /// Threads that are about to look for a job: called or just started.
    coming: usize,
    closed: bool,
}

impl State {
    fn push(&mut self, id: LineId, job: Job) {
        let line = self.lines.entry(id).or_default();
        let was_empty = line.jobs.is_empty();
        line.bytes += job.bytes;
        line.owner = job.owner;
        line.jobs.push_back(job);
        if id.1 != Class::Waste {
            if was_empty {
                let ring = match id.1 {
                    Class::Writes => &mut self.writes,
                    Class::Scripts => &mut self.scripts,
                    _ => &mut self.ring,
                };
                ring.push_back(id);
            }
            return;
        }
        if line.bytes > WASTE_BYTES_MAX && !line.is_pressing {
            line.is_pressing = true;
            self.waste.retain(|other| *other != id);
            self.ring.push_back(id);
        } else if was_empty {
            let ring = if line.is_pressing { &mut self.ring } else { &mut self.waste };
            ring.push_back(id);
        }
    }

    /// How many more jobs of an owner's clients may run beyond the lane's own threads.
    fn left_of(&self, owner: u64) -> usize {
        OWNER_RUNNING_MAX.saturating_sub(self.owners.get(&owner).copied().unwrap_or_default())
    }

    /// The next job to begin, if one may: its line has no running job, and its owner few, or the lane has a thread of its own
    /// left.
    fn pick(&mut self, width: usize) -> Option<(LineId, Job)> {
        // It holds locks, or a running job waits for it.
        if let Some(id) = self.scripts.pop_front().or_else(|| self.writes.pop_front()) {
            return self.begin(id);
        }
        if self.running >= RUNNING_MAX.max(width) {
            return None;
        }
        let has_room = self.running < width;
        let mut best: Option<(usize, usize, LineId)> = None;
        for (at, id) in self.ring.iter().enumerate() {
            let Some(line) = self.lines.get(id) else { continue };
            if line.running == 0 && (has_room || id.1 != Class::Jobs || self.left_of(line.owner) > 0) {
                best = Some((0, at, *id));
                break;
            }
            let fewer = best.is_none_or(|(running, ..)| line.running < running);
            // Waste is freed by one thread for each database.
            if has_room && fewer && id.1 != Class::Waste && line.next().is_some() {
                best = Some((line.running, at, *id));
            }
        }
        if let Some((_, at, id)) = best {
            self.ring.remove(at);
            return self.begin(id);
        }
        // If the lane has several threads, one is kept from it.
        if has_room && self.freeing < (width - 1).max(1) {
            let lines = &self.lines;
            let idle = |id: &LineId| lines.get(id).is_some_and(|line| line.running == 0);
            let at = self.waste.iter().position(idle)?;
            let id = self.waste.remove(at)?;
            return self.begin(id);
        }
        None
    }

    fn begin(&mut self, id: LineId) -> Option<(LineId, Job)> {
        let line = self.lines.get_mut(&id)?;
        let mut job = line.next().and_then(|at| line.jobs.remove(at))?;
        job.waits = None;
        line.running += 1;
        line.bytes -= job.bytes;
        line.claims.extend_from_slice(&job.claims);
        line.is_pressing = line.bytes > WASTE_BYTES_MAX;
        if !line.jobs.is_empty() {
            let ring = match id.1 {
                Class::Waste if !line.is_pressing => &mut self.waste,
                Class::Writes => &mut self.writes,
                Class::Scripts => &mut self.scripts,
                _ => &mut self.ring,
            };
            ring.push_back(id);
        }
        self.running += 1;
        self.freeing += usize::from(id.1 == Class::Waste);
        if id.1 == Class::Jobs {
            *self.owners.entry(job.owner).or_default() += 1;
        }
        Some((id, job))
    }

    /// The number of a thread that is to be started.
    fn start(&mut self) -> Option<usize> {
        self.unstarted = self.unstarted.checked_sub(1)?;
        Some(self.threads - self.unstarted - 1)
    }

    /// Calls an idle thread, if there is one.
    fn call(&mut self) -> bool {
        let Some(bell) = self.idle.pop() else { return false };
        self.coming += 1;
        bell.ring();
        true
    }

    /// Ends an idle thread, unless it has been called meanwhile.
    fn leave(&mut self, bell: &Arc<Bell>) -> bool {
        let Some(at) = self.idle.iter().position(|other| Arc::ptr_eq(other, bell)) else { return false };
        self.idle.remove(at);
        self.threads -= 1;
        true
    }

    /// Takes back the last write of a line, unless as many threads come as there are lines with writes. A thread that is
    /// not started yet may be refused.
    fn take_back(&mut self, id: LineId) -> Option<Job> {
        if self.coming - self.unstarted >= self.at_once() {
            return None;
        }
        let line = self.lines.get_mut(&id)?;
        let job = line.jobs.pop_back()?;
        if line.jobs.is_empty() {
            self.writes.retain(|other| *other != id);
            if line.running == 0 {
                self.lines.remove(&id);
            }
        }
        Some(job)
    }

    fn end(&mut self, id: LineId, claims: &[u64]) {
        self.running -= 1;
        self.freeing -= usize::from(id.1 == Class::Waste);
        let Some(line) = self.lines.get_mut(&id) else { return };
        line.running -= 1;
        if id.1 == Class::Jobs
            && let Entry::Occupied(mut running) = self.owners.entry(line.owner)
        {
            *running.get_mut() -= 1;
            if *running.get() == 0 {
                running.remove();
            }
        }
        for claim in claims {
            if let Some(at) = line.claims.iter().position(|claimed| claimed == claim) {
                line.claims.swap_remove(at);
            }
        }
        if line.running == 0 && line.jobs.is_empty() {
            self.lines.remove(&id);
        }
    }

    /// Lines with jobs that begin at once.
    fn at_once(&self) -> usize {
        self.writes.len() + self.scripts.len()
    }

    /// Whether one more thread than those that are coming would find a job.
    fn has_work(&self, width: usize) -> bool {
        let Some(coming) = self.coming.checked_sub(self.at_once()) else { return true };
        let hands = self.running + coming;
        if hands < width {
            // A job that claims what a running one has begins when that one ends.
            let may_begin = |id: &LineId| self.lines.get(id).is_some_and(|line| line.next().is_some());
            return self.ring.iter().any(may_begin) || !self.waste.is_empty();
        }
        if hands >= RUNNING_MAX.max(width) {
            return false;
        }
        let mut places = HashMap::new();
        let may_begin = |id: &&LineId| {
            let Some(line) = self.lines.get(id).filter(|line| line.running == 0) else { return false };
            let left = places.entry(line.owner).or_insert_with(|| self.left_of(line.owner));
            let may = id.1 != Class::Jobs || *left > 0;
            *left -= usize::from(may && id.1 == Class::Jobs);
            may
        };
        self.ring.iter().filter(may_begin).nth(coming).is_some()
    }
}

struct Pool {
    name: Box<str>,
    /// Threads that it always has.
    width: usize,
    nicer: i32,
    /// Its threads hold no shard's lock.
    is_patient: bool,
    runtime: Option<Handle>,
    /// Of the thread that starts others, if there are threads.
    starter: Option<Arc<Bell>>,
    state: Mutex<State>,
    /// Jobs that no holder of the lock has taken in yet.
    sent: SegQueue<(LineId, Job)>,
}

/// The lane's lock. Its holder takes in what is sent meanwhile.
struct Locked<'p> {
    pool: &'p Arc<Pool>,
    state: Option<MutexGuard<'p, State>>,
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        self.state.as_ref().expect("the lock is held until the end")
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        self.state.as_mut().expect("the lock is held until the end")
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.state = None;
        self.pool.take_in();
    }
}

/// Wakes one thread.
struct Bell {
    rung: AtomicBool,
    thread: Thread,
}

impl Bell {
    fn of(thread: Thread) -> Arc<Self> {
        Arc::new(Self { rung: AtomicBool::new(false), thread })
    }

    fn ring(&self) {
        self.rung.store(true, Ordering::Release);
        self.thread.unpark();
    }

    /// Waits on the bell's own thread.
    fn wait(&self) {
        while !self.rung.swap(false, Ordering::Acquire) {
            thread::park();
        }
    }

    /// The same for about as long as `time`. Returns whether it was rung.
    fn wait_for(&self, time: Duration) -> bool {
        // An earlier ring that was heard before it woke the thread ends one of the two waits.
        (0..2).any(|_| {
            thread::park_timeout(time / 2);
            self.rung.swap(false, Ordering::Acquire)
        })
    }
}

/// Tells the threads when the last handle is gone.
struct Open(Arc<Pool>);

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closed = true;
        while state.call() {}
        if let Some(starter) = &self.0.starter {
            starter.ring();
        }
    }
}

impl Pool {
    fn new(name: &str, nicer: i32, runtime: Option<Handle>) -> Self {
        Self {
            name: name.into(),
            width: 1,
            nicer,
            is_patient: false,
            runtime,
            starter: None,
            state: Mutex::default(),
            sent: SegQueue::new(),
        }
    }

    fn lock(self: &Arc<Self>) -> Locked<'_> {
        let mut state = self.state.lock();
        self.take_in_to(&mut state);
        Locked { pool: self, state: Some(state) }
    }

    /// Queues a job without waiting for the lock.
    fn send(self: &Arc<Self>, id: LineId, job: Job) {
        self.sent.push((id, job));
        self.take_in();
    }

    /// Takes in what was sent, unless a thread holds the lock. That one does it when it has given the lock back.
    fn take_in(self: &Arc<Self>) {
        loop {
            // Either this thread sees what was sent while it held the lock, or the sender sees the free lock.
            fence(Ordering::SeqCst);
            if self.sent.is_empty() {
                return;
            }
            let Some(mut state) = self.state.try_lock() else { return };
            self.take_in_to(&mut state);
        }
    }

    fn take_in_to(self: &Arc<Self>, state: &mut State) {
        while let Some((id, job)) = self.sent.pop() {
            state.push(id, job);
            self.call_for_hands(state);
        }
    }

    /// Makes sure that a thread comes for jobs that may begin.
    fn call_for_hands(self: &Arc<Self>, state: &mut State) {
        if !state.has_work(self.width) {
            return;
        }
        if let Some(runtime) = &self.runtime {
            state.coming += 1;
            drop(runtime.spawn(Arc::clone(self).serve_as_task()));
        } else if !state.call()
            && let Some(starter) = self.starter.as_ref().filter(|_| state.threads < THREADS_MAX + state.scripts.len())
        {
            state.threads += 1;
            state.unstarted += 1;
            state.coming += 1;
            starter.ring();
        }
    }

    /// The same when a job has ended and another has begun: those that claimed what it had may begin too. A thread that is
    /// coming calls for the next.
    fn call_for_more(self: &Arc<Self>, state: &mut State) {
        if state.coming == 0 {
            self.call_for_hands(state);
        }
    }

    /// The starter's life.
    fn start_threads(self: Arc<Self>) {
        let Some(bell) = self.starter.clone() else { return };
        loop {
            bell.wait();
            while let Some(number) = self.lock().start() {
                if let Err(error) = self.start_thread(number) {
                    // The job waits for one of the existing threads.
                    let mut state = self.lock();
                    state.threads -= 1;
                    state.coming -= 1;
                    drop(state);
                    tracing::warn!(lane = &*self.name, %error, "the system refuses a thread");
                }
            }
            if self.lock().closed {
                return;
            }
        }
    }

    fn start_thread(self: &Arc<Self>, number: usize) -> std::io::Result<()> {
        let pool = Arc::clone(self);
        let serve = move || {
            IS_PATIENT.set(pool.is_patient);
            if pool.nicer > 0 {
                // Refused: then it has the same priority as the others.
                let _ = rustix::process::nice(pool.nicer);
                pace::give_way(thread::yield_now);
            }
            pool.serve();
        };
        thread::Builder::new().name(format!("{}-{number}", self.name)).spawn(serve).map(drop)
    }

    /// A thread's life.
    fn serve(self: Arc<Self>) {
        let bell = Bell::of(thread::current());
        // Whether it may keep blocks of memory.
        let mut keeps = false;
        let mut state = self.lock();
        state.coming -= 1;
        loop {
            if let Some((id, Job { claims, work, .. })) = state.pick(self.width) {
                self.call_for_more(&mut state);
                drop(state);
                // A job that panics has reported it on standard error, and the thread goes on.
                let _ = catch_unwind(AssertUnwindSafe(|| self.perform(work)));
                keeps = true;
                state = self.lock();
                state.end(id, &claims);
            } else if state.closed {
                state.threads -= 1;
                return;
            } else {
                state.idle.push(Arc::clone(&bell));
                let is_spare = state.threads > self.width;
                drop(state);
                let mut is_called = keeps && bell.wait_for(KEEPS_FOR);
                if keeps && !is_called {
                    // The next job may be far off, and what this thread keeps would keep the memory around it.
                    slab::flush();
                    keeps = false;
                }
                is_called = is_called || is_spare && bell.wait_for(IDLE_FOR);
                if is_spare && !is_called && self.lock().leave(&bell) {
                    return;
                }
                if !is_called {
                    bell.wait();
                }
                state = self.lock();
                state.coming -= 1;
            }
        }
    }

    fn perform(self: &Arc<Self>, work: Work) {
        match work {
            Work::Call(call) => call(),
            Work::Drive(future) => block_on(future),
            Work::After(ready) => {
                // It may itself block on a future, so it runs outside of this one.
                if let Some(call) = block_on(self.when_ready(ready)) {
                    call();
                }
            }
        }
    }

    /// The same as a task of a runtime, until no job is left that may begin.
    async fn serve_as_task(self: Arc<Self>) {
        let mut next = {
            let mut state = self.lock();
            state.coming -= 1;
            state.pick(self.width)
        };
        while let Some((id, Job { claims, work, .. })) = next.take() {
            self.call_for_more(&mut self.lock());
            let done = async {
                match work {
                    Work::Call(call) => call(),
                    Work::Drive(future) => future.await,
                    Work::After(ready) => {
                        if let Some(call) = self.when_ready(ready).await {
                            call();
                        }
                    }
                }
            };
            let _ = AssertUnwindSafe(done).catch_unwind().await;
            let mut state = self.lock();
            state.end(id, &claims);
            next = state.pick(self.width);
        }
    }

    /// Waits for the locks of a job; another may run in its place meanwhile.
    async fn when_ready(self: &Arc<Self>, mut ready: Pending<Option<Call>>) -> Option<Call> {
        if let std::task::Poll::Ready(call) = futures::poll!(&mut ready) {
            return call;
        }
        {
            let mut state = self.lock();
            state.running -= 1;
            self.call_for_hands(&mut state);
        }
        // Counted again also if it panics or is dropped.
        let _back = Back(self);
        ready.await
    }
}

struct Back<'a>(&'a Arc<Pool>);

impl Drop for Back<'_> {
    fn drop(&mut self) {
        self.0.lock().running += 1;
    }
}

#[cfg(test)]
mod tests;
