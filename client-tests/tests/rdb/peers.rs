//! Valkey 9.1.2 and Redis 8.10.2, as sources and as targets: data made by their own commands moves in as a file,
//! through a running server and key by key, and out again to both.

use std::{collections::BTreeMap, fs, path::Path};

use dormouse_client_tests::{
    Kind, Server,
    resp::{Connection, Reply, Words},
    script::{Script, Step},
};

use crate::data::{Data, FAR, Pipeline, assert_same, data, fill};
use crate::{dormouse, fails, peer, save, succeeds, text};

/// Steps of a random script that run before the rest.
const STEPS: usize = 4000;

/// Script commands about the server or the connection, which are not data.
const NOT_DATA: [&[u8]; 10] = [
    b"QUIT",
    b"RESET",
    b"HELLO",
    b"AUTH",
    b"CLIENT",
    b"CONFIG",
    b"SUBSCRIBE",
    b"PSUBSCRIBE",
    b"SSUBSCRIBE",
    b"SHUTDOWN",
];

#[test]
fn moves_from_and_to_valkey() {
    moves(Kind::Valkey, b"VALKEY080");
}

#[test]
fn moves_from_and_to_redis8() {
    moves(Kind::Redis8, b"REDIS0015");
}

fn moves(kind: Kind, header: &[u8]) {
    let Some(mut source) = peer(kind) else { return };
    write(source.port(), kind);
    save(&source);
    let expected = data(source.port());
    assert!(expected.len() > 1000, "{} keys", expected.len());
    let dump = source.data().join("dump.rdb");
    assert!(fs::read(&dump).expect("the source has saved").starts_with(header));

    let mut server = dormouse();
    assert!(server.stop().success());
    let store = format!("file://{}", server.data().display());
    succeeds(&["import", text(&dump), "--store", &store]);
    server.resume();
    assert_same(&data(server.port()), &expected);

    let online = dormouse();
    succeeds(&["import", text(&dump), "--to", &format!("redis://127.0.0.1:{}", online.port())]);
    assert_same(&data(online.port()), &expected);
    exchange(&expected, source.port(), online.port());
    assert_same(&data(online.port()), &expected);
    assert_same(&data(source.port()), &expected);

    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("out.rdb");
    succeeds(&["export", text(&file), "--store", &store]);
    load(&mut source, &file);
    assert_same(&data(source.port()), &expected);
    for (kind, version) in [(Kind::Valkey, "11"), (Kind::Redis8, "11"), (Kind::Redis, "10")] {
        let Some(mut target) = Some(kind).filter(|kind| *kind != source.kind()).and_then(peer) else { continue };
        succeeds(&["export", text(&file), "--store", &store, "--rdb-version", version]);
        load(&mut target, &file);
        assert_same(&data(target.port()), &expected);
    }
    for (kind, version, header) in OWN_VERSIONS {
        let Some(mut target) = peer(*kind) else { continue };
        succeeds(&["export", text(&file), "--store", &store, "--rdb-version", version]);
        assert!(fs::read(&file).expect("it is there").starts_with(header));
        load(&mut target, &file);
        assert_same(&data(target.port()), &expected);
    }
}

/// The newest version of RDB that each server reads.
const OWN_VERSIONS: &[(Kind, &str, &[u8])] = &[(Kind::Valkey, "80", b"VALKEY080"), (Kind::Redis8, "15", b"REDIS0015")];

