//! The way of each command of a connection, from its request to its reply.
//!
//! There are two ways:
//!
//! - **The batch** ([`Session::batch`]), which nearly every command takes: parse, look the command up, and hand it to
//!   the executor's inline case. Nothing here awaits, allocates or copies a request.
//! - **The slow way** ([`Session::execute`]), for commands that may have to wait: the database sleeps, a place must be
//!   loaded, the lock is taken, several shards are needed, the command is of the slow lane, or it concerns the
//!   connection. The request is copied, and the batch continues after it.
//!
//! Invariant: a connection's commands run and reply in order.

mod allowance;
mod batch;
mod departure;
mod following;
mod permits;
mod waiting;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use dormouse_protocol::{OwnedRequest, Reply, Request};
use dormouse_shard::commands::{Flags, Row, Run};
use dormouse_shard::error::Error;
use dormouse_shard::execution::budget::TURN;
use dormouse_shard::execution::once::{self, Once};
use dormouse_shard::execution::{self, Blocking, Ended, Outcome, Plan, PlannedCommand, Ran, Turn, Waits, lent};
use dormouse_shard::keyspace::Left;
use dormouse_shard::keyspace::scripts::ScriptTrace;
use futures::future::BoxFuture;
use tracing::{Instrument, Span};

pub use self::batch::Next;
use crate::account;
use crate::acl::security_log::DenialContext;
use crate::blocked::{Blocked, Spent};
use crate::commands::TABLE;
use crate::commands::{info, scripting, transaction};
use crate::databases::Tenant;
use crate::errors;
use crate::habits::Habit;
use crate::metering::Batch;
use crate::session::{AuditedCommand, FrontEnd, Session};
use crate::strangers::Neighbourhood;
use crate::table::{self, Answer, Billing, CommandEntry, Handler, LogIn, SessionRun};
use crate::traces;

/// The outcome of a request, with the index of its command in the table.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Ran(usize),
    /// It waits: [`Session::blocked`].
    Blocked,
    /// It was queued by MULTI, or refused there.
    Queued,
    /// Its command did not run, or does not exist.
    Refused(Option<usize>),
}

/// Copies of waiting requests are charged for above this size.
const COPY_BYTES_FREE: usize = 1024;

impl Session {
    /// Runs one request, which has taken `bytes` of input, waiting for what it needs.
    pub async fn execute(&mut self, request: OwnedRequest, bytes: usize, reply: &mut Reply) {
        let span = match TABLE.resolve(request.as_request()) {
            Ok(entry) if traces::are_wanted() => traces::of_command(entry.row.name, self.tenant.name(), self.client.id),
            _ => Span::none(),
        };
        self.execute_in_span(request, bytes, reply).instrument(span).await;
    }

