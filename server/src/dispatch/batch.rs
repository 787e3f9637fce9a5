//! The fast way of commands: every complete request in the read buffer, in order, until something has to be awaited.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dormouse_protocol::{OwnedRequest, Parsed, Parser, Reply, Request, Span};
use dormouse_shard::commands::{Row, Run};
use dormouse_shard::execution::ahead::{Ahead, FoundCommand};
use dormouse_shard::execution::budget::{self, BYTES_PER_ELEMENT, Fit, TURN, TurnBudget};
use dormouse_shard::execution::inline::{self, Asker, Input, REPLY_HIGH_WATER, Stop};
use dormouse_shard::execution::{Outcome, lent, once, route};
use dormouse_shard::keyspace::Left;
use dormouse_shard::keyspace::scripts::ScriptTrace;
use futures::channel::oneshot;

use super::allowance::Allowance;
use super::count;
use crate::commands::TABLE;
use crate::habits::AFTER_USE;
use crate::metering::Batch;
use crate::session::{FrontEnd, Session};
use crate::table::{CommandEntry, Handler, InTransaction, SessionRun, Weighed};

/// Size of a request or a reply, in bytes, above which its command is timed by itself: it may be slow.
const TIMED_BYTES: usize = 8 << 10;
/// A command with a higher estimated cost may be slow too.
const TIMED_COST: usize = 256;
/// A request of this many bytes is not copied if it may take the buffer that it was read into.
const LARGE_BYTES: usize = 64 << 10;
/// If commands of this duration or less are noted, each command is timed by itself.
const TIMED_EACH_NS: u64 = 100_000;
/// Time for which each command of a connection is timed by itself after a slow batch without a known slow command.
const TIMED_EACH_MS: u64 = 10_000;

/// The connection's next step, after which the batch can continue.
#[derive(Debug)]
pub enum Next {
    /// Read more: all complete requests are answered.
    Read,
    /// Send the replies so far.
    Flush,
    /// Give other connections a turn.
    Yield,
    /// Run this request, which has taken `bytes`, the slow way.
    Slow {
        request: OwnedRequest,
        bytes: usize,
    },
    /// Run this large request the slow way. It is not consumed yet: the next `bytes`, with its arguments at `spans`.
    Large {
        bytes: usize,
        spans: Box<[Span]>,
    },
    Close,
    /// Wait for the lease of the node to be renewed.
    Leaseless,
}

thread_local! {
    /// The window of the last batch, for its allocations.
    static AHEAD: Cell<Ahead<&'static CommandEntry>> = Cell::default();
}

impl Session {
    /// Runs the requests in `input`. Returns the number of consumed bytes, and what to do next.
    pub fn batch(&mut self, parser: &mut Parser, input: &[u8], reply: &mut Reply) -> (usize, Next) {
        if !self.renew() {
            return (0, Next::Close);
        }
        if self.node.lease.is_over() {
            return (0, Next::Leaseless);
        }
        let (started, now_us) = self.worker.now_us();
        self.since = started;
        self.now_us = now_us;
        let now_ms = now_us / 1000;
        self.worker.turns.tick(now_ms);
        self.node.activity.note();
        self.client.active_ms.store(now_ms, Ordering::Relaxed);
        self.client.input_bytes.store(input.len(), Ordering::Relaxed);
        lent::take();
        let mut batch = self.worker.take_batch();
        let replied = reply.len();
        let mut allowance = self.allowance(input);
        let (used, next) = self.run_batch(parser, input, reply, &mut batch, &mut allowance, started, now_ms);
        self.settle_allowance(allowance, &batch, matches!(next, Next::Slow { .. } | Next::Large { .. }));
        let slow = if let Next::Slow { bytes, .. } = &next { *bytes } else { 0 };
        if self.authenticated {
            batch.bytes_in += (used - slow) as u64;
        }
        self.client.note_traffic(used - slow, reply.len().saturating_sub(replied), batch.requests());
        let elapsed = started.elapsed().saturating_sub(lent::take());
        if elapsed.as_nanos() as u64 >= self.node.noted_from_ns() {
            self.find_slow(&input[..used], &batch, elapsed);
        }
        if reply.len() > self.client.reply_bytes_peak.load(Ordering::Relaxed) {
            self.client.reply_bytes_peak.store(reply.len(), Ordering::Relaxed);
        }
        self.worker.turns.charge(&self.share, elapsed.as_nanos() as u64);
        if self.front != FrontEnd::Resp {
            batch.forget_bytes();
        }
        self.commit(batch, elapsed);
        (used, next)
    }

