//! The number of nodes that a fleet should have, and the nodes to drain when it shrinks.

use std::collections::BTreeMap;

use super::fleet::Fleet;
use super::node::{Demand, ratio};
use super::observation::{NodeId, ZoneId};
use super::policy::PlacementPolicy;
use crate::streak::Streak;

/// A fleet shrinks by at least this share of its nodes at a time, so that it does not grow again at once.
const SHRINK_SHARE_MIN: f64 = 0.05;

/// A dead or draining node is replaced: only a decision changes the number of nodes, or a node that joins unasked.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sizing {
    wanted: usize,
    /// Nodes that took parts in the previous step.
    nodes_before: usize,
    full: Streak,
    slack: Streak,
    /// The most nodes that were needed in the current window, and in the one before it.
    needed_max: [usize; 2],
    window_since_ms: u64,
}

impl Sizing {
    /// Step 8: returns the number of nodes that should take parts. `lacks_room`: a part found no room.
    pub(crate) fn nodes(&mut self, policy: &PlacementPolicy, fleet: &Fleet, lacks_room: bool, now: u64) -> usize {
        let (mut nodes, mut limit_kib, mut limit_busy) = (0, 0.0, 0.0);
        for (_, node) in fleet.open_nodes() {
            nodes += 1;
            limit_kib += node.memory_limit_kib(policy);
            limit_busy += node.busy_limit(policy);
        }
        if nodes > self.nodes_before {
            self.wanted = self.wanted.max(nodes);
        }
        self.nodes_before = nodes;
        if nodes == 0 {
            return self.wanted.max(policy.nodes_min);
        }
        let (mut memory_kib, mut busy) = (0, 0);
        for (_, node) in fleet.nodes() {
            memory_kib += node.memory_kib;
            busy += node.busy;
        }
        // Nodes do not help a part that is too large for any.
        let could_hold = |demand: &Demand| fleet.open_nodes().any(|(_, node)| node.could_hold(policy, *demand));
        for demand in fleet.orphans.awake.iter().map(|part| fleet.demand(*part)).filter(could_hold) {
            memory_kib += u64::from(demand.memory_kib);
            busy += u64::from(demand.busy);
        }
        let fullness = ratio(memory_kib as f64, limit_kib).max(ratio(busy as f64 / 1e6, limit_busy));
        let needed = (fullness * nodes as f64 / policy.target_fullness).ceil() as usize;

        self.full.look(fullness > policy.grow_fullness, now);
        let slack = self.wanted.saturating_sub(needed.max(policy.nodes_min));
        self.slack.look(slack > 0 && slack as f64 >= SHRINK_SHARE_MIN * self.wanted as f64 && !lacks_room, now);
        if now.saturating_sub(self.window_since_ms) >= policy.shrink_window_ms {
            self.needed_max = [needed, self.needed_max[0]];
            self.window_since_ms = now;
        }
        self.needed_max[0] = self.needed_max[0].max(needed);

        if self.full.holds(policy.grow_window_ms, policy.observations_min, now) {
            self.wanted = self.wanted.max(needed);
        }
        if lacks_room {
            self.wanted = self.wanted.max(needed).max(nodes + 1);
        }
        if self.slack.holds(policy.shrink_window_ms, policy.observations_min, now) {
            self.wanted = self.wanted.min(self.needed_max[0].max(self.needed_max[1]));
        }
        self.wanted = self.wanted.clamp(policy.nodes_min, policy.nodes_max);
        self.wanted
    }
}

/// The nodes to drain for a fleet of `wanted` nodes: of the zone with the most nodes, the node with the least in memory.
pub(crate) fn drains(policy: &PlacementPolicy, fleet: &Fleet, wanted: usize) -> Vec<NodeId> {
    let mut zones: BTreeMap<ZoneId, Vec<(u64, NodeId)>> = BTreeMap::new();
    for (_, node) in fleet.open_nodes() {
        zones.entry(node.zone).or_default().push((node.memory_kib, node.id));
    }
    let open: usize = zones.values().map(Vec::len).sum();
    let draining = fleet.nodes().count() - open;
    // The emptiest is last.
    zones.values_mut().for_each(|nodes| nodes.sort_unstable_by(|a, b| b.cmp(a)));
    let count = open.saturating_sub(wanted.max(1)).min(policy.drains_max.saturating_sub(draining));
    let mut drains = Vec::new();
    for _ in 0..count {
        // Of equals, the last zone.
        let Some(nodes) = zones.values_mut().max_by_key(|nodes| nodes.len()) else { break };
        drains.extend(nodes.pop().map(|(_, node)| node));
    }
    drains
}
