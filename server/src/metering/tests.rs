use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;

const NAMES: &[&str] = &["get", "set", "zadd"];
const GET: usize = 0;
const SET: usize = 1;
const NOTHING: Recorded = Recorded { last: None, seen_from_ms: 0 };

fn meters() -> Arc<DatabaseMeters> {
    DatabaseMeters::new("shop", NAMES.len(), 0, &NOTHING)
}

#[test]
fn request_units_are_kibibytes_and_at_least_one() {
    for (bytes_in, bytes_out, units) in
        [(0, 0, 1), (3, 5, 1), (1024, 0, 1), (512, 513, 2), (0, 2048, 2), (1, 2048, 3), (1 << 40, 0, 1 << 30)]
    {
        assert_eq!(request_units(bytes_in, bytes_out), units, "{bytes_in} + {bytes_out}");
    }
}

#[test]
fn a_batch_counts_once() {
    let meters = meters();
    let writer = meters.writer();
    let mut batch = Batch::new();
    batch.request(GET, 10, 2000);
    batch.request(SET, 30, 5);
    batch.request(GET, 10, 5);
    batch.failed(SET);
    batch.unbill(SET, 30, 5);
    batch.rejected(2);
    batch.refused(1500, 20);
    batch.delivered(3, 3100);
    batch.bytes_in = 1550;
    batch.keyspace_hits = 1;
    batch.keyspace_misses = 1;
    assert_eq!(batch.requests(), 3);
    assert_eq!(meters.totals(0), Totals::default());
    for _ in 0..2 {
        writer.commit(&mut batch, 3000); // the second time there is nothing but time
    }
    let totals = meters.totals(0);
    let expected = [3, 9, 1550, 5130, 6, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 30, 5, 0];
    assert_eq!(totals.meters().map(|(_, value)| value).collect::<Vec<_>>(), expected);
    assert_eq!(totals.command(GET), CommandTotals { calls: 2, nanoseconds: 2000, rejected: 0, failed: 0, unbilled: 0 });
    assert_eq!(totals.command(SET), CommandTotals { calls: 1, nanoseconds: 1000, rejected: 0, failed: 1, unbilled: 1 });
    assert_eq!(totals.command(2), CommandTotals { calls: 0, nanoseconds: 0, rejected: 1, failed: 0, unbilled: 0 });
    drop(writer);
    assert_eq!(meters.totals(0), totals);
}

#[test]
fn the_time_of_a_batch_is_shared_among_its_commands() {
    // Each row: calls of GET, of SET, times of SETs timed by themselves, the batch's time; the time of GET, SET, the
    // CPU.
    for (gets, sets, timed, elapsed, expected) in [
        (1, 0, &[][..], 700, (700, 0, 700)),
        (2, 1, &[], 1000, (666, 334, 1000)),
        (64, 0, &[], 63, (63, 0, 63)),
        (1, 1, &[900], 1000, (100, 900, 1000)),
        (1, 2, &[900], 1100, (100, 1000, 1100)),
        (0, 1, &[900], 1000, (0, 900, 1000)),
        (1, 1, &[900], 800, (0, 900, 900)),
        (1, 0, &[], u64::MAX, (u64::MAX, 0, u64::MAX)),
    ] {
        let (meters, mut batch) = (meters(), Batch::new());
        let writer = meters.writer();
        (0..gets).for_each(|_| batch.request(GET, 0, 0));
        (0..sets).for_each(|_| batch.request(SET, 0, 0));
        timed.iter().for_each(|ns| batch.timed(SET, *ns));
        writer.commit(&mut batch, elapsed);
        let totals = meters.totals(0);
        let (get, set) = (totals.command(GET).nanoseconds, totals.command(SET).nanoseconds);
        assert_eq!(
            (get, set, writer.meters().counts.lock().blocks[0].cpu_ns()),
            (expected.0, expected.1, expected.2.into())
        );
    }
}

#[test]
fn short_batches_add_up_to_microseconds() {
    let meters = meters();
    for _ in 0..4 {
        let writer = meters.writer();
        writer.commit(&mut Batch::new(), 600);
    }
    assert_eq!(meters.totals(0)[Meter::CpuMicroseconds], 2);
}

