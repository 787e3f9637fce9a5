use std::collections::{BTreeMap, BTreeSet};

use dormouse_protocol::Version;
use proptest::prelude::*;

use crate::commands::testing::{Bench, check, check_effects, check_resp3};

const WRONG_TYPE: &str = "(error) WRONGTYPE Operation against a key holding the wrong kind of value";
const NOT_AN_INTEGER: &str = "(error) ERR value is not an integer or out of range";
const SYNTAX: &str = "(error) ERR syntax error";

#[test]
fn setting_and_getting() {
    check(&[
        ("HSET h a 1 b x", "2"),
        ("HSET h a 2 c y c z", "1"),
        ("HGET h a", "2"),
        ("HGET h c", "z"),
        ("HGET h missing", "nil"),
        ("HGET missing a", "nil"),
        ("HMGET h a missing c a", "[2 nil z 2]"),
        ("HMGET missing a b", "[nil nil]"),
        ("HMSET h d 4 \"\" \"\"", "OK"),
        ("HGET h \"\"", "\"\""),
        ("HLEN h", "5"),
        ("HLEN missing", "0"),
        ("HSETNX h a 9", "0"),
        ("HSETNX h e 9", "1"),
        ("HSETNX new a 1", "1"),
        ("HGET new a", "1"),
        ("HEXISTS h e", "1"),
        ("HEXISTS h f", "0"),
        ("HEXISTS missing f", "0"),
        ("HSET h n -9223372036854775808", "1"),
        ("HSTRLEN h n", "20"),
        ("HSTRLEN h missing", "0"),
        ("HSTRLEN missing a", "0"),
    ]);
}

#[test]
fn errors() {
    check(&[
        ("HSET h a", "(error) ERR wrong number of arguments for 'hset' command"),
        ("HSET h a 1 b", "(error) ERR wrong number of arguments for 'hset' command"),
        ("hmset h a 1 b", "(error) ERR wrong number of arguments for 'hmset' command"),
        ("HGET h", "(error) ERR wrong number of arguments for 'hget' command"),
        ("HGETALL h x", "(error) ERR wrong number of arguments for 'hgetall' command"),
        ("HLEN h", "0"),
        ("SET s v", "OK"),
        ("HSET s a 1 b", "(error) ERR wrong number of arguments for 'hset' command"),
        ("HSET s a 1", WRONG_TYPE),
        ("HMSET s a 1", WRONG_TYPE),
        ("HSETNX s a 1", WRONG_TYPE),
        ("HGET s a", WRONG_TYPE),
        ("HMGET s a", WRONG_TYPE),
        ("HGETALL s", WRONG_TYPE),
        ("HDEL s a", WRONG_TYPE),
        ("HEXISTS s a", WRONG_TYPE),
        ("HLEN s", WRONG_TYPE),
        ("HSTRLEN s a", WRONG_TYPE),
        ("HKEYS s", WRONG_TYPE),
        ("HVALS s", WRONG_TYPE),
        ("HINCRBY s a 1", WRONG_TYPE),
        ("HINCRBYFLOAT s a 1", WRONG_TYPE),
        ("HRANDFIELD s", WRONG_TYPE),
        ("HRANDFIELD s 0", WRONG_TYPE),
        ("HSCAN s 0", WRONG_TYPE),
        ("HSCAN s 0 FOO", WRONG_TYPE),
        ("GET s", "v"),
    ]);
}

#[test]
fn everything() {
    check(&[
        ("HSET h b 2 a x", "2"),
        ("HGETALL h", "[b 2 a x]"),
        ("HKEYS h", "[b a]"),
        ("HVALS h", "[2 x]"),
        ("HGETALL missing", "[]"),
        ("HKEYS missing", "[]"),
        ("HVALS missing", "[]"),
    ]);
    check_resp3(&[
        ("HSET h b 2 a x", "2"),
        ("HGETALL h", "{b 2 a x}"),
        ("HKEYS h", "[b a]"),
        ("HVALS h", "[2 x]"),
        ("HGETALL missing", "{}"),
        ("HKEYS missing", "[]"),
        ("HMGET h a c", "[x nil]"),
        ("HSCAN h 0", "[0 [b 2 a x]]"),
    ]);
}

