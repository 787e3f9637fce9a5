//! Turns of names: one caller makes, opens or releases the database of a name, and the others wait.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard};

/// Names whose turn is taken or waited for.
#[derive(Default)]
pub(super) struct NameTurns(Mutex<HashMap<Box<str>, Arc<AsyncMutex<()>>>>);

/// The turn of a name. When the last holder drops it, it is forgotten.
pub(super) struct NameTurn<'a> {
    turns: &'a NameTurns,
    name: Box<str>,
    turn: Arc<AsyncMutex<()>>,
}

impl NameTurns {
    pub fn of(&self, name: &str) -> NameTurn<'_> {
        let turn = Arc::clone(self.0.lock().entry(name.into()).or_default());
        NameTurn { turns: self, name: name.into(), turn }
    }
}

impl NameTurn<'_> {
    /// Waits for the turn. It is over when the result is dropped.
    pub async fn come(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }
}

impl Drop for NameTurn<'_> {
    fn drop(&mut self) {
        let mut turns = self.turns.0.lock();
        // The map's and this one: none else can take it while the map is locked.
        if Arc::strong_count(&self.turn) == 2 {
            turns.remove(&self.name);
        }
    }
}
