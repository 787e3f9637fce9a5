//! The nodes of a set in arrays by id, and their links.

use std::collections::BTreeMap;

use super::Projection;
use super::attributes::AttributeSizes;
use super::names::{Names, Spot};
use super::slab::Slab;
use super::vectors::{Quantization, VectorRef, Vectors};
use crate::heap;

/// The properties that all vectors of a set share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VectorShape {
    /// The number of components.
    pub dim: u32,
    pub quantization: Quantization,
    /// M: a node has up to so many links in a layer, and twice as many in layer 0.
    pub links: u32,
}

#[derive(Debug)]
pub(super) struct Body {
    pub shape: VectorShape,
    pub projection: Option<Projection>,
    pub vectors: Vectors,
    /// For each node how many links it has in layer 0, and these.
    pub ground: Slab<u32>,
    pub nodes: Slab<Node>,
    pub names: Names,
    pub len: u32,
    /// The node at which searches begin.
    pub entry: u32,
    pub attributes: AttributeSizes,
    pub inserted: u64,
    pub uid: u64,
    /// The allocations of the nodes.
    pub node_bytes: usize,
    pub capture: Option<Box<Capture>>,
}

/// The parts of a node that a search seldom needs.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// The name, then the attributes.
    text: Box<[u8]>,
    name_len: u32,
    norm: f32,
    /// For each layer above layer 0 how many links the node has there, and these.
    upper: Box<[u32]>,
}

impl Node {
    pub fn new(name: &[u8], attributes: &[u8], norm: f32, upper: Box<[u32]>) -> Self {
        Self { text: [name, attributes].concat().into(), name_len: name.len() as u32, norm, upper }
    }

    pub fn heap_bytes(&self) -> usize {
        heap::allocation(self.text.len()) + heap::allocation(size_of_val::<[u32]>(&self.upper))
    }

    fn name(&self) -> &[u8] {
        &self.text[..self.name_len as usize]
    }

    fn attributes(&self) -> &[u8] {
        &self.text[self.name_len as usize..]
    }
}

/// A node of a set.
#[derive(Clone, Copy)]
pub struct NodeView<'a> {
    pub(super) body: &'a Body,
    pub(super) id: u32,
}

impl<'a> NodeView<'a> {
    pub fn name(self) -> &'a [u8] {
        self.body.node(self.id).name()
    }

    /// Empty if there are none.
    pub fn attributes(self) -> &'a [u8] {
        self.body.node(self.id).attributes()
    }

    /// The length of the vector before it was scaled.
    pub fn norm(self) -> f32 {
        self.body.node(self.id).norm
    }

    pub fn vector(self) -> VectorRef<'a> {
        self.body.vectors.get(self.id)
    }

    /// The vector as it was given, as far as it is known.
    pub fn components(self) -> Vec<f32> {
        self.vector().components(self.norm(), self.body.shape.dim)
    }

    /// The highest layer that the node is in.
    pub fn level(self) -> usize {
        self.body.level(self.id)
    }

    pub fn links(self, layer: usize) -> &'a [u32] {
        self.body.links(self.id, layer)
    }
}

impl Body {
    pub fn new(shape: VectorShape, projection: Option<Projection>) -> Self {
        Self {
            shape,
            projection,
            vectors: Vectors::new(shape.quantization, shape.dim),
            ground: Slab::new(1 + 2 * shape.links as usize),
            nodes: Slab::new(1),
            names: Names::default(),
            len: 0,
            entry: 0,
            attributes: AttributeSizes::default(),
            inserted: 0,
            uid: 0,
            node_bytes: 0,
            capture: None,
        }
    }

    pub fn heap_bytes(&self) -> usize {
        self.vectors.heap_bytes()
            + self.ground.heap_bytes()
            + self.nodes.heap_bytes()
            + self.names.heap_bytes()
            + self.node_bytes
            + self.projection.as_ref().map_or(0, Projection::heap_bytes)
    }

    /// The bytes that a node of this name adds at most, besides the name and its attributes: nothing if there is one.
    pub fn growth_for(&self, name: &[u8], seed: u64) -> usize {
        let Err(spot) = self.search_name(name) else { return 0 };
        let VectorShape { dim, quantization, links } = self.shape;
        let links = links as usize;
        let vector = quantization.vector_bytes(dim) + size_of::<f32>();
        let ground = (1 + 2 * links) * size_of::<u32>();
        let each = vector + ground + size_of::<Node>() + size_of::<u32>();
        let upper = self.level_of(name, seed) * (1 + links) * size_of::<u32>();
        let grown = self.vectors.growth() + self.ground.growth() + self.nodes.growth() + self.names.growth(spot);
        // Even if there is room for it: several nodes may be announced one by one before they come.
        heap::allocation(upper) + grown.max(each)
    }

