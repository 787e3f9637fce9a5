use std::collections::{BTreeMap, BTreeSet};

use dormouse_storage::ledger::{LedgerWindow, LedgerWriter};
use dormouse_storage::store::{FaultyStore, StoreFault, StoreRequest};
use object_store::memory::InMemory;
use serde_json::Value;

use super::*;
use crate::metering::{Batch, DatabaseMeters, Recorded, WINDOW_MS};
use crate::outbound::tests::Receiver;
use crate::outbound::{HeaderSource, Reach, parse_header};

/// 5 December 2026, 13:00 UTC.
const NOW_MS: u64 = 1_796_475_600_000;
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
const TAKEN: &str = "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n";

fn answer(status: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n")
}

fn stores() -> (Arc<FaultyStore>, Arc<Store>) {
    let faults = FaultyStore::new(Arc::new(InMemory::new()));
    let store = Arc::new(Store::over(faults.clone(), "memory://"));
    (faults, store)
}

async fn pusher(store: &Arc<Store>, receiver: &Receiver, clock: fn() -> u64) -> Arc<UsagePusher> {
    let headers = HeaderSource { header: Some(parse_header("Authorization: Bearer x").unwrap()), file: None };
    let target = PushTarget { url: receiver.url(Reach::Private), every: Duration::ZERO, headers };
    UsagePusher::new(target, Arc::clone(store), UsageLedger::open(store, 1, clock).await, clock)
}

/// The events that have arrived, with the number of times that each has, by their ids.
fn arrived(receiver: &mut Receiver) -> BTreeMap<String, (Value, usize)> {
    let mut found = BTreeMap::<String, (Value, usize)>::new();
    while let Ok(request) = receiver.requests.try_recv() {
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let head = head.to_lowercase();
        assert!(head.contains("content-type: application/cloudevents-batch+json"), "{head}");
        assert!(head.contains("authorization: bearer x"), "{head}");
        for event in serde_json::from_str::<Vec<Value>>(body).unwrap() {
            let id = event["id"].as_str().unwrap().to_owned();
            let (known, times) = found.entry(id).or_insert((event.clone(), 0));
            assert_eq!(*known, event, "an id has one event");
            *times += 1;
        }
    }
    found
}

/// A minute in which a database had one request.
fn minute(database: &str, start_ms: u64) -> LedgerWindow {
    let start_s = start_ms / 1000;
    LedgerWindow { database: database.into(), era: 0, start_s, end_s: start_s + 60, quantities: vec![(0, 1)] }
}

fn id(database: &str, start_ms: u64) -> String {
    format!("{database}:requests:{}", start_ms / 1000)
}

#[tokio::test]
async fn the_ledger_is_pushed_from_the_beginning_of_the_month() {
    let (_, store) = stores();
    let mut receiver = Receiver::plain(TAKEN).await;
    let mut writer = LedgerWriter::new(&store, 7);
    let month_ms = month_of(NOW_MS);
    let moments = [month_ms - DAY_MS, month_ms - WINDOW_MS, month_ms, NOW_MS - WINDOW_MS];
    for start_ms in moments {
        writer.write(&[minute("a", start_ms), minute("b", start_ms)], NOW_MS / 1000).await.unwrap();
    }
    let pusher = pusher(&store, &receiver, || NOW_MS).await;
    let mut progress = Progress::default();
    pusher.push(&mut progress, true).await.unwrap();
    let found = arrived(&mut receiver);
    let expected: BTreeSet<String> =
        moments[2..].iter().flat_map(|&start_ms| [id("a", start_ms), id("b", start_ms)]).collect();
    assert_eq!(found.keys().cloned().collect::<BTreeSet<_>>(), expected);
    let event = &found[&id("a", month_ms)].0;
    assert_eq!((&event["type"], &event["data"]["quantity"]), (&"dormouse.usage".into(), &"1".into()));
    assert_eq!(pusher.snapshot(), PushSnapshot { events: 4, ..PushSnapshot::default() });
    // One that was overtaken has left something of last month, which a whole look finds; another process goes on.
    writer.write(&[minute("late", month_ms - DAY_MS)], NOW_MS / 1000).await.unwrap();
    pusher.push(&mut progress, false).await.unwrap();
    assert!(arrived(&mut receiver).is_empty());
    let next = self::pusher(&store, &receiver, || NOW_MS + DAY_MS).await;
    next.push(&mut Progress::default(), true).await.unwrap();
    assert_eq!(arrived(&mut receiver).into_keys().collect::<Vec<_>>(), [id("late", month_ms - DAY_MS)]);
}

