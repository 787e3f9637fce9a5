//! Logins: the database and user that a presented name and secret open.
//!
//! On a server with tokens the secret names the database, as a token does: `dm_shop_s3cret` is for `shop`, anything else
//! for `default`. The name, whatever it is, cannot lead to a database that the secret does not open.
//!
//! 1. A token, in any of its forms ([`Tenants::of_token`]), opens its database as the user `default`; the admin token as
//!    the operator, whom no rule restricts.
//! 2. A token behind the name of a user with `nopass` opens its database as that user.
//! 3. `dm_shop_PASSWORD` behind the name of a user of `shop` who has that password opens `shop` as that user.
//!
//! Tokens of the directory ([`crate::directory`]) are such tokens too, but their secrets are known by their hashes only, they
//! may have expired, and their user and bounds are those of [`super::grant`]. One of a user opens the database as that user only.
//!
//! Without tokens, a new connection is `default` of the database `default`, if that user lets anyone in.
//!
//! 1. `dm_shop_PASSWORD` behind the name of a user of `shop` opens `shop` as that user.
//! 2. The name of a user of the database `default`, with a password of his, opens that database as that user.
//! 3. The name of a database opens it as its user `default`, with a password of his if he has one.
//!
//! Invariant: only tokens, and connections to a server without any, give rights beyond the database.

use std::sync::Arc;

use dormouse_storage::directory::{TokenRecord, TokenScope};

use super::grant::{bounds, user_name};
use super::tenants::{find, find_branch};
use crate::acl::permissions::Permissions;
use crate::acl::user::{DEFAULT_USER, User};
use crate::clients::{ShownSecret, TokenUse};
use crate::databases::{ADMIN, Tenant, Tenants};
use crate::directory::secret::{find_token, hash_of};
use crate::options::{DEFAULT_DATABASE, named_database, named_secret, owner_and_branch};
use crate::rights::Rights;

/// A database that a connection may enter, and as whom.
#[derive(Clone)]
pub struct Entrance {
    pub tenant: Arc<Tenant>,
    pub rights: Rights,
    pub permissions: Permissions,
    /// The secret by which it enters, and the token of the directory if it is one.
    pub shown: ShownSecret,
    pub token: Option<TokenUse>,
}

impl Entrance {
    fn of(tenant: Arc<Tenant>, user: &Arc<User>, rights: Rights, shown: ShownSecret) -> Self {
        let permissions = tenant.acl.permissions(user);
        Self { tenant, rights, permissions, shown, token: None }
    }

    /// The same by a token of the directory.
    fn granted(self, granted: Option<Granted>) -> Self {
        let Some(Granted { database, token }) = granted else { return self };
        let bound = bounds(&token, self.tenant.acl.catalogue);
        let token = TokenUse { database, id: token.id, expires_ms: token.expires_ms };
        Self { permissions: self.permissions.within(bound), token: Some(token), ..self }
    }
}

/// A right token of the directory.
pub(super) struct Granted {
    /// The database whose token it is.
    pub database: Box<str>,
    pub token: TokenRecord,
}

/// The database and the rights that a token leads to.
struct Led {
    tenant: Arc<Tenant>,
    rights: Rights,
    shown: ShownSecret,
    granted: Option<Granted>,
}

impl Led {
    /// Enters as the user of the token, if it is enabled.
    fn enter(self) -> Option<Entrance> {
        let name = self.granted.as_ref().map_or(DEFAULT_USER, |granted| user_name(&granted.token));
        let user = self.tenant.acl.user(name).filter(|user| user.is_enabled)?;
        Some(Entrance::of(self.tenant, &user, self.rights, self.shown).granted(self.granted))
    }
}

/// Why a name and a secret open nothing on a server without tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unopened {
    /// The password is wrong, or the user is disabled.
    Wrong,
    /// Neither a user nor a database has the name.
    Unknown,
}

