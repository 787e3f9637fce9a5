//! The operator's limits on requests, within a batch: see [`crate::databases::traffic`].
//!
//! A request over a limit is answered here, before anything is looked up or locked. In a transaction it breaks the
//! transaction, as any refused command does. What logs in, and what begins or ends a transaction, is never refused: a client must
//! not be left in a state that it does not know of, and the commands behind a refused `MULTI` would run one by one.

use dormouse_protocol::{Reply, Request};
use dormouse_shard::commands::Flags;

use crate::commands::TABLE;
use crate::databases::traffic::TOO_LARGE;
use crate::metering::Batch;
use crate::session::{FrontEnd, Session};
use crate::table::CommandEntry;

/// What the limits of its database leave to a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowance {
    /// Whether a limit may concern the batch. If not, nothing else is looked at.
    pub is_limited: bool,
    is_rated: bool,
    request_bytes_max: usize,
    /// The requests of the batch for which there are tokens, from its beginning.
    requests_max: u64,
}

impl Allowance {
    /// Whether one more request may run without a further token.
    pub fn covers(&self, request: Request<'_>, batch: &Batch) -> bool {
        (!self.is_rated || batch.requests() < self.requests_max) && request.extent() <= self.request_bytes_max
    }
}

impl Session {
    /// The allowance of a batch with this input.
    #[inline]
    pub(super) fn allowance(&self, input: &[u8]) -> Allowance {
        let traffic = &self.tenant.traffic;
        // Bodies of HTTP are limited where they are read. Strangers have limits of their own.
        let is_sized = self.front == FrontEnd::Resp && self.authenticated;
        let request_bytes_max = if is_sized { traffic.request_bytes_max() } else { usize::MAX };
        // The operator must be able to help a tenant who has used all requests.
        let is_rated = traffic.is_rated() && self.authenticated && !self.permissions.is_operator();
        let is_limited = is_rated || input.len() > request_bytes_max;
        Allowance { is_limited, is_rated, request_bytes_max, requests_max: 0 }
    }

    /// Whether a request of a limited batch, which begins `rest` and has taken `bytes`, may run. If not, the reply says why.
    pub(super) fn allows(
        &mut self,
        allowance: &mut Allowance,
        (request, bytes): (Request<'_>, usize),
        rest: &[u8],
        reply: &mut Reply,
        batch: &mut Batch,
    ) -> bool {
        if allowance.covers(request, batch) {
            return true;
        }
        let text = if request.extent() > allowance.request_bytes_max {
            self.tenant.traffic.note_refused();
            TOO_LARGE.to_owned()
        } else {
            let taken = self.tenant.traffic.take(rest, self.now_us);
            if taken > 0 {
                allowance.requests_max = batch.requests() + taken;
                return true;
            }
            if self.is_exempt(request) {
                return true;
            }
            self.tenant.traffic.refuse(self.now_us)
        };
        if let Some(transaction) = &mut self.transaction {
            transaction.broken = true;
        }
        let before = reply.len();
        reply.error(&text);
        self.tenant.errors.count(&reply.buffer[before..]);
        self.leave_out(reply, before);
        batch.refused(bytes as u64, (reply.len() - before) as u64);
        if let Some(entry) = TABLE.named(request) {
            batch.rejected(entry.id);
        }
        false
    }

    /// Whether a request runs even if there is no token for it.
    fn is_exempt(&self, request: Request<'_>) -> bool {
        let ends = |entry: &CommandEntry| {
            let is_in_one = self.transaction.is_some();
            entry.logs_in()
                || if is_in_one { entry.row.flags.contains(Flags::AT_ONCE) } else { entry.begins_transaction() }
        };
        self.front == FrontEnd::HttpItself || TABLE.by_name(request.arg(0)).is_some_and(ends)
    }

    /// Gives back the tokens that a batch has not used. `has_slow`: whether one more request goes the slow way.
    #[inline]
    pub(super) fn settle_allowance(&self, allowance: Allowance, batch: &Batch, has_slow: bool) {
        if allowance.is_rated {
            let used = batch.requests() + u64::from(has_slow);
            self.tenant.traffic.give_back(allowance.requests_max.saturating_sub(used));
        }
    }
}
