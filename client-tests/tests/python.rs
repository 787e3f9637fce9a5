//! redis-py.

use std::{path::Path, process::Command};

use dormouse_client_tests::{Suite, held, toolchain};

#[test]
fn redis_py() {
    if let Some(mut command) = script("suite.py") {
        Suite::run(&mut command);
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
