use crate::commands::testing::{Bench, check};

const WRONGTYPE: &str = "(error) WRONGTYPE Operation against a key holding the wrong kind of value";
const SYNTAX: &str = "(error) ERR syntax error";
const NOT_AN_INTEGER: &str = "(error) ERR value is not an integer or out of range";
const INVALID_SET: &str = "(error) ERR invalid expire time in 'set' command";
const INVALID_GETEX: &str = "(error) ERR invalid expire time in 'getex' command";

#[test]
fn set_and_get() {
    check(&[
        ("GET k", "nil"),
        ("SET k v", "OK"),
        ("GET k", "v"),
        ("SET k 12", "OK"),
        ("GET k", "12"),
        ("SET k \"\"", "OK"),
        ("GET k", "\"\""),
        ("SET k x NX", "nil"),
        ("SET k x nx nx get", "\"\""),
        ("SET n x XX", "nil"),
        ("SET n x XX GET", "nil"),
        ("EXISTS n", "0"),
        ("SET k y XX GET", "\"\""),
        ("SET k z GET", "y"),
        ("GET k", "z"),
        ("SET new v NX GET", "nil"),
        ("GET new", "v"),
        ("RPUSH list a", "1"),
        ("GET list", WRONGTYPE),
        ("SET list x GET", WRONGTYPE),
        ("SET list x", "OK"),
        ("TYPE list", "string"),
        ("GET", "(error) ERR wrong number of arguments for 'get' command"),
        ("SET k", "(error) ERR wrong number of arguments for 'set' command"),
    ]);
}

#[test]
fn set_with_a_time_to_live() {
    check(&[
        ("SET k v EX 10", "OK"),
        ("PTTL k", "10000"),
        ("SET k v PX 1500", "OK"),
        ("PTTL k", "1500"),
        ("SET k v KEEPTTL KEEPTTL", "OK"),
        ("PTTL k", "1500"),
        ("SET k v", "OK"),
        ("PTTL k", "-1"),
        ("SET k v EXAT 1700000100", "OK"),
        ("PTTL k", "100000"),
        ("SET k v pxat 1700000000100", "OK"),
        ("PTTL k", "100"),
        ("SET k v PXAT 1", "OK"),
        ("GET k", "nil"),
        ("SET k v EX 1 EX 2", "OK"),
        ("PTTL k", "2000"),
        ("SET k v EX 0", INVALID_SET),
        ("SET k v PX -1", INVALID_SET),
        ("SET k v EX 9223372036854775807", INVALID_SET),
        ("SET k v EX 9223372036854775", INVALID_SET),
        ("SET k v PX 9223372036854775807", INVALID_SET),
        ("SET k v EXAT 9223372036854776", INVALID_SET),
        ("SET k v PXAT 9223372036854775807", "OK"),
        ("PEXPIRETIME k", "9223372036854775807"),
        ("SET k v NX XX", SYNTAX),
        ("SET k v EX", SYNTAX),
        ("SET k v EX 1 PX 1", SYNTAX),
        ("SET k v EX 1 KEEPTTL", SYNTAX),
        ("SET k v KEEPTTL EX 1", SYNTAX),
        ("SET k v PERSIST", SYNTAX),
        ("SET k v EX x NOPE", SYNTAX),
        ("SET k v EX x", NOT_AN_INTEGER),
        ("SET k v EX +1", NOT_AN_INTEGER),
    ]);
}

#[test]
fn the_old_ways_to_set() {
    check(&[
        ("SETNX k a", "1"),
        ("SETNX k b", "0"),
        ("GET k", "a"),
        ("SETEX k 10 v", "OK"),
        ("TTL k", "10"),
        ("SETEX k 0 v", "(error) ERR invalid expire time in 'setex' command"),
        ("SETEX k x v", NOT_AN_INTEGER),
        ("PSETEX k 700 v", "OK"),
        ("PTTL k", "700"),
        ("PSETEX k -1 v", "(error) ERR invalid expire time in 'psetex' command"),
        ("GETSET k w", "v"),
        ("PTTL k", "-1"),
        ("GETSET none w", "nil"),
        ("GETDEL k", "w"),
        ("GETDEL k", "nil"),
        ("RPUSH list a", "1"),
        ("GETSET list x", WRONGTYPE),
        ("GETDEL list", WRONGTYPE),
        ("SETNX list x", "0"),
        ("SETEX list 1 x", "OK"),
    ]);
}

