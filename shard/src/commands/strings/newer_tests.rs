//! Conditions, digests, counters with bounds, and `MSETEX`: replies are those of Redis 8.10.2, of `DELIFEQ` those of Valkey 9.1.2.

use proptest::prelude::*;

use crate::commands::testing::{Bench, check, check_effects, check_resp3};

const WRONGTYPE: &str = "(error) WRONGTYPE Operation against a key holding the wrong kind of value";
const SYNTAX: &str = "(error) ERR syntax error";
const NOT_AN_INTEGER: &str = "(error) ERR value is not an integer or out of range";
const NO_DIGEST: &str = "(error) ERR must be exactly 16 hexadecimal characters";

#[test]
fn set_if_the_value_compares() {
    check(&[
        ("SET k v IFEQ x", "nil"),
        ("EXISTS k", "0"),
        ("SET k v IFNE x", "OK"),
        ("SET k w IFEQ v", "OK"),
        ("SET k w ifeq v GET", "w"),
        ("SET k x GET IFEQ w", "w"),
        ("SET k w IFEQ x", "OK"),
        ("SET k z IFEQ z IFEQ w", "OK"),
        ("SET k z IFEQ z IFNE w", SYNTAX),
        ("SET k z IFEQ z IFDEQ w", SYNTAX),
        ("SET k z IFEQ", SYNTAX),
        ("SET k z NX IFEQ a", SYNTAX),
        ("SET k z IFNE a XX", SYNTAX),
        ("SET k z IFDEQ 123", NO_DIGEST),
        ("SET none z IFDEQ 123", "nil"),
        ("SET none z IFDNE 123", "OK"),
        ("SET k z IFDEQ zzzzzzzzzzzzzzzz", "nil"),
        ("SET k z IFDNE zzzzzzzzzzzzzzzz", "OK"),
        ("SET k foo", "OK"),
        ("SET k v2 IFDNE ab6e5f64077e7d8a", "nil"),
        ("SET k v2 IFDEQ AB6E5F64077e7d8A EX 100", "OK"),
        ("SET k v3 IFEQ v2 KEEPTTL", "OK"),
        ("PTTL k", "100000"),
        ("SET k v4 KEEPTTL IFEQ v2", "nil"),
        ("SET k v4 IFNE v3 EX 0", "(error) ERR invalid expire time in 'set' command"),
        ("SET k v4 IFEQ v3", "OK"),
        ("PTTL k", "-1"),
        ("SET n 10", "OK"),
        ("SET n 11 IFEQ 010", "nil"),
        ("SET n 11 IFEQ 10", "OK"),
        ("RPUSH l a", "1"),
        ("SET l v IFEQ a", WRONGTYPE),
        ("SET l v IFNE a", WRONGTYPE),
        ("SET l v IFDEQ 123", WRONGTYPE),
        ("SET l v IFEQ a GET", WRONGTYPE),
        ("TYPE l", "list"),
    ]);
}

#[test]
fn digests() {
    check(&[
        ("DIGEST none", "nil"),
        ("SET k \"\"", "OK"),
        ("DIGEST k", "2d06800538d394c2"),
        ("SET k foo", "OK"),
        ("DIGEST k", "ab6e5f64077e7d8a"),
        ("SET k \"Hello world\"", "OK"),
        ("DIGEST k", "b6acb9d84a38ff74"),
        ("SET k z", "OK"),
        ("DIGEST k", "54a7d9dde88eadb0"),
        ("SET k 11", "OK"),
        ("DIGEST k", "205381dc855b977a"),
        ("RPUSH l a", "1"),
        ("DIGEST l", WRONGTYPE),
        ("DIGEST", "(error) ERR wrong number of arguments for 'digest' command"),
    ]);
    // A long one is hashed in parts, and shorter ones in ways of their own.
    let mut bench = Bench::new();
    for (length, digest) in LONG {
        bench.run("DEL k");
        bench.run(&format!("SETRANGE k {} x", length - 1));
        assert_eq!(bench.run("DIGEST k"), *digest, "{length} bytes");
        assert_eq!(bench.run(&format!("DELEX k IFDEQ {digest}")), "1");
    }
}

