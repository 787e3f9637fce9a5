//! The answers that forwarding needs, from the fleet or from a table.

use std::sync::Arc;

use dormouse_shard::error::Result;
use futures::FutureExt;
use futures::future::BoxFuture;

/// The node that serves a database.
#[derive(Debug, Clone)]
pub enum ServedAt {
    Here,
    There(Arc<Peering>),
}

/// Another node, as this one reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peering {
    pub name: String,
    /// `host:port` of its Redis port.
    pub address: String,
    /// `host:port` of its HTTP port, if it has one.
    pub http: Option<String>,
}

/// Tells where clients of each database are served.
pub trait Directions: Send + Sync {
    /// Returns where a database is served.
    ///
    /// # Errors
    /// When it cannot be told at present.
    fn locate<'a>(&'a self, database: &'a str) -> BoxFuture<'a, Result<ServedAt>>;

    /// The secret that nodes show each other.
    fn secret(&self) -> &str;

    /// Forgets where a database is: its node has said that it is elsewhere, or could not be reached.
    fn forget(&self, database: &str);
}

/// Directions without a fleet behind them, for tests.
pub struct ToldDirections {
    secret: String,
    told: Told,
}

type Told = Box<dyn Fn(&str) -> Result<ServedAt> + Send + Sync>;

impl ToldDirections {
    pub fn new(secret: &str, told: impl Fn(&str) -> Result<ServedAt> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { secret: secret.to_owned(), told: Box::new(told) })
    }
}

impl Directions for ToldDirections {
    fn locate<'a>(&'a self, database: &'a str) -> BoxFuture<'a, Result<ServedAt>> {
        async move { (self.told)(database) }.boxed()
    }

    fn secret(&self) -> &str {
        &self.secret
    }

    fn forget(&self, _database: &str) {}
}