#[test]
fn getex() {
    check(&[
        ("GETEX k EX 0", "nil"),
        ("SET k v", "OK"),
        ("GETEX k", "v"),
        ("PTTL k", "-1"),
        ("GETEX k EX 10", "v"),
        ("PTTL k", "10000"),
        ("GETEX k", "v"),
        ("PTTL k", "10000"),
        ("GETEX k PX 20", "v"),
        ("PTTL k", "20"),
        ("GETEX k PERSIST", "v"),
        ("PTTL k", "-1"),
        ("GETEX k EXAT 1700000001", "v"),
        ("PTTL k", "1000"),
        ("GETEX k PXAT 1700000000005", "v"),
        ("PTTL k", "5"),
        ("GETEX k EX 0", INVALID_GETEX),
        ("GETEX k EX x", NOT_AN_INTEGER),
        ("GETEX k EX", SYNTAX),
        ("GETEX k EX 1 PERSIST", SYNTAX),
        ("GETEX k PERSIST EX 1", SYNTAX),
        ("GETEX k KEEPTTL", SYNTAX),
        ("GETEX k NX", SYNTAX),
        ("GETEX k PXAT 1", "v"),
        ("EXISTS k", "0"),
        ("RPUSH list a", "1"),
        ("GETEX list", WRONGTYPE),
    ]);
}

#[test]
fn counters() {
    const OVERFLOW: &str = "(error) ERR increment or decrement would overflow";
    check(&[
        ("INCR n", "1"),
        ("INCRBY n 41", "42"),
        ("DECR n", "41"),
        ("DECRBY n 40", "1"),
        ("DECR none", "-1"),
        ("PEXPIRE n 100", "1"),
        ("INCR n", "2"),
        ("PTTL n", "100"),
        ("SET max 9223372036854775807", "OK"),
        ("INCR max", OVERFLOW),
        ("INCRBY max -9223372036854775808", "-1"),
        ("INCRBY max -9223372036854775808", OVERFLOW),
        ("DECRBY max -9223372036854775808", "(error) ERR decrement would overflow"),
        ("INCRBY n 1.5", NOT_AN_INTEGER),
        ("INCRBY n 9223372036854775808", NOT_AN_INTEGER),
        ("SET k v", "OK"),
        ("INCR k", NOT_AN_INTEGER),
        ("SET k \" 1\"", "OK"),
        ("INCR k", NOT_AN_INTEGER),
        ("RPUSH list a", "1"),
        ("INCR list", WRONGTYPE),
        ("APPEND digits 1", "1"),
        ("APPEND digits 2", "2"),
        ("INCR digits", "13"),
    ]);
}

#[test]
fn incrbyfloat() {
    const NOT_A_FLOAT: &str = "(error) ERR value is not a valid float";
    check(&[
        ("INCRBYFLOAT k 10.50", "10.5"),
        ("INCRBYFLOAT k 0.1", "10.6"),
        ("GET k", "10.6"),
        ("INCRBYFLOAT k -5", "5.6"),
        ("SET k 5.0e3", "OK"),
        ("INCRBYFLOAT k 2.0e2", "5200"),
        ("OBJECT ENCODING k", "embstr"),
        ("PEXPIRE k 100", "1"),
        ("INCRBYFLOAT k 1", "5201"),
        ("PTTL k", "100"),
        ("INCRBYFLOAT k x", NOT_A_FLOAT),
        ("INCRBYFLOAT k nan", NOT_A_FLOAT),
        ("INCRBYFLOAT k inf", "(error) ERR increment would produce NaN or Infinity"),
        ("SET k v", "OK"),
        ("INCRBYFLOAT k 1", NOT_A_FLOAT),
        ("RPUSH list a", "1"),
        ("INCRBYFLOAT list x", WRONGTYPE),
    ]);
}

