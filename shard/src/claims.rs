//! The decision which databases of a fleet this process may take. [`crate::claiming`] obeys it.

use std::fmt::Debug;

use futures::future::BoxFuture;

use crate::error::Result;

/// Decides which databases this process may take.
pub trait Claims: Send + Sync + Debug {
    /// Fails unless the database may be taken from the writer of its newest manifest; `None`: it has no manifest yet.
    fn may_take<'a>(&'a self, database: &'a str, writer: Option<u64>) -> BoxFuture<'a, Result<()>>;
}
