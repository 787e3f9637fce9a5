//! Budgets of turns: a thread that serves many connections works for one of them only for about half a millisecond at a
//! time.
//!
//! The unit is one element looked at, about 100 ns. The cost of a request is the sum of:
//!
//! 1. its words and bytes, which every command at least reads ([`of_request`]);
//! 2. its row's estimate from the sizes of its keys, before it runs;
//! 3. the bytes of its reply and of the values that it has freed, known when it has run. Both are bounded: by
//!    [`REPLY_INLINE_MAX`], and by freeing large values on another thread. The reply of a write cannot be taken back,
//!    so its row estimates these bytes too.
//!
//! A batch ends its turn when its budget is spent. A plan that is not known to be within the budget runs on the slow
//! lane.

use std::collections::HashMap;

use dormouse_protocol::Request;

use super::plan::Plan;
use super::route;
pub use crate::commands::cost::{BYTES_PER_ELEMENT, TURN, of_request};
use crate::commands::{Flags, Row};
use crate::keyspace::Keyspace;

/// Bytes of a reply that a worker writes itself. A longer one of a command that only reads is taken back, and the command runs
/// again on the slow lane.
pub const REPLY_INLINE_MAX: usize = 512 << 10;

/// Bytes of values that are freed in about the time of one element.
pub const FREED_BYTES_PER_ELEMENT: usize = 64;

/// The budget that a turn has left.
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

    pub const fn is_spent(&self) -> bool {
        self.left == 0
    }

    /// Takes the cost of work that has run already: the next command may have to wait for another turn.
    #[inline]
    pub const fn spend(&mut self, cost: usize) {
        self.left = self.left.saturating_sub(cost);
    }
}

/// The estimated cost of a request, without its reply.
#[inline]
pub fn cost(db: &Keyspace<'_>, row: &Row, request: Request<'_>) -> usize {
    let own = of_request(request);
    match row.cost {
        None => own,
        Some(cost) => cost(db, request).saturating_add(own),
    }
}

/// The possible cost of a plan.
///
/// The costs of its commands are estimated before the first of them runs, but a write may make a key larger for those
/// that follow:
///
/// 1. Everything that writes so far have added, all their arguments, is counted as if each later command that has a
///    cost of its own looked at all of it.
/// 2. A copy or a union may add far more than its arguments. A later command over one of its keys is not known to be
///    short, nor is a command over several keys one of which was written: its cost may be their product.
/// 3. After a SWAPDB, a name may stand for any key.
/// 4. Each command of a queue counts the strings that it names as if it read all of them, with everything that the
///    queue has added to them: nothing stops a queue whose replies become long.
#[derive(Debug, Default)]
pub(super) struct Estimate<'p> {
    cost: usize,
    /// Elements that writes so far have added, to whatever key.
    grown: usize,
    /// The keys written so far.
    written: HashMap<&'p [u8], Written>,
    is_swapped: bool,
    is_unknown: bool,
}

/// The data that the commands so far have written to a key.
#[derive(Debug, Default)]
struct Written {
    /// From other keys, in an unknown amount.
    from_others: bool,
    /// From their own arguments.
    bytes: usize,
}

/// Bytes of arguments that count as one element.
const ELEMENT_BYTES: usize = 64;

impl<'p> Estimate<'p> {
    pub(super) fn of(db: &mut Keyspace<'_>, plan: &'p Plan) -> Self {
        let mut estimate = Self::default();
        // A single command finds its keys as they are, and is taken back when its reply becomes long.
        let is_alone = plan.steps.len() == 1;
        for command in plan.commands() {
            let (row, request) = (command.row, command.request.as_request());
            db.select(command.context.select);
            db.set_tracker(command.context.tracker);
            estimate.cost = estimate.cost.saturating_add(cost(db, row, request));
            // A script may be a guest only if it is alone.
            estimate.is_unknown |= (!is_alone || plan.once.is_some()) && route::strays(db.shared(), row, request);
            if !is_alone && estimate.is_short() {
                estimate.read(db, row, request);
                estimate.write(db, row, request);
            }
        }
        estimate
    }

    /// Adds the data that a command of a queue may find in its keys.
    fn read(&mut self, db: &Keyspace<'_>, row: &Row, request: Request<'p>) {
        let (mut bytes, mut is_written, mut from_others, mut keys) = (0, false, false, 0);
        for key in row.key_indexes(request).map(|key| request.arg(key)) {
            keys += 1;
            bytes += db.string_length(key);
            if let Some(written) = self.written.get(key) {
                is_written = true;
                from_others |= written.from_others;
                bytes += written.bytes;
            }
        }
        self.cost = self.cost.saturating_add(bytes / BYTES_PER_ELEMENT);
        self.is_unknown |= from_others;
        if row.cost.is_some() && (self.grown > 0 || self.is_swapped) {
            self.is_unknown |= self.is_swapped || is_written && keys > 1;
            let each = 1 + request.bytes() / ELEMENT_BYTES;
            self.cost = self.cost.saturating_add(self.grown.saturating_mul(each));
        }
    }

    /// Notes the data that a command of a queue may write.
    fn write(&mut self, db: &Keyspace<'_>, row: &Row, request: Request<'p>) {
        if !row.flags.contains(Flags::WRITE) {
            return;
        }
        self.grown = self.grown.saturating_add(request.len() + request.bytes() / ELEMENT_BYTES);
        self.is_swapped |= row.flags.contains(Flags::SWAPS_INDEXES);
        let keys = || row.key_indexes(request).map(|key| request.arg(key));
        let from_others = row.cost.is_some() && keys().nth(1).is_some();
        let values = request.bytes() - request.arg(0).len() - keys().map(<[u8]>::len).sum::<usize>();
        let bytes = values + row.growth(db, request);
        for key in keys() {
            let written = self.written.entry(key).or_default();
            written.from_others |= from_others;
            written.bytes = written.bytes.saturating_add(bytes);
        }
    }

    pub(super) const fn is_short(&self) -> bool {
        !self.is_unknown && self.cost <= TURN
    }
}
