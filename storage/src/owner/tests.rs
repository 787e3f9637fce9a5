use std::cell::Cell;
use std::task::{Context, Waker};

use futures::executor::block_on;
use futures::future::maybe_done;

use super::*;
use crate::codec::CodecError;
use crate::log::Log;
use crate::log::sink::Objects;
use crate::log::testing::{Writer, identity};

thread_local! {
    static NOW_MS: Cell<u64> = const { Cell::new(1_700_000_000_000) };
}

fn now_ms() -> u64 {
    NOW_MS.get()
}

fn advance(ms: u64) {
    NOW_MS.set(NOW_MS.get() + ms);
}

fn name(number: u64) -> String {
    OwnerRun::Lone.record(number)
}

fn parse(name: &str) -> Option<u64> {
    number_in(&OwnerRun::Lone, name)
}

fn take(store: &Arc<Store>, writer: u64) -> (Arc<Ownership>, Predecessors) {
    block_on(Ownership::take(store, writer, now_ms)).unwrap()
}

fn open(store: &Arc<Store>, writer: u64) -> Result<Arc<Log>, StoreError> {
    let sink = Objects::take(Arc::clone(store), writer, now_ms)?;
    Log::over(Box::new(sink), writer, now_ms).map(|(log, _)| log)
}

#[test]
fn records_come_back() {
    let record = OwnerRecord { number: 7, writer: u64::MAX, since_ms: 8, program: "0.1.0".into(), node: None };
    let bytes = record.encode();
    assert_eq!(OwnerRecord::decode(&bytes), Ok(record));
    crate::codec::tests::for_each_damage(&bytes, |bytes| OwnerRecord::decode(bytes).is_err());
    let mut newer = bytes.clone();
    newer[8] = 3;
    assert!(matches!(OwnerRecord::decode(&newer), Err(CodecError::Version { version: 3, .. })));
    assert_eq!((parse(&name(7)), parse("owner/7"), parse("owners/000000000007")), (Some(7), None, None));
}

#[test]
fn the_last_to_take_a_store_owns_it() {
    let store = Arc::new(Store::memory());
    let (first, none) = take(&store, 11);
    assert_eq!((first.number(), none.records.len()), (1, 0));
    block_on(first.look()).unwrap();
    let (second, before) = take(&store, 12);
    assert_eq!(second.number(), 2);
    assert_eq!(before.alive().map(|record| record.writer).collect::<Vec<_>>(), [11]);
    assert!(!first.is_lost(), "it has not looked");
    assert!(matches!(block_on(first.look()), Err(StoreError::LogSealed)));
    assert!(first.is_lost());
    assert!(matches!(block_on(first.release()), Err(StoreError::LogSealed)));
    block_on(second.look()).unwrap();
    block_on(second.release()).unwrap();
    let (third, before) = take(&store, 13);
    assert_eq!(third.number(), 4);
    assert_eq!(before.alive().map(|record| record.writer).collect::<Vec<_>>(), [11]);
    assert!(before.has_ended(12) && !before.has_ended(11) && !before.has_ended(99));
}

/// Both have listed the records before either created one.
#[test]
fn of_two_that_start_together_one_ends() {
    let faulty = crate::store::FaultyStore::new(Arc::new(object_store::memory::InMemory::new()));
    faulty.interleave();
    let store = Arc::new(Store::over(faulty, "a://"));
    let take = |writer| Ownership::take(&store, writer, now_ms);
    let (one, other) = block_on(futures::future::join(take(11), take(12)));
    let (lost, won) = if one.is_err() { (one, other) } else { (other, one) };
    assert!(matches!(lost, Err(StoreError::Taken { number: 1 })), "{lost:?}");
    let (owner, _) = won.unwrap();
    block_on(owner.look()).unwrap();
}

/// A gateway that repeats a request whose answer it has lost answers for the second one.
#[test]
fn the_refusal_of_a_record_of_ones_own_is_no_takeover() {
    let faulty = crate::store::FaultyStore::new(Arc::new(object_store::memory::InMemory::new()));
    let store = Arc::new(Store::over(Arc::clone(&faulty) as _, "a://"));
    faulty.fail_put_after(0, crate::store::StoreFault::Repeated);
    let (owner, _) = take(&store, 11);
    block_on(owner.look()).unwrap();
    faulty.fail_put_after(0, crate::store::StoreFault::Repeated);
    block_on(owner.release()).unwrap();
    assert!(!owner.is_lost());
    assert!(take(&store, 12).1.has_ended(11));
}

