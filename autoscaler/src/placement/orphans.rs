//! Parts without an owner are placed at once, and asleep parts are kept spread.
//!
//! Awake orphans first, the largest first, by the larger of their shares of memory and CPU: each goes to the emptiest
//! node that has room for it. A failover is a wake, so many survivors share it: no node takes more than twice its even
//! share of the orphans while another has room. If no node is below its limits with the part, a node with enough memory
//! above its limit takes it: slow is better than unavailable. Else the part is unplaced.
//!
//! An asleep part has no load, but a share in the load to come. All asleep parts together are taken to weigh as much
//! as all parts weigh now, so a node of twice the mean load should have none of them, and one without load twice the
//! even share. When parts wake, they do so where there is room, and balance needs few moves.

use std::cmp::Reverse;

use super::fleet::Fleet;
use super::node::{Demand, Node, limits, ratio};
use super::plan::{MoveReason, Unplaced, UnplacedReason};
use super::policy::PlacementPolicy;
use super::ranking::Ranking;
use super::step::Step;

/// The even share of orphans times this is the most that a node takes, if others have room.
const SHARE_MAX: usize = 2;
/// The mean fullness of a fleet without load, so that asleep parts alone are spread, too.
const FULLNESS_MIN: f64 = 0.01;
/// Parts of a node that are looked at for one that may be reassigned.
const LOOKED_AT_MAX: usize = 64;

impl Step<'_> {
    /// Step 2: places the parts that have no living owner.
    pub(crate) fn place_orphans(&mut self) {
        self.place_awake_orphans();
        let orphans = self.fleet.orphans.asleep.clone();
        if orphans.is_empty() {
            return;
        }
        let measure = SleepMeasure::new(self.fleet, self.policy);
        let mut ranking = measure.rank(self.fleet);
        for part in orphans {
            let Some(to) = self.quietest(part, &ranking) else { return };
            self.send(part, to, MoveReason::Orphan);
            ranking.set(to, measure.of(self.fleet.node(to)));
        }
    }

    fn place_awake_orphans(&mut self) {
        let (nodes, limit_kib, limit_busy) = limits(self.policy, self.fleet.open_nodes());
        let mut orphans: Vec<(Demand, u32)> =
            self.fleet.orphans.awake.iter().map(|part| (self.fleet.demand(*part), *part)).collect();
        orphans.sort_by_cached_key(|(demand, part)| {
            // The larger of the shares of the fleet's memory and CPU.
            let share = ratio(f64::from(demand.memory_kib), limit_kib).max(ratio(demand.processors(), limit_busy));
            (Reverse(share.to_bits()), *part)
        });
        let mut ranking = self.by_fullness();
        let taken_max = SHARE_MAX * orphans.len().div_ceil(nodes.max(1));
        let mut taken = vec![0; self.fleet.nodes().map(|(slot, _)| usize::from(slot) + 1).max().unwrap_or(0)];
        for (demand, part) in orphans {
            let Some(to) = self.refuge(part, demand, &ranking, |slot| taken[usize::from(slot)] < taken_max) else {
                let reason = if nodes == 0 {
                    UnplacedReason::NoNode
                } else if self.fleet.open_nodes().any(|(_, node)| node.could_hold(self.policy, demand)) {
                    UnplacedReason::NoRoom
                } else {
                    UnplacedReason::TooLarge
                };
                self.lacks_room |= self.growth_helps(|node| node.could_hold(self.policy, demand));
                self.plan.unplaced.push(Unplaced { part: self.fleet.id(part), reason });
                continue;
            };
            taken[usize::from(to)] += 1;
            self.send(part, to, MoveReason::Orphan);
            self.rank(&mut ranking, [to, to]);
        }
    }

    /// The best node for an awake orphan.
    fn refuge(&self, part: u32, demand: Demand, ranking: &Ranking, is_willing: impl Fn(u16) -> bool) -> Option<u16> {
        let has_room = |slot: &u16| self.fleet.node(*slot).has_room(self.policy, demand);
        let slots = || ranking.ascending().map(|(slot, _)| slot);
        if self.fleet.is_divided(part) {
            let siblings = self.fleet.siblings(part);
            let crowding = |slot: &u16| siblings.crowding(*slot, self.fleet.node(*slot).zone);
            // Of equals, the first is taken: the emptiest.
            let best = slots().filter(has_room).min_by_key(crowding);
            let has_memory = |slot: &u16| self.fleet.node(*slot).has_room_for_orphan(self.policy, demand);
            return best.or_else(|| slots().filter(has_memory).min_by_key(crowding));
        }
        slots()
            .find(|slot| is_willing(*slot) && has_room(slot))
            .or_else(|| slots().find(has_room))
            .or_else(|| slots().find(|slot| self.fleet.node(*slot).has_room_for_orphan(self.policy, demand)))
    }

    /// The best node for an asleep part.
    fn quietest(&self, part: u32, ranking: &Ranking) -> Option<u16> {
        if !self.fleet.is_divided(part) {
            return ranking.lowest().map(|(slot, _)| slot);
        }
        let siblings = self.fleet.siblings(part);
        let crowding = |slot: &u16| siblings.crowding(*slot, self.fleet.node(*slot).zone);
        ranking.ascending().map(|(slot, _)| slot).min_by_key(crowding)
    }

    /// Step 6: gives asleep parts of draining nodes to others, and those of full nodes to emptier ones.
    pub(crate) fn reassign(&mut self) {
        let measure = SleepMeasure::new(self.fleet, self.policy);
        let mut ranking = measure.rank(self.fleet);
        let draining: Vec<u16> = self.fleet.nodes().filter(|(_, node)| node.draining).map(|(slot, _)| slot).collect();
        for slot in draining {
            while self.allows_reassignment()
                && let Some(&part) = self.fleet.node(slot).residents.asleep.last()
                && let Some(to) = self.quietest(part, &ranking)
            {
                self.send(part, to, MoveReason::Reassign);
                ranking.set(to, measure.of(self.fleet.node(to)));
            }
        }

        let measures: Vec<f64> = ranking.ascending().map(|(_, measure)| measure).collect();
        let mean = measures.iter().sum::<f64>() / measures.len().max(1) as f64;
        // The measure is the sum of two, each of which may differ by as much as load may.
        let band = 2.0 * self.policy.imbalance_start;
        while self.allows_reassignment()
            && let (Some((to, low)), Some((from, high))) = (ranking.lowest(), ranking.highest())
            && (high > mean + band || low < mean - band)
            // A part more must not make the one node fuller than the other was.
            && low + 2.0 * measure.weight(self.fleet.node(to)) < high
        {
            // Parts of divided databases stay: their spread is decided by other rules. So do those that were just placed.
            let may_go = |part: &u32| !self.fleet.is_divided(*part) && !self.fleet.stays(*part, 1, self.now);
            let asleep = self.fleet.node(from).residents.asleep.iter().rev();
            let Some(part) = asleep.take(LOOKED_AT_MAX).copied().find(may_go) else {
                ranking.remove(from);
                continue;
            };
            self.send(part, to, MoveReason::Reassign);
            for slot in [from, to] {
                ranking.set(slot, measure.of(self.fleet.node(slot)));
            }
        }
    }
}

