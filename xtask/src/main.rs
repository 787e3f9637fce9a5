//! `cargo xtask`: the tasks of the workspace, in Rust, so that a user needs nothing but the toolchain to start.
//!
//! | task | what it does |
//! | --- | --- |
//! | `test` | everything that must pass: see [`test`] |
//! | `tidy` | the rules that neither rustc nor clippy know: see [`tidy`] |
//! | `clients` | real clients of many languages against a real server |
//! | `crash` | a server that is killed again and again, and what it has kept |
//! | `siege` | tenants that misbehave in every way, beside quiet ones |
//! | `upstream` | the test suite of Redis or Valkey, from a checkout, against a real server |
//! | `docs` | the generated part of `docs/compatibility.md` |
//! | `simulate` | the engine on a simulated disk, a schedule of faults and crashes for each seed |
//! | `placement` | a simulated day of a fleet of many nodes under the policy of placement |
//! | `chart` | the Helm chart: lint, templates, and values that must be refused |
//! | `bench` | Dormouse beside real peers, on this machine |

#![forbid(unsafe_code)]

mod build;
mod chart;
mod count;
mod crash;
mod licences;
mod run;
mod siege;
mod stores;
mod test;
mod tidy;
mod tools;
mod upstream;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::count::Count;

/// The result of a task: its counts, or the reason why it could not go on.
pub(crate) type Outcome = Result<Count, String>;

#[derive(Parser)]
#[command(name = "cargo-xtask", bin_name = "cargo xtask", about = "Tasks of the workspace")]
struct CommandLine {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run every check and test
    Test {
        /// Only these steps, in their own order
        #[arg(long, value_enum, value_delimiter = ',')]
        only: Vec<test::Step>,
        /// Also test what takes minutes to build or to run: stores on more servers, and more applications
        #[arg(long)]
        long: bool,
    },
    /// Check layering, file lengths, names, and words
    Tidy,
    /// Run the client suites of other languages
    Clients {
        /// Also test what takes minutes to build or to run: stores on more servers, and more applications
        #[arg(long)]
        long: bool,
        /// Passed on to the tests: part of a suite's name, for example
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Kill a server again and again and check what it kept; `crash --help` for its options
    #[command(disable_help_flag = true)]
    Crash {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Let tenants misbehave beside quiet ones; `siege --help` for its options
    #[command(disable_help_flag = true)]
    Siege {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the test suite of Redis or Valkey from a checkout; `upstream --help` for its options
    #[command(disable_help_flag = true)]
    Upstream {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Write the generated part of docs/compatibility.md
    Docs,
    /// Run the engine on a simulated disk; `simulate --help` for its options
    #[command(disable_help_flag = true)]
    Simulate {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Simulate a day of a fleet of many nodes; `placement --nodes 50 --databases 20000` for a small one
    Placement {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Check the Helm chart, with its dashboard and alerts
    Chart {
        /// Also let promtool check the alerts, the dashboard and the metrics; its build takes minutes
        #[arg(long)]
        long: bool,
    },
    /// Measure against real peers; `bench --help` for what there is to measure
    #[command(disable_help_flag = true)]
    Bench {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let root = root.parent().expect("this crate lies in the workspace's folder");
    let outcome = match CommandLine::parse().task {
        Task::Test { only, long } => return test::run(root, &only, long),
        Task::Tidy => tidy::run(root),
        Task::Clients { long, arguments } => test::clients(root, &arguments, long),
        Task::Crash { arguments } => crash::run(root, &arguments),
        Task::Siege { arguments } => siege::run(root, &arguments),
        Task::Upstream { arguments } => upstream::run(root, &arguments),
        Task::Docs => docs(root),
        Task::Simulate { arguments } => simulate(root, &arguments),
        Task::Placement { arguments } => placement(root, &arguments),
        Task::Chart { long } => chart::run(root, long),
        Task::Bench { arguments } => bench(root, &arguments),
    };
    match outcome {
        Ok(count) => {
            println!("{count}");
            if count.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// The test that checks the page writes it instead, since it knows the command table.
fn docs(root: &std::path::Path) -> Outcome {
    let mut test = run::cargo(root);
    test.args(["test", "--quiet", "--package", "dormouse", "--test", "compatibility", "page"])
        .env("DORMOUSE_WRITE_DOCS", "1");
    run::check(&mut test)
}

/// Runs a build without optimisations, since assertions are part of the check.
fn simulate(root: &std::path::Path, arguments: &[String]) -> Outcome {
    let mut simulation = run::cargo(root);
    simulation.args(["run", "--quiet", "--package", "dormouse-simulation", "--"]).args(arguments);
    run::check(&mut simulation)
}

/// Runs an optimised build: the day has hundreds of millions of reports.
fn placement(root: &std::path::Path, arguments: &[String]) -> Outcome {
    let mut day = run::cargo(root);
    let options = ["run", "--quiet", "--release", "--package", "dormouse-autoscaler", "--example", "placement", "--"];
    run::check(day.args(options).args(arguments))
}

/// Builds the server as users get it, then measures it. Standard output carries only the tables.
fn bench(root: &std::path::Path, arguments: &[String]) -> Outcome {
    tools::system_packages();
    let is_named = |names: &[&str]| arguments.iter().any(|argument| names.contains(&argument.as_str()));
    let mut build = run::cargo(root);
    build.args(["build", "--quiet", "--release", "--package", "dormouse-benches"]);
    if !is_named(&["--help", "-h", "--peers-only"]) {
        build.args(["--package", "dormouse"]);
    }
    build.status().map_err(|error| error.to_string()).and_then(run::succeeded)?;
    let mut bench = run::cargo(root);
    bench.args(["run", "--quiet", "--release", "--package", "dormouse-benches", "--"]).args(arguments);
    // Other measures compare with Debian's Redis only.
    let is_everything = !arguments.iter().any(|argument| !argument.starts_with('-'));
    let needs_newest = is_named(&["cpu", "memory", "durability", "applications", "waiting", "vectors"]);
    if !is_named(&["--help", "-h"]) && (is_everything || needs_newest) {
        bench.envs(tools::peers(root, tools::Peers::Measured)?);
    }
    let status = bench.status().map_err(|error| error.to_string())?;
    std::process::exit(status.code().unwrap_or(1))
}
