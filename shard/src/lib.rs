//! The engine of Dormouse: the keyspace and its commands, shards and their locks, chunks and manifests.
//!
//! It knows no sockets, no tokens, no HTTP: a server hands it requests and gets replies.
#![forbid(unsafe_code)]

pub mod branch;
pub mod check;
pub mod checkpoint;
pub mod claiming;
pub mod claims;
pub mod commands;
pub mod database;
pub mod declared;
pub mod error;
pub mod execution;
pub mod export;
mod following;
mod functions;
#[doc(hidden)]
pub mod fuzzing;
pub mod gate;
pub mod health;
pub mod history;
pub mod keyspace;
pub mod lane;
pub mod memory;
mod outbox;
pub mod pinned;
mod places;
pub mod release;
pub mod replay;
pub mod replication;
pub mod residency;
pub mod restore;
pub mod scaling;
pub mod shard;
pub mod snapshot;
mod sync;
pub mod timings;
pub mod topology;
pub mod upkeep;
pub mod waiters;
pub mod window;

pub use dormouse_types::segment::slot_of;
