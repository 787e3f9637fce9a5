//! The placement of parts on the nodes of a fleet, and the size of the fleet: a pure policy.
//!
//! The coordinator's leader looks at the fleet every few seconds, hands a [`FleetObservation`] and its clock to
//! [`Placer::step`], and carries out the [`PlacementPlan`] that comes back. An observation has what changed; the
//! [`Placer`] keeps the rest. So a step takes time for the nodes, for the parts that changed or have no owner, for the moves,
//! and for the parts of divided databases, and none for other parts that are asleep.
//!
//! How one step decides:
//!
//! 1. **Take the observation.** A node that is missing is dead, and its parts are orphans. A part's reported owner is
//!    the truth, except that a planned move has `move_ms_max` to happen. Until then the part counts at its destination,
//!    and its memory at its source as well; afterwards it is where it was.
//! 2. **Place orphans** at once and all of them, spread over the survivors.
//! 3. **Look** at the fullness of each node: the larger of the shares of memory and CPU that are in use, where 1 is a
//!    limit. A node that is over a limit, or differs from the mean by `imbalance_start`, must do so for a window and for
//!    several observations before anything moves, and goes on until the difference is `imbalance_stop`.
//! 4. **Empty** draining nodes.
//! 5. **Spread** the parts of each database over zones first, then over nodes.
//! 6. **Reassign** asleep parts, which have nothing to move: from draining nodes, and from full nodes to emptier ones,
//!    so that parts wake where there is room.
//! 7. **Balance**: relieve nodes over a limit, then nodes that are fuller than others, then fill emptier ones, as a new
//!    node is. A move must pay: it lowers the fuller of its two nodes by at least half of what is moved. From a node over
//!    a limit, it only needs to keep the other node within its limits.
//! 8. **Size** the fleet: more nodes when the fleet is too full for a window, or when only a new node has room for a part; fewer
//!    when everything has fitted on fewer for a longer window, with `target_fullness` to spare. Only nodes whose parts have
//!    room on the others are drained for that.
//!
//! Invariants of a plan, whatever the observations:
//!
//! - No part is moved twice in a plan, to its own node, or to a node that is dead or draining.
//! - Moves of awake parts that have an owner stay within the bounds of any minute, over the fleet and for each node.
//! - An awake part that was placed or moved stays for `stay_ms`, unless its node dies or drains.
//! - No move takes a node over a limit, except for an orphan that no node has room for within its limits.
//! - No move but that of an orphan or from a draining node brings parts of a database closer together.
//! - Under a constant load the moves end.
//! - The same observations at the same moments give the same plans.
//!
//! Safety does not depend on any of this: a part is written by the owner of its epoch only, whatever a plan says. A plan
//! that is not carried out, in whole or in part, is planned again from what is reported.

mod bounds;
mod fleet;
mod moves;
mod node;
mod observation;
mod orphans;
mod plan;
mod policy;
mod ranking;
mod sizing;
mod step;

pub use observation::{FleetObservation, NodeId, NodeReport, PartId, PartReport, ZoneId};
pub use plan::{Move, MoveReason, PlacementPlan, Unplaced, UnplacedReason};
pub use policy::PlacementPolicy;

use crate::InvalidPolicy;
use bounds::MoveBounds;
use fleet::{Fleet, NOWHERE};
use sizing::Sizing;
use step::Step;

/// A policy of placement and its memory: where each part is, and what moved when. A copy that gets the same
/// observations makes the same plans.
#[derive(Clone, Debug, PartialEq)]
pub struct Placer {
    policy: PlacementPolicy,
    latest_ms: u64,
    fleet: Fleet,
    bounds: MoveBounds,
    sizing: Sizing,
}

impl Placer {
    pub fn new(policy: PlacementPolicy) -> Result<Self, InvalidPolicy> {
        policy.validate()?;
        let (fleet, bounds, sizing) = Default::default();
        Ok(Placer { policy, latest_ms: 0, fleet, bounds, sizing })
    }

    pub fn policy(&self) -> &PlacementPolicy {
        &self.policy
    }

    /// The owner of a part, after the plans so far. `None`: the part is unknown, or an orphan.
    pub fn owner(&self, part: PartId) -> Option<NodeId> {
        let owner = self.fleet.owner(self.fleet.find(part)?);
        (owner != NOWHERE).then(|| self.fleet.node(owner).id)
    }

    /// Takes one observation and returns a plan. `now` is in milliseconds. If that clock runs backwards, remembered
    /// moments have no meaning any more, and every window starts over.
    pub fn step(&mut self, observation: &FleetObservation, now: u64) -> PlacementPlan {
        if now < self.latest_ms {
            self.fleet.forget_moments(now);
            self.sizing = Sizing::default();
            self.bounds.start_over(now);
        }
        self.latest_ms = now;
        self.take(observation, now);

        let Placer { policy, fleet, bounds, sizing, .. } = self;
        let mut step = Step { policy, fleet, bounds, now, plan: PlacementPlan::default(), lacks_room: false };
        step.place_orphans();
        step.look();
        step.drain();
        step.spread();
        step.reassign();
        step.balance();
        let (mean, lacks_room, mut plan) = (step.mean(), step.lacks_room, step.plan);
        plan.fullness_mean = mean;
        plan.fullness_max = fleet.open_nodes().map(|(_, node)| node.fullness(policy)).fold(0.0, f64::max);
        plan.nodes = sizing.nodes(policy, fleet, lacks_room, now);
        plan.drain = sizing::drains(policy, fleet, plan.nodes);
        plan
    }

    /// Step 1.
    fn take(&mut self, observation: &FleetObservation, now: u64) {
        let move_ms_max = self.policy.move_ms_max;
        self.bounds.expire(now);
        self.fleet.observe_nodes(&observation.nodes);
        observation.removed.iter().for_each(|part| self.fleet.remove(*part));
        let slots = self.fleet.slots();
        for report in &observation.parts {
            let slot = report.node.and_then(|node| slots.get(&node)).copied();
            self.fleet.report(report, slot, now, move_ms_max);
        }
        self.fleet.expire_flights(now, move_ms_max);
    }
}