    /// Handles a batch that took as long as a slow command. Only the total time of the untimed commands is known. It is
    /// the time of a single one; with more, the following commands are each timed.
    #[cold]
    fn find_slow(&mut self, input: &[u8], batch: &Batch, elapsed: Duration) {
        let untimed = elapsed.saturating_sub(Duration::from_nanos(batch.timed_ns()));
        let now_ms = self.now_us / 1000;
        if (untimed.as_nanos() as u64) < self.node.noted_from_ns() || batch.untimed() == 0 {
            return;
        }
        if batch.requests() > 1 {
            self.timed_until_ms = now_ms + TIMED_EACH_MS;
            return;
        }
        let mut parser = Parser::new(*self.limits());
        let mut at = 0;
        while let Ok(Parsed::Complete { request, consumed }) = parser.parse(&input[at..]) {
            if !request.is_empty() {
                if let Some(entry) = TABLE.by_name(request.arg(0)) {
                    self.node.note_time(&self.tenant, &self.client, entry.row, request, untimed, now_ms);
                }
                return;
            }
            at += consumed;
        }
    }

    /// Whether the clock is read for each command.
    fn times_each(&self, now_ms: u64) -> bool {
        now_ms < self.timed_until_ms || self.node.noted_from_ns() <= TIMED_EACH_NS || self.tenant.hotkeys.is_timed()
    }

