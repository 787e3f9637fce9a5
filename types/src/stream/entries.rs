//! The entries of a stream: nodes in the order of their ids.

use std::collections::VecDeque;
use std::ops::Deref;

use super::moment::Moment;
use super::node::{Node, Placed, Shape, StreamEntry, nodes_bytes};
use super::{StreamId, Trim, Until};
use crate::limits::{NODE_BYTES_MAX, NODE_ENTRIES_MAX};
use crate::listpack::ListpackRef;
use crate::{Limits, Malformed, heap, pace};

/// StreamEntries, and what a stream knows of those that it has had.
#[derive(Debug, Default)]
pub struct StreamEntries {
    nodes: VecDeque<Node>,
    len: usize,
    /// The allocations of the nodes.
    bytes: usize,
    /// The largest of these allocations since there was no node.
    node_bytes_max: usize,
    head: Head,
    pub(super) moment: Option<Box<Moment<Node>>>,
}

/// The ids and the counter that a stream keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The id of the entry that was added last, even if it has been removed since.
    pub last: StreamId,
    /// The id of the first entry; `0-0` without one.
    pub first: StreamId,
    /// The highest id that was deleted by itself.
    pub max_deleted: StreamId,
    /// How many entries were ever added.
    pub added: u64,
}

impl Deref for StreamEntries {
    type Target = Head;

    fn deref(&self) -> &Head {
        &self.head
    }
}

