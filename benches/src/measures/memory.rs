//! Bytes per key or element: a million, or 200,000 small collections, each shape in a freshly started server.
//!
//! Two figures: the server's own (`used_memory` of INFO, the difference to empty), on which eviction and billing rely;
//! and resident memory, which the machine pays for.

use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Client, command};
use crate::load::{key, value};
use crate::process::settled_resident_bytes;
use crate::report::{Table, Target, Unit};
use crate::server::{Kind, Program};
use crate::{Bench, Result};

const ELEMENTS: u64 = 1_000_000;
const SMALL_COLLECTIONS: u64 = 200_000;

/// One shape of data: `count` commands make `count` of the counted items.
struct Shape {
    label: &'static str,
    count: u64,
    target: Option<Target>,
    /// The servers that lack the command.
    lacking: &'static [Kind],
    write: fn(u64, &mut Vec<u8>),
}

const SHAPES: &[Shape] = &[
    Shape {
        label: "string, 16 B key, 64 B value",
        count: ELEMENTS,
        target: Some(Target::OfValkey(0.82)),
        lacking: &[],
        write: |index, request| command(request, &[b"SET", key(index).as_bytes(), &text::<64>(index)]),
    },
    Shape {
        label: "the same with a TTL",
        count: ELEMENTS,
        target: None,
        lacking: &[],
        write: |index, request| {
            let seconds = (100_000 + index).to_string();
            command(request, &[b"SET", key(index).as_bytes(), &text::<64>(index), b"EX", seconds.as_bytes()]);
        },
    },
    Shape {
        label: "string, 16 B key, 8 B value",
        count: ELEMENTS,
        target: None,
        lacking: &[],
        write: |index, request| command(request, &[b"SET", key(index).as_bytes(), &text::<8>(index)]),
    },
    Shape {
        label: "string, integer value",
        count: ELEMENTS,
        target: Some(Target::Most(60.0)),
        lacking: &[],
        write: |index, request| command(request, &[b"SET", key(index).as_bytes(), integer(index).as_bytes()]),
    },
    Shape {
        label: "hash of 5 fields x 16 B",
        count: SMALL_COLLECTIONS,
        target: Some(Target::OfValkey(0.95)),
        lacking: &[],
        write: |index, request| {
            let pairs = (0..5).flat_map(|at| [format!("field{at}").into_bytes(), text::<16>(index * 5 + at).to_vec()]);
            collection("HSET", index, pairs, request);
        },
    },
    Shape {
        label: "set of 10 integers",
        count: SMALL_COLLECTIONS,
        target: Some(Target::OfValkey(0.95)),
        lacking: &[],
        write: |index, request| {
            collection("SADD", index, (0..10).map(|at| integer(index * 10 + at).into_bytes()), request);
        },
    },
    Shape {
        label: "sorted set of 10",
        count: SMALL_COLLECTIONS,
        target: Some(Target::OfValkey(0.95)),
        lacking: &[],
        write: |index, request| {
            let score = |at: u64| ((index * 7 + at * 997) % 10_000).to_string().into_bytes();
            collection(
                "ZADD",
                index,
                (0..10).flat_map(|at| [score(at), format!("member:{at:04}").into_bytes()]),
                request,
            );
        },
    },
    Shape {
        label: "list of 20 x 32 B",
        count: SMALL_COLLECTIONS,
        target: Some(Target::OfValkey(0.95)),
        lacking: &[],
        write: |index, request| {
            collection("RPUSH", index, (0..20).map(|at| text::<32>(index * 20 + at).to_vec()), request);
        },
    },
    Shape {
        label: "one big sorted set, per 17 B member",
        count: ELEMENTS,
        target: Some(Target::Most(70.0)),
        lacking: &[],
        write: |index, request| {
            let score = format!("{}.{}", shuffled(index), index % 10);
            command(request, &[b"ZADD", b"big", score.as_bytes(), member(index).as_bytes()]);
        },
    },
    Shape {
        label: "one big hash, per 16 B field and 32 B value",
        count: ELEMENTS,
        target: Some(Target::Most(85.0)),
        lacking: &[],
        write: |index, request| command(request, &[b"HSET", b"big", key(index).as_bytes(), &text::<32>(index)]),
    },
    Shape {
        label: "one big set, per 17 B member",
        count: ELEMENTS,
        target: Some(Target::Most(45.0)),
        lacking: &[],
        write: |index, request| command(request, &[b"SADD", b"big", member(index).as_bytes()]),
    },
    Shape {
        label: "one big stream, per entry of two small fields",
        count: ELEMENTS,
        target: Some(Target::Most(13.1)),
        lacking: &[],
        write: |index, request| {
            // One entry each millisecond; the values are two digits and one.
            let (id, value) = (format!("{}-0", 1_700_000_000_000 + index), (10 + index % 90).to_string());
            command(request, &["XADD", "big", &id, "a", &value, "b", "7"].map(str::as_bytes));
        },
    },
    Shape {
        label: "one big hash, per 16 B field and 32 B value with a TTL",
        count: ELEMENTS,
        target: Some(Target::OfBest(1.0)),
        lacking: &[Kind::Redis],
        write: |index, request| {
            let (seconds, field) = ((100_000 + index).to_string(), key(index));
            let arguments = ["HSETEX", "big", "EX", &seconds, "FIELDS", "1", &field].map(str::as_bytes);
            command(request, &[&arguments[..], &[&text::<32>(index)]].concat());
        },
    },
    Shape {
        label: "one big array, per number of 5 or 6 digits",
        count: ELEMENTS,
        target: Some(Target::OfBest(0.90)),
        lacking: &[Kind::Redis, Kind::Valkey],
        write: |index, request| array_element(index, &(10_000 + index % 900_000).to_string(), request),
    },
    Shape {
        label: "one big array, per number at each 1,000th index",
        count: ELEMENTS,
        target: Some(Target::OfBest(0.90)),
        lacking: &[Kind::Redis, Kind::Valkey],
        write: |index, request| array_element(1000 * index, &(10_000 + index % 900_000).to_string(), request),
    },
];