#[test]
fn parts() {
    const TOO_LONG: &str = "(error) ERR string exceeds maximum allowed size (proto-max-bulk-len)";
    check(&[
        ("APPEND k Hello", "5"),
        ("APPEND k \", world\"", "12"),
        ("GET k", "Hello, world"),
        ("STRLEN k", "12"),
        ("STRLEN none", "0"),
        ("APPEND empty \"\"", "0"),
        ("EXISTS empty", "1"),
        ("SETRANGE k 7 there!", "13"),
        ("GET k", "Hello, there!"),
        ("SETRANGE k 0 \"\"", "13"),
        ("SETRANGE none 5 \"\"", "0"),
        ("EXISTS none", "0"),
        ("SETRANGE pad 3 x", "4"),
        ("GET pad", "\0\0\0x"),
        ("SETRANGE k -1 x", "(error) ERR offset is out of range"),
        ("SETRANGE k x x", NOT_AN_INTEGER),
        ("SETRANGE k 536870911 xx", TOO_LONG),
        ("SETRANGE k 9223372036854775807 x", TOO_LONG),
        ("SETRANGE none 536870912 x", TOO_LONG),
        ("GETRANGE k 0 4", "Hello"),
        ("GETRANGE k -6 -2", "there"),
        ("GETRANGE k 0 -1", "Hello, there!"),
        ("GETRANGE k -100 100", "Hello, there!"),
        ("GETRANGE k 5 3", "\"\""),
        ("GETRANGE k -1 -2", "\"\""),
        ("GETRANGE k -100 -99", "H"),
        ("GETRANGE k 13 20", "\"\""),
        ("GETRANGE k 9223372036854775807 -9223372036854775808", "\"\""),
        ("GETRANGE none 0 -1", "\"\""),
        ("GETRANGE empty 0 -1", "\"\""),
        ("GETRANGE k a 1", NOT_AN_INTEGER),
        ("SUBSTR k 1 1", "e"),
        ("SET n 12345", "OK"),
        ("GETRANGE n 1 2", "23"),
        ("STRLEN n", "5"),
        ("SETRANGE n 1 x", "5"),
        ("GET n", "1x345"),
        ("RPUSH list a", "1"),
        ("APPEND list x", WRONGTYPE),
        ("STRLEN list", WRONGTYPE),
        ("SETRANGE list 0 x", WRONGTYPE),
        ("GETRANGE list 0 1", WRONGTYPE),
    ]);
}

#[test]
fn a_long_string_grows_and_keeps_its_expiry() {
    let mut bench = Bench::new();
    let piece = [b'x'; 10_000];
    assert_eq!(bench.run("SET k a PX 500"), "OK");
    for n in 1..=20usize {
        assert_eq!(bench.run_args(&[b"APPEND", b"k", &piece]), (1 + n * piece.len()).to_string());
    }
    assert_eq!(bench.run("SETRANGE k 200000 yz"), "200002");
    assert_eq!(bench.run("GETRANGE k 199998 -1"), "xxyz");
    assert_eq!(bench.run("PTTL k"), "500");
    assert_eq!(bench.run("SET k b KEEPTTL"), "OK");
    assert_eq!(bench.run("PTTL k"), "500");
    assert_eq!(bench.run("GET k"), "b");
}

#[test]
fn many_at_once() {
    check(&[
        ("MSET a 1 b two a 3", "OK"),
        ("RPUSH list x", "1"),
        ("MGET a b none list a", "[3 two nil nil 3]"),
        ("MSETNX c 1 d 2", "1"),
        ("MSETNX e 1 d 3", "0"),
        ("MGET c d e", "[1 2 nil]"),
        ("MSETNX f 1 f 2", "1"),
        ("GET f", "2"),
        ("MSET a 1 b", "(error) ERR wrong number of arguments for 'mset' command"),
        ("MSETNX a 1 b", "(error) ERR wrong number of arguments for 'msetnx' command"),
        ("PEXPIRE a 100", "1"),
        ("MSET a 1", "OK"),
        ("PTTL a", "-1"),
    ]);
}

/// More keys than are prefetched at a time, the last of them repeating earlier keys, and each a part of another.
#[test]
fn very_many_at_once() {
    let mut bench = Bench::new();
    let keys: Vec<String> = (0..50).map(|n| "k".repeat(1 + n % 40)).collect();
    let pairs = keys.iter().enumerate().flat_map(|(n, key)| [key.clone(), n.to_string()]);
    let line: Vec<String> = std::iter::once("MSET".to_owned()).chain(pairs).collect();
    assert_eq!(bench.run(&line.join(" ")), "OK");
    // Of two values for one key the later one holds.
    let last: Vec<String> = (0..50).map(|n| if n < 10 { n + 40 } else { n }.to_string()).collect();
    assert_eq!(bench.run(&format!("MGET {}", keys.join(" "))), format!("[{}]", last.join(" ")));
    for (key, value) in keys.iter().zip(&last) {
        assert_eq!(bench.run(&format!("GET {key}")), *value);
    }
}
