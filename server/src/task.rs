//! One command that could not be run in its batch: it waits for shards, for places, or for a thread of the slow lane.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_protocol::{Budget, OwnedRequest, Reply, Request, Version};
use dormouse_shard::commands::{self, Flags, Row, Run};
use dormouse_shard::database::Database;
use dormouse_shard::error::Error;
use dormouse_shard::gate::Job;
use dormouse_shard::keyspace::eviction::{NoRoom, added_bytes};
use dormouse_shard::keyspace::{Contents, Fault, Keyspace, Left};
use dormouse_shard::shard::{HeldShard, ShardGate};
use dormouse_shard::topology::{Topology, hold};
use futures::channel::oneshot;
use parking_lot::MutexGuard;
use smallvec::SmallVec;

use crate::session::{Session, missing};
use crate::turn::{Turn, Waits};

/// Tries before a lock counts as taken: about a microsecond, less than it takes to wake another thread.
const SPINS: usize = 64;

/// A command that looks at more elements than this is run on the slow lane: about a millisecond.
const ELEMENTS_INLINE: usize = 10_000;

/// Whether a command would keep the thread that it runs on for too long.
pub fn is_long(db: &mut Keyspace<'_>, row: &Row, request: Request<'_>) -> bool {
    row.cost.is_some_and(|cost| cost(db, request) > ELEMENTS_INLINE)
}

/// Everything that a command needs to run on any thread.
#[derive(Debug, Clone)]
pub struct Task {
    pub row: &'static Row,
    pub run: Run,
    pub request: OwnedRequest,
    pub select: u8,
    pub no_touch: bool,
    pub version: Version,
    pub now_ms: u64,
    pub seed: u64,
    /// What its reply may take; `None`: whatever it takes.
    pub budget: Option<Arc<dyn Budget>>,
}

#[derive(Debug)]
pub struct Outcome {
    pub reply: Reply,
    pub hits: u64,
    pub misses: u64,
    pub left: Left,
}

/// How a try under the locks went.
#[derive(Debug)]
enum Try {
    Done(Outcome),
    /// A place must be loaded first.
    Fault(Fault),
    /// So many bytes must be free first.
    Short(usize),
    /// The shards are not what they were: route again.
    Rerouted,
    /// It would take too long here: it goes to the slow lane.
    Long,
}

impl Task {
    pub fn new(row: &'static Row, run: Run, request: OwnedRequest, session: &Session, now_ms: u64) -> Self {
        let (seed, no_touch) = (session.worker.random(), session.client.no_touch.load(Ordering::Relaxed));
        let budget: Arc<dyn Budget> = Arc::clone(&session.client) as _;
        let (select, version) = (session.select, session.version);
        Self { row, run, request, select, no_touch, version, now_ms, seed, budget: Some(budget) }
    }
}

/// The lock, after a few tries; `None`: leave a job.
pub fn try_hold(gate: &ShardGate) -> Option<HeldShard> {
    for _ in 0..SPINS {
        if let Some(held) = gate.try_hold() {
            return Some(held);
        }
        std::hint::spin_loop();
    }
    gate.guarded.contended.fetch_add(1, Ordering::Relaxed);
    None
}

/// Runs a task to its end, however long it waits.
///
/// # Errors
/// When the database cannot be woken or a place cannot be loaded.
pub async fn run(database: &Arc<Database>, task: Task) -> Result<Outcome, Error> {
    run_in_turn(database, task, &Arc::new(Turn::endless())).await
}

/// Runs a task when its turn has come.
///
/// # Errors
/// As [`run`]; or when its turn does not come in time, and the task is not run.
pub async fn run_in_turn(database: &Arc<Database>, task: Task, turn: &Arc<Turn>) -> Result<Outcome, Error> {
    loop {
        let topology = turn.wait(Waits::Wake, database.awake()).await??;
        if task.row.flags.contains(Flags::ALL_RESIDENT) {
            turn.wait(Waits::Load, database.load_all()).await??;
        }
        let mut tried = attempt(database, &topology, &task, turn).await?;
        if let Try::Long = tried {
            turn.wait_again();
            tried = attempt_on_lane(database, &topology, &task, turn).await?;
        }
        turn.wait_again();
        match tried {
            Try::Done(outcome) => return Ok(outcome),
            Try::Fault(fault) => turn.wait(Waits::Load, database.load(fault)).await??,
            Try::Short(bytes) => turn.wait(Waits::Room, database.make_room(bytes)).await??,
            Try::Rerouted | Try::Long => {}
        }
    }
}

async fn attempt(
    database: &Arc<Database>,
    topology: &Arc<Topology>,
    task: &Task,
    turn: &Arc<Turn>,
) -> Result<Try, Error> {
    if task.row.flags.contains(Flags::SLOW_LANE) {
        return attempt_on_lane(database, topology, task, turn).await;
    }
    let shards = route(topology, task);
    let gates = gates(topology, &shards);
    if let [gate] = &gates[..] {
        if let Some(held) = try_hold(gate) {
            turn.enter()?;
            return Ok(under(database, topology, &shards, &[held], task, Place::Worker));
        }
        // Whoever holds the lock runs it: that costs no change of thread while the lock is held.
        let (sender, receiver) = oneshot::channel();
        let (task, topology, of, its) = (task.clone(), Arc::clone(topology), Arc::clone(database), Arc::clone(turn));
        gate.leave(Job::Run(Box::new(move |held| {
            if sender.is_canceled() || !its.begin() {
                return;
            }
            let run = || under(&of, &topology, &shards, std::slice::from_ref(held), &task, Place::Worker);
            // The thread belongs to another client, who is not to suffer from a panic.
            if let Ok(tried) = catch_unwind(AssertUnwindSafe(run)) {
                let _ = sender.send(tried);
            }
        })));
        let tried = turn.wait(Waits::Lock, receiver).await?;
        return tried.map_err(|_| turn.vanished(Waits::Lock));
    }
    let held = turn.wait(Waits::Lock, hold(gates)).await?;
    turn.enter()?;
    Ok(under(database, topology, &shards, &held, task, Place::Worker))
}

