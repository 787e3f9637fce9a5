//! Adding to the graph and removing from it.
//!
//! A new node is linked, in each of its layers, to near nodes of different directions:
//!
//! 1. A search finds the nearest nodes. From the nearest on, one is *chosen* unless it is nearer to one that was chosen than to
//!    the new node: then that one leads to it. Up to M are chosen. If few are, the nearest of the others are taken too.
//! 2. A chosen node that is full gives up the farthest of its links that is *covered*: whose node is nearer to another of its
//!    neighbours, or to the new one. A node that would have few links left gets one to the new node instead.
//! 3. If all nodes near it keep their links, the new node is put between the nearest and the farthest of its neighbours.
//!
//! When a node goes, its neighbours lose a link each. They are linked in pairs, the nearest first. Those that stay with few
//! links get some to the neighbours of their neighbours, and one without any is linked as if it were new.

use std::collections::HashSet;

use super::LEVEL_MAX;
use super::body::{Body, Node};
use super::names::Spot;
use super::search::{NearNode, Visited};
use super::vectors::Vector;

/// Near nodes that are looked at for one that has lost all of its links.
const REPAIR_EFFORT: usize = 64;
/// How many of a full node's links are looked at for one that can go.
const COVERED_LOOKS: usize = 32;

impl Body {
    /// Adds a node; its name is not in the order of names yet. Returns its id.
    pub fn insert(
        &mut self,
        name: &[u8],
        attributes: &[u8],
        vector: &Vector,
        norm: f32,
        effort: usize,
        seed: u64,
    ) -> u32 {
        let (id, level) = (self.len, self.level_of(name, seed));
        let near = self.near(vector, level, effort);
        let stride = 1 + self.shape.links as usize;
        self.push_node(Node::new(name, attributes, norm, vec![0; level * stride].into()));
        self.vectors.push(vector);
        self.join(id, &near);
        id
    }

    /// Replaces a node's vector, and links it accordingly.
    pub fn replace_vector(&mut self, id: u32, vector: &Vector, norm: f32, effort: usize) {
        self.put_aside(id);
        self.leave(id);
        self.set_norm(id, norm);
        self.vectors.set(id, vector);
        if self.len > 1 {
            let near = self.near(vector, self.level(id), effort);
            self.join(id, &near);
        }
    }

    /// Removes a node.
    pub fn remove(&mut self, spot: Spot) {
        self.leave(self.names.id(spot));
        self.take_out(spot);
    }

    /// The layers above layer 0 that a node of this name is in.
    pub fn level_of(&self, name: &[u8], seed: u64) -> usize {
        let one_of = u64::from(self.shape.links.max(2));
        let mut hash = hash_of(name, seed);
        let mut level = 0;
        while level < LEVEL_MAX && hash.is_multiple_of(one_of) {
            hash = mixed(hash ^ seed.rotate_left(17));
            level += 1;
        }
        level
    }

    /// The nodes near a vector in each layer up to `level` that there is, from layer 0 on.
    fn near(&self, vector: &Vector, level: usize, effort: usize) -> Vec<Vec<NearNode>> {
        if self.len == 0 {
            return Vec::new();
        }
        let query = vector.as_ref();
        let top = level.min(self.level(self.entry));
        let mut visited = Visited::new(self.len);
        let mut start = self.descend(query, top);
        let mut near: Vec<Vec<NearNode>> = (0..=top)
            .rev()
            .map(|layer| {
                let found = self.explore(query, start, effort.min(self.len as usize).max(1), layer, &mut visited);
                start = found.first().copied().unwrap_or(start);
                found
            })
            .collect();
        near.reverse();
        near
    }

    /// Links a node that has no links to nodes near it.
    fn join(&mut self, id: u32, near: &[Vec<NearNode>]) {
        for (layer, near) in near.iter().enumerate() {
            self.connect(id, layer, near);
        }
        if self.entry >= self.len || self.level(id) > self.level(self.entry) {
            self.entry = id;
        }
    }