/// The first one has taken the store, and its log has no object yet.
#[test]
fn a_process_that_has_written_nothing_is_sealed_by_its_record() {
    let store = Arc::new(Store::memory());
    let sink = Objects::take(Arc::clone(&store), 11, now_ms).unwrap();
    let second = open(&store, 12).unwrap();
    let first = Log::over(Box::new(sink), 11, now_ms);
    assert!(matches!(first, Err(StoreError::LogSealed)), "{first:?}");
    let writer = Writer::new(&second, "a");
    writer.write();
    second.flush().unwrap();
}

#[test]
fn an_overtaken_process_writes_no_further_object() {
    let store = Arc::new(Store::memory());
    let first = open(&store, 11).unwrap();
    let writer = Writer::new(&first, "a");
    writer.write();
    first.flush().unwrap();
    // Only the record: nothing is sealed yet.
    let (_second, _) = take(&store, 12);
    let objects = || block_on(store.list("log")).unwrap().len();
    let before = objects();
    advance(LOOK_EVERY_MS);
    for _ in 0..5 {
        writer.write();
        let _ = first.flush();
    }
    assert!(first.is_sealed());
    assert_eq!(objects(), before);
    assert!(matches!(first.finish(), Err(StoreError::LogSealed)));
}

#[test]
fn a_process_that_ends_in_order_leaves_no_seal() {
    let store = Arc::new(Store::memory());
    for writer in 11..15 {
        let log = open(&store, writer).unwrap();
        let of = Writer::new(&log, "a");
        of.write();
        log.flush().unwrap();
        log.settled(&identity("a"), 1);
        log.finish().unwrap();
    }
    assert_eq!(block_on(store.list("log")).unwrap(), []);
    assert_eq!(block_on(store.list("owner")).unwrap().len(), 8);
}

/// The store's clock, by which records are collected, is not ours to set: what is old is what another one follows.
#[test]
fn a_process_that_was_stopped_for_long_finds_that_its_record_is_gone() {
    let store = Arc::new(Store::memory());
    let first = open(&store, 11).unwrap();
    let writer = Writer::new(&first, "a");
    writer.write();
    first.flush().unwrap();
    let acknowledged = first.flushed();
    let _second = open(&store, 12).unwrap();
    let _third = open(&store, 13).unwrap();
    // As they are collected a day later, seals included.
    for object in [name(1), name(2), "log/000000000000000b/000000000003".to_owned()] {
        block_on(store.delete(&object)).unwrap();
    }
    advance(STALE_MS);
    writer.write();
    assert!(matches!(first.flush(), Err(StoreError::LogSealed)));
    assert_eq!(first.flushed(), acknowledged);
    assert!(block_on(store.size("log/000000000000000b/000000000003")).unwrap_err().is_missing(), "nothing was written");
}

#[test]
fn nothing_is_collected_early() {
    let store = Arc::new(Store::memory());
    let _first = open(&store, 11).unwrap();
    let second = open(&store, 12).unwrap();
    assert_eq!(second.collect_owners().unwrap(), 0);
    assert_eq!(block_on(store.list("owner")).unwrap().len(), 2);
    assert!(block_on(seal::delete_seal(&store, 12)).is_ok_and(|deleted| !deleted), "it is no seal");
    assert_eq!(block_on(store.list("log/000000000000000c")).unwrap().len(), 1);
}

/// Written once, never regenerated.
#[test]
fn records_keep_their_bytes() {
    let lone = OwnerRecord { number: 7, writer: 0x1122, since_ms: 8, program: "0.2.0".into(), node: None };
    let of_node = OwnerRecord { node: Some("node-1.a".into()), ..lone.clone() };
    for (record, bytes) in [(lone, LONE), (of_node, OF_NODE)] {
        let hex: String = record.encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, bytes);
        assert_eq!(OwnerRecord::decode(&record.encode()), Ok(record));
    }
}

const LONE: &str =
    "444d4f574e0a0a0a0100000007000000000000002211000000000000080000000000000005302e322e30ddeda7c5fcb7b0f7";
const OF_NODE: &str = "444d4f574e0a0a0a0200000007000000000000002211000000000000080000000000000005302e322e30086e6f64652d312e616189226046be4815";