/// Writers come and go on many threads while others read: no reader sees less than the one before, and in the end
/// nothing is lost or counted twice.
#[test]
fn no_count_is_lost() {
    const THREADS: usize = 6;
    const WRITERS: u64 = 50;
    const BATCHES: u64 = 40;
    let meters = meters();
    let start = Barrier::new(THREADS + 1);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (meters, start) = (&meters, &start);
                scope.spawn(move || {
                    start.wait();
                    for _ in 0..WRITERS {
                        let writer = meters.writer();
                        for _ in 0..BATCHES {
                            let mut batch = Batch::new();
                            batch.request(thread % NAMES.len(), 1000, 1000);
                            batch.request(GET, 0, 0);
                            batch.bytes_in = 1000;
                            writer.commit(&mut batch, 1000);
                        }
                        meters.count(Meter::Splits, 1);
                    }
                })
            })
            .collect();
        let reader = scope.spawn(|| {
            start.wait();
            let mut last = 0;
            while !done.load(Ordering::Acquire) {
                let totals = meters.totals(0);
                assert!(totals[Meter::Requests] >= last, "{} after {last}", totals[Meter::Requests]);
                last = totals[Meter::Requests];
            }
        });
        let outcomes: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        done.store(true, Ordering::Release);
        outcomes.into_iter().chain([reader.join()]).for_each(|outcome| outcome.unwrap());
    });
    let batches = u128::from(THREADS as u64 * WRITERS * BATCHES);
    let totals = meters.totals(0);
    assert_eq!(totals[Meter::Requests], 2 * batches);
    assert_eq!(totals[Meter::RequestUnits], 3 * batches);
    assert_eq!(totals[Meter::BytesIn], 1000 * batches);
    assert_eq!(totals[Meter::CpuMicroseconds], batches);
    assert_eq!(totals[Meter::Splits], u128::from(THREADS as u64 * WRITERS));
    assert_eq!(totals.commands().map(|(_, command)| u128::from(command.calls)).sum::<u128>(), 2 * batches);
    assert!(meters.counts.lock().blocks.is_empty());
}

#[test]
fn meters_survive_a_restart() {
    let before = meters();
    let writer = before.writer();
    let mut batch = Batch::new();
    batch.request(SET, 5, 5);
    writer.commit(&mut batch, 5000);
    before.observe_memory(1000, 100);
    before.observe_store(1000, 7);
    let saved = before.save(NAMES, 2000);

    // Ten seconds later: no data was in memory in between, but the data was in the store.
    let after = DatabaseMeters::restore("shop", &saved, NAMES, 12_000, &NOTHING).unwrap();
    let totals = after.totals(13_000);
    assert_eq!(totals[Meter::Requests], 1);
    assert_eq!(totals[Meter::CpuMicroseconds], 5);
    assert_eq!(totals[Meter::MemoryByteMilliseconds], 100 * 1000);
    assert_eq!(totals[Meter::StoreByteMilliseconds], 7 * 12_000);
    assert_eq!(totals.command(SET).calls, 1);
    let statistics = after.statistics(13_000);
    assert_eq!((statistics[Meter::Requests], statistics.commands().count()), (0, 0));
    assert!(DatabaseMeters::restore("shop", &saved[..9], NAMES, 0, &NOTHING).is_err());
}

#[test]
fn statistics_are_reset_and_bills_are_not() {
    let meters = meters();
    let writer = meters.writer();
    let mut batch = Batch::new();
    batch.request(SET, 5, 5);
    writer.commit(&mut batch, 0);
    meters.reset_statistics(0);
    batch.request(GET, 5, 5);
    writer.commit(&mut batch, 0);
    let statistics = meters.statistics(0);
    assert_eq!(statistics[Meter::Requests], 1);
    assert_eq!(statistics.commands().map(|(index, _)| index).collect::<Vec<_>>(), [GET]);
    assert_eq!(meters.totals(0)[Meter::Requests], 2);
}

