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

#[derive(Clone, Debug)]
enum Step {
    Set(Vec<u8>, Vec<u8>),
    Remove(Vec<u8>),
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

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (field(), field()).prop_map(|(field, value)| Step::Set(field, value)),
        3 => field().prop_map(Step::Remove),
        1 => (0..10usize).prop_map(Step::Expect),
        1 => any::<u64>().prop_map(Step::Random),
    ]
}

proptest! {
    #[test]
    fn behaves_as_a_map(steps in prop::collection::vec(step(), 1..100)) {
        let (mut hash, mut model) = (Hash::new(), BTreeMap::new());
        for step in steps {
            match step {
                Step::Set(field, value) => {
                    prop_assert_eq!(hash.set(&field, &value, &SMALL), model.insert(field, value).is_none());
                }
                Step::Remove(field) => {
                    prop_assert_eq!(hash.get(&field).map(Item::to_vec), model.get(&field).cloned());
                    prop_assert_eq!(hash.remove(&field), model.remove(&field).is_some());
                    prop_assert!(!hash.contains(&field));
                }
                Step::Expect(fields) => hash.expect(fields, &SMALL),
                Step::Random(seed) => {
                    let mut seed = seed;
                    let mut random = || { seed = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17) ^ 1; seed };
                    match hash.random(&mut random) {
                        Some((field, value)) => prop_assert_eq!(model.get(&field.to_vec()), Some(&value.to_vec())),
                        None => prop_assert!(model.is_empty()),
                    }
                }
            }
            prop_assert_eq!(hash.len(), model.len());
            prop_assert!(sorted(&hash).into_iter().eq(model.clone()));
            let (mut scanned, mut cursor) = (BTreeMap::new(), 0);
            loop {
                cursor = hash.scan(cursor, 3, |field, value| { scanned.insert(field.to_vec(), value.to_vec()); });
                if cursor == 0 { break }
            }
            prop_assert_eq!(&scanned, &model);
            prop_assert_eq!(sorted(&hash.clone()), sorted(&hash));
        }
    }
}
