//! Servers that provide stores for tests, each of them pinned, fetched once, and kept in `target/tools`.
//!
//! They are only run; nothing of them is linked or copied. Their licences: moto and s3s-fs Apache 2.0, gofakes3, rclone
//! and Azurite MIT, fake-gcs-server BSD.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::run;
use crate::tools::{folder, go_program};

const MOTO: &str = "moto[server]==5.2.5";
const GOFAKES3: &str = "github.com/johannesboyne/gofakes3/cmd/gofakes3@v1.2.0";
const RCLONE: &str = "github.com/rclone/rclone@v1.76.0";
const FAKE_GCS: &str = "github.com/fsouza/fake-gcs-server@v1.56.1";
/// The newest version that Rust 1.95 builds.
const S3S_FS: &str = "0.14.1";
const AZURITE: &str = "azurite@3.37.0";
/// Azurite wants a newer Node than most systems have; this package carries it.
const NODE: &str = "node@22.23.3";

pub(crate) fn gofakes3(root: &Path) -> Result<(), String> {
    go_program(root, "gofakes3", GOFAKES3).map(drop)
}

pub(crate) fn rclone(root: &Path) -> Result<(), String> {
    go_program(root, "rclone", RCLONE).map(drop)
}

pub(crate) fn fake_gcs(root: &Path) -> Result<(), String> {
    go_program(root, "fake-gcs-server", FAKE_GCS).map(drop)
}

/// Builds s3s-fs, which takes minutes: its dependencies are compiled.
pub(crate) fn s3s_fs(root: &Path) -> Result<(), String> {
    installed(root, "s3s-fs", S3S_FS, |place| {
        let mut install = run::cargo(root);
        install
            .args(["install", "--quiet", "s3s-fs", "--version", S3S_FS, "--features", "binary", "--root"])
            .arg(place);
        // The build folder is not needed again.
        let build = place.join("build");
        let built = step(install.env("CARGO_TARGET_DIR", &build));
        fs::remove_dir_all(&build).map_err(|error| format!("{}: {error}", build.display()))?;
        built
    })
}

/// Installs moto in a virtual environment of its own.
pub(crate) fn moto(root: &Path) -> Result<(), String> {
    installed(root, "moto", MOTO, |place| {
        step(Command::new("python3").args(["-m", "venv"]).arg(place))?;
        step(Command::new(place.join("bin/pip")).args(["install", "--quiet", MOTO]))
    })
}

pub(crate) fn azurite(root: &Path) -> Result<(), String> {
    installed(root, "azurite", &format!("{AZURITE} {NODE}"), |place| {
        let mut install = Command::new("npm");
        install.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(place);
        step(install.args([AZURITE, NODE]))
    })
}

/// Makes the folder `name` of the tools with `install`, unless this version exists.
pub(crate) fn installed(
    root: &Path,
    name: &str,
    version: &str,
    install: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<(), String> {
    let place = folder(root)?.join(name);
    let stamp = place.join("installed");
    if fs::read_to_string(&stamp).is_ok_and(|text| text == version) {
        return Ok(());
    }
    println!("installing {version} into {}", place.display());
    if place.exists() {
        fs::remove_dir_all(&place).map_err(|error| format!("{}: {error}", place.display()))?;
    }
    fs::create_dir_all(&place).map_err(|error| format!("{}: {error}", place.display()))?;
    install(&place)?;
    fs::write(&stamp, version).map_err(|error| format!("{}: {error}", stamp.display()))
}

pub(crate) fn step(command: &mut Command) -> Result<(), String> {
    match run::output(command)? {
        (true, _) => Ok(()),
        (false, text) => Err(format!("{command:?} failed:\n{text}")),
    }
}
