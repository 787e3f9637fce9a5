//! The executor's inline case: a pipeline of plain commands over one shard.
//!
//! 1. Take the lock of the shard that has the first key, if it is free.
//! 2. Parse a window of the requests that follow and belong to the same shard, and foresee their keys, so that their
//!    data are prefetched.
//! 3. Run them: residency, budget, admission, call.
//! 4. Go on with the next window until the input, the budget or the room for replies ends, or a request needs more than
//!    this lock.
//! 5. Leave the effects as one entry of the log, and release the lock.
//!
//! The caller is a type parameter, so that its table and its meters are compiled into the loop.

use std::sync::Arc;

use dormouse_protocol::{Parsed, Parser, Reply, Request, Span};
use futures::channel::oneshot;

use super::ahead::{self, Ahead, FoundCommand, Waiting};
use super::budget::{self, Fit, TurnBudget};
use super::plan::Outcome;
use super::route::{self, slot_of};
use super::serving::{Replies, missing_target, serve};
use super::step::{Admission, missing, run_one};
use super::suspended::Suspended;
use super::{once, recall, step, try_hold};
use crate::commands::{Row, Run};
use crate::database::Database;
use crate::keyspace::scripts::ScriptTrace;
use crate::keyspace::tracking::Tracker;
use crate::keyspace::{Asked, Contents, Keyspace, Left};
use dormouse_storage::stopwatch::Stopwatch;

/// Replies beyond this are sent before the batch goes on: a pipeline must not pile up gigabytes.
pub const REPLY_HIGH_WATER: usize = 1 << 20;

/// One batch in this many is timed for the autoscaler.
const SAMPLE: u64 = 16;

/// The caller's side of a batch: its command table and its meters.
pub trait Front {
    /// An entry of its table.
    type Entry: Copy;
    /// Passed from [`Self::begin`] to [`Self::ran`].
    type Mark;

    /// The command over the keyspace that has this name.
    fn find(&self, name: &[u8]) -> Option<(Self::Entry, Run)>;

    /// The command over the keyspace in a request with `ONCE`.
    fn find_once(&self, request: Request<'_>) -> Option<FoundCommand<Self::Entry>>;

    /// The user on whose behalf the batch runs.
    fn user(&self) -> &[u8];

    fn row(entry: Self::Entry) -> &'static Row;

    /// Whether the caller may run this request. If not, the batch ends before it.
    fn permits(&self, entry: Self::Entry, request: Request<'_>) -> bool;

    /// Called before a command runs, with its bytes of input and its estimated cost.
    fn begin(&mut self, entry: Self::Entry, bytes: usize, cost: usize) -> Self::Mark;

    /// It has run; `bytes` are those of its input, its reply begins where `reply` says, and if it was a script it made
    /// these calls. Returns the cost of telling others.
    fn ran(
        &mut self,
        entry: Self::Entry,
        request: Request<'_>,
        bytes: usize,
        reply: (&Reply, usize),
        mark: Self::Mark,
        calls: Option<&ScriptTrace>,
    ) -> usize;

    /// The replies that have not been noted yet, up to `end`, wait for the entries in `left`.
    fn left(&mut self, left: Left, end: usize);

    /// The next request is a script that has begun, and goes on elsewhere: it has this outcome in the end.
    fn goes_on(&mut self, outcome: oneshot::Receiver<Outcome>);
}

/// The origin of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Asker {
    pub select: u8,
    pub no_touch: bool,
    pub tracker: Tracker,
    pub now_ms: u64,
    /// Chance for its commands.
    pub seed: u64,
}

/// The bytes of a batch, with their parser. `ahead` has been [begun](Ahead::begin) with the first request; it is kept
/// for its allocations.
pub struct Input<'p, 'i, E> {
    pub parser: &'p mut Parser,
    pub bytes: &'i [u8],
    pub ahead: &'p mut Ahead<E>,
}

/// Why a batch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The input is used up.
    Read,
    /// The replies must be sent first.
    Flush,
    /// The budget of this turn is spent.
    Yield,
    /// The next request cannot be run under this lock.
    Other,
    /// The next request has to wait: [`super::run`] takes it.
    Wait,
}