    async fn execute_in_span(&mut self, request: OwnedRequest, bytes: usize, reply: &mut Reply) {
        let mut looked_for = Duration::ZERO;
        // Kept until the client has entered it.
        let mut _found = Vec::new();
        if let Some(log_in) = shows_token(request.as_request()) {
            let (_, now_ms) = self.worker.now();
            // A client that another node passes on has waited there.
            if self.hops == 0 {
                self.held_back = self.node.guesses.wait(Neighbourhood::of(&self.client.peer()), now_ms);
                self.hold_back().await;
            }
            if self.client.is_killed() {
                return;
            }
            if !self.authenticated {
                self.node.newcomers.wait().await;
            }
            if let Some((user, secret)) = (log_in.shown)(request.as_request()) {
                let began = Instant::now();
                if self.node.directions.get().is_some() && self.is_led_away(&request, Some((user, secret)), reply).await
                {
                    self.hide_look(began.elapsed());
                    return self.hold_back().await;
                }
                _found = self.node.tenants.prepare(user, secret).await;
                looked_for = began.elapsed();
            }
        }
        if self.is_unsettled && self.is_led_away(&request, None, reply).await {
            return;
        }
        let (started, now_us) = self.worker.now_us();
        self.since = started;
        self.now_us = now_us;
        let now_ms = now_us / 1000;
        let mut before = reply.len();
        let subscribed = self.subscribed();
        (self.nested, self.elsewhere, self.elsewhere_cpu) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        self.client.argument_bytes.store(request.as_request().bytes(), Ordering::Relaxed);
        self.client.reply_bytes.store(reply.buffer.capacity(), Ordering::Relaxed);
        let awaited = std::mem::take(&mut self.awaited);
        // A small copy is part of every connection's cost.
        let is_charged = |bytes: &usize| *bytes > COPY_BYTES_FREE && !self.has_run_ahead();
        let copied = Some(request.heap_bytes()).filter(is_charged).unwrap_or(0);
        let (fate, busy) = match self.client.hold(copied) {
            Ok(()) => {
                let (worker, share) = (Rc::clone(&self.worker), Rc::clone(&self.share));
                let charge = |ns| worker.turns.charge(&share, ns);
                let done = busy(self.dispatch(&request, reply, now_ms), charge).await;
                self.client.let_go(copied);
                done
            }
            Err(limit) => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.broken = true;
                }
                reply.error(&account::refusal(limit).to_string());
                (Fate::Refused(None), Duration::ZERO)
            }
        };
        self.gather_nothing();
        reply.settle(before);
        if reply.buffer.get(before) == Some(&b'-') {
            self.forget_pushes(before);
        }
        let calls = self.calls.take();
        let is_rejected = errors::is_rejection(&reply.buffer[before..], calls.as_deref());
        if let Fate::Ran(id) = fate
            && self.authenticated
            && !is_rejected
        {
            self.show(TABLE.get(id).row, self.select, request.as_request(), calls.as_deref());
        }
        self.client.argument_bytes.store(0, Ordering::Relaxed);
        self.client.reply_bytes.store(0, Ordering::Relaxed);
        let own = std::mem::replace(&mut self.awaited, awaited);
        if matches!(fate, Fate::Blocked)
            && let Some(blocked) = &mut self.blocked
        {
            // Counted when it ends, like its reply.
            blocked.spent =
                Spent { bytes_in: bytes as u64, busy: busy + self.elsewhere, cpu: busy + self.elsewhere_cpu };
            blocked.awaited = own;
            return;
        }
        // A command's own work is not waiting: the flush of a slow write gets the whole bound.
        let limit = self.node.settings().reply_timeout.duration();
        if own > 0 && limit.is_some_and(|limit| started.elapsed() > limit / 2) {
            self.since = Instant::now();
        }
        let is_error = reply.buffer.get(before) == Some(&b'-');
        let is_billed = match fate {
            Fate::Ran(id) => TABLE.get(id).is_billed(&reply.buffer[before..]),
            Fate::Refused(Some(id)) => TABLE.get(id).billing != Billing::Never && !self.may_not_spend(TABLE.get(id)),
            Fate::Refused(None) | Fate::Queued | Fate::Blocked => true,
        };
        if is_error
            && self.authenticated
            && !calls.as_ref().is_some_and(|calls| calls.explains(&reply.buffer[before..]))
        {
            self.tenant.errors.count(&reply.buffer[before..]);
        }
        reply.set_version(self.version);
        self.leave_out(reply, before);
        self.write_own(reply);
        let keeps_caching = |entry: &CommandEntry| entry.row.flags.contains(Flags::KEEPS_CACHING);
        if self.is_caching_given()
            && self.transaction.is_none()
            && !TABLE.resolve(request.as_request()).is_ok_and(keeps_caching)
        {
            self.end_caching();
        }
        // Requests before authentication belong to no database.
        if self.authenticated {
            let took = (busy + self.elsewhere).saturating_sub(self.nested);
            if let Some(calls) = calls {
                let mut batch = self.worker.take_batch();
                count_calls(&mut batch, &self.tenant, &calls);
                self.worker.commit(&self.writer, batch, Duration::ZERO);
            }
            let fate = match fate {
                Fate::Ran(id) if is_rejected => Fate::Refused(Some(id)),
                fate => fate,
            };
            let (bytes_in, bytes_out) = (bytes as u64, (reply.len() - before) as u64);
            self.client.note_traffic(bytes, reply.len() - before, 1);
            self.count(fate, is_error, is_billed, (bytes_in, bytes_out), (took, busy + self.elsewhere_cpu));
            if let Fate::Ran(id) = fate {
                let row = TABLE.get(id).row;
                self.node.note_time(&self.tenant, &self.client, row, request.as_request(), took, now_ms);
                self.note_size(TABLE.get(id), request.as_request(), (bytes, reply.len() - before), now_ms);
                self.note_hot(row, request.as_request(), took, bytes + reply.len() - before);
            }
        }
        if subscribed > 0 && self.client.has_messages() {
            let mut messages = Vec::new();
            self.client.take_messages(&mut messages, usize::MAX);
            self.count_messages(messages.len());
            if self.subscribed() < subscribed {
                // They were sent while it still listened: a client does not expect them after the confirmation.
                let bytes = messages.len();
                reply.buffer.splice(before..before, messages);
                before += bytes;
            } else {
                // Messages that it published itself follow the reply.
                reply.buffer.append(&mut messages);
            }
        }
        self.note_replies(Left { awaited: own, written: 0 }, before, reply.len());
        self.hide_look(looked_for);
        self.hold_back().await;
    }

    /// Counts the keys of a command that has run, if hot ones are looked for.
    pub fn note_hot(&self, row: &Row, request: Request<'_>, took: Duration, bytes: usize) {
        if self.tenant.hotkeys.is_on() {
            let at = (self.now_us / 1000, self.worker.random());
            self.tenant.hotkeys.note(row, request, took, bytes, at);
        }
    }

    /// Lets a refusal take equally long whether or not a database of that name was opened for it, which took `looked_for`.
    pub fn hide_look(&mut self, looked_for: Duration) {
        if !self.held_back.is_zero() {
            self.held_back = self.held_back.max(self.node.tenants.look_time()).saturating_sub(looked_for);
        }
    }

    /// Waits while the request or its reply is held back, but no longer than the client lives.
    pub async fn hold_back(&mut self) {
        if self.held_back.is_zero() {
            return;
        }
        let mut over = pin!(tokio::time::sleep(std::mem::take(&mut self.held_back)));
        let client = &self.client;
        poll_fn(|cx| {
            client.waker.register(cx.waker());
            if client.is_killed() { Poll::Ready(()) } else { over.as_mut().poll(cx) }
        })
        .await;
    }

    /// Counts a request that has taken `bytes_in` and whose reply has `bytes_out`: how long it took, and for how much of
    /// that it had a processor.
    fn count(
        &self,
        fate: Fate,
        is_error: bool,
        is_billed: bool,
        (bytes_in, bytes_out): (u64, u64),
        (took, cpu): (Duration, Duration),
    ) {
        let mut batch = self.worker.take_batch();
        batch.bytes_in += bytes_in;
        let (took, cpu) = match fate {
            Fate::Ran(command) => {
                batch.request(command, bytes_in, bytes_out);
                if is_error {
                    batch.failed(command);
                }
                if !is_billed {
                    batch.unbill(command, bytes_in, bytes_out);
                }
                (took, cpu)
            }
            Fate::Queued => {
                batch.queued(bytes_in, bytes_out);
                Default::default()
            }
            Fate::Blocked => Default::default(),
            Fate::Refused(command) => {
                batch.refused(bytes_in, bytes_out);
                if let Some(command) = command {
                    batch.rejected(command);
                    if !is_billed {
                        batch.unbill_refused(command, bytes_in, bytes_out);
                    }
                }
                Default::default()
            }
        };
        if self.front != FrontEnd::Resp {
            batch.forget_bytes();
        }
        self.commit_billed(batch, took, cpu);
    }

    /// Answers one request.
    async fn dispatch(&mut self, owned: &OwnedRequest, reply: &mut Reply, now_ms: u64) -> Fate {
        let request = owned.as_request();
        if is_http(request.arg(0)) {
            tracing::warn!(client = self.client.id, peer = %self.client.peer(), "closed: the client speaks HTTP, as a malicious web page would");
            self.closing = true;
            return Fate::Refused(None);
        }
        let entry = match TABLE.resolve(request) {
            Ok(entry) => entry,
            Err(text) => {
                self.refuse_unresolved(request, &text, reply);
                return Fate::Refused(TABLE.named(request).map(|entry| entry.id));
            }
        };
        let audited = self.audited(&entry.name, entry.row);
        if let Err(refusal) = self.admit(entry, owned).await {
            audited.into_iter().for_each(AuditedCommand::denied);
            if (is_exec(entry) || is_exec_once(entry, owned)) && self.front != FrontEnd::Http {
                self.refuse_exec(&refusal, reply);
            } else {
                if let Some(transaction) = &mut self.transaction {
                    transaction.broken = true;
                }
                reply.error(&refusal);
            }
            self.note_refusal();
            return Fate::Refused(Some(entry.id));
        }
        if self.transaction.is_some() && !entry.row.flags.contains(Flags::AT_ONCE) {
            audited.into_iter().for_each(AuditedCommand::forget);
            transaction::enqueue(self, entry, owned.clone(), reply);
            return Fate::Queued;
        }
        let start = reply.len();
        self.client.last_command.store(entry.id as u16, Ordering::Relaxed);
        match entry.action {
            Handler::Keyspace(run) => {
                if self.run_alone((entry, run), owned, None, reply, now_ms).await {
                    return Fate::Blocked;
                }
            }
            Handler::Session(SessionRun::Once) => {
                if !self.run_once(owned, reply, now_ms).await {
                    return Fate::Refused(Some(entry.id));
                }
            }
            Handler::Session(SessionRun::Now(run) | SessionRun::LogIn(LogIn { run, .. })) => {
                let before = reply.len();
                if let Err(error) = run(self, reply, request) {
                    reply.truncate(before);
                    reply.error(&error.to_string());
                }
            }
            Handler::Session(SessionRun::Weighed(weighed)) => {
                let before = reply.len();
                let done = match weighed.cost(self, request) {
                    ..=TURN => (weighed.run)(self, reply, request),
                    _ => (weighed.in_turns)(self, reply, request).await,
                };
                if let Err(error) = done {
                    reply.truncate(before);
                    self.forget_pushes(before);
                    reply.error(&error.to_string());
                }
            }
            Handler::Session(SessionRun::Waits(run)) => {
                let before = reply.len();
                if let Err(error) = run(self, reply, request).await {
                    reply.truncate(before);
                    reply.error(&error.to_string());
                }
            }
            Handler::Session(SessionRun::Later(run) | SessionRun::Either(_, run)) => match run(self, request) {
                Ok(answer) => self.await_answer(entry, answer, reply).await,
                Err(error) => reply.error(&error.to_string()),
            },
            Handler::Session(SessionRun::Info) => {
                let before = reply.len();
                if let Err(error) = info::info(self, reply, request, None).await {
                    reply.truncate(before);
                    reply.error(&error.to_string());
                }
            }
            Handler::Session(SessionRun::Exec) => transaction::exec(self, None, reply, now_ms).await,
            Handler::Session(SessionRun::Watch) => transaction::watch(self, reply, request, now_ms).await,
            Handler::Session(SessionRun::Keyspace(_)) | Handler::Container => {
                reply.error(&table::wrong_arity(&entry.name))
            }
        }
        if let Some(audited) = audited {
            audited.end(reply.buffer.get(start..).unwrap_or_default(), self.about.take());
        }
        Fate::Ran(entry.id)
    }

    /// Answers a request with an unknown command or a wrong number of arguments.
    fn refuse_unresolved(&mut self, request: Request<'_>, text: &[u8], reply: &mut Reply) {
        let named = TABLE.by_name(request.arg(0));
        if named.is_some_and(is_exec) && self.front != FrontEnd::Http {
            self.refuse_exec(&String::from_utf8_lossy(text), reply);
            return;
        }
        if let Some(transaction) = &mut self.transaction {
            transaction.broken = true;
        }
        self.note_refusal();
        // A stranger sees errors only of commands that it may send.
        if self.authenticated || named.is_some_and(CommandEntry::logs_in) {
            reply.error_bytes(text);
        } else {
            reply.error("NOAUTH Authentication required.");
        }
    }

    /// Replies to an error of EXEC itself, which ends the transaction. The reply is the same without a transaction.
    fn refuse_exec(&mut self, why: &str, reply: &mut Reply) {
        self.abort();
        reply.error(&format!("EXECABORT Transaction discarded because of: {}", why.replacen("ERR ", "", 1)));
    }

    /// Waits for an answer, but no longer than the client lives, so a server that is ending does not wait for it.
    /// Unless the command waits by its nature, the wait is also bounded by the reply timeout.
    async fn await_answer(&mut self, entry: &CommandEntry, answer: BoxFuture<'static, Answer>, reply: &mut Reply) {
        let is_patient = entry.row.flags.contains(Flags::PATIENT);
        let limit = self.node.settings().reply_timeout.duration().filter(|_| !is_patient);
        let turn = Turn::new(self.since, limit, Arc::clone(&self.client) as _);
        match turn.wait(Waits::Answer, answer).await {
            Ok(Answer { write, left }) => {
                self.note(left);
                write(reply);
            }
            Err(_) if turn.has_lost_caller() => self.closing = true,
            Err(error) => reply.error(&error.to_string()),
        }
    }

    /// Whether the client may run this request now.
    async fn admit(&mut self, entry: &CommandEntry, request: &OwnedRequest) -> Result<(), String> {
        if !self.authenticated {
            return match entry.logs_in() {
                true => Ok(()),
                false => Err("NOAUTH Authentication required.".into()),
            };
        }
        if self.has_run_ahead() {
            return Ok(());
        }
        // It may have waited since its batch began.
        self.renew();
        if self.front == FrontEnd::Http && !entry.is_stateless {
            return Err(not_over_http(entry));
        }
        if let Err(denial) = self.check(entry, request, self.select).await {
            let origin = if self.transaction.is_some() { DenialContext::Multi } else { DenialContext::Toplevel };
            self.note_denial(denial, entry, request.as_request(), origin);
            return Err(denial.reply(&self.permissions.user().name, self.tenant.acl.catalogue.get(entry.id)));
        }
        if self.is_subscribed() && !entry.row.flags.contains(Flags::WHILE_SUBSCRIBED) {
            return Err(format!(
                "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
                entry.name
            ));
        }
        if self.tenant.database.shared.scripts.is_busy() && !entry.row.flags.contains(Flags::ALLOW_BUSY) {
            return Err(scripting::busy(self));
        }
        if self.may_not_spend(entry) {
            return Err(self.tenant.spending.refusal().to_string());
        }
        let reaches_keys = Flags::READ | Flags::WRITE | Flags::MAY_REPLICATE;
        if self.is_monitor && entry.row.flags.intersects(reaches_keys) {
            // Redis's text: there a monitor counts as a replica.
            return Err("ERR Replica can't interact with the keyspace".into());
        }
        Ok(())
    }

    /// Whether a command is refused because its database has spent what it may. The end of a transaction is told by its
    /// own error, and the way out of one stays open.
    fn may_not_spend(&self, entry: &CommandEntry) -> bool {
        self.tenant.spending.is_exceeded()
            && entry.billing != Billing::Never
            && (is_exec(entry) || is_once(entry) || !entry.row.flags.contains(Flags::AT_ONCE))
            && !self.is_operator()
    }

    /// Runs the command behind `ONCE`. Returns whether it was allowed.
    async fn run_once(&mut self, owned: &OwnedRequest, reply: &mut Reply, now_ms: u64) -> bool {
        let refuse = |session: &mut Self, reply: &mut Reply, text: &[u8]| {
            if let Some(transaction) = &mut session.transaction {
                transaction.broken = true;
            }
            reply.error_bytes(text);
            false
        };
        let command = owned.skip(once::WORDS);
        let entry = match TABLE.resolve(command.as_request()) {
            Ok(entry) => entry,
            Err(text) => return refuse(self, reply, &text),
        };
        if self.front == FrontEnd::Http && !entry.is_stateless {
            return refuse(self, reply, not_over_http(entry).as_bytes());
        }
        if let Err(denial) = self.check(entry, &command, self.select).await {
            let origin = if self.transaction.is_some() { DenialContext::Multi } else { DenialContext::Toplevel };
            self.note_denial(denial, entry, command.as_request(), origin);
            let text = denial.reply(&self.permissions.user().name, self.tenant.acl.catalogue.get(entry.id));
            return refuse(self, reply, text.as_bytes());
        }
        let promise = match Once::parse(owned.as_request(), &self.permissions.user().name) {
            Ok(promise) => promise,
            Err(error) => return refuse(self, reply, error.to_string().as_bytes()),
        };
        match entry.action {
            Handler::Session(SessionRun::Exec) => transaction::exec(self, Some(promise), reply, now_ms).await,
            Handler::Keyspace(run) if self.transaction.is_none() => {
                self.run_alone((entry, run), &command, Some(promise), reply, now_ms).await;
            }
            Handler::Keyspace(_) => return refuse(self, reply, b"ERR inside MULTI, ONCE goes in front of EXEC"),
            Handler::Session(_) | Handler::Container => {
                return refuse(self, reply, b"ERR ONCE takes a command over keys, or EXEC");
            }
        }
        true
    }

    /// Runs one command over the keyspace, wherever and whenever it can. Returns whether it waits.
    async fn run_alone(
        &mut self,
        (entry, run): (&CommandEntry, Run),
        request: &OwnedRequest,
        once: Option<Once>,
        reply: &mut Reply,
        now_ms: u64,
    ) -> bool {
        let poll = self.poll_of(entry, request.as_request());
        let is_poll = poll.is_some();
        let begun = self.outcome_of_begun().await;
        let ran = match begun.or_else(|| self.outcome_ahead()) {
            Some(outcome) => outcome,
            None => {
                let plan = self.plan_alone((entry, run), request, once, is_poll, now_ms);
                self.run_plan(plan, now_ms).await
            }
        };
        let mut has_changed = false;
        match ran {
            Ok(outcome) => {
                has_changed = outcome.has_changed;
                self.note_elsewhere(&outcome);
                self.note(outcome.left);
                self.publish_all(&outcome.published);
                self.own = outcome.own;
                self.count_keyspace(outcome.hits, outcome.misses);
                if let Some(waiter) = outcome.blocked {
                    self.show(entry.row, self.select, request.as_request(), None);
                    self.blocked = Some(Box::new(Blocked::new(
                        (&self.client, &self.tenant, self.node.alarm()),
                        self.since,
                        waiter,
                        request.clone(),
                        entry.id,
                    )));
                    return true;
                }
                if let Some(Ran::Command { calls, .. }) = outcome.steps.into_iter().next() {
                    self.calls = calls;
                }
                match outcome.ended {
                    Ended::Refused(error) => reply.error(&error.to_string()),
                    Ended::Done | Ended::Changed | Ended::Repeated => reply.append(outcome.replies),
                }
            }
            Err(error) => reply.error(&error.to_string()),
        }
        if poll.is_none_or(|poll| has_changed && !poll.may_change()) {
            self.note_use(now_ms);
        }
        false
    }

    /// The plan of the current request. `is_poll`: it is no use of the database.
    fn plan_alone(
        &self,
        (entry, run): (&CommandEntry, Run),
        request: &OwnedRequest,
        once: Option<Once>,
        is_poll: bool,
        now_ms: u64,
    ) -> Plan {
        let command = PlannedCommand { row: entry.row, run, request: request.clone(), context: self.context() };
        let mut plan = Plan::one(command, now_ms, self.worker.random());
        plan.is_poll = is_poll;
        if let Some(name) = entry.row.field_set.and_then(|at| request.as_request().get(at))
            && let Some(set) = self.field_sets.as_ref().and_then(|sets| sets.get(name))
        {
            plan.field_sets.push((0, Arc::clone(set)));
        }
        plan.budget = Some(Arc::clone(&self.client) as _);
        plan.script_user = self.script_user();
        plan.once = once;
        // A request of HTTP never waits for others.
        let may_wait = self.front == FrontEnd::Resp && plan.once.is_none();
        if entry.row.flags.contains(Flags::BLOCKING) && may_wait {
            plan.blocking = Blocking::First;
            // A client that polls an empty queue does not use its database.
            plan.is_poll = true;
            if !self.tenant.database.is_awake() {
                self.tenant.habits.note_look((self.node.engine.clock)());
            }
            plan.waiting_user = self.waiting_user(entry.id);
        }
        plan
    }

    /// Runs the plan of the current request, together with those of scripts that follow it.
    async fn run_plan(&mut self, plan: Plan, now_ms: u64) -> Result<Outcome, Error> {
        let behind = self.plans_behind(now_ms);
        let turn = self.turn();
        let (outcome, outcomes) =
            execution::run_followed(&self.tenant.database, &Arc::new(plan), behind, &turn).await?;
        self.keep_outcomes(outcomes);
        Ok(outcome)
    }

    /// The habit that a request is part of, if it is no use of the database. To be asked once for each request.
    pub fn poll_of(&self, entry: &CommandEntry, request: Request<'_>) -> Option<Habit> {
        let Tenant { habits, database, .. } = &*self.tenant;
        let now_ms = (self.node.engine.clock)();
        let is_in_use = habits.is_in_use(now_ms) && !database.is_brief();
        if is_in_use && habits.is_busy(now_ms) {
            return None;
        }
        // A database that never sleeps has no use for the answer.
        self.tenant.settings().sleep_after.duration()?;
        habits.poll(entry.row, request, self.select, self.client.id, now_ms).filter(|_| !is_in_use)
    }

    /// Notes a use of the database.
    pub fn note_use(&self, now_ms: u64) {
        self.tenant.worked(now_ms);
        self.tenant.habits.note_use((self.node.engine.clock)());
        self.tenant.database.begin_use();
    }
}

