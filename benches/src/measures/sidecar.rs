//! Time that the sidecar adds to a GET, and that a copy saves.
//!
//! One connection, one request at a time, as a function has it. The server and the sidecar run on one core, the client on the
//! other. The three ways take turns.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::time::Instant;

use crate::client::Client;
use crate::load::key;
use crate::report::{Table, Target, Unit};
use crate::server::{Kind, Program, Setup};
use crate::statistics::{median, percentile};
use crate::{Bench, Result};

const KEYS: u64 = 100;
const VALUE: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const ROUNDS: usize = 10;
const GETS: usize = 2000;
const HIT_US_MOST: f64 = 30.0;
const ADDED_US_MOST: f64 = 60.0;

/// A sidecar, killed when it is dropped.
struct Sidecar {
    child: Child,
    address: SocketAddr,
}

impl Sidecar {
    fn start(program: &Program, upstream: SocketAddr, cache: &str) -> Result<Self> {
        let mut command = program.command();
        command.args(["sidecar", "--listen", "127.0.0.1:0", "--health-port", "0", "--cache", cache]);
        command.env("DORMOUSE_UPSTREAM", format!("redis://{upstream}"));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let out = child.stdout.take().ok_or("the sidecar has no output")?;
        BufReader::new(out).read_line(&mut line)?;
        let address = line.strip_prefix("Dormouse sidecar listens on ").and_then(|rest| rest.split_once(';'));
        let address = address.ok_or_else(|| format!("the sidecar says {line:?}"))?.0.parse()?;
        Ok(Self { child, address })
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let samples = bench.of_each(|program| match program.kind {
        Kind::Dormouse => times(bench, program),
        _ => Ok(Vec::new()),
    })?;
    let mut table = Table::new("A GET, one at a time", &bench.programs);
    let value = |of: fn(&[Vec<f64>]) -> Option<f64>| -> Vec<Option<f64>> {
        samples.iter().map(|samples| samples.as_deref().filter(|ways| !ways.is_empty()).and_then(of)).collect()
    };
    table.row("from the server, p50", Unit::Microseconds, value(|ways| median(&ways[0])), None);
    table.row("through the sidecar, p50", Unit::Microseconds, value(|ways| median(&ways[1])), None);
    let added = |ways: &[Vec<f64>]| Some(median(&ways[1])? - median(&ways[0])?);
    table.row("added by the sidecar, p50", Unit::Microseconds, value(added), Some(Target::Most(ADDED_US_MOST)));
    let hit = value(|ways| median(&ways[2]));
    table.row("from the near cache, p50", Unit::Microseconds, hit, Some(Target::Most(HIT_US_MOST)));
    table.row("from the near cache, p99", Unit::Microseconds, value(|ways| percentile(&ways[2], 99.0)), None);
    Ok(vec![table])
}

/// The times of GETs in microseconds: from the server, through the sidecar, and from its cache.
fn times(bench: &Bench, program: &Program) -> Result<Vec<Vec<f64>>> {
    let server = program.start_as(Setup::DEFAULT)?;
    let without = Sidecar::start(program, server.address, "0")?;
    let with = Sidecar::start(program, server.address, "16mb")?;
    let mut clients = [server.client()?, Client::connect(without.address)?, Client::connect(with.address)?];
    for index in 0..KEYS {
        clients[0].call(&["SET", &key(index), VALUE])?;
    }
    let mut samples = vec![Vec::new(); clients.len()];
    for _ in 0..bench.amount(ROUNDS, 1) {
        for (client, samples) in clients.iter_mut().zip(&mut samples) {
            // The first look at a key fills the cache.
            for index in 0..KEYS {
                client.call(&["GET", &key(index)])?;
            }
            for number in 0..bench.amount(GETS, 100) {
                let key = key(number as u64 % KEYS);
                let began = Instant::now();
                let value = client.call(&["GET", &key])?;
                samples.push(began.elapsed().as_secs_f64() * 1e6);
                if value != VALUE {
                    return Err(format!("{key} is {value:?}").into());
                }
            }
        }
    }
    Ok(samples)
}
