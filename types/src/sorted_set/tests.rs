use std::collections::BTreeMap;
use std::ops::Bound;

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits::REDIS;
const SMALL: Limits = Limits { zset_max_listpack_entries: 8, zset_max_listpack_value: 20, ..LIMITS };

type Model = BTreeMap<Vec<u8>, f64>;

fn ordered(model: &Model) -> Vec<(Vec<u8>, f64)> {
    let mut members: Vec<_> = model.iter().map(|(member, score)| (member.clone(), *score)).collect();
    members.sort_by(|a, b| a.1.partial_cmp(&b.1).unwrap().then_with(|| a.0.cmp(&b.0)));
    members
}

fn listed(members: Members<'_>) -> Vec<(Vec<u8>, f64)> {
    members.map(|(member, score)| (member.to_vec(), score)).collect()
}

/// Counts what `heap_bytes` says of the tree, and checks that tree and table agree.
fn check(set: &SortedSet) {
    if let FormRef::Large(large) = set.0.view() {
        assert_eq!(large.tree.counted_bytes(), large.tree.heap_bytes());
        assert_eq!(large.table.len(), large.tree.len());
        for entry in large.tree.range(0..large.tree.len()) {
            let held = large.table.get(entry.member.member()).unwrap();
            assert!(held.score() == entry.score && std::ptr::eq(held.member(), entry.member.member()));
        }
    }
}

/// The answer of `DUMP` of Redis 7.0.15.
#[test]
fn bytes_are_those_of_redis() {
    let mut set = SortedSet::new();
    for (score, member) in [(1.0, "one"), (2.5, "two"), (f64::NEG_INFINITY, "three"), (0.5, "five"), (1e9, "four")] {
        assert_eq!(set.insert(score, member.as_bytes(), &LIMITS), Inserted::Added);
    }
    let bytes: &[u8] =
        b"\x3c\0\0\0\x0a\0\x85three\x06\x84-inf\x05\x84five\x05\x830.5\x04\x83one\x04\x01\x01\x83two\x04\x832.5\x04\x84four\x05\xf3\0\xca\x9a\x3b\x05\xff";
    assert_eq!(set.packed().unwrap().bytes(), bytes);
    let loaded = SortedSet::from_listpack(bytes, &LIMITS).unwrap();
    assert_eq!(listed(loaded.iter()), listed(set.iter()));
}

#[test]
fn every_score_survives_the_packed_form() {
    let scores = [
        0.1,
        -0.1,
        1e20,
        1e21,
        1e-300,
        f64::MAX,
        f64::MIN_POSITIVE,
        f64::INFINITY,
        4503599627370496.0,
        9007199254740993.0,
        -9223372036854775808.0,
        1e18,
        3.0e15 + 0.5,
    ];
    for score in scores {
        for score in [score, -score] {
            let mut set = SortedSet::new();
            set.insert(score, b"m", &LIMITS);
            assert_eq!((set.score(b"m"), set.encoding()), (Some(score), "listpack"));
        }
    }
    let mut set = SortedSet::new();
    set.insert(-0.0, b"m", &LIMITS);
    assert!(set.score(b"m").unwrap().is_sign_positive());
    assert_eq!(set.insert(0.0, b"m", &LIMITS), Inserted::Same);
}

/// Redis 7.2: `zsetTypeCreate`, `zsetAdd`.
#[test]
fn the_form_changes_at_the_thresholds_of_redis() {
    let mut set = SortedSet::new();
    for number in 0..128 {
        set.insert(f64::from(number), format!("{number:064}").as_bytes(), &LIMITS);
        assert_eq!(set.encoding(), "listpack");
    }
    let packed = set.packed().unwrap().bytes().to_vec();
    set.insert(0.0, b"one more", &LIMITS);
    assert_eq!((set.encoding(), set.len()), ("skiplist", 129));
    set.remove_ranks(1..129, |_, _| ());
    assert_eq!((set.encoding(), set.len()), ("skiplist", 1));
    let mut long = SortedSet::new();
    long.insert(0.0, &[b'm'; 65], &LIMITS);
    assert_eq!(long.encoding(), "skiplist");
    assert_eq!(SortedSet::from_listpack(&packed, &LIMITS).unwrap().encoding(), "listpack");
    assert_eq!(SortedSet::from_listpack(&packed, &SMALL).unwrap().encoding(), "skiplist");
    let mut expected = SortedSet::new();
    expected.expect(1, 65, &LIMITS);
    assert_eq!(expected.encoding(), "skiplist");
}

