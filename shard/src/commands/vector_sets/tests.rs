use fastrand::Rng;

use crate::commands::testing::{Bench, check, check_effects, check_resp3};

const WRONG_TYPE: &str = "(error) WRONGTYPE Operation against a key holding the wrong kind of value";
const BAD_VECTOR: &str = "(error) ERR invalid vector specification";

/// As Redis 8.10.2 replies.
#[test]
fn elements_come_and_go() {
    check(&[
        ("VADD v VALUES 3 1 2 3 a", "1"),
        ("VADD v VALUES 3 3 2 1 b SETATTR {\"x\":1}", "1"),
        ("VADD v VALUES 3 -1 0.5 0 c", "1"),
        ("VADD v VALUES 3 1 2 3 a", "0"),
        ("TYPE v", "vectorset"),
        ("OBJECT ENCODING v", "raw"),
        ("VCARD v", "3"),
        ("VDIM v", "3"),
        ("VSIM v ELE a WITHSCORES", "[a 1 b 0.8563806712627411 c 0.5004665851593018]"),
        ("VSIM v ELE a WITHSCORES WITHATTRIBS", "[a 1 nil b 0.8563806712627411 {\"x\":1} c 0.5004665851593018 nil]"),
        ("VSIM v ELE a WITHATTRIBS TRUTH", "[a nil b {\"x\":1} c nil]"),
        ("VSIM v VALUES 3 1 2 3 COUNT 1", "[a]"),
        ("VSIM v ELE a EPSILON 0.2 WITHSCORES NOTHREAD", "[a 1 b 0.8563806712627411]"),
        ("VSIM v ELE a EPSILON 1e-9", "[a]"),
        ("VEMB v a", "[0.992125928401947 2.007874011993408 3]"),
        ("VLINKS v b", "[[c a]]"),
        ("VGETATTR v b", "{\"x\":1}"),
        ("VGETATTR v a", "nil"),
        ("VISMEMBER v a", "1"),
        ("VISMEMBER v d", "0"),
        ("VSETATTR v a {\"y\":2}", "1"),
        ("VSETATTR v d {}", "0"),
        ("VADD v VALUES 3 1 1 1 a", "0"),
        ("VGETATTR v a", "{\"y\":2}"),
        ("VADD v VALUES 3 1 1 1 a SETATTR \"\"", "0"),
        ("VGETATTR v a", "nil"),
        ("VADD v VALUES 3 1 1 1 b SETATTR {}", "0"),
        ("VGETATTR v b", "{}"),
        ("VSETATTR v b \"\"", "1"),
        ("VGETATTR v b", "nil"),
        ("VREM v a", "1"),
        ("VREM v a", "0"),
        ("VSIM v ELE a", "(error) ERR element not found in set"),
        ("VREM v b", "1"),
        ("VREM v c", "1"),
        ("EXISTS v", "0"),
    ]);
}

#[test]
fn missing_keys_are_empty() {
    check(&[
        ("VSIM none ELE a WITHSCORES", "[]"),
        ("VSIM none BAD a BAD", "[]"),
        ("VEMB none a RAW", "nil"),
        ("VLINKS none a", "nil"),
        ("VINFO none", "nil"),
        ("VCARD none", "0"),
        ("VDIM none", "(error) ERR key does not exist"),
        ("VREM none a", "0"),
        ("VISMEMBER none a", "0"),
        ("VSETATTR none a {}", "0"),
        ("VGETATTR none a", "nil"),
        ("VRANGE none - +", "[]"),
        ("VRANDMEMBER none", "nil"),
        ("VRANDMEMBER none 3", "[]"),
        ("VADD v VALUES 1 1 a", "1"),
        ("VEMB v b", "nil"),
        ("VLINKS v b WITHSCORES", "nil"),
        ("VGETATTR v b", "nil"),
    ]);
}

