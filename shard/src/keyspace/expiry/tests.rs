use std::collections::BTreeMap;

use dormouse_types::record::{Entry, Value};
use dormouse_types::segment::SLOTS;
use dormouse_types::{Hash, ObjectRef, SetExpiry};
use proptest::prelude::*;

use super::*;
use crate::keyspace::place::field_expiry;
use crate::keyspace::{Change, Expiry, Keyspace};

const NOW: u64 = 1_700_000_000_000;
const TICK_MS: u64 = 100;
const STEPS: usize = 8_192;

/// A shard, and a clock that stands still.
struct Held {
    shared: Shared,
    contents: Contents,
    now_ms: u64,
}

impl Held {
    fn new() -> Self {
        let shared = Shared::new("test", 7);
        let contents = Contents::empty(0, SLOTS, shared.placement, std::array::from_fn(|id| id as u32));
        Self { shared, contents, now_ms: NOW }
    }

    fn keyspace(&mut self) -> Keyspace<'_> {
        Keyspace::new([&mut self.contents], &self.shared, 0, self.now_ms, 1)
    }

    fn slice(&mut self, steps: usize) -> Slice {
        self.contents.expire(&self.shared, self.now_ms, steps)
    }

    /// Acts as the keeper at a tick. Returns how many records were looked at, and removed.
    fn tick(&mut self) -> (usize, usize) {
        let (mut looked, mut removed) = (0, 0);
        loop {
            let slice = self.slice(STEPS);
            (looked, removed) = (looked + slice.looked, removed + slice.stale());
            if !slice.is_worth_more() {
                return (looked, removed);
            }
        }
    }

    fn keys(&self) -> usize {
        self.contents.records()
    }

    /// Checks the sums against the records themselves.
    fn check(&self) {
        for (_, index) in self.contents.indexes() {
            let (mut records, mut bytes, mut expiring) = (0, 0, 0);
            for place in index.places().iter() {
                let segment = place.segment().expect("it is resident");
                assert_eq!(place.bytes, segment.iter().map(Entry::heap_bytes).sum::<usize>());
                assert_eq!(place.expiring as usize, segment.iter().filter_map(Record::expiry).count());
                assert!(segment.iter().filter_map(Record::expiry).all(|expiry| expiry >= place.soonest));
                assert!(place.expiring == 0 || index.soonest() <= place.soonest);
                assert_eq!(place.expiring_hashes as usize, segment.iter().filter_map(field_expiry).count());
                assert!(segment.iter().filter_map(field_expiry).all(|expiry| expiry >= place.soonest_field));
                assert!(place.expiring_hashes == 0 || index.soonest_field() <= place.soonest_field);
                records += segment.len();
                bytes += place.bytes + segment.heap_bytes();
                expiring += place.expiring as usize;
            }
            assert_eq!((index.len(), index.expiring()), (records, expiring));
            let hashes = index.places().iter().map(|place| place.expiring_hashes as usize).sum::<usize>();
            assert_eq!(index.expiring_hashes(), hashes);
            assert_eq!(index.bytes(), bytes + index.places().heap_bytes());
        }
    }
}

#[test]
fn expiry_keeps_up_with_writes() {
    const EACH_MS: u64 = 60;
    const TTL_MS: u64 = 1_000;
    let mut held = Held::new();
    let mut most = 0;
    for ms in 0..4 * TTL_MS {
        held.now_ms = NOW + ms;
        let expiry = Expiry::At(held.now_ms + TTL_MS);
        let mut db = held.keyspace();
        (0..EACH_MS).for_each(|n| db.set_string(format!("key:{ms}:{n}").as_bytes(), b"v", expiry));
        drop(db);
        if ms % TICK_MS == 0 {
            held.tick();
        }
        most = most.max(held.keys());
    }
    let living = (EACH_MS * TTL_MS) as usize;
    assert!(most < living * 3 / 2, "{most} keys in memory, of which {living} had not expired");
    held.check();
    for _ in 0..2 * TTL_MS / TICK_MS {
        held.now_ms += TICK_MS;
        held.tick();
    }
    assert_eq!(held.keys(), 0);
}

