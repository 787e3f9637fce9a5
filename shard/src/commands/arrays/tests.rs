//! Arrays as commands.

use std::collections::BTreeMap;

use fastrand::Rng;

use crate::commands::cost;
use crate::commands::testing::{Bench, check, check_effects, check_resp3};

/// The replies of Redis 8.10.2.
#[test]
fn replies_and_errors() {
    check(&[
        ("SET s v", "OK"),
        ("ARSET a 5 five", "1"),
        ("ARSET a 5 FIVE six seven", "2"),
        ("ARGET a 6", "six"),
        ("ARGET a 7", "seven"),
        ("ARGET a 8", "nil"),
        ("ARGET none 0", "nil"),
        ("ARGET s 0", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("ARGET s x", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("ARGET a x", "(error) ERR invalid array index"),
        ("ARGET a -1", "(error) ERR invalid array index"),
        ("ARGET a 1.5", "(error) ERR invalid array index"),
        ("ARGET a 18446744073709551614", "nil"),
        ("ARGET a 18446744073709551615", "(error) ERR invalid array index"),
        ("ARGET a 007", "seven"),
        ("ARGET a \" 6\"", "six"),
        ("ARGET a +6", "six"),
        ("ARGET a \"6 \"", "(error) ERR invalid array index"),
        ("ARGET a \"6\\x00x\"", "six"),
        ("ARGET a \"\"", "(error) ERR invalid array index"),
        ("ARGET a \" \"", "(error) ERR invalid array index"),
        ("ARGET a -", "(error) ERR invalid array index"),
        ("ARGET a -05", "nil"),
        ("ARGET a 99999999999999999999", "(error) ERR invalid array index"),
        ("ARSET a x v", "(error) ERR invalid array index"),
        ("ARSET a 18446744073709551615 v", "(error) ERR invalid array index"),
        ("ARSET a 18446744073709551614 v", "1"),
        ("ARSET a 18446744073709551614 v w", "(error) ERR array index overflow"),
        ("ARSET a 18446744073709551613 v w", "1"),
        ("ARSET s 0 v", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("ARSET s x v", "(error) ERR invalid array index"),
        ("ARSET a 0", "(error) ERR wrong number of arguments for 'arset' command"),
        ("ARLEN a", "18446744073709551615"),
        ("ARLEN none", "0"),
        ("ARLEN s", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("ARCOUNT a", "5"),
        ("ARCOUNT none", "0"),
        ("ARCOUNT s", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("ARMSET m 0 a 2 c 0 A", "2"),
        ("ARMSET m 0 a 2", "(error) ERR wrong number of arguments for 'armset' command"),
        ("ARMSET m x a", "(error) ERR invalid array index"),
        ("ARMSET m 0 a x b", "(error) ERR invalid array index"),
        ("ARMSET s 0 a", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("ARMGET m 0 1 2 9", "[A nil c nil]"),
        ("ARMGET none 0 1", "[nil nil]"),
        ("ARMGET s 0", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("ARMGET s x", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("ARMGET m 0 x", "(error) ERR invalid array index"),
        ("ARMGET none x", "(error) ERR invalid array index"),
        ("ARGETRANGE m 0 3", "[A nil c nil]"),
        ("ARGETRANGE m 3 0", "[nil c nil A]"),
        ("ARGETRANGE m 2 2", "[c]"),
        ("ARGETRANGE none 0 2", "[nil nil nil]"),
        ("ARGETRANGE none 0 1000000", "(error) ERR range exceeds maximum of 1000000 items"),
        ("ARGETRANGE m 0 1000000", "(error) ERR range exceeds maximum of 1000000 items"),
        ("ARGETRANGE s 0 1000000", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("ARGETRANGE s x 1", "(error) ERR invalid array index"),
        ("ARGETRANGE m 0 x", "(error) ERR invalid array index"),
        ("ARGETRANGE a 18446744073709551612 18446744073709551614", "[nil v w]"),
        ("ARGETRANGE a 18446744073709551614 18446744073709551612", "[w v nil]"),
        ("ARSCAN m 0 9", "[[0 A] [2 c]]"),
        ("ARSCAN m 9 0", "[[2 c] [0 A]]"),
        ("ARSCAN m 0 9 LIMIT 1", "[[0 A]]"),
        ("ARSCAN m 9 0 limit 1", "[[2 c]]"),
        ("ARSCAN m 0 9 LIMIT 0", "(error) ERR LIMIT must be positive"),
        ("ARSCAN m 0 9 LIMIT -1", "(error) ERR LIMIT must be positive"),
        ("ARSCAN m 0 9 LIMIT x", "(error) ERR value is not an integer or out of range"),
        ("ARSCAN m 0 9 NOPE 1", "(error) ERR syntax error"),
        ("ARSCAN m 0 9 LIMIT", "(error) ERR wrong number of arguments for 'arscan' command"),
        ("ARSCAN m 0 9 LIMIT 1 2", "(error) ERR wrong number of arguments for 'arscan' command"),
        ("ARSCAN m x 9", "(error) ERR invalid array index"),
        ("ARSCAN none 0 9", "[]"),
        ("ARSCAN s 0 9", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("ARSCAN s 0 9 LIMIT 0", "(error) ERR LIMIT must be positive"),
        (
            "ARSCAN a 0 18446744073709551614",
            "[[5 FIVE] [6 six] [7 seven] [18446744073709551613 v] [18446744073709551614 w]]",
        ),
        ("ARDEL m 1", "0"),
        ("ARDEL m x", "(error) ERR invalid array index"),
        ("ARDEL none x", "(error) ERR invalid array index"),
        ("ARDEL none 1", "0"),
        ("ARDEL s 1", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("ARDEL s x", "(error) ERR invalid array index"),
        ("ARDEL m 0 0 1", "1"),
        ("ARDEL m 2", "1"),
        ("EXISTS m", "0"),
        ("ARDELRANGE a 5 5 9 6", "3"),
        ("ARCOUNT a", "2"),
        ("ARDELRANGE a 5 6 7", "(error) ERR wrong number of arguments for 'ardelrange' command"),
        ("ARDELRANGE a 5 x", "(error) ERR invalid array index"),
        ("ARDELRANGE none 5 x", "(error) ERR invalid array index"),
        ("ARDELRANGE none 5 6", "0"),
        ("ARDELRANGE s 5 6", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("ARDELRANGE a 0 18446744073709551614", "2"),
        ("EXISTS a", "0"),
        ("ARINSERT i a b c", "2"),
        ("ARNEXT i", "3"),
        ("ARNEXT none", "0"),
        ("ARNEXT s", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("ARINSERT s v", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("ARSEEK i 10", "1"),
        ("ARNEXT i", "10"),
        ("ARINSERT i d", "10"),
        ("ARSCAN i 0 99", "[[0 a] [1 b] [2 c] [10 d]]"),
        ("ARSEEK none 5", "0"),
        ("EXISTS none", "0"),
        ("ARSEEK s 5", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("ARSEEK s x", "(error) ERR invalid array index"),
        ("ARSEEK i x", "(error) ERR invalid array index"),
        ("ARSEEK i -1", "(error) ERR invalid array index"),
        ("ARSEEK i 0", "1"),
        ("ARNEXT i", "0"),
        ("ARINSERT i A", "0"),
        ("ARGETRANGE i 0 3", "[A b c nil]"),
        ("ARSEEK i 18446744073709551615", "1"),
        ("ARNEXT i", "nil"),
        ("ARINSERT i x", "(error) ERR insert index overflow"),
        ("ARSEEK i 18446744073709551614", "1"),
        ("ARNEXT i", "18446744073709551614"),
        ("ARINSERT i x y", "(error) ERR insert index overflow"),
        ("ARINSERT i x", "18446744073709551614"),
        ("ARNEXT i", "nil"),
        ("ARINSERT i x", "(error) ERR insert index overflow"),
        ("ARLEN i", "18446744073709551615"),
        (
            "ARINFO i",
            "[count 5 len 18446744073709551615 next-insert-index 0 slices 2 directory-size 4 super-dir-entries 2 slice-size 4096]",
        ),
        ("ARDEL i 18446744073709551614", "1"),
        ("ARSEEK i 9223372036854775807", "1"),
        ("ARNEXT i", "9223372036854775807"),
        ("ARINSERT i z", "9223372036854775807"),
        ("ARNEXT i", "9223372036854775808"),
        ("ARLEN i", "9223372036854775808"),
        ("ARINFO none", "(error) ERR no such key"),
        ("ARINFO s", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("ARINFO i NOPE", "(error) ERR syntax error"),
        ("ARINFO i FULL x", "(error) ERR syntax error"),
        ("ARINFO s NOPE", "(error) ERR syntax error"),
        ("ARRING r 3 a b c d", "0"),
        ("ARGETRANGE r 0 3", "[d b c nil]"),
        ("ARNEXT r", "1"),
        ("ARLASTITEMS r 2", "[c d]"),
        ("ARLASTITEMS r 9", "[b c d]"),
        ("ARLASTITEMS r 9 REV", "[d c b]"),
        ("ARLASTITEMS r 0", "[]"),
        ("ARLASTITEMS r -1", "[]"),
        ("ARLASTITEMS r x", "(error) ERR invalid COUNT"),
        ("ARLASTITEMS r 1 NOPE", "(error) ERR syntax error"),
        ("ARLASTITEMS r 1 REV x", "(error) ERR wrong number of arguments for 'arlastitems' command"),
        ("ARLASTITEMS s 0", "[]"),
        ("ARLASTITEMS s 0 NOPE", "[]"),
        ("ARLASTITEMS s 1", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("ARLASTITEMS none 1", "[]"),
        ("ARRING r 5 e", "3"),
        ("ARGETRANGE r 0 5", "[b c d e nil nil]"),
        ("ARLASTITEMS r 9", "[b c d e]"),
        ("ARRING r 2 f", "0"),
        ("ARGETRANGE r 0 3", "[f e nil nil]"),
        ("ARNEXT r", "1"),
        ("ARRING r 2 g", "1"),
        ("ARGETRANGE r 0 3", "[f g nil nil]"),
        ("ARLASTITEMS r 9", "[f g]"),
        ("ARLASTITEMS r 9 rev", "[g f]"),
        ("ARSEEK r 0", "1"),
        ("ARLASTITEMS r 9", "[f g]"),
        ("ARRING r 4 h", "0"),
        ("ARGETRANGE r 0 4", "[h g nil nil nil]"),
        ("ARSEEK r 100", "1"),
        ("ARLASTITEMS r 9", "[nil nil]"),
        ("ARLASTITEMS r 9 REV", "[nil nil]"),
        ("ARRING r 4 i", "0"),
        ("ARGETRANGE r 0 4", "[i g nil nil nil]"),
        ("ARRING r 0 x", "(error) ERR size must be positive"),
        ("ARRING r -1 x", "(error) ERR size must be positive"),
        ("ARRING r x x", "(error) ERR invalid size"),
        ("ARRING r 99999999999999999999 x", "(error) ERR invalid size"),
        ("ARRING s 3 x", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("ARRING r 9223372036854775807 j", "2"),
        ("ARNEXT r", "3"),
        ("ARDEL r 1", "1"),
        ("ARRING r 3 k", "0"),
        ("ARGETRANGE r 0 4", "[k nil j nil nil]"),
        ("ARDEL r 0 1 2 3", "2"),
        ("EXISTS r", "0"),
        ("ARSET o 0 1 2.5 text -3 \"\" 0.1 9223372036854775807 inf 0x10 1e3", "10"),
        ("AROP o 0 4 SUM", "0.5"),
        ("AROP o 0 4 MIN", "-3"),
        ("AROP o 0 4 max", "2.5"),
        ("AROP o 0 99 SUM", "inf"),
        ("AROP o 0 6 SUM", "9.2233720368547758e+18"),
        ("AROP o 99 0 SUM", "inf"),
        ("AROP o 0 6 MAX", "9.2233720368547758e+18"),
        ("AROP o 0 7 MAX", "inf"),
        ("AROP o 0 4 AND", "0"),
        ("AROP o 0 4 OR", "-1"),
        ("AROP o 0 4 XOR", "-2"),
        ("AROP o 0 99 XOR", "-9223372036854774791"),
        ("AROP o 0 99 OR", "-1"),
        ("AROP o 2 2 SUM", "nil"),
        ("AROP o 2 2 AND", "nil"),
        ("AROP o 2 4 USED", "3"),
        ("AROP o 0 99 MATCH 2.5", "1"),
        ("AROP o 0 99 MATCH 2.50", "0"),
        ("AROP o 0 99 MATCH", "(error) ERR MATCH requires a value argument"),
        ("AROP o 0 99 MATCH a b", "(error) ERR MATCH requires a value argument"),
        ("AROP o 0 99 SUM x", "(error) ERR wrong number of arguments for 'arop' command"),
        ("AROP o 0 99 NOPE", "(error) ERR unknown operation"),
        ("AROP o 0 99 NOPE x", "(error) ERR unknown operation"),
        ("AROP o x 99 SUM", "(error) ERR invalid array index"),
        ("AROP none 0 9 SUM", "nil"),
        ("AROP none 0 9 AND", "nil"),
        ("AROP none 0 9 USED", "0"),
        ("AROP none 0 9 MATCH x", "0"),
        ("AROP s 0 9 SUM", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("AROP s 0 9 NOPE", "(error) ERR unknown operation"),
        ("ARSET o2 0 0.1 0.2 0.7 0.3 1.50 1.0 -0.0", "7"),
        ("AROP o2 0 0 SUM", "0.1"),
        ("AROP o2 0 1 SUM", "0.3"),
        ("AROP o2 2 2 SUM", "0.7"),
        ("AROP o2 2 3 SUM", "1"),
        ("AROP o2 0 3 SUM", "1.3"),
        ("AROP o2 4 5 SUM", "2.5"),
        ("AROP o2 6 6 SUM", "-0"),
        ("AROP o2 0 6 OR", "1"),
        ("ARSET o3 0 -9223372036854775808 -1 1e18 12345678901234567890 9223372036854775807.5 -inf inf", "7"),
        ("AROP o3 0 1 SUM", "-9.2233720368547758e+18"),
        ("AROP o3 0 3 SUM", "4.1223068643797921e+18"),
        ("AROP o3 2 4 OR", "1000000000000000000"),
        ("AROP o3 3 4 OR", "nil"),
        ("AROP o3 0 6 SUM", "nan"),
        ("AROP o3 5 6 MAX", "inf"),
        ("AROP o3 0 6 MIN", "-inf"),
        ("ARSET g 0 apple banana Apple 12 1.5 \"\" \"a b\" grape", "8"),
        ("ARGREP g 0 99 EXACT apple", "[0]"),
        ("ARGREP g 0 99 EXACT apple NOCASE", "[0 2]"),
        ("ARGREP g 0 99 MATCH an", "[1]"),
        ("ARGREP g 99 0 MATCH ap NOCASE", "[7 2 0]"),
        ("ARGREP g - + MATCH ap", "[0 7]"),
        ("ARGREP g + - MATCH ap", "[7 0]"),
        ("ARGREP g - + GLOB \"*a*e\"", "[0 7]"),
        ("ARGREP g - + GLOB \"A*\" NOCASE WITHVALUES", "[[0 apple] [2 Apple] [6 a b]]"),
        ("ARGREP g - + RE \"^a.*e$\"", "[0]"),
        ("ARGREP g - + RE \"^a.*e$\" NOCASE LIMIT 1", "[0]"),
        ("ARGREP g - + MATCH a MATCH p AND", "[0 7]"),
        ("ARGREP g - + MATCH a MATCH 1", "[0 1 3 4 6 7]"),
        ("ARGREP g - + MATCH a AND MATCH p OR", "[0 1 2 6 7]"),
        ("ARGREP g - + EXACT 12", "[3]"),
        ("ARGREP g - + MATCH 1.", "[4]"),
        ("ARGREP g - + EXACT \"\"", "[5]"),
        ("ARGREP g - + MATCH \"\" LIMIT 3 WITHVALUES", "[[0 apple] [1 banana] [2 Apple]]"),
        ("ARGREP g - + LIMIT 1 MATCH a", "[0]"),
        ("ARGREP g - + MATCH a LIMIT 0", "(error) ERR LIMIT must be positive"),
        ("ARGREP g - + MATCH a LIMIT x", "(error) ERR value is not an integer or out of range"),
        ("ARGREP g - + MATCH a LIMIT", "(error) ERR syntax error"),
        ("ARGREP g - + MATCH", "(error) ERR wrong number of arguments for 'argrep' command"),
        ("ARGREP g - + NOCASE AND", "(error) ERR syntax error"),
        ("ARGREP g - + NOPE a", "(error) ERR syntax error"),
        ("ARGREP g - + MATCH a NOPE", "(error) ERR syntax error"),
        ("ARGREP g - + RE \"\"", "(error) ERR regular expression is empty"),
        ("ARGREP g - + RE (", "(error) ERR invalid regular expression: Missing ')'"),
        ("ARGREP g - + RE \"(a)\\\\1\"", "(error) ERR regular expression backreferences are not supported"),
        ("ARGREP g x + MATCH a", "(error) ERR invalid array index"),
        ("ARGREP g - x MATCH a", "(error) ERR invalid array index"),
        ("ARGREP none - + MATCH a", "[]"),
        ("ARGREP none - + RE (", "(error) ERR invalid regular expression: Missing ')'"),
        ("ARGREP s - + MATCH a", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("ARGREP s - + RE (", "(error) ERR invalid regular expression: Missing ')'"),
        ("ARGREP g 3 4 MATCH 1", "[3 4]"),
        ("TYPE a", "none"),
        ("TYPE g", "array"),
        ("OBJECT ENCODING g", "sliced-array"),
        ("ARGET g", "(error) ERR wrong number of arguments for 'arget' command"),
        ("ARSET g", "(error) ERR wrong number of arguments for 'arset' command"),
        ("ARNEXT", "(error) ERR wrong number of arguments for 'arnext' command"),
    ]);
}

#[test]
fn numbers_beyond_63_bits_are_big_in_resp3() {
    check_resp3(&[
        ("ARSET a 18446744073709551614 v", "1"),
        ("ARLEN a", "18446744073709551615"),
        ("ARSCAN a 0 18446744073709551614", "[[18446744073709551614 v]]"),
        ("ARSEEK a 18446744073709551614", "1"),
        ("ARNEXT a", "18446744073709551614"),
        (
            "ARINFO a",
            "{count 1 len 18446744073709551615 next-insert-index 18446744073709551614 slices 1 directory-size 4 super-dir-entries 1 slice-size 4096}",
        ),
        ("ARINSERT a v", "18446744073709551614"),
        ("ARNEXT a", "nil"),
        ("ARGREP a - + MATCH v", "[18446744073709551614]"),
        ("ARGETRANGE a 18446744073709551613 18446744073709551614", "[nil v]"),
        ("ARSET b 0 1 2.5 x", "3"),
        ("ARGET b 9", "nil"),
        ("AROP b 0 9 SUM", "3.5"),
        ("AROP b 0 9 AND", "0"),
        ("AROP b 5 9 AND", "nil"),
        (
            "ARINFO b",
            "{count 3 len 3 next-insert-index 0 slices 1 directory-size 1 super-dir-entries 0 slice-size 4096}",
        ),
        ("ARSEEK b 5", "1"),
        ("ARNEXT b", "5"),
    ]);
}

/// The structure is our own, but its names and numbers are those of Redis.
#[test]
fn the_structure_is_shown() {
    check_resp3(&[
        ("ARSET a 0 1 2 3", "3"),
        ("ARSET a 5000 1", "1"),
        (
            "ARINFO a FULL",
            "{count 4 len 5001 next-insert-index 0 slices 2 directory-size 2 super-dir-entries 0 slice-size 4096 dense-slices 0 sparse-slices 2 avg-dense-size 0 avg-dense-fill 0 avg-sparse-size 2}",
        ),
    ]);
    let mut bench = Bench::new();
    let words: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    let mut args: Vec<&[u8]> = vec![b"ARSET", b"a", b"0"];
    args.extend(words.iter().map(|word| word.as_bytes()));
    assert_eq!(bench.run_args(&args), "100");
    let shown = bench.run("ARINFO a FULL");
    assert!(shown.contains("dense-slices 1 sparse-slices 0 avg-dense-size 128 avg-dense-fill 0.78125"), "{shown}");
}

#[test]
fn arrays_are_values_like_others() {
    check(&[
        ("ARSET a 0 x 1.5 7", "3"),
        ("ARSEEK a 9", "1"),
        ("COPY a b", "1"),
        ("ARDEL a 0 1 2", "3"),
        ("EXISTS a", "0"),
        ("RENAME b c", "OK"),
        ("ARGETRANGE c 0 2", "[x 1.5 7]"),
        ("ARNEXT c", "9"),
        ("EXPIRE c 100", "1"),
        ("ARSET c 0 y", "0"),
        ("ARINSERT c z", "9"),
        ("TTL c", "100"),
        ("SCAN 0 TYPE array", "[0 [c]]"),
        ("SCAN 0 TYPE hash", "[0 []]"),
        ("OBJECT ENCODING c", "sliced-array"),
        ("GET c", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("SORT c", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("MOVE c 1", "1"),
        ("EXISTS c", "0"),
        ("SET s v", "OK"),
        ("ARINSERT s v", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
    ]);
}

/// The payloads are those of Redis 8.10.2.
#[test]
fn payloads() {
    for (commands, payload) in [
        (&["ARSET k 0 x"][..], "1c0100000301780f00c48933706afd6715"),
        (
            &["ARINSERT k 1 -1 2305843009213693951 2305843009213693952 -2305843009213693952 -2305843009213693953"][..],
            "1c060105000101000000000000000101ffffffffffffffff0201ffffffffffffff1f03001332333035383433303039323133363933393532040100000000000000e00500142d323330353834333030393231333639333935330f00fa3f328a5b7b2337",
        ),
        (
            &["ARSET k 5 0.5 0.1 1.0 -0.0 1.50 123.25 1000000000000000000.0 0.0001 1e3", "ARSEEK k 7"][..],
            "1c0901060502000000000000e03f060303302e310702000000000000f03f08020000000000000080090304312e35300a020000000000d05e400b0200c84e676dc1ab430c0306302e303030310d03033165330f007883c1531a56b136",
        ),
        (
            &["ARSET k 0 \"\" 1234567 12345678a abcdefg abcdefgh"][..],
            "1c0500000300010187d61200000000000200093132333435363738610303076162636465666704000861626364656667680f000244a70b071cdc62",
        ),
        (
            &["ARSET k 18446744073709551614 v", "ARSEEK k 18446744073709551615"][..],
            "1c010181fffffffffffffffe81fffffffffffffffe0301760f009efad6ddd9c4a652",
        ),
        (
            &["ARMSET k 3 c 100000 b 70 d 20000000 e"][..],
            "1c040003030163404603016480000186a00301628001312d000301650f003381ae68dacb55bb",
        ),
    ] {
        let mut bench = Bench::new();
        commands.iter().for_each(|line| _ = bench.run(line));
        let dumped = bench.run_raw(&[b"DUMP", b"k"]);
        let start = dumped.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let dumped = &dumped[start..dumped.len() - 2];
        let shown: String = dumped.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(shown, payload, "{commands:?}");
        let before = (bench.run("ARSCAN k 0 18446744073709551614"), bench.run("ARNEXT k"));
        assert_eq!(bench.run_args(&[b"RESTORE", b"k", b"0", dumped, b"REPLACE"]), "OK");
        assert_eq!((bench.run("ARSCAN k 0 18446744073709551614"), bench.run("ARNEXT k")), before);
    }
}

#[test]
fn costs() {
    let mut bench = Bench::new();
    let words: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    let mut args: Vec<&[u8]> = vec![b"ARSET", b"a", b"0"];
    args.extend(words.iter().map(|word| word.as_bytes()));
    bench.run_args(&args);
    for (line, cost) in [
        ("ARGET a 5", None),
        ("ARGETRANGE a 0 49", Some(100)),
        ("ARGETRANGE none 0 999999", Some(1_000_000)),
        ("ARGETRANGE none 0 1000000", Some(0)),
        ("ARSCAN a 0 18446744073709551614", Some(1000)),
        ("ARSCAN a 0 18446744073709551614 LIMIT 7", Some(7)),
        ("ARDELRANGE a 0 9 5 14", Some(20)),
        ("ARDELRANGE a 0 18446744073709551614", Some(1000)),
        ("AROP a 10 19 SUM", Some(240)),
        ("ARLASTITEMS a 50", Some(150)),
        ("ARRING a 1000 x", Some(0)),
        ("ARRING a 10 x", Some(1000)),
        ("ARINFO a", Some(1)),
    ] {
        assert_eq!(bench.cost(line), cost, "{line}");
    }
    let searched = bench.cost("ARGREP a - + EXACT x").expect("a cost");
    assert!((2000..4000).contains(&searched), "{searched}");
    assert!(bench.cost("ARGREP a - + RE x").expect("a cost") > 1_000_000);
}

/// A naive array beside the real one: elements and the last insertion. Replaying the effects yields the same.
#[test]
fn random_commands() {
    let mut rng = Rng::with_seed(11);
    let mut commands: Vec<Vec<Vec<u8>>> = Vec::new();
    let mut bench = Bench::new();
    let (mut model, mut last) = (BTreeMap::<u64, String>::new(), None::<u64>);
    for round in 0..4000 {
        let near = [30, 300, 9000][rng.usize(..3)];
        let (one, two) = (rng.u64(..near), rng.u64(..near));
        let text = match rng.u8(..3) {
            0 => rng.i32(..).to_string(),
            1 => format!("{}.{}", rng.u8(..), rng.u8(..)),
            _ => "t".repeat(rng.usize(..250)),
        };
        let shown = if text.is_empty() { "\"\"".to_owned() } else { text.clone() };
        let (line, expected) = match rng.u8(..12) {
            0..3 => {
                let added = model.insert(one, text).is_none();
                (format!("ARSET a {one} {shown}"), u8::from(added).to_string())
            }
            3 => {
                let added = [one, two].iter().filter(|at| model.insert(**at, text.clone()).is_none()).count();
                (format!("ARMSET a {one} {shown} {two} {shown}"), added.to_string())
            }
            4 | 5 => {
                let index = last.map_or(0, |last| last + 1);
                model.insert(index, text);
                last = Some(index);
                (format!("ARINSERT a {shown}"), index.to_string())
            }
            6 => {
                let removed = model.remove(&one).is_some();
                (format!("ARDEL a {one}"), u8::from(removed).to_string())
            }
            7 if round % 5 == 0 => {
                let before = model.len();
                model.retain(|index, _| !(one.min(two)..=one.max(two)).contains(index));
                (format!("ARDELRANGE a {one} {two}"), (before - model.len()).to_string())
            }
            8 if !model.is_empty() => {
                last = one.checked_sub(1);
                (format!("ARSEEK a {one}"), "1".to_owned())
            }
            9 => (format!("ARGET a {one}"), model.get(&one).map_or("nil".into(), |text| show(text))),
            10 => {
                let two = one.saturating_add(two % 60);
                let all: Vec<String> =
                    (one..=two).map(|at| model.get(&at).map_or("nil".into(), |text| show(text))).collect();
                (format!("ARGETRANGE a {one} {two}"), format!("[{}]", all.join(" ")))
            }
            _ => ("ARLEN a".to_owned(), model.keys().last().map_or(0, |last| last + 1).to_string()),
        };
        if model.is_empty() {
            last = None;
        }
        assert_eq!(bench.run(&line), expected, "{line}");
        commands.push(line.split(' ').map(|word| word.trim_matches('"').as_bytes().to_vec()).collect());
    }
    assert_eq!(bench.run("ARCOUNT a"), model.len().to_string());
    check_effects(&commands);
}

fn show(text: &str) -> String {
    if text.is_empty() { "\"\"".into() } else { text.to_owned() }
}

/// Effects set the same elements, cursors and rings as the commands.
#[test]
fn effects_replay() {
    let lines = [
        "ARRING r 5 a b c d e f g",
        "ARRING r 9 h i",
        "ARRING r 3 j",
        "ARSEEK r 1",
        "ARINSERT r k l",
        "ARSET s 9223372036854775807 v",
        "ARMSET s 1 x 99999 1.5 4096 7",
        "ARDELRANGE s 2 99998",
        "COPY r t",
        "RENAME t u",
        "ARDEL u 0",
    ];
    let words = |line: &str| line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
    check_effects(&lines.map(words));
}

/// One large text among many short ones.
#[test]
fn a_search_costs_the_bytes_of_its_range() {
    let mut bench = Bench::new();
    for start in (10..20_000).step_by(100) {
        bench.run(&format!("ARSET a {start}{}", " v".repeat(100)));
    }
    bench.run(&format!("ARSET a 0 {}", "x".repeat(4_000_000)));
    assert!(bench.cost("ARGREP a 0 0 GLOB *a?b*") > Some(cost::TURN));
    assert!(bench.cost("ARGREP a 10 20 GLOB *a?b*") < Some(500));
}
