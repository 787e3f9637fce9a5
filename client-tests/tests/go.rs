//! go-redis.

use std::process::Command;

use dormouse_client_tests::{Suite, toolchain};

#[test]
fn go_redis() {
    if !toolchain::present("go-redis", &[("go", "golang-go")]) {
        return;
    }
    let built = toolchain::installed("go", &["go.mod", "go.sum", "main.go"], |sources, folder| {
        toolchain::step(
            Command::new("go").args(["build", "-o"]).arg(folder.join("suite")).arg(".").current_dir(sources),
        )
    });
    let Some(folder) = built else { return };
    Suite::run(&mut Command::new(folder.join("suite")));
}
