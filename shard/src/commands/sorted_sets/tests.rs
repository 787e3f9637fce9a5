use proptest::prelude::*;

use crate::commands::testing::{Bench, check, check_effects, check_resp3};

const WRONG_TYPE: &str = "(error) WRONGTYPE Operation against a key holding the wrong kind of value";
const SYNTAX: &str = "(error) ERR syntax error";
const NOT_INTEGER: &str = "(error) ERR value is not an integer or out of range";
const NOT_FLOAT: &str = "(error) ERR value is not a valid float";
const NOT_POSITIVE: &str = "(error) ERR value is out of range, must be positive";
const MIN_MAX: &str = "(error) ERR min or max is not a float";
const MIN_MAX_LEX: &str = "(error) ERR min or max not valid string range item";
const CONFLICT: &str = "(error) ERR GT, LT, and/or NX options at the same time are not compatible";
const LIMIT_NEEDS_BY: &str =
    "(error) ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX";
const NOT_NEGATABLE: &str =
    "(error) ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807";

#[test]
fn members_and_scores() {
    check(&[
        ("ZADD z 1 a 2 b", "2"),
        ("ZADD z 1 a 3 b 4 c", "1"),
        ("ZADD z CH 1 a 5 b 6 d", "2"),
        ("ZCARD z", "4"),
        ("ZSCORE z b", "5"),
        ("ZSCORE z x", "nil"),
        ("ZSCORE none x", "nil"),
        ("ZMSCORE z a x d", "[1 nil 6]"),
        ("ZMSCORE none a b", "[nil nil]"),
        ("ZADD z NX 9 a 9 e", "1"),
        ("ZSCORE z a", "1"),
        ("ZADD z XX CH 7 a 9 f", "1"),
        ("ZSCORE z f", "nil"),
        ("ZADD z GT CH 6 a 8 a", "1"),
        ("ZADD z LT CH 9 a 3 a 4 g", "2"),
        ("ZMSCORE z a g", "[3 4]"),
        ("ZADD z INCR 2 a", "5"),
        ("ZADD z INCR NX 2 a", "nil"),
        ("ZADD z INCR XX 2 x", "nil"),
        ("ZADD z INCR LT 2 a", "nil"),
        ("ZADD z INCR GT 2 a", "7"),
        ("ZINCRBY z 0.5 a", "7.5"),
        ("ZINCRBY z 1 new", "1"),
        ("ZADD none XX 1 a", "0"),
        ("ZADD none XX INCR 1 a", "nil"),
        ("ZCARD none", "0"),
        ("ZREM z a x b", "2"),
        ("ZREM z a", "0"),
        ("ZREM none a", "0"),
        ("ZREM z c d e f g new", "5"),
        ("ZCARD z", "0"),
        ("ZADD z inf up -inf down 1e3 k .5 h -0 zero", "5"),
        ("ZRANGE z 0 -1 WITHSCORES", "[down -inf zero 0 h 0.5 k 1000 up inf]"),
        ("ZADD z 0.1 h 3.0 k 1e21 big", "1"),
        ("ZMSCORE z h k big", "[0.1 3 1e+21]"),
        ("ZADD z -0 minus", "1"),
        ("ZSCORE z minus", "0"),
        ("ZINCRBY z -inf up", "(error) ERR resulting score is not a number (NaN)"),
        ("ZADD z INCR -inf up", "(error) ERR resulting score is not a number (NaN)"),
        ("ZSCORE z up", "inf"),
    ]);
}

#[test]
fn what_zadd_refuses() {
    check(&[
        ("ZADD z 1", "(error) ERR wrong number of arguments for 'zadd' command"),
        ("ZADD z NX 1", SYNTAX),
        ("ZADD z NX CH", SYNTAX),
        ("ZADD z 1 a 2", SYNTAX),
        ("ZADD z NX XX 1 a", "(error) ERR XX and NX options at the same time are not compatible"),
        ("ZADD z GT NX 1 a", CONFLICT),
        ("ZADD z LT NX 1 a", CONFLICT),
        ("ZADD z GT LT 1 a", CONFLICT),
        ("ZADD z XX GT 1 a", "0"),
        ("ZADD z INCR 1 a 2 b", "(error) ERR INCR option supports a single increment-element pair"),
        ("ZADD z NX XX INCR 1 a 2 b", "(error) ERR XX and NX options at the same time are not compatible"),
        ("ZADD z x a", NOT_FLOAT),
        ("ZADD z nan a", NOT_FLOAT),
        ("ZADD z 1 a x b", NOT_FLOAT),
        ("ZCARD z", "0"),
        ("ZINCRBY z x a", NOT_FLOAT),
        ("ZINCRBY z nan a", NOT_FLOAT),
        ("SET t v", "OK"),
        ("ZADD t x a", NOT_FLOAT),
        ("ZADD t 1 a", WRONG_TYPE),
    ]);
}