#[test]
fn deletion() {
    check(&[
        ("HSET h a 1 b 2 c 3", "3"),
        ("HDEL h a missing a", "1"),
        ("HDEL h missing", "0"),
        ("HDEL missing a", "0"),
        ("HDEL h b c d", "2"),
        ("HLEN h", "0"),
        ("SET h v NX", "OK"),
    ]);
}

#[test]
fn increments() {
    check(&[
        ("HINCRBY h n 5", "5"),
        ("HINCRBY h n -7", "-2"),
        ("HINCRBY h n x", NOT_AN_INTEGER),
        ("HINCRBY h n 1.5", NOT_AN_INTEGER),
        ("HINCRBY h n 9223372036854775807", "9223372036854775805"),
        ("HINCRBY h n 3", "(error) ERR increment or decrement would overflow"),
        ("HGET h n", "9223372036854775805"),
        ("HSET h t 01 f 1.5", "2"),
        ("HINCRBY h t 1", "(error) ERR hash value is not an integer"),
        ("HINCRBY h f 1", "(error) ERR hash value is not an integer"),
        ("SET s v", "OK"),
        ("HINCRBY s n x", NOT_AN_INTEGER),
    ]);
}

#[test]
fn float_increments() {
    const NOT_A_FLOAT: &str = "(error) ERR value is not a valid float";
    check(&[
        ("HINCRBYFLOAT h f 10.50", "10.5"),
        ("HINCRBYFLOAT h f 0.1", "10.6"),
        ("HINCRBYFLOAT h f -5", "5.6"),
        ("HSET h f 5.0e3", "0"),
        ("HINCRBYFLOAT h f 2.0e2", "5200"),
        ("HGET h f", "5200"),
        ("HINCRBYFLOAT h f x", NOT_A_FLOAT),
        ("HINCRBYFLOAT h f \"\"", NOT_A_FLOAT),
        ("HINCRBYFLOAT h f nan", NOT_A_FLOAT),
        ("HINCRBYFLOAT h f inf", "(error) ERR value is NaN or Infinity"),
        ("HINCRBYFLOAT h f -inf", "(error) ERR value is NaN or Infinity"),
        ("HSET h t \" 1\" i inf", "2"),
        ("HINCRBYFLOAT h t 1", "(error) ERR hash value is not a float"),
        ("HINCRBYFLOAT h i 1", "(error) ERR increment would produce NaN or Infinity"),
        ("HINCRBYFLOAT h hex 0x10", "16"),
        ("HINCRBYFLOAT new f x", NOT_A_FLOAT),
        ("HLEN new", "0"),
    ]);
}

#[test]
fn random_fields() {
    const NOT_NEGATABLE: &str =
        "(error) ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807";
    const OUT_OF_RANGE: &str = "(error) ERR value is out of range";
    check(&[
        ("HRANDFIELD h", "nil"),
        ("HRANDFIELD h 3", "[]"),
        ("HRANDFIELD h -3 WITHVALUES", "[]"),
        ("HSET h a 1", "1"),
        ("HRANDFIELD h", "a"),
        ("HRANDFIELD h 0", "[]"),
        ("HRANDFIELD h 0 WITHVALUES", "[]"),
        ("HRANDFIELD h 3", "[a]"),
        ("HRANDFIELD h 9223372036854775807", "[a]"),
        ("HRANDFIELD h 3 withvalues", "[a 1]"),
        ("HRANDFIELD h -3", "[a a a]"),
        ("HRANDFIELD h -2 WITHVALUES", "[a 1 a 1]"),
        ("HRANDFIELD h x", NOT_AN_INTEGER),
        ("HRANDFIELD h 1 VALUES", SYNTAX),
        ("HRANDFIELD h 1 WITHVALUES x", SYNTAX),
        ("HRANDFIELD missing 1 VALUES", SYNTAX),
        ("HRANDFIELD h -9223372036854775808", NOT_NEGATABLE),
        ("HRANDFIELD h -9223372036854775807 WITHVALUES", OUT_OF_RANGE),
        ("HRANDFIELD missing 9223372036854775807 WITHVALUES", OUT_OF_RANGE),
        ("HRANDFIELD h -4611686018427387904 WITHVALUES", OUT_OF_RANGE),
        ("HRANDFIELD h -9223372036854775807", OUT_OF_RANGE),
        ("HRANDFIELD h 9223372036854775807 WITHVALUES x", SYNTAX),
    ]);
    check_resp3(&[
        ("HRANDFIELD h", "nil"),
        ("HRANDFIELD h 1", "[]"),
        ("HSET h a 1", "1"),
        ("HRANDFIELD h 3 WITHVALUES", "[[a 1]]"),
        ("HRANDFIELD h -2 WITHVALUES", "[[a 1] [a 1]]"),
        ("HRANDFIELD h 0 WITHVALUES", "[]"),
        ("HRANDFIELD h 3", "[a]"),
    ]);
}

