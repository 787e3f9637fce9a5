//! Keys with their values: the entries of a keyspace. What they have in common with the entries of hashes and sets is in
//! [`crate::entry`].

mod key_value;
#[cfg(test)]
mod tests;

pub use self::key_value::{Origin, RAW_MAX, Record, Value, access_clock};
pub use crate::entry::{CACHE_LINE, Entry, canonical_integer, prefetch, prefetch_to_write, size_class};
