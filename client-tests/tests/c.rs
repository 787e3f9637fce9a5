//! hiredis, from Debian's package.

use std::process::Command;

use dormouse_client_tests::{Suite, toolchain};

#[test]
fn hiredis() {
    if !toolchain::present("hiredis", &[("gcc", "gcc")]) {
        return;
    }
    let built = toolchain::installed("c", &["hiredis.c"], |sources, folder| {
        let mut gcc = Command::new("gcc");
        gcc.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-o"]).arg(folder.join("hiredis"));
        toolchain::step(gcc.arg(sources.join("hiredis.c")).arg("-lhiredis"))
            .map_err(|reason| format!("hiredis is missing? (Debian: apt-get install libhiredis-dev)\n{reason}"))
    });
    let Some(folder) = built else { return };
    Suite::run(&mut Command::new(folder.join("hiredis")));
}
