//! What the audit log is told of a session: its logins, and the commands that administer its database or the server.

use dormouse_shard::commands::{Flags, Row};

use super::{FrontEnd, Session};
use crate::audit::{Actor, AuditEvent, AuditLog, AuditResult};

/// A command that the audit log is told of when it ends, or is given up.
#[must_use]
pub struct AuditedCommand {
    log: AuditLog,
    event: Option<AuditEvent>,
}

impl AuditedCommand {
    /// Tells of its end. `about`: the database that it was about, if that is not its session's.
    pub fn end(mut self, reply: &[u8], about: Option<Box<str>>) {
        if let Some(event) = &mut self.event {
            event.result = match reply.first() {
                Some(b'-') if reply.starts_with(b"-NOPERM") => AuditResult::Refused("denied"),
                Some(b'-') => AuditResult::Refused("error"),
                _ => AuditResult::Done,
            };
            event.database = about.or(event.database.take());
        }
    }

    /// Tells that the client may not run it.
    pub fn denied(mut self) {
        if let Some(event) = &mut self.event {
            event.result = AuditResult::Refused("denied");
        }
    }

    /// It does not run now.
    pub fn forget(mut self) {
        self.event = None;
    }
}

impl Drop for AuditedCommand {
    fn drop(&mut self) {
        self.event.iter().for_each(|event| self.log.note_use(event));
    }
}

impl Session {
    /// Tells the audit log that the client has shown a secret, if it could be read, and why that has opened nothing.
    pub fn audit_login(&self, secret: Option<&[u8]>, refused: Option<&'static str>) {
        let log = &self.node.audit;
        if !log.is_on() {
            return;
        }
        let (actor, result, database) = match refused {
            None => (self.actor(), AuditResult::Done, Some(self.tenant.name().into())),
            Some(reason) => {
                let aimed_at = secret.and_then(|secret| self.node.tenants.aimed_at(secret));
                (Actor::Unknown, AuditResult::Refused(reason), aimed_at.map(|tenant| tenant.name().into()))
            }
        };
        log.note_use(&AuditEvent { database, ..self.event("login", result, actor) });
    }

    /// Begins to watch a command for the audit log, if it is one that administers. `name`: its whole name.
    pub fn audited(&mut self, name: &'static str, row: &Row) -> Option<AuditedCommand> {
        if !self.node.audit.is_on() || !self.authenticated || !row.flags.contains(Flags::ADMIN) {
            return None;
        }
        let event = AuditEvent {
            database: Some(self.tenant.name().into()),
            ..self.event(name, AuditResult::Refused("unfinished"), self.actor())
        };
        self.about = None;
        Some(AuditedCommand { log: self.node.audit.clone(), event: Some(event) })
    }

    fn actor(&self) -> Actor {
        Actor::of(&self.client.told.lock())
    }

    fn event(&self, action: &'static str, result: AuditResult, actor: Actor) -> AuditEvent {
        let now_ms = (self.node.engine.clock)();
        let peer = self.client.peer();
        AuditEvent {
            is_http: self.front != FrontEnd::Resp,
            client: Some(self.client.id),
            certificate: self.client.told.lock().certificate.clone(),
            ..AuditEvent::new(now_ms, action, result, actor, peer)
        }
    }
}
