//! Commands that wait for other clients: blocking ones, and those that `CLIENT PAUSE` holds back.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Instant;

use dormouse_protocol::{OwnedRequest, Reply, Request};
use dormouse_shard::commands::Flags;
use dormouse_shard::execution::{self, Blocking, Ended, Plan, PlannedCommand};
use dormouse_shard::keyspace::Left;
use dormouse_shard::waiters::{ServedReply, Waiter};

use super::{Fate, busy, is_exec};
use crate::blocked::{Blocked, Spent, Unblocked};
use crate::commands::TABLE;
use crate::commands::waits::UNBLOCKED;
use crate::session::Session;
use crate::table::CommandEntry;

impl Session {
    /// Runs the command of a nudged client again. It may go on waiting.
    pub async fn run_again(&mut self, reply: &mut Reply) {
        let Some(waiter) = self.blocked.as_ref().map(|blocked| Arc::clone(&blocked.waiter)) else { return };
        let (started, now_us) = self.worker.now_us();
        self.since = started;
        if let Some(denial) = waiter.denial() {
            return self.refuse_waiting(&waiter, &denial, reply).await;
        }
        let Waiter { row, run, request, context, .. } = &*waiter;
        let command = PlannedCommand { row, run: *run, request: request.clone(), context: *context };
        let mut plan = Plan::one(command, now_us / 1000, self.worker.random());
        plan.budget = Some(Arc::clone(&self.client) as _);
        plan.blocking = Blocking::Again(Arc::clone(&waiter));
        let (worker, share) = (Rc::clone(&self.worker), Rc::clone(&self.share));
        // It waits for its turn no longer than for another client.
        let deadline = self.blocked.as_ref().and_then(|blocked| blocked.deadline());
        let (plan, turn) = (Arc::new(plan), self.turn_until(deadline));
        let ran = execution::run(&self.tenant.database, &plan, &turn);
        let (ran, busy) = busy(ran, |ns| worker.turns.charge(&share, ns)).await;
        if let Some(blocked) = &mut self.blocked {
            let elsewhere = ran.as_ref().map(|outcome| (outcome.elsewhere, outcome.elsewhere_cpu)).unwrap_or_default();
            blocked.spent.busy += busy + elsewhere.0;
            blocked.spent.cpu += busy + elsewhere.1;
        }
        let ran = ran.and_then(|outcome| match outcome.ended {
            Ended::Refused(error) => Err(error),
            Ended::Done | Ended::Changed | Ended::Repeated => Ok(outcome),
        });
        let served = match ran {
            // It still waits, or was served meanwhile.
            Ok(outcome) if outcome.blocked.is_some() => return,
            Ok(outcome) => {
                self.count_keyspace(outcome.hits, outcome.misses);
                self.own = outcome.own;
                ServedReply { reply: outcome.replies, left: outcome.left }
            }
            Err(error) => {
                let is_late = deadline.is_some_and(|deadline| deadline <= Instant::now());
                return match is_late {
                    true if end(&waiter).await => self.unblock(Unblocked::TimedOut, reply),
                    true => {}
                    false => self.refuse_waiting(&waiter, &error.to_string(), reply).await,
                };
            }
        };
        self.unblock(Unblocked::Served(served), reply);
    }

    /// Ends the wait of a blocked client with an error, unless another client serves it at this moment.
    async fn refuse_waiting(&mut self, waiter: &Waiter, why: &str, reply: &mut Reply) {
        if end(waiter).await {
            let mut refusal = Reply::new(self.version);
            refusal.error(why);
            self.unblock(Unblocked::Served(ServedReply { reply: refusal, left: Left::default() }), reply);
        }
    }

    /// Ends the wait of a blocked client, and writes the reply of its command.
    pub fn unblock(&mut self, how: Unblocked, reply: &mut Reply) {
        let Some(blocked) = self.blocked.take() else { return };
        let with_error = self.client.is_unblocked_with_error();
        let (started, now_us) = self.worker.now_us();
        (self.since, self.now_us) = (started, now_us);
        self.client.active_ms.store(now_us / 1000, Ordering::Relaxed);
        let before = reply.len();
        reply.set_version(self.version);
        let mut left = Left { awaited: blocked.awaited, written: 0 };
        // A client that has waited in vain has got nothing.
        let is_billed = matches!(how, Unblocked::Served(_));
        match how {
            Unblocked::Served(served) => {
                self.note_use(now_us / 1000);
                left.awaited = left.awaited.max(served.left.awaited);
                self.written = self.written.max(served.left.written);
                reply.append(served.reply);
            }
            Unblocked::ByOther if with_error => reply.error(&UNBLOCKED.to_string()),
            Unblocked::TimedOut | Unblocked::ByOther => reply.null_array(),
        }
        self.end_command(&blocked, is_billed, before, reply);
        self.note_replies(left, before, reply.len());
    }

