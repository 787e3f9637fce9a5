//! A database of about 1 GiB: recovery, sleep with little changed, branches, write amplification.
//!
//! The order matters, since each step leaves the database to the next:
//!
//! 1. Fill and checkpoint; write a tail of 64 MiB into the log, wait until it is durable, kill the server, start it:
//!    the time to the first right reply to a GET of a key of the tail. Then check samples of the whole tail. Repeat
//!    from a checkpoint several times. Peers, once: their file rewritten, then the same tail.
//! 2. Change 100 keys, sleep: the time, and the bytes written since before the changes; several times.
//! 3. Change 100 keys, branch; several times.
//! 4. Write amplification: bytes written (log and store) per byte of commands, over checkpoints with one key in a
//!    thousand changed between them, and over one with as many random writes as there are keys.
//!
//! Bytes written are the process's `write_bytes` from the kernel, which counts whole pages.

use std::thread;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::load::key;
use crate::measures::wake::{checkpoint, first_reply, timed, wait_until_resident};
use crate::process::written_bytes;
use crate::report::{Table, Target, Unit};
use crate::server::{Kind, Loss, Program, Server, Setup};
use crate::statistics::{median, percentile};
use crate::{Bench, Result};

use super::{MEBIBYTE, expected, fill, scattered, set};

const KEYS: u64 = 10_000_000;
const TAIL_BYTES: u64 = 64 << 20;
const CHANGED: u64 = 100;
const SPARSE: u64 = 1000;
const SETUP: Setup = Setup { loss: Loss::Second, checkpoint_every: "never" };

#[derive(Default)]
struct Measured {
    used_mib: Option<f64>,
    tail_mib: Option<f64>,
    recovery_ms: Vec<f64>,
    resident_ms: Vec<f64>,
    sleep_ms: Vec<f64>,
    sleep_mib: Vec<f64>,
    branch_ms: Vec<f64>,
    sparse: Vec<f64>,
    sparse_log: Option<f64>,
    full: Option<f64>,
    full_log: Option<f64>,
    /// The server does not know the command.
    no_branches: bool,
}

pub(super) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let keys = bench.amount(KEYS, 50_000);
    let of_one = |program: &Program| match program.kind {
        Kind::Dormouse => dormouse(bench, program, keys),
        _ => peer(bench, program, keys),
    };
    let all: Vec<Measured> = bench.programs.iter().map(of_one).collect::<Result<_>>()?;
    let of = |field: &dyn Fn(&Measured) -> Option<f64>| all.iter().map(field).collect::<Vec<_>>();
    let ms = Unit::Milliseconds;
    let title = |what: &str| format!("{what}, {keys} keys of 16 B with values of 64 B");

    let mut recovery = Table::new(&title("After kill -9"), &bench.programs);
    recovery.row("used_memory", Unit::Mebibytes, of(&|one| one.used_mib), None);
    recovery.row("tail of the log", Unit::Mebibytes, of(&|one| one.tail_mib), None);
    let limit = Some(Target::Most(300.0));
    recovery.row("from start to the first reply, median", ms, of(&|one| median(&one.recovery_ms)), limit);
    recovery.row("the same, longest", ms, of(&|one| percentile(&one.recovery_ms, 100.0)), None);
    recovery.row("until every key is resident, median", ms, of(&|one| median(&one.resident_ms)), None);

    let mut little = Table::new(&title(&format!("{CHANGED} keys changed")), &bench.programs);
    little.row("falling asleep, median", ms, of(&|one| median(&one.sleep_ms)), Some(Target::Most(100.0)));
    little.row("the same, longest", ms, of(&|one| percentile(&one.sleep_ms, 100.0)), None);
    let written = of(&|one| percentile(&one.sleep_mib, 100.0));
    little.row("written by the changes and the sleep, most", Unit::Mebibytes, written, Some(Target::Most(1.0)));
    let missing = all.iter().any(|one| one.no_branches);
    let label = if missing { "branch, median (SKIPPED: unknown to this server)" } else { "branch, median" };
    little.row(label, ms, of(&|one| median(&one.branch_ms)), Some(Target::Most(50.0)));

    let mut written = Table::new(&title("Written, by bytes of commands"), &bench.programs);
    written.row("one key in 1000, log and checkpoint, median", Unit::Times, of(&|one| median(&one.sparse)), None);
    written.row("the same, most", Unit::Times, of(&|one| percentile(&one.sparse, 100.0)), None);
    written.row("the same, log alone", Unit::Times, of(&|one| one.sparse_log), None);
    written.row("as many random writes as keys", Unit::Times, of(&|one| one.full), None);
    written.row("the same, log alone", Unit::Times, of(&|one| one.full_log), None);
    Ok(vec![recovery, little, written])
}

