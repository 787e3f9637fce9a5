//! The executor: the one path that commands take through the engine.
//!
//! A connection, a transaction and the simulation all hand over a [`Plan`]: commands over one database, each with the
//! logical index that it sees. The executor takes these steps:
//!
//! 1. *Wake* the database, and load all of it where a command asks for that.
//! 2. *Route*: find the shards of all keys that the plan names ([`route`]).
//! 3. *Queue*: a plan that is not known to be short waits for a thread of the slow lane, and asks for no lock before it has
//!    one ([`budget`]). A script that turns out to be long in step 7 may go on there with its locks ([`suspended`]).
//! 4. *Lock* the shards in slot order. Start over if they have been split or merged meanwhile.
//! 5. *Residency*: if a place that the plan needs is not in memory, let the locks go, load the place and start over.
//! 6. *Admission*: a plan that has been run before and must not be again is answered from its receipt ([`once`]). Refuse writes that the log or the memory limit cannot take. If memory has to become free first, or large writes
//!    of others to reach the disk before a large one, let the locks go, wait for it and start over.
//! 7. *Call* each command, and those of the waiters whose keys become ready ([`serving`]). A blocking command that finds
//!    nothing becomes a waiter ([`crate::waiters`]).
//! 8. *Finish*: the effects of the whole plan become one entry of the log, appended under the locks.
//! 9. *Answer* with the replies and with the end of the log that must be durable before they may leave ([`Left`]).
//!
//! The path has two entries. [`run`] may wait at every step. [`inline::run`] is the same path for a pipeline of plain commands
//! over one shard whose lock is free: it never waits, allocates nothing and copies no request. Both are made of the same
//! functions: [`route`], [`step::missing`], [`step::Admission`], [`step::run_one`] and [`step::finish`].
//!
//! Invariants:
//! - A plan changes nothing before step 7 (a key whose time is over may go earlier), and from there on runs to its end under
//!   the same locks. So it can be dropped or started over at any wait, other clients see all of it or nothing, and it leaves
//!   one entry.
//! - A plan of one command may still fault in step 7, if the command finds its keys by itself. Such a command faults before it
//!   changes anything.
//! - On the lane a command that has changed nothing may be told to end ([`dormouse_types::pace`]): its caller has gone or asks
//!   for it.
//! - Commands run at the engine's clock, but never before the time at which they were asked for.

pub mod ahead;
pub mod budget;
pub mod inline;
pub mod lent;
pub mod once;
pub mod plan;
mod recall;
pub mod route;
mod serving;
pub mod step;
mod suspended;
pub mod turn;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dormouse_protocol::{Reply, Version};
use dormouse_types::pace;
use futures::channel::oneshot;
use parking_lot::MutexGuard;
use smallvec::SmallVec;

pub use self::plan::{Blocking, Ended, Outcome, Plan, PlannedCommand, Ran, ServedCommand, Step, Witness};
pub use self::turn::{Caller, Turn, Waits};
pub use crate::commands::Context;

use self::budget::Estimate;
use self::route::Shards;
use self::serving::Replies;
use self::step::Admission;
use self::suspended::Suspended;
use crate::commands::growth::check_records;
use crate::commands::{self, Flags};
use crate::database::Database;
use crate::error::Error;
use crate::gate::{Guarded, Job};
use crate::keyspace::eviction::NoRoom;
use crate::keyspace::{ALL_INDEXES, Asked, Contents, Fault, Keyspace};
use crate::shard::{HeldShard, ShardGate};
use crate::topology::{Topology, hold};
use crate::waiters::{ClaimedWaiter, Waiter};
use dormouse_storage::log::Lsn;
use dormouse_storage::stopwatch::{CpuStopwatch, Stopwatch};

/// Tries before a lock counts as taken: about a microsecond, less than it takes to wake another thread.
const SPINS: usize = 64;

/// How a try under the locks went.
#[expect(clippy::large_enum_variant, reason = "most tries are done, and a box would be one more allocation")]
enum Try {
    Done(Outcome),
    /// A place must be loaded first.
    Fault(Fault),
    /// So many bytes must be free first.
    Short(usize),
    /// The log must be written up to here first.
    Crowded(Lsn),
    /// The shards have changed: route again.
    Rerouted,
    /// It would keep the worker for too long: it goes to the slow lane.
    Long,
    /// It has kept the worker for too long, and goes on on the slow lane with its locks.
    Suspended(Box<Suspended>),
}

