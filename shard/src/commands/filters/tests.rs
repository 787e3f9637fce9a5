use dormouse_protocol::Response;

use crate::commands::testing::{Bench, check, check_effects, check_resp3, show};

#[test]
fn bloom_filters() {
    check(&[
        ("BF.RESERVE f 0.01 1000", "OK"),
        ("BF.RESERVE f 0.01 1000", "(error) ERR item exists"),
        ("TYPE f", "MBbloom--"),
        ("OBJECT ENCODING f", "raw"),
        ("BF.ADD f a", "1"),
        ("BF.ADD f a", "0"),
        ("BF.MADD f a b c b", "[0 1 1 0]"),
        ("BF.EXISTS f b", "1"),
        ("BF.EXISTS f z", "0"),
        ("BF.MEXISTS f a z c", "[1 0 1]"),
        ("BF.CARD f", "3"),
        ("BF.INFO f", "[Capacity 1000 Size 1480 Number of filters 1 Number of items inserted 3 Expansion rate 2]"),
        ("BF.INFO f capacity", "[1000]"),
        ("BF.INFO f SIZE", "[1480]"),
        ("BF.INFO f Filters", "[1]"),
        ("BF.INFO f items", "[3]"),
        ("BF.INFO f expansion", "[2]"),
        ("BF.INFO f more", "(error) Invalid information value"),
        ("BF.INFO f items more", "(error) ERR wrong number of arguments for 'bf.info' command"),
        // Added where there is none, with the defaults.
        ("BF.ADD new x", "1"),
        ("BF.INFO new", "[Capacity 100 Size 240 Number of filters 1 Number of items inserted 1 Expansion rate 2]"),
        ("BF.MADD more x y x", "[1 1 0]"),
        ("BF.CARD more", "2"),
    ]);
}

#[test]
fn bloom_filters_are_made_as_asked() {
    check(&[
        ("BF.RESERVE f x 100", "(error) ERR bad error rate"),
        ("BF.RESERVE f nan 100", "(error) ERR bad error rate"),
        ("BF.RESERVE f 0 100", "(error) ERR error rate must be in the range (0.000000, 1.000000)"),
        ("BF.RESERVE f 1 100", "(error) ERR error rate must be in the range (0.000000, 1.000000)"),
        ("BF.RESERVE f 0.1 x", "(error) ERR bad capacity"),
        ("BF.RESERVE f 0.1 0", "(error) ERR capacity must be in the range [1, 1073741824]"),
        ("BF.RESERVE f 0.1 1073741825", "(error) ERR capacity must be in the range [1, 1073741824]"),
        ("BF.RESERVE f 0.1 100 EXPANSION", "(error) ERR no expansion"),
        ("BF.RESERVE f 0.1 100 EXPANSION x", "(error) ERR bad expansion"),
        ("BF.RESERVE f 0.1 100 EXPANSION 32769", "(error) ERR expansion must be in the range [0, 32768]"),
        ("BF.RESERVE f 0.1 100 EXPANSION -1", "(error) ERR expansion must be in the range [0, 32768]"),
        ("BF.RESERVE f 0.1 100 NONSCALING EXPANSION 2", "(error) Nonscaling filters cannot expand"),
        ("BF.RESERVE f 0.1 100 NONSCALLING", "(error) ERR syntax error"),
        ("BF.RESERVE f 0.1 100 a b c d", "(error) ERR wrong number of arguments for 'bf.reserve' command"),
        // Such a filter would have terabytes.
        ("BF.RESERVE f 1e-300 1073741824", "(error) ERR Insufficient memory to create filter"),
        ("EXISTS f", "0"),
        ("BF.RESERVE fixed 0.1 2 NONSCALING", "OK"),
        ("BF.INFO fixed expansion", "[nil]"),
        ("BF.MADD fixed a b c d", "[1 1 (error) ERR non scaling filter is full]"),
        ("BF.ADD fixed c", "(error) ERR non scaling filter is full"),
        ("BF.ADD fixed a", "0"),
        ("BF.RESERVE zero 0.1 2 EXPANSION 0", "OK"),
        ("BF.INFO zero expansion", "[nil]"),
        ("BF.RESERVE grows 0.1 2 EXPANSION 4", "OK"),
        ("BF.MADD grows 1 2 3 4 5 6 7 8 9 10", "[1 1 1 1 1 1 1 1 1 1]"),
        ("BF.INFO grows capacity", "[10]"),
        ("BF.ADD grows 11", "1"),
        ("BF.INFO grows capacity", "[42]"),
        ("BF.INFO grows filters", "[3]"),
        // A rate above a quarter is a quarter.
        ("BF.RESERVE quarter 0.25 1000 NONSCALING", "OK"),
        ("BF.RESERVE most 0.999 1000 NONSCALING", "OK"),
        ("BF.INFO quarter size", "[464]"),
        ("BF.INFO most size", "[464]"),
    ]);
    check(&[
        ("BF.INSERT f NOCREATE ITEMS a", "(error) ERR not found"),
        ("BF.INSERT f CAPACITY 5 ERROR 0.1 EXPANSION 3 ITEMS a b a", "[1 1 0]"),
        ("BF.INFO f", "[Capacity 5 Size 104 Number of filters 1 Number of items inserted 2 Expansion rate 3]"),
        ("BF.INSERT f NOCREATE ITEMS a c", "[0 1]"),
        // The options of a filter that is there are read and have no effect.
        ("BF.INSERT f CAPACITY 500 NONSCALING ITEMS d", "[1]"),
        ("BF.INFO f capacity", "[5]"),
        ("BF.INSERT g NONSCALING CAPACITY 1 ITEMS a b c", "[1 (error) ERR non scaling filter is full]"),
        ("BF.INSERT h EXPANSION 0 ITEMS a", "[1]"),
        ("BF.INFO h expansion", "[nil]"),
        ("BF.INSERT i ERROR 2 ITEMS a", "(error) Bad error rate"),
        ("BF.INSERT i ERROR x ITEMS a", "(error) Bad error rate"),
        ("BF.INSERT i CAPACITY 0 ITEMS a", "(error) Bad capacity"),
        ("BF.INSERT i EXPANSION 99999 ITEMS a", "(error) Bad expansion"),
        ("BF.INSERT i WHAT ITEMS a", "(error) Unknown argument received"),
        ("BF.INSERT i CAPACITY 5", "(error) ERR wrong number of arguments for 'bf.insert' command"),
        ("BF.INSERT i NOCREATE ITEMS", "(error) ERR wrong number of arguments for 'bf.insert' command"),
        ("BF.INSERT i NOCREATE CAPACITY", "(error) ERR wrong number of arguments for 'bf.insert' command"),
        ("EXISTS i", "0"),
    ]);
}

