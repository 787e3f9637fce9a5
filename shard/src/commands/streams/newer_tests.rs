//! Tests of the commands and options that Redis 8 has added to streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dormouse_types::Limits;
use parking_lot::Mutex;

use crate::keyspace::changes::KeyEvent;

use super::super::testing::{Bench, check, check_effects, check_effects_of, check_effects_with, check_resp3};

const NO_ID: &str = "(error) ERR Invalid stream ID specified as stream command argument";
const WRONG_TYPE: &str = "(error) WRONGTYPE Operation against a key holding the wrong kind of value";

#[test]
fn a_message_is_added_once() {
    let only_made = "(error) ERR syntax error, IDMP/IDMPAUTO can be used only with auto-generated IDs";
    let twice = "(error) ERR syntax error, IDMP/IDMPAUTO specified multiple times";
    check(&[
        ("XADD s IDMP p i 1-1 f v", only_made),
        ("XADD s IDMP p i 5-* f v", only_made),
        ("XADD s IDMP p i LIMIT 5 1-1 f v", only_made),
        ("XADD s IDMP \"\" i * f v", "(error) ERR syntax error, IDMP requires a non-empty producer ID"),
        ("XADD s IDMP p \"\" * f v", "(error) ERR syntax error, IDMP requires a non-empty idempotent ID"),
        ("XADD s IDMPAUTO \"\" * f v", "(error) ERR syntax error, IDMPAUTO requires a non-empty producer ID"),
        ("XADD s IDMP p i IDMPAUTO q * f v", twice),
        ("XADD s IDMP p i IDMP p j * f v", twice),
        ("XADD s IDMP p * f v", NO_ID),
        ("XADD s IDMP p i x f v", NO_ID),
        ("XADD s IDMP p i * f", "(error) ERR wrong number of arguments for 'xadd' command"),
        ("XADD s NOMKSTREAM IDMP p i * f v", "nil"),
        ("EXISTS s", "0"),
        ("XADD s IDMP p i * f v", "1700000000000-0"),
        ("XADD s IDMP p i * other fields", "1700000000000-0"),
        ("XADD s IDMP q i * f v", "1700000000000-1"),
        ("XADD s IDMP p j MAXLEN 1 * f v", "1700000000000-2"),
        ("XADD s IDMP p j MAXLEN 0 * f v", "1700000000000-2"),
        ("XRANGE s - +", "[[1700000000000-2 [f v]]]"),
        ("XDEL s 1700000000000-2", "1"),
        ("XADD s nomkstream keepref idmp p j * f v", "1700000000000-2"),
        ("XADD s IDMPAUTO p * a 1 b 2", "1700000000000-3"),
        ("XADD s IDMPAUTO p * b 2 a 1", "1700000000000-3"),
        ("XADD s IDMPAUTO p * a 2 b 1", "1700000000000-4"),
        ("XADD s IDMPAUTO q * a 1 b 2", "1700000000000-5"),
        ("COPY s t", "1"),
        ("RENAME s u", "OK"),
        ("XADD t IDMP p i * f v", "1700000000000-0"),
        ("XADD u IDMP p i * f v", "1700000000000-0"),
        ("XLEN u", "3"),
        (
            "XINFO STREAM u",
            "[length 3 radix-tree-keys 1 radix-tree-nodes 2 last-generated-id 1700000000000-5 max-deleted-entry-id \
             1700000000000-2 entries-added 6 recorded-first-entry-id 1700000000000-3 idmp-duration 100 idmp-maxsize 100 \
             pids-tracked 2 iids-tracked 6 iids-added 6 iids-duplicates 5 groups 0 first-entry [1700000000000-3 [a 1 b 2]] \
             last-entry [1700000000000-5 [a 1 b 2]]]",
        ),
        ("XADD v 18446744073709551615-18446744073709551615 f v", "18446744073709551615-18446744073709551615"),
        (
            "XADD v IDMP p i * f v",
            "(error) ERR The stream has exhausted the last possible ID, unable to add more items",
        ),
        ("SET string v", "OK"),
        ("XADD string IDMP p i * f v", WRONG_TYPE),
    ]);
}

