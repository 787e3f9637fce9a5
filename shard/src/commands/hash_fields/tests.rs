use std::collections::BTreeMap;

use fastrand::Rng;

use crate::commands::testing::{Bench, check, check_effects, check_resp3};
use crate::keyspace::testing::TestLog;

const WRONG_TYPE: &str = "(error) WRONGTYPE Operation against a key holding the wrong kind of value";
const NOT_AN_INTEGER: &str = "(error) ERR value is not an integer or out of range";

/// The replies of Redis 8.10.2.
#[test]
fn replies_and_errors() {
    check(&[
        ("HSET h a 1 b 2 c 3", "3"),
        ("SET s v", "OK"),
        ("HEXPIRE h 100 FIELDS 1 a NX", "[1]"),
        ("HEXPIRE h 100 NX FIELDS 1 b", "[1]"),
        ("HEXPIRE h 100 FIELDS 2 a b", "[1 1]"),
        ("HEXPIRE h 100 FIELDS 3 a b nope", "[1 1 -2]"),
        ("HTTL h FIELDS 3 a b c", "[100 100 -1]"),
        ("HEXPIRE h 100 NX NX FIELDS 1 c", "[1]"),
        ("HEXPIRE h 100 NX XX FIELDS 1 c", "(error) ERR Multiple condition flags specified"),
        ("HEXPIRE h 100 GT LT FIELDS 1 c", "(error) ERR Multiple condition flags specified"),
        ("HEXPIRE h 100 FIELDS 0 a", "(error) ERR Parameter `numFields` should be greater than 0"),
        ("HEXPIRE h 100 FIELDS -1 a", "(error) ERR Parameter `numFields` should be greater than 0"),
        ("HEXPIRE h 100 FIELDS x a", "(error) ERR Parameter `numFields` should be greater than 0"),
        ("HEXPIRE h 100 FIELDS 3 a b", "(error) ERR wrong number of arguments"),
        ("HEXPIRE h 100 FIELDS 1 a b", "(error) ERR unknown argument: b"),
        ("HEXPIRE h 100 FIELDS 1 a FIELDS 1 b", "(error) ERR FIELDS keyword specified multiple times"),
        ("HEXPIRE h 100 NX XX a", "(error) ERR unknown argument: a"),
        ("HEXPIRE h 100 NX junk a", "(error) ERR unknown argument: junk"),
        ("HEXPIRE h 100 a b c", "(error) ERR unknown argument: a"),
        ("HEXPIRE h 100 NX NX NX", "(error) ERR missing FIELDS argument"),
        ("HEXPIRE h x FIELDS 1 a", NOT_AN_INTEGER),
        ("HEXPIRE h x junk 1 a", NOT_AN_INTEGER),
        ("HEXPIRE h -1 FIELDS 1 a", "(error) ERR invalid expire time, must be >= 0"),
        ("HEXPIRE h -1 junk 1 a", "(error) ERR invalid expire time, must be >= 0"),
        ("HEXPIRE h -1 FIELDS 0 a", "(error) ERR invalid expire time, must be >= 0"),
        ("HEXPIRE s 100 FIELDS 1 a", WRONG_TYPE),
        ("HEXPIRE s -1 FIELDS 1 a", WRONG_TYPE),
        ("HEXPIRE s 100 FIELDS 0 a", WRONG_TYPE),
        ("HEXPIRE s 100 junk 0 a", WRONG_TYPE),
        ("HEXPIRE s x FIELDS 1 a", WRONG_TYPE),
        ("HEXPIRE none 100 FIELDS 2 a b", "[-2 -2]"),
        ("HEXPIRE none -100 FIELDS 2 a b", "(error) ERR invalid expire time, must be >= 0"),
        ("HEXPIRE none 100 FIELDS 0 b", "(error) ERR Parameter `numFields` should be greater than 0"),
        ("HEXPIRE none x FIELDS 1 b", NOT_AN_INTEGER),
        ("HEXPIRE h 9223372036854775807 FIELDS 1 a", "(error) ERR invalid expire time in 'hexpire' command"),
        ("HEXPIRE h 70368744177 FIELDS 1 a", "(error) ERR invalid expire time in 'hexpire' command"),
        ("HPEXPIREAT h 70368744177663 FIELDS 1 a", "[1]"),
        ("HPEXPIREAT h 70368744177664 FIELDS 1 a", "(error) ERR invalid expire time in 'hpexpireat' command"),
        ("HEXPIREAT h 70368744178 FIELDS 1 a", "(error) ERR invalid expire time in 'hexpireat' command"),
        ("HEXPIREAT h 70368744177 FIELDS 1 a", "[1]"),
        ("HPEXPIRETIME h FIELDS 1 a", "[70368744177000]"),
        ("HEXPIRETIME h FIELDS 1 a", "[70368744177]"),
        ("HPEXPIREAT h 1900000000001 FIELDS 1 a", "[1]"),
        ("HEXPIRETIME h FIELDS 1 a", "[1900000001]"),
        ("HPEXPIREAT h 1900000000499 FIELDS 1 a", "[1]"),
        ("HEXPIRETIME h FIELDS 1 a", "[1900000001]"),
        ("HPEXPIREAT h 1900000000500 FIELDS 1 a", "[1]"),
        ("HEXPIRETIME h FIELDS 1 a", "[1900000001]"),
        ("HPEXPIREAT h 1900000000999 FIELDS 1 a", "[1]"),
        ("HEXPIRETIME h FIELDS 1 a", "[1900000001]"),
        ("HPEXPIRE h 99001 FIELDS 1 a", "[1]"),
        ("HTTL h FIELDS 1 a", "[100]"),
        ("HPEXPIRE h 99900 FIELDS 1 a", "[1]"),
        ("HTTL h FIELDS 1 a", "[100]"),
        ("HEXPIRE h 100", "(error) ERR wrong number of arguments for 'hexpire' command"),
        ("HEXPIRE h 100 FIELDS 1", "(error) ERR wrong number of arguments for 'hexpire' command"),
        ("HEXPIRE h 100 FIELDS 1 a", "[1]"),
        ("HEXPIRE h 200 XX FIELDS 1 c", "[1]"),
        ("HEXPIRE h 200 XX FIELDS 1 a", "[1]"),
        ("HEXPIRE h 200 GT FIELDS 2 a c", "[0 0]"),
        ("HEXPIRE h 300 GT FIELDS 2 a c", "[1 1]"),
        ("HEXPIRE h 300 LT FIELDS 2 a c", "[0 0]"),
        ("HEXPIRE h 50 LT FIELDS 2 a c", "[1 1]"),
        ("HTTL h FIELDS 3 a b c", "[50 100 50]"),
        ("HEXPIRE h 0 NX FIELDS 1 a", "[0]"),
        ("HEXPIRE h 0 FIELDS 1 a", "[2]"),
        ("HEXPIRE h 0 FIELDS 3 a a b", "[-2 -2 2]"),
        ("HGETALL h", "[c 3]"),
        ("HEXPIRE h 0 FIELDS 1 c", "[2]"),
        ("EXISTS h", "0"),
        ("HSET h a 1 b 2 c 3", "3"),
        ("HTTL h FIELDS 1", "(error) ERR wrong number of arguments for 'httl' command"),
        ("HTTL h FIELDS 0 a", "(error) ERR Number of fields must be a positive integer"),
        ("HTTL h FIELDS x a", "(error) ERR Number of fields must be a positive integer"),
        ("HTTL h FIELDS 2 a", "(error) ERR The `numfields` parameter must match the number of arguments"),
        ("HTTL h FIELDS 1 a b", "(error) ERR The `numfields` parameter must match the number of arguments"),
        ("HTTL h FIELD 1 a", "(error) ERR Mandatory argument FIELDS is missing or not at the right position"),
        ("HTTL h 1 a FIELDS", "(error) ERR Mandatory argument FIELDS is missing or not at the right position"),
        ("HTTL s FIELDS 1 a", WRONG_TYPE),
        ("HTTL s FIELDS 0 a", WRONG_TYPE),
        ("HTTL none FIELDS 2 a b", "[-2 -2]"),
        ("HTTL none FIELDS 0 a", "(error) ERR Number of fields must be a positive integer"),
        ("HPERSIST h FIELDS 2 a nope", "[-1 -2]"),
        ("HPERSIST h FIELDS 0 a", "(error) ERR Number of fields must be a positive integer"),
        ("HPERSIST h FIELDS 2 a", "(error) ERR The `numfields` parameter must match the number of arguments"),
        ("HPERSIST h junk 2 a", "(error) ERR Mandatory argument FIELDS is missing or not at the right position"),
        ("HPERSIST s FIELDS 1 a", WRONG_TYPE),
        ("HPERSIST none FIELDS 1 a", "[-2]"),
        ("HGETDEL h FIELDS 0 a", "(error) ERR Number of fields must be a positive integer"),
        ("HGETDEL h FIELDS x a", "(error) ERR Number of fields must be a positive integer"),
        ("HGETDEL h FIELDS 2 a", "(error) ERR The `numfields` parameter must match the number of arguments"),
        ("HGETDEL h junk 1 a", "(error) ERR Mandatory argument FIELDS is missing or not at the right position"),
        ("HGETDEL s FIELDS 1 a", WRONG_TYPE),
        ("HGETDEL s FIELDS 0 a", WRONG_TYPE),
        ("HGETDEL none FIELDS 2 a b", "[nil nil]"),
        ("HGETDEL h FIELDS 3 a a nope", "[1 nil nil]"),
        ("HGETDEL h FIELDS 99999999999 a", "(error) ERR The `numfields` parameter must match the number of arguments"),
        ("HGETEX h FIELDS 1 b EX 9", "[2]"),
        ("HGETEX h FIELDS 1 b", "[2]"),
        (
            "HGETEX h EX 9 PX 9 FIELDS 1 b",
            "(error) ERR Only one of EX, PX, EXAT, PXAT or PERSIST arguments can be specified",
        ),
        (
            "HGETEX h EX 9 EX 9 FIELDS 1 b",
            "(error) ERR Only one of EX, PX, EXAT, PXAT or PERSIST arguments can be specified",
        ),
        (
            "HGETEX h EX 9 PERSIST FIELDS 1 b",
            "(error) ERR Only one of EX, PX, EXAT, PXAT or PERSIST arguments can be specified",
        ),
        (
            "HGETEX h PERSIST PERSIST FIELDS 1 b",
            "(error) ERR Only one of EX, PX, EXAT, PXAT or PERSIST arguments can be specified",
        ),
        ("HGETEX h NX FIELDS 1 b", "(error) ERR unknown argument: NX"),
        ("HGETEX h FIELDS 0 b", "(error) ERR invalid number of fields"),
        ("HGETEX h FIELDS -1 b", "(error) ERR invalid number of fields"),
        ("HGETEX h FIELDS x b", "(error) ERR invalid number of fields"),
        ("HGETEX h FIELDS 3 b c", "(error) ERR wrong number of arguments"),
        ("HGETEX h FIELDS 1 b c", "(error) ERR unknown argument: c"),
        ("HGETEX h FIELDS 1 b FIELDS 1 c", "(error) ERR FIELDS keyword specified multiple times"),
        ("HGETEX h EX 9 FIELDS", "(error) ERR wrong number of arguments for 'hgetex' command"),
        ("HGETEX h EX 9 junk", "(error) ERR unknown argument: junk"),
        ("HGETEX h EX 9", "(error) ERR wrong number of arguments for 'hgetex' command"),
        ("HGETEX h EX FIELDS 1 b", NOT_AN_INTEGER),
        ("HGETEX h FIELDS 1 b EX", "(error) ERR missing expire time"),
        ("HGETEX h EX x FIELDS 1 b", NOT_AN_INTEGER),
        ("HGETEX h EX 0 FIELDS 1 b", "[2]"),
        ("HGETEX h EX -1 FIELDS 1 b", "(error) ERR invalid expire time, must be >= 0"),
        ("HGETEX h EX 9223372036854775807 FIELDS 1 b", "(error) ERR invalid expire time in 'hgetex' command"),
        ("HGETEX h PXAT 70368744177664 FIELDS 1 b", "(error) ERR invalid expire time in 'hgetex' command"),
        ("HGETEX s EX 0 FIELDS 1 b", WRONG_TYPE),
        ("HGETEX s EX x FIELDS 1 b", WRONG_TYPE),
        ("HGETEX s FIELDS 1 b", WRONG_TYPE),
        ("HGETEX s FIELDS 0 b", WRONG_TYPE),
        ("HGETEX none EX 0 FIELDS 1 b", "[nil]"),
        ("HGETEX none EX 10 FIELDS 2 b c", "[nil nil]"),
        ("HGETEX h PXAT 1 FIELDS 3 b b nope", "[nil nil nil]"),
        ("HGETEX h EXAT 1 FIELDS 1 c", "[3]"),
        ("EXISTS h", "0"),
        ("HSETEX h FIELDS 1 a v EX 9", "1"),
        ("HTTL h FIELDS 1 a", "[9]"),
        (
            "HSETEX h EX 9 PX 9 FIELDS 1 a v",
            "(error) ERR Only one of EX, PX, EXAT, PXAT or KEEPTTL arguments can be specified",
        ),
        (
            "HSETEX h EX 9 KEEPTTL FIELDS 1 a v",
            "(error) ERR Only one of EX, PX, EXAT, PXAT or KEEPTTL arguments can be specified",
        ),
        (
            "HSETEX h KEEPTTL KEEPTTL FIELDS 1 a v",
            "(error) ERR Only one of EX, PX, EXAT, PXAT or KEEPTTL arguments can be specified",
        ),
        ("HSETEX h FNX FXX FIELDS 1 a v", "(error) ERR Only one of FXX or FNX arguments can be specified"),
        ("HSETEX h FNX FNX FIELDS 1 a v", "(error) ERR Only one of FXX or FNX arguments can be specified"),
        ("HSETEX h FXX FIELDS 1 a w FXX", "(error) ERR Only one of FXX or FNX arguments can be specified"),
        ("HSETEX h NX FIELDS 1 a v", "(error) ERR unknown argument: NX"),
        ("HSETEX h PERSIST FIELDS 1 a v", "(error) ERR unknown argument: PERSIST"),
        ("HSETEX h FIELDS 0 a v", "(error) ERR invalid number of fields"),
        ("HSETEX h FIELDS x a v", "(error) ERR invalid number of fields"),
        ("HSETEX h FIELDS 1 a", "(error) ERR wrong number of arguments for 'hsetex' command"),
        ("HSETEX h FIELDS 2 a v b", "(error) ERR wrong number of arguments"),
        ("HSETEX h FIELDS 1 a v b", "(error) ERR unknown argument: b"),
        ("HSETEX h FIELDS 1 a v b w", "(error) ERR unknown argument: b"),
        ("HSETEX h EX 0 FIELDS 1 a v", "1"),
        ("HSETEX h EX -1 FIELDS 1 a v", "(error) ERR invalid expire time, must be >= 0"),
        ("HSETEX h EX x FIELDS 1 a v", NOT_AN_INTEGER),
        ("HSETEX h PXAT 70368744177664 FIELDS 1 a v", "(error) ERR invalid expire time in 'hsetex' command"),
        ("HSETEX h EX 10 FIELDS", "(error) ERR wrong number of arguments for 'hsetex' command"),
        ("HSETEX h EX 10 FIELDS 1 a", "(error) ERR wrong number of arguments"),
        ("HSETEX h EX 10 a v", "(error) ERR unknown argument: a"),
        ("HSETEX s FIELDS 1 a v", WRONG_TYPE),
        ("HSETEX s FIELDS 0 a v", "(error) ERR invalid number of fields"),
        ("HSETEX s EX 0 FIELDS 1 a v", WRONG_TYPE),
        ("HSETEX s FNX FIELDS 1 a v", WRONG_TYPE),
        ("HSETEX h FNX FIELDS 2 new 1 a 2", "1"),
        ("HSETEX h FXX FIELDS 2 new 1 a 2", "1"),
        ("HSETEX h FNX FIELDS 2 new 1 newer 2", "0"),
        ("HSETEX h FXX EX 100 FIELDS 2 new 1 newer 2", "0"),
        ("HSETEX h KEEPTTL FIELDS 2 new 3 a 9", "1"),
        ("HTTL h FIELDS 3 new newer a", "[-1 -2 -1]"),
        ("HSETEX h FIELDS 3 new 3 new 4 newer 5", "1"),
        ("HGETALL h", "[new 4 a 9 newer 5]"),
        ("HTTL h FIELDS 2 new newer", "[-1 -1]"),
        ("HSETEX none FXX FIELDS 1 a v", "0"),
        ("EXISTS none", "0"),
        ("HSETEX none FNX FIELDS 1 a v", "1"),
        ("HGETALL none", "[a v]"),
        ("HSETEX none PXAT 1 FIELDS 2 a 1 b 2", "1"),
        ("EXISTS none", "0"),
        ("HSETEX none PXAT 1 FIELDS 2 a 1 b 2", "1"),
        ("EXISTS none", "0"),
        ("HSETEX h PXAT 1 FIELDS 2 zz 1 a 2", "1"),
        ("HGETALL h", "[new 4 newer 5]"),
        ("HSETEX h FNX EX 0 FIELDS 1 new 1", "0"),
        ("HSETEX h FNX PXAT 1 FIELDS 1 a 1", "1"),
        ("HSETEX h FNX PXAT 1 FIELDS 1 new 1", "0"),
        ("HGETALL h", "[new 4 newer 5]"),
        ("HSETEX h EX 10 FIELDS 18446744073709551617 a v", "(error) ERR invalid number of fields"),
        ("HGETEX h EX 10 FIELDS 18446744073709551617 a", "(error) ERR invalid number of fields"),
        ("HEXPIRE h 10 FIELDS 18446744073709551617 a", "(error) ERR Parameter `numFields` should be greater than 0"),
        ("HEXPIRE h 10 FIELDS 9223372036854775807 a", "(error) ERR Parameter `numFields` should be greater than 0"),
        ("HGETEX h EX 10 FIELDS 2147483648 a", "(error) ERR invalid number of fields"),
        ("HSETEX h EX 10 FIELDS 9223372036854775807 a v", "(error) ERR invalid number of fields"),
        ("hsetex h ex 10 fields 1 a v", "1"),
        ("OBJECT ENCODING h", "listpackex"),
        ("HPERSIST h FIELDS 1 a", "[1]"),
        ("OBJECT ENCODING h", "listpackex"),
    ]);
}

