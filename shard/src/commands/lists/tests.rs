use proptest::prelude::*;

use crate::commands::testing::{Bench, check, check_effects, check_resp3};

const WRONG_TYPE: &str = "(error) WRONGTYPE Operation against a key holding the wrong kind of value";
const NOT_AN_INTEGER: &str = "(error) ERR value is not an integer or out of range";
const NOT_POSITIVE: &str = "(error) ERR value is out of range, must be positive";
const NOT_NEGATABLE: &str =
    "(error) ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807";
const SYNTAX: &str = "(error) ERR syntax error";

#[test]
fn pushes() {
    check(&[
        ("RPUSH k a 2", "2"),
        ("LPUSH k b 04", "4"),
        ("LRANGE k 0 -1", "[04 b a 2]"),
        ("LPUSHX k x", "5"),
        ("RPUSHX k y z", "7"),
        ("LRANGE k 0 -1", "[x 04 b a 2 y z]"),
        ("LPUSHX missing a", "0"),
        ("RPUSHX missing a", "0"),
        ("LLEN missing", "0"),
        ("LLEN k", "7"),
        ("RPUSH k \"\"", "8"),
        ("LINDEX k -1", "\"\""),
        ("RPUSH k", "(error) ERR wrong number of arguments for 'rpush' command"),
        ("LPUSHX k", "(error) ERR wrong number of arguments for 'lpushx' command"),
        ("SET s v", "OK"),
        ("LPUSH s a", WRONG_TYPE),
        ("RPUSHX s a", WRONG_TYPE),
        ("LLEN s", WRONG_TYPE),
        ("GET k", WRONG_TYPE),
    ]);
}

#[test]
fn pops() {
    check(&[
        ("RPUSH k a b c d e f", "6"),
        ("LPOP k", "a"),
        ("RPOP k", "f"),
        ("LPOP k 2", "[b c]"),
        ("RPOP k 0", "[]"),
        ("RPOP k 9", "[e d]"),
        ("LLEN k", "0"),
        ("LPOP k", "nil"),
        ("LPOP k 0", "nil"),
        ("LPOP k 1", "nil"),
        ("LPOP k -1", NOT_POSITIVE),
        ("RPOP k x", NOT_POSITIVE),
        ("LPOP k 1 2", "(error) ERR wrong number of arguments for 'lpop' command"),
        ("rpop k 1 2", "(error) ERR wrong number of arguments for 'rpop' command"),
        ("SET s v", "OK"),
        ("LPOP s", WRONG_TYPE),
        ("LPOP s 0", WRONG_TYPE),
        ("LPOP s x", NOT_POSITIVE),
    ]);
}

#[test]
fn what_is_missing_has_the_shape_of_what_is_not() {
    let mut bench = Bench::new();
    assert_eq!(bench.run_raw(&[b"LPOP", b"k"]), b"$-1\r\n");
    assert_eq!(bench.run_raw(&[b"LPOP", b"k", b"1"]), b"*-1\r\n");
    assert_eq!(bench.run_raw(&[b"LMPOP", b"1", b"k", b"LEFT"]), b"*-1\r\n");
    assert_eq!(bench.run_raw(&[b"LMOVE", b"k", b"l", b"LEFT", b"LEFT"]), b"$-1\r\n");
    assert_eq!(bench.run_raw(&[b"LPOS", b"k", b"a"]), b"$-1\r\n");
    assert_eq!(bench.run_raw(&[b"LPOS", b"k", b"a", b"COUNT", b"1"]), b"*0\r\n");
    assert_eq!(bench.run_raw(&[b"LINDEX", b"k", b"1"]), b"$-1\r\n");
    bench.version = dormouse_protocol::Version::Resp3;
    for command in [&[&b"LPOP"[..], b"k"][..], &[b"LPOP", b"k", b"1"], &[b"LMPOP", b"1", b"k", b"LEFT"]] {
        assert_eq!(bench.run_raw(command), b"_\r\n");
    }
}

