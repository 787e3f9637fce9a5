//! The resident memory of an idle connection: 10,000 at once, all of which must answer.
//!
//! Two rows, since a connection that once carried much may keep its buffers: connections that have sent one PING, and
//! the same after each has carried a value of 16 KiB in and out. Neither includes the kernel's own socket buffers.

use std::thread;
use std::time::Duration;

use crate::client::Client;
use crate::process::settled_resident_bytes;
use crate::report::{Table, Target, Unit};
use crate::server::{Program, Server};
use crate::{Bench, Result};

const CONNECTIONS: usize = 10_000;
const BIG_VALUE: usize = 16 * 1024;

/// Redis frees the buffers of clients that have been quiet for two seconds, a part of them at a time.
const QUIET: Duration = Duration::from_secs(4);

struct Cost {
    answered: usize,
    after_ping: f64,
    after_big_value: f64,
}

pub(super) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let costs: Vec<Cost> = bench.programs.iter().map(|program| cost(bench, program)).collect::<Result<_>>()?;
    let of = |field: fn(&Cost) -> f64| costs.iter().map(|cost| Some(field(cost))).collect();
    let count = bench.amount(CONNECTIONS, 500);
    let mut table = Table::new("Resident memory of an idle connection", &bench.programs);
    let all = Some(Target::Least(count as f64));
    table.row(format!("of {count} at once, answer"), Unit::Count, of(|cost| cost.answered as f64), all);
    table.row("after one PING", Unit::Bytes, of(|cost| cost.after_ping), Some(Target::Most(4096.0)));
    table.row("after a 16 KiB value in and out", Unit::Bytes, of(|cost| cost.after_big_value), None);
    Ok(vec![table])
}

fn cost(bench: &Bench, program: &Program) -> Result<Cost> {
    let server = program.start()?;
    let mut control = server.client()?;
    let value = "x".repeat(BIG_VALUE);
    // Leaves room for the control connection. If the server cannot set it, the connections that it accepts are counted.
    let _ = control.call(&["CONFIG", "SET", "maxclients", "15000"]);
    control.call(&["SET", "big", &value])?;
    control.call(&["GET", "big"])?;
    let before = settled_resident_bytes(server.pid())?;

    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..bench.amount(CONNECTIONS, 500) {
        let connected = server.client().and_then(|mut client| client.call(&["PING"]).map(|_| client));
        match connected {
            Ok(client) => clients.push(client),
            Err(error) => {
                eprintln!("{} lets {} in: {error}", program.kind.name(), clients.len());
                break;
            }
        }
    }
    let count = clients.len().max(1);
    let after_ping = idle_bytes(bench, &server)?.saturating_sub(before) as f64 / count as f64;
    // Asks each again in turn: all of them are still connected at once.
    let answered = clients.iter_mut().filter_map(|client| client.call(&["PING"]).ok()).count();
    for client in &mut clients {
        client.call(&["SET", "big", &value])?;
        client.call(&["GET", "big"])?;
    }
    let after_big_value = idle_bytes(bench, &server)?.saturating_sub(before) as f64 / count as f64;
    Ok(Cost { answered, after_ping, after_big_value })
}

/// Resident memory after the connections have been quiet long enough.
fn idle_bytes(bench: &Bench, server: &Server) -> Result<u64> {
    thread::sleep(bench.amount(QUIET, Duration::ZERO));
    settled_resident_bytes(server.pid())
}
