use std::collections::{BTreeMap, BTreeSet};

use dormouse_types::segment::SLOTS;

use super::*;
use crate::commands::testing::Bench;
use crate::keyspace::testing::TestLog;
use crate::keyspace::{Expiry, INDEXES};

const NOW: u64 = 1_700_000_000_000;

/// A shard with a limit, and a clock that stands still.
struct Held {
    shared: Shared,
    contents: Contents,
    now_ms: u64,
    seed: u64,
}

impl Held {
    fn new(eviction: Eviction, memory_max: usize) -> Self {
        let shared = Shared::new("test", 7);
        let settings = EngineSettings { eviction, memory_max, ..EngineSettings::new(7) };
        shared.settings.store(settings.into());
        let contents = Contents::empty(0, SLOTS, shared.placement, std::array::from_fn(|id| id as u32));
        Self { shared, contents, now_ms: NOW, seed: 1 }
    }

    fn keyspace(&mut self) -> Keyspace<'_> {
        self.seed += 1;
        Keyspace::new([&mut self.contents], &self.shared, 0, self.now_ms, self.seed)
    }

    /// Acts as a server does for a write: room first, waiting for it if need be. False: it was refused.
    fn set(&mut self, key: &[u8], value: &[u8], expiry: Expiry) -> bool {
        let adds = key.len() + size_class(value.len()) + 2 * OVERHEAD_EACH;
        for _ in 0..10_000 {
            let mut db = self.keyspace();
            match db.make_room(0, Needs { adds, while_it_runs: adds, logged: 0 }) {
                Ok(()) => {
                    db.set_string(key, value, expiry);
                    return true;
                }
                Err(NoRoom::Refused(_) | NoRoom::Log(_)) => return false,
                Err(NoRoom::Wait(bytes)) => {
                    drop(db);
                    self.seed += 1;
                    let (now_ms, seed) = (self.now_ms, self.seed);
                    if self.contents.evict(&self.shared, now_ms, seed, bytes).is_empty() {
                        return false;
                    }
                }
            }
        }
        panic!("it waits for ever");
    }
}

#[test]
fn the_limit_holds_for_values_of_any_size() {
    const LIMIT: usize = 4 << 20;
    for policy in [Eviction::AllKeysLfu, Eviction::AllKeysLru, Eviction::AllKeysRandom] {
        let mut held = Held::new(policy, LIMIT);
        let mut random = numbers(3);
        let mut most = 0;
        for n in 0..60_000u64 {
            // Small ones, then ever larger ones among them.
            let len = match random() % 1000 {
                0 if n > 40_000 => 1 << 20,
                1..4 if n > 30_000 => 60_000,
                _ => 60,
            };
            held.now_ms += 1;
            assert!(held.set(&n.to_be_bytes(), &vec![b'x'; len], Expiry::None));
            most = most.max(held.contents.bytes());
        }
        assert!(most <= LIMIT + (16 << 10), "{most} bytes in use");
        assert!(held.contents.bytes() > LIMIT / 2, "more was dropped than had to be");
    }
}

#[test]
fn what_cannot_fit_is_refused_and_drops_nothing() {
    let mut held = Held::new(Eviction::AllKeysLru, 1 << 20);
    assert!(held.set(b"small", b"v", Expiry::None));
    assert!(!held.set(b"large", &vec![b'x'; 2 << 20], Expiry::None));
    assert_eq!(held.contents.records(), 1);
    let mut held = Held::new(Eviction::NoEviction, 1 << 20);
    assert!(held.set(b"half", &vec![b'x'; 600 << 10], Expiry::None));
    assert!(!held.set(b"other half", &vec![b'x'; 600 << 10], Expiry::None), "it would not fit beside the first");
}

