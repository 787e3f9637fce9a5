//! The conditions of the node and its databases, gathered for a reply: one text for each condition, the same in
//! `/readyz`, `INFO`, `DORMOUSE DATABASES` and replies.

use dormouse_shard::error::{Error, Result};
use dormouse_shard::health::{Condition, ConditionKind, Health};

use crate::databases::Tenant;
use crate::node::Node;

/// Conditions of the node itself, which concern all of its databases.
pub fn of_node(node: &Node) -> Vec<Condition> {
    let mut conditions = node.engine.health.conditions();
    let log = node.engine.log.as_ref();
    if let Some((log, problem)) = log.and_then(|log| Some((log, log.problem()?))) {
        let kind = match (log.is_sealed(), problem.ends_with(dormouse_storage::store::FULL)) {
            (true, _) => ConditionKind::TakenOver,
            (false, true) => ConditionKind::Full,
            (false, false) => ConditionKind::Store,
        };
        if conditions.iter().all(|known| known.kind != kind) {
            conditions.push(Condition { kind, what: format!("the log cannot be written: {problem}") });
        }
    }
    conditions
}

/// Conditions that one database's clients see: those of the node and of that database.
pub fn told_to(node: &Node, tenant: &Tenant) -> Vec<(ConditionKind, String)> {
    let of_node = of_node(node).into_iter().map(|condition| (condition.kind, condition.told(None)));
    of_node.chain(told_of(tenant)).collect()
}

/// Conditions of one database.
pub fn told_of(tenant: &Tenant) -> Vec<(ConditionKind, String)> {
    let conditions = tenant.database.health.conditions();
    conditions.into_iter().map(|condition| (condition.kind, condition.told(Some(tenant.name())))).collect()
}

/// Reasons why the node should get no traffic: every serious condition of the node and of every database.
pub fn reasons(node: &Node) -> Vec<String> {
    let of_node = of_node(node).into_iter().map(|condition| (condition.kind, condition.told(None)));
    let of_databases = node.tenants.all().flat_map(|tenant| told_of(&tenant));
    let mut reasons: Vec<String> = Vec::new();
    for (_, text) in of_node.chain(of_databases).filter(|(kind, _)| kind.is_serious()) {
        // A takeover has the same text for every database.
        if !reasons.contains(&text) {
            reasons.push(text);
        }
    }
    reasons
}

/// One word for a database: its condition if it has one, or else whether it is awake.
pub fn state(tenant: &Tenant) -> &'static str {
    let is_awake = tenant.database.is_awake();
    tenant.database.health.state().unwrap_or(if is_awake { "awake" } else { "asleep" })
}

/// Checks the outcome of a command that promises that a database is saved. Unreadable data is an error even if all
/// changes were written.
///
/// # Errors
/// The failure, or the condition of the database.
pub fn saved<T>(tenant: &Tenant, outcome: Result<T>) -> Result<()> {
    outcome?;
    match told_of(tenant).into_iter().find(|(kind, _)| kind.is_serious()) {
        Some((_, text)) => Err(Error::Store(text)),
        None => Ok(()),
    }
}

/// Notes the store's answer to a request that concerns no single database.
pub fn remember(health: &Health, outcome: &Result<()>) {
    match outcome {
        Ok(()) => {
            health.resolve(ConditionKind::Store);
            health.resolve(ConditionKind::Full);
        }
        Err(error) => {
            let kind = if error.is_full() { ConditionKind::Full } else { ConditionKind::Store };
            health.report(kind, error.detail());
        }
    }
}