    #[inline]
    pub fn node(&self, id: u32) -> &Node {
        &self.nodes.get(id)[0]
    }

    pub fn name(&self, id: u32) -> &[u8] {
        self.node(id).name()
    }

    pub fn search_name(&self, name: &[u8]) -> Result<Spot, Spot> {
        self.names.search(name, |id| self.name(id))
    }

    #[inline]
    pub fn distance(&self, one: u32, other: u32) -> f32 {
        self.vectors.get(one).distance(self.vectors.get(other), self.shape.dim)
    }

    /// How many links a node may have in a layer.
    pub fn links_max(&self, layer: usize) -> usize {
        if layer == 0 { 2 * self.shape.links as usize } else { self.shape.links as usize }
    }

    pub fn level(&self, id: u32) -> usize {
        self.node(id).upper.len() / (1 + self.shape.links as usize)
    }

    /// A node's links in a layer; none in one that it is not in.
    #[inline]
    pub fn links(&self, id: u32, layer: usize) -> &[u32] {
        let record = match layer {
            0 => self.ground.get(id),
            _ => {
                let stride = 1 + self.shape.links as usize;
                match self.node(id).upper.get((layer - 1) * stride..layer * stride) {
                    Some(record) => record,
                    None => return &[],
                }
            }
        };
        &record[1..1 + record[0] as usize]
    }

    /// The record of a node's links in a layer that it is in: their number, then these.
    fn record_mut(&mut self, id: u32, layer: usize) -> &mut [u32] {
        match layer {
            0 => self.ground.get_mut(id),
            _ => {
                let stride = 1 + self.shape.links as usize;
                &mut self.nodes.get_mut(id)[0].upper[(layer - 1) * stride..layer * stride]
            }
        }
    }

    pub fn has_room(&self, id: u32, layer: usize) -> bool {
        self.links(id, layer).len() < self.links_max(layer)
    }

    /// Links two nodes that both have room, and are not linked yet.
    pub fn link(&mut self, one: u32, other: u32, layer: usize) {
        for (from, to) in [(one, other), (other, one)] {
            self.put_aside(from);
            let record = self.record_mut(from, layer);
            let count = record[0] as usize;
            record[1 + count] = to;
            record[0] += 1;
        }
    }

    pub fn unlink(&mut self, one: u32, other: u32, layer: usize) {
        for (from, to) in [(one, other), (other, one)] {
            self.put_aside(from);
            let record = self.record_mut(from, layer);
            let count = record[0] as usize;
            if let Some(at) = record[1..1 + count].iter().position(|link| *link == to) {
                record.copy_within(2 + at..1 + count, 1 + at);
                record[0] -= 1;
            }
        }
    }

    /// Sets a node's links in a layer, as they were stored.
    pub fn load_links(&mut self, id: u32, layer: usize, links: &[u32]) {
        let record = self.record_mut(id, layer);
        record[0] = links.len() as u32;
        record[1..1 + links.len()].copy_from_slice(links);
    }

    /// Appends a node without links.
    pub fn push_node(&mut self, node: Node) {
        self.node_bytes += node.heap_bytes();
        self.attributes.add(node.attributes().len());
        self.nodes.push([node]);
        self.ground.push(std::iter::repeat_n(0, 1 + self.links_max(0)));
        self.len += 1;
    }

    /// Changes a node's parts beside its vector and its links.
    fn edit_node(&mut self, id: u32, change: impl FnOnce(&mut Node)) {
        self.put_aside(id);
        let node = &mut self.nodes.get_mut(id)[0];
        self.node_bytes -= node.heap_bytes();
        self.attributes.remove(node.attributes().len());
        change(node);
        self.node_bytes += node.heap_bytes();
        self.attributes.add(node.attributes().len());
    }

    pub fn set_attributes(&mut self, id: u32, attributes: &[u8]) {
        self.edit_node(id, |node| node.text = [node.name(), attributes].concat().into());
    }

    pub fn set_norm(&mut self, id: u32, norm: f32) {
        self.edit_node(id, |node| node.norm = norm);
    }

    /// Removes a node that has no links; the last node gets its id.
    pub fn take_out(&mut self, spot: Spot) {
        let id = self.names.id(spot);
        self.names.remove(spot);
        let last = self.len - 1;
        self.put_aside(id);
        self.put_aside(last);
        let node = self.node(id);
        let (bytes, attributes) = (node.heap_bytes(), node.attributes().len());
        if id != last {
            self.rename(last, id);
        }
        self.node_bytes -= bytes;
        self.attributes.remove(attributes);
        self.vectors.swap_remove(id);
        self.ground.swap_remove(id);
        self.nodes.swap_remove(id);
        self.len -= 1;
    }