/// So many bytes, zeros and an `x`, with the digest that Redis 8.10.2 gives them.
const LONG: &[(usize, &str)] = &[
    (1, "eaf06c6480b2cd11"),
    (3, "54a6e551df75f7fa"),
    (4, "e16b9c4b9d349ada"),
    (8, "809d0b522c3ebed1"),
    (9, "aa299ae4b9d38a6e"),
    (16, "a8664cce749857e5"),
    (17, "e49b512dfd6fb878"),
    (128, "d66a0337f2898c38"),
    (129, "1c8f40aab4f43827"),
    (240, "48c8c1cd93362627"),
    (241, "152c684685fe0889"),
    (1_024, "b2da5d6978a1abb6"),
    (1_025, "50e65971e9848170"),
    (300_000, "6acd7d05602492eb"),
    (600_001, "8e7bfb82d82f4ebd"),
];

#[test]
fn deletions_on_a_condition() {
    const NO_STRING: &str = "(error) ERR Key should be of string type if conditions are specified";
    const ARITY: &str = "(error) ERR wrong number of arguments for 'delex' command";
    check(&[
        ("DELEX none", "0"),
        ("DELEX none IFEQ a", "0"),
        ("DELEX none IFNE a", "0"),
        ("DELEX none FOO a", "0"),
        ("RPUSH l a", "1"),
        ("DELEX l IFEQ a", NO_STRING),
        ("DELEX l FOO a", NO_STRING),
        ("SET k v3", "OK"),
        ("DELEX k FOO a", "(error) ERR Invalid condition. Use IFEQ, IFNE, IFDEQ, or IFDNE"),
        ("DELEX k IFDEQ a", NO_DIGEST),
        ("DELEX k IFEQ", ARITY),
        ("DELEX k IFEQ a b", ARITY),
        ("DELEX", ARITY),
        ("DELEX k IFEQ a", "0"),
        ("DELEX k IFNE v3", "0"),
        ("DELEX k ifeq v3", "1"),
        ("EXISTS k", "0"),
        ("DELEX l", "1"),
        ("EXISTS l", "0"),
        ("SET a foo", "OK"),
        ("DELEX a IFDNE ab6e5f64077e7d8a", "0"),
        ("DELEX a IFDEQ Ab6e5f64077e7d8A", "1"),
        ("SET n 10", "OK"),
        ("DELEX n IFEQ 010", "0"),
        ("DELEX n IFNE 010", "1"),
        ("DELIFEQ none v", "0"),
        ("SET k v", "OK"),
        ("DELIFEQ k w", "0"),
        ("DELIFEQ k v", "1"),
        ("SET n 10", "OK"),
        ("DELIFEQ n 010", "0"),
        ("DELIFEQ n 10", "1"),
        ("RPUSH l a", "1"),
        ("DELIFEQ l a", WRONGTYPE),
    ]);
}

