//! redis-py, and Upstash's libraries over HTTP.

use std::{path::Path, process::Command};

use dormouse_client_tests::{Kind, Suite, held, toolchain};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");

#[test]
fn redis_py() {
    if let Some(mut command) = script("suite.py") {
        Suite::run(&mut command);
    }
}

#[test]
fn redis_py_through_a_sidecar() {
    if let Some(mut command) = script("suite.py") {
        Suite::run_through_sidecar(&mut command);
    }
}

#[test]
fn redis_py_over_tls() {
    if let Some(mut command) = script("suite.py") {
        Suite::run_over_tls(&mut command);
    }
}

#[test]
fn upstash() {
    if let Some(mut command) = script("upstash.py") {
        Suite::run_over_http(&mut command, &["dm_shop_abcdefgh"]);
    }
}

#[test]
fn redis_py_is_told_of_held_replies() {
    if script("held.py").is_some() {
        held::check(|| script("held.py").expect("it was there before"));
    }
}

#[test]
fn redis_py_of_a_cluster() {
    if let Some(mut command) = script("cluster.py") {
        Suite::run_in_cluster(&mut command);
    }
}

/// An example of a client that repeats its requests, over a wire that loses replies.
#[test]
fn redis_py_exactly_once() {
    if Kind::under_test() == Kind::Dormouse
        && let Some(mut command) = script("once.py")
    {
        Suite::run(command.env("DORMOUSE_TEST_EXAMPLES", EXAMPLES));
    }
}

/// The function of `examples/lambda`.
#[test]
fn a_function_through_a_sidecar() {
    if Kind::under_test() == Kind::Dormouse
        && let Some(mut command) = script("function.py")
    {
        command.env("DORMOUSE_TEST_EXAMPLES", EXAMPLES);
        Suite::run_through_sidecar(&mut command);
    }
}

/// Returns the suite's program, or nothing if Python is missing.
fn script(name: &str) -> Option<Command> {
    if !toolchain::present("redis-py", &[("python3", "python3-venv")]) {
        return None;
    }
    let folder = toolchain::installed("python", &["requirements.txt"], install)?;
    let mut command = Command::new(folder.join("venv/bin/python"));
    command.arg("-B").arg(toolchain::sources("python").join(name));
    Some(command)
}

fn install(sources: &Path, folder: &Path) -> Result<(), String> {
    toolchain::step(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder.join("venv")))?;
    let mut pip = Command::new(folder.join("venv/bin/pip"));
    toolchain::step(pip.args(["install", "--quiet", "--requirement"]).arg(sources.join("requirements.txt")))
}
