//! Limits up to which collections stay packed.

use crate::hyperloglog::SPARSE_BYTES_MAX;

/// The most that a node of a stream may take, whatever the limits of its database say: it takes no more entries when it has
/// so many, deleted ones too, or when it would have so many bytes. Redis's defaults for `stream-node-max-entries` and
/// `stream-node-max-bytes`.
pub const NODE_ENTRIES_MAX: usize = 100;
pub const NODE_BYTES_MAX: usize = 4096;

/// Limits up to which collections stay packed (Redis's settings of the same names), and the seed that places the
/// elements of large ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub hash_max_listpack_entries: usize,
    pub hash_max_listpack_value: usize,
    /// Positive: elements a listpack; -1 to -5: 4, 8, 16, 32, 64 KiB a listpack.
    pub list_max_listpack_size: i32,
    pub set_max_intset_entries: usize,
    pub set_max_listpack_entries: usize,
    pub set_max_listpack_value: usize,
    pub zset_max_listpack_entries: usize,
    pub zset_max_listpack_value: usize,
    /// Bytes that a sparse HyperLogLog may have without its header; at most [`crate::hyperloglog::SPARSE_BYTES_MAX`].
    pub hll_sparse_max_bytes: usize,
    /// Bytes and entries of a stream's node; at most [`NODE_BYTES_MAX`] and [`NODE_ENTRIES_MAX`].
    pub stream_node_max_bytes: usize,
    pub stream_node_max_entries: usize,
    /// For how many seconds a new stream remembers the messages of its producers, and how many of each: see
    /// [`crate::stream::Idempotency`].
    pub stream_idmp_duration_s: u32,
    pub stream_idmp_maxsize: u32,
    pub seed: u64,
}

impl Limits {
    /// The defaults of Redis 7.2 and Valkey 9.1.
    pub const REDIS: Limits = Limits {
        hash_max_listpack_entries: 512,
        hash_max_listpack_value: 64,
        list_max_listpack_size: -2,
        set_max_intset_entries: 512,
        set_max_listpack_entries: 128,
        set_max_listpack_value: 64,
        zset_max_listpack_entries: 128,
        zset_max_listpack_value: 64,
        hll_sparse_max_bytes: SPARSE_BYTES_MAX,
        stream_node_max_bytes: NODE_BYTES_MAX,
        stream_node_max_entries: NODE_ENTRIES_MAX,
        stream_idmp_duration_s: 100,
        stream_idmp_maxsize: 100,
        seed: 0,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Limits::REDIS
    }
}

/// Bytes from outside that claim to be a packed collection and are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0}")]
pub struct Malformed(pub &'static str);
