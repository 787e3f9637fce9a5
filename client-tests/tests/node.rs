//! node-redis and ioredis.

use std::{fs, path::Path, process::Command};

use dormouse_client_tests::{Suite, toolchain};

#[test]
fn node_redis() {
    run("node-redis");
}

#[test]
fn ioredis() {
    run("ioredis");
}

fn run(name: &str) {
    if !toolchain::present(name, &[("node", "nodejs"), ("npm", "npm")]) {
        return;
    }
    let inputs = ["package-lock.json", "package.json", "tour.js", "node-redis.js", "ioredis.js"];
    let Some(folder) = toolchain::installed("node", &inputs, |sources, folder| install(sources, folder, &inputs))
    else {
        return;
    };
    Suite::run(Command::new("node").arg(folder.join(format!("{name}.js"))));
}

/// Node finds packages beside the script that asks for them, so the scripts move to where the packages are.
fn install(sources: &Path, folder: &Path, inputs: &[&str]) -> Result<(), String> {
    for file in inputs {
        fs::copy(sources.join(file), folder.join(file)).map_err(|e| format!("{file}: {e}"))?;
    }
    toolchain::step(Command::new("npm").args(["ci", "--no-audit", "--no-fund", "--loglevel=error"]).current_dir(folder))
}
