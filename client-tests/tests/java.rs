//! Jedis and Lettuce.

use std::{path::Path, process::Command};

use dormouse_client_tests::{Suite, toolchain};

#[test]
fn jedis() {
    run("JedisTour");
}

#[test]
fn lettuce() {
    run("LettuceTour");
}

const INPUTS: [&str; 4] =
    ["pom.xml", "src/main/java/Tour.java", "src/main/java/JedisTour.java", "src/main/java/LettuceTour.java"];

fn run(class: &str) {
    if !toolchain::present(class, &[("javac", "default-jdk-headless"), ("mvn", "maven")]) {
        return;
    }
    let Some(folder) = toolchain::installed("java", &INPUTS, install) else { return };
    let classes = format!("{}:{}", folder.join("classes").display(), folder.join("libraries/*").display());
    Suite::run(Command::new("java").args(["-XX:TieredStopAtLevel=1", "-cp", &classes, class]));
}

fn install(sources: &Path, folder: &Path) -> Result<(), String> {
    let mut maven = Command::new("mvn");
    maven.args(["--batch-mode", "--no-transfer-progress", "--quiet", "compile", "dependency:copy-dependencies"]);
    maven.arg(format!("-Dbuild.folder={}", folder.display()));
    maven.arg(format!("-DoutputDirectory={}", folder.join("libraries").display()));
    toolchain::step(maven.current_dir(sources))
}
