//! `dormouse import` of an RDB file that redis-server wrote, on one core; beside it, peers that load the same file.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::load::key;
use crate::measures::wake::first_reply;
use crate::report::{Table, Target, Unit};
use crate::server::{Kind, Program, Setup, new_folder};
use crate::statistics::median;
use crate::{Bench, Result};

use super::{expected, fill};

const KEYS: u64 = 3_000_000;
/// What both Redis and Valkey look for in their folder.
const FILE: &str = "dump.rdb";

pub(super) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let keys = bench.amount(KEYS, 20_000);
    // Redis is always there, and first.
    let server = bench.programs[0].start()?;
    let mut client = server.client()?;
    fill(&mut client, keys)?;
    client.call(&["SAVE"])?;
    let source = server.kill()?;
    let file = source.path().join(FILE);

    let mut rates = Vec::new();
    for program in &bench.programs {
        let mut samples = Vec::new();
        for _ in 0..bench.amount(3, 1) {
            let took = match program.kind {
                Kind::Dormouse => import(program, &file, keys)?,
                Kind::Redis | Kind::Valkey => load(program, &file, keys)?,
            };
            samples.push(keys as f64 / took.as_secs_f64());
        }
        rates.push(median(&samples));
    }
    let title = format!("An RDB file of {keys} keys of 16 B with values of 64 B");
    let mut table = Table::new(&title, &bench.programs);
    let label = "import (peers: start with it), keys";
    table.row(label, Unit::PerSecond, rates, Some(Target::Least(1e6)));
    Ok(vec![table])
}

/// From the start of the tool to its end; what it wrote is looked at by a server.
fn import(program: &Program, file: &std::path::Path, keys: u64) -> Result<Duration> {
    let folder = new_folder()?;
    let store = format!("file://{}", folder.path().join("store").display());
    let mut command = program.command();
    command.arg("import").arg(file).args(["--store", &store]).stdin(Stdio::null());
    let started = Instant::now();
    let output = command.output()?;
    let took = started.elapsed();
    if !output.status.success() {
        return Err(format!("dormouse import: {}", String::from_utf8_lossy(&output.stderr).trim_end()).into());
    }
    check(&mut program.start_in(folder, Setup::default())?.client()?, keys)?;
    Ok(took)
}

/// From the start of the server to its first reply, which comes when all is loaded.
fn load(program: &Program, file: &std::path::Path, keys: u64) -> Result<Duration> {
    let folder = new_folder()?;
    fs::copy(file, folder.path().join(FILE))?;
    let started = Instant::now();
    let mut server = program.spawn(folder, Setup::default())?;
    first_reply(&mut server, &key(0))?;
    let took = started.elapsed();
    check(&mut server.client()?, keys)?;
    Ok(took)
}

fn check(client: &mut crate::client::Client, keys: u64) -> Result<()> {
    let size = client.call(&["DBSIZE"])?;
    if size != keys.to_string() {
        return Err(format!("{size} keys came out of the file of {keys}").into());
    }
    for _ in 0..100 {
        let index = fastrand::u64(..keys);
        if client.call(&["GET", &key(index)])? != expected(index, 0) {
            return Err(format!("{} is not what the file holds", key(index)).into());
        }
    }
    Ok(())
}