/// Where a plan runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seat {
    Worker,
    Lane,
}

/// How long plans that follow another one run in its turn, and bytes of their replies.
const FOLLOWING_FOR: Duration = Duration::from_micros(500);
const FOLLOWING_BYTES_MAX: usize = 64 << 10;

/// Runs a plan to its end when its turn has come.
///
/// # Errors
/// When the database cannot be woken, a place cannot be loaded, or the turn does not come in time. The plan was not run.
pub async fn run(database: &Arc<Database>, plan: &Arc<Plan>, turn: &Arc<Turn>) -> Result<Outcome, Error> {
    run_within(database, plan, Followers::default(), turn).await.map(|(outcome, _)| outcome)
}

/// The same for a plan that others of the same client follow, each of one command. If it runs on the slow lane, they run
/// there after it, each by itself, as far as its turn goes. Returns their outcomes too; the rest was not run.
///
/// # Errors
/// As [`run`], for the first plan. An error of one that follows says that it has failed while it ran.
pub async fn run_followed(
    database: &Arc<Database>,
    plan: &Arc<Plan>,
    followers: Vec<Arc<Plan>>,
    turn: &Arc<Turn>,
) -> Result<(Outcome, Vec<Result<Outcome, Error>>), Error> {
    run_within(database, plan, Followers { plans: followers, time: FOLLOWING_FOR }, turn).await
}

/// Plans that run behind another one, none of which begins after this time.
#[derive(Clone, Default)]
struct Followers {
    plans: Vec<Arc<Plan>>,
    time: Duration,
}

async fn run_within(
    database: &Arc<Database>,
    plan: &Arc<Plan>,
    followers: Followers,
    turn: &Arc<Turn>,
) -> Result<(Outcome, Vec<Result<Outcome, Error>>), Error> {
    let mut seat = if plan.is_slow() { Seat::Lane } else { Seat::Worker };
    if let Some(waiter) = parked(database, plan) {
        return Ok((Outcome { blocked: Some(waiter), ..Outcome::of(Ended::Done) }, Vec::new()));
    }
    let _running = database.begin_run();
    loop {
        let topology = turn.wait(Waits::Wake, database.awake_for(plan.is_poll)).await??;
        if plan.needs_all() {
            turn.wait(Waits::Load, database.load_all()).await??;
        }
        let attempt = Attempt::new(database, topology, plan);
        let (tried, following) = match seat {
            Seat::Worker => (attempt.on_worker(turn).await?, Vec::new()),
            Seat::Lane => attempt.on_lane(followers.clone(), turn).await?,
        };
        turn.wait_again();
        match tried {
            Try::Done(outcome) => return Ok((outcome, following)),
            Try::Fault(fault) => turn.wait(Waits::Load, database.load(fault)).await??,
            Try::Crowded(lsn) => turn.wait(Waits::Log, database.until_written(lsn)).await?,
            Try::Short(bytes) => turn.wait(Waits::Room, database.make_room(bytes)).await??,
            Try::Rerouted => {}
            // None is left suspended.
            Try::Long | Try::Suspended(_) => seat = Seat::Lane,
        }
    }
}

/// The waiter that a plan's command becomes without waking its database.
fn parked(database: &Database, plan: &Plan) -> Option<Arc<Waiter>> {
    match plan.blocking {
        Blocking::First if !database.is_awake() => database.waiters.park(&plan.candidate()?),
        _ => None,
    }
}

/// The lock of `gate`, after a few tries. `None`: the caller queues a job.
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

/// One try of a plan. It owns all that the plan needs on another thread.
struct Attempt {
    database: Arc<Database>,
    topology: Arc<Topology>,
    plan: Arc<Plan>,
    shards: Shards,
}

impl Attempt {
    fn new(database: &Arc<Database>, topology: Arc<Topology>, plan: &Arc<Plan>) -> Self {
        let shards = route::shards(database, &topology, plan);
        Self { database: Arc::clone(database), topology, plan: Arc::clone(plan), shards }
    }

