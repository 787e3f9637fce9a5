//! Hashes: a listpack of alternating fields and values while small, else a hash table.
//!
//! Redis 7.2's rules: packed up to `hash-max-listpack-entries` fields, none of whose fields and values is longer than
//! `hash-max-listpack-value`. A hash that has once left the packed form does not come back to it.
//!
//! A field may expire. Then the listpack is one of [triplets], and keeps that form, as in Redis; in a table the field's own
//! entry has the expiry, and [`Due`] says where fields may have expired. A hash none of whose fields ever expired pays
//! nothing for it.
//!
//! A field that has expired stays until it is removed, by [`Hash::sweep`] or by name: the hash does not know the time.
//! [`Live`] is the hash without such fields. Everything else sees them.

mod due;
mod live;
mod triplets;

use super::heap;
use super::item::Item;
use super::listpack::{Listpack, ListpackRef};
use super::{Limits, Malformed};
use crate::entry::{Field, Form, FormMut, FormRef};
use crate::segment::{HashPlacement, Placement, Table};

use self::due::Due;
pub use self::live::Live;

type Fields = Table<Field, HashPlacement>;

#[derive(Default)]
pub struct Hash(Form<Listpack, Large>);

/// The large form.
struct Large {
    fields: Fields,
    /// Present while a field expires.
    due: Option<Box<Due>>,
}

/// The cost of removing a field, in looks at one.
const REMOVAL_LOOKS: usize = 4;

/// The effect of setting a field on its expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetExpiry {
    Drop,
    Keep,
    /// Unix milliseconds.
    At(u64),
}

