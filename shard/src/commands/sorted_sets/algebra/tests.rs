use crate::commands::testing::{Bench, check};

const SYNTAX: &str = "(error) ERR syntax error";
const NOT_INTEGER: &str = "(error) ERR value is not an integer or out of range";

#[test]
fn union_and_intersection() {
    check(&[
        ("ZADD a 1 x 2 y 3 z", "3"),
        ("ZADD b 10 y 20 z 30 w", "3"),
        ("SADD s y w", "2"),
        ("ZUNION 2 a b", "[x y z w]"),
        ("ZUNION 2 a b WITHSCORES", "[x 1 y 12 z 23 w 30]"),
        ("ZUNION 2 a b WEIGHTS 10 1 WITHSCORES", "[x 10 w 30 y 30 z 50]"),
        ("ZUNION 2 a b AGGREGATE MAX WITHSCORES", "[x 1 y 10 z 20 w 30]"),
        ("ZUNION 2 a b AGGREGATE min WITHSCORES", "[x 1 y 2 z 3 w 30]"),
        ("ZUNION 2 a s WITHSCORES", "[w 1 x 1 y 3 z 3]"),
        ("ZUNION 1 s WEIGHTS 2.5 WITHSCORES", "[w 2.5 y 2.5]"),
        ("ZUNION 2 a a WITHSCORES", "[x 2 y 4 z 6]"),
        ("ZUNION 2 none a WEIGHTS 9 -1 WITHSCORES", "[z -3 y -2 x -1]"),
        ("ZUNION 1 none", "[]"),
        ("ZUNION 2 a b AGGREGATE COUNT WITHSCORES", "[w 1 x 1 y 2 z 2]"),
        ("ZINTER 2 a b AGGREGATE count WITHSCORES", "[y 2 z 2]"),
        ("ZUNION 2 a b WEIGHTS 2 3 AGGREGATE COUNT WITHSCORES", "[x 2 w 3 y 5 z 5]"),
        ("ZUNION 2 a a AGGREGATE COUNT WITHSCORES", "[x 2 y 2 z 2]"),
        ("ZINTER 2 a a WEIGHTS inf -inf AGGREGATE COUNT WITHSCORES", "[x 0 y 0 z 0]"),
        ("ZUNION 2 a s AGGREGATE COUNT WITHSCORES", "[w 1 x 1 z 1 y 2]"),
        ("ZUNION 1 a WEIGHTS 5 AGGREGATE COUNT WITHSCORES", "[x 5 y 5 z 5]"),
        ("ZUNIONSTORE d 2 a b AGGREGATE COUNT", "4"),
        ("ZINTERSTORE d 2 a b WEIGHTS 0.5 0.25 AGGREGATE COUNT", "2"),
        ("ZRANGE d 0 -1 WITHSCORES", "[y 0.75 z 0.75]"),
        ("ZINTER 2 a b WITHSCORES", "[y 12 z 23]"),
        ("ZINTER 3 a b s WEIGHTS 1 2 3 WITHSCORES", "[y 25]"),
        ("ZINTER 2 a b AGGREGATE MIN WITHSCORES", "[y 2 z 3]"),
        ("ZINTER 2 a none", "[]"),
        ("ZINTERCARD 2 a b", "2"),
        ("ZINTERCARD 2 a b LIMIT 1", "1"),
        ("ZINTERCARD 2 a b LIMIT 0", "2"),
        ("ZUNIONSTORE d 2 a s", "4"),
        ("ZRANGE d 0 -1 WITHSCORES", "[w 1 x 1 y 3 z 3]"),
        ("ZINTERSTORE a 2 a b AGGREGATE SUM WEIGHTS 0 1", "2"),
        ("ZRANGE a 0 -1 WITHSCORES", "[y 10 z 20]"),
        ("ZINTERSTORE a 2 a none", "0"),
        ("ZCARD a", "0"),
        ("ZADD infinite inf x -inf y", "2"),
        ("ZUNION 2 infinite s WEIGHTS 0 1 AGGREGATE COUNT WITHSCORES", "[x 0 w 1 y 1]"),
        // Infinities that cancel each other out, and infinity times nothing, are 0.
        ("ZADD i inf m", "1"),
        ("ZADD j -inf m", "1"),
        ("ZUNION 2 i j WITHSCORES", "[m 0]"),
        ("ZINTER 2 i j WITHSCORES", "[m 0]"),
        ("ZINTER 1 i WEIGHTS 0 WITHSCORES", "[m 0]"),
        ("ZUNION 1 i WEIGHTS 0 WITHSCORES", "[m 0]"),
        ("ZADD f 5 m", "1"),
        ("ZADD g 0 m 1 n", "2"),
        ("ZUNION 2 f g WEIGHTS 1 inf WITHSCORES", "[m 5 n inf]"),
        ("ZINTER 2 f g WEIGHTS 1 inf WITHSCORES", "[m 0]"),
        ("ZINTER 2 f g WEIGHTS 1 inf AGGREGATE MAX WITHSCORES", "[m 5]"),
        ("ZINTER 2 f g WEIGHTS 1 inf AGGREGATE MIN WITHSCORES", "[m 5]"),
    ]);
}

