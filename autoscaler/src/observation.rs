//! Input of the policy: numbers about one node at one moment.

use serde::{Deserialize, Serialize};

/// One look at a node. Rates and shares cover the time since the previous look.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    pub node: NodeLoad,
    /// The databases that are awake. A database that is missing here is asleep or gone, and is forgotten.
    pub databases: Vec<DatabaseLoad>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeLoad {
    pub workers: usize,
    /// Share of all workers' time that was spent running, 0 to 1.
    pub cpu_busy: f64,
    /// Resident bytes.
    pub memory_bytes: u64,
    /// The most that the node may use; 0: no limit is known.
    pub memory_bytes_max: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DatabaseLoad {
    pub id: String,
    /// In slot order.
    pub shards: Vec<ShardLoad>,
    /// When a client last sent a command that counts as use, on the clock of `now`.
    pub last_command_ms: u64,
    /// The database's own option; `None`: never.
    pub sleep_after_ms: Option<u64>,
    /// Not needed without [`NodeLoad::memory_bytes_max`], and neither are those that wait.
    pub connected_clients: usize,
    /// Connected clients that wait in a blocking command. They do not keep a database awake: the write that serves them
    /// wakes it.
    pub parked_clients: usize,
    /// Bytes changed since the last checkpoint.
    pub dirty_bytes: u64,
    /// Time since the last checkpoint, or, without one, since the first change.
    pub checkpoint_age_ms: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ShardLoad {
    pub id: u64,
    pub first_slot: u16,
    /// Exclusive: the slots are `first_slot..end_slot`, 16384 at most.
    pub end_slot: u16,
    pub keys: u64,
    pub bytes: u64,
    pub operations_per_second: f64,
    /// Share of the lock's acquisitions that found it held, 0 to 1.
    pub contended_share: f64,
    /// Acquisitions a second that found the lock held.
    pub waits_per_second: f64,
    /// Share of one worker's time that this shard's commands took; readers that share it can bring it above 1.
    pub busy_share: f64,
    /// The distribution of operations over the slots, in parts of any number and width. Finer parts where the load is
    /// make better cuts. 16 equal parts suffice; parts from a sample of slots, with each hot slot in a part of its own,
    /// save the cuts that only search for it. Empty if unknown.
    pub load_histogram: Vec<Part>,
    /// The distribution of bytes over the slots.
    pub size_histogram: Vec<Part>,
}

/// The slots from `first_slot` to the next part's, or the shard's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Part {
    pub first_slot: u16,
    /// In any unit, the same for all parts of a histogram.
    pub weight: f64,
}

impl ShardLoad {
    pub(crate) fn slots(&self) -> u16 {
        self.end_slot.saturating_sub(self.first_slot)
    }
}
