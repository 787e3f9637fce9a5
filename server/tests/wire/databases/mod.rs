//! Databases and tokens that are made while the server runs.

mod api;
mod audit;
mod backup;
mod cli;
mod deleting;
mod examples;
mod http;
mod opening;
mod spending;
mod tokens;