#[test]
fn records_of_nodes_come_back() {
    let record = OwnerRecord::of(7, u64::MAX, 8, Some("a.b-1"));
    let bytes = record.encode();
    assert_eq!(OwnerRecord::decode(&bytes), Ok(record));
    crate::codec::tests::for_each_damage(&bytes, |bytes| OwnerRecord::decode(bytes).is_err());
    let bad = OwnerRecord::of(7, 1, 8, Some("A"));
    assert!(matches!(OwnerRecord::decode(&bad.encode()), Err(CodecError::Malformed(_))));
    let node = OwnerRun::node("a.b-1").unwrap();
    assert_eq!(node.record(7), "nodes/a.b-1/000000000007");
    for (name, parsed) in [
        ("nodes/a.b-1/000000000007", Some((node, 7))),
        ("owner/000000000007", Some((OwnerRun::Lone, 7))),
        ("nodes/000000000007", None),
        ("nodes/a.b-1/7", None),
        ("nodes/a.b-1/00000000000+", None),
        ("nodes/A/000000000007", None),
        ("nodes/a/b/000000000007", None),
        ("other/000000000007", None),
    ] {
        assert_eq!(OwnerRun::parse(name), parsed, "{name}");
    }
}

/// A store with these runs: `NAME: RECORD ...`, the name `owner` or that of a node. A record is a writer, `NODE/WRITER` for
/// an adoption, `-` for a release, or `.` for one that was collected. `log: WRITER ...`: these logs have entries, the others
/// have none.
fn store_of(runs: &str) -> Arc<Store> {
    let store = Arc::new(Store::memory());
    for line in runs.split(';') {
        let (name, records) = line.trim().split_once(": ").unwrap();
        for (number, record) in (1..).zip(records.split(' ')) {
            if name == "log" {
                let writer: u64 = record.parse().unwrap();
                block_on(store.put_new(&format!("{}/000000000001", seal::folder(writer)), b"entries".to_vec()))
                    .unwrap();
                continue;
            }
            let own = Some(name).filter(|name| *name != "owner");
            let run = own.map_or(OwnerRun::Lone, |name| OwnerRun::node(name).unwrap());
            let record = match (record, record.split_once('/')) {
                (".", _) => continue,
                ("-", _) => OwnerRecord::release(number, 0, own),
                (writer, None) => OwnerRecord::of(number, writer.parse().unwrap(), 0, own),
                (_, Some((node, writer))) => OwnerRecord::of(number, writer.parse().unwrap(), 0, Some(node)),
            };
            assert!(block_on(create(&store, &run, &record)).unwrap());
        }
    }
    store
}