#[test]
fn several_at_once_with_an_expiry() {
    const TOO_FEW: &str = "(error) ERR wrong number of key-value pairs";
    const NUMKEYS: &str = "(error) ERR invalid numkeys value";
    check(&[
        ("MSETEX 2 a 1 b 2", "1"),
        ("MSETEX 2 a 3 b 4 NX", "0"),
        ("MSETEX 2 new 3 b 4 NX", "0"),
        ("MSETEX 2 a 3 zz 4 XX", "0"),
        ("MGET a b zz new", "[1 2 nil nil]"),
        ("MSETEX 2 a 3 b 4 XX EX 100", "1"),
        ("PTTL b", "100000"),
        ("MSETEX 2 a 5 c 6 KEEPTTL", "1"),
        ("PTTL a", "100000"),
        ("PTTL c", "-1"),
        ("MSETEX 2 a 1 b 2", "1"),
        ("PTTL a", "-1"),
        ("MSETEX 2 x 1 x 2 px 10 nx", "1"),
        ("GET x", "2"),
        ("PTTL x", "10"),
        ("RPUSH list a", "1"),
        ("MSETEX 1 list 1", "1"),
        ("GET list", "1"),
        ("MSETEX 1 a 1 EXAT 1700000100", "1"),
        ("PTTL a", "100000"),
        ("MSETEX 1 a 1 PXAT 1", "1"),
        ("EXISTS a", "0"),
        ("MSETEX 2 a 1 b", TOO_FEW),
        ("MSETEX 2 a 1", TOO_FEW),
        ("MSETEX 2147483647 a 1", TOO_FEW),
        ("MSETEX 0 a 1", NUMKEYS),
        ("MSETEX -1 a 1", NUMKEYS),
        ("MSETEX x a 1", NUMKEYS),
        ("MSETEX 2147483648 a 1", NUMKEYS),
        ("MSETEX 1 a 1 b 2", SYNTAX),
        ("MSETEX 1 a 1 NX XX", SYNTAX),
        ("MSETEX 1 a 1 NX NX", "1"),
        ("MSETEX 1 a 1 GET", SYNTAX),
        ("MSETEX 1 a 1 IFEQ 1", SYNTAX),
        ("MSETEX 1 a 1 EX", SYNTAX),
        ("MSETEX 1 a 1 EX 0", "(error) ERR invalid expire time in 'msetex' command"),
        ("MSETEX 1 a 1 EX x", NOT_AN_INTEGER),
        ("MSETEX 1 a 1 EX x FOO", SYNTAX),
        ("MSETEX 1 a 1 EX 1 PX 1", SYNTAX),
        ("MSETEX 1 a 1 KEEPTTL EX 1", SYNTAX),
        ("MSETEX 1 a 1 EX 1 EX 100", "1"),
        ("PTTL a", "100000"),
        ("MSETEX 1 a", "(error) ERR wrong number of arguments for 'msetex' command"),
    ]);
}

#[test]
fn counters_with_bounds() {
    check(&[
        ("INCREX k", "[1 1]"),
        ("INCREX k BYINT 5", "[6 5]"),
        ("INCREX k byint -3 lbound 0", "[3 -3]"),
        ("INCREX k BYINT 10 UBOUND 5", "[3 0]"),
        ("INCREX k BYINT 10 UBOUND 5 SATURATE", "[5 2]"),
        ("INCREX k SATURATE UBOUND 2", "[2 -3]"),
        ("INCREX k BYINT -1 UBOUND -1", "[2 0]"),
        ("GET k", "2"),
        ("INCREX none BYINT 5 UBOUND 3", "[0 0]"),
        ("INCREX none EXAT 1", "[1 1]"),
        ("INCREX none PXAT 1 UBOUND 0", "[0 0]"),
        ("EXISTS none", "0"),
        ("SET big 9223372036854775807", "OK"),
        ("INCREX big", "[9223372036854775807 0]"),
        ("INCREX big SATURATE", "[9223372036854775807 0]"),
        ("INCREX big BYINT -9223372036854775808", "[-1 -9223372036854775808]"),
        ("INCREX big BYINT -9223372036854775808", "[-1 0]"),
        ("INCREX big BYINT -9223372036854775808 SATURATE", "[-9223372036854775808 -9223372036854775807]"),
        ("SET big 9223372036854775807", "OK"),
        ("INCREX big BYINT -1 UBOUND -9223372036854775808 SATURATE", "(error) ERR applied increment would overflow"),
        ("GET big", "9223372036854775807"),
        ("SET s abc", "OK"),
        ("INCREX s", NOT_AN_INTEGER),
        ("INCREX s BYFLOAT 1", "(error) ERR value is not a valid float"),
        ("RPUSH l a", "1"),
        ("INCREX l", WRONGTYPE),
        ("INCREX l BYINT x", "(error) ERR Increment is not an integer or out of range"),
        ("INCREX", "(error) ERR wrong number of arguments for 'increx' command"),
    ]);
}

