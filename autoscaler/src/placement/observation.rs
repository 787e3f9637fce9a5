//! Input of the placement policy: the nodes that are alive, and the parts that changed.

use serde::{Deserialize, Serialize};

/// The number of a node. A node that restarts may keep its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u32);

/// The number of a zone: nodes that fail together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ZoneId(pub u16);

/// A part, named by its database and the first of its slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartId {
    pub database: u64,
    pub first_slot: u16,
}

/// One look at a fleet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FleetObservation {
    /// All nodes whose lease holds. A node that is missing here is dead.
    pub nodes: Vec<NodeReport>,
    /// The parts that changed since the previous observation: a part is new, woke, fell asleep, has another owner, or
    /// its load is different; and asleep parts that did not get the owner that a plan named. A part that is missing here
    /// is as it was. The first observation has all parts.
    pub parts: Vec<PartReport>,
    /// Parts that are gone: their database was deleted, or they were merged. A part that is in `parts` too is new.
    pub removed: Vec<PartId>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    pub node: NodeId,
    pub zone: ZoneId,
    /// Bytes that parts may use on the node; 0: no limit is known.
    pub memory_bytes_max: u64,
    /// Processors (vCPUs) that parts may use on the node.
    pub processors: f64,
    /// The node should be emptied. No part is moved to it.
    pub draining: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PartReport {
    pub part: PartId,
    /// The owner node. `None`: the part has none yet.
    pub node: Option<NodeId>,
    /// An asleep part has no load. It is reassigned, not moved.
    pub asleep: bool,
    /// Bytes in memory; of an orphan, the bytes when it last had an owner.
    pub memory_bytes: u64,
    /// Processors that the part's commands keep busy, averaged over a minute or so.
    pub busy: f64,
}