/// Requests over more than an hour, whose objects are merged while they are pushed. The process dies after any change of the
/// store, and the receiver refuses now and then.
#[tokio::test]
async fn a_crash_leaves_nothing_out() {
    static CLOCK_MS: AtomicU64 = AtomicU64::new(0);
    let clock = || CLOCK_MS.load(Ordering::SeqCst);
    for crash in 0..24 {
        CLOCK_MS.store(NOW_MS + 57 * WINDOW_MS, Ordering::SeqCst);
        let (faults, store) = stores();
        let mut receiver = Receiver::plain(TAKEN).await;
        let mut pusher = pusher(&store, &receiver, clock).await;
        let mut progress = Progress::default();
        let mut meters = DatabaseMeters::new("a", 1, clock(), &Recorded::default());
        faults.crash_after(crash);
        let mut is_whole = true;
        for step in 0..8 {
            let mut batch = Batch::new();
            batch.request(0, 1, 1);
            meters.writer().commit(&mut batch, 0);
            CLOCK_MS.fetch_add(WINDOW_MS, Ordering::SeqCst);
            meters.close_window(clock());
            receiver.answers(if step % 3 == 1 { "503 Busy" } else { "200 OK" });
            if let Some(turn) = pusher.ledger.turn([meters.clone()].into_iter()) {
                pusher.ledger.take_turn(turn, std::slice::from_ref(&meters), Some(DAY_MS)).await;
            }
            is_whole &= pusher.push(&mut progress, is_whole).await.is_err();
            if faults.is_dead() {
                faults.revive();
                pusher = self::pusher(&store, &receiver, clock).await;
                (progress, is_whole) = (Progress::default(), true);
                meters = DatabaseMeters::new("a", 1, clock(), &pusher.ledger.recorded("a"));
            }
        }
        faults.revive();
        receiver.answers("200 OK");
        pusher.push(&mut progress, true).await.unwrap();
        let found = arrived(&mut receiver);
        let mut in_ledger = BTreeSet::new();
        for name in ledger::names(&store, None).await.unwrap() {
            let windows = ledger::read_windows(&store, &name).await.unwrap();
            in_ledger.extend(windows.iter().map(|window| id("a", window.start_s * 1000)));
        }
        let pushed: BTreeSet<String> = found.keys().filter(|id| id.contains(":requests:")).cloned().collect();
        assert_eq!(pushed, in_ledger, "after {crash} changes");
        assert_eq!(pusher.snapshot().objects_waiting, 0);
        pusher.push(&mut progress, true).await.unwrap();
        assert!(arrived(&mut receiver).is_empty(), "after {crash} changes");
    }
}

#[tokio::test]
async fn what_was_pushed_and_merged_is_not_pushed_again() {
    static CLOCK_MS: AtomicU64 = AtomicU64::new(NOW_MS);
    let clock = || CLOCK_MS.load(Ordering::SeqCst);
    let (_, store) = stores();
    let mut receiver = Receiver::plain(TAKEN).await;
    let pusher = pusher(&store, &receiver, clock).await;
    let mut progress = Progress::default();
    let meters = DatabaseMeters::new("a", 1, clock(), &Recorded::default());
    let mut pushed = BTreeSet::new();
    for step in 0..70 {
        let mut batch = Batch::new();
        batch.request(0, 1, 1);
        meters.writer().commit(&mut batch, 0);
        CLOCK_MS.fetch_add(WINDOW_MS, Ordering::SeqCst);
        meters.close_window(clock());
        let turn = pusher.ledger.turn([meters.clone()].into_iter()).unwrap();
        pusher.ledger.take_turn(turn, std::slice::from_ref(&meters), None).await;
        pusher.push(&mut progress, step % 20 == 0).await.unwrap();
        for (id, (_, times)) in arrived(&mut receiver) {
            assert!(times == 1 && pushed.insert(id.clone()), "{id} comes again");
        }
    }
    assert!(store.list("ledger").await.unwrap().len() < 20, "an hour was merged");
    assert_eq!(pushed.iter().filter(|id| id.contains(":requests:")).count(), 70);
    let next = self::pusher(&store, &receiver, clock).await;
    next.push(&mut Progress::default(), true).await.unwrap();
    assert!(arrived(&mut receiver).is_empty(), "neither by the next process");
}

