use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const SMALL: Limits = Limits { hash_max_listpack_entries: 8, hash_max_listpack_value: 20, ..LIMITS };
const LIMITS: Limits = Limits::REDIS;

fn sorted(hash: &Hash) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut pairs: Vec<_> = hash.iter().map(|(field, value)| (field.to_vec(), value.to_vec())).collect();
    pairs.sort();
    pairs
}

/// The answer of `DUMP` of Redis 7.0.15.
#[test]
fn bytes_are_those_of_redis() {
    let mut hash = Hash::new();
    for (field, value) in [("name", "dormouse"), ("n", "42"), ("neg", "-5000"), ("big", "123456789012")] {
        assert!(hash.set(field.as_bytes(), value.as_bytes(), &LIMITS));
    }
    let bytes: &[u8] = b"\x34\0\0\0\x08\0\x84name\x05\x88dormouse\x09\x81n\x02\x2a\x01\x83neg\x04\xf1\x78\xec\x03\x83big\x04\xf4\x14\x1a\x99\xbe\x1c\0\0\0\x09\xff";
    assert_eq!(hash.packed().unwrap().bytes(), bytes);
    assert_eq!(sorted(&Hash::from_listpack(bytes, &LIMITS).unwrap()), sorted(&hash));
}

/// Redis 7.2: `hashTypeTryConversion`, `hashTypeSet`.
#[test]
fn the_form_changes_at_the_thresholds_of_redis() {
    let mut hash = Hash::new();
    for number in 0..512 {
        hash.set(format!("f{number}").as_bytes(), &[b'v'; 64], &LIMITS);
        assert_eq!(hash.encoding(), "listpack");
    }
    let packed = hash.packed().unwrap().bytes().to_vec();
    hash.set(b"f0", b"again", &LIMITS);
    assert_eq!(hash.encoding(), "listpack");
    hash.set(b"one more", b"", &LIMITS);
    assert_eq!((hash.encoding(), hash.len()), ("hashtable", 513));
    for number in 0..512 {
        hash.remove(format!("f{number}").as_bytes());
    }
    assert_eq!((hash.encoding(), hash.len()), ("hashtable", 1));

    for (field, value) in [(&[b'f'; 65][..], &b"v"[..]), (b"f", &[b'v'; 65])] {
        let mut hash = Hash::new();
        hash.set(b"f", b"v", &LIMITS);
        hash.set(field, value, &LIMITS);
        assert_eq!(hash.encoding(), "hashtable");
        assert_eq!(hash.get(field), Some(Item::Bytes(value)));
    }
    assert_eq!(Hash::with_capacity(513, &LIMITS).encoding(), "hashtable");
    assert_eq!(Hash::from_listpack(&packed, &LIMITS).unwrap().encoding(), "listpack");
    assert_eq!(Hash::from_listpack(&packed, &SMALL).unwrap().encoding(), "hashtable");
}

#[test]
fn odd_or_repeated_fields_are_refused() {
    let mut listpack = Listpack::new();
    for text in [&b"a"[..], b"1", b"b"] {
        listpack.push_back(Item::parse(text));
    }
    assert!(Hash::from_listpack(listpack.view().bytes(), &LIMITS).is_err());
    listpack.push_back(Item::Int(1));
    assert_eq!(Hash::from_listpack(listpack.view().bytes(), &LIMITS).unwrap().len(), 2);
    listpack.insert_pair(listpack.view().end(), Item::Bytes(b"a"), Item::Int(2));
    assert!(Hash::from_listpack(listpack.view().bytes(), &LIMITS).is_err());
}

#[test]
fn a_large_hash_is_freed_in_pieces() {
    let mut hash = Hash::new();
    for number in 0..20_000 {
        hash.set(format!("field:{number}").as_bytes(), b"value", &LIMITS);
    }
    let mut pieces = 1;
    while !hash.dismantle(1000) {
        pieces += 1;
    }
    assert!(pieces > 5, "{pieces}");
    assert_eq!((hash.len(), hash.heap_bytes()), (0, 0));
}