/// The replies of Redis 8.10.2 to what is wrong in more than one way, and to what changes nothing.
#[test]
fn the_order_of_errors() {
    check(&[
        ("HSET h a 1 b 2 c 3", "3"),
        ("HEXPIRE h 100 NX XX NX", "(error) ERR missing FIELDS argument"),
        ("HEXPIRE h 100 NX XX FIELDS", "(error) ERR FIELDS requires at least numfields and one field argument"),
        ("HEXPIRE h 100 NX FIELDS", "(error) ERR wrong number of arguments for 'hexpire' command"),
        ("HEXPIRE h 100 NX NX FIELDS", "(error) ERR FIELDS requires at least numfields and one field argument"),
        ("HEXPIRE h 100 NX FIELDS 1", "(error) ERR FIELDS requires at least numfields and one field argument"),
        ("HEXPIRE h 100 NX NX FIELDS 1", "(error) ERR FIELDS requires at least numfields and one field argument"),
        ("HEXPIRE h 100 NX XX FIELDS 0 a", "(error) ERR Parameter `numFields` should be greater than 0"),
        ("HEXPIRE h 100 FIELDS 0 a NX XX", "(error) ERR Parameter `numFields` should be greater than 0"),
        ("HEXPIRE h 100 FIELDS 1 a NX XX", "(error) ERR Multiple condition flags specified"),
        ("HEXPIRE h 100 FIELDS 1 a NX junk", "(error) ERR unknown argument: junk"),
        ("HEXPIRE h 100 FIELDS 1 a FIELDS", "(error) ERR FIELDS keyword specified multiple times"),
        ("HEXPIRE h 100 FIELDS 1 a FIELDS 0 b", "(error) ERR FIELDS keyword specified multiple times"),
        ("HEXPIRE h 100 FIELDS 1 a FIELDS junk", "(error) ERR FIELDS keyword specified multiple times"),
        ("HEXPIRE h 100 FIELDS 3 a b NX", "[1 1 -2]"),
        ("HEXPIRE h 100 FIELDS 2 a NX", "[1 -2]"),
        ("HEXPIRE h 100 FIELDS 2147483647 a b", "(error) ERR wrong number of arguments"),
        ("HEXPIRE h 100 NX LT FIELDS 1 c", "(error) ERR Multiple condition flags specified"),
        ("HEXPIRE h 100 XX LT FIELDS 1 c", "(error) ERR Multiple condition flags specified"),
        ("HEXPIRE h 9223372036854775807 junk FIELDS 1 a", "(error) ERR invalid expire time in 'hexpire' command"),
        ("HEXPIRE h 9223372036854775807 FIELDS 0 a", "(error) ERR invalid expire time in 'hexpire' command"),
        ("HGETEX h EX 9 PX 9 junk", "(error) ERR Only one of EX, PX, EXAT, PXAT or PERSIST arguments can be specified"),
        (
            "HGETEX h EX 9 PERSIST junk",
            "(error) ERR Only one of EX, PX, EXAT, PXAT or PERSIST arguments can be specified",
        ),
        ("HGETEX h EX x junk", NOT_AN_INTEGER),
        ("HGETEX h EX x FIELDS 0 b", NOT_AN_INTEGER),
        ("HGETEX h EX -1 junk", "(error) ERR invalid expire time, must be >= 0"),
        ("HGETEX h EX -1 FIELDS 0 b", "(error) ERR invalid expire time, must be >= 0"),
        ("HGETEX h EX 99999999999999999 junk", "(error) ERR invalid expire time in 'hgetex' command"),
        ("HGETEX h EX 99999999999999999 FIELDS 0 b", "(error) ERR invalid expire time in 'hgetex' command"),
        ("HGETEX h FIELDS 0 b EX 9 PX 9", "(error) ERR invalid number of fields"),
        ("HGETEX h FIELDS 0 b EX x", "(error) ERR invalid number of fields"),
        ("HGETEX h PERSIST FIELDS 1", "(error) ERR wrong number of arguments"),
        ("HGETEX h PERSIST FIELDS 2 b", "(error) ERR wrong number of arguments"),
        (
            "HGETEX h PERSIST PERSIST PERSIST",
            "(error) ERR Only one of EX, PX, EXAT, PXAT or PERSIST arguments can be specified",
        ),
        ("HGETEX h EX 9 EX 9", "(error) ERR Only one of EX, PX, EXAT, PXAT or PERSIST arguments can be specified"),
        ("HGETEX h EX 9 PX", "(error) ERR Only one of EX, PX, EXAT, PXAT or PERSIST arguments can be specified"),
        ("HGETEX h PERSIST EX", "(error) ERR wrong number of arguments for 'hgetex' command"),
        ("HGETEX h FIELDS 1 b KEEPTTL", "(error) ERR unknown argument: KEEPTTL"),
        ("HGETEX h FIELDS 1 b FIELDS", "(error) ERR FIELDS keyword specified multiple times"),
        ("HGETEX h FIELDS 1 b FIELDS 0 c", "(error) ERR FIELDS keyword specified multiple times"),
        (
            "HSETEX h EX 9 PX 9 junk x",
            "(error) ERR Only one of EX, PX, EXAT, PXAT or KEEPTTL arguments can be specified",
        ),
        ("HSETEX h FNX FXX junk x", "(error) ERR Only one of FXX or FNX arguments can be specified"),
        ("HSETEX h FNX FXX EX 9 PX 9", "(error) ERR Only one of FXX or FNX arguments can be specified"),
        (
            "HSETEX h EX 9 PX 9 FNX FXX",
            "(error) ERR Only one of EX, PX, EXAT, PXAT or KEEPTTL arguments can be specified",
        ),
        ("HSETEX h FNX FNX FNX FNX", "(error) ERR Only one of FXX or FNX arguments can be specified"),
        ("HSETEX h EX x FIELDS 0 a v", NOT_AN_INTEGER),
        ("HSETEX h EX -1 FIELDS 0 a v", "(error) ERR invalid expire time, must be >= 0"),
        ("HSETEX h EX -1 junk 1 a v", "(error) ERR invalid expire time, must be >= 0"),
        ("HSETEX h FNX EX 10 FIELDS", "(error) ERR wrong number of arguments for 'hsetex' command"),
        ("HSETEX h EX 10 FIELDS 1", "(error) ERR wrong number of arguments"),
        ("HSETEX h FNX FIELDS 1 a", "(error) ERR wrong number of arguments"),
        ("HSETEX h FNX FIELDS 2 a b", "(error) ERR wrong number of arguments"),
        ("HSETEX h FIELDS 1 a v EX", "(error) ERR missing expire time"),
        ("HSETEX h FIELDS 1 a v FIELDS 1 b w", "(error) ERR FIELDS keyword specified multiple times"),
        ("HSETEX h FIELDS 1 a v FIELDS", "(error) ERR FIELDS keyword specified multiple times"),
        ("HSETEX h FIELDS 2147483647 a v", "(error) ERR wrong number of arguments"),
        ("HSETEX h FIELDS 1073741824 a v", "(error) ERR wrong number of arguments"),
        ("HSETEX h KEEPTTL EX", "(error) ERR wrong number of arguments for 'hsetex' command"),
        ("HSETEX h EX 10 EX", "(error) ERR wrong number of arguments for 'hsetex' command"),
        ("HSETEX none FXX FIELDS 0 a v", "(error) ERR invalid number of fields"),
        ("HGETDEL h FIELDS 2147483648 a", "(error) ERR The `numfields` parameter must match the number of arguments"),
        ("HGETDEL h FIELDS 2147483647 a", "(error) ERR The `numfields` parameter must match the number of arguments"),
        ("HTTL h FIELDS 2147483648 a", "(error) ERR The `numfields` parameter must match the number of arguments"),
        ("HTTL h FIELDS 9223372036854775808 a", "(error) ERR Number of fields must be a positive integer"),
        ("HTTL h FIELDS -1 a", "(error) ERR Number of fields must be a positive integer"),
        ("HPEXPIREAT h 0 FIELDS 1 a", "[2]"),
        ("HEXPIREAT h 0 FIELDS 1 nope", "[-2]"),
        ("HPEXPIREAT h 1 FIELDS 1 b", "[2]"),
        ("HEXPIRE h 00 FIELDS 1 c", NOT_AN_INTEGER),
        ("HEXPIRE h 5.5 FIELDS 1 c", NOT_AN_INTEGER),
        ("HEXPIRE h +5 FIELDS 1 c", NOT_AN_INTEGER),
        ("HEXPIRE h 5 FIELDS 01 c", "(error) ERR Parameter `numFields` should be greater than 0"),
        ("HGETEX h EX 05 FIELDS 1 c", NOT_AN_INTEGER),
        ("HGETEX h EX 5 FIELDS 01 c", "(error) ERR invalid number of fields"),
        ("HSETEX h PX 0 FIELDS 1 zz 1", "1"),
        ("HSETEX h PXAT 0 FIELDS 1 zz 1", "1"),
        ("HGETEX h PXAT 0 FIELDS 1 c", "[3]"),
        ("HSETEX k PXAT 1 FIELDS 1 zz 1", "1"),
        ("HSETEX k EX 100 FIELDS 1 zz 1", "1"),
        ("HSETEX k KEEPTTL FIELDS 1 zz 2", "1"),
        ("HSETEX k FIELDS 1 zz 2", "1"),
        ("HSETEX k PXAT 1 FIELDS 2 zz 1 yy 2", "1"),
        ("HSET k a 1 b 2", "2"),
        ("HSETEX k PXAT 1 FIELDS 1 a 1", "1"),
        ("HSETEX k PXAT 1 FIELDS 1 none 1", "1"),
        ("HGETEX k EX 100 FIELDS 2 b none", "[2 nil]"),
        ("HGETEX k EX 100 FIELDS 1 none", "[nil]"),
        ("HGETEX k PERSIST FIELDS 2 b none", "[2 nil]"),
        ("HGETEX k PERSIST FIELDS 2 b none", "[2 nil]"),
        ("HGETEX k FIELDS 1 b", "[2]"),
        ("HEXPIRE k 100 FIELDS 2 b none", "[1 -2]"),
        ("HEXPIRE k 100 NX FIELDS 2 b none", "[0 -2]"),
        ("HPERSIST k FIELDS 2 b none", "[1 -2]"),
        ("HPERSIST k FIELDS 2 b none", "[-1 -2]"),
        ("HGETDEL k FIELDS 2 b none", "[2 nil]"),
        ("HSET k a 1 b 2", "2"),
        ("HGETDEL k FIELDS 1 none", "[nil]"),
        ("HGETDEL k FIELDS 1 a", "[1]"),
        ("HGETEX k PXAT 1 FIELDS 2 b none", "[2 nil]"),
        ("HSET k a 1", "1"),
        ("HEXPIRE k 0 FIELDS 1 a", "[2]"),
    ]);
}

