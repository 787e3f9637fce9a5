//! node-redis and ioredis.

use std::{fs, path::Path, process::Command};

use dormouse_client_tests::{Suite, held, toolchain};

const INPUTS: [&str; 7] =
    ["package-lock.json", "package.json", "tour.js", "node-redis.js", "ioredis.js", "held.js", "cluster.js"];

#[test]
fn node_redis() {
    run("node-redis");
}

#[test]
fn ioredis() {
    run("ioredis");
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
