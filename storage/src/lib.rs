//! The storage of Dormouse: bytes on a disk or in a bucket, and how they get there.
//!
//! It knows no keyspace and no command: it stores records, segments and effects, and finds them again after a crash.
#![forbid(unsafe_code)]

pub mod backup;
pub mod chunk;
pub mod codec;
pub mod directory;
pub mod durations;
pub mod effect;
pub mod functions;
#[doc(hidden)]
pub mod fuzzing;
pub mod ledger;
pub mod loading;
pub mod log;
pub mod manifest;
pub mod owner;
pub mod rdb;
pub mod replay;
pub mod retry;
pub mod seal;
pub mod shown;
pub mod stopwatch;
pub mod store;
pub mod stretch;
pub mod tail;
