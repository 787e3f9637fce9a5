//! The calls of a running script: each goes to the wrapper around every command, with what the executor would do before.
//!
//! Invariants:
//! - Until the script's first write everything that it did can be forgotten, so it may end with a fault, or because it is
//!   long, and run again. From then on it runs to its end, and what it lacks is fetched under its locks.
//! - A guest, which has a turn on a thread that serves others, is suspended there after its first write as soon as it is
//!   long or lacks something, and goes on on the slow lane. Where it cannot be suspended it ends after [`GUEST_MS_MAX`].

use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use dormouse_protocol::{Reply, Request};
use dormouse_scripting::{Course, Halt, Host, RunLimits, Runnable};
use dormouse_storage::stopwatch::Stopwatch;
use dormouse_types::pace;

use crate::commands::cost::{self, BYTES_PER_ELEMENT, TURN};
use crate::commands::growth::{check_records, needs};
use crate::commands::{self, Flags, Row, Run};
use crate::error::Error;
use crate::keyspace::scripts::{Running, ScriptCall, Scripts};
use crate::keyspace::{Asked, Fault, Keyspace};

/// The cost of the steps of a script between two ticks, in elements looked at.
const TICK_COST: usize = 200;
/// Memory of a script, where the process has enough.
const MEMORY_BYTES_MAX: usize = 64 << 20;

/// Memory of a plain script.
const PLAIN_MEMORY_BYTES_MAX: usize = 16 << 20;

/// Memory of a plain script on a worker before it has written: each of its operations may be on all of it.
const SHORT_MEMORY_BYTES_MAX: usize = 128 << 10;

/// Memory of a guest after its first write, and how much of it lets the guest be suspended.
const GUEST_MEMORY_BYTES_MAX: usize = 2 << 20;
const GUEST_HELD_BYTES_MAX: usize = 512 << 10;

/// The cost of the steps of a guest between two questions, and of a call beside its command.
const STEP_COST: usize = 10;
const CALL_COST: usize = 10;

/// A guest that cannot be suspended ends after this time.
const GUEST_MS_MAX: u64 = 20;

/// If a guest has kept its thread for longer, those of its database have to do without for a while.
const GUEST_US_MAX: u128 = 4_000;

/// Values that a script writes as a reply, JSON or MessagePack.
const VALUES_MAX: usize = 1 << 26;

/// The same of a plain script, which nothing interrupts.
const PLAIN_VALUES_MAX: usize = 1 << 17;

/// A script ends after this time, whatever it has done.
pub(super) const TIME_MS_MAX: u64 = 30_000;

/// The table in which scripts find their commands; the engine's own where a process has no other.
static DIRECTORY: OnceLock<FindCommand> = OnceLock::new();

/// Finds a command of any kind, and what runs in a script.
pub type FindCommand = fn(Request<'_>) -> Result<Callable, Uncallable>;

/// A command as scripts find it.
#[derive(Debug, Clone, Copy)]
pub struct Callable {
    pub row: &'static Row,
    /// The function to run, if scripts may call it.
    pub run: Option<Run>,
    /// Its index in the table.
    pub id: usize,
}

/// Why a request is no call of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uncallable {
    Unknown,
    /// Of the command at `id` in the table.
    WrongArity {
        id: usize,
    },
}

/// Names the table of the process, once.
pub fn set_directory(find: FindCommand) {
    // The same table, if a process has several servers.
    let _ = DIRECTORY.set(find);
}

/// Why a script was ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// A place must be loaded first.
    Fault(Fault),
    /// It takes more than a turn.
    Long,
    /// It is a guest that cannot be suspended and takes too long.
    Unsuspendable,
    Killed,
    /// Its client is gone, or the server ends.
    Abandoned,
    TimedOut,
    /// The name of the limit.
    OutOfMemory(&'static str),
    /// A place could not be loaded.
    Store(Error),
}