impl StreamEntries {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.bytes + nodes_bytes(self.nodes.capacity())
    }

    /// The bytes that looking for an entry may read, beyond those of a full node: an entry may have any number of fields, and
    /// a node from outside any number of entries.
    pub fn excess_bytes(&self) -> usize {
        self.node_bytes_max.saturating_sub(NODE_BYTES_MAX)
    }

    /// The nodes with the ids that their entries are relative to, to be stored as they are.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = (StreamId, ListpackRef<'_>)> {
        self.nodes.iter().map(|node| (node.first, node.view()))
    }

    /// The id for an entry that is added now; `None` after the last.
    pub fn next_id(&self, now_ms: u64) -> Option<StreamId> {
        if now_ms > self.last.ms { Some(StreamId::new(now_ms, 0)) } else { self.last.next() }
    }

    /// Appends an entry, whose id must be above the last one.
    pub(super) fn append<'f>(
        &mut self,
        id: StreamId,
        pairs: impl ExactSizeIterator<Item = (&'f [u8], &'f [u8])> + Clone,
        limits: &Limits,
    ) {
        let (bytes_max, entries_max) = (limits.stream_node_max_bytes, limits.stream_node_max_entries);
        let bytes: usize = pairs.clone().map(|(field, value)| field.len() + value.len()).sum();
        let last = self.nodes.back().map(|node| (node.bytes_len(), node.counts()));
        match last {
            Some((used, counts)) if used.saturating_add(bytes) < bytes_max && counts.entries() < entries_max => {
                self.edit(self.nodes.len() - 1, |node| node.push(counts, id, pairs));
            }
            _ => self.add(Node::new(id, pairs)),
        }
        self.len += 1;
        self.head.added = self.head.added.wrapping_add(1);
        self.head.last = id;
        if self.len == 1 {
            self.head.first = id;
        }
    }

    /// Deletes an entry; returns whether it existed. If it was the first, [`StreamEntries::find_first`] must follow.
    pub(super) fn delete(&mut self, id: StreamId) -> bool {
        let Some(at) = self.node_of(id) else { return false };
        let Some(placed) = self.nodes[at].find(id).filter(|placed| !placed.is_deleted) else { return false };
        let position = placed.at;
        if self.edit(at, |node| node.delete(position)) {
            self.drop_node(at);
        }
        self.len -= 1;
        self.head.max_deleted = self.head.max_deleted.max(id);
        true
    }

    /// Finds the first entry anew after some have been removed.
    pub(super) fn find_first(&mut self) {
        self.head.first = self.iter().next().map_or(StreamId::MIN, |entry| entry.id);
    }

    /// Removes entries from the start as Redis does; returns how many.
    pub(super) fn trim(&mut self, trim: Trim) -> usize {
        let mut removed = 0;
        while let Some(node) = self.nodes.front() {
            let count = node.count();
            if trim.is_done(self.len) || trim.limit > 0 && removed + count > trim.limit {
                break;
            }
            let is_whole = match trim.until {
                Until::Length(len) => self.len - count >= len,
                Until::Id(id) => node.last() < id,
            };
            if is_whole {
                self.drop_node(0);
                self.len -= count;
                removed += count;
                continue;
            }
            if !trim.is_approximate {
                removed += self.trim_node(trim);
            }
            break;
        }
        if removed > 0 {
            self.find_first();
            self.release_room();
        }
        removed
    }

    /// Removes entries from the start of the first node, which keeps at least one.
    fn trim_node(&mut self, trim: Trim) -> usize {
        let node = &self.nodes[0];
        let shape = node.shape();
        let (mut at, mut doomed, mut left) = (shape.entries_at, Vec::new(), self.len);
        while let Some(placed) = node.entry(&shape, at) {
            let is_kept = match trim.until {
                Until::Length(_) => trim.is_done(left),
                Until::Id(id) => placed.entry.id >= id,
            };
            if is_kept {
                break;
            }
            if !placed.is_deleted {
                doomed.push(placed.at);
                left -= 1;
            }
            at = placed.after();
        }
        let removed = doomed.len();
        // A node whose last entries are deleted already may lose all that are not.
        if removed == shape.count {
            self.drop_node(0);
        } else if removed > 0 {
            self.edit(0, |node| doomed.iter().for_each(|at| _ = node.delete(*at)));
        }
        self.len -= removed;
        removed
    }

    /// Removes entries from the start as Redis does where each of them is looked at: those that `is_removable` does not permit
    /// stay. The ids of the others are added to `removed`.
    pub(super) fn trim_some(
        &mut self,
        trim: Trim,
        mut is_removable: impl FnMut(StreamId) -> bool,
        removed: &mut Vec<StreamId>,
    ) {
        let before = removed.len();
        let mut at = 0;
        while let Some(node) = self.nodes.get(at) {
            let count = node.count();
            if trim.is_done(self.len) || trim.limit > 0 && removed.len() - before + count > trim.limit {
                break;
            }
            let is_whole = match trim.until {
                Until::Length(len) => self.len - count >= len,
                Until::Id(id) => node.last() < id,
            };
            let shape = node.shape();
            let (mut entry_at, mut doomed, mut left) = (shape.entries_at, Vec::new(), self.len);
            while let Some(placed) = node.entry(&shape, entry_at) {
                let id = placed.entry.id;
                let is_kept = match trim.until {
                    Until::Length(_) => trim.is_done(left),
                    Until::Id(first) => id >= first,
                };
                if is_kept {
                    break;
                }
                if !placed.is_deleted && is_removable(id) {
                    doomed.push(placed.at);
                    removed.push(id);
                    left -= 1;
                }
                entry_at = placed.after();
            }
            self.len = left;
            if doomed.len() == count {
                self.drop_node(at);
            } else if !doomed.is_empty() {
                self.edit(at, |node| doomed.iter().for_each(|at| _ = node.delete(*at)));
            }
            // As in Redis, what stays in a node counts for the decision on the next.
            match (is_whole, doomed.len() == count) {
                (true, true) => {}
                (true, false) => at += 1,
                (false, _) => break,
            }
        }
        if removed.len() > before {
            self.find_first();
            self.release_room();
        }
    }

    /// Sets the ids and the counter of which a client or a file says so.
    pub(super) fn set_head(&mut self, head: Head) {
        self.head = head;
    }

    pub fn head(&self) -> Head {
        self.head
    }

    /// Appends a node from outside, whose entries follow those before. One with more entries than nodes have here is divided:
    /// each look into it would take long, and trimming it the square of that.
    pub(super) fn load_node(&mut self, first: StreamId, bytes: &[u8]) -> Result<(), Malformed> {
        let (node, last) = Node::from_bytes(first, bytes)?;
        if !self.nodes.is_empty() && first <= self.head.last {
            return Err(Malformed("order of stream nodes"));
        }
        if node.counts().entries() > NODE_ENTRIES_MAX {
            self.append_all(&node);
        } else {
            self.len += node.count();
            self.add(node);
        }
        self.head.last = last;
        Ok(())
    }

    fn append_all(&mut self, node: &Node) {
        let shape = node.shape();
        let mut at = shape.entries_at;
        while let Some(placed) = node.entry(&shape, at) {
            if !placed.is_deleted {
                let pairs = placed.entry.fields().map(|(field, value)| (field.to_vec(), value.to_vec()));
                let pairs: Vec<(Vec<u8>, Vec<u8>)> = pairs.collect();
                self.append(
                    placed.entry.id,
                    pairs.iter().map(|(field, value)| (&field[..], &value[..])),
                    &Limits::REDIS,
                );
            }
            at = placed.after();
        }
    }

    /// The entry with an id.
    pub fn get(&self, id: StreamId) -> Option<StreamEntry<'_>> {
        let placed = self.nodes[self.node_of(id)?].find(id)?;
        (!placed.is_deleted).then_some(placed.entry)
    }

    pub fn contains(&self, id: StreamId) -> bool {
        self.get(id).is_some()
    }

    /// The id of the last entry that is not deleted.
    pub fn last_existing(&self) -> Option<StreamId> {
        self.range_back(StreamId::MIN, StreamId::MAX).next().map(|entry| entry.id)
    }

    pub fn iter(&self) -> EntryRange<'_> {
        self.range(StreamId::MIN, StreamId::MAX)
    }

    /// The entries with ids from `start` to `end`, both included.
    pub fn range(&self, start: StreamId, end: StreamId) -> EntryRange<'_> {
        let node = self.node_of(start).unwrap_or(0);
        EntryRange { nodes: &self.nodes, node, shape: None, at: 0, start, end }
    }

    /// The same from the last to the first.
    pub fn range_back(&self, start: StreamId, end: StreamId) -> EntryRangeBack<'_> {
        let left = self.node_of(end).map_or(0, |node| node + 1);
        EntryRangeBack { nodes: &self.nodes, left, shape: None, at: 0, start, end }
    }

    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The number of entries with ids from `start` to `end`, at most: that of the nodes in which they may be.
    pub fn len_at_most(&self, start: StreamId, end: StreamId) -> usize {
        let Some(last) = self.node_of(end).filter(|_| start <= end) else { return 0 };
        let nodes = last + 1 - self.node_of(start).unwrap_or(0).min(last);
        nodes.saturating_mul(NODE_ENTRIES_MAX).min(self.len)
    }

    /// The node that holds an id if any does: the last one that does not begin after it.
    fn node_of(&self, id: StreamId) -> Option<usize> {
        let last = self.nodes.len().checked_sub(1)?;
        // Most reads and deletions are near one of the ends.
        if self.nodes[last].first <= id {
            return Some(last);
        }
        self.nodes.partition_point(|node| node.first <= id).checked_sub(1)
    }

    fn add(&mut self, node: Node) {
        if let Some(moment) = &mut self.moment {
            moment.note(node.first, || None);
        }
        self.bytes += node.heap_bytes();
        self.node_bytes_max = self.node_bytes_max.max(node.heap_bytes());
        if self.nodes.len() == self.nodes.capacity() {
            // To the end of the allocator's next size class, so that nothing of it is wasted.
            let len = self.nodes.len();
            self.nodes.reserve_exact(nodes_bytes(len + 1) / size_of::<Node>() - len);
        }
        self.nodes.push_back(node);
    }

    fn edit<R>(&mut self, at: usize, change: impl FnOnce(&mut Node) -> R) -> R {
        let node = &mut self.nodes[at];
        if let Some(moment) = &mut self.moment {
            moment.note(node.first, || Some(node.clone()));
        }
        let before = node.heap_bytes();
        let answer = change(node);
        self.bytes = self.bytes - before + node.heap_bytes();
        self.node_bytes_max = self.node_bytes_max.max(node.heap_bytes());
        answer
    }

    fn drop_node(&mut self, at: usize) {
        if let Some(node) = self.nodes.remove(at) {
            self.bytes -= node.heap_bytes();
            if self.nodes.is_empty() {
                self.node_bytes_max = 0;
            }
            if let Some(moment) = &mut self.moment {
                moment.note(node.first, || Some(node));
            }
        }
    }

    fn release_room(&mut self) {
        if self.nodes.capacity() > 16 && self.nodes.capacity() / 4 > self.nodes.len() {
            self.nodes.shrink_to(self.nodes.len() * 2);
        }
    }

    /// Remembers the nodes as they are now.
    pub(super) fn begin_moment(&mut self) {
        self.moment = Some(Box::new(Moment::new(self.nodes.back().map(|node| node.first))));
    }

    /// Shows the next node of the moment that is remembered; returns whether there is one.
    pub(super) fn step(&mut self, visit: impl FnOnce(StreamId, ListpackRef<'_>)) -> bool {
        let Some(moment) = &mut self.moment else { return false };
        let nodes = &self.nodes;
        let live = |id, _| {
            let node = nodes.get(nodes.partition_point(|node| node.first < id))?;
            Some((node.first, node))
        };
        moment.step(live, |first, node| visit(first, node.view()))
    }

    /// Frees nodes from the end until `budget` entries are gone. Returns how many entries were freed.
    pub(super) fn dismantle(&mut self, budget: usize) -> usize {
        let mut freed = 0;
        while freed < budget
            && let Some(node) = self.nodes.pop_back()
        {
            freed += node.counts().entries();
            self.len -= node.count();
            self.bytes -= node.heap_bytes();
        }
        freed
    }

    /// Whether the group's counter cannot be told from the entries after `id`, as one of them may be deleted.
    pub(super) fn has_tombstones_after(&self, id: StreamId) -> bool {
        !self.is_empty()
            && self.max_deleted != StreamId::MIN
            && self.first <= self.max_deleted
            && id <= self.max_deleted
    }

    /// How many entries were added up to `id`, where that can be told: see Redis's
    /// `streamEstimateDistanceFromFirstEverEntry`.
    pub fn added_up_to(&self, id: StreamId) -> Option<u64> {
        let (added, len) = (self.added, self.len as u64);
        if added == 0 {
            return Some(0);
        }
        if id == self.last || self.is_empty() && id < self.last {
            return Some(added);
        }
        if id > self.last || self.max_deleted != StreamId::MIN && self.max_deleted >= self.first {
            return None;
        }
        match id.cmp(&self.first) {
            std::cmp::Ordering::Less => Some(added.wrapping_sub(len)),
            std::cmp::Ordering::Equal => Some(added.wrapping_sub(len).wrapping_add(1)),
            std::cmp::Ordering::Greater => None,
        }
    }
}

