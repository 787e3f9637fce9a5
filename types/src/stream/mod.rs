//! Streams: entries under ascending ids, and the groups that consume them.
//!
//! [`StreamEntries`] are nodes in the order of their ids, each a listpack in Redis's format. A stream without entries is a value
//! too: it keeps its last id, its counters and its [`Group`]s. The borders of nodes are where Redis has them, since
//! approximate trimming shows them.
//!
//! Producers may name the messages that they add. A stream remembers those of late ([`history`]), so that none is added twice.
//!
//! A capture (see [`crate::segment`] for that of tables) hands out a stream as it was at one moment, in [`StreamPart`]s: its head,
//! its producers' messages, its nodes, and each group with its consumers and pending entries. The moment's heads, groups and
//! consumers are copied at once; a node or the record of a pending entry or of a message is put aside before it changes.

mod blocks;
mod capture;
mod due;
mod entries;
mod group;
mod history;
mod id;
mod moment;
mod node;
mod producer;

pub use capture::StreamPart;
pub use entries::{EntryRange, EntryRangeBack, Head, StreamEntries};
pub use group::{Claim, Claimed, Consumer, Deliveries, DueClaim, Group, Owner, Pending};
pub use history::{Idempotency, MessageCounts, name_of_message};
pub use id::StreamId;
pub use node::{Fields, StreamEntry};

use std::fmt;

use capture::Capture;
use history::History;

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
    /// Once a producer has named a message, or the stream has settings of its own.
    history: Option<Box<History>>,
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

