use dormouse_types::Limits;

use crate::commands::testing::{Bench, check, check_effects};

const WRONGTYPE: &str = "(error) WRONGTYPE Operation against a key holding the wrong kind of value";
const NOT_ONE: &str = "(error) WRONGTYPE Key is not a valid HyperLogLog string value.";
const CORRUPTED: &str = "(error) INVALIDOBJ Corrupted HLL object detected";

#[test]
fn elements_are_added_counted_and_merged() {
    check(&[
        ("PFADD h a b c", "1"),
        ("PFADD h a c", "0"),
        ("PFCOUNT h", "3"),
        ("PFDEBUG DECODE h", "Z:8436 v:1,1 Z:4274 v:2,1 Z:3068 v:1,1 Z:603"),
        ("PFADD new", "1"),
        ("PFADD new", "0"),
        ("PFCOUNT new", "0"),
        ("OBJECT ENCODING new", "raw"),
        ("PFADD other c d", "1"),
        ("PFCOUNT h other none", "4"),
        ("PFCOUNT none", "0"),
        ("EXISTS none", "0"),
        ("PFMERGE merged h other none", "OK"),
        ("PFCOUNT merged", "4"),
        ("PFMERGE h", "OK"),
        ("PFCOUNT h", "3"),
        ("PFDEBUG ENCODING merged", "sparse"),
        ("PFDEBUG TODENSE other", "1"),
        ("PFDEBUG TODENSE other", "0"),
        ("PFDEBUG ENCODING other", "dense"),
        ("PFCOUNT other", "2"),
        ("PFADD other e", "1"),
        ("PFCOUNT h other", "5"),
        ("PFMERGE merged other", "OK"),
        ("PFDEBUG ENCODING merged", "dense"),
        ("PFCOUNT merged", "5"),
        ("PFDEBUG DECODE merged", "(error) ERR HLL encoding is not sparse"),
        ("PFDEBUG FOO h", "(error) ERR Unknown PFDEBUG subcommand 'FOO'"),
        ("PFDEBUG FOO none", "(error) ERR The specified key does not exist"),
        ("PFSELFTEST", "OK"),
    ]);
}

#[test]
fn a_value_becomes_dense_at_its_limit() {
    let mut bench = Bench::with_limits(Limits { hll_sparse_max_bytes: 30, seed: 7, ..Limits::REDIS });
    for (command, reply) in [
        ("PFADD h a b", "1"),
        ("PFDEBUG ENCODING h", "sparse"),
        ("PFADD h c d e", "1"),
        ("PFDEBUG ENCODING h", "dense"),
        ("PFCOUNT h", "5"),
    ] {
        assert_eq!(bench.run(command), reply, "{command}");
    }
}

#[test]
fn other_values_are_refused() {
    const BROKEN: &str = "\"HYLL\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x80\\x7f\\xfe\"";
    const CACHED: &str = "\"HYLL\\x01\\x00\\x00\\x00\\x05\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x7f\\xff\"";
    check(&[
        ("RPUSH list a", "1"),
        ("PFADD list a", WRONGTYPE),
        ("PFCOUNT list", WRONGTYPE),
        ("PFMERGE h list", WRONGTYPE),
        ("PFDEBUG ENCODING list", WRONGTYPE),
        ("MSET text foobar number 12 empty \"\" short HYLL", "OK"),
        ("PFADD text a", NOT_ONE),
        ("PFADD number a", NOT_ONE),
        ("PFADD empty a", NOT_ONE),
        ("PFADD short a", NOT_ONE),
        ("PFCOUNT none text", NOT_ONE),
        ("PFCOUNT number", NOT_ONE),
        ("PFMERGE text none", NOT_ONE),
        ("EXISTS h", "0"),
        (&format!("SET broken {BROKEN}"), "OK"),
        ("PFADD broken a", CORRUPTED),
        ("PFCOUNT broken", CORRUPTED),
        ("PFMERGE h broken", CORRUPTED),
        ("PFDEBUG TODENSE broken", CORRUPTED),
        (&format!("SET cached {CACHED}"), "OK"),
        ("PFCOUNT cached", "5"),
        ("PFCOUNT cached none", "0"),
        ("PFADD cached", "0"),
        ("PFCOUNT cached", "5"),
        ("PFADD cached a", "1"),
        ("PFCOUNT cached", "1"),
    ]);
}

/// The counts of Redis for the numbers from 1 on.
#[test]
fn estimates_are_those_of_redis() {
    let mut bench = Bench::new();
    let mut next = 1;
    for (number, estimate) in ESTIMATES {
        while next <= *number {
            bench.run(&format!("PFADD h {next}"));
            next += 1;
        }
        assert_eq!(bench.run("PFCOUNT h"), estimate.to_string(), "of {number}");
    }
}

const ESTIMATES: &[(u32, u32)] = &[
    (1, 1),
    (2, 2),
    (10, 10),
    (100, 100),
    (500, 503),
    (1000, 1001),
    (1500, 1512),
    (2000, 2006),
    (5000, 4985),
    (10000, 9988),
    (20000, 19891),
    (50000, 50353),
];

#[test]
fn effects_make_the_same_data() {
    let mut commands: Vec<Vec<Vec<u8>>> = Vec::new();
    let mut run = |line: &str| commands.push(line.split(' ').map(|word| word.as_bytes().to_vec()).collect());
    for number in 0..2000 {
        run(&format!("PFADD h {number} {}", number * 7));
        if number % 500 == 0 {
            run(&format!("PFMERGE m:{number} h none"));
            run("PFADD m:0 x");
        }
    }
    run("PFDEBUG TODENSE m:0");
    run("PFCOUNT h m:0");
    run("PFMERGE h m:0");
    check_effects(&commands);
}
