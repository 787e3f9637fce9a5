//! The event in the audit log of a request over the admin API.

use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::response::Response;

use crate::audit::{Actor, AuditEvent, AuditResult};
use crate::node::Node;
use crate::peer::Peer;

/// The database and the token that an answer is about, if its request does not name them.
#[derive(Debug, Clone)]
pub struct AuditedMatter {
    pub database: Box<str>,
    pub token: Option<u32>,
}

/// A request before it is answered.
#[derive(Debug)]
pub struct AuditedRequest {
    event: AuditEvent,
    /// Whether it changes something. Others come often: they are counted.
    is_change: bool,
}

impl AuditedRequest {
    /// `path`: the route that it has taken, and the values of its parameters. `None`: there is no audit log, or it needs no
    /// line.
    pub fn of<'p>(
        node: &Node,
        request: &Request,
        path: Option<&str>,
        parameters: impl Iterator<Item = (&'p str, &'p str)>,
    ) -> Option<Self> {
        let path = path?;
        let action = action(request.method(), path)?;
        if !node.audit.is_on() {
            return None;
        }
        // Every connection has an address; an event without one is told all the same.
        let peer = request.extensions().get::<Peer>().cloned().unwrap_or_else(|| Peer::Unix("unknown".into()));
        let actor = if path == "/v1/open" { Actor::Anyone } else { Actor::Admin };
        let mut event = AuditEvent::new((node.engine.clock)(), action, AuditResult::Done, actor, peer);
        event.is_http = true;
        // The name of a node, or that of a database and the id of a token.
        let mut values = parameters.map(|(_, value)| value);
        let first = values.next().map(Into::into);
        match path.starts_with("/v1/nodes") {
            true => event.node = first,
            false => event.database = first,
        }
        event.token = values.next().and_then(|id| id.parse().ok());
        Some(Self { event, is_change: !is_read(request.method()) })
    }

    pub fn is_change(&self) -> bool {
        self.is_change
    }

    /// Tells that the admin token was missing or wrong.
    pub fn denied(mut self, node: &Node) {
        (self.event.actor, self.event.result) = (Actor::Unknown, AuditResult::Refused("wrong-secret"));
        node.audit.note_use(&self.event);
    }

    /// Tells of its end.
    pub fn end(mut self, node: &Node, response: &Response) {
        if let Some(matter) = response.extensions().get::<AuditedMatter>() {
            self.event.database = Some(matter.database.clone());
            self.event.token = matter.token.or(self.event.token);
        }
        self.event.result = result(response.status());
        // Strangers choose how often they are refused.
        if self.is_change && (self.event.actor == Actor::Admin || self.event.result == AuditResult::Done) {
            node.audit.note(&self.event);
        } else {
            node.audit.note_use(&self.event);
        }
    }
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

fn result(status: StatusCode) -> AuditResult {
    if status.is_success() {
        return AuditResult::Done;
    }
    AuditResult::Refused(match status {
        StatusCode::NOT_FOUND => "unknown",
        StatusCode::CONFLICT => "conflict",
        StatusCode::TOO_MANY_REQUESTS => "limit",
        StatusCode::FORBIDDEN => "denied",
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::INTERNAL_SERVER_ERROR => "store",
        _ => "invalid",
    })
}

/// The name of what a request does; `None` for the description of the API, which is for all.
fn action(method: &Method, path: &str) -> Option<&'static str> {
    if is_read(method) {
        return Some(match path {
            "/v1/openapi.json" => return None,
            "/v1/databases" => "database.list",
            "/v1/databases/{name}" => "database.show",
            "/v1/databases/{name}/history" => "database.history",
            "/v1/databases/{name}/tokens" => "token.list",
            "/v1/databases/{name}/triggers" => "trigger.list",
            "/v1/databases/{name}/triggers/{trigger}" => "trigger.show",
            "/v1/databases/{name}/usage" => "database.usage",
            "/v1/databases/{name}/where" => "database.where",
            "/v1/nodes" => "node.list",
            "/v1/nodes/{node}" => "node.show",
            _ => "request",
        });
    }
    Some(match (method, path) {
        (&Method::POST, "/v1/open") => "database.open",
        (&Method::POST, "/v1/databases") => "database.create",
        (&Method::PATCH, "/v1/databases/{name}") => "database.set",
        (&Method::DELETE, "/v1/databases/{name}") => "database.delete",
        (&Method::POST, "/v1/databases/{name}/branches") => "branch.create",
        (&Method::POST, "/v1/databases/{name}/claim") => "database.claim",
        (&Method::POST, "/v1/databases/{name}/move") => "database.move",
        (&Method::POST, "/v1/databases/{name}/sleep") => "database.sleep",
        (&Method::POST, "/v1/databases/{name}/tokens") => "token.create",
        (&Method::DELETE, "/v1/databases/{name}/tokens/{id}") => "token.revoke",
        (&Method::POST, "/v1/databases/{name}/tokens/{id}/rotate") => "token.rotate",
        (&Method::POST, "/v1/databases/{name}/triggers") => "trigger.create",
        (&Method::DELETE, "/v1/databases/{name}/triggers/{trigger}") => "trigger.delete",
        (&Method::POST, "/v1/databases/{name}/triggers/{trigger}/pause") => "trigger.pause",
        (&Method::POST, "/v1/databases/{name}/triggers/{trigger}/resume") => "trigger.resume",
        (&Method::POST, "/v1/databases/{name}/undelete") => "database.undelete",
        (&Method::POST, "/v1/databases/{name}/wake") => "database.wake",
        (&Method::POST, "/v1/nodes/{node}/drain") => "node.drain",
        (&Method::POST, "/v1/nodes/{node}/resume") => "node.resume",
        _ => "request",
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::ROUTES;
    use super::*;

    #[test]
    fn every_route_has_an_action_of_its_own() {
        let routes = ROUTES.iter().flat_map(|(path, methods)| methods.iter().map(move |method| (*path, *method)));
        let mut actions = BTreeSet::new();
        for (path, method) in routes {
            let method: Method = method.to_uppercase().parse().unwrap();
            match action(&method, path) {
                Some(action) => assert!(action != "request" && actions.insert(action), "{method} {path}: {action}"),
                None => assert_eq!(path, "/v1/openapi.json"),
            }
        }
    }
}
