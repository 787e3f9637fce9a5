//! `cargo xtask crash`: any number of rounds of the crash harness.

#![forbid(unsafe_code)]

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use dormouse_client_tests::{
    Kind,
    crash::{self, Settings, full, mode::Mode, node, rivals},
};

#[derive(Parser)]
#[command(name = "crash", bin_name = "cargo xtask crash", about = "Kill a server again and again, check what it kept")]
struct Options {
    /// How many times it is killed
    #[arg(long, default_value_t = 1000)]
    rounds: usize,

    /// What repeats the loads and moments of an earlier run [default: from the clock]
    #[arg(long)]
    seed: Option<u64>,

    /// What the server promises: a loss window (0, 100ms, 1s, none), or `checkpoint`: no option, and only what
    /// checkpoints promise
    #[arg(long, default_value = "0")]
    mode: Mode,

    /// After so many rounds the store is thrown away and begun anew
    #[arg(long, default_value_t = 25)]
    rounds_per_store: usize,

    /// Judge each database by itself, as if it had a log of its own
    #[arg(long)]
    each_database: bool,

    /// Let the disk be full for a while in half of the rounds
    #[arg(long)]
    full_disk: bool,

    /// Let two processes want the same bucket; the mode is a loss window
    #[arg(long, conflicts_with_all = ["each_database", "full_disk"])]
    rivals: bool,

    /// Measure so many takeovers of a process that 8 clients write to, with 10 ms for a request, and do nothing else
    #[arg(long, value_name = "TIMES")]
    takeovers: Option<usize>,

    /// Put the store on a file system of its own of so many MiB, a tmpfs, which really is full then (needs root)
    #[arg(long, value_name = "MIB")]
    disk: Option<u32>,

    /// Kill nothing, but keep the disk full for so many seconds and tell what that leaves behind
    #[arg(long, value_name = "SECONDS", requires = "disk")]
    stay_full: Option<u64>,

    /// Which server: dormouse, or redis, which shows whether the harness is right
    #[arg(long, default_value = "dormouse", value_parser = kind)]
    server: Kind,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let Options { rounds, seed, mode, rounds_per_store, each_database, full_disk, disk, server, .. } = options;
    if let (Some(seconds), Some(mib)) = (options.stay_full, disk) {
        let report = full::measure(mib, &mode.to_string(), Duration::from_secs(seconds));
        return ended(report.map(|report| report.to_string()));
    }
    let seed = seed.unwrap_or_else(node::unix_ms);
    if let Some(times) = options.takeovers {
        return ended(rivals::takeovers(times, 8, Duration::from_millis(10)).map(|took| distribution(&took)));
    }
    if options.rivals {
        let window = match mode {
            Mode::Window(window) => window,
            _ => Duration::ZERO,
        };
        println!("{rounds} rounds of two processes, loss window {window:?}, seed {seed}");
        let settings = rivals::Settings { seed, rounds, rounds_per_store, window, delay: Duration::from_millis(4) };
        let done = rivals::run(settings, |summary| {
            if summary.rounds.is_multiple_of(50) {
                println!("{summary}");
            }
        });
        return ended(done.map(|summary| summary.to_string()));
    }
    println!("{rounds} rounds of {}, mode {mode}, seed {seed}", server.name());
    let settings = Settings {
        kind: server,
        mode,
        seed,
        rounds,
        rounds_per_store: rounds_per_store.max(1),
        each_database,
        full_disk: full_disk || disk.is_some(),
        disk_mib: disk,
    };
    let mut told = 0;
    let done = crash::run(settings, |summary| {
        if summary.rounds >= told + 500 {
            told = summary.rounds;
            println!("{told} rounds, {} operations", summary.toll.sent);
        }
    });
    ended(done.map(|summary| summary.to_string()))
}

fn ended(done: Result<String, String>) -> ExitCode {
    match done {
        Ok(summary) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn distribution(took: &[Duration]) -> String {
    let mut took = took.to_vec();
    took.sort();
    let ms = |part: usize| took.get((took.len() * part / 100).min(took.len() - 1)).map_or(0, Duration::as_millis);
    let within = took.iter().filter(|took| **took <= Duration::from_millis(1500)).count();
    format!(
        "takeover of a process with 8 writers at loss window 0, 10 ms a request, from start to first acknowledged write: \
         {within} of {} within 1500 ms; min {} ms, median {} ms, p90 {} ms, max {} ms",
        took.len(),
        ms(0),
        ms(50),
        ms(90),
        ms(100)
    )
}

fn kind(text: &str) -> Result<Kind, String> {
    let kinds = [Kind::Dormouse, Kind::Redis];
    kinds.into_iter().find(|kind| kind.name() == text).ok_or_else(|| "dormouse or redis".into())
}