#[test]
fn messages_are_remembered_for_a_time() {
    let mut bench = Bench::new();
    let first = bench.run("XADD s IDMP p i * f 1");
    bench.now_ms += 99_999;
    assert_eq!(bench.run("XADD s IDMP p i * f 1"), first);
    bench.now_ms += 1;
    let second = bench.run("XADD s IDMP p i * f 2");
    assert_ne!(second, first);
    assert_eq!(bench.run("XCFGSET s IDMP-DURATION 1 IDMP-MAXSIZE 2"), "OK");
    for n in 0..3 {
        bench.run(&format!("XADD s IDMP p {n} * f v"));
    }
    let len = bench.run("XLEN s");
    for n in 1..3 {
        bench.run(&format!("XADD s IDMP p {n} * f v"));
    }
    assert_eq!(bench.run("XLEN s"), len, "the last two are known");
    bench.run("XADD s IDMP p 0 * f v");
    assert_ne!(bench.run("XLEN s"), len, "the one before is not");
    let shown =
        |bench: &mut Bench| bench.run("XINFO STREAM s").split(' ').skip(15).take(12).collect::<Vec<_>>().join(" ");
    assert!(shown(&mut bench).contains("pids-tracked 1 iids-tracked 2 iids-added 6 iids-duplicates 3"));
    bench.now_ms += 1000;
    assert!(shown(&mut bench).contains("pids-tracked 0 iids-tracked 0 iids-added 6 iids-duplicates 3"));
}

/// As in Redis, only its replicas and its log learn of it.
#[test]
fn no_client_learns_of_a_message_that_is_sent_again() {
    let mut bench = Bench::new();
    let heard = Arc::<Mutex<Vec<&str>>>::default();
    let events = Arc::clone(&heard);
    let listen = move |event: KeyEvent, _: u8, _: &[u8]| events.lock().push(event.name);
    assert!(bench.shared.listener.set(Box::new(listen)).is_ok());
    bench.run("XADD s IDMP p i * f v");
    let touched = Arc::new(AtomicBool::new(false));
    bench.shared.watches.add(0, b"s", &touched);
    bench.run("XADD s NOMKSTREAM IDMP p i MAXLEN 0 * f v");
    assert!(!touched.load(Ordering::Relaxed), "a transaction that watches the stream goes on");
    assert!(bench.run("XINFO STREAM s").contains("iids-duplicates 1"));
    assert_eq!(*heard.lock(), ["new", "xadd"]);
}

#[test]
fn a_stream_has_settings_for_messages() {
    check(&[
        ("XCFGSET none IDMP-DURATION x", "(error) ERR no such key"),
        ("XADD s * f v", "1700000000000-0"),
        ("XCFGSET s", "(error) ERR At least one parameter must be specified"),
        ("XCFGSET s IDMP-DURATION", "(error) ERR syntax error"),
        ("XCFGSET s FOO 1", "(error) ERR syntax error"),
        ("XCFGSET s IDMP-DURATION 0", "(error) ERR IDMP-DURATION must be between 1 and 86400 seconds"),
        ("XCFGSET s IDMP-DURATION 86401", "(error) ERR IDMP-DURATION must be between 1 and 86400 seconds"),
        ("XCFGSET s IDMP-MAXSIZE 0", "(error) ERR IDMP-MAXSIZE must be between 1 and 10000 entries"),
        ("XCFGSET s IDMP-MAXSIZE 10001", "(error) ERR IDMP-MAXSIZE must be between 1 and 10000 entries"),
        ("XCFGSET s IDMP-DURATION 5 IDMP-DURATION 5", "(error) ERR IDMP-DURATION specified multiple times"),
        ("XCFGSET s IDMP-DURATION x", "(error) ERR value is not an integer or out of range"),
        ("XADD s IDMP p i * f v", "1700000000000-1"),
        ("XCFGSET s idmp-duration 100 IDMP-MAXSIZE 100", "OK"),
        ("XADD s IDMP p i * f v", "1700000000000-1"),
        ("XCFGSET s IDMP-MAXSIZE 3", "OK"),
        ("XADD s IDMP p i * f v", "1700000000000-2"),
        ("XIDMPRECORD s p i 1700000000000-2", "OK"),
        (
            "XIDMPRECORD s p i 1700000000000-1",
            "(error) ERR IID already exists for this producer with a different stream ID",
        ),
        ("XIDMPRECORD s p j 9-9", "(error) ERR No such message in stream"),
        ("XIDMPRECORD s p j 1700000000000-1", "OK"),
        ("XIDMPRECORD s q j 1700000000000-1", "OK"),
        ("XADD s IDMP p j * f v", "1700000000000-1"),
        ("XADD s IDMP q j * f v", "1700000000000-1"),
        ("XIDMPRECORD s \"\" j 1-1", "(error) ERR producer ID must be non-empty"),
        ("XIDMPRECORD s p \"\" 1-1", "(error) ERR idempotent ID must be non-empty"),
        ("XIDMPRECORD s p j x", NO_ID),
        ("XIDMPRECORD none p j 1-1", "(error) ERR no such key"),
        ("SET string v", "OK"),
        ("XCFGSET string x y", WRONG_TYPE),
        ("XIDMPRECORD string p j 1-1", WRONG_TYPE),
    ]);
    let mut bench = Bench::with_limits(Limits { stream_idmp_duration_s: 7, stream_idmp_maxsize: 9, ..Limits::REDIS });
    for line in ["XADD s * f v", "XGROUP CREATE t g $ MKSTREAM", "XADD s * f v"] {
        bench.run(line);
    }
    for key in ["s", "t"] {
        assert!(bench.run(&format!("XINFO STREAM {key}")).contains("idmp-duration 7 idmp-maxsize 9"), "{key}");
    }
}

