//! Commands over HTTP, byte for byte.

mod commands;
mod connections;
mod events;
pub mod http;
mod http2;
mod once;

use crate::node::Bench;
use http::Http;

fn http(bench: &Bench) -> Http {
    Http::over(bench.connect_http())
}
