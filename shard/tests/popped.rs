//! The memory that SPOP needs for the log is reserved before it pops anything.

#[allow(dead_code, reason = "another test needs the rest")]
mod bench;

use std::sync::Arc;

use bench::Bench;
use dormouse_shard::memory::MEMORY;
use dormouse_storage::log::sink::Objects;
use dormouse_storage::log::{Log, Window};
use dormouse_storage::store::Store;

const MIB: isize = 1 << 20;
const TOTAL: usize = 1 << 40;

/// A single test, since the memory is that of the process.
#[test]
fn many_members_are_popped_only_if_their_copies_fit() {
    let (log, _) = Log::over(Box::new(Objects::new(Arc::new(Store::memory()))), 1, || 1).expect("memory can be read");
    let bench = Bench::with_log(Some(Arc::clone(&log)));
    bench.database.shared.journal.declare(Window::Ms(1_000));
    for n in 0..30 {
        let members: Vec<String> = (0..1000).map(|m| format!("{n}:{m}:{}", "x".repeat(300))).collect();
        assert_eq!(bench.line(&format!("SADD set {}", members.join(" "))), ":1000\r\n");
        log.flush().expect("memory can be written");
    }
    MEMORY.measured(8 * MIB, TOTAL, TOTAL);
    let reply = bench.line("SPOP set 12000");
    assert!(reply.contains("'maxmemory-total'"), "{}", &reply[..reply.len().min(80)]);
    assert_eq!(bench.line("SCARD set"), ":30000\r\n");
    for (count, left) in [(100, 29_900), (29_880, 20)] {
        assert!(bench.line(&format!("SPOP set {count}")).starts_with(&format!("*{count}\r\n")), "few are copied");
        assert_eq!(bench.line("SCARD set"), format!(":{left}\r\n"));
        log.flush().expect("memory can be written");
    }
}
