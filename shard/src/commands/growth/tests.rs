use fastrand::Rng;

use super::*;
use crate::commands::find;
use crate::commands::testing::Bench;
use dormouse_protocol::OwnedRequest;
use dormouse_types::record::Entry;

/// The bytes of all records.
fn held(bench: &mut Bench) -> usize {
    let mut bytes = 0;
    bench.keyspace().for_each(|record| bytes += record.heap_bytes());
    bytes
}

/// The bytes that a line adds, as its row declares them before it runs, and as they are.
fn declared_and_added(bench: &mut Bench, line: &str) -> (usize, usize) {
    let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    let request = OwnedRequest::from_args(&args);
    let (row, _) = find(request.as_request()).expect("a command");
    let declared = needs(&bench.keyspace(), row, request.as_request()).adds;
    let before = held(bench);
    bench.run_args(&args);
    (declared, held(bench).saturating_sub(before))
}

/// A random command of a family.
fn line(r: &mut Rng, family: usize) -> String {
    let k = r.u32(..3);
    let number = r.i32(-1000..1000);
    let text = "x".repeat(if r.u32(..8) == 0 { 300 } else { r.usize(..20) });
    let item = r.u32(..5000);
    match family {
        0 => match r.u32(..12) {
            0 => format!("JSON.SET j{k} $ {{\"a\":[{number},\"{text}\"],\"b\":{{\"a\":{number}}}}}"),
            1 => format!("JSON.SET j{k} $.m{} {number}", item % 30),
            2 => format!("JSON.SET j{k} $.a \"{text}\""),
            3 => format!("JSON.SET j{k} $.m{} {{\"a\":{number}}}", item % 30),
            4 => format!("JSON.NUMINCRBY j{k} $.m{} {number}000000", item % 30),
            5 => format!("JSON.STRAPPEND j{k} $.b.a \"{text}\""),
            6 => format!("JSON.ARRAPPEND j{k} $.a {number} \"{text}\""),
            7 => format!("JSON.ARRINSERT j{k} $.a 0 {number}"),
            8 => format!("JSON.MERGE j{k} $ {{\"m{}\":\"{text}\"}}", item % 30),
            9 => format!("JSON.MSET j{k} $.n{} {number} j{} $ {{\"q\":\"{text}\"}}", item % 9, (k + 1) % 3),
            10 => format!("JSON.MERGE j{k} $.b {{\"m{}\":[1.5,2.25,\"{text}\"]}}", item % 30),
            _ => format!("JSON.DEL j{k} $.m{}", item % 30),
        },
        1 => match r.u32(..8) {
            0 => format!("BF.ADD b{k} {item}"),
            1 => format!("BF.MADD b{k} {item} {} {}", item + 1, item + 2),
            2 => format!("BF.INSERT c{k} CAPACITY 10 ERROR 0.0000001 ITEMS {item} {}", item + 3),
            3 => format!("BF.INSERT d{k} CAPACITY 1 EXPANSION 1 ITEMS {item}"),
            4 => format!("BF.RESERVE e{item} 0.01 {}", r.u32(1..2000)),
            5 => format!("BF.INSERT f{k} CAPACITY 4 EXPANSION 16 ITEMS {item}"),
            _ => format!("BF.ADD b{k} {item}"),
        },
        2 => match r.u32(..8) {
            0 => format!("CF.ADD b{k} {}", item % 20),
            1 => format!("CF.ADDNX b{k} {item}"),
            2 => format!("CF.INSERT c{k} CAPACITY 8 ITEMS {item} {}", item + 3),
            3 => format!("CF.RESERVE e{item} {}", r.u32(4..2000)),
            4 => format!("CF.RESERVE g{k} 8 EXPANSION 32"),
            5 => format!("CF.ADD g{k} {item}"),
            6 => format!("CF.INSERTNX d{k} CAPACITY 64 ITEMS {item} {} {}", item + 3, item + 4),
            _ => format!("CF.DEL b{k} {item}"),
        },
        3 => match r.u32(..8) {
            0..4 => format!("VADD v{k} VALUES 2 {} {} n{} NOQUANT M 4", r.u32(1..50), r.u32(1..50), item % 400),
            4 => format!(
                "VADD w{k} VALUES 3 {} {} 1 n{} SETATTR {{\"a\":\"{text}\"}}",
                r.u32(1..50),
                r.u32(1..50),
                item % 400
            ),
            5 => format!("VADD u{k} REDUCE 2 VALUES 3 {} {} 1 n{} BIN M 100", r.u32(1..50), r.u32(1..50), item % 400),
            6 => format!("VSETATTR v{k} n{} {{\"a\":\"{text}\"}}", item % 400),
            _ => format!("VREM v{k} n{}", item % 400),
        },
        4 => match r.u32(..7) {
            0 => format!("ARSET a{k} {} {text}", item),
            1 => format!("ARSET a{k} {} {number} {text} {number}", item * 64),
            2 => format!("ARMSET a{k} {} {number} {} {text}", item * 4096, item + 64),
            3 => format!("ARINSERT a{k} {text} {number}"),
            4 => format!("ARSET b{k} {} 1", item % 4096),
            5 => format!("ARRING r{k} {} {text} 1", 1 + item % 100),
            _ => format!("ARDEL a{k} {}", item),
        },
        _ => match r.u32(..6) {
            0 => format!("MSETEX 2 s{k} {text} s{item} {number} EX 100"),
            1 => format!("RPUSH l{k} {text} {number}"),
            2 => format!("LMOVEM l{k} l{} LEFT RIGHT EXACTLY {}", (k + 1) % 3, 1 + item % 5),
            3 => format!("LMOVEM l{k} m{item} LEFT RIGHT EXACTLY {}", 1 + item % 5),
            4 => format!("LMOVEM l{k} m{item} LEFT RIGHT COUNT {}", 1 + item % 50),
            _ => format!("MSETEX 1 s{item} {text}"),
        },
    }
}

