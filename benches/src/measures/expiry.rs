//! Active expiry: whether it keeps up with writes, and the cost of removing a key.

use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Client, command};
use crate::load::{key, value};
use crate::process::cpu_seconds;
use crate::report::{Table, Target, Unit};
use crate::server::Program;
use crate::{Bench, Result};

/// Keys written in ten milliseconds: 320,000 a second.
const EACH_TICK: u64 = 3_200;
const TICK: Duration = Duration::from_millis(10);
const SECONDS: u64 = 12;
/// Time to live of each of them, in milliseconds.
const TTL_MS: &str = "1000";
/// Time from the last write to the count of the remaining keys.
const AFTER: Duration = Duration::from_secs(2);
/// Keys that expire at one moment.
const AT_ONCE: u64 = 1_000_000;
const VALUE_LENGTH: usize = 64;

/// Results of one server under writes.
struct KeptUp {
    per_second: f64,
    most: f64,
    left: f64,
    microseconds: f64,
}

/// Results of one server when many keys expired at one moment.
struct Cleared {
    milliseconds: f64,
    microseconds: f64,
}

pub(super) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let (mut kept_up, mut cleared) = (Vec::new(), Vec::new());
    for program in &bench.programs {
        kept_up.push(keep_up(bench, program)?);
        cleared.push(clear(bench, program)?);
    }
    let mut writes = Table::new("SET PX 1000, 320,000 a second for 12 s", &bench.programs);
    let of = |field: fn(&KeptUp) -> f64| kept_up.iter().map(|one| Some(field(one))).collect();
    writes.row("writes", Unit::PerSecond, of(|one| one.per_second), None);
    writes.row("most keys in memory", Unit::Count, of(|one| one.most), None);
    writes.row("dead keys two seconds after the end", Unit::Count, of(|one| one.left), Some(Target::Most(50_000.0)));
    writes.row("server CPU for each write and removal", Unit::Microseconds, of(|one| one.microseconds), None);
    let mut at_once = Table::new("A million keys that expire at one moment", &bench.programs);
    let of = |field: fn(&Cleared) -> f64| cleared.iter().map(|one| Some(field(one))).collect();
    at_once.row("until none is left", Unit::Milliseconds, of(|one| one.milliseconds), None);
    let target = Some(Target::OfRedis(0.7));
    at_once.row("server CPU for each removal", Unit::Microseconds, of(|one| one.microseconds), target);
    Ok(vec![writes, at_once])
}

fn keep_up(bench: &Bench, program: &Program) -> Result<KeptUp> {
    let server = program.start()?;
    let (mut client, mut observer) = (server.client()?, server.client()?);
    let mut text = [0; VALUE_LENGTH];
    let before = cpu_seconds(server.pid())?;
    let started = Instant::now();
    let mut most = 0;
    let ticks = bench.amount(SECONDS * 100, 50);
    for tick in 0..ticks {
        client.fill(EACH_TICK, |index, request| {
            let index = tick * EACH_TICK + index;
            value(index, &mut text);
            command(request, &[b"SET", key(index).as_bytes(), &text, b"PX", TTL_MS.as_bytes()]);
        })?;
        if tick % 10 == 9 {
            most = most.max(keys(&mut observer)?);
        }
        // A server that falls behind gets the next ones at once.
        thread::sleep((started + TICK * (tick as u32 + 1)).saturating_duration_since(Instant::now()));
    }
    let writes = (ticks * EACH_TICK) as f64;
    let per_second = writes / started.elapsed().as_secs_f64();
    thread::sleep(AFTER);
    let left = keys(&mut observer)?;
    let used = cpu_seconds(server.pid())? - before;
    Ok(KeptUp { per_second, most: most as f64, left: left as f64, microseconds: used * 1e6 / writes })
}

fn clear(bench: &Bench, program: &Program) -> Result<Cleared> {
    let server = program.start()?;
    let mut client = server.client()?;
    let count = bench.amount(AT_ONCE, 20_000);
    // A moment after all of them are written.
    let seconds: u64 = client.call(&["TIME"])?.lines().next().unwrap_or_default().parse()?;
    let moment = (seconds + bench.amount(20, 2)).to_string();
    let mut text = [0; VALUE_LENGTH];
    client.fill(count, |index, request| {
        value(index, &mut text);
        command(request, &[b"SET", key(index).as_bytes(), &text, b"EXAT", moment.as_bytes()]);
    })?;
    if keys(&mut client)? != count {
        return Err("the keys took longer to write than they had to live".into());
    }
    let before = cpu_seconds(server.pid())?;
    client.wait_until("the first key expires", |client| {
        thread::sleep(Duration::from_millis(4));
        Ok(keys(client)? < count)
    })?;
    let started = Instant::now();
    client.wait_until("all have expired", |client| {
        thread::sleep(Duration::from_millis(4));
        Ok(keys(client)? == 0)
    })?;
    let milliseconds = started.elapsed().as_secs_f64() * 1e3;
    let used = cpu_seconds(server.pid())? - before;
    Ok(Cleared { milliseconds, microseconds: used * 1e6 / count as f64 })
}

/// Keys in memory, including expired ones.
fn keys(client: &mut Client) -> Result<u64> {
    Ok(client.call(&["DBSIZE"])?.parse()?)
}