#[test]
fn a_volatile_policy_drops_only_what_expires() {
    for policy in [Eviction::VolatileLfu, Eviction::VolatileLru, Eviction::VolatileRandom, Eviction::VolatileTtl] {
        let mut held = Held::new(policy, 1 << 20);
        for n in 0..2_000u64 {
            assert!(held.set(&n.to_be_bytes(), &[b'x'; 100], Expiry::None));
        }
        for n in 2_000..20_000u64 {
            assert!(held.set(&n.to_be_bytes(), &[b'x'; 100], Expiry::At(NOW + 1_000_000 - n)));
        }
        let mut db = held.keyspace();
        assert!((0..2_000u64).all(|n| db.contains(&n.to_be_bytes())), "{policy:?}");
        let left: Vec<u64> = (2_000..20_000u64).filter(|n| db.contains(&n.to_be_bytes())).collect();
        drop(db);
        if policy == Eviction::VolatileTtl {
            // Each was to expire before all earlier ones, so the first ones stay.
            let early = left.iter().filter(|n| **n < 8_000).count();
            assert!(early * 4 > left.len() * 3, "{early} of {} are among the last to expire", left.len());
        }
        // Without a key that expires, nothing can be dropped.
        let mut db = held.keyspace();
        left.iter().for_each(|n| assert!(db.delete(&n.to_be_bytes())));
        drop(db);
        let mut n = 100_000u64;
        while held.set(&n.to_be_bytes(), &[b'x'; 100], Expiry::None) {
            n += 1;
        }
        assert!(held.keyspace().contains(&0u64.to_be_bytes()));
    }
}

/// The share of reads that find their key, of an exact order of use and of ours, where few keys are read most of the time.
#[test]
fn what_was_used_lately_stays() {
    const KEYS: u64 = 20_000;
    const ROOM: usize = 5_000;
    let mut held = Held::new(Eviction::AllKeysLru, 0);
    for n in 0..ROOM as u64 {
        held.keyspace().set_string(&(KEYS + n).to_be_bytes(), &[b'x'; 60], Expiry::None);
    }
    let limit = held.contents.bytes();
    let settings = EngineSettings { eviction: Eviction::AllKeysLru, memory_max: limit, ..EngineSettings::new(7) };
    held.shared.settings.store(settings.into());
    // Exact: by the moment of use, and the key used at it.
    let (mut moments, mut order) = (BTreeMap::new(), BTreeSet::new());
    let mut random = numbers(11);
    let (mut hits, mut hits_exact, mut reads) = (0, 0, 0);
    for turn in 0..200_000u64 {
        // A hundred reads a second, of ranks that are about as likely as 1 / rank.
        held.now_ms = NOW + turn * 10;
        let exponent = random() as f64 / u64::MAX as f64;
        let key = ((KEYS as f64).powf(exponent) as u64 - 1).min(KEYS - 1);
        let key = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let found = held.keyspace().exists(&key.to_be_bytes());
        let found_exact = moments.insert(key, turn);
        if let Some(before) = found_exact {
            order.remove(&(before, key));
        }
        order.insert((turn, key));
        if order.len() > ROOM {
            let (_, oldest) = order.pop_first().expect("it is not empty");
            moments.remove(&oldest);
        }
        if turn > 50_000 {
            reads += 1;
            hits += usize::from(found);
            hits_exact += usize::from(found_exact.is_some());
        }
        if !found {
            assert!(held.set(&key.to_be_bytes(), &[b'x'; 60], Expiry::None));
        }
    }
    let (share, exact) = (hits as f64 / f64::from(reads), hits_exact as f64 / f64::from(reads));
    assert!(share > exact - 0.02, "{share:.3} of the reads found their key, {exact:.3} with an exact order");
}

