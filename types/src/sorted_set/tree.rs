//! A counted B+ tree: the members of a sorted set in the order of score, then member.
//!
//! ```text
//! inner: | first entry, count, node | first entry, count, node | ...       up to 64 children
//! leaf:  | score, member | score, member | ...                             up to 64 entries
//! ```
//!
//! 1. An entry is its score and a pointer to the member, which the set's hash table shares. With the score at hand, a search
//!    only looks at a member where scores are equal.
//! 2. A child is known by a copy of its first entry, always exact, and by the number of entries below it. So the rank of a
//!    place is the sum of the counts to its left, and an entry is found by its rank, in one walk from the root.
//! 3. Every search is one question, "how many entries come before?", put as a predicate that is true for a prefix of the
//!    order: [`Tree::rank`]. Ranges by score or by member become ranges by rank, and all reading is [`Tree::range`].
//! 4. A full node is cut in the middle; but at either edge of the tree the new entry gets a node of its own, so that a set
//!    filled in order has full leaves.
//! 5. A node that has become small is joined with a neighbour if both fit in one. No node is empty but the root.
//!
//! Nodes are vectors that grow in steps of about an eighth, so that little room is unused.

use std::cmp::Ordering;
use std::ops::Range;

use smallvec::SmallVec;

use super::super::heap;
use crate::entry::Scored;
use crate::pace;

/// Most entries or children of a node.
const NODE_MAX: usize = 64;
/// A node with fewer looks for a neighbour to join, if together they are at most `JOIN_MAX`.
const SMALL: usize = 24;
const JOIN_MAX: usize = 56;

#[derive(Clone)]
pub(super) struct Entry {
    pub score: f64,
    pub member: Scored,
}

impl Entry {
    pub fn new(member: &Scored) -> Self {
        Entry { score: member.score(), member: member.clone() }
    }

    /// The order of a sorted set. Scores are numbers, and -0 equals 0.
    pub fn compare(&self, score: f64, member: &[u8]) -> Ordering {
        self.score.partial_cmp(&score).unwrap_or(Ordering::Equal).then_with(|| self.member.member().cmp(member))
    }
}

struct Child {
    first: Entry,
    count: usize,
    node: Node,
}

enum Node {
    Leaf(Vec<Entry>),
    Inner(Vec<Child>),
}

pub(super) struct Tree {
    root: Node,
    len: usize,
    /// Of the nodes; the members are not counted.
    bytes: usize,
}

/// Whether a node is at the left or right edge of the tree.
#[derive(Clone, Copy)]
struct Edge {
    first: bool,
    last: bool,
}

impl Tree {
    pub fn new() -> Self {
        Tree { root: Node::Leaf(Vec::new()), len: 0, bytes: 0 }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn heap_bytes(&self) -> usize {
        self.bytes
    }

    /// Adds an entry that must be new.
    pub fn insert(&mut self, entry: Entry) {
        self.len += 1;
        let split = self.root.insert(entry, Edge { first: true, last: true }, &mut self.bytes);
        if let Some(right) = split {
            let left = std::mem::replace(&mut self.root, Node::Inner(Vec::new()));
            let left = Child { first: left.first().clone(), count: self.len - right.count, node: left };
            if let Node::Inner(children) = &mut self.root {
                add(children, 0, left, &mut self.bytes);
                add(children, 1, right, &mut self.bytes);
            }
        }
    }

    /// Returns whether the entry existed.
    pub fn remove(&mut self, score: f64, member: &[u8]) -> bool {
        let removed = self.root.remove(score, member, &mut self.bytes);
        if removed {
            self.len -= 1;
            self.lower_root();
        }
        removed
    }

    /// Gives an entry another score if it keeps its place with it, which is looked at inside its leaf only. Returns
    /// false if nothing was done.
    pub fn change_score(&mut self, old: f64, member: &[u8], new: f64) -> bool {
        let mut node = &mut self.root;
        loop {
            match node {
                Node::Leaf(entries) => {
                    let index = entries.partition_point(|entry| entry.compare(old, member).is_lt());
                    // The first entry of a leaf is known to its parents too.
                    let Some([before, entry, after]) =
                        index.checked_sub(1).and_then(|i| entries[i..].first_chunk_mut())
                    else {
                        return false;
                    };
                    let keeps_place = before.compare(new, member).is_lt() && after.compare(new, member).is_gt();
                    if keeps_place && entry.compare(old, member).is_eq() {
                        entry.score = new;
                        return true;
                    }
                    return false;
                }
                Node::Inner(children) => {
                    let after = children.partition_point(|child| child.first.compare(old, member).is_le());
                    let Some(index) = after.checked_sub(1) else { return false };
                    node = &mut children[index].node;
                }
            }
        }
    }

    /// Removes the entries with these ranks, showing each to `visit`.
    pub fn remove_range(&mut self, ranks: Range<usize>, visit: &mut impl FnMut(Entry)) {
        let end = ranks.end.min(self.len);
        let start = ranks.start.min(end);
        if start < end {
            self.root.remove_range(start, end, &mut self.bytes, visit);
            self.len -= end - start;
            self.lower_root();
        }
    }

    /// How many entries satisfy `before`. They must be the first ones.
    pub fn rank(&self, before: impl Fn(&Entry) -> bool) -> usize {
        let (mut node, mut rank) = (&self.root, 0);
        loop {
            match node {
                Node::Leaf(entries) => return rank + entries.partition_point(&before),
                Node::Inner(children) => {
                    let Some(index) = children.partition_point(|child| before(&child.first)).checked_sub(1) else {
                        return rank;
                    };
                    rank += children[..index].iter().map(|child| child.count).sum::<usize>();
                    node = &children[index].node;
                }
            }
        }
    }

    /// The entries with these ranks, from either end.
    pub fn range(&self, ranks: Range<usize>) -> Entries<'_> {
        let end = ranks.end.min(self.len);
        Entries { tree: self, start: ranks.start.min(end), end, front: None, back: None }
    }