#[test]
fn references_are_minded() {
    check(&[
        ("XADD s 1-0 f 1", "1-0"),
        ("XADD s 2-0 f 2", "2-0"),
        ("XADD s 3-0 f 3", "3-0"),
        ("XADD s 4-0 f 4", "4-0"),
        ("XADD s 5-0 f 5", "5-0"),
        ("XDELEX s ACKED IDS 2 1-0 9-9", "[1 -1]"),
        ("XGROUP CREATE s g 0", "OK"),
        ("XGROUP CREATE s h 0", "OK"),
        ("XDELEX s ACKED IDS 2 1-0 9-9", "[2 2]"),
        ("XREADGROUP GROUP g a COUNT 3 STREAMS s >", "[[s [[2-0 [f 2]] [3-0 [f 3]] [4-0 [f 4]]]]]"),
        ("XREADGROUP GROUP h b COUNT 2 STREAMS s >", "[[s [[2-0 [f 2]] [3-0 [f 3]]]]]"),
        ("XACK s g 2-0", "1"),
        ("XACK s h 2-0", "1"),
        ("XDELEX s IDS 1 2-0 ACKED", "[1]"),
        ("XDELEX s ACKED IDS 2 2-0 3-0", "[-1 2]"),
        ("XDELEX s DELREF IDS 1 3-0", "[1]"),
        ("XPENDING s g - + 10", "[[4-0 a 0 1]]"),
        ("XDELEX s IDS 0", "(error) ERR wrong number of arguments for 'xdelex' command"),
        ("XDELEX s IDS 0 1-1", "(error) ERR Number of IDs must be a positive integer"),
        ("XDELEX s IDS x 1-1", "(error) ERR Number of IDs must be a positive integer"),
        ("XDELEX s IDS 3 1-1", "(error) ERR The `numids` parameter must match the number of arguments"),
        ("XDELEX s IDS 1 1-1 2-2", "(error) ERR syntax error"),
        ("XDELEX s KEEPREF ACKED IDS 1 1-1", "(error) ERR syntax error"),
        ("XDELEX s FOO IDS 1 1-1", "(error) ERR syntax error"),
        ("XDELEX s KEEPREF IDS", "(error) ERR wrong number of arguments for 'xdelex' command"),
        ("XDELEX s IDS 1 x", NO_ID),
        ("XDELEX none IDS 2 x y", "[-1 -1]"),
        ("XADD s 6-0 f 6", "6-0"),
        ("XREADGROUP GROUP g a STREAMS s >", "[[s [[5-0 [f 5]] [6-0 [f 6]]]]]"),
        ("XREADGROUP GROUP h b STREAMS s >", "[[s [[4-0 [f 4]] [5-0 [f 5]] [6-0 [f 6]]]]]"),
        ("XACKDEL s g ACKED IDS 2 4-0 9-9", "[2 -1]"),
        ("XACKDEL s h ACKED IDS 2 4-0 4-0", "[1 -1]"),
        ("XACKDEL s g IDS 1 5-0", "[1]"),
        ("XACKDEL s h IDS 1 5-0", "[1]"),
        ("XACKDEL s g DELREF IDS 1 6-0", "[1]"),
        ("XPENDING s h", "[0 nil nil nil]"),
        ("XACKDEL none g IDS 1 x", "[-1]"),
        ("XACKDEL s none IDS 2 x y", "[-1 -1]"),
        ("XACKDEL s g IDS 1 x", NO_ID),
        ("XACKDEL s g IDS 2 1-1", "(error) ERR The `numids` parameter must match the number of arguments"),
        ("XACKDEL s g FOO IDS 1 1-0", "(error) ERR syntax error"),
        ("XRANGE s - +", "[]"),
        ("SET string v", "OK"),
        ("XDELEX string FOO BAR BAZ", WRONG_TYPE),
        ("XACKDEL string g FOO BAR BAZ", WRONG_TYPE),
    ]);
    check(&[
        ("XADD s 1-0 f 1", "1-0"),
        ("XADD s 2-0 f 2", "2-0"),
        ("XADD s 3-0 f 3", "3-0"),
        ("XADD s 4-0 f 4", "4-0"),
        ("XADD s 5-0 f 5", "5-0"),
        ("XTRIM s ACKED MAXLEN 4", "1"),
        ("XGROUP CREATE s g 0", "OK"),
        ("XREADGROUP GROUP g a COUNT 2 STREAMS s >", "[[s [[2-0 [f 2]] [3-0 [f 3]]]]]"),
        ("XACK s g 3-0", "1"),
        ("XTRIM s MAXLEN 1 ACKED", "1"),
        ("XRANGE s - +", "[[2-0 [f 2]] [4-0 [f 4]] [5-0 [f 5]]]"),
        ("XTRIM s MINID 9 ACKED", "0"),
        ("XTRIM s KEEPREF MAXLEN 1 KEEPREF", "(error) ERR syntax error"),
        ("XTRIM s ACKED MAXLEN ~ 0 LIMIT 5", "0"),
        ("XTRIM s MAXLEN 2 DELREF", "1"),
        ("XPENDING s g", "[0 nil nil nil]"),
        ("XREADGROUP GROUP g a STREAMS s >", "[[s [[4-0 [f 4]] [5-0 [f 5]]]]]"),
        ("XTRIM s MAXLEN 1", "1"),
        ("XADD s DELREF MAXLEN 1 6-0 f 6", "6-0"),
        ("XPENDING s g", "[1 4-0 4-0 [[a 1]]]"),
        ("XADD s KEEPREF KEEPREF 7-0 f 7", NO_ID),
        ("XADD s ACKED MAXLEN 0 7-0 f 7", "7-0"),
        ("XLEN s", "2"),
    ]);
}

