//! When shards split and merge: the thresholds of the autoscaler that are worth turning. The defaults are its own.

use dormouse_autoscaler::Policy;

use super::values::{Interval, Size};

#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Splitting and merging")]
pub struct Reshaping {
    /// Split a shard that holds more keys
    #[arg(long, value_name = "KEYS", default_value_t = Policy::default().keys_max)]
    split_keys: u64,

    /// Split a shard that takes more memory
    #[arg(long, value_name = "SIZE", default_value_t = Size(Policy::default().bytes_max))]
    split_size: Size,

    /// How long a shard must be too big
    #[arg(long, value_name = "DURATION", default_value_t = milliseconds(Policy::default().size_window_ms))]
    split_size_window: Interval,

    /// Split a shard that takes more than this share of one worker's time
    #[arg(long, value_name = "SHARE", default_value_t = Policy::default().busy_share_max)]
    split_busy: f64,

    /// Split a shard that runs more commands a second
    #[arg(long, value_name = "COMMANDS", default_value_t = Policy::default().operations_per_second_max)]
    split_operations: f64,

    /// Split a shard whose lock is found taken more often than this share
    #[arg(long, value_name = "SHARE", default_value_t = Policy::default().contended_share_max)]
    split_contention: f64,

    /// How long a shard must be too busy or contended
    #[arg(long, value_name = "DURATION", default_value_t = milliseconds(Policy::default().load_window_ms))]
    split_load_window: Interval,

    /// Split a database for its load until it has so many shards for each worker
    #[arg(long, value_name = "SHARDS", default_value_t = Policy::default().shards_per_worker)]
    shards_per_worker: f64,

    /// Merge neighbours that together stay under this fraction of every limit; at most a third
    #[arg(long, value_name = "FRACTION", default_value_t = Policy::default().merge_fraction)]
    merge_fraction: f64,

    /// How long neighbours must be small enough to merge (or `never`)
    #[arg(long, value_name = "DURATION", default_value_t = milliseconds(Policy::default().merge_window_ms))]
    merge_window: Interval,

    /// Checkpoint a database early when so much has changed
    #[arg(long, value_name = "SIZE", default_value_t = Size(Policy::default().dirty_bytes_max))]
    checkpoint_size: Size,
}

/// Which option sets a field, for complaints.
const FIELDS: &[(&str, &str)] = &[
    ("keys_max", "--split-keys"),
    ("bytes_max", "--split-size"),
    ("busy_share_max", "--split-busy"),
    ("operations_per_second_max", "--split-operations"),
    ("contended_share_max", "--split-contention"),
    ("shards_per_worker", "--shards-per-worker"),
    ("merge_fraction", "--merge-fraction"),
    ("dirty_bytes_max", "--checkpoint-size"),
];

impl Reshaping {
    /// Returns the autoscaler's policy, or the error in terms of the options.
    pub fn policy(&self, checkpoint_every: Interval) -> Result<Policy, String> {
        let policy = Policy {
            keys_max: self.split_keys,
            bytes_max: self.split_size.0,
            size_window_ms: self.split_size_window.milliseconds(),
            busy_share_max: self.split_busy,
            operations_per_second_max: self.split_operations,
            contended_share_max: self.split_contention,
            load_window_ms: self.split_load_window.milliseconds(),
            shards_per_worker: self.shards_per_worker,
            merge_fraction: self.merge_fraction,
            merge_window_ms: self.merge_window.milliseconds(),
            dirty_bytes_max: self.checkpoint_size.0,
            checkpoint_every_ms: checkpoint_every.duration().map(|_| checkpoint_every.milliseconds()),
            ..Policy::default()
        };
        policy.validate().map(|()| policy).map_err(|error| {
            let option = FIELDS.iter().find(|(field, _)| *field == error.field).map_or(error.field, |(_, name)| name);
            format!("invalid value for '{option}': {}", error.rule)
        })
    }
}

fn milliseconds(ms: u64) -> Interval {
    Interval::Every(std::time::Duration::from_millis(ms))
}