/// The calls of one run.
pub(super) struct Calls<'d, 'k, 'r> {
    db: &'d mut Keyspace<'k>,
    /// The index that is selected outside.
    select: u8,
    reads_only: bool,
    allow_oom: bool,
    is_plain: bool,
    /// Whether the thread serves connections: what is left of its turn.
    turn: Option<usize>,
    /// It has a turn, and can be suspended.
    is_guest: bool,
    /// Its turn was not enough.
    was_long: bool,
    has_written: bool,
    /// Whether the data has changed: then no command is refused for the state of memory or of the disk, since a part of
    /// the script would remain.
    is_dirty: bool,
    /// Whether memory was full when the script began.
    was_full: bool,
    /// Bytes of data when it began.
    bytes_before: usize,
    /// Whether every key is in the shards that are held.
    holds_all: bool,
    /// `None`: it cannot be long here.
    running: Option<LongRun<'r>>,
    ended: Option<Ended>,
}

/// The state of the calls of a suspended run.
#[derive(Debug)]
pub(super) struct KeptCalls {
    select: u8,
    reads_only: bool,
    allow_oom: bool,
    was_full: bool,
    is_dirty: bool,
    bytes_before: usize,
    started: Stopwatch,
}

/// A run that is asked again and again whether it may go on.
struct LongRun<'r> {
    run: Runnable<'r>,
    request: Request<'r>,
    started: Stopwatch,
    /// On the lane: what may end it.
    end: Option<LaneEnd>,
    /// Takes memory for its work from the client's budget.
    work: Reply,
    work_bytes: usize,
}

/// The end of a run on the lane, for which both its steps and its long commands ask.
struct LaneEnd {
    reasons: Rc<EndReasons>,
    /// In place of the request of the script's caller, which must not end what has changed something.
    _listening: pace::Listening,
}

struct EndReasons {
    started: Stopwatch,
    has_written: Cell<bool>,
    /// The caller's request.
    caller: Option<pace::EndAsked>,
    /// Shows the run to other clients, once it has taken a while.
    shown: OnceCell<Arc<Running>>,
    /// The reason that has ended one of its commands.
    told: Cell<Option<EndReason>>,
}

#[derive(Debug, Clone, Copy)]
enum EndReason {
    Killed,
    Abandoned,
    TimedOut,
}

impl LaneEnd {
    fn new(started: Stopwatch, has_written: bool) -> Self {
        let reasons = Rc::new(EndReasons {
            started,
            has_written: Cell::new(has_written),
            caller: pace::ending(),
            shown: OnceCell::new(),
            told: Cell::new(None),
        });
        let asked = Rc::clone(&reasons);
        let ending = move || {
            asked.told.set(asked.reason());
            asked.told.get().is_some()
        };
        Self { reasons, _listening: pace::listen(Some(Rc::new(ending))) }
    }
}

impl EndReasons {
    fn reason(&self) -> Option<EndReason> {
        let shown = self.shown.get();
        let elapsed_ms = shown.map_or_else(|| self.started.elapsed().as_millis() as u64, |running| running.tick());
        if !self.has_written.get() {
            if shown.is_some_and(|running| running.is_killed()) {
                return Some(EndReason::Killed);
            }
            if self.caller.as_ref().is_some_and(|caller| caller()) {
                return Some(EndReason::Abandoned);
            }
        }
        (elapsed_ms > TIME_MS_MAX).then_some(EndReason::TimedOut)
    }
}

impl From<EndReason> for Ended {
    fn from(reason: EndReason) -> Self {
        match reason {
            EndReason::Killed => Self::Killed,
            EndReason::Abandoned => Self::Abandoned,
            EndReason::TimedOut => Self::TimedOut,
        }
    }
}

impl<'r> LongRun<'r> {
    fn new(run: Runnable<'r>, request: Request<'r>, started: Stopwatch, reply: &Reply, end: Option<LaneEnd>) -> Self {
        Self { run, request, started, end, work: reply.another(), work_bytes: 0 }
    }

    /// Shows a run on the lane to other clients, which may kill it.
    fn show(&self, scripts: &Scripts, is_dirty: bool) {
        let Some(LaneEnd { reasons, .. }) = &self.end else { return };
        reasons.shown.get_or_init(|| {
            let is_function = matches!(self.run, Runnable::Function(..));
            let running = Running::new(scripts, &self.run.title(), is_function, self.request, self.started);
            if is_dirty {
                running.writes();
            }
            scripts.begin(running)
        });
    }

