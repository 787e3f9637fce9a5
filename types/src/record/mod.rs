//! Keys with their values: the entries of a keyspace. The parts shared with the entries of hashes and sets are in
//! [`crate::entry`].

mod key_value;
#[cfg(test)]
mod tests;

pub use self::key_value::{Origin, RAW_MAX, Record, Value, access_clock};
pub use crate::entry::{CACHE_LINE, Entry, block_size, canonical_integer, prefetch, prefetch_to_write, size_class};
