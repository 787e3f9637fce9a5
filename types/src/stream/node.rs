//! A node: a listpack of entries whose ids are near each other, in Redis's format.
//!
//! ```text
//! count | deleted | fields | field ... | 0 | entry ...
//!
//! entry: flags | ms - first ms | seq - first seq | value ...                          | items
//!        flags | ms - first ms | seq - first seq | fields | field | value ...         | items
//!
//! flags: 1 the entry is deleted, 2 its fields are those of the node
//! ```
//!
//! The node's fields are those of its first entry. `items` is the number of items before it that the entry has, so that
//! a node can be read from its end. A deleted entry keeps its place until no live entry is left in the node.
//!
//! Beside the listpack a node has the positions of some entries, so that one with a given id is found among few others. These
//! marks are not stored.
//!
//! Invariants: `count` is the number of entries that are not deleted, and at least 1; the ids of the entries ascend, and
//! the first is not below the node's.

use std::iter::once;

use super::StreamId;
use crate::item::Item;
use crate::listpack::{Listpack, ListpackRef};
use crate::{Malformed, heap};

const DELETED: i64 = 1;
const SAME_FIELDS: i64 = 2;

const BAD: Malformed = Malformed("stream node");

/// The entries from one mark to the next.
const MARK_EVERY: usize = 12;
/// Enough for the hundred entries that a node has by default.
const MARKS: usize = 8;

#[derive(Clone, Debug)]
pub(super) struct Node {
    /// The id that those of the entries are relative to.
    pub first: StreamId,
    listpack: Listpack,
    /// The position of each [`MARK_EVERY`]th entry, deleted or not, behind that of the first one; 0 where there is no such entry,
    /// or where it is too far. The items before the first entry may become longer, and entries keep their length.
    marks: [u16; MARKS],
}

/// The items of a node, one after the other.
struct Items<'a> {
    view: ListpackRef<'a>,
    at: usize,
}

impl<'a> Items<'a> {
    fn next(&mut self) -> Option<Item<'a>> {
        (self.at < self.view.end()).then(|| {
            let (item, after) = self.view.read(self.at);
            self.at = after;
            item
        })
    }

    fn number(&mut self) -> Option<i64> {
        match self.next()? {
            Item::Int(number) => Some(number),
            Item::Bytes(_) => None,
        }
    }

    fn size(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok()
    }
}

/// The items before the first entry.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub count: usize,
    /// The number of the node's fields, and the position of the first.
    fields: usize,
    fields_at: usize,
    pub entries_at: usize,
}

/// The numbers that a node begins with.
#[derive(Clone, Copy)]
pub(super) struct Counts {
    count: usize,
    deleted: usize,
    fields: usize,
    fields_at: usize,
}

impl Counts {
    /// The number of entries, deleted ones too.
    pub fn entries(self) -> usize {
        self.count + self.deleted
    }
}

/// An entry: its id, and its fields with their values.
#[derive(Clone, Copy)]
pub struct StreamEntry<'a> {
    pub id: StreamId,
    fields: Fields<'a>,
}

impl<'a> StreamEntry<'a> {
    pub fn fields(&self) -> Fields<'a> {
        self.fields
    }
}

/// An entry's fields and values in order.
#[derive(Clone, Copy)]
pub struct Fields<'a> {
    view: ListpackRef<'a>,
    /// The position of the next field where fields stand apart from values.
    field_at: Option<usize>,
    at: usize,
    left: usize,
}

