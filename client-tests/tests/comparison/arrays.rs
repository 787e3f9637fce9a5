//! Random commands over arrays get the replies of Redis 8.10.2, which has them.

use dormouse_client_tests::resp::{Connection, Reply, Words, request};
use dormouse_client_tests::script::Random;
use dormouse_client_tests::{Kind, Server, Settings};

const COMMANDS: usize = 12_000;
const BATCH: usize = 100;

#[test]
fn commands_over_arrays_get_the_replies_of_redis_8() {
    if !Kind::Redis8.is_present("arrays beside a real server") {
        return;
    }
    let ours = Server::start_with(Kind::under_test(), Settings::default());
    let theirs = Server::start_with(Kind::Redis8, Settings::default());
    // So that payloads are the same byte for byte.
    Connection::open(theirs.port()).run("CONFIG SET rdbcompression no");
    for version in ["2", "3"] {
        let [mut one, mut other] = [&ours, &theirs].map(|server| {
            let mut connection = Connection::open(server.port());
            connection.run("FLUSHALL");
            connection.call(&["HELLO", version]);
            connection
        });
        let mut random = Random::new(version.len() as u64 + u64::from(version == "3"));
        let mut refused = 0;
        for _ in 0..COMMANDS / BATCH {
            let batch: Vec<Words> = (0..BATCH).map(|_| command(&mut random)).collect();
            let bytes: Vec<u8> = batch.iter().flat_map(|words| request(words)).collect();
            for side in [&mut one, &mut other] {
                side.write(&bytes).expect("the server reads");
            }
            for words in &batch {
                let [ours, theirs] = [&mut one, &mut other].map(|side| side.read().expect("the server replies"));
                refused += usize::from(ours.is_error());
                let shown: Vec<String> = words.iter().map(|word| word.escape_ascii().to_string()).collect();
                assert_eq!(ours, theirs, "HELLO {version}: {}", shown.join(" "));
            }
        }
        assert!((COMMANDS / 20..COMMANDS / 2).contains(&refused), "{refused} were refused");
        inventory(&mut one, &mut other);
    }
}

/// Compares the payloads of all arrays, which hold their cursors too, and each digest.
fn inventory(one: &mut Connection, other: &mut Connection) {
    for key in KEYS {
        let [ours, theirs] = [&mut *one, &mut *other].map(|side| side.call(&["DUMP", key]));
        let value = |reply: &Reply| reply.bytes().map(|payload| payload[..payload.len() - 10].to_vec());
        // Other servers' payloads of other types may differ.
        if one.call(&["TYPE", key]) == Reply::Line('+', "array".into()) {
            assert_eq!(value(&ours), value(&theirs), "DUMP {key}");
            let payload = theirs.bytes().expect("a payload").to_vec();
            let restore: [&[u8]; 5] = [b"RESTORE", key.as_bytes(), b"0", &payload, b"REPLACE"];
            assert_eq!(one.call(&restore), Reply::Line('+', "OK".into()));
            let scan = ["ARSCAN", key, "0", "18446744073709551614"];
            assert_eq!(one.call(&scan), other.call(&scan));
        }
    }
}

const KEYS: [&str; 7] = ["a1", "a1", "a2", "a3", "s1", "h1", "none"];

fn key(random: &mut Random) -> Vec<u8> {
    let key = if random.one_in(9) { random.pick(&KEYS) } else { random.pick(&KEYS[..4]) };
    key.as_bytes().to_vec()
}

fn index(random: &mut Random) -> Vec<u8> {
    const ODD: [&str; 14] = [
        "18446744073709551614",
        "18446744073709551615",
        "18446744073709551613",
        "9223372036854775807",
        "9223372036854775808",
        "-1",
        "x",
        "",
        "1.5",
        " 3",
        "+3",
        "007",
        "8388608",
        "99999999999999999999",
    ];
    match random.below(16) {
        0 => random.pick(&ODD).as_bytes().to_vec(),
        1 => random.below(1 << 24).to_string().into_bytes(),
        2 | 3 => random.below(12_000).to_string().into_bytes(),
        _ => random.below(40).to_string().into_bytes(),
    }
}

fn value(random: &mut Random) -> Vec<u8> {
    const ODD: [&[u8]; 24] = [
        b"",
        b"0.1",
        b"0.5",
        b"-0.5",
        b"1.0",
        b"-0.0",
        b"1.50",
        b"0.7",
        b"1e3",
        b"inf",
        b"-inf",
        b"nan",
        b"0x1f",
        b" 7",
        b"007",
        b"9223372036854775807",
        b"-9223372036854775808",
        b"9223372036854775808",
        b"2305843009213693952",
        b"0.30000000000000004",
        b"123456789.125",
        b"\0\xff",
        b"Apple pie",
        b"1000000000000000000.0",
    ];
    match random.below(8) {
        0 => random.pick(&ODD).to_vec(),
        1 | 2 => (random.below(2000) as i64 - 1000).to_string().into_bytes(),
        3 => format!("{}.{}", random.below(300), random.below(1000)).into_bytes(),
        4 => vec![b'y'; random.below(400)],
        _ => random.pick(&[&b"apple"[..], b"banana", b"APPLE", b"grape", b"a b c", b"abcdefgh"]).to_vec(),
    }
}

