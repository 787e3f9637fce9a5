//! Data move from a real Redis to Dormouse and back: as RDB files, through a running server, key by key with DUMP and
//! RESTORE. What arrives is compared with what left, every key with its type, its content and its expiry.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Output, Stdio},
};

use dormouse_client_tests::{
    Kind, Server, Settings,
    resp::{Connection, Reply, request},
    server::tool,
    toolchain,
};

/// Milliseconds: in the year 2100.
const FAR: u64 = 4_102_444_800_000;

/// Index and key; type, expiry, and content in an order of its own where it has none.
type Data = BTreeMap<(u8, Vec<u8>), (Vec<u8>, i64, Vec<Reply>)>;

/// A redis-server that keeps nothing unless it is told to; nothing where there is none.
fn redis() -> Option<Server> {
    let present =
        Kind::under_test() == Kind::Dormouse && toolchain::present("RDB", &[("redis-server", "redis-server")]);
    present.then(|| Server::start_with(Kind::Redis, Settings::default()))
}

fn dormouse() -> Server {
    Server::start_with(Kind::Dormouse, Settings::default())
}

fn data(port: u16) -> Data {
    let mut connection = Connection::open(port);
    let mut data = Data::new();
    for index in 0..16 {
        connection.run(&format!("SELECT {index}"));
        let keys = connection.run("KEYS *");
        for key in keys.items().expect("a list of keys") {
            let key = key.bytes().expect("a key").to_vec();
            let value = content(&mut connection, &key);
            data.insert((index, key), value);
        }
    }
    data
}

fn content(connection: &mut Connection, key: &[u8]) -> (Vec<u8>, i64, Vec<Reply>) {
    let kind = connection.call(&[b"TYPE", key]).bytes().expect("a type").to_vec();
    let expiry = connection.call(&[b"PEXPIRETIME", key]).number().expect("a time") as i64;
    let words: &[&[u8]] = match &kind[..] {
        b"string" => &[b"GET", key],
        b"list" => &[b"LRANGE", key, b"0", b"-1"],
        b"set" => &[b"SMEMBERS", key],
        b"hash" => &[b"HGETALL", key],
        b"zset" => &[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"],
        other => panic!("a key of type {}", other.escape_ascii()),
    };
    let reply = connection.call(words);
    let mut content = reply.items().map_or_else(|| vec![reply.clone()], <[Reply]>::to_vec);
    match &kind[..] {
        b"set" => content.sort(),
        b"hash" => {
            let mut pairs: Vec<_> = content.chunks(2).map(<[Reply]>::to_vec).collect();
            pairs.sort();
            content = pairs.concat();
        }
        // Redis 7.0 prints scores with 17 digits, 7.2 the shortest that read back the same.
        b"zset" => {
            for score in content.iter_mut().skip(1).step_by(2) {
                let number = score.number().expect("a score");
                *score = Reply::Line(',', format!("{number:?}"));
            }
        }
        _ => {}
    }
    (kind, expiry, content)
}

#[track_caller]
fn assert_same(found: &Data, expected: &Data) {
    for (key, value) in expected {
        let (index, name) = (key.0, key.1.escape_ascii());
        match found.get(key) {
            None => panic!("key {name} of index {index} is missing"),
            Some(found) if found != value => panic!("key {name} of index {index} is {found:?}, not {value:?}"),
            Some(_) => {}
        }
    }
    assert_eq!(found.len(), expected.len(), "there are keys too many");
}

/// Sends commands without waiting for each reply, and checks that none is an error.
struct Pipeline {
    connection: Connection,
    requests: Vec<u8>,
    sent: usize,
}

impl Pipeline {
    fn open(port: u16) -> Self {
        Self { connection: Connection::open(port), requests: Vec::new(), sent: 0 }
    }

    fn add<W: AsRef<[u8]>>(&mut self, words: &[W]) {
        self.requests.extend(request(words));
        self.sent += 1;
        if self.requests.len() > 50_000 {
            self.finish();
        }
    }

    fn line(&mut self, line: &str) {
        self.add(&line.split_whitespace().collect::<Vec<_>>());
    }

    fn finish(&mut self) {
        self.connection.write(&std::mem::take(&mut self.requests)).expect("the server reads");
        for _ in 0..std::mem::take(&mut self.sent) {
            let reply = self.connection.read().expect("the server replies");
            assert!(!reply.is_error(), "{reply:?}");
        }
    }
}

/// Bytes that no compression shrinks.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 7u64;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..length).map(next).collect()
}

