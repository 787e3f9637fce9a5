//! Transactions: MULTI queues commands, EXEC runs the queue as one plan of the executor, WATCH sets conditions for
//! EXEC.
//!
//! 1. EXEC makes a plan of the queue's commands over the keyspace. Session commands in between, such as SELECT, declare
//!    what they will change for the commands after them.
//! 2. The executor runs the plan under all its locks, with one entry in the log, or refuses all of it.
//! 3. The reply is assembled in the queue's order. The session's commands run at this point; they hold no lock.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dormouse_protocol::{OwnedRequest, Reply, Request};
use dormouse_shard::commands::{self, Category, Command, Family, Flags, KeySpec, at_least, exactly};
use dormouse_shard::error::{Error, Result};
use dormouse_shard::execution::budget::{self, BYTES_PER_ELEMENT, TURN, TurnBudget};
use dormouse_shard::execution::once::{self, Once};
use dormouse_shard::execution::{self, Ended, Plan, Ran, Step};
use dormouse_shard::keyspace::Left;
use dormouse_shard::keyspace::changes::Watching;
use dormouse_shard::keyspace::field_sets::FieldSets;
use dormouse_shard::keyspace::scripts::ScriptTrace;

use crate::account::{self, ENTRY_BYTES};
use crate::acl::security_log::DenialContext;
use crate::commands::TABLE;
use crate::commands::{info, now};
use crate::errors;
use crate::hotkeys;
use crate::session::{Session, Transaction};
use crate::table::{CommandEntry, Handler, LogIn, SessionRun};

/// Bytes that a transaction may queue: the query buffer limit of one client.
const QUEUED_BYTES_MAX: usize = 1 << 30;

const BASE: Flags = Flags::NO_SCRIPT.union(Flags::LOADING).union(Flags::STALE).union(Flags::FAST);
const ALONE: Flags = BASE.union(Flags::ALLOW_BUSY).union(Flags::NO_MULTI).union(Flags::AT_ONCE);

pub const FAMILY: Family<SessionRun> = Family {
    group: "transactions",
    category: Category::TRANSACTION,
    commands: &[
        Command::new("MULTI", exactly(1), &[], ALONE, now!(multi)).doc("1.2.0", "O(1)", "Starts a transaction."),
        Command::new(
            "EXEC",
            exactly(1),
            &[],
            Flags::NO_SCRIPT.union(Flags::LOADING).union(Flags::STALE).union(Flags::SKIP_SLOWLOG).union(Flags::AT_ONCE),
            SessionRun::Exec,
        )
        .doc("1.2.0", "Depends on commands in the transaction", "Executes all commands in a transaction."),
        Command::new("DISCARD", exactly(1), &[], BASE.union(Flags::ALLOW_BUSY).union(Flags::AT_ONCE), now!(discard))
            .doc("2.0.0", "O(N), when N is the number of queued commands", "Discards a transaction."),
        Command::new(
            "ONCE",
            at_least(once::WORDS as i16 + 1),
            &[],
            Flags::WRITE
                .union(Flags::DENY_OOM)
                .union(Flags::NO_SCRIPT)
                .union(Flags::NO_MULTI)
                .union(Flags::MOVABLE_KEYS)
                .union(Flags::AT_ONCE),
            SessionRun::Once,
        )
        .receipt(once::KEY)
        .stateless(true)
        .doc(
            "0.3.0",
            "That of the command",
            "Executes a command, or a transaction, once for all requests with this key.",
        ),
        Command::new("WATCH", at_least(2), &[KeySpec::rest(1, commands::Access::RO)], ALONE, SessionRun::Watch).doc(
            "2.2.0",
            "O(1) for every key.",
            "Monitors changes to keys to determine the execution of a transaction.",
        ),
        Command::new("UNWATCH", exactly(1), &[], BASE.union(Flags::ALLOW_BUSY), now!(unwatch)).doc(
            "2.2.0",
            "O(1)",
            "Forgets about watched keys of a transaction.",
        ),
    ],
};

