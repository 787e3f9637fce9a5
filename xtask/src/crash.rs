//! `cargo xtask crash`: the crash harness of the client tests, for thousands of rounds.

use std::path::Path;

use crate::{Outcome, run, tools};

/// Runs the harness with its own options. With `--release`, it and the server are built as users get them.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Outcome {
    let (profile, arguments): (Vec<_>, Vec<_>) = arguments.iter().partition(|argument| *argument == "--release");
    if arguments.iter().any(|argument| *argument == "redis" || *argument == "--server=redis") {
        tools::system_packages();
    }
    let mut harness = run::cargo(root);
    harness.args(["run", "--quiet", "--package", "dormouse-client-tests", "--bin", "crash"]);
    let status = harness.args(profile).arg("--").args(arguments).status().map_err(|error| error.to_string())?;
    run::succeeded(status)
}
