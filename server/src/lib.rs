//! The Dormouse server: everything between a socket and the engine.

#![forbid(unsafe_code)]

pub mod config;
pub mod http;
pub mod logging;
pub mod metering;
pub mod metrics;
pub mod options;