impl SetExpiry {
    fn after(self, before: Option<u64>) -> Option<u64> {
        match self {
            SetExpiry::Drop => None,
            SetExpiry::Keep => before,
            SetExpiry::At(expiry) => Some(expiry.clamp(1, Field::EXPIRY_MAX)),
        }
    }
}

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
            hash.large(0, limits);
        }
        Ok(hash)
    }

    /// The same of a listpack of (field, value, expiry), as [`Hash::packed_with_expiries`] has it.
    pub fn from_listpack_with_expiries(bytes: &[u8], limits: &Limits) -> Result<Self, Malformed> {
        let listpack = triplets::checked(Listpack::from_bytes(bytes)?).ok_or(Malformed("hash whose fields expire"))?;
        let longest =
            triplets::iter(listpack.view()).map(|(field, value, _)| field.len().max(value.len())).max().unwrap_or(0);
        let mut hash = Hash(Form::packed(listpack));
        if hash.len() > limits.hash_max_listpack_entries || longest > limits.hash_max_listpack_value {
            hash.large(0, limits);
        }
        Ok(hash)
    }

    pub fn len(&self) -> usize {
        match self.0.view() {
            FormRef::Packed(listpack) => listpack.view().len() / width(listpack),
            FormRef::Large(large) => large.fields.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn encoding(&self) -> &'static str {
        match self.0.view() {
            FormRef::Packed(listpack) if listpack.is_marked() => "listpackex",
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
            FormRef::Large(large) => {
                let due = large.due.as_ref().map_or(0, |due| due.heap_bytes());
                heap::allocation(size_of::<Large>()) + large.fields.heap_bytes() + due
            }
        }
    }

    /// Whether it is a listpack, of whichever kind.
    pub fn is_packed(&self) -> bool {
        matches!(self.0.view(), FormRef::Packed(_))
    }

    /// The listpack of fields and values, if the hash is one.
    pub fn packed(&self) -> Option<ListpackRef<'_>> {
        match self.0.view() {
            FormRef::Packed(listpack) if !listpack.is_marked() => Some(listpack.view()),
            FormRef::Packed(_) | FormRef::Large(_) => None,
        }
    }

    /// The listpack of fields, values and expiries (0: none) in the order of the expiries, if the hash is one. Its bytes
    /// are [`Listpack::to_bytes`].
    pub fn packed_with_expiries(&self) -> Option<&Listpack> {
        match self.0.view() {
            FormRef::Packed(listpack) if listpack.is_marked() => Some(listpack),
            FormRef::Packed(_) | FormRef::Large(_) => None,
        }
    }

    /// Whether a field expires.
    pub fn expires(&self) -> bool {
        match self.0.view() {
            FormRef::Packed(listpack) => listpack.is_marked() && triplets::soonest(listpack.view()).is_some(),
            FormRef::Large(large) => large.due.is_some(),
        }
    }

    /// Unix milliseconds: no field expires before; `u64::MAX` if none does at all.
    #[inline]
    pub fn soonest(&self) -> u64 {
        match self.0.view() {
            FormRef::Packed(listpack) if listpack.is_marked() => triplets::soonest(listpack.view()).unwrap_or(u64::MAX),
            FormRef::Packed(_) => u64::MAX,
            FormRef::Large(large) => large.due.as_ref().map_or(u64::MAX, |due| due.soonest()),
        }
    }

    pub fn get(&self, field: &[u8]) -> Option<Item<'_>> {
        match self.0.view() {
            FormRef::Packed(listpack) => {
                let view = listpack.view();
                let at = view.find(view.start(), field, width(listpack) - 1)?;
                Some(view.item(view.after(at)))
            }
            FormRef::Large(large) => large.fields.get(field).map(|entry| Item::Bytes(entry.value())),
        }
    }

    /// The value of a field, and when it expires in Unix milliseconds.
    pub fn entry(&self, field: &[u8]) -> Option<(Item<'_>, Option<u64>)> {
        match self.0.view() {
            FormRef::Packed(listpack) if listpack.is_marked() => {
                let view = listpack.view();
                triplets::find(view, field).map(|at| triplets::read(view, at))
            }
            FormRef::Packed(_) => self.get(field).map(|value| (value, None)),
            FormRef::Large(large) => large.fields.get(field).map(|entry| (Item::Bytes(entry.value()), entry.expiry())),
        }
    }

    pub fn contains(&self, field: &[u8]) -> bool {
        self.get(field).is_some()
    }

    /// Says that `fields` fields are about to be set, so that the form changes at most once.
    pub fn expect(&mut self, fields: usize, limits: &Limits) {
        if self.is_packed() && fields > limits.hash_max_listpack_entries {
            self.large(fields, limits);
        }
    }

    /// Sets a field that does not expire. Returns whether it is new.
    pub fn set(&mut self, field: &[u8], value: &[u8], limits: &Limits) -> bool {
        self.set_with(field, value, SetExpiry::Drop, limits)
    }

    /// Sets a field and its expiry. Returns whether it is new.
    pub fn set_with(&mut self, field: &[u8], value: &[u8], rule: SetExpiry, limits: &Limits) -> bool {
        if let SetExpiry::At(_) = rule {
            self.expect_expiries();
        }
        if let FormMut::Packed(listpack) = self.0.view_mut() {
            let view = listpack.view();
            let short = field.len().max(value.len()) <= limits.hash_max_listpack_value;
            if short && view.has_room(field.len() + value.len()) {
                let width = width(listpack);
                let found = view.find(view.start(), field, width - 1);
                match found {
                    Some(at) if width == triplets::WIDTH => {
                        let expiry = rule.after(triplets::read(view, at).1);
                        triplets::replace(listpack, at, Some(Item::parse(value)), expiry);
                        return false;
                    }
                    Some(at) => {
                        let at = view.after(at);
                        listpack.replace(at, Item::parse(value));
                        return false;
                    }
                    None => {}
                }
                if view.len() / width < limits.hash_max_listpack_entries {
                    let (field, value) = (Item::parse(field), Item::parse(value));
                    match (width, rule.after(None)) {
                        (triplets::WIDTH, expiry) => triplets::insert(listpack, field, value, expiry),
                        (_, None) => listpack.insert_pair(view.end(), field, value),
                        // The first field of all.
                        (_, expiry) => triplets::insert(listpack, field, value, expiry),
                    }
                    return true;
                }
            }
        }
        self.large(1, limits).set(field, value, rule)
    }

    /// Replaces the expiry of a field. Returns whether the field exists.
    pub fn set_expiry(&mut self, field: &[u8], expiry: Option<u64>) -> bool {
        let rule = expiry.map_or(SetExpiry::Drop, SetExpiry::At);
        if let SetExpiry::At(_) = rule {
            self.expect_expiries();
        }
        match self.0.view_mut() {
            FormMut::Packed(listpack) if listpack.is_marked() => {
                let found = triplets::find(listpack.view(), field);
                if let Some(at) = found {
                    triplets::replace(listpack, at, None, rule.after(None));
                }
                found.is_some()
            }
            // No field expires, and none is to.
            FormMut::Packed(_) => self.contains(field),
            FormMut::Large(large) => large.set_expiry(field, rule.after(None)),
        }
    }

    /// Shows the value of a field that has not expired at `now_ms`, and applies `rule` to its expiry. Returns the expiry that
    /// it had; `None` if there is no such field.
    pub fn touch(
        &mut self,
        field: &[u8],
        now_ms: u64,
        rule: SetExpiry,
        show: impl FnOnce(Item<'_>),
    ) -> Option<Option<u64>> {
        if let FormMut::Packed(listpack) = self.0.view_mut()
            && listpack.is_marked()
        {
            let at = triplets::find(listpack.view(), field)?;
            let (value, before) = triplets::read(listpack.view(), at);
            if before.is_some_and(|expiry| expiry <= now_ms) {
                return None;
            }
            show(value);
            triplets::replace(listpack, at, None, rule.after(before));
            return Some(before);
        }
        let (value, before) = self.live(now_ms).entry(field)?;
        show(value);
        let after = rule.after(before);
        if after != before {
            self.set_expiry(field, after);
        }
        Some(before)
    }

    /// Makes a listpack one of triplets.
    fn expect_expiries(&mut self) {
        if let FormMut::Packed(listpack) = self.0.view_mut()
            && !listpack.is_marked()
        {
            *listpack = triplets::from_pairs(listpack.view());
        }
    }

    /// Returns whether the field existed.
    pub fn remove(&mut self, field: &[u8]) -> bool {
        match self.0.view_mut() {
            FormMut::Packed(listpack) => {
                let (view, width) = (listpack.view(), width(listpack));
                let found = view.find(view.start(), field, width - 1);
                if let Some(at) = found {
                    listpack.remove(at, width);
                }
                found.is_some()
            }
            FormMut::Large(large) => large.remove(field),
        }
    }

    /// Removes fields that have expired at `now_ms`, all of them or until about `budget` were looked at (a removal counts
    /// as a few looks), and hands each to `lapsed`. Returns how many were looked at. In a hash of thousands of fields, those that expired less than
    /// `patience_ms` ago may stay: for each that goes, hundreds are looked at.
    pub fn sweep(&mut self, now_ms: u64, patience_ms: u64, budget: usize, mut lapsed: impl FnMut(Item<'_>)) -> usize {
        match self.0.view_mut() {
            FormMut::Packed(listpack) if listpack.is_marked() => {
                let mut removed = 0;
                let is_stale = |expiry: Option<u64>| expiry.is_some_and(|expiry| expiry <= now_ms);
                let stale = triplets::iter(listpack.view()).take_while(|(_, _, expiry)| is_stale(*expiry));
                stale.for_each(|(field, _, _)| {
                    lapsed(field);
                    removed += 1;
                });
                if removed > 0 {
                    listpack.remove(listpack.view().start(), triplets::WIDTH * removed);
                }
                removed + 1
            }
            FormMut::Packed(_) => 1,
            FormMut::Large(large) => large.sweep(now_ms, patience_ms, budget, lapsed),
        }
    }

    /// Fields and values, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (Item<'_>, Item<'_>)> {
        let (pairs, entries) = match self.packed() {
            Some(listpack) => (Some(listpack.pairs()), None),
            None => (None, Some(self.entries())),
        };
        pairs.into_iter().flatten().chain(entries.into_iter().flatten().map(|(field, value, _)| (field, value)))
    }

    /// Fields and values with the fields' expiries, in no particular order.
    pub fn entries(&self) -> impl Iterator<Item = (Item<'_>, Item<'_>, Option<u64>)> {
        let (pairs, triplets, table) = match self.0.view() {
            FormRef::Packed(listpack) if listpack.is_marked() => (None, Some(triplets::iter(listpack.view())), None),
            FormRef::Packed(listpack) => (Some(listpack.view().pairs()), None, None),
            FormRef::Large(large) => (None, None, Some(large.fields.iter())),
        };
        let pairs = pairs.into_iter().flatten().map(|(field, value)| (field, value, None));
        let table = table.into_iter().flatten().map(whole);
        pairs.chain(triplets.into_iter().flatten()).chain(table)
    }

    /// Visits all fields as [`Hash::entries`] does, with less work.
    pub fn for_each(&self, mut visit: impl FnMut(Item<'_>, Item<'_>, Option<u64>)) {
        match self.0.view() {
            FormRef::Packed(listpack) if listpack.is_marked() => {
                triplets::iter(listpack.view()).for_each(|(field, value, expiry)| visit(field, value, expiry));
            }
            FormRef::Packed(listpack) => {
                listpack.view().pairs().for_each(|(field, value)| visit(field, value, None));
            }
            FormRef::Large(large) => large.fields.iter().for_each(|entry| {
                let (field, value, expiry) = whole(entry);
                visit(field, value, expiry);
            }),
        }
    }

    /// Visits about `count` fields from `cursor` on, first 0, with their values and expiries; returns the next cursor, 0
    /// at the end. A packed hash is visited whole.
    pub fn scan(&self, cursor: u64, count: usize, mut visit: impl FnMut(Item<'_>, Item<'_>, Option<u64>)) -> u64 {
        let mut visit = |(field, value, expiry): (Item<'_>, Item<'_>, Option<u64>)| visit(field, value, expiry);
        match self.0.view() {
            FormRef::Packed(_) => {
                self.entries().for_each(visit);
                0
            }
            FormRef::Large(large) => large.fields.scan(cursor, count, |entry| visit(whole(entry))),
        }
    }

    /// A field at random, each as likely as any other, with its value and expiry.
    pub fn random(&self, random: &mut impl FnMut() -> u64) -> Option<(Item<'_>, Item<'_>, Option<u64>)> {
        match self.0.view() {
            FormRef::Packed(listpack) => {
                let (view, width) = (listpack.view(), width(listpack));
                let at = view.seek(width * heap::below(random(), view.len() / width))?;
                let (value, expiry) = match width {
                    triplets::WIDTH => triplets::read(view, at),
                    _ => (view.item(view.after(at)), None),
                };
                Some((view.item(at), value, expiry))
            }
            FormRef::Large(large) => large.fields.random(random).map(whole),
        }
    }

    /// The table of a large hash, to be captured.
    pub fn table_mut(&mut self) -> Option<&mut Table<Field, HashPlacement>> {
        match self.0.view_mut() {
            FormMut::Packed(_) => None,
            FormMut::Large(large) => Some(&mut large.fields),
        }
    }

    /// The capture of its table in progress.
    pub fn captured_id(&self) -> Option<u64> {
        match self.0.view() {
            FormRef::Packed(_) => None,
            FormRef::Large(large) => large.fields.captured_id(),
        }
    }

    /// Bytes that it has written aside.
    pub fn aside_bytes(&self) -> usize {
        match self.0.view() {
            FormRef::Packed(_) => 0,
            FormRef::Large(large) => large.fields.aside_bytes(),
        }
    }

    pub fn dismantle(&mut self, budget: usize) -> bool {
        let done = match self.0.view_mut() {
            FormMut::Packed(_) => true,
            FormMut::Large(large) => heap::dismantle_table(&mut large.fields, budget),
        };
        if done {
            *self = Hash::new();
        }
        done
    }

    /// The large form, made if missing, with room for `more` fields.
    fn large(&mut self, more: usize, limits: &Limits) -> &mut Large {
        if self.is_packed() {
            let placement = HashPlacement { seed: limits.seed };
            let mut large = Large { fields: Fields::with_capacity(placement, self.len() + more), due: None };
            for (field, value, expiry) in self.entries() {
                let entry = field.with_text(|field| value.with_text(|value| Field::with_expiry(field, value, expiry)));
                large.insert(entry);
            }
            self.0 = Form::large(Box::new(large));
        }
        match self.0.view_mut() {
            FormMut::Large(large) => large,
            FormMut::Packed(_) => unreachable!("a packed hash has just been made a table"),
        }
    }
}

