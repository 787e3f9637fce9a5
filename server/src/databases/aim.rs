//! The database that a login leads to, before any database is opened for it.
//!
//! Logins themselves are in [`super::login`]. This finds out only where a login has to be decided, from the tokens and the
//! directory:
//!
//! - A token is compared here. A wrong one leads nowhere, so no other node hears of it.
//! - A password is kept with its database. Such a login leads to the database that it names, whether the password is right
//!   or not.
//!
//! The admin token behind `admin` is for the node itself and leads nowhere either.

use super::{ADMIN, Tenants};
use crate::options::{DEFAULT_DATABASE, named_database, named_secret, owner_and_branch};

/// Where a login has to be decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginAim {
    /// On this node: it opens nothing, or the node itself.
    Nowhere,
    /// Where this database is served. The secret is a right token.
    Token(Box<str>),
    /// Where this database is served. The secret may be a password of one of its users.
    Password(Box<str>),
}

impl Tenants {
    /// Returns where `AUTH user presented` has to be decided; an empty user means none. Every token is compared, whatever is
    /// presented.
    pub fn aim(&self, user: &[u8], presented: &[u8]) -> LoginAim {
        let name = std::str::from_utf8(user).unwrap_or_default();
        match self.needs_token() {
            true => self.aim_of_token(name, presented).unwrap_or_else(|| self.aim_of_password(user, presented)),
            false => self.aim_without_token(user, name, presented),
        }
    }

    /// The same, with what other nodes of a fleet have made by now: a token may be used on any node as soon as it was made.
    pub async fn aim_with_news(&self, user: &[u8], presented: &[u8]) -> LoginAim {
        let aim = self.aim(user, presented);
        let is_of_database = named_database(presented).is_some() && user != ADMIN.as_bytes();
        if aim != LoginAim::Nowhere || !is_of_database || !self.directory.is_shared() {
            return aim;
        }
        self.directory.refresh().await;
        self.aim(user, presented)
    }

    /// `None`: it is no right token.
    fn aim_of_token(&self, user: &str, presented: &[u8]) -> Option<LoginAim> {
        let granted = self.granted(presented);
        let whole = self.tokens.find(presented);
        let named = named_database(presented).unwrap_or_default();
        let owner = self.owner_of(named).unwrap_or_default();
        let inherited = self.tokens.with_secret_of(&owner, presented);
        if self.tokens.is_admin(presented) {
            let is_of_database = user != ADMIN && self.is_enterable(user);
            return Some(if is_of_database { LoginAim::Token(user.into()) } else { LoginAim::Nowhere });
        }
        let own = match (whole, granted, inherited) {
            (Some(token), ..) => token.name(),
            (None, None, None) => return None,
            (None, ..) => named,
        };
        if !self.is_enterable(own) {
            return Some(LoginAim::Nowhere);
        }
        // Behind the name of a branch it leads there.
        let branch = Some(user).filter(|user| self.owner_of(user).as_deref() == Some(own) && self.is_enterable(user));
        Some(LoginAim::Token(branch.unwrap_or(own).into()))
    }

    fn aim_of_password(&self, user: &[u8], presented: &[u8]) -> LoginAim {
        let database = named_secret(presented).0;
        match !user.is_empty() && self.is_enterable(database) {
            true => LoginAim::Password(database.into()),
            false => LoginAim::Nowhere,
        }
    }

    fn aim_without_token(&self, user: &[u8], name: &str, presented: &[u8]) -> LoginAim {
        let named = named_database(presented).filter(|named| self.is_enterable(named));
        let of_user = || {
            let is_of_default = user.is_empty() || self.default().acl.user(user).is_some();
            if is_of_default || !self.is_enterable(name) { DEFAULT_DATABASE } else { name }
        };
        LoginAim::Password(named.unwrap_or_else(of_user).into())
    }

    /// Whether a login can lead to a database of this name.
    fn is_enterable(&self, name: &str) -> bool {
        self.is_named(name) || self.has_name(name)
    }

    /// The database that a branch belongs to.
    fn owner_of(&self, name: &str) -> Option<Box<str>> {
        match owner_and_branch(name) {
            Some((owner, _)) => Some(owner.into()),
            None => self.directory.find(name).and_then(|record| record.owner),
        }
    }
}