/// The answer of `DUMP` of Redis 8.10.2 to a hash of which `b` expires at 2000000000000 and `c` at 1900000000000.
#[test]
fn triplets_are_in_the_order_of_redis() {
    let mut hash = Hash::new();
    for field in ["a", "b", "c", "d"] {
        hash.set(field.as_bytes(), b"v", &LIMITS);
    }
    assert!(hash.set_expiry(b"b", Some(2_000_000_000_000)));
    assert_eq!((hash.encoding(), hash.expires(), hash.soonest()), ("listpackex", true, 2_000_000_000_000));
    assert!(hash.set_expiry(b"c", Some(1_900_000_000_000)));
    let fields: Vec<u8> = hash.entries().flat_map(|(field, _, _)| field.to_vec()).collect();
    assert_eq!(fields, b"cbad");
    let bytes = hash.packed_with_expiries().unwrap().to_bytes();
    let triplet = |field: &[u8], expiry: &[u8]| [b"\x81", field, b"\x02\x81v\x02", expiry].concat();
    let (c, b) = (b"\xf4\x00\x38\xd3\x60\xba\x01\x00\x00\x09", b"\xf4\x00\x20\x4a\xa9\xd1\x01\x00\x00\x09");
    let entries = [triplet(b"c", c), triplet(b"b", b), triplet(b"a", b"\0\x01"), triplet(b"d", b"\0\x01")].concat();
    assert_eq!(bytes, [b"\x37\0\0\0\x0c\0", &entries[..], b"\xff"].concat());
    assert!(hash.packed().is_none());
    let loaded = Hash::from_listpack_with_expiries(&bytes, &LIMITS).unwrap();
    assert!(loaded.entries().eq(hash.entries()));
    // The form stays when the last expiry goes.
    for field in ["b", "c"] {
        assert!(hash.set_expiry(field.as_bytes(), None));
    }
    assert_eq!((hash.encoding(), hash.expires(), hash.soonest()), ("listpackex", false, u64::MAX));
    for field in ["a", "b", "c", "d"] {
        assert!(hash.remove(field.as_bytes()));
    }
    hash.set(b"a", b"v", &LIMITS);
    assert_eq!(hash.encoding(), "listpack");
    assert!(!hash.set_expiry(b"b", Some(1)));
    assert!(hash.set_expiry(b"a", None));
}

#[test]
fn triplets_from_elsewhere_are_checked_and_sorted() {
    let made = |items: &[Item<'_>]| {
        let mut listpack = Listpack::new();
        items.iter().for_each(|item| listpack.push_back(*item));
        Hash::from_listpack_with_expiries(listpack.view().bytes(), &LIMITS)
    };
    let (a, b, c) = (Item::Bytes(b"a"), Item::Bytes(b"b"), Item::Bytes(b"c"));
    let hash = made(&[a, a, Item::Int(0), b, b, Item::Int(7), c, c, Item::Int(5)]).unwrap();
    let expiries: Vec<Option<u64>> = hash.entries().map(|(_, _, expiry)| expiry).collect();
    assert_eq!((expiries, hash.encoding()), (vec![Some(5), Some(7), None], "listpackex"));
    for bad in [
        &[a, a][..],
        &[a, a, Item::Int(-1)],
        &[a, a, Item::Bytes(b"x")],
        &[a, a, Item::Int(1), a, b, Item::Int(2)],
        &[a, a, Item::Int(1), b],
    ] {
        assert!(made(bad).is_err(), "{bad:?}");
    }
    let items: Vec<String> = (0..513).map(|number| format!("f{number}")).collect();
    let triplets: Vec<Item<'_>> =
        items.iter().flat_map(|text| [Item::Bytes(text.as_bytes()), a, Item::Int(9)]).collect();
    let large = made(&triplets).unwrap();
    assert_eq!((large.encoding(), large.len(), large.soonest()), ("hashtable", 513, 9));
}

/// Memory of a large hash: an expiry adds seven bytes to a field, and nothing where there is none.
#[test]
fn an_expiry_takes_few_bytes() {
    const FIELDS: usize = 100_000;
    let filled = |rule: SetExpiry| {
        let mut hash = Hash::new();
        for number in 0..FIELDS {
            hash.set_with(format!("field:{number:06}").as_bytes(), b"value", rule, &LIMITS);
        }
        hash.heap_bytes()
    };
    let (without, with) = (filled(SetExpiry::Drop), filled(SetExpiry::At(1_700_000_000_000)));
    assert!(with - without <= FIELDS * 8 + FIELDS / 10, "{} bytes a field", (with - without) as f64 / FIELDS as f64);
    assert_eq!(heap::allocation(size_of::<Large>()), heap::allocation(size_of::<Fields>()));
}

