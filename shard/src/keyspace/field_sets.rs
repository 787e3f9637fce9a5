//! Names of fields that a connection, or a script, has given ahead of the hashes that will have them: see `HIMPORT`.
//!
//! Those of a connection are bound to its commands one by one. A script has sets of its own, which end with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Keyspace;
use crate::error::{Error, Result};

/// Most bytes of all sets of a connection, or of a script.
pub const BYTES_MAX: usize = 4 << 20;
/// Overhead of a set and of a field, in bytes.
const OVERHEAD: usize = 64;

/// The names of fields, in the order of their values.
#[derive(Debug, PartialEq, Eq)]
pub struct FieldSet {
    fields: Box<[Box<[u8]>]>,
    bytes: usize,
}

impl FieldSet {
    /// # Errors
    /// When a name stands twice.
    pub fn new<'n>(names: impl ExactSizeIterator<Item = &'n [u8]> + Clone) -> Result<Self> {
        let mut different = BTreeSet::new();
        if !names.clone().all(|name| different.insert(name)) {
            return Err(Error::text("ERR duplicate field name in fieldset"));
        }
        let bytes = names.clone().map(|name| name.len() + OVERHEAD).sum();
        Ok(Self { fields: names.map(Box::from).collect(), bytes })
    }

    pub fn fields(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.fields.iter().map(|field| &**field)
    }

    pub fn len(&self) -> usize {
        self.fields.len()
    }

    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The sets of a connection or a script, by name.
#[derive(Debug, Clone, Default)]
pub struct FieldSets {
    by_name: BTreeMap<Box<[u8]>, Arc<FieldSet>>,
    bytes: usize,
}

impl FieldSets {
    pub fn get(&self, name: &[u8]) -> Option<&Arc<FieldSet>> {
        self.by_name.get(name)
    }

    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a set, in place of one of the same name.
    ///
    /// # Errors
    /// When they would take more than [`BYTES_MAX`] together.
    pub fn add(&mut self, name: &[u8], set: FieldSet) -> Result<()> {
        let before = self.by_name.get(name).map_or(0, |before| bytes_of(name, before));
        let after = self.bytes - before + bytes_of(name, &set);
        if after > BYTES_MAX {
            let text = format!("ERR the fieldsets of a connection may take at most {BYTES_MAX} bytes");
            return Err(Error::Text(text.into()));
        }
        self.bytes = after;
        self.by_name.insert(name.into(), Arc::new(set));
        Ok(())
    }

    /// Removes a set. Returns whether there was one of this name.
    pub fn remove(&mut self, name: &[u8]) -> bool {
        let removed = self.by_name.remove(name);
        self.bytes -= removed.as_ref().map_or(0, |set| bytes_of(name, set));
        removed.is_some()
    }

    /// Removes all of them. Returns how many there were.
    pub fn clear(&mut self) -> usize {
        self.bytes = 0;
        std::mem::take(&mut self.by_name).len()
    }
}

fn bytes_of(name: &[u8], set: &FieldSet) -> usize {
    name.len() + OVERHEAD + set.bytes
}

impl Keyspace<'_> {
    /// Binds the set that the next command names, if its connection has one of that name.
    pub fn bind_fields(&mut self, set: Option<Arc<FieldSet>>) {
        self.bound_fields = set;
    }

    /// The set that a command names.
    pub fn field_set(&self, name: &[u8]) -> Option<Arc<FieldSet>> {
        let of_script = || self.field_sets.as_ref()?.get(name);
        self.bound_fields.as_ref().or_else(of_script).map(Arc::clone)
    }

    /// The sets of the script that runs.
    pub fn field_sets(&mut self) -> &mut FieldSets {
        self.field_sets.get_or_insert_default()
    }

    /// Forgets the sets of a script, which has ended.
    pub fn forget_field_sets(&mut self) {
        self.field_sets = None;
    }
}
