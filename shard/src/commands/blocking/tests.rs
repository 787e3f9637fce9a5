use crate::commands::testing::{Bench, check, check_effects, check_resp3};

const NOT_A_FLOAT: &str = "(error) ERR timeout is not a float or out of range";
const OUT_OF_RANGE: &str = "(error) ERR timeout is out of range";
const NEGATIVE: &str = "(error) ERR timeout is negative";
const WRONG: &str = "(error) WRONGTYPE Operation against a key holding the wrong kind of value";

#[test]
fn timeouts() {
    check(&[
        ("BLPOP k x", NOT_A_FLOAT),
        ("BLPOP k nan", NOT_A_FLOAT),
        ("BLPOP k inf", OUT_OF_RANGE),
        ("BLPOP k -inf", NEGATIVE),
        ("BLPOP k -1", NEGATIVE),
        ("BLPOP k -0.0001", "nil"),
        ("BLPOP k 0.001", "nil"),
        ("BLPOP k 1e3", "nil"),
        ("BLPOP k 0x10", "nil"),
        ("BLPOP k 9223372036854775808", OUT_OF_RANGE),
        ("BLPOP k 9223372036854775.807", OUT_OF_RANGE),
        ("BLPOP k 9223372036854775", OUT_OF_RANGE),
        ("BLPOP k 9221672036854775", "nil"),
        ("XREAD BLOCK 1.5 STREAMS k 0", "(error) ERR timeout is not an integer or out of range"),
        ("XREAD BLOCK -1 STREAMS k 0", NEGATIVE),
        ("XREAD BLOCK 9223372036854775807 STREAMS k 0", OUT_OF_RANGE),
        ("BLMPOP x 1 k LEFT", NOT_A_FLOAT),
        ("BLMPOP x 0 k LEFT", "(error) ERR numkeys should be greater than 0"),
        ("BZMPOP x 1 k UP", "(error) ERR syntax error"),
        ("BLMPOP x 1 k LEFT COUNT 0", "(error) ERR count should be greater than 0"),
        ("BZMPOP -1 1 k MIN", NEGATIVE),
        ("BLMOVE a b LEFT LEFT x", NOT_A_FLOAT),
        ("BLMOVE a b UP LEFT x", "(error) ERR syntax error"),
        ("BLMOVEM a b LEFT LEFT x FOO", NOT_A_FLOAT),
        ("BLMOVEM a b LEFT LEFT -1 FOO", NEGATIVE),
        ("BLMOVEM a b LEFT UP -1", "(error) ERR syntax error"),
        ("BLMOVEM a b LEFT LEFT 1e300 FOO", OUT_OF_RANGE),
        ("BLMOVEM a b LEFT LEFT 0 FOO", "(error) ERR syntax error"),
        ("BLMOVEM a b LEFT LEFT 0 COUNT 0 OBO", "(error) ERR count should be greater than 0"),
        ("BRPOPLPUSH a b -1", NEGATIVE),
        ("BZPOPMIN k x", NOT_A_FLOAT),
    ]);
}

