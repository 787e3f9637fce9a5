//! The cost of the log: server CPU per SET if a second may be lost, throughput if nothing may be lost.
//!
//! All servers run at once on the same core; rounds go from one to the next, and the median of the rounds counts. The
//! default checkpoint comes once a minute, so its share is taken from one run of more than a minute.

use std::time::Duration;

use crate::load::{Commands, Load};
use crate::process::{coarse_cpu_seconds, cpu_seconds};
use crate::report::{Table, Target, Unit};
use crate::server::{Kind, Loss, Server, Setup};
use crate::statistics::median;
use crate::{Bench, Result};

use super::{CONNECTIONS, VALUE_LENGTH, fill};

const KEYS: u64 = 100_000;

/// Dormouse's default, and a run during which it is reached at least once.
const CHECKPOINT_EVERY: &str = "60s";
const WITH_CHECKPOINTS: Duration = Duration::from_secs(70);

/// Pipelines, each with the limit of Dormouse's CPU relative to Redis with `appendfsync everysec`.
const SECOND: [(usize, Option<f64>); 2] = [(16, Some(0.65)), (1, None)];
/// Pipelines, each with the required multiple of Redis's throughput with `appendfsync always`.
const NOTHING: [(usize, Option<f64>); 2] = [(1, Some(1.5)), (16, None)];
/// The limit of the cost with a loss window of a second, relative to the cost without a log.
const LOG: f64 = 1.10;

/// Medians of one server's rounds.
#[derive(Clone, Copy)]
struct Medians {
    microseconds: Option<f64>,
    throughput: Option<f64>,
}

pub(super) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let without = start(bench, Loss::All)?;
    let second = start(bench, Loss::Second)?;
    let mut cpu = Table::new("Server CPU per SET", &bench.programs);
    let mut throughput = Table::new("SETs a second, server on one core", &bench.programs);
    let everything: Vec<&Server> = without.iter().chain(&second).collect();
    for (pipeline, limit) in SECOND {
        let medians = rounds(bench, &everything, pipeline)?;
        let (plain, logged) = medians.split_at(without.len());
        for (medians, loss, target) in [(plain, Loss::All, None), (logged, Loss::Second, limit.map(Target::OfRedis))] {
            let label = format!("pipeline {pipeline}, {}", name(loss));
            cpu.row(&label, Unit::Microseconds, medians.iter().map(|one| one.microseconds).collect(), target);
            throughput.row(&label, Unit::PerSecond, medians.iter().map(|one| one.throughput).collect(), None);
        }
        let times = plain.iter().zip(logged).map(|(plain, logged)| Some(logged.microseconds? / plain.microseconds?));
        // Compared with itself at the pipeline at which servers are measured; at 1, the sockets hide the log.
        let target = limit.map(|_| Target::Most(LOG));
        cpu.row(format!("pipeline {pipeline}, what the log makes of it"), Unit::Times, times.collect(), target);
    }
    with_checkpoints(bench, &mut cpu)?;
    encrypted(bench, &second, &mut cpu)?;
    drop((without, second));

    let nothing = start(bench, Loss::Nothing)?;
    for (pipeline, limit) in NOTHING {
        let medians = rounds(bench, &nothing.iter().collect::<Vec<_>>(), pipeline)?;
        let label = format!("pipeline {pipeline}, {}", name(Loss::Nothing));
        let target = limit.map(Target::TimesRedis);
        throughput.row(&label, Unit::PerSecond, medians.iter().map(|one| one.throughput).collect(), target);
        cpu.row(&label, Unit::Microseconds, medians.iter().map(|one| one.microseconds).collect(), None);
    }
    Ok(vec![cpu, throughput])
}

fn name(loss: Loss) -> String {
    match loss.appendfsync() {
        None => "no log".to_owned(),
        Some(when) => format!("loss window {}, appendfsync {when}", loss.window()),
    }
}

fn start(bench: &Bench, loss: Loss) -> Result<Vec<Server>> {
    let setup = Setup { loss, ..Setup::default() };
    let one = |program: &crate::server::Program| {
        let server = program.start_as(setup)?;
        fill(&mut server.client()?, KEYS)?;
        Ok(server)
    };
    bench.programs.iter().map(one).collect()
}

