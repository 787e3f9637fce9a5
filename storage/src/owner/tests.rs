use std::cell::Cell;

use futures::executor::block_on;

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