#[test]
fn entries_are_released() {
    let mut bench = Bench::new();
    let table = [
        ("XADD s 1-0 f 1", "1-0"),
        ("XADD s 2-0 f 2", "2-0"),
        ("XADD s 3-0 f 3", "3-0"),
        ("XGROUP CREATE s g 0", "OK"),
        ("XREADGROUP GROUP g a STREAMS s >", "[[s [[1-0 [f 1]] [2-0 [f 2]] [3-0 [f 3]]]]]"),
        ("XNACK none g NOPE IDS 1 1-0", "(error) NOGROUP No such key 'none' or consumer group 'g'"),
        ("XNACK s none FAIL IDS 1 1-0", "(error) NOGROUP No such key 's' or consumer group 'none'"),
        ("XNACK s g NOPE IDS 1 1-0", "(error) ERR mode must be SILENT, FAIL, or FATAL"),
        ("XNACK s g FAIL IDS 0 1-0", "(error) ERR numids must be a positive integer"),
        ("XNACK s g FAIL IDS x 1-0", "(error) ERR numids must be a positive integer"),
        ("XNACK s g FAIL IDS 2 1-0", "(error) ERR number of IDs doesn't match numids"),
        ("XNACK s g FAIL IDS 1 1-0 2-0", "(error) ERR Unrecognized XNACK option '2-0'"),
        ("XNACK s g FAIL RETRYCOUNT -1 IDS 1 1-0", "(error) ERR Invalid RETRYCOUNT value, must be >= 0"),
        ("XNACK s g FAIL RETRYCOUNT x IDS 1 1-0", "(error) ERR value is not an integer or out of range"),
        ("XNACK s g FAIL FORCE FORCE FORCE FORCE", "(error) ERR syntax error, expected IDS keyword"),
        ("XNACK s g FAIL IDS 1 x", NO_ID),
        ("XNACK s g SILENT IDS 2 2-0 9-0", "1"),
        ("XNACK s g FATAL IDS 1 1-0", "1"),
        ("XNACK s g FAIL IDS 1 8-0 FORCE", "0"),
        ("XPENDING s g", "[3 1-0 3-0 [[a 1]]]"),
        ("XPENDING s g IDLE 100000 - + 10", "[[1-0 \"\" -1 9223372036854775807] [2-0 \"\" -1 0]]"),
        ("XPENDING s g - + 10 a", "[[3-0 a 0 1]]"),
        (
            "XINFO STREAM s FULL COUNT 2",
            "[length 3 radix-tree-keys 1 radix-tree-nodes 2 last-generated-id 3-0 max-deleted-entry-id 0-0 entries-added 3 \
             recorded-first-entry-id 1-0 idmp-duration 100 idmp-maxsize 100 pids-tracked 0 iids-tracked 0 iids-added 0 \
             iids-duplicates 0 entries [[1-0 [f 1]] [2-0 [f 2]]] groups [[name g last-delivered-id 3-0 entries-read 3 lag 0 \
             pel-count 3 nacked-count 2 pending [[1-0 \"\" 0 9223372036854775807] [2-0 \"\" 0 0]] consumers [[name a seen-time \
             1700000000000 active-time 1700000000000 pel-count 1 pending [[3-0 1700000000000 1]]]]]]]",
        ),
        ("XREADGROUP GROUP g b STREAMS s >", "nil"),
        ("XREADGROUP GROUP g b COUNT 1 CLAIM 100000 STREAMS s >", "[[s [[2-0 [f 2] 1700000000000 0]]]]"),
        ("XCLAIM s g b 100000 1-0", "[[1-0 [f 1]]]"),
        ("XPENDING s g - + 10", "[[1-0 b 0 9223372036854775807] [2-0 b 0 1] [3-0 a 0 1]]"),
        ("XNACK s g FAIL RETRYCOUNT 5 IDS 3 1-0 3-0 1-0", "3"),
        ("XAUTOCLAIM s g c 100000 0", "[0-0 [[1-0 [f 1]] [3-0 [f 3]]] []]"),
        ("XNACK s g SILENT IDS 1 1-0 FORCE", "1"),
        ("XACK s g 1-0", "1"),
        ("XNACK s g SILENT IDS 1 1-0 FORCE", "1"),
        ("XPENDING s g - + 10", "[[1-0 \"\" -1 0] [2-0 b 0 1] [3-0 c 0 6]]"),
        ("XDEL s 1-0", "1"),
        ("XAUTOCLAIM s g c 100000 0", "[0-0 [] [1-0]]"),
        ("XGROUP DELCONSUMER s g c", "1"),
        ("XPENDING s g", "[1 2-0 2-0 [[b 1]]]"),
        ("SET string v", "OK"),
        ("XNACK string g FAIL IDS 1 1-0", WRONG_TYPE),
    ];
    for (line, expected) in table {
        assert_eq!(bench.run(line), expected, "{line}");
    }
}