    /// Tells all that name a node by its id that it gets another one.
    fn rename(&mut self, from: u32, to: u32) {
        for layer in 0..=self.level(from) {
            for at in 0..self.links(from, layer).len() {
                let neighbour = self.links(from, layer)[at];
                self.put_aside(neighbour);
                let record = self.record_mut(neighbour, layer);
                let count = record[0] as usize;
                record[1..1 + count].iter_mut().filter(|link| **link == from).for_each(|link| *link = to);
            }
        }
        if let Ok(spot) = self.search_name(self.name(from)) {
            self.names.set(spot, to);
        }
        if self.entry == from {
            self.entry = to;
        }
    }

    /// Frees about `budget` nodes from the end; returns whether none is left.
    pub fn dismantle(&mut self, budget: usize) -> bool {
        self.capture = None;
        let mut freed = 0;
        while freed < budget {
            let step =
                self.names.drop_block() + self.drop_nodes() + self.ground.drop_chunk() + self.vectors.drop_chunk();
            if step == 0 {
                return true;
            }
            // Each of the four parts is freed once.
            freed += step.div_ceil(4);
        }
        false
    }

    fn drop_nodes(&mut self) -> usize {
        let dropped = self.nodes.drop_chunk_with(|node| {
            self.node_bytes -= node.heap_bytes();
            self.attributes.remove(node.attributes().len());
        });
        self.len -= dropped as u32;
        dropped
    }
}

/// Appends the stored form of a node.
pub type WriteNode = fn(NodeView<'_>, &mut Vec<u8>);

/// A capture that goes on: see [`super::capture`].
#[derive(Debug)]
pub(super) struct Capture {
    pub id: u64,
    /// Comes before the nodes.
    pub head: Option<Vec<u8>>,
    pub next: u32,
    pub end: u32,
    pub aside: BTreeMap<u32, Box<[u8]>>,
    pub write: WriteNode,
}

impl Body {
    /// To be called before a node changes.
    #[inline]
    pub fn put_aside(&mut self, id: u32) {
        if self.capture.is_some() {
            self.put_aside_captured(id);
        }
    }

    #[cold]
    fn put_aside_captured(&mut self, id: u32) {
        let Some(mut capture) = self.capture.take() else { return };
        if (capture.next..capture.end).contains(&id) {
            let write = capture.write;
            capture.aside.entry(id).or_insert_with(|| {
                let mut bytes = Vec::new();
                write(NodeView { body: self, id }, &mut bytes);
                bytes.into()
            });
        }
        self.capture = Some(capture);
    }
}

impl Clone for Body {
    /// Without the capture.
    fn clone(&self) -> Self {
        let Self { vectors, ground, nodes, names, projection, .. } = self;
        let (vectors, ground, nodes, names) = (vectors.clone(), ground.clone(), nodes.clone(), names.clone());
        Self { vectors, ground, nodes, names, projection: projection.clone(), capture: None, ..*self }
    }
}

#[cfg(test)]
impl Body {
    pub fn counted_bytes(&self) -> usize {
        let len = self.len as usize;
        let nodes: Vec<&Node> = (0..self.len).map(|id| self.node(id)).collect();
        let mut sizes = AttributeSizes::default();
        nodes.iter().for_each(|node| sizes.add(node.attributes().len()));
        assert_eq!(self.attributes, sizes);
        assert!(self.len == 0 || self.entry < self.len);
        let in_order: Vec<u32> = self.names.iter_from(self.search_name(b"").unwrap_or_else(|spot| spot)).collect();
        assert_eq!(in_order.len(), len);
        assert!(in_order.windows(2).all(|pair| self.node(pair[0]).name() < self.node(pair[1]).name()));
        for id in 0..self.len {
            for layer in 0..=self.level(id) {
                let links = self.links(id, layer);
                assert!(links.len() <= self.links_max(layer));
                for (at, link) in links.iter().enumerate() {
                    assert!(*link != id && !links[..at].contains(link), "{id} has a link twice or to itself");
                    assert!(self.links(*link, layer).contains(&id), "{id} and {link} are not linked mutually");
                }
            }
        }
        self.vectors.counted_bytes(len)
            + self.ground.counted_bytes(len)
            + self.nodes.counted_bytes(len)
            + self.names.counted_bytes()
            + nodes.iter().map(|node| node.heap_bytes()).sum::<usize>()
            + self.projection.as_ref().map_or(0, Projection::heap_bytes)
    }
}
