//! Sets: an intset while all members are integers, a listpack while few and short, else a hash table.
//!
//! Redis 7.2's rules (`setTypeAddAux`): a set whose first member is an integer begins as an intset. Beyond
//! `set-max-intset-entries` that becomes a table; the first member that is no integer makes it a listpack, if there are
//! fewer than `set-max-listpack-entries` members and that one is no longer than `set-max-listpack-value`, else a table.
//! A listpack becomes a table at the same limits. No set returns to a smaller form by itself.
//!
//! The storage of an intset tells that it is not a listpack's, so the two share one form.

use super::heap;
use super::intset::{Intset, IntsetRef};
use super::item::{Item, parse_i64};
use super::listpack::{Listpack, ListpackRef};
use super::{Limits, Malformed};
use crate::entry::{Buffer, Entry, Form, FormMut, FormRef, Member, packed};
use crate::segment::{HashPlacement, Placement, Table};

mod lookup;

pub use lookup::Lookup;

type Members = Table<Member, HashPlacement>;

#[derive(Default)]
pub struct Set(Form<PackedSet, Members>);

packed! {
    /// An intset or a listpack.
    struct PackedSet
}

/// A set to be read. An empty one has no form yet, and shows as a listpack.
#[derive(Clone, Copy)]
enum View<'a> {
    Integers(IntsetRef<'a>),
    Listpack(ListpackRef<'a>),
    Table(&'a Members),
}

impl PackedSet {
    fn integers(intset: Intset) -> Self {
        Self { storage: intset.into_storage() }
    }

    fn listpack(listpack: Listpack) -> Self {
        Self { storage: listpack.into_storage() }
    }

    fn take(&mut self) -> Buffer {
        std::mem::take(&mut self.storage)
    }
}

impl Set {
    pub fn new() -> Self {
        Set::default()
    }

    /// An empty set in the form that `members` members will need at least, with room for them.
    pub fn with_capacity(members: usize, limits: &Limits) -> Self {
        let mut set = Set::new();
        if members > limits.set_max_listpack_entries && members > limits.set_max_intset_entries {
            set.table(members, limits);
        }
        set
    }

    /// Loads the bytes of [`Set::integers`], or of Redis, and chooses the form by `limits`.
    pub fn from_intset(bytes: &[u8], limits: &Limits) -> Result<Self, Malformed> {
        let mut set = Set(Form::packed(PackedSet::integers(Intset::from_bytes(bytes)?)));
        if set.len() > limits.set_max_intset_entries {
            set.table(0, limits);
        }
        Ok(set)
    }

    /// Loads the bytes of [`Set::packed`], or of Redis, and chooses the form by `limits`.
    pub fn from_listpack(bytes: &[u8], limits: &Limits) -> Result<Self, Malformed> {
        let listpack = Listpack::from_bytes(bytes)?;
        let view = listpack.view();
        if view.has_duplicates(1) {
            return Err(Malformed("set"));
        }
        let fits = view.len() <= limits.set_max_listpack_entries
            && view.iter().all(|member| member.len() <= limits.set_max_listpack_value);
        let mut set = Set(Form::packed(PackedSet::listpack(listpack)));
        if !fits {
            set.table(0, limits);
        }
        Ok(set)
    }

    fn view(&self) -> View<'_> {
        match self.0.view() {
            FormRef::Packed(packed) => {
                let storage = packed.storage.bytes();
                IntsetRef::from_storage(storage)
                    .map_or_else(|| View::Listpack(ListpackRef::from_storage(storage)), View::Integers)
            }
            FormRef::Large(table) => View::Table(table),
        }
    }

    pub fn len(&self) -> usize {
        match self.view() {
            View::Integers(intset) => intset.len(),
            View::Listpack(listpack) => listpack.len(),
            View::Table(table) => table.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn encoding(&self) -> &'static str {
        match self.view() {
            View::Integers(_) => "intset",
            View::Listpack(_) => "listpack",
            View::Table(_) => "hashtable",
        }
    }

    /// The address of its first allocation: only ever prefetched.
    pub(crate) fn address(&self) -> *const u8 {
        self.0.address()
    }

    pub fn heap_bytes(&self) -> usize {
        match self.0.view() {
            FormRef::Packed(packed) => packed.storage.heap_bytes(),
            FormRef::Large(table) => heap::allocation(size_of::<Members>()) + table.heap_bytes(),
        }
    }

    /// The intset, if the set is one.
    pub fn integers(&self) -> Option<IntsetRef<'_>> {
        match self.view() {
            View::Integers(intset) => Some(intset),
            _ => None,
        }
    }

    /// The listpack, if the set is one.
    pub fn packed(&self) -> Option<ListpackRef<'_>> {
        match self.view() {
            View::Listpack(listpack) => Some(listpack),
            _ => None,
        }
    }

    pub fn contains(&self, member: &[u8]) -> bool {
        match self.view() {
            View::Integers(intset) => parse_i64(member).is_some_and(|number| intset.contains(number)),
            View::Listpack(listpack) => listpack.find(listpack.start(), member, 0).is_some(),
            View::Table(table) => table.contains(member),
        }
    }

    /// Says that `members` members are about to be added, so that the form changes at most once.
    pub fn expect(&mut self, members: usize, limits: &Limits) {
        let most = match self.view() {
            View::Integers(_) => limits.set_max_intset_entries,
            View::Listpack(listpack) if !listpack.is_empty() => limits.set_max_listpack_entries,
            View::Listpack(_) => limits.set_max_listpack_entries.max(limits.set_max_intset_entries),
            View::Table(_) => return,
        };
        if members > most {
            self.table(members, limits);
        }
    }

    /// Returns whether the member is new.
    pub fn add(&mut self, member: &[u8], limits: &Limits) -> bool {
        match self.view() {
            View::Integers(intset) => match parse_i64(member) {
                Some(number) => self.add_integer(number, limits),
                None => {
                    let longest = intset.iter().map(|number| Item::Int(number).len()).max().unwrap_or(0);
                    let longest = longest.max(member.len());
                    if intset.len() < limits.set_max_listpack_entries && longest <= limits.set_max_listpack_value {
                        let mut listpack = Listpack::new();
                        intset.iter().for_each(|number| listpack.push_back(Item::Int(number)));
                        listpack.push_back(Item::Bytes(member));
                        self.0 = Form::packed(PackedSet::listpack(listpack));
                        true
                    } else {
                        self.table(1, limits).insert(Member::new(member)).is_none()
                    }
                }
            },
            View::Listpack(listpack) => {
                if listpack.is_empty()
                    && limits.set_max_intset_entries > 0
                    && let Some(number) = parse_i64(member)
                {
                    return self.add_integer(number, limits);
                }
                if listpack.find(listpack.start(), member, 0).is_some() {
                    return false;
                }
                if listpack.len() < limits.set_max_listpack_entries
                    && member.len() <= limits.set_max_listpack_value
                    && listpack.has_room(member.len())
                {
                    self.edit_listpack(|listpack| listpack.push_back(Item::parse(member)));
                    true
                } else {
                    self.table(1, limits).insert(Member::new(member)).is_none()
                }
            }
            View::Table(_) => {
                let table = self.table(1, limits);
                let position = table.placement().position(member);
                if table.get_at(position, member).is_some() {
                    return false;
                }
                table.insert_at(position, Member::new(member)).is_none()
            }
        }
    }

    /// Returns whether the member existed.
    pub fn remove(&mut self, member: &[u8]) -> bool {
        match self.view() {
            View::Integers(intset) => match parse_i64(member) {
                Some(number) if intset.contains(number) => self.edit_integers(|intset| intset.remove(number)),
                _ => false,
            },
            View::Listpack(listpack) => match listpack.find(listpack.start(), member, 0) {
                Some(at) => {
                    self.edit_listpack(|listpack| listpack.remove(at, 1));
                    true
                }
                None => false,
            },
            View::Table(_) => match self.0.view_mut() {
                FormMut::Large(table) => table.remove(member).is_some(),
                FormMut::Packed(_) => false,
            },
        }
    }

    /// A member at random, each as likely as any other.
    pub fn random(&self, random: &mut impl FnMut() -> u64) -> Option<Item<'_>> {
        match self.view() {
            View::Integers(intset) => intset.get(heap::below(random(), intset.len())).map(Item::Int),
            View::Listpack(listpack) => listpack.get(heap::below(random(), listpack.len())),
            View::Table(table) => table.random(random).map(|member| Item::Bytes(member.key())),
        }
    }

    /// Removes a member at random, after showing it to `read`.
    pub fn pop<R>(&mut self, random: &mut impl FnMut() -> u64, read: impl FnOnce(Item<'_>) -> R) -> Option<R> {
        match self.view() {
            View::Integers(intset) => {
                let index = heap::below(random(), intset.len());
                let answer = read(Item::Int(intset.get(index)?));
                self.edit_integers(|intset| intset.remove_at(index));
                Some(answer)
            }
            View::Listpack(listpack) => {
                let at = listpack.seek(heap::below(random(), listpack.len()))?;
                let answer = read(listpack.item(at));
                self.edit_listpack(|listpack| listpack.remove(at, 1));
                Some(answer)
            }
            View::Table(table) => {
                let member = smallvec::SmallVec::<[u8; 128]>::from_slice(table.random(random)?.key());
                self.remove(&member);
                Some(read(Item::Bytes(&member)))
            }
        }
    }

    /// The members: an intset's ascending, else in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = Item<'_>> {
        let (integers, listpack, table) = match self.view() {
            View::Integers(intset) => (Some(intset.iter().map(Item::Int)), None, None),
            View::Listpack(listpack) => (None, Some(listpack.iter()), None),
            View::Table(table) => (None, None, Some(table.iter().map(|member| Item::Bytes(member.key())))),
        };
        let packed = integers.into_iter().flatten().chain(listpack.into_iter().flatten());
        packed.chain(table.into_iter().flatten())
    }

    /// Visits about `count` members from `cursor` on, first 0; returns the next cursor, 0 at the end. A packed set is
    /// visited whole.
    pub fn scan(&self, cursor: u64, count: usize, mut visit: impl FnMut(Item<'_>)) -> u64 {
        match self.view() {
            View::Table(table) => table.scan(cursor, count, |member| visit(Item::Bytes(member.key()))),
            _ => {
                self.iter().for_each(visit);
                0
            }
        }
    }

    /// Makes the set an intset again if all members are integers and few enough, as Redis does with the result of an
    /// intersection.
    pub fn compact_integers(&mut self, limits: &Limits) {
        if self.integers().is_some() || self.is_empty() || self.len() > limits.set_max_intset_entries {
            return;
        }
        let mut intset = Intset::new();
        for member in self.iter() {
            match member.with_text(parse_i64) {
                Some(number) => intset.insert(number),
                None => return,
            };
        }
        self.0 = Form::packed(PackedSet::integers(intset));
    }

    /// The table of a large set, to be captured.
    pub fn table_mut(&mut self) -> Option<&mut Table<Member, HashPlacement>> {
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
            *self = Set::new();
        }
        done
    }

    fn add_integer(&mut self, number: i64, limits: &Limits) -> bool {
        let (added, len) = self.edit_integers(|intset| (intset.insert(number), intset.view().len()));
        if len > limits.set_max_intset_entries {
            self.table(0, limits);
        }
        added
    }

    /// The set is an intset, or empty.
    fn edit_integers<R>(&mut self, change: impl FnOnce(&mut Intset) -> R) -> R {
        let mut intset = match self.0.view_mut() {
            FormMut::Packed(packed) => Intset::from_storage(packed.take()),
            FormMut::Large(_) => Intset::new(),
        };
        let answer = change(&mut intset);
        self.0 = Form::packed(PackedSet::integers(intset));
        answer
    }

    /// The set is a listpack, or empty.
    fn edit_listpack(&mut self, change: impl FnOnce(&mut Listpack)) {
        if let FormMut::Packed(packed) = self.0.view_mut() {
            let mut listpack = Listpack::from_storage(packed.take());
            change(&mut listpack);
            *packed = PackedSet::listpack(listpack);
        }
    }

    /// The table, made if missing, with room for `more` members.
    fn table(&mut self, more: usize, limits: &Limits) -> &mut Members {
        if let FormRef::Packed(_) = self.0.view() {
            let mut table = Members::with_capacity(HashPlacement { seed: limits.seed }, self.len() + more);
            for member in self.iter() {
                table.insert(member.with_text(Member::new));
            }
            self.0 = Form::large(Box::new(table));
        }
        match self.0.view_mut() {
            FormMut::Large(table) => table,
            FormMut::Packed(_) => unreachable!("a packed set has just been made a table"),
        }
    }
}

impl Clone for Set {
    fn clone(&self) -> Self {
        match self.0.view() {
            FormRef::Packed(packed) => Set(Form::packed(packed.clone())),
            FormRef::Large(table) => {
                let mut copy = Members::with_capacity(*table.placement(), table.len());
                for member in table.iter() {
                    copy.insert(member.clone());
                }
                Set(Form::large(Box::new(copy)))
            }
        }
    }
}

impl std::fmt::Debug for Set {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests;
