//! `cargo xtask upstream`: the test suite of Redis or Valkey against Dormouse.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use dormouse_client_tests::upstream::{self, Report, Settings, known::Known};

#[derive(Parser)]
#[command(
    name = "upstream",
    bin_name = "cargo xtask upstream",
    about = "Run the test suite of Redis or Valkey in its external mode"
)]
struct Options {
    /// A checkout of Redis or Valkey
    #[arg(long)]
    suite: PathBuf,

    /// Only these units, or units whose names begin so: `unit/type`
    #[arg(long, value_delimiter = ',')]
    units: Vec<String>,

    /// Seconds without progress after which a test has hung
    #[arg(long, default_value_t = 60)]
    patience: u64,

    /// Seconds after which a unit is killed
    #[arg(long, default_value_t = 1200)]
    limit: u64,

    /// How many units run at the same time
    #[arg(long, default_value_t = 1)]
    jobs: usize,

    /// Print what the suite says about each failed test
    #[arg(long)]
    verbose: bool,

    /// Write the results for docs/compatibility.md
    #[arg(long, conflicts_with = "units")]
    record: bool,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(is_expected) if is_expected => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether everything went as the list of known failures says.
fn run(options: &Options) -> Result<bool, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("upstream");
    let list = folder.join("known.txt");
    let text = std::fs::read_to_string(&list).map_err(|error| format!("{}: {error}", list.display()))?;
    let known = Known::read(&text)?;
    let settings = Settings {
        suite: options.suite.clone(),
        units: options.units.clone(),
        patience: Duration::from_secs(options.patience),
        limit: Duration::from_secs(options.limit),
        jobs: options.jobs.max(1),
        is_verbose: options.verbose,
    };
    let report: Report = upstream::run(&settings, &known).map_err(|error| error.to_string())?;
    let sum = |count: fn(&upstream::Unit) -> usize| report.units.iter().map(|(_, unit)| count(unit)).sum::<usize>();
    println!(
        "{}: {} passed, {} failed, {} skipped",
        report.version,
        sum(|unit| unit.passed.len()),
        sum(|unit| unit.failed.len()),
        sum(|unit| unit.skipped)
    );
    if options.record {
        let file = folder.join("results.txt");
        std::fs::write(&file, report.lines()).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    let surprises: Vec<String> = report.surprises(&known);
    surprises.iter().for_each(|surprise| println!("{surprise}"));
    Ok(surprises.is_empty())
}
