//! Limits up to which collections stay packed.

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