#[test]
fn everything_falls_into_one_window() {
    let meters = meters();
    let writer = meters.writer();
    let request = |times: u64| {
        let mut batch = Batch::new();
        (0..times).for_each(|_| batch.request(GET, 1, 1));
        writer.commit(&mut batch, 0);
    };
    request(3);
    assert_eq!(meters.close_window(WINDOW_MS - 1), None);
    assert_eq!(meters.usage(WINDOW_MS - 1).quantity(Meter::Requests), 3);
    request(2);
    let first = meters.close_window(WINDOW_MS).unwrap();
    assert_eq!((first.start_ms, first.end_ms, first.quantity(Meter::Requests)), (0, WINDOW_MS, 5));
    request(4);
    // A restart in the middle of a window does not start another one.
    let saved = meters.save(NAMES, WINDOW_MS + 9);
    let restored = DatabaseMeters::restore("shop", &saved, NAMES, WINDOW_MS + 10, &NOTHING).unwrap();
    for meters in [&meters, &restored] {
        let second = meters.close_window(5 * WINDOW_MS + 1).unwrap();
        // The server did not run to close it in time.
        assert_eq!((second.start_ms, second.end_ms), (WINDOW_MS, 5 * WINDOW_MS));
        assert_eq!(second.quantity(Meter::Requests), 4);
        assert_eq!(meters.closed_windows(), [first.clone(), second.clone()]);
        let saved = meters.save(NAMES, 0);
        let restored = DatabaseMeters::restore("shop", &saved, NAMES, 0, &NOTHING).unwrap();
        assert_eq!(restored.closed_windows(), [first.clone(), second.clone()]);
        // The ledger has the first of them.
        let recorded = Recorded { last: Some((0, first.end_ms)), seen_from_ms: 0 };
        let restored = DatabaseMeters::restore("shop", &saved, NAMES, 0, &recorded).unwrap();
        assert_eq!(restored.closed_windows(), std::slice::from_ref(&second));
        assert_eq!(restored.offer_windows(), std::slice::from_ref(&second));
        assert_eq!(restored.windows_taken(), Some((0, second.end_ms)));
        assert!(restored.is_settled(0));
        assert_eq!(second.events().next().unwrap().id, "shop:requests:60");
        assert_eq!(meters.usage(5 * WINDOW_MS + 2).start_ms, 5 * WINDOW_MS);
        assert_eq!(meters.close_window(5 * WINDOW_MS + 2), None);
    }
}

/// Usage goes on, is saved now and then, recorded every minute, and the process dies at any moment: no request is in the
/// ledger twice, and only those are missing that came after the last record.
#[test]
fn a_crash_loses_at_most_what_came_after_the_last_record() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..200 {
        let mut meters = meters();
        let (mut saved, mut now_ms) = (meters.save(NAMES, 0), 0);
        let mut ledger: BTreeMap<(u32, u64), UsageWindow> = BTreeMap::new();
        let mut last = None;
        // Requests that may be in the ledger, and those that must be.
        let (mut made, mut recorded_at_least) = (0, 0);
        for _ in 0..60 {
            now_ms += random.u64(..40_000);
            match random.u32(..10) {
                0 => saved = meters.save(NAMES, now_ms),
                1 => {
                    let recorded = Recorded { last, seen_from_ms: 0 };
                    meters = DatabaseMeters::restore("shop", &saved, NAMES, now_ms, &recorded).unwrap();
                }
                2 => now_ms = now_ms.saturating_sub(random.u64(..300_000)),
                _ => {
                    let writer = meters.writer();
                    let mut batch = Batch::new();
                    batch.request(GET, 1, 1);
                    writer.commit(&mut batch, 0);
                    made += 1;
                }
            }
            let closes = meters.close_window(now_ms).is_some();
            if meters.is_due() && random.bool() {
                let windows = meters.offer_windows();
                // The answer may be lost.
                let is_told = random.bool();
                for window in windows {
                    let key = (window.era, window.start_ms);
                    let before = ledger.entry(key).or_insert_with(|| window.clone());
                    assert_eq!(*before, window, "a window that was written does not change");
                    last = last.max(Some((window.era, window.end_ms)));
                }
                if is_told {
                    meters.windows_taken();
                    if closes {
                        recorded_at_least = ledger.values().map(|window| window.quantity(Meter::Requests)).sum();
                    }
                }
            }
        }
        let sum: u128 = ledger.values().map(|window| window.quantity(Meter::Requests)).sum();
        assert!(recorded_at_least <= sum && sum <= made, "{recorded_at_least} <= {sum} <= {made}");
        let ends = ledger.iter().zip(ledger.values().skip(1));
        for ((&(era, _), window), next) in ends {
            assert!(era < next.era || window.end_ms <= next.start_ms, "windows overlap");
        }
    }
}
