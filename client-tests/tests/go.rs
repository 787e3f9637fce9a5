//! go-redis.

use std::process::Command;

use dormouse_client_tests::{Suite, held, toolchain};

#[test]
fn go_redis() {
    if let Some(mut program) = program() {
        Suite::run(&mut program);
    }
}

#[test]
fn go_redis_over_tls() {
    if let Some(mut program) = program() {
        Suite::run_over_tls(&mut program);
    }
}

#[test]
fn go_redis_is_told_of_held_replies() {
    if program().is_some() {
        held::check(|| program().expect("it was there before"));
    }
}

#[test]
fn go_redis_of_a_cluster() {
    if let Some(mut program) = program() {
        Suite::run_in_cluster(program.arg("cluster"));
    }
}

/// Returns the suite's program, or nothing if Go is missing.
fn program() -> Option<Command> {
    if !toolchain::present("go-redis", &[("go", "golang-go")]) {
        return None;
    }
    let folder =
        toolchain::installed("go", &["go.mod", "go.sum", "main.go", "held.go", "cluster.go"], |sources, folder| {
            toolchain::step(
                Command::new("go").args(["build", "-o"]).arg(folder.join("suite")).arg(".").current_dir(sources),
            )
        })?;
    Some(Command::new(folder.join("suite")))
}
