//! The longest waits that clients see while a million keys are checkpointed, split, or loaded in the background.
//!
//! 50 connections in a closed loop, half GETs and half SETs over a million keys of 16 bytes with values of 64, one at a
//! time. An event and a quiet time just as long alternate several times; the replies of each side are one histogram. A
//! window begins 100 ms before its event, ends 50 ms after it, and is at least 250 ms long: long enough for a
//! percentile, short enough that the rest of a run does not dilute a short event. For a background load, the load
//! generator starts with the wake, so that the window includes the first replies after sleep.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::wake::{checkpoint, wait_until_resident};
use crate::client::{Client, command};
use crate::load::{Commands, Load, key, value};
use crate::report::{Table, Target, Unit};
use crate::server::{Kind, Program};
use crate::{Bench, Result};

const CONNECTIONS: usize = 50;
const KEYS: u64 = 1_000_000;
const VALUE_LENGTH: usize = 64;

const LEAD: Duration = Duration::from_millis(100);
const TAIL: Duration = Duration::from_millis(50);
const WINDOW_MIN: Duration = Duration::from_millis(250);

#[derive(Clone, Copy, PartialEq)]
enum Event {
    Checkpoint,
    Split,
    BackgroundLoad,
}

const EVENTS: [(Event, &str); 3] =
    [(Event::Checkpoint, "checkpoint"), (Event::Split, "split"), (Event::BackgroundLoad, "background load")];

/// The percentiles taken from a histogram, each with the limit of what an event may add.
const MARKS: [(&str, f64, Option<f64>); 3] =
    [("p99", 99.0, None), ("p99.9", 99.9, Some(5.0)), ("max", 100.0, Some(20.0))];

/// Microseconds of every reply, in the windows with an event and in those without.
pub(super) struct Waits {
    with: Histogram<u64>,
    without: Histogram<u64>,
    windows: Duration,
}

pub(super) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let keys = bench.amount(KEYS, 10_000);
    let of_one = |program: &Program| stalls(bench, program, keys);
    let all: Vec<Vec<Option<Waits>>> = bench.programs.iter().map(of_one).collect::<Result<_>>()?;
    let mut tables = Vec::new();
    for (at, (_, name)) in EVENTS.iter().enumerate() {
        let mut table =
            Table::new(&format!("Replies during a {name} of {keys} keys, under full load"), &bench.programs);
        let waits: Vec<Option<&Waits>> = all.iter().map(|waits| waits[at].as_ref()).collect();
        rows(&mut table, "", &waits);
        tables.push(table);
    }
    Ok(tables)
}

/// The marks of both histograms and their difference; `what` precedes each label.
pub(super) fn rows(table: &mut Table, what: &str, all: &[Option<&Waits>]) {
    for (mark, percent, limit) in MARKS {
        let read = |side: fn(&Waits) -> &Histogram<u64>| -> Vec<Option<f64>> {
            all.iter().map(|waits| Some(milliseconds(side((*waits)?), percent))).collect()
        };
        let (with, without) = (read(|waits| &waits.with), read(|waits| &waits.without));
        let above = with.iter().zip(&without).map(|(with, without)| Some((*with)? - (*without)?)).collect();
        table.row(format!("{what}{mark}, with"), Unit::Milliseconds, with, None);
        table.row(format!("{what}{mark}, without"), Unit::Milliseconds, without, None);
        table.row(format!("{what}{mark}, above"), Unit::Milliseconds, above, limit.map(Target::Most));
    }
    let windows = all.iter().map(|waits| Some((*waits)?.windows.as_secs_f64() * 1e3)).collect();
    table.row(format!("{what}windows in all"), Unit::Milliseconds, windows, None);
}

/// The same load with and without checkpoints, alternating.
pub(super) fn of_checkpoints(bench: &Bench, load: &mut Load, client: &mut Client) -> Result<Waits> {
    in_turns(bench, load, LEAD, || Ok(()), || checkpoint(client).map(|_| ()))
}

/// The same load with and without some event, alternating; `before` runs before each window with an event.
pub(super) fn of_events(
    bench: &Bench,
    load: &mut Load,
    before: impl FnMut() -> Result<()>,
    event: impl FnMut() -> Result<()> + Send,
) -> Result<Waits> {
    in_turns(bench, load, LEAD, before, event)
}