#[test]
fn the_heir_of_a_writer_is_at_the_end_of_its_line() {
    for (runs, heirs) in [
        // Itself, and later processes of its node.
        ("a: 1", "1 a/1"),
        ("a: 1 2 3", "1 a/3, 2 a/3, 3 a/3"),
        ("a: . 2 3", "2 a/3"),
        // A release ends a line, whatever comes after it.
        ("a: 1 - 2; log: 1", "1 free, 2 a/2"),
        ("a: 1 -", "1 free"),
        // Adopters, and their heirs.
        ("a: 1 b/11; b: 11", "1 b/11, 11 b/11"),
        ("a: 1 2 b/11 3; b: 11 12", "1 b/12, 2 b/12, 3 a/3"),
        ("a: 1 b/11 2 c/21; b: 11 c/21; c: 21 22", "1 c/22, 11 c/22, 2 c/22"),
        ("a: 1 b/11 2; b: 11 a/2", "1 a/2, 11 a/2"),
        // The adopter has ended since: it has settled what it had adopted.
        ("a: 1 b/11; b: 11 -", "1 free, 11 free"),
        ("a: 1 b/11; b: 11 12 - 13", "1 free, 11 free, 13 b/13"),
        // It adopted late: the next process of its node has the log.
        ("a: 1 b/11; b: 11 12 -; log: 1", "1 error, 11 free"),
        ("a: 1 b/11; b: 11 - 12; log: 1", "1 b/12, 11 free"),
        ("a: 1 b/11; b: 11 c/21; c: 21 - 22; log: 1", "1 c/22, 11 free"),
        // No record is left.
        ("a: 5", "1 free"),
        ("a: 5; log: 1", "1 error"),
        // Adoptions by a writer without a record do not count.
        ("a: 1 b/11; b: 12; log: 1", "1 a/1"),
        ("a: 1 b/11 2; b: 12; log: 1", "1 a/2"),
        ("a: 1 b/11 c/21; c: 21", "1 c/21"),
        // Nor does the first one of a circle.
        ("a: 1 b/11; b: 11 a/1", "1 a/1, 11 a/1"),
        ("a: 1 b/11 2; b: 11 a/1 12", "1 a/2, 11 a/2, 12 b/12"),
        ("a: 1 b/11 c/21; b: 11 a/1; c: 21", "1 c/21, 11 c/21"),
        ("a: 1 b/11; b: 11 c/21; c: 21 a/1; d: 31", "1 a/1, 11 a/1, 21 a/1"),
        ("a: 1 b/11 d/31; b: 11 c/21; c: 21 a/1; d: 31", "1 d/31, 11 d/31, 21 d/31"),
        // A process that has ended before the circle was closed did not have the log.
        ("a: 1 b/11 2 - 3; b: 11 a/1; log: 1", "1 a/3, 11 free, 2 free"),
        ("a: 1 b/11 2 -; b: 11 a/1; log: 1", "1 error, 11 free, 2 free"),
        // Two circles through one adoption.
        ("a: 1 b/11; b: 11 a/1 c/21; c: 21 b/11", "1 a/1, 11 a/1, 21 a/1"),
        // Lone processes, whose release says little.
        ("owner: 1 2 a/11; a: 11", "1 a/11, 2 a/11"),
        ("owner: 1 - 2 - a/11; a: 11 12; log: 1", "1 a/12, 2 free"),
        ("owner: 1 - 2 a/11; a: 11 -", "1 free, 2 free"),
        ("owner: 1 - 2 a/11; a: 11 -; log: 2", "1 free, 2 error"),
        ("owner: 1 a/11 2 - b/21; a: 11 -; b: 21; log: 2", "1 free, 2 b/21"),
        ("owner: 1; a: 11; log: 1", "1 error"),
        ("owner: a/11; a: 11; log: 1", "1 a/11"),
        ("owner: a/11; a: 12; log: 1", "1 error"),
        // An adoption of a lone run by a writer without a record: the next node that starts adopts it.
        ("owner: 1 a/11 b/21; b: 21; log: 1", "1 b/21"),
    ] {
        let store = store_of(runs);
        let all = Heirs::new(Arc::clone(&store));
        for row in heirs.split(", ") {
            let (writer, heir) = row.split_once(' ').unwrap();
            let writer = writer.parse().unwrap();
            let show = |found: Result<Heir, StoreError>| match found {
                Ok(Heir::Writer { node, writer }) => format!("{node}/{writer}"),
                Ok(Heir::Free) => "free".to_owned(),
                Err(StoreError::NoHeir { .. }) => "error".to_owned(),
                Err(error) => panic!("{runs}: {error}"),
            };
            assert_eq!(show(block_on(heir_of(&store, writer))), heir, "{writer} of {runs}");
            assert_eq!(show(block_on(all.heir_of(writer))), heir, "{writer} of {runs}, again");
        }
    }
}

#[test]
fn a_lone_process_leaves_a_fleet_alone() {
    for (runs, owner) in [
        ("a: 1 -", None),
        ("a: 1 - 2", Some("a")),
        ("a: 1; b: 11 -", Some("a")),
        ("a: 1 b/11; b: 11 -", None),
        ("a: 1 b/11; b: 11", Some("b")),
        ("a: 1 b/11; b: 12", Some("a")),
        ("a: 1 b/11; b: 11 12 -; log: 1", Some("b")),
        ("a: . b/11", None),
        ("owner: 5 -; a: 1 -", None),
    ] {
        let store = store_of(runs);
        let records = || block_on(store.list(FOLDER)).unwrap().len();
        let before = records();
        match (block_on(Ownership::take(&store, 99, now_ms)), owner) {
            (Ok(_), None) => assert_eq!(records(), before + 1, "{runs}"),
            (Err(StoreError::OfFleet { node }), Some(owner)) => {
                assert_eq!((&*node, records()), (owner, before), "{runs}");
            }
            (taken, _) => panic!("{runs}: {taken:?}"),
        }
    }
}

/// Polls two futures to their ends, each time the one that `chance` picks.
fn in_any_order<A: Future, B: Future>(mut chance: fastrand::Rng, a: A, b: B) -> (A::Output, B::Output) {
    let (mut a, mut b) = (std::pin::pin!(maybe_done(a)), std::pin::pin!(maybe_done(b)));
    let mut context = Context::from_waker(Waker::noop());
    while a.as_mut().output_mut().is_none() || b.as_mut().output_mut().is_none() {
        let _ = if chance.bool() { a.as_mut().poll(&mut context) } else { b.as_mut().poll(&mut context) };
    }
    (a.take_output().unwrap(), b.take_output().unwrap())
}

