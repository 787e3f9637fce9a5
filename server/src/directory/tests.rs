use std::sync::atomic::AtomicBool;

use dormouse_shard::lane::Lane;
use dormouse_storage::store::{FaultyStore, Store, StoreFault, StoreRequest};
use futures::future::join_all;
use tokio::runtime::{Builder, Runtime};

use super::*;

/// Nodes over one store, each with a directory of its own.
struct Fleet {
    runtime: Runtime,
    faults: Arc<FaultyStore>,
}

impl Fleet {
    fn new() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Self { runtime, faults: FaultyStore::memory() }
    }

    fn node(&self, writer: u64, writers: DirectoryWriters) -> Arc<DatabaseDirectory> {
        let runtime = self.runtime.handle();
        let engine = Engine {
            store: Arc::new(Store::over(Arc::clone(&self.faults) as _, "memory://")),
            lane: Lane::on(runtime),
            loader: Lane::on(runtime),
            patient: Lane::on(runtime),
            background: runtime.clone(),
            clock: || 1,
            writer,
            log: None,
            recovered: Arc::default(),
            give_back: || {},
            health: Arc::default(),
            claims: None,
        };
        self.runtime.block_on(DatabaseDirectory::open(&engine, writers)).unwrap()
    }

    /// Two nodes of a fleet.
    fn two() -> (Self, Arc<DatabaseDirectory>, Arc<DatabaseDirectory>) {
        let fleet = Self::new();
        let (a, b) = (fleet.node(1, DirectoryWriters::Shared), fleet.node(2, DirectoryWriters::Shared));
        (fleet, a, b)
    }

    fn requests(&self) -> usize {
        let kinds = [StoreRequest::Put, StoreRequest::Get, StoreRequest::List, StoreRequest::Delete];
        kinds.iter().map(|kind| self.faults.asked(*kind)).sum()
    }
}

async fn create(of: &DatabaseDirectory, name: &'static str) -> Result<(), ChangeRefusal> {
    let put = move |before: Option<DatabaseRecord>| match before {
        Some(_) => Err(ChangeRefusal::Conflict("exists".to_owned())),
        None => Ok((Some(DatabaseRecord::new(name, 1)), ())),
    };
    of.change(name, Vec::new(), put).await
}

/// Adds one to a number in the record, which must exist.
async fn count(of: &DatabaseDirectory, name: &str) -> Result<u32, ChangeRefusal> {
    let add = |before: Option<DatabaseRecord>| {
        let mut record = before.ok_or_else(|| ChangeRefusal::Unknown("unknown".to_owned()))?;
        record.next_token += 1;
        let next = record.next_token;
        Ok((Some(record), next))
    };
    of.change(name, Vec::new(), add).await
}

async fn remove(of: &DatabaseDirectory, name: &str) {
    of.change(name, Vec::new(), |_| Ok((None, ()))).await.unwrap();
}

#[test]
fn a_name_is_given_once() {
    for _ in 0..50 {
        let (fleet, a, b) = Fleet::two();
        let made = fleet.runtime.block_on(async { tokio::join!(create(&a, "shop"), create(&b, "shop")) });
        let exists = Err(ChangeRefusal::Conflict("exists".to_owned()));
        assert!(made == (Ok(()), exists.clone()) || made == (exists, Ok(())), "{made:?}");
        assert!(a.find("shop").is_some() && b.find("shop").is_some());
    }
}

#[test]
fn no_change_of_one_record_is_lost() {
    let (fleet, a, b) = Fleet::two();
    fleet.runtime.block_on(async {
        create(&a, "shop").await.unwrap();
        let counts = join_all((0..200).map(|at| count(if at % 2 == 0 { &a } else { &b }, "shop"))).await;
        let mut counts: Vec<u32> = counts.into_iter().map(Result::unwrap).collect();
        counts.sort_unstable();
        assert_eq!(counts, (2..202).collect::<Vec<u32>>());
    });
}

#[test]
fn a_database_of_another_node_is_found() {
    let (fleet, a, b) = Fleet::two();
    fleet.runtime.block_on(async {
        let mut own = a.own_steps();
        create(&a, "shop").await.unwrap();
        own.changed().await.unwrap();
        assert!(b.find("shop").is_none());
        b.hear(*own.borrow());
        assert_eq!(b.foreign().await.into_iter().collect::<Vec<_>>(), ["shop".into()]);
        assert!(b.find("shop").is_some());
        let asked = fleet.requests();
        b.hear(1);
        b.hear(0);
        assert_eq!(fleet.requests(), asked);
        create(&a, "blog").await.unwrap();
        b.refresh().await;
        assert!(b.find("blog").is_some());
        // Its own changes are no news for a node.
        let news = tokio::select! { biased; names = a.foreign() => Some(names), () = std::future::ready(()) => None };
        assert_eq!(news, None);
    });
}

#[test]
fn refusals_and_confirmations_rest_on_the_newest_records() {
    let (fleet, a, b) = Fleet::two();
    fleet.runtime.block_on(async {
        create(&a, "shop").await.unwrap();
        // It has not heard of the database.
        assert_eq!(count(&b, "shop").await, Ok(2));
        remove(&b, "shop").await;
        assert_eq!(create(&a, "shop").await, Ok(()));
        remove(&b, "shop").await;
        let confirm = |record: Option<DatabaseRecord>| {
            let is_there = record.is_some();
            Ok((record, is_there))
        };
        assert_eq!(a.change("shop", Vec::new(), confirm).await, Ok(false));
    });
}

