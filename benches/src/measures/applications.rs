//! BullMQ's jobs through add, process and complete: what an application gets out of a server.
//!
//! One process of Node on the load generator's core runs `bullmq-load.js` of the client tests; a job is a dozen commands
//! inside two scripts, and a worker's client does more work for a job than any server. So its own use of its core is
//! shown beside the jobs a second: if it is near 100 %, the client limited them, and only the server's CPU time compares
//! the servers.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use dormouse_client_tests::applications;

use crate::process::cpu_seconds;
use crate::report::{Table, Target, Unit};
use crate::server::{Server, Setup};
use crate::statistics::median;
use crate::{Bench, Result};

/// Phases of the load, in its own words.
const PHASES: [&str; 2] = ["add", "work"];

/// One phase over one server.
#[derive(Clone, Copy, Default)]
struct Phase {
    seconds: f64,
    server_seconds: f64,
    client_seconds: f64,
}

pub(super) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let folder = applications::node().ok_or("Node or its packages are missing")?;
    let script = folder.join("bullmq-load.js");
    let jobs = bench.amount(10_000, 200);
    let servers = bench.of_each(|program| program.start_as(Setup::DEFAULT))?;
    let mut rounds: Vec<Vec<[Phase; 2]>> = servers.iter().map(|_| Vec::new()).collect();
    for _ in 0..bench.amount(5, 1) {
        for (server, rounds) in servers.iter().zip(&mut rounds) {
            if let Some(server) = server {
                rounds.push(round(server, &script, jobs)?);
            }
        }
    }
    let of = |value: &dyn Fn(&[Phase; 2]) -> f64| -> Vec<Option<f64>> {
        rounds.iter().map(|rounds| median(&rounds.iter().map(value).collect::<Vec<_>>())).collect()
    };
    let jobs = jobs as f64;
    let sum = |phases: &[Phase; 2], field: fn(&Phase) -> f64| phases.iter().map(field).sum::<f64>();

    let mut speed = Table::new("BullMQ, jobs a second from one process", &bench.programs);
    speed.row("added", Unit::PerSecond, of(&|phases| jobs / phases[0].seconds), None);
    speed.row("processed and completed", Unit::PerSecond, of(&|phases| jobs / phases[1].seconds), None);
    let through = of(&|phases| jobs / sum(phases, |phase| phase.seconds));
    speed.row("all of it", Unit::PerSecond, through, Some(Target::TimesValkey(1.2)));
    let busy = of(&|phases| 100.0 * sum(phases, |phase| phase.client_seconds) / sum(phases, |phase| phase.seconds));
    speed.row("the client's use of its core", Unit::Percent, busy, None);
    let busy = of(&|phases| 100.0 * sum(phases, |phase| phase.server_seconds) / sum(phases, |phase| phase.seconds));
    speed.row("the server's use of its core", Unit::Percent, busy, None);

    let mut cost = Table::new("BullMQ, server CPU", &bench.programs);
    let of_phase = |at: usize| of(&|phases| 1e6 * phases[at].server_seconds / jobs);
    cost.row("to add a job", Unit::Microseconds, of_phase(0), None);
    cost.row("to process and complete a job", Unit::Microseconds, of_phase(1), None);
    let through = of(&|phases| jobs / sum(phases, |phase| phase.server_seconds));
    cost.row("jobs for each second of server CPU", Unit::PerSecond, through, Some(Target::TimesValkey(1.2)));
    Ok(vec![speed, cost])
}

fn round(server: &Server, script: &Path, jobs: u64) -> Result<[Phase; 2]> {
    server.client()?.call(&["FLUSHALL"])?;
    let mut load = Load::start(script, server, jobs)?;
    let mut phases = [Phase::default(); 2];
    for (name, phase) in PHASES.into_iter().zip(&mut phases) {
        load.expect(&format!("ready {name}"))?;
        let before = cpu_seconds(server.pid())?;
        writeln!(load.input, "go")?;
        let line = load.expect("done ")?;
        phase.server_seconds = cpu_seconds(server.pid())? - before;
        let (seconds, client_seconds) = line.split_once(' ').ok_or("the load says two numbers")?;
        (phase.seconds, phase.client_seconds) = (seconds.parse()?, client_seconds.parse()?);
    }
    Ok(phases)
}

/// The running script.
struct Load {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Load {
    fn start(script: &Path, server: &Server, jobs: u64) -> Result<Self> {
        let mut process = Command::new("node")
            .arg(script)
            .args([server.address.port().to_string(), jobs.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = process.stdin.take().ok_or("its input is a pipe")?;
        let output = BufReader::new(process.stdout.take().ok_or("its output is a pipe")?);
        Ok(Self { process, input, output })
    }

    /// Reads a line, and returns what follows `start`.
    fn expect(&mut self, start: &str) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let rest = line.trim_end().strip_prefix(start);
        Ok(rest.ok_or_else(|| format!("the load says {line:?} instead of {start:?}"))?.to_owned())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // It may have ended already, which is fine.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