    fn reasons(&self) -> Option<&EndReasons> {
        self.end.as_ref().map(|end| &*end.reasons)
    }

    fn shown(&self) -> Option<&Arc<Running>> {
        self.reasons()?.shown.get()
    }
}

impl<'d, 'k, 'r> Calls<'d, 'k, 'r> {
    pub(super) fn new(
        db: &'d mut Keyspace<'k>,
        reply: &Reply,
        request: Request<'r>,
        run: Runnable<'r>,
        is_plain: bool,
    ) -> Self {
        let turn = reply.is_inline().then_some(TURN);
        if !db.must_finish() {
            db.forget_calls();
        }
        let running = (!is_plain || turn.is_none()).then(|| {
            let started = Stopwatch::start();
            let end = turn.is_none().then(|| LaneEnd::new(started, db.must_finish()));
            LongRun::new(run, request, started, reply, end)
        });
        Self {
            select: db.selected(),
            reads_only: false,
            allow_oom: false,
            is_plain,
            turn,
            is_guest: turn.is_some() && !is_plain,
            was_long: false,
            // In a transaction nothing may run again.
            has_written: db.must_finish(),
            is_dirty: false,
            was_full: db.shared().is_full(),
            bytes_before: db.resident_bytes(),
            holds_all: db.holds_all(),
            running,
            ended: None,
            db,
        }
    }

    /// The calls of a suspended run, where it goes on.
    pub(super) fn again(
        db: &'d mut Keyspace<'k>,
        reply: &Reply,
        request: Request<'r>,
        run: Runnable<'r>,
        kept: KeptCalls,
    ) -> Self {
        let KeptCalls { select, reads_only, allow_oom, was_full, is_dirty, bytes_before, started } = kept;
        Self {
            select,
            reads_only,
            allow_oom,
            is_plain: false,
            turn: None,
            is_guest: false,
            was_long: false,
            has_written: true,
            is_dirty,
            was_full,
            bytes_before,
            holds_all: db.holds_all(),
            running: Some(LongRun::new(run, request, started, reply, Some(LaneEnd::new(started, true)))),
            ended: None,
            db,
        }
    }

    /// Keeps the calls of a run that is suspended.
    pub(super) fn keep(self) -> Option<KeptCalls> {
        self.note_time();
        let started = self.running.as_ref()?.started;
        let Self { select, reads_only, allow_oom, was_full, is_dirty, bytes_before, .. } = self;
        Some(KeptCalls { select, reads_only, allow_oom, was_full, is_dirty, bytes_before, started })
    }

    /// Whether its turn was not enough.
    pub(super) fn was_long(&self) -> bool {
        self.was_long
    }

    /// The part of its turn that a guest has taken.
    pub(super) fn spent(&self) -> usize {
        self.turn.map_or(0, |left| TURN - left)
    }

    /// Bars guests for a while if this one has kept its thread for too long. One that has spent little may have lost its
    /// processor instead.
    fn note_time(&self) {
        if self.is_guest
            && self.was_long
            && let Some(running) = &self.running
            && running.started.elapsed().as_micros() > GUEST_US_MAX
        {
            self.db.shared().scripts.bar_guests();
        }
    }

    /// Sets what the script's flags allow it.
    pub(super) fn restrict(&mut self, reads_only: bool, allow_oom: bool) {
        (self.reads_only, self.allow_oom) = (reads_only, allow_oom);
    }

    pub(super) fn limits(&mut self) -> RunLimits {
        // Memory is counted at ticks, and a script may take all of this between two of them.
        let most = match (self.is_guest, self.is_plain) {
            (true, _) => GUEST_MEMORY_BYTES_MAX,
            (false, true) => PLAIN_MEMORY_BYTES_MAX,
            (false, false) => MEMORY_BYTES_MAX,
        };
        let memory_bytes = self.db.shared().memory.of_uncounted_work(most);
        let values = if self.is_plain { PLAIN_VALUES_MAX } else { VALUES_MAX };
        let is_short = self.turn.is_some() && !self.has_written;
        let first_memory_bytes = if is_short { SHORT_MEMORY_BYTES_MAX } else { memory_bytes };
        let (guest, ticks) = (self.is_guest, !self.is_plain && !self.is_guest);
        RunLimits { memory_bytes, first_memory_bytes, ticks, guest, values, chance: self.db.random() }
    }

