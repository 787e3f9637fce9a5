//! The engine of Dormouse.

pub mod record;
pub mod segment;
pub mod store;
