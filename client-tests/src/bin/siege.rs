//! `cargo xtask siege`: misbehaving tenants of every kind, beside quiet ones whose latency is measured.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use dormouse_client_tests::siege::{self, Settings, noise::Kind};

#[derive(Parser)]
#[command(
    name = "siege",
    bin_name = "cargo xtask siege",
    about = "Let tenants misbehave beside quiet ones, and see what becomes of the server"
)]
struct Options {
    /// How long it lasts; the quiet tenants are alone for the first quarter, at most a minute
    #[arg(long, default_value_t = 60)]
    seconds: u64,

    /// How many tenants there are, four of them quiet
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(5..=1000))]
    tenants: u32,

    /// The limit of the server's memory, in MiB
    #[arg(long, default_value_t = 1024)]
    memory: u64,

    /// The server's worker threads
    #[arg(long, default_value_t = 2)]
    workers: usize,

    /// The server's loss window
    #[arg(long, default_value = "1s")]
    loss_window: String,

    /// Elements of the large collections that the noise is made with
    #[arg(long, default_value_t = 500_000)]
    elements: usize,

    /// Varies what the tenants do
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Fail if the quiet tenants' replies are later than 2 ms (99 %) or 5 ms (99.9 %) above those without noise
    #[arg(long)]
    strict: bool,

    /// Make only this kind of noise
    #[arg(long, value_parser = kind)]
    only: Option<Kind>,
}

fn main() -> ExitCode {
    let Options { seconds, tenants, memory, workers, loss_window, elements, seed, strict, only } = Options::parse();
    println!("{tenants} tenants for {seconds} s, a limit of {memory} MiB, {workers} workers, seed {seed}");
    let settings = Settings {
        seconds,
        tenants: tenants as usize,
        memory_mib: memory,
        workers,
        loss_window,
        elements,
        seed,
        is_strict: strict,
        only,
    };
    match siege::run(&settings) {
        Ok(report) => {
            print!("{report}");
            if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn kind(name: &str) -> Result<Kind, String> {
    Kind::named(name).ok_or_else(|| format!("expected one of {:?}", Kind::ALL))
}