    /// Links a node in a layer to some of those near it, the nearest of which come first.
    fn connect(&mut self, id: u32, layer: usize, near: &[NearNode]) {
        let most = self.shape.links as usize;
        let (mut chosen, mut others) = (Vec::<NearNode>::with_capacity(most), Vec::new());
        for found in near.iter().filter(|found| found.id != id) {
            if chosen.len() == most {
                break;
            }
            let is_led_to = chosen.iter().any(|other| self.distance(other.id, found.id) < found.distance);
            if is_led_to { others.push(*found) } else { chosen.push(*found) }
        }
        for found in &chosen {
            self.link_or_displace(id, *found, layer);
        }
        for found in others {
            if self.links(id, layer).len() >= self.few() {
                break;
            }
            self.link_or_displace(id, found, layer);
        }
        if self.links(id, layer).is_empty()
            && let Some(nearest) = near.iter().find(|found| found.id != id)
        {
            self.squeeze_in(id, nearest.id, layer);
        }
    }

    /// A node with fewer links than this is hard to find.
    fn few(&self) -> usize {
        (self.shape.links as usize / 2).max(1)
    }

    /// Links a node to another one, which may have to give up a link.
    fn link_or_displace(&mut self, id: u32, to: NearNode, layer: usize) {
        if !self.has_room(id, layer) || self.links(id, layer).contains(&to.id) {
            return;
        }
        if self.has_room(to.id, layer) {
            return self.link(id, to.id, layer);
        }
        let neighbours = self.neighbours(to.id, layer);
        let farther = neighbours.iter().rev().take_while(|neighbour| neighbour.distance > to.distance);
        let is_covered = |far: &NearNode| {
            self.distance(far.id, id) < far.distance
                || neighbours
                    .iter()
                    .take_while(|near| near.distance < far.distance)
                    .any(|near| self.distance(far.id, near.id) < far.distance)
        };
        let needs = self.links(id, layer).len() < self.few();
        let can_go = |far: &&NearNode| {
            let left = self.links(far.id, layer).len() - 1;
            left >= self.few() || self.links_max(layer) > self.links(id, layer).len() + 1 || left > 0 && needs
        };
        let mut candidates = farther.filter(can_go);
        let displaced = match candidates.clone().take(COVERED_LOOKS).find(|far| is_covered(far)) {
            None if needs => candidates.next(),
            displaced => displaced,
        };
        let Some(displaced) = displaced.map(|displaced| displaced.id) else { return };
        self.unlink(to.id, displaced, layer);
        self.link(id, to.id, layer);
        if self.links(displaced, layer).len() < self.few()
            && self.has_room(id, layer)
            && !self.links(id, layer).contains(&displaced)
        {
            self.link(id, displaced, layer);
        }
    }

    /// Links a node that has no links to another one, and to the farthest of that one's neighbours in its place.
    fn squeeze_in(&mut self, id: u32, to: u32, layer: usize) {
        if !self.has_room(to, layer)
            && let Some(far) = self.neighbours(to, layer).pop()
        {
            self.unlink(to, far.id, layer);
            self.link(id, far.id, layer);
        }
        self.link(id, to, layer);
    }

    /// The neighbours of a node with their distances from it, the nearest first.
    fn neighbours(&self, id: u32, layer: usize) -> Vec<NearNode> {
        let found = |link: &u32| NearNode { distance: self.distance(id, *link), id: *link };
        let mut found: Vec<NearNode> = self.links(id, layer).iter().map(found).collect();
        found.sort_unstable_by(nearer);
        found
    }

    /// Takes a node's links away, and repairs the graph around it. It keeps its layers.
    fn leave(&mut self, id: u32) {
        let level = self.level(id);
        if self.entry == id {
            self.entry = self.other_entry(id);
        }
        for layer in (0..=level).rev() {
            let former = self.links(id, layer).to_vec();
            former.iter().for_each(|other| self.unlink(id, *other, layer));
            self.repair(&former, layer);
        }
    }

