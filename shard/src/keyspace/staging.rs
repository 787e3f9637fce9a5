//! Following a source: an import fills a copy beside the data and puts it in the data's place at once. Until it is cut
//! over, only the source decides which keys have expired.
//!
//! 1. Each logical index has a hidden, *staged* one. [`Keyspace::begin_staging`] gives all of them new keyspaces. Their
//!    keys count as memory of the database like any others, and are in its log and its checkpoints.
//! 2. [`Keyspace::show_staged`] exchanges all sixteen with the ones that clients see. That is one item of the log, so a
//!    crash leaves all of the old data or all of the new. The old data is freed.
//! 3. Staged indexes are *followed*, and stay so when they are shown, until [`Keyspace::end_following`]. In a followed
//!    index nothing expires by this server's clock: neither when a key is looked for, nor in the background, and
//!    nothing is evicted. The source deletes expired keys, by `DEL` or `UNLINK`. A command that writes finds a key
//!    whose time is over, since the source may have made it last longer; one that only reads does not, as in a replica
//!    of Redis.
//!
//! Invariant: an effect is replayed as it happened. So the log says of each effect whether its index was followed then,
//! and the manifest which indexes are.

use std::sync::atomic::Ordering;

use dormouse_storage::shown::{FOLLOWED, INDEXES, MARKER, NO_KEYSPACE, STAGED};

use super::Keyspace;

/// The indexes that clients see, and the staged ones, as bits.
pub const VISIBLE_MASK: u32 = (1 << INDEXES) - 1;
pub const STAGED_MASK: u32 = VISIBLE_MASK << INDEXES;

impl Keyspace<'_> {
    /// Empties the staged indexes, for an import that begins. Every shard must be held.
    pub fn begin_staging(&mut self) {
        self.drop_staged();
        for select in STAGED {
            let id = self.shared.next_id.fetch_add(1, Ordering::SeqCst);
            self.shards.iter_mut().for_each(|shard| shard.ids[select] = id);
        }
        self.set_followed(self.followed | STAGED_MASK);
    }

    /// Replaces all indexes that clients see by the staged ones, and frees the replaced data. Every shard must be held.
    pub fn show_staged(&mut self) {
        let shared = self.shared;
        shared.watches.touch_all(|_| true, |_, _| true);
        shared.interest.stir_indexes(u32::MAX);
        self.untrack_all();
        for select in 0..INDEXES as u8 {
            self.shards.iter_mut().for_each(|shard| shard.swap(select, select + INDEXES as u8));
        }
        self.drop_staged();
        self.set_followed(VISIBLE_MASK);
    }

    /// Frees the staged data. Every shard must be held.
    pub fn discard_staged(&mut self) {
        self.drop_staged();
        self.set_followed(self.followed & VISIBLE_MASK);
    }

    /// Whether it is unknown if [`MARKER`] exists: its place must be loaded.
    pub fn needs_marker(&mut self) -> bool {
        self.in_first(|db| db.contains(MARKER.as_bytes()));
        self.has_fault()
    }

    /// Deletes [`MARKER`], whose place must be resident.
    pub fn delete_marker(&mut self) {
        self.in_first(|db| db.delete(MARKER.as_bytes()));
    }

    fn in_first(&mut self, look: impl FnOnce(&mut Self) -> bool) {
        let selected = self.selected();
        self.select(0);
        look(self);
        self.select(selected);
    }

    /// Lets keys expire by this server's clock again. Every shard must be held.
    pub fn end_following(&mut self) {
        self.set_followed(self.followed & STAGED_MASK);
    }

    /// Ends following where [`MARKER`] is gone, and staging unless `is_filled`. Every shard must be held.
    pub(crate) fn settle_import(&mut self, is_filled: bool) {
        self.begin(true, true);
        if self.is_staging() && !is_filled {
            self.discard_staged();
        }
        if self.is_following() && !self.may_hold(0, MARKER.as_bytes()) {
            self.end_following();
        }
    }

    /// Whether an import is filling the staged indexes.
    pub fn is_staging(&self) -> bool {
        self.followed & STAGED_MASK != 0
    }

    /// Whether clients see an index that follows a source.
    pub fn is_following(&self) -> bool {
        self.followed & VISIBLE_MASK != 0
    }

    /// Keys in all indexes that clients see, those that have expired included.
    pub fn visible(&self) -> usize {
        (0..INDEXES as u8).map(|select| self.counts(select).0).sum()
    }

    /// Whether the selected index exists: a staged one does while data is staged.
    pub(crate) fn is_selectable(&self) -> bool {
        usize::from(self.select) < INDEXES || self.is_staging()
    }

    /// Whether `at` has passed for a key of the selected index.
    pub fn has_passed(&self, at: u64) -> bool {
        at <= self.horizon()
    }

    /// The moment up to which expired keys, and fields of hashes, do not exist for the command that runs.
    pub(crate) fn horizon(&self) -> u64 {
        if self.is_followed() && self.sees_expired { 0 } else { self.now_ms }
    }

    /// Whether the selected index is followed.
    pub(super) fn is_followed(&self) -> bool {
        u64::from(self.followed) >> self.select & 1 != 0
    }

    /// The keyspace as the effects of the selected index name it.
    pub(super) fn marked(&self, keyspace: u32) -> u32 {
        if self.is_followed() { keyspace | FOLLOWED } else { keyspace }
    }

    /// Called after two indexes were exchanged.
    pub(super) fn swap_followed(&mut self, a: u8, b: u8) {
        if (self.followed >> a ^ self.followed >> b) & 1 != 0 {
            self.followed ^= 1 << a | 1 << b;
            self.shared.followed.store(self.followed, Ordering::Relaxed);
        }
    }

    fn set_followed(&mut self, followed: u32) {
        self.followed = followed;
        self.shared.followed.store(followed, Ordering::Relaxed);
        self.count_change();
        self.record_ids();
    }

    fn drop_staged(&mut self) {
        let shared = self.shared;
        shared.watches.touch_all(|select| usize::from(select) >= INDEXES, |_, _| true);
        for at in 0..self.shards.len() {
            for select in STAGED {
                let shard = &mut self.shards[at];
                shard.ids[select] = NO_KEYSPACE;
                if let Some(index) = shard.put_index(select as u8, None) {
                    self.lay_down_index(at, index);
                }
            }
        }
    }
}
