//! The fuzz targets on randomly damaged golden files, with as many inputs as an ordinary test run has time for. `cargo
//! fuzz run TARGET` in the root searches for longer.

use std::{fs, path::PathBuf};

use dormouse_shard::fuzzing::effects as replay_effects;
use dormouse_storage::fuzzing::{TARGETS, Target};

const INPUTS: u64 = 1_500;

/// Returns golden files that are good input for a target.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let names: &[&str] = match target {
        "chunk" => &["chunk-v1.bin"],
        "segment" => &["segment-v1.bin"],
        "manifest" => {
            &["manifest-v1.bin", "manifest-v2.bin", "manifest-v5.bin", "manifest-v6.bin", "manifest-v6-whole.bin"]
        }
        "stretch" => &["stretch-v1.bin"],
        "tail" => &["tail-v1.bin"],
        "directory" => &["directory-v1.bin", "directory-snapshot-v1.bin"],
        "ledger" => &["ledger-v1.bin"],
        "log" => &["log-v1.bin"],
        "rdb" => return files_of_servers(),
        "dump" => return payloads(),
        _ => return effects(),
    };
    names.iter().map(|name| golden(name)).collect()
}

fn golden(name: &str) -> Vec<u8> {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../storage/tests/golden", name].iter().collect();
    fs::read(path).expect("golden files are there")
}

/// Returns files of Redis and Valkey, each behind the byte that says how it arrives, and the items that no older server
/// writes, small enough to be hit.
fn files_of_servers() -> Vec<Vec<u8>> {
    let files = ["redis-8.10.2.rdb", "valkey-9.1.2.rdb"].map(golden);
    let small: [&[u8]; 7] = [
        b"\xf2\x01\x02\x01f\x01g\x20\x01h\x01\x01v\x01w\xff",
        b"\xf2\x01\x01\x01f\x1e\x01h\x0b\x0b\0\0\0\x02\0\x01\x01\x02\x01\xff\xff",
        b"\x16\x01h\x01\x01f\x01v\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x18\x01h........\x02\x00\x01f\x01v\x00\x01g\x01w\xff",
        b"\x19\x01h........\x0f\x0f\0\0\0\x03\0\x81f\x02\x81v\x02\x00\x01\xff\xff",
        b"\x1c\x01a\x02\x01\x07\x00\x01........\x01\x00\x01x\xff",
        b"\xf3\x01....\x02\x01\x00\x00\x01k\x01v\xff",
    ];
    let whole = files.iter().map(|file| [&[3], &file[..]].concat());
    whole.chain(small.iter().map(|items| [&[1], *items].concat())).collect()
}

/// Returns the type and value of payloads.
fn payloads() -> Vec<Vec<u8>> {
    let payloads: [&[u8]; 8] = [
        b"\x00\x05hello",
        b"\x14\x0d\x0d\0\0\0\x02\0\x81a\x02\x81b\x02\xff",
        b"\x16\x01\x01f\x01v\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x18........\x02\x00\x01f\x01v\x00\x01g\x01w",
        b"\x19........\x0f\x0f\0\0\0\x03\0\x81f\x02\x81v\x02\x00\x01\xff",
        b"\x1d\x01\x01\x01f\x0c\x0c\0\0\0\x02\0\x01\x01\x81v\x02\xff",
        b"\x1d\x00\x0a\x0a\0\0\0\x01\0\x81f\x02\xff\x0c\x0c\0\0\0\x02\0\x01\x01\x81v\x02\xff",
        b"\x1f\x01\x02\x01f\x01g\x01v\xc0\x07",
    ];
    payloads.map(<[u8]>::to_vec).to_vec()
}

/// Returns bodies of each kind, with their lengths before them.
fn effects() -> Vec<Vec<u8>> {
    let bodies: [&[u8]; 6] = [
        b"\x00\x01k",
        b"\x02\0\0\0\0\0\0\0\0\x01k",
        b"\x01\0\0\0\0\0\0\0\0\0\x01k\x05value",
        b"\x03\x03\x06APPEND\x01k\x05value",
        b"\x03\x04\x05RPUSH\x01l\x01a\x01b",
        b"\x03\x04\x04ZADD\x01z\x011\x01m",
    ];
    vec![bodies.iter().flat_map(|body| [&[body.len() as u8], *body].concat()).collect()]
}

/// Damage, the same in every run.
struct Noise(fastrand::Rng);

impl Noise {
    fn below(&mut self, end: usize) -> usize {
        self.0.usize(..end.max(1))
    }

    /// Flips, sets, cuts, repeats or swaps some of the bytes.
    fn damage(&mut self, input: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = self.below(input.len());
            match self.below(6) {
                0 if at < input.len() => input[at] ^= 1 << self.below(8),
                1 if at < input.len() => input[at] = [0, 0xff, 0x7f, 0x80][self.below(4)],
                2 => input.truncate(at),
                3 => input.insert(at, self.below(256) as u8),
                4 if at < input.len() => {
                    let end = at + self.below(input.len() - at);
                    let part = input[at..end].to_vec();
                    let to = self.below(input.len());
                    input.splice(to..to, part);
                }
                _ => {
                    let end = (at + 8).min(input.len());
                    input[at..end].fill(0xff);
                }
            }
        }
    }
}

#[test]
fn no_damage_makes_a_reader_panic() {
    let replayed: Target = ("effects", replay_effects);
    for (name, target) in TARGETS.into_iter().chain([replayed]) {
        let mut noise = Noise(fastrand::Rng::with_seed(1));
        for seed in seeds(name) {
            target(&seed);
            for _ in 0..INPUTS {
                let mut input = seed.clone();
                noise.damage(&mut input);
                target(&input);
            }
        }
        for length in 0..300 {
            let input: Vec<u8> = (0..length).map(|_| noise.below(256) as u8).collect();
            target(&input);
        }
    }
}