#[test]
fn counters_with_an_expiry() {
    check(&[
        ("INCREX k EX 10", "[1 1]"),
        ("PTTL k", "10000"),
        ("INCREX k", "[2 1]"),
        ("PTTL k", "10000"),
        ("INCREX k BYINT 0 EX 100 ENX", "[2 0]"),
        ("PTTL k", "10000"),
        ("INCREX k PX 700", "[3 1]"),
        ("PTTL k", "700"),
        ("INCREX k BYINT 5 UBOUND 3 EX 10", "[3 0]"),
        ("PTTL k", "700"),
        ("INCREX k BYINT -1 PERSIST", "[2 -1]"),
        ("PTTL k", "-1"),
        ("INCREX k BYINT -1 PERSIST", "[1 -1]"),
        ("INCREX k ENX EX 100", "[2 1]"),
        ("PTTL k", "100000"),
        ("INCREX k PXAT 1 ENX", "[3 1]"),
        ("EXISTS k", "1"),
        ("INCREX k PXAT 1", "[4 1]"),
        ("EXISTS k", "0"),
        ("INCREX k ENX", "(error) ERR ENX flag requires an expiration"),
        ("INCREX k ENX PERSIST", SYNTAX),
        ("INCREX k PERSIST ENX", SYNTAX),
        ("INCREX k PERSIST EX 5", SYNTAX),
        ("INCREX k EX 5 PERSIST", SYNTAX),
        ("INCREX k EX 5 PX 5", SYNTAX),
        ("INCREX k EX 5 EX 5", SYNTAX),
        ("INCREX k EX 0", "(error) ERR invalid expire time in 'increx' command"),
        ("INCREX k PX 9223372036854775807", "(error) ERR invalid expire time in 'increx' command"),
        ("INCREX k EX x", NOT_AN_INTEGER),
    ]);
}

#[test]
fn options_of_counters() {
    check(&[
        ("SET k 2", "OK"),
        ("INCREX k BYINT x FOO", "(error) ERR Increment is not an integer or out of range"),
        ("INCREX k FOO BYINT x", SYNTAX),
        ("INCREX k BYFLOAT x", "(error) ERR Increment is not a valid float"),
        ("INCREX k BYFLOAT nan", "(error) ERR Increment is not a valid float"),
        ("INCREX k BYFLOAT inf", "(error) ERR BYFLOAT increment cannot be Infinity"),
        ("INCREX k BYINT 1 BYINT 1", SYNTAX),
        ("INCREX k BYINT 1 BYFLOAT 1", SYNTAX),
        ("INCREX k BYINT", SYNTAX),
        ("INCREX k LBOUND 5 UBOUND 4", "(error) ERR LBOUND can't be greater than UBOUND"),
        ("INCREX k LBOUND 5 LBOUND 4", SYNTAX),
        ("INCREX k LBOUND x UBOUND y", "(error) ERR LBOUND is not an integer or out of range"),
        ("INCREX k UBOUND 1.5", "(error) ERR UBOUND is not an integer or out of range"),
        ("INCREX k UBOUND 1.5 BYFLOAT 0.1", "[2 0]"),
        ("INCREX k BYFLOAT 0.1 UBOUND x", "(error) ERR UBOUND is not a valid float"),
        ("INCREX k BYFLOAT 0.1 LBOUND 2 UBOUND 1.5", "(error) ERR LBOUND can't be greater than UBOUND"),
        ("INCREX k SATURATE SATURATE", SYNTAX),
        ("GET k", "2"),
    ]);
}

#[test]
fn counters_with_a_fraction() {
    check(&[
        ("SET k 2", "OK"),
        ("INCREX k BYFLOAT 0.1 UBOUND inf LBOUND -inf", "[2.1 0.1]"),
        ("INCREX k BYFLOAT 0.5 UBOUND 10 EX 100", "[2.6 0.5]"),
        ("PTTL k", "100000"),
        ("INCREX k", NOT_AN_INTEGER),
        ("INCREX k BYFLOAT -1 UBOUND 1", "[2.6 0]"),
        ("INCREX k BYFLOAT -1 UBOUND 1 SATURATE", "[1 -1.6]"),
        ("OBJECT ENCODING k", "embstr"),
        ("SET f 0.1", "OK"),
        ("INCREX f BYFLOAT 0.2", "[0.3 0.2]"),
        ("INCREX f BYFLOAT -0.3", "[0 -0.3]"),
        ("INCREX f BYFLOAT 1e-7", "[0.0000001 0.0000001]"),
        ("SET f inf", "OK"),
        ("INCREX f BYFLOAT 1", "(error) ERR value cannot be Infinity"),
        ("SET f 1e4932", "OK"),
        ("INCREX f BYFLOAT 1e4932 SATURATE UBOUND inf", "(error) ERR applied increment would be Infinity"),
        ("INCREX f BYFLOAT 1 UBOUND 5 LBOUND 5 SATURATE EXAT 1", &format!("[5 -{}]", tenfold(4932))),
        ("EXISTS f", "0"),
    ]);
    let mut bench = Bench::new();
    bench.run("SET f 1.1e4932");
    let unchanged = bench.run("INCREX f BYFLOAT 1.1e4932");
    assert!(unchanged.starts_with("[10999999999999999") && unchanged.ends_with(" 0]"), "{unchanged}");
    let highest = bench.run("INCREX f BYFLOAT 1.1e4932 SATURATE");
    assert!(highest.starts_with("[118973149535723176"), "{highest}");
    check_resp3(&[("INCREX k BYFLOAT 1.5", "[1.5 1.5]"), ("INCREX k BYFLOAT 0.5 UBOUND 0", "[1.5 0]")]);
    bench.version = dormouse_protocol::Version::Resp3;
    assert_eq!(bench.run_raw(&[b"INCREX", b"n", b"BYFLOAT", b"0.5"]), b"*2\r\n,0.5\r\n,0.5\r\n");
}