#[test]
fn entries_that_are_pending_for_long_are_claimed_first() {
    let mut bench = Bench::new();
    let mut run = |at: u64, line: &str, expected: &str| {
        bench.now_ms = 1_700_000_000_000 + at;
        assert_eq!(bench.run(line), expected, "{line}");
    };
    for id in 1..=5 {
        run(0, &format!("XADD s {id} f v"), &format!("{id}-0"));
    }
    run(0, "XGROUP CREATE s g 0", "OK");
    run(0, "XREADGROUP GROUP g a CLAIM -1 STREAMS s >", "(error) ERR min-idle-time must be a positive integer");
    run(0, "XREADGROUP GROUP g a CLAIM x STREAMS s >", "(error) ERR min-idle-time is not an integer or out of range");
    run(0, "XREADGROUP GROUP g a CLAIM STREAMS s >", "(error) ERR min-idle-time is not an integer or out of range");
    let only = "(error) ERR The CLAIM option is only supported by XREADGROUP. You called XREAD instead.";
    run(0, "XREAD CLAIM 1 STREAMS s 0", only);
    run(10, "XREADGROUP GROUP g a CLAIM 100 COUNT 2 STREAMS s >", "[[s [[1-0 [f v] 0 0] [2-0 [f v] 0 0]]]]");
    run(20, "XCLAIM s g a 0 1-0", "[[1-0 [f v]]]");
    run(50, "XREADGROUP GROUP g b COUNT 1 STREAMS s >", "[[s [[3-0 [f v]]]]]");
    run(115, "XREADGROUP GROUP g c CLAIM 100 COUNT 2 STREAMS s >", "[[s [[2-0 [f v] 105 1] [4-0 [f v] 0 0]]]]");
    run(
        150,
        "XREADGROUP GROUP g c CLAIM 100 STREAMS s >",
        "[[s [[1-0 [f v] 130 2] [3-0 [f v] 100 1] [5-0 [f v] 0 0]]]]",
    );
    run(151, "XREADGROUP GROUP g c CLAIM 100 STREAMS s >", "nil");
    run(152, "XREADGROUP GROUP g c CLAIM 100 BLOCK 10 STREAMS s >", "nil");
    run(153, "XREADGROUP GROUP g c CLAIM 100 STREAMS s 4", "[[s [[5-0 [f v]]]]]");
    // Those of one moment are in the order of their deliveries, and one's own are claimed, too.
    run(154, "XCLAIM s g c 0 3-0 1-0 JUSTID", "[3-0 1-0]");
    run(
        154,
        "XREADGROUP GROUP g c CLAIM 0 STREAMS s >",
        "[[s [[2-0 [f v] 39 2] [4-0 [f v] 39 1] [5-0 [f v] 1 2] [3-0 [f v] 0 2] [1-0 [f v] 0 3]]]]",
    );
    run(155, "XDEL s 2-0", "1");
    run(155, "XADD s 6 f v", "6-0");
    run(156, "XREADGROUP GROUP g d CLAIM 0 COUNT 2 NOACK STREAMS s >", "[[s [[4-0 [f v] 2 2] [5-0 [f v] 2 3]]]]");
    run(
        156,
        "XREADGROUP GROUP g d CLAIM 1 NOACK STREAMS s >",
        "[[s [[3-0 [f v] 2 3] [1-0 [f v] 2 4] [6-0 [f v] 0 0]]]]",
    );
    run(157, "XPENDING s g", "[5 1-0 5-0 [[c 1] [d 4]]]");
    run(160, "XADD t 1 f v", "1-0");
    run(160, "XGROUP CREATE t g 0", "OK");
    run(160, "XREADGROUP GROUP g d CLAIM 5 COUNT 1 STREAMS s t > >", "[[t [[1-0 [f v] 0 0]]]]");
    run(170, "XNACK s g FAIL IDS 1 5-0", "1");
    run(
        170,
        "XREADGROUP GROUP g e CLAIM 14 MAXCOUNT 2 STREAMS s t > >",
        "[[s [[5-0 [f v] 1700000000170 4] [4-0 [f v] 14 3]]]]",
    );
    check_resp3(&[
        ("XADD s 1-0 f v", "1-0"),
        ("XGROUP CREATE s g 0", "OK"),
        ("XREADGROUP GROUP g a CLAIM 0 STREAMS s >", "{s [[1-0 [f v] 0 0]]}"),
        ("XREADGROUP GROUP g a CLAIM 0 STREAMS s >", "{s [[1-0 [f v] 0 1]]}"),
    ]);
}