#[test]
fn other_kinds_and_arities_are_refused() {
    let mut bench = Bench::new();
    bench.run("SET t v");
    bench.run("ZADD z 1 a");
    for command in [
        "ZADD t XX 1 a",
        "ZINCRBY t 1 a",
        "ZREM t a",
        "ZCARD t",
        "ZSCORE t a",
        "ZMSCORE t a",
        "ZRANK t a",
        "ZREVRANK t a WITHSCORE",
        "ZPOPMIN t",
        "ZPOPMAX t 0",
        "ZMPOP 2 none t MIN",
        "ZRANDMEMBER t",
        "ZRANDMEMBER t 0",
        "ZSCAN t 0 BAD",
        "ZRANGE t 0 -1",
        "ZRANGESTORE d t 0 -1",
        "ZREVRANGE t 0 -1",
        "ZRANGEBYSCORE t 0 1",
        "ZREVRANGEBYSCORE t 0 1",
        "ZRANGEBYLEX t - +",
        "ZREVRANGEBYLEX t + -",
        "ZCOUNT t 0 1",
        "ZLEXCOUNT t - +",
        "ZREMRANGEBYRANK t 0 1",
        "ZREMRANGEBYSCORE t 0 1",
        "ZREMRANGEBYLEX t - +",
        "ZUNION 2 none t",
        "ZINTER 2 none t BAD",
        "ZDIFF 2 z t",
        "ZUNIONSTORE d 1 t WEIGHTS x",
        "ZINTERSTORE d 2 z t",
        "ZDIFFSTORE d 2 z t",
        "ZINTERCARD 2 z t LIMIT -1",
    ] {
        assert_eq!(bench.run(command), WRONG_TYPE, "{command}");
    }
    for command in ["ZINCRBY z 1", "ZSCORE z", "ZRANK z", "ZRANK z a WITHSCORE x", "ZREVRANK z a b c", "ZCOUNT z 1"] {
        let name = command.split(' ').next().expect("a name").to_lowercase();
        let expected = format!("(error) ERR wrong number of arguments for '{name}' command");
        assert_eq!(bench.run(command), expected, "{command}");
    }
}

#[test]
fn ranks() {
    check(&[
        ("ZADD z 1 a 2 b 2 c 3 d", "4"),
        ("ZRANK z a", "0"),
        ("ZRANK z c", "2"),
        ("ZREVRANK z a", "3"),
        ("ZREVRANK z c", "1"),
        ("ZRANK z x", "nil"),
        ("ZRANK none x", "nil"),
        ("ZRANK z c WITHSCORE", "[2 2]"),
        ("ZREVRANK z d withscore", "[0 3]"),
        ("ZRANK z c WITHSCORES", SYNTAX),
    ]);
    let mut bench = Bench::new();
    bench.run("ZADD z 1 a");
    for (args, resp2, resp3) in [
        (&["ZRANK", "z", "a", "WITHSCORE"][..], "*2\r\n:0\r\n$1\r\n1\r\n", "*2\r\n:0\r\n,1\r\n"),
        (&["ZRANK", "z", "x", "WITHSCORE"], "*-1\r\n", "_\r\n"),
        (&["ZRANK", "z", "x"], "$-1\r\n", "_\r\n"),
        (&["ZMPOP", "1", "none", "MIN"], "*-1\r\n", "_\r\n"),
        (&["ZSCORE", "z", "a"], "$1\r\n1\r\n", ",1\r\n"),
        (&["ZINCRBY", "z", "0", "a"], "$1\r\n1\r\n", ",1\r\n"),
        (&["ZADD", "z", "XX", "INCR", "1", "x"], "$-1\r\n", "_\r\n"),
        (
            &["ZSCAN", "z", "0"],
            "*2\r\n$1\r\n0\r\n*2\r\n$1\r\na\r\n$1\r\n1\r\n",
            "*2\r\n$1\r\n0\r\n*2\r\n$1\r\na\r\n$1\r\n1\r\n",
        ),
    ] {
        let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
        for (version, expected) in
            [(dormouse_protocol::Version::Resp2, resp2), (dormouse_protocol::Version::Resp3, resp3)]
        {
            bench.version = version;
            assert_eq!(String::from_utf8_lossy(&bench.run_raw(&args)), expected, "{version:?}");
        }
    }
}