pub(super) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let mut said = Table::new("Bytes per key or element, by used_memory", &bench.programs);
    let mut resident = Table::new("Bytes per key or element, by resident memory", &bench.programs);
    for shape in SHAPES.iter().filter(|shape| bench.has_row(shape.label)) {
        let count = bench.amount(shape.count, shape.count / 50);
        let of_one = |program: &Program| {
            let has_it = !shape.lacking.contains(&program.kind);
            has_it.then(|| per_element(program, shape, count)).transpose()
        };
        let values = bench.of_each(of_one)?;
        let (by_said, by_resident) = values.into_iter().map(|value| value.flatten().unzip()).unzip();
        said.row(shape.label, Unit::Bytes, by_said, shape.target);
        resident.row(shape.label, Unit::Bytes, by_resident, None);
    }
    // The second shape is the first with a TTL.
    let both = |shape: usize| said.rows.iter().find(|row| row.label == SHAPES[shape].label);
    if let (Some(without), Some(with)) = (both(0), both(1)) {
        let pairs = with.values.iter().zip(&without.values);
        let added = pairs.map(|(with, without)| Some((*with)? - (*without)?)).collect();
        said.row("a TTL adds", Unit::Bytes, added, Some(Target::Most(10.0)));
    }
    Ok(vec![said, resident])
}

fn per_element(program: &Program, shape: &Shape, count: u64) -> Result<(f64, f64)> {
    let server = program.start()?;
    let mut client = server.client()?;
    // The allocations of a first command are not part of the data.
    client.fill(100, shape.write)?;
    client.call(&["FLUSHALL"])?;
    let said_before = settled_used_memory(&mut client)?;
    let resident_before = settled_resident_bytes(server.pid())?;
    client.fill(count, shape.write)?;
    let said = settled_used_memory(&mut client)?;
    let resident = settled_resident_bytes(server.pid())?;
    let per_element = |before: u64, after: u64| (after as f64 - before as f64) / count as f64;
    Ok((per_element(said_before, said), per_element(resident_before, resident)))
}

/// `used_memory` once it is stable for 300 ms (Redis rehashes its tables in the background), at most 5 s.
pub(super) fn settled_used_memory(client: &mut Client) -> Result<u64> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut read = || client.info("memory", "used_memory")?.ok_or_else(|| "INFO memory has no used_memory".into());
    let mut reference: u64 = read()?;
    let mut since = Instant::now();
    while since.elapsed() < Duration::from_millis(300) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(50));
        let now = read()?;
        if now.abs_diff(reference) > 4096 {
            (reference, since) = (now, Instant::now());
        }
    }
    read()
}

/// A command that makes a whole small collection, under a key of 12 bytes.
fn collection(name: &str, index: u64, elements: impl Iterator<Item = Vec<u8>>, request: &mut Vec<u8>) {
    let key = format!("small:{index:06}");
    let elements: Vec<Vec<u8>> = elements.collect();
    let mut arguments = vec![name.as_bytes(), key.as_bytes()];
    arguments.extend(elements.iter().map(Vec::as_slice));
    command(request, &arguments);
}

fn text<const LENGTH: usize>(index: u64) -> [u8; LENGTH] {
    let mut text = [0; LENGTH];
    value(index, &mut text);
    text
}

/// 17 bytes.
fn member(index: u64) -> String {
    format!("member:{index:010}")
}

/// Nine digits: fits 32 bits, and exceeds the small integers that Redis shares.
fn array_element(index: u64, text: &str, request: &mut Vec<u8>) {
    command(request, &["ARSET", "big", &index.to_string(), text].map(str::as_bytes));
}

fn integer(index: u64) -> String {
    (100_000_000 + shuffled(index)).to_string()
}

/// Numbers below 800,000,000 in shuffled order, each once (an odd multiplier modulo a number coprime to it).
fn shuffled(index: u64) -> u64 {
    index * 387_420_489 % 800_000_000
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn shapes_are_as_long_as_their_labels_say() {
        assert_eq!((key(1).len(), member(1).len()), (16, 17));
        let integers: HashSet<String> = (0..10_000).map(integer).collect();
        assert_eq!(integers.len(), 10_000);
        assert!(integers.iter().all(|integer| integer.parse::<i32>().is_ok() && integer.len() == 9));
    }
}