    /// Ends the run; returns why it was ended early.
    pub(super) fn end(self) -> Option<Ended> {
        self.note_time();
        if let Some(running) = self.running.as_ref().and_then(LongRun::shown) {
            self.db.shared().scripts.end(running);
        }
        self.db.select(self.select);
        self.db.forget_field_sets();
        self.ended
    }

    fn halt<T>(&mut self, why: Ended) -> Result<T, Halt> {
        self.ended = Some(why);
        Err(Halt)
    }

    fn find(&self, request: Request<'_>) -> Result<Callable, Uncallable> {
        match DIRECTORY.get() {
            Some(find) => find(request),
            None => commands::find(request)
                .map(|(row, run)| Callable { row, run: Some(run), id: 0 })
                .ok_or(Uncallable::Unknown),
        }
    }

    /// The function that runs the request, or the error to reply.
    fn admit(&self, Callable { row, run, .. }: Callable, request: Request<'_>) -> Result<Run, Error> {
        let run = run.filter(|_| !row.flags.contains(Flags::NO_SCRIPT));
        let run = run.ok_or(Error::text("ERR This Redis command is not allowed from script"))?;
        if let Some(user) = self.db.script_user() {
            let denied = |text| Error::Text(format!("ERR ACL failure in script: {text}").into());
            user.check(request, self.db.selected()).map_err(denied)?;
        }
        let writes = row.flags.contains(Flags::WRITE);
        // An effect elsewhere, like that of PUBLISH, counts as a write.
        if self.reads_only && (writes || row.flags.contains(Flags::MAY_REPLICATE)) {
            return Err(Error::text("ERR Write commands are not allowed from read-only scripts."));
        }
        if row.flags.contains(Flags::DENY_OOM) && self.was_full && !self.allow_oom && !self.is_dirty {
            return Err(Error::OutOfMemory);
        }
        if writes && !self.is_dirty {
            self.db.shared().admit_client()?;
        }
        Ok(run)
    }

    /// Sees to it that everything that the request needs is in memory.
    fn load(&mut self, row: &Row, request: Request<'_>, can_suspend: bool) -> Result<Course, Halt> {
        while let Some(fault) = missing(self.db, row, request) {
            if self.fetch(fault, can_suspend)? == Course::Suspend {
                return Ok(Course::Suspend);
            }
        }
        Ok(Course::On)
    }

    /// Loads a place, now or before the script runs again, or goes on.
    fn fetch(&mut self, fault: Fault, can_suspend: bool) -> Result<Course, Halt> {
        if !self.has_written {
            return self.halt(Ended::Fault(fault));
        }
        match (self.is_guest, can_suspend) {
            (true, true) => Ok(Course::Suspend),
            (true, false) => self.halt(Ended::Unsuspendable),
            (false, _) => {
                self.db.load_now(fault).or_else(|error| self.halt(Ended::Store(error)))?;
                Ok(Course::On)
            }
        }
    }

    /// Takes the cost of work that comes from the turn.
    fn spend(&mut self, cost: usize, can_suspend: bool) -> Result<Course, Halt> {
        let fits = self.turn.is_none_or(|left| cost <= left);
        self.has_spent(cost)?;
        match (fits || !self.is_guest, can_suspend) {
            (false, true) => Ok(Course::Suspend),
            (false, false) if cost > TURN => self.halt(Ended::Unsuspendable),
            _ => Ok(Course::On),
        }
    }

    /// The same of work that is done, or cannot wait.
    fn has_spent(&mut self, cost: usize) -> Result<(), Halt> {
        let Some(left) = &mut self.turn else { return Ok(()) };
        if let Some(rest) = left.checked_sub(cost) {
            *left = rest;
            return Ok(());
        }
        self.was_long = true;
        *left = 0;
        if self.has_written { Ok(()) } else { self.halt(Ended::Long) }
    }

