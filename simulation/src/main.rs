//! Runs the schedules of many seeds: `cargo xtask simulate --seeds 1-10000`.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use dormouse_simulation::Features;

#[derive(Parser)]
#[command(about = "Runs the engine on a simulated disk, one schedule for each seed")]
struct Arguments {
    /// One seed, or a range of them: 7, 1-10000
    #[arg(long, default_value = "1-1000", value_parser = seeds)]
    seeds: (u64, u64),
    /// Threads
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Show every step
    #[arg(long)]
    trace: bool,
    /// Several processes at once on one store
    #[arg(long)]
    rivals: bool,
    /// Plain schedules, without what only some seeds have
    #[arg(long)]
    plain: bool,
    /// Go on after a failure
    #[arg(long)]
    keep_going: bool,
}

fn seeds(text: &str) -> Result<(u64, u64), String> {
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("`{text}`: {error}"));
    match text.split_once('-') {
        Some((first, last)) => Ok((number(first)?, number(last)?)),
        None => number(text).map(|seed| (seed, seed)),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (first, last) = arguments.seeds;
    let (next, failed, steps, processes) =
        (AtomicU64::new(first), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > last || (failed.load(Ordering::Relaxed) > 0 && !arguments.keep_going) {
                        return;
                    }
                    let outcome = match arguments.rivals {
                        true => dormouse_simulation::rivals::run(seed, arguments.trace),
                        false => {
                            let features = if arguments.plain { Features::default() } else { Features::of(seed) };
                            dormouse_simulation::run(seed, features, arguments.trace)
                        }
                    };
                    steps.fetch_add(outcome.steps, Ordering::Relaxed);
                    processes.fetch_add(outcome.processes, Ordering::Relaxed);
                    if let Some(failure) = outcome.failure {
                        failed.fetch_add(1, Ordering::Relaxed);
                        if !arguments.keep_going {
                            eprint!("{}", outcome.trace);
                        }
                        eprintln!("seed {seed} failed: {failure}");
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    let ran = next.into_inner().min(last + 1) - first;
    println!("{ran} seeds, {} steps, {} processes: {failed} failed", steps.into_inner(), processes.into_inner());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