#[test]
fn a_foreign_listpack_is_put_in_order_or_refused() {
    let load = |pairs: &[(&str, &str)]| {
        let mut listpack = Listpack::new();
        for (member, score) in pairs {
            listpack.insert_pair(listpack.view().end(), Item::parse(member.as_bytes()), Item::parse(score.as_bytes()));
        }
        SortedSet::from_listpack(listpack.view().bytes(), &LIMITS)
    };
    let set = load(&[("b", "2"), ("c", "1"), ("a", "2")]).unwrap();
    assert_eq!(listed(set.iter()), [(b"c".to_vec(), 1.0), (b"a".to_vec(), 2.0), (b"b".to_vec(), 2.0)]);
    assert!(load(&[("a", "1"), ("a", "2")]).is_err());
    assert!(load(&[("a", "nan")]).is_err());
    assert!(load(&[("a", "x")]).is_err());
}

/// Members of 17 bytes in random, ascending and descending order.
#[test]
fn a_large_set_is_dense_and_is_freed_in_pieces() {
    const MEMBERS: u64 = 50_000;
    let orders: [fn(u64) -> u64; 3] = [|i| i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20, |i| i, |i| MEMBERS - i];
    for order in orders {
        let mut set = SortedSet::new();
        for number in 0..MEMBERS {
            set.insert(order(number) as f64, format!("member:{number:010}").as_bytes(), &LIMITS);
        }
        assert!(set.heap_bytes() as u64 <= MEMBERS * 70, "{} bytes", set.heap_bytes());
        check(&set);
        let mut pieces = 1;
        while !set.dismantle(1000) {
            pieces += 1;
        }
        assert!(pieces > 50, "{pieces}");
        assert_eq!((set.len(), set.heap_bytes()), (0, 0));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert(Vec<(f64, Vec<u8>)>),
    Remove(Vec<u8>),
    RemoveRanks(usize, usize),
    Scores(ScoreRange),
    Members(u8, Vec<u8>, u8, Vec<u8>),
    Read(usize, usize, Vec<bool>),
}

fn score() -> impl Strategy<Value = f64> {
    prop_oneof![
        5 => (-20..20i32).prop_map(f64::from),
        2 => (-50..50i32).prop_map(|half| f64::from(half) / 2.0),
        1 => Just(-0.0),
        1 => prop_oneof![Just(f64::INFINITY), Just(f64::NEG_INFINITY), Just(1e300)],
    ]
}

fn member() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        9 => (0..200u32).prop_map(|number| number.to_string().into_bytes()),
        9 => (0..900u32).prop_map(|number| format!("m{number}").into_bytes()),
        1 => (0..40usize).prop_map(|len| vec![b'x'; len]),
    ]
}

fn bound() -> impl Strategy<Value = Bound<f64>> {
    prop_oneof![score().prop_map(Bound::Included), score().prop_map(Bound::Excluded), Just(Bound::Unbounded)]
}

fn step(most: usize) -> impl Strategy<Value = Step> {
    let index = any::<usize>();
    prop_oneof![
        6 => prop::collection::vec((score(), member()), 1..most).prop_map(Step::Insert),
        3 => member().prop_map(Step::Remove),
        1 => (index, index).prop_map(|(a, b)| Step::RemoveRanks(a, b)),
        2 => (bound(), bound()).prop_map(|(min, max)| Step::Scores(ScoreRange { min, max })),
        1 => (0..4u8, member(), 0..4u8, member()).prop_map(|(a, b, c, d)| Step::Members(a, b, c, d)),
        2 => (index, index, prop::collection::vec(any::<bool>(), 0..20)).prop_map(|(a, b, ends)| Step::Read(a, b, ends)),
    ]
}

