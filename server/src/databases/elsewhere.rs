//! Databases that another node of a fleet serves.

use dormouse_shard::error::Result;
use futures::future::BoxFuture;

/// Knows which databases of a fleet are served here.
pub trait Whereabouts: Send + Sync {
    /// Whether a database is served here, or is to be from now on: then it can be claimed.
    ///
    /// # Errors
    /// When that cannot be found out.
    fn is_here<'a>(&'a self, database: &'a str) -> BoxFuture<'a, Result<bool>>;

    /// Forgets what was found out about a database.
    fn forget(&self, database: &str);
}
