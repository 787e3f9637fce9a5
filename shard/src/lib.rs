//!

pub mod store;