impl<'a> Iterator for Fields<'a> {
    type Item = (Item<'a>, Item<'a>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let field = match &mut self.field_at {
            Some(field_at) => {
                let field = self.view.item(*field_at);
                *field_at = self.view.after(*field_at);
                field
            }
            None => {
                let field = self.view.item(self.at);
                self.at = self.view.after(self.at);
                field
            }
        };
        let value = self.view.item(self.at);
        self.at = self.view.after(self.at);
        Some((field, value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Fields<'_> {}

/// An entry as it stands in its node.
#[derive(Clone, Copy)]
pub(super) struct Placed<'a> {
    /// The position of its flags.
    pub at: usize,
    pub is_deleted: bool,
    pub entry: StreamEntry<'a>,
}

impl Placed<'_> {
    /// The position after the entry.
    pub fn after(&self) -> usize {
        let mut fields = self.entry.fields;
        let items = if fields.field_at.is_some() { fields.left } else { 2 * fields.left };
        for _ in 0..items {
            fields.at = fields.view.after(fields.at);
        }
        fields.view.after(fields.at)
    }
}

impl Node {
    /// A node of one entry.
    pub fn new<'f>(id: StreamId, pairs: impl ExactSizeIterator<Item = (&'f [u8], &'f [u8])> + Clone) -> Self {
        let mut listpack = Listpack::new();
        let names = pairs.clone().map(|(field, _)| Item::parse(field));
        let values = pairs.clone().map(|(_, value)| Item::parse(value));
        let count = pairs.len() as i64;
        let head = [1, 0, count].map(Item::Int).into_iter();
        let entry = [0, SAME_FIELDS, 0, 0].map(Item::Int).into_iter();
        listpack.push_all(head.chain(names).chain(entry).chain(values).chain(once(Item::Int(count + 3))));
        Node { first: id, listpack, marks: [0; MARKS] }
    }

    /// A node from outside, after checking every byte of it. Returns the id of its last entry too.
    pub fn from_bytes(first: StreamId, bytes: &[u8]) -> Result<(Self, StreamId), Malformed> {
        let mut node = Node { first, listpack: Listpack::from_bytes(bytes)?, marks: [0; MARKS] };
        let (last, marks) = node.check().ok_or(BAD)?;
        node.marks = marks;
        Ok((node, last))
    }

    /// Walks over all items; `None` if one is not what it should be. Returns the id of the last entry, and the marks.
    fn check(&self) -> Option<(StreamId, [u16; MARKS])> {
        let view = self.view();
        let mut items = Items { view, at: view.start() };
        let (count, deleted, fields) = (items.size()?, items.size()?, items.size()?);
        (count > 0 && fields <= view.len()).then_some(())?;
        for _ in 0..fields {
            items.next()?;
        }
        (items.number()? == 0).then_some(())?;
        let (mut live, mut dead, mut last) = (0, 0, None);
        let (mut marks, entries_at) = ([0; MARKS], items.at);
        loop {
            let at = items.at;
            let Some(flags) = items.next() else { break };
            let Item::Int(flags @ 0..=3) = flags else { return None };
            let id = self.id(items.number()?, items.number()?);
            if id < self.first || last.is_some_and(|last| id <= last) {
                return None;
            }
            last = Some(id);
            mark(&mut marks, live + dead, at - entries_at);
            let (texts, before) =
                if flags & SAME_FIELDS != 0 { (fields, 3) } else { (items.size()?.checked_mul(2)?, 4) };
            // A number that is too large ends with the items.
            for _ in 0..texts {
                items.next()?;
            }
            (items.size()? == texts.checked_add(before)?).then_some(())?;
            *if flags & DELETED != 0 { &mut dead } else { &mut live } += 1;
        }
        ((live, dead) == (count, deleted)).then_some(())?;
        Some((last?, marks))
    }

    pub fn view(&self) -> ListpackRef<'_> {
        self.listpack.view()
    }

    pub fn heap_bytes(&self) -> usize {
        self.listpack.heap_bytes()
    }

    pub fn shape(&self) -> Shape {
        let view = self.view();
        let Counts { count, fields, fields_at, .. } = self.counts();
        let end = (0..fields).fold(fields_at, |at, _| view.after(at));
        Shape { count, fields, fields_at, entries_at: view.after(end) }
    }

    pub fn counts(&self) -> Counts {
        let view = self.view();
        let size = |at| match view.read(at) {
            (Item::Int(number), after) => (number as usize, after),
            (Item::Bytes(_), after) => (0, after),
        };
        let (count, at) = size(view.start());
        let (deleted, at) = size(at);
        let (fields, fields_at) = size(at);
        Counts { count, deleted, fields, fields_at }
    }

    /// The number of entries that are not deleted.
    pub fn count(&self) -> usize {
        self.size(self.view().start())
    }

    pub fn bytes_len(&self) -> usize {
        self.view().bytes_len()
    }

