use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::commands::testing::{Bench, check, check_effects, check_resp3};

const WRONG_TYPE: &str = "(error) WRONGTYPE Operation against a key holding the wrong kind of value";
const SYNTAX: &str = "(error) ERR syntax error";
const NOT_INTEGER: &str = "(error) ERR value is not an integer or out of range";
const NOT_POSITIVE: &str = "(error) ERR value is out of range, must be positive";

#[test]
fn members_come_and_go() {
    check(&[
        ("SADD s 3 1 2 3", "3"),
        ("SADD s 3", "0"),
        ("SMEMBERS s", "[1 2 3]"),
        ("SCARD s", "3"),
        ("SISMEMBER s 1", "1"),
        ("SISMEMBER s 01", "0"),
        ("SISMEMBER none 1", "0"),
        ("SMISMEMBER s 1 x 3", "[1 0 1]"),
        ("SMISMEMBER none a b", "[0 0]"),
        ("SADD s a", "1"),
        ("SREM s 1 2 x 2", "2"),
        ("SCARD s", "2"),
        ("SREM s a 3", "2"),
        ("SCARD s", "0"),
        ("SMEMBERS s", "[]"),
        ("SREM s a", "0"),
        ("SADD s \"\" \"\\x00\\xff\"", "2"),
        ("SISMEMBER s \"\"", "1"),
    ]);
}

#[test]
fn other_kinds_and_arities_are_refused() {
    let mut bench = Bench::new();
    bench.run("SET t v");
    for command in [
        "SADD t a",
        "SREM t a",
        "SMEMBERS t",
        "SISMEMBER t a",
        "SMISMEMBER t a",
        "SCARD t",
        "SPOP t",
        "SPOP t 2",
        "SRANDMEMBER t",
        "SRANDMEMBER t 2",
        "SMOVE t s a",
        "SMOVE s t a",
        "SINTER none t",
        "SINTERSTORE d s t",
        "SINTERCARD 2 none t",
        "SUNION s t",
        "SUNIONSTORE d t",
        "SDIFF none t",
        "SDIFFSTORE d s t",
        "SSCAN t 0",
        "SSCAN t 0 BAD",
    ] {
        bench.run("SADD s a");
        assert_eq!(bench.run(command), WRONG_TYPE, "{command}");
    }
    for command in ["SADD s", "SREM s", "SMEMBERS s x", "SISMEMBER s", "SCARD", "SMOVE a b", "SINTERCARD 1", "SSCAN s"]
    {
        assert!(bench.run(command).starts_with("(error) ERR wrong number of arguments for 's"), "{command}");
    }
    // A source that does not exist has nothing to move, whatever the destination is.
    assert_eq!(bench.run("SMOVE none t a"), "0");
}

#[test]
fn pops() {
    check(&[
        ("SPOP s", "nil"),
        ("SPOP s 3", "[]"),
        ("SADD s a", "1"),
        ("SPOP s 0", "[]"),
        ("SPOP s", "a"),
        ("SCARD s", "0"),
        ("SADD s b", "1"),
        ("SPOP s 7", "[b]"),
        ("SMEMBERS s", "[]"),
        ("SPOP s -1", NOT_POSITIVE),
        ("SPOP s x", NOT_POSITIVE),
        ("SPOP s x y", SYNTAX),
        ("SRANDMEMBER s", "nil"),
        ("SRANDMEMBER s 2", "[]"),
        ("SADD s b", "1"),
        ("SRANDMEMBER s", "b"),
        ("SRANDMEMBER s 0", "[]"),
        ("SRANDMEMBER s 9", "[b]"),
        ("SRANDMEMBER s -3", "[b b b]"),
        ("SRANDMEMBER s x", NOT_INTEGER),
        (
            "SRANDMEMBER s -9223372036854775808",
            "(error) ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807",
        ),
        ("SRANDMEMBER s -9223372036854775807", "(error) ERR value is out of range"),
        ("SRANDMEMBER s 1 2", SYNTAX),
        ("SCARD s", "1"),
    ]);
}

#[test]
fn what_is_drawn_are_members_and_each_once() {
    for members in [20, 200, 1000] {
        let mut bench = Bench::new();
        let all: BTreeSet<String> = (0..members).map(|n| format!("m{n}")).collect();
        all.iter().for_each(|member| assert_eq!(bench.run(&format!("SADD s {member}")), "1"));
        for count in [1, 3, members / 4, members / 2, members - 1, members] {
            for command in ["SRANDMEMBER", "SPOP"] {
                bench.run("SUNIONSTORE t s");
                let reply = bench.run(&format!("{command} t {count}"));
                let drawn: BTreeSet<String> = reply.trim_matches(['[', ']']).split(' ').map(String::from).collect();
                assert_eq!(drawn.len(), count, "{command} {count} of {members}: {reply}");
                assert!(drawn.is_subset(&all));
                let left = if command == "SPOP" { members - count } else { members };
                assert_eq!(bench.run("SCARD t"), left.to_string());
                assert!(
                    command == "SRANDMEMBER" || drawn.iter().all(|m| bench.run(&format!("SISMEMBER t {m}")) == "0")
                );
            }
        }
        let repeated = bench.run(&format!("SRANDMEMBER s -{}", 2 * members));
        assert_eq!(repeated.split(' ').count(), 2 * members);
    }
}

