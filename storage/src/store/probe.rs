//! A check that a store creates an object only if it is absent, on which all fencing rests.
//!
//! 1. At each start the object `create-only` is created if it is missing, and creating it once more must be refused. A
//!    refusal counts whichever attempt it comes from, so a bad network cannot change the answer.
//! 2. Some servers look first and write later: they refuse one request after another, and let several win that come at
//!    the same time. So [`CONTENDERS`] requests create one fresh object, [`ROUNDS`] times, and each time at most one of
//!    them may win, and the object must hold what that one wrote. The last rounds send large objects, whose requests
//!    overlap for longer: a server that writes small ones quickly is found out by them.
//! 3. A store that has passed the test is not tested again: the object `create-only-raced` remembers it, with a number
//!    that stands for the URL and the endpoint. A copy of the objects at another address is tested again.
//!
//! The first start costs about 200 requests and 18 MiB in 10 round trips, each later one two requests in one round trip.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, path::Path};

use super::{
    Store, StoreError,
    requests::{ONCE, Requests},
};

const ONCE_TEXT: &str = "Dormouse creates this object to see that the store refuses to create it twice.\n";

const RACED: &str = "create-only-raced";
const ROUNDS: usize = SMALL_ROUNDS + LARGE_ROUNDS;
/// Rounds of small objects, some of them at the same time.
const SMALL_ROUNDS: usize = 8;
const SMALL_ROUNDS_TOGETHER: usize = 4;
const SMALL_BYTES: usize = 16 << 10;
/// Rounds of large objects, one after the other.
const LARGE_ROUNDS: usize = 4;
const LARGE_BYTES: usize = 256 << 10;
/// Requests of a round.
const CONTENDERS: usize = 16;
/// Objects that a race has left are collected after this time: no race takes that long.
const LEFT_AFTER_MS: i64 = 24 * 3_600_000;

/// A store's behaviour when requests create an object that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Creates {
    /// One wins, and the others are refused.
    OnlyNew,
    /// An existing object is overwritten.
    Overwrites,
    /// This many simultaneous requests were told that they had created the object.
    SeveralWin(usize),
    /// One request was told that it had created the object, and the object holds something else.
    WinnerLoses,
}

impl Creates {
    /// Describes the problem of a store that does so, if it is one.
    pub fn problem(self) -> Option<String> {
        let what = match self {
            Creates::OnlyNew => return None,
            Creates::Overwrites => {
                "it overwrites objects that are there, whatever is asked of it (If-None-Match: *)".to_owned()
            }
            Creates::SeveralWin(winners) => format!(
                "of {CONTENDERS} requests that created one object at the same time (If-None-Match: *) the store reported \
                 success to {winners}, and at most one may succeed"
            ),
            Creates::WinnerLoses => {
                "of requests that created one object at the same time (If-None-Match: *) the store \
                 reported success to one and kept the content of another"
                    .to_owned()
            }
        };
        Some(format!("{what}, so two writers could destroy each other's data; see docs/stores.md"))
    }
}