    #[expect(clippy::too_many_arguments, reason = "the state of one batch, on the hottest path")]
    fn run_batch(
        &mut self,
        parser: &mut Parser,
        input: &[u8],
        reply: &mut Reply,
        batch: &mut Batch,
        allowance: &mut Allowance,
        started: Instant,
        now_ms: u64,
    ) -> (usize, Next) {
        let mut at = 0;
        let mut budget = TurnBudget::whole();
        loop {
            if reply.len() > REPLY_HIGH_WATER {
                return (at, Next::Flush);
            }
            let (request, consumed) = match parser.parse(&input[at..]) {
                Ok(Parsed::Complete { request, consumed }) => (request, consumed),
                Ok(Parsed::Incomplete { .. }) => return (at, Next::Read),
                Err(error) => {
                    let replied = reply.len();
                    reply.error(&format!("ERR {error}"));
                    if self.authenticated {
                        batch.refused((input.len() - at) as u64, (reply.len() - replied) as u64);
                    }
                    return (input.len(), Next::Close);
                }
            };
            if request.is_empty() {
                at += consumed;
                continue;
            }
            if self.has_run_ahead() {
                return (at + consumed, Next::Slow { request: request.to_owned(), bytes: consumed });
            }
            if allowance.is_limited && !self.allows(allowance, (request, consumed), &input[at..], reply, batch) {
                at += consumed;
                budget.spend(1);
                continue;
            }
            // Each command then finds out whether it has to wait, or is refused.
            let is_paused = self.tenant.pause.is_on(now_ms)
                || self.tenant.database.shared.scripts.is_busy()
                || self.tenant.spending.is_exceeded();
            if budget::of_request(request) > TURN {
                // It is long whatever it is, and is not read once more to find that out.
                return match request.spans_in(input) {
                    Some(spans) => (0, Next::Large { bytes: consumed, spans: spans.into() }),
                    None if at > 0 => (at, Next::Yield),
                    None => (consumed, Next::Slow { request: request.to_owned(), bytes: consumed }),
                };
            }
            let replied = reply.len();
            match TABLE.by_name(request.arg(0)) {
                Some(entry) if self.is_plain() && !is_paused && entry.row.arity.accepts(request.len()) => match entry
                    .action
                {
                    Handler::Keyspace(_) | Handler::Session(SessionRun::Once)
                        if let Some(found) = found(entry, request)
                            && route::is_plain(found.entry.row)
                            && let Some(spans) = request.spans_in(&input[at..]) =>
                    {
                        let mut ahead = AHEAD.take();
                        ahead.begin(found, consumed, spans);
                        let input = Input { parser, bytes: &input[at..], ahead: &mut ahead };
                        let ran = self.run_inline(entry, input, reply, batch, allowance, &mut budget, started, now_ms);
                        AHEAD.set(ahead);
                        let (used, stop) = ran;
                        at += used;
                        match stop {
                            Stop::Read => return (at, Next::Read),
                            Stop::Flush => return (at, Next::Flush),
                            Stop::Yield => return (at, Next::Yield),
                            Stop::Other if used > 0 => continue,
                            // Perhaps for a token.
                            Stop::Wait if used > 0 && allowance.is_limited => continue,
                            Stop::Other | Stop::Wait => {}
                        }
                    }
                    // A command that may lead to another database ends the batch, which is counted for this one.
                    // Messages to a subscriber go between its replies.
                    Handler::Session(SessionRun::Now(run) | SessionRun::Weighed(Weighed { run, .. }))
                        if entry.subcommands.is_empty()
                            && !entry.logs_in()
                            && self.subscriptions.is_none()
                            && self.is_permitted(entry, request) =>
                    {
                        match budget.take(self.cost(entry, request)) {
                            Fit::Now => {
                                self.run_now(entry, run, request, reply, batch, now_ms);
                                self.note_size(entry, request, (consumed, reply.len() - replied), now_ms);
                                if self.tenant.monitors.is_watched() {
                                    budget.spend(self.show(entry.row, self.select, request, None));
                                }
                                count(batch, &self.tenant, entry, consumed, &reply.buffer[replied..], None);
                                at += consumed;
                                if self.closing {
                                    return (at, Next::Close);
                                }
                                budget.spend((reply.len() - replied) / BYTES_PER_ELEMENT);
                                continue;
                            }
                            Fit::Later => return (at, Next::Yield),
                            Fit::Never => {}
                        }
                    }
                    _ => {}
                },
                _ => {}
            }
            // Parsed again: the parser may have been used in between.
            return match parser.parse(&input[at..]) {
                Ok(Parsed::Complete { request, consumed }) => match request.spans_in(input) {
                    Some(spans) if consumed >= LARGE_BYTES => (0, Next::Large { bytes: consumed, spans: spans.into() }),
                    _ => {
                        let request = request.to_owned();
                        at += consumed;
                        if self.is_plain() && !is_paused && !allowance.is_limited && !self.has_run_ahead() {
                            self.gather(request.as_request(), parser, &input[at..]);
                        }
                        (at, Next::Slow { request, bytes: consumed })
                    }
                },
                _ => (at, Next::Read),
            };
        }
    }

    /// Notes a large request or reply of a command that has run.
    #[inline]
    pub(crate) fn note_size(
        &self,
        entry: &CommandEntry,
        request: Request<'_>,
        (bytes_in, bytes_out): (usize, usize),
        now_ms: u64,
    ) {
        if self.node.notes_size(bytes_in, bytes_out) {
            self.node.note_size(&self.tenant, &self.client, entry.row, request, (bytes_in, bytes_out), now_ms);
        }
    }

    /// Returns the cost of a session command. An indivisible command has its own turn, whatever its length.
    fn cost(&self, entry: &CommandEntry, request: Request<'_>) -> usize {
        match entry.action {
            Handler::Session(SessionRun::Weighed(weighed)) => weighed.cost(self, request),
            _ => budget::of_request(request).min(TURN),
        }
    }

