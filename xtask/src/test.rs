//! `cargo xtask test`: every check, quickest first; a failure does not stop the others.
//!
//! | step | what must hold |
//! | --- | --- |
//! | `format` | rustfmt changes nothing |
//! | `tidy` | [`crate::tidy`] finds nothing |
//! | `lint` | clippy has no warning |
//! | `units` | the crates' own tests pass; with `--long`, those of traces, too |
//! | `clients` | real clients get along with a real server |
//! | `chart` | [`crate::chart`] finds nothing; with `--long`, promtool neither |
//! | `deny` | dependencies have permissive licences and known sources; with `--long`, or an installed `cargo deny`, no known holes |
//!
//! The last line sums the runners' counts. A missing toolchain skips its part loudly, and fails under `CI=true`.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use clap::ValueEnum;

use crate::{Count, Outcome, build, chart, licences, run, stores, tidy, tools};

/// The folder of the client suites' package.
const CLIENTS: &str = "client-tests";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Step {
    Format,
    Tidy,
    Lint,
    Units,
    Clients,
    Chart,
    Deny,
}

pub(crate) fn run(root: &Path, only: &[Step], long: bool) -> ExitCode {
    let steps = Step::value_variants().iter().filter(|step| only.is_empty() || only.contains(step));
    let mut total = Count::default();
    let mut report = Vec::new();
    for &step in steps {
        println!("\n== {}", step.name());
        let start = Instant::now();
        let count = step.run(root, long).unwrap_or_else(|problem| {
            eprintln!("{problem}");
            Count::of(false)
        });
        total += count;
        report.push(format!("{:<8} {:>6.1} s  {count}", step.name(), start.elapsed().as_secs_f64()));
    }
    println!("\n{}\n{total}", report.join("\n"));
    if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Step {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn run(self, root: &Path, long: bool) -> Outcome {
        match self {
            Step::Format => run::check(run::cargo(root).args(["fmt", "--all", "--check"])),
            Step::Tidy => tidy::run(root),
            Step::Lint => Ok(Count::of(build::workspace(root, None)?.warnings == 0)),
            Step::Units => {
                tools::system_packages();
                let prepare = |command: &mut Command| {
                    if long {
                        command.env("DORMOUSE_LONG", "1");
                    }
                };
                let mut count = build::workspace(root, None)?.run(|package| package != CLIENTS, prepare)?;
                if long {
                    count += traces(root)?;
                }
                Ok(count)
            }
            Step::Clients => clients(root, &[], long),
            Step::Chart => chart::run(root, long),
            Step::Deny => deny(root, long),
        }
    }
}

/// Runs the client suites, which are tests of their crate and install the clients.
///
/// An argument that names a file of tests runs all of them (`stores`), any other one the tests whose names contain it
/// (`redis_py`).
pub(crate) fn clients(root: &Path, arguments: &[String], long: bool) -> Outcome {
    tools::system_packages();
    let folder = root.join("client-tests/tests");
    let is_file = |name: &String| {
        folder.join(format!("{name}.rs")).is_file() || folder.join(name.as_str()).join("main.rs").is_file()
    };
    let (mut files, names): (Vec<String>, Vec<String>) = arguments.iter().cloned().partition(is_file);
    if files.is_empty() && !names.is_empty() {
        files = suites(&folder)?;
    }
    let build = build::workspace(root, (!files.is_empty()).then_some(&files))?;
    let mut variables = Vec::new();
    if std::env::var_os("DORMOUSE_BIN").is_none() {
        variables.push(("DORMOUSE_BIN", build.server.clone()));
    }
    if long {
        variables.push(("DORMOUSE_LONG", "1".into()));
    }
    // A single suite does not wait for tools that only others need.
    let needs = |names: &[&str]| {
        arguments.is_empty() || arguments.iter().any(|argument| names.iter().any(|name| argument.contains(name)))
    };
    if needs(&["rdb", "import", "follow", "replicas", "compar", "valkey", "redis8"]) {
        variables.extend(tools::peers(root, tools::Peers::Tested)?);
    }
    // It takes minutes to build; each run tests a bucket of moto, and one of the tests' own.
    if needs(&["s3"]) && (long || !arguments.is_empty()) {
        match tools::s3_server(root) {
            Ok(program) => variables.push(("DORMOUSE_S3_SERVER", program)),
            // The tests that need it say so too, and fail under `CI=true`.
            Err(problem) => drop(tools::missing("stores on S3 were", &problem)?),
        }
    }
    if needs(&["stores", "fleet", "moto", "gofakes3", "rclone", "azurite", "gcs", "s3s"]) {
        let mut servers = vec![("a store on moto was", stores::moto(root))];
        if long {
            servers.push(("stores on gofakes3 were", stores::gofakes3(root)));
            servers.push(("a store on rclone was", stores::rclone(root)));
            servers.push(("a store on Azurite was", stores::azurite(root)));
            servers.push(("a store on fake-gcs-server was", stores::fake_gcs(root)));
            servers.push(("the refusal of s3s-fs was", stores::s3s_fs(root)));
        }
        for (what, server) in servers {
            if let Err(problem) = server {
                // The tests that need it say so too, and fail under `CI=true`.
                let _ = tools::missing(what, &problem)?;
            }
        }
    }
    let mut count = build.run(
        |package| package == CLIENTS,
        |test| {
            test.args(&names).envs(variables.iter().map(|(name, value)| (name, value)));
        },
    )?;
    if count == Count::default() {
        eprintln!("no test of the clients is called {arguments:?}");
        count.failed = 1;
    }
    Ok(count)
}

/// The files of client suites, by the names that cargo knows them by.
fn suites(folder: &Path) -> Result<Vec<String>, String> {
    let told = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(told)? {
        let path = entry.map_err(told)?.path();
        if path.join("main.rs").is_file() || path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    Ok(names)
}

/// Tests traces, which need a build with other libraries.
fn traces(root: &Path) -> Outcome {
    let options = ["test", "--package", "dormouse", "--features", "opentelemetry", "--test", "traces"];
    run::check(run::cargo(root).args(options))
}

/// Unless it is there, `cargo deny` runs only if there is time to build it.
fn deny(root: &Path, long: bool) -> Outcome {
    if !long && !tools::is_present("cargo-deny") {
        return licences::check(root);
    }
    let deny = match tools::cargo_deny(root) {
        Ok(deny) => deny,
        Err(problem) => return tools::missing("dependencies were", &problem),
    };
    let mut command = Command::new(&deny);
    let mut count = run::check(command.current_dir(root).args(["check", "bans", "licenses", "sources"]))?;
    // Advisories come from a repository that not every machine can reach.
    let (clean, text) = run::output(Command::new(&deny).current_dir(root).args(["check", "advisories"]))?;
    if !clean && text.contains("failed to fetch advisory database") {
        eprintln!("advisories were NOT checked: their database cannot be reached from here");
        count += Count::skipped();
    } else {
        print!("{text}");
        count += Count::of(clean);
    }
    Ok(count)
}