impl Tenants {
    /// Whether a new connection is in the database `default` without a secret.
    pub fn admits_newcomers(&self) -> bool {
        !self.needs_token() && self.default().acl.admits_anyone()
    }

    /// Returns what `AUTH user presented` opens on a server with tokens; an empty user means none. Every token is
    /// compared, whatever is presented.
    pub fn log_in(&self, user: &[u8], presented: &[u8]) -> Option<Entrance> {
        let name = std::str::from_utf8(user).ok();
        match name.and_then(|name| self.of_token(name, presented)) {
            Some(Led { tenant, rights: Rights::Node, .. }) => {
                let permissions = tenant.acl.permissions_of_operator();
                let shown = ShownSecret::AdminToken;
                Some(Entrance { tenant, rights: Rights::Node, permissions, shown, token: None })
            }
            Some(led) => led.enter(),
            None => self.with_token_as(user, presented).or_else(|| self.with_password(user, presented)),
        }
    }

    /// Enters as a user for whom any password is right: on a server with tokens, any token of his database.
    fn with_token_as(&self, user: &[u8], presented: &[u8]) -> Option<Entrance> {
        let led = self.of_token("", presented)?;
        if led.granted.as_ref().is_some_and(|granted| user_name(&granted.token) == user) {
            return led.enter();
        }
        // A token of one user opens nothing as another.
        if led.granted.as_ref().is_some_and(|granted| matches!(granted.token.scope, TokenScope::User(_))) {
            return None;
        }
        let user = led.tenant.acl.user(user).filter(|user| user.is_enabled && user.is_nopass)?;
        Some(Entrance::of(led.tenant, &user, Rights::Branch, led.shown).granted(led.granted))
    }

    /// Enters with a user's password, which names the user's database.
    fn with_password(&self, user: &[u8], presented: &[u8]) -> Option<Entrance> {
        let (database, password) = named_secret(presented);
        let tenant = self.find(database)?;
        let user = tenant.acl.authenticate(or_default(user), password, false)?;
        Some(Entrance::of(tenant, &user, Rights::Branch, ShownSecret::Password))
    }

    /// Returns what `AUTH user presented` opens on a server without tokens, for a connection with these rights.
    ///
    /// # Errors
    /// When it opens nothing.
    pub fn log_in_without_token(&self, user: &[u8], presented: &[u8], rights: Rights) -> Result<Entrance, Unopened> {
        if named_database(presented).is_some()
            && let Some(entrance) = self.with_password(user, presented)
        {
            return Ok(entrance);
        }
        let (default, user) = (self.default(), or_default(user));
        if default.acl.user(user).is_some() {
            let user = default.acl.authenticate(user, presented, true).ok_or(Unopened::Wrong)?;
            let rights = if &*user.name == DEFAULT_USER { rights } else { Rights::Branch };
            return Ok(Entrance::of(default, &user, rights, shown_to(&user)));
        }
        let tenant = std::str::from_utf8(user).ok().and_then(|name| self.find(name)).ok_or(Unopened::Unknown)?;
        let user = tenant.acl.authenticate(DEFAULT_USER, presented, true).ok_or(Unopened::Wrong)?;
        Ok(Entrance::of(tenant, &user, rights, shown_to(&user)))
    }

    /// The database at which a wrong secret was aimed.
    pub fn aimed_at(&self, presented: &[u8]) -> Option<Arc<Tenant>> {
        self.find(named_secret(presented).0)
    }