    /// Runs a command of the session. The caller counts it.
    fn run_now(
        &mut self,
        entry: &CommandEntry,
        run: InTransaction,
        request: Request<'_>,
        reply: &mut Reply,
        batch: &mut Batch,
        now_ms: u64,
    ) {
        let before = reply.len();
        self.client.last_command.store(entry.id as u16, Ordering::Relaxed);
        let began = self.times_each(now_ms).then(Instant::now);
        if let Err(error) = run(self, reply, request) {
            reply.truncate(before);
            reply.error(&error.to_string());
        }
        reply.settle(before);
        if let Some(took) = began.map(|began| began.elapsed()) {
            batch.timed(entry.id, took.as_nanos() as u64);
            self.node.note_time(&self.tenant, &self.client, entry.row, request, took, now_ms);
        }
    }

    /// Runs requests under the lock of the shard that has the first one's slot, until one belongs elsewhere.
    #[expect(clippy::too_many_arguments, reason = "the state of one batch, on the hottest path")]
    fn run_inline(
        &mut self,
        first: &CommandEntry,
        input: Input<'_, '_, &'static CommandEntry>,
        reply: &mut Reply,
        batch: &mut Batch,
        allowance: &Allowance,
        budget: &mut TurnBudget,
        mark: Instant,
        now_ms: u64,
    ) -> (usize, Stop) {
        let database = Arc::clone(&self.tenant.database);
        let no_touch = self.client.no_touch.load(Ordering::Relaxed);
        let asker =
            Asker { select: self.select, no_touch, tracker: self.tracker(), now_ms, seed: self.worker.random() };
        let (from, times_each) = (reply.len(), self.times_each(now_ms));
        let is_watched = self.tenant.monitors.is_watched();
        let is_measured = self.tenant.hotkeys.is_on();
        // Nothing but this is looked at while the database is in use.
        let is_judged = !self.tenant.habits.is_busy(now_ms) || database.is_brief();
        let judged = Judged { left: if is_judged { AFTER_USE } else { 0 }, is_use: false, may_change: true };
        let mut front = Metered {
            session: self,
            batch,
            allowance,
            mark,
            times_each,
            now_ms,
            is_watched,
            is_measured,
            from,
            judged,
        };
        let ran = inline::run(&database, asker, &mut front, input, reply, budget);
        let Judged { is_use, may_change, .. } = front.judged;
        batch.keyspace_hits += ran.hits;
        batch.keyspace_misses += ran.misses;
        // The first command may have to wait for something.
        if ran.is_under_lock && ran.used > 0 {
            match is_judged {
                false => self.tenant.worked(now_ms),
                true if is_use || ran.has_changed && !may_change => self.note_use(now_ms),
                true => {}
            }
            self.client.last_command.store(first.id as u16, Ordering::Relaxed);
        }
        (ran.used, ran.stop)
    }
}

/// The command over the keyspace in a request, which may stand behind `ONCE`.
#[inline]
fn found(entry: &'static CommandEntry, request: Request<'_>) -> Option<FoundCommand<&'static CommandEntry>> {
    match entry.action {
        Handler::Keyspace(run) => Some(FoundCommand::whole(entry, run)),
        Handler::Session(SessionRun::Once) => {
            let command = request.skip(once::WORDS);
            let behind = TABLE.by_name(command.arg(0))?;
            let Handler::Keyspace(run) = behind.action else { return None };
            let found = FoundCommand { entry: behind, run, once: Some(entry) };
            behind.row.arity.accepts(command.len()).then_some(found)
        }
        Handler::Session(_) | Handler::Container => None,
    }
}

