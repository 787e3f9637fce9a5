//! `dormouse-benches`: Dormouse beside real peers, on this machine, in the same run.
//!
//! Each measure starts its servers on core 0, puts the load on core 1, and comes back as tables: one column a server, the
//! ratio to Redis, and the target with whether it was met. Targets are reported and never asserted: a bench that fails on
//! a busy machine teaches people to ignore it. `README.md` says how each number is taken.

#![forbid(unsafe_code)]

mod client;
mod load;
mod machine;
mod measures;
mod process;
mod report;
mod server;
mod statistics;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::measures::{Measure, Part};
use crate::server::{Kind, Program};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Measures Dormouse beside redis-server (and valkey-server where there is one).
#[derive(Parser)]
#[command(name = "dormouse-benches")]
struct Options {
    /// What to measure; everything where none is named.
    #[arg(value_enum)]
    measures: Vec<Measure>,
    /// A smoke run: everything small and once. Its numbers mean nothing.
    #[arg(long)]
    quick: bool,
    /// Keeps the tables under `benches/record/`, as text and as JSON.
    #[arg(long, conflicts_with = "quick")]
    record: bool,
    /// Of `durability`, this part alone; its tables are kept by themselves.
    #[arg(long, value_enum)]
    part: Option<Part>,
    /// Measures the peers alone.
    #[arg(long)]
    peers_only: bool,
    #[arg(long, default_value = "target/release/dormouse")]
    dormouse: PathBuf,
    #[arg(long, default_value = "redis-server")]
    redis: PathBuf,
    /// Left out where it is not installed.
    #[arg(long, default_value = "valkey-server")]
    valkey: PathBuf,
}

/// What every measure is handed.
pub(crate) struct Bench {
    /// Redis first: it is what ratios are taken against.
    pub programs: Vec<Program>,
    pub quick: bool,
    /// The one part of a measure that has several.
    pub part: Option<Part>,
}

impl Bench {
    /// The full amount, or in a smoke run the small one.
    pub fn amount<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dormouse-benches: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    server::sweep();
    process::raise_open_files();
    process::pin_to_core(server::LOAD_CORE)?;
    let mut programs = vec![Program::find(Kind::Redis, &options.redis)?];
    // Valkey is welcome, not required.
    programs.extend(Program::find(Kind::Valkey, &options.valkey).ok());
    if !options.peers_only {
        let found = Program::find(Kind::Dormouse, &options.dormouse);
        programs.push(found.map_err(|error| format!("{error}; build it with `cargo build --release`"))?);
    }
    let bench = Bench { programs, quick: options.quick, part: options.part };
    let machine = machine::Machine::look(&bench.programs);
    eprintln!("{}", machine.summary());

    for measure in Measure::chosen(&options.measures) {
        eprintln!("measuring {} ...", measure.name());
        let part = options.part.filter(|_| measure == Measure::Durability).map(Part::name);
        let (name, option) = match part {
            Some(part) => (format!("{}-{part}", measure.name()), format!(" --part {part}")),
            None => (measure.name().to_owned(), String::new()),
        };
        let report = report::Report {
            measure: name,
            command: format!("cargo xtask bench {}{option} --record", measure.name()),
            machine: machine.clone(),
            tables: measure.run(&bench)?,
        };
        println!("{}", report.text());
        if options.record {
            report.keep()?;
        }
    }
    Ok(())
}