impl Clone for StreamEntries {
    /// Without the moment that it remembers.
    fn clone(&self) -> Self {
        let nodes = self.nodes.clone();
        let bytes = nodes.iter().map(Node::heap_bytes).sum();
        let (len, node_bytes_max, head) = (self.len, self.node_bytes_max, self.head);
        StreamEntries { nodes, len, bytes, node_bytes_max, head, moment: None }
    }
}

impl Moment<Node> {
    pub(super) fn aside_bytes(&self) -> usize {
        self.aside().map(|node| node.map_or(0, |node| heap::allocation(size_of::<Node>()) + node.heap_bytes())).sum()
    }
}

/// StreamEntries in order; see [`StreamEntries::range`].
#[derive(Clone)]
pub struct EntryRange<'a> {
    nodes: &'a VecDeque<Node>,
    node: usize,
    /// Of the node, once it is being read.
    shape: Option<Shape>,
    at: usize,
    start: StreamId,
    end: StreamId,
}

impl<'a> Iterator for EntryRange<'a> {
    type Item = StreamEntry<'a>;

    fn next(&mut self) -> Option<StreamEntry<'a>> {
        while let Some(node) = self.nodes.get(self.node) {
            let shape = *self.shape.get_or_insert_with(|| {
                let shape = node.shape();
                self.at = node.position_near(&shape, self.start);
                shape
            });
            while let Some(placed) = node.entry(&shape, self.at) {
                if placed.entry.id > self.end {
                    self.node = usize::MAX;
                    return None;
                }
                self.at = placed.after();
                if is_shown(&placed, self.start, self.end) {
                    return Some(placed.entry);
                }
            }
            (self.node, self.shape) = (self.node + 1, None);
            if !pace::goes_on(shape.count) {
                self.node = usize::MAX;
            }
        }
        None
    }
}