    /// Counts the command of a client that waits no longer, whose reply begins at `before`. The client may not want it.
    fn end_command(&mut self, blocked: &Blocked, is_billed: bool, before: usize, reply: &mut Reply) {
        reply.settle(before);
        let is_error = reply.buffer.get(before) == Some(&b'-');
        if is_error {
            self.tenant.errors.count(&reply.buffer[before..]);
        }
        self.leave_out(reply, before);
        self.write_own(reply);
        let Spent { bytes_in, busy, cpu } = blocked.spent;
        let bytes_out = (reply.len() - before) as u64;
        self.client.note_traffic(bytes_in as usize, bytes_out as usize, 1);
        self.count(Fate::Ran(blocked.command), is_error, is_billed, (bytes_in, bytes_out), (busy, cpu));
        let (row, request) = (TABLE.get(blocked.command).row, blocked.waiter.request.as_request());
        let now_ms = self.now_us / 1000;
        self.node.note_time(&self.tenant, &self.client, row, request, busy, now_ms);
        self.note_size(TABLE.get(blocked.command), request, (bytes_in as usize, bytes_out as usize), now_ms);
        self.note_hot(row, request, busy, (bytes_in + bytes_out) as usize);
    }

    /// Ends the wait of a client that is gone. Its command is counted, and not billed.
    pub(crate) fn end_blocked(&mut self) {
        if let Some(blocked) = self.blocked.take() {
            let Spent { bytes_in, busy, cpu } = blocked.spent;
            self.count(Fate::Ran(blocked.command), false, false, (bytes_in, 0), (busy, cpu));
        }
    }

    /// Whether `CLIENT PAUSE` holds back a request.
    pub fn is_held_back(&self, request: Request<'_>) -> bool {
        let (_, now_ms) = self.worker.now();
        if !self.tenant.pause.is_on(now_ms) || !self.authenticated || self.has_run_ahead() {
            return false;
        }
        let Ok(entry) = TABLE.resolve(request) else { return false };
        let shared = &self.tenant.database.shared;
        let may_write = |entry: &CommandEntry, request: Request<'_>| {
            entry.row.flags.intersects(Flags::WRITE | Flags::MAY_REPLICATE)
                && !entry.row.reads.is_some_and(|reads| reads(shared, request))
        };
        let mut queue = self.transaction.iter().flat_map(|transaction| &transaction.queue).filter(|_| is_exec(entry));
        let queued = |request: &OwnedRequest| {
            let request = request.as_request();
            TABLE.resolve(request).is_ok_and(|entry| may_write(entry, request))
        };
        let writes = may_write(entry, request) || queue.any(queued);
        !entry.row.flags.contains(Flags::WHILE_PAUSED) && self.tenant.pause.holds(now_ms, writes)
    }

    /// Waits while `CLIENT PAUSE` holds back a request.
    pub async fn wait_for_pause(&self, request: Request<'_>) {
        while self.is_held_back(request) && !self.client.is_killed() && !self.node.clients.is_draining() {
            self.client.is_blocked.store(true, Ordering::Relaxed);
            let (_, now_ms) = self.worker.now();
            let mut changed = pin!(self.tenant.pause.changed(now_ms));
            poll_fn(|cx| {
                self.client.waker.register(cx.waker());
                let is_over = self.client.is_killed() || self.node.clients.is_draining();
                if is_over { Poll::Ready(()) } else { changed.as_mut().poll(cx) }
            })
            .await;
            self.client.is_blocked.store(false, Ordering::Relaxed);
        }
    }
}

/// Ends a waiter's wait. False: it has been served.
async fn end(waiter: &Waiter) -> bool {
    while !waiter.end() {
        if !waiter.is_claimed() {
            return false;
        }
        tokio::task::yield_now().await;
    }
    true
}
