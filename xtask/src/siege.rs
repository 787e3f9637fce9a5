//! `cargo xtask siege`: the siege of the client tests, for any length of time.

use std::path::Path;

use crate::{Outcome, run};

/// Runs the siege with its own options, against a server as users get it.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Outcome {
    let mut siege = run::cargo(root);
    siege.args(["run", "--quiet", "--release", "--package", "dormouse-client-tests", "--bin", "siege", "--"]);
    let status = siege.args(arguments).status().map_err(|error| error.to_string())?;
    run::succeeded(status)
}
