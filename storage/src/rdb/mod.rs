//! RDB: Redis's format for a whole data set, as a file and as what a primary sends to a replica.
//!
//! ```text
//! +-----------+ "REDIS" and 4 digits, or "VALKEY" and 3: the version
//! | header    |
//! +-----------+
//! | item      | an opcode and what it announces: see reader
//! | ...       |   [expiry] [idle time or frequency] type | key | value
//! +-----------+
//! | 255       | the end
//! | CRC-64    | u64 LE, of all before; 0: not checked. Since version 5.
//! +-----------+
//! ```
//!
//! | module | holds |
//! | --- | --- |
//! | [`reader`] | items out of a stream, one after the other, in bounded memory |
//! | [`input`] | the stream's buffer, with the position and the checksum of what was read |
//! | [`skim`] | where a value ends, found without decoding it |
//! | [`writer`] | items into a stream |
//! | [`export`] | a database in the store becomes an RDB |
//! | [`import`] | an RDB becomes a database's chunks, by way of [`sorter`] and [`cutter`] |
//!
//! [`crate::codec::value`] decodes a value once it is present whole.

mod cutter;
pub mod error;
pub mod import;
mod input;
pub mod reader;
mod skim;
mod sorter;
pub mod writer;

pub use error::RdbError;
pub use reader::{RdbEntry, RdbReader, RdbRecord};
pub use writer::{Beside, RdbWriter};

/// The number of logical indexes of Dormouse, and of a Redis with the default configuration.
pub const SELECT_INDEXES: u64 = 16;

const REDIS: &[u8; 5] = b"REDIS";
const VALKEY: &[u8; 6] = b"VALKEY";

/// In files of Redis: a list of fields that many hashes share.
const OPCODE_HASH_TEMPLATE: u8 = 242;
/// In files of Redis: metadata of modules for the next key.
const OPCODE_KEY_METADATA: u8 = 243;
/// In files of Valkey: an unfinished import of slots.
const OPCODE_SLOT_IMPORT: u8 = 243;
const OPCODE_SLOT_INFO: u8 = 244;
const OPCODE_FUNCTION: u8 = 245;
const OPCODE_FUNCTION_EARLY: u8 = 246;
const OPCODE_MODULE_AUX: u8 = 247;
const OPCODE_IDLE: u8 = 248;
const OPCODE_FREQUENCY: u8 = 249;
const OPCODE_AUX: u8 = 250;
const OPCODE_RESIZE: u8 = 251;
const OPCODE_EXPIRY_MS: u8 = 252;
const OPCODE_EXPIRY_S: u8 = 253;
const OPCODE_SELECT: u8 = 254;
const OPCODE_END: u8 = 255;

#[cfg(test)]
mod tests;
