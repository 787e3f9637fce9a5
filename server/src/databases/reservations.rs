//! Names of databases that are being made or deleted: only the holder of a name's reservation does either.

use std::collections::BTreeSet;
use std::sync::Arc;

use dormouse_shard::error::{Error, Result};
use parking_lot::Mutex;

/// The reserved names. Clones are of the same ones.
#[derive(Clone, Default)]
pub struct Reservations(Arc<Mutex<BTreeSet<String>>>);

/// A reserved name. It is free again when this is dropped.
pub struct Changing {
    reservations: Reservations,
    name: String,
}

impl Reservations {
    /// Reserves `name`, unless it or `owner` is reserved.
    pub(super) fn begin(&self, name: &str, owner: Option<&str>) -> Result<Changing> {
        let mut names = self.0.lock();
        if owner.is_some_and(|owner| names.contains(owner)) || !names.insert(name.to_string()) {
            return Err(Error::text("ERR a database of that name is just being made or deleted"));
        }
        Ok(Changing { reservations: self.clone(), name: name.to_string() })
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.lock().contains(name)
    }

    /// The reserved names with this beginning.
    pub(super) fn beginning_with(&self, begins: &str) -> Vec<Box<str>> {
        let names = self.0.lock();
        names.iter().filter(|name| name.starts_with(begins)).map(|name| name.as_str().into()).collect()
    }
}

impl Drop for Changing {
    fn drop(&mut self) {
        self.reservations.0.lock().remove(&self.name);
    }
}
