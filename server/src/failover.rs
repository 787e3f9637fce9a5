//! Failover: a survivor takes over the databases of a node that has died.
//!
//! 1. A node is dead when its lease has ended: its last process is no member any more, and has neither released its run nor been
//!    adopted. One that was never seen as a member may have started just now, so it counts as dead only after a while.
//! 2. The survivor that is [chosen](chosen) for its name adopts it at once, and the others after a head start, in case that one has
//!    died too. The run lets one of them through.
//! 3. The adoption seals the dead node's log and reads it. Its entries join those that this process has recovered, and only then
//!    may its databases be claimed.
//! 4. Databases with entries in that log are brought into the store, so that the log can be deleted. All others wait for their first
//!    use.
//!
//! Nothing is asked of the store while no node comes or goes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dormouse_coordination::Standing;
use dormouse_storage::log::format::Identity;
use dormouse_storage::log::recovery::Recovered;
use dormouse_storage::manifest;
use dormouse_storage::store::StoreError;
use futures::{StreamExt, stream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::fleet::{Fleet, chosen};
use crate::node::Node;

/// Head start of the chosen survivor.
const HEAD_START: Duration = Duration::from_secs(2);
/// Time after which a process counts as dead that was never a member.
const UNSEEN_FOR: Duration = Duration::from_secs(5);
/// Interval between attempts while a dead node is not adopted.
const RETRY_EVERY: Duration = Duration::from_millis(250);
/// Interval between questions to the store after a lease was lost.
const LOOK_AGAIN_EVERY: Duration = Duration::from_millis(200);
/// Most databases that are brought into the store at the same time.
const STORED_TOGETHER: usize = 4;

/// Knowledge of the nodes that may be dead.
#[derive(Debug, Default)]
struct Suspects {
    /// Writers that have been members.
    seen: BTreeSet<u64>,
    /// When each that is no member was noticed.
    noticed: BTreeMap<u64, Instant>,
}

/// Asks the store after each loss of the lease whether this process still owns its run. It never ends.
pub async fn confirm_lease(node: Arc<Node>, mut standing: watch::Receiver<Standing>) {
    loop {
        let losses = standing.borrow_and_update().leases_lost;
        let looked = match node.engine.log.as_ref().and_then(|log| log.owner()) {
            Some(owner) => owner.look().await,
            None => Ok(()),
        };
        match looked {
            Ok(()) => {
                node.lease.confirm(losses);
                if standing.changed().await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "failed to ask the store whether this node was adopted; it answers nothing until then");
                sleep(LOOK_AGAIN_EVERY).await;
            }
        }
    }
}

/// Watches the members of the fleet until the node drains.
pub async fn watch(node: Arc<Node>, fleet: Arc<Fleet>) {
    let mut members = fleet.membership().subscribe();
    let mut suspects = Suspects::default();
    // Those that this process has inherited at its start.
    bring_all_into_store(&node);
    open_triggered(&node);
    loop {
        suspects.seen.extend(members.borrow_and_update().iter().map(|member| member.writer));
        fleet.forget_all();
        let is_settled = match adopt_dead(&node, &fleet, &mut suspects).await {
            Ok(is_settled) => is_settled,
            Err(error) => {
                tracing::warn!(%error, "failed to take over a dead node of the fleet");
                false
            }
        };
        let retry = async {
            match is_settled {
                true => fleet.missed.notified().await,
                false => sleep(RETRY_EVERY).await,
            }
        };
        tokio::select! {
            () = node.until_drained() => return,
            changed = members.changed() => if changed.is_err() { return },
            () = retry => {}
        }
    }
}

