//! Waking up: the first reply after sleep, the load behind it, and the cost of sleeping and checkpoints.
//!
//! At 100 thousand and at 5 million keys of 16 bytes with values of 128:
//!
//! 1. Fill, checkpoint (BGSAVE) without other work, and again under full load, with memory watched.
//! 2. Fill again, so that everything is dirty, and sleep; compare memory with that of a server just started.
//! 3. Sleep and GET a random key, many times: the time to that reply.
//! 4. Sleep, GET, and wait until every key is resident.
//! 5. Check that all keys exist, with the right values.
//!
//! Peers do not sleep: for them, sleep is SAVE, and waking is a new process, from its start to its first GET, which is
//! answered when everything is loaded. Files are in the page cache for all servers.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Client, command};
use crate::load::{Commands, Load, key, value};
use crate::process::{memory_bytes, settled_resident_bytes};
use crate::report::{Table, Target, Unit};
use crate::server::{Kind, Program, Server, Setup};
use crate::statistics::{median, percentile};
use crate::{Bench, Result};

const VALUE_LENGTH: usize = 128;
const SMALL: u64 = 100_000;
const LARGE: u64 = 5_000_000;
const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// Results of one server at one size; empty for features that it lacks.
#[derive(Default)]
struct Coming {
    /// Milliseconds of each first reply.
    first_replies: Vec<f64>,
    /// Milliseconds of each of the hundred replies after a first one.
    next_replies: Vec<f64>,
    load_per_second: Option<f64>,
    checkpoint_per_second: Option<f64>,
    sleep_dirty_ms: Option<f64>,
    sleep_clean_ms: Option<f64>,
    asleep_over_empty_mib: Option<f64>,
    checkpoint_memory_percent: Option<f64>,
    loaded_checkpoint_memory_percent: Option<f64>,
}

pub(super) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let sizes = [bench.amount(SMALL, 2_000), bench.amount(LARGE, 20_000)];
    let mut tables = Vec::new();
    let mut p50s = Vec::new();
    for (keys, repeats) in sizes.into_iter().zip([bench.amount(300, 5), bench.amount(100, 5)]) {
        let of_one = |program: &Program| coming(program, keys, repeats);
        let all: Vec<Coming> = bench.programs.iter().map(of_one).collect::<Result<_>>()?;
        tables.push(table(bench, keys, &all));
        p50s.push(all.iter().map(|one| median(&one.first_replies)).collect::<Vec<_>>());
    }
    let mut size = Table::new("How much the size matters", &bench.programs);
    let ratios = p50s[1].iter().zip(&p50s[0]).map(|(large, small)| Some((*large)? / (*small)?)).collect();
    let label = format!("first reply, p50, {} keys to {}", sizes[1], sizes[0]);
    size.row(label, Unit::Times, ratios, Some(Target::Most(1.3)));
    tables.push(size);
    Ok(tables)
}

fn table(bench: &Bench, keys: u64, all: &[Coming]) -> Table {
    let mut table = Table::new(&format!("Sleep and wake, {keys} keys of 16 B with values of 128 B"), &bench.programs);
    let of = |field: &dyn Fn(&Coming) -> Option<f64>| all.iter().map(field).collect();
    let first = |percent| of(&|one| percentile(&one.first_replies, percent));
    let load = Some(Target::Least(1e6));
    let checkpoint = Some(Target::Least(1.5e6));
    let milliseconds = Unit::Milliseconds;
    table.row("first reply after sleep, p50", milliseconds, first(50.0), None);
    table.row("first reply after sleep, p99", milliseconds, first(99.0), Some(Target::Most(20.0)));
    table.row("100 replies after it, p99", milliseconds, of(&|one| percentile(&one.next_replies, 99.0)), None);
    table.row("full load, keys", Unit::PerSecond, of(&|one| one.load_per_second), load);
    table.row("checkpoint, keys", Unit::PerSecond, of(&|one| one.checkpoint_per_second), checkpoint);
    table.row("falling asleep, all dirty", milliseconds, of(&|one| one.sleep_dirty_ms), None);
    table.row("falling asleep, nothing dirty", milliseconds, of(&|one| one.sleep_clean_ms), None);
    let asleep = Some(Target::Most(8.0));
    table.row("asleep, memory over an empty server", Unit::Mebibytes, of(&|one| one.asleep_over_empty_mib), asleep);
    let five = Some(Target::Most(5.0));
    table.row("memory beyond the data, checkpoint", Unit::Percent, of(&|one| one.checkpoint_memory_percent), five);
    let loaded = of(&|one| one.loaded_checkpoint_memory_percent);
    table.row("the same under full load of SETs", Unit::Percent, loaded, five);
    table
}

