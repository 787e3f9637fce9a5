//! redis-py.

use std::{path::Path, process::Command};

use dormouse_client_tests::{Suite, toolchain};

#[test]
fn redis_py() {
    if !toolchain::present("redis-py", &[("python3", "python3-venv")]) {
        return;
    }
    let Some(folder) = toolchain::installed("python", &["requirements.txt"], install) else { return };
    Suite::run(
        Command::new(folder.join("venv/bin/python")).arg("-B").arg(toolchain::sources("python").join("suite.py")),
    );
}

fn install(sources: &Path, folder: &Path) -> Result<(), String> {
    toolchain::step(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder.join("venv")))?;
    let mut pip = Command::new(folder.join("venv/bin/pip"));
    toolchain::step(pip.args(["install", "--quiet", "--requirement"]).arg(sources.join("requirements.txt")))
}