/// The fate of groups' references to an entry that is removed: it is pending in some, and others have yet to read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum References {
    /// They stay.
    #[default]
    Keep,
    /// The entry is pending no more.
    Delete,
    /// An entry with any is not removed.
    Respect,
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

    /// The number of entries, groups, consumers, pending entries, producers and their messages.
    pub fn parts(&self) -> usize {
        self.len() + self.0.group_parts + self.0.history.as_ref().map_or(0, |history| history.parts())
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
            + body.history.as_ref().map_or(0, |history| history.heap_bytes())
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

    /// Removes entries from the start, and their references or none that has any. Adds the ids of those removed to `removed`.
    pub fn trim_with(&mut self, trim: Trim, references: References, removed: &mut Vec<StreamId>) {
        let first = removed.len();
        let Body { entries, groups, .. } = &mut *self.0;
        let is_removable = |id| references != References::Respect || !is_referred_to(groups, id);
        entries.trim_some(trim, is_removable, removed);
        if references == References::Delete {
            self.delete_references(&removed[first..]);
        }
    }

    /// Whether a group has yet to read an entry, or to acknowledge it.
    pub fn is_referred_to(&self, id: StreamId) -> bool {
        is_referred_to(&self.0.groups, id)
    }

    /// Makes entries pending no more, in all groups. Returns whether any was pending.
    pub fn delete_references(&mut self, ids: &[StreamId]) -> bool {
        let Body { groups, group_bytes, group_parts, .. } = &mut *self.0;
        let mut any = false;
        for group in groups {
            let (bytes, parts) = (group.heap_bytes(), group.parts());
            ids.iter().for_each(|id| any |= group.acknowledge(*id));
            *group_bytes = *group_bytes - bytes + group.heap_bytes();
            *group_parts = *group_parts - parts + group.parts();
        }
        any
    }

    pub fn set_head(&mut self, head: Head) {
        let Body { entries, groups, group_bytes, .. } = &mut *self.0;
        if head.last < entries.head().last {
            // Entries with ids that have been deleted may be added again.
            for group in groups {
                *group_bytes -= group.heap_bytes();
                group.forget_order();
                *group_bytes += group.heap_bytes();
            }
        }
        entries.set_head(head);
    }

    /// For how long it remembers messages, and how many.
    pub fn idempotency(&self) -> Idempotency {
        self.0.history.as_ref().map_or(Idempotency::REDIS, |history| history.settings)
    }

    /// Changes for how long messages are remembered, and how many. If that is new, all are forgotten. Returns whether it is.
    pub fn set_idempotency(&mut self, settings: Idempotency) -> bool {
        let is_new = settings != self.idempotency();
        if is_new {
            let history = self.history();
            history.settings = settings;
            history.clear();
        }
        is_new
    }

    /// The entry that a producer's message has become, if it is remembered.
    pub fn message(&self, producer: &[u8], message: &[u8], now_ms: u64) -> Option<StreamId> {
        self.0.history.as_ref()?.find(producer, message, now_ms)
    }

    /// Counts a message that was sent again.
    pub fn count_repeated(&mut self) {
        if let Some(history) = &mut self.0.history {
            history.repeated = history.repeated.wrapping_add(1);
        }
    }

    /// Remembers the entry that a producer's message has become. [`Self::message`] must not know it.
    pub fn add_message(&mut self, producer: &[u8], message: &[u8], id: StreamId, now_ms: u64) {
        self.history().add(producer, message, id, now_ms);
    }

    /// Frees some of the messages whose time is over, which changes nothing else.
    #[inline]
    pub fn forget_messages(&mut self, now_ms: u64) {
        if let Some(history) = &mut self.0.history {
            history.forget_some(now_ms);
        }
    }

    pub fn message_counts(&self, now_ms: u64) -> MessageCounts {
        self.0.history.as_ref().map_or_else(MessageCounts::default, |history| history.counts(now_ms))
    }

    /// The numbers of remembered messages and producers, some of which may be hidden.
    pub fn message_len(&self) -> (usize, usize) {
        self.0.history.as_ref().map_or((0, 0), |history| (history.len(), history.producer_len()))
    }

    /// The producers in the order of their names, each with its messages in the order in which they were added.
    pub fn producers(
        &self,
    ) -> impl ExactSizeIterator<Item = (&[u8], impl ExactSizeIterator<Item = (&[u8], StreamId)>)> {
        let shown = self.0.history.as_ref().map_or_else(Vec::new, |history| history.shown());
        shown.into_iter().map(|producer| (producer.name(), producer.messages()))
    }

    /// Numbers of messages that were ever added, and that were sent again.
    pub fn messages_ever(&self) -> (u64, u64) {
        self.0.history.as_ref().map_or((0, 0), |history| (history.added, history.repeated))
    }

    /// Sets the producers' part of a stream from outside, before their messages.
    pub fn load_producers(&mut self, settings: Idempotency, added: u64, repeated: u64) {
        if settings != Idempotency::REDIS || added > 0 || repeated > 0 {
            let history = self.history();
            (history.settings, history.added, history.repeated) = (settings, added, repeated);
        }
    }

    /// Adds a message from outside.
    pub fn load_message(&mut self, producer: &[u8], message: &[u8], id: StreamId) {
        self.history().load(producer, message, id);
    }

    /// Whether it has what streams of Redis 7 do not have: messages of producers, settings for them, or released entries.
    pub fn is_newer(&self) -> bool {
        self.0.history.is_some() || self.0.groups.iter().any(|group| group.released_len() > 0)
    }

    fn history(&mut self) -> &mut History {
        self.0.history.get_or_insert_with(|| Box::new(History::new(Idempotency::REDIS)))
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
        if freed < budget
            && let Some(history) = &mut body.history
        {
            freed += history.dismantle(budget - freed);
            if history.is_dismantled() {
                body.history = None;
            }
        }
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
        let is_done = body.entries.node_count() == 0 && body.history.is_none() && body.groups.is_empty();
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
        if self.0.history.is_some() {
            let Idempotency { duration_s, size_max } = self.idempotency();
            let (added, repeated) = self.messages_ever();
            write!(f, "; {size_max} messages for {duration_s} s, {added} added, {repeated} repeated")?;
        }
        for (producer, messages) in self.producers() {
            write!(f, "; producer {}", producer.escape_ascii())?;
            for (message, id) in messages {
                write!(f, " {} {id}", message.escape_ascii())?;
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
            for pending in group.released().iter().filter_map(|id| group.pending(*id)) {
                write!(f, ", released {} x{}", pending.id, pending.deliveries)?;
            }
        }
        Ok(())
    }
}

fn is_referred_to(groups: &[Group], id: StreamId) -> bool {
    groups.iter().any(|group| group.last() < id || group.pending(id).is_some())
}

impl Clone for Body {
    /// Without the capture.
    fn clone(&self) -> Self {
        let groups = self.groups.clone();
        let group_bytes = groups.iter().map(Group::heap_bytes).sum();
        let Body { entries, group_parts, history, .. } = self;
        let (entries, history) = (entries.clone(), history.clone());
        Body { entries, groups, group_bytes, group_parts: *group_parts, history, capture: None }
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
            + body.history.as_ref().map_or(0, |history| history.counted_bytes())
    }
}

#[cfg(test)]
mod tests;
