use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits::REDIS;
const SMALL: Limits =
    Limits { set_max_intset_entries: 12, set_max_listpack_entries: 8, set_max_listpack_value: 20, ..LIMITS };

fn sorted(set: &Set) -> Vec<Vec<u8>> {
    let mut members: Vec<_> = set.iter().map(Item::to_vec).collect();
    members.sort();
    members
}

fn integers(count: usize) -> Set {
    let mut set = Set::new();
    for number in 0..count {
        assert!(set.add(number.to_string().as_bytes(), &LIMITS));
    }
    set
}

/// Redis 7.2: `setTypeCreate`, `setTypeAddAux`, `setTypeMaybeConvert`.
#[test]
fn the_form_changes_at_the_thresholds_of_redis() {
    let cases: [(usize, &[u8], &str); 8] = [
        (0, b"1", "intset"),
        (0, b"a", "listpack"),
        (0, &[b'a'; 64], "listpack"),
        (0, &[b'a'; 65], "hashtable"),
        (127, b"a", "listpack"),
        (128, b"a", "hashtable"),
        (511, b"-1", "intset"),
        (512, b"-1", "hashtable"),
    ];
    for (count, member, encoding) in cases {
        let mut set = integers(count);
        assert!(set.add(member, &LIMITS));
        assert_eq!((set.len(), set.encoding()), (count + 1, encoding), "{count} integers and {member:?}");
        assert!(!set.add(member, &LIMITS) && set.contains(member));
    }
    let mut set = Set::new();
    for number in 0..128 {
        set.add(format!("m{number}").as_bytes(), &LIMITS);
    }
    assert_eq!(set.encoding(), "listpack");
    let packed = set.packed().unwrap().bytes().to_vec();
    set.add(b"5", &LIMITS);
    assert_eq!(set.encoding(), "hashtable");
    assert_eq!(Set::from_listpack(&packed, &LIMITS).unwrap().encoding(), "listpack");
    assert_eq!(Set::from_listpack(&packed, &SMALL).unwrap().encoding(), "hashtable");

    let mut mixed = integers(3);
    mixed.add(b"a", &LIMITS);
    mixed.remove(b"a");
    assert_eq!(mixed.encoding(), "listpack");
    mixed.compact_integers(&LIMITS);
    assert_eq!(mixed.encoding(), "intset");
    assert_eq!(sorted(&mixed), [b"0", b"1", b"2"]);
    mixed.expect(513, &LIMITS);
    assert_eq!((mixed.encoding(), mixed.len()), ("hashtable", 3));
}

#[test]
fn integers_are_loaded_and_kept_as_integers() {
    let set = integers(20);
    let intset = set.integers().unwrap();
    let bytes = [&intset.header(), intset.numbers()].concat();
    let loaded = Set::from_intset(&bytes, &LIMITS).unwrap();
    assert_eq!(sorted(&loaded), sorted(&set));
    assert_eq!(Set::from_intset(&bytes, &SMALL).unwrap().encoding(), "hashtable");
    assert!(!set.contains(b"01") && !set.contains(b"a") && !set.contains(b"9223372036854775807"));
    // Ten integers: the intset's header and 16 bits each.
    assert_eq!(integers(10).heap_bytes(), 32);
}

#[test]
fn a_large_set_is_dense_and_is_freed_in_pieces() {
    let mut set = Set::new();
    for number in 0..50_000 {
        set.add(format!("member:{number:010}").as_bytes(), &LIMITS);
    }
    assert!(set.heap_bytes() < 50_000 * 48, "{} bytes", set.heap_bytes());
    let mut pieces = 1;
    while !set.dismantle(1000) {
        pieces += 1;
    }
    assert!(pieces > 12, "{pieces}");
    assert_eq!((set.len(), set.heap_bytes()), (0, 0));
}

#[derive(Clone, Debug)]
enum Step {
    Add(Vec<u8>),
    Remove(Vec<u8>),
    Pop(u64),
    Random(u64),
    Compact,
}

fn member() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        20 => (-15..15i64).prop_map(|number| number.to_string().into_bytes()),
        1 => any::<i64>().prop_map(|number| number.to_string().into_bytes()),
        1 => (0..40u32).prop_map(|number| format!("f{number}").into_bytes()),
        1 => (0..40usize).prop_map(|len| vec![b'x'; len]),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => member().prop_map(Step::Add),
        7 => member().prop_map(Step::Remove),
        3 => any::<u64>().prop_map(Step::Pop),
        1 => any::<u64>().prop_map(Step::Random),
        1 => Just(Step::Compact),
    ]
}

proptest! {
    #[test]
    fn behaves_as_a_set(steps in prop::collection::vec(step(), 1..150)) {
        let (mut set, mut model) = (Set::new(), BTreeSet::new());
        for step in steps {
            match step {
                Step::Add(member) => {
                    prop_assert_eq!(set.contains(&member), model.contains(&member));
                    prop_assert_eq!(set.add(&member, &SMALL), model.insert(member));
                }
                Step::Remove(member) => prop_assert_eq!(set.remove(&member), model.remove(&member)),
                Step::Pop(mut seed) => {
                    let mut random = || { seed = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17) ^ 1; seed };
                    match set.pop(&mut random, |member| member.to_vec()) {
                        Some(member) => prop_assert!(model.remove(&member)),
                        None => prop_assert!(model.is_empty()),
                    }
                }
                Step::Random(mut seed) => {
                    let mut random = || { seed = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17) ^ 1; seed };
                    match set.random(&mut random) {
                        Some(member) => prop_assert!(model.contains(&member.to_vec())),
                        None => prop_assert!(model.is_empty()),
                    }
                }
                Step::Compact => set.compact_integers(&SMALL),
            }
            prop_assert_eq!(set.len(), model.len());
            prop_assert!(sorted(&set).into_iter().eq(model.clone()));
            let (mut scanned, mut cursor) = (BTreeSet::new(), 0);
            loop {
                cursor = set.scan(cursor, 3, |member| { scanned.insert(member.to_vec()); });
                if cursor == 0 { break }
            }
            prop_assert_eq!(&scanned, &model);
            prop_assert_eq!(sorted(&set.clone()), sorted(&set));
        }
    }
}
