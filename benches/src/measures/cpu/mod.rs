//! Server CPU per command, and throughput, with each server's default options.
//!
//! 50 connections in a closed loop. All servers run at once on the same core; rounds go from one to the next, so that
//! other work on the machine affects all of them, and the median of the rounds counts. [`workloads`], [`families`],
//! [`newest`] and [`json`] list the commands.

mod families;
mod json;
mod newest;
mod workloads;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use self::workloads::Workload;
use crate::load::Load;
use crate::process::cpu_seconds;
use crate::report::{Table, Unit};
use crate::server::{Server, Setup};
use crate::statistics::median;
use crate::{Bench, Result};

const CONNECTIONS: usize = 50;
/// Twice the largest cache of usual machines.
const SWEPT_BYTES: usize = 128 << 20;
const CACHE_LINE: usize = 64;

/// Results of one server in one row.
#[derive(Default)]
struct Samples {
    microseconds: Vec<f64>,
    throughput: Vec<f64>,
    /// The used share of its core, in percent: below about 95 the load generator limited the throughput.
    busy: Vec<f64>,
}

/// The servers in the order of the columns, and the tables that get every row.
struct Rows<'b> {
    bench: &'b Bench,
    servers: Vec<Option<Server>>,
    throughput: Table,
    busy: Table,
}

pub(super) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let servers = bench.of_each(|program| {
        let server = program.start_as(Setup::DEFAULT)?;
        workloads::prepare(server.kind, &mut server.client()?)?;
        families::prepare(server.kind, &mut server.client()?)?;
        newest::prepare(server.kind, &mut server.client()?)?;
        Ok(server)
    })?;
    let table = |title: &str| Table::new(title, &bench.programs);
    let mut rows = Rows {
        bench,
        servers,
        throughput: table("Commands a second, server on one core"),
        busy: table("Server core in use"),
    };
    let mut plain = table("Server CPU per command");
    let mut over_limit = table("The same over a bare event loop with one hash map");
    for workload in rows.selected(workloads::plain()) {
        let cost = rows.measure(&workload, &workload.label)?;
        plain.row(&workload.label, Unit::Microseconds, cost.clone(), workload.target);
        over_limit.row(&workload.label, Unit::Microseconds, cost, Some(workloads::of_limit(workload.pipeline)));
    }
    let mut several = table("Server CPU per command over ten keys, pipeline 16");
    for workload in rows.selected(workloads::several(false)) {
        several.row(&workload.label, Unit::Microseconds, rows.measure(&workload, &workload.label)?, workload.target);
    }
    for workload in rows.selected(workloads::several(true)) {
        let label = format!("{} beside a sweep of the cache", workload.label);
        let cost = beside_a_sweep(|| rows.measure(&workload, &label))?;
        several.row(&label, Unit::Microseconds, cost, workload.target);
    }
    let mut tables = vec![plain, over_limit, several];
    for (title, workloads) in [
        ("Server CPU per command over collections, pipeline 16", workloads::collections()),
        ("Server CPU per command of other families, pipeline 16", families::workloads()),
        ("Server CPU per command of the newest commands, pipeline 16", newest::workloads()),
    ] {
        let mut rows_of_title = table(title);
        for workload in rows.selected(workloads) {
            let cost = rows.measure(&workload, &workload.label)?;
            rows_of_title.row(&workload.label, Unit::Microseconds, cost, workload.target);
        }
        tables.push(rows_of_title);
    }
    let mut documents = table("Server CPU per command over JSON documents, pipeline 16");
    let over_documents = rows.selected(json::workloads());
    if !over_documents.is_empty() {
        // The servers so far end first.
        rows.servers.clear();
        rows.servers = servers_with_json(bench)?;
    }
    for workload in over_documents {
        let cost = rows.measure(&workload, &workload.label)?;
        documents.row(&workload.label, Unit::Microseconds, cost, workload.target);
    }
    tables.push(documents);
    tables.extend([rows.throughput, rows.busy]);
    Ok(tables)
}

/// New servers with the documents: Dormouse, and the newest Redis if its module is known.
fn servers_with_json(bench: &Bench) -> Result<Vec<Option<Server>>> {
    let servers = bench.of_each(|program| {
        let server = program.start_with_json(Setup::DEFAULT)?;
        server.as_ref().map_or(Ok(()), |server| json::prepare(&mut server.client()?))?;
        Ok(server)
    })?;
    Ok(servers.into_iter().map(Option::flatten).collect())
}

impl Rows<'_> {
    /// Adds a row to the tables of throughput and use; returns each server's CPU time per command, in microseconds.
    fn measure(&mut self, workload: &Workload, label: &str) -> Result<Vec<Option<f64>>> {
        let samples = self.rounds(workload)?;
        let medians = |of: fn(&Samples) -> &Vec<f64>| samples.iter().map(|one| median(of(one))).collect::<Vec<_>>();
        self.throughput.row(label, Unit::PerSecond, medians(|one| &one.throughput), None);
        self.busy.row(label, Unit::Percent, medians(|one| &one.busy), None);
        Ok(medians(|one| &one.microseconds))
    }

    fn selected(&self, workloads: Vec<Workload>) -> Vec<Workload> {
        workloads.into_iter().filter(|workload| self.bench.has_row(&workload.label)).collect()
    }

    fn rounds(&self, workload: &Workload) -> Result<Vec<Samples>> {
        let kinds = std::slice::from_ref(&workload.commands);
        let mut samples: Vec<Samples> = self.servers.iter().map(|_| Samples::default()).collect();
        for _ in 0..self.bench.amount(7, 1) {
            for (server, samples) in self.servers.iter().zip(&mut samples) {
                let Some(server) = server.as_ref().filter(|one| workload.is_known_to(one.kind)) else {
                    continue;
                };
                let mut load = Load::connect(server.address, CONNECTIONS, workload.pipeline, kinds)?;
                if let Some(before) = workload.before {
                    before(&mut server.client()?)?;
                }
                if let Some(audience) = &workload.audience {
                    load.subscribe(server.address, audience.count, audience.channel, audience.message_length)?;
                }
                let warming = Duration::from_millis(self.bench.amount(100, 20));
                load.run_for_at_most(warming, workload.commands_max / 5)?;
                let measured = Duration::from_millis(self.bench.amount(500, 50));
                let before = cpu_seconds(server.pid())?;
                let tally = load.run_for_at_most(measured, workload.commands_max - workload.commands_max / 5)?;
                let used = cpu_seconds(server.pid())? - before;
                samples.microseconds.push(used * 1e6 / tally.commands as f64);
                samples.throughput.push(tally.commands as f64 / tally.elapsed.as_secs_f64());
                samples.busy.push(used * 100.0 / tally.elapsed.as_secs_f64());
            }
        }
        Ok(samples)
    }
}

/// Runs `measured` while a thread on the load generator's core writes through more memory than any cache holds.
fn beside_a_sweep<R>(measured: impl FnOnce() -> R) -> R {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut memory = vec![0u8; SWEPT_BYTES];
            while !is_over.load(Ordering::Relaxed) {
                for line in memory.chunks_mut(CACHE_LINE) {
                    line[0] = line[0].wrapping_add(1);
                }
                std::hint::black_box(&mut memory);
            }
        });
        let result = measured();
        is_over.store(true, Ordering::Relaxed);
        result
    })
}
