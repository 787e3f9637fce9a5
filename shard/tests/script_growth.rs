//! A script of a database that held little when it began takes no more than the process has left.

#[allow(dead_code, reason = "another test needs the rest")]
mod bench;

use bench::Bench;
use dormouse_shard::memory::MEMORY;

const MIB: usize = 1 << 20;
/// A twentieth of it is the reserve, which serves a database that has used little until then.
const TOTAL: usize = 320 * MIB;
const LEFT: usize = 24 * MIB;

/// A single test, since the limit is that of the process.
#[test]
fn what_a_script_has_added_counts_before_it_ends() {
    let bench = Bench::new();
    for calls in [
        "redis.call('set', i, s)",
        "redis.call('rpush', 'list', s)",
        "redis.call('append', i, s)",
        "redis.call('set', 'one', s) redis.call('copy', 'one', i)",
    ] {
        for (bytes, times) in [(1_000_000, 200), (50_000, 4_000), (2_000, 100_000)] {
            MEMORY.measured(LEFT.cast_signed(), TOTAL, 1);
            let script = format!("local s = string.rep('x', {bytes}) for i = 1, {times} do {calls} end return 'done'");
            let reply = bench.run(&[(0, &[b"EVAL", script.as_bytes(), b"0"])]);
            assert!(reply.contains("'maxmemory-total'"), "{calls}, {bytes} bytes: {reply}");
            let used = bench.database.used_bytes();
            assert!(used < LEFT + TOTAL / 20 + 2 * MIB, "{calls}, {bytes} bytes: {used} bytes are used");
            bench.line("FLUSHALL");
        }
    }
}
