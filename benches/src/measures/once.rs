//! Server CPU of a command behind `ONCE`, beside the same command alone.
//!
//! 50 connections in a closed loop, pipeline 16, on one core. Each `ONCE` has a key of its own, so all are run and kept;
//! the rounds take turns. A row has the answers to requests that were run before.

use std::time::Duration;

use crate::client::command;
use crate::load::{Commands, Load};
use crate::process::cpu_seconds;
use crate::report::{Table, Target, Unit};
use crate::server::{Kind, Server, Setup};
use crate::statistics::median;
use crate::{Bench, Result};

const CONNECTIONS: usize = 50;
const PIPELINE: usize = 16;
const COUNTERS: u64 = 1_000;
const COMMANDS: u64 = 200_000;
const TIMES_MOST: f64 = 1.15;
/// Longer than a round takes: it ends when all commands are sent.
const LONG: Duration = Duration::from_secs(60);

/// CPU times of a command, in microseconds.
struct Cost {
    alone: f64,
    once: f64,
    repeated: f64,
}

pub(super) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let costs = bench.of_each(|program| match program.kind {
        Kind::Dormouse => cost(bench, &program.start_as(Setup::DEFAULT)?).map(Some),
        _ => Ok(None),
    })?;
    let costs: Vec<Option<Cost>> = costs.into_iter().map(Option::flatten).collect();
    let of = |field: fn(&Cost) -> f64| costs.iter().map(|cost| cost.as_ref().map(field)).collect::<Vec<_>>();
    let mut table = Table::new("Server CPU of a command behind ONCE, pipeline 16", &bench.programs);
    table.row("INCRBY", Unit::Microseconds, of(|cost| cost.alone), None);
    table.row("ONCE with a new key, INCRBY", Unit::Microseconds, of(|cost| cost.once), None);
    table.row("times INCRBY alone", Unit::Times, of(|cost| cost.once / cost.alone), Some(Target::Most(TIMES_MOST)));
    table.row("ONCE with a key that was used, INCRBY", Unit::Microseconds, of(|cost| cost.repeated), None);
    Ok(vec![table])
}

fn cost(bench: &Bench, server: &Server) -> Result<Cost> {
    let counter = |index: u64| format!("counter:{:03}", index % COUNTERS);
    let alone = Commands::of_lines(COMMANDS, ":", |index, request| {
        command(request, &["INCRBY", &counter(index), "7"].map(str::as_bytes));
    });
    let once = |round: usize| {
        let mut number = 0;
        let commands = Commands::of_lines(COMMANDS, ":", |index, request| {
            let id = format!("request:{round}:{number:08}");
            number += 1;
            command(request, &["ONCE", &id, "3600000", "INCRBY", &counter(index), "7"].map(str::as_bytes));
        });
        commands.in_turn()
    };
    let alone = [alone.in_turn()];
    let mut samples = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..bench.amount(9, 1) {
        let once = [once(round)];
        let most = alone[0].count().min(once[0].count());
        for (kinds, samples) in [&alone, &once, &once].into_iter().zip(&mut samples) {
            let mut load = Load::connect(server.address, CONNECTIONS, PIPELINE, kinds)?;
            let before = cpu_seconds(server.pid())?;
            let tally = load.run_for_at_most(LONG, most)?;
            let used = cpu_seconds(server.pid())? - before;
            samples.push(used * 1e6 / tally.commands as f64);
        }
    }
    let [alone, once, repeated] = samples.map(|samples| median(&samples).unwrap_or(f64::NAN));
    Ok(Cost { alone, once, repeated })
}