/// The borders of `MAXSIZE` are those at which Redis 8.10 has one entry more.
#[test]
fn a_read_of_several_streams_is_bounded() {
    let mut bench = Bench::new();
    for key in ["s", "t"] {
        for id in 1..=5 {
            bench.run(&format!("XADD {key} {id}-0 f 1234567890"));
        }
        bench.run(&format!("XGROUP CREATE {key} g 0"));
    }
    let entry = |id: u32| format!("[{id}-0 [f 1234567890]]");
    let (one, two) = (entry(1), entry(2));
    for (line, expected) in [
        ("XREAD MAXCOUNT 1 STREAMS s t 0 0", format!("[[s [{one}]]]")),
        ("XREAD MAXCOUNT 2 MAXCOUNT 1 STREAMS s t 0 0", format!("[[s [{one}]]]")),
        ("XREAD MAXCOUNT 3 COUNT 2 STREAMS s t 0 0", format!("[[s [{one} {two}]] [t [{one}]]]")),
        ("XREAD MAXSIZE 1 STREAMS s t 0 0", format!("[[s [{one}]]]")),
        (
            "XREAD MAXCOUNT 1 COUNT 2 STREAMS s t 0 0",
            "(error) ERR MAXCOUNT must be greater than or equal to COUNT".to_owned(),
        ),
        ("XREAD MAXCOUNT 0 STREAMS s t 0 0", "(error) ERR MAXCOUNT must be a positive integer".to_owned()),
        ("XREAD MAXSIZE 0 STREAMS s t 0 0", "(error) ERR MAXSIZE must be a positive integer".to_owned()),
        ("XREAD MAXSIZE x STREAMS s t 0 0", "(error) ERR value is not an integer or out of range".to_owned()),
        ("XREADGROUP GROUP g a MAXCOUNT 1 STREAMS s t > >", format!("[[s [{one}]]]")),
        ("XREADGROUP GROUP g a MAXSIZE 56 STREAMS s t 0 >", format!("[[s [{one}]]]")),
        ("XREADGROUP GROUP g a MAXSIZE 68 STREAMS s t 0 >", format!("[[s [{one}]] [t [{one}]]]")),
        ("XREADGROUP GROUP g a MAXCOUNT 1 STREAMS s t 0 >", format!("[[s [{one}]]]")),
        ("XREAD STREAMS s t + +", format!("[[s [{}]] [t [{}]]]", entry(5), entry(5))),
        ("XDEL s 5-0", "1".to_owned()),
        ("XREAD STREAMS s +", format!("[[s [{}]]]", entry(4))),
        ("XREAD STREAMS none +", "nil".to_owned()),
    ] {
        assert_eq!(bench.run(line), expected, "{line}");
    }
    bench.run("XADD s 5-1 f 1234567890");
    let borders =
        [(52, 1), (53, 2), (93, 2), (94, 3), (135, 4), (175, 4), (176, 5), (231, 5), (232, 6), (273, 7), (396, 10)];
    for (bytes, count) in borders {
        let reply = bench.run(&format!("XREAD MAXSIZE {bytes} STREAMS s t 0 0"));
        assert_eq!(reply.matches("1234567890").count(), count, "{bytes}");
    }
    for (bytes, count) in [(60, 1), (61, 2), (109, 2), (110, 3), (208, 5), (271, 5), (272, 6), (468, 10)] {
        for key in ["s", "t"] {
            bench.run(&format!("XGROUP DESTROY {key} g"));
            bench.run(&format!("XGROUP CREATE {key} g 0"));
        }
        bench.run("XREADGROUP GROUP g x COUNT 2 STREAMS s >");
        let reply = bench.run(&format!("XREADGROUP GROUP g c CLAIM 0 MAXSIZE {bytes} STREAMS s t > >"));
        assert_eq!(reply.matches("1234567890").count(), count, "{bytes}");
    }
}

