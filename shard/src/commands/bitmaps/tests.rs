use crate::commands::testing::{Bench, check, check_effects};

const WRONGTYPE: &str = "(error) WRONGTYPE Operation against a key holding the wrong kind of value";
const SYNTAX: &str = "(error) ERR syntax error";
const NOT_AN_INTEGER: &str = "(error) ERR value is not an integer or out of range";
const INVALID_OFFSET: &str = "(error) ERR bit offset is not an integer or out of range";
const INVALID_BIT: &str = "(error) ERR bit is not an integer or out of range";
const INVALID_TYPE: &str =
    "(error) ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.";

#[test]
fn single_bits() {
    check(&[
        ("SETBIT k 7 1", "0"),
        ("SETBIT k 7 1", "1"),
        ("GET k", "\u{1}"),
        ("SETBIT k 10 0", "0"),
        ("STRLEN k", "2"),
        ("GETBIT k 7", "1"),
        ("GETBIT k 6", "0"),
        ("GETBIT k 4294967295", "0"),
        ("GETBIT none 0", "0"),
        ("SETBIT k 7 0", "1"),
        ("BITCOUNT k", "0"),
        ("OBJECT ENCODING k", "raw"),
        ("SET n 5", "OK"),
        ("GETBIT n 2", "1"),
        ("SETBIT n 7 0", "1"),
        ("GET n", "4"),
        ("SET k v PX 100", "OK"),
        ("SETBIT k 0 1", "0"),
        ("PTTL k", "100"),
        ("SETBIT k 0 2", INVALID_BIT),
        ("SETBIT k 0 x", INVALID_BIT),
        ("SETBIT k -1 1", INVALID_OFFSET),
        ("SETBIT k 4294967296 1", INVALID_OFFSET),
        ("GETBIT k x", INVALID_OFFSET),
        ("RPUSH list a", "1"),
        ("SETBIT list 0 2", INVALID_BIT),
        ("SETBIT list 0 1", WRONGTYPE),
        ("GETBIT list 0", WRONGTYPE),
    ]);
}

#[test]
fn counts() {
    check(&[
        ("SET k foobar", "OK"),
        ("BITCOUNT k", "26"),
        ("BITCOUNT k 0 0", "4"),
        ("BITCOUNT k 1 1", "6"),
        ("BITCOUNT k 1 1 BYTE", "6"),
        ("BITCOUNT k 5 30 BIT", "17"),
        ("BITCOUNT k 0 -1 bit", "26"),
        ("BITCOUNT k 3 3 BIT", "0"),
        ("BITCOUNT k -8 -1 BIT", "4"),
        ("BITCOUNT k -100 -90", "4"),
        ("BITCOUNT k -90 -100", "0"),
        ("BITCOUNT k 4 2", "0"),
        ("BITCOUNT k 6 100", "0"),
        ("BITCOUNT none", "0"),
        ("BITCOUNT none 0 1", "0"),
        ("BITCOUNT none 1", SYNTAX),
        ("BITCOUNT k x", SYNTAX),
        ("BITCOUNT k x 1", NOT_AN_INTEGER),
        ("BITCOUNT none 0 1 JUNK", SYNTAX),
        ("BITCOUNT k 0 1 BIT x", SYNTAX),
        ("BITCOUNT k -9223372036854775808 9223372036854775807 BIT", "26"),
        ("SET n 255", "OK"),
        ("BITCOUNT n", "11"),
        ("RPUSH list a", "1"),
        ("BITCOUNT list", WRONGTYPE),
    ]);
}