/// The commands of a family, how many bytes one of them may add beyond those that it declares, and how many it may declare that
/// it does not add: a value that is given may be there already, and tables grow in steps.
const FAMILIES: [(&str, usize, usize); 6] = [
    ("documents", 64, 900),
    ("Bloom filters", 0, 2_400),
    ("Cuckoo filters", 0, 2_400),
    ("vector sets", 64, 1_200),
    ("arrays", 700, 3_000),
    ("lists and texts", 512, 500),
];

/// A command declares about as much as it adds: less would exceed a limit, and much more would be refused without a reason.
#[test]
fn declared_growth_is_about_what_is_added() {
    for (family, (name, beyond, unused)) in FAMILIES.into_iter().enumerate() {
        for seed in 0..20 {
            let mut bench = Bench::new();
            let mut random = Rng::with_seed(seed);
            for _ in 0..400 {
                let line = line(&mut random, family);
                let (declared, added) = declared_and_added(&mut bench, &line);
                assert!(added <= declared + beyond, "{name}: {line}: {added} bytes, of which {declared} were declared");
                assert!(declared <= added + unused, "{name}: {line}: {declared} bytes were declared for {added}");
            }
        }
    }
}

/// A request of few vectors fits into a small limit, whatever the size of its set.
#[test]
fn a_vector_declares_no_room_that_its_set_has() {
    let mut bench = Bench::new();
    for at in 0..2_000 {
        let (declared, _) = declared_and_added(&mut bench, &format!("VADD v VALUES 2 {at} 1 n{at} EF 1 M 4"));
        bench.run(&format!("VADD v VALUES 2 {at} 2 n{at} EF 1 M 4"));
        // The chunk of a larger set grows by a quarter.
        assert!(declared < 1_500 || declared < 64 * at && at > 60, "{declared} bytes for vector {at}");
    }
}

/// The layer that an item needs is not declared with the next one, which may be many times as large.
#[test]
fn an_item_declares_one_layer() {
    let mut bench = Bench::new();
    bench.run("CF.RESERVE c 1024 EXPANSION 1024");
    // More than half of the slots, each of which was free.
    for item in 0..600 {
        let line = format!("CF.ADD c {item}");
        if bench.growth(&line) == 0 {
            bench.run(&line);
        }
    }
    let mut declared = 0;
    while declared < 1 << 10 {
        (declared, _) = declared_and_added(&mut bench, "CF.ADD c same");
    }
    assert!((1 << 20..2 << 20).contains(&declared), "{declared} bytes");
}

/// A path that leads to several values adds to each of them.
#[test]
fn several_values_of_a_document_declare_their_growth() {
    let text = "x".repeat(200);
    let members: Vec<String> = (0..40).map(|n| format!("\"m{n}\":{{\"a\":[],\"t\":\"\"}}")).collect();
    for line in [
        format!("JSON.ARRAPPEND j $..a \"{text}\""),
        format!("JSON.ARRINSERT j $.*.a 0 \"{text}\""),
        format!("JSON.STRAPPEND j $..t \"{text}\""),
        format!("JSON.SET j $..t \"{text}\""),
        format!("JSON.MERGE j $.* {{\"new\":\"{text}\"}}"),
        format!("JSON.MSET j $..t \"{text}\""),
        format!("JSON.SET j $..['a','t'] \"{text}\""),
    ] {
        let mut bench = Bench::new();
        bench.run_args(&[b"JSON.SET", b"j", b"$", format!("{{{}}}", members.join(",")).as_bytes()]);
        let (declared, added) = declared_and_added(&mut bench, &line);
        assert!(added > 8_000 && added <= declared + 64, "{line}: {added} bytes, of which {declared} were declared");
        assert!(declared <= added + added / 2, "{line}: {declared} bytes were declared for {added}");
    }
}