#[test]
fn differences() {
    check(&[
        ("ZADD a 1 x 2 y 3 z", "3"),
        ("ZADD b 9 y", "1"),
        ("SADD s z", "1"),
        ("ZDIFF 2 a b", "[x z]"),
        ("ZDIFF 3 a b s WITHSCORES", "[x 1]"),
        ("ZDIFF 2 a a", "[]"),
        ("ZDIFF 2 none a", "[]"),
        ("ZDIFF 2 s b WITHSCORES", "[z 1]"),
        ("ZDIFF 1 a WITHSCORES", "[x 1 y 2 z 3]"),
        ("ZDIFFSTORE d 2 a b", "2"),
        ("ZRANGE d 0 -1 WITHSCORES", "[x 1 z 3]"),
        ("ZDIFFSTORE d 2 a a", "0"),
        ("ZCARD d", "0"),
        ("ZDIFF 2 a b WEIGHTS 1 2", SYNTAX),
        ("ZDIFF 2 a b AGGREGATE SUM", SYNTAX),
        ("ZDIFFSTORE d 2 a b WITHSCORES", SYNTAX),
    ]);
    let mut bench = Bench::new();
    let others: String = (0..300).map(|n| format!(" o{n}")).collect();
    for n in 0..310 {
        bench.run(&format!("ZADD a {n} m{n}"));
    }
    for n in 0..300 {
        bench.run(&format!("ZADD o{n} 1 m{n} 2 x{n}"));
    }
    assert_eq!(bench.run(&format!("ZDIFFSTORE d 301 a{others}")), "10");
    assert_eq!(bench.run("ZMSCORE d m299 m300 m309"), "[nil 300 309]");
    assert_eq!(bench.run(&format!("ZUNIONSTORE d 300{others}")), "600");
}

#[test]
fn what_algebra_refuses() {
    for name in ["ZUNION", "ZINTER", "ZDIFF", "ZINTERCARD"] {
        let lower = name.to_lowercase();
        check(&[
            ("ZADD a 1 x", "1"),
            (&format!("{name} 0 a"), &format!("(error) ERR at least 1 input key is needed for '{lower}' command")),
            (&format!("{name} -1 a"), &format!("(error) ERR at least 1 input key is needed for '{lower}' command")),
            (&format!("{name} x a"), NOT_INTEGER),
            (&format!("{name} 2 a"), SYNTAX),
            (&format!("{name} 9223372036854775807 a"), SYNTAX),
            (&format!("{name} 1 a BAD"), SYNTAX),
        ]);
    }
    check(&[
        ("ZUNIONSTORE d 0 a", "(error) ERR at least 1 input key is needed for 'zunionstore' command"),
        ("ZUNION 1 a WEIGHTS x", "(error) ERR weight value is not a float"),
        ("ZUNION 1 a WEIGHTS nan", "(error) ERR weight value is not a float"),
        ("ZUNION 2 a b WEIGHTS 1", SYNTAX),
        ("ZUNION 1 a WEIGHTS 1 2", SYNTAX),
        ("ZUNION 1 a AGGREGATE", SYNTAX),
        ("ZUNION 1 a AGGREGATE AVG", SYNTAX),
        ("ZUNIONSTORE d 1 a WITHSCORES", SYNTAX),
        ("ZINTER 1 a LIMIT 1", SYNTAX),
        ("ZINTERCARD 1 a LIMIT", SYNTAX),
        ("ZINTERCARD 1 a LIMIT -1", "(error) ERR LIMIT can't be negative"),
        ("ZINTERCARD 1 a LIMIT x", "(error) ERR LIMIT can't be negative"),
        ("ZINTERCARD 1 a WITHSCORES", SYNTAX),
    ]);
}