fn peer(bench: &Bench, program: &Program, keys: u64) -> Result<Measured> {
    let mut measured = Measured::default();
    let server = program.start_as(SETUP)?;
    let mut client = server.client()?;
    fill(&mut client, keys)?;
    measured.used_mib = used_mib(&mut client)?;
    client.call(&["BGREWRITEAOF"])?;
    client.wait_until("the log is rewritten", |client| {
        let running = client.info("persistence", "aof_rewrite_in_progress")?;
        let scheduled = client.info("persistence", "aof_rewrite_scheduled")?;
        Ok(running == Some(0) && scheduled == Some(0))
    })?;
    let size = |client: &mut Client| {
        let bytes = client.info("persistence", "aof_current_size")?;
        bytes.ok_or_else(|| "INFO persistence has no aof_current_size".into())
    };
    recover(bench, &mut measured, program, server, keys, 1, size)?;
    Ok(measured)
}

fn dormouse(bench: &Bench, program: &Program, keys: u64) -> Result<Measured> {
    let mut measured = Measured::default();
    let mut server = program.start_as(SETUP)?;
    let mut client = server.client()?;
    // At full speed, whatever the disk does.
    client.call(&["CONFIG", "SET", "loss-window", Loss::All.window()])?;
    fill(&mut client, keys)?;
    client.call(&["CONFIG", "SET", "loss-window", SETUP.loss.window()])?;
    measured.used_mib = used_mib(&mut client)?;
    let mut generation = 0;
    for _ in 0..bench.amount(5, 1) {
        generation += 1;
        checkpoint(&mut server.client()?)?;
        server = recover(bench, &mut measured, program, server, keys, generation, log_bytes)?;
    }
    let mut client = server.client()?;
    sleep(bench, &mut measured, &server, &mut client, keys, &mut generation)?;
    branch(bench, &mut measured, &mut client, keys, &mut generation)?;
    amplification(bench, &mut measured, &server, &mut client, keys, &mut generation)?;
    Ok(measured)
}

/// Writes a tail until `log_size` has grown by this much, kills the server, and starts it again.
fn recover(
    bench: &Bench,
    measured: &mut Measured,
    program: &Program,
    server: Server,
    keys: u64,
    generation: u64,
    log_size: impl Fn(&mut Client) -> Result<u64>,
) -> Result<Server> {
    let step = bench.amount(100_000, 5_000);
    let mut client = server.client()?;
    let before = log_size(&mut client)?;
    let wanted = bench.amount(TAIL_BYTES, TAIL_BYTES / 64);
    let mut tail = 0;
    while log_size(&mut client)? - before < wanted && tail + step <= keys {
        client.fill(step, |number, request| set(scattered(tail + number, keys), generation, request))?;
        tail += step;
        if program.kind == Kind::Dormouse {
            // Its counter covers flushed bytes only.
            durable(&mut client)?;
        }
    }
    let bytes = log_size(&mut client)? - before;
    if program.kind != Kind::Dormouse {
        // Its log is synced within a second by itself; in any case the process's writes survive it.
        client.call(&["PING"])?;
    }
    measured.tail_mib = Some(bytes as f64 / MEBIBYTE);
    let folder = server.kill()?;

    let of_tail = || scattered(fastrand::u64(..tail), keys);
    let index = of_tail();
    let started = Instant::now();
    let mut server = program.spawn(folder, SETUP)?;
    let first = first_reply(&mut server, &key(index))?;
    measured.recovery_ms.push(started.elapsed().as_secs_f64() * 1e3);
    if first != expected(index, generation) {
        return Err(format!("{} came back as {first:?}", key(index)).into());
    }
    let mut client = server.client()?;
    if program.kind == Kind::Dormouse {
        wait_until_resident(&mut client, keys)?;
        measured.resident_ms.push(started.elapsed().as_secs_f64() * 1e3);
    }
    for _ in 0..1000 {
        let index = of_tail();
        let found = client.call(&["GET", &key(index)])?;
        if found != expected(index, generation) {
            return Err(format!("{} of the tail came back as {found:?}", key(index)).into());
        }
    }
    let size = client.call(&["DBSIZE"])?;
    if size != keys.to_string() {
        return Err(format!("{size} keys came back of {keys}").into());
    }
    Ok(server)
}

