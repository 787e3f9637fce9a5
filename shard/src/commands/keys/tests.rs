use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::commands::testing::{Bench, check, check_effects};

const WRONG_DB: &str = "(error) ERR DB index is out of range";
const SYNTAX: &str = "(error) ERR syntax error";
const SAME: &str = "(error) ERR source and destination objects are the same";
const NOT_AN_INTEGER: &str = "(error) ERR value is not an integer or out of range";

#[test]
fn deleting() {
    check(&[
        ("MSET a 1 b 2 c 3", "OK"),
        ("EXISTS a b c d a", "4"),
        ("TOUCH a b d", "2"),
        ("DEL a a d", "1"),
        ("UNLINK b c", "2"),
        ("EXISTS a b c", "0"),
        ("DEL", "(error) ERR wrong number of arguments for 'del' command"),
        ("DBSIZE", "0"),
    ]);
}

#[test]
fn types_and_encodings() {
    let mut bench = Bench::new();
    for (make, key, kind, encoding) in [
        ("SET int 12", "int", "string", "int"),
        ("SET max 9223372036854775807", "max", "string", "int"),
        ("SET beyond 9223372036854775808", "beyond", "string", "embstr"),
        ("SET short abc", "short", "string", "embstr"),
        ("SET edge aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeee", "edge", "string", "embstr"),
        ("SET long aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeee", "long", "string", "raw"),
        ("RPUSH list a", "list", "list", "listpack"),
        ("SADD ints 1", "ints", "set", "intset"),
        ("SADD set a", "set", "set", "listpack"),
        ("HSET hash f v", "hash", "hash", "listpack"),
        ("ZADD zset 1 a", "zset", "zset", "listpack"),
    ] {
        bench.run(make);
        assert_eq!(bench.run(&format!("TYPE {key}")), kind, "{make}");
        assert_eq!(bench.run(&format!("OBJECT ENCODING {key}")), encoding, "{make}");
    }
    bench.run_args(&[b"SET", b"text", &[b'x'; 100_000]]);
    assert_eq!(bench.run("TYPE text"), "string");
    assert_eq!(bench.run("OBJECT ENCODING text"), "raw");
    assert_eq!(bench.run("TYPE none"), "none");
    assert_eq!(bench.run("OBJECT ENCODING none"), "nil");
}

/// Strings that were put together keep another encoding, wherever they go, until they are set again.
#[test]
fn encodings_of_strings_that_were_changed() {
    check(&[
        ("APPEND n 12", "2"),
        ("OBJECT ENCODING n", "int"),
        ("APPEND n 3", "3"),
        ("OBJECT ENCODING n", "raw"),
        ("EXPIRE n 100", "1"),
        ("RENAME n m", "OK"),
        ("COPY m k", "1"),
        ("PERSIST k", "1"),
        ("OBJECT ENCODING m", "raw"),
        ("OBJECT ENCODING k", "raw"),
        ("INCR m", "124"),
        ("OBJECT ENCODING m", "int"),
        ("SET k 123", "OK"),
        ("OBJECT ENCODING k", "int"),
        ("SETRANGE r 3 x", "4"),
        ("OBJECT ENCODING r", "raw"),
        ("SETRANGE m 0 \"\"", "3"),
        ("OBJECT ENCODING m", "int"),
        ("INCRBYFLOAT f 3", "3"),
        ("OBJECT ENCODING f", "embstr"),
        ("RENAME f g", "OK"),
        ("OBJECT ENCODING g", "embstr"),
        ("INCR g", "4"),
        ("OBJECT ENCODING g", "int"),
    ]);
}

#[test]
fn objects() {
    let mut bench = Bench::new();
    bench.run("SET k v");
    bench.now_ms += 7_000;
    for _ in 0..2 {
        for untouched in ["EXISTS k", "TYPE k", "TTL k", "OBJECT REFCOUNT k", "OBJECT ENCODING k", "MEMORY USAGE k"] {
            bench.run(untouched);
        }
        assert_eq!(bench.run("OBJECT IDLETIME k"), "7");
    }
    assert_eq!(bench.run("OBJECT REFCOUNT k"), "1");
    bench.run("TOUCH k");
    assert_eq!(bench.run("OBJECT IDLETIME k"), "0");
    assert!(bench.run("OBJECT FREQ k").starts_with("(error) ERR An LFU maxmemory policy is not selected"));
    assert_eq!(bench.run("object freq none"), "nil");
    assert_eq!(bench.run("OBJECT REFCOUNT none"), "nil");
    assert_eq!(bench.run("OBJECT IDLETIME none"), "nil");
    assert!(bench.run("OBJECT HELP").ends_with("    <key>. HELP     Prints this help.]"));
}

