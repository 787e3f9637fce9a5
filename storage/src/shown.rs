//! Which keyspaces the logical indexes of a database show, as the log and the manifest record it.
//!
//! A logical index is *followed* while an import fills it: none of its keys expire by this server's clock. An effect is
//! replayed as it happened, so the log says of each effect whether its index was followed then.
//!
//! Two more indexes are hidden. One is that of *receipts*, which tell which requests with `ONCE` have been run. It always shows the same
//! keyspace, so no flush, swap or import concerns it, and neither the log nor the manifest has to name it. The same holds for
//! the index of the *outbox*: the events that triggers have not delivered yet.

use std::ops::Range;

/// The logical indexes that `SELECT` chooses from.
pub const INDEXES: usize = 16;

/// Behind those, a hidden one for each, in which an import stages its replacement.
pub const STAGED: Range<usize> = INDEXES..2 * INDEXES;

/// The hidden index of receipts.
pub const RECEIPTS: usize = 2 * INDEXES;

/// The hidden index of the outbox.
pub const OUTBOX: usize = RECEIPTS + 1;

pub const ALL_INDEXES: usize = OUTBOX + 1;

/// The id of a staged index while nothing is staged.
pub const NO_KEYSPACE: u32 = u32::MAX >> 1;

/// The keyspace that the index of receipts shows.
pub const RECEIPTS_KEYSPACE: u32 = NO_KEYSPACE - 1;

/// The keyspace that the index of the outbox shows.
pub const OUTBOX_KEYSPACE: u32 = NO_KEYSPACE - 2;

/// Whether no client sees the keys of a keyspace, whatever the indexes show.
pub const fn is_hidden(keyspace: u32) -> bool {
    matches!(keyspace, RECEIPTS_KEYSPACE | OUTBOX_KEYSPACE)
}

/// Set in the keyspace of an effect whose index was followed.
pub const FOLLOWED: u32 = 1 << 31;

/// Set in the time of an effect whose index was followed.
pub const FOLLOWED_TIME: u64 = 1 << 63;

/// In index 0 of what an import fills, for as long as it is not cut over: how far the import is. The server ends what was
/// begun for an import when this key is gone.
pub const MARKER: &str = "__dormouse_import__";

/// The keyspace that each logical index shows, the hidden ones included.
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
    let mut ids = no_ids();
    ids[..INDEXES].iter_mut().zip(0..).for_each(|(shown, id)| *shown = id);
    ids
}

/// Those of a database of which no other is known: only the ones of receipts and of the outbox.
pub(crate) fn no_ids() -> Ids {
    let mut ids = [NO_KEYSPACE; ALL_INDEXES];
    ids[RECEIPTS] = RECEIPTS_KEYSPACE;
    ids[OUTBOX] = OUTBOX_KEYSPACE;
    ids
}
