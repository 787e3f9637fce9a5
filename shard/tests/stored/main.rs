//! Large values and whole databases, as checkpoints, exports, pinned moments and brief wakes read them.

#[path = "../bench/mod.rs"]
mod bench;
mod brief;
mod parked;
mod passed_on;
mod pinned;