/// The progress of a batch.
#[derive(Debug, Clone, Copy)]
pub struct InlineOutcome {
    /// Bytes of the input.
    pub used: usize,
    pub stop: Stop,
    /// Whether it had the lock.
    pub is_under_lock: bool,
    pub hits: u64,
    pub misses: u64,
    /// Whether it has changed a key.
    pub has_changed: bool,
}

impl InlineOutcome {
    const NOTHING: Self =
        Self { used: 0, stop: Stop::Wait, is_under_lock: false, hits: 0, misses: 0, has_changed: false };
}

/// Runs the requests of `input` under the lock of the shard that has the first one's keys, as long as they belong to it.
#[inline]
pub fn run<'i, F: Front>(
    database: &Arc<Database>,
    asker: Asker,
    front: &mut F,
    input: Input<'_, 'i, F::Entry>,
    reply: &mut Reply,
    budget: &mut TurnBudget,
) -> InlineOutcome {
    let topology = database.topology_guard();
    let Some(topology) = topology.as_ref() else { return InlineOutcome::NOTHING };
    let Input { parser, bytes, ahead } = input;
    let slot = || {
        let command = ahead.command(0, bytes);
        match F::row(ahead.get(0).found.entry).first_key(command) {
            Some(key) => Some(slot_of(command.arg(key))),
            None => ahead.get(0).found.once.map(|_| slot_of(ahead.request(0, bytes).arg(once::KEY))),
        }
    };
    let single = topology.shards.len() == 1;
    let shard = match single {
        true => 0,
        false => slot().map_or(0, |slot| topology.of_slot(slot)),
    };
    let Some(held) = try_hold(&topology.shards[shard]) else { return InlineOutcome::NOTHING };
    let mut contents = held.contents();
    if contents.retired || !topology.matches(shard, &contents) {
        return InlineOutcome::NOTHING;
    }
    let sampled = sample(&mut contents, slot);
    let resident = contents.is_resident();
    let range = (contents.first_slot, contents.end_slot);
    let Asker { select, no_touch, tracker, now_ms, seed } = asker;
    let mut db = Keyspace::new([&mut *contents], &database.shared, select, now_ms, seed);
    db.no_touch(no_touch);
    db.set_tracker(tracker);
    db.tell_in_line(tracker.is_in_line);
    db.ask(Asked::MayWait);
    db.set_foreseen(std::mem::take(&mut ahead.foreseen));
    let admission = Admission::new(&db, std::slice::from_ref(&held));
    let (mut operations, mut freed, mut replies) = (0, 0, Replies::default());
    let mut suspended = None;
    let mut at = 0;
    let stop = 'windows: loop {
        let belongs = |found: &FoundCommand<F::Entry>, request: Request<'_>| {
            let (row, command) = (F::row(found.entry), found.command(request));
            single
                || !route::strays(&database.shared, row, command)
                    && route::belongs(row, command, range)
                    && (found.once.is_none() || route::covers(range, request.arg(once::KEY)))
        };
        let (parsed, after) = look_ahead(front, ahead, parser, (bytes, at), &mut db, belongs);
        for turn in 0..ahead.len() {
            let Waiting { found, end, keys, .. } = ahead.get(turn);
            let request = ahead.request(turn, bytes);
            let FoundCommand { entry, run, once } = found;
            let (row, command) = (F::row(entry), found.command(request));
            db.reach(keys);
            if reply.len() > REPLY_HIGH_WATER {
                parser.restart();
                break 'windows Stop::Flush;
            }
            let is_missing = || {
                missing(&db, row, command).is_some()
                    || missing_target(&db, database, row, command, db.selected()).is_some()
                    || once.is_some() && db.missing_receipt(request.arg(once::KEY)).is_some()
            };
            if !resident && is_missing() {
                parser.restart();
                break 'windows Stop::Wait;
            }
            if !single && database.waiters.has_moves() && !route::follows_within(database, row, command, range) {
                parser.restart();
                break 'windows Stop::Wait;
            }
            let cost = budget::cost(&db, row, command).saturating_add(if once.is_some() { once::COST } else { 0 });
            match budget.take(cost) {
                Fit::Now => {}
                fit => {
                    parser.restart();
                    break 'windows if fit == Fit::Later { Stop::Yield } else { Stop::Wait };
                }
            }
            if !front.permits(entry, command) || once.is_some_and(|once| !front.permits(once, request)) {
                parser.restart();
                break 'windows Stop::Wait;
            }
            if row.strays.is_some() && route::strays(&database.shared, row, command) {
                if once.is_some() {
                    parser.restart();
                    break 'windows Stop::Wait;
                }
                // If it is suspended, it takes along nothing of those before it.
                if db.is_unfinished() {
                    front.left(step::finish(&mut db, database, &mut replies), reply.len());
                }
            }
            let before = reply.len();
            // A request with `ONCE` counts as that command.
            let counted = once.unwrap_or(entry);
            let mark = front.begin(counted, end - at, cost);
            let ran = match once {
                None => run_one(&mut db, &admission, (row, run), command, reply),
                Some(_) => recall::run_one(&mut db, &admission, (front.user(), request), (row, run), reply),
            };
            if db.is_suspended() {
                suspended = Some((row, command.to_owned()));
                parser.restart();
                break 'windows Stop::Wait;
            }
            if ran.is_err() || reply.was_deferred(before) || db.has_wait() {
                parser.restart();
                break 'windows Stop::Wait;
            }
            budget.spend(serve(&mut db, database, &mut replies));
            budget.spend((reply.len() - before) / budget::BYTES_PER_ELEMENT + db.take_spent());
            if db.freed_bytes() != freed {
                budget.spend((db.freed_bytes() - freed) / budget::FREED_BYTES_PER_ELEMENT);
                freed = db.freed_bytes();
            }
            let calls = db.take_calls();
            budget.spend(front.ran(counted, request, end - at, (reply, before), mark, calls.as_deref()));
            db.reuse_calls(calls);
            operations += 1;
            at = end;
            if db.is_laden() {
                front.left(step::finish(&mut db, database, &mut replies), reply.len());
                if database.shared.journal.is_over_share() {
                    // The rest waits, so that other databases need not wait for it.
                    parser.restart();
                    break 'windows Stop::Flush;
                }
            }
        }
        at = parsed;
        if let Some(stop) = after {
            break stop;
        }
    };
    let (hits, misses, has_changed) = (db.hits, db.misses, db.has_changed());
    ahead.foreseen = db.take_foreseen();
    let suspended = suspended.zip(db.take_suspended()).map(|((row, request), script)| {
        (db.hits, db.misses) = (0, 0);
        let (database, reply, keyspace) = (Arc::clone(database), reply.another(), db.detach());
        Box::new(Suspended { database, row, request, reply, keyspace, script, witness: None })
    });
    front.left(step::finish(&mut db, database, &mut replies), reply.len());
    drop(db);
    contents.load.operations += operations;
    if let Some(started) = sampled {
        contents.load.busy_ns += started.elapsed().as_nanos() as u64 * SAMPLE;
    }
    drop(contents);
    if let Some(suspended) = suspended {
        let (sender, receiver) = oneshot::channel();
        suspended.go_on(vec![held], move |outcome| _ = sender.send(outcome));
        front.goes_on(receiver);
    }
    InlineOutcome { used: at, stop, is_under_lock: true, hits, misses, has_changed }
}