/// `MULTI`
fn multi(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    if session.transaction.is_some() {
        return Err(Error::text("ERR MULTI calls can not be nested"));
    }
    session.transaction = Some(Box::new(Transaction::default()));
    session.client.queued.store(0, Ordering::Relaxed);
    reply.ok();
    Ok(())
}

/// `DISCARD`
fn discard(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    if session.transaction.is_none() {
        return Err(Error::text("ERR DISCARD without MULTI"));
    }
    session.abort();
    reply.ok();
    Ok(())
}

/// `UNWATCH`
fn unwatch(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    session.unwatch();
    reply.ok();
    Ok(())
}

/// Queues a command, or replies with the reason why it cannot be queued.
pub fn enqueue(session: &mut Session, entry: &CommandEntry, request: OwnedRequest, reply: &mut Reply) {
    let refusal = refusal(session, entry, request.as_request());
    let Some(transaction) = &mut session.transaction else { return };
    if let Some(refusal) = refusal {
        transaction.broken = true;
        reply.error(&refusal);
        return;
    }
    let bytes = request.heap_bytes() + size_of::<OwnedRequest>();
    let held = if transaction.bytes + bytes > QUEUED_BYTES_MAX {
        Err(Error::text("ERR the transaction is larger than the query buffer limit"))
    } else {
        session.client.hold(bytes).map_err(account::refusal)
    };
    if let Err(error) = held {
        transaction.broken = true;
        transaction.queue = Vec::new();
        session.client.let_go(std::mem::take(&mut transaction.bytes));
        reply.error(&error.to_string());
        return;
    }
    transaction.bytes += bytes;
    transaction.queue.push(request);
    session.client.queued.store(transaction.queue.len() as u32, Ordering::Relaxed);
    session.client.queued_bytes.store(transaction.bytes, Ordering::Relaxed);
    reply.simple("QUEUED");
}

/// Why a command cannot be queued.
fn refusal(session: &Session, entry: &CommandEntry, request: Request<'_>) -> Option<String> {
    if entry.row.flags.contains(Flags::NO_QUEUE) {
        // Redis queues it and then sends a frame that never ends.
        return Some(format!("ERR Command '{}' not allowed inside a transaction", entry.name));
    }
    let is_refused = match entry.action {
        Handler::Session(SessionRun::Later(_)) => true,
        // The transaction runs in one database and cannot continue in another.
        Handler::Session(SessionRun::LogIn(log_in)) => (log_in.leaves)(session, request),
        _ => false,
    };
    if is_refused || entry.row.flags.contains(Flags::NO_MULTI) {
        return Some("ERR Command not allowed inside a transaction".into());
    }
    session.tenant.database.shared.is_full().then(|| Error::OutOfMemory.to_string())
}

/// `EXEC`, perhaps behind `ONCE`.
pub async fn exec(session: &mut Session, once: Option<Once>, reply: &mut Reply, now_ms: u64) {
    let Some(transaction) = session.transaction.take() else {
        reply.error("ERR EXEC without MULTI");
        return;
    };
    session.client.queued.store(u32::MAX, Ordering::Relaxed);
    session.client.queued_bytes.store(0, Ordering::Relaxed);
    if transaction.broken {
        session.client.let_go(transaction.bytes);
        session.unwatch();
        reply.error("EXECABORT Transaction discarded because of previous errors.");
        return;
    }
    session.is_in_exec = true;
    let outcome = run_queue(session, transaction.queue, once, reply, now_ms).await;
    session.is_in_exec = false;
    session.select(session.select);
    session.client.let_go(transaction.bytes);
    session.unwatch();
    session.settle_tracking();
    match outcome {
        Ok(()) => {}
        Err(error @ (Error::OnceMismatch | Error::OnceTooLarge(_) | Error::ReceiptUnreadable)) => {
            reply.error(&error.to_string());
        }
        Err(error) => reply.error(&format!("EXECABORT Transaction discarded because of: {error}")),
    }
}

