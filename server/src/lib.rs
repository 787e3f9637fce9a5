//! The Dormouse server: everything between a socket and the engine.

#![forbid(unsafe_code)]

pub mod config;
pub mod logging;
pub mod metering;
pub mod options;