#[test]
fn moves() {
    check(&[
        ("SMOVE a b m", "0"),
        ("SADD a m n", "2"),
        ("SMOVE a b x", "0"),
        ("SMOVE a b m", "1"),
        ("SMEMBERS b", "[m]"),
        ("SMOVE a a n", "1"),
        ("SMOVE a a m", "0"),
        ("SADD b n", "1"),
        ("SMOVE a b n", "1"),
        ("SCARD a", "0"),
        ("SCARD b", "2"),
    ]);
}

#[test]
fn algebra() {
    check(&[
        ("SADD a 1 2 3 4", "4"),
        ("SADD b 2 3 x", "3"),
        ("SADD c 3 4 x y", "4"),
        ("SINTER a", "[1 2 3 4]"),
        ("SINTER a b", "[2 3]"),
        ("SINTER a b c", "[3]"),
        ("SINTER a none", "[]"),
        ("SUNION a none a", "[1 2 3 4]"),
        ("SUNION none", "[]"),
        ("SDIFF a b", "[1 4]"),
        ("SDIFF a b c", "[1]"),
        ("SDIFF a a", "[]"),
        ("SDIFF none a", "[]"),
        ("SDIFF a none", "[1 2 3 4]"),
        ("SINTERSTORE d a b", "2"),
        ("SMEMBERS d", "[2 3]"),
        ("SUNIONSTORE d a b c", "6"),
        ("SCARD d", "6"),
        ("SUNIONSTORE a a b", "5"),
        ("SDIFFSTORE d b c", "1"),
        ("SMEMBERS d", "[2]"),
        ("SDIFFSTORE d b b", "0"),
        ("SCARD d", "0"),
        ("SET t v", "OK"),
        ("SINTERSTORE t b c", "2"),
        ("SCARD t", "2"),
        ("SINTERSTORE t b none", "0"),
        ("SCARD t", "0"),
        ("SINTERCARD 2 b c", "2"),
        ("SINTERCARD 2 b c LIMIT 1", "1"),
        ("SINTERCARD 2 b c LIMIT 1 limit 0", "2"),
        ("SINTERCARD 2 b none", "0"),
        ("SINTERCARD 0 b", "(error) ERR numkeys should be greater than 0"),
        ("SINTERCARD x b", "(error) ERR numkeys should be greater than 0"),
        ("SINTERCARD 3 b c", "(error) ERR Number of keys can't be greater than number of args"),
        ("SINTERCARD 2 b c LIMIT -1", "(error) ERR LIMIT can't be negative"),
        ("SINTERCARD 2 b c LIMIT x", "(error) ERR LIMIT can't be negative"),
        ("SINTERCARD 2 b c LIMIT", SYNTAX),
        ("SINTERCARD 1 b c", SYNTAX),
    ]);
}

#[test]
fn a_difference_with_many_small_sets() {
    let mut bench = Bench::new();
    let members: String = (0..600).map(|n| format!(" m{n}")).collect();
    bench.run(&format!("SADD a{members}"));
    let others: String = (0..590).map(|n| format!(" o{n}")).collect();
    for n in 0..590 {
        bench.run(&format!("SADD o{n} m{n} x{n}"));
    }
    assert_eq!(bench.run(&format!("SDIFFSTORE d a{others}")), "10");
    assert_eq!(bench.run("SMISMEMBER d m0 m589 m590 m599 x1"), "[0 0 1 1 0]");
    assert_eq!(bench.run(&format!("SUNIONSTORE d{others}")), "1180");
}