fn stalls(bench: &Bench, program: &Program, keys: u64) -> Result<Vec<Option<Waits>>> {
    let server = program.start()?;
    let mut client = server.client()?;
    let mut text = [0; VALUE_LENGTH];
    client.fill(keys, |index, request| {
        value(index, &mut text);
        command(request, &[b"SET", key(index).as_bytes(), &text]);
    })?;
    let kinds = [Commands::get(keys, VALUE_LENGTH), Commands::set(keys, VALUE_LENGTH)];
    let mut load = Load::connect(server.address, CONNECTIONS, 1, &kinds)?;
    load.run_for(Duration::from_millis(bench.amount(1000, 50)))?;
    let mut all = Vec::new();
    for (event, _) in EVENTS {
        // Peers neither split nor load behind a running server.
        if event != Event::Checkpoint && program.kind != Kind::Dormouse {
            all.push(None);
            continue;
        }
        let lead = if event == Event::BackgroundLoad { Duration::ZERO } else { LEAD };
        let mut other = server.client()?;
        let before = || match event {
            Event::BackgroundLoad => other.call(&["DORMOUSE", "SLEEP"]).map(|_| ()),
            Event::Checkpoint | Event::Split => Ok(()),
        };
        all.push(Some(in_turns(bench, &mut load, lead, before, || happen(event, &mut client, keys))?));
    }
    Ok(all)
}

/// Alternates windows with an event and quiet ones of the same length; `before` runs before each with an event.
fn in_turns(
    bench: &Bench,
    load: &mut Load,
    lead: Duration,
    mut before: impl FnMut() -> Result<()>,
    mut event: impl FnMut() -> Result<()> + Send,
) -> Result<Waits> {
    let mut waits = Waits { with: histogram()?, without: histogram()?, windows: Duration::ZERO };
    for _ in 0..bench.amount(8, 2) {
        before()?;
        let took = window(load, &mut waits.with, lead, &mut event)?;
        waits.windows += took;
        // The aftermath of the event (a child that ends, memory given back) does not count as quiet.
        load.run_for(Duration::from_millis(bench.amount(300, 10)))?;
        let rest = took.saturating_sub(lead + TAIL);
        window(load, &mut waits.without, lead, || {
            thread::sleep(rest);
            Ok(())
        })?;
    }
    Ok(waits)
}

fn happen(event: Event, client: &mut Client, keys: u64) -> Result<()> {
    match event {
        Event::Checkpoint => checkpoint(client).map(|_| ()),
        Event::Split => client.call(&["DORMOUSE", "SPLIT"]).map(|_| ()),
        Event::BackgroundLoad => wait_until_resident(client, keys),
    }
}

/// Runs the load, and `event` in the middle of it on another thread; returns the length of the window.
fn window(
    load: &mut Load,
    waits: &mut Histogram<u64>,
    lead: Duration,
    event: impl FnOnce() -> Result<()> + Send,
) -> Result<Duration> {
    let done = AtomicBool::new(false);
    let tally = thread::scope(|scope| {
        let happening = scope.spawn(|| {
            let started = Instant::now();
            thread::sleep(lead);
            let happened = event();
            thread::sleep(TAIL.max(WINDOW_MIN.saturating_sub(started.elapsed())));
            done.store(true, Relaxed);
            happened
        });
        let tally = load.run(|_| !done.load(Relaxed), |took| record(waits, took));
        happening.join().map_err(|_| "the thread of the event panicked")??;
        tally
    })?;
    Ok(tally.elapsed)
}

/// A histogram of microseconds, up to longer than the load waits for any reply.
fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 600_000_000, 3)?)
}

fn record(waits: &mut Histogram<u64>, took: Duration) {
    waits.saturating_record(took.as_micros() as u64);
}

/// The value that `percent` of all replies did not exceed.
fn milliseconds(waits: &Histogram<u64>, percent: f64) -> f64 {
    waits.value_at_percentile(percent) as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_histogram() {
        let mut waits = histogram().unwrap();
        (0..9_995).for_each(|_| record(&mut waits, Duration::from_micros(200)));
        (0..5).for_each(|_| record(&mut waits, Duration::from_millis(30)));
        let close = |percent, expected: f64| (milliseconds(&waits, percent) / expected - 1.0).abs() < 0.01;
        assert!(close(99.0, 0.2) && close(99.9, 0.2) && close(100.0, 30.0));
    }
}
