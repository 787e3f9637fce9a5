//! Moves of awake parts, which clients could notice: from draining nodes, apart in their database, and for balance.
//!
//! A move for balance **pays** if the destination is left less full than the source was, by at least half of what the
//! source is relieved of. So the fuller of the two becomes less full, the fullness of all nodes in descending order
//! gets lexicographically smaller with every move, and under a constant load the moves come to an end. A node over a
//! limit is more urgent: it may give a part to any node that stays within its limits, which keeps that order, too.

use std::collections::BTreeMap;

use super::fleet::NOWHERE;
use super::observation::ZoneId;
use super::plan::MoveReason;
use super::ranking::Ranking;
use super::step::Step;

/// Nodes that are looked at for a destination, or for a source, of one move.
const LOOKED_AT_MAX: usize = 32;

/// A change of fullness below this is an error of rounding.
const EPSILON: f64 = 1e-9;

impl Step<'_> {
    /// Step 4: moves the awake parts of draining nodes.
    pub(crate) fn drain(&mut self) {
        let draining: Vec<u16> = self.fleet.nodes().filter(|(_, node)| node.draining).map(|(slot, _)| slot).collect();
        let mut ranking = self.by_fullness();
        for from in draining {
            let mut stuck = 0;
            for part in self.fleet.busiest_first(from) {
                if self.fleet.is_on_its_way(part) {
                    continue;
                }
                if !self.allows_any() || !self.allows_node(from) {
                    break;
                }
                let Some(to) = self.exit(part, &ranking) else {
                    if self.has_room_anywhere(part) {
                        // All nodes with room have had as many moves as they may.
                        break;
                    }
                    stuck += 1;
                    let demand = self.fleet.demand(part);
                    self.lacks_room |= self.growth_helps(|node| node.suits(self.policy, demand));
                    continue;
                };
                self.send(part, to, MoveReason::Drain);
                self.rank(&mut ranking, [from, to]);
            }
            if stuck > 0 {
                self.plan.stuck.push((self.fleet.node(from).id, stuck));
            }
        }
    }

    /// The node for a part of a draining one.
    fn exit(&self, part: u32, ranking: &Ranking) -> Option<u16> {
        let demand = self.fleet.demand(part);
        let is_open = |slot: &u16| self.allows_node(*slot) && self.fleet.node(*slot).has_room(self.policy, demand);
        let mut open = ranking.ascending().map(|(slot, _)| slot).filter(is_open);
        if !self.fleet.is_divided(part) {
            return open.next();
        }
        let siblings = self.fleet.siblings(part);
        open.min_by_key(|slot| siblings.crowding(*slot, self.fleet.node(*slot).zone))
    }

    fn has_room_anywhere(&self, part: u32) -> bool {
        let demand = self.fleet.demand(part);
        self.fleet.open_nodes().any(|(_, node)| node.has_room(self.policy, demand))
    }

    /// Step 5: moves one part of each database whose parts are closer together than they need to be.
    pub(crate) fn spread(&mut self) {
        let mut ranking = self.by_fullness();
        let mut zones: BTreeMap<_, usize> = BTreeMap::new();
        self.fleet.open_nodes().for_each(|(_, node)| *zones.entry(node.zone).or_default() += 1);
        let databases: Vec<u64> = self.fleet.divided().iter().copied().collect();
        for database in databases {
            let mut parts: Vec<u32> = self.fleet.parts_of(database).collect();
            parts.retain(|part| {
                let owner = self.fleet.owner(*part);
                owner != NOWHERE && !self.fleet.node(owner).draining
            });
            if !self.is_close(&parts, &zones) {
                continue;
            }
            parts.retain(|part| !self.fleet.stays(*part, self.policy.stay_ms, self.now));
            // Parts that are asleep move for nothing, then the lightest.
            parts.sort_by_key(|part| (self.fleet.demand(*part).memory_kib, *part));
            for part in parts {
                if let Some(to) = self.roomier(part, &ranking) {
                    let from = self.fleet.owner(part);
                    let is_asleep = self.fleet.is_asleep(part);
                    self.send(part, to, if is_asleep { MoveReason::Reassign } else { MoveReason::Spread });
                    self.rank(&mut ranking, [from, to]);
                    break;
                }
            }
        }
    }

    /// Whether a zone or node has at least two parts more than another could have.
    fn is_close(&self, parts: &[u32], zones: &BTreeMap<ZoneId, usize>) -> bool {
        let mut in_zone: BTreeMap<_, usize> = zones.keys().map(|zone| (*zone, 0)).collect();
        let mut on_node: BTreeMap<u16, usize> = BTreeMap::new();
        for part in parts {
            let slot = self.fleet.owner(*part);
            *in_zone.entry(self.fleet.node(slot).zone).or_default() += 1;
            *on_node.entry(slot).or_default() += 1;
        }
        let (low, high) = (in_zone.values().min(), in_zone.values().max());
        let nodes: usize = zones.values().sum();
        let most = on_node.values().max().copied().unwrap_or(0);
        // Where every node has a part, two on one node are one more than the least, and nothing to be gained.
        let least = if on_node.len() < nodes { 0 } else { on_node.values().min().copied().unwrap_or(0) };
        high.zip(low).is_some_and(|(high, low)| high - low >= 2) || most - least >= 2
    }

    /// A node that is less crowded by the database of a part than its own, has room and is allowed.
    fn roomier(&self, part: u32, ranking: &Ranking) -> Option<u16> {
        let (from, demand, is_asleep) = (self.fleet.owner(part), self.fleet.demand(part), self.fleet.is_asleep(part));
        let is_allowed =
            if is_asleep { self.allows_reassignment() } else { self.allows_any() && self.allows_node(from) };
        if !is_allowed {
            return None;
        }
        let siblings = self.fleet.siblings(part);
        let crowding = |slot: u16| siblings.crowding(slot, self.fleet.node(slot).zone);
        let own = crowding(from);
        let is_open =
            |slot: &u16| is_asleep || self.allows_node(*slot) && self.fleet.node(*slot).has_room(self.policy, demand);
        let slots = ranking.ascending().map(|(slot, _)| slot).filter(is_open);
        slots.filter(|slot| crowding(*slot) < own).min_by_key(|slot| crowding(*slot))
    }

    /// Step 3, after the orphans are placed: looks at the fullness of the nodes. A condition must hold for a window.
    pub(crate) fn look(&mut self) {
        let (policy, now) = (self.policy, self.now);
        let mean = self.mean();
        let slots: Vec<u16> = self.fleet.nodes().map(|(slot, _)| slot).collect();
        for slot in slots {
            let fullness = self.fullness(slot);
            let node = self.fleet.node_mut(slot);
            let is_open = !node.draining;
            node.over.look(is_open && fullness > 1.0 + EPSILON, now);
            node.high.look(is_open && fullness > mean + policy.imbalance_start, now);
            node.low.look(is_open && fullness < mean - policy.imbalance_start, now);
            node.giving |= node.high.holds(policy.window_ms, policy.observations_min, now);
            node.taking |= node.low.holds(policy.window_ms, policy.observations_min, now);
            node.giving &= is_open && fullness > mean + policy.imbalance_stop;
            node.taking &= is_open && fullness < mean - policy.imbalance_stop;
        }
    }

    /// Step 7: relieves the nodes over a limit, then those that are fuller than others, and fills those that are
    /// emptier.
    pub(crate) fn balance(&mut self) {
        let mean = self.mean();
        let mut ranking = self.by_fullness();
        let mut offers = BTreeMap::new();
        let sources: Vec<(u16, f64)> = ranking.ascending().rev().collect();
        for &(from, _) in &sources {
            let node = self.fleet.node(from);
            let is_over = node.over.holds(self.policy.window_ms, self.policy.observations_min, self.now);
            if is_over {
                // A little below the limit, so that it is not exceeded again at once.
                self.give(from, 1.0 - self.policy.imbalance_stop, MoveReason::Overload, &mut ranking, &mut offers);
                self.lacks_room |= self.is_cramped(from, &mut offers);
            } else if node.giving {
                self.give(from, mean + self.policy.imbalance_stop, MoveReason::Balance, &mut ranking, &mut offers);
            }
        }
        for &(to, _) in sources.iter().rev().filter(|(slot, _)| self.fleet.node(*slot).taking).collect::<Vec<_>>() {
            self.take(to, mean, &mut ranking, &mut offers);
        }
    }

    /// Moves parts from a node until its fullness is at most `until`.
    fn give(&mut self, from: u16, until: f64, reason: MoveReason, ranking: &mut Ranking, offers: &mut Offers) {
        for part in self.offer(from, offers) {
            if self.fullness(from) <= until || !self.allows_any() || !self.allows_node(from) {
                break;
            }
            let slots = ranking.ascending().map(|(slot, _)| slot).take(LOOKED_AT_MAX);
            let to = slots.filter(|to| *to != from).find(|to| self.allows_node(*to) && self.pays(part, from, *to));
            if let Some(to) = to {
                self.send(part, to, reason);
                self.rank(ranking, [from, to]);
            }
        }
    }

    /// Whether a node stays over a limit because no other has room for one of its parts, and a new node would have it.
    fn is_cramped(&self, from: u16, offers: &mut Offers) -> bool {
        if self.fullness(from) <= 1.0 + EPSILON || !self.allows_any() || !self.allows_node(from) {
            return false;
        }
        let has_no_room = |part: &u32| {
            let demand = self.fleet.demand(*part);
            !self.has_room_anywhere(*part) && self.growth_helps(|node| node.suits(self.policy, demand))
        };
        self.offer(from, offers).iter().take(LOOKED_AT_MAX).any(has_no_room)
    }

    /// Moves parts to a node from the fullest others, until it is no longer emptier than the mean.
    fn take(&mut self, to: u16, mean: f64, ranking: &mut Ranking, offers: &mut Offers) {
        let mut refused = Vec::new();
        while self.allows_any()
            && self.allows_node(to)
            && self.fullness(to) < mean - self.policy.imbalance_stop
            && refused.len() < LOOKED_AT_MAX
        {
            let fullest = ranking.ascending().rev().find(|(slot, _)| !refused.contains(slot));
            let Some((from, _)) = fullest.filter(|(from, fullness)| *from != to && *fullness > mean) else { break };
            let parts = self.offer(from, offers);
            let part = parts
                .into_iter()
                .find(|part| self.fleet.owner(*part) == from && self.allows_node(from) && self.pays(*part, from, to));
            match part {
                Some(part) => {
                    self.send(part, to, MoveReason::Balance);
                    self.rank(ranking, [from, to]);
                }
                None => refused.push(from),
            }
        }
    }

    /// The parts of a node that may move, those that relieve it most first.
    fn offer(&self, from: u16, offers: &mut Offers) -> Vec<u32> {
        let parts = offers.entry(from).or_insert_with(|| {
            let node = self.fleet.node(from);
            let mut parts: Vec<(u64, u32)> = node
                .residents
                .awake
                .iter()
                .filter(|part| !self.fleet.stays(**part, self.policy.stay_ms, self.now))
                .map(|part| (node.fullness_without(self.policy, self.fleet.demand(*part)).to_bits(), *part))
                .collect();
            parts.sort_unstable();
            parts.into_iter().map(|(_, part)| part).collect()
        });
        parts.retain(|part| self.fleet.owner(*part) == from);
        parts.clone()
    }

    /// Whether a move is worth its price, and keeps the parts of a database apart.
    fn pays(&self, part: u32, from: u16, to: u16) -> bool {
        let (source, destination) = (self.fleet.node(from), self.fleet.node(to));
        let demand = self.fleet.demand(part);
        let before = source.fullness(self.policy);
        let relief = before - source.fullness_without(self.policy, demand);
        let after = destination.fullness_with(self.policy, demand);
        let pays = if before > 1.0 {
            relief > EPSILON && after <= 1.0
        } else {
            relief >= self.policy.relief_min && after <= before - relief / 2.0
        };
        pays && destination.has_room(self.policy, demand)
            && self.fleet.crowding(part, to) <= self.fleet.crowding(part, from)
    }

    /// The mean fullness of the nodes that take parts.
    pub(crate) fn mean(&self) -> f64 {
        let (mut nodes, mut sum) = (0.0, 0.0);
        for (_, node) in self.fleet.open_nodes() {
            nodes += 1.0;
            sum += node.fullness(self.policy);
        }
        if nodes > 0.0 { sum / nodes } else { 0.0 }
    }
}

/// The parts that each node may give, once they are sorted.
type Offers = BTreeMap<u16, Vec<u32>>;