#[test]
fn the_directory_begins_once() {
    let (fleet, a, b) = Fleet::two();
    let founding =
        |created_ms| vec![DatabaseRecord::new("default", created_ms), DatabaseRecord::new("shop", created_ms)];
    fleet.runtime.block_on(async {
        let begun = tokio::join!(a.begin(founding(1)), b.begin(founding(2)));
        assert_eq!(begun, (Ok(()), Ok(())));
        assert_eq!((a.number(), b.number()), (1, 1));
        assert!(a.find("shop").is_some() && a.find("shop") == b.find("shop"));
        a.begin(founding(3)).await.unwrap();
        assert_eq!(a.number(), 1);
    });
    let alone = Fleet::new();
    let empty = alone.node(1, DirectoryWriters::Shared);
    alone.runtime.block_on(empty.begin(Vec::new())).unwrap();
    assert!(empty.has_begun());
}

#[test]
fn a_failed_change_that_was_made_is_news() {
    let (fleet, a, b) = Fleet::two();
    fleet.runtime.block_on(async {
        fleet.faults.fail(StoreRequest::Put, 0, 1, StoreFault::Unanswered);
        assert!(matches!(create(&a, "shop").await, Err(ChangeRefusal::Store(_))));
        create(&a, "blog").await.unwrap();
        assert_eq!(a.foreign().await.into_iter().collect::<Vec<_>>(), ["shop".into()]);
        // And one that was not is dropped, if another node has its number.
        fleet.faults.fail(StoreRequest::Put, 0, 1, StoreFault::Lost);
        assert!(matches!(create(&a, "never").await, Err(ChangeRefusal::Store(_))));
        create(&b, "other").await.unwrap();
        create(&a, "last").await.unwrap();
        b.refresh().await;
        for of in [&a, &b] {
            let names: Vec<Box<str>> = of.known().after("", "").map(|record| record.name).collect();
            assert_eq!(names, ["blog".into(), "last".into(), "other".into(), "shop".into()]);
        }
    });
}

#[test]
fn a_node_that_was_away_finds_what_has_gone() {
    let (fleet, a, b) = Fleet::two();
    fleet.runtime.block_on(async {
        create(&a, "gone").await.unwrap();
        create(&a, "shop").await.unwrap();
        b.refresh().await;
        b.foreign().await;
        remove(&a, "gone").await;
        for _ in 0..600 {
            count(&a, "shop").await.unwrap();
        }
        assert!(!fleet_has_step(&fleet, 4).await);
        b.refresh().await;
        assert_eq!(b.foreign().await.into_iter().collect::<Vec<_>>(), ["gone".into(), "shop".into()]);
        assert!(b.find("gone").is_none() && b.find("shop") == a.find("shop"));
        assert_eq!(b.number(), a.number());
    });
}

async fn fleet_has_step(fleet: &Fleet, number: u64) -> bool {
    let store = Store::over(Arc::clone(fleet.faults.inner()), "memory://");
    store.get(&dormouse_storage::directory::step_name(number)).await.is_ok()
}

#[test]
fn looks_are_shared() {
    let (fleet, a, b) = Fleet::two();
    fleet.runtime.block_on(async {
        create(&a, "shop").await.unwrap();
        let before = fleet.faults.asked(StoreRequest::Get);
        join_all((0..500).map(|_| b.refresh())).await;
        let asked = fleet.faults.asked(StoreRequest::Get) - before;
        assert!((1..=8).contains(&asked), "{asked}");
        assert!(b.find("shop").is_some());
    });
}

#[test]
fn what_was_heard_is_read_although_the_store_fails_once() {
    let (fleet, a, b) = Fleet::two();
    fleet.runtime.block_on(async {
        create(&a, "shop").await.unwrap();
        fleet.faults.fail(StoreRequest::Get, 0, 1, StoreFault::Lost);
        b.hear(1);
        b.foreign().await;
        assert!(b.find("shop").is_some());
    });
}

#[test]
fn a_process_alone_makes_no_other_requests() {
    let fleet = Fleet::new();
    let of = fleet.node(1, DirectoryWriters::Sole);
    fleet.runtime.block_on(async {
        create(&of, "shop").await.unwrap();
        let asked = fleet.requests();
        of.hear(99);
        of.refresh().await;
        assert_eq!(create(&of, "shop").await, Err(ChangeRefusal::Conflict("exists".to_owned())));
        let ran = Arc::new(AtomicBool::new(false));
        let note = Arc::clone(&ran);
        let confirm = move |record| {
            assert!(!note.swap(true, Ordering::SeqCst), "decided twice");
            Ok((record, ()))
        };
        of.change("shop", Vec::new(), confirm).await.unwrap();
        assert!(ran.load(Ordering::SeqCst));
        assert_eq!(fleet.requests(), asked);
        count(&of, "shop").await.unwrap();
        assert_eq!(fleet.requests(), asked + 1);
    });
}
