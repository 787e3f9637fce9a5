//! Vector sets: names with a vector each, found by the similarity of their vectors.
//!
//! A set is a hierarchical navigable small world (Malkov and Yashunin, arXiv:1603.09320): a graph whose nodes are linked to
//! near ones. Every node is in layer 0, one of M of these in layer 1 too, one of M of those in layer 2, and so on. A search
//! walks down the layers from one entry, always to the nearest neighbour, and explores layer 0 where it arrives.
//!
//! | part | holds |
//! | --- | --- |
//! | [`vectors`] | the vectors, scaled to length 1 and quantized, one after the other |
//! | [`body`] | links of layer 0, likewise; names, attributes and links of higher layers |
//! | [`attributes`] | how large the attributes are |
//! | [`names`] | the ids in the order of their names |
//! | [`graph`] | adding to the graph and removing from it |
//! | [`search`] | searching |
//! | [`capture`] | the set as it was at one moment |
//! | [`load`] | building a set from stored nodes, links included |
//!
//! A node's id is its place in these arrays. The last node gets the id of one that is removed, so ids are dense, and a link
//! takes four bytes.
//!
//! Nothing here is random, as a log must replay to the same graph: a node's layers follow from a hash of its name, keyed
//! by the database's seed, so that a client cannot choose them.
//!
//! Invariants:
//! - Links are mutual: if a node is linked to another one in a layer, that one is linked to it there. So the links of a
//!   node name all nodes that must be told when it goes or gets another id.
//! - A node has at most 2 M links in layer 0 and M in each higher layer, and is not linked to itself.

mod attributes;
mod body;
mod capture;
mod distance;
mod graph;
mod load;
mod names;
mod projection;
mod search;
mod slab;
mod vectors;

#[cfg(test)]
mod tests;

use std::fmt;

use crate::heap;

pub use body::{NodeView, VectorShape, WriteNode};
pub use load::{StoredNode, VectorHead, VectorLoader};
pub use projection::Projection;
pub use search::{Accepts, NearNode};
pub use vectors::{Quantization, VectorRef};

use body::Body;
use vectors::Vector;

/// Layers above layer 0, at most.
pub const LEVEL_MAX: usize = 15;
/// The number of components that a vector may have.
pub const DIM_MAX: u32 = 1 << 16;
/// Bounds of M.
pub const LINKS_MIN: u32 = 4;
pub const LINKS_MAX: u32 = 4096;
/// Ids are 31 bits: searches use the last one.
pub const LEN_MAX: usize = (1 << 31) - 1;

#[derive(Clone)]
pub struct VectorSet(Box<Body>);

impl Default for VectorSet {
    fn default() -> Self {
        Self::new()
    }
}

impl VectorSet {
    /// A set that has no shape yet: see [`Self::with_shape`].
    pub fn new() -> Self {
        Self(Box::new(Body::new(VectorShape { dim: 0, quantization: Quantization::Q8, links: LINKS_MIN }, None)))
    }

    /// An empty set of vectors of one shape. `projection`: how vectors that are added come to have that shape.
    pub fn with_shape(shape: VectorShape, projection: Option<Projection>) -> Self {
        Self(Box::new(Body::new(shape, projection)))
    }

    pub fn shape(&self) -> VectorShape {
        self.0.shape
    }

    pub fn projection(&self) -> Option<&Projection> {
        self.0.projection.as_ref()
    }

    pub fn len(&self) -> usize {
        self.0.len as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn encoding(&self) -> &'static str {
        "raw"
    }

    /// The address of its first allocation: only ever prefetched.
    pub(crate) fn address(&self) -> *const u8 {
        std::ptr::from_ref::<Body>(&self.0).cast()
    }

    pub fn heap_bytes(&self) -> usize {
        heap::allocation(size_of::<Body>()) + self.0.heap_bytes()
    }

    /// The bytes that a vector of this name adds at most, besides the name and its attributes, with the seed that it is added
    /// with.
    pub fn growth_for(&self, name: &[u8], seed: u64) -> usize {
        self.0.growth_for(name, seed)
    }