/// A file for a server holds everything that the server has: streams with their groups, expiries of fields, functions. The
/// rest is named.
#[test]
fn each_server_loads_a_file_of_its_own_version() {
    let mut server = dormouse();
    let mut connection = Connection::open(server.port());
    let library = "#!lua name=lib\nredis.register_function('f', function() return 7 end)";
    assert!(!connection.call(&["FUNCTION", "LOAD", library]).is_error());
    for line in [
        "SET text v",
        "SET timed v PXAT 4102444800000",
        "RPUSH list a b c",
        "SADD set a b 3",
        "SADD numbers 1 2 3",
        "ZADD zset 1.5 a 2 b",
        "HSET hash f v g w",
        "HSET fields f v g w h x",
        "HPEXPIREAT fields 4102444800000 FIELDS 2 f h",
        "XADD stream 1-1 f v",
        "XADD stream 1-2 f v g w",
        "XADD stream 2-1 other fields",
        "XDEL stream 1-2",
        "XGROUP CREATE stream idle 0",
        "XGROUP CREATE stream busy 0",
        "XREADGROUP GROUP busy reader COUNT 1 STREAMS stream >",
        "SELECT 3",
        "SET other v",
        "BF.ADD bloom item",
        "BF.ADD bloom:2 item",
        "CF.ADD cuckoo item",
    ] {
        assert!(!connection.run(line).is_error(), "{line}");
    }
    let expected = [shown(server.port(), 0), shown(server.port(), 3)];
    assert_eq!((expected[0].len(), expected[1].len()), (9, 4));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("out.rdb");
    assert!(server.stop().success());
    let store = format!("file://{}", server.data().display());
    for (kind, version, header) in OWN_VERSIONS {
        let Some(mut target) = peer(*kind) else { continue };
        let said = succeeds(&["export", text(&file), "--store", &store, "--rdb-version", version]);
        let named = |name: &str| said.contains(&format!("`{name}` of index 3"));
        assert!(named("bloom") && named("bloom:2") && named("cuckoo"), "{said}");
        assert!(said.contains("left out: 2 keys of type MBbloom--"), "{said}");
        assert!(said.contains("left out: 1 key of type MBbloomCF"), "{said}");
        assert!(fs::read(&file).expect("it is there").starts_with(header));
        load(&mut target, &file);
        assert_eq!(shown(target.port(), 0), expected[0], "{kind:?}");
        assert_eq!(shown(target.port(), 3).keys().collect::<Vec<_>>(), ["other"]);
        assert_eq!(Connection::open(target.port()).run("FCALL f 0").number(), Some(7.0));
    }
    server.resume();
    assert_eq!(shown(server.port(), 3), expected[1]);
}