#[test]
fn ranges_by_rank() {
    check(&[
        ("ZADD z 1 a 2 b 3 c 4 d", "4"),
        ("ZRANGE z 0 -1", "[a b c d]"),
        ("ZRANGE z 1 2", "[b c]"),
        ("ZRANGE z -2 -1", "[c d]"),
        ("ZRANGE z -100 100", "[a b c d]"),
        ("ZRANGE z 2 1", "[]"),
        ("ZRANGE z 4 9", "[]"),
        ("ZRANGE z 0 -5", "[]"),
        ("ZRANGE z -9223372036854775808 9223372036854775807", "[a b c d]"),
        ("ZRANGE z 0 0 WITHSCORES", "[a 1]"),
        ("ZRANGE z 0 1 REV", "[d c]"),
        ("ZRANGE z 0 1 REV WITHSCORES", "[d 4 c 3]"),
        ("ZREVRANGE z 0 1", "[d c]"),
        ("ZREVRANGE z -1 -1 WITHSCORES", "[a 1]"),
        ("ZREVRANGE z 3 1", "[]"),
        ("ZRANGE none 0 -1", "[]"),
        ("ZRANGE z 0 -1 LIMIT 0 1", LIMIT_NEEDS_BY),
        ("ZRANGE z 0 -1 LIMIT 0 -1", "[a b c d]"),
        ("ZRANGE z 0 1 REV LIMIT -2 -1", "[d c]"),
        ("ZREVRANGE z 0 -1 LIMIT 0 1", LIMIT_NEEDS_BY),
        ("ZREVRANGE z 0 -1 REV", SYNTAX),
        ("ZREVRANGE z 0 -1 BYSCORE", SYNTAX),
        ("ZRANGE z 0 -1 REV REV", SYNTAX),
        ("ZRANGE z 0 -1 BYSCORE BYLEX", SYNTAX),
        ("ZRANGE z 0 -1 LIMIT 0", SYNTAX),
        ("ZRANGE z 0 -1 BAD", SYNTAX),
        ("ZRANGE z a -1", NOT_INTEGER),
        ("ZRANGE z 0 1.5", NOT_INTEGER),
        ("ZRANGE z a b BYSCORE LIMIT x 1", NOT_INTEGER),
    ]);
}

#[test]
fn ranges_by_score() {
    check(&[
        ("ZADD z 1 a 2 b 2 c 3 d", "4"),
        ("ZRANGEBYSCORE z -inf +inf", "[a b c d]"),
        ("ZRANGEBYSCORE z (1 3", "[b c d]"),
        ("ZRANGEBYSCORE z 1 (3 WITHSCORES", "[a 1 b 2 c 2]"),
        ("ZRANGEBYSCORE z 3 1", "[]"),
        ("ZRANGEBYSCORE z (2 (2", "[]"),
        ("ZRANGEBYSCORE z 0 9 LIMIT 1 2", "[b c]"),
        ("ZRANGEBYSCORE z 0 9 LIMIT 1 -1", "[b c d]"),
        ("ZRANGEBYSCORE z 0 9 LIMIT 0 0", "[]"),
        ("ZRANGEBYSCORE z 0 9 LIMIT -1 2", "[]"),
        ("ZRANGEBYSCORE z 0 9 LIMIT 9 2", "[]"),
        ("ZRANGEBYSCORE z 0 9 LIMIT 1 9223372036854775807", "[b c d]"),
        ("ZREVRANGEBYSCORE z 3 2", "[d c b]"),
        ("ZREVRANGEBYSCORE z 2 3", "[]"),
        ("ZREVRANGEBYSCORE z +inf -inf WITHSCORES LIMIT 1 2", "[c 2 b 2]"),
        ("ZREVRANGEBYSCORE z +inf -inf LIMIT 3 9", "[a]"),
        ("ZREVRANGEBYSCORE z +inf -inf LIMIT 4 9", "[]"),
        ("ZRANGE z 2 3 BYSCORE", "[b c d]"),
        ("ZRANGE z 3 2 BYSCORE REV LIMIT 0 2 WITHSCORES", "[d 3 c 2]"),
        ("ZRANGEBYSCORE z 1e999 inf", "[]"),
        ("ZRANGEBYSCORE z \"\" 1", "[a]"),
        ("ZRANGEBYSCORE z ( 1", "[a]"),
        ("ZRANGEBYSCORE z a 1", MIN_MAX),
        ("ZRANGEBYSCORE z 1 [2", MIN_MAX),
        ("ZRANGEBYSCORE z nan 1", MIN_MAX),
        ("ZRANGEBYSCORE none a 1", MIN_MAX),
        ("ZRANGEBYSCORE z 1 2 BYLEX", SYNTAX),
        ("ZRANGEBYSCORE z 1 2 LIMIT 1", SYNTAX),
        ("ZCOUNT z 2 3", "3"),
        ("ZCOUNT z (2 +inf", "1"),
        ("ZCOUNT z 3 2", "0"),
        ("ZCOUNT none 3 2", "0"),
        ("ZCOUNT z x 2", MIN_MAX),
    ]);
}

