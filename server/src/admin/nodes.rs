//! The nodes of a fleet over the admin API, and the places of databases.
//!
//! A request for another node, or for a database that another node serves, has been [sent on](super::relay) before it comes here.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use dormouse_coordination::FleetMember;
use serde_json::{Value, json};

use super::asked::{MoveWish, Nothing};
use super::{Answer, Api, body, ok, operations};
use crate::directory::ChangeRefusal;
use crate::fleet::{Fleet, Peering, ServedAt};
use crate::moving;
use crate::node::Node;

/// Time for a drain before its request is answered. It goes on, and the next request waits for it again.
const DRAINED_WITHIN: Duration = Duration::from_secs(60);

const SERVING: &str = "serving";
const DRAINING: &str = "draining";
const DEAD: &str = "dead";

/// `GET /v1/nodes`
pub(super) async fn list(State(api): State<Api>) -> Answer {
    let nodes = api.run(async move |node| {
        let fleet = fleet_of(&node)?;
        let dead = fleet.dead().await.map_err(of_store)?;
        let mut nodes: Vec<(String, Value)> = Vec::new();
        for member in fleet.members().iter() {
            let mut shown = shown_member(&fleet, member);
            shown["here"] = json!(member.name == fleet.name());
            nodes.push((member.name.clone(), shown));
        }
        for (name, _) in dead {
            let mut shown = shown_dead(&name);
            shown["here"] = json!(false);
            nodes.push((name, shown));
        }
        nodes.sort_by(|(left, _), (right, _)| left.cmp(right));
        Ok(nodes.into_iter().map(|(_, shown)| shown).collect::<Vec<_>>())
    });
    ok(&json!({ "nodes": nodes.await? }))
}

/// `GET /v1/nodes/{node}`
pub(super) async fn show(State(api): State<Api>, Path(name): Path<String>) -> Answer {
    let shown = api.run(async move |node| {
        let fleet = fleet_of(&node)?;
        let members = fleet.members();
        let Some(member) = members.named(&name) else { return dead_or_unknown(&fleet, &name).await };
        let mut shown = shown_member(&fleet, member);
        // Another node answers for itself.
        if member.name == fleet.name() {
            let served = || node.tenants.all().filter(|tenant| tenant.database.is_claimed());
            shown["databases_in_memory"] = json!(served().count());
            shown["databases_awake"] = json!(served().filter(|tenant| tenant.database.is_awake()).count());
            shown["lease_left_ms"] = json!(fleet.lease_left_ms());
            shown["adoptions"] = json!(fleet.duty.adoptions.load(Ordering::Relaxed));
            shown["moves"] = json!(fleet.duty.moves.load(Ordering::Relaxed));
        }
        Ok(shown)
    });
    ok(&shown.await?)
}

/// `POST /v1/nodes/{node}/drain`
pub(super) async fn drain(State(api): State<Api>, Path(name): Path<String>, request: Body) -> Answer {
    let Nothing {} = body(request).await?;
    let of = name.clone();
    let drained = api.run(async move |node| {
        let fleet = own_fleet(&node, &of).await?;
        Ok(moving::drain(&node, &fleet, DRAINED_WITHIN).await)
    });
    let drained = drained.await?;
    let staying = drained.staying.iter();
    let staying: Vec<Value> =
        staying.map(|stay| json!({ "database": &*stay.database, "reason": &*stay.reason })).collect();
    ok(&json!({ "name": name, "state": DRAINING, "moved": drained.moved, "staying": staying }))
}

/// `POST /v1/nodes/{node}/resume`
pub(super) async fn resume(State(api): State<Api>, Path(name): Path<String>, request: Body) -> Answer {
    let Nothing {} = body(request).await?;
    let of = name.clone();
    api.run(async move |node| {
        own_fleet(&node, &of).await?.set_draining(false);
        Ok(())
    })
    .await?;
    ok(&json!({ "name": name, "state": SERVING }))
}

