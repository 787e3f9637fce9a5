//! `dormouse import` of RDB files on one core.
//!
//! Files of redis-server are compared with peers that load the same file, files of the newest servers with those
//! servers themselves.

use std::fs;
use std::path::Path;
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
/// The file that both Redis and Valkey look for in their folder.
const FILE: &str = "dump.rdb";

/// The newest servers, whose files the peers in the tables cannot load. `cargo xtask bench` gives their paths.
const SOURCES: [(Kind, &str); 2] = [(Kind::Valkey, "DORMOUSE_VALKEY_SERVER"), (Kind::Redis8, "DORMOUSE_REDIS8_SERVER")];

pub(super) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let keys = bench.amount(KEYS, 20_000);
    // Redis is always present, and first.
    let mut tables = vec![of_source(bench, &bench.programs[0], keys, true)?];
    for (kind, variable) in SOURCES {
        let Some(path) = std::env::var_os(variable) else {
            eprintln!("  files of another source are NOT measured: {variable} names no server");
            continue;
        };
        let source = Program::find(kind, Path::new(&path))?;
        tables.push(of_source(bench, &source, keys, false)?);
    }
    Ok(tables)
}

/// Imports a file that `source` saves, and loads it into every peer, or into the source alone.
fn of_source(bench: &Bench, source: &Program, keys: u64, by_peers: bool) -> Result<Table> {
    let server = source.start()?;
    let mut client = server.client()?;
    fill(&mut client, keys)?;
    client.call(&["SAVE"])?;
    let folder = server.kill()?;
    let file = folder.path().join(FILE);
    let rate = |program: &Program| -> Result<Option<f64>> {
        let mut samples = Vec::new();
        for _ in 0..bench.amount(5, 1) {
            let took = match program.kind {
                Kind::Dormouse => import(program, &file, keys)?,
                _ => load(program, &file, keys)?,
            };
            samples.push(keys as f64 / took.as_secs_f64());
        }
        Ok(median(&samples))
    };
    let rates = bench.programs.iter().map(|program| match program.kind {
        _ if program.kind != Kind::Dormouse && !by_peers => Ok(None),
        _ => rate(program),
    });
    let rates = rates.collect::<Result<Vec<_>>>()?;
    let name = format!("{} {}", source.kind.name(), source.version);
    let title = format!("An RDB file of {name}: {keys} keys of 16 B with values of 64 B");
    let mut table = Table::new(&title, &bench.programs);
    let label = if by_peers {
        "import (peers: start with it), keys".to_owned()
    } else {
        let own = rate(source)?.unwrap_or_default();
        format!("import ({name} starts with it: {own:.0}/s), keys")
    };
    table.row(label, Unit::PerSecond, rates, Some(Target::Least(1.5e6)));
    Ok(table)
}

/// The time from the start of the tool to its end; a server then checks what it wrote.
fn import(program: &Program, file: &Path, keys: u64) -> Result<Duration> {
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

/// The time from the start of the server to its first reply, which comes after the load.
fn load(program: &Program, file: &Path, keys: u64) -> Result<Duration> {
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
