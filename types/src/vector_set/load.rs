//! Building a set from stored nodes. Links are taken as they were stored, since choosing them again takes as long as adding all
//! vectors again. They are checked: nothing that a file says can break the invariants.

use smallvec::SmallVec;

use super::body::{Body, Node};
use super::graph::mixed;
use super::names::Names;
use super::vectors::Vector;
use super::{DIM_MAX, LEN_MAX, LEVEL_MAX, LINKS_MAX, LINKS_MIN, Projection, VectorSet, VectorShape};
use crate::Malformed;

/// The stored properties of a set beside its nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorHead {
    pub shape: VectorShape,
    pub projection: Option<Projection>,
    /// The number of nodes.
    pub len: u64,
    pub entry: u32,
    pub inserted: u64,
    pub uid: u64,
}

/// A stored node.
#[derive(Clone, Copy, Debug)]
pub struct StoredNode<'a> {
    pub name: &'a [u8],
    pub attributes: &'a [u8],
    pub norm: f32,
    /// The value that 127 stands for, where components are bytes.
    pub range: f32,
    /// The vector's bytes, little-endian.
    pub vector: &'a [u8],
    /// The ids of its neighbours, for each layer that it is in.
    pub links: &'a [Vec<u32>],
}

/// A set that is read node by node, in the order of their ids.
pub struct VectorLoader {
    body: Box<Body>,
    len: u64,
    seed: u64,
    /// The sum of the hashes of all links to higher ids, less those to lower ones: 0 when all are mutual.
    balance: u64,
}

impl VectorSet {
    pub fn head(&self) -> VectorHead {
        let Body { shape, ref projection, len, entry, inserted, uid, .. } = *self.0;
        VectorHead { shape, projection: projection.clone(), len: u64::from(len), entry, inserted, uid }
    }
}

impl VectorLoader {
    /// `seed` must not be known to those who may have forged what is read.
    ///
    /// # Errors
    /// When no set is like that.
    pub fn new(head: VectorHead, seed: u64) -> Result<Self, Malformed> {
        let VectorShape { dim, links, .. } = head.shape;
        let fits = (1..=DIM_MAX).contains(&dim)
            && (LINKS_MIN..=LINKS_MAX).contains(&links)
            && (1..=LEN_MAX as u64).contains(&head.len)
            && u64::from(head.entry) < head.len
            && head.projection.as_ref().is_none_or(|projection| (dim..=DIM_MAX).contains(&projection.from()));
        if !fits {
            return Err(Malformed("head of a vector set"));
        }
        let mut body = Box::new(Body::new(head.shape, head.projection));
        (body.entry, body.inserted, body.uid) = (head.entry, head.inserted, head.uid);
        Ok(Self { body, len: head.len, seed: mixed(seed), balance: 0 })
    }

    pub fn shape(&self) -> VectorShape {
        self.body.shape
    }

    /// Adds the next node.
    ///
    /// # Errors
    /// When it is malformed, or one too many.
    pub fn push(&mut self, node: StoredNode<'_>) -> Result<(), Malformed> {
        const LINKS: Malformed = Malformed("links of a vector set");
        let (id, body) = (self.body.len, &mut *self.body);
        let VectorShape { dim, quantization, links } = body.shape;
        let vector = Vector::from_bytes(node.vector, node.range, quantization, dim)
            .filter(|vector| vector.is_sound(dim))
            .ok_or(Malformed("vector of a vector set"))?;
        let level = node.links.len().checked_sub(1).filter(|level| *level <= LEVEL_MAX).ok_or(LINKS)?;
        if u64::from(id) >= self.len {
            return Err(Malformed("too many nodes in a vector set"));
        }
        let upper = vec![0; level * (1 + links as usize)].into();
        body.push_node(Node::new(node.name, node.attributes, node.norm, upper));
        body.vectors.push(&vector);
        for (layer, links) in node.links.iter().enumerate() {
            if links.len() > body.links_max(layer) || has_twice(links) {
                return Err(LINKS);
            }
            for link in links {
                if *link == id || u64::from(*link) >= self.len {
                    return Err(LINKS);
                }
                let (low, high) = (id.min(*link), id.max(*link));
                let hash = mixed(self.seed ^ mixed(u64::from(low) << 32 | u64::from(high)) ^ layer as u64);
                let hash = mixed(hash.wrapping_add(self.seed));
                self.balance = match id < *link {
                    true => self.balance.wrapping_add(hash),
                    false => self.balance.wrapping_sub(hash),
                };
            }
            body.load_links(id, layer, links);
        }
        Ok(())
    }

    /// The set, after its last node.
    ///
    /// # Errors
    /// When nodes are missing, a name is there twice, or links are not mutual.
    pub fn finish(self) -> Result<VectorSet, Malformed> {
        let mut body = self.body;
        if u64::from(body.len) != self.len {
            return Err(Malformed("number of nodes of a vector set"));
        }
        if self.balance != 0 {
            return Err(Malformed("links of a vector set that are not mutual"));
        }
        let mut ids: Vec<u32> = (0..body.len).collect();
        ids.sort_unstable_by(|one, other| body.name(*one).cmp(body.name(*other)));
        if ids.windows(2).any(|pair| body.name(pair[0]) == body.name(pair[1])) {
            return Err(Malformed("name twice in a vector set"));
        }
        body.names = Names::from_sorted(&ids);
        Ok(VectorSet(body))
    }
}

fn has_twice(links: &[u32]) -> bool {
    let mut sorted: SmallVec<[u32; 64]> = links.into();
    sorted.sort_unstable();
    sorted.windows(2).any(|pair| pair[0] == pair[1])
}