    fn lower_root(&mut self) {
        while let Node::Inner(children) = &mut self.root
            && children.len() <= 1
        {
            let only = measured(children, &mut self.bytes, |children| {
                let only = children.pop();
                *children = Vec::new();
                only
            });
            self.root = only.map_or(Node::Leaf(Vec::new()), |child| child.node);
        }
    }
}

impl Node {
    /// The first entry of a node that is not empty.
    fn first(&self) -> &Entry {
        match self {
            Node::Leaf(entries) => &entries[0],
            Node::Inner(children) => &children[0].first,
        }
    }

    fn width(&self) -> usize {
        match self {
            Node::Leaf(entries) => entries.len(),
            Node::Inner(children) => children.len(),
        }
    }

    /// Returns the right part, if the node had to be cut.
    fn insert(&mut self, entry: Entry, edge: Edge, bytes: &mut usize) -> Option<Child> {
        match self {
            Node::Leaf(entries) => {
                let index = entries.partition_point(|other| other.compare(entry.score, entry.member.member()).is_lt());
                let right = put(entries, index, entry, edge, bytes)?;
                Some(Child { first: right[0].clone(), count: right.len(), node: Node::Leaf(right) })
            }
            Node::Inner(children) => {
                let after =
                    children.partition_point(|child| child.first.compare(entry.score, entry.member.member()).is_lt());
                let index = after.saturating_sub(1);
                let edge = Edge { first: edge.first && index == 0, last: edge.last && index + 1 == children.len() };
                let child = &mut children[index];
                if after == 0 {
                    child.first = entry.clone();
                }
                child.count += 1;
                let right = child.node.insert(entry, edge, bytes)?;
                child.count -= right.count;
                let right = put(children, index + 1, right, edge, bytes)?;
                let count = right.iter().map(|child| child.count).sum();
                Some(Child { first: right[0].first.clone(), count, node: Node::Inner(right) })
            }
        }
    }

    fn remove(&mut self, score: f64, member: &[u8], bytes: &mut usize) -> bool {
        match self {
            Node::Leaf(entries) => {
                let index = entries.partition_point(|entry| entry.compare(score, member).is_lt());
                let found = entries.get(index).is_some_and(|entry| entry.compare(score, member).is_eq());
                if found {
                    measured(entries, bytes, |entries| {
                        entries.remove(index);
                        release_room(entries);
                    });
                }
                found
            }
            Node::Inner(children) => {
                let after = children.partition_point(|child| child.first.compare(score, member).is_le());
                let Some(index) = after.checked_sub(1) else { return false };
                let child = &mut children[index];
                if !child.node.remove(score, member, bytes) {
                    return false;
                }
                child.count -= 1;
                if child.count > 0 && child.first.compare(score, member).is_eq() {
                    child.first = child.node.first().clone();
                }
                tidy(children, index, bytes);
                true
            }
        }
    }