/// Keys of every type in every encoding, around every limit, in several indexes, some with an expiry.
fn fill(port: u16) {
    let mut redis = Pipeline::open(port);
    for index in [0, 5, 15] {
        redis.line(&format!("SELECT {index}"));
        for (at, number) in [
            "0",
            "-1",
            "127",
            "128",
            "-32769",
            "2147483648",
            "9223372036854775807",
            "-9223372036854775808",
            "007",
            "1.5",
        ]
        .into_iter()
        .enumerate()
        {
            redis.line(&format!("SET number:{at} {number}"));
            redis.line(&format!("SET {number} {number}"));
        }
        for (name, value) in [
            ("empty", Vec::new()),
            ("short", b"\0\xff\r\n".to_vec()),
            ("repeats", b"abc".repeat(5000)),
            ("noise", noise(30_000)),
            ("large", noise(2 << 20)),
        ] {
            redis.add(&[b"SET", name.as_bytes(), &value]);
            redis.add(&[b"RPUSH", format!("list {name}").as_bytes(), b"first", &value, &value, b"17"]);
            redis.add(&[b"HSET", format!("hash {name}").as_bytes(), b"f", &value, &value, b"g"]);
            redis.add(&[b"SADD", format!("set {name}").as_bytes(), b"f", &value]);
            redis.add(&[b"ZADD", format!("zset {name}").as_bytes(), b"0.1", b"f", b"inf", &value]);
        }
        redis.add(&[&b"SET"[..], b"\0binary\xff\r\nkey", b"v"]);
        redis.add(&[&b"SET"[..], b"", b"the empty key"]);
        for size in [1, 60, 127, 128, 129, 511, 513, 5000] {
            for element in 0..size {
                let (wide, word) = (element * 1_000_003_i64 * 40_000, format!("word {element}"));
                redis.line(&format!("RPUSH numbers:{size} {wide}"));
                redis.add(&["LPUSH", &format!("words:{size}"), &word]);
                redis.line(&format!("SADD narrow:{size} {element}"));
                redis.line(&format!("SADD wide:{size} {wide}"));
                redis.add(&["SADD", &format!("members:{size}"), &word]);
                redis.add(&["HSET", &format!("fields:{size}"), &word, &element.to_string()]);
                let score = (element as f64 - 100.0) / 7.0;
                redis.add(&["ZADD", &format!("scores:{size}"), &score.to_string(), &word]);
                redis.line(&format!("ZADD integers:{size} {} {element}", element % 10));
            }
            redis.line(&format!("ZADD scores:{size} -inf low inf high"));
        }
        for key in 0..3000 {
            redis.line(&format!("SET {{tag}}:{key} {key}"));
            redis.line(&format!("SET plain:{key} value:{key}"));
            if key % 3 == 0 {
                redis.line(&format!("PEXPIREAT plain:{key} {}", FAR + key));
            }
        }
        for key in ["numbers:60", "words:5000", "fields:1", "scores:513", "large"] {
            redis.line(&format!("PEXPIREAT {key} {FAR}"));
        }
    }
    redis.finish();
}

/// Runs a tool to its end.
fn run(arguments: &[&str]) -> Output {
    tool(arguments).stderr(Stdio::piped()).stdout(Stdio::piped()).output().expect("the tool runs")
}

/// Runs a tool that must succeed, and answers what it says.
#[track_caller]
fn succeeds(arguments: &[&str]) -> String {
    let output = run(arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}");
    said
}