    /// Runs a call, or replies with the reason why not. Returns whether it has run; `None`: the script is suspended first.
    fn perform(
        &mut self,
        callable: Callable,
        request: Request<'_>,
        reply: &mut Reply,
        can_suspend: bool,
    ) -> Result<Option<bool>, Halt> {
        let row = callable.row;
        let run = match self.admit(callable, request) {
            Ok(run) => run,
            Err(error) => {
                reply.error(&error.to_string());
                return Ok(Some(false));
            }
        };
        if !self.holds_all
            && (row.flags.intersects(Flags::WHOLE | Flags::BY_CURSOR)
                || !row.key_indexes(request).all(|key| self.db.holds(request.arg(key))))
        {
            // A plain script names its keys, so this is none that it has declared.
            reply.error("ERR Script attempted to access a non local key in a cluster node");
            return Ok(Some(false));
        }
        if !self.db.is_resident() && self.load(row, request, can_suspend)? == Course::Suspend {
            return Ok(None);
        }
        if self.is_guest && row.flags.contains(Flags::MAY_REPLICATE) {
            // Messages leave at the end of a plan: a batch has no place for them.
            return match (self.has_written, can_suspend) {
                (false, _) => self.halt(Ended::Long),
                (true, true) => Ok(None),
                (true, false) => self.halt(Ended::Unsuspendable),
            };
        }
        let cost = row.cost.map_or(0, |cost| cost(self.db, request));
        if cost > TURN
            && !self.is_guest
            && let Some(running) = &self.running
        {
            running.show(&self.db.shared().scripts, self.is_dirty);
        }
        let own = cost::of_request(request) + if self.is_guest { CALL_COST } else { 0 };
        if self.spend(cost.saturating_add(own), can_suspend)? == Course::Suspend {
            return Ok(None);
        }
        if let Err(error) = check_records(self.db, row, request) {
            reply.error(&error.to_string());
            return Ok(Some(false));
        }
        let needs = needs(self.db, row, request);
        if (needs.adds > 0 || needs.while_it_runs > 0)
            && let Err(error) = self.db.check_growth(self.bytes_before, needs)
        {
            reply.error(&error.to_string());
            return Ok(Some(false));
        }
        match self.run(row, run, request, reply, can_suspend)? {
            Course::On => Ok(Some(true)),
            Course::Suspend => Ok(None),
        }
    }

    fn run(
        &mut self,
        row: &'static Row,
        run: Run,
        request: Request<'_>,
        reply: &mut Reply,
        can_suspend: bool,
    ) -> Result<Course, Halt> {
        // What is to be written elsewhere is noticed as soon as it becomes long.
        reply.set_inline_max(self.turn.filter(|_| !self.has_written).map(|_| 2 * BYTES_PER_ELEMENT * TURN / 10));
        loop {
            // A script never waits, even where its own caller may.
            let asked = self.db.ask(Asked::ByScript);
            let done = commands::call(row, run, self.db, reply, request);
            self.db.ask(asked);
            self.is_dirty |= self.db.changes() > 0;
            if self.is_dirty && !self.has_written {
                self.has_written = true;
                if let Some(reasons) = self.running.as_ref().and_then(LongRun::reasons) {
                    reasons.has_written.set(true);
                    if let Some(running) = reasons.shown.get() {
                        // Killed in the same moment: what is written is.
                        running.writes();
                    }
                }
            }
            // The command was ended, and the script with it.
            let told = self.running.as_ref().and_then(|running| running.reasons()?.told.take());
            if let Some(reason) = told.filter(|_| done.is_ok()) {
                return self.halt(reason.into());
            }
            match done {
                Ok(()) if reply.was_deferred(0) => return self.halt(Ended::Long),
                Ok(()) => return self.has_spent(reply.len() / BYTES_PER_ELEMENT).map(|()| Course::On),
                Err(fault) => {
                    if self.fetch(fault, can_suspend)? == Course::Suspend {
                        return Ok(Course::Suspend);
                    }
                }
            }
        }
    }
}

