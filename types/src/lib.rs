//! The data structures that values are made of.
//!
//! Each collection has a packed form for few small elements (one allocation in Redis's own byte format, so that it can be
//! dumped and loaded by copying) and a real structure for many or large ones; it changes from one to the other at Redis's
//! thresholds, which [`Limits`] carries, and `encoding` answers with Redis's names.
//!
//! | collection | packed | large |
//! | --- | --- | --- |
//! | [`List`] | [`listpack`] | a deque of listpacks |
//! | [`Hash`] | [`listpack`] | a hash table of fields |
//! | [`Set`] | [`intset`], [`listpack`] | a hash table of members |
//! | [`SortedSet`] | [`listpack`] | a hash table of members beside a counted B+ tree |
//!
//! What they must not know: commands, replies, time, chance (random numbers are handed in), and how keys are stored.
//!
//! Every collection knows the bytes that it has allocated, rounded to the allocator's size classes, without counting.

pub mod geohash;
pub mod hash;
pub mod hyperloglog;
pub mod intset;
pub mod item;
pub mod list;
pub mod listpack;
pub mod record;
pub mod segment;
pub mod set;
pub mod sorted_set;

mod heap;

pub use hash::Hash;
pub use item::{Digits, Item, parse_i64};
pub use list::{End, List};
pub use set::Set;
pub use sorted_set::{Inserted, LexBound, LexRange, ScoreRange, SortedSet};

/// A value that is more than the plain bytes of a record.
#[derive(Clone, Debug)]
pub enum Object {
    /// A string that is too large to be stored with its key.
    Text(Vec<u8>),
    List(List),
    Hash(Hash),
    Set(Set),
    SortedSet(SortedSet),
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
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Frees about `budget` elements; answers whether the value is empty now. What is large must be freed in pieces, so
    /// that nobody waits for it.
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
}

impl Kind {
    /// Redis's name of the type, as `TYPE` answers.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::String => "string",
            Kind::List => "list",
            Kind::Hash => "hash",
            Kind::Set => "set",
            Kind::SortedSet => "zset",
        }
    }
}

/// Up to where collections stay packed (Redis's settings of the same names), and the seed that places the elements of
/// large ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub hash_max_listpack_entries: usize,
    pub hash_max_listpack_value: usize,
    /// Positive: elements a listpack; -1 to -5: 4, 8, 16, 32, 64 KiB a listpack.
    pub list_max_listpack_size: i32,
    pub set_max_intset_entries: usize,
    pub set_max_listpack_entries: usize,
    pub set_max_listpack_value: usize,
    pub zset_max_listpack_entries: usize,
    pub zset_max_listpack_value: usize,
    pub seed: u64,
}

impl Limits {
    /// The defaults of Redis 7.2 and Valkey 9.1.
    pub const REDIS: Limits = Limits {
        hash_max_listpack_entries: 512,
        hash_max_listpack_value: 64,
        list_max_listpack_size: -2,
        set_max_intset_entries: 512,
        set_max_listpack_entries: 128,
        set_max_listpack_value: 64,
        zset_max_listpack_entries: 128,
        zset_max_listpack_value: 64,
        seed: 0,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Limits::REDIS
    }
}

/// What the keyspace needs of every collection, whichever kind it is.
pub trait Collection: Sized {
    const KIND: Kind;

    /// An empty collection; it allocates nothing.
    fn new() -> Self;
    fn len(&self) -> usize;
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The allocated bytes, besides the collection itself.
    fn heap_bytes(&self) -> usize;
    fn encoding(&self) -> &'static str;
    /// Frees about `budget` elements; answers whether nothing is left.
    fn dismantle(&mut self, budget: usize) -> bool;

    fn as_object(object: &Object) -> Option<&Self>;
    fn as_object_mut(object: &mut Object) -> Option<&mut Self>;
    fn from_object(object: Object) -> Option<Self>;
    fn into_object(self) -> Object;
}

macro_rules! collections {
    ($($kind:ident),*) => {$(
        impl Collection for $kind {
            const KIND: Kind = Kind::$kind;

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

collections!(List, Hash, Set, SortedSet);

/// Bytes from outside that claim to be a packed collection and are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0}")]
pub struct Malformed(pub &'static str);
