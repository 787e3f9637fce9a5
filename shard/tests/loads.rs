//! A load takes its memory before it reads: large values that are asked for at once do not exceed the limit together.

#[allow(dead_code, reason = "another test needs the rest")]
mod bench;

use bench::Bench;
use dormouse_shard::memory::MEMORY;

const MIB: usize = 1 << 20;
const TOTAL: usize = 1 << 40;

fn limit(left: usize) {
    MEMORY.measured(left.cast_signed(), TOTAL, TOTAL);
}

/// Puts the database to sleep, so that all of it is in the store.
fn sleep(bench: &Bench) {
    limit(TOTAL);
    bench.runtime.block_on(bench.database.sleep()).expect("memory can be written");
    assert!(!bench.database.is_awake());
}

/// A single test, since the limit is that of the process.
#[test]
fn what_is_loaded_fits() {
    let bench = Bench::new();
    for key in ["a", "b", "c"] {
        bench.line(&format!("SETRANGE {key} {} x", 8 * MIB - 1));
    }

    // One after the other.
    sleep(&bench);
    limit(20 * MIB);
    let lengths: Vec<String> = ["a", "b", "c"].map(|key| bench.line(&format!("STRLEN {key}"))).to_vec();
    assert_eq!(lengths.iter().filter(|reply| **reply == format!(":{}\r\n", 8 * MIB)).count(), 2, "{lengths:?}");
    let refused = lengths.iter().filter(|reply| reply.contains("'maxmemory-total'")).count();
    assert_eq!(refused, 1, "{lengths:?}");
    limit(20 * MIB);
    assert!(bench.line("STRLEN c").starts_with(':'), "there is room again");

    // At once.
    sleep(&bench);
    limit(20 * MIB);
    let replies = bench.runtime.block_on(async {
        let read = async |key: &str| bench.line_beside(&format!("STRLEN {key}")).await;
        let (a, b, c) = tokio::join!(read("a"), read("b"), read("c"));
        [a, b, c]
    });
    let refused = replies.iter().filter(|reply| reply.contains("'maxmemory-total'")).count();
    assert_eq!(refused, 1, "{replies:?}");

    // Several clients want the same place: it is read once.
    sleep(&bench);
    bench.line("DEL b c");
    sleep(&bench);
    limit(12 * MIB);
    bench.runtime.block_on(async {
        bench.database.awake().await.expect("memory can be read");
        let (one, other) = tokio::join!(bench.database.load_all(), bench.database.load_all());
        assert_eq!((one, other), (Ok(()), Ok(())));
    });
}