/// How many items of a listpack belong to a field.
#[inline]
fn width(listpack: &Listpack) -> usize {
    if listpack.is_marked() { triplets::WIDTH } else { 2 }
}

fn whole(entry: &Field) -> (Item<'_>, Item<'_>, Option<u64>) {
    (Item::Bytes(entry.field()), Item::Bytes(entry.value()), entry.expiry())
}

impl Large {
    fn set(&mut self, field: &[u8], value: &[u8], rule: SetExpiry) -> bool {
        let position = self.fields.placement().position(field);
        let updated = self.fields.update_at(position, field, |entry| {
            let before = entry.expiry();
            let after = rule.after(before);
            match before == after {
                true => entry.set_value(value),
                false => *entry = Field::with_expiry(field, value, after),
            }
            (before, after)
        });
        match updated {
            Some((before, after)) => {
                self.note(position, before, after);
                false
            }
            None => {
                let expiry = rule.after(None);
                self.fields.insert_at(position, Field::with_expiry(field, value, expiry));
                self.note(position, None, expiry);
                true
            }
        }
    }

    fn set_expiry(&mut self, field: &[u8], expiry: Option<u64>) -> bool {
        let position = self.fields.placement().position(field);
        let updated = self.fields.update_at(position, field, |entry| {
            let before = entry.expiry();
            entry.set_expiry(expiry);
            before
        });
        updated.map(|before| self.note(position, before, expiry)).is_some()
    }