/// Parses up to a window of requests that may be run under this lock, from `at` on, and foresees their keys. Returns
/// where it stopped, and why if not because the window is full.
#[inline]
fn look_ahead<F: Front>(
    front: &F,
    ahead: &mut Ahead<F::Entry>,
    parser: &mut Parser,
    (input, mut at): (&[u8], usize),
    db: &mut Keyspace<'_>,
    belongs: impl Fn(&FoundCommand<F::Entry>, Request<'_>) -> bool,
) -> (usize, Option<Stop>) {
    db.begin_window();
    let mut keys = 0;
    // The first request of all has been parsed by the caller.
    if at == 0 {
        let Waiting { found, end, .. } = ahead.get(0);
        let request = ahead.request(0, input);
        if !belongs(&found, request) {
            ahead.clear();
            return (0, Some(Stop::Other));
        }
        foresee::<F>(&found, request, db, &mut keys);
        ahead.set_keys(keys);
        at = end;
    } else {
        ahead.clear();
    }
    let mut last: Option<(u64, F::Entry, Run)> = None;
    let stop = loop {
        if ahead.len() == ahead::WINDOW || keys >= ahead::KEYS_MAX {
            break None;
        }
        let rest = &input[at..];
        let (request, consumed) = match parser.parse(rest) {
            Ok(Parsed::Complete { request, consumed }) => (request, consumed),
            Ok(Parsed::Incomplete { .. }) => break Some(Stop::Read),
            // Met again, and answered, outside.
            Err(_) => break Some(Stop::Other),
        };
        if request.is_empty() {
            at += consumed;
            continue;
        }
        let Some(spans) = request.spans_in(rest) else { break Some(Stop::Other) };
        let name = short_name(rest, spans[0]);
        let found = match last {
            Some((last_name, entry, run)) if Some(last_name) == name => FoundCommand::whole(entry, run),
            _ => match front.find(request.arg(0)) {
                Some((entry, run)) => {
                    last = name.map(|name| (name, entry, run));
                    FoundCommand::whole(entry, run)
                }
                None => match front.find_once(request) {
                    Some(found) => found,
                    None => break Some(Stop::Other),
                },
            },
        };
        let row = F::row(found.entry);
        if !route::is_plain(row) || !row.arity.accepts(found.command(request).len()) || !belongs(&found, request) {
            break Some(Stop::Other);
        }
        let first = keys;
        foresee::<F>(&found, request, db, &mut keys);
        ahead.push(found, (at, at + consumed), first..keys, spans);
        at += consumed;
    };
    (at, stop)
}

/// A name of up to seven bytes as a number: the requests of a pipeline mostly have the same one.
#[inline]
fn short_name(bytes: &[u8], Span { offset, len }: Span) -> Option<u64> {
    let word = u64::from_le_bytes(*bytes.get(offset as usize..)?.first_chunk()?);
    (len < 8).then(|| word & ((1 << (8 * len)) - 1) | u64::from(len) << 56)
}

/// Foresees the first keys of a request. `keys`: those of the window so far.
#[inline]
fn foresee<F: Front>(found: &FoundCommand<F::Entry>, request: Request<'_>, db: &mut Keyspace<'_>, keys: &mut usize) {
    let first = *keys;
    let command = found.command(request);
    F::row(found.entry).for_each_key(command, |key| {
        if *keys < first + ahead::KEYS_EACH {
            *keys = db.foresee(command.arg(key));
        }
    });
    if found.once.is_some() {
        *keys = db.foresee_receipt(request.arg(once::KEY));
    }
}

/// Counts a batch for the autoscaler; one in [`SAMPLE`] is timed and its slot noted.
fn sample(contents: &mut Contents, slot: impl Fn() -> Option<u16>) -> Option<Stopwatch> {
    contents.load.batches += 1;
    if contents.load.batches % SAMPLE != 1 {
        return None;
    }
    if let Some(slot) = slot() {
        let (first, end) = (u32::from(contents.first_slot), u32::from(contents.end_slot));
        let part = u32::from(slot).saturating_sub(first) * contents.load.heat.len() as u32 / (end - first);
        contents.load.heat[part as usize] += 1;
    }
    Some(Stopwatch::start())
}
