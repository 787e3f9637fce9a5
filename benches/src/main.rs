//! `dormouse-benches`: Dormouse beside real peers, on this machine, in the same run.
//!
//! Each measure starts its servers on core 0, puts the load on core 1, and returns tables: one column for each server,
//! the ratio to Redis, and the target with whether it was met. Targets are reported and never asserted: a bench that
//! fails on a busy machine teaches people to ignore it. `README.md` explains how each number is taken.

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

/// Measures Dormouse beside redis-server, and where that is the question beside the newest Valkey and Redis.
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
    /// Of `cpu` and `memory`, only the rows whose labels contain one of these texts.
    #[arg(long, value_delimiter = ',', conflicts_with = "record")]
    rows: Vec<String>,
    /// Measures the peers alone.
    #[arg(long)]
    peers_only: bool,
    /// Otherwise the one that was built beside this program.
    #[arg(long)]
    dormouse: Option<PathBuf>,
    #[arg(long, default_value = "redis-server")]
    redis: PathBuf,
    /// Valkey 9, for `cpu`, `memory`, `applications`, `waiting` and `vectors`; `cargo xtask bench` fetches it.
    #[arg(long)]
    valkey: Option<PathBuf>,
    /// Redis 8, for `cpu`, `memory`, `applications`, `waiting` and `vectors`; `cargo xtask bench` fetches it.
    #[arg(long)]
    redis8: Option<PathBuf>,
}

impl Options {
    /// The columns of a measure, Redis first.
    fn programs(&self, measure: Measure) -> Result<Vec<Program>> {
        let beside = std::env::current_exe()?;
        let mut programs = vec![Program::find(Kind::Redis, &self.redis)?];
        if measure.has_newest_peers() {
            let peers = [
                (Kind::Valkey, &self.valkey, "DORMOUSE_VALKEY_SERVER"),
                (Kind::Redis8, &self.redis8, "DORMOUSE_REDIS8_SERVER"),
            ];
            for (kind, option, variable) in peers {
                let path = option.clone().or_else(|| std::env::var_os(variable).map(PathBuf::from));
                let hint =
                    format!("neither an option nor {variable}, which `cargo xtask bench` sets, names its program");
                programs.push(Program::find_or_absent(kind, path.as_deref(), &hint));
            }
        }
        if measure.has_limit() {
            let limit = beside.with_file_name("dormouse-bench-limit");
            programs.push(Program::find_or_absent(Kind::Limit, Some(&limit), ""));
        }
        if !self.peers_only {
            let path = self.dormouse.clone().unwrap_or_else(|| beside.with_file_name("dormouse"));
            let found = Program::find(Kind::Dormouse, &path);
            programs.push(found.map_err(|error| format!("{error}; build it with `cargo build --release`"))?);
        }
        Ok(programs)
    }
}

/// The context of every measure.
pub(crate) struct Bench {
    /// Redis first: ratios are relative to it.
    pub programs: Vec<Program>,
    pub quick: bool,
    /// The selected part of a measure that has several.
    pub part: Option<Part>,
    /// Texts of which the labels of the selected rows contain one; none for all rows.
    pub rows: Vec<String>,
}

impl Bench {
    /// The value of each server in the order of the columns; `None` for an absent one.
    pub fn of_each<T>(&self, of_one: impl Fn(&Program) -> Result<T>) -> Result<Vec<Option<T>>> {
        let present = |program: &Program| program.absent.is_none().then(|| of_one(program)).transpose();
        self.programs.iter().map(present).collect()
    }

    /// Whether a row with this label is selected.
    pub fn has_row(&self, label: &str) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|text| label.contains(text))
    }

    fn absent(&self) -> Vec<String> {
        let why = |program: &Program| Some(format!("{}: {}", program.kind.name(), program.absent.as_ref()?));
        self.programs.iter().filter_map(why).collect()
    }

    /// The full amount, or the small one in a smoke run.
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
    for measure in Measure::chosen(&options.measures) {
        let bench = Bench {
            programs: options.programs(measure)?,
            quick: options.quick,
            part: options.part,
            rows: options.rows.clone(),
        };
        let machine = machine::Machine::look(&bench.programs);
        eprintln!("measuring {} on {} ...", measure.name(), machine.summary());
        let part = options.part.filter(|_| measure == Measure::Durability).map(Part::name);
        let (name, option) = match part {
            Some(part) => (format!("{}-{part}", measure.name()), format!(" --part {part}")),
            None => (measure.name().to_owned(), String::new()),
        };
        let report = report::Report {
            measure: name,
            command: format!("cargo xtask bench {}{option} --record", measure.name()),
            machine,
            absent: bench.absent(),
            tables: measure.run(&bench)?,
        };
        println!("{}", report.text());
        if options.record {
            report.keep()?;
        }
    }
    Ok(())
}
