//! Data move from a real Redis to Dormouse and back: as RDB files, through a running server, key by key with DUMP and
//! RESTORE. The arriving data is compared with the original, every key with its type, its content and its expiry.

mod data;
mod peers;

use std::{
    fs,
    path::Path,
    process::{Output, Stdio},
};

use dormouse_client_tests::{Kind, Server, Settings, resp::Connection, server::tool};

use crate::data::{Pipeline, assert_same, content, data, fill};

/// Starts a redis-server that saves only when told to. Returns nothing if it is missing.
fn redis() -> Option<Server> {
    peer(Kind::Redis)
}

/// Starts a server of this kind beside Dormouse. Returns nothing if it is missing.
fn peer(kind: Kind) -> Option<Server> {
    let present = Kind::under_test() == Kind::Dormouse && kind.is_present("RDB");
    present.then(|| Server::start_with(kind, Settings::default()))
}

fn dormouse() -> Server {
    Server::start_with(Kind::Dormouse, Settings::default())
}

/// Runs a tool to its end.
fn run(arguments: &[&str]) -> Output {
    tool(arguments).stderr(Stdio::piped()).stdout(Stdio::piped()).output().expect("the tool runs")
}

/// Runs a tool that must succeed, and returns its output.
#[track_caller]
fn succeeds(arguments: &[&str]) -> String {
    let output = run(arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}");
    said
}

/// Runs a tool that must fail, and returns its output.
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
    fill(redis.port(), &[0, 5, 15], 3000);
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

    // Later changes are in the export too, as soon as they are saved.
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
    // Redis 7.0 does not know 7.2's version, but Dormouse does.
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
    fill(redis.port(), &[0, 5, 15], 3000);
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
    // The running server owns the store.
    let store = format!("file://{}", other.data().display());
    let said = fails(&["import", text(&dump), "--store", &store, "--replace"]);
    assert!(said.contains("--to redis://"), "{said}");
    let mut connection = Connection::open(server.port());
    connection.run("AUTH dm_shop_secret");
    let keys = expected.keys().filter(|(index, _)| *index == 0).count();
    assert_eq!(connection.run("DBSIZE").number(), Some(keys as f64));
}

#[test]
fn streams_and_functions_are_taken() {
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
        "XDEL events:2 1-1",
        "XTRIM events:2 MAXLEN 0",
        "SET after 2",
    ] {
        assert!(!connection.run(line).is_error());
    }
    let library = "#!lua name=two\nredis.register_function('two', function() return 2 end)";
    assert!(!connection.call(&["FUNCTION", "LOAD", library]).is_error());
    save(&redis);
    let dump = redis.data().join("dump.rdb");
    let mut server = dormouse();
    let url = format!("redis://127.0.0.1:{}", server.port());
    for arguments in [&["--to", &url][..], &["--store", &format!("file://{}", server.data().display())]] {
        if arguments[0] == "--store" {
            assert!(server.stop().success());
        }
        succeeds(&[&["import", text(&dump)], arguments].concat());
        if arguments[0] == "--store" {
            server.resume();
        }
        let mut theirs = Connection::open(redis.port());
        let mut ours = Connection::open(server.port());
        assert_eq!(ours.run("DBSIZE").number(), Some(4.0));
        for key in ["events:1", "events:2"] {
            let payload = ours.run(&format!("DUMP {key}"));
            assert_eq!(payload.bytes().map(|payload| payload[0]), Some(21));
            assert_eq!(
                format!("{:?}", ours.run(&format!("TYPE {key}"))),
                format!("{:?}", theirs.run(&format!("TYPE {key}")))
            );
        }
        let libraries = |connection: &mut Connection| format!("{:?}", connection.run("FUNCTION LIST WITHCODE"));
        assert_eq!(libraries(&mut ours), libraries(&mut theirs));
        assert_eq!(ours.run("FCALL two 0").number(), Some(2.0));
        ours.run("FLUSHALL");
        if arguments[0] == "--to" {
            let said = fails(&["import", text(&dump), "--to", &url]);
            assert!(said.contains("the library `#!lua name=two`") && said.contains("--replace"), "{said}");
            succeeds(&["import", text(&dump), "--to", &url, "--replace"]);
            assert!(!ours.run("FUNCTION FLUSH").is_error());
            ours.run("FLUSHALL");
        }
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
        (&[&good[..], b"x"].concat(), "unexpected data after the end"),
        (b"not an RDB", "not a Redis data set"),
        (b"", "not a Redis data set"),
    ] {
        fs::write(&file, bytes).expect("the folder is ours");
        let absent = redis.data().join("absent");
        for store in [&store, &format!("file://{}", absent.display())] {
            let said = fails(&["import", text(&file), "--store", store]);
            assert!(said.contains("nothing was imported") && said.contains(complaint), "{said}");
        }
        assert!(!absent.exists(), "a failed import leaves a folder behind");
    }
    let said = fails(&["import", "no such file", "--store", &store]);
    assert!(said.contains("cannot read no such file"), "{said}");
    let said = fails(&["export", "x", "--store", &store]);
    assert!(said.contains("database `default` does not exist"), "{said}");
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
    fill(redis.port(), &[0, 5, 15], 3000);
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
        // Our payload also restores into our server.
        let payload = ours.call(&[b"DUMP", key]);
        let payload = payload.bytes().expect("a payload");
        assert_eq!(payload[payload.len() - 10..payload.len() - 8], [11, 0]);
        assert_eq!(format!("{:?}", ours.call(&[b"RESTORE", key, b"0", payload, b"REPLACE"])), "+OK");
        assert!(content(&mut ours, key) == found, "{}", key.escape_ascii());
    }
    assert!(restored > 80);
}