#[test]
fn cuckoo_filters() {
    check(&[
        ("CF.RESERVE f 1000", "OK"),
        ("CF.RESERVE f 1000", "(error) ERR item exists"),
        ("TYPE f", "MBbloomCF"),
        ("CF.ADD f a", "1"),
        ("CF.ADD f a", "1"),
        ("CF.ADDNX f a", "0"),
        ("CF.ADDNX f b", "1"),
        ("CF.COUNT f a", "2"),
        ("CF.COUNT f z", "0"),
        ("CF.EXISTS f b", "1"),
        ("CF.MEXISTS f a z b", "[1 0 1]"),
        (
            "CF.INFO f",
            "[Size 1080 Number of buckets 512 Number of filters 1 Number of items inserted 3 Number of items deleted 0 \
             Bucket size 2 Expansion rate 1 Max iterations 20]",
        ),
        ("CF.DEL f a", "1"),
        ("CF.DEL f a", "1"),
        ("CF.DEL f a", "0"),
        ("CF.EXISTS f a", "0"),
        ("CF.INSERT f ITEMS a b b", "[1 1 1]"),
        ("CF.COUNT f b", "3"),
        ("CF.INSERTNX f ITEMS a d", "[0 1]"),
        // Made where there is none.
        ("CF.ADD new x", "1"),
        ("CF.INSERT sized CAPACITY 100 ITEMS x", "[1]"),
        ("CF.INSERTNX unique ITEMS x x", "[1 0]"),
        ("CF.INSERT none NOCREATE ITEMS x", "(error) ERR not found"),
        // Two buckets of one slot each, and no more.
        ("CF.RESERVE small 2 BUCKETSIZE 1 EXPANSION 0", "OK"),
        ("CF.INSERT small ITEMS x x x", "[1 1 -1]"),
        ("CF.ADD small x", "(error) Filter is full"),
    ]);
}