/// The fullness of a node, and the weight of its asleep parts.
struct SleepMeasure<'a> {
    policy: &'a PlacementPolicy,
    /// The weight of one asleep part on a node of mean size.
    weight: f64,
    limit_kib_mean: f64,
}

impl<'a> SleepMeasure<'a> {
    fn new(fleet: &Fleet, policy: &'a PlacementPolicy) -> Self {
        let (nodes, limit_kib, _) = limits(policy, fleet.open_nodes());
        let fullness: f64 = fleet.open_nodes().map(|(_, node)| node.fullness(policy)).sum();
        let weight = f64::max(fullness, nodes as f64 * FULLNESS_MIN) / fleet.parts_len().max(1) as f64;
        SleepMeasure { policy, weight, limit_kib_mean: limit_kib / nodes as f64 }
    }

    fn of(&self, node: &Node) -> f64 {
        node.fullness(self.policy) + node.residents.asleep.len() as f64 * self.weight(node)
    }

    /// An asleep part weighs less on a large node. Without known limits all nodes are alike.
    fn weight(&self, node: &Node) -> f64 {
        let size = node.memory_limit_kib(self.policy) / self.limit_kib_mean;
        if size.is_finite() && size > 0.0 { self.weight / size } else { self.weight }
    }

    fn rank(&self, fleet: &Fleet) -> Ranking {
        Ranking::new(fleet.open_nodes().map(|(slot, node)| (slot, self.of(node))))
    }
}