#[test]
fn a_field_that_has_expired_is_hidden_until_it_is_reclaimed() {
    let mut bench = Bench::new();
    let run = |bench: &mut Bench, table: &[(&str, &str)]| {
        table.iter().for_each(|(line, expected)| assert_eq!(&bench.run(line), expected, "{line}"));
    };
    run(
        &mut bench,
        &[
            ("HSET h a 1 b 2 c 3 d 4", "4"),
            ("HPEXPIRE h 10 FIELDS 3 a b d", "[1 1 1]"),
            ("HSETEX only PX 10 FIELDS 1 a 1", "1"),
            ("RPUSH l h", "1"),
        ],
    );
    bench.now_ms += 9;
    run(&mut bench, &[("HGETALL h", "[d 4 b 2 a 1 c 3]"), ("HPTTL h FIELDS 1 a", "[1]"), ("HGET h a", "1")]);
    bench.now_ms += 1;
    run(
        &mut bench,
        &[
            ("HGETALL h", "[c 3]"),
            ("HKEYS h", "[c]"),
            ("HVALS h", "[3]"),
            ("HSCAN h 0", "[0 [c 3]]"),
            ("HRANDFIELD h", "c"),
            ("HRANDFIELD h 5", "[c]"),
            ("HRANDFIELD h -3", "[c c c]"),
            ("HRANDFIELD h 5 WITHVALUES", "[c 3]"),
            ("HTTL h FIELDS 2 a c", "[-2 -1]"),
            ("HPEXPIRETIME h FIELDS 2 a c", "[-2 -1]"),
            ("HEXPIRE h 10 FIELDS 1 a", "[-2]"),
            ("HPERSIST h FIELDS 1 a", "[-2]"),
            ("SORT l BY none GET *->a GET *->c", "[nil 3]"),
            ("HLEN h", "4"),
            // What a write finds under the name is an old field.
            ("HDEL h a", "1"),
            ("HSET h b 5", "0"),
            ("HTTL h FIELDS 1 b", "[-1]"),
            ("HLEN h", "3"),
            ("HGET h d", "nil"),
            ("HLEN h", "2"),
            ("HPEXPIRE h 0 FIELDS 1 none", "[-2]"),
            ("EXISTS only", "1"),
            ("TYPE only", "hash"),
            ("HGETALL only", "[]"),
            ("HRANDFIELD only", "nil"),
            ("HRANDFIELD only 2", "[]"),
            ("HRANDFIELD only -2", "[]"),
            ("DBSIZE", "3"),
            ("COPY only copied", "1"),
            ("RENAME only moved", "OK"),
            ("HLEN copied", "1"),
            ("HMGET moved a b", "[nil nil]"),
            ("EXISTS moved copied", "1"),
            ("HGETDEL copied FIELDS 1 a", "[nil]"),
            ("DBSIZE", "2"),
        ],
    );
    for line in ["HEXISTS h e", "HSTRLEN h e", "HGETEX h EX 10 FIELDS 1 e", "HMGET h c e", "HGET h e"] {
        bench.run("HSETEX h PX 5 FIELDS 1 e 1");
        bench.now_ms += 5;
        assert_eq!(bench.run("HLEN h"), "3", "{line}");
        assert!(["0", "[nil]", "[3 nil]", "nil"].contains(&&*bench.run(line)), "{line}");
        assert_eq!(bench.run("HLEN h"), "2", "{line}");
    }
    assert_eq!(bench.shared.expired_fields.load(std::sync::atomic::Ordering::Relaxed), 8);
}

