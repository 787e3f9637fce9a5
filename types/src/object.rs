//! A value of any kind, and what all kinds have in common.

use crate::array::Array;
use crate::filter::{Bloom, Cuckoo, Filter};
use crate::hash::Hash;
use crate::heap;
use crate::json::Json;
use crate::list::List;
use crate::pace;
use crate::set::Set;
use crate::sorted_set::SortedSet;
use crate::stream::Stream;
use crate::vector_set::VectorSet;

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
    Array(Array),
    Filter(Filter),
    Json(Json),
    VectorSet(VectorSet),
}

/// An object to be read. A record stores it in the space of a pointer, so it has no `Object` to lend.
#[derive(Clone, Copy, Debug)]
pub enum ObjectRef<'a> {
    Text(&'a Vec<u8>),
    List(&'a List),
    Hash(&'a Hash),
    Set(&'a Set),
    SortedSet(&'a SortedSet),
    Stream(&'a Stream),
    Array(&'a Array),
    Filter(&'a Filter),
    Json(&'a Json),
    VectorSet(&'a VectorSet),
}

/// An object to be changed.
#[derive(Debug)]
pub enum ObjectMut<'a> {
    Text(&'a mut Vec<u8>),
    List(&'a mut List),
    Hash(&'a mut Hash),
    Set(&'a mut Set),
    SortedSet(&'a mut SortedSet),
    Stream(&'a mut Stream),
    Array(&'a mut Array),
    Filter(&'a mut Filter),
    Json(&'a mut Json),
    VectorSet(&'a mut VectorSet),
}

impl Object {
    pub fn as_ref(&self) -> ObjectRef<'_> {
        match self {
            Object::Text(text) => ObjectRef::Text(text),
            Object::List(list) => ObjectRef::List(list),
            Object::Hash(hash) => ObjectRef::Hash(hash),
            Object::Set(set) => ObjectRef::Set(set),
            Object::SortedSet(set) => ObjectRef::SortedSet(set),
            Object::Stream(stream) => ObjectRef::Stream(stream),
            Object::Array(array) => ObjectRef::Array(array),
            Object::Filter(filter) => ObjectRef::Filter(filter),
            Object::Json(json) => ObjectRef::Json(json),
            Object::VectorSet(set) => ObjectRef::VectorSet(set),
        }
    }

    pub fn as_mut(&mut self) -> ObjectMut<'_> {
        match self {
            Object::Text(text) => ObjectMut::Text(text),
            Object::List(list) => ObjectMut::List(list),
            Object::Hash(hash) => ObjectMut::Hash(hash),
            Object::Set(set) => ObjectMut::Set(set),
            Object::SortedSet(set) => ObjectMut::SortedSet(set),
            Object::Stream(stream) => ObjectMut::Stream(stream),
            Object::Array(array) => ObjectMut::Array(array),
            Object::Filter(filter) => ObjectMut::Filter(filter),
            Object::Json(json) => ObjectMut::Json(json),
            Object::VectorSet(set) => ObjectMut::VectorSet(set),
        }
    }
}

impl ObjectRef<'_> {
    pub fn to_object(self) -> Object {
        match self {
            ObjectRef::Text(text) => Object::Text(pace::copied(text)),
            ObjectRef::List(list) => Object::List(list.clone()),
            ObjectRef::Hash(hash) => Object::Hash(hash.clone()),
            ObjectRef::Set(set) => Object::Set(set.clone()),
            ObjectRef::SortedSet(set) => Object::SortedSet(set.clone()),
            ObjectRef::Stream(stream) => Object::Stream(stream.clone()),
            ObjectRef::Array(array) => Object::Array(array.clone()),
            ObjectRef::Filter(filter) => Object::Filter(filter.clone()),
            ObjectRef::Json(json) => Object::Json(json.clone()),
            ObjectRef::VectorSet(set) => Object::VectorSet(set.clone()),
        }
    }

    pub fn kind(self) -> Kind {
        match self {
            ObjectRef::Text(_) => Kind::String,
            ObjectRef::List(_) => Kind::List,
            ObjectRef::Hash(_) => Kind::Hash,
            ObjectRef::Set(_) => Kind::Set,
            ObjectRef::SortedSet(_) => Kind::SortedSet,
            ObjectRef::Stream(_) => Kind::Stream,
            ObjectRef::Array(_) => Kind::Array,
            ObjectRef::Filter(filter) if filter.bloom().is_some() => Kind::Bloom,
            ObjectRef::Filter(_) => Kind::Cuckoo,
            ObjectRef::Json(_) => Kind::Json,
            ObjectRef::VectorSet(_) => Kind::VectorSet,
        }
    }

    /// The allocated bytes that the value owns, besides the pointer to them.
    pub fn heap_bytes(self) -> usize {
        match self {
            ObjectRef::Text(text) => heap::allocation(text.capacity()),
            ObjectRef::List(list) => list.heap_bytes(),
            ObjectRef::Hash(hash) => hash.heap_bytes(),
            ObjectRef::Set(set) => set.heap_bytes(),
            ObjectRef::SortedSet(set) => set.heap_bytes(),
            ObjectRef::Stream(stream) => stream.heap_bytes(),
            ObjectRef::Array(array) => array.heap_bytes(),
            ObjectRef::Filter(filter) => filter.heap_bytes(),
            ObjectRef::Json(json) => json.heap_bytes(),
            ObjectRef::VectorSet(set) => set.heap_bytes(),
        }
    }

    /// The address of its first allocation: only ever prefetched.
    pub fn address(self) -> *const u8 {
        match self {
            ObjectRef::Text(text) => text.as_ptr(),
            ObjectRef::List(list) => list.address(),
            ObjectRef::Hash(hash) => hash.address(),
            ObjectRef::Set(set) => set.address(),
            ObjectRef::SortedSet(set) => set.address(),
            ObjectRef::Stream(stream) => stream.address(),
            ObjectRef::Array(array) => array.address(),
            ObjectRef::Filter(filter) => filter.address(),
            ObjectRef::Json(json) => json.address(),
            ObjectRef::VectorSet(set) => set.address(),
        }
    }

    /// Redis's name of the encoding.
    pub fn encoding(self) -> &'static str {
        match self {
            ObjectRef::Text(_) => "raw",
            ObjectRef::List(list) => list.encoding(),
            ObjectRef::Hash(hash) => hash.encoding(),
            ObjectRef::Set(set) => set.encoding(),
            ObjectRef::SortedSet(set) => set.encoding(),
            ObjectRef::Stream(stream) => stream.encoding(),
            ObjectRef::Array(array) => array.encoding(),
            ObjectRef::Filter(filter) => filter.encoding(),
            ObjectRef::Json(json) => json.encoding(),
            ObjectRef::VectorSet(set) => set.encoding(),
        }
    }

    /// The number of elements; of a text, its bytes; of a document, 1.
    pub fn len(self) -> usize {
        match self {
            ObjectRef::Text(text) => text.len(),
            ObjectRef::List(list) => list.len(),
            ObjectRef::Hash(hash) => hash.len(),
            ObjectRef::Set(set) => set.len(),
            ObjectRef::SortedSet(set) => set.len(),
            ObjectRef::Stream(stream) => stream.parts(),
            ObjectRef::Array(array) => array.len(),
            ObjectRef::Filter(filter) => filter.len(),
            ObjectRef::Json(json) => json.len(),
            ObjectRef::VectorSet(set) => set.len(),
        }
    }

    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

impl ObjectMut<'_> {
    pub fn reborrow(&mut self) -> ObjectMut<'_> {
        match self {
            ObjectMut::Text(text) => ObjectMut::Text(text),
            ObjectMut::List(list) => ObjectMut::List(list),
            ObjectMut::Hash(hash) => ObjectMut::Hash(hash),
            ObjectMut::Set(set) => ObjectMut::Set(set),
            ObjectMut::SortedSet(set) => ObjectMut::SortedSet(set),
            ObjectMut::Stream(stream) => ObjectMut::Stream(stream),
            ObjectMut::Array(array) => ObjectMut::Array(array),
            ObjectMut::Filter(filter) => ObjectMut::Filter(filter),
            ObjectMut::Json(json) => ObjectMut::Json(json),
            ObjectMut::VectorSet(set) => ObjectMut::VectorSet(set),
        }
    }

    pub fn as_ref(&self) -> ObjectRef<'_> {
        match self {
            ObjectMut::Text(text) => ObjectRef::Text(text),
            ObjectMut::List(list) => ObjectRef::List(list),
            ObjectMut::Hash(hash) => ObjectRef::Hash(hash),
            ObjectMut::Set(set) => ObjectRef::Set(set),
            ObjectMut::SortedSet(set) => ObjectRef::SortedSet(set),
            ObjectMut::Stream(stream) => ObjectRef::Stream(stream),
            ObjectMut::Array(array) => ObjectRef::Array(array),
            ObjectMut::Filter(filter) => ObjectRef::Filter(filter),
            ObjectMut::Json(json) => ObjectRef::Json(json),
            ObjectMut::VectorSet(set) => ObjectRef::VectorSet(set),
        }
    }

    /// Frees about `budget` elements; returns whether the value is empty now. A large value must be freed in pieces, so
    /// that no command waits for it.
    pub fn dismantle(self, budget: usize) -> bool {
        match self {
            ObjectMut::Text(text) => {
                *text = Vec::new();
                true
            }
            ObjectMut::List(list) => list.dismantle(budget),
            ObjectMut::Hash(hash) => hash.dismantle(budget),
            ObjectMut::Set(set) => set.dismantle(budget),
            ObjectMut::SortedSet(set) => set.dismantle(budget),
            ObjectMut::Stream(stream) => stream.dismantle(budget),
            ObjectMut::Array(array) => array.dismantle(budget),
            ObjectMut::Filter(filter) => filter.dismantle(budget),
            ObjectMut::Json(json) => json.dismantle(budget),
            ObjectMut::VectorSet(set) => set.dismantle(budget),
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
    Array,
    /// The two kinds of a [`Filter`].
    Bloom,
    Cuckoo,
    Json,
    VectorSet,
}

impl Kind {
    pub const ALL: [Kind; 11] = [
        Kind::String,
        Kind::List,
        Kind::Hash,
        Kind::Set,
        Kind::SortedSet,
        Kind::Stream,
        Kind::Array,
        Kind::Bloom,
        Kind::Cuckoo,
        Kind::Json,
        Kind::VectorSet,
    ];

    /// Redis's name of the type, as `TYPE` replies.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::String => "string",
            Kind::List => "list",
            Kind::Hash => "hash",
            Kind::Set => "set",
            Kind::SortedSet => "zset",
            Kind::Stream => "stream",
            Kind::Array => "array",
            Kind::Bloom => "MBbloom--",
            Kind::Cuckoo => "MBbloomCF",
            Kind::Json => "ReJSON-RL",
            Kind::VectorSet => "vectorset",
        }
    }
}

/// The keyspace's requirements of every collection, whichever kind it is.
pub trait Collection: Sized {
    const KIND: Kind;
    /// Whether a collection without elements is a value. Others are deleted when their last element goes.
    const MAY_BE_EMPTY: bool;

    /// An empty collection; only streams and vector sets allocate anything.
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

    fn as_object(object: ObjectRef<'_>) -> Option<&Self>;
    fn as_object_mut(object: ObjectMut<'_>) -> Option<&mut Self>;
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
            fn as_object(object: ObjectRef<'_>) -> Option<&Self> {
                match object {
                    ObjectRef::$kind(collection) => Some(collection),
                    _ => None,
                }
            }
            fn as_object_mut(object: ObjectMut<'_>) -> Option<&mut Self> {
                match object {
                    ObjectMut::$kind(collection) => Some(collection),
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

collections!(List: false, Hash: false, Set: false, SortedSet: false, Stream: true, Array: false, Json: false, VectorSet: false);

macro_rules! filters {
    ($($kind:ident: $of:ident, $of_mut:ident, $into:ident),*) => {$(
        impl Collection for $kind {
            const KIND: Kind = Kind::$kind;
            const MAY_BE_EMPTY: bool = true;

            fn new() -> Self {
                $kind::default()
            }
            fn len(&self) -> usize {
                self.parts().blocks() + 1
            }
            fn heap_bytes(&self) -> usize {
                self.heap_bytes()
            }
            fn encoding(&self) -> &'static str {
                "raw"
            }
            fn dismantle(&mut self, budget: usize) -> bool {
                self.parts_mut().free_some(budget)
            }
            fn as_object(object: ObjectRef<'_>) -> Option<&Self> {
                match object {
                    ObjectRef::Filter(filter) => filter.$of(),
                    _ => None,
                }
            }
            fn as_object_mut(object: ObjectMut<'_>) -> Option<&mut Self> {
                match object {
                    ObjectMut::Filter(filter) => filter.$of_mut(),
                    _ => None,
                }
            }
            fn from_object(object: Object) -> Option<Self> {
                match object {
                    Object::Filter(filter) => filter.$into(),
                    _ => None,
                }
            }
            fn into_object(self) -> Object {
                Object::Filter(self.into())
            }
        }
    )*};
}

filters!(Bloom: bloom, bloom_mut, into_bloom, Cuckoo: cuckoo, cuckoo_mut, into_cuckoo);
