//! Pinned moments: what is read of one later, with the entries that were tapped since, is the present.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::bench::Bench;
use dormouse_shard::pinned::PinnedMoment;
use dormouse_storage::log::Tap;
use dormouse_types::record::Value;

/// Counts the entries that it gets.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Tap for Counter {
    fn entry(&self, _: u64, _: &[u8]) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn command(&self, _: &[u8]) {}
}

/// Returns the number in key `n`, and the number of keys.
async fn read(pinned: &PinnedMoment) -> (u64, usize) {
    let (mut counter, mut keys) = (0, 0);
    let snapshot = pinned.snapshot().await.expect("its objects exist");
    let mut visit = |record: &dormouse_types::record::Record| {
        keys += 1;
        if record.key() == b"n"
            && let Value::Int(number) = record.value()
        {
            counter = number as u64;
        }
        Ok(())
    };
    snapshot.visit(0, &mut visit).await.expect("its objects exist");
    (counter, keys)
}

#[test]
fn a_pinned_moment_and_what_follows_it_are_the_present() {
    let bench = Bench::new();
    for n in 0..2000 {
        bench.line(&format!("SET key:{n} {}", "v".repeat(100)));
    }
    bench.runtime.block_on(async {
        let mut written = 0;
        for round in 0..5 {
            let (database, tap) = (Arc::clone(&bench.database), Arc::new(Counter::default()));
            let (shared, tapped) = (Arc::clone(&database.shared), Arc::clone(&tap));
            let at = Box::new(move |_: &_| shared.journal.tap(Some(tapped)));
            let pin = tokio::spawn(async move { database.pin(at).await });
            while !pin.is_finished() {
                bench.line_beside("INCR n").await;
                written += 1;
                tokio::task::yield_now().await;
            }
            let pinned = pin.await.expect("it does not panic").expect("the store works");
            for _ in 0..5 {
                bench.line_beside("INCR n").await;
                bench.line_beside(&format!("SET key:{round} changed")).await;
                bench.line_beside(&format!("DEL key:{}", 1000 + round)).await;
                written += 1;
                bench.database.checkpoint().await.expect("the store works");
            }
            let told = tap.0.load(Ordering::SeqCst);
            let (counter, keys) = read(&pinned).await;
            // Of the last 15 entries the ten that are no increments: those of keys that were gone are none.
            assert_eq!(counter + told - 6, written, "round {round}: {counter} and {told}");
            assert_eq!(keys, 2001 - round, "round {round}");
            bench.database.shared.journal.tap(None);
            let stored = bench.database.counters.stored_bytes.load(Ordering::Relaxed);
            drop(pinned);
            bench.line_beside("INCR n").await;
            written += 1;
            bench.database.checkpoint().await.expect("the store works");
            assert!(stored > 0);
        }
    });
}

#[test]
fn a_database_that_sleeps_is_pinned_without_a_wake() {
    let bench = Bench::new();
    bench.line("SET n 7");
    bench.runtime.block_on(async {
        bench.database.sleep().await.expect("the store works");
        let wakes = bench.database.counters.wakes.load(Ordering::Relaxed);
        let pinned = bench.database.pin(Box::new(|_| ())).await.expect("the store works");
        assert_eq!(read(&pinned).await, (7, 1));
        assert!(!bench.database.is_awake());
        for _ in 0..5 {
            bench.line_beside("INCR n").await;
            bench.database.checkpoint().await.expect("the store works");
        }
        assert_eq!(read(&pinned).await, (7, 1));
        assert_eq!(bench.database.counters.wakes.load(Ordering::Relaxed), wakes + 1);
    });
}

/// The objects of a moment go with the next collection after the pin.
#[test]
fn what_was_pinned_is_deleted_in_the_end() {
    let bench = Bench::new();
    bench.runtime.block_on(async {
        let objects = || async { bench.database.engine.store.list("").await.expect("the store works").len() };
        let write = |round: usize| {
            let database = Arc::clone(&bench.database);
            let bench = &bench;
            async move {
                for n in 0..100 {
                    bench.line_beside(&format!("SET key:{n} {round}")).await;
                }
                database.checkpoint().await.expect("the store works");
            }
        };
        for round in 0..4 {
            write(round).await;
        }
        let before = objects().await;
        let pinned = bench.database.pin(Box::new(|_| ())).await.expect("the store works");
        for round in 0..6 {
            write(10 + round).await;
        }
        assert_eq!(read(&pinned).await.1, 100);
        drop(pinned);
        for round in 0..3 {
            write(20 + round).await;
        }
        let after = objects().await;
        assert!(after <= before + 2, "{before} objects before, {after} after");
    });
}
