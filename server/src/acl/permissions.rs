//! The permissions of one connection.

use std::sync::Arc;

use super::user::User;

/// The user of a connection, as of a generation of its database's users.
#[derive(Clone, Debug)]
pub struct Permissions {
    user: Arc<User>,
    /// The same user, if requests must be checked. A batch looks at nothing else.
    restricted: Option<Arc<User>>,
    /// It has shown the admin token: no rule of a database applies to it.
    is_operator: bool,
    /// The permissions of its token, unless it permits everything.
    bound: Option<Arc<User>>,
    generation: u64,
}

impl Permissions {
    pub fn new(user: Arc<User>, generation: u64) -> Self {
        let restricted = (!user.is_unrestricted()).then(|| Arc::clone(&user));
        Self { user, restricted, is_operator: false, bound: None, generation }
    }

    /// The same, with what a token permits.
    pub fn within(self, bound: Option<Arc<User>>) -> Self {
        let Some(bound) = bound else { return self };
        let user = Arc::new(self.user.within(Arc::clone(&bound)));
        Self { bound: Some(bound), ..Self::new(user, self.generation) }
    }

    pub fn bound(&self) -> Option<&Arc<User>> {
        self.bound.as_ref()
    }

    /// Those of the operator, who is shown as `user`.
    pub fn of_operator(user: Arc<User>, generation: u64) -> Self {
        Self { user, restricted: None, is_operator: true, bound: None, generation }
    }

    pub fn user(&self) -> &Arc<User> {
        &self.user
    }

    pub fn is_operator(&self) -> bool {
        self.is_operator
    }

    /// The user whose rules every request must be checked against; `None`: everything is permitted.
    #[inline]
    pub fn restricted(&self) -> Option<&Arc<User>> {
        self.restricted.as_ref()
    }

    #[inline]
    pub fn is_of(&self, generation: u64) -> bool {
        self.generation == generation
    }
}