    /// The number of the highest layer that searches begin in.
    pub fn level_max(&self) -> usize {
        if self.is_empty() { 0 } else { self.0.level(self.0.entry) }
    }

    /// How many nodes have attributes.
    pub fn attribute_count(&self) -> usize {
        self.0.attributes.count as usize
    }

    /// The bytes that the attributes of so many nodes have at most.
    pub fn attribute_bytes_max(&self, nodes: usize) -> usize {
        self.0.attributes.bytes_max(nodes)
    }

    /// How many vectors were added or replaced so far.
    pub fn inserted(&self) -> u64 {
        self.0.inserted
    }

    /// A number that hardly any other set has.
    pub fn uid(&self) -> u64 {
        self.0.uid
    }

    /// Adds a vector, or replaces that of a name that exists; returns whether it is new. `attributes`: `None` keeps those
    /// that there are, and empty ones are none. `effort`: how many near nodes are looked at in each layer, from which the
    /// new one's neighbours are chosen. The vector must have as many components as the set's shape says.
    pub fn add(&mut self, name: &[u8], vector: &[f32], attributes: Option<&[u8]>, effort: usize, seed: u64) -> bool {
        let body = &mut *self.0;
        let (vector, norm) = Vector::new(vector, body.shape.quantization);
        body.inserted += 1;
        match body.search_name(name) {
            Ok(spot) => {
                let id = body.names.id(spot);
                body.replace_vector(id, &vector, norm, effort);
                if let Some(attributes) = attributes {
                    body.set_attributes(id, attributes);
                }
                false
            }
            Err(spot) => {
                if body.len == 0 {
                    body.uid = graph::hash_of(name, seed) >> 12;
                }
                let id = body.insert(name, attributes.unwrap_or_default(), &vector, norm, effort, seed);
                body.names.insert(spot, id);
                true
            }
        }
    }

    /// Removes a name; returns whether it existed.
    pub fn remove(&mut self, name: &[u8]) -> bool {
        let Ok(spot) = self.0.search_name(name) else { return false };
        self.0.remove(spot);
        true
    }

    pub fn find(&self, name: &[u8]) -> Option<u32> {
        self.0.search_name(name).ok().map(|spot| self.0.names.id(spot))
    }

    /// Sets the attributes of a name that exists; empty ones are none. Returns whether it exists.
    pub fn set_attributes(&mut self, name: &[u8], attributes: &[u8]) -> bool {
        let Some(id) = self.find(name) else { return false };
        self.0.set_attributes(id, attributes);
        true
    }

    /// A node by its id, which must be below the length.
    pub fn node(&self, id: u32) -> NodeView<'_> {
        NodeView { body: &self.0, id }
    }

    /// The distance of two nodes.
    pub fn distance(&self, one: u32, other: u32) -> f32 {
        self.0.distance(one, other)
    }

    /// The ids in the order of their names, from the first name at or behind `from`.
    pub fn names_from(&self, from: &[u8]) -> impl Iterator<Item = u32> + '_ {
        let spot = self.0.search_name(from).unwrap_or_else(|spot| spot);
        self.0.names.iter_from(spot)
    }

    /// Frees about `budget` nodes; returns whether nothing is left. The set is of no other use from then on.
    pub fn dismantle(&mut self, budget: usize) -> bool {
        let is_done = self.0.dismantle(budget);
        if is_done {
            *self = Self::new();
        }
        is_done
    }
}

/// All that it holds, as text.
impl fmt::Debug for VectorSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = &self.0;
        write!(f, "{:?} {:?} from {} after {}", body.shape, body.projection, body.entry, body.inserted)?;
        for id in 0..body.len {
            let node = self.node(id);
            write!(f, "; {}", node.name().escape_ascii())?;
            write!(f, " {} x {:?} {}", node.norm(), node.vector(), node.attributes().escape_ascii())?;
            for layer in 0..=node.level() {
                write!(f, " {:?}", node.links(layer))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
impl VectorSet {
    /// The value of `heap_bytes`, counted; also checks the other invariants.
    pub fn counted_bytes(&self) -> usize {
        heap::allocation(size_of::<Body>()) + self.0.counted_bytes()
    }
}
