//! Eviction: whether a limit holds under values of all sizes, and whether unused keys are the ones evicted.

use crate::client::{Client, command};
use crate::load::{key, value};
use crate::process::resident_bytes;
use crate::report::{Table, Target, Unit};
use crate::server::Program;
use crate::{Bench, Result};

const LIMIT: &str = "100mb";
const SMALL: u64 = 900_000;
const SMALL_LENGTH: usize = 60;
const LARGE: u64 = 300;
const LARGE_LENGTH: usize = 1_000_000;

/// The keys of the second table, and about how many of them fit, in percent.
const ASKED_FOR: u64 = 100_000;
const FITTING: u64 = 25;
const READS: u64 = 300_000;

struct Held {
    most: f64,
    resident: f64,
    refused: f64,
}

pub(super) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let (mut held, mut found) = (Vec::new(), Vec::new());
    for program in &bench.programs {
        held.push(hold(bench, program)?);
        found.push(Some(find(bench, program)?));
    }
    let title = "Limit of 100 MB, allkeys-lru: 900,000 values of 60 B, then 300 of 1 MB";
    let mut memory = Table::new(title, &bench.programs);
    let of = |field: fn(&Held) -> f64| held.iter().map(|one| Some(field(one))).collect();
    // 105 million bytes.
    let target = Some(Target::Most(100.13));
    memory.row("most memory in use, by used_memory", Unit::Mebibytes, of(|one| one.most), target);
    memory.row("most resident memory", Unit::Mebibytes, of(|one| one.resident), None);
    memory.row("refused writes", Unit::Count, of(|one| one.refused), None);
    let mut hits =
        Table::new("A cache that holds a quarter of what it is asked for, few keys most of the time", &bench.programs);
    hits.row("reads that find their key", Unit::Percent, found, Some(Target::TimesRedis(0.98)));
    Ok(vec![memory, hits])
}

fn hold(bench: &Bench, program: &Program) -> Result<Held> {
    let server = program.start()?;
    let mut client = server.client()?;
    limit(&mut client, LIMIT)?;
    let (mut most, mut resident, mut refused) = (0, 0, 0u64);
    let mut look = |client: &mut Client| -> Result<()> {
        most = most.max(used(client)?);
        resident = resident.max(resident_bytes(server.pid())?);
        Ok(())
    };
    const STEP: u64 = 5_000;
    let mut text = [0; SMALL_LENGTH];
    for step in 0..bench.amount(SMALL, 20_000) / STEP {
        client.fill(STEP, |index, request| {
            let index = step * STEP + index;
            value(index, &mut text);
            command(request, &[b"SET", key(index).as_bytes(), &text]);
        })?;
        look(&mut client)?;
    }
    let mut large = vec![0; LARGE_LENGTH];
    for index in 0..bench.amount(LARGE, 20) {
        value(index, &mut large);
        let written = client.call(&["SET", &format!("large:{index}"), std::str::from_utf8(&large)?]);
        match written {
            Err(error) if error.to_string().contains("OOM") => refused += 1,
            written => drop(written?),
        }
        look(&mut client)?;
    }
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    Ok(Held { most: mebibytes(most), resident: mebibytes(resident), refused: refused as f64 })
}

/// The share of reads that find their key, in percent. A missing key is written.
fn find(bench: &Bench, program: &Program) -> Result<f64> {
    let server = program.start()?;
    let mut client = server.client()?;
    let mut text = [0; SMALL_LENGTH];
    let fitting = ASKED_FOR * FITTING / 100;
    client.fill(fitting, |index, request| {
        value(index, &mut text);
        command(request, &[b"SET", key(ASKED_FOR + index).as_bytes(), &text]);
    })?;
    // Each server holds about the same number of keys, whatever memory they take.
    let full = used(&mut client)?;
    limit(&mut client, &full.to_string())?;
    let mut random = fastrand::Rng::with_seed(1);
    let (reads, warm) = (bench.amount(READS, 3_000), bench.amount(READS / 3, 1_000));
    let mut found = 0;
    for turn in 0..reads {
        // The odds of a rank are about one over the rank.
        let rank = ((ASKED_FOR as f64).powf(random.f64()) as u64).min(ASKED_FOR) - 1;
        let name = key(rank.wrapping_mul(7919) % ASKED_FOR);
        if client.call(&["GET", &name])?.is_empty() {
            value(rank, &mut text);
            client.call(&["SET", &name, std::str::from_utf8(&text)?])?;
        } else if turn >= warm {
            found += 1;
        }
    }
    Ok(f64::from(found) * 100.0 / (reads - warm) as f64)
}

fn limit(client: &mut Client, bytes: &str) -> Result<()> {
    client.call(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"])?;
    client.call(&["CONFIG", "SET", "maxmemory", bytes])?;
    Ok(())
}

fn used(client: &mut Client) -> Result<u64> {
    client.info("memory", "used_memory")?.ok_or_else(|| "the server tells no used_memory".into())
}