    /// Appends an entry, whose id is above all others. `counts`: those that the node has now.
    pub fn push<'f>(
        &mut self,
        counts: Counts,
        id: StreamId,
        pairs: impl ExactSizeIterator<Item = (&'f [u8], &'f [u8])> + Clone,
    ) {
        if counts.entries().is_multiple_of(MARK_EVERY) {
            let behind = self.view().end() - self.shape().entries_at;
            mark(&mut self.marks, counts.entries(), behind);
        }
        let count = pairs.len();
        let delta = [id.ms.wrapping_sub(self.first.ms) as i64, id.seq.wrapping_sub(self.first.seq) as i64];
        let delta = delta.map(Item::Int).into_iter();
        let values = pairs.clone().map(|(_, value)| Item::parse(value));
        if counts.fields == count && self.has_fields(counts.fields_at, pairs.clone().map(|(field, _)| field)) {
            let items = once(Item::Int(SAME_FIELDS)).chain(delta).chain(values);
            self.listpack.push_all(items.chain(once(Item::Int(count as i64 + 3))));
        } else {
            let both = pairs.flat_map(|(field, value)| [Item::parse(field), Item::parse(value)]);
            let items = once(Item::Int(0)).chain(delta).chain(once(Item::Int(count as i64))).chain(both);
            self.listpack.push_all(items.chain(once(Item::Int(2 * count as i64 + 4))));
        }
        let start = self.view().start();
        self.listpack.replace(start, Item::Int(counts.count as i64 + 1));
    }

    fn has_fields<'f>(&self, fields_at: usize, mut fields: impl Iterator<Item = &'f [u8]>) -> bool {
        let view = self.view();
        let mut at = fields_at;
        fields.all(|field| {
            let (item, after) = view.read(at);
            at = after;
            match item {
                Item::Bytes(bytes) => bytes == field,
                number @ Item::Int(_) => number == *field,
            }
        })
    }

    /// Marks the entry at a position as deleted. Returns whether none is left.
    pub fn delete(&mut self, at: usize) -> bool {
        let (count, flags) = (self.count(), self.number(at));
        if count == 1 {
            return true;
        }
        self.listpack.replace(at, Item::Int(flags | DELETED));
        let deleted = self.size(self.view().after(self.view().start()));
        self.set_counts(count - 1, deleted + 1);
        false
    }

    fn set_counts(&mut self, count: usize, deleted: usize) {
        let start = self.view().start();
        self.listpack.replace(start, Item::Int(count as i64));
        let second = self.view().after(start);
        self.listpack.replace(second, Item::Int(deleted as i64));
    }

    /// The entry at a position; `None` at the end.
    #[inline]
    pub fn entry(&self, shape: &Shape, at: usize) -> Option<Placed<'_>> {
        let view = self.view();
        if at >= view.end() {
            return None;
        }
        let flags = self.number(at);
        let ms_at = view.after(at);
        let seq_at = view.after(ms_at);
        let id = self.id(self.number(ms_at), self.number(seq_at));
        let after = view.after(seq_at);
        let fields = if flags & SAME_FIELDS != 0 {
            Fields { view, field_at: Some(shape.fields_at), at: after, left: shape.fields }
        } else {
            Fields { view, field_at: None, at: view.after(after), left: self.size(after) }
        };
        Some(Placed { at, is_deleted: flags & DELETED != 0, entry: StreamEntry { id, fields } })
    }

    /// The entry before a position; `None` at the first.
    pub fn entry_before(&self, shape: &Shape, at: usize) -> Option<Placed<'_>> {
        if at <= shape.entries_at {
            return None;
        }
        let view = self.view();
        let items_at = view.before(at);
        let start = (0..self.size(items_at)).fold(items_at, |at, _| view.before(at));
        self.entry(shape, start)
    }

    /// How many marks stand at entries with ids up to this one.
    fn marks_until(&self, shape: &Shape, id: StreamId) -> usize {
        let view = self.view();
        self.marks.partition_point(|mark| {
            let ms_at = view.after(shape.entries_at + usize::from(*mark));
            *mark != 0 && self.id(self.number(ms_at), self.number(view.after(ms_at))) <= id
        })
    }

    /// The position of an entry at or shortly before the first whose id is not below this one.
    pub fn position_near(&self, shape: &Shape, id: StreamId) -> usize {
        if id <= self.first {
            return shape.entries_at;
        }
        let passed = self.marks_until(shape, id);
        shape.entries_at + passed.checked_sub(1).map_or(0, |mark| usize::from(self.marks[mark]))
    }

    /// The position of an entry shortly behind all whose ids are not above this one, or the end.
    pub fn position_behind(&self, shape: &Shape, id: StreamId) -> usize {
        let next = self.marks.get(self.marks_until(shape, id)).filter(|mark| **mark != 0);
        next.map_or(self.view().end(), |mark| shape.entries_at + usize::from(*mark))
    }

    /// The entry with an id, deleted or not.
    pub fn find(&self, id: StreamId) -> Option<Placed<'_>> {
        let shape = self.shape();
        let mut at = self.position_near(&shape, id);
        while let Some(placed) = self.entry(&shape, at) {
            if placed.entry.id >= id {
                return (placed.entry.id == id).then_some(placed);
            }
            at = placed.after();
        }
        None
    }

    /// The id of the last entry, even if it is deleted.
    pub fn last(&self) -> StreamId {
        let shape = self.shape();
        self.entry_before(&shape, self.view().end()).map_or(self.first, |placed| placed.entry.id)
    }

    #[inline]
    fn id(&self, ms: i64, seq: i64) -> StreamId {
        StreamId { ms: self.first.ms.wrapping_add(ms as u64), seq: self.first.seq.wrapping_add(seq as u64) }
    }

    /// The number at a position; the node was checked where it came from.
    #[inline]
    fn number(&self, at: usize) -> i64 {
        match self.view().item(at) {
            Item::Int(number) => number,
            Item::Bytes(_) => 0,
        }
    }

    #[inline]
    fn size(&self, at: usize) -> usize {
        self.number(at) as usize
    }
}

/// Marks the entry with this number if it is one of those that are marked. `behind`: its position behind the first entry.
fn mark(marks: &mut [u16; MARKS], entry: usize, behind: usize) {
    if entry > 0
        && entry.is_multiple_of(MARK_EVERY)
        && let Some(mark) = marks.get_mut(entry / MARK_EVERY - 1)
    {
        *mark = u16::try_from(behind).unwrap_or(0);
    }
}

#[cfg(test)]
impl Node {
    pub fn marks(&self) -> [u16; MARKS] {
        self.marks
    }
}

/// The bytes that an element of the list of nodes takes, and its storage.
pub(super) fn nodes_bytes(capacity: usize) -> usize {
    heap::allocation(capacity * size_of::<Node>())
}
