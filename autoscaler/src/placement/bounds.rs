//! Counts of the moves of the past minute, against their bounds.

use std::collections::{BTreeMap, VecDeque};

use super::observation::NodeId;
use super::policy::PlacementPolicy;

pub(crate) const MINUTE_MS: u64 = 60_000;

/// Exact sliding windows. Nodes are kept by number: a node that dies and comes back has no fresh count.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct MoveBounds {
    moves: VecDeque<(u64, NodeId, NodeId)>,
    of_node: BTreeMap<NodeId, usize>,
    /// How many there were at each moment.
    reassignments: VecDeque<(u64, usize)>,
    reassigned: usize,
}

impl MoveBounds {
    /// Forgets what is older than a minute.
    pub(crate) fn expire(&mut self, now: u64) {
        let is_old = |at: u64| now.saturating_sub(at) >= MINUTE_MS;
        while let Some(&(_, from, to)) = self.moves.front().filter(|(at, ..)| is_old(*at)) {
            self.moves.pop_front();
            for node in [from, to] {
                if let Some(count) = self.of_node.get_mut(&node) {
                    *count -= 1;
                    if *count == 0 {
                        self.of_node.remove(&node);
                    }
                }
            }
        }
        while let Some(&(_, count)) = self.reassignments.front().filter(|(at, _)| is_old(*at)) {
            self.reassignments.pop_front();
            self.reassigned -= count;
        }
    }

    /// The clock ran backwards: everything counts for another minute.
    pub(crate) fn start_over(&mut self, now: u64) {
        self.moves.iter_mut().for_each(|(at, ..)| *at = now);
        self.reassignments.iter_mut().for_each(|(at, _)| *at = now);
    }

    /// Whether another move fits into the bound of the fleet.
    pub(crate) fn fleet_allows(&self, policy: &PlacementPolicy) -> bool {
        self.moves.len() < policy.moves_per_minute_max
    }

    /// Whether another move from or to the node fits into its bound.
    pub(crate) fn node_allows(&self, policy: &PlacementPolicy, node: NodeId) -> bool {
        self.of_node.get(&node).is_none_or(|count| *count < policy.node_moves_per_minute_max)
    }

    pub(crate) fn moved(&mut self, from: NodeId, to: NodeId, now: u64) {
        self.moves.push_back((now, from, to));
        for node in [from, to] {
            *self.of_node.entry(node).or_default() += 1;
        }
    }

    /// Whether another new owner for an asleep part fits into the bound.
    pub(crate) fn reassignments_allow(&self, policy: &PlacementPolicy) -> bool {
        self.reassigned < policy.reassignments_per_minute_max
    }

    pub(crate) fn reassigned(&mut self, now: u64) {
        match self.reassignments.back_mut().filter(|(at, _)| *at == now) {
            Some((_, count)) => *count += 1,
            None => self.reassignments.push_back((now, 1)),
        }
        self.reassigned += 1;
    }
}
