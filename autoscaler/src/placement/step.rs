//! The state of one step: what is decided so far, and the ways to add a move to it.

use super::bounds::MoveBounds;
use super::fleet::{Fleet, NOWHERE};
use super::node::Node;
use super::plan::{Move, MoveReason, PlacementPlan};
use super::policy::PlacementPolicy;
use super::ranking::Ranking;

pub(crate) struct Step<'a> {
    pub(crate) policy: &'a PlacementPolicy,
    pub(crate) fleet: &'a mut Fleet,
    pub(crate) bounds: &'a mut MoveBounds,
    pub(crate) now: u64,
    pub(crate) plan: PlacementPlan,
    /// A part had to leave its node, or to get one, and only a new node would have room.
    pub(crate) lacks_room: bool,
}

impl Step<'_> {
    /// Gives a part a new owner, in the plan and in the tables.
    pub(crate) fn send(&mut self, part: u32, to: u16, reason: MoveReason) {
        let from = self.fleet.owner(part);
        let from = (from != NOWHERE).then(|| self.fleet.node(from).id);
        let to_id = self.fleet.node(to).id;
        self.fleet.send(part, to, self.now);
        self.plan.moves.push(Move { part: self.fleet.id(part), from, to: to_id, reason });
        match from {
            _ if reason == MoveReason::Reassign => self.bounds.reassigned(self.now),
            Some(from) => self.bounds.moved(from, to_id, self.now),
            None => {}
        }
    }

    /// Whether another node would help a part: new nodes are taken to be like at least half of those that there are, and
    /// `fits` tells whether an empty one has room. So a fleet never grows on and on for a part that no new node can hold.
    pub(crate) fn growth_helps(&self, fits: impl Fn(&Node) -> bool) -> bool {
        let fitting = self.fleet.open_nodes().filter(|(_, node)| fits(node)).count();
        2 * fitting >= self.fleet.open_nodes().count()
    }

    /// Whether the bounds leave a new owner to another asleep part.
    pub(crate) fn allows_reassignment(&self) -> bool {
        self.bounds.reassignments_allow(self.policy)
    }

    /// Whether the bounds leave a move to the fleet.
    pub(crate) fn allows_any(&self) -> bool {
        self.bounds.fleet_allows(self.policy)
    }

    /// Whether the bounds leave a move to or from the node.
    pub(crate) fn allows_node(&self, slot: u16) -> bool {
        self.bounds.node_allows(self.policy, self.fleet.node(slot).id)
    }

    pub(crate) fn fullness(&self, slot: u16) -> f64 {
        self.fleet.node(slot).fullness(self.policy)
    }

    /// The nodes that take parts, the emptiest first.
    pub(crate) fn by_fullness(&self) -> Ranking {
        Ranking::new(self.fleet.open_nodes().map(|(slot, node)| (slot, node.fullness(self.policy))))
    }

    /// Brings the ranking up to date for nodes that gave or took a part.
    pub(crate) fn rank(&self, ranking: &mut Ranking, slots: [u16; 2]) {
        for slot in slots {
            if ranking.contains(slot) {
                ranking.set(slot, self.fullness(slot));
            }
        }
    }
}
