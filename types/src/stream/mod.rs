//! Streams: entries under ascending ids, and the groups that consume them.
//!
//! [`StreamEntries`] are nodes in the order of their ids, each a listpack in Redis's format. A stream without entries is a value
//! too: it keeps its last id, its counters and its [`Group`]s. The borders of nodes are where Redis has them, since
//! approximate trimming shows them.
//!
//! A capture (see [`crate::segment`] for that of tables) hands out a stream as it was at one moment, in [`StreamPart`]s: its head,
//! its nodes, and each group with its consumers and pending entries. The moment's heads, groups and consumers are copied
//! at once; a node or the record of a pending entry is put aside before it changes.

mod blocks;
mod capture;
mod entries;
mod group;
mod id;
mod moment;
mod node;

pub use capture::StreamPart;
pub use entries::{EntryRange, EntryRangeBack, Head, StreamEntries};
pub use group::{Claim, Claimed, Consumer, Group, Owner, Pending};
pub use id::StreamId;
pub use node::{Fields, StreamEntry};

use std::fmt;

use capture::Capture;

use super::heap;
use super::{Limits, Malformed};

#[derive(Clone, Default)]
pub struct Stream(Box<Body>);

#[derive(Debug, Default)]
struct Body {
    entries: StreamEntries,
    /// In the order of their names.
    groups: Vec<Group>,
    /// The allocations of the groups.
    group_bytes: usize,
    /// The number of the groups, their consumers and pending entries.
    group_parts: usize,
    capture: Option<Box<Capture>>,
}

/// How many entries are removed from the start of a stream.
#[derive(Clone, Copy, Debug)]
pub struct Trim {
    pub until: Until,
    /// Whether only whole nodes are removed.
    pub is_approximate: bool,
    /// No more entries than this are removed; 0: no limit.
    pub limit: usize,
}

#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// The stream is this long.
    Length(usize),
    /// It has no lower id.
    Id(StreamId),
}

impl Trim {
    fn is_done(&self, len: usize) -> bool {
        matches!(self.until, Until::Length(until) if len <= until)
    }
}

impl Stream {
    pub fn new() -> Self {
        Stream::default()
    }

    pub fn len(&self) -> usize {
        self.0.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of entries, groups, consumers and pending entries.
    pub fn parts(&self) -> usize {
        self.len() + self.0.group_parts
    }

    pub fn encoding(&self) -> &'static str {
        "stream"
    }

    /// The address of its first allocation: only ever prefetched.
    pub(crate) fn address(&self) -> *const u8 {
        std::ptr::from_ref::<Body>(&self.0).cast()
    }

    pub fn heap_bytes(&self) -> usize {
        let body = &self.0;
        heap::allocation(size_of::<Body>())
            + body.entries.heap_bytes()
            + heap::allocation(body.groups.capacity() * size_of::<Group>())
            + body.group_bytes
    }

    pub fn entries(&self) -> &StreamEntries {
        &self.0.entries
    }