    fn gates(&self) -> Vec<ShardGate> {
        self.shards.iter().map(|&shard| Arc::clone(&self.topology.shards[shard])).collect()
    }

    async fn on_worker(self, turn: &Arc<Turn>) -> Result<Try, Error> {
        let gates = self.gates();
        let [gate] = &gates[..] else {
            let held = turn.wait(Waits::Lock, hold(gates)).await?;
            turn.enter()?;
            return self.here(held, turn).await;
        };
        if let Some(held) = try_hold(gate) {
            turn.enter()?;
            return self.here(vec![held], turn).await;
        }
        // The holder of the lock runs it, which saves a change of thread while the lock is held.
        let (sender, receiver) = oneshot::channel();
        let its = Arc::clone(turn);
        gate.leave(Job::Grant(Box::new(move |held| {
            if sender.is_canceled() || !its.begin() {
                return Some(held);
            }
            // A worker is seldom kept from its work: a system call would cost more than it tells.
            let run = || self.elsewhere(std::slice::from_ref(&held), Seat::Worker, None);
            // The thread belongs to another client, which must not suffer from a panic.
            match catch_unwind(AssertUnwindSafe(run)) {
                Ok(Try::Suspended(suspended)) => {
                    suspended.go_on(vec![held], move |outcome| _ = sender.send(Try::Done(outcome)));
                    return None;
                }
                Ok(tried) => _ = sender.send(tried),
                Err(_) => {}
            }
            Some(held)
        })));
        turn.wait(Waits::Lock, receiver).await?.map_err(|_| turn.vanished(Waits::Lock))
    }

    /// Runs it on this thread, as far as it is short.
    async fn here(self, held: Vec<HeldShard>, turn: &Arc<Turn>) -> Result<Try, Error> {
        match self.under(&held, Seat::Worker) {
            Try::Suspended(suspended) => {
                let (sender, receiver) = oneshot::channel();
                suspended.go_on(held, move |outcome| _ = sender.send(outcome));
                let outcome = turn.wait(Waits::Lane, receiver).await?.map_err(|_| turn.vanished(Waits::Lane))?;
                Ok(Try::Done(outcome))
            }
            tried => Ok(tried),
        }
    }

    /// Waits for a thread of the slow lane first and for the locks there, so that no lock waits for a thread.
    async fn on_lane(
        self,
        followers: Followers,
        turn: &Arc<Turn>,
    ) -> Result<(Try, Vec<Result<Outcome, Error>>), Error> {
        let (sender, receiver) = oneshot::channel();
        let its = Arc::clone(turn);
        let (database, gates) = (Arc::clone(&self.database), self.gates());
        let is_wanted = {
            let turn = Arc::clone(turn);
            move || turn.take_thread()
        };
        database.on_lane(gates, is_wanted, move |held| {
            if sender.is_canceled() || !its.begin() {
                return;
            }
            let mut cpu = CpuStopwatch::start();
            let sender = Rc::new(sender);
            let (tried, following) = {
                // The receiver may have been dropped with its connection.
                let (sender, of) = (Rc::clone(&sender), Arc::clone(&its));
                let _listening = pace::listen(Some(Rc::new(move || sender.is_canceled() || of.is_to_end())));
                let tried = self.elsewhere(&held, Seat::Lane, Some(&mut cpu));
                let following = match &tried {
                    Try::Done(_) => self.follow(followers, &held, &its, &mut cpu),
                    _ => Vec::new(),
                };
                (tried, following)
            };
            // The caller's thread goes before this one, and may want the locks at once.
            drop(held);
            // The caller may be gone.
            if let Some(sender) = Rc::into_inner(sender) {
                let _ = sender.send((tried, following));
            }
        })?;
        turn.wait(Waits::Lane, receiver).await?.map_err(|_| turn.vanished(Waits::Lane))
    }

