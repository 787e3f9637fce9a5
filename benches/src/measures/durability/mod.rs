//! The cost of durability: the log, recovery after a crash, incremental checkpoints, import.
//!
//! 1. [`cost`]: server CPU per SET with and without the log, and throughput if nothing may be lost.
//! 2. [`stalls`]: waits of clients while a database with a log makes checkpoints under full write load.
//! 3. [`large`]: a database of about 1 GiB: recovery, sleep with little changed, branches, write amplification.
//! 4. [`value`]: waits of clients while a hash of a million fields is written, loaded and freed.
//! 5. [`import`]: RDB files into a store.
//!
//! Peers keep an append-only file with the `appendfsync` of the same promise. Files are in the temporary folder, which
//! must be on a disk: without the cost of syncing these numbers mean nothing.

mod cost;
mod import;
mod large;
mod stalls;
mod value;

use clap::ValueEnum;

use crate::client::{Client, command};
use crate::load::{key, value};
use crate::report::Table;
use crate::{Bench, Result};

const CONNECTIONS: usize = 50;
const VALUE_LENGTH: usize = 64;
const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// The number of a file system in memory, from `statfs` (`linux/magic.h`).
const TMPFS_MAGIC: i128 = 0x0102_1994;

/// Parts that can be measured alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Part {
    /// CPU and throughput by loss window.
    Cost,
    /// Replies during checkpoints.
    Stalls,
    /// Recovery, sleep, branches, and write amplification of 1 GiB.
    Large,
    /// Replies while one large value is written, loaded and freed.
    Value,
    /// `dormouse import`.
    Import,
}

impl Part {
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn run(self, bench: &Bench) -> Result<Vec<Table>> {
        match self {
            Part::Cost => cost::measure(bench),
            Part::Stalls => stalls::measure(bench),
            Part::Large => large::measure(bench),
            Part::Value => value::measure(bench),
            Part::Import => import::measure(bench),
        }
    }
}

pub(super) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    check_disk()?;
    let mut tables = Vec::new();
    for part in Part::value_variants().iter().filter(|part| bench.part.is_none_or(|chosen| chosen == **part)) {
        eprintln!("  {part:?} ...");
        tables.extend(part.run(bench)?);
    }
    tables.push(Table::of_targets("All targets", &tables, &bench.programs));
    Ok(tables)
}

fn check_disk() -> Result<()> {
    let folder = std::env::temp_dir();
    if i128::from(rustix::fs::statfs(&folder)?.f_type) == TMPFS_MAGIC {
        return Err(format!("{} lies in memory: name a folder on a disk in TMPDIR", folder.display()).into());
    }
    Ok(())
}

/// Appends `SET` of the key with number `index`, with its value of the `generation`.
fn set(index: u64, generation: u64, request: &mut Vec<u8>) {
    command(request, &[b"SET", key(index).as_bytes(), expected(index, generation).as_bytes()]);
}

/// The value of a key after its `SET` in that generation.
fn expected(index: u64, generation: u64) -> String {
    let mut text = vec![0; VALUE_LENGTH];
    value(index ^ (generation << 40), &mut text);
    // All characters are ASCII.
    String::from_utf8_lossy(&text).into_owned()
}

/// Writes every key once.
fn fill(client: &mut Client, keys: u64) -> Result<()> {
    client.fill(keys, |index, request| set(index, 0, request))
}

/// Maps different numbers below `keys` to different indexes below `keys`, consecutive ones far apart. `keys` must not
/// be a multiple of the step, which is prime.
fn scattered(number: u64, keys: u64) -> u64 {
    const STEP: u64 = 1_000_000_007;
    (u128::from(number) * u128::from(STEP) % u128::from(keys)) as u64
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn scatters_without_repeating() {
        for keys in [10_u64, 20_000, 65_536] {
            let all: HashSet<u64> = (0..keys).map(|number| scattered(number, keys)).collect();
            assert_eq!(all.len() as u64, keys);
            assert!(all.iter().all(|index| *index < keys));
        }
    }

    #[test]
    fn generations_differ() {
        assert_eq!(expected(5, 1), expected(5, 1));
        assert_ne!(expected(5, 1), expected(5, 2));
        assert_ne!(expected(5, 1), expected(6, 1));
        assert_eq!(expected(5, 1).len(), VALUE_LENGTH);
    }
}
