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
//! Without tokens, a new connection is `default` of the database `default`, if that user lets anyone in.
//!
//! 1. `dm_shop_PASSWORD` behind the name of a user of `shop` opens `shop` as that user.
//! 2. The name of a user of the database `default`, with a password of his, opens that database as that user.
//! 3. The name of a database opens it as its user `default`, with a password of his if he has one.
//!
//! Invariant: only tokens, and connections to a server without any, give rights beyond the database.

use std::sync::Arc;

use crate::acl::permissions::Permissions;
use crate::acl::user::{DEFAULT_USER, User};
use crate::databases::{ADMIN, Tenant, Tenants, find, find_branch};
use crate::options::{DEFAULT_DATABASE, named_database, named_secret, owner_and_branch};
use crate::rights::Rights;

/// A database that a connection may enter, and as whom.
#[derive(Clone)]
pub struct Entrance {
    pub tenant: Arc<Tenant>,
    pub rights: Rights,
    pub permissions: Permissions,
}

impl Entrance {
    fn of(tenant: Arc<Tenant>, user: &Arc<User>, rights: Rights) -> Self {
        let permissions = tenant.acl.permissions(user);
        Self { tenant, rights, permissions }
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
            Some((tenant, Rights::Node)) => {
                let permissions = tenant.acl.permissions_of_operator();
                Some(Entrance { tenant, rights: Rights::Node, permissions })
            }
            Some((tenant, rights)) => {
                let default = tenant.acl.default_user();
                default.is_enabled.then(|| Entrance::of(tenant, &default, rights))
            }
            None => self.with_token_as(user, presented).or_else(|| self.with_password(user, presented)),
        }
    }

    /// Enters as a user for whom any password is right: on a server with tokens, any token of his database.
    fn with_token_as(&self, user: &[u8], presented: &[u8]) -> Option<Entrance> {
        let (tenant, _) = self.of_token("", presented)?;
        let user = tenant.acl.user(user).filter(|user| user.is_enabled && user.is_nopass)?;
        Some(Entrance::of(tenant, &user, Rights::Branch))
    }

    /// Enters with a user's password, which names the user's database.
    fn with_password(&self, user: &[u8], presented: &[u8]) -> Option<Entrance> {
        let (database, password) = named_secret(presented);
        let tenant = self.find(database)?;
        let user = tenant.acl.authenticate(or_default(user), password, false)?;
        Some(Entrance::of(tenant, &user, Rights::Branch))
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
            return Ok(Entrance::of(default, &user, rights));
        }
        let tenant = std::str::from_utf8(user).ok().and_then(|name| self.find(name)).ok_or(Unopened::Unknown)?;
        let user = tenant.acl.authenticate(DEFAULT_USER, presented, true).ok_or(Unopened::Wrong)?;
        Ok(Entrance::of(tenant, &user, rights))
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
    fn of_token(&self, user: &str, presented: &[u8]) -> Option<(Arc<Tenant>, Rights)> {
        let by_name = self.by_name.load();
        if self.tokens.is_admin(presented) {
            let name = if user == ADMIN { DEFAULT_DATABASE } else { user };
            return find(&by_name, name).map(|tenant| (Arc::clone(tenant), Rights::Node));
        }
        let whole = self.tokens.find(presented);
        let named = named_database(presented).unwrap_or_default();
        let branch = match owner_and_branch(named) {
            Some((owner, branch)) => find_branch(&by_name, owner, branch),
            None => by_name.get(named).filter(|tenant| tenant.is_branch()),
        };
        let inherited = self.tokens.has_secret_of(branch.map_or("", |branch| branch.owner()), presented);
        let (own, rights) = match whole {
            Some(token) if token.is_of_branch() => (branch?, Rights::Branch),
            Some(token) => (by_name.get(token.name())?, Rights::Database),
            None => (branch.filter(|_| inherited)?, Rights::Database),
        };
        let tenant = match user {
            "" | DEFAULT_DATABASE => own,
            user if user == own.name() || user == named => own,
            user if rights == Rights::Database && !own.is_branch() => {
                find(&by_name, user).filter(|tenant| tenant.owner() == own.name())?
            }
            _ => return None,
        };
        Some((Arc::clone(tenant), rights))
    }
}

fn or_default(user: &[u8]) -> &[u8] {
    if user.is_empty() { DEFAULT_USER } else { user }
}