    /// The node at which searches begin without this one: the neighbour in the most layers.
    fn other_entry(&self, id: u32) -> u32 {
        let neighbours = (0..=self.level(id)).rev().flat_map(|layer| self.links(id, layer));
        let best = neighbours.copied().max_by_key(|other| (self.level(*other), std::cmp::Reverse(*other)));
        best.unwrap_or(if id == 0 { self.len.min(2) - 1 } else { 0 })
    }

    /// Gives nodes that have lost a link another one.
    fn repair(&mut self, nodes: &[u32], layer: usize) {
        let mut pairs = Vec::new();
        for (at, one) in nodes.iter().enumerate() {
            let linked = self.sorted_links(*one, layer);
            for other in &nodes[at + 1..] {
                if linked.binary_search(other).is_err() {
                    pairs.push((NearNode { distance: self.distance(*one, *other), id: *other }, *one));
                }
            }
        }
        pairs.sort_unstable_by(|(one, from), (other, other_from)| nearer(one, other).then(from.cmp(other_from)));
        let mut linked = HashSet::with_capacity(nodes.len());
        for (found, one) in pairs {
            let is_done = linked.contains(&one) || linked.contains(&found.id);
            if !is_done && self.has_room(one, layer) && self.has_room(found.id, layer) {
                self.link(one, found.id, layer);
                linked.extend([one, found.id]);
            }
        }
        // As many as there are pairs: a set from elsewhere may be such that all of its nodes have few links.
        let mut looks = nodes.len() * nodes.len();
        for node in nodes {
            if self.links(*node, layer).len() < self.few() {
                self.reinforce(*node, layer, &mut looks);
            }
        }
    }

    fn sorted_links(&self, id: u32, layer: usize) -> Vec<u32> {
        let mut links = self.links(id, layer).to_vec();
        links.sort_unstable();
        links
    }

    /// Gives a node with few links some more. `looks`: how many neighbours of neighbours may still be looked at.
    fn reinforce(&mut self, id: u32, layer: usize, looks: &mut usize) {
        let linked = self.sorted_links(id, layer);
        let beyond = self.links(id, layer).iter().flat_map(|neighbour| self.links(*neighbour, layer));
        let mut others: Vec<u32> = beyond.copied().take(*looks).collect();
        *looks -= others.len();
        others.sort_unstable();
        others.dedup();
        others.retain(|other| *other != id && linked.binary_search(other).is_err());
        let found = |other: u32| NearNode { distance: self.distance(id, other), id: other };
        let mut near: Vec<NearNode> = others.into_iter().map(found).collect();
        near.sort_unstable_by(nearer);
        for found in near {
            if self.links(id, layer).len() >= self.few() {
                return;
            }
            if self.has_room(found.id, layer) {
                self.link(id, found.id, layer);
            }
        }
        if self.links(id, layer).is_empty() && self.level(self.entry) >= layer && self.entry != id {
            let query = self.vectors.get(id);
            let start = self.descend(query, layer);
            let near = self.explore(query, start, REPAIR_EFFORT, layer, &mut Visited::new(self.len));
            self.connect(id, layer, &near);
        }
    }
}

/// The nearer first, and of nodes that are as near that of the lower id.
fn nearer(one: &NearNode, other: &NearNode) -> std::cmp::Ordering {
    one.distance.total_cmp(&other.distance).then(one.id.cmp(&other.id))
}

/// A hash of a name that stays the same for ever, since stored logs are replayed with it.
pub(super) fn hash_of(name: &[u8], seed: u64) -> u64 {
    let start = mixed(seed ^ 0x9e37_79b9_7f4a_7c15);
    mixed(name.iter().fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)))
}

/// Spreads each bit over all others: the last step of MurmurHash3.
pub(super) fn mixed(mut hash: u64) -> u64 {
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}
