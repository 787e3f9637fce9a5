//! The thresholds. Every field is meant to become an option.

use std::fmt;

use serde::{Deserialize, Serialize};

/// When to act. A limit bounds the size or load of one shard; a window is the time for which a condition must hold
/// without a break.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Keys of a shard above which it is split.
    pub keys_max: u64,
    /// Bytes in memory of a shard above which it is split.
    pub bytes_max: u64,
    /// Share of one worker's time, 0 to 1, above which a shard is split.
    pub busy_share_max: f64,
    /// Operations a second above which a shard is split. The limit is high: a busy shard exceeds `busy_share_max`
    /// first, unless its commands are very cheap.
    pub operations_per_second_max: f64,
    /// Share of lock acquisitions that found the lock taken, 0 to 1, above which a shard is split.
    pub contended_share_max: f64,
    /// Contention below this many waits a second counts as noise, whatever its share.
    pub waits_per_second_min: f64,
    /// A database is split for load or contention until it has this many loaded shards for each worker of the node.
    /// With one worker it is never split for them.
    pub shards_per_worker: f64,
    /// Above this share of busy CPU a shard is not split for load, since no worker is free to take the other half. (It
    /// is still split for contention, because waiting is waste.)
    pub cpu_busy_max: f64,
    /// A cut must leave the lighter half at least this share of the excessive quantity, unless the histogram is too
    /// coarse to show where the rest is.
    pub lighter_half_min: f64,
    /// Neighbours merge when together they are under this fraction of every limit. At most a third, or a merge could
    /// bring back the split.
    pub merge_fraction: f64,
    /// How long a shard must be over a limit of size.
    pub size_window_ms: u64,
    /// How long a shard must be over a limit of load or contention.
    pub load_window_ms: u64,
    /// How long neighbours must be small enough to merge.
    pub merge_window_ms: u64,
    /// How many observations in a row must agree, whatever the windows. At least 2.
    pub observations_min: u32,
    /// Time after a split or a merge during which the slots concerned are not split.
    pub split_cool_down_ms: u64,
    /// Time after a split or a merge during which the slots concerned are not merged.
    pub merge_cool_down_ms: u64,
    /// Splits and merges in one plan, at most.
    pub reshapes_max: usize,
    /// Checkpoints and sleeps in one plan, at most.
    pub writes_max: usize,
    /// A database with changes is checkpointed when its last checkpoint is this old. `None`: never.
    pub checkpoint_every_ms: Option<u64>,
    /// A database is checkpointed when this many bytes have changed, as soon as a quarter of `checkpoint_every_ms` is over.
    pub dirty_bytes_max: u64,
    /// A planned checkpoint or sleep has this long before it is planned again.
    pub retry_ms: u64,
    /// Share of the node's memory limit above which idle databases sleep early, the longest idle first.
    pub memory_share_max: f64,
    /// Idle time after which a database may sleep early.
    pub early_sleep_after_ms: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            keys_max: 4_000_000,
            bytes_max: 1 << 30,
            busy_share_max: 0.7,
            operations_per_second_max: 1_000_000.0,
            contended_share_max: 0.1,
            waits_per_second_min: 1_000.0,
            shards_per_worker: 1.0,
            cpu_busy_max: 0.95,
            lighter_half_min: 0.1,
            merge_fraction: 0.25,
            size_window_ms: 3_000,
            load_window_ms: 10_000,
            merge_window_ms: 60_000,
            observations_min: 3,
            split_cool_down_ms: 10_000,
            merge_cool_down_ms: 300_000,
            reshapes_max: 2,
            writes_max: 16,
            checkpoint_every_ms: Some(60_000),
            dirty_bytes_max: 256 << 20,
            retry_ms: 10_000,
            memory_share_max: 0.9,
            early_sleep_after_ms: 10_000,
        }
    }
}

impl Policy {
    /// Rejects values with which the policy could oscillate or never act.
    pub fn validate(&self) -> Result<(), InvalidPolicy> {
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let share = |value: f64| positive(value) && value <= 1.0;
        let rules = [
            (self.keys_max > 0, "keys_max", "must be at least 1"),
            (self.bytes_max > 0, "bytes_max", "must be at least 1"),
            (positive(self.busy_share_max), "busy_share_max", "must be more than 0"),
            (positive(self.operations_per_second_max), "operations_per_second_max", "must be more than 0"),
            (share(self.contended_share_max), "contended_share_max", "must be more than 0 and at most 1"),
            (
                self.waits_per_second_min.is_finite() && self.waits_per_second_min >= 0.0,
                "waits_per_second_min",
                "must not be negative",
            ),
            (positive(self.shards_per_worker), "shards_per_worker", "must be more than 0"),
            (share(self.cpu_busy_max), "cpu_busy_max", "must be more than 0 and at most 1"),
            ((0.0..0.5).contains(&self.lighter_half_min), "lighter_half_min", "must be at least 0 and less than 0.5"),
            (
                positive(self.merge_fraction) && self.merge_fraction <= 1.0 / 3.0,
                "merge_fraction",
                "must be more than 0 and at most a third",
            ),
            (self.observations_min >= 2, "observations_min", "must be at least 2"),
            (
                self.merge_cool_down_ms >= self.split_cool_down_ms,
                "merge_cool_down_ms",
                "must not be less than split_cool_down_ms",
            ),
            (self.checkpoint_every_ms != Some(0), "checkpoint_every_ms", "must be at least 1"),
            (self.dirty_bytes_max > 0, "dirty_bytes_max", "must be at least 1"),
            (share(self.memory_share_max), "memory_share_max", "must be more than 0 and at most 1"),
        ];
        match rules.into_iter().find(|(holds, ..)| !holds) {
            Some((_, field, rule)) => Err(InvalidPolicy { field, rule }),
            None => Ok(()),
        }
    }
}

/// A value that a [`Policy`] cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidPolicy {
    pub field: &'static str,
    pub rule: &'static str,
}

impl fmt::Display for InvalidPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field, self.rule)
    }
}

impl std::error::Error for InvalidPolicy {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Policy::default().validate(), Ok(()));
    }

    #[test]
    fn what_could_oscillate_is_refused() {
        let refused = |change: fn(&mut Policy)| {
            let mut policy = Policy::default();
            change(&mut policy);
            policy.validate().expect_err("must be refused").field
        };
        assert_eq!(refused(|policy| policy.merge_fraction = 0.34), "merge_fraction");
        assert_eq!(refused(|policy| policy.merge_fraction = f64::NAN), "merge_fraction");
        assert_eq!(refused(|policy| policy.observations_min = 1), "observations_min");
        assert_eq!(refused(|policy| policy.merge_cool_down_ms = 9_999), "merge_cool_down_ms");
        assert_eq!(refused(|policy| policy.lighter_half_min = 0.5), "lighter_half_min");
        assert_eq!(refused(|policy| policy.keys_max = 0), "keys_max");
    }
}
