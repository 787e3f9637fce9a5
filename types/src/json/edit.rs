//! Changing a document.
//!
//! One change is made where it is: the bytes behind it move, and the containers around it get other lengths. Several changes
//! are made in one pass that copies the document, so that their number does not multiply its length. Changes inside a
//! value come before the change of that value, which then sees what they have made of it.

use smallvec::SmallVec;

use super::node::JsonNode;
use super::{BYTES_MAX, DEPTH_MAX, HEAD_BYTES, Json, set_head};
use crate::pace;

/// The change of one value.
#[derive(Debug)]
pub enum Edit {
    Keep,
    /// It is replaced by this encoded one.
    Replace(Vec<u8>),
    /// It is a container, and gets so many more values at an offset from its own beginning, encoded.
    Insert {
        at: usize,
        bytes: Vec<u8>,
        count: usize,
    },
    /// It is a container, and loses so many values, which take so many bytes at an offset from its own beginning.
    Cut {
        at: usize,
        bytes: usize,
        count: usize,
    },
    /// It is taken out of its container, with its name.
    Remove,
}

/// Why a document stays as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    #[error("recursion limit exceeded")]
    TooDeep,
    #[error("the document is too large")]
    TooLarge,
}

impl Json {
    /// Asks `change` what becomes of each of the values at these offsets, and does it. `places` are in ascending order; one
    /// that is there twice is changed twice. Returns whether anything was changed; a document that has lost its outermost
    /// value is empty.
    ///
    /// # Errors
    /// That of `change`, or if the document would become too large or too deep. It stays as it was.
    pub fn edit<E: From<EditError>>(
        &mut self,
        places: &[usize],
        mut change: impl FnMut(usize, JsonNode<'_>) -> Result<Edit, E>,
    ) -> Result<bool, E> {
        match places {
            [] => Ok(false),
            [at] => {
                let edit = change(0, JsonNode::at_offset(self.bytes(), *at))?;
                Ok(self.edit_one(*at, edit)?)
            }
            _ => {
                let mut pass =
                    Pass { places, next: 0, change, out: Vec::with_capacity(self.bytes().len()), changed: false };
                let stays = pass.copy(self.root(), 0)?;
                let Pass { out, changed, .. } = pass;
                if changed {
                    *self = if stays { Self::of(&out).ok_or(EditError::TooLarge)? } else { Self::new() };
                }
                Ok(changed)
            }
        }
    }

    /// Adds a member to the object at an offset, behind the others, whether or not it has one of this name.
    ///
    /// # Errors
    /// If the document would become too large or too deep. It stays as it was.
    pub fn add_member(&mut self, at: usize, name: &[u8], value: &[u8]) -> Result<(), EditError> {
        let object = JsonNode::at_offset(self.bytes(), at);
        let mut bytes = Vec::with_capacity(name.len() + value.len() + 5);
        super::put_string(&mut bytes, name);
        bytes.extend_from_slice(value);
        let edit = Edit::Insert { at: object.end() - at, bytes, count: 1 };
        // The depth is that of the value, not that of its name.
        self.edit_one_of_depth(at, edit, JsonNode::of(value).depth()).map(drop)
    }

    fn edit_one(&mut self, at: usize, edit: Edit) -> Result<bool, EditError> {
        let depth = added_depth(&edit);
        self.edit_one_of_depth(at, edit, depth)
    }

    fn edit_one_of_depth(&mut self, at: usize, edit: Edit, depth: usize) -> Result<bool, EditError> {
        let (around, member) = self.containers_around(at);
        let node = JsonNode::at_offset(self.bytes(), at);
        // The container whose number of values changes, and by how much.
        let outer = around.last().copied();
        let (from, removed, inserted, (counted, added, lost)) = match edit {
            Edit::Keep => return Ok(false),
            Edit::Remove if outer.is_none() => {
                *self = Self::new();
                return Ok(true);
            }
            Edit::Replace(bytes) => (at, node.end() - at, bytes, (None, 0, 0)),
            Edit::Insert { at: offset, bytes, count } => (at + offset, 0, bytes, (Some(at), count, 0)),
            Edit::Cut { at: offset, bytes, count } => (at + offset, bytes, Vec::new(), (Some(at), 0, count)),
            Edit::Remove => (member, node.end() - member, Vec::new(), (outer, 0, 1)),
        };
        let levels = around.len() + usize::from(added > 0);
        if depth > 0 && levels + depth > DEPTH_MAX {
            return Err(EditError::TooDeep);
        }
        if self.bytes().len() - removed + inserted.len() > BYTES_MAX {
            return Err(EditError::TooLarge);
        }
        let resized = around.iter().copied().chain(counted.filter(|_| counted != outer));
        let heads: SmallVec<[(usize, usize, usize); 16]> = resized
            .map(|container| {
                let children = JsonNode::at_offset(self.bytes(), container);
                let bytes = children.end() - container - HEAD_BYTES - removed + inserted.len();
                let count = if counted == Some(container) { children.len() + added - lost } else { children.len() };
                (container, bytes, count)
            })
            .collect();
        pace::step((self.bytes().len() - from) / pace::BYTES_PER_ELEMENT);
        self.splice(from, removed, &inserted);
        let body = self.0.body_mut();
        heads.iter().for_each(|(container, bytes, count)| set_head(&mut body[*container..], *bytes, *count));
        Ok(true)
    }

    /// The offsets of the containers around a value, the outermost first, and the offset of its name, or its own.
    fn containers_around(&self, at: usize) -> (SmallVec<[usize; 16]>, usize) {
        let (mut around, mut node, mut member) = (SmallVec::new(), self.root(), at);
        while node.at() != at {
            around.push(node.at());
            let mut children = node.children();
            let inner = loop {
                let offset = children.offset();
                match children.next() {
                    Some((_, child)) if child.encloses(at) => break Some((offset, child)),
                    Some(_) => {}
                    None => break None,
                }
            };
            let Some((offset, child)) = inner else { break };
            (member, node) = (offset, child);
        }
        (around, member)
    }
}

/// How deep the values are that an edit adds.
fn added_depth(edit: &Edit) -> usize {
    match edit {
        Edit::Replace(bytes) => JsonNode::of(bytes).depth(),
        Edit::Insert { bytes, .. } => {
            let (mut next, mut depth) = (0, 0);
            while next < bytes.len() {
                let node = JsonNode::at_offset(bytes, next);
                depth = depth.max(node.depth());
                next = node.end();
            }
            depth
        }
        Edit::Keep | Edit::Cut { .. } | Edit::Remove => 0,
    }
}

/// A pass over a document that makes several changes.
struct Pass<'p, F> {
    places: &'p [usize],
    /// The number of the next place.
    next: usize,
    change: F,
    out: Vec<u8>,
    changed: bool,
}

