//! The data structures that values are made of.
//!
//! Each collection has a packed form for few small elements (one allocation in Redis's own byte format, so that it can be
//! dumped and loaded by copying) and a real structure for many or large ones; it changes from one to the other at Redis's
//! thresholds, which [`Limits`] carries, and `encoding` answers with Redis's names.
//!
//! | collection | packed | large |
//! | --- | --- | --- |
//! | [`List`] | [`listpack`] | a deque of listpacks |
//! | [`Hash`] | [`listpack`], with expiries if fields expire | a hash table of fields |
//! | [`Set`] | [`intset`], [`listpack`] | a hash table of members |
//! | [`SortedSet`] | [`listpack`] | a hash table of members beside a counted B+ tree |
//! | [`Stream`] | | a deque of listpacks, in the order of their ids |
//! | [`Array`] | a run of elements, in a format of its own | slices of elements, by their index |
//! | [`Filter`] | | blocks of bytes |
//! | [`Json`] | an encoded document | |
//! | [`VectorSet`] | | a graph over arrays of nodes |
//!
//! They must not know commands, replies, time, chance (random numbers are handed in), or how keys are stored.
//!
//! Every collection knows the bytes that it has allocated, rounded to the allocator's size classes, without counting.

pub mod array;
pub mod entry;
pub mod filter;
pub mod geohash;
pub mod hash;
pub mod hyperloglog;
pub mod intset;
pub mod item;
pub mod json;
pub mod list;
pub mod listpack;
pub mod object;
pub mod record;
pub mod segment;
pub mod set;
pub mod sorted_set;
pub mod stream;
pub mod vector_set;

mod heap;
mod limits;
mod murmur;

pub use array::Array;
pub use dormouse_protocol::pace;
pub use filter::Filter;
pub use hash::{Hash, Live, SetExpiry};
pub use item::{Digits, Item, parse_i64};
pub use json::Json;
pub use limits::{Limits, Malformed};
pub use list::{End, List};
pub use object::{Collection, Kind, Object, ObjectMut, ObjectRef};
pub use set::{Lookup, Set};
pub use sorted_set::{Inserted, LexBound, LexRange, ScoreRange, SortedSet};
pub use stream::{Stream, StreamId};
pub use vector_set::VectorSet;
