//! What the tables store: thin owning pointers, each to one allocation that holds everything but large values.
//!
//! | entry | allocation | found by |
//! | --- | --- | --- |
//! | [`Record`] | header, expiry, key, value | the key |
//! | [`Member`] | length, bytes | the member |
//! | [`Field`] | lengths, field, value | the field |
//! | [`Scored`] | score, count, length, bytes | the member |
//!
//! The key stands near the front, so that it is compared after one cache miss. An allocation is always as large as its
//! [size class](size_class), which is what the allocator would give anyway: so whatever fits the class is changed in place,
//! and the layout to free follows from the content.

mod block;
mod entry;
mod field;
mod key_value;
mod member;
mod number;
mod scored;
mod size_class;
#[cfg(test)]
mod tests;

pub use self::{
    entry::{CACHE_LINE, Entry, prefetch, prefetch_to_write},
    field::Field,
    key_value::{Origin, RAW_MAX, Record, Value, access_clock},
    member::Member,
    number::canonical_integer,
    scored::Scored,
    size_class::size_class,
};