#[test]
fn single_elements() {
    check(&[
        ("LINDEX k x", "nil"),
        ("LSET k x v", "(error) ERR no such key"),
        ("RPUSH k a b c", "3"),
        ("LINDEX k 0", "a"),
        ("LINDEX k -1", "c"),
        ("LINDEX k 3", "nil"),
        ("LINDEX k -4", "nil"),
        ("LINDEX k -9223372036854775808", "nil"),
        ("LINDEX k x", NOT_AN_INTEGER),
        ("LSET k 1 B", "OK"),
        ("LSET k -1 C", "OK"),
        ("LSET k 3 x", "(error) ERR index out of range"),
        ("LSET k -4 x", "(error) ERR index out of range"),
        ("LSET k x x", NOT_AN_INTEGER),
        ("LRANGE k 0 -1", "[a B C]"),
        ("LINSERT k before B 1", "4"),
        ("LINSERT k AFTER C 2", "5"),
        ("LINSERT k AFTER nothing 2", "-1"),
        ("LINSERT k BESIDE a 2", SYNTAX),
        ("LINSERT missing BEFORE a 2", "0"),
        ("LINSERT missing BESIDE a 2", SYNTAX),
        ("LRANGE k 0 -1", "[a 1 B C 2]"),
        ("SET s v", "OK"),
        ("LINDEX s x", WRONG_TYPE),
        ("LSET s x v", WRONG_TYPE),
        ("LINSERT s BEFORE a b", WRONG_TYPE),
    ]);
}

#[test]
fn ranges() {
    check(&[
        ("RPUSH k a b c d", "4"),
        ("LRANGE k 1 2", "[b c]"),
        ("LRANGE k -100 100", "[a b c d]"),
        ("LRANGE k -2 -1", "[c d]"),
        ("LRANGE k 2 1", "[]"),
        ("LRANGE k 4 9", "[]"),
        ("LRANGE k 0 -5", "[]"),
        ("LRANGE k -9223372036854775808 9223372036854775807", "[a b c d]"),
        ("LRANGE k x 1", NOT_AN_INTEGER),
        ("LRANGE k 0 1.0", NOT_AN_INTEGER),
        ("LRANGE missing 0 -1", "[]"),
        ("LTRIM missing 0 -1", "OK"),
        ("LTRIM k 0 -1", "OK"),
        ("LTRIM k 1 -2", "OK"),
        ("LRANGE k 0 -1", "[b c]"),
        ("LTRIM k 5 9", "OK"),
        ("LLEN k", "0"),
        ("SET k v", "OK"),
        ("LRANGE k 0 -1", WRONG_TYPE),
        ("LRANGE k x y", NOT_AN_INTEGER),
        ("LTRIM k 0 1", WRONG_TYPE),
        ("LTRIM k 0 x", NOT_AN_INTEGER),
    ]);
}

#[test]
fn removal() {
    check(&[
        ("RPUSH k a b a c a", "5"),
        ("LREM k -1 a", "1"),
        ("LRANGE k 0 -1", "[a b a c]"),
        ("LREM k 1 a", "1"),
        ("LRANGE k 0 -1", "[b a c]"),
        ("LREM k 0 x", "0"),
        ("LREM k 1.5 x", NOT_AN_INTEGER),
        ("RPUSH k a a", "5"),
        ("LREM k -9223372036854775808 a", "3"),
        ("LREM k 9223372036854775807 c", "1"),
        ("LREM k 0 b", "1"),
        ("LLEN k", "0"),
        ("LREM k 0 b", "0"),
        ("SET s v", "OK"),
        ("LREM s 0 a", WRONG_TYPE),
        ("LREM s x a", NOT_AN_INTEGER),
    ]);
}

