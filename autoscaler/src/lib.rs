//! Pure policies: for splitting and merging shards, checkpoints and sleep on one node, and for the placement of parts on
//! the nodes of a fleet ([`Placer`]).
//!
//! The server looks at itself every second or so, hands an [`Observation`] and its clock to [`Autoscaler::step`], and
//! carries out the [`ScalingPlan`] that comes back. The crate reads no clock, never sleeps, and does no IO: the same
//! observations at the same moments give the same plans. So a scenario is a file (`tests/scenarios/`), and a simulation
//! can test stability.
//!
//! How one step decides:
//!
//! 1. **Remember.** For each shard and each pair of neighbours the [`Autoscaler`] keeps since when a condition has held
//!    without a break. One observation never suffices: a condition counts when it has held for its window *and* for
//!    `observations_min` observations. A condition that wavers starts over.
//! 2. **Split** a shard that is over a limit of size (keys, bytes) or of load (busy share, operations, contended lock).
//!    The cut halves the excessive quantity, not the range: it is chosen from that quantity's histogram. A load split
//!    needs a second worker that could take the other half.
//! 3. **Merge** neighbours that *together* stay under a fraction (at most a third) of every limit. A cut made for load
//!    keeps that load, and is undone only when the load has fallen to the same fraction of it: a split removes lock
//!    contention, so its absence alone must not bring the shards back together.
//! 4. **Cool down.** A range of slots that was just split or merged is not split for a while, and not merged for
//!    longer.
//! 5. **Checkpoint** the databases that are due and put them to **sleep**, the most overdue first; under memory
//!    pressure the longest idle databases sleep early.
//!
//! Shards are remembered by their slots, not their ids. So it does not matter which ids the pieces of a split get, or
//! whether a plan was carried out at all: an action that was not carried out is planned again after the cool-down.
//!
//! This crate knows shards as ranges of slots with numbers attached. It must not know RESP, commands, or chunk formats.

#![forbid(unsafe_code)]

mod autoscaler;
mod cut;
mod observation;
mod placement;
mod plan;
mod policy;
mod streak;

pub use autoscaler::Autoscaler;
pub use observation::{DatabaseLoad, NodeLoad, Observation, Part, ShardLoad};
pub use placement::{
    FleetObservation, Move, MoveReason, NodeId, NodeReport, PartId, PartReport, PlacementPlan, PlacementPolicy, Placer,
    Unplaced, UnplacedReason, ZoneId,
};
pub use plan::{Action, Note, Reason, ScalingPlan};
pub use policy::{InvalidPolicy, Policy};
