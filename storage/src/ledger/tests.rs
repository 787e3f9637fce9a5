use object_store::memory::InMemory;

use super::*;
use crate::store::{FaultyStore, StoreFault, StoreRequest};

fn window(database: &str, start_s: u64, requests: u128) -> LedgerWindow {
    LedgerWindow { database: database.into(), era: 0, start_s, end_s: start_s + 60, quantities: vec![(0, requests)] }
}

async fn all(store: &Store, hour: u64) -> Vec<LedgerWindow> {
    read_hour(store, hour, |_| true).await.unwrap()
}

#[tokio::test]
async fn windows_are_found_in_the_hour_of_their_end() {
    let store = Arc::new(Store::memory());
    let mut writer = LedgerWriter::new(&store, 1);
    let windows = [window("b", HOUR - 60, 1), window("a", HOUR - 60, 2), window("a", HOUR, 3)];
    writer.write(&windows, 7).await.unwrap();
    assert_eq!(hours(&store).await.unwrap(), [0, 1]);
    assert_eq!(all(&store, 0).await, [windows[1].clone(), windows[0].clone()]);
    assert_eq!(read_hour(&store, 1, |name| name == "b").await.unwrap(), []);
    assert_eq!(all(&store, 1).await, [windows[2].clone()]);
    assert_eq!(all(&store, 2).await, []);
    assert_eq!(writer.forget_before(1).await.unwrap(), 1);
    assert_eq!((all(&store, 0).await.len(), all(&store, 1).await.len()), (0, 1));
}

#[tokio::test]
async fn a_window_that_is_written_twice_counts_once() {
    let store = Arc::new(Store::memory());
    let (mut one, mut other) = (LedgerWriter::new(&store, 1), LedgerWriter::new(&store, 1));
    // The same name is taken.
    one.write(&[window("a", 0, 1)], 60).await.unwrap();
    other.write(&[window("a", 0, 1), window("b", 0, 1)], 60).await.unwrap();
    assert_eq!(store.list(FOLDER).await.unwrap().len(), 2);
    assert_eq!(all(&store, 0).await, [window("a", 0, 1), window("b", 0, 1)]);
}

/// A crash after any change of the store, while an hour is written and merged, neither loses nor doubles a window that
/// was acknowledged.
#[tokio::test]
async fn merges_are_exact_after_any_crash() {
    for crash in 0..12 {
        let faults = FaultyStore::new(Arc::new(InMemory::new()));
        let store = Arc::new(Store::over(faults.clone(), "memory://"));
        let mut writer = LedgerWriter::new(&store, 1);
        faults.crash_after(crash);
        let mut acknowledged = 0;
        for minute in 0..5 {
            match writer.write(&[window("a", minute * 60, 1), window("b", minute * 60, 1)], minute * 60).await {
                Ok(()) => acknowledged = minute + 1,
                Err(_) => break,
            }
        }
        let merged = writer.merge(0, 300).await;
        faults.revive();
        let mut found = all(&store, 0).await;
        found.retain(|window| &*window.database == "a");
        let expected: Vec<LedgerWindow> = (0..acknowledged).map(|minute| window("a", minute * 60, 1)).collect();
        assert_eq!(found[..expected.len()], expected, "after {crash} changes");
        assert!(found.len() <= expected.len() + 1, "after {crash} changes: {found:?}");
        let mut next = LedgerWriter::new(&store, 2);
        next.merge(0, 400).await.unwrap();
        let mut again = all(&store, 0).await;
        again.retain(|window| &*window.database == "a");
        assert_eq!(again, found, "after {crash} changes");
        assert!(store.list(FOLDER).await.unwrap().len() <= 1);
        assert!(crash < 11 || merged.is_ok(), "the last crash comes after the end");
    }
}

#[tokio::test]
async fn a_damaged_object_is_reported_and_kept() {
    let faults = FaultyStore::new(Arc::new(InMemory::new()));
    let store = Arc::new(Store::over(faults.clone(), "memory://"));
    let mut writer = LedgerWriter::new(&store, 1);
    writer.write(&[window("a", 0, 1)], 1).await.unwrap();
    writer.write(&[window("a", 60, 1)], 2).await.unwrap();
    let name = store.list(FOLDER).await.unwrap().remove(0).name;
    faults.flip(&name, 20);
    assert!(matches!(read_hour(&store, 0, |_| true).await, Err(StoreError::Corrupt { .. })));
    assert!(writer.merge(0, 3).await.is_err());
    assert_eq!(store.list(FOLDER).await.unwrap().len(), 2);
    faults.fail(StoreRequest::Put, 0, 1, StoreFault::Lost);
    assert!(writer.write(&[window("b", 0, 1)], 4).await.is_err());
}
