//! The entries of tables: thin owning pointers, each to one allocation that holds everything but large values.
//!
//! | entry | allocation | found by |
//! | --- | --- | --- |
//! | [`Record`](crate::record::Record) | header, expiry, key, value | the key |
//! | [`Member`] | length, bytes | the member |
//! | [`Field`] | lengths, field, value | the field |
//! | [`Scored`] | score, count, length, bytes | the member |
//!
//! The key is near the front, so that it is compared after one cache miss. An allocation is a [block](block), always as
//! large as its [block size](block_size), which it would take anyway: so content that fits it is changed in place, and the
//! block to free follows from the content. Small blocks have an allocator of their own, the [slabs](slab).
//!
//! Beside them are operations that depend on the processor: prefetches, and sums over arrays.

pub(crate) mod block;
mod buffer;
mod field;
mod form;
mod member;
pub(crate) mod number;
mod pointer;
mod products;
mod scored;
mod size_class;
pub mod slab;

pub(crate) use self::form::packed;
pub use self::{
    block::block_size,
    buffer::{Buffer, TOTAL_BYTES},
    field::Field,
    form::{Form, FormMut, FormRef, Packed},
    member::Member,
    number::canonical_integer,
    pointer::{CACHE_LINE, Entry, prefetch, prefetch_to_write},
    products::{differing_bits, dot_bytes, dot_floats},
    scored::Scored,
    size_class::size_class,
};