/// A large hash, a model of it and a clock that goes on: what has expired is hidden, then swept.
#[test]
fn a_large_hash_is_swept_in_steps() {
    let mut rng = fastrand::Rng::with_seed(5);
    let (mut hash, mut model) = (Hash::new(), BTreeMap::<Vec<u8>, Option<u64>>::new());
    let mut now = 1000;
    for round in 0..200 {
        for _ in 0..rng.usize(..400) {
            let field = format!("field:{}", rng.usize(..20_000)).into_bytes();
            let expiry = rng.bool().then(|| now + rng.u64(1..2000));
            match rng.usize(..4) {
                0 => {
                    hash.set(&field, b"v", &LIMITS);
                    model.insert(field, None);
                }
                1 => {
                    hash.set_with(&field, b"v", expiry.map_or(SetExpiry::Drop, SetExpiry::At), &LIMITS);
                    model.insert(field, expiry);
                }
                2 => {
                    assert_eq!(hash.set_expiry(&field, expiry), model.contains_key(&field));
                    model.entry(field).and_modify(|present| *present = expiry);
                }
                _ => assert_eq!(hash.remove(&field), model.remove(&field).is_some()),
            }
        }
        now += rng.u64(..100);
        let is_stale = |expiry: &Option<u64>| expiry.is_some_and(|expiry| expiry <= now);
        let live = model.values().filter(|expiry| !is_stale(expiry)).count();
        assert_eq!((hash.live(now).len(), hash.len()), (live, model.len()));
        assert!(hash.soonest() <= model.values().filter_map(|expiry| *expiry).min().unwrap_or(u64::MAX));
        assert_eq!(hash.expires(), model.values().any(Option::is_some));
        let budget = if round % 3 == 0 { usize::MAX } else { rng.usize(1..2000) };
        let looked = hash.sweep(now, 0, budget, |field| {
            let removed = model.remove(&field.to_vec());
            assert!(removed.is_some_and(|expiry| is_stale(&expiry)));
        });
        assert!(looked <= budget.saturating_add(3000), "{looked} of {budget}");
        if budget == usize::MAX {
            assert!(!model.values().any(is_stale));
            assert!(hash.soonest() > now);
        }
        let copy = hash.clone();
        assert_eq!((copy.len(), copy.soonest(), copy.live(now).len()), (model.len(), hash.soonest(), live));
    }
    assert!(model.len() > 1000 && hash.encoding() == "hashtable");
}

#[derive(Clone, Debug)]
enum Step {
    Set(Vec<u8>, Vec<u8>, SetExpiry),
    SetExpiry(Vec<u8>, Option<u64>),
    Touch(Vec<u8>, SetExpiry),
    Remove(Vec<u8>),
    Sweep(u64),
    Expect(usize),
    Random(u64),
}

fn field() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        9 => (0..40u32).prop_map(|number| number.to_string().into_bytes()),
        9 => (0..40u32).prop_map(|number| format!("f{number}").into_bytes()),
        1 => (0..40usize).prop_map(|len| vec![b'x'; len]),
    ]
}

fn rule() -> impl Strategy<Value = SetExpiry> {
    prop_oneof![Just(SetExpiry::Drop), Just(SetExpiry::Keep), (1..100u64).prop_map(SetExpiry::At)]
}

/// `expires`: whether fields may come to expire.
fn step(expires: bool) -> impl Strategy<Value = Step> {
    let rule = move || rule().prop_map(move |rule| if expires { rule } else { SetExpiry::Drop });
    prop_oneof![
        5 => (field(), field(), rule()).prop_map(|(field, value, rule)| Step::Set(field, value, rule)),
        2 => (field(), prop::option::of(1..100u64))
            .prop_map(move |(field, expiry)| Step::SetExpiry(field, expiry.filter(|_| expires))),
        2 => (field(), rule()).prop_map(|(field, rule)| Step::Touch(field, rule)),
        3 => field().prop_map(Step::Remove),
        1 => (0..100u64).prop_map(Step::Sweep),
        1 => (0..10usize).prop_map(Step::Expect),
        1 => any::<u64>().prop_map(Step::Random),
    ]
}

type Model = BTreeMap<Vec<u8>, (Vec<u8>, Option<u64>)>;