/// Runs a task on a thread of the slow lane, which takes the locks when the task's turn has come; the worker goes on.
async fn attempt_on_lane(
    database: &Arc<Database>,
    topology: &Arc<Topology>,
    task: &Task,
    turn: &Arc<Turn>,
) -> Result<Try, Error> {
    let shards = route(topology, task);
    let gates = gates(topology, &shards);
    let (sender, receiver) = oneshot::channel();
    let (task, topology, of, its) = (task.clone(), Arc::clone(topology), Arc::clone(database), Arc::clone(turn));
    let job = move |held: Vec<HeldShard>| {
        if sender.is_canceled() || !its.begin() {
            return;
        }
        // The client may be gone.
        let _ = sender.send(under(&of, &topology, &shards, &held, &task, Place::Lane));
    };
    let asked = Arc::clone(turn);
    database.on_lane(gates, move || asked.is_wanted(), job)?;
    let tried = turn.wait(Waits::Lane, receiver).await?;
    tried.map_err(|_| turn.vanished(Waits::Lane))
}

/// Where a task runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Worker,
    Lane,
}

fn gates(topology: &Topology, shards: &[usize]) -> Vec<ShardGate> {
    shards.iter().map(|&shard| Arc::clone(&topology.shards[shard])).collect()
}

/// The shards that a task needs, ascending.
fn route(topology: &Topology, task: &Task) -> SmallVec<[usize; 4]> {
    let request = task.request.as_request();
    if task.row.flags.contains(Flags::WHOLE) {
        return (0..topology.shards.len()).collect();
    }
    if topology.shards.len() == 1 {
        return [0].into_iter().collect();
    }
    if task.row.flags.contains(Flags::BY_CURSOR) {
        let cursor = request.get(1).and_then(commands::cursor_of).unwrap_or(0);
        return [topology.of_slot((cursor >> 39) as u16)].into_iter().collect();
    }
    let mut shards: SmallVec<[usize; 4]> =
        task.row.key_indexes(request).map(|key| topology.of_key(request.arg(key))).collect();
    shards.sort_unstable();
    shards.dedup();
    if shards.is_empty() {
        shards.push(0);
    }
    shards
}

/// Runs a task under the locks that it needs.
fn under(
    database: &Database,
    topology: &Topology,
    shards: &[usize],
    held: &[HeldShard],
    task: &Task,
    place: Place,
) -> Try {
    let mut contents: SmallVec<[MutexGuard<'_, Contents>; 4]> = held.iter().map(HeldShard::contents).collect();
    if contents.len() != shards.len()
        || contents.iter().zip(shards).any(|(contents, &shard)| contents.retired || !topology.matches(shard, contents))
    {
        return Try::Rerouted;
    }
    let published = held.iter().map(|held| held.gate().guarded.published()).sum();
    let parts = contents.iter_mut().map(|contents| &mut **contents);
    let mut db = Keyspace::new(parts, &database.shared, task.select, task.now_ms, task.seed);
    db.no_touch(task.no_touch);
    if place == Place::Worker && is_long(&mut db, task.row, task.request.as_request()) {
        return Try::Long;
    }
    let mut reply = Reply::within(task.version, task.budget.clone());
    let step = step(&mut db, task.row, task.run, task.request.as_request(), &mut reply, published);
    let (hits, misses) = (db.hits, db.misses);
    database.free(db.take_graveyard());
    match step {
        Ok(()) => {
            let left = db.finish();
            Try::Done(Outcome { reply, hits, misses, left })
        }
        Err(Halt::Fault(fault)) => Try::Fault(fault),
        Err(Halt::Short(bytes)) => Try::Short(bytes),
    }
}

/// What a command needs before it can run.
#[derive(Debug, Clone, Copy)]
enum Halt {
    Fault(Fault),
    Short(usize),
}

/// One command with all that goes before it: residency and room.
///
/// # Errors
/// What must be done first.
fn step(
    db: &mut Keyspace<'_>,
    row: &Row,
    run: Run,
    request: Request<'_>,
    reply: &mut Reply,
    published: usize,
) -> Result<(), Halt> {
    if let Some(fault) = missing(db, row, request) {
        return Err(Halt::Fault(fault));
    }
    if row.flags.contains(Flags::WRITE)
        && let Err(error) = db.shared().journal.admit()
    {
        reply.error(&error.to_string());
        return Ok(());
    }
    if row.flags.contains(Flags::DENY_OOM) {
        match db.make_room(published, added_bytes(request)) {
            Ok(()) => {}
            Err(NoRoom::Wait(bytes)) => return Err(Halt::Short(bytes)),
            Err(NoRoom::Refused(error)) => {
                reply.error(&error.to_string());
                return Ok(());
            }
        }
    }
    commands::call(row, run, db, reply, request).map_err(Halt::Fault)
}
