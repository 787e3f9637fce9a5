//! The limit of the process, for databases without a limit of their own: a command that would exceed it is refused
//! before it takes anything, whatever makes it large.

#[allow(dead_code, reason = "another test needs the rest")]
mod bench;

use bench::Bench;
use dormouse_shard::memory::MEMORY;

const MIB: usize = 1 << 20;
const TOTAL: usize = 1 << 40;
const LEFT: usize = 24 * MIB;

/// Returns this many bytes, compressed as far as RDB's compression goes.
fn compressed(len: usize) -> Vec<u8> {
    let references = (len - 1) / 264;
    let mut bytes = vec![0, b'a'];
    (0..references).for_each(|_| bytes.extend([0xe0, 0xff, 0]));
    let mut payload = vec![0, 0xc3, 0x80];
    payload.extend((bytes.len() as u32).to_be_bytes());
    payload.push(0x80);
    payload.extend((1 + references as u32 * 264).to_be_bytes());
    payload.extend(bytes);
    payload.extend([11, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    payload
}

/// A single test, since the limit is that of the process.
#[test]
fn what_would_exceed_the_limit_is_refused_before_it_takes_anything() {
    let bench = Bench::new();
    // The text fills its room, so it has to be moved to become longer.
    bench.line(&format!("SETRANGE text {} x", 32 * MIB - 1));
    assert_eq!(bench.line("STRLEN text"), format!(":{}\r\n", 32 * MIB));
    for n in 0..60 {
        let members: Vec<String> = (0..1000).map(|m| format!("{n}:{m}:{}", "x".repeat(600))).collect();
        bench.line(&format!("SADD set {}", members.join(" ")));
        let scored: Vec<String> = members.iter().map(|member| format!("{n} {member}")).collect();
        bench.line(&format!("ZADD sorted {}", scored.join(" ")));
    }
    (0..16_000).for_each(|_| drop(bench.line("XADD stream * f v")));
    bench.line("XGROUP CREATE stream group 0");
    let before = bench.database.used_bytes();
    let payload = compressed(48 * MIB);
    let restore: &[&[u8]] = &[b"RESTORE", b"d", b"0", &payload];
    MEMORY.measured(LEFT.cast_signed(), TOTAL, TOTAL);
    for line in [
        "SETBIT d 4294967295 1",
        "SETBIT text 4294967295 1",
        "SETRANGE d 400000000 x",
        "SETRANGE text 33554432 x",
        "BITFIELD d SET u8 4000000000 1",
        "BITFIELD text SET u8 #33554432 1",
        "APPEND text x",
        "BITOP NOT d text",
        "COPY text d",
        "COPY set d",
        "SUNIONSTORE d set",
        "SINTERSTORE d set set",
        "SDIFFSTORE d set none",
        "ZUNIONSTORE d 1 sorted",
        "ZINTERSTORE d 1 sorted",
        "ZDIFFSTORE d 1 sorted",
        "ZRANGESTORE d sorted 0 -1",
    ] {
        let reply = bench.line(line);
        assert!(reply.contains("'maxmemory-total'"), "{line}: {reply}");
    }
    let reply = bench.run(&[(0, restore)]);
    assert!(reply.contains("'maxmemory-total'"), "RESTORE: {reply}");
    // All entries would become pending, in memory of their own.
    MEMORY.measured(MIB.cast_signed(), TOTAL, TOTAL);
    let reply = bench.line("XREADGROUP GROUP group consumer STREAMS stream >");
    assert!(reply.contains("'maxmemory-total'"), "XREADGROUP: {}", &reply[..reply.len().min(80)]);
    MEMORY.measured(LEFT.cast_signed(), TOTAL, TOTAL);
    // The commands of this transaction see different indexes: index 1 does not have the text.
    let reply = bench.run(&[(0, &[b"GET", b"none"]), (1, &[b"SETRANGE", b"text", b"33554431", b"x"])]);
    assert!(reply.contains("'maxmemory-total'"), "EXEC: {reply}");
    // Each of these fits, but not all together.
    let sets: Vec<String> = (0..4).map(|n| format!("d{n}")).collect();
    let several: Vec<(u8, [&[u8]; 4])> =
        sets.iter().map(|key| (0, [b"SETRANGE".as_slice(), key.as_bytes(), b"10000000", b"x"])).collect();
    let several: Vec<(u8, &[&[u8]])> = several.iter().map(|(select, args)| (*select, &args[..])).collect();
    let reply = bench.run(&several);
    assert!(reply.contains("'maxmemory-total'"), "EXEC: {reply}");
    // The size of a value that a transaction makes and then copies is unknown before it runs.
    let reply = bench.run(&[
        (0, &[b"SETRANGE", b"d", b"10000000", b"x"]),
        (0, &[b"COPY", b"d", b"e"]),
        (0, &[b"COPY", b"d", b"f"]),
        (0, &[b"DEL", b"d", b"e", b"f"]),
    ]);
    assert!(reply.starts_with(":10000001\r\n:1\r\n-OOM"), "EXEC: {reply}");
    let grown = bench.database.used_bytes().saturating_sub(before);
    assert!(grown < MIB, "{grown} bytes were taken all the same");
    // Nothing stays reserved after the thread that ran the last command has let the locks go.
    MEMORY.measured(LEFT.cast_signed(), TOTAL, TOTAL);
    while MEMORY.is_exceeded_by(LEFT) {
        std::thread::yield_now();
        MEMORY.measured(LEFT.cast_signed(), TOTAL, TOTAL);
    }
    assert_eq!(bench.line("SETRANGE d 10000000 x"), ":10000001\r\n");
    assert_eq!(bench.line("APPEND d x"), ":10000002\r\n", "there is room in the string itself");
    assert_eq!(bench.line("ZRANGESTORE e sorted 0 9"), ":10\r\n");
}
