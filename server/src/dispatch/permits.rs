//! Whether the user of a connection may run a request: see [`crate::acl`].
//!
//! A user without restrictions costs one comparison. Patterns of others are compared with the keys of a request on the
//! worker, if that is short, else on the slow lane.

use std::fmt;
use std::sync::Arc;

use dormouse_protocol::{OwnedRequest, Request};
use dormouse_shard::commands::Category;
use dormouse_shard::execution::budget::TURN;
use dormouse_shard::keyspace::scripts::ScriptUser;
use dormouse_shard::waiters::WaitingUser;
use futures::channel::oneshot;

use crate::acl::denial::Denial;
use crate::acl::permissions::Permissions;
use crate::acl::security_log::{DenialContext, Denied};
use crate::acl::user::User;
use crate::clients::Client;
use crate::commands::{TABLE, acl};
use crate::databases::Tenant;
use crate::session::{FrontEnd, Session};
use crate::table::CommandEntry;

/// A request is checked within a batch if it costs at most this much. It has no estimate of its own there.
const CHECKED_IN_BATCH: usize = 64;

impl Session {
    /// Whether a request is surely permitted. If not, it goes the slow way, which finds out and says why.
    #[inline]
    pub(super) fn is_permitted(&self, entry: &CommandEntry, request: Request<'_>) -> bool {
        if self.front == FrontEnd::Http && !entry.is_stateless {
            return false;
        }
        match self.permissions.restricted() {
            None => true,
            Some(user) => self.is_quickly_permitted(user, entry, request),
        }
    }

    #[inline(never)]
    fn is_quickly_permitted(&self, user: &User, entry: &CommandEntry, request: Request<'_>) -> bool {
        let subject = self.tenant.acl.catalogue.get(entry.id);
        // A script's commands are checked where its plan has the user.
        !subject.categories.contains(Category::SCRIPTING)
            && user.cost(request) <= CHECKED_IN_BATCH
            && user.check(subject, request, self.select).is_ok()
    }

    /// Checks a request that sees the logical database `select`.
    ///
    /// # Errors
    /// The denial.
    pub(crate) async fn check(&self, entry: &CommandEntry, request: &OwnedRequest, select: u8) -> Result<(), Denial> {
        match self.permissions.restricted() {
            Some(user) => self.check_as(user, entry, request, select).await,
            None => Ok(()),
        }
    }

    /// The same as another user of the database.
    ///
    /// # Errors
    /// The denial.
    pub(crate) async fn check_as(
        &self,
        user: &Arc<User>,
        entry: &CommandEntry,
        request: &OwnedRequest,
        select: u8,
    ) -> Result<(), Denial> {
        let subject = self.tenant.acl.catalogue.get(entry.id);
        if user.cost(request.as_request()) > TURN {
            let (sender, receiver) = oneshot::channel();
            let (its, user) = (request.clone(), Arc::clone(user));
            // The connection may have ended.
            let check = move |_| _ = sender.send(user.check(subject, its.as_request(), select));
            if self.tenant.database.on_lane(Vec::new(), || true, check).is_ok()
                && let Ok(checked) = receiver.await
            {
                return checked;
            }
        }
        // The lane may be full.
        user.check(subject, request.as_request(), select)
    }

    /// Logs a denial.
    pub(crate) fn note_denial(
        &self,
        denial: Denial,
        entry: &CommandEntry,
        request: Request<'_>,
        origin: DenialContext,
    ) {
        note(&self.client, &self.tenant, &self.permissions.user().name, (denial, entry, request), origin);
    }

    /// The user on whose behalf a command of the table waits, unless no rule of the database applies to it.
    pub(super) fn waiting_user(&self, command: usize) -> Option<Arc<dyn WaitingUser>> {
        let (client, tenant) = (Arc::clone(&self.client), Arc::clone(&self.tenant));
        let permissions = Some(&self.permissions).filter(|permissions| !permissions.is_operator())?.clone();
        Some(Arc::new(WaitingClient { permissions, command, client, tenant }))
    }

    /// The user on whose behalf its scripts run, if their requests must be checked.
    pub(crate) fn script_user(&self) -> Option<Arc<dyn ScriptUser>> {
        let user = Arc::clone(self.permissions.restricted()?);
        Some(Arc::new(Caller { user, client: Arc::clone(&self.client), tenant: Arc::clone(&self.tenant) }))
    }
}

/// The user of a client that waits.
struct WaitingClient {
    permissions: Permissions,
    /// The command's place in the table.
    command: usize,
    client: Arc<Client>,
    tenant: Arc<Tenant>,
}

impl fmt::Debug for WaitingClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WaitingClient")
    }
}

impl WaitingUser for WaitingClient {
    fn denial(&self, request: Request<'_>, select: u8) -> Option<String> {
        let acl = &self.tenant.acl;
        if self.permissions.is_of(acl.generation()) {
            return None;
        }
        // The connection of a user that was deleted is being closed.
        let now = acl.renewed(&self.permissions)?;
        let user = now.restricted()?;
        let subject = acl.catalogue.get(self.command);
        let denial = user.check(subject, request, select).err()?;
        let entry = TABLE.get(self.command);
        note(&self.client, &self.tenant, &user.name, (denial, entry, request), DenialContext::Toplevel);
        Some(denial.reply(&user.name, subject))
    }
}

/// The caller of a script.
struct Caller {
    user: Arc<User>,
    client: Arc<Client>,
    tenant: Arc<Tenant>,
}

impl Caller {
    fn denial(&self, entry: &CommandEntry, request: Request<'_>, select: u8) -> Option<Denial> {
        self.user.check(self.tenant.acl.catalogue.get(entry.id), request, select).err()
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Caller")
    }
}

impl ScriptUser for Caller {
    fn check(&self, request: Request<'_>, select: u8) -> Result<(), String> {
        // Others are refused by the script's own look-up.
        let Ok(entry) = TABLE.resolve(request) else { return Ok(()) };
        let Some(denial) = self.denial(entry, request, select) else { return Ok(()) };
        note(&self.client, &self.tenant, &self.user.name, (denial, entry, request), DenialContext::Lua);
        Err(denial.text(&self.user.name, self.tenant.acl.catalogue.get(entry.id)))
    }

    fn may_run(&self, request: Request<'_>, select: u8) -> bool {
        TABLE.resolve(request).is_ok_and(|entry| self.denial(entry, request, select).is_none())
    }
}

fn note(
    client: &Client,
    tenant: &Tenant,
    user: &[u8],
    (denial, entry, request): (Denial, &CommandEntry, Request<'_>),
    origin: DenialContext,
) {
    if let Some(reason) = denial.reason() {
        let object = denial.argument().map_or(entry.name.as_bytes(), |index| request.arg(index));
        acl::note(client, tenant, Denied { reason, origin, object, user });
    }
}
