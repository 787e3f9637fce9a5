//! Waits of clients during checkpoints under full write load, with the log on all the time.
//!
//! Two loads of SETs lead to different checkpoints: over all keys, so that every segment is written whole, and over one
//! key in a thousand, so that tails are written, merged, and folded in, and sparse chunks copied together.

use std::time::Duration;

use crate::load::{Commands, Load};
use crate::measures::stalls::{Waits, of_checkpoints, rows};
use crate::report::Table;
use crate::server::{Loss, Program, Setup};
use crate::{Bench, Result};

use super::{CONNECTIONS, VALUE_LENGTH, fill};

const KEYS: u64 = 1_000_000;
const SPARSE: u64 = 1000;

pub(super) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let keys = bench.amount(KEYS, 20_000);
    let of_one = |program: &Program| stalls(bench, program, keys);
    let all: Vec<[Waits; 2]> = bench.programs.iter().map(of_one).collect::<Result<_>>()?;
    let title = format!("Replies to SETs during checkpoints of {keys} keys, loss window 1s");
    let mut table = Table::new(&title, &bench.programs);
    for (at, what) in ["all keys, ", "one key in 1000, "].into_iter().enumerate() {
        let waits: Vec<Option<&Waits>> = all.iter().map(|waits| Some(&waits[at])).collect();
        rows(&mut table, what, &waits);
    }
    Ok(vec![table])
}

fn stalls(bench: &Bench, program: &Program, keys: u64) -> Result<[Waits; 2]> {
    let server = program.start_as(Setup { loss: Loss::Second, ..Setup::default() })?;
    let mut client = server.client()?;
    fill(&mut client, keys)?;
    let mut of = |kinds: [Commands; 1]| {
        let mut load = Load::connect(server.address, CONNECTIONS, 1, &kinds)?;
        load.run_for(Duration::from_millis(bench.amount(1000, 50)))?;
        of_checkpoints(bench, &mut load, &mut client)
    };
    Ok([of([Commands::set(keys, VALUE_LENGTH)])?, of([Commands::set(keys / SPARSE, VALUE_LENGTH)])?])
}