#[test]
fn ranges_by_member() {
    check(&[
        ("ZADD z 0 a 0 b 0 c 0 d 0 \"\"", "5"),
        ("ZRANGEBYLEX z - +", "[\"\" a b c d]"),
        ("ZRANGEBYLEX z [b (d", "[b c]"),
        ("ZRANGEBYLEX z (b [d", "[c d]"),
        ("ZRANGEBYLEX z + -", "[]"),
        ("ZRANGEBYLEX z [d [b", "[]"),
        ("ZRANGEBYLEX z - [", "[\"\"]"),
        ("ZRANGEBYLEX z ( + LIMIT 1 2", "[b c]"),
        ("ZREVRANGEBYLEX z + [b", "[d c b]"),
        ("ZREVRANGEBYLEX z (d - LIMIT 1 1", "[b]"),
        ("ZRANGE z [b [c BYLEX", "[b c]"),
        ("ZRANGE z [c [b BYLEX REV", "[c b]"),
        ("ZLEXCOUNT z - +", "5"),
        ("ZLEXCOUNT z (a [c", "2"),
        ("ZLEXCOUNT none - +", "0"),
        ("ZRANGEBYLEX z a [b", MIN_MAX_LEX),
        ("ZRANGEBYLEX z [a \"\"", MIN_MAX_LEX),
        ("ZRANGEBYLEX z -x +", MIN_MAX_LEX),
        ("ZLEXCOUNT z 1 2", MIN_MAX_LEX),
        (
            "ZRANGE z - + BYLEX WITHSCORES",
            "(error) ERR syntax error, WITHSCORES not supported in combination with BYLEX",
        ),
        (
            "ZRANGEBYLEX z - + WITHSCORES",
            "(error) ERR syntax error, WITHSCORES not supported in combination with BYLEX",
        ),
    ]);
}

#[test]
fn ranges_stored_and_removed() {
    check(&[
        ("ZADD z 1 a 2 b 3 c 4 d 5 e", "5"),
        ("ZRANGESTORE d z 1 2", "2"),
        ("ZRANGE d 0 -1 WITHSCORES", "[b 2 c 3]"),
        ("ZRANGESTORE d z (3 +inf BYSCORE LIMIT 0 1", "1"),
        ("ZRANGE d 0 -1", "[d]"),
        ("ZRANGESTORE d z 5 4 BYSCORE REV", "2"),
        ("ZRANGE d 0 -1", "[d e]"),
        ("ZRANGESTORE d none 0 -1", "0"),
        ("ZCARD d", "0"),
        ("SET t v", "OK"),
        ("ZRANGESTORE t z 9 9", "0"),
        ("ZCARD t", "0"),
        ("ZRANGESTORE d z 0 -1 WITHSCORES", SYNTAX),
        ("ZRANGESTORE z z 0 3", "4"),
        ("ZREMRANGEBYRANK z 0 0", "1"),
        ("ZREMRANGEBYRANK z 9 10", "0"),
        ("ZREMRANGEBYRANK z x 0", NOT_INTEGER),
        ("ZREMRANGEBYSCORE z (2 3", "1"),
        ("ZREMRANGEBYSCORE z x 3", MIN_MAX),
        ("ZREMRANGEBYLEX z [d +", "1"),
        ("ZREMRANGEBYLEX z d +", MIN_MAX_LEX),
        ("ZREMRANGEBYRANK none 0 -1", "0"),
        ("ZRANGE z 0 -1", "[b]"),
        ("ZREMRANGEBYRANK z 0 -1", "1"),
        ("ZCARD z", "0"),
    ]);
}

