//! Jedis and Lettuce.

use std::{path::Path, process::Command};

use dormouse_client_tests::{Suite, held, toolchain};

const INPUTS: [&str; 6] = [
    "pom.xml",
    "src/main/java/Tour.java",
    "src/main/java/JedisTour.java",
    "src/main/java/LettuceTour.java",
    "src/main/java/Held.java",
    "src/main/java/ClusterTour.java",
];

#[test]
fn jedis() {
    run("JedisTour");
}

#[test]
fn lettuce() {
    run("LettuceTour");
}

#[test]
fn jedis_is_told_of_held_replies() {
    is_told_of_held_replies("jedis");
}

#[test]
fn lettuce_is_told_of_held_replies() {
    is_told_of_held_replies("lettuce");
}

#[test]
fn lettuce_of_a_cluster() {
    if let Some(mut command) = program("ClusterTour") {
        Suite::run_in_cluster(&mut command);
    }
}

fn run(class: &str) {
    if let Some(mut command) = program(class) {
        Suite::run(&mut command);
    }
}

fn is_told_of_held_replies(name: &str) {
    let held = || {
        let mut command = program("Held")?;
        command.arg(name);
        Some(command)
    };
    if held().is_some() {
        held::check(|| held().expect("it was there before"));
    }
}

/// Returns the suite's program, or nothing if Java is missing.
fn program(class: &str) -> Option<Command> {
    if !toolchain::present(class, &[("javac", "default-jdk-headless"), ("mvn", "maven")]) {
        return None;
    }
    let folder = toolchain::installed("java", &INPUTS, install)?;
    let classes = format!("{}:{}", folder.join("classes").display(), folder.join("libraries/*").display());
    let mut command = Command::new("java");
    command.args(["-XX:TieredStopAtLevel=1", "-cp", &classes, class]);
    Some(command)
}

fn install(sources: &Path, folder: &Path) -> Result<(), String> {
    let mut maven = Command::new("mvn");
    maven.args(["--batch-mode", "--no-transfer-progress", "--quiet", "compile", "dependency:copy-dependencies"]);
    maven.arg(format!("-Dbuild.folder={}", folder.display()));
    maven.arg(format!("-DoutputDirectory={}", folder.join("libraries").display()));
    toolchain::step(maven.current_dir(sources))
}
