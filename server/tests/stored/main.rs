//! Databases in a store: written, damaged, shared by branches, and read by other processes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bench;
mod branch_owners;
mod branches;
mod clock;
mod durability;
mod full_disk;
mod pages;
mod wakes;