#[test]
fn pops() {
    check(&[
        ("ZADD z 1 a 2 b 3 c 4 d 5 e 6 f", "6"),
        ("ZPOPMIN z", "[a 1]"),
        ("ZPOPMAX z 2", "[f 6 e 5]"),
        ("ZPOPMIN z 0", "[]"),
        ("ZPOPMIN none", "[]"),
        ("ZPOPMIN z -1", NOT_POSITIVE),
        ("ZPOPMIN z x", NOT_POSITIVE),
        ("ZPOPMIN z x y", SYNTAX),
        ("ZMPOP 2 none z MAX", "[z [[d 4]]]"),
        ("ZMPOP 1 none MIN", "nil"),
        ("ZMPOP 2 z none MIN COUNT 9", "[z [[b 2] [c 3]]]"),
        ("ZCARD z", "0"),
        ("ZMPOP 0 z MIN", "(error) ERR numkeys should be greater than 0"),
        ("ZMPOP x z MIN", "(error) ERR numkeys should be greater than 0"),
        ("ZMPOP 2 z MIN", SYNTAX),
        ("ZMPOP 1 z BAD", SYNTAX),
        ("ZMPOP 1 z MIN COUNT", SYNTAX),
        ("ZMPOP 1 z MIN COUNT 0", "(error) ERR count should be greater than 0"),
        ("ZMPOP 1 z MIN COUNT x", "(error) ERR count should be greater than 0"),
        ("ZMPOP 1 z MIN COUNT 1 COUNT 1", SYNTAX),
    ]);
}

#[test]
fn random_members() {
    check(&[
        ("ZRANDMEMBER z", "nil"),
        ("ZRANDMEMBER z 2", "[]"),
        ("ZADD z 1 a", "1"),
        ("ZRANDMEMBER z", "a"),
        ("ZRANDMEMBER z 0", "[]"),
        ("ZRANDMEMBER z 5 WITHSCORES", "[a 1]"),
        ("ZRANDMEMBER z -2 WITHSCORES", "[a 1 a 1]"),
        ("ZRANDMEMBER z x", NOT_INTEGER),
        ("ZRANDMEMBER z x y z", NOT_INTEGER),
        ("ZRANDMEMBER z 1 BAD", SYNTAX),
        ("ZRANDMEMBER z 1 WITHSCORES x", SYNTAX),
        ("ZRANDMEMBER z -9223372036854775808", NOT_NEGATABLE),
        ("ZRANDMEMBER z -9223372036854775807 WITHSCORES", "(error) ERR value is out of range"),
        ("ZRANDMEMBER z -9223372036854775807", "(error) ERR value is out of range"),
    ]);
    for members in [20, 400] {
        let mut bench = Bench::new();
        for member in 0..members {
            bench.run(&format!("ZADD z {member} m{member}"));
        }
        for count in [1, 3, members / 4, members - 1, members, members + 9] {
            let reply = bench.run(&format!("ZRANDMEMBER z {count} WITHSCORES"));
            let words: Vec<&str> = reply.trim_matches(['[', ']']).split(' ').collect();
            let drawn: std::collections::BTreeSet<&str> = words.iter().copied().step_by(2).collect();
            assert_eq!(drawn.len(), count.min(members));
            assert!(words.chunks(2).all(|pair| pair[0] == format!("m{}", pair[1])), "{reply}");
        }
    }
}

