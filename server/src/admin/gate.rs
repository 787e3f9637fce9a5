//! Who may see what concerns all databases: `/metrics`, and the problems in `/readyz`.

use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;

use super::failure;
use crate::audit::{Actor, AuditEvent, AuditLog, AuditResult};
use crate::node::Node;
use crate::options::MetricsAccess;
use crate::peer::Peer;
use crate::strangers::Neighbourhood;

pub struct MetricsGate {
    node: Arc<Node>,
    access: MetricsAccess,
}

/// Why a request does not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateRefusal {
    /// Its token is missing or wrong.
    Unauthorized,
    /// There is no token that would open it.
    Closed,
}

impl MetricsGate {
    pub fn new(node: &Arc<Node>, access: MetricsAccess) -> Self {
        Self { node: Arc::clone(node), access }
    }

    /// The audit log of the server.
    pub fn audit(&self) -> AuditLog {
        self.node.audit.clone()
    }

    /// # Errors
    /// When the request does not show the right token. After many wrong ones, an address waits before each further one is
    /// checked.
    pub async fn pass(&self, headers: &HeaderMap, peer: &Peer) -> Result<(), GateRefusal> {
        let (node, tenants) = (&self.node, &self.node.tenants);
        let token = match &self.access {
            MetricsAccess::Everyone => return Ok(()),
            MetricsAccess::AsDatabases if !tenants.needs_token() => return Ok(()),
            MetricsAccess::AsDatabases if !tenants.has_admin() => return Err(GateRefusal::Closed),
            MetricsAccess::AsDatabases => None,
            MetricsAccess::Token(token) => Some(token),
        };
        let Some(presented) = bearer(headers) else { return Err(GateRefusal::Unauthorized) };
        let (origin, now_ms) = (Neighbourhood::of(peer), || (node.engine.clock)());
        tokio::time::sleep(node.guesses.wait(origin, now_ms())).await;
        let (is_metrics, is_admin) = (token.is_some_and(|token| token.matches(presented)), tenants.is_admin(presented));
        let (actor, result) = match (is_metrics, is_admin) {
            (true, _) => (Actor::MetricsToken, AuditResult::Done),
            (false, true) => (Actor::Admin, AuditResult::Done),
            (false, false) => (Actor::Unknown, AuditResult::Refused("wrong-secret")),
        };
        if node.audit.is_on() {
            let event = AuditEvent::new(now_ms(), "metrics", result, actor, peer.clone());
            node.audit.note_use(&AuditEvent { is_http: true, ..event });
        }
        if is_metrics || is_admin {
            return Ok(());
        }
        tokio::time::sleep(node.guesses.note(origin, 1, now_ms())).await;
        Err(GateRefusal::Unauthorized)
    }
}

impl GateRefusal {
    pub fn response(self) -> Response {
        match self {
            Self::Unauthorized => unauthorized("the token for metrics is missing or wrong"),
            Self::Closed => {
                let text = "metrics name every database: set DORMOUSE_METRICS_TOKEN or --metrics-token to a token that \
                            shows them, or to none to show them to everyone";
                failure(StatusCode::FORBIDDEN, text)
            }
        }
    }
}

pub fn unauthorized(message: &str) -> Response {
    let mut response = failure(StatusCode::UNAUTHORIZED, message);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    response
}

/// The token that a request shows, if it shows exactly one.
pub fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut shown = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (shown.next(), shown.next()) else { return None };
    let (scheme, token) = value.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
}