/// Keys that are used often stay, even if all others were used later.
#[test]
fn what_is_used_often_stays() {
    const OFTEN: u64 = 300;
    let mut held = Held::new(Eviction::AllKeysLfu, 1 << 20);
    for n in 0..OFTEN {
        assert!(held.set(&n.to_be_bytes(), &[b'x'; 100], Expiry::None));
        let mut db = held.keyspace();
        (0..200).for_each(|_| assert!(db.exists(&n.to_be_bytes())));
    }
    for n in OFTEN..40_000 {
        held.now_ms += 1;
        assert!(held.set(&n.to_be_bytes(), &[b'x'; 100], Expiry::None));
    }
    let mut db = held.keyspace();
    let left = (0..OFTEN).filter(|n| db.contains(&n.to_be_bytes())).count();
    assert!(left > 290, "{left} of {OFTEN} are left");
}

/// A key that is set and dropped in one batch stays dropped in replay, and one that is set again stays set.
#[test]
fn the_log_has_what_was_dropped_in_the_order_of_the_batch() {
    for waits in [false, true] {
        let mut bench = Bench::new();
        let log = TestLog::of(&mut bench.shared);
        let settings =
            EngineSettings { eviction: Eviction::AllKeysRandom, memory_max: 15_000, ..EngineSettings::new(7) };
        bench.shared.settings.store(settings.into());
        for batch in 0..40u64 {
            let mut db = Keyspace::new([&mut bench.contents], &bench.shared, 0, NOW + batch, batch);
            for n in 0..50u64 {
                db.begin(true, true);
                if !waits {
                    assert_eq!(db.make_room(0, Needs { adds: 200, while_it_runs: 200, logged: 0 }), Ok(()));
                }
                db.set_string(&(n * (batch % 7 + 1)).to_be_bytes(), &[b'x'; 100], Expiry::None);
            }
            drop(db);
            if waits {
                bench.contents.evict(&bench.shared, NOW + batch, batch, 2_000);
            }
        }
        assert!(bench.shared.evicted.load(Ordering::Relaxed) > 100);
        let mut replayed = Bench::new();
        for effect in log.effects() {
            let mut db = Keyspace::new([&mut replayed.contents], &replayed.shared, 0, effect.now_ms, 1);
            crate::commands::replay(&mut db, &effect.body).expect("effects are well-formed");
        }
        assert_eq!(replayed.data(), bench.data());
    }
}

#[test]
fn all_indexes_give_and_none_is_chosen_for_its_number() {
    let mut held = Held::new(Eviction::AllKeysRandom, 1 << 20);
    for n in 0..20_000u64 {
        held.seed += 1;
        let mut db = Keyspace::new([&mut held.contents], &held.shared, (n % 4) as u8, held.now_ms, held.seed);
        assert_eq!(db.make_room(0, Needs { adds: 200, while_it_runs: 200, logged: 0 }), Ok(()));
        db.set_string(&n.to_be_bytes(), &[b'x'; 100], Expiry::None);
    }
    let counts: Vec<usize> =
        (0..INDEXES as u8).map(|select| held.contents.index(select).map_or(0, Index::len)).take(4).collect();
    let all: usize = counts.iter().sum();
    assert!(counts.iter().all(|count| count * 5 > all), "{counts:?}");
}

/// Few keys of a large database may go: all of them are found, and no other key is dropped.
#[test]
fn a_volatile_policy_finds_the_few_that_may_go() {
    let mut held = Held::new(Eviction::VolatileTtl, 0);
    for n in 0..30_000u64 {
        let expiry = if n % 1000 == 0 { Expiry::At(NOW + 100_000 + n) } else { Expiry::None };
        held.keyspace().set_string(&n.to_be_bytes(), &[b'x'; 100], expiry);
    }
    let mut dropped = 0;
    for seed in 0..100 {
        dropped += held.contents.evict(&held.shared, NOW, seed, 1).len();
    }
    assert_eq!((dropped, held.contents.records()), (30, 30_000 - 30));
}

fn numbers(seed: u64) -> impl FnMut() -> u64 {
    let mut random = fastrand::Rng::with_seed(seed);
    move || random.u64(..)
}