    /// Runs plans behind this one under the same locks, each by itself, until one needs more than these, or the turn is over.
    fn follow(
        &self,
        followers: Followers,
        held: &[HeldShard],
        turn: &Turn,
        cpu: &mut CpuStopwatch,
    ) -> Vec<Result<Outcome, Error>> {
        let started = Stopwatch::start();
        let (mut outcomes, mut bytes) = (Vec::with_capacity(followers.plans.len()), 0);
        for plan in followers.plans {
            if started.elapsed() >= followers.time || bytes > FOLLOWING_BYTES_MAX || turn.has_lost_caller() {
                break;
            }
            let follower = Self::new(&self.database, Arc::clone(&self.topology), &plan);
            if follower.shards != self.shards {
                break;
            }
            match catch_unwind(AssertUnwindSafe(|| follower.elsewhere(held, Seat::Lane, Some(&mut *cpu)))) {
                Ok(Try::Done(outcome)) => {
                    bytes += outcome.replies.len();
                    outcomes.push(Ok(outcome));
                }
                // It has changed nothing, and runs again in a turn of its own.
                Ok(_) => break,
                Err(_) => {
                    outcomes.push(Err(turn.vanished(Waits::Lane)));
                    break;
                }
            }
        }
        outcomes
    }

    /// As [`Self::under`] on a thread that is not the caller's. `cpu`: since this began, if the thread may be kept from its
    /// work.
    fn elsewhere(&self, held: &[HeldShard], seat: Seat, cpu: Option<&mut CpuStopwatch>) -> Try {
        let started = Stopwatch::start();
        let mut tried = self.under(held, seat);
        if !matches!(tried, Try::Suspended(_)) {
            // The caller may ask for the counts before this thread unlocks.
            held.iter().for_each(|held| held.gate().guarded.publish());
        }
        let took = started.elapsed();
        lent::add(took);
        if let Try::Done(outcome) = &mut tried {
            outcome.elsewhere = took;
            outcome.elsewhere_cpu = cpu.map_or(took, CpuStopwatch::lap);
        }
        tried
    }

