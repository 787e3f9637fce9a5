//! Applications that use Redis as a queue, a bus, or a store of locks and limits: each does its work while the database
//! is put to sleep beneath it.
//!
//! The quick ones run always. With `DORMOUSE_LONG` set, the others run too, and each runs once more while the database
//! is put to sleep all the time.

use std::{env, fs, path::Path, process::Command};

use dormouse_client_tests::{Suite, toolchain};

mod node {
    use super::*;

    const INPUTS: [&str; 6] =
        ["package-lock.json", "package.json", "steps.js", "bullmq.js", "rate-limiter-flexible.js", "socket.io.js"];

    #[test]
    fn bullmq() {
        run("bullmq", &[]);
    }

    #[test]
    fn rate_limiter_flexible() {
        run("rate-limiter-flexible", &[]);
    }

    #[test]
    fn socket_io_over_publish_and_subscribe() {
        run("socket.io", &["pub-sub-ioredis"]);
        run("socket.io", &["pub-sub-node-redis"]);
    }

    #[test]
    fn socket_io_over_streams() {
        run("socket.io", &["streams"]);
    }

    fn run(name: &str, arguments: &[&str]) {
        if !toolchain::present(name, &[("node", "nodejs"), ("npm", "npm")]) {
            return;
        }
        let Some(folder) = toolchain::installed("applications/node", &INPUTS, install) else { return };
        check(|| {
            let mut command = Command::new("node");
            command.arg(folder.join(format!("{name}.js"))).args(arguments);
            command
        });
    }

    /// Copies the scripts to the packages: Node finds packages beside the script that asks for them.
    fn install(sources: &Path, folder: &Path) -> Result<(), String> {
        for file in INPUTS {
            fs::copy(sources.join(file), folder.join(file)).map_err(|e| format!("{file}: {e}"))?;
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]);
        toolchain::step(npm.current_dir(folder))
    }
}

mod python {
    use super::*;

    #[test]
    fn celery() {
        run("celery_steps");
    }

    #[test]
    fn rq() {
        run("rq_steps");
    }

    #[test]
    fn locks_of_redis_py() {
        run("lock_steps");
    }

    fn run(name: &str) {
        if !toolchain::present(name, &[("python3", "python3-venv")]) {
            return;
        }
        let Some(folder) = toolchain::installed("applications/python", &["requirements.txt"], install) else { return };
        check(|| {
            let mut command = Command::new(folder.join("venv/bin/python"));
            command.arg("-B").arg(toolchain::sources("applications/python").join(format!("{name}.py")));
            command
        });
    }

    fn install(sources: &Path, folder: &Path) -> Result<(), String> {
        toolchain::step(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder.join("venv")))?;
        let mut pip = Command::new(folder.join("venv/bin/pip"));
        toolchain::step(pip.args(["install", "--quiet", "--requirement"]).arg(sources.join("requirements.txt")))
    }
}

/// Whether the tests that take minutes to install or to run were asked for.
fn is_long() -> bool {
    env::var_os("DORMOUSE_LONG").is_some()
}

fn check(application: impl Fn() -> Command) {
    Suite::run(&mut application());
    if is_long() {
        Suite::run_among_sleeps(&mut application());
    }
}
