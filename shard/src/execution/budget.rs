//! How much a turn may do: a thread that serves many connections works for one of them only for about a millisecond at a
//! time.
//!
//! The unit is one element looked at. A row estimates what a request costs from the sizes of its keys, before it runs.
//! A batch ends its turn when its budget is spent. A plan that is not known to be within the budget runs on the slow lane.

use std::collections::HashMap;

use dormouse_protocol::Request;

use super::plan::Plan;
use crate::commands::{Flags, Row};
use crate::keyspace::Keyspace;

/// What one turn may cost.
pub const TURN: usize = 10_000;

/// Bytes of a reply that a worker writes itself. A longer one of a command that only reads is taken back, and the command runs
/// again on the slow lane.
pub const REPLY_INLINE_MAX: usize = 512 << 10;

/// What a turn has left.
#[derive(Debug)]
pub struct TurnBudget {
    left: usize,
}

/// Whether a command fits into a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    Now,
    /// In a turn of its own.
    Later,
    /// In no turn: it runs on the slow lane.
    Never,
}

impl TurnBudget {
    /// A whole turn.
    pub const fn whole() -> Self {
        Self { left: TURN }
    }

    /// Takes `cost` if that is left.
    #[inline]
    pub const fn take(&mut self, cost: usize) -> Fit {
        if cost <= self.left {
            self.left -= cost;
            return Fit::Now;
        }
        if cost > TURN { Fit::Never } else { Fit::Later }
    }
}

/// What a request is estimated to cost.
#[inline]
pub fn cost(db: &Keyspace<'_>, row: &Row, request: Request<'_>) -> usize {
    match row.cost {
        None => 1,
        Some(cost) => cost(db, request).saturating_add(1),
    }
}

/// What a plan may cost.
///
/// The costs of its commands are estimated before the first of them runs, but a write may make a key larger for those that
/// follow:
///
/// 1. What writes so far have added, all their arguments, is counted as if each later command looked at all of it.
/// 2. A copy or a union may add far more than its arguments. A later command over one of its keys is not known to be short,
///    nor is a command over several keys one of which was written: its cost may be their product.
/// 3. After a SWAPDB, a name may stand for any key.
#[derive(Debug, Default)]
pub(super) struct Estimate<'p> {
    cost: usize,
    /// Elements that writes so far have added, to whatever key.
    grown: usize,
    /// The keys written so far, and whether by a command over several keys.
    written: HashMap<&'p [u8], bool>,
    is_swapped: bool,
    is_unknown: bool,
}

/// Bytes of arguments that count as one element.
const ELEMENT_BYTES: usize = 64;

impl<'p> Estimate<'p> {
    pub(super) fn of(db: &mut Keyspace<'_>, plan: &'p Plan) -> Self {
        let mut estimate = Self::default();
        // Of commands without a cost there is nothing to know, and one alone finds its keys as they are.
        let is_plain = plan.steps.len() == 1 || plan.commands().all(|command| command.row.cost.is_none());
        for command in plan.commands() {
            let (row, request) = (command.row, command.request.as_request());
            db.select(command.context.select);
            estimate.cost = estimate.cost.saturating_add(cost(db, row, request));
            if !is_plain && estimate.is_short() {
                estimate.add(row, request);
            }
        }
        estimate
    }

    fn add(&mut self, row: &Row, request: Request<'p>) {
        let keys = || row.key_indexes(request).map(|key| request.arg(key));
        let is_over_several = keys().nth(1).is_some();
        if row.cost.is_some() && (self.grown > 0 || self.is_swapped) {
            let is_written = |key| self.written.get(key).is_some_and(|by_several| *by_several || is_over_several);
            self.is_unknown |= self.is_swapped || keys().any(is_written);
            let each = 1 + request.bytes() / ELEMENT_BYTES;
            self.cost = self.cost.saturating_add(self.grown.saturating_mul(each));
        }
        if row.flags.contains(Flags::WRITE) {
            self.grown = self.grown.saturating_add(request.len() + request.bytes() / ELEMENT_BYTES);
            self.is_swapped |= row.flags.contains(Flags::SWAPS_INDEXES);
            keys().for_each(|key| *self.written.entry(key).or_default() |= is_over_several);
        }
    }

    pub(super) const fn is_short(&self) -> bool {
        !self.is_unknown && self.cost <= TURN
    }
}