/// The words of a flat reply.
fn words(shown: &str) -> Vec<&str> {
    shown.trim_matches(['[', ']']).split(' ').filter(|word| !word.is_empty()).collect()
}

#[test]
fn distinct_fields_are_distinct_and_each_is_as_likely() {
    for fields in [20, 600] {
        let mut bench = Bench::new();
        for i in 0..fields {
            bench.run(&format!("HSET h f{i} {i}"));
        }
        let mut seen = BTreeMap::new();
        for count in [1, fields / 5, fields / 3, fields / 2, fields - 1, fields, fields + 1] {
            let shown = bench.run(&format!("HRANDFIELD h {count} WITHVALUES"));
            let words = words(&shown);
            let drawn: BTreeSet<_> = words.chunks(2).map(|pair| (pair[0], pair[1])).collect();
            assert_eq!(drawn.len(), count.min(fields), "{count} of {fields}");
            assert!(drawn.iter().all(|(field, value)| field[1..] == **value));
            let shown = bench.run(&format!("HRANDFIELD h -{count}"));
            assert_eq!(self::words(&shown).len(), count);
        }
        for _ in 0..300 {
            for field in words(&bench.run(&format!("HRANDFIELD h {}", fields / 10))) {
                *seen.entry(field.to_owned()).or_insert(0) += 1;
            }
        }
        // 30 each are expected; the odds of fewer than 5 or more than 70 are beyond one in a million.
        assert_eq!(seen.len(), fields);
        assert!(seen.values().all(|count| (5..70).contains(count)), "{seen:?}");
    }
}

#[test]
fn scans() {
    check(&[
        ("HSCAN missing 0", "[0 []]"),
        ("HSCAN missing 0 FOO", "[0 []]"),
        ("HSCAN missing x", "(error) ERR invalid cursor"),
        ("HSET h a 1 ab 2 b 3", "3"),
        ("HSCAN h 0", "[0 [a 1 ab 2 b 3]]"),
        ("HSCAN h 0 COUNT 1", "[0 [a 1 ab 2 b 3]]"),
        ("HSCAN h 0 NOVALUES", "[0 [a ab b]]"),
        ("HSCAN h 0 novalues MATCH a* NOVALUES", "[0 [a ab]]"),
        ("HSCAN h 0 MATCH NOVALUES", "[0 []]"),
        ("HSCAN h 0 NOSCORES", "(error) ERR NOSCORES option can only be used in ZSCAN"),
        ("ZSCAN missing 0 NOVALUES", "[0 []]"),
        ("SCAN 0 NOVALUES", "(error) ERR NOVALUES option can only be used in HSCAN"),
        ("HSCAN h 77", "[0 [a 1 ab 2 b 3]]"),
        ("HSCAN h 0 match a* count 9", "[0 [a 1 ab 2]]"),
        ("HSCAN h 0 MATCH *", "[0 [a 1 ab 2 b 3]]"),
        ("HSCAN h 0 MATCH 1", "[0 []]"),
        ("HSCAN h 0 MATCH a MATCH b", "[0 [b 3]]"),
        ("HSCAN h 0 COUNT 0", SYNTAX),
        ("HSCAN h 0 COUNT -1", SYNTAX),
        ("HSCAN h 0 COUNT x", NOT_AN_INTEGER),
        ("HSCAN h 0 COUNT", SYNTAX),
        ("HSCAN h 0 TYPE hash", SYNTAX),
        ("HSCAN h 99999999999999999999", "(error) ERR invalid cursor"),
        ("HSCAN h \" 1\"", "(error) ERR invalid cursor"),
        ("HSCAN h 18446744073709551615", "[0 [a 1 ab 2 b 3]]"),
    ]);
}

