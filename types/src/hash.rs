//! Hashes: a listpack of alternating fields and values while small, else a hash table.
//!
//! Redis 7.2's rules: packed up to `hash-max-listpack-entries` fields, none of whose fields and values is longer than
//! `hash-max-listpack-value`. A hash that has once left the packed form does not come back to it.

use super::heap;
use super::item::Item;
use super::listpack::{Listpack, ListpackRef};
use super::{Limits, Malformed};
use crate::entry::{Entry, Field, Form, FormMut, FormRef};
use crate::segment::{HashPlacement, Placement, Table};

type Fields = Table<Field, HashPlacement>;

#[derive(Default)]
pub struct Hash(Form<Listpack, Fields>);

impl Hash {
    pub fn new() -> Self {
        Hash::default()
    }

    /// An empty hash in the form that `fields` fields will need at least, with room for them.
    pub fn with_capacity(fields: usize, limits: &Limits) -> Self {
        let mut hash = Hash::new();
        hash.expect(fields, limits);
        hash
    }

    /// Loads the bytes of [`Hash::packed`], or of Redis, and chooses the form by `limits`.
    pub fn from_listpack(bytes: &[u8], limits: &Limits) -> Result<Self, Malformed> {
        const BAD: Malformed = Malformed("hash");
        let listpack = Listpack::from_bytes(bytes)?;
        let view = listpack.view();
        if !view.len().is_multiple_of(2) || view.has_duplicates(2) {
            return Err(BAD);
        }
        let longest = view.iter().map(Item::len).max().unwrap_or(0);
        let mut hash = Hash(Form::packed(listpack));
        if hash.len() > limits.hash_max_listpack_entries || longest > limits.hash_max_listpack_value {
            hash.table(0, limits);
        }
        Ok(hash)
    }

    pub fn len(&self) -> usize {
        match self.0.view() {
            FormRef::Packed(listpack) => listpack.view().len() / 2,
            FormRef::Large(table) => table.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn encoding(&self) -> &'static str {
        match self.0.view() {
            FormRef::Packed(_) => "listpack",
            FormRef::Large(_) => "hashtable",
        }
    }

    /// The address of its first allocation: only ever prefetched.
    pub(crate) fn address(&self) -> *const u8 {
        self.0.address()
    }

    pub fn heap_bytes(&self) -> usize {
        match self.0.view() {
            FormRef::Packed(listpack) => listpack.heap_bytes(),
            FormRef::Large(table) => heap::allocation(size_of::<Fields>()) + table.heap_bytes(),
        }
    }

    /// The listpack, if the hash is one.
    pub fn packed(&self) -> Option<ListpackRef<'_>> {
        match self.0.view() {
            FormRef::Packed(listpack) => Some(listpack.view()),
            FormRef::Large(_) => None,
        }
    }

