//! Clients that wait in a blocking command: their memory and CPU while nothing happens, and how soon one is served.
//!
//! 1. 10,000 connections say PING; then each waits for a key of its own (`BLPOP`). Resident memory is taken before, between
//!    and after.
//! 2. CPU time of the server over ten seconds in which nobody sends anything.
//! 3. Each key gets an element, and each client must be served.
//! 4. One client waits, another pushes: the time from the push to the reply of the client that has waited. The servers
//!    take turns, a thousand hand-overs each.

use std::thread;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::process::{cpu_seconds, settled_resident_bytes};
use crate::report::{Table, Target, Unit};
use crate::server::{Program, Server};
use crate::statistics::percentile;
use crate::{Bench, Result};

const CLIENTS: usize = 10_000;
const QUIET: Duration = Duration::from_secs(10);
const ROUNDS: usize = 10;
const HAND_OVERS: usize = 1_000;
/// Time from a client's command to the push that serves it: by then it waits.
const BEFORE_PUSH: Duration = Duration::from_micros(300);
const MIB: f64 = 1024.0 * 1024.0;

struct Cost {
    served: usize,
    idle: f64,
    waiting: f64,
    all: f64,
    cpu_ms: f64,
}

pub(super) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let costs = bench.of_each(|program| cost(bench, program))?;
    let of = |field: fn(&Cost) -> f64| costs.iter().map(|cost| cost.as_ref().map(field)).collect();
    let count = bench.amount(CLIENTS, 500);
    let mut memory = Table::new("Clients that wait, each for a key of its own", &bench.programs);
    let all = Some(Target::Least(count as f64));
    memory.row(format!("of {count} at once, are served"), Unit::Count, of(|cost| cost.served as f64), all);
    memory.row("resident memory of an idle connection", Unit::Bytes, of(|cost| cost.idle), None);
    let most = Some(Target::Most(4096.0));
    memory.row("of one that waits", Unit::Bytes, of(|cost| cost.waiting), most);
    memory.row("of all that wait", Unit::Mebibytes, of(|cost| cost.all), None);
    let seconds = bench.amount(QUIET, Duration::from_millis(200)).as_secs();
    let label = format!("CPU time in {seconds} quiet seconds");
    memory.row(label, Unit::Milliseconds, of(|cost| cost.cpu_ms), Some(Target::OfBest(1.0)));

    let samples = hand_overs(bench)?;
    let mut latency = Table::new("From a push to the reply of the client that has waited", &bench.programs);
    for (label, percent) in [("p50", 50.0), ("p99", 99.0), ("p99.9", 99.9)] {
        let values = samples.iter().map(|samples| percentile(samples, percent)).collect();
        latency.row(label, Unit::Microseconds, values, (percent < 99.5).then_some(Target::OfBest(1.0)));
    }
    Ok(vec![memory, latency])
}

fn cost(bench: &Bench, program: &Program) -> Result<Cost> {
    let server = program.start()?;
    let mut control = server.client()?;
    // Leaves room for the control connection.
    let _ = control.call(&["CONFIG", "SET", "maxclients", "15000"]);
    control.call(&["PING"])?;
    let before = settled_resident_bytes(server.pid())?;
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..bench.amount(CLIENTS, 500) {
        let mut client = server.client()?;
        client.call(&["PING"])?;
        clients.push(client);
    }
    let count = clients.len();
    let idle = settled_resident_bytes(server.pid())?.saturating_sub(before) as f64;
    let key = |number: usize| format!("queue:{number:08}");
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(&["BLPOP", &key(number), "0"])?;
    }
    control.wait_until("all clients wait", |control| {
        Ok(control.info("clients", "blocked_clients")? == Some(count as u64))
    })?;
    let waiting = settled_resident_bytes(server.pid())?.saturating_sub(before) as f64;
    let quiet = bench.amount(QUIET, Duration::from_millis(200));
    let cpu = cpu_seconds(server.pid())?;
    thread::sleep(quiet);
    let cpu_ms = (cpu_seconds(server.pid())? - cpu) * 1000.0;
    let mut served = 0;
    for (number, client) in clients.iter_mut().enumerate() {
        control.call(&["LPUSH", &key(number), "element"])?;
        served += usize::from(client.reply().is_ok());
    }
    let each = |bytes: f64| bytes / count as f64;
    Ok(Cost { served, idle: each(idle), waiting: each(waiting), all: waiting / MIB, cpu_ms })
}

/// A client that waits and one that pushes.
struct Pair {
    _server: Server,
    waits: Client,
    pushes: Client,
}

/// The times of hand-overs on each server, in microseconds.
fn hand_overs(bench: &Bench) -> Result<Vec<Vec<f64>>> {
    let mut pairs = bench.of_each(|program| {
        let server = program.start()?;
        Ok(Pair { waits: server.client()?, pushes: server.client()?, _server: server })
    })?;
    let mut samples = vec![Vec::new(); pairs.len()];
    for _ in 0..bench.amount(ROUNDS, 1) {
        for (pair, samples) in pairs.iter_mut().zip(&mut samples) {
            let Some(Pair { waits, pushes, .. }) = pair else { continue };
            for _ in 0..bench.amount(HAND_OVERS, 10) {
                waits.send(&["BLPOP", "queue", "0"])?;
                thread::sleep(BEFORE_PUSH);
                let began = Instant::now();
                pushes.send(&["LPUSH", "queue", "element"])?;
                waits.reply()?;
                samples.push(began.elapsed().as_secs_f64() * 1e6);
                pushes.reply()?;
            }
        }
    }
    Ok(samples)
}