#[test]
fn scans() {
    check(&[
        ("SSCAN s 0", "[0 []]"),
        ("SSCAN s x", "(error) ERR invalid cursor"),
        ("SSCAN s 0 BAD", "[0 []]"),
        ("SADD s 1 2 30", "3"),
        ("SSCAN s 0", "[0 [1 2 30]]"),
        ("SSCAN s 0 MATCH 3* COUNT 1", "[0 [30]]"),
        ("SSCAN s 0 MATCH", SYNTAX),
        ("SSCAN s 0 COUNT 0", SYNTAX),
        ("SSCAN s 0 COUNT x", NOT_INTEGER),
        ("SSCAN s 0 BAD x", SYNTAX),
    ]);
    let mut bench = Bench::new();
    for n in 0..1000 {
        bench.run(&format!("SADD s m{n}"));
    }
    let (mut cursor, mut found) = ("0".to_string(), BTreeSet::new());
    loop {
        let reply = bench.run(&format!("SSCAN s {cursor} COUNT 50"));
        let (next, members) = reply.trim_matches(['[', ']']).split_once(" [").expect("a page");
        found.extend(members.split(' ').filter(|member| !member.is_empty()).map(String::from));
        if next == "0" {
            break;
        }
        cursor = next.into();
    }
    assert_eq!(found.len(), 1000);
    // Cursors that were never given out.
    for cursor in ["9007199254740992", "18446744073709551615", "12345678901234"] {
        assert!(bench.run(&format!("SSCAN s {cursor}")).starts_with('['));
    }
}

#[test]
fn resp3_knows_sets() {
    let mut bench = Bench::new();
    bench.version = dormouse_protocol::Version::Resp3;
    bench.run("SADD s a");
    for (command, expected) in [
        (&["SMEMBERS", "s"][..], "~1\r\n$1\r\na\r\n"),
        (&["SMEMBERS", "none"], "~0\r\n"),
        (&["SINTER", "s"], "~1\r\n$1\r\na\r\n"),
        (&["SUNION", "s"], "~1\r\n$1\r\na\r\n"),
        (&["SDIFF", "s", "none"], "~1\r\n$1\r\na\r\n"),
        (&["SRANDMEMBER", "s", "1"], "*1\r\n$1\r\na\r\n"),
        (&["SPOP", "none", "1"], "~0\r\n"),
        (&["SPOP", "none"], "_\r\n"),
        (&["SPOP", "s", "1"], "~1\r\n$1\r\na\r\n"),
    ] {
        let args: Vec<&[u8]> = command.iter().map(|arg| arg.as_bytes()).collect();
        assert_eq!(String::from_utf8_lossy(&bench.run_raw(&args)), expected, "{command:?}");
    }
    check_resp3(&[("SADD s a", "1"), ("SMISMEMBER s a b", "[1 0]"), ("SSCAN s 0", "[0 [a]]")]);
}

#[test]
fn a_row_says_what_will_be_looked_at() {
    let mut bench = Bench::new();
    let members: String = (0..30).map(|n| format!(" {n}")).collect();
    bench.run(&format!("SADD a{members}"));
    bench.run("SADD b 1 2");
    for (line, expected) in [
        ("SMEMBERS a", 30),
        ("SMEMBERS none", 0),
        ("SINTER a b", 4),
        ("SINTER a none", 0),
        ("SINTERSTORE d a a", 60),
        ("SINTERCARD 2 a b LIMIT 1", 4),
        ("SINTERCARD 99 a b", 4),
        ("SUNION a b", 32),
        ("SUNIONSTORE a b b", 4),
        ("SDIFF a b", 32),
        ("SPOP a", 1),
        ("SPOP a 100", 30),
        ("SRANDMEMBER a -1000", 1000),
        ("SRANDMEMBER a x", 0),
        ("SSCAN a 0", 10),
        ("SSCAN a 0 COUNT 20", 20),
    ] {
        assert_eq!(bench.cost(line), Some(expected), "{line}");
    }
    assert_eq!(bench.cost("SCARD a"), None);
}

#[test]
fn cardinalities_of_unions_and_differences() {
    const WRONG: &str = "(error) WRONGTYPE Operation against a key holding the wrong kind of value";
    check(&[
        ("SADD t 1 2 3 a b", "5"),
        ("SADD u 2 3 c", "3"),
        ("SET s v", "OK"),
        ("SUNIONCARD 2 t u", "6"),
        ("SUNIONCARD 1 t", "5"),
        ("SUNIONCARD 2 t t", "5"),
        ("SUNIONCARD 2 t none", "5"),
        ("SUNIONCARD 1 none", "0"),
        ("SUNIONCARD 2 t u LIMIT 3", "3"),
        ("SUNIONCARD 2 t u LIMIT 0", "6"),
        ("SUNIONCARD 2 t u LIMIT -1", "(error) ERR LIMIT can't be negative"),
        ("SUNIONCARD 2 t u LIMIT", "(error) ERR syntax error"),
        ("SUNIONCARD 2 t u LIMIT 2 limit 4", "4"),
        ("SUNIONCARD 2 t u APPROX APPROX LIMIT 4", "4"),
        ("SUNIONCARD 2 t u approx", "6"),
        ("SUNIONCARD 2 t u FOO", "(error) ERR syntax error"),
        ("SUNIONCARD 3 t u", "(error) ERR Number of keys can't be greater than number of args"),
        ("SUNIONCARD 0 t u", "(error) ERR numkeys should be greater than 0"),
        ("SUNIONCARD x t u", "(error) ERR numkeys should be greater than 0"),
        ("SUNIONCARD 2 t s", WRONG),
        ("SUNIONCARD 2 none s", WRONG),
        ("SDIFFCARD 2 t u", "3"),
        ("SDIFFCARD 2 t u LIMIT 2", "2"),
        ("SDIFFCARD 1 t", "5"),
        ("SDIFFCARD 2 t t", "0"),
        ("SDIFFCARD 2 none s", WRONG),
        ("SDIFFCARD 2 t s", WRONG),
        ("SDIFFCARD 2 t u APPROX", "(error) ERR syntax error"),
        ("SDIFFCARD 2 t u LIMIT x", "(error) ERR LIMIT can't be negative"),
    ]);
}