/// StreamEntries from the last to the first; see [`StreamEntries::range_back`].
#[derive(Clone)]
pub struct EntryRangeBack<'a> {
    nodes: &'a VecDeque<Node>,
    /// How many nodes are left, the one that is being read too.
    left: usize,
    shape: Option<Shape>,
    at: usize,
    start: StreamId,
    end: StreamId,
}

impl<'a> Iterator for EntryRangeBack<'a> {
    type Item = StreamEntry<'a>;

    fn next(&mut self) -> Option<StreamEntry<'a>> {
        while self.left > 0 {
            let node = &self.nodes[self.left - 1];
            let shape = *self.shape.get_or_insert_with(|| {
                let shape = node.shape();
                self.at = node.position_behind(&shape, self.end);
                shape
            });
            while let Some(placed) = node.entry_before(&shape, self.at) {
                if placed.entry.id < self.start {
                    self.left = 0;
                    return None;
                }
                self.at = placed.at;
                if is_shown(&placed, self.start, self.end) {
                    return Some(placed.entry);
                }
            }
            (self.left, self.shape) = (self.left - 1, None);
            if !pace::goes_on(shape.count) {
                self.left = 0;
            }
        }
        None
    }
}

fn is_shown(placed: &Placed<'_>, start: StreamId, end: StreamId) -> bool {
    !placed.is_deleted && placed.entry.id >= start && placed.entry.id <= end
}

#[cfg(test)]
impl StreamEntries {
    /// The value of `heap_bytes`, counted; also checks the other invariants.
    pub fn counted_bytes(&self) -> usize {
        assert_eq!(self.len, self.nodes.iter().map(Node::count).sum::<usize>());
        assert!(self.nodes.iter().all(|node| node.heap_bytes() <= self.node_bytes_max));
        assert!(self.nodes.iter().zip(self.nodes.iter().skip(1)).all(|(a, b)| a.last() < b.first));
        for node in &self.nodes {
            let (same, _) = Node::from_bytes(node.first, node.view().bytes()).expect("a node is well formed");
            assert_eq!(node.marks(), same.marks());
        }
        nodes_bytes(self.nodes.capacity()) + self.nodes.iter().map(Node::heap_bytes).sum::<usize>()
    }
}