fn rounds(bench: &Bench, servers: &[&Server], pipeline: usize) -> Result<Vec<Medians>> {
    let kinds = [Commands::set(KEYS, VALUE_LENGTH)];
    let mut samples = vec![(Vec::new(), Vec::new()); servers.len()];
    for _ in 0..bench.amount(5, 1) {
        for (server, (microseconds, throughput)) in servers.iter().zip(&mut samples) {
            let mut load = Load::connect(server.address, CONNECTIONS, pipeline, &kinds)?;
            load.run_for(Duration::from_millis(bench.amount(200, 20)))?;
            let before = cpu_seconds(server.pid())?;
            let tally = load.run_for(Duration::from_millis(bench.amount(3000, 100)))?;
            let used = cpu_seconds(server.pid())? - before;
            microseconds.push(used * 1e6 / tally.commands as f64);
            throughput.push(tally.commands as f64 / tally.elapsed.as_secs_f64());
        }
    }
    let medians = |(microseconds, throughput): &(Vec<f64>, Vec<f64>)| Medians {
        microseconds: median(microseconds),
        throughput: median(throughput),
    };
    Ok(samples.iter().map(medians).collect())
}

/// Dormouse alone on an encrypted store, beside the `plain` servers with the same log.
fn encrypted(bench: &Bench, plain: &[Server], cpu: &mut Table) -> Result<()> {
    let (pipeline, _) = SECOND[0];
    let (mut values, mut times) = (Vec::new(), Vec::new());
    for (program, plain) in bench.programs.iter().zip(plain) {
        if program.kind != Kind::Dormouse {
            values.push(None);
            times.push(None);
            continue;
        }
        let server = program.start_encrypted(Setup { loss: Loss::Second, ..Setup::default() })?;
        fill(&mut server.client()?, KEYS)?;
        let medians = rounds(bench, &[plain, &server], pipeline)?;
        let [plain, encrypted] = [0, 1].map(|at| medians.get(at).and_then(|one| one.microseconds));
        values.push(encrypted);
        times.push(plain.zip(encrypted).map(|(plain, encrypted)| encrypted / plain));
    }
    let label = format!("pipeline {pipeline}, {}, encrypted", name(Loss::Second));
    cpu.row(label, Unit::Microseconds, values, None);
    cpu.row(format!("pipeline {pipeline}, what encryption makes of it"), Unit::Times, times, None);
    Ok(())
}

/// Dormouse alone, for longer than its interval between checkpoints.
fn with_checkpoints(bench: &Bench, cpu: &mut Table) -> Result<()> {
    let (pipeline, _) = SECOND[0];
    let kinds = [Commands::set(KEYS, VALUE_LENGTH)];
    let mut values = Vec::new();
    for program in &bench.programs {
        if program.kind != Kind::Dormouse {
            values.push(None);
            continue;
        }
        let server = program.start_as(Setup { loss: Loss::Second, checkpoint_every: CHECKPOINT_EVERY })?;
        fill(&mut server.client()?, KEYS)?;
        let mut load = Load::connect(server.address, CONNECTIONS, pipeline, &kinds)?;
        let before = coarse_cpu_seconds(server.pid())?;
        let tally = load.run_for(bench.amount(WITH_CHECKPOINTS, Duration::from_millis(300)))?;
        let used = coarse_cpu_seconds(server.pid())? - before;
        let made = server.client()?.info("persistence", "rdb_saves")?.unwrap_or(0);
        if made == 0 && !bench.quick {
            return Err(
                format!("no checkpoint in {WITH_CHECKPOINTS:?} with --checkpoint-every {CHECKPOINT_EVERY}").into()
            );
        }
        values.push(Some(used * 1e6 / tally.commands as f64));
    }
    let label = format!("pipeline {pipeline}, loss window 1s, a checkpoint every {CHECKPOINT_EVERY}");
    cpu.row(label, Unit::Microseconds, values, None);
    Ok(())
}