#[test]
fn errors_are_those_of_redis() {
    check(&[
        ("SET s x", "OK"),
        ("VADD s VALUES 1 1 a", WRONG_TYPE),
        ("VADD s VALUES 1 x a", BAD_VECTOR),
        ("VSIM s ELE a", WRONG_TYPE),
        ("VSIM s BAD", "(error) ERR wrong number of arguments for 'vsim' command"),
        ("VCARD s", WRONG_TYPE),
        ("VDIM s", WRONG_TYPE),
        ("VEMB s a", WRONG_TYPE),
        ("VLINKS s a", WRONG_TYPE),
        ("VINFO s", WRONG_TYPE),
        ("VREM s a", WRONG_TYPE),
        ("VISMEMBER s a", WRONG_TYPE),
        ("VSETATTR s a {}", WRONG_TYPE),
        ("VGETATTR s a", WRONG_TYPE),
        ("VRANGE s - +", WRONG_TYPE),
        ("VRANDMEMBER s", WRONG_TYPE),
        ("VRANDMEMBER s 0", "[]"),
        ("VADD v VALUES 3 1 2 3 a", "1"),
        ("VADD v VALUES 3 1 2 3", "(error) ERR wrong number of arguments for 'VADD' command"),
        ("vadd v VALUES 3 1 2 3", "(error) ERR wrong number of arguments for 'vadd' command"),
        ("VADD v VALUES 3 1 2 nan d", BAD_VECTOR),
        ("VADD v VALUES 0 1 2 d", BAD_VECTOR),
        ("VADD v VALUES x 1 2 d", BAD_VECTOR),
        ("VADD v VALUES 65537 1 2 d", BAD_VECTOR),
        ("VADD v VALUES 4 1 2 d", BAD_VECTOR),
        ("VADD v FP32 abc d", BAD_VECTOR),
        ("VADD v FP32 \"\" d", BAD_VECTOR),
        ("VADD v ELE a d", BAD_VECTOR),
        ("VADD v REDUCE x VALUES 3 1 2 3 d", BAD_VECTOR),
        ("VADD v REDUCE 4 VALUES 3 1 2 3 d", BAD_VECTOR),
        ("VADD v REDUCE 2 VALUES 3 1 2 3 d", "(error) ERR cannot add projection to existing set without projection"),
        ("VADD v VALUES 2 1 2 d", "(error) ERR Vector dimension mismatch - got 2 but set has 3"),
        ("VADD v VALUES 3 1 2 3 d M 8", "(error) ERR asked M value mismatch with existing vector set"),
        ("VADD v VALUES 3 1 2 3 d M 3", "(error) ERR invalid M"),
        ("VADD v VALUES 3 1 2 3 d M 4097", "(error) ERR invalid M"),
        ("VADD v VALUES 3 1 2 3 d EF 0", "(error) ERR invalid EF"),
        ("VADD v VALUES 3 1 2 3 d EF 1000001", "(error) ERR invalid EF"),
        ("VADD v VALUES 3 1 2 3 d EF", "(error) ERR invalid option after element"),
        ("VADD v VALUES 3 1 2 3 d SETATTR", "(error) ERR invalid option after element"),
        ("VADD v VALUES 3 1 2 3 d COUNT", "(error) ERR invalid option after element"),
        ("VADD v VALUES 3 1 2 3 d NOQUANT", "(error) ERR asked quantization mismatch with existing vector set"),
        ("VADD v VALUES 2 1 2 d NOQUANT M 8", "(error) ERR asked quantization mismatch with existing vector set"),
        ("VADD v VALUES 3 1 2 3 d NOQUANT CAS Q8", "1"),
        ("VSIM v FP32 abc", BAD_VECTOR),
        ("VSIM v VALUES 3 1 2", BAD_VECTOR),
        ("VSIM v FOO a", BAD_VECTOR),
        ("VSIM v REDUCE 2 VALUES 3 1 2 3", BAD_VECTOR),
        ("VSIM v VALUES 2 1 2 BAD", "(error) ERR Vector dimension mismatch - got 2 but set has 3"),
        ("VSIM v ELE x BAD", "(error) ERR element not found in set"),
        ("VSIM v ELE a BAD", "(error) ERR syntax error in VSIM command"),
        ("VSIM v ELE a COUNT", "(error) ERR syntax error in VSIM command"),
        ("VSIM v ELE a COUNT 0", "(error) ERR invalid COUNT"),
        ("VSIM v ELE a COUNT x", "(error) ERR invalid COUNT"),
        ("VSIM v ELE a EPSILON 0", "(error) ERR invalid EPSILON"),
        ("VSIM v ELE a EPSILON nan", "(error) ERR invalid EPSILON"),
        ("VSIM v ELE a EF 0", "(error) ERR invalid EF"),
        ("VSIM v ELE a EF 1000001", "(error) ERR invalid EF"),
        ("VSIM v ELE a FILTER-EF 0", "(error) ERR invalid FILTER-EF"),
        ("VSIM v ELE a FILTER bad COUNT 0", "(error) ERR syntax error in FILTER expression near: bad"),
        ("VSIM v ELE a COUNT 0 FILTER bad", "(error) ERR invalid COUNT"),
        ("VEMB v a FOO", "(error) ERR invalid option"),
        ("VEMB none a FOO", "(error) ERR invalid option"),
        ("VLINKS v a FOO", "(error) ERR wrong number of arguments for 'VLINKS' command"),
        ("VLINKS none a FOO", "(error) ERR wrong number of arguments for 'VLINKS' command"),
        ("VLINKS v a WITHSCORES x", "(error) ERR wrong number of arguments for 'VLINKS' command"),
        ("VRANGE v a b", "(error) ERR invalid start range format"),
        ("VRANGE v [ +", "(error) ERR invalid start range format"),
        ("VRANGE v [a b", "(error) ERR invalid end range format"),
        ("VRANGE v a b x", "(error) ERR invalid COUNT value"),
        ("VRANGE v + -", "(error) ERR '-' can only be used as first argument, '+' only as second"),
        ("VRANGE v - -", "(error) ERR '-' can only be used as first argument, '+' only as second"),
        ("VRANGE none + -", "(error) ERR '-' can only be used as first argument, '+' only as second"),
        ("VRANGE v - + 1 1", "(error) ERR wrong number of arguments for 'VRANGE' command"),
        ("VRANDMEMBER v x", "(error) ERR COUNT value is not an integer"),
        ("VRANDMEMBER v -9223372036854775808", "(error) ERR COUNT value is out of range"),
        ("VRANDMEMBER v 1 1", "(error) ERR wrong number of arguments for 'VRANDMEMBER' command"),
    ]);
}