/// Returns a future's output and the time that this thread worked on it, without waits and without jobs of other
/// clients that ran meanwhile.
/// Each piece of that time is told to `charge`, in nanoseconds.
async fn busy<T>(future: impl Future<Output = T>, charge: impl Fn(u64)) -> (T, Duration) {
    let mut future = pin!(future);
    let mut busy = Duration::ZERO;
    let done = poll_fn(|cx| {
        lent::take();
        let began = Instant::now();
        let polled = future.as_mut().poll(cx);
        let took = began.elapsed().saturating_sub(lent::take());
        charge(took.as_nanos() as u64);
        busy += took;
        polled
    })
    .await;
    (done, busy)
}

/// Counts a command that has taken `bytes` of input, with its reply and the calls of a script.
#[inline]
fn count(
    batch: &mut Batch,
    tenant: &Tenant,
    entry: &CommandEntry,
    bytes: usize,
    reply: &[u8],
    calls: Option<&ScriptTrace>,
) {
    if reply.first() == Some(&b'-') {
        count_error(batch, tenant, (entry.id, bytes), reply, calls);
    } else {
        batch.request(entry.id, bytes as u64, reply.len() as u64);
    }
    if !entry.is_billed(reply) {
        batch.unbill(entry.id, bytes as u64, reply.len() as u64);
    }
    if let Some(calls) = calls {
        count_calls(batch, tenant, calls);
    }
}

