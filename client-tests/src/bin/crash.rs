//! `cargo xtask crash`: as many rounds of the crash harness as one likes.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use dormouse_client_tests::{
    Kind,
    crash::{self, Settings, mode::Mode, node},
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

    /// Which server: dormouse, or redis, which shows whether the harness is right
    #[arg(long, default_value = "dormouse", value_parser = kind)]
    server: Kind,
}

fn main() -> ExitCode {
    let Options { rounds, seed, mode, rounds_per_store, each_database, full_disk, server } = Options::parse();
    let seed = seed.unwrap_or_else(node::unix_ms);
    println!("{rounds} rounds of {}, mode {mode}, seed {seed}", server.name());
    let settings = Settings {
        kind: server,
        mode,
        seed,
        rounds,
        rounds_per_store: rounds_per_store.max(1),
        each_database,
        full_disk,
    };
    let mut told = 0;
    let ended = crash::run(settings, |summary| {
        if summary.rounds >= told + 500 {
            told = summary.rounds;
            println!("{told} rounds, {} operations", summary.toll.sent);
        }
    });
    match ended {
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

fn kind(text: &str) -> Result<Kind, String> {
    let kinds = [Kind::Dormouse, Kind::Redis];
    kinds.into_iter().find(|kind| kind.name() == text).ok_or_else(|| "dormouse or redis".into())
}