/// Runs a tool that must fail, and answers what it says.
#[track_caller]
fn fails(arguments: &[&str]) -> String {
    let output = run(arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary folder has a plain name")
}

#[track_caller]
fn save(server: &Server) {
    assert_eq!(format!("{:?}", Connection::open(server.port()).run("SAVE")), "+OK");
}

#[test]
fn a_file_moves_in_and_out_again() {
    let Some(mut redis) = redis() else { return };
    fill(redis.port());
    save(&redis);
    let mut expected = data(redis.port());
    assert!(expected.len() > 18_000);
    let dump = redis.data().join("dump.rdb");

    let mut server = dormouse();
    assert!(server.stop().success());
    let store = format!("file://{}", server.data().display());
    let said = succeeds(&["import", text(&dump), "--store", &store]);
    assert!(said.contains("keys/s") && said.contains("database `default`"), "{said}");
    let said = fails(&["import", text(&dump), "--store", &store]);
    assert!(said.contains("holds data already") && said.contains("--replace"), "{said}");
    server.resume();
    assert_same(&data(server.port()), &expected);

    // What changes afterwards is in the export, too, as soon as it is saved.
    let mut connection = Connection::open(server.port());
    for line in ["SET plain:0 new", "DEL plain:1", "SELECT 9", "RPUSH fresh a b c"] {
        assert!(!connection.run(line).is_error());
    }
    save(&server);
    expected = data(server.port());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("out.rdb");
    for version in ["9", "10"] {
        let said = succeeds(&["export", text(&file), "--store", &store, "--rdb-version", version]);
        assert!(said.contains("exported") && said.contains("keys/s"), "{said}");
        assert_eq!(fs::read_dir(folder.path()).expect("it is ours").count(), 1, "a temporary file is left");
        assert!(redis.stop().success());
        fs::copy(&file, &dump).expect("the folder is ours");
        redis.resume();
        assert_same(&data(redis.port()), &expected);
    }
    // Redis 7.0 does not know the version that 7.2 has; but we do.
    succeeds(&["export", text(&file), "--store", &store]);
    assert!(fs::read(&file).expect("it is there").starts_with(b"REDIS0011"));
    let again = tempfile::tempdir().expect("a temporary folder");
    let store = format!("file://{}", again.path().display());
    succeeds(&["import", text(&file), "--store", &store]);
    let file = folder.path().join("again.rdb");
    succeeds(&["export", text(&file), "--store", &store, "--rdb-version", "10"]);
    assert!(redis.stop().success());
    fs::copy(&file, &dump).expect("the folder is ours");
    redis.resume();
    assert_same(&data(redis.port()), &expected);
}

#[test]
fn a_file_moves_in_through_a_running_server() {
    let Some(redis) = redis() else { return };
    fill(redis.port());
    save(&redis);
    let expected = data(redis.port());
    let dump = redis.data().join("dump.rdb");
    let server = Server::start_with(Kind::Dormouse, Settings { tokens: &["dm_shop_secret"], ..Settings::default() });
    let url = format!("redis://:dm_shop_secret@127.0.0.1:{}", server.port());
    let said = fails(&["import", text(&dump), "--to", &url.replace("secret", "wrong")]);
    assert!(said.contains("refuses") && !said.contains("wrong"), "{said}");
    let said = succeeds(&["import", text(&dump), "--to", &url]);
    assert!(said.contains("keys/s"), "{said}");
    let said = fails(&["import", text(&dump), "--to", &url]);
    assert!(said.contains("is there already") && said.contains("--replace"), "{said}");
    succeeds(&["import", text(&dump), "--to", &url, "--replace"]);
    let said = fails(&["import", text(&dump), "--to", &format!("{url}/3")]);
    assert!(said.contains("cannot all go into index 3"), "{said}");

    let other = Server::start_with(Kind::Dormouse, Settings::default());
    succeeds(&["import", text(&dump), "--to", &format!("redis://127.0.0.1:{}", other.port())]);
    assert_same(&data(other.port()), &expected);
    // The store is the running server's.
    let store = format!("file://{}", other.data().display());
    let said = fails(&["import", text(&dump), "--store", &store, "--replace"]);
    assert!(said.contains("--to redis://"), "{said}");
    let mut connection = Connection::open(server.port());
    connection.run("AUTH dm_shop_secret");
    let keys = expected.keys().filter(|(index, _)| *index == 0).count();
    assert_eq!(connection.run("DBSIZE").number(), Some(keys as f64));
}

#[test]
fn what_cannot_be_taken_is_named() {
    let Some(redis) = redis() else { return };
    let mut connection = Connection::open(redis.port());
    for line in [
        "SET before 1",
        "XADD events:1 1-1 f v",
        "XADD events:1 1-2 f v g w",
        "XADD events:1 2-1 other fields",
        "XDEL events:1 1-2",
        "XGROUP CREATE events:1 idle 0",
        "XGROUP CREATE events:1 busy 0",
        "XGROUP CREATECONSUMER events:1 busy nobody",
        "XREADGROUP GROUP busy somebody COUNT 5 STREAMS events:1 >",
        "XACK events:1 busy 1-1",
        "XADD events:2 * f v",
        "SET after 2",
    ] {
        assert!(!connection.run(line).is_error());
    }
    save(&redis);
    let dump = redis.data().join("dump.rdb");
    let mut server = dormouse();
    let url = format!("redis://127.0.0.1:{}", server.port());
    for arguments in [&["--to", &url][..], &["--store", &format!("file://{}", server.data().display())]] {
        if arguments[0] == "--store" {
            assert!(server.stop().success());
        }
        let said = fails(&[&["import", text(&dump)], arguments].concat());
        for part in ["`events:1`: a stream", "`events:2`: a stream", "nothing was imported", "--skip-unsupported"] {
            assert!(said.contains(part), "{said}");
        }
        if arguments[0] == "--store" {
            server.resume();
        }
        let mut connection = Connection::open(server.port());
        assert_eq!(connection.run("DBSIZE").number(), Some(0.0));
        if arguments[0] == "--store" {
            assert!(server.stop().success());
        }
        let said = succeeds(&[&["import", text(&dump), "--skip-unsupported"], arguments].concat());
        assert!(said.contains("events:1") && said.contains("2 left out"), "{said}");
        if arguments[0] == "--store" {
            server.resume();
        }
        let mut connection = Connection::open(server.port());
        assert_eq!(connection.run("DBSIZE").number(), Some(2.0));
        assert_eq!(connection.run("MGET before after").items().map(<[Reply]>::len), Some(2));
        connection.run("FLUSHALL");
    }
}

#[test]
fn damaged_files_change_nothing() {
    let Some(redis) = redis() else { return };
    let mut pipeline = Pipeline::open(redis.port());
    for key in 0..100 {
        pipeline.line(&format!("SET key:{key} {key}"));
    }
    pipeline.finish();
    save(&redis);
    let good = fs::read(redis.data().join("dump.rdb")).expect("Redis has saved");
    let mut server = dormouse();
    assert!(server.stop().success());
    let store = format!("file://{}", server.data().display());
    let file = redis.data().join("damaged.rdb");
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    for (bytes, complaint) in [
        (&good[..good.len() / 2], "ends too early"),
        (&flipped[..], ""),
        (&[&good[..], b"x"].concat(), "something behind the end"),
        (b"not an RDB", "not a Redis data set"),
        (b"", "ends too early"),
    ] {
        fs::write(&file, bytes).expect("the folder is ours");
        let said = fails(&["import", text(&file), "--store", &store]);
        assert!(said.contains("nothing was imported") && said.contains(complaint), "{said}");
    }
    let said = fails(&["import", "no such file", "--store", &store]);
    assert!(said.contains("cannot read no such file"), "{said}");
    let said = fails(&["export", "x", "--store", &store]);
    assert!(said.contains("there is no database `default`"), "{said}");
    server.resume();
    assert_eq!(Connection::open(server.port()).run("DBSIZE").number(), Some(0.0));
}

#[test]
fn standard_input_and_output() {
    let Some(redis) = redis() else { return };
    Connection::open(redis.port()).run("SET k v EX 10000");
    save(&redis);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = format!("file://{}", folder.path().display());
    let dump = fs::File::open(redis.data().join("dump.rdb")).expect("Redis has saved");
    let mut import = tool(&["import", "-", "--store", &store, "--database", "shop"]);
    assert!(import.stdin(dump).status().expect("the tool runs").success());
    let output = run(&["export", "-", "--store", &store, "--database", "shop"]);
    assert!(output.status.success());
    assert!(output.stdout.starts_with(b"REDIS0011") && output.stdout.windows(3).any(|part| part == b"\x01k\x01"));
    // A closed pipe is an error, not a panic.
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let export = tool(&["export", "-", "--store", &store, "--database", "shop"])
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .expect("the tool runs");
    let said = String::from_utf8_lossy(&export.stderr).into_owned();
    assert!(export.status.code() == Some(1) && said.contains("cannot write"), "{said}");
}

#[test]
fn payloads_of_redis_are_restored() {
    let Some(redis) = redis() else { return };
    fill(redis.port());
    let server = dormouse();
    let (mut theirs, mut ours) = (Connection::open(redis.port()), Connection::open(server.port()));
    theirs.run("SELECT 5");
    let keys = theirs.run("KEYS *");
    let mut restored = 0;
    for key in keys.items().expect("a list of keys").iter().map(|key| key.bytes().expect("a key")) {
        if key.starts_with(b"plain:") || key.starts_with(b"{tag}:") {
            continue;
        }
        restored += 1;
        let payload = theirs.call(&[b"DUMP", key]);
        let payload = payload.bytes().expect("a payload");
        assert_eq!(format!("{:?}", ours.call(&[b"RESTORE", key, b"0", payload])), "+OK");
        let expected = content(&mut theirs, key);
        let found = content(&mut ours, key);
        assert!((&found.0, &found.2) == (&expected.0, &expected.2), "{}", key.escape_ascii());
        // And ours to ourselves.
        let payload = ours.call(&[b"DUMP", key]);
        let payload = payload.bytes().expect("a payload");
        assert_eq!(payload[payload.len() - 10..payload.len() - 8], [11, 0]);
        assert_eq!(format!("{:?}", ours.call(&[b"RESTORE", key, b"0", payload, b"REPLACE"])), "+OK");
        assert!(content(&mut ours, key) == found, "{}", key.escape_ascii());
    }
    assert!(restored > 80);
}
