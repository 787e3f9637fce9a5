//! Moves: a database, with its branches, goes from this node to another one of the fleet.
//!
//! 1. Branches go first, then their owner: a branch is looked for where its owner is.
//! 2. Each is [handed over](dormouse_shard::database::Database::hand_over): it falls asleep, and the next manifest names the other
//!    node's writer.
//! 3. It leaves memory here. Clients that are in it are disconnected once all have moved, and find it through any node when they
//!    come again.
//!
//! A move that fails halfway is completed by the next one to the same node: branches that this node has given away are passed over.
//!
//! A node that drains takes no free databases any more, and moves those that it has in memory. Others that it owns sleep. They are
//! free when it ends and releases its run. One that is used before is woken here, and moves at the next [look](watch).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dormouse_coordination::FleetMember;
use dormouse_shard::error::{Error, Result};
use dormouse_storage::manifest;
use futures::{StreamExt, stream};
use tokio::time::{Instant, sleep};

use crate::fleet::{Fleet, Peering, ServedAt, chosen};
use crate::node::Node;
use crate::options::owner_and_branch;

/// Most databases that move at the same time.
const MOVED_TOGETHER: usize = 8;
/// Interval between attempts to move what stays.
const RETRY_EVERY: Duration = Duration::from_millis(250);
/// Interval between looks of a draining node at databases that were woken.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The outcome of a drain.
#[derive(Debug, Default)]
pub struct Drained {
    /// Databases that have moved, each with its branches.
    pub moved: usize,
    pub staying: Vec<Stay>,
}

/// A database that could not be moved.
#[derive(Debug)]
pub struct Stay {
    pub database: Box<str>,
    pub reason: String,
}

/// Moves a database that is served here, or the owner of the branch that is named, to another node. Returns whether it had to.
///
/// # Errors
/// When there is no such node, the database is elsewhere, or the store refuses.
pub async fn move_to(node: &Arc<Node>, fleet: &Fleet, database: &str, to: &str) -> Result<bool> {
    let owner = owner_and_branch(database).map_or(database, |(owner, _)| owner);
    let members = fleet.members();
    let Some(member) = members.named(to) else {
        return Err(Error::Text(format!("ERR the fleet has no node {to}").into()));
    };
    if member.name == fleet.name() {
        return Ok(false);
    }
    let branches = branches_of(node, owner);
    let mut given = Vec::new();
    let mut outcome = Ok(true);
    for name in branches.iter().map(|name| &**name).chain([owner]) {
        match hand_over(node, name, member).await {
            Ok(()) => given.push(name),
            // An attempt before this one may have been carried out without an answer.
            Err(Error::Elsewhere(_)) if is_owned_by(node, name, member.writer).await => given.push(name),
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    // Those that were made while the others moved.
    let later = if outcome.is_ok() { branches_of(node, owner) } else { BTreeSet::new() };
    for name in later.iter().filter(|name| !branches.contains(*name)) {
        match hand_over(node, name, member).await {
            Ok(()) => given.push(name),
            Err(error) => outcome = Err(error),
        }
    }
    match &outcome {
        Ok(_) => fleet.place(owner, ServedAt::There(Arc::new(Peering::from(&**member)))),
        Err(_) => fleet.forget(owner),
    }
    for name in given {
        fleet.duty.moves.fetch_add(1, Ordering::Relaxed);
        node.clients.of_database(name).iter().for_each(|client| client.kill());
        tracing::info!(database = name, node = member.name, "moved to another node of the fleet");
    }
    outcome
}

/// The branches of a database, in memory or not.
fn branches_of(node: &Node, owner: &str) -> BTreeSet<Box<str>> {
    let begins = format!("{owner}.");
    let in_memory = node.tenants.all().filter(|tenant| tenant.name().starts_with(&begins));
    let mut branches: BTreeSet<Box<str>> = in_memory.map(|tenant| tenant.name().into()).collect();
    branches.extend(node.tenants.directory.known().after("", &begins).map(|record| record.name));
    branches
}

async fn hand_over(node: &Arc<Node>, name: &str, to: &FleetMember) -> Result<()> {
    let Some(tenant) = node.tenants.opened(name).await else {
        return Err(Error::Elsewhere(name.to_owned()));
    };
    let now_ms = (node.engine.clock)();
    node.tenants.record_usage(&tenant, now_ms).await?;
    tenant.database.hand_over(to.writer).await?;
    node.tenants.let_move(&tenant);
    Ok(())
}

/// Whether a database is known to belong to a writer.
async fn is_owned_by(node: &Node, database: &str, writer: u64) -> bool {
    let newest = manifest::latest_root(&node.engine.store, database).await;
    newest.is_ok_and(|newest| newest.is_some_and(|newest| newest.known.writer == writer))
}

/// Gives all databases in memory to other nodes, and takes no more. Ends when none stays, no node can take one, or this node is to
/// keep its databases after all. After `within` no further attempt begins.
pub async fn drain(node: &Arc<Node>, fleet: &Arc<Fleet>, within: Duration) -> Drained {
    if !fleet.duty.is_draining() {
        fleet.set_draining(true);
    }
    let until = Instant::now() + within;
    let mut moved = 0;
    loop {
        let mut drained = give_all(node, fleet).await;
        moved += drained.moved;
        let is_at_end = drained.staying.is_empty() || !fleet.duty.is_draining() || Instant::now() >= until;
        if is_at_end || heir(fleet, "").is_none() {
            drained.moved = moved;
            return drained;
        }
        sleep(RETRY_EVERY).await;
    }
}

/// Moves databases that are woken here while this node drains, until it ends.
pub async fn watch(node: Arc<Node>, fleet: Arc<Fleet>) {
    loop {
        tokio::select! {
            () = node.until_drained() => return,
            () = fleet.duty.until_draining() => {}
        }
        tokio::select! {
            () = node.until_drained() => return,
            () = sleep(LOOK_EVERY) => {}
        }
        if fleet.duty.is_draining() {
            give_all(&node, &fleet).await;
        }
    }
}

/// Tries to move each database in memory once.
async fn give_all(node: &Arc<Node>, fleet: &Arc<Fleet>) -> Drained {
    let _turn = fleet.duty.turn.lock().await;
    let mut owners: BTreeSet<Box<str>> = BTreeSet::new();
    for tenant in node.tenants.all().filter(|tenant| tenant.database.is_claimed()) {
        let owner = owner_and_branch(tenant.name()).map_or(tenant.name(), |(owner, _)| owner);
        owners.insert(owner.into());
    }
    let attempts = stream::iter(owners).map(async |database| {
        let Some(to) = heir(fleet, &database) else {
            let reason = "no other node of the fleet takes databases".to_owned();
            return Some(Stay { database, reason });
        };
        match move_to(node, fleet, &database, &to.name).await {
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(database = &*database, node = to.name, %error, "failed to move a database to another node");
                let text = error.to_string();
                let reason = text.strip_prefix("ERR ").unwrap_or(&text).to_owned();
                Some(Stay { database, reason })
            }
        }
    });
    let attempts: Vec<Option<Stay>> = attempts.buffer_unordered(MOVED_TOGETHER).collect().await;
    let moved = attempts.iter().filter(|stay| stay.is_none()).count();
    Drained { moved, staying: attempts.into_iter().flatten().collect() }
}

/// The node that takes a database when this one drains.
fn heir(fleet: &Fleet, database: &str) -> Option<Arc<FleetMember>> {
    chosen(database, &fleet.others()).filter(|member| !member.is_draining)
}