#[test]
fn names_have_an_order() {
    check(&[
        ("VADD v VALUES 1 1 b", "1"),
        ("VADD v VALUES 1 1 a", "1"),
        ("VADD v VALUES 1 1 bb", "1"),
        ("VADD v VALUES 1 1 c", "1"),
        ("VADD v VALUES 1 1 \"\"", "1"),
        ("VRANGE v - +", "[\"\" a b bb c]"),
        ("VRANGE v [b +", "[b bb c]"),
        ("VRANGE v (b +", "[bb c]"),
        ("VRANGE v [aa (c", "[b bb]"),
        ("VRANGE v - [b", "[\"\" a b]"),
        ("VRANGE v [c [a", "[]"),
        ("VRANGE v - + 2", "[\"\" a]"),
        ("VRANGE v - + 0", "[]"),
        ("VRANGE v (b + -1", "[bb c]"),
    ]);
}

#[test]
fn shapes_are_chosen_by_the_first_vector() {
    check(&[
        ("VADD p REDUCE 2 VALUES 3 1 2 3 d NOQUANT", "1"),
        ("VADD p REDUCE 2 VALUES 3 3 2 1 e NOQUANT", "1"),
        ("VADD p VALUES 2 3 2 f NOQUANT", "(error) ERR Vector dimension mismatch - got 2 but set has 2"),
        ("VADD p VALUES 3 3 2 1 f NOQUANT", "(error) ERR Vector dimension mismatch - got 3 but set has 2"),
        ("VADD p REDUCE 3 VALUES 3 3 2 1 f NOQUANT", "(error) ERR Vector dimension mismatch - got 3 but set has 2"),
        (
            "VADD p REDUCE 2 VALUES 4 3 2 1 4 f NOQUANT",
            "(error) ERR Input dimension mismatch for projection - got 4 but projection expects 3",
        ),
        ("VEMB p d", "[3.464101552963257 1.154700517654419]"),
        ("VSIM p VALUES 3 1 2 3 WITHSCORES", "[e 1 d 0.9999999701976776]"),
        ("VSIM p VALUES 2 1 2 WITHSCORES", "[e 0.8535534143447876 d 0.8535533547401428]"),
        (
            "VSIM p VALUES 4 1 2 3 4",
            "(error) ERR Input dimension mismatch for projection - got 4 but projection expects 3",
        ),
        ("VADD b VALUES 3 0 0 0 z BIN", "1"),
        ("VEMB b z", "[-1 -1 -1]"),
        ("VEMB b z RAW", "[bin \0\0\0\0\0\0\0\0 1]"),
        ("VSIM b VALUES 3 1 -1 1 WITHSCORES", "[z 0.3333333134651184]"),
        ("VADD z VALUES 3 0 0 0 z", "1"),
        ("VEMB z z", "[0 0 0]"),
        ("VEMB z z RAW", "[int8 \0\0\0 1 0]"),
        ("VSIM z VALUES 3 1 2 3 WITHSCORES", "[z 0.5]"),
        ("VADD i VALUES 2 inf 1 a", "1"),
        ("VEMB i a RAW", "[int8 \0\0 inf 0]"),
        (
            "VINFO b",
            "[quant-type bin hnsw-m 16 vector-dim 3 projection-input-dim 0 size 1 max-level 0 attributes-count 0 vset-uid 1996571571965918 hnsw-max-node-uid 1]",
        ),
    ]);
}

