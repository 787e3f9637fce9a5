//! Requests to the executor, and its outcomes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dormouse_protocol::{Budget, OwnedRequest, Reply};
use smallvec::SmallVec;

use super::once::Once;
use crate::commands::{Context, Flags, Row, Run, cost};
use crate::database::Counts;
use crate::error::Error;
use crate::keyspace::changes::Watching;
use crate::keyspace::field_sets::FieldSet;
use crate::keyspace::scripts::{Published, ScriptTrace, ScriptUser};
use crate::keyspace::tracking::Invalidated;
use crate::keyspace::{Fault, Keyspace, Left};
use crate::waiters::{Candidate, Waiter, WaitingUser};

/// Commands over one database that run as one: under the same locks, with one entry in the log.
#[derive(Debug)]
pub struct Plan {
    pub steps: SmallVec<[Step; 1]>,
    /// It runs only if none of these keys has changed. [`Step::Watch`] adds to them instead.
    pub watching: Option<Arc<Watching>>,
    /// Unix milliseconds at which it was asked for.
    pub asked_ms: u64,
    /// Chance for its commands.
    pub seed: u64,
    pub witness: Option<Witness>,
    /// A limit on the memory of its replies; `None`: no limit.
    pub budget: Option<Arc<dyn Budget>>,
    /// The user on whose behalf its scripts run; `None`: one who may do everything.
    pub script_user: Option<Arc<dyn ScriptUser>>,
    /// The user on whose behalf its command waits; `None`: one who may do everything.
    pub waiting_user: Option<Arc<dyn WaitingUser>>,
    /// For a plan of one command: what it does if that finds nothing and would wait.
    pub blocking: Blocking,
    /// Its replies are in an array of this length, perhaps with others between them.
    pub array: Option<usize>,
    /// It is no use of the database: it wakes it [briefly](crate::database::Database::awake_briefly).
    pub is_poll: bool,
    /// The field sets that its steps name, with their numbers.
    pub field_sets: Vec<(usize, Arc<FieldSet>)>,
    /// It runs at most once under this key. Its commands may not wait then.
    pub once: Option<Once>,
}

/// Whether the command of a plan may wait.
#[derive(Debug, Clone, Default)]
pub enum Blocking {
    /// It replies at once, as in a transaction or a script.
    #[default]
    No,
    /// Its client becomes a waiter.
    First,
    /// It has waited, and waits on if it finds nothing.
    Again(Arc<Waiter>),
}

/// One step of a plan.
#[derive(Debug)]
pub enum Step {
    Command(PlannedCommand),
    /// Watches a key from this moment on.
    Watch {
        select: u8,
        key: Box<[u8]>,
    },
    /// Counts the keys of every index at this moment. The reply of a command of the session tells them.
    Count,
}

/// A command with all that it needs to run on any thread. Its arity has been checked.
#[derive(Debug, Clone)]
pub struct PlannedCommand {
    pub row: &'static Row,
    pub run: Run,
    pub request: OwnedRequest,
    pub context: Context,
}

/// A callback that runs after a plan, while the plan's locks are still held.
#[derive(Clone)]
pub struct Witness(Arc<Told>);

/// Takes the outcome, and the time at which the plan has run.
type Told = dyn Fn(&Outcome, u64) + Send + Sync;

/// How a plan ended.
#[derive(Debug)]
pub struct Outcome {
    pub ended: Ended,
    /// The replies of its commands, one after the other, behind the head of their array.
    pub replies: Reply,
    /// Where the first of them begins.
    pub start: usize,
    /// The waiter that its command has become or still is, or that was served meanwhile. There is no reply then.
    pub blocked: Option<Arc<Waiter>>,
    /// The commands that were run for waiters, in order, if the plan has a witness.
    pub served: Vec<ServedCommand>,
    /// The outcome of each step; empty unless it ran.
    pub steps: Vec<Ran>,
    /// The log entries that the replies wait for.
    pub left: Left,
    /// Messages of its scripts, to be published.
    pub published: Vec<Published>,
    /// Invalidations for its own client, to be sent behind its replies.
    pub own: Vec<Invalidated>,
    pub hits: u64,
    pub misses: u64,
    /// Whether it has changed a key.
    pub has_changed: bool,
    /// How long it ran on another thread than the caller's.
    pub elsewhere: Duration,
    /// For how much of that the thread had a processor.
    pub elsewhere_cpu: Duration,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    Done,
    /// A key that it watches has changed: nothing was run.
    Changed,
    /// Refused before its first command.
    Refused(Error),
    /// It was run before: the replies are those that it had then.
    Repeated,
}

/// A waiter's command that was run for a key that had become ready.
#[derive(Debug)]
pub struct ServedCommand {
    pub waiter: Arc<Waiter>,
    pub key: Box<[u8]>,
    pub reply: Vec<u8>,
}