fn lex_bound(kind: u8, member: &[u8]) -> LexBound<'_> {
    match kind {
        0 => LexBound::Lowest,
        1 => LexBound::Highest,
        2 => LexBound::Included(member),
        _ => LexBound::Excluded(member),
    }
}

fn run(steps: Vec<Step>, limits: &Limits) -> Result<(), TestCaseError> {
    let (mut set, mut model) = (SortedSet::new(), Model::new());
    for step in steps {
        let before = ordered(&model);
        let len = before.len();
        match step {
            Step::Insert(pairs) => {
                for (score, member) in pairs {
                    let expected = match model.insert(member.clone(), score) {
                        None => Inserted::Added,
                        Some(old) if old == score => Inserted::Same,
                        Some(old) => Inserted::Updated(old),
                    };
                    prop_assert_eq!(set.insert(score, &member, limits), expected);
                }
            }
            Step::Remove(member) => {
                let rank = before.iter().position(|(other, _)| *other == member);
                let known = model.remove(&member);
                prop_assert_eq!(set.score(&member), known);
                prop_assert_eq!(set.rank(&member), rank.zip(known));
                prop_assert_eq!(set.remove(&member), known);
                prop_assert!(!set.contains(&member));
            }
            Step::RemoveRanks(start, end) => {
                let (start, end) = (start % (len + 1), end % (len + 3));
                // Mostly short, so that something is left.
                let end = if end % 3 > 0 { end.min(start + 70) } else { end };
                let mut removed = Vec::new();
                let count = set.remove_ranks(start..end, |member, score| removed.push((member.to_vec(), score)));
                let expected = before.get(start..end.min(len)).unwrap_or_default();
                prop_assert_eq!((count, &removed[..]), (expected.len(), expected));
                for (member, _) in removed {
                    model.remove(&member);
                }
            }
            Step::Scores(range) => {
                let expected: Vec<_> = before.into_iter().filter(|(_, score)| range.contains(*score)).collect();
                prop_assert_eq!(listed(set.range(set.score_ranks(&range))), expected);
            }
            Step::Members(min_kind, min, max_kind, max) => {
                let range = LexRange { min: lex_bound(min_kind, &min), max: lex_bound(max_kind, &max) };
                let mut equal = SortedSet::new();
                for member in model.keys() {
                    equal.insert(1.0, member, limits);
                }
                let expected: Vec<_> = model.keys().filter(|member| range.contains(member)).cloned().collect();
                let found: Vec<_> = equal.range(equal.lex_ranks(&range)).map(|(member, _)| member.to_vec()).collect();
                prop_assert_eq!(found, expected);
            }
            Step::Read(start, end, ends) => {
                let (start, end) = (start % (len + 1), end % (len + 2));
                let mut range = set.range(start..end);
                let mut expected = before.get(start..end.min(len)).unwrap_or_default().iter();
                for back in ends {
                    let (found, known) =
                        if back { (range.next_back(), expected.next_back()) } else { (range.next(), expected.next()) };
                    prop_assert_eq!(found.map(|(member, score)| (member.to_vec(), score)), known.cloned());
                    prop_assert_eq!(range.len(), expected.len());
                }
            }
        }
        check(&set);
        let expected = ordered(&model);
        prop_assert_eq!(set.len(), expected.len());
        prop_assert_eq!(listed(set.iter()), expected.clone());
        let backwards: Vec<_> = set.iter().rev().map(|(member, score)| (member.to_vec(), score)).collect();
        prop_assert!(backwards.iter().rev().eq(&expected));
    }
    prop_assert_eq!(listed(set.clone().iter()), listed(set.iter()));
    let (mut scanned, mut cursor) = (Model::new(), 0);
    loop {
        cursor = set.scan(cursor, 3, |member, score| {
            scanned.insert(member.to_vec(), score);
        });
        if cursor == 0 {
            break;
        }
    }
    prop_assert_eq!(scanned, model);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn behaves_as_an_ordered_map(steps in prop::collection::vec(step(6), 1..60)) {
        run(steps, &SMALL)?;
    }

    #[test]
    fn a_large_one_behaves_as_an_ordered_map(steps in prop::collection::vec(step(300), 1..25)) {
        run(steps, &SMALL)?;
    }
}
