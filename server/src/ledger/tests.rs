use std::sync::atomic::{AtomicU64, Ordering};

use dormouse_storage::store::{FaultyStore, StoreFault, StoreRequest};
use object_store::memory::InMemory;

use super::*;
use crate::metering::{Batch, Meter, WINDOW_MS};

const NAMES: &[&str] = &["get"];
const NOTHING: Recorded = Recorded { last: None, seen_from_ms: 0 };

fn request(meters: &Arc<DatabaseMeters>, times: u64) {
    let writer = meters.writer();
    let mut batch = Batch::new();
    (0..times).for_each(|_| batch.request(0, 1, 1));
    writer.commit(&mut batch, 0);
}

fn requests(windows: &[UsageWindow]) -> u128 {
    windows.iter().map(|window| window.quantity(Meter::Requests)).sum()
}

fn faulty() -> (Arc<FaultyStore>, Arc<Store>) {
    let faults = FaultyStore::new(Arc::new(InMemory::new()));
    let store = Arc::new(Store::over(faults.clone(), "memory://"));
    (faults, store)
}

fn minutes(from_ms: u64, to_ms: u64) -> Period {
    Period { from_ms, to_ms, step: UsageStep::Minutes }
}

#[tokio::test]
async fn databases_share_an_object_and_are_read_one_by_one() {
    static NOW_MS: AtomicU64 = AtomicU64::new(0);
    let clock = || NOW_MS.load(Ordering::SeqCst);
    let store = Arc::new(Store::memory());
    let ledger = UsageLedger::open(&store, 1, clock).await;
    let all = ["a", "b"].map(|name| DatabaseMeters::new(name, NAMES.len(), 0, &ledger.recorded(name)));
    let every = || all.iter().cloned();
    assert!(ledger.turn(every()).is_none(), "nothing was used");
    for minute in 1..=61 {
        request(&all[0], 1);
        request(&all[1], minute % 2);
        NOW_MS.store(minute * WINDOW_MS, Ordering::SeqCst);
        every().for_each(|meters| drop(meters.close_window(clock())));
        let turn = ledger.turn(every()).expect("there is something to write");
        assert!(ledger.turn(every()).is_none(), "one writer at a time");
        ledger.take_turn(turn, &all, None).await;
    }
    // The hour that is over was merged.
    assert_eq!(store.list("ledger").await.unwrap().len(), 2);
    let found = ledger.windows(&all[1], minutes(0, HOUR_MS + WINDOW_MS)).await.unwrap();
    assert_eq!((found.len(), requests(&found)), (31, 31));
    assert_eq!((&*found[0].database, found[0].start_ms, found[0].end_ms), ("b", 0, WINDOW_MS));
    assert_eq!(requests(&ledger.windows(&all[0], minutes(WINDOW_MS, 3 * WINDOW_MS)).await.unwrap()), 2);
    // A window that waits for the ledger is shown too.
    request(&all[0], 5);
    NOW_MS.fetch_add(WINDOW_MS, Ordering::SeqCst);
    all[0].close_window(clock());
    let period = Period { from_ms: 0, to_ms: clock(), step: UsageStep::Hours };
    let hours = ledger.windows(&all[0], period).await.unwrap();
    let sums: Vec<_> = hours.iter().map(|hour| (hour.start_ms, hour.end_ms, hour.quantity(Meter::Requests))).collect();
    assert_eq!(sums, [(0, HOUR_MS, 60), (HOUR_MS, 2 * HOUR_MS, 6)]);
    // A day later everything before is too old.
    NOW_MS.fetch_add(DAY_MS, Ordering::SeqCst);
    all[0].close_window(clock());
    let turn = ledger.turn(every()).unwrap();
    ledger.take_turn(turn, &all, Some(HOUR_MS)).await;
    assert_eq!(requests(&ledger.windows(&all[0], minutes(0, clock())).await.unwrap()), 0);
}