#[test]
fn the_work_is_in_proportion_to_what_is_stale() {
    let mut held = Held::new();
    let mut db = held.keyspace();
    for n in 0..100_000 {
        // A hundredth of them expires, one each ten milliseconds.
        let after = if n % 100 == 0 { n / 10 } else { 1_000_000 + n };
        db.set_string(format!("key:{n}").as_bytes(), b"v", Expiry::At(NOW + 1 + after));
    }
    drop(db);
    assert_eq!(held.tick(), (0, 0), "nothing is stale yet");
    let mut looked = 0;
    for _ in 0..120 {
        held.now_ms += TICK_MS;
        looked += held.tick().0;
    }
    assert_eq!(held.keys(), 99_000);
    assert!(looked < 120 * STEPS, "{looked} records were looked at for 1,000");
    held.now_ms += TICK_MS;
    assert_eq!(held.tick(), (0, 0), "nothing is left that is stale");
    held.check();
}

#[test]
fn a_slice_is_bounded() {
    let mut held = Held::new();
    let mut db = held.keyspace();
    (0..60_000).for_each(|n| db.set_string(format!("key:{n}").as_bytes(), b"v", Expiry::At(NOW + 1)));
    drop(db);
    held.now_ms += 10;
    // No segment holds more.
    let place = 112 * 14;
    for steps in [1, 500, STEPS] {
        let slice = held.slice(steps);
        assert!(!slice.removed.is_empty() && slice.steps() <= steps + place * (1 + REMOVAL_STEPS) + PROBE);
    }
}

#[test]
fn one_key_among_many_does_not_stay() {
    let mut held = Held::new();
    let mut db = held.keyspace();
    (0..20_000).for_each(|n| db.set_string(format!("key:{n}").as_bytes(), b"v", Expiry::None));
    db.set_string(b"short", b"v", Expiry::At(NOW + 1));
    drop(db);
    held.now_ms += 1 + OVERDUE_MS;
    held.tick();
    assert_eq!(held.keys(), 20_000);
}

fn set_field(db: &mut Keyspace<'_>, key: &[u8], field: &str, rule: SetExpiry) {
    let set = |hash: &mut Hash, limits: &_| Change::Yes(hash.set_with(field.as_bytes(), b"v", rule, limits));
    db.update(key, set).expect("it is a hash");
}

fn fields(held: &Held) -> usize {
    let records = held.contents.indexes().flat_map(|(_, index)| index.iter());
    records.filter_map(hash_of).map(Hash::len).sum()
}

fn hash_of(record: &Record) -> Option<&Hash> {
    match record.value() {
        Value::Object(ObjectRef::Hash(hash)) => Some(hash),
        _ => None,
    }
}

#[test]
fn fields_go_when_they_have_expired_and_emptied_hashes_with_them() {
    let mut held = Held::new();
    let mut db = held.keyspace();
    for hash in 0..3000 {
        let key = format!("hash:{hash}");
        set_field(&mut db, key.as_bytes(), "soon", SetExpiry::At(NOW + 10));
        if hash % 2 == 0 {
            set_field(&mut db, key.as_bytes(), "late", SetExpiry::At(NOW + 100_000));
        }
        if hash % 3 == 0 {
            set_field(&mut db, key.as_bytes(), "never", SetExpiry::Drop);
        }
    }
    drop(db);
    assert_eq!(held.tick(), (0, 0), "nothing is stale yet");
    held.now_ms += 10 + OVERDUE_MS;
    held.tick();
    held.check();
    assert_eq!((held.keys(), fields(&held)), (2000, 2500));
    held.now_ms += 200_000;
    held.tick();
    held.check();
    assert_eq!((held.keys(), fields(&held)), (1000, 1000));
    assert_eq!(held.shared.expired_fields.load(Ordering::Relaxed), 4500);
    held.now_ms += 1;
    assert_eq!(held.tick(), (0, 0), "no field is left that expires");
}

#[test]
fn the_work_in_a_large_hash_is_in_proportion_to_what_is_stale() {
    const FIELDS: u64 = 100_000;
    let mut held = Held::new();
    let mut db = held.keyspace();
    for n in 0..FIELDS {
        // A hundredth of them expires, one each ten milliseconds.
        let after = if n % 100 == 0 { n / 10 } else { 1_000_000 + n };
        set_field(&mut db, b"hash", &format!("field:{n}"), SetExpiry::At(NOW + 1 + after));
    }
    drop(db);
    assert_eq!(held.tick(), (0, 0), "nothing is stale yet");
    let mut looked = 0;
    for _ in 0..120 {
        held.now_ms += TICK_MS;
        looked += held.tick().0;
    }
    assert_eq!(fields(&held), 99_000);
    assert!(looked < 1_200_000, "{looked} fields were looked at for 1,000");
    held.now_ms += 2_000_000;
    let slice = held.slice(STEPS);
    assert!(slice.is_worth_more() && slice.steps() < 2 * STEPS, "{} steps", slice.steps());
    held.check();
    held.tick();
    assert_eq!(held.keys(), 0);
    held.check();
}