/// No version of RDB has documents of JSON: they are named, or become strings, also those that are stored in pieces.
#[test]
fn documents_are_left_out_or_become_strings() {
    let mut server = dormouse();
    let mut connection = Connection::open(server.port());
    let (small, large) = (r#"{"a":[1,2.5,"x"]}"#, format!("[{}0]", "1234567,".repeat(400_000)));
    for (key, text) in [("small", small), ("large", &large)] {
        assert!(!connection.call(&["JSON.SET", key, "$", text]).is_error());
    }
    assert!(!connection.run("SET plain v").is_error());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("out.rdb");
    assert!(server.stop().success());
    let store = format!("file://{}", server.data().display());
    let said = succeeds(&["export", text(&file), "--store", &store]);
    assert!(said.contains("left out: 2 keys of type ReJSON-RL") && said.contains("--json-as-string"), "{said}");
    for (kind, version, _) in OWN_VERSIONS {
        let Some(mut target) = peer(*kind) else { continue };
        let said = succeeds(&["export", text(&file), "--store", &store, "--rdb-version", version, "--json-as-string"]);
        assert!(!said.contains("left out"), "{said}");
        load(&mut target, &file);
        let mut target = Connection::open(target.port());
        assert_eq!(target.run("DBSIZE").number(), Some(3.0));
        assert_eq!(target.run("GET small").bytes(), Some(small.as_bytes()));
        assert_eq!(target.run("GET large").bytes(), Some(large.as_bytes()));
    }
}

/// Everything of each key of an index, as replies.
fn shown(port: u16, index: u8) -> BTreeMap<String, Vec<String>> {
    let mut connection = Connection::open(port);
    connection.run(&format!("SELECT {index}"));
    let keys = connection.run("KEYS *");
    let mut shown = BTreeMap::new();
    for key in keys.items().expect("a list of keys").iter().filter_map(|key| key.bytes()) {
        let key = String::from_utf8_lossy(key).into_owned();
        let kind = connection.run(&format!("TYPE {key}"));
        let kind = String::from_utf8_lossy(kind.bytes().expect("a type")).into_owned();
        let lines: &[&str] = match kind.as_str() {
            "string" => &["GET #"],
            "list" => &["LRANGE # 0 -1"],
            "set" => &["SMEMBERS #"],
            "hash" => &["HGETALL #", "HPEXPIRETIME # FIELDS 3 f g h"],
            "zset" => &["ZRANGE # 0 -1 WITHSCORES"],
            "stream" => &[
                "XRANGE # - +",
                "XPENDING # busy",
                "XPENDING # idle",
                "XREADGROUP GROUP busy reader STREAMS # 0",
                "XADD # NOMKSTREAM MAXLEN 100 2-0 f v",
            ],
            "MBbloom--" => &["BF.INFO #", "BF.EXISTS # item"],
            "MBbloomCF" => &["CF.INFO #", "CF.EXISTS # item"],
            other => panic!("a key of type {other}"),
        };
        let mut values: Vec<String> = vec![kind, format!("{:?}", connection.run(&format!("PEXPIRETIME {key}")))];
        for line in lines {
            let reply = connection.run(&line.replace('#', &key));
            let mut items = reply.items().map_or_else(|| vec![reply.clone()], <[Reply]>::to_vec);
            if line.starts_with("SMEMBERS") {
                items.sort();
            }
            values.push(format!("{items:?}"));
        }
        shown.insert(key, values);
    }
    shown
}

/// A group may have read more than was ever added, by its command. Redis 8.10 loads no such stream, and ends instead.
#[test]
fn redis8_loads_a_group_that_has_read_too_much() {
    let Some(mut target) = peer(Kind::Redis8) else { return };
    let mut server = dormouse();
    let mut connection = Connection::open(server.port());
    for line in ["XADD s 1-1 f v", "XGROUP CREATE s g 0 ENTRIESREAD 1000"] {
        assert!(!connection.run(line).is_error(), "{line}");
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("out.rdb");
    assert!(server.stop().success());
    succeeds(&["export", text(&file), "--store", &format!("file://{}", server.data().display())]);
    load(&mut target, &file);
    assert_eq!(Connection::open(target.port()).run("XLEN s").number(), Some(1.0));
}

/// Sends each key as a payload from there to here, and as another back.
fn exchange(keys: &Data, there: u16, here: u16) {
    let (mut there, mut here) = (Connection::open(there), Connection::open(here));
    let mut selected = None;
    for ((index, key), (_, expiry, _)) in keys {
        if selected.replace(*index) != Some(*index) {
            there.run(&format!("SELECT {index}"));
            here.run(&format!("SELECT {index}"));
        }
        let expiry = (*expiry).max(0).to_string();
        let mut pass = |from: bool| {
            let (from, to) = if from { (&mut there, &mut here) } else { (&mut here, &mut there) };
            let payload = from.call(&[b"DUMP", &key[..]]);
            let payload = payload.bytes().expect("the key is there");
            let restored = to.call(&[b"RESTORE", &key[..], expiry.as_bytes(), payload, b"REPLACE", b"ABSTTL"]);
            assert_eq!(format!("{restored:?}"), "+OK", "{}", key.escape_ascii());
        };
        pass(true);
        pass(false);
    }
}

/// Restarts a server with a file as its data.
fn load(server: &mut Server, file: &Path) {
    assert!(server.stop().success());
    fs::copy(file, server.data().join("dump.rdb")).expect("the folder is ours");
    server.resume();
}

/// Writes every type in every encoding, by commands of every age.
fn write(port: u16, kind: Kind) {
    let mut connection = Connection::open(port);
    // One policy records when a key was last used, the other how often.
    let policy = if kind == Kind::Redis8 { "allkeys-lfu" } else { "allkeys-lru" };
    assert!(!connection.run(&format!("CONFIG SET maxmemory-policy {policy}")).is_error());
    let mut script = Script::new(7);
    for _ in 0..STEPS {
        for words in script.next().map(commands).into_iter().flatten() {
            // Many commands are wrong on purpose.
            drop(connection.call(&words));
        }
    }
    fill(port, &[0, 9], 300);
    newer(&mut Pipeline::open(port), kind);
}

fn commands(step: Step) -> Vec<Words> {
    let mut commands = match step {
        Step::Command(words) | Step::Draw { draw: words, .. } | Step::Expiry { command: words, .. } => vec![words],
        Step::Transaction { commands, end } => {
            [vec![vec![b"MULTI".to_vec()]], commands, vec![vec![end.as_bytes().to_vec()]]].concat()
        }
        Step::Watched { other, command, .. } => vec![other, command],
        Step::Iteration { .. } | Step::Inventory => Vec::new(),
    };
    commands.retain(|words| words.first().is_some_and(|name| !NOT_DATA.contains(&&name.to_ascii_uppercase()[..])));
    commands
}

/// Sends commands newer than 7.2.
fn newer(pipeline: &mut Pipeline, kind: Kind) {
    let long = "long ".repeat(30);
    for size in [1, 3, 100, 600] {
        for element in 0..size {
            let (field, value) = (format!("field {element}"), format!("value {element}"));
            pipeline.add(&["HSET", &format!("persisted:{size}"), &field, &value, &element.to_string(), "17"]);
        }
        // Its fields have had an expiry once, and have none any more.
        pipeline.add(&["HPEXPIREAT", &format!("persisted:{size}"), &FAR.to_string(), "FIELDS", "2", "field 0", "0"]);
        pipeline.add(&["HPERSIST", &format!("persisted:{size}"), "FIELDS", "2", "field 0", "0"]);
    }
    pipeline.add(&["HSET", "persisted:long", "f", &long, "g", "1"]);
    pipeline.add(&["HEXPIRE", "persisted:long", "1000", "FIELDS", "1", "f"]);
    pipeline.add(&["HPERSIST", "persisted:long", "FIELDS", "1", "f"]);
    for line in [
        "HSETEX newer:hash FIELDS 3 f 1 g 2 h 3",
        "HGETDEL newer:hash FIELDS 1 g",
        "HINCRBYFLOAT newer:hash f 0.5",
        "MSETEX 2 newer:a 1 newer:b 2 EX 100000",
        "MSETEX 1 newer:c 3",
        "SET newer:c 4 IFEQ 3",
        "RPUSH newer:list a b c d e",
    ] {
        pipeline.line(line);
    }
    let own: &[&str] = match kind {
        Kind::Valkey => &["SET newer:d 1", "DELIFEQ newer:d 1"],
        _ => &[
            "LMOVEM newer:list newer:moved LEFT RIGHT COUNT 2 BULK",
            "INCREX newer:count BYINT 5 EX 100000",
            "SET newer:c 6 IFNE 5",
            "SET newer:d 1",
            "DELEX newer:d IFEQ 1",
            "HIMPORT PREPARE person name age",
            "HIMPORT SET person:1 person dora 41",
            "HIMPORT SET person:2 person emil seven",
            "HIMPORT SET person:3 person 1 2",
            "HSET person:3 age 3",
            "HIMPORT SET person:4 person fred 8",
            "HSET person:4 more 1",
            "PEXPIREAT person:1 4102444800000",
        ],
    };
    own.iter().for_each(|line| pipeline.line(line));
    if kind == Kind::Redis8 {
        pipeline.add(&["HIMPORT", "SET", "person:long", "person", &long, "40"]);
        let numbers: Vec<String> = (0..700).map(|number| number.to_string()).collect();
        let words = |first: &[&str]| {
            let first = first.iter().map(|word| (*word).to_owned());
            first.chain(numbers.iter().cloned()).collect::<Vec<_>>()
        };
        pipeline.add(&words(&["HIMPORT", "PREPARE", "many"]));
        pipeline.add(&words(&["HIMPORT", "SET", "many:1", "many"]));
        pipeline.add(&["HIMPORT", "PREPARE", "long", &long, "short"]);
        pipeline.add(&["HIMPORT", "SET", "long:1", "long", "1", &long]);
    }
    pipeline.finish();
}

/// Hashes whose fields expire move in with the expiries: as a file, through a running server, and key by key.
#[test]
fn expiries_of_fields_move() {
    for kind in [Kind::Valkey, Kind::Redis8] {
        let Some(mut source) = peer(kind) else { continue };
        let mut pipeline = Pipeline::open(source.port());
        for size in [1, 3, 100, 700] {
            let key = format!("expires:{size}");
            for field in 0..size {
                pipeline.add(&["HSET", &key, &format!("field {field}"), &field.to_string()]);
            }
            for field in (0..size).step_by(3) {
                let (at, field) = ((FAR + field * 7919 % 1000).to_string(), format!("field {field}"));
                pipeline.add(&["HPEXPIREAT", &key, &at, "FIELDS", "1", &field]);
            }
        }
        pipeline.add(&["HSETEX", "expires:long", "PXAT", &FAR.to_string(), "FIELDS", "1", "f", &"long ".repeat(30)]);
        pipeline.line("HSETEX expires:all PXAT 4102444800000 FIELDS 2 a 1 b 2");
        pipeline.line("PEXPIREAT expires:all 4102444800000");
        pipeline.finish();
        save(&source);
        let expected = expiries(source.port());
        assert_eq!(expected.len(), 6);
        let dump = source.data().join("dump.rdb");
        let mut server = dormouse();
        succeeds(&["import", text(&dump), "--to", &format!("redis://127.0.0.1:{}", server.port())]);
        assert_eq!(expiries(server.port()), expected);
        assert!(!Connection::open(server.port()).run("FLUSHALL").is_error());
        let (mut theirs, mut ours) = (Connection::open(source.port()), Connection::open(server.port()));
        for key in expected.keys() {
            let payload = theirs.call(&[b"DUMP", &key[..]]);
            let restored = ours.call(&[b"RESTORE", &key[..], b"0", payload.bytes().expect("the key is there")]);
            assert_eq!(format!("{restored:?}"), "+OK", "{}", key.escape_ascii());
            if kind == Kind::Redis8 {
                let payload = ours.call(&[b"DUMP", &key[..]]);
                let restored =
                    theirs.call(&[b"RESTORE", &key[..], b"0", payload.bytes().expect("it is there"), b"REPLACE"]);
                assert_eq!(format!("{restored:?}"), "+OK", "{}", key.escape_ascii());
            }
        }
        assert_eq!(expiries(server.port()), expected);
        assert_eq!(expiries(source.port()), expected);
        assert!(!Connection::open(server.port()).run("FLUSHALL").is_error());
        assert!(server.stop().success());
        let store = format!("file://{}", server.data().display());
        succeeds(&["import", text(&dump), "--store", &store, "--replace"]);
        server.resume();
        assert_eq!(expiries(server.port()), expected);
        assert!(server.stop().success());
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("out.rdb");
        assert!(fails(&["export", text(&file), "--store", &store, "--rdb-version", "10"]).contains("expire"));
        succeeds(&["export", text(&file), "--store", &store]);
        if kind == Kind::Redis8 {
            load(&mut source, &file);
            assert_eq!(expiries(source.port()), expected);
        }
        for (kind, version, _) in OWN_VERSIONS {
            let Some(mut target) = peer(*kind) else { continue };
            succeeds(&["export", text(&file), "--store", &store, "--rdb-version", version]);
            load(&mut target, &file);
            assert_eq!(expiries(target.port()), expected, "{kind:?}");
        }
    }
}

/// Hashes by key: each field with its value and its expiry.
fn expiries(port: u16) -> BTreeMap<Vec<u8>, Vec<String>> {
    let mut connection = Connection::open(port);
    let keys = connection.run("KEYS *");
    let keys: Words =
        keys.items().expect("a list of keys").iter().filter_map(|key| Some(key.bytes()?.to_vec())).collect();
    let mut hashes = BTreeMap::new();
    for key in keys {
        let fields = connection.call(&[b"HKEYS", &key[..]]);
        let mut shown: Vec<String> = Vec::new();
        for field in fields.items().expect("a list of fields").iter().filter_map(|field| field.bytes()) {
            let value = connection.call(&[b"HGET", &key[..], field]);
            let expiry = connection.call(&[b"HPEXPIRETIME", &key[..], b"FIELDS", b"1", field]);
            shown.push(format!("{}: {value:?} until {expiry:?}", field.escape_ascii()));
        }
        shown.sort();
        hashes.insert(key, shown);
    }
    hashes
}

/// Arrays of Redis 8.10 arrive, small and large, with their cursors, by file and by payload.
#[test]
fn arrays_arrive() {
    let Some(source) = peer(Kind::Redis8) else { return };
    let mut pipeline = Pipeline::open(source.port());
    for line in
        ["ARSET array 0 zero one 2 3.5", "ARSET far 18446744073709551614 v", "ARRING ring 3 a b c d", "ARSEEK far 7"]
    {
        pipeline.line(line);
    }
    let all: Vec<String> = (0..30_000).map(|n| format!("value:{n}")).collect();
    for (at, some) in all.chunks(1000).enumerate() {
        let index = (1500 * at).to_string();
        let words: Vec<&str> = ["ARSET", "large", &index].into_iter().chain(some.iter().map(String::as_str)).collect();
        pipeline.add(&words);
    }
    pipeline.finish();
    save(&source);
    let dump = source.data().join("dump.rdb");
    let mut server = dormouse();
    let url = format!("redis://127.0.0.1:{}", server.port());
    let store = format!("file://{}", server.data().display());
    let mut theirs = Connection::open(source.port());
    let mut compare = |ours: &mut Connection| {
        for key in ["array", "far", "ring", "large"] {
            for line in [format!("ARSCAN {key} 0 18446744073709551614"), format!("ARNEXT {key}"), format!("DUMP {key}")]
            {
                assert!(ours.run(&line) == theirs.run(&line), "{line}");
            }
            let payload = theirs.run(&format!("DUMP {key}"));
            let payload = payload.bytes().expect("the key is there");
            let restored = ours.call(&[b"RESTORE", key.as_bytes(), b"0", payload, b"REPLACE"]);
            assert_eq!(format!("{restored:?}"), "+OK");
        }
    };
    succeeds(&["import", text(&dump), "--to", &url]);
    let mut ours = Connection::open(server.port());
    compare(&mut ours);
    ours.run("FLUSHALL");
    assert!(server.stop().success());
    succeeds(&["import", text(&dump), "--store", &store]);
    server.resume();
    compare(&mut Connection::open(server.port()));
}

/// By file and by payload, and back by payload, with what searches find.
#[test]
fn vector_sets_of_redis8_go_both_ways() {
    let Some(source) = peer(Kind::Redis8) else { return };
    let mut theirs = Connection::open(source.port());
    let sets = [("bytes", ""), ("floats", "NOQUANT"), ("bits", "BIN"), ("few", "M 4")];
    for (key, options) in sets {
        for at in 0..200 {
            let (x, y, z) = (at * 37 % 101 - 50, at * 53 % 103 - 50, at * 71 % 107 - 50);
            let attributes = if at % 3 == 0 { format!("SETATTR {{\"at\":{at}}}") } else { String::new() };
            theirs.run(&format!("VADD {key} VALUES 3 {x} {y} {z} element:{at} {options} {attributes}"));
        }
        assert_eq!(theirs.run(&format!("VREM {key} element:7")).number(), Some(1.0));
    }
    save(&source);
    let server = dormouse();
    let url = format!("redis://127.0.0.1:{}", server.port());
    succeeds(&["import", text(&source.data().join("dump.rdb")), "--to", &url]);
    let mut ours = Connection::open(server.port());
    for (key, _) in sets {
        let payload = theirs.run(&format!("DUMP {key}"));
        let payload = payload.bytes().expect("the key is there");
        assert!(!ours.call(&[&b"RESTORE"[..], b"restored", b"0", payload, b"REPLACE"]).is_error());
        let payload = ours.run(&format!("DUMP {key}"));
        let payload = payload.bytes().expect("the key is there");
        assert!(!theirs.call(&[&b"RESTORE"[..], b"restored", b"0", payload, b"REPLACE"]).is_error());
        for line in [
            "VSIM # ELE element:5 COUNT 1 WITHSCORES",
            "VSIM # VALUES 3 1 2 3 COUNT 1 TRUTH FILTER .at>50",
            "VEMB # element:9",
            "VEMB # element:9 RAW",
            "VGETATTR # element:9",
            "VRANGE # - +",
            "VLINKS # element:9",
            "VCARD #",
        ] {
            let expected = theirs.run(&line.replace('#', key));
            // Many vectors of few bits are alike.
            if key == "bits" && line.starts_with("VSIM") {
                continue;
            }
            // Redis orders the links of a set that it loads by their addresses.
            let is_same = |found: &Reply| match line.starts_with("VLINKS") {
                true => sorted(&format!("{found:?}")) == sorted(&format!("{expected:?}")),
                false => *found == expected,
            };
            let found = [&mut ours, &mut theirs].map(|server| server.run(&line.replace('#', "restored")));
            let imported = ours.run(&line.replace('#', key));
            for found in found.iter().chain([&imported]) {
                assert!(is_same(found), "{key}: {line}: {found:?}, Redis: {expected:?}");
            }
        }
    }
}

fn sorted(text: &str) -> Vec<char> {
    let mut letters: Vec<char> = text.chars().collect();
    letters.sort_unstable();
    letters
}
