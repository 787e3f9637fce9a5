//! Searches: the nodes nearest to a vector.

use super::VectorSet;
use super::body::Body;
use super::vectors::{Vector, VectorRef};
use crate::entry::prefetch;
use crate::pace;

/// A node with its distance from what was searched for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NearNode {
    pub distance: f32,
    pub id: u32,
}

/// A condition that nodes must meet, given by their ids.
pub type Accepts<'a> = &'a mut dyn FnMut(u32) -> bool;

/// Distances of short vectors that are about as much work as one element, and components beyond which they are longer.
const DISTANCES_PER_ELEMENT: usize = 8;
const COMPONENTS_PER_DISTANCE: usize = 256;

impl VectorSet {
    /// The nodes near a vector, the nearest first: of `effort` near ones that the graph leads to.
    pub fn nearest(&self, vector: &[f32], effort: usize) -> Vec<NearNode> {
        let body = &*self.0;
        if body.len == 0 {
            return Vec::new();
        }
        let (query, _) = Vector::new(vector, body.shape.quantization);
        let mut visited = Visited::new(body.len);
        let start = body.descend(query.as_ref(), 0);
        body.explore(query.as_ref(), start, effort.min(self.len()), 0, &mut visited)
    }

    /// The same of the nodes that meet a condition. The links of at most `visits_max` nodes are followed.
    pub fn nearest_where(
        &self,
        vector: &[f32],
        effort: usize,
        visits_max: usize,
        accepts: Accepts<'_>,
    ) -> Vec<NearNode> {
        let body = &*self.0;
        if body.len == 0 {
            return Vec::new();
        }
        let (query, _) = Vector::new(vector, body.shape.quantization);
        let start = body.descend(query.as_ref(), 0);
        body.explore_where(query.as_ref(), start, effort.min(self.len()), visits_max, accepts)
    }

    /// The `count` nodes nearest to a vector that meet a condition, found by looking at all of them.
    pub fn nearest_of_all(&self, vector: &[f32], count: usize, accepts: Accepts<'_>) -> Vec<NearNode> {
        let body = &*self.0;
        let (query, _) = Vector::new(vector, body.shape.quantization);
        let mut beam = Beam::new(count.min(self.len()));
        for id in 0..body.len {
            if (id as usize).is_multiple_of(DISTANCES_PER_ELEMENT) && !pace::goes_on(body.step()) {
                break;
            }
            if accepts(id) {
                beam.offer(NearNode { distance: body.distance_from(query.as_ref(), id), id });
            }
        }
        beam.into_found()
    }
}

impl Body {
    #[inline]
    pub fn distance_from(&self, query: VectorRef<'_>, id: u32) -> f32 {
        query.distance(self.vectors.get(id), self.shape.dim)
    }

    /// The work of [`DISTANCES_PER_ELEMENT`] distances.
    fn step(&self) -> usize {
        1 + self.shape.dim as usize / COMPONENTS_PER_DISTANCE
    }

    /// Walks down from the entry to the layer above `layer`, always to the nearest neighbour. Returns where it arrives.
    pub fn descend(&self, query: VectorRef<'_>, layer: usize) -> NearNode {
        let mut here = NearNode { distance: self.distance_from(query, self.entry), id: self.entry };
        for layer in (layer + 1..=self.level(self.entry)).rev() {
            loop {
                let before = here.id;
                for link in self.links(before, layer) {
                    self.vectors.prefetch(*link);
                }
                for link in self.links(before, layer) {
                    let distance = self.distance_from(query, *link);
                    if distance < here.distance {
                        here = NearNode { distance, id: *link };
                    }
                }
                if here.id == before {
                    break;
                }
            }
        }
        here
    }

    /// The `effort` nearest nodes of a layer that links from `start` lead to.
    pub fn explore(
        &self,
        query: VectorRef<'_>,
        start: NearNode,
        effort: usize,
        layer: usize,
        visited: &mut Visited,
    ) -> Vec<NearNode> {
        visited.clear();
        visited.add(start.id);
        let mut beam = Beam::new(effort);
        beam.offer(start);
        let mut fresh = Vec::with_capacity(self.links_max(layer));
        let step = self.step();
        while let Some(here) = beam.next().filter(|_| !pace::is_ended()) {
            fresh.clear();
            for link in self.links(here, layer) {
                if visited.add(*link) {
                    self.vectors.prefetch(*link);
                    fresh.push(*link);
                }
            }
            pace::step(step * (1 + fresh.len() / DISTANCES_PER_ELEMENT));
            for id in &fresh {
                let distance = self.distance_from(query, *id);
                if beam.offer(NearNode { distance, id: *id }) {
                    prefetch(self.ground.address(*id));
                }
            }
        }
        beam.into_found()
    }