/// `GET /v1/databases/{name}/where`
pub(super) async fn place(State(api): State<Api>, Path(name): Path<String>) -> Answer {
    let shown = api.run(async move |node| {
        let fleet = fleet_of(&node)?;
        if !node.tenants.is_known(&name) {
            return Err(operations::unknown(&name));
        }
        let (peering, awake) = match fleet.locate(&name).await.map_err(operations::of_engine)? {
            ServedAt::There(other) => (Some((*other).clone()), Value::Null),
            ServedAt::Here => {
                let served = node.tenants.of_name(&name).filter(|tenant| tenant.database.is_claimed());
                let awake = served.is_some_and(|tenant| tenant.database.is_awake());
                (fleet.members().named(fleet.name()).map(|member| Peering::from(&**member)), json!(awake))
            }
        };
        let here = !awake.is_null();
        // Without its lease, this node is no member.
        let on = peering.as_ref().map_or(fleet.name(), |peering| &peering.name);
        Ok(json!({
            "database": name,
            "node": on,
            "address": peering.as_ref().map(|peering| &peering.address),
            "http_address": peering.as_ref().and_then(|peering| peering.http.as_ref()),
            "here": here,
            "awake": awake,
        }))
    });
    ok(&shown.await?)
}

/// `POST /v1/databases/{name}/move`
pub(super) async fn move_database(State(api): State<Api>, Path(name): Path<String>, request: Body) -> Answer {
    let MoveWish { node: to } = body(request).await?;
    let (of, target) = (name.clone(), to.clone());
    let moved = api.run(async move |node| {
        let fleet = fleet_of(&node)?;
        if !node.tenants.is_known(&of) {
            return Err(operations::unknown(&of));
        }
        let members = fleet.members();
        let Some(member) = members.named(&target) else { return Err(no_node(&target)) };
        if member.is_draining && member.name != fleet.name() {
            return Err(ChangeRefusal::Conflict(format!("node {target} is draining: it takes no databases")));
        }
        moving::move_to(&node, &fleet, &of, &target).await.map_err(operations::of_engine)
    });
    ok(&json!({ "database": name, "node": to, "moved": moved.await? }))
}

fn fleet_of(node: &Node) -> Result<Arc<Fleet>, ChangeRefusal> {
    let text = "this server is not a node of a fleet: start it with --cluster";
    node.fleet.get().cloned().ok_or_else(|| ChangeRefusal::Conflict(text.to_owned()))
}

/// The fleet, if this node has that name.
async fn own_fleet(node: &Node, name: &str) -> Result<Arc<Fleet>, ChangeRefusal> {
    let fleet = fleet_of(node)?;
    if fleet.name() == name {
        return Ok(fleet);
    }
    dead_or_unknown(&fleet, name).await?;
    Err(ChangeRefusal::Conflict(format!("node {name} is dead: other nodes take its databases over")))
}

async fn dead_or_unknown(fleet: &Fleet, name: &str) -> Result<Value, ChangeRefusal> {
    let dead = fleet.dead().await.map_err(of_store)?;
    let found = dead.iter().find(|(dead, _)| dead == name);
    found.map(|(name, _)| shown_dead(name)).ok_or_else(|| no_node(name))
}

fn shown_member(fleet: &Fleet, member: &FleetMember) -> Value {
    // The coordinator may have to be told yet.
    let is_draining = if member.name == fleet.name() { fleet.duty.is_draining() } else { member.is_draining };
    json!({
        "name": member.name,
        "state": if is_draining { DRAINING } else { SERVING },
        "address": member.advertise,
        "http_address": member.http,
        "zone": member.zone,
        "version": member.version,
    })
}

fn shown_dead(name: &str) -> Value {
    json!({ "name": name, "state": DEAD, "address": null, "http_address": null, "zone": null, "version": null })
}

fn no_node(name: &str) -> ChangeRefusal {
    ChangeRefusal::Unknown(format!("the fleet has no node `{}`", name.escape_default()))
}

fn of_store(error: impl std::fmt::Display) -> ChangeRefusal {
    ChangeRefusal::Store(format!("the records of the nodes cannot be read: {error}"))
}