    fn remove_range(&mut self, start: usize, end: usize, bytes: &mut usize, visit: &mut impl FnMut(Entry)) {
        match self {
            Node::Leaf(entries) => measured(entries, bytes, |entries| {
                entries.drain(start..end).for_each(visit);
                release_room(entries);
            }),
            Node::Inner(children) => {
                let (mut offset, mut touched) = (0, None);
                for (index, child) in children.iter_mut().enumerate() {
                    let (from, to) = (start.max(offset), end.min(offset + child.count));
                    if from < to {
                        touched.get_or_insert(index);
                        child.node.remove_range(from - offset, to - offset, bytes, visit);
                        let whole = from == offset;
                        offset += child.count;
                        child.count -= to - from;
                        if whole && child.count > 0 {
                            child.first = child.node.first().clone();
                        }
                    } else {
                        offset += child.count;
                    }
                }
                // Emptied nodes have given their room back already.
                measured(children, bytes, |children| {
                    children.retain(|child| child.count > 0);
                    release_room(children);
                });
                let touched = touched.unwrap_or(0);
                tidy(children, touched + 1, bytes);
                tidy(children, touched, bytes);
            }
        }
    }
}

/// Removes a child if it is empty, joins it with a neighbour if it is small.
fn tidy(children: &mut Vec<Child>, index: usize, bytes: &mut usize) {
    let Some(child) = children.get(index) else { return };
    if child.count == 0 {
        measured(children, bytes, |children| {
            children.remove(index);
            release_room(children);
        });
        return;
    }
    let width = child.node.width();
    if width >= SMALL {
        return;
    }
    let fits = |neighbour: Option<&Child>| neighbour.is_some_and(|child| child.node.width() + width <= JOIN_MAX);
    let left = if fits(children.get(index + 1)) {
        index
    } else if index > 0 && fits(children.get(index - 1)) {
        index - 1
    } else {
        return;
    };
    let right = measured(children, bytes, |children| {
        let right = children.remove(left + 1);
        release_room(children);
        right
    });
    let joined = &mut children[left];
    joined.count += right.count;
    match (&mut joined.node, right.node) {
        (Node::Leaf(entries), Node::Leaf(more)) => join(entries, more, bytes),
        (Node::Inner(children), Node::Inner(more)) => join(children, more, bytes),
        _ => unreachable!("the children of a node are of one height"),
    }
}

fn join<T>(left: &mut Vec<T>, mut right: Vec<T>, bytes: &mut usize) {
    *bytes -= footprint(&right);
    measured(left, bytes, |left| {
        left.reserve_exact(right.len());
        left.append(&mut right);
    });
}

/// Inserts into a node's vector. If that is full it is cut, and the right part is returned.
fn put<T>(items: &mut Vec<T>, index: usize, item: T, edge: Edge, bytes: &mut usize) -> Option<Vec<T>> {
    if items.len() < NODE_MAX {
        add(items, index, item, bytes);
        return None;
    }
    let right = measured(items, bytes, |items| {
        if edge.last && index == items.len() {
            return vec![item];
        }
        if edge.first && index == 0 {
            return std::mem::replace(items, vec![item]);
        }
        let middle = items.len() / 2;
        let mut right = items.split_off(middle);
        if index <= middle {
            items.insert(index, item);
        } else {
            right.reserve_exact(room(right.len()));
            right.insert(index - middle, item);
        }
        release_room(items);
        right
    });
    *bytes += footprint(&right);
    Some(right)
}

fn add<T>(items: &mut Vec<T>, index: usize, item: T, bytes: &mut usize) {
    if items.len() < items.capacity() {
        items.insert(index, item);
    } else {
        measured(items, bytes, |items| {
            items.reserve_exact(room(items.len()));
            items.insert(index, item);
        });
    }
}

/// How many items to make room for beyond `len`.
fn room(len: usize) -> usize {
    (len / 8).max(4).min(NODE_MAX.saturating_sub(len)).max(1)
}

fn release_room<T>(items: &mut Vec<T>) {
    if items.is_empty() {
        *items = Vec::new();
    } else if items.capacity() - items.len() > NODE_MAX / 4 {
        items.shrink_to(items.len() + room(items.len()));
    }
}

fn footprint<T>(items: &Vec<T>) -> usize {
    heap::allocation(items.capacity() * size_of::<T>())
}

/// Changes a node's vector and keeps count of its bytes.
fn measured<T, R>(items: &mut Vec<T>, bytes: &mut usize, change: impl FnOnce(&mut Vec<T>) -> R) -> R {
    *bytes -= footprint(items);
    let answer = change(items);
    *bytes += footprint(items);
    answer
}

