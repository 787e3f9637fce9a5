//! The engine of Dormouse.

pub mod chunk;
pub mod codec;
pub mod manifest;
pub mod record;
pub mod segment;
pub mod store;
pub mod tail;
pub mod types;
