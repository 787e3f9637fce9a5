//! An export needs little memory, however large a value is: it is read, written and dropped piece by piece.

#[allow(dead_code, reason = "another test needs the rest")]
mod bench;

use std::io::{self, Write};
use std::process::Command;
use std::sync::Arc;

use bench::{Bench, NOW_MS};
use dormouse_shard::export::{About, export};
use dormouse_shard::snapshot::Snapshot;
use dormouse_storage::codec::value::RdbReaders;
use dormouse_storage::log::recovery::Recovered;
use dormouse_storage::store::Store;

const MIB: usize = 1 << 20;
/// Bytes of each large value.
const VALUE_BYTES: usize = 48 * MIB;
/// The most that an export may take: less than 4 MiB for a run of pieces as stored, the piece that is open, and the
/// output's run; the rest are pages of the program that it is the first to use.
const BOUND_BYTES: usize = 16 * MIB;
/// The folder of the store, for the process that fills it.
const FOLDER: &str = "DORMOUSE_EXPORT_BOUND_FOLDER";

/// Counts what is written.
struct Counter(usize);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Words that do not compress.
fn word(state: &mut u64) -> String {
    let mut word = String::new();
    while word.len() < 96 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        word.push_str(&format!("{:016x}", *state ^ *state >> 29));
    }
    word
}

fn fill(folder: &str) {
    let bench = Bench::over(Arc::new(Store::open(&format!("file://{folder}")).expect("a folder")), None);
    let mut state = 1;
    for _ in 0..VALUE_BYTES / 96 / 512 {
        let words: Vec<String> = (0..512).map(|_| word(&mut state)).collect();
        bench.line(&format!("APPEND text {}", words.concat()));
        bench.line(&format!("RPUSH list {}", words.join(" ")));
        bench.line(&format!("SADD set {}", words.join(" ")));
        let pairs: Vec<String> = words.chunks(2).map(|pair| pair.join(" ")).collect();
        bench.line(&format!("HSET hash {}", pairs.join(" ")));
        let scored: Vec<String> = words.iter().map(|word| format!("1.5 {word}")).collect();
        bench.line(&format!("ZADD sorted {}", scored.join(" ")));
    }
    bench.runtime.block_on(bench.database.sleep()).expect("the folder can be written");
}

/// A figure of this process, in bytes.
fn figure(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the figure is there");
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<usize>().expect("a number") * 1024
}

/// The most memory that an export takes beyond what there was, and the bytes that it writes.
fn taken(store: &Store, target: RdbReaders) -> (usize, usize) {
    std::fs::write("/proc/self/clear_refs", "5").expect("Linux forgets the peak");
    let before = figure("VmRSS:");
    let exported = futures::executor::block_on(async {
        let snapshot =
            Snapshot::open(store, "test", Recovered::default()).await.expect("readable").expect("a database");
        let about = About { target, server: "7.2.0", now_ms: NOW_MS, keeps_expired: false };
        export(&snapshot, Counter(0), about, &mut |_| {}).await.expect("the counter takes all")
    });
    (figure("VmHWM:").saturating_sub(before), exported.0.0)
}

#[test]
fn large_values_pass_in_pieces() {
    if let Ok(folder) = std::env::var(FOLDER) {
        return fill(&folder);
    }
    let folder = tempfile::tempdir().expect("a folder");
    // Memory that this process has freed would hide what it takes again.
    let executable = std::env::current_exe().expect("it runs");
    let mut filling = Command::new(executable);
    filling.env(FOLDER, folder.path()).args(["--exact", "large_values_pass_in_pieces"]);
    let status = filling.status().expect("it starts");
    assert!(status.success());
    let store = Store::open_read_only(&format!("file://{}", folder.path().display())).expect("a folder");
    let (taken_bytes, written) = taken(&store, RdbReaders::REDIS_7_2);
    assert!(written > 4 * VALUE_BYTES, "{written} bytes were written");
    assert!(taken_bytes < BOUND_BYTES, "{taken_bytes} bytes for values of {VALUE_BYTES}");
    // That this would notice a value as a whole: the oldest version has another form of lists.
    let (taken_bytes, _) = taken(&store, RdbReaders::REDIS_5);
    assert!(taken_bytes > VALUE_BYTES / 2, "{taken_bytes} bytes");
}