    /// Adds a field that is not there.
    fn insert(&mut self, entry: Field) {
        let position = self.fields.placement().position(entry.field());
        let expiry = entry.expiry();
        self.fields.insert_at(position, entry);
        self.note(position, None, expiry);
    }

    fn remove(&mut self, field: &[u8]) -> bool {
        let position = self.fields.placement().position(field);
        let Some(removed) = self.fields.remove_at(position, field) else { return false };
        self.note(position, removed.expiry(), None);
        true
    }

    /// The expiry of the field at `position` has changed.
    #[inline]
    fn note(&mut self, position: u64, before: Option<u64>, after: Option<u64>) {
        if before.is_some() || after.is_some() {
            let fields = self.fields.len();
            let due = self.due.get_or_insert_with(|| Box::new(Due::new(fields)));
            due.change(position, before, after, fields);
            if due.expiring() == 0 {
                self.due = None;
            }
        }
    }

    fn sweep(&mut self, now_ms: u64, patience_ms: u64, budget: usize, mut lapsed: impl FnMut(Item<'_>)) -> usize {
        let (mut looked, mut removed) = (1, 0);
        let Some(due) = &mut self.due else { return looked };
        while looked + removed * REMOVAL_LOOKS <= budget
            && let Some((cell, prefixes)) = due.next_due(now_ms, patience_ms)
        {
            let (mut stale, mut soonest) = (Vec::new(), u64::MAX);
            self.fields.visit_range(prefixes, |entry| {
                looked += 1;
                match entry.expiry() {
                    Some(expiry) if expiry <= now_ms => stale.push(entry.field().to_vec()),
                    expiry => soonest = soonest.min(expiry.unwrap_or(u64::MAX)),
                }
            });
            due.swept(cell, stale.len(), soonest);
            removed += stale.len();
            for field in stale {
                self.fields.remove(&field);
                lapsed(Item::Bytes(&field));
            }
        }
        due.end_sweep(self.fields.len());
        if due.expiring() == 0 {
            self.due = None;
        }
        looked
    }
}

impl Clone for Hash {
    fn clone(&self) -> Self {
        match self.0.view() {
            FormRef::Packed(listpack) => Hash(Form::packed(listpack.clone())),
            FormRef::Large(large) => {
                let mut fields = Fields::with_capacity(*large.fields.placement(), large.fields.len());
                for entry in large.fields.iter() {
                    fields.insert(entry.clone());
                }
                Hash(Form::large(Box::new(Large { fields, due: large.due.clone() })))
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