fn coming(program: &Program, keys: u64, repeats: usize) -> Result<Coming> {
    let mut coming = Coming::default();
    let server = program.start()?;
    let mut client = server.client()?;
    let empty = settled_resident_bytes(server.pid())?;
    fill(&mut client, keys)?;

    let (percent, took) = watched_checkpoint(&server, &mut client)?;
    coming.checkpoint_memory_percent = Some(percent);
    coming.checkpoint_per_second = Some(keys as f64 / took.as_secs_f64());
    coming.loaded_checkpoint_memory_percent = Some(checkpoint_under_load(&server, &mut client, keys)?);
    fill(&mut client, keys)?;

    if program.kind == Kind::Dormouse {
        asleep(&mut coming, &server, &mut client, keys, repeats, empty)?;
        check_data(&mut client, keys)?;
        return Ok(coming);
    }
    coming.sleep_dirty_ms = Some(timed(&mut client, &["SAVE"])?);
    let mut server = server;
    // A start of five million keys takes seconds and varies little.
    for _ in 0..repeats.min(if keys < LARGE { 10 } else { 3 }) {
        let folder = server.kill()?;
        let started = Instant::now();
        server = program.spawn(folder, Setup::default())?;
        let index = fastrand::u64(..keys);
        check_value(index, &first_reply(&mut server, &key(index))?)?;
        let took = started.elapsed();
        coming.first_replies.push(took.as_secs_f64() * 1e3);
    }
    coming.load_per_second = median(&coming.first_replies).map(|took| keys as f64 * 1e3 / took);
    check_data(&mut server.client()?, keys)?;
    Ok(coming)
}

/// Dormouse's part: it sleeps without ending the process.
fn asleep(
    coming: &mut Coming,
    server: &Server,
    client: &mut Client,
    keys: u64,
    repeats: usize,
    empty: u64,
) -> Result<()> {
    coming.sleep_dirty_ms = Some(timed(client, &["DORMOUSE", "SLEEP"])?);
    let resident = settled_resident_bytes(server.pid())?;
    coming.asleep_over_empty_mib = Some((resident as f64 - empty as f64) / MEBIBYTE);

    for _ in 0..repeats {
        client.call(&["DORMOUSE", "SLEEP"])?;
        coming.first_replies.push(timed_get(client, fastrand::u64(..keys))?);
        for _ in 0..100 {
            coming.next_replies.push(timed_get(client, fastrand::u64(..keys))?);
        }
    }
    let (mut sleeps, mut loads) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        client.call(&["DORMOUSE", "SLEEP"])?;
        let started = Instant::now();
        timed_get(client, fastrand::u64(..keys))?;
        wait_until_resident(client, keys)?;
        loads.push(keys as f64 / started.elapsed().as_secs_f64());
        sleeps.push(timed(client, &["DORMOUSE", "SLEEP"])?);
    }
    coming.load_per_second = median(&loads);
    coming.sleep_clean_ms = median(&sleeps);
    Ok(())
}

/// Waits until every key is in memory and nothing is being loaded.
pub(super) fn wait_until_resident(client: &mut Client, keys: u64) -> Result<()> {
    client.wait_until("every key is resident", |client| {
        let info = client.call(&["INFO", "dormouse"])?;
        let field = |name| {
            let value = crate::client::info_field(&info, name);
            value.ok_or_else(|| format!("INFO dormouse has no {name}"))
        };
        Ok(field("resident_keys")? >= keys && field("loading_segments")? == 0)
    })
}

