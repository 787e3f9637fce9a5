//! The engine of Dormouse: the keyspace and its commands, shards and their locks, chunks and manifests.
//!
//! It knows no sockets, no tokens, no HTTP: a server hands it requests and gets replies.

pub mod branch;
pub mod check;
pub mod checkpoint;
pub mod chunk;
pub mod codec;
pub mod commands;
pub mod database;
pub mod error;
mod following;
#[doc(hidden)]
pub mod fuzzing;
pub mod gate;
pub mod health;
pub mod keyspace;
pub mod lane;
pub mod log;
pub mod manifest;
pub mod owner;
pub mod rdb;
pub mod record;
pub mod replay;
pub mod residency;
pub mod retry;
pub mod scaling;
pub mod segment;
pub mod shard;
pub mod snapshot;
pub mod stopwatch;
pub mod store;
mod sync;
pub mod tail;
pub mod topology;
pub mod types;
pub mod window;

pub use segment::slot_of;