    /// Steps 4 to 8, under the locks.
    fn under(&self, held: &[HeldShard], seat: Seat) -> Try {
        let Self { database, topology, plan, shards } = self;
        let mut contents: SmallVec<[MutexGuard<'_, Contents>; 4]> = held.iter().map(HeldShard::contents).collect();
        let is_current = |(contents, &shard): (&MutexGuard<'_, Contents>, &usize)| {
            !contents.retired && topology.matches(shard, contents)
        };
        if contents.len() != shards.len() || !contents.iter().zip(shards).all(is_current) {
            return Try::Rerouted;
        }
        // A client may have begun to wait for one of its keys since: see [`crate::waiters`].
        if topology.shards.len() > 1
            && database.waiters.has_moves()
            && !route::shards(database, topology, plan).iter().all(|shard| shards.contains(shard))
        {
            return Try::Rerouted;
        }
        let now_ms = plan.asked_ms.max((database.engine.clock)());
        let parts = contents.iter_mut().map(|contents| &mut **contents);
        let mut db = Keyspace::new(parts, &database.shared, plan.first_select(), now_ms, plan.seed);
        let admission = Admission::new(&db, held);
        let mut tried = self.attempt(&mut db, &admission, seat);
        if let Some(script) = db.take_suspended() {
            return self.suspend(&mut db, script);
        }
        let mut replies = Replies::told(plan.witness.is_some());
        serving::serve(&mut db, database, &mut replies);
        let has_changed = db.has_changed();
        // In any case: keys that have expired on the way are freed elsewhere, and leave their effects.
        let left = step::finish(&mut db, database, &mut replies);
        if let Try::Done(outcome) = &mut tried {
            outcome.left = left;
            outcome.has_changed = has_changed;
            outcome.served = replies.take_told();
            if let Some(witness) =
                plan.witness.as_ref().filter(|_| matches!(outcome.ended, Ended::Done | Ended::Repeated))
            {
                witness.ran(outcome, now_ms);
            }
        }
        tried
    }

    /// Takes what its suspended script needs to go on.
    fn suspend(&self, db: &mut Keyspace<'_>, script: Box<dyn Any + Send>) -> Try {
        let Some(PlannedCommand { row, request, context, .. }) = self.plan.commands().next() else {
            return Try::Rerouted;
        };
        Try::Suspended(Box::new(Suspended {
            database: Arc::clone(&self.database),
            row,
            request: request.clone(),
            reply: Reply::within(context.version, self.plan.budget.clone()),
            keyspace: db.detach(),
            script,
            witness: self.plan.witness.clone(),
        }))
    }

    /// Steps 5 to 7.
    fn attempt(&self, db: &mut Keyspace<'_>, admission: &Admission, seat: Seat) -> Try {
        let plan = &*self.plan;
        if let Some(once) = &plan.once {
            match recall::recall_plan(db, plan, once) {
                Err(fault) => return Try::Fault(fault),
                Ok(Some(outcome)) => return Try::Done(outcome),
                Ok(None) => {}
            }
        }
        match plan.is_touched(db) {
            Ok(false) => {}
            Ok(true) => return Try::Done(Outcome::of(Ended::Changed)),
            Err(fault) => return Try::Fault(fault),
        }
        if let Some(fault) = absent(db, &self.database, plan) {
            return Try::Fault(fault);
        }
        if seat == Seat::Worker && !Estimate::of(db, plan).is_short() {
            return Try::Long;
        }
        match admission.admit_all(db, plan) {
            Ok(()) => {}
            Err(NoRoom::Wait(bytes)) => return Try::Short(bytes),
            Err(NoRoom::Log(lsn)) => return Try::Crowded(lsn),
            Err(NoRoom::Refused(error)) => return Try::Done(Outcome::of(Ended::Refused(error))),
        }
        // The room may have been made by dropping a key that the transaction watches.
        if matches!(plan.is_touched(db), Ok(true)) {
            return Try::Done(Outcome::of(Ended::Changed));
        }
        let claim = match &plan.blocking {
            Blocking::Again(waiter) => match waiter.claim() {
                Some(claim) => Some(claim),
                None => return Try::Done(Outcome { blocked: Some(Arc::clone(waiter)), ..Outcome::of(Ended::Done) }),
            },
            Blocking::First | Blocking::No => None,
        };
        let changes = db.change_count();
        match call_all(db, plan, seat) {
            Err(fault) => Try::Fault(fault),
            Ok(outcome) if db.is_suspended() => Try::Done(outcome),
            Ok(mut outcome) => {
                if outcome.replies.was_deferred(outcome.start) {
                    return Try::Long;
                }
                if let Some(once) = &plan.once {
                    recall::keep_plan(db, plan, once, &outcome, changes);
                }
                outcome.blocked = self.settle_wait(db, claim);
                if outcome.blocked.is_none() {
                    outcome.own = db.take_own();
                }
                (outcome.hits, outcome.misses) = (db.hits, db.misses);
                Try::Done(outcome)
            }
        }
    }

    /// Registers a command that waits, or serves one that has waited and has a reply now. Returns the waiter that goes on
    /// waiting.
    fn settle_wait(&self, db: &mut Keyspace<'_>, claim: Option<ClaimedWaiter>) -> Option<Arc<Waiter>> {
        let waiters = &self.database.waiters;
        match (&self.plan.blocking, db.take_wait(), claim) {
            (Blocking::First, Some(wait), _) => Some(waiters.register(self.plan.candidate()?, *wait)),
            (Blocking::Again(waiter), wait, Some(claim)) => {
                // Those behind it have been passed over for it.
                waiter.follow_nudge();
                serving::continue_after(db, waiter);
                if let Some(wait) = wait {
                    waiter.waits_on(&wait, true);
                    return Some(Arc::clone(waiter));
                }
                waiters.remove(waiter);
                claim.serve();
                None
            }
            _ => None,
        }
    }
}

/// A place that the plan needs and that is not in memory. Every place that several commands need must be in memory
/// before the first of them changes anything; a single command says by itself which place it misses.
fn absent(db: &mut Keyspace<'_>, database: &Database, plan: &Plan) -> Option<Fault> {
    let is_alone = plan.steps.len() == 1;
    // After a SWAPDB a command may see any index.
    let swaps = !is_alone && plan.commands().any(|command| command.row.flags.contains(Flags::SWAPS_INDEXES));
    for step in &plan.steps {
        let command = match step {
            Step::Command(command) => command,
            Step::Watch { select, key } => {
                db.select(*select);
                if let Some(fault) = db.missing(db.position(key)) {
                    return Some(fault);
                }
                continue;
            }
            Step::Count => continue,
        };
        let (row, request, select) = (command.row, command.request.as_request(), command.context.select);
        for index in if swaps { 0..ALL_INDEXES as u8 } else { select..select + 1 } {
            db.select(index);
            let fault = step::missing(db, row, request);
            if let Some(fault) = fault.or_else(|| serving::missing_target(db, database, row, request, index)) {
                return Some(fault);
            }
            if is_alone {
                continue;
            }
            if row.flags.intersects(Flags::WHOLE | Flags::BY_CURSOR)
                // A write of whole indexes need not read them, unless it starts from a key: SORT follows patterns anywhere.
                && (!row.flags.contains(Flags::WRITE) || !row.keys.is_empty())
                && let Some(fault) = db.any_missing()
            {
                return Some(fault);
            }
            // A flush or a swap says which watched keys it changes.
            if row.flags.contains(Flags::WHOLE | Flags::WRITE)
                && let Some(fault) = db.watched_missing()
            {
                return Some(fault);
            }
        }
    }
    None
}

/// Calls the commands of the plan one after the other.
///
/// On a worker a long reply of a single command is not completed: [`Reply::was_deferred`].
fn call_all(db: &mut Keyspace<'_>, plan: &Plan, seat: Seat) -> Result<Outcome, Fault> {
    let mut outcome = Outcome::of(Ended::Done);
    let mut reply = Reply::within(Version::Resp2, plan.budget.clone());
    let (is_alone, bytes_before) = (plan.steps.len() == 1, db.resident_bytes());
    db.set_must_finish(!is_alone);
    reply.set_inline_max((is_alone && seat == Seat::Worker).then_some(budget::REPLY_INLINE_MAX));
    if let Some(len) = plan.array {
        reply.array(len);
    }
    outcome.start = reply.len();
    outcome.steps.reserve_exact(plan.steps.len());
    let mut mark = Duration::ZERO;
    let started = Stopwatch::start();
    db.ask(match plan.blocking {
        Blocking::No => Asked::Now,
        Blocking::First => Asked::MayWait,
        Blocking::Again(_) => Asked::Again,
    });
    for (at, step) in plan.steps.iter().enumerate() {
        match step {
            Step::Command(PlannedCommand { row, run, request, context }) => {
                db.select(context.select);
                db.bind_fields(plan.field_set(at));
                db.no_touch(context.no_touch);
                db.set_tracker(context.tracker);
                db.set_script_user(plan.script_user.clone());
                reply.set_version(context.version);
                let request = request.as_request();
                pace::step(budget::of_request(request));
                let admitted = match check_records(db, row, request) {
                    Ok(()) if !is_alone => step::check_growth(db, row, request, bytes_before),
                    checked => checked,
                };
                match admitted {
                    Err(error) => reply.error(&error.to_string()),
                    Ok(()) => match commands::call(row, *run, db, &mut reply, request) {
                        Ok(()) if db.is_suspended() => return Ok(outcome),
                        Ok(()) => {}
                        Err(fault) if is_alone => return Err(fault),
                        Err(_) => reply.error("ERR a part of the database was not in memory"),
                    },
                }
                let now = started.elapsed();
                outcome.steps.push(Ran::Command {
                    end: reply.len(),
                    took: now.saturating_sub(mark),
                    calls: db.take_calls(),
                });
                mark = now;
            }
            Step::Watch { select, key } => {
                db.select(*select);
                // A key that has expired already does not count as changed later.
                db.expire(key);
                if let Some(watching) = &plan.watching {
                    watching.watch(*select, key);
                }
                outcome.steps.push(Ran::Watch);
            }
            Step::Count => {
                db.depend_on_all();
                let counts = std::array::from_fn::<_, ALL_INDEXES, _>(|select| {
                    let (keys, expiring) = db.counts(select as u8);
                    (keys as u64, expiring as u64)
                });
                outcome.steps.push(Ran::Count(Box::new(counts)));
            }
        }
    }
    outcome.replies = reply;
    outcome.published = db.take_published();
    Ok(outcome)
}

#[cfg(test)]
mod costs;
#[cfg(test)]
mod guest_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod waiting_tests;
