//! The Dormouse server: everything between a socket and the engine.

#![forbid(unsafe_code)]

pub mod account;
pub mod acl;
pub mod blocked;
pub mod cli;
pub mod clients;
pub mod clock;
pub mod commands;
pub mod config;
pub mod connection;
pub mod databases;
pub mod dispatch;
pub mod errors;
pub mod event_loop;
pub mod health;
pub mod held;
pub mod http;
pub mod keeper;
pub mod late;
pub mod latency;
pub mod listener;
pub mod logging;
pub mod memory;
pub mod metering;
pub mod metrics;
pub mod newcomers;
pub mod node;
pub mod options;
pub mod pause;
pub mod peer;
pub mod process;
pub mod pubsub;
pub mod relief;
pub mod replication;
pub mod rights;
pub mod saving;
pub mod server;
pub mod session;
pub mod slowlog;
pub mod snapshot;
pub mod strangers;
pub mod surroundings;
pub mod table;
pub mod turns;
pub mod worker;