#[test]
fn renaming() {
    check(&[
        ("RENAME a b", "(error) ERR no such key"),
        ("RENAMENX a a", "(error) ERR no such key"),
        ("SET a 1 PX 100", "OK"),
        ("RENAME a a", "OK"),
        ("RENAMENX a a", "0"),
        ("RENAME a b", "OK"),
        ("EXISTS a", "0"),
        ("GET b", "1"),
        ("PTTL b", "100"),
        ("RPUSH list x y", "2"),
        ("RENAMENX list b", "0"),
        ("RENAME list b", "OK"),
        ("LRANGE b 0 -1", "[x y]"),
        ("PTTL b", "-1"),
        ("RENAMENX b c", "1"),
        ("TYPE c", "list"),
        ("DBSIZE", "1"),
    ]);
}

#[test]
fn copying() {
    check(&[
        ("COPY a b", "0"),
        ("SET a 1 PX 100", "OK"),
        ("COPY a b", "1"),
        ("MGET a b", "[1 1]"),
        ("PTTL b", "100"),
        ("RPUSH list x", "1"),
        ("COPY list b", "0"),
        ("COPY list b replace", "1"),
        ("RPUSH b y", "2"),
        ("LRANGE list 0 -1", "[x]"),
        ("LRANGE b 0 -1", "[x y]"),
        ("PTTL b", "-1"),
        ("COPY a a", SAME),
        ("COPY a a DB 0", SAME),
        ("COPY a a DB 1", "1"),
        ("COPY a a DB 1", "0"),
        ("COPY a a DB 1 REPLACE", "1"),
        ("COPY none a DB 1 REPLACE", "0"),
        ("COPY a b DB 16", WRONG_DB),
        ("COPY a b DB -1", WRONG_DB),
        ("COPY a b DB x", NOT_AN_INTEGER),
        ("COPY a b DB 3000000000", "(error) ERR value is out of range, value must between -2147483648 and 2147483647"),
        ("COPY a b DB", SYNTAX),
        ("COPY a b NOPE", SYNTAX),
        ("SWAPDB 0 1", "OK"),
        ("DBSIZE", "1"),
        ("GET a", "1"),
        ("PTTL a", "100"),
    ]);
}

#[test]
fn moving() {
    check(&[
        ("MOVE a 1", "0"),
        ("SET a 1 PX 100", "OK"),
        ("MOVE a 0", SAME),
        ("MOVE a 1", "1"),
        ("EXISTS a", "0"),
        ("SET a 2", "OK"),
        ("MOVE a 1", "0"),
        ("GET a", "2"),
        ("MOVE a 16", WRONG_DB),
        ("MOVE a x", NOT_AN_INTEGER),
        ("SWAPDB 0 1", "OK"),
        ("GET a", "1"),
        ("PTTL a", "100"),
    ]);
}

#[test]
fn names() {
    let mut bench = Bench::new();
    assert_eq!(bench.run("RANDOMKEY"), "nil");
    assert_eq!(bench.run("KEYS *"), "[]");
    bench.run("MSET one 1 two 2 three 3 \"\" empty");
    bench.run("SET gone 1 PX 1");
    bench.now_ms += 1;
    for (pattern, expected) in
        [("t*", vec!["three", "two"]), ("o?e", vec!["one"]), ("gone", vec![]), ("[^t]ne", vec!["one"])]
    {
        assert_eq!(
            keys_of(&bench.run(&format!("KEYS {pattern}"))),
            BTreeSet::from_iter(expected.iter().map(|s| s.to_string()))
        );
    }
    assert_eq!(keys_of(&bench.run("KEYS *")).len(), 4);
    let random: BTreeSet<String> = (0..200).map(|_| bench.run("RANDOMKEY")).collect();
    assert_eq!(random.len(), 4, "{random:?}");
}