#[test]
fn a_scan_of_a_large_hash_sees_each_field_once() {
    let mut bench = Bench::new();
    for i in 0..3000 {
        bench.run(&format!("HSET h f{i} {i}"));
    }
    let (mut cursor, mut seen, mut pages) = ("0".to_owned(), BTreeSet::new(), 0);
    loop {
        let shown = bench.run(&format!("HSCAN h {cursor} COUNT 50 MATCH f*"));
        let (next, elements) = shown.trim_start_matches('[').split_once(" [").expect("a cursor and elements");
        for pair in words(elements).chunks(2) {
            assert_eq!(&pair[0][1..], pair[1]);
            assert!(seen.insert(pair[0].to_owned()), "{} came twice", pair[0]);
        }
        (cursor, pages) = (next.to_owned(), pages + 1);
        if cursor == "0" {
            break;
        }
        assert!(cursor.parse::<u64>().expect("a number") < 1 << 53);
    }
    assert_eq!(seen.len(), 3000);
    assert!((10..=60).contains(&pages), "{pages} pages");
    assert_eq!(bench.run("HSCAN h 18446744073709551615"), "[0 []]");
}

#[test]
fn large_hashes_answer_as_small_ones() {
    let mut bench = Bench::new();
    bench.run_args(&[b"HSET", b"h", b"long", &[b'x'; 100], b"n", b"41", b"t", b"word"]);
    assert_eq!(bench.run("HINCRBY h n 1"), "42");
    assert_eq!(bench.run("HINCRBY h t 1"), "(error) ERR hash value is not an integer");
    assert_eq!(bench.run("HINCRBYFLOAT h n 0.5"), "42.5");
    assert_eq!(bench.run("HSTRLEN h long"), "100");
    assert_eq!(bench.run("HMGET h n t u"), "[42.5 word nil]");
    assert_eq!(bench.run("HSETNX h n 1"), "0");
    assert_eq!(bench.run("HDEL h long n t"), "3");
    assert_eq!(bench.run("HLEN h"), "0");
    bench.version = Version::Resp3;
    assert_eq!(bench.run("HGETALL h"), "{}");
}

fn command() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let key = || prop_oneof![4 => Just("a"), 4 => Just("b"), 1 => Just("c")];
    let field = || prop_oneof![Just("f".to_owned()), Just("1".to_owned()), Just("g".repeat(70))];
    let value = || prop_oneof![Just("x".to_owned()), Just("1.5".to_owned()), (-9..9i64).prop_map(|n| n.to_string())];
    let words = |words: &[&str]| words.iter().map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
    prop_oneof![
        (key(), field(), value(), field(), value())
            .prop_map(move |(k, f, v, g, w)| words(&["HSET", k, &f, &v, &g, &w])),
        (key(), field(), value()).prop_map(move |(k, f, v)| words(&["HMSET", k, &f, &v])),
        (key(), field(), value()).prop_map(move |(k, f, v)| words(&["HSETNX", k, &f, &v])),
        (key(), field(), field()).prop_map(move |(k, f, g)| words(&["HDEL", k, &f, &g])),
        (key(), field(), value()).prop_map(move |(k, f, v)| words(&["HINCRBY", k, &f, &v])),
        (key(), field(), value()).prop_map(move |(k, f, v)| words(&["HINCRBYFLOAT", k, &f, &v])),
        (key(), value()).prop_map(move |(k, v)| words(&["HRANDFIELD", k, &v])),
        Just(words(&["SET", "c", "v"])),
        Just(words(&["SET", "a", "v", "PX", "3"])),
    ]
}

proptest! {
    #[test]
    fn effects_make_the_same_hashes(commands in prop::collection::vec(command(), 0..60)) {
        check_effects(&commands);
    }
}