fn sleep(
    bench: &Bench,
    measured: &mut Measured,
    server: &Server,
    client: &mut Client,
    keys: u64,
    generation: &mut u64,
) -> Result<()> {
    // Excludes the recovered tail.
    checkpoint(client)?;
    for _ in 0..bench.amount(5, 2) {
        let before = written_bytes(server.pid())?;
        change(client, CHANGED, keys, generation)?;
        measured.sleep_ms.push(timed(client, &["DORMOUSE", "SLEEP"])?);
        measured.sleep_mib.push((written_bytes(server.pid())? - before) as f64 / MEBIBYTE);
        client.call(&["GET", &key(0)])?;
        wait_until_resident(client, keys)?;
    }
    Ok(())
}

fn branch(bench: &Bench, measured: &mut Measured, client: &mut Client, keys: u64, generation: &mut u64) -> Result<()> {
    for number in 0..bench.amount(5, 2) {
        change(client, CHANGED, keys, generation)?;
        match timed(client, &["DORMOUSE", "BRANCH", &format!("bench{number}")]) {
            Ok(took) => measured.branch_ms.push(took),
            Err(error) if error.to_string().to_lowercase().contains("unknown subcommand") => {
                measured.no_branches = true;
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn amplification(
    bench: &Bench,
    measured: &mut Measured,
    server: &Server,
    client: &mut Client,
    keys: u64,
    generation: &mut u64,
) -> Result<()> {
    checkpoint(client)?;
    let mut log = Vec::new();
    for _ in 0..bench.amount(10, 3) {
        let (all, of_log) = written(server, client, keys / SPARSE, keys, generation)?;
        measured.sparse.push(all);
        log.push(of_log);
    }
    measured.sparse_log = median(&log);
    let (all, of_log) = written(server, client, keys, keys, generation)?;
    (measured.full, measured.full_log) = (Some(all), Some(of_log));
    Ok(())
}

/// Changes this many keys and makes a checkpoint: bytes written in all, and to the log, per byte of commands.
fn written(server: &Server, client: &mut Client, count: u64, keys: u64, generation: &mut u64) -> Result<(f64, f64)> {
    let before = (written_bytes(server.pid())?, log_bytes(client)?);
    let commands = change(client, count, keys, generation)? as f64;
    checkpoint(client)?;
    durable(client)?;
    let after = (written_bytes(server.pid())?, log_bytes(client)?);
    Ok(((after.0 - before.0) as f64 / commands, (after.1 - before.1) as f64 / commands))
}

/// Gives this many keys, at random places, new values; returns the length of these commands in bytes.
fn change(client: &mut Client, count: u64, keys: u64, generation: &mut u64) -> Result<u64> {
    *generation += 1;
    let first = fastrand::u64(..keys);
    let mut bytes = 0;
    client.fill(count, |number, request| {
        let before = request.len();
        set(scattered(first + number, keys), *generation, request);
        bytes += (request.len() - before) as u64;
    })?;
    Ok(bytes)
}

fn durable(client: &mut Client) -> Result<()> {
    // The lag of a write in this very millisecond is zero too.
    thread::sleep(Duration::from_millis(5));
    client.wait_until("the log is durable", |client| {
        let lag = client.info("persistence", "log_lag_ms")?;
        Ok(lag.ok_or("INFO persistence has no log_lag_ms")? == 0)
    })
}

fn log_bytes(client: &mut Client) -> Result<u64> {
    let bytes = client.info("persistence", "log_bytes")?;
    bytes.ok_or_else(|| "INFO persistence has no log_bytes".into())
}

fn used_mib(client: &mut Client) -> Result<Option<f64>> {
    Ok(client.info("memory", "used_memory")?.map(|bytes| bytes as f64 / MEBIBYTE))
}
