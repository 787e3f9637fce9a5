//! Finds the addresses of a host, without those that are out of reach.

use std::net::SocketAddr;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;

use super::Reach;

/// Lookups at the same time: each occupies a thread until the system's resolver answers.
const LOOKUPS_MAX: usize = 32;

/// The host has addresses, but none that may be reached.
#[derive(Debug, thiserror::Error)]
#[error("no address that may be reached")]
pub struct OutOfReach;

#[derive(Clone, Debug)]
pub struct CheckedResolver {
    reach: Reach,
    lookups: Arc<Semaphore>,
}

impl CheckedResolver {
    pub fn new(reach: Reach) -> Self {
        Self { reach, lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)) }
    }
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (reach, lookups) = (self.reach, Arc::clone(&self.lookups));
        Box::pin(async move {
            let turn = lookups.acquire_owned().await?;
            let lookup = tokio::task::spawn_blocking(move || {
                // Kept until the resolver answers, even if the request has been given up.
                let _turn = turn;
                std::net::ToSocketAddrs::to_socket_addrs(&(name.as_str(), 0)).map(Iterator::collect::<Vec<_>>)
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
