//! Waits of clients while one large value is stored, loaded and freed: a hash of a million fields.
//!
//! 50 connections in a closed loop, one command at a time, on the shard that has the hash. While a checkpoint or a
//! branch stores the hash, they set its fields and other keys. While the database sleeps and wakes, and while the hash
//! is loaded, they read other keys, since commands on the hash wait for it. While a copy of it is deleted, they set
//! other keys.

use std::time::Duration;

use super::{CONNECTIONS, VALUE_LENGTH, fill};
use crate::client::{Client, command};
use crate::load::{Commands, Load, key, value};
use crate::measures::stalls::{Waits, of_events, rows};
use crate::measures::wake::{checkpoint, wait_until_resident};
use crate::report::Table;
use crate::server::{Kind, Loss, Program, Setup};
use crate::{Bench, Result};

const FIELDS: u64 = 1_000_000;
const KEYS: u64 = 10_000;
const FIELD_VALUE_LENGTH: usize = 16;
const HASH: &str = "hash";

const EVENTS: [&str; 5] = ["checkpoint", "branch", "sleep and wake", "load", "delete"];

pub(super) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let fields = bench.amount(FIELDS, 20_000);
    let of_one = |program: &Program| waits(bench, program, fields);
    let all: Vec<Vec<Option<Waits>>> = bench.programs.iter().map(of_one).collect::<Result<_>>()?;
    let mut table = Table::new(&format!("Replies beside a hash of {fields} fields, loss window 1s"), &bench.programs);
    for (at, event) in EVENTS.iter().enumerate() {
        let waits: Vec<Option<&Waits>> = all.iter().map(|waits| waits[at].as_ref()).collect();
        rows(&mut table, &format!("{event}, "), &waits);
    }
    Ok(vec![table])
}

fn waits(bench: &Bench, program: &Program, fields: u64) -> Result<Vec<Option<Waits>>> {
    let server = program.start_as(Setup { loss: Loss::Second, ..Setup::default() })?;
    let mut client = server.client()?;
    fill(&mut client, KEYS)?;
    let mut text = [0; FIELD_VALUE_LENGTH];
    client.fill(fields, |index, request| {
        value(index, &mut text);
        command(request, &[b"HSET", HASH.as_bytes(), key(index).as_bytes(), &text]);
    })?;
    let of_dormouse = program.kind == Kind::Dormouse;
    let fields_and_keys = [Commands::set_fields(HASH, fields, FIELD_VALUE_LENGTH), Commands::set(KEYS, VALUE_LENGTH)];
    let reads = [Commands::get(KEYS, VALUE_LENGTH)];
    let sets = [Commands::set(KEYS, VALUE_LENGTH)];
    let mut other = server.client()?;
    let mut all = Vec::new();
    {
        let mut load = connect(bench, server.address, &fields_and_keys)?;
        all.push(Some(of_events(bench, &mut load, || Ok(()), || checkpoint(&mut client).map(|_| ()))?));
        let mut branches = 0;
        let mut branch = || {
            branches += 1;
            client.call(&["DORMOUSE", "BRANCH", &format!("value{branches}")]).map(|_| ())
        };
        all.push(if of_dormouse { Some(of_events(bench, &mut load, || Ok(()), &mut branch)?) } else { None });
    }
    {
        let mut load = connect(bench, server.address, &reads)?;
        // Only Dormouse sleeps.
        if of_dormouse {
            let sleep = || other.call(&["DORMOUSE", "SLEEP"]).map(|_| ());
            all.push(Some(of_events(bench, &mut load, || Ok(()), sleep)?));
            let mut sleeper = server.client()?;
            let asleep = || sleeper.call(&["DORMOUSE", "SLEEP"]).map(|_| ());
            let loaded = || wait_until_resident(&mut client, KEYS + 1);
            all.push(Some(of_events(bench, &mut load, asleep, loaded)?));
        } else {
            all.extend([None, None]);
        }
    }
    let mut load = connect(bench, server.address, &sets)?;
    let copy = || other.call(&["COPY", HASH, "copy"]).map(|_| ());
    all.push(Some(of_events(bench, &mut load, copy, || delete(&mut client))?));
    Ok(all)
}

fn connect<'a>(bench: &Bench, address: std::net::SocketAddr, kinds: &'a [Commands]) -> Result<Load<'a>> {
    let mut load = Load::connect(address, CONNECTIONS, 1, kinds)?;
    load.run_for(Duration::from_millis(bench.amount(1000, 50)))?;
    Ok(load)
}

/// Deletes the copy; the rest of its memory is freed within the window.
fn delete(client: &mut Client) -> Result<()> {
    client.call(&["UNLINK", "copy"]).map(|_| ())
}