    /// Returns the database that a token leads to, and the rights there.
    ///
    /// 1. The admin token, behind `admin` or the name of a database.
    /// 2. A token, whole. Behind the name of a branch of its database it leads there.
    /// 3. The secret of a database with the name of one of its branches: `dm_shop.pr-1_s3cret`.
    fn of_token(&self, user: &str, presented: &[u8]) -> Option<Led> {
        let granted = self.granted(presented);
        let open = self.open.read();
        if self.tokens.is_admin(presented) {
            let name = if user == ADMIN { DEFAULT_DATABASE } else { user };
            let tenant = Arc::clone(find(&open, name)?);
            return Some(Led { tenant, rights: Rights::Node, shown: ShownSecret::AdminToken, granted: None });
        }
        let whole = self.tokens.find(presented);
        let named = named_database(presented).unwrap_or_default();
        let branch = match owner_and_branch(named) {
            Some((owner, branch)) => find_branch(&open, owner, branch),
            None => open.get(named).filter(|tenant| tenant.is_branch()),
        };
        let inherited = self.tokens.with_secret_of(branch.map_or("", |branch| branch.owner()), presented);
        let (own, rights) = match (whole, &granted) {
            (Some(token), _) if token.is_of_branch() => (branch?, Rights::Branch),
            (Some(token), _) => (open.get(token.name())?, Rights::Database),
            (None, Some(granted)) => (find(&open, named)?, granted.rights()),
            (None, None) => (branch.filter(|_| inherited.is_some())?, Rights::Database),
        };
        let tenant = match user {
            "" | DEFAULT_DATABASE => own,
            user if user == own.name() || user == named => own,
            user if rights == Rights::Database && !own.is_branch() => {
                find(&open, user).filter(|tenant| tenant.owner() == own.name())?
            }
            _ => return None,
        };
        let granted = granted.filter(|_| whole.is_none());
        let shown = match (&granted, whole.or(inherited)) {
            (None, Some(token)) => ShownSecret::OptionToken(self.tokens.number_of(token)),
            _ => ShownSecret::Token,
        };
        Some(Led { tenant: Arc::clone(tenant), rights, shown, granted })
    }

    /// Returns the token of the directory that was presented, with its own name or with that of a branch of its database.
    /// The tokens of both are compared.
    pub(super) fn granted(&self, presented: &[u8]) -> Option<Granted> {
        if !self.directory.has_tokens() {
            return None;
        }
        let named = named_database(presented)?;
        let hash = hash_of(named_secret(presented).1);
        let (own, owner) = {
            let known = self.directory.known();
            let own = known.find(named);
            let flat = own.as_ref().and_then(|own| own.owner.as_deref());
            let owner = owner_and_branch(named).map(|(owner, _)| owner).or(flat);
            let owner = owner.and_then(|owner| known.find(owner));
            (own, owner)
        };
        let of_own = find_token(own.as_ref(), &hash);
        let of_owner = find_token(owner.as_ref(), &hash);
        let (record, token) = match (of_own, of_owner) {
            (Some(token), _) => (own.as_ref()?, token),
            (None, Some(token)) => (owner.as_ref()?, token),
            (None, None) => return None,
        };
        let is_valid = !token.is_expired((self.opener.engine.clock)());
        is_valid.then(|| Granted { database: record.name.clone(), token: token.clone() })
    }

    /// Whether the token by which a connection has entered is still there.
    pub fn is_granted(&self, token: &TokenUse) -> bool {
        let record = self.directory.find(&token.database);
        let now_ms = (self.opener.engine.clock)();
        record.and_then(|record| record.token(token.id).map(|token| !token.is_expired(now_ms))).unwrap_or(false)
    }
}

impl Granted {
    fn rights(&self) -> Rights {
        let is_plain = self.token.scope == TokenScope::ReadWrite && self.token.prefix.is_empty();
        let is_of_branch = owner_and_branch(&self.database).is_some();
        if is_plain && !is_of_branch { Rights::Database } else { Rights::Branch }
    }
}

/// Credentials by which a client has become this user.
fn shown_to(user: &User) -> ShownSecret {
    if user.is_nopass { ShownSecret::Nothing } else { ShownSecret::Password }
}

fn or_default(user: &[u8]) -> &[u8] {
    if user.is_empty() { DEFAULT_USER } else { user }
}