#[test]
fn writes_begin_anew_where_a_field_has_expired() {
    for (line, expected, value, len) in [
        ("HINCRBY h a 5", "5", "5", 2),
        ("HINCRBYFLOAT h a 0.5", "0.5", "0.5", 2),
        ("HSETNX h a x", "1", "x", 2),
        ("HSET h a x", "0", "x", 2),
        ("HSETEX h FNX FIELDS 1 a x", "1", "x", 2),
        ("HSETEX h FXX FIELDS 1 a x", "0", "nil", 1),
        ("HSETEX h FIELDS 1 a x", "1", "x", 2),
        ("HGETDEL h FIELDS 1 a", "[nil]", "nil", 1),
    ] {
        let mut bench = Bench::new();
        bench.run("HSETEX h PX 10 FIELDS 1 a 7");
        bench.run("HSET h other 1");
        bench.now_ms += 10;
        assert_eq!(bench.run(line), expected, "{line}");
        assert_eq!(bench.run("HLEN h"), len.to_string(), "{line}");
        assert_eq!(bench.run("HGET h a"), value, "{line}");
        assert_eq!(bench.run("HTTL h FIELDS 1 a"), if value == "nil" { "[-2]" } else { "[-1]" }, "{line}");
    }
}

#[test]
fn what_keeps_an_expiry() {
    check(&[
        ("HSETEX h EX 100 FIELDS 3 a 1 b 2 c 3", "1"),
        ("HINCRBY h a 1", "2"),
        ("HINCRBYFLOAT h b 0.5", "2.5"),
        ("HSETNX h c 9", "0"),
        ("HTTL h FIELDS 3 a b c", "[100 100 100]"),
        ("COPY h copied", "1"),
        ("RENAME h moved", "OK"),
        ("PERSIST moved", "0"),
        ("EXPIRE moved 50", "1"),
        ("HTTL copied FIELDS 3 a b c", "[100 100 100]"),
        ("HTTL moved FIELDS 3 a b c", "[100 100 100]"),
        ("HSETEX moved KEEPTTL FIELDS 1 a 5", "1"),
        ("HSETEX moved FIELDS 1 b 5", "1"),
        ("HSET moved c 5", "0"),
        ("HTTL moved FIELDS 3 a b c", "[100 -1 -1]"),
        ("HMSET moved a 6", "OK"),
        ("HTTL moved FIELDS 1 a", "[-1]"),
        ("TTL moved", "50"),
    ]);
}