impl<F> Pass<'_, F> {
    /// Copies a value inside of `level` containers, with what becomes of it. Returns whether it stays.
    fn copy<E: From<EditError>>(&mut self, node: JsonNode<'_>, level: usize) -> Result<bool, E>
    where
        F: FnMut(usize, JsonNode<'_>) -> Result<Edit, E>,
    {
        let (start, end, first) = (self.out.len(), node.end(), self.next);
        while self.places.get(self.next) == Some(&node.at()) {
            self.next += 1;
        }
        let own = first..self.next;
        let is_inside = |place: &&usize| **place < end;
        if node.is_container() && self.places.get(self.next).filter(is_inside).is_some() {
            self.copy_children(node, level)?;
        } else {
            pace::extend(&mut self.out, node.bytes());
        }
        for place in own {
            let edit = (self.change)(place, JsonNode::of(&self.out[start..]))?;
            let depth = added_depth(&edit);
            let levels = level + usize::from(matches!(edit, Edit::Insert { .. }));
            if depth > 0 && levels + depth > DEPTH_MAX {
                return Err(EditError::TooDeep.into());
            }
            self.changed |= !matches!(edit, Edit::Keep);
            if !self.apply(start, edit) {
                return Ok(false);
            }
            if self.out.len() > BYTES_MAX {
                return Err(EditError::TooLarge.into());
            }
        }
        Ok(true)
    }

    fn copy_children<E: From<EditError>>(&mut self, node: JsonNode<'_>, level: usize) -> Result<(), E>
    where
        F: FnMut(usize, JsonNode<'_>) -> Result<Edit, E>,
    {
        let start = self.out.len();
        self.out.extend_from_slice(&node.bytes()[..HEAD_BYTES]);
        let mut children = node.children();
        let mut count = children.len();
        pace::step(count);
        loop {
            let (offset, member) = (children.offset(), self.out.len());
            let Some((_, child)) = children.next() else { break };
            let name = offset - node.at()..child.at() - node.at();
            self.out.extend_from_slice(&node.bytes()[name]);
            if !self.copy(child, level + 1)? {
                self.out.truncate(member);
                count -= 1;
            }
        }
        let bytes = self.out.len() - start - HEAD_BYTES;
        set_head(&mut self.out[start..], bytes, count);
        Ok(())
    }

    /// Changes the value that begins at `start` and ends what was written. Returns whether it stays.
    fn apply(&mut self, start: usize, edit: Edit) -> bool {
        let count = JsonNode::of(&self.out[start..]).len();
        let count = match edit {
            Edit::Keep => return true,
            Edit::Remove => return false,
            Edit::Replace(bytes) => {
                self.out.truncate(start);
                self.out.extend_from_slice(&bytes);
                return true;
            }
            Edit::Insert { at, bytes, count: more } => {
                self.out.splice(start + at..start + at, bytes);
                count + more
            }
            Edit::Cut { at, bytes, count: less } => {
                self.out.drain(start + at..start + at + bytes);
                count - less
            }
        };
        let bytes = self.out.len() - start - HEAD_BYTES;
        set_head(&mut self.out[start..], bytes, count);
        true
    }
}