/// A lone process and a node start at the same time, on a store that a fleet had before, or none: one of them finds the other.
#[test]
fn a_lone_process_and_a_node_do_not_miss_each_other() {
    let (mut refused, mut overtaken, mut taken) = (0, 0, 0);
    for seed in 0..600 {
        let faulty = crate::store::FaultyStore::new(Arc::new(object_store::memory::InMemory::new()));
        let store = Arc::new(Store::over(Arc::clone(&faulty) as _, "a://"));
        if seed % 2 == 0 {
            let (before, _) = block_on(Ownership::take_node(&store, "a", 1, now_ms)).unwrap();
            block_on(before.release()).unwrap();
        }
        faulty.interleave();
        let chance = fastrand::Rng::with_seed(seed);
        let both =
            in_any_order(chance, Ownership::take(&store, 11, now_ms), Ownership::take_node(&store, "a", 12, now_ms));
        match both {
            (Err(StoreError::OfFleet { .. }), Ok(_)) => refused += 1,
            (Err(StoreError::Taken { .. }), Ok(_)) => taken += 1,
            (Ok((lone, _)), Ok((node, _))) => {
                assert!(matches!(block_on(lone.look()), Err(StoreError::LogSealed)), "seed {seed}");
                let inherited = block_on(node.inherited()).unwrap();
                assert!(inherited.iter().any(|log| log.writer == 11), "seed {seed}: its log is not read");
                overtaken += 1;
            }
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    assert!(refused > 0 && overtaken > 0 && taken > 0, "{refused} {overtaken} {taken}");
}

/// Lists take several requests in a large store: a record may be in one although an older one of another run is not.
#[test]
fn an_adopter_that_a_list_lacks_is_looked_for() {
    let faulty = crate::store::FaultyStore::new(Arc::new(object_store::memory::InMemory::new()));
    let store = Arc::new(Store::over(Arc::clone(&faulty) as _, "a://"));
    let put =
        |run: &str, record: OwnerRecord| block_on(create(&store, &OwnerRun::node(run).unwrap(), &record)).unwrap();
    put("a", OwnerRecord::of(1, 1, 0, Some("a")));
    put("a", OwnerRecord::of(2, 11, 0, Some("b")));
    put("a", OwnerRecord::of(3, 2, 0, Some("a")));
    put("b", OwnerRecord::of(1, 10, 0, Some("b")));
    let mut known = Known::default();
    let line = |known: &mut Known| block_on(Runs::read(&store, known)).unwrap().line(1).unwrap();
    assert!(matches!(line(&mut known).end, End::Writer { writer: 2, .. }), "it has no record");
    assert_eq!(faulty.asked(crate::store::StoreRequest::List), 3, "one more");
    assert!(matches!(line(&mut known).end, End::Writer { writer: 2, .. }));
    assert_eq!(faulty.asked(crate::store::StoreRequest::List), 5, "and never again");
    put("b", OwnerRecord::of(2, 11, 0, Some("b")));
    assert!(matches!(line(&mut Known::default()).end, End::Writer { writer: 11, .. }));
}

/// Many databases ask at the same time when a node has died.
#[test]
fn questions_that_come_together_share_a_list() {
    let faulty = crate::store::FaultyStore::new(Arc::new(object_store::memory::InMemory::new()));
    let store = Arc::new(Store::over(Arc::clone(&faulty) as _, "a://"));
    let (node, _) = block_on(Ownership::take_node(&store, "a", 1, now_ms)).unwrap();
    let lists = || faulty.asked(crate::store::StoreRequest::List);
    let own = Heir::Writer { node: "a".into(), writer: 1 };
    let before = lists();
    assert_eq!(block_on(node.heirs().heir_of(1)).unwrap(), own);
    assert_eq!(lists(), before, "its own answer does not change");
    faulty.interleave();
    let other = Heirs::new(Arc::clone(&store));
    let asked = block_on(futures::future::join_all((0..100).map(|_| other.heir_of(1))));
    assert!(asked.into_iter().all(|heir| heir.unwrap() == own));
    assert!(lists() - before <= 4, "{}", lists() - before);
    let before = lists();
    assert_eq!(block_on(other.heir_of(1)).unwrap(), own);
    assert_eq!(lists(), before + 2, "it may have died meanwhile");
}
