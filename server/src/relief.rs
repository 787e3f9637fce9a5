//! Measures against a shortage of memory: idle databases are put to sleep, the largest clients are closed, and the
//! branches of a database share its limit.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dormouse_shard::checkpoint::SleepOutcome;
use dormouse_storage::retry::Notice;

use crate::databases::Tenant;
use crate::node::Node;

/// A database that was used within this time stays awake: it would be woken at once.
const IDLE_MS: u64 = 1000;
/// Putting a database with no more data in memory to sleep would not help.
const WORTHWHILE_BYTES: usize = 256 << 10;

/// Puts databases to sleep, one after the other.
#[derive(Debug, Default)]
pub struct Relief {
    is_running: Arc<AtomicBool>,
}

/// A database being put to sleep. Dropping it ends the turn, whatever the outcome.
struct Turn {
    is_running: Arc<AtomicBool>,
    tenant: Arc<Tenant>,
    /// Whether it has succeeded.
    has_succeeded: bool,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let notice = self.tenant.saving.lock().end(self.has_succeeded);
        if let Notice::Still(failures) = notice {
            tracing::error!(database = self.tenant.name(), failures, "still failing to put the database to sleep");
        }
        self.is_running.store(false, Ordering::Release);
    }
}

impl Relief {
    /// Starts putting the least recently used of these databases to sleep, unless one is in progress. A database that
    /// has failed is skipped until its next attempt is due.
    pub fn put_one_to_sleep(&self, node: &Arc<Node>, of: impl Iterator<Item = Arc<Tenant>>, why: &str) {
        if self.is_running.load(Ordering::Acquire) {
            return;
        }
        let candidates = least_recently_used(node, of);
        let Some(tenant) = candidates.into_iter().find(|tenant| tenant.saving.lock().begin()) else { return };
        tracing::info!(database = tenant.name(), bytes = tenant.database.used_bytes(), "put to sleep: {why}");
        self.is_running.store(true, Ordering::Release);
        let is_running = Arc::clone(&self.is_running);
        let turn = Turn { is_running, tenant, has_succeeded: false };
        let clock = node.engine.clock;
        node.engine.background.spawn(async move {
            let mut turn = turn;
            // The engine logs a failure.
            let done = turn.tenant.database.sleep_promptly().await;
            if done == Ok(SleepOutcome::InUse) {
                // A client writes to it: another database is a better choice for a while.
                turn.tenant.worked(clock());
            }
            turn.has_succeeded = done.is_ok();
        });
    }
}

/// Returns the awake databases that are idle and have data in memory, the least recently used first.
fn least_recently_used(node: &Node, of: impl Iterator<Item = Arc<Tenant>>) -> Vec<Arc<Tenant>> {
    let now_ms = (node.engine.clock)();
    let candidates = of.filter(|tenant| {
        tenant.database.is_awake()
            && tenant.database.used_bytes() > WORTHWHILE_BYTES
            && tenant.worked_ms() + IDLE_MS <= now_ms
    });
    let mut candidates: Vec<_> = candidates.collect();
    candidates.sort_by_cached_key(|tenant| tenant.worked_ms());
    candidates
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
    node.clients.close_hoarding_strangers();
    // If all clients together keep too much, those of the database that keeps most are closed.
    if let Some(bytes) = node.clients.memory.is_crowded()
        && let Some(tenant) = node.tenants.all().max_by_key(|tenant| tenant.account.used())
    {
        close(&tenant, bytes);
    }
}

/// Tells each database and branch how much of the limit of one database the others of its family leave. Returns the
/// members of families that have more in memory than that although no write was accepted: their branches were loaded.
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
    for (used, members) in families.into_values() {
        for tenant in &members {
            let left = left_to(limit, (used, members.len()), tenant.database.used_bytes());
            tenant.database.shared.family_left.store(left, Ordering::Relaxed);
        }
        if members.len() > 1 && used > limit {
            over.extend(members);
        }
    }
    over
}

/// Returns the bytes that the others leave to a member with `own` bytes, of a family of `members` that have `used`
/// bytes. A database without branches, as after its last branch has gone, has the limit of its settings.
fn left_to(limit: usize, (used, members): (usize, usize), own: usize) -> usize {
    if members > 1 { limit.saturating_sub(used.saturating_sub(own)) } else { usize::MAX }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_shares_a_limit_and_one_alone_has_its_own() {
        for (used, members, own, left) in [
            (30, 2, 10, 80),
            (30, 2, 20, 90),
            (300, 3, 100, 0),
            // It was used while the sum was computed.
            (30, 2, 40, 100),
            (30, 1, 30, usize::MAX),
        ] {
            assert_eq!(left_to(100, (used, members), own), left, "{used} of {members}, {own}");
        }
    }
}