/// The same for a command with an error. One that was refused before it ran counts as rejected.
#[cold]
fn count_error(
    batch: &mut Batch,
    tenant: &Tenant,
    (command, bytes): (usize, usize),
    reply: &[u8],
    calls: Option<&ScriptTrace>,
) {
    if errors::is_rejection(reply, calls) {
        batch.queued(bytes as u64, reply.len() as u64);
        batch.rejected(command);
    } else {
        batch.request(command, bytes as u64, reply.len() as u64);
        batch.failed(command);
    }
    if !calls.is_some_and(|calls| calls.explains(reply)) {
        tenant.errors.count(reply);
    }
}

/// Counts the calls of a script and their errors.
pub fn count_calls(batch: &mut Batch, tenant: &Tenant, calls: &ScriptTrace) {
    calls.commands.iter().for_each(|counts| batch.called_by_script(counts));
    calls.errors.iter().for_each(|(word, count)| tenant.errors.count_word(word, *count));
}

fn not_over_http(entry: &CommandEntry) -> String {
    let name = entry.name.to_ascii_uppercase();
    format!("ERR Command is not available over HTTP: '{name}'. It needs a connection of its own")
}

fn is_exec(entry: &CommandEntry) -> bool {
    matches!(entry.action, Handler::Session(SessionRun::Exec))
}

fn is_once(entry: &CommandEntry) -> bool {
    matches!(entry.action, Handler::Session(SessionRun::Once))
}

/// Whether it is `ONCE key ttl EXEC`.
fn is_exec_once(entry: &CommandEntry, request: &OwnedRequest) -> bool {
    is_once(entry) && TABLE.resolve(request.skip(once::WORDS).as_request()).is_ok_and(is_exec)
}

/// The command of a request that may show a token or a password.
fn shows_token(request: Request<'_>) -> Option<LogIn> {
    match TABLE.by_name(request.arg(0))?.action {
        Handler::Session(SessionRun::LogIn(log_in)) => Some(log_in).filter(|log_in| (log_in.shows_token)(request)),
        _ => None,
    }
}

/// Whether a command's name is a line of an HTTP request: a browser can be made to send one to a port of this machine,
/// with commands in its body.
fn is_http(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"POST") || name.eq_ignore_ascii_case(b"Host:")
}