#[test]
fn scans() {
    check(&[
        ("ZSCAN z 0", "[0 []]"),
        ("ZSCAN z x", "(error) ERR invalid cursor"),
        ("ZADD z 1 a 2.5 b", "2"),
        ("ZSCAN z 0", "[0 [a 1 b 2.5]]"),
        ("ZSCAN z 0 MATCH b COUNT 1", "[0 [b 2.5]]"),
        ("ZSCAN z 0 NOSCORES", "[0 [a b]]"),
        ("ZSCAN z 0 COUNT 5 noscores", "[0 [a b]]"),
        ("ZSCAN z 0 NOVALUES", "(error) ERR NOVALUES option can only be used in HSCAN"),
        ("ZSCAN z 0 COUNT 0", SYNTAX),
        ("ZSCAN z 0 BAD", SYNTAX),
    ]);
    let mut bench = Bench::new();
    for n in 0..1000 {
        bench.run(&format!("ZADD z {n} m{n}"));
    }
    let (mut cursor, mut found) = ("0".to_string(), std::collections::BTreeMap::new());
    loop {
        let reply = bench.run(&format!("ZSCAN z {cursor} COUNT 50"));
        let (next, members) = reply.trim_matches(['[', ']']).split_once(" [").expect("a page");
        let words: Vec<String> = members.split(' ').filter(|word| !word.is_empty()).map(String::from).collect();
        found.extend(words.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())));
        if next == "0" {
            break;
        }
        cursor = next.into();
    }
    assert_eq!(found.len(), 1000);
    assert!(found.iter().all(|(member, score)| *member == format!("m{score}")));
}

#[test]
fn resp3_has_pairs_and_doubles() {
    check_resp3(&[
        ("ZADD z 1 a 2 b 3 c 4 d", "4"),
        ("ZADD z INCR 0.5 a", "1.5"),
        ("ZRANGE z 0 1", "[a b]"),
        ("ZRANGE z 0 1 WITHSCORES", "[[a 1.5] [b 2]]"),
        ("ZREVRANGE z 0 0 WITHSCORES", "[[d 4]]"),
        ("ZRANGEBYSCORE z 2 3 WITHSCORES", "[[b 2] [c 3]]"),
        ("ZUNION 1 z WITHSCORES", "[[a 1.5] [b 2] [c 3] [d 4]]"),
        ("ZDIFF 1 z", "[a b c d]"),
        ("ZRANDMEMBER z 9 WITHSCORES", "[[a 1.5] [b 2] [c 3] [d 4]]"),
        ("ZPOPMIN z", "[a 1.5]"),
        ("ZPOPMIN z 1", "[[b 2]]"),
        ("ZPOPMAX z 0", "[]"),
        ("ZMPOP 1 z MAX COUNT 1", "[z [[d 4]]]"),
        ("ZMSCORE z c x", "[3 nil]"),
        ("ZSCAN z 0", "[0 [c 3]]"),
    ]);
}

#[test]
fn a_large_set_answers_as_a_small_one() {
    let mut bench = Bench::new();
    for n in 0..500 {
        bench.run(&format!("ZADD z {} m{n:03}", n / 2));
    }
    for (command, expected) in [
        ("ZRANGE z 100 102", "[m100 m101 m102]"),
        ("ZREVRANGE z 0 1 WITHSCORES", "[m499 249 m498 249]"),
        ("ZRANGEBYSCORE z (10 11 LIMIT 1 5", "[m023]"),
        ("ZREVRANGEBYSCORE z 12 (10 LIMIT 1 2", "[m024 m023]"),
        ("ZCOUNT z 10 20", "22"),
        ("ZRANK z m250 WITHSCORE", "[250 125]"),
        ("ZPOPMAX z", "[m499 249]"),
        ("ZREMRANGEBYSCORE z -inf (100", "200"),
        ("ZREMRANGEBYRANK z -100 -1", "100"),
        ("ZCARD z", "199"),
        ("ZRANGE z 0 0", "[m200]"),
        ("ZADD z -0 minus", "1"),
        ("ZSCORE z minus", "0"),
    ] {
        assert_eq!(bench.run(command), expected, "{command}");
    }
}

