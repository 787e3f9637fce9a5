//! One build for every step: the server, and the test programs, which the steps run themselves.
//!
//! The packages that a command of cargo selects decide on the features of their dependencies, so a server that is built
//! alone shares hardly a library with one that is built for tests. Hence each step asks for the same selection, and
//! nothing is compiled twice. Test programs run side by side, since many of them wait more than they compute.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Outcome, run};

/// The test programs that take longest, which start first: the run should not end with one of them alone.
const LONGEST: [&str; 4] = ["seeds", "dormouse_shard", "comparison", "applications"];

#[derive(Debug)]
pub(crate) struct Build {
    pub server: PathBuf,
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
    build.args(["build", "--workspace", "--message-format", "json-render-diagnostics", "--bin", "dormouse"]);
    match tests {
        Some(names) => build.args(names.iter().flat_map(|name| ["--test", name])),
        None => build.arg("--tests"),
    };
    let mut child = build
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start cargo: {error}"))?;
    let output = child.stdout.take().expect("its output is a pipe");
    let (mut server, mut programs) = (None, Vec::new());
    for line in BufReader::new(output).lines() {
        let line = line.map_err(|error| error.to_string())?;
        match artifact(&line) {
            Some((program, true)) => programs.push(program),
            Some((program, false)) if program.name == "dormouse" => server = Some(program.program),
            _ => {}
        }
    }
    run::succeeded(child.wait().map_err(|error| error.to_string())?)?;
    let server = server.ok_or("cargo told of no server")?;
    programs.sort_by_key(|test| LONGEST.iter().position(|name| *name == test.name).unwrap_or(LONGEST.len()));
    Ok(Build { server, tests: programs })
}

/// Builds the server alone, but as tests use it.
pub(crate) fn server(root: &Path) -> Result<PathBuf, String> {
    // The features that only tests ask for count as soon as one test is among what is built.
    Ok(workspace(root, Some(&["clock".to_owned()]))?.server)
}

/// The program that a message of cargo tells of, and whether it is one of tests.
fn artifact(line: &str) -> Option<(TestProgram, bool)> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let program = message["executable"].as_str()?.into();
    let package = Path::new(message["manifest_path"].as_str()?).parent()?.into();
    let name = message["target"]["name"].as_str()?.to_owned();
    Some((TestProgram { name, package, program }, message["profile"]["test"].as_bool()?))
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

    #[test]
    fn programs_are_found_in_what_cargo_tells() {
        let line = r#"{"reason":"compiler-artifact","manifest_path":"/w/server/Cargo.toml",
            "target":{"kind":["test"],"name":"tls"},"profile":{"test":true},"executable":"/w/target/debug/deps/tls-1"}"#;
        let (test, is_test) = artifact(line).expect("it is one");
        assert!(is_test);
        assert_eq!((test.name.as_str(), test.package.as_path()), ("tls", Path::new("/w/server")));
        assert_eq!(test.program, Path::new("/w/target/debug/deps/tls-1"));
    }

    #[test]
    fn other_messages_tell_of_none() {
        for line in ["", "no json", r#"{"reason":"build-finished"}"#, r#"{"executable":null,"profile":{"test":false}}"#]
        {
            assert!(artifact(line).is_none(), "{line}");
        }
    }
}