    /// The same in layer 0 of the nodes that meet a condition. Others lead on, but are not found.
    fn explore_where(
        &self,
        query: VectorRef<'_>,
        start: NearNode,
        effort: usize,
        visits_max: usize,
        accepts: Accepts<'_>,
    ) -> Vec<NearNode> {
        let mut visited = Visited::new(self.len);
        visited.add(start.id);
        let mut ahead = std::collections::BinaryHeap::from([Ahead(start)]);
        let mut beam = Beam::new(effort);
        if accepts(start.id) {
            beam.offer(start);
        }
        let step = self.step();
        for _ in 0..visits_max {
            let Some(Ahead(here)) = ahead.pop() else { break };
            if beam.refuses(here.distance) || pace::is_ended() {
                break;
            }
            for link in self.links(here.id, 0) {
                self.vectors.prefetch(*link);
            }
            for link in self.links(here.id, 0) {
                if !visited.add(*link) {
                    continue;
                }
                pace::step(step);
                let found = NearNode { distance: self.distance_from(query, *link), id: *link };
                if beam.refuses(found.distance) {
                    continue;
                }
                ahead.push(Ahead(found));
                if accepts(*link) {
                    beam.offer(found);
                }
            }
        }
        beam.into_found()
    }
}

/// The nodes that a search has seen.
pub(super) struct Visited {
    words: Vec<u64>,
    /// The words that are not zero.
    touched: Vec<u32>,
}

impl Visited {
    pub fn new(len: u32) -> Self {
        Self { words: vec![0; (len as usize).div_ceil(64)], touched: Vec::new() }
    }

    /// Returns whether the node was not seen before.
    #[inline]
    pub fn add(&mut self, id: u32) -> bool {
        let (at, bit) = (id / 64, 1 << (id % 64));
        let word = &mut self.words[at as usize];
        let is_new = *word & bit == 0;
        if *word == 0 {
            self.touched.push(at);
        }
        *word |= bit;
        is_new
    }

    pub fn clear(&mut self) {
        for at in self.touched.drain(..) {
            self.words[at as usize] = 0;
        }
    }
}

/// The nearest nodes so far, the nearest first, and which of them have led on.
struct Beam {
    /// The last bit of an id says that it has led on.
    found: Vec<NearNode>,
    room: usize,
    /// All before it have led on.
    next: usize,
}

const HAS_LED_ON: u32 = 1 << 31;

impl Beam {
    fn new(room: usize) -> Self {
        Self { found: Vec::with_capacity(room.min(1 << 10)), room, next: 0 }
    }

    /// Whether nodes that far are not among the nearest.
    #[inline]
    fn refuses(&self, distance: f32) -> bool {
        self.found.len() >= self.room && self.found.last().is_none_or(|last| distance >= last.distance)
    }

    /// Takes a node if it is among the nearest; returns whether it is.
    #[inline]
    fn offer(&mut self, found: NearNode) -> bool {
        if self.refuses(found.distance) {
            return false;
        }
        let at = self.found.partition_point(|other| other.distance <= found.distance);
        if self.found.len() >= self.room {
            self.found.pop();
        }
        self.found.insert(at, found);
        self.next = self.next.min(at);
        true
    }

    /// The nearest node that has not led on.
    #[inline]
    fn next(&mut self) -> Option<u32> {
        while let Some(found) = self.found.get_mut(self.next) {
            self.next += 1;
            if found.id & HAS_LED_ON == 0 {
                let id = found.id;
                found.id |= HAS_LED_ON;
                return Some(id);
            }
        }
        None
    }

    fn into_found(mut self) -> Vec<NearNode> {
        self.found.iter_mut().for_each(|found| found.id &= !HAS_LED_ON);
        self.found
    }
}

/// A node that may lead on: the nearest is the greatest.
#[derive(PartialEq)]
struct Ahead(NearNode);

impl Eq for Ahead {}

impl PartialOrd for Ahead {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ahead {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.0.distance.total_cmp(&self.0.distance).then(other.0.id.cmp(&self.0.id))
    }
}
