//! The words that fill the holes of a template.

use super::Random;

/// Preferred keys of a family, so that most commands meet the type they want. The others come by chance.
const KEYS: [(&str, &[&str]); 6] = [
    ("string", &["s1", "s2", "s3", "{s}4"]),
    ("hash", &["h1", "h2", "h3"]),
    ("list", &["l1", "l2", "l3", "{l}4"]),
    ("set", &["t1", "t2", "t3", "{t}4"]),
    ("zset", &["z1", "z2", "z3", "{z}4"]),
    ("stream", &["e1", "e1", "e2", "{e}3"]),
];

const JUNK: [&[u8]; 15] = [
    b"",
    b"junk",
    b"0",
    b"-1",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"9223372036854775808",
    b"1e400",
    b"nan",
    b"3.0",
    b" 7",
    b"+1",
    b"-0",
    b"\0\xff\r\n",
    b"LIMIT",
];

/// Redis 7.0's replies to DUMP for a value of each kind, in hexadecimal, and some that are slightly wrong.
const PAYLOADS: [&str; 14] = [
    "00c00c0a003c2af8515c04bcd5",
    "000b68656c6c6f20776f726c640a000bfc49b9a6c7a034",
    "00c30b3c0361626361e02d020162630a006f6029e4afd764ac",
    "120102c31a32123200000005008161020101dffb02c12c029e62e01400011fff0a003e1ec3ad8587dcd0",
    "0b0e02000000030000000100020005000a000cfdf322d175e14c",
    "020301620161c0030a00004a88f007b5be1d",
    "101616000000040081610201018162028568656c6c6f06ff0a00e8c5fe99ee07955d",
    "11191900000006000301dffd02816102010181620283322e3504ff0a00d527cbbec397837c",
    "04020161c3094046017878e03900017878c003c0040a00bb66b89c626886e9",
    "050201620000000000000440c3094046017979e03900017979000000000000f43f0a0017368dcd5d4fdf77",
    "00c00c0a003c2af8515c04bcd6",
    "00c00cff003c2af8515c04bcd5",
    "00c00c",
    "",
];

const LONG: [u8; 90] = [b'x'; 90];

/// Number of expiries given out: no two are alike, so that GT and LT never meet a tie that the clock decides.
#[derive(Default)]
pub struct Pools {
    expiries: u64,
    ids: u64,
}

