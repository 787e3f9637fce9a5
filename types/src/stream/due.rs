//! The order in which pending entries may be claimed: first those that were released, then by the time of their last delivery.
//!
//! A group has this order from the first time that it is asked for.

use super::StreamId;
use super::blocks::{Blocks, Keyed};
use super::group::Pending;

/// A pending entry in the order in which it may be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Due {
    since_ms: i64,
    /// Entries of one time are in the order of their deliveries.
    turn: u32,
    pub id: StreamId,
}

impl Due {
    pub const MIN: Due = Due { since_ms: i64::MIN, turn: 0, id: StreamId::MIN };

    pub fn of(pending: &Pending) -> Due {
        let since_ms = if pending.is_released() { i64::MIN } else { pending.delivered_ms.max(i64::MIN + 1) };
        Due { since_ms, turn: pending.turn, id: pending.id }
    }

    /// The place after this one; `None` after the last.
    pub fn next(self) -> Option<Due> {
        Some(Due { id: self.id.next()?, ..self })
    }
}

impl Keyed for Due {
    type Key = Due;

    fn key(&self) -> Due {
        *self
    }
}

/// The order of all of a group's pending entries.
pub(super) fn order_of<'p>(pending: impl Iterator<Item = &'p Pending>) -> Blocks<Due> {
    let mut due: Vec<Due> = pending.map(Due::of).collect();
    due.sort_unstable();
    let mut order = Blocks::default();
    due.into_iter().for_each(|due| _ = order.insert(due));
    order
}