#[test]
fn positions() {
    check(&[
        ("SET k \"\\xff\\xf0\\x00\"", "OK"),
        ("BITPOS k 0", "12"),
        ("BITPOS k 1", "0"),
        ("BITPOS k 1 2", "-1"),
        ("BITPOS k 0 2", "16"),
        ("BITPOS k 1 7 15 BIT", "7"),
        ("BITPOS k 0 7 11 BIT", "-1"),
        ("BITPOS k 0 7 12 BIT", "12"),
        ("BITPOS k 1 -100 -90", "0"),
        ("BITPOS k 1 -90 -100", "0"),
        ("SET ones \"\\xff\\xff\"", "OK"),
        ("BITPOS ones 0", "16"),
        ("BITPOS ones 0 1", "16"),
        ("BITPOS ones 0 0 -1", "-1"),
        ("BITPOS ones 0 2", "-1"),
        ("SET empty \"\"", "OK"),
        ("BITPOS empty 0", "-1"),
        ("BITPOS none 0", "0"),
        ("BITPOS none 1", "-1"),
        ("BITPOS none 0 x", NOT_AN_INTEGER),
        ("BITPOS none 1 0 1 JUNK", SYNTAX),
        ("BITPOS none 1 0 1 BIT x", SYNTAX),
        ("BITPOS k 2", "(error) ERR The bit argument must be 1 or 0."),
        ("BITPOS k 2 x", "(error) ERR The bit argument must be 1 or 0."),
        ("BITPOS none 2 0 1 JUNK", "(error) ERR The bit argument must be 1 or 0."),
        ("BITPOS k 1 0 x JUNK", SYNTAX),
        ("BITPOS k 1 x 1 JUNK", NOT_AN_INTEGER),
        ("BITPOS k 1 0 x BIT", NOT_AN_INTEGER),
        ("BITCOUNT k 0 x JUNK", NOT_AN_INTEGER),
        ("BITCOUNT k 0 1 JUNK", SYNTAX),
        ("BITCOUNT k 0 1 BIT x", SYNTAX),
        ("BITPOS list 2", "(error) ERR The bit argument must be 1 or 0."),
        ("BITPOS k x", NOT_AN_INTEGER),
        ("RPUSH list a", "1"),
        ("BITPOS list 1", WRONGTYPE),
    ]);
}

#[test]
fn operations() {
    check(&[
        ("SET x \"\\x7f\\x0f\"", "OK"),
        ("SET y \"\\x70\\x01\\x40\"", "OK"),
        ("SET z \"\\x01\"", "OK"),
        ("BITOP AND d x y", "3"),
        ("GET d", "p\u{1}\0"),
        ("BITOP or d x z", "2"),
        ("GET d", "\u{7f}\u{f}"),
        ("BITOP XOR d x y z", "3"),
        ("GET d", "\u{e}\u{e}@"),
        ("BITOP NOT n x", "2"),
        ("BITPOS n 1", "0"),
        ("BITCOUNT n", "5"),
        ("BITOP DIFF d x y z", "3"),
        ("GET d", "\u{e}\u{e}\0"),
        ("BITOP DIFF1 d x y z", "3"),
        ("GET d", "\0\0@"),
        ("BITOP ANDOR d x y z", "3"),
        ("GET d", "q\u{1}\0"),
        ("BITOP ONE d x y z", "3"),
        ("GET d", "\u{e}\u{e}@"),
        ("BITOP ONE d x x", "2"),
        ("BITCOUNT d", "0"),
        ("OBJECT ENCODING d", "raw"),
        ("SET d v PX 100", "OK"),
        ("BITOP AND d x none", "2"),
        ("PTTL d", "-1"),
        ("BITOP OR d none none", "0"),
        ("EXISTS d", "0"),
        ("SET n 1", "OK"),
        ("BITOP OR x x n", "2"),
        ("RPUSH list a", "1"),
        ("BITOP OR list x", "2"),
        ("TYPE list", "string"),
        ("RPUSH other a", "1"),
        ("BITOP OR d x other", WRONGTYPE),
        ("BITOP NOT d x other", "(error) ERR BITOP NOT must be called with a single source key."),
        ("BITOP DIFF d x", "(error) ERR BITOP DIFF must be called with at least two source keys."),
        ("BITOP DIFF1 d x", "(error) ERR BITOP DIFF1 must be called with at least two source keys."),
        ("BITOP ANDOR d x", "(error) ERR BITOP ANDOR must be called with at least two source keys."),
        ("BITOP NAND d x", SYNTAX),
    ]);
}