#[test]
fn payloads_keep_expiries() {
    let mut bench = Bench::new();
    bench.run("HSET small a 1 b 2 c 3");
    bench.run("HEXPIRE small 100 FIELDS 2 b c");
    for n in 0..600 {
        bench.run(&format!("HSET large field:{n} {n}"));
    }
    bench.run("HEXPIRE large 100 FIELDS 2 field:5 field:77");
    for (key, encoding, first) in [("small", "listpackex", 25), ("large", "hashtable", 24)] {
        assert_eq!(bench.run(&format!("OBJECT ENCODING {key}")), encoding);
        let reply = bench.run_raw(&[b"DUMP", key.as_bytes()]);
        let start = reply.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        let payload = &reply[start..reply.len() - 2];
        assert_eq!((payload[0], payload[payload.len() - 10]), (first, 12));
        assert_eq!(bench.run_args(&[b"RESTORE", b"restored", b"0", payload, b"REPLACE"]), "OK");
        let data = bench.data();
        assert_eq!(data[key.as_bytes()], data[&b"restored"[..]]);
        assert_eq!(bench.run("OBJECT ENCODING restored"), encoding);
    }
    bench.run("HPERSIST large FIELDS 2 field:5 field:77");
    assert_eq!(
        bench.run_raw(&[b"DUMP", b"large"]).iter().find(|byte| **byte < 32 && **byte != b'\r' && **byte != b'\n'),
        Some(&4)
    );
}