/// A step that has run.
#[derive(Debug)]
pub enum Ran {
    /// Where its reply ends, and how long it took.
    Command {
        end: usize,
        took: Duration,
        /// The calls of a script.
        calls: Option<Box<ScriptTrace>>,
    },
    Watch,
    Count(Box<Counts>),
}

/// The cost of watching a key: it is looked up, and noted in two maps.
const COST_OF_WATCH: usize = 4;

impl Plan {
    pub fn new(asked_ms: u64, seed: u64) -> Self {
        Self {
            steps: SmallVec::new(),
            watching: None,
            asked_ms,
            seed,
            witness: None,
            budget: None,
            script_user: None,
            waiting_user: None,
            blocking: Blocking::No,
            array: None,
            is_poll: false,
            field_sets: Vec::new(),
            once: None,
        }
    }

    /// The field set that a step names, if its connection has it.
    pub(super) fn field_set(&self, step: usize) -> Option<Arc<FieldSet>> {
        let found = self.field_sets.binary_search_by_key(&step, |(of, _)| *of).ok()?;
        Some(Arc::clone(&self.field_sets[found].1))
    }

    /// A plan of one command.
    pub fn one(command: PlannedCommand, asked_ms: u64, seed: u64) -> Self {
        let mut plan = Self::new(asked_ms, seed);
        plan.steps.push(Step::Command(command));
        plan
    }

    pub fn commands(&self) -> impl Iterator<Item = &PlannedCommand> {
        self.steps.iter().filter_map(|step| match step {
            Step::Command(command) => Some(command),
            Step::Watch { .. } | Step::Count => None,
        })
    }

    /// Its command as a waiter's, if it may wait.
    pub(super) fn candidate(&self) -> Option<Candidate> {
        let PlannedCommand { row, run, request, context } = self.commands().next()?;
        let (row, run, request, context) = (*row, *run, request.clone(), *context);
        let (budget, user) = (self.budget.clone(), self.waiting_user.clone());
        Some(Candidate { row, run, request, context, budget, user })
    }

    pub(super) fn any(&self, flags: Flags) -> bool {
        self.commands().any(|command| command.row.flags.intersects(flags))
    }

    /// Whether it is known to be long without a look at the keys.
    pub(super) fn is_slow(&self) -> bool {
        let read = |command: &PlannedCommand| cost::of_request(command.request.as_request());
        let watched = self.steps.iter().filter(|step| matches!(step, Step::Watch { .. })).count();
        let requests = self.commands().map(read).sum::<usize>() + watched * COST_OF_WATCH;
        self.any(Flags::SLOW_LANE) || requests > cost::TURN
    }

    /// Whether everything must be in memory before it runs.
    pub(super) fn needs_all(&self) -> bool {
        self.any(Flags::ALL_RESIDENT)
    }

    /// The index of its first command.
    pub(super) fn first_select(&self) -> u8 {
        self.commands().next().map_or(0, |command| command.context.select)
    }

    /// Whether it watches keys rather than being guarded by them.
    pub(super) fn adds_watches(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Watch { .. }))
    }

    /// Looks at the keys that guard it.
    ///
    /// # Errors
    /// A place of one of them that must be loaded first.
    pub(super) fn is_touched(&self, db: &mut Keyspace<'_>) -> Result<bool, Fault> {
        let Some(watching) = self.watching.as_ref().filter(|_| !self.adds_watches()) else { return Ok(false) };
        for (select, key) in watching.keys().iter() {
            db.select(*select);
            if let Some(fault) = db.missing(db.position(key)).filter(|_| !watching.is_touched()) {
                return Err(fault);
            }
            // A watched key that has expired counts as changed: looking at it says so.
            db.expire(key);
        }
        if watching.is_touched() {
            // The answer reveals another client's write.
            db.depend_on_all();
        }
        Ok(watching.is_touched())
    }
}

impl Witness {
    pub fn new(ran: impl Fn(&Outcome, u64) + Send + Sync + 'static) -> Self {
        Self(Arc::new(ran))
    }

    pub(super) fn ran(&self, outcome: &Outcome, now_ms: u64) {
        self.0(outcome, now_ms);
    }
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Witness")
    }
}

impl Outcome {
    pub(super) fn of(ended: Ended) -> Self {
        Self {
            ended,
            replies: Reply::default(),
            start: 0,
            blocked: None,
            served: Vec::new(),
            steps: Vec::new(),
            left: Left::default(),
            published: Vec::new(),
            own: Vec::new(),
            hits: 0,
            misses: 0,
            has_changed: false,
            elsewhere: Duration::ZERO,
            elsewhere_cpu: Duration::ZERO,
        }
    }

    /// The reply of each command.
    pub fn each_reply(&self) -> impl Iterator<Item = &[u8]> {
        let mut from = self.start;
        self.steps.iter().filter_map(move |ran| match ran {
            Ran::Command { end, .. } => {
                let reply = &self.replies.buffer[from..*end];
                from = *end;
                Some(reply)
            }
            Ran::Watch | Ran::Count(_) => None,
        })
    }
}