/// Asks the store. `address` stands for the URL and the endpoint; `fresh` is a number that no other process has.
///
/// # Errors
/// When the store cannot be asked.
pub(super) async fn look(store: &Store, address: u64, fresh: u64) -> Result<Creates, StoreError> {
    let record =
        format!("{CONTENDERS} concurrent creates of one object, {ROUNDS} times: one won each time\n{address:016x}\n");
    let (exclusive, raced) = futures::join!(store.creates_only_what_is_new(ONCE, ONCE_TEXT), store.get(RACED));
    if !exclusive? {
        return Ok(Creates::Overwrites);
    }
    let remembered = match raced {
        Ok(found) if found == record => return Ok(Creates::OnlyNew),
        Ok(_) => true,
        Err(error) if error.is_missing() => false,
        Err(error) => return Err(error),
    };
    let creates = race(store, fresh).await?;
    if creates == Creates::OnlyNew {
        if remembered {
            store.delete(RACED).await?;
        }
        match store.put_new(RACED, record).await {
            // Another process has come to the same end.
            Ok(()) | Err(StoreError::Exists { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(creates)
}

/// Deletes the objects of processes that ended in the middle of a race, a day ago or earlier by the store's clock,
/// which says `now_ms`. Returns how many.
///
/// # Errors
/// When the store refuses.
pub(crate) async fn collect(store: &Store, now_ms: i64) -> Result<usize, StoreError> {
    let is_old = |modified_ms: i64| now_ms.saturating_sub(modified_ms) >= LEFT_AFTER_MS;
    let left = store
        .list_top()
        .await?
        .into_iter()
        .filter(|object| is_contended(object.location.as_ref()) && is_old(object.last_modified.timestamp_millis()));
    let names: Vec<String> = left.map(|object| object.location.into()).collect();
    store.delete_many(&names).await?;
    Ok(names.len())
}

/// Whether an object of this name is one that a race is about.
fn is_contended(name: &str) -> bool {
    let parts = name.strip_prefix(ONCE).and_then(|rest| rest.strip_prefix('-')?.split_once('-'));
    parts.is_some_and(|(fresh, round)| {
        fresh.len() == 16 && fresh.bytes().all(|byte| byte.is_ascii_hexdigit()) && round.parse::<usize>().is_ok()
    })
}

async fn race(store: &Store, fresh: u64) -> Result<Creates, StoreError> {
    let Some(requests) = &store.requests else { return Ok(Creates::OnlyNew) };
    let names: Vec<String> = (0..ROUNDS).map(|round| format!("{ONCE}-{fresh:016x}-{round}")).collect();
    let mut outcomes = Vec::with_capacity(ROUNDS);
    let (small, large) = names.split_at(SMALL_ROUNDS);
    for some in small.chunks(SMALL_ROUNDS_TOGETHER) {
        let rounds: Vec<_> = some.iter().map(|name| round(requests, &store.objects, name, SMALL_BYTES)).collect();
        outcomes.extend(join_all(rounds).await);
    }
    for name in large {
        outcomes.push(round(requests, &store.objects, name, LARGE_BYTES).await);
    }
    store.delete_many(&names).await?;
    let all = || outcomes.iter().flatten();
    if let Some(bad) = all().find(|creates| **creates != Creates::OnlyNew) {
        return Ok(*bad);
    }
    // A round counts if one request won for sure. A network that lost an answer in each of them proves nothing.
    if all().count() < ROUNDS / 2 {
        let answer = "too many requests failed that created one object at the same time";
        let source = Error::Generic { store: "store", source: answer.into() };
        return Err(StoreError::of("write", ONCE, source));
    }
    Ok(Creates::OnlyNew)
}

/// One round of objects of `bytes` bytes; none if the outcome is unknown.
async fn round(requests: &Requests, objects: &Arc<dyn ObjectStore>, name: &str, bytes: usize) -> Option<Creates> {
    let path = Path::from(name);
    let body = move |contender: usize| Bytes::from(vec![b'a' + contender as u8; bytes]);
    let limit = requests.patience.limit((CONTENDERS * bytes) as u64);
    let contend = |contender| {
        let (objects, path) = (Arc::clone(objects), path.clone());
        requests.run(async move {
            let put = async { objects.put_opts(&path, body(contender).into(), PutMode::Create.into()).await };
            super::requests::within(limit, put).await.map(|_| contender)
        })
    };
    let answers = join_all((0..CONTENDERS).map(contend)).await;
    let winners: Vec<usize> = answers.iter().flatten().copied().collect();
    let [winner] = winners[..] else {
        return (winners.len() > 1).then_some(Creates::SeveralWin(winners.len()));
    };
    // One whose answer was lost may have won instead, but then the store has told two.
    let (objects, path) = (Arc::clone(objects), path.clone());
    let found = requests
        .run(async move { super::requests::within(limit, async { objects.get(&path).await?.bytes().await }).await })
        .await;
    match found {
        Ok(found) if found == body(winner) => Some(Creates::OnlyNew),
        Ok(_) => Some(Creates::WinnerLoses),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;
    use crate::store::{FaultyStore, Patience, StoreFault, StoreRequest};

    const PATIENCE: Patience = Patience { attempts: 3, pause_ms: 1, answer_ms: 60_000, answer_ms_per_mib: 0 };

    fn network() -> (Arc<FaultyStore>, Store) {
        let faulty = FaultyStore::new(Arc::new(InMemory::new()));
        let store = Store::over_network(faulty.clone(), "s3://test", PATIENCE).unwrap();
        (faulty, store)
    }

    fn ask(store: &Store, address: u64) -> Result<Creates, StoreError> {
        futures::executor::block_on(look(store, address, 7))
    }

    fn objects(store: &Store) -> Vec<String> {
        let all = futures::executor::block_on(store.list("")).unwrap();
        all.into_iter().map(|object| object.name).collect()
    }

    #[test]
    fn an_honest_store_is_tested_once() {
        let (faulty, store) = network();
        assert_eq!(ask(&store, 1).unwrap(), Creates::OnlyNew);
        assert_eq!(objects(&store), [ONCE, RACED]);
        assert_eq!(faulty.puts(), 2 + ROUNDS * CONTENDERS + 1);
        for _ in 0..3 {
            let before = (faulty.puts(), faulty.asked(StoreRequest::Delete));
            assert_eq!(ask(&store, 1).unwrap(), Creates::OnlyNew);
            assert_eq!((faulty.puts(), faulty.asked(StoreRequest::Delete)), (before.0 + 1, before.1));
        }
        // The same objects at another address are those of another store.
        let before = faulty.puts();
        assert_eq!(ask(&store, 2).unwrap(), Creates::OnlyNew);
        assert!(faulty.puts() > before + ROUNDS * CONTENDERS);
        assert_eq!(objects(&store), [ONCE, RACED]);
        let before = faulty.puts();
        assert_eq!(ask(&store, 2).unwrap(), Creates::OnlyNew);
        assert_eq!(faulty.puts(), before + 1);
    }

    #[test]
    fn a_store_that_lets_several_win_at_once_is_found_out() {
        let (faulty, store) = network();
        faulty.look_first();
        // One after the other all is well.
        futures::executor::block_on(async {
            store.put_new("a", "1").await.unwrap();
            assert!(matches!(store.put_new("a", "2").await, Err(StoreError::Exists { .. })));
        });
        for _ in 0..2 {
            let creates = ask(&store, 1).unwrap();
            assert!(matches!(creates, Creates::SeveralWin(2..)), "{creates:?}");
            let problem = creates.problem().unwrap();
            assert!(problem.contains("at the same time") && problem.contains("destroy each other's data"), "{problem}");
            assert_eq!(objects(&store), ["a", ONCE], "nothing is remembered, and nothing left behind");
        }
    }

    #[test]
    fn a_store_that_overwrites_is_refused_before() {
        let (faulty, store) = network();
        faulty.fail(StoreRequest::Put, 0, usize::MAX, StoreFault::Ignored);
        assert_eq!(ask(&store, 1).unwrap(), Creates::Overwrites);
        assert_eq!(faulty.puts(), 2);
    }

    #[test]
    fn what_a_race_has_left_behind_is_collected_a_day_later() {
        let (_, store) = network();
        futures::executor::block_on(async {
            let left = ["create-only-00000000000000ff-0", "create-only-00000000000000ff-7"];
            for name in left.into_iter().chain([ONCE, RACED, "create-only-x-0", "db/create-only-00000000000000ff-1"]) {
                store.put_new(name, "x").await.unwrap();
            }
            let now_ms = store.list("").await.unwrap().iter().map(|object| object.modified_ms).max().unwrap();
            assert_eq!(collect(&store, now_ms + LEFT_AFTER_MS - 60_000).await.unwrap(), 0);
            assert_eq!(collect(&store, now_ms + LEFT_AFTER_MS).await.unwrap(), 2);
        });
        assert_eq!(objects(&store), [ONCE, RACED, "create-only-x-0", "db/create-only-00000000000000ff-1"]);
    }

    #[test]
    fn a_bad_network_proves_nothing() {
        let (faulty, store) = network();
        faulty.fail(StoreRequest::Put, 2, ROUNDS * CONTENDERS, StoreFault::Lost);
        let error = ask(&store, 1).unwrap_err().to_string();
        assert!(error.contains("too many requests failed"), "{error}");
        assert_eq!(objects(&store), [ONCE]);
        // One lost answer in a while is none of its business.
        faulty.fail(StoreRequest::Put, 30, 1, StoreFault::Unanswered);
        assert_eq!(ask(&store, 1).unwrap(), Creates::OnlyNew);
    }

    #[test]
    fn a_list_of_nothing_is_empty_where_the_bucket_is_there() {
        let (faulty, store) = network();
        faulty.refuse_empty_lists("<Error><Code>NoSuchBucket</Code></Error>");
        futures::executor::block_on(async {
            for error in [store.list("db").await.unwrap_err(), store.list_folders("db").await.unwrap_err()] {
                assert!(error.to_string().contains("NoSuchBucket"), "{error}");
            }
            assert_eq!(faulty.asked(StoreRequest::List), 2, "it will not pass");
            store.put_new(ONCE, "x").await.unwrap();
            assert_eq!(store.list("db").await.unwrap(), []);
            assert!(store.list_folders("db").await.unwrap().is_empty());
            assert_eq!(faulty.asked(StoreRequest::List), 4);
            store.put_new("db/a/1", "x").await.unwrap();
            assert_eq!(store.list("db").await.unwrap().len(), 1);
            assert_eq!(store.list_folders("db").await.unwrap(), ["a"]);
        });
    }
}
