//! Which keyspaces the logical indexes of a database show, as the log and the manifest record it.
//!
//! A logical index is *followed* while an import fills it: none of its keys expire by this server's clock. An effect is
//! replayed as it happened, so the log says of each effect whether its index was followed then.

/// The logical indexes that `SELECT` chooses from.
pub const INDEXES: usize = 16;

/// Those, followed by a hidden one for each, in which an import stages its replacement.
pub const ALL_INDEXES: usize = 2 * INDEXES;

/// The id of a staged index while nothing is staged.
pub const NO_KEYSPACE: u32 = u32::MAX >> 1;

/// Set in the keyspace of an effect whose index was followed.
pub const FOLLOWED: u32 = 1 << 31;

/// Set in the time of an effect whose index was followed.
pub const FOLLOWED_TIME: u64 = 1 << 63;

/// In index 0 of what an import fills, for as long as it is not cut over: how far the import is. The server ends what was
/// begun for an import when this key is gone.
pub const MARKER: &str = "__dormouse_import__";

/// The keyspace that each logical index shows, the staged ones included.
pub type Ids = [u32; ALL_INDEXES];

/// Which keyspaces the logical indexes show from an entry of the log on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    pub ids: Ids,
    /// A bit for each index whose keys do not expire by this server's clock.
    pub followed: u32,
    /// The next id that a flush takes.
    pub next: u32,
}

/// The keyspaces that a new database shows: none is staged.
pub fn first_ids() -> Ids {
    std::array::from_fn(|index| if index < INDEXES { index as u32 } else { NO_KEYSPACE })
}
