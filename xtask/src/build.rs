//! One build for every step: the server, and the test programs, which the steps run themselves.
//!
//! The packages that a command of cargo selects decide on the features of their dependencies, so a server that is built
//! alone shares hardly a library with one that is built for tests. Hence each step asks for the same selection, and
//! nothing is compiled twice. For the same reason the compiler of the workspace is clippy's, which is rustc with more lints:
//! `cargo clippy` would compile every library once more. Test programs run side by side, since many of them wait more than
//! they compute.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{Outcome, run};

/// The test programs that take longest, which start first: the run should not end with one of them alone.
const LONGEST: [&str; 5] = ["seeds", "dormouse_storage", "wire", "comparison", "applications"];

#[derive(Debug)]
pub(crate) struct Build {
    pub server: PathBuf,
    /// The number of clippy's and rustc's warnings, which were shown.
    pub warnings: usize,
    tests: Vec<TestProgram>,
}

#[derive(Debug)]
struct TestProgram {
    name: String,
    /// The folder of its package.
    package: PathBuf,
    program: PathBuf,
}

/// Builds the server as tests use it, with the test programs called `tests`, or all.
pub(crate) fn workspace(root: &Path, tests: Option<&[String]>) -> Result<Build, String> {
    let mut build = run::cargo(root);
    build.args(["build", "--workspace", "--message-format", "json"]).env("RUSTC_WORKSPACE_WRAPPER", "clippy-driver");
    match tests {
        Some(names) => build.args(["--bin", "dormouse"]).args(names.iter().flat_map(|name| ["--test", name])),
        None => build.arg("--all-targets"),
    };
    let mut child = build
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start cargo: {error}"))?;
    let output = child.stdout.take().expect("its output is a pipe");
    let (mut server, mut programs, mut warnings) = (None, Vec::new(), 0);
    for line in BufReader::new(output).lines() {
        let line = line.map_err(|error| error.to_string())?;
        // What else the compiler prints is no message.
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        if let Some(text) = diagnostic(&message) {
            eprintln!("{text}");
            warnings += 1;
        }
        match artifact(&message) {
            Some((program, true)) => programs.push(program),
            Some((program, false)) if program.name == "dormouse" => server = Some(program.program),
            _ => {}
        }
    }
    run::succeeded(child.wait().map_err(|error| error.to_string())?)?;
    let server = server.ok_or("cargo told of no server")?;
    programs.sort_by_key(|test| LONGEST.iter().position(|name| *name == test.name).unwrap_or(LONGEST.len()));
    Ok(Build { server, tests: programs, warnings })
}

/// Builds the server alone, but as tests use it.
pub(crate) fn server(root: &Path) -> Result<PathBuf, String> {
    // The features that only tests ask for count as soon as one test is among what is built.
    Ok(workspace(root, Some(&["tracking".to_owned()]))?.server)
}

/// The program that a message of cargo tells of, and whether it is one of tests.
fn artifact(message: &Value) -> Option<(TestProgram, bool)> {
    let program = message["executable"].as_str()?.into();
    let package = Path::new(message["manifest_path"].as_str()?).parent()?.into();
    let name = message["target"]["name"].as_str()?.to_owned();
    Some((TestProgram { name, package, program }, message["profile"]["test"].as_bool()?))
}

/// The text of a warning or an error that a message of cargo tells of.
fn diagnostic(message: &Value) -> Option<&str> {
    let told = &message["message"];
    let counts = message["reason"] == "compiler-message" && (told["level"] == "warning" || told["level"] == "error");
    told["rendered"].as_str().filter(|_| counts)
}

impl Build {
    /// Runs the test programs of the packages that `selected` says, given the name of a package's folder.
    pub fn run(&self, selected: impl Fn(&str) -> bool, prepare: impl Fn(&mut Command)) -> Outcome {
        let is_selected =
            |test: &&TestProgram| test.package.file_name().is_some_and(|folder| selected(&folder.to_string_lossy()));
        let commands = self.tests.iter().filter(is_selected).map(|test| {
            let mut command = Command::new(&test.program);
            // As cargo does.
            command.current_dir(&test.package).env("CARGO_MANIFEST_DIR", &test.package);
            prepare(&mut command);
            (test.name.clone(), command)
        });
        run::side_by_side(commands.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Value {
        serde_json::from_str(text).expect("JSON")
    }

    #[test]
    fn programs_are_found_in_what_cargo_tells() {
        let message = message(
            r#"{"reason":"compiler-artifact","manifest_path":"/w/server/Cargo.toml",
            "target":{"kind":["test"],"name":"tls"},"profile":{"test":true},"executable":"/w/target/debug/deps/tls-1"}"#,
        );
        let (test, is_test) = artifact(&message).expect("it is one");
        assert!(is_test);
        assert_eq!((test.name.as_str(), test.package.as_path()), ("tls", Path::new("/w/server")));
        assert_eq!(test.program, Path::new("/w/target/debug/deps/tls-1"));
    }

    #[test]
    fn other_messages_tell_of_none() {
        for text in ["{}", r#"{"reason":"build-finished"}"#, r#"{"executable":null,"profile":{"test":false}}"#] {
            assert!(artifact(&message(text)).is_none(), "{text}");
        }
    }

    #[test]
    fn warnings_and_errors_are_told_and_notes_are_not() {
        for (level, expected) in [("warning", Some("text")), ("error", Some("text")), ("note", None), ("help", None)] {
            let text = format!(r#"{{"reason":"compiler-message","message":{{"level":"{level}","rendered":"text"}}}}"#);
            assert_eq!(diagnostic(&message(&text)), expected, "{level}");
        }
        assert_eq!(diagnostic(&message(r#"{"reason":"build-finished"}"#)), None);
    }
}
