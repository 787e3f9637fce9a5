//! The users of a database: Redis's ACL.
//!
//! 1. A [`User`] has passwords and [`selectors`](selector::Selector). Rules change a copy of it, one after the other;
//!    if one is wrong, none has an effect.
//! 2. [`Acl`] publishes all users of one database as one map. A session keeps its user as [`Permissions`], and looks
//!    for a new one when the *generation* has changed: once a batch.
//! 3. [`User::check`] decides about a request. It knows the row of the command, and nothing of sockets or data.
//! 4. [`stored`] is the text that the database's manifest keeps.
//!
//! Invariants:
//!
//! - A change is published after it is durable, and the generation grows after it is published. So a client that has
//!   been told of a change finds it in force for every command that is sent from then on.
//! - There always is a user `default`.
//! - What the users of one database take is bounded ([`BYTES_MAX`], [`TEXT_BYTES_MAX`]) and charged to the database.

pub mod catalogue;
pub mod denial;
pub mod password;
pub mod permissions;
mod rule_error;
pub mod security_log;
pub mod selector;
mod stored;
#[cfg(test)]
mod tests;
pub mod user;
pub mod user_token;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use self::catalogue::Catalogue;
use self::password::PasswordHash;
use self::permissions::Permissions;
use self::security_log::{Denied, Growth, SecurityLog};
use self::user::{DEFAULT_USER, User};
use crate::account::Account;

/// By name.
pub type Users = BTreeMap<Box<[u8]>, Arc<User>>;

/// Bytes of memory that the users of one database may take.
pub const BYTES_MAX: usize = 1 << 20;
/// Bytes of their text, which is in every manifest of the database.
pub const TEXT_BYTES_MAX: usize = 256 << 10;

/// The limit that users of one database exceed, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge(pub usize);

/// The users of one database.
#[derive(Debug)]
pub struct Acl {
    pub catalogue: &'static Catalogue,
    users: ArcSwap<Users>,
    /// Grows with each change.
    generation: AtomicU64,
    identities: AtomicU64,
    pub log: SecurityLog,
    /// Where their memory is charged, and how much of it.
    account: Arc<Account>,
    charged: Mutex<usize>,
}

impl Acl {
    /// Creates the users that a manifest keeps; without any, there is `default` with all rights.
    pub fn new(database: &str, catalogue: &'static Catalogue, stored: Option<&str>, account: &Arc<Account>) -> Self {
        let acl = Self {
            catalogue,
            users: ArcSwap::default(),
            generation: AtomicU64::new(0),
            identities: AtomicU64::new(0),
            log: SecurityLog::default(),
            account: Arc::clone(account),
            charged: Mutex::new(0),
        };
        acl.adopt(database, stored);
        acl
    }

    /// Replaces all users by those that a manifest keeps.
    pub fn adopt(&self, database: &str, stored: Option<&str>) {
        let users = match stored {
            Some(text) => {
                let (users, problems) = stored::decode(text, self.catalogue, || self.new_identity());
                for problem in problems {
                    tracing::error!(database, problem, "a user in the manifest cannot be read: it is disabled");
                }
                users
            }
            None => {
                let mut default = User::new(DEFAULT_USER, self.new_identity(), self.catalogue);
                for rule in ["on", "nopass", "~*", "&*", "+@all"] {
                    default.apply(rule.as_bytes(), self.catalogue).expect("each is a rule");
                }
                BTreeMap::from([(default.name.clone(), Arc::new(default))])
            }
        };
        self.publish(users);
    }

    fn new_identity(&self) -> u64 {
        self.identities.fetch_add(1, Ordering::Relaxed)
    }

    /// A user that no database has yet.
    pub fn new_user(&self, name: &[u8]) -> User {
        User::new(name, self.new_identity(), self.catalogue)
    }

    pub fn users(&self) -> Arc<Users> {
        self.users.load_full()
    }

    pub fn user(&self, name: &[u8]) -> Option<Arc<User>> {
        self.users.load().get(name).cloned()
    }

    pub fn default_user(&self) -> Arc<User> {
        Arc::clone(&self.users.load()[DEFAULT_USER])
    }

    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The permissions of a connection of `user`.
    pub fn permissions(&self, user: &Arc<User>) -> Permissions {
        // Read before the users, so a change in between is looked for again.
        let generation = self.generation();
        let now = self.user(&user.name).filter(|now| now.identity == user.identity);
        Permissions::new(now.unwrap_or_else(|| Arc::clone(user)), generation)
    }

    /// The permissions of the operator.
    pub fn permissions_of_operator(&self) -> Permissions {
        Permissions::of_operator(self.default_user(), self.generation())
    }

    /// Brings permissions up to date; `None` if their user was deleted.
    pub fn renewed(&self, permissions: &Permissions) -> Option<Permissions> {
        if permissions.is_operator() {
            return Some(self.permissions_of_operator());
        }
        let generation = self.generation();
        let user = self.user(&permissions.user().name)?;
        let is_same = user.identity == permissions.user().identity;
        is_same.then(|| Permissions::new(user, generation).within(permissions.bound().cloned()))
    }

    /// Returns the user with this name and password, if it is enabled. `takes_any`: whether any password is right for a
    /// user with `nopass`. The password is hashed even if there is no such user.
    pub fn authenticate(&self, name: &[u8], password: &[u8], takes_any: bool) -> Option<Arc<User>> {
        let hash = PasswordHash::of(password);
        let user = self.user(name)?;
        let is_right = user.is_nopass && takes_any || user.has_password(hash);
        (user.is_enabled && is_right).then_some(user)
    }

    /// Whether a new connection is `default` without a password.
    pub fn admits_anyone(&self) -> bool {
        let default = self.default_user();
        default.is_enabled && default.is_nopass
    }

    /// Logs a denial, keeping at most `kept` entries.
    pub fn note(&self, denied: Denied<'_>, client: String, now_ms: u64, kept: usize) {
        self.charge_log(|log| log.note(denied, client, now_ms, kept));
    }

    pub fn clear_log(&self) {
        self.charge_log(SecurityLog::clear);
    }

    /// Drops entries of the log beyond `kept`.
    pub fn truncate_log(&self, kept: usize) {
        self.charge_log(|log| log.truncate(kept));
    }

    /// Charges what a change of the log keeps.
    fn charge_log(&self, change: impl FnOnce(&SecurityLog) -> Growth) {
        let Growth { taken, given } = change(&self.log);
        self.account.take_anyway(taken);
        self.account.give(given);
    }

    /// Returns the text that a manifest keeps of these users.
    ///
    /// # Errors
    /// When they exceed a limit.
    pub fn text_of(users: &Users) -> Result<Arc<str>, TooLarge> {
        if bytes_of(users) > BYTES_MAX {
            return Err(TooLarge(BYTES_MAX));
        }
        let text = stored::encode(users);
        if text.len() > TEXT_BYTES_MAX { Err(TooLarge(TEXT_BYTES_MAX)) } else { Ok(text.into()) }
    }

    /// Publishes users that are durable.
    pub fn publish(&self, users: Users) {
        {
            let mut charged = self.charged.lock();
            // The users of a new database are not its tenant's doing.
            let bytes = if users.values().all(|user| user.is_initial()) { 0 } else { bytes_of(&users) };
            self.account.take_anyway(bytes);
            self.account.give(std::mem::replace(&mut *charged, bytes));
        }
        self.users.store(Arc::new(users));
        self.generation.fetch_add(1, Ordering::AcqRel);
    }
}

fn bytes_of(users: &Users) -> usize {
    users.values().map(|user| user.bytes()).sum()
}
