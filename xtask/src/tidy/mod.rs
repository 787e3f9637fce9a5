//! `cargo xtask tidy`: the rules of this code base that rustc and clippy do not know.
//!
//! | rule | where it is |
//! | --- | --- |
//! | a crate or folder does not know what it must not | [`layers`] |
//! | arrows between the modules of a folder close no circle | [`circles`] |
//! | no command is tested by its name | [`commands`] |
//! | no two public types share a name | [`types`] |
//! | `unsafe` stays where it is allowed; exceptions to lints carry a reason | [`lints`] |
//! | files stay short; names say what a thing is; nothing is left unfinished | [`words`] |
//!
//! Each rule is a function from a file's path and text to problems, so it can be tested on a few lines. The checks
//! cover the files that git knows or would add.

mod circles;
mod commands;
mod layers;
mod lints;
mod source;
mod types;
mod words;

use std::path::Path;
use std::process::Command;

use crate::{Count, Outcome, run};

/// One problem: its place, and what should change.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// 1-based; 0 is the file as a whole.
    line: usize,
    text: String,
}

impl Problem {
    fn at(line: usize, text: impl Into<String>) -> Problem {
        Problem { line, text: text.into() }
    }
}

type Rule = fn(path: &str, text: &str) -> Vec<Problem>;

const RULES: &[Rule] =
    &[layers::uses, lints::unsafe_code, lints::reasons, words::names, words::left_behind, words::length];

pub(crate) fn run(root: &Path) -> Outcome {
    let mut count = Count::default();
    let listed = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let (listed, paths) = run::output(Command::new("git").current_dir(root).args(listed))?;
    if !listed {
        return Err(format!("tidy needs git to tell which files belong to the workspace: {paths}"));
    }
    let mut files = Vec::new();
    for path in paths.split('\0').filter(|path| !path.is_empty()) {
        // Deleted but not committed, a link to a folder, or not text: nothing to read.
        if let Ok(text) = std::fs::read_to_string(root.join(path)) {
            files.push((path, text));
        }
    }
    for rule in RULES {
        let mut holds = true;
        for (path, text) in &files {
            for Problem { line, text } in rule(path, text) {
                holds = false;
                eprintln!("{path}{}: {text}", if line > 0 { format!(":{line}") } else { String::new() });
            }
        }
        count += Count::of(holds);
    }
    for (path, text) in &files {
        if let Some(lines) = words::is_long(path, text) {
            eprintln!("note: {path} has {lines} lines; past {} it must be split", words::LINES_MAX);
        }
    }
    let metadata = ["metadata", "--no-deps", "--offline", "--format-version=1"];
    let metadata = run::cargo(root).args(metadata).output().map_err(|error| error.to_string())?;
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).map_err(|error| error.to_string())?;
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    for problems in [
        circles::circles(&files),
        commands::names(&files),
        types::names(&files),
        layers::dependencies(&metadata),
        lints::forbidden_unsafe(&metadata, read),
    ] {
        problems.iter().for_each(|problem| eprintln!("{problem}"));
        count += Count::of(problems.is_empty());
    }
    Ok(count)
}