/// Lines over streams with all options, whose effects are to be replayed.
fn lines() -> Vec<Vec<Vec<u8>>> {
    let mut lines: Vec<String> = [
        "XADD s IDMP p i * f 1",
        "XADD s IDMP p i * f 1",
        "XADD s IDMP p j MAXLEN 0 * f 2",
        "XADD s IDMPAUTO p MAXLEN ~ 10 * f 3",
        "XADD s IDMPAUTO q * f 3",
        "XADD s IDMPAUTO q * f 3",
        "XGROUP CREATE s g 0",
        "XGROUP CREATE s h 0",
        "XGROUP CREATE u g $ MKSTREAM",
        "XIDMPRECORD s r m 1-1",
        "XREADGROUP GROUP g a STREAMS s >",
        "XREADGROUP GROUP h a MAXCOUNT 1 STREAMS s >",
        "XREADGROUP GROUP h a MAXSIZE 1 STREAMS s 0",
        "XREADGROUP GROUP h new MAXCOUNT 5 CLAIM 100000 STREAMS u >",
    ]
    .map(str::to_owned)
    .into();
    for id in 1..=40u64 {
        lines.push(format!("XADD t {id} f v"));
        lines.push(format!("XADD w IDMP p{} m{} MAXLEN 5 * f v", id % 3, id % 7));
    }
    lines.extend(
        [
            "XCFGSET w IDMP-MAXSIZE 2",
            "XCFGSET w IDMP-MAXSIZE 2 IDMP-DURATION 100",
            "XADD w IDMP p 1 * f v",
            "XADD w IDMP p 2 * f v",
            "XADD w IDMP p 3 * f v",
            "XADD w IDMP p 1 ACKED MAXLEN 2 * f v",
            "XGROUP CREATE t g 0",
            "XGROUP CREATE t h 0",
            "XREADGROUP GROUP g a COUNT 30 STREAMS t >",
            "XREADGROUP GROUP h b COUNT 20 STREAMS t >",
            "XACK t g 1 2 3 5 8 9 10 11 12 13",
            "XACK t h 1 2 3 4 5 8 9 10 11 14",
            "XTRIM t MAXLEN 38 ACKED",
            "XTRIM t ACKED MAXLEN ~ 36",
            "XTRIM t MINID 9 ACKED",
            "XADD t ACKED MAXLEN ~ 30 41 f v",
            "XDELEX t ACKED IDS 3 9 10 30",
            "XDELEX t DELREF IDS 3 14 15 99",
            "XDELEX t IDS 1 16",
            "XACKDEL t g IDS 2 17 18",
            "XACKDEL t g DELREF IDS 2 19 99",
            "XACKDEL t g ACKED IDS 2 20 21",
            "XNACK t g SILENT IDS 3 22 23 22",
            "XNACK t g FATAL IDS 2 24 99 FORCE",
            "XNACK t h FAIL RETRYCOUNT 7 FORCE IDS 2 35 36",
            "XREADGROUP GROUP g c CLAIM 0 COUNT 2 STREAMS t >",
            "XREADGROUP GROUP g c CLAIM 10 STREAMS t >",
            "XREADGROUP GROUP h d CLAIM 0 NOACK COUNT 5 STREAMS t >",
            "XREADGROUP GROUP h e CLAIM 0 MAXSIZE 500 STREAMS t s > >",
            "XNACK t g FAIL IDS 2 25 26",
            "XCLAIM t g f 1000 25",
            "XDEL t 26",
            "XAUTOCLAIM t g f 0 0 COUNT 3",
            "XTRIM t DELREF MAXLEN ~ 12",
            "XTRIM t DELREF MINID 32",
            "XADD t DELREF MAXLEN 3 * f v",
            "COPY t v",
            "RENAME w x",
        ]
        .map(str::to_owned),
    );
    lines.iter().map(|line| line.split(' ').map(|word| word.as_bytes().to_vec()).collect()).collect()
}

#[test]
fn effects_replay_to_the_same_streams() {
    check_effects(&lines());
    // With nodes of another size, and other settings for messages than those at the time.
    let limits = Limits {
        stream_node_max_entries: 4,
        stream_idmp_duration_s: 3000,
        stream_idmp_maxsize: 3,
        seed: 7,
        ..Limits::REDIS
    };
    check_effects_of(Bench::with_limits(limits), &lines());
}

/// A database whose effects are told to replicas keeps for itself what they do not have.
#[test]
fn effects_for_replicas_replay_to_the_same_streams() {
    check_effects_with(Bench::new(), &lines(), |shared| shared.journal.tap(Some(Arc::new(Silent))));
}

#[derive(Debug)]
struct Silent;

impl dormouse_storage::log::Tap for Silent {
    fn entry(&self, _: u64, _: &[u8]) {}

    fn command(&self, _: &[u8]) {}
}