/// The table and the meters of a batch.
struct Metered<'s> {
    session: &'s mut Session,
    batch: &'s mut Batch,
    allowance: &'s Allowance,
    /// When the clock was last read.
    mark: Instant,
    times_each: bool,
    now_ms: u64,
    /// Whether anybody monitors the database.
    is_watched: bool,
    /// Whether its hot keys are looked for.
    is_measured: bool,
    /// The start of the replies that the next log entry covers.
    from: usize,
    judged: Judged,
}

/// Whether the requests of a batch are a use of the database.
#[derive(Clone, Copy)]
struct Judged {
    /// Requests that are looked at even if one before them is a use.
    left: u32,
    is_use: bool,
    /// Whether the batch is no use even if it changes something.
    may_change: bool,
}

impl inline::Front for Metered<'_> {
    type Entry = &'static CommandEntry;
    type Mark = Option<Instant>;

    #[inline]
    fn find(&self, name: &[u8]) -> Option<(&'static CommandEntry, Run)> {
        let entry = TABLE.by_name(name)?;
        match entry.action {
            Handler::Keyspace(run) => Some((entry, run)),
            Handler::Session(_) | Handler::Container => None,
        }
    }

    fn find_once(&self, request: Request<'_>) -> Option<FoundCommand<&'static CommandEntry>> {
        let entry = TABLE.by_name(request.arg(0))?;
        if entry.row.arity.accepts(request.len()) { found(entry, request) } else { None }
    }

    fn user(&self) -> &[u8] {
        &self.session.permissions.user().name
    }

    #[inline]
    fn row(entry: &'static CommandEntry) -> &'static Row {
        entry.row
    }

    #[inline]
    fn permits(&self, entry: &'static CommandEntry, request: Request<'_>) -> bool {
        (!self.allowance.is_limited || self.allowance.covers(request, self.batch))
            && self.session.is_permitted(entry, request)
    }

    #[inline]
    fn begin(&mut self, _: &'static CommandEntry, bytes: usize, cost: usize) -> Option<Instant> {
        (self.times_each || bytes > TIMED_BYTES || cost > TIMED_COST).then(Instant::now)
    }

    #[inline]
    fn ran(
        &mut self,
        entry: &'static CommandEntry,
        request: Request<'_>,
        bytes: usize,
        (reply, before): (&Reply, usize),
        began: Option<Instant>,
        calls: Option<&ScriptTrace>,
    ) -> usize {
        if self.judged.left > 0 {
            match self.session.poll_of(entry, request) {
                Some(poll) => self.judged.may_change &= poll.may_change(),
                None => {
                    self.judged.is_use = true;
                    self.judged.left -= 1;
                }
            }
        }
        let Session { node, tenant, client, .. } = &*self.session;
        let mut measured = Duration::ZERO;
        // A large reply is known only afterwards: commands that ran before it since the last clock reading count too.
        if began.is_some() || reply.len() - before > TIMED_BYTES {
            let now = Instant::now();
            let took = now.duration_since(began.unwrap_or(self.mark));
            self.mark = now;
            measured = took;
            self.batch.timed(entry.id, took.as_nanos() as u64);
            node.note_time(tenant, client, entry.row, request, took, self.now_ms);
        }
        if node.notes_size(bytes, reply.len() - before) {
            node.note_size(tenant, client, entry.row, request, (bytes, reply.len() - before), self.now_ms);
        }
        if self.is_measured {
            let at = (self.now_ms, self.session.worker.random());
            tenant.hotkeys.note(entry.row, request, measured, bytes + reply.len() - before, at);
        }
        count(self.batch, tenant, entry, bytes, &reply.buffer[before..], calls);
        match self.is_watched {
            true => self.session.show_replied(entry.row, request, &reply.buffer[before..], calls),
            false => 0,
        }
    }

    fn left(&mut self, left: Left, end: usize) {
        self.session.note_replies(left, self.from, end);
        self.from = end;
    }

    fn goes_on(&mut self, outcome: oneshot::Receiver<Outcome>) {
        self.session.note_going_on(outcome);
    }
}