impl Pools {
    pub fn word(&mut self, pool: &str, random: &mut Random) -> Vec<u8> {
        let pick = |random: &mut Random, words: &[&str]| random.pick(words).as_bytes().to_vec();
        let number = |n: i64| n.to_string().into_bytes();
        match pool {
            "string" | "hash" | "list" | "set" | "zset" | "stream" if !random.one_in(6) => {
                let (_, keys) = KEYS.iter().find(|(family, _)| *family == pool).expect("one of the families");
                pick(random, keys)
            }
            "key" | "string" | "hash" | "list" | "set" | "zset" | "stream" => {
                if random.one_in(12) {
                    return b"nokey".to_vec();
                }
                let (_, keys) = random.pick(&KEYS);
                pick(random, keys)
            }
            "junk" => random.pick(&JUNK).to_vec(),
            // They grow while the script runs, so that most are above the last one, and near the present ones.
            "id" => {
                self.ids += u64::from(random.one_in(4));
                let ms = self.ids.saturating_sub([0, 0, 0, 1, 2, 5, 20][random.below(7)]);
                match random.below(40) {
                    0 => pick(random, &["0-0", "x", "18446744073709551615-18446744073709551615", "-", "5-", "1-1-1"]),
                    1 => number(ms as i64),
                    2 => format!("{ms}-*").into_bytes(),
                    n => format!("{ms}-{}", n / 8).into_bytes(),
                }
            }
            "id-bound" => match random.below(8) {
                0 => b"-".to_vec(),
                1 | 2 => b"+".to_vec(),
                3 => [b"(".to_vec(), self.word("id", random)].concat(),
                _ => self.word("id", random),
            },
            "group" => pick(random, &["g", "g", "g", "other"]),
            "consumer" => pick(random, &["alice", "bob", "carol"]),
            // Nothing that matters depends on a few milliseconds.
            "idle" => pick(random, &["0", "0", "0", "3600000", "86400000", "-1", "x"]),
            "value" => match random.below(12) {
                0..3 => number(random.below(200) as i64 - 100),
                3 => pick(
                    random,
                    &[
                        "9223372036854775807",
                        "-9223372036854775808",
                        "9223372036854775806",
                        "007",
                        "1.5",
                        "3.0e3",
                        " 1",
                    ],
                ),
                4 => LONG[..random.below(91)].to_vec(),
                5 => vec![b'y'; 30 + random.below(30)],
                6 => random.pick(&JUNK).to_vec(),
                _ => pick(random, &["hello", "world", "ohmytext", "mynewtext", "a", "b", "", "größe"]),
            },
            // Those of some values.
            "digest" => pick(
                random,
                &[
                    "9555e8555c62dcfd",
                    "d6476c25083d69be",
                    "E6C632B61E964E1F",
                    "575a0b1c44d8843f",
                    "2d06800538d394c2",
                    "0123456789abcdef",
                    "zzzzzzzzzzzzzzzz",
                    "123",
                ],
            ),
            "member" | "field" => match random.below(20) {
                0..8 => number(random.below(12) as i64),
                8 => LONG[..60 + random.below(10)].to_vec(),
                9 => random.pick(&JUNK).to_vec(),
                _ => vec![b'a' + random.below(12) as u8],
            },
            // Members in the order of their bytes make sense only if all scores are equal: these keys see no other.
            "lex" => pick(random, &["x1", "x1", "x2", "x3"]),
            "bits" => pick(random, &["b1", "b2", "b3", "s1", "h1", "nokey"]),
            // Other commands never see these: Redis caches counts in them.
            "hll" => pick(random, &["p1", "p1", "p2", "p3"]),
            "places" => pick(random, &["g1", "g1", "g2", "z1", "s1", "nokey"]),
            "longitude" => match random.below(30) {
                0 => pick(random, &["180", "-180", "180.1", "x", "nan"]),
                _ => ((random.below(3600) as f64 - 1800.0) / 10.0).to_string().into_bytes(),
            },
            "latitude" => match random.below(30) {
                0 => pick(random, &["85.05112878", "-85.05112878", "85.1", "x", "inf"]),
                _ => ((random.below(1700) as f64 - 850.0) / 10.0).to_string().into_bytes(),
            },
            // Far from the poles and from the edge of the map. Valkey misses places in polygons that reach around the earth.
            "east" | "north" => ((random.below(1200) as f64 - 600.0) / 10.0).to_string().into_bytes(),
            "distance" => match random.below(20) {
                0 => pick(random, &["-1", "x", "", "0", "1e9"]),
                n => number((random.below(900) * [1, 1, 10, 30, 100][n % 5]) as i64),
            },
            "unit" => pick(random, &["m", "km", "km", "km", "KM", "mi", "mi", "ft", "junk"]),
            "bit" => match random.below(12) {
                0 => pick(random, &["-1", "4294967296", "x", "", "#0", "#3", "01"]),
                _ => number(random.below(200) as i64),
            },
            "field-type" => match random.below(12) {
                0 => pick(random, &["u64", "i65", "u0", "x", "U8", ""]),
                _ => [pick(random, &["u", "i"]), number(1 + random.below(63) as i64)].concat(),
            },
            "letter" => vec![b'a' + random.below(12) as u8],
            "number" => number(random.below(300) as i64),
            "int" => match random.below(10) {
                0 => pick(
                    random,
                    &["9223372036854775807", "-9223372036854775808", "x", "1.0", "", "01", "9223372036854775808"],
                ),
                _ => number(random.below(40) as i64 - 20),
            },
            "index" => number(random.below(18) as i64 - 8),
            "count" => number(random.below(8) as i64),
            "offset" => pick(random, &["0", "1", "3", "5", "12", "100", "-1", "536870912", "x"]),
            "float" => pick(
                random,
                &[
                    "0.1", "0.2", "1.5", "-2.25", "3", "1e3", "5.0e-2", "-0.1", "100", "inf", "nan", "x", "", " 1",
                    "1e17", "-3.14159",
                ],
            ),
            // Quarters add up exactly in any order. The pool has only one infinity, since two would make sums depend on
            // their order.
            "score" => match random.below(20) {
                0 => b"inf".to_vec(),
                1 => pick(random, &["nan", "x", "", "1e3", "-0", "+2", "1e20"]),
                _ => quarters(random),
            },
            "min" | "max" => match random.below(10) {
                0 => pick(random, &["-inf", "+inf", "inf", "(inf", "(-inf"]),
                1 => pick(random, &["x", "", "(", "(x", "nan", "[1"]),
                2..5 => [b"(", quarters(random).as_slice()].concat(),
                _ => quarters(random),
            },
            "lexmin" | "lexmax" => match random.below(10) {
                0 => pick(random, &["x", "", "(", "[", "-x", "+x"]),
                1..3 => pick(random, &["-", "+"]),
                _ => [pick(random, &["[", "("]), vec![b'a' + random.below(12) as u8]].concat(),
            },
            "weight" => pick(random, &["0", "1", "2", "0.5", "3", "nan", "x", "2"]),
            "payload" => {
                let text = random.pick(&PAYLOADS);
                let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("two hexadecimal digits");
                (0..text.len()).step_by(2).map(byte).collect()
            }
            "pattern" => pick(
                random,
                &["*", "s*", "?1", "[hl]*", "[^s]1", "{*", "z[1-2]", "\\{?}4", "*1*", "none", "", "[", "h\\1"],
            ),
            "db" => pick(random, &["0", "0", "0", "1", "2", "15", "16", "-1", "x"]),
            "seconds" => match random.below(12) {
                0 => pick(
                    random,
                    &["0", "-1", "x", "", "9223372036854775807", "-9223372036854775808", "9223372036854775", "1.5"],
                ),
                _ => number(10_000 + self.expiry()),
            },
            "milliseconds" => match random.below(12) {
                0 => pick(
                    random,
                    &["0", "-5", "x", "9223372036854775807", "-9223372036854775808", "9223372036854775000"],
                ),
                _ => number(1000 * (10_000 + self.expiry())),
            },
            "moment" => match random.below(12) {
                0 => pick(random, &["0", "-1", "1", "x", "1700000000", "9223372036854775807", "9223372036854775"]),
                _ => number(4_000_000_000 + self.expiry()),
            },
            "moment-ms" => match random.below(12) {
                0 => pick(random, &["0", "-1", "1", "x", "1700000000000", "9223372036854775807"]),
                _ => number(1000 * (5_000_000_000 + self.expiry())),
            },
            "type" => pick(random, &["string", "hash", "list", "set", "zset", "ZSET", "stream"]),
            _ => panic!("there is no pool `{pool}`"),
        }
    }

    fn expiry(&mut self) -> i64 {
        self.expiries += 1;
        // A prime step visits the whole range in a scattered order before it repeats.
        (self.expiries * 7919 % 1_000_003) as i64
    }
}

fn quarters(random: &mut Random) -> Vec<u8> {
    ((random.below(60) as f64 - 20.0) / 4.0).to_string().into_bytes()
}