#[tokio::test]
async fn windows_wait_while_the_store_refuses() {
    static NOW_MS: AtomicU64 = AtomicU64::new(0);
    let clock = || NOW_MS.load(Ordering::SeqCst);
    let (faults, store) = faulty();
    let ledger = UsageLedger::open(&store, 1, clock).await;
    let meters = DatabaseMeters::new("a", NAMES.len(), 0, &NOTHING);
    let next = |times| {
        request(&meters, times);
        NOW_MS.fetch_add(WINDOW_MS, Ordering::SeqCst);
        meters.close_window(clock());
    };
    next(1);
    faults.fail(StoreRequest::Put, 0, 1, StoreFault::Full);
    assert!(ledger.record(std::slice::from_ref(&meters)).await.is_err());
    next(2);
    // It is written, but the answer is lost.
    faults.fail(StoreRequest::Put, 0, 1, StoreFault::Unanswered);
    assert!(ledger.record(std::slice::from_ref(&meters)).await.is_err());
    let found = ledger.windows(&meters, minutes(0, clock())).await.unwrap();
    assert_eq!((found.len(), requests(&found)), (2, 3));
    ledger.record(std::slice::from_ref(&meters)).await.unwrap();
    ledger.record(std::slice::from_ref(&meters)).await.unwrap();
    assert!(!meters.is_due());
    let found = ledger.windows(&meters, minutes(0, clock())).await.unwrap();
    assert_eq!((found.len(), requests(&found)), (2, 3));
}

/// The process dies after any change of the store, with a manifest that is older than the ledger: what was recorded is
/// in the ledger once, and nothing that was never used.
#[tokio::test]
async fn a_crash_bills_nothing_twice() {
    static NOW_MS: AtomicU64 = AtomicU64::new(0);
    let clock = || NOW_MS.load(Ordering::SeqCst);
    for crash in 0..30 {
        let (faults, store) = faulty();
        NOW_MS.store(58 * WINDOW_MS, Ordering::SeqCst);
        let mut ledger = UsageLedger::open(&store, 1, clock).await;
        let mut meters = DatabaseMeters::new("a", NAMES.len(), clock(), &NOTHING);
        let mut saved = meters.save(NAMES, clock());
        // Requests, those that no write has had yet, and those that crashes may have lost.
        let (mut made, mut since, mut lost_max) = (0, 0, 0);
        faults.crash_after(crash);
        for step in 0..14 {
            request(&meters, 1);
            (made, since) = (made + 1, since + 1);
            if step % 5 == 4 {
                // In the middle of a minute, a manifest keeps the meters.
                NOW_MS.fetch_add(WINDOW_MS / 2, Ordering::SeqCst);
                saved = meters.save(NAMES, clock());
                continue;
            }
            NOW_MS.fetch_add(WINDOW_MS / 2, Ordering::SeqCst);
            meters.close_window(clock());
            let Some(turn) = ledger.turn([meters.clone()].into_iter()) else { continue };
            ledger.take_turn(turn, &[meters.clone()], None).await;
            if !meters.is_due() {
                since = meters.usage(clock()).quantity(Meter::Requests);
            }
            if faults.is_dead() {
                faults.revive();
                lost_max += std::mem::take(&mut since);
                ledger = UsageLedger::open(&store, 2, clock).await;
                let known = ledger.recorded("a");
                meters = DatabaseMeters::restore("a", &saved, NAMES, clock(), &known).unwrap();
            }
        }
        NOW_MS.fetch_add(WINDOW_MS, Ordering::SeqCst);
        meters.close_window(clock());
        ledger.record(std::slice::from_ref(&meters)).await.unwrap();
        let found = ledger.windows(&meters, minutes(0, clock())).await.unwrap();
        let sum = requests(&found);
        assert!(made - lost_max <= sum && sum <= made, "after {crash} changes: {sum} of {made}, less {lost_max}");
        assert!(found.windows(2).all(|pair| pair[0].end_ms <= pair[1].start_ms), "after {crash} changes: {found:?}");
    }
}

#[tokio::test]
async fn a_deleted_database_leaves_its_usage() {
    let clock = || 90_500;
    let store = Arc::new(Store::memory());
    let ledger = UsageLedger::open(&store, 1, clock).await;
    let meters = DatabaseMeters::new("a", NAMES.len(), 60_000, &NOTHING);
    request(&meters, 3);
    ledger.take_leave(&meters);
    let again = DatabaseMeters::new("a", NAMES.len(), 90_500, &ledger.recorded("a"));
    assert_eq!(again.usage(90_500).start_ms, 91_000);
    let turn = ledger.turn(std::iter::empty()).expect("its windows are due");
    ledger.take_turn(turn, &[], None).await;
    let found = ledger.windows(&again, minutes(0, 120_000)).await.unwrap();
    assert_eq!((found.len(), requests(&found), found[0].end_ms), (1, 3, 91_000));
    assert!(ledger.turn(std::iter::empty()).is_none());
}