#[test]
fn replies_of_resp3() {
    check_resp3(&[
        ("HSETEX h EX 100 FIELDS 2 a 1 b 2", "1"),
        ("HGETEX h FIELDS 2 a none", "[1 nil]"),
        ("HTTL h FIELDS 2 a none", "[100 -2]"),
        ("HGETDEL h FIELDS 2 a none", "[1 nil]"),
    ]);
}

/// Random commands over few hashes while the clock goes on, beside a model; then their effects are replayed.
#[test]
fn behaves_as_maps_whose_entries_expire() {
    for seed in 0..60 {
        let mut rng = Rng::with_seed(seed);
        let mut bench = Bench::new();
        let log = TestLog::of(&mut bench.shared);
        let mut model = Model::default();
        if seed % 2 == 0 {
            let mut settings = **bench.shared.settings.load();
            settings.limits.hash_max_listpack_entries = 3;
            bench.shared.settings.store(settings.into());
        }
        for _ in 0..400 {
            if rng.u8(..4) == 0 {
                bench.now_ms += rng.u64(1..40);
            }
            if rng.u8(..8) == 0 {
                let (shared, now_ms) = (&bench.shared, bench.now_ms);
                bench.contents.expire(shared, now_ms, rng.usize(1..50));
            }
            model.now_ms = bench.now_ms;
            let (key, field, other) = (rng.u8(..2), rng.u8(..6), rng.u8(..6));
            let after = rng.u64(0..80);
            let at = bench.now_ms + after;
            let number = rng.u8(..9);
            let (h, f, g) = (format!("h{key}"), format!("f{field}"), format!("f{other}"));
            let condition = ["", "NX ", "XX ", "GT ", "LT "][rng.usize(..5)];
            let (line, expected) = match rng.u8(..13) {
                0 | 1 => (format!("HSET {h} {f} {number}"), model.set(key, field, number, |_| None)),
                2 => (format!("HPEXPIRE {h} {after} {condition}FIELDS 1 {f}"), model.expire(key, field, at, condition)),
                3 => (format!("HPEXPIREAT {h} {at} {condition}FIELDS 1 {f}"), model.expire(key, field, at, condition)),
                4 => (format!("HPERSIST {h} FIELDS 1 {f}"), model.persist(key, field)),
                5 => (
                    format!("HGET {h} {f}"),
                    Some(model.get(key, field).map_or("nil".into(), |value| value.to_string())),
                ),
                6 => (format!("HDEL {h} {f}"), model.delete(key, field)),
                7 => (format!("HGETDEL {h} FIELDS 1 {f}"), {
                    let value = model.get(key, field);
                    model.delete(key, field);
                    Some(value.map_or("[nil]".into(), |value| format!("[{value}]")))
                }),
                8 => (format!("HINCRBY {h} {f} 1"), {
                    let value = model.get(key, field).unwrap_or(0) + 1;
                    let lives = model.get(key, field).is_some();
                    model.set(key, field, value, |before| before.filter(|_| lives));
                    Some(value.to_string())
                }),
                9 => (format!("HSETEX {h} PX {} FIELDS 2 {f} {number} {g} 0", after + 1), {
                    model.set(key, field, number, |_| Some(at + 1));
                    model.set(key, other, 0, |_| Some(at + 1));
                    Some("1".into())
                }),
                10 => (format!("HSETEX {h} FXX KEEPTTL FIELDS 1 {f} {number}"), {
                    let lives = model.get(key, field).is_some();
                    if lives {
                        model.set(key, field, number, |before| before);
                    }
                    Some(u8::from(lives).to_string())
                }),
                11 => (format!("HGETEX {h} PXAT {} FIELDS 1 {f}", at.max(1)), {
                    let value = model.get(key, field);
                    model.expire(key, field, at, "");
                    Some(value.map_or("[nil]".into(), |value| format!("[{value}]")))
                }),
                _ => (format!("HPEXPIRETIME {h} FIELDS 1 {f}"), Some(format!("[{}]", model.expiry(key, field)))),
            };
            let reply = bench.run(&line);
            if let Some(expected) = expected {
                assert_eq!(reply, expected, "seed {seed}: {line}");
            }
            for key in 0..2 {
                assert_eq!(
                    sorted(&bench.run(&format!("HGETALL h{key}"))),
                    model.live(key),
                    "seed {seed}, after {line}"
                );
            }
        }
        let mut replayed = Bench::new();
        for effect in log.effects() {
            replayed.shared.settings.store(bench.shared.settings.load_full());
            replayed.now_ms = effect.now_ms;
            crate::commands::replay(&mut replayed.keyspace(), &effect.body).expect("effects are well-formed");
        }
        replayed.now_ms = bench.now_ms;
        assert_eq!(replayed.data(), bench.data(), "seed {seed}");
    }
}

