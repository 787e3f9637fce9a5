//! Output of the policy: actions to carry out, and notes on actions that it wanted but could not plan.

use std::fmt;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScalingPlan {
    /// In order of urgency. No two concern the same shard, and a database that is to sleep has no other.
    pub actions: Vec<Action>,
    pub notes: Vec<Note>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Action {
    /// `at_slot` becomes the first slot of the right half.
    SplitShard {
        database: String,
        shard: u64,
        at_slot: u16,
        reason: Reason,
    },
    /// Neighbours: `left` ends where `right` begins.
    MergeShards {
        database: String,
        left: u64,
        right: u64,
    },
    Checkpoint {
        database: String,
    },
    Sleep {
        database: String,
    },
}

/// The quantity that was too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    Size,
    Load,
    Contention,
}

/// The reason why nothing is done about a shard over a limit. Reported once per cool-down, not once per step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Note {
    /// The shard is one slot, the smallest possible shard.
    OneSlot { database: String, shard: u64, slot: u16, reason: Reason },
    /// One slot holds nearly all of the shard's load: a cut would leave the other half idle.
    HotSlot { database: String, shard: u64, slot: u16, reason: Reason },
}

impl Action {
    pub fn database(&self) -> &str {
        match self {
            Action::SplitShard { database, .. }
            | Action::MergeShards { database, .. }
            | Action::Checkpoint { database }
            | Action::Sleep { database } => database,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Size => "size",
            Reason::Load => "load",
            Reason::Contention => "lock contention",
        })
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::SplitShard { database, shard, at_slot, reason } => {
                write!(f, "split shard {shard} of database {database} at slot {at_slot} because of its {reason}")
            }
            Action::MergeShards { database, left, right } => {
                write!(f, "merge shards {left} and {right} of database {database}")
            }
            Action::Checkpoint { database } => write!(f, "checkpoint database {database}"),
            Action::Sleep { database } => write!(f, "put database {database} to sleep"),
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::OneSlot { database, shard, slot, reason } => write!(
                f,
                "shard {shard} of database {database} is over its limit of {reason}, but is one slot ({slot}) and cannot be split"
            ),
            Note::HotSlot { database, shard, slot, reason } => write!(
                f,
                "shard {shard} of database {database} is over its limit of {reason}, but nearly all of it is slot {slot}, which cannot be split"
            ),
        }
    }
}