#[test]
fn a_row_says_what_will_be_looked_at() {
    let mut bench = Bench::new();
    for n in 0..400 {
        bench.run(&format!("ZADD z {n} {n}"));
        bench.run(&format!("ZADD lex 0 {n:03}"));
    }
    bench.run("ZADD few 1 a 2 b");
    for (line, expected) in [
        ("ZRANGE few 0 0", 2),
        ("ZRANGE z 0 9", 10),
        ("ZRANGE z 0 -1 REV", 400),
        ("ZREVRANGE z 0 4", 5),
        ("ZRANGESTORE d z 0 19", 20),
        ("ZRANGEBYSCORE z 10 19", 10),
        ("ZRANGEBYSCORE z 10 19 LIMIT 0 3", 3),
        ("ZREVRANGEBYSCORE z 19 10", 10),
        ("ZRANGEBYLEX lex [000 [004", 5),
        ("ZREVRANGEBYLEX lex [004 [000", 5),
        ("ZRANGE z a b", 0),
        ("ZRANGE none 0 -1", 0),
        ("ZREMRANGEBYRANK z 0 9", 10),
        ("ZREMRANGEBYSCORE z -inf inf", 400),
        ("ZREMRANGEBYLEX lex - +", 400),
        ("ZPOPMIN z", 1),
        ("ZMPOP 2 none z MIN COUNT 300", 300),
        ("ZMPOP 2 none z MIN", 1),
        ("ZRANDMEMBER z -5000", 5000),
        ("ZUNION 2 z few", 402),
        ("ZUNIONSTORE z 2 few few", 4),
        ("ZINTER 2 z few", 4),
        ("ZINTERSTORE d 2 z z", 800),
        ("ZDIFF 2 z few", 402),
        ("ZSCAN z 0 COUNT 20", 20),
    ] {
        assert_eq!(bench.cost(line), Some(expected), "{line}");
    }
    assert_eq!(bench.cost("ZCOUNT z 0 1"), None);
}

fn command() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let word = |word: &str| Just(word.as_bytes().to_vec()).boxed();
    let words =
        |words: &'static [&'static str]| proptest::sample::select(words).prop_map(|w| w.as_bytes().to_vec()).boxed();
    let key = || (0..4u8).prop_map(|key| vec![b'a' + key]).boxed();
    let number = || (-3..9i8).prop_map(|n| n.to_string().into_bytes()).boxed();
    let score = || prop_oneof![3 => number(), 1 => words(&["inf", "-inf", "0.1", "1e300", "-0", "2.5"])].boxed();
    let member = || {
        prop_oneof![
            4 => (0..12u8).prop_map(|n| n.to_string().into_bytes()),
            1 => proptest::collection::vec(any::<u8>(), 0..70),
        ]
        .boxed()
    };
    let option = words(&["CH", "NX", "XX", "GT", "LT", "INCR"]);
    prop_oneof![
        4 => (key(), proptest::collection::vec((score(), member()), 1..8)).prop_map(|(key, pairs)| {
            let pairs = pairs.into_iter().flat_map(|(score, member)| [score, member]);
            [b"ZADD".to_vec(), key].into_iter().chain(pairs).collect()
        }),
        2 => (key(), option, score(), member()).prop_map(|(a, b, c, d)| vec![b"ZADD".to_vec(), a, b, c, d]),
        1 => (word("ZINCRBY"), key(), score(), member()).prop_map(|(a, b, c, d)| vec![a, b, c, d]),
        1 => (word("ZREM"), key(), member()).prop_map(|(a, b, c)| vec![a, b, c]),
        1 => (words(&["ZPOPMIN", "ZPOPMAX"]), key(), number()).prop_map(|(a, b, c)| vec![a, b, c]),
        1 => (key(), key(), words(&["MIN", "MAX"]), number()).prop_map(|(a, b, c, d)| {
            vec![b"ZMPOP".to_vec(), b"2".to_vec(), a, b, c, b"COUNT".to_vec(), d]
        }),
        1 => (words(&["ZREMRANGEBYRANK", "ZREMRANGEBYSCORE"]), key(), number(), number())
            .prop_map(|(a, b, c, d)| vec![a, b, c, d]),
        1 => (key(), member()).prop_map(|(key, member)| {
            vec![b"ZREMRANGEBYLEX".to_vec(), key, [b"[".to_vec(), member].concat(), b"+".to_vec()]
        }),
        1 => (key(), key(), number(), number()).prop_map(|(a, b, c, d)| vec![b"ZRANGESTORE".to_vec(), a, b, c, d]),
        2 => (words(&["ZUNIONSTORE", "ZINTERSTORE", "ZDIFFSTORE"]), key(), key(), key())
            .prop_map(|(a, b, c, d)| vec![a, b, b"2".to_vec(), c, d]),
        1 => (word("SADD"), key(), member()).prop_map(|(a, b, c)| vec![a, b, c]),
        1 => (word("SET"), key(), member()).prop_map(|(a, b, c)| vec![a, b, c]),
    ]
}

proptest! {
    #[test]
    fn effects_replay_to_the_same_data(commands in proptest::collection::vec(command(), 1..60)) {
        check_effects(&commands);
    }
}
