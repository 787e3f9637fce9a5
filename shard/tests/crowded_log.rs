//! Large writes wait for each other at the log. Small ones do not wait for them.

#[allow(dead_code, reason = "another test needs the rest")]
mod bench;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bench::Bench;
use dormouse_storage::log::format::Identity;
use dormouse_storage::log::sink::Objects;
use dormouse_storage::log::{Journal, Log, Window};
use dormouse_storage::store::Store;
use futures::future::{Either, select};

#[test]
fn a_large_write_waits_for_the_large_ones_before_it() {
    let (log, _) = Log::over(Box::new(Objects::new(Arc::new(Store::memory()))), 1, || 1).expect("memory can be read");
    let bench = Bench::with_log(Some(Arc::clone(&log)));
    bench.database.shared.journal.declare(Window::Ms(1_000));
    assert_eq!(bench.line("SET small 1"), "+OK\r\n");
    // This test has no flusher.
    let other = Journal::of(&log, &Identity { name: "other".into(), seed: 1, created_ms: 1 });
    other.record(true);
    other.append(&AtomicU64::new(0), 1, &vec![0; 9 << 20]);
    let value = vec![b'v'; 100 << 10];
    let entries = || log.counters.entries.load(Ordering::Relaxed);
    bench.runtime.block_on(async {
        let writes: [&[&[u8]]; 2] = [&[b"SET", b"large", &value], &[b"MSET", b"a", &value, b"b", &value]];
        for queue in [&[(0, writes[0])][..], &[(0, writes[0]), (0, writes[1])]] {
            let before = entries();
            let mut large = Box::pin(bench.run_beside(queue));
            for _ in 0..100 {
                let small = Box::pin(bench.line_beside("INCR small"));
                let Either::Right((reply, waiting)) = select(large, small).await else {
                    panic!("a large write went before what waits for the disk");
                };
                assert!(reply.starts_with(':'), "{reply}");
                large = waiting;
                tokio::task::yield_now().await;
            }
            assert_eq!(entries() - before, 100, "the small ones");
            log.flush().expect("memory can be written");
            assert!(large.await.contains("OK"));
            other.append(&AtomicU64::new(0), 1, &vec![0; 9 << 20]);
        }
    });
}
