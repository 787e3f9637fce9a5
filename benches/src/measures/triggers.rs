//! The cost of triggers: the CPU that they add to a SET, and how many events one core delivers.
//!
//! 1. 50 connections set random keys in pipelines of 16, with and without a trigger for them, in turns. The trigger is paused,
//!    so that only the writer's part is measured, and is removed before its events would not fit any more.
//! 2. A trigger that was paused meanwhile delivers events to a receiver on the other core, in requests of 100.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Client, command};
use crate::load::{Commands, Load, key};
use crate::process::cpu_seconds;
use crate::report::{Table, Target, Unit};
use crate::server::{Kind, Program, Server, Setup};
use crate::statistics::median;
use crate::{Bench, Result};

const CONNECTIONS: usize = 50;
const PIPELINE: usize = 16;
const KEYS: u64 = 100_000;
const VALUE_LENGTH: usize = 64;
/// SETs of one sample. All of their events fit into the outbox.
const SETS: usize = 100_000;
const SAMPLES: usize = 9;
/// Events of one sample of deliveries.
const EVENTS: usize = 100_000;
const DELIVERIES: usize = 3;
const SET_TIMES_MOST: f64 = 1.5;
const EVENTS_PER_SECOND_LEAST: f64 = 20_000.0;

pub(super) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let found = bench.of_each(|program| match program.kind {
        Kind::Dormouse => figures(bench, program).map(Some),
        _ => Ok(None),
    })?;
    let mut table = Table::new("Triggers", &bench.programs);
    let values = |of: fn(&Figures) -> f64| found.iter().map(|found| found.as_ref()?.as_ref().map(of)).collect();
    table.row("CPU of a SET", Unit::Microseconds, values(|of| of.set_us[0]), None);
    table.row("CPU of a SET with a trigger for its key", Unit::Microseconds, values(|of| of.set_us[1]), None);
    let times = values(|of| of.set_us[1] / of.set_us[0]);
    table.row("the same, times that without", Unit::Times, times, Some(Target::Most(SET_TIMES_MOST)));
    table.row("CPU of a SET that no trigger wants", Unit::Microseconds, values(|of| of.set_us[2]), None);
    let rate = values(|of| of.events_per_second);
    table.row("events delivered", Unit::PerSecond, rate, Some(Target::Least(EVENTS_PER_SECOND_LEAST)));
    table.row("CPU of an event", Unit::Microseconds, values(|of| of.event_us), None);
    Ok(vec![table])
}

struct Figures {
    /// Of a SET: without a trigger, with one for its key, and with one for other keys.
    set_us: [f64; 3],
    events_per_second: f64,
    event_us: f64,
}

fn figures(bench: &Bench, program: &Program) -> Result<Figures> {
    let server = program.start_with(Setup::DEFAULT, &["--trigger-reach", "private"])?;
    let receiver = Receiver::start()?;
    let mut samples = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..bench.amount(SAMPLES, 1) {
        for (pattern, samples) in [None, Some("key:*"), Some("other:*")].into_iter().zip(&mut samples) {
            samples.push(set_us(bench, &server, &receiver, pattern)?);
        }
    }
    let (mut rates, mut costs) = (Vec::new(), Vec::new());
    for _ in 0..bench.amount(DELIVERIES, 1) {
        let (rate, cost) = delivered(bench, &server, &receiver)?;
        rates.push(rate);
        costs.push(cost);
    }
    let of = |samples: &[f64]| median(samples).ok_or("no samples");
    let set_us = [of(&samples[0])?, of(&samples[1])?, of(&samples[2])?];
    Ok(Figures { set_us, events_per_second: of(&rates)?, event_us: of(&costs)? })
}

/// The server's CPU of a SET, in microseconds, with a paused trigger for keys with a pattern.
fn set_us(bench: &Bench, server: &Server, receiver: &Receiver, pattern: Option<&str>) -> Result<f64> {
    let mut client = server.client()?;
    if let Some(pattern) = pattern {
        add_paused(&mut client, receiver, pattern)?;
    }
    let kinds = [Commands::set(KEYS, VALUE_LENGTH)];
    let mut load = Load::connect(server.address, CONNECTIONS, PIPELINE, &kinds)?;
    let before = cpu_seconds(server.pid())?;
    let tally = load.run_for_at_most(Duration::from_secs(60), bench.amount(SETS, 5000) as u64)?;
    let used = cpu_seconds(server.pid())? - before;
    if pattern.is_some() {
        if client.info("dormouse", "trigger_events_lost")? != Some(0) {
            return Err("events were lost: the sample is too large".into());
        }
        client.call(&["DORMOUSE", "TRIGGER", "REMOVE", "t"])?;
    }
    Ok(used * 1e6 / tally.commands as f64)
}

/// Events delivered a second, and the server's CPU of one, in microseconds.
fn delivered(bench: &Bench, server: &Server, receiver: &Receiver) -> Result<(f64, f64)> {
    let mut client = server.client()?;
    add_paused(&mut client, receiver, "key:*")?;
    let count = bench.amount(EVENTS, 1000) as u64;
    client.fill(count, |index, request| command(request, &[b"SET", key(index).as_bytes(), b"v"]))?;
    let (before, begun, first) = (cpu_seconds(server.pid())?, Instant::now(), receiver.events());
    client.call(&["DORMOUSE", "TRIGGER", "RESUME", "t"])?;
    client.wait_until("all events are delivered", |_| Ok(receiver.events() - first >= count))?;
    let (elapsed, used) = (begun.elapsed().as_secs_f64(), cpu_seconds(server.pid())? - before);
    client.call(&["DORMOUSE", "TRIGGER", "REMOVE", "t"])?;
    Ok((count as f64 / elapsed, used * 1e6 / count as f64))
}

fn add_paused(client: &mut Client, receiver: &Receiver, pattern: &str) -> Result<()> {
    let url = format!("http://{}/", receiver.address);
    let wish = serde_json::json!({ "name": "t", "to": url, "on": ["set"], "keys": [pattern] });
    client.call(&["DORMOUSE", "TRIGGER", "ADD", &wish.to_string()])?;
    client.call(&["DORMOUSE", "TRIGGER", "PAUSE", "t"])?;
    Ok(())
}

/// Takes all events. Its threads end with the process, or with the server's connections.
struct Receiver {
    address: SocketAddr,
    events: Arc<AtomicU64>,
}

impl Receiver {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let (address, events) = (listener.local_addr()?, Arc::<AtomicU64>::default());
        let counted = Arc::clone(&events);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(std::result::Result::ok) {
                let counted = Arc::clone(&counted);
                // The server closes the connection.
                thread::spawn(move || drop(serve(stream, &counted)));
            }
        });
        Ok(Self { address, events })
    }

    fn events(&self) -> u64 {
        self.events.load(Ordering::SeqCst)
    }
}

fn serve(mut stream: TcpStream, events: &AtomicU64) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut line, mut body) = (String::new(), Vec::new());
    loop {
        let mut length = 0;
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line == "\r\n" {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse()?;
            }
        }
        body.resize(length, 0);
        reader.read_exact(&mut body)?;
        let count = body.windows(14).filter(|part| part == b"\"specversion\":").count();
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?;
        events.fetch_add(count as u64, Ordering::SeqCst);
    }
}
