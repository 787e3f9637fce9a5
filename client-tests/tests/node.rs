//! node-redis and ioredis, and Upstash's libraries over HTTP, also in a Cloudflare Worker.

use std::{fs, path::Path, process::Command};

use dormouse_client_tests::{Suite, held, toolchain};

const INPUTS: [&str; 9] = [
    "package-lock.json",
    "package.json",
    "tour.js",
    "node-redis.js",
    "ioredis.js",
    "held.js",
    "cluster.js",
    "upstash.js",
    "once.js",
];

const WORKER: [&str; 3] = ["package-lock.json", "package.json", "worker.js"];

#[test]
fn node_redis() {
    run("node-redis");
}

#[test]
fn ioredis() {
    run("ioredis");
}

#[test]
fn ioredis_over_tls() {
    if let Some(mut command) = script("ioredis", "ioredis.js") {
        Suite::run_over_tls(&mut command);
    }
}

#[test]
fn node_redis_through_a_sidecar() {
    if let Some(mut command) = script("node-redis", "node-redis.js") {
        Suite::run_through_sidecar(&mut command);
    }
}

#[test]
fn node_redis_is_told_of_held_replies() {
    is_told_of_held_replies("node-redis");
}

#[test]
fn ioredis_is_told_of_held_replies() {
    is_told_of_held_replies("ioredis");
}

#[test]
fn node_redis_of_a_cluster() {
    run_in_cluster("node-redis");
}

#[test]
fn ioredis_of_a_cluster() {
    run_in_cluster("ioredis");
}

#[test]
fn upstash() {
    if let Some(mut command) = script("upstash", "upstash.js") {
        Suite::run_over_http(&mut command, &[]);
    }
}

#[test]
fn upstash_with_tokens() {
    if let Some(mut command) = script("upstash", "upstash.js") {
        Suite::run_over_http(&mut command, &["dm_shop_abcdefgh", "dm_other_abcdefgh"]);
    }
}

#[test]
fn upstash_among_sleeps() {
    if let Some(mut command) = script("upstash", "upstash.js") {
        Suite::run_over_http_among_sleeps(&mut command);
    }
}

/// An example that gives all attempts of a request one key, over a wire that loses answers.
#[test]
fn upstash_exactly_once() {
    if let Some(mut command) = script("upstash", "once.js") {
        command.env("DORMOUSE_TEST_EXAMPLES", concat!(env!("CARGO_MANIFEST_DIR"), "/../examples"));
        Suite::run_over_losing_http(&mut command);
    }
}

/// `examples/cloudflare-worker` in the runtime of Cloudflare Workers.
#[test]
fn a_cloudflare_worker() {
    if !toolchain::present("worker", &[("node", "nodejs"), ("npm", "npm")]) {
        return;
    }
    let Some(folder) = toolchain::installed("worker", &WORKER, |sources, folder| install(sources, folder, &WORKER))
    else {
        return;
    };
    let mut command = Command::new("node");
    command.arg(folder.join("worker.js"));
    command.env("DORMOUSE_TEST_EXAMPLES", concat!(env!("CARGO_MANIFEST_DIR"), "/../examples"));
    Suite::run_over_http(&mut command, &["dm_shop_abcdefgh"]);
}

fn run_in_cluster(name: &str) {
    if let Some(mut command) = script(name, "cluster.js") {
        Suite::run_in_cluster(command.arg(name));
    }
}

fn run(name: &str) {
    if let Some(mut command) = script(name, &format!("{name}.js")) {
        Suite::run(&mut command);
    }
}

fn is_told_of_held_replies(name: &str) {
    let held = || {
        let mut command = script(name, "held.js")?;
        command.arg(name);
        Some(command)
    };
    if held().is_some() {
        held::check(|| held().expect("it was there before"));
    }
}

/// Returns the suite's program, or nothing if Node is missing.
fn script(name: &str, file: &str) -> Option<Command> {
    if !toolchain::present(name, &[("node", "nodejs"), ("npm", "npm")]) {
        return None;
    }
    let folder = toolchain::installed("node", &INPUTS, |sources, folder| install(sources, folder, &INPUTS))?;
    let mut command = Command::new("node");
    command.arg(folder.join(file));
    Some(command)
}

/// Copies the scripts to the packages: Node finds packages beside the script that asks for them.
fn install(sources: &Path, folder: &Path, inputs: &[&str]) -> Result<(), String> {
    for file in inputs {
        fs::copy(sources.join(file), folder.join(file)).map_err(|e| format!("{file}: {e}"))?;
    }
    toolchain::step(Command::new("npm").args(["ci", "--no-audit", "--no-fund", "--loglevel=error"]).current_dir(folder))
}
