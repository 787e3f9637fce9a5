//! Databases and tokens that are made while the server runs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod api;
mod audit;
mod backup;
mod cli;
mod deleting;
mod examples;
mod http;
#[allow(dead_code, reason = "shared with tests that need more of it")]
#[path = "../node/mod.rs"]
mod node;
mod opening;
mod spending;
mod tokens;