#[test]
fn cuckoo_filters_are_made_as_asked() {
    check(&[
        ("CF.RESERVE f x", "(error) Bad capacity"),
        ("CF.RESERVE f 100 MAXITERATIONS", "(error) ERR wrong number of arguments for 'cf.reserve' command"),
        ("CF.RESERVE f 100 MAXITERATIONS x", "(error) Couldn't parse MAXITERATIONS"),
        ("CF.RESERVE f 100 MAXITERATIONS 0", "(error) MAXITERATIONS: value must be in the range [1, 65535]"),
        ("CF.RESERVE f 100 BUCKETSIZE x", "(error) Couldn't parse BUCKETSIZE"),
        ("CF.RESERVE f 100 BUCKETSIZE 256", "(error) BUCKETSIZE: value must be in the range [1, 255]"),
        ("CF.RESERVE f 100 EXPANSION x", "(error) Couldn't parse EXPANSION"),
        ("CF.RESERVE f 100 EXPANSION 32769", "(error) EXPANSION: value must be in the range [0, 32768]"),
        ("CF.RESERVE f 3", "(error) Capacity must be in the range [2 * BUCKETSIZE, 1073741824]"),
        ("CF.RESERVE f 1073741825", "(error) Capacity must be in the range [2 * BUCKETSIZE, 1073741824]"),
        ("CF.RESERVE f 100 WHAT 5", "(error) ERR syntax error"),
        ("CF.INSERT f CAPACITY x ITEMS a", "(error) Bad capacity"),
        ("CF.INSERT f CAPACITY 3 ITEMS a", "(error) Capacity must be in the range [cf-bucket-size * 2, 1073741824]"),
        ("CF.INSERT f WHAT ITEMS a", "(error) Unknown argument received"),
        ("CF.INSERT f NOCREATE ITEMS", "(error) ERR wrong number of arguments for 'cf.insert' command"),
        ("CF.INSERTNX f NOCREATE CAPACITY", "(error) ERR wrong number of arguments for 'cf.insertnx' command"),
        ("EXISTS f", "0"),
        ("CF.RESERVE f 100 EXPANSION 3 BUCKETSIZE 4 MAXITERATIONS 7", "OK"),
        (
            "CF.INFO f",
            "[Size 184 Number of buckets 32 Number of filters 1 Number of items inserted 0 Number of items deleted 0 \
             Bucket size 4 Expansion rate 4 Max iterations 7]",
        ),
    ]);
}