fn check(steps: Vec<Step>, now: u64) -> Result<(), TestCaseError> {
    let (mut hash, mut model) = (Hash::new(), Model::new());
    for step in steps {
        match step {
            Step::Set(field, value, rule) => {
                let before = model.get(&field).map(|(_, expiry)| *expiry);
                let after = match rule {
                    SetExpiry::Drop => None,
                    SetExpiry::Keep => before.flatten(),
                    SetExpiry::At(expiry) => Some(expiry),
                };
                prop_assert_eq!(hash.set_with(&field, &value, rule, &SMALL), before.is_none());
                model.insert(field, (value, after));
            }
            Step::SetExpiry(field, expiry) => {
                prop_assert_eq!(hash.set_expiry(&field, expiry), model.contains_key(&field));
                model.entry(field).and_modify(|(_, present)| *present = expiry);
            }
            Step::Touch(field, rule) => {
                let expected =
                    model.get(&field).filter(|(_, expiry)| expiry.is_none_or(|expiry| expiry > now)).cloned();
                let mut shown = None;
                let before = hash.touch(&field, now, rule, |value| shown = Some(value.to_vec()));
                prop_assert_eq!(shown.zip(before), expected.clone());
                if let Some((value, before)) = expected {
                    model.insert(field, (value, rule.after(before)));
                }
            }
            Step::Remove(field) => {
                let (entry, expected) = (hash.entry(&field), model.get(&field).cloned());
                prop_assert_eq!(entry.map(|(value, expiry)| (value.to_vec(), expiry)), expected.clone());
                prop_assert_eq!(hash.get(&field).map(Item::to_vec), expected.map(|(value, _)| value));
                prop_assert_eq!(hash.remove(&field), model.remove(&field).is_some());
                prop_assert!(!hash.contains(&field));
            }
            Step::Sweep(now) => {
                let mut swept = Vec::new();
                hash.sweep(now, 0, usize::MAX, |field| swept.push(field.to_vec()));
                swept.sort();
                let stale = model.extract_if(.., |_, (_, expiry)| expiry.is_some_and(|expiry| expiry <= now));
                prop_assert_eq!(swept, stale.map(|(field, _)| field).collect::<Vec<_>>());
                prop_assert!(hash.soonest() > now);
            }
            Step::Expect(fields) => hash.expect(fields, &SMALL),
            Step::Random(seed) => {
                let mut seed = seed;
                let mut random = || {
                    seed = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17) ^ 1;
                    seed
                };
                match hash.random(&mut random) {
                    Some((field, value, expiry)) => {
                        prop_assert_eq!(model.get(&field.to_vec()), Some(&(value.to_vec(), expiry)));
                    }
                    None => prop_assert!(model.is_empty()),
                }
                let shown = |(_, expiry): &(Vec<u8>, Option<u64>)| expiry.is_none_or(|expiry| expiry > now);
                match hash.live(now).random(&mut random) {
                    Some((field, _)) => prop_assert!(shown(&model[&field.to_vec()])),
                    None => prop_assert!(!model.values().any(shown)),
                }
            }
        }
        prop_assert_eq!(hash.len(), model.len());
        prop_assert_eq!(hash.expires(), model.values().any(|(_, expiry)| expiry.is_some()));
        let entries: Model =
            hash.entries().map(|(field, value, expiry)| (field.to_vec(), (value.to_vec(), expiry))).collect();
        prop_assert_eq!(&entries, &model);
        let values = model.iter().map(|(field, (value, _))| (field.clone(), value.clone()));
        prop_assert!(sorted(&hash).into_iter().eq(values));
        let (mut scanned, mut cursor) = (Model::new(), 0);
        loop {
            cursor = hash.scan(cursor, 3, |field, value, expiry| {
                scanned.insert(field.to_vec(), (value.to_vec(), expiry));
            });
            if cursor == 0 {
                break;
            }
        }
        prop_assert_eq!(&scanned, &model);
        prop_assert_eq!(sorted(&hash.clone()), sorted(&hash));
        let live = hash.live(now);
        let shown = model.iter().filter(|(_, (_, expiry))| expiry.is_none_or(|expiry| expiry > now));
        let mut seen: Vec<_> = live.iter().map(|(field, value)| (field.to_vec(), value.to_vec())).collect();
        seen.sort();
        prop_assert_eq!((live.len(), live.is_empty()), (seen.len(), seen.is_empty()));
        prop_assert!(shown.map(|(field, (value, _))| (field.clone(), value.clone())).eq(seen));
        for (field, (_, expiry)) in &model {
            prop_assert_eq!(live.contains(field), expiry.is_none_or(|expiry| expiry > now));
        }
        if let Some(listpack) = hash.packed_with_expiries() {
            let loaded = Hash::from_listpack_with_expiries(&listpack.to_bytes(), &SMALL).unwrap();
            prop_assert!(loaded.entries().eq(hash.entries()));
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn behaves_as_a_map(steps in prop::collection::vec(step(false), 1..100)) {
        check(steps, 50)?;
    }

    #[test]
    fn behaves_as_a_map_whose_fields_expire(steps in prop::collection::vec(step(true), 1..100), now in 0..100u64) {
        check(steps, now)?;
    }
}
