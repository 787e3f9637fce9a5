//! `cargo xtask upstream`: the test suite of Redis or Valkey against Dormouse.

use std::path::Path;

use crate::{Outcome, run};

/// Runs the runner of the client tests with its own options. With `--release`, it and the server are built as users get
/// them.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Outcome {
    let (profile, arguments): (Vec<_>, Vec<_>) = arguments.iter().partition(|argument| *argument == "--release");
    let mut runner = run::cargo(root);
    runner.args(["run", "--quiet", "--package", "dormouse-client-tests", "--bin", "upstream"]);
    let status = runner.args(profile).arg("--").args(arguments).status().map_err(|error| error.to_string())?;
    run::succeeded(status)
}