#[test]
fn fields() {
    check(&[
        ("BITFIELD k", "[]"),
        ("EXISTS k", "0"),
        ("BITFIELD k GET u8 0 GET i64 100", "[0 0]"),
        ("EXISTS k", "0"),
        ("BITFIELD k INCRBY i5 100 1 GET u4 0", "[1 0]"),
        ("STRLEN k", "14"),
        ("SET k foobar", "OK"),
        ("BITFIELD k SET u8 #1 65 GET u8 #1", "[111 65]"),
        ("GET k", "fAobar"),
        ("BITFIELD k SET i4 0 -1 GET i4 0 GET u4 0", "[6 -1 15]"),
        ("SET k \"\"", "OK"),
        ("BITFIELD k SET u2 0 5 OVERFLOW SAT SET u2 2 5 SET i3 4 -9 OVERFLOW FAIL SET u2 0 5", "[0 0 0 nil]"),
        ("BITFIELD k GET u2 0 GET u2 2 GET i3 4", "[1 3 -4]"),
        ("BITFIELD k OVERFLOW SAT INCRBY u2 2 -9 INCRBY i3 4 100 OVERFLOW WRAP INCRBY i3 4 1", "[0 3 -4]"),
        ("BITFIELD k SET i64 3 -9223372036854775808 INCRBY i64 3 -1", "[4611686018427387904 9223372036854775807]"),
        ("BITFIELD k OVERFLOW SAT INCRBY i64 3 1 OVERFLOW FAIL INCRBY i64 3 1", "[9223372036854775807 nil]"),
        ("BITFIELD k SET u63 1 -1 GET u63 1", "[5764607523034234879 9223372036854775807]"),
        ("BITFIELD new OVERFLOW FAIL SET u8 0 300", "[nil]"),
        ("GET new", "\0"),
        ("BITFIELD_RO k GET u1 0 GET u63 1", "[0 9223372036854775807]"),
        ("BITFIELD_RO k OVERFLOW WRAP", "[]"),
        ("BITFIELD_RO k GET u8 0 SET u8 0 1", "(error) ERR BITFIELD_RO only supports the GET subcommand"),
        ("BITFIELD k GET u64 0", INVALID_TYPE),
        ("BITFIELD k GET i65 0", INVALID_TYPE),
        ("BITFIELD k GET u0 0", INVALID_TYPE),
        ("BITFIELD k GET u08 0", INVALID_TYPE),
        ("BITFIELD k GET U8 0", INVALID_TYPE),
        ("BITFIELD k GET u8 -1", INVALID_OFFSET),
        ("BITFIELD k GET u8 #", INVALID_OFFSET),
        ("BITFIELD k GET u8 #9223372036854775807", INVALID_OFFSET),
        ("BITFIELD k GET u8 4294967296", INVALID_OFFSET),
        ("BITFIELD k SET u8 4294967289 1", INVALID_OFFSET),
        ("BITFIELD k SET u8 0 x", NOT_AN_INTEGER),
        ("BITFIELD k GET u8", SYNTAX),
        ("BITFIELD k SET u8 0", SYNTAX),
        ("BITFIELD k OVERFLOW", SYNTAX),
        ("BITFIELD k OVERFLOW MAYBE", "(error) ERR Invalid OVERFLOW type specified"),
        ("BITFIELD k NOPE", SYNTAX),
        ("RPUSH list a", "1"),
        ("BITFIELD list GET x 0", INVALID_TYPE),
        ("BITFIELD list GET u8 0", WRONGTYPE),
        ("BITFIELD list SET u8 0 1", WRONGTYPE),
        ("BITFIELD_RO list GET u8 0", WRONGTYPE),
    ]);
}

#[test]
fn a_far_bit_makes_a_long_string() {
    let mut bench = Bench::new();
    assert_eq!(bench.run("SETBIT k 800000 1"), "0");
    assert_eq!(bench.run("STRLEN k"), "100001");
    assert_eq!(bench.run("BITPOS k 1"), "800000");
    assert_eq!(bench.run("BITPOS k 0 100000 100000"), "800001");
    assert_eq!(bench.run("BITCOUNT k"), "1");
    assert_eq!(bench.run("SETBIT k 3 1"), "0");
    assert_eq!(bench.run("BITOP NOT k k"), "100001");
    assert_eq!(bench.run("BITCOUNT k"), (8 * 100_001 - 2).to_string());
    assert_eq!(bench.run("BITPOS k 0 1"), "800000");
    assert_eq!(bench.cost("SETBIT new 4294967295 1"), Some((1 << 29) / 256 - 1));
    assert_eq!(bench.cost("SETBIT k 5 1"), Some(0));
    assert_eq!(bench.cost("BITCOUNT k"), Some(390));
    assert_eq!(bench.cost("BITFIELD new SET u8 4294967280 1 GET u1 0"), Some(2 + (1 << 29) / 256 - 1));
    assert_eq!(bench.cost("BITFIELD new GET u8 4294967280"), Some(1));
    assert_eq!(bench.cost("BITOP OR d k k none"), Some(781));
}

