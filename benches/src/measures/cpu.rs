//! Server CPU per command, and throughput: SET and GET at pipeline 1, 16, and 64.
//!
//! 50 connections in a closed loop, 100,000 keys of 16 bytes with values of 64. All servers run at once on the same core;
//! rounds go from one to the next, so that what else happens on the machine hits all of them, and the median of the rounds
//! counts.

use std::time::Duration;

use crate::load::{Commands, Load, key, value};
use crate::process::cpu_seconds;
use crate::report::{Table, Target, Unit};
use crate::server::Server;
use crate::statistics::median;
use crate::{Bench, Result};

const CONNECTIONS: usize = 50;
const KEYS: u64 = 100_000;
const VALUE_LENGTH: usize = 64;

/// Pipelines, with what Dormouse may cost at most, of Redis.
const PIPELINES: [(usize, f64); 3] = [(1, 0.88), (16, 0.60), (64, 0.45)];

/// What one server did in one row.
#[derive(Default)]
struct Samples {
    microseconds: Vec<f64>,
    throughput: Vec<f64>,
    /// How much of its core it used, in percent: below about 95 the load generator was what limited the throughput.
    busy: Vec<f64>,
}

pub(super) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let servers: Vec<Server> = bench.programs.iter().map(|program| program.start()).collect::<Result<_>>()?;
    let mut text = [0; VALUE_LENGTH];
    for server in &servers {
        server.client()?.fill(KEYS, |index, request| {
            value(index, &mut text);
            crate::client::command(request, &[b"SET", key(index).as_bytes(), &text]);
        })?;
    }
    let mut cost = Table::new("Server CPU per command", &bench.programs);
    let mut throughput = Table::new("Commands a second, server on one core", &bench.programs);
    let mut busy = Table::new("Server core in use", &bench.programs);
    for (pipeline, limit) in PIPELINES {
        for (name, commands) in [("SET", Commands::set(KEYS, VALUE_LENGTH)), ("GET", Commands::get(KEYS, VALUE_LENGTH))]
        {
            let samples = rounds(bench, &servers, &[commands], pipeline)?;
            let medians = |of: fn(&Samples) -> &Vec<f64>| samples.iter().map(|one| median(of(one))).collect();
            let label = format!("{name}, pipeline {pipeline}");
            let target = Some(Target::OfRedis(limit));
            cost.row(&label, Unit::Microseconds, medians(|one| &one.microseconds), target);
            throughput.row(&label, Unit::PerSecond, medians(|one| &one.throughput), None);
            busy.row(&label, Unit::Percent, medians(|one| &one.busy), None);
        }
    }
    Ok(vec![cost, throughput, busy])
}

fn rounds(bench: &Bench, servers: &[Server], kinds: &[Commands], pipeline: usize) -> Result<Vec<Samples>> {
    let mut samples: Vec<Samples> = servers.iter().map(|_| Samples::default()).collect();
    for _ in 0..bench.amount(5, 1) {
        for (server, samples) in servers.iter().zip(&mut samples) {
            let mut load = Load::connect(server.address, CONNECTIONS, pipeline, kinds)?;
            load.run_for(Duration::from_millis(bench.amount(200, 20)))?;
            let before = cpu_seconds(server.pid())?;
            let tally = load.run_for(Duration::from_millis(bench.amount(2000, 100)))?;
            let used = cpu_seconds(server.pid())? - before;
            samples.microseconds.push(used * 1e6 / tally.commands as f64);
            samples.throughput.push(tally.commands as f64 / tally.elapsed.as_secs_f64());
            samples.busy.push(used * 100.0 / tally.elapsed.as_secs_f64());
        }
    }
    Ok(samples)
}
