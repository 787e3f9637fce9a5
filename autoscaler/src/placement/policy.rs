//! The thresholds of placement. Every field is meant to become an option.

use serde::{Deserialize, Serialize};

use crate::InvalidPolicy;

/// When to move a part, and when a fleet grows or shrinks. The **fullness** of a node is the larger share of its two
/// limits that is in use: 1 is a node at a limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlacementPolicy {
    /// The limit of memory: the share of a node's memory, 0 to 1, that parts may fill. No move exceeds it.
    pub memory_share_max: f64,
    /// The share of memory up to which a node takes a part that has no owner, if no node has room below the limit.
    pub memory_share_orphan_max: f64,
    /// The limit of CPU: the share of a node's processors, 0 to 1, that parts may keep busy. A move exceeds it only for
    /// a part that would have no owner otherwise.
    pub busy_share_max: f64,
    /// A node gives or takes parts once its fullness differs from the mean by more than this.
    pub imbalance_start: f64,
    /// It stops at this difference.
    pub imbalance_stop: f64,
    /// A move for balance lowers the fullness of its node by at least this.
    pub relief_min: f64,
    /// How long a node must be over a limit, or differ from the mean, before parts move.
    pub window_ms: u64,
    /// How many observations in a row must agree, whatever the windows. At least 2.
    pub observations_min: u32,
    /// A part that was placed or moved stays for this long, unless its node dies or drains.
    pub stay_ms: u64,
    /// A move of which nothing is reported for this long has failed.
    pub move_ms_max: u64,
    /// Moves of awake parts in any minute, at most, over the fleet. Orphans do not count.
    pub moves_per_minute_max: usize,
    /// Moves of awake parts in any minute, at most, from or to one node. Orphans do not count.
    pub node_moves_per_minute_max: usize,
    /// New owners for asleep parts in any minute, at most. Orphans do not count.
    pub reassignments_per_minute_max: usize,
    /// The fewest nodes that a fleet shrinks to. At least 1.
    pub nodes_min: usize,
    /// The most nodes that a fleet grows to.
    pub nodes_max: usize,
    /// The mean fullness of the fleet above which it grows.
    pub grow_fullness: f64,
    /// How long the fleet must be that full. It grows at once for a part that has no room.
    pub grow_window_ms: u64,
    /// The mean fullness for which a fleet that grows or shrinks is sized. Less than `grow_fullness`.
    pub target_fullness: f64,
    /// How long everything must fit on fewer nodes before the fleet shrinks.
    pub shrink_window_ms: u64,
    /// Nodes that drain at the same time, at most.
    pub drains_max: usize,
}

impl Default for PlacementPolicy {
    fn default() -> Self {
        PlacementPolicy {
            memory_share_max: 0.8,
            memory_share_orphan_max: 0.95,
            busy_share_max: 0.8,
            imbalance_start: 0.15,
            imbalance_stop: 0.05,
            relief_min: 0.002,
            window_ms: 60_000,
            observations_min: 3,
            stay_ms: 600_000,
            move_ms_max: 60_000,
            moves_per_minute_max: 600,
            node_moves_per_minute_max: 20,
            reassignments_per_minute_max: 60_000,
            nodes_min: 1,
            nodes_max: 1_000,
            grow_fullness: 0.85,
            grow_window_ms: 60_000,
            target_fullness: 0.7,
            shrink_window_ms: 900_000,
            drains_max: 10,
        }
    }
}

impl PlacementPolicy {
    /// Rejects values with which the policy could oscillate or never act.
    pub fn validate(&self) -> Result<(), InvalidPolicy> {
        let share = |value: f64| value > 0.0 && value <= 1.0;
        let rules = [
            (share(self.memory_share_max), "memory_share_max", "must be more than 0 and at most 1"),
            (
                share(self.memory_share_orphan_max) && self.memory_share_orphan_max >= self.memory_share_max,
                "memory_share_orphan_max",
                "must be at most 1 and not less than memory_share_max",
            ),
            (share(self.busy_share_max), "busy_share_max", "must be more than 0 and at most 1"),
            (share(self.imbalance_start), "imbalance_start", "must be more than 0 and at most 1"),
            (
                self.imbalance_stop >= 0.0 && self.imbalance_stop < self.imbalance_start,
                "imbalance_stop",
                "must be less than imbalance_start and not negative",
            ),
            (share(self.relief_min), "relief_min", "must be more than 0 and at most 1"),
            (self.observations_min >= 2, "observations_min", "must be at least 2"),
            (self.stay_ms >= self.window_ms, "stay_ms", "must not be less than window_ms"),
            (self.moves_per_minute_max > 0, "moves_per_minute_max", "must be at least 1"),
            (self.node_moves_per_minute_max > 0, "node_moves_per_minute_max", "must be at least 1"),
            (self.reassignments_per_minute_max > 0, "reassignments_per_minute_max", "must be at least 1"),
            (self.nodes_min > 0, "nodes_min", "must be at least 1"),
            (self.nodes_max >= self.nodes_min, "nodes_max", "must not be less than nodes_min"),
            (share(self.grow_fullness), "grow_fullness", "must be more than 0 and at most 1"),
            (
                self.target_fullness > 0.0 && self.target_fullness < self.grow_fullness,
                "target_fullness",
                "must be more than 0 and less than grow_fullness",
            ),
            (self.drains_max > 0, "drains_max", "must be at least 1"),
        ];
        match rules.into_iter().find(|(holds, ..)| !holds) {
            Some((_, field, rule)) => Err(InvalidPolicy { field, rule }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(PlacementPolicy::default().validate(), Ok(()));
    }

    #[test]
    fn what_could_oscillate_or_never_act_is_refused() {
        let refused = |change: fn(&mut PlacementPolicy)| {
            let mut policy = PlacementPolicy::default();
            change(&mut policy);
            policy.validate().expect_err("must be refused").field
        };
        assert_eq!(refused(|policy| policy.imbalance_stop = 0.15), "imbalance_stop");
        assert_eq!(refused(|policy| policy.imbalance_stop = f64::NAN), "imbalance_stop");
        assert_eq!(refused(|policy| policy.target_fullness = 0.85), "target_fullness");
        assert_eq!(refused(|policy| policy.relief_min = 0.0), "relief_min");
        assert_eq!(refused(|policy| policy.observations_min = 1), "observations_min");
        assert_eq!(refused(|policy| policy.reassignments_per_minute_max = 0), "reassignments_per_minute_max");
        assert_eq!(refused(|policy| policy.stay_ms = 59_999), "stay_ms");
        assert_eq!(refused(|policy| policy.memory_share_orphan_max = 0.79), "memory_share_orphan_max");
    }
}