#[test]
fn positions() {
    check(&[
        ("RPUSH k a b c 1 2 3 c c", "8"),
        ("LPOS k a", "0"),
        ("LPOS k c", "2"),
        ("LPOS k 01", "nil"),
        ("LPOS k 1", "3"),
        ("LPOS k c RANK 1", "2"),
        ("LPOS k c RANK 2", "6"),
        ("LPOS k c RANK 4", "nil"),
        ("LPOS k c RANK -1", "7"),
        ("LPOS k c RANK -3", "2"),
        ("LPOS k c RANK -9223372036854775807", "nil"),
        ("LPOS k c COUNT 0", "[2 6 7]"),
        ("LPOS k c COUNT 2", "[2 6]"),
        ("LPOS k c COUNT 2 RANK 2", "[6 7]"),
        ("LPOS k c COUNT 0 RANK -1", "[7 6 2]"),
        ("LPOS k c COUNT 0 RANK 9223372036854775807", "[]"),
        ("LPOS k c COUNT 0 MAXLEN 0", "[2 6 7]"),
        ("LPOS k c COUNT 0 MAXLEN 3", "[2]"),
        ("LPOS k c COUNT 0 MAXLEN 2", "[]"),
        ("LPOS k c COUNT 0 MAXLEN 7 RANK 2", "[6]"),
        ("LPOS k c MAXLEN 2 RANK -1", "7"),
        ("LPOS k b MAXLEN 2 RANK -1", "nil"),
        ("LPOS k c rank 1 rank 3", "7"),
        ("LPOS k x COUNT 1", "[]"),
        ("LPOS k c COUNT -1", "(error) ERR COUNT can't be negative"),
        ("LPOS k c COUNT x", "(error) ERR COUNT can't be negative"),
        ("LPOS k c MAXLEN -1", "(error) ERR MAXLEN can't be negative"),
        ("LPOS k c RANK x", NOT_AN_INTEGER),
        ("LPOS k c RANK -9223372036854775808", NOT_NEGATABLE),
        (
            "LPOS k c RANK 0",
            "(error) ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... or use negative \
             to start from the end of the list",
        ),
        ("LPOS k c RANK", SYNTAX),
        ("LPOS k c COUNT", SYNTAX),
        ("LPOS k c FIRST 1", SYNTAX),
        ("LPOS missing a", "nil"),
        ("LPOS missing a COUNT 0", "[]"),
        ("LPOS missing a FIRST", SYNTAX),
        ("SET s v", "OK"),
        ("LPOS s a", WRONG_TYPE),
    ]);
}

#[test]
fn moves() {
    check(&[
        ("RPUSH a 1 2 3", "3"),
        ("LMOVE a b LEFT RIGHT", "1"),
        ("LMOVE a b right left", "3"),
        ("LRANGE b 0 -1", "[3 1]"),
        ("RPOPLPUSH a b", "2"),
        ("LRANGE b 0 -1", "[2 3 1]"),
        ("LLEN a", "0"),
        ("LMOVE a b LEFT LEFT", "nil"),
        ("RPOPLPUSH a b", "nil"),
        ("RPOPLPUSH b b", "1"),
        ("LRANGE b 0 -1", "[1 2 3]"),
        ("LMOVE b b LEFT RIGHT", "1"),
        ("LMOVE b b LEFT LEFT", "2"),
        ("LMOVE b b RIGHT RIGHT", "1"),
        ("LRANGE b 0 -1", "[2 3 1]"),
        ("LMOVE a a LEFT RIGHT", "nil"),
        ("LMOVE b c UP LEFT", SYNTAX),
        ("LMOVE b c LEFT 0", SYNTAX),
        ("SET s v", "OK"),
        ("LMOVE a s LEFT LEFT", "nil"),
        ("LMOVE b s LEFT LEFT", WRONG_TYPE),
        ("RPOPLPUSH b s", WRONG_TYPE),
        ("LMOVE s b LEFT LEFT", WRONG_TYPE),
        ("LMOVE s s LEFT LEFT", WRONG_TYPE),
        ("LRANGE b 0 -1", "[2 3 1]"),
    ]);
}