#[test]
fn raw_vectors_are_those_of_redis() {
    let mut bench = Bench::new();
    for (options, raw) in [
        ("", "*4\r\n+int8\r\n$3\r\n*U\x7f\r\n$18\r\n3.7416574954986572\r\n$18\r\n0.8017836809158325\r\n"),
        ("BIN", "*3\r\n+bin\r\n$8\r\n\x07\0\0\0\0\0\0\0\r\n$18\r\n3.7416574954986572\r\n"),
    ] {
        bench.run("DEL v");
        bench.run(&format!("VADD v VALUES 3 1 2 3 a {options}"));
        assert_eq!(bench.run_raw(&[b"VEMB", b"v", b"a", b"RAW"]), raw.as_bytes());
    }
    bench.run("VADD p REDUCE 2 VALUES 3 1 2 3 d NOQUANT");
    let raw = b"*3\r\n+f32\r\n$8\r\n\xe8\xdcr?\x9b\xe8\xa1>\r\n$18\r\n3.6514837741851807\r\n";
    assert_eq!(bench.run_raw(&[b"VEMB", b"p", b"d", b"RAW"]), raw);
    let blob: Vec<u8> = [1.0f32, 2.0, 3.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(bench.run_args(&[b"VADD", b"f", b"FP32", &blob, b"a"]), "1");
    assert_eq!(bench.run("VEMB f a"), "[0.992125928401947 2.007874011993408 3]");
    assert_eq!(bench.run_args(&[b"VSIM", b"f", b"fp32", &blob, b"withscores"]), "[a 1]");
}

#[test]
fn resp3_has_maps() {
    check_resp3(&[
        ("VADD v VALUES 3 1 2 3 a", "true"),
        ("VADD v VALUES 3 3 2 1 b SETATTR {}", "true"),
        ("VADD v VALUES 3 3 2 1 b", "false"),
        ("VSIM v ELE a", "[a b]"),
        ("VSIM v ELE a WITHSCORES", "{a 1 b 0.8563806712627411}"),
        ("VSIM v ELE a WITHATTRIBS", "{a nil b {}}"),
        ("VSIM v ELE a WITHATTRIBS WITHSCORES", "{a [1 nil] b [0.8563806712627411 {}]}"),
        ("VSIM none ELE a WITHSCORES", "[]"),
        ("VLINKS v a", "[[b]]"),
        ("VLINKS v a WITHSCORES", "[{b 0.8565826416015625}]"),
        ("VISMEMBER v a", "true"),
        ("VSETATTR v x {}", "false"),
        ("VREM v a", "true"),
        ("VREM v a", "false"),
    ]);
}

#[test]
fn members_at_random_are_members() {
    let mut bench = Bench::new();
    let names: Vec<String> = (0..50).map(|at| format!("m{at}")).collect();
    names.iter().for_each(|name| drop(bench.run(&format!("VADD v VALUES 1 1 {name} EF 5"))));
    let drawn = |bench: &mut Bench, line: &str| -> Vec<String> {
        bench.run(line).trim_matches(['[', ']']).split(' ').map(str::to_owned).collect()
    };
    for (count, expected) in [("3", 3), ("20", 20), ("49", 49), ("50", 50), ("900", 50)] {
        let mut members = drawn(&mut bench, &format!("VRANDMEMBER v {count}"));
        assert!(members.len() == expected && members.iter().all(|member| names.contains(member)));
        members.sort();
        members.dedup();
        assert_eq!(members.len(), expected, "they are different");
    }
    let mut members = drawn(&mut bench, "VRANDMEMBER v -500");
    assert!(members.len() == 500 && members.iter().all(|member| names.contains(member)));
    members.sort();
    members.dedup();
    assert!(members.len() > 45);
    assert!(names.contains(&bench.run("VRANDMEMBER v")));
}

#[test]
fn keys_are_dumped_copied_and_restored() {
    let mut bench = Bench::new();
    let mut random = Rng::with_seed(1);
    for at in 0..60 {
        let (x, y, z) = (random.i32(-99..99), random.i32(-99..99), random.i32(-99..99));
        bench.run(&format!("VADD v VALUES 3 {x} {y} {z} m{at} EF 20 SETATTR {{\"at\":{at}}}"));
    }
    let reply = bench.run_raw(&[b"DUMP", b"v"]);
    let start = reply.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let payload = reply[start..reply.len() - 2].to_vec();
    assert_eq!(bench.run_args(&[b"RESTORE", b"w", b"0", &payload]), "OK");
    assert_eq!(bench.run("COPY v c"), "1");
    assert_eq!(bench.run("RENAME c d"), "OK");
    let data = bench.data();
    let text = |key: &[u8]| &data[key].1;
    assert_eq!(text(b"v"), text(b"w"));
    assert_eq!(text(b"v"), text(b"d"));
    let found = bench.run("VSIM v ELE m1 WITHSCORES");
    assert_eq!(bench.run("VSIM w ELE m1 WITHSCORES"), found);
    assert_eq!(bench.run("DEBUG DIGEST-VALUE v"), bench.run("DEBUG DIGEST-VALUE w"));
}

/// All changes of the graph are in the log, the replacement of a vector too.
#[test]
fn effects_make_the_same_graph() {
    let mut random = Rng::with_seed(2);
    let mut commands = Vec::new();
    for _ in 0..400 {
        let name = format!("m{}", random.u32(..60));
        let line = match random.u32(..10) {
            0..2 => format!("VREM v {name}"),
            2 => format!("VSETATTR v {name} {}", random.u32(..9)),
            3 => "EXPIRE v 100".to_owned(),
            _ => format!("VADD v VALUES 2 {} {} {name} EF 10 M 4", random.i32(-9..9), random.i32(-9..9)),
        };
        commands.push(line.split(' ').map(|word| word.as_bytes().to_vec()).collect());
    }
    check_effects(&commands);
}

#[test]
fn costs_grow_with_what_is_looked_at() {
    let mut bench = Bench::new();
    for at in 0..300 {
        bench.run(&format!("VADD v VALUES 2 {at} 1 m{at} EF 4"));
    }
    let mut cost = |line: &str| bench.cost(line).unwrap();
    assert!(cost("VSIM v ELE m1 COUNT 1 EF 1") < cost("VSIM v ELE m1 COUNT 1 EF 15"));
    assert!(cost("VSIM v ELE m1 COUNT 5 EF 1") > cost("VSIM v ELE m1 COUNT 1 EF 1"));
    assert!(cost("VSIM v ELE m1 TRUTH") >= 300 / 5);
    assert!(cost("VSIM v ELE m1 FILTER .x>1") > cost("VSIM v ELE m1"));
    assert!(cost("VSIM v VALUES 2 1 2 TRUTH") >= 300 / 5);
    assert!(cost("VADD v VALUES 2 1 2 x EF 2") < cost("VADD v VALUES 2 1 2 x"));
    assert_eq!(cost("VSIM none ELE m1"), 0);
    assert_eq!(cost("VRANGE v - + 7"), 7);
}

#[test]
fn growth_is_an_upper_bound() {
    for options in ["", "NOQUANT", "BIN", "M 4", "M 100", "REDUCE"] {
        let mut bench = Bench::new();
        let mut random = Rng::with_seed(3);
        let mut bytes = 0;
        for at in 0..700 {
            let values: String = (0..20).map(|_| format!(" {}", random.i32(-99..99))).collect();
            let (reduce, options) = if options == "REDUCE" { ("REDUCE 7 ", "") } else { ("", options) };
            let line = format!("VADD v {reduce}VALUES 20{values} m{at} EF 3 {options}");
            let growth = bench.growth(&line);
            assert_eq!(bench.run(&line), "1");
            let now = bench.keyspace().collection_bytes(b"v");
            assert!(now <= bytes + growth + 64, "{now} after {bytes}, of which {growth} was announced");
            bytes = now;
        }
    }
}

/// A removal looks at pairs of neighbours, and notes them.
#[test]
fn a_removal_needs_memory_for_the_pairs_of_neighbours() {
    let mut bench = Bench::new();
    for at in 0..300 {
        bench.run(&format!("VADD v VALUES 2 {at} 1 m{at} EF 4 M 100"));
    }
    assert!(bench.needs("VREM v m1") >= 200 * 200 / 2 * 12);
    assert!(bench.needs("VADD v VALUES 2 1 1 m1 M 100") >= 200 * 200 / 2 * 12);
    assert_eq!(bench.needs("VREM none m1"), 0);
}

/// A search may come upon the element with the largest attributes, however few bytes the others have.
#[test]
fn filters_are_charged_for_the_largest_attributes() {
    let mut bench = Bench::new();
    for n in 0..200 {
        bench.run(&format!("VADD v VALUES 2 1 {n} m{n} SETATTR {{\"x\":{n}}}"));
    }
    let filtered = "VSIM v ELE m1 COUNT 1 FILTER-EF 1 FILTER .x>1or.y>1";
    let costs = |bench: &mut Bench| [filtered, "VSIM v ELE m1"].map(|line| bench.cost(line).unwrap());
    let [before, plain] = costs(&mut bench);
    let large = format!("{{\"large\":\"{}\",\"x\":1}}", "x".repeat(1 << 20));
    bench.run_args(&[b"VSETATTR", b"v", b"m7", large.as_bytes()]);
    let [after, still_plain] = costs(&mut bench);
    assert_eq!(plain, still_plain);
    assert!(after >= before + 2 * large.len() / 16, "{before} and {after}");
    assert!(after <= before + 4 * large.len() / 16, "{before} and {after}");
    bench.run("VREM v m7");
    assert!(costs(&mut bench)[0] <= before);
}