#[test]
fn keys_of_other_types() {
    check(&[
        ("SET s v", "OK"),
        ("CF.ADD c x", "1"),
        ("BF.ADD b x", "1"),
        ("BF.ADD s x", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("BF.ADD c x", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("CF.ADD b x", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("BF.RESERVE c 0.1 10", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("CF.RESERVE b 10", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("BF.INSERT s ITEMS x", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("BF.INFO c", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("BF.CARD s", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("CF.INFO s", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("BF.SCANDUMP s 0", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("BF.LOADCHUNK s 1 x", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("CF.LOADCHUNK s 1 x", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("APPEND b x", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("LPUSH c x", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        // To a search, another value is as good as none.
        ("BF.EXISTS s x", "0"),
        ("BF.EXISTS c x", "0"),
        ("BF.MEXISTS s x y", "[0 0]"),
        ("CF.EXISTS b x", "0"),
        ("CF.MEXISTS b x y", "[0 0]"),
        ("CF.COUNT s x", "0"),
        ("CF.DEL s x", "(error) Not found"),
        ("CF.DEL none x", "(error) Not found"),
        ("BF.EXISTS none x", "0"),
        ("BF.MEXISTS none x", "[0]"),
        ("BF.CARD none", "0"),
        ("BF.INFO none", "(error) ERR not found"),
        ("CF.INFO none", "(error) ERR not found"),
        ("BF.SCANDUMP none 0", "(error) ERR not found"),
        ("CF.SCANDUMP none 0", "(error) ERR not found"),
        ("EXISTS none", "0"),
        ("SCAN 0 TYPE MBbloom-- COUNT 100", "[0 [b]]"),
        ("SCAN 0 TYPE mbbloomcf COUNT 100", "[0 [c]]"),
    ]);
}

#[test]
fn replies_of_resp3() {
    check_resp3(&[
        ("BF.RESERVE f 0.01 1 NONSCALING", "OK"),
        ("BF.ADD f a", "true"),
        ("BF.ADD f a", "false"),
        ("BF.MADD f a b", "[false (error) ERR non scaling filter is full]"),
        ("BF.EXISTS f a", "true"),
        ("BF.MEXISTS f a z", "[true false]"),
        ("BF.CARD f", "1"),
        ("BF.INFO f ITEMS", "{Number of items inserted 1}"),
        ("BF.INFO f EXPANSION", "{Expansion rate nil}"),
        ("BF.INFO f", "{Capacity 1 Size 104 Number of filters 1 Number of items inserted 1 Expansion rate nil}"),
        ("CF.RESERVE c 2 BUCKETSIZE 1 EXPANSION 0", "OK"),
        ("CF.ADD c x", "true"),
        ("CF.ADDNX c x", "false"),
        ("CF.INSERT c ITEMS x x", "[true false]"),
        ("CF.INSERTNX c ITEMS x y", "[0 -1]"),
        ("CF.EXISTS c x", "true"),
        ("CF.MEXISTS c x z", "[true false]"),
        ("CF.COUNT c x", "2"),
        ("CF.DEL c x", "true"),
        ("CF.DEL c z", "false"),
    ]);
}

/// Words of a reply that is an array of a number and a string.
fn chunk(bench: &mut Bench, name: &[u8], at: i64) -> (i64, Option<Vec<u8>>) {
    let reply = bench.run_raw(&[name, b"f", at.to_string().as_bytes()]);
    let Response::Many(_, Some(items)) = Response::read(&mut &reply[..]).unwrap() else { panic!("not an array") };
    (show(&items[0]).parse().unwrap(), items[1].bytes().map(<[u8]>::to_vec))
}

#[test]
fn dumps_are_loaded_chunk_by_chunk() {
    for (kind, fill, loads) in [("BF", "BF.MADD f", "BF.LOADCHUNK"), ("CF", "CF.INSERT f ITEMS", "CF.LOADCHUNK")] {
        let mut bench = Bench::new();
        let reserve = if kind == "BF" { "BF.RESERVE f 0.001 50 EXPANSION 3" } else { "CF.RESERVE f 64 EXPANSION 2" };
        bench.run(reserve);
        let items: Vec<String> = (0..400).map(|number| format!("item{number}")).collect();
        bench.run(&format!("{fill} {}", items.join(" ")));
        let (mut at, mut chunks) = (0, Vec::new());
        while let (next @ 1.., Some(chunk)) = chunk(&mut bench, format!("{kind}.SCANDUMP").as_bytes(), at) {
            chunks.push((next, chunk));
            at = next;
        }
        assert!(chunks.len() > 2, "a head, and a chunk for each of some sub-filters");
        for (at, chunk) in &chunks {
            let loaded = bench.run_args(&[loads.as_bytes(), b"copy", at.to_string().as_bytes(), chunk]);
            assert_eq!(loaded, "OK");
        }
        let data = bench.data();
        assert_eq!(data[&b"f"[..]], data[&b"copy"[..]]);
    }
}

#[test]
fn wrong_chunks_are_refused() {
    let mut bench = Bench::new();
    bench.run("BF.ADD f x");
    bench.run("CF.ADD c x");
    let head = chunk(&mut bench, b"BF.SCANDUMP", 0).1.unwrap();
    for (line, reply) in [
        ("BF.SCANDUMP f x", "(error) Second argument must be numeric"),
        ("BF.SCANDUMP f -1", "[0 \"\"]"),
        ("BF.SCANDUMP f 145", "[0 \"\"]"),
        ("BF.LOADCHUNK f x y", "(error) ERR Second argument must be numeric"),
        ("BF.LOADCHUNK f 0 y", "(error) ERR received bad data"),
        ("BF.LOADCHUNK f -5 y", "(error) ERR received bad data"),
        ("BF.LOADCHUNK f 2 abc", "(error) ERR received bad data"),
        ("BF.LOADCHUNK f 3 abc", "(error) ERR invalid offset - no link found"),
        ("BF.LOADCHUNK f 200 y", "(error) ERR invalid offset - no link found"),
        ("BF.LOADCHUNK f 147 abc", "(error) ERR invalid chunk - Too big for current filter"),
        ("BF.LOADCHUNK none 5 y", "(error) ERR not found"),
        ("BF.LOADCHUNK none 1 y", "(error) ERR received bad data"),
        ("BF.LOADCHUNK f 1 \"\"", "OK"),
        ("CF.SCANDUMP c x", "(error) Invalid position"),
        ("CF.SCANDUMP c -1", "(error) Invalid position"),
        ("CF.SCANDUMP c 99999", "[0 nil]"),
        ("CF.LOADCHUNK c 0 y", "(error) Invalid position"),
        ("CF.LOADCHUNK c 1 y", "(error) ERR item exists"),
        ("CF.LOADCHUNK c 2 abc", "(error) Couldn't load chunk!"),
        ("CF.LOADCHUNK c -9223372036854775808 abc", "(error) Couldn't load chunk!"),
        ("CF.LOADCHUNK c -7 abc", "(error) Couldn't load chunk!"),
        ("CF.LOADCHUNK c 99999 y", "(error) Couldn't load chunk!"),
        ("CF.LOADCHUNK none 5 y", "(error) ERR not found"),
        ("CF.LOADCHUNK none 1 y", "(error) Invalid header"),
        ("CF.LOADCHUNK none 1 abcdefghijklmnopqrstuvwxyzabcdefghijkl", "(error) Couldn't create filter!"),
        ("CF.RESERVE empty 10", "OK"),
        ("CF.SCANDUMP empty 0", "[0 nil]"),
    ] {
        assert_eq!(bench.run(line), reply, "{line}");
    }
    // A head of petabytes.
    let mut large = head;
    large[20..28].copy_from_slice(&(1u64 << 50).to_le_bytes());
    large[28..36].copy_from_slice(&(1u64 << 53).to_le_bytes());
    assert_eq!(bench.run_args(&[b"BF.LOADCHUNK", b"n", b"1", &large]), "(error) ERR received bad data");
}

#[test]
fn effects_are_the_commands() {
    let words = |line: &str| line.split(' ').map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
    let items: String = (0..300).map(|number| format!(" i{number}")).collect();
    let lines = [
        "BF.RESERVE b 0.01 10 EXPANSION 2".to_owned(),
        "BF.ADD b x".to_owned(),
        format!("BF.MADD b{items}"),
        format!("BF.INSERT c CAPACITY 20 ERROR 0.2 NONSCALING ITEMS{items}"),
        "CF.RESERVE d 16 BUCKETSIZE 2 EXPANSION 2".to_owned(),
        format!("CF.INSERT d ITEMS{items}"),
        format!("CF.INSERTNX d ITEMS{items} more"),
        "CF.ADD e x".to_owned(),
        "CF.ADDNX e x".to_owned(),
        "CF.DEL d i5".to_owned(),
        "CF.DEL d none".to_owned(),
        "COPY d copy".to_owned(),
        "RENAME b renamed".to_owned(),
    ];
    check_effects(&lines.iter().map(|line| words(line)).collect::<Vec<_>>());
}

/// A request that may make a filter, or let one grow, says how many bytes that takes before it runs.
#[test]
fn growth_is_known_beforehand() {
    let mut bench = Bench::new();
    for (line, least, most) in [
        ("BF.RESERVE f 0.01 1000000", 1 << 20, 2 << 20),
        ("BF.RESERVE f 0.01 1000000000", 1 << 30, 2 << 30),
        ("BF.RESERVE f wrong 1000000", 0, 0),
        ("BF.ADD f x", 100, 700),
        ("BF.INSERT f CAPACITY 1000000 ITEMS x", 1 << 20, 2 << 20),
        ("BF.INSERT f CAPACITY 1000000 NOCREATE ITEMS x", 0, 0),
        ("CF.RESERVE f 1000000", 1 << 20, 2 << 20),
        ("CF.ADD f x", 1024, 2048),
        ("CF.INSERT f CAPACITY 1000000 ITEMS x", 1 << 20, 2 << 20),
    ] {
        let growth = bench.growth(line);
        assert!((least..=most).contains(&growth), "{line}: {growth}");
    }
    bench.run("BF.RESERVE b 0.01 3 EXPANSION 1000");
    bench.run("CF.RESERVE c 4 BUCKETSIZE 1 EXPANSION 4");
    assert_eq!(bench.growth("BF.MADD b x y z"), 0);
    bench.run("BF.MADD b x y z");
    assert!((4000..8000).contains(&bench.growth("BF.ADD b w")));
    assert_eq!(bench.growth("CF.ADD c x"), 0);
    bench.run("CF.INSERT c ITEMS x x");
    assert!(bench.growth("CF.ADD c x") >= 16);
}