#[test]
fn moves_of_several() {
    const COUNT: &str = "(error) ERR count should be greater than 0";
    check(&[
        ("RPUSH a 1 2 3 4 5 6", "6"),
        ("LMOVEM a b LEFT RIGHT", "[1]"),
        ("LMOVEM a b LEFT LEFT COUNT 2 OBO", "[3 2]"),
        ("LMOVEM a b RIGHT RIGHT count 2 bulk", "[5 6]"),
        ("LMOVEM a b RIGHT LEFT EXACTLY 5 BULK", "nil"),
        ("LMOVEM none b RIGHT LEFT COUNT 5 BULK", "nil"),
        ("LMOVEM a b RIGHT LEFT COUNT 5 BULK", "[4]"),
        ("LRANGE b 0 -1", "[4 3 2 1 5 6]"),
        ("EXISTS a", "0"),
        ("LMOVEM b b LEFT RIGHT COUNT 2 OBO", "[4 3]"),
        ("LMOVEM b b LEFT LEFT COUNT 3 OBO", "[5 1 2]"),
        ("LRANGE b 0 -1", "[5 1 2 6 4 3]"),
        ("EXPIRE b 100", "1"),
        ("LMOVEM b b LEFT LEFT EXACTLY 6 OBO", "[3 4 6 2 1 5]"),
        ("LMOVEM b b LEFT LEFT EXACTLY 6 BULK", "[3 4 6 2 1 5]"),
        ("LMOVEM b b LEFT LEFT", "[3]"),
        ("LMOVEM b b LEFT LEFT EXACTLY 7 OBO", "nil"),
        ("PTTL b", "100000"),
        ("LMOVEM b c RIGHT RIGHT COUNT 2 OBO", "[5 1]"),
        ("PTTL c", "-1"),
        ("LMOVEM c b LEFT RIGHT COUNT 9 BULK", "[5 1]"),
        ("SET s v", "OK"),
        ("LMOVEM s b LEFT LEFT", WRONG_TYPE),
        ("LMOVEM b s LEFT LEFT", WRONG_TYPE),
        ("LMOVEM none s LEFT LEFT", "nil"),
        ("LMOVEM b s LEFT LEFT EXACTLY 9 OBO", "nil"),
        ("LRANGE b 0 -1", "[3 4 6 2 5 1]"),
        ("LMOVEM b c UP LEFT", SYNTAX),
        ("LMOVEM b c LEFT LEFT COUNT 2", SYNTAX),
        ("LMOVEM b c LEFT LEFT COUNT 0 OBO", COUNT),
        ("LMOVEM b c LEFT LEFT COUNT -1 OBO", COUNT),
        ("LMOVEM b c LEFT LEFT COUNT x NO", COUNT),
        ("LMOVEM b c LEFT LEFT COUNT 1 NO", SYNTAX),
        ("LMOVEM b c LEFT LEFT OBO COUNT 1", SYNTAX),
        ("LMOVEM b c LEFT LEFT FOO 1 OBO", SYNTAX),
        ("LMOVEM b c LEFT LEFT COUNT 1 OBO x", SYNTAX),
        ("LMOVEM b c LEFT LEFT EXACTLY 9223372036854775807 OBO", "nil"),
        ("LMOVEM b c LEFT", "(error) ERR wrong number of arguments for 'lmovem' command"),
    ]);
}

