use dormouse_types::Limits;

use super::super::testing::{Bench, check, check_effects, check_effects_of, check_resp3};

const NO_ID: &str = "(error) ERR Invalid stream ID specified as stream command argument";

#[test]
fn entries_are_added_and_read() {
    check(&[
        ("XADD s 1-1 f v", "1-1"),
        ("XADD s 1-1 f v", "(error) ERR The ID specified in XADD is equal or smaller than the target stream top item"),
        ("XADD s 0-0 f v", "(error) ERR The ID specified in XADD must be greater than 0-0"),
        ("XADD new 0-0 f v", "(error) ERR The ID specified in XADD must be greater than 0-0"),
        ("XADD s 1-* f w", "1-2"),
        ("XADD s 2-* f x g 7", "2-0"),
        ("XADD s 3 other fields", "3-0"),
        ("XADD new NOMKSTREAM * f v", "nil"),
        ("EXISTS new", "0"),
        ("XADD s * f", "(error) ERR wrong number of arguments for 'xadd' command"),
        ("XADD s 5-5 f v g", "(error) ERR wrong number of arguments for 'xadd' command"),
        ("XADD s x f v", NO_ID),
        ("XLEN s", "4"),
        ("XLEN none", "0"),
        ("TYPE s", "stream"),
        ("OBJECT ENCODING s", "stream"),
        ("XRANGE s - +", "[[1-1 [f v]] [1-2 [f w]] [2-0 [f x g 7]] [3-0 [other fields]]]"),
        ("XRANGE s 1 1", "[[1-1 [f v]] [1-2 [f w]]]"),
        ("XRANGE s (1-1 (2-0", "[[1-2 [f w]]]"),
        ("XREVRANGE s + - COUNT 2", "[[3-0 [other fields]] [2-0 [f x g 7]]]"),
        ("XRANGE s 2 1", "[]"),
        ("XRANGE s - + COUNT 0", "nil"),
        ("XRANGE s - + COUNT -1", "nil"),
        ("XRANGE none - + COUNT 0", "[]"),
        ("XRANGE s - + COUNT", "(error) ERR syntax error"),
        ("XRANGE s - + LIMIT 1", "(error) ERR syntax error"),
        ("XRANGE s (- +", NO_ID),
        ("XRANGE s (18446744073709551615-18446744073709551615 +", "(error) ERR invalid start ID for the interval"),
        ("XRANGE s - (0-0", "(error) ERR invalid end ID for the interval"),
        ("SET string v", "OK"),
        ("XADD string * f v", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("XRANGE string - +", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("XADD s 18446744073709551615-18446744073709551615 f v", "18446744073709551615-18446744073709551615"),
        ("XADD s * f v", "(error) ERR The stream has exhausted the last possible ID, unable to add more items"),
    ]);
}

#[test]
fn an_id_is_made_of_the_clock() {
    let mut bench = Bench::new();
    let now = bench.now_ms;
    assert_eq!(bench.run("XADD s * f v"), format!("{now}-0"));
    assert_eq!(bench.run("XADD s * f v"), format!("{now}-1"));
    bench.now_ms -= 5;
    assert_eq!(bench.run("XADD s * f v"), format!("{now}-2"));
    bench.now_ms += 10;
    assert_eq!(bench.run("XADD s * f v"), format!("{}-0", now + 5));
}

#[test]
fn entries_are_trimmed_and_deleted() {
    check(&[
        ("XADD s 1-0 f 1", "1-0"),
        ("XADD s 2-0 f 2", "2-0"),
        ("XADD s 3-0 f 3", "3-0"),
        ("XADD s MAXLEN = 3 4-0 f 4", "4-0"),
        ("XTRIM s MAXLEN ~ 1", "0"),
        ("XTRIM s MINID 3", "1"),
        ("XRANGE s - +", "[[3-0 [f 3]] [4-0 [f 4]]]"),
        ("XDEL s 3-0 3-0 9-9", "1"),
        ("XDEL none x", "0"),
        ("XDEL s x", NO_ID),
        ("XTRIM s MAXLEN 0", "1"),
        ("XLEN s", "0"),
        ("EXISTS s", "1"),
        (
            "XINFO STREAM s",
            "[length 0 radix-tree-keys 0 radix-tree-nodes 1 last-generated-id 4-0 max-deleted-entry-id 3-0 entries-added 4 \
             recorded-first-entry-id 0-0 idmp-duration 100 idmp-maxsize 100 pids-tracked 0 iids-tracked 0 iids-added 0 \
             iids-duplicates 0 groups 0 first-entry nil last-entry nil]",
        ),
        ("XADD s 4-0 f 4", "(error) ERR The ID specified in XADD is equal or smaller than the target stream top item"),
        ("XSETID s 2-0", "OK"),
        ("XSETID s 9-0 ENTRIESADDED 100 MAXDELETEDID 8-0", "OK"),
        (
            "XSETID s 9-0 MAXDELETEDID 10-0",
            "(error) ERR The ID specified in XSETID is smaller than the provided max_deleted_entry_id",
        ),
        ("XSETID s 9-0 ENTRIESADDED -1", "(error) ERR entries_added must be positive"),
        ("XSETID s 9-0 ENTRIESADDED", "(error) ERR syntax error"),
        ("XSETID none 9-0", "(error) ERR no such key"),
        ("XADD s 10-0 f v", "10-0"),
        ("XSETID s 9-5", "(error) ERR The ID specified in XSETID is smaller than the target stream top item"),
        (
            "XSETID s 10-0 ENTRIESADDED 0",
            "(error) ERR The entries_added specified in XSETID is smaller than the target stream length",
        ),
        ("XTRIM s MAXLEN -1", "(error) ERR The MAXLEN argument must be >= 0."),
        (
            "XTRIM s MAXLEN 1 MINID 1",
            "(error) ERR syntax error, MAXLEN and MINID options at the same time are not compatible",
        ),
        ("XTRIM s LIMIT 5", "(error) ERR syntax error, LIMIT cannot be used without specifying a trimming strategy"),
        ("XTRIM s LIMIT 0", "(error) ERR syntax error, XTRIM must be called with a trimming strategy"),
        ("XTRIM s LIMIT 5 MAXLEN", "(error) ERR syntax error"),
        ("XTRIM s MAXLEN 1 LIMIT 5", "(error) ERR syntax error, LIMIT cannot be used without the special ~ option"),
        ("XTRIM s MAXLEN ~ 1 LIMIT -5", "(error) ERR The LIMIT argument must be >= 0."),
        (
            "XADD s LIMIT 5 * f v",
            "(error) ERR syntax error, LIMIT cannot be used without specifying a trimming strategy",
        ),
    ]);
    let mut bench = Bench::new();
    for n in 1..=1000 {
        bench.run(&format!("XADD s {n}-0 f {n}"));
    }
    for (line, expected) in [
        ("XTRIM s MAXLEN ~ 450", "500"),
        ("XTRIM s MAXLEN ~ 0 LIMIT 50", "0"),
        ("XTRIM s MAXLEN ~ 0 LIMIT 150", "100"),
        ("XTRIM s MINID ~ 750", "100"),
        ("XTRIM s MINID 750", "49"),
        ("XLEN s", "251"),
    ] {
        assert_eq!(bench.run(line), expected, "{line}");
    }
}

#[test]
fn groups_deliver_each_entry_once() {
    check(&[
        (
            "XGROUP CREATE s g $",
            "(error) ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use the MKSTREAM option to create an empty stream automatically.",
        ),
        ("XGROUP CREATE s g $ MKSTREAM", "OK"),
        ("XLEN s", "0"),
        ("TYPE s", "stream"),
        ("XGROUP CREATE s g 0", "(error) BUSYGROUP Consumer Group name already exists"),
        ("XREADGROUP GROUP g c STREAMS s >", "nil"),
        ("XADD s 1-0 f 1", "1-0"),
        ("XADD s 2-0 f 2", "2-0"),
        ("XADD s 3-0 f 3", "3-0"),
        ("XREADGROUP GROUP g c COUNT 1 STREAMS s >", "[[s [[1-0 [f 1]]]]]"),
        ("XREADGROUP GROUP g d COUNT 1 STREAMS s >", "[[s [[2-0 [f 2]]]]]"),
        ("XREADGROUP GROUP g d NOACK STREAMS s >", "[[s [[3-0 [f 3]]]]]"),
        ("XREADGROUP GROUP g d STREAMS s >", "nil"),
        ("XREADGROUP GROUP g d STREAMS s 0", "[[s [[2-0 [f 2]]]]]"),
        ("XREADGROUP GROUP g c STREAMS s 1-0", "[[s []]]"),
        ("XPENDING s g", "[2 1-0 2-0 [[c 1] [d 1]]]"),
        ("XPENDING s g - + 10", "[[1-0 c 0 1] [2-0 d 0 2]]"),
        ("XPENDING s g - + 10 d", "[[2-0 d 0 2]]"),
        ("XPENDING s g - + 10 nobody", "[]"),
        ("XPENDING s g IDLE 5 - + 10", "[]"),
        ("XPENDING s g IDLE 5", "(error) ERR syntax error"),
        ("XPENDING s none", "(error) NOGROUP No such key 's' or consumer group 'none'"),
        ("XDEL s 2-0", "1"),
        ("XREADGROUP GROUP g d STREAMS s 0", "[[s [[2-0 nil]]]]"),
        ("XACK s g 1-0 1-0 9-9", "1"),
        ("XACK s none x", "0"),
        ("XACK s g x", NO_ID),
        ("XPENDING s g", "[1 2-0 2-0 [[d 1]]]"),
        ("XGROUP DELCONSUMER s g d", "1"),
        ("XPENDING s g", "[0 nil nil nil]"),
        ("XINFO CONSUMERS s g", "[[name c pending 0 idle 0 inactive 0]]"),
        ("XINFO GROUPS s", "[[name g consumers 1 pending 0 last-delivered-id 3-0 entries-read 3 lag 0]]"),
        ("XGROUP SETID s g 0", "OK"),
        ("XINFO GROUPS s", "[[name g consumers 1 pending 0 last-delivered-id 0-0 entries-read nil lag nil]]"),
        ("XGROUP SETID s g $ ENTRIESREAD 3", "OK"),
        ("XGROUP SETID s none $", "(error) NOGROUP No such consumer group 'none' for key name 's'"),
        ("XGROUP SETID s g $ ENTRIESREAD -2", "(error) ERR value for ENTRIESREAD must be positive or -1"),
        (
            "XGROUP SETID s g $ MKSTREAM",
            "(error) ERR unknown subcommand or wrong number of arguments for 'SETID'. Try XGROUP HELP.",
        ),
        ("XGROUP CREATECONSUMER s g e", "1"),
        ("XGROUP CREATECONSUMER s g e", "0"),
        ("XGROUP DESTROY s g", "1"),
        ("XGROUP DESTROY s g", "0"),
        ("EXISTS s", "1"),
        (
            "XREADGROUP GROUP g d STREAMS s >",
            "(error) NOGROUP No such key 's' or consumer group 'g' in XREADGROUP with GROUP option",
        ),
        ("XREADGROUP STREAMS s s s > > >", "(error) ERR Missing GROUP option for XREADGROUP"),
        (
            "XREADGROUP GROUP g c STREAMS s t >",
            "(error) ERR Unbalanced 'xreadgroup' list of streams: for each stream key an ID or '>' must be specified.",
        ),
        (
            "XINFO STREAM s NONSENSE",
            "(error) ERR unknown subcommand or wrong number of arguments for 'STREAM'. Try XINFO HELP.",
        ),
        ("XINFO STREAM none NONSENSE", "(error) ERR no such key"),
    ]);
}

#[test]
fn entries_are_claimed() {
    let mut bench = Bench::new();
    for n in 1..=4 {
        bench.run(&format!("XADD s {n}-0 f {n}"));
    }
    bench.run("XGROUP CREATE s g 0");
    bench.run("XREADGROUP GROUP g a COUNT 3 STREAMS s >");
    bench.now_ms += 100;
    for (line, expected) in [
        ("XCLAIM s g b 101 1-0", "[]"),
        ("XCLAIM s g b 100 1-0 9-0", "[[1-0 [f 1]]]"),
        ("XCLAIM s g b 0 2-0 JUSTID", "[2-0]"),
        ("XCLAIM s g b 0 4-0 FORCE JUSTID RETRYCOUNT 7 IDLE 30", "[4-0]"),
        ("XPENDING s g - + 10", "[[1-0 b 0 2] [2-0 b 0 1] [3-0 a 100 1] [4-0 b 30 7]]"),
        ("XCLAIM s g b x 1-0", "(error) ERR Invalid min-idle-time argument for XCLAIM"),
        ("XCLAIM s g b 0 1-0 IDLE x", "(error) ERR Invalid IDLE option argument for XCLAIM"),
        ("XCLAIM s g b 0 1-0 NONSENSE", "(error) ERR Unrecognized XCLAIM option 'NONSENSE'"),
        ("XCLAIM s none b 0 1-0", "(error) NOGROUP No such key 's' or consumer group 'none'"),
        ("XDEL s 3-0", "1"),
        ("XAUTOCLAIM s g c 30 0", "[0-0 [[4-0 [f 4]]] [3-0]]"),
        ("XAUTOCLAIM s g c 0 0 COUNT 1 JUSTID", "[2-0 [1-0] []]"),
        ("XAUTOCLAIM s g c 0 (1-0 COUNT 1 JUSTID", "[4-0 [2-0] []]"),
        ("XAUTOCLAIM s g c 0 0 COUNT 0", "(error) ERR COUNT must be > 0"),
        ("XAUTOCLAIM s g c x 0", "(error) ERR Invalid min-idle-time argument for XAUTOCLAIM"),
        ("XAUTOCLAIM s none c 0 0", "(error) NOGROUP No such key 's' or consumer group 'none'"),
        ("XCLAIM s g c 0 1-0 LASTID 9-0 JUSTID", "[1-0]"),
        ("XINFO GROUPS s", "[[name g consumers 3 pending 3 last-delivered-id 9-0 entries-read 3 lag 1]]"),
    ] {
        assert_eq!(bench.run(line), expected, "{line}");
    }
}

#[test]
fn several_streams_are_read() {
    check(&[
        ("XADD a 1-0 f 1", "1-0"),
        ("XADD b 2-0 f 2", "2-0"),
        ("XREAD STREAMS a b none 0 0 0", "[[a [[1-0 [f 1]]]] [b [[2-0 [f 2]]]]]"),
        ("XREAD COUNT 1 STREAMS a b $ 1", "[[b [[2-0 [f 2]]]]]"),
        ("XREAD STREAMS a b $ $", "nil"),
        ("XREAD BLOCK 10 STREAMS a 0", "[[a [[1-0 [f 1]]]]]"),
        ("XREAD BLOCK 10 STREAMS a $", "nil"),
        ("XREAD BLOCK -1 STREAMS a $", "(error) ERR timeout is negative"),
        (
            "XREAD STREAMS a b 0",
            "(error) ERR Unbalanced 'xread' list of streams: for each stream key an ID or '$' must be specified.",
        ),
        (
            "XREAD STREAMS a >",
            "(error) ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> <consumer> option.",
        ),
        (
            "XREAD GROUP g c STREAMS a >",
            "(error) ERR The GROUP option is only supported by XREADGROUP. You called XREAD instead.",
        ),
        (
            "XREAD NOACK STREAMS a 0",
            "(error) ERR The NOACK option is only supported by XREADGROUP. You called XREAD instead.",
        ),
        ("XREAD COUNT 5 a 0 0", "(error) ERR syntax error"),
    ]);
    check_resp3(&[
        ("XADD a 1-0 f 1", "1-0"),
        ("XREAD STREAMS a 0", "{a [[1-0 [f 1]]]}"),
        ("XGROUP CREATE a g 0", "OK"),
        ("XREADGROUP GROUP g c STREAMS a >", "{a [[1-0 [f 1]]]}"),
        ("XINFO GROUPS a", "[{name g consumers 1 pending 1 last-delivered-id 1-0 entries-read 1 lag 0}]"),
    ]);
}

#[test]
fn a_stream_is_shown_in_full() {
    let mut bench = Bench::new();
    for line in ["XADD s 1-0 f 1", "XADD s 2-0 f 2", "XGROUP CREATE s g 0", "XREADGROUP GROUP g c STREAMS s >"] {
        bench.run(line);
    }
    let now = bench.now_ms;
    let expected = format!(
        "[length 2 radix-tree-keys 1 radix-tree-nodes 2 last-generated-id 2-0 max-deleted-entry-id 0-0 entries-added 2 \
         recorded-first-entry-id 1-0 idmp-duration 100 idmp-maxsize 100 pids-tracked 0 iids-tracked 0 iids-added 0 \
         iids-duplicates 0 entries [[1-0 [f 1]]] groups [[name g last-delivered-id 2-0 entries-read 2 lag 0 \
         pel-count 2 nacked-count 0 pending [[1-0 c {now} 1]] consumers [[name c seen-time {now} active-time {now} pel-count 2 pending \
         [[1-0 {now} 1]]]]]]]"
    );
    assert_eq!(bench.run("XINFO STREAM s FULL COUNT 1"), expected);
    assert_eq!(bench.run("COPY s t"), "1");
    let data = bench.data();
    assert_eq!(data[&b"s"[..]], data[&b"t"[..]]);
}

const SMALL_NODES: Limits = Limits { stream_node_max_entries: 10, seed: 7, ..Limits::REDIS };

#[test]
fn the_size_of_nodes_bounds_approximate_trimming() {
    let mut bench = Bench::with_limits(SMALL_NODES);
    for id in 1..=100 {
        bench.run(&format!("XADD s {id} f v"));
    }
    for (command, reply, len) in [
        ("XTRIM s MAXLEN ~ 95", "0", "100"),
        ("XTRIM s MAXLEN ~ 85", "10", "90"),
        ("XTRIM s MAXLEN ~ 55 LIMIT 25", "20", "70"),
        ("XADD s MAXLEN ~ 55 LIMIT 9 101 f v", "101-0", "71"),
        ("XADD s MINID ~ 55 102 f v", "102-0", "52"),
    ] {
        assert_eq!(bench.run(command), reply, "{command}");
        assert_eq!(bench.run("XLEN s"), len, "{command}");
    }
    // One trimming removes the entries of at most a hundred nodes.
    let mut bench = Bench::with_limits(Limits { stream_node_max_entries: 1, ..SMALL_NODES });
    for id in 1..=102 {
        bench.run(&format!("XADD s {id} f v"));
    }
    assert_eq!(bench.run("XTRIM s MAXLEN ~ 1"), "100");
}

#[test]
fn approximate_trimming_replays_with_nodes_of_another_size() {
    let mut lines: Vec<String> = (1..=100).map(|id| format!("XADD s {id} f v")).collect();
    lines.extend(
        [
            "XTRIM s MAXLEN ~ 85",
            "XADD s MAXLEN ~ 85 * f v",
            "XADD s MAXLEN ~ 55 LIMIT 20 * f v",
            "XADD s MINID ~ 45 * f v",
            "XTRIM s MINID ~ 58 LIMIT 10",
            "XADD s NOMKSTREAM MAXLEN ~ 1000 * f v g w",
            "XADD t MAXLEN ~ 0 7 f v",
            "XADD t MAXLEN ~ 0 *",
        ]
        .map(str::to_string),
    );
    let commands: Vec<Vec<Vec<u8>>> =
        lines.iter().map(|line| line.split(' ').map(|word| word.as_bytes().to_vec()).collect()).collect();
    check_effects_of(Bench::with_limits(SMALL_NODES), &commands);
}

#[test]
fn effects_replay_to_the_same_streams() {
    let lines = [
        "XADD s * f 1",
        "XADD s * f 2",
        "XADD s MAXLEN 3 * f 3",
        "XADD t 5-* f 3",
        "XADD s MAXLEN ~ 3 * f 4",
        "XGROUP CREATE s g 0",
        "XGROUP CREATE t g 0 ENTRIESREAD 0",
        "XGROUP CREATE u g $ MKSTREAM",
        "XREADGROUP GROUP g c COUNT 2 STREAMS s t > >",
        "XREADGROUP GROUP g d STREAMS s t 0 0",
        "XREADGROUP GROUP g c STREAMS s 0",
        "XREADGROUP GROUP g e NOACK STREAMS s u > >",
        "XACK t g 5-0",
        "XCLAIM t g d 0 5-0 FORCE",
        "XDEL t 5-0",
        "XAUTOCLAIM t g e 0 0",
        "XAUTOCLAIM s g f 0 0 COUNT 1",
        "XGROUP SETID s g 0 ENTRIESREAD 1",
        "XGROUP CREATECONSUMER s g h",
        "XGROUP DELCONSUMER s g c",
        "XSETID t 9-9 ENTRIESADDED 5",
        "XGROUP DESTROY u g",
        "XTRIM s MAXLEN 1",
        "COPY s v",
        "RENAME u w",
    ];
    let commands: Vec<Vec<Vec<u8>>> =
        lines.iter().map(|line| line.split(' ').map(|word| word.as_bytes().to_vec()).collect()).collect();
    check_effects(&commands);
}