/// The nearest number to a power of ten.
fn tenfold(power: usize) -> String {
    let mut bench = Bench::new();
    bench.run(&format!("INCRBYFLOAT f 1e{power}"))
}

#[test]
fn the_costs_are_those_of_the_bytes_looked_at() {
    let mut bench = Bench::new();
    bench.run("SETRANGE k 99999 x");
    for (line, is_costly) in [
        ("SET k v", false),
        ("SET k v IFEQ x", false),
        ("SET k v IFDEQ x", true),
        ("SET k v IFDNE x", true),
        ("DIGEST k", true),
        ("DELEX k", false),
        ("DELEX k IFNE x", false),
        ("DELEX k ifdne x", true),
    ] {
        assert_eq!(bench.cost(line).is_some_and(|cost| cost > 100), is_costly, "{line}");
    }
}

fn command() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let key = || prop_oneof![Just("a"), Just("b"), Just("c")];
    let value = || prop_oneof![Just("1"), Just("2.5"), Just("x"), Just("foo")];
    let number = || (-4..5i64).prop_map(|n| n.to_string());
    let ttl = || prop_oneof![Just(""), Just("KEEPTTL"), Just("PX 3"), Just("PXAT 1"), Just("EX 100")];
    let lapse = || prop_oneof![Just(""), Just("PERSIST"), Just("PX 3"), Just("PXAT 1"), Just("EX 100 ENX")];
    let when = || {
        prop_oneof![
            Just("IFEQ x"),
            Just("IFNE x"),
            Just("IFDEQ ab6e5f64077e7d8a"),
            Just("IFDNE ab6e5f64077e7d8a GET"),
            Just("IFEQ 1"),
        ]
    };
    let words = |line: String| line.split(' ').filter(|word| !word.is_empty()).map(|word| word.into()).collect();
    prop_oneof![
        (key(), value(), ttl()).prop_map(|(k, v, t)| format!("SET {k} {v} {t}")),
        (key(), value(), when(), ttl()).prop_map(|(k, v, w, t)| format!("SET {k} {v} {w} {t}")),
        (key(), when()).prop_map(|(k, w)| format!("DELEX {k} {w}")),
        (key(), value()).prop_map(|(k, v)| format!("DELIFEQ {k} {v}")),
        (key(), key(), value(), value(), ttl()).prop_map(|(k, l, v, w, t)| format!("MSETEX 2 {k} {v} {l} {w} {t}")),
        (key(), key(), value(), ttl()).prop_map(|(k, l, v, t)| format!("MSETEX 2 {k} {v} {l} {v} NX {t}")),
        (key(), number(), lapse()).prop_map(|(k, n, t)| format!("INCREX {k} BYINT {n} UBOUND 5 {t}")),
        (key(), number(), lapse()).prop_map(|(k, n, t)| format!("INCREX {k} BYFLOAT {n}.25 LBOUND 0 SATURATE {t}")),
        key().prop_map(|k| format!("DEL {k}")),
        key().prop_map(|k| format!("RPUSH {k} x")),
    ]
    .prop_map(words)
}

proptest! {
    #[test]
    fn effects_make_the_same_strings(commands in prop::collection::vec(command(), 0..60)) {
        check_effects(&commands);
    }
}