/// A queued command that is not part of the plan.
type OfSession = (&'static CommandEntry, OwnedRequest);

/// The role of a queued command in EXEC.
enum Queued {
    /// The command at this step of the plan, which holds its request.
    Planned(&'static CommandEntry, usize),
    OfSession(OfSession),
    /// A session command for which the step before it has counted the keys.
    Counting(OfSession),
    /// The user may not run it any more. The error reply.
    Denied(String),
}

async fn run_queue(
    session: &mut Session,
    queue: Vec<OwnedRequest>,
    once: Option<Once>,
    reply: &mut Reply,
    now_ms: u64,
) -> Result<()> {
    let mut plan = Plan::new(now_ms, session.worker.random());
    plan.watching = session.watching.clone();
    let mut context = session.context();
    let mut queued = Vec::with_capacity(queue.len());
    // The field sets as the commands so far leave them, once one of them changes any.
    let mut fields: Option<Box<FieldSets>> = None;
    for request in queue {
        let Ok(entry) = TABLE.resolve(request.as_request()) else { continue };
        if let Err(denial) = session.check(entry, &request, context.select).await {
            session.note_denial(denial, entry, request.as_request(), DenialContext::Multi);
            let subject = session.tenant.acl.catalogue.get(entry.id);
            queued.push(Queued::Denied(denial.changed_reply(&session.permissions.user().name, subject)));
            continue;
        }
        if let Handler::Keyspace(run) = entry.action {
            if let Some(name) = entry.row.field_set.and_then(|at| request.as_request().get(at))
                && let Some(set) = fields.as_deref().or(session.field_sets.as_deref()).and_then(|sets| sets.get(name))
            {
                plan.field_sets.push((plan.steps.len(), Arc::clone(set)));
            }
            queued.push(Queued::Planned(entry, plan.steps.len()));
            plan.steps.push(Step::Command(execution::PlannedCommand { row: entry.row, run, request, context }));
            continue;
        }
        if let Some(foresee) = entry.row.foresee_fields {
            foresee(request.as_request(), fields.get_or_insert_with(|| session.field_sets.clone().unwrap_or_default()));
        }
        if let Some(foresee) = entry.row.foresee {
            foresee(request.as_request(), &mut context);
            session.expect_tracking(context.tracker.mode);
        }
        queued.push(match entry.action {
            Handler::Session(SessionRun::Info) => {
                plan.steps.push(Step::Count);
                Queued::Counting((entry, request))
            }
            _ => Queued::OfSession((entry, request)),
        });
    }
    if once.is_some() && !queued.iter().all(|one| matches!(one, Queued::Planned(..))) {
        // Their replies come after the plan, so no receipt could hold them.
        return Err(Error::text("ERR behind ONCE, EXEC takes commands over keys that the user may run"));
    }
    plan.once = once;
    plan.array = Some(queued.len());
    plan.budget = Some(Arc::clone(&session.client) as _);
    plan.script_user = session.script_user();
    // Whether all commands are polls, and may change something.
    let polls = plan.commands().try_fold(true, |may_change, command| {
        let request = command.request.as_request();
        let poll = session.poll_of(TABLE.resolve(request).ok()?, request)?;
        Some(may_change && poll.may_change())
    });
    plan.is_poll = polls.is_some();
    // An import that begins here is filled from its first moment, as the keeper sees it.
    session.client.select.store(context.select, Ordering::Relaxed);
    let plan = Arc::new(plan);
    if plan.watching.is_none() && plan.commands().next().is_none() {
        // The queue has no commands over the keyspace, so the database need not be woken.
        reply.array(queued.len());
        weave(session, &plan, &queued, &Answers::default(), reply).await;
        return Ok(());
    }
    let outcome = execution::run(&session.tenant.database, &plan, &session.turn()).await;
    let has_changed = outcome.as_ref().is_ok_and(|outcome| outcome.has_changed);
    if polls.is_none_or(|may_change| has_changed && !may_change) {
        session.note_use(now_ms);
    }
    let outcome = outcome?;
    session.note_elsewhere(&outcome);
    session.count_keyspace(outcome.hits, outcome.misses);
    // The replies of session commands also wait for the transaction from here on.
    session.note(Left { awaited: outcome.left.awaited, written: 0 });
    session.publish_all(&outcome.published);
    session.own = outcome.own;
    match outcome.ended {
        Ended::Refused(error) => return Err(error),
        Ended::Changed => reply.null_array(),
        Ended::Repeated => reply.append(outcome.replies),
        Ended::Done => {
            let answers = Answers { replies: outcome.replies, start: outcome.start, steps: outcome.steps };
            answer(session, &plan, &queued, answers, reply).await;
        }
    }
    session.note(outcome.left);
    Ok(())
}

/// The plan's answers. Its replies begin at `start`, after the array header.
#[derive(Default)]
struct Answers {
    replies: Reply,
    start: usize,
    steps: Vec<Ran>,
}

async fn answer(session: &mut Session, plan: &Plan, queued: &[Queued], answers: Answers, reply: &mut Reply) {
    let is_whole = queued.iter().all(|one| matches!(one, Queued::Planned(..)));
    reply.raw(if is_whole { &[] } else { &answers.replies.buffer[..answers.start] });
    weave(session, plan, queued, &answers, reply).await;
    if is_whole {
        // The plan's replies are contiguous.
        reply.append(answers.replies);
    }
}

/// Counts the commands of the plan, and merges their replies with those of the session's commands, which run now.
/// Without session commands, the replies are left as they are. Session commands are in no plan, so others get turns
/// between them.
async fn weave(session: &mut Session, plan: &Plan, queued: &[Queued], answers: &Answers, reply: &mut Reply) {
    let is_whole = queued.iter().all(|one| matches!(one, Queued::Planned(..)));
    let (mut steps, mut from) = (answers.steps.iter(), answers.start);
    let mut turn = TurnBudget::whole();
    for one in queued {
        let before = reply.len();
        match one {
            Queued::Planned(entry, step) => {
                let (Some(Ran::Command { end, took, calls }), Some(Step::Command(command))) =
                    (steps.next(), plan.steps.get(*step))
                else {
                    continue;
                };
                let told = &answers.replies.buffer[from..*end];
                from = *end;
                count(session, entry, command.request.as_request(), told, *took, calls.as_deref());
                if !errors::is_rejection(told, calls.as_deref()) {
                    let request = command.request.as_request();
                    turn.spend(session.show(entry.row, command.context.select, request, calls.as_deref()));
                }
                if !is_whole {
                    reply.raw(told);
                    reply.settle(before);
                }
            }
            Queued::Denied(error) => {
                reply.error(error);
                session.tenant.errors.count(&reply.buffer[before..]);
            }
            Queued::OfSession((entry, request)) | Queued::Counting((entry, request)) => {
                let began = Instant::now();
                let counts = match one {
                    Queued::Counting(_) => steps.next(),
                    _ => None,
                };
                let cost = run_in_session(session, entry, request.as_request(), counts, reply).await;
                reply.settle(before);
                if reply.buffer.get(before) == Some(&b'-') {
                    session.forget_pushes(before);
                }
                reply.set_version(session.version);
                let took = began.elapsed();
                count(session, entry, request.as_request(), &reply.buffer[before..], took, None);
                turn.spend(session.show(entry.row, session.select, request.as_request(), None));
                turn.spend(cost + (reply.len() - before) / BYTES_PER_ELEMENT);
                if turn.is_spent() {
                    session.pass_turn().await;
                    turn = TurnBudget::whole();
                }
            }
        }
    }
}

/// Runs a queued command of the session. Returns its estimated cost.
async fn run_in_session(
    session: &mut Session,
    entry: &'static CommandEntry,
    request: Request<'_>,
    counted: Option<&Ran>,
    reply: &mut Reply,
) -> usize {
    let before = reply.len();
    let audited = session.audited(&entry.name, entry.row);
    let mut cost = budget::of_request(request);
    let done = match entry.action {
        Handler::Session(SessionRun::Weighed(weighed)) => {
            cost = weighed.cost(session, request);
            match cost {
                ..=TURN => (weighed.run)(session, reply, request),
                _ => (weighed.in_turns)(session, reply, request).await,
            }
        }
        Handler::Session(SessionRun::Now(run) | SessionRun::LogIn(LogIn { run, .. }) | SessionRun::Either(run, _)) => {
            run(session, reply, request)
        }
        Handler::Session(SessionRun::Waits(run)) => run(session, reply, request).await,
        Handler::Session(SessionRun::Info) => {
            let counts = if let Some(Ran::Count(counts)) = counted { Some(&**counts) } else { None };
            cost = info::cost(session);
            info::info(session, reply, request, counts).await
        }
        _ => Err(Error::text("ERR Command not allowed inside a transaction")),
    };
    if let Err(error) = done {
        reply.truncate(before);
        session.forget_pushes(before);
        reply.error(&error.to_string());
    }
    if let Some(audited) = audited {
        audited.end(reply.buffer.get(before..).unwrap_or_default(), session.about.take());
    }
    cost
}

/// Counts one command of a transaction that was run. Its request was counted when queued, and its reply is part of
/// EXEC's.
fn count(
    session: &mut Session,
    entry: &CommandEntry,
    request: Request<'_>,
    reply: &[u8],
    took: Duration,
    calls: Option<&ScriptTrace>,
) {
    let mut batch = session.worker.take_batch();
    if errors::is_rejection(reply, calls) {
        batch.rejected(entry.id);
    } else {
        batch.called(entry.id);
        batch.timed(entry.id, took.as_nanos() as u64);
    }
    if reply.first() == Some(&b'-') {
        if !errors::is_rejection(reply, calls) {
            batch.failed(entry.id);
        }
        if !calls.is_some_and(|calls| calls.explains(reply)) {
            session.tenant.errors.count(reply);
        }
    }
    if let Some(calls) = calls {
        calls.commands.iter().for_each(|counts| batch.called_by_script(counts));
        calls.errors.iter().for_each(|(word, count)| session.tenant.errors.count_word(word, *count));
    }
    // EXEC is billed for all of its commands.
    session.worker.commit_billed(&session.writer, batch, Duration::ZERO, Duration::ZERO);
    session.nested += took;
    let now_ms = session.now_us / 1000;
    session.node.note_time(&session.tenant, &session.client, entry.row, request, took, now_ms);
    // Its request came when it was queued.
    session.note_size(entry, request, (0, reply.len()), now_ms);
    session.note_hot(entry.row, request, took, hotkeys::bytes_sent(request) + reply.len());
}

/// `WATCH key [key ...]`
pub async fn watch(session: &mut Session, reply: &mut Reply, request: Request<'_>, now_ms: u64) {
    if session.transaction.is_some() {
        reply.error("ERR WATCH inside MULTI is not allowed");
        return;
    }
    match watch_keys(session, request, now_ms).await {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(&error.to_string()),
    }
}

async fn watch_keys(session: &mut Session, request: Request<'_>, now_ms: u64) -> Result<()> {
    let database = Arc::clone(&session.tenant.database);
    let watching = Arc::clone(session.watching.get_or_insert_with(|| Watching::new(&database.shared.watches)));
    let select = session.select;
    let mut added: BTreeSet<(u8, Box<[u8]>)> = request.iter().skip(1).map(|key| (select, key.into())).collect();
    added.retain(|key| !watching.keys().contains(key));
    // Each key is in two maps.
    let bytes: usize = added.iter().map(|(_, key)| 2 * (key.len() + ENTRY_BYTES)).sum();
    session.client.hold(bytes).map_err(account::refusal)?;
    session.watched_bytes += bytes;
    let mut plan = Plan::new(now_ms, 1);
    plan.watching = Some(watching);
    plan.steps.extend(added.into_iter().map(|(select, key)| Step::Watch { select, key }));
    let outcome = execution::run(&database, &Arc::new(plan), &session.turn()).await?;
    session.note_elsewhere(&outcome);
    session.note(outcome.left);
    if let Some(watching) = &session.watching {
        session.client.watching.store(watching.keys().len() as u32, Ordering::Relaxed);
    }
    Ok(())
}
