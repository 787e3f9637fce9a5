//! Branches: each must stay as it was made, whatever becomes of its source.

use std::collections::BTreeMap;

use crate::clock;
use crate::model::Model;

/// The branches by name, each with the states of its source that it may show: those since the request for it.
#[derive(Debug, Default)]
pub struct Branches(BTreeMap<String, Vec<Model>>);

impl Branches {
    pub fn add(&mut self, name: String, states: Vec<Model>) {
        self.0.insert(name, states);
    }

    pub fn names(&self) -> impl Iterator<Item = String> {
        self.0.keys().cloned()
    }

    /// Forgets a branch that is about to be deleted.
    pub fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Checks that a branch shows one of its possible states. From here on, it must always show that one.
    ///
    /// # Errors
    /// The difference, if it shows none of them.
    pub fn check(&mut self, name: &str, found: &Model) -> Result<(), String> {
        let Some(states) = self.0.get_mut(name) else { return Ok(()) };
        let now_ms = clock::now_ms();
        let found = &found.alive(now_ms);
        let closest = states.first().map(|state| state.alive(now_ms)).unwrap_or_default();
        states.retain(|state| state.alive(now_ms) == *found);
        if !states.is_empty() {
            return Ok(());
        }
        let keys = closest.keys.keys().chain(found.keys.keys());
        let wrong: Vec<_> = keys.filter(|key| closest.keys.get(*key) != found.keys.get(*key)).take(5).collect();
        Err(format!("branch {name} shows no state that its source had: it differs in {wrong:?}"))
    }
}
