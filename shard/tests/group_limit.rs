//! The limit of a database, for what consumer groups keep.

#[allow(dead_code, reason = "another test needs the rest")]
mod bench;

use std::sync::Arc;

use bench::Bench;
use dormouse_shard::keyspace::EngineSettings;

/// Pending entries and new consumers count towards the limit, like the additions of other writes.
#[test]
fn a_group_takes_no_more_than_the_database_may_have() {
    let bench = Bench::new();
    let shared = &bench.database.shared;
    for line in ["XADD s 1 f v", "XADD s 2 f v", "XGROUP CREATE s g 0", "XREADGROUP GROUP g c COUNT 1 STREAMS s >"] {
        bench.line(line);
    }
    let memory_max = bench.database.used_bytes();
    shared.settings.store(Arc::new(EngineSettings { memory_max, ..**shared.settings.load() }));
    for line in [
        "XREADGROUP GROUP g c STREAMS s >",
        "XREADGROUP GROUP g new STREAMS s 0",
        "XCLAIM s g new 0 1",
        "XCLAIM s g c 0 2 FORCE",
        "XAUTOCLAIM s g new 0 0",
    ] {
        let reply = bench.line(line);
        assert!(reply.contains("OOM") && reply.contains("'maxmemory'"), "{line}: {reply}");
    }
    // A consumer may go on with what it has, and read what is not to become pending.
    for (line, reply) in [
        (
            "XREADGROUP GROUP g c STREAMS s 0",
            "*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n",
        ),
        ("XCLAIM s g c 0 1 JUSTID", "*1\r\n$3\r\n1-0\r\n"),
        (
            "XREADGROUP GROUP g c NOACK STREAMS s >",
            "*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n2-0\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n",
        ),
        ("XREADGROUP GROUP g c STREAMS s >", "*-1\r\n"),
        ("XACK s g 1", ":1\r\n"),
    ] {
        assert_eq!(bench.line(line), reply, "{line}");
    }
}