    /// Appends an entry, whose id must be above the last one.
    pub fn append<'f>(
        &mut self,
        id: StreamId,
        pairs: impl ExactSizeIterator<Item = (&'f [u8], &'f [u8])> + Clone,
        limits: &Limits,
    ) {
        self.0.entries.append(id, pairs, limits);
    }

    /// Deletes the entries with these ids; returns how many existed.
    pub fn delete(&mut self, ids: impl Iterator<Item = StreamId>) -> usize {
        let entries = &mut self.0.entries;
        let (first, mut deleted, mut is_first) = (entries.first, 0, false);
        for id in ids {
            if entries.delete(id) {
                deleted += 1;
                is_first |= id == first;
            }
        }
        if is_first {
            entries.find_first();
        }
        deleted
    }

    /// Removes entries from the start; returns how many.
    pub fn trim(&mut self, trim: Trim) -> usize {
        self.0.entries.trim(trim)
    }

    pub fn set_head(&mut self, head: Head) {
        self.0.entries.set_head(head);
    }

    /// The groups in the order of their names.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = &Group> {
        self.0.groups.iter()
    }

    pub fn group(&self, name: &[u8]) -> Option<&Group> {
        self.search(name).ok().map(|at| &self.0.groups[at])
    }

    fn search(&self, name: &[u8]) -> Result<usize, usize> {
        self.0.groups.binary_search_by(|group| group.name().cmp(name))
    }

    /// Adds a group; returns false if it exists already.
    pub fn add_group(&mut self, name: &[u8], last: StreamId, read: Option<u64>) -> bool {
        let Err(at) = self.search(name) else { return false };
        let group = Group::new(name, last, read);
        self.0.group_bytes += group.heap_bytes();
        self.0.group_parts += group.parts();
        self.0.groups.insert(at, group);
        true
    }

    /// Sets the groups of a stream from outside, which come in any order.
    ///
    /// # Errors
    /// When two have the same name.
    pub fn load_groups(&mut self, mut groups: Vec<Group>) -> Result<(), Malformed> {
        groups.sort_unstable_by(|one, other| one.name().cmp(other.name()));
        if groups.windows(2).any(|pair| pair[0].name() == pair[1].name()) {
            return Err(Malformed("group twice"));
        }
        self.0.group_bytes = groups.iter().map(Group::heap_bytes).sum();
        self.0.group_parts = groups.iter().map(Group::parts).sum();
        self.0.groups = groups;
        Ok(())
    }

    /// Changes a group, with the entries at hand; `None` if it does not exist.
    pub fn change_group<R>(&mut self, name: &[u8], change: impl FnOnce(&StreamEntries, &mut Group) -> R) -> Option<R> {
        let at = self.search(name).ok()?;
        let Body { entries, groups, group_bytes, group_parts, .. } = &mut *self.0;
        let group = &mut groups[at];
        let (bytes, parts) = (group.heap_bytes(), group.parts());
        let answer = change(entries, group);
        *group_bytes = *group_bytes - bytes + group.heap_bytes();
        *group_parts = *group_parts - parts + group.parts();
        Some(answer)
    }

    /// Removes a group; returns whether it existed.
    pub fn remove_group(&mut self, name: &[u8]) -> bool {
        let Ok(at) = self.search(name) else { return false };
        let group = self.0.groups.remove(at);
        self.0.group_bytes -= group.heap_bytes();
        self.0.group_parts -= group.parts();
        if let Some(capture) = &mut self.0.capture {
            capture.keep(group);
        }
        true
    }

    /// Appends a node from outside, whose entries must be above those before.
    ///
    /// # Errors
    /// When it is malformed, or in the wrong place.
    pub fn load_node(&mut self, first: StreamId, bytes: &[u8]) -> Result<(), Malformed> {
        self.0.entries.load_node(first, bytes)
    }

    /// Sets what a stream from outside says of itself, after its last node.
    ///
    /// # Errors
    /// When that contradicts its entries.
    pub fn loaded(&mut self, head: Head, len: u64) -> Result<(), Malformed> {
        let entries = &mut self.0.entries;
        if len != entries.len() as u64 || entries.last > head.last && !entries.is_empty() {
            return Err(Malformed("length or last id of a stream"));
        }
        entries.set_head(head);
        entries.find_first();
        Ok(())
    }

    /// Frees about `budget` entries and pending entries; returns whether nothing is left.
    pub fn dismantle(&mut self, budget: usize) -> bool {
        let body = &mut *self.0;
        body.capture = None;
        body.entries.moment = None;
        let mut freed = body.entries.dismantle(budget);
        while freed < budget
            && let Some(group) = body.groups.last_mut()
        {
            let (bytes, parts) = (group.heap_bytes(), group.parts());
            freed += 1 + group.dismantle(budget - freed);
            body.group_bytes -= bytes - group.heap_bytes();
            body.group_parts -= parts - group.parts();
            if group.is_dismantled() {
                body.group_bytes -= group.heap_bytes();
                body.group_parts -= group.parts();
                body.groups.pop();
            }
        }
        let is_done = body.entries.node_count() == 0 && body.groups.is_empty();
        if is_done {
            *self = Stream::new();
        }
        is_done
    }
}

/// All that it holds, as text.
impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Head { last, first, max_deleted, added } = self.entries().head();
        write!(f, "{} of {added}, {first} to {last}, deleted {max_deleted}", self.len())?;
        for entry in self.entries().iter() {
            write!(f, "; {}", entry.id)?;
            for (field, value) in entry.fields() {
                write!(f, " {}={}", field.to_vec().escape_ascii(), value.to_vec().escape_ascii())?;
            }
        }
        for group in self.groups() {
            let name = group.name().escape_ascii();
            write!(f, "; group {name} at {}, {:?} read", group.last(), group.read())?;
            for (owner, consumer) in group.consumers() {
                let name = consumer.name().escape_ascii();
                write!(f, ", {name} seen {} active {:?}", consumer.seen_ms(), consumer.active_ms())?;
                for pending in group.pending_from(StreamId::MIN).filter(|pending| pending.owner == owner) {
                    write!(f, " {} at {} x{}", pending.id, pending.delivered_ms, pending.deliveries)?;
                }
            }
        }
        Ok(())
    }
}

impl Clone for Body {
    /// Without the capture.
    fn clone(&self) -> Self {
        let groups = self.groups.clone();
        let group_bytes = groups.iter().map(Group::heap_bytes).sum();
        let Body { entries, group_parts, .. } = self;
        Body { entries: entries.clone(), groups, group_bytes, group_parts: *group_parts, capture: None }
    }
}

#[cfg(test)]
impl Stream {
    /// The value of `heap_bytes`, counted; also checks the other invariants.
    pub fn counted_bytes(&self) -> usize {
        let body = &self.0;
        assert!(body.groups.iter().zip(body.groups.iter().skip(1)).all(|(a, b)| a.name() < b.name()));
        assert_eq!(body.group_parts, body.groups.iter().map(Group::parts).sum::<usize>());
        heap::allocation(size_of::<Body>())
            + body.entries.counted_bytes()
            + heap::allocation(body.groups.capacity() * size_of::<Group>())
            + body.groups.iter().map(Group::counted_bytes).sum::<usize>()
    }
}

#[cfg(test)]
mod tests;
