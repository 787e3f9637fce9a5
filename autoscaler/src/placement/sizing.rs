//! The number of nodes that a fleet should have, and the nodes to drain when it shrinks.

use std::collections::BTreeMap;

use super::fleet::Fleet;
use super::node::ratio;
use super::observation::{NodeId, ZoneId};
use super::policy::PlacementPolicy;
use crate::streak::Streak;

/// A fleet shrinks by at least this share of its nodes at a time, so that it does not grow again at once.
const SHRINK_SHARE_MIN: f64 = 0.05;

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sizing {
    full: Streak,
    slack: Streak,
    /// The most nodes that were needed since there is slack.
    shrink_to: usize,
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
        let (mut memory_kib, mut busy) = (0, 0);
        for (_, node) in fleet.nodes() {
            memory_kib += node.memory_kib;
            busy += node.busy;
        }
        for demand in fleet.orphans.awake.iter().map(|part| fleet.demand(*part)) {
            memory_kib += u64::from(demand.memory_kib);
            busy += u64::from(demand.busy);
        }
        if nodes == 0 {
            return policy.nodes_min;
        }
        let fullness = ratio(memory_kib as f64, limit_kib).max(ratio(busy as f64 / 1e6, limit_busy));
        let needed = (fullness * nodes as f64 / policy.target_fullness).ceil() as usize;
        let needed = needed.clamp(policy.nodes_min, policy.nodes_max);

        self.full.look(fullness > policy.grow_fullness, now);
        let has_slack = needed < nodes && (nodes - needed) as f64 >= SHRINK_SHARE_MIN * nodes as f64 && !lacks_room;
        self.slack.look(has_slack, now);
        self.shrink_to = if self.slack.observations > 1 { self.shrink_to.max(needed) } else { needed };

        if nodes < policy.nodes_min {
            policy.nodes_min
        } else if self.full.holds(policy.grow_window_ms, policy.observations_min, now) {
            needed.max(nodes)
        } else if lacks_room {
            needed.max(nodes + 1).min(policy.nodes_max.max(nodes))
        } else if nodes > policy.nodes_max || self.slack.holds(policy.shrink_window_ms, policy.observations_min, now) {
            self.shrink_to
        } else {
            nodes
        }
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
