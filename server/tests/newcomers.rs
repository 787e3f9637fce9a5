//! New clients while the process has no memory left.

#[expect(dead_code, reason = "other tests use the rest")]
#[path = "wire/node.rs"]
mod node;

use dormouse_shard::memory::MEMORY;
use node::Bench;

const FULL: isize = -1;
const TOTAL: usize = 1 << 40;
const REFUSAL: &str = "-OOM no new clients are taken when used memory > 'maxmemory-total'.\r\n";

/// A single test, since the memory is that of the process.
#[test]
fn a_new_client_waits_for_memory_before_it_is_refused() {
    for (tokens, first, reply) in
        [(&[][..], "PING", "+PONG\r\n"), (&["dm_one_secret"], "AUTH dm_one_secret", "+OK\r\n")]
    {
        let bench = Bench::new(tokens);
        MEMORY.measured(FULL, TOTAL, 1);
        let mut client = bench.connect();
        client.send(&[first]);
        while bench.node.newcomers.waiting() == 0 {
            std::thread::yield_now();
        }
        assert!(client.is_silent(), "it is not refused while memory may become free");
        MEMORY.measured(1 << 30, TOTAL, 1);
        client.expect(reply);
        MEMORY.measured(FULL, TOTAL, 1);
        let mut late = bench.connect();
        late.send(&[first]);
        late.expect(REFUSAL);
        MEMORY.measured(1 << 30, TOTAL, 1);
    }
}