#[test]
fn growth_is_told_before_it_happens() {
    let mut bench = Bench::new();
    bench.run("SETBIT k 7999 1");
    for (line, bytes) in [
        ("SETBIT k 7999 0", 0),
        ("SETBIT k 8000 0", 1),
        ("SETBIT new 4294967295 1", 1 << 29),
        ("SETBIT new -1 1", 0),
        ("SETBIT new 4294967296 1", 0),
        ("BITFIELD k GET u8 9999", 0),
        ("BITFIELD k SET u8 8000 1 INCRBY u8 8009 1", 3),
        ("BITFIELD k SET u8", 0),
        ("SETRANGE k 1000 abc", 3),
        ("SETRANGE new 536870911 a", 1 << 29),
        ("SETRANGE new 536870912 a", 0),
        ("BITOP OR d k none", 1000),
    ] {
        assert_eq!(bench.growth(line), bytes, "{line}");
    }
}

/// Random ranges, fields and operations against the plainest way to do each: bit by bit.
#[test]
fn as_bit_by_bit() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut below = |limit: usize| random.usize(..limit);
    for _ in 0..400 {
        let mut bench = Bench::new();
        let text: Vec<u8> = (0..below(40)).map(|_| [0, 0, 0xff, 0xff, 0x10, 0xfe][below(6)]).collect();
        bench.run_args(&[b"SET", b"k", &text]);
        let bits: Vec<bool> = (0..text.len() * 8).map(|at| text[at / 8] >> (7 - at % 8) & 1 == 1).collect();
        let (start, end) = (below(320), below(320));
        let range = || bits.iter().enumerate().take(end + 1).skip(start);
        let count = range().filter(|(_, bit)| **bit).count();
        assert_eq!(bench.run(&format!("BITCOUNT k {start} {end} BIT")), count.to_string(), "{text:?} {start} {end}");
        for wanted in [false, true] {
            let found = range().find(|(_, bit)| **bit == wanted).map_or(-1, |(at, _)| at as i64);
            let reply = bench.run(&format!("BITPOS k {} {start} {end} BIT", u8::from(wanted)));
            assert_eq!(reply, found.to_string(), "{text:?} {wanted} {start} {end}");
        }
        let width = 1 + below(63);
        let field = (start..start + width).fold(0u64, |field, at| field << 1 | u64::from(bits.get(at) == Some(&true)));
        assert_eq!(bench.run(&format!("BITFIELD k GET u{width} {start}")), format!("[{field}]"));
        let value = (below(1 << 30) as u64 * below(1 << 30) as u64) & (u64::MAX >> (64 - width));
        assert_eq!(bench.run(&format!("BITFIELD k SET u{width} {start} {value}")), format!("[{field}]"));
        for (at, bit) in bits.iter().enumerate() {
            let expected =
                if (start..start + width).contains(&at) { value >> (start + width - 1 - at) & 1 == 1 } else { *bit };
            assert_eq!(bench.run(&format!("GETBIT k {at}")), u8::from(expected).to_string());
        }
    }
}

#[test]
fn effects_make_the_same_data() {
    let commands = [
        "SETBIT k 100 1",
        "SETBIT k 100 1",
        "SET n 77",
        "SETBIT n 0 0",
        "BITFIELD k INCRBY u8 9 200 OVERFLOW FAIL INCRBY u8 9 200 GET u8 9",
        "BITFIELD k OVERFLOW FAIL SET u8 1000 900",
        "BITOP XOR d k n none",
        "BITOP NOT n n",
        "BITOP AND gone none",
        "BITOP AND d none",
    ];
    let words = |line: &&str| line.split(' ').map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
    check_effects(&commands.iter().map(words).collect::<Vec<_>>());
}
