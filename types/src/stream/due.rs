//! The order in which pending entries may be claimed: first those that were released, then by the time of their last delivery.
//!
//! A group has this order from the first time that it is asked for.

use super::StreamId;
use super::blocks::{Blocks, Keyed};

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

    /// `delivered_ms`: none of a released entry.
    pub fn new(delivered_ms: Option<i64>, turn: u32, id: StreamId) -> Due {
        let since_ms = delivered_ms.map_or(i64::MIN, |delivered_ms| delivered_ms.max(i64::MIN + 1));
        Due { since_ms, turn, id }
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
pub(super) fn order_of(pending: impl Iterator<Item = Due>) -> Blocks<Due> {
    let mut due: Vec<Due> = pending.collect();
    due.sort_unstable();
    let mut order = Blocks::default();
    due.into_iter().for_each(|due| _ = order.insert(due));
    order
}