#[derive(Clone, Debug)]
enum Step {
    Set { from: u16, count: u16, ttl_ms: Option<u16> },
    Expire { key: u16, ttl_ms: Option<u16> },
    Delete { from: u16, count: u16 },
    Read(u16),
    Wait(u16),
    Slice(u16),
    Reshape(u16),
}

fn any_step() -> impl Strategy<Value = Step> {
    let ttl_ms = || prop::option::weighted(0.8, 1..4_000u16);
    prop_oneof![
        4 => (0..3_000u16, 1..1_500u16, ttl_ms()).prop_map(|(from, count, ttl_ms)| Step::Set { from, count, ttl_ms }),
        1 => (0..4_500u16, ttl_ms()).prop_map(|(key, ttl_ms)| Step::Expire { key, ttl_ms }),
        1 => (0..3_000u16, 1..1_500u16).prop_map(|(from, count)| Step::Delete { from, count }),
        1 => (0..4_500u16).prop_map(Step::Read),
        3 => (1..3_000u16).prop_map(Step::Wait),
        4 => (1..9_000u16).prop_map(Step::Slice),
        1 => (1..SLOTS).prop_map(Step::Reshape),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_has_expired_goes_and_nothing_else(steps in prop::collection::vec(any_step(), 1..40)) {
        let mut held = Held::new();
        let mut model: BTreeMap<u16, Option<u64>> = BTreeMap::new();
        for step in steps {
            let now = held.now_ms;
            let at = |ttl_ms: Option<u16>| ttl_ms.map(|ttl_ms| now + u64::from(ttl_ms));
            match step {
                Step::Set { from, count, ttl_ms } => {
                    let mut db = held.keyspace();
                    for key in from..from + count {
                        db.set_string(&key.to_be_bytes(), b"v", at(ttl_ms).map_or(Expiry::None, Expiry::At));
                        model.insert(key, at(ttl_ms));
                    }
                }
                Step::Expire { key, ttl_ms } => {
                    held.keyspace().set_expiry(&key.to_be_bytes(), at(ttl_ms));
                    if let Some(expiry) = model.get_mut(&key).filter(|expiry| expiry.is_none_or(|at| at > now)) {
                        *expiry = at(ttl_ms);
                    }
                }
                Step::Delete { from, count } => {
                    let mut db = held.keyspace();
                    for key in from..from + count {
                        let lived = model.remove(&key).is_some_and(|expiry| expiry.is_none_or(|at| at > now));
                        prop_assert_eq!(db.delete(&key.to_be_bytes()), lived);
                    }
                }
                Step::Read(key) => {
                    let lives = model.get(&key).is_some_and(|expiry| expiry.is_none_or(|at| at > now));
                    prop_assert_eq!(held.keyspace().exists(&key.to_be_bytes()), lives);
                }
                Step::Wait(ms) => held.now_ms += u64::from(ms),
                Step::Slice(steps) => {
                    for record in held.slice(usize::from(steps)).removed {
                        let key = u16::from_be_bytes(record.key().try_into().unwrap());
                        prop_assert!(model.remove(&key).flatten().is_some_and(|expiry| expiry <= now));
                    }
                }
                Step::Reshape(slot) => {
                    prop_assert!(held.contents.cut(slot));
                    let mut right = held.contents.split_off(slot);
                    drop(right.expire(&held.shared, now, 100));
                    held.contents.append(right);
                }
            }
            held.check();
            let now = held.now_ms;
            let stale = |key: &u16| model[key].is_some_and(|expiry| expiry <= now);
            let mut db = held.keyspace();
            prop_assert!(model.keys().all(|key| stale(key) || db.contains(&key.to_be_bytes())));
        }
        held.now_ms += 10_000;
        // The first slice that finds nothing may have begun behind what is left.
        let mut idle = 0;
        while idle < 2 {
            idle = if held.slice(STEPS).removed.is_empty() { idle + 1 } else { 0 };
        }
        prop_assert_eq!(held.keys(), model.values().filter(|expiry| expiry.is_none()).count());
        held.check();
    }
}
