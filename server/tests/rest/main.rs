//! Commands over HTTP, byte for byte.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../node/mod.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod node;
#[path = "../served/mod.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod served;

mod commands;
mod connections;
mod events;
mod http;
mod http2;
mod once;

use http::Http;
use node::Bench;

fn http(bench: &Bench) -> Http {
    Http::over(bench.connect_http())
}