/// Moved one by one, or as a block, from either side to either side, in both forms of lists.
#[test]
fn the_order_of_several_is_that_of_the_moves() {
    let ends = ["LEFT", "RIGHT"];
    for (from, to) in ends.iter().flat_map(|from| ends.map(|to| (*from, to))) {
        for (length, count) in [(6, 1), (6, 4), (6, 6), (2000, 700), (2000, 2000)] {
            let fill = |bench: &mut Bench| {
                (0..length).for_each(|n| _ = bench.run(&format!("RPUSH a element:{n}")));
                (0..50).for_each(|n| _ = bench.run(&format!("RPUSH b other:{n}")));
            };
            let mut one_by_one = Bench::new();
            fill(&mut one_by_one);
            (0..count).for_each(|_| _ = one_by_one.run(&format!("LMOVE a b {from} {to}")));
            let (mut obo, mut bulk) = (Bench::new(), Bench::new());
            fill(&mut obo);
            fill(&mut bulk);
            let moved = obo.run(&format!("LMOVEM a b {from} {to} EXACTLY {count} OBO"));
            assert_eq!(obo.data(), one_by_one.data(), "{from} {to} {count} of {length}");
            let place = if to == "LEFT" { format!("0 {}", count - 1) } else { format!("-{count} -1") };
            assert_eq!(moved, obo.run(&format!("LRANGE b {place}")));
            let range = if from == "LEFT" { format!("0 {}", count - 1) } else { format!("-{count} -1") };
            let block = bulk.run(&format!("LRANGE a {range}"));
            assert_eq!(bulk.run(&format!("LMOVEM a b {from} {to} COUNT {count} BULK")), block);
            assert_eq!(bulk.run(&format!("LRANGE b {place}")), block);
        }
    }
}

#[test]
fn several_that_move_cost_what_they_are() {
    let mut bench = Bench::new();
    (0..300).for_each(|n| _ = bench.run(&format!("RPUSH l {n}")));
    for (line, cost) in [
        ("LMOVEM l m LEFT RIGHT", 1),
        ("LMOVEM l m LEFT RIGHT COUNT 10 OBO", 20),
        ("LMOVEM l m LEFT RIGHT EXACTLY 9999 OBO", 600),
        ("LMOVEM none m LEFT RIGHT COUNT 10 OBO", 0),
        ("LMOVEM l m LEFT RIGHT COUNT x OBO", 0),
        ("BLMOVEM l m LEFT RIGHT 0 COUNT 10 OBO", 20),
    ] {
        assert_eq!(bench.cost(line), Some(cost), "{line}");
    }
}

#[test]
fn a_list_of_one_that_turns_keeps_its_expiry() {
    let mut bench = Bench::new();
    let at = bench.now_ms + 5000;
    bench.run("RPUSH k a");
    assert!(bench.keyspace().set_expiry(b"k", Some(at)));
    assert_eq!(bench.run("LMOVE k k LEFT RIGHT"), "a");
    assert_eq!(bench.keyspace().expiry(b"k"), Some(Some(at)));
}

#[test]
fn pops_from_the_first_that_has_something() {
    check(&[
        ("RPUSH b 1 2 3 4 5", "5"),
        ("LMPOP 2 a b LEFT", "[b [1]]"),
        ("LMPOP 2 a b RIGHT COUNT 2", "[b [5 4]]"),
        ("LMPOP 1 b left count 9", "[b [2 3]]"),
        ("LMPOP 2 a b LEFT", "nil"),
        ("LMPOP 0 a LEFT", "(error) ERR numkeys should be greater than 0"),
        ("LMPOP -1 a LEFT", "(error) ERR numkeys should be greater than 0"),
        ("LMPOP x a LEFT", "(error) ERR numkeys should be greater than 0"),
        ("LMPOP 2 a LEFT", SYNTAX),
        ("LMPOP 3 a LEFT", SYNTAX),
        ("LMPOP 9223372036854775807 a LEFT", SYNTAX),
        ("LMPOP 1 a UP", SYNTAX),
        ("LMPOP 1 a LEFT COUNT", SYNTAX),
        ("LMPOP 1 a LEFT COUNT 0", "(error) ERR count should be greater than 0"),
        ("LMPOP 1 a LEFT COUNT x", "(error) ERR count should be greater than 0"),
        ("LMPOP 1 a LEFT COUNT 1 COUNT 1", SYNTAX),
        ("SET s v", "OK"),
        ("RPUSH b 1", "1"),
        ("LMPOP 2 s b LEFT", WRONG_TYPE),
        ("LMPOP 2 b s LEFT", "[b [1]]"),
    ]);
    check_resp3(&[("RPUSH k a b", "2"), ("LMPOP 1 k LEFT COUNT 5", "[k [a b]]"), ("LMPOP 1 k LEFT", "nil")]);
}

