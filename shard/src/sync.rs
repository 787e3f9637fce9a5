//! The primitives that the gate is built of. `tests/gate_loom.rs` compiles the gate with loom's in their place.

pub use std::sync::Arc;
pub use std::sync::atomic::{AtomicBool, Ordering, fence};

pub use crossbeam::queue::SegQueue as Mailbox;