/// Adopts dead nodes. Returns whether none is left.
async fn adopt_dead(node: &Arc<Node>, fleet: &Arc<Fleet>, suspects: &mut Suspects) -> Result<bool, StoreError> {
    if node.lease.is_over() {
        // Its list of the other members may be old.
        return Ok(false);
    }
    let absent = fleet.dead().await?;
    let (members, now) = (fleet.members(), Instant::now());
    suspects.noticed.retain(|writer, _| absent.iter().any(|(_, other)| other == writer));
    let mut is_settled = true;
    for (name, writer) in absent {
        is_settled = false;
        let noticed = now - *suspects.noticed.entry(writer).or_insert(now);
        let is_chosen = chosen(&name, &members).is_some_and(|member| member.name == fleet.name());
        let wait = if suspects.seen.contains(&writer) { Duration::ZERO } else { UNSEEN_FOR };
        let head_start = if is_chosen { Duration::ZERO } else { HEAD_START };
        if noticed >= wait + head_start && read_logs(node, Some((name, writer))).await? {
            fleet.duty.adoptions.fetch_add(1, Ordering::Relaxed);
            open_triggered(node);
        }
    }
    if is_settled {
        // Logs that another process has adopted for this one.
        read_logs(node, None).await?;
    }
    Ok(is_settled)
}

/// Adopts a node, or takes over the logs that belong to this process already. Returns whether this process has the log of the node
/// now.
async fn read_logs(node: &Arc<Node>, adopted: Option<(String, u64)>) -> Result<bool, StoreError> {
    let Some(log) = node.engine.log.clone() else { return Ok(false) };
    let recovered = Arc::clone(&node.engine.recovered);
    let read = node.engine.background.spawn_blocking(move || {
        let mut take = |entries: Recovered| recovered.lock().merge(entries);
        match adopted {
            Some((name, writer)) => log.adopt(&name, Some(writer), &mut take),
            None => log.inherit(&mut take).map(|()| false),
        }
    });
    let is_adopted = read.await.map_err(|error| StoreError::LogFailed(error.to_string()))??;
    bring_all_into_store(node);
    Ok(is_adopted)
}

/// Brings the databases into the store of which the log of an earlier process, or of a dead node, has entries.
fn bring_all_into_store(node: &Arc<Node>) {
    let left: Vec<Identity> = node.engine.recovered.lock().identities().into_iter().cloned().collect();
    if left.is_empty() {
        return;
    }
    let node = Arc::clone(node);
    tokio::spawn(async move {
        let store = async |identity: Identity| bring_into_store(&node, &identity).await;
        stream::iter(left).for_each_concurrent(STORED_TOGETHER, store).await;
    });
}

/// Opens the databases of this node that have triggers: they may have events left to deliver.
fn open_triggered(node: &Arc<Node>) {
    let names: Vec<Box<str>> = node.tenants.directory.known().triggered().collect();
    let node = Arc::clone(node);
    tokio::spawn(async move {
        for name in names {
            if node.tenants.is_here(&name).await {
                drop(node.tenants.opened(&name).await);
            }
        }
    });
}

async fn bring_into_store(node: &Node, identity: &Identity) {
    let name = &*identity.name;
    let Some(tenant) = node.tenants.opened(name).await else {
        settle_foreign(node, identity).await;
        return;
    };
    let stored = match tenant.database.awake().await {
        Ok(_) => tenant.database.checkpoint().await.map(drop),
        Err(error) => Err(error),
    };
    if let Err(error) = stored {
        tracing::error!(database = name, %error, "failed to bring entries of a dead node's log into the store");
    }
}

/// Lets go of the entries of a database that was deleted, or that another node has: that one's manifest holds them.
async fn settle_foreign(node: &Node, identity: &Identity) {
    let (store, name) = (&node.engine.store, &*identity.name);
    let Some(log) = &node.engine.log else { return };
    match manifest::latest_root(store, name).await {
        Ok(Some(newest)) if newest.known.seed == identity.seed && !log.has_read_log_of(newest.known.writer) => {
            log.settled(identity, newest.known.sequence);
        }
        // A later database of the name.
        Ok(Some(newest)) if newest.known.seed != identity.seed => log.settled(identity, u64::MAX),
        Ok(Some(_)) => {}
        // A database of a fleet has a manifest before its first write, so this one was deleted. One of a lone process that is
        // known has yet to be opened.
        Ok(None) if !node.tenants.is_known(name) => log.settled(identity, u64::MAX),
        Ok(None) => {}
        Err(error) => {
            tracing::warn!(database = name, %error, "failed to look for a database of which a log has entries")
        }
    }
}
