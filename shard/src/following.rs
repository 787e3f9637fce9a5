//! Ends an import that was abandoned, so that no database waits for a source that is gone for good. See
//! [`crate::keyspace::staging`].

use std::sync::atomic::Ordering;

use crate::database::Database;
use crate::keyspace::Keyspace;

impl Database {
    /// Lets keys expire again where the import has filled an index and its marker is gone, and drops staged data unless
    /// a client fills it. `is_filled` is asked under the locks, so it sees a client that has begun an import meanwhile.
    /// Never wakes a database.
    pub async fn settle_import(&self, is_filled: impl FnOnce() -> bool) {
        if self.shared.followed.load(Ordering::Relaxed) == 0 {
            return;
        }
        let Some((_, held)) = self.hold_all().await else { return };
        let mut contents: Vec<_> = held.iter().map(|held| held.contents()).collect();
        let parts = contents.iter_mut().map(|contents| &mut **contents);
        let mut db = Keyspace::new(parts, &self.shared, 0, (self.engine.clock)(), 1);
        db.settle_import(is_filled());
        let dead = db.take_graveyard().unwrap_or_default();
        drop(db);
        drop(contents);
        drop(held);
        self.free(dead);
    }
}