#[test]
fn scanning_finds_every_key_once() {
    let mut bench = Bench::new();
    for n in 0..3000 {
        bench.run(&format!("SET key:{n} v"));
    }
    bench.run("RPUSH list a");
    for (options, count) in [
        ("", 3001),
        (" COUNT 1", 3001),
        (" count 100000", 3001),
        (" MATCH *", 3001),
        (" MATCH key:1?", 10),
        (" TYPE list", 1),
        (" TYPE LIST MATCH l*", 1),
        (" TYPE string COUNT 500", 3000),
        (" TYPE nonsense", 0),
    ] {
        let (mut cursor, mut seen, mut pages) = ("0".to_owned(), Vec::new(), 0);
        loop {
            let page = bench.run(&format!("SCAN {cursor}{options}"));
            let (next, keys) = page[1..page.len() - 1].split_once(' ').expect("a cursor and keys");
            seen.extend(keys_of(keys));
            cursor = next.to_owned();
            pages += 1;
            if cursor == "0" {
                break;
            }
        }
        assert_eq!(seen.len(), count, "SCAN{options}");
        assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), count, "SCAN{options} finds none twice");
        assert!(options != " count 100000" || pages <= 8, "{pages} pages");
    }
    for (command, error) in [
        ("SCAN x", "ERR invalid cursor"),
        ("SCAN -", "ERR invalid cursor"),
        ("SCAN \" 1\"", "ERR invalid cursor"),
        ("SCAN 18446744073709551616", "ERR invalid cursor"),
        ("SCAN 0 COUNT 0", "ERR syntax error"),
        ("SCAN 0 COUNT x", "ERR value is not an integer or out of range"),
        ("SCAN 0 MATCH", "ERR syntax error"),
        ("SCAN 0 NOPE 1", "ERR syntax error"),
    ] {
        assert_eq!(bench.run(command), format!("(error) {error}"), "{command}");
    }
    for beyond in ["18446744073709551615", "-1", "+9007199254740992"] {
        assert_eq!(bench.run(&format!("SCAN {beyond}")), "[0 []]");
    }
}

/// Commands over strings and keys, `K` a key, `N` a number, `V` a value.
const WRITES: &[&str] = &[
    "SET K V",
    "SET K V EX 1",
    "SET K V PX N",
    "SET K V NX GET",
    "SET K V XX KEEPTTL",
    "SET K V PXAT N",
    "SETNX K V",
    "SETEX K 1 V",
    "PSETEX K N V",
    "GETSET K V",
    "GETDEL K",
    "GETEX K PX N",
    "GETEX K PERSIST",
    "GETEX K EXAT N",
    "INCR K",
    "INCRBY K N",
    "DECRBY K N",
    "INCRBYFLOAT K 0.1",
    "APPEND K V",
    "APPEND K N",
    "SETRANGE K N V",
    "MSET K V K N K V",
    "MSETNX K V K N",
    "DEL K K",
    "UNLINK K",
    "EXPIRE K N",
    "PEXPIRE K N NX",
    "PEXPIRE K N GT",
    "PEXPIRE K N LT",
    "PEXPIREAT K N",
    "PERSIST K",
    "RENAME K K",
    "RENAMENX K K",
    "COPY K K",
    "COPY K K REPLACE",
    "COPY K K DB 1 REPLACE",
    "MOVE K 1",
    "MOVE K 2",
    "SWAPDB 0 1",
    "SWAPDB 1 2",
    "FLUSHDB",
    "FLUSHALL",
    "RPUSH K V N",
    "SADD K V N",
    "HSET K V N",
    "ZADD K N V",
    "SORT K ALPHA STORE K",
    "LCS K K",
    "TOUCH K",
];

proptest! {
    #[test]
    fn effects_make_the_same_keys(
        commands in prop::collection::vec((0..WRITES.len(), prop::array::uniform3(0..4usize), -3..40i32, 0..5usize), 1..120),
    ) {
        let commands: Vec<Vec<Vec<u8>>> = commands.iter().map(|(template, keys, number, value)| {
            let mut keys = keys.iter().map(|key| format!("key:{key}"));
            let words = WRITES[*template].split(' ').map(|word| match word {
                "K" => keys.next().expect("a template has three keys at most"),
                "N" => number.to_string(),
                "V" => ["", "v", "7", "-0", &"long".repeat(30)][*value].to_owned(),
                word => word.to_owned(),
            });
            words.map(String::into_bytes).collect()
        }).collect();
        check_effects(&commands);
    }
}

/// The words of `[a b c]`.
fn keys_of(reply: &str) -> BTreeSet<String> {
    reply.trim_matches(['[', ']']).split(' ').filter(|key| !key.is_empty()).map(str::to_owned).collect()
}

#[test]
fn a_random_key_is_alive() {
    let mut bench = Bench::new();
    for n in 0..1000 {
        bench.run(&format!("SET gone:{n} v PX 10"));
    }
    bench.run("SET here v");
    bench.now_ms += 10;
    assert_eq!(bench.run("RANDOMKEY"), "here");
    bench.run("DEL here");
    assert_eq!(bench.run("RANDOMKEY"), "nil");
}