fn sorted(reply: &str) -> Vec<(String, String)> {
    let words: Vec<&str> = reply.trim_matches(['[', ']']).split_whitespace().collect();
    let mut pairs: Vec<_> = words.chunks(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect();
    pairs.sort();
    pairs
}

/// Two hashes. A field that has expired stays here until it is written or deleted.
#[derive(Default)]
struct Model {
    hashes: [BTreeMap<u8, (u8, Option<u64>)>; 2],
    now_ms: u64,
}

impl Model {
    fn entry(&self, key: u8, field: u8) -> Option<(u8, Option<u64>)> {
        let entry = self.hashes[usize::from(key)].get(&field).copied()?;
        Some(entry).filter(|(_, expiry)| expiry.is_none_or(|at| at > self.now_ms))
    }

    fn get(&self, key: u8, field: u8) -> Option<u8> {
        self.entry(key, field).map(|(value, _)| value)
    }

    fn expiry(&self, key: u8, field: u8) -> i64 {
        self.entry(key, field).map_or(-2, |(_, expiry)| expiry.map_or(-1, |at| at as i64))
    }

    /// The reply of `HSET`, unless it depends on whether the old field was reclaimed.
    fn set(&mut self, key: u8, field: u8, value: u8, after: impl Fn(Option<u64>) -> Option<u64>) -> Option<String> {
        let lives = self.get(key, field).is_some();
        let before = self.hashes[usize::from(key)].get(&field).copied();
        let expiry = after(before.and_then(|(_, expiry)| expiry));
        self.hashes[usize::from(key)].insert(field, (value, expiry));
        (lives || before.is_none()).then(|| u8::from(before.is_none()).to_string())
    }

    fn delete(&mut self, key: u8, field: u8) -> Option<String> {
        let lives = self.get(key, field).is_some();
        let removed = self.hashes[usize::from(key)].remove(&field);
        (lives || removed.is_none()).then(|| u8::from(lives).to_string())
    }

    fn expire(&mut self, key: u8, field: u8, at: u64, condition: &str) -> Option<String> {
        let Some((_, before)) = self.entry(key, field) else { return Some("[-2]".into()) };
        let allowed = match condition {
            "NX " => before.is_none(),
            "XX " => before.is_some(),
            "GT " => before.is_some_and(|before| at > before),
            "LT " => before.is_none_or(|before| at < before),
            _ => true,
        };
        if !allowed {
            return Some("[0]".into());
        }
        if at <= self.now_ms {
            self.hashes[usize::from(key)].remove(&field);
            return Some("[2]".into());
        }
        self.hashes[usize::from(key)].entry(field).and_modify(|(_, expiry)| *expiry = Some(at));
        Some("[1]".into())
    }

    fn persist(&mut self, key: u8, field: u8) -> Option<String> {
        let code = match self.entry(key, field) {
            None => -2,
            Some((_, None)) => -1,
            Some((_, Some(_))) => {
                self.hashes[usize::from(key)].entry(field).and_modify(|(_, expiry)| *expiry = None);
                1
            }
        };
        Some(format!("[{code}]"))
    }

    fn live(&self, key: u8) -> Vec<(String, String)> {
        let fields = self.hashes[usize::from(key)].keys();
        let live = fields.filter_map(|field| Some((format!("f{field}"), self.get(key, *field)?.to_string())));
        live.collect()
    }
}

#[test]
fn effects() {
    let lines = [
        "HSET h a 1 b 2 c 3",
        "HEXPIRE h 100 FIELDS 2 a b",
        "HEXPIRE h 200 GT FIELDS 3 a b c",
        "HEXPIRE h 0 FIELDS 1 b",
        "HGETEX h PERSIST FIELDS 2 a c",
        "HGETEX h EX 50 FIELDS 2 a none",
        "HSETEX new EX 100 FIELDS 2 a 1 b 2",
        "HSETEX new KEEPTTL FIELDS 2 a 2 c 3",
        "HSETEX new FNX PX 5 FIELDS 1 d 4",
        "HSETEX new PXAT 1 FIELDS 2 a 2 never 3",
        "HGETDEL new FIELDS 1 b",
        "HPERSIST h FIELDS 1 a",
        "HGET new none",
        "HGET new none",
        "HGET new d",
        "HINCRBY h a 5",
        "HGETEX h PXAT 1 FIELDS 2 a c",
    ];
    let words = |line: &&str| line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
    check_effects(&lines.iter().map(words).collect::<Vec<_>>());
}