fn command() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let word = |word: &str| Just(word.as_bytes().to_vec()).boxed();
    let key = || (0..4u8).prop_map(|key| vec![b'a' + key]).boxed();
    let member = || {
        prop_oneof![
            4 => (0..12u8).prop_map(|n| n.to_string().into_bytes()),
            2 => (0..6u8).prop_map(|n| format!("m{n}").into_bytes()),
            1 => proptest::collection::vec(any::<u8>(), 0..70),
        ]
        .boxed()
    };
    prop_oneof![
        4 => (key(), proptest::collection::vec(member(), 1..8)).prop_map(|(key, members)| {
            [b"SADD".to_vec(), key].into_iter().chain(members).collect()
        }),
        1 => (word("SREM"), key(), member()).prop_map(|(a, b, c)| vec![a, b, c]),
        1 => (word("SPOP"), key()).prop_map(|(a, b)| vec![a, b]),
        1 => (word("SPOP"), key(), 0..9u8).prop_map(|(a, b, c)| vec![a, b, c.to_string().into_bytes()]),
        1 => (word("SMOVE"), key(), key(), member()).prop_map(|(a, b, c, d)| vec![a, b, c, d]),
        1 => (prop_oneof![word("SINTERSTORE"), word("SUNIONSTORE"), word("SDIFFSTORE")], key(), key(), key())
            .prop_map(|(a, b, c, d)| vec![a, b, c, d]),
        1 => (word("SET"), key(), member()).prop_map(|(a, b, c)| vec![a, b, c]),
    ]
}

proptest! {
    #[test]
    fn effects_replay_to_the_same_data(commands in proptest::collection::vec(command(), 1..60)) {
        check_effects(&commands);
    }

    #[test]
    fn algebra_is_that_of_sets(
        sets in proptest::collection::vec(proptest::collection::btree_set(0..40i32, 0..30), 1..6),
        letters in any::<[bool; 6]>(),
    ) {
        let mut bench = Bench::new();
        let mut model: Vec<BTreeSet<String>> = Vec::new();
        let mut keys = String::new();
        for (at, set) in sets.iter().enumerate() {
            // With a letter among them the set is a listpack, else an intset.
            let set: BTreeSet<String> = set.iter().map(i32::to_string).chain(letters[at].then(|| "x".into())).collect();
            set.iter().for_each(|member| { bench.run(&format!("SADD k{at} {member}")); });
            keys += &format!(" k{at}");
            model.push(set);
        }
        let mut counts: BTreeMap<&String, usize> = BTreeMap::new();
        model.iter().flatten().for_each(|member| *counts.entry(member).or_default() += 1);
        let all = model.len();
        let union: BTreeSet<&String> = counts.keys().copied().collect();
        let inter: BTreeSet<&String> = counts.iter().filter(|(_, n)| **n == all).map(|(m, _)| *m).collect();
        let diff: BTreeSet<&String> = model[0].iter().filter(|m| counts[m] == 1).collect();
        for (command, expected) in [("SUNION", union), ("SINTER", inter), ("SDIFF", diff)] {
            let reply = bench.run(&format!("{command}{keys}"));
            let words = reply.trim_matches(['[', ']']).split(' ').filter(|member| !member.is_empty());
            let read: Vec<String> = words.map(String::from).collect();
            prop_assert_eq!(read.len(), expected.len());
            prop_assert!(read.iter().all(|member| expected.contains(member)));
            prop_assert_eq!(bench.run(&format!("{command}STORE d{keys}")), expected.len().to_string());
            prop_assert_eq!(bench.run("SCARD d"), expected.len().to_string());
            for (limit, most) in [("", usize::MAX), (" LIMIT 0", usize::MAX), (" LIMIT 5", 5)] {
                let reply = bench.run(&format!("{command}CARD {all}{keys}{limit}"));
                prop_assert_eq!(reply, expected.len().min(most).to_string());
            }
        }
    }
}