/// `LIMIT n`, now and then a wrong one.
fn limit(random: &mut Random, words: &mut Words) {
    if random.one_in(3) {
        words.push(b"LIMIT".to_vec());
        words.push(random.pick(&["1", "2", "5", "100", "0", "-1", "x"]).as_bytes().to_vec());
    }
}

fn command(random: &mut Random) -> Words {
    const EXPRESSIONS: [&str; 12] =
        ["^a", "e$", "[0-9]+", "a.*e", "(b|g)[[:alpha:]]+", "^.{5}$", "(", "a**", "\\w \\w", "[^a-z]", "x|", "\\d\\."];
    let names = [
        "ARSET",
        "ARSET",
        "ARSET",
        "ARMSET",
        "ARGET",
        "ARMGET",
        "ARGETRANGE",
        "ARDEL",
        "ARDELRANGE",
        "ARLEN",
        "ARCOUNT",
        "ARINSERT",
        "ARINSERT",
        "ARNEXT",
        "ARSEEK",
        "ARRING",
        "ARLASTITEMS",
        "ARSCAN",
        "ARGREP",
        "AROP",
        "ARINFO",
        "OTHER",
    ];
    let name = *random.pick(&names);
    let mut words: Words = vec![name.as_bytes().to_vec(), key(random)];
    let some = 1 + random.below(3);
    match name {
        "ARSET" => {
            words.push(index(random));
            let many = if random.one_in(20) { 80 } else { some };
            words.extend((0..many).map(|_| value(random)));
        }
        "ARMSET" => (0..some).for_each(|_| words.extend([index(random), value(random)])),
        "ARGET" => words.push(index(random)),
        "ARSEEK" => words.push(index(random)),
        "ARMGET" | "ARDEL" => words.extend((0..some).map(|_| index(random))),
        "ARDELRANGE" => {
            // Seldom nearly everything.
            let (low, high) = (random.below(60), random.below(60));
            words.extend([low, high].map(|end| end.to_string().into_bytes()));
            if random.one_in(20) {
                words[3] = index(random);
            }
        }
        "ARGETRANGE" => {
            let start = random.below(60);
            words.push(start.to_string().into_bytes());
            words.push((start.saturating_sub(20) + random.below(60)).to_string().into_bytes());
            if random.one_in(12) {
                words[3] = index(random);
                words[2] = if random.one_in(2) { index(random) } else { words[3].clone() };
            }
        }
        "ARINSERT" => words.extend((0..some).map(|_| value(random))),
        "ARRING" => {
            words.push(random.pick(&["1", "3", "7", "20", "20", "40", "5000", "0", "-1", "x"]).as_bytes().to_vec());
            words.extend((0..some).map(|_| value(random)));
        }
        "ARLASTITEMS" => {
            words.push(random.pick(&["1", "3", "10", "1000", "0", "-1", "x"]).as_bytes().to_vec());
            if random.one_in(3) {
                words.push(random.pick(&["REV", "rev", "REV", "nope"]).as_bytes().to_vec());
            }
        }
        "ARSCAN" => {
            words.extend([index(random), index(random)]);
            limit(random, &mut words);
        }
        "ARGREP" => {
            for end in ["-", "+"] {
                words.push(if random.one_in(2) { end.as_bytes().to_vec() } else { index(random) });
            }
            for _ in 0..some {
                let kind = *random.pick(&["EXACT", "MATCH", "GLOB", "RE", "exact"]);
                words.push(kind.as_bytes().to_vec());
                words.push(match kind {
                    "RE" => random.pick(&EXPRESSIONS).as_bytes().to_vec(),
                    "GLOB" => random.pick(&["a*", "*e", "?????", "[bg]*", "*", "1*", "A*E"]).as_bytes().to_vec(),
                    "MATCH" => random.pick(&["a", "an", "1", ".", "", "P"]).as_bytes().to_vec(),
                    _ => value(random),
                });
            }
            for word in ["AND", "OR", "WITHVALUES", "NOCASE", "nope"] {
                if random.one_in(if word == "nope" { 30 } else { 4 }) {
                    words.push(word.as_bytes().to_vec());
                }
            }
            limit(random, &mut words);
        }
        "AROP" => {
            words.extend([index(random), index(random)]);
            let operations = ["SUM", "MIN", "MAX", "AND", "OR", "XOR", "USED", "MATCH", "sum", "NOPE"];
            let operation = *random.pick(&operations);
            words.push(operation.as_bytes().to_vec());
            if operation == "MATCH" || random.one_in(20) {
                words.push(value(random));
            }
        }
        // Of the structure only what is the same for all: the answer for what is not there.
        "ARINFO" => words[1] = b"none".to_vec(),
        "OTHER" => {
            let key = String::from_utf8_lossy(&words[1]).into_owned();
            let lines = [
                format!("TYPE {key}"),
                format!("EXISTS {key}"),
                format!("COPY {key} a3 REPLACE"),
                format!("RENAME {key} a2"),
                format!("OBJECT ENCODING {key}"),
                format!("EXPIRE {key} 100000"),
                format!("PERSIST {key}"),
                "SET s1 text".into(),
                "HSET h1 f v".into(),
                format!("GET {key}"),
                format!("DEL {key}"),
            ];
            return random.pick(&lines).split(' ').map(|word| word.as_bytes().to_vec()).collect();
        }
        _ => {}
    }
    words
}