#[tokio::test]
async fn what_waits_is_kept_and_counted() {
    static CLOCK_MS: AtomicU64 = AtomicU64::new(NOW_MS);
    let clock = || CLOCK_MS.load(Ordering::SeqCst);
    let (faults, store) = stores();
    let mut receiver = Receiver::plain(&answer("401 Unauthorized")).await;
    let mut writer = LedgerWriter::new(&store, 7);
    for start_ms in [NOW_MS - 3 * HOUR_MS, NOW_MS - 2 * HOUR_MS, NOW_MS - HOUR_MS] {
        writer.write(&[minute("a", start_ms)], start_ms / 1000 + 60).await.unwrap();
    }
    let pusher = pusher(&store, &receiver, clock).await;
    let mut progress = Progress::default();
    let meters = DatabaseMeters::new("b", 1, clock(), &Recorded::default());
    // Before the first look nothing is known to be pushed.
    for minutes in [1, 80] {
        let mut batch = Batch::new();
        batch.request(0, 1, 1);
        meters.writer().commit(&mut batch, 0);
        CLOCK_MS.fetch_add(minutes * WINDOW_MS, Ordering::SeqCst);
        meters.close_window(clock());
        let turn = pusher.ledger.turn([meters.clone()].into_iter()).unwrap();
        pusher.ledger.take_turn(turn, std::slice::from_ref(&meters), Some(HOUR_MS)).await;
        let refused = pusher.push(&mut progress, true).await.unwrap_err();
        assert_eq!(refused.to_string(), "the receiver refuses usage with status 401 (Unauthorized)");
    }
    assert!(!arrived(&mut receiver).is_empty(), "it was asked");
    let waiting = pusher.snapshot();
    assert_eq!((waiting.objects_waiting, waiting.seconds_behind), (5, 3 * 3600 + 80 * 60));
    receiver.answers("204 No Content");
    // A damaged object keeps none of the others waiting.
    let damaged = store.list("ledger").await.unwrap().remove(1).name;
    faults.flip(&damaged, 30);
    let error = pusher.push(&mut progress, true).await.unwrap_err();
    assert!(error.to_string().contains(&damaged), "{error}");
    assert_eq!(pusher.snapshot().objects_waiting, 1);
    faults.mend(&damaged);
    pusher.push(&mut progress, false).await.unwrap();
    let found = arrived(&mut receiver);
    let requests = found.iter().filter(|(id, _)| id.contains(":requests:"));
    assert!(requests.clone().all(|(_, (_, times))| *times == 1) && requests.count() == 5, "{found:?}");
    // Now the oldest hours may go.
    let mut batch = Batch::new();
    batch.request(0, 1, 1);
    meters.writer().commit(&mut batch, 0);
    CLOCK_MS.fetch_add(HOUR_MS, Ordering::SeqCst);
    meters.close_window(clock());
    let turn = pusher.ledger.turn([meters.clone()].into_iter()).unwrap();
    pusher.ledger.take_turn(turn, std::slice::from_ref(&meters), Some(HOUR_MS)).await;
    assert!(ledger::hours(&store).await.unwrap()[0] > NOW_MS / HOUR_MS - 2);
}

#[tokio::test]
async fn batches_become_as_small_as_the_receiver_wants_them() {
    let (_, store) = stores();
    let mut receiver = Receiver::plain(&answer("413 Content Too Large")).await;
    let mut writer = LedgerWriter::new(&store, 7);
    let windows: Vec<LedgerWindow> = (0..5).map(|number| minute(&format!("d{number}"), NOW_MS)).collect();
    writer.write(&windows, NOW_MS / 1000).await.unwrap();
    let pusher = pusher(&store, &receiver, || NOW_MS).await;
    let mut progress = Progress::default();
    let error = pusher.push(&mut progress, true).await.unwrap_err();
    assert!(error.to_string().contains("status 413"), "{error}");
    assert_eq!(pusher.batch_max.load(Ordering::SeqCst), 1);
    arrived(&mut receiver);
    receiver.answers("200 OK");
    pusher.push(&mut progress, false).await.unwrap();
    let requests = std::iter::from_fn(|| receiver.requests.try_recv().ok()).count();
    assert_eq!((requests, pusher.snapshot().events), (5, 5));
}

#[tokio::test]
async fn a_notice_is_pushed_once() {
    let (faults, store) = stores();
    let mut receiver = Receiver::plain(&answer("500 Broken")).await;
    let pusher = pusher(&store, &receiver, || NOW_MS).await;
    let mut progress = Progress::default();
    pusher.push(&mut progress, true).await.unwrap();
    let tell = |pusher: &UsagePusher| pusher.tell("a:spending_limit:1", r#"{"id":"a:spending_limit:1"}"#.to_owned());
    tell(&pusher);
    assert!(pusher.push(&mut progress, false).await.is_err());
    // The next process has it from the record.
    let next = self::pusher(&store, &receiver, || NOW_MS).await;
    receiver.answers("200 OK");
    arrived(&mut receiver);
    let mut progress = Progress::default();
    faults.fail(StoreRequest::Put, 0, 1, StoreFault::Full);
    next.push(&mut progress, true).await.unwrap_err();
    next.push(&mut progress, true).await.unwrap();
    assert_eq!(arrived(&mut receiver)["a:spending_limit:1"].1, 1);
    tell(&next);
    next.push(&mut progress, false).await.unwrap();
    assert!(arrived(&mut receiver).is_empty());
    let last = self::pusher(&store, &receiver, || NOW_MS).await;
    tell(&last);
    last.push(&mut Progress::default(), true).await.unwrap();
    assert!(arrived(&mut receiver).is_empty());
}
