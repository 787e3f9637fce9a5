//! Output of the placement policy: moves, parts that cannot be placed, and the size that the fleet should have.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::observation::{NodeId, PartId};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlacementPlan {
    /// In order of urgency, and to be carried out in this order. No two concern the same part.
    pub moves: Vec<Move>,
    /// Awake parts without an owner for which no node has room. Reported in every plan until they are placed.
    pub unplaced: Vec<Unplaced>,
    /// Draining nodes with parts for which no other node has room, and how many parts.
    pub stuck: Vec<(NodeId, usize)>,
    /// The number of nodes that should take parts. A node that died or drains is to be replaced, unless the fleet should
    /// shrink.
    pub nodes: usize,
    /// The nodes to drain now if the fleet should shrink, the easiest to empty first.
    pub drain: Vec<NodeId>,
    /// The fullness of the nodes that take parts, after the moves. 1 is a node at a limit.
    pub fullness_mean: f64,
    pub fullness_max: f64,
}

/// A new owner for a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    pub part: PartId,
    /// `None`: the part has no living owner.
    pub from: Option<NodeId>,
    /// Alive, and not draining.
    pub to: NodeId,
    pub reason: MoveReason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MoveReason {
    /// The part has no living owner.
    Orphan,
    /// Its node is draining.
    Drain,
    /// Its node or zone has more parts of the database than another.
    Spread,
    /// Its node is over a limit.
    Overload,
    /// Its node is fuller than others.
    Balance,
    /// It is asleep, and its node is fuller than others or draining: nothing is moved but the name of its owner.
    Reassign,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unplaced {
    pub part: PartId,
    pub reason: UnplacedReason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnplacedReason {
    /// No node is alive and not draining.
    NoNode,
    /// The part needs more memory than the largest node has: it should be split.
    TooLarge,
    /// A node could hold the part, but none has room now.
    NoRoom,
}

impl MoveReason {
    /// Whether a client could notice the move, so that it counts against the bounds.
    pub fn is_bounded(self) -> bool {
        !matches!(self, MoveReason::Orphan | MoveReason::Reassign)
    }
}

impl fmt::Display for MoveReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MoveReason::Orphan => "it has no owner",
            MoveReason::Drain => "its node is draining",
            MoveReason::Spread => "parts of its database are close together",
            MoveReason::Overload => "its node is over a limit",
            MoveReason::Balance => "its node is fuller than others",
            MoveReason::Reassign => "it is asleep and other nodes have more room",
        })
    }
}

impl fmt::Display for UnplacedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            UnplacedReason::NoNode => "no node takes parts",
            UnplacedReason::TooLarge => "it needs more memory than the largest node has; split it",
            UnplacedReason::NoRoom => "no node has room; add a node",
        })
    }
}