/// As in a transaction, where they do not wait.
#[test]
fn replies_at_once() {
    check(&[
        ("RPUSH l a b c d e f", "6"),
        ("BLPOP none l 0", "[l a]"),
        ("BRPOP l none 0", "[l f]"),
        ("BLMPOP 0 2 none l RIGHT COUNT 2", "[l [e d]]"),
        ("BLMOVE l m LEFT RIGHT 0", "b"),
        ("BRPOPLPUSH l m 0", "c"),
        ("EXISTS l", "0"),
        ("LRANGE m 0 -1", "[c b]"),
        ("BLMOVE m m LEFT RIGHT 0", "c"),
        ("LRANGE m 0 -1", "[b c]"),
        ("BLPOP l 0", "nil"),
        ("BRPOP l 0", "nil"),
        ("BLMPOP 0 1 l LEFT", "nil"),
        ("BLMOVE l m LEFT RIGHT 0", "nil"),
        ("BRPOPLPUSH l m 0", "nil"),
        ("ZADD z 1 a 2 b 3 c 4 d", "4"),
        ("BZPOPMIN none z 0", "[z a 1]"),
        ("BZPOPMAX z 0", "[z d 4]"),
        ("BZMPOP 0 2 none z MAX COUNT 5", "[z [[c 3] [b 2]]]"),
        ("RPUSH o 1 2 3", "3"),
        ("BLMOVEM o p LEFT RIGHT 0", "[1]"),
        ("BLMOVEM o p LEFT LEFT 0 COUNT 9 OBO", "[3 2]"),
        ("BLMOVEM o p LEFT RIGHT 0", "nil"),
        ("BLMOVEM p o LEFT RIGHT 0 EXACTLY 4 BULK", "nil"),
        ("BLMOVEM p p LEFT RIGHT 0 EXACTLY 3 BULK", "[3 2 1]"),
        ("BZPOPMIN z 0", "nil"),
        ("BZPOPMAX z 0", "nil"),
        ("BZMPOP 0 1 z MIN", "nil"),
        ("SET s x", "OK"),
        ("BLPOP s 0", WRONG),
        ("BLPOP m s 0", "[m b]"),
        ("BLPOP s m 0", WRONG),
        ("BZPOPMIN s 0", WRONG),
        ("BLMOVE s m LEFT LEFT 0", WRONG),
        ("BLMOVE m s LEFT LEFT 0", WRONG),
        ("BLMOVE none s LEFT LEFT 0", "nil"),
        ("BLMOVEM s m LEFT LEFT 0", WRONG),
        ("BLMOVEM p s LEFT LEFT 0", WRONG),
        ("BLMOVEM none s LEFT LEFT 0", "nil"),
        ("BLMPOP 0 1 s LEFT", WRONG),
        ("BLMPOP 0 0 s LEFT", "(error) ERR numkeys should be greater than 0"),
        ("BLMPOP 0 2 s LEFT", "(error) ERR syntax error"),
        ("BZMPOP 0 1 s MIN COUNT 0", "(error) ERR count should be greater than 0"),
    ]);
    check_resp3(&[("ZADD z 1.5 a 2 b", "2"), ("BZPOPMIN z 0", "[z a 1.5]"), ("BZMPOP 0 1 z MIN", "[z [[b 2]]]")]);
}

#[test]
fn effects_are_those_of_pops() {
    let lines = [
        "RPUSH l a b c d e f g h",
        "ZADD z 1 a 2 b 3 c 4 d",
        "BLPOP none l 0",
        "BRPOP l 0",
        "BLMPOP 0 2 none l LEFT COUNT 2",
        "BLMOVE l m LEFT RIGHT 0",
        "BRPOPLPUSH l m 0",
        "BLMOVE m m LEFT RIGHT 0",
        "BLMOVEM l m LEFT LEFT 0 COUNT 2 OBO",
        "BLMOVEM m n LEFT RIGHT 0 EXACTLY 3 BULK",
        "BZPOPMIN none z 0",
        "BZPOPMAX z 0",
        "BZMPOP 0 1 z MIN COUNT 5",
        "BLPOP none 0",
    ];
    let words = |line: &str| line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
    check_effects(&lines.map(words));
}

#[test]
fn the_costs_are_those_of_the_elements_taken() {
    let mut bench = Bench::new();
    for n in 0..300 {
        bench.run(&format!("RPUSH l {n}"));
        bench.run(&format!("ZADD z {n} {n}"));
    }
    for (line, cost) in [
        ("BLPOP none l 0", 1),
        ("BRPOP none 0", 0),
        ("BLMPOP 0 2 none l LEFT COUNT 200", 200),
        ("BZPOPMIN none z 0", 1),
        ("BZMPOP 0 2 none z MAX COUNT 1000", 300),
    ] {
        assert_eq!(bench.cost(line), Some(cost), "{line}");
    }
}