/// Runs BGSAVE and waits until it is done.
pub(super) fn checkpoint(client: &mut Client) -> Result<Duration> {
    let started = Instant::now();
    client.call(&["BGSAVE"])?;
    client.wait_until("the checkpoint is done", |client| {
        let running = client.info("persistence", "rdb_bgsave_in_progress")?;
        Ok(running.ok_or("INFO persistence has no rdb_bgsave_in_progress")? == 0)
    })?;
    let took = started.elapsed();
    let status = client.call(&["INFO", "persistence"])?;
    if status.lines().any(|line| line.trim() == "rdb_last_bgsave_status:err") {
        return Err("BGSAVE failed".into());
    }
    Ok(took)
}

/// A checkpoint, and the rise of memory above its level before, in percent.
fn watched_checkpoint(server: &Server, client: &mut Client) -> Result<(f64, Duration)> {
    let before = memory_bytes(server.pid())?;
    let done = AtomicBool::new(false);
    let (took, peak) = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peak = before;
            while !done.load(Relaxed) {
                peak = peak.max(memory_bytes(server.pid()).unwrap_or(0));
                thread::sleep(Duration::from_millis(2));
            }
            peak
        });
        let took = checkpoint(client);
        done.store(true, Relaxed);
        (took, watch.join())
    });
    let peak = peak.map_err(|_| "the thread that watches memory panicked")?;
    Ok(((peak as f64 - before as f64) * 100.0 / before as f64, took?))
}

/// The same while 50 connections overwrite keys at random, with values of the same length.
fn checkpoint_under_load(server: &Server, client: &mut Client, keys: u64) -> Result<f64> {
    let kinds = [Commands::set(keys, VALUE_LENGTH)];
    let mut load = Load::connect(server.address, 50, 1, &kinds)?;
    // Memory settles under this load before it is measured.
    load.run_for(Duration::from_secs(2))?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watched = scope.spawn(|| {
            let watched = watched_checkpoint(server, client);
            done.store(true, Relaxed);
            watched
        });
        let tally = load.run(|_| !done.load(Relaxed), |_| {});
        // The checkpoint finishes even if the load has failed.
        let watched = watched.join().map_err(|_| "the thread that runs the checkpoint panicked")?;
        tally?;
        Ok(watched?.0)
    })
}

/// The first GET reply of a server that was just spawned.
pub(super) fn first_reply(server: &mut Server, key: &str) -> Result<String> {
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut client = None;
    loop {
        if client.is_none() {
            client = server.client().ok();
        }
        // Refused, or LOADING: not yet.
        if let Some(Ok(text)) = client.as_mut().map(|client| client.call(&["GET", key])) {
            return Ok(text);
        }
        server.check_running()?;
        if Instant::now() > deadline {
            return Err("the server never answered".into());
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn fill(client: &mut Client, keys: u64) -> Result<()> {
    let mut text = [0; VALUE_LENGTH];
    client.fill(keys, |index, request| {
        value(index, &mut text);
        command(request, &[b"SET", key(index).as_bytes(), &text]);
    })
}

pub(super) fn timed(client: &mut Client, arguments: &[&str]) -> Result<f64> {
    let started = Instant::now();
    client.call(arguments)?;
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

/// The time of a GET in milliseconds; its value is checked.
fn timed_get(client: &mut Client, index: u64) -> Result<f64> {
    let key = key(index);
    let started = Instant::now();
    let text = client.call(&["GET", &key])?;
    let took = started.elapsed();
    check_value(index, &text)?;
    Ok(took.as_secs_f64() * 1e3)
}

fn check_value(index: u64, text: &str) -> Result<()> {
    let mut expected = [0; VALUE_LENGTH];
    value(index, &mut expected);
    if text.as_bytes() == expected { Ok(()) } else { Err(format!("{} holds {text:?}", key(index)).into()) }
}

/// Checks the number of keys and a thousand of the values: fast but wrong results do not count.
fn check_data(client: &mut Client, keys: u64) -> Result<()> {
    let size = client.call(&["DBSIZE"])?;
    if size != keys.to_string() {
        return Err(format!("{size} keys came back of {keys}").into());
    }
    (0..1000).try_for_each(|_| timed_get(client, fastrand::u64(..keys)).map(|_| ()))
}
