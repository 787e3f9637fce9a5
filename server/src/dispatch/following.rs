//! Scripts of one pipeline in one turn of the slow lane.
//!
//! Nearly every script with a loop runs on the slow lane, and each change of thread costs as much as a short script. So
//! those that wait in the read buffer behind one are run together with it:
//!
//! 1. The batch that meets a script of the lane looks at the complete requests behind it, as long as they are such
//!    scripts too, and copies them ([`Session::gather`]).
//! 2. They are handed over as plans of their own behind the first one's. The lane runs them after it while its turn
//!    lasts ([`execution::run_followed`](dormouse_shard::execution::run_followed)).
//! 3. The first request is answered. The next batch meets the second one, whose outcome is there already, and so on. A
//!    request that was not run meanwhile begins again at step 1.
//!
//! A script that has begun in a batch, as a guest, and goes on on the lane has run ahead in the same way: its outcome comes there.
//!
//! Invariants: a request is gathered only if the session would run it as it is, and nothing that runs before it can change
//! that. Whatever has run is answered and counted, in order, like any other request; if the client goes before, it is counted
//! all the same, and its messages are published ([`Session::end_following`]).

use std::sync::Arc;

use dormouse_protocol::{Parsed, Parser, Request};
use dormouse_shard::commands::{Flags, Run, Straying};
use dormouse_shard::error::Error;
use dormouse_shard::execution::{Outcome, Plan, PlannedCommand, Ran};
use futures::channel::oneshot;

use super::count_calls;
use crate::commands::TABLE;
use crate::session::{FrontEnd, Session};
use crate::table::{CommandEntry, Handler};

/// Requests that run together with the one before them, and their bytes.
const REQUESTS_MAX: usize = 31;
const BYTES_MAX: usize = 64 << 10;

impl Session {
    /// Whether the next request has run already, or has begun.
    #[inline]
    pub fn has_run_ahead(&self) -> bool {
        self.following.as_ref().is_some_and(|following| !following.outcomes.is_empty() || following.going_on.is_some())
    }

    /// Notes that the next request, a script, has begun in its batch and goes on elsewhere.
    pub(super) fn note_going_on(&mut self, outcome: oneshot::Receiver<Outcome>) {
        self.following.get_or_insert_default().going_on = Some(outcome);
    }

    /// The outcome of the current request, if it has begun in its batch.
    pub(super) async fn outcome_of_begun(&mut self) -> Option<Result<Outcome, Error>> {
        let outcome = self.following.as_mut()?.going_on.take()?;
        // It runs to its end, whatever becomes of its client.
        Some(outcome.await.map_err(|_| Error::text("ERR the command failed; the server's log says how")))
    }

    /// The outcome of the current request, if it has run already.
    pub(super) fn outcome_ahead(&mut self) -> Option<Result<Outcome, Error>> {
        let following = self.following.as_mut()?;
        following.commands.pop_front();
        following.outcomes.pop_front()
    }

    /// Whether a request is a script that surely runs on the slow lane, as far as the session goes.
    fn may_follow(&self, entry: &CommandEntry, request: Request<'_>) -> Option<Run> {
        let Handler::Keyspace(run) = entry.action else { return None };
        let strays = entry.row.strays.filter(|_| !entry.row.flags.contains(Flags::BLOCKING))?;
        let shared = &self.tenant.database.shared;
        let is_fit = entry.row.arity.accepts(request.len())
            && self.is_permitted(entry, request)
            && strays(shared, request) == Straying::OnLane;
        is_fit.then_some(run)
    }

    /// Copies the scripts that follow a script in `input`, if all of them run on the slow lane. `input` begins behind the first
    /// one.
    pub(super) fn gather(&mut self, first: Request<'_>, parser: &mut Parser, input: &[u8]) {
        if self.front != FrontEnd::Resp
            || TABLE.by_name(first.arg(0)).is_none_or(|entry| self.may_follow(entry, first).is_none())
        {
            return;
        }
        let (mut at, mut requests) = (0, Vec::new());
        while requests.len() < REQUESTS_MAX {
            let Ok(Parsed::Complete { request, consumed }) = parser.parse(&input[at..]) else { break };
            if at + consumed > BYTES_MAX || request.is_empty() {
                break;
            }
            let Some(entry) = TABLE.by_name(request.arg(0)) else { break };
            let Some(run) = self.may_follow(entry, request) else { break };
            let (row, request) = (entry.row, request.to_owned());
            requests.push((entry.id, PlannedCommand { row, run, request, context: self.context() }));
            at += consumed;
        }
        parser.restart();
        if !requests.is_empty() && self.client.hold(at).is_ok() {
            let following = self.following.get_or_insert_default();
            following.requests = requests;
            following.held += at;
        }
    }

    /// Forgets requests that have not run together with the one before them.
    #[inline]
    pub(super) fn gather_nothing(&mut self) {
        if let Some(following) = &mut self.following {
            following.requests.clear();
            self.client.let_go(std::mem::take(&mut following.held));
        }
    }

    /// The plans of the requests that run together with the current one.
    pub(super) fn plans_behind(&mut self, now_ms: u64) -> Vec<Arc<Plan>> {
        let Some(following) = &mut self.following else { return Vec::new() };
        let requests = std::mem::take(&mut following.requests);
        following.commands = requests.iter().map(|(id, _)| *id).collect();
        let plan = |command: PlannedCommand| {
            let mut plan = Plan::one(command, now_ms, self.worker.random());
            plan.budget = Some(Arc::clone(&self.client) as _);
            plan.script_user = self.script_user();
            Arc::new(plan)
        };
        requests.into_iter().map(|(_, request)| plan(request)).collect()
    }

    /// Keeps the outcomes of requests that have run together with the current one.
    pub(super) fn keep_outcomes(&mut self, outcomes: Vec<Result<Outcome, Error>>) {
        if !outcomes.is_empty() {
            self.following.get_or_insert_default().outcomes = outcomes.into();
        }
    }

    /// Counts the requests that have run and cannot be answered any more, and publishes their messages.
    pub fn end_following(&mut self) {
        self.gather_nothing();
        while let Some(command) = self.following.as_ref().and_then(|following| following.commands.front().copied())
            && let Some(outcome) = self.outcome_ahead()
        {
            let Ok(outcome) = outcome else { continue };
            self.note(outcome.left);
            self.publish_all(&outcome.published);
            self.count_keyspace(outcome.hits, outcome.misses);
            let mut batch = self.worker.take_batch();
            // Their bytes are counted with those of the requests that were not read.
            batch.request(command, 0, 0);
            if let Some(Ran::Command { calls: Some(calls), .. }) = outcome.steps.first() {
                count_calls(&mut batch, &self.tenant, calls);
            }
            self.commit_billed(batch, outcome.elsewhere, outcome.elsewhere_cpu);
        }
        self.publish_when_durable();
    }
}