    pub fn get(&self, field: &[u8]) -> Option<Item<'_>> {
        match self.0.view() {
            FormRef::Packed(listpack) => {
                let view = listpack.view();
                let at = view.find(view.start(), field, 1)?;
                Some(view.item(view.after(at)))
            }
            FormRef::Large(table) => table.get(field).map(|entry| Item::Bytes(entry.value())),
        }
    }

    pub fn contains(&self, field: &[u8]) -> bool {
        self.get(field).is_some()
    }

    /// Says that `fields` fields are about to be set, so that the form changes at most once.
    pub fn expect(&mut self, fields: usize, limits: &Limits) {
        if let FormRef::Packed(_) = self.0.view()
            && fields > limits.hash_max_listpack_entries
        {
            self.table(fields, limits);
        }
    }

    /// Returns whether the field is new.
    pub fn set(&mut self, field: &[u8], value: &[u8], limits: &Limits) -> bool {
        if let FormMut::Packed(listpack) = self.0.view_mut() {
            let view = listpack.view();
            let short = field.len().max(value.len()) <= limits.hash_max_listpack_value;
            if short && view.has_room(field.len() + value.len()) {
                let found = view.find(view.start(), field, 1);
                if let Some(at) = found {
                    let at = view.after(at);
                    listpack.replace(at, Item::parse(value));
                    return false;
                }
                if view.len() / 2 < limits.hash_max_listpack_entries {
                    listpack.insert_pair(view.end(), Item::parse(field), Item::parse(value));
                    return true;
                }
            }
        }
        let table = self.table(1, limits);
        let position = table.placement().position(field);
        match table.update_at(position, field, |entry| entry.set_value(value)) {
            Some(()) => false,
            None => {
                table.insert_at(position, Field::new(field, value));
                true
            }
        }
    }

    /// Returns whether the field existed.
    pub fn remove(&mut self, field: &[u8]) -> bool {
        match self.0.view_mut() {
            FormMut::Packed(listpack) => {
                let view = listpack.view();
                let found = view.find(view.start(), field, 1);
                if let Some(at) = found {
                    listpack.remove(at, 2);
                }
                found.is_some()
            }
            FormMut::Large(table) => table.remove(field).is_some(),
        }
    }

    /// Fields and values, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (Item<'_>, Item<'_>)> {
        let (packed, table) = match self.0.view() {
            FormRef::Packed(listpack) => (Some(listpack.view().pairs()), None),
            FormRef::Large(table) => (None, Some(table.iter().map(pair))),
        };
        packed.into_iter().flatten().chain(table.into_iter().flatten())
    }

    /// Visits about `count` fields from `cursor` on, first 0; returns the next cursor, 0 at the end. A packed hash is
    /// visited whole.
    pub fn scan(&self, cursor: u64, count: usize, mut visit: impl FnMut(Item<'_>, Item<'_>)) -> u64 {
        match self.0.view() {
            FormRef::Packed(listpack) => {
                listpack.view().pairs().for_each(|(field, value)| visit(field, value));
                0
            }
            FormRef::Large(table) => table.scan(cursor, count, |entry| {
                let (field, value) = pair(entry);
                visit(field, value);
            }),
        }
    }

    /// A field at random, each as likely as any other.
    pub fn random(&self, random: &mut impl FnMut() -> u64) -> Option<(Item<'_>, Item<'_>)> {
        match self.0.view() {
            FormRef::Packed(listpack) => {
                let view = listpack.view();
                let at = view.seek(2 * heap::below(random(), view.len() / 2))?;
                Some((view.item(at), view.item(view.after(at))))
            }
            FormRef::Large(table) => table.random(random).map(pair),
        }
    }

    /// The table of a large hash, to be captured.
    pub fn table_mut(&mut self) -> Option<&mut Table<Field, HashPlacement>> {
        match self.0.view_mut() {
            FormMut::Packed(_) => None,
            FormMut::Large(table) => Some(table),
        }
    }

    /// The capture of its table in progress.
    pub fn captured_id(&self) -> Option<u64> {
        match self.0.view() {
            FormRef::Packed(_) => None,
            FormRef::Large(table) => table.captured_id(),
        }
    }

    /// Bytes that it has written aside.
    pub fn aside_bytes(&self) -> usize {
        match self.0.view() {
            FormRef::Packed(_) => 0,
            FormRef::Large(table) => table.aside_bytes(),
        }
    }

    pub fn dismantle(&mut self, budget: usize) -> bool {
        let done = match self.0.view_mut() {
            FormMut::Packed(_) => true,
            FormMut::Large(table) => heap::dismantle_table(table, budget),
        };
        if done {
            *self = Hash::new();
        }
        done
    }

    /// The table, made if missing, with room for `more` fields.
    fn table(&mut self, more: usize, limits: &Limits) -> &mut Fields {
        if let FormRef::Packed(listpack) = self.0.view() {
            let view = listpack.view();
            let mut table = Fields::with_capacity(HashPlacement { seed: limits.seed }, view.len() / 2 + more);
            for (field, value) in view.pairs() {
                table.insert(field.with_text(|field| value.with_text(|value| Field::new(field, value))));
            }
            self.0 = Form::large(Box::new(table));
        }
        match self.0.view_mut() {
            FormMut::Large(table) => table,
            FormMut::Packed(_) => unreachable!("a packed hash has just been made a table"),
        }
    }
}

fn pair(entry: &Field) -> (Item<'_>, Item<'_>) {
    (Item::Bytes(entry.key()), Item::Bytes(entry.value()))
}

impl Clone for Hash {
    fn clone(&self) -> Self {
        match self.0.view() {
            FormRef::Packed(listpack) => Hash(Form::packed(listpack.clone())),
            FormRef::Large(table) => {
                let mut copy = Fields::with_capacity(*table.placement(), table.len());
                for entry in table.iter() {
                    copy.insert(entry.clone());
                }
                Hash(Form::large(Box::new(copy)))
            }
        }
    }
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests;