#[test]
fn large_lists() {
    let mut bench = Bench::new();
    let long = vec![b'x'; 20_000];
    for i in 0..3000 {
        bench.run_args(&[b"RPUSH", b"k", format!("element-{i}").as_bytes()]);
    }
    assert_eq!(bench.run_args(&[b"LINSERT", b"k", b"AFTER", b"element-1500", &long]), "3001");
    assert_eq!(bench.run("LINDEX k 1500"), "element-1500");
    assert_eq!(bench.run("LINDEX k 1502"), "element-1501");
    assert_eq!(bench.run_args(&[b"LPOS", b"k", &long]), "1501");
    assert_eq!(bench.run("LRANGE k 2998 -1"), "[element-2997 element-2998 element-2999]");
    assert_eq!(bench.run("LPOS k element-2000 RANK -1"), "2001");
    assert_eq!(bench.run("LTRIM k 1500 1502"), "OK");
    assert_eq!(bench.run("RPOP k 1"), "[element-1501]");
    assert_eq!(bench.run("LPOP k"), "element-1500");
    assert_eq!(bench.run("LLEN k"), "1");
}

/// Keys `a` to `c`, few elements, so that lists empty, meet and clash with a string.
fn command() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let key = || prop_oneof![4 => Just("a"), 4 => Just("b"), 1 => Just("c")];
    let element = || prop_oneof![Just("1".to_owned()), Just("x".to_owned()), Just("y".repeat(3000))];
    let end = || prop_oneof![Just("LEFT"), Just("RIGHT")];
    let number = || (-4..5i64).prop_map(|n| n.to_string());
    let words = |words: &[&str]| words.iter().map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
    prop_oneof![
        (key(), element(), element()).prop_map(move |(k, a, b)| words(&["LPUSH", k, &a, &b])),
        (key(), element(), element()).prop_map(move |(k, a, b)| words(&["RPUSH", k, &a, &b])),
        (key(), element()).prop_map(move |(k, a)| words(&["RPUSHX", k, &a])),
        (key(), element()).prop_map(move |(k, a)| words(&["LPUSHX", k, &a])),
        key().prop_map(move |k| words(&["LPOP", k])),
        (key(), number()).prop_map(move |(k, n)| words(&["RPOP", k, &n])),
        (key(), number(), element()).prop_map(move |(k, n, a)| words(&["LSET", k, &n, &a])),
        (key(), element(), element()).prop_map(move |(k, p, a)| words(&["LINSERT", k, "AFTER", &p, &a])),
        (key(), number(), element()).prop_map(move |(k, n, a)| words(&["LREM", k, &n, &a])),
        (key(), number(), number()).prop_map(move |(k, n, m)| words(&["LTRIM", k, &n, &m])),
        (key(), key(), end(), end()).prop_map(move |(k, l, f, t)| words(&["LMOVE", k, l, f, t])),
        (key(), key()).prop_map(move |(k, l)| words(&["RPOPLPUSH", k, l])),
        (key(), key(), end(), end(), number(), any::<[bool; 2]>()).prop_map(move |(k, l, f, t, n, [exact, bulk])| {
            let (amount, order) = (if exact { "EXACTLY" } else { "COUNT" }, if bulk { "BULK" } else { "OBO" });
            words(&["LMOVEM", k, l, f, t, amount, &n, order])
        }),
        Just(words(&["PEXPIRE", "a", "9"])),
        (key(), key(), end(), number()).prop_map(move |(k, l, e, n)| words(&["LMPOP", "2", k, l, e, "COUNT", &n])),
        Just(words(&["SET", "c", "v"])),
        Just(words(&["SET", "a", "v", "PX", "3"])),
    ]
}

proptest! {
    #[test]
    fn effects_make_the_same_lists(commands in prop::collection::vec(command(), 0..60)) {
        check_effects(&commands);
    }
}
