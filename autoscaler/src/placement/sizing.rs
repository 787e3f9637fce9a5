//! The number of nodes that a fleet should have, and the nodes to drain when it shrinks.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::fleet::Fleet;
use super::node::{Demand, limits, ratio};
use super::observation::{NodeId, ZoneId};
use super::policy::PlacementPolicy;
use super::ranking::Ranking;
use crate::streak::Streak;

/// A fleet shrinks once at least this share of its nodes is too much, so that it does not follow each small change.
const SHRINK_SHARE_MIN: f64 = 0.05;
/// Nodes that are looked at for some that can be drained.
const LOOKED_AT_MAX: usize = 32;

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
        let (nodes, limit_kib, limit_busy) = limits(policy, fleet.open_nodes());
        if nodes > self.nodes_before {
            self.wanted = self.wanted.max(nodes);
        }
        self.nodes_before = nodes;
        if nodes == 0 {
            return self.wanted.max(policy.nodes_min);
        }
        let fullness = fullness(policy, fleet, limit_kib, limit_busy);
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

/// The fullness of nodes with these limits together if they had all parts that are awake.
fn fullness(policy: &PlacementPolicy, fleet: &Fleet, limit_kib: f64, limit_busy: f64) -> f64 {
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
    ratio(memory_kib as f64, limit_kib).max(ratio(busy as f64 / 1e6, limit_busy))
}

/// The nodes to drain for a fleet of `wanted` nodes: of the zone with the most nodes, the node with the least in memory
/// whose parts have room on the others, and without which these are not fuller than they should be.
pub(crate) fn drains(policy: &PlacementPolicy, fleet: &Fleet, wanted: usize) -> Vec<NodeId> {
    let open = fleet.open_nodes().count();
    let draining = fleet.nodes().count() - open;
    let count = open.saturating_sub(wanted.max(1)).min(policy.drains_max.saturating_sub(draining));
    if count == 0 {
        return Vec::new();
    }
    let mut rehearsal = Rehearsal::new(policy, fleet);
    for (slot, _) in fleet.nodes().filter(|(_, node)| node.draining) {
        rehearsal.empty(slot);
    }
    // The number of nodes that stay, and the nodes that may go, the emptiest last.
    let mut zones: BTreeMap<ZoneId, (usize, Vec<u16>)> = BTreeMap::new();
    let mut slots: Vec<u16> = fleet.open_nodes().map(|(slot, _)| slot).collect();
    slots.sort_by_key(|slot| Reverse((fleet.node(*slot).memory_kib, fleet.node(*slot).id)));
    for slot in slots {
        let zone = zones.entry(fleet.node(slot).zone).or_default();
        zone.0 += 1;
        zone.1.push(slot);
    }
    let mut drains = Vec::new();
    for _ in 0..LOOKED_AT_MAX {
        // Of equals, the last zone.
        let zone = zones.values_mut().filter(|(_, slots)| !slots.is_empty()).max_by_key(|(stay, _)| *stay);
        let Some((stay, slots)) = zone.filter(|_| drains.len() < count) else { break };
        let Some(slot) = slots.pop() else { break };
        let rest = fleet.open_nodes().filter(|(other, node)| *other != slot && !drains.contains(&node.id));
        let (_, limit_kib, limit_busy) = limits(policy, rest);
        if fullness(policy, fleet, limit_kib, limit_busy) > policy.target_fullness || !rehearsal.empty(slot) {
            continue;
        }
        *stay -= 1;
        drains.push(fleet.node(slot).id);
    }
    drains
}

/// The nodes that take parts, as they would be once others are empty. Parts may fit on fewer nodes by their sum only: without
/// a rehearsal a node would be drained in part, be needed again, and be drained again later.
struct Rehearsal<'a> {
    policy: &'a PlacementPolicy,
    fleet: &'a Fleet,
    ranking: Ranking,
    /// The parts that nodes would have taken, and the sum of them, by slot.
    taken: BTreeMap<u16, (Demand, Vec<u32>)>,
}

impl<'a> Rehearsal<'a> {
    fn new(policy: &'a PlacementPolicy, fleet: &'a Fleet) -> Self {
        let ranking = Ranking::new(fleet.open_nodes().map(|(slot, node)| (slot, node.fullness(policy))));
        Rehearsal { policy, fleet, ranking, taken: BTreeMap::new() }
    }

    /// Empties a node as [`Step::drain`](super::step::Step::drain) does, or tells that it cannot, and changes nothing.
    fn empty(&mut self, from: u16) -> bool {
        let before = (self.ranking.clone(), self.taken.clone());
        self.ranking.remove(from);
        let mut parts = self.fleet.busiest_first(from);
        parts.extend(self.taken.remove(&from).unwrap_or_default().1);
        for part in parts {
            let demand = self.fleet.demand(part);
            let with = |slot: u16| self.taken.get(&slot).map_or(demand, |(taken, _)| taken.plus(demand));
            let has_room = |slot: &u16| self.fleet.node(*slot).has_room(self.policy, with(*slot));
            let Some(to) = self.ranking.ascending().map(|(slot, _)| slot).find(has_room) else {
                (self.ranking, self.taken) = before;
                return false;
            };
            self.ranking.set(to, self.fleet.node(to).fullness_with(self.policy, with(to)));
            let (taken, parts) = self.taken.entry(to).or_default();
            *taken = taken.plus(demand);
            parts.push(part);
        }
        true
    }
}
