//! A value of any kind, and what all kinds have in common.

use crate::hash::Hash;
use crate::heap;
use crate::list::List;
use crate::set::Set;
use crate::sorted_set::SortedSet;
use crate::stream::Stream;

/// A value that is not the plain bytes of a record.
#[derive(Clone, Debug)]
pub enum Object {
    /// A string that is too large to be stored with its key.
    Text(Vec<u8>),
    List(List),
    Hash(Hash),
    Set(Set),
    SortedSet(SortedSet),
    Stream(Stream),
}

const _: () = assert!(size_of::<Object>() == 24);

impl Object {
    pub fn kind(&self) -> Kind {
        match self {
            Object::Text(_) => Kind::String,
            Object::List(_) => Kind::List,
            Object::Hash(_) => Kind::Hash,
            Object::Set(_) => Kind::Set,
            Object::SortedSet(_) => Kind::SortedSet,
            Object::Stream(_) => Kind::Stream,
        }
    }

    /// The allocated bytes that the value owns, besides the `Object` itself.
    pub fn heap_bytes(&self) -> usize {
        match self {
            Object::Text(text) => heap::allocation(text.capacity()),
            Object::List(list) => list.heap_bytes(),
            Object::Hash(hash) => hash.heap_bytes(),
            Object::Set(set) => set.heap_bytes(),
            Object::SortedSet(set) => set.heap_bytes(),
            Object::Stream(stream) => stream.heap_bytes(),
        }
    }

    /// The address of its first allocation: only ever prefetched.
    pub fn address(&self) -> *const u8 {
        match self {
            Object::Text(text) => text.as_ptr(),
            Object::List(list) => list.address(),
            Object::Hash(hash) => hash.address(),
            Object::Set(set) => set.address(),
            Object::SortedSet(set) => set.address(),
            Object::Stream(stream) => stream.address(),
        }
    }

    /// Redis's name of the encoding.
    pub fn encoding(&self) -> &'static str {
        match self {
            Object::Text(_) => "raw",
            Object::List(list) => list.encoding(),
            Object::Hash(hash) => hash.encoding(),
            Object::Set(set) => set.encoding(),
            Object::SortedSet(set) => set.encoding(),
            Object::Stream(stream) => stream.encoding(),
        }
    }

    /// The number of elements; of a text, its bytes.
    pub fn len(&self) -> usize {
        match self {
            Object::Text(text) => text.len(),
            Object::List(list) => list.len(),
            Object::Hash(hash) => hash.len(),
            Object::Set(set) => set.len(),
            Object::SortedSet(set) => set.len(),
            Object::Stream(stream) => stream.parts(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Frees about `budget` elements; returns whether the value is empty now. A large value must be freed in pieces, so
    /// that no command waits for it.
    pub fn dismantle(&mut self, budget: usize) -> bool {
        match self {
            Object::Text(text) => {
                *text = Vec::new();
                true
            }
            Object::List(list) => list.dismantle(budget),
            Object::Hash(hash) => hash.dismantle(budget),
            Object::Set(set) => set.dismantle(budget),
            Object::SortedSet(set) => set.dismantle(budget),
            Object::Stream(stream) => stream.dismantle(budget),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    String,
    List,
    Hash,
    Set,
    SortedSet,
    Stream,
}

impl Kind {
    /// Redis's name of the type, as `TYPE` replies.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::String => "string",
            Kind::List => "list",
            Kind::Hash => "hash",
            Kind::Set => "set",
            Kind::SortedSet => "zset",
            Kind::Stream => "stream",
        }
    }
}

/// The keyspace's requirements of every collection, whichever kind it is.
pub trait Collection: Sized {
    const KIND: Kind;
    /// Whether a collection without elements is a value. Others are deleted when their last element goes.
    const MAY_BE_EMPTY: bool;

    /// An empty collection; only a stream allocates anything.
    fn new() -> Self;
    fn len(&self) -> usize;
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The allocated bytes, besides the collection itself.
    fn heap_bytes(&self) -> usize;
    fn encoding(&self) -> &'static str;
    /// Frees about `budget` elements; returns whether nothing is left.
    fn dismantle(&mut self, budget: usize) -> bool;

    fn as_object(object: &Object) -> Option<&Self>;
    fn as_object_mut(object: &mut Object) -> Option<&mut Self>;
    fn from_object(object: Object) -> Option<Self>;
    fn into_object(self) -> Object;
}

macro_rules! collections {
    ($($kind:ident: $may_be_empty:literal),*) => {$(
        impl Collection for $kind {
            const KIND: Kind = Kind::$kind;
            const MAY_BE_EMPTY: bool = $may_be_empty;

            fn new() -> Self {
                $kind::new()
            }
            fn len(&self) -> usize {
                self.len()
            }
            fn heap_bytes(&self) -> usize {
                self.heap_bytes()
            }
            fn encoding(&self) -> &'static str {
                self.encoding()
            }
            fn dismantle(&mut self, budget: usize) -> bool {
                self.dismantle(budget)
            }
            fn as_object(object: &Object) -> Option<&Self> {
                match object {
                    Object::$kind(collection) => Some(collection),
                    _ => None,
                }
            }
            fn as_object_mut(object: &mut Object) -> Option<&mut Self> {
                match object {
                    Object::$kind(collection) => Some(collection),
                    _ => None,
                }
            }
            fn from_object(object: Object) -> Option<Self> {
                match object {
                    Object::$kind(collection) => Some(collection),
                    _ => None,
                }
            }
            fn into_object(self) -> Object {
                Object::$kind(self)
            }
        }
    )*};
}

collections!(List: false, Hash: false, Set: false, SortedSet: false, Stream: true);
