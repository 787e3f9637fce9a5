//! What is done when memory is short: idle databases are put to sleep, hoarders are closed, and the branches of a database
//! share its limit.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::databases::Tenant;
use crate::node::Node;

/// A database that was used within this time stays awake: it would be back at once.
const IDLE_MS: u64 = 1000;
/// One that has no more data in memory is no help.
const WORTHWHILE_BYTES: usize = 256 << 10;

/// Puts databases to sleep, one after the other.
#[derive(Debug, Default)]
pub struct Relief {
    is_running: Arc<AtomicBool>,
}

impl Relief {
    /// Begins to put the one of these databases to sleep that was not used for longest, unless one is on its way.
    pub fn put_one_to_sleep(&self, node: &Arc<Node>, of: impl Iterator<Item = Arc<Tenant>>, why: &str) {
        if self.is_running.load(Ordering::Acquire) {
            return;
        }
        let Some(tenant) = least_recently_used(node, of) else { return };
        tracing::info!(database = tenant.name(), bytes = tenant.database.used_bytes(), "put to sleep: {why}");
        self.is_running.store(true, Ordering::Release);
        let is_running = Arc::clone(&self.is_running);
        node.engine.background.spawn(async move {
            if let Err(error) = tenant.database.sleep().await {
                tracing::warn!(database = tenant.name(), %error, "failed to put the database to sleep");
            }
            is_running.store(false, Ordering::Release);
        });
    }
}

/// The awake one that was not used for longest, if it is idle and has something in memory.
fn least_recently_used(node: &Node, of: impl Iterator<Item = Arc<Tenant>>) -> Option<Arc<Tenant>> {
    let now_ms = (node.engine.clock)();
    let mut used: HashMap<Arc<str>, u64> = HashMap::new();
    for client in node.clients.list() {
        let database = Arc::clone(&client.told.lock().database);
        let last = used.entry(database).or_default();
        *last = (*last).max(client.worked_ms.load(Ordering::Relaxed));
    }
    let last_use =
        |tenant: &Tenant| used.get(tenant.name()).copied().unwrap_or(0).max(tenant.worked_ms.load(Ordering::Relaxed));
    let candidates = of.filter(|tenant| {
        tenant.database.is_awake()
            && tenant.database.used_bytes() > WORTHWHILE_BYTES
            && last_use(tenant) + IDLE_MS <= now_ms
    });
    candidates.min_by_key(|tenant| last_use(tenant))
}

/// Closes the largest clients of every account that is crowded.
pub fn close_hoarders(node: &Node) {
    let close = |tenant: &Tenant, bytes: usize| {
        let closed = node.clients.evict(&tenant.account, bytes);
        tenant.evicted_clients.fetch_add(closed as u64, Ordering::Relaxed);
    };
    for tenant in node.tenants.all() {
        if let Some(bytes) = tenant.account.is_crowded() {
            close(&tenant, bytes);
        }
    }
    // Where all clients together keep too much, those of the database that keeps most go.
    if let Some(bytes) = node.clients.memory.is_crowded()
        && let Some(tenant) = node.tenants.all().max_by_key(|tenant| tenant.account.used())
    {
        close(&tenant, bytes);
    }
}

/// Says to each database and branch how much of the limit of one database the others of its family leave. Answers the
/// members of a family that has more in memory than that, though no write was accepted: its branches were loaded.
pub fn divide_among_families(node: &Node) -> Vec<Arc<Tenant>> {
    let Some(limit) = usize::try_from(node.limits.max_memory).ok().filter(|limit| *limit > 0) else {
        return Vec::new();
    };
    let mut families: HashMap<String, (usize, Vec<Arc<Tenant>>)> = HashMap::new();
    for tenant in node.tenants.all() {
        let (used, members) = families.entry(tenant.owner().to_owned()).or_default();
        *used += tenant.database.used_bytes();
        members.push(tenant);
    }
    let mut over = Vec::new();
    for (used, members) in families.into_values().filter(|(_, members)| members.len() > 1) {
        for tenant in &members {
            let others = used.saturating_sub(tenant.database.used_bytes());
            tenant.database.shared.family_left.store(limit.saturating_sub(others), Ordering::Relaxed);
        }
        if used > limit {
            over.extend(members);
        }
    }
    over
}