/// Entries in order; see [`Tree::range`].
#[derive(Clone)]
pub(super) struct Entries<'a> {
    tree: &'a Tree,
    start: usize,
    end: usize,
    /// At the entries given last from either end.
    front: Option<Walk<'a>>,
    back: Option<Walk<'a>>,
}

impl<'a> Iterator for Entries<'a> {
    type Item = &'a Entry;

    fn next(&mut self) -> Option<&'a Entry> {
        if self.start >= self.end {
            return None;
        }
        let walk = match &mut self.front {
            Some(walk) => {
                walk.forward();
                if walk.index == 0 && pace::is_ended() {
                    self.start = self.end;
                    return None;
                }
                walk
            }
            None => self.front.insert(Walk::to(&self.tree.root, self.start)),
        };
        self.start += 1;
        walk.leaf.get(walk.index)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.end - self.start, Some(self.end - self.start))
    }
}

impl<'a> DoubleEndedIterator for Entries<'a> {
    fn next_back(&mut self) -> Option<&'a Entry> {
        if self.start >= self.end {
            return None;
        }
        let walk = match &mut self.back {
            Some(walk) => {
                walk.backward();
                if walk.index + 1 == walk.leaf.len() && pace::is_ended() {
                    self.start = self.end;
                    return None;
                }
                walk
            }
            None => self.back.insert(Walk::to(&self.tree.root, self.end - 1)),
        };
        self.end -= 1;
        walk.leaf.get(walk.index)
    }
}

impl ExactSizeIterator for Entries<'_> {}

/// A place in the tree: the path to a leaf, and the entry's index in it.
#[derive(Clone)]
struct Walk<'a> {
    path: SmallVec<[(&'a [Child], usize); 4]>,
    leaf: &'a [Entry],
    index: usize,
}

impl<'a> Walk<'a> {
    fn to(root: &'a Node, rank: usize) -> Self {
        let mut walk = Walk { path: SmallVec::new(), leaf: &[], index: 0 };
        walk.descend(root, rank);
        walk
    }

    /// Goes on from `node` to the entry with this rank below it; beyond the last, to the last.
    fn descend(&mut self, mut node: &'a Node, mut rank: usize) {
        loop {
            match node {
                Node::Leaf(entries) => {
                    self.leaf = entries;
                    self.index = rank.min(entries.len().saturating_sub(1));
                    return;
                }
                Node::Inner(children) => {
                    let mut index = 0;
                    while index + 1 < children.len() && rank >= children[index].count {
                        rank -= children[index].count;
                        index += 1;
                    }
                    self.path.push((children, index));
                    node = &children[index].node;
                }
            }
        }
    }

    fn forward(&mut self) {
        if self.index + 1 < self.leaf.len() {
            self.index += 1;
            return;
        }
        pace::step(self.leaf.len());
        while let Some((children, index)) = self.path.pop() {
            if let Some(child) = children.get(index + 1) {
                self.path.push((children, index + 1));
                return self.descend(&child.node, 0);
            }
        }
    }

    fn backward(&mut self) {
        if self.index > 0 {
            self.index -= 1;
            return;
        }
        pace::step(self.leaf.len());
        while let Some((children, index)) = self.path.pop() {
            if index > 0 {
                self.path.push((children, index - 1));
                return self.descend(&children[index - 1].node, usize::MAX);
            }
        }
    }
}

#[cfg(test)]
impl Tree {
    /// The value of `heap_bytes`, counted; also checks the other invariants.
    pub fn counted_bytes(&self) -> usize {
        let (bytes, count, _) = self.root.counted();
        assert_eq!(count, self.len);
        bytes
    }
}

#[cfg(test)]
impl Node {
    fn counted(&self) -> (usize, usize, usize) {
        match self {
            Node::Leaf(entries) => (footprint(entries), entries.len(), 0),
            Node::Inner(children) => {
                assert!((1..=NODE_MAX).contains(&children.len()));
                let mut heights = Vec::new();
                let (mut bytes, mut total) = (footprint(children), 0);
                for child in children {
                    assert!(std::ptr::eq(child.first.member.member(), child.node.first().member.member()));
                    assert!(child.node.width() <= NODE_MAX && child.count > 0);
                    let (below, count, height) = child.node.counted();
                    assert_eq!(count, child.count);
                    bytes += below;
                    total += count;
                    heights.push(height);
                }
                assert!(heights.windows(2).all(|two| two[0] == two[1]));
                (bytes, total, heights[0] + 1)
            }
        }
    }
}
