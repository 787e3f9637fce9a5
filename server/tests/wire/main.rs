//! A node and a server in this process, as clients see them.
//!
//! One program, since each holds the whole server and takes longer to build than to run. What changes a clock or a limit
//! that is the whole process's stays in one of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod acl;
mod billing;
mod blocking;
mod branch_commands;
mod commands;
mod databases;
mod debug;
mod forwarding;
mod idle_workers;
mod limits;
mod monitor;
mod newer_commands;
mod node;
mod notifications;
mod once;
mod replication;
mod replies;
mod rest;
mod script_pipelines;
mod script_stats;
mod served;
mod sessions;
mod sidecar;
mod strangers;
mod tls;
mod turns;
mod usage;