/// A place that a request needs and that is not in memory.
fn missing(db: &Keyspace<'_>, row: &Row, request: Request<'_>) -> Option<Fault> {
    if row.flags.contains(Flags::ALL_RESIDENT)
        && let Some(fault) = db.any_missing()
    {
        return Some(fault);
    }
    let here = row.key_indexes(request).find_map(|key| db.missing(db.position(request.arg(key))));
    here.or_else(|| {
        let (select, key) = row.elsewhere?(request)?;
        db.missing_in(select, db.position(request.arg(key)))
    })
}

impl Host for Calls<'_, '_, '_> {
    fn call(&mut self, request: Request<'_>, reply: &mut Reply, can_suspend: bool) -> Result<Course, Halt> {
        let started = Stopwatch::start();
        let (command, has_run) = match self.find(request) {
            Ok(callable) => {
                let each_key =
                    |add: &mut dyn FnMut(&[u8])| callable.row.for_each_key(request, |key| add(request.arg(key)));
                let outer = self.db.enter_call(each_key);
                let performed = self.perform(callable, request, reply, can_suspend);
                self.db.leave_call(outer);
                match performed? {
                    Some(has_run) => (Some(callable.id), has_run),
                    None => return Ok(Course::Suspend),
                }
            }
            Err(Uncallable::Unknown) => {
                reply.error("ERR Unknown Redis command called from script");
                (None, false)
            }
            Err(Uncallable::WrongArity { id }) => {
                reply.error("ERR Wrong number of args calling Redis command from script");
                (Some(id), false)
            }
        };
        let (took, select) = (started.elapsed(), self.db.selected());
        self.db.note_call(&ScriptCall { command, has_run, took, select, request, reply: &reply.buffer });
        Ok(Course::On)
    }

    fn step(&mut self, held_bytes: usize, can_suspend: bool) -> Result<Course, Halt> {
        if !self.is_guest {
            return self.tick(held_bytes).map(|()| Course::On);
        }
        if self.has_written && can_suspend && held_bytes > GUEST_HELD_BYTES_MAX {
            self.was_long = true;
            return Ok(Course::Suspend);
        }
        let course = self.spend(STEP_COST, can_suspend)?;
        if course == Course::On && self.turn == Some(0) {
            self.tick(held_bytes)?;
        }
        Ok(course)
    }

    fn tick(&mut self, held_bytes: usize) -> Result<(), Halt> {
        pace::step(TICK_COST);
        let Some(run) = &mut self.running else { return Ok(()) };
        if self.is_guest {
            return match self.has_written && run.started.elapsed().as_millis() as u64 > GUEST_MS_MAX {
                true => self.halt(Ended::Unsuspendable),
                false => self.has_spent(TICK_COST),
            };
        }
        let scripts = &self.db.shared().scripts;
        run.show(scripts, self.is_dirty);
        if let Some(reason) = run.reasons().and_then(EndReasons::reason) {
            return self.halt(reason.into());
        }
        let LongRun { work, work_bytes, .. } = run;
        if held_bytes > *work_bytes {
            let more = held_bytes - *work_bytes;
            *work_bytes = held_bytes;
            if let Err(limit) = work.work(more) {
                return self.halt(Ended::OutOfMemory(limit));
            }
        }
        Ok(())
    }

    fn weigh(&mut self, bytes: usize) -> Result<(), Halt> {
        self.has_spent(bytes / BYTES_PER_ELEMENT)?;
        self.tick(0)
    }

    fn outgrow(&mut self) -> Result<(), Halt> {
        if self.turn.is_none() || self.has_written { Ok(()) } else { self.halt(Ended::Long) }
    }

    fn is_final(&self) -> bool {
        self.has_written
    }

    fn allows(&mut self, request: Request<'_>) -> Option<bool> {
        self.find(request).ok()?;
        Some(self.db.script_user().is_none_or(|user| user.may_run(request, self.db.selected())))
    }

    fn log(&mut self, level: i64, line: &[u8]) {
        if let Some(surroundings) = self.db.shared().scripts.surroundings() {
            surroundings.log(level, &String::from_utf8_lossy(line));
        }
    }
}
