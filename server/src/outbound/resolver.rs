//! Finds the addresses of a host, without those that are out of reach.
//!
//! A name server that does not answer holds a thread for as long as the system's resolver waits. So that the receivers of one
//! tenant cannot take all threads, each has a [`LookupShare`].

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;

use super::Reach;

/// Lookups at the same time, and those of one tenant: each occupies a thread until the system's resolver answers.
const LOOKUPS_MAX: usize = 64;
const SHARE_MAX: usize = 2;

tokio::task_local! {
    static SHARE: LookupShare;
}

/// The part of the lookups that one tenant may have at the same time. Clones share it.
#[derive(Clone, Debug)]
pub struct LookupShare(Arc<Semaphore>);

impl Default for LookupShare {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(SHARE_MAX)))
    }
}

impl LookupShare {
    #[cfg(test)]
    pub fn is_free(&self) -> bool {
        self.0.available_permits() > 0
    }

    /// Runs `future`, whose lookups are of this share.
    pub fn scope<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        SHARE.scope(self.clone(), future)
    }
}

/// Finds the addresses of a name, as long as that takes.
pub type HostLookup = fn(&str) -> io::Result<Vec<SocketAddr>>;

/// Asks the system.
pub fn look_up(name: &str) -> io::Result<Vec<SocketAddr>> {
    (name, 0).to_socket_addrs().map(Iterator::collect)
}

/// The host has addresses, but none that may be reached.
#[derive(Debug, thiserror::Error)]
#[error("no address that may be reached")]
pub struct OutOfReach;

#[derive(Clone, Debug)]
pub struct CheckedResolver {
    reach: Reach,
    lookup: HostLookup,
    lookups: Arc<Semaphore>,
}

impl CheckedResolver {
    pub fn new(reach: Reach, lookup: HostLookup) -> Self {
        Self { reach, lookup, lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)) }
    }
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (reach, lookup, lookups) = (self.reach, self.lookup, Arc::clone(&self.lookups));
        // The connection may be made by another task.
        let share = SHARE.try_with(|LookupShare(share)| Arc::clone(share)).ok();
        Box::pin(async move {
            let own = match share {
                Some(share) => Some(share.acquire_owned().await?),
                None => None,
            };
            let turn = lookups.acquire_owned().await?;
            let lookup = tokio::task::spawn_blocking(move || {
                // Kept until the resolver answers, even if the request has been given up.
                let _turns = (own, turn);
                lookup(name.as_str())
            });
            let mut found: Vec<SocketAddr> = lookup.await??;
            found.retain(|address| reach.has(address.ip()));
            if found.is_empty() {
                return Err(OutOfReach.into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}