#[tokio::test]
async fn many_deleted_branches_take_a_bounded_room() {
    let clock = || 90_500;
    let store = Arc::new(Store::memory());
    let ledger = UsageLedger::open(&store, 1, clock).await;
    let delete = |name: String| {
        let meters = DatabaseMeters::new(&name, NAMES.len(), 60_000, &NOTHING);
        request(&meters, 1);
        ledger.take_leave(&meters);
    };
    (0..1000).for_each(|number| delete(format!("shop.pr-{number}")));
    delete("blog".to_owned());
    ledger.record(&[]).await.unwrap();
    let written = dormouse_storage::ledger::read_hour(&store, 0, |_| true).await.unwrap();
    assert_eq!(written.len(), LEFT_MAX + 1);
    let sum: u128 = written.iter().map(shown).map(|window| window.quantity(Meter::Requests)).sum();
    assert_eq!(sum, 1001, "nothing is lost");
}

#[tokio::test]
async fn databases_that_were_deleted_long_ago_are_forgotten() {
    static NOW_MS: AtomicU64 = AtomicU64::new(0);
    let clock = || NOW_MS.load(Ordering::SeqCst);
    let ledger = UsageLedger::open(&Arc::new(Store::memory()), 1, clock).await;
    let meters = DatabaseMeters::new("shop", NAMES.len(), 0, &NOTHING);
    for branch in 0..600 {
        NOW_MS.store(branch * WINDOW_MS, Ordering::SeqCst);
        let deleted = DatabaseMeters::new(&format!("shop.{branch}"), NAMES.len(), clock(), &NOTHING);
        request(&deleted, 1);
        ledger.take_leave(&deleted);
        let turn = ledger.turn([&meters].into_iter().cloned()).expect("there is something to write");
        ledger.take_turn(turn, std::slice::from_ref(&meters), None).await;
        let memory = ledger.memory.lock();
        assert!(memory.last.len() <= 185 && memory.seen_from_ms <= clock().saturating_sub(HOUR_MS));
    }
}

#[tokio::test]
async fn an_orderly_end_leaves_nothing_in_the_open_window() {
    let store = Arc::new(Store::memory());
    let now_ms = 10 * HOUR_MS + 30_500;
    let ledger = UsageLedger::open(&store, 1, || 10 * HOUR_MS + 30_500).await;
    let meters = DatabaseMeters::new("a", NAMES.len(), 10 * HOUR_MS, &NOTHING);
    request(&meters, 3);
    meters.close_window_early(now_ms);
    meters.close_window_early(now_ms);
    ledger.record(std::slice::from_ref(&meters)).await.unwrap();
    assert!(meters.is_settled(now_ms));
    let saved = meters.save(NAMES, now_ms);
    // When it is opened again, the ledger is known by its last hours, and those of this window are long past.
    let recorded = Recorded { last: None, seen_from_ms: 20 * HOUR_MS };
    let again = DatabaseMeters::restore("a", &saved, NAMES, 21 * HOUR_MS, &recorded).unwrap();
    request(&again, 4);
    again.close_window(22 * HOUR_MS);
    let found = ledger.windows(&again, minutes(0, 22 * HOUR_MS)).await.unwrap();
    assert_eq!(found.iter().map(|window| window.quantity(Meter::Requests)).collect::<Vec<_>>(), [3, 4]);
    assert_eq!((found[0].end_ms, found[1].start_ms), (10 * HOUR_MS + 31_000, 10 * HOUR_MS + 31_000));
}

#[test]
fn periods_have_an_end_and_a_bound() {
    for (from_ms, to_ms, step, problem) in [
        (5, 5, UsageStep::Hours, "must end after it begins"),
        (6, 5, UsageStep::Hours, "must end after it begins"),
        (1, 7 * DAY_MS + 2, UsageStep::Minutes, "by minutes at most 7 days"),
        (0, u64::MAX, UsageStep::Hours, "by hours at most 40 days"),
    ] {
        let found = Period::new(from_ms, to_ms, step).unwrap_err();
        assert!(found.contains(problem), "{found}");
    }
    assert!(Period::new(1, 7 * DAY_MS + 1, UsageStep::Minutes).is_ok());
}
