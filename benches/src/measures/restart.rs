//! Restart after a crash over a bucket: from the start of the process to its first replies.
//!
//! The bucket is in the memory of this process and takes 30 ms for each request, like one in the same region. For each
//! loss window:
//!
//! 1. four clients, each one SET at a time, for 20 seconds, with no checkpoint;
//! 2. `kill -9`, and a start of the same program on the same bucket;
//! 3. the time until it answers PING, and until it answers a GET of the last write before the kill.
//!
//! Peers have no store behind a network.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use dormouse_client_tests::honest::HonestBucket;

use crate::report::{Table, Target, Unit};
use crate::server::{Bucket, Kind, Program, Server, new_folder};
use crate::{Bench, Result};

const ROUND_TRIP: Duration = Duration::from_millis(30);
const WRITERS: usize = 4;
const WINDOWS: [&str; 3] = ["0", "100ms", "1s"];

/// Measurements of one restart.
struct Restart {
    writes: usize,
    log_objects: usize,
    /// Requests of the process until it answered PING.
    requests: usize,
    ping_ms: f64,
    get_ms: f64,
}

pub(super) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    for window in WINDOWS {
        let all: Vec<Option<Restart>> = bench
            .programs
            .iter()
            .map(|program| match program.kind {
                Kind::Dormouse => restart(bench, program, window).map(Some),
                _ => Ok(None),
            })
            .collect::<Result<_>>()?;
        let title =
            format!("Start after kill -9 over a bucket, {} ms a request, loss window {window}", ROUND_TRIP.as_millis());
        let mut table = Table::new(&title, &bench.programs);
        let of = |field: fn(&Restart) -> f64| all.iter().map(|one| one.as_ref().map(field)).collect::<Vec<_>>();
        table.row("writes before it", Unit::Count, of(|one| one.writes as f64), None);
        table.row("log objects at the kill", Unit::Count, of(|one| one.log_objects as f64), None);
        table.row("requests to the bucket until PING", Unit::Count, of(|one| one.requests as f64), None);
        // The target is for the smallest window, in which each write waits for an object of its own.
        let target = (window == "0").then_some(Target::Most(1000.0));
        table.row("start to PING", Unit::Milliseconds, of(|one| one.ping_ms), target);
        table.row("start to the first GET", Unit::Milliseconds, of(|one| one.get_ms), target);
        tables.push(table);
    }
    tables.push(Table::of_targets("All targets", &tables, &bench.programs));
    Ok(tables)
}

fn restart(bench: &Bench, program: &Program, window: &str) -> Result<Restart> {
    let bucket = HonestBucket::start(ROUND_TRIP)?;
    let store = bucket.store("bench");
    let place = Bucket { store: &store, loss_window: window };
    let server = program.start_over(new_folder()?, &place)?;
    let ends = AtomicBool::new(false);
    let writes = thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn({
                    let (server, ends) = (&server, &ends);
                    move || write(server, writer, ends)
                })
            })
            .collect();
        thread::sleep(bench.amount(Duration::from_secs(20), Duration::from_millis(500)));
        ends.store(true, Relaxed);
        writers
            .into_iter()
            .map(|writer| writer.join().map_err(|_| "a writer panicked")?)
            .collect::<Result<Vec<usize>>>()
    })?;
    let folder = server.kill()?;
    let log_objects = bucket.names("bench/log/").len();
    let before = bucket.requests();
    let began = Instant::now();
    let server = program.start_over(folder, &place)?;
    let ping_ms = began.elapsed().as_secs_f64() * 1e3;
    let requests = bucket.requests() - before;
    let mut client = server.client()?;
    // With a loss window the last writes may be lost; the first are not.
    let number = if window == "0" { writes[0] } else { 1 };
    let found = loop {
        match client.call(&["GET", &key(0, number)]) {
            // Nothing is stored yet, so the first reply needs the whole log: a million writes take longer than a reply
            // may take.
            Err(error) if error.to_string().contains("TIMEOUT") => {}
            found => break found?,
        }
    };
    let get_ms = began.elapsed().as_secs_f64() * 1e3;
    if found != number.to_string() {
        return Err(format!("write {number} of {} is lost: `{found}`", writes[0]).into());
    }
    Ok(Restart { writes: writes.iter().sum(), log_objects, requests, ping_ms, get_ms })
}

/// Returns the number of acknowledged writes.
fn write(server: &Server, writer: usize, ends: &AtomicBool) -> Result<usize> {
    let mut client = server.client()?;
    let mut number = 0;
    while !ends.load(Relaxed) {
        match client.call(&["SET", &key(writer, number + 1), &(number + 1).to_string()]) {
            Ok(_) => number += 1,
            // The bucket is briefly slower than the loss window allows.
            Err(error) if error.to_string().contains("MISCONF") => {}
            Err(error) => return Err(error),
        }
    }
    Ok(number)
}

fn key(writer: usize, number: usize) -> String {
    format!("writer:{writer}:{number}")
}
